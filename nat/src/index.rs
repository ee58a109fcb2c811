//! A hash index: buckets of one cache line, each with ten tags and ten values.
//!
//! The keys are kept with what the values point to, not here: a match of tags is a candidate, which the
//! caller verifies. A key lives in one of two buckets. It goes to the second only when the first is nearly
//! full, and the first then counts it, so that a lookup rarely reads two lines. At the load
//! it is made for, both being full was not seen in a hundred million insertions. The hash is seeded, so nobody outside can aim at a bucket.

use trunkline_packet::{prefer_huge_pages, prefetch};

const SLOTS: usize = 10;
/// Keys per bucket when all are there.
const LOAD: usize = 5;
/// A bucket this full gives new keys to the emptier one of the two.
const CROWDED: u32 = 6;
const EMPTY: u32 = u32::MAX;

#[derive(Clone)]
#[repr(C, align(64))]
struct Bucket {
    tags: [u16; SLOTS],
    /// Keys whose first bucket is this one, but which live in their second.
    elsewhere: u16,
    /// A bit for each slot that is taken. The value of one that is not is [`EMPTY`].
    taken: u16,
    values: [u32; SLOTS],
}

const NEW: Bucket = Bucket { tags: [0; SLOTS], elsewhere: 0, taken: 0, values: [EMPTY; SLOTS] };

/// From a hash to a number below `u32::MAX`.
pub(crate) struct Index {
    buckets: Box<[Bucket]>,
}

impl Index {
    /// An index for this many keys.
    pub(crate) fn new(keys: usize) -> Index {
        let count = keys.div_ceil(LOAD).max(2);
        let mut buckets = Vec::with_capacity(count);
        prefer_huge_pages(&buckets);
        buckets.resize(count, NEW);
        Index { buckets: buckets.into() }
    }

    #[inline]
    fn place(&self, hash: u64) -> (usize, usize, u16) {
        let n = self.buckets.len() as u64;
        let first = (((hash >> 32) * n) >> 32) as usize;
        let second = (((hash & 0xffff_ffff) * n) >> 32) as usize;
        (first, second, (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u16)
    }

    /// The value for which `is` holds, of those whose tag matches.
    #[inline(never)]
    pub(crate) fn find(&self, hash: u64, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let (first, second, tag) = self.place(hash);
        let bucket = &self.buckets[first];
        let found = bucket.matches(tag).find(|&v| is(v));
        if found.is_some() || bucket.elsewhere == 0 {
            return found;
        }
        self.buckets[second].matches(tag).find(|&v| is(v))
    }

    /// Has the first bucket of a hash brought near.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) {
        prefetch(&self.buckets[self.place(hash).0]);
    }

    /// The first candidate, not verified: what a batch reads ahead.
    #[inline(always)]
    pub(crate) fn candidate(&self, hash: u64) -> Option<u32> {
        // Mostly it is one of the first four: keys are put where there is room first.
        let (first, _, tag) = self.place(hash);
        let bucket = &self.buckets[first];
        let value = match bucket.same(0, tag) {
            0 => EMPTY,
            hits => bucket.values[hits.trailing_zeros() as usize / 16],
        };
        if value == EMPTY { self.find(hash, |_| true) } else { Some(value) }
    }

    /// Adds a key that is not there yet. False when both buckets are full.
    #[must_use]
    #[inline]
    pub(crate) fn insert(&mut self, hash: u64, value: u32) -> bool {
        let (first, second, tag) = self.place(hash);
        let len = self.buckets[first].len();
        if len < CROWDED || self.buckets[second].len() >= len {
            return self.buckets[first].put(tag, value);
        }
        let elsewhere = &mut self.buckets[first].elsewhere;
        let Some(more) = elsewhere.checked_add(1) else { return false };
        *elsewhere = more;
        // There is room: it has fewer than the first.
        self.buckets[second].put(tag, value)
    }

    /// Removes a key that is there.
    #[inline]
    pub(crate) fn remove(&mut self, hash: u64, value: u32) {
        let (first, second, _) = self.place(hash);
        if self.buckets[first].take(value) {
            return;
        }
        if self.buckets[second].take(value) {
            self.buckets[first].elsewhere -= 1;
        }
    }
}

impl Bucket {
    /// Marks, in the top bit of every sixteen, which of four tags match. In a difference of zero the borrow reaches
    /// the top bit. It may do so, too, in tags above one that matches: those are candidates like any other.
    #[inline]
    fn same(&self, first: usize, tag: u16) -> u64 {
        const ONES: u64 = 0x0001_0001_0001_0001;
        const TOPS: u64 = 0x8000_8000_8000_8000;
        let t = |i: usize| u64::from(self.tags.get(first + i).copied().unwrap_or(!tag));
        let d = (t(0) | t(1) << 16 | t(2) << 32 | t(3) << 48) ^ (u64::from(tag) * ONES);
        d.wrapping_sub(ONES) & !d & TOPS
    }

    #[inline]
    fn matches(&self, tag: u16) -> impl Iterator<Item = u32> {
        let (mut first, mut hits) = (0, self.same(0, tag));
        std::iter::from_fn(move || {
            loop {
                if hits != 0 {
                    let value = self
                        .values
                        .get(first + hits.trailing_zeros() as usize / 16)
                        .copied()
                        .unwrap_or(EMPTY);
                    hits &= hits - 1;
                    if value != EMPTY {
                        return Some(value);
                    }
                    continue;
                }
                first += 4;
                // Those in use are at the front, mostly.
                if self.taken >> first == 0 || first >= SLOTS {
                    return None;
                }
                hits = self.same(first, tag);
            }
        })
    }

    #[inline]
    fn len(&self) -> u32 {
        self.taken.count_ones()
    }

    #[inline]
    fn put(&mut self, tag: u16, value: u32) -> bool {
        let slot = self.taken.trailing_ones() as usize;
        let (Some(t), Some(v)) = (self.tags.get_mut(slot), self.values.get_mut(slot)) else { return false };
        (*t, *v) = (tag, value);
        self.taken |= 1 << slot;
        true
    }

    #[inline]
    fn take(&mut self, value: u32) -> bool {
        let Some(slot) = self.values.iter().position(|&v| v == value) else { return false };
        self.values[slot] = EMPTY;
        self.taken &= !(1 << slot);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::BuildHasher;

    #[test]
    fn a_bucket_is_a_cache_line() {
        assert_eq!(size_of::<Bucket>(), 64);
    }

    #[test]
    fn keys_that_come_and_go_always_find_room() {
        let state = foldhash::quality::RandomState::default();
        let keys = 20_000u64;
        let mut index = Index::new(keys as usize);
        let insert = |index: &mut Index, k: u64| index.insert(state.hash_one(k), (k % keys) as u32);
        assert!((0..keys).all(|k| insert(&mut index, k)));
        for k in keys..CHURN {
            index.remove(state.hash_one(k - keys), (k % keys) as u32);
            assert!(insert(&mut index, k), "{k}");
        }
    }

    /// A hundred million were tried once.
    const CHURN: u64 = 3_000_000;

    #[test]
    fn holds_all_it_was_made_for_and_empties() {
        let state = foldhash::quality::RandomState::default();
        for keys in [1u32, 7, 1000, 200_000] {
            let mut index = Index::new(keys as usize);
            for round in 0..2 {
                let hash = |k: u32| state.hash_one((k, round));
                assert!((0..keys).all(|k| index.insert(hash(k), k)));
                assert!((0..keys).all(|k| index.find(hash(k), |v| v == k) == Some(k)));
                assert_eq!(index.find(hash(keys), |v| v == keys), None);
                (0..keys).for_each(|k| index.remove(hash(k), k));
                assert!((0..keys).all(|k| index.find(hash(k), |v| v == k).is_none()));
                assert!(index.buckets.iter().all(|b| b.elsewhere == 0 && b.len() == 0));
            }
        }
    }
}
