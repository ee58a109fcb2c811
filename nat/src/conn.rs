//! A connection: one entry for both directions.

use crate::config::Timeouts;
use crate::list::Links;
use crate::tcp::{Phase, Tcp};
use crate::types::{Endpoint, Inside, Key, Outside, Side, Uplink, Zone};
use crate::wheel::{Tick, Timed};

/// By what it is translated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u16)]
pub(crate) enum Origin {
    /// Not translated.
    Routed,
    /// By a mapping, or with a shared port.
    Masquerade,
    Static,
    Publish,
}

/// Sides that have sent, as bits `1 << side`.
const SENT: u8 = 0b11;
/// Began outside.
const FROM_OUTSIDE: u8 = 0x04;
/// The remote is one of our own external addresses.
const HAIRPIN: u8 = 0x08;
/// Counted as a permission of its mapping.
const PERMITS: u8 = 0x10;
/// Worth more than a transitory one.
const KEPT: u8 = 0x20;
/// The slot is free.
const FREE: u8 = 0x40;
/// The remote appears inside as the gateway.
const SHOWN: u8 = 0x80;

/// One connection.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(crate) struct Conn {
    pub(crate) local: Inside<Endpoint>,
    pub(crate) remote: Endpoint,
    pub(crate) external: Outside<Endpoint>,
    pub(crate) zone: Zone,
    pub(crate) uplink: Uplink,
    pub(crate) proto: u8,
    flags: u8,
    pub(crate) deadline: Tick,
    pub(crate) version: u16,
    /// The rule's slot, and the origin in the two lowest bits.
    rule: u16,
    pub(crate) source: u16,
    slot: u16,
    /// The mapping; or as whom the remote appears: the number of the gateway's address, then the port.
    link: u32,
    pub(crate) tcp: Tcp,
    wheel: Links,
    /// Among the transitory entries of the source.
    pub(crate) peers: Links,
}

impl Conn {
    #[allow(clippy::too_many_arguments, reason = "all that an entry begins with, each of its own type")]
    pub(crate) fn new(
        zone: Zone,
        uplink: Uplink,
        proto: u8,
        local: Inside<Endpoint>,
        external: Outside<Endpoint>,
        remote: Endpoint,
        initiator: Side,
        origin: Origin,
    ) -> Conn {
        Conn {
            local,
            remote,
            external,
            zone,
            uplink,
            proto,
            flags: if initiator == Side::Outside { FROM_OUTSIDE } else { 0 },
            deadline: Tick::at(0),
            version: 0,
            rule: crate::rules::NO_RULE << 2 | origin as u16,
            source: 0,
            slot: 0,
            link: crate::mapping::NONE,
            tcp: Tcp::default(),
            wheel: Links::NONE,
            peers: Links::NONE,
        }
    }

    #[inline]
    pub(crate) fn rule(&self) -> u16 {
        self.rule >> 2
    }

    pub(crate) fn set_rule(&mut self, slot: u16) {
        self.rule = slot << 2 | self.rule & 3;
    }

    #[inline]
    pub(crate) fn origin(&self) -> Origin {
        match self.rule & 3 {
            0 => Origin::Routed,
            1 => Origin::Masquerade,
            2 => Origin::Static,
            _ => Origin::Publish,
        }
    }

    /// Its mapping, or [`crate::mapping::NONE`].
    #[inline]
    pub(crate) fn mapping(&self) -> u32 {
        if self.is_shown() { crate::mapping::NONE } else { self.link }
    }

    pub(crate) fn set_mapping(&mut self, mapping: u32) {
        self.link = mapping;
    }

    /// Whether the remote appears inside as somebody else.
    #[inline]
    pub(crate) fn is_shown(&self) -> bool {
        self.flags & SHOWN != 0
    }

    /// As which gateway address, by number, and port.
    pub(crate) fn shown(&self) -> (u16, u16) {
        ((self.link >> 16) as u16, self.link as u16)
    }

    pub(crate) fn set_shown(&mut self, gateway: u16, port: u16) {
        self.set(SHOWN, true);
        self.link = u32::from(gateway) << 16 | u32::from(port);
    }

    /// What it is found by outside.
    #[inline]
    pub(crate) fn outside_key(&self) -> Key {
        Key::outside(self.uplink, self.proto, self.external, self.remote)
    }

    #[inline]
    pub(crate) fn initiator(&self) -> Side {
        if self.flags & FROM_OUTSIDE == 0 { Side::Inside } else { Side::Outside }
    }

    #[inline]
    pub(crate) fn is_hairpin(&self) -> bool {
        self.flags & HAIRPIN != 0
    }

    /// Whether it is between a host inside and one outside who see each other as they are.
    #[inline]
    pub(crate) fn is_ordinary(&self) -> bool {
        self.flags & (SHOWN | HAIRPIN | FREE) == 0
    }

    pub(crate) fn set_hairpin(&mut self, to: bool) {
        self.set(HAIRPIN, to);
    }

    pub(crate) fn permits(&self) -> bool {
        self.flags & PERMITS != 0
    }

    pub(crate) fn set_permits(&mut self, to: bool) {
        self.set(PERMITS, to);
    }

    #[inline]
    pub(crate) fn is_kept(&self) -> bool {
        self.flags & KEPT != 0
    }

    pub(crate) fn set_kept(&mut self, to: bool) {
        self.set(KEPT, to);
    }

    #[inline]
    pub(crate) fn is_free(&self) -> bool {
        self.flags & FREE != 0
    }

    pub(crate) fn set_free(&mut self) {
        self.flags = FREE;
    }

    fn set(&mut self, flag: u8, to: bool) {
        self.flags = if to { self.flags | flag } else { self.flags & !flag };
    }

    /// Takes note that `side` sent, and says whether the entry is worth keeping when room is short: an open
    /// TCP connection; else a flow whose initiator went on after an answer came (a stream, not a query).
    #[inline]
    pub(crate) fn sent(&mut self, side: Side) -> bool {
        use trunkline_packet::headers::proto;
        let went_on = self.flags & SENT == SENT && side == self.initiator();
        self.flags |= 1 << side as u8;
        match self.proto {
            proto::TCP => self.tcp.phase() == Phase::Established,
            proto::ICMP | proto::ICMPV6 => false,
            _ => went_on || self.is_kept(),
        }
    }

    /// Whether [`Conn::sent`] has nothing to note of a datagram: this side has sent before, and either the other never
    /// has, or the flow is worth keeping already.
    #[inline]
    pub(crate) fn is_settled(&self, side: Side) -> bool {
        let (own, so_far) = (1 << side as u8, self.flags & (SENT | KEPT));
        so_far == own || so_far & (own | KEPT) == own | KEPT
    }

    /// How long it lives from now on, milliseconds.
    #[inline]
    pub(crate) fn timeout(&self, t: &Timeouts) -> u64 {
        use trunkline_packet::headers::proto;
        match self.proto {
            proto::TCP if self.tcp.phase() == Phase::Established => t.tcp_established,
            proto::TCP => t.tcp_transitory,
            proto::UDP => t.udp,
            proto::ICMP | proto::ICMPV6 => t.icmp,
            _ => t.other,
        }
    }

    /// Whether both sides have sent.
    pub(crate) fn answered(&self) -> bool {
        self.flags & SENT == SENT
    }
}

impl Timed for Conn {
    #[inline]
    fn deadline(&self) -> Tick {
        self.deadline
    }

    #[inline]
    fn links(&mut self) -> &mut Links {
        &mut self.wheel
    }

    #[inline]
    fn slot(&mut self) -> &mut u16 {
        &mut self.slot
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use trunkline_packet::headers::proto;

    use super::*;
    use crate::mapping::Mapping;

    #[test]
    fn nothing_is_noted_of_a_settled_flow() {
        let nobody = Endpoint { addr: Ipv6Addr::UNSPECIFIED, port: 0 };
        let mut settled = Vec::new();
        for (flags, side) in (0..=u8::MAX).flat_map(|f| [(f, Side::Inside), (f, Side::Outside)]) {
            let ends = (Inside(nobody), Outside(nobody));
            let (zone, uplink) = (Zone(0), Uplink(0));
            let mut conn = Conn::new(zone, uplink, proto::UDP, ends.0, ends.1, nobody, side, Origin::Routed);
            conn.flags = flags;
            let (is_settled, kept) = (conn.is_settled(side), conn.is_kept());
            let says_nothing = conn.sent(side) == kept && conn.flags == flags;
            assert!(says_nothing || !is_settled, "{flags:#x} {side:?}");
            if is_settled && flags & !(SENT | KEPT) == 0 {
                settled.push((flags, side));
            }
        }
        // Of one side alone, and a stream both ways.
        let (inside, outside) = (Side::Inside, Side::Outside);
        let streams =
            [(0b01 | KEPT, inside), (0b10 | KEPT, outside), (SENT | KEPT, inside), (SENT | KEPT, outside)];
        assert_eq!(settled, [&[(0b01, inside), (0b10, outside)], &streams[..]].concat());
    }

    #[test]
    fn an_entry_is_two_cache_lines() {
        assert_eq!(size_of::<Conn>(), 128);
        // With indices and free lists, a million of both fit into 256 MiB.
        assert!(size_of::<Mapping>() <= 64);
    }
}
