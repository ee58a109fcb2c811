//! What docs/docker.md shows for two hosts, as it stands there: two engines with their own plugin directories, two
//! daemons, one wire between them.

use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use trunkline_tests::{Netns, eventually};

/// Starts a daemon and an engine in namespaces of their own, with the image of the first tour, then runs what it
/// is given on stdin.
const HOST: &str = r#"
set -eu
mkdir -p /run/docker
mount -t tmpfs none /run/docker
mkdir image bin
ln -s "$TRUNKLINE_BIN" bin/trunkline
printf '#!/bin/sh\nexec "$@"\n' > bin/sudo
printf '#!/bin/sh\nexec /usr/bin/docker "$@"\n' > bin/docker
chmod +x bin/*
export PATH="$PWD/bin:$PATH" TRUNKLINE_RUN_DIR="$PWD/run" TRUNKLINE_STATE_DIR="$PWD/state"
export DOCKER_HOST="unix://$PWD/docker.sock"
trunkline daemon > daemon.log 2>&1 &
daemon=$!
dockerd --data-root "$PWD/data" --exec-root "$PWD/exec" --pidfile "$PWD/pid" --host "$DOCKER_HOST" \
    --storage-driver vfs --iptables=false --ip6tables=false --bridge none > dockerd.log 2>&1 &
engine=$!
trap 'docker ps -aq | xargs -r docker rm -f > /dev/null; kill $engine; wait $engine; kill $daemon; wait $daemon' EXIT
for try in $(seq 100); do docker version > /dev/null 2>&1 && [ -S run/trunkline.sock ] && break; sleep 0.2; done
mkdir image/bin
cp /bin/busybox image/bin/
for name in sh ping wget httpd; do ln -s busybox image/bin/$name; done
tar -C image -c . | docker import - bb > /dev/null
touch ready
while [ ! -e go ]; do sleep 0.1; done
. ./both
touch both.done
while [ ! -e go2 ]; do sleep 0.1; done
. ./own
touch own.done
while [ ! -e stop ]; do sleep 0.1; done
"#;

struct Host(Child);

impl Drop for Host {
    fn drop(&mut self) {
        self.0.wait().ok();
    }
}

fn start(ns: &Netns, dir: &Path, both: &str, own: &str) -> Host {
    std::fs::create_dir(dir).expect("directory");
    for (file, text) in [("both", both), ("own", own)] {
        std::fs::write(dir.join(file), text).expect("write");
    }
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-s"]).current_dir(dir);
    command.env("TRUNKLINE_BIN", trunkline_tests::daemon::binary()).stdin(Stdio::piped());
    let log = |name: &str| std::fs::File::create(dir.join(name)).expect("log");
    command.stdout(log("out")).stderr(log("err"));
    let mut child = ns.enter(|| command.spawn()).expect("unshare");
    child.stdin.take().expect("piped").write_all(HOST.as_bytes()).expect("write");
    Host(child)
}

#[test]
fn the_tour_on_two_hosts() {
    trunkline_tests::docker::mount_cgroups();
    let text = include_str!("../../docs/docker.md");
    let section = text.split("## Two hosts").nth(1).expect("section");
    let block = section.split("```sh\n").nth(1).and_then(|t| t.split("```").next()).expect("commands");
    let (both, rest) = block.split_once("# on the first\n").expect("two steps");
    let (first, second) = rest.split_once("# on the second").expect("three steps");
    let second = second.split_once('\n').expect("a line").1;

    let dir = tempfile::tempdir().expect("directory");
    let (one, two) = (Netns::new("tour1"), Netns::new("tour2"));
    one.sh("ip link add name eth0 type veth peer name eth0 netns tour2");
    for (ns, address) in [(&one, "192.0.2.1/24"), (&two, "192.0.2.2/24")] {
        ns.sh(&format!("ip address add {address} dev eth0"));
        ns.sh("ip link set eth0 up");
    }
    let dirs = [dir.path().join("one"), dir.path().join("two")];
    let read = |dir: &Path, file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_default();
    let told = || {
        let all =
            dirs.iter().flat_map(|dir| ["out", "err", "daemon.log", "dockerd.log"].map(|f| read(dir, f)));
        all.collect::<Vec<_>>().join("\n")
    };
    let hosts = [start(&one, &dirs[0], both, first), start(&two, &dirs[1], both, second)];
    let go = |dir: &Path, file: &str| std::fs::write(dir.join(file), "").expect("write");
    let done = |dir: &Path, file: &str| {
        let there = eventually(Duration::from_secs(60), || dir.join(file).exists());
        if !there {
            dirs.iter().for_each(|dir| ["go", "go2", "stop"].iter().for_each(|file| go(dir, file)));
        }
        assert!(there, "{file}\n{}", told());
    };
    dirs.iter().for_each(|dir| done(dir, "ready"));
    dirs.iter().for_each(|dir| go(dir, "go"));
    dirs.iter().for_each(|dir| done(dir, "both.done"));
    for dir in &dirs {
        go(dir, "go2");
        done(dir, "own.done");
    }
    let said = read(&dirs[1], "out");
    dirs.iter().for_each(|dir| go(dir, "stop"));
    drop(hosts);
    assert!(said.contains("1 packets received"), "{said}\n{}", told());
}
