//! The daemon ends, one way or another, and comes back: containers see a short silence.

use std::time::Duration;

use serde_json::Value;
use trunkline_tests::pair::Pair;
use trunkline_tests::ping::{self, Pinger};
use trunkline_tests::transfer::Transfer;
use trunkline_tests::{Container, Kind, Lab, Opts, eventually, over_pairs};

/// All that must not change on a container's interface: index, addresses, MAC, MTU, flags, routes.
fn identity(c: &Container) -> (Value, String) {
    let show = || c.ns.sh("ip -j address show dev eth0");
    // The kernel takes a moment to settle on link-local addresses.
    assert!(eventually(Duration::from_secs(5), || !show().contains("tentative")));
    let mut link: Value = serde_json::from_str(&show()).expect("ip -j");
    // What the carrier changes for a moment.
    for key in ["operstate", "flags"] {
        link[0].as_object_mut().expect("a link").remove(key);
    }
    (link, c.ns.sh("ip route show") + &c.ns.sh("ip -6 route show"))
}

over_pairs!(killed_and_restarted_under_load);

/// `kill -9` in the middle of a TCP transfer; the connection goes on after the restart.
fn killed_and_restarted_under_load(pair: Pair) {
    survives(pair, |lab| lab.daemon.kill());
}

over_pairs!(stopped_and_started_under_load);

fn stopped_and_started_under_load(pair: Pair) {
    survives(pair, |lab| lab.daemon.terminate());
}

fn survives(pair: Pair, end: impl Fn(&mut Lab)) {
    let mut lab = Lab::new();
    let (a, b) = pair.containers(&lab, 1500);
    ping::assert_reaches(&a.ns, b.v4);
    ping::assert_reaches(&a.ns, b.v6);
    let before = (identity(&a), identity(&b));
    let bytes = 300_000_000;
    let transfer = Transfer::start(&a.ns, &b.ns, b.v4, bytes, Some(100_000_000));
    let pinger = Pinger::start(&b.ns, a.v6, 0.02);
    for _ in 0..2 {
        std::thread::sleep(Duration::from_millis(700));
        end(&mut lab);
        std::thread::sleep(Duration::from_millis(100));
        lab.start();
    }
    transfer.assert_whole(Duration::from_secs(60), bytes);
    let pings = pinger.stop();
    // Two silences, each well below two seconds even on a busy machine.
    let silence = f64::from(pings.lost()) * 0.02;
    println!("{pings:?}: silent for {silence:.2} s in two restarts");
    assert!(pings.sent > 50 && silence < 4.0, "{pings:?}");
    assert_eq!((identity(&a), identity(&b)), before);
    ping::assert_reaches(&a.ns, b.v6);
    // Configuration is the same, and goes on being editable.
    lab.assert_conserved();
    lab.ok(&["port", "set", "a", "--isolated"]);
    lab.ok(&["port", "del", "b"]);
}

#[test]
fn a_release_leaves_nothing() {
    let mut lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    let b = lab.container(Kind::Afpacket, "b");
    lab.ok(&["port", "add", "br0", "host0", "--type", "host", "--address", "10.7.255.254/16"]);
    ping::assert_reaches(&a.ns, b.v4);
    lab.release();
    assert_eq!(a.ns.interfaces(), [""; 0], "the TAP is gone");
    assert_eq!(lab.ns.interfaces(), [b.veth()], "only what the test made is left");
    let gone = eventually(Duration::from_secs(20), || lab.daemon.keepers().is_empty());
    assert!(gone, "processes left: {:?}", lab.daemon.keepers());
    // The state is not gone: a later start makes everything again.
    lab.start();
    lab.await_state("a", "up");
    ping::assert_reaches(&a.ns, b.v4);
    ping::assert_reaches(&lab.ns, a.v4);
}

#[test]
fn daemon_and_keeper_killed() {
    let mut lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    let b = lab.container(Kind::Tap, "b");
    ping::assert_reaches(&a.ns, b.v4);
    let keepers = lab.daemon.keepers();
    assert_eq!(keepers.len(), 1, "one keeper holds the TAPs: {keepers:?}");
    lab.daemon.kill();
    // Without the daemon the interfaces stay.
    assert_eq!(a.ns.interfaces(), ["eth0"]);
    kill(keepers[0]);
    assert!(
        eventually(Duration::from_secs(5), || a.ns.interfaces().is_empty()),
        "nobody holds the TAP any more"
    );
    lab.start();
    lab.await_state("a", "up");
    lab.await_state("b", "up");
    ping::assert_reaches(&a.ns, b.v4);
    ping::assert_reaches(&a.ns, b.v6);
}

#[test]
fn the_keeper_killed_while_the_daemon_runs() {
    let mut lab = Lab::new();
    lab.daemon.allow("keeper");
    let a = lab.container(Kind::Tap, "a");
    let b = lab.container(Kind::Tap, "b");
    ping::assert_reaches(&a.ns, b.v4);
    kill(lab.daemon.keepers()[0]);
    ping::assert_reaches(&a.ns, b.v4);
    // A new one takes over, so that the next restart is as harmless as ever.
    let again = eventually(Duration::from_secs(15), || lab.daemon.keepers().len() == 1);
    assert!(again, "no new keeper");
    let index = identity(&a);
    std::thread::sleep(Duration::from_millis(500));
    lab.daemon.kill();
    lab.start();
    ping::assert_reaches(&a.ns, b.v4);
    assert_eq!(identity(&a), index);
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(pid as i32).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("kill");
}

#[test]
fn a_namespace_deleted_while_the_daemon_is_away() {
    let mut lab = Lab::new();
    lab.daemon.allow("port");
    let a = lab.container(Kind::Tap, "a");
    let b = lab.container(Kind::Tap, "b");
    ping::assert_reaches(&a.ns, b.v4);
    lab.daemon.kill();
    let b_v4 = b.v4;
    drop(b);
    lab.start();
    assert!(!lab.await_state("b", "down").is_empty());
    lab.await_state("a", "up");
    ping::assert_isolated(&a.ns, b_v4);
    let c = lab.container(Kind::Tap, "c");
    ping::assert_reaches(&a.ns, c.v4);
}

#[test]
fn the_same_flags_after_a_restart() {
    let mut lab = Lab::new();
    let a = lab.container_with(Kind::Tap, "a", &Opts::args(&["--queues", "2", "--vlan", "10", "--isolated"]));
    let before = lab.json(&["port", "show", "a"]);
    lab.ok(&["fdb", "add", "br0", "02:00:00:00:99:99", "a", "--vlan", "10"]);
    let export = lab.ok(&["export"]);
    lab.daemon.kill();
    lab.start();
    lab.await_state("a", "up");
    let mut after = lab.json(&["port", "show", "a"]);
    after["macs"] = before["macs"].clone();
    assert_eq!(after, before);
    assert_eq!(lab.ok(&["export"]), export);
    assert_eq!(a.ns.interfaces(), ["eth0"]);
}
