//! How long a worker that has run out of work looks for more before it sleeps.
//!
//! Falling asleep and being woken costs 10 to 30 µs on either side of a ping-pong, far more than the forwarding.
//! Looking again and again costs a core. So a worker looks only while that has paid: as long as work keeps
//! coming within [`LIMIT`] of the last, it waits awake for about as long as it lately took; one look in vain, and
//! it sleeps at once again until work next comes that soon. (The kernel's `halt_poll_ns` of KVM is the model.)
//!
//! Where others want the CPU, waiting awake is worse than useless: who never sleeps is not preferred by the
//! scheduler when there is work for it. A worker that was interrupted while it waited awake sleeps for the next
//! [`REST`], whatever comes.

use std::time::{Duration, Instant};

/// Whether workers wait awake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spin {
    /// While it pays: at most 50 µs at a time, never when work is rare.
    Adaptive,
    /// For so many microseconds, always; 0: never.
    Micros(u32),
}

impl Default for Spin {
    fn default() -> Spin {
        Spin::Micros(0)
    }
}

/// The longest wait that is spent awake.
const LIMIT: Duration = Duration::from_micros(50);
/// The shortest that is worth a look.
const LEAST: Duration = Duration::from_micros(10);

/// Between two looks there is a system call: after so long, somebody else had the CPU.
const INTERRUPTED: Duration = Duration::from_micros(500);
/// For how long to sleep at once then.
const REST: Duration = Duration::from_secs(1);

/// What a worker keeps of it.
pub(crate) struct Spinner {
    adaptive: bool,
    /// How long to look now.
    window: Duration,
    /// Since when there is nothing to do.
    idle_since: Option<Instant>,
    /// The last look that was to be followed by another.
    last_look: Option<Instant>,
    /// Until when there is to be no waiting awake.
    rest_until: Option<Instant>,
}

impl Spinner {
    pub(crate) fn new(spin: Spin) -> Spinner {
        let (adaptive, window) = match spin {
            Spin::Adaptive => (true, Duration::ZERO),
            Spin::Micros(n) => (false, Duration::from_micros(n.into())),
        };
        Spinner { adaptive, window, idle_since: None, last_look: None, rest_until: None }
    }

    /// There is nothing to do: true to look again, false to sleep.
    pub(crate) fn look_again(&mut self, now: Instant) -> bool {
        let since = *self.idle_since.get_or_insert(now);
        if let Some(last) = self.last_look
            && self.adaptive
            && now.saturating_duration_since(last) > INTERRUPTED
        {
            self.window = Duration::ZERO;
            self.rest_until = Some(now + REST);
        }
        let again = now.saturating_duration_since(since) < self.window;
        self.last_look = again.then_some(now);
        again
    }

    /// There is work again.
    pub(crate) fn work(&mut self, now: impl FnOnce() -> Instant) {
        self.last_look = None;
        let Some(since) = self.idle_since.take() else { return };
        if !self.adaptive {
            return;
        }
        let now = now();
        let gap = now.saturating_duration_since(since);
        self.window = if gap > LIMIT || self.rest_until.is_some_and(|until| now < until) {
            Duration::ZERO
        } else {
            // Grows at once and shrinks slowly, so that one short gap does not end what pays.
            (gap * 2).clamp(LEAST, LIMIT).max(self.window * 7 / 8)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work comes after a gap, in µs: whether the worker is awake then.
    fn awaits(spinner: &mut Spinner, now: &mut Instant, gap: u64) -> bool {
        let came = *now + Duration::from_micros(gap);
        let mut awake = spinner.look_again(*now);
        while awake && *now < came {
            *now += Duration::from_micros(1);
            awake = spinner.look_again(*now);
        }
        *now = came;
        spinner.work(|| came);
        awake
    }

    /// The same after each of these.
    fn awake(spin: Spin, gaps: &[u64]) -> Vec<bool> {
        let (mut spinner, mut now) = (Spinner::new(spin), Instant::now());
        gaps.iter().map(|&gap| awaits(&mut spinner, &mut now, gap)).collect()
    }

    #[test]
    fn it_waits_awake_while_work_comes_soon() {
        assert_eq!(awake(Spin::Adaptive, &[40, 8, 8, 30, 8]), [false, true, true, true, true]);
    }

    #[test]
    fn rare_work_is_awaited_asleep() {
        assert_eq!(awake(Spin::Adaptive, &[100, 1000, 51, 60, 100_000]), [false; 5]);
    }

    #[test]
    fn a_look_in_vain_is_the_last_until_work_comes_soon_again() {
        assert_eq!(awake(Spin::Adaptive, &[20, 20, 5000, 20, 20]), [false, true, false, false, true]);
    }

    #[test]
    fn where_others_want_the_cpu_it_sleeps() {
        let (mut spinner, mut now) = (Spinner::new(Spin::Adaptive), Instant::now());
        awaits(&mut spinner, &mut now, 20);
        assert!(awaits(&mut spinner, &mut now, 20));
        // It looks, and comes to look again a slice of somebody else's later.
        assert!(spinner.look_again(now));
        now += Duration::from_millis(3);
        assert!(!spinner.look_again(now));
        spinner.work(|| now);
        for _ in 0..100 {
            assert!(!awaits(&mut spinner, &mut now, 20));
        }
        now += REST;
        awaits(&mut spinner, &mut now, 20);
        assert!(awaits(&mut spinner, &mut now, 20));
    }

    #[test]
    fn a_fixed_time_does_not_change() {
        assert_eq!(awake(Spin::Micros(100), &[90, 110, 5000, 90]), [true, false, false, true]);
        assert_eq!(awake(Spin::Micros(0), &[1, 0, 1]), [false; 3]);
    }
}
