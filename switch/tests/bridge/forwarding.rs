//! Learning, ageing, moves and the reasons for which known destinations are not reached.

use trunkline_packet::{DropReason, MacAddr};
use trunkline_switch::{BridgeConfig, PortConfig};

use crate::kit::*;

fn three() -> Net {
    Net::new(vec![port(1), port(2), port(3)])
}

#[test]
fn unknown_is_flooded_known_goes_to_its_port() {
    let mut net = three();
    let f = frame(2, 1, &[]);
    assert_eq!(net.inject(1, &f), [sent(2, f.clone()), sent(3, f.clone())]);
    let reply = frame(1, 2, &[]);
    assert_eq!(net.inject(2, &reply), [sent(1, reply.clone())]);
    assert_eq!(net.inject(1, &f), [sent(2, f.clone())]);
}

/// IEEE 802.1Q §8.8: a filtering database per VLAN (independent learning).
#[test]
fn an_address_is_learned_in_each_vlan_by_itself() {
    let mut net = three();
    net.inject(1, &frame(255, 1, &[tag(C, 10)]));
    net.inject(2, &frame(255, 1, &[tag(C, 20)]));
    assert_eq!((net.learned(10, 1), net.learned(20, 1), net.learned(0, 1)), (Some(1), Some(2), None));
    let f = frame(1, 9, &[tag(C, 20)]);
    assert_eq!(net.inject(3, &f), [sent(2, f.clone())]);
}

/// IEEE 802.1Q §8.8.3: an entry is removed when the ageing time has elapsed since it was last seen.
#[test]
fn an_address_not_seen_for_the_ageing_time_is_flooded_again() {
    let mut net = Net::with(BridgeConfig { ageing: 300, max_macs: 64 }, vec![port(1), port(2), port(3)]);
    net.inject(1, &frame(255, 1, &[]));
    let f = frame(1, 2, &[]);
    net.now += 300;
    assert_eq!(net.inject(2, &f).len(), 1);
    net.now += 1;
    assert_eq!(net.inject(2, &f).len(), 2);
    // Being sent to does not keep an address alive; sending does.
    net.inject(1, &frame(255, 1, &[]));
    net.now += 299;
    net.inject(1, &frame(255, 1, &[]));
    net.now += 299;
    assert_eq!(net.inject(2, &f).len(), 1);
}

/// IEEE 802.1Q §8.7: the port of a dynamic entry is that of the last frame.
#[test]
fn an_address_moves() {
    let mut net = three();
    net.inject(1, &frame(255, 1, &[]));
    net.inject(3, &frame(255, 1, &[]));
    let f = frame(1, 2, &[]);
    assert_eq!(net.inject(2, &f), [sent(3, f.clone())]);
    assert_eq!(net.bridge.fdb().counters().moved, 1);
}

/// IEEE 802.1Q §8.7: static entries are not changed by learning.
#[test]
fn a_static_address_stays() {
    let mut net = three();
    assert!(net.bridge.fdb().add_static(vid(0), mac(1), trunkline_packet::PortId(2)));
    net.inject(1, &frame(255, 1, &[]));
    net.now += 1_000_000;
    let f = frame(1, 9, &[]);
    assert_eq!(net.inject(3, &f), [sent(2, f.clone())]);
}

#[test]
fn a_station_on_the_same_port_is_left_alone() {
    let mut net = three();
    net.inject(1, &frame(255, 1, &[]));
    assert_eq!(net.inject(1, &frame(1, 2, &[])), dropped(DropReason::SamePort));
    assert_eq!(net.inject(1, &frame(1, 1, &[])), dropped(DropReason::SamePort));
}

/// IEEE 802.1Q §8.7 (and 802 §8.2): a group address is never a source.
#[test]
fn group_and_zero_sources_are_dropped_and_not_learned() {
    let mut net = three();
    for source in [MacAddr::BROADCAST, MacAddr([1, 0, 0x5e, 0, 0, 1]), MacAddr::default()] {
        assert_eq!(net.inject(1, &frame_of(mac(2), source, &[], 50)), dropped(DropReason::BadSource));
    }
    assert!(net.bridge.fdb().is_empty());
}

/// IEEE 802.1Q §8.6.3, table 8-1: 01-80-C2-00-00-00 to 0F are never forwarded.
#[test]
fn reserved_addresses_are_not_forwarded() {
    let mut net = three();
    for last in 0..=0x0f {
        let f = frame_of(MacAddr([1, 0x80, 0xc2, 0, 0, last]), mac(1), &[], 50);
        assert_eq!(net.inject(1, &f), dropped(DropReason::ReservedMac));
    }
    assert!(net.bridge.fdb().is_empty());
    let f = frame_of(MacAddr([1, 0x80, 0xc2, 0, 0, 0x10]), mac(1), &[], 50);
    assert_eq!(net.inject(1, &f).len(), 2);
}

#[test]
fn isolated_ports_reach_only_others() {
    let isolated = |id| PortConfig { isolated: true, ..port(id) };
    let mut net = Net::new(vec![isolated(1), isolated(2), port(3)]);
    let f = frame(2, 1, &[]);
    assert_eq!(net.inject(1, &f), [sent(3, f.clone())]);
    net.inject(2, &frame(255, 2, &[]));
    assert_eq!(net.inject(1, &f), dropped(DropReason::Isolated));
    assert_eq!(net.inject(3, &f), [sent(2, f.clone())]);
}

#[test]
fn a_split_horizon_group_hears_nothing_from_itself() {
    let group = |id, g| PortConfig { split_horizon_group: Some(g), ..port(id) };
    let mut net = Net::new(vec![group(1, 7), group(2, 7), group(3, 8), port(4)]);
    let f = frame(2, 1, &[]);
    assert_eq!(net.inject(1, &f), [sent(3, f.clone()), sent(4, f.clone())]);
    net.inject(2, &frame(255, 2, &[]));
    assert_eq!(net.inject(1, &f), dropped(DropReason::SplitHorizon));
    assert_eq!(net.inject(3, &f), [sent(2, f.clone())]);
}

#[test]
fn a_port_that_does_not_learn_is_flooded_to() {
    let mut net = Net::new(vec![PortConfig { learning: false, ..port(1) }, port(2), port(3)]);
    net.inject(1, &frame(255, 1, &[]));
    assert_eq!(net.learned(0, 1), None);
    assert_eq!(net.inject(2, &frame(1, 2, &[])).len(), 2);
    // It still makes use of what others taught.
    let f = frame(2, 1, &[]);
    assert_eq!(net.inject(1, &f), [sent(2, f.clone())]);
}

#[test]
fn a_known_destination_outside_the_vlan_is_not_reached() {
    let mut net = Net::new(vec![trunk(1, &[10, 20]), trunk(2, &[10, 20]), port(3)]);
    net.inject(2, &frame(255, 2, &[tag(C, 20)]));
    net.reconfigure(vec![trunk(1, &[10, 20]), trunk(2, &[10]), port(3)]);
    assert_eq!(net.inject(1, &frame(2, 1, &[tag(C, 20)])), dropped(DropReason::VlanEgress));
}

#[test]
fn an_entry_of_a_port_that_left_is_as_good_as_none() {
    let mut net = three();
    net.inject(3, &frame(255, 3, &[]));
    net.reconfigure(vec![port(1), port(2)]);
    let f = frame(3, 1, &[]);
    assert_eq!(net.inject(1, &f), [sent(2, f.clone())]);
}

#[test]
fn a_port_that_is_not_on_the_bridge_forwards_nothing() {
    let mut net = three();
    for id in [0, 4, 65535] {
        assert_eq!(net.inject(id, &frame(2, 1, &[])), dropped(DropReason::NoBridge));
    }
}

/// The limits reach the table.
#[test]
fn a_port_learns_no_more_than_its_limit() {
    let mut net = Net::new(vec![PortConfig { max_macs: 3, ..port(1) }, port(2)]);
    for host in 1..=10 {
        net.inject(1, &frame(255, host, &[]));
    }
    assert_eq!(net.bridge.fdb().learned_on(trunkline_packet::PortId(1)), 3);
    assert_eq!((net.learned(0, 10), net.learned(0, 1)), (Some(1), None));
}

/// A batch is decided on in its order, whatever was remembered from one packet to the next.
#[test]
fn answers_within_a_batch_are_those_of_frames_one_by_one() {
    let frames = [(9, 1), (9, 2), (9, 9), (9, 1), (1, 9), (1, 9), (2, 1), (2, 2), (9, 2)];
    let frames = frames.map(|(to, from)| frame(to, from, &[]));
    for n in 0..frames.len() {
        let (mut whole, mut single) = (three(), three());
        let batch: Vec<_> = frames[n..].iter().map(|f| (&f[..], Default::default())).collect();
        let mut expected: Vec<_> = frames[n..].iter().flat_map(|f| single.inject(1, f)).collect();
        expected.sort();
        let ends: Vec<_> = whole.inject_all(1, &batch).into_iter().map(|(end, _)| end).collect();
        assert_eq!(ends, expected, "{n}");
    }
}
