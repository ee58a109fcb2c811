//! What an entry is, for users and in memory.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;

use trunkline_packet::MacAddr;

use crate::iface::IfaceId;

/// How many neighbours there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// In all.
    pub total: usize,
    /// Of one interface.
    pub per_iface: u32,
    /// Of one interface, without an answer yet; also the most requests sent there per second.
    pub unresolved: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { total: 8192, per_iface: 4096, unresolved: 256 }
    }
}

/// RFC 4861 §7.3.2.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum NeighbourState {
    /// Asked for; no answer yet.
    Incomplete,
    /// Answered lately.
    Reachable,
    /// Not heard of lately.
    Stale,
    /// In use again; asked soon unless heard of before.
    Delay,
    /// Being asked.
    Probe,
    /// Did not answer.
    Failed,
    /// Told by the control plane.
    Static,
}

impl NeighbourState {
    /// The name users see.
    pub const fn name(self) -> &'static str {
        match self {
            NeighbourState::Incomplete => "incomplete",
            NeighbourState::Reachable => "reachable",
            NeighbourState::Stale => "stale",
            NeighbourState::Delay => "delay",
            NeighbourState::Probe => "probe",
            NeighbourState::Failed => "failed",
            NeighbourState::Static => "static",
        }
    }
}

use NeighbourState as State;

/// One entry, for users.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// On which interface.
    pub iface: IfaceId,
    /// Its address.
    pub addr: IpAddr,
    /// Its MAC address, when known.
    pub mac: Option<MacAddr>,
    /// How sure that is.
    pub state: NeighbourState,
    /// Milliseconds in this state.
    pub age: u64,
}

/// What there is to do with a packet for a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lookup {
    /// Send it.
    Mac(MacAddr),
    /// Hold it.
    Wait,
    /// Hold it, and ask.
    Ask,
    /// Nobody answers.
    Unreachable,
    /// There may be no more entries.
    Full,
}

/// What somebody said about an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Word {
    /// An ARP reply or a neighbour advertisement.
    Answer {
        /// To a question of ours.
        solicited: bool,
        /// Replaces what is known.
        replaces: bool,
    },
    /// Told about itself in a question.
    Question,
}

/// A request to send: to everybody, or to whom it is thought to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request {
    pub(crate) iface: IfaceId,
    pub(crate) addr: IpAddr,
    pub(crate) mac: Option<MacAddr>,
}

#[derive(Default)]
#[repr(align(64))]
pub(super) struct Slot {
    pub(super) sequence: AtomicU64,
    pub(super) iface: AtomicU64,
    pub(super) hi: AtomicU64,
    pub(super) lo: AtomicU64,
    pub(super) value: AtomicU64,
    /// When the state began, milliseconds.
    pub(super) since: AtomicU64,
    /// When something is due, milliseconds.
    pub(super) due: AtomicU64,
}

/// A MAC address, how often it was asked for, and the state.
#[derive(Clone, Copy)]
pub(super) struct Value(pub(super) u64);

impl Value {
    pub(super) fn new(mac: MacAddr, tries: u64, state: State) -> Value {
        Value(mac.to_u64() << 16 | tries << 8 | state as u64)
    }

    pub(super) fn mac(self) -> MacAddr {
        MacAddr::from_u64(self.0 >> 16)
    }

    pub(super) fn tries(self) -> u64 {
        self.0 >> 8 & 0xff
    }

    pub(super) fn state(self) -> State {
        const ALL: [State; 7] = [
            State::Incomplete,
            State::Reachable,
            State::Stale,
            State::Delay,
            State::Probe,
            State::Failed,
            State::Static,
        ];
        ALL[(self.0 & 0xff) as usize % ALL.len()]
    }
}

#[derive(Default)]
pub(super) struct Count {
    pub(super) entries: u32,
    pub(super) unresolved: u32,
}
