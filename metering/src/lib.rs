//! Requests to language models, priced by tokens: an upper bound before, the actual cost after.
//!
//! Pure: bytes go in, counts and costs come out. Nothing here does I/O, reads a clock or keeps a response.
//!
//! ```text
//! request body ──▶ read ──▶ Asked ──▶ Price::bound ──▶ reserved
//! response, piece by piece ──▶ Meter ──▶ Usage ──▶ Price::cost ──▶ charged
//! ```
//!
//! A bound is one of text: what a body names but does not hold (images and files by address, earlier conversations,
//! what a provider's own tools fetch), fees beside tokens (per search, per image, per second of audio) and dearer tiers
//! of service are not within it. [`Asked::unbounded`] names those that stand at the top of a body; images and files
//! deeper in a body are not looked for. Where a bound is passed, the actual cost is still what the response says.
//! Of a response, its total counts are read and nothing else: Anthropic's `iterations` (compaction) and the two prices of
//! `cache_creation` are not told apart.

mod api;
mod events;
mod meter;
mod object;
mod price;
mod references;
mod request;
mod scan;
mod usage;

pub use api::{Api, Form};
pub use meter::{Meter, Reading};
pub use price::{InvalidPriceTable, PATTERN_BYTES_MAX, Price, PriceTable};
pub use request::{Asked, MODEL_BYTES_MAX, Unreadable, read};
pub use usage::{TOKENS_MAX, Usage};
