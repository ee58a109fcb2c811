//! What can be set, with the defaults that the RFCs ask for.

/// How long an entry lives without packets, milliseconds. The defaults are the shortest times that the RFCs
/// allow or recommend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// UDP (RFC 4787 REQ-5: five minutes recommended).
    pub udp: u64,
    /// TCP, both ways open (RFC 5382 REQ-5: not less than 2 hours 4 minutes).
    pub tcp_established: u64,
    /// TCP, opening, closing or reset (RFC 5382 REQ-5, RFC 7857 §2: not less than 4 minutes).
    pub tcp_transitory: u64,
    /// ICMP queries (RFC 5508 REQ-2: not less than 60 seconds).
    pub icmp: u64,
    /// Protocols without ports.
    pub other: u64,
    /// A fragmented packet, from its first piece to its last (RFC 1122 §3.3.2 and RFC 8200 §4.5 give whole
    /// reassembly 60 seconds; held pieces wait only for their first).
    pub fragment: u64,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts {
            udp: 300_000,
            tcp_established: 7_440_000,
            tcp_transitory: 240_000,
            icmp: 60_000,
            other: 300_000,
            fragment: 30_000,
        }
    }
}

/// Settings of one shard.
#[derive(Clone, Debug)]
pub struct Config {
    /// Most connections.
    pub capacity: usize,
    /// Most connections of one inside address (RFC 6888 REQ-4). One that has as many gives up its own oldest
    /// transitory one for a new one.
    pub source_limit: u32,
    /// Most external ports of one inside address (RFC 6888 REQ-4).
    pub source_ports: u32,
    /// Times.
    pub timeouts: Timeouts,
    /// Pass TCP segments outside the window, and count nothing against them.
    pub liberal: bool,
    /// Let a TCP segment with ACK and without SYN begin an entry: connections survive a restart of the
    /// switch when their port can be preserved. Their windows are not checked.
    pub pickup: bool,
    /// Rather drop a new flow than give it an external port that another inside endpoint has
    /// (RFC 4787 REQ-3), even though the destination differs.
    pub strict_eim: bool,
    /// Let packets from inside that no rule names leave untranslated, tracked.
    pub route: bool,
    /// This worker and how many there are; see [`crate::shard`].
    pub shard: (u16, u16),
}

impl Default for Config {
    fn default() -> Config {
        Config::for_capacity(262_144)
    }
}

impl Config {
    /// The defaults for a table of this many connections.
    pub fn for_capacity(capacity: usize) -> Config {
        let quarter = u32::try_from(capacity / 4).unwrap_or(u32::MAX).max(1);
        Config {
            capacity: capacity.clamp(1, MAX_CAPACITY),
            source_limit: quarter,
            source_ports: quarter,
            timeouts: Timeouts::default(),
            liberal: false,
            pickup: true,
            strict_eim: false,
            route: true,
            shard: (0, 1),
        }
    }
}

/// Indices carry a side in their lowest bit and stay below `u32::MAX`.
pub(crate) const MAX_CAPACITY: usize = 1 << 30;

/// Which senders outside may use a mapping (RFC 4787 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Filtering {
    /// Anybody.
    EndpointIndependent,
    /// Addresses that the inside endpoint has sent to, from any port.
    Address,
    /// Endpoints that the inside endpoint has sent to: docker's and the kernel's behaviour.
    #[default]
    AddressAndPort,
}
