//! The VLAN rules: in which VLAN a frame is, and with which tag it leaves (IEEE 802.1Q §8.6,
//! `ovs-vswitchd.conf.db(5)`, Port, VLAN Configuration).
//!
//! Decisions where those leave a choice:
//! - The outermost tag counts, whether its TPID is that of a C-TAG or an S-TAG; both share one space of
//!   VLANs, as in Open vSwitch. A tag that stays keeps its TPID.
//! - No tag is ever taken off to uncover another, except at a tunnel port, whose purpose that is. Otherwise a
//!   station in one VLAN could write a second tag that the next switch takes for the first. So an access
//!   port takes no double-tagged frame in either direction, a native-untagged port sends one with its
//!   native tag on, and a priority tag in front of another tag is malformed.
//! - Priority tags are removed, their priority is kept and leaves with the next tag.
//! - The S-TAG of a tunnel port has the priority of the customer's tag.

use trunkline_packet::ether::{ETH_HLEN, ETH_ZLEN};
use trunkline_packet::{
    DropReason, GsoKind, MacAddr, Packet, Pool, Tpid, VlanId, VlanTag, pop_tag, push_tag,
};

use crate::{PortConfig, VlanMode};

/// Bytes of a tag.
const TAG: usize = 4;

/// The link header and the tag in the metadata: all that the decision on a frame without further tags rests on.
/// In words, since two are compared and taken apart for every packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Link {
    /// The first eight bytes: the destination above two bytes of the source.
    front: u64,
    /// The source above the type.
    back: u64,
    /// 0: none.
    tag: u32,
}

impl Link {
    /// `None` for a frame without a whole header.
    #[inline]
    pub(crate) fn of(packet: &Packet) -> Option<Link> {
        let header: &[u8; ETH_HLEN] = packet.head().first_chunk()?;
        let tag = match packet.meta().vlan {
            None => 0,
            Some(VlanTag { tpid, tci }) => u32::from(tpid.ethertype()) << 16 | u32::from(tci),
        };
        Some(Link {
            front: u64::from_be_bytes(*header.first_chunk()?),
            back: u64::from_be_bytes(*header.last_chunk()?),
            tag,
        })
    }

    #[inline]
    pub(crate) fn destination(&self) -> MacAddr {
        MacAddr::from_u64(self.front >> 16)
    }

    #[inline]
    pub(crate) fn source(&self) -> MacAddr {
        MacAddr::from_u64(self.back >> 16)
    }

    /// Whether another tag follows, in the bytes.
    #[inline]
    pub(crate) fn has_inner_tag(&self) -> bool {
        Tpid::from_ethertype(self.back as u16).is_some()
    }
}

/// What ingress found out about a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Frame {
    /// The VLAN it is in.
    pub(crate) vid: VlanId,
    /// The tag it leaves with where it leaves tagged.
    tag: VlanTag,
    /// The VID of a further tag, in the bytes. May be the reserved 4095.
    inner: Option<u16>,
    /// Came with a tag, not counting a customer's.
    tagged: bool,
}

impl Frame {
    /// Of no frame.
    pub(crate) const NONE: Frame = Frame {
        vid: VlanId::NONE,
        tag: VlanTag::new(Tpid::Customer, VlanId::NONE, 0),
        inner: None,
        tagged: false,
    };
}

/// How a frame leaves by a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Leave {
    /// Without the tag of its VLAN.
    Untagged,
    /// With it.
    Tagged,
    /// Without the service tag, the customer's tag outermost again.
    Customer,
}

/// Classifies a frame that came in by `port`, its outermost tag in the metadata. The customer's tag of a
/// tunnel port is in the bytes afterwards.
#[inline]
pub(crate) fn ingress(port: &PortConfig, packet: &mut Packet, link: &Link) -> Result<Frame, DropReason> {
    if link.source().is_group() || link.source().is_zero() {
        return Err(DropReason::BadSource);
    }
    if link.destination().is_reserved_group() {
        return Err(DropReason::ReservedMac);
    }
    let mut inner = None;
    if link.has_inner_tag() {
        if packet.meta().vlan.is_none() {
            pop_tag(packet)?;
        }
        inner = next_tag(packet.head())?;
    }
    let outer = packet.meta().vlan;
    let mut tag = outer.unwrap_or_default();
    let on_wire = tag.vid().ok_or(DropReason::BadVlan)?;
    if on_wire == VlanId::NONE
        && inner.is_some()
        && !matches!(port.vlan_mode, VlanMode::Access | VlanMode::Dot1qTunnel)
    {
        return Err(DropReason::BadVlan);
    }
    let (vid, allowed) = match port.vlan_mode {
        VlanMode::Access => (port.tag, on_wire == VlanId::NONE && inner.is_none()),
        VlanMode::Trunk => (on_wire, port.trunks.contains(on_wire)),
        VlanMode::NativeTagged | VlanMode::NativeUntagged if on_wire == VlanId::NONE => (port.tag, true),
        VlanMode::NativeTagged | VlanMode::NativeUntagged => (on_wire, carries(port, on_wire)),
        VlanMode::Dot1qTunnel => (port.tag, port.trunks.contains(on_wire)),
    };
    if !allowed {
        return Err(DropReason::VlanFiltered);
    }
    if port.vlan_mode == VlanMode::Dot1qTunnel {
        inner = outer.map(|_| on_wire.get());
        push_tag(packet)?;
        tag.tpid = Tpid::Service;
    }
    let tag = VlanTag::new(tag.tpid, vid, tag.priority());
    let tagged = outer.is_some() && port.vlan_mode != VlanMode::Dot1qTunnel;
    Ok(Frame { vid, tag, inner, tagged })
}

#[inline]
fn is_tag(a: u8, b: u8) -> bool {
    Tpid::from_ethertype(u16::from_be_bytes([a, b])).is_some()
}

/// The VID of the tag at the front of the bytes, if there is one.
#[cold]
fn next_tag(head: &[u8]) -> Result<Option<u16>, DropReason> {
    if head.len() < ETH_HLEN {
        return Err(DropReason::Truncated);
    }
    if !is_tag(head[12], head[13]) {
        return Ok(None);
    }
    match head.get(14..ETH_HLEN + TAG) {
        Some(rest) => Ok(Some(u16::from_be_bytes([rest[0], rest[1]]) & 0xfff)),
        None => Err(DropReason::Truncated),
    }
}

/// Whether the port is a member of the VLAN.
#[inline]
pub(crate) fn carries(port: &PortConfig, vid: VlanId) -> bool {
    match port.vlan_mode {
        VlanMode::Access | VlanMode::Dot1qTunnel => vid == port.tag,
        VlanMode::Trunk => port.trunks.contains(vid),
        VlanMode::NativeTagged | VlanMode::NativeUntagged => vid == port.tag || port.trunks.contains(vid),
    }
}

/// How a frame would leave by `port`; `None`: not at all.
#[inline]
pub(crate) fn egress(port: &PortConfig, frame: &Frame) -> Option<Leave> {
    if !carries(port, frame.vid) {
        return None;
    }
    let untagged = match port.vlan_mode {
        VlanMode::Dot1qTunnel => {
            let customer = VlanId::new(frame.inner.unwrap_or(0))?;
            return port.trunks.contains(customer).then_some(Leave::Customer);
        }
        VlanMode::Access => true,
        VlanMode::Trunk | VlanMode::NativeTagged => false,
        VlanMode::NativeUntagged => frame.vid == port.tag && frame.inner.is_none(),
    };
    match untagged || frame.vid == VlanId::NONE {
        false => Some(Leave::Tagged),
        true if frame.inner.is_none() => Some(Leave::Untagged),
        true => None,
    }
}

/// Makes the packet what it leaves as. A frame that is shorter than when it came, since a tag was removed,
/// is padded to the minimum of 60 bytes (IEEE 802.3 §4.2.3.3): checksums and lengths do not notice zeros
/// behind the payload.
#[inline]
pub(crate) fn apply(
    packet: &mut Packet,
    frame: &Frame,
    leave: Leave,
    pool: &mut Pool,
) -> Result<(), DropReason> {
    packet.meta_mut().vlan = match leave {
        Leave::Tagged => Some(frame.tag),
        Leave::Untagged | Leave::Customer => None,
    };
    if leave == Leave::Customer {
        pop_tag(packet)?;
    }
    if frame.tagged && leave != Leave::Tagged && packet.len() < ETH_ZLEN {
        pad(packet, pool)?;
    }
    Ok(())
}

fn pad(packet: &mut Packet, pool: &mut Pool) -> Result<(), DropReason> {
    let len = packet.len() + if packet.meta().vlan.is_some() { TAG } else { 0 };
    // A superframe of so few bytes would have its segments padded instead.
    if len >= ETH_ZLEN || packet.meta().offload.gso.kind != GsoKind::None {
        return Ok(());
    }
    packet.append(&[0; ETH_ZLEN][..ETH_ZLEN - len], pool)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use trunkline_packet::PortId;

    /// Everything else is tested from the wire, in `tests/bridge`; this is what the engine never does.
    #[test]
    fn a_tag_left_in_the_bytes_counts_all_the_same() {
        let mut pool = Pool::new(1, 0);
        let mut packet = pool.get();
        let bytes = [&[2; 12][..], &[0x81, 0, 0xb0, 20, 8, 0], &[1; 50]].concat();
        packet.set_bytes(&bytes, &mut pool).unwrap();
        let access = PortConfig { vlan_mode: VlanMode::Access, ..PortConfig::new(PortId(1)) };
        let link = Link::of(&packet).unwrap();
        assert_eq!(
            ingress(&access, &mut pool.duplicate(&packet), &link).err(),
            Some(DropReason::VlanFiltered)
        );
        let frame = ingress(&PortConfig::new(PortId(1)), &mut packet, &link).unwrap();
        assert_eq!((frame.vid.get(), frame.tag.tci, frame.inner), (20, 0xb014, None));
    }
}
