//! When entries expire: a timing wheel of one-second slots, at a cost that does not depend on how many there
//! are.
//!
//! A packet only writes a later deadline into its entry. When the slot comes round in which the entry was
//! put, the entry either has expired or is put into the slot of its present deadline, so each is looked at
//! about once per timeout, and packets touch no list.

use crate::list::{Links, List, NIL};

/// Milliseconds in a tick, as a shift: deadlines are in units of 128 ms, which 32 bits hold for 17 years.
const TICK: u32 = 7;
/// Ticks in a slot, as a shift.
const SLOT: u32 = 3;
/// Slots: 8,191 seconds and a bit; later deadlines wait in the last one and are put again.
const SLOTS: u32 = 8192;

/// A point in time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Tick(u32);

impl Tick {
    pub(crate) fn at(now: u64) -> Tick {
        Tick((now >> TICK).min(u64::from(u32::MAX)) as u32)
    }

    /// The first tick that is not before `now + after`: nothing lives shorter than it should.
    #[inline]
    pub(crate) fn after(now: u64, after: u64) -> Tick {
        Tick((now.saturating_add(after) >> TICK).saturating_add(1).min(u64::from(u32::MAX)) as u32)
    }

    /// Milliseconds until then, 0 when past.
    pub(crate) fn remaining(self, now: u64) -> u64 {
        (u64::from(self.0) << TICK).saturating_sub(now)
    }
}

/// What the wheel needs of an entry.
pub(crate) trait Timed {
    fn deadline(&self) -> Tick;
    fn links(&mut self) -> &mut Links;
    /// In which slot it is; the wheel's own.
    fn slot(&mut self) -> &mut u16;
}

pub(crate) struct Wheel {
    slots: Box<[List]>,
    /// The slot to look at next, counted from the epoch.
    cursor: Option<u32>,
}

impl Wheel {
    pub(crate) fn new() -> Wheel {
        Wheel { slots: vec![List::NEW; SLOTS as usize].into(), cursor: None }
    }

    /// Puts in an entry that is in no slot.
    pub(crate) fn add<T: Timed>(&mut self, now: Tick, at: u32, entries: &mut [T]) {
        let first = *self.cursor.get_or_insert(now.0 >> SLOT);
        // Past the slot that holds the deadline, so that it has passed when the slot is looked at.
        let due = (entries[at as usize].deadline().0 >> SLOT).saturating_add(1);
        let slot = (due.clamp(first, first.saturating_add(SLOTS - 1)) % SLOTS) as u16;
        self.slots[usize::from(slot)].push(at, entries, T::links);
        *entries[at as usize].slot() = slot;
    }

    /// Takes out an entry that is in.
    pub(crate) fn remove<T: Timed>(&mut self, at: u32, entries: &mut [T]) {
        let slot = *entries[at as usize].slot();
        self.slots[usize::from(slot)].remove(at, entries, T::links);
    }

    /// The next entry that has expired, still in. Spends at most `budget` on looking.
    pub(crate) fn expired<T: Timed>(
        &mut self,
        now: Tick,
        budget: &mut usize,
        entries: &mut [T],
    ) -> Option<u32> {
        let today = now.0 >> SLOT;
        let mut cursor = self.cursor?;
        // After a long silence every slot is looked at once.
        cursor = cursor.max(today.saturating_sub(SLOTS - 1));
        self.cursor = Some(cursor);
        while cursor <= today && *budget > 0 {
            *budget -= 1;
            match self.slots[(cursor % SLOTS) as usize].first {
                NIL => {
                    cursor += 1;
                    self.cursor = Some(cursor);
                }
                at if entries[at as usize].deadline() <= now => return Some(at),
                at => {
                    self.remove(at, entries);
                    self.add(now, at, entries);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Entry(Tick, Links, u16);

    impl Timed for Entry {
        fn deadline(&self) -> Tick {
            self.0
        }
        fn links(&mut self) -> &mut Links {
            &mut self.1
        }
        fn slot(&mut self) -> &mut u16 {
            &mut self.2
        }
    }

    #[test]
    fn nothing_expires_early_and_everything_within_two_seconds() {
        let timeouts = [1u64, 999, 60_000, 300_000, 7_440_000, 20_000_000];
        let start = 5_000_000_000u64;
        let mut entries: Vec<Entry> =
            timeouts.iter().map(|&t| Entry(Tick::after(start, t), Links::NONE, 0)).collect();
        let mut wheel = Wheel::new();
        (0..6).for_each(|i| wheel.add(Tick::at(start), i, &mut entries));
        let mut gone = Vec::new();
        for second in 0..20_010u64 {
            let now = start + second * 1000;
            let mut budget = 100;
            while let Some(at) = wheel.expired(Tick::at(now), &mut budget, &mut entries) {
                wheel.remove(at, &mut entries);
                let lived = now - start;
                assert!(
                    (timeouts[at as usize]..timeouts[at as usize] + 3000).contains(&lived),
                    "{at} {lived}"
                );
                gone.push(at);
            }
        }
        assert_eq!(gone, [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn after_a_long_silence_all_is_found() {
        let mut entries = [Entry(Tick::after(0, 60_000), Links::NONE, 0)];
        let mut wheel = Wheel::new();
        wheel.add(Tick::at(0), 0, &mut entries);
        let mut budget = 3 * SLOTS as usize;
        assert_eq!(wheel.expired(Tick::at(1 << 38), &mut budget, &mut entries), Some(0));
    }
}
