//! A range of ports on the host's own addresses: the packet socket has it, the host's stack does not answer
//! for it, and everything else is as before.

mod common;

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::*;
use rustix::net::sockopt::Timeout;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType};
use trunkline_packet::Packet;
use trunkline_ports::afpacket::AfPacket;
use trunkline_ports::guard::{IngressDrop, Method, PortShare, Reservation, taken_ports};
use trunkline_ports::link;
use trunkline_ports::netns::Netns;

const RANGE: (u16, u16) = (40000, 40999);
const INSIDE: u16 = 40500;
const OUTSIDE: u16 = 41000;
/// Shared, shared, and an address of the host's that is not.
const ADDRESSES: [&str; 3] = ["10.8.0.1", "fd08::1", "10.8.0.5"];

/// The host is here, with p0; a client is elsewhere.
fn wire() -> (Netns, u32) {
    let ns = new_netns();
    // Or some questions would have no answer for another reason.
    for sysctl in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
        std::fs::write(format!("/proc/sys/net/{sysctl}"), "0").unwrap();
    }
    ip("link add p0 type veth peer name p1");
    ip(&format!("link set p1 netns {}", path_of(&ns)));
    for address in ["10.8.0.1/24", "10.8.0.5/24", "fd08::1/64 nodad"] {
        ip(&format!("addr add dev p0 {address}"));
    }
    ip("link set p0 up");
    inside(&ns, || {
        ip("addr add 10.8.0.2/24 dev p1");
        ip("addr add fd08::2/64 dev p1 nodad");
        up("p1");
    });
    up("p0");
    (ns, link::index("p0").unwrap())
}

fn share(ports: (u16, u16)) -> PortShare {
    PortShare::new(ports, ADDRESSES[..2].iter().map(|a| a.parse().unwrap()).collect())
}

/// Whether the client gets an answer from the host to TCP and to UDP there, where nothing listens.
fn answers(ns: &Netns, address: &str, port: u16) -> (bool, bool) {
    let to = SocketAddr::new(address.parse().unwrap(), port);
    let wait = Duration::from_millis(150);
    inside(ns, || {
        let tcp = TcpStream::connect_timeout(&to, wait).unwrap_err().kind() == ErrorKind::ConnectionRefused;
        let any: IpAddr = if to.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind((any, 0)).unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(wait)).unwrap();
        socket.send(b"hello").unwrap();
        let udp = socket.recv(&mut [0; 9]).unwrap_err().kind() == ErrorKind::ConnectionRefused;
        (tcp, udp)
    })
}

/// Whether a raw socket of the host's hears the client's GRE.
fn hears_gre(ns: &Netns, address: &str) -> bool {
    let to: IpAddr = address.parse().unwrap();
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let raw = || {
        let protocol = rustix::net::Protocol::from_raw(47.try_into().unwrap());
        rustix::net::socket(family, SocketType::RAW, Some(protocol)).unwrap()
    };
    let host = raw();
    rustix::net::sockopt::set_socket_timeout(&host, Timeout::Recv, Some(Duration::from_millis(150))).unwrap();
    inside(ns, || {
        let to = SocketAddr::new(to, 0);
        rustix::net::sendto(raw(), &[0, 0, 0x65, 0x58], SendFlags::empty(), &to).unwrap()
    });
    rustix::net::recv(&host, &mut [0; 99], RecvFlags::empty()).is_ok()
}

/// Whether a service of the host's can be reached.
fn serves(ns: &Netns, port: u16) -> bool {
    ADDRESSES.iter().all(|address| {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        let listener = TcpListener::bind(to).unwrap();
        inside(ns, || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2)).unwrap();
            stream.write_all(b"x").unwrap();
        });
        let (mut stream, _) = listener.accept().unwrap();
        stream.read(&mut [0; 1]).is_ok()
    })
}

fn pings(ns: &Netns) -> bool {
    ADDRESSES.iter().all(|address| {
        inside(ns, || {
            let out =
                std::process::Command::new("ping").args(["-c1", "-W2", address]).output().expect("ping runs");
            out.status.success()
        })
    })
}

const REFUSED: (bool, bool) = (true, true);
const SILENT: (bool, bool) = (false, false);

fn keeps_ports_from_the_stack(method: Method) {
    let test = test_name();
    sandbox(Needs::Net, || {
        let (ns, ifindex) = wire();
        let attach = |share: &PortShare| IngressDrop::attach_ports_by(ifindex, share, method);
        match IngressDrop::attach_by(ifindex, method) {
            Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
                return skipped(&test, &e.to_string());
            }
            result => drop(result.unwrap()),
        }
        let all = |port| ADDRESSES.map(|address| answers(&ns, address, port));
        assert!(eventually(|| all(INSIDE) == [REFUSED; 3]));

        let guard = attach(&share(RANGE)).unwrap();
        assert_eq!((guard.method(), guard.ifindex().unwrap()), (method, Some(ifindex)));
        assert_eq!(all(INSIDE), [SILENT, SILENT, REFUSED], "only on the addresses that are shared");
        for port in [RANGE.0, RANGE.1] {
            assert_eq!(all(port)[..2], [SILENT; 2], "{port}");
        }
        for port in [RANGE.0 - 1, OUTSIDE] {
            assert_eq!(all(port), [REFUSED; 3], "{port}");
        }
        assert!(serves(&ns, 8080) && pings(&ns));

        // Of one family, of one protocol, of nothing.
        for address in &ADDRESSES[..2] {
            let addresses = vec![address.parse().unwrap()];
            let guard = attach(&PortShare { addresses, ..share((OUTSIDE, OUTSIDE)) }).unwrap();
            let expected = ADDRESSES.map(|a| if a == *address { SILENT } else { REFUSED });
            assert_eq!(all(OUTSIDE), expected);
            drop(guard);
            assert!(eventually(|| all(OUTSIDE) == [REFUSED; 3]));
        }
        drop(attach(&PortShare { tcp: vec![], ..share(RANGE) }).unwrap());
        drop(attach(&PortShare { tcp: vec![], udp: vec![], ..share(RANGE) }).unwrap());

        // Protocols and ranges of their own.
        let tcp = vec![(OUTSIDE, OUTSIDE), (50000, 50010)];
        let several = attach(&PortShare { tcp, udp: vec![(50005, 50020)], ..share(RANGE) }).unwrap();
        assert_eq!(all(OUTSIDE)[0], (false, true));
        assert_eq!((all(50005)[1], all(50020)[1], all(50021)[1]), (SILENT, (true, false), REFUSED));
        // As many as may be.
        let many: Vec<_> = (1..=PortShare::MAX_RANGES as u16).map(|i| (100 * i, 100 * i)).collect();
        drop(several);
        let several = attach(&PortShare { tcp: many, udp: vec![], ..share(RANGE) }).unwrap();
        assert_eq!((all(6400)[0], all(6401)[0]), ((false, true), REFUSED));
        drop(several);
        assert!(eventually(|| all(6400) == [REFUSED; 3]));

        // Tunnels.
        let gre = || ADDRESSES.map(|address| hears_gre(&ns, address));
        assert_eq!((gre(), all(4789)), ([true; 3], [REFUSED; 3]));
        let tunnels = PortShare { tunnels: vec![(4789, 4789)], gre: true, ..share(RANGE) };
        let several = attach(&tunnels).unwrap();
        assert_eq!(gre(), [false, false, true]);
        assert_eq!(all(4789), [(true, false), (true, false), REFUSED]);
        drop(several);
        assert!(eventually(|| (gre(), all(4789)) == ([true; 3], [REFUSED; 3])));

        // Another range in its place: never neither.
        let next = attach(&share((OUTSIDE, OUTSIDE))).unwrap();
        assert_eq!((all(INSIDE)[0], all(OUTSIDE)[0]), (SILENT, SILENT));
        let held = guard.try_clone().unwrap();
        drop(guard);
        assert_eq!(all(INSIDE)[..2], [SILENT; 2], "a keeper's descriptor holds it");
        drop(IngressDrop::from_fd(held).unwrap());
        assert!(eventually(|| all(INSIDE) == [REFUSED; 3]));
        assert_eq!(all(OUTSIDE), [SILENT, SILENT, REFUSED]);
        drop(next);
        assert!(eventually(|| all(OUTSIDE) == [REFUSED; 3]));
    });
}

#[test]
fn tcx_keeps_ports_from_the_stack() {
    keeps_ports_from_the_stack(Method::Tcx);
}

#[test]
fn nft_keeps_ports_from_the_stack() {
    keeps_ports_from_the_stack(Method::Nft);
}

/// The destination port of a frame of TCP or UDP without options.
fn port_of(p: &Packet) -> Option<u16> {
    let h = p.head();
    let (at, protocol) = match h.get(12..14)? {
        [8, 0] => (34, h.get(23)?),
        [0x86, 0xdd] => (54, h.get(20)?),
        _ => return None,
    };
    let port = h.get(at + 2..at + 4)?;
    matches!(protocol, 6 | 17).then(|| u16::from_be_bytes([port[0], port[1]]))
}

#[test]
fn the_packet_socket_hears_of_its_ports_and_of_nothing_else() {
    sandbox(Needs::Net, || {
        let (ns, ifindex) = wire();
        let (socket, monitor) = {
            let socket = AfPacket::open_shared("p0", true, &share(RANGE)).unwrap();
            let monitor = socket.monitor();
            (socket, monitor)
        };
        let mut rx = Rx::new(socket.into_io().0.remove(0));
        let flags = std::fs::read_to_string("/sys/class/net/p0/flags");
        if let Ok(flags) = flags {
            let flags = u32::from_str_radix(flags.trim().trim_start_matches("0x"), 16).unwrap();
            assert_eq!(flags & libc::IFF_PROMISC as u32, 0, "the interface stays the host's");
        }
        let _guard = IngressDrop::attach_ports(ifindex, &share(RANGE)).unwrap();

        // Neighbours, pings, services, other ports: nothing of it.
        assert!(serves(&ns, 8080) && pings(&ns));
        assert_eq!(answers(&ns, ADDRESSES[0], OUTSIDE), REFUSED);
        assert_eq!(rx.count(|_| true), 0);

        for address in &ADDRESSES[..2] {
            assert_eq!(answers(&ns, address, INSIDE), SILENT);
            let mut heard = Vec::new();
            rx.count(|p| {
                heard.push((p.head()[if p.head()[12] == 8 { 23 } else { 20 }], port_of(p)));
                true
            });
            assert!(heard.contains(&(6, Some(INSIDE))) && heard.contains(&(17, Some(INSIDE))), "{heard:?}");
            assert!(heard.iter().all(|(_, port)| *port == Some(INSIDE)), "{heard:?}");
        }

        // Both fragments of a long one, and no answer to either.
        inside(&ns, || {
            let socket = UdpSocket::bind("10.8.0.2:0").unwrap();
            socket.connect((ADDRESSES[0], INSIDE)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket.send(&[7; 2500]).unwrap();
            assert_eq!(socket.recv(&mut [0; 9]).unwrap_err().kind(), ErrorKind::WouldBlock);
        });
        let mut bytes = 0;
        let fragments = rx.count(|p| {
            bytes += p.len() - 34;
            true
        });
        assert_eq!((fragments, bytes), (2, 8 + 2500));

        // Errors about what the switch sent from the range, and nothing about the host's own.
        for (from, expected) in [(INSIDE, 1), (OUTSIDE, 0)] {
            let socket = UdpSocket::bind((ADDRESSES[0], from)).unwrap();
            socket.send_to(b"hello", "10.8.0.2:9").unwrap();
            assert_eq!(rx.count(|p| is_ipv4(p, 1) && p.head()[34] == 3), expected, "{from}");
        }

        // The range changes while it runs.
        monitor.set_share(&share((OUTSIDE, OUTSIDE))).unwrap();
        answers(&ns, ADDRESSES[0], INSIDE);
        assert_eq!(rx.count(|_| true), 0);
        answers(&ns, ADDRESSES[0], OUTSIDE);
        assert!(rx.count(|p| port_of(p) == Some(OUTSIDE)) >= 2);
        let bad = share((2, 1));
        assert_eq!(monitor.set_share(&bad).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(AfPacket::open_shared("p0", true, &bad).unwrap_err().kind(), ErrorKind::InvalidInput);
        let e = IngressDrop::attach_ports(ifindex, &bad).unwrap_err();
        assert_eq!(
            (e.kind(), e.to_string().as_str()),
            (ErrorKind::InvalidInput, "2-1 is not a range of ports")
        );
    });
}

#[test]
fn reserved_ports_are_not_chosen_and_are_given_back() {
    sandbox(Needs::Net, || {
        let sysctl = |name: &str| format!("/proc/sys/net/ipv4/{name}");
        let reserved =
            || std::fs::read_to_string(sysctl("ip_local_reserved_ports")).unwrap().trim().to_string();
        let chosen = || UdpSocket::bind("127.0.0.1:0").map(|s| s.local_addr().unwrap().port());
        std::fs::write(sysctl("ip_local_port_range"), "40000 40009").unwrap();
        std::fs::write(sysctl("ip_local_reserved_ports"), "22,40003-40004,50000").unwrap();

        let reservation = Reservation::new(&[(40004, 40008), (40000, 40006)], None).unwrap();
        assert_eq!(reserved(), "22,40000-40008,50000");
        assert_eq!((0..20).map(|_| chosen().unwrap()).max(), Some(40009));
        assert_eq!((0..20).map(|_| chosen().unwrap()).min(), Some(40009));
        // Who asks for one gets it, and can be found.
        let _socket = UdpSocket::bind("127.0.0.1:40002").unwrap();
        let _listener = TcpListener::bind("[::1]:40007").unwrap();
        assert_eq!(taken_ports((40000, 40008)).unwrap(), [40002, 40007]);
        assert_eq!(taken_ports((40003, 40006)).unwrap(), []);

        // Others' changes meanwhile stay, theirs and ours; from any thread and namespace.
        std::fs::write(sysctl("ip_local_reserved_ports"), "40000-40008,60000").unwrap();
        std::thread::scope(|s| {
            s.spawn(|| inside(&new_netns(), || drop(reservation)));
        });
        assert_eq!(reserved(), "40003-40004,60000");

        drop(Reservation::new(&[(1, 65535)], None).unwrap());
        assert_eq!(reserved(), "40003-40004,60000");
        std::fs::write(sysctl("ip_local_reserved_ports"), "\n").unwrap();
        let everything = Reservation::new(&[(1, 65535)], None).unwrap();
        assert_eq!(reserved(), "1-65535");
        drop(everything);
        assert_eq!(reserved(), "");
        // A process that is killed drops nothing; the next one knows by the note what was not the user's.
        std::fs::write(sysctl("ip_local_reserved_ports"), "40001").unwrap();
        let note = std::env::temp_dir().join(format!("reserved-{}", std::process::id()));
        std::mem::forget(Reservation::new(&[(40000, 40004)], Some(&note)).unwrap());
        assert_eq!(reserved(), "40000-40004");
        let next = Reservation::new(&[(40002, 40006)], Some(&note)).unwrap();
        assert_eq!(reserved(), "40001-40006");
        drop(next);
        assert_eq!((reserved().as_str(), note.exists()), ("40001", false));
        assert_eq!(Reservation::new(&[(5, 4)], None).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(Reservation::new(&[(0, 4)], None).unwrap_err().kind(), ErrorKind::InvalidInput);
    });
}
