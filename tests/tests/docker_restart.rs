//! Docker networks over restarts of the switch, of docker, of both; and what is killed in the middle.

use std::time::{Duration, Instant};

use trunkline_tests::docker::Machine;
use trunkline_tests::eventually;
use trunkline_tests::internet::{Echo, FAR4, OUTSIDE4, at, tcp_seen_as};

/// The path of the API's socket answers again.
fn restart_switch(m: &mut Machine, kill: bool) {
    if kill {
        m.net.lab.daemon.kill();
    } else {
        m.net.lab.daemon.terminate();
    }
    m.net.lab.start();
}

fn restart_docker(m: &mut Machine, kill: bool) {
    if kill {
        m.docker.kill();
    } else {
        m.docker.terminate();
    }
    let Machine { docker, net, .. } = m;
    docker.start(Some(&net.lab.ns));
}

#[test]
fn containers_keep_talking_over_restarts() {
    let mut m = Machine::with(&["--bridge", "none", "--live-restore"]);
    m.network("net1", &["--subnet", "10.77.0.0/24"]);
    m.docker.sleeper("web", "net1", &["-p", "8080:80"]);
    m.docker.sleeper("peer", "net1", &[]);
    let check = |m: &Machine, when: &str| {
        let log = || format!("{when}:\n{}\n{}", m.net.lab.daemon.log(), m.docker.log());
        assert!(eventually(Duration::from_secs(5), || m.docker.pings("peer", "web")), "{}", log());
        assert!(m.docker.pings("peer", FAR4), "{}", log());
        let web = m.docker.netns("web");
        let _echo = Echo::start(&web, 80);
        assert_eq!(tcp_seen_as(&m.net.far, at(OUTSIDE4, 8080)).ip().to_string(), "192.0.2.1");
        tcp_seen_as(&m.net.lab.ns, at("127.0.0.1", 8080));
        // What is new works beside what was there.
        let name = m.docker.ok(&["run", "--rm", "--net", "net1", "bb", "ping", "-c1", "-W2", "web"]);
        assert!(name.contains("1 packets received"), "{name}");
    };
    check(&m, "before");
    restart_switch(&mut m, true);
    check(&m, "switch killed");
    restart_switch(&mut m, false);
    check(&m, "switch restarted");
    restart_docker(&mut m, true);
    check(&m, "docker killed");
    restart_docker(&mut m, false);
    check(&m, "docker restarted");
    restart_switch(&mut m, true);
    restart_docker(&mut m, true);
    check(&m, "both, the switch first");
    // Docker first: it starts while the switch is away, and waits for it.
    m.docker.kill();
    m.net.lab.daemon.kill();
    m.net.lab.start();
    let Machine { docker, net, .. } = &mut m;
    docker.start(Some(&net.lab.ns));
    check(&m, "both at once");
    m.docker.ok(&["rm", "--force", "web", "peer"]);
    m.docker.ok(&["network", "rm", "net1"]);
    m.assert_clean();
}

#[test]
fn containers_with_a_restart_policy_come_back_right() {
    let mut m = Machine::new();
    m.network("net1", &["--subnet", "10.77.0.0/24"]);
    m.docker.sleeper("web", "net1", &["--restart", "always", "-p", "8080:80"]);
    m.docker.sleeper("once", "net1", &[]);
    m.docker.terminate();
    restart_switch(&mut m, true);
    let Machine { docker, net, .. } = &mut m;
    docker.start(Some(&net.lab.ns));
    let running = |m: &Machine, name: &str| {
        m.docker.ok(&["inspect", "--format", "{{.State.Running}}", name]).trim() == "true"
    };
    assert!(eventually(Duration::from_secs(20), || running(&m, "web")), "{}", m.docker.log());
    assert!(!running(&m, "once"));
    assert!(m.docker.pings("web", FAR4), "{}", m.net.lab.daemon.log());
    let web = m.docker.netns("web");
    let echo = Echo::start(&web, 80);
    assert_eq!(tcp_seen_as(&m.net.far, at(OUTSIDE4, 8080)).ip().to_string(), "192.0.2.1");
    assert_eq!(m.status()["endpoints"].as_object().map(|e| e.len()), Some(1), "{:#}", m.status());
    drop((echo, web));
    m.docker.ok(&["rm", "--force", "web", "once"]);
    m.docker.ok(&["network", "rm", "net1"]);
    m.assert_clean();
}

/// Fifty `docker run --rm` at once, and something is killed in their middle.
fn race(kill: impl Fn(&mut Machine)) {
    let mut m = Machine::new();
    m.network("net1", &["--subnet", "10.77.0.0/24"]);
    let mut runs: Vec<_> = (0..50)
        .map(|n| {
            let port = format!("{}:80", 10_000 + n);
            let args = ["run", "--rm", "--net", "net1", "-p", &port, "bb", "ping", "-c1", "-W3", "10.77.0.1"];
            let mut command = m.docker.command(&args);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
            command.spawn().expect("docker")
        })
        .collect();
    // In the middle: some have their place, others not.
    let begun = eventually(Duration::from_secs(20), || {
        m.status()["endpoints"].as_object().map_or(0, |e| e.len()) >= 5
    });
    assert!(begun, "{}", m.docker.log());
    kill(&mut m);
    let end = Instant::now() + Duration::from_secs(120);
    for run in &mut runs {
        while run.try_wait().expect("wait").is_none() {
            assert!(Instant::now() < end, "docker run hangs\n{}", m.docker.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    // Docker removes what its `--rm` are told to remove; a killed one forgets some that it only made.
    let left = m.docker.ok(&["ps", "--all", "--quiet"]);
    let left: Vec<&str> = left.split_whitespace().collect();
    if !left.is_empty() {
        m.docker.ok(&[&["rm", "--force"], &left[..]].concat());
    }
    let gone = eventually(Duration::from_secs(60), || {
        m.status()["endpoints"].as_object().map(|e| e.len()) == Some(0)
    });
    assert!(gone, "{:#}\n{}", m.status(), m.net.lab.daemon.log());
    // All works as before.
    let out =
        m.docker.ok(&["run", "--rm", "--net", "net1", "-p", "10000:80", "bb", "ping", "-c1", "-W3", FAR4]);
    assert!(out.contains("1 packets received"), "{out}");
    m.docker.ok(&["network", "rm", "net1"]);
    m.assert_clean();
}

#[test]
fn docker_killed_among_fifty_runs_leaves_nothing() {
    race(|m| restart_docker(m, true));
}

#[test]
fn the_switch_killed_among_fifty_runs_leaves_nothing() {
    race(|m| restart_switch(m, true));
}

/// Docker starts on a machine where the switch is not up yet, and waits for its driver.
#[test]
fn docker_first_and_the_switch_later() {
    let mut m = Machine::new();
    // The container's interface went with docker's killing it.
    m.net.lab.daemon.allow("its interface went with the container");
    m.network("net1", &["--subnet", "10.77.0.0/24"]);
    m.docker.sleeper("web", "net1", &["--restart", "always", "--stop-signal", "KILL", "-p", "8080:80"]);
    m.docker.kill();
    m.net.lab.daemon.kill();
    let Machine { docker, net, .. } = &mut m;
    let trunkline_tests::Lab { ns, daemon, .. } = &mut net.lab;
    let ns = &*ns;
    std::thread::scope(|s| {
        s.spawn(|| {
            std::thread::sleep(Duration::from_secs(3));
            daemon.start(ns);
        });
        docker.start(Some(ns));
    });
    assert!(m.docker.log().contains("retrying in"), "docker looked for it before: {}", m.docker.log());
    let running = || m.docker.ok(&["inspect", "--format", "{{.State.Running}}", "web"]).trim() == "true";
    assert!(eventually(Duration::from_secs(20), running), "{}", m.docker.log());
    assert!(m.docker.pings("web", FAR4), "{}", m.net.lab.daemon.log());
    let web = m.docker.netns("web");
    let echo = Echo::start(&web, 80);
    assert_eq!(tcp_seen_as(&m.net.far, at(OUTSIDE4, 8080)).ip().to_string(), "192.0.2.1");
    drop((echo, web));
    m.docker.ok(&["rm", "--force", "web"]);
    m.docker.ok(&["network", "rm", "net1"]);
    m.assert_clean();
}
