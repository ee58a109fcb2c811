//! Changing a running switch: settings of a port, many edits at once, edits that cannot be kept.

use trunkline_tests::capture::{Capture, Direction};
use trunkline_tests::{Kind, Lab, Netns, Opts, cmd, eventually, ping, transfer};

use std::time::Duration;

#[test]
fn a_port_changes_while_traffic_passes() {
    let lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    let b = lab.container(Kind::Tap, "b");
    ping::assert_reaches(&a.ns, b.v4);
    let index = |ns: &Netns| ns.sh("ip -o link show dev eth0").split(':').next().map(str::to_owned);
    let before = index(&a.ns);
    let transfer = transfer::Transfer::start(&a.ns, &b.ns, b.v4, 400_000_000, Some(150_000_000));
    for offload in ["off", "auto", "off"] {
        std::thread::sleep(Duration::from_millis(300));
        lab.ok(&["port", "set", "b", "--offload", offload]);
        lab.ok(&["port", "set", "a", "--offload", offload]);
    }
    transfer.assert_whole(Duration::from_secs(60), 400_000_000);
    // What leaves is segmented now.
    let capture = Capture::start(&b.ns, "eth0", Direction::In, "tcp");
    transfer::assert_tcp(&a.ns, &b.ns, b.v4, 1_000_000);
    let seen = capture.stop_when_quiet(Duration::from_millis(300));
    seen.assert_checksums_good();
    assert!(seen.frames.iter().all(|f| f.len() <= 1514));

    // Addresses and MTU of the same interface.
    lab.ok(&["port", "set", "a", "--address", "10.7.77.1/16", "--mtu", "1400"]);
    let shown = a.ns.sh("ip address show dev eth0");
    assert!(shown.contains("10.7.77.1/16") && shown.contains("mtu 1400"), "{shown}");
    assert!(!shown.contains("10.7.0.1/16"), "the address that was replaced is gone: {shown}");
    ping::assert_reaches(&b.ns, "10.7.77.1".parse().unwrap());
    assert_eq!(index(&a.ns), before, "the interface is the same");
    lab.assert_conserved();
}

#[test]
fn a_port_moves_to_another_bridge() {
    let lab = Lab::new();
    lab.ok(&["bridge", "add", "br1"]);
    let a = lab.container(Kind::Tap, "a");
    let b = lab.container(Kind::Tap, "b");
    let c = lab.container_with(Kind::Tap, "c", &Opts { bridge: "br1", ..Opts::default() });
    ping::assert_reaches(&a.ns, b.v4);
    lab.ok(&["port", "set", "a", "--bridge", "br1"]);
    ping::assert_reaches(&a.ns, c.v4);
    ping::assert_isolated(&a.ns, b.v4);
    assert_eq!(lab.fdb_port("br0", a.mac), None, "forgotten by its old bridge");
    assert_eq!(lab.fdb_port("br1", a.mac).as_deref(), Some("a"));
}

#[test]
fn edits_at_once_each_happen_once() {
    let lab = Lab::new();
    let ns = Netns::new(&lab.name("many"));
    let names: Vec<String> = (0..16).map(|n| format!("p{n}")).collect();
    std::thread::scope(|scope| {
        for name in &names {
            // Twice each: one of the two is told that the name is taken.
            let add =
                || lab.daemon.cli(&["port", "add", "br0", name, "--type", "tap", "--netns", ns.name()]).code;
            let first = scope.spawn(add);
            let second = scope.spawn(add);
            scope.spawn(move || {
                let mut codes = [first.join().unwrap(), second.join().unwrap()];
                codes.sort();
                assert_eq!(codes, [0, 1], "{name}");
            });
        }
    });
    let mut made = ns.interfaces();
    made.sort();
    let mut wanted = names.clone();
    wanted.sort();
    assert_eq!(made, wanted);
    std::thread::scope(|scope| {
        for name in &names {
            scope.spawn(|| lab.ok(&["port", "del", name]));
        }
    });
    assert_eq!(ns.interfaces(), [""; 0]);
}

#[test]
fn ports_that_come_and_go_leave_nothing_behind() {
    let lab = Lab::new();
    let ns = Netns::new(&lab.name("churn"));
    lab.ns.sh("ip link add name left type veth peer name right");
    let descriptors = || {
        let count = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).expect("runs").count();
        let keepers: usize = lab.daemon.keepers().into_iter().map(count).sum();
        (count(lab.daemon.pid()), keepers)
    };
    let round = || {
        lab.ok(&["port", "add", "br0", "t", "--type", "tap", "--netns", ns.name(), "--queues", "2"]);
        lab.ok(&["port", "add", "br0", "v", "--type", "afpacket", "--interface", "left"]);
        lab.ok(&["port", "add", "br0", "h", "--type", "host"]);
        lab.fails(&["port", "add", "br0", "x", "--type", "tap", "--netns", "nonamespace"], &["nonamespace"]);
        for port in ["t", "v", "h"] {
            lab.ok(&["port", "del", port]);
        }
    };
    // One round, and a port that stays: whatever is opened once is open.
    lab.container(Kind::Tap, "stays");
    let stays = lab.container(Kind::Tap, "stays2");
    round();
    let before = descriptors();
    for _ in 0..20 {
        round();
    }
    // Twenty rounds would leak twenty; fewer than before is a connection of the API that has ended since.
    let no_more = eventually(Duration::from_secs(5), || {
        let now = descriptors();
        now.0 <= before.0 && now.1 <= before.1
    });
    assert!(no_more, "descriptors of daemon and keeper: {before:?} before, {:?} after", descriptors());
    assert_eq!(ns.interfaces(), [""; 0]);
    drop(stays);
}

#[test]
fn an_edit_that_cannot_be_kept_is_undone() {
    let lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    let before = lab.ok(&["export"]);
    // The state directory cannot be written any more. (Not in the daemon's own view only: the test and the
    // daemon share the mount namespace of the sandbox.)
    let state = lab.daemon.state_dir.to_str().unwrap().to_owned();
    cmd::ok("mount", &["--bind", &state, &state]);
    cmd::ok("mount", &["-o", "remount,bind,ro", &state]);
    let other = Netns::new(&lab.name("other"));
    lab.fails(&["bridge", "add", "br1"], &["state"]);
    lab.fails(&["port", "add", "br0", "p", "--type", "tap", "--netns", other.name()], &["state"]);
    lab.fails(&["port", "set", "a", "--mtu", "1300", "--address", "10.7.9.9/16"], &["state"]);
    lab.fails(&["port", "del", "a"], &["state"]);
    assert_eq!(lab.ok(&["export"]), before);
    assert_eq!(other.interfaces(), [""; 0], "the TAP that was made is gone again");
    let shown = a.ns.sh("ip address show dev eth0");
    assert!(
        shown.contains("10.7.0.1/16") && shown.contains("mtu 1500") && !shown.contains("10.7.9.9"),
        "{shown}"
    );
    cmd::ok("umount", &[&state]);
    let b = lab.container(Kind::Tap, "b");
    ping::assert_reaches(&a.ns, b.v4);
}
