//! Two bridges with a gateway and hosts each, and an uplink with a router behind it that knows the world.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::{NetHeaders, PacketBuilder, PacketBuilderStep, PacketHeaders, TransportHeader};
use trunkline_engine::{BridgeId, Engine, EngineConfig, Gateway, L3Config, Route, Spin, Uplink};
use trunkline_nat::{Filtering, Prefix, Rule, RuleId, Zone};
use trunkline_packet::{MacAddr, Offload, PortId, VlanId};
use trunkline_ports::TxCaps;
use trunkline_switch::{BridgeConfig, PortConfig};

use crate::memory::Wire;

pub(crate) const UPLINK: trunkline_nat::Uplink = trunkline_nat::Uplink(7);
pub(crate) const MASQUERADE: RuleId = RuleId(1);
pub(crate) const PUBLISH: RuleId = RuleId(3);

pub(crate) fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

pub(crate) fn addr(s: &str) -> SocketAddr {
    s.parse().unwrap()
}

pub(crate) fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0x33, n])
}

/// A host on a wire, or the router outside, which is there for everybody.
pub(crate) struct Station {
    pub(crate) wire: Arc<Wire>,
    pub(crate) port: PortId,
    pub(crate) mac: MacAddr,
    /// Of the gateway or uplink that it sees.
    pub(crate) next: MacAddr,
    /// The addresses it answers ARP and solicitations for; all when empty.
    pub(crate) own: Vec<IpAddr>,
}

pub(crate) struct World {
    pub(crate) engine: Engine,
    pub(crate) bridges: [BridgeId; 2],
    pub(crate) config: L3Config,
    /// 10.77.0.9 and fd77::9, 10.77.0.8 on the first bridge; 10.78.0.9 on the second.
    pub(crate) a: Station,
    pub(crate) a2: Station,
    pub(crate) b: Station,
    pub(crate) outside: Station,
}

pub(crate) fn masquerade(zone: u16, from: &str) -> Rule {
    let (net, len) = from.split_once('/').unwrap();
    Rule::Masquerade {
        zone: Zone(zone),
        from: Prefix::new(ip(net), len.parse().unwrap()).unwrap(),
        uplink: UPLINK,
        pool: vec![ip("192.0.2.10")],
        ports: (1024, 65535),
        filtering: Filtering::AddressAndPort,
    }
}

pub(crate) fn publish(proto: u8, port: u16, to: &str) -> Rule {
    let to = addr(to);
    Rule::Publish {
        uplink: UPLINK,
        proto,
        external: ip("192.0.2.10"),
        ports: (port, port),
        zone: Zone(1),
        to: to.ip(),
        to_ports: (to.port(), to.port()),
    }
}

impl World {
    pub(crate) fn new(workers: u16) -> World {
        World::with(workers, |_| ())
    }

    /// `change`: of the configuration, before it is set.
    pub(crate) fn with(workers: u16, change: impl FnOnce(&mut L3Config)) -> World {
        let engine = Engine::start(EngineConfig { workers, pin: false, spin: Spin::Micros(0) }).unwrap();
        let bridges = [0, 1].map(|_| engine.add_bridge(BridgeConfig::default()));
        let host = |bridge, n: u8, next: u8, own: &[&str]| {
            let wire = Wire::new(TxCaps::ALL);
            let port = engine.add_port(bridge, PortConfig::new(PortId::NONE), 65535).unwrap();
            engine.attach_port(port, wire.io(), false).unwrap();
            let own = own.iter().map(|a| ip(a)).collect();
            Station { wire, port, mac: mac(n), next: mac(next), own }
        };
        let a = host(bridges[0], 9, 1, &["10.77.0.9", "fd77::9"]);
        let a2 = host(bridges[0], 8, 1, &["10.77.0.8"]);
        let b = host(bridges[1], 19, 2, &["10.78.0.9"]);
        let gateway = |zone: u16, n: u8, addresses: &[&str]| Gateway {
            port: engine
                .add_port(bridges[usize::from(zone) - 1], PortConfig::new(PortId::NONE), 1500)
                .unwrap(),
            mac: mac(n),
            addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
            mtu: 1500,
            zone: Zone(zone),
            isolated: false,
            open: true,
            dhcp: None,
            ra: None,
        };
        let gateways = vec![gateway(1, 1, &["10.77.0.1/24", "fd77::1/64"]), gateway(2, 2, &["10.78.0.1/24"])];
        let port = engine.add_l3_port(65535).unwrap();
        let wire = Wire::new(TxCaps::ALL);
        engine.attach_port(port, wire.io(), false).unwrap();
        let uplink = Uplink {
            port,
            uplink: UPLINK,
            mac: mac(3),
            addresses: vec!["192.0.2.10/24".parse().unwrap(), "2001:db8::10/64".parse().unwrap()],
            mtu: 1500,
            shared: false,
            nd_proxy: Vec::new(),
        };
        let route = |prefix: &str, via| Route {
            prefix: prefix.parse().unwrap(),
            via: Some(ip(via)),
            port,
            metric: 0,
        };
        let mut config = L3Config {
            gateways,
            uplinks: vec![uplink],
            routes: vec![route("0.0.0.0/0", "192.0.2.1"), route("::/0", "2001:db8::1")],
            nat: vec![
                (MASQUERADE, masquerade(1, "10.77.0.0/24")),
                (RuleId(2), masquerade(2, "10.78.0.0/24")),
                (PUBLISH, publish(17, 8080, "10.77.0.9:80")),
                (RuleId(4), publish(6, 8080, "10.77.0.9:80")),
            ],
            ct: trunkline_nat::Config::for_capacity(4096),
            ..L3Config::default()
        };
        change(&mut config);
        engine.set_l3(config.clone()).unwrap();
        let outside = Station { wire, port, mac: mac(30), next: mac(3), own: Vec::new() };
        World { engine, bridges, config, a, a2, b, outside }
    }

    pub(crate) fn ports(&self) -> Vec<PortId> {
        let mut all = vec![self.a.port, self.a2.port, self.b.port, self.outside.port];
        all.extend(self.config.gateways.iter().map(|g| g.port));
        all
    }

    /// `rx + generated + replicated = tx + absorbed + drops + held`, once that has settled.
    pub(crate) fn assert_conserved(&self) {
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            let (mut came, mut went) = (0, self.engine.l3_stats().held() as u64);
            for c in self.ports().iter().map(|&p| self.engine.counters(p)) {
                came += c.rx_packets + c.generated + c.replicated;
                went += c.tx_packets + c.absorbed + c.drops.iter().sum::<u64>();
            }
            if came == went {
                return;
            }
            assert!(Instant::now() < end, "{came} came, {went} went");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn drops(&self, port: PortId, reason: trunkline_packet::DropReason) -> u64 {
        self.engine.counters(port).drops[reason.index()]
    }
}

impl Station {
    fn builder(&self, src: &str, dst: &str, ttl: u8) -> PacketBuilderStep<etherparse::IpHeaders> {
        let b = PacketBuilder::ethernet2(self.mac.0, self.next.0);
        match (addr(src).ip(), addr(dst).ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => b.ipv4(s.octets(), d.octets(), ttl),
            (IpAddr::V6(s), IpAddr::V6(d)) => b.ipv6(s.octets(), d.octets(), ttl),
            _ => panic!("mixed families"),
        }
    }

    pub(crate) fn udp(&self, src: &str, dst: &str, ttl: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        let b = self.builder(src, dst, ttl).udp(addr(src).port(), addr(dst).port());
        b.write(&mut frame, payload).unwrap();
        frame
    }

    pub(crate) fn tcp(
        &self,
        src: &str,
        dst: &str,
        flags: &str,
        (seq, ack): (u32, u32),
        payload: &[u8],
    ) -> Vec<u8> {
        let mut frame = Vec::new();
        let mut b = self.builder(src, dst, 64).tcp(addr(src).port(), addr(dst).port(), seq, 65535);
        if flags.contains('S') {
            b = b.syn();
        }
        if flags.contains('A') {
            b = b.ack(ack);
        }
        if flags.contains('F') {
            b = b.fin();
        }
        b.write(&mut frame, payload).unwrap();
        frame
    }

    pub(crate) fn ping(&self, src: &str, dst: &str, id: u16) -> Vec<u8> {
        let mut frame = Vec::new();
        let b = PacketBuilder::ethernet2(self.mac.0, self.next.0);
        match (ip(src), ip(dst)) {
            (IpAddr::V4(s), IpAddr::V4(d)) => {
                b.ipv4(s.octets(), d.octets(), 64)
                    .icmpv4_echo_request(id, 1)
                    .write(&mut frame, b"ping")
                    .unwrap();
            }
            (IpAddr::V6(s), IpAddr::V6(d)) => {
                b.ipv6(s.octets(), d.octets(), 64)
                    .icmpv6_echo_request(id, 1)
                    .write(&mut frame, b"ping")
                    .unwrap();
            }
            _ => panic!("mixed families"),
        }
        frame
    }

    pub(crate) fn send(&self, frame: Vec<u8>) {
        self.wire.inject(frame);
    }

    /// The next packet that is not about addresses, with its metadata, within a while; questions for this
    /// station's addresses are answered meanwhile.
    pub(crate) fn next_with(&self, wait: Duration) -> Option<(Vec<u8>, Offload)> {
        let end = Instant::now() + wait;
        loop {
            match self.wire.tx.pop() {
                Some(frame) => {
                    let offload = self.wire.offloads.pop().unwrap();
                    if !self.about_addresses(&frame) {
                        return Some((frame, offload));
                    }
                }
                None if Instant::now() > end => return None,
                None => std::thread::sleep(Duration::from_micros(200)),
            }
        }
    }

    pub(crate) fn next(&self) -> Seen {
        let (frame, _) = self.next_with(Duration::from_secs(3)).expect("nothing came");
        Seen::new(&frame)
    }

    /// Nothing comes for a while.
    pub(crate) fn is_quiet(&self) {
        if let Some((frame, _)) = self.next_with(Duration::from_millis(80)) {
            panic!("{:?}", Seen::new(&frame));
        }
    }

    fn about_addresses(&self, frame: &[u8]) -> bool {
        if frame[12..14] == [8, 6] {
            let target = IpAddr::from(<[u8; 4]>::try_from(&frame[38..42]).unwrap());
            let sender = IpAddr::from(<[u8; 4]>::try_from(&frame[28..32]).unwrap());
            if frame[21] == 1 && target != sender && (self.own.is_empty() || self.own.contains(&target)) {
                let mut reply = [&frame[6..12], &self.mac.0, &frame[12..21], &[2], &self.mac.0].concat();
                reply.extend(&frame[38..42]);
                reply.extend(&frame[22..32]);
                self.send(reply);
            }
            return true;
        }
        // Announcements in a VLAN that this trunk carries too.
        if frame[12..14] == [0x81, 0] {
            return true;
        }
        if frame[12..14] != [0x86, 0xdd] || frame[20] != 58 || !(133..=136).contains(&frame[54]) {
            return false;
        }
        let target: [u8; 16] = frame[62..78].try_into().unwrap();
        if frame[54] == 135 && (self.own.is_empty() || self.own.contains(&IpAddr::from(target))) {
            let source: [u8; 16] = frame[22..38].try_into().unwrap();
            let mut message = vec![136, 0, 0, 0, 0x60, 0, 0, 0];
            message.extend(target);
            message.extend([2, 1]);
            message.extend(self.mac.0);
            let sum = trunkline_packet::checksum::Sum::ZERO.pseudo_v6(target.into(), source.into(), 58, 32);
            let check = sum.bytes(&message).finish().to_be_bytes();
            message[2..4].copy_from_slice(&check);
            let mut reply =
                [&frame[6..12], &self.mac.0, &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 32, 58, 255]].concat();
            reply.extend(target);
            reply.extend(source);
            reply.extend(message);
            self.send(reply);
        }
        true
    }
}

/// What somebody got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    pub(crate) macs: (MacAddr, MacAddr),
    pub(crate) src: SocketAddr,
    pub(crate) dst: SocketAddr,
    pub(crate) ttl: u8,
    /// Type and code, for ICMP.
    pub(crate) icmp: Option<(u8, u8)>,
    pub(crate) payload: Vec<u8>,
}

impl Seen {
    /// Takes a frame apart, and checks its checksums.
    pub(crate) fn new(frame: &[u8]) -> Seen {
        let parsed = PacketHeaders::from_ethernet_slice(frame).unwrap();
        let payload = parsed.payload.slice().to_vec();
        let mac = |at: usize| MacAddr(frame[at..at + 6].try_into().unwrap());
        let (src, dst, ttl, v4) = match parsed.net.as_ref().unwrap() {
            NetHeaders::Ipv4(h, _) => {
                assert_eq!(h.header_checksum, h.calc_header_checksum());
                (IpAddr::from(h.source), IpAddr::from(h.destination), h.time_to_live, Some(h.clone()))
            }
            NetHeaders::Ipv6(h, _) => (h.source.into(), h.destination.into(), h.hop_limit, None),
            other => panic!("{other:?}"),
        };
        let (mut ports, mut icmp) = ((0, 0), None);
        match (parsed.transport, v4) {
            (Some(TransportHeader::Udp(u)), v4) => {
                ports = (u.source_port, u.destination_port);
                if let Some(h) = v4 {
                    assert_eq!(u.checksum, u.calc_checksum_ipv4(&h, &payload).unwrap());
                }
            }
            (Some(TransportHeader::Tcp(t)), _) => ports = (t.source_port, t.destination_port),
            (Some(TransportHeader::Icmpv4(i)), _) => {
                assert_eq!(i.checksum, i.icmp_type.calc_checksum(&payload));
                icmp = Some((frame[34], frame[35]));
                ports = (u16::from_be_bytes([frame[38], frame[39]]), 0);
            }
            (Some(TransportHeader::Icmpv6(_)), _) => {
                icmp = Some((frame[54], frame[55]));
                ports = (u16::from_be_bytes([frame[58], frame[59]]), 0);
            }
            _ => {}
        }
        Seen {
            macs: (mac(0), mac(6)),
            src: SocketAddr::new(src, ports.0),
            dst: SocketAddr::new(dst, ports.1),
            ttl,
            icmp,
            payload,
        }
    }

    pub(crate) fn ends(&self) -> (String, String) {
        (self.src.to_string(), self.dst.to_string())
    }
}

/// Of source and destination, as [`Seen::ends`] tells them.
pub(crate) fn ends(src: &str, dst: &str) -> (String, String) {
    (src.to_string(), dst.to_string())
}

/// How often each key occurs.
pub(crate) fn tally<T: std::hash::Hash + Eq>(all: impl IntoIterator<Item = T>) -> HashMap<T, usize> {
    let mut counts = HashMap::new();
    all.into_iter().for_each(|k| *counts.entry(k).or_default() += 1);
    counts
}

/// The VLAN of access ports in these tests.
pub(crate) fn vlan10() -> VlanId {
    VlanId::new(10).unwrap()
}
