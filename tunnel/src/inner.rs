//! What the tunnel needs to know of the frame inside, and what it can tell of the frame that comes out.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use trunkline_packet::checksum::{Sum, ipv4_header_ok, transport_ok};
use trunkline_packet::headers::{
    FlowKey, Fragment, Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, link, proto, read16, write16,
};
use trunkline_packet::plain::{L4_V4, LEAST_V4};
use trunkline_packet::{Checksum, EtherType, Gso, GsoKind, MacAddr, Offload, Packet};

use crate::{DropReason, ecn};

/// Where the checksum is in a TCP and a UDP header.
const TCP_CHECK: u16 = 16;
const UDP_CHECK: u16 = 6;
/// Behind TCP's, over IPv4 without options, in an untagged frame.
const TCP_CHECK_END: usize = L4_V4 + TCP_CHECK as usize + 2;

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

    /// All there is to know of it; `None` when it is malformed or cut off.
    #[inline]
    pub(crate) fn headers(self, head: &[u8]) -> Option<Headers> {
        Headers::ip(head, self.at)
    }

    /// Source and destination.
    #[inline]
    pub(crate) fn addresses(self, head: &[u8]) -> Option<(IpAddr, IpAddr)> {
        match self.version {
            IpVersion::V4 => {
                let (src, rest) = head.get(self.at + 12..)?.split_first_chunk::<4>()?;
                Some((Ipv4Addr::from(*src).into(), Ipv4Addr::from(*rest.first_chunk::<4>()?).into()))
            }
            IpVersion::V6 => {
                let (src, rest) = head.get(self.at + 8..)?.split_first_chunk::<16>()?;
                Some((Ipv6Addr::from(*src).into(), Ipv6Addr::from(*rest.first_chunk::<16>()?).into()))
            }
        }
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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Inner {
    /// Same for all packets of a flow.
    pub(crate) hash: u32,
    /// Traffic class and TTL, of IP.
    pub(crate) ip: Option<(u8, u8)>,
    /// The transport protocol; 0 without IP.
    pub(crate) proto: u8,
    /// Where the transport header begins; 0 without IP.
    pub(crate) l4: u16,
    /// Of UDP and TCP, when it is no fragment.
    pub(crate) dst_port: u16,
}

impl Inner {
    #[inline]
    pub(crate) fn examine(head: &[u8]) -> Inner {
        Inner::usual(head).unwrap_or_else(|| Inner::any(head))
    }

    /// Whole IPv4 packets of TCP or UDP without options, in untagged frames: in one reading.
    #[inline]
    fn usual(head: &[u8]) -> Option<Inner> {
        let h: &[u8; LEAST_V4] = head.first_chunk()?;
        let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
        let (front, fragment, proto) = (word(12), word(18), h[23]);
        let usual = front >> 8 == 0x08_0045
            && word(14) & 0xffff >= IPV4_HLEN as u32
            && fragment & 0x3fff == 0
            && matches!(proto, proto::TCP | proto::UDP);
        let (src, dst, ports) = (word(26), word(30), word(34));
        usual.then(|| Inner {
            hash: FlowKey::hash32_v4(src, dst, ports, proto),
            ip: Some((front as u8, h[22])),
            proto,
            l4: L4_V4 as u16,
            dst_port: ports as u16,
        })
    }

    /// Whatever there may be.
    fn any(head: &[u8]) -> Inner {
        let found = InnerIp::find(head);
        let headers = found.and_then(|ip| ip.headers(head));
        let flow = headers.and_then(|ip| ip.flow(head));
        Inner {
            hash: flow.unwrap_or_else(|| link_flow(head)).hash32(),
            ip: found.map(|ip| (ip.tos(head), ip.ttl(head))),
            proto: flow.map_or(0, |flow| flow.proto),
            l4: headers.map_or(0, |ip| ip.l4),
            dst_port: flow.map_or(0, |flow| flow.dst_port),
        }
    }

    /// Whether checksum metadata points at the outermost transport header.
    pub(crate) fn is_plain(&self, csum: Checksum) -> bool {
        match csum {
            Checksum::Partial { start, .. } => self.l4 == 0 || self.l4 == start,
            _ => true,
        }
    }

    /// Whether it begins or accepts a TCP connection.
    #[inline]
    pub(crate) fn is_syn(&self, head: &[u8]) -> bool {
        const SYN: u8 = 0x02;
        self.proto == proto::TCP && head.get(usize::from(self.l4) + 13).is_some_and(|flags| flags & SYN != 0)
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

/// Whether nothing is to be done to a frame that comes out of a tunnel, neither by [`take_ecn`] nor by
/// [`infer_offload`], nor to its maximum segment size: a whole IPv4 packet of TCP or UDP without options, no superframe,
/// its checksum finished. All of it in one reading.
#[inline]
pub(crate) fn is_settled(packet: &Packet, outer_tos: u8, mtu: u16) -> bool {
    let Some(h) = packet.head().first_chunk::<TCP_CHECK_END>() else { return false };
    let word = |at: usize| u32::from_be_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let (front, total, fragment, proto) = (word(12), word(14) & 0xffff, word(18), h[23]);
    const SYN: u8 = 0x02;
    let (check, quiet) = match proto {
        proto::UDP => (word(38) as u16, true),
        proto::TCP => (word(48) as u16, total <= u32::from(mtu) && h[47] & SYN == 0),
        _ => return false,
    };
    let addresses = Sum::ZERO.add(word(26)).add(word(30));
    let pseudo = addresses.add(u32::from(proto)).add(total.wrapping_sub(IPV4_HLEN as u32) & 0xffff).fold();
    front >> 8 == 0x08_0045
        && total >= IPV4_HLEN as u32
        && fragment & 0x3fff == 0
        && quiet
        && check != pseudo
        && outer_tos & ecn::MASK == 0
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mtu::mss;
    use proptest::prelude::*;
    use trunkline_packet::Pool;

    proptest! {
        /// What is left alone is what nothing would be done to.
        #[test]
        fn the_settled_is_as_it_should_be(
            mut frame in prop::collection::vec(any::<u8>(), 50..90), tcp: bool, syn: bool, len in 20u8..80,
            mtu in 40u16..80, outer_tos in 0u8..4, partial: bool,
        ) {
            frame[12..18].copy_from_slice(&[8, 0, 0x45, 0, 0, len]);
            frame[20..22].copy_from_slice(&[0x40, 0]);
            frame[23] = if tcp { proto::TCP } else { proto::UDP };
            if tcp {
                (frame[46], frame[47]) = (0x50, if syn { 0x02 } else { 0x10 });
            }
            let at = if tcp { 50 } else { 40 };
            if let Some(ip) = Headers::of_frame(&frame).filter(|_| partial && at + 2 <= frame.len()) {
                let pseudo = ip.pseudo(&frame, u32::from(len) - 20).fold();
                write16(&mut frame, at, pseudo);
            }
            let mut pool = Pool::new(1, 1);
            let mut p = pool.get();
            p.set_bytes(&frame, &mut pool).unwrap();
            let settled = is_settled(&p, outer_tos, mtu);
            prop_assert!(settled || partial || tcp || outer_tos != 0 || frame.len() < TCP_CHECK_END
                || Headers::of_frame(&frame).is_some_and(|ip| ip.pseudo(&frame, u32::from(len) - 20).fold() == read16(&frame, at).unwrap_or_default()));
            if settled {
                prop_assert!(!partial || Headers::of_frame(&frame).is_none());
                prop_assert_eq!(take_ecn(&mut p, outer_tos), Ok(()));
                infer_offload(&mut p, mtu);
                prop_assert!(!mss::clamp(&mut p, mtu));
                prop_assert_eq!(p.to_vec(), frame);
                prop_assert_eq!(p.meta().offload, Offload::NONE);
            }
        }

        /// What is read in one go is what is found step by step.
        #[test]
        fn the_usual_is_nothing_special(
            mut frame in prop::collection::vec(any::<u8>(), 30..80), ip: bool, ihl in 4u8..7, tcp: bool, whole: bool,
        ) {
            if ip {
                frame[12..15].copy_from_slice(&[8, 0, 0x40 | ihl]);
                frame[16] = 0;
                frame[23] = if tcp { proto::TCP } else { proto::UDP };
            }
            if whole {
                frame[20..22].copy_from_slice(&[0x40, 0]);
            }
            let usual = Inner::usual(&frame);
            prop_assert!(usual.is_none() || usual == Some(Inner::any(&frame)));
            prop_assert_eq!(Inner::examine(&frame), Inner::any(&frame));
            let all = ip && whole && ihl == 5 && frame.len() >= 42 && frame[17] >= 20;
            prop_assert!(usual.is_some() || !all);
        }
    }
}
