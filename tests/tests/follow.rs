//! Interfaces that come back with their container: `container attach --follow`.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use trunkline_tests::daemon::binary;
use trunkline_tests::docker::Docker;
use trunkline_tests::podman::Podman;
use trunkline_tests::{Container, Kind, Lab, cmd, eventually, ping};

const PATIENCE: Duration = Duration::from_secs(10);

fn port(lab: &Lab, name: &str) -> Value {
    lab.json(&["port", "show", name])
}

/// Waits for a state, and for a reason that says so.
fn await_state(lab: &Lab, name: &str, state: &str, reason: &str) {
    let there = || {
        let port = port(lab, name);
        port["state"] == state && port["reason"].as_str().unwrap_or("").contains(reason)
    };
    assert!(eventually(PATIENCE, there), "{:#}\n{}", port(lab, name), lab.daemon.log());
}

/// The peer reaches the container, as the station it was.
fn assert_back(lab: &Lab, peer: &Container, name: &str, address: &str, mac: &Value) {
    await_state(lab, name, "up", "");
    assert_eq!(&port(lab, name)["mac"], mac);
    let address = address.parse().expect("address");
    let reached = eventually(PATIENCE, || ping::ping(&peer.ns, address, 1, 1.0, &[]).lost() == 0);
    assert!(reached, "{address}\n{}", lab.daemon.log());
}

#[test]
fn a_docker_container_is_followed_over_restarts() {
    let mut lab = Lab::new();
    lab.daemon.allow("is not there");
    let docker = Docker::new();
    let cli = |lab: &Lab, args: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("--run-dir").arg(&lab.daemon.run_dir).args(args).env("DOCKER_HOST", docker.host());
        let out = cmd::output(&mut command);
        assert_eq!(out.code, 0, "trunkline {}: {}", args.join(" "), out.stderr);
        out
    };
    let peer = lab.container(Kind::Tap, "peer");
    docker.container("web");
    let attach = ["container", "attach", "web", "br0", "--follow", "--address", "10.7.80.1/16"];
    let name = cli(&lab, &attach).stdout.trim().to_owned();
    let mac = port(&lab, &name)["mac"].clone();
    assert!(mac.is_string());
    assert_back(&lab, &peer, &name, "10.7.80.1", &mac);
    let shown = lab.ok(&["port", "show", &name]);
    assert!(shown.contains("follows     docker:web@/"), "{shown}");

    // With everything as it was, the address of the default route's sort included.
    docker.ok(&["restart", "--time", "0", "web"]);
    assert_back(&lab, &peer, &name, "10.7.80.1", &mac);
    let address = docker.ok(&["exec", "web", "ip", "address", "show", "dev", "eth1"]);
    assert!(address.contains("10.7.80.1/16") && address.contains("UP"), "{address}");

    docker.ok(&["stop", "--time", "0", "web"]);
    await_state(&lab, &name, "down", "container web is not running (exited)");
    // Started while nobody looks: the state is kept, and compared.
    lab.daemon.kill();
    docker.ok(&["start", "web"]);
    lab.start();
    assert_back(&lab, &peer, &name, "10.7.80.1", &mac);
    // A daemon that goes and comes while the container runs goes on with the same interface.
    let before = docker.ok(&["exec", "web", "ip", "-o", "link", "show", "dev", "eth1"]);
    lab.daemon.kill();
    lab.start();
    assert_back(&lab, &peer, &name, "10.7.80.1", &mac);
    let index = |text: &str| text.split(':').next().map(str::to_owned);
    let after = docker.ok(&["exec", "web", "ip", "-o", "link", "show", "dev", "eth1"]);
    assert_eq!(index(&after), index(&before), "{before}{after}");

    // Another container of the name.
    docker.ok(&["rm", "--force", "web"]);
    await_state(&lab, &name, "down", "docker knows no container web");
    docker.container("web");
    assert_back(&lab, &peer, &name, "10.7.80.1", &mac);

    // One that was never started.
    docker.ok(&["create", "--name", "late", "--network", "none", "bb", "/bin/sleep", "3600"]);
    let said = cli(&lab, &["container", "attach", "late", "br0", "--follow", "--address", "10.7.80.2/16"]);
    assert_eq!(said.stderr.lines().count(), 1, "{}", said.stderr);
    let late = said.stdout.trim().to_owned();
    await_state(&lab, &late, "down", "container late is not running (created)");
    let mac = port(&lab, &late)["spec"]["mac"].clone();
    docker.ok(&["start", "late"]);
    assert_back(&lab, &peer, &late, "10.7.80.2", &mac);

    cli(&lab, &["container", "detach", "web"]);
    docker.ok(&["restart", "--time", "0", "web"]);
    cli(&lab, &["container", "detach", "late"]);
    let links = docker.ok(&["exec", "web", "ip", "link"]);
    assert!(!links.contains("eth1"), "{links}");
}

#[test]
fn docker_may_be_away_meanwhile() {
    let lab = Lab::new();
    let mut docker = Docker::new();
    let peer = lab.container(Kind::Tap, "peer");
    // As a file would have it.
    let file = lab.dir().join("net.toml");
    let socket = docker.host().trim_start_matches("unix://").to_owned();
    let text = format!(
        "[bridge.br0]\n[port.web]\nbridge = \"br0\"\ntype = \"tap\"\nfollow = \"docker:web@{socket}\"\n\
         ifname = \"eth1\"\naddresses = [\"10.7.80.1/16\"]\n"
    );
    std::fs::write(&file, text).expect("write");
    lab.ok(&["apply", file.to_str().expect("utf-8")]);
    await_state(&lab, "web", "down", "docker knows no container web");
    docker.container("web");
    let mac = port(&lab, "web")["spec"]["mac"].clone();
    assert_back(&lab, &peer, "web", "10.7.80.1", &mac);
    let exported = lab.ok(&["export"]);
    assert!(exported.contains("follow = ") && exported.matches("netns = ").count() == 1, "{exported}");
    // Applied once more, it changes nothing.
    lab.ok(&["apply", file.to_str().expect("utf-8")]);
    assert_back(&lab, &peer, "web", "10.7.80.1", &mac);

    // Without live-restore the containers end with the engine.
    docker.terminate();
    await_state(&lab, "web", "down", "docker does not answer at");
    docker.start(None);
    await_state(&lab, "web", "down", "container web is not running");
    docker.ok(&["start", "web"]);
    assert_back(&lab, &peer, "web", "10.7.80.1", &mac);
}

#[test]
fn namespaces_are_followed_that_are_made_anew() {
    let mut lab = Lab::new();
    lab.daemon.allow("is not there");
    lab.daemon.allow("made anew instead of taken over");
    let peer = lab.container(Kind::Tap, "peer");
    let ns = lab.name("blue");
    let file = format!("/run/netns/{ns}");
    for (container, address) in [(format!("netns:{ns}"), "10.7.80.1"), (file.clone(), "10.7.80.2")] {
        cmd::ok("ip", &["netns", "add", &ns]);
        let with_prefix = format!("{address}/16");
        let attach = ["container", "attach", &container, "br0", "--follow", "--address", &with_prefix];
        let name = lab.ok(&attach).trim().to_owned();
        let mac = port(&lab, &name)["mac"].clone();
        assert_back(&lab, &peer, &name, address, &mac);
        let shown = lab.ok(&["port", "show", &name]);
        assert!(shown.contains("follows     netns:"), "{shown}");

        cmd::ok("ip", &["netns", "del", &ns]);
        await_state(&lab, &name, "down", "is not there");
        cmd::ok("ip", &["netns", "add", &ns]);
        assert_back(&lab, &peer, &name, address, &mac);

        // The old one lives on with a process in it; the name is another's now.
        let mut sleeper = Command::new("nsenter")
            .arg(format!("--net={file}"))
            .args(["sleep", "60"])
            .spawn()
            .expect("sleep");
        let pid = sleeper.id().to_string();
        let inside = || cmd::run("ip", &["netns", "identify", &pid]).stdout.contains(&ns);
        assert!(eventually(PATIENCE, inside));
        cmd::ok("ip", &["netns", "del", &ns]);
        cmd::ok("ip", &["netns", "add", &ns]);
        let links = || cmd::ok("ip", &["-netns", &ns, "link", "show"]);
        assert!(eventually(PATIENCE, || links().contains("eth1")), "{}", lab.daemon.log());
        assert_back(&lab, &peer, &name, address, &mac);
        sleeper.kill().and_then(|()| sleeper.wait().map(drop)).expect("sleeper");

        // Made anew while the daemon is away.
        lab.daemon.kill();
        cmd::ok("ip", &["netns", "del", &ns]);
        cmd::ok("ip", &["netns", "add", &ns]);
        lab.start();
        assert_back(&lab, &peer, &name, address, &mac);

        lab.ok(&["container", "detach", &container]);
        assert!(!links().contains("eth1"));
        cmd::ok("ip", &["netns", "del", &ns]);
    }
    lab.fails(&["container", "attach", "pid:1", "br0", "--follow"], &["does not come back"]);
}

#[test]
fn podman_containers_are_attached_and_followed() {
    let lab = Lab::new();
    let podman = Podman::new();
    let peer = lab.container(Kind::Tap, "peer");
    podman.sleeper("web");
    // Docker is asked first, and knows nothing of it.
    let attach = ["container", "attach", "web", "br0", "--follow", "--address", "10.7.80.1/16"];
    let name = lab.ok(&attach).trim().to_owned();
    let mac = port(&lab, &name)["mac"].clone();
    assert_back(&lab, &peer, &name, "10.7.80.1", &mac);
    let shown = lab.ok(&["port", "show", &name]);
    assert!(shown.contains("follows     podman:web"), "{shown}");
    podman.ok(&["stop", "--time", "0", "web"]);
    await_state(&lab, &name, "down", "container web is not running (exited)");
    podman.ok(&["start", "web"]);
    assert_back(&lab, &peer, &name, "10.7.80.1", &mac);
    podman.ok(&["restart", "--time", "0", "web"]);
    assert_back(&lab, &peer, &name, "10.7.80.1", &mac);
    lab.ok(&["container", "detach", "web"]);
    let links = podman.ok(&["exec", "web", "ip", "link"]);
    assert!(!links.contains("eth1"), "{links}");
    // Without --follow, one that does not run is refused.
    podman.ok(&["stop", "--time", "0", "web"]);
    lab.fails(&["container", "attach", "web", "br0"], &["not running", "podman start web"]);
}
