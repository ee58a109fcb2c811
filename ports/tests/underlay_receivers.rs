//! Receivers of UDP under tunnels: whose the port is, queues, groups, checksums.

mod common;
#[path = "common/underlay.rs"]
mod kit;

use std::collections::HashSet;
use std::io::ErrorKind;
use std::net::{IpAddr, UdpSocket};
use std::time::Duration;

use common::*;
use kit::*;
use trunkline_ports::link;
use trunkline_ports::underlay::{Datagrams, Family, UdpOptions, udp_receivers, udp_senders};

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
                let mut stranger = None;
                // As soon as no child of another test holds what was opened before.
                assert!(eventually(|| {
                    stranger = UdpSocket::bind((address, PORT)).ok();
                    stranger.is_some()
                }));
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
                let ports: HashSet<_> = got.iter().map(|(a, _)| a.outer.src_port).collect();
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
                assert!(got.iter().all(|(a, _)| a.outer.dst == dst && a.outer.ttl == 3));
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
