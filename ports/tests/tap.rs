//! TAP ports against the kernel's stack.
#![allow(unsafe_code)]

mod common;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::*;
use trunkline_packet::{Checksum, DropReason, GsoKind, Offload, Packet};
use trunkline_ports::TxQueue;
use trunkline_ports::link;
use trunkline_ports::tap::{Tap, TapConfig};

const HERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const THERE_MAC: &str = "02:00:00:00:00:02";

fn config(name: &str) -> TapConfig {
    TapConfig { name: name.into(), queues: 1, offload: true, adopt: false }
}

fn split(tap: Tap) -> (Rx, Arc<dyn TxQueue>) {
    let (mut rx, mut tx) = tap.into_io();
    assert_eq!((rx.len(), tx.len()), (1, 1));
    (Rx::new(rx.remove(0)), tx.remove(0))
}

/// Sends a datagram to the far side and expects it back by reflection; returns the frame as it came.
fn echo(rx: &mut Rx, tx: &dyn TxQueue, size: usize) -> Packet {
    let socket = UdpSocket::bind((HERE, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
    socket.send_to(&vec![0x5a; size], (THERE, 7)).unwrap();
    let mut p = rx.find(|p| is_ipv4(p, 17)).expect("the datagram comes in");
    let seen = packet(&p.to_vec(), p.meta().offload);
    reflect(&mut p);
    assert_eq!(send(tx, [p]).packets, 1);
    let mut buf = vec![0; 65536];
    let (n, from) = socket.recv_from(&mut buf).expect("the stack accepts the reflected datagram");
    assert_eq!((n, from.ip()), (size, THERE.into()));
    assert!(buf[..n].iter().all(|&b| b == 0x5a));
    seen
}

#[test]
fn ping_and_udp_with_the_kernel() {
    sandbox(Needs::Tun, || {
        let tap = Tap::open(&config("tap0")).unwrap();
        assert_eq!((tap.name(), tap.queues()), ("tap0", 1));
        let names = tap.features().names();
        assert!(names.starts_with(&["csum", "tso4", "tso6"]), "{names:?}");
        address("tap0", HERE, THERE, THERE_MAC);
        let (mut rx, tx) = split(tap);
        let seen = echo(&mut rx, &*tx, 100);
        assert_eq!(seen.meta().offload.csum, Checksum::Partial { start: 34, offset: 6 });

        let mut ping =
            Command::new("ping").args(["-c1", "-W2", "10.9.0.2"]).stdout(Stdio::null()).spawn().unwrap();
        let mut request = rx.find(|p| is_ipv4(p, 1)).expect("the echo request comes in");
        reflect(&mut request);
        send(&*tx, [request]);
        assert!(ping.wait().unwrap().success());
    });
}

#[test]
fn jumbo_frames_use_the_tail() {
    sandbox(Needs::Tun, || {
        let tap = Tap::open(&config("tap0")).unwrap();
        ip("link set tap0 mtu 9000");
        address("tap0", HERE, THERE, THERE_MAC);
        let (mut rx, tx) = split(tap);
        for size in [1878, 1879, 1880, 8972] {
            let seen = echo(&mut rx, &*tx, size);
            assert_eq!(seen.len(), size + 42);
        }
    });
}

#[test]
fn udp_superframe_keeps_its_segment_size() {
    sandbox(Needs::Tun, || {
        let tap = Tap::open(&config("tap0")).unwrap();
        let uso = tap.features().uso;
        address("tap0", HERE, THERE, THERE_MAC);
        let (mut rx, _tx) = split(tap);
        let socket = UdpSocket::bind((HERE, 0)).unwrap();
        let segment: libc::c_int = 500;
        // SAFETY: the option's value is an int.
        let result = unsafe {
            let value = (&raw const segment).cast();
            libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, value, 4)
        };
        assert_eq!(result, 0);
        socket.send_to(&[1; 5000], (THERE, 7)).unwrap();
        let p = rx.find(|p| is_ipv4(p, 17)).unwrap();
        if uso {
            assert_eq!(
                (p.len(), p.meta().offload.gso.kind, p.meta().offload.gso.size),
                (5042, GsoKind::UdpL4, 500)
            );
        } else {
            assert_eq!(p.len(), 542);
        }
    });
}

#[test]
fn offload_off_brings_plain_frames() {
    sandbox(Needs::Tun, || {
        let tap = Tap::open(&TapConfig { offload: false, ..config("tap0") }).unwrap();
        assert!(tap.features().names().is_empty());
        address("tap0", HERE, THERE, THERE_MAC);
        let (mut rx, tx) = split(tap);
        assert_eq!(tx.caps(), trunkline_ports::TxCaps::NONE);
        let seen = echo(&mut rx, &*tx, 100);
        assert_eq!(seen.meta().offload, Offload::NONE);
    });
}

/// TCP between two TAPs in two namespaces, the way containers talk.
fn tcp_between_taps(offload: bool) -> Seen {
    let [a, b] = [new_netns(), new_netns()];
    let open = |name: &str, ns, own, peer| {
        let tap = Tap::open(&TapConfig { offload, ..config(name) }).unwrap();
        ip(&format!("link set {name} netns {}", path_of(ns)));
        inside(ns, || address(name, own, peer, "ff:ff:ff:ff:ff:ff"));
        split(tap)
    };
    let (from, to) = (open("tapa", &a, HERE, THERE), open("tapb", &b, THERE, HERE));
    // Broadcast MACs would make the stack ignore TCP, so let ARP find the real ones.
    inside(&a, || ip("neigh flush dev tapa nud permanent"));
    inside(&b, || ip("neigh flush dev tapb nud permanent"));
    let joined = join(from, to);
    tcp_transfer(&a, &b, THERE);
    joined.stop()
}

#[test]
fn tcp_superframes_cross_whole() {
    sandbox(Needs::Tun, || {
        let seen = tcp_between_taps(true);
        assert!(seen.superframes > 0 && seen.largest > 30_000, "{seen:?}");
    });
}

#[test]
fn tcp_with_offload_off_is_all_plain() {
    sandbox(Needs::Tun, || {
        let seen = tcp_between_taps(false);
        assert!(seen.superframes == 0 && seen.partial == 0 && seen.largest == 1514, "{seen:?}");
    });
}

#[test]
fn moved_tap_works_until_its_namespace_goes() {
    sandbox(Needs::Tun, || {
        let tap = Tap::open(&config("tap0")).unwrap();
        let home = tap.netns().unwrap().id();
        let ns = new_netns();
        ip(&format!("link set tap0 netns {}", path_of(&ns)));
        assert_eq!(tap.netns().unwrap().id(), ns.id());
        assert_ne!(home, ns.id());
        let held = tap.try_clone_fds().unwrap();
        let (mut rx, tx) = split(tap);

        let down = send(&*tx, [packet(&odd_frame(1, 60), Offload::NONE)]);
        assert_eq!(down.drops[DropReason::EgressDown.index()], 1, "the move took the interface down");
        inside(&ns, || {
            address("tap0", HERE, THERE, THERE_MAC);
            echo(&mut rx, &*tx, 64);
        });

        drop(ns);
        let error = rx.failure(true).expect("the namespace's end is fatal");
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        let down = send(&*tx, [packet(&odd_frame(1, 60), Offload::NONE)]);
        assert_eq!(down.drops[DropReason::EgressDown.index()], 1);
        assert_eq!(Tap::from_fds(held, true).unwrap_err().kind(), ErrorKind::NotFound);
    });
}

#[test]
fn held_descriptors_are_taken_up_again() {
    sandbox(Needs::Tun, || {
        let tap = Tap::open(&config("tap0")).unwrap();
        address("tap0", HERE, THERE, THERE_MAC);
        let held = tap.try_clone_fds().unwrap();
        drop(tap);
        // An owner in between that spoilt the settings.
        let other_size: libc::c_int = 12;
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        unsafe { libc::ioctl(held[0].as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const other_size) };

        let again = held.iter().map(|fd| fd.try_clone().unwrap()).collect();
        let tap = Tap::from_fds(again, false).unwrap();
        assert_eq!((tap.name(), tap.features().names().len()), ("tap0", 0));
        let (mut rx, tx) = split(tap);
        assert_eq!(echo(&mut rx, &*tx, 64).meta().offload, Offload::NONE);
        drop((rx, tx));

        let tap = Tap::from_fds(held, true).unwrap();
        assert!(tap.features().tso6);
        let (mut rx, tx) = split(tap);
        assert_ne!(echo(&mut rx, &*tx, 64).meta().offload, Offload::NONE);
        drop((rx, tx));
        let is_gone = || link::index("tap0").is_err_and(|e| e.kind() == ErrorKind::NotFound);
        assert!(eventually(is_gone), "it went with its last descriptor");
    });
}

#[test]
fn descriptors_of_something_else_are_refused() {
    sandbox(Needs::Tun, || {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(Tap::from_fds(vec![file.into()], true).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(Tap::from_fds(vec![], true).unwrap_err().kind(), ErrorKind::InvalidInput);
        let mut fds = Tap::open(&config("tap0")).unwrap().try_clone_fds().unwrap();
        fds.extend(Tap::open(&config("tap1")).unwrap().try_clone_fds().unwrap());
        let error = Tap::from_fds(fds, true).unwrap_err();
        assert!(error.to_string().contains("tap0 and tap1"), "{error}");
    });
}

#[test]
fn several_queues() {
    sandbox(Needs::Tun, || {
        let tap = Tap::open(&TapConfig { queues: 3, ..config("tap0") }).unwrap();
        assert_eq!(tap.queues(), 3);
        let tap = Tap::from_fds(tap.try_clone_fds().unwrap(), true).unwrap();
        address("tap0", HERE, THERE, THERE_MAC);
        let (rx, tx) = tap.into_io();
        assert_eq!((rx.len(), tx.len()), (3, 3));
        let mut rx: Vec<Rx> = rx.into_iter().map(Rx::new).collect();
        let socket = UdpSocket::bind((HERE, 0)).unwrap();
        for port in 1000..1200 {
            socket.send_to(b"x", (THERE, port)).unwrap();
        }
        let by_queue: Vec<usize> = rx.iter_mut().map(|r| r.count(|p| is_ipv4(p, 17))).collect();
        assert_eq!(by_queue.iter().sum::<usize>(), 200);
        assert!(by_queue.iter().all(|&n| n > 0), "{by_queue:?}");
    });
}

#[test]
fn opening_and_adopting_refuse_what_does_not_fit() {
    sandbox(Needs::Tun, || {
        let kind = |c: &TapConfig| Tap::open(c).map(|t| t.name().to_string()).map_err(|e| e.kind());
        let adopt = |name: &str, queues| TapConfig { adopt: true, queues, ..config(name) };
        let held = Tap::open(&config("tap0")).unwrap();
        assert_eq!(kind(&config("tap0")), Err(ErrorKind::AlreadyExists));
        assert_eq!(kind(&config("lo")), Err(ErrorKind::AlreadyExists));
        assert_eq!(kind(&config("tap%d")), Err(ErrorKind::InvalidInput));
        assert_eq!(kind(&TapConfig { queues: 0, ..config("tap1") }), Err(ErrorKind::InvalidInput));
        assert_eq!(kind(&adopt("nosuch", 1)), Err(ErrorKind::NotFound));
        assert_eq!(kind(&adopt("lo", 1)), Err(ErrorKind::InvalidInput));
        assert_eq!(kind(&adopt("tap0", 1)), Err(ErrorKind::ResourceBusy));
        drop(held);

        ip("tuntap add dev tun0 mode tun");
        ip("tuntap add dev one mode tap");
        ip("tuntap add dev many mode tap multi_queue");
        assert_eq!(kind(&config("one")), Err(ErrorKind::AlreadyExists));
        assert_eq!(kind(&adopt("tun0", 1)), Err(ErrorKind::InvalidInput));
        assert_eq!(kind(&adopt("one", 2)), Err(ErrorKind::InvalidInput));
        for (name, queues) in [("one", 1), ("one", 1), ("many", 1), ("many", 4), ("many", 1)] {
            let adopted = eventually(|| kind(&adopt(name, queues)) == Ok(name.into()));
            assert!(adopted, "{name}: persistent, so it can be adopted again");
        }

        // A device with several queues that is not persistent lets a second owner in: refused all the same.
        let held = Tap::open(&TapConfig { queues: 2, ..config("tap2") }).unwrap();
        assert_eq!(kind(&adopt("tap2", 2)), Err(ErrorKind::InvalidInput));
        drop(held);
    });
}

#[test]
fn unfit_frames_are_counted_not_written() {
    sandbox(Needs::Tun, || {
        let tap = Tap::open(&config("tap0")).unwrap();
        address("tap0", HERE, THERE, THERE_MAC);
        let (_rx, tx) = split(tap);
        let bad = Offload { csum: Checksum::Partial { start: 5000, offset: 6 }, ..Offload::NONE };
        let gso = Offload {
            csum: Checksum::Partial { start: 34, offset: 16 },
            gso: trunkline_packet::Gso { kind: GsoKind::TcpV4, ecn: false, size: 0 },
        };
        let stats = send(
            &*tx,
            [
                packet(&odd_frame(1, 60)[..13], Offload::NONE),
                packet(&odd_frame(1, 14), Offload::NONE),
                packet(&odd_frame(1, 60), bad),
                packet(&odd_frame(1, 60), gso),
                packet(&odd_frame(1, 60), Offload::NONE),
            ],
        );
        assert_eq!(stats.drops[DropReason::Truncated.index()], 1);
        assert_eq!(stats.drops[DropReason::EgressError.index()], 2);
        assert_eq!((stats.packets, stats.bytes), (2, 74));
    });
}
