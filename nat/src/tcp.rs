//! The TCP tracker: which segments belong to a connection, and how far it is.
//!
//! Theory of operation. Each peer has a small state of its own (RFC 9293 §3.3.2 seen from the middle): has it
//! sent its SYN, was that acknowledged, has it sent its FIN, was that acknowledged. The phase of the
//! connection follows from both, so simultaneous open and close need no rules of their own.
//!
//! Windows are checked as in "Real Stateful TCP Packet Filtering in IP Filter" (G. van Rooij, 2001). For a
//! segment of sender S to receiver R, with `end` the sequence number behind it:
//!
//! 1. `seq <= S.max_end`: not past what R's window allows (a zero-window probe may touch it);
//! 2. `end >= S.end - R.max_win - 1`: not older than one window; keep-alives are one back;
//! 3. `ack <= R.end`: R has sent what is acknowledged;
//! 4. `ack >= R.end - max(S.max_win, 66000)`: not an old acknowledgement.
//!
//! What a receiver would answer with a challenge ACK (RFC 5961) is passed without a change of state: a SYN
//! in an open connection, a RST inside the window that is not exact. The receiver knows better than we do
//! whether the connection lives, and its answer tells us.

use trunkline_packet::headers::{read16, read32};

use crate::DropReason;
use crate::types::Side;

/// FIN.
pub(crate) const FIN: u8 = 0x01;
/// SYN.
pub(crate) const SYN: u8 = 0x02;
/// RST.
pub(crate) const RST: u8 = 0x04;
/// ACK.
pub(crate) const ACK: u8 = 0x10;
const URG: u8 = 0x20;

/// The least window in which acknowledgements are believed (van Rooij: MAXACKWINDOW).
const MAX_ACK_WINDOW: u32 = 66_000;

/// Largest window scale (RFC 7323 §2.3).
const MAX_SCALE: u8 = 14;

/// What the tracker reads of a segment. A superframe is one segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    pub(crate) seq: u32,
    pub(crate) ack: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// Payload bytes.
    pub(crate) len: u32,
    /// The window scale option, of a SYN.
    pub(crate) scale: Option<u8>,
}

impl Segment {
    /// Reads the header at the start of `tcp`, whose payload has `len` bytes. `None` when it is cut off.
    #[inline]
    pub(crate) fn parse(tcp: &[u8], header: usize, len: u32) -> Option<Segment> {
        let flags = *tcp.get(13)?;
        let scale = if flags & SYN != 0 { scale_option(tcp.get(20..header)?) } else { None };
        Some(Segment {
            seq: read32(tcp, 4)?,
            ack: read32(tcp, 8)?,
            flags,
            window: read16(tcp, 14)?,
            len,
            scale,
        })
    }

    /// The sequence number behind it; SYN and FIN count (RFC 9293 §3.4).
    #[inline]
    fn end(&self) -> u32 {
        let marks = u32::from(self.has(SYN)) + u32::from(self.has(FIN));
        self.seq.wrapping_add(self.len).wrapping_add(marks)
    }

    #[inline]
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether it is a SYN, and nothing else.
    #[inline]
    pub(crate) fn begins(&self) -> bool {
        self.flags & (FIN | SYN | RST | ACK | URG) == SYN
    }

    /// Whether some TCP sends this combination; PSH, ECE, CWR do not matter.
    #[inline]
    pub(crate) fn flags_ok(&self) -> bool {
        const SYN_ACK: u8 = SYN | ACK;
        const SYN_URG: u8 = SYN | URG;
        const RST_ACK: u8 = RST | ACK;
        const FIN_ACK: u8 = FIN | ACK;
        const FIN_ACK_URG: u8 = FIN | ACK | URG;
        const ACK_URG: u8 = ACK | URG;
        matches!(
            self.flags & (FIN | SYN | RST | ACK | URG),
            SYN | SYN_ACK | SYN_URG | RST | RST_ACK | FIN_ACK | FIN_ACK_URG | ACK | ACK_URG
        )
    }
}

/// The shift count of the window scale option (RFC 7323 §2.2), if there is one.
fn scale_option(mut options: &[u8]) -> Option<u8> {
    loop {
        match *options {
            [1, ref rest @ ..] => options = rest,
            [3, 3, shift, ..] => return Some(shift.min(MAX_SCALE)),
            [kind, len, ..] if kind != 0 && len >= 2 => options = options.get(usize::from(len)..)?,
            _ => return None,
        }
    }
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Not both SYNs acknowledged.
    Opening,
    /// Open both ways.
    Established,
    /// A FIN was sent.
    Closing,
    /// Both FINs acknowledged.
    TimeWait,
    /// Reset.
    Reset,
}

/// Sent anything that we took its numbers from.
const KNOWN: u8 = 0x01;
/// Its SYN was acknowledged.
const OPENED: u8 = 0x02;
/// Sent a FIN.
const FINISHED: u8 = 0x04;
/// Its FIN was acknowledged.
const CLOSED: u8 = 0x08;
/// Sent an acknowledgement: `max_ack` holds.
const ACKED: u8 = 0x10;
/// Its SYN had a window scale option.
const SCALES: u8 = 0x20;

/// One peer, unpacked.
#[derive(Clone, Copy, Default, Debug)]
struct Peer {
    /// Behind the last byte it sent.
    end: u32,
    /// Behind the last byte it may send.
    max_end: u32,
    /// The highest acknowledgement it sent; before any, behind its SYN.
    max_ack: u32,
    /// The largest window it offered, bytes.
    max_win: u32,
    scale: u8,
    flags: u8,
}

impl Peer {
    #[inline]
    fn is(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A SYN came in a connection that looked alive; `late_end` and the scale are of that SYN.
const LATE: u8 = 0x10;
/// It came from outside.
const LATE_OUTSIDE: u8 = 0x20;
/// The late SYN had no window scale option.
const NO_SCALE: u8 = 0x0f;
const WAS_RESET: u8 = 0x40;
const LIBERAL: u8 = 0x80;

/// The state of one connection, packed to 36 bytes.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tcp {
    end: [u32; 2],
    max_end: [u32; 2],
    max_ack: [u32; 2],
    late_end: u32,
    /// Without the scale, rounded up.
    max_win: [u16; 2],
    flags: [u8; 2],
    /// A nibble each.
    scales: u8,
    /// The scale of the late SYN, and the flags above.
    misc: u8,
}

#[inline]
fn after(a: u32, b: u32) -> bool {
    (b.wrapping_sub(a) as i32) < 0
}

impl Tcp {
    /// The state before the first segment. With `liberal`, windows are never checked.
    pub(crate) fn new(liberal: bool) -> Tcp {
        Tcp { misc: if liberal { LIBERAL } else { 0 }, ..Tcp::default() }
    }

    /// Stops checking windows: some of what is sent is not seen.
    pub(crate) fn be_liberal(&mut self) {
        self.misc |= LIBERAL;
    }

    #[inline]
    fn peer(&self, side: Side) -> Peer {
        let i = side as usize;
        let scale = self.scales >> (4 * i) & 0xf;
        Peer {
            end: self.end[i],
            max_end: self.max_end[i],
            max_ack: self.max_ack[i],
            max_win: u32::from(self.max_win[i]) << scale,
            scale,
            flags: self.flags[i],
        }
    }

    #[inline]
    fn set(&mut self, side: Side, p: &Peer) {
        let i = side as usize;
        self.end[i] = p.end;
        self.max_end[i] = p.max_end;
        self.max_ack[i] = p.max_ack;
        self.max_win[i] = p.max_win.div_ceil(1 << p.scale).min(0xffff) as u16;
        self.flags[i] = p.flags;
        self.scales = self.scales & !(0xf << (4 * i)) | p.scale << (4 * i);
    }

    /// How far the connection is.
    #[inline]
    pub(crate) fn phase(&self) -> Phase {
        let [a, b] = self.flags;
        if self.misc & WAS_RESET != 0 {
            Phase::Reset
        } else if a & b & CLOSED != 0 {
            Phase::TimeWait
        } else if (a | b) & FINISHED != 0 {
            Phase::Closing
        } else if a & b & OPENED != 0 {
            Phase::Established
        } else {
            Phase::Opening
        }
    }

    /// Whether the segment may begin a connection.
    pub(crate) fn may_open(segment: &Segment, pickup: bool) -> bool {
        match (segment.has(SYN), segment.has(ACK)) {
            (true, ack) => !ack,
            (false, ack) => pickup && ack && !segment.has(RST) && !segment.has(FIN),
        }
    }

    /// Takes a segment of `side`. `Ok` means it goes on; the new phase is [`Tcp::phase`].
    ///
    /// # Errors
    /// [`DropReason::NatTcpWindow`], [`DropReason::NatTcpReset`].
    #[inline]
    pub(crate) fn take(&mut self, side: Side, seg: &Segment) -> Result<(), DropReason> {
        if seg.has(SYN) && self.syn(side, seg) {
            return Ok(());
        }
        let (mut s, mut r) = (self.peer(side), self.peer(side.other()));
        if !s.is(KNOWN) {
            return self.first_words(side, seg, s, r);
        }
        if seg.has(RST) {
            return self.reset(side, seg, s, r);
        }
        self.in_window(seg, &s, &r)?;
        Self::learn(seg, &mut s, &mut r);
        self.set(side, &s);
        self.set(side.other(), &r);
        Ok(())
    }

    /// A segment with SYN. True when it was dealt with.
    fn syn(&mut self, side: Side, seg: &Segment) -> bool {
        let (s, r) = (self.peer(side), self.peer(side.other()));
        if seg.has(ACK) {
            // The answer to a SYN that came in what looked like an open connection: that one is gone.
            if self.answers_late(side, seg) {
                let scale = Some(self.misc & 0xf).filter(|scale| *scale != NO_SCALE);
                let opener = Peer {
                    end: self.late_end,
                    max_end: self.late_end,
                    max_ack: self.late_end,
                    max_win: 0xffff,
                    scale: scale.unwrap_or(0),
                    flags: KNOWN | if scale.is_some() { SCALES } else { 0 },
                };
                *self = Tcp::new(self.misc & LIBERAL != 0);
                self.set(side.other(), &opener);
            }
            return false;
        }
        let phase = self.phase();
        let fresh = !s.is(KNOWN) && !r.is(KNOWN);
        let again = phase == Phase::Opening && !r.is(KNOWN);
        if fresh || again || matches!(phase, Phase::TimeWait | Phase::Reset) {
            // RFC 5382 REQ-2, RFC 6191: the receiver judges whether it may be reopened.
            *self = Tcp::new(self.misc & LIBERAL != 0);
            self.set(side, &opening(seg));
            return true;
        }
        if phase == Phase::Opening && (!s.is(KNOWN) || s.end == seg.end()) {
            // Simultaneous open, or a retransmission of a SYN that is being answered.
            if !s.is(KNOWN) {
                self.answer(side, seg, r);
            }
            return true;
        }
        // RFC 5961 §4: the receiver answers a SYN with a challenge ACK, or with SYN and ACK if it has
        // forgotten the connection.
        self.late_end = seg.end();
        self.misc = self.misc & (LIBERAL | WAS_RESET)
            | LATE
            | if side == Side::Outside { LATE_OUTSIDE } else { 0 }
            | seg.scale.unwrap_or(NO_SCALE);
        true
    }

    /// Whether the segment acknowledges a SYN that came late from the other side.
    fn answers_late(&self, side: Side, seg: &Segment) -> bool {
        let late_side = if self.misc & LATE_OUTSIDE == 0 { Side::Inside } else { Side::Outside };
        self.misc & LATE != 0 && late_side != side && seg.has(ACK) && seg.ack == self.late_end
    }

    /// The first segment of the second peer.
    fn first_words(&mut self, side: Side, seg: &Segment, mut s: Peer, mut r: Peer) -> Result<(), DropReason> {
        if !r.is(KNOWN) {
            // Picked up in the middle: nothing is known of the scale, so windows say nothing.
            self.misc |= LIBERAL;
            let end = seg.end();
            s = Peer { end, max_end: end, max_ack: seg.ack, flags: KNOWN | ACKED, ..s };
            r.flags = OPENED;
            r.end = seg.ack;
            self.set(side, &s);
            self.set(side.other(), &r);
            return Ok(());
        }
        if r.is(KNOWN) && s.is(OPENED) {
            // The other peer of a connection that was picked up.
            s.flags |= KNOWN;
            s.max_end = s.end;
            self.set(side, &s);
            return self.take(side, seg);
        }
        // RFC 9293 §3.10.7.3: the answer acknowledges the SYN, and nothing that was not sent.
        let acceptable = seg.has(ACK) && !after(seg.ack, r.end) && !after(r.max_ack, seg.ack);
        if seg.has(RST) {
            // RFC 9293 §3.10.7.3: in SYN-SENT only a reset that acknowledges the SYN is believed.
            return if seg.has(ACK) && seg.ack == r.end {
                self.misc |= WAS_RESET;
                Ok(())
            } else {
                Err(DropReason::NatTcpReset)
            };
        }
        if !seg.has(SYN) {
            // An ACK of an older connection (a challenge, RFC 5961 §4): the opener will reset it.
            return Ok(());
        }
        if !acceptable {
            return if self.misc & LIBERAL != 0 { Ok(()) } else { Err(DropReason::NatTcpWindow) };
        }
        self.answer(side, seg, r);
        Ok(())
    }

    /// The SYN, with or without ACK, of the second peer.
    fn answer(&mut self, side: Side, seg: &Segment, mut r: Peer) {
        let mut s = opening(seg);
        // Both must offer scaling for it to hold (RFC 7323 §2.2).
        if !(s.is(SCALES) && r.is(SCALES)) {
            s.scale = 0;
            r.scale = 0;
            r.max_win = r.max_win.min(0xffff);
        }
        s.max_end = s.end.wrapping_add(r.max_win);
        if seg.has(ACK) {
            Self::learn(seg, &mut s, &mut r);
        } else {
            r.max_end = r.end.wrapping_add(s.max_win);
        }
        self.set(side, &s);
        self.set(side.other(), &r);
    }

    /// RFC 5961 §3.2: a reset closes only when its number is exactly what the receiver expects; inside the
    /// window it makes the receiver answer, so it goes on and changes nothing.
    fn reset(&mut self, side: Side, seg: &Segment, s: Peer, r: Peer) -> Result<(), DropReason> {
        // Before anything was acknowledged, the opener gives up right behind its SYN.
        let exact = seg.seq == s.end || (r.is(ACKED) && seg.seq == r.max_ack);
        // A sender that knows nothing of the connection answers a late SYN with number 0 (RFC 9293 §3.5.2).
        if exact || (self.answers_late(side, seg) && seg.seq == 0) {
            self.misc |= WAS_RESET;
            return Ok(());
        }
        let old = r.is(ACKED) && after(r.max_ack, seg.seq);
        let inside = !old && !after(seg.seq, s.max_end);
        if inside || self.misc & LIBERAL != 0 { Ok(()) } else { Err(DropReason::NatTcpReset) }
    }

    #[inline]
    fn in_window(&self, seg: &Segment, s: &Peer, r: &Peer) -> Result<(), DropReason> {
        if self.misc & LIBERAL != 0 {
            return Ok(());
        }
        let ack_window = s.max_win.max(MAX_ACK_WINDOW);
        let data =
            !after(seg.seq, s.max_end) && !after(s.end.wrapping_sub(r.max_win).wrapping_sub(1), seg.end());
        let ack = !seg.has(ACK)
            || !r.is(KNOWN)
            || (!after(seg.ack, r.end) && !after(r.end.wrapping_sub(ack_window), seg.ack));
        if data && ack { Ok(()) } else { Err(DropReason::NatTcpWindow) }
    }

    /// Takes over the numbers of a segment that was found good.
    #[inline]
    fn learn(seg: &Segment, s: &mut Peer, r: &mut Peer) {
        let (end, shift) = (seg.end(), if seg.has(SYN) { 0 } else { s.scale });
        let window = u32::from(seg.window) << shift;
        if after(end, s.end) {
            s.end = end;
        }
        s.max_win = s.max_win.max(window.max(1));
        // What is acknowledged to somebody who said nothing means nothing.
        if seg.has(ACK) && r.flags != 0 {
            if !s.is(ACKED) || after(seg.ack, s.max_ack) {
                s.max_ack = seg.ack;
                s.flags |= ACKED;
            }
            let most = seg.ack.wrapping_add(window.max(1));
            if after(most, r.max_end) {
                r.max_end = most;
            }
            r.flags |= OPENED;
            if r.is(FINISHED) && seg.ack == r.end {
                r.flags |= CLOSED;
            }
        }
        if seg.has(FIN) {
            s.flags |= FINISHED;
        }
    }
}

/// A peer that has just sent its SYN.
fn opening(seg: &Segment) -> Peer {
    let end = seg.end();
    Peer {
        end,
        max_end: end,
        max_ack: seg.seq.wrapping_add(1),
        max_win: u32::from(seg.window).max(1),
        scale: seg.scale.unwrap_or(0),
        flags: KNOWN | if seg.scale.is_some() { SCALES } else { 0 },
    }
}

#[cfg(test)]
mod tests;
