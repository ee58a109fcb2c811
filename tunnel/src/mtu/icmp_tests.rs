use std::time::Duration;

use proptest::prelude::*;
use trunkline_packet::checksum::ipv4_header_ok;
use trunkline_packet::{Tpid, VlanId, VlanTag, segment};

use super::*;
use trunkline_packet::checksum::Sum;

/// A frame of `len` bytes of IP, from one host to another.
fn frame(v6: bool, protocol: u8, first: u8, len: usize) -> Vec<u8> {
    let mut b = vec![2, 0, 0, 0, 0, 0xdd, 2, 0, 0, 0, 0, 0x55];
    if v6 {
        b.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        b.extend(((len - 40) as u16).to_be_bytes());
        b.extend([protocol, 64]);
        b.extend([0xfd; 16]);
        b.extend([0xfc; 16]);
    } else {
        b.extend([8, 0, 0x45, 0]);
        b.extend((len as u16).to_be_bytes());
        b.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    }
    b.push(first);
    b.extend((0..).map(|i: u32| i as u8).take(14 + len - b.len()));
    b
}

fn packet(bytes: &[u8]) -> (Packet, Pool) {
    let mut pool = Pool::new(8, 8);
    let mut p = pool.get();
    p.set_bytes(bytes, &mut pool).unwrap();
    (p, pool)
}

fn answer(bytes: &[u8], mtu: u16) -> TooBig {
    let (p, mut pool) = packet(bytes);
    let now = Instant::now();
    too_big(&p, mtu, now, &mut TokenBucket::new(now, 10, 10), &mut pool).unwrap()
}

fn reply(bytes: &[u8], mtu: u16) -> Vec<u8> {
    match answer(bytes, mtu) {
        TooBig::Reply(p) => p.to_vec(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn rfc1191_4_fragmentation_needed_with_the_mtu() {
    for len in [1451, 9000] {
        let original = frame(false, 6, 1, len);
        let r = reply(&original, 1450);
        assert_eq!(r[..12], [2, 0, 0, 0, 0, 0x55, 2, 0, 0, 0, 0, 0xdd]);
        assert_eq!(r[26..34], [10, 0, 0, 2, 10, 0, 0, 1], "from the original destination");
        assert_eq!(r[34..36], [3, 4]);
        assert_eq!(r[38..42], [0, 0, 1450u16.to_be_bytes()[0], 1450u16.to_be_bytes()[1]]);
        assert_eq!(r.len() - 14, 576, "RFC 1812 §4.3.2.3");
        assert_eq!(r[42..], original[14..14 + 548]);
        let (p, _) = packet(&r);
        let ip = Headers::parse(&p).unwrap();
        assert!(ip.is_whole(r.len()) && ipv4_header_ok(&r, &ip));
        assert_eq!(Sum::ZERO.bytes(&r[34..]).fold(), 0xffff);
    }
}

#[test]
fn rfc4443_3_2_packet_too_big() {
    for len in [1451, 9000] {
        let original = frame(true, 17, 1, len);
        let r = reply(&original, 1450);
        assert_eq!((&r[22..38], &r[38..54]), (&[0xfc; 16][..], &[0xfd; 16][..]));
        assert_eq!((r[54], r[55], &r[58..62]), (2, 0, &1450u32.to_be_bytes()[..]));
        assert_eq!(r.len() - 14, 1280);
        assert_eq!(r[62..], original[14..14 + 1232]);
        let (p, _) = packet(&r);
        let ip = Headers::parse(&p).unwrap();
        assert_eq!(ip.pseudo(&r, (r.len() - 54) as u32).bytes(&r[54..]).fold(), 0xffff);
    }
    assert_eq!(reply(&frame(true, 17, 1, 1400), 1000)[58..62], 1280u32.to_be_bytes(), "never less than 1280");
}

#[test]
fn tags_are_kept() {
    let mut tagged = frame(false, 6, 1, 1500);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    let (mut p, mut pool) = packet(&tagged);
    let tag = VlanTag::new(Tpid::Service, VlanId::MAX, 0);
    p.meta_mut().vlan = Some(tag);
    let now = Instant::now();
    let TooBig::Reply(r) = too_big(&p, 1450, now, &mut TokenBucket::new(now, 1, 1), &mut pool).unwrap()
    else {
        panic!("no reply");
    };
    assert_eq!((r.meta().vlan, &r.head()[12..16]), (Some(tag), &[0x81, 0, 0, 7][..]));
}

#[test]
fn without_df_the_outer_packet_is_fragmented() {
    let mut b = frame(false, 6, 1, 1500);
    b[20] = 0;
    assert!(matches!(answer(&b, 1450), TooBig::Fragment));
}

#[test]
fn rfc1122_3_2_2_no_error_about_errors_groups_and_later_fragments() {
    for (at, value) in [(0, 1u8), (6, 1), (26, 0), (26, 127), (26, 224), (30, 224), (30, 255), (21, 1)] {
        let mut b = frame(false, 6, 1, 1500);
        b[at] = value;
        assert!(matches!(answer(&b, 1450), TooBig::Silent), "{at} {value}");
    }
    for (kind, silent) in [(3, true), (4, true), (5, true), (11, true), (12, true), (0, false), (8, false)] {
        assert_eq!(matches!(answer(&frame(false, 1, kind, 1500), 1450), TooBig::Silent), silent, "{kind}");
    }
}

#[test]
fn rfc4443_2_4_e_no_error_about_errors_redirects_and_no_hosts() {
    for (kind, silent) in [(1, true), (127, true), (128, false), (137, true), (135, false)] {
        assert_eq!(matches!(answer(&frame(true, 58, kind, 1500), 1450), TooBig::Silent), silent, "{kind}");
    }
    let mut b = frame(true, 17, 1, 1500);
    b[22..38].fill(0);
    assert!(matches!(answer(&b, 1450), TooBig::Silent));
    for at in [22, 38] {
        let mut b = frame(true, 17, 1, 1500);
        b[at] = 0xff;
        assert!(matches!(answer(&b, 1450), TooBig::Silent));
    }
}

#[test]
fn rfc1812_4_3_2_8_errors_are_limited() {
    let (p, mut pool) = packet(&frame(false, 6, 1, 1500));
    let start = Instant::now();
    let mut limit = TokenBucket::new(start, 10, 3);
    let mut made =
        |at: Instant| matches!(too_big(&p, 1450, at, &mut limit, &mut pool).unwrap(), TooBig::Reply(_));
    assert_eq!((0..10).filter(|_| made(start)).count(), 3);
    assert!(!made(start + Duration::from_millis(99)));
    assert!(made(start + Duration::from_millis(100)));
    assert_eq!((0..10).filter(|_| made(start + Duration::from_secs(9))).count(), 3);
}

#[test]
fn superframes_are_judged_by_their_segments() {
    use trunkline_packet::{Checksum, Gso, GsoKind, Offload};
    let mut b = frame(false, 6, 1, 9000);
    b[46] = 0x50;
    let (mut p, _) = packet(&b);
    assert!(segment::exceeds(&p, 1450));
    for (size, wanted) in [(1410, false), (1411, true)] {
        p.meta_mut().offload = Offload {
            csum: Checksum::Partial { start: 34, offset: 16 },
            gso: Gso { kind: GsoKind::TcpV4, ecn: false, size },
        };
        assert_eq!(segment::exceeds(&p, 1450), wanted);
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..100), v6: bool) {
        let mut bytes = bytes;
        if let Some(at) = bytes.get_mut(12..15) {
            at.copy_from_slice(if v6 { &[0x86, 0xdd, 0x60] } else { &[8, 0, 0x45] });
        }
        answer(&bytes, 1450);
    }
}
