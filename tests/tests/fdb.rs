//! Learning, forgetting, and the roles of ports.

use std::time::Duration;

use trunkline_tests::capture::{Capture, Direction};
use trunkline_tests::frame::{self, BROADCAST, experiment, mac};
use trunkline_tests::raw::Raw;
use trunkline_tests::{Container, Kind, Lab, Opts, eventually, over_kinds, ping};

/// The texts that arrive in each container while `act` runs.
fn texts(containers: &[&Container], act: impl FnOnce()) -> Vec<Vec<String>> {
    let start = |c: &&Container| Capture::start(&c.ns, "eth0", Direction::In, "ether proto 0x88b5");
    let captures: Vec<Capture> = containers.iter().map(start).collect();
    act();
    captures.into_iter().map(|c| c.stop_when_quiet(Duration::from_millis(300)).texts()).collect()
}

fn learned_on(lab: &Lab, port: &str) -> usize {
    lab.fdb("br0").iter().filter(|r| r["port"] == port && r["static"] == false).count()
}

over_kinds!(isolated_ports);

fn isolated_ports(kind: Kind) {
    let lab = Lab::new();
    let a = lab.container_with(kind, "a", &Opts::args(&["--isolated"]));
    let b = lab.container_with(kind, "b", &Opts::args(&["--isolated"]));
    let server = lab.container(kind, "server");
    ping::assert_reaches(&a.ns, server.v4);
    ping::assert_reaches(&server.ns, b.v6);
    ping::assert_isolated(&a.ns, b.v4);
    ping::assert_isolated(&b.ns, a.v6);
    // Known unicast neither.
    let seen = texts(&[&b, &server], || {
        let mut raw = Raw::open(&a.ns, "eth0");
        raw.send(&experiment(b.mac, a.mac, &[], "to b"));
        raw.send(&experiment(server.mac, a.mac, &[], "to server"));
        raw.send(&experiment(BROADCAST, a.mac, &[], "to all"));
    });
    assert_eq!(seen[0], [""; 0]);
    assert_eq!(seen[1], ["to server", "to all"]);
    lab.await_drops("a", "isolated", 1);
    lab.assert_conserved();
}

over_kinds!(split_horizon_groups);

fn split_horizon_groups(kind: Kind) {
    let lab = Lab::new();
    let group = |n| Opts::args(&["--split-horizon-group", n]);
    let a = lab.container_with(kind, "a", &group("1"));
    let b = lab.container_with(kind, "b", &group("1"));
    let c = lab.container_with(kind, "c", &group("2"));
    ping::assert_reaches(&a.ns, c.v4);
    ping::assert_reaches(&c.ns, b.v4);
    ping::assert_isolated(&a.ns, b.v4);
    Raw::open(&a.ns, "eth0").send(&experiment(b.mac, a.mac, &[], "to b"));
    lab.await_drops("a", "split-horizon", 1);
    lab.assert_conserved();
}

over_kinds!(learning_and_flooding);

fn learning_and_flooding(kind: Kind) {
    let lab = Lab::new();
    let a = lab.container(kind, "a");
    let b = lab.container_with(kind, "b", &Opts::args(&["--no-learning"]));
    let c = lab.container_with(kind, "c", &Opts::args(&["--no-flood"]));
    let d = lab.container(kind, "d");
    ping::assert_reaches(&a.ns, d.v4);
    ping::assert_reaches(&b.ns, a.v4);
    assert_eq!(lab.fdb_port("br0", b.mac), None, "not learned on b");
    Raw::open(&c.ns, "eth0").send(&experiment(BROADCAST, c.mac, &[], "here I am"));
    assert!(eventually(Duration::from_secs(3), || lab.fdb_port("br0", c.mac).as_deref() == Some("c")));
    let seen = texts(&[&b, &c, &d], || {
        let mut raw = Raw::open(&a.ns, "eth0");
        raw.send(&experiment(d.mac, a.mac, &[], "known d"));
        raw.send(&experiment(c.mac, a.mac, &[], "known c"));
        raw.send(&experiment(mac(999), a.mac, &[], "unknown"));
        raw.send(&experiment(b.mac, a.mac, &[], "never learned"));
        raw.send(&experiment(BROADCAST, a.mac, &[], "all"));
        raw.send(&experiment([0x01, 0, 0x5e, 1, 1, 1], a.mac, &[], "group"));
    });
    assert_eq!(seen[0], ["unknown", "never learned", "all", "group"], "b");
    assert_eq!(seen[1], ["known c"], "c takes no floods");
    assert_eq!(seen[2], ["known d", "unknown", "never learned", "all", "group"], "d");
    // To an address behind the port it came from.
    let before = lab.drops("a", "same-port");
    Raw::open(&a.ns, "eth0").send(&experiment(a.mac, mac(998), &[], "to myself"));
    lab.await_drops("a", "same-port", before + 1);
    lab.assert_conserved();
}

over_kinds!(limits_static_entries_moves_and_flushes);

fn limits_static_entries_moves_and_flushes(kind: Kind) {
    let lab = Lab::new();
    let a = lab.container_with(kind, "a", &Opts::args(&["--max-macs", "5"]));
    let b = lab.container(kind, "b");
    let c = lab.container(kind, "c");
    ping::assert_reaches(&c.ns, b.v4);
    let mut from_a = Raw::open(&a.ns, "eth0");
    let mut from_b = Raw::open(&b.ns, "eth0");
    for n in 100..140 {
        from_a.send(&experiment(BROADCAST, mac(n), &[], "source"));
        from_b.send(&experiment(BROADCAST, mac(n + 100), &[], "source"));
    }
    assert!(eventually(Duration::from_secs(3), || learned_on(&lab, "b") >= 41));
    assert!((1..=5).contains(&learned_on(&lab, "a")), "{} learned on a", learned_on(&lab, "a"));
    assert_eq!(lab.fdb_port("br0", c.mac).as_deref(), Some("c"), "another port's entry is not evicted");

    // An address moves to where it was seen last.
    from_b.send(&experiment(BROADCAST, mac(500), &[], "first here"));
    assert!(eventually(Duration::from_secs(3), || lab.fdb_port("br0", mac(500)).as_deref() == Some("b")));
    Raw::open(&c.ns, "eth0").send(&experiment(BROADCAST, mac(500), &[], "then there"));
    assert!(eventually(Duration::from_secs(3), || lab.fdb_port("br0", mac(500)).as_deref() == Some("c")));

    // A static one does not.
    lab.ok(&["fdb", "add", "br0", &frame::mac_text(mac(600)), "c"]);
    lab.ok(&["fdb", "add", "br0", &frame::mac_text(mac(600)), "c"]);
    let seen = texts(&[&b, &c], || {
        from_b.send(&experiment(BROADCAST, mac(600), &[], "impostor"));
        from_a.send(&experiment(mac(600), mac(700), &[], "to the static one"));
    });
    assert_eq!(seen[0], [""; 0]);
    assert_eq!(seen[1], ["impostor", "to the static one"]);
    assert_eq!(lab.fdb_port("br0", mac(600)).as_deref(), Some("c"));

    // Flushing one port's entries, then all; static ones stay until deleted.
    lab.ok(&["fdb", "flush", "br0", "--port", "b"]);
    assert!(learned_on(&lab, "b") <= 1, "the container itself may have spoken again");
    assert_eq!(lab.fdb_port("br0", mac(500)).as_deref(), Some("c"));
    lab.ok(&["fdb", "flush", "br0"]);
    assert_eq!(lab.fdb_port("br0", mac(500)), None);
    assert_eq!(lab.fdb_port("br0", mac(600)).as_deref(), Some("c"));
    lab.ok(&["fdb", "del", "br0", &frame::mac_text(mac(600))]);
    assert_eq!(lab.fdb_port("br0", mac(600)), None);
    lab.fails(&["fdb", "del", "br0", &frame::mac_text(mac(600))], &[&frame::mac_text(mac(600))]);
    lab.assert_conserved();
}

#[test]
fn addresses_age() {
    let lab = Lab::new();
    lab.ok(&["bridge", "add", "br1", "--ageing", "2"]);
    let a = lab.container_with(Kind::Tap, "a", &Opts { bridge: "br1", ..Opts::default() });
    lab.container_with(Kind::Tap, "b", &Opts { bridge: "br1", ..Opts::default() });
    Raw::open(&a.ns, "eth0").send(&experiment(BROADCAST, mac(100), &[], "once"));
    let known = || lab.fdb_port("br1", mac(100)).is_some();
    assert!(eventually(Duration::from_secs(3), known));
    assert!(eventually(Duration::from_secs(10), || !known()), "still known long after two seconds");
}

#[test]
fn bridges_are_separate() {
    let lab = Lab::new();
    lab.ok(&["bridge", "add", "br1"]);
    let a = lab.container(Kind::Tap, "a");
    let b = lab.container_with(Kind::Tap, "b", &Opts { bridge: "br1", ..Opts::default() });
    let c = lab.container(Kind::Tap, "c");
    ping::assert_reaches(&a.ns, c.v4);
    ping::assert_isolated(&a.ns, b.v4);
    assert!(lab.fdb("br1").iter().all(|r| r["port"] == "b"));
    lab.assert_conserved();
}

#[test]
fn a_flood_limit_bounds_broadcasts() {
    let lab = Lab::new();
    let a = lab.container_with(Kind::Tap, "a", &Opts::args(&["--flood-limit", "100"]));
    let b = lab.container(Kind::Tap, "b");
    ping::assert_reaches(&a.ns, b.v4);
    let mut raw = Raw::open(&a.ns, "eth0");
    for _ in 0..5000 {
        raw.send(&experiment(BROADCAST, a.mac, &[], "noise"));
    }
    lab.await_drops("a", "flood-limit", 2000);
    // Known unicast is not limited.
    assert_eq!(ping::ping(&a.ns, b.v4, 20, 0.01, &[]).lost(), 0);
    lab.assert_conserved();
}
