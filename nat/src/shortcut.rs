//! The short way of packets of connections that are known.
//!
//! Nothing is remembered for it: a packet is looked up in the table as any other, its entry is held against the
//! time and the rules as any other's, the same functions track it. What is left out is what can only concern packets
//! that begin, end, or have something special about them: those are refused here, untouched, and go by
//! [`Nat::process_batch`]. So a decision cannot outlive its reason, and there is nothing to flood.

use trunkline_packet::headers::TCP_HLEN;
use trunkline_packet::{Packet, Plain, prefetch};

use crate::list::NIL;
use crate::nat::Nat;
use crate::rewrite::{self, End};
use crate::tcp::Segment;
use crate::types::{Key, Side, Uplink, Zone};
use crate::wheel::Tick;

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
    key: Key,
    side: Side,
    hint: u32,
    hash: u64,
}

/// The connection of a packet.
#[derive(Clone, Copy, Debug)]
pub struct Known {
    at: u32,
    /// Where its inside is.
    pub zone: Zone,
    /// Where its outside is.
    pub uplink: Uplink,
    /// The address that the translation puts in, IPv4 in mapped form: the source of what goes out, the destination
    /// of what comes in.
    pub becomes: u128,
}

impl Nat {
    /// Says by what a packet will be found, and has the memory for that brought near.
    #[inline]
    pub fn glance(&self, from: Arrival, plain: Plain) -> Glance {
        let (side, key) = match from {
            Arrival::Inside(zone) => (Side::Inside, Key::plain_inside(zone, &plain)),
            Arrival::Outside(uplink) => (Side::Outside, Key::plain_outside(uplink, &plain)),
        };
        let hash = self.table.hash(&key);
        self.table.touch(hash);
        Glance { plain, key, side, hash, hint: NIL }
    }

    /// Finds the entry that may be the packet's, and has it brought near.
    #[inline]
    pub fn approach(&self, glance: &mut Glance) {
        if let Some(at) = self.table.candidate(glance.hash)
            && let Some(conn) = self.table.conns.get(at as usize)
        {
            glance.hint = at;
            prefetch(conn);
            prefetch(&conn.tcp);
        }
    }

    /// The connection of a packet, if it may go the short way. Nothing is changed yet.
    #[inline]
    pub fn known(&self, now: u64, glance: &Glance) -> Option<Known> {
        let now = now.saturating_sub(self.start?);
        let mut at = glance.hint;
        let mut conn = self.table.conns.get(at as usize)?;
        if conn.is_free() || self.table.key(conn, glance.side) != glance.key {
            // Another of the same tag, or one that went since it was looked up.
            at = self.table.find(glance.side, &glance.key, glance.hash)?;
            conn = self.table.conns.get(at as usize)?;
        }
        if conn.deadline <= Tick::at(now) || conn.version != self.version || !conn.is_ordinary() {
            return None;
        }
        let becomes = if glance.side == Side::Inside { conn.external.0 } else { conn.local.0 };
        Some(Known { at, zone: conn.zone, uplink: conn.uplink, becomes: becomes.addr.to_bits() })
    }

    /// Tracks and translates a packet. It goes on to the outside of its connection if it came from inside, and
    /// the other way round. False: untouched, for [`Nat::process_batch`].
    #[inline]
    pub fn pass(&mut self, now: u64, glance: &Glance, known: &Known, packet: &mut Packet) -> bool {
        let now = self.since_start(now);
        let Some(conn) = self.table.conns.get_mut(known.at as usize) else { return false };
        if glance.plain.tcp {
            let Some(segment) = segment(packet, &glance.plain) else { return false };
            // A refused segment changes nothing, and is refused again.
            if !segment.continues() || conn.tcp.take(glance.side, &segment).is_err() {
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
        self.refresh(now, glance.side, known.at, glance.plain.end as usize);
        true
    }
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
