//! Why connection tracking did not let a packet through. Every such packet is counted under exactly one.

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal),* $(,)?) => {
        /// The reason a packet was dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum NatDrop { $($(#[doc = $doc])* $name),* }

        impl NatDrop {
            /// Every reason, in counter order.
            pub const ALL: &'static [NatDrop] = &[$(NatDrop::$name),*];
            /// How many there are.
            pub const COUNT: usize = NatDrop::ALL.len();

            /// The name users see.
            pub const fn name(self) -> &'static str {
                match self { $(NatDrop::$name => $text),* }
            }

            /// One sentence: what happened and what to look at.
            pub const fn help(self) -> &'static str {
                match self { $(NatDrop::$name => concat!($($doc),*)),* }
            }

            /// The slot in counter arrays.
            #[inline]
            pub const fn index(self) -> usize { self as usize }
        }
    };
}

reasons! {
    /// Not an IP packet, or a header is malformed or cut off.
    Malformed = "nat-malformed",
    /// The source or destination address may not be forwarded (RFC 6890: loopback, group source, unspecified, IPv6 link-local, mapped).
    Martian = "nat-martian",
    /// Source and destination are the same endpoint.
    Land = "nat-land",
    /// The packet asks to be routed by its sender (RFC 7126 §4.3, RFC 5095).
    SourceRoute = "nat-source-route",
    /// From outside, with no entry and nothing published that it could belong to. The packet is unchanged: it may be for the gateway itself.
    Unsolicited = "nat-unsolicited",
    /// From outside to a mapping whose filter does not allow this sender (RFC 4787 REQ-8).
    Filtered = "nat-filtered",
    /// From inside, and no rule says how it may leave.
    NoRule = "nat-no-rule",
    /// The translation would be the same as that of another live connection.
    Conflict = "nat-conflict",
    /// No external port is free, and none could be shared or taken back.
    NoPort = "nat-no-port",
    /// The table is full of entries that are worth more than a new one.
    TableFull = "nat-table-full",
    /// The source has as many entries as it may have (RFC 6888 REQ-4).
    SourceLimit = "nat-source-limit",
    /// The source has as many external ports as it may have (RFC 6888 REQ-4).
    SourcePorts = "nat-source-ports",
    /// A combination of TCP flags that no TCP sends.
    TcpFlags = "nat-tcp-flags",
    /// A TCP segment of no known connection that cannot begin one.
    TcpNoState = "nat-tcp-no-state",
    /// A TCP segment outside the window (see `liberal`).
    TcpWindow = "nat-tcp-window",
    /// A TCP reset that the receiver would not believe (RFC 5961 §3).
    TcpReset = "nat-tcp-reset",
    /// An ICMP message that a router does not forward, or that no query asked for.
    IcmpType = "nat-icmp-type",
    /// An ICMP error about a packet of no known connection.
    IcmpUnmatched = "nat-icmp-unmatched",
    /// An ICMP error with a wrong checksum (RFC 5508 REQ-3).
    IcmpChecksum = "nat-icmp-checksum",
    /// A fragment that overlaps another, or contradicts its length (RFC 5722, RFC 1858).
    FragmentOverlap = "nat-fragment-overlap",
    /// A first fragment that does not hold the transport header (RFC 1858 §3).
    FragmentTiny = "nat-fragment-tiny",
    /// A fragment of a packet whose first fragment was dropped or did not come in time.
    FragmentLost = "nat-fragment-lost",
    /// Too many fragments are waiting for their first.
    FragmentLimit = "nat-fragment-limit",
}

#[cfg(test)]
mod tests {
    use super::NatDrop;

    #[test]
    fn names_are_unique_and_explained() {
        let mut names: Vec<_> = NatDrop::ALL.iter().map(|r| r.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), NatDrop::COUNT);
        assert!(NatDrop::ALL.iter().enumerate().all(|(i, r)| r.index() == i && r.help().len() > 20));
    }
}
