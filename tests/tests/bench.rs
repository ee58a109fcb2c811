//! `trunkline bench`: that it runs, that what it counted was checked, and that it leaves nothing behind. Its figures are
//! not looked at: the machine is shared.

use serde_json::Value;
use trunkline_tests::daemon::binary;
use trunkline_tests::{Lab, cmd};

fn bench(args: &[&str]) -> cmd::Output {
    let binary = binary();
    cmd::run(binary.to_str().expect("a path of text"), &[&["bench"], args].concat())
}

fn json(args: &[&str]) -> Value {
    let out = bench(args);
    assert_eq!(out.code, 0, "{args:?}: {}", out.stderr);
    serde_json::from_str(&out.stdout).unwrap_or_else(|e| panic!("{e}: {}", out.stdout))
}

/// Every way through the engine once: packets arrive, and samples of them are what they should be.
#[test]
fn engine_scenarios_are_checked() {
    let listed = json(&["engine", "--list", "--json"]);
    let one_worker = |s: &&Value| s["workers"] == 1 && s["scenario"] != "l2-1m-flows";
    let names = listed.as_array().expect("a list").iter().filter(one_worker);
    let names: Vec<_> = names.map(|s| s["scenario"].as_str().expect("a name")).collect();
    assert!(names.len() > 12, "{names:?}");
    let args = [&["engine", "--seconds", "0.05", "--rounds", "1", "--json"], &names[..]].concat();
    let result = json(&args);
    assert!(result["machine"]["cpus"].as_u64() > Some(0), "{result}");
    for (name, s) in names.iter().zip(result["engine"].as_array().expect("a list")) {
        assert_eq!(s["scenario"], *name);
        assert!(s["mpps-per-cpu-second"].as_f64() > Some(0.0), "{s}");
        assert!(s["rounds"][0]["checked"].as_u64() > Some(0), "{name}: {s}");
    }
}

#[test]
fn numbers_of_a_scenario_can_be_changed() {
    let args = [
        "engine",
        "vxlan-encap",
        "--flows",
        "10",
        "--ways",
        "5",
        "--seconds",
        "0.05",
        "--rounds",
        "2",
        "--json",
    ];
    let s = &json(&args)["engine"][0];
    assert_eq!((&s["flows"], &s["ways"]), (&10.into(), &5.into()));
    assert_eq!(s["rounds"].as_array().map(Vec::len), Some(2));
}

#[test]
fn frames_can_be_saved_and_replayed() {
    let lab = Lab::new();
    let dir = tempfile::tempdir().expect("a directory");
    let to = dir.path().to_str().expect("a path of text");
    let out = bench(&["engine", "l2-1k-flows", "--save-frames", to]);
    assert_eq!((out.code, out.stdout.as_str()), (0, ""), "{}", out.stderr);
    let file = format!("{to}/l2-1k-flows.pcap");
    lab.ok(&["port", "add", "br0", "gen", "--type", "replay", "--file", &file, "--rate", "1000"]);
}

#[test]
fn two_containers_through_a_daemon_of_its_own() {
    let before = cmd::sh("ip -br link");
    let result = json(&["ports", "--seconds", "0.2", "--rounds", "1", "--json"]);
    let rows = result["ports"].as_array().expect("a list");
    assert_eq!(rows.len(), 6, "{result}");
    assert!(rows.iter().all(|r| r["median"].as_f64() > Some(0.0)), "{result}");
    assert_eq!(cmd::sh("ip -br link"), before);
}

#[test]
fn two_containers_through_the_running_daemon() {
    let lab = Lab::new();
    let before = lab.ok(&["export"]);
    let run_dir = lab.daemon.run_dir.to_str().expect("a path of text");
    let out = bench(&["ports", "--running", "--seconds", "0.2", "--rounds", "1", "--run-dir", run_dir]);
    assert_eq!(out.code, 0, "{}", out.stderr);
    assert!(out.stdout.contains("Gbit/s"), "{}", out.stdout);
    assert_eq!(lab.ok(&["export"]), before);
}

#[test]
fn refusals_say_what_to_do() {
    for (args, says) in [
        (
            &["engine", "nosuch"][..],
            "trunkline: there is no scenario nosuch; see: trunkline bench engine --list\n",
        ),
        (
            &["engine", "nat-new", "--flows", "70000"],
            "trunkline: nat-new: one external address has ports for 60,000 connections\n",
        ),
        (
            &["ports", "--running", "--run-dir", "/nonexistent"],
            "trunkline: no trunkline daemon answers at /nonexistent/trunkline.sock",
        ),
    ] {
        let out = bench(args);
        assert_eq!(out.code, 1, "{args:?}");
        assert!(out.stderr.starts_with(says) && out.stderr.lines().count() == 1, "{}", out.stderr);
    }
    let out = bench(&["--seconds", "0"]);
    assert_eq!(out.code, 2, "{}", out.stderr);
}
