//! The server by clause. Messages are built here byte by byte, or were sent by real clients.

use std::sync::Arc;

use proptest::prelude::*;

use super::message::Client;
use super::*;
use crate::{IfaceId, Kind as Side, Services, Zone};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xa]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xb]);
const SECOND: u64 = 1000;

fn iface() -> Iface {
    Iface {
        id: IfaceId(1),
        kind: Side::Gateway { zone: Zone(0), open: true },
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
        mtu: 1400,
        addresses: vec!["fd77::1/64".parse().unwrap(), "10.77.0.1/24".parse().unwrap()],
        proxies: Vec::new(),
        nd_proxy: Vec::new(),
        isolated: false,
        services: Arc::new(Services::default()),
    }
}

fn ip(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 0, last)
}

fn config(from: u8, to: u8) -> Config {
    Config { lease_time: 3600, ..Config::new((ip(from), ip(to))) }
}

/// A message under construction.
#[derive(Clone)]
struct Build {
    mac: MacAddr,
    ciaddr: Ipv4Addr,
    giaddr: Ipv4Addr,
    flags: u16,
    options: Vec<u8>,
}

fn message(kind: u8, mac: MacAddr) -> Build {
    let none = Ipv4Addr::UNSPECIFIED;
    Build { mac, ciaddr: none, giaddr: none, flags: 0, options: vec![53, 1, kind] }
}

impl Build {
    fn with(mut self, code: u8, value: &[u8]) -> Build {
        self.options.extend([code, value.len() as u8]);
        self.options.extend(value);
        self
    }
    fn asks(self, addr: Ipv4Addr) -> Build {
        self.with(50, &addr.octets())
    }
    fn to(self, server: Ipv4Addr) -> Build {
        self.with(54, &server.octets())
    }
    fn has(self, addr: Ipv4Addr) -> Build {
        Build { ciaddr: addr, ..self }
    }
    fn bytes(&self) -> Vec<u8> {
        let mut m = vec![0; 240];
        m[..8].copy_from_slice(&[1, 1, 6, 0, 0xde, 0xad, 0xbe, 0xef]);
        m[10..12].copy_from_slice(&self.flags.to_be_bytes());
        m[12..16].copy_from_slice(&self.ciaddr.octets());
        m[24..28].copy_from_slice(&self.giaddr.octets());
        m[28..34].copy_from_slice(&self.mac.0);
        m[236..].copy_from_slice(&[99, 130, 83, 99]);
        m.extend(&self.options);
        m.push(255);
        m
    }
}

/// What an answer says.
#[derive(Debug)]
struct Got {
    kind: u8,
    addr: Ipv4Addr,
    to: (Ipv4Addr, MacAddr),
    options: std::collections::HashMap<u8, Vec<u8>>,
}

fn read(answer: &Answer) -> Got {
    let p = &answer.payload;
    assert!((300..=548).contains(&p.len()));
    assert_eq!((p[..3].to_vec(), p[236..240].to_vec()), (vec![2, 1, 6], vec![99, 130, 83, 99]));
    let mut options = std::collections::HashMap::new();
    let mut at = 240;
    while p[at] != 255 {
        let len = usize::from(p[at + 1]);
        assert!(options.insert(p[at], p[at + 2..at + 2 + len].to_vec()).is_none(), "option {} twice", p[at]);
        at += 2 + len;
    }
    assert_eq!(answer.dst_port, 68);
    Got {
        kind: options[&53][0],
        addr: Ipv4Addr::from(<[u8; 4]>::try_from(&p[16..20]).unwrap()),
        to: (answer.dst, answer.dst_mac),
        options,
    }
}

fn raw(s: &mut Server, now: u64, mac: MacAddr, payload: &[u8]) -> Option<Got> {
    let request = Datagram {
        src_mac: mac,
        src: Ipv4Addr::UNSPECIFIED,
        dst: Ipv4Addr::BROADCAST,
        src_port: 68,
        payload,
    };
    s.handle(now, &iface(), &request).map(|a| {
        // A question's number comes back with its answer.
        assert_eq!(a.payload[4..8], payload[4..8]);
        read(&a)
    })
}

fn say(s: &mut Server, now: u64, m: &Build) -> Option<Got> {
    raw(s, now, m.mac, &m.bytes())
}

/// Discovers and takes what is offered.
fn join(s: &mut Server, now: u64, mac: MacAddr) -> Option<Ipv4Addr> {
    let offer = say(s, now, &message(1, mac))?;
    assert_eq!(offer.kind, 2);
    let ack = say(s, now, &message(3, mac).asks(offer.addr).to(OWN)).unwrap();
    assert_eq!((ack.kind, ack.addr), (5, offer.addr));
    Some(offer.addr)
}

fn mac(n: u16) -> MacAddr {
    let [hi, lo] = n.to_be_bytes();
    MacAddr([2, 0, 0, 1, hi, lo])
}

#[test]
fn rfc2131_3_1_discover_offer_request_ack() {
    let mut s = Server::new(Config {
        dns: vec![ip(53), Ipv4Addr::new(9, 9, 9, 9)],
        domain: Some("lab.example".into()),
        ..config(100, 200)
    });
    let offer = say(&mut s, 0, &message(1, A)).unwrap();
    assert_eq!((offer.kind, offer.to), (2, (offer.addr, A)));
    assert!((ip(100)..=ip(200)).contains(&offer.addr));
    let ack = say(&mut s, 5, &message(3, A).asks(offer.addr).to(OWN)).unwrap();
    assert_eq!((ack.kind, ack.addr, ack.to), (5, offer.addr, (offer.addr, A)));
    let want: [(u8, &[u8]); 11] = [
        (54, &OWN.octets()),
        (51, &3600u32.to_be_bytes()),
        (58, &1800u32.to_be_bytes()),
        (59, &3150u32.to_be_bytes()),
        (1, &[255, 255, 255, 0]),
        (3, &OWN.octets()),
        (28, &[10, 77, 0, 255]),
        (6, &[10, 77, 0, 53, 9, 9, 9, 9]),
        (15, b"lab.example"),
        // The inner MTU.
        (26, &[0x05, 0x78]),
        (53, &[5]),
    ];
    for (code, value) in want {
        assert_eq!(ack.options[&code], value, "option {code}");
    }
    assert_eq!(ack.options.len(), want.len());
    let lease = &s.leases(5)[0];
    assert_eq!((lease.state, lease.mac, lease.expires_in), (LeaseState::Bound, A, 3600 * SECOND));
}

#[test]
fn a_client_gets_its_address_again() {
    let mut s = Server::new(config(100, 200));
    let addr = join(&mut s, 0, A).unwrap();
    assert_eq!(join(&mut s, 10, A), Some(addr), "while it has it");
    assert_eq!(join(&mut s, 7200 * SECOND, A), Some(addr), "when it has run out");
    assert!(say(&mut s, 7300 * SECOND, &message(7, A).has(addr).to(OWN)).is_none());
    assert_eq!(s.leases(7300 * SECOND)[0].state, LeaseState::Free);
    assert_eq!(join(&mut s, 7400 * SECOND, A), Some(addr), "after it gave it back");
    // And from a server that has forgotten it, most likely too.
    assert_eq!(join(&mut Server::new(config(100, 200)), 0, A), Some(addr));
    // What it asks for, if that is free.
    let other = say(&mut s, 0, &message(1, B).asks(ip(150))).unwrap();
    assert_eq!(other.addr, if addr == ip(150) { other.addr } else { ip(150) });
}

#[test]
fn rfc2131_4_2_clients_are_told_apart_by_identifier() {
    let mut s = Server::new(config(100, 200));
    let with = |id: &[u8]| say_offer(&mut Server::new(config(100, 200)), message(1, A).with(61, id));
    assert_eq!(with(b"\0one").options[&61], b"\0one", "RFC 6842 §3: it is sent back");
    let one = say_offer(&mut s, message(1, A).with(61, b"\0one")).addr;
    let two = say_offer(&mut s, message(1, A).with(61, b"\0two")).addr;
    assert_ne!(one, two);
    assert_eq!(say_offer(&mut s, message(1, B).with(61, b"\0one")).addr, one);
    // Without one, the MAC address is it.
    let plain = say_offer(&mut s, message(1, A)).addr;
    let same = say_offer(&mut s, message(1, A).with(61, &[1, 2, 0, 0, 0, 0, 0xa])).addr;
    assert_eq!(plain, same);
}

fn say_offer(s: &mut Server, m: Build) -> Got {
    let got = say(s, 0, &m).unwrap();
    assert_eq!(got.kind, 2);
    got
}

#[test]
fn rfc2131_4_3_2_selecting_another_server() {
    let mut s = Server::new(config(100, 100));
    assert_eq!(say_offer(&mut s, message(1, A)).addr, ip(100));
    assert!(say(&mut s, 1, &message(3, A).asks(ip(100)).to(ip(2))).is_none());
    assert_eq!(say(&mut s, 2, &message(1, B)).unwrap().addr, ip(100), "the offer is free again");
    let nak = say(&mut s, 3, &message(3, A).asks(ip(100)).to(OWN));
    let nak = nak.filter(|n| n.kind == 6);
    assert_eq!(nak.map(|n| n.to), Some((Ipv4Addr::BROADCAST, MacAddr::BROADCAST)), "B has it now");
}

#[test]
fn rfc2131_4_3_2_init_reboot() {
    let mut s = Server::new(config(100, 200));
    let addr = join(&mut s, 0, A).unwrap();
    let ack = say(&mut s, 10, &message(3, A).asks(addr)).unwrap();
    assert_eq!((ack.kind, ack.addr), (5, addr));
    assert_eq!(say(&mut s, 10, &message(3, A).asks(ip(99))).unwrap().kind, 6, "another than it has");
    assert_eq!(
        say(&mut s, 10, &message(3, B).asks(Ipv4Addr::new(192, 168, 1, 5))).unwrap().kind,
        6,
        "wrong network"
    );
    assert!(say(&mut s, 10, &message(3, B).asks(ip(150))).is_none(), "not known: silent");
}

#[test]
fn rfc2131_4_3_2_renewing_and_rebinding() {
    let mut s = Server::new(config(100, 200));
    let addr = join(&mut s, 0, A).unwrap();
    let ack = say(&mut s, 1800 * SECOND, &message(3, A).has(addr)).unwrap();
    assert_eq!((ack.kind, ack.addr, ack.to), (5, addr, (addr, A)));
    assert_eq!(s.leases(1800 * SECOND)[0].expires_in, 3600 * SECOND);
    assert_eq!(say(&mut s, 1801 * SECOND, &message(3, B).has(addr)).unwrap().kind, 6, "it is A's");
    // After a restart that lost everything clients go on.
    let mut s = Server::new(config(100, 200));
    assert_eq!(say(&mut s, 0, &message(3, A).has(addr)).unwrap().kind, 5);
    assert_eq!(say(&mut s, 0, &message(3, B).has(addr)).unwrap().kind, 6);
    assert_eq!(say(&mut s, 0, &message(3, B).has(ip(9))).unwrap().kind, 6, "not in the range");
}

#[test]
fn decline_release_and_inform() {
    let mut s = Server::new(config(100, 101));
    let addr = join(&mut s, 0, A).unwrap();
    // Nobody takes another's address away.
    assert!(say(&mut s, 1, &message(4, B).asks(addr).to(OWN)).is_none());
    assert!(say(&mut s, 1, &message(7, B).has(addr).to(OWN)).is_none());
    assert_eq!(s.leases(1)[0].state, LeaseState::Bound);
    assert!(say(&mut s, 2, &message(4, A).asks(addr).to(OWN)).is_none());
    assert_eq!(s.leases(2)[0].state, LeaseState::Declined);
    let other = join(&mut s, 3, A).unwrap();
    assert_ne!(other, addr);
    assert!(say(&mut s, 4, &message(1, B)).is_none(), "neither the declined nor A's");
    assert!(say(&mut s, 4, &message(3, B).asks(addr).to(OWN)).is_some_and(|n| n.kind == 6));
    assert_eq!(join(&mut s, DECLINED + 10, B), Some(addr), "ten minutes later");
    assert_eq!(
        say(&mut s, DECLINED + 11, &message(3, A).has(other)).unwrap().kind,
        5,
        "A's is still its own"
    );
    // RFC 2131 §4.3.5.
    let inform = say(&mut s, 5, &message(8, B).has(ip(7))).unwrap();
    assert_eq!((inform.kind, inform.addr, inform.to), (5, Ipv4Addr::UNSPECIFIED, (ip(7), B)));
    assert!(!inform.options.contains_key(&51) && inform.options.contains_key(&26));
}

#[test]
fn reservations_are_kept_free() {
    let reserved = |mac, last| Reservation { mac, address: ip(last) };
    let mut s = Server::new(Config {
        // One in the range, one outside.
        reservations: vec![reserved(A, 101), reserved(B, 10)],
        ..config(100, 102)
    });
    let others: Vec<_> = (0..3).map(|n| join(&mut s, 0, mac(n))).collect();
    assert!(others.iter().flatten().all(|a| [ip(100), ip(102)].contains(a)));
    assert_eq!(others.iter().flatten().count(), 2, "the third finds none");
    assert_eq!((join(&mut s, 0, A), join(&mut s, 0, B)), (Some(ip(101)), Some(ip(10))));
    assert_eq!(say(&mut s, 0, &message(3, mac(1)).asks(ip(101)).to(OWN)).unwrap().kind, 6);
    assert_eq!(say(&mut s, 0, &message(3, A).asks(ip(100)).to(OWN)).unwrap().kind, 6, "it has its own");
}

#[test]
fn rfc2131_4_1_where_answers_go() {
    let mut s = Server::new(config(100, 200));
    let broadcast = Build { flags: 0x8000, ..message(1, A) };
    assert_eq!(say(&mut s, 0, &broadcast).unwrap().to, (Ipv4Addr::BROADCAST, MacAddr::BROADCAST));
    let relayed = Build { giaddr: ip(3), ..message(1, A) };
    assert!(say(&mut s, 0, &relayed).is_none());
}

#[test]
fn lease_times() {
    let mut s = Server::new(config(100, 200));
    let of = |s: &mut Server, wanted: u32| {
        let offer = say(s, 0, &message(1, A).with(51, &wanted.to_be_bytes())).unwrap();
        u32::from_be_bytes(offer.options[&51].clone().try_into().unwrap())
    };
    assert_eq!([0, 60, 600, u32::MAX].map(|w| of(&mut s, w)), [60, 60, 600, 3600]);
    let mut s = Server::new(Config { lease_time: u32::MAX, ..config(100, 200) });
    join(&mut s, 0, A).unwrap();
    assert_eq!(s.leases(u64::MAX - 1)[0].state, LeaseState::Bound, "for ever");
    assert_eq!(s.leases(77)[0].expires_in, u64::MAX);
}

#[test]
fn the_gateway_and_the_ends_of_the_network_are_nobodys() {
    let mut s = Server::new(Config { range: (ip(0), ip(255)), ..config(0, 0) });
    let all: std::collections::HashSet<_> = (0..400).filter_map(|n| join(&mut s, 0, mac(n))).collect();
    assert_eq!(all.len(), 253);
    assert!([0, 1, 255].iter().all(|&n| !all.contains(&ip(n))));
    // A server without an address in the range says nothing.
    let mut s = Server::new(Config::new((Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 9))));
    assert!(say(&mut s, 0, &message(1, A)).is_none());
}

#[test]
fn who_only_asks_locks_nobody_out() {
    let mut s = Server::new(config(100, 149));
    let held = join(&mut s, 0, A).unwrap();
    for n in 0..5000 {
        assert_eq!(say(&mut s, 1, &message(1, mac(n))).unwrap().kind, 2);
    }
    assert_eq!(s.leases(1).len(), 50);
    let b = join(&mut s, 2, B).unwrap();
    assert_ne!(b, held);
    assert_eq!(say(&mut s, 3, &message(3, A).has(held)).unwrap().kind, 5, "what is bound stays");
    // When it is really full, newcomers hear nothing until somebody leaves.
    for n in 0..48 {
        join(&mut s, OFFER + 2, mac(n)).unwrap();
    }
    assert_eq!(join(&mut s, OFFER + 3, mac(4999)), None);
    say(&mut s, OFFER + 4, &message(7, A).has(held).to(OWN));
    assert_eq!(join(&mut s, OFFER + 5, mac(4999)), Some(held));
}

#[test]
fn leases_survive_a_restart() {
    let mut s = Server::new(config(100, 200));
    let version = s.version();
    say(&mut s, 1000, &message(1, mac(1)));
    assert_eq!(s.version(), version, "an offer is nothing to write down");
    let a = say_and_take(&mut s, A);
    join(&mut s, 1000, B);
    assert!(s.version() > version);
    let saved = s.leases(2000);
    let mut s = Server::new(config(100, 200));
    s.import(50, &saved);
    let lease = s.leases(50).into_iter().find(|l| l.address == a).unwrap();
    assert_eq!((lease.host_name.as_deref(), lease.expires_in), (Some("web-1"), 3599 * SECOND));
    assert_eq!(say(&mut s, 60, &message(3, A).asks(a)).unwrap().kind, 5);
    // Another range, and a reservation of the address for another.
    let mut s = Server::new(config(201, 210));
    s.import(50, &saved);
    assert!(s.leases(50).is_empty());
}

fn say_and_take(s: &mut Server, mac: MacAddr) -> Ipv4Addr {
    let offer = say(s, 1000, &message(1, mac).with(12, b"web-1")).unwrap();
    say(s, 1000, &message(3, mac).asks(offer.addr).to(OWN).with(12, b"web-1")).unwrap();
    offer.addr
}

#[test]
fn options_may_be_in_the_file_and_name_fields() {
    let mut m = message(1, A).with(52, &[3]).bytes();
    m.splice(240..243, []);
    // The kind is in the file field, the address asked for in the name field.
    m[108..112].copy_from_slice(&[53, 1, 1, 255]);
    m[44..51].copy_from_slice(&[50, 4, 10, 77, 0, 123, 255]);
    let mut s = Server::new(config(100, 200));
    assert_eq!(raw(&mut s, 0, A, &m).unwrap().addr, ip(123));
}

/// Sent by busybox udhcpc 1.36 and by dhcpcd 9 (scapy's copy of it).
#[test]
fn messages_of_real_clients() {
    let udhcpc = b"\x35\x01\x01\x3d\x07\x01\x02\x42\x0a\x4d\x00\x05\x39\x02\x02\x40\x37\x07\x01\x03\x06\x0c\x0f\x1c\x2a\x3c\x0c\x75\x64\x68\x63\x70\x20\x31\x2e\x33\x36\x2e\x31\xff";
    let dhcpcd = b"\x63\x82\x53\x63\x35\x01\x01\x3d\x13\xff\x0a\x4d\x00\x05\x00\x01\x00\x01\x2a\x2b\x2c\x2d\x02\x42\x0a\x4d\x00\x05\x50\x00\x39\x02\x05\xc0\x0c\x03\x62\x6f\x78\x91\x01\x01\x37\x0e\x01\x79\x21\x03\x06\x0c\x0f\x1a\x1c\x33\x36\x3a\x3b\x77\xff";
    for options in [&udhcpc[..], &dhcpcd[4..]] {
        let mut m = message(1, A).bytes();
        m.truncate(240);
        m.extend(options);
        let mut s = Server::new(config(100, 200));
        let offer = raw(&mut s, 0, A, &m).unwrap();
        assert_eq!((offer.kind, offer.options[&26].as_slice()), (2, &[0x05, 0x78][..]));
        assert!(offer.options.contains_key(&61));
    }
}

#[test]
fn configurations_that_cannot_be() {
    let net = "10.77.0.1/24".parse().unwrap();
    let good = config(100, 200);
    assert_eq!(good.check(net), Ok(()));
    let reserved = |list: &[(MacAddr, u8)]| Config {
        reservations: list.iter().map(|&(mac, a)| Reservation { mac, address: ip(a) }).collect(),
        ..good.clone()
    };
    let far = Ipv4Addr::new(10, 78, 0, 1);
    for (bad, error) in [
        (config(200, 100), ConfigError::Backwards),
        (Config { range: (ip(100), Ipv4Addr::new(10, 79, 0, 1)), ..good.clone() }, ConfigError::TooLong),
        (Config { range: (ip(100), far), ..good.clone() }, ConfigError::Outside(far)),
        (reserved(&[(A, 5), (B, 5)]), ConfigError::Address(ip(5))),
        (reserved(&[(A, 5), (A, 6)]), ConfigError::Client(A)),
        (reserved(&[(A, 1)]), ConfigError::Taken(ip(1))),
        (Config { dns: vec![ip(5); 9], ..good.clone() }, ConfigError::Dns),
        (Config { domain: Some("a b".into()), ..good.clone() }, ConfigError::Domain),
        (Config { lease_time: 59, ..good.clone() }, ConfigError::LeaseTime),
    ] {
        assert_eq!(bad.check(net), Err(error), "{error}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Any bytes after a good beginning: never a panic, and answers are well-formed.
    #[test]
    fn hostile_messages(
        start in prop::sample::select(vec![0usize, 1, 4, 44, 108, 236, 240]),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        kind in 0u8..9,
    ) {
        let mut s = Server::new(config(100, 110));
        let good = message(kind, A).asks(ip(105)).to(OWN).bytes();
        let mut m = good.clone();
        m.truncate(start.max(1));
        m.extend(&bytes);
        raw_any(&mut s, &m);
        // Options that only look like some.
        let mut m = good[..240].to_vec();
        m.extend([53, 1, kind]);
        m.extend(&bytes);
        raw_any(&mut s, &m);
        raw_any(&mut s, &good[..start]);
    }

    /// No two clients hold one address, whatever they say; nobody loses what is bound to him to another.
    #[test]
    fn addresses_are_given_once(
        steps in prop::collection::vec((0u16..12, 1u8..9, 98u8..108, any::<[bool; 3]>(), 0u64..40_000), 1..200),
    ) {
        let mut s = Server::new(Config {
            reservations: vec![Reservation { mac: mac(0), address: ip(103) }],
            ..config(100, 106)
        });
        let mut now = 0;
        for (who, kind, last, [asks, has, names], wait) in steps {
            now += wait;
            let mut m = message(kind, mac(who));
            if asks { m = m.asks(ip(last)); }
            if has { m = m.has(ip(last)); }
            if names { m = m.to(OWN); }
            let before = s.leases(now);
            let got = say(&mut s, now, &m);
            let client = Client::of_mac(mac(who)).0.to_vec();
            let after = s.leases(now);
            for old in before.iter().filter(|l| l.state == LeaseState::Bound && l.client != client) {
                let same = after.iter().find(|l| l.address == old.address);
                prop_assert_eq!(same, Some(old));
            }
            if let Some(got) = got.filter(|g| [2, 5].contains(&g.kind) && !g.addr.is_unspecified()) {
                let mine: Vec<_> = after.iter().filter(|l| l.client == client).collect();
                prop_assert_eq!(mine.len(), 1);
                prop_assert_eq!(mine[0].address, got.addr);
                prop_assert!((ip(100)..=ip(106)).contains(&got.addr));
                prop_assert_eq!(got.addr == ip(103), who == 0);
            }
            prop_assert!(after.len() <= 7);
        }
    }
}

fn raw_any(s: &mut Server, payload: &[u8]) {
    let request =
        Datagram { src_mac: A, src: Ipv4Addr::UNSPECIFIED, dst: Ipv4Addr::BROADCAST, src_port: 68, payload };
    if let Some(answer) = s.handle(0, &iface(), &request) {
        read(&answer);
    }
}
