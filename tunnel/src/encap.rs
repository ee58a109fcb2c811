//! From an inner frame to what a tunnel sends.
//!
//! Two ways out. *Datagrams* are for kernel sockets: tunnel header and inner frame, the kernel adds UDP and
//! IP (for GRE a raw socket adds IP); the kernel does not see the inner headers, so superframes are cut and
//! checksums finished here. *Frames* are for a port as the underlay: the whole outer packet is written, and
//! a superframe stays one, since its metadata still leads to the inner transport header.

use std::net::IpAddr;

use trunkline_packet::headers::Headers;
use trunkline_packet::{Batch, Checksum, DropReason, Offload, Packet, Pool, pop_tag, push_tag, segment};

use crate::config::{Encap, InnerVlan, Tos, Ttl, TxState};
use crate::inner::{Inner, finished_sum};
use crate::mtu::mss;
use crate::outer::{self, OuterPath};
use crate::{ecn, gre};

/// How the underlay is to send a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SendInfo {
    /// Outer traffic class.
    pub tos: u8,
    /// Outer TTL or hop limit.
    pub ttl: u8,
    /// Outer "don't fragment".
    pub df: bool,
    /// Same for all packets of an inner flow.
    pub hash: u32,
}

/// The first dynamic port.
pub(crate) const FIRST_SOURCE_PORT: u16 = 49152;

impl SendInfo {
    /// The UDP source port: entropy from the inner flow, of the dynamic range (RFC 7348 §5, RFC 8926 §3.3).
    #[inline]
    pub const fn source_port(&self) -> u16 {
        FIRST_SOURCE_PORT | self.hash as u16 & 0x3fff
    }

    /// The outer IPv6 flow label, for the same purpose (RFC 6438).
    #[inline]
    pub(crate) const fn flow_label(&self) -> u32 {
        self.hash >> 12
    }
}

/// Encapsulates for a kernel socket and appends to `out`: UDP payloads, or GRE packets from the GRE header
/// on. A superframe becomes several, all of the same length but a shorter last one.
///
/// # Errors
/// Nothing is appended then, and the packet goes back to the pool.
pub fn encap_datagrams(
    mut packet: Packet,
    to: &Encap,
    state: &TxState,
    pool: &mut Pool,
    out: &mut Batch,
) -> Result<SendInfo, DropReason> {
    let info = match prepare(&mut packet, to) {
        Ok((info, _)) => info,
        Err(refusal) => {
            pool.put(packet);
            return Err(refusal);
        }
    };
    let before = out.len();
    segment(packet, pool, out, true)?;
    finish(out, before, pool, |packet| {
        push_header(packet, to, &info, state)?;
        packet.meta_mut().offload = Offload::NONE;
        Ok(())
    })?;
    Ok(info)
}

/// Encapsulates for a port and appends whole outer frames to `out`: one, unless a superframe cannot be sent
/// as one behind this header.
///
/// # Errors
/// Nothing is appended then, and the packet goes back to the pool.
pub fn encap_frame(
    mut packet: Packet,
    to: &Encap,
    path: &OuterPath,
    state: &TxState,
    pool: &mut Pool,
    out: &mut Batch,
) -> Result<SendInfo, DropReason> {
    let step = |packet: &mut Packet, info: &SendInfo| {
        if outer::push_usual(packet, to, path, info, state).is_none() {
            push_header(packet, to, info, state)?;
            outer::push(packet, to, path, info, state)?;
        }
        packet.meta_mut().vlan = path.vlan;
        Ok(())
    };
    let done = prepare(&mut packet, to).and_then(|(info, inner)| {
        // Segmentation puts right two layers of headers, and does not count sequence numbers.
        let offload = &packet.meta().offload;
        let apart = offload.is_gso() && (to.header.has_sequence() || !inner.is_plain(offload.csum));
        if !apart {
            step(&mut packet, &info)?;
        }
        Ok((info, apart))
    });
    match done {
        Ok((info, false)) => {
            out.push(packet);
            Ok(info)
        }
        Ok((info, true)) => {
            let before = out.len();
            segment(packet, pool, out, false)?;
            finish(out, before, pool, |packet| step(packet, &info))?;
            Ok(info)
        }
        Err(refusal) => {
            pool.put(packet);
            Err(refusal)
        }
    }
}

/// Does `step` to the packets appended since `before`, or gives them all back to the pool.
#[inline]
fn finish(
    out: &mut Batch,
    before: usize,
    pool: &mut Pool,
    step: impl FnMut(&mut Packet) -> Result<(), DropReason>,
) -> Result<(), DropReason> {
    let done = out[before..].iter_mut().try_for_each(step);
    if done.is_err() {
        out.drain(before..).for_each(|packet| pool.put(packet));
    }
    done
}

/// Settles the inner tag and everything that is the same for all segments.
#[inline]
fn prepare(packet: &mut Packet, to: &Encap) -> Result<(SendInfo, Inner), DropReason> {
    match to.inner_vlan {
        InnerVlan::Keep => push_tag(packet)?,
        InnerVlan::Strip => {
            packet.meta_mut().vlan = None;
            pop_tag(packet)?;
            if packet.meta_mut().vlan.take().is_some() {
                return Err(DropReason::InnerTag);
            }
        }
    }
    if packet.head().len() < trunkline_packet::ether::ETH_HLEN {
        return Err(DropReason::InnerTooShort);
    }
    if packet.meta().offload != Offload::NONE {
        packet.meta().offload.check(packet.len())?;
    }
    let inner = Inner::examine(packet.head());
    let kind = to.header.kind();
    if inner.proto == outer::protocol(kind)
        && (!kind.is_udp() || inner.dst_port == to.dst_port)
        && is_between(packet.head(), to)
    {
        return Err(DropReason::TunnelLoop);
    }
    if let Some(mtu) = to.mss_clamp.filter(|_| inner.is_syn(packet.head())) {
        mss::clamp(packet, mtu);
    }
    let (inner_tos, inner_ttl) = inner.ip.unwrap_or((0, Ttl::DEFAULT));
    let dscp = match to.tos {
        Tos::Inherit => inner_tos,
        Tos::Fixed(tos) => tos,
    };
    let ttl = match to.ttl {
        Ttl::Inherit => inner_ttl,
        Ttl::Fixed(ttl) => ttl,
    };
    Ok((SendInfo { tos: ecn::encap(dscp, inner_tos), ttl, df: to.df, hash: inner.hash }, inner))
}

/// Whether a packet is from our end of a tunnel to the other one, as far as ours is known.
#[cold]
fn is_between(head: &[u8], to: &Encap) -> bool {
    let flow = Headers::of_frame(head).and_then(|ip| ip.flow(head));
    flow.zip(to.local).is_some_and(|(flow, local)| mapped(local) == flow.src && mapped(to.remote) == flow.dst)
}

fn mapped(addr: IpAddr) -> std::net::Ipv6Addr {
    match addr {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// Puts the tunnel header in front.
#[inline]
fn push_header(packet: &mut Packet, to: &Encap, info: &SendInfo, state: &TxState) -> Result<(), DropReason> {
    let len = to.header.len();
    let head = packet.push_front(len).ok_or(DropReason::NoBuffer)?;
    to.header.write(head, info.hash, state);
    packet.meta_mut().offload.shift(len as i16);
    if to.header.has_checksum() {
        let check = finished(packet, 0)?.finish();
        packet.head_mut()[gre::CHECKSUM_AT..gre::CHECKSUM_AT + 2].copy_from_slice(&check.to_be_bytes());
    }
    Ok(())
}

/// [`finished_sum`], finishing a checksum that it cannot work with.
#[inline]
pub(crate) fn finished(
    packet: &mut Packet,
    from: usize,
) -> Result<trunkline_packet::checksum::Sum, DropReason> {
    if let Some(sum) = finished_sum(packet, from) {
        return Ok(sum);
    }
    trunkline_packet::checksum::complete(packet)?;
    finished_sum(packet, from).ok_or(DropReason::BadOffload)
}

/// The metadata of an outer header that is complete.
pub(crate) const OUTER_DONE: Offload = Offload { csum: Checksum::Valid, ..Offload::NONE };
