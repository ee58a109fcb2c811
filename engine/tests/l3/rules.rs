//! Changes while traffic flows.

use trunkline_engine::{L3Config, L3Error};
use trunkline_nat::{ConnFilter, RuleError, RuleId};
use trunkline_packet::{DropReason, PortId};
use trunkline_router::TableError;
use trunkline_switch::PortConfig;

use crate::kit::*;

#[test]
fn entries_of_unchanged_rules_stay_and_others_go() {
    let mut w = World::new(2);
    w.a.send(w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 64, b"query"));
    w.outside.next();
    w.outside.send(w.outside.udp("198.51.100.7:555", "192.0.2.10:8080", 64, b"request"));
    w.a.next();
    assert_eq!(w.engine.connections(ConnFilter::default()).len(), 2);
    let counters = w.engine.nat_counters();
    assert_eq!(counters.iter().map(|c| c.0).collect::<Vec<_>>(), [MASQUERADE, RuleId(2), PUBLISH, RuleId(4)]);
    assert_eq!((counters[0].1.flows, counters[2].1.flows), (1, 1));
    // The published host changes: its flow ends, the other goes on, counted further.
    w.config.nat.retain(|(id, _)| *id != PUBLISH);
    w.config.nat.push((RuleId(9), publish(17, 8080, "10.77.0.8:80")));
    w.engine.set_l3(w.config.clone()).unwrap();
    w.outside.send(w.outside.udp("198.51.100.7:555", "192.0.2.10:8080", 64, b"request"));
    assert_eq!(w.a2.next().ends(), ends("198.51.100.7:555", "10.77.0.8:80"));
    w.outside.send(w.outside.udp("198.51.100.1:53", "192.0.2.10:4000", 64, b"answer"));
    assert_eq!(w.a.next().payload, b"answer");
    assert_eq!(w.engine.nat_counters()[0].1.packets, 2);
    w.a.is_quiet();
    // Flushed: the answer finds nobody any more.
    let filter = ConnFilter { rule: Some(MASQUERADE), ..ConnFilter::default() };
    assert_eq!(w.engine.flush_connections(filter), 1);
    w.outside.send(w.outside.udp("198.51.100.1:53", "192.0.2.10:4000", 64, b"answer"));
    w.a.is_quiet();
    assert_eq!(w.engine.l3_stats().nat.connections, 1);
    w.assert_conserved();
}

#[test]
fn what_cannot_be_is_refused_and_nothing_changes() {
    let w = World::new(1);
    let refused = |change: &dyn Fn(&mut L3Config)| {
        let mut config = w.config.clone();
        config.uplinks[0].mtu = 1300;
        change(&mut config);
        let error = w.engine.set_l3(config).unwrap_err();
        assert!(!error.to_string().contains('\n'));
        error
    };
    let up = w.outside.port;
    assert_eq!(refused(&|c| c.gateways[0].port = up), L3Error::NotGateway(up));
    assert_eq!(
        refused(&|c| c.gateways[0].port = w.a.port),
        L3Error::NotGateway(w.a.port),
        "it has descriptors"
    );
    assert_eq!(refused(&|c| c.uplinks[0].port = w.a.port), L3Error::NotUplink(w.a.port));
    assert_eq!(refused(&|c| c.gateways[0].port = PortId(999)), L3Error::NotGateway(PortId(999)));
    assert_eq!(
        refused(&|c| c.gateways[1].addresses = c.uplinks[0].addresses.clone()),
        L3Error::Table(TableError::SameAddress(ip("192.0.2.10")))
    );
    let twice = publish(17, 8080, "10.77.0.8:80");
    let error = refused(&|c| c.nat.push((RuleId(9), twice.clone())));
    assert!(matches!(error, L3Error::Rule(RuleId(9), RuleError::Conflict(PUBLISH))), "{error:?}");
    // As before.
    w.a.send(w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 64, &[0; 1400]));
    assert_eq!(w.outside.next().payload.len(), 1400);
}

#[test]
fn ports_and_everything_may_go_and_come() {
    let mut w = World::new(2);
    w.a.send(w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 64, b"query"));
    w.outside.next();
    // The gateway's port goes without a word to the network layer; its slot becomes an ordinary port's.
    let gone = w.config.gateways[0].port;
    w.engine.remove_port(gone);
    let wire = crate::memory::Wire::new(trunkline_ports::TxCaps::ALL);
    let port = w.engine.add_port(w.bridges[0], PortConfig::new(PortId::NONE), 1500).unwrap();
    assert_eq!(port, gone);
    w.engine.attach_port(port, wire.io(), false).unwrap();
    w.a.send(w.a.ping("10.77.0.9", "10.77.0.1", 1));
    w.a.is_quiet();
    assert!(wire.take().is_some(), "an unknown address is flooded there");
    // Nothing left.
    w.engine.set_l3(L3Config::default()).unwrap();
    assert_eq!(w.engine.connections(ConnFilter::default()).len(), 0);
    w.outside.send(w.outside.ping("198.51.100.1", "192.0.2.10", 5));
    w.outside.is_quiet();
    assert_eq!(w.drops(w.outside.port, DropReason::NoBridge), 1);
    // And all again, elsewhere.
    w.config.gateways[0].port = w.engine.add_port(w.bridges[0], PortConfig::new(PortId::NONE), 1500).unwrap();
    w.engine.set_l3(w.config.clone()).unwrap();
    w.a.send(w.a.ping("10.77.0.9", "10.77.0.1", 1));
    assert_eq!(w.a.next().icmp, Some((0, 0)));
    w.a.send(w.a.udp("10.77.0.9:4000", "198.51.100.1:53", 64, b"query"));
    assert_eq!(w.outside.next().ends().0, "192.0.2.10:4000");
}
