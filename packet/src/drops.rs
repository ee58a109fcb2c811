//! Why a packet ended without being delivered. Every drop is counted under exactly one of these.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal),* $(,)?) => {
        /// The reason a packet was dropped. Counted per port: ingress reasons on the port the packet came
        /// from, egress reasons on the port it was meant for.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum DropReason { $($(#[doc = $doc])* $name),* }

        impl DropReason {
            /// Every reason, in counter order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name),*];
            /// How many there are.
            pub const COUNT: usize = DropReason::ALL.len();

            /// The name users see, in `trunkline drops` and in metrics.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text),* }
            }

            /// One sentence: what happened and what to look at.
            pub const fn help(self) -> &'static str {
                match self { $(DropReason::$name => concat!($($doc),*)),* }
            }

            /// The slot in counter arrays.
            #[inline]
            pub const fn index(self) -> usize { self as usize }
        }
    };
}

reasons! {
    /// Shorter than an Ethernet header, or a header cut off.
    Truncated = "truncated",
    /// The frame did not fit the receive buffer, or is larger than any frame may be.
    Oversize = "oversize",
    /// The virtio header makes no sense for the frame (checksum start or offset outside it, segment size 0, unknown type).
    BadOffload = "bad-offload",
    /// Source address is a group address or zero.
    BadSource = "bad-source",
    /// Destination 01-80-C2-00-00-00 to 0F, which a bridge never forwards (802.1Q §8.6.3), or, into a tunnel with liveness, that of its own packets (00-23-20-00-00-01).
    ReservedMac = "reserved-mac",
    /// VID 4095, or a malformed tag.
    BadVlan = "bad-vlan",
    /// The VLAN is not allowed on the port it came in by.
    VlanFiltered = "vlan-filtered",
    /// The destination is known and is behind the port the frame came from.
    SamePort = "same-port",
    /// The ingress port belongs to no bridge at the moment.
    NoBridge = "no-bridge",
    /// The destination is known, but the port there is not in the VLAN.
    VlanEgress = "vlan-egress",
    /// Both ports are isolated.
    Isolated = "isolated",
    /// Both ports are in one split-horizon group.
    SplitHorizon = "split-horizon",
    /// Unknown destination or group, and no other port takes floods of this VLAN.
    NoDestination = "no-destination",
    /// The port's flood limit is exceeded.
    FloodLimit = "flood-limit",

    /// Anti-spoof: the source MAC address is not one that the port may use.
    GuardMac = "guard-mac",
    /// Anti-spoof: an ARP message that is malformed, or whose sender is another MAC or IPv4 address than the port may use.
    GuardArp = "guard-arp",
    /// Anti-spoof: neighbour discovery for an address that the port may not use, with another's link-layer address, or in fragments (RFC 6980).
    GuardNd = "guard-nd",
    /// Anti-spoof: the IPv4 source address is not one that the port may use.
    GuardIpv4 = "guard-ipv4",
    /// Anti-spoof: the IPv6 source address is not one that the port may use.
    GuardIpv6 = "guard-ipv6",
    /// Anti-spoof: a message of a DHCP or DHCPv6 server or relay (RFC 7610), or of a client in another's name.
    GuardDhcp = "guard-dhcp",
    /// Anti-spoof: a router advertisement, redirect or renumbering (RFC 6105).
    GuardRa = "guard-ra",
    /// Anti-spoof: headers that cannot be looked through to what they carry: cut off, too many, in later fragments, or unknown (RFC 7113, RFC 7112).
    GuardHidden = "guard-hidden",
    /// Anti-spoof: neither IPv4, IPv6 nor ARP, from a port that is held to its IP addresses.
    GuardType = "guard-type",
    /// The frame, or the segments of the superframe, are larger than the egress MTU.
    Mtu = "mtu",
    /// The frame is a superframe that the egress cannot take and software cannot segment.
    Unsegmentable = "unsegmentable",
    /// The egress queue or socket is full.
    EgressFull = "egress-full",
    /// The egress interface is down or gone.
    EgressDown = "egress-down",
    /// The kernel refused the frame for another reason.
    EgressError = "egress-error",
    /// The worker had no buffer left.
    NoBuffer = "no-buffer",

    /// The outer or tunnel header is cut off.
    TunnelTruncated = "tunnel-truncated",
    /// No tunnel is configured with the sender: compare the remote and local addresses of both ends.
    UnknownRemote = "unknown-remote",
    /// The sender is known, but not with this VNI or VSID.
    WrongVni = "wrong-vni",
    /// The sender is known, but not with this GRE key, or the packet has none.
    WrongKey = "wrong-key",
    /// VXLAN without the I flag: there is no valid VNI (RFC 7348 §5).
    VxlanNoVni = "vxlan-no-vni",
    /// A version of GRE or Geneve other than 0.
    TunnelVersion = "tunnel-version",
    /// GRE with bit 1, 4 or 5 set: source routes of RFC 1701, not supported (RFC 2784 §2.3).
    GreFlags = "gre-flags",
    /// The tunnel carries something else than Ethernet (protocol type other than 0x6558).
    TunnelNotEthernet = "tunnel-not-ethernet",
    /// The GRE or outer UDP or IP checksum is wrong, or GRE has none though the tunnel demands one.
    TunnelChecksum = "tunnel-checksum",
    /// An outer UDP checksum of 0 over IPv6 on a tunnel that does not allow it (RFC 6936 §5).
    TunnelZeroChecksum = "tunnel-zero-checksum",
    /// The GRE sequence number is not after the last one, or absent though the tunnel demands one.
    GreSequence = "gre-sequence",
    /// A critical Geneve option that is not known (RFC 8926 §3.4).
    GeneveCriticalOption = "geneve-critical-option",
    /// The Geneve options do not add up to the length of the option block (RFC 8926 §3.5).
    GeneveBadOptions = "geneve-bad-options",
    /// A Geneve control packet (O bit), which is never forwarded (RFC 8926 §3.4).
    GeneveControl = "geneve-control",
    /// The inner frame is shorter than an Ethernet header.
    InnerTooShort = "inner-too-short",
    /// The inner frame has a VLAN tag, and the tunnel takes none.
    InnerTag = "inner-tag",
    /// The VLAN is not in the tunnel's VLAN map.
    UnmappedVlan = "unmapped-vlan",
    /// Marked "congestion experienced" outside while the inner packet cannot carry the mark (RFC 6040 §4.2).
    TunnelEcn = "tunnel-ecn",
    /// A tunnel's packet came back into the tunnel, or is from our own address.
    TunnelLoop = "tunnel-loop",
    /// A fragment of an outer packet, on an underlay that does not put fragments together.
    OuterFragment = "outer-fragment",
    /// Fragments of an outer packet that overlap, repeat or contradict each other (RFC 5722, RFC 1858), or come after such ones.
    OuterFragmentConflict = "outer-fragment-conflict",
    /// Too many fragments of outer packets are waiting for the rest, of this sender or of all.
    OuterFragmentLimit = "outer-fragment-limit",
    /// The rest of a fragmented outer packet did not come in time: look for loss between the hosts.
    OuterFragmentTimeout = "outer-fragment-timeout",
    /// The outer packet is not IP, or not of a tunnel's protocol or port.
    NotTunnel = "not-tunnel",
    /// The tunnel's far end is dead (BFD): see the peer's state and why it went down.
    TunnelPeerDown = "tunnel-peer-down",
    /// The host has no route to the tunnel's remote, or the tunnel's local address is not the host's at the moment.
    UnderlayUnreachable = "underlay-unreachable",
    /// The tunnel has no remote to send to: none is configured, and none was learned for this address.
    TunnelNoRemote = "tunnel-no-remote",

    /// Not an IP packet, or a header is malformed or cut off.
    NatMalformed = "nat-malformed",
    /// The source or destination address may not be forwarded (RFC 6890: loopback, group source, unspecified, IPv6 link-local, mapped).
    NatMartian = "nat-martian",
    /// Source and destination are the same endpoint.
    NatLand = "nat-land",
    /// The packet asks to be routed by its sender (RFC 7126 §4.3, RFC 5095).
    NatSourceRoute = "nat-source-route",
    /// From outside, with no entry and nothing published that it could belong to. The packet is unchanged: it may be for the gateway itself.
    NatUnsolicited = "nat-unsolicited",
    /// From outside to a mapping whose filter does not allow this sender (RFC 4787 REQ-8).
    NatFiltered = "nat-filtered",
    /// From inside, and no rule says how it may leave.
    NatNoRule = "nat-no-rule",
    /// The translation would be the same as that of another live connection.
    NatConflict = "nat-conflict",
    /// No external port is free, and none could be shared or taken back.
    NatNoPort = "nat-no-port",
    /// The table is full of entries that are worth more than a new one.
    NatTableFull = "nat-table-full",
    /// The source has as many entries as it may have (RFC 6888 REQ-4).
    NatSourceLimit = "nat-source-limit",
    /// The source has as many external ports as it may have (RFC 6888 REQ-4).
    NatSourcePorts = "nat-source-ports",
    /// A combination of TCP flags that no TCP sends.
    NatTcpFlags = "nat-tcp-flags",
    /// A TCP segment of no known connection that cannot begin one.
    NatTcpNoState = "nat-tcp-no-state",
    /// A TCP segment outside the window (see `liberal`).
    NatTcpWindow = "nat-tcp-window",
    /// A TCP reset that the receiver would not believe (RFC 5961 §3).
    NatTcpReset = "nat-tcp-reset",
    /// An ICMP message that a router does not forward, or that no query asked for.
    NatIcmpType = "nat-icmp-type",
    /// An ICMP error about a packet of no known connection.
    NatIcmpUnmatched = "nat-icmp-unmatched",
    /// An ICMP error with a wrong checksum (RFC 5508 REQ-3).
    NatIcmpChecksum = "nat-icmp-checksum",
    /// A fragment that overlaps another, or contradicts its length (RFC 5722, RFC 1858).
    NatFragmentOverlap = "nat-fragment-overlap",
    /// A first fragment that does not hold the transport header (RFC 1858 §3).
    NatFragmentTiny = "nat-fragment-tiny",
    /// A fragment of a packet whose first fragment was dropped or did not come in time.
    NatFragmentLost = "nat-fragment-lost",
    /// Too many fragments are waiting for their first.
    NatFragmentLimit = "nat-fragment-limit",

    /// To a MAC address, or by a VLAN tag, that is not the gateway's, or on a shared uplink for the host itself.
    RouterNotOurs = "router-not-ours",
    /// Neither IPv4, IPv6 nor ARP.
    RouterNotIp = "router-not-ip",
    /// An IP, ARP or neighbour discovery packet that is malformed, cut off, or not allowed by its RFC.
    RouterMalformed = "router-malformed",
    /// A wrong IPv4 header checksum, or ICMPv6 checksum of neighbour discovery.
    RouterChecksum = "router-checksum",
    /// A source or destination address that no packet may have on a link, or our own as the source (RFC 1812 §5.3.7, RFC 6890).
    RouterMartian = "router-martian",
    /// The packet asks to be routed by its sender (RFC 7126 §4.3, RFC 5095).
    RouterSourceRoute = "router-source-route",
    /// To the broadcast address of another network, or a link broadcast to one host (RFC 2644, RFC 1812 §5.3.4).
    RouterBroadcast = "router-broadcast",
    /// An IPv6 link-local address beyond its link (RFC 4291 §2.5.6).
    RouterScope = "router-scope",
    /// No route leads to the destination, or only to a bridge that is not open to this one.
    RouterNoRoute = "router-no-route",
    /// From one host to another of a network whose hosts are not to talk to each other (`--icc=false`).
    RouterIsolated = "router-isolated",
    /// TTL or hop limit is used up.
    RouterTtl = "router-ttl",
    /// Larger than the MTU on the way, and not to be fragmented: the sender is told.
    RouterTooBig = "router-too-big",
    /// To a port or protocol of the gateway itself that nobody serves.
    RouterClosed = "router-closed",
    /// Waited for the MAC address of the next hop, and gave way to a later packet or to a new configuration.
    RouterUnresolved = "router-unresolved",
    /// The next hop does not answer to ARP or neighbour solicitations.
    RouterUnreachable = "router-unreachable",
    /// The neighbour table, or the interface's part of it, is full.
    RouterNeighbourLimit = "router-neighbour-limit",
    /// Too many packets wait for another worker.
    RouterWorkerFull = "router-worker-full",
}

/// Counted drops of many packets.
#[derive(Clone, Debug)]
pub struct DropCounts([u32; DropReason::COUNT]);

impl DropCounts {
    /// All zero.
    pub const fn new() -> DropCounts {
        DropCounts([0; DropReason::COUNT])
    }

    /// Counts one.
    #[inline]
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason.index()] += 1;
    }

    /// How many for this reason.
    #[inline]
    pub fn get(&self, reason: DropReason) -> u32 {
        self.0[reason.index()]
    }

    /// The sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|&n| u64::from(n)).sum()
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

    #[test]
    fn names_are_unique_and_explained() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::COUNT);
        assert!(DropReason::ALL.iter().enumerate().all(|(i, r)| r.index() == i && r.help().ends_with('.')));
    }
}
