//! Two containers on a bridge: every kind of traffic, over every pair of port types, with the kernel's
//! offloads as they come and with software segmentation at one or both egresses.

use std::net::IpAddr;
use std::time::Duration;

use trunkline_tests::capture::{Capture, Direction};
use trunkline_tests::pair::Pair;
use trunkline_tests::{Container, Kind, Lab, Opts, over_kinds, over_pairs, ping, transfer};

over_pairs!(a_gibibyte_and_every_datagram);

/// 1 GiB of TCP each way of IP with equal sha256; datagrams of every size and fragmented ones.
fn a_gibibyte_and_every_datagram(pair: Pair) {
    let lab = Lab::new();
    let (a, b) = pair.containers(&lab, 1500);
    for to in [b.v4, b.v6] {
        ping::assert_reaches(&a.ns, to);
        let done = transfer::assert_tcp(&a.ns, &b.ns, to, transfer::GIB);
        println!("{pair:?} to {to}: {:.2} Gbit/s", transfer::GIB as f64 * 8e-9 / done.took.as_secs_f64());
    }
    for to in [a.v4, a.v6] {
        transfer::assert_tcp(&b.ns, &a.ns, to, 50_000_000);
    }
    transfer::assert_udp_echo(&a.ns, &b.ns, b.v4, (1..=1472).chain([1473, 8000, 60_000]));
    transfer::assert_udp_echo(&a.ns, &b.ns, b.v6, (1..=1452).step_by(7).chain([1452, 1453, 8000, 60_000]));
    assert_eq!(lab.fdb_port("br0", a.mac).as_deref(), Some("a"));
    assert_eq!(lab.fdb_port("br0", b.mac).as_deref(), Some("b"));
    lab.assert_conserved();
}

over_pairs!(jumbo_frames);

/// An MTU of 9000: the largest ping passes whole, TCP too.
fn jumbo_frames(pair: Pair) {
    let lab = Lab::new();
    let (a, b) = pair.containers(&lab, 9000);
    ping::assert_reaches(&a.ns, b.v4);
    for (to, size) in [(b.v4, "8972"), (b.v6, "8952")] {
        let pings = ping::ping(&a.ns, to, 5, 0.02, &["-M", "do", "-s", size]);
        assert_eq!(pings.lost(), 0, "jumbo pings to {to}");
        transfer::assert_tcp(&a.ns, &b.ns, to, 200_000_000);
    }
    transfer::assert_udp_echo(&a.ns, &b.ns, b.v4, [1, 1472, 1473, 8972, 8973, 65_000].into_iter());
    lab.assert_conserved();
}

over_pairs!(udp_superframes);

/// A container that sends with UDP_SEGMENT: each datagram arrives, of its own size and content.
fn udp_superframes(pair: Pair) {
    let lab = Lab::new();
    let (a, b) = pair.containers(&lab, 1500);
    for to in [b.v4, b.v6] {
        ping::assert_reaches(&a.ns, to);
        send_udp_superframes(&a, &b, to);
    }
    lab.assert_conserved();
}

/// Sends 20 superframes of 40 segments of 1000 bytes and one of 500. UDP_SEGMENT (103) is set by Python,
/// which needs no unsafe code for it.
fn send_udp_superframes(a: &Container, b: &Container, to: IpAddr) {
    let socket = b.ns.enter(|| std::net::UdpSocket::bind((to, 0))).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let port = socket.local_addr().unwrap().port().to_string();
    let script = "
import socket, struct, sys
to = socket.getaddrinfo(sys.argv[1], int(sys.argv[2]), type=socket.SOCK_DGRAM)[0]
s = socket.socket(to[0], socket.SOCK_DGRAM)
s.setsockopt(17, 103, 1000)
s.settimeout(10)
n = 0
for i in range(20):
    parts = [struct.pack('>I', n + j) * (125 if j == 40 else 250) for j in range(41)]
    n += 41
    s.sendto(b''.join(parts), to[4])
    s.recv(1)
";
    let mut seen = vec![false; 20 * 41];
    std::thread::scope(|scope| {
        // Beside the sender, which waits for an answer to each superframe: the buffer does not hold them all.
        let (target, port) = (to.to_string(), &port);
        let sender = scope.spawn(move || a.ns.run("python3", &["-c", script, &target, port]));
        let mut buffer = [0; 2000];
        for count in 0..seen.len() {
            let (n, peer) = transfer::uninterrupted(|| socket.recv_from(&mut buffer)).unwrap_or_else(|e| {
                let first = seen.iter().position(|s| !s).unwrap_or_default();
                panic!(
                    "{e}: {count} of {} datagrams arrived at {to}, the first missing is {first}",
                    seen.len()
                )
            });
            let number = u32::from_be_bytes(buffer[..4].try_into().unwrap()) as usize;
            assert_eq!(n, if number % 41 == 40 { 500 } else { 1000 }, "size of datagram {number}");
            assert!(
                buffer[..n].chunks(4).all(|c| c == (number as u32).to_be_bytes()),
                "content of datagram {number}"
            );
            assert!(!std::mem::replace(&mut seen[number], true), "datagram {number} arrived twice");
            if count % 41 == 40 {
                socket.send_to(b"k", peer).unwrap();
            }
        }
        let out = sender.join().unwrap();
        assert_eq!(out.code, 0, "{}", out.stderr);
    });
}

over_kinds!(no_bad_checksum_after_software_segmentation);

/// What `--offload off` puts on the wire is complete: every checksum good, no frame over the MTU.
fn no_bad_checksum_after_software_segmentation(kind: Kind) {
    let lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    let b = lab.container_with(kind, "b", &Opts::args(&["--offload", "off"]));
    ping::assert_reaches(&a.ns, b.v4);
    let capture = Capture::start(&b.ns, "eth0", Direction::In, "");
    for to in [b.v4, b.v6] {
        transfer::assert_tcp(&a.ns, &b.ns, to, 2_000_000);
        transfer::assert_udp_echo(&a.ns, &b.ns, to, (1..=1452).step_by(50).chain([8000]));
        send_udp_superframes(&a, &b, to);
        assert_eq!(ping::ping(&a.ns, to, 3, 0.02, &[]).lost(), 0);
    }
    let seen = capture.stop_when_quiet(Duration::from_millis(300));
    seen.assert_checksums_good();
    let longest = seen.frames.iter().map(Vec::len).max().unwrap();
    assert_eq!(longest, 1514, "longest frame among {}", seen.frames.len());
}

over_kinds!(frames_over_the_egress_mtu_are_counted);

/// A frame larger than the egress MTU is dropped as `mtu`; a superframe whose segments fit is not.
fn frames_over_the_egress_mtu_are_counted(kind: Kind) {
    let lab = Lab::new();
    let a = lab.container_with(Kind::Tap, "a", &Opts { mtu: 4000, ..Opts::default() });
    let b = lab.container(kind, "b");
    ping::assert_reaches(&a.ns, b.v4);
    assert_eq!(lab.drops("b", "mtu"), 0);
    let pings = ping::ping(&a.ns, b.v4, 3, 0.05, &["-M", "do", "-s", "2000"]);
    assert_eq!(pings.received, 0);
    lab.await_drops("b", "mtu", 3);
    // TCP agrees on b's segment size; its superframes are far larger than either MTU.
    let before = lab.drops("b", "mtu");
    transfer::assert_tcp(&a.ns, &b.ns, b.v4, 50_000_000);
    assert_eq!(lab.drops("b", "mtu"), before);
    lab.assert_conserved();
}

#[test]
fn the_host_port_reaches_containers() {
    let lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    let b = lab.container(Kind::Afpacket, "b");
    let host_v4: IpAddr = "10.7.255.254".parse().unwrap();
    lab.ok(&[
        "port",
        "add",
        "br0",
        "host0",
        "--type",
        "host",
        "--address",
        "10.7.255.254/16",
        "--address",
        "fd07::ffff/64",
    ]);
    for c in [&a, &b] {
        ping::assert_reaches(&lab.ns, c.v4);
        ping::assert_reaches(&lab.ns, c.v6);
        ping::assert_reaches(&c.ns, host_v4);
        transfer::assert_tcp(&lab.ns, &c.ns, c.v4, 100_000_000);
        transfer::assert_tcp(&c.ns, &lab.ns, host_v4, 100_000_000);
    }
    assert!(lab.ns.interfaces().contains(&"host0".to_owned()));
    lab.ok(&["port", "del", "host0"]);
    assert!(!lab.ns.interfaces().contains(&"host0".to_owned()));
}

#[test]
fn an_adopted_interface_does_not_leak_into_the_host() {
    let lab = Lab::new();
    let a = lab.container(Kind::Afpacket, "a");
    let b = lab.container(Kind::Tap, "b");
    ping::assert_reaches(&a.ns, b.v4);
    // The daemon's namespace has an address of the same network on another interface. Its kernel would
    // answer ARP for it on every interface, the adopted one included.
    lab.ns.sh("ip link add name other type bridge");
    lab.ns.sh("ip address add 10.7.99.99/32 dev other");
    lab.ns.sh("ip link set other up");
    lab.ns.sh(&format!("ip route add {}/32 dev {}", a.v4, a.veth()));
    ping::assert_isolated(&a.ns, "10.7.99.99".parse().unwrap());
    ping::assert_reaches(&a.ns, b.v4);
    // Let go of, it is an ordinary interface again, and the leak is there: the test can fail.
    lab.ok(&["port", "del", "a"]);
    ping::assert_reaches(&a.ns, "10.7.99.99".parse().unwrap());
}

#[test]
fn a_tap_with_several_queues() {
    let lab = Lab::new();
    let a = lab.container_with(Kind::Tap, "a", &Opts::args(&["--queues", "2"]));
    let b = lab.container_with(Kind::Tap, "b", &Opts::args(&["--queues", "4"]));
    ping::assert_reaches(&a.ns, b.v4);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| transfer::assert_tcp(&a.ns, &b.ns, b.v4, 100_000_000));
            s.spawn(|| transfer::assert_tcp(&b.ns, &a.ns, a.v6, 100_000_000));
        }
    });
    let port = lab.json(&["port", "show", "b"]);
    assert_eq!(port["queues"], 4, "{port}");
    lab.assert_conserved();
}

#[test]
fn an_existing_tap_is_adopted() {
    let lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    lab.ns.sh("ip tuntap add dev mytap mode tap");
    lab.ns.sh("ip address add 10.7.200.1/16 dev mytap");
    lab.ns.sh("ip link set mytap up");
    lab.ok(&["port", "add", "br0", "mine", "--type", "tap", "--adopt", "--ifname", "mytap"]);
    ping::assert_reaches(&a.ns, "10.7.200.1".parse().unwrap());
    lab.ok(&["port", "del", "mine"]);
    assert!(lab.ns.interfaces().contains(&"mytap".to_owned()), "an adopted interface is not ours to delete");
}
