//! A private Open vSwitch with the userspace datapath, as the switch on the other side.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::underlay::Underlay;
use crate::{Netns, cmd, eventually};

/// ovsdb-server and ovs-vswitchd with their own database, in a namespace of their own.
#[derive(Debug)]
pub struct Ovs {
    /// Where its interfaces are.
    pub ns: Netns,
    db: Child,
    switch: Child,
    dir: TempDir,
}

const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

impl Ovs {
    /// Starts it in a new namespace, with one userspace bridge `ovs0`.
    pub fn new(ns_name: &str) -> Ovs {
        let ns = Netns::new(ns_name);
        let dir = TempDir::new().expect("temporary directory");
        let file = |name: &str| dir.path().join(name).to_str().expect("utf-8").to_owned();
        cmd::ok("ovsdb-tool", &["create", &file("conf.db"), SCHEMA]);
        let remote = format!("--remote=punix:{}", file("db.sock"));
        let unixctl = |name: &str| format!("--unixctl={}", file(name));
        let spawn = |program: &str, args: &[&str]| {
            let log = std::fs::File::create(dir.path().join(format!("{program}.log"))).expect("log file");
            let mut command = Command::new(program);
            command
                .args(args)
                .env("OVS_RUNDIR", dir.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log);
            ns.enter(|| command.spawn()).unwrap_or_else(|e| panic!("{program}: {e}"))
        };
        let db = spawn("ovsdb-server", &[&file("conf.db"), &remote, &unixctl("db.ctl")]);
        await_file(&dir.path().join("db.sock"));
        let unix = format!("unix:{}", file("db.sock"));
        cmd::ok("ovs-vsctl", &[&format!("--db={unix}"), "--no-wait", "init"]);
        let switch = spawn("ovs-vswitchd", &[&unix, &unixctl("switch.ctl")]);
        let ovs = Ovs { ns, db, switch, dir };
        ovs.vsctl("add-br ovs0 -- set bridge ovs0 datapath_type=netdev");
        ovs
    }

    /// Runs `ovs-vsctl`, which must succeed within 15 s.
    pub fn vsctl(&self, line: &str) -> String {
        let db = format!("--db=unix:{}", self.dir.path().join("db.sock").display());
        let mut args = vec![db.as_str(), "--timeout=15"];
        args.extend(line.split_whitespace());
        cmd::ok("ovs-vsctl", &args)
    }

    /// Makes a namespace with `eth0`, joined by veth to a port of `ovs0`; `column` sets the port's columns,
    /// such as `tag=10`. Its offloads are off: this datapath cannot take them.
    pub fn container(&self, name: &str, port: &str, addresses: &[&str], column: &str) -> Netns {
        let ns = Netns::new(name);
        self.ns.sh(&format!("ip link add name {port} type veth peer name eth0 netns {name}"));
        self.ns.sh(&format!("ip link set dev {port} up"));
        for address in addresses {
            ns.sh(&format!("ip address add {address} dev eth0"));
        }
        ns.sh("ip link set eth0 up");
        ns.sh("ethtool -K eth0 tx off");
        self.vsctl(&format!("add-port ovs0 {port} {column}"));
        ns
    }

    /// Makes it host `n` of an underlay, through a userspace bridge `phy` that owns the interface: that is how
    /// this datapath sends tunnel packets.
    pub fn join(&self, underlay: &Underlay, n: u8) {
        underlay.plug(&self.ns, n);
        // It takes no superframes and no unfinished checksums.
        underlay.like_a_wire(n);
        self.vsctl("add-br phy -- set bridge phy datapath_type=netdev -- add-port phy u0");
        self.ns.sh("ip link set phy up");
        underlay.add_addresses(&self.ns, n, "phy");
    }

    /// Adds a tunnel port to `ovs0`; `options` such as `remote_ip=192.0.2.1 key=7`.
    pub fn tunnel(&self, port: &str, kind: &str, options: &str) {
        let options: Vec<String> = options.split_whitespace().map(|o| format!("options:{o}")).collect();
        self.vsctl(&format!(
            "add-port ovs0 {port} -- set interface {port} type={kind} {}",
            options.join(" ")
        ));
    }
}

fn await_file(path: &Path) {
    assert!(eventually(Duration::from_secs(10), || path.exists()), "{} does not appear", path.display());
}

impl Drop for Ovs {
    fn drop(&mut self) {
        for child in [&mut self.switch, &mut self.db] {
            child.kill().ok();
            child.wait().ok();
        }
    }
}
