//! The short way of plain packets, of connections that are known and of those that they begin.
//!
//! Nothing is remembered for it: a packet is looked up in the table as any other, its entry is held against the
//! time and the rules as any other's, the same functions track it, and begin a connection. What is left out is what can
//! only concern packets that have something special about them: those are refused here, untouched, and go by
//! [`Nat::process_batch`]. So a decision cannot outlive its reason, and there is nothing to flood.

use std::net::Ipv6Addr;

use trunkline_packet::headers::TCP_HLEN;
use trunkline_packet::{Packet, Plain, prefetch};

use crate::DropReason;
use crate::conn::Conn;
use crate::list::NIL;
use crate::nat::Nat;
use crate::parse::{Kind, Seen};
use crate::rewrite::{self, End};
use crate::shard::shard_of;
use crate::tcp::Segment;
use crate::types::{Endpoint, Key, Outside, Path, Side, Uplink, Zone};

/// Where a packet came in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// From a host inside.
    Inside(Zone),
    /// From the world.
    Outside(Uplink),
}

/// A packet that is looked up ahead.
#[derive(Clone, Copy, Debug)]
pub struct Glance {
    /// What it is.
    pub plain: Plain,
    side: Side,
    /// The zone's or the uplink's number.
    scope: u16,
    hint: u32,
    hash: u64,
    /// Its place in what was foreseen of the batch, if anything was.
    foreseen: u32,
}

impl Glance {
    /// What it is found by.
    #[inline]
    fn key(&self) -> Key {
        match self.side {
            Side::Inside => Key::plain_inside(Zone(self.scope), &self.plain),
            Side::Outside => Key::plain_outside(Uplink(self.scope), &self.plain),
        }
    }

    /// Whether it is of this connection, if that is an ordinary one.
    #[inline]
    fn is_of(&self, conn: &Conn) -> bool {
        conn.is_ordinary()
            && self.key()
                == match self.side {
                    Side::Inside => Key::inside(conn.zone, conn.proto, conn.local, conn.remote),
                    Side::Outside => conn.outside_key(),
                }
    }
}

/// What there is to a packet in the table.
#[derive(Clone, Copy, Debug)]
pub enum Found {
    /// A connection by which it may go the short way.
    Known(Known),
    /// Nothing: it may begin one, [`Nat::begin_plain`].
    Nothing,
    /// A connection by which it may not.
    Special,
}

/// The connection of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    at: u32,
    /// It has begun with this packet, which is tracked already.
    fresh: bool,
    /// Where its inside is.
    pub zone: Zone,
    /// Where its outside is.
    pub uplink: Uplink,
    /// The address that the translation puts in, IPv4 in mapped form: the source of what goes out, the destination
    /// of what comes in.
    pub becomes: Ipv6Addr,
}

impl Nat {
    /// Says by what a packet will be found, and has the memory for that brought near.
    #[inline]
    pub fn glance(&self, from: Arrival, plain: Plain) -> Glance {
        let (side, scope) = match from {
            Arrival::Inside(zone) => (Side::Inside, zone.0),
            Arrival::Outside(uplink) => (Side::Outside, uplink.0),
        };
        let mut glance = Glance { plain, side, scope, hash: 0, hint: NIL, foreseen: NIL };
        glance.hash = self.table.hash(&glance.key());
        self.table.touch(glance.hash);
        glance
    }

    /// Finds the entry that may be the packet's, and has it brought near. False when there is none yet.
    #[inline]
    pub fn approach(&self, glance: &mut Glance) -> bool {
        let Some(at) = self.table.candidate(glance.hash) else { return false };
        if let Some(conn) = self.table.conns.get(at as usize) {
            glance.hint = at;
            prefetch(conn);
            prefetch(&conn.tcp);
        }
        true
    }

    /// Of a packet from inside that [`Nat::approach`] has found nothing for, and which goes to an uplink: has what it
    /// will need to begin a connection brought near. `place`: its own in the batch, below [`trunkline_packet::BATCH`].
    #[inline]
    pub fn foresee(&mut self, place: usize, glance: &mut Glance, zone: Zone, uplink: Uplink) {
        let foreseen = self.foresee_leaving(zone, uplink, &seen(glance));
        if let (Some(slot), Some(_)) = (self.foreseen.get_mut(place), &foreseen) {
            *slot = foreseen;
            glance.foreseen = place as u32;
        }
    }

    /// What there is to a packet. Nothing is changed yet.
    #[inline(always)]
    pub fn known(&self, glance: &Glance) -> Found {
        match self.table.conns.get(glance.hint as usize) {
            Some(conn) if glance.is_of(conn) && self.is_valid(conn) => {
                Found::Known(as_known(conn, glance.side, glance.hint, false))
            }
            _ => self.find(glance),
        }
    }

    /// The same without a good guess: another of the same tag, one that went since it was looked up, or one that came.
    #[inline(never)]
    pub fn find(&self, glance: &Glance) -> Found {
        let Some(at) = self.table.find(glance.side, &glance.key(), glance.hash) else {
            return Found::Nothing;
        };
        match &self.table.conns[at as usize] {
            conn if conn.is_ordinary() && self.is_valid(conn) => {
                Found::Known(as_known(conn, glance.side, at, false))
            }
            _ => Found::Special,
        }
    }

    /// Whether an entry has neither expired nor is to be held against changed rules.
    #[inline]
    fn is_valid(&self, conn: &Conn) -> bool {
        conn.deadline > self.tick && conn.version == self.version
    }

    /// Begins a connection with a packet for which there is nothing: one of UDP, or a SYN. `uplink`: where it goes
    /// to, or came from. `None`: untouched, for [`Nat::process_batch`]; also when what it has begun is nothing for
    /// the short way.
    ///
    /// # Errors
    /// Why the packet ends here. Of those from outside, the router has a say.
    pub fn begin_plain(
        &mut self,
        glance: &Glance,
        uplink: Uplink,
        from: Arrival,
        packet: &Packet,
    ) -> Option<Result<Known, DropReason>> {
        let segment = match glance.plain.is_tcp() {
            true => Some(segment(packet, &glance.plain).filter(Segment::begins)?),
            false => None,
        };
        let seen = seen(glance);
        let (own, workers) = self.config.shard;
        let path = match from {
            Arrival::Inside(zone) if workers <= 1 || shard_of(seen.near.port, workers) == own => {
                Path::Out(zone, uplink)
            }
            // Whom nobody is to be reached by is not for us alone to say.
            Arrival::Outside(_) => {
                self.rules.entrance(uplink, seen.ip.proto, Outside(seen.near))?;
                let mine = workers <= 1 || self.target(uplink, seen.ip.proto, Outside(seen.near)) == own;
                mine.then_some(Path::In(uplink))?
            }
            Arrival::Inside(_) => return None,
        };
        // Hairpins, and what claims to be from us.
        if self.rules.is_external(uplink, seen.remote.addr) {
            return None;
        }
        let foreseen = self.foreseen.get(glance.foreseen as usize).copied().flatten();
        let hashes = (glance.hash, foreseen.as_ref());
        let at = match self.open(self.now, path, &seen, segment.as_ref(), hashes) {
            Ok(at) => at,
            Err(reason) => return Some(Err(reason)),
        };
        let conn = &mut self.table.conns[at as usize];
        if !conn.is_ordinary() {
            return None;
        }
        if let Some(segment) = &segment
            && let Err(reason) = conn.tcp.take(glance.side, segment)
        {
            return Some(Err(reason));
        }
        Some(Ok(as_known(conn, glance.side, at, true)))
    }

    /// Tracks and translates a packet. It goes on to the outside of its connection if it came from inside, and
    /// the other way round. False: untouched, for [`Nat::process_batch`].
    #[inline]
    pub fn pass(&mut self, glance: &Glance, known: &Known, packet: &mut Packet) -> bool {
        let Some(conn) = self.table.conns.get_mut(known.at as usize) else { return false };
        if glance.plain.is_tcp() && !known.fresh {
            let Some(segment) = segment(packet, &glance.plain) else { return false };
            if !segment.flags_ok() {
                return false;
            }
            // A refused segment changes nothing, and is refused again.
            let before = conn.tcp;
            if conn.tcp.take(glance.side, &segment).is_err() {
                conn.tcp = before;
                return false;
            }
        }
        let (end, from, to) = match glance.side {
            Side::Inside => (End::Source, conn.local.0, conn.external.0),
            Side::Outside => (End::Destination, conn.external.0, conn.local.0),
        };
        if from != to {
            rewrite::plain(packet, &glance.plain, end, to);
        }
        let len = glance.plain.end as usize;
        if conn.deadline <= self.udp_until && !glance.plain.is_tcp() && conn.is_settled(glance.side) {
            conn.deadline = self.udp_until;
            self.rules.count(conn.rule(), len);
        } else {
            self.refresh(self.now, glance.side, known.at, len);
        }
        true
    }
}

#[inline]
fn as_known(conn: &Conn, side: Side, at: u32, fresh: bool) -> Known {
    let becomes = if side == Side::Inside { conn.external.0 } else { conn.local.0 };
    Known { at, fresh, zone: conn.zone, uplink: conn.uplink, becomes: becomes.addr }
}

/// A plain packet as others see it.
#[inline]
fn seen(glance: &Glance) -> Seen {
    let p = &glance.plain;
    let end = |addr, port: u32| Endpoint { addr, port: port as u16 };
    let (src, dst) = (end(p.src, p.ports >> 16), end(p.dst, p.ports));
    let (near, remote) = if glance.side == Side::Inside { (src, dst) } else { (dst, src) };
    Seen { ip: p.headers(), kind: if p.is_tcp() { Kind::Tcp } else { Kind::Udp }, near, remote }
}

/// The TCP segment; `None` when there is something wrong with it.
#[inline]
fn segment(packet: &Packet, plain: &Plain) -> Option<Segment> {
    let (l4, head) = (plain.l4(), packet.head());
    let tcp = head.get(l4..)?;
    let header = usize::from(*tcp.get(12)? >> 4) * 4;
    let len = plain.end.checked_sub((l4 + header) as u32)?;
    let whole = header >= TCP_HLEN && header <= tcp.len();
    Segment::parse(tcp, header, len).filter(|_| whole)
}

#[cfg(test)]
mod tests {
    use super::Glance;

    #[test]
    fn a_glance_is_a_cache_line() {
        assert_eq!(size_of::<Option<Glance>>(), 64);
    }
}
