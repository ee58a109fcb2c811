//! What cannot go on: the sender is told, translated or not.

use trunkline_packet::DropReason;

use crate::kit::*;

/// The packet quoted in an ICMP error: its source and destination with ports.
fn quoted(error: &Seen) -> (String, String) {
    let q = &error.payload;
    let v4 = |at: usize| std::net::Ipv4Addr::from(<[u8; 4]>::try_from(&q[at..at + 4]).unwrap());
    let port = |at: usize| u16::from_be_bytes([q[at], q[at + 1]]);
    (format!("{}:{}", v4(12), port(20)), format!("{}:{}", v4(16), port(22)))
}

#[test]
fn the_last_hop() {
    let w = World::new(1);
    w.a.send(w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 1, b"late"));
    let error = w.a.next();
    assert_eq!((error.icmp, error.src.ip()), (Some((11, 0)), ip("10.77.0.1")));
    assert_eq!(quoted(&error), ends("10.77.0.9:4000", "198.51.100.1:53"));
    // From outside to a published port: the error is translated as everything is.
    w.outside.send(w.outside.udp("198.51.100.7:555", "192.0.2.10:8080", 1, b"late"));
    let error = w.outside.next();
    assert_eq!((error.icmp, error.src.ip()), (Some((11, 0)), ip("192.0.2.10")));
    assert_eq!(quoted(&error), ends("198.51.100.7:555", "192.0.2.10:8080"));
    w.assert_conserved();
}

#[test]
fn too_big_on_the_way_out_and_in() {
    let w = World::with(1, |c| {
        c.uplinks[0].mtu = 1400;
        c.gateways[0].mtu = 1300;
    });
    let df = |on: bool, mut frame: Vec<u8>| {
        frame[20] = if on { 0x40 } else { 0 };
        frame[24..26].fill(0);
        let sum = trunkline_packet::checksum::Sum::ZERO.bytes(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        frame
    };
    w.a.send(df(true, w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 64, &[1; 1400])));
    let error = w.a.next();
    assert_eq!((error.icmp, error.src.ip()), (Some((3, 4)), ip("10.77.0.1")));
    w.outside.send(df(true, w.outside.udp("198.51.100.7:555", "192.0.2.10:8080", 64, &[1; 1300])));
    let error = w.outside.next();
    assert_eq!((error.icmp, error.src.ip()), (Some((3, 4)), ip("192.0.2.10")));
    assert_eq!(quoted(&error), ends("198.51.100.7:555", "192.0.2.10:8080"));
    // Without DF it is cut.
    w.a.send(df(false, w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 64, &[1; 1400])));
    let (first, _) = w.outside.next_with(std::time::Duration::from_secs(1)).unwrap();
    let (second, _) = w.outside.next_with(std::time::Duration::from_secs(1)).unwrap();
    assert_eq!(first.len() - 34 + second.len() - 34, 1408);
    assert!(first.len() <= 1414);
    w.assert_conserved();
}

#[test]
fn errors_from_the_path_reach_the_host_that_sent() {
    let w = World::new(1);
    w.a.send(w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 64, b"query"));
    let out = w.outside.next_with(std::time::Duration::from_secs(1)).unwrap().0;
    // A router on the way says that it is too big.
    let mut frame = Vec::new();
    let kind = etherparse::Icmpv4Type::DestinationUnreachable(
        etherparse::icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1280 },
    );
    etherparse::PacketBuilder::ethernet2(w.outside.mac.0, w.outside.next.0)
        .ipv4([203, 0, 113, 5], [192, 0, 2, 10], 60)
        .icmpv4(kind)
        .write(&mut frame, &out[14..])
        .unwrap();
    w.outside.send(frame);
    let error = w.a.next();
    assert_eq!((error.icmp, error.src.ip()), (Some((3, 4)), ip("203.0.113.5")));
    assert_eq!(quoted(&error), ends("10.77.0.9:4000", "198.51.100.1:53"));
    w.assert_conserved();
}

#[test]
fn a_neighbour_that_does_not_answer() {
    let mut w = World::with(1, |c| c.routes.clear());
    w.outside.own = vec![ip("192.0.2.99")];
    // On the uplink: the host inside is told, in its own words.
    w.a.send(w.a.udp("10.77.0.9:4000", "192.0.2.1:53", 64, b"lost"));
    w.outside.is_quiet();
    assert_eq!(w.engine.l3_stats().waiting, 1);
    w.assert_conserved();
    let error = loop {
        if let Some((frame, _)) = w.a.next_with(std::time::Duration::from_secs(6)) {
            break Seen::new(&frame);
        }
    };
    assert_eq!((error.icmp, error.src.ip()), (Some((3, 1)), ip("10.77.0.1")));
    assert_eq!(quoted(&error), ends("10.77.0.9:4000", "192.0.2.1:53"));
    assert_eq!(w.drops(w.outside.port, DropReason::RouterUnreachable), 1);
    assert_eq!(w.engine.l3_stats().waiting, 0);
    w.assert_conserved();
}
