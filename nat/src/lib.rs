//! Connection tracking and address translation. Sans-IO: `now` and packets come in, decisions go out.
//!
//! # Theory of operation
//!
//! A packet comes from inside (a [`Zone`]) or from outside (an [`Uplink`]), with its route decided. One entry
//! per connection is found by what the packet looks like on its side, whichever direction it goes; the entry
//! says what it looks like on the other. There are three endpoints: `local` (inside), `external` (ours,
//! outside) and `remote`. Translation replaces one of the first two by the other; an untranslated connection
//! has them equal.
//!
//! A masqueraded inside endpoint has one *mapping* to an external endpoint, whatever it talks to
//! (RFC 4787 REQ-1), which lives as long as connections use it. Ports are not shared between mappings while
//! some are free; then a transitory mapping gives way; then a connection may share a port that is used
//! towards other destinations only, unless `strict_eim` is set.
//!
//! Hairpinning (RFC 4787 REQ-9) is two passes: out, as to anybody, and in, as from anybody. A host inside that no
//! rule translates has only the second, and so has the host itself ([`Path::Local`]): the published host would
//! answer them past us, so they appear to it as its gateway, with a port that is free there. Its answers
//! are addressed to the gateway: [`Path::Answer`].
//!
//! # What the caller does
//!
//! - Packets from inside to an uplink's own address, other than pings, are [`Path::Out`] to that uplink.
//! - TCP, UDP and ICMP errors from inside to a gateway's own address that no service of the gateway wants are
//!   [`Path::Answer`].
//! - An ICMP error that the caller makes about a packet which was translated already goes through the translation
//!   as if a router behind it had sent it: for a packet toward the outside [`Path::In`], else [`Path::Out`].
//! - Where the host's own stack shares an uplink's address, what it sends to that is [`Path::Local`].
//! - After a translation the packet is routed by the destination it has then.
//!
//! # When rules change
//!
//! Entries carry the version of the rules they were last held against. An entry of an older version that a
//! packet meets is held against the present rules first and removed if they would not allow it; a sweep does
//! the same to those that no packet meets.
//!
//! # Limits and attack model
//!
//! All tables have a fixed size and a seeded hash. Cost per packet does not depend on how full they are:
//! expiry is a timing wheel (`wheel.rs`), and what gives way is found without a search. An entry is
//! *transitory* until it has proven itself (TCP: open; else: a third packet after an answer), and only
//! transitory entries give way. See `source.rs` for fairness between sources, `fragment.rs` for fragments.
//!
//! # Threads
//!
//! None. Each worker has a [`Nat`] of its own; see [`shard`].

mod config;
mod conn;
mod current;
mod fragment;
mod index;
mod info;
mod list;
mod mapping;
mod nat;
mod open;
mod parse;
mod pieces;
mod ports;
mod rewrite;
mod rules;
pub mod shard;
mod shortcut;
mod source;
mod table;
mod tcp;
mod types;
mod wheel;

pub use config::{Config, Filtering, Timeouts};
pub use info::{ConnFilter, ConnInfo, ConnState, NatStats};
pub use nat::{Nat, Sink, Toward};
pub use rules::{Gateway, Rule, RuleCounters, RuleError, RuleId};
pub use shortcut::{Arrival, Found, Glance, Known};
pub use trunkline_packet::DropReason;
pub use types::{Endpoint, Inside, Outside, Path, Prefix, Uplink, Zone};
