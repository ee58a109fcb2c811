//! Merging trains in place: what merges is what `coalesce` would make of the single frames, and what must not merge
//! is left as it was.

mod kit;

use kit::*;
use proptest::prelude::*;
use trunkline_packet::{Batch, Offload, Packet, Pool, coalesce, merge_train, segment};

const TUNNEL: [u8; 8] = [8, 0, 0, 0, 0, 0, 77, 0];
const MTU: u16 = 1500;

/// What UDP_GRO hands over, and the length of the datagrams.
fn train(frames: &[Vec<u8>]) -> (Vec<u8>, usize) {
    let bytes = frames.iter().flat_map(|frame| [&TUNNEL[..], frame].concat()).collect();
    (bytes, TUNNEL.len() + frames[0].len())
}

fn packet(bytes: &[u8], pool: &mut Pool) -> Packet {
    let mut packet = pool.get();
    packet.set_bytes(bytes, pool).unwrap();
    packet
}

/// Merges frames and compares with `coalesce` and with what cutting gives. False: nothing was changed.
fn merges(frames: &[Vec<u8>]) -> bool {
    let mut pool = Pool::new(256, 8);
    let (bytes, size) = train(frames);
    let mut merged = packet(&bytes, &mut pool);
    if !merge_train(&mut merged, size, TUNNEL.len(), MTU) {
        assert_eq!((merged.to_vec() == bytes, merged.meta().offload), (true, Offload::NONE));
        return false;
    }
    assert_eq!(merged.head()[..TUNNEL.len()], TUNNEL);
    assert_eq!(usize::from(merged.meta().frames), frames.len());
    assert!(merged.pull_front(TUNNEL.len()));
    merged.meta_mut().offload.shift(-(TUNNEL.len() as i16));
    let mut batch: Batch = frames.iter().map(|frame| packet(frame, &mut pool)).collect();
    coalesce(&mut batch, &mut pool);
    assert_eq!(batch.len(), 1, "coalesce would not have merged these");
    assert!(merged.to_vec() == batch[0].to_vec());
    assert_eq!(merged.meta().offload, batch[0].meta().offload);
    let mut out = Batch::new();
    segment(merged, &mut pool, &mut out, true).unwrap();
    assert!(out.iter().map(Packet::to_vec).collect::<Vec<_>>() == frames);
    true
}

/// `count` frames in a row, the last one with `last` bytes of payload.
fn flow(first: &Spec, count: usize, last: usize) -> Vec<Spec> {
    let mut specs = vec![first.clone()];
    for i in 1..count {
        let len = if i + 1 == count { last } else { first.payload.len() };
        specs.push(specs[i - 1].next(len));
    }
    specs
}

fn bytes(specs: &[Spec]) -> Vec<Vec<u8>> {
    specs.iter().map(Spec::bytes).collect()
}

const KINDS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn trains_of_one_flow_become_one_superframe() {
    for (tcp, v6) in KINDS {
        for (payload, count, last) in
            [(64, 64, 64), (1000, 2, 1), (1380, 45, 700), (1380, 45, 1380), (300, 9, 20)]
        {
            let first = Spec::new(tcp, v6, payload).with(|s| s.tcp_options = vec![1; 12]);
            assert!(merges(&bytes(&flow(&first, count, last))), "tcp {tcp} v6 {v6} {payload} {count} {last}");
        }
        let tagged = Spec::new(tcp, v6, 100).with(|s| s.tags = vec![(0x8100, 5)]);
        assert!(merges(&bytes(&flow(&tagged, 5, 100))));
    }
    let mut pushed = flow(&Spec::new(true, false, 500), 6, 100);
    pushed[5].flags |= PSH;
    assert!(merges(&bytes(&pushed)), "PSH at the end");
}

/// Cutting counts the identification on, which means nothing with DF.
#[test]
fn an_identification_may_stay_with_dont_fragment() {
    let specs = flow(&Spec::new(true, false, 100), 5, 100);
    let stays = |df| bytes(&specs.iter().map(|s| s.with(|s| (s.id, s.df) = (7, df))).collect::<Vec<_>>());
    assert!(!merges(&stays(false)));
    let mut pool = Pool::new(8, 8);
    let (whole, size) = train(&stays(true));
    assert!(merge_train(&mut packet(&whole, &mut pool), size, TUNNEL.len(), MTU));
    let mut both = stays(true);
    both[4] = specs[4].bytes();
    assert!(!merges(&both), "stays, then counts on");
}

#[test]
fn what_differs_in_any_place_does_not_merge() {
    type Change = fn(&mut Spec);
    let any: [(&str, Change); 9] = [
        ("source address", |s| s.src = 9),
        ("destination address", |s| s.dst = 9),
        ("source port", |s| s.sport += 1),
        ("destination port", |s| s.dport += 1),
        ("TTL", |s| s.ttl -= 1),
        ("DSCP", |s| s.tos = 4),
        ("ECN", |s| s.tos = 3),
        ("link address", |s| s.src_mac = 7),
        ("tag", |s| s.tags = vec![(0x8100, 5)]),
    ];
    let of_tcp: [(&str, Change); 8] = [
        ("sequence number", |s| s.seq += 1),
        ("acknowledgement", |s| s.ack += 1),
        ("window", |s| s.window += 1),
        ("SYN", |s| s.flags |= SYN),
        ("FIN", |s| s.flags |= FIN),
        ("RST", |s| s.flags |= RST),
        ("CWR", |s| s.flags |= CWR),
        ("option", |s| s.tcp_options[0] = 0),
    ];
    let of_v4: [(&str, Change); 2] =
        [("identification", |s| s.id += 5), ("don't fragment", |s| s.df = false)];
    for (tcp, v6) in KINDS {
        let first = Spec::new(tcp, v6, 100).with(|s| s.tcp_options = vec![1; 4]);
        let specs = flow(&first, 6, 100);
        assert!(merges(&bytes(&specs)));
        let changes = any.iter().chain(if tcp { &of_tcp[..] } else { &[] });
        for (why, change) in changes.chain(if v6 { &[] } else { &of_v4[..] }) {
            for at in [1, 3, 5] {
                let mut specs = specs.clone();
                change(&mut specs[at]);
                assert!(!merges(&bytes(&specs)), "{why} of {at}: tcp {tcp} v6 {v6}");
            }
        }
        let mut pool = Pool::new(8, 8);
        let (whole, size) = train(&bytes(&specs));
        // Every bit of a datagram but those that do not count for the checksum in front of IP, which have to be equal.
        for bit in (0..size * 8).step_by(5) {
            let mut wrong = whole.clone();
            wrong[3 * size + bit / 8] ^= 1 << (bit % 8);
            let mut packet = packet(&wrong, &mut pool);
            assert!(!merge_train(&mut packet, size, TUNNEL.len(), MTU), "bit {bit} tcp {tcp} v6 {v6}");
            assert!(packet.to_vec() == wrong);
            pool.put(packet);
        }
        let mut refuses = |size: usize, skip: usize, mtu: u16, bytes: &[u8], why: &str| {
            let mut packet = packet(bytes, &mut pool);
            assert!(!merge_train(&mut packet, size, skip, mtu), "{why}");
            assert!(packet.to_vec() == bytes);
        };
        refuses(0, 8, MTU, &whole, "no size");
        refuses(size - 1, 8, MTU, &whole, "another size");
        refuses(whole.len(), 8, MTU, &whole, "a single datagram");
        refuses(size, size + 1, MTU, &whole, "no frame");
        refuses(size, 8, 100, &whole, "more than the MTU");
        refuses(size, 8, MTU, &whole[..whole.len() - 100], "no payload in the last");
        let one = [&whole[..], &whole[..size]].concat();
        if tcp || !v6 {
            refuses(size, 8, MTU, &one, "the first one again");
        }
        let long = flow(&first, 65, 100);
        refuses(size, 8, MTU, &train(&bytes(&long)).0, "too many");
    }
    let mut pushed = flow(&Spec::new(true, false, 500), 6, 500);
    pushed[2].flags |= PSH;
    assert!(!merges(&bytes(&pushed)), "PSH in the middle");
    // Without a checksum, and with one that is not finished.
    let mut pool = Pool::new(8, 8);
    let specs = flow(&Spec::new(false, false, 100), 3, 100);
    let mut frames = bytes(&specs);
    frames[1][40..42].fill(0);
    assert!(!merges(&frames));
    frames[1] = specs[1].partial(0, &mut pool).to_vec();
    assert!(!merges(&frames));
}

#[test]
fn a_shared_tail_is_left_alone() {
    let mut pool = Pool::new(8, 8);
    let (whole, size) = train(&bytes(&flow(&Spec::new(true, false, 1000), 5, 1000)));
    let mut packet = packet(&whole, &mut pool);
    let copy = pool.duplicate(&packet);
    assert!(!merge_train(&mut packet, size, TUNNEL.len(), MTU));
    assert!(packet.to_vec() == whole && copy.to_vec() == whole);
    pool.put(copy);
    assert!(merge_train(&mut packet, size, TUNNEL.len(), MTU));
}

proptest! {
    /// Bytes anywhere may be anything: what merges is what `coalesce` makes of it, and nothing panics.
    #[test]
    fn hostile_trains(
        tcp: bool,
        v6: bool,
        payload in 1usize..1400,
        count in 1usize..20,
        last in 1usize..1400,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        size in prop::option::of(0usize..2000),
        skip in 0usize..40,
    ) {
        let frames = bytes(&flow(&Spec::new(tcp, v6, payload), count, last.min(payload)));
        let (mut whole, real) = train(&frames);
        for (at, value) in changes {
            let at = at.index(whole.len());
            whole[at] = value;
        }
        let mut pool = Pool::new(8, 8);
        let mut merged = packet(&whole, &mut pool);
        let skip = if size.is_some() { skip } else { TUNNEL.len() };
        if merge_train(&mut merged, size.unwrap_or(real), skip, MTU) {
            prop_assert!(merged.len() < whole.len());
            prop_assert!(merged.meta().offload.check(merged.len()).is_ok());
            let mut out = Batch::new();
            let frames = merged.meta().frames;
            prop_assert!(merged.pull_front(skip));
            merged.meta_mut().offload.shift(-(skip as i16));
            prop_assert_eq!(segment(merged, &mut pool, &mut out, true), Ok(usize::from(frames)));
        } else {
            prop_assert!(merged.to_vec() == whole);
        }
    }
}
