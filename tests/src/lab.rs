//! A daemon in a namespace of its own, with the containers of one test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::check::Sums;
use crate::daemon::Daemon;
use crate::{Netns, cmd, eventually, frame};

/// How a container is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A TAP in the container's namespace.
    Tap,
    /// A veth pair whose other end is an AF_PACKET port.
    Afpacket,
}

/// A container's wishes.
#[derive(Clone, Debug)]
pub struct Opts<'a> {
    /// Its bridge.
    pub bridge: &'a str,
    /// More arguments for `trunkline port add`.
    pub args: Vec<&'a str>,
    /// MTU of its interface; 0 leaves a TAP's to the switch.
    pub mtu: u32,
    /// Switch checksum and segmentation offload off inside, as for a peer without them.
    pub tx_off: bool,
}

impl Default for Opts<'_> {
    fn default() -> Self {
        Opts { bridge: "br0", args: Vec::new(), mtu: 1500, tx_off: false }
    }
}

impl<'a> Opts<'a> {
    /// With more arguments for `trunkline port add`.
    pub fn args(args: &[&'a str]) -> Opts<'a> {
        Opts { args: args.to_vec(), ..Opts::default() }
    }
}

/// A namespace with one interface, `eth0`, on the switch.
#[derive(Debug)]
pub struct Container {
    /// Its namespace.
    pub ns: Netns,
    /// The name of its port.
    pub port: String,
    /// How it is attached.
    pub kind: Kind,
    /// 10.7.0.N
    pub v4: IpAddr,
    /// fd07::N
    pub v6: IpAddr,
    /// MAC address of eth0.
    pub mac: [u8; 6],
}

impl Container {
    /// Name of the veth end in the daemon's namespace (AF_PACKET containers only).
    pub fn veth(&self) -> String {
        format!("v-{}", self.port)
    }
}

/// The bench of one test.
#[derive(Debug)]
pub struct Lab {
    /// The daemon's namespace.
    pub ns: Netns,
    /// The daemon.
    pub daemon: Daemon,
    id: u32,
    containers: AtomicU32,
    dir: TempDir,
}

/// Sandboxes are separate; within one, labs are numbered.
static LABS: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Starts a daemon in a new namespace, with a bridge `br0`.
    pub fn new() -> Lab {
        Lab::with_args(&[])
    }

    /// The same, with more arguments for `trunkline daemon`.
    pub fn with_args(args: &[&str]) -> Lab {
        let mut lab = Lab::unstarted(args);
        lab.start();
        lab.ok(&["bridge", "add", "br0"]);
        lab
    }

    /// Everything but the daemon running.
    pub fn unstarted(args: &[&str]) -> Lab {
        crate::require_sandbox();
        let id = LABS.fetch_add(1, Ordering::Relaxed);
        let ns = Netns::new(&format!("lab{id}"));
        let dir = TempDir::new().expect("temporary directory");
        let daemon = Daemon::new(&ns, dir.path(), args);
        Lab { ns, daemon, id, containers: AtomicU32::new(0), dir }
    }

    /// Starts the daemon (again).
    pub fn start(&mut self) {
        self.daemon.start(&self.ns);
    }

    /// Numbers the containers made from now on from `n` on: several labs of one network must not give the same
    /// addresses.
    pub fn number_from(&self, n: u32) {
        self.containers.store(n - 1, Ordering::Relaxed);
    }

    /// A directory for the test's files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A name that no other lab uses, for namespaces.
    pub fn name(&self, suffix: &str) -> String {
        format!("lab{}-{suffix}", self.id)
    }

    /// A plain container on `br0`.
    pub fn container(&self, kind: Kind, port: &str) -> Container {
        self.container_with(kind, port, &Opts::default())
    }

    /// A container; its addresses end in 1, 2, 3 in the order they are made.
    pub fn container_with(&self, kind: Kind, port: &str, opts: &Opts<'_>) -> Container {
        let n = self.containers.fetch_add(1, Ordering::Relaxed) + 1;
        let c = Container {
            ns: Netns::new(&self.name(port)),
            port: port.into(),
            kind,
            v4: Ipv4Addr::new(10, 7, (n >> 8) as u8, n as u8).into(),
            v6: Ipv6Addr::new(0xfd07, 0, 0, 0, 0, 0, 0, n as u16).into(),
            mac: frame::mac(n),
        };
        let added = self.add_port(&c, opts);
        assert!(added.code == 0, "port add {port} failed:\n{}{}", added.stdout, added.stderr);
        if opts.tx_off {
            c.ns.sh("ethtool -K eth0 tx off");
        }
        c
    }

    /// Gives a container its interface and port; also again, after either was lost.
    pub fn add_port(&self, c: &Container, opts: &Opts<'_>) -> cmd::Output {
        let (mac, mtu) = (frame::mac_text(c.mac), opts.mtu.to_string());
        let (v4, v6, veth) = (format!("{}/16", c.v4), format!("{}/64", c.v6), c.veth());
        let mut args = vec!["port", "add", opts.bridge, &c.port];
        match c.kind {
            Kind::Tap => {
                args.extend(["--type", "tap", "--netns", c.ns.name(), "--ifname", "eth0", "--mac", &mac]);
                args.extend(["--address", &v4, "--address", &v6]);
                if opts.mtu > 0 {
                    args.extend(["--mtu", &mtu]);
                }
            }
            Kind::Afpacket => {
                self.make_veth(c, opts.mtu);
                args.extend(["--type", "afpacket", "--interface", &veth]);
            }
        }
        args.extend_from_slice(&opts.args);
        self.daemon.cli(&args)
    }

    /// Makes the veth pair of an AF_PACKET container, `eth0` with addresses inside.
    pub fn make_veth(&self, c: &Container, mtu: u32) {
        let (veth, mac, ns) = (c.veth(), frame::mac_text(c.mac), c.ns.name());
        self.ns.sh(&format!(
            "ip link add name {veth} mtu {mtu} type veth peer name eth0 mtu {mtu} address {mac} netns {ns}"
        ));
        // No addresses here: the interface belongs to the switch.
        self.ns.sh(&format!("ip link set {veth} addrgenmode none up"));
        c.ns.sh(&format!("ip address add {}/16 dev eth0", c.v4));
        c.ns.sh(&format!("ip address add {}/64 dev eth0 nodad", c.v6));
        c.ns.sh("ip link set eth0 up");
    }

    /// Runs a command that must succeed; returns its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.daemon.cli(args);
        assert!(
            out.code == 0,
            "trunkline {} failed ({}):\n{}{}\ndaemon's log:\n{}",
            args.join(" "),
            out.code,
            out.stdout,
            out.stderr,
            self.daemon.log()
        );
        out.stdout
    }

    /// Runs a command that must fail with one clear line that contains each of `words`, in any case;
    /// returns the line.
    pub fn fails(&self, args: &[&str], words: &[&str]) -> String {
        let out = self.daemon.cli(args);
        let line = out.stderr.trim_end();
        assert!(out.code != 0, "trunkline {} succeeded, and should not:\n{}", args.join(" "), out.stdout);
        assert!(
            !line.is_empty() && !line.contains('\n'),
            "not one line of error for {}:\n{line}",
            args.join(" ")
        );
        for word in words {
            let found = line.to_lowercase().contains(&word.to_lowercase());
            assert!(found, "the error of `trunkline {}` does not mention {word:?}:\n{line}", args.join(" "));
        }
        line.into()
    }

    /// Runs a read command with `--json`.
    pub fn json(&self, args: &[&str]) -> Value {
        let mut args = args.to_vec();
        args.push("--json");
        let text = self.ok(&args);
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("{} gives no JSON: {e}\n{text}", args.join(" ")))
    }

    /// Counters of all ports.
    pub fn stats(&self) -> Value {
        self.json(&["stats"])
    }

    /// One port's drops for a reason.
    pub fn drops(&self, port: &str, reason: &str) -> u64 {
        crate::check::drops(&self.stats(), port, reason)
    }

    /// Waits for at least `count` drops of a port for a reason.
    pub fn await_drops(&self, port: &str, reason: &str, count: u64) {
        let seen = eventually(Duration::from_secs(5), || self.drops(port, reason) >= count);
        assert!(seen, "expected {count} drops of {port} for {reason}; counters: {:#}", self.stats());
    }

    /// The whole FDB of a bridge.
    pub fn fdb(&self, bridge: &str) -> Vec<Value> {
        self.json(&["fdb", "show", bridge]).as_array().expect("array").clone()
    }

    /// The port behind which an address is known, in any VLAN.
    pub fn fdb_port(&self, bridge: &str, mac: [u8; 6]) -> Option<String> {
        let mac = frame::mac_text(mac);
        let rows = self.fdb(bridge);
        rows.iter().find(|r| r["mac"] == mac.as_str()).map(|r| r["port"].as_str().expect("port").to_owned())
    }

    /// State and reason of a port.
    pub fn port_state(&self, port: &str) -> (String, String) {
        let ports = self.json(&["port", "list"]);
        let row = ports.as_array().expect("array").iter().find(|p| p["name"] == port);
        let row = row.unwrap_or_else(|| panic!("no port {port} in {ports}"));
        let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
        (text("state"), text("reason"))
    }

    /// Waits for a port to be up or down; returns the reason.
    pub fn await_state(&self, port: &str, state: &str) -> String {
        let mut last = Default::default();
        let reached = eventually(Duration::from_secs(15), || {
            last = self.port_state(port);
            last.0 == state
        });
        assert!(reached, "{port} is {last:?}, not {state}; log:\n{}", self.daemon.log());
        last.1
    }

    /// Every packet received ended in exactly one place, once the switch is quiet.
    pub fn assert_conserved(&self) {
        self.assert_conserved_since(&Sums::default());
    }

    /// The same of what was received since then: a port that was removed took its counters along.
    pub fn assert_conserved_since(&self, before: &Sums) {
        let (mut last, started) = (Sums::default(), Instant::now());
        let held = eventually(Duration::from_secs(10), || {
            let now = Sums::of(&self.stats()).since(before);
            let before = std::mem::replace(&mut last, now);
            // Liveness never rests: where reading takes long, no two readings are the same. Then two in a row that
            // are each right will do.
            let restless = started.elapsed() > Duration::from_secs(5) && before.rx > 0 && before.conserved();
            now.conserved() && (now == before || restless)
        });
        assert!(held, "packets are not conserved: {last:?} in {:#}", self.stats());
        assert!(last.rx > 0, "nothing was received");
    }

    /// The sums over all ports, once the switch is quiet.
    pub fn sums(&self) -> Sums {
        let mut last = Sums::default();
        let quiet = eventually(Duration::from_secs(10), || {
            let now = Sums::of(&self.stats());
            std::mem::replace(&mut last, now) == now
        });
        assert!(quiet, "the switch does not come to rest: {:#}", self.stats());
        last
    }

    /// Stops the daemon with everything released; nothing may be left but what the test itself made.
    pub fn release(&mut self) {
        self.ok(&["stop", "--release"]);
        assert_eq!(self.daemon.wait(Duration::from_secs(20)), 0, "exit code:\n{}", self.daemon.log());
    }
}

impl Default for Lab {
    fn default() -> Self {
        Lab::new()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the daemon's log:\n{}", self.daemon.log());
            return;
        }
        // A daemon that the test did not end must have survived its scenario, with nothing to complain about.
        assert!(!self.daemon.has_died(), "the daemon has ended by itself:\n{}", self.daemon.log());
        self.daemon.check_log();
    }
}
