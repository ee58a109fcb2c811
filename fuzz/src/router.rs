//! Any frames to a router with two gateways, an uplink and a shared uplink, translation left out.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use trunkline_packet::{DropReason, MacAddr, Packet, Pool, pop_tag};
use trunkline_router::{
    Iface, IfaceId, Kind, Limits, Neighbours, Received, Route, Router, Services, Sink, Tables, Zone, dhcp, ra,
};

use crate::input::{Input, fix_ipv4_checksum};

/// Where the frames of the corpora are addressed to.
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const IFACES: u16 = 4;

#[derive(Default)]
struct Out {
    /// Forwarded, consumed and dropped.
    ended: usize,
    injected: Vec<(IfaceId, Packet)>,
}

impl Sink for Out {
    fn send(&mut self, iface: IfaceId, packet: Packet, made: bool) {
        assert!(iface.0 < IFACES && packet.len() >= 14);
        assert_eq!(packet.head()[6..12], MAC.0, "from our own station");
        assert!(packet.meta().offload.check(packet.len()).is_ok());
        self.ended += usize::from(!made);
    }
    fn inject(&mut self, iface: IfaceId, packet: Packet) {
        self.injected.push((iface, packet));
    }
    fn consumed(&mut self, _: IfaceId, _: usize) {
        self.ended += 1;
    }
    fn dropped(&mut self, _: IfaceId, _: DropReason) {
        self.ended += 1;
    }
    fn resolved(&mut self) {}
}

fn tables() -> Option<Tables> {
    let services = Services {
        dhcp: Some(Mutex::new(dhcp::Server::new(dhcp::Config::new((
            [10, 0, 0, 100].into(),
            [10, 0, 0, 107].into(),
        ))))),
        ra: Some(Mutex::new(ra::Advertiser::new(ra::Config::default()))),
    };
    let iface = |id, kind, addresses: [&str; 2]| {
        Some(Iface {
            id: IfaceId(id),
            kind,
            mac: MAC,
            mtu: 1280,
            addresses: addresses.iter().map(|a| a.parse().ok()).collect::<Option<_>>()?,
            proxies: Vec::new(),
            nd_proxy: Vec::new(),
            isolated: false,
            services: Arc::default(),
        })
    };
    let gateway = |zone| Kind::Gateway { zone: Zone(zone), open: true };
    let uplink = |shared| Kind::Uplink { shared };
    let ifaces = vec![
        Iface { services: Arc::new(services), ..iface(0, gateway(0), ["10.0.0.254/24", "fd00::fe/64"])? },
        iface(1, gateway(1), ["10.0.1.254/24", "fd01::fe/64"])?,
        iface(2, uplink(false), ["192.0.2.10/24", "2001:db8::10/64"])?,
        iface(3, uplink(true), ["203.0.113.10/24", "2001:db8:1::10/64"])?,
    ];
    let via: IpAddr = "192.0.2.1".parse().ok()?;
    let route = Route { prefix: "0.0.0.0/0".parse().ok()?, via: Some(via), iface: IfaceId(2), metric: 0 };
    Tables::new(ifaces, &[route]).ok()
}

/// The input is a list of interface, way, time, and frame with its virtio header.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let mut pool = Pool::new(64, 4);
    let limits = Limits { total: 16, per_iface: 12, unresolved: 6 };
    let neighbours = Arc::new(Neighbours::new(limits));
    let mut router = Router::new(Arc::clone(&neighbours), true);
    let Some(tables) = tables() else { panic!("the tables are fine") };
    router.set_tables(0, Arc::new(tables));
    let mut out = Out::default();
    let (mut now, mut came) = (0, 0);
    while !input.is_empty() {
        let at = IfaceId(u16::from(input.u8()) % IFACES);
        let way = input.u8();
        now += u64::from(input.u8()).pow(2);
        if let Some(mut packet) = input.frame(&mut pool)
            && pop_tag(&mut packet).is_ok()
        {
            if way & 0x80 != 0 {
                fix_ipv4_checksum(&mut packet);
            }
            came += 1;
            let received = router.receive(now, at, packet, &mut pool, &mut out);
            go_on(&mut router, now, at, received, way, &mut pool, &mut out);
        }
        router.tick(now, &mut pool, &mut out);
        while let Some((at, packet)) = out.injected.pop() {
            came += 1;
            let received = router.reroute(now, at, packet, &mut pool, &mut out);
            go_on(&mut router, now, at, received, way, &mut pool, &mut out);
        }
        assert_eq!(came, out.ended + router.held(), "every packet ends in one place");
        assert!(neighbours.list(now).len() <= 64);
    }
}

/// What the engine would do, with a translation that changes nothing.
fn go_on(
    router: &mut Router,
    now: u64,
    at: IfaceId,
    received: Received,
    way: u8,
    pool: &mut Pool,
    out: &mut Out,
) {
    match received {
        Received::Done => {}
        Received::Local(p) => router.local(now, at, p, pool, out),
        Received::Answer(p) if way & 1 == 0 => router.local(now, at, p, pool, out),
        Received::Answer(p) => router.client(now, IfaceId(2), p, pool, out),
        Received::Forward(p, hop) if way & 2 == 0 => router.transmit(now, hop, p, pool, out),
        Received::Forward(p, hop) => router.outside(now, IfaceId(2 + hop.iface.0 % 2), p, pool, out),
        Received::Inbound(p) if way & 4 == 0 => {
            router.inside(now, Zone(u16::from(way >> 3 & 1)), p, pool, out)
        }
        Received::Inbound(p) => router.unsolicited(now, at, p, DropReason::NatUnsolicited, pool, out),
    }
}
