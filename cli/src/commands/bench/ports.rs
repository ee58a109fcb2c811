//! `trunkline bench ports`: two containers on a bridge, by real interfaces.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use trunkline_bench::machine::Machine;
use trunkline_bench::traffic::{self, End, Netns, Volume};
use trunkline_control::Error;

use super::{about, described, progress, spread, spread_text};
use crate::args::PortsArgs;
use crate::commands::{Failure, Outcome};
use crate::output::{Output, Table};

pub(super) const TITLE: &str = "Two containers on a bridge, each on a TAP:";

/// Of the range for benchmarks (RFC 2544), which nobody's network should have.
const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(198, 19, 77, 1), Ipv4Addr::new(198, 19, 77, 2)];

pub(super) fn run(run_dir: &Path, args: &PortsArgs, out: &Output) -> Outcome {
    let machine = Machine::this();
    let rows = measure(run_dir, args)?;
    if args.options.json {
        return out.json(&json!({ "machine": described(&machine), "ports": to_json(&rows) }));
    }
    out.print(&format!("{}\n{TITLE}\n\n{}", about(&machine), table(&rows, out)))
}

/// One line of the result.
pub(super) struct Row {
    name: &'static str,
    help: &'static str,
    unit: &'static str,
    values: Vec<f64>,
    /// CPU-seconds of the whole machine per gigabit of payload.
    cost: Vec<f64>,
}

const ROWS: [(&str, &str, &str); 6] = [
    ("tcp", "one stream", "Gbit/s"),
    ("udp-64", "datagrams of 64 bytes delivered, sender unpaced", "Mpps"),
    ("udp-1400", "datagrams of 1,400 bytes delivered, sender unpaced", "Mpps"),
    ("rtt-median", "round trip of a datagram, median", "µs"),
    ("rtt-99", "the slowest in a hundred", "µs"),
    ("rtt-99.9", "the slowest in a thousand", "µs"),
];

pub(super) fn measure(run_dir: &Path, args: &PortsArgs) -> Result<Vec<Row>, Failure> {
    let lab = Lab::new(run_dir, args.running)?;
    let [a, b] = &lab.ends;
    let span = Duration::from_secs_f64(args.options.seconds);
    let mut rows: Vec<_> = ROWS
        .iter()
        .map(|&(name, help, unit)| Row { name, help, unit, values: Vec::new(), cost: Vec::new() })
        .collect();
    for round in 1..=args.options.rounds {
        let failed = |e: std::io::Error| Error::failed(format!("two containers: {e}"));
        let step = |what: &str| progress(&format!("round {round} of {}: {what}", args.options.rounds));
        step("tcp");
        let tcp = traffic::tcp(a, b, span).map_err(failed)?;
        rows[0].add(gbit(&tcp) / tcp.took.as_secs_f64(), &tcp);
        for (row, size) in [(1, 64), (2, 1400)] {
            step(ROWS[row].0);
            let udp = traffic::udp(a, b, size, span).map_err(failed)?;
            rows[row].add(udp.packets as f64 / udp.took.as_secs_f64() / 1e6, &udp);
        }
        step("round trips");
        let trips = traffic::round_trips(a, b, span).map_err(failed)?;
        for (row, share) in [(3, 0.5), (4, 0.99), (5, 0.999)] {
            let at = ((trips.len() as f64 * share) as usize).min(trips.len().saturating_sub(1));
            rows[row].values.extend(trips.get(at).map(|t| t.as_secs_f64() * 1e6));
        }
    }
    progress("");
    Ok(rows)
}

fn gbit(v: &Volume) -> f64 {
    v.bytes as f64 * 8.0 / 1e9
}

impl Row {
    fn add(&mut self, value: f64, volume: &Volume) {
        self.values.push(value);
        self.cost.push(volume.cpu.as_secs_f64() / gbit(volume));
    }
}

pub(super) fn table(rows: &[Row], out: &Output) -> String {
    let mut table =
        Table::new(&["WHAT", ">MEDIAN (LOWEST–HIGHEST)", "UNIT", ">CPU-SECONDS PER GBIT", "MEANING"]);
    for row in rows {
        let digits = if row.unit == "µs" { 1 } else { 3 };
        let cost = if row.cost.is_empty() {
            "–".to_owned()
        } else {
            format!("{:.3}", spread(row.cost.iter().copied())[0])
        };
        table.row([
            row.name.to_owned(),
            spread_text(spread(row.values.iter().copied()), digits),
            row.unit.to_owned(),
            cost,
            row.help.to_owned(),
        ]);
    }
    table.render(out)
}

pub(super) fn to_json(rows: &[Row]) -> Value {
    rows.iter()
        .map(|r| {
            json!({
                "what": r.name, "unit": r.unit, "median": spread(r.values.iter().copied())[0],
                "values": r.values, "cpu-seconds-per-gbit": r.cost,
            })
        })
        .collect()
}

/// Two namespaces on a bridge of a daemon.
struct Lab {
    ends: [End; 2],
    program: PathBuf,
    run_dir: PathBuf,
    /// Of the bridge; the ports have it with a letter more.
    bridge: String,
    daemon: Option<Daemon>,
}

/// A daemon of our own.
struct Daemon {
    process: Child,
    home: PathBuf,
}

impl Lab {
    fn new(run_dir: &Path, running: bool) -> Result<Lab, Error> {
        let program =
            std::env::current_exe().map_err(|e| Error::failed(format!("cannot find myself: {e}")))?;
        let netns = || Netns::create().map_err(|e| Error::failed(e.to_string()).hint("run it as root"));
        let end = |address| Ok::<_, Error>(End { netns: netns()?, address });
        let ends = [end(ADDRESSES[0])?, end(ADDRESSES[1])?];
        let bridge = format!("bench{}", std::process::id());
        let mut lab = Lab { ends, program, run_dir: run_dir.to_owned(), bridge, daemon: None };
        if !running {
            lab.start_daemon(&netns()?)?;
        }
        lab.cli(&["bridge", "add", &lab.bridge])?;
        for (letter, end) in ["a", "b"].iter().zip(&lab.ends) {
            // By our own descriptor, since the namespace has no name.
            let netns = format!("/proc/{}/fd/{}", std::process::id(), end.netns.as_fd().as_raw_fd());
            let (port, address) = (format!("{}{letter}", lab.bridge), format!("{}/30", end.address));
            let add = ["port", "add", &lab.bridge, &port, "--type", "tap", "--netns", &netns];
            lab.cli(&[&add[..], &["--ifname", "eth0", "--address", &address]].concat())?;
        }
        lab.wait_until_joined()?;
        Ok(lab)
    }

    fn start_daemon(&mut self, netns: &Netns) -> Result<(), Error> {
        let home = std::env::temp_dir().join(format!("trunkline-bench-{}", std::process::id()));
        let log = home.join("log");
        let failed = |e: std::io::Error| Error::failed(format!("cannot start a daemon: {e}"));
        std::fs::create_dir_all(&home).map_err(failed)?;
        let file = std::fs::File::create(&log).map_err(failed)?;
        self.run_dir = home.join("run");
        let spawn = || {
            Command::new(&self.program)
                .arg("--run-dir")
                .arg(&self.run_dir)
                .arg("--state-dir")
                .arg(home.join("state"))
                .arg("daemon")
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(file)
                .spawn()
        };
        let process = netns.run(spawn).and_then(|child| child).map_err(failed)?;
        self.daemon = Some(Daemon { process, home: home.clone() });
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.cli(&["bridge", "list"]).is_err() {
            if Instant::now() > deadline {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                let last = said.lines().last().unwrap_or("it says nothing").to_owned();
                return Err(Error::failed(format!("the daemon does not start: {last}")));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// A command to the daemon; its own words when it refuses.
    fn cli(&self, args: &[&str]) -> Result<(), Error> {
        let output = Command::new(&self.program).arg("--run-dir").arg(&self.run_dir).args(args).output();
        let output = output.map_err(|e| Error::failed(format!("cannot run myself: {e}")))?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(Error::failed(said.trim().trim_start_matches("trunkline: ").to_owned()))
    }

    fn wait_until_joined(&self) -> Result<(), Error> {
        let deadline = Instant::now() + Duration::from_secs(10);
        let [a, b] = &self.ends;
        loop {
            match traffic::round_trips(a, b, Duration::from_millis(1)) {
                Ok(_) => return Ok(()),
                Err(e) if Instant::now() > deadline => {
                    return Err(Error::failed(format!("the two containers do not reach each other: {e}")));
                }
                Err(_) => thread::sleep(Duration::from_millis(50)),
            }
        }
    }
}

impl Drop for Lab {
    /// Nothing stays, whatever has failed.
    fn drop(&mut self) {
        if self.daemon.is_some() {
            // The daemon is killed below if it does not stop.
            let _ = self.cli(&["stop", "--release"]);
        } else {
            let _ = self.cli(&["bridge", "del", &self.bridge, "--force"]);
        }
        if let Some(Daemon { mut process, home }) = self.daemon.take() {
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(process.try_wait(), Ok(None)) && Instant::now() < deadline {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = process.kill();
            let _ = process.wait();
            let _ = std::fs::remove_dir_all(home);
        }
    }
}
