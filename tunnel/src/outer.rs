//! The outer Ethernet, IP and UDP headers, for a port as the underlay: written by [`crate::encap_frame`], taken off by
//! [`open`].

use std::net::IpAddr;

use trunkline_packet::checksum::{Sum, ipv4_header_ok};
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::headers::{
    Fragment, Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, UDP_HLEN, proto, read16, write16,
};
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
    head[..6].copy_from_slice(&path.dst_mac.0);
    head[6..12].copy_from_slice(&path.src_mac.0);
    let ethertype = if to.remote.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
    write16(head, 12, ethertype.0);
    let protocol = protocol(to.header.kind());
    match (path.src, to.remote) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let h = &mut head[l3..l4];
            h.fill(0);
            (h[0], h[1], h[8], h[9]) = (0x45, info.tos, info.ttl, protocol);
            write16(h, 2, (ip_len + payload).min(MAX_IP) as u16);
            // An atomic datagram needs no identification (RFC 6864 §4.1); others must have one.
            if info.df {
                h[6] = 0x40;
            } else {
                write16(h, 4, state.next_ip_id() as u16);
            }
            h[12..16].copy_from_slice(&src.octets());
            h[16..20].copy_from_slice(&dst.octets());
            let check = Sum::ZERO.bytes(h).finish();
            write16(h, 10, check);
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let h = &mut head[l3..l4];
            let word = 6 << 28 | u32::from(info.tos) << 20 | info.flow_label();
            h[..4].copy_from_slice(&word.to_be_bytes());
            write16(h, 4, payload.min(MAX_IP) as u16);
            (h[6], h[7]) = (protocol, info.ttl);
            h[8..24].copy_from_slice(&src.octets());
            h[24..40].copy_from_slice(&dst.octets());
        }
        _ => return Err(DropReason::BadOffload),
    }
    if udp > 0 {
        let h = &mut head[l4..l4 + UDP_HLEN];
        write16(h, 0, info.source_port());
        write16(h, 2, to.dst_port);
        write16(h, 4, payload.min(MAX_IP) as u16);
        write16(h, UDP_CHECK, 0);
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

fn pseudo(src: IpAddr, dst: IpAddr, len: u32) -> u16 {
    let sum = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => Sum::ZERO.pseudo_v4(src, dst, proto::UDP, 0).add(len),
        (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::ZERO.pseudo_v6(src, dst, proto::UDP, len),
        _ => Sum::ZERO,
    };
    sum.fold()
}

/// Takes Ethernet, IP and UDP off a frame that came in by a port, down to the tunnel header. Metadata that
/// belongs to the inner frame stays true. The outer VLAN tag, if any, has to be in the metadata already and
/// is removed from there.
///
/// # Errors
/// The frame is still good for other uses after [`DropReason::NotTunnel`] and [`DropReason::OuterFragment`].
pub fn open(packet: &mut Packet, zero_checksum_v6: bool) -> Result<Arrival, DropReason> {
    let head = packet.head();
    let found = InnerIp::find(head).ok_or(DropReason::NotTunnel)?;
    let ip = Headers::ip(head, found.at).ok_or(DropReason::TunnelTruncated)?;
    if !matches!(ip.proto, proto::UDP | proto::GRE) {
        return Err(DropReason::NotTunnel);
    }
    if !matches!(ip.fragment, Fragment::None | Fragment::Atomic) {
        return Err(DropReason::OuterFragment);
    }
    let flow = ip.flow(head).ok_or(DropReason::TunnelTruncated)?;
    let (l4, end, offload) = (usize::from(ip.l4), ip.end as usize, packet.meta().offload);
    let merged = offload.is_gso();
    // A superframe's length may not fit the field (see `push`).
    if !merged && !ip.is_whole(packet.len()) {
        return Err(DropReason::TunnelTruncated);
    }
    if !ipv4_header_ok(head, &ip) {
        return Err(DropReason::TunnelChecksum);
    }
    let unmap = |addr: std::net::Ipv6Addr| match ip.version {
        IpVersion::V4 => addr.to_canonical(),
        IpVersion::V6 => IpAddr::V6(addr),
    };
    let mut outer = Outer {
        src: unmap(flow.src),
        dst: unmap(flow.dst),
        src_port: 0,
        dst_port: 0,
        tos: found.tos(head),
        ttl: found.ttl(head),
        proto: ip.proto,
    };
    let mut gone = l4;
    let mut gro = None;
    if !merged {
        packet.truncate(end);
    }
    if ip.proto == proto::UDP {
        // An atomic fragment's flow has no ports.
        (outer.src_port, outer.dst_port) = ports(packet.head(), l4).ok_or(DropReason::TunnelTruncated)?;
        gone += UDP_HLEN;
        let ours = matches!(offload.csum, Checksum::Partial { start, .. } if usize::from(start) == l4);
        if ours && offload.gso.kind == GsoKind::UdpL4 {
            gro = Some(offload.gso.size);
        } else if !merged {
            udp(packet, &ip, ours, zero_checksum_v6)?;
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

fn ports(head: &[u8], l4: usize) -> Option<(u16, u16)> {
    Some((read16(head, l4)?, read16(head, l4 + 2)?))
}

/// Length and checksum of an outer UDP datagram.
fn udp(packet: &mut Packet, ip: &Headers, trusted: bool, zero_checksum_v6: bool) -> Result<(), DropReason> {
    let l4 = usize::from(ip.l4);
    let len = read16(packet.head(), l4 + 4).map(usize::from).ok_or(DropReason::TunnelTruncated)?;
    let check = read16(packet.head(), l4 + UDP_CHECK).ok_or(DropReason::TunnelTruncated)?;
    if len < UDP_HLEN || len > packet.len() - l4 {
        return Err(DropReason::TunnelTruncated);
    }
    packet.truncate(l4 + len);
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
