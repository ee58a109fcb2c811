use proptest::prelude::*;
use trunkline_packet::Batch;

use super::*;
use crate::config::{Encap, TxState};
use crate::{Endpoint, Kind, NetId, OuterPath, Tunnels, Vni, decap, encap_frame, fragment, open};

const MS: Duration = Duration::from_millis(1);

/// A fragment: `more`, eighths of its offset, payload.
fn piece(v6: bool, src: u8, id: u16, (from, more): (u32, bool), payload: &[u8], pool: &mut Pool) -> Packet {
    let mut b = vec![2; 12];
    let offset = from as u16;
    if v6 {
        b.extend([0x86, 0xdd, 0x60, 0x20, 0, 0]);
        b.extend((payload.len() as u16 + 16).to_be_bytes());
        // A destination options header in front of the fragment header.
        b.extend([60, 64]);
        b.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, src]);
        b.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 99]);
        b.extend([44, 0, 1, 4, 0, 0, 0, 0]);
        b.extend([17, 0]);
        b.extend((offset | u16::from(more)).to_be_bytes());
        b.extend([0, 0]);
        b.extend(id.to_be_bytes());
    } else {
        b.extend([8, 0, 0x45, 2]);
        b.extend((payload.len() as u16 + 20).to_be_bytes());
        b.extend(id.to_be_bytes());
        b.extend(((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
        b.extend([64, 17, 0, 0, 10, 0, 0, src, 10, 0, 0, 99]);
        let check = Sum::ZERO.bytes(&b[14..34]).finish();
        write16(&mut b, 24, check);
    }
    b.extend(payload);
    let mut p = pool.get();
    p.set_bytes(&b, pool).unwrap();
    p
}

/// Where the payload of a whole packet begins.
fn front(v6: bool) -> usize {
    if v6 { 14 + 40 + 8 } else { 34 }
}

struct World {
    table: Reassembler,
    pool: Pool,
    drops: DropCounts,
    now: Instant,
    v6: bool,
}

impl World {
    fn new(v6: bool, limits: Limits) -> World {
        let (pool, drops) = (Pool::new(64, 64), DropCounts::new());
        World { table: Reassembler::new(limits), pool, drops, now: Instant::now(), v6 }
    }

    fn put(&mut self, src: u8, id: u16, from: u32, more: bool, payload: &[u8]) -> Option<Vec<u8>> {
        let p = piece(self.v6, src, id, (from, more), payload, &mut self.pool);
        let whole = self.table.push(self.now, p, &mut self.pool, &mut self.drops)?;
        let ip = Headers::parse(&whole).unwrap();
        assert!(
            ipv4_header_ok(whole.head(), &ip) && ip.fragment == trunkline_packet::headers::Fragment::None
        );
        assert_eq!((ip.end as usize, ip.proto, usize::from(ip.l4)), (whole.len(), 17, front(self.v6)));
        let bytes = whole.to_vec()[front(self.v6)..].to_vec();
        self.pool.put(whole);
        Some(bytes)
    }

    fn dropped(&self, reason: DropReason) -> u32 {
        assert_eq!(u64::from(self.drops.get(reason)), self.drops.total());
        self.drops.get(reason)
    }
}

fn bytes(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i * 7 + i / 256) as u8).collect()
}

const BOTH: [bool; 2] = [false, true];

#[test]
fn fragments_in_any_order_make_the_packet() {
    let data = bytes(3000);
    for v6 in BOTH {
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut world = World::new(v6, Limits::default());
            let mut whole = None;
            for part in order {
                assert!(whole.is_none());
                let range = part * 1024..(part * 1024 + 1024).min(3000);
                whole = world.put(1, 7, part as u32 * 1024, part < 2, &data[range]);
            }
            assert!(whole.as_ref() == Some(&data), "{order:?}");
            assert_eq!((world.drops.total(), world.table.held()), (0, 0));
            assert_eq!((world.table.all.fragments, world.table.all.bytes), (0, 0));
            assert!(world.table.sources.is_empty() && world.table.next_deadline().is_none());
        }
    }
}

#[test]
fn packets_are_told_apart_by_source_and_identification() {
    for v6 in BOTH {
        let mut world = World::new(v6, Limits::default());
        for (src, id) in [(1, 1), (2, 1), (1, 2)] {
            assert_eq!(world.put(src, id, 0, true, &[src; 8]), None);
        }
        for (src, id) in [(1, 2), (1, 1), (2, 1)] {
            assert_eq!(
                world.put(src, id, 8, false, &[id as u8]),
                Some([&[src; 8][..], &[id as u8]].concat())
            );
        }
    }
}

#[test]
fn rfc5722_4_an_overlap_condemns_the_packet_with_what_comes_later() {
    for v6 in BOTH {
        for (from, more, len) in [(8, true, 16), (0, true, 8), (16, true, 8), (8, true, 8), (16, false, 4)] {
            let mut world = World::new(v6, Limits::default());
            world.put(1, 1, 0, true, &[1; 24]);
            assert_eq!(world.put(1, 1, from, more, &vec![2; len]), None);
            assert_eq!(world.dropped(DropReason::OuterFragmentConflict), 2, "{from} {len}");
            assert_eq!(world.put(1, 1, 24, false, &[3]), None);
            assert_eq!(world.put(1, 1, 0, true, &[1; 24]), None);
            assert_eq!(world.dropped(DropReason::OuterFragmentConflict), 4);
            // Until its time is over.
            world.now += Limits::default().timeout;
            world.put(1, 1, 0, true, &[1; 24]);
            assert!(world.put(1, 1, 24, false, &[3]).is_some());
        }
    }
}

#[test]
fn rfc8200_4_5_an_exact_repetition_is_dropped_alone() {
    for v6 in BOTH {
        let mut world = World::new(v6, Limits::default());
        world.put(1, 1, 0, true, &[1; 800]);
        world.put(1, 1, 0, true, &[1; 800]);
        assert_eq!(world.put(1, 1, 800, false, &[2]).map(|p| p.len()), Some(801));
        assert_eq!(world.dropped(DropReason::OuterFragmentConflict), 1);
        // Of the same place and length, but not the same.
        world.put(1, 2, 0, true, &[1; 800]);
        let mut other = [1; 800];
        other[799] = 2;
        world.put(1, 2, 0, true, &other);
        assert_eq!(world.put(1, 2, 800, false, &[2]), None);
    }
}

#[test]
fn contradictions_and_impossible_lengths_condemn() {
    // Two fragments of a packet that cannot be.
    let cases: [[(u32, bool, usize); 2]; 6] = [
        // Two ends.
        [(16, false, 8), (32, false, 8)],
        [(32, false, 8), (16, false, 8)],
        // Behind the end.
        [(16, false, 8), (32, true, 8)],
        // Not a multiple of eight (RFC 8200 §4.5).
        [(0, true, 8), (8, true, 7)],
        // Past 65,535 (the "ping of death").
        [(0, true, 8), (65528, false, 1000)],
        // Nothing in it.
        [(0, true, 8), (8, true, 0)],
    ];
    for v6 in BOTH {
        for case in cases {
            let mut world = World::new(v6, Limits::default());
            for (from, more, len) in case {
                assert_eq!(world.put(1, 1, from, more, &vec![0; len]), None);
            }
            assert_eq!(world.dropped(DropReason::OuterFragmentConflict), 2, "{case:?}");
        }
    }
    // With its header longer than a packet may be.
    let mut world = World::new(false, Limits::default());
    let data = bytes(65528);
    world.put(1, 1, 0, true, &data[..32768]);
    assert_eq!(world.put(1, 1, 32768, false, &data[32768..]), None);
    assert_eq!(world.dropped(DropReason::OuterFragmentConflict), 2);
}

#[test]
fn fragments_of_fragments_are_refused() {
    let mut world = World::new(true, Limits::default());
    for (from, more, bytes) in [(0, true, [17, 0, 0, 1, 0, 0, 0, 9]), (8, false, [0; 8])] {
        let mut p = piece(true, 1, 1, (from, more), &bytes, &mut world.pool);
        p.head_mut()[14 + 48] = 44;
        assert!(world.table.push(world.now, p, &mut world.pool, &mut world.drops).is_none());
    }
    assert_eq!((world.dropped(DropReason::OuterFragmentConflict), world.table.held()), (2, 0));
}

#[test]
fn the_longest_packet_fits() {
    for (v6, len) in [(false, 65515), (true, 65527)] {
        let mut world = World::new(v6, Limits::default());
        let data = bytes(len);
        let mut whole = None;
        for from in (0..len).step_by(1480) {
            let to = (from + 1480).min(len);
            whole = world.put(1, 1, from as u32, to < len, &data[from..to]);
        }
        assert!(whole == Some(data));
    }
}

#[test]
fn rfc3168_5_3_one_mark_marks_all_and_mixed_capability_is_dropped() {
    for (tos, expected) in
        [([2, 3], Some(3)), ([2, 2], Some(2)), ([3, 3], Some(3)), ([0, 3], None), ([1, 3], Some(3))]
    {
        for v6 in BOTH {
            let mut world = World::new(v6, Limits::default());
            let mut whole = None;
            for (i, tos) in tos.into_iter().enumerate() {
                let mut p = piece(v6, 1, 1, (8 * i as u32, i == 0), &[0; 8], &mut world.pool);
                let h = &mut p.head_mut()[14..];
                if v6 {
                    h[1] = tos << 4;
                } else {
                    h[1] = tos;
                    write16(h, 10, 0);
                    let check = Sum::ZERO.bytes(&h[..20]).finish();
                    write16(h, 10, check);
                }
                whole = world.table.push(world.now, p, &mut world.pool, &mut world.drops);
            }
            let found = whole.as_ref().map(|p| if v6 { p.head()[15] >> 4 } else { p.head()[15] });
            assert_eq!(found, expected, "{tos:?}");
            assert!(whole.is_none_or(|p| p.meta().frames == 2));
        }
    }
}

#[test]
fn what_waits_too_long_is_dropped_by_the_clock() {
    let mut world = World::new(false, Limits::default());
    world.put(1, 1, 0, true, &[0; 8]);
    world.put(1, 1, 16, true, &[0; 8]);
    let start = world.now;
    world.now += MS * 500;
    world.put(1, 2, 0, true, &[0; 8]);
    let due = world.table.next_deadline().unwrap();
    assert_eq!(due, start + Limits::default().timeout);
    world.table.expire(due - MS, &mut world.pool, &mut world.drops);
    assert_eq!(world.drops.total(), 0);
    world.table.expire(due, &mut world.pool, &mut world.drops);
    assert_eq!((world.dropped(DropReason::OuterFragmentTimeout), world.table.held()), (2, 1));
    assert_eq!(world.table.next_deadline(), Some(due + MS * 500));
}

#[test]
fn a_flood_costs_its_own_source_and_memory_is_bounded() {
    let limits = Limits { fragments: 40, source_fragments: 16, ..Limits::default() };
    let mut world = World::new(true, limits);
    // Another's packet waits while one source floods.
    world.put(2, 1, 0, true, &[2; 8]);
    for id in 0..1000 {
        world.put(1, id, 8, true, &[0; 8]);
        assert!(world.table.held() <= 17);
    }
    assert_eq!(world.dropped(DropReason::OuterFragmentLimit), 1000 - 16);
    assert_eq!(world.put(2, 1, 8, false, &[3]), Some([&[2; 8][..], &[3]].concat()));
    // The flood's newest are there still.
    assert_eq!(world.put(1, 999, 0, true, &[0; 8]), None);
    assert!(world.put(1, 999, 16, false, &[0]).is_some());

    // Many sources together: the greediest loses.
    let limits = Limits { fragments: 40, source_fragments: 30, ..Limits::default() };
    let mut world = World::new(true, limits);
    world.put(9, 1, 0, true, &[9; 8]);
    for id in 0..1000 {
        world.put(1 + (id % 3) as u8, id, 8, true, &[0; 8]);
        assert!(world.table.all.fragments <= 40);
    }
    assert!(world.put(9, 1, 8, false, &[3]).is_some());
    // Condemned packets take room too.
    let mut world = World::new(true, limits);
    for id in 0..1000 {
        world.put(1, id, 8, true, &[0; 7]);
    }
    assert!(world.table.index.len() <= 30 && world.table.order.len() <= 2 * 64);
}

#[test]
fn large_fragments_count_as_what_they_occupy() {
    let limits = Limits { source_bytes: 300_000, ..Limits::default() };
    let mut world = World::new(false, limits);
    for id in 0..100 {
        world.put(1, id, 8, true, &[0; 4000]);
        assert!(world.table.all.bytes <= 300_000 && world.table.held() <= 4);
    }
    assert_eq!(world.table.held(), 4);
}

#[test]
fn damaged_fragments_are_refused_with_a_reason() {
    let mut world = World::new(false, Limits::default());
    let pool = &mut world.pool;
    let whole = piece(false, 1, 1, (0, true), &[0; 8], pool).to_vec();
    let mut refusal = |bytes: &[u8], offload: Offload| {
        let mut p = pool.get();
        p.set_bytes(bytes, pool).unwrap();
        p.meta_mut().offload = offload;
        let mut drops = DropCounts::new();
        assert!(world.table.push(world.now, p, pool, &mut drops).is_none());
        DropReason::ALL.iter().copied().find(|&r| drops.get(r) > 0)
    };
    for len in 0..whole.len() {
        assert_eq!(refusal(&whole[..len], Offload::NONE), Some(DropReason::TunnelTruncated), "{len}");
    }
    let mut damaged = whole.clone();
    damaged[22] ^= 1;
    assert_eq!(refusal(&damaged, Offload::NONE), Some(DropReason::TunnelChecksum));
    let partial = Offload { csum: Checksum::Partial { start: 34, offset: 6 }, ..Offload::NONE };
    assert_eq!(refusal(&whole, partial), Some(DropReason::BadOffload));
    assert_eq!(refusal(&whole, Offload::NONE), None);
}

#[test]
fn a_fragmented_tunnel_packet_comes_out_as_it_went_in() {
    let endpoint = |local: &str, remote: &str, kind, net| {
        let mut e = Endpoint::new(trunkline_packet::PortId(3), kind, net);
        e.local = Some(local.parse().unwrap());
        e.remotes = vec![remote.parse().unwrap()];
        e.df = false;
        e
    };
    for (a, b) in [("192.0.2.1", "192.0.2.2"), ("2001:db8::1", "2001:db8::2")] {
        for (kind, net) in [
            (Kind::Vxlan, NetId::Vni(Vni::MAX)),
            (Kind::Geneve, NetId::Vni(Vni::MAX)),
            (Kind::Gre, NetId::None),
        ] {
            let mut pool = Pool::new(64, 8);
            let far = Tunnels::new(vec![endpoint(b, a, kind, net)]).unwrap();
            let near = Tunnels::new(vec![endpoint(a, b, kind, net)]).unwrap();
            let to: Encap = near.iter().next().unwrap().encaps(Default::default()).unwrap()[0];
            let path = OuterPath {
                src_mac: trunkline_packet::MacAddr([2; 6]),
                dst_mac: trunkline_packet::MacAddr([4; 6]),
                vlan: None,
                src: a.parse().unwrap(),
            };
            let inner = [&[2; 12][..], &[0x88, 0xb5], &bytes(1400)].concat();
            let mut p = pool.get();
            p.set_bytes(&inner, &mut pool).unwrap();
            let (state, mut out, mut parts) = (TxState::default(), Batch::new(), Batch::new());
            encap_frame(p, &to, &path, &state, &mut pool, &mut out).unwrap();
            let count = fragment(out.remove(0), 600, &state, &mut pool, &mut parts).unwrap();
            assert!(count >= 3);
            let (mut table, mut drops) = (Reassembler::new(Limits::default()), DropCounts::new());
            let mut whole = None;
            for mut part in parts.drain(..).rev() {
                let ip = Headers::parse(&part).unwrap();
                assert!(far.may_carry(a.parse().unwrap(), b.parse().unwrap(), ip.proto));
                assert!(!far.may_carry(b.parse().unwrap(), b.parse().unwrap(), ip.proto));
                assert!(!far.may_carry(a.parse().unwrap(), b.parse().unwrap(), 6));
                assert_eq!(open(&mut part, false).err(), Some(DropReason::OuterFragment));
                assert!(whole.is_none());
                whole = table.push(Instant::now(), part, &mut pool, &mut drops);
            }
            let mut whole = whole.unwrap();
            let opened = open(&mut whole, false).unwrap();
            decap(&mut whole, &opened.outer, &far).unwrap();
            assert!(whole.to_vec() == inner);
        }
    }
}

/// What a packet looks like to somebody who keeps every byte.
#[derive(Default)]
struct Model {
    bytes: Vec<Option<u8>>,
    /// Fragments as they came.
    parts: Vec<(u32, bool, Vec<u8>)>,
    dead: bool,
}

impl Model {
    /// The packet, if this was the last fragment.
    fn put(&mut self, from: u32, more: bool, payload: &[u8]) -> Option<Vec<u8>> {
        let part = (from, more, payload.to_vec());
        let to = from as usize + payload.len();
        if self.dead || self.parts.contains(&part) {
            return None;
        }
        let end = self.parts.iter().find(|p| !p.1).map(|p| p.0 as usize + p.2.len());
        let longest = self.parts.iter().map(|p| p.0 as usize + p.2.len()).max().unwrap_or(0);
        let bad_end = end.is_some_and(|end| !more || to > end) || !more && longest > to;
        let bad_len = payload.is_empty() || more && !payload.len().is_multiple_of(8);
        self.bytes.resize(self.bytes.len().max(to), None);
        if bad_end || bad_len || self.bytes[from as usize..to].iter().any(Option::is_some) {
            self.dead = true;
            return None;
        }
        for (slot, byte) in self.bytes[from as usize..to].iter_mut().zip(payload) {
            *slot = Some(*byte);
        }
        self.parts.push(part);
        let whole: Option<Vec<u8>> = self.bytes.iter().copied().collect();
        whole.filter(|_| self.parts.iter().any(|p| !p.1))
    }
}

proptest! {
    #[test]
    fn as_a_model_that_keeps_every_byte(
        v6: bool,
        parts in prop::collection::vec((0u16..3, 0u32..6, any::<bool>(), 0usize..4, 0u8..2, 0u8..20), 1..40),
    ) {
        let mut world = World::new(v6, Limits::default());
        let mut models: HashMap<u16, Model> = HashMap::new();
        let mut given = 0;
        for (id, from, more, eighths, fill, odd) in parts {
            // Mostly the same content and multiples of eight, or nothing would fit.
            let mut payload = vec![if odd == 0 { fill } else { id as u8 }; eighths * 8];
            if odd == 1 || !more && fill == 1 { payload.push(9) }
            let whole = world.put(1, id, from * 8, more, &payload);
            let expected = models.entry(id).or_default().put(from * 8, more, &payload);
            if expected.is_some() { models.remove(&id); }
            given += 1;
            prop_assert_eq!(whole, expected);
        }
        // Nothing is lost from the books.
        world.now += Limits::default().timeout;
        let (held, before) = (world.table.held() as u64, world.drops.total());
        world.table.expire(world.now, &mut world.pool, &mut world.drops);
        prop_assert_eq!(world.drops.total(), before + held);
        prop_assert!(world.drops.total() <= given);
        prop_assert_eq!((world.table.all.fragments, world.table.all.bytes, world.table.index.len()), (0, 0, 0));
    }

    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..120), v6: bool) {
        let mut world = World::new(v6, Limits::default());
        let mut frame = [&[2; 12][..], if v6 { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] }, &bytes].concat();
        if v6 && frame.len() > 20 { frame[20] = 44; }
        let mut p = world.pool.get();
        p.set_bytes(&frame, &mut world.pool).unwrap();
        let _ = world.table.push(world.now, p, &mut world.pool, &mut world.drops);
    }
}
