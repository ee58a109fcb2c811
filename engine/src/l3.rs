//! The network layer in the engine: gateways of bridges, uplinks, routing between them, translation.
//!
//! ```text
//! bridge ──▶ gateway's port ─┐                                            ┌─▶ gateway's port ──▶ bridge
//!                            ├─▶ receive ─▶ route ─▶ translate ─▶ route ──┤
//! uplink's RxQueue ──────────┘      │           │ ▲                       └─▶ uplink's egress
//!                                   ▼           ▼ │
//!                           echo, ARP, DHCP    another worker's ring
//! ```
//!
//! A gateway is a port of a bridge without descriptors: what the bridge sends there goes to the router, and what
//! the router sends there goes to the bridge as if it had come in by that port. An uplink is a port with
//! descriptors that belongs to no bridge. Each worker has a router and a translation table of its own; a packet
//! whose connection another worker owns crosses by that worker's ring, before it is translated.
//!
//! # Counting
//!
//! What the router itself takes (ARP, pings, DHCP) is `absorbed` on the interface's port, what it makes is
//! `generated` there, what it forwards counts only where it came in and where it leaves. Packets that wait for a
//! neighbour, or fragments for their first, are `held`: see [`L3Stats`].
//!
//! # Policy
//!
//! As docker's: from inside everything may leave, and answers come back; from outside only what is published
//! or static comes in. Networks of different bridges reach each other where both gateways are `open`, else only
//! what the other publishes.

mod config;
mod cross;
mod edit;
mod query;
mod stage;
mod view;

pub use config::{Gateway, L3Config, L3Error, Route, Uplink};
pub use query::L3Stats;

pub(crate) use cross::Links;
pub(crate) use edit::L3State;
pub(crate) use query::Question;
pub(crate) use stage::{L3, Out};
pub(crate) use view::{L3View, Role};
