//! A Docker Engine of a test's own: its data, socket and containers live and die with the sandbox.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tempfile::TempDir;

use crate::internet::Internet;
use crate::{Netns, cmd, eventually};

/// `dockerd` without bridges, iptables and images, but for one of busybox, `bb`.
#[derive(Debug)]
pub struct Docker {
    engine: Option<Child>,
    ns: Option<String>,
    args: Vec<String>,
    dir: TempDir,
}

impl Docker {
    /// Starts it and waits until it answers.
    pub fn new() -> Docker {
        Docker::start_in(None, &["--bridge", "none"])
    }

    /// The same in a namespace, with more arguments for `dockerd`.
    pub fn inside(ns: &Netns, args: &[&str]) -> Docker {
        Docker::start_in(Some(ns), args)
    }

    fn start_in(ns: Option<&Netns>, args: &[&str]) -> Docker {
        crate::require_sandbox();
        mount_cgroups();
        let dir = TempDir::new().expect("temporary directory");
        let args = args.iter().map(|s| s.to_string()).collect();
        let mut docker = Docker { engine: None, ns: ns.map(|ns| ns.name().to_owned()), args, dir };
        docker.start(ns);
        docker.import();
        docker
    }

    /// Starts it again after [`Docker::kill`] or [`Docker::terminate`].
    pub fn start(&mut self, ns: Option<&Netns>) {
        assert!(self.engine.is_none(), "already running");
        assert_eq!(ns.map(Netns::name), self.ns.as_deref());
        let log = std::fs::File::options().create(true).append(true).open(self.file("log")).expect("log");
        let mut command = Command::new("dockerd");
        command
            .args(["--data-root", &self.file("data"), "--exec-root", &self.file("exec")])
            .args(["--pidfile", &self.file("pid"), "--host", &self.host(), "--storage-driver", "vfs"])
            .args(["--iptables=false", "--ip6tables=false"])
            .args(&self.args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        let spawned = match ns {
            Some(ns) => ns.enter(|| command.spawn()),
            None => command.spawn(),
        };
        self.engine = Some(spawned.expect("dockerd (is it installed? scripts/install-deps test)"));
        let up = eventually(Duration::from_secs(60), || self.run(&["version"]).code == 0);
        assert!(up, "dockerd does not answer:\n{}", self.log());
    }

    /// SIGKILL: no chance to tidy up. Its containers go on, or not.
    pub fn kill(&mut self) {
        let mut engine = self.engine.take().expect("running");
        engine.kill().expect("kill");
        engine.wait().expect("wait");
        // It would be taken for the one that runs.
        std::fs::remove_file(self.file("pid")).ok();
    }

    /// SIGTERM, and waits.
    pub fn terminate(&mut self) {
        if let Some(mut engine) = self.engine.take() {
            if let Some(pid) = rustix::process::Pid::from_raw(engine.id() as i32) {
                rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
            }
            engine.wait().ok();
        }
    }

    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().expect("utf-8").to_owned()
    }

    /// No image can be pulled: makes one of the machine's static busybox.
    fn import(&self) {
        self.ok(&["import", &busybox(self.dir.path()), "bb"]);
    }

    /// The value of DOCKER_HOST that leads to it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.file("docker.sock"))
    }

    /// `docker` with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        // The one that comes with the engine: a newer one in the path may not speak to it.
        let packaged = "/usr/bin/docker";
        let mut command = Command::new(if Path::new(packaged).exists() { packaged } else { "docker" });
        command.env("DOCKER_HOST", self.host()).args(args);
        command
    }

    /// Runs `docker`.
    pub fn run(&self, args: &[&str]) -> cmd::Output {
        cmd::output(&mut self.command(args))
    }

    /// Runs `docker`, which must succeed; returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.code == 0, "docker {}: {}\n{}", args.join(" "), out.stderr, self.log());
        out.stdout
    }

    /// Runs `docker`, which must fail and say each of `words`; returns what it says.
    pub fn fails(&self, args: &[&str], words: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.code != 0, "docker {} succeeded:\n{}", args.join(" "), out.stdout);
        for word in words {
            assert!(
                out.stderr.contains(word),
                "docker {} does not say {word:?}:\n{}",
                args.join(" "),
                out.stderr
            );
        }
        out.stderr
    }

    /// Starts a container without a network of docker's.
    pub fn container(&self, name: &str) {
        self.sleeper(name, "none", &[]);
    }

    /// Starts a container that sleeps, with more arguments for `docker run`.
    pub fn sleeper(&self, name: &str, network: &str, args: &[&str]) {
        let mut all = vec!["run", "--detach", "--name", name, "--network", network];
        all.extend_from_slice(args);
        all.extend_from_slice(&["bb", "/bin/sleep", "3600"]);
        self.ok(&all);
    }

    /// Whether a container reaches a name or address.
    pub fn pings(&self, container: &str, to: &str) -> bool {
        self.run(&["exec", container, "ping", "-c", "1", "-W", "2", to]).code == 0
    }

    /// A container's address in a network.
    pub fn address(&self, container: &str, network: &str) -> String {
        let format = format!("{{{{(index .NetworkSettings.Networks \"{network}\").IPAddress}}}}");
        self.ok(&["inspect", "--format", &format, container]).trim().to_owned()
    }

    /// A container's network namespace, for as long as the container runs.
    pub fn netns(&self, container: &str) -> Netns {
        let pid = self.ok(&["inspect", "--format", "{{.State.Pid}}", container]);
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let name = format!("docker{}-{container}", COUNTER.fetch_add(1, Ordering::Relaxed));
        Netns::of_process(&name, pid.trim())
    }

    /// What it has written.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.file("log")).unwrap_or_default()
    }
}

/// The sandbox has a /sys of its own, without what container runtimes need.
pub fn mount_cgroups() {
    static CGROUPS: std::sync::Once = std::sync::Once::new();
    CGROUPS.call_once(|| {
        if !Path::new("/sys/fs/cgroup/cgroup.procs").exists() {
            cmd::sh("mount -t cgroup2 none /sys/fs/cgroup");
        }
    });
}

/// A tar of a file system with busybox, made in `dir`; returns its path.
pub(crate) fn busybox(dir: &Path) -> String {
    let root = dir.join("image");
    let bin = root.join("bin");
    std::fs::create_dir_all(&bin).expect("image directory");
    std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static");
    for applet in ["sh", "sleep", "ping", "ip", "nc", "wget", "cat", "true", "arping", "httpd"] {
        std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("symlink");
    }
    let (tar, root) = (dir.join("image.tar"), root.to_str().expect("utf-8"));
    let tar = tar.to_str().expect("utf-8");
    cmd::ok("tar", &["-C", root, "-cf", tar, "."]);
    tar.to_owned()
}

impl Default for Docker {
    fn default() -> Self {
        Docker::new()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Containers first: they are not the engine's children. What stays dies with the sandbox.
        if self.engine.is_some() {
            let names = self.run(&["ps", "--all", "--quiet"]).stdout;
            let ids: Vec<&str> = names.split_whitespace().collect();
            if !ids.is_empty() {
                self.run(&[&["rm", "--force"], &ids[..]].concat());
            }
        }
        self.terminate();
    }
}

/// A machine with one interface and one address, where both the switch and docker run, and a world behind it.
#[derive(Debug)]
pub struct Machine {
    /// The engine.
    pub docker: Docker,
    /// The switch, and the world.
    pub net: Internet,
    /// The name of the network driver.
    pub driver: String,
}

impl Machine {
    /// With an engine that knows no other networks.
    pub fn new() -> Machine {
        Machine::with(&["--bridge", "none"])
    }

    /// With more arguments for `dockerd`.
    pub fn with(args: &[&str]) -> Machine {
        // The directory is every engine's in the sandbox: each has a driver of its own there.
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let driver = format!("trunkline{}", COUNTER.fetch_add(1, Ordering::Relaxed));
        let net = Internet::machine(&[&format!("--docker=/run/docker/plugins/{driver}.sock")]);
        let docker = Docker::inside(&net.lab.ns, args);
        Machine { docker, net, driver }
    }

    /// Makes a network of the driver.
    pub fn network(&self, name: &str, args: &[&str]) {
        let mut all = vec!["network", "create", "--driver", &self.driver];
        all.extend_from_slice(args);
        all.push(name);
        self.docker.ok(&all);
    }

    /// `trunkline docker status --json`.
    pub fn status(&self) -> serde_json::Value {
        self.net.lab.json(&["docker", "status"])
    }

    /// Nothing of docker's is left: no objects, no interfaces but the machine's own.
    pub fn assert_clean(&self) {
        let lab = &self.net.lab;
        let mut left = Vec::new();
        let clean = eventually(Duration::from_secs(20), || {
            left.clear();
            for kind in ["bridge", "port", "gateway", "uplink", "nat"] {
                let all = lab.json(&[kind, "list"]);
                let of_docker =
                    all.as_array().expect("array").iter().filter(|o| o["spec"]["owner"] == "docker");
                left.extend(of_docker.map(|o| format!("{kind} {}", o["name"])));
            }
            left.extend(lab.ns.interfaces().into_iter().filter(|i| i != "up0"));
            left.is_empty()
        });
        assert!(clean, "left behind: {left:?}\n{}", lab.daemon.log());
    }
}

impl Default for Machine {
    fn default() -> Self {
        Machine::new()
    }
}
