//! Anti-spoof: a container that lies about who it is, and one that does not.

use std::time::Duration;

use trunkline_tests::capture::{Capture, Direction};
use trunkline_tests::internet::{
    Echo, FAR4, FAR6, GATEWAY4, GATEWAY6, Internet, OUTSIDE4, at, ip, tcp_seen_as,
};
use trunkline_tests::raw::Raw;
use trunkline_tests::{Container, Kind, Netns, Opts, eventually, frame, over_kinds, ping, scapy, transfer};

/// A container held to its own addresses.
fn guarded(net: &Internet, kind: Kind, port: &str) -> Container {
    let c = net.container(kind, port);
    let mac = frame::mac_text(c.mac);
    let (v4, v6) = (c.v4.to_string(), c.v6.to_string());
    let mut args = vec!["port", "set", port];
    match kind {
        Kind::Tap => args.extend(["--anti-spoof", "own"]),
        Kind::Afpacket => args.extend(["--anti-spoof", &mac, "--anti-spoof", &v4, "--anti-spoof", &v6]),
    }
    net.lab.ok(&args);
    c
}

over_kinds!(who_does_not_lie_notices_nothing);

fn who_does_not_lie_notices_nothing(kind: Kind) {
    let net = Internet::new();
    let (a, b) = (guarded(&net, kind, "a"), guarded(&net, kind, "b"));
    let _far = Echo::start(&net.far, 7);
    for to in [b.v4, b.v6, ip(GATEWAY4), ip(GATEWAY6), ip(FAR4), ip(FAR6)] {
        ping::assert_reaches(&a.ns, to);
    }
    transfer::assert_tcp(&a.ns, &b.ns, b.v4, 100_000_000);
    transfer::assert_tcp(&a.ns, &b.ns, b.v6, 100_000_000);
    transfer::assert_udp_echo(&a.ns, &b.ns, b.v4, [0usize, 1472, 9000].into_iter());
    transfer::assert_udp_echo(&a.ns, &b.ns, b.v6, [0usize, 1452, 9000].into_iter());
    assert_eq!(tcp_seen_as(&a.ns, at(FAR4, 7)).ip(), ip(OUTSIDE4));
    // Duplicate address detection, router solicitations, MLD: whatever a kernel sends when an interface comes up.
    a.ns.sh("ip link set eth0 down");
    a.ns.sh("ip link set eth0 up");
    a.ns.sh(&format!("ip address replace {}/64 dev eth0", a.v6));
    // Until then the kernel sends from ::1, which no guard can let pass.
    let checked = || !a.ns.sh("ip -6 address show dev eth0 tentative").contains("inet6");
    assert!(eventually(Duration::from_secs(10), checked));
    ping::assert_reaches(&a.ns, b.v6);
    let stats = net.lab.stats();
    for port in ["a", "b"] {
        for reason in ["mac", "arp", "nd", "ipv4", "ipv6", "dhcp", "ra", "hidden", "type"] {
            let reason = format!("guard-{reason}");
            assert_eq!(trunkline_tests::check::drops(&stats, port, &reason), 0, "{port} {reason}: {stats:#}");
        }
    }
    net.lab.assert_conserved();
}

over_kinds!(lies_end_at_the_port);

/// Every case of tests/scapy/spoof.py, and what a real kernel beside it makes of them: nothing.
fn lies_end_at_the_port(kind: Kind) {
    let net = Internet::new();
    let (liar, victim) = (guarded(&net, kind, "liar"), net.container(kind, "victim"));
    let gateway_mac =
        net.lab.json(&["gateway", "show", "br0"])["spec"]["mac"].as_str().expect("mac").to_owned();
    victim.ns.enter(|| {
        for (file, value) in [("ipv6/conf/eth0/accept_ra", "2"), ("ipv4/conf/eth0/arp_accept", "1")] {
            std::fs::write(format!("/proc/sys/net/{file}"), value).expect("sysctl");
        }
    });
    ping::assert_reaches(&victim.ns, ip(GATEWAY4));
    ping::assert_reaches(&victim.ns, ip(GATEWAY6));
    let before = world_of(&victim.ns);
    let text = |c: &Container| [frame::mac_text(c.mac), c.v4.to_string(), c.v6.to_string()];
    let gateway = [gateway_mac, GATEWAY4.to_owned(), GATEWAY6.to_owned()];
    let ends: Vec<String> = [text(&liar), text(&victim), gateway].concat();
    let list = scapy::cases("spoof.py", &ends.iter().map(String::as_str).collect::<Vec<_>>());
    let capture = Capture::start(&victim.ns, "eth0", Direction::In, "");
    let mut raw = Raw::open(&liar.ns, "eth0");
    let mut expected = std::collections::BTreeMap::new();
    for case in &list {
        case.frames.iter().for_each(|f| raw.send(f));
        if let Some(reason) = &case.reason {
            eprintln!("{}", case.name);
            let count = expected.entry(reason.clone()).or_insert(0);
            *count += case.frames.len() as u64;
            net.lab.await_drops("liar", reason, *count);
        }
    }
    let seen = capture.stop_when_quiet(Duration::from_millis(500)).frames;
    for case in &list {
        let arrived = case.frames.iter().all(|f| seen.iter().any(|s| s.starts_with(f)));
        let to_victim = !case.frames[0].starts_with(&parse(&ends[6]));
        assert_eq!(arrived, case.reason.is_none() && to_victim, "{}", case.name);
    }
    for (reason, count) in &expected {
        assert_eq!(net.lab.drops("liar", reason), *count, "{reason}");
    }
    assert_eq!(world_of(&victim.ns), before, "the victim believes something");
    ping::assert_reaches(&victim.ns, ip(FAR4));
    // Without the guard the same lies are believed: the test can fail.
    net.lab.ok(&["port", "set", "liar", "--anti-spoof", "none"]);
    let believed = eventually(Duration::from_secs(5), || {
        for case in list.iter().filter(|c| c.name == "RA" || c.name == "ARP: I am the gateway") {
            case.frames.iter().for_each(|f| raw.send(f));
        }
        world_of(&victim.ns) != before
    });
    assert!(believed, "{before:?}");
    net.lab.assert_conserved();
}

fn parse(mac: &str) -> [u8; 6] {
    let mut bytes = mac.split(':').map(|b| u8::from_str_radix(b, 16).expect("hex"));
    std::array::from_fn(|_| bytes.next().expect("six bytes"))
}

/// What a container's kernel takes for true: who the gateway is, its addresses and routers.
fn world_of(ns: &Netns) -> Vec<String> {
    let neighbours = ns.sh("ip neighbour show dev eth0");
    let gateways = neighbours.lines().filter(|l| l.starts_with(GATEWAY4) || l.starts_with(GATEWAY6));
    let lists = ns.sh("ip -o -6 address show dev eth0 scope global") + &ns.sh("ip -6 route show default");
    // Without how fresh it is.
    let lasting = |l: &str| {
        let words = l.split_whitespace().take_while(|w| {
            !w.chars().all(char::is_uppercase) && !["valid_lft", "expires", "router"].contains(w)
        });
        words.collect::<Vec<_>>().join(" ")
    };
    gateways.chain(lists.lines()).map(lasting).collect()
}

#[test]
fn tags_are_looked_through_on_a_trunk_and_options_are_shown() {
    let net = Internet::new();
    let a = guarded(&net, Kind::Tap, "a");
    let shown = net.lab.ok(&["port", "show", "a"]);
    assert!(shown.lines().any(|l| l.starts_with("anti-spoof") && l.ends_with(" own")), "{shown}");
    // VLAN 7, where nobody is to be believed either.
    let mut raw = Raw::open(&a.ns, "eth0");
    let mut ip = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2];
    ip.extend([0, 9, 0, 9, 0, 8, 0, 0, 0, 0]);
    let tagged = frame::frame(frame::BROADCAST, a.mac, &[frame::Tag::c(7)], 0x0800, &ip);
    raw.send(&tagged);
    net.lab.await_drops("a", "guard-ipv4", 1);
    net.lab.ok(&["port", "set", "a", "--anti-spoof", "own", "--anti-spoof", "10.9.0.0/24"]);
    let before = net.lab.json(&["port", "show", "a"]);
    raw.send(&tagged);
    net.lab.await_drops("a", "no-destination", 1);
    assert_eq!(net.lab.drops("a", "guard-ipv4"), 1, "{before:#}");
    for (what, words) in [
        ("everything", &["everything", "own, dhcp"][..]),
        ("224.0.0.1", &["224.0.0.1"]),
        ("01:00:00:00:00:01", &["group"]),
    ] {
        net.lab.fails(&["port", "set", "a", "--anti-spoof", what], words);
    }
    net.lab.fails(&["port", "add", "br0", "n", "--type", "null", "--anti-spoof", "own"], &["MAC address"]);
    net.lab.assert_conserved();
}

#[test]
fn addresses_that_dhcp_gives_may_be_used_and_no_others() {
    let mut net = Internet::new();
    net.lab.ok(&["gateway", "set", "br0", "--dhcp-range", "10.7.1.10-10.7.1.20"]);
    let opts = Opts { args: vec!["--anti-spoof", "dhcp"], ..Opts::default() };
    let c = net.lab.container_with(Kind::Tap, "c", &opts);
    c.ns.sh("ip address flush dev eth0 scope global");
    // An address of its own choice.
    c.ns.sh("ip address add 10.7.1.15/16 dev eth0");
    ping::assert_isolated(&c.ns, ip(GATEWAY4));
    assert!(net.lab.drops("c", "guard-arp") > 0, "{:#}", net.lab.stats());
    c.ns.sh("ip address flush dev eth0 scope global");
    let script = net.lab.dir().join("udhcpc.sh");
    std::fs::write(&script, "#!/bin/sh\n[ $1 = bound ] && ip address add $ip/$mask dev $interface && ip route add default via $router\nexit 0\n").expect("write");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    let script = script.to_str().expect("utf-8");
    let out =
        c.ns.run("busybox", &["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "8", "-T", "1", "-s", script]);
    assert_eq!(out.code, 0, "{out:?}");
    ping::assert_reaches(&c.ns, ip(FAR4));
    let leased = net.lab.json(&["port", "show", "c"])["leased"][0].as_str().expect("a lease").to_owned();
    assert!(leased.starts_with("10.7.1."), "{leased}");
    let shown = net.lab.ok(&["port", "show", "c"]);
    assert!(shown.contains(&format!("dhcp (leased: {leased})")), "{shown}");
    // Another guard, and a daemon that was killed, know of it: within a second it is written down.
    net.lab.ok(&["port", "set", "c", "--anti-spoof", "none"]);
    net.lab.ok(&["port", "set", "c", "--anti-spoof", "dhcp"]);
    ping::assert_reaches(&c.ns, ip(FAR4));
    std::thread::sleep(Duration::from_millis(2500));
    net.lab.daemon.kill();
    net.lab.start();
    ping::assert_reaches(&c.ns, ip(FAR4));
    c.ns.sh("ip address add 10.7.1.99/16 dev eth0");
    let before = net.lab.drops("c", "guard-ipv4");
    c.ns.run("ping", &["-c", "2", "-i", "0.2", "-W", "1", "-I", "10.7.1.99", FAR4]);
    net.lab.await_drops("c", "guard-ipv4", before + 2);
    net.lab.assert_conserved();
}
