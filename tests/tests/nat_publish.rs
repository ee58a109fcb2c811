//! The world reaches hosts inside by published ports, from everywhere.

use std::net::SocketAddr;
use std::time::Duration;

use trunkline_tests::internet::{
    Client, Echo, FAR4, GATEWAY4, Internet, OUTSIDE4, OUTSIDE6, at, ip, tcp_seen_as, udp_ask, udp_seen_as,
};
use trunkline_tests::transfer::{GIB, Transfer};
use trunkline_tests::{Container, Kind, Opts, eventually, over_kinds, ping};

/// A container that is published as ports 8080 (TCP and UDP, v4 and v6).
fn web(net: &Internet, kind: Kind) -> (Container, Echo) {
    let web = net.container(kind, "web");
    for proto in ["tcp", "udp"] {
        net.publish(proto, "8080", &format!("{}:80", web.v4));
        net.publish(proto, "8080", &format!("[{}]:80", web.v6));
    }
    let echo = Echo::start(&web.ns, 80);
    (web, echo)
}

over_kinds!(remote_clients_keep_their_address);

fn remote_clients_keep_their_address(kind: Kind) {
    let net = Internet::new();
    let (web, _echo) = web(&net, kind);
    for (ext, own) in [(OUTSIDE4, "192.0.2.1"), (OUTSIDE6, "2001:db8::1")] {
        assert_eq!(tcp_seen_as(&net.far, at(ext, 8080)).ip(), ip(own));
        assert_eq!(udp_seen_as(&net.far, at(ext, 8080)).ip(), ip(own));
        assert_eq!(udp_ask(&net.far, 0, at(ext, 8080), 9000).expect("in fragments").ip(), ip(own));
        assert!(Client::connect(&net.far, at(ext, 8081)).is_err(), "not published");
    }
    ping::assert_reaches(&net.far, ip(OUTSIDE4));
    // The container itself reaches the world as ever.
    ping::assert_reaches(&web.ns, ip(FAR4));
    net.lab.assert_conserved();
}

over_kinds!(a_gibibyte_in);

fn a_gibibyte_in(kind: Kind) {
    let net = Internet::new();
    let web = net.container(kind, "web");
    net.publish("tcp", "8080", &format!("{}:80", web.v4));
    let listen = SocketAddr::new(web.v4, 80);
    let transfer = Transfer::start_by(&net.far, &web.ns, listen, Some(at(OUTSIDE4, 8080)), GIB, None);
    transfer.assert_whole(Duration::from_secs(120), GIB);
    net.lab.assert_conserved();
}

over_kinds!(hairpins);

/// From a sibling, from the container itself, from another network, with and without a masquerade.
fn hairpins(kind: Kind) {
    let net = Internet::new();
    let (web, _echo) = web(&net, kind);
    let sibling = net.container(kind, "sibling");
    net.lab.ok(&["bridge", "add", "br1"]);
    net.lab.ok(&["gateway", "add", "br1", "--address", "10.8.0.1/16"]);
    let other = net.lab.container_with(kind, "other", &Opts { bridge: "br1", ..Opts::default() });
    other.ns.sh("ip address flush dev eth0");
    other.ns.sh("ip address add 10.8.0.9/16 dev eth0");
    other.ns.sh("ip route replace default via 10.8.0.1");
    // RFC 4787 REQ-9: with the external address as the source.
    for c in [&sibling, &web] {
        assert_eq!(tcp_seen_as(&c.ns, at(OUTSIDE4, 8080)).ip(), ip(OUTSIDE4), "{}", c.port);
        assert_eq!(udp_seen_as(&c.ns, at(OUTSIDE4, 8080)).ip(), ip(OUTSIDE4), "{}", c.port);
    }
    // Its network is not masqueraded: whom the answer could not find appears as the gateway.
    assert_eq!(tcp_seen_as(&other.ns, at(OUTSIDE4, 8080)).ip(), ip(GATEWAY4));
    assert_eq!(udp_seen_as(&other.ns, at(OUTSIDE4, 8080)).ip(), ip(GATEWAY4));
    // IPv6 is routed, not translated.
    for c in [&sibling, &web] {
        let seen = tcp_seen_as(&c.ns, at(OUTSIDE6, 8080)).ip();
        assert_eq!(seen, ip("fd07::ffff"), "{}", c.port);
    }
    let masquerade = net.rule("masquerade")["name"].as_str().expect("a name").to_owned();
    net.lab.ok(&["nat", "del", &masquerade]);
    for c in [&sibling, &web] {
        assert_eq!(tcp_seen_as(&c.ns, at(OUTSIDE4, 8080)).ip(), ip(GATEWAY4), "{}", c.port);
        assert_eq!(udp_ask(&c.ns, 0, at(OUTSIDE4, 8080), 4000).expect("in fragments").ip(), ip(GATEWAY4));
    }
    net.lab.assert_conserved();
}

#[test]
fn ranges_and_one_to_one() {
    let net = Internet::new();
    let (a, b) = (net.container(Kind::Tap, "a"), net.container(Kind::Afpacket, "b"));
    net.publish("tcp", "9000-9002", &format!("{}:80-82", a.v4));
    let _echoes = [80, 81, 82].map(|port| Echo::start(&a.ns, port));
    for port in [9000, 9001, 9002] {
        tcp_seen_as(&net.far, at(OUTSIDE4, port));
    }
    assert!(Client::connect(&net.far, at(OUTSIDE4, 9003)).is_err());
    // One address for one host, both ways.
    let inside = b.v4.to_string();
    net.lab.ok(&["nat", "static", "add", "--uplink", "up", "--inside", &inside, "--external", "192.0.2.50"]);
    let (_own, _far) = (Echo::start(&b.ns, 80), Echo::start(&net.far, 7));
    tcp_seen_as(&net.far, at("192.0.2.50", 80));
    assert_eq!(udp_seen_as(&b.ns, at(FAR4, 7)).ip(), ip("192.0.2.50"));
    ping::assert_reaches(&net.far, ip("192.0.2.50"));
    net.lab.assert_conserved();
}

/// Docker's oldest bug: a UDP flow that goes on to a container which is gone.
#[test]
fn flows_end_with_their_rule() {
    let net = Internet::new();
    let (a, b) = (net.container(Kind::Tap, "a"), net.container(Kind::Tap, "b"));
    let (_a, _b) = (Echo::start(&a.ns, 53), Echo::start(&b.ns, 53));
    net.publish("udp", "53", &format!("{}:53", a.v4));
    net.publish("udp", "54", &format!("{}:53", a.v4));
    let ask = |port| udp_ask(&net.far, 5300 + port, at(OUTSIDE4, port), 10);
    ask(53).expect("an answer");
    ask(54).expect("an answer");
    let to = |row: &serde_json::Value| row["inside"][0].as_str().map(str::to_owned);
    assert!(net.connections().iter().all(|row| to(row) == Some(a.v4.to_string())));
    let rules = net.lab.json(&["nat", "list"]);
    let of_53 = rules
        .as_array()
        .expect("array")
        .iter()
        .find(|r| r["spec"]["port"].to_string().trim_matches('"') == "53");
    let name = of_53.expect("listed")["name"].as_str().expect("a name").to_owned();
    net.lab.ok(&["nat", "del", &name]);
    net.publish("udp", "53", &format!("{}:53", b.v4));
    ask(53).expect("an answer");
    let gone = eventually(Duration::from_secs(3), || {
        net.connections().iter().filter(|r| r["external"][1] == 53).all(|r| to(r) == Some(b.v4.to_string()))
    });
    assert!(gone, "{:#?}", net.connections());
    // The other rule's flow stayed.
    assert!(net.connections().iter().any(|r| r["external"][1] == 54));
    net.lab.assert_conserved();
}
