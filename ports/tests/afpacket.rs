//! AF_PACKET ports on veth pairs.

mod common;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use trunkline_packet::{Checksum, DropReason, Offload, Packet, Tpid};
use trunkline_ports::afpacket::{AfPacket, Monitor};
use trunkline_ports::link::{self, Link};
use trunkline_ports::tap::{Tap, TapConfig};
use trunkline_ports::{TxCaps, TxQueue};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);

struct Side {
    rx: Rx,
    tx: Arc<dyn TxQueue>,
    monitor: Monitor,
}

/// Opens a port in one of the ways to receive.
type Open = fn(&str) -> Side;

fn by_messages(interface: &str) -> Side {
    side(interface, AfPacket::open(interface, true).unwrap())
}

fn by_ring(interface: &str) -> Side {
    let port = AfPacket::open_wire(interface, true).unwrap();
    assert!(port.has_ring());
    side(interface, port)
}

/// Runs a test in both.
fn each_way(needs: Needs, f: impl Fn(Open) + Sync) {
    sandbox(needs, || f(by_messages));
    sandbox(needs, || f(by_ring));
}

fn side(interface: &str, port: AfPacket) -> Side {
    assert_eq!(port.ifindex(), link::index(interface).unwrap());
    let monitor = port.monitor();
    let (mut rx, mut tx) = port.into_io();
    Side { rx: Rx::new(rx.remove(0)), tx: tx.remove(0), monitor }
}

/// A veth pair p0, p1, both up and without IPv6's chatter.
fn veth() {
    ip("link add p0 type veth peer name p1");
    for dev in ["p0", "p1"] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{dev}/disable_ipv6"), "1").unwrap();
    }
    ip("link set p0 up");
    up("p1");
    up("p0");
}

/// To 9,000, of both.
fn raise_mtu() {
    ip("link set p0 mtu 9000");
    ip("link set p1 mtu 9000");
}

fn plain(fill: u8, len: usize) -> Packet {
    packet(&odd_frame(fill, len), Offload::NONE)
}

/// `odd_frame` with tags in front of its EtherType.
fn tagged(tags: &[[u8; 4]], len: usize) -> Packet {
    let mut f = odd_frame(7, len);
    f.splice(12..12, tags.concat());
    packet(&f, Offload::NONE)
}

#[test]
fn frames_cross_and_own_ones_do_not_come_back() {
    each_way(Needs::Net, |open| {
        veth();
        let (mut a, mut b) = (open("p0"), open("p1"));
        // More than one system call's worth.
        let stats = send(&*a.tx, (0..100).map(|i| plain(i, 60 + usize::from(i))));
        assert_eq!((stats.packets, stats.bytes), (100, (60..160).sum::<u64>()));
        let mut got = Vec::new();
        readable(b.rx.queue.poll_fd().unwrap(), Duration::from_secs(1));
        loop {
            let (batch, end) = b.rx.recv();
            got.extend(batch.iter().filter(|p| is_odd(p)).map(|p| p.to_vec()));
            if !matches!(end, trunkline_ports::RecvEnd::More) {
                break;
            }
        }
        assert_eq!(got, (0..100).map(|i| odd_frame(i, 60 + usize::from(i))).collect::<Vec<_>>());
        assert_eq!(a.rx.count(is_odd), 0, "own frames do not come back");
    });
}

#[test]
fn tags_are_restored_from_auxdata() {
    each_way(Needs::Net, |open| {
        veth();
        let (a, mut b) = (open("p0"), open("p1"));
        let c = [0x81, 0, 0xa0, 10];
        let s = [0x88, 0xa8, 0, 20];
        for (tags, outer, left) in [
            (vec![c], (Tpid::Customer, 0xa00a), vec![]),
            (vec![[0x81, 0, 0, 0]], (Tpid::Customer, 0), vec![]),
            (vec![s, c], (Tpid::Service, 20), vec![c]),
            (vec![c, c], (Tpid::Customer, 0xa00a), vec![c]),
        ] {
            send(&*a.tx, [tagged(&tags, 80)]);
            let p = b.rx.find(|p| p.meta().vlan.is_some()).expect("the tagged frame arrives");
            let tag = p.meta().vlan.unwrap();
            assert_eq!((tag.tpid, tag.tci), outer);
            assert_eq!(p.to_vec(), tagged(&left, 80).to_vec());
        }
        send(&*a.tx, [plain(1, 60)]);
        assert_eq!(b.rx.find(is_odd).unwrap().meta().vlan, None);
    });
}

/// A superframe with a C-tag of VLAN 10 in its bytes.
fn tagged_superframe() -> Packet {
    let (mut bytes, mut offload) = superframe(20_000);
    bytes.splice(12..12, [0x81, 0, 0, 10]);
    offload.shift(4);
    packet(&bytes, offload)
}

/// The same as it must arrive: the tag in the metadata, the checksum start without it.
fn check_tagged_superframe(p: &Packet) {
    let (bytes, offload) = superframe(20_000);
    assert_eq!(p.meta().vlan.map(|t| (t.tpid, t.tci)), Some((Tpid::Customer, 10)));
    assert_eq!(p.meta().offload, offload);
    assert!(p.to_vec() == bytes);
}

#[test]
fn tagged_superframes_cross_whole() {
    each_way(Needs::Net, |open| {
        veth();
        let (a, mut b) = (open("p0"), open("p1"));
        assert_eq!(send(&*a.tx, [tagged_superframe()]).packets, 1);
        check_tagged_superframe(&b.rx.find(|p| p.meta().vlan.is_some()).unwrap());
    });
}

#[test]
fn tagged_superframes_enter_a_tap_whole() {
    each_way(Needs::Tun, |open| {
        let tap =
            Tap::open(&TapConfig { name: "tap0".into(), queues: 1, offload: true, adopt: false }).unwrap();
        ip("link set tap0 up");
        // What the stack behind the TAP gets.
        let mut stack = open("tap0");
        assert_eq!(send(&*tap.into_io().1[0], [tagged_superframe()]).packets, 1);
        check_tagged_superframe(&stack.rx.find(|p| p.meta().vlan.is_some()).unwrap());
    });
}

/// TCP between a veth and a TAP in another namespace, both ways.
fn tcp_to_tap(open: Open) -> Seen {
    veth();
    let [a, b] = [new_netns(), new_netns()];
    ip(&format!("link set p1 netns {}", path_of(&a)));
    let side = open("p0");
    let tap = Tap::open(&TapConfig { name: "tap0".into(), queues: 1, offload: true, adopt: false }).unwrap();
    ip(&format!("link set tap0 netns {}", path_of(&b)));
    let up = |ns, dev: &str, own: Ipv4Addr| {
        inside(ns, || {
            ip(&format!("link set {dev} up"));
            ip(&format!("address add {own}/24 dev {dev}"));
        });
    };
    up(&a, "p1", HERE);
    up(&b, "tap0", THERE);
    let (mut rx, mut tx) = tap.into_io();
    let joined = join((side.rx, side.tx), (Rx::new(rx.remove(0)), tx.remove(0)));
    tcp_transfer(&a, &b, THERE);
    tcp_transfer(&b, &a, HERE);
    assert_eq!(side.monitor.ring_drops(), 0);
    joined.stop()
}

#[test]
fn tcp_superframes_cross_whole() {
    each_way(Needs::Tun, |open| {
        let seen = tcp_to_tap(open);
        assert!(seen.superframes > 0 && seen.largest > 30_000, "{seen:?}");
    });
}

#[test]
fn down_is_not_fatal_and_recovers() {
    each_way(Needs::Net, |open| {
        veth();
        let (mut a, b) = (open("p0"), open("p1"));
        assert!(a.monitor.refresh().unwrap().up);
        ip("link set p0 down");
        let error = a.rx.failure(false).expect("going down is reported");
        assert_eq!(error.kind(), ErrorKind::NetworkDown);
        assert!(!a.monitor.refresh().unwrap().up);
        let stats = send(&*a.tx, [plain(1, 60), plain(2, 60)]);
        assert_eq!((stats.packets, stats.drops[DropReason::EgressDown.index()]), (0, 2));
        up("p0");
        up("p1");
        send(&*b.tx, [plain(3, 60)]);
        assert!(a.rx.find(is_odd).is_some());
        assert_eq!(send(&*a.tx, [plain(1, 60)]).packets, 1);
        // Opened while it is down, it works once it is up.
        ip("link set p1 down");
        let mut late = open("p1");
        assert!(late.rx.failure(false).is_some());
        up("p1");
        up("p0");
        send(&*a.tx, [plain(3, 60)]);
        assert!(late.rx.find(is_odd).is_some());
    });
}

#[test]
fn deletion_is_fatal() {
    each_way(Needs::Net, |open| {
        veth();
        let (mut a, b) = (open("p0"), open("p1"));
        // p1 is deleted while down, of which its socket hears nothing.
        ip("link set p1 down");
        ip("link del p0");
        let error = a.rx.failure(true).expect("deletion is fatal");
        assert_eq!(error.kind(), ErrorKind::NotFound);
        for side in [&a, &b] {
            assert_eq!(side.monitor.refresh().unwrap_err().kind(), ErrorKind::NotFound);
            let stats = send(&*side.tx, [plain(1, 60)]);
            assert_eq!(stats.drops[DropReason::EgressDown.index()], 1);
        }
        drop(a.rx);
        drop(a.tx);
        assert!(a.monitor.refresh().is_err(), "the monitor does not hold the socket");
    });
}

#[test]
fn interface_moved_away_is_gone() {
    each_way(Needs::Net, |open| {
        veth();
        let mut a = open("p0");
        let ns = new_netns();
        ip(&format!("link set p0 netns {}", path_of(&ns)));
        assert!(a.rx.failure(true).is_some());
        assert_eq!(a.monitor.refresh().unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn too_long_ones_do_not_hold_up_the_others() {
    each_way(Needs::Net, |open| {
        veth();
        let (a, mut b) = (open("p0"), open("p1"));
        assert_eq!(a.tx.mtu(), Some(1500));
        let batch =
            [plain(1, 60), plain(2, 1600), plain(3, 13), plain(4, 60), plain(5, 9000), plain(6, 1514)];
        let stats = send(&*a.tx, batch);
        assert_eq!((stats.packets, stats.bytes), (3, 60 + 60 + 1514));
        assert_eq!(stats.drops[DropReason::Mtu.index()], 2);
        assert_eq!(stats.drops[DropReason::Truncated.index()], 1);
        assert_eq!(b.rx.count(is_odd), 3);

        raise_mtu();
        assert_eq!(a.tx.mtu(), Some(1500));
        assert_eq!(a.monitor.refresh().unwrap(), Link { name: "p0".into(), mtu: 9000, up: true });
        assert_eq!(a.tx.mtu(), Some(9000));
        send(&*a.tx, [plain(7, 9014)]);
        assert_eq!(b.rx.find(is_odd).unwrap().to_vec(), odd_frame(7, 9014));
    });
}

#[test]
fn a_full_socket_counts_its_drops() {
    each_way(Needs::Net, |open| {
        veth();
        let (a, mut b) = (open("p0"), open("p1"));
        for _ in 0..200 {
            send(&*a.tx, (0..64).map(|i| plain(i, 1514)));
        }
        let dropped = b.monitor.ring_drops();
        assert!(dropped > 0);
        let mut got = 0;
        while let (batch, trunkline_ports::RecvEnd::More) = b.rx.recv() {
            got += batch.len() as u64;
        }
        assert!(got > 1000, "{got} of 12800");
        assert!(b.monitor.ring_drops() >= dropped, "the count never falls");
    });
}

/// Superframes and single frames, small ones and those of an MTU raised since, come in the order they were sent in; the
/// ring goes round.
#[test]
fn frames_of_all_sizes_keep_their_order() {
    each_way(Needs::Net, |open| {
        veth();
        let (a, mut b) = (open("p0"), open("p1"));
        raise_mtu();
        a.monitor.refresh().unwrap();
        let (bytes, offload) = superframe(20_000);
        for round in 0..600 {
            let fill = round as u8;
            let sent = [plain(fill, 60), packet(&bytes, offload), plain(fill, 9014), plain(fill, 1514)];
            let twice = sent.iter().chain(&sent).map(|p| packet(&p.to_vec(), p.meta().offload));
            assert_eq!(send(&*a.tx, twice).packets, 8);
            let mut got = Vec::new();
            while got.len() < 8 && readable(b.rx.queue.poll_fd().unwrap(), Duration::from_secs(1)) {
                got.extend(b.rx.recv().0.iter().map(|p| (p.to_vec(), p.meta().offload)));
            }
            let want = sent.iter().chain(&sent).map(|p| (p.to_vec(), p.meta().offload));
            assert!(got.into_iter().eq(want), "round {round}");
        }
        assert_eq!(b.monitor.ring_drops(), 0);
    });
}

#[test]
fn large_frames_of_a_large_mtu_come_whole() {
    each_way(Needs::Net, |open| {
        veth();
        raise_mtu();
        let (a, mut b) = (open("p0"), open("p1"));
        for len in [1900, 1920, 1921, 4000, 9014] {
            send(&*a.tx, [plain(7, len)]);
            assert_eq!(b.rx.find(is_odd).unwrap().to_vec(), odd_frame(7, len));
        }
    });
}

#[test]
fn without_offload_nothing_is_left_to_the_kernel() {
    sandbox(Needs::Net, || {
        veth();
        address("p1", HERE, THERE, "02:00:00:00:00:02");
        let port = AfPacket::open("p0", false).unwrap();
        assert_eq!(port.caps(), TxCaps::NONE);
        // The peer's kernel leaves its checksum open all the same, and we must know.
        let mut rx = Rx::new(port.into_io().0.remove(0));
        UdpSocket::bind((HERE, 0)).unwrap().send_to(b"x", (THERE, 7)).unwrap();
        let p = rx.find(|p| is_ipv4(p, 17)).unwrap();
        assert_eq!(p.meta().offload.csum, Checksum::Partial { start: 34, offset: 6 });
    });
}

#[test]
fn what_cannot_be_opened() {
    sandbox(Needs::Tun, || {
        let kind = |name| AfPacket::open(name, true).map_err(|e| e.kind()).err();
        assert_eq!(kind("nosuch"), Some(ErrorKind::NotFound));
        assert_eq!(kind("no/name"), Some(ErrorKind::InvalidInput));
        assert_eq!(kind("lo"), Some(ErrorKind::InvalidInput));
        ip("tuntap add dev tun0 mode tun");
        assert_eq!(kind("tun0"), Some(ErrorKind::InvalidInput));
        let error = AfPacket::open("nosuch", true).unwrap_err();
        assert_eq!(error.to_string(), "interface nosuch: No such device");
    });
}
