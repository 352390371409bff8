//! The policy enforcement point: a proxy-wasm filter for Envoy. This file starts it and does nothing else.
//!
//! ```text
//! Envoy ─ on_http_request_headers ─▶ exchange ─▶ facts ─▶ decide ─▶ reserve ─▶ enact ─▶ continue | reply
//!                                    owns state  1 call   pure      pure       the only writer
//! Envoy ─ on_log ─▶ exchange ─▶ settle | release ─▶ record queued ─ tick ─▶ sync
//! ```

// Natively there is nothing to build but the tests: the host's functions do not exist there.
#![cfg(any(target_arch = "wasm32", test))]

mod approval;
mod audit;
mod bell;
mod bundle_feed;
mod client_limits;
mod contact;
mod counters;
mod credentials;
mod drain;
mod enact;
mod exchange;
mod explanation;
mod facts;
mod health;
mod host;
mod ids;
mod intent;
mod key_asks;
mod loading;
mod meter;
mod named;
mod ownership;
mod pipeline;
mod problem;
mod records;
mod request_body;
mod response;
mod revocation_feed;
mod revoked;
mod root;
mod rules;
mod settings;
mod shadow;
mod signature;
mod standing;
mod sync;
#[cfg(test)]
mod tests;
mod undos;
mod vm;

#[cfg(target_arch = "wasm32")]
mod start {
    proxy_wasm::main! {{
        proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
        std::panic::set_hook(Box::new(|panic| log::error!("panic: {panic}")));
        proxy_wasm::set_root_context(|id| Box::new(crate::root::Root::new(id)));
    }}
}
