//! Packets that wait until the MAC address of their next hop is known. Each worker holds its own.

use std::collections::VecDeque;

use trunkline_packet::Packet;

use crate::tables::Hop;

/// Packets held for one neighbour (RFC 1122 §2.3.2.2 and RFC 4861 §7.2.2: at least one, the latest).
const PER_NEIGHBOUR: usize = 32;
/// Packets held in all.
const TOTAL: usize = 512;
/// How long one waits at most, milliseconds: longer than the asking takes.
pub(crate) const PATIENCE: u64 = 4_000;

pub(crate) struct Waiting {
    pub(crate) hop: Hop,
    pub(crate) packet: Packet,
    /// When it was held, milliseconds.
    pub(crate) since: u64,
    /// The router's own, rather than forwarded.
    pub(crate) made: bool,
}

/// In the order they came.
pub(crate) struct Held(VecDeque<Waiting>);

impl Held {
    pub(crate) fn new() -> Held {
        Held(VecDeque::with_capacity(TOTAL + 1))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many of them came in, rather than being the router's own.
    pub(crate) fn forwarded(&self) -> usize {
        self.0.iter().filter(|w| !w.made).count()
    }

    /// Holds a packet. Returns the one that gives way for it, if there are too many.
    pub(crate) fn push(&mut self, waiting: Waiting) -> Option<Waiting> {
        let mut same = self.0.iter().enumerate().filter(|(_, w)| w.hop == waiting.hop);
        let oldest = same.next().map(|(at, _)| at);
        let crowded = same.count() + 1 >= PER_NEIGHBOUR;
        self.0.push_back(waiting);
        match oldest {
            Some(at) if crowded => self.0.remove(at),
            _ if self.0.len() > TOTAL => self.0.pop_front(),
            _ => None,
        }
    }

    pub(crate) fn pop(&mut self) -> Option<Waiting> {
        self.0.pop_front()
    }

    /// Puts one back that goes on waiting; those taken in between have been in front of it.
    pub(crate) fn keep(&mut self, waiting: Waiting) {
        self.0.push_back(waiting);
    }
}
