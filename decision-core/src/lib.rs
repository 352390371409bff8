//! The policy decision point. Facts and time in, decision out: no I/O, clock, log, serde or random.
//!
//! ```text
//!   RequestFacts ──▶ decide ──▶ Permit ──▶ LeaseHolder::reserve ──▶ Reservations ──▶ settle | release
//!   (what is asked)  (may it?)  (proof)    (is there room?)         (a hold)        (what it cost)
//! ```
//!
//! [`facts`] says what is asked and by whom, [`policy`] holds the compiled rules, [`decide`](mod@decide) gives a
//! [`decision::Decision`] that names its rule, [`holder`] keeps the leases that pay for it, and [`explain`]
//! tells the same story in names.

pub mod audit;
pub mod budget;
pub mod causes;
pub mod counterfactual;
pub mod decide;
pub mod decision;
pub mod explain;
pub mod facts;
pub mod failure;
pub mod flag;
pub mod gateway;
pub mod holder;
pub mod lease;
pub mod nearest;
pub mod obligations;
pub mod path;
pub mod permission;
pub mod policy;
pub mod principal;
mod thresholds;
pub mod time;

pub use decide::{Observer, decide, decide_observed};
pub use explain::{Explanation, explain};
