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

#[cfg(test)]
mod tests {
    use super::*;

    fn frames() -> Vec<Vec<u8>> {
        vec![vec![1; 60], vec![2; 61], vec![3; 1514]]
    }

    fn play(mut rx: Replay, budget: usize, calls: usize) -> (Vec<usize>, RecvStats, RecvEnd) {
        let (mut pool, mut out, mut stats) = (Pool::new(64, 4), Batch::new(), RecvStats::default());
        let mut end = RecvEnd::More;
        for _ in 0..calls {
            end = rx.recv(&mut pool, &mut out, budget, &mut stats);
        }
        (out.iter().map(|p| p.len()).collect(), stats, end)
    }

    #[test]
    fn endless_goes_round() {
        let rx = Replay::new(frames(), ReplayConfig::default()).unwrap();
        assert_eq!(rx.poll_fd(), None);
        let (lens, _, end) = play(rx, 4, 2);
        assert_eq!(lens, [60, 61, 1514, 60, 61, 1514, 60, 61]);
        assert!(matches!(end, RecvEnd::More));
    }

    #[test]
    fn counted_ends_and_wakes_nobody_any_more() {
        let config = ReplayConfig { count: NonZeroU64::new(2), rate: None };
        let mut rx = Replay::new(frames(), config).unwrap();
        let Pace::Counted(fd) = &rx.pace else { panic!("{:?}", rx.pace) };
        let fd = fd.try_clone().unwrap();
        let (mut pool, mut out, mut stats) = (Pool::new(64, 4), Batch::new(), RecvStats::default());
        assert!(matches!(rx.recv(&mut pool, &mut out, 4, &mut stats), RecvEnd::More));
        assert!(matches!(rx.recv(&mut pool, &mut out, 4, &mut stats), RecvEnd::Drained));
        assert!(matches!(rx.recv(&mut pool, &mut out, 4, &mut stats), RecvEnd::Drained));
        assert_eq!(out.len(), 6);
        let readable = rustix::io::read(&fd, &mut [0u8; 8]);
        assert_eq!(readable.unwrap_err(), rustix::io::Errno::AGAIN);
    }

    #[test]
    fn paced_keeps_its_rate() {
        let config = ReplayConfig { count: None, rate: NonZeroU32::new(2000) };
        let mut rx = Replay::new(frames(), config).unwrap();
        assert!(rx.poll_fd().is_some());
        let (mut pool, mut out, mut stats) = (Pool::new(64, 4), Batch::new(), RecvStats::default());
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(300) {
            std::thread::sleep(Duration::from_millis(1));
            while matches!(rx.recv(&mut pool, &mut out, 64, &mut stats), RecvEnd::More) {}
        }
        let most = start.elapsed().as_secs_f64() * 2000.0 + 1.0;
        // A sleep of over CATCH_UP on a busy machine loses frames, so the lower bound is loose.
        assert!(out.len() > 200 && out.len() as f64 <= most, "{} of at most {most}", out.len());
    }

    #[test]
    fn unusable_frames_are_counted() {
        let rx =
            Replay::new(vec![vec![0; 13], vec![0; 14], vec![0; 70_000]], ReplayConfig::default()).unwrap();
        let (lens, stats, _) = play(rx, 3, 1);
        assert_eq!((lens, stats.truncated, stats.oversize), (vec![14], 1, 1));
        assert_eq!(
            Replay::new(vec![], ReplayConfig::default()).unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
    }

    /// A pcap file of these frames in either byte order.
    fn pcap(frames: &[Vec<u8>], big_endian: bool, magic: u32, link_type: u32) -> Vec<u8> {
        let w32 = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let w16 = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let mut f = w32(magic).to_vec();
        f.extend([w16(2), w16(4)].concat());
        f.extend([w32(0), w32(0), w32(262_144), w32(link_type)].concat());
        for frame in frames {
            let len = w32(frame.len() as u32);
            f.extend([w32(1), w32(2), len, len].concat());
            f.extend(frame);
        }
        f
    }

    /// A pcapng file with a section, an interface, a block to skip, enhanced packets and a simple one.
    fn pcapng(frames: &[Vec<u8>], big_endian: bool) -> Vec<u8> {
        let w32 = |v: u32| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let w16 = |v: u16| if big_endian { v.to_be_bytes() } else { v.to_le_bytes() };
        let block = |kind: u32, body: &[u8]| {
            let padded = body.len().next_multiple_of(4);
            let total = w32(padded as u32 + 12);
            let mut b = [w32(kind), total].concat();
            b.extend(body);
            b.resize(8 + padded, 0);
            b.extend(total);
            b
        };
        let mut f = block(0x0a0d_0d0a, &[&w32(0x1a2b_3c4d)[..], &w16(1), &w16(0), &[0xff; 8]].concat());
        f.extend(block(1, &[&w16(1)[..], &w16(0), &w32(0)].concat()));
        f.extend(block(5, &[0; 10]));
        for (i, frame) in frames.iter().enumerate() {
            let len = w32(frame.len() as u32);
            f.extend(match i {
                0 => block(3, &[&len[..], frame].concat()),
                _ => block(6, &[&w32(0)[..], &w32(0), &w32(0), &len, &len, frame].concat()),
            });
        }
        f
    }

    fn all_kinds() -> Vec<Vec<u8>> {
        vec![
            pcap(&frames(), false, 0xa1b2_c3d4, 1),
            pcap(&frames(), true, 0xa1b2_c3d4, 1),
            pcap(&frames(), false, 0xa1b2_3c4d, 1),
            pcap(&frames(), true, 0xa1b2_3c4d, 1),
            pcapng(&frames(), false),
            pcapng(&frames(), true),
        ]
    }

    #[test]
    fn every_kind_is_read() {
        for file in all_kinds() {
            assert_eq!(parse(&file).unwrap(), frames());
        }
        let two_sections = [pcapng(&frames(), false), pcapng(&frames(), true)].concat();
        assert_eq!(parse(&two_sections).unwrap().len(), 6);
        // With the frame check sequence, as some cards deliver it: 4 bytes (f bit, length 2 words).
        let with_fcs = pcap(&[vec![7; 64]], false, 0xa1b2_c3d4, 1 | 1 << 26 | 2 << 28);
        assert_eq!(parse(&with_fcs).unwrap(), [vec![7; 60]]);
    }

    #[test]
    fn cut_anywhere_it_fails_or_ends_between_frames() {
        for file in all_kinds() {
            for cut in 0..file.len() {
                match parse(&file[..cut]) {
                    Ok(some) => assert!(frames().starts_with(&some) && some.len() < 3),
                    Err(e) => {
                        assert_eq!(e.kind(), io::ErrorKind::InvalidData);
                        assert!(e.to_string().starts_with("at byte "), "{e}");
                    }
                }
            }
        }
    }

    #[test]
    fn any_changed_byte_is_survived() {
        let small = [vec![1; 20], vec![2; 21]];
        for mut file in [pcap(&small, false, 0xa1b2_c3d4, 1), pcapng(&small, true)] {
            for at in 0..file.len() {
                let was = file[at];
                for value in [0, 1, 0x7f, 0x80, 0xff] {
                    file[at] = value;
                    if let Ok(frames) = parse(&file) {
                        assert!(frames.iter().all(|f| f.len() <= MAX_FRAME));
                    }
                }
                file[at] = was;
            }
        }
    }

    #[test]
    fn files_are_named_in_errors() {
        let dir = std::env::temp_dir();
        let path = dir.join(format!("trunkline-replay-{}.pcap", std::process::id()));
        fs::write(&path, pcap(&frames(), true, 0xa1b2_c3d4, 1)).unwrap();
        let (lens, ..) = play(Replay::open(&path, ReplayConfig::default()).unwrap(), 3, 1);
        assert_eq!(lens, [60, 61, 1514]);
        let open = |path: &Path| Replay::open(path, ReplayConfig::default()).unwrap_err();
        fs::write(&path, [0xa1, 0xb2, 0xc3, 0xd4, 0, 3, 0, 0]).unwrap();
        let error = open(&path).to_string();
        fs::remove_file(&path).unwrap();
        assert_eq!(error, format!("{}: at byte 4: pcap version 3.0; only 2.x is known", path.display()));
        assert_eq!(open(&path).kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn refusals_name_the_place() {
        let text = |file: &[u8]| parse(file).unwrap_err().to_string();
        assert_eq!(text(b"hello, world"), "at byte 0: neither a pcap nor a pcapng file");
        assert_eq!(text(b"abc"), "at byte 0: the file ends within 4 bytes that should be here");
        let raw_ip = pcap(&frames(), false, 0xa1b2_c3d4, 101);
        assert_eq!(text(&raw_ip), "at byte 24: link type 101; only Ethernet (1) can be replayed");
        let mut cut = pcap(&frames(), false, 0xa1b2_c3d4, 1);
        cut[36] = 100;
        assert!(
            text(&cut).starts_with("at byte 40: only 60 of a frame's 100 bytes were captured"),
            "{}",
            text(&cut)
        );
    }
}
