//! The original's policies: imported into tables, and asked as an oracle.
