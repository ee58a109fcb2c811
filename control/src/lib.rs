//! The control plane: desired state, the reconciler that makes it so, the HTTP API over a Unix socket,
//! persistence, and the plumbing of containers. The only crate that may use tokio.
//!
//! ```text
//! CLI / files / plugins ──HTTP──▶ api ──▶ controller ──▶ validate ──▶ reconcile ──▶ engine, netlink, keeper
//!                                             │              (undone as a whole when a part fails)
//!                                             └──▶ store (state file) ──▶ events (watch streams)
//! ```

pub mod api;
pub mod attach;
pub mod client;
pub mod controller;
pub mod daemon;
pub mod docker;
mod endpoint;
pub mod error;
pub mod files;
mod follow;
pub mod keeper;
pub mod model;
mod net;
pub mod reconcile;
mod rundir;
pub mod store;
#[cfg(test)]
mod testing;
pub mod validate;

pub use error::{Error, ErrorKind, Result};
