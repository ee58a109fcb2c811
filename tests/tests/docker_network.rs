//! Networks that docker makes with the trunkline driver, by the real Docker Engine.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::Duration;

use trunkline_tests::docker::Machine;
use trunkline_tests::eventually;
use trunkline_tests::internet::{Client, Echo, FAR4, FAR6, OUTSIDE4, OUTSIDE6, at, tcp_seen_as, udp_seen_as};

#[test]
fn containers_reach_each_other_by_name_and_the_world() {
    let m = Machine::new();
    m.network("net1", &["--subnet", "10.77.0.0/24"]);
    let d = &m.docker;
    d.sleeper("web", "net1", &[]);
    d.sleeper("db", "net1", &["--ip", "10.77.0.99", "--mac-address", "02:00:00:00:99:99"]);
    for to in ["web", "10.77.0.1", FAR4] {
        assert!(d.pings("db", to), "{to}\n{}", m.net.lab.daemon.log());
    }
    assert!(d.pings("web", "db"));
    let db = d.netns("db");
    let link = db.sh("ip -o addr show dev eth0") + &db.sh("ip -o link show dev eth0") + &db.sh("ip route");
    for says in ["10.77.0.99/24", "02:00:00:00:99:99", "default via 10.77.0.1 dev eth0"] {
        assert!(link.contains(says), "{says}\n{link}");
    }
    let _far = Echo::start(&m.net.far, 7);
    assert_eq!(tcp_seen_as(&db, at(FAR4, 7)).ip().to_string(), OUTSIDE4);
    let status = m.status();
    assert_eq!(status["endpoints"].as_object().map(|e| e.len()), Some(2), "{status:#}");
    // The same address for the next container, with another MAC address: it is reached at once.
    drop(db);
    d.ok(&["rm", "--force", "db"]);
    assert!(!d.pings("web", "10.77.0.99"));
    d.sleeper("db2", "net1", &["--ip", "10.77.0.99", "--mac-address", "02:00:00:00:99:98"]);
    assert!(d.pings("web", "10.77.0.99"));
    d.ok(&["rm", "--force", "web", "db2"]);
    d.ok(&["network", "rm", "net1"]);
    m.assert_clean();
}

#[test]
fn two_networks_of_one_container_come_and_go_while_it_runs() {
    let m = Machine::new();
    let d = &m.docker;
    m.network("front", &["--subnet", "10.77.1.0/24", "-o", "bridge=br0", "-o", "vlan=10"]);
    m.network("back", &["--internal", "--subnet", "10.77.2.0/24", "-o", "bridge=br0", "-o", "vlan=20"]);
    d.sleeper("app", "front", &[]);
    d.sleeper("db", "back", &[]);
    assert!(!d.pings("app", &d.address("db", "back")));
    d.ok(&["network", "connect", "back", "app"]);
    assert!(d.pings("app", "db"), "{}", m.net.lab.daemon.log());
    assert!(d.pings("app", FAR4));
    assert!(!d.pings("db", FAR4), "nothing leads out of an internal network");
    d.ok(&["network", "disconnect", "front", "app"]);
    assert!(!d.pings("app", FAR4));
    assert!(d.pings("app", "db"));
    d.ok(&["network", "connect", "front", "app"]);
    assert!(d.pings("app", FAR4), "{}", m.net.lab.daemon.log());
    d.ok(&["restart", "--time", "0", "app"]);
    assert!(d.pings("app", "db") && d.pings("app", FAR4));
    d.ok(&["rm", "--force", "app", "db"]);
    d.ok(&["network", "rm", "front", "back"]);
    m.assert_clean();
}

#[test]
fn options_do_what_they_say() {
    let m = Machine::new();
    let d = &m.docker;
    m.network("lone", &["--subnet", "10.77.3.0/24", "-o", "icc=false", "-o", "mtu=1400"]);
    d.sleeper("one", "lone", &[]);
    d.sleeper("two", "lone", &[]);
    let two = d.address("two", "lone");
    assert!(!d.pings("one", &two), "icc=false");
    // Nor by the router.
    d.netns("one").sh(&format!("ip route add {two}/32 via 10.77.3.1"));
    assert!(!d.pings("one", &two), "icc=false, by the gateway");
    assert!(d.pings("one", FAR4) && d.pings("two", FAR4));
    let link = d.ok(&["exec", "one", "ip", "link", "show", "eth0"]);
    assert!(link.contains("mtu 1400"), "{link}");

    m.network("six", &["--ipv6", "--subnet", "10.77.4.0/24", "--subnet", "fd77:4::/64"]);
    d.sleeper("s1", "six", &[]);
    let addresses = d.ok(&["exec", "s1", "ip", "-6", "addr", "show", "eth0"]);
    assert!(addresses.contains("fd77:4::2/64"), "{addresses}");
    assert!(d.pings("s1", "fd77:4::1"), "{}", m.net.lab.daemon.log());
    d.sleeper("s2", "six", &[]);
    assert!(d.pings("s1", "fd77:4::3"));

    m.network(
        "held",
        &["--ipv6", "--subnet", "10.77.5.0/24", "--subnet", "fd77:5::/64", "-o", "anti-spoof=true"],
    );
    d.sleeper("h1", "held", &[]);
    d.sleeper("h2", "held", &[]);
    assert!(
        d.pings("h1", "10.77.5.3") && d.pings("h1", "fd77:5::3") && d.pings("h1", FAR4),
        "its own addresses"
    );
    let h1 = d.netns("h1");
    h1.sh("ip address add 10.77.5.99/24 dev eth0");
    let spoofed = h1.run("ping", &["-n", "-c", "1", "-W", "1", "-I", "10.77.5.99", "10.77.5.3"]);
    assert_ne!(spoofed.code, 0, "{spoofed:?}");
}

/// By an uplink of the switch's own: unique local addresses are translated, others routed.
#[test]
fn ipv6_leads_out_and_in_by_an_uplink_of_the_switch() {
    let m = Machine::new();
    // Docker needs none of the host's addresses, and the switch takes the interface.
    m.net.lab.ns.sh("ip address flush dev up0");
    m.net.add_uplink();
    ipv6_leads_out_and_in(&m, "2001:db8:78::2");
}

/// By the host's own address, shared: all are translated.
#[test]
fn ipv6_leads_out_and_in_by_the_hosts_address() {
    ipv6_leads_out_and_in(&Machine::new(), OUTSIDE6);
}

/// `seen`: a container with a global address, from outside.
fn ipv6_leads_out_and_in(m: &Machine, seen: &str) {
    let (d, far) = (&m.docker, &m.net.far);
    let log = || m.net.lab.daemon.log();
    m.network("local", &["--ipv6", "--subnet", "10.77.0.0/24", "--subnet", "fd77:7::/64"]);
    m.network("global", &["--ipv6", "--subnet", "10.78.0.0/24", "--subnet", "2001:db8:78::/64"]);
    far.sh(&format!("ip -6 route add 2001:db8:78::/64 via {OUTSIDE6}"));
    d.sleeper("one", "local", &["-p", "8080:80", "-p", "8080:80/udp"]);
    d.sleeper("two", "global", &["-p", "9090:80", "-p", "9090:80/udp"]);
    let _far = Echo::start(far, 7);
    let (one, two) = (d.netns("one"), d.netns("two"));
    for ns in [&one, &two] {
        let reached = eventually(Duration::from_secs(5), || Client::connect(ns, at(FAR6, 7)).is_ok());
        assert!(reached, "{}\n{}", ns.sh("ip -6 route"), log());
    }
    assert_eq!(tcp_seen_as(&one, at(FAR6, 7)).ip().to_string(), OUTSIDE6);
    assert_eq!(udp_seen_as(&one, at(FAR6, 7)).ip().to_string(), OUTSIDE6);
    assert_eq!(tcp_seen_as(&two, at(FAR6, 7)).ip().to_string(), seen);
    let _echoes = [&one, &two].map(|ns| Echo::start(ns, 80));
    for port in [8080, 9090] {
        assert_eq!(tcp_seen_as(far, at(OUTSIDE6, port)).ip().to_string(), "2001:db8::1", "{port}");
        assert_eq!(udp_seen_as(far, at(OUTSIDE6, port)).ip().to_string(), "2001:db8::1", "{port}");
    }
    // What is not published is not reached, whatever its address.
    assert!(Client::connect(far, at("2001:db8:78::2", 80)).is_err());
    tcp_seen_as(&one, at(OUTSIDE6, 9090));
}

#[test]
fn refusals_are_one_clear_line_and_leave_nothing() {
    let mut m = Machine::new();
    m.net.lab.daemon.allow("docker is not served");
    let d = &m.docker;
    let create = |args: &[&str]| {
        let mut all = vec!["network", "create", "--driver", m.driver.as_str()];
        all.extend_from_slice(args);
        all.push("bad");
        all.into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    for (args, says) in [
        (&["-o", "vlna=10"][..], "no option 'vlna'; did you mean 'vlan'?"),
        (&["-o", "vlan=5000"], "option vlan=5000: this is no VLAN; use 1 to 4094"),
        (&["-o", "bridge=nope"], "there is no bridge nope"),
        (&["-o", "uplink=nope"], "there is no uplink nope"),
        (&["-o", "mesh=nope"], "there is no mesh nope"),
        (&["-o", "mtu=40"], "option mtu=40"),
        (&["--internal", "-o", "uplink=up"], "nothing leads out of this network"),
        (
            &["-o", "bridge=br0", "--subnet", "10.77.9.0/24"],
            "gateway br0 is there already, without the address 10.77.9.1",
        ),
    ] {
        let args = create(args);
        let said = d.fails(&args.iter().map(String::as_str).collect::<Vec<_>>(), &[says]);
        assert_eq!(said.trim_end().lines().count(), 1, "{said}");
    }
    m.assert_clean();
    assert_eq!(m.status()["networks"].as_object().map(|n| n.len()), Some(0));
    m.network("n", &["--subnet", "10.77.5.0/24"]);
    d.fails(
        &["run", "--rm", "--net", "n", "--mac-address", "ff:ff:ff:ff:ff:ff", "bb", "/bin/true"],
        &["ff:ff:ff:ff:ff:ff"],
    );
    assert_eq!(m.status()["endpoints"].as_object().map(|n| n.len()), Some(0));
    // Asked for by a driver that is not there: docker's own error, and the daemon is none the wiser.
    m.net.lab.ok(&["docker", "disable"]);
    assert_eq!(m.status()["serving"], false);
    m.net.lab.fails(&["docker", "enable", "--socket", "relative"], &["not an absolute path"]);
    m.net.lab.fails(&["docker", "enable", "--socket", "/proc/nowhere/x.sock"], &["cannot serve docker on"]);
    assert_eq!(m.status()["serving"], false);
    m.net.lab.ok(&["docker", "enable", "--socket", &format!("/run/docker/plugins/{}.sock", m.driver)]);
    let served = eventually(Duration::from_secs(5), || m.status()["serving"] == true);
    assert!(served);
    d.ok(&["run", "--rm", "--net", "n", "bb", "/bin/true"]);
    d.ok(&["network", "rm", "n"]);
    m.assert_clean();
}

/// Beside docker's own bridge driver, in turns.
#[test]
fn a_container_starts_as_fast_as_with_the_bridge_driver() {
    let m = Machine::new();
    m.network("ours", &["--subnet", "10.77.0.0/24"]);
    m.docker.ok(&["network", "create", "--driver", "bridge", "--subnet", "10.79.0.0/24", "theirs"]);
    let start = |network: &str, gateway: &str| {
        let begun = std::time::Instant::now();
        let args = ["run", "--rm", "--net", network, "bb", "ping", "-c1", "-W3", gateway];
        let mut run = m.docker.command(&args).stdout(Stdio::piped()).spawn().expect("docker");
        let lines = BufReader::new(run.stdout.take().expect("piped")).lines();
        let answered =
            lines.map_while(Result::ok).find(|line| line.contains("seq=0")).map(|_| begun.elapsed());
        run.wait().expect("wait");
        answered.unwrap_or_else(|| panic!("no answer in {network}: {}", m.docker.log()))
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..9 {
        ours.push(start("ours", "10.77.0.1"));
        theirs.push(start("theirs", "10.79.0.1"));
    }
    // The best of each: whatever else the machine does makes some slower, and none faster.
    let (a, b) = (ours.iter().min().expect("rounds"), theirs.iter().min().expect("rounds"));
    println!("best of {}: {a:?} with trunkline, {b:?} with the bridge driver", ours.len());
    assert!(
        *a < *b + Duration::from_millis(100),
        "{ours:?} with trunkline, {theirs:?} with the bridge driver"
    );
}
