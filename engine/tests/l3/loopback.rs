//! The host's own stack, whose address the uplink shares, and the hosts inside.

use trunkline_packet::MacAddr;
use trunkline_ports::TxCaps;

use crate::kit::{Station, UPLINK, World, addr};
use crate::memory::Wire;

/// The world with a shared uplink, and the host's loopback.
fn world(workers: u16) -> (World, Station) {
    let mut w = World::new(workers);
    let port = w.engine.add_l3_port(65535).unwrap();
    let wire = Wire::new(TxCaps::ALL);
    w.engine.attach_port(port, wire.io(), false).unwrap();
    w.config.uplinks[0].shared = true;
    w.config.loopbacks = vec![(port, UPLINK)];
    w.engine.set_l3(w.config.clone()).unwrap();
    let none = MacAddr::default();
    (w, Station { wire, port, mac: none, next: none, own: Vec::new() })
}

#[test]
fn the_host_reaches_what_is_published_and_hosts_inside_reach_the_host() {
    for workers in [1, 3] {
        let (w, host) = world(workers);
        for n in 0..20u16 {
            let own = format!("192.0.2.10:{}", 40_000 + n);
            host.send(host.udp(&own, "192.0.2.10:8080", 64, b"question"));
            let shown = format!("10.77.0.1:{}", 40_000 + n);
            let got = w.a.next();
            assert_eq!((got.src, got.dst), (addr(&shown), addr("10.77.0.9:80")));
            w.a.send(w.a.udp("10.77.0.9:80", &shown, 64, b"answer"));
            let got = host.next();
            assert_eq!((got.src, got.dst), (addr("192.0.2.10:8080"), addr(&own)));
            assert_eq!(got.macs, (MacAddr::default(), MacAddr::default()), "as the loopback has them");
            // A service of the host's.
            let inside = format!("10.77.0.9:{}", 5000 + n);
            w.a.send(w.a.udp(&inside, "192.0.2.10:22", 64, b"question"));
            let got = host.next();
            assert_eq!((got.src.ip(), got.dst), (addr("192.0.2.10:1").ip(), addr("192.0.2.10:22")));
            host.send(host.udp("192.0.2.10:22", &got.src.to_string(), 64, b"answer"));
            let got = w.a.next();
            assert_eq!((got.src, got.dst), (addr("192.0.2.10:22"), addr(&inside)));
        }
    }
}
