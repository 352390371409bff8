//! Custom rules in Rego: compiled, projected, evaluated, memoised. No I/O: modules, inputs and time come as arguments.
//!
//! ```text
//!   RuleSource ──▶ Loader::step … ──▶ RuleSet::judge(Judged) ──▶ Ruling
//!   (modules,      (one module or     (projection ▶ memo ▶       (verdict, rule, reason)
//!    data, inputs)  vector a step)     evaluation)
//! ```
//!
//! Rules are pure: what they may read is declared ([`field`]), times are compared here and not in Rego, and the gate of
//! publishing lets no builtin in that knows time or chance. So equal projected inputs have equal rulings, and the projected
//! input is the key of the memo.

pub mod field;
mod load;
mod memo;
mod projection;
mod ruling;
mod set;
mod shape;

pub use field::{InputField, UnknownField};
pub use load::{LoadError, Loader, Progress, RuleSource};
pub use projection::{Inputs, Judged};
pub use ruling::{Fault, Ruling};
pub use set::{ENTRY_POINT, EVALUATION_MAX, RuleSet};
