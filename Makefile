# Every target is one line of what it does; the logic is in Rust. `make help` lists them.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help need build programs filter run demo images images-offline up down test-docker test check fmt lint native wasm e2e cases model bench chaos audit-chaos fuzz differential deny clean

GATEWAY := $(or $(CARGO_TARGET_DIR),target)/debug/plant-gateway
BINDGEN := .tools/wasm-bindgen/bin/wasm-bindgen-test-runner
BINDGEN_VERSION := $(shell awk '/^name = "wasm-bindgen"$$/ { getline; gsub(/[^0-9.]/, ""); print }' Cargo.lock)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

need:
	@command -v cargo >/dev/null || { echo "error: cargo is missing: install Rust from https://rustup.rs" >&2; exit 1; }
	@command -v python3 >/dev/null || { echo "error: python3 is missing: install Python 3.9 or newer" >&2; exit 1; }
	@test -d "$$(rustc --print target-libdir --target wasm32-wasip1 2>/dev/null)" || rustup target add wasm32-wasip1 || { echo "error: Rust cannot build for wasm32-wasip1: run \`rustup target add wasm32-wasip1\`" >&2; exit 1; }

build: programs filter ## build the programs and the filter

# Always of the whole workspace: other packages together have other features, and all dependencies would be compiled once more.
programs: need
	cargo build --workspace --bins

filter: need
	cargo build --release --package filter --target wasm32-wasip1

run: build ## start the whole stack on this machine (PORT_BASE=20000 shifts its ports); Ctrl-C stops it
	@$(GATEWAY) run

demo: build ## start the stack, send a request for every outcome, print a table, stop it (STATE=.run-compose/state.json: on what `make up` started)
	@$(GATEWAY) demo $(if $(STATE),--state $(STATE))

images: ## build the images with Docker alone; the base images come from their registries (ARCH=arm64: for another machine)
	./tools/images

IMAGE_PROFILE ?= image
IMAGE_PROGRAMS := --package control-plane --package cli --package e2e --bin control-plane --bin plant-gateway --bin echo-backend --bin port-relay

images-offline: build ## the same without a registry, as root: stand-ins for the base images, and programs that are compiled here
	@$(GATEWAY) stores -- true
	./tools/offline-images
	$(if $(filter dev,$(IMAGE_PROFILE)),,cargo build --profile $(IMAGE_PROFILE) $(IMAGE_PROGRAMS))
	./tools/images --from $(or $(CARGO_TARGET_DIR),target)/$(if $(filter dev,$(IMAGE_PROFILE)),debug,$(IMAGE_PROFILE))

up: ## start the stack from images, wait until all of it is healthy, show how to use it
	@./tools/compose up

down: ## stop it; data, secrets and logs stay (`make down DATA=remove` removes them)
	@./tools/compose $(if $(filter remove,$(DATA)),remove,down)

test-docker: ## the end-to-end suite on stacks of containers; `make images` or `make images-offline` first
	ENVOY_RUNTIME=compose $(MAKE) e2e

test: check native wasm e2e ## everything that CI checks
	@echo "all tests passed"

check: fmt lint ## format and lints

fmt:
	cargo fmt --all --check

lint: need
	cargo clippy --workspace --all-targets -- -D warnings
	cargo clippy --package filter --target wasm32-wasip1 -- -D warnings

native: build ## unit, property, golden and store tests, with a real Postgres and Valkey
	$(GATEWAY) stores -- cargo test --no-fail-fast --workspace --lib --bins --test '[!e]*'

wasm: need $(BINDGEN) ## decision-core and authn as wasm under Node
	@test -d "$$(rustc --print target-libdir --target wasm32-unknown-unknown 2>/dev/null)" || rustup target add wasm32-unknown-unknown
	PATH="$$(./tools/node-path):$$PATH" CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$(CURDIR)/$(BINDGEN) \
		cargo test --target wasm32-unknown-unknown --package decision-core --package authn --test wasm

$(BINDGEN):
	cargo install wasm-bindgen-cli --version $(BINDGEN_VERSION) --root .tools/wasm-bindgen --no-default-features

e2e: build ## the compiled filter in a real Envoy, with all real parts, and pages in a real browser
	./tools/browser
	cargo test --no-fail-fast --workspace --test envoy --test echo $(if $(filter compose,$(ENVOY_RUNTIME)),-- --include-ignored)

cases: ## the golden cases alone
	cargo test --package authoring --test golden

model: ## the lease protocol in every order of events, large configurations too; prints states and the paths to built-in faults
	cargo test --package lease-model -- --include-ignored --nocapture

bench: build ## CPU per request beside Envoy's own filters, of single decisions and of records; writes bench/results/latest.json
	cargo run --quiet --package bench --bin gateway-bench
	PATH="$$(./tools/node-path):$$PATH" && export PATH CARGO_TARGET_WASM32_WASIP1_RUNNER="node --no-warnings $(CURDIR)/tools/wasi.mjs" && \
		cargo run --quiet --release --target wasm32-wasip1 --package decision-core --example decide && \
		cargo run --quiet --release --target wasm32-wasip1 --package decision-core --example leases && \
		cargo run --quiet --release --target wasm32-wasip1 --package metering --example speed && \
		cargo run --quiet --release --target wasm32-wasip1 --package rules --example memo
	cargo run --quiet --package e2e --bin budget-bench
	cargo run --quiet --package e2e --bin stream-bench
	cargo run --quiet --package e2e --bin audit-bench
	$(GATEWAY) stores -- cargo run --quiet --package control-plane --example audit_ingest

CYCLES ?= 100

chaos: build ## kill, halt and cut off parts under load, CYCLES=100 times, and check the budgets after each (SEED=… repeats a run)
	cargo run --quiet --package e2e --bin chaos -- --cycles $(CYCLES) $(if $(SEED),--seed $(SEED)) $(CHAOS_OPTIONS)

REQUESTS ?= 1000000

audit-chaos: build ## kill parts under REQUESTS=1000000 requests, and hold Envoy's access logs against the audit log (SEED=… repeats a run)
	cargo run --quiet --package e2e --bin audit-chaos -- --requests $(REQUESTS) $(if $(SEED),--seed $(SEED))

FUZZ_SECONDS ?= 60
FUZZ_TARGETS := jws jwk jwks claims

fuzz: ## fuzz authn's parsers, each for FUZZ_SECONDS=60; needs a C++ compiler
	@command -v cargo-fuzz >/dev/null || cargo install cargo-fuzz --locked
	cargo run --quiet --package authn --example fuzz_seeds -- fuzz/corpus
	for target in $(FUZZ_TARGETS); do cargo fuzz run --sanitizer none $$target -- -max_total_time=$(FUZZ_SECONDS) -rss_limit_mb=2048 -timeout=10 -print_final_stats=1 || exit 1; done

differential: ## 120,000 changed tokens, judged by authn and by three other JOSE implementations
	@test -x .tools/jose/bin/python || python3 -m venv .tools/jose
	.tools/jose/bin/pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r tools/jose-requirements.txt
	cargo run --quiet --package authn --example differential -- .tools/jose/keys.json .tools/jose/tokens.jsonl
	.tools/jose/bin/python tools/jose_differential.py .tools/jose/keys.json .tools/jose/tokens.jsonl

deny: ## licences, sources and bans of all dependencies
	@command -v cargo-deny >/dev/null || cargo install cargo-deny --locked
	cargo deny check bans licenses sources

clean: ## remove what was built and installed; the data of `make up` stays (`make down DATA=remove`)
	rm -rf target .tools
	find . -maxdepth 1 -name '.run*' ! -name .run-compose -exec rm -rf {} +
