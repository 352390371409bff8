//! Every reason to refuse, every error of the compiler, and the rules of paths, headers, budgets and accounts.
#![cfg(not(target_arch = "wasm32"))]
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "clippy's exception for tests does not cover the functions around them")]

mod accounts;
mod audit;
mod budgets;
mod compiling;
mod counterfactual;
mod denials;
#[path = "../fixture/mod.rs"]
mod fixture;
mod flags;
mod headers;
mod metering;
mod obligations;
mod paths;

/// Without files of failed cases: a seed that failed becomes a test with a name.
fn cases(cases: u32) -> proptest::prelude::ProptestConfig {
    proptest::prelude::ProptestConfig { failure_persistence: None, ..proptest::prelude::ProptestConfig::with_cases(cases) }
}
