//! What the table keeps per port: the list of its learned entries, and its flood budget.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use trunkline_packet::PortId;

use super::table::Slot;

/// Ports whose state is allocated together, when the first of them is used.
const CHUNK: usize = 64;
const CHUNKS: usize = (u16::MAX as usize + 1) / CHUNK;

/// One port's state. The list is changed only with the writers' lock held; the rest by anybody.
pub(super) struct PortState {
    /// Length of the list.
    learned: AtomicU32,
    oldest: AtomicU32,
    newest: AtomicU32,
    /// The second (high half) and how many floods were let through in it (low half).
    floods: AtomicU64,
}

impl PortState {
    fn new() -> PortState {
        PortState {
            learned: AtomicU32::new(0),
            oldest: AtomicU32::new(NIL),
            newest: AtomicU32::new(NIL),
            floods: AtomicU64::new(0),
        }
    }

    /// Whether one more flooded frame is within `limit` per second. The engine's clock has seconds, so the
    /// bucket is filled once per second and holds one second's worth.
    pub(super) fn admit_flood(&self, now: u32, limit: u32) -> bool {
        let take = |word: u64| {
            let (second, used) = ((word >> 32) as u32, word as u32);
            match () {
                // A worker that read the clock earlier must not open the last second again.
                () if now > second => Some(u64::from(now) << 32 | 1),
                () if used < limit => Some(word + 1),
                () => None,
            }
        };
        limit > 0 && self.floods.fetch_update(Relaxed, Relaxed, take).is_ok()
    }
}

/// The state of every port, by id.
pub(super) struct PortStates(Box<[OnceLock<Box<[PortState]>>]>);

impl PortStates {
    pub(super) fn new() -> PortStates {
        PortStates((0..CHUNKS).map(|_| OnceLock::new()).collect())
    }

    /// A port's state, made if need be.
    #[inline]
    pub(super) fn of(&self, port: PortId) -> &PortState {
        let chunk =
            self.0[port.index() / CHUNK].get_or_init(|| (0..CHUNK).map(|_| PortState::new()).collect());
        &chunk[port.index() % CHUNK]
    }

    /// Learned entries of a port.
    #[inline]
    pub(super) fn learned(&self, port: PortId) -> u32 {
        match self.0[port.index() / CHUNK].get() {
            Some(chunk) => chunk[port.index() % CHUNK].learned.load(Relaxed),
            None => 0,
        }
    }
}

/// No slot.
const NIL: u32 = u32::MAX;

#[derive(Clone, Copy)]
struct Link {
    older: u32,
    newer: u32,
}

/// The learned entries of every port in the order they were learned, as lists through the slots. Part of
/// what the writers' lock protects.
pub(super) struct Links(Box<[Link]>);

impl Links {
    pub(super) fn new(slots: usize) -> Links {
        Links(vec![Link { older: NIL, newer: NIL }; slots].into_boxed_slice())
    }

    pub(super) fn oldest(&self, port: &PortState) -> Option<Slot> {
        slot(port.oldest.load(Relaxed))
    }

    pub(super) fn newer(&self, at: Slot) -> Option<Slot> {
        slot(self.0[at.0 as usize].newer)
    }

    /// Appends a slot as the port's newest.
    pub(super) fn append(&mut self, port: &PortState, at: Slot) {
        let last = port.newest.load(Relaxed);
        self.0[at.0 as usize] = Link { older: last, newer: NIL };
        match slot(last) {
            Some(last) => self.0[last.0 as usize].newer = at.0,
            None => port.oldest.store(at.0, Relaxed),
        }
        port.newest.store(at.0, Relaxed);
        port.learned.store(port.learned.load(Relaxed) + 1, Relaxed);
    }

    /// Takes a slot out of the port's list.
    pub(super) fn remove(&mut self, port: &PortState, at: Slot) {
        let Link { older, newer } = self.0[at.0 as usize];
        match slot(older) {
            Some(older) => self.0[older.0 as usize].newer = newer,
            None => port.oldest.store(newer, Relaxed),
        }
        match slot(newer) {
            Some(newer) => self.0[newer.0 as usize].older = older,
            None => port.newest.store(older, Relaxed),
        }
        port.learned.store(port.learned.load(Relaxed) - 1, Relaxed);
    }
}

fn slot(index: u32) -> Option<Slot> {
    (index != NIL).then_some(Slot(index))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn listed(links: &Links, port: &PortState) -> Vec<u32> {
        std::iter::successors(links.oldest(port), |&s| links.newer(s)).map(|s| s.0).collect()
    }

    #[test]
    fn lists_keep_their_order() {
        let states = PortStates::new();
        let (a, b) = (states.of(PortId(0)), states.of(PortId(65534)));
        let mut links = Links::new(10);
        [3, 1, 7].into_iter().for_each(|s| links.append(a, Slot(s)));
        [2, 4].into_iter().for_each(|s| links.append(b, Slot(s)));
        assert_eq!((listed(&links, a), listed(&links, b)), (vec![3, 1, 7], vec![2, 4]));
        links.remove(a, Slot(1));
        links.append(a, Slot(1));
        assert_eq!(listed(&links, a), [3, 7, 1]);
        links.remove(a, Slot(3));
        links.remove(a, Slot(1));
        links.remove(a, Slot(7));
        assert_eq!((listed(&links, a), a.learned.load(Relaxed)), (vec![], 0));
        links.append(a, Slot(9));
        assert_eq!(
            (listed(&links, a), states.learned(PortId(0)), states.learned(PortId(65534))),
            (vec![9], 1, 2)
        );
        assert_eq!(states.learned(PortId(300)), 0);
    }

    #[test]
    fn floods_are_counted_per_second() {
        let p = PortState::new();
        let admitted = |now| (0..10).filter(|_| p.admit_flood(now, 3)).count();
        assert_eq!(admitted(5), 3);
        assert_eq!(admitted(5), 0);
        // A clock read a moment earlier by another worker opens nothing.
        assert_eq!(admitted(4), 0);
        assert_eq!(admitted(6), 3);
        // Idle seconds are not saved up.
        assert_eq!(admitted(100), 3);
    }
}
