//! The switch as router of its bridges and VLANs: its own addresses, routes between networks, errors.

use std::time::Duration;

use trunkline_tests::frame;
use trunkline_tests::internet::{
    self, Echo, FAR4, GATEWAY4, GATEWAY6, Internet, add_gateway, at, ip, set_routes, tcp_seen_as, udp_ask,
};
use trunkline_tests::pair::Pair;
use trunkline_tests::{Container, Kind, Lab, Netns, Opts, over_kinds, over_pairs, ping, transfer};

/// What `ping` says, once.
fn ping_says(from: &Netns, args: &[&str]) -> String {
    let out = from.run("ping", &[&["-n", "-c", "1", "-W", "3"], args].concat());
    out.stdout + &out.stderr
}

over_kinds!(the_gateway_answers);

fn the_gateway_answers(kind: Kind) {
    let lab = Lab::new();
    add_gateway(&lab);
    let a = lab.container(kind, "a");
    for addr in [GATEWAY4, GATEWAY6] {
        ping::assert_reaches(&a.ns, ip(addr));
        // In fragments.
        let big = ping::ping(&a.ns, ip(addr), 3, 0.05, &["-s", "4000"]);
        assert_eq!(big.lost(), 0, "{addr}: {big:?}");
    }
    // Whoever asks for a port that nobody serves is told at once.
    let refused = udp_ask(&a.ns, 0, at(GATEWAY4, 9), 10).expect_err("nobody serves that");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    lab.assert_conserved();
}

/// Two networks, each of one container.
struct Two {
    lab: Lab,
    a: Container,
    b: Container,
}

/// `br0` with its gateway, and `br1`, or a VLAN of `br0`, with 10.8.255.254/16 and fd08::ffff/64.
fn two(pair: Pair, mtu: u32, apart: &str, more: &[&str]) -> Two {
    let lab = Lab::new();
    let one = |(kind, off): (Kind, bool), port, bridge, mut args: Vec<&'static str>, mtu| {
        if off {
            args.extend(["--offload", "off"]);
        }
        lab.container_with(kind, port, &Opts { bridge, args, mtu, ..Opts::default() })
    };
    add_gateway(&lab);
    let mut add = vec!["gateway", "add", "br0", "--vlan", "20"];
    let (bridge, args): (_, Vec<&'static str>) =
        if apart == "vlan" { ("br0", vec!["--vlan", "20"]) } else { ("br1", Vec::new()) };
    if bridge == "br1" {
        lab.ok(&["bridge", "add", "br1"]);
        add = vec!["gateway", "add", "br1"];
    }
    add.extend(["--address", "10.8.255.254/16", "--address", "fd08::ffff/64"]);
    add.extend(more);
    lab.ok(&add);
    let a = one(pair.a, "a", "br0", Vec::new(), 1500);
    let mut b = one(pair.b, "b", bridge, args, mtu);
    b.ns.sh("ip address flush dev eth0 scope global");
    for addr in ["10.8.0.2/16", "fd08::2/64 nodad"] {
        b.ns.sh(&format!("ip address add {addr} dev eth0"));
    }
    (b.v4, b.v6) = (ip("10.8.0.2"), ip("fd08::2"));
    set_routes(&a, GATEWAY4, GATEWAY6);
    set_routes(&b, "10.8.255.254", "fd08::ffff");
    Two { lab, a, b }
}

over_pairs!(bridges_are_routed);

fn bridges_are_routed(pair: Pair) {
    let Two { lab, a, b } = two(pair, 1500, "bridge", &[]);
    for addr in [b.v4, b.v6] {
        ping::assert_reaches(&a.ns, addr);
        // One router on the way.
        let said = ping_says(&a.ns, &[&addr.to_string()]);
        assert!(said.contains("ttl=63"), "{said}");
        transfer::assert_tcp(&a.ns, &b.ns, addr, 200_000_000);
        transfer::assert_udp_echo(&a.ns, &b.ns, addr, [0usize, 1, 700, 1472, 1473, 9000].into_iter());
    }
    transfer::assert_tcp(&b.ns, &a.ns, a.v4, 200_000_000);
    let rows = lab.json(&["neighbour", "list"]);
    for host in [&a, &b] {
        let row =
            rows.as_array().expect("array").iter().find(|r| r["address"] == host.v4.to_string().as_str());
        assert_eq!(row.expect("known")["mac"], frame::mac_text(host.mac).as_str(), "{rows:#}");
    }
    lab.assert_conserved();
}

#[test]
fn vlans_are_routed_and_nothing_else_passes() {
    let pair = Pair { a: (Kind::Tap, false), b: (Kind::Afpacket, false) };
    let Two { lab, a, b } = two(pair, 1500, "vlan", &[]);
    ping::assert_reaches(&a.ns, b.v4);
    ping::assert_reaches(&b.ns, a.v6);
    transfer::assert_tcp(&a.ns, &b.ns, b.v4, 100_000_000);
    // Not by the bridge.
    a.ns.sh("ip route replace 10.8.0.0/16 dev eth0");
    ping::assert_isolated(&a.ns, b.v4);
    lab.assert_conserved();
}

#[test]
fn private_networks_are_not_routed_to_each_other() {
    let pair = Pair { a: (Kind::Tap, false), b: (Kind::Tap, false) };
    let Two { lab, a, b } = two(pair, 1500, "bridge", &["--private"]);
    ping::assert_reaches(&b.ns, ip("10.8.255.254"));
    ping::assert_isolated(&a.ns, b.v4);
    ping::assert_isolated(&b.ns, a.v6);
    lab.assert_conserved();
}

#[test]
fn packets_that_do_not_fit_are_reported() {
    let pair = Pair { a: (Kind::Tap, false), b: (Kind::Afpacket, false) };
    let Two { lab, a, b } = two(pair, 1280, "bridge", &["--mtu", "1280"]);
    for (addr, size) in [(b.v4, "1400"), (b.v6, "1400")] {
        ping::assert_reaches(&a.ns, addr);
        let (to, deadline) = (addr.to_string(), std::time::Instant::now() + Duration::from_secs(5));
        // The first tells; the kernel then knows by itself.
        let said = loop {
            let said = ping_says(&a.ns, &["-M", "do", "-s", size, &to]);
            if said.contains("1280") || std::time::Instant::now() > deadline {
                break said;
            }
        };
        assert!(["mtu=1280", "mtu = 1280", "mtu: 1280"].iter().any(|m| said.contains(m)), "{said}");
        let route = a.ns.sh(&format!("ip route get {addr}"));
        assert!(route.contains("mtu 1280"), "{route}");
        transfer::assert_tcp(&a.ns, &b.ns, addr, 50_000_000);
        transfer::assert_tcp(&b.ns, &a.ns, if addr.is_ipv4() { a.v4 } else { a.v6 }, 50_000_000);
    }
    lab.assert_conserved();
}

#[test]
fn time_exceeded_and_unreachable() {
    let net = Internet::new();
    let a = net.container(Kind::Tap, "a");
    let b = net.container(Kind::Afpacket, "b");
    for (c, to, gateway) in [(&a, FAR4, GATEWAY4), (&b, internet::FAR6, GATEWAY6)] {
        ping::assert_reaches(&c.ns, ip(to));
        let said = ping_says(&c.ns, &["-t", "1", to]);
        assert!(
            said.contains(&format!("From {gateway}")) && said.to_lowercase().contains("exceeded"),
            "{said}"
        );
        // The next router, whose word comes through the translation.
        let next = if to == FAR4 { "192.0.2.1" } else { "2001:db8::1" };
        assert!(ping_says(&c.ns, &["-t", "2", to]).contains(&format!("from {to}")), "two hops");
        let hop = ping_says(&c.ns, &["-t", "2", if to == FAR4 { "203.0.113.9" } else { "2001:db8:9::9" }]);
        assert!(hop.contains(&format!("rom {next}")) && hop.contains("nreachable"), "{hop}");
    }
    // A neighbour that is not there.
    let said = ping_says(&a.ns, &["-W", "6", "192.0.2.77"]);
    assert!(said.contains("From ") && said.contains("nreachable"), "{said}");
    net.lab.assert_conserved();
}

over_kinds!(hosts_of_one_network_can_be_kept_apart);

fn hosts_of_one_network_can_be_kept_apart(kind: Kind) {
    let net = Internet::new();
    let a = net.container(kind, "a");
    let b = net.container(kind, "b");
    ping::assert_reaches(&a.ns, b.v4);
    net.lab.ok(&["gateway", "set", "br0", "--icc=false"]);
    ping::assert_isolated(&a.ns, b.v4);
    ping::assert_isolated(&b.ns, a.v6);
    // Nor by way of the gateway, except by what is published, as docker has it.
    a.ns.sh(&format!("ip route add {}/32 via {GATEWAY4}", b.v4));
    a.ns.sh(&format!("ip -6 route add {}/128 via {GATEWAY6}", b.v6));
    b.ns.sh(&format!("ip route add {}/32 via {GATEWAY4}", a.v4));
    b.ns.sh(&format!("ip -6 route add {}/128 via {GATEWAY6}", a.v6));
    let _web = Echo::start(&b.ns, 80);
    for addr in [b.v4, b.v6] {
        let said = ping_says(&a.ns, &[&addr.to_string()]);
        assert!(said.contains("From ") && !said.contains("ttl="), "{said}");
        assert!(internet::Client::connect(&a.ns, at(addr, 80)).is_err(), "{addr}");
    }
    assert!(net.lab.drops("gateway/br0", "router-isolated") >= 4, "{:#}", net.lab.stats());
    net.publish("tcp", "8080", &format!("{}:80", b.v4));
    net.publish("tcp", "8080", &format!("[{}]:80", b.v6));
    tcp_seen_as(&a.ns, at(internet::OUTSIDE4, 8080));
    tcp_seen_as(&a.ns, at(internet::OUTSIDE6, 8080));
    for c in [&a, &b] {
        c.ns.sh(&format!("ip route del {}/32", if c.port == "a" { b.v4 } else { a.v4 }));
        c.ns.sh(&format!("ip -6 route del {}/128", if c.port == "a" { b.v6 } else { a.v6 }));
    }
    ping::assert_reaches(&a.ns, ip(GATEWAY4));
    ping::assert_reaches(&b.ns, ip(FAR4));
    net.lab.ok(&["gateway", "set", "br0", "--icc=true"]);
    ping::assert_reaches(&a.ns, b.v6);
    net.lab.assert_conserved();
}

#[test]
fn routes_lead_to_other_routers() {
    let net = Internet::new();
    let a = net.container(Kind::Tap, "a");
    let b = net.container(Kind::Tap, "b");
    // b is a router itself, for 10.99.0.0/24.
    b.ns.sh("ip address add 10.99.0.1/24 dev lo");
    net.lab.ok(&["route", "add", "10.99.0.0/24", "--via", &b.v4.to_string()]);
    ping::assert_reaches(&a.ns, ip("10.99.0.1"));
    let rows = net.lab.json(&["route", "list"]);
    let row = rows.as_array().expect("array").iter().find(|r| r["prefix"] == "10.99.0.0/24");
    assert_eq!(row.expect("listed")["origin"], "static", "{rows:#}");
    let name = row.expect("listed")["name"].as_str().expect("a name").to_owned();
    net.lab.ok(&["route", "del", &name]);
    ping::assert_isolated(&a.ns, ip("10.99.0.1"));
    net.lab.assert_conserved();
}

#[test]
fn of_two_routes_the_one_with_the_lower_metric_counts() {
    let net = Internet::new();
    let a = net.container(Kind::Tap, "a");
    let routers = [net.container(Kind::Tap, "near"), net.container(Kind::Tap, "spare")];
    // Both have the same address, and say which they are.
    for r in &routers {
        r.ns.sh("ip address add 10.99.0.1/24 dev lo");
        r.ns.sh("ip address add fd99::1/64 dev lo nodad");
    }
    let _echoes = routers.each_ref().map(|r| Echo::start(&r.ns, 7));
    let first = |r: &Container| format!("{}", r.v4);
    let received = |r: &Container| -> u64 {
        let stats = net.lab.stats();
        let row = stats.as_array().expect("array").iter().find(|s| s["name"] == r.port.as_str());
        row.expect("a port")["tx-packets"].as_u64().expect("a number")
    };
    let chosen = |to: &str| {
        let before = routers.each_ref().map(received);
        for _ in 0..5 {
            ping::assert_reaches(&a.ns, ip(to));
        }
        let after = routers.each_ref().map(received);
        if after[0] - before[0] > after[1] - before[1] { 0 } else { 1 }
    };
    for (prefix, to, vias) in [
        ("10.99.0.0/24", "10.99.0.1", routers.each_ref().map(first)),
        ("fd99::/64", "fd99::1", routers.each_ref().map(|r| r.v6.to_string())),
    ] {
        net.lab.ok(&["route", "add", prefix, "--via", &vias[1], "--metric", "200", "--name", "spare"]);
        assert_eq!(chosen(to), 1, "{prefix}: the only one");
        net.lab.ok(&["route", "add", prefix, "--via", &vias[0], "--metric", "100", "--name", "near"]);
        assert_eq!(chosen(to), 0, "{prefix}: the better one");
        net.lab.ok(&["route", "del", "near"]);
        assert_eq!(chosen(to), 1, "{prefix}: what is left");
        net.lab.ok(&["route", "del", "spare"]);
    }
    net.lab.assert_conserved();
}

#[test]
fn everything_comes_back_after_a_restart() {
    let mut net = Internet::new();
    let a = net.container(Kind::Tap, "a");
    let _web = Echo::start(&a.ns, 80);
    net.publish("tcp", "8080", &format!("{}:80", a.v4));
    let _far = Echo::start(&net.far, 7);
    let mut client = internet::Client::connect(&a.ns, at(FAR4, 7)).expect("connect");
    client.talk().expect("talk");
    let before = (net.lab.json(&["gateway", "list"]), net.lab.json(&["route", "list"]));
    for end in [trunkline_tests::daemon::Daemon::kill, trunkline_tests::daemon::Daemon::terminate] {
        end(&mut net.lab.daemon);
        net.lab.start();
        ping::assert_reaches(&a.ns, ip(GATEWAY6));
        tcp_seen_as(&net.far, at(internet::OUTSIDE4, 8080));
        // The connection from before goes on.
        client.talk().expect("after a restart");
    }
    assert_eq!((net.lab.json(&["gateway", "list"]), net.lab.json(&["route", "list"])), before);
    net.lab.release();
}

#[test]
fn what_cannot_be_is_refused_in_one_line() {
    let net = Internet::new();
    let lab = &net.lab;
    net.publish("tcp", "8080-8081", "10.7.0.2:80-81");
    let gateways = lab.json(&["gateway", "list"]);
    let rules = lab.json(&["nat", "list"]);
    let publish = |port: &'static str, to: &'static str| {
        vec!["nat", "publish", "add", "--uplink", "up", "--proto", "tcp", "--port", port, "--to", to]
    };
    let masquerade = |from: &'static str, more: &[&'static str]| {
        [&["nat", "masquerade", "add", "--from", from, "--uplink", "up"], more].concat()
    };
    for (args, words) in [
        (publish("8081", "10.7.0.3:80"), &["8081"][..]),
        (publish("9000-9010", "10.7.0.3:80-85"), &["9000-9010"]),
        (publish("0", "10.7.0.3:80"), &["0"]),
        (publish("70000", "10.7.0.3:80"), &["70000"]),
        (publish("9000", "127.0.0.1:80"), &["127.0.0.1"]),
        (masquerade("10.7.0.0/16", &["--pool", "203.0.113.1-203.0.113.9"]), &["203.0.113"]),
        (masquerade("10.7.0.0/16", &["--ports", "9-5"]), &["9-5"]),
        (masquerade("10.7.0.0/99", &[]), &["10.7.0.0/99"]),
        (vec!["nat", "masquerade", "add", "--from", "10.7.0.0/16", "--uplink", "nowhere"], &["nowhere"]),
        (vec!["gateway", "add", "br9", "--address", "10.9.0.1/24"], &["br9"]),
        (vec!["gateway", "add", "br0", "--vlan", "20", "--address", "10.9.0.0/24"], &["10.9.0.0"]),
        (vec!["gateway", "add", "br0", "--vlan", "20", "--address", "224.0.0.1/24"], &["224.0.0.1"]),
        (vec!["gateway", "set", "br0", "--dhcp-range", "10.9.0.5-10.9.0.9"], &["10.9.0.5"]),
        (vec!["uplink", "add", "two", "--interface", "nothere", "--address", "198.18.0.9/24"], &["nothere"]),
        (vec!["uplink", "add", "two", "--interface", "up0", "--address", "198.18.0.9/24"], &["up0"]),
        (vec!["route", "add", "10.99.0.0/24", "--via", "172.31.0.1"], &["172.31.0.1"]),
        (vec!["nat", "del", "nothing"], &["nothing"]),
        (vec!["ct", "list", "--inside", "10.7.0.0/99"], &["10.7.0.0/99"]),
    ] {
        lab.fails(&args, words);
    }
    assert_eq!(
        (lab.json(&["gateway", "list"]), lab.json(&["nat", "list"])),
        (gateways, rules),
        "nothing half-applied"
    );
}
