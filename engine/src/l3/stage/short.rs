//! The short way: plain packets, of known connections or beginning one, looked up for a whole batch before the first is
//! decided on, and carried to their egress one after the other without being queued in between.
//!
//! It decides nothing by itself. The router says whether a packet is plain and where it goes, the translation whether
//! its connection is known, or may begin, and may go on; only when both do is anything changed. What either declines, as
//! it came, goes the long way, and what was queued there before goes first, so that packets keep their order.

use std::net::Ipv6Addr;

use trunkline_nat::{Arrival, Found, Glance, Known};
use trunkline_packet::{BATCH, Batch, Packet, Plain, PortId};
use trunkline_router::{IfaceId, Next, Zone};

use super::{L3, Out, Role, Ways};

/// Where the packet before went: packets to one destination come in runs. Kept while nothing happens in between by
/// which that might change.
#[derive(Clone, Copy)]
struct Way {
    /// Its destination.
    dst: Ipv6Addr,
    /// As whom it was inside, if it came from outside.
    inside: Option<(trunkline_nat::Zone, Ipv6Addr)>,
    next: Next,
    /// By which it leaves, or came in.
    uplink: trunkline_nat::Uplink,
}

impl L3 {
    /// Where packets of a port come from, if they may go the short way.
    #[inline]
    pub(super) fn arrival(&self, port: PortId) -> Option<Arrival> {
        match self.view.role(port) {
            Role::Gateway(zone) => Some(Arrival::Inside(zone)),
            Role::Uplink(uplink) => Some(Arrival::Outside(uplink)),
            Role::Loopback(_) | Role::None => None,
        }
    }

    /// Carries a batch, each packet by the shortest way that it may go.
    pub(super) fn run_short(&mut self, at: IfaceId, from: Arrival, batch: &mut Batch, out: &mut Out<'_>) {
        let mut ahead = std::mem::take(&mut self.ahead);
        let mut packets = batch.drain(..);
        while !packets.as_slice().is_empty() {
            let len = packets.as_slice().len().min(BATCH);
            self.look_ahead(at, from, &packets.as_slice()[..len], &mut ahead);
            let mut last = None;
            for glance in &ahead {
                let Some(packet) = packets.next() else { break };
                let declined = match glance {
                    Some(glance) => self.shortcut(at, from, glance, packet, &mut last, out),
                    None => Some(packet),
                };
                if let Some(packet) = declined {
                    last = None;
                    self.receive(at, packet, out);
                }
            }
        }
        drop(packets);
        self.ahead = ahead;
    }

    /// First pass: what each packet is, and where its connection may be or will be.
    #[inline]
    fn look_ahead(
        &mut self,
        at: IfaceId,
        from: Arrival,
        packets: &[Packet],
        ahead: &mut Vec<Option<Glance>>,
    ) {
        ahead.clear();
        let iface = self.view.tables.iface(at);
        ahead.extend(packets.iter().map(|packet| {
            let iface = iface?;
            let plain = Plain::read(iface.mac, packet).filter(|plain| !iface.is_claimed_by(plain.src))?;
            Some(self.nat.glance(from, plain))
        }));
        for (place, glance) in ahead.iter_mut().enumerate() {
            let Some(glance) = glance else { continue };
            if !self.nat.approach(glance)
                && let Arrival::Inside(zone) = from
                && let Some(way) = self.way_out(zone, glance.plain.dst, &mut None)
            {
                self.nat.foresee(place, glance, zone, way.uplink);
            }
        }
    }

    /// Where a packet from inside goes, if that is an uplink.
    #[inline]
    fn way_out<'a>(
        &mut self,
        zone: trunkline_nat::Zone,
        dst: Ipv6Addr,
        last: &'a mut Option<Way>,
    ) -> Option<&'a mut Way> {
        if last.as_ref().is_none_or(|way| way.dst != dst) {
            *last = self.find_way_out(zone, dst, last.as_ref());
        }
        last.as_mut()
    }

    #[inline(never)]
    fn find_way_out(&mut self, zone: trunkline_nat::Zone, dst: Ipv6Addr, last: Option<&Way>) -> Option<Way> {
        let next = self.router.way_out(Zone(zone.0), dst)?.after(last.map(|last| &last.next));
        match self.view.role(PortId(next.iface().0)) {
            Role::Uplink(uplink) => Some(Way { dst, inside: None, next, uplink }),
            _ => None,
        }
    }

    /// Where a packet from outside goes.
    #[inline]
    fn way_in<'a>(
        &mut self,
        at: IfaceId,
        dst: Ipv6Addr,
        known: &Known,
        last: &'a mut Option<Way>,
    ) -> Option<&'a mut Way> {
        let inside = Some((known.zone, known.becomes));
        if last.as_ref().is_none_or(|way| way.dst != dst || way.inside != inside) {
            let next = self.router.way_in(at, dst, Zone(known.zone.0), known.becomes);
            let next = next.map(|next| next.after(last.as_ref().map(|last| &last.next)));
            *last = next.map(|next| Way { dst, inside, next, uplink: known.uplink });
        }
        last.as_mut()
    }

    /// Second pass: the packet, as it came, if it cannot go this way.
    #[inline]
    fn shortcut(
        &mut self,
        at: IfaceId,
        from: Arrival,
        glance: &Glance,
        mut packet: Packet,
        last: &mut Option<Way>,
        out: &mut Out<'_>,
    ) -> Option<Packet> {
        let mut found = self.nat.known(glance);
        if self.path.is_some() && !matches!(found, Found::Special) {
            // What waits came before, and may need the room that this connection has, or be of the same.
            *last = None;
            self.translate(at, out);
            found = self.nat.find(glance);
        }
        if matches!(found, Found::Special) {
            return Some(packet);
        }
        let plain = &glance.plain;
        // What lies behind is padding of the link.
        if packet.len() > plain.end as usize {
            packet.truncate(plain.end as usize);
        }
        let known = match found {
            Found::Known(known) => known,
            _ => match self.begin_connection(at, from, glance, packet, last, out) {
                (Some(known), Some(fresh)) => {
                    packet = fresh;
                    known
                }
                (_, declined) => return declined,
            },
        };
        let (way, leaves_as) = match from {
            Arrival::Inside(zone) => (self.way_out(zone, plain.dst, last), Some(known.becomes)),
            Arrival::Outside(_) => (self.way_in(at, plain.dst, &known, last), None),
        };
        let Some(way) = way else { return Some(packet) };
        if way.uplink != known.uplink
            || !self.router.fits(&way.next, &packet, plain, leaves_as)
            || !self.nat.pass(glance, &known, &mut packet)
        {
            return Some(packet);
        }
        let to = PortId(way.next.iface().0);
        if !self.router.link(self.now, &mut way.next, plain, &mut packet) {
            let next = way.next;
            *last = None;
            with_router!(self, out, |router, now, pool, ways| {
                router.await_neighbour(now, &next, packet, pool, ways);
            });
        } else if leaves_as.is_some() && out.snapshot.port(to).is_some() {
            out.egress.push(to, packet);
        } else {
            self.inward.push((to, packet));
        }
        None
    }

    /// Begins a connection with a packet. Both if that was done; the packet alone if it cannot go this way; nothing if
    /// it has ended.
    #[inline]
    fn begin_connection(
        &mut self,
        at: IfaceId,
        from: Arrival,
        glance: &Glance,
        packet: Packet,
        last: &mut Option<Way>,
        out: &mut Out<'_>,
    ) -> (Option<Known>, Option<Packet>) {
        let uplink = match from {
            Arrival::Inside(zone) => self
                .way_out(zone, glance.plain.dst, last)
                .map(|way| (way.next, way.uplink))
                .filter(|(next, _)| self.router.fits(next, &packet, &glance.plain, None))
                .map(|(_, uplink)| uplink),
            Arrival::Outside(uplink) => self.router.may_enter(at, glance.plain.dst).then_some(uplink),
        };
        let begun = uplink.and_then(|uplink| self.nat.begin_plain(glance, uplink, from, &packet));
        match begun {
            None => (None, Some(packet)),
            Some(Ok(known)) => (Some(known), Some(packet)),
            Some(Err(reason)) => {
                if matches!(from, Arrival::Inside(_)) {
                    self.lose(at, packet, reason, out);
                } else {
                    with_router!(self, out, |router, now, pool, ways| {
                        router.unsolicited(now, at, packet, reason, pool, ways);
                    });
                }
                (None, None)
            }
        }
    }
}

#[cfg(test)]
mod tests;
