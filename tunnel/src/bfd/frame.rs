//! The frame that carries BFD inside a tunnel: Ethernet, IPv4, UDP (RFC 5881 §4), addressed as Open vSwitch
//! does it, so that it can be the far end.

use std::net::Ipv4Addr;

use trunkline_packet::checksum::{Sum, ipv4_header_ok, transport_ok};
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::headers::{Fragment, Headers, IPV4_HLEN, UDP_HLEN, proto, read16, write16};
use trunkline_packet::{DropReason, EtherType, MacAddr, Packet, Pool};

use super::wire::LEN;

/// UDP destination port of single-hop control packets.
pub const PORT: u16 = 3784;

/// "The source port MUST be in the range 49152 through 65535."
const FIRST_SOURCE_PORT: u16 = 49152;

/// Length of the whole frame without padding, bytes.
pub const FRAME_LEN: usize = ETH_HLEN + IPV4_HLEN + UDP_HLEN + LEN;

/// Length of the IP packet without padding, bytes.
pub const IP_LEN: u16 = (FRAME_LEN - ETH_HLEN) as u16;

/// Addresses of BFD frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Addresses {
    /// Our link address.
    pub src_mac: MacAddr,
    /// Where to; Open vSwitch listens to [`Addresses::OVS_MAC`].
    pub dst_mac: MacAddr,
    /// Our address.
    pub src: Ipv4Addr,
    /// The other's.
    pub dst: Ipv4Addr,
}

impl Addresses {
    /// The destination Open vSwitch uses and accepts by default.
    pub const OVS_MAC: MacAddr = MacAddr([0x00, 0x23, 0x20, 0x00, 0x00, 0x01]);

    /// Open vSwitch's defaults: it neither resolves nor checks the IP addresses.
    pub const fn ovs(src_mac: MacAddr) -> Addresses {
        Addresses {
            src_mac,
            dst_mac: Addresses::OVS_MAC,
            src: Ipv4Addr::new(169, 254, 1, 0),
            dst: Ipv4Addr::new(169, 254, 1, 1),
        }
    }
}

/// A frame around a control packet. Sessions with different discriminators get different source ports.
///
/// # Errors
/// As [`Packet::set_bytes`].
pub fn build(
    control: &[u8; LEN],
    to: &Addresses,
    discriminator: u32,
    pool: &mut Pool,
) -> Result<Packet, DropReason> {
    build_padded(control, to, discriminator, IP_LEN, pool)
}

/// As [`build`], with as many zeros behind the control packet as make the IP packet `ip_len` bytes long (RFC
/// 9764 §3); one shorter than [`IP_LEN`] is not padded. Receivers must take it: the control packet's own
/// length field may be less than what UDP carries (RFC 5880 §6.8.6).
///
/// # Errors
/// As [`Packet::set_bytes`].
pub fn build_padded(
    control: &[u8; LEN],
    to: &Addresses,
    discriminator: u32,
    ip_len: u16,
    pool: &mut Pool,
) -> Result<Packet, DropReason> {
    let ip_len = ip_len.max(IP_LEN);
    let udp_len = ip_len - IPV4_HLEN as u16;
    const L4: usize = ETH_HLEN + IPV4_HLEN;
    let mut b = [0u8; FRAME_LEN];
    b[..6].copy_from_slice(&to.dst_mac.0);
    b[6..12].copy_from_slice(&to.src_mac.0);
    write16(&mut b, 12, EtherType::IPV4.0);
    // Internetwork control (RFC 791 §3.1), as the kernel and Open vSwitch mark BFD.
    (b[14], b[15]) = (0x45, 0xc0);
    write16(&mut b, 16, ip_len);
    // DF: as long as a packet is, so long must it arrive.
    b[20] = 0x40;
    // RFC 5881 §5: "MUST be sent with a TTL of 255".
    (b[22], b[23]) = (255, proto::UDP);
    b[26..30].copy_from_slice(&to.src.octets());
    b[30..34].copy_from_slice(&to.dst.octets());
    let check = Sum::ZERO.bytes(&b[ETH_HLEN..L4]).finish();
    write16(&mut b, 24, check);
    write16(&mut b, L4, FIRST_SOURCE_PORT | discriminator as u16 & 0x3fff);
    write16(&mut b, L4 + 2, PORT);
    write16(&mut b, L4 + 4, udp_len);
    b[L4 + UDP_HLEN..].copy_from_slice(control);
    // Zeros add nothing.
    let check = Sum::ZERO.pseudo_v4(to.src, to.dst, proto::UDP, udp_len).bytes(&b[L4..]).finish();
    write16(&mut b, L4 + 6, if check == 0 { 0xffff } else { check });
    let mut packet = pool.get();
    match packet.set_bytes(&b, pool).and_then(|()| pad(&mut packet, (ip_len - IP_LEN).into(), pool)) {
        Ok(()) => Ok(packet),
        Err(reason) => {
            pool.put(packet);
            Err(reason)
        }
    }
}

fn pad(packet: &mut Packet, mut len: usize, pool: &mut Pool) -> Result<(), DropReason> {
    const ZEROS: [u8; 1024] = [0; 1024];
    while len > 0 {
        let piece = len.min(ZEROS.len());
        packet.append(&ZEROS[..piece], pool)?;
        len -= piece;
    }
    Ok(())
}

/// The TTL and the control packet, with the part of its padding that is in the head; `None` when it is no
/// whole BFD frame to `mac` with right checksums.
pub fn parse(packet: &Packet, mac: MacAddr) -> Option<(u8, &[u8])> {
    let head = packet.head();
    if head.get(..6)? != mac.0.as_slice() {
        return None;
    }
    let ip = Headers::of_frame(head).filter(|ip| ip.proto == proto::UDP && ip.fragment == Fragment::None)?;
    let (l3, l4, end) = (usize::from(ip.l3), usize::from(ip.l4), ip.end as usize);
    if read16(head, l4 + 2)? != PORT || !ip.is_whole(packet.len()) || !ipv4_header_ok(head, &ip) {
        return None;
    }
    let summed = read16(head, l4 + 6)? != 0;
    // Ethernet may pad a frame; such padding is not summed, and too short a frame to matter here.
    if summed && end == packet.len() && !transport_ok(packet, &ip) {
        return None;
    }
    let ttl = *head.get(l3 + if ip.version == trunkline_packet::headers::IpVersion::V4 { 8 } else { 7 })?;
    Some((ttl, head.get(l4 + UDP_HLEN..end.min(head.len()))?))
}
