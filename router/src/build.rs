//! Making frames: the router's own messages.

use std::net::{Ipv4Addr, Ipv6Addr};

use trunkline_packet::checksum::Sum;
use trunkline_packet::headers::{IPV4_HLEN, IPV6_HLEN, UDP_HLEN, proto, write16};
use trunkline_packet::{DropReason, EtherType, MacAddr, Packet, Pool};

/// Time to live of what is made here.
pub(crate) const TTL: u8 = 64;
/// Length of an ARP message for Ethernet and IPv4.
pub(crate) const ARP_LEN: usize = 28;
/// ARP operations (RFC 826).
pub(crate) const ARP_REQUEST: u16 = 1;
pub(crate) const ARP_REPLY: u16 = 2;

/// The MAC address of an IPv6 group (RFC 2464 §7).
pub(crate) fn group_mac(group: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = group.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// The group in which an address is asked for (RFC 4291 §2.7.1).
pub(crate) fn solicited_node(addr: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = addr.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Writes the link header.
#[inline]
pub(crate) fn link(head: &mut [u8], dst: MacAddr, src: MacAddr) {
    if let Some(front) = head.first_chunk_mut::<12>() {
        front[..6].copy_from_slice(&dst.0);
        front[6..].copy_from_slice(&src.0);
    }
}

fn frame(
    dst: MacAddr,
    src: MacAddr,
    kind: EtherType,
    parts: &[&[u8]],
    pool: &mut Pool,
) -> Result<Packet, DropReason> {
    let mut packet = pool.get();
    let mut header = [0; 14];
    link(&mut header, dst, src);
    write16(&mut header, 12, kind.0);
    let parts = std::iter::once(&header[..]).chain(parts.iter().copied());
    for part in parts {
        if let Err(reason) = packet.append(part, pool) {
            pool.put(packet);
            return Err(reason);
        }
    }
    Ok(packet)
}

/// An ARP message from `(mac, addr)` about `(their mac, their addr)`, in a frame to `dst`.
pub(crate) fn arp(
    operation: u16,
    dst: MacAddr,
    from: (MacAddr, Ipv4Addr),
    to: (MacAddr, Ipv4Addr),
    pool: &mut Pool,
) -> Result<Packet, DropReason> {
    let mut m = [0u8; ARP_LEN];
    // Ethernet, IPv4, and the lengths of their addresses.
    m[..6].copy_from_slice(&[0, 1, 8, 0, 6, 4]);
    write16(&mut m, 6, operation);
    m[8..14].copy_from_slice(&from.0.0);
    m[14..18].copy_from_slice(&from.1.octets());
    m[18..24].copy_from_slice(&to.0.0);
    m[24..28].copy_from_slice(&to.1.octets());
    frame(dst, from.0, EtherType::ARP, &[&m], pool)
}

/// An ICMPv6 message, whose checksum is filled in, with hop limit 255.
pub(crate) fn icmpv6(
    mac: (MacAddr, MacAddr),
    src: Ipv6Addr,
    dst: Ipv6Addr,
    message: &mut [u8],
    pool: &mut Pool,
) -> Result<Packet, DropReason> {
    write16(message, 2, 0);
    let sum = Sum::ZERO.pseudo_v6(src, dst, proto::ICMPV6, message.len() as u32);
    let check = sum.bytes(message).finish();
    write16(message, 2, check);
    let mut ip = [0u8; IPV6_HLEN];
    (ip[0], ip[6], ip[7]) = (0x60, proto::ICMPV6, 255);
    write16(&mut ip, 4, message.len() as u16);
    ip[8..24].copy_from_slice(&src.octets());
    ip[24..40].copy_from_slice(&dst.octets());
    frame(mac.1, mac.0, EtherType::IPV6, &[&ip, message], pool)
}

/// A UDP datagram over IPv4.
pub(crate) fn udp4(
    mac: (MacAddr, MacAddr),
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    payload: &[u8],
    pool: &mut Pool,
) -> Result<Packet, DropReason> {
    let len = UDP_HLEN + payload.len();
    let total = u16::try_from(IPV4_HLEN + len).map_err(|_| DropReason::Oversize)?;
    let mut h = [0u8; IPV4_HLEN + UDP_HLEN];
    (h[0], h[8], h[9]) = (0x45, TTL, proto::UDP);
    write16(&mut h, 2, total);
    h[12..16].copy_from_slice(&src.0.octets());
    h[16..20].copy_from_slice(&dst.0.octets());
    let check = Sum::ZERO.bytes(&h[..IPV4_HLEN]).finish();
    write16(&mut h, 10, check);
    write16(&mut h, 20, src.1);
    write16(&mut h, 22, dst.1);
    write16(&mut h, 24, len as u16);
    let sum = Sum::ZERO.pseudo_v4(src.0, dst.0, proto::UDP, len as u16).bytes(&h[IPV4_HLEN..]).bytes(payload);
    write16(
        &mut h,
        26,
        match sum.finish() {
            0 => 0xffff,
            check => check,
        },
    );
    frame(mac.1, mac.0, EtherType::IPV4, &[&h, payload], pool)
}
