//! Any packets on any paths through the translation, on several workers, while rules change.

use std::collections::HashSet;
use std::net::IpAddr;

use etherparse::{NetHeaders, PacketHeaders, PayloadSlice, TransportHeader};
use trunkline_nat::{
    Config, DropReason, Filtering, Gateway, Nat, Path, Prefix, Rule, RuleId, Sink, Toward, Uplink, Zone,
};
use trunkline_packet::headers::{Fragment, Headers, proto};
use trunkline_packet::icmp::{self, Problem};
use trunkline_packet::{Checksum, Packet, Pool, checksum};

use crate::input::{Input, fix_ipv4_checksum};

const ZONES: [Zone; 2] = [Zone(1), Zone(2)];
const UP: Uplink = Uplink(1);

/// The input is settings (workers, switches, filtering), then a list of path, time, and frame with its virtio
/// header; a path above 31 changes the rules or flushes instead.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.u8();
    let mut world = World::new(u16::from(flags & 3) + 1, flags);
    while !input.is_empty() {
        let (path, time) = (input.u8(), input.u8());
        world.now += u64::from(time) * u64::from(time) * 8;
        match path {
            0..32 => {}
            32..48 => {
                world.set_rules(path & 7);
                continue;
            }
            48..52 => {
                let (now, port) = (world.now, u16::from(time));
                world.workers.iter_mut().for_each(|nat| {
                    nat.flush(now, |c| c.remote.port & 0xff == port);
                });
                continue;
            }
            _ => {
                world.tick();
                continue;
            }
        }
        let Some(mut packet) = input.frame(&mut world.pool) else { continue };
        if path & 16 == 0 {
            fix_ipv4_checksum(&mut packet);
        }
        let zone = ZONES[usize::from(path & 1)];
        let path = match path >> 1 & 7 {
            0..3 => Path::Out(zone, UP),
            3..6 => Path::In(UP),
            6 => Path::Local(UP),
            _ => Path::Answer(zone),
        };
        world.send(path, packet);
    }
    world.check_entries();
}

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap_or(IpAddr::from([0; 4]))
}

fn prefix(s: &str, len: u8) -> Option<Prefix> {
    Prefix::new(ip(s), len)
}

/// Masquerades of both families, published ports, hosts one to one; `without` leaves one of them out.
fn rules(filtering: Filtering, without: u8) -> Vec<(RuleId, Rule)> {
    let [a, b] = ZONES;
    let masquerade = |zone, from: Option<Prefix>, pool: &str, ports| {
        from.map(|from| Rule::Masquerade { zone, from, uplink: UP, pool: vec![ip(pool)], ports, filtering })
    };
    let publish = |proto, external: &str, ports, zone, to: &str, to_ports| {
        Some(Rule::Publish { uplink: UP, proto, external: ip(external), ports, zone, to: ip(to), to_ports })
    };
    let all = [
        masquerade(a, prefix("10.0.0.0", 24), "192.0.2.10", (1024, 65535)),
        masquerade(a, prefix("fd00::", 64), "2001:db8::10", (1024, 1040)),
        masquerade(b, prefix("10.0.0.0", 24), "192.0.2.10", (2000, 2008)),
        publish(proto::TCP, "192.0.2.10", (5000, 5010), a, "10.0.0.2", (80, 90)),
        publish(proto::UDP, "192.0.2.10", (5000, 5000), b, "10.0.0.2", (5000, 5000)),
        publish(proto::UDP, "2001:db8::10", (5000, 5000), a, "fd00::2", (5000, 5000)),
        Some(Rule::Static { zone: a, inside: ip("10.0.0.5"), uplink: UP, external: ip("192.0.2.50") }),
    ];
    let all = all.into_iter().enumerate().filter(|(i, _)| *i != usize::from(without));
    all.filter_map(|(i, rule)| Some((RuleId(i as u32), rule?))).collect()
}

struct World {
    workers: Vec<Nat>,
    pool: Pool,
    now: u64,
    filtering: Filtering,
    /// Not let go yet.
    held: usize,
}

/// What came out.
#[derive(Default)]
struct Out {
    sent: Vec<(Packet, Toward)>,
    dropped: Vec<(Packet, DropReason)>,
}

impl Sink for Out {
    fn forward(&mut self, packet: Packet, toward: Toward) {
        self.sent.push((packet, toward));
    }
    fn drop(&mut self, packet: Packet, reason: DropReason) {
        self.dropped.push((packet, reason));
    }
}

/// Whether the IP header's checksum and the transport's are right, as etherparse computes them. `None` for what
/// it does not judge.
fn judge(frame: &[u8]) -> Option<(bool, Option<bool>)> {
    let p = PacketHeaders::from_ethernet_slice(frame).ok()?;
    let header = match &p.net {
        Some(NetHeaders::Ipv4(h, _)) => h.header_checksum == h.calc_header_checksum(),
        _ => true,
    };
    let whole = matches!(
        &p.payload,
        PayloadSlice::Udp(_) | PayloadSlice::Tcp(_) | PayloadSlice::Icmpv4(_) | PayloadSlice::Icmpv6(_)
    );
    let Some(transport) = p.transport.filter(|_| whole) else { return Some((header, None)) };
    if matches!(&transport, TransportHeader::Udp(u) if u.checksum == 0) {
        return Some((header, None));
    }
    let mut fresh = transport.clone();
    let done = match &p.net {
        Some(NetHeaders::Ipv4(h, _)) => fresh.update_checksum_ipv4(h, p.payload.slice()).is_ok(),
        Some(NetHeaders::Ipv6(h, _)) => fresh.update_checksum_ipv6(h, p.payload.slice()).is_ok(),
        _ => false,
    };
    // Zero has two forms.
    let sum = |t: &TransportHeader| match t {
        TransportHeader::Udp(h) => h.checksum % 0xffff,
        TransportHeader::Tcp(h) => h.checksum % 0xffff,
        TransportHeader::Icmpv4(h) => h.checksum % 0xffff,
        TransportHeader::Icmpv6(h) => h.checksum % 0xffff,
        _ => 0,
    };
    Some((header, done.then(|| sum(&fresh) == sum(&transport))))
}

impl World {
    fn new(count: u16, flags: u8) -> World {
        let filtering = match flags >> 6 {
            0 => Filtering::EndpointIndependent,
            1 => Filtering::Address,
            _ => Filtering::AddressAndPort,
        };
        let config = |i| Config {
            shard: (i, count),
            liberal: flags & 4 != 0,
            pickup: flags & 8 != 0,
            strict_eim: flags & 16 != 0,
            route: flags & 32 == 0,
            ..Config::for_capacity(48)
        };
        let mut world = World {
            workers: (0..count).map(|i| Nat::new(config(i))).collect(),
            pool: Pool::new(64, 8),
            now: 1000,
            filtering,
            held: 0,
        };
        world.set_rules(7);
        world.workers.iter_mut().for_each(|nat| nat.set_hosts(&[UP]));
        world
    }

    fn set_rules(&mut self, without: u8) {
        let rules = rules(self.filtering, without);
        let gateway =
            |zone, addr: &str, len| Some(Gateway { zone, addr: ip(addr), network: prefix(addr, len)? });
        let [a, b] = ZONES;
        let all = [gateway(a, "10.0.0.1", 24), gateway(b, "10.0.0.254", 24), gateway(a, "fd00::1", 64)];
        let gateways: Vec<Gateway> = all.into_iter().flatten().collect();
        for nat in &mut self.workers {
            assert_eq!(nat.set_rules(&rules, &gateways), Ok(()));
        }
    }

    fn tick(&mut self) {
        let mut out = Out::default();
        for nat in &mut self.workers {
            nat.tick(self.now, 64, &mut out);
        }
        assert!(out.sent.is_empty());
        self.count(0, &out);
    }

    /// Every packet that went in came out, or is held.
    fn count(&mut self, came: usize, out: &Out) {
        let held: usize = self.workers.iter().map(|nat| nat.stats().held).sum();
        assert_eq!(
            self.held + came,
            out.sent.len() + out.dropped.len() + held,
            "every packet ends in one place"
        );
        self.held = held;
    }

    /// Through the owner and whom it names.
    fn pass(&mut self, path: Path, packet: Packet) -> Out {
        let owner = self.workers[0].owner(path, &packet).unwrap_or(0);
        assert!(self.workers.iter().all(|nat| nat.owner(path, &packet).unwrap_or(0) == owner));
        let (mut out, mut crossing) = (Out::default(), vec![(owner, path, packet)]);
        while let Some((worker, path, packet)) = crossing.pop() {
            let mut step = Out::default();
            self.workers[usize::from(worker)].process(self.now, path, packet, &mut step);
            out.dropped.append(&mut step.dropped);
            for (packet, toward) in step.sent.into_iter().rev() {
                match toward {
                    Toward::Worker(to, path) => {
                        assert_ne!(to, worker);
                        crossing.push((to, path, packet));
                    }
                    toward => out.sent.push((packet, toward)),
                }
            }
        }
        self.count(1, &out);
        out
    }

    fn send(&mut self, path: Path, packet: Packet) {
        let before = self.finished(&packet);
        let out = self.pass(path, packet);
        for (packet, toward) in &out.sent {
            let Some(after) = self.finished(packet) else { continue };
            // Several come out only when fragments were waiting.
            let whole = Headers::of_frame(after.head()).is_some_and(|ip| ip.fragment == Fragment::None);
            let Some(before) = before.as_ref().filter(|_| out.sent.len() == 1 && whole) else { continue };
            assert_eq!(before.len(), after.len());
            if let (Some(was), Some(is)) = (judge(&before.to_vec()), judge(&after.to_vec())) {
                assert!(!was.0 || is.0, "IPv4 header checksum");
                assert!(was.1 != Some(true) || is.1 == Some(true), "transport checksum");
                if was.0 {
                    self.undo(path, *toward, before, &after);
                }
            }
        }
    }

    /// A copy with its checksum finished. `None` for superframes and what cannot be finished.
    fn finished(&mut self, packet: &Packet) -> Option<Packet> {
        let ip = Headers::of_frame(packet.head())?;
        // What is left to be finished must be the transport's own checksum: elsewhere it is data, which changes.
        if let Checksum::Partial { start, offset } = packet.meta().offload.csum
            && (start, offset) != (ip.l4, check_offset(ip.proto) as u16)
        {
            return None;
        }
        let mut copy = self.pool.duplicate(packet);
        if packet.meta().offload.is_gso() || checksum::complete(&mut copy).is_err() {
            return None;
        }
        Some(copy)
    }

    /// An error about a translated packet brings back the packet as it was sent: the reverse undoes the translation.
    fn undo(&mut self, path: Path, toward: Toward, before: &Packet, after: &Packet) {
        let Some(ip_after) = Headers::of_frame(after.head()) else { return };
        if !icmp::may_answer(after.head(), &ip_after) {
            return;
        }
        let v4 = after.head().get(12..14) == Some(&[8, 0]);
        let back = match toward {
            // A hairpinned packet passed two entries: the error undoes one at a time.
            Toward::Inside(_) if matches!(path, Path::Out(..)) => return,
            Toward::Inside(zone) if matches!(path, Path::Local(_)) => Path::Answer(zone),
            Toward::Inside(zone) => Path::Out(zone, UP),
            Toward::Outside(uplink) => Path::In(uplink),
            Toward::Client(uplink) | Toward::Host(uplink) => Path::Local(uplink),
            Toward::Worker(..) => return,
        };
        let router = if v4 { ip("198.51.100.254") } else { ip("2001:db8:ffff::1") };
        let Ok(error) = icmp::error(after, &ip_after, Problem::HopLimit, router, &mut self.pool) else {
            return;
        };
        let connections = self.connections();
        let mut out = self.pass(back, error);
        assert_eq!(self.connections(), connections);
        let Some((error, _)) = out.sent.pop() else {
            panic!(
                "{path:?} {toward:?}: an error about a packet just forwarded is dropped: {:?} {:02x?} {:02x?}",
                out.dropped[0].1,
                before.to_vec(),
                after.to_vec()
            )
        };
        assert_eq!(judge(&error.to_vec()).map(|j| j.0), Some(true));
        let Some(ip_error) = Headers::of_frame(error.head()) else { panic!("an error is a packet") };
        assert!(icmp::checksum_ok(&error, &ip_error));
        let quoted = &error.to_vec()[usize::from(ip_error.l4) + 8..];
        let original = &before.to_vec()[14..];
        let len = quoted.len().min(original.len());
        assert!(
            same(&quoted[..len], &original[..len], usize::from(ip_after.l4) - 14, ip_after.proto),
            "undone: {path:?} {toward:?}\n{:02x?}\n{:02x?}",
            &quoted[..len],
            &original[..len]
        );
    }

    fn connections(&self) -> usize {
        self.workers.iter().map(|nat| nat.connections(self.now).count()).sum()
    }

    /// No two connections are one on either side.
    fn check_entries(&self) {
        let (mut inside, mut outside) = (HashSet::new(), HashSet::new());
        for (i, nat) in self.workers.iter().enumerate() {
            assert!(nat.connections(self.now).count() <= 48);
            for c in nat.connections(self.now) {
                assert!(inside.insert((c.zone, c.proto, c.local, c.shown)), "{i}: {c:?}");
                assert!(outside.insert((c.uplink, c.proto, c.external, c.remote)), "{i}: {c:?}");
            }
        }
    }
}

/// Equal, but for the two forms that zero has in the transport checksum.
fn same(a: &[u8], b: &[u8], l4: usize, protocol: u8) -> bool {
    let at = l4 + check_offset(protocol);
    let word = |p: &[u8]| p.get(at..at + 2).map(|w| u16::from_be_bytes([w[0], w[1]]) % 0xffff);
    let rest = |p: &[u8]| {
        p.iter().enumerate().filter(|(i, _)| !(at..at + 2).contains(i)).map(|(_, b)| *b).collect::<Vec<u8>>()
    };
    word(a) == word(b) && rest(a) == rest(b)
}

/// Where the checksum is in a transport header.
fn check_offset(protocol: u8) -> usize {
    match protocol {
        proto::TCP => 16,
        proto::UDP => 6,
        _ => 2,
    }
}
