//! Whatever comes in, and whatever the ports can take or refuse: no panic, every packet ends in one counter,
//! and no port is handed what it cannot take.

mod memory;

use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use memory::assert_conserved;
use memory::net::Net;
use rustix::event::{EventfdFlags, eventfd};
use trunkline_engine::{BfdOptions, Engine, EngineConfig, EngineEvent, PortIo, Spin, TunnelConfig};
use trunkline_packet::{
    Batch, Checksum, DropReason, Gso, GsoKind, Offload, Packet, Pool, PortId, VlanId, segment,
};
use trunkline_ports::underlay::{Arrival, Family, Outer, UdpOptions};
use trunkline_ports::{RecvEnd, RecvStats, RxQueue, SendStats, TxCaps, TxQueue};
use trunkline_switch::{BridgeConfig, PortConfig, VlanMode};
use trunkline_tunnel::{Endpoint, GreKey, Kind, NetId, Nets, Vni};

const FRAMES: usize = 4000;
const MTU: u32 = 1400;

struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % n
    }
}

/// Brings [`FRAMES`] frames: flows that merge, superframes, tags, and damage of every kind.
struct Chaos {
    ready: OwnedFd,
    random: Random,
    left: usize,
    port: u8,
    last: (Vec<u8>, Offload),
}

impl Chaos {
    /// The last frame again, as a flow of datagrams, or another.
    fn next(&mut self, out: &mut Packet, pool: &mut Pool) {
        if self.last.0.is_empty() || self.random.below(2) == 0 {
            self.last = self.frame();
        }
        let (bytes, offload) = &self.last;
        out.set_bytes(bytes, pool).unwrap();
        // Ports let nothing else through.
        if offload.check(bytes.len()).is_ok() {
            out.meta_mut().offload = *offload;
        }
    }

    /// A frame of TCP or UDP over IPv4 or IPv6, its checksum left open.
    fn frame(&mut self) -> (Vec<u8>, Offload) {
        let r = &mut self.random;
        let mut f = vec![2, 0, 0, 0, 0, r.below(8) as u8, 2, 0, 0, 0, 0, self.port];
        if r.below(20) == 0 {
            f[..6].fill(0xff);
        }
        for _ in 0..[0, 0, 0, 1, 1, 2][r.below(6)] {
            f.extend([if r.below(4) == 0 { 0x88 } else { 0x81 }, 0, 0, [0, 10, 20][r.below(3)]]);
            let kind = f.len() - 3;
            f[kind] = if f[kind - 1] == 0x88 { 0xa8 } else { 0 };
        }
        let (v6, tcp) = (r.below(3) == 0, r.below(2) == 0);
        let header = if tcp { 20 } else { 8 };
        let payload = [0, 1, 18, 100, 100, 100, 1372, 1373, 5000, 40_000, 65_000][r.below(11)];
        let l4_len = (header + payload) as u16;
        let protocol = if tcp { 6 } else { 17 };
        if v6 {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend(l4_len.to_be_bytes());
            f.extend([protocol, 64]);
            f.extend([0xfd; 32]);
        } else {
            f.extend([8, 0, 0x45, 0]);
            f.extend((l4_len + 20).to_be_bytes());
            f.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
            let ip = f.len() - 20;
            let sum: u32 = f[ip..].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
            let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
            f[ip + 10..ip + 12].copy_from_slice(&sum.to_be_bytes());
        }
        let l4 = f.len();
        f.extend([0, 7, 0, 9]);
        match tcp {
            true => f.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 0, 0, 0, 0, 0]),
            false => f.extend([&l4_len.to_be_bytes()[..], &[0, 0]].concat()),
        }
        f.resize(l4 + header + payload, 0x5a);
        let kind = match (tcp, v6) {
            (false, _) => GsoKind::UdpL4,
            (_, false) => GsoKind::TcpV4,
            (_, true) => GsoKind::TcpV6,
        };
        let size = [1, 60, 1000, 1350, 1372, 1500][r.below(6)];
        let gso =
            if payload > 1372 || r.below(9) == 0 { Gso { kind, ecn: false, size } } else { Gso::default() };
        let csum = Checksum::Partial { start: l4 as u16, offset: if tcp { 16 } else { 6 } };
        let mut offload = Offload { csum, gso };
        match r.below(12) {
            0 => offload.csum = Checksum::Unknown,
            1 => offload.gso.kind = [GsoKind::UdpL4, GsoKind::TcpV4, GsoKind::TcpV6][r.below(3)],
            2 => {
                let (start, offset) = (r.below(200) as u16, r.below(70) as u16);
                offload.csum = Checksum::Partial { start, offset };
            }
            3 => f.truncate(r.below(80)),
            4 => {
                let at = r.below(f.len().min(90));
                f[at] = r.below(256) as u8;
            }
            _ => {}
        }
        (f, offload)
    }
}

impl RxQueue for Chaos {
    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.ready.as_raw_fd())
    }

    fn recv(&mut self, pool: &mut Pool, out: &mut Batch, budget: usize, _: &mut RecvStats) -> RecvEnd {
        for _ in 0..budget {
            if self.left == 0 {
                return RecvEnd::Drained;
            }
            self.left -= 1;
            let mut packet = pool.get();
            self.next(&mut packet, pool);
            out.push(packet);
        }
        RecvEnd::More
    }
}

/// Takes most frames, refuses some, and finds fault with those it should not have got.
struct Judge {
    caps: TxCaps,
    turn: AtomicU64,
}

impl TxQueue for Judge {
    fn caps(&self) -> TxCaps {
        self.caps
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, stats: &mut SendStats) {
        for packet in batch.drain(..) {
            let offload = packet.meta().offload;
            assert!(self.caps.csum || offload.csum.is_full(), "{packet:?}");
            assert!(self.caps.gso(offload.gso.kind), "{packet:?}");
            assert!(segment::l3_segment_len(&packet) <= MTU as usize, "{packet:?}");
            assert_eq!((offload.check(packet.len()), packet.meta().vlan), (Ok(()), None), "{packet:?}");
            match self.turn.fetch_add(1, Ordering::Relaxed) % 13 {
                7 => stats.drops[DropReason::EgressFull.index()] += 1,
                11 => stats.drops[DropReason::EgressError.index()] += 1,
                _ => {
                    stats.packets += 1;
                    stats.bytes += packet.len() as u64;
                }
            }
            pool.put(packet);
        }
    }
}

#[test]
fn every_packet_ends_in_one_place() {
    let e = Engine::start(EngineConfig { workers: 2, pin: false, spin: Spin::Micros(20) }).unwrap();
    let br = e.add_bridge(BridgeConfig::default());
    let vid = |v| VlanId::new(v).unwrap();
    let plain = || PortConfig::new(PortId::NONE);
    let csum = TxCaps { csum: true, ..TxCaps::NONE };
    let modes = [VlanMode::Trunk, VlanMode::Access, VlanMode::NativeUntagged, VlanMode::Dot1qTunnel];
    let mut ports = Vec::new();
    let mut sources = Vec::new();
    for (i, caps) in [
        TxCaps::ALL,
        TxCaps::NONE,
        csum,
        TxCaps { tso: true, ..csum },
        TxCaps { uso: true, ..csum },
        TxCaps { tunnel_gso: false, ..TxCaps::ALL },
    ]
    .into_iter()
    .enumerate()
    {
        let vlan_mode = modes[i % modes.len()];
        let tag = if vlan_mode == VlanMode::Trunk { VlanId::NONE } else { vid(10) };
        let port = e.add_port(br, PortConfig { vlan_mode, tag, ..plain() }, MTU).unwrap();
        ports.push(port);
        let ready = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        let chaos =
            Chaos { ready, random: Random(i as u64), left: FRAMES, port: i as u8, last: Default::default() };
        let tx = Judge { caps, turn: AtomicU64::new(0) };
        sources.push((port, PortIo { rx: vec![Box::new(chaos)], tx: vec![Arc::new(tx)] }));
    }
    // Down from first to last.
    ports.push(e.add_port(br, plain(), MTU).unwrap());
    for (port, io) in sources {
        e.attach_port(port, io, false).unwrap();
    }
    let end = Instant::now() + Duration::from_secs(60);
    let all = |e: &Engine| ports[..6].iter().all(|&p| e.counters(p).rx_packets == FRAMES as u64);
    while !all(&e) && Instant::now() < end {
        if let Ok(event) = e.events().recv_timeout(Duration::from_millis(10)) {
            panic!("{event:?}");
        }
    }
    // Returns when every worker has ended the batch it was at.
    e.update_port(ports[6], plain(), MTU);
    assert!(all(&e) && e.events().is_empty());
    assert_conserved(&e, &ports);
    for (name, count) in [
        ("absorbed", ports.iter().map(|&p| e.counters(p).absorbed).sum::<u64>()),
        ("segmented", e.counters(ports[1]).tx_frames.saturating_sub(e.counters(ports[1]).tx_packets)),
        ("unsegmentable", ports.iter().map(|&p| memory::drops(&e, p, DropReason::Unsegmentable)).sum()),
        ("too big", ports.iter().map(|&p| memory::drops(&e, p, DropReason::Mtu)).sum()),
        ("down", memory::drops(&e, ports[6], DropReason::EgressDown)),
    ] {
        assert!(count > 50, "hardly anything tested: {name} {count}");
    }
}

/// The same through tunnels, of which most comes back: as it was, damaged, merged with others, or by another
/// way. Some of what they send is refused.
#[test]
fn every_packet_through_tunnels_ends_in_one_place() {
    let net = Net::new();
    net.refuse.store(17, Ordering::Relaxed);
    let host = net.host("192.0.2.1");
    let config = EngineConfig { workers: 2, pin: false, spin: Spin::Micros(0) };
    let e = Engine::start_with(config, host.opener()).unwrap();
    let br = e.add_bridge(BridgeConfig::default());
    let vid = |v| VlanId::new(v).unwrap();
    let plain = || PortConfig::new(PortId::NONE);
    let add = || e.add_port(br, plain(), MTU).unwrap();
    let address = |n: u8| std::net::IpAddr::from([192, 0, 2, n]);
    let vni = |n| NetId::Vni(Vni::new(n).unwrap());
    let tunnel = |kind, net, remotes: &[u8]| {
        let mut endpoint = Endpoint::new(PortId::NONE, kind, net);
        endpoint.remotes = remotes.iter().map(|&n| address(n)).collect();
        endpoint.inner_mtu = 1390;
        TunnelConfig { bfd: (kind == Kind::Geneve).then(BfdOptions::default), ..TunnelConfig::new(endpoint) }
    };
    let mut mapped = tunnel(Kind::Vxlan, vni(1), &[2]);
    mapped.endpoint.nets = Nets::Map(vec![(vid(10), vni(10)), (VlanId::NONE, vni(11))]);
    let mut sequenced = tunnel(Kind::Gre, NetId::Key(GreKey(1)), &[2]);
    (sequenced.endpoint.gre_sequence, sequenced.endpoint.gre_checksum) = (true, true);
    let mut ports = Vec::new();
    for config in [
        mapped,
        sequenced,
        tunnel(Kind::Vxlan, vni(2), &[2, 3]),
        tunnel(Kind::Vxlan, vni(3), &[]),
        tunnel(Kind::Geneve, vni(4), &[3]),
        tunnel(Kind::Gre, NetId::None, &[3]),
    ] {
        let port = add();
        e.set_tunnel(port, config).unwrap();
        ports.push(port);
    }
    let mut sources = Vec::new();
    for i in 0..2 {
        let port = add();
        let ready = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        let chaos =
            Chaos { ready, random: Random(i), left: FRAMES, port: 6 + i as u8, last: Default::default() };
        let tx = Judge { caps: TxCaps::ALL, turn: AtomicU64::new(0) };
        sources.push(port);
        ports.push(port);
        e.attach_port(port, PortIo { rx: vec![Box::new(chaos)], tx: vec![Arc::new(tx)] }, false).unwrap();
    }
    // The far ends.
    let mut far = Vec::new();
    for n in [2, 3] {
        let opener = net.host(&format!("192.0.2.{n}")).opener();
        for port in [4789, 6081] {
            let options =
                UdpOptions { family: Family::V4, port, queues: 1, groups: Vec::new(), checksum6: false };
            far.extend(opener.udp(&options).unwrap().rx);
        }
        far.extend(opener.gre(Family::V4).unwrap().rx);
    }
    let (mut pool, mut batch, mut arrivals) = (Pool::new(64, 8), Batch::new(), Vec::new());
    let mut random = Random(9);
    let end = Instant::now() + Duration::from_secs(60);
    let all = |e: &Engine| sources.iter().all(|&p| e.counters(p).rx_packets == FRAMES as u64);
    let mut idle = 0;
    while (!all(&e) || idle < 3) && Instant::now() < end {
        let mut came = 0;
        for rx in &mut far {
            rx.recv(&mut pool, &mut batch, &mut arrivals, 64, &mut RecvStats::default());
            for (packet, arrival) in batch.drain(..).zip(arrivals.drain(..)) {
                // Everything that is sent back is flooded again: it must become less.
                if random.below(14) > 0 {
                    continue;
                }
                came += 1;
                let mut bytes = packet.to_vec();
                let outer = Outer { src: arrival.outer.dst, dst: arrival.outer.src, ..arrival.outer };
                let back = Arrival { outer, ..arrival };
                let at = random.below(bytes.len().clamp(1, 90));
                match random.below(8) {
                    0 => bytes.truncate(at),
                    1 | 2 if at < bytes.len() => bytes[at] = random.below(256) as u8,
                    3 => net.deliver(bytes.clone(), Arrival { gro: Some(at as u16), ..back }),
                    4 => {
                        let outer = Outer { src: address(random.below(6) as u8), ..outer };
                        net.deliver(bytes.clone(), Arrival { outer, ..back });
                    }
                    _ => {}
                }
                net.deliver(bytes, back);
            }
        }
        idle = if came == 0 { idle + 1 } else { 0 };
        std::thread::sleep(Duration::from_millis(1));
    }
    for event in e.events().try_iter() {
        assert!(!matches!(event, EngineEvent::PortFailed { .. }), "{event:?}");
    }
    assert!(all(&e));
    // Ends liveness, which would go on sending.
    let silent = TunnelConfig { bfd: None, ..tunnel(Kind::Geneve, vni(4), &[3]) };
    e.set_tunnel(ports[4], silent).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    e.update_bridge(br, BridgeConfig::default());
    assert_conserved(&e, &ports);
    let sum = |f: fn(&trunkline_engine::PortCounters) -> u64| -> u64 {
        ports.iter().map(|&p| f(&e.counters(p))).sum()
    };
    let dropped = |r: DropReason| -> u64 {
        let under = e.underlay_counters().drops[r.index()];
        under + ports.iter().map(|&p| memory::drops(&e, p, r)).sum::<u64>()
    };
    for (name, count) in [
        ("came by tunnels", ports[..6].iter().map(|&p| e.counters(p).rx_packets).sum::<u64>()),
        ("made", sum(|c| c.generated)),
        ("absorbed", sum(|c| c.absorbed)),
        ("refused", dropped(DropReason::EgressFull)),
        ("truncated", dropped(DropReason::TunnelTruncated)),
        ("unknown", dropped(DropReason::UnknownRemote)),
        ("sequence", dropped(DropReason::GreSequence)),
        ("too big", dropped(DropReason::Mtu)),
        ("unmapped", dropped(DropReason::UnmappedVlan)),
    ] {
        assert!(count > 20, "hardly anything tested: {name} {count}");
    }
}
