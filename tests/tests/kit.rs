//! The kit itself, against the Linux bridge and Open vSwitch: its checks pass where they should, and fail
//! where they should.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde_json::json;
use trunkline_tests::capture::{Capture, Direction};
use trunkline_tests::check::Sums;
use trunkline_tests::frame::{self, Tag};
use trunkline_tests::ovs::Ovs;
use trunkline_tests::ping::{self, Answers, Pinger, Pings};
use trunkline_tests::raw::Raw;
use trunkline_tests::{Netns, transfer};

/// Two namespaces on a Linux bridge in a third: 10.8.0.1 and .2, fd08::1 and ::2.
fn linux_bridge(name: &str) -> (Netns, Netns, Netns) {
    let bridge = Netns::new(&format!("{name}-br"));
    bridge.sh("ip link add br0 type bridge");
    bridge.sh("ip link set br0 up");
    let end = |n: u32| {
        let ns = Netns::new(&format!("{name}-{n}"));
        bridge.sh(&format!("ip link add p{n} type veth peer name eth0 netns {name}-{n}"));
        bridge.sh(&format!("ip link set p{n} master br0 up"));
        ns.sh(&format!("ip address add 10.8.0.{n}/24 dev eth0"));
        ns.sh(&format!("ip address add fd08::{n}/64 dev eth0 nodad"));
        ns.sh("ip link set eth0 up");
        ns
    };
    let (a, b) = (end(1), end(2));
    (bridge, a, b)
}

fn panics(f: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(f)).is_err()
}

#[test]
fn traffic_over_a_linux_bridge() {
    let (_bridge, a, b) = linux_bridge("kit-lb");
    for to in ["10.8.0.2", "fd08::2"] {
        let to = to.parse().unwrap();
        ping::assert_reaches(&a, to);
        transfer::assert_tcp(&a, &b, to, 50_000_000);
        transfer::assert_udp_echo(&a, &b, to, (1..=1452).step_by(97).chain([8000]));
    }
    let pinger = Pinger::start(&a, "10.8.0.2".parse().unwrap(), 0.01);
    std::thread::sleep(Duration::from_millis(500));
    let pings = pinger.stop();
    assert!(pings.sent > 5 && pings.lost() == 0, "{pings:?}");
}

#[test]
fn losses_are_seen() {
    let (bridge, a, b) = linux_bridge("kit-loss");
    let to = "10.8.0.2".parse().unwrap();
    ping::assert_reaches(&a, to);
    assert!(panics(|| ping::assert_isolated(&a, to)));
    // A bridge port that is down passes nothing.
    bridge.sh("ip link set p2 down");
    ping::assert_isolated(&a, to);
    assert_eq!(ping::ping(&a, to, 2, 0.1, &[]).lost(), 2);
    let stuck = transfer::Transfer::start(&a, &b, "10.8.0.2".parse().unwrap(), 10, None);
    assert!(stuck.wait(Duration::from_secs(1)).is_err());
}

#[test]
fn answers_of_ping_are_read() {
    let mut answers = Answers::default();
    for line in [
        "PING 10.8.0.2 (10.8.0.2) 56(84) bytes of data.",
        "64 bytes from 10.8.0.2: icmp_seq=1 ttl=64 time=0.02 ms",
        "64 bytes from 10.8.0.2: icmp_seq=1 ttl=64 time=0.03 ms (DUP!)",
        "From 10.8.0.1 icmp_seq=2 Destination Host Unreachable",
        "64 bytes from fd08::2: icmp_seq=4 ttl=64 time=0.02 ms",
        "64 bytes from 10.8.0.2: icmp_seq=7 ttl=64 time=0.02 ms",
    ] {
        answers.read(line);
    }
    assert_eq!(answers.of(4), Pings { sent: 4, received: 2, duplicates: 1 });
    assert_eq!(answers.of(4).lost(), 2);
}

#[test]
fn frames_are_sent_and_captured_byte_for_byte() {
    let (_bridge, a, b) = linux_bridge("kit-raw");
    let capture = Capture::start(&b, "eth0", Direction::In, "");
    let mut raw = Raw::open(&a, "eth0");
    let tags = [Tag { pcp: 5, ..Tag::s(7) }, Tag { dei: true, ..Tag::c(4094) }];
    raw.send(&frame::experiment(frame::BROADCAST, frame::mac(9), &tags, "two tags"));
    raw.send(&frame::experiment(frame::BROADCAST, frame::mac(9), &[], "none"));
    let seen = capture.stop_when_quiet(Duration::from_millis(300));
    assert_eq!(seen.texts(), ["two tags", "none"]);
    let expected = frame::experiment(frame::BROADCAST, frame::mac(9), &tags, "two tags");
    assert_eq!(seen.with_text("two tags"), [&expected]);
    assert_eq!(frame::tags(&expected), tags);
}

#[test]
fn bad_checksums_are_seen() {
    let (_bridge, a, b) = linux_bridge("kit-sum");
    // With the offloads on, what veth delivers carries partial sums: tshark must complain. With them off it
    // must not.
    for (tx, bad_expected) in [("on", true), ("off", false)] {
        a.sh(&format!("ethtool -K eth0 tx {tx}"));
        let capture = Capture::start(&b, "eth0", Direction::In, "udp");
        transfer::assert_udp_echo(&a, &b, "10.8.0.2".parse().unwrap(), 1000..1010);
        let seen = capture.stop_when_quiet(Duration::from_millis(300));
        let (good, bad) = seen.checksums();
        assert_eq!(bad > 0, bad_expected, "tx {tx}: {good} good, {bad} bad");
        assert_eq!(panics(|| seen.assert_checksums_good()), bad_expected);
    }
}

#[test]
fn conservation_is_checked() {
    let port = |rx: u64, replicated: u64, tx: u64, absorbed: u64, drops: serde_json::Value| json!({"name": "p", "rx-packets": rx, "replicated": replicated, "tx-packets": tx, "absorbed": absorbed, "drops": drops});
    let good = json!([port(10, 5, 0, 0, json!({"mtu": 3, "isolated": 1})), port(0, 0, 10, 1, json!({}))]);
    assert!(Sums::of(&good).conserved());
    let lost = json!([port(10, 5, 0, 0, json!({"mtu": 3})), port(0, 0, 10, 1, json!({}))]);
    assert!(!Sums::of(&lost).conserved());
}

#[test]
fn open_vswitch_separates_vlans() {
    let ovs = Ovs::new("kit-ovs");
    let a = ovs.container("kit-ovs-a", "a", &["10.8.0.1/24"], "tag=10");
    let b = ovs.container("kit-ovs-b", "b", &["10.8.0.2/24"], "tag=10");
    let c = ovs.container("kit-ovs-c", "c", &["10.8.0.3/24"], "tag=20");
    ping::assert_reaches(&a, "10.8.0.2".parse().unwrap());
    ping::assert_isolated(&a, "10.8.0.3".parse().unwrap());
    transfer::assert_tcp(&a, &b, "10.8.0.2".parse().unwrap(), 20_000_000);
    assert!(c.interfaces() == ["eth0"] && b.name() == "kit-ovs-b");
}

#[test]
fn namespaces_vanish() {
    let ns = Netns::new("kit-gone");
    let path = ns.path();
    ns.sh("ip link add name br0 type bridge");
    assert_eq!(ns.interfaces(), ["br0"]);
    drop(ns);
    assert!(!path.exists());
}
