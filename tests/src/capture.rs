//! What passes on an interface, seen by tcpdump and judged by tshark.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{Netns, cmd, eventually, frame, ping};

/// Which frames to see, as the interface's owner sees them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// Frames that arrive.
    In,
    /// Both.
    Both,
}

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    child: Child,
    file: PathBuf,
    // Holds the file.
    dir: Option<TempDir>,
}

/// A finished capture.
#[derive(Debug)]
pub struct Captured {
    /// Whole frames, VLAN tags included.
    pub frames: Vec<Vec<u8>>,
    file: PathBuf,
    // Holds the file.
    _dir: TempDir,
}

impl Capture {
    /// Starts to capture; returns when tcpdump listens. `filter` is in pcap's language, may be empty.
    pub fn start(ns: &Netns, ifname: &str, direction: Direction, filter: &str) -> Capture {
        let dir = TempDir::new().expect("temporary directory");
        let file = dir.path().join("capture.pcap");
        let mut command = Command::new("tcpdump");
        command.args([
            "-i",
            ifname,
            "-U",
            "--immediate-mode",
            "-n",
            "-s",
            "0",
            "-B",
            "65536",
            "-Z",
            "root",
            "-w",
        ]);
        command.arg(&file);
        if direction == Direction::In {
            command.args(["-Q", "in"]);
        }
        command.args(filter.split_whitespace());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = ns.enter(|| command.spawn()).expect("tcpdump");
        let mut stderr = BufReader::new(child.stderr.take().expect("piped"));
        let mut said = String::new();
        while !said.contains("listening on") {
            let read = stderr.read_line(&mut said).expect("read");
            assert!(
                read > 0,
                "tcpdump on {ifname} ended at once; it needs root, not only a user namespace:\n{said}"
            );
        }
        // Whatever else it says must not block it.
        std::thread::spawn(move || stderr.read_to_end(&mut Vec::new()));
        Capture { child, file, dir: Some(dir) }
    }

    /// Ends the capture after `quiet` without a new frame (at most 10 s).
    pub fn stop_when_quiet(self, quiet: Duration) -> Captured {
        let size = || std::fs::metadata(&self.file).map_or(0, |m| m.len());
        let mut last = size();
        let mut since = std::time::Instant::now();
        eventually(Duration::from_secs(10), || {
            let now = size();
            if now != last {
                (last, since) = (now, std::time::Instant::now());
            }
            since.elapsed() >= quiet
        });
        self.stop()
    }

    /// Ends the capture.
    pub fn stop(mut self) -> Captured {
        ping::interrupt(&self.child);
        self.child.wait().expect("wait");
        let dir = self.dir.take().expect("not stopped before");
        let bytes = std::fs::read(&self.file).expect("capture file");
        Captured { frames: parse(&bytes), file: self.file.clone(), _dir: dir }
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

impl Captured {
    /// The texts of the experimental frames in it, in order.
    pub fn texts(&self) -> Vec<String> {
        self.frames.iter().filter_map(|f| frame::text(f)).collect()
    }

    /// The experimental frames with this text.
    pub fn with_text(&self, text: &str) -> Vec<&Vec<u8>> {
        self.frames.iter().filter(|f| frame::text(f).as_deref() == Some(text)).collect()
    }

    /// Panics when tshark finds a wrong IPv4, TCP, UDP or ICMP checksum, or when there is none to check.
    pub fn assert_checksums_good(&self) {
        let (good, bad) = checksums(&self.file);
        assert!(good > 0, "no checksum to check among {} frames", self.frames.len());
        assert!(
            bad.is_empty(),
            "{} frames with a bad checksum, {good} good; the first bad ones:\n{}",
            bad.len(),
            bad[..bad.len().min(5)].join("\n")
        );
    }

    /// How many frames with good and with bad checksums tshark counts.
    pub fn checksums(&self) -> (usize, usize) {
        let (good, bad) = checksums(&self.file);
        (good, bad.len())
    }
}

/// Good transport checksums, and the one-line summaries of frames with a bad one.
fn checksums(file: &Path) -> (usize, Vec<String>) {
    let tshark = |filter: &str| {
        let file = file.to_str().expect("utf-8");
        let check = ["ip.check_checksum:TRUE", "tcp.check_checksum:TRUE", "udp.check_checksum:TRUE"];
        let mut args = vec!["-n", "-r", file, "-Y", filter];
        check.iter().for_each(|c| args.extend(["-o", c]));
        let out = cmd::run("tshark", &args);
        assert_eq!(out.code, 0, "tshark: {}", out.stderr);
        out.stdout.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let any = |status: &str| {
        let field = |p: &str| format!("{p}.checksum.status == \"{status}\"");
        ["tcp", "udp", "icmp", "icmpv6"].map(field).join(" || ")
    };
    let good = tshark(&any("Good")).len();
    let bad = tshark(&format!("ip.checksum.status == \"Bad\" || {}", any("Bad")));
    (good, bad)
}

/// Frames of a classic pcap file in host byte order, as tcpdump writes it.
fn parse(bytes: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"));
    assert!(
        bytes.len() >= 24 && matches!(word(0), 0xa1b2_c3d4 | 0xa1b2_3c4d),
        "not a pcap file of this machine"
    );
    let mut frames = Vec::new();
    let mut at = 24;
    while at + 16 <= bytes.len() {
        let len = word(at + 8) as usize;
        assert_eq!(len, word(at + 12) as usize, "tcpdump cut a frame");
        let Some(frame) = bytes.get(at + 16..at + 16 + len) else { break };
        frames.push(frame.to_vec());
        at += 16 + len;
    }
    frames
}
