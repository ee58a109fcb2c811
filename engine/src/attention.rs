//! How a worker learns that a queue has frames: epoll watches it, or the worker looks for itself.
//!
//! For a queue that epoll watches, the kernel goes to wake the worker for every frame, asleep or not, which costs the
//! sender of the frame 50 to 100 ns. So a queue that brings [`BUSY`] small frames in a row, and was never found empty
//! between, is looked at again and again until it is found empty, and epoll watches it only then (as the kernel
//! itself does with a NIC's interrupts, NAPI).
//!
//! Who looks again at once finds few frames: small batches, small trains to coalesce, many acknowledgements. So a queue
//! that had frames when it was looked at again, but few, is left alone for [`REST`] (as a NIC's interrupts are
//! moderated, `ethtool -C … rx-usecs`), unless that brings hardly any more. So frames are delayed only where they come
//! faster than a worker can look, and then as long as they come at [`WORTH`] in a rest or more.
//!
//! None of this is for superframes: few of them carry much, and who looks too soon only takes the CPU from their sender.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};
use trunkline_packet::{Batch, Packet};
use trunkline_ports::RecvEnd;

/// Frames in a row after which a queue is busy.
const BUSY: usize = 64;
/// Frames of fewer bytes than this, on average, are small.
const SMALL: usize = 2048;
/// With so few it is worth waiting for more.
const FEW: usize = 32;
/// For how long a queue is left alone.
const REST: Duration = Duration::from_micros(60);
/// Fewer frames than this are not worth another rest.
const WORTH: usize = 4;

/// When a queue has its next turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    /// When epoll says so.
    Watched,
    /// In the next round.
    Again,
    /// After a rest.
    Rested,
}

/// Whether these are small frames.
#[inline]
pub(crate) fn are_small(batch: &Batch) -> bool {
    batch.iter().map(Packet::len).sum::<usize>() < batch.len() * SMALL
}

/// What a worker keeps of a queue.
#[derive(Default)]
pub(crate) struct Attention {
    /// Small frames since it was last found empty.
    streak: usize,
    /// Epoll does not watch it.
    busy: bool,
    /// The last turn was followed by a rest.
    rested: bool,
}

impl Attention {
    /// Whether epoll watches it.
    pub(crate) fn is_watched(&self) -> bool {
        !self.busy
    }

    /// A turn has brought so many frames, which [are small](are_small) or not.
    #[inline]
    pub(crate) fn turn(&mut self, came: usize, small: bool, end: &RecvEnd) -> Next {
        let (was_busy, rested) = (self.busy, std::mem::take(&mut self.rested));
        let on = small && came >= if rested { WORTH } else { 1 };
        self.streak = if on { self.streak.saturating_add(came) } else { 0 };
        self.busy = self.streak >= BUSY && !matches!(end, RecvEnd::Failed { .. });
        self.rested = self.busy && was_busy && came < FEW && matches!(end, RecvEnd::Drained);
        match end {
            RecvEnd::More => Next::Again,
            _ if !self.busy => Next::Watched,
            _ if self.rested => Next::Rested,
            _ => Next::Again,
        }
    }
}

/// The queues of a worker that are left alone, and the timer that ends it: epoll's own counts in milliseconds.
pub(crate) struct Rests {
    /// In the order in which they end, since all are equally long.
    queues: VecDeque<(usize, Instant)>,
    timer: OwnedFd,
    /// When the timer goes off.
    armed: Option<Instant>,
    rest: Duration,
}

impl Rests {
    /// `wanted`: else nothing rests, for the sake of latency. `token`: what epoll knows the timer by.
    pub(crate) fn new(registry: &Registry, token: Token, wanted: bool) -> io::Result<Rests> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, flags)?;
        registry.register(&mut SourceFd(&timer.as_raw_fd()), token, Interest::READABLE)?;
        let rest = if wanted { REST } else { Duration::ZERO };
        Ok(Rests { queues: VecDeque::new(), timer, armed: None, rest })
    }

    /// Makes room for so many queues.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.queues.reserve(count.saturating_sub(self.queues.len()));
    }

    /// Leaves a queue alone. False: not so, look at it again at once.
    #[inline]
    pub(crate) fn add(&mut self, slot: usize) -> bool {
        if !self.rest.is_zero() {
            self.queues.push_back((slot, Instant::now() + self.rest));
        }
        !self.rest.is_zero()
    }

    /// The queue is no more.
    pub(crate) fn remove(&mut self, slot: usize) {
        self.queues.retain(|&(s, _)| s != slot);
    }

    /// Nobody is left alone.
    pub(crate) fn clear(&mut self) {
        self.queues.clear();
    }

    /// The next queue whose rest is over.
    #[inline]
    pub(crate) fn over(&mut self) -> Option<usize> {
        let &(slot, until) = self.queues.front()?;
        (Instant::now() >= until).then(|| self.queues.pop_front())?;
        Some(slot)
    }

    /// Has epoll return when the next rest is over.
    pub(crate) fn set_timer(&mut self) {
        let Some(&(_, until)) = self.queues.front() else { return };
        if self.armed == Some(until) {
            return;
        }
        // All zeros would stop the timer.
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        let value = Timespec { tv_sec: left.as_secs() as _, tv_nsec: left.subsec_nanos().into() };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        // Fails only for a bad descriptor or time. Were it to fail, the queues wait for the next event.
        let set = rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once);
        self.armed = set.is_ok().then_some(until);
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{PollFd, PollFlags, poll};
    use trunkline_packet::Pool;

    use super::*;

    /// What follows each of these turns: frames, bytes of each, whether there are more.
    fn turns(turns: &[(usize, usize, bool)]) -> Vec<Next> {
        let (mut attention, mut pool) = (Attention::default(), Pool::new(128, 128));
        let mut turn = |&(came, size, more): &(usize, usize, bool)| {
            let mut batch = Batch::new();
            for _ in 0..came {
                let mut packet = pool.get();
                packet.set_bytes(&vec![0; size], &mut pool).unwrap();
                batch.push(packet);
            }
            attention.turn(came, are_small(&batch), if more { &RecvEnd::More } else { &RecvEnd::Drained })
        };
        turns.iter().map(&mut turn).collect()
    }

    #[test]
    fn a_queue_that_is_found_empty_is_watched() {
        use Next::*;
        assert_eq!(turns(&[(1, 60, false), (63, 60, false), (0, 60, false)]), [Watched, Again, Watched]);
        assert_eq!(turns(&[(63, 60, false), (0, 0, false), (63, 60, false)]), [Watched; 3]);
        assert_eq!(turns(&[(64, 60, true), (64, 60, true), (0, 0, false)]), [Again, Again, Watched]);
        // Bad frames alone.
        assert_eq!(turns(&[(0, 0, true), (0, 0, false)]), [Again, Watched]);
    }

    #[test]
    fn a_busy_queue_that_brings_little_rests() {
        use Next::*;
        let few = [(64, 60, false), (31, 60, false), (32, 60, false), (4, 1514, false)];
        assert_eq!(turns(&few), [Again, Rested, Again, Rested]);
        assert_eq!(turns(&[(64, 60, false), (3, 60, true), (3, 60, false)]), [Again, Again, Rested]);
    }

    #[test]
    fn superframes_are_left_to_epoll() {
        use Next::*;
        assert_eq!(
            turns(&[(64, 30_000, false), (64, 30_000, true), (1, 60_000, false)]),
            [Watched, Again, Watched]
        );
        assert_eq!(turns(&[(100, 60, false), (2, 60_000, false), (9, 60, false)]), [Again, Watched, Watched]);
    }

    #[test]
    fn no_rest_without_need() {
        use Next::*;
        // One at a time, as of a ping-pong: the 64th is followed by a look in vain.
        let mut ping = vec![(1, 60, false); 64];
        ping.push((0, 0, false));
        let next = turns(&ping);
        assert!(next[..63].iter().all(|n| *n == Watched) && next[63..] == [Again, Watched]);
        // A rest that has brought hardly any more is the last.
        assert_eq!(turns(&[(64, 60, false), (9, 60, false), (3, 60, false)]), [Again, Rested, Watched]);
        let on = [(64, 60, false), (9, 60, false), (4, 60, false), (0, 60, false)];
        assert_eq!(turns(&on), [Again, Rested, Rested, Watched]);
    }

    #[test]
    fn a_failed_queue_is_watched() {
        let mut attention = Attention::default();
        attention.turn(100, true, &RecvEnd::Drained);
        assert!(!attention.is_watched());
        let failed = RecvEnd::Failed { error: io::ErrorKind::NetworkDown.into(), fatal: false };
        assert_eq!(attention.turn(5, true, &failed), Next::Watched);
        assert!(attention.is_watched());
    }

    #[test]
    fn rests_end_in_order_and_by_the_timer() {
        let poll_ = mio::Poll::new().unwrap();
        let mut rests = Rests::new(poll_.registry(), Token(0), true).unwrap();
        let began = Instant::now();
        rests.set_timer();
        for slot in [7, 3, 5] {
            assert!(rests.add(slot));
        }
        rests.remove(3);
        rests.set_timer();
        let timer = rests.timer.as_fd();
        let second = Timespec { tv_sec: 1, tv_nsec: 0 };
        assert_eq!(poll(&mut [PollFd::new(&timer, PollFlags::IN)], Some(&second)).unwrap(), 1);
        assert!(began.elapsed() >= REST);
        std::thread::sleep(REST);
        assert_eq!([rests.over(), rests.over(), rests.over()], [Some(7), Some(5), None]);
        assert!(rests.add(1));
        rests.clear();
        assert_eq!(rests.over(), None);
    }

    #[test]
    fn nothing_rests_where_latency_counts() {
        let poll = mio::Poll::new().unwrap();
        let mut rests = Rests::new(poll.registry(), Token(0), false).unwrap();
        assert!(!rests.add(1));
        assert_eq!(rests.over(), None);
    }
}
