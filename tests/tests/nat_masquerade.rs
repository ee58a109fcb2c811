//! Hosts inside reach the world under the uplink's address.

use std::time::Duration;

use trunkline_tests::internet::{
    Client, Echo, FAR4, FAR4B, FAR6, Internet, OUTSIDE4, OUTSIDE6, at, ip, tcp_seen_as, udp_ask, udp_seen_as,
};
use trunkline_tests::pair::Pair;
use trunkline_tests::transfer::GIB;
use trunkline_tests::{Kind, Opts, eventually, over_kinds, over_pairs, ping, transfer};

over_kinds!(hosts_reach_the_world);

fn hosts_reach_the_world(kind: Kind) {
    let net = Internet::new();
    let a = net.container(kind, "a");
    let _far = Echo::start(&net.far, 7);
    ping::assert_reaches(&a.ns, ip(FAR4));
    assert_eq!(tcp_seen_as(&a.ns, at(FAR4, 7)).ip(), ip(OUTSIDE4));
    assert_eq!(udp_seen_as(&a.ns, at(FAR4, 7)).ip(), ip(OUTSIDE4));
    // A port that is free is kept, whoever it talks to.
    for to in [FAR4, FAR4B] {
        let seen = udp_ask(&a.ns, 5555, at(to, 7), 20).expect("an answer");
        assert_eq!(seen, at(OUTSIDE4, 5555));
    }
    // Fragments, both ways.
    for size in [3000, 20_000] {
        assert_eq!(udp_ask(&a.ns, 0, at(FAR4, 7), size).expect("an answer").ip(), ip(OUTSIDE4));
    }
    // Refused outside: the error reaches the one who asked.
    let refused = udp_ask(&a.ns, 0, at(FAR4, 9), 10).expect_err("nobody there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    let refused = Client::connect(&a.ns, at(FAR4, 9)).expect_err("nobody there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    let rule = net.rule("masquerade");
    assert!(rule["flows"].as_u64() > Some(5) && rule["packets"].as_u64() > Some(20), "{rule:#}");
    net.lab.assert_conserved();
}

over_kinds!(ipv6_is_routed_and_filtered_statefully);

fn ipv6_is_routed_and_filtered_statefully(kind: Kind) {
    let net = Internet::new();
    let a = net.container(kind, "a");
    let (_far, _own) = (Echo::start(&net.far, 7), Echo::start(&a.ns, 80));
    ping::assert_reaches(&a.ns, ip(FAR6));
    assert_eq!(tcp_seen_as(&a.ns, at(FAR6, 7)).ip(), a.v6);
    assert_eq!(udp_ask(&a.ns, 0, at(FAR6, 7), 3000).expect("an answer").ip(), a.v6);
    // Nobody comes in unasked.
    assert!(Client::connect(&net.far, at(a.v6, 80)).is_err());
    ping::assert_isolated(&net.far, a.v6);
    // Unless published.
    let to = format!("[{}]:80", a.v6);
    net.publish("tcp", "8080", &to);
    tcp_seen_as(&net.far, at(OUTSIDE6, 8080));
    net.lab.assert_conserved();
}

#[test]
fn ipv6_is_translated_for_those_who_ask() {
    let net = Internet::new();
    let a = net.container(Kind::Tap, "a");
    let _far = Echo::start(&net.far, 7);
    net.lab.ok(&["nat", "masquerade", "add", "--from", "fd07::/64", "--uplink", "up", "--nat66"]);
    assert_eq!(tcp_seen_as(&a.ns, at(FAR6, 7)).ip(), ip(OUTSIDE6));
    assert_eq!(udp_seen_as(&a.ns, at(FAR6, 7)).ip(), ip(OUTSIDE6));
    ping::assert_reaches(&a.ns, ip(FAR6));
    net.lab.assert_conserved();
}

over_kinds!(a_gibibyte_out);

fn a_gibibyte_out(kind: Kind) {
    let net = Internet::new();
    let a = net.container(kind, "a");
    ping::assert_reaches(&a.ns, ip(FAR4));
    transfer::assert_tcp(&a.ns, &net.far, ip(FAR4), GIB);
    net.lab.assert_conserved();
}

over_pairs!(offloads_as_they_come);

/// The second of the pair is the uplink: whether superframes leave whole is its `--offload`'s matter, so here
/// only the containers differ.
fn offloads_as_they_come(pair: Pair) {
    let net = Internet::new();
    let make = |(kind, off): (Kind, bool), port| {
        let args = if off { vec!["--offload", "off"] } else { vec![] };
        net.container_with(kind, port, &Opts { args, ..Opts::default() })
    };
    let (a, b) = (make(pair.a, "a"), make(pair.b, "b"));
    for c in [&a, &b] {
        ping::assert_reaches(&c.ns, ip(FAR4));
        transfer::assert_tcp(&c.ns, &net.far, ip(FAR4), 100_000_000);
        transfer::assert_udp_echo(&c.ns, &net.far, ip(FAR4), [1usize, 1000, 1472, 4000].into_iter());
    }
    net.lab.assert_conserved();
}

#[test]
fn connections_are_listed_counted_and_flushed() {
    let net = Internet::new();
    let (a, b) = (net.container(Kind::Tap, "a"), net.container(Kind::Tap, "b"));
    let _far = Echo::start(&net.far, 7);
    let mut client = Client::connect(&a.ns, at(FAR4, 7)).expect("connect");
    udp_seen_as(&b.ns, at(FAR4, 7));
    let inside = a.v4.to_string();
    let rows = net.lab.json(&["ct", "list", "--inside", &inside]);
    let row = &rows.as_array().expect("array")[0];
    assert_eq!((row["proto"].as_str(), row["state"].as_str()), (Some("tcp"), Some("established")), "{row:#}");
    assert_eq!(row["external"][0], OUTSIDE4);
    assert_eq!(net.connections().len(), 2, "{:#?}", net.connections());
    let count = net.lab.json(&["ct", "count"]);
    assert_eq!(count["connections"], 2, "{count:#}");
    net.lab.ok(&["ct", "flush", "--inside", &inside]);
    assert_eq!(net.connections().len(), 1);
    // A connection in the middle is taken up again.
    client.talk().expect("after a flush");
    net.lab.ok(&["ct", "flush"]);
    assert!(eventually(Duration::from_secs(2), || net.connections().is_empty()));
    net.lab.assert_conserved();
}

/// 198.51.100.1 and .2 are servers behind a router; the link to a host behind it has an MTU of 1280.
#[test]
fn the_path_mtu_is_found_through_the_translation() {
    let net = Internet::new();
    let a = net.container(Kind::Tap, "a");
    let deep = trunkline_tests::Netns::new(&net.lab.name("deep"));
    net.far.sh(&format!(
        "ip link add name deep mtu 1280 type veth peer name eth0 mtu 1280 netns {}",
        deep.name()
    ));
    net.far.sh("ip address add 203.0.113.1/24 dev deep");
    net.far.sh("ip link set deep up");
    for line in [
        "ip address add 203.0.113.2/24 dev eth0",
        "ip link set eth0 up",
        "ip route add default via 203.0.113.1",
    ] {
        deep.sh(line);
    }
    ping::assert_reaches(&a.ns, ip("203.0.113.2"));
    let said = a.ns.run("ping", &["-n", "-M", "do", "-s", "1400", "-c", "2", "-W", "2", "203.0.113.2"]);
    assert!(said.stdout.contains("mtu = 1280") || said.stderr.contains("mtu=1280"), "{said:?}");
    assert!(a.ns.sh("ip route get 203.0.113.2").contains("mtu 1280"));
    transfer::assert_tcp(&a.ns, &deep, ip("203.0.113.2"), 50_000_000);
    // And for what was published behind such a link: the container's own is the narrow one.
    a.ns.sh("ip route flush cache");
    let narrow = net.container(Kind::Afpacket, "narrow");
    let _web = Echo::start(&narrow.ns, 80);
    net.publish("tcp", "8080", &format!("{}:80", narrow.v4));
    narrow.ns.sh("ip link set eth0 mtu 1300");
    Client::connect(&deep, at(OUTSIDE4, 8080)).expect("connect").talk().expect("talk");
    net.lab.assert_conserved();
}

#[test]
fn a_pool_of_addresses() {
    let net = Internet::plugged(&[]);
    net.add_uplink();
    net.lab.ok(&[
        "nat",
        "masquerade",
        "add",
        "--from",
        "10.7.0.0/16",
        "--uplink",
        "up",
        "--pool",
        "192.0.2.20-192.0.2.23",
    ]);
    let _far = Echo::start(&net.far, 7);
    let mut seen = std::collections::HashSet::new();
    for n in 0..6 {
        let c = net.container(Kind::Tap, &format!("c{n}"));
        let first = udp_seen_as(&c.ns, at(FAR4, 7)).ip();
        // Always the same for one host.
        assert_eq!(tcp_seen_as(&c.ns, at(FAR4B, 7)).ip(), first);
        seen.insert(first);
    }
    let pool = [20, 21, 22, 23].map(|n| ip(&format!("192.0.2.{n}")));
    assert!(seen.len() > 1 && seen.iter().all(|a| pool.contains(a)), "{seen:?}");
    net.lab.assert_conserved();
}
