//! Neighbours: which MAC address an address on a link has (RFC 826, RFC 4861 §7.3). One table for all workers.
//!
//! # Protocol
//!
//! A slot holds a key (interface and address) and a value (MAC address and state). The value is one word, so a
//! reader has a whole one. A key changes only between two odd-even steps of the slot's sequence number, by
//! which a reader notices. Whoever changes anything holds the lock, which the packet path only tries for
//! moments: what it cannot do now, the protocol repeats.
//!
//! # Limits
//!
//! An entry begins when a packet is to be sent there, never by what somebody says; what is said changes those
//! that are there, at once. Per interface a part of the table, and a smaller part without answer yet, so a
//! scan of one network leaves room for others and evicts nobody who answers.

mod entry;

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicU64, fence};

use parking_lot::{Mutex, MutexGuard};
use trunkline_packet::MacAddr;

use entry::{Count, NeighbourState as State, Slot, Value};
pub use entry::{Limits, Neighbour, NeighbourState};
pub(crate) use entry::{Lookup, Request, Word};

use crate::iface::IfaceId;

/// RFC 4861 §10, milliseconds: REACHABLE_TIME, DELAY_FIRST_PROBE_TIME, RETRANS_TIMER.
const REACHABLE: u64 = 30_000;
const DELAY: u64 = 5_000;
const RETRANS: u64 = 1_000;
/// RFC 4861 §10: MAX_MULTICAST_SOLICIT and MAX_UNICAST_SOLICIT.
const TRIES: u64 = 3;
/// How long an address that did not answer is not asked for again, milliseconds.
const HOLD_DOWN: u64 = 1_000;
/// How long an entry that nobody uses is kept, milliseconds.
const KEEP: u64 = 600_000;
/// Slots that a key may be in.
const WINDOW: usize = 8;
/// Slots looked at for an interface's own entry to give up, when its limit is reached and none is near.
const SEARCH: usize = 64;
/// Slots looked at per housekeeping.
const SWEEP: usize = 512;
/// Tries for the lock.
const PATIENCE: usize = 64;
/// The interface of an empty slot.
const EMPTY: u64 = u64::MAX;

#[derive(Default)]
struct Inner {
    /// Slots in which something is due.
    watched: Vec<u32>,
    counts: HashMap<u16, Count>,
    /// Where the sweep goes on.
    sweep: usize,
    /// Where the search for an entry to give up goes on.
    hand: usize,
}

/// The table.
pub struct Neighbours {
    slots: Box<[Slot]>,
    hash: foldhash::quality::RandomState,
    limits: Limits,
    /// When the first thing is due, milliseconds.
    next: AtomicU64,
    /// Grows when an entry that packets may wait for was answered or given up.
    generation: AtomicU64,
    inner: Mutex<Inner>,
}

impl std::fmt::Debug for Neighbours {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Neighbours").field("limits", &self.limits).finish_non_exhaustive()
    }
}

pub(crate) fn bits(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().to_bits(),
        IpAddr::V6(a) => a.to_bits(),
    }
}

impl Neighbours {
    /// An empty table. All its memory is reserved here.
    pub fn new(limits: Limits) -> Neighbours {
        let count = (2 * limits.total).next_power_of_two().max(WINDOW);
        let slot = || Slot { iface: AtomicU64::new(EMPTY), ..Slot::default() };
        let inner = Inner { watched: Vec::with_capacity(count), ..Inner::default() };
        Neighbours {
            slots: std::iter::repeat_with(slot).take(count).collect(),
            hash: foldhash::quality::RandomState::default(),
            limits,
            next: AtomicU64::new(u64::MAX),
            generation: AtomicU64::new(0),
            inner: Mutex::new(inner),
        }
    }

    /// Changes whenever packets that wait may go on, or have waited in vain.
    #[inline]
    pub fn generation(&self) -> u64 {
        self.generation.load(Acquire)
    }

    /// When something is due, milliseconds; `u64::MAX` for never.
    pub fn next_due(&self) -> u64 {
        self.next.load(Relaxed)
    }

    /// All entries, in no order.
    pub fn list(&self, now: u64) -> Vec<Neighbour> {
        let entries = (0..self.slots.len()).filter_map(|at| {
            let (iface, addr, value) = self.read(at)?;
            let since = self.slots[at].since.load(Relaxed);
            let mut state = value.state();
            if state == State::Reachable && now.saturating_sub(since) > REACHABLE {
                state = State::Stale;
            }
            let unknown = value.mac().is_zero();
            Some(Neighbour {
                iface: IfaceId(iface as u16),
                addr: Ipv6Addr::from_bits(addr).to_canonical(),
                mac: (!unknown).then(|| value.mac()),
                state,
                age: now.saturating_sub(since),
            })
        });
        entries.collect()
    }

    /// Makes these the static neighbours of an interface, in place of those before. Those beyond the limit of
    /// the whole table are left out.
    pub fn set_static(&self, now: u64, iface: IfaceId, neighbours: &[(IpAddr, MacAddr)]) {
        let mut inner = self.inner.lock();
        for at in 0..self.slots.len() {
            let Some((i, addr, value)) = self.read(at) else { continue };
            let stays = neighbours.iter().any(|n| bits(n.0) == addr);
            if i == u64::from(iface.0) && value.state() == State::Static && !stays {
                self.clear(&mut inner, at);
            }
        }
        for &(addr, mac) in neighbours {
            let found = self.find(iface, bits(addr)).map(|f| f.0);
            let at = found.or_else(|| self.insert(now, &mut inner, iface, bits(addr)));
            if let Some(at) = at {
                self.set(now, &mut inner, at, Value::new(mac, 0, State::Static), u64::MAX);
            }
        }
        self.generation.fetch_add(1, Release);
    }

    /// Removes all entries of an interface.
    pub fn forget(&self, iface: IfaceId) {
        let mut inner = self.inner.lock();
        for at in 0..self.slots.len() {
            if self.read(at).is_some_and(|(i, ..)| i == u64::from(iface.0)) {
                self.clear(&mut inner, at);
            }
        }
        self.generation.fetch_add(1, Release);
    }

    /// What to do with a packet for this neighbour.
    #[inline]
    pub(crate) fn resolve(&self, now: u64, iface: IfaceId, addr: IpAddr) -> Lookup {
        let Some((at, value)) = self.find(iface, bits(addr)) else { return self.begin(now, iface, addr) };
        let age = now.saturating_sub(self.slots[at].since.load(Relaxed));
        match value.state() {
            State::Static | State::Delay | State::Probe => Lookup::Mac(value.mac()),
            State::Reachable if age <= REACHABLE => Lookup::Mac(value.mac()),
            State::Reachable | State::Stale => {
                self.wake(now, iface, addr);
                Lookup::Mac(value.mac())
            }
            State::Incomplete => Lookup::Wait,
            State::Failed if age <= HOLD_DOWN => Lookup::Unreachable,
            State::Failed => self.begin(now, iface, addr),
        }
    }

    /// Who has answered for an address since then, milliseconds.
    pub(crate) fn answered(&self, since: u64, iface: IfaceId, addr: IpAddr) -> Option<MacAddr> {
        let (at, value) = self.find(iface, bits(addr))?;
        let fresh = self.slots[at].since.load(Relaxed) >= since;
        (fresh && value.state() == State::Reachable).then(|| value.mac())
    }

    /// As [`Neighbours::resolve`], for one that may be in this slot and about which nothing is to be done; else `None`.
    #[inline]
    pub(crate) fn resolve_at(&self, slot: u32, now: u64, iface: IfaceId, addr: u128) -> Option<MacAddr> {
        let at = slot as usize & (self.slots.len() - 1);
        let (i, a, value) = self.read(at)?;
        let state = value.state();
        let fresh = matches!(state, State::Static | State::Delay | State::Probe)
            || state == State::Reachable
                && now.saturating_sub(self.slots[at].since.load(Relaxed)) <= REACHABLE;
        (fresh && i == u64::from(iface.0) && a == addr).then(|| value.mac())
    }

    /// In which slot it is.
    pub(crate) fn slot_of(&self, iface: IfaceId, addr: IpAddr) -> Option<u32> {
        self.find(iface, bits(addr)).map(|found| found.0 as u32)
    }

    /// Takes note of what somebody said. Whether it changed anything.
    pub(crate) fn learn(&self, now: u64, iface: IfaceId, addr: IpAddr, mac: MacAddr, word: Word) -> bool {
        let key = bits(addr);
        // Most of what is said is about nobody we know.
        if mac.is_group() || mac.is_zero() || self.find(iface, key).is_none() {
            return false;
        }
        let Some(mut inner) = self.lock() else { return false };
        let Some((at, value)) = self.find(iface, key) else { return false };
        let (state, same) = (value.state(), value.mac() == mac);
        let unknown = matches!(state, State::Incomplete | State::Failed);
        let (mac, next) = match word {
            _ if state == State::Static => return false,
            Word::Answer { solicited: true, replaces } if unknown || replaces || same => {
                (mac, State::Reachable)
            }
            Word::Answer { .. } | Word::Question if unknown => (mac, State::Stale),
            Word::Answer { replaces: false, .. } if state == State::Reachable && !same => {
                (value.mac(), State::Stale)
            }
            Word::Answer { replaces: true, .. } | Word::Question if !same => (mac, State::Stale),
            _ => return false,
        };
        self.set(now, &mut inner, at, Value::new(mac, 0, next), u64::MAX);
        if unknown {
            self.generation.fetch_add(1, Release);
        }
        true
    }

    /// Carries out what is due: requests to send, and entries to give up.
    pub(crate) fn tick(&self, now: u64, mut ask: impl FnMut(Request)) {
        let Some(mut inner) = self.lock() else { return };
        if self.next.load(Relaxed) <= now {
            let mut watched = std::mem::take(&mut inner.watched);
            let mut next = u64::MAX;
            watched.retain(|&at| {
                let due = self.advance(now, &mut inner, at as usize, &mut ask);
                next = next.min(due);
                due != u64::MAX
            });
            inner.watched = watched;
            self.next.store(next, Relaxed);
        }
        self.sweep(now, &mut inner);
    }

    /// What is due in one slot, and when something is again.
    fn advance(&self, now: u64, inner: &mut Inner, at: usize, ask: &mut impl FnMut(Request)) -> u64 {
        let Some((iface, addr, value)) = self.read(at) else { return u64::MAX };
        let due = self.slots[at].due.load(Relaxed);
        if due > now {
            return due;
        }
        let (mac, tries) = (value.mac(), value.tries());
        let next = match value.state() {
            State::Incomplete if tries >= TRIES => {
                self.set_value(now, inner, at, Value::new(mac, 0, State::Failed), u64::MAX);
                self.generation.fetch_add(1, Release);
                return u64::MAX;
            }
            // The next packet asks everybody.
            State::Probe if tries >= TRIES => {
                self.clear(inner, at);
                return u64::MAX;
            }
            State::Incomplete => State::Incomplete,
            State::Delay | State::Probe => State::Probe,
            _ => return u64::MAX,
        };
        let tries = if value.state() == State::Delay { 1 } else { tries + 1 };
        self.set_value(now, inner, at, Value::new(mac, tries, next), now + RETRANS);
        ask(Request {
            iface: IfaceId(iface as u16),
            addr: Ipv6Addr::from_bits(addr).to_canonical(),
            mac: (next == State::Probe).then_some(mac),
        });
        now + RETRANS
    }

    fn sweep(&self, now: u64, inner: &mut Inner) {
        for _ in 0..SWEEP.min(self.slots.len()) {
            let at = inner.sweep;
            inner.sweep = (at + 1) % self.slots.len();
            let Some((_, _, value)) = self.read(at) else { continue };
            let age = now.saturating_sub(self.slots[at].since.load(Relaxed));
            let over = match value.state() {
                State::Failed => age > HOLD_DOWN,
                State::Reachable | State::Stale => age > KEEP,
                _ => false,
            };
            if over {
                self.clear(inner, at);
            }
        }
    }

    fn lock(&self) -> Option<MutexGuard<'_, Inner>> {
        for _ in 0..PATIENCE {
            if let Some(inner) = self.inner.try_lock() {
                return Some(inner);
            }
            std::hint::spin_loop();
        }
        None
    }

    /// A first packet.
    #[cold]
    fn begin(&self, now: u64, iface: IfaceId, addr: IpAddr) -> Lookup {
        let Some(mut inner) = self.lock() else { return Lookup::Full };
        let key = bits(addr);
        let at = match self.find(iface, key) {
            // Another worker was faster.
            Some((_, value)) if value.state() == State::Incomplete => return Lookup::Wait,
            Some((_, value)) if value.state() != State::Failed => return Lookup::Mac(value.mac()),
            found => {
                let count = inner.counts.entry(iface.0).or_default();
                if count.unresolved >= self.limits.unresolved {
                    return Lookup::Full;
                }
                match found.map(|f| f.0).or_else(|| self.insert(now, &mut inner, iface, key)) {
                    Some(at) => at,
                    None => return Lookup::Full,
                }
            }
        };
        self.set(now, &mut inner, at, Value::new(MacAddr::default(), 1, State::Incomplete), now + RETRANS);
        Lookup::Ask
    }

    /// A packet for one not heard of lately.
    #[cold]
    fn wake(&self, now: u64, iface: IfaceId, addr: IpAddr) {
        let Some(mut inner) = self.lock() else { return };
        if let Some((at, value)) = self.find(iface, bits(addr))
            && matches!(value.state(), State::Reachable | State::Stale)
        {
            self.set(now, &mut inner, at, Value::new(value.mac(), 0, State::Delay), now + DELAY);
        }
    }

    fn window(&self, iface: IfaceId, addr: u128) -> impl Iterator<Item = usize> + use<> {
        let start = self.hash.hash_one(addr ^ u128::from(iface.0) << 112) as usize;
        let mask = self.slots.len() - 1;
        (0..WINDOW).map(move |i| (start + i) & mask)
    }

    #[inline]
    fn find(&self, iface: IfaceId, addr: u128) -> Option<(usize, Value)> {
        self.window(iface, addr).find_map(|at| match self.read(at) {
            Some((i, a, value)) if i == u64::from(iface.0) && a == addr => Some((at, value)),
            _ => None,
        })
    }

    /// Interface, address and value of a slot; `None` when it is empty or just being changed.
    #[inline]
    fn read(&self, at: usize) -> Option<(u64, u128, Value)> {
        let slot = &self.slots[at];
        let before = slot.sequence.load(Acquire);
        let iface = slot.iface.load(Relaxed);
        if before & 1 != 0 || iface == EMPTY {
            return None;
        }
        let addr = u128::from(slot.hi.load(Relaxed)) << 64 | u128::from(slot.lo.load(Relaxed));
        let value = Value(slot.value.load(Relaxed));
        fence(Acquire);
        (slot.sequence.load(Relaxed) == before).then_some((iface, addr, value))
    }

    fn write_key(&self, at: usize, iface: u64, addr: u128, value: u64) {
        let slot = &self.slots[at];
        let sequence = slot.sequence.load(Relaxed);
        slot.sequence.store(sequence.wrapping_add(1), Relaxed);
        fence(Release);
        slot.iface.store(iface, Relaxed);
        slot.hi.store((addr >> 64) as u64, Relaxed);
        slot.lo.store(addr as u64, Relaxed);
        slot.value.store(value, Relaxed);
        slot.sequence.store(sequence.wrapping_add(2), Release);
    }

    fn clear(&self, inner: &mut Inner, at: usize) {
        if let Some((iface, _, value)) = self.read(at) {
            let count = inner.counts.entry(iface as u16).or_default();
            count.entries -= 1;
            if value.state() == State::Incomplete {
                count.unresolved -= 1;
                self.generation.fetch_add(1, Release);
            }
            self.write_key(at, EMPTY, 0, 0);
        }
    }

    /// A slot for a new key, as failed; counted. Room is made, if need be, of entries that nobody uses.
    fn insert(&self, now: u64, inner: &mut Inner, iface: IfaceId, addr: u128) -> Option<usize> {
        let full = inner.counts.entry(iface.0).or_default().entries >= self.limits.per_iface;
        let free = self.window(iface, addr).find(|&at| self.slots[at].iface.load(Relaxed) == EMPTY);
        let may_go = |at: &usize| {
            self.read(*at).is_some_and(|(i, _, value)| {
                let age = now.saturating_sub(self.slots[*at].since.load(Relaxed));
                let idle = match value.state() {
                    State::Failed | State::Stale => true,
                    State::Reachable => age > REACHABLE,
                    _ => false,
                };
                idle && (!full || i == u64::from(iface.0))
            })
        };
        let at = match free.filter(|_| !full) {
            Some(at) => at,
            None => {
                let near = self.window(iface, addr).filter(may_go);
                match near.min_by_key(|&at| self.slots[at].since.load(Relaxed)) {
                    Some(at) => {
                        self.clear(inner, at);
                        at
                    }
                    // An entry elsewhere makes room below the limit, if not a slot.
                    None => {
                        let (free, mask) = (free?, self.slots.len() - 1);
                        let from = inner.hand;
                        let far = (1..=SEARCH).map(|i| (from + i) & mask).find(may_go);
                        inner.hand = far.unwrap_or(from + SEARCH) & mask;
                        self.clear(inner, far?);
                        free
                    }
                }
            }
        };
        inner.counts.entry(iface.0).or_default().entries += 1;
        self.slots[at].since.store(now, Relaxed);
        let value = Value::new(MacAddr::default(), 0, State::Failed);
        self.write_key(at, u64::from(iface.0), addr, value.0);
        Some(at)
    }

    /// Changes an entry, and has it looked at when something is due.
    fn set(&self, now: u64, inner: &mut Inner, at: usize, value: Value, due: u64) {
        self.set_value(now, inner, at, value, due);
        if due != u64::MAX {
            if !inner.watched.contains(&(at as u32)) {
                inner.watched.push(at as u32);
            }
            self.next.fetch_min(due, Relaxed);
        }
    }

    fn set_value(&self, now: u64, inner: &mut Inner, at: usize, value: Value, due: u64) {
        let slot = &self.slots[at];
        let was = Value(slot.value.load(Relaxed)).state();
        let count = inner.counts.entry(slot.iface.load(Relaxed) as u16).or_default();
        if was == State::Incomplete {
            count.unresolved -= 1;
        }
        if value.state() == State::Incomplete {
            count.unresolved += 1;
        }
        // Times first: a reader that sees the new state must not judge it by the old one's age.
        if was != value.state() || value.state() == State::Reachable {
            slot.since.store(now, Relaxed);
        }
        slot.due.store(due, Relaxed);
        slot.value.store(value.0, Release);
    }
}

#[cfg(test)]
#[path = "neighbour_tests.rs"]
mod tests;
