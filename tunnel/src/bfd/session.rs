//! One BFD session (RFC 5880 §6.8). Names in comments are the RFC's state variables.

use std::time::{Duration, Instant};

use super::measure::{Loss, Losses, Poll, RoundTrip};
use super::wire::{ControlPacket, Diag, LEN, State};

/// While a session is not up, packets are no more often than this (RFC 5880 §6.8.3), microseconds.
const SLOW: u32 = 1_000_000;

/// What a session is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Config {
    /// bfd.LocalDiscr: our name for the session, unique on this host; not 0.
    pub discriminator: u32,
    /// bfd.DesiredMinTxInterval while up: how often to send. Microseconds, not 0.
    pub min_tx: u32,
    /// bfd.RequiredMinRxInterval: how often the other may send. Microseconds.
    pub min_rx: u32,
    /// bfd.DetectMult: how many packets in a row may be lost; not 0.
    pub detect_mult: u8,
    /// Stay silent until the other speaks (RFC 5880 §6.1).
    pub passive: bool,
}

impl Config {
    /// A packet each 300 ms, three may be lost: a dead peer is noticed within 0.9 s.
    pub const fn new(discriminator: u32) -> Config {
        Config { discriminator, min_tx: 300_000, min_rx: 300_000, detect_mult: 3, passive: false }
    }
}

/// Why a packet was discarded (RFC 5880 §6.8.6, RFC 5881 §5).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Discard {
    /// The TTL is not 255, so it may have come from afar.
    Ttl,
    /// The version is not 1.
    Version,
    /// The length field is too small, or larger than the packet.
    Length,
    /// Detect Mult is 0.
    DetectMult,
    /// M is set.
    Multipoint,
    /// My Discriminator is 0.
    MyDiscriminator,
    /// Your Discriminator is of no session.
    YourDiscriminator,
    /// Your Discriminator is 0 though the sender says that it heard us.
    State,
    /// A is set, and no authentication is in use.
    Authentication,
    /// The session is held down.
    AdminDown,
}

/// A change of state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// Before.
    pub from: State,
    /// After.
    pub to: State,
    /// Why, when it went down.
    pub diag: Diag,
}

/// How long an answer to a padded poll is waited for: RFC 8899 §5.1.1 wants no less than a second.
const ANSWER: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(5)];

/// How long an answer to a padded poll makes other measurements needless.
const MEASURED: Duration = Duration::from_secs(5);

/// One session with one peer.
#[derive(Debug)]
pub struct Session {
    config: Config,
    state: State,
    diag: Diag,
    /// bfd.RemoteDiscr.
    remote_discr: u32,
    remote_state: State,
    remote_min_rx: u32,
    remote_min_tx: u32,
    remote_mult: u8,
    remote_demand: bool,
    poll: Option<Poll>,
    /// A padded poll is out: an answer with F is taken to be its.
    padded: Option<Poll>,
    /// It was answered.
    padded_answered: bool,
    /// When, the last time.
    padded_measured: Option<Instant>,
    /// Until then an answer may be to an earlier poll, so no padded one leaves.
    settled: Option<Instant>,
    /// An answer with F is due.
    owes_final: bool,
    /// The intervals to go by until the Poll Sequence ends: the old sending one if it grew, the old
    /// receiving one if it shrank (RFC 5880 §6.8.3).
    old_tx: Option<u32>,
    old_rx: Option<u32>,
    next_tx: Instant,
    /// When the last packet left, for changes of the interval.
    last_tx: Option<Instant>,
    last_rx: Option<Instant>,
    /// When a periodic packet came last, and the interval announced then.
    last_periodic: Option<(Instant, u32)>,
    round_trip: Option<RoundTrip>,
    /// What a round trip may take by an answer to one of several polls.
    slowest: Option<Duration>,
    losses: Losses,
    rng: u64,
}

impl Session {
    /// A session in state Down, which sends its first packet within a second. `seed` spreads the jitter of
    /// many sessions.
    pub fn new(config: Config, now: Instant, seed: u64) -> Session {
        let mut session = Session {
            config,
            state: State::Down,
            diag: Diag::NONE,
            remote_discr: 0,
            remote_state: State::Down,
            remote_min_rx: 1,
            remote_min_tx: 0,
            remote_mult: 0,
            remote_demand: false,
            poll: None,
            padded: None,
            padded_answered: false,
            padded_measured: None,
            settled: None,
            owes_final: false,
            old_tx: None,
            old_rx: None,
            next_tx: now,
            last_tx: None,
            last_rx: None,
            last_periodic: None,
            round_trip: None,
            slowest: None,
            losses: Losses::default(),
            rng: seed ^ u64::from(config.discriminator),
        };
        session.next_tx = now + micros(session.random() % SLOW);
        session
    }

    /// bfd.SessionState.
    pub const fn state(&self) -> State {
        self.state
    }

    /// bfd.RemoteSessionState.
    pub const fn remote_state(&self) -> State {
        self.remote_state
    }

    /// bfd.LocalDiag.
    pub const fn diag(&self) -> Diag {
        self.diag
    }

    /// The time from a poll to its answer, smoothed, of those answered at once; see [`Session::measure`].
    pub fn round_trip(&self) -> Option<Duration> {
        self.round_trip.map(|rtt| rtt.smoothed)
    }

    /// How many of the far end's last periodic packets went missing since the session came up; still there
    /// after it went down.
    pub fn loss(&self) -> Option<Loss> {
        self.losses.get()
    }

    /// Starts a Poll Sequence for its round trip; a session may do so at any time (RFC 5880 §6.5). Does nothing
    /// where padded polls are answered, which measure too, nor while answers to earlier polls may come.
    pub fn measure(&mut self) {
        let not_after = |at: Instant| self.last_rx.is_some_and(|rx| rx < at);
        let needless = self.padded.is_some()
            || self.settled.is_some_and(not_after)
            || self.padded_measured.is_some_and(|at| not_after(at + MEASURED));
        if self.state == State::Up && !needless {
            self.poll.get_or_insert_default();
        }
    }

    /// A packet with P to be sent padded (RFC 9764), as a probe of the path MTU; between the periodic ones,
    /// which go on unpadded and keep the session up where padded ones vanish. `None` while the session is not
    /// up, is in a Poll Sequence, or answers to earlier polls may still come; see [`Session::padded_ready`].
    ///
    /// An answer does not say which poll it is to. So after a padded poll without an answer only padded ones of
    /// the same size or smaller may follow within [`Session::answer_timeout`]: if a late answer is taken to be
    /// theirs, what it proves is still true.
    pub fn poll_padded(&mut self, now: Instant) -> Option<[u8; LEN]> {
        if self.padded_ready().is_none_or(|at| now < at) {
            return None;
        }
        self.padded.get_or_insert_default().again(now);
        Some(self.packet(true, false))
    }

    /// From when on [`Session::poll_padded`] has a packet, as far as is known.
    pub fn padded_ready(&self) -> Option<Instant> {
        let up = (self.state, self.remote_state) == (State::Up, State::Up);
        let ready = up && self.poll.is_none() && self.remote_min_rx != 0;
        ready.then(|| self.settled.or(self.last_rx).unwrap_or(self.next_tx))
    }

    /// Whether a padded poll was answered since the last call.
    pub fn take_padded_answer(&mut self) -> bool {
        std::mem::take(&mut self.padded_answered)
    }

    /// The padded poll could not be sent, or is not waited for any more.
    pub fn forget_padded(&mut self) {
        self.padded = None;
    }

    /// How long an answer to a poll may take, by the round trips so far.
    pub fn answer_timeout(&self) -> Duration {
        let [least, most] = ANSWER;
        let measured = self.round_trip.map_or(least, |rtt| rtt.longest());
        measured.max(self.slowest.unwrap_or(least)).clamp(least, most)
    }

    /// Takes a received UDP payload that belongs to this session by its addresses (RFC 5880 §6.8.6).
    ///
    /// # Errors
    /// The packet is discarded, nothing has changed.
    pub fn on_packet(&mut self, now: Instant, ttl: u8, bytes: &[u8]) -> Result<Option<Event>, Discard> {
        if ttl != 255 {
            return Err(Discard::Ttl);
        }
        let p = ControlPacket::parse(bytes)?;
        if p.your_discr != 0 && p.your_discr != self.config.discriminator {
            return Err(Discard::YourDiscriminator);
        }
        if self.state == State::AdminDown {
            return Err(Discard::AdminDown);
        }
        self.remote_discr = p.my_discr;
        self.remote_state = p.state;
        self.remote_demand = p.demand;
        self.remote_min_tx = p.desired_min_tx;
        self.remote_mult = p.detect_mult;
        self.last_rx = Some(now);
        if p.fin {
            self.on_final(now);
        }
        if self.remote_min_rx != p.required_min_rx {
            self.remote_min_rx = p.required_min_rx;
            self.reschedule();
        }
        let event = match (self.state, p.state) {
            (State::Init | State::Up, State::AdminDown) | (State::Up, State::Down) => {
                self.go(now, State::Down, Diag::NEIGHBOR_DOWN)
            }
            (State::Down, State::Down) => self.go(now, State::Init, self.diag),
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.go(now, State::Up, Diag::NONE)
            }
            _ => None,
        };
        self.owes_final |= p.poll;
        if !p.fin && bytes.len() <= usize::from(bytes[3]) {
            self.on_periodic(now);
        }
        Ok(event)
    }

    /// An answer ends what was asked last; it means nothing when nothing was.
    fn on_final(&mut self, now: Instant) {
        let asked = match self.padded.take() {
            Some(padded) => {
                self.padded_answered = true;
                self.padded_measured = Some(now);
                padded
            }
            None => {
                let Some(poll) = self.poll.take_if(|poll| poll.last.is_some()) else { return };
                (self.old_tx, self.old_rx) = (None, None);
                poll
            }
        };
        let (Some(first), Some(last)) = (asked.first, asked.last) else { return };
        let since = |sent: Instant| now.saturating_duration_since(sent);
        // An answer to an earlier one would have come long ago.
        let last_only = |before| self.round_trip.is_some_and(|rtt| since(before) > rtt.longest());
        if asked.before.is_none_or(last_only) {
            self.slowest = None;
            RoundTrip::add(&mut self.round_trip, since(last));
        } else {
            // Which one it answers is not known (RFC 6298 §3), but no answer took longer than this one, if it
            // is the first's. The others may be answered too.
            let most = since(first).min(ANSWER[1]);
            self.slowest = Some(most);
            self.settled = Some((last + most).max(now) + self.answer_timeout());
        }
    }

    /// Counts what went missing between two packets of one interval.
    fn on_periodic(&mut self, now: Instant) {
        let interval = self.remote_min_tx.max(self.config.min_rx);
        if let Some((before, same)) = self.last_periodic
            && same == interval
            && (self.state, self.remote_state) == (State::Up, State::Up)
        {
            self.losses.arrived(now.saturating_duration_since(before), micros(interval));
        }
        self.last_periodic = Some((now, interval));
    }

    /// Notices that nothing was heard for a detection time (RFC 5880 §6.8.4).
    pub fn expire(&mut self, now: Instant) -> Option<Event> {
        if self.detection_deadline().is_none_or(|at| now < at) {
            return None;
        }
        // "bfd.RemoteDiscr … MUST be set to zero" when nothing was heard for so long (§6.8.1).
        self.remote_discr = 0;
        self.last_rx = None;
        self.poll = None;
        if let Some((before, interval)) = self.last_periodic.take() {
            self.losses.silence(now.saturating_duration_since(before), micros(interval));
        }
        match self.state {
            State::Init | State::Up => self.go(now, State::Down, Diag::EXPIRED),
            State::Down | State::AdminDown => None,
        }
    }

    /// The packet that is due, if one is; call again until there is none.
    pub fn poll(&mut self, now: Instant) -> Option<[u8; LEN]> {
        if self.owes_final {
            // "as soon as practicable, without respect to the transmission timer" (§6.8.7).
            self.owes_final = false;
            return Some(self.packet(false, true));
        }
        if now < self.tx_deadline()? {
            return None;
        }
        let polling = self.poll.is_some();
        if let Some(poll) = &mut self.poll {
            poll.again(now);
        }
        let wait = self.jittered();
        self.last_tx = Some(now);
        self.next_tx = now + wait;
        Some(self.packet(polling, false))
    }

    /// When [`Session::poll`] or [`Session::expire`] has something to do next.
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.owes_final {
            // Overdue.
            return Some(self.last_rx.unwrap_or(self.next_tx));
        }
        self.tx_deadline().into_iter().chain(self.detection_deadline()).min()
    }

    /// Holds the session down, or lets it go again (RFC 5880 §6.8.16).
    pub fn set_admin_down(&mut self, now: Instant, down: bool) -> Option<Event> {
        match (down, self.state == State::AdminDown) {
            (true, false) => {
                self.poll = None;
                self.owes_final = false;
                self.go(now, State::AdminDown, Diag::ADMIN_DOWN)
            }
            (false, true) => self.go(now, State::Down, Diag::NONE),
            _ => None,
        }
    }

    /// Changes the intervals, microseconds. While up they take effect as RFC 5880 §6.8.3 says.
    pub fn set_intervals(&mut self, min_tx: u32, min_rx: u32) {
        let (tx, rx) = (self.config.min_tx, self.config.min_rx);
        if (tx, rx) == (min_tx, min_rx) {
            return;
        }
        (self.config.min_tx, self.config.min_rx) = (min_tx, min_rx);
        if self.state == State::Up {
            if min_tx > tx {
                self.old_tx.get_or_insert(tx);
            }
            if min_rx < rx {
                self.old_rx.get_or_insert(rx);
            }
        }
        if self.remote_discr != 0 {
            self.forget_padded();
            self.poll = Some(Poll::default());
        }
        self.reschedule();
    }

    /// Changes how many packets in a row may be lost before the far end takes us for dead: the next packet tells
    /// it, no Poll Sequence is needed (RFC 5880 §6.8.4 has it count by the last value received).
    pub fn set_multiplier(&mut self, detect_mult: u8) {
        self.config.detect_mult = detect_mult.max(1);
    }

    fn go(&mut self, now: Instant, to: State, diag: Diag) -> Option<Event> {
        let from = self.state;
        if from == to {
            return None;
        }
        self.state = to;
        self.diag = diag;
        if self.padded.take().is_some() || self.poll.is_some() {
            self.settled = Some(now + self.answer_timeout());
        }
        self.padded_answered = false;
        if to == State::Up {
            (self.losses, self.last_periodic) = (Losses::default(), None);
        }
        (self.old_tx, self.old_rx) = (None, None);
        // The interval changes when a session comes up, which wants a Poll Sequence (§6.8.3).
        self.poll = (to == State::Up && self.config.min_tx < SLOW).then(Poll::default);
        // "SHOULD be transmitted during the interval between periodic … transmissions when the contents of
        // that packet would differ" (§6.8.7).
        self.next_tx = now;
        Some(Event { from, to, diag })
    }

    /// bfd.DesiredMinTxInterval.
    fn desired_min_tx(&self) -> u32 {
        if self.state == State::Up { self.config.min_tx } else { self.config.min_tx.max(SLOW) }
    }

    /// The interval between packets without jitter (§6.8.2), microseconds.
    fn tx_interval(&self) -> u32 {
        self.old_tx.unwrap_or_else(|| self.desired_min_tx()).max(self.remote_min_rx)
    }

    /// Each interval is shortened by 0 to 25 %, by 10 to 25 % when a single loss would matter (§6.8.7).
    fn jittered(&mut self) -> Duration {
        let least_cut = if self.config.detect_mult == 1 { 10 } else { 0 };
        let cut = least_cut + self.random() % (26 - least_cut);
        // Never nothing, or there would always be a packet due.
        Duration::from_micros((u64::from(self.tx_interval()) * u64::from(100 - cut) / 100).max(1))
    }

    /// Fits the next packet to an interval that changed.
    fn reschedule(&mut self) {
        if let Some(last) = self.last_tx {
            let wait = self.jittered();
            self.next_tx = self.next_tx.min(last + wait);
        }
    }

    fn tx_deadline(&self) -> Option<Instant> {
        // §6.8.7: the three cases in which nothing is sent periodically.
        let demand = self.remote_demand
            && (self.state, self.remote_state) == (State::Up, State::Up)
            && self.poll.is_none();
        let silent = (self.config.passive && self.remote_discr == 0) || self.remote_min_rx == 0 || demand;
        (!silent).then_some(self.next_tx)
    }

    fn detection_deadline(&self) -> Option<Instant> {
        // An interval of 0 is reserved (§4.1), and would expire at once.
        let interval = self.old_rx.unwrap_or(self.config.min_rx).max(self.remote_min_tx).max(1);
        let time = Duration::from_micros(u64::from(interval) * u64::from(self.remote_mult));
        Some(self.last_rx? + time)
    }

    fn packet(&self, poll: bool, fin: bool) -> [u8; LEN] {
        ControlPacket {
            diag: self.diag,
            state: self.state,
            poll,
            fin,
            control_plane_independent: false,
            demand: false,
            detect_mult: self.config.detect_mult,
            my_discr: self.config.discriminator,
            your_discr: self.remote_discr,
            desired_min_tx: self.desired_min_tx(),
            required_min_rx: self.config.min_rx,
            required_min_echo_rx: 0,
        }
        .to_bytes()
    }

    /// SplitMix64; only for jitter.
    fn random(&mut self) -> u32 {
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.rng ^ self.rng >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z >> 32) as u32
    }
}

const fn micros(n: u32) -> Duration {
    Duration::from_micros(n as u64)
}
