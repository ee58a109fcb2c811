//! Ports that docker publishes, from everywhere.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::Value;
use trunkline_tests::docker::Machine;
use trunkline_tests::eventually;
use trunkline_tests::internet::{Client, Echo, OUTSIDE4, at, tcp_seen_as, udp_seen_as};

/// The host's port that a container's port is published on.
fn host_port(m: &Machine, to: u16, proto: &str) -> u16 {
    let status = m.status();
    let endpoints = status["endpoints"].as_object().expect("endpoints");
    let mut all = endpoints.values().flat_map(|e| e["publish"].as_array().into_iter().flatten());
    let found = all.find(|p| p["to"] == to && p["proto"] == proto);
    found.and_then(|p| p["port"].as_u64()).unwrap_or_else(|| panic!("{to}/{proto} in {status:#}")) as u16
}

fn docker_rules(m: &Machine) -> Vec<Value> {
    let all = m.net.lab.json(&["nat", "list"]);
    let rules = all.as_array().expect("array").iter();
    rules.filter(|r| r["spec"]["type"] == "publish").cloned().collect()
}

#[test]
fn published_ports_are_reached_from_everywhere() {
    let m = Machine::new();
    let (d, host, far) = (&m.docker, &m.net.lab.ns, &m.net.far);
    m.network("net1", &["--subnet", "10.77.0.0/24"]);
    m.network("net2", &["--subnet", "10.78.0.0/24"]);
    d.sleeper("web", "net1", &["-p", "8080:80", "-p", "8080:80/udp", "-p", "9000-9002:90-92", "-p", "81"]);
    d.sleeper("peer", "net1", &[]);
    d.sleeper("other", "net2", &[]);
    let web = d.netns("web");
    let echoes: Vec<Echo> = [80, 81, 90, 91, 92].into_iter().map(|port| Echo::start(&web, port)).collect();
    // From outside, with the client's address kept.
    assert_eq!(tcp_seen_as(far, at(OUTSIDE4, 8080)).ip().to_string(), "192.0.2.1");
    assert_eq!(udp_seen_as(far, at(OUTSIDE4, 8080)).ip().to_string(), "192.0.2.1");
    for port in 9000..=9002 {
        assert_eq!(tcp_seen_as(far, at(OUTSIDE4, port)).ip().to_string(), "192.0.2.1");
    }
    let chosen = host_port(&m, 81, "tcp");
    assert_eq!(tcp_seen_as(far, at(OUTSIDE4, chosen)).ip().to_string(), "192.0.2.1");
    // From the host: as the gateway by the shared address, as its end of the link by any other.
    for (addr, seen) in [(OUTSIDE4, "10.77.0.1"), ("127.0.0.1", "169.254.113.1"), ("::1", "169.254.113.1")] {
        assert_eq!(tcp_seen_as(host, at(addr, 8080)).ip().to_string(), seen, "by {addr}");
        assert_eq!(udp_seen_as(host, at(addr, 8080)).ip().to_string(), seen, "by {addr}");
    }
    tcp_seen_as(host, at("127.0.0.1", chosen));
    // From a sibling, from another network, from itself.
    for from in ["peer", "other", "web"] {
        tcp_seen_as(&d.netns(from), at(OUTSIDE4, 8080));
        udp_seen_as(&d.netns(from), at(OUTSIDE4, 8080));
    }
    // Shown where docker cannot, and gone with the container.
    assert!(docker_rules(&m).iter().any(|r| r["flows"].as_u64() > Some(0)), "{:#?}", docker_rules(&m));
    drop((echoes, web));
    d.ok(&["rm", "--force", "web"]);
    assert_eq!(docker_rules(&m).len(), 0);
    let gone =
        eventually(Duration::from_secs(5), || host.enter(|| TcpListener::bind("0.0.0.0:8080")).is_ok());
    assert!(gone, "the host's port is free again");
    d.ok(&["rm", "--force", "peer", "other"]);
    d.ok(&["network", "rm", "net1", "net2"]);
    m.assert_clean();
}

#[test]
fn a_port_is_given_once_and_an_address_is_kept_to() {
    let m = Machine::new();
    let (d, host, far) = (&m.docker, &m.net.lab.ns, &m.net.far);
    m.network("net1", &["--subnet", "10.77.0.0/24"]);
    let taken = host.enter(|| TcpListener::bind("0.0.0.0:7070").expect("bind"));
    for (args, says) in [
        (["-p", "7070:80"], "Bind for 0.0.0.0:7070 failed: port is already allocated"),
        (["-p", "10.99.99.99:7071:80"], "10.99.99.99 is not an address of the host"),
        (["-p", "7072:80/sctp"], "protocol 132 has no ports that trunkline can publish"),
    ] {
        let mut all = vec!["run", "--rm", "--net", "net1"];
        all.extend(args);
        all.extend(["bb", "/bin/true"]);
        d.fails(&all, &[says]);
    }
    drop(taken);
    assert_eq!(m.status()["endpoints"].as_object().map(|e| e.len()), Some(0));
    assert_eq!(docker_rules(&m).len(), 0);

    d.sleeper("local", "net1", &["-p", "127.0.0.1:7070:80"]);
    let local = d.netns("local");
    let _echo = Echo::start(&local, 80);
    tcp_seen_as(host, at("127.0.0.1", 7070));
    for (from, to) in [(host, at(OUTSIDE4, 7070)), (far, at(OUTSIDE4, 7070))] {
        assert!(Client::connect(from, to).is_err(), "{} reaches {to}", from.name());
    }
    d.fails(
        &["run", "--rm", "--net", "net1", "-p", "127.0.0.1:7070:81", "bb", "/bin/true"],
        &["port is already allocated"],
    );
    d.sleeper("addressed", "net1", &["-p", &format!("{OUTSIDE4}:7070:80")]);
    let addressed = d.netns("addressed");
    let _echo2 = Echo::start(&addressed, 80);
    assert_eq!(tcp_seen_as(far, at(OUTSIDE4, 7070)).ip().to_string(), "192.0.2.1");
    tcp_seen_as(host, at(OUTSIDE4, 7070));
}

#[test]
fn publish_proxy_carries_all_through_the_daemon() {
    let m = Machine::new();
    m.network("net1", &["--subnet", "10.77.0.0/24", "-o", "publish=proxy"]);
    m.docker.sleeper("web", "net1", &["-p", "8080:80", "-p", "8080:80/udp"]);
    let web = m.docker.netns("web");
    let _echo = Echo::start(&web, 80);
    let to: SocketAddr = at(OUTSIDE4, 8080);
    for from in [&m.net.far, &m.net.lab.ns] {
        assert_eq!(tcp_seen_as(from, to).ip().to_string(), "169.254.113.1");
        assert_eq!(udp_seen_as(from, to).ip().to_string(), "169.254.113.1");
    }
}
