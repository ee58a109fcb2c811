//! The forwarding database: which port an address was last seen behind, per VLAN (IEEE 802.1Q §8.8).
//!
//! # Semantics
//! Learned entries age and move; static ones, made by a user, do neither and are never evicted. The table
//! has a fixed size. When it is full, the port with the most entries loses its oldest, as in Open vSwitch's
//! `mac-learning.h`; a port at its own limit loses its own oldest. An address for which nothing may be
//! evicted is not learned; its frames are flooded.
//!
//! # Attack model
//! A tenant who invents source addresses fills the table, then evicts only entries of ports with more
//! entries than its own, or its own: a lighter port never loses one to a heavier. The work per packet is
//! bounded: no search is longer than a few buckets. The hash has a secret seed. Which port is the heaviest is
//! tracked, not searched for, so it may be one that is merely heavy; the rule above holds exactly.
//!
//! # Threads
//! Lookups and renewals take no lock (see `fdb/table.rs`). Everything that adds or removes takes the one writers'
//! lock; the packet path only tries it and does not learn that packet's address when it is taken.

mod port_state;
mod table;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use trunkline_packet::{MacAddr, PortId, VlanId};

use port_state::{Links, PortStates};
pub(crate) use table::{Key, Place};
use table::{Slot, Table, Value};

/// How many of a port's oldest entries are looked at to find the one unseen for longest.
const EVICT_LOOK: usize = 4;

/// What the table knows of one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FdbEntry {
    /// The VLAN it is known in.
    pub vid: VlanId,
    /// The address.
    pub mac: MacAddr,
    /// Behind which port.
    pub port: PortId,
    /// Seconds since it was last seen; 0 for static ones.
    pub age: u32,
    /// Made by a user; never moves, never ages.
    pub is_static: bool,
}

/// What has happened to learned entries since the table was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FdbCounters {
    /// Addresses learned anew.
    pub learned: u64,
    /// Addresses that changed their port.
    pub moved: u64,
    /// Entries that had to make room.
    pub evicted: u64,
    /// Frames whose source was not learned because nothing may be evicted for it.
    pub refused: u64,
    /// Entries removed because they were not seen for the ageing time.
    pub aged: u64,
}

/// What learning one address did to the table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Learned {
    /// Nothing.
    Known,
    /// Lookups may have other answers now.
    Changed,
    /// It could not be learned this time.
    Skipped,
}

/// The table. Shared by all workers and all versions of a bridge's configuration.
pub struct Fdb {
    table: Table,
    max_macs: usize,
    ports: PortStates,
    writer: Mutex<Writer>,
    len: AtomicUsize,
    /// The bucket the next sweep starts at.
    hand: AtomicUsize,
    /// Written with the writers' lock held.
    counters: Counters,
}

#[derive(Default)]
struct Counters {
    learned: AtomicU64,
    moved: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
    aged: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

/// What only the holder of the writers' lock may touch, besides changing the table.
struct Writer {
    links: Links,
    /// The port with the most learned entries, or one close to it.
    heaviest: PortId,
    /// The bucket looked at next to correct `heaviest`.
    probe: usize,
}

impl Fdb {
    /// A table for `max_macs` addresses (learned and static).
    pub fn new(max_macs: u32) -> Fdb {
        let table = Table::new(max_macs);
        let writer = Writer { links: Links::new(table.slots()), heaviest: PortId::NONE, probe: 0 };
        Fdb {
            table,
            max_macs: max_macs as usize,
            ports: PortStates::new(),
            writer: Mutex::new(writer),
            len: AtomicUsize::new(0),
            hand: AtomicUsize::new(0),
            counters: Counters::default(),
        }
    }

    /// A table for another number of addresses with the same entries and counters. If they are too many,
    /// static ones stay first, then those the rules of eviction leave.
    pub fn resized(&self, max_macs: u32) -> Fdb {
        let new = Fdb::new(max_macs);
        let _unchanging = self.lock();
        let mut entries: Vec<_> = (0..self.table.buckets()).flat_map(|b| self.table.bucket(b)).collect();
        entries.sort_unstable_by_key(|(_, _, value)| (!value.is_static(), value.stamp()));
        let mut writer = new.lock();
        for (_, key, value) in entries {
            let place = new.table.place(key);
            if value.is_static() {
                new.insert_static(&mut writer, key, value.port());
            } else {
                new.insert(&mut writer, key, place, value.port(), value.stamp(), 0);
            }
        }
        drop(writer);
        let (old, c) = (self.counters(), &new.counters);
        c.learned.store(old.learned, Relaxed);
        c.moved.store(old.moved, Relaxed);
        c.evicted.fetch_add(old.evicted, Relaxed);
        c.refused.store(old.refused, Relaxed);
        c.aged.store(old.aged, Relaxed);
        new
    }

    /// Adds or replaces a static entry. False when the table is full of static entries.
    pub fn add_static(&self, vid: VlanId, mac: MacAddr, port: PortId) -> bool {
        self.insert_static(&mut self.lock(), Key::new(vid, mac), port)
    }

    /// Removes an entry of either kind; false when there is none.
    pub fn remove(&self, vid: VlanId, mac: MacAddr) -> bool {
        let key = Key::new(vid, mac);
        let writer = &mut *self.lock();
        match self.table.find(key, self.table.place(key)) {
            Some((slot, value)) => {
                self.delete(writer, slot, value);
                true
            }
            None => false,
        }
    }

    /// Forgets learned entries, of one VLAN and/or one port if given; returns how many.
    pub fn flush(&self, vid: Option<VlanId>, port: Option<PortId>) -> usize {
        self.remove_where(|key, value| {
            !value.is_static() && vid.is_none_or(|v| v == key.vid()) && port.is_none_or(|p| p == value.port())
        })
    }

    /// Removes every entry of a port, static ones too, because the port is deleted.
    pub fn forget_port(&self, port: PortId) {
        self.remove_where(|_, value| value.port() == port);
    }

    /// All entries that are valid at `now` (seconds on the engine's clock), in no order.
    pub fn entries(&self, now: u32, ageing: u32) -> Vec<FdbEntry> {
        let all = (0..self.table.buckets()).flat_map(|b| self.table.bucket(b));
        let valid = all.filter(|(_, _, value)| value.age(now) <= ageing);
        let entry = |(_, key, value): (Slot, Key, Value)| FdbEntry {
            vid: key.vid(),
            mac: key.mac(),
            port: value.port(),
            age: value.age(now),
            is_static: value.is_static(),
        };
        valid.map(entry).collect()
    }

    /// Entries now, learned and static.
    pub fn len(&self) -> usize {
        self.len.load(Relaxed)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Most entries, learned and static.
    pub fn max_macs(&self) -> u32 {
        self.max_macs as u32
    }

    /// Learned addresses behind a port.
    pub fn learned_on(&self, port: PortId) -> u32 {
        self.ports.learned(port)
    }

    /// What has happened so far.
    pub fn counters(&self) -> FdbCounters {
        let c = &self.counters;
        FdbCounters {
            learned: c.learned.load(Relaxed),
            moved: c.moved.load(Relaxed),
            evicted: c.evicted.load(Relaxed),
            refused: c.refused.load(Relaxed),
            aged: c.aged.load(Relaxed),
        }
    }

    /// Removes aged entries, looking at no more than `budget` buckets per call and going on where the last
    /// call stopped. May be called from the packet path: where a writer is busy it leaves entries for the
    /// next round.
    pub fn sweep(&self, now: u32, ageing: u32, budget: usize) {
        if self.is_empty() {
            return;
        }
        let buckets = self.table.buckets();
        let budget = budget.min(buckets);
        let start = self.hand.fetch_add(budget, Relaxed);
        for i in 0..budget {
            let index = (start + i) % buckets;
            if !self.table.bucket(index).any(|(_, _, value)| value.age(now) > ageing) {
                continue;
            }
            let Some(mut writer) = self.try_lock() else { continue };
            // Again, now that nothing but stamps can change.
            for (slot, _, value) in self.table.bucket(index) {
                if value.age(now) > ageing {
                    self.delete(&mut writer, slot, value);
                    count(&self.counters.aged);
                }
            }
        }
    }

    /// Which port an address is behind: not older than `ageing` seconds at `now`.
    #[inline]
    pub fn lookup(&self, now: u32, ageing: u32, vid: VlanId, mac: MacAddr) -> Option<PortId> {
        let key = Key::new(vid, mac);
        self.lookup_at(now, ageing, key, self.table.place(key))
    }

    #[inline]
    pub(crate) fn lookup_at(&self, now: u32, ageing: u32, key: Key, place: Place) -> Option<PortId> {
        let (_, value) = self.table.find(key, place)?;
        (value.age(now) <= ageing).then_some(value.port())
    }

    /// Notes that an address was seen behind a port, which may have at most `limit` learned addresses (0: no
    /// limit). Stamps are renewed at most once a second. Never waits.
    #[inline]
    pub fn learn(&self, now: u32, vid: VlanId, mac: MacAddr, port: PortId, limit: u32) {
        let key = Key::new(vid, mac);
        self.learn_at(now, key, self.table.place(key), port, limit);
    }

    #[inline]
    pub(crate) fn learn_at(&self, now: u32, key: Key, place: Place, port: PortId, limit: u32) -> Learned {
        match self.table.find(key, place) {
            Some((_, value)) if value.is_static() => Learned::Known,
            Some((slot, value)) if value.port() == port => {
                if value.stamp() >= now {
                    return Learned::Known;
                }
                self.table.renew(slot, value, now);
                Learned::Changed
            }
            _ => self.learn_new(now, key, place, port, limit),
        }
    }

    /// Where a key may be.
    #[inline]
    pub(crate) fn place(&self, key: Key) -> Place {
        self.table.place(key)
    }

    /// Asks for the cache lines of a place, without waiting for them.
    #[inline]
    pub(crate) fn touch(&self, place: Place) {
        self.table.touch(place);
    }

    /// Whether one more frame from this port may be flooded in this second.
    #[inline]
    pub(crate) fn admit_flood(&self, port: PortId, now: u32, limit: u32) -> bool {
        self.ports.of(port).admit_flood(now, limit)
    }

    /// Makes the port's state, so that its first packet need not.
    pub(crate) fn expect_port(&self, port: PortId) {
        self.ports.of(port);
    }

    fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Option<MutexGuard<'_, Writer>> {
        match self.writer.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(e)) => Some(e.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    #[cold]
    fn learn_new(&self, now: u32, key: Key, place: Place, port: PortId, limit: u32) -> Learned {
        let Some(mut writer) = self.try_lock() else { return Learned::Skipped };
        // Another worker may have been faster.
        match self.table.find(key, place) {
            Some((_, value)) if value.is_static() || value.port() == port => Learned::Known,
            Some((slot, value)) => {
                self.move_to(&mut writer, slot, value, port, now, limit);
                Learned::Changed
            }
            None if self.insert(&mut writer, key, place, port, now, limit) => Learned::Changed,
            None => Learned::Skipped,
        }
    }

    fn move_to(&self, writer: &mut Writer, slot: Slot, value: Value, port: PortId, now: u32, limit: u32) {
        self.enforce(writer, port, limit);
        writer.links.remove(self.ports.of(value.port()), slot);
        self.table.replace(slot, Value::new(port, now, false));
        self.append(writer, slot, port);
        count(&self.counters.moved);
    }

    /// Adds a learned entry that is not there, making room if need be.
    fn insert(&self, w: &mut Writer, key: Key, place: Place, port: PortId, now: u32, limit: u32) -> bool {
        let Some(slot) = self.make_room(w, place, port, limit) else {
            count(&self.counters.refused);
            return false;
        };
        self.table.occupy(slot, key, Value::new(port, now, false));
        self.len.store(self.len() + 1, Relaxed);
        self.append(w, slot, port);
        count(&self.counters.learned);
        true
    }

    /// Makes room for one more entry within the port's own limit. Two at most at a time: after the limit was
    /// lowered, that takes the port there with its next few addresses.
    fn enforce(&self, writer: &mut Writer, port: PortId, limit: u32) {
        for _ in 0..2 {
            if limit > 0 && self.ports.learned(port) >= limit {
                self.evict_oldest(writer, port);
            }
        }
    }

    /// An empty slot for one more learned entry of `port`, within all limits.
    fn make_room(&self, w: &mut Writer, place: Place, port: PortId, limit: u32) -> Option<Slot> {
        self.enforce(w, port, limit);
        if self.len() >= self.max_macs {
            let own = self.ports.learned(port);
            let heaviest = self.heaviest(w);
            let victim = if self.ports.learned(heaviest) > own { heaviest } else { port };
            if !self.evict_oldest(w, victim) {
                return None;
            }
        }
        if let Some(slot) = self.table.free_slot(place) {
            return Some(slot);
        }
        // Both buckets are full, which half-full tables hardly ever come to. The same rule among those.
        let learned = self.table.neighbours(place).filter(|(_, _, value)| !value.is_static());
        let weight = |value: &Value| self.ports.learned(value.port());
        let (slot, _, value) = learned.max_by_key(|(_, _, v)| (weight(v), std::cmp::Reverse(v.stamp())))?;
        if value.port() != port && weight(&value) <= self.ports.learned(port) {
            return None;
        }
        self.delete(w, slot, value);
        count(&self.counters.evicted);
        Some(slot)
    }

    fn insert_static(&self, w: &mut Writer, key: Key, port: PortId) -> bool {
        let place = self.table.place(key);
        let value = Value::new(port, 0, true);
        if let Some((slot, old)) = self.table.find(key, place) {
            if !old.is_static() {
                w.links.remove(self.ports.of(old.port()), slot);
            }
            self.table.replace(slot, value);
            return true;
        }
        if self.len() >= self.max_macs {
            // No packet waits for this, so the heaviest port is searched for.
            let all = (0..self.table.buckets()).flat_map(|b| self.table.bucket(b));
            let learned = all.filter(|(_, _, value)| !value.is_static()).map(|(_, _, value)| value.port());
            match learned.max_by_key(|&port| self.ports.learned(port)) {
                Some(heaviest) => self.evict_oldest(w, heaviest),
                None => return false,
            };
        }
        let slot = self.table.free_slot(place).or_else(|| {
            let (slot, _, old) = self.table.neighbours(place).find(|(_, _, value)| !value.is_static())?;
            self.delete(w, slot, old);
            count(&self.counters.evicted);
            Some(slot)
        });
        let Some(slot) = slot else { return false };
        self.table.occupy(slot, key, value);
        self.len.store(self.len() + 1, Relaxed);
        true
    }

    fn append(&self, writer: &mut Writer, slot: Slot, port: PortId) {
        writer.links.append(self.ports.of(port), slot);
        if self.ports.learned(port) > self.ports.learned(writer.heaviest) {
            writer.heaviest = port;
        }
    }

    /// Removes an entry of either kind.
    fn delete(&self, writer: &mut Writer, slot: Slot, value: Value) {
        if !value.is_static() {
            writer.links.remove(self.ports.of(value.port()), slot);
        }
        self.table.vacate(slot);
        self.len.store(self.len() - 1, Relaxed);
    }

    /// The port with the most learned entries. What is remembered goes wrong when that port loses entries
    /// while another, lighter before, gains none; looking at one bucket per call puts it right soon.
    fn heaviest(&self, writer: &mut Writer) -> PortId {
        // A few buckets when the memory is of no use at all, one otherwise.
        for _ in 0..8 {
            writer.probe = (writer.probe + 1) % self.table.buckets();
            for (_, _, value) in self.table.bucket(writer.probe) {
                if self.ports.learned(value.port()) > self.ports.learned(writer.heaviest) {
                    writer.heaviest = value.port();
                }
            }
            if self.ports.learned(writer.heaviest) > 0 {
                break;
            }
        }
        writer.heaviest
    }

    /// Evicts a port's oldest learned entry; false when it has none. The list is in the order of learning,
    /// renewals not counted: of its first few the one unseen for longest goes, and those seen since then are
    /// moved to the end.
    fn evict_oldest(&self, writer: &mut Writer, port: PortId) -> bool {
        let state = self.ports.of(port);
        let Some(first) = writer.links.oldest(state) else { return false };
        let mut looked = [first; EVICT_LOOK];
        let mut n = 1;
        while n < EVICT_LOOK
            && let Some(next) = writer.links.newer(looked[n - 1])
        {
            looked[n] = next;
            n += 1;
        }
        let value = |slot: Slot| self.table.read(slot).map(|(_, value)| value);
        let stamp = |slot: &Slot| value(*slot).map_or(0, Value::stamp);
        let Some(&oldest) = looked[..n].iter().min_by_key(|slot| stamp(slot)) else { return false };
        let Some(victim) = value(oldest) else { return false };
        for &slot in &looked[..n] {
            if stamp(&slot) > victim.stamp() {
                writer.links.remove(state, slot);
                writer.links.append(state, slot);
            }
        }
        self.delete(writer, oldest, victim);
        count(&self.counters.evicted);
        true
    }

    /// Removes entries bucket by bucket, so that the lock is never held for long.
    fn remove_where(&self, select: impl Fn(Key, Value) -> bool) -> usize {
        let mut removed = 0;
        for index in 0..self.table.buckets() {
            if !self.table.bucket(index).any(|(_, key, value)| select(key, value)) {
                continue;
            }
            let writer = &mut *self.lock();
            for (slot, key, value) in self.table.bucket(index) {
                if select(key, value) {
                    self.delete(writer, slot, value);
                    removed += 1;
                }
            }
        }
        removed
    }
}
