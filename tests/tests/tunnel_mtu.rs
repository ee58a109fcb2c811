//! What fits through a tunnel, and what becomes of what does not.

use std::time::Duration;

use trunkline_tests::capture::{Capture, Captured, Direction};
use trunkline_tests::transfer::{Transfer, assert_tcp, assert_udp_echo};
use trunkline_tests::underlay::{Family, Underlay};
use trunkline_tests::{Container, Kind, Lab, Netns, Opts, eventually, ping, tunnel};

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(120);
const QUIET: Duration = Duration::from_millis(300);

/// Two hosts with a tunnel `tun` between them; `args` such as `--type vxlan --vni 77`.
struct Two {
    under: Underlay,
    one: Lab,
    two: Lab,
}

impl Two {
    fn new(under: Underlay, family: Family, args: &[&str]) -> Two {
        let (one, two) = (tunnel::host(&under, 1), tunnel::host(&under, 2));
        for (lab, far) in [(&one, 2), (&two, 1)] {
            let far = under.address(far, family).to_string();
            lab.ok(&[&["port", "add", "br0", "tun", "--remote", &far], args].concat());
        }
        Two { under, one, two }
    }

    /// With a container on each, which has the MTU of the path.
    fn with_containers(
        under: Underlay,
        family: Family,
        args: &[&str],
        mtu: u32,
    ) -> (Two, Container, Container) {
        let two = Two::new(under, family, args);
        let (a, b) = (tunnel::container(&two.one, "a"), tunnel::container(&two.two, "b"));
        tunnel::await_mtu(&two.one, &a, mtu);
        tunnel::await_mtu(&two.two, &b, mtu);
        ping::assert_reaches(&a.ns, b.v4);
        (two, a, b)
    }

    fn conserved(&self) {
        self.one.assert_conserved();
        self.two.assert_conserved();
    }
}

/// A container that insists on an MTU.
fn stubborn(lab: &Lab, port: &str, mtu: u32) -> Container {
    lab.container_with(Kind::Tap, port, &Opts { mtu, ..Opts::default() })
}

/// What `ping` says of one packet of `size` bytes (IP header included) that may not be fragmented.
fn ping_whole(from: &Netns, to: std::net::IpAddr, size: u32) -> String {
    let headers = if to.is_ipv4() { 28 } else { 48 };
    let size = (size - headers).to_string();
    let out = from.run("ping", &["-n", "-c", "1", "-W", "2", "-M", "do", "-s", &size, &to.to_string()]);
    out.stdout + &out.stderr
}

const SORTS: [(&str, Family, &[&str], u32); 4] = [
    ("vxlan4", Family::V4, &["--type", "vxlan", "--vni", "77"], 1450),
    ("vxlan6", Family::V6, &["--type", "vxlan", "--vni", "77"], 1430),
    ("gre4", Family::V4, &["--type", "gre", "--key", "7"], 1454),
    ("geneve4", Family::V4, &["--type", "geneve", "--vni", "77"], 1446),
];

/// The MTU that is derived is set, is what really fits, and what is larger is told so.
#[test]
fn the_inner_mtu_is_derived_set_and_told() {
    for (name, family, args, mtu) in SORTS {
        eprintln!("{name}");
        let two = Two::new(Underlay::switched(&format!("told-{name}")), family, args);
        let a = tunnel::container(&two.one, "a");
        let b = tunnel::container(&two.two, "b");
        tunnel::await_mtu(&two.one, &a, mtu);
        tunnel::await_mtu(&two.two, &b, mtu);
        let segments = if name.starts_with("gre") { 65535 } else { 65507 / (mtu + 22) };
        let limited = || link(&a.ns, "eth0", "gso_max_segs") == segments.to_string();
        assert!(eventually(Duration::from_secs(5), limited), "{}", a.ns.sh("ip -d link show eth0"));
        let shown = two.one.json(&["port", "show", "a"]);
        assert!(shown["mtu-why"].as_str().is_some_and(|why| why.contains("tun")), "{shown:#}");
        let big = stubborn(&two.one, "big", 1500);
        ping::assert_reaches(&big.ns, b.v4);
        ping::assert_reaches(&big.ns, b.v6);
        for (to, words) in [(b.v4, format!("mtu = {mtu}")), (b.v6, format!("mtu={mtu}"))] {
            let fits = ping_whole(&big.ns, to, mtu);
            assert!(fits.contains("1 received"), "{mtu} bytes to {to} do not arrive:\n{fits}");
            let said = ping_whole(&big.ns, to, mtu + 1);
            assert!(said.contains(&words), "no MTU of {mtu} in:\n{said}");
            // There is no gateway: the error comes from where the packet was to go.
            assert!(said.contains(&format!("From {to}")), "{said}");
            // It is believed.
            let route = big.ns.sh(&format!("ip route get {to}"));
            assert!(route.contains(&format!("mtu {mtu}")), "{route}");
        }
        let generated: u64 =
            two.one.stats().as_array().expect("array").iter().filter_map(|p| p["generated"].as_u64()).sum();
        assert!(generated >= 2, "{:#}", two.one.stats());
        assert!(tunnel::drops(&two.one, "mtu") >= 2);
        // UDP in whole datagrams, which the sender's kernel cuts when it has been told.
        assert_udp_echo(&big.ns, &b.ns, b.v4, [100, 1400, 1472, 4000].into_iter());
        two.conserved();
    }
}

/// The MSS option of the SYN segments in a capture.
fn mss(seen: &Captured) -> Vec<u16> {
    let mut found = Vec::new();
    for frame in seen.frames.iter().filter(|f| f[12..14] == [0x08, 0x00] && f[23] == 6) {
        let tcp = &frame[14 + usize::from(frame[14] & 15) * 4..];
        if tcp[13] & 2 == 0 {
            continue;
        }
        let mut options = &tcp[20..usize::from(tcp[12] >> 4) * 4];
        while let [kind, rest @ ..] = options {
            match (kind, rest) {
                (0, _) => break,
                (1, _) => options = rest,
                (2, [4, a, b, ..]) => {
                    found.push(u16::from_be_bytes([*a, *b]));
                    break;
                }
                (_, [len, ..]) => options = &options[usize::from(*len).max(2)..],
                _ => break,
            }
        }
    }
    found
}

/// TCP's segment size is made to fit unless that is switched off; large packets arrive either way.
#[test]
fn tcp_segments_are_made_to_fit() {
    for (clamp, expected) in [(&[][..], 1450 - 40), (&["--no-mss-clamp"][..], 1460)] {
        let args = [&["--type", "vxlan", "--vni", "77"], clamp].concat();
        let two = Two::new(Underlay::switched(&format!("mss-{expected}")), Family::V4, &args);
        let a = stubborn(&two.one, "a", 1500);
        let b = stubborn(&two.two, "b", 1500);
        ping::assert_reaches(&a.ns, b.v4);
        let seen = Capture::start(&b.ns, "eth0", Direction::In, "tcp");
        assert_tcp(&a.ns, &b.ns, b.v4, 20 * MIB);
        assert_eq!(mss(&seen.stop_when_quiet(QUIET))[0], expected);
        let seen = Capture::start(&a.ns, "eth0", Direction::In, "tcp");
        assert_tcp(&a.ns, &b.ns, b.v4, MIB);
        assert_eq!(mss(&seen.stop_when_quiet(QUIET))[0], expected, "of the answer");
        assert_tcp(&b.ns, &a.ns, a.v6, 20 * MIB);
        two.conserved();
    }
}

/// How many outer fragments are in a capture of an IPv4 or IPv6 underlay.
fn fragments(seen: &Captured) -> usize {
    let is = |f: &&Vec<u8>| match f[12..14] {
        [0x08, 0x00] => f[20] & 0x3f != 0 || f[21] != 0,
        [0x86, 0xdd] => f[20] == 44,
        _ => false,
    };
    seen.frames.iter().filter(is).count()
}

/// Where less than IPv6's 1280 fits, the outer packet is fragmented and the interface keeps 1280.
fn outer_is_fragmented(one: &Lab, two: &Lab, [a, b]: [&Container; 2]) {
    for (lab, c) in [(one, a), (two, b)] {
        tunnel::await_mtu_in(lab, c, 1280..=1280, Duration::from_secs(60));
    }
    ping::assert_reaches(&a.ns, b.v6);
    let seen = Capture::start(&two.ns, "u0", Direction::In, "");
    for (from, to) in [(a, b), (b, a)] {
        for size in [1000, 1279, 1280] {
            let whole = || ping_whole(&from.ns, to.v6, size).contains("1 received");
            assert!(eventually(Duration::from_secs(10), whole), "{size} bytes do not arrive");
        }
    }
    assert!(fragments(&seen.stop_when_quiet(QUIET)) >= 4, "the outer packet is not fragmented");
    assert_tcp(&a.ns, &b.ns, b.v4, 10 * MIB);
    assert_tcp(&b.ns, &a.ns, a.v6, 10 * MIB);
    assert_udp_echo(&a.ns, &b.ns, b.v6, [100, 1232, 4000].into_iter());
    let shown = one.json(&["port", "show", "tun"]);
    assert!(shown["mtu-why"].as_str().is_some_and(|why| why.contains("fragment")), "{shown:#}");
    one.assert_conserved();
    two.assert_conserved();
}

/// What IPv6 leaves room for in an underlay of IPv4; an underlay of IPv6 takes 1280 at least.
fn narrow(family: Family) -> u32 {
    if family == Family::V4 { 1200 } else { 1300 }
}

#[test]
fn never_below_1280() {
    for (name, family, args, mtu) in SORTS {
        eprintln!("{name}");
        let under = Underlay::switched(&format!("least-{name}"));
        let (two, a, b) = Two::with_containers(under, family, args, mtu);
        for lab in [&two.one, &two.two] {
            lab.ns.sh(&format!("ip link set u0 mtu {}", narrow(family)));
        }
        outer_is_fragmented(&two.one, &two.two, [&a, &b]);
    }
}

/// The same where a router on the way says that it takes less, by sockets at both ends and by uplinks.
#[test]
fn never_below_1280_behind_a_router() {
    type MakeHost = fn(&Underlay, u8) -> Lab;
    let host: [(&str, MakeHost); 2] = [("sockets", tunnel::host), ("uplinks", tunnel::uplink_host)];
    for ((name, family, args, mtu), (by, host)) in
        [SORTS[1], SORTS[2]].iter().flat_map(|sort| host.iter().map(move |host| (*sort, *host)))
    {
        eprintln!("{name} by {by}");
        let under = Underlay::routed(&format!("narrow-{name}-{by}"));
        let (one, two) = (host(&under, 1), host(&under, 2));
        let over: &[&str] = if by == "uplinks" { &["--underlay", "up"] } else { &[] };
        for (lab, far) in [(&one, 2), (&two, 1)] {
            let far = under.address(far, family).to_string();
            // Small packets are never told that they are too big: BFD tries.
            lab.ok(&[&["port", "add", "br0", "tun", "--bfd", "--remote", &far], args, over].concat());
        }
        let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
        tunnel::await_mtu(&one, &a, mtu);
        ping::assert_reaches(&a.ns, b.v4);
        // The far host's link: the router knows, we do not. The far host knows, or its router swallows what is too
        // large: then only BFD finds out.
        under.set_mtu(2, narrow(family));
        if by == "sockets" {
            two.ns.sh(&format!("ip link set u0 mtu {}", narrow(family)));
        }
        outer_is_fragmented(&one, &two, [&a, &b]);
    }
}

/// The interface of the host itself gets a smaller MTU while data flows, and its old one again.
#[test]
fn the_link_shrinks_and_grows_under_load() {
    for (name, family, args, mtu) in SORTS {
        eprintln!("{name}");
        let under = Underlay::switched(&format!("link-{name}"));
        let (two, a, b) = Two::with_containers(under, family, args, mtu);
        let load = Transfer::start(&a.ns, &b.ns, b.v4, 60 * MIB, Some(15_000_000));
        std::thread::sleep(Duration::from_millis(500));
        let set = |outer: u32, inner: u32| {
            for (lab, c) in [(&two.one, &a), (&two.two, &b)] {
                lab.ns.sh(&format!("ip link set u0 mtu {outer}"));
                tunnel::await_mtu(lab, c, inner);
            }
        };
        set(1400, mtu - 100);
        assert_tcp(&b.ns, &a.ns, a.v6, 5 * MIB);
        set(1500, mtu);
        load.assert_whole(LONG, 60 * MIB);
        two.conserved();
    }
}

/// A router in the middle says "fragmentation needed" while data flows.
#[test]
fn a_router_says_that_the_path_shrank() {
    for (name, family, args, mtu) in SORTS {
        eprintln!("{name}");
        let under = Underlay::routed(&format!("icmp-{name}"));
        let (two, a, b) = Two::with_containers(under, family, args, mtu);
        let load = Transfer::start(&a.ns, &b.ns, b.v4, 60 * MIB, Some(15_000_000));
        std::thread::sleep(Duration::from_millis(500));
        // The far host's link: the router knows, the far host knows, we do not.
        two.under.set_mtu(2, 1400);
        two.two.ns.sh("ip link set u0 mtu 1400");
        load.assert_whole(LONG, 60 * MIB);
        tunnel::await_mtu(&two.one, &a, mtu - 100);
        tunnel::await_mtu(&two.two, &b, mtu - 100);
        let shown = two.one.json(&["port", "show", "tun"]);
        assert_eq!(shown["peers"][0]["path-mtu"], 1400, "{shown:#}");
        assert_tcp(&a.ns, &b.ns, b.v6, 10 * MIB);
        assert_tcp(&b.ns, &a.ns, a.v4, 10 * MIB);
        two.conserved();
    }
}

/// A path that swallows what is too large for it and says nothing: liveness packets of that size find it.
#[test]
fn a_path_that_swallows_large_packets() {
    // One with UDP, one without: this takes its time.
    for (name, family, args, mtu) in [SORTS[0], SORTS[2]] {
        eprintln!("{name}");
        let under = Underlay::routed(&format!("hole-{name}"));
        let (two, a, b) = Two::with_containers(under, family, &[args, &["--bfd"]].concat(), mtu);
        // Only what a wire carries: a superframe is not longer than a packet of it.
        for lab in [&two.one, &two.two] {
            lab.ns.sh("ethtool -K u0 tx off tso off gso off tx-udp-segmentation off");
        }
        two.under.ns.sh("nft add table inet hole");
        two.under.ns.sh("nft add chain inet hole forward { type filter hook forward priority 0 ; }");
        two.under.ns.sh("nft add rule inet hole forward meta length > 1400 counter drop");
        let load = Transfer::start(&a.ns, &b.ns, b.v4, 20 * MIB, None);
        tunnel::await_mtu_in(&two.one, &a, 1280..=mtu - 100, Duration::from_secs(15));
        load.assert_whole(LONG, 20 * MIB);
        // Halving the interval takes a while: what is lost says nothing, and that several times.
        for (lab, c) in [(&two.one, &a), (&two.two, &b)] {
            tunnel::await_mtu_in(lab, c, mtu - 100..=mtu - 100, Duration::from_secs(60));
        }
        assert_tcp(&b.ns, &a.ns, a.v6, 10 * MIB);
        two.conserved();
    }
}

/// Where we may not set an MTU we say so, and tell the sender; a gateway's follows, and an adopted TAP's.
#[test]
fn what_else_is_on_the_bridge_follows_or_is_told() {
    let args = ["--type", "vxlan", "--vni", "77"];
    let two = Two::new(Underlay::switched("else"), Family::V4, &args);
    let b = tunnel::container(&two.two, "b");
    let why = |lab: &Lab, what: &[&str]| {
        let shown = lab.json(what);
        (shown["mtu"].clone(), shown["mtu-why"].as_str().unwrap_or_default().to_owned())
    };
    // A veth, whose other end is its owner's.
    let v = two.one.container_with(Kind::Afpacket, "v", &Opts::default());
    ping::assert_reaches(&v.ns, b.v4);
    let told = "tunnel tun carries 1450: what is larger is answered with too-big errors";
    assert_eq!(why(&two.one, &["port", "show", "v"]), (1500.into(), told.to_owned()));
    let said = ping_whole(&v.ns, b.v4, 1500);
    assert!(said.contains("mtu = 1450"), "{said}");
    let said = ping_whole(&v.ns, b.v6, 1500);
    assert!(said.contains("mtu=1450"), "{said}");
    assert_tcp(&v.ns, &b.ns, b.v4, 10 * MIB);
    // One that insists.
    let _s = stubborn(&two.one, "s", 1500);
    assert_eq!(why(&two.one, &["port", "show", "s"]), (1500.into(), told.to_owned()));
    // A TAP of somebody else's: lowered, and given back.
    two.one.ns.sh("ip tuntap add dev old mode tap vnet_hdr");
    two.one.ns.sh("ip link set old mtu 1600 up");
    let adopt = ["port", "add", "br0", "old", "--type", "tap", "--ifname", "old", "--adopt"];
    two.one.ok(&adopt);
    let segments =
        |n: &str| eventually(Duration::from_secs(5), || link(&two.one.ns, "old", "gso_max_segs") == n);
    let is = |mtu: &str| eventually(Duration::from_secs(5), || link(&two.one.ns, "old", "mtu") == mtu);
    assert!(is("1450") && segments("44"));
    assert_eq!(why(&two.one, &["port", "show", "old"]), (1450.into(), "what tunnel tun carries".to_owned()));
    two.one.ok(&["port", "del", "old"]);
    assert!(is("1600") && segments("65535"));
    two.one.ok(&adopt);
    assert!(is("1450"));
    // A gateway: from behind it, too.
    two.one.ok(&["gateway", "add", "br0", "--address", "10.7.255.254/16"]);
    assert_eq!(
        why(&two.one, &["gateway", "show", "br0"]),
        (1450.into(), "what tunnel tun carries".to_owned())
    );
    for lab in [&two.one, &two.two] {
        lab.ns.sh("ip link set u0 mtu 1400");
    }
    tunnel::await_mtu(&two.two, &b, 1350);
    let follows =
        || why(&two.one, &["gateway", "show", "br0"]).0 == 1350 && link(&two.one.ns, "old", "mtu") == "1350";
    assert!(eventually(Duration::from_secs(5), follows), "{:#}", two.one.json(&["gateway", "show", "br0"]));
    // Without the tunnel all is as it was.
    two.one.ok(&["port", "del", "tun"]);
    assert!(is("1600") && segments("65535"));
    assert_eq!(why(&two.one, &["gateway", "show", "br0"]), (1500.into(), String::new()));
    two.two.assert_conserved();
}

/// An attribute of an interface, as `ip -d link` names it.
fn link(ns: &Netns, name: &str, attribute: &str) -> String {
    let link: serde_json::Value =
        serde_json::from_str(&ns.sh(&format!("ip -d -j link show dev {name}"))).expect("ip -j");
    link[0][attribute].to_string()
}

/// An MTU by command: more than fits is fragmented outside.
#[test]
fn a_configured_mtu_is_obeyed() {
    let args = ["--type", "vxlan", "--vni", "77", "--mtu", "1500"];
    let two = Two::new(Underlay::switched("conf"), Family::V4, &args);
    let a = tunnel::container(&two.one, "a");
    let b = tunnel::container(&two.two, "b");
    tunnel::await_mtu(&two.one, &a, 1500);
    ping::assert_reaches(&a.ns, b.v4);
    let seen = Capture::start(&two.one.ns, "u0", Direction::In, "");
    let whole = ping_whole(&a.ns, b.v4, 1500);
    assert!(whole.contains("1 received"), "{whole}");
    assert!(fragments(&seen.stop_when_quiet(QUIET)) >= 2);
    assert_tcp(&a.ns, &b.ns, b.v4, 10 * MIB);
    two.conserved();
    // Two tunnels on a bridge: the smaller one counts.
    two.one.ok(&["port", "add", "br0", "other", "--type", "gre", "--remote", "192.0.2.9", "--mtu", "1300"]);
    tunnel::await_mtu(&two.one, &a, 1300);
    two.one.ok(&["port", "del", "other"]);
    tunnel::await_mtu(&two.one, &a, 1500);
    // Gone with the last tunnel.
    two.one.ok(&["port", "del", "tun"]);
    tunnel::await_mtu(&two.one, &a, 1500);
}
