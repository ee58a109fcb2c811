//! Packet buffers: an owned head with headroom, and a shared tail for what does not fit.
//!
//! A frame of up to [`HEAD_ROOM`] bytes lives wholly in the head, so small frames stay small in the cache.
//! A superframe puts its first `HEAD_ROOM` bytes (all its headers) in the head and the rest of its payload
//! in a reference-counted tail, so that flooding it to many ports copies no payload.
//!
//! Heads and tails come from a [`Pool`], one per worker, and go back to it: in steady state nothing is
//! allocated. Packets never cross workers on the bridge path, so pools stay balanced; one that is merely
//! dropped is freed, which is correct but slow.

use std::sync::Arc;

use crate::offload::Offload;
use crate::vlan::VlanTag;
use crate::{DropReason, PortId};

/// Room in front of a received frame, for encapsulation, bytes.
pub const HEADROOM: usize = 128;

/// Bytes of a received frame that the head holds.
pub const HEAD_ROOM: usize = 1920;

/// Bytes a tail holds.
pub const TAIL_ROOM: usize = 65536;

/// Referring to fewer bytes of another packet costs more than copying them.
const WORTH_SHARING: usize = 512;

/// The largest frame that any port hands in: a 64 KiB IP packet with link headers, bytes.
pub const MAX_FRAME: usize = 65535 + 14 + 8;

const DATA: usize = HEADROOM + HEAD_ROOM;

#[derive(Clone)]
struct TailData(Arc<[u8; TAIL_ROOM]>);

/// Everything about a packet besides its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Where it came in; [`PortId::NONE`] for what the switch made.
    pub in_port: PortId,
    /// The outermost VLAN tag, taken out of the bytes.
    pub vlan: Option<VlanTag>,
    /// Checksum and segmentation state. Of the inner headers, once the packet is encapsulated.
    pub offload: Offload,
    /// Of the outer headers, while the packet is encapsulated.
    pub outer: Offload,
    /// How many received frames were coalesced into this one; 1 for most.
    pub frames: u16,
}

impl Meta {
    const NEW: Meta =
        Meta { in_port: PortId::NONE, vlan: None, offload: Offload::NONE, outer: Offload::NONE, frames: 1 };
}

#[repr(C, align(64))]
struct Buf {
    meta: Meta,
    start: u16,
    end: u16,
    tail_start: u32,
    tail_end: u32,
    tail: Option<TailData>,
    data: [u8; DATA],
}

/// One packet. A thin handle: moving it moves eight bytes.
pub struct Packet(Box<Buf>);

/// A tail that nobody else refers to, to be filled by a receive call.
pub struct Tail(TailData);

impl AsMut<[u8; TAIL_ROOM]> for Tail {
    /// The bytes to fill.
    #[inline]
    fn as_mut(&mut self) -> &mut [u8; TAIL_ROOM] {
        // A `Tail` is made only from an unshared Arc and cannot be cloned.
        Arc::get_mut(&mut self.0.0).expect("a spare tail is never shared")
    }
}

impl Packet {
    fn new() -> Packet {
        Packet(Box::new(Buf {
            meta: Meta::NEW,
            start: HEADROOM as u16,
            end: HEADROOM as u16,
            tail_start: 0,
            tail_end: 0,
            tail: None,
            data: [0; DATA],
        }))
    }

    /// Metadata.
    #[inline]
    pub fn meta(&self) -> &Meta {
        &self.0.meta
    }

    /// Metadata, to change.
    #[inline]
    pub fn meta_mut(&mut self) -> &mut Meta {
        &mut self.0.meta
    }

    /// The contiguous front of the frame: all of it when there is no tail, always all its headers.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.0.data[usize::from(self.0.start)..usize::from(self.0.end)]
    }

    /// The front of the frame, to change.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        let b = &mut *self.0;
        &mut b.data[usize::from(b.start)..usize::from(b.end)]
    }

    /// The rest of the frame, empty for small ones. Shared, so never changed.
    #[inline]
    pub fn tail(&self) -> &[u8] {
        match &self.0.tail {
            Some(t) => &t.0[self.0.tail_start as usize..self.0.tail_end as usize],
            None => &[],
        }
    }

    /// Length of the frame, bytes, without the VLAN tag in the metadata.
    #[inline]
    pub fn len(&self) -> usize {
        usize::from(self.0.end - self.0.start) + (self.0.tail_end - self.0.tail_start) as usize
    }

    /// Whether there are no bytes at all.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Free bytes in front of the frame.
    #[inline]
    pub fn headroom(&self) -> usize {
        usize::from(self.0.start)
    }

    /// Grows the frame at the front by `n` bytes, whose content is unspecified, and returns the new head.
    /// `None`, and no change, when the headroom does not suffice. The offload metadata is not moved: see
    /// [`Offload::shift`].
    #[inline]
    pub fn push_front(&mut self, n: usize) -> Option<&mut [u8]> {
        let start = usize::from(self.0.start).checked_sub(n)?;
        self.0.start = start as u16;
        Some(self.head_mut())
    }

    /// Removes `n` bytes from the front. False, and no change, when the head is shorter.
    #[inline]
    pub fn pull_front(&mut self, n: usize) -> bool {
        let ok = n <= self.head().len();
        if ok {
            self.0.start += n as u16;
        }
        ok
    }

    /// Cuts the frame to `len` bytes; no change when it is shorter already.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        let head = self.head().len();
        if len <= head {
            self.0.end = self.0.start + len as u16;
            self.drop_tail();
        } else if len < self.len() {
            self.0.tail_end = self.0.tail_start + (len - head) as u32;
        }
    }

    fn drop_tail(&mut self) -> Option<TailData> {
        self.0.tail_start = 0;
        self.0.tail_end = 0;
        self.0.tail.take()
    }

    /// The area a receive call fills: [`HEAD_ROOM`] bytes behind the headroom. Follow with
    /// [`Packet::set_received`].
    #[inline]
    pub fn rx_area(&mut self) -> &mut [u8; HEAD_ROOM] {
        self.0.start = HEADROOM as u16;
        self.0.end = HEADROOM as u16;
        (&mut self.0.data[HEADROOM..]).try_into().expect("DATA is HEADROOM + HEAD_ROOM")
    }

    /// As [`Packet::rx_area`], with `N` bytes before it for what precedes a frame: see [`Packet::before`].
    #[inline]
    pub fn rx_area_after<const N: usize>(&mut self) -> &mut [u8] {
        self.rx_area();
        &mut self.0.data[HEADROOM - N..]
    }

    /// The `N` bytes in front of the frame. `None` when the headroom is shorter.
    #[inline]
    pub fn before<const N: usize>(&self) -> Option<&[u8; N]> {
        self.0.data[..self.headroom()].last_chunk()
    }

    /// Puts bytes into the headroom just in front of the frame, which stays what it was. False, and no change, when the
    /// headroom is shorter.
    #[inline]
    pub fn set_before<const N: usize>(&mut self, bytes: &[u8; N]) -> bool {
        let headroom = self.headroom();
        let place = self.0.data[..headroom].last_chunk_mut();
        place.map(|place| *place = *bytes).is_some()
    }

    /// The head and `n` bytes before it, those of [`Packet::set_before`]. `None` when the headroom is shorter.
    #[inline]
    pub fn head_after(&self, n: usize) -> Option<&[u8]> {
        let start = self.headroom().checked_sub(n)?;
        self.0.data.get(start..usize::from(self.0.end))
    }

    /// Makes the frame the first `len` bytes of what a receive call put into [`Packet::rx_area`] and, past
    /// it, into `tail`. Takes the tail only when it is needed.
    ///
    /// # Errors
    /// [`DropReason::Oversize`] when `len` exceeds both areas.
    #[inline]
    pub fn set_received(&mut self, len: usize, tail: &mut Option<Tail>) -> Result<(), DropReason> {
        self.0.start = HEADROOM as u16;
        self.0.end = (HEADROOM + len.min(HEAD_ROOM)) as u16;
        if len > HEAD_ROOM {
            if len > HEAD_ROOM + TAIL_ROOM {
                return Err(DropReason::Oversize);
            }
            let tail = tail.take().ok_or(DropReason::NoBuffer)?;
            self.0.tail = Some(tail.0);
            self.0.tail_start = 0;
            self.0.tail_end = (len - HEAD_ROOM) as u32;
        }
        Ok(())
    }

    /// Makes the frame these bytes, which come from memory.
    ///
    /// # Errors
    /// [`DropReason::Oversize`] when they exceed the head and one tail.
    #[inline]
    pub fn set_bytes(&mut self, bytes: &[u8], pool: &mut Pool) -> Result<(), DropReason> {
        self.0.start = HEADROOM as u16;
        self.0.end = HEADROOM as u16;
        self.drop_tail();
        self.append(bytes, pool)
    }

    /// Appends bytes to the frame: to the head while there is room and no tail, else to a tail.
    ///
    /// # Errors
    /// [`DropReason::Oversize`] when they do not fit; [`DropReason::NoBuffer`] when the tail is shared.
    /// Nothing is appended then.
    #[inline]
    pub fn append(&mut self, bytes: &[u8], pool: &mut Pool) -> Result<(), DropReason> {
        let end = usize::from(self.0.end);
        let in_head = if self.0.tail.is_none() { bytes.len().min(DATA - end) } else { 0 };
        let (first, rest) = bytes.split_at(in_head);
        if rest.len() + self.0.tail_end as usize > TAIL_ROOM {
            return Err(DropReason::Oversize);
        }
        if !rest.is_empty() {
            let tail = self.0.tail.get_or_insert_with(|| pool.take_tail().0);
            let data = Arc::get_mut(&mut tail.0).ok_or(DropReason::NoBuffer)?;
            let at = self.0.tail_end as usize;
            data[at..at + rest.len()].copy_from_slice(rest);
            self.0.tail_end += rest.len() as u32;
        }
        self.0.data[end..end + first.len()].copy_from_slice(first);
        self.0.end += first.len() as u16;
        Ok(())
    }

    /// Appends `len` bytes of another packet, from `offset` of its frame on.
    ///
    /// # Errors
    /// As [`Packet::append`], and [`DropReason::Truncated`] when the other frame is shorter. Nothing is
    /// appended then.
    #[inline]
    pub fn append_range(
        &mut self,
        from: &Packet,
        offset: usize,
        len: usize,
        pool: &mut Pool,
    ) -> Result<(), DropReason> {
        let end = offset + len;
        if end > from.len() {
            return Err(DropReason::Truncated);
        }
        let (head, before) = (from.head(), self.len());
        if offset < head.len() {
            self.append(&head[offset..end.min(head.len())], pool)?;
        }
        if end > head.len() {
            let tail = &from.tail()[offset.saturating_sub(head.len())..end - head.len()];
            self.append(tail, pool).inspect_err(|_| self.truncate(before))?;
        }
        Ok(())
    }

    /// As [`Packet::append_range`], but refers to the other packet's tail instead of copying it, where that is
    /// possible and pays. Nothing may be appended behind it while both packets are there.
    ///
    /// # Errors
    /// As [`Packet::append_range`].
    #[inline]
    pub fn share_range(
        &mut self,
        from: &Packet,
        offset: usize,
        len: usize,
        pool: &mut Pool,
    ) -> Result<(), DropReason> {
        let in_tail = offset.checked_sub(from.head().len());
        match (in_tail, &from.0.tail) {
            (Some(at), Some(tail))
                if self.0.tail.is_none() && len >= WORTH_SHARING && offset + len <= from.len() =>
            {
                self.0.tail = Some(tail.clone());
                self.0.tail_start = from.0.tail_start + at as u32;
                self.0.tail_end = self.0.tail_start + len as u32;
                Ok(())
            }
            _ => self.append_range(from, offset, len, pool),
        }
    }

    /// Moves `len` bytes of the frame from `from` down to `to`, which may overlap. False, and nothing has changed,
    /// when that is not downward or within the frame, or the tail is shared.
    pub fn slide(&mut self, from: usize, to: usize, len: usize) -> bool {
        if to > from || from + len > self.len() {
            return false;
        }
        let Buf { start, end, tail_start, tail_end, tail, data, .. } = &mut *self.0;
        let head = &mut data[usize::from(*start)..usize::from(*end)];
        let tail: &mut [u8] = match tail {
            Some(tail) => match Arc::get_mut(&mut tail.0) {
                Some(bytes) => &mut bytes[*tail_start as usize..*tail_end as usize],
                None => return false,
            },
            None => &mut [],
        };
        let edge = head.len();
        let (mut from, mut to, mut left) = (from, to, len);
        while left > 0 {
            // As far as neither side crosses from head to tail.
            let until = |at: usize| if at < edge { edge - at } else { left };
            let n = left.min(until(from)).min(until(to));
            match (from.checked_sub(edge), to.checked_sub(edge)) {
                (None, _) => head.copy_within(from..from + n, to),
                (Some(from), None) => head[to..to + n].copy_from_slice(&tail[from..from + n]),
                (Some(from), Some(to)) => tail.copy_within(from..from + n, to),
            }
            (from, to, left) = (from + n, to + n, left - n);
        }
        true
    }

    /// Takes a tail that is shared with others into the head, where it fits, so that more can be appended.
    pub fn unshare(&mut self, pool: &mut Pool) {
        let b = &mut *self.0;
        let Some(tail) = &mut b.tail else { return };
        let range = b.tail_start as usize..b.tail_end as usize;
        let end = usize::from(b.end);
        if end + range.len() > DATA || Arc::get_mut(&mut tail.0).is_some() {
            return;
        }
        b.data[end..end + range.len()].copy_from_slice(&tail.0[range.clone()]);
        b.end += range.len() as u16;
        if let Some(tail) = self.drop_tail() {
            pool.put_tail_data(tail);
        }
    }

    /// `len` bytes of the frame from `offset` on, if all of them are in the head or all in the tail.
    #[inline]
    pub fn piece(&self, offset: usize, len: usize) -> Option<&[u8]> {
        match offset.checked_sub(self.head().len()) {
            None => self.head().get(offset..offset + len),
            Some(offset) => self.tail().get(offset..offset + len),
        }
    }

    /// Copies `out.len()` bytes of the frame from `offset` on. False when the frame is shorter.
    pub fn copy_out(&self, offset: usize, out: &mut [u8]) -> bool {
        if offset + out.len() > self.len() {
            return false;
        }
        let head = self.head();
        let from_head = head.len().saturating_sub(offset).min(out.len());
        let (a, b) = out.split_at_mut(from_head);
        if from_head > 0 {
            a.copy_from_slice(&head[offset..offset + from_head]);
        }
        if !b.is_empty() {
            let at = (offset + from_head) - head.len();
            b.copy_from_slice(&self.tail()[at..at + b.len()]);
        }
        true
    }

    /// The whole frame in one vector; for tests and slow paths.
    pub fn to_vec(&self) -> Vec<u8> {
        [self.head(), self.tail()].concat()
    }
}

impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shown = &self.head()[..self.head().len().min(64)];
        f.debug_struct("Packet")
            .field("len", &self.len())
            .field("meta", self.meta())
            .field("head", &shown)
            .finish()
    }
}

/// Free buffers of one worker.
pub struct Pool {
    heads: Vec<Packet>,
    tails: Vec<TailData>,
    keep_heads: usize,
    keep_tails: usize,
}

impl Pool {
    /// A pool that keeps at most `heads` and `tails` free buffers. Buffers are made on demand, so memory
    /// follows use.
    pub fn new(heads: usize, tails: usize) -> Pool {
        Pool {
            heads: Vec::with_capacity(heads),
            tails: Vec::with_capacity(tails),
            keep_heads: heads,
            keep_tails: tails,
        }
    }

    /// An empty packet with fresh metadata.
    #[inline]
    pub fn get(&mut self) -> Packet {
        self.heads.pop().unwrap_or_else(Packet::new)
    }

    /// Takes a packet back.
    #[inline]
    pub fn put(&mut self, mut packet: Packet) {
        if let Some(tail) = packet.drop_tail() {
            self.put_tail_data(tail);
        }
        if self.heads.len() < self.keep_heads {
            packet.0.meta = Meta::NEW;
            packet.0.start = HEADROOM as u16;
            packet.0.end = HEADROOM as u16;
            self.heads.push(packet);
        }
    }

    /// Takes back all packets of a batch and leaves it empty.
    pub fn put_all(&mut self, batch: &mut crate::Batch) {
        for packet in batch.drain(..) {
            self.put(packet);
        }
    }

    /// An unshared tail for a receive call.
    #[inline]
    pub fn take_tail(&mut self) -> Tail {
        Tail(self.tails.pop().unwrap_or_else(|| TailData(new_tail())))
    }

    /// Takes a tail back that was not needed.
    #[inline]
    pub fn put_tail(&mut self, tail: Tail) {
        self.put_tail_data(tail.0);
    }

    fn put_tail_data(&mut self, mut tail: TailData) {
        // The last of several packets that share a tail brings it home. Counting first is cheap, and most are not the last.
        let last = Arc::strong_count(&tail.0) == 1 && Arc::get_mut(&mut tail.0).is_some();
        if last && self.tails.len() < self.keep_tails {
            self.tails.push(tail);
        }
    }

    /// A second packet with the same bytes and metadata; the tail is shared, the head copied.
    #[inline]
    pub fn duplicate(&mut self, packet: &Packet) -> Packet {
        let mut copy = self.get();
        let (from, to) = (&*packet.0, &mut *copy.0);
        to.meta = from.meta;
        to.start = from.start;
        to.end = from.end;
        to.tail_start = from.tail_start;
        to.tail_end = from.tail_end;
        to.tail.clone_from(&from.tail);
        let range = usize::from(from.start)..usize::from(from.end);
        to.data[range.clone()].copy_from_slice(&from.data[range]);
        copy
    }

    /// Free heads and tails, for tests.
    pub fn free(&self) -> (usize, usize) {
        (self.heads.len(), self.tails.len())
    }
}

fn new_tail() -> Arc<[u8; TAIL_ROOM]> {
    let zeroed: Arc<[u8]> = std::iter::repeat_n(0u8, TAIL_ROOM).collect();
    zeroed.try_into().expect("the length is TAIL_ROOM")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_frames_stay_in_the_head_and_large_ones_spill() {
        let mut pool = Pool::new(8, 8);
        let mut p = pool.get();
        for len in [0, 1, 60, 1514, HEAD_ROOM, HEAD_ROOM + 1, 9014, HEAD_ROOM + TAIL_ROOM] {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            p.set_bytes(&bytes, &mut pool).unwrap();
            assert_eq!(p.len(), len);
            assert_eq!(p.to_vec(), bytes);
            assert_eq!(p.tail().is_empty(), len <= HEAD_ROOM);
        }
        assert_eq!(p.set_bytes(&vec![0; HEAD_ROOM + TAIL_ROOM + 1], &mut pool), Err(DropReason::Oversize));
    }

    #[test]
    fn duplicates_share_the_tail_and_the_last_one_returns_it() {
        let mut pool = Pool::new(8, 8);
        let mut p = pool.get();
        p.set_bytes(&[7; 5000], &mut pool).unwrap();
        let q = pool.duplicate(&p);
        assert_eq!(p.tail().as_ptr(), q.tail().as_ptr());
        pool.put(p);
        assert_eq!(pool.free(), (1, 0));
        assert_eq!(q.to_vec(), vec![7; 5000]);
        pool.put(q);
        assert_eq!(pool.free(), (2, 1));
    }

    #[test]
    fn parts_of_a_tail_are_shared_and_taken_into_the_head_to_grow() {
        let mut pool = Pool::new(8, 8);
        let bytes: Vec<u8> = (0..9000u32).map(|i| (i * 13) as u8).collect();
        let mut big = pool.get();
        big.set_bytes(&bytes, &mut pool).unwrap();
        for (offset, len, shared) in [
            (0, 1400, false),
            (1000, 1400, false),
            (HEAD_ROOM, 100, false),
            (HEAD_ROOM, 1400, true),
            (7600, 1400, true),
        ] {
            let mut part = pool.get();
            part.append(b"head", &mut pool).unwrap();
            part.share_range(&big, offset, len, &mut pool).unwrap();
            let want = [&b"head"[..], &bytes[offset..offset + len]].concat();
            assert_eq!((part.to_vec() == want, !part.tail().is_empty()), (true, shared));
            assert_eq!(part.append(b"x", &mut pool).is_err(), shared, "{offset} {len}");
            part.unshare(&mut pool);
            part.append(b"more", &mut pool).unwrap();
            assert!(part.to_vec().ends_with(b"more") && part.to_vec().starts_with(&want));
            pool.put(part);
        }
        let mut part = pool.get();
        assert_eq!(part.share_range(&big, 8000, 1001, &mut pool), Err(DropReason::Truncated));
        // The last one brings the tail home.
        part.share_range(&big, 2000, 7000, &mut pool).unwrap();
        part.unshare(&mut pool);
        assert!(!part.tail().is_empty(), "too much for a head");
        pool.put(big);
        let tails = pool.free().1;
        pool.put(part);
        assert_eq!(pool.free().1, tails + 1);
    }

    #[test]
    fn push_and_pull_stay_within_bounds() {
        let mut pool = Pool::new(8, 8);
        let mut p = pool.get();
        p.set_bytes(&[1, 2, 3], &mut pool).unwrap();
        assert!(!p.pull_front(4));
        assert!(p.pull_front(2));
        assert_eq!(p.head(), [3]);
        assert!(p.push_front(HEADROOM + 3).is_none());
        p.push_front(2).unwrap()[..2].copy_from_slice(&[9, 9]);
        assert_eq!(p.head(), [9, 9, 3]);
        p.truncate(1);
        assert_eq!(p.head(), [9]);
    }

    #[test]
    fn what_stands_before_a_frame_is_no_part_of_it() {
        let mut pool = Pool::new(8, 8);
        let mut p = pool.get();
        p.set_bytes(&[1, 2, 3], &mut pool).unwrap();
        assert!(p.set_before(&[7, 8]));
        assert_eq!(
            (p.head(), p.before(), p.head_after(2)),
            (&[1, 2, 3][..], Some(&[7, 8]), Some(&[7, 8, 1, 2, 3][..]))
        );
        p.push_front(HEADROOM - 1).unwrap();
        assert!(!p.set_before(&[7, 8]) && p.before::<2>().is_none() && p.head_after(2).is_none());
        assert_eq!(p.head_after(1).map(<[u8]>::len), Some(HEADROOM + 3));

        let area = p.rx_area_after::<2>();
        assert_eq!(area.len(), 2 + HEAD_ROOM);
        area[..5].copy_from_slice(&[4, 5, 6, 7, 8]);
        p.set_received(3, &mut None).unwrap();
        assert_eq!((p.head(), p.before()), (&[6, 7, 8][..], Some(&[4, 5])));
    }

    #[test]
    fn copy_out_crosses_head_and_tail() {
        let mut pool = Pool::new(8, 8);
        let mut p = pool.get();
        let bytes: Vec<u8> = (0..4000u32).map(|i| i as u8).collect();
        p.set_bytes(&bytes, &mut pool).unwrap();
        let mut out = [0; 300];
        for at in [0, HEAD_ROOM - 100, HEAD_ROOM, HEAD_ROOM + 5, 3700] {
            assert!(p.copy_out(at, &mut out));
            assert_eq!(out[..], bytes[at..at + 300]);
        }
        assert!(!p.copy_out(3701, &mut out));
    }

    #[test]
    fn append_range_crosses_head_and_tail_or_changes_nothing() {
        let mut pool = Pool::new(8, 8);
        let bytes: Vec<u8> = (0..4000u32).map(|i| i as u8).collect();
        let mut from = pool.get();
        from.set_bytes(&bytes, &mut pool).unwrap();
        for (at, len) in
            [(0, 4000), (HEAD_ROOM - 1, 2), (HEAD_ROOM, 100), (10, 20), (4000, 0), (HEAD_ROOM, 0)]
        {
            let mut p = pool.get();
            p.set_bytes(&[7, 7], &mut pool).unwrap();
            p.append_range(&from, at, len, &mut pool).unwrap();
            assert_eq!(p.to_vec(), [&[7, 7], &bytes[at..at + len]].concat());
            pool.put(p);
        }
        let mut p = pool.get();
        p.set_bytes(&vec![1; HEAD_ROOM + TAIL_ROOM - HEAD_ROOM], &mut pool).unwrap();
        let before = p.to_vec();
        assert_eq!(p.append_range(&from, 0, 4001, &mut pool), Err(DropReason::Truncated));
        assert_eq!(p.append_range(&from, 0, 4000, &mut pool), Err(DropReason::Oversize));
        assert!(p.to_vec() == before);
    }

    #[test]
    fn reuse_starts_clean() {
        let mut pool = Pool::new(8, 8);
        let mut p = pool.get();
        p.set_bytes(&[1; 100], &mut pool).unwrap();
        p.meta_mut().frames = 9;
        pool.put(p);
        let p = pool.get();
        assert_eq!((p.len(), p.meta().frames, p.headroom()), (0, 1, HEADROOM));
    }
}
