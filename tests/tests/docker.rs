//! Containers of a real Docker Engine, attached by name.

use std::process::Command;
use std::time::Duration;

use trunkline_tests::daemon::binary;
use trunkline_tests::docker::Docker;
use trunkline_tests::{Lab, cmd, eventually};

/// `trunkline` in the environment of somebody who uses this engine.
fn trunkline(lab: &Lab, docker: &Docker, args: &[&str]) -> cmd::Output {
    let mut command = Command::new(binary());
    command.arg("--run-dir").arg(&lab.daemon.run_dir).args(args).env("DOCKER_HOST", docker.host());
    cmd::output(&mut command)
}

#[test]
fn containers_are_attached_and_detached_by_name() {
    let lab = Lab::new();
    let docker = Docker::new();
    let ok = |args: &[&str]| {
        let out = trunkline(&lab, &docker, args);
        assert_eq!(out.code, 0, "trunkline {}: {}", args.join(" "), out.stderr);
        out.stdout
    };
    for (name, address) in [("web", "10.7.80.1/24"), ("db", "10.7.80.2/24")] {
        docker.container(name);
        ok(&["container", "attach", name, "br0", "--ifname", "eth1", "--address", address]);
    }
    docker.ok(&["exec", "web", "ping", "-c", "2", "-W", "2", "10.7.80.2"]);
    let list = ok(&["container", "list"]);
    assert!(list.contains("web") && list.contains("db"), "{list}");

    // A second interface of the same name is refused in one line, and changes nothing.
    let again = trunkline(&lab, &docker, &["container", "attach", "web", "br0", "--ifname", "eth1"]);
    assert_eq!((again.code, again.stderr.lines().count()), (1, 1), "{}", again.stderr);
    let unknown = trunkline(&lab, &docker, &["container", "attach", "nosuch", "br0"]);
    assert_eq!(unknown.code, 1);
    assert!(unknown.stderr.contains("nosuch") && unknown.stderr.lines().count() == 1, "{}", unknown.stderr);

    ok(&["container", "detach", "web"]);
    let links = docker.ok(&["exec", "web", "ip", "link"]);
    assert!(!links.contains("eth1"), "{links}");

    // With the container goes its namespace, and with that the interface: the port says so.
    docker.ok(&["rm", "--force", "db"]);
    let down = eventually(Duration::from_secs(10), || {
        let ports = lab.json(&["port", "list"]);
        ports.as_array().is_some_and(|p| p.iter().any(|p| p["state"] == "down" && p["reason"] != ""))
    });
    assert!(down, "{}", ok(&["port", "list"]));
    ok(&["container", "detach", "db"]);
    assert_eq!(lab.json(&["port", "list"]).as_array().map(Vec::len), Some(0));
}
