//! Sockets under tunnels: what is sent arrives, over a veth between two namespaces.

mod common;
#[path = "common/underlay.rs"]
mod kit;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use kit::*;
use trunkline_packet::DropReason;
use trunkline_ports::underlay::{
    Arrival, DatagramTx, Datagrams, Family, MAX_SEGMENTS, Outer, gre, udp_senders,
};

#[test]
fn udp_runs_are_sent_as_one_and_arrive_as_one() {
    sandbox(Needs::Net, || {
        let ns = wire();
        for family in FAMILIES {
            let tx = udp_senders(family).unwrap();
            let mut rx = inside(&ns, || End::udp(family));
            let sent = payloads(45, 1400, 777);
            let how = Datagrams { tos: 0xb9, ttl: 7, socket: 3, ..to(there(family)) };
            let stats = run(&*tx, &sent, how);
            let bytes: Vec<u8> = sent.concat();
            assert_eq!((stats.packets, stats.bytes), (46, bytes.len() as u64));
            let got = rx.take(bytes.len());
            assert_eq!(got.len(), 1, "one packet");
            let (arrival, received) = &got[0];
            assert!(*received == bytes, "the bytes arrived as they were sent");
            let src_port = arrival.outer.src_port;
            let expected = Arrival {
                outer: Outer {
                    src: here(family),
                    dst: there(family),
                    src_port,
                    dst_port: PORT,
                    tos: 0xb9,
                    ttl: 7,
                    proto: 17,
                },
                gro: Some(1400),
            };
            assert_eq!(*arrival, expected);

            // A source of our choice, and the system's TTL.
            let src = match family {
                Family::V4 => "10.9.0.11".parse().unwrap(),
                Family::V6 => "fd09::11".parse().unwrap(),
            };
            let how = Datagrams { src: Some(src), ttl: 0, ..to(there(family)) };
            run(&*tx, &payloads(0, 0, 100), how);
            let got = rx.take(100);
            let (arrival, _) = got[0];
            assert_eq!(
                (arrival.outer.src, arrival.outer.ttl, arrival.outer.tos, arrival.gro),
                (src, 64, 0, None)
            );
        }
    });
}

#[test]
fn every_length_arrives_from_head_and_tail() {
    sandbox(Needs::Net, || {
        let ns = wire();
        ip("link set u0 mtu 65535");
        inside(&ns, || ip("link set u1 mtu 65535"));
        for family in FAMILIES {
            let (udp, raw) = (udp_senders(family).unwrap(), gre(family).unwrap().1);
            let (mut udp_rx, mut raw_rx) =
                inside(&ns, || (End::udp(family), End::new(gre(family).unwrap().0)));
            let longest = 65535 - if family == Family::V4 { 28 } else { 48 };
            for len in [0, 1, 60, 1400, 1919, 1920, 1921, 1948, 9000, longest] {
                let sent = payloads(0, 0, len);
                for (tx, rx) in [(&udp, &mut udp_rx), (&raw, &mut raw_rx)] {
                    assert_eq!(transmit(&**tx, &sent, &[to(there(family))]).packets, 1, "{len}");
                    assert!(readable(rx.rx.poll_fd(), Duration::from_secs(1)), "{len}");
                    let got = rx.take(0);
                    assert!(got.len() == 1 && got[0].1 == sent[0], "{family:?} {len}");
                    assert_eq!(got[0].0.gro, None);
                }
            }
            assert_eq!((udp_rx.stats.truncated, udp_rx.stats.oversize), (0, 0));
            // Longer than any: refused, and the rest of the batch is not.
            let sent = [payloads(0, 0, 65536), payloads(0, 0, 50)].concat();
            for (tx, rx) in [(&udp, &mut udp_rx), (&raw, &mut raw_rx)] {
                let how = to(there(family));
                let stats = transmit(&**tx, &sent, &[how, Datagrams { first: 1, ..how }]);
                assert_eq!((stats.packets, drops(&stats, DropReason::Mtu)), (1, 1));
                assert!(rx.take(50).len() == 1);
            }
        }
    });
}

#[test]
fn gre_goes_both_ways_with_its_outer_fields() {
    sandbox(Needs::Net, || {
        let ns = wire();
        for family in FAMILIES {
            let (rx, tx) = gre(family).unwrap();
            let (far_rx, far_tx) = inside(&ns, || gre(family).unwrap());
            let (mut rx, mut far_rx) = (End::new(rx), End::new(far_rx));
            assert_eq!(tx.sockets(), 1);
            let ways = [
                (&tx, &mut far_rx, here(family), there(family)),
                (&far_tx, &mut rx, there(family), here(family)),
            ];
            for (tx, rx, src, dst) in ways {
                for df in [true, false] {
                    let sent = payloads(39, 1200, 80);
                    let how = Datagrams { tos: 0x2e, ttl: 9, df, ..to(dst) };
                    let what: Vec<_> = (0..40).map(|first| Datagrams { first, ..how }).collect();
                    let stats = transmit(&**tx, &sent, &what);
                    let bytes: usize = sent.iter().map(Vec::len).sum();
                    assert_eq!((stats.packets, stats.bytes), (40, bytes as u64));
                    let got = rx.take(bytes);
                    assert!(got.iter().map(|(_, b)| b).eq(&sent), "in order, each once");
                    let expected = Arrival {
                        outer: Outer { src, dst, src_port: 0, dst_port: 0, tos: 0x2e, ttl: 9, proto: 47 },
                        gro: None,
                    };
                    assert!(got.iter().all(|(a, _)| *a == expected), "{:?}", got[0].0);
                }
            }
        }
    });
}

/// With sources of our choice, by connected sockets and by others, to more remotes than have one.
#[test]
fn gre_leaves_with_the_source_and_for_the_remote_asked_for() {
    sandbox(Needs::Net, || {
        let ns = wire();
        let v4 = |last: u8| IpAddr::V4(Ipv4Addr::new(10, 9, 0, last));
        inside(&ns, || (100..112).for_each(|last| ip(&format!("addr add 10.9.0.{last}/24 dev u1"))));
        let (_rx, tx) = gre(Family::V4).unwrap();
        let mut far = End::new(inside(&ns, || gre(Family::V4).unwrap().0));
        let n = 96;
        let sent = payloads(n - 1, 300, 300);
        // 10.9.0.1 is what the route chooses, 10.9.0.11 is not; some may be fragmented.
        let what: Vec<_> = (0..n)
            .map(|i| Datagrams {
                src: Some(v4(if i % 3 == 0 { 11 } else { 1 })),
                df: i % 5 != 0,
                first: i,
                ..to(v4(100 + (i / 2 % 12) as u8))
            })
            .collect();
        // Enough for sockets to change hands.
        for _ in 0..60 {
            assert_eq!(transmit(&*tx, &sent, &what).packets as usize, n);
            let got = far.take(n * 300);
            assert_eq!(got.len(), n);
            for (arrival, bytes) in got {
                let i = sent.iter().position(|s| *s == bytes).expect("as it was sent");
                assert_eq!((Some(arrival.outer.src), arrival.outer.dst), (what[i].src, what[i].dst), "{i}");
            }
        }
        // An address that goes takes its packets with it, by whatever socket; it is no other's.
        let one = [payloads(0, 0, 100)].concat();
        let from = |last| Datagrams { src: Some(v4(last)), ..to(there(Family::V4)) };
        let mut sends = |last, expected: u64| {
            let stats = transmit(&*tx, &one, &[from(last)]);
            assert_eq!(stats.packets, expected, "from {last}: {:?}", stats.drops);
            assert_eq!(u64::from(stats.drops[DropReason::UnderlayUnreachable.index()]), 1 - expected);
            if expected == 1 {
                assert_eq!(far.take(100)[0].0.outer.src, v4(last));
            }
        };
        for _ in 0..3 {
            sends(1, 1);
            // With the first address of a network its others go.
            ip("addr del 10.9.0.1/24 dev u0");
            ip("addr add 10.9.0.21/24 dev u0");
            ip("addr add 10.9.0.11/24 dev u0");
            sends(1, 0);
            sends(1, 0);
            sends(11, 1);
            sends(21, 1);
            ip("addr del 10.9.0.21/24 dev u0");
            ip("addr add 10.9.0.1/24 dev u0");
            ip("addr add 10.9.0.11/24 dev u0");
            sends(1, 1);
        }
    });
}

#[test]
fn source_ports_are_spread_and_order_is_kept() {
    sandbox(Needs::Net, || {
        let ns = wire();
        for family in FAMILIES {
            let tx = udp_senders(family).unwrap();
            let n = tx.sockets();
            assert!((16..=64).contains(&n));
            let mut rx = inside(&ns, || End::udp(family));
            // Three to each socket in turn, some of them not DF.
            let sent = payloads(3 * n - 1, 64, 64);
            let what: Vec<_> = (0..3 * n)
                .map(|i| Datagrams {
                    first: i,
                    socket: i + n,
                    df: (i % n).is_multiple_of(2),
                    ..to(there(family))
                })
                .collect();
            assert_eq!(transmit(&*tx, &sent, &what).packets as usize, 3 * n);
            let got = rx.take(3 * n * 64);
            let ports: HashSet<_> = got.iter().map(|(a, _)| a.outer.src_port).collect();
            assert_eq!(ports.len(), n);
            assert!(ports.iter().all(|&p| p >= 49152), "{ports:?}");
            for port in ports {
                let of_port: Vec<_> = got.iter().filter(|(a, _)| a.outer.src_port == port).collect();
                let first = sent.iter().position(|s| *s == of_port[0].1).unwrap();
                let order = [first, first + n, first + 2 * n];
                assert!(of_port.iter().map(|(_, b)| b).eq(order.map(|i| &sent[i])), "{port}");
            }
        }
    });
}

#[test]
fn runs_too_long_for_one_message_go_singly() {
    sandbox(Needs::Net, || {
        let ns = wire();
        let tx = udp_senders(Family::V4).unwrap();
        let mut rx = inside(&ns, || End::udp(Family::V4));
        for n in [MAX_SEGMENTS, MAX_SEGMENTS + 1, 200] {
            let sent = payloads(n - 1, 100, 90);
            assert_eq!(run(&*tx, &sent, to(there(Family::V4))).packets as usize, n);
            let got = rx.take(sent.concat().len());
            assert!(got.into_iter().flat_map(|(_, b)| b).eq(sent.concat()), "{n}");
        }
    });
}

#[test]
fn any_worker_may_send_at_any_time() {
    sandbox(Needs::Net, || {
        let ns = wire();
        let tx = udp_senders(Family::V4).unwrap();
        let mut rx = inside(&ns, || End::udp(Family::V4));
        std::thread::scope(|s| {
            for worker in 0..4 {
                let tx: Arc<dyn DatagramTx> = tx.clone();
                s.spawn(move || {
                    for i in 0..50 {
                        let how = Datagrams { socket: worker * 7 + i, ..to(there(Family::V4)) };
                        assert_eq!(run(&*tx, &payloads(7, 800, 800), how).packets, 8);
                    }
                });
            }
        });
        let mut bytes = 0;
        while let got @ 1.. = rx.take(0).iter().map(|(_, b)| b.len()).sum::<usize>() {
            bytes += got;
        }
        assert_eq!(bytes, 4 * 50 * 8 * 800);
    });
}
