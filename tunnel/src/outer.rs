//! The outer Ethernet, IP and UDP headers, for a port as the underlay: written by [`crate::encap_frame`], taken off by
//! [`open`].

use std::net::{IpAddr, Ipv4Addr};

use trunkline_packet::checksum::{Sum, ipv4_header_ok};
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::headers::{
    Fragment, Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, UDP_HLEN, proto, read16, write16,
};
use trunkline_packet::plain::{L4_V4, LEAST_V4};
use trunkline_packet::{
    Arrival, Checksum, DropReason, EtherType, GsoKind, MacAddr, Offload, Outer, Packet, VlanTag,
};

use crate::Kind;
use crate::config::{Encap, TxState};
use crate::encap::{OUTER_DONE, SendInfo, finished};
use crate::inner::{InnerIp, finished_sum};

const UDP_CHECK: usize = 6;

/// The largest IP packet, and the largest payload an IPv6 header can announce.
const MAX_IP: usize = 65535;

/// The link and the addresses on which packets to one remote leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OuterPath {
    /// The underlay port's own address.
    pub src_mac: MacAddr,
    /// The remote's, or the next hop's.
    pub dst_mac: MacAddr,
    /// The underlay's VLAN.
    pub vlan: Option<VlanTag>,
    /// Our address, of the same family as the remote's.
    pub src: IpAddr,
}

/// The IP protocol of a kind of tunnel.
#[inline]
pub(crate) const fn protocol(kind: Kind) -> u8 {
    if kind.is_udp() { proto::UDP } else { proto::GRE }
}

/// Puts UDP (where the tunnel has it), IP and Ethernet in front of a tunnel header.
///
/// # Errors
/// [`DropReason::Oversize`] when it exceeds an IP packet and is no superframe; [`DropReason::NoBuffer`]
/// without headroom; [`DropReason::BadOffload`] when the addresses are of two families.
pub(crate) fn push(
    packet: &mut Packet,
    to: &Encap,
    path: &OuterPath,
    info: &SendInfo,
    state: &TxState,
) -> Result<(), DropReason> {
    let udp = if to.header.kind().is_udp() { UDP_HLEN } else { 0 };
    let ip_len = if to.remote.is_ipv4() { IPV4_HLEN } else { IPV6_HLEN };
    let (l3, l4) = (ETH_HLEN, ETH_HLEN + ip_len);
    // A superframe gets its lengths when it is segmented.
    let payload = packet.len() + udp;
    if ip_len + payload > MAX_IP && !packet.meta().offload.is_gso() {
        return Err(DropReason::Oversize);
    }
    let head = packet.push_front(l4 + udp).ok_or(DropReason::NoBuffer)?;
    let protocol = protocol(to.header.kind());
    match (path.src, to.remote) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let h = head.first_chunk_mut().ok_or(DropReason::NoBuffer)?;
            front_v4(h, path, (src, dst), protocol, payload, info, state);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let h: &mut [u8; ETH_HLEN + IPV6_HLEN] = head.first_chunk_mut().ok_or(DropReason::NoBuffer)?;
            link(h, path, EtherType::IPV6);
            let h = &mut h[l3..];
            let word = 6 << 28 | u32::from(info.tos) << 20 | info.flow_label();
            h[..4].copy_from_slice(&word.to_be_bytes());
            write16(h, 4, payload.min(MAX_IP) as u16);
            (h[6], h[7]) = (protocol, info.ttl);
            h[8..24].copy_from_slice(&src.octets());
            h[24..40].copy_from_slice(&dst.octets());
        }
        _ => return Err(DropReason::BadOffload),
    }
    if let Some(h) = head[l4..].first_chunk_mut().filter(|_| udp > 0) {
        *h = udp_header(to, payload, info);
    }
    let meta = packet.meta_mut();
    meta.offload.shift((l4 + udp) as i16);
    meta.outer = OUTER_DONE;
    if udp > 0 && to.udp_checksum {
        let pseudo = pseudo(path.src, to.remote, payload as u32);
        let sum = finished(packet, l4)?.add(u32::from(pseudo));
        // 0 would mean "no checksum" (RFC 768).
        let check = Some(sum.finish()).filter(|&check| check != 0).unwrap_or(0xffff);
        write16(packet.head_mut(), l4 + UDP_CHECK, check);
    }
    Ok(())
}

/// As writing the tunnel's header and [`push`], for most tunnels: over IPv4, behind a header of eight bytes that is the
/// same in all packets, without checksums. `None`, and no change, when it is not so, or does not fit.
#[inline]
pub(crate) fn push_usual(
    packet: &mut Packet,
    to: &Encap,
    path: &OuterPath,
    info: &SendInfo,
    state: &TxState,
) -> Option<()> {
    const L4: usize = ETH_HLEN + IPV4_HLEN;
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (path.src, to.remote) else { return None };
    let header = to.header.constant()?;
    let kind = to.header.kind();
    let udp = if kind.is_udp() { UDP_HLEN } else { 0 };
    let payload = packet.len() + header.len() + udp;
    if IPV4_HLEN + payload > MAX_IP || udp > 0 && to.udp_checksum {
        return None;
    }
    let front = L4 + udp + header.len();
    let (h, rest) = packet.push_front(front)?.split_first_chunk_mut::<L4>()?;
    front_v4(h, path, (src, dst), protocol(kind), payload, info, state);
    match udp {
        0 => *rest.first_chunk_mut()? = header,
        _ => {
            let (h, rest) = rest.split_first_chunk_mut()?;
            *h = udp_header(to, payload, info);
            *rest.first_chunk_mut()? = header;
        }
    }
    let meta = packet.meta_mut();
    meta.offload.shift(front as i16);
    meta.outer = OUTER_DONE;
    Some(())
}

/// Ethernet and IPv4.
#[inline]
fn front_v4(
    h: &mut [u8; ETH_HLEN + IPV4_HLEN],
    path: &OuterPath,
    (src, dst): (Ipv4Addr, Ipv4Addr),
    protocol: u8,
    payload: usize,
    info: &SendInfo,
    state: &TxState,
) {
    link(h, path, EtherType::IPV4);
    // An atomic datagram needs no identification (RFC 6864 §4.1); others must have one.
    let identity = if info.df { 0x4000 } else { (state.next_ip_id() & 0xffff) << 16 };
    let mut words = [
        0x4500_0000 | u32::from(info.tos) << 16 | (IPV4_HLEN + payload).min(MAX_IP) as u32,
        identity,
        u32::from(info.ttl) << 24 | u32::from(protocol) << 16,
        src.to_bits(),
        dst.to_bits(),
    ];
    words[2] |= u32::from(words.iter().fold(Sum::ZERO, |sum, word| sum.add(*word)).finish());
    for (field, word) in h[ETH_HLEN..].as_chunks_mut::<4>().0.iter_mut().zip(words) {
        *field = word.to_be_bytes();
    }
}

/// Ports and length, no checksum yet.
#[inline]
fn udp_header(to: &Encap, payload: usize, info: &SendInfo) -> [u8; UDP_HLEN] {
    let words = [info.source_port(), to.dst_port, payload.min(MAX_IP) as u16, 0];
    words.iter().fold(0, |all, word| all << 16 | u64::from(*word)).to_be_bytes()
}

#[inline]
fn link(head: &mut [u8], path: &OuterPath, ethertype: EtherType) {
    if let Some(h) = head.first_chunk_mut::<ETH_HLEN>() {
        h[..6].copy_from_slice(&path.dst_mac.0);
        h[6..12].copy_from_slice(&path.src_mac.0);
        h[12..].copy_from_slice(&ethertype.0.to_be_bytes());
    }
}

fn pseudo(src: IpAddr, dst: IpAddr, len: u32) -> u16 {
    let sum = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Sum::ZERO.pseudo_v4(src, dst, proto::UDP, 0).add(len),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::ZERO.pseudo_v6(src, dst, proto::UDP, len),
        _ => Sum::ZERO,
    };
    sum.fold()
}

/// The headers of a frame that came in by a port, seen as those around a tunnel's packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OuterHeaders {
    /// What they say. Ports are 0 for other protocols than UDP, and for fragments.
    pub outer: Outer,
    /// Where they are.
    pub ip: Headers,
}

impl OuterHeaders {
    /// Reads them.
    ///
    /// # Errors
    /// [`DropReason::NotTunnel`] without IP, [`DropReason::TunnelTruncated`] when they are malformed or cut off.
    #[inline]
    pub fn read(head: &[u8]) -> Result<OuterHeaders, DropReason> {
        match OuterHeaders::usual(head) {
            Some(usual) => Ok(usual),
            None => OuterHeaders::any(head),
        }
    }

    /// Whole IPv4 packets of UDP or GRE without options, in untagged frames: in one reading.
    #[inline]
    fn usual(head: &[u8]) -> Option<OuterHeaders> {
        let h: &[u8; LEAST_V4] = head.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let (front, total, fragment, proto) = (word(12), word(14) & 0xffff, word(18), h[23]);
        let usual = front >> 8 == 0x08_0045
            && total >= IPV4_HLEN as u32
            && fragment & 0x3fff == 0
            && matches!(proto, proto::UDP | proto::GRE);
        let ports = if proto == proto::UDP { word(34) } else { 0 };
        usual.then(|| OuterHeaders {
            outer: Outer {
                src: Ipv4Addr::from_bits(word(26)).into(),
                dst: Ipv4Addr::from_bits(word(30)).into(),
                src_port: (ports >> 16) as u16,
                dst_port: ports as u16,
                tos: front as u8,
                ttl: h[22],
                proto,
            },
            ip: Headers {
                version: IpVersion::V4,
                proto,
                fragment: Fragment::None,
                extended: false,
                l3: ETH_HLEN as u16,
                l4: L4_V4 as u16,
                end: ETH_HLEN as u32 + total,
            },
        })
    }

    /// Whatever there may be.
    fn any(head: &[u8]) -> Result<OuterHeaders, DropReason> {
        let found = InnerIp::find(head).ok_or(DropReason::NotTunnel)?;
        let ip = found.headers(head).ok_or(DropReason::TunnelTruncated)?;
        let (src, dst) = found.addresses(head).ok_or(DropReason::TunnelTruncated)?;
        let (mut src_port, mut dst_port) = (0, 0);
        if ip.proto == proto::UDP && ip.fragment == Fragment::None {
            (src_port, dst_port) = ports(head, usize::from(ip.l4)).ok_or(DropReason::TunnelTruncated)?;
        }
        let (tos, ttl) = (found.tos(head), found.ttl(head));
        Ok(OuterHeaders { outer: Outer { src, dst, src_port, dst_port, tos, ttl, proto: ip.proto }, ip })
    }
}

/// Takes Ethernet, IP and UDP off a frame that came in by a port, down to the tunnel header. Metadata that
/// belongs to the inner frame stays true. The outer VLAN tag, if any, has to be in the metadata already and
/// is removed from there.
///
/// # Errors
/// The frame is still good for other uses after [`DropReason::NotTunnel`] and [`DropReason::OuterFragment`].
pub fn open(packet: &mut Packet, zero_checksum_v6: bool) -> Result<Arrival, DropReason> {
    let headers = OuterHeaders::read(packet.head())?;
    headers.open(packet, zero_checksum_v6)
}

impl OuterHeaders {
    /// [`open()`], for the frame that these headers were read of.
    ///
    /// # Errors
    /// As [`open()`].
    #[inline]
    pub fn open(&self, packet: &mut Packet, zero_checksum_v6: bool) -> Result<Arrival, DropReason> {
        let (mut outer, ip) = (self.outer, &self.ip);
        if !matches!(ip.proto, proto::UDP | proto::GRE) {
            return Err(DropReason::NotTunnel);
        }
        if !matches!(ip.fragment, Fragment::None | Fragment::Atomic) {
            return Err(DropReason::OuterFragment);
        }
        let (l4, end, offload) = (usize::from(ip.l4), ip.end as usize, packet.meta().offload);
        let merged = offload.is_gso();
        // A superframe's length may not fit the field (see `push`).
        if !merged && !ip.is_whole(packet.len()) {
            return Err(DropReason::TunnelTruncated);
        }
        if !ipv4_header_ok(packet.head(), ip) {
            return Err(DropReason::TunnelChecksum);
        }
        let mut gone = l4;
        let mut gro = None;
        if !merged && end < packet.len() {
            packet.truncate(end);
        }
        if ip.proto == proto::UDP {
            // An atomic fragment's flow has no ports.
            if ip.fragment == Fragment::Atomic {
                (outer.src_port, outer.dst_port) =
                    ports(packet.head(), l4).ok_or(DropReason::TunnelTruncated)?;
            }
            gone += UDP_HLEN;
            let ours = matches!(offload.csum, Checksum::Partial { start, .. } if usize::from(start) == l4);
            if ours && offload.gso.kind == GsoKind::UdpL4 {
                gro = Some(offload.gso.size);
            } else if !merged {
                udp(packet, ip, ours, zero_checksum_v6)?;
            }
            if ours {
                packet.meta_mut().offload = Offload::NONE;
            }
        }
        if !packet.pull_front(gone) {
            return Err(DropReason::TunnelTruncated);
        }
        let meta = packet.meta_mut();
        meta.offload.shift(-(gone as i16));
        meta.outer = Offload::NONE;
        meta.vlan = None;
        Ok(Arrival { outer, gro })
    }
}

#[inline]
fn ports(head: &[u8], l4: usize) -> Option<(u16, u16)> {
    Some((read16(head, l4)?, read16(head, l4 + 2)?))
}

/// Length and checksum of an outer UDP datagram.
#[inline]
fn udp(packet: &mut Packet, ip: &Headers, trusted: bool, zero_checksum_v6: bool) -> Result<(), DropReason> {
    let l4 = usize::from(ip.l4);
    let len = read16(packet.head(), l4 + 4).map(usize::from).ok_or(DropReason::TunnelTruncated)?;
    let check = read16(packet.head(), l4 + UDP_CHECK).ok_or(DropReason::TunnelTruncated)?;
    if len < UDP_HLEN || len > packet.len() - l4 {
        return Err(DropReason::TunnelTruncated);
    }
    if l4 + len < packet.len() {
        packet.truncate(l4 + len);
    }
    if trusted {
        return Ok(());
    }
    if check == 0 {
        // Legal over IPv4 (RFC 768); over IPv6 only where configured (RFC 6935 §5, RFC 6936 §5).
        let legal = ip.version == IpVersion::V4 || zero_checksum_v6;
        return if legal { Ok(()) } else { Err(DropReason::TunnelZeroChecksum) };
    }
    let sum = finished_sum(packet, l4).ok_or(DropReason::TunnelChecksum)?;
    let pseudo = ip.pseudo(packet.head(), len as u32).fold();
    if sum.add(pseudo.into()).fold() == 0xffff { Ok(()) } else { Err(DropReason::TunnelChecksum) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// What is read in one go is what is found step by step.
        #[test]
        fn the_usual_is_nothing_special(
            mut frame in prop::collection::vec(any::<u8>(), 30..80), ip: bool, ihl in 4u8..7, udp: bool, whole: bool,
        ) {
            if ip {
                frame[12..15].copy_from_slice(&[8, 0, 0x40 | ihl]);
                frame[23] = if udp { proto::UDP } else { proto::GRE };
            }
            if whole {
                frame[20..22].copy_from_slice(&[0x40, 0]);
            }
            let usual = OuterHeaders::usual(&frame);
            prop_assert!(usual.is_none() || usual == OuterHeaders::any(&frame).ok());
            prop_assert_eq!(OuterHeaders::read(&frame), OuterHeaders::any(&frame));
            let all = ip && whole && ihl == 5 && frame.len() >= 42 && frame[17] >= 20;
            prop_assert!(usual.is_some() || !all);
        }
    }
}
