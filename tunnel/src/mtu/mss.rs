//! TCP's maximum segment size, lowered in the handshake to what fits the tunnel (RFC 9293 §3.7.1). It saves
//! the first oversized packet, and works where too-big errors are lost.

use trunkline_packet::Packet;
use trunkline_packet::checksum::update;
use trunkline_packet::headers::{
    Fragment, Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, TCP_HLEN, proto, read16, write16,
};

const SYN: u8 = 0x02;
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
const CHECK: usize = 16;

/// Lowers the MSS option of a SYN to what fits `mtu` (of the inner IP packet, without options: RFC 6691 §2).
/// Never raises one, and adds none: a sender without the option is told 536 bytes at most. True when the
/// packet was changed. The checksum stays right; a partial one covers only the pseudo-header, so it stays as
/// it is.
#[inline]
pub fn clamp(packet: &mut Packet, mtu: u16) -> bool {
    let Some(ip) = Headers::parse(packet) else { return false };
    if ip.proto != proto::TCP || ip.fragment != Fragment::None {
        return false;
    }
    let head = packet.head();
    let l4 = usize::from(ip.l4);
    let Some(transport) = ip.transport_len(head).filter(|_| head[l4 + 13] & SYN != 0) else { return false };
    let ip_len = if ip.version == IpVersion::V4 { IPV4_HLEN } else { IPV6_HLEN };
    let limit = mtu.saturating_sub((ip_len + TCP_HLEN) as u16).max(1);
    let Some(at) = find(&head[l4 + TCP_HLEN..l4 + transport]) else { return false };
    let field = l4 + TCP_HLEN + at;
    let Some(old) = read16(head, field).filter(|&old| old > limit) else { return false };
    let check = read16(head, l4 + CHECK).unwrap_or_default();
    let full = packet.meta().offload.csum.is_full();
    let head = packet.head_mut();
    write16(head, field, limit);
    if full {
        // Behind an odd number of bytes the two bytes have changed places in their words (RFC 1071 §2(B)).
        let (old, new) = if at % 2 == 0 { (old, limit) } else { (old.swap_bytes(), limit.swap_bytes()) };
        write16(head, l4 + CHECK, update(check, old, new));
    }
    true
}

/// Where the value of a well-formed MSS option is.
fn find(options: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        match *options.get(at..)? {
            [END, ..] | [] => return None,
            [NOP, ..] => at += 1,
            [MSS, 4, _, _, ..] => return Some(at + 2),
            [_, len, ..] if len >= 2 => at += usize::from(len),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use trunkline_packet::checksum::{Sum, transport_ok};
    use trunkline_packet::{Checksum, Pool};

    fn syn(v6: bool, flags: u8, options: &[u8], partial: bool) -> Packet {
        let l3_len = if v6 { 40 } else { 20 };
        let tcp_len = 20 + options.len();
        let mut b = vec![2; 12];
        if v6 {
            b.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, tcp_len as u8, 6, 64]);
        } else {
            b.extend([8, 0, 0x45, 0, 0, (20 + tcp_len) as u8, 0, 0, 0, 0, 64, 6, 0, 0]);
        }
        b.resize(14 + l3_len, 7);
        let l4 = b.len();
        let addresses = Sum::ZERO.bytes(&b[if v6 { 22 } else { 26 }..]).add(6).add(tcp_len as u32);
        b.extend([1, 2, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, (tcp_len as u8 / 4) << 4, flags, 1, 2, 0, 0, 0, 0]);
        b.extend(options);
        let check = if partial { addresses.fold() } else { addresses.bytes(&b[l4..]).finish() };
        write16(&mut b, l4 + CHECK, check);
        let mut pool = Pool::new(1, 1);
        let mut p = pool.get();
        p.set_bytes(&b, &mut pool).unwrap();
        if partial {
            p.meta_mut().offload.csum = Checksum::Partial { start: l4 as u16, offset: CHECK as u16 };
        }
        p
    }

    #[test]
    fn clamped_and_the_checksum_stays_right() {
        for v6 in [false, true] {
            for partial in [false, true] {
                // The option at an even and at an odd place.
                for options in [[2, 4, 5, 0xb4, 1, 1, 1, 0], [1, 2, 4, 5, 0xb4, 1, 1, 0]] {
                    let mut p = syn(v6, SYN, &options, partial);
                    assert!(clamp(&mut p, 1450));
                    trunkline_packet::checksum::complete(&mut p).unwrap();
                    let ip = Headers::parse(&p).unwrap();
                    assert!(transport_ok(&p, &ip), "v6 {v6}, partial {partial}");
                    let at = usize::from(ip.l4) + TCP_HLEN + find(&options).unwrap();
                    assert_eq!(read16(p.head(), at), Some(if v6 { 1390 } else { 1410 }));
                    assert!(!clamp(&mut p, 1450));
                }
            }
        }
    }

    #[test]
    fn left_alone_without_syn_or_option_or_when_small_enough() {
        let options = [2, 4, 5, 0xb4];
        for (flags, options, mtu) in [
            (0x10, &options[..], 1450),
            (SYN, &options[..], 1500),
            (SYN, &[][..], 1450),
            (SYN, &[0, 2, 4, 5], 1450),
            (SYN, &[1, 1, 1, 2], 1450),
            (SYN, &[3, 0, 2, 4], 1450),
            (SYN, &[2, 3, 5, 0], 1450),
        ] {
            let mut p = syn(false, flags, options, false);
            let before = p.to_vec();
            assert!(!clamp(&mut p, mtu));
            assert_eq!(p.to_vec(), before);
        }
        assert!(clamp(&mut syn(false, SYN | 0x10, &options, false), 1450), "the answer too");
    }

    proptest! {
        #[test]
        fn any_options_are_walked_safely(
            words in prop::collection::vec(any::<[u8; 4]>(), 0..10), v6: bool, mtu: u16, cut in 0usize..120,
        ) {
            let mut p = syn(v6, SYN, words.as_flattened(), false);
            let changed = clamp(&mut p, mtu);
            let ip = Headers::parse(&p).unwrap();
            prop_assert!(transport_ok(&p, &ip), "{}", changed);
            p.truncate(cut);
            clamp(&mut p, mtu);
        }
    }
}
