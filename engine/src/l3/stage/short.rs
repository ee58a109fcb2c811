//! The short way: packets of known connections, looked up for a whole batch before the first is decided on, and
//! carried to their egress one after the other without being queued in between.
//!
//! It decides nothing by itself. The router says whether a packet is plain and where it goes, the translation whether
//! its connection is known and may go on; only when both do is anything changed. What either declines, as it came,
//! goes the long way, and what was queued there before goes first, so that packets keep their order.

use trunkline_nat::{Arrival, Glance};
use trunkline_packet::{BATCH, Batch, Packet, Plain, PortId};
use trunkline_router::{IfaceId, Zone};

use super::{L3, Out, Role, Ways};

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
            for glance in &ahead {
                let Some(packet) = packets.next() else { break };
                let declined = match glance {
                    Some(glance) => self.shortcut(at, from, glance, packet, out),
                    None => Some(packet),
                };
                if let Some(packet) = declined {
                    self.receive(at, packet, out);
                }
            }
        }
        drop(packets);
        self.ahead = ahead;
    }

    /// First pass: what each packet is, and where its connection may be.
    #[inline]
    fn look_ahead(&self, at: IfaceId, from: Arrival, packets: &[Packet], ahead: &mut Vec<Option<Glance>>) {
        ahead.clear();
        let iface = self.view.tables.iface(at);
        ahead.extend(packets.iter().map(|packet| {
            let iface = iface?;
            let plain = Plain::read(iface.mac, packet).filter(|plain| !iface.is_claimed_by(plain.src))?;
            Some(self.nat.glance(from, plain))
        }));
        for glance in ahead.iter_mut().flatten() {
            self.nat.approach(glance);
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
        out: &mut Out<'_>,
    ) -> Option<Packet> {
        let mut known = self.nat.known(self.now, glance);
        if known.is_some() && self.path.is_some() {
            // What waits came before, and may need the room that this connection has.
            self.translate(at, out);
            known = self.nat.known(self.now, glance);
        }
        let Some(known) = known else { return Some(packet) };
        // What lies behind is padding of the link.
        if packet.len() > glance.plain.end as usize {
            packet.truncate(glance.plain.end as usize);
        }
        let (plain, outward) = (&glance.plain, matches!(from, Arrival::Inside(_)));
        let next = match from {
            Arrival::Inside(zone) => self.router.way_out(Zone(zone.0), plain.dst).filter(|next| {
                self.view.role(PortId(next.iface().0)) == Role::Uplink(known.uplink)
                    && self.router.fits(next, &packet, plain, Some(known.becomes))
            }),
            Arrival::Outside(_) => self
                .router
                .way_in(at, plain.dst, Zone(known.zone.0), known.becomes)
                .filter(|next| self.router.fits(next, &packet, plain, None)),
        };
        let Some(next) = next else { return Some(packet) };
        if !self.nat.pass(self.now, glance, &known, &mut packet) {
            return Some(packet);
        }
        let to = PortId(next.iface().0);
        if !self.router.link(self.now, &next, plain, &mut packet) {
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
}

#[cfg(test)]
mod tests;
