# Every target is one line of what it does; the logic is in Rust. `make help` lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help need build run

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

need:
	@command -v cargo >/dev/null || { echo "error: cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
	@command -v python3 >/dev/null || { echo "error: python3 is missing: install Python 3.9 or newer" >&2; exit 1; }
	@test -d "$$(rustc --print target-libdir --target wasm32-wasip1 2>/dev/null)" || rustup target add wasm32-wasip1 || { echo "error: Rust cannot build for wasm32-wasip1: run \`rustup target add wasm32-wasip1\`" >&2; exit 1; }

build: need ## build the programs and the filter
	cargo build --package cli --package control-plane --package e2e --bins
	cargo build --release --package filter --target wasm32-wasip1

run: build ## start the whole stack on this machine (PORT_BASE=20000 shifts its ports); Ctrl-C stops it
	@cargo run --quiet --package cli --bin plant-gateway -- run
