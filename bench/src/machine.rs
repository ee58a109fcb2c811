//! The machine, and how busy it is.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

use trunkline_ports::tsc;

/// What figures depend on.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Model of the CPU.
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    /// The kernel's release.
    pub kernel: String,
    /// Memory, MiB.
    pub memory_mib: u64,
    /// Ticks of the time stamp counter per second, if there is one.
    pub tsc_hz: Option<f64>,
    /// Tasks that wanted to run in the last minute, on average, when the measurement began.
    pub load: f64,
}

impl Machine {
    /// This one. Takes 50 ms.
    pub fn this() -> Machine {
        let line = |path: &str, key: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            let value = text.lines().find_map(|l| l.strip_prefix(key)?.split_once(':'));
            value.map(|(_, v)| v.trim().to_owned())
        };
        let first = |path: &str| {
            let text = fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().next().unwrap_or_default().to_owned()
        };
        let memory = line("/proc/meminfo", "MemTotal").unwrap_or_default();
        let kib = memory.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
        Machine {
            cpu: line("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            kernel: first("/proc/sys/kernel/osrelease"),
            memory_mib: kib.unwrap_or(0) / 1024,
            tsc_hz: tsc_hz(),
            load: first("/proc/loadavg").parse().unwrap_or(0.0),
        }
    }
}

/// Counted over 50 ms.
fn tsc_hz() -> Option<f64> {
    let (start, before) = (Instant::now(), tsc::now()?);
    std::thread::sleep(Duration::from_millis(50));
    let ticks = tsc::now()?.wrapping_sub(before);
    Some(ticks as f64 / start.elapsed().as_secs_f64())
}

/// CPU time that this process's engine workers have had, all together. A thread that runs has been charged up
/// to its last tick of the clock only (some milliseconds).
///
/// # Errors
/// When /proc cannot be read.
pub fn workers_cpu() -> io::Result<Duration> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        // A thread may end while we look.
        let Ok(name) = fs::read_to_string(task.join("comm")) else { continue };
        if name.starts_with("worker-") {
            let stat = fs::read_to_string(task.join("schedstat"))?;
            let nanos = stat.split_whitespace().next().and_then(|n| n.parse::<u64>().ok());
            sum += nanos.ok_or_else(|| io::Error::other("the kernel does not say what a thread has used"))?;
        }
    }
    Ok(Duration::from_nanos(sum))
}
