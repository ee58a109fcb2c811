//! Putting fragments of outer packets together again, for a port as the underlay; kernel sockets do it
//! themselves.
//!
//! Semantics. A packet is known by its addresses, identification and, over IPv4, protocol (RFC 791 §3.2, RFC
//! 8200 §4.5). Fragments may come in any order; an exact repetition of one is dropped. Fragments that overlap,
//! contradict each other about the end, reach past 65,535 bytes, or are not a multiple of eight bytes long
//! condemn the packet: what is held of it is dropped, and so is what still comes of it (RFC 5722 §4, RFC 1858
//! §4, RFC 3128). Congestion marks are combined as RFC 3168 §5.3 says.
//!
//! Attack model. Only fragments for which [`crate::Tunnels::may_carry`] is true should be brought here, so the
//! senders are few, though they can be forged. What is held is bounded in number and memory, for each source
//! and for all; a source that exceeds its share loses its own oldest packets, and when all exceed theirs, the
//! one that holds most does. Nothing is held longer than [`Limits::timeout`].

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use trunkline_packet::buf::{HEAD_ROOM, HEADROOM, TAIL_ROOM};
use trunkline_packet::checksum::{Sum, ipv4_header_ok};
use trunkline_packet::headers::{self, Headers, IPV6_HLEN, IpVersion, read16, read32, write16};
use trunkline_packet::{Checksum, DropCounts, DropReason, Offload, Packet, Pool};

/// The longest payload and the longest IPv4 packet, bytes.
const MAX: u32 = 65535;
/// Fragments of one packet; 64 KiB at the least MTU every IPv4 host takes (576) are 119. A packet in more is
/// condemned.
const PIECES: usize = 128;

/// How much may be held. A fragment counts as the buffer it is in: 2 KiB, or 66 KiB when longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Fragments of all sources.
    pub fragments: usize,
    /// Bytes of all sources.
    pub bytes: usize,
    /// Fragments of one source.
    pub source_fragments: usize,
    /// Bytes of one source.
    pub source_bytes: usize,
    /// How long to wait for the rest of a packet.
    pub timeout: Duration,
}

impl Default for Limits {
    /// 4 MiB, a quarter of it for one source. The time is far below the 60 s of RFC 8200 §4.5: a sender of
    /// 10,000 packets a second comes back to an IPv4 identification after 6.5 s, and fragments of two packets
    /// must not meet (RFC 4963).
    fn default() -> Limits {
        Limits {
            fragments: 2048,
            bytes: 4 << 20,
            source_fragments: 512,
            source_bytes: 1 << 20,
            timeout: Duration::from_secs(2),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    src: IpAddr,
    dst: IpAddr,
    /// 0 over IPv6.
    proto: u8,
    id: u32,
}

/// A fragment as its headers describe it.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    key: Key,
    /// Of the packet's payload.
    from: u32,
    to: u32,
    more: bool,
    /// Where the payload is in the frame.
    at: usize,
    tos: u8,
}

struct Piece {
    from: u32,
    to: u32,
    at: usize,
    packet: Packet,
}

/// A packet of which not all has come.
struct Slot {
    key: Key,
    /// Tells the packets apart that this slot is for in turn.
    generation: u32,
    since: Instant,
    /// In order, apart. Empty for one that is condemned.
    pieces: Vec<Piece>,
    /// Its length, once the last fragment has come.
    total: Option<u32>,
    /// Bit n: a fragment had ECN n.
    ecn: u8,
    bytes: usize,
}

impl Slot {
    fn is_condemned(&self) -> bool {
        self.pieces.is_empty()
    }

    /// A condemned packet occupies a place too.
    fn count(&self) -> usize {
        self.pieces.len().max(1)
    }

    /// Where in the order a fragment belongs, if it fits what is there.
    fn place(&self, new: &Fragment) -> Place {
        let at = self.pieces.partition_point(|p| p.to <= new.from);
        if let Some(p) = self.pieces.get(at)
            && p.from < new.to
        {
            let same = (p.from, p.to) == (new.from, new.to) && new.more == (self.total != Some(p.to));
            return if same { Place::Known(at) } else { Place::Conflict };
        }
        let past_end = self.total.is_some_and(|total| new.to > total || !new.more);
        let behind_last = !new.more && at < self.pieces.len();
        if past_end || behind_last || self.pieces.len() >= PIECES { Place::Conflict } else { Place::At(at) }
    }

    fn is_whole(&self) -> bool {
        let mut next = 0;
        self.pieces.iter().all(|p| std::mem::replace(&mut next, p.to) == p.from) && self.total == Some(next)
    }
}

enum Place {
    At(usize),
    /// The same part is there.
    Known(usize),
    Conflict,
}

#[derive(Clone, Copy, Default)]
struct Usage {
    fragments: usize,
    bytes: usize,
}

/// The fragments of one underlay port.
pub struct Reassembler {
    limits: Limits,
    slots: Vec<Slot>,
    free: Vec<usize>,
    index: HashMap<Key, usize, RandomState>,
    sources: HashMap<IpAddr, Usage, RandomState>,
    all: Usage,
    /// Slots and generations, the oldest first; some are over.
    order: VecDeque<(usize, u32)>,
}

impl Reassembler {
    /// Empty; memory follows use.
    pub fn new(limits: Limits) -> Reassembler {
        Reassembler {
            limits,
            slots: Vec::new(),
            free: Vec::new(),
            index: HashMap::default(),
            sources: HashMap::default(),
            all: Usage::default(),
            order: VecDeque::new(),
        }
    }

    /// Fragments held now.
    pub fn held(&self) -> usize {
        self.index.values().map(|&at| self.slots[at].pieces.len()).sum()
    }

    /// Takes the frame of a fragment ([`crate::open`] says [`DropReason::OuterFragment`]), and gives back the
    /// frame of the whole packet if this was the last that was missing: its `frames` is the number of
    /// fragments. Drops are counted by fragments; their buffers go back to the pool.
    pub fn push(
        &mut self,
        now: Instant,
        packet: Packet,
        pool: &mut Pool,
        drops: &mut DropCounts,
    ) -> Option<Packet> {
        self.expire(now, pool, drops);
        let mut refuse = |packet, reason, pool: &mut Pool| {
            drops.count(reason);
            pool.put(packet);
            None
        };
        let new = match Fragment::parse(&packet) {
            Ok(new) => new,
            Err(reason) => return refuse(packet, reason, pool),
        };
        let found = self.index.get(&new.key).copied();
        let at = match found {
            Some(at) if self.slots[at].is_condemned() => {
                return refuse(packet, DropReason::OuterFragmentConflict, pool);
            }
            Some(at) => at,
            None => self.open(now, new.key),
        };
        let slot = &self.slots[at];
        let place = match slot.place(&new) {
            _ if !new.is_sound() => Place::Conflict,
            Place::Known(i) if !same_payload(&slot.pieces[i], &packet, &new) => Place::Conflict,
            place => place,
        };
        match place {
            Place::Known(_) => return refuse(packet, DropReason::OuterFragmentConflict, pool),
            Place::Conflict => {
                refuse(packet, DropReason::OuterFragmentConflict, pool);
                self.condemn(at, pool, drops);
            }
            Place::At(i) => {
                self.insert(at, i, &new, packet);
                if self.slots[at].is_whole() {
                    return self.finish(at, pool, drops);
                }
            }
        }
        self.shed(new.key.src, pool, drops);
        None
    }

    /// Gives up packets whose time is over.
    pub fn expire(&mut self, now: Instant, pool: &mut Pool, drops: &mut DropCounts) {
        while let Some(at) = self.oldest(|_| true)
            && now.saturating_duration_since(self.slots[at].since) >= self.limits.timeout
        {
            self.close(at, DropReason::OuterFragmentTimeout, pool, drops);
        }
    }

    /// When [`Reassembler::expire`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        let live = self.order.iter().find(|&&(at, generation)| self.is_live(at, generation));
        live.map(|&(at, _)| self.slots[at].since + self.limits.timeout)
    }

    fn open(&mut self, now: Instant, key: Key) -> usize {
        let at = self.free.pop().unwrap_or(self.slots.len());
        if at == self.slots.len() {
            let (pieces, total) = (Vec::new(), None);
            self.slots.push(Slot { key, generation: 0, since: now, pieces, total, ecn: 0, bytes: 0 });
        }
        let slot = &mut self.slots[at];
        (slot.key, slot.since, slot.total, slot.ecn, slot.bytes) = (key, now, None, 0, 0);
        self.index.insert(key, at);
        // What is over goes when it makes up half.
        if self.order.len() >= 2 * self.slots.len().max(32) {
            let mut order = std::mem::take(&mut self.order);
            order.retain(|&(at, generation)| self.is_live(at, generation));
            self.order = order;
        }
        self.order.push_back((at, self.slots[at].generation));
        self.use_more(at, 1, 0);
        at
    }

    fn insert(&mut self, at: usize, place: usize, new: &Fragment, packet: Packet) {
        let bytes = HEADROOM + HEAD_ROOM + if packet.tail().is_empty() { 0 } else { TAIL_ROOM };
        let slot = &mut self.slots[at];
        let before = slot.count();
        slot.pieces.insert(place, Piece { from: new.from, to: new.to, at: new.at, packet });
        slot.ecn |= 1 << (new.tos & 3);
        slot.bytes += bytes;
        if !new.more {
            slot.total = Some(new.to);
        }
        let more = slot.count() - before;
        self.use_more(at, more, bytes);
    }

    fn use_more(&mut self, at: usize, fragments: usize, bytes: usize) {
        let source = self.sources.entry(self.slots[at].key.src).or_default();
        for usage in [source, &mut self.all] {
            usage.fragments += fragments;
            usage.bytes += bytes;
        }
    }

    fn use_less(&mut self, at: usize, fragments: usize, bytes: usize) {
        let src = self.slots[at].key.src;
        if let Some(source) = self.sources.get_mut(&src) {
            source.fragments -= fragments;
            source.bytes -= bytes;
            if source.fragments == 0 {
                self.sources.remove(&src);
            }
        }
        self.all.fragments -= fragments;
        self.all.bytes -= bytes;
    }

    /// Brings the source, then all together, back within the limits.
    fn shed(&mut self, src: IpAddr, pool: &mut Pool, drops: &mut DropCounts) {
        let limits = self.limits;
        while let Some(usage) = self.sources.get(&src)
            && (usage.fragments > limits.source_fragments || usage.bytes > limits.source_bytes)
            && let Some(at) = self.oldest(|key| key.src == src)
        {
            self.close(at, DropReason::OuterFragmentLimit, pool, drops);
        }
        while (self.all.fragments > limits.fragments || self.all.bytes > limits.bytes)
            && let Some(greedy) = self.sources.iter().max_by_key(|(_, u)| u.bytes).map(|(src, _)| *src)
            && let Some(at) = self.oldest(|key| key.src == greedy)
        {
            self.close(at, DropReason::OuterFragmentLimit, pool, drops);
        }
    }

    fn is_live(&self, at: usize, generation: u32) -> bool {
        self.slots[at].generation == generation
    }

    fn oldest(&mut self, wanted: impl Fn(&Key) -> bool) -> Option<usize> {
        while let Some(&(at, generation)) = self.order.front()
            && !self.is_live(at, generation)
        {
            self.order.pop_front();
        }
        let mut live = self.order.iter().filter(|&&(at, generation)| self.is_live(at, generation));
        live.find(|(at, _)| wanted(&self.slots[*at].key)).map(|&(at, _)| at)
    }

    /// Drops what is held of a packet, and remembers it to drop the rest.
    fn condemn(&mut self, at: usize, pool: &mut Pool, drops: &mut DropCounts) {
        let (count, bytes) = (self.slots[at].count(), self.slots[at].bytes);
        self.slots[at].bytes = 0;
        for piece in self.slots[at].pieces.drain(..) {
            drops.count(DropReason::OuterFragmentConflict);
            pool.put(piece.packet);
        }
        self.use_less(at, count - 1, bytes);
    }

    /// Forgets a packet; what is held of it is dropped.
    fn close(&mut self, at: usize, reason: DropReason, pool: &mut Pool, drops: &mut DropCounts) {
        self.use_less(at, self.slots[at].count(), self.slots[at].bytes);
        let slot = &mut self.slots[at];
        for piece in slot.pieces.drain(..) {
            drops.count(reason);
            pool.put(piece.packet);
        }
        slot.generation = slot.generation.wrapping_add(1);
        self.index.remove(&slot.key);
        self.free.push(at);
    }

    /// Makes the packet of its fragments.
    fn finish(&mut self, at: usize, pool: &mut Pool, drops: &mut DropCounts) -> Option<Packet> {
        let mut whole = pool.get();
        match build(&self.slots[at], &mut whole, pool) {
            Ok(()) => {
                self.use_less(at, self.slots[at].count(), self.slots[at].bytes);
                let slot = &mut self.slots[at];
                slot.pieces.drain(..).for_each(|piece| pool.put(piece.packet));
                slot.generation = slot.generation.wrapping_add(1);
                self.index.remove(&slot.key);
                self.free.push(at);
                Some(whole)
            }
            Err(reason) => {
                pool.put(whole);
                self.close(at, reason, pool, drops);
                None
            }
        }
    }
}

impl Fragment {
    fn parse(packet: &Packet) -> Result<Fragment, DropReason> {
        let head = packet.head();
        let ip = Headers::of_frame(head).ok_or(DropReason::TunnelTruncated)?;
        if !ip.is_whole(packet.len()) {
            return Err(DropReason::TunnelTruncated);
        }
        if !ipv4_header_ok(head, &ip) {
            return Err(DropReason::TunnelChecksum);
        }
        let offload = packet.meta().offload;
        if offload.is_gso() || matches!(offload.csum, Checksum::Partial { .. }) {
            return Err(DropReason::BadOffload);
        }
        let (l3, end) = (usize::from(ip.l3), ip.end as usize);
        let word = |at| read16(head, at).ok_or(DropReason::TunnelTruncated);
        let (key, from, more, at, tos) = match ip.version {
            IpVersion::V4 => {
                let address = |at| read32(head, at).map(|bits| IpAddr::from(bits.to_be_bytes()));
                let (Some(src), Some(dst)) = (address(l3 + 12), address(l3 + 16)) else {
                    return Err(DropReason::TunnelTruncated);
                };
                let field = word(l3 + 6)?;
                let key = Key { src, dst, proto: ip.proto, id: word(l3 + 4)?.into() };
                (key, u32::from(field & 0x1fff) * 8, field & 0x2000 != 0, usize::from(ip.l4), head[l3 + 1])
            }
            IpVersion::V6 => {
                let (_, header) = fragment_header(head, l3).ok_or(DropReason::TunnelTruncated)?;
                let address =
                    |at: usize| head.get(at..).and_then(<[u8]>::first_chunk::<16>).copied().map(IpAddr::from);
                let (Some(src), Some(dst), Some(id)) =
                    (address(l3 + 8), address(l3 + 24), read32(head, header + 4))
                else {
                    return Err(DropReason::TunnelTruncated);
                };
                let field = word(header + 2)?;
                let tos = (word(l3)? >> 4) as u8;
                let key = Key { src, dst, proto: 0, id };
                (key, u32::from(field & 0xfff8), field & 1 != 0, header + FRAGMENT_HLEN, tos)
            }
        };
        let len = end.checked_sub(at).ok_or(DropReason::TunnelTruncated)? as u32;
        Ok(Fragment { key, from, to: from + len, more, at, tos })
    }

    /// Possible by itself.
    fn is_sound(&self) -> bool {
        self.from < self.to && self.to <= MAX && (!self.more || self.to.is_multiple_of(8))
    }
}

const FRAGMENT: u8 = 44;
const FRAGMENT_HLEN: usize = 8;

/// Where the "next header" that names the fragment header is, and where that header is (RFC 8200 §4.1: hop by
/// hop, destination and routing headers may stand in front of it).
fn fragment_header(head: &[u8], l3: usize) -> Option<(usize, usize)> {
    let (mut named, mut at) = (l3 + 6, l3 + IPV6_HLEN);
    loop {
        match *head.get(named)? {
            FRAGMENT => return head.get(at..at + FRAGMENT_HLEN).map(|_| (named, at)),
            0 | 43 | 60 => (named, at) = (at, at + 8 + 8 * usize::from(*head.get(at + 1)?)),
            _ => return None,
        }
    }
}

fn same_payload(piece: &Piece, packet: &Packet, new: &Fragment) -> bool {
    let mut chunks = [[0u8; 256]; 2];
    let len = (new.to - new.from) as usize;
    (0..len).step_by(256).all(|offset| {
        let [a, b] = &mut chunks;
        let n = (len - offset).min(256);
        piece.packet.copy_out(piece.at + offset, &mut a[..n])
            && packet.copy_out(new.at + offset, &mut b[..n])
            && a[..n] == b[..n]
    })
}

fn build(slot: &Slot, whole: &mut Packet, pool: &mut Pool) -> Result<(), DropReason> {
    const CE: u8 = 1 << 3;
    const NOT_ECT: u8 = 1;
    const NOT_ONE: headers::Fragment = headers::Fragment::None;
    if slot.ecn & (CE | NOT_ECT) == CE | NOT_ECT {
        return Err(DropReason::OuterFragmentConflict);
    }
    let first = slot.pieces.first().ok_or(DropReason::OuterFragmentConflict)?;
    let head = first.packet.head();
    let ip = Headers::of_frame(head).ok_or(DropReason::TunnelTruncated)?;
    let l3 = usize::from(ip.l3);
    // The headers, without the fragment header.
    let front = first.at - if ip.version == IpVersion::V6 { FRAGMENT_HLEN } else { 0 };
    whole.append(&head[..front], pool)?;
    for piece in &slot.pieces {
        whole.append_range(&piece.packet, piece.at, (piece.to - piece.from) as usize, pool)?;
    }
    *whole.meta_mut() = *first.packet.meta();
    whole.meta_mut().offload = Offload::NONE;
    whole.meta_mut().frames =
        slot.pieces.iter().fold(0u16, |sum, p| sum.saturating_add(p.packet.meta().frames));
    let len = whole.len() - l3;
    let marked = slot.ecn & CE != 0;
    let h = &mut whole.head_mut()[l3..];
    match ip.version {
        IpVersion::V4 => {
            let len = u16::try_from(len).map_err(|_| DropReason::OuterFragmentConflict)?;
            write16(h, 2, len);
            write16(h, 6, 0);
            h[1] |= if marked { 3 } else { 0 };
            write16(h, 10, 0);
            let check = Sum::ZERO.bytes(&h[..front - l3]).finish();
            write16(h, 10, check);
        }
        IpVersion::V6 => {
            let len = u16::try_from(len - IPV6_HLEN).map_err(|_| DropReason::OuterFragmentConflict)?;
            let (named, header) = fragment_header(head, l3).ok_or(DropReason::TunnelTruncated)?;
            write16(h, 4, len);
            h[1] |= if marked { 3 << 4 } else { 0 };
            h[named - l3] = head[header];
            // A second fragment header inside makes no sense.
            if Headers::parse(whole).is_some_and(|ip| ip.fragment != NOT_ONE) {
                return Err(DropReason::OuterFragmentConflict);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "reassemble_tests.rs"]
mod tests;
