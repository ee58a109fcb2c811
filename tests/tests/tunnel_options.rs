//! What can be asked of a tunnel, seen on the underlay.

use std::collections::BTreeSet;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};
use trunkline_tests::capture::{Capture, Captured, Direction};
use trunkline_tests::frame::{self, BROADCAST, experiment, mac, mac_text};
use trunkline_tests::ping::{self, Pinger};
use trunkline_tests::raw::Raw;
use trunkline_tests::transfer::{Transfer, assert_tcp};
use trunkline_tests::underlay::{Family, Underlay};
use trunkline_tests::vxlan::VxlanHost;
use trunkline_tests::{Lab, Netns, ping::ping, tunnel};

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(120);

/// Adds a tunnel `tun` on `br0`; the command line is split at blanks.
fn add(lab: &Lab, port: &str, line: &str) {
    let mut args = vec!["port", "add", "br0", port];
    args.extend(line.split_whitespace());
    lab.ok(&args);
}

/// Two hosts with a tunnel `tun` between them.
fn two(name: &str, line: &str) -> (Underlay, Lab, Lab) {
    let under = Underlay::switched(name);
    let (one, two) = (tunnel::host(&under, 1), tunnel::host(&under, 2));
    add(&one, "tun", &format!("{line} --remote {}", under.v4(2)));
    add(&two, "tun", &format!("{line} --remote {}", under.v4(1)));
    (under, one, two)
}

/// An outer IPv4 header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Outer {
    tos: u8,
    ttl: u8,
    df: bool,
    src_port: u16,
    dst: u8,
}

/// Those of UDP to `port`, or of GRE when that is 0.
fn outers(seen: &Captured, port: u16) -> Vec<Outer> {
    let word = |f: &[u8], at: usize| u16::from_be_bytes([f[at], f[at + 1]]);
    let ip = seen.frames.iter().filter(|f| f[12..14] == [0x08, 0x00] && f.len() > 38);
    ip.filter(|f| if port == 0 { f[23] == 47 } else { f[23] == 17 && word(f, 36) == port })
        .map(|f| Outer { tos: f[15], ttl: f[22], df: f[20] & 0x40 != 0, src_port: word(f, 34), dst: f[33] })
        .collect()
}

/// What leaves for the far end while one ping with these arguments is made.
fn outer_of_ping(from: &Lab, c: &Netns, to: std::net::IpAddr, args: &[&str], port: u16) -> Outer {
    let seen = Capture::start(&from.ns, "u0", Direction::Both, "src host 192.0.2.1");
    assert_eq!(ping(c, to, 3, 0.1, args).received, 3);
    let seen = outers(&seen.stop_when_quiet(Duration::from_millis(300)), port);
    // ARP may be among them; it has nothing to inherit.
    *seen
        .iter()
        .max_by_key(|o| seen.iter().filter(|p| p.tos == o.tos && p.ttl == o.ttl).count())
        .expect("an outer packet")
}

/// TOS, TTL, "don't fragment" and the ECN mark of the outer header.
#[test]
fn the_outer_header() {
    for (kind, port) in [("gre --key 7", 0), ("vxlan --vni 77", 4789), ("geneve --vni 77", 6081)] {
        let name = format!("outer-{port}");
        let (_under, one, two) = two(&name, &format!("--type {kind}"));
        let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
        ping::assert_reaches(&a.ns, b.v4);
        let see = |args: &[&str]| outer_of_ping(&one, &a.ns, b.v4, args, port);
        let outer = see(&["-Q", "184", "-t", "17"]);
        assert_eq!((outer.tos, outer.ttl, outer.df), (0, 64, true), "{kind}");
        // RFC 6040 §4.1: the mark is copied whatever the rest is.
        assert_eq!(see(&["-Q", "186", "-t", "17"]).tos, 2, "{kind}");
        assert_eq!(see(&["-Q", "1"]).tos, 1, "{kind}");
        one.ok(&["port", "set", "tun", "--tos", "inherit", "--ttl", "inherit", "--no-df"]);
        let outer = see(&["-Q", "184", "-t", "17"]);
        assert_eq!((outer.tos, outer.ttl, outer.df), (184, 17, false), "{kind}");
        assert_eq!(see(&["-Q", "186"]).tos, 186, "{kind}");
        one.ok(&["port", "set", "tun", "--tos", "32", "--ttl", "9"]);
        let outer = see(&["-Q", "185", "-t", "17"]);
        assert_eq!((outer.tos, outer.ttl), (33, 9), "{kind}");
        assert_tcp(&a.ns, &b.ns, b.v4, 10 * MIB);
        one.assert_conserved();
        two.assert_conserved();
    }
}

/// Flows differ in their outer source port, one flow does not.
#[test]
fn the_source_port_follows_the_inner_flow() {
    for (kind, port) in [("vxlan", 4789), ("geneve", 6081)] {
        let (_under, one, two) = two(&format!("entropy-{port}"), &format!("--type {kind} --vni 77"));
        let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
        ping::assert_reaches(&a.ns, b.v4);
        let send = |flows: u16, each: usize| {
            let seen = Capture::start(&one.ns, "u0", Direction::Both, "src host 192.0.2.1 and udp");
            a.ns.enter(|| {
                for flow in 0..flows {
                    let socket = UdpSocket::bind(("0.0.0.0", 20_000 + flow)).expect("bind");
                    for _ in 0..each {
                        socket.send_to(&[0; 100], (b.v4, 9)).expect("send");
                    }
                }
            });
            outers(&seen.stop_when_quiet(Duration::from_millis(300)), port)
        };
        let ports: BTreeSet<u16> = send(200, 1).iter().map(|o| o.src_port).collect();
        assert!(ports.len() >= 10, "200 flows have {} source ports: {ports:?}", ports.len());
        let one_flow = send(1, 50);
        let ports: BTreeSet<u16> = one_flow.iter().map(|o| o.src_port).collect();
        // Beside the flow there may be an ARP request.
        assert!(!one_flow.is_empty() && ports.len() <= 2, "one flow has the source ports {ports:?}");
        one.assert_conserved();
    }
}

/// Somebody else has the UDP port: a clear error, and nothing half made.
#[test]
fn the_udp_port_is_taken() {
    let under = Underlay::switched("taken");
    let lab = tunnel::host(&under, 1);
    let c = tunnel::container(&lab, "c");
    let before = lab.ok(&["export"]);
    let vxlan = ["port", "add", "br0", "vx0", "--type", "vxlan", "--vni", "77", "--remote", "192.0.2.2"];
    {
        let _taken = lab.ns.enter(|| UdpSocket::bind("0.0.0.0:4789")).expect("bind");
        lab.fails(&vxlan, &["4789"]);
    }
    lab.ns.sh("ip link add vx type vxlan id 9 dstport 4789 remote 192.0.2.2");
    lab.ns.sh("ip link set vx up");
    lab.fails(&vxlan, &["4789"]);
    // A mesh is refused as a whole.
    lab.fails(
        &["mesh", "add", "br0", "m", "--type", "vxlan", "--vni", "77", "--peers", "192.0.2.2,192.0.2.3"],
        &["4789"],
    );
    assert_eq!(lab.ok(&["export"]), before, "something was left of what failed");
    assert_eq!(lab.json(&["port", "list"]).as_array().map(Vec::len), Some(1));
    // Another port is free.
    add(&lab, "other", "--type vxlan --vni 77 --remote 192.0.2.2 --dst-port 4790");
    lab.ns.sh("ip link del vx");
    lab.ok(&vxlan);
    let far = VxlanHost::new("taken-far", &under, 2, 1, Family::V4, "id 77 dstport 4789");
    ping::assert_reaches(&c.ns, far.v4);
    // The socket goes with the last tunnel that needs it.
    lab.ok(&["port", "del", "vx0"]);
    lab.ns.enter(|| UdpSocket::bind("0.0.0.0:4789")).expect("the port is still taken");
}

/// What makes no sense is refused in one line, and leaves no trace.
#[test]
fn nonsense_is_refused() {
    let under = Underlay::switched("nonsense");
    let lab = tunnel::host(&under, 1);
    add(&lab, "good", "--type vxlan --vni 77 --remote 192.0.2.2");
    let before = lab.ok(&["export"]);
    for (line, word) in [
        ("--type vxlan --remote 192.0.2.3", "vni"),
        ("--type vxlan --vni 16777216 --remote 192.0.2.3", "16777215"),
        ("--type vxlan --vni 77 --remote 192.0.2.2", "good"),
        ("--type vxlan --vni 78 --key 7 --remote 192.0.2.3", "key"),
        ("--type vxlan --vni 78 --csum --remote 192.0.2.3", "csum"),
        ("--type gre --vni 78 --remote 192.0.2.3", "vni"),
        ("--type gre --key 4294967296 --remote 192.0.2.3", "4294967296"),
        ("--type gre --dst-port 4789 --remote 192.0.2.3", "port"),
        ("--type gre", "remote"),
        ("--type gre --remote 0.0.0.0", "0.0.0.0"),
        ("--type gre --remote 239.1.1.1", "239.1.1.1"),
        ("--type gre --remote nobody", "nobody"),
        ("--type gre --remote 192.0.2.3 --local fd02::1", "fd02::1"),
        ("--type gre --remote 192.0.2.3 --remote fd02::3", "fd02::3"),
        ("--type gre --remote 192.0.2.3 --tos 256", "256"),
        ("--type gre --remote 192.0.2.3 --ttl 0", "ttl"),
        ("--type gre --remote 192.0.2.3 --mtu 100", "mtu"),
        ("--type vxlan --vni 5 --vlan-map 10=1010 --remote 192.0.2.3", "vlan-map"),
        ("--type vxlan --vlan-map 10=1010,10=2020 --remote 192.0.2.3", "10"),
        ("--type vxlan --vlan-map 10=1010,20=1010 --remote 192.0.2.3", "1010"),
        ("--type vxlan --vlan-map 4095=1 --remote 192.0.2.3", "4095"),
        ("--type vxlan --vlan-map ten=1 --remote 192.0.2.3", "ten"),
        ("--type geneve --vni 5 --group 239.1.1.1 --group-interface u0", "group"),
        ("--type vxlan --vni 5 --group 192.0.2.77 --group-interface u0", "192.0.2.77"),
        ("--type vxlan --vni 5 --group 239.1.1.1 --group-interface nowhere", "nowhere"),
        ("--type vxlan --vni 5 --remote 192.0.2.3 --underlay nowhere", "nowhere"),
    ] {
        let mut args = vec!["port", "add", "br0", "bad"];
        args.extend(line.split_whitespace());
        eprintln!("{line}: {}", lab.fails(&args, &[word]));
    }
    for (line, word) in [
        ("--type gre --peers 192.0.2.2,192.0.2.2", "192.0.2.2"),
        ("--type gre --peers 192.0.2.2,fd02::3", "fd02::3"),
        ("--type gre --peers 192.0.2.2,224.0.0.1", "224.0.0.1"),
        ("--type vxlan --peers 192.0.2.2", "vni"),
        ("--type vxlan --vni 77 --peers 192.0.2.2", "good"),
        ("--type nonsense --peers 192.0.2.2", "nonsense"),
    ] {
        let mut args = vec!["mesh", "add", "br0", "bad"];
        args.extend(line.split_whitespace());
        eprintln!("mesh {line}: {}", lab.fails(&args, &[word]));
    }
    lab.fails(&["mesh", "show", "nobody"], &["nobody"]);
    lab.fails(&["mesh", "peer", "add", "nobody", "192.0.2.4"], &["nobody"]);
    assert_eq!(lab.ok(&["export"]), before);
    assert_eq!(lab.json(&["port", "list"]).as_array().map(Vec::len), Some(1));
}

/// How many frames with a text went to each far end, by the last byte of its address.
fn sent_to(seen: &Captured, text: &str) -> Vec<u8> {
    let with_text = seen.frames.iter().filter(|f| f.windows(text.len()).any(|w| w == text.as_bytes()));
    let mut hosts: Vec<u8> = with_text.map(|f| f[33]).collect();
    hosts.sort_unstable();
    hosts
}

/// One port, several far ends: what is flooded goes to each, what is known to one of them.
#[test]
fn head_end_replication() {
    for learn in [true, false] {
        let under = Underlay::switched(&format!("heads-{learn}"));
        let labs: Vec<Lab> = (1..=4).map(|n| tunnel::host(&under, n)).collect();
        for (lab, n) in labs.iter().zip(1..) {
            let others = (1..=4).filter(|&m| m != n).map(|m| format!(" --remote {}", under.v4(m)));
            let learning = if learn { "" } else { "--no-learning-remotes" };
            add(lab, "vx0", &format!("--type vxlan --vni 77 {learning}{}", others.collect::<String>()));
        }
        let c: Vec<_> = labs.iter().map(|lab| tunnel::container(lab, "c")).collect();
        let all = (0..4).flat_map(|i| (i + 1..4).map(move |j| (i, j)));
        all.for_each(|(i, j)| ping::assert_reaches(&c[i].ns, c[j].v4));
        for (far, n) in c.iter().zip(1..).skip(1) {
            let rows = labs[0].fdb("br0");
            let row = rows.iter().find(|row| row["mac"] == mac_text(far.mac)).expect("learned");
            let expected = if learn { json!(under.v4(n)) } else { Value::Null };
            assert_eq!(row["remote"], expected, "the remote that it is behind: {row:#}");
        }
        let captures: Vec<Capture> =
            c.iter().map(|c| Capture::start(&c.ns, "eth0", Direction::In, "")).collect();
        let outer = Capture::start(&labs[0].ns, "u0", Direction::Both, "udp dst port 4789");
        let mut raw = Raw::open(&c[0].ns, "eth0");
        raw.send(&experiment(BROADCAST, c[0].mac, &[], "to all"));
        raw.send(&experiment(c[2].mac, c[0].mac, &[], "to three"));
        raw.send(&experiment(mac(0x999), c[0].mac, &[], "to nobody"));
        let outer = outer.stop_when_quiet(Duration::from_millis(400));
        assert_eq!(sent_to(&outer, "to all"), [2, 3, 4]);
        assert_eq!(sent_to(&outer, "to nobody"), [2, 3, 4]);
        // Without learning the address is known to be behind the port, and no more.
        assert_eq!(sent_to(&outer, "to three"), if learn { vec![3] } else { vec![2, 3, 4] });
        for (at, seen) in captures.into_iter().map(Capture::stop).enumerate() {
            for (text, everywhere) in [("to all", true), ("to three", !learn), ("to nobody", true)] {
                // A frame that is not for the host reaches it when the address is not known there.
                let count = seen.with_text(text).len();
                let most = usize::from(at != 0 && (everywhere || at == 2));
                let least = if text == "to three" { usize::from(at == 2) } else { most };
                assert!((least..=most).contains(&count), "{text:?} {count} times at host {}", at + 1);
            }
        }
        assert_tcp(&c[0].ns, &c[3].ns, c[3].v4, 10 * MIB);
        labs.iter().for_each(Lab::assert_conserved);
    }
}

/// An address whose far end is given by hand.
#[test]
fn a_static_remote() {
    let under = Underlay::switched("static");
    let lab = tunnel::host(&under, 1);
    add(&lab, "vx0", "--type vxlan --vni 77 --remote 192.0.2.2 --remote 192.0.2.3");
    let c = tunnel::container(&lab, "c");
    let known = mac_text(mac(0x555));
    lab.ok(&["fdb", "add", "br0", &known, "vx0", "--remote", "192.0.2.3"]);
    let rows = lab.fdb("br0");
    assert!(rows.iter().any(|r| r["mac"] == known.as_str() && r["remote"] == "192.0.2.3"), "{rows:#?}");
    // The far ends must answer ARP.
    let far: Vec<Netns> = [2, 3]
        .map(|n| {
            let ns = Netns::new(&format!("static-{n}"));
            under.join(&ns, n);
            ns
        })
        .into();
    for ns in &far {
        ping::assert_reaches(
            &lab.ns,
            if ns.name() == "static-2" { "192.0.2.2" } else { "192.0.2.3" }.parse().unwrap(),
        );
    }
    let outer = Capture::start(&lab.ns, "u0", Direction::Both, "udp dst port 4789");
    let mut raw = Raw::open(&c.ns, "eth0");
    raw.send(&experiment(mac(0x555), c.mac, &[], "to the known"));
    raw.send(&experiment(mac(0x556), c.mac, &[], "to another"));
    let outer = outer.stop_when_quiet(Duration::from_millis(400));
    assert_eq!(sent_to(&outer, "to the known"), [3]);
    assert_eq!(sent_to(&outer, "to another"), [2, 3]);
    lab.fails(&["fdb", "add", "br0", "02:00:00:00:05:57", "vx0", "--remote", "192.0.2.9"], &["192.0.2.9"]);
    lab.fails(&["fdb", "add", "br0", "02:00:00:00:05:57", "c", "--remote", "192.0.2.3"], &["c"]);
    lab.ok(&["fdb", "del", "br0", &known]);
    lab.assert_conserved();
}

/// Flooded frames go to a group; two of us and a kernel find each other by it.
#[test]
fn a_multicast_group() {
    for (name, group, family) in [("mc4", "239.1.1.1", Family::V4), ("mc6", "ff05::77", Family::V6)] {
        let under = Underlay::switched(name);
        let labs: Vec<Lab> = (1..=2).map(|n| tunnel::host(&under, n)).collect();
        for lab in &labs {
            add(lab, "vx0", &format!("--type vxlan --vni 77 --group {group} --group-interface u0"));
        }
        let c: Vec<_> = labs.iter().map(|lab| tunnel::container(lab, "c")).collect();
        let kernel = Netns::new(&format!("{name}-kernel"));
        under.join(&kernel, 3);
        let local = under.address(3, family);
        kernel
            .sh(&format!("ip link add vx0 type vxlan id 77 dstport 4789 group {group} dev u0 local {local}"));
        kernel.sh("ip address add 10.7.8.3/16 dev vx0");
        kernel.sh("ip link set vx0 up");
        ping::assert_reaches(&c[0].ns, c[1].v4);
        ping::assert_reaches(&c[0].ns, "10.7.8.3".parse().unwrap());
        ping::assert_reaches(&kernel, c[1].v4);
        let group: std::net::IpAddr = group.parse().unwrap();
        let outer = Capture::start(&labs[0].ns, "u0", Direction::Both, "udp dst port 4789");
        let mut raw = Raw::open(&c[0].ns, "eth0");
        raw.send(&experiment(BROADCAST, c[0].mac, &[], "to all"));
        raw.send(&experiment(c[1].mac, c[0].mac, &[], "to one"));
        let outer = outer.stop_when_quiet(Duration::from_millis(400));
        let last = |a: std::net::IpAddr| match a {
            std::net::IpAddr::V4(a) => a.octets()[3],
            std::net::IpAddr::V6(a) => a.octets()[15],
        };
        let sent = |text: &str| -> Vec<u8> {
            let at = if family == Family::V4 { 33 } else { 53 };
            let with = outer.frames.iter().filter(|f| f.windows(text.len()).any(|w| w == text.as_bytes()));
            with.map(|f| f[at]).collect()
        };
        assert_eq!(sent("to all"), [last(group)]);
        assert_eq!(sent("to one"), [2], "the far end of a known address is learned");
        assert_tcp(&c[0].ns, &c[1].ns, c[1].v4, 10 * MIB);
        assert_tcp(&kernel, &c[0].ns, c[0].v4, 10 * MIB);
        labs.iter().for_each(Lab::assert_conserved);
    }
}

/// NVGRE between two of us: a VSID in place of a key.
#[test]
fn nvgre() {
    let (_under, one, two) = two("nvgre", "--type nvgre --vni 4096");
    let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
    ping::assert_reaches(&a.ns, b.v4);
    let seen = Capture::start(&one.ns, "u0", Direction::Both, "proto 47");
    assert_eq!(ping(&a.ns, b.v6, 2, 0.1, &[]).received, 2);
    for f in &seen.stop_when_quiet(Duration::from_millis(300)).frames {
        // RFC 7637 §3.2: K set, C and S not; TEB; the VSID in the high 24 bits.
        assert_eq!(f[34..41], [0x20, 0x00, 0x65, 0x58, 0x00, 0x10, 0x00]);
    }
    assert_tcp(&a.ns, &b.ns, b.v4, 20 * MIB);
    // §3.3: no inner tag.
    let tagged = Capture::start(&b.ns, "eth0", Direction::In, "");
    let mut raw = Raw::open(&a.ns, "eth0");
    raw.send(&experiment(BROADCAST, a.mac, &[frame::Tag::c(10)], "tagged"));
    assert_eq!(tagged.stop_when_quiet(Duration::from_millis(300)).with_text("tagged").len(), 0);
    one.assert_conserved();
    two.assert_conserved();
}

/// The containers make a VXLAN of their own through each sort of tunnel; nothing is switched off.
#[test]
fn a_tunnel_in_a_tunnel() {
    for line in ["vxlan --vni 77", "gre --key 7", "geneve --vni 77"] {
        let name = format!("nest-{}", &line[..3]);
        let (_under, one, two) = two(&name, &format!("--type {line}"));
        let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
        ping::assert_reaches(&a.ns, b.v4);
        for (c, far, n) in [(&a, b.v4, 1), (&b, a.v4, 2)] {
            // Its MTU follows from that of eth0.
            tunnel::await_mtu(if n == 1 { &one } else { &two }, c, tunnel::mtu(&a));
            c.ns.sh(&format!(
                "ip link add vx type vxlan id 5 dstport 4789 local {} remote {far} dev eth0",
                c.v4
            ));
            c.ns.sh(&format!("ip address add 10.99.0.{n}/24 dev vx"));
            c.ns.sh("ip link set vx up");
        }
        let to = "10.99.0.2".parse().unwrap();
        ping::assert_reaches(&a.ns, to);
        assert_tcp(&a.ns, &b.ns, to, 30 * MIB);
        assert_tcp(&b.ns, &a.ns, "10.99.0.1".parse().unwrap(), 30 * MIB);
        one.assert_conserved();
        two.assert_conserved();
    }
}

/// `kill -9` under load; the far end's sequence numbers and learned addresses are as they were.
#[test]
fn killed_and_restarted_under_load() {
    for line in ["gre --key 7 --csum --seq", "vxlan --vni 77", "geneve --vni 77 --bfd"] {
        let (_under, mut one, two) = two(&format!("restart-{}", &line[..3]), &format!("--type {line}"));
        let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
        ping::assert_reaches(&a.ns, b.v4);
        let before = one.json(&["port", "show", "tun"])["spec"].clone();
        let load = Transfer::start(&a.ns, &b.ns, b.v4, 60 * MIB, Some(15_000_000));
        let back = Transfer::start(&b.ns, &a.ns, a.v4, 20 * MIB, Some(5_000_000));
        std::thread::sleep(Duration::from_secs(1));
        one.daemon.kill();
        std::thread::sleep(Duration::from_millis(500));
        one.start();
        one.await_state("tun", "up");
        if line.contains("--bfd") {
            // The far end's session goes down once when it hears of the new one, and nothing is sent until it is up again.
            await_both_up(&one, &two);
        }
        ping::assert_reaches(&a.ns, b.v4);
        load.assert_whole(LONG, 60 * MIB);
        back.assert_whole(LONG, 20 * MIB);
        assert_eq!(one.json(&["port", "show", "tun"])["spec"], before);
        one.assert_conserved();
        two.assert_conserved();
        // Nothing is left when it is released.
        one.release();
        assert_eq!(one.ns.interfaces(), ["u0"]);
        assert_eq!(one.ns.sh("ss -Hlnupw").trim(), "");
        assert!(a.ns.interfaces().is_empty());
    }
}

/// A tunnel is changed while it runs; another beside it does not notice.
#[test]
fn changed_while_it_runs() {
    let (under, one, two) = two("change", "--type vxlan --vni 77");
    let three = tunnel::host(&under, 3);
    add(&one, "other", &format!("--type gre --key 7 --remote {}", under.v4(3)));
    add(&three, "other", &format!("--type gre --key 7 --remote {}", under.v4(1)));
    let (a, b, c) =
        (tunnel::container(&one, "a"), tunnel::container(&two, "b"), tunnel::container(&three, "c"));
    ping::assert_reaches(&a.ns, b.v4);
    ping::assert_reaches(&a.ns, c.v4);
    let pinger = Pinger::start(&a.ns, c.v4, 0.01);
    let sent = |lab: &Lab| {
        let stats = lab.stats();
        let mut rows = stats.as_array().expect("array").iter();
        rows.find(|row| row["name"] == "tun").and_then(|row| row["tx-packets"].as_u64()).expect("a counter")
    };
    let before = sent(&one);
    assert!(before > 0 && one.fdb_port("br0", b.mac).as_deref() == Some("tun"));
    one.ok(&["port", "set", "tun", "--vni", "78"]);
    assert!(sent(&one) >= before, "its counters go on");
    assert_eq!(one.fdb_port("br0", b.mac), None, "who was there may not be here");
    ping::assert_isolated(&a.ns, b.v4);
    assert!(tunnel::drops(&two, "wrong-vni") > 0);
    two.ok(&["port", "set", "tun", "--vni", "78"]);
    ping::assert_reaches(&a.ns, b.v4);
    one.ok(&["port", "set", "tun", "--dst-port", "4999"]);
    two.ok(&["port", "set", "tun", "--dst-port", "4999"]);
    ping::assert_reaches(&a.ns, b.v4);
    one.ok(&["port", "set", "tun", "--remote", &under.v4(4)]);
    ping::assert_isolated(&b.ns, a.v4);
    assert!(tunnel::drops(&one, "unknown-remote") > 0);
    one.ok(&["port", "set", "tun", "--remote", &under.v4(2)]);
    ping::assert_reaches(&a.ns, b.v4);
    assert!(sent(&one) > before, "its counters go on");
    let pings = pinger.stop();
    one.assert_conserved();
    assert!(pings.lost() == 0 && pings.duplicates == 0, "the tunnel beside it noticed: {pings:?}");
    three.assert_conserved();
}

/// Waits until each end of a tunnel with BFD takes the other for alive.
fn await_both_up(one: &Lab, two: &Lab) {
    [one, two].iter().for_each(|lab| tunnel::await_liveness(lab, "tun", "up"));
}

/// BFD on a single tunnel, asked for.
#[test]
fn liveness_of_one_tunnel() {
    let (under, one, two) = two("bfd", "--type geneve --vni 77 --bfd");
    let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
    ping::assert_reaches(&a.ns, b.v4);
    await_both_up(&one, &two);
    // Changes reach the running session: it goes on, and both ends keep to them.
    let since = |lab: &Lab| lab.json(&["port", "show", "tun"])["peers"][0]["since"].as_u64().expect("since");
    std::thread::sleep(Duration::from_secs(2));
    for interval in ["50", "1000", "20"] {
        one.ok(&["port", "set", "tun", "--bfd-interval", interval, "--bfd-multiplier", "50"]);
        two.ok(&["port", "set", "tun", "--bfd-interval", interval, "--bfd-multiplier", "50"]);
        std::thread::sleep(Duration::from_millis(500));
        let both = [&one, &two].map(|lab| tunnel::liveness(lab, "tun"));
        assert_eq!(both, ["up", "up"], "at {interval} ms");
    }
    assert!(since(&one) >= 3 && since(&two) >= 3, "the session went down");
    let sees = |filter: &str| {
        let seen = Capture::start(&one.ns, "u0", Direction::In, filter);
        std::thread::sleep(Duration::from_secs(2));
        seen.stop().frames.len()
    };
    // Of 100 in 2 s, less the jitter's, with room for a busy machine.
    assert!(sees("udp port 6081") > 50);
    under.set_link(2, false);
    // 50 times 20 ms.
    tunnel::await_liveness(&one, "tun", "down");
    assert_eq!(one.fdb_port("br0", b.mac), None);
    under.set_link(2, true);
    tunnel::await_liveness(&one, "tun", "up");
    ping::assert_reaches(&a.ns, b.v4);
    // Seldom enough for the counters of a moment to agree.
    for lab in [&one, &two] {
        lab.ok(&["port", "set", "tun", "--bfd-interval", "10000"]);
    }
    std::thread::sleep(Duration::from_millis(500));
    one.assert_conserved();
}
