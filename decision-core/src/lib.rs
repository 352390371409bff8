//! decision-core
