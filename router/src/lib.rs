//! The network layer of the switch's own interfaces: gateways of bridges and uplinks. Sans-IO: `now` and
//! frames come in, frames and decisions go out.
//!
//! # Theory of operation
//!
//! ```text
//!            receive                     route, translate (the caller's)          transmit
//! frame ──▶ MAC, ARP, ND, IP checks ──▶ Forward / Inbound ──▶ NAT ──▶ TTL, MTU, neighbour, link header ──▶ frame
//!                    └──▶ Local: echo, DHCP, router solicitations, "port unreachable"
//! ```
//!
//! An interface is a *gateway*, inside, in the zone of its bridge, or an *uplink*, outside. What comes from a
//! gateway is routed by the table of its zone, before translation ([`Received::Forward`]). What comes from an
//! uplink is translated first ([`Received::Inbound`]); the translation names the zone, in which it is then
//! routed ([`Router::inside`]). What nobody asked for goes to [`Router::unsolicited`].
//!
//! An error about a packet that is not translated yet goes straight back to whoever sent the frame. One about
//! a packet that is, is handed to [`Sink::inject`], to be treated as if the next router had sent it: so it is
//! translated back on its way.
//!
//! # Limits and attack model
//!
//! Nobody's unsolicited word makes a neighbour entry; entries, those without an answer, and packets waiting
//! are limited, per interface where one could starve another. Errors are limited in rate per interface.
//!
//! # Threads
//!
//! None. Each worker has a [`Router`] of its own. They share [`Tables`], which never change, and
//! [`Neighbours`], which is read without locks.

mod arp;
mod build;
mod cache;
pub mod dhcp;
mod errors;
mod held;
mod iface;
mod legs;
mod limit;
mod local;
mod lpm;
mod nd;
mod neighbour;
pub mod ra;
mod receive;
mod router;
pub mod service;
mod tables;
mod transmit;

pub use iface::{Iface, IfaceId, Kind, Zone, link_local};
pub use legs::Next;
pub use neighbour::{Limits, Neighbour, NeighbourState, Neighbours};
pub use receive::destination_of;
pub use router::{Received, Router, Sink};
pub use service::Services;
pub use tables::{Hop, Route, TableError, Tables};
