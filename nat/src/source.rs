//! Who inside holds how much: limits per source, and whom to take from when the table is full.
//!
//! Semantics. An entry counts for its inside address, whoever began it: a flood from outside at one
//! container costs that container only. Sources are ordered by the number of their transitory entries, in
//! powers of two; one that has a few less keeps its order. When the table is full, the one to give up is the oldest transitory entry of a source in the
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
const NO_ORDER: u8 = u8::MAX;

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
    /// Its order, when it has any.
    order: u8,
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
    order: NO_ORDER,
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
        // Their number is a power of two.
        let set = (hash as usize & (self.slots.len() / WAYS - 1)) * WAYS;
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
    #[inline]
    pub(crate) fn add_transitory(&mut self, at: u16, delta: i32) {
        let source = &mut self.slots[usize::from(at)];
        source.transitory = source.transitory.saturating_add_signed(delta);
        let order = order(source.transitory, source.order);
        if order != source.order {
            self.reorder(at, order);
        }
    }

    #[cold]
    fn reorder(&mut self, at: u16, order: u8) {
        let before = std::mem::replace(&mut self.slots[usize::from(at)].order, order);
        if let Some(list) = self.orders.get_mut(usize::from(before)) {
            list.remove(u32::from(at), &mut self.slots, |s| &mut s.links);
            if *list == List::NEW {
                self.occupied &= !(1 << before);
            }
        }
        if let Some(list) = self.orders.get_mut(usize::from(order)) {
            list.push(u32::from(at), &mut self.slots, |s| &mut s.links);
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

/// The order of a source with so many, that had this one. A quarter less than a power of two is still of it: a source at
/// its limit, or in a full table, goes up and down by one with each packet.
#[inline]
fn order(count: u32, had: u8) -> u8 {
    match count.checked_ilog2() {
        None => NO_ORDER,
        Some(exact) if had != NO_ORDER && exact < u32::from(had) && u64::from(count) * 4 >= 3 << had => had,
        Some(exact) => exact as u8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_go_up_at_once_and_down_a_little_later() {
        let mut had = NO_ORDER;
        let mut seen = Vec::new();
        for count in [0, 1, 2, 1, 0, 1, 4, 3, 2, 16, 15, 12, 11, 16, 8, 7, 6, 5, 0, u32::MAX, 3 << 29, 1] {
            had = order(count, had);
            seen.push(had);
        }
        let none = NO_ORDER;
        assert_eq!(seen, [none, 0, 1, 0, none, 0, 2, 2, 1, 4, 4, 4, 3, 4, 3, 3, 3, 2, none, 31, 31, 0]);
    }
}
