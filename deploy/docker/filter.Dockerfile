# The filter as an OCI image in the compat layout, which Istio and Envoy Gateway load: one layer with one file.
#   BUILD_IMAGE, VERSION, REVISION    as of control-plane.Dockerfile
ARG BUILD_IMAGE=plant-gateway/build
FROM ${BUILD_IMAGE} AS build

FROM scratch
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Plant Gateway filter" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /plugin.wasm ./
