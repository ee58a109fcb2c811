//! Sockets under tunnels, over a veth between two namespaces.

mod common;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use common::*;
use trunkline_packet::{Batch, DropReason, Offload, Pool};
use trunkline_ports::link;
use trunkline_ports::netns::Netns;
use trunkline_ports::underlay::{
    Arrival, DatagramRx, DatagramTx, Datagrams, Family, Groups, MAX_SEGMENTS, UdpOptions, gre, path,
    udp_receivers, udp_senders,
};
use trunkline_ports::{RecvEnd, RecvStats, SendStats};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
const PORT: u16 = 4789;

/// Addresses of this end and of the other.
fn here(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

fn there(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 0, 2).into(),
        Family::V6 => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2).into(),
    }
}

/// A veth from u0 here to u1 in a namespace of its own, with two addresses of each family.
fn wire() -> Netns {
    let ns = new_netns();
    ip("link add u0 type veth peer name u1");
    ip(&format!("link set u1 netns {}", path_of(&ns)));
    let set_up = |dev: &str, last: u32| {
        ip(&format!("addr add 10.9.0.{last}/24 dev {dev}"));
        ip(&format!("addr add 10.9.0.{}/24 dev {dev}", last + 10));
        ip(&format!("addr add fd09::{last}/64 dev {dev} nodad"));
        // Deprecated: not chosen by itself.
        ip(&format!("addr add fd09::{}/64 dev {dev} nodad preferred_lft 0", last + 10));
    };
    set_up("u0", 1);
    ip("link set u0 up");
    inside(&ns, || {
        set_up("u1", 2);
        up("u1");
    });
    up("u0");
    ns
}

fn options(family: Family) -> UdpOptions {
    UdpOptions { family, port: PORT, queues: 1, groups: Vec::new(), checksum6: false }
}

/// Receivers on a port that has just been given up: free as soon as no child of another test holds it.
fn reopened(options: &UdpOptions) -> (Vec<Box<dyn DatagramRx>>, Groups) {
    let mut opened = None;
    assert!(eventually(|| udp_receivers(options).map(|new| opened = Some(new)).is_ok()), "never free");
    opened.unwrap()
}

/// A receiver with its pool and everything it met.
struct End {
    rx: Box<dyn DatagramRx>,
    pool: Pool,
    stats: RecvStats,
}

impl End {
    fn new(rx: Box<dyn DatagramRx>) -> End {
        End { rx, pool: Pool::new(256, 64), stats: RecvStats::default() }
    }

    fn udp(family: Family) -> End {
        End::new(udp_receivers(&options(family)).unwrap().0.remove(0))
    }

    /// What arrives until `bytes` have, or within a second.
    fn take(&mut self, bytes: usize) -> Vec<(Arrival, Vec<u8>)> {
        let mut got = Vec::new();
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end && got.iter().map(|(_, b): &(_, Vec<u8>)| b.len()).sum::<usize>() < bytes {
            readable(self.rx.poll_fd(), Duration::from_millis(20));
            self.recv(&mut got);
        }
        // One more, for what should not have come.
        self.recv(&mut got);
        got
    }

    fn recv(&mut self, got: &mut Vec<(Arrival, Vec<u8>)>) {
        let (mut out, mut arrivals) = (Batch::new(), Vec::new());
        let end = self.rx.recv(&mut self.pool, &mut out, &mut arrivals, 64, &mut self.stats);
        assert!(matches!(end, RecvEnd::Drained | RecvEnd::More), "{end:?}");
        assert_eq!(out.len(), arrivals.len());
        for (packet, arrival) in out.drain(..).zip(arrivals) {
            assert!(packet.headroom() >= trunkline_packet::buf::HEADROOM);
            got.push((arrival, packet.to_vec()));
            self.pool.put(packet);
        }
    }
}

fn to(dst: IpAddr) -> Datagrams {
    Datagrams {
        dst,
        dst_port: PORT,
        src: None,
        interface: 0,
        tos: 0,
        ttl: 64,
        df: true,
        socket: 0,
        first: 0,
        count: 1,
        size: 0,
    }
}

/// `count` payloads of `size` bytes and a last one of `last`.
fn payloads(count: usize, size: usize, last: usize) -> Vec<Vec<u8>> {
    let bytes = |i: usize, len: usize| (0..len).map(|at| (at * 31 + i * 7 + (at >> 8)) as u8).collect();
    (0..count).map(|i| bytes(i, size)).chain([bytes(count, last)]).collect()
}

fn transmit(tx: &dyn DatagramTx, payloads: &[Vec<u8>], what: &[Datagrams]) -> SendStats {
    let mut pool = Pool::new(256, 256);
    let mut batch: Batch = payloads.iter().map(|b| packet(b, Offload::NONE)).collect();
    let mut stats = SendStats::default();
    tx.send(&mut pool, &mut batch, what, &mut stats);
    assert!(batch.is_empty());
    let dropped: u32 = stats.drops.iter().sum();
    assert_eq!(stats.packets as usize + dropped as usize, payloads.len(), "each ends in one place");
    stats
}

/// All payloads in one run.
fn run(tx: &dyn DatagramTx, payloads: &[Vec<u8>], how: Datagrams) -> SendStats {
    transmit(tx, payloads, &[Datagrams { first: 0, count: payloads.len(), size: payloads[0].len(), ..how }])
}

fn drops(stats: &SendStats, reason: DropReason) -> u32 {
    stats.drops[reason.index()]
}

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
            let src_port = arrival.src_port;
            let expected = Arrival {
                src: here(family),
                dst: there(family),
                src_port,
                dst_port: PORT,
                tos: 0xb9,
                ttl: 7,
                proto: 17,
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
            assert_eq!((arrival.src, arrival.ttl, arrival.tos, arrival.gro), (src, 64, 0, None));
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
                        src,
                        dst,
                        src_port: 0,
                        dst_port: 0,
                        tos: 0x2e,
                        ttl: 9,
                        proto: 47,
                        gro: None,
                    };
                    assert!(got.iter().all(|(a, _)| *a == expected), "{:?}", got[0].0);
                }
            }
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
            let ports: HashSet<_> = got.iter().map(|(a, _)| a.src_port).collect();
            assert_eq!(ports.len(), n);
            assert!(ports.iter().all(|&p| p >= 49152), "{ports:?}");
            for port in ports {
                let of_port: Vec<_> = got.iter().filter(|(a, _)| a.src_port == port).collect();
                let first = sent.iter().position(|s| *s == of_port[0].1).unwrap();
                let order = [first, first + n, first + 2 * n];
                assert!(of_port.iter().map(|(_, b)| b).eq(order.map(|i| &sent[i])), "{port}");
            }
        }
    });
}

#[test]
fn too_big_is_dropped_and_told_or_fragmented() {
    sandbox(Needs::Net, || {
        let ns = wire();
        for family in FAMILIES {
            let tx = udp_senders(family).unwrap();
            let mut rx = inside(&ns, || End::udp(family));
            let dst = there(family);
            assert_eq!(tx.too_big(), None);
            for sent in [payloads(0, 0, 2500), payloads(9, 2500, 2500)] {
                let n = sent.len() as u32;
                let stats = run(&*tx, &sent, to(dst));
                assert_eq!(drops(&stats, DropReason::Mtu), n);
                assert_eq!((tx.too_big(), tx.too_big()), (Some(dst), None));
                let stats = run(&*tx, &sent, Datagrams { df: false, ..to(dst) });
                assert_eq!(stats.packets, u64::from(n));
                let got = rx.take(sent.concat().len());
                assert!(got.iter().map(|(_, b)| b).eq(&sent));
            }
            // That was no reason to give up segmentation.
            run(&*tx, &payloads(9, 1000, 1000), to(dst));
            assert_eq!(rx.take(10_000).len(), 1);

            let (_raw, tx) = gre(family).unwrap();
            let mut rx = inside(&ns, || End::new(gre(family).unwrap().0));
            let sent = payloads(0, 0, 2500);
            assert_eq!(drops(&run(&*tx, &sent, to(dst)), DropReason::Mtu), 1);
            assert_eq!(tx.too_big(), Some(dst));
            assert_eq!(run(&*tx, &sent, Datagrams { df: false, ..to(dst) }).packets, 1);
            let got = rx.take(2500);
            assert!(got.len() == 1 && got[0].1 == sent[0]);
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
fn a_taken_port_is_an_error_and_a_port_given_up_is_free() {
    let test = test_name();
    sandbox(Needs::Net, || {
        let refused = |options: &UdpOptions| {
            let e = udp_receivers(options).err().expect("the port is taken");
            assert_eq!((e.kind(), e.to_string().as_str()), (ErrorKind::AddrInUse, "UDP port 4789 is taken"));
        };
        for family in FAMILIES {
            for queues in [1, 4] {
                let options = UdpOptions { queues, ..options(family) };
                // A stranger's socket, on one address.
                let address = if family == Family::V4 { "127.0.0.1" } else { "::1" };
                let stranger = UdpSocket::bind((address, PORT)).unwrap();
                refused(&options);
                drop(stranger);
                // Our own, as a second daemon of the same user, however many queues either has.
                let ours = reopened(&options);
                assert_eq!(ours.0.len(), queues);
                refused(&UdpOptions { queues: 1, ..options.clone() });
                refused(&UdpOptions { queues: 2, ..options.clone() });
                drop(ours.0);
                drop(reopened(&options));
            }
            // The families do not take each other's.
            let _both = FAMILIES.map(|f| reopened(&options(f)));
        }
        // The kernel's own.
        let words = "link add vx0 type vxlan id 1 dstport 4789 local 127.0.0.1";
        let made = std::process::Command::new("ip").args(words.split(' ')).status().unwrap();
        if !made.success() {
            return skipped(&test, "no vxlan device");
        }
        ip("link set vx0 up");
        refused(&options(Family::V4));
    });
}

#[test]
fn queues_share_the_senders_and_one_has_all_of_each() {
    sandbox(Needs::Net, || {
        let ns = wire();
        for family in FAMILIES {
            let tx = udp_senders(family).unwrap();
            let n = tx.sockets();
            let options = UdpOptions { queues: 4, ..options(family) };
            let (rx, _groups) = inside(&ns, || udp_receivers(&options).unwrap());
            for round in 0..3 {
                let what: Vec<_> =
                    (0..n).map(|i| Datagrams { first: i, socket: i, ..to(there(family)) }).collect();
                assert_eq!(transmit(&*tx, &payloads(n - 1, 64, 64), &what).packets as usize, n, "{round}");
            }
            let (mut busy, mut total, mut seen) = (0, 0, HashSet::new());
            for mut rx in rx.into_iter().map(End::new) {
                let got = rx.take(0);
                busy += usize::from(!got.is_empty());
                total += got.len();
                let ports: HashSet<_> = got.iter().map(|(a, _)| a.src_port).collect();
                assert!(ports.iter().all(|port| seen.insert(*port)), "a sender's port is one receiver's");
            }
            assert!(busy >= 3 && total == 3 * n, "{busy} {total}");
        }
    });
}

#[test]
fn groups_are_joined_left_and_received_once() {
    sandbox(Needs::Net, || {
        let ns = wire();
        for family in FAMILIES {
            let group: IpAddr = match family {
                Family::V4 => "239.1.1.1".parse().unwrap(),
                Family::V6 => "ff05::77".parse().unwrap(),
            };
            let other: IpAddr = match family {
                Family::V4 => "239.1.1.2".parse().unwrap(),
                Family::V6 => "ff05::78".parse().unwrap(),
            };
            let on = |interface: &str| vec![(group, Some(interface.to_string()))];
            let tx = udp_senders(family).unwrap();
            let options = UdpOptions { queues: 3, groups: on("u1"), ..options(family) };
            let (rx, groups) = inside(&ns, || udp_receivers(&options).unwrap());
            let mut ends: Vec<_> = rx.into_iter().map(End::new).collect();
            let interface = link::index("u0").unwrap();
            let mut heard = |dst| {
                let how = Datagrams { interface, ttl: 3, ..to(dst) };
                assert_eq!(run(&*tx, &payloads(4, 500, 400), how).packets, 5);
                let got: Vec<_> = ends.iter_mut().flat_map(|end| end.take(0)).collect();
                assert!(got.iter().all(|(a, _)| a.dst == dst && a.ttl == 3));
                got.iter().map(|(_, b)| b.len()).sum::<usize>()
            };
            assert_eq!(heard(group), 2400, "once, though there are three receivers");
            assert_eq!(heard(other), 0, "not joined");
            inside(&ns, || groups.set(&[(other, Some("u1".into())), (group, Some("u1".into()))]).unwrap());
            assert_eq!((heard(group), heard(other)), (2400, 2400));
            inside(&ns, || groups.set(&[(other, Some("u1".into()))]).unwrap());
            assert_eq!((heard(group), heard(other)), (0, 2400));

            // All or nothing.
            let missing = [(group, Some("u1".to_string())), (group, Some("nothere".to_string()))];
            let e = inside(&ns, || groups.set(&missing).unwrap_err());
            assert_eq!(e.kind(), ErrorKind::NotFound);
            let unicast = inside(&ns, || groups.set(&[(there(family), None)]).unwrap_err());
            assert_eq!(unicast.kind(), ErrorKind::InvalidInput);
            assert_eq!((heard(group), heard(other)), (0, 2400));
            // An interface made anew has another index, and is joined when asked again.
            inside(&ns, || {
                groups.set(&on("u1")).unwrap();
                ip("link add u9 type veth peer name v9");
                ip("link set u9 up");
                groups.set(&on("u9")).unwrap();
                ip("link del u9");
                ip("link add u9 type veth peer name v9");
                ip("link set u9 up");
                groups.set(&on("u9")).unwrap();
                let joined = std::fs::read_to_string("/proc/thread-self/net/igmp").unwrap();
                let joined6 = std::fs::read_to_string("/proc/thread-self/net/igmp6").unwrap();
                let text = if family == Family::V4 { (joined, "010101EF") } else { (joined6, "0000000077") };
                assert!(text.0.contains(text.1), "{}", text.0);
                groups.set(&[]).unwrap();
                ip("link del u9");
            });
            drop(ends);
            let e = inside(&ns, || groups.set(&on("u1")).unwrap_err());
            assert_eq!(e.kind(), ErrorKind::NotFound, "{e}");
        }
    });
}

#[test]
fn our_own_datagrams_to_a_group_are_not_for_us() {
    sandbox(Needs::Net, || {
        let _ns = wire();
        let group: IpAddr = "239.1.1.1".parse().unwrap();
        let options = UdpOptions { groups: vec![(group, Some("u0".into()))], ..options(Family::V4) };
        let (mut rx, _groups) = udp_receivers(&options).unwrap();
        let tx = udp_senders(Family::V4).unwrap();
        let interface = link::index("u0").unwrap();
        assert_eq!(run(&*tx, &payloads(0, 0, 100), Datagrams { interface, ..to(group) }).packets, 1);
        assert!(End::new(rx.remove(0)).take(0).is_empty());
    });
}

#[test]
fn datagrams_without_a_checksum_are_taken_as_configured() {
    sandbox(Needs::Net, || {
        let ns = wire();
        let heard = |family, checksum6| {
            let options = UdpOptions { checksum6, ..options(family) };
            let mut rx = inside(&ns, || End::new(reopened(&options).0.remove(0)));
            let socket = UdpSocket::bind((here(family), 0)).unwrap();
            no_checksum(&socket, family);
            socket.send_to(b"hello", (there(family), PORT)).unwrap();
            readable(rx.rx.poll_fd(), Duration::from_millis(200));
            rx.take(0).len()
        };
        assert_eq!(heard(Family::V4, false), 1);
        assert_eq!(heard(Family::V6, false), 0);
        assert_eq!(heard(Family::V6, true), 1);
    });
}

/// Makes a socket send UDP checksums of 0.
#[allow(unsafe_code)]
fn no_checksum(socket: &UdpSocket, family: Family) {
    use std::os::fd::AsRawFd;
    const UDP_NO_CHECK6_TX: i32 = 101;
    let (level, option) = match family {
        Family::V4 => (libc::SOL_SOCKET, libc::SO_NO_CHECK),
        Family::V6 => (libc::SOL_UDP, UDP_NO_CHECK6_TX),
    };
    let on: i32 = 1;
    // SAFETY: the value is an int of the length given.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), 4) };
    assert_eq!(result, 0);
}

#[test]
fn what_cannot_be_reached_is_counted_and_what_comes_back_is_no_failure() {
    sandbox(Needs::Net, || {
        let _ns = wire();
        for family in FAMILIES {
            let (udp, raw) = (udp_senders(family).unwrap(), gre(family).unwrap().1);
            let (nowhere, foreign): (IpAddr, IpAddr) = match family {
                Family::V4 => ("192.0.2.7".parse().unwrap(), "203.0.113.5".parse().unwrap()),
                Family::V6 => ("2001:db8::7".parse().unwrap(), "2001:db8::5".parse().unwrap()),
            };
            for tx in [&udp, &raw] {
                let stats = run(&**tx, &payloads(0, 0, 100), to(nowhere));
                assert_eq!(drops(&stats, DropReason::UnderlayUnreachable), 1, "{family:?}");
                let how = Datagrams { src: Some(foreign), ..to(there(family)) };
                let stats = run(&**tx, &payloads(0, 0, 100), how);
                assert_eq!(drops(&stats, DropReason::UnderlayUnreachable), 1, "{family:?}");
            }
            // Nobody listens there: port or protocol unreachable comes back.
            for _ in 0..50 {
                for tx in [&udp, &raw] {
                    assert_eq!(run(&**tx, &payloads(0, 0, 100), to(there(family))).packets, 1);
                }
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    });
}

#[test]
fn the_path_is_what_the_kernel_knows() {
    sandbox(Needs::Net, || {
        let ns = wire();
        let u0 = link::index("u0").unwrap();
        // Beyond the other end, a network with a smaller MTU.
        inside(&ns, || {
            for sysctl in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/{sysctl}"), "1").unwrap();
            }
            ip("link add u2 type veth peer name v2");
            ip("link set v2 up");
            ip("link set u2 mtu 1300 up");
            ip("addr add 10.10.0.1/24 dev u2");
            ip("addr add fd10::1/64 dev u2 nodad");
        });
        ip("route add 10.10.0.0/24 via 10.9.0.2");
        ip("route add fd10::/64 via fd09::2");
        for family in FAMILIES {
            let (dst, second, far): (_, IpAddr, IpAddr) = match family {
                Family::V4 => (there(family), "10.9.0.11".parse().unwrap(), "10.10.0.9".parse().unwrap()),
                Family::V6 => (there(family), "fd09::11".parse().unwrap(), "fd10::9".parse().unwrap()),
            };
            let p = path(dst, None).unwrap();
            assert_eq!((p.mtu, p.source, p.interface), (1500, here(family), u0));
            let p = path(dst, Some(second)).unwrap();
            assert_eq!((p.source, p.interface), (second, u0));
            assert_eq!(path(far, None).unwrap().mtu, 1500);

            // What a router says is learned, by UDP and by GRE.
            let udp = udp_senders(family).unwrap();
            let (_rx, raw) = gre(family).unwrap();
            for (what, tx) in [("UDP", &udp), ("GRE", &raw)] {
                ip("route flush cache");
                ip("-6 route flush cache");
                assert!(eventually(|| path(far, None).unwrap().mtu == 1500));
                let learned = || {
                    let stats = run(&**tx, &payloads(0, 0, 1400), to(far));
                    drops(&stats, DropReason::Mtu) == 1
                };
                assert!(eventually(learned), "{family:?} {what}");
                assert_eq!((path(far, None).unwrap().mtu, tx.too_big()), (1300, Some(far)));
                assert_eq!(run(&**tx, &payloads(0, 0, 1200), to(far)).packets, 1);
            }

            let (nowhere, foreign): (IpAddr, IpAddr) = match family {
                Family::V4 => ("192.0.2.7".parse().unwrap(), "203.0.113.5".parse().unwrap()),
                Family::V6 => ("2001:db8::7".parse().unwrap(), "2001:db8::5".parse().unwrap()),
            };
            let e = path(nowhere, None).unwrap_err();
            assert_eq!(
                (e.kind(), e.to_string()),
                (ErrorKind::NetworkUnreachable, format!("no route to {nowhere}"))
            );
            ip(&format!("route add blackhole {nowhere}"));
            assert_eq!(path(nowhere, None).unwrap_err().kind(), ErrorKind::NetworkUnreachable);
            let e = path(dst, Some(foreign)).unwrap_err();
            let text = format!("{foreign} is not an address of this host");
            assert_eq!((e.kind(), e.to_string()), (ErrorKind::AddrNotAvailable, text));
            for (remote, local) in
                [("fe80::1", None), ("0.0.0.0", None), ("::", None), ("10.9.0.2", Some("fd09::1"))]
            {
                let (remote, local) = (remote.parse().unwrap(), local.map(|l| l.parse().unwrap()));
                assert_eq!(path(remote, local).unwrap_err().kind(), ErrorKind::InvalidInput, "{remote}");
            }
        }
        ip("link set u0 mtu 1400");
        assert_eq!(path(there(Family::V4), None).unwrap().mtu, 1400);
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
