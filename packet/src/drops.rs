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
    /// Destination 01-80-C2-00-00-00 to 0F, which a bridge never forwards (802.1Q §8.6.3).
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
}
