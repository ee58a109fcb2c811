//! The short way: plain packets, of known connections or beginning one, looked up for a whole batch before the first is
//! decided on, and carried to their egress one after the other without being queued in between.
//!
//! It decides nothing by itself. The router says whether a packet is plain and where it goes, the translation whether
//! its connection is known, or may begin, and may go on; only when both do is anything changed. What either declines, as
//! it came, goes the long way, and what was queued there before goes first, so that packets keep their order.

use trunkline_nat::{Arrival, Found, Glance, Known};
use trunkline_packet::{BATCH, Batch, Packet, Plain, PortId};
use trunkline_router::{IfaceId, Linked, Next, Zone};

use super::{L3, Out, Role, Ways};

/// Where the packet before went: packets to one destination come in runs. Kept while nothing happens in between by
/// which that might change.
#[derive(Clone, Copy, Default)]
struct Last {
    /// A destination from inside, and its way.
    way: Option<(u128, Next, trunkline_nat::Uplink)>,
    /// A neighbour, and its link.
    linked: Option<Linked>,
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
            let mut last = Last::default();
            for glance in &ahead {
                let Some(packet) = packets.next() else { break };
                let declined = match glance {
                    Some(glance) => self.shortcut(at, from, glance, packet, &mut last, out),
                    None => Some(packet),
                };
                if let Some(packet) = declined {
                    last = Last::default();
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
                && let Some((_, uplink)) = self.way_out(zone, glance)
            {
                self.nat.foresee(place, glance, zone, uplink);
            }
        }
    }

    /// Where a packet from inside goes, if that is an uplink.
    #[inline]
    fn way_out(
        &mut self,
        zone: trunkline_nat::Zone,
        glance: &Glance,
    ) -> Option<(Next, trunkline_nat::Uplink)> {
        let next = self.router.way_out(Zone(zone.0), glance.plain.dst)?;
        match self.view.role(PortId(next.iface().0)) {
            Role::Uplink(uplink) => Some((next, uplink)),
            _ => None,
        }
    }

    /// Second pass: the packet, as it came, if it cannot go this way.
    #[inline]
    fn shortcut(
        &mut self,
        at: IfaceId,
        from: Arrival,
        glance: &Glance,
        mut packet: Packet,
        last: &mut Last,
        out: &mut Out<'_>,
    ) -> Option<Packet> {
        let mut found = self.nat.known(self.now, glance);
        if !matches!(found, Found::Special) && self.path.is_some() {
            // What waits came before, and may need the room that this connection has, or be of the same.
            *last = Last::default();
            self.translate(at, out);
            found = self.nat.known(self.now, glance);
        }
        if matches!(found, Found::Special) {
            return Some(packet);
        }
        let (plain, outward) = (&glance.plain, matches!(from, Arrival::Inside(_)));
        // What lies behind is padding of the link.
        if packet.len() > plain.end as usize {
            packet.truncate(plain.end as usize);
        }
        let way_out = match from {
            Arrival::Inside(zone) => match last.way {
                Some((dst, next, uplink)) if dst == plain.dst => Some((next, uplink)),
                _ => {
                    let way = self.way_out(zone, glance);
                    last.way = way.map(|(next, uplink)| (plain.dst, next, uplink));
                    way
                }
            },
            Arrival::Outside(_) => None,
        };
        let known = match found {
            Found::Known(known) => known,
            _ => match self.begin_connection(at, from, way_out, glance, packet, out) {
                (Some(known), Some(fresh)) => {
                    packet = fresh;
                    known
                }
                (_, declined) => return declined,
            },
        };
        let next = match from {
            Arrival::Inside(_) => way_out.filter(|(next, uplink)| {
                *uplink == known.uplink && self.router.fits(next, &packet, plain, Some(known.becomes))
            }),
            Arrival::Outside(uplink) => self
                .router
                .way_in(at, plain.dst, Zone(known.zone.0), known.becomes)
                .filter(|next| self.router.fits(next, &packet, plain, None))
                .map(|next| (next, uplink)),
        };
        let Some((next, _)) = next else { return Some(packet) };
        if !self.nat.pass(self.now, glance, &known, &mut packet) {
            return Some(packet);
        }
        let to = PortId(next.iface().0);
        if !self.router.link(self.now, &next, plain, &mut last.linked, &mut packet) {
            *last = Last::default();
            with_router!(self, out, |router, now, pool, ways| {
                router.await_neighbour(now, &next, packet, pool, ways);
            });
        } else if outward && out.snapshot.port(to).is_some() {
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
        way_out: Option<(Next, trunkline_nat::Uplink)>,
        glance: &Glance,
        packet: Packet,
        out: &mut Out<'_>,
    ) -> (Option<Known>, Option<Packet>) {
        let uplink = match from {
            Arrival::Inside(_) => way_out
                .filter(|(next, _)| self.router.fits(next, &packet, &glance.plain, None))
                .map(|(_, uplink)| uplink),
            Arrival::Outside(uplink) => self.router.may_enter(at, glance.plain.dst).then_some(uplink),
        };
        let begun = uplink.and_then(|uplink| self.nat.begin_plain(self.now, glance, uplink, from, &packet));
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
