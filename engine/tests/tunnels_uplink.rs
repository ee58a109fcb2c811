//! Tunnels over uplinks: two engines whose uplinks a cable connects, outer addresses and neighbours in
//! userspace.

mod memory;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use memory::inner::{Inner, TCP, finished};
use memory::{Wire, assert_conserved, cable, drops, frame};
use trunkline_engine::{
    BfdOptions, Engine, EngineConfig, EngineEvent, L3Config, PortIo, Spin, TunnelConfig, TunnelError,
    Underlay, Uplink,
};
use trunkline_packet::checksum::Sum;
use trunkline_packet::{DropReason, MacAddr, PortId};
use trunkline_ports::TxCaps;
use trunkline_switch::{BridgeConfig, PortConfig};
use trunkline_tunnel::bfd::State;
use trunkline_tunnel::{Endpoint, GreKey, Kind, NetId, Vni};

/// A host with a bridge, a station on it, an uplink, and a tunnel over that.
struct Site {
    engine: Engine,
    station: Arc<Wire>,
    port: PortId,
    uplink: PortId,
    tunnel: PortId,
}

fn address(v6: bool, n: u8) -> IpAddr {
    if v6 { format!("2001:db8::{n}").parse().unwrap() } else { IpAddr::from([192, 0, 2, n]) }
}

fn config(kind: Kind, remote: IpAddr) -> TunnelConfig {
    let net = match kind {
        Kind::Gre => NetId::Key(GreKey(7)),
        _ => NetId::Vni(Vni::new(77).unwrap()),
    };
    let mut endpoint = Endpoint::new(PortId::NONE, kind, net);
    endpoint.remotes = vec![remote];
    endpoint.inner_mtu = 1426;
    TunnelConfig::new(endpoint)
}

impl Site {
    fn new(n: u8, workers: u16, io: PortIo, mtu: u16, config: TunnelConfig) -> Site {
        let engine = Engine::start(EngineConfig { workers, pin: false, spin: Spin::Micros(0) }).unwrap();
        let bridge = engine.add_bridge(BridgeConfig::default());
        let plain = || PortConfig::new(PortId::NONE);
        let port = engine.add_port(bridge, plain(), 65535).unwrap();
        let station = Wire::new(TxCaps::ALL);
        engine.attach_port(port, station.io(), false).unwrap();
        let uplink = engine.add_l3_port(65535).unwrap();
        engine.attach_port(uplink, io, false).unwrap();
        let tunnel = engine.add_port(bridge, plain(), 65535).unwrap();
        let site = Site { engine, station, port, uplink, tunnel };
        site.set_uplink(n, mtu);
        site.engine
            .set_tunnel(tunnel, TunnelConfig { underlay: Underlay::Uplink(uplink), ..config })
            .unwrap();
        site
    }

    fn set_uplink(&self, n: u8, mtu: u16) {
        let uplink = Uplink {
            port: self.uplink,
            uplink: trunkline_nat::Uplink(0),
            mac: MacAddr([2, 0, 0, 0, 1, n]),
            addresses: vec![
                format!("192.0.2.{n}/24").parse().unwrap(),
                format!("2001:db8::{n}/64").parse().unwrap(),
            ],
            mtu,
            shared: false,
            nd_proxy: Vec::new(),
        };
        self.engine.set_l3(L3Config { uplinks: vec![uplink], ..L3Config::default() }).unwrap();
    }

    /// All counters that are not zero, for failures.
    fn show(&self) -> String {
        let show = |port| {
            let c = self.engine.counters(port);
            let drops = DropReason::ALL.iter().filter(|r| c.drops[r.index()] > 0);
            let drops: Vec<_> = drops.map(|r| (r.name(), c.drops[r.index()])).collect();
            format!("{port:?}: rx {} tx {} made {} {drops:?}\n", c.rx_packets, c.tx_packets, c.generated)
        };
        [self.port, self.tunnel, self.uplink].map(show).concat()
    }

    fn check(&self) {
        std::thread::sleep(Duration::from_millis(50));
        assert_conserved(&self.engine, &[self.port, self.uplink, self.tunnel]);
    }
}

/// Two sites that a cable connects.
fn pair(v6: bool, workers: u16, mtu: u16, make: impl Fn(IpAddr) -> TunnelConfig) -> (Site, Site) {
    let (left, right) = cable();
    let a = Site::new(1, workers, left, mtu, make(address(v6, 2)));
    let b = Site::new(2, workers, right, mtu, make(address(v6, 1)));
    (a, b)
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn frames_and_superframes_arrive_with_neighbours_found_in_userspace() {
    for (kind, v6, workers) in
        [(Kind::Vxlan, false, 1), (Kind::Vxlan, true, 2), (Kind::Gre, false, 2), (Kind::Geneve, true, 1)]
    {
        let (a, b) = pair(v6, workers, 1500, |remote| config(kind, remote));
        // Waits for the neighbour.
        a.station.inject(frame(255, 1));
        assert_eq!(b.station.take(), Some(frame(255, 1)), "{kind:?} v6 {v6}");
        b.station.inject(frame(1, 2));
        assert_eq!(a.station.take(), Some(frame(1, 2)));
        for inner in [
            Inner { payload: 40_000, size: 1300, ..TCP },
            Inner { payload: 40_000, size: 1300, v6: true, ..TCP },
            Inner { payload: 30_000, size: 1000, tcp: false, ..TCP },
            Inner { payload: 10, ..TCP },
        ] {
            let (bytes, offload) = inner.build(2, 1);
            while b.station.offloads.pop().is_some() {}
            a.station.inject_with(bytes.clone(), offload);
            let out = b.station.take().unwrap_or_else(|| panic!("{kind:?} {v6} {}{}", a.show(), b.show()));
            let got = b.station.offloads.pop().unwrap();
            assert_eq!(got.gso, offload.gso, "{kind:?} v6 {v6}");
            assert!(finished(&out, got) == finished(&bytes, offload), "{kind:?} v6 {v6}");
        }
        let c = a.engine.counters(a.uplink);
        assert!(c.generated > 5 && c.tx_frames > 90, "{c:?}");
        a.check();
        b.check();
    }
}

#[test]
fn liveness_and_the_paths_mtu_work_over_an_uplink() {
    let bfd = Some(BfdOptions { min_tx_ms: 100, min_rx_ms: 100, multiplier: 4 });
    let (a, b) = pair(false, 2, 1400, |remote| TunnelConfig { bfd, ..config(Kind::Vxlan, remote) });
    let peer = |site: &Site| site.engine.tunnel_peers(site.tunnel)[0];
    wait_for("up", || [&a, &b].iter().all(|site| peer(site).state == Some(State::Up)));
    wait_for("path MTU", || peer(&a).path_mtu == Some(1400));
    a.engine.detach_port(a.uplink);
    wait_for("dead", || !peer(&b).alive);
    b.station.inject(frame(255, 2));
    wait_for("a drop", || drops(&b.engine, b.tunnel, DropReason::TunnelPeerDown) == 1);
}

#[test]
fn outer_packets_are_fragmented_and_put_together_again_where_that_is_allowed() {
    for v6 in [false, true] {
        let make = |fragment| {
            move |remote| {
                let mut config = TunnelConfig { fragment, ..config(Kind::Vxlan, remote) };
                config.endpoint.inner_mtu = 1420;
                config
            }
        };
        let (bytes, offload) = Inner { payload: 1380, ..TCP }.build(2, 1);
        // What the link takes, and what a path behind it does.
        for path in [1300, 600] {
            let (a, b) = pair(v6, 2, 1300, make(Some(path)));
            a.station.inject(frame(255, 1));
            assert!(b.station.take().is_some());
            a.station.inject_with(bytes.clone(), offload);
            let out = b.station.take().expect("a frame");
            b.station.offloads.pop();
            assert!(finished(&out, b.station.offloads.pop().unwrap()) == finished(&bytes, offload));
            let sent = a.engine.counters(a.tunnel).tx_frames;
            assert!(sent > if path == 600 { 3 } else { 2 }, "{sent} frames for {path}");
            a.check();
            b.check();
        }

        let (a, b) = pair(v6, 1, 1300, make(None));
        a.station.inject_with(bytes, offload);
        wait_for("a drop", || drops(&a.engine, a.tunnel, DropReason::Mtu) == 1);
        a.check();
        b.check();
    }
}

#[test]
fn a_router_that_says_too_big_is_heard_and_what_is_no_tunnels_goes_on() {
    let wire = Wire::new(TxCaps::NONE);
    let remote = address(false, 9);
    let a = Site::new(1, 1, wire.io(), 1500, config(Kind::Vxlan, remote));
    let far = [2, 0, 0, 0, 1, 9];
    a.station.inject(frame(255, 1));
    // Who has the remote?
    let arp = std::iter::from_fn(|| wire.take()).find(|f| f[12..14] == [8, 6] && f[38..42] == [192, 0, 2, 9]);
    let arp = arp.expect("a request");
    let reply = [&arp[6..12], &far, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2], &far, &arp[38..42], &arp[22..32]];
    wire.inject(reply.concat());
    let outer = std::iter::from_fn(|| wire.take()).find(|f| f[12..14] == [8, 0] && f[23] == 17);
    let outer = outer.expect("an outer packet");
    assert_eq!((&outer[..6], &outer[30..34]), (&far[..], &[192, 0, 2, 9][..]));

    // The quoted packet was 1500 bytes long.
    let mut quote = outer[14..42].to_vec();
    quote[2..4].copy_from_slice(&1500u16.to_be_bytes());
    quote[10..12].fill(0);
    let check = Sum::ZERO.bytes(&quote[..20]).finish();
    quote[10..12].copy_from_slice(&check.to_be_bytes());
    let mut icmp = [&[3, 4, 0, 0, 0, 0, 5, 120], &quote[..]].concat();
    let check = Sum::ZERO.bytes(&icmp).finish();
    icmp[2..4].copy_from_slice(&check.to_be_bytes());
    let mut ip = vec![0x45, 0, 0, 20 + icmp.len() as u8, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 7, 192, 0, 2, 1];
    let check = Sum::ZERO.bytes(&ip).finish();
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    let error = [&outer[6..12], &far, &[8, 0], &ip, &icmp].concat();
    wire.inject(error);
    wait_for("heard", || a.engine.tunnel_peers(a.tunnel)[0].path_mtu == Some(1400));
    let told = |event| matches!(event, EngineEvent::PathMtu { mtu: 1400, .. });
    assert!(a.engine.events().try_iter().any(told));

    // A ping of the uplink's own address is the router's to answer.
    let mut ping = [&[8, 0, 0, 0, 0, 1, 0, 1][..], b"data"].concat();
    let check = Sum::ZERO.bytes(&ping).finish();
    ping[2..4].copy_from_slice(&check.to_be_bytes());
    ip[3] = 32;
    ip[10..12].fill(0);
    let check = Sum::ZERO.bytes(&ip).finish();
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    wire.inject([&outer[6..12], &far, &[8, 0], &ip, &ping].concat());
    let pong = std::iter::from_fn(|| wire.take()).find(|f| f[12..14] == [8, 0] && f[23] == 1);
    assert_eq!(pong.map(|f| f[34]), Some(0));
    a.check();
}

#[test]
fn only_uplinks_carry_tunnels_and_none_carries_groups() {
    let (io, _) = cable();
    let a = Site::new(1, 1, io, 1500, config(Kind::Vxlan, address(false, 2)));
    let on = |port, to| TunnelConfig { underlay: Underlay::Uplink(port), ..config(Kind::Gre, to) };
    for port in [a.port, a.tunnel, PortId(77)] {
        let refused = a.engine.set_tunnel(a.tunnel, on(port, address(false, 2)));
        assert!(matches!(refused, Err(TunnelError::Port)));
    }
    let group = "239.1.1.1".parse().unwrap();
    assert!(matches!(a.engine.set_tunnel(a.tunnel, on(a.uplink, group)), Err(TunnelError::Table(_))));
    // Gone, and back.
    a.engine.remove_port(a.uplink);
    a.station.inject(frame(255, 1));
    wait_for("a drop", || drops(&a.engine, a.tunnel, DropReason::EgressDown) == 1);
}

#[test]
fn fragments_whose_rest_does_not_come_are_given_up() {
    let wire = Wire::new(TxCaps::NONE);
    let a = Site::new(1, 1, wire.io(), 1500, config(Kind::Vxlan, address(false, 9)));
    // The first of more fragments of UDP from the remote.
    let mut ip = vec![0x45, 0, 0, 60, 0, 7, 0x20, 0, 64, 17, 0, 0, 192, 0, 2, 9, 192, 0, 2, 1];
    let check = Sum::ZERO.bytes(&ip).finish();
    ip[10..12].copy_from_slice(&check.to_be_bytes());
    ip.resize(60, 0);
    wire.inject([&[2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 9, 8, 0][..], &ip].concat());
    wait_for("given up", || drops(&a.engine, a.uplink, DropReason::OuterFragmentTimeout) == 1);
    a.check();
}
