//! A reference model of the TCP tracker beside the real one.
//!
//! The model keeps the whole history of a connection in numbers that do not wrap, and finds every bound by
//! looking through it, where the tracker keeps a few numbers up to date. Both are told the same segments, most of
//! them near the bounds, and must agree on each: whether it passes, why not, and how far the connection is.

mod kit;

use kit::*;
use proptest::prelude::*;
use trunkline_nat::{Config, ConnState, DropReason, Filtering};

/// Side that begins, and its peer.
const INSIDE: usize = 0;
/// The least window in which acknowledgements are believed.
const ACKS: i64 = 66_000;

/// A segment that was taken note of.
#[derive(Clone, Copy)]
struct Rec {
    side: usize,
    end: i64,
    ack: Option<i64>,
    win: i64,
    syn: bool,
    fin: bool,
    /// Of a SYN.
    scale: Option<u8>,
}

/// A segment as it is sent, in numbers that do not wrap.
#[derive(Clone, Copy)]
struct Sent {
    side: usize,
    seq: i64,
    ack: i64,
    flags: u8,
    win: i64,
    len: i64,
    scale: Option<u8>,
    /// On the wire its number is 0.
    zero: bool,
}

impl Sent {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
    fn end(&self) -> i64 {
        self.seq + self.len + i64::from(self.has(SYN)) + i64::from(self.has(FIN))
    }
    fn rec(&self) -> Rec {
        Rec {
            side: self.side,
            end: self.end(),
            ack: self.has(ACK).then_some(self.ack),
            win: self.win,
            syn: self.has(SYN),
            fin: self.has(FIN),
            scale: self.scale,
        }
    }
}

#[derive(Default)]
struct Model {
    log: Vec<Rec>,
    reset: bool,
    /// A SYN in what looked like an open connection: side, end, scale.
    late: Option<(usize, i64, Option<u8>)>,
    /// Behind the opener's SYN itself, without data.
    behind_syn: i64,
}

impl Model {
    fn of(&self, side: usize) -> impl Iterator<Item = &Rec> {
        self.log.iter().filter(move |r| r.side == side)
    }
    fn known(&self, side: usize) -> bool {
        self.of(side).next().is_some()
    }
    fn end(&self, side: usize) -> i64 {
        self.of(side).map(|r| r.end).max().unwrap_or(0)
    }
    fn max_ack(&self, side: usize) -> Option<i64> {
        self.of(side).filter_map(|r| r.ack).max()
    }
    /// RFC 7323 §2.2: both must offer it, and it does not hold for the SYN.
    fn win(&self, r: &Rec) -> i64 {
        let offered = [0, 1].map(|side| self.of(side).next().and_then(|syn| syn.scale));
        match offered {
            [Some(_), Some(_)] if !r.syn => r.win << offered[r.side].unwrap_or(0),
            // The window of a late SYN was not kept: the largest, which the tracker rounds up to what it can keep.
            [Some(_), Some(_)] if r.win == 65_535 && r.scale > Some(0) => 65_536,
            _ => r.win,
        }
        .max(1)
    }
    fn max_win(&self, side: usize) -> i64 {
        self.of(side).map(|r| self.win(r)).max().unwrap_or(0)
    }
    /// Behind the last byte that a side may send.
    fn max_end(&self, side: usize) -> i64 {
        let Some(first) = self.of(side).next() else { return 0 };
        let allowed = self.of(1 - side).filter_map(|r| Some(r.ack? + self.win(r)));
        // What the SYNs allow each other.
        let opener = self.log[0].side;
        let answer = self.of(1 - opener).next();
        let by_syn = match answer {
            Some(a) if side != opener => {
                let before = self.log.iter().take_while(|r| r.side == opener);
                Some(a.end + before.map(|r| self.win(r)).max().unwrap_or(0))
            }
            Some(a) if a.ack.is_none() => {
                let before = self.log.iter().take_while(|r| r.side == opener).map(|r| r.end).max();
                Some(before.unwrap_or(0) + a.win.max(1))
            }
            _ => None,
        };
        allowed.chain(by_syn).chain([first.end]).max().unwrap_or(0)
    }
    /// Its SYN was acknowledged.
    fn opened(&self, side: usize) -> bool {
        let Some(first) = self.log.iter().position(|r| r.side == side) else { return false };
        self.log[first..].iter().any(|r| r.side != side && r.ack.is_some())
    }
    fn finished(&self, side: usize) -> bool {
        self.of(side).any(|r| r.fin)
    }
    /// Its FIN was acknowledged with all before it.
    fn closed(&self, side: usize) -> bool {
        (0..self.log.len()).any(|i| {
            let before = Model { log: self.log[..i].to_vec(), ..Model::default() };
            let r = self.log[i];
            r.side != side && before.finished(side) && r.ack == Some(before.end(side))
        })
    }

    fn state(&self) -> ConnState {
        let both = |f: fn(&Model, usize) -> bool| f(self, 0) && f(self, 1);
        if self.reset {
            ConnState::Reset
        } else if both(Model::closed) {
            ConnState::TimeWait
        } else if self.finished(0) || self.finished(1) {
            ConnState::Closing
        } else if both(Model::opened) {
            ConnState::Established
        } else {
            ConnState::Opening
        }
    }

    fn begin(&mut self, opener: Rec, behind_syn: i64) {
        *self = Model { log: vec![opener], behind_syn, ..Model::default() };
    }

    /// Whether the segment passes; the history is what it is afterwards.
    fn take(&mut self, s: Sent) -> Result<(), DropReason> {
        let (me, peer) = (s.side, 1 - s.side);
        if self.log.is_empty() {
            return match (me, s.has(SYN) && !s.has(ACK)) {
                (INSIDE, true) => {
                    self.begin(s.rec(), s.seq + 1);
                    Ok(())
                }
                (INSIDE, false) => Err(DropReason::NatTcpNoState),
                _ => Err(DropReason::NatUnsolicited),
            };
        }
        let late = self.late.filter(|&(side, end, _)| side == peer && s.has(ACK) && s.ack == end);
        if s.has(SYN) && !s.has(ACK) {
            return self.syn(s);
        }
        if s.has(SYN)
            && let Some((side, end, scale)) = late
        {
            // The peer takes the late SYN for the beginning.
            self.begin(Rec { side, end, ack: None, win: 65_535, syn: true, fin: false, scale }, end);
        }
        if !self.known(me) {
            return self.answer(s);
        }
        if s.has(RST) {
            let at_ack = self.max_ack(peer);
            if s.seq == self.end(me) || at_ack == Some(s.seq) || (late.is_some() && s.zero) {
                self.reset = true;
                return Ok(());
            }
            let challenged = at_ack.is_none_or(|ack| s.seq > ack) && s.seq <= self.max_end(me);
            return if challenged { Ok(()) } else { Err(DropReason::NatTcpReset) };
        }
        let data = s.seq <= self.max_end(me) && s.end() >= self.end(me) - self.max_win(peer) - 1;
        let oldest = self.end(peer) - self.max_win(me).max(ACKS);
        let ack = !s.has(ACK) || !self.known(peer) || (oldest..=self.end(peer)).contains(&s.ack);
        if !(data && ack) {
            return Err(DropReason::NatTcpWindow);
        }
        let ack = s.has(ACK) && self.known(peer);
        self.log.push(Rec { ack: ack.then_some(s.ack), ..s.rec() });
        Ok(())
    }

    fn syn(&mut self, s: Sent) -> Result<(), DropReason> {
        let (me, peer) = (s.side, 1 - s.side);
        match self.state() {
            ConnState::TimeWait | ConnState::Reset => self.begin(s.rec(), s.seq + 1),
            ConnState::Opening if !self.known(peer) => self.begin(s.rec(), s.seq + 1),
            ConnState::Opening if !self.known(me) => self.log.push(s.rec()),
            ConnState::Opening if self.end(me) == s.end() => {}
            _ => self.late = Some((me, s.end(), s.scale)),
        }
        Ok(())
    }

    /// What the peer that was silent says first, SYNs without ACK apart.
    fn answer(&mut self, s: Sent) -> Result<(), DropReason> {
        let peer = 1 - s.side;
        if s.has(RST) {
            if s.has(ACK) && s.ack == self.end(peer) {
                self.reset = true;
                return Ok(());
            }
            return Err(DropReason::NatTcpReset);
        }
        if !s.has(SYN) {
            return Ok(());
        }
        if !(self.behind_syn..=self.end(peer)).contains(&s.ack) {
            return Err(DropReason::NatTcpWindow);
        }
        self.log.push(s.rec());
        Ok(())
    }
}

/// A segment, by what bounds its numbers are near.
#[derive(Clone, Copy, Debug)]
struct Step {
    outside: bool,
    flags: u8,
    seq: (u8, i64),
    ack: (u8, i64),
    win: u16,
    len: u16,
    scale: Option<u8>,
}

fn step() -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        3 => Just(SYN), 4 => Just(SYN | ACK), 10 => Just(ACK), 3 => Just(FIN | ACK), 1 => Just(RST), 1 => Just(RST | ACK)
    ];
    let near = || (0u8..6, prop_oneof![6 => Just(0i64), 4 => -3i64..=3, 1 => -80_000i64..80_000]);
    let len = prop_oneof![2 => Just(0u16), 1 => 1u16..3000];
    (any::<bool>(), flags, near(), near(), any::<u16>(), len, prop::option::of(0u8..=15)).prop_map(
        |(outside, flags, seq, ack, win, len, scale)| Step { outside, flags, seq, ack, win, len, scale },
    )
}

/// The usual opening, so that what follows it is reached often.
fn opening() -> Vec<Step> {
    let step =
        |outside, flags| Step { outside, flags, seq: (0, 0), ack: (0, 0), win: 2, len: 0, scale: Some(3) };
    vec![step(false, SYN), step(true, SYN | ACK), step(false, ACK)]
}

fn play(steps: &[Step], bases: [u32; 2]) {
    let rule = masquerade(&["192.0.2.10"], (1024, 65535), Filtering::default());
    let mut w = World::new(Config { pickup: false, ..Config::for_capacity(64) }, &[rule]);
    let (a, ext, r) = (addr("10.77.0.9:5000"), addr("192.0.2.10:5000"), addr("198.51.100.1:80"));
    let mut m = Model::default();
    for (i, step) in steps.iter().enumerate() {
        let me = usize::from(step.outside);
        let peer = 1 - me;
        let wire = |side: usize, n: i64| bases[side].wrapping_add(n as u32);
        let late = m.late.map_or(0, |l| l.1);
        let seqs = [
            m.end(me),
            m.max_end(me),
            m.max_ack(peer).unwrap_or(0),
            m.end(me) - m.max_win(peer) - 1 - i64::from(step.len),
            -i64::from(bases[me] as i32),
            m.end(me),
        ];
        let acks = [
            m.end(peer),
            m.end(peer),
            m.max_ack(me).unwrap_or(0),
            m.end(peer) - m.max_win(me).max(ACKS),
            late,
            m.behind_syn,
        ];
        let seq = seqs[usize::from(step.seq.0)] + step.seq.1;
        let ack = acks[usize::from(step.ack.0)] + step.ack.1;
        let syn = step.flags & SYN != 0;
        // Windows of SYNs are multiples of every scale, since the tracker rounds them; a side that was not
        // answered does not know its scale.
        let win = match (syn, m.known(peer)) {
            (true, _) => (step.win % 3 + 1) << 14,
            (false, true) => step.win,
            (false, false) => 0,
        };
        let scale = step.scale.filter(|_| syn);
        let (len, zero) = (i64::from(step.len), wire(me, seq) == 0);
        let sent = Sent {
            side: me,
            seq,
            ack,
            flags: step.flags,
            win: i64::from(win),
            len,
            scale: scale.map(|s| s.min(14)),
            zero,
        };
        let seg = Seg {
            flags: step.flags,
            seq: wire(me, seq),
            ack: wire(peer, ack),
            win,
            len: len as usize,
            scale,
        };
        let got = if step.outside { w.back(&tcp_to(r, ext, seg)) } else { w.out(&tcp_to(a, r, seg)) };
        let want = m.take(sent);
        assert_eq!(got.map(|_| ()), want, "step {i}: {step:?}");
        let state = w.nat.connections(w.now).next().map(|c| c.state);
        assert_eq!(state, (!m.log.is_empty()).then(|| m.state()), "after step {i}: {step:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_tracker_agrees_with_its_model(
        opened: bool,
        steps in prop::collection::vec(step(), 1..40),
        bases in (-90_000i32..=0, -90_000i32..=0),
    ) {
        let steps = if opened { [opening(), steps].concat() } else { steps };
        play(&steps, [bases.0 as u32, bases.1 as u32]);
    }
}
