//! How a tunnel makes and takes packets: the part of its configuration that the packet path reads.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::geneve::{self, GeneveOption};
use crate::gre::{GreHeader, TEB};
use crate::{DropReason, GreKey, Kind, Vni, vxlan};

/// Longest tunnel header that is sent, bytes. Outer Ethernet, an outer and an inner tag, IPv6 and UDP fit
/// the headroom of a packet beside it.
pub const MAX_HEADER: usize = 48;

/// The tunnel header of one virtual network, ready to be copied in front of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunnelHeader {
    kind: Kind,
    checksum: bool,
    sequence: bool,
    len: u8,
    bytes: [u8; MAX_HEADER],
}

impl TunnelHeader {
    /// VXLAN.
    pub fn vxlan(vni: Vni) -> TunnelHeader {
        TunnelHeader::new(Kind::Vxlan, &vxlan::header(vni))
    }

    /// Geneve. `None` when the options exceed [`MAX_HEADER`] or are malformed (see [`geneve::write`]).
    pub fn geneve(vni: Vni, options: &[GeneveOption<'_>]) -> Option<TunnelHeader> {
        let mut bytes = [0; MAX_HEADER];
        let len = geneve::write(vni, options, &mut bytes)?;
        Some(TunnelHeader::new(Kind::Geneve, &bytes[..len]))
    }

    /// Ethernet in GRE.
    pub fn gre(key: Option<GreKey>, checksum: bool, sequence: bool) -> TunnelHeader {
        let header = GreHeader { checksum, key, sequence: sequence.then_some(0), protocol: TEB };
        let made = TunnelHeader::new(Kind::Gre, &header.to_bytes()[..header.len()]);
        TunnelHeader { checksum, sequence, ..made }
    }

    /// NVGRE: a key, no checksum, no sequence number (RFC 7637 §3.2).
    pub fn nvgre(vsid: Vni) -> TunnelHeader {
        let gre = TunnelHeader::gre(Some(GreKey::nvgre(vsid, 0)), false, false);
        TunnelHeader { kind: Kind::Nvgre, ..gre }
    }

    fn new(kind: Kind, header: &[u8]) -> TunnelHeader {
        let mut bytes = [0; MAX_HEADER];
        bytes[..header.len()].copy_from_slice(header);
        TunnelHeader { kind, checksum: false, sequence: false, len: header.len() as u8, bytes }
    }

    /// Which encapsulation.
    #[inline]
    pub const fn kind(&self) -> Kind {
        self.kind
    }

    /// GRE with a checksum.
    #[inline]
    pub const fn has_checksum(&self) -> bool {
        self.checksum
    }

    /// GRE with sequence numbers.
    #[inline]
    pub const fn has_sequence(&self) -> bool {
        self.sequence
    }

    /// Length in bytes; never 0.
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub const fn len(&self) -> usize {
        self.len as usize
    }

    /// The bytes; a checksum, sequence number and flow identifier are 0.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len()]
    }

    /// The header, when it is one of eight bytes that is the same in all packets: VXLAN's, GRE's with a key and no more,
    /// Geneve's without options.
    #[inline]
    pub(crate) fn constant(&self) -> Option<[u8; 8]> {
        let varies = self.sequence || self.checksum || self.kind == Kind::Nvgre;
        (self.len == 8 && !varies).then_some(*self.bytes.first_chunk()?)
    }

    /// Writes the header with the parts that differ from packet to packet, except the checksum.
    #[inline]
    pub(crate) fn write(&self, out: &mut [u8], hash: u32, state: &TxState) {
        let len = self.len();
        out[..len].copy_from_slice(self.bytes());
        if self.sequence {
            out[len - 4..len].copy_from_slice(&state.next_sequence().to_be_bytes());
        }
        if self.kind == Kind::Nvgre {
            out[len - 1] = hash as u8;
        }
    }
}

/// The outer traffic class. Its ECN bits always follow RFC 6040.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tos {
    /// The inner one; 0 when the frame is not IP.
    Inherit,
    /// This one: the whole byte, of which the low two bits do not count.
    Fixed(u8),
}

/// The outer TTL or hop limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// The inner one; [`Ttl::DEFAULT`] when the frame is not IP.
    Inherit,
    /// This one.
    Fixed(u8),
}

impl Ttl {
    /// What is used when there is nothing to inherit, as in Open vSwitch.
    pub const DEFAULT: u8 = 64;
}

/// What becomes of the inner frame's VLAN tag.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InnerVlan {
    /// Taken off before sending; a frame that still has one, or comes with one, is dropped. What RFC 7348
    /// §6.1 recommends and RFC 7637 §3.3 demands. Two VLANs sent into one such tunnel come out as one.
    Strip,
    /// Carried inside, as Open vSwitch and the kernel's bridge do it.
    Keep,
}

impl InnerVlan {
    /// What the RFCs say for this kind; GRE and Geneve carry tags (RFC 8926 §4.4.1 leaves it open).
    pub const fn default_for(kind: Kind) -> InnerVlan {
        match kind {
            Kind::Vxlan | Kind::Nvgre => InnerVlan::Strip,
            Kind::Gre | Kind::Geneve => InnerVlan::Keep,
        }
    }
}

/// How packets to one remote are made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Encap {
    /// The tunnel header.
    pub header: TunnelHeader,
    /// The far end.
    pub remote: IpAddr,
    /// Our end, where it is known: makes loops visible.
    pub local: Option<IpAddr>,
    /// UDP destination port; means nothing for GRE.
    pub dst_port: u16,
    /// Outer traffic class.
    pub tos: Tos,
    /// Outer TTL.
    pub ttl: Ttl,
    /// Outer "don't fragment" (IPv4), which Open vSwitch calls `df_default`.
    pub df: bool,
    /// Fill in the outer UDP checksum, where it is ours to do (a port as the underlay).
    pub udp_checksum: bool,
    /// The inner VLAN tag.
    pub inner_vlan: InnerVlan,
    /// Lower TCP's maximum segment size to what fits this inner MTU (see [`crate::mtu::mss`]).
    pub mss_clamp: Option<u16>,
}

impl Encap {
    /// The defaults: tos 0, ttl 64, DF set; a UDP checksum only over IPv6, where RFC 8200 §8.1 demands it
    /// and RFC 6935 makes its absence the exception.
    pub fn new(header: TunnelHeader, remote: IpAddr) -> Encap {
        Encap {
            header,
            remote,
            local: None,
            dst_port: header.kind().default_port().unwrap_or_default(),
            tos: Tos::Fixed(0),
            ttl: Ttl::Fixed(Ttl::DEFAULT),
            df: true,
            udp_checksum: remote.is_ipv6(),
            inner_vlan: InnerVlan::default_for(header.kind()),
            mss_clamp: None,
        }
    }
}

/// What changes as a tunnel sends. Shared by all workers; outlives changes of configuration.
#[derive(Debug, Default)]
pub struct TxState {
    sequence: AtomicU32,
    ip_id: AtomicU32,
}

impl TxState {
    /// "The first datagram is sent with a sequence number of 0" (RFC 2890 §2.2).
    #[inline]
    fn next_sequence(&self) -> u32 {
        self.sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// Identification of an outer packet that may be fragmented: the low 16 bits in IPv4 (RFC 6864 §4.2), all
    /// in IPv6 (RFC 8200 §4.5).
    #[inline]
    pub(crate) fn next_ip_id(&self) -> u32 {
        self.ip_id.fetch_add(1, Ordering::Relaxed)
    }
}

/// How many packets in a row may be out of sequence before the sender is taken to have started anew; the same
/// for those that are further behind than any network holds packets back: a sender that was restarted and has
/// little to say must not be unheard for long.
const RESTART: u32 = 64;
const RESTART_FAR: u32 = 4;
const FAR: u32 = 1 << 16;

/// The receiving side of GRE sequence numbers (RFC 2890 §2.2). Packets that overtook others are not put back
/// in order: the late ones are dropped, as by the kernel.
#[derive(Debug)]
pub struct RxSequence(AtomicU64);

impl Default for RxSequence {
    /// "Upon establishment of the GRE tunnel, this value should be set to (2**32)-1."
    fn default() -> RxSequence {
        RxSequence(AtomicU64::new(RxSequence::pack(u32::MAX, 0)))
    }
}

impl RxSequence {
    const fn pack(last: u32, late: u32) -> u64 {
        (last as u64) << 32 | late as u64
    }

    /// Takes a sequence number. One in the range of the last accepted and the 2^31-1 before it is out of
    /// sequence. The RFC knows no restart of the sender; here 64 such packets in a row are one, or four that are
    /// 65,536 and more behind, or the tunnel would be deaf until the numbers catch up.
    ///
    /// # Errors
    /// [`DropReason::GreSequence`].
    pub fn accept(&self, sequence: u32) -> Result<(), DropReason> {
        let step = |state: u64| {
            let (last, late) = ((state >> 32) as u32, state as u32);
            let behind = last.wrapping_sub(sequence);
            let most = if behind >= FAR { RESTART_FAR } else { RESTART };
            if behind >= 1 << 31 || late + 1 >= most {
                (RxSequence::pack(sequence, 0), true)
            } else {
                (RxSequence::pack(last, late + 1), false)
            }
        };
        let before = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| Some(step(state).0));
        let (Ok(state) | Err(state)) = before;
        if step(state).1 { Ok(()) } else { Err(DropReason::GreSequence) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc2890_2_2_the_first_sequence_number_is_0_and_is_accepted() {
        assert_eq!(TxState::default().next_sequence(), 0);
        assert_eq!(RxSequence::default().accept(0), Ok(()));
    }

    #[test]
    fn rfc2890_2_2_late_and_repeated_numbers_are_out_of_sequence() {
        let rx = RxSequence::default();
        for (sequence, ok) in [(0, true), (0, false), (5, true), (3, false), (5, false), (6, true)] {
            assert_eq!(rx.accept(sequence).is_ok(), ok, "{sequence}");
        }
        // 2^31 - 1 before the last are late, 2^31 before it is ahead.
        assert!(rx.accept(6u32.wrapping_sub((1 << 31) - 1)).is_err());
        assert!(rx.accept(6u32.wrapping_sub(1 << 31)).is_ok());
    }

    #[test]
    fn numbers_wrap() {
        let rx = RxSequence::default();
        for sequence in [u32::MAX / 2, u32::MAX - 1, u32::MAX, 0, 1] {
            assert!(rx.accept(sequence).is_ok(), "{sequence}");
        }
        assert!(rx.accept(u32::MAX).is_err());
    }

    #[test]
    fn a_sender_that_starts_anew_is_heard_again() {
        for (before, most) in [(1_000_000, RESTART_FAR), (50_000, RESTART)] {
            let rx = RxSequence::default();
            rx.accept(before).unwrap();
            let first = (0..1000).find(|&n| rx.accept(n).is_ok());
            assert_eq!(first, Some(most - 1));
            assert!(rx.accept(most).is_ok());
        }
    }

    #[test]
    fn geneve_options_that_leave_no_headroom_are_refused() {
        let option = |data| GeneveOption { class: 1, kind: 1, data };
        assert!(TunnelHeader::geneve(Vni::MAX, &[option(&[0; 36])]).is_some());
        assert!(TunnelHeader::geneve(Vni::MAX, &[option(&[0; 40])]).is_none());
    }
}
