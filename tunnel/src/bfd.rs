//! Bidirectional Forwarding Detection (RFC 5880), asynchronous mode, without authentication, over one hop
//! (RFC 5881): tells within a detection time that the far end of a tunnel is gone.
//!
//! [`Session`] is the state machine: packets and the time come in, packets and state changes go out.
//! [`wire`] is the packet, [`frame`] the Ethernet frame that carries it inside a tunnel.

pub mod frame;
mod measure;
pub mod session;
#[cfg(test)]
mod tests;
pub mod wire;

pub use measure::Loss;
pub use session::{Config, Discard, Event, Session};
pub use wire::{ControlPacket, Diag, State};
