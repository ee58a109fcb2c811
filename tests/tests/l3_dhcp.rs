//! Hosts that ask for their addresses: DHCP with busybox's client, router advertisements with the kernel.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use trunkline_tests::internet::{GATEWAY4, GATEWAY6, Internet, at, ip, udp_ask};
use trunkline_tests::{Lab, Netns, cmd, eventually, frame, ping};

/// A TAP without addresses, in a namespace of its own.
fn bare(lab: &Lab, port: &str, n: u32) -> Netns {
    let ns = Netns::new(&lab.name(port));
    let mac = frame::mac_text(frame::mac(n));
    lab.ok(&[
        "port",
        "add",
        "br0",
        port,
        "--type",
        "tap",
        "--netns",
        ns.name(),
        "--ifname",
        "eth0",
        "--mac",
        &mac,
    ]);
    ns
}

/// The script that busybox runs: it sets what it is told, and writes it down.
fn script(dir: &Path) -> PathBuf {
    let path = dir.join("udhcpc.sh");
    let text = format!(
        "#!/bin/sh\n\
         env > {}/env.$1\n\
         case $1 in\n\
         bound|renew) ip address replace $ip/$mask dev $interface\n\
             [ -n \"$router\" ] && ip route replace default via $router\n\
             [ -n \"$mtu\" ] && ip link set $interface mtu $mtu ;;\n\
         esac\nexit 0\n",
        dir.display()
    );
    std::fs::write(&path, text).expect("write");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

/// Asks for an address, and returns what the script was told.
fn udhcpc(ns: &Netns, dir: &Path, more: &[&str]) -> Result<String, cmd::Output> {
    let script = script(dir);
    let file = dir.join("env.bound");
    std::fs::remove_file(&file).ok();
    let script = script.to_str().expect("utf-8");
    let args = ["udhcpc", "-i", "eth0", "-f", "-q", "-n", "-t", "8", "-T", "1", "-O", "mtu", "-s", script];
    let out = ns.run("busybox", &[&args[..], more].concat());
    std::fs::read_to_string(file).map_err(|_| out)
}

/// One variable of the script.
fn value<'a>(env: &'a str, key: &str) -> &'a str {
    env.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('=')).unwrap_or_default()
}

#[test]
fn busybox_gets_its_address_and_all_it_needs() {
    let mut net = Internet::new();
    net.lab.ok(&[
        "gateway",
        "set",
        "br0",
        "--dhcp-range",
        "10.7.1.10-10.7.1.12",
        "--dns",
        "10.7.0.53",
        "--domain",
        "lab.example",
        "--reserve",
        "02:00:00:00:00:09=10.7.9.9",
    ]);
    let dir = net.lab.dir().to_owned();
    let a = bare(&net.lab, "a", 1);
    let env = udhcpc(&a, &dir, &["-x", "hostname:box-a"]).expect("a lease");
    let addr = value(&env, "ip").to_owned();
    assert!(addr.starts_with("10.7.1.1"), "{env}");
    for (key, want) in [
        ("router", GATEWAY4),
        ("mask", "16"),
        ("dns", "10.7.0.53"),
        ("domain", "lab.example"),
        ("mtu", "1500"),
    ] {
        assert_eq!(value(&env, key), want, "{key} in {env}");
    }
    ping::assert_reaches(&a, ip(trunkline_tests::internet::FAR4));
    let leases = net.lab.json(&["dhcp", "leases"]);
    let row =
        leases.as_array().expect("array").iter().find(|l| l["address"] == addr.as_str()).expect("listed");
    assert_eq!(
        (row["mac"].as_str(), row["hostname"].as_str()),
        (Some("02:00:00:00:00:01"), Some("box-a")),
        "{row:#}"
    );
    // The reserved one, from outside of the range.
    let reserved = bare(&net.lab, "r", 9);
    let env = udhcpc(&reserved, &dir, &[]).expect("a lease");
    assert_eq!(value(&env, "ip"), "10.7.9.9");
    // Two more, and then there are none.
    let others: Vec<_> = (2..4).map(|n| bare(&net.lab, &format!("o{n}"), n)).collect();
    let given: Vec<String> =
        others.iter().map(|ns| value(&udhcpc(ns, &dir, &[]).expect("a lease"), "ip").to_owned()).collect();
    assert!(given[0] != given[1] && !given.contains(&addr), "{given:?}");
    let last = bare(&net.lab, "last", 4);
    assert!(udhcpc(&last, &dir, &["-t", "2"]).is_err(), "a fourth address of three");
    // The same one after a restart; leases are written down within a second or so.
    std::thread::sleep(Duration::from_millis(2200));
    net.lab.daemon.kill();
    net.lab.start();
    let again = eventually(Duration::from_secs(10), || {
        let leases = net.lab.json(&["dhcp", "leases"]);
        leases.as_array().expect("array").iter().any(|l| l["address"] == addr.as_str())
    });
    assert!(again, "leases survive a restart");
    assert_eq!(value(&udhcpc(&a, &dir, &[]).expect("a lease"), "ip"), addr);
    net.lab.assert_conserved();
}

/// RFC 2131 §2.2: it is asked for before it is offered.
#[test]
fn an_address_that_somebody_has_already_is_not_offered() {
    let net = Internet::new();
    net.lab.ok(&["gateway", "set", "br0", "--dhcp-range", "10.7.1.10-10.7.1.12"]);
    let squatters: Vec<_> = (0..2).map(|n| bare(&net.lab, &format!("s{n}"), 20 + n)).collect();
    for (n, ns) in squatters.iter().enumerate() {
        ns.sh(&format!("ip address add 10.7.1.{}/16 dev eth0", 10 + 2 * n));
    }
    let a = bare(&net.lab, "a", 1);
    let env = udhcpc(&a, net.lab.dir(), &[]).expect("a lease");
    assert_eq!(value(&env, "ip"), "10.7.1.11", "the only one that is free");
    // It has it itself now, and is offered it again.
    let env = udhcpc(&a, net.lab.dir(), &[]).expect("a lease");
    assert_eq!(value(&env, "ip"), "10.7.1.11");
    net.lab.assert_conserved();
}

#[test]
fn the_kernel_makes_itself_an_address() {
    let net = Internet::new();
    net.lab.ok(&["gateway", "set", "br0", "--ra", "--mtu", "1400"]);
    let a = bare(&net.lab, "a", 1);
    let own = "fd07::ff:fe00:1";
    let seen = eventually(Duration::from_secs(15), || {
        a.sh("ip -6 address show dev eth0").contains(own)
            && a.sh("ip -6 route show").contains("default via fe80::")
    });
    let state = || a.sh("ip -6 address show dev eth0") + &a.sh("ip -6 route show");
    assert!(seen, "{}", state());
    let mtu = std::fs::read_to_string;
    assert_eq!(a.enter(|| mtu("/proc/sys/net/ipv6/conf/eth0/mtu")).expect("sysctl").trim(), "1400");
    ping::assert_reaches(&a, ip(GATEWAY6));
    ping::assert_reaches(&a, ip(trunkline_tests::internet::FAR6));
    let refused = udp_ask(&a, 0, at(GATEWAY6, 9), 10).expect_err("nobody serves that");
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    net.lab.assert_conserved();
    net.lab.ok(&["nat", "del", "masquerade-10.7.0.0-16"]);
    // When it stops, or goes, it says so (RFC 4861 §6.2.5).
    for (away, back) in [
        (&["gateway", "set", "br0", "--ra=false"][..], &["gateway", "set", "br0", "--ra=true"][..]),
        (&["gateway", "del", "br0"], &["gateway", "add", "br0", "--address", "fd07::ffff/64", "--ra"]),
    ] {
        let has_router = || a.sh("ip -6 route show").contains("default via fe80::");
        net.lab.ok(away);
        assert!(eventually(Duration::from_secs(5), || !has_router()), "{away:?}: {}", state());
        net.lab.ok(back);
        assert!(eventually(Duration::from_secs(15), has_router), "{back:?}: {}", state());
    }
}
