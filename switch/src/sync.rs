//! The atomics of the table, through one facade that loom can drive.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p trunkline-switch --release --lib loom` checks the protocol.

#[cfg(loom)]
pub(crate) use loom::sync::atomic::{AtomicU64, Ordering};
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU64, Ordering};
