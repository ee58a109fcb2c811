//! A Docker Engine of a test's own: its data, socket and containers live and die with the sandbox.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::{cmd, eventually};

/// `dockerd` without bridges, iptables and images, but for one of busybox, `bb`.
#[derive(Debug)]
pub struct Docker {
    engine: Child,
    dir: TempDir,
}

impl Docker {
    /// Starts it and waits until it answers.
    pub fn new() -> Docker {
        crate::require_sandbox();
        let cgroups = Path::new("/sys/fs/cgroup");
        if !cgroups.join("cgroup.procs").exists() {
            cmd::sh("mount -t cgroup2 none /sys/fs/cgroup");
        }
        let dir = TempDir::new().expect("temporary directory");
        let file = |name: &str| dir.path().join(name).to_str().expect("utf-8").to_owned();
        let log = std::fs::File::create(file("log")).expect("log file");
        let engine = Command::new("dockerd")
            .args(["--data-root", &file("data"), "--exec-root", &file("exec"), "--pidfile", &file("pid")])
            .args(["--host", &format!("unix://{}", file("docker.sock")), "--storage-driver", "vfs"])
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("dockerd (is it installed? scripts/install-deps test)");
        let docker = Docker { engine, dir };
        let up = eventually(Duration::from_secs(60), || docker.run(&["version"]).code == 0);
        assert!(up, "dockerd does not answer:\n{}", docker.log());
        docker.import();
        docker
    }

    /// No image can be pulled: makes one of the machine's static busybox.
    fn import(&self) {
        let root = self.dir.path().join("image");
        let bin = root.join("bin");
        std::fs::create_dir_all(&bin).expect("image directory");
        std::fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static");
        for applet in ["sh", "sleep", "ping", "ip"] {
            std::os::unix::fs::symlink("busybox", bin.join(applet)).expect("symlink");
        }
        let (tar, root) = (self.dir.path().join("image.tar"), root.to_str().expect("utf-8"));
        let tar = tar.to_str().expect("utf-8");
        cmd::ok("tar", &["-C", root, "-cf", tar, "."]);
        self.ok(&["import", tar, "bb"]);
    }

    /// The value of DOCKER_HOST that leads to it.
    pub fn host(&self) -> String {
        format!("unix://{}", self.dir.path().join("docker.sock").display())
    }

    /// Runs `docker`.
    pub fn run(&self, args: &[&str]) -> cmd::Output {
        cmd::output(Command::new("docker").env("DOCKER_HOST", self.host()).args(args))
    }

    /// Runs `docker`, which must succeed; returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = self.run(args);
        assert!(out.code == 0, "docker {}: {}\n{}", args.join(" "), out.stderr, self.log());
        out.stdout
    }

    /// Starts a container without a network of docker's.
    pub fn container(&self, name: &str) {
        self.ok(&["run", "--detach", "--name", name, "--network", "none", "bb", "/bin/sleep", "3600"]);
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

impl Default for Docker {
    fn default() -> Self {
        Docker::new()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // Containers first: they are not the engine's children. What stays dies with the sandbox.
        let names = self.run(&["ps", "--all", "--quiet"]).stdout;
        for id in names.split_whitespace() {
            self.run(&["rm", "--force", id]);
        }
        if let Some(pid) = rustix::process::Pid::from_raw(self.engine.id() as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.engine.wait().ok();
    }
}
