//! Why a tunnel refused a packet. Every refusal is counted under exactly one of these, or under one of the
//! packet crate's reasons ([`Refusal`]).

use trunkline_packet::DropReason;

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal),* $(,)?) => {
        /// The reason a tunnel refused a packet.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum TunnelDrop { $($(#[doc = $doc])* $name),* }

        impl TunnelDrop {
            /// Every reason, in counter order.
            pub const ALL: &'static [TunnelDrop] = &[$(TunnelDrop::$name),*];
            /// How many there are.
            pub const COUNT: usize = TunnelDrop::ALL.len();

            /// The name users see.
            pub const fn name(self) -> &'static str {
                match self { $(TunnelDrop::$name => $text),* }
            }

            /// One sentence: what happened and what to look at.
            pub const fn help(self) -> &'static str {
                match self { $(TunnelDrop::$name => concat!($($doc),*)),* }
            }

            /// The slot in counter arrays.
            #[inline]
            pub const fn index(self) -> usize { self as usize }
        }
    };
}

reasons! {
    /// The outer or tunnel header is cut off.
    Truncated = "tunnel-truncated",
    /// No tunnel is configured with the sender: compare the remote and local addresses of both ends.
    UnknownRemote = "unknown-remote",
    /// The sender is known, but not with this VNI or VSID.
    WrongVni = "wrong-vni",
    /// The sender is known, but not with this GRE key, or the packet has none.
    WrongKey = "wrong-key",
    /// VXLAN without the I flag: there is no valid VNI (RFC 7348 §5).
    NoVni = "vxlan-no-vni",
    /// A version of GRE or Geneve other than 0.
    BadVersion = "tunnel-version",
    /// GRE with bit 1, 4 or 5 set: source routes of RFC 1701, not supported (RFC 2784 §2.3).
    BadGreFlags = "gre-flags",
    /// The tunnel carries something else than Ethernet (protocol type other than 0x6558).
    NotEthernet = "tunnel-not-ethernet",
    /// The GRE or outer UDP or IP checksum is wrong, or GRE has none though the tunnel demands one.
    BadChecksum = "tunnel-checksum",
    /// An outer UDP checksum of 0 over IPv6 on a tunnel that does not allow it (RFC 6936 §5).
    ZeroChecksum = "tunnel-zero-checksum",
    /// The GRE sequence number is not after the last one, or absent though the tunnel demands one.
    OutOfSequence = "gre-sequence",
    /// A critical Geneve option that is not known (RFC 8926 §3.4).
    CriticalOption = "geneve-critical-option",
    /// The Geneve options do not add up to the length of the option block (RFC 8926 §3.5).
    BadOptions = "geneve-bad-options",
    /// A Geneve control packet (O bit), which is never forwarded (RFC 8926 §3.4).
    Control = "geneve-control",
    /// The inner frame is shorter than an Ethernet header.
    InnerTooShort = "inner-too-short",
    /// The inner frame has a VLAN tag, and the tunnel takes none.
    InnerTag = "inner-tag",
    /// The VLAN is not in the tunnel's VLAN map.
    UnmappedVlan = "unmapped-vlan",
    /// Marked "congestion experienced" outside while the inner packet cannot carry the mark (RFC 6040 §4.2).
    Ecn = "tunnel-ecn",
    /// A tunnel's packet came back into the tunnel, or is from our own address.
    Loop = "tunnel-loop",
    /// A fragment of an outer packet, on an underlay that does not put fragments together.
    OuterFragment = "outer-fragment",
    /// The outer packet is not IP, or not of a tunnel's protocol or port.
    NotTunnel = "not-tunnel",
}

/// Why a packet was refused, by a tunnel rule or by a general one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// A tunnel rule.
    Tunnel(TunnelDrop),
    /// No buffer, bad offload metadata, too large.
    Packet(DropReason),
}

impl From<TunnelDrop> for Refusal {
    fn from(reason: TunnelDrop) -> Refusal {
        Refusal::Tunnel(reason)
    }
}

impl From<DropReason> for Refusal {
    fn from(reason: DropReason) -> Refusal {
        Refusal::Packet(reason)
    }
}

/// Counted refusals of many packets.
#[derive(Clone, Debug)]
pub struct DropCounts {
    /// By [`TunnelDrop::index`].
    pub tunnel: [u32; TunnelDrop::COUNT],
    /// By [`DropReason::index`].
    pub packet: [u32; DropReason::COUNT],
}

impl DropCounts {
    /// All zero.
    pub const fn new() -> DropCounts {
        DropCounts { tunnel: [0; TunnelDrop::COUNT], packet: [0; DropReason::COUNT] }
    }

    /// Counts one refusal.
    #[inline]
    pub fn count(&mut self, refusal: Refusal) {
        match refusal {
            Refusal::Tunnel(reason) => self.tunnel[reason.index()] += 1,
            Refusal::Packet(reason) => self.packet[reason.index()] += 1,
        }
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.tunnel.iter().chain(&self.packet).map(|&n| u64::from(n)).sum()
    }
}

impl Default for DropCounts {
    fn default() -> DropCounts {
        DropCounts::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_distinct_from_each_other_and_the_packet_crates() {
        let names: HashSet<&str> = TunnelDrop::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), TunnelDrop::COUNT);
        assert!(DropReason::ALL.iter().all(|r| !names.contains(r.name())));
        assert!(TunnelDrop::ALL.iter().enumerate().all(|(i, r)| r.index() == i && r.help().ends_with('.')));
    }
}
