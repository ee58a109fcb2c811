//! On a real kernel, in namespaces of their own; needs root.

use super::*;
use trunkline_ports::tap::{Tap, TapConfig};

/// Runs `f` on a thread in a new network namespace.
fn in_new_netns<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    crate::testing::in_new_netns(f)
}

fn tap(name: &str) -> Tap {
    Tap::open(&TapConfig { name: name.into(), queues: 1, offload: true, adopt: false }).unwrap()
}

#[test]
fn an_interface_is_set_up_in_another_namespace() {
    in_new_netns(|| {
        let here = Netns::current().unwrap();
        let there = in_new_netns(|| Netns::current().unwrap());
        assert_ne!(here.id(), there.id());
        let _tap = tap("tl0");
        let mac = MacAddr([2, 0, 0, 0, 0, 7]);
        session(None, |s| {
            let link = s.expect_link("tl0")?;
            s.set_mac(&link, mac)?;
            s.set_mtu(&link, 9000)?;
            s.move_to(&link, &there)
        })
        .unwrap();
        assert_eq!(session(None, |s| s.link("tl0")).unwrap(), None);
        let (v4, v6): (IpNet, IpNet) = ("10.7.0.1/24".parse().unwrap(), "fd00:7::1/64".parse().unwrap());
        let (g4, g6): (IpAddr, IpAddr) = ("10.7.0.254".parse().unwrap(), "fe80::1".parse().unwrap());
        session(Some(&there), |s| {
            let link = s.expect_link("tl0")?;
            s.rename(&link, "eth0")?;
            let link = s.expect_link("eth0")?;
            assert_eq!((link.mac, link.mtu, link.up), (Some(mac), 9000, false));
            s.set_up(&link, true)?;
            for net in [v4, v6, v4] {
                s.add_address(&link, net)?;
            }
            assert_eq!(s.addresses(&link)?, [v4, v6]);
            for gateway in [g4, g6, g4, g6] {
                s.add_default(&link, gateway)?;
            }
            assert_eq!(s.defaults(&link)?, [g4, g6]);
            s.del_default(&link, g4)?;
            s.del_default(&link, g4)?;
            assert_eq!(s.defaults(&link)?, [g6]);
            s.del_address(&link, v6)?;
            s.del_address(&link, v6)?;
            assert_eq!(s.addresses(&link)?, [v4]);
            assert!(s.expect_link("eth0")?.up);
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn refusals_say_what_to_do() {
    in_new_netns(|| {
        let _taps = (tap("tl0"), tap("tl1"));
        session(None, |s| {
            let (a, b) = (s.expect_link("tl0")?, s.expect_link("tl1")?);
            let error = s.expect_link("tl2").unwrap_err();
            assert_eq!(
                (error.kind, error.message.as_str()),
                (ErrorKind::NotFound, "there is no interface tl2")
            );
            let error = s.rename(&a, "tl1").unwrap_err();
            assert_eq!(error.message, "cannot name interface tl0 'tl1': File exists");
            assert_eq!(error.kind, ErrorKind::Conflict);

            for link in [&a, &b] {
                s.set_up(link, true)?;
            }
            s.add_address(&a, "10.0.0.1/24".parse().unwrap())?;
            s.add_address(&b, "10.0.1.1/24".parse().unwrap())?;
            let far: IpAddr = "192.0.2.1".parse().unwrap();
            let error = s.add_default(&a, far).unwrap_err();
            assert!(error.message.starts_with("cannot make a default route by 192.0.2.1: "), "{error}");
            s.add_default(&a, "10.0.0.2".parse().unwrap())?;
            let error = s.add_default(&b, "10.0.1.2".parse().unwrap()).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Conflict);

            std::fs::write("/proc/sys/net/ipv6/conf/tl0/disable_ipv6", "1").unwrap();
            let error = s.add_address(&a, "fd00::1/64".parse().unwrap()).unwrap_err();
            assert!(error.message.ends_with("IPv6 is disabled there"), "{error}");
            Ok(())
        })
        .unwrap();
    });
}

#[test]
fn what_a_full_queue_drops_is_seen() {
    in_new_netns(|| {
        let _tap = tap("tl0");
        session(None, |s| {
            let link = s.expect_link("tl0")?;
            s.set_up(&link, true)?;
            s.add_address(&link, "10.0.0.1/24".parse().unwrap())
        })
        .unwrap();
        // Nobody reads the TAP: its ring takes 1000 frames and drops the rest.
        let socket = std::net::UdpSocket::bind("10.0.0.1:0").unwrap();
        socket.set_broadcast(true).unwrap();
        for _ in 0..3000 {
            let _ = socket.send_to(b"x", "10.0.0.255:9");
        }
        let link = session(None, |s| s.expect_link("tl0")).unwrap();
        assert!(link.tx_dropped > 0, "{link:?}");
    });
}
