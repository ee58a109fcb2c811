use std::time::Instant;

use proptest::prelude::*;
use trunkline_packet::icmp::Problem;
use trunkline_packet::{MacAddr, Pool, PortId};

use super::*;
use crate::mtu::path::PathMtu;
use crate::{Endpoint, GreKey, Kind, NetId, OuterPath, TxState, Vni, encap_frame};

fn hosts(v6: bool) -> [IpAddr; 3] {
    let all = if v6 {
        ["2001:db8::1", "2001:db8::2", "2001:db8::fe"]
    } else {
        ["192.0.2.1", "192.0.2.2", "192.0.2.254"]
    };
    all.map(|a| a.parse().unwrap())
}

fn tunnels(v6: bool) -> Tunnels {
    let [local, remote, _] = hosts(v6);
    let kinds = [
        (Kind::Vxlan, NetId::Vni(Vni::MAX)),
        (Kind::Geneve, NetId::Vni(Vni::MAX)),
        (Kind::Gre, NetId::None),
        (Kind::Gre, NetId::Key(GreKey(5))),
        (Kind::Nvgre, NetId::Vni(Vni::MAX)),
    ];
    let all = kinds.into_iter().enumerate().map(|(i, (kind, net))| {
        let mut e = Endpoint::new(PortId(i as u16), kind, net);
        (e.local, e.remotes) = (Some(local), vec![remote]);
        e.gre_checksum = i == 3;
        e
    });
    Tunnels::new(all.collect()).unwrap()
}

/// The error a router makes about a packet of tunnel `index`.
fn error(v6: bool, index: u16, mtu: u16, pool: &mut Pool) -> Packet {
    let [local, _, router] = hosts(v6);
    let table = tunnels(v6);
    let to = table.of_port(PortId(index)).unwrap().encaps(Default::default()).unwrap()[0];
    let path = OuterPath { src_mac: MacAddr([2; 6]), dst_mac: MacAddr([4; 6]), vlan: None, src: local };
    let mut inner = pool.get();
    inner.set_bytes(&[&[6; 12][..], &[0x88, 0xb5], &[9; 1300]].concat(), pool).unwrap();
    let mut out = Vec::new();
    encap_frame(inner, &to, &path, &TxState::default(), pool, &mut out).unwrap();
    let ip = Headers::parse(&out[0]).unwrap();
    icmp::error(&out[0], &ip, Problem::TooBig(mtu), router, pool).unwrap()
}

#[test]
fn errors_about_our_packets_lower_the_path_mtu() {
    let mut pool = Pool::new(8, 2);
    for v6 in [false, true] {
        let [local, remote, _] = hosts(v6);
        for index in 0..5 {
            let report = parse(&error(v6, index, 1300, &mut pool), &tunnels(v6)).unwrap();
            assert_eq!((report.local, report.remote, report.mtu), (local, remote, 1300), "{index}");
            let mut path = PathMtu::new(1500, v6);
            assert!(path.too_big(Instant::now(), report.mtu, report.sent));
            assert_eq!(path.get(), 1300);
        }
    }
    // A router that does not say.
    let mut old = error(false, 0, 0, &mut pool);
    let report = parse(&old, &tunnels(false)).unwrap();
    assert_eq!((report.mtu, report.sent), (0, 1314 + 36));
    // Behind the error there may be padding.
    old.append(&[1, 2, 3], &mut pool).unwrap();
    assert_eq!(parse(&old, &tunnels(false)), Some(report));
}

#[test]
fn errors_about_what_we_did_not_send_are_not_believed() {
    let mut pool = Pool::new(8, 2);
    for v6 in [false, true] {
        let l3 = 14;
        let quote = if v6 { l3 + 48 } else { l3 + 28 };
        let (src, dst) = if v6 { (8, 24) } else { (12, 16) };
        let last = if v6 { 15 } else { 3 };
        let inner_l4 = quote + if v6 { 40 } else { 20 };
        let refused = |what: &str, index: u16, change: &dyn Fn(&mut [u8])| {
            let mut pool = Pool::new(8, 2);
            let mut p = error(v6, index, 1300, &mut pool);
            change(p.head_mut());
            fix(&mut p);
            assert_eq!(parse(&p, &tunnels(v6)), None, "{what}, v6 {v6}");
        };
        refused("to another address", 0, &|h| h[l3 + dst + last] ^= 1);
        refused("sent from another address", 0, &|h| h[quote + src + last] ^= 1);
        refused("to no remote", 0, &|h| h[quote + dst + last] ^= 1);
        refused("no tunnel's port", 0, &|h| h[inner_l4 + 2] ^= 1);
        refused("no source port of ours", 0, &|h| h[inner_l4] &= 0x3f);
        refused("no key of ours", 4, &|h| h[inner_l4 + 4] ^= 1);
        refused("no GRE of ours", 2, &|h| h[inner_l4] |= 0x20);
        refused("a protocol of no tunnel", 0, &|h| h[quote + if v6 { 6 } else { 9 }] = 6);
        refused("quotes the other family", 0, &|h| h[quote] = if v6 { 0x45 } else { 0x60 });
        refused("another error", 0, &|h| h[l3 + if v6 { 40 } else { 21 }] ^= 1);
        refused("an MTU that would do", 0, &|h| h[l3 + if v6 { 46 } else { 26 }] = 0xf0);
        refused("a fragment", 0, &|h| {
            if v6 {
                h[l3 + 6] = 44;
            } else {
                h[l3 + 6] = 0x20;
            }
        });
        // Damage.
        let whole = error(v6, 0, 1300, &mut pool).to_vec();
        for at in l3 + 10..whole.len() {
            let mut p = pool.get();
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            p.set_bytes(&damaged, &mut pool).unwrap();
            assert_eq!(parse(&p, &tunnels(v6)), None, "{at}");
            pool.put(p);
        }
        for len in 0..whole.len() {
            let mut p = pool.get();
            p.set_bytes(&whole[..len], &mut pool).unwrap();
            assert_eq!(parse(&p, &tunnels(v6)), None, "{len}");
            pool.put(p);
        }
    }
}

/// Makes the checksums right, as a forger would.
fn fix(p: &mut Packet) {
    use trunkline_packet::checksum::Sum;
    use trunkline_packet::headers::write16;
    let (v6, len) = (p.head()[12] == 0x86, p.len());
    let head = p.head_mut();
    if v6 {
        write16(head, 56, 0);
        let check = Sum::ZERO.bytes(&head[22..54]).add(58).add(len as u32 - 54).bytes(&head[54..]).finish();
        write16(head, 56, check);
    } else {
        write16(head, 24, 0);
        let check = Sum::ZERO.bytes(&head[14..34]).finish();
        write16(head, 24, check);
        write16(head, 36, 0);
        let check = Sum::ZERO.bytes(&head[34..]).finish();
        write16(head, 36, check);
    }
}

#[test]
fn eight_quoted_bytes_are_enough() {
    let mut pool = Pool::new(8, 2);
    for index in 0..5 {
        let mut p = error(false, index, 1300, &mut pool);
        p.truncate(14 + 28 + 28);
        trunkline_packet::headers::write16(p.head_mut(), 16, 28 + 28);
        fix(&mut p);
        assert!(parse(&p, &tunnels(false)).is_some(), "{index}");
    }
}

proptest! {
    #[test]
    fn damage_never_panics(
        v6: bool, index in 0u16..5, hits in prop::collection::vec((0usize..200, any::<u8>()), 1..6), cut in 0usize..700,
    ) {
        let mut pool = Pool::new(8, 2);
        let mut p = error(v6, index, 1300, &mut pool);
        for (at, value) in hits {
            if let Some(byte) = p.head_mut().get_mut(at) { *byte = value; }
        }
        fix(&mut p);
        let _ = parse(&p, &tunnels(v6));
        p.truncate(cut);
        let _ = parse(&p, &tunnels(v6));
    }
}
