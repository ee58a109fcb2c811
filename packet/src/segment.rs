//! Cutting superframes into frames that an egress without segmentation offload can take, as the kernel's
//! GSO does: TCP and UDP, over IPv4 and IPv6, with VLAN tags in the bytes, IP options and extension
//! headers, and inside one layer of UDP (VXLAN, Geneve), GRE or IP-in-IP encapsulation.
//!
//! Theory of operation. The checksum start says where the innermost transport header is; whatever lies in
//! front of it is copied to every segment and put right:
//! - each IP header: length, and for IPv4 the identification (incremented) and header checksum;
//! - TCP: sequence number; FIN and PSH only on the last segment, CWR only on the first (RFC 3168 §6.1.2);
//! - UDP: length;
//! - the transport checksum field: the sender left the pseudo-header sum in it, in which only the length
//!   changes;
//! - an outer UDP or GRE header: length, and the checksum if it had one. Since the inner transport part
//!   with its finished checksum sums to the complement of its pseudo-header, the outer one needs no second
//!   look at the payload ("local checksum offload").

use crate::buf::HEAD_ROOM;
use crate::checksum::{self, Sum, TCP_CHECK, UDP_CHECK};
use crate::ether::ETH_HLEN;
use crate::headers::{
    self, Fragment, Headers, IPV6_HLEN, IpVersion, UDP_HLEN, proto, read16, write16, write32,
};
use crate::{Batch, Checksum, DropReason, Gso, GsoKind, Packet, Pool};

/// Most frames made of one superframe. 64 KiB at the smallest TCP segment that Linux makes (48 bytes of
/// payload) are 1,366; a sender that asks for more wants to make work.
pub const MAX_SEGMENTS: usize = 1400;

const GRE_CHECKSUM: u8 = 0x80;
const GRE_ROUTING_OR_SEQUENCE: u8 = 0x50;

/// Cuts a superframe into frames appended to `out`, and returns how many; a frame that is none is handed
/// on as it is. With `complete` the checksums of what is appended are finished, else left partial.
///
/// Metadata is kept, except that `frames` stays with the first segment and is 0 in the others, so that
/// sums stay true. The superframe, and on errors every segment too, goes back to the pool.
///
/// # Errors
/// [`DropReason::Unsegmentable`] when the headers are not what the metadata says or of a kind not known
/// here; [`DropReason::BadOffload`] and [`DropReason::NoBuffer`] as from what it calls.
pub fn segment(
    mut packet: Packet,
    pool: &mut Pool,
    out: &mut Batch,
    complete: bool,
) -> Result<usize, DropReason> {
    let before = out.len();
    let result = if packet.meta().offload.is_gso() {
        Plan::new(&packet).ok_or(DropReason::Unsegmentable).and_then(|plan| {
            for index in 0..plan.segments {
                let segment = plan.cut(&packet, index, pool, complete)?;
                out.push(segment);
            }
            Ok(plan.segments)
        })
    } else {
        let result = if complete { checksum::complete(&mut packet) } else { Ok(()) };
        if result.is_ok() {
            out.push(packet);
            return Ok(1);
        }
        result.map(|()| 0)
    };
    pool.put(packet);
    if result.is_err() {
        out.drain(before..).for_each(|segment| pool.put(segment));
    }
    result
}

/// Length of all headers of a superframe, up to and including the innermost transport header, for
/// [`crate::VnetHdr::from_offload`]; 0 for other frames.
#[inline]
pub fn hdr_len(packet: &Packet) -> u16 {
    let offload = &packet.meta().offload;
    let Checksum::Partial { start, .. } = offload.csum else { return 0 };
    let transport = match offload.gso.kind {
        GsoKind::None => return 0,
        GsoKind::UdpL4 => UDP_HLEN,
        GsoKind::TcpV4 | GsoKind::TcpV6 => {
            packet.head().get(usize::from(start) + 12).map_or(0, |b| usize::from(b >> 4) * 4)
        }
    };
    (usize::from(start) + transport).min(packet.head().len()) as u16
}

/// What an MTU limits: bytes behind the link header and its VLAN tags, of the frame or, for a superframe,
/// of its longest segment.
#[inline]
pub fn l3_segment_len(packet: &Packet) -> usize {
    let l2 = headers::link(packet.head()).map_or(0, |(l3, _)| l3);
    let gso = &packet.meta().offload.gso;
    let longest = match gso.kind {
        GsoKind::None => packet.len(),
        _ => packet.len().min(usize::from(hdr_len(packet)) + usize::from(gso.size)),
    };
    longest.saturating_sub(l2)
}

/// Whether a frame, or a segment of it, is larger than an MTU of so many bytes: see [`l3_segment_len`].
#[inline]
pub fn exceeds(packet: &Packet, mtu: usize) -> bool {
    // Most are shorter by far, link header and all.
    packet.len() > ETH_HLEN + mtu && l3_segment_len(packet) > mtu
}

/// Everything about a superframe that is the same for all its segments.
struct Plan {
    /// The outer IP header, if the packet is encapsulated.
    outer: Option<Headers>,
    /// The IP header in front of the transport header to segment by.
    ip: Headers,
    /// Length of all headers.
    headers: usize,
    /// Payload bytes per segment.
    size: usize,
    segments: usize,
    /// The checksum field.
    field: usize,
    /// The pseudo-header sum without the length.
    pseudo: Sum,
}

impl Plan {
    fn new(packet: &Packet) -> Option<Plan> {
        let (head, len, offload) = (packet.head(), packet.len(), packet.meta().offload);
        let Checksum::Partial { start, offset } = offload.csum else { return None };
        let (protocol, version, check) = match offload.gso.kind {
            GsoKind::None => return None,
            GsoKind::TcpV4 => (proto::TCP, Some(IpVersion::V4), TCP_CHECK),
            GsoKind::TcpV6 => (proto::TCP, Some(IpVersion::V6), TCP_CHECK),
            GsoKind::UdpL4 => (proto::UDP, None, UDP_CHECK),
        };
        let first = Headers::parse(packet)?;
        let (ip, outer) = if first.l4 == start {
            (first, None)
        } else {
            (inner(head, len, &first, usize::from(start), protocol)?, Some(first))
        };
        let l4 = usize::from(ip.l4);
        let headers = l4 + ip.transport_len(head)?;
        let field = l4 + usize::from(offset);
        let size = usize::from(offload.gso.size);
        let fits = ip.proto == protocol
            && ip.fragment == Fragment::None
            && version.is_none_or(|v| v == ip.version)
            && offset == check
            && size > 0
            && headers <= HEAD_ROOM;
        if !fits {
            return None;
        }
        let segments = (len - headers).div_ceil(size).max(1);
        let pseudo = Sum::ZERO.add(u32::from(read16(head, field)?)).sub((len - l4) as u32);
        (segments <= MAX_SEGMENTS).then_some(Plan { outer, ip, headers, size, segments, field, pseudo })
    }

    fn cut(
        &self,
        packet: &Packet,
        index: usize,
        pool: &mut Pool,
        complete: bool,
    ) -> Result<Packet, DropReason> {
        let mut segment = pool.get();
        match self.fill(packet, index, pool, complete, &mut segment) {
            Ok(()) => Ok(segment),
            Err(reason) => {
                pool.put(segment);
                Err(reason)
            }
        }
    }

    fn fill(
        &self,
        packet: &Packet,
        index: usize,
        pool: &mut Pool,
        complete: bool,
        segment: &mut Packet,
    ) -> Result<(), DropReason> {
        let at = self.headers + index * self.size;
        let payload = self.size.min(packet.len() - at);
        segment.append(&packet.head()[..self.headers], pool)?;
        segment.share_range(packet, at, payload, pool)?;
        *segment.meta_mut() = *packet.meta();
        segment.meta_mut().offload.gso = Gso::default();
        if index > 0 {
            segment.meta_mut().frames = 0;
        }

        let (len, l4) = (self.headers + payload, usize::from(self.ip.l4));
        let head = segment.head_mut();
        fix_ip(head, &self.ip, len, index);
        if self.ip.proto == proto::TCP {
            self.fix_tcp(head, index);
        } else {
            write16(head, l4 + 4, (len - l4) as u16);
        }
        let pseudo = self.pseudo.add((len - l4) as u32).fold();
        write16(head, self.field, pseudo);
        if let Some(outer) = &self.outer {
            fix_ip(head, outer, len, index);
            fix_encapsulation(head, outer, len, l4, pseudo);
        }
        if complete { checksum::complete(segment) } else { Ok(()) }
    }

    fn fix_tcp(&self, head: &mut [u8], index: usize) {
        const FIN_PSH: u8 = 0x09;
        const CWR: u8 = 0x80;
        let l4 = usize::from(self.ip.l4);
        let sequence = headers::read32(head, l4 + 4).unwrap_or_default();
        write32(head, l4 + 4, sequence.wrapping_add((index * self.size) as u32));
        if index > 0 {
            head[l4 + 13] &= !CWR;
        }
        if index + 1 < self.segments {
            head[l4 + 13] &= !FIN_PSH;
        }
    }
}

/// The IP header in front of the transport header at `l4`, inside the encapsulation that `outer` carries.
/// It is searched backwards from there, because what lies between (VXLAN, Geneve with options, GRE, an
/// inner Ethernet header or none) does not matter: an IP header is taken for one when it leads exactly to
/// `l4`, names the protocol, and ends where the frame ends.
fn inner(head: &[u8], len: usize, outer: &Headers, l4: usize, protocol: u8) -> Option<Headers> {
    let outer_l4 = usize::from(outer.l4);
    let floor = outer_l4
        + match outer.proto {
            proto::UDP => UDP_HLEN,
            proto::GRE => 4,
            proto::IPV4 | proto::IPV6 => 0,
            _ => return None,
        };
    if outer.proto == proto::GRE {
        let (flags, version) = (head.get(outer_l4)?, head.get(outer_l4 + 1)? & 7);
        // A sequence number would have to count (RFC 2890); source routes were never used (RFC 2784 §2.3).
        if flags & GRE_ROUTING_OR_SEQUENCE != 0 || version != 0 {
            return None;
        }
    }
    if outer.fragment != Fragment::None || l4.checked_sub(outer_l4)? % 2 != 0 {
        return None;
    }
    const LONGEST: usize = IPV6_HLEN + 8 * headers::MAX_EXTENSIONS;
    let nearest = l4.checked_sub(headers::IPV4_HLEN)?;
    (floor.max(l4.saturating_sub(LONGEST))..=nearest)
        .rev()
        .step_by(4)
        .filter_map(|at| Headers::ip(head, at))
        .find(|ip| usize::from(ip.l4) == l4 && ip.proto == protocol && ip.end as usize == len)
}

/// Puts an IP header right for segment `index`, whose frame is `len` bytes long.
#[inline]
pub(crate) fn fix_ip(head: &mut [u8], ip: &Headers, len: usize, index: usize) {
    let l3 = usize::from(ip.l3);
    match ip.version {
        IpVersion::V6 => write16(head, l3 + 4, (len - l3 - IPV6_HLEN) as u16),
        IpVersion::V4 => {
            let Some(h) = head.get_mut(l3..).and_then(<[u8]>::first_chunk_mut::<{ headers::IPV4_HLEN }>)
            else {
                return;
            };
            let word = |at: usize| u16::from_be_bytes([h[at], h[at + 1]]);
            let (old_len, old_id, old_check) = (word(2), word(4), word(10));
            let (new_len, new_id) = ((len - l3) as u16, old_id.wrapping_add(index as u16));
            let check = Sum::ZERO.sub(old_check.into()).sub(old_len.into()).add(new_len.into());
            let check = check.sub(old_id.into()).add(new_id.into()).finish();
            h[2..4].copy_from_slice(&new_len.to_be_bytes());
            h[4..6].copy_from_slice(&new_id.to_be_bytes());
            h[10..12].copy_from_slice(&check.to_be_bytes());
        }
    }
}

/// Puts an outer UDP or GRE header right. `pseudo` is the pseudo-header sum of the transport part at `l4`.
fn fix_encapsulation(head: &mut [u8], outer: &Headers, len: usize, l4: usize, pseudo: u16) {
    let at = usize::from(outer.l4);
    let (field, sum) = match outer.proto {
        proto::UDP => {
            write16(head, at + 4, (len - at) as u16);
            (at + usize::from(UDP_CHECK), outer.pseudo(head, (len - at) as u32))
        }
        proto::GRE if head[at] & GRE_CHECKSUM != 0 => (at + 4, Sum::ZERO),
        _ => return,
    };
    if outer.proto == proto::UDP && read16(head, field) == Some(0) {
        return;
    }
    write16(head, field, 0);
    let check = sum.bytes(&head[at..l4]).sub(pseudo.into()).finish();
    write16(head, field, if check == 0 && outer.proto == proto::UDP { 0xffff } else { check });
}
