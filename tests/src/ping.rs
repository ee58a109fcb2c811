//! Pings and what they say.

use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::{Netns, eventually};

/// What `ping -q` counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pings {
    /// Requests sent.
    pub sent: u32,
    /// Answers, each counted once.
    pub received: u32,
    /// Answers to a request that had been answered: a frame was delivered twice.
    pub duplicates: u32,
}

impl Pings {
    /// Requests without an answer.
    pub fn lost(&self) -> u32 {
        self.sent - self.received
    }

    /// Reads the summary line of `ping -q`.
    pub fn parse(text: &str) -> Option<Pings> {
        let line = text.lines().find(|l| l.contains("packets transmitted"))?;
        let number = |what: &str| {
            line.split(", ")
                .find(|p| p.contains(what))
                .and_then(|p| p.trim_start_matches('+').split(' ').next()?.parse().ok())
        };
        Some(Pings {
            sent: number("packets transmitted")?,
            received: number("received")?,
            duplicates: number("duplicates").unwrap_or(0),
        })
    }
}

/// Sends `count` pings every `interval` seconds with `extra` arguments.
pub fn ping(from: &Netns, to: IpAddr, count: u32, interval: f32, extra: &[&str]) -> Pings {
    let (count, interval, to) = (count.to_string(), interval.to_string(), to.to_string());
    let mut args = vec!["-n", "-q", "-c", &count, "-i", &interval, "-W", "2"];
    args.extend_from_slice(extra);
    args.push(&to);
    let out = from.run("ping", &args);
    Pings::parse(&out.stdout)
        .unwrap_or_else(|| panic!("ping {}:\n{}{}", args.join(" "), out.stdout, out.stderr))
}

/// Five pings, none lost, none doubled, after waiting up to ten seconds for the first.
pub fn assert_reaches(from: &Netns, to: IpAddr) {
    let first = eventually(Duration::from_secs(10), || ping(from, to, 1, 0.2, &["-W", "1"]).received == 1);
    assert!(first, "no ping from {} to {to}", from.name());
    let pings = ping(from, to, 5, 0.02, &[]);
    assert!(pings.lost() == 0 && pings.duplicates == 0, "from {} to {to}: {pings:?}", from.name());
}

/// No answer to three pings.
pub fn assert_isolated(from: &Netns, to: IpAddr) {
    let pings = ping(from, to, 3, 0.1, &["-W", "1"]);
    assert_eq!(pings.received, 0, "{} reaches {to}, which it must not", from.name());
}

/// Pings in the background until stopped.
#[derive(Debug)]
pub struct Pinger {
    child: Child,
}

impl Pinger {
    /// Starts pinging every `interval` seconds.
    pub fn start(from: &Netns, to: IpAddr, interval: f32) -> Pinger {
        let mut command = Command::new("ping");
        command.args(["-n", "-q", "-W", "2", "-i", &interval.to_string(), &to.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        Pinger { child: from.enter(|| command.spawn()).expect("ping") }
    }

    /// Ends it and says what it counted. The last request may still be under way: one loss at the very end
    /// is not counted.
    pub fn stop(mut self) -> Pings {
        interrupt(&self.child);
        let mut text = String::new();
        use std::io::Read;
        self.child.stdout.take().expect("piped").read_to_string(&mut text).expect("read");
        self.child.wait().expect("wait");
        Pings::parse(&text).unwrap_or_else(|| panic!("ping said:\n{text}"))
    }
}

impl Drop for Pinger {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// SIGINT, as control-C does.
pub(crate) fn interrupt(child: &Child) {
    let pid = rustix::process::Pid::from_raw(child.id() as i32).expect("pid");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("kill");
}
