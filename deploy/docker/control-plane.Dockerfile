# The control plane and the command line. No shell, no package manager, no root; all it writes are log lines and, where it is told to, checkpoints.
#
#   BUILD_IMAGE          what build.Dockerfile makes
#   BASE_IMAGE           glibc, CA certificates and time zones; `tools/images` takes another for another architecture
#   VERSION, REVISION    labels
ARG BUILD_IMAGE=plant-gateway/build
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot
FROM ${BUILD_IMAGE} AS build

FROM ${BASE_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Plant Gateway control plane" \
      org.opencontainers.image.description="Policies, budgets, approvals and the audit log of Plant Gateway, and its command line" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /control-plane /plant-gateway /usr/local/bin/
USER 65532:65532
ENV ADMIN_LISTEN=0.0.0.0:8092 DATA_PLANE_LISTEN=0.0.0.0:8093 POLICIES_DIR=/policies SECRETS_DIR=/secrets
EXPOSE 8092 8093
HEALTHCHECK --interval=2s --timeout=30s --retries=3 CMD ["/usr/local/bin/control-plane", "health", "--start-s", "25"]
ENTRYPOINT ["/usr/local/bin/control-plane"]
