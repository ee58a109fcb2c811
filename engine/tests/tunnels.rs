//! Tunnels from the outside: two or more engines on a network made of memory.

mod memory;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use memory::inner::{Inner, TCP, finished};
use memory::net::{Host, Net};
use memory::{Wire, assert_conserved, drops, frame};
use trunkline_engine::{
    BfdOptions, BridgeId, Engine, EngineConfig, EngineEvent, PeerStatus, Spin, TunnelConfig, TunnelError,
};
use trunkline_packet::headers::read16;
use trunkline_packet::{DropReason, MacAddr, PortId, VlanId};
use trunkline_ports::TxCaps;
use trunkline_ports::underlay::{Arrival, Outer};
use trunkline_switch::{BridgeConfig, PortConfig, VlanMode};
use trunkline_tunnel::{Endpoint, GreKey, Kind, NetId, Nets, TableError, Vni};

/// A host with a bridge, a station on it, and a tunnel.
struct Site {
    engine: Engine,
    bridge: BridgeId,
    station: Arc<Wire>,
    port: PortId,
    tunnel: PortId,
    host: Arc<Host>,
}

fn plain() -> PortConfig {
    PortConfig::new(PortId::NONE)
}

fn vni(n: u32) -> NetId {
    NetId::Vni(Vni::new(n).unwrap())
}

fn remotes(list: &[&str]) -> Vec<IpAddr> {
    list.iter().map(|a| a.parse().unwrap()).collect()
}

fn vxlan(to: &[&str]) -> TunnelConfig {
    let mut endpoint = Endpoint::new(PortId::NONE, Kind::Vxlan, vni(77));
    endpoint.remotes = remotes(to);
    TunnelConfig::new(endpoint)
}

fn gre(to: &[&str]) -> TunnelConfig {
    let mut endpoint = Endpoint::new(PortId::NONE, Kind::Gre, NetId::Key(GreKey(7)));
    (endpoint.remotes, endpoint.inner_mtu) = (remotes(to), 1454);
    TunnelConfig::new(endpoint)
}

impl Site {
    fn new(net: &Arc<Net>, address: &str, workers: u16, config: TunnelConfig) -> Site {
        let host = net.host(address);
        let engine = EngineConfig { workers, pin: false, spin: Spin::Micros(0) };
        let engine = Engine::start_with(engine, host.opener()).unwrap();
        let bridge = engine.add_bridge(BridgeConfig::default());
        let port = engine.add_port(bridge, plain(), 65535).unwrap();
        let station = Wire::new(TxCaps::ALL);
        engine.attach_port(port, station.io(), false).unwrap();
        let tunnel = engine.add_port(bridge, plain(), 65535).unwrap();
        engine.set_tunnel(tunnel, config).unwrap();
        Site { engine, bridge, station, port, tunnel, host }
    }

    fn check(&self) {
        self.settle();
        assert_conserved(&self.engine, &[self.port, self.tunnel]);
    }

    /// Waits until every worker has ended what it was at.
    fn settle(&self) {
        std::thread::sleep(Duration::from_millis(30));
        self.engine.update_bridge(self.bridge, BridgeConfig::default());
    }

    fn peer(&self) -> PeerStatus {
        self.engine.tunnel_peers(self.tunnel)[0]
    }

    fn drops(&self, reason: DropReason) -> u64 {
        drops(&self.engine, self.tunnel, reason)
    }
}

fn wait_for(what: &str, done: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn superframes_go_through_every_kind_of_tunnel_and_come_out_whole() {
    for workers in [1, 2] {
        for (make, udp) in [(vxlan as fn(&[&str]) -> TunnelConfig, true), (gre, false)] {
            let net = Net::new();
            let a = Site::new(&net, "192.0.2.1", workers, make(&["192.0.2.2"]));
            let b = Site::new(&net, "192.0.2.2", workers, make(&["192.0.2.1"]));
            let mut last = 0;
            for (v6, tcp) in [(false, true), (true, true), (false, false), (true, false)] {
                let size = if v6 { 1370 } else { 1390 };
                let inner = Inner { v6, tcp, payload: if tcp { 60_000 } else { 40_000 }, size, ..TCP };
                let (bytes, offload) = inner.build(2, 1);
                a.station.inject_with(bytes.clone(), offload);
                let out = b.station.take().expect("a superframe");
                let got = b.station.offloads.pop().unwrap();
                assert_eq!((got.gso, got.csum), (offload.gso, offload.csum));
                // Identification aside, which each segment had its own of.
                assert!(finished(&out, got) == finished(&bytes, offload), "v6 {v6} tcp {tcp} udp {udp}");
                let runs: Vec<_> = std::iter::from_fn(|| a.host.sent.pop()).collect();
                assert_eq!(runs.len() == 1, udp, "one sendmsg for a superframe in UDP");
                last += 1;
            }
            a.check();
            b.check();
            let (sent, got) = (a.engine.counters(a.tunnel), b.engine.counters(b.tunnel));
            assert_eq!((sent.tx_packets, sent.tx_frames > 100), (last, true));
            assert_eq!(got.rx_packets, sent.tx_frames);
            assert_eq!(b.engine.counters(b.port).tx_packets, last);
        }
    }
}

#[test]
fn small_frames_pass_both_ways_and_what_is_no_tunnels_is_counted() {
    let net = Net::new();
    let a = Site::new(&net, "192.0.2.1", 2, vxlan(&["192.0.2.2"]));
    let b = Site::new(&net, "192.0.2.2", 2, vxlan(&["192.0.2.1"]));
    a.station.inject(frame(255, 1));
    assert_eq!(b.station.take(), Some(frame(255, 1)));
    b.station.inject(frame(1, 2));
    assert_eq!(a.station.take(), Some(frame(1, 2)));
    // Learned on the tunnel.
    assert_eq!(a.engine.fdb(a.bridge).unwrap().learned_on(a.tunnel), 1);
    let arrival = Arrival {
        outer: Outer {
            src: "192.0.2.9".parse().unwrap(),
            dst: b.host.address,
            src_port: 50000,
            dst_port: 4789,
            tos: 0,
            ttl: 64,
            proto: 17,
        },
        gro: None,
    };
    let header = |vni: u8| vec![8, 0, 0, 0, 0, 0, vni, 0];
    let known = Arrival { outer: Outer { src: a.host.address, ..arrival.outer }, ..arrival };
    net.deliver([header(77), frame(2, 1)].concat(), arrival);
    net.deliver([header(78), frame(2, 1)].concat(), known);
    net.deliver(vec![8, 0, 0], known);
    net.deliver(Vec::new(), known);
    net.deliver([header(77), frame(2, 1)[..13].to_vec()].concat(), known);
    wait_for("drops", || b.drops(DropReason::InnerTooShort) == 1);
    b.check();
    let u = b.engine.underlay_counters();
    let of = |reason: DropReason| u.drops[reason.index()];
    assert_eq!(of(DropReason::UnknownRemote), 1);
    assert_eq!(of(DropReason::WrongVni), 1);
    assert_eq!(of(DropReason::TunnelTruncated), 2);
    assert_eq!(u.rx_packets, 4);
    a.check();
}

#[test]
fn too_big_is_answered_fragmented_or_dropped() {
    let net = Net::new();
    let a = Site::new(&net, "192.0.2.1", 1, vxlan(&["192.0.2.2"]));
    let b = Site::new(&net, "192.0.2.2", 1, vxlan(&["192.0.2.1"]));
    for v6 in [false, true] {
        let (bytes, offload) = Inner { v6, payload: 1460, ..TCP }.build(2, 1);
        a.station.inject_with(bytes.clone(), offload);
        let reply = a.station.take().expect("an error");
        assert_eq!((&reply[..6], &reply[6..12]), (&bytes[6..12], &bytes[..6]));
        let l4 = if v6 { 54 } else { 34 };
        assert_eq!((reply[l4], reply[l4 + 1]), if v6 { (2, 0) } else { (3, 4) });
        assert_eq!(read16(&reply, l4 + 6), Some(1450));
        // The same for the segments of a superframe.
        let (bytes, offload) = Inner { v6, payload: 30_000, size: 1460, ..TCP }.build(2, 1);
        a.station.inject_with(bytes, offload);
        assert_eq!(a.station.take().map(|r| read16(&r, l4 + 6)), Some(Some(1450)));
    }
    // Its sender allows fragments.
    let (bytes, offload) = Inner { payload: 1460, df: false, ..TCP }.build(2, 1);
    net.mtu.store(9000, Ordering::Relaxed);
    a.station.inject_with(bytes.clone(), offload);
    assert_eq!(b.station.take().map(|f| f.len()), Some(bytes.len()));
    assert!(!std::iter::from_fn(|| a.host.sent.pop()).last().unwrap().df);
    a.settle();
    let c = a.engine.counters(a.tunnel);
    assert_eq!((c.generated, c.drops[DropReason::Mtu.index()], c.tx_packets), (4, 4, 1));
    assert_eq!(a.engine.fdb(a.bridge).unwrap().learned_on(a.tunnel), 0, "nothing is learned from errors");
    // Errors are limited, drops are not.
    for _ in 0..500 {
        let (bytes, offload) = Inner { payload: 1460, ..TCP }.build(2, 1);
        a.station.inject_with(bytes, offload);
    }
    wait_for("drops", || a.drops(DropReason::Mtu) == 504);
    a.settle();
    let made = a.engine.counters(a.tunnel).generated;
    assert!((40..200).contains(&made), "{made}");
    a.check();
}

#[test]
fn an_error_goes_back_in_the_vlan_it_came_from() {
    let net = Net::new();
    let a = Site::new(&net, "192.0.2.1", 1, gre(&["192.0.2.2"]));
    let vid = VlanId::new(10).unwrap();
    let access = PortConfig { vlan_mode: VlanMode::Access, tag: vid, ..plain() };
    a.engine.update_port(a.port, access, 65535);
    let (bytes, offload) = Inner { payload: 1460, ..TCP }.build(2, 1);
    a.station.inject_with(bytes, offload);
    // Untagged, although the frame was tagged on its way into the tunnel.
    assert_eq!(a.station.take().map(|r| read16(&r, 12)), Some(Some(0x0800)));
    a.check();
}

#[test]
fn the_mss_is_clamped_in_both_directions_unless_it_is_not_wanted() {
    let net = Net::new();
    let a = Site::new(&net, "192.0.2.1", 1, vxlan(&["192.0.2.2"]));
    let b = Site::new(&net, "192.0.2.2", 1, TunnelConfig { mss_clamp: false, ..vxlan(&["192.0.2.1"]) });
    for (from, to, mss) in [(&a, &b, 1410), (&b, &a, 1410)] {
        let (bytes, offload) = Inner { syn: true, payload: 0, ..TCP }.build(255, 1);
        from.station.inject_with(bytes, offload);
        let out = to.station.take().unwrap();
        assert_eq!(read16(&out, 56), Some(mss));
    }
    a.engine.set_tunnel(a.tunnel, TunnelConfig { mss_clamp: false, ..vxlan(&["192.0.2.2"]) }).unwrap();
    let (bytes, offload) = Inner { syn: true, payload: 0, ..TCP }.build(255, 1);
    a.station.inject_with(bytes, offload);
    assert_eq!(b.station.take().and_then(|out| read16(&out, 56)), Some(1460));
}

#[test]
fn several_remotes_get_floods_and_learned_addresses_go_to_one() {
    let net = Net::new();
    let a = Site::new(&net, "192.0.2.1", 1, vxlan(&["192.0.2.2", "192.0.2.3"]));
    let b = Site::new(&net, "192.0.2.2", 1, vxlan(&["192.0.2.1"]));
    let c = Site::new(&net, "192.0.2.3", 1, vxlan(&["192.0.2.1"]));
    a.station.inject(frame(255, 1));
    assert!(b.station.take().is_some() && c.station.take().is_some());
    b.station.inject(frame(1, 2));
    c.station.inject(frame(1, 3));
    assert!(a.station.take().is_some() && a.station.take().is_some());
    a.station.inject(frame(2, 1));
    a.station.inject(frame(3, 1));
    assert_eq!((b.station.take(), c.station.take()), (Some(frame(2, 1)), Some(frame(3, 1))));
    a.settle();
    assert_eq!(a.engine.counters(a.tunnel).replicated, 1);
    // A change of the list keeps what was learned for those that stay.
    a.engine.set_tunnel(a.tunnel, vxlan(&["192.0.2.9", "192.0.2.3", "192.0.2.2"])).unwrap();
    while a.host.sent.pop().is_some() {}
    a.station.inject(frame(2, 1));
    assert_eq!(b.station.take(), Some(frame(2, 1)));
    assert_eq!(a.host.sent.pop().map(|d| d.dst), Some(b.host.address));
    assert!(a.host.sent.is_empty() && c.station.tx.is_empty());
    for site in [&a, &b, &c] {
        site.check();
    }
}

#[test]
fn without_remotes_a_tunnel_answers_those_it_heard_and_static_ones() {
    let net = Net::new();
    let mut config = vxlan(&[]);
    let mac = MacAddr([2, 0, 0, 0, 0, 3]);
    config.static_remotes = vec![(VlanId::NONE, mac, "192.0.2.3".parse().unwrap())];
    let a = Site::new(&net, "192.0.2.1", 1, config);
    let b = Site::new(&net, "192.0.2.2", 1, vxlan(&["192.0.2.1"]));
    let c = Site::new(&net, "192.0.2.3", 1, vxlan(&["192.0.2.1"]));
    a.station.inject(frame(2, 1));
    wait_for("a drop", || a.drops(DropReason::TunnelNoRemote) == 1);
    b.station.inject(frame(1, 2));
    assert!(a.station.take().is_some());
    a.station.inject(frame(2, 1));
    assert_eq!(b.station.take(), Some(frame(2, 1)));
    a.station.inject(frame(3, 1));
    assert_eq!(c.station.take(), Some(frame(3, 1)));
    assert!(b.station.tx.is_empty());
    a.check();
}

#[test]
fn a_group_takes_floods_and_anyone_may_send() {
    let net = Net::new();
    let group = || {
        let mut config = vxlan(&[]);
        config.endpoint.group = Some("239.1.1.1".parse().unwrap());
        config
    };
    let sites: Vec<_> = (1..=3).map(|n| Site::new(&net, &format!("192.0.2.{n}"), 1, group())).collect();
    sites[0].station.inject(frame(255, 1));
    assert!(sites[1].station.take().is_some() && sites[2].station.take().is_some());
    sites[1].station.inject(frame(1, 2));
    assert!(sites[0].station.take().is_some());
    while sites[1].host.sent.pop().is_some() {}
    sites[1].station.inject(frame(1, 2));
    assert!(sites[0].station.take().is_some());
    assert_eq!(sites[1].host.sent.pop().map(|d| d.dst), Some(sites[0].host.address));
    sites.iter().for_each(Site::check);
}

#[test]
fn vlans_are_mapped_to_networks() {
    let net = Net::new();
    let vid = |n| VlanId::new(n).unwrap();
    let mapped = |to: &[&str]| {
        let mut config = vxlan(to);
        config.endpoint.nets = Nets::Map(vec![(vid(10), vni(100)), (vid(20), vni(200))]);
        config
    };
    let a = Site::new(&net, "192.0.2.1", 1, mapped(&["192.0.2.2"]));
    let b = Site::new(&net, "192.0.2.2", 1, mapped(&["192.0.2.1"]));
    let tagged = |vid: u8| [&frame(255, 1)[..12], &[0x81, 0, 0, vid], &frame(255, 1)[12..]].concat();
    a.station.inject(tagged(20));
    assert_eq!(b.station.take(), Some(tagged(20)));
    a.station.inject(tagged(30));
    wait_for("a drop", || a.drops(DropReason::UnmappedVlan) == 1);
    a.check();
    b.check();
}

#[test]
fn a_mesh_delivers_a_broadcast_once_to_everyone() {
    let net = Net::new();
    let address = |n: usize| format!("192.0.2.{n}");
    let sites: Vec<_> = (1..=4)
        .map(|n| {
            let others: Vec<String> = (1..=4).filter(|&o| o != n).map(address).collect();
            let member = |to: &str| TunnelConfig { bfd: None, ..gre(&[to]) };
            let site = Site::new(&net, &address(n), 2, member(&others[0]));
            let horizon = PortConfig { split_horizon_group: Some(1), ..plain() };
            site.engine.update_port(site.tunnel, horizon.clone(), 65535);
            let mut ports = vec![site.port, site.tunnel];
            for to in &others[1..] {
                let port = site.engine.add_port(site.bridge, horizon.clone(), 65535).unwrap();
                site.engine.set_tunnel(port, member(to)).unwrap();
                ports.push(port);
            }
            (site, ports)
        })
        .collect();
    for (from, (site, _)) in sites.iter().enumerate() {
        site.station.inject(frame(255, from as u8 + 1));
    }
    std::thread::sleep(Duration::from_millis(200));
    for (site, ports) in &sites {
        assert_eq!(site.station.tx.len(), 3);
        assert_conserved(&site.engine, ports);
        assert_eq!(site.host.opened.load(Ordering::Relaxed), 1, "one raw socket");
    }
}

#[test]
fn sockets_are_shared_and_changes_are_all_or_nothing() {
    let net = Net::new();
    let a = Site::new(&net, "192.0.2.1", 2, vxlan(&["192.0.2.2"]));
    let b = Site::new(&net, "192.0.2.2", 2, vxlan(&["192.0.2.1"]));
    let e = &a.engine;
    let other = e.add_port(a.bridge, plain(), 1500).unwrap();
    let conflict = e.set_tunnel(other, vxlan(&["192.0.2.2"])).unwrap_err();
    assert!(matches!(conflict, TunnelError::Table(TableError::Conflict { .. })), "{conflict}");
    let mut taken = vxlan(&["192.0.2.3"]);
    taken.endpoint.dst_port = 666;
    let error = e.set_tunnel(other, taken.clone()).unwrap_err();
    assert!(error.to_string().contains("666"), "{error}");
    assert!(matches!(e.set_tunnel(a.port, vxlan(&["192.0.2.3"])), Err(TunnelError::Port)));
    assert!(matches!(e.set_tunnel(PortId(99), vxlan(&["192.0.2.3"])), Err(TunnelError::Port)));
    // A change that fails leaves the tunnel as it was.
    assert!(e.set_tunnel(a.tunnel, taken).is_err());
    a.station.inject(frame(255, 1));
    assert_eq!(b.station.take(), Some(frame(255, 1)));

    e.set_tunnel(other, vxlan(&["192.0.2.3"])).unwrap();
    e.set_tunnel(other, gre(&["192.0.2.3"])).unwrap();
    assert_eq!(net.open_ports(&a.host), [0, 4789]);
    assert_eq!(a.host.opened.load(Ordering::Relaxed), 2);
    e.remove_port(other);
    assert_eq!(net.open_ports(&a.host), [4789]);
    e.detach_port(a.tunnel);
    assert!(net.open_ports(&a.host).is_empty());
    a.station.inject(frame(255, 1));
    wait_for("a drop", || a.drops(DropReason::EgressDown) == 1);
    e.set_tunnel(a.tunnel, vxlan(&["192.0.2.2"])).unwrap();
    a.station.inject(frame(255, 1));
    assert_eq!(b.station.take(), Some(frame(255, 1)));
}

#[test]
fn sequence_numbers_go_on_when_a_tunnel_is_changed() {
    let net = Net::new();
    let sequenced = |to: &[&str]| {
        let mut config = gre(to);
        (config.endpoint.gre_sequence, config.endpoint.gre_checksum) = (true, true);
        config
    };
    let a = Site::new(&net, "192.0.2.1", 1, sequenced(&["192.0.2.2"]));
    let b = Site::new(&net, "192.0.2.2", 1, sequenced(&["192.0.2.1"]));
    for round in 0..4 {
        for _ in 0..3 {
            a.station.inject(frame(255, 1));
            assert_eq!(b.station.take(), Some(frame(255, 1)), "round {round}");
        }
        let mut config = sequenced(&["192.0.2.2"]);
        config.endpoint.inner_mtu = 1400 + round;
        a.engine.set_tunnel(a.tunnel, config).unwrap();
    }
    assert_eq!(b.drops(DropReason::GreSequence), 0);
    b.check();
}

fn with_bfd(config: TunnelConfig) -> TunnelConfig {
    TunnelConfig { bfd: Some(BfdOptions { min_tx_ms: 100, min_rx_ms: 100, multiplier: 4 }), ..config }
}

#[test]
fn a_dead_peer_is_noticed_forgotten_and_heard_again() {
    let net = Net::new();
    let a = Site::new(&net, "192.0.2.1", 2, with_bfd(vxlan(&["192.0.2.2"])));
    let b = Site::new(&net, "192.0.2.2", 2, with_bfd(vxlan(&["192.0.2.1"])));
    let up = |site: &Site| site.peer().state == Some(trunkline_tunnel::bfd::State::Up);
    wait_for("both up", || up(&a) && up(&b));
    wait_for("a round trip", || a.peer().round_trip.is_some());
    assert!(a.peer().round_trip.unwrap() < Duration::from_millis(200));
    b.station.inject(frame(1, 2));
    assert!(a.station.take().is_some());
    let fdb = a.engine.fdb(a.bridge).unwrap();
    assert_eq!(fdb.learned_on(a.tunnel), 1);
    // A station may not speak in the tunnel's place.
    let mut forged = frame(2, 1);
    forged[..6].copy_from_slice(&[0, 0x23, 0x20, 0, 0, 1]);
    a.station.inject(forged);
    wait_for("a drop", || a.drops(DropReason::ReservedMac) == 1);

    net.cut.store(true, Ordering::Relaxed);
    wait_for("dead", || !a.peer().alive);
    assert_eq!(fdb.learned_on(a.tunnel), 0);
    a.station.inject(frame(2, 1));
    wait_for("a drop", || a.drops(DropReason::TunnelPeerDown) == 1);
    net.cut.store(false, Ordering::Relaxed);
    wait_for("alive", || a.peer().alive && b.peer().alive);
    a.station.inject(frame(2, 1));
    assert_eq!(b.station.take(), Some(frame(2, 1)));
    let changes: Vec<bool> = a
        .engine
        .events()
        .try_iter()
        .filter_map(|event| match event {
            EngineEvent::PeerChanged { up, remote, .. } if remote == b.host.address => Some(up),
            _ => None,
        })
        .collect();
    assert_eq!(changes, [true, false, true]);

    // Switched off here, the other goes on without.
    a.engine.set_tunnel(a.tunnel, vxlan(&["192.0.2.2"])).unwrap();
    wait_for("admin down heard", || !up(&b));
    wait_for("no session", || a.peer().state.is_none());
    assert!(b.peer().alive && a.peer().alive);
    b.engine.set_tunnel(b.tunnel, vxlan(&["192.0.2.1"])).unwrap();
    a.check();
    b.check();
}

#[test]
fn a_peer_that_never_answers_counts_as_dead_and_others_of_the_tunnel_do_not() {
    let net = Net::new();
    let a = Site::new(&net, "192.0.2.1", 1, with_bfd(vxlan(&["192.0.2.2", "192.0.2.3"])));
    let b = Site::new(&net, "192.0.2.2", 1, with_bfd(vxlan(&["192.0.2.1"])));
    // Until that is known, frames are sent.
    a.station.inject(frame(255, 1));
    assert!(b.station.take().is_some());
    wait_for("known", || a.engine.tunnel_peers(a.tunnel).iter().map(|p| p.alive).eq([true, false]));
    while a.host.sent.pop().is_some() {}
    a.station.inject(frame(255, 1));
    assert!(b.station.take().is_some());
    a.settle();
    assert_eq!(a.engine.counters(a.tunnel).replicated, 1);
}

#[test]
fn the_paths_mtu_is_found_by_trying() {
    let net = Net::new();
    net.mtu.store(1400, Ordering::Relaxed);
    let a = Site::new(&net, "192.0.2.1", 1, with_bfd(vxlan(&["192.0.2.2"])));
    let _b = Site::new(&net, "192.0.2.2", 1, with_bfd(vxlan(&["192.0.2.1"])));
    wait_for("found", || a.peer().path_mtu == Some(1400));
    let told = |event| matches!(event, EngineEvent::PathMtu { mtu: 1400, .. });
    assert!(a.engine.events().try_iter().any(told));
}

#[test]
fn tunnels_come_and_go_under_load() {
    let net = Net::new();
    let a = Site::new(&net, "192.0.2.1", 2, vxlan(&["192.0.2.2"]));
    let b = Site::new(&net, "192.0.2.2", 2, vxlan(&["192.0.2.1"]));
    b.station.inject(frame(1, 2));
    assert!(a.station.take().is_some());
    let sent = 3000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..sent {
                a.station.inject(frame(2, 1));
                std::thread::sleep(Duration::from_micros(30));
            }
        });
        for round in 0..40 {
            let port = a.engine.add_port(a.bridge, plain(), 1500).unwrap();
            let config = if round % 2 == 0 { gre(&["192.0.2.7"]) } else { vxlan(&["192.0.2.7"]) };
            a.engine.set_tunnel(port, with_bfd(config)).unwrap();
            a.engine.set_tunnel(a.tunnel, vxlan(&["192.0.2.2"])).unwrap();
            a.engine.remove_port(port);
        }
    });
    a.settle();
    b.settle();
    assert_eq!(b.station.tx.len(), sent, "no frame of the tunnel that stayed was lost");
    a.check();
    b.check();
}
