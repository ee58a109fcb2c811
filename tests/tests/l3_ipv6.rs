//! IPv6 through every sort of uplink: routed, translated, proxied, published; its path MTU.

use std::time::{Duration, Instant};

use trunkline_tests::internet::{
    Client, Echo, FAR4, FAR6, GATEWAY6, Internet, OUTSIDE6, at, ip, tcp_seen_as, udp_ask, udp_seen_as,
};
use trunkline_tests::{Container, Kind, Netns, Opts, over_kinds, ping, transfer};

over_kinds!(routed_through_an_uplink_of_its_own);

/// The world knows the way back; nobody outside may begin.
fn routed_through_an_uplink_of_its_own(kind: Kind) {
    let net = Internet::new();
    let a = net.container(kind, "a");
    let (_far, _inside) = (Echo::start(&net.far, 7), Echo::start(&a.ns, 80));
    ping::assert_reaches(&a.ns, ip(FAR6));
    assert_eq!(tcp_seen_as(&a.ns, at(FAR6, 7)).ip(), a.v6);
    assert_eq!(udp_seen_as(&a.ns, at(FAR6, 7)).ip(), a.v6);
    assert_eq!(udp_ask(&a.ns, 0, at(FAR6, 7), 6000).expect("in fragments").ip(), a.v6);
    transfer::assert_tcp(&a.ns, &net.far, ip(FAR6), 200_000_000);
    assert!(Client::connect(&net.far, at(a.v6, 80)).is_err(), "nothing is published");
    net.lab.assert_conserved();
}

#[test]
fn nat66_for_those_who_ask() {
    let net = Internet::new();
    let masquerade = ["nat", "masquerade", "add", "--from", "fd07::/64", "--uplink", "up"];
    net.lab.fails(&masquerade, &["nat66"]);
    net.lab.ok(&[&masquerade[..], &["--nat66"]].concat());
    let a = net.container(Kind::Tap, "a");
    let _far = Echo::start(&net.far, 7);
    // Without a way back for the addresses inside.
    net.far.sh("ip -6 route del fd07::/64");
    ping::assert_reaches(&a.ns, ip(FAR6));
    assert_eq!(tcp_seen_as(&a.ns, at(FAR6, 7)).ip(), ip(OUTSIDE6));
    assert_eq!(
        udp_ask(&a.ns, 5555, at(FAR6, 7), 100).expect("an answer"),
        at(OUTSIDE6, 5555),
        "port preserved"
    );
    assert_eq!(udp_ask(&a.ns, 0, at(FAR6, 7), 6000).expect("in fragments").ip(), ip(OUTSIDE6));
    transfer::assert_tcp(&a.ns, &net.far, ip(FAR6), 200_000_000);
    // Errors come through, too.
    let refused = Client::connect(&a.ns, at(FAR6, 9)).expect_err("nobody there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    net.lab.assert_conserved();
}

over_kinds!(one_to_one);

/// A host with an external address of its own, both families, everything both ways.
fn one_to_one(kind: Kind) {
    let net = Internet::new();
    let a = net.container(kind, "a");
    for (inside, external) in [(a.v4, "192.0.2.30"), (a.v6, "2001:db8::30")] {
        let inside = inside.to_string();
        let mut args = vec!["nat", "static", "add", "--uplink", "up", "--inside", &inside];
        args.extend(["--external", external]);
        net.lab.ok(&args);
    }
    let (_far, _inside) = (Echo::start(&net.far, 7), Echo::start(&a.ns, 80));
    for (far, external, own) in [(FAR4, "192.0.2.30", "192.0.2.1"), (FAR6, "2001:db8::30", "2001:db8::1")] {
        ping::assert_reaches(&a.ns, ip(far));
        ping::assert_reaches(&net.far, ip(external));
        assert_eq!(tcp_seen_as(&a.ns, at(far, 7)).ip(), ip(external));
        assert_eq!(udp_ask(&a.ns, 4444, at(far, 7), 100).expect("an answer"), at(external, 4444));
        assert_eq!(tcp_seen_as(&net.far, at(external, 80)).ip(), ip(own));
        assert_eq!(udp_seen_as(&net.far, at(external, 80)).ip(), ip(own));
        let refused = Client::connect(&net.far, at(external, 81)).expect_err("nobody there");
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
    }
    net.lab.assert_conserved();
}

#[test]
fn prefixes_that_are_on_link_outside_are_answered_for() {
    let net = Internet::plugged(&[]);
    let (address, prefix) = ("2001:db8:0:0:7::1/80", "2001:db8:0:0:7::/80");
    net.lab.ok(&["bridge", "add", "br1"]);
    net.lab.ok(&["gateway", "add", "br1", "--address", address]);
    // Neighbours outside take all of 2001:db8::/64 for their own link.
    let mut up = vec!["uplink", "add", "up", "--interface", "up0", "--address", "2001:db8::10/64"];
    up.extend(["--gateway", "2001:db8::1", "--nd-proxy", prefix]);
    net.lab.ok(&up);
    let c = net.lab.container_with(Kind::Tap, "c", &Opts { bridge: "br1", ..Opts::default() });
    c.ns.sh("ip address flush dev eth0 scope global");
    c.ns.sh("ip address add 2001:db8:0:0:7::2/80 dev eth0 nodad");
    c.ns.sh("ip -6 route replace default via 2001:db8:0:0:7::1");
    let _far = Echo::start(&net.far, 7);
    ping::assert_reaches(&c.ns, ip("2001:db8::1"));
    assert_eq!(tcp_seen_as(&c.ns, at("2001:db8::1", 7)).ip(), ip("2001:db8:0:0:7::2"));
    assert_eq!(tcp_seen_as(&c.ns, at(FAR6, 7)).ip(), ip("2001:db8:0:0:7::2"));
    let known = net.far.sh("ip -6 neighbour show 2001:db8:0:0:7::2");
    assert!(known.contains("lladdr"), "{known}");
    // Not for others.
    ping::assert_isolated(&net.far, ip("2001:db8:0:0:8::2"));
    net.lab.assert_conserved();
}

/// The daemon's namespace is a machine with one interface, which the switch shares.
fn machine() -> Internet {
    let net = Internet::machine(&[]);
    net.far.sh("ip -6 route del fd07::/64");
    net.lab.ok(&["uplink", "add", "up", "--type", "shared"]);
    net.lab.ok(&["nat", "masquerade", "add", "--from", "fd07::/64", "--uplink", "up", "--nat66"]);
    net
}

over_kinds!(shared_with_the_host);

fn shared_with_the_host(kind: Kind) {
    let net = machine();
    let (a, b) = (net.container(kind, "a"), net.container(kind, "b"));
    let (_far, _ssh) = (Echo::start(&net.far, 7), Echo::start(&net.lab.ns, 22));
    ping::assert_reaches(&a.ns, ip(FAR6));
    let seen = tcp_seen_as(&a.ns, at(FAR6, 7));
    assert!(seen.ip() == ip(OUTSIDE6) && (61000..=64999).contains(&seen.port()), "{seen}");
    assert_eq!(udp_seen_as(&a.ns, at(FAR6, 7)).ip(), ip(OUTSIDE6));
    transfer::assert_tcp(&a.ns, &net.far, ip(FAR6), 200_000_000);
    // The host goes on as before.
    assert_eq!(tcp_seen_as(&net.lab.ns, at(FAR6, 7)).ip(), ip(OUTSIDE6));
    assert_eq!(tcp_seen_as(&net.far, at(OUTSIDE6, 22)).ip(), ip("2001:db8::1"));
    ping::assert_reaches(&net.far, ip(OUTSIDE6));
    // Published: from outside, from the host, from a sibling, from the container itself.
    let _web = Echo::start(&a.ns, 80);
    for proto in ["tcp", "udp"] {
        net.publish(proto, "8080", &format!("[{}]:80", a.v6));
    }
    for ask in [tcp_seen_as, udp_seen_as] {
        assert_eq!(ask(&net.far, at(OUTSIDE6, 8080)).ip(), ip("2001:db8::1"));
        assert_eq!(ask(&net.lab.ns, at(OUTSIDE6, 8080)).ip(), ip(GATEWAY6));
        for c in [&a, &b] {
            ask(&c.ns, at(OUTSIDE6, 8080));
        }
    }
}

#[test]
fn published_for_another_network() {
    let net = Internet::new();
    let web = net.container(Kind::Tap, "web");
    let _web = Echo::start(&web.ns, 80);
    for proto in ["tcp", "udp"] {
        net.publish(proto, "8080", &format!("[{}]:80", web.v6));
    }
    net.lab.ok(&["bridge", "add", "br1"]);
    net.lab.ok(&["gateway", "add", "br1", "--address", "fd08::1/64"]);
    let other = net.lab.container_with(Kind::Tap, "other", &Opts { bridge: "br1", ..Opts::default() });
    other.ns.sh("ip address flush dev eth0 scope global");
    other.ns.sh("ip address add fd08::9/64 dev eth0 nodad");
    other.ns.sh("ip -6 route replace default via fd08::1");
    for ask in [tcp_seen_as, udp_seen_as] {
        let seen = ask(&other.ns, at(OUTSIDE6, 8080)).ip();
        assert!([ip("fd08::9"), ip(GATEWAY6)].contains(&seen), "{seen}");
    }
    net.lab.assert_conserved();
}

/// A host behind a link with an MTU of 1280, routed and translated: `ping -M do` reports it, TCP finds it.
#[test]
fn the_path_mtu_is_found() {
    for nat66 in [false, true] {
        let net = Internet::new();
        if nat66 {
            net.lab.ok(&["nat", "masquerade", "add", "--from", "fd07::/64", "--uplink", "up", "--nat66"]);
            net.far.sh("ip -6 route del fd07::/64");
        }
        let a: Container = net.container(Kind::Tap, "a");
        let deep = Netns::new(&net.lab.name("deep"));
        net.far.sh(&format!(
            "ip link add name deep mtu 1280 type veth peer name eth0 mtu 1280 netns {}",
            deep.name()
        ));
        net.far.sh("ip address add 2001:db8:d::1/64 dev deep nodad");
        net.far.sh("ip link set deep up");
        deep.sh("ip address add 2001:db8:d::2/64 dev eth0 nodad");
        deep.sh("ip link set eth0 up");
        deep.sh("ip -6 route add default via 2001:db8:d::1");
        let to = "2001:db8:d::2";
        ping::assert_reaches(&a.ns, ip(to));
        let deadline = Instant::now() + Duration::from_secs(10);
        let said = loop {
            let out = a.ns.run("ping", &["-n", "-M", "do", "-s", "1400", "-c", "2", "-W", "2", to]);
            let said = out.stdout + &out.stderr;
            if said.contains("1280") || Instant::now() > deadline {
                break said;
            }
        };
        assert!(["mtu=1280", "mtu = 1280", "mtu: 1280"].iter().any(|m| said.contains(m)), "{said}");
        let route = a.ns.sh(&format!("ip route get {to}"));
        assert!(route.contains("mtu 1280"), "{route}");
        transfer::assert_tcp(&a.ns, &deep, ip(to), 50_000_000);
        net.lab.assert_conserved();
    }
}
