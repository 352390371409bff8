# A backend that answers with a picture of each request, for trying things out; and the relay of the compose profile `test`.
#
#   BUILD_IMAGE, BASE_IMAGE, VERSION, REVISION    as of control-plane.Dockerfile
ARG BUILD_IMAGE=plant-gateway/build
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot
FROM ${BUILD_IMAGE} AS build

FROM ${BASE_IMAGE}
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Plant Gateway echo backend" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /echo-backend /port-relay /usr/local/bin/
USER 65532:65532
EXPOSE 8091 8097
HEALTHCHECK --interval=2s --timeout=3s --start-period=10s --retries=3 CMD ["/usr/local/bin/echo-backend", "--health"]
ENTRYPOINT ["/usr/local/bin/echo-backend"]
CMD ["--listen", "0.0.0.0:8091", "--sandbox-listen", "0.0.0.0:8097"]
