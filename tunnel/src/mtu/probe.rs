//! What a path takes, found out by trying (RFC 8899, DPLPMTUD), since a bridge that drops what is too long for
//! it says nothing. The probes are BFD polls padded to a length (RFC 9764), which must leave with DF; an answer
//! proves that the length arrives.
//!
//! ```text
//!            answered                     all tried                  lost too often
//!   Asking ───────────▶ Search(low, high) ─────────▶ Confirmed(low) ───────────────▶ Search(0, low)
//!     ▲                         │       ▲                  │
//!     └──── least one lost ─────┘       └── one byte more ─┘ answered
//! ```
//!
//! Theory of operation. *Asking*: a poll with hardly any padding, to see whether the far end answers padded
//! polls at all. One that never did proves nothing by its silence: nothing is ever concluded about the MTU
//! then, and it is asked again from time to time. *Search*: first what the link takes, then the base (what
//! carries inner packets of 1280 bytes), then halving the interval. *Confirmed*: the length found is tried
//! every [`VERIFY`], and one byte more every [`GROW`].
//!
//! The estimate falls as soon as a loss and, after it, the answer to a shorter probe are there: together they
//! tell a path that lost large packets from a far end that stopped answering. It rises when a search ends.
//! How many losses in a row are one depends on how many packets the path loses anyway, so that chance does not
//! look like a black hole. All this leaves the session alone: its small packets go on, and it stays up.
//!
//! Whoever owns the session calls [`Prober::poll`] after each packet that came and at
//! [`Prober::next_deadline`], until it has no probe; sends what it gives, with DF, as
//! `build_padded(&probe.control, …, inner_len(&encap, probe.size))`; and compares [`Prober::mtu`] with what it
//! was. [`crate::bfd::Session::measure`] is not needed then.
//!
//! Departures from RFC 8899. A larger size is tried every 10 s instead of 600 (§5.1.1), since a probe carries
//! no user's data and is small beside what liveness costs. The search begins at the top, which is where it
//! nearly always ends.

use std::time::{Duration, Instant};

use super::{IPV4_MIN, IPV6_MIN, overhead};
use crate::bfd::{self, Session, State};
use crate::config::{Encap, InnerVlan};

/// How often the length in force is tried.
pub const VERIFY: Duration = Duration::from_secs(2);
/// How often a larger one is tried.
pub const GROW: Duration = Duration::from_secs(10);
/// How often a far end that answers no padded polls is asked again.
pub const ASK: Duration = Duration::from_secs(30);

/// Least number of losses in a row that mean that a length does not arrive (MAX_PROBES, RFC 8899 §5.1.2).
const LEAST_LOSSES: u32 = 3;
/// Most, on a path that loses a lot.
const MOST_LOSSES: u32 = 8;
/// Padding of the least probe, bytes.
const LEAST_PADDING: u16 = 64;

/// A probe to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// The control packet.
    pub control: [u8; bfd::wire::LEN],
    /// Length of the outer IP packet, which must be sent with DF: see [`inner_len`].
    pub size: u16,
}

/// The IP length for [`bfd::frame::build_padded`] whose frame, untagged, makes an outer IP packet of `size`
/// bytes.
pub fn inner_len(to: &Encap, size: u16) -> u16 {
    let untagged = Encap { inner_vlan: InnerVlan::Strip, ..*to };
    size.saturating_sub(overhead(&untagged))
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// The far end has not answered a padded poll yet.
    Asking,
    /// `low` arrives (0: nothing is known to), `high` does not.
    Search {
        low: u16,
        high: u16,
    },
    Confirmed {
        size: u16,
        grow: Instant,
    },
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    size: u16,
    until: Instant,
}

/// Probes the path to one remote, by its session.
#[derive(Debug)]
pub struct Prober {
    least: u16,
    base: u16,
    /// The interim estimate while nothing but the least probe arrives.
    floor: u16,
    link: u16,
    phase: Phase,
    mtu: Option<u16>,
    sent: Option<Sent>,
    /// Probes of one size lost in a row.
    losses: u32,
    next: Instant,
}

impl Prober {
    /// For the tunnel `to`, whose path takes no more than `link` bytes of outer IP.
    pub fn new(to: &Encap, link: u16, now: Instant) -> Prober {
        let least = overhead(to) + bfd::frame::IP_LEN + LEAST_PADDING;
        let mut prober = Prober {
            least,
            base: IPV6_MIN + overhead(to),
            floor: if to.remote.is_ipv4() { IPV4_MIN } else { IPV6_MIN },
            link: 0,
            phase: Phase::Asking,
            mtu: None,
            sent: None,
            losses: 0,
            next: now,
        };
        prober.set_link(link);
        prober
    }

    /// The longest outer IP packet that arrives; `None` when that is not known, which is no reason to believe
    /// in less than the link takes. Kept while the session is down.
    pub const fn mtu(&self) -> Option<u16> {
        self.mtu
    }

    /// Whether the search has ended, with [`Prober::mtu`] as its result.
    pub const fn is_confirmed(&self) -> bool {
        matches!(self.phase, Phase::Confirmed { .. })
    }

    /// The link, or what is known of the path by other means, changed. A size that is larger is searched for.
    pub fn set_link(&mut self, link: u16) {
        let (old, link) = (self.link, link.clamp(self.least, u16::MAX - 1));
        self.link = link;
        self.mtu = self.mtu.map(|mtu| mtu.min(link));
        // What is shorter than something that arrives, arrives.
        self.phase = match self.phase {
            Phase::Search { low, high } if high > old || high > link => {
                Phase::Search { low: low.min(link), high: link + 1 }
            }
            Phase::Confirmed { size, .. } if link > old => Phase::Search { low: size, high: link + 1 },
            Phase::Confirmed { size, grow } => Phase::Confirmed { size: size.min(link), grow },
            phase => phase,
        };
    }

    /// Takes notice of an answer or its absence, and says what to send now, if anything.
    pub fn poll(&mut self, now: Instant, session: &mut Session) -> Option<Probe> {
        if session.state() != State::Up {
            // The far end may be another one when the session comes back, the path another path.
            (self.phase, self.sent, self.losses, self.next) = (Phase::Asking, None, 0, now);
            return None;
        }
        let answered = session.take_padded_answer();
        if let Some(sent) = self.sent {
            if answered {
                (self.sent, self.losses, self.next) = (None, 0, now);
                self.arrived(now, sent.size);
            } else if now >= sent.until {
                (self.sent, self.losses, self.next) = (None, self.losses + 1, now);
                if self.losses >= self.tries(sent.size, session) {
                    self.losses = 0;
                    self.vanished(now, sent.size);
                    if self.phase == Phase::Asking {
                        session.forget_padded();
                    }
                }
            }
        }
        if self.sent.is_some() || now < self.next {
            return None;
        }
        let size = self.candidate(now);
        let control = session.poll_padded(now)?;
        self.sent = Some(Sent { size, until: now + session.answer_timeout() });
        Some(Probe { control, size })
    }

    /// The probe that was just handed out is longer than the first link takes (EMSGSIZE).
    pub fn unsendable(&mut self, now: Instant, session: &mut Session) {
        session.forget_padded();
        if let Some(sent) = self.sent.take() {
            (self.losses, self.next) = (0, now);
            self.vanished(now, sent.size);
        }
    }

    /// When [`Prober::poll`] has something to do next, besides when a packet came or the session changed.
    pub fn next_deadline(&self, session: &Session) -> Option<Instant> {
        let ready = session.padded_ready();
        match self.sent {
            Some(sent) => Some(sent.until),
            None => ready.map(|at| at.max(self.next)),
        }
    }

    /// How often in a row a probe of this size must be lost for the size to be held for too large.
    fn tries(&self, size: u16, session: &Session) -> u32 {
        // Growth is tried again soon.
        if matches!(self.phase, Phase::Confirmed { size: confirmed, .. } if size > confirmed) {
            return 1;
        }
        let lost = session.loss().map_or(0.0, bfd::Loss::ratio);
        // A probe and its answer.
        let both = 1.0 - (1.0 - lost) * (1.0 - lost);
        (LEAST_LOSSES..MOST_LOSSES).find(|&n| both.powi(n as i32) < 1e-6).unwrap_or(MOST_LOSSES)
    }

    fn candidate(&self, now: Instant) -> u16 {
        match self.phase {
            Phase::Asking => self.least,
            Phase::Confirmed { size, grow } => {
                if self.losses == 0 && size < self.link && now >= grow {
                    size + 1
                } else {
                    size
                }
            }
            Phase::Search { high, .. } if high > self.link => self.link,
            Phase::Search { low, high } if low < self.base && self.base < high => self.base,
            Phase::Search { low: 0, .. } => self.least,
            Phase::Search { low, high } => low + (high - low) / 2,
        }
    }

    fn arrived(&mut self, now: Instant, size: u16) {
        let size = size.min(self.link);
        match &mut self.phase {
            Phase::Asking => self.phase = Phase::Search { low: size, high: self.link + 1 },
            Phase::Search { low, .. } => *low = size.max(*low),
            Phase::Confirmed { size: confirmed, .. } if size > *confirmed => {
                self.phase = Phase::Search { low: size, high: self.link + 1 };
            }
            Phase::Confirmed { .. } => self.next = now + VERIFY,
        }
        self.settle(now);
    }

    fn vanished(&mut self, now: Instant, size: u16) {
        match &mut self.phase {
            Phase::Asking => self.next = now + ASK,
            // Not even the least arrives, though it did: it is not a matter of size.
            Phase::Search { low: 0, .. } if size == self.least => {
                (self.phase, self.next) = (Phase::Asking, now + ASK);
            }
            Phase::Search { high, .. } => *high = size.min(*high),
            Phase::Confirmed { size: confirmed, grow } if size > *confirmed => *grow = now + GROW,
            Phase::Confirmed { size: confirmed, .. } => {
                self.phase = Phase::Search { low: 0, high: *confirmed };
            }
        }
        self.settle(now);
    }

    /// Draws the conclusions from a search.
    fn settle(&mut self, now: Instant) {
        let Phase::Search { low, high } = self.phase else { return };
        if low + 1 >= high {
            self.mtu = Some(low);
            self.phase = Phase::Confirmed { size: low, grow: now + GROW };
            self.next = now + VERIFY;
            return;
        }
        let current = self.mtu.unwrap_or(self.link);
        let known = low >= self.base || low > 0 && high <= self.base;
        if known && current >= high {
            self.mtu = Some(low.max(self.floor.min(high - 1)));
        }
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
