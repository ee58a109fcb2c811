//! The VLAN rules, one by one, in the words of `ovs-vswitchd.conf.db(5)` and IEEE 802.1Q.

use trunkline_packet::{Checksum, DropReason, Gso, GsoKind, Offload, VlanTag};
use trunkline_switch::PortConfig;

use crate::kit::*;

const PRIORITY: u16 = 0xb000;

/// One frame from port 1, and what arrives elsewhere.
fn through(ports: Vec<PortConfig>, tags: &[VlanTag]) -> Vec<(u16, Vec<VlanTag>)> {
    let mut net = Net::new(ports);
    let ends = net.inject(1, &frame(9, 1, tags));
    ends.into_iter()
        .map(|end| match end {
            End::Sent(port, wire) => {
                let tags = tags_of(&wire);
                assert_eq!(wire, frame(9, 1, &tags));
                (port, tags)
            }
            End::Dropped(reason) => panic!("dropped: {reason}"),
        })
        .collect()
}

fn refused(ports: Vec<PortConfig>, tags: &[VlanTag]) -> &'static str {
    let mut net = Net::new(ports);
    match &net.inject(1, &frame(9, 1, tags))[..] {
        [End::Dropped(reason)] => {
            assert!(
                net.bridge.fdb().is_empty() || *reason == "no-destination",
                "learned from a refused frame"
            );
            reason
        }
        other => panic!("{other:?}"),
    }
}

fn tags_of(wire: &[u8]) -> Vec<VlanTag> {
    let mut tags = Vec::new();
    let mut at = 12;
    loop {
        let tpid = match [wire[at], wire[at + 1]] {
            [0x81, 0x00] => C,
            [0x88, 0xa8] => S,
            _ => return tags,
        };
        tags.push(VlanTag { tpid, tci: u16::from_be_bytes([wire[at + 2], wire[at + 3]]) });
        at += 4;
    }
}

fn prio(tpid: trunkline_packet::Tpid, vid: u16) -> VlanTag {
    VlanTag { tpid, tci: PRIORITY | vid }
}

/// "Carries packets on exactly one VLAN … no 802.1Q header"; leaves tagged on a trunk.
#[test]
fn access_ports_carry_one_vlan_untagged() {
    let ports = vec![access(1, 10), access(2, 10), access(3, 20), trunk(4, &[10])];
    assert_eq!(through(ports, &[]), [(2, vec![]), (4, vec![tag(C, 10)])]);
}

/// "Any packet with an 802.1Q header with a nonzero VLAN ID that ingresses on an access port is dropped,
/// regardless of whether the VLAN ID in the header is the access port's VLAN ID."
#[test]
fn access_ports_refuse_tagged_frames() {
    for t in [tag(C, 10), tag(C, 20), tag(S, 10)] {
        assert_eq!(refused(vec![access(1, 10), port(2)], &[t]), "vlan-filtered");
    }
}

/// IEEE 802.1Q table 9-2: VID 0 means that the tag carries only priority information.
#[test]
fn a_priority_tag_counts_as_untagged_and_its_priority_is_kept() {
    let ports = vec![access(1, 10), access(2, 10), trunk(3, &[10])];
    assert_eq!(through(ports, &[prio(C, 0)]), [(2, vec![]), (3, vec![prio(C, 10)])]);
    let ports = vec![native(1, false, 10, &[20]), native(2, true, 10, &[20]), native(3, false, 10, &[20])];
    assert_eq!(through(ports, &[prio(C, 0)]), [(2, vec![prio(C, 10)]), (3, vec![])]);
    // In VLAN 0 there is no tag for it to leave with.
    assert_eq!(through(vec![port(1), port(2)], &[prio(C, 0)]), [(2, vec![])]);
}

/// IEEE 802.1Q table 9-2: 4095 is reserved and shall not be forwarded.
#[test]
fn vid_4095_is_dropped_everywhere() {
    for ingress in
        [port(1), access(1, 10), native(1, true, 10, &[]), native(1, false, 10, &[]), tunnel(1, 10)]
    {
        assert_eq!(refused(vec![ingress.clone(), port(2)], &[tag(C, 4095)]), "bad-vlan");
        assert_eq!(refused(vec![ingress, port(2)], &[prio(S, 4095)]), "bad-vlan");
    }
}

/// "In the VLAN specified in its 802.1Q header, or VLAN 0 if the packet has no 802.1Q header"; "will have
/// an 802.1Q header if it has a nonzero VLAN ID".
#[test]
fn trunks_keep_tags_and_their_priority() {
    let ports = vec![port(1), port(2), trunk(3, &[10]), access(4, 10), access(5, 20)];
    assert_eq!(through(ports, &[prio(C, 10)]), [(2, vec![prio(C, 10)]), (3, vec![prio(C, 10)]), (4, vec![])]);
    assert_eq!(through(vec![port(1), port(2), access(3, 10), access(4, 0)], &[]), [(2, vec![]), (4, vec![])]);
    // Both kinds of tag are the VLAN tag, and a kind stays what it is.
    let ports = vec![port(1), port(2), access(3, 10)];
    assert_eq!(through(ports, &[prio(S, 10)]), [(2, vec![prio(S, 10)]), (3, vec![])]);
}

/// "Any packet that ingresses on a trunk port tagged with a VLAN that the port does not trunk is dropped."
#[test]
fn trunks_refuse_other_vlans_untagged_too() {
    for tags in [&[tag(C, 20)][..], &[tag(S, 20)], &[], &[prio(C, 0)]] {
        assert_eq!(refused(vec![trunk(1, &[10]), port(2)], tags), "vlan-filtered");
    }
    assert_eq!(through(vec![trunk(1, &[0, 10]), port(2), trunk(3, &[10])], &[]), [(2, vec![])]);
}

/// "A packet without an 802.1Q header that ingresses on a native-tagged port is in the native VLAN"; "a
/// packet that egresses on a native-untagged port in the native VLAN will not have an 802.1Q header".
#[test]
fn native_ports() {
    let ports = || {
        vec![
            native(1, true, 10, &[20]),
            native(2, true, 10, &[20]),
            native(3, false, 10, &[20]),
            access(4, 10),
        ]
    };
    let native_vlan = [(2, vec![tag(C, 10)]), (3, vec![]), (4, vec![])];
    assert_eq!(through(ports(), &[]), native_vlan);
    // "Always trunks its native VLAN, regardless of whether trunks includes that VLAN", tagged as well.
    assert_eq!(through(ports(), &[tag(C, 10)]), native_vlan);
    assert_eq!(through(ports(), &[prio(C, 20)]), [(2, vec![prio(C, 20)]), (3, vec![prio(C, 20)])]);
    assert_eq!(refused(ports(), &[tag(C, 30)]), "vlan-filtered");
    let untagged = vec![native(1, false, 10, &[20]), trunk(2, &[10]), trunk(3, &[20])];
    assert_eq!(through(untagged, &[]), [(2, vec![tag(C, 10)])]);
}

/// "A dot1q-tunnel port treats these as double-tagged with the outer service VLAN tag and the inner customer
/// VLAN taken from the 802.1Q header."
#[test]
fn tunnels_push_and_pop_the_service_tag() {
    let ports = || vec![tunnel(1, 100), tunnel(2, 100), tunnel(3, 200), trunk(4, &[100]), access(5, 7)];
    assert_eq!(through(ports(), &[prio(C, 7)]), [(2, vec![prio(C, 7)]), (4, vec![prio(S, 100), prio(C, 7)])]);
    assert_eq!(through(ports(), &[]), [(2, vec![]), (4, vec![tag(S, 100)])]);
    // A customer's priority tag and stacked tags are the customer's business.
    assert_eq!(through(ports(), &[prio(C, 0)]), [(2, vec![prio(C, 0)]), (4, vec![prio(S, 100), prio(C, 0)])]);
    let stack = vec![tag(S, 5), tag(C, 6), tag(C, 7)];
    assert_eq!(
        through(ports(), &stack),
        [(2, stack.clone()), (4, [vec![tag(S, 100)], stack.clone()].concat())]
    );
    // And out of the provider's network.
    let provider = || vec![trunk(1, &[100]), tunnel(2, 100), tunnel(3, 200)];
    assert_eq!(through(provider(), &[prio(S, 100), tag(C, 7)]), [(2, vec![tag(C, 7)])]);
    assert_eq!(through(provider(), &[tag(C, 100), tag(C, 7), tag(C, 8)]), [(2, vec![tag(C, 7), tag(C, 8)])]);
    assert_eq!(through(provider(), &[tag(S, 100)]), [(2, vec![])]);
}

/// "If cvlans is set, only allows packets in the specified customer VLANs."
#[test]
fn tunnels_limit_customer_vlans_both_ways() {
    let limited = |id| PortConfig { trunks: set(&[7]), ..tunnel(id, 100) };
    let inward = || vec![limited(1), trunk(2, &[100])];
    assert_eq!(through(inward(), &[tag(C, 7)]), [(2, vec![tag(S, 100), tag(C, 7)])]);
    for tags in [&[tag(C, 8)][..], &[]] {
        assert_eq!(refused(inward(), tags), "vlan-filtered");
    }
    let outward = || vec![trunk(1, &[100]), limited(2)];
    assert_eq!(through(outward(), &[tag(S, 100), tag(C, 7)]), [(2, vec![tag(C, 7)])]);
    for tags in [&[tag(S, 100), tag(C, 8)][..], &[tag(S, 100)], &[tag(S, 100), tag(C, 4095)]] {
        assert_eq!(refused(outward(), tags), "no-destination");
    }
}

/// No frame changes its VLAN by a second tag: see the head of `vlan.rs`.
#[test]
fn double_tags_do_not_hop() {
    let attack = [tag(C, 10), tag(C, 20)];
    // Access ports take no tags, not even behind a priority tag …
    for tags in [&attack[..], &[tag(C, 0), tag(C, 20)], &[tag(C, 0), tag(C, 0)]] {
        assert_eq!(refused(vec![access(1, 10), port(2)], tags), "vlan-filtered");
    }
    // … and send none.
    assert_eq!(refused(vec![port(1), access(2, 10), access(3, 20)], &attack), "no-destination");
    // On a trunk only the outer tag counts, and it stays, even where it is the native one.
    let ports = vec![
        port(1),
        trunk(2, &[10]),
        trunk(3, &[20]),
        native(4, false, 10, &[20]),
        native(5, true, 10, &[]),
    ];
    let whole = attack.to_vec();
    assert_eq!(through(ports, &attack), [(2, whole.clone()), (4, whole.clone()), (5, whole.clone())]);
    // A priority tag in front of another would be taken off, too.
    for ingress in [port(1), native(1, true, 10, &[20]), native(1, false, 10, &[20])] {
        assert_eq!(
            refused(vec![ingress, port(2), native(3, false, 10, &[20])], &[prio(C, 0), tag(C, 20)]),
            "bad-vlan"
        );
    }
    // A customer's tag comes out at no port of the service VLAN but a tunnel.
    let ports = vec![tunnel(1, 10), access(2, 10), native(3, false, 10, &[])];
    assert_eq!(through(ports, &[tag(C, 20)]), [(3, vec![tag(S, 10), tag(C, 20)])]);
}

/// Known unicast obeys the same rules as floods.
#[test]
fn a_known_destination_behind_an_access_port_gets_no_double_tags() {
    let mut net = Net::new(vec![port(1), access(2, 10), port(3)]);
    net.inject(2, &frame(255, 2, &[]));
    assert_eq!(net.inject(1, &frame(2, 1, &[tag(C, 10), tag(C, 20)])), dropped(DropReason::VlanEgress));
}

/// IEEE 802.3 §4.2.3.3: no frame on a wire is shorter than 60 bytes without its FCS.
#[test]
fn frames_that_get_shorter_are_padded_to_the_minimum() {
    let wire = |tags: &[VlanTag], payload| frame_of(mac(9), mac(1), tags, payload);
    let padded = |mut f: Vec<u8>| {
        f.resize(60, 0);
        f
    };
    let through = |ports, f: &[u8]| Net::new(ports).inject(1, f);
    // 60 bytes with the tag, 56 without.
    let ports = || vec![port(1), access(2, 10), port(3)];
    let f = wire(&[tag(C, 10)], 42);
    assert_eq!(through(ports(), &f), [sent(2, padded(wire(&[], 42))), sent(3, f.clone())]);
    // Exactly enough, and never more.
    assert_eq!(through(ports(), &wire(&[tag(C, 10)], 46))[0], sent(2, wire(&[], 46)));
    // The customer's tag counts.
    let f = wire(&[tag(S, 100), tag(C, 7)], 38);
    assert_eq!(through(vec![port(1), tunnel(2, 100)], &f), [sent(2, padded(wire(&[tag(C, 7)], 38)))]);
    // A frame that was short before is none of our business: interfaces of containers send such.
    let f = wire(&[], 28);
    assert_eq!(through(vec![access(1, 10), access(2, 10)], &f), [sent(2, f.clone())]);
    let f = wire(&[tag(C, 7)], 28);
    assert_eq!(through(vec![tunnel(1, 100), tunnel(2, 100)], &f), [sent(2, f.clone())]);
}

/// Offsets in the offload metadata count from the start of the frame, so they follow the tags.
#[test]
fn offload_metadata_follows_the_tags() {
    let offload = |start| Offload {
        csum: Checksum::Partial { start, offset: 16 },
        gso: Gso { kind: GsoKind::TcpV4, ecn: false, size: 1000 },
    };
    let mut net = Net::new(vec![tunnel(1, 100), tunnel(2, 100), trunk(3, &[100]), access(4, 100)]);
    let ends = net.inject_offload(1, &frame_of(mac(9), mac(1), &[tag(C, 7)], 5000), offload(38));
    let starts: Vec<_> = ends.iter().map(|(_, o)| *o).collect();
    assert_eq!(starts, [offload(38), offload(42)]);
    // A superframe is never padded.
    let mut net = Net::new(vec![port(1), access(2, 10)]);
    let short = frame_of(mac(9), mac(1), &[tag(C, 10)], 42);
    let ends = net.inject_offload(1, &short, offload(38));
    assert_eq!(ends, [(sent(2, frame_of(mac(9), mac(1), &[], 42)), offload(34))]);
    // A padded one keeps its partial checksum.
    let plain = |start| Offload { csum: Checksum::Partial { start, offset: 6 }, ..Offload::NONE };
    let ends = net.inject_offload(1, &short, plain(38));
    assert_eq!(ends[0].1, plain(34));
}
