//! Root's podman with a storage of the sandbox's own.

use std::path::Path;
use std::process::Command;

use crate::cmd;
use crate::docker::busybox;

/// Podman without networks; its containers end with this.
#[derive(Debug)]
pub struct Podman {
    _private: (),
}

impl Podman {
    /// Gives the sandbox a storage, with an image of busybox, `bb`. One for a sandbox at a time.
    pub fn new() -> Podman {
        crate::require_sandbox();
        let storage = Path::new("/var/lib/containers");
        std::fs::create_dir_all(storage).expect("storage");
        cmd::sh("mount -t tmpfs none /var/lib/containers");
        crate::docker::mount_cgroups();
        let podman = Podman { _private: () };
        let dir = tempfile::tempdir().expect("directory");
        let tar = busybox(dir.path());
        podman.ok(&["import", &tar, "bb"]);
        podman
    }

    /// Runs `podman`, which must succeed; returns its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        let out = cmd::output(Command::new("podman").args(args));
        assert!(out.code == 0, "podman {}: {}", args.join(" "), out.stderr);
        out.stdout
    }

    /// Starts a container that sleeps, without a network of podman's.
    pub fn sleeper(&self, name: &str) {
        // Where root may not raise limits, crun cannot make a cgroup with devices.
        let run = ["run", "--detach", "--cgroups=disabled", "--network", "none", "--name", name];
        self.ok(&[&run[..], &["bb", "/bin/sleep", "3600"]].concat());
    }
}

impl Default for Podman {
    fn default() -> Self {
        Podman::new()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        cmd::run("podman", &["rm", "--all", "--force", "--time", "0"]);
        cmd::run("umount", &["--lazy", "/var/lib/containers"]);
    }
}
