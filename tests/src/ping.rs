//! Pings and what they say.
//!
//! `ping` is run without a count and stopped when every request looked at is answered: with a count it
//! gives up two round-trip times after the last request, which on a busy machine takes late answers for lost.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::{Netns, eventually};

/// How late an answer may be.
const PATIENCE: Duration = Duration::from_secs(3);

/// What came of some requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pings {
    /// Requests looked at.
    pub sent: u32,
    /// How many of them were answered.
    pub received: u32,
    /// Answers to a request that had been answered: a frame was delivered twice.
    pub duplicates: u32,
}

impl Pings {
    /// Requests without an answer.
    pub fn lost(&self) -> u32 {
        self.sent - self.received
    }
}

/// The answers seen so far.
#[derive(Clone, Default, Debug)]
pub struct Answers {
    seen: BTreeSet<u32>,
    duplicates: u32,
    last: Option<Instant>,
}

impl Answers {
    /// Takes in one line of ping's output.
    pub fn read(&mut self, line: &str) {
        let number = |l: &str| l.split_once("icmp_seq=")?.1.split([' ', ':']).next()?.parse().ok();
        if !line.contains(" bytes from ") {
            return;
        }
        let Some(number) = number(line) else { return };
        if line.contains("(DUP!)") {
            self.duplicates += 1;
        } else {
            self.seen.insert(number);
            self.last = Some(Instant::now());
        }
    }

    /// What came of the first `sent` requests.
    pub fn of(&self, sent: u32) -> Pings {
        let received = self.seen.range(..=sent).count() as u32;
        Pings { sent, received, duplicates: self.duplicates }
    }
}

/// Pings in the background until stopped.
#[derive(Debug)]
pub struct Pinger {
    child: Child,
    answers: Arc<Mutex<Answers>>,
    interval: f32,
    started: Instant,
}

impl Pinger {
    /// Starts pinging every `interval` seconds.
    pub fn start(from: &Netns, to: IpAddr, interval: f32) -> Pinger {
        Pinger::start_with(from, to, interval, &[])
    }

    fn start_with(from: &Netns, to: IpAddr, interval: f32, extra: &[&str]) -> Pinger {
        let mut command = Command::new("ping");
        command.args(["-n", "-i", &interval.to_string()]).args(extra).arg(to.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = from.enter(|| command.spawn()).expect("ping");
        let answers = Arc::new(Mutex::new(Answers::default()));
        let (stdout, sink) = (child.stdout.take().expect("piped"), answers.clone());
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().expect("answers").read(&line);
            }
        });
        Pinger { child, answers, interval, started: Instant::now() }
    }

    /// Waits until the first `count` requests are answered, but no longer than `patience` after the last of
    /// them was due.
    fn finish(&mut self, count: u32, patience: Duration) -> Pings {
        let due = Duration::from_secs_f32(count as f32 * self.interval);
        let limit = (due + patience).saturating_sub(self.started.elapsed());
        let pings = || self.answers.lock().expect("answers").of(count);
        eventually(limit, || pings().lost() == 0);
        pings()
    }

    /// Ends it and says what came of the requests up to the last one answered. If that was more than a
    /// second ago, those since then count as lost.
    pub fn stop(mut self) -> Pings {
        let (last, when) = {
            let answers = self.answers.lock().expect("answers");
            (answers.seen.last().copied().unwrap_or(0), answers.last.unwrap_or(self.started))
        };
        let silence = when.elapsed().as_secs_f32();
        let unanswered = if silence > 1.0 { (silence / self.interval) as u32 } else { 0 };
        self.finish(last + unanswered, PATIENCE)
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// What comes of `count` pings, one every `interval` seconds, with `extra` arguments.
pub fn ping(from: &Netns, to: IpAddr, count: u32, interval: f32, extra: &[&str]) -> Pings {
    Pinger::start_with(from, to, interval, extra).finish(count, PATIENCE)
}

/// Five pings, none lost, none doubled, after waiting up to ten seconds for the first.
pub fn assert_reaches(from: &Netns, to: IpAddr) {
    let reached = |patience| Pinger::start(from, to, 0.2).finish(1, patience).received == 1;
    let first = eventually(Duration::from_secs(10), || reached(Duration::from_secs(1)));
    assert!(first, "no ping from {} to {to}", from.name());
    let pings = ping(from, to, 5, 0.02, &[]);
    assert!(pings.lost() == 0 && pings.duplicates == 0, "from {} to {to}: {pings:?}", from.name());
}

/// No answer to three pings within a second.
pub fn assert_isolated(from: &Netns, to: IpAddr) {
    let pings = Pinger::start(from, to, 0.1).finish(3, Duration::from_secs(1));
    assert_eq!(pings.received, 0, "{} reaches {to}, which it must not", from.name());
}

/// SIGINT, as control-C does.
pub(crate) fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("kill");
}
