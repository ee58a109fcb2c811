//! Docker networks that span hosts, and compose.

use std::time::Duration;

use trunkline_tests::Lab;
use trunkline_tests::docker::{Docker, Machine};
use trunkline_tests::eventually;
use trunkline_tests::tunnel;
use trunkline_tests::underlay::{Family, Underlay};

/// A host of a mesh with an engine of its own, whose driver is that of its socket.
struct Host {
    docker: Docker,
    lab: Lab,
    driver: String,
}

fn host(underlay: &Underlay, n: u8, peers: &str) -> Host {
    let lab = tunnel::host(underlay, n);
    let driver = format!("mesh{}-{n}", std::process::id());
    lab.ok(&["docker", "enable", "--socket", &format!("/run/docker/plugins/{driver}.sock")]);
    lab.ok(&["mesh", "add", "br0", "m1", "--type", "vxlan", "--vni", "77", "--peers", peers]);
    let docker = Docker::inside(&lab.ns, &["--bridge", "none"]);
    Host { docker, lab, driver }
}

#[test]
fn a_network_with_a_mesh_spans_two_engines() {
    let underlay = Underlay::switched("dockerhub");
    let address = |n| underlay.address(n, Family::V4).to_string();
    let peers = format!("{},{}", address(1), address(2));
    let hosts = [host(&underlay, 1, &peers), host(&underlay, 2, &peers)];
    for h in &hosts {
        h.docker.ok(&[
            "network",
            "create",
            "--driver",
            &h.driver,
            "--ipam-driver",
            &h.driver,
            "--ipam-opt",
            "mesh=m1",
            "--subnet",
            "10.77.0.0/24",
            "-o",
            "mesh=m1",
            "span",
        ]);
        h.docker.sleeper("cc", "span", &[]);
        h.docker.sleeper("dd", "span", &[]);
    }
    let all: Vec<String> =
        hosts.iter().flat_map(|h| ["cc", "dd"].map(|name| h.docker.address(name, "span"))).collect();
    let distinct: std::collections::BTreeSet<&String> = all.iter().collect();
    assert_eq!(distinct.len(), 4, "{all:?}");
    assert!(all[0].starts_with("10.77.0.") && all[2].starts_with("10.77.0.1"), "{all:?}");
    for (h, others) in [(&hosts[0], &all[2..]), (&hosts[1], &all[..2])] {
        for to in others {
            let reached = eventually(Duration::from_secs(10), || h.docker.pings("cc", to));
            assert!(reached, "{to}\n{}", h.lab.daemon.log());
        }
        let link = h.docker.ok(&["exec", "cc", "ip", "link", "show", "eth0"]);
        assert!(link.contains("mtu 1450"), "what the mesh carries: {link}");
    }
    // An address goes to the other host, and is reached there at once.
    let moved = "10.77.0.200";
    hosts[0].docker.sleeper("moving", "span", &["--ip", moved]);
    assert!(hosts[0].docker.pings("cc", moved) && hosts[1].docker.pings("cc", moved));
    hosts[0].docker.ok(&["rm", "--force", "moving"]);
    hosts[1].docker.sleeper("moving", "span", &["--ip", moved, "--mac-address", "02:00:00:00:aa:aa"]);
    assert!(hosts[0].docker.pings("cc", moved), "{}", hosts[1].lab.daemon.log());
    assert!(hosts[1].docker.pings("cc", moved));
}

#[test]
fn compose_with_two_services() {
    let m = Machine::new();
    let dir = tempfile::tempdir().expect("directory");
    let file = dir.path().join("docker-compose.yml");
    let text = format!(
        "version: '3.3'\nservices:\n  web:\n    image: bb\n    command: [/bin/sleep, '3600']\n    \
         networks: [back]\n    ports: ['8080:80']\n  app:\n    image: bb\n    \
         command: [/bin/sleep, '3600']\n    networks: [back]\n    depends_on: [web]\nnetworks:\n  back:\n    \
         driver: {}\n    driver_opts: {{icc: 'true'}}\n    ipam:\n      config: [{{subnet: 10.77.0.0/24}}]\n",
        m.driver
    );
    std::fs::write(&file, text).expect("write");
    let compose = |args: &[&str]| {
        let mut command = std::process::Command::new("docker-compose");
        command.env("DOCKER_HOST", m.docker.host()).arg("--file").arg(&file).args(["--project-name", "lab"]);
        let out = trunkline_tests::cmd::output(command.args(args));
        assert_eq!(
            out.code,
            0,
            "docker-compose {}: {}\n{}",
            args.join(" "),
            out.stderr,
            m.net.lab.daemon.log()
        );
        out.stdout
    };
    compose(&["up", "--detach"]);
    let out = compose(&["exec", "-T", "app", "ping", "-c", "1", "-W", "2", "web"]);
    assert!(out.contains("1 packets received"), "{out}");
    compose(&["down", "--timeout", "0"]);
    m.assert_clean();
}

/// What docs/docker.md shows, as it stands there.
#[test]
fn the_tour_on_one_host() {
    let m = Machine::new();
    m.net.lab.ok(&["docker", "disable"]);
    let text = include_str!("../../docs/docker.md");
    let section =
        text.split("## One host").nth(1).and_then(|t| t.split("### Options").next()).expect("section");
    let block = section.split("```sh\n").nth(1).and_then(|t| t.split("```").next()).expect("commands");
    let dir = tempfile::tempdir().expect("directory");
    let script = format!(
        "set -eu\ncd {}\nsudo() {{ \"$@\"; }}\ntrunkline() {{ {} --run-dir {} \"$@\"; }}\n\
         docker() {{ /usr/bin/docker \"$@\"; }}\n{block}",
        dir.path().display(),
        trunkline_tests::daemon::binary().display(),
        m.net.lab.daemon.run_dir.display()
    );
    let out = m.net.lab.ns.enter(|| {
        let mut command = std::process::Command::new("bash");
        trunkline_tests::cmd::output(command.env("DOCKER_HOST", m.docker.host()).args(["-c", &script]))
    });
    assert_eq!(out.code, 0, "{}\n{}\n{}", out.stdout, out.stderr, m.net.lab.daemon.log());
    assert!(out.stdout.contains("1 packets received"), "{}", out.stdout);
    assert_eq!(out.stdout.matches("hello\n").count(), 2, "{}", out.stdout);
    assert!(out.stdout.contains("0.0.0.0:8080->80/tcp"), "{}", out.stdout);
    m.assert_clean();
}
