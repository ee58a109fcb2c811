//! The short way of plain packets ([`trunkline_packet::plain`]): where they go is looked up once for each address, as
//! far as the tables say, and remembered until they change. Neighbours are asked for each packet, as they change at
//! any time. What cannot go this way is told from what can before anything is changed, and goes by
//! [`crate::Router::receive`].

use std::net::{IpAddr, Ipv6Addr};

use trunkline_packet::plain::{L3, LEAST_V4, MAPPED};
use trunkline_packet::{DropReason, EtherType, MacAddr, Packet, Plain, Pool};

use crate::build;
use crate::iface::{IfaceId, Zone};
use crate::neighbour::bits;
use crate::receive::exceeds;
use crate::router::{Exit, Router, Sink};
use crate::tables::{Hop, Tables, Target};

/// What a leg is looked up by, beside the address: in which way, and of which zone or uplink.
const OUT: u32 = 1 << 16;
const ENTRY: u32 = 2 << 16;
const IN: u32 = 3 << 16;
const OWN: u32 = 4 << 16;

/// Legs remembered; each has one place. Anybody can make addresses that share a place; they cost a lookup.
const LEGS: usize = 4096;

/// Where packets to an address go, as the tables say.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Leg {
    /// The address, IPv4 in mapped form as all here.
    addr: u128,
    /// The neighbour.
    next: u128,
    scope: u32,
    /// Where that was in the table of neighbours: a guess.
    slot: u32,
    iface: IfaceId,
    mtu: u16,
    mac: MacAddr,
    /// By an interface on which packets may leave that come from its own addresses only: see `Run::outside`.
    shared: bool,
    /// By the short way.
    known: bool,
}

const NOWHERE: Leg = Leg {
    addr: 0,
    next: 0,
    scope: 0,
    slot: 0,
    iface: IfaceId(u16::MAX),
    mtu: 0,
    mac: MacAddr([0; 6]),
    shared: false,
    known: false,
};

pub(crate) struct Legs(Box<[Leg]>);

/// Where packets to an address go next. Good for a batch, as long as nothing comes in between by which that might change.
#[derive(Clone, Copy, Debug)]
pub struct Next {
    iface: IfaceId,
    mtu: u16,
    shared: bool,
    /// Of the leg.
    place: u32,
    /// The neighbour.
    via: u128,
    /// From when on that is known: the neighbour's MAC address and our own, as they stand in a frame.
    link: Option<[u8; 12]>,
}

impl Next {
    /// By which interface.
    #[inline]
    pub fn iface(&self) -> IfaceId {
        self.iface
    }

    /// The same, knowing what is known of the way of a packet before: most destinations are behind one neighbour.
    #[inline]
    pub fn after(self, last: Option<&Next>) -> Next {
        match last {
            Some(last) if (last.iface, last.via) == (self.iface, self.via) => {
                Next { link: last.link, ..self }
            }
            _ => self,
        }
    }
}

impl Legs {
    pub(crate) fn new() -> Legs {
        Legs(vec![NOWHERE; LEGS].into_boxed_slice())
    }

    /// Forgets everything, because the tables have changed.
    pub(crate) fn clear(&mut self) {
        self.0.fill(NOWHERE);
    }

    #[inline]
    fn get(
        &mut self,
        scope: u32,
        addr: u128,
        tables: &Tables,
        find: impl FnOnce(IpAddr) -> Option<Hop>,
    ) -> Option<Next> {
        let low = addr as u64 ^ (addr >> 64) as u64 ^ u64::from(scope) << 40;
        let place = (low.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 52) as usize % LEGS;
        if self.0[place].addr != addr || self.0[place].scope != scope {
            self.fill(place, scope, addr, tables, find(Ipv6Addr::from(addr).to_canonical()));
        }
        let leg = &self.0[place];
        let (iface, via, place) = (leg.iface, leg.next, place as u32);
        leg.known.then_some(Next { iface, mtu: leg.mtu, shared: leg.shared, place, via, link: None })
    }

    #[cold]
    fn fill(&mut self, place: usize, scope: u32, addr: u128, tables: &Tables, hop: Option<Hop>) {
        let leg = &mut self.0[place];
        *leg = Leg { addr, scope, ..NOWHERE };
        if let Some((hop, iface)) = hop.and_then(|hop| Some((hop, tables.iface(hop.iface)?))) {
            (leg.known, leg.next, leg.iface) = (true, bits(hop.next), hop.iface);
            (leg.mtu, leg.mac, leg.shared) = (iface.mtu, iface.mac, iface.is_shared());
        }
    }
}

fn out(tables: &Tables, zone: Zone, dst: IpAddr) -> Option<Hop> {
    let Exit::Hop(first) = Exit::of(tables.reached(zone, dst), dst) else { return None };
    match Exit::of(tables.outside(first.iface, dst), dst) {
        Exit::Hop(hop) if hop.iface == first.iface => Some(hop),
        _ => None,
    }
}

/// Anything, when a packet to an address may come in by an uplink.
fn entry(tables: &Tables, uplink: IfaceId, dst: IpAddr) -> Option<Hop> {
    let broadcast = matches!(tables.outside(uplink, dst), Some(Target::Broadcast(_)));
    (!broadcast).then_some(Hop { iface: uplink, next: dst })
}

fn into(tables: &Tables, zone: Zone, dst: IpAddr) -> Option<Hop> {
    match Exit::of(tables.inside(zone, dst), dst) {
        Exit::Hop(hop) => Some(hop),
        _ => None,
    }
}

/// Anywhere that is no address of ours.
fn beyond(tables: &Tables, uplink: IfaceId, dst: IpAddr) -> Option<Hop> {
    match Exit::of(tables.outside(uplink, dst), dst) {
        Exit::Hop(hop) => Some(hop),
        _ => None,
    }
}

/// The destination of an untagged IP frame.
#[inline]
fn destination(head: &[u8]) -> Option<u128> {
    match EtherType(u16::from_be_bytes(*head.get(12..)?.first_chunk()?)) {
        EtherType::IPV4 => {
            Some(MAPPED | u128::from(u32::from_be_bytes(*head.get(L3 + 16..)?.first_chunk()?)))
        }
        EtherType::IPV6 => Some(u128::from_be_bytes(*head.get(L3 + 24..)?.first_chunk()?)),
        _ => None,
    }
}

impl Router {
    /// Makes a packet of our own, an untagged IP frame to be sent by an uplink, ready for its link, where that is all
    /// there is to do; returns by which interface. Else it is as it was, and to be given to [`Router::send_own`].
    /// `last` is for those that follow in a batch.
    #[inline]
    pub fn link_own(
        &mut self,
        now: u64,
        uplink: IfaceId,
        packet: &mut Packet,
        last: &mut Option<(u128, Next)>,
    ) -> Option<IfaceId> {
        let dst = destination(packet.head())?;
        let next = match last {
            Some((last, next)) if *last == dst => next,
            _ => {
                let (tables, legs) = self.parts();
                let scope = OWN | u32::from(uplink.0);
                let next = legs.get(scope, dst, tables, |dst| beyond(tables, uplink, dst))?;
                let next = next.after(last.as_ref().map(|last| &last.1));
                &mut last.insert((dst, next)).1
            }
        };
        if exceeds(packet, next.mtu) {
            return None;
        }
        if !self.link_by(now, next, packet.head_mut()) {
            self.find_neighbour(next);
            if !self.link_by(now, next, packet.head_mut()) {
                return None;
            }
        }
        Some(next.iface)
    }

    /// Where a plain packet to `dst` from a zone goes by an uplink, if that is where it goes. Addresses are in
    /// IPv6 form, as all here.
    #[inline]
    pub fn way_out(&mut self, zone: Zone, dst: Ipv6Addr) -> Option<Next> {
        let (tables, legs) = self.parts();
        legs.get(OUT | u32::from(zone.0), dst.to_bits(), tables, |dst| out(tables, zone, dst))
    }

    /// Whether a plain packet to `dst` may come in by an uplink.
    #[inline]
    pub fn may_enter(&mut self, uplink: IfaceId, dst: Ipv6Addr) -> bool {
        let (tables, legs) = self.parts();
        let scope = ENTRY | u32::from(uplink.0);
        let entered = legs.get(scope, dst.to_bits(), tables, |dst| entry(tables, uplink, dst));
        entered.is_some()
    }

    /// Where a plain packet that came in by an uplink for `dst`, which is `becomes` inside, goes in a zone.
    #[inline]
    pub fn way_in(&mut self, uplink: IfaceId, dst: Ipv6Addr, zone: Zone, becomes: Ipv6Addr) -> Option<Next> {
        if !self.may_enter(uplink, dst) {
            return None;
        }
        let (tables, legs) = self.parts();
        legs.get(IN | u32::from(zone.0), becomes.to_bits(), tables, |dst| into(tables, zone, dst))
    }

    /// Whether a plain packet, whose padding is gone, can leave as it is; `source` is where it will be from, if it
    /// leaves outside.
    #[inline]
    pub fn fits(&self, next: &Next, packet: &Packet, plain: &Plain, source: Option<Ipv6Addr>) -> bool {
        // A superframe may be larger than what is sent of it.
        let fits = plain.end as usize <= L3 + usize::from(next.mtu) || !exceeds(packet, next.mtu);
        fits && (!next.shared || source.is_none_or(|source| self.may_be_from(next.iface, source)))
    }

    /// See `Run::outside`.
    #[inline(never)]
    fn may_be_from(&self, uplink: IfaceId, source: Ipv6Addr) -> bool {
        let source = source.to_canonical();
        source.is_ipv6() || self.tables().iface(uplink).is_some_and(|iface| iface.owns(source))
    }

    /// Makes a plain packet that fits ready for its link. False when its neighbour has to be seen to first: give it
    /// to [`Router::await_neighbour`].
    #[inline]
    pub fn link(&self, now: u64, next: &mut Next, plain: &Plain, packet: &mut Packet) -> bool {
        let head = packet.head_mut();
        decrement(head, plain.v4);
        self.link_by(now, next, head)
    }

    /// Writes the link header. False when the neighbour has to be seen to.
    #[inline]
    fn link_by(&self, now: u64, next: &mut Next, head: &mut [u8]) -> bool {
        if next.link.is_none() {
            next.link = self.resolve(now, next.place);
        }
        if let (Some(link), Some(front)) = (next.link, head.first_chunk_mut()) {
            *front = link;
        }
        next.link.is_some()
    }

    /// The MAC addresses of a leg.
    #[inline(never)]
    fn resolve(&self, now: u64, place: u32) -> Option<[u8; 12]> {
        let leg = self.legs().0.get(place as usize)?;
        let to = self.neighbours().resolve_at(leg.slot, now, leg.iface, leg.next)?;
        let mut link = [0; 12];
        build::link(&mut link, to, leg.mac);
        Some(link)
    }

    /// Looks up where the neighbour is in their table, and remembers it with the leg.
    #[inline(never)]
    fn find_neighbour(&mut self, next: &Next) -> Hop {
        let leg = &self.legs().0[next.place as usize];
        let hop = Hop { iface: leg.iface, next: Ipv6Addr::from(leg.next).to_canonical() };
        if let Some(slot) = self.neighbours().slot_of(hop.iface, hop.next) {
            self.parts().1.0[next.place as usize].slot = slot;
        }
        hop
    }

    /// As the last of what [`Router::transmit`] does, for a packet that [`Router::link`] has left.
    #[cold]
    pub fn await_neighbour<S: Sink>(
        &mut self,
        now: u64,
        next: &Next,
        packet: Packet,
        pool: &mut Pool,
        sink: &mut S,
    ) {
        let hop = self.find_neighbour(next);
        let mut run = self.run(now, pool, sink);
        match run.tables.iface(hop.iface) {
            Some(iface) => run.hand_over(iface, hop, packet, false),
            None => run.lose(hop.iface, packet, DropReason::RouterNoRoute),
        }
    }
}

/// Takes one off the TTL, which is more than one, or hop limit (RFC 1812 §5.3.1), with the header checksum (RFC 1624).
#[inline]
fn decrement(head: &mut [u8], v4: bool) {
    let Some(h) = head.first_chunk_mut::<LEAST_V4>() else { return };
    if !v4 {
        h[21] = h[21].wrapping_sub(1);
        return;
    }
    h[22] = h[22].wrapping_sub(1);
    // What the header loses, its complement gains; a carry comes back in below.
    let check = u32::from(u16::from_be_bytes([h[24], h[25]])) + 0x100;
    [h[24], h[25]] = ((check + u32::from(check >= 0xffff)) as u16).to_be_bytes();
}

#[cfg(test)]
mod tests {
    use super::*;
    use trunkline_packet::checksum;

    #[test]
    fn one_less_is_what_rfc_1624_says() {
        for ttl in [2u8, 3, 64, 255] {
            for check in 0..=u16::MAX {
                let mut head = [0; LEAST_V4];
                (head[22], head[23]) = (ttl, 17);
                head[24..26].copy_from_slice(&check.to_be_bytes());
                decrement(&mut head, true);
                let old = u16::from_be_bytes([ttl, 17]);
                let want = checksum::update(check, old, old - 0x100);
                assert_eq!((head[22], [head[24], head[25]]), (ttl - 1, want.to_be_bytes()));
            }
        }
    }

    #[test]
    fn a_leg_is_a_cache_line() {
        assert_eq!(size_of::<Leg>(), 64);
    }
}
