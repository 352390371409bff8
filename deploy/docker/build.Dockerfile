# Compiles what the images contain, once; they copy from here (`make images`).
#
#   RUST_IMAGE   a Debian with the toolchain of rust-toolchain.toml
#   ARCH         amd64 or arm64: what the images are for. Another one than this machine's is compiled across.
ARG RUST_IMAGE=rust:1.95.0-bookworm

FROM ${RUST_IMAGE} AS toolchain
ARG ARCH=amd64
WORKDIR /build
COPY deploy/docker/target /usr/local/bin/target
COPY rust-toolchain.toml ./
RUN target install "${ARCH}" && cargo install cargo-chef --locked --version 0.1.77

FROM toolchain AS plan
COPY . .
RUN cargo chef prepare --recipe-path /recipe.json

# Dependencies change with the lock file, our own code with every commit: a layer for each.
FROM toolchain AS build
ARG ARCH=amd64
COPY --from=plan /recipe.json /recipe.json
RUN target dependencies "${ARCH}" /recipe.json
COPY . .
RUN target build "${ARCH}" /out

FROM scratch
COPY --from=build /out/ /
