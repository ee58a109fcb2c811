//! Fragments: each gets the ports that only the first one carries.
//!
//! Semantics. A fragmented packet is known by zone or uplink, addresses, protocol and identification. Pieces
//! that come before the first are held. Once the first has come and was let through, held and later pieces
//! follow it with its ports. Pieces that overlap, contradict each other about the end, or lie past 65,535
//! bytes condemn the whole packet (RFC 5722 §4, RFC 1858, RFC 3128): the rest of it is dropped.
//!
//! Attack model. Memory is bounded: the table is fixed and holds a bounded number of pieces. It is split into
//! rows by the sender's address under a secret hash, so a sender can only displace what is in its row. Time
//! is bounded by [`crate::Timeouts::fragment`] from the first piece seen.

use std::hash::BuildHasher;
use std::net::Ipv6Addr;

use trunkline_packet::Packet;

use crate::parse::Piece;
use crate::types::Path;

const ROWS: usize = 64;
/// Fragmented packets in a row.
const WAYS: usize = 16;
/// Pieces that a row holds: more than one packet of the largest size at an MTU of 1500.
const ROW_HELD: usize = 64;
/// Gaps in one packet that can be kept in mind.
const RANGES: usize = 24;

/// Which packet a fragment is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct PacketId {
    pub(crate) path: Path,
    pub(crate) src: Ipv6Addr,
    pub(crate) dst: Ipv6Addr,
    pub(crate) proto: u8,
    pub(crate) id: u32,
}

/// What to do with a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// It is the first: translate it, then say with [`Fragments::first`] what became of it.
    First(u32),
    /// Do with it as with the first.
    Follow(Way),
    /// Keep it with [`Fragments::hold`].
    Hold(u32),
    /// It overlaps or contradicts; what is held goes too, see [`Fragments::release`].
    Condemned(u32),
    /// Its packet was condemned or dropped before.
    Lost,
    /// No room; what is held goes too.
    Full(u32),
}

/// Where the pieces of a packet go whose first is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Way {
    /// They are translated with these ports, near and remote.
    Ports(u16, u16),
    /// To this worker.
    Worker(u16),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// Waiting for the first.
    Waiting,
    Known(Way),
    Dead,
}

struct Entry {
    id: Option<PacketId>,
    /// Milliseconds.
    until: u64,
    state: State,
    /// What has come, in order, apart.
    ranges: [(u32, u32); RANGES],
    count: usize,
    /// The end, once the last piece has come.
    total: Option<u32>,
    held: u32,
}

const NEW: Entry = Entry {
    id: None,
    until: 0,
    state: State::Waiting,
    ranges: [(0, 0); RANGES],
    count: 0,
    total: None,
    held: 0,
};

/// The table.
pub(crate) struct Fragments {
    entries: Box<[Entry]>,
    /// By row; the number is the entry.
    held: Box<[Vec<(u32, Packet)>]>,
    hash: foldhash::quality::RandomState,
    /// The row to look through next.
    cursor: usize,
    /// Entries in use.
    live: usize,
}

/// The largest IP payload.
const MAX: u32 = 65_535;

impl Fragments {
    pub(crate) fn new() -> Fragments {
        Fragments {
            entries: (0..ROWS * WAYS).map(|_| NEW).collect(),
            held: (0..ROWS).map(|_| Vec::with_capacity(ROW_HELD)).collect(),
            hash: foldhash::quality::RandomState::default(),
            cursor: 0,
            live: 0,
        }
    }

    /// Pieces held now.
    pub(crate) fn held(&self) -> usize {
        self.held.iter().map(Vec::len).sum()
    }

    /// Takes note of a fragment. Pieces that had to go to make room are handed to `gone`.
    pub(crate) fn take(
        &mut self,
        now: u64,
        timeout: u64,
        id: PacketId,
        piece: Piece,
        gone: &mut impl FnMut(Packet),
    ) -> Fate {
        let row = self.hash.hash_one((id.path, u128::from(id.src))) as usize % ROWS;
        self.expire(row, now, gone);
        let ways = &self.entries[row * WAYS..(row + 1) * WAYS];
        let at = match ways.iter().position(|e| e.id == Some(id)) {
            Some(way) => row * WAYS + way,
            None => {
                let oldest = (0..WAYS).min_by_key(|&w| ways[w].id.map_or(0, |_| ways[w].until));
                let at = row * WAYS + oldest.unwrap_or(0);
                self.clear(at, gone);
                self.entries[at] = Entry { id: Some(id), until: now.saturating_add(timeout), ..NEW };
                self.live += 1;
                at
            }
        };
        let entry = &mut self.entries[at];
        if entry.state == State::Dead {
            return Fate::Lost;
        }
        if !entry.note(piece) {
            entry.state = State::Dead;
            return Fate::Condemned(at as u32);
        }
        match entry.state {
            State::Known(way) => {
                if entry.is_complete() {
                    self.clear(at, gone);
                }
                Fate::Follow(way)
            }
            _ if piece.from == 0 => Fate::First(at as u32),
            _ if self.held[row].len() < ROW_HELD => Fate::Hold(at as u32),
            _ => {
                entry.state = State::Dead;
                Fate::Full(at as u32)
            }
        }
    }

    /// Keeps a piece.
    pub(crate) fn hold(&mut self, at: u32, packet: Packet) {
        self.entries[at as usize].held += 1;
        self.held[at as usize / WAYS].push((at, packet));
    }

    /// What became of the first piece; `None` if it was dropped. Then take the held ones with
    /// [`Fragments::release`].
    pub(crate) fn first(&mut self, at: u32, way: Option<Way>) {
        let entry = &mut self.entries[at as usize];
        entry.state = way.map_or(State::Dead, State::Known);
        if way.is_some() && entry.is_complete() && entry.held == 0 {
            entry.id = None;
            self.live -= 1;
        }
    }

    /// The next held piece of a packet, in the order of arrival.
    pub(crate) fn release(&mut self, at: u32) -> Option<Packet> {
        let entry = &mut self.entries[at as usize];
        if entry.held == 0 {
            return None;
        }
        let row = &mut self.held[at as usize / WAYS];
        let i = row.iter().position(|(e, _)| *e == at)?;
        entry.held -= 1;
        if entry.held == 0 && entry.is_complete() && matches!(entry.state, State::Known(_)) {
            entry.id = None;
            self.live -= 1;
        }
        Some(row.remove(i).1)
    }

    /// Gives up packets whose time is over, a few rows at a time.
    pub(crate) fn sweep(&mut self, now: u64, rows: usize, gone: &mut impl FnMut(Packet)) {
        for _ in 0..if self.live == 0 { 0 } else { rows.min(ROWS) } {
            self.expire(self.cursor, now, gone);
            self.cursor = (self.cursor + 1) % ROWS;
        }
    }

    fn expire(&mut self, row: usize, now: u64, gone: &mut impl FnMut(Packet)) {
        for at in row * WAYS..(row + 1) * WAYS {
            if self.entries[at].id.is_some() && self.entries[at].until <= now {
                self.clear(at, gone);
            }
        }
    }

    fn clear(&mut self, at: usize, gone: &mut impl FnMut(Packet)) {
        while let Some(packet) = self.release(at as u32) {
            gone(packet);
        }
        if self.entries[at].id.take().is_some() {
            self.live -= 1;
        }
    }
}

impl Entry {
    fn is_complete(&self) -> bool {
        self.count == 1 && self.ranges[0].0 == 0 && self.total == Some(self.ranges[0].1)
    }

    /// Adds a piece to what has come. False when the packet cannot be believed.
    fn note(&mut self, p: Piece) -> bool {
        let sound = p.from < p.to && p.to <= MAX && (!p.more || p.to.is_multiple_of(8));
        if !sound || self.total.is_some_and(|total| p.to > total || !p.more) {
            return false;
        }
        let known = &self.ranges[..self.count];
        let i = known.partition_point(|r| r.1 <= p.from);
        if known.get(i).is_some_and(|r| r.0 < p.to) {
            return false;
        }
        if !p.more {
            if i < self.count {
                return false;
            }
            self.total = Some(p.to);
        }
        let joins_left = i > 0 && self.ranges[i - 1].1 == p.from;
        let joins_right = i < self.count && self.ranges[i].0 == p.to;
        match (joins_left, joins_right) {
            (true, true) => {
                self.ranges[i - 1].1 = self.ranges[i].1;
                self.ranges.copy_within(i + 1..self.count, i);
                self.count -= 1;
            }
            (true, false) => self.ranges[i - 1].1 = p.to,
            (false, true) => self.ranges[i].0 = p.from,
            (false, false) => {
                if self.count == RANGES {
                    return false;
                }
                self.ranges.copy_within(i..self.count, i + 1);
                self.ranges[i] = (p.from, p.to);
                self.count += 1;
            }
        }
        true
    }
}
