//! The connections with all that refers to them.

use std::hash::BuildHasher;
use std::net::Ipv6Addr;

use trunkline_packet::prefer_huge_pages;

use crate::DropReason;
use crate::conn::Conn;
use crate::index::Index;
use crate::mapping::{self, Mappings};
use crate::rules::Rules;
use crate::source::Sources;
use crate::types::{Endpoint, Key, Side};
use crate::wheel::{Tick, Wheel};

pub(crate) struct Table {
    pub(crate) conns: Vec<Conn>,
    free: Vec<u32>,
    capacity: usize,
    index: Index,
    wheel: Wheel,
    pub(crate) sources: Sources,
    pub(crate) maps: Mappings,
    /// Addresses as which remotes may appear inside, by number. None is ever taken away.
    gateways: Vec<Ipv6Addr>,
    hash: foldhash::quality::RandomState,
}

impl Table {
    pub(crate) fn new(capacity: usize) -> Table {
        let maps = Mappings::new(capacity);
        let conns = Vec::with_capacity(capacity);
        prefer_huge_pages(&conns);
        Table {
            conns,
            free: Vec::with_capacity(capacity),
            capacity,
            index: Index::new(2 * capacity),
            wheel: Wheel::new(),
            sources: Sources::new(capacity),
            hash: maps.hash.clone(),
            maps,
            gateways: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.conns.len() - self.free.len()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.capacity
    }

    #[inline]
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        self.hash.hash_one(key)
    }

    /// The number of a gateway's address. `None` when there have been too many.
    pub(crate) fn gateway(&mut self, addr: Ipv6Addr) -> Option<u16> {
        let at = self.gateways.iter().position(|g| *g == addr).unwrap_or(self.gateways.len());
        let number = u16::try_from(at).ok()?;
        if at == self.gateways.len() {
            self.gateways.push(addr);
        }
        Some(number)
    }

    /// The remote as the inside sees it.
    #[inline]
    pub(crate) fn remote_inside(&self, conn: &Conn) -> Endpoint {
        if conn.is_shown() { self.shown(conn.shown()) } else { conn.remote }
    }

    #[cold]
    pub(crate) fn shown(&self, (gateway, port): (u16, u16)) -> Endpoint {
        Endpoint { addr: self.gateways[usize::from(gateway)], port }
    }

    /// What a connection is found by.
    #[inline]
    pub(crate) fn key(&self, conn: &Conn, side: Side) -> Key {
        match side {
            Side::Inside => Key::inside(conn.zone, conn.proto, conn.local, self.remote_inside(conn)),
            Side::Outside => conn.outside_key(),
        }
    }

    /// Has the index read where the hash belongs.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) {
        self.index.touch(hash);
    }

    /// The entry that the hash may belong to: read ahead, not verified.
    #[inline]
    pub(crate) fn candidate(&self, hash: u64) -> Option<u32> {
        self.index.candidate(hash).map(|v| v >> 1)
    }

    #[inline]
    pub(crate) fn find(&self, side: Side, key: &Key, hash: u64) -> Option<u32> {
        let found = self
            .index
            .find(hash, |v| v & 1 == side as u32 && self.key(&self.conns[(v >> 1) as usize], side) == *key);
        found.map(|v| v >> 1)
    }

    /// Adds a connection of a known source; its keys, whose hashes by side these are, are not there yet.
    pub(crate) fn add(
        &mut self,
        now: Tick,
        conn: &Conn,
        [inside, outside]: [u64; 2],
    ) -> Result<u32, DropReason> {
        if self.is_full() {
            return Err(DropReason::NatTableFull);
        }
        let at = match self.free.pop() {
            Some(at) => {
                self.conns[at as usize] = *conn;
                at
            }
            None => {
                self.conns.push(*conn);
                (self.conns.len() - 1) as u32
            }
        };
        let first = self.index.insert(inside, at << 1);
        if !first || !self.index.insert(outside, at << 1 | 1) {
            if first {
                self.index.remove(inside, at << 1);
            }
            self.conns[at as usize].set_free();
            self.free.push(at);
            return Err(DropReason::NatTableFull);
        }
        self.wheel.add(now, at, &mut self.conns);
        let source = self.sources.get_mut(conn.source);
        source.conns += 1;
        source.list.push(at, &mut self.conns, |c| &mut c.peers);
        self.sources.add_transitory(conn.source, 1);
        if conn.mapping() != mapping::NONE {
            self.maps.count(conn.mapping(), at, true);
        }
        Ok(at)
    }

    /// Moves an entry between transitory and worth keeping.
    pub(crate) fn set_kept(&mut self, at: u32, kept: bool) {
        let conn = &mut self.conns[at as usize];
        if conn.is_kept() == kept {
            return;
        }
        conn.set_kept(kept);
        let (source, mapping) = (conn.source, conn.mapping());
        let list = &mut self.sources.get_mut(source).list;
        if kept {
            list.remove(at, &mut self.conns, |c| &mut c.peers);
        } else {
            list.push(at, &mut self.conns, |c| &mut c.peers);
        }
        self.sources.add_transitory(source, if kept { -1 } else { 1 });
        if mapping != mapping::NONE {
            let m = self.maps.get_mut(mapping);
            m.kept = if kept { m.kept + 1 } else { m.kept - 1 };
        }
    }

    /// Removes a connection, and its mapping if it was the last of it.
    pub(crate) fn remove(&mut self, at: u32, rules: &mut Rules) {
        self.set_kept(at, false);
        let conn = self.conns[at as usize];
        for (side, value) in [(Side::Inside, at << 1), (Side::Outside, at << 1 | 1)] {
            let hash = self.hash(&self.key(&conn, side));
            self.index.remove(hash, value);
        }
        self.wheel.remove(at, &mut self.conns);
        self.sources.get_mut(conn.source).list.remove(at, &mut self.conns, |c| &mut c.peers);
        self.sources.add_transitory(conn.source, -1);
        if conn.mapping() != mapping::NONE {
            if conn.permits() {
                self.maps.withdraw(conn.mapping(), conn.remote.addr);
            }
            self.maps.count(conn.mapping(), at, false);
            self.release(conn.mapping(), rules);
        }
        self.sources.get_mut(conn.source).conns -= 1;
        self.conns[at as usize].set_free();
        self.free.push(at);
    }

    /// Removes a mapping that has no connections.
    pub(crate) fn release(&mut self, at: u32, rules: &mut Rules) {
        let m = *self.maps.get(at);
        if m.conns == 0 {
            self.maps.remove(at);
            rules.externals.give(m.slot, usize::from(m.class), m.external.0.port);
            self.sources.get_mut(m.source).ports -= 1;
        }
    }

    /// Sets when the entry expires.
    #[inline]
    pub(crate) fn set_deadline(&mut self, now: Tick, at: u32, deadline: Tick) {
        let conn = &mut self.conns[at as usize];
        let sooner = deadline < conn.deadline;
        conn.deadline = deadline;
        if sooner {
            // The wheel would look at it too late.
            self.wheel.remove(at, &mut self.conns);
            self.wheel.add(now, at, &mut self.conns);
        }
    }

    /// Removes what has expired, spending at most `budget` on looking.
    pub(crate) fn expire(&mut self, now: Tick, mut budget: usize, rules: &mut Rules) {
        while let Some(at) = self.wheel.expired(now, &mut budget, &mut self.conns) {
            self.remove(at, rules);
        }
    }
}
