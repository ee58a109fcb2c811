//! From what the underlay received to the inner frame.

use trunkline_packet::checksum::Sum;
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::headers::{proto, read16};
use trunkline_packet::segment::MAX_SEGMENTS;
use trunkline_packet::{
    Arrival, Batch, DropReason, Offload, Outer, Packet, Pool, PortId, Tpid, VlanTag, merge_train, pop_tag,
};

use crate::config::InnerVlan;
use crate::geneve::GeneveHeader;
use crate::gre::{self, GreHeader, TEB};
use crate::inner::{finished_sum, finished_sum_of, infer_offload, is_settled, take_ecn, unfinished};
use crate::mtu::mss;
use crate::table::{Match, Tunnel, Tunnels};
use crate::{DropCounts, Kind, vxlan};

/// Bytes of each of several merged datagrams that are copied: all headers, the tunnel's and those inside. The
/// rest is shared.
const FRONT: usize = 512;

/// Takes a packet that begins with a tunnel header (a UDP payload, or what a raw socket shows behind the IP
/// header) to its inner frame: `in_port` is the tunnel's port, the VLAN tag is in the metadata, and so is
/// what the sender left undone.
///
/// # Errors
/// `in_port` is the tunnel's port then, where it was found; the rest is in no particular state.
#[inline]
pub fn decap(packet: &mut Packet, outer: &Outer, tunnels: &Tunnels) -> Result<(), DropReason> {
    let (found, len, gre) = match outer.proto {
        proto::GRE => gre_header(packet, outer, tunnels)?,
        _ => udp(packet, outer, tunnels)?,
    };
    packet.meta_mut().in_port = found.tunnel.endpoint().port;
    if packet.len() < len + ETH_HLEN || !packet.pull_front(len) || packet.head().len() < ETH_HLEN {
        return Err(DropReason::InnerTooShort);
    }
    let meta = packet.meta_mut();
    meta.offload.shift(-(len as i16));
    meta.outer = Offload::NONE;
    meta.vlan = None;
    let endpoint = found.tunnel.endpoint();
    let unaided = !packet.meta().offload.is_gso() && packet.meta().offload.csum.is_full();
    if unaided && is_settled(packet, outer.tos, endpoint.inner_mtu) {
        packet.meta_mut().offload = Offload::NONE;
    } else {
        settle(packet, outer, found.tunnel, unaided)?;
    }
    if let Some(vid) = found.vlan.filter(|vid| vid.get() != 0) {
        packet.meta_mut().vlan = Some(VlanTag::new(Tpid::Customer, vid, 0));
    }
    // Last, so that only packets that pass move the window.
    match gre.and_then(|gre| gre.sequence) {
        Some(sequence) if endpoint.gre_sequence => endpoint.state.rx.accept(sequence),
        None if endpoint.gre_sequence => Err(DropReason::GreSequence),
        _ => Ok(()),
    }
}

/// Sees to the inner frame's tag, congestion mark, what its sender left undone, and its maximum segment size.
/// `unaided`: there is no metadata about it.
fn settle(packet: &mut Packet, outer: &Outer, tunnel: &Tunnel, unaided: bool) -> Result<(), DropReason> {
    match tunnel.inner_vlan() {
        InnerVlan::Keep => pop_tag(packet)?,
        InnerVlan::Strip if has_tag(packet) => return Err(DropReason::InnerTag),
        InnerVlan::Strip => {}
    }
    take_ecn(packet, outer.tos)?;
    let endpoint = tunnel.endpoint();
    if unaided {
        infer_offload(packet, endpoint.inner_mtu);
    } else {
        // From a port: the metadata was the inner frame's all along.
        packet.meta().offload.check(packet.len())?;
    }
    if endpoint.mss_clamp {
        mss::clamp(packet, endpoint.inner_mtu);
    }
    Ok(())
}

/// Hears of packets that [`decap_all`] refuses.
pub trait Refusals {
    /// One, of this tunnel's port; [`PortId::NONE`] when it belongs to no tunnel.
    fn refuse(&mut self, port: PortId, reason: DropReason);
}

impl Refusals for DropCounts {
    fn refuse(&mut self, _: PortId, reason: DropReason) {
        self.count(reason);
    }
}

/// Takes what an underlay received, one datagram or several merged ones, and appends the inner frames to
/// `out`: one superframe of all of them where that is possible (see [`trunkline_packet::train`]), whose metadata says
/// how many they were. Refusals are reported, their packets go back to the pool.
pub fn decap_all(
    mut packet: Packet,
    opened: &Arrival,
    tunnels: &Tunnels,
    pool: &mut Pool,
    out: &mut Batch,
    refusals: &mut impl Refusals,
) {
    let len = packet.len();
    let size = opened.gro.map_or(len, usize::from);
    if len <= size {
        // A lone datagram, whose metadata (if any) is the inner frame's.
        return match decap(&mut packet, &opened.outer, tunnels) {
            Ok(()) => out.push(packet),
            Err(refusal) => refuse(packet, refusal, pool, refusals),
        };
    }
    let mut take = |mut packet: Packet, filled: Result<(), DropReason>, pool: &mut Pool| match filled
        .and_then(|()| decap(&mut packet, &opened.outer, tunnels))
    {
        Ok(()) => out.push(packet),
        Err(refusal) => refuse(packet, refusal, pool, refusals),
    };
    if let Some((found, skip)) = found_by_first(&mut packet, &opened.outer, tunnels)
        && merge_train(&mut packet, size, skip, found.tunnel.endpoint().inner_mtu)
    {
        return take(packet, Ok(()), pool);
    }
    if size == 0 || len.div_ceil(size) > MAX_SEGMENTS {
        return take(packet, Err(DropReason::BadOffload), pool);
    }
    for at in (0..len).step_by(size) {
        let mut datagram = pool.get();
        let (whole, front) = (size.min(len - at), FRONT.min(len - at).min(size));
        let filled = datagram
            .append_range(&packet, at, front, pool)
            .and_then(|()| datagram.share_range(&packet, at + front, whole - front, pool));
        take(datagram, filled, pool);
    }
    pool.put(packet);
}

#[cold]
fn refuse(packet: Packet, refusal: DropReason, pool: &mut Pool, refusals: &mut impl Refusals) {
    // A train is refused as the datagrams that it was.
    (0..packet.meta().frames).for_each(|_| refusals.refuse(packet.meta().in_port, refusal));
    pool.put(packet);
}

/// The tunnel of a train's first datagram, and the length of its tunnel header.
#[inline]
fn found_by_first<'a>(
    packet: &mut Packet,
    outer: &Outer,
    tunnels: &'a Tunnels,
) -> Option<(Match<'a>, usize)> {
    let (found, len, _) =
        if outer.proto == proto::UDP { udp(packet, outer, tunnels).ok()? } else { return None };
    Some((found, len))
}

type Parsed<'a> = (Match<'a>, usize, Option<GreHeader>);

#[inline]
fn udp<'a>(packet: &mut Packet, outer: &Outer, tunnels: &'a Tunnels) -> Result<Parsed<'a>, DropReason> {
    let head = packet.head();
    match tunnels.kind_of_port(outer.dst_port) {
        Some(Kind::Vxlan) => {
            let vni = vxlan::parse(head)?;
            Ok((tunnels.udp(Kind::Vxlan, outer, vni)?, vxlan::LEN, None))
        }
        Some(Kind::Geneve) => {
            let (header, len) = GeneveHeader::parse(head)?;
            let found = tunnels.udp(Kind::Geneve, outer, header.vni)?;
            let checked = match (header.control, header.protocol) {
                (true, _) => Err(DropReason::GeneveControl),
                (false, TEB) => header.check_options(),
                _ => Err(DropReason::TunnelNotEthernet),
            };
            // Whose it is, is known now, also if it is refused.
            packet.meta_mut().in_port = found.tunnel.endpoint().port;
            checked.map(|_| (found, len, None))
        }
        _ => Err(DropReason::NotTunnel),
    }
}

#[inline]
fn gre_header<'a>(
    packet: &mut Packet,
    outer: &Outer,
    tunnels: &'a Tunnels,
) -> Result<Parsed<'a>, DropReason> {
    let (header, len) = GreHeader::parse(packet.head())?;
    let found = tunnels.gre(outer, header.key)?;
    // Whose it is, is known now, also if it is refused.
    packet.meta_mut().in_port = found.tunnel.endpoint().port;
    if header.protocol != TEB {
        return Err(DropReason::TunnelNotEthernet);
    }
    let wrong = if header.checksum {
        // The checksum of a superframe is filled in as it is cut. A Linux sender leaves 0 to be filled in by its
        // NIC; from a sender on this machine (a guest, a container) it comes so, and Linux takes it, too.
        let unfinished = packet.meta().offload.is_gso() || read16(packet.head(), gre::CHECKSUM_AT) == Some(0);
        !unfinished && !sums_up(packet, len)
    } else {
        found.tunnel.endpoint().gre_checksum
    };
    if wrong { Err(DropReason::TunnelChecksum) } else { Ok((found, len, Some(header))) }
}

/// Whether the GRE checksum is right, for the inner frame as it is or, from a sender on this machine, as it will
/// be when its own checksum is finished.
fn sums_up(packet: &Packet, len: usize) -> bool {
    let right = |sum: Option<Sum>| sum.is_some_and(|sum| sum.fold() == 0xffff);
    right(finished_sum(packet, 0))
        || packet.meta().offload.csum.is_full()
            && unfinished(packet, len).is_some_and(|csum| right(finished_sum_of(packet, 0, csum)))
}

fn has_tag(packet: &Packet) -> bool {
    read16(packet.head(), 12).and_then(Tpid::from_ethertype).is_some()
}
