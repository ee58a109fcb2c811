//! The path under a tunnel: its MTU, what does not fit or cannot be reached.

mod common;
#[path = "common/underlay.rs"]
mod kit;

use std::io::ErrorKind;
use std::net::IpAddr;
use std::time::Duration;

use common::*;
use kit::*;
use trunkline_packet::DropReason;
use trunkline_ports::link;
use trunkline_ports::underlay::{Datagrams, Family, gre, path, udp_senders};

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
                assert_eq!(path(far, None).unwrap().mtu, 1300);
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
fn too_big_is_dropped_or_fragmented() {
    sandbox(Needs::Net, || {
        let ns = wire();
        for family in FAMILIES {
            let tx = udp_senders(family).unwrap();
            let mut rx = inside(&ns, || End::udp(family));
            let dst = there(family);
            for sent in [payloads(0, 0, 2500), payloads(9, 2500, 2500)] {
                let n = sent.len() as u32;
                let stats = run(&*tx, &sent, to(dst));
                assert_eq!(drops(&stats, DropReason::Mtu), n);
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
            assert_eq!(run(&*tx, &sent, Datagrams { df: false, ..to(dst) }).packets, 1);
            let got = rx.take(2500);
            assert!(got.len() == 1 && got[0].1 == sent[0]);
        }
    });
}
