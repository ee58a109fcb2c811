//! Floods: who gets them, how many, and that copies share what they can.

use trunkline_packet::{DropReason, MacAddr};
use trunkline_switch::PortConfig;

use crate::kit::*;

/// IEEE 802.1Q §8.6.1: every port in the VLAN but the one it came from.
#[test]
fn group_frames_go_to_every_other_port_of_the_vlan() {
    let mut net =
        Net::new(vec![access(1, 10), access(2, 10), access(3, 20), trunk(4, &[10]), trunk(5, &[20])]);
    for to in [MacAddr::BROADCAST, MacAddr([0x33, 0x33, 0, 0, 0, 1]), mac(77)] {
        let plain = frame_of(to, mac(1), &[], 60);
        let tagged = frame_of(to, mac(1), &[tag(C, 10)], 60);
        assert_eq!(net.inject(1, &plain), [sent(2, plain.clone()), sent(4, tagged)]);
    }
}

/// A group address that somebody put into the table does not narrow its floods.
#[test]
fn group_addresses_are_not_looked_up() {
    let mut net = Net::new(vec![port(1), port(2), port(3)]);
    net.bridge.fdb().add_static(vid(0), MacAddr::BROADCAST, trunkline_packet::PortId(2));
    assert_eq!(net.inject(1, &frame(255, 1, &[])).len(), 2);
}

#[test]
fn a_no_flood_port_gets_known_unicast_only() {
    let mut net = Net::new(vec![port(1), PortConfig { flood: false, ..port(2) }, port(3)]);
    let f = frame(255, 1, &[]);
    assert_eq!(net.inject(1, &f), [sent(3, f.clone())]);
    let unknown = frame(2, 1, &[]);
    assert_eq!(net.inject(1, &unknown), [sent(3, unknown.clone())]);
    net.inject(2, &frame(255, 2, &[]));
    assert_eq!(net.inject(1, &unknown), [sent(2, unknown.clone())]);
}

#[test]
fn nobody_to_flood_to() {
    let mut net = Net::new(vec![access(1, 10), access(2, 20)]);
    assert_eq!(net.inject(1, &frame(255, 1, &[])), dropped(DropReason::NoDestination));
    assert_eq!(Net::new(vec![port(1)]).inject(1, &frame(255, 1, &[])), dropped(DropReason::NoDestination));
}

#[test]
fn floods_beyond_the_limit_are_dropped_and_unicast_is_not() {
    let mut net = Net::new(vec![PortConfig { flood_limit: 3, ..port(1) }, port(2), port(3)]);
    net.inject(2, &frame(255, 2, &[]));
    let f = frame(255, 1, &[]);
    for second in 0..3 {
        net.now += 1;
        for n in 0..6 {
            // A changed configuration does not fill the budget again.
            net.reconfigure(net.bridge.ports().to_vec());
            let ends = net.inject(1, &f);
            if n < 3 {
                assert_eq!(ends.len(), 2, "{second}")
            } else {
                assert_eq!(ends, dropped(DropReason::FloodLimit))
            }
            assert_eq!(net.inject(1, &frame(2, 1, &[])).len(), 1);
            assert_eq!(net.inject(3, &f).len(), 2, "another port has its own budget");
        }
    }
}

/// What would not have been flooded to anybody costs nothing.
#[test]
fn floods_without_a_destination_are_not_charged() {
    let mut net = Net::new(vec![PortConfig { flood_limit: 1, ..trunk(1, &[10, 20]) }, access(2, 10)]);
    for _ in 0..5 {
        assert_eq!(net.inject(1, &frame(255, 1, &[tag(C, 20)])), dropped(DropReason::NoDestination));
    }
    assert_eq!(net.inject(1, &frame(255, 1, &[tag(C, 10)])).len(), 1);
}

/// Superframes are flooded whole, their payload not copied (the conservation sum is checked by the kit).
#[test]
fn a_superframe_is_flooded_whole() {
    let mut net = Net::new(vec![access(1, 10), access(2, 10), trunk(3, &[10]), tunnel(4, 10)]);
    let f = frame_of(MacAddr::BROADCAST, mac(1), &[], 60_000);
    let tagged = frame_of(MacAddr::BROADCAST, mac(1), &[tag(C, 10)], 60_000);
    assert_eq!(net.inject(1, &f), [sent(2, f.clone()), sent(3, tagged), sent(4, f.clone())]);
}
