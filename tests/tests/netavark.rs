//! The network driver of podman, driven as netavark drives it: by exec of the plugin's protocol. (Debian 12 has
//! podman 4.3 and netavark 1.4, which know no plugins yet: docs/podman.md.)

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use trunkline_tests::daemon::binary;
use trunkline_tests::internet::{
    Echo, FAR4, FAR6, Internet, OUTSIDE4, OUTSIDE6, at, tcp_seen_as, udp_seen_as,
};
use trunkline_tests::{Netns, eventually, ping};

/// A host with the plugin where netavark looks for it.
struct Host {
    net: Internet,
    plugin: PathBuf,
}

/// A container's network namespace, as podman makes it, and what setup was told.
struct Container {
    ns: Netns,
    asked: Value,
    answer: Value,
}

impl Host {
    fn new() -> Host {
        let net = Internet::plugged(&[]);
        net.add_uplink();
        let dir = net.lab.dir().join("netavark");
        std::fs::create_dir(&dir).expect("directory");
        let plugin = dir.join("trunkline");
        std::os::unix::fs::symlink(binary(), &plugin).expect("symlink");
        Host { net, plugin }
    }

    /// Runs the plugin; its exit code and what it prints.
    fn exec(&self, args: &[&str], stdin: &Value) -> (i32, String) {
        let mut command = Command::new(&self.plugin);
        command.args(args).env("TRUNKLINE_RUN_DIR", &self.net.lab.daemon.run_dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("plugin");
        // `info` reads nothing.
        child.stdin.take().expect("piped").write_all(stdin.to_string().as_bytes()).ok();
        let out = child.wait_with_output().expect("wait");
        assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{args:?}");
        (out.status.code().expect("exit code"), String::from_utf8(out.stdout).expect("utf-8"))
    }

    fn ok(&self, args: &[&str], stdin: &Value) -> Value {
        let (code, text) = self.exec(args, stdin);
        assert_eq!(code, 0, "{args:?}: {text}\n{}", self.net.lab.daemon.log());
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") }
    }

    /// It must fail as netavark shows errors.
    fn fails(&self, args: &[&str], stdin: &Value, says: &str) {
        let (code, text) = self.exec(args, stdin);
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(code == 1 && error.contains(says) && !error.contains('\n'), "{args:?}: {text}");
    }

    /// `podman network create`, as far as the plugin sees it: then podman chooses the gateways.
    fn network(&self, name: &str, more: Value) -> Value {
        let mut network = json!({"name": name, "id": format!("{name}5f259bab93"), "driver": "trunkline",
            "ipv6_enabled": false, "internal": false, "dns_enabled": true, "created": "2026-11-21T19:00:00Z",
            "ipam_options": {}});
        network.as_object_mut().expect("object").extend(more.as_object().expect("object").clone());
        let mut made = self.ok(&["create"], &network);
        let internal = made["internal"] == true;
        for subnet in made["subnets"].as_array_mut().into_iter().flatten().filter(|_| !internal) {
            let net = subnet["subnet"].as_str().expect("subnet").to_owned();
            let net = net.split('/').next().expect("address");
            let gateway = match net.strip_suffix(".0") {
                Some(net) => format!("{net}.1"),
                None => format!("{net}1"),
            };
            subnet.as_object_mut().expect("object").entry("gateway").or_insert(gateway.into());
        }
        made
    }

    fn container(&self, name: &str, network: &Value, options: Value, ports: Value) -> Container {
        let ns = Netns::new(&self.net.lab.name(name));
        let mut all = json!({"interface_name": "eth0", "aliases": [name]});
        all.as_object_mut().expect("object").extend(options.as_object().expect("object").clone());
        let asked = json!({"container_id": format!("{name}-9361c5"), "container_name": name,
            "port_mappings": ports, "network": network, "network_options": all});
        let answer = self.ok(&["setup", ns.path().to_str().expect("utf-8")], &asked);
        Container { ns, asked, answer }
    }

    fn teardown(&self, c: &Container) {
        assert_eq!(self.ok(&["teardown", c.ns.path().to_str().expect("utf-8")], &c.asked), Value::Null);
    }

    /// Nothing of podman's is left.
    fn assert_clean(&self) {
        for kind in ["bridge", "port", "gateway", "nat"] {
            let all = self.net.lab.json(&[kind, "list"]);
            let left = all.as_array().expect("array").iter().filter(|o| o["spec"]["owner"] == "podman");
            assert_eq!(left.count(), 0, "{kind}: {all:#}");
        }
    }
}

#[test]
fn containers_reach_each_other_and_the_world() {
    let h = Host::new();
    let net = &h.net;
    let network = h.network(
        "net1",
        json!({"ipv6_enabled": true, "subnets": [
        {"subnet": "10.77.0.0/24"}, {"subnet": "10.78.0.0/24"}, {"subnet": "fd77::/64"}]}),
    );
    assert_eq!(
        (&network["dns_enabled"], &network["ipam_options"]["driver"]),
        (&json!(false), &json!("host-local"))
    );
    let ports =
        json!([{"container_port": 80, "host_ip": "", "host_port": 8080, "protocol": "tcp,udp", "range": 2}]);
    let addresses = ["10.77.0.2", "10.78.0.2", "fd77::2"];
    let web = h.container(
        "web",
        &network,
        json!({"static_ips": addresses, "static_mac": "aa:bb:cc:dd:aa:00"}),
        ports,
    );
    assert_eq!(
        web.answer["interfaces"]["eth0"],
        json!({"mac_address": "aa:bb:cc:dd:aa:00", "subnets": [
            {"ipnet": "10.77.0.2/24", "gateway": "10.77.0.1"},
            {"ipnet": "10.78.0.2/24", "gateway": "10.78.0.1"},
            {"ipnet": "fd77::2/64", "gateway": "fd77::1"}]})
    );
    let shown = web.ns.sh("ip address show dev eth0") + &web.ns.sh("ip route") + &web.ns.sh("ip -6 route");
    for says in ["aa:bb:cc:dd:aa:00", "10.78.0.2/24", "default via 10.77.0.1", "default via fd77::1"] {
        assert!(shown.contains(says), "{says}\n{shown}");
    }
    let db = h.container("db", &network, json!({"static_ips": ["10.77.0.3", "fd77::3"]}), Value::Null);
    assert_eq!(db.answer["interfaces"]["eth0"]["mac_address"], "02:42:0a:4d:00:03");
    for to in ["10.77.0.2", "fd77::2", FAR4] {
        ping::assert_reaches(&db.ns, to.parse().expect("address"));
    }
    // As the uplink's address outside; unique local IPv6 addresses too.
    let _far = Echo::start(&net.far, 7);
    assert_eq!(tcp_seen_as(&db.ns, at(FAR4, 7)).ip().to_string(), OUTSIDE4);
    assert_eq!(tcp_seen_as(&db.ns, at(FAR6, 7)).ip().to_string(), OUTSIDE6);
    // Published from outside, the host and a sibling, ranges included.
    let echoes: Vec<Echo> = [80, 81].map(|port| Echo::start(&web.ns, port)).into();
    for port in [8080, 8081] {
        assert_eq!(tcp_seen_as(&net.far, at(OUTSIDE4, port)).ip().to_string(), "192.0.2.1");
        assert_eq!(udp_seen_as(&net.far, at(OUTSIDE4, port)).ip().to_string(), "192.0.2.1");
        tcp_seen_as(&net.lab.ns, at("127.0.0.1", port));
    }
    tcp_seen_as(&db.ns, at(OUTSIDE4, 8080));
    // The same port again, and the same container again: the first is refused, the second is replaced.
    let other = Netns::new(&net.lab.name("other"));
    let mut asked = web.asked.clone();
    asked["container_id"] = "other".into();
    asked["network_options"]["static_ips"] = json!(["10.77.0.9"]);
    asked["network_options"]["static_mac"] = Value::Null;
    let path = other.path();
    let path = path.to_str().expect("utf-8");
    h.fails(&["setup", path], &asked, "8080 failed: port is already allocated");
    assert_eq!(other.interfaces(), Vec::<String>::new());
    drop(echoes);
    h.teardown(&web);
    h.teardown(&web);
    assert!(!web.ns.interfaces().contains(&"eth0".to_owned()));
    h.ok(&["setup", path], &asked);
    h.ok(&["teardown", path], &asked);
    h.teardown(&db);
    h.assert_clean();
}

#[test]
fn options_and_restarts() {
    let mut h = Host::new();
    let lone = h.network(
        "lone",
        json!({"subnets": [{"subnet": "10.77.0.0/24"}], "options":
        {"bridge": "br0", "vlan": "10", "mtu": "1400", "icc": "false", "no_default_route": "true"}}),
    );
    let inside = h.network("inside", json!({"internal": true, "subnets": [{"subnet": "10.79.0.0/24"}]}));
    let none = json!([]);
    let a = h.container("a", &lone, json!({"static_ips": ["10.77.0.2"]}), none.clone());
    let b = h.container("b", &lone, json!({"static_ips": ["10.77.0.3"]}), none.clone());
    ping::assert_isolated(&a.ns, "10.77.0.3".parse().expect("address"));
    ping::assert_reaches(&a.ns, "10.77.0.1".parse().expect("address"));
    let shown = a.ns.sh("ip link show dev eth0") + &a.ns.sh("ip route");
    assert!(shown.contains("mtu 1400") && !shown.contains("default via"), "{shown}");
    // Held to its address.
    let strict = h.network(
        "strict",
        json!({"subnets": [{"subnet": "10.81.0.0/24"}], "options": {"anti-spoof": "true"}}),
    );
    let e = h.container("e", &strict, json!({"static_ips": ["10.81.0.2"]}), none.clone());
    ping::assert_reaches(&e.ns, "10.81.0.1".parse().expect("address"));
    e.ns.sh("ip address flush dev eth0 scope global");
    e.ns.sh("ip address add 10.81.0.7/24 dev eth0");
    ping::assert_isolated(&e.ns, "10.81.0.1".parse().expect("address"));
    h.teardown(&e);
    let c = h.container(
        "c",
        &inside,
        json!({"static_ips": ["10.79.0.2"], "interface_name": "net0"}),
        none.clone(),
    );
    let d = h.container("d", &inside, json!({"static_ips": ["10.79.0.3"]}), none.clone());
    assert_eq!(
        c.answer["interfaces"]["net0"]["subnets"][0],
        json!({"ipnet": "10.79.0.2/24", "gateway": null})
    );
    ping::assert_reaches(&c.ns, "10.79.0.3".parse().expect("address"));

    // A daemon that was killed goes on with all of it.
    h.net.lab.daemon.kill();
    h.fails(&["setup", "/run/netns/x"], &a.asked, "no trunkline daemon answers");
    h.net.lab.start();
    ping::assert_reaches(&c.ns, "10.79.0.3".parse().expect("address"));
    ping::assert_reaches(&a.ns, "10.77.0.1".parse().expect("address"));

    // The machine went down without a teardown: the next setup of the container is a new one, and what podman
    // has forgotten is collected.
    let Container { ns, asked, .. } = d;
    drop(ns);
    let down =
        || h.net.lab.json(&["port", "list"]).as_array().expect("array").iter().any(|p| p["state"] == "down");
    assert!(eventually(Duration::from_secs(10), down));
    let again = Netns::new(&h.net.lab.name("again"));
    h.ok(&["setup", again.path().to_str().expect("utf-8")], &asked);
    ping::assert_reaches(&again, "10.79.0.2".parse().expect("address"));
    assert!(!down(), "what was forgotten is collected");
    h.ok(&["teardown", "/run/netns/gone"], &asked);
    for container in [&a, &b, &c] {
        h.teardown(container);
    }
    h.assert_clean();
    assert!(h.net.lab.json(&["bridge", "list"]).to_string().contains("br0"), "what was there before stays");
}

#[test]
fn errors_are_told_as_netavark_shows_them() {
    let h = Host::new();
    let info = h.ok(&["info"], &Value::Null);
    assert_eq!(info["api_version"], "1.0.0");
    assert_eq!(h.ok(&[], &Value::Null), info, "without a command");
    h.fails(&["create"], &json!([]), "not a network of podman's");
    h.fails(&["create"], &json!({"name": "x", "id": "1", "options": {"vlna": "1"}}), "did you mean 'vlan'?");
    h.fails(&["setup", "/run/netns/x"], &json!({"container_id": "c"}), "not a request of netavark's");
    let network =
        h.network("net1", json!({"subnets": [{"subnet": "10.77.0.0/24"}], "options": {"mesh": "nope"}}));
    let asked = json!({"container_id": "c", "container_name": "c", "port_mappings": [], "network": network,
        "network_options": {"interface_name": "eth0", "static_ips": ["10.77.0.2"]}});
    let ns = Netns::new(&h.net.lab.name("c"));
    let path = ns.path();
    let path = path.to_str().expect("utf-8");
    h.fails(&["setup", path], &asked, "there is no mesh nope");
    let mut plain = asked.clone();
    plain["network"]["options"] = Value::Null;
    h.fails(&["setup", "/run/netns/nowhere"], &plain, "nowhere");
    plain["port_mappings"] = json!([{"container_port": 80, "host_ip": "192.0.2.99", "host_port": 80, "protocol": "tcp", "range": 1}]);
    h.fails(&["setup", path], &plain, "192.0.2.99 is not an address of the host");
    h.ok(&["teardown", path], &plain);
    assert_eq!(ns.interfaces(), Vec::<String>::new());
    h.assert_clean();
}
