//! The storage of the FDB: buckets of eight slots, each a key and a value in one atomic word.
//!
//! # Theory of operation
//! A key has two candidate buckets, given by a hash whose seed is drawn per table, so that nobody outside
//! can choose addresses that collide. It lives in the first unless that is nearly full.
//!
//! Reads take no lock. A value carries the generation of its slot, which grows whenever the slot is given to
//! another key. A writer (one at a time: the caller holds a lock) clears the key, writes the value with the
//! next generation, then writes the key. A reader loads value, key, value: with equal generations before
//! and after, the key in between is the one the value was written for, so no reader ever gets another
//! key's port. When they differ the key was absent for a moment, and a miss is a true answer. (The
//! generation has 15 bits; a reader would have to be suspended for exactly 32,768 reuses of one slot.)
//!
//! A value of the same key may be replaced at any time: by the writer with a store, by anybody who only
//! renews the stamp with a compare-and-swap, which fails if anything else has changed.

use std::hash::BuildHasher;
use std::hash::RandomState;

use trunkline_packet::{MacAddr, PortId, VlanId, prefetch};

use crate::sync::{AtomicU64, Ordering};

/// Slots in a bucket: one cache line of keys, one of values.
pub(crate) const WAYS: usize = 8;

/// Keys that go to the first bucket before the emptier of both is chosen.
const FIRST_WAYS: usize = 6;

/// VLAN and address in one word; never 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key(u64);

impl Key {
    const VALID: u64 = 1 << 60;
    /// Of no entry.
    pub(crate) const NONE: Key = Key(0);

    #[inline]
    pub(crate) fn new(vid: VlanId, mac: MacAddr) -> Key {
        Key(Key::VALID | u64::from(vid.get()) << 48 | mac.to_u64())
    }

    pub(crate) fn vid(self) -> VlanId {
        VlanId::new((self.0 >> 48 & 0xfff) as u16).expect("made from one")
    }

    pub(crate) fn mac(self) -> MacAddr {
        MacAddr::from_u64(self.0)
    }
}

/// What is known of a key: port (16 bits), stamp (32), static flag (1), generation of the slot (15).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Value(u64);

impl Value {
    const STATIC: u64 = 1 << 48;
    const GENERATION: u32 = 49;

    /// A value to be stored; the generation is the table's business.
    pub(crate) fn new(port: PortId, stamp: u32, is_static: bool) -> Value {
        Value(u64::from(port.0) | u64::from(stamp) << 16 | if is_static { Value::STATIC } else { 0 })
    }

    #[inline]
    pub(crate) fn port(self) -> PortId {
        PortId(self.0 as u16)
    }

    /// When it was last seen, seconds.
    #[inline]
    pub(crate) fn stamp(self) -> u32 {
        (self.0 >> 16) as u32
    }

    #[inline]
    pub(crate) fn is_static(self) -> bool {
        self.0 & Value::STATIC != 0
    }

    /// Seconds since it was last seen; static ones are always fresh. Workers read the clock one after the
    /// other, so a stamp may be a little ahead.
    #[inline]
    pub(crate) fn age(self, now: u32) -> u32 {
        if self.is_static() { 0 } else { now.saturating_sub(self.stamp()) }
    }

    #[inline]
    fn generation(self) -> u64 {
        self.0 >> Value::GENERATION
    }

    #[inline]
    fn at_generation(self, generation: u64) -> Value {
        Value(self.0 & ((1 << Value::GENERATION) - 1) | generation << Value::GENERATION)
    }

    #[inline]
    fn stamped(self, now: u32) -> Value {
        Value(self.0 & !(0xffff_ffff << 16) | u64::from(now) << 16)
    }
}

/// Place of an entry: bucket and way in one number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot(pub(crate) u32);

impl Slot {
    fn split(self) -> (usize, usize) {
        (self.0 as usize / WAYS, self.0 as usize % WAYS)
    }
}

/// Where a key may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Place {
    first: u32,
    second: u32,
}

impl Place {
    /// Of no key.
    pub(crate) const NONE: Place = Place { first: 0, second: 1 };
}

#[repr(C, align(128))]
struct Bucket {
    keys: [AtomicU64; WAYS],
    values: [AtomicU64; WAYS],
}

impl Bucket {
    fn new() -> Bucket {
        Bucket {
            keys: std::array::from_fn(|_| AtomicU64::new(0)),
            values: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// The way that holds this word at the moment. Without branches up to the end: the compiler compares
    /// all of them at once, and the way is not predictable anyway.
    #[inline]
    fn way_of(&self, word: u64) -> Option<usize> {
        let mut found = 0u32;
        for (i, key) in self.keys.iter().enumerate() {
            found |= u32::from(key.load(Ordering::Relaxed) == word) << i;
        }
        if found == 0 { None } else { Some(found.trailing_zeros() as usize) }
    }

    /// The way's key and the value that belongs to it; `None` when it is empty or being replaced.
    #[inline]
    fn read(&self, way: usize) -> Option<(Key, Value)> {
        let before = Value(self.values[way].load(Ordering::Acquire));
        let key = self.keys[way].load(Ordering::Acquire);
        let value = Value(self.values[way].load(Ordering::Relaxed));
        (key != 0 && before.generation() == value.generation()).then_some((Key(key), value))
    }

    fn free_ways(&self) -> usize {
        self.keys.iter().filter(|k| k.load(Ordering::Relaxed) == 0).count()
    }
}

/// The slots. Methods that say "writer" are called with the writers' lock held.
pub(crate) struct Table {
    buckets: Box<[Bucket]>,
    mask: u32,
    seed: [u64; 2],
}

impl Table {
    /// A table with at least twice as many slots as `entries`.
    pub(crate) fn new(entries: u32) -> Table {
        let random = RandomState::new();
        Table::with_seed(entries, [random.hash_one(0u64), random.hash_one(1u64)])
    }

    fn with_seed(entries: u32, seed: [u64; 2]) -> Table {
        let buckets = (entries as usize * 2).div_ceil(WAYS).max(2).next_power_of_two();
        Table {
            buckets: (0..buckets).map(|_| Bucket::new()).collect(),
            mask: buckets as u32 - 1,
            // An odd factor loses no bits.
            seed: [seed[0], seed[1] | 1],
        }
    }

    pub(crate) fn buckets(&self) -> usize {
        self.buckets.len()
    }

    pub(crate) fn slots(&self) -> usize {
        self.buckets.len() * WAYS
    }

    /// Two rounds of a multiplication to 128 bits, folded. One is not enough: with some seeds, consecutive
    /// addresses then come out in clusters.
    #[inline]
    pub(crate) fn place(&self, key: Key) -> Place {
        let fold = |a: u64, b: u64| {
            let product = u128::from(a) * u128::from(b);
            product as u64 ^ (product >> 64) as u64
        };
        let hash = fold(fold(key.0 ^ self.seed[0], self.seed[1]), 0x9e37_79b9_7f4a_7c15);
        let first = hash as u32 & self.mask;
        let second = (hash >> 32) as u32 & self.mask;
        Place { first, second: if second == first { first ^ 1 } else { second } }
    }

    /// Asks for the cache lines of the key's first bucket, without waiting for them.
    #[inline]
    pub(crate) fn touch(&self, place: Place) {
        let bucket = &self.buckets[place.first as usize];
        prefetch(&bucket.keys);
        prefetch(&bucket.values);
    }

    /// The entry of a key.
    #[inline]
    pub(crate) fn find(&self, key: Key, place: Place) -> Option<(Slot, Value)> {
        self.find_in(key, place.first).or_else(|| self.find_in(key, place.second))
    }

    #[inline]
    fn find_in(&self, key: Key, index: u32) -> Option<(Slot, Value)> {
        let bucket = &self.buckets[index as usize];
        let way = bucket.way_of(key.0)?;
        match bucket.read(way) {
            Some((found, value)) if found == key => Some((Slot(index * WAYS as u32 + way as u32), value)),
            _ => None,
        }
    }

    /// Whatever is in a slot.
    pub(crate) fn read(&self, slot: Slot) -> Option<(Key, Value)> {
        let (bucket, way) = slot.split();
        self.buckets[bucket].read(way)
    }

    /// The entries of one bucket.
    pub(crate) fn bucket(&self, index: usize) -> impl Iterator<Item = (Slot, Key, Value)> + '_ {
        (0..WAYS).filter_map(move |way| {
            let slot = Slot((index * WAYS + way) as u32);
            self.buckets[index].read(way).map(|(key, value)| (slot, key, value))
        })
    }

    /// The entries of both buckets a key may be in.
    pub(crate) fn neighbours(&self, place: Place) -> impl Iterator<Item = (Slot, Key, Value)> + '_ {
        self.bucket(place.first as usize).chain(self.bucket(place.second as usize))
    }

    /// Sets the stamp unless the entry has changed since `seen` was read. Needs no lock.
    #[inline]
    pub(crate) fn renew(&self, slot: Slot, seen: Value, now: u32) {
        let (bucket, way) = slot.split();
        let value = &self.buckets[bucket].values[way];
        // Another worker's renewal or a writer's change is as good as ours.
        let _ = value.compare_exchange(seen.0, seen.stamped(now).0, Ordering::Release, Ordering::Relaxed);
    }

    /// Writer: an empty slot for a key; `None` when both buckets are full.
    pub(crate) fn free_slot(&self, place: Place) -> Option<Slot> {
        let (first, second) = (place.first as usize, place.second as usize);
        let free = self.buckets[first].free_ways();
        let index =
            if free > WAYS - FIRST_WAYS || free >= self.buckets[second].free_ways() { first } else { second };
        let way = self.buckets[index].way_of(0)?;
        Some(Slot((index * WAYS + way) as u32))
    }

    /// Writer: puts an entry into an empty slot.
    pub(crate) fn occupy(&self, slot: Slot, key: Key, value: Value) {
        let (bucket, way) = slot.split();
        let bucket = &self.buckets[bucket];
        let generation = Value(bucket.values[way].load(Ordering::Relaxed)).generation() + 1;
        let generation = generation & 0x7fff;
        // Release: whoever sees this generation sees the cleared key, too. A swap where a store would do, since
        // loom does not know that a store never comes between the halves of a renewal.
        bucket.values[way].swap(value.at_generation(generation).0, Ordering::Release);
        bucket.keys[way].store(key.0, Ordering::Release);
    }

    /// Writer: replaces the value of the key that is in the slot.
    pub(crate) fn replace(&self, slot: Slot, value: Value) {
        let (bucket, way) = slot.split();
        let word = &self.buckets[bucket].values[way];
        let generation = Value(word.load(Ordering::Relaxed)).generation();
        word.swap(value.at_generation(generation).0, Ordering::Release);
    }

    /// Writer: empties a slot.
    pub(crate) fn vacate(&self, slot: Slot) {
        let (bucket, way) = slot.split();
        self.buckets[bucket].keys[way].store(0, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn key(vid: u16, mac: u64) -> Key {
        Key::new(VlanId::new(vid).unwrap(), MacAddr::from_u64(mac))
    }

    #[test]
    fn a_bucket_is_two_cache_lines() {
        assert_eq!((size_of::<Bucket>(), align_of::<Bucket>()), (128, 128));
    }

    #[test]
    fn words_round_trip() {
        let k = key(4094, 0xfeff_ffff_fffe);
        assert_eq!((k.vid().get(), k.mac().to_u64()), (4094, 0xfeff_ffff_fffe));
        let v = Value::new(PortId(65534), u32::MAX, true).at_generation(0x7fff);
        assert_eq!(
            (v.port(), v.stamp(), v.is_static(), v.generation()),
            (PortId(65534), u32::MAX, true, 0x7fff)
        );
        let v = v.stamped(7);
        assert_eq!((v.port(), v.stamp(), v.is_static(), v.generation()), (PortId(65534), 7, true, 0x7fff));
        assert_eq!(key(0, 0), Key(Key::VALID));
    }

    #[test]
    fn generations_wrap_without_touching_the_rest() {
        let t = Table::new(8);
        let (a, b) = (key(1, 2), key(2, 2));
        let slot = Slot(3);
        for i in 0..40_000 {
            let k = if i % 2 == 0 { a } else { b };
            t.occupy(slot, k, Value::new(PortId(i as u16), i, false));
            let (found, v) = t.read(slot).unwrap();
            assert_eq!((found, v.port(), v.stamp(), v.is_static()), (k, PortId(i as u16), i, false));
            t.vacate(slot);
            assert_eq!(t.read(slot), None);
        }
    }

    #[test]
    fn a_renewal_of_something_else_fails() {
        let t = Table::new(8);
        let k = key(1, 2);
        let slot = t.free_slot(t.place(k)).unwrap();
        t.occupy(slot, k, Value::new(PortId(1), 10, false));
        let (_, seen) = t.find(k, t.place(k)).unwrap();
        t.replace(slot, Value::new(PortId(2), 11, false));
        t.renew(slot, seen, 99);
        let (_, now) = t.find(k, t.place(k)).unwrap();
        assert_eq!((now.port(), now.stamp()), (PortId(2), 11));
        t.vacate(slot);
        t.occupy(slot, k, Value::new(PortId(2), 11, false));
        t.renew(slot, now, 99);
        assert_eq!(t.find(k, t.place(k)).unwrap().1.stamp(), 11);
    }

    /// Chi-squared over the first buckets, for the address patterns networks are made of.
    #[test]
    fn the_hash_spreads_real_addresses() {
        type Pattern = (&'static str, fn(u64) -> Key);
        let patterns: [Pattern; 5] = [
            ("consecutive addresses", |i| key(1, 0x0200_0000_0000 + i)),
            ("the same address in many VLANs", |i| key((i % 4000) as u16, 0x0200_0000_0001 + (i / 4000))),
            ("vendor prefix, counter in the middle", |i| key(10, 0x5254_0000_0000 + (i << 12))),
            ("docker, 02:42 and an IPv4 address", |i| {
                key(0, 0x0242_ac11_0000 + (i & 0xff) + ((i >> 8) << 16))
            }),
            ("counter in the first bytes", |i| key(7, (i & 0x7f) << 33 | (i >> 7) << 41)),
        ];
        for _ in 0..50 {
            let t = Table::new(16384);
            for (name, make) in patterns {
                for pick in [|p: Place| p.first, |p: Place| p.second] {
                    let mut counts = vec![0u32; t.buckets()];
                    let n = 16384u64;
                    (0..n).for_each(|i| counts[pick(t.place(make(i))) as usize] += 1);
                    let mean = n as f64 / counts.len() as f64;
                    let chi2: f64 = counts.iter().map(|&c| (f64::from(c) - mean).powi(2) / mean).sum();
                    // 4095 degrees of freedom: mean 4095, standard deviation 90. Arithmetic series may
                    // come out more even than chance; what must not be is clustering.
                    assert!(chi2 < 4095.0 + 10.0 * 90.0, "{name}, seed {:x?}: {chi2}", t.seed);
                }
            }
        }
    }

    #[test]
    fn both_buckets_differ_and_a_full_table_of_the_promised_size_fits() {
        let n = 16384;
        let t = Table::new(n);
        for i in 0..u64::from(n) {
            let k = key((i % 4095) as u16, 0x0200_0000_0000 + i * 0x1_0001);
            let place = t.place(k);
            assert_ne!(place.first, place.second);
            let slot = t.free_slot(place).expect("half-full buckets have room");
            t.occupy(slot, k, Value::new(PortId(1), 0, false));
        }
        assert_eq!((0..t.buckets()).map(|b| t.bucket(b).count()).sum::<usize>(), n as usize);
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::*;
    use loom::sync::Arc;
    use loom::thread;

    const A: Key = Key(Key::VALID | 1 << 48 | 0xaa);
    const B: Key = Key(Key::VALID | 2 << 48 | 0xbb);

    /// A slot that goes from key A to B and back never shows A with B's port, renewals included.
    #[test]
    fn loom_no_key_gets_anothers_port() {
        loom::model(|| {
            let slot = Slot(0);
            let table = Arc::new(Table::with_seed(1, [3, 5]));
            table.occupy(slot, A, Value::new(PortId(1), 0, false));
            let writer = {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    table.vacate(slot);
                    table.occupy(slot, B, Value::new(PortId(2), 0, false));
                    table.vacate(slot);
                    table.occupy(slot, A, Value::new(PortId(1), 0, false));
                })
            };
            // A thread of its own: loom explores few interleavings of the one that spawns.
            let reader = {
                let table = Arc::clone(&table);
                thread::spawn(move || {
                    if let Some((key, value)) = table.read(slot) {
                        let port = value.port().0;
                        assert!((key == A && port == 1) || (key == B && port == 2), "{key:?} {port}");
                        table.renew(slot, value, 9);
                    }
                })
            };
            reader.join().unwrap();
            writer.join().unwrap();
            let (key, value) = table.read(slot).unwrap();
            assert_eq!((key, value.port()), (A, PortId(1)));
        });
    }
}
