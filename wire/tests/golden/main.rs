//! The default policy against its golden cases and its matrix. Every case is decided twice, by the code that enforces and
//! by the code that explains, and both must say what the case wants.

#![cfg(feature = "sources")]

#[cfg(test)]
mod case;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod matrix;
#[cfg(test)]
mod policies;
