//! Several Trunklines in a full mesh.

use std::time::Duration;

use serde_json::Value;

use crate::underlay::{Family, Underlay};
use crate::{Container, Lab, eventually, tunnel};

/// Hosts 1 to N of an underlay, each with a mesh `m` to all others and a container `c`.
#[derive(Debug)]
pub struct Mesh {
    /// What is between them.
    pub underlay: Underlay,
    /// The hosts; index 0 is host 1.
    pub hosts: Vec<Host>,
    family: Family,
}

/// One of them.
#[derive(Debug)]
pub struct Host {
    /// Its daemon.
    pub lab: Lab,
    /// Its container.
    pub c: Container,
    /// Its number on the underlay.
    pub n: u8,
}

impl Mesh {
    /// Makes it; `args` go to `trunkline mesh add`, such as `--type gre --key 7`.
    pub fn new(underlay: Underlay, hosts: u8, family: Family, args: &[&str]) -> Mesh {
        Mesh::of_hosts(underlay, hosts, family, args, tunnel::host)
    }

    /// The same of hosts made by `host`.
    pub fn of_hosts(
        underlay: Underlay,
        hosts: u8,
        family: Family,
        args: &[&str],
        host: impl Fn(&Underlay, u8) -> Lab,
    ) -> Mesh {
        let make = |n| {
            let lab = host(&underlay, n);
            Host { c: tunnel::container(&lab, "c"), lab, n }
        };
        let hosts: Vec<Host> = (1..=hosts).map(make).collect();
        let mesh = Mesh { underlay, hosts, family };
        let peers: Vec<String> = mesh.hosts.iter().map(|h| mesh.address(h.n)).collect();
        let peers = peers.join(",");
        for host in &mesh.hosts {
            // The same list on each: a host knows itself.
            host.lab.ok(&[&["mesh", "add", "br0", "m", "--peers", &peers], args].concat());
        }
        mesh
    }

    /// Outer address of host `n`.
    pub fn address(&self, n: u8) -> String {
        self.underlay.address(n, self.family).to_string()
    }

    /// Name of the port that is the tunnel to host `n`.
    pub fn port(&self, n: u8) -> String {
        format!("m/{}", self.address(n))
    }

    /// Host `n`.
    pub fn host(&self, n: u8) -> &Host {
        &self.hosts[usize::from(n) - 1]
    }

    /// What `mesh show` of host `from` says of host `to`.
    pub fn peer(&self, from: u8, to: u8) -> Value {
        let shown = self.host(from).lab.json(&["mesh", "show", "m"]);
        let peers = shown["peers"].as_array().unwrap_or_else(|| panic!("no peers in {shown:#}"));
        let remote = self.address(to);
        let row = peers.iter().find(|p| p["remote"] == remote.as_str());
        row.unwrap_or_else(|| panic!("{remote} is no peer in {shown:#}")).clone()
    }

    /// Waits until host `from` takes host `to` for alive, or not.
    pub fn await_liveness(&self, from: u8, to: u8, liveness: &str, limit: Duration) {
        let mut last = Value::Null;
        let reached = eventually(limit, || {
            last = self.peer(from, to);
            last["liveness"] == liveness
        });
        assert!(reached, "host {to} is not {liveness} for host {from} after {limit:?}: {last:#}");
    }

    /// Waits until every host takes every other for alive.
    pub fn await_all_up(&self) {
        for from in &self.hosts {
            for to in self.hosts.iter().filter(|h| h.n != from.n) {
                self.await_liveness(from.n, to.n, "up", Duration::from_secs(20));
            }
        }
    }
}
