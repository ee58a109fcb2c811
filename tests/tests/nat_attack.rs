//! Floods and packets that should not be: counted, dropped, and nobody else suffers.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use trunkline_tests::internet::{Client, Echo, FAR4, GATEWAY4, Internet, OUTSIDE4, at, ip};
use trunkline_tests::raw::Raw;
use trunkline_tests::{Kind, ping};

/// An IPv4 frame of a protocol with a right header checksum.
fn ipv4(dst: [u8; 6], from: [u8; 6], src: &str, to: &str, proto: u8, payload: &[u8]) -> Vec<u8> {
    let octets = |a: &str| match ip(a) {
        std::net::IpAddr::V4(a) => a.octets(),
        std::net::IpAddr::V6(_) => panic!("IPv4"),
    };
    let mut h = vec![0x45, 0, 0, 0, 0, 1, 0, 0, 64, proto, 0, 0];
    h[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    h.extend(octets(src));
    h.extend(octets(to));
    let sum: u32 = h.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    h[10..12].copy_from_slice(&check.to_be_bytes());
    [&dst[..], &from, &[8, 0], &h, payload].concat()
}

/// A TCP header whose checksum is not right: nobody on the way minds.
fn tcp(sport: u16, dport: u16, flags: u8) -> Vec<u8> {
    let mut h = vec![0; 20];
    h[..2].copy_from_slice(&sport.to_be_bytes());
    h[2..4].copy_from_slice(&dport.to_be_bytes());
    (h[7], h[12], h[13]) = (1, 0x50, flags);
    h
}

/// Gives an IPv4 frame another destination, with the header checksum.
fn readdress(frame: &mut [u8], to: [u8; 4]) {
    frame[30..34].copy_from_slice(&to);
    frame[24..26].fill(0);
    let sum: u32 = frame[14..34].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    frame[24..26].copy_from_slice(&check.to_be_bytes());
}

/// The MAC address of the gateway, as a container has learned it.
fn gateway_mac(ns: &trunkline_tests::Netns) -> [u8; 6] {
    ping::assert_reaches(ns, ip(GATEWAY4));
    let line = ns.sh(&format!("ip neighbour show {GATEWAY4}"));
    let text = line.split_whitespace().skip_while(|w| *w != "lladdr").nth(1).expect("known").to_owned();
    let bytes: Vec<u8> = text.split(':').map(|b| u8::from_str_radix(b, 16).expect("hex")).collect();
    bytes.try_into().expect("six")
}

/// Two floods at once would be a test of the machine.
static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// SYNs of a flood.
const MILLION: u64 = 1_000_000;

#[test]
fn a_flood_of_syns_from_one_host_does_not_starve_another() {
    let _alone = ALONE.lock();
    let net = Internet::new();
    net.lab.ok(&["ct", "settings", "--limit", "50000"]);
    let (a, b) = (net.container(Kind::Tap, "a"), net.container(Kind::Tap, "b"));
    let _far = Echo::start(&net.far, 7);
    let gateway = gateway_mac(&a.ns);
    let mut client = Client::connect(&b.ns, at(FAR4, 7)).expect("connect");
    let (stop, count) = (AtomicBool::new(false), AtomicU64::new(0));
    let from = a.v4.to_string();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut raw = Raw::open(&a.ns, "eth0");
            let mut syn = ipv4(gateway, a.mac, &from, "198.51.102.1", 6, &tcp(1, 80, 2));
            while !stop.load(Ordering::Relaxed) {
                let n = count.load(Ordering::Relaxed);
                readdress(&mut syn, [198, 51, 102 + (n / 16_000_000) as u8, (n / 64_000 % 250) as u8 + 1]);
                syn[34..36].copy_from_slice(&((n % 64_000) as u16 + 1).to_be_bytes());
                raw.send(&syn);
                count.store(n + 1, Ordering::Relaxed);
            }
        });
        // A panic in here must end the flood too.
        let took = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let started = Instant::now();
            let mut took = Vec::new();
            while count.load(Ordering::Relaxed) < MILLION && started.elapsed() < Duration::from_secs(35) {
                let begun = Instant::now();
                Client::connect(&b.ns, at(FAR4, 7)).expect("connect").talk().expect("talk");
                took.push(begun.elapsed());
                client.talk().expect("an open connection");
                std::thread::sleep(Duration::from_millis(50));
            }
            took
        }));
        stop.store(true, Ordering::Relaxed);
        let mut took = took.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let sent = count.load(Ordering::Relaxed);
        took.sort_unstable();
        let (tries, slowest) = (took.len(), took.last().copied().unwrap_or_default());
        let late = took.iter().filter(|t| **t >= Duration::from_secs(1)).count();
        println!(
            "{sent} SYNs; of {tries} connections beside them {late} took a second; the slowest {slowest:?}"
        );
        assert!(sent >= MILLION && tries >= 10, "{sent} SYNs, {tries} connections beside them");
        // A machine that does other things may lose a packet, which TCP sends again after a second.
        assert!(late * 20 <= tries, "{late} of {tries} took longer than a second: {took:?}");
    });
    let stats = net.lab.stats();
    let received: u64 =
        stats.as_array().expect("array").iter().filter_map(|p| p["rx-packets"].as_u64()).sum();
    println!("the switch received {received} packets");
    assert!(received > 50_000, "{stats:#}");
    let now = net.lab.json(&["ct", "count"]);
    assert!(now["connections"].as_u64() <= Some(50_000), "{now:#}");
    net.lab.assert_conserved();
}

/// Begins `count` UDP flows to [`FAR4`], from `sources` ports from 1024 on in turn, each to as many of its ports.
fn begin_flows(host: &trunkline_tests::Container, count: u16, sources: u16) {
    let gateway = gateway_mac(&host.ns);
    let (from, mut raw) = (host.v4.to_string(), Raw::open(&host.ns, "eth0"));
    for n in 0..count {
        let mut udp = vec![0; 12];
        udp[..2].copy_from_slice(&(n % sources + 1024).to_be_bytes());
        udp[2..6].copy_from_slice(&[0, 9 + (n / sources) as u8, 0, 12]);
        raw.send(&ipv4(gateway, host.mac, &from, FAR4, 17, &udp));
        // A receive queue of 1,000 is all that a TAP has.
        if n % 250 == 249 {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

/// How many of a host's flows leave by an address.
fn flows_by(net: &Internet, host: &trunkline_tests::Container, external: &str) -> u64 {
    let from = host.v4.to_string();
    let of = net.lab.json(&["ct", "count", "--proto", "udp", "--src", &from, "--address", external]);
    of["matching"].as_u64().expect("a number")
}

/// Two hosts with 50,000 sources each and two external addresses, where no port may be shared: each host has an address
/// of its own (RFC 4787 REQ-2), and each source the port that it has inside.
#[test]
fn a_hundred_thousand_flows_at_once_where_none_may_share_a_port() {
    let _alone = ALONE.lock();
    const EACH: u16 = 50_000;
    let net = Internet::plugged(&[]);
    net.add_uplink();
    let pool = ["--from", "10.7.0.0/16", "--uplink", "up", "--pool", "192.0.2.10-192.0.2.11"];
    net.lab.ok(&[&["nat", "masquerade", "add"][..], &pool].concat());
    let limits = ["--source-limit", "60000", "--source-ports", "60000", "--strict-eim"];
    net.lab.ok(&[&["ct", "settings"][..], &limits].concat());
    let hosts = [net.container(Kind::Tap, "a"), net.container(Kind::Tap, "b")];
    let count = || net.lab.json(&["ct", "count", "--proto", "udp"]);
    let all = u64::from(EACH) * 2;
    // What a busy machine lost is sent again.
    for _ in 0..8 {
        hosts.iter().for_each(|host| begin_flows(host, EACH, EACH));
        if count()["matching"].as_u64() >= Some(all) {
            break;
        }
    }
    let now = count();
    assert!(now["matching"].as_u64() >= Some(all) && now["mappings"].as_u64() >= Some(all), "{now:#}");
    assert!(now["shared-ports"] == 0 && now["early-drops"] == 0, "{now:#}");
    let addresses = [OUTSIDE4, "192.0.2.11"];
    let spread = hosts.each_ref().map(|host| addresses.map(|a| flows_by(&net, host, a)));
    assert!(
        spread.iter().all(|by| by.contains(&0) && by.iter().max() >= Some(&u64::from(EACH))),
        "{spread:?}"
    );
    assert_ne!(spread[0][0], spread[1][0], "{spread:?}");
    // Both are answered.
    let _far = Echo::start(&net.far, 7);
    for host in &hosts {
        Client::connect(&host.ns, at(FAR4, 7)).expect("connect").talk().expect("talk");
    }
    net.lab.assert_conserved();
}

/// Two hosts with 25,000 sources each, which talk to two destinations each: 100,000 connections, 50,000 mappings of
/// one external address. None gives way, none shares a port, and new ones still find one.
#[test]
fn a_hundred_thousand_flows_at_once() {
    let _alone = ALONE.lock();
    const EACH: u16 = 50_000;
    let net = Internet::new();
    net.lab.ok(&["ct", "settings", "--source-limit", "60000", "--source-ports", "60000"]);
    let hosts = [net.container(Kind::Tap, "a"), net.container(Kind::Tap, "b")];
    let _far = Echo::start(&net.far, 7);
    let count = || net.lab.json(&["ct", "count", "--proto", "udp"]);
    // What a busy machine lost is sent again.
    let all = u64::from(EACH) * 2;
    for _ in 0..8 {
        hosts.iter().for_each(|host| begin_flows(host, EACH, EACH / 2));
        if count()["matching"].as_u64() >= Some(all) {
            break;
        }
    }
    let now = count();
    assert!(now["matching"].as_u64() >= Some(all) && now["shared-ports"] == 0, "{now:#}");
    assert!(now["early-drops"] == 0 && now["mappings"].as_u64() <= Some(all / 2 + 10), "{now:#}");
    for host in &hosts {
        // Each source has a port, and one that is taken up again has the same one.
        let first = trunkline_tests::internet::udp_ask(&host.ns, 2000, at(FAR4, 7), 10).expect("an answer");
        let again = trunkline_tests::internet::udp_ask(&host.ns, 2000, at(FAR4, 7), 10).expect("an answer");
        assert_eq!(first, again);
        Client::connect(&host.ns, at(FAR4, 7)).expect("connect").talk().expect("talk");
    }
    // As `conntrack -L` would be asked.
    let from = hosts[0].v4.to_string();
    let few = net
        .lab
        .json(&["ct", "list", "-p", "udp", "-s", &from, "-d", FAR4, "--sport", "2001", "--zone", "br0"]);
    assert_eq!(few.as_array().expect("array").len(), 2, "{few:#}");
    let pinger = ping::Pinger::start(&hosts[1].ns, ip(FAR4), 0.05);
    let flushed = net.lab.ok(&["ct", "flush", "--src", &from]);
    let left = count();
    let pings = pinger.stop();
    assert!(
        flushed.split_whitespace().next().and_then(|n| n.parse::<u64>().ok()) >= Some(u64::from(EACH)),
        "{flushed}"
    );
    assert!(left["matching"].as_u64() <= Some(u64::from(EACH) + 10), "{left:#}");
    assert_eq!(pings.lost(), 0, "{pings:?}");
    net.lab.assert_conserved();
}

#[test]
fn what_should_not_be_is_dropped_and_counted() {
    let net = Internet::new();
    let a = net.container(Kind::Tap, "a");
    let _far = Echo::start(&net.far, 7);
    let gateway = gateway_mac(&a.ns);
    let from = a.v4.to_string();
    let frame = |src: &str, to: &str, proto, payload: &[u8]| ipv4(gateway, a.mac, src, to, proto, payload);
    let drops = || {
        let stats = net.lab.stats();
        let ports = stats.as_array().expect("array").clone();
        ports
            .iter()
            .flat_map(|p| p["drops"].as_object().expect("drops").values())
            .filter_map(serde_json::Value::as_u64)
            .sum::<u64>()
    };
    let mut short = frame(&from, FAR4, 6, &tcp(1, 80, 2));
    short.truncate(40);
    let mut wrong_check = frame(&from, FAR4, 17, &[0; 20]);
    wrong_check[24] ^= 0xff;
    // An ICMP error about a connection that is not, with a wrong checksum.
    let about = frame(FAR4, &from, 17, &[0; 8])[14..].to_vec();
    let error = [&[3, 4, 9, 9, 0, 0, 5, 0], &about[..]].concat();
    let mut source_route = frame(&from, FAR4, 17, &[0; 20]);
    source_route[14] = 0x47;
    source_route.splice(34..34, [131, 7, 4, 1, 2, 3, 4, 0]);
    source_route[16..18].copy_from_slice(&48u16.to_be_bytes());
    source_route[24..26].fill(0);
    let sum: u32 = source_route[14..42].chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]]))).sum();
    let check = !((sum & 0xffff) + (sum >> 16)) as u16;
    source_route[24..26].copy_from_slice(&check.to_be_bytes());
    let cases = [
        ("from the loopback", frame("127.0.0.1", FAR4, 17, &[0; 20])),
        ("from a group", frame("224.0.0.1", FAR4, 17, &[0; 20])),
        ("from nobody", frame("0.0.0.0", FAR4, 17, &[0; 20])),
        ("to the loopback", frame(&from, "127.0.0.1", 17, &[0; 20])),
        ("to the reserved", frame(&from, "240.0.0.1", 17, &[0; 20])),
        ("a land attack", frame(&from, &from, 6, &tcp(80, 80, 2))),
        ("from the switch outside", frame(OUTSIDE4, FAR4, 17, &[0; 20])),
        ("cut off", short),
        ("a wrong checksum", wrong_check),
        ("an error about nothing", frame(&from, FAR4, 1, &error)),
        ("a source route", source_route),
        ("flags that no TCP sends", frame(&from, FAR4, 6, &tcp(1, 80, 0x3f))),
        ("no flags", frame(&from, FAR4, 6, &tcp(1, 80, 0))),
        ("an empty UDP", frame(&from, FAR4, 17, &[])),
        ("an empty TCP", frame(&from, FAR4, 6, &[])),
    ];
    let mut raw = Raw::open(&a.ns, "eth0");
    for (name, bytes) in &cases {
        let before = drops();
        for _ in 0..3 {
            raw.send(bytes);
        }
        let seen = trunkline_tests::eventually(Duration::from_secs(3), || drops() >= before + 3);
        assert!(seen, "{name}: not dropped: {:#}", net.lab.stats());
    }
    // Everything from 0 to 255 as protocol and as length.
    for n in 0..=255u8 {
        raw.send(&frame(&from, FAR4, n, &vec![n; usize::from(n)]));
        let mut odd = frame(&from, FAR4, 6, &tcp(9, 80, n));
        odd[14] = 0x40 | (n & 15);
        odd[46] = n;
        raw.send(&odd);
        raw.send(&frame(&format!("10.7.{n}.{n}"), GATEWAY4, n, &[n; 30]));
    }
    assert!(Client::connect(&a.ns, at(FAR4, 7)).is_ok(), "and it goes on");
    net.lab.assert_conserved();
}
