//! Coalescing: what merges gives the original frames back when it is cut again, what must not merge does
//! not, and no flow is reordered.

mod kit;

use kit::*;
use proptest::prelude::*;
use trunkline_packet::{
    Batch, Checksum, GsoKind, Offload, Packet, Pool, Tpid, VlanId, VlanTag, coalesce, segment,
};

fn merge(packets: Vec<Packet>, pool: &mut Pool) -> Batch {
    let mut batch = packets;
    let before = batch.len();
    let absorbed = coalesce(&mut batch, pool);
    assert_eq!(batch.len() + absorbed, before);
    batch
}

/// Cuts everything into ordinary frames with full checksums.
fn cut(batch: Batch, pool: &mut Pool) -> Vec<Vec<u8>> {
    let mut out = Batch::new();
    for packet in batch {
        segment(packet, pool, &mut out, true).unwrap();
    }
    out.iter().map(Packet::to_vec).collect()
}

/// How many packets are left of these specs, with full checksums; asserts that partial ones merge the same,
/// and that cutting gives the originals back.
fn left(specs: &[Spec]) -> usize {
    let mut pool = Pool::new(128, 8);
    let originals: Vec<_> = specs.iter().map(Spec::bytes).collect();
    let full: Vec<_> = specs.iter().map(|s| s.packet(&mut pool)).collect();
    let merged = merge(full, &mut pool);
    let count = merged.len();
    assert_eq!(merged.iter().map(|p| usize::from(p.meta().frames)).sum::<usize>(), specs.len());
    assert_eq!(cut(merged, &mut pool), originals);
    assert_eq!(partial_left(specs), count);
    count
}

/// The same with partial checksums, whatever cutting gives.
fn partial_left(specs: &[Spec]) -> usize {
    let mut pool = Pool::new(128, 8);
    merge(specs.iter().map(|s| s.partial(0, &mut pool)).collect(), &mut pool).len()
}

/// `count` frames in a row with this payload each.
fn train(first: &Spec, count: usize) -> Vec<Spec> {
    let mut specs = vec![first.clone()];
    for _ in 1..count {
        specs.push(specs[specs.len() - 1].next(first.payload.len()));
    }
    specs
}

const KINDS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn a_train_of_one_flow_becomes_one_superframe() {
    for (tcp, v6) in KINDS {
        let first = Spec::new(tcp, v6, 100).with(|s| s.tcp_options = vec![1; 12]);
        let specs = train(&first, 40);
        assert_eq!(left(&specs), 1, "tcp {tcp} v6 {v6}");

        let mut pool = Pool::new(128, 8);
        let batch = merge(specs.iter().map(|s| s.packet(&mut pool)).collect(), &mut pool);
        let whole = first.with(|s| s.payload = specs.iter().flat_map(|s| s.payload.clone()).collect());
        let want = whole.partial(100, &mut pool);
        assert_eq!(batch[0].to_vec(), want.to_vec(), "as the kernel would hand it over");
        assert_eq!(batch[0].meta().offload, want.meta().offload);
        assert_eq!(batch[0].meta().frames, 40);
    }
}

#[test]
fn interleaved_flows_merge_each_by_itself() {
    for (tcp, v6) in KINDS {
        let flows: Vec<_> =
            (0..8).map(|i| train(&Spec::new(tcp, v6, 200).with(|s| s.sport = 1000 + i), 5)).collect();
        let specs: Vec<_> = (0..5).flat_map(|n| flows.iter().map(move |f| f[n].clone())).collect();
        let mut pool = Pool::new(128, 8);
        let batch = merge(specs.iter().map(|s| s.packet(&mut pool)).collect(), &mut pool);
        assert_eq!(batch.len(), 8);
        let frames = cut(batch, &mut pool);
        let want: Vec<_> = flows.iter().flatten().map(Spec::bytes).collect();
        assert_eq!(frames, want);
    }
}

#[test]
fn what_differs_does_not_merge() {
    for (tcp, v6) in KINDS {
        let first =
            Spec::new(tcp, v6, 100).with(|s| s.tcp_options = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        let next = first.next(100);
        let refuses = |why: &str, a: &Spec, b: &Spec| {
            assert_eq!(left(&[a.clone(), b.clone()]), 2, "{why}: tcp {tcp} v6 {v6}");
        };
        // In the second frame only.
        type Change = fn(&mut Spec);
        let changes: [(&str, Change); 7] = [
            ("source address", |s| s.src = 9),
            ("destination address", |s| s.dst = 9),
            ("source port", |s| s.sport += 1),
            ("destination port", |s| s.dport += 1),
            ("TTL", |s| s.ttl -= 1),
            ("DSCP", |s| s.tos = 4),
            ("ECN", |s| s.tos = 3),
        ];
        for (why, change) in changes {
            refuses(why, &first, &next.with(change));
        }
        refuses("link address", &first, &next.with(|s| s.src_mac = 7));
        refuses("a tag in the bytes", &first, &next.with(|s| s.tags = vec![(0x8100, 5)]));
        let tagged = first.with(|s| s.tags = vec![(0x8100, 5)]);
        refuses("another tag", &tagged, &tagged.next(100).with(|s| s.tags = vec![(0x8100, 6)]));
        assert_eq!(left(&[tagged.clone(), tagged.next(100)]), 1, "the same tag");
        refuses("a longer second payload", &first, &first.next(101));
        refuses("an empty second payload", &first, &first.next(0));
        refuses("an empty first payload", &first.with(|s| s.payload.clear()), &first);
        refuses("the other version", &first, &Spec::new(tcp, !v6, 100));
        refuses("the other protocol", &first, &Spec::new(!tcp, v6, 100));
        if v6 {
            refuses("flow label", &first, &next.with(|s| s.flow_label = 1));
            let extended = first.with(|s| s.extensions = 1);
            refuses("extension headers", &extended, &extended.next(100));
        } else {
            refuses("DF", &first, &next.with(|s| s.df = false));
            let options = first.with(|s| s.ip_options = 4);
            refuses("IP options", &options, &options.next(100));
            refuses("identification skips", &first, &next.with(|s| s.id += 1));
            let free = first.with(|s| s.df = false);
            assert_eq!(left(&[free.clone(), free.next(100)]), 1);
            refuses("identification stays without DF", &free, &free.next(100).with(|s| s.id -= 1));
        }
        if tcp {
            refuses("sequence gap", &first, &next.with(|s| s.seq += 1));
            refuses("retransmission", &first, &next.with(|s| s.seq = first.seq));
            refuses("acknowledgement", &first, &next.with(|s| s.ack += 1));
            refuses("window", &first, &next.with(|s| s.window += 1));
            refuses("urgent pointer", &first, &next.with(|s| s.urgent += 1));
            refuses("timestamp", &first, &next.with(|s| s.tcp_options[7] = 9));
            refuses("fewer options", &first, &next.with(|s| s.tcp_options.truncate(8)));
            refuses("PSH on the first", &first.with(|s| s.flags |= PSH), &next);
            refuses("ECE on one", &first, &next.with(|s| s.flags |= ECE));
            for flag in [FIN, SYN, RST, URG, CWR] {
                refuses("flag on the second", &first, &next.with(|s| s.flags |= flag));
                refuses("flag on the first", &first.with(|s| s.flags |= flag), &next);
                refuses("flag on both", &first.with(|s| s.flags |= flag), &next.with(|s| s.flags |= flag));
            }
            let ece = |s: &Spec| s.with(|s| s.flags |= ECE);
            assert_eq!(left(&[ece(&first), ece(&next)]), 1, "ECE on both");
        }
    }
}

#[test]
fn a_shorter_frame_or_push_joins_and_ends_the_run() {
    for (tcp, v6) in KINDS {
        let a = Spec::new(tcp, v6, 100);
        let b = a.next(60);
        let c = b.next(60);
        assert_eq!(left(&[a.clone(), b.clone(), c.clone()]), 2);
        assert_eq!(left(&[a.clone(), b, c.clone(), c.next(60)]), 2, "and the next run begins");
        if tcp {
            let push = a.next(100).with(|s| s.flags |= PSH);
            let after = push.next(100).with(|s| s.flags = ACK);
            assert_eq!(left(&[a.clone(), push.clone()]), 1);
            assert_eq!(left(&[a.clone(), push, after]), 2);
        }
    }
}

#[test]
fn an_unchanged_identification_merges_with_df_as_one_run() {
    let specs: Vec<_> =
        train(&Spec::new(false, false, 100), 5).iter().map(|s| s.with(|s| s.id = 0)).collect();
    assert_eq!(partial_left(&specs), 1);
    // Once fixed, it must stay so, and once it counts, it must count on.
    let ids = |ids: [u16; 3]| {
        let specs: Vec<_> = specs.iter().zip(ids).map(|(s, id)| s.with(|s| s.id = id)).collect();
        partial_left(&specs)
    };
    assert_eq!(ids([7, 7, 7]), 1);
    assert_eq!(ids([7, 8, 9]), 1);
    assert_eq!(ids([0xffff, 0, 1]), 1);
    assert_eq!(ids([7, 7, 8]), 2);
    assert_eq!(ids([7, 7, 9]), 2);
    assert_eq!(ids([7, 8, 8]), 2);
    assert_eq!(ids([7, 8, 7]), 2);
}

#[test]
fn limits_of_size_and_count() {
    for (tcp, v6) in KINDS {
        let many = train(&Spec::new(tcp, v6, 10), 130);
        assert_eq!(left(&many), if tcp { 1 } else { 3 }, "64 datagrams at most");
        let tiny = train(&Spec::new(tcp, v6, 1), 1500);
        assert_eq!(left(&tiny), if tcp { 2 } else { 24 }, "no more than can be cut again");
        // 46 times 1,448 is over 65,535.
        let large = train(&Spec::new(tcp, v6, 1448), 46);
        assert_eq!(left(&large), 2);
        let mut pool = Pool::new(128, 8);
        let batch = merge(large.iter().map(|s| s.packet(&mut pool)).collect(), &mut pool);
        assert!(batch[0].len() - 14 <= 65535 && batch[0].len() > 64_000);
    }
}

#[test]
fn fragments_padding_and_cut_frames_do_not_merge() {
    for (tcp, v6) in KINDS {
        let first = Spec::new(tcp, v6, 100);
        let specs = [first.clone(), first.next(100)];
        let check = |why: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let mut pool = Pool::new(16, 4);
            for which in [0, 1] {
                let packets: Vec<Packet> = specs
                    .iter()
                    .enumerate()
                    .map(|(i, s)| {
                        let mut bytes = s.bytes();
                        if i == which {
                            change(&mut bytes);
                        }
                        let mut packet = from_bytes(&bytes, &mut pool);
                        packet.meta_mut().offload.csum = Checksum::Valid;
                        packet
                    })
                    .collect();
                let before: Vec<_> = packets.iter().map(Packet::to_vec).collect();
                let after = merge(packets, &mut pool);
                assert_eq!(
                    after.iter().map(Packet::to_vec).collect::<Vec<_>>(),
                    before,
                    "{why} tcp {tcp} v6 {v6}"
                );
            }
        };
        check("padding", &|b| b.push(0));
        check("cut", &|b| b.truncate(b.len() - 1));
        if v6 {
            check("version", &|b| b[14] = 0x50);
            check("atomic fragment", &|b| {
                let next = std::mem::replace(&mut b[20], 44);
                b.splice(54..54, [next, 0, 0, 0, 0, 0, 0, 1]);
                b[19] += 8;
            });
        } else {
            let fix = |b: &mut Vec<u8>| {
                b[24..26].fill(0);
                let sum = !naive_sum(&b[14..34]);
                b[24..26].copy_from_slice(&sum.to_be_bytes());
            };
            check("first fragment", &|b| {
                b[20] |= 0x20;
                fix(b);
            });
            check("later fragment", &|b| {
                b[21] = 5;
                fix(b);
            });
            check("header checksum", &|b| b[24] ^= 1);
        }
        if !tcp {
            check("UDP length", &|b| b[if v6 { 59 } else { 39 }] -= 1);
            check("UDP checksum 0", &|b| b[if v6 { 60..62 } else { 40..42 }].fill(0));
        }
    }
}

#[test]
fn frames_whose_checksum_is_wrong_pass_unmerged() {
    for (tcp, v6) in KINDS {
        let specs = train(&Spec::new(tcp, v6, 100), 4);
        for bad in 0..4 {
            let mut pool = Pool::new(16, 4);
            let mut frames: Vec<_> = specs.iter().map(Spec::bytes).collect();
            *frames[bad].last_mut().unwrap() ^= 1;
            let batch = merge(frames.iter().map(|f| from_bytes(f, &mut pool)).collect(), &mut pool);
            assert_eq!(batch.len(), [2, 3, 3, 2][bad]);
            assert_eq!(cut(batch, &mut pool), frames, "the bad one is still bad");
            // The kernel's word is taken for it.
            let mut packets: Vec<_> = frames.iter().map(|f| from_bytes(f, &mut pool)).collect();
            packets.iter_mut().for_each(|p| p.meta_mut().offload.csum = Checksum::Valid);
            assert_eq!(merge(packets, &mut pool).len(), 1);
        }
    }
}

#[test]
fn metadata_that_forbids_merging() {
    for (tcp, v6) in KINDS {
        let specs = train(&Spec::new(tcp, v6, 100), 2);
        let check = |change: &dyn Fn(&mut Packet), want: usize, both: bool| {
            let mut pool = Pool::new(16, 4);
            let mut packets: Vec<_> = specs.iter().map(|s| s.partial(0, &mut pool)).collect();
            packets.iter_mut().skip(usize::from(!both)).for_each(change);
            assert_eq!(merge(packets, &mut pool).len(), want, "tcp {tcp} v6 {v6}");
        };
        let tag = Some(VlanTag::new(Tpid::Customer, VlanId::new(5).unwrap(), 0));
        check(&|p| p.meta_mut().vlan = tag, 2, false);
        check(&|p| p.meta_mut().vlan = tag, 1, true);
        check(&|p| p.meta_mut().outer.csum = Checksum::Valid, 2, true);
        let start = specs[0].l4_offset() as u16;
        check(&|p| p.meta_mut().offload.csum = Checksum::Partial { start: start + 8, offset: 6 }, 2, false);
        check(&|p| p.meta_mut().offload.csum = Checksum::Partial { start, offset: 2 }, 2, false);
    }
}

#[test]
fn superframes_take_more_of_the_same_size() {
    for (tcp, v6) in KINDS {
        let mut pool = Pool::new(128, 8);
        let a = Spec::new(tcp, v6, 500);
        let next_of =
            |s: &Spec, payload: usize, segments: u16| s.next(payload).with(|n| n.id = s.id + segments);
        let mut left = |list: &[(&Spec, u16)]| {
            let originals: Vec<_> = list
                .iter()
                .flat_map(|(s, size)| match size {
                    0 => vec![s.bytes()],
                    n => s.segments(usize::from(*n)).iter().map(Spec::bytes).collect(),
                })
                .collect();
            let batch = merge(list.iter().map(|(s, size)| s.partial(*size, &mut pool)).collect(), &mut pool);
            let count = batch.len();
            assert_eq!(cut(batch, &mut pool), originals, "tcp {tcp} v6 {v6}");
            count
        };
        let b = next_of(&a, 350, 5);
        assert_eq!(left(&[(&a, 100), (&b, 100)]), 1, "a superframe and another");
        assert_eq!(left(&[(&a, 100), (&b, 70)]), 2, "of another size");
        assert_eq!(left(&[(&a, 100), (&next_of(&a, 100, 5), 0)]), 1, "an ordinary frame");
        assert_eq!(left(&[(&a, 100), (&next_of(&a, 40, 5), 0)]), 1, "a short one");
        assert_eq!(left(&[(&a, 100), (&next_of(&a, 140, 5), 0)]), 2, "a longer one");
        assert_eq!(left(&[(&a, 300), (&next_of(&a, 40, 2), 0)]), 2, "the first ends short");
        let head = a.with(|s| s.payload.truncate(100));
        assert_eq!(left(&[(&head, 0), (&next_of(&head, 350, 1), 100)]), 1, "an ordinary frame first");
        if !v6 {
            assert_eq!(left(&[(&a, 100), (&next_of(&a, 100, 1), 0)]), 2, "identification counts segments");
            assert_eq!(
                left(&[(&head, 0), (&next_of(&head, 350, 0), 100)]),
                2,
                "and cannot stay in a superframe"
            );
        }
    }
}

#[test]
fn a_superframe_of_the_wrong_kind_or_with_cwr_does_not_merge() {
    let mut pool = Pool::new(16, 4);
    let specs = train(&Spec::new(true, false, 500), 2);
    for change in [
        (|p: &mut Packet| p.meta_mut().offload.gso.kind = GsoKind::UdpL4) as fn(&mut Packet),
        |p| p.meta_mut().offload.gso.kind = GsoKind::TcpV6,
        |p| p.meta_mut().offload.gso.ecn = true,
        |p| p.meta_mut().offload.gso.size = 0,
    ] {
        let mut packets: Vec<_> = specs.iter().map(|s| s.partial(500, &mut pool)).collect();
        packets.iter_mut().for_each(change);
        assert_eq!(merge(packets, &mut pool).len(), 2);
    }
}

#[test]
fn a_shared_tail_is_not_written_to() {
    let mut pool = Pool::new(16, 4);
    let specs = train(&Spec::new(true, false, 4000), 2);
    let first = specs[0].packet(&mut pool);
    let copy = pool.duplicate(&first);
    let batch = merge(vec![first, specs[1].packet(&mut pool)], &mut pool);
    assert_eq!(batch.len(), 2);
    assert_eq!(copy.to_vec(), specs[0].bytes());
    assert_eq!(batch[0].to_vec(), specs[0].bytes());
}

#[test]
fn what_is_of_no_flow_neither_merges_nor_stops_others() {
    let mut pool = Pool::new(16, 4);
    let specs = train(&Spec::new(false, false, 100), 3);
    // ICMP between, as another protocol; then a fragment, which might be of the flow.
    let icmp = {
        let mut bytes = specs[0].bytes();
        bytes[23] = 1;
        bytes
    };
    let mut fragment = specs[0].bytes();
    fragment[21] = 5;
    let packets = |middle: &[u8], pool: &mut Pool| {
        vec![specs[0].packet(pool), from_bytes(middle, pool), specs[1].packet(pool), specs[2].packet(pool)]
    };
    let batch = merge(packets(&icmp, &mut pool), &mut pool);
    assert_eq!(batch.len(), 2);
    let batch = merge(packets(&fragment, &mut pool), &mut pool);
    assert_eq!(batch.len(), 3);
    assert_eq!(batch[1].to_vec(), fragment);
    assert_eq!(batch[0].meta().offload, Offload::NONE);
}

/// What a random sender does next on one of its flows.
#[derive(Clone, Debug)]
struct Step {
    flow: u16,
    payload: usize,
    change: u8,
    gso: bool,
    csum: u8,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let payload = prop_oneof![5 => Just(64usize), 2 => Just(1000), 1 => 0..3000usize];
    let step = (0..12u16, payload, any::<u8>(), prop::bool::weighted(0.2), 0..3u8);
    prop::collection::vec(
        step.prop_map(|(flow, payload, change, gso, csum)| Step { flow, payload, change, gso, csum }),
        1..150,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn cutting_gives_every_flow_back_in_order(steps in steps(), flows in 1..12u16) {
        let mut pool = Pool::new(256, 16);
        let mut state: Vec<Spec> = (0..12)
            .map(|i| Spec::new(i % 2 == 0, i % 3 == 0, 0).with(|s| (s.sport, s.df) = (i, i % 4 < 2)))
            .collect();
        let mut sent: Vec<Vec<Vec<u8>>> = vec![vec![]; 12];
        let mut batch = vec![];
        for step in &steps {
            let flow = usize::from(step.flow % flows);
            let spec = &mut state[flow];
            *spec = spec.next(step.payload);
            match step.change {
                0..16 => spec.ttl ^= 1,
                16..32 => spec.seq = spec.seq.wrapping_add(5),
                32..40 => spec.id = spec.id.wrapping_add(5),
                40..56 => spec.flags ^= PSH,
                56..64 => spec.flags ^= FIN,
                64..72 => spec.flags ^= ECE,
                72..80 => spec.ack += 1,
                80..84 => spec.tos ^= 1,
                _ => {}
            }
            if step.gso && step.payload > 0 {
                let size = (step.payload / 3).max(15);
                let segments = spec.segments(size);
                sent[flow].extend(segments.iter().map(Spec::bytes));
                batch.push(spec.partial(size as u16, &mut pool));
                spec.id = spec.id.wrapping_add(segments.len() as u16 - 1);
            } else {
                sent[flow].push(spec.bytes());
                batch.push(match step.csum {
                    0 => spec.packet(&mut pool),
                    1 => spec.partial(0, &mut pool),
                    _ => {
                        let mut packet = spec.packet(&mut pool);
                        packet.meta_mut().offload.csum = Checksum::Valid;
                        packet
                    }
                });
            }
        }
        let total = batch.len();
        let merged = merge(batch, &mut pool);
        prop_assert_eq!(merged.iter().map(|p| usize::from(p.meta().frames)).sum::<usize>(), total);
        let mut received: Vec<Vec<Vec<u8>>> = vec![vec![]; 12];
        for frame in cut(merged, &mut pool) {
            check_frame(&frame);
            let v6 = frame[12] == 0x86;
            let sport = frame[if v6 { 55 } else { 35 }];
            received[usize::from(sport)].push(frame);
        }
        prop_assert_eq!(received, sent);
    }
}
