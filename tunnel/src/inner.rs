//! What the tunnel needs to know of the frame inside, and what it can tell of the frame that comes out.

use std::net::Ipv6Addr;

use trunkline_packet::checksum::{Sum, ipv4_header_ok, transport_ok};
use trunkline_packet::headers::{
    FlowKey, Fragment, Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, link, proto, read16, write16,
};
use trunkline_packet::{Checksum, EtherType, Gso, GsoKind, MacAddr, Offload, Packet};

use crate::{DropReason, ecn};

/// Where the checksum is in a TCP and a UDP header.
const TCP_CHECK: u16 = 16;
const UDP_CHECK: u16 = 6;

/// An IP header inside a frame, of which no more than the fixed part is known to be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InnerIp {
    pub(crate) at: usize,
    pub(crate) version: IpVersion,
}

impl InnerIp {
    /// Finds it behind the link header and its tags.
    #[inline]
    pub(crate) fn find(head: &[u8]) -> Option<InnerIp> {
        let (at, ethertype) = link(head)?;
        let (version, nibble, len) = match ethertype {
            EtherType::IPV4 => (IpVersion::V4, 4, IPV4_HLEN),
            EtherType::IPV6 => (IpVersion::V6, 6, IPV6_HLEN),
            _ => return None,
        };
        (head.get(at..at + len)?[0] >> 4 == nibble).then_some(InnerIp { at, version })
    }

    /// TOS or traffic class.
    #[inline]
    pub(crate) fn tos(self, head: &[u8]) -> u8 {
        match (self.version, read16(head, self.at).unwrap_or_default()) {
            (IpVersion::V4, word) => word as u8,
            (IpVersion::V6, word) => (word >> 4) as u8,
        }
    }

    /// TTL or hop limit.
    #[inline]
    pub(crate) fn ttl(self, head: &[u8]) -> u8 {
        let offset = if self.version == IpVersion::V4 { 8 } else { 7 };
        head.get(self.at + offset).copied().unwrap_or_default()
    }

    fn set_tos(self, head: &mut [u8], tos: u8) {
        let at = self.at;
        let old = read16(head, at).unwrap_or_default();
        match self.version {
            IpVersion::V6 => write16(head, at, old & 0xf00f | u16::from(tos) << 4),
            IpVersion::V4 => {
                let new = old & 0xff00 | u16::from(tos);
                let check = read16(head, at + 10).unwrap_or_default();
                write16(head, at, new);
                write16(head, at + 10, trunkline_packet::checksum::update(check, old, new));
            }
        }
    }
}

/// The frame about to be encapsulated.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Inner {
    /// Same for all packets of a flow.
    pub(crate) hash: u32,
    /// Traffic class and TTL, of IP.
    pub(crate) ip: Option<(u8, u8)>,
    /// Who talks to whom, in IP.
    pub(crate) flow: Option<FlowKey>,
    /// The checksum metadata points at the outermost transport header.
    pub(crate) is_plain: bool,
}

impl Inner {
    #[inline]
    pub(crate) fn examine(packet: &Packet) -> Inner {
        let head = packet.head();
        let headers = Headers::of_frame(head);
        let flow = headers.and_then(|ip| ip.flow(head));
        let ip = InnerIp::find(head).map(|ip| (ip.tos(head), ip.ttl(head)));
        let is_plain = match (packet.meta().offload.csum, headers) {
            (Checksum::Partial { start, .. }, Some(ip)) => ip.l4 == start,
            _ => true,
        };
        Inner { hash: flow.unwrap_or_else(|| link_flow(head)).hash32(), ip, flow, is_plain }
    }
}

/// The addresses of a frame without IP, dressed as a flow.
fn link_flow(head: &[u8]) -> FlowKey {
    let mac = |at: usize| {
        let mac = head.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
        Ipv6Addr::from_bits(MacAddr(mac).to_u64().into())
    };
    FlowKey {
        src: mac(6),
        dst: mac(0),
        src_port: read16(head, 12).unwrap_or_default(),
        dst_port: 0,
        proto: 0,
    }
}

/// Brings the outer congestion mark inside (RFC 6040 §4.2). Frames without IP take none.
///
/// # Errors
/// [`DropReason::TunnelEcn`].
#[inline]
pub(crate) fn take_ecn(packet: &mut Packet, outer_tos: u8) -> Result<(), DropReason> {
    let Some(ip) = InnerIp::find(packet.head()) else { return Ok(()) };
    let old = ip.tos(packet.head());
    let new = ecn::decap(outer_tos, old)?;
    if new != old {
        ip.set_tos(packet.head_mut(), new);
    }
    Ok(())
}

/// Finds out what the sender left undone in a frame that came without metadata, and writes it there.
///
/// The kernel's vxlan device hands superframes of a container over as they are: datagrams of up to 64 KiB
/// whose inner TCP checksum is only the pseudo-header sum (KERNEL-FACTS). So
/// - a TCP or UDP checksum equal to the bare pseudo-header sum is partial. Should it be finished and equal by
///   chance, no harm is done: finishing it again gives the same;
/// - a TCP packet larger than `mtu` is a superframe, whose segment size is what fits `mtu`. If its checksum
///   is finished, it has to be right. UDP has no such rule: the boundaries of its datagrams are lost.
#[inline]
pub(crate) fn infer_offload(packet: &mut Packet, mtu: u16) {
    packet.meta_mut().offload = Offload::NONE;
    let head = packet.head();
    let Some(ip) = Headers::of_frame(head) else { return };
    let (l3, l4, end) = (usize::from(ip.l3), usize::from(ip.l4), ip.end as usize);
    let Some(transport) = ip.transport_len(head).filter(|_| ip.fragment == Fragment::None) else { return };
    if !ip.is_whole(packet.len()) || end < l4 + transport {
        return;
    }
    let offset = if ip.proto == proto::TCP { TCP_CHECK } else { UDP_CHECK };
    let field = l4 + usize::from(offset);
    let pseudo = ip.pseudo(head, (end - l4) as u32).fold();
    let partial = read16(head, field) == Some(pseudo);
    let size = usize::from(mtu).saturating_sub(l4 - l3 + transport);
    let oversized = ip.proto == proto::TCP && end - l3 > usize::from(mtu) && size > 0;
    if !partial && !oversized {
        return;
    }
    // Padding would be summed too.
    packet.truncate(end);
    if !partial {
        if !ipv4_header_ok(packet.head(), &ip) || !transport_ok(packet, &ip) {
            return;
        }
        write16(packet.head_mut(), field, pseudo);
    }
    let gso = if oversized {
        const CWR: u8 = 0x80;
        let kind = if ip.version == IpVersion::V4 { GsoKind::TcpV4 } else { GsoKind::TcpV6 };
        let ecn = packet.head()[l4 + 13] & CWR != 0;
        Gso { kind, ecn, size: size as u16 }
    } else {
        Gso::default()
    };
    packet.meta_mut().offload = Offload { csum: Checksum::Partial { start: ip.l4, offset }, gso };
}

/// The transport checksum of the frame that begins at `at`, if it holds the bare pseudo-header sum (see
/// [`infer_offload`]).
#[cold]
pub(crate) fn unfinished(packet: &Packet, at: usize) -> Option<Checksum> {
    let frame = packet.head().get(at..)?;
    let ip = Headers::of_frame(frame).filter(|ip| ip.fragment == Fragment::None)?;
    ip.transport_len(frame)?;
    let (l4, end) = (usize::from(ip.l4), ip.end as usize);
    let offset = if ip.proto == proto::TCP { TCP_CHECK } else { UDP_CHECK };
    let pseudo = ip.pseudo(frame, end.checked_sub(l4)? as u32).fold();
    let found = read16(frame, l4 + usize::from(offset)) == Some(pseudo);
    found.then_some(Checksum::Partial { start: (at + l4) as u16, offset })
}

/// The sum over an encapsulated frame from `from` on as it will be once the inner checksum is finished:
/// "local checksum offload". Headers in front of the inner transport header are summed as they are; the
/// transport part with a finished checksum sums to the complement of its pseudo-header sum, which is what
/// a partial checksum field holds, so the payload is not touched.
///
/// `None` for a partial checksum that starts or is stored at an odd distance, which no real header does.
#[inline]
pub(crate) fn finished_sum(packet: &Packet, from: usize) -> Option<Sum> {
    finished_sum_of(packet, from, packet.meta().offload.csum)
}

/// The same, with what is known of the inner checksum.
pub(crate) fn finished_sum_of(packet: &Packet, from: usize, csum: Checksum) -> Option<Sum> {
    match csum {
        Checksum::Partial { start, offset } => {
            let start = usize::from(start);
            let even = |h: &&[u8]| h.len().is_multiple_of(2) && offset.is_multiple_of(2);
            let headers = packet.head().get(from..start).filter(even)?;
            let pseudo = read16(packet.head(), start + usize::from(offset))?;
            Some(Sum::ZERO.bytes(headers).sub(pseudo.into()))
        }
        _ => Some(Sum::ZERO.frame(packet, from)),
    }
}
