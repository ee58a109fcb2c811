//! What a session's packets tell of the path besides whether it is there: round trip and loss.

use std::time::{Duration, Instant};

/// A Poll Sequence (RFC 5880 §6.5), or a padded poll and its repetitions.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Poll {
    /// When the first, the last, and the one before the last packet with P left.
    pub(super) first: Option<Instant>,
    pub(super) before: Option<Instant>,
    pub(super) last: Option<Instant>,
}

impl Poll {
    pub(super) fn again(&mut self, now: Instant) {
        self.first.get_or_insert(now);
        self.before = self.last.replace(now);
    }
}

/// A smoothed round trip (RFC 6298 §2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct RoundTrip {
    /// SRTT: a new sample weighs an eighth.
    pub(super) smoothed: Duration,
    /// RTTVAR: the smoothed distance of samples from it.
    variation: Duration,
}

impl RoundTrip {
    /// What hardly any round trip exceeds: the retransmission timeout, with a clock granularity of 10 ms.
    pub(super) fn longest(&self) -> Duration {
        self.smoothed + (self.variation * 4).max(Duration::from_millis(10))
    }

    pub(super) fn add(this: &mut Option<RoundTrip>, sample: Duration) {
        *this = Some(match *this {
            None => RoundTrip { smoothed: sample, variation: sample / 2 },
            Some(RoundTrip { smoothed, variation }) => RoundTrip {
                smoothed: (smoothed * 7 + sample) / 8,
                variation: (variation * 3 + smoothed.abs_diff(sample)) / 4,
            },
        });
    }
}

/// How many of the far end's periodic packets did not arrive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Loss {
    /// Not arrived.
    pub lost: u32,
    /// Expected; the window holds 128.
    pub expected: u32,
}

impl Loss {
    /// From 0 to 1.
    pub fn ratio(self) -> f32 {
        self.lost as f32 / self.expected.max(1) as f32
    }
}

/// The last 128 periodic packets of the far end. They carry no numbers, so how many went missing between two
/// is told by the time: each interval is shortened by 0 to 25 % (RFC 5880 §6.8.7), so up to three missing ones
/// are counted exactly, more by their mean.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Losses {
    /// The newest in the lowest bit; 1 for one that came.
    history: u128,
    known: u32,
}

impl Losses {
    /// Which packets a late one may be.
    const RECENT: u128 = 0xf;

    /// A periodic packet came `elapsed` after the one before, and they leave each `interval` without jitter.
    pub(super) fn arrived(&mut self, elapsed: Duration, interval: Duration) {
        match Losses::periods(elapsed, interval) {
            // Delayed so long that it was held for lost, and now the next one is here.
            0 => {
                let missing = !self.history & Losses::RECENT & ((1 << self.known.min(127)) - 1);
                self.history |= missing & missing.wrapping_neg();
            }
            periods => {
                self.missed(periods - 1);
                self.push(true);
            }
        }
    }

    /// Nothing came for so long.
    pub(super) fn silence(&mut self, elapsed: Duration, interval: Duration) {
        self.missed(Losses::periods(elapsed, interval));
    }

    fn missed(&mut self, count: u32) {
        (0..count.min(u128::BITS)).for_each(|_| self.push(false));
    }

    fn push(&mut self, came: bool) {
        self.history = self.history << 1 | u128::from(came);
        self.known = (self.known + 1).min(u128::BITS);
    }

    /// Mean periods, rounded: one is 7/8 of the interval.
    fn periods(elapsed: Duration, interval: Duration) -> u32 {
        let period = (interval.as_micros() * 7 / 8).max(1);
        ((elapsed.as_micros() + period / 2) / period).try_into().unwrap_or(u32::MAX)
    }

    pub(super) fn get(&self) -> Option<Loss> {
        let came = self.history.count_ones();
        (self.known > 0).then_some(Loss { lost: self.known - came, expected: self.known })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const I: Duration = Duration::from_millis(100);

    fn after(percents: &[u32]) -> Option<(u32, u32)> {
        let mut losses = Losses::default();
        percents.iter().for_each(|&p| losses.arrived(I * p / 100, I));
        losses.get().map(|l| (l.lost, l.expected))
    }

    #[test]
    fn gaps_are_counted_by_time_whatever_the_jitter() {
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[75, 100, 88]), Some((0, 3)));
        for (least, most, lost) in [(75, 100, 0), (150, 200, 1), (225, 300, 2)] {
            for percent in least..=most {
                assert_eq!(after(&[percent]), Some((lost, lost + 1)), "{percent} %");
            }
        }
    }

    #[test]
    fn a_packet_that_was_late_is_not_lost() {
        assert_eq!(after(&[88, 88, 160, 16]), Some((0, 4)));
        // One too many, with none missing, makes up for no other.
        assert_eq!(after(&[88, 10, 170]), Some((1, 3)));
        assert_eq!(after(&[170, 88, 88, 88, 10]), Some((1, 5)));
    }

    #[test]
    fn old_losses_leave_the_window() {
        let mut losses = Losses::default();
        losses.silence(I * 88, I);
        assert_eq!(losses.get().map(|l| (l.lost, l.expected, l.ratio() == 1.0)), Some((101, 101, true)));
        (0..128).for_each(|_| losses.arrived(I * 7 / 8, I));
        assert_eq!(losses.get().map(|l| (l.lost, l.expected)), Some((0, 128)));
        losses.silence(Duration::MAX, I);
        assert_eq!(losses.get().map(|l| l.lost), Some(128));
    }

    #[test]
    fn round_trips_are_smoothed() {
        let mut rtt = None;
        RoundTrip::add(&mut rtt, I);
        assert_eq!(rtt, Some(RoundTrip { smoothed: I, variation: I / 2 }));
        RoundTrip::add(&mut rtt, I * 9);
        assert_eq!(rtt, Some(RoundTrip { smoothed: I * 2, variation: I * 19 / 8 }));
    }
}
