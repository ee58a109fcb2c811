//! A port that plays frames from memory, over and over, for measuring. What is sent to it vanishes
//! ([`crate::null::NullTx`]).

mod pcap;
mod pcapng;

use std::fs;
use std::io;
use std::num::{NonZeroU32, NonZeroU64};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::{Batch, DropReason, MAX_FRAME, Pool};

use crate::{RecvEnd, RecvStats, RxQueue, sys};

/// How often a paced replay wakes up, at most.
const TICK: Duration = Duration::from_millis(1);

/// How much of a pause a paced replay makes up for.
const CATCH_UP: Duration = Duration::from_millis(100);

/// How to play.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ReplayConfig {
    /// How many times to play all frames; `None`: for ever.
    pub count: Option<NonZeroU64>,
    /// Frames per second; `None`: as fast as they are taken.
    pub rate: Option<NonZeroU32>,
}

/// Reads the Ethernet frames of a capture file: pcap (micro- or nanoseconds, either byte order) or pcapng.
///
/// # Errors
/// `InvalidData`, naming the byte offset, when it is neither, is malformed or cut off, is not of Ethernet
/// frames, or holds a frame that the capture cut short or that is larger than [`MAX_FRAME`].
pub fn parse(file: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    match file.first_chunk() {
        Some(&pcapng::MAGIC) => pcapng::parse(file),
        _ => pcap::parse(file),
    }
}

/// Frames in memory, played as if they were received.
#[derive(Debug)]
pub struct Replay {
    frames: Vec<Vec<u8>>,
    next: usize,
    /// Whole runs left, the present one included.
    runs: Option<u64>,
    pace: Pace,
}

#[derive(Debug)]
enum Pace {
    /// Never ends, never waits.
    Endless,
    /// Readable until the last frame is played.
    Counted(OwnedFd),
    /// A timer, the time up to which frames were due, and the time between frames.
    Timed { timer: OwnedFd, due: Instant, gap: Duration },
}

impl Replay {
    /// Reads a capture file into memory.
    ///
    /// # Errors
    /// As [`parse`], as reading the file, and as [`Replay::new`], with the path in front.
    pub fn open(path: &Path, config: ReplayConfig) -> io::Result<Replay> {
        let frames = fs::read(path).and_then(|file| parse(&file));
        frames.and_then(|frames| Replay::new(frames, config)).map_err(|e| sys::context(path.display(), e))
    }

    /// Plays these frames.
    ///
    /// # Errors
    /// `InvalidInput` when there are none; or when there are no descriptors left.
    pub fn new(frames: Vec<Vec<u8>>, config: ReplayConfig) -> io::Result<Replay> {
        if frames.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no frames to replay"));
        }
        let pace = match (config.rate, config.count) {
            (Some(rate), _) => {
                let gap = Duration::from_secs(1) / rate.get();
                Pace::Timed { timer: timer(gap.max(TICK))?, due: Instant::now(), gap }
            }
            (None, Some(_)) => Pace::Counted(eventfd(1, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?),
            (None, None) => Pace::Endless,
        };
        Ok(Replay { frames, next: 0, runs: config.count.map(NonZeroU64::get), pace })
    }

    /// How many frames are due now, at most `budget`.
    fn due(&mut self, budget: usize) -> usize {
        let Pace::Timed { timer, due, gap } = &mut self.pace else { return budget };
        // Makes the descriptor unreadable until the next tick; EAGAIN when it is already.
        let mut ticks = [0u8; 8];
        let _ = rustix::io::read(&*timer, &mut ticks);
        let now = Instant::now();
        if let Some(oldest) = now.checked_sub(CATCH_UP.max(*gap)) {
            *due = (*due).max(oldest);
        }
        let frames = now.saturating_duration_since(*due).as_nanos() / gap.as_nanos().max(1);
        let frames = u32::try_from(frames).unwrap_or(u32::MAX).min(u32::try_from(budget).unwrap_or(u32::MAX));
        *due += *gap * frames;
        frames as usize
    }

    /// Nothing is left to play: the descriptor must not wake anyone any more.
    fn finish(&mut self) {
        match &self.pace {
            Pace::Endless => {}
            Pace::Counted(fd) => {
                let mut value = [0u8; 8];
                let _ = rustix::io::read(fd, &mut value);
            }
            Pace::Timed { timer, .. } => {
                let _ = set_timer(timer, Duration::ZERO);
            }
        }
    }
}

impl RxQueue for Replay {
    fn poll_fd(&self) -> Option<RawFd> {
        match &self.pace {
            Pace::Endless => None,
            Pace::Counted(fd) | Pace::Timed { timer: fd, .. } => Some(fd.as_raw_fd()),
        }
    }

    fn recv(&mut self, pool: &mut Pool, out: &mut Batch, budget: usize, stats: &mut RecvStats) -> RecvEnd {
        if self.runs == Some(0) {
            self.finish();
            return RecvEnd::Drained;
        }
        let due = self.due(budget);
        for _ in 0..due {
            let mut packet = pool.get();
            let frame = &self.frames[self.next];
            let result = if frame.len() < ETH_HLEN {
                Err(DropReason::Truncated)
            } else {
                packet.set_bytes(frame, pool)
            };
            match result {
                Ok(()) => out.push(packet),
                Err(reason) => {
                    stats.count(reason);
                    pool.put(packet);
                }
            }
            self.next += 1;
            if self.next == self.frames.len() {
                self.next = 0;
                if let Some(runs) = &mut self.runs {
                    *runs -= 1;
                    if *runs == 0 {
                        self.finish();
                        return RecvEnd::Drained;
                    }
                }
            }
        }
        if due < budget { RecvEnd::Drained } else { RecvEnd::More }
    }
}

fn timer(interval: Duration) -> io::Result<OwnedFd> {
    let fd = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
    set_timer(&fd, interval)?;
    Ok(fd)
}

/// Zero turns it off.
fn set_timer(fd: &OwnedFd, interval: Duration) -> io::Result<()> {
    let spec = Timespec { tv_sec: interval.as_secs() as i64, tv_nsec: interval.subsec_nanos().into() };
    timerfd_settime(fd, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: spec, it_value: spec })?;
    Ok(())
}

/// Reads integers of either byte order out of a file, and says where it failed.
#[derive(Clone, Copy)]
struct Reader<'a> {
    file: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn error(&self, what: impl std::fmt::Display) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("at byte {}: {what}", self.at))
    }

    fn take(&mut self, n: usize) -> io::Result<&'a [u8]> {
        let rest = &self.file[self.at..];
        match rest.get(..n) {
            Some(bytes) => {
                self.at += n;
                Ok(bytes)
            }
            None => Err(self.error(format_args!("the file ends within {n} bytes that should be here"))),
        }
    }

    fn u32(&mut self) -> io::Result<u32> {
        let b = self.take(4)?;
        let b = [b[0], b[1], b[2], b[3]];
        Ok(if self.big_endian { u32::from_be_bytes(b) } else { u32::from_le_bytes(b) })
    }

    fn u16(&mut self) -> io::Result<u16> {
        let b = self.take(2)?;
        Ok(if self.big_endian { u16::from_be_bytes([b[0], b[1]]) } else { u16::from_le_bytes([b[0], b[1]]) })
    }

    /// A frame of `captured` bytes that was `original` bytes long on the wire.
    fn frame(&mut self, captured: u32, original: u32) -> io::Result<Vec<u8>> {
        if captured < original {
            return Err(self.error(format_args!(
                "only {captured} of a frame's {original} bytes were captured; capture without a length limit"
            )));
        }
        if captured as usize > MAX_FRAME {
            return Err(
                self.error(format_args!("a frame of {captured} bytes; the largest possible is {MAX_FRAME}"))
            );
        }
        Ok(self.take(captured as usize)?.to_vec())
    }

    fn is_at_end(&self) -> bool {
        self.at >= self.file.len()
    }

    fn check_link_type(&self, link_type: u32) -> io::Result<()> {
        const ETHERNET: u32 = 1;
        if link_type == ETHERNET {
            return Ok(());
        }
        Err(self.error(format_args!("link type {link_type}; only Ethernet ({ETHERNET}) can be replayed")))
    }
}
