//! Network namespaces, as `ip netns` makes them.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::cmd;

/// A named network namespace; deleted when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes one, with the loopback up and without IPv6 duplicate address detection (which takes a second or
    /// two before an address works).
    pub fn new(name: &str) -> Netns {
        crate::require_sandbox();
        cmd::ok("ip", &["netns", "add", name]);
        let ns = Netns { name: name.into() };
        ns.enter(|| {
            cmd::sh("ip link set lo up");
            std::fs::write("/proc/sys/net/ipv6/conf/default/accept_dad", "0").expect("sysctl");
        });
        ns
    }

    /// That of a process, under a name of its own.
    pub fn of_process(name: &str, pid: &str) -> Netns {
        crate::require_sandbox();
        cmd::ok("ip", &["netns", "attach", name, pid]);
        Netns { name: name.into() }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `f` on a thread inside the namespace. Sockets made and programs started by `f` belong to it.
    pub fn enter<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let path = self.path();
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                let ns = File::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
                move_into_link_name_space(ns.as_fd(), Some(LinkNameSpaceType::Network)).expect("setns");
                f()
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command line inside, which must succeed.
    pub fn sh(&self, line: &str) -> String {
        self.enter(|| cmd::sh(line))
    }

    /// Runs a program inside to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> cmd::Output {
        self.enter(|| cmd::run(program, args))
    }

    /// Names of the interfaces inside, without the loopback.
    pub fn interfaces(&self) -> Vec<String> {
        let json: serde_json::Value = serde_json::from_str(&self.sh("ip -j link show")).expect("ip -j");
        let names = json.as_array().expect("array").iter().filter_map(|l| l["ifname"].as_str());
        names.filter(|n| *n != "lo").map(str::to_owned).collect()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // A test may have deleted it already.
        cmd::run("ip", &["netns", "del", &self.name]);
    }
}
