//! A `trunkline daemon` of a test's own.

use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::{Netns, cmd, eventually};

/// The binary under test.
pub fn binary() -> PathBuf {
    if let Some(path) = std::env::var_os("TRUNKLINE_BIN") {
        return path.into();
    }
    // target/debug/deps/this-test → target/debug/trunkline
    let exe = std::env::current_exe().expect("own path");
    let path = exe.ancestors().nth(2).expect("target directory").join("trunkline");
    assert!(
        path.exists(),
        "{} is not built: cargo build -p trunkline (or set TRUNKLINE_BIN)",
        path.display()
    );
    path
}

/// A daemon in a namespace, with its own directories.
#[derive(Debug)]
pub struct Daemon {
    /// The run directory.
    pub run_dir: PathBuf,
    /// The state directory.
    pub state_dir: PathBuf,
    ns: String,
    args: Vec<String>,
    child: Option<Child>,
    log: Arc<Mutex<Vec<String>>>,
    allowed: Vec<String>,
}

impl Daemon {
    /// Describes a daemon under `dir` without starting it.
    pub fn new(ns: &Netns, dir: &Path, args: &[&str]) -> Daemon {
        Daemon {
            run_dir: dir.join("run"),
            state_dir: dir.join("state"),
            ns: ns.name().into(),
            args: args.iter().map(|s| s.to_string()).collect(),
            child: None,
            log: Arc::default(),
            allowed: Vec::new(),
        }
    }

    /// Starts it and waits until its socket answers.
    pub fn start(&mut self, ns: &Netns) {
        assert_eq!(ns.name(), self.ns);
        self.spawn(ns);
        let socket = self.run_dir.join("trunkline.sock");
        let up = eventually(Duration::from_secs(20), || {
            let child = self.child.as_mut().expect("spawned");
            if let Some(status) = child.try_wait().expect("wait") {
                std::thread::sleep(Duration::from_millis(100));
                panic!("the daemon ended at once ({status}):\n{}", self.log());
            }
            UnixStream::connect(&socket).is_ok()
        });
        assert!(up, "the daemon does not answer on {}:\n{}", socket.display(), self.log());
    }

    /// Starts it without waiting.
    pub fn spawn(&mut self, ns: &Netns) {
        assert!(self.child.is_none(), "already running");
        let mut command = Command::new(binary());
        command.arg("--run-dir").arg(&self.run_dir).arg("--state-dir").arg(&self.state_dir).arg("daemon");
        command.args(&self.args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = ns.enter(|| command.spawn()).expect("start the daemon");
        let stderr = child.stderr.take().expect("piped");
        let log = self.log.clone();
        let loud = std::env::var_os("TRUNKLINE_TEST_VERBOSE").is_some();
        let name = self.ns.clone();
        // Ends when the daemon and all that inherited its stderr have ended.
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if loud {
                    eprintln!("[{name}] {line}");
                }
                log.lock().expect("log").push(line);
            }
        });
        self.child = Some(child);
    }

    /// Waits for the end of a daemon that is expected to end by itself; returns its exit code.
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let mut child = self.child.take().expect("running");
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                std::thread::sleep(Duration::from_millis(100));
                return status.code().unwrap_or(-1);
            }
            if Instant::now() > end {
                child.kill().ok();
                child.wait().ok();
                panic!("the daemon did not end within {limit:?}:\n{}", self.log());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Whether it has ended without the test's ending it or waiting for that.
    pub fn has_died(&mut self) -> bool {
        self.child.as_mut().is_some_and(|c| c.try_wait().expect("wait").is_some())
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("running").id()
    }

    /// SIGKILL: no chance to tidy up.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("running");
        child.kill().expect("kill");
        child.wait().expect("wait");
    }

    /// SIGTERM, and waits: interfaces stay, held by the keeper.
    pub fn terminate(&mut self) {
        kill_process(Pid::from_raw(self.pid() as i32).expect("pid"), Signal::TERM).expect("kill");
        let code = self.wait(Duration::from_secs(20));
        assert_eq!(code, 0, "the daemon's exit code after SIGTERM:\n{}", self.log());
    }

    /// All it wrote to its standard error so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("log").join("\n")
    }

    /// A WARN or ERROR line that contains `text` is expected in this test.
    pub fn allow(&mut self, text: &str) {
        self.allowed.push(text.into());
    }

    /// Panics when the daemon wrote a warning, an error or a panic that the test did not allow.
    pub fn check_log(&self) {
        let log = self.log.lock().expect("log").clone();
        let bad: Vec<&String> = log
            .iter()
            .filter(|l| {
                let panicked = l.contains("panicked at");
                let loud = l.split_whitespace().take(4).any(|w| {
                    let w = w.trim_matches(|c: char| !c.is_ascii_alphabetic());
                    w == "WARN" || w == "ERROR"
                });
                panicked || loud && !self.allowed.iter().any(|a| l.contains(a.as_str()))
            })
            .collect();
        assert!(
            bad.is_empty(),
            "unexpected lines in the daemon's log:\n{bad:#?}\nwhole log:\n{}",
            log.join("\n")
        );
    }

    /// Runs `trunkline` with these arguments, talking to this daemon.
    pub fn cli(&self, args: &[&str]) -> cmd::Output {
        let mut command = Command::new(binary());
        command.arg("--run-dir").arg(&self.run_dir).arg("--state-dir").arg(&self.state_dir).args(args);
        let out = cmd::output(&mut command);
        assert!(
            !out.stderr.contains("panicked at"),
            "trunkline {} panicked:\n{}",
            args.join(" "),
            out.stderr
        );
        out
    }

    /// The keepers of this daemon: processes that name the run directory in their arguments or environment.
    pub fn keepers(&self) -> Vec<u32> {
        let run_dir = self.run_dir.to_str().expect("utf-8");
        let own = self.child.as_ref().map(Child::id);
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
            let read = |file: &str| {
                let bytes = std::fs::read(entry.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).into_owned()
            };
            let arguments = read("cmdline");
            let ours = arguments.contains(run_dir) || read("environ").contains(run_dir);
            if Some(pid) != own && ours && arguments.split('\0').any(|a| a == "keeper") {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
        for pid in self.keepers() {
            if let Some(pid) = Pid::from_raw(pid as i32) {
                kill_process(pid, Signal::KILL).ok();
            }
        }
    }
}
