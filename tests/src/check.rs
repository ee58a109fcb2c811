//! What must hold at the end of every scenario.

use serde_json::Value;

/// Sums over all ports, as in `rx + generated + replicated = tx + drops + held + absorbed`. Nothing is held by
/// a switch that is quiet.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Sums {
    /// Received.
    pub rx: u64,
    /// Made by the switch itself, such as errors about packets that are too big.
    pub generated: u64,
    /// Copies made.
    pub replicated: u64,
    /// Sent.
    pub tx: u64,
    /// Dropped, for whatever reason.
    pub drops: u64,
    /// Merged into others.
    pub absorbed: u64,
}

impl Sums {
    /// Adds up what `trunkline stats --json` says.
    pub fn of(stats: &Value) -> Sums {
        let mut sums = Sums::default();
        for port in stats.as_array().expect("an array of ports") {
            let count = |key: &str| port[key].as_u64().unwrap_or_else(|| panic!("no {key} in {port}"));
            sums.rx += count("rx-packets");
            sums.generated += port["generated"].as_u64().unwrap_or(0);
            sums.replicated += count("replicated");
            sums.tx += count("tx-packets");
            sums.absorbed += count("absorbed");
            let drops = port["drops"].as_object().expect("drops by reason");
            sums.drops += drops.values().map(|n| n.as_u64().expect("a number")).sum::<u64>();
        }
        sums
    }

    /// What was added since `before`.
    pub fn since(&self, before: &Sums) -> Sums {
        Sums {
            rx: self.rx - before.rx,
            generated: self.generated - before.generated,
            replicated: self.replicated - before.replicated,
            tx: self.tx - before.tx,
            drops: self.drops - before.drops,
            absorbed: self.absorbed - before.absorbed,
        }
    }

    /// Whether every packet ended in exactly one place.
    pub fn conserved(&self) -> bool {
        self.rx + self.generated + self.replicated == self.tx + self.drops + self.absorbed
    }
}

/// One port's drops for a reason in `trunkline stats --json`.
pub fn drops(stats: &Value, port: &str, reason: &str) -> u64 {
    let row = stats.as_array().expect("array").iter().find(|p| p["name"] == port);
    row.unwrap_or_else(|| panic!("no port {port} in {stats}"))["drops"][reason].as_u64().unwrap_or(0)
}

/// CPU time a process has used, in seconds, from /proc.
pub fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("process runs");
    // After the command name in parentheses: state is field 3, utime 14, stime 15.
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |n: usize| fields[n - 3].parse::<f64>().expect("number");
    // Linux counts these in hundredths of a second whatever its own tick (USER_HZ).
    (ticks(14) + ticks(15)) / 100.0
}

/// Resident memory of a process, in KiB.
pub fn rss_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("process runs");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).expect("number").parse().expect("number")
}
