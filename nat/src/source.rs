//! Who inside holds how much: limits per source, and whom to take from when the table is full.
//!
//! Semantics. An entry counts for its inside address, whoever began it: a flood from outside at one
//! container costs that container only. Sources are ordered by the number of their transitory entries, in
//! powers of two. When the table is full, the one to give up is the oldest transitory entry of a source in the
//! highest order, so a source that holds few loses none while another floods.
//!
//! The table is set-associative and of fixed size. When a set is full of live sources, newcomers share the
//! record of one of them: exact in ordinary use, and stochastically fair under address spoofing.

use std::hash::BuildHasher;
use std::net::Ipv6Addr;

use crate::list::{Links, List, NIL};
use crate::types::Zone;

const WAYS: usize = 4;
const ORDERS: usize = 32;

#[derive(Clone)]
pub(crate) struct Source {
    zone: Zone,
    addr: Ipv6Addr,
    /// Entries.
    pub(crate) conns: u32,
    /// External ports.
    pub(crate) ports: u32,
    /// Transitory entries.
    pub(crate) transitory: u32,
    /// Those, oldest first.
    pub(crate) list: List,
    /// Among the sources of the same order.
    links: Links,
}

const NEW: Source = Source {
    zone: Zone(0),
    addr: Ipv6Addr::UNSPECIFIED,
    conns: 0,
    ports: 0,
    transitory: 0,
    list: List::NEW,
    links: Links::NONE,
};

pub(crate) struct Sources {
    slots: Vec<Source>,
    orders: [List; ORDERS],
    /// A bit for each order that has sources.
    occupied: u32,
    hash: foldhash::quality::RandomState,
}

impl Sources {
    pub(crate) fn new(capacity: usize) -> Sources {
        let slots = (capacity / 4).next_power_of_two().clamp(1 << 10, 1 << 15);
        Sources {
            slots: vec![NEW; slots],
            orders: [List::NEW; ORDERS],
            occupied: 0,
            hash: foldhash::quality::RandomState::default(),
        }
    }

    #[inline]
    pub(crate) fn get(&self, at: u16) -> &Source {
        &self.slots[usize::from(at)]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, at: u16) -> &mut Source {
        &mut self.slots[usize::from(at)]
    }

    /// The record of an inside address. A free one is claimed.
    pub(crate) fn of(&mut self, zone: Zone, addr: Ipv6Addr) -> u16 {
        let hash = self.hash.hash_one((zone.0, u128::from(addr)));
        let set = (hash as usize % (self.slots.len() / WAYS)) * WAYS;
        let ways = &mut self.slots[set..set + WAYS];
        let known = ways.iter().position(|s| s.conns > 0 && s.zone == zone && s.addr == addr);
        let way = known.unwrap_or_else(|| match ways.iter().position(|s| s.conns == 0) {
            Some(free) => {
                ways[free].zone = zone;
                ways[free].addr = addr;
                free
            }
            None => (hash >> 62) as usize,
        });
        (set + way) as u16
    }

    /// A source got or lost transitory entries.
    pub(crate) fn add_transitory(&mut self, at: u16, delta: i32) {
        let source = &mut self.slots[usize::from(at)];
        let before = order(source.transitory);
        source.transitory = source.transitory.saturating_add_signed(delta);
        let now = order(source.transitory);
        if before == now {
            return;
        }
        if let Some(order) = before {
            self.orders[order].remove(u32::from(at), &mut self.slots, |s| &mut s.links);
            if self.orders[order] == List::NEW {
                self.occupied &= !(1 << order);
            }
        }
        if let Some(order) = now {
            self.orders[order].push(u32::from(at), &mut self.slots, |s| &mut s.links);
            self.occupied |= 1 << order;
        }
    }

    /// The oldest transitory entry of a source that has the most of them.
    pub(crate) fn victim(&self) -> Option<u32> {
        let order = self.occupied.checked_ilog2()? as usize;
        let source = self.orders[order].first;
        (source != NIL).then(|| self.slots[source as usize].list.first).filter(|&conn| conn != NIL)
    }
}

fn order(count: u32) -> Option<usize> {
    count.checked_ilog2().map(|n| n as usize)
}
