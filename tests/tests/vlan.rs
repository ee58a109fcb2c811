//! VLANs, as in 802.1Q and in Open vSwitch's words.

use std::time::Duration;

use trunkline_tests::capture::{Capture, Captured, Direction};
use trunkline_tests::frame::{self, BROADCAST, Tag, experiment, mac};
use trunkline_tests::ovs::Ovs;
use trunkline_tests::raw::Raw;
use trunkline_tests::{Container, Kind, Lab, Netns, Opts, over_kinds, ping, transfer};

/// Captures what arrives in several containers while `act` runs.
fn watch(containers: &[&Container], act: impl FnOnce()) -> Vec<Captured> {
    let start = |c: &&Container| Capture::start(&c.ns, "eth0", Direction::In, "");
    let captures: Vec<Capture> = containers.iter().map(start).collect();
    act();
    captures.into_iter().map(|c| c.stop_when_quiet(Duration::from_millis(300))).collect()
}

/// The tags of the one frame with this text; `None` when there is none.
fn tags_of(seen: &Captured, text: &str) -> Option<Vec<Tag>> {
    let frames = seen.with_text(text);
    assert!(frames.len() <= 1, "{text:?} arrived {} times", frames.len());
    frames.first().map(|f| frame::tags(f))
}

over_kinds!(access_ports_are_separated);

fn access_ports_are_separated(kind: Kind) {
    let lab = Lab::new();
    let a = lab.container_with(kind, "a", &Opts::args(&["--vlan", "10"]));
    let b = lab.container_with(kind, "b", &Opts::args(&["--vlan", "10"]));
    let c = lab.container_with(kind, "c", &Opts::args(&["--vlan", "20"]));
    let d = lab.container_with(kind, "d", &Opts::args(&["--vlan", "20"]));
    ping::assert_reaches(&a.ns, b.v4);
    ping::assert_reaches(&c.ns, d.v6);
    ping::assert_isolated(&a.ns, c.v4);
    ping::assert_isolated(&d.ns, b.v6);
    // Even when the sender knows the address.
    a.ns.sh(&format!("ip neighbour replace {} dev eth0 lladdr {}", c.v4, frame::mac_text(c.mac)));
    ping::assert_isolated(&a.ns, c.v4);
    let row =
        lab.fdb("br0").into_iter().find(|r| r["mac"] == frame::mac_text(a.mac).as_str()).expect("learned");
    assert_eq!(row["vlan"], 10);
    // The same address in two VLANs is two addresses: learning is independent.
    Raw::open(&c.ns, "eth0").send(&experiment(BROADCAST, a.mac, &[], "impostor"));
    ping::assert_reaches(&b.ns, a.v4);
    // A port moved to another VLAN by command.
    lab.ok(&["port", "set", "c", "--vlan", "10"]);
    ping::assert_reaches(&a.ns, c.v4);
    ping::assert_isolated(&c.ns, d.v4);
    lab.assert_conserved();
}

over_kinds!(trunks_carry_their_vlans_tagged);

fn trunks_carry_their_vlans_tagged(kind: Kind) {
    let lab = Lab::new();
    let access = lab.container_with(kind, "access", &Opts::args(&["--vlan", "10"]));
    let some = lab.container_with(kind, "some", &Opts::args(&["--trunks", "10,20-30"]));
    let all = lab.container_with(kind, "all", &Opts::default());
    let tag = Tag { pcp: 5, ..Tag::c(10) };
    let seen = watch(&[&access, &some, &all], || {
        let mut from_access = Raw::open(&access.ns, "eth0");
        from_access.send(&experiment(BROADCAST, mac(101), &[], "plain from access"));
        from_access.send(&experiment(
            BROADCAST,
            mac(101),
            &[Tag { pcp: 3, ..Tag::c(0) }],
            "priority from access",
        ));
        from_access.send(&experiment(BROADCAST, mac(101), &[Tag::c(10)], "tagged from access"));
        from_access.send(&experiment(BROADCAST, mac(101), &[Tag::c(20)], "hop one tag"));
        from_access.send(&experiment(BROADCAST, mac(101), &[Tag::c(10), Tag::c(20)], "hop two tags"));
        from_access.send(&experiment(BROADCAST, mac(101), &[Tag::s(20)], "hop service tag"));
        from_access.send(&experiment(BROADCAST, mac(101), &[Tag::c(0), Tag::c(20)], "hop priority tag"));
        let mut from_all = Raw::open(&all.ns, "eth0");
        from_all.send(&experiment(BROADCAST, mac(102), &[tag], "ten"));
        from_all.send(&experiment(BROADCAST, mac(102), &[Tag::c(30)], "thirty"));
        from_all.send(&experiment(BROADCAST, mac(102), &[Tag::c(31)], "thirty-one"));
        from_all.send(&experiment(BROADCAST, mac(102), &[Tag::c(4095)], "reserved"));
        let mut from_some = Raw::open(&some.ns, "eth0");
        from_some.send(&experiment(BROADCAST, mac(103), &[Tag::c(31)], "not allowed"));
        from_some.send(&experiment(BROADCAST, mac(103), &[], "untagged not allowed"));
        from_some.send(&experiment(BROADCAST, mac(103), &[Tag::c(20)], "twenty"));
    });
    let [at_access, at_some, at_all] = &seen[..] else { unreachable!() };

    // From the access port: VLAN 10, tagged on trunks, the priority of a priority tag kept.
    assert_eq!(tags_of(at_some, "plain from access"), Some(vec![Tag::c(10)]));
    assert_eq!(tags_of(at_all, "plain from access"), Some(vec![Tag::c(10)]));
    assert_eq!(tags_of(at_all, "priority from access"), Some(vec![Tag { pcp: 3, ..Tag::c(10) }]));
    // A tagged frame does not belong on an access port, and nothing an access port sends gets anywhere else.
    for text in ["tagged from access", "hop one tag", "hop two tags", "hop service tag"] {
        assert_eq!(tags_of(at_all, text), None, "{text}");
        assert_eq!(tags_of(at_some, text), None, "{text}");
    }
    if let Some(tags) = tags_of(at_all, "hop priority tag") {
        assert_eq!(tags[0].vid, 10, "a frame from an access port in another VLAN: {tags:?}");
    }
    // From the trunks.
    assert_eq!(tags_of(at_access, "ten"), Some(vec![]));
    assert_eq!(tags_of(at_some, "ten"), Some(vec![tag]), "priority is kept");
    assert_eq!(tags_of(at_some, "thirty"), Some(vec![Tag::c(30)]));
    assert_eq!(tags_of(at_access, "thirty"), None);
    assert_eq!(tags_of(at_some, "thirty-one"), None);
    assert_eq!(tags_of(at_some, "reserved"), None);
    assert_eq!(tags_of(at_all, "not allowed"), None);
    assert_eq!(tags_of(at_all, "untagged not allowed"), None);
    assert_eq!(tags_of(at_all, "twenty"), Some(vec![Tag::c(20)]));
    lab.await_drops("all", "bad-vlan", 1);
    lab.await_drops("some", "vlan-filtered", 2);
    lab.await_drops("access", "vlan-filtered", 4);
    lab.assert_conserved();
}

over_kinds!(untagged_and_priority_tagged_frames_on_a_trunk_are_in_vlan_0);

fn untagged_and_priority_tagged_frames_on_a_trunk_are_in_vlan_0(kind: Kind) {
    let lab = Lab::new();
    let a = lab.container(kind, "a");
    let b = lab.container(kind, "b");
    let seen = watch(&[&b], || {
        let mut from_a = Raw::open(&a.ns, "eth0");
        from_a.send(&experiment(BROADCAST, mac(101), &[Tag { pcp: 6, ..Tag::c(0) }], "priority"));
        from_a.send(&experiment(BROADCAST, mac(101), &[], "plain"));
    });
    // A bridge may pass the priority tag on or not; it may not make a VLAN of it.
    assert!(tags_of(&seen[0], "priority").expect("arrives").iter().all(|t| t.vid == 0 && t.pcp == 6));
    assert_eq!(tags_of(&seen[0], "plain"), Some(vec![]));
    let rows = lab.fdb("br0");
    let row = rows.iter().find(|r| r["mac"] == frame::mac_text(mac(101)).as_str()).expect("learned");
    assert_eq!(row["vlan"], 0);
}

over_kinds!(native_vlans);

fn native_vlans(kind: Kind) {
    let lab = Lab::new();
    let access = lab.container_with(kind, "access", &Opts::args(&["--vlan", "10"]));
    let mode = |m| ["--vlan", "10", "--trunks", "10,20", "--vlan-mode", m];
    let tagged = lab.container_with(kind, "tagged", &Opts::args(&mode("native-tagged")));
    let untagged = lab.container_with(kind, "untagged", &Opts::args(&mode("native-untagged")));
    let seen = watch(&[&access, &tagged, &untagged], || {
        Raw::open(&access.ns, "eth0").send(&experiment(BROADCAST, mac(101), &[], "from access"));
        Raw::open(&tagged.ns, "eth0").send(&experiment(BROADCAST, mac(102), &[], "from tagged"));
        let mut from_untagged = Raw::open(&untagged.ns, "eth0");
        from_untagged.send(&experiment(BROADCAST, mac(103), &[], "from untagged"));
        from_untagged.send(&experiment(BROADCAST, mac(103), &[Tag::c(20)], "twenty"));
        from_untagged.send(&experiment(BROADCAST, mac(103), &[Tag::c(21)], "twenty-one"));
    });
    let [at_access, at_tagged, at_untagged] = &seen[..] else { unreachable!() };
    assert_eq!(tags_of(at_tagged, "from access"), Some(vec![Tag::c(10)]));
    assert_eq!(tags_of(at_untagged, "from access"), Some(vec![]));
    assert_eq!(tags_of(at_access, "from tagged"), Some(vec![]));
    assert_eq!(tags_of(at_untagged, "from tagged"), Some(vec![]));
    assert_eq!(tags_of(at_access, "from untagged"), Some(vec![]));
    assert_eq!(tags_of(at_tagged, "from untagged"), Some(vec![Tag::c(10)]));
    assert_eq!(tags_of(at_tagged, "twenty"), Some(vec![Tag::c(20)]));
    assert_eq!(tags_of(at_access, "twenty"), None);
    assert_eq!(tags_of(at_tagged, "twenty-one"), None);
    // The native VLAN untagged: an ordinary host can use such a port.
    ping::assert_reaches(&access.ns, untagged.v4);
}

over_kinds!(customer_tags_survive_a_provider_port);

fn customer_tags_survive_a_provider_port(kind: Kind) {
    let lab = Lab::new();
    let tunnel = ["--vlan", "100", "--vlan-mode", "dot1q-tunnel"];
    let a = lab.container_with(kind, "a", &Opts::args(&tunnel));
    let b = lab.container_with(kind, "b", &Opts::args(&tunnel));
    let core = lab.container_with(kind, "core", &Opts::args(&["--trunks", "100"]));
    let customer = Tag { pcp: 4, ..Tag::c(10) };
    let seen = watch(&[&a, &b, &core], || {
        let mut from_a = Raw::open(&a.ns, "eth0");
        from_a.send(&experiment(BROADCAST, mac(101), &[customer], "tagged"));
        from_a.send(&experiment(BROADCAST, mac(101), &[], "plain"));
        Raw::open(&core.ns, "eth0").send(&experiment(
            BROADCAST,
            mac(102),
            &[Tag::s(100), Tag::c(7)],
            "from core",
        ));
    });
    let [at_a, at_b, at_core] = &seen[..] else { unreachable!() };
    let at_core_tags = tags_of(at_core, "tagged").expect("arrives");
    assert_eq!((at_core_tags[0].tpid, at_core_tags[0].vid), (0x88a8, 100));
    assert_eq!(at_core_tags[1..], [customer]);
    assert_eq!(tags_of(at_core, "plain").expect("arrives")[0].vid, 100);
    assert_eq!(tags_of(at_b, "tagged"), Some(vec![customer]));
    assert_eq!(tags_of(at_b, "plain"), Some(vec![]));
    assert_eq!(tags_of(at_a, "from core"), Some(vec![Tag::c(7)]));
    // Ordinary traffic of the customer passes too.
    ping::assert_reaches(&a.ns, b.v4);
    transfer::assert_tcp(&a.ns, &b.ns, b.v4, 100_000_000);
    lab.assert_conserved();
}

over_kinds!(reserved_and_malformed_addresses);

fn reserved_and_malformed_addresses(kind: Kind) {
    let lab = Lab::new();
    let a = lab.container(kind, "a");
    let b = lab.container(kind, "b");
    ping::assert_reaches(&a.ns, b.v4);
    let group = |last: u8| [0x01, 0x80, 0xc2, 0x00, 0x00, last];
    let seen = watch(&[&b], || {
        let mut from_a = Raw::open(&a.ns, "eth0");
        for last in 0..=0x10 {
            from_a.send(&experiment(group(last), mac(101), &[], &format!("reserved {last:x}")));
        }
        from_a.send(&experiment(group(0), mac(101), &[Tag::c(5)], "reserved tagged"));
        from_a.send(&experiment(BROADCAST, [3, 0, 0, 0, 0, 1], &[], "group source"));
        from_a.send(&experiment(BROADCAST, [0; 6], &[], "zero source"));
    });
    assert_eq!(seen[0].texts(), ["reserved 10"], "only 01-80-C2-00-00-10 is an ordinary group");
    lab.await_drops("a", "reserved-mac", 17);
    lab.await_drops("a", "bad-source", 2);
    assert!(lab.fdb("br0").iter().all(|r| !r["mac"].as_str().unwrap().starts_with("03:")));
    lab.assert_conserved();
}

over_kinds!(untagging_keeps_the_minimum_length);

fn untagging_keeps_the_minimum_length(kind: Kind) {
    let lab = Lab::new();
    let trunk = lab.container(kind, "trunk");
    let access = lab.container_with(kind, "access", &Opts::args(&["--vlan", "10"]));
    let seen = watch(&[&access], || {
        // 60 bytes with the tag, 56 without.
        Raw::open(&trunk.ns, "eth0").send(&experiment(BROADCAST, mac(101), &[Tag::c(10)], "short"));
    });
    let frames = seen[0].with_text("short");
    assert_eq!(frames.len(), 1);
    assert!(frames[0].len() >= 60, "{} bytes", frames[0].len());
    assert!(frames[0][19..].iter().all(|b| *b == 0), "the padding is zeros");
}

/// Two bridges of one daemon, joined by a veth trunk, with access ports in VLANs 10 and 20 on each.
fn joined_bridges(offload: &str) {
    let lab = Lab::new();
    lab.ok(&["bridge", "add", "br1"]);
    lab.ns.sh("ip link add name left type veth peer name right");
    for (bridge, end) in [("br0", "left"), ("br1", "right")] {
        lab.ns.sh(&format!("ip link set {end} addrgenmode none up"));
        lab.ok(&[
            "port",
            "add",
            bridge,
            end,
            "--type",
            "afpacket",
            "--interface",
            end,
            "--trunks",
            "10,20",
            "--offload",
            offload,
        ]);
    }
    let on = |bridge, vlan| Opts { bridge, args: vec!["--vlan", vlan], ..Opts::default() };
    let a10 = lab.container_with(Kind::Tap, "a10", &on("br0", "10"));
    let a20 = lab.container_with(Kind::Afpacket, "a20", &on("br0", "20"));
    let b10 = lab.container_with(Kind::Tap, "b10", &on("br1", "10"));
    let b20 = lab.container_with(Kind::Afpacket, "b20", &on("br1", "20"));
    for (a, b) in [(&a10, &b10), (&a20, &b20)] {
        for to in [b.v4, b.v6] {
            ping::assert_reaches(&a.ns, to);
            transfer::assert_tcp(&a.ns, &b.ns, to, 200_000_000);
        }
        transfer::assert_udp_echo(&a.ns, &b.ns, b.v4, (1..=1472).step_by(61).chain([8000]));
    }
    ping::assert_isolated(&a10.ns, b20.v4);
    ping::assert_isolated(&b10.ns, a20.v4);
    if offload == "off" {
        let capture = Capture::start(&lab.ns, "right", Direction::In, "");
        transfer::assert_tcp(&a10.ns, &b10.ns, b10.v4, 1_000_000);
        transfer::assert_tcp(&a20.ns, &b20.ns, b20.v6, 1_000_000);
        let seen = capture.stop_when_quiet(Duration::from_millis(300));
        seen.assert_checksums_good();
        assert!(
            seen.frames.iter().all(|f| frame::tags(f).len() == 1 && f.len() <= 1518),
            "tagged, at most 1518 bytes"
        );
    }
    lab.assert_conserved();
}

#[test]
fn tagged_superframes_between_two_bridges() {
    joined_bridges("auto");
}

#[test]
fn tagged_segments_between_two_bridges() {
    joined_bridges("off");
}

#[test]
fn a_trunk_to_open_vswitch() {
    let lab = Lab::new();
    let ovs = Ovs::new(&lab.name("ovs"));
    lab.ns.sh(&format!("ip link add name trunk0 type veth peer name trunk1 netns {}", ovs.ns.name()));
    lab.ns.sh("ip link set trunk0 addrgenmode none up");
    ovs.ns.sh("ip link set dev trunk1 up");
    ovs.vsctl("add-port ovs0 trunk1 trunks=10,20");
    lab.ok(&[
        "port",
        "add",
        "br0",
        "trunk",
        "--type",
        "afpacket",
        "--interface",
        "trunk0",
        "--trunks",
        "10,20",
        "--offload",
        "off",
    ]);
    let near = |kind, name, vlan| lab.container_with(kind, name, &Opts::args(&["--vlan", vlan]));
    let far = |name: &str, vlan: &str, n: u32| -> Netns {
        let addresses = [format!("10.7.1.{n}/16"), format!("fd07::1:{n}/64")];
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        ovs.container(&lab.name(name), name, &addresses, &format!("tag={vlan}"))
    };
    let (a10, a20) = (near(Kind::Tap, "a10", "10"), near(Kind::Afpacket, "a20", "20"));
    let (b10, b20) = (far("b10", "10", 1), far("b20", "20", 2));
    let capture = Capture::start(&ovs.ns, "trunk1", Direction::In, "");
    let ends = [(&a10, &b10, ["10.7.1.1", "fd07::1:1"]), (&a20, &b20, ["10.7.1.2", "fd07::1:2"])];
    for (a, b, to) in ends {
        for to in to.map(|t| t.parse().unwrap()) {
            ping::assert_reaches(&a.ns, to);
            transfer::assert_tcp(&a.ns, b, to, 20_000_000);
            transfer::assert_udp_echo(&a.ns, b, to, (1..=1452).step_by(101));
        }
        transfer::assert_tcp(b, &a.ns, a.v4, 20_000_000);
        transfer::assert_tcp(b, &a.ns, a.v6, 20_000_000);
    }
    ping::assert_isolated(&a10.ns, "10.7.1.2".parse().unwrap());
    ping::assert_isolated(&b20, a10.v4);
    let seen = capture.stop_when_quiet(Duration::from_millis(500));
    seen.assert_checksums_good();
    let vids = seen.frames.iter().map(|f| frame::tags(f).first().map(|t| t.vid));
    assert!(vids.clone().all(|v| matches!(v, Some(10 | 20))), "only VLANs 10 and 20 on the trunk");
    assert!(vids.clone().any(|v| v == Some(10)) && vids.clone().any(|v| v == Some(20)));
    lab.assert_conserved();
}
