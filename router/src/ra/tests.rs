//! Advertisements, with etherparse-free eyes: option by option.

use std::sync::Arc;

use super::*;
use crate::{IfaceId, Kind, Services, Zone};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const HOST: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn iface(addresses: &[&str], mtu: u16) -> Iface {
    Iface {
        id: IfaceId(1),
        kind: Kind::Gateway { zone: Zone(0), open: true },
        mac: MAC,
        mtu,
        addresses: addresses.iter().map(|a| a.parse().unwrap()).collect(),
        proxies: Vec::new(),
        nd_proxy: Vec::new(),
        isolated: false,
        services: Arc::new(Services::default()),
    }
}

/// Kind and content of each option.
fn options(message: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut rest = &message[16..];
    let mut all = Vec::new();
    while let [kind, len, ..] = *rest {
        let len = usize::from(len) * 8;
        all.push((kind, rest[2..len].to_vec()));
        rest = &rest[len..];
    }
    assert!(rest.is_empty());
    all
}

#[test]
fn what_an_advertisement_says() {
    let config = Config {
        dns: vec!["fd77::53".parse().unwrap()],
        search: vec!["example.org".to_owned(), "bad..name".to_owned()],
        ..Config::default()
    };
    let mut a = Advertiser::new(config);
    let i = iface(&["10.77.0.1/24", "fd77::1/64", "fd77::2/64", "fd78::1/48", "fe80::1/64"], 1400);
    let got = a.tick(5, &i).unwrap();
    assert_eq!((got.dst, got.dst_mac), (ALL_NODES, MacAddr::default()));
    let m = &got.message;
    assert_eq!(m[..8], [134, 0, 0, 0, 64, 0, 0x07, 0x08]);
    let all = options(m);
    let kinds: Vec<u8> = all.iter().map(|o| o.0).collect();
    assert_eq!(kinds, [SOURCE, MTU, PREFIX, PREFIX, RDNSS, DNSSL]);
    assert_eq!(all[0].1, MAC.0);
    assert_eq!(all[1].1, [0, 0, 0, 0, 0x05, 0x78]);
    // Hosts make addresses only in the network of 64 bits.
    assert_eq!((all[2].1[..2].to_vec(), all[3].1[..2].to_vec()), (vec![64, 0xc0], vec![48, 0x80]));
    assert_eq!(all[2].1[2..10], [0x00, 0x27, 0x8d, 0x00, 0x00, 0x09, 0x3a, 0x80]);
    assert_eq!(all[2].1[14..], "fd77::".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(all[4].1[2..6], 1800u32.to_be_bytes());
    assert_eq!(all[4].1[6..], "fd77::53".parse::<Ipv6Addr>().unwrap().octets());
    assert_eq!(all[5].1[6..], *b"\x07example\x03org\0\0\0\0");
    assert_eq!(
        options(&Advertiser::new(Config::default()).tick(5, &iface(&["fd77::1/64"], 1200)).unwrap().message)
            .len(),
        2,
        "no MTU below 1280"
    );
}

#[test]
fn rfc4861_6_2_4_first_often_then_at_random_within_the_interval() {
    let mut a = Advertiser::new(Config::default());
    let i = iface(&["fd77::1/64"], 1500);
    let mut times = Vec::new();
    for now in (0..7_200_000u64).step_by(50) {
        assert_eq!(a.tick(now, &i).is_some(), times.is_empty() || now >= a_next(&times), "{now}");
        if a.next() > now && times.last().is_none_or(|&(_, next)| next <= now) {
            times.push((now, a.next()));
        }
    }
    let gaps: Vec<u64> = times.windows(2).map(|w| w[1].0 - w[0].0).collect();
    assert!(gaps[..3].iter().all(|&g| (APART..=INITIAL + 50).contains(&g)), "{gaps:?}");
    assert!(gaps[3..].iter().all(|&g| (200_000..=600_050).contains(&g)), "{gaps:?}");
    assert!(gaps[3..].windows(2).any(|w| w[0].abs_diff(w[1]) > 1000), "at random: {gaps:?}");
}

fn a_next(times: &[(u64, u64)]) -> u64 {
    times[times.len() - 1].1
}

#[test]
fn rfc4861_6_2_6_solicitations() {
    let mut a = Advertiser::new(Config::default());
    let i = iface(&["fd77::1/64"], 1500);
    a.tick(10_000, &i).unwrap();
    // One host, alone and at once.
    let src: Ipv6Addr = "fe80::9".parse().unwrap();
    let got = a.solicited(10_001, &i, src, HOST).unwrap();
    assert_eq!((got.dst, got.dst_mac), (src, HOST));
    // One without an address: all are told, three seconds after the last time.
    assert_eq!(a.solicited(10_002, &i, Ipv6Addr::UNSPECIFIED, HOST), None);
    assert_eq!(a.next(), 13_000);
    assert_eq!(a.tick(12_999, &i), None);
    assert_eq!(a.tick(13_000, &i).unwrap().dst, ALL_NODES);
    assert_eq!(a.solicited(13_001, &i, Ipv6Addr::UNSPECIFIED, HOST), None);
    assert_eq!(a.solicited(16_000, &i, Ipv6Addr::UNSPECIFIED, HOST).unwrap().dst, ALL_NODES);
    // A flood is answered at a limited rate.
    let answered = (0..100_000u64).filter(|n| a.solicited(20_000 + n / 100, &i, src, HOST).is_some()).count();
    assert!((50..=80).contains(&answered), "{answered} in a second");
}

#[test]
fn a_gateway_without_ipv6_says_nothing() {
    let mut a = Advertiser::new(Config::default());
    let i = iface(&["10.77.0.1/24"], 1500);
    assert_eq!(a.tick(0, &i), None);
    assert_eq!(a.solicited(0, &i, "fe80::9".parse().unwrap(), HOST), None);
    assert!(a.next() > 0, "and does not try all the time");
}
