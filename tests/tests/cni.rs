//! The CNI plugin, by exec of the protocol, with Debian's host-local for addresses. Its version 1.1.1 speaks CNI 1.0.0
//! at most: with 1.1.0 ours speaks an older one to it.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use trunkline_tests::capture::{Capture, Direction};
use trunkline_tests::cni::Machine;
use trunkline_tests::frame::{BROADCAST, Tag, experiment, mac};
use trunkline_tests::internet::{Client, Echo, FAR4, OUTSIDE4, at, ip, tcp_seen_as, udp_seen_as};
use trunkline_tests::raw::Raw;
use trunkline_tests::{eventually, ping};

/// The network of most tests: routed and masqueraded, with ports to publish.
fn routed(m: &Machine, version: &str, ports: Value) -> Value {
    m.config(
        version,
        "net1",
        json!({
            "isDefaultGateway": true, "ipMasq": true, "dns": {"nameservers": ["192.0.2.53"]},
            "capabilities": {"portMappings": true}, "runtimeConfig": {"portMappings": ports},
            "ipam": m.ipam(&["10.77.0.0/24", "fd77::/64"], json!([{"dst": "10.99.0.0/16", "gw": "10.77.0.250"}]))
        }),
    )
}

fn with(config: &Value, key: &str, value: Value) -> Value {
    let mut config = config.clone();
    config[key] = value;
    config
}

#[test]
fn containers_reach_each_other_and_the_world_also_after_a_crash() {
    let mut m = Machine::new();
    let (a, b) = (m.container("a"), m.container("b"));
    let ports = json!([
        {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
        {"hostPort": 8080, "containerPort": 80, "protocol": "UDP", "hostIP": ""},
        {"hostPort": 8081, "containerPort": 80, "hostIP": "127.0.0.1"}
    ]);
    let (plain, web) = (routed(&m, "1.1.0", json!([])), routed(&m, "1.1.0", ports));
    m.exec("STATUS", &[], &plain.to_string(), Stdio::piped()).ok();
    let result = m.add("a", &a, &plain);
    let (mac, sandbox) = (&result["interfaces"][0]["mac"], a.path());
    assert_eq!(result["interfaces"], json!([{"name": "eth0", "mac": mac, "mtu": 1500, "sandbox": sandbox}]));
    assert_eq!(
        result["ips"],
        json!([{"address": "10.77.0.2/24", "gateway": "10.77.0.1", "interface": 0},
               {"address": "fd77::2/64", "gateway": "fd77::1", "interface": 0}])
    );
    assert_eq!(
        result["routes"],
        json!([{"dst": "10.99.0.0/16", "gw": "10.77.0.250"}, {"dst": "0.0.0.0/0", "gw": "10.77.0.1"},
               {"dst": "::/0", "gw": "fd77::1"}])
    );
    assert_eq!(result["dns"], json!({"nameservers": ["192.0.2.53"]}));
    assert!(a.sh("ip -br link show eth0").contains(mac.as_str().expect("text")));
    assert!(a.sh("ip route show").contains("10.99.0.0/16 via 10.77.0.250"));
    let result_b = m.add("b", &b, &web);

    let _far = Echo::start(&m.net.far, 7);
    let _web = Echo::start(&b, 80);
    for crashed in [false, true] {
        if crashed {
            m.net.lab.daemon.kill();
            // The interface, its addresses and routes are the container's.
            m.call("CHECK", "a", &a.path(), &with(&plain, "prevResult", result.clone()))
                .failed(11, "no trunkline daemon");
            m.net.lab.start();
        }
        ping::assert_reaches(&a, ip("10.77.0.3"));
        ping::assert_reaches(&b, ip("fd77::2"));
        ping::assert_reaches(&a, ip(FAR4));
        assert_eq!(tcp_seen_as(&a, at(FAR4, 7)).ip(), ip(OUTSIDE4), "masqueraded");
        // From outside with the client's own address, from the host by its loopback, from a sibling.
        assert_eq!(tcp_seen_as(&m.net.far, at(OUTSIDE4, 8080)).ip(), ip("192.0.2.1"));
        assert_eq!(udp_seen_as(&m.net.far, at(OUTSIDE4, 8080)).ip(), ip("192.0.2.1"));
        let held = eventually(Duration::from_secs(5), || {
            Client::connect(&m.net.lab.ns, at("127.0.0.1", 8081)).is_ok()
        });
        assert!(held, "{}", m.net.lab.daemon.log());
        tcp_seen_as(&m.net.lab.ns, at("127.0.0.1", 8080));
        tcp_seen_as(&a, at(OUTSIDE4, 8080));
        assert!(Client::connect(&m.net.far, at(OUTSIDE4, 8081)).is_err(), "only for the host itself");
        for (id, ns, config, result) in [("a", &a, &plain, &result), ("b", &b, &web, &result_b)] {
            let config = with(config, "prevResult", result.clone());
            assert_eq!(m.call("CHECK", id, &ns.path(), &config).ok(), Value::Null);
        }
    }
    assert_eq!(m.reserved("net1").len(), 4);
    for _ in 0..2 {
        m.del("b", &b, &web);
        assert_eq!(b.interfaces(), Vec::<String>::new());
    }
    let free = eventually(Duration::from_secs(5), || {
        m.net.lab.ns.enter(|| TcpListener::bind("0.0.0.0:8080")).is_ok()
    });
    assert!(free, "the host's port is free again");
    m.del("a", &a, &with(&plain, "prevResult", result));
    assert_eq!(m.reserved("net1"), Vec::<String>::new());
    m.assert_clean();
}

#[test]
fn every_version_has_its_format() {
    let m = Machine::new();
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
        let c = m.container("c");
        let config = routed(&m, version, json!([]));
        let said = m.exec("VERSION", &[], &config.to_string(), Stdio::piped()).ok();
        assert!(said["cniVersion"] == version && said["supportedVersions"][4] == "1.1.0", "{said}");
        let result = m.add("c", &c, &config);
        assert_eq!(result["cniVersion"], version);
        assert_eq!(result["ips"][0].get("version").is_some(), version < "1.0.0", "{result}");
        assert_eq!(result["interfaces"][0].get("mtu").is_some(), version == "1.1.0", "{result}");
        if version >= "0.4.0" {
            m.call("CHECK", "c", &c.path(), &with(&config, "prevResult", result.clone())).ok();
        }
        m.del("c", &c, &with(&config, "prevResult", result));
    }
    m.assert_clean();
}

#[test]
fn check_sees_what_was_damaged() {
    let m = Machine::new();
    let config = m.config(
        "1.0.0",
        "net1",
        json!({"bridge": "cni0", "vlan": 7, "isGateway": true,
               "ipam": m.ipam(&["10.77.0.0/24"], json!([{"dst": "0.0.0.0/0"}, {"dst": "10.99.0.0/16"}]))}),
    );
    type Damage = fn(&Machine, &trunkline_tests::Netns);
    let damages: [(Damage, &str); 8] = [
        (
            |_, c| drop(c.sh("ip link set eth0 address 02:00:00:00:00:99")),
            "has the MAC address 02:00:00:00:00:99",
        ),
        (|_, c| drop(c.sh("ip -4 address flush dev eth0")), "has not the address 10.77.0."),
        (|_, c| drop(c.sh("ip route del default")), "no route to 0.0.0.0/0"),
        (|_, c| drop(c.sh("ip route del 10.99.0.0/16")), "no route to 10.99.0.0/16"),
        (|_, c| drop(c.sh("ip link set eth0 down")), "eth0 is not up"),
        (
            |_, c| drop((c.sh("ip link set eth0 down"), c.sh("ip link set eth0 name eth9"))),
            "there is no interface eth0",
        ),
        (
            |m, _| drop(m.net.lab.ok(&["port", "set", "cni-c-eth0", "--vlan", "8"])),
            "is on bridge cni0, VLAN 8",
        ),
        (|m, _| drop(m.net.lab.ok(&["port", "del", "cni-c-eth0"])), "not attached to the switch"),
    ];
    for (damage, says) in damages {
        let c = m.container("c");
        let result = m.add("c", &c, &config);
        let checked = with(&config, "prevResult", result);
        m.call("CHECK", "c", &c.path(), &checked).ok();
        damage(&m, &c);
        m.call("CHECK", "c", &c.path(), &checked).failed(102, says);
        m.del("c", &c, &checked);
        assert_eq!(m.reserved("net1"), Vec::<String>::new());
    }
    m.assert_clean();
    // An address that host-local does not know.
    let c = m.container("c");
    let result = m.add("c", &c, &config);
    let reservation = m.net.lab.dir().join("ipam/net1").join(&m.reserved("net1")[0]);
    std::fs::remove_file(reservation).expect("reservation");
    let said = m.call("CHECK", "c", &c.path(), &with(&config, "prevResult", result));
    assert!(
        said.code != 0 && said.json["msg"].as_str().is_some_and(|t| t.starts_with("IPAM plugin host-local:"))
    );
    m.del("c", &c, &config);
}

#[test]
fn gc_removes_what_the_runtime_has_forgotten() {
    let m = Machine::new();
    let config = routed(&m, "1.1.0", json!([]));
    let mut other = config.clone();
    other["name"] = "net2".into();
    other["ipam"]["ranges"] = json!([[{"subnet": "10.78.0.0/24"}]]);
    other["ipam"]["routes"] = json!([]);
    let containers: Vec<_> = (0..4).map(|n| m.container(&format!("c{n}"))).collect();
    for (n, c) in containers.iter().enumerate().take(3) {
        m.add(&format!("c{n}"), c, &config);
    }
    m.add("c0", &containers[3], &other);
    let valid = json!([{"containerID": "c1", "ifname": "eth0"}, {"containerID": "c2", "ifname": "eth1"}]);
    let gc = with(&config, "cni.dev/valid-attachments", valid);
    for _ in 0..2 {
        assert_eq!(m.exec("GC", &[], &gc.to_string(), Stdio::piped()).ok(), Value::Null);
        let kept: Vec<usize> = containers.iter().map(|c| c.interfaces().len()).collect();
        assert_eq!((kept, m.reserved("net1").len(), m.reserved("net2").len()), (vec![0, 1, 0, 1], 2, 1));
    }
    let none = with(&config, "cni.dev/valid-attachments", json!([]));
    m.exec("GC", &[], &none.to_string(), Stdio::piped()).ok();
    ping::assert_reaches(&containers[3], ip(FAR4));
    m.del("c0", &containers[3], &other);
    m.assert_clean();
}

#[test]
fn del_needs_nothing_to_be_there() {
    let mut m = Machine::new();
    let config = routed(&m, "1.0.0", json!([{"hostPort": 8080, "containerPort": 80}]));
    let here = m.container("here");
    for how in 0..3 {
        let gone = m.container("gone");
        m.add("gone", &gone, &config);
        assert_eq!(m.reserved("net1").len(), 2);
        let path = gone.path();
        match how {
            // The namespace is gone; it is not told; the configuration is not what ADD would take any more.
            0 => drop(gone),
            1 => m.call("DEL", "gone", Path::new(""), &config).ok().as_null().expect("nothing"),
            _ => m
                .call("DEL", "gone", &path, &with(&config, "colour", json!("red")))
                .ok()
                .as_null()
                .expect("nothing"),
        }
        assert_eq!(m.call("DEL", "gone", &path, &config).ok(), Value::Null);
        assert_eq!(m.reserved("net1"), Vec::<String>::new());
        m.assert_clean();
    }
    // One that never was.
    m.del("never", &here, &config);
    m.net.lab.daemon.allow("network namespace");
}

#[test]
fn what_fails_leaves_nothing_and_says_why() {
    let mut m = Machine::new();
    let (c, d) = (m.container("c"), m.container("d"));
    let config = routed(&m, "1.1.0", json!([{"hostPort": 8080, "containerPort": 80}]));
    let add = |config: &Value| m.call("ADD", "c", &c.path(), config);
    let clean = |m: &Machine| {
        assert_eq!((m.reserved("net1"), c.interfaces()), (vec![], vec![]));
        m.assert_clean();
    };
    for (change, code, says) in [
        (("cniVersion", json!("2.0.0")), 1, "cniVersion 2.0.0 is not supported"),
        (("hairpin", json!(true)), 2, "unknown key 'hairpin': true"),
        (
            (
                "runtimeConfig",
                json!({"portMappings": [{"hostPort": 1, "containerPort": 1, "protocol": "sctp"}]}),
            ),
            2,
            "sctp",
        ),
        (("name", json!("no name")), 7, "'name'"),
        (
            ("ipam", json!({"type": "none-such"})),
            7,
            "there is no IPAM plugin 'none-such' (ipam.type) in CNI_PATH",
        ),
        (("mesh", json!("m9")), 7, "there is no mesh m9"),
        (("uplink", json!("up9")), 7, "there is no uplink up9"),
        (("gateway", json!("10.1.2.3")), 7, "'gateway' 10.1.2.3 is in no network"),
        (("mtu", json!(600)), 7, "too small for IPv6"),
    ] {
        add(&with(&config, change.0, change.1)).failed(code, says);
        clean(&m);
    }
    let env = [("CNI_CONTAINERID", "c"), ("CNI_IFNAME", "eth0")];
    m.exec("ADD", &env, &config.to_string(), Stdio::piped()).failed(4, "ADD needs CNI_NETNS");
    m.call("ADD", "c", Path::new("/run/netns/none-such"), &config)
        .failed(4, "CNI_NETNS '/run/netns/none-such'");
    m.call("ADD", "c", Path::new("/dev/null"), &config).failed(7, "/dev/null");
    m.exec("ADD", &[env[0], env[1], ("CNI_NETNS", "/x")], "{]", Stdio::piped()).failed(6, "not JSON");
    m.exec("FROB", &env, "{}", Stdio::piped()).failed(4, "CNI_COMMAND 'FROB'");
    clean(&m);

    // The host's port and the container's interface are taken.
    let taken = m.net.lab.ns.enter(|| TcpListener::bind("0.0.0.0:8080").expect("bind"));
    add(&config).failed(100, "port is already allocated");
    drop(taken);
    clean(&m);
    c.sh("ip tuntap add dev eth0 mode tap");
    add(&config).failed(100, "interface eth0 already exists");
    c.sh("ip link del eth0");
    clean(&m);
    // Nobody reads the result.
    let path = c.path();
    let env = [env[0], env[1], ("CNI_NETNS", path.to_str().expect("utf-8"))];
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    assert_ne!(m.exec("ADD", &env, &config.to_string(), full.into()).code, 0);
    clean(&m);

    // ADD twice takes nothing away from the first; another container wants the same port.
    m.add("c", &c, &config);
    add(&config).failed(100, "container c has eth0 in network net1 already");
    m.call("ADD", "d", &d.path(), &config).failed(100, "port is already allocated");
    assert_eq!((m.reserved("net1").len(), c.interfaces().len(), d.interfaces().len()), (2, 1, 0));
    ping::assert_reaches(&c, ip(FAR4));
    // A network is one thing for all of its containers.
    m.call("ADD", "d", &d.path(), &with(&config, "vlan", json!(9))).failed(100, "port is already allocated");
    let quiet = routed(&m, "1.1.0", json!([]));
    m.call("ADD", "d", &d.path(), &with(&quiet, "vlan", json!(9)))
        .failed(100, "has containers with the VLAN none, not 9");

    // Without a daemon.
    m.net.lab.daemon.kill();
    m.exec("STATUS", &[], &config.to_string(), Stdio::piped()).failed(50, "no trunkline daemon answers");
    m.call("ADD", "d", &d.path(), &quiet).failed(11, "no trunkline daemon answers");
    m.call("DEL", "c", &c.path(), &config).failed(11, "no trunkline daemon answers");
    assert_eq!(m.reserved("net1").len(), 2, "what is attached keeps its address");
    m.net.lab.start();
    m.exec("STATUS", &[], &with(&config, "uplink", json!("up9")).to_string(), Stdio::piped())
        .failed(50, "no uplink up9");
    m.exec("STATUS", &[], &with(&config, "mesh", json!("m9")).to_string(), Stdio::piped())
        .failed(50, "no mesh m9");
    m.del("c", &c, &config);
    m.assert_clean();
}

#[test]
fn lists_of_plugins_and_networks_of_every_sort() {
    let m = Machine::new();
    let containers: Vec<_> = (0..3).map(|n| m.container(&format!("l{n}"))).collect();
    // Isolated from each other in a VLAN of a bridge that is there, with tuning behind.
    let own = m.config(
        "1.0.0",
        "vlan10",
        json!({"bridge": "br0", "vlan": 10, "icc": false, "mtu": 1400, "gateway": "10.78.0.254",
               "capabilities": {"mac": true, "ips": true}, "runtimeConfig": {"mac": "02:00:00:00:00:42", "ips": []},
               "args": {"anything": 1}, "ipam": m.ipam(&["10.78.0.0/24"], json!([{"dst": "0.0.0.0/0"}]))}),
    );
    let mut list =
        vec![own, json!({"cniVersion": "1.0.0", "name": "vlan10", "type": "tuning", "allmulti": true})];
    let mut results = Vec::new();
    for (n, c) in containers.iter().enumerate().take(2) {
        list[0]["runtimeConfig"]["mac"] = format!("02:00:00:00:00:4{n}").into();
        let result = m.call_list("ADD", &format!("l{n}"), &c.path(), &list, &Value::Null);
        assert_eq!(result["interfaces"][0]["mac"], format!("02:00:00:00:00:4{n}"));
        assert!(c.sh("ip -d link show eth0").contains("mtu 1400"));
        results.push(result);
    }
    ping::assert_reaches(&containers[0], ip("10.78.0.254"));
    ping::assert_isolated(&containers[0], ip("10.78.0.3"));
    let port = m.net.lab.json(&["port", "list"]);
    let port =
        port.as_array().expect("array").iter().find(|p| p["name"] == "cni-l0-eth0").expect("port").clone();
    assert_eq!((&port["spec"]["vlan"], &port["spec"]["owner"]), (&json!(10), &json!("cni")), "{port:#}");
    // A container of no VLAN on that bridge does not get into it by a tag.
    let beside = m.config("1.0.0", "beside", json!({"bridge": "br0"}));
    m.add("l2", &containers[2], &beside);
    let captured = Capture::start(&containers[0], "eth0", Direction::In, "");
    let mut raw = Raw::open(&containers[2], "eth0");
    raw.send(&experiment(BROADCAST, mac(0x42), &[Tag::c(10)], "by a tag"));
    let frames = captured.stop_when_quiet(Duration::from_millis(300));
    assert!(frames.with_text("by a tag").is_empty());
    m.del("l2", &containers[2], &beside);
    for (n, c) in containers.iter().enumerate().take(2) {
        m.call_list("CHECK", &format!("l{n}"), &c.path(), &list, &results[n]);
        m.call_list("DEL", &format!("l{n}"), &c.path(), &list, &results[n]);
    }
    // Behind a plugin that has made another interface: both are in the result.
    let second = m.config(
        "1.0.0",
        "plain",
        json!({"runtimeConfig": {"ips": ["10.79.0.2/24"]}, "capabilities": {"ips": true}, "prevResult": {
            "cniVersion": "1.0.0", "interfaces": [{"name": "lo", "sandbox": "/x"}],
            "ips": [{"address": "127.0.0.1/8", "interface": 0}], "dns": {"nameservers": ["192.0.2.1"]}}}),
    );
    let result = m.add("l2", &containers[2], &second);
    assert_eq!(
        (result["interfaces"][1]["name"].as_str(), &result["ips"][1]["interface"]),
        (Some("eth0"), &json!(1))
    );
    assert_eq!(result["dns"]["nameservers"][0], "192.0.2.1");
    m.call("CHECK", "l2", &containers[2].path(), &with(&second, "prevResult", result)).ok();
    // No addresses at all.
    let bare = m.config("1.0.0", "bare", json!({}));
    let result = m.add("l0", &containers[0], &bare);
    assert!(result.get("ips").is_none() && result["interfaces"][0]["mac"].is_string(), "{result}");
    m.del("l0", &containers[0], &bare);
    m.del("l2", &containers[2], &second);
    m.assert_clean();
}

#[test]
fn fifty_at_once_leave_nothing() {
    let m = Machine::new();
    let containers: Vec<_> = (0..50).map(|n| m.container(&format!("f{n}"))).collect();
    let config = |n: usize| match n % 10 {
        9 => routed(&m, "1.1.0", json!([{"hostPort": 9000 + n, "containerPort": 80}])),
        _ => routed(&m, "1.1.0", json!([])),
    };
    let all = |command: &'static str| {
        std::thread::scope(|scope| {
            let (m, config) = (&m, &config);
            for (n, c) in containers.iter().enumerate() {
                scope.spawn(move || m.call(command, &format!("f{n}"), &c.path(), &config(n)).ok());
            }
        });
    };
    all("ADD");
    assert_eq!(
        (m.net.lab.json(&["cni", "list"]).as_array().map(Vec::len), m.reserved("net1").len()),
        (Some(50), 100)
    );
    ping::assert_reaches(&containers[0], ip(FAR4));
    let _web = Echo::start(&containers[49], 80);
    tcp_seen_as(&m.net.far, at(OUTSIDE4, 9049));
    all("DEL");
    assert_eq!(m.reserved("net1"), Vec::<String>::new());
    assert!(containers.iter().all(|c| c.interfaces().is_empty()));
    m.assert_clean();
}

/// What docs/cni.md shows, as it stands there, but for the directory of plugins, which is the machine's.
#[test]
fn the_tour() {
    let m = Machine::new();
    let text = include_str!("../../docs/cni.md");
    let section = text.split("## By hand").nth(1).expect("section");
    let block = section.split("```sh\n").nth(1).and_then(|t| t.split("```").next()).expect("commands");
    let block = block.replace("cni install ", &format!("cni install --dir {} ", m.bin.display()));
    let block = block.replace("/opt/cni/bin", m.bin.to_str().expect("utf-8"));
    let dir = tempfile::tempdir().expect("directory");
    let script = format!(
        "set -eu\ncd {}\nsudo() {{ [ $1 != -E ] || shift; \"$@\"; }}\ntrunkline() {{ {} --run-dir {} \"$@\"; }}\n{block}",
        dir.path().display(),
        trunkline_tests::daemon::binary().display(),
        m.net.lab.daemon.run_dir.display()
    );
    let out = m.net.lab.ns.enter(|| {
        let mut command = std::process::Command::new("bash");
        command.env("TRUNKLINE_RUN_DIR", &m.net.lab.daemon.run_dir);
        trunkline_tests::cmd::output(command.args(["-c", &script]))
    });
    assert_eq!(out.code, 0, "{}\n{}\n{}", out.stdout, out.stderr, m.net.lab.daemon.log());
    assert_eq!(out.stdout.matches("1 received").count(), 2, "{}", out.stdout);
    for line in section.split("```text\n").nth(1).and_then(|t| t.split("```").next()).expect("table").lines()
    {
        let shown: Vec<_> = line.split_whitespace().collect();
        let found = out.stdout.lines().any(|l| l.split_whitespace().eq(shown.iter().copied()));
        assert!(found, "{line}\nis not in\n{}", out.stdout);
    }
    m.assert_clean();
}
