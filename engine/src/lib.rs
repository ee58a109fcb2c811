//! Workers, the order of the stages, the snapshot of tables they run on, and counters.
//!
//! ```text
//! RxQueue ──recv──▶ batch ──▶ ingress (offload sane? tag into metadata) ──▶ Bridge::forward
//! DatagramRx ─recv─▶ decapsulate ──▶ by tunnel port ─────────────────────────▶   │
//!                                                                                │
//! TxQueue ◀──send── egress (MTU, coalesce, tag into bytes, segment, checksum) ◀──┤ per-egress batches
//! DatagramTx ◀─send── (inner MTU, MSS, remotes, encapsulate) ◀───────────────────┘
//! ```
//!
//! Alone knows threads. The control plane talks to [`Engine`].

mod attention;
pub mod counters;
mod egress;
mod engine;
mod l3;
mod snapshot;
mod spin;
mod stages;
mod tunnel;
mod turns;
mod worker;

pub use counters::PortCounters;
pub use engine::{BridgeId, Engine, EngineConfig, EngineEvent, PortIo};
pub use l3::{Gateway, L3Config, L3Error, L3Stats, Route, Uplink};
pub use spin::Spin;
pub use tunnel::sockets::{KernelSockets, OpenSockets, Opened};
pub use tunnel::{BfdOptions, PeerStatus, TunnelConfig, TunnelError, Underlay};
