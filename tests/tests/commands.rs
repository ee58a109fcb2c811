//! Commands and files, right and wrong: one clear line, a non-zero exit code, nothing half done.

use std::process::Command;
use std::time::Duration;

use trunkline_tests::daemon::binary;
use trunkline_tests::http::request;
use trunkline_tests::{Kind, Lab, Opts, cmd, eventually, ping};

/// What a refused command must not change.
fn world(lab: &Lab) -> (String, Vec<String>) {
    (lab.ok(&["export"]), lab.ns.interfaces())
}

#[test]
fn wrong_commands_change_nothing() {
    let lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    lab.ns.sh("ip link add name busy0 type veth peer name busy1");
    lab.ns.sh("ip address add 192.0.2.1/24 dev busy0");
    lab.ns.sh("ip link add name taken type bridge");
    let before = world(&lab);
    let tap = |more: &[&'static str]| [&["port", "add", "br0", "new", "--type", "tap"], more].concat();
    let ns = a.ns.name().to_owned();
    let mut wrong: Vec<(Vec<&str>, &[&str])> = vec![
        (vec!["port", "add", "nobridge", "p", "--type", "tap"], &["nobridge", "bridge add"]),
        (vec!["bridge", "add", "br0"], &["br0"]),
        (vec!["bridge", "del", "nobridge"], &["nobridge"]),
        (vec!["bridge", "del", "br0"], &["br0", "port"]),
        (vec!["bridge", "show", "nobridge"], &["nobridge"]),
        (vec!["port", "add", "br0", "a", "--type", "tap"], &["a"]),
        (vec!["port", "del", "noport"], &["noport"]),
        (vec!["port", "show", "noport"], &["noport"]),
        (vec!["port", "set", "noport", "--vlan", "5"], &["noport"]),
        (vec!["port", "set", "a", "--vlan", "5000"], &["5000"]),
        (vec!["stats", "noport"], &["noport"]),
        (vec!["fdb", "show", "nobridge"], &["nobridge"]),
        (vec!["fdb", "add", "br0", "01:00:5e:00:00:01", "a"], &["01:00:5e:00:00:01"]),
        (vec!["fdb", "add", "br0", "02:00:00:00:00:01", "noport"], &["noport"]),
        (vec!["port", "add", "br0", "p", "--type", "afpacket", "--interface", "nothere"], &["nothere"]),
        (
            vec!["port", "add", "br0", "p", "--type", "afpacket", "--interface", "busy0"],
            &["busy0", "--force"],
        ),
        (vec!["port", "add", "br0", "p", "--type", "host", "--ifname", "taken"], &["taken"]),
        (vec!["port", "add", "br0", "p", "--type", "replay", "--file", "/no/such.pcap"], &["/no/such.pcap"]),
        (tap(&["--netns", "nonamespace"]), &["nonamespace"]),
        (tap(&["--netns", "4000000"]), &["4000000"]),
        (tap(&["--vlan", "5000"]), &["5000", "4094"]),
        (tap(&["--vlan", "0"]), &["0"]),
        (tap(&["--trunks", "10,x"]), &["10,x"]),
        (tap(&["--mtu", "60"]), &["60"]),
        (tap(&["--mtu", "1000", "--address", "fd07::1/64"]), &["1280"]),
        (tap(&["--address", "10.7.0.300/24"]), &["10.7.0.300/24"]),
        (tap(&["--mac", "01:00:00:00:00:01"]), &["01:00:00:00:00:01"]),
        (tap(&["--ifname", "a-name-that-is-too-long"]), &["a-name-that-is-too-long"]),
        (tap(&["--queues", "1000"]), &["1000"]),
        (tap(&["--ifname", "taken"]), &["taken"]),
        (tap(&["--vlan-mode", "access"]), &["access", "vlan"]),
        (tap(&["--adopt", "--ifname", "nosuchtap"]), &["nosuchtap"]),
    ];
    // The interface's name is taken in the container.
    wrong.push((
        vec!["port", "add", "br0", "p", "--type", "tap", "--netns", &ns, "--ifname", "eth0"],
        &["eth0"],
    ));
    for (args, words) in wrong {
        lab.fails(&args, words);
        assert_eq!(world(&lab), before, "after {args:?}");
    }
    // Wrong grammar is answered by usage, not by the daemon, and fails too.
    for args in [&["port", "frobnicate"][..], &["port", "add", "br0"], &["--no-such-option"]] {
        let out = lab.daemon.cli(args);
        assert!(out.code != 0 && !out.stderr.is_empty(), "{args:?}: {out:?}");
    }
    // With --force the interface with an address is taken.
    lab.ok(&["port", "add", "br0", "p", "--type", "afpacket", "--interface", "busy0", "--force"]);
}

#[test]
fn without_a_daemon_or_the_right_to_talk_to_it() {
    let mut lab = Lab::unstarted(&[]);
    lab.fails(&["show"], &["daemon"]);
    lab.fails(&["bridge", "add", "br0"], &["trunkline daemon"]);
    lab.start();
    // A second daemon on the same run directory is refused and does no harm.
    let mut second = Command::new(binary());
    second
        .arg("--run-dir")
        .arg(&lab.daemon.run_dir)
        .arg("--state-dir")
        .arg(lab.dir().join("other"))
        .arg("daemon");
    let out = lab.ns.enter(|| cmd::output(&mut second));
    assert!(out.code != 0 && out.stderr.contains("runs already"), "{out:?}");
    lab.ok(&["bridge", "add", "br0"]);
    // Another user. In a user namespace there is none.
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap();
    if map.split_whitespace().nth(2) != Some("1") {
        let binary = binary();
        let run_dir = lab.daemon.run_dir.to_str().unwrap();
        let args =
            ["--reuid=65534", "--clear-groups", binary.to_str().unwrap(), "--run-dir", run_dir, "show"];
        let out = cmd::run("setpriv", &args);
        // Where the binary itself is out of nobody's reach there is nothing to see.
        if !out.stderr.starts_with("setpriv:") {
            assert!(out.code != 0 && out.stderr.trim_end().lines().count() == 1, "{out:?}");
            assert!(out.stderr.to_lowercase().contains("permission"), "{out:?}");
        }
    }
    lab.daemon.kill();
    lab.fails(&["show"], &["daemon"]);
}

#[test]
fn a_daemon_without_privileges_says_so() {
    let lab = Lab::unstarted(&[]);
    let (run, state) = (lab.dir().join("run"), lab.dir().join("state"));
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set=-all", "--inh-caps=-all"]).arg(binary());
    command.arg("--run-dir").arg(&run).arg("--state-dir").arg(&state).arg("daemon");
    let log = std::fs::File::create(lab.dir().join("log")).unwrap();
    command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).stderr(log);
    let mut child = lab.ns.enter(|| command.spawn()).unwrap();
    let said = || std::fs::read_to_string(lab.dir().join("log")).unwrap();
    let socket = run.join("trunkline.sock");
    let settled =
        eventually(Duration::from_secs(10), || child.try_wait().unwrap().is_some() || socket.exists());
    assert!(settled, "neither up nor ended: {}", said());
    if child.try_wait().unwrap().is_none() {
        // It runs: then an edit that needs the privilege is refused, and leaves nothing.
        lab.ok(&["bridge", "add", "br0"]);
        lab.fails(&["port", "add", "br0", "p", "--type", "tap"], &["permi"]);
        assert_eq!(lab.json(&["port", "list"]).as_array().unwrap().len(), 0);
        child.kill().unwrap();
        child.wait().unwrap();
    } else {
        assert!(said().to_lowercase().contains("permi") || said().contains("root"), "{}", said());
    }
}

#[test]
fn a_corrupt_state_file_is_refused_and_kept() {
    let mut lab = Lab::new();
    lab.ok(&["bridge", "add", "br1"]);
    lab.daemon.terminate();
    let file = lab.daemon.state_dir.join("state.toml");
    let good = std::fs::read_to_string(&file).unwrap();
    let bad_line = 1 + good.lines().count();
    let corrupt = format!("{}\nageing = = 5\n", good.trim_end());
    for (text, line) in
        [(corrupt.as_str(), format!("line {bad_line}")), ("\u{0}\u{1}garbage", "line 1".to_owned())]
    {
        std::fs::write(&file, text).unwrap();
        lab.daemon.spawn(&lab.ns);
        assert_ne!(lab.daemon.wait(Duration::from_secs(10)), 0);
        let log = lab.daemon.log();
        let last = log.lines().last().unwrap_or_default();
        assert!(last.contains(&line) && last.contains("state.toml"), "{last}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text, "the file is kept");
    }
    // Cut off in the middle, as a full disk would leave it if it were not written with care.
    let middle_of_a_key = good.rfind("ageing").unwrap() + 3;
    std::fs::write(&file, &good[..middle_of_a_key]).unwrap();
    lab.daemon.spawn(&lab.ns);
    assert_ne!(lab.daemon.wait(Duration::from_secs(10)), 0);
    std::fs::write(&file, &good).unwrap();
    lab.daemon.allow("state");
    lab.start();
    assert!(lab.ok(&["bridge", "list"]).contains("br1"));
}

#[test]
fn apply_is_idempotent_and_all_or_nothing() {
    let lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    let ns = lab.name("file");
    let file_ns = trunkline_tests::Netns::new(&ns);
    let path = lab.dir().join("net.toml");
    let path = path.to_str().unwrap();
    let port = |name: &str, netns: &str, n: u32| {
        format!(
            "[port.{name}]\nbridge = \"br9\"\ntype = \"tap\"\nnetns = \"{netns}\"\naddresses = [\"10.9.0.{n}/24\"]\n"
        )
    };
    let write = |parts: &[String]| std::fs::write(path, parts.concat()).unwrap();

    // One port of three cannot be made: none is, and the bridge neither.
    let before = world(&lab);
    write(&["[bridge.br9]\n".into(), port("x", &ns, 1), port("y", "nonamespace", 2), port("z", &ns, 3)]);
    lab.fails(&["apply", path], &["nonamespace"]);
    assert_eq!(world(&lab), before);
    assert_eq!(file_ns.interfaces(), [""; 0]);

    // Errors in the file name their line.
    write(&["[bridge.br9]\n".into(), "ageing = = 3\n".into()]);
    lab.fails(&["apply", path], &["line 2"]);
    write(&[
        "[bridge.br9]\nageing = 30\n".into(),
        "[port.x]\nbridge = \"br9\"\ntype = \"tap\"\nvlan = 5000\n".into(),
    ]);
    lab.fails(&["apply", path], &["5000", "line"]);
    write(&["[bridge.br9]\nagein = 30\n".into()]);
    lab.fails(&["apply", path], &["agein", "line 2"]);
    lab.fails(&["apply", "/no/such/file.toml"], &["/no/such/file.toml"]);
    assert_eq!(world(&lab), before);

    // A dry run says what it would do and does nothing.
    write(&["[bridge.br9]\n".into(), port("x", &ns, 1), port("y", &ns, 2)]);
    assert!(lab.ok(&["apply", "--dry-run", path]).contains('x'));
    assert_eq!(world(&lab), before);
    // Then it is done, and what the file does not know is left alone.
    lab.ok(&["apply", path]);
    let mut names = file_ns.interfaces();
    names.sort();
    assert_eq!(names, ["x", "y"]);
    assert_eq!(a.ns.interfaces(), ["eth0"]);
    let applied = world(&lab);
    let index = file_ns.sh("ip -o link show dev x");
    // Again: nothing changes, not even the interface.
    lab.ok(&["apply", path]);
    assert_eq!(world(&lab), applied);
    assert_eq!(file_ns.sh("ip -o link show dev x"), index);
    // A port gone from the file goes, one that changed changes in place, one that is new comes.
    let changed = port("x", &ns, 1) + "vlan = 7\n";
    write(&["[bridge.br9]\n".into(), changed, port("z", &ns, 3)]);
    lab.ok(&["apply", path]);
    let mut names = file_ns.interfaces();
    names.sort();
    assert_eq!(names, ["x", "z"]);
    assert_eq!(lab.json(&["port", "show", "x"])["spec"]["vlan"], 7);
    let link = |text: &str| text.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    assert_eq!(link(&file_ns.sh("ip -o link show dev x")), link(&index), "the same interface");

    // What is exported and applied changes nothing.
    let exported = lab.ok(&["export"]);
    std::fs::write(path, &exported).unwrap();
    let revision = revision_of(&lab);
    lab.ok(&["apply", path]);
    assert_eq!(lab.ok(&["export"]), exported);
    assert_eq!(a.ns.interfaces(), ["eth0"]);
    let again = revision_of(&lab);
    lab.ok(&["apply", path]);
    assert_eq!(revision_of(&lab), again, "the second time, at revision {revision}, nothing is edited");
}

/// Grows with every edit.
fn revision_of(lab: &Lab) -> u64 {
    let (status, body) = request(&lab.daemon.run_dir.join("trunkline.sock"), "GET", "/v1/status", None);
    assert_eq!(status, 200);
    body["revision"].as_u64().expect("a number")
}

#[test]
fn a_daemon_started_with_a_file() {
    let dir = tempfile::TempDir::new().unwrap();
    let path = dir.path().join("net.toml");
    std::fs::write(
        &path,
        "[bridge.br0]\n[port.host0]\nbridge = \"br0\"\ntype = \"host\"\naddresses = [\"10.7.0.1/24\"]\n",
    )
    .unwrap();
    let mut lab = Lab::unstarted(&["--config", path.to_str().unwrap()]);
    lab.start();
    lab.await_state("host0", "up");
    assert!(lab.ns.interfaces().contains(&"host0".to_owned()));
    lab.daemon.terminate();
    std::fs::write(&path, "[bridge.br0]\nageing = x\n").unwrap();
    lab.daemon.spawn(&lab.ns);
    assert_ne!(lab.daemon.wait(Duration::from_secs(10)), 0);
    let log = lab.daemon.log();
    assert!(log.lines().last().unwrap_or_default().contains("line 2"), "{log}");
}

#[test]
fn every_verb_helps_with_an_example_and_reads_as_json() {
    let lab = Lab::new();
    lab.container(Kind::Tap, "a");
    let verbs = "daemon, stop, bridge add, bridge set, bridge del, bridge list, bridge show, port add, port set, port del, \
                 port list, port show, fdb show, fdb add, fdb del, fdb flush, show, stats, drops, watch, apply, export, \
                 container attach, container detach, container list, completions, man";
    for verb in verbs.split(", ") {
        let args: Vec<&str> = verb.split(' ').chain(["--help"]).collect();
        let help = lab.ok(&args);
        assert!(help.contains("Example"), "no example in the help of {verb}:\n{help}");
    }
    let reads = "bridge list, bridge show br0, port list, port show a, fdb show br0, show, stats, stats a, drops, \
                 container list, export";
    for read in reads.split(", ") {
        let args: Vec<&str> = read.split(' ').collect();
        lab.json(&args);
        lab.ok(&args);
    }
    let shown = lab.ok(&["show"]);
    assert!(shown.contains("br0") && shown.contains("10.7.0.1"), "{shown}");
    for shell in ["bash", "zsh", "fish"] {
        assert!(lab.ok(&["completions", shell]).contains("trunkline"));
    }
}

#[test]
fn a_container_by_namespace_name() {
    let lab = Lab::new();
    let a = lab.container(Kind::Tap, "a");
    let ns = trunkline_tests::Netns::new(&lab.name("ct"));
    let name = format!("netns:{}", ns.name());
    lab.ok(&["container", "attach", &name, "br0", "--ifname", "net1", "--address", "10.7.60.1/16"]);
    assert_eq!(ns.interfaces(), ["net1"]);
    ping::assert_reaches(&a.ns, "10.7.60.1".parse().unwrap());
    assert!(lab.ok(&["container", "list"]).contains(ns.name()));
    lab.ok(&["container", "detach", &name]);
    assert_eq!(ns.interfaces(), [""; 0]);
    lab.fails(&["container", "detach", &name], &[ns.name()]);
    lab.fails(&["container", "attach", "netns:nosuch", "br0"], &["nosuch"]);
}

#[test]
fn deleting_a_bridge_with_its_ports() {
    let lab = Lab::new();
    let a = lab.container_with(Kind::Tap, "a", &Opts::default());
    lab.fails(&["bridge", "del", "br0"], &["--force"]);
    lab.ok(&["bridge", "del", "br0", "--force"]);
    assert_eq!(a.ns.interfaces(), [""; 0]);
    assert_eq!(lab.json(&["port", "list"]).as_array().unwrap().len(), 0);
}
