//! Messages to the DHCP server.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use trunkline_packet::MacAddr;
use trunkline_router::dhcp::{Config, LeaseState, Reservation, Server};
use trunkline_router::service::Datagram;
use trunkline_router::{Iface, IfaceId, Kind, Services, Zone};

use crate::input::Input;

/// The input is a list of time, length and message.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let host = |last| Ipv4Addr::new(10, 0, 0, last);
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let config = Config {
        reservations: vec![Reservation { mac, address: host(104) }],
        domain: Some("example.org".to_owned()),
        ..Config::new((host(100), host(107)))
    };
    let mut server = Server::new(config.clone());
    let Ok(net) = "10.0.0.1/24".parse() else { return };
    let iface = Iface {
        id: IfaceId(0),
        kind: Kind::Gateway { zone: Zone(0), open: false },
        mac,
        mtu: 1500,
        addresses: vec![net],
        proxies: Vec::new(),
        nd_proxy: Vec::new(),
        isolated: false,
        services: Arc::new(Services::default()),
    };
    let mut now = 0;
    while !input.is_empty() {
        now += u64::from(input.u8()).pow(3);
        let len = usize::from(input.u16());
        let payload = input.bytes(len);
        let src_mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let (src, dst) = (Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST);
        let answer = server.handle(now, &iface, &Datagram { src_mac, src, dst, src_port: 68, payload });
        if let Some(answer) = answer {
            assert!((300..=548).contains(&answer.payload.len()));
            assert_eq!(answer.payload[..4], [2, 1, 6, 0]);
            let given = Ipv4Addr::from([16, 17, 18, 19].map(|i| answer.payload[i]));
            assert!(given.is_unspecified() || (host(100)..=host(107)).contains(&given));
        }
        let leases = server.leases(now);
        assert!(leases.len() <= 8);
        let clients: HashSet<_> = leases.iter().map(|l| &l.client).filter(|c| !c.is_empty()).collect();
        assert_eq!(clients.len(), leases.iter().filter(|l| !l.client.is_empty()).count());
        let mut again = Server::new(config.clone());
        again.import(now, &leases);
        let kept = |l: &&_| matches!(l, trunkline_router::dhcp::Lease { state: LeaseState::Bound, .. });
        assert!(again.leases(now).iter().filter(kept).eq(leases.iter().filter(kept)));
    }
}
