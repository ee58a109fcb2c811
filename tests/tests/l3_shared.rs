//! A machine with one interface and one address, which the switch shares with the host's own stack; and the host
//! as the way out.

use std::net::SocketAddr;
use std::time::Duration;

use trunkline_tests::internet::{
    Client, Echo, FAR4, FAR6, GATEWAY4, Internet, OUTSIDE4, OUTSIDE6, at, ip, tcp_seen_as, udp_ask,
    udp_seen_as,
};
use trunkline_tests::transfer::{GIB, Transfer};
use trunkline_tests::{Kind, over_kinds, ping, transfer};

/// The daemon's namespace is the machine: `up0` is its interface, with address and default route.
fn machine() -> Internet {
    let net = Internet::machine(&[]);
    ping::assert_reaches(&net.lab.ns, ip(FAR4));
    ping::assert_reaches(&net.lab.ns, ip(FAR6));
    net
}

fn share(net: &Internet) {
    net.lab.ok(&["uplink", "add", "up", "--type", "shared"]);
    net.lab.ok(&["nat", "masquerade", "add", "--from", "10.7.0.0/16", "--uplink", "up"]);
}

over_kinds!(one_address_for_the_host_and_the_switch);

fn one_address_for_the_host_and_the_switch(kind: Kind) {
    let net = machine();
    let _ssh = Echo::start(&net.lab.ns, 22);
    share(&net);
    let a = net.container(kind, "a");
    let _far = Echo::start(&net.far, 7);
    let seen = tcp_seen_as(&a.ns, at(FAR4, 7));
    assert!(seen.ip() == ip(OUTSIDE4) && (61000..=64999).contains(&seen.port()), "{seen}");
    assert_eq!(udp_seen_as(&a.ns, at(FAR4, 7)).ip(), ip(OUTSIDE4));
    assert_eq!(udp_ask(&a.ns, 0, at(FAR4, 7), 5000).expect("in fragments").ip(), ip(OUTSIDE4));
    ping::assert_reaches(&a.ns, ip(FAR4));
    // The host goes on as before, both ways.
    assert_eq!(tcp_seen_as(&net.lab.ns, at(FAR4, 7)).ip(), ip(OUTSIDE4));
    assert_eq!(udp_seen_as(&net.lab.ns, at(FAR6, 7)).ip(), ip(OUTSIDE6));
    assert_eq!(tcp_seen_as(&net.far, at(OUTSIDE4, 22)).ip(), ip("192.0.2.1"));
    ping::assert_reaches(&net.far, ip(OUTSIDE4));
    ping::assert_reaches(&net.lab.ns, ip(FAR4));
    // Published beside it, with the client's address kept.
    let _web = Echo::start(&a.ns, 80);
    net.publish("tcp", "8080", &format!("{}:80", a.v4));
    net.publish("udp", "8080", &format!("{}:80", a.v4));
    assert_eq!(tcp_seen_as(&net.far, at(OUTSIDE4, 8080)).ip(), ip("192.0.2.1"));
    assert_eq!(udp_seen_as(&net.far, at(OUTSIDE4, 8080)).ip(), ip("192.0.2.1"));
    // From the container itself and from a sibling.
    let b = net.container(kind, "b");
    tcp_seen_as(&a.ns, at(OUTSIDE4, 8080));
    tcp_seen_as(&b.ns, at(OUTSIDE4, 8080));
    let refused = Client::connect(&a.ns, at(FAR4, 9)).expect_err("nobody there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
}

over_kinds!(a_gibibyte_each_way);

fn a_gibibyte_each_way(kind: Kind) {
    let net = machine();
    share(&net);
    let a = net.container(kind, "a");
    ping::assert_reaches(&a.ns, ip(FAR4));
    transfer::assert_tcp(&a.ns, &net.far, ip(FAR4), GIB);
    net.publish("tcp", "8080", &format!("{}:80", a.v4));
    let listen = SocketAddr::new(a.v4, 80);
    let transfer = Transfer::start_by(&net.far, &a.ns, listen, Some(at(OUTSIDE4, 8080)), GIB, None);
    transfer.assert_whole(Duration::from_secs(120), GIB);
}

/// As many clouds give it: an address without a network, and a router that only a route says is on the link.
#[test]
fn an_address_of_its_own_alone() {
    for how in ["ip route add 192.0.2.1 dev up0", "onlink"] {
        let net = Internet::plugged(&[]);
        net.lab.ns.sh("ip address add 192.0.2.10/32 dev up0");
        net.lab.ns.sh("ip link set up0 up");
        match how {
            "onlink" => net.lab.ns.sh("ip route add default via 192.0.2.1 dev up0 onlink"),
            line => net.lab.ns.sh(line) + &net.lab.ns.sh("ip route add default via 192.0.2.1"),
        };
        ping::assert_reaches(&net.lab.ns, ip(FAR4));
        share(&net);
        let a = net.container(Kind::Tap, "a");
        let (_far, _web) = (Echo::start(&net.far, 7), Echo::start(&a.ns, 80));
        assert_eq!(tcp_seen_as(&a.ns, at(FAR4, 7)).ip(), ip(OUTSIDE4), "{how}");
        net.publish("tcp", "8080", &format!("{}:80", a.v4));
        assert_eq!(tcp_seen_as(&net.far, at(OUTSIDE4, 8080)).ip(), ip("192.0.2.1"), "{how}");
    }
}

/// Docker's port on the host, from the host.
#[test]
fn the_host_reaches_its_own_published_port() {
    let net = machine();
    share(&net);
    let a = net.container(Kind::Tap, "a");
    let _web = Echo::start(&a.ns, 80);
    net.publish("tcp", "8080", &format!("{}:80", a.v4));
    net.publish("udp", "8080", &format!("{}:80", a.v4));
    assert_eq!(tcp_seen_as(&net.lab.ns, at(OUTSIDE4, 8080)).ip(), ip(GATEWAY4));
    assert_eq!(udp_seen_as(&net.lab.ns, at(OUTSIDE4, 8080)).ip(), ip(GATEWAY4));
    // And the other way: what the host itself serves, under the address that both have.
    let _ssh = Echo::start(&net.lab.ns, 22);
    assert_eq!(tcp_seen_as(&a.ns, at(OUTSIDE4, 22)).ip(), ip(OUTSIDE4));
    assert_eq!(udp_seen_as(&a.ns, at(OUTSIDE4, 22)).ip(), ip(OUTSIDE4));
    let refused = Client::connect(&a.ns, at(OUTSIDE4, 23)).expect_err("nobody there");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused, "{refused}");
}

#[test]
fn nothing_is_left_when_it_goes() {
    let mut net = machine();
    let before =
        (net.lab.ns.sh("ip -d link show up0"), net.lab.ns.sh("sysctl net.ipv4.ip_local_reserved_ports"));
    share(&net);
    net.lab.daemon.kill();
    net.lab.start();
    let a = net.container(Kind::Tap, "a");
    ping::assert_reaches(&a.ns, ip(FAR4));
    net.lab.release();
    let after =
        (net.lab.ns.sh("ip -d link show up0"), net.lab.ns.sh("sysctl net.ipv4.ip_local_reserved_ports"));
    assert_eq!(before, after);
    let _own = Echo::start(&net.lab.ns, 61_500);
    tcp_seen_as(&net.far, at(OUTSIDE4, 61_500));
}

#[test]
fn the_host_as_the_way_out() {
    let net = machine();
    net.lab.ns.enter(|| {
        for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/net/{file}"), "1").expect("sysctl");
        }
    });
    net.lab.ok(&[
        "uplink",
        "add",
        "up",
        "--type",
        "host",
        "--interface",
        "tl0",
        "--address",
        "172.30.0.2/30",
    ]);
    net.lab.ok(&["nat", "masquerade", "add", "--from", "10.7.0.0/16", "--uplink", "up"]);
    net.far.sh("ip route add 172.30.0.0/30 via 192.0.2.10");
    let a = net.container(Kind::Tap, "a");
    let _far = Echo::start(&net.far, 7);
    ping::assert_reaches(&a.ns, ip("172.30.0.1"));
    assert_eq!(tcp_seen_as(&a.ns, at(FAR4, 7)).ip(), ip("172.30.0.2"));
    let _web = Echo::start(&a.ns, 80);
    net.publish("tcp", "8080", &format!("{}:80", a.v4));
    assert_eq!(tcp_seen_as(&net.lab.ns, at("172.30.0.2", 8080)).ip(), ip("172.30.0.1"));
    transfer::assert_tcp(&a.ns, &net.far, ip(FAR4), 200_000_000);
}
