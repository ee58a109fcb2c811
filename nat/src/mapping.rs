//! Mappings: which external endpoint an inside endpoint has (RFC 4787 REQ-1), and who may answer to it.

use std::hash::BuildHasher;
use std::net::Ipv6Addr;

use trunkline_packet::prefer_huge_pages;

use crate::index::Index;
use crate::list::NIL;
use crate::types::{Endpoint, Inside, Key, Outside, Uplink, Zone};

/// One inside endpoint's external one. Lives as long as it has connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    pub(crate) local: Inside<Endpoint>,
    pub(crate) external: Outside<Endpoint>,
    pub(crate) zone: Zone,
    pub(crate) uplink: Uplink,
    pub(crate) proto: u8,
    /// The kind of its port, see [`crate::types::port_class`].
    pub(crate) class: u8,
    /// Its address, in the table of external ones.
    pub(crate) slot: u16,
    pub(crate) source: u16,
    /// Connections.
    pub(crate) conns: u32,
    /// Those worth keeping.
    pub(crate) kept: u32,
    /// All connections' numbers, exclusive-ored: the number of the only one, when there is one.
    pub(crate) only: u32,
    /// Gone from the rules: new connections get another, those that are left keep the port until they go.
    pub(crate) retired: bool,
}

/// That an inside endpoint has sent to an address.
#[derive(Clone, Copy)]
struct Permission {
    mapping: u32,
    remote: Ipv6Addr,
    conns: u32,
}

/// A table of fixed capacity with free slots chained.
struct Slots<T> {
    list: Vec<T>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    fn new(capacity: usize) -> Slots<T> {
        let list = Vec::with_capacity(capacity);
        prefer_huge_pages(&list);
        Slots { list, free: Vec::with_capacity(capacity) }
    }

    fn add(&mut self, value: T) -> Option<u32> {
        if let Some(at) = self.free.pop() {
            self.list[at as usize] = value;
            return Some(at);
        }
        if self.list.len() == self.list.capacity() {
            return None;
        }
        self.list.push(value);
        Some((self.list.len() - 1) as u32)
    }
}

pub(crate) struct Mappings {
    slots: Slots<Mapping>,
    index: Index,
    permissions: Option<(Slots<Permission>, Index)>,
    capacity: usize,
    pub(crate) hash: foldhash::quality::RandomState,
}

impl Mappings {
    /// Room for as many mappings as there are connections.
    pub(crate) fn new(capacity: usize) -> Mappings {
        Mappings {
            slots: Slots::new(capacity),
            index: Index::new(2 * capacity),
            permissions: None,
            capacity,
            hash: foldhash::quality::RandomState::default(),
        }
    }

    /// Makes room for permissions; needed once a rule filters by address.
    pub(crate) fn with_permissions(&mut self) {
        let capacity = self.capacity;
        self.permissions.get_or_insert_with(|| (Slots::new(capacity), Index::new(capacity)));
    }

    #[inline]
    pub(crate) fn get(&self, at: u32) -> &Mapping {
        &self.slots.list[at as usize]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, at: u32) -> &mut Mapping {
        &mut self.slots.list[at as usize]
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.list.len() - self.slots.free.len()
    }

    /// By what a mapping is found by its inside endpoint.
    #[inline]
    pub(crate) fn local_hash(&self, zone: Zone, uplink: Uplink, proto: u8, local: Inside<Endpoint>) -> u64 {
        self.hash.hash_one(Key::mapping(zone, uplink, proto, local))
    }

    /// By what a mapping is found by its external endpoint.
    #[inline]
    pub(crate) fn external_hash(&self, uplink: Uplink, proto: u8, external: Outside<Endpoint>) -> u64 {
        self.hash.hash_one(Key::mapped(uplink, proto, external))
    }

    /// Has the index read where the hash belongs.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) {
        self.index.touch(hash);
    }

    /// The mapping of an inside endpoint, whose [`Mappings::local_hash`] this is.
    #[inline]
    pub(crate) fn of_local(
        &self,
        zone: Zone,
        uplink: Uplink,
        proto: u8,
        local: Inside<Endpoint>,
        hash: u64,
    ) -> Option<u32> {
        let key = Key::mapping(zone, uplink, proto, local);
        let found = self.index.find(hash, |v| {
            let m = &self.slots.list[(v >> 1) as usize];
            v & 1 == 0 && Key::mapping(m.zone, m.uplink, m.proto, m.local) == key
        });
        found.map(|v| v >> 1)
    }

    pub(crate) fn of_external(&self, uplink: Uplink, proto: u8, external: Outside<Endpoint>) -> Option<u32> {
        let key = Key::mapped(uplink, proto, external);
        let found = self.index.find(self.external_hash(uplink, proto, external), |v| {
            let m = &self.slots.list[(v >> 1) as usize];
            v & 1 == 1 && Key::mapped(m.uplink, m.proto, m.external) == key
        });
        found.map(|v| v >> 1)
    }

    fn hashes(&self, m: &Mapping) -> [u64; 2] {
        [
            self.local_hash(m.zone, m.uplink, m.proto, m.local),
            self.external_hash(m.uplink, m.proto, m.external),
        ]
    }

    /// Adds a mapping without connections; its [`Mappings::local_hash`] and [`Mappings::external_hash`]. `None` when
    /// there is no room.
    pub(crate) fn add(&mut self, mapping: Mapping, [local, external]: [u64; 2]) -> Option<u32> {
        let at = self.slots.add(mapping)?;
        if self.index.insert(local, at << 1) {
            if self.index.insert(external, at << 1 | 1) {
                return Some(at);
            }
            self.index.remove(local, at << 1);
        }
        self.slots.free.push(at);
        None
    }

    /// Makes the inside endpoint free for another mapping.
    pub(crate) fn retire(&mut self, at: u32) {
        let [local, _] = self.hashes(self.get(at));
        self.index.remove(local, at << 1);
        self.get_mut(at).retired = true;
    }

    /// Removes a mapping.
    pub(crate) fn remove(&mut self, at: u32) {
        let [local, external] = self.hashes(self.get(at));
        if !self.get(at).retired {
            self.index.remove(local, at << 1);
        }
        self.index.remove(external, at << 1 | 1);
        self.slots.free.push(at);
    }

    fn permission(&self, mapping: u32, remote: Ipv6Addr) -> Option<u32> {
        let (slots, index) = self.permissions.as_ref()?;
        let hash = self.hash.hash_one(Key::permission(mapping, remote));
        index.find(hash, |v| {
            let p = &slots.list[v as usize];
            p.mapping == mapping && p.remote == remote
        })
    }

    /// Whether the inside endpoint has a connection that it began to this address.
    pub(crate) fn may_answer(&self, mapping: u32, remote: Ipv6Addr) -> bool {
        self.permission(mapping, remote).is_some()
    }

    /// A connection that the inside endpoint began. False when permissions are not kept.
    pub(crate) fn permit(&mut self, mapping: u32, remote: Ipv6Addr) -> bool {
        let found = self.permission(mapping, remote);
        let hash = self.hash.hash_one(Key::permission(mapping, remote));
        let Some((slots, index)) = &mut self.permissions else { return false };
        if let Some(at) = found {
            slots.list[at as usize].conns += 1;
            return true;
        }
        let Some(at) = slots.add(Permission { mapping, remote, conns: 1 }) else { return false };
        if !index.insert(hash, at) {
            slots.free.push(at);
            return false;
        }
        true
    }

    /// Such a connection ended.
    pub(crate) fn withdraw(&mut self, mapping: u32, remote: Ipv6Addr) {
        let found = self.permission(mapping, remote);
        let hash = self.hash.hash_one(Key::permission(mapping, remote));
        if let (Some(at), Some((slots, index))) = (found, &mut self.permissions) {
            let permission = &mut slots.list[at as usize];
            permission.conns -= 1;
            if permission.conns == 0 {
                index.remove(hash, at);
                slots.free.push(at);
            }
        }
    }

    /// A connection joined, or left when `joins` is false.
    pub(crate) fn count(&mut self, at: u32, conn: u32, joins: bool) {
        let mapping = self.get_mut(at);
        mapping.only ^= conn;
        mapping.conns = if joins { mapping.conns + 1 } else { mapping.conns - 1 };
    }
}

/// No mapping.
pub(crate) const NONE: u32 = NIL;
