//! Whatever happens, the short way does what the long way does: the same bytes to the same ports, the same drops, the
//! same connections with the same times, the same counters, the same neighbours.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use etherparse::PacketBuilder;
use proptest::prelude::*;
use trunkline_nat::{Config, Filtering, Prefix, Rule, RuleId, Uplink};
use trunkline_packet::{Batch, Checksum, DropReason, MacAddr, Offload, Pool, PortId, VlanTag};
use trunkline_router::{Iface, IfaceId, Kind, Limits, Neighbours, Route, Tables, Zone};

use super::super::{L3, Out, Role, Ways};
use crate::counters::{PortCounters, Shards};
use crate::egress::EgressQueues;
use crate::l3::{L3View, Links};
use crate::snapshot::{Backend, PortView, Snapshot};

const GATEWAY: PortId = PortId(0);
const UPLINK: PortId = PortId(1);
const SECOND: PortId = PortId(2);

fn ip(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// What of the configuration changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Variant {
    Usual,
    NoMasquerade,
    OtherPool,
    NoPublish,
    PublishedElsewhere,
    Routed,
    OtherRouter,
    NoRoute,
    LowMtu,
    LowMtuInside,
    Strict,
    /// The host has the uplink's address, too; and leaves with another.
    Shared,
    SharedOther,
    /// The addresses of the remotes are on another gateway's network.
    Taken,
}

use Variant::*;
const VARIANTS: [Variant; 14] = [
    Usual,
    NoMasquerade,
    OtherPool,
    NoPublish,
    PublishedElsewhere,
    Routed,
    OtherRouter,
    NoRoute,
    LowMtu,
    LowMtuInside,
    Strict,
    Shared,
    SharedOther,
    Taken,
];

fn view(version: u64, v: Variant) -> L3View {
    let iface = |port: PortId, kind, n, mtu, addresses: &[&str]| Iface {
        id: IfaceId(port.0),
        kind,
        mac: mac(n),
        mtu,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        proxies: Vec::new(),
        nd_proxy: Vec::new(),
        isolated: false,
        services: Arc::default(),
    };
    let inside = |port, n, mtu, addresses: &[&str]| {
        iface(port, Kind::Gateway { zone: Zone(1), open: false }, n, mtu, addresses)
    };
    let taken = if v == Taken { "198.51.100.254/24" } else { "10.78.0.1/24" };
    let ifaces = vec![
        inside(GATEWAY, 1, if v == LowMtuInside { 1300 } else { 1500 }, &["10.77.0.1/24", "fd77::1/64"]),
        inside(SECOND, 3, 1500, &[taken]),
        iface(
            UPLINK,
            Kind::Uplink { shared: matches!(v, Shared | SharedOther) },
            2,
            if v == LowMtu { 1300 } else { 1500 },
            &["192.0.2.10/24", "2001:db8::10/64"],
        ),
    ];
    let route = |prefix: &str, via: &str| Route {
        prefix: prefix.parse().unwrap(),
        via: Some(ip(via)),
        iface: IfaceId(UPLINK.0),
        metric: 0,
    };
    let router = if v == OtherRouter { "192.0.2.2" } else { "192.0.2.1" };
    let mut routes = vec![route("0.0.0.0/0", router), route("::/0", "2001:db8::1")];
    if v == NoRoute {
        routes.clear();
    }
    let (uplink, zone) = (Uplink(7), trunkline_nat::Zone(1));
    let masquerade = |id, from: &str, len, pool| {
        let rule = Rule::Masquerade {
            zone,
            from: Prefix::new(ip(from), len).unwrap(),
            uplink,
            pool: vec![ip(pool)],
            ports: (1024, 65535),
            filtering: if v == Strict { Filtering::AddressAndPort } else { Filtering::EndpointIndependent },
        };
        (RuleId(id), rule)
    };
    let publish = |id, proto| {
        let rule = Rule::Publish {
            uplink,
            proto,
            external: ip("192.0.2.10"),
            ports: (8080, 8080),
            zone,
            to: ip(if v == PublishedElsewhere { "10.77.0.8" } else { "10.77.0.9" }),
            to_ports: (2000, 2000),
        };
        (RuleId(id), rule)
    };
    let mut rules = Vec::new();
    if !matches!(v, NoMasquerade | Routed) {
        rules.push(masquerade(
            1,
            "10.77.0.0",
            24,
            if matches!(v, OtherPool | SharedOther) { "192.0.2.11" } else { "192.0.2.10" },
        ));
    }
    if v != NoPublish {
        rules.extend([publish(2, 6), publish(3, 17)]);
    }
    L3View {
        version,
        tables: Arc::new(Tables::new(ifaces, &routes).unwrap()),
        roles: vec![Role::Gateway(zone), Role::Uplink(uplink), Role::Gateway(zone)],
        uplinks: vec![(uplink, IfaceId(UPLINK.0))],
        loopbacks: Vec::new(),
        rules,
        gateways: Vec::new(),
        ct: Config { pickup: v != Strict, ..Config::for_capacity(64) },
    }
}

/// One of the two.
struct World {
    l3: L3,
    short: bool,
    snapshot: Snapshot,
    pool: Pool,
    egress: EgressQueues,
    neighbours: Arc<Neighbours>,
    now: u64,
    taken: u64,
    _poll: mio::Poll,
}

/// What came out: the port and the bytes, and what the metadata says.
type Sent = Vec<(PortId, Vec<u8>, Offload)>;

impl World {
    fn new(short: bool) -> World {
        let poll = mio::Poll::new().unwrap();
        let waker = Arc::new(mio::Waker::new(poll.registry(), mio::Token(0)).unwrap());
        let neighbours = Arc::new(Neighbours::new(Limits { total: 64, ..Limits::default() }));
        let links = Links::new(&[waker]).remove(0);
        let l3 = L3::new((0, 1), Instant::now(), Arc::clone(&neighbours), Config::for_capacity(64), links);
        let port = || {
            Some(PortView { bridge: usize::MAX, backend: Backend::Down, mtu: 65535, shards: Shards::new(1) })
        };
        let snapshot = Snapshot { ports: vec![port(), port(), port()], ..Snapshot::default() };
        let mut egress = EgressQueues::new();
        egress.resize(3);
        let mut w = World {
            l3,
            short,
            snapshot,
            pool: Pool::new(64, 8),
            egress,
            neighbours,
            now: 1000,
            taken: 0,
            _poll: poll,
        };
        w.take_up(Usual);
        w.neighbour(0);
        w
    }

    fn take_up(&mut self, v: Variant) {
        self.taken += 1;
        self.l3.sync(&Arc::new(view(self.taken, v)));
    }

    /// The neighbours have these MAC addresses; none is there for 3.
    fn neighbour(&mut self, n: u8) {
        let at = |a: &str, m| (ip(a), mac(m + n));
        let set = |port: PortId, all: &[(IpAddr, MacAddr)]| {
            let all = if n == 3 { &[] } else { all };
            self.neighbours.set_static(self.now, IfaceId(port.0), all);
        };
        set(GATEWAY, &[at("10.77.0.9", 100), at("10.77.0.8", 110), at("fd77::9", 100)]);
        set(UPLINK, &[at("192.0.2.1", 120), at("192.0.2.2", 130), at("2001:db8::1", 120)]);
    }

    /// Carries frames, which came in by one port together.
    fn carry(&mut self, port: PortId, frames: &[(Vec<u8>, Offload, Option<VlanTag>)]) -> Sent {
        let mut batch = Batch::new();
        for (bytes, offload, vlan) in frames {
            let mut packet = self.pool.get();
            packet.set_bytes(bytes, &mut self.pool).unwrap();
            let meta = packet.meta_mut();
            (meta.in_port, meta.offload, meta.vlan) = (port, *offload, *vlan);
            batch.push(packet);
        }
        self.l3.now = self.now;
        let mut out = Out { snapshot: &self.snapshot, pool: &mut self.pool, egress: &mut self.egress };
        if self.short {
            self.l3.run_now(port, &mut batch, &mut out);
        } else {
            let at = IfaceId(port.0);
            self.l3.begin(at, batch.len(), &mut out);
            batch.drain(..).for_each(|packet| self.l3.receive(at, packet, &mut out));
            self.l3.translate(at, &mut out);
            self.l3.inject(&mut out);
        }
        self.sent()
    }

    fn tick(&mut self) -> Sent {
        self.l3.now = self.now;
        let mut out = Out { snapshot: &self.snapshot, pool: &mut self.pool, egress: &mut self.egress };
        let this = &mut self.l3;
        this.nat.tick(this.now, 1 << 20, &mut this.scratch);
        this.decided(IfaceId(GATEWAY.0), None, &mut out);
        let out = &mut out;
        with_router!(this, out, |router, now, pool, ways| router.tick(now, pool, ways));
        this.inject(out);
        self.sent()
    }

    /// Whether a packet goes the short way.
    fn shortcut(&mut self, p: &P) -> bool {
        let w = self;
        let frame = p.frame();
        let mut packet = w.pool.get();
        packet.set_bytes(&frame.0, &mut w.pool).unwrap();
        let mac = if p.out { mac(1) } else { mac(2) };
        let plain = trunkline_packet::Plain::read(mac, &packet).unwrap();
        let port = if p.out { GATEWAY } else { UPLINK };
        let from = w.l3.arrival(port).unwrap();
        w.l3.now = w.now;
        let mut out = Out { snapshot: &w.snapshot, pool: &mut w.pool, egress: &mut w.egress };
        w.l3.begin(IfaceId(port.0), 1, &mut out);
        let mut glance = w.l3.nat.glance(from, plain);
        w.l3.nat.approach(&mut glance);
        w.l3.shortcut(IfaceId(port.0), from, &glance, packet, &mut None, &mut out).is_none()
    }

    fn sent(&mut self) -> Sent {
        let mut all: Vec<_> = self.l3.inward.drain(..).collect();
        let mut batch = Batch::new();
        while let Some(port) = self.egress.take(|_| true, &mut batch) {
            all.extend(batch.drain(..).map(|packet| (port, packet)));
        }
        let all = all.into_iter().map(|(port, packet)| {
            let sent = (port, packet.to_vec(), packet.meta().offload);
            self.pool.put(packet);
            sent
        });
        all.collect()
    }

    /// Everything else that can be seen.
    fn state(&self) -> (Vec<String>, Vec<PortCounters>, Vec<String>) {
        let mut connections: Vec<String> =
            self.l3.nat.connections(self.now).map(|c| format!("{c:?}")).collect();
        connections.sort();
        let mut seen: Vec<String> = self.neighbours.list(self.now).iter().map(|n| format!("{n:?}")).collect();
        seen.sort();
        seen.extend((0..9).map(|id| format!("{:?}", self.l3.nat.counters(RuleId(id)))));
        seen.push(format!("{:?} {}", self.l3.nat.stats(), self.l3.router.held()));
        let counters = self.snapshot.ports.iter().flatten().map(|port| port.shards.sum());
        let mut counters: Vec<_> = counters.collect();
        // Fragments that waited in vain are counted where the next packet comes in, which is by chance.
        let late = DropReason::NatFragmentLost.index();
        let lost = counters.iter_mut().map(|c| std::mem::take(&mut c.drops[late])).sum::<u64>();
        seen.push(format!("{lost} late"));
        (connections, counters, seen)
    }
}

/// A packet of one of few flows.
#[derive(Clone, Copy, Debug)]
struct P {
    out: bool,
    v6: bool,
    tcp: bool,
    /// Host inside, remote, and the port that is used inside and outside.
    host: u8,
    remote: u8,
    port: u16,
    flags: u8,
    seq: u32,
    ack: u32,
    len: usize,
    /// What is odd about it; mostly nothing.
    odd: u8,
}

fn packet() -> impl Strategy<Value = P> {
    let flags = prop_oneof![8 => Just(16u8), 1 => Just(2), 1 => Just(18), 1 => Just(17), 1 => Just(4), 1 => any::<u8>()];
    let port = prop_oneof![3 => Just(2000u16), 1 => Just(2001)];
    let len = prop_oneof![6 => 0usize..40, 1 => Just(1290usize), 1 => Just(1440usize)];
    let odd = prop_oneof![12 => Just(0u8), 4 => 0u8..20];
    let who = (any::<bool>(), prop::bool::weighted(0.2), any::<bool>(), 0u8..2, 0u8..2, port);
    (who, flags, 0u32..60, 0u32..60, len, odd).prop_map(
        |((out, v6, tcp, host, remote, port), flags, seq, ack, len, odd)| P {
            out,
            v6,
            tcp,
            host,
            remote,
            port,
            flags,
            seq,
            ack,
            len,
            odd,
        },
    )
}

impl P {
    fn frame(&self) -> (Vec<u8>, Offload, Option<VlanTag>) {
        let mut ends = if self.v6 {
            [
                (ip(&format!("fd77::{}", 9 - self.host)), self.port),
                (ip(&format!("2001:db8:1::{}", 1 + self.remote)), 53),
            ]
        } else {
            // From outside: to a mapping, or to the published port.
            let near = match (self.out, self.host) {
                (true, host) => (ip(&format!("10.77.0.{}", 9 - host)), self.port),
                (false, 0) => (ip("192.0.2.10"), self.port),
                (false, _) => (ip("192.0.2.10"), 8080),
            };
            [near, (ip(&format!("198.51.100.{}", 1 + self.remote)), 53)]
        };
        if !self.out {
            ends.reverse();
        }
        let to = if self.out { mac(1) } else { mac(2) };
        let ttl = match self.odd {
            1 => 1,
            2 => 2,
            _ => 64,
        };
        let b = PacketBuilder::ethernet2(mac(99).0, to.0);
        let b = match (ends[0].0, ends[1].0) {
            (IpAddr::V4(s), IpAddr::V4(d)) => b.ipv4(s.octets(), d.octets(), ttl),
            (IpAddr::V6(s), IpAddr::V6(d)) => b.ipv6(s.octets(), d.octets(), ttl),
            _ => unreachable!("of one family"),
        };
        let (mut f, payload) = (Vec::new(), vec![7; self.len]);
        let (from, to) = (ends[0].1, ends[1].1);
        if self.tcp {
            let mut h = etherparse::TcpHeader::new(from, to, 1000 + self.seq, 4000);
            h.acknowledgment_number = 1000 + self.ack;
            let has = |bit: u8| self.flags & bit != 0;
            (h.fin, h.syn, h.rst, h.psh, h.ack, h.urg) = (has(1), has(2), has(4), has(8), has(16), has(32));
            b.tcp_header(h).write(&mut f, &payload).unwrap();
        } else {
            b.udp(from, to).write(&mut f, &payload).unwrap();
        }
        let l4 = if self.v6 { 54 } else { 34 };
        let (mut offload, mut vlan, v4) = (Offload::NONE, None, !self.v6);
        match self.odd {
            3 => offload.csum = Checksum::Partial { start: l4 as u16, offset: if self.tcp { 16 } else { 6 } },
            4 => offload.csum = Checksum::Partial { start: l4 as u16, offset: 0 },
            5 => f.extend([0; 7]),
            6 => f.truncate(f.len() - 1),
            7 if v4 => f[20] ^= 0x40,
            8 if v4 => f[20] |= 0x20,
            9 if v4 => f[21] = 3,
            10 if v4 => f[24] ^= 1,
            11 if !self.tcp => f[l4 + 6..l4 + 8].fill(0),
            12 => vlan = Some(VlanTag { tpid: trunkline_packet::Tpid::Customer, tci: 5 }),
            13 => f[5] ^= 1,
            14 => f[..6].fill(0xff),
            15 if v4 => f[26] = 127,
            16 if v4 => f.copy_within(26..30, 30),
            17 if self.tcp => f[l4 + 12] = 0xf0,
            18 if v4 => f[17] = 27,
            19 => f[12..14].copy_from_slice(&[0x81, 0]),
            _ => {}
        }
        if v4 && self.odd != 10 {
            f[24..26].fill(0);
            let sum = trunkline_packet::checksum::Sum::ZERO.bytes(&f[14..34]).finish();
            f[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        (f, offload, vlan)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Carry(bool, Vec<P>),
    /// A whole handshake.
    Open(P),
    Wait(u64),
    TakeUp(usize),
    Flush,
    Neighbour(u8),
    Tick,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (any::<bool>(), prop::collection::vec(packet(), 1..12)).prop_map(|(out, p)| Step::Carry(out, p)),
        4 => packet().prop_map(Step::Open),
        2 => prop_oneof![0u64..2000, 0u64..400_000, Just(8_000_000)].prop_map(Step::Wait),
        2 => (0..VARIANTS.len()).prop_map(Step::TakeUp),
        1 => Just(Step::Flush),
        1 => (0u8..4).prop_map(Step::Neighbour),
        2 => Just(Step::Tick),
    ]
}

fn apply(w: &mut World, step: &Step) -> Sent {
    let port = |out| if out { GATEWAY } else { UPLINK };
    match step {
        Step::Carry(out, packets) => {
            let frames: Vec<_> = packets.iter().map(|p| P { out: *out, ..*p }.frame()).collect();
            w.carry(port(*out), &frames)
        }
        Step::Open(p) => {
            let p = P { tcp: true, odd: 0, len: 0, ..*p };
            let there = P { flags: 2, seq: 0, ack: 0, ..p };
            let back = P { flags: 18, seq: 0, ack: 1, out: !p.out, ..p };
            let open = P { flags: 16, seq: 1, ack: 1, ..p };
            let all = [there, back, open].map(|p| w.carry(port(p.out), &[p.frame()]));
            all.concat()
        }
        Step::Wait(ms) => {
            w.now += ms;
            Vec::new()
        }
        Step::TakeUp(v) => {
            w.take_up(VARIANTS[*v]);
            Vec::new()
        }
        Step::Flush => {
            w.l3.nat.flush(w.now, |_| true);
            Vec::new()
        }
        Step::Neighbour(n) => {
            w.neighbour(*n);
            Vec::new()
        }
        Step::Tick => w.tick(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, max_shrink_iters: 300, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_short_way_does_what_the_long_way_does(steps in prop::collection::vec(step(), 1..60)) {
        let (mut short, mut long) = (World::new(true), World::new(false));
        for step in steps.iter().chain([&Step::Tick]) {
            let (mut a, mut b) = (apply(&mut short, step), apply(&mut long, step));
            // In one batch, packets of different ways may overtake each other; those of one flow may not.
            a.sort_by_key(flow_of);
            b.sort_by_key(flow_of);
            prop_assert_eq!(a, b, "{:?}", step);
            // What has expired is removed in passing, a little at a time; then it is gone.
            if matches!(step, Step::Tick) {
                prop_assert_eq!(short.state(), long.state(), "{:?}", step);
            }
        }
    }
}

/// The port, and who talks to whom.
fn flow_of(sent: &(PortId, Vec<u8>, Offload)) -> (u16, Vec<u8>, Option<Vec<u8>>) {
    let (port, bytes, _) = sent;
    let v4 = bytes[12..14] == [8, 0];
    let (protocol, l4) = if v4 { (23, 34) } else { (20, 54) };
    let tracked = bytes.get(protocol).is_some_and(|p| [6, 17].contains(p));
    let addresses = if v4 { bytes[26..34].to_vec() } else { bytes.get(22..54).unwrap_or_default().to_vec() };
    // Errors are of no flow: by what they say.
    (port.0, addresses, Some(if tracked { bytes[l4..l4 + 4].to_vec() } else { bytes.clone() }))
}

/// How much of what is sent in a test goes the short way: otherwise it would compare the long one with itself.
#[test]
fn known_connections_go_the_short_way() {
    for v6 in [false, true] {
        for tcp in [false, true] {
            let mut w = World::new(true);
            let p = P {
                out: true,
                v6,
                tcp,
                host: 0,
                remote: 0,
                port: 2000,
                flags: 16,
                seq: 1,
                ack: 1,
                len: 9,
                odd: 0,
            };
            if tcp {
                apply(&mut w, &Step::Open(p));
            } else {
                apply(&mut w, &Step::Carry(true, vec![p]));
            }
            for out in [true, false] {
                assert!(w.shortcut(&P { out, ..p }), "{v6} {tcp} {out}");
                let sent = w.sent();
                assert_eq!((sent.len(), sent[0].0), (1, if out { UPLINK } else { GATEWAY }));
            }
        }
    }
}

/// The same of those that begin: of UDP and SYNs from inside, and to a published port; of nothing else.
#[test]
fn new_connections_begin_the_short_way() {
    const SYN: u8 = 2;
    let new = |out, v6, tcp, host, flags| P {
        out,
        v6,
        tcp,
        host,
        remote: 0,
        port: 2000,
        flags,
        seq: 1,
        ack: 1,
        len: 0,
        odd: 0,
    };
    for (p, short) in [
        (new(true, false, false, 0, 0), true),
        (new(true, false, true, 0, SYN), true),
        (new(true, true, false, 0, 0), true),
        (new(true, true, true, 0, SYN), true),
        (new(false, false, true, 1, SYN), true),
        // Taken up in the middle; not published.
        (new(true, false, true, 0, 16), false),
        (new(false, false, true, 0, SYN), false),
        (new(false, true, true, 0, SYN), false),
    ] {
        let mut w = World::new(true);
        assert_eq!(w.shortcut(&p), short, "{p:?}");
        assert_eq!(
            (w.sent().len(), w.l3.nat.stats().connections),
            (usize::from(short), usize::from(short)),
            "{p:?}"
        );
    }
}
