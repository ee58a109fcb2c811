//! A full mesh of hosts.

use std::time::{Duration, Instant};

use trunkline_tests::capture::{Capture, Direction};
use trunkline_tests::frame::{BROADCAST, experiment, mac};
use trunkline_tests::mesh::Mesh;
use trunkline_tests::ping::{self, Pinger};
use trunkline_tests::raw::Raw;
use trunkline_tests::transfer::{GIB, Transfer};
use trunkline_tests::underlay::{Family, Underlay};
use trunkline_tests::{eventually, tunnel};

const MIB: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(180);
/// That a peer is gone or back is noticed by BFD, after 300 ms three times: by nothing else within minutes. The rest is
/// for a machine where BFD's thread has to wait for its turn.
const NOTICED: Duration = Duration::from_secs(20);

fn six(name: &str, family: Family, args: &[&str]) -> Mesh {
    let mesh = Mesh::new(Underlay::switched(name), 6, family, args);
    mesh.await_all_up();
    mesh
}

/// Every pair reaches each other; the containers have the MTU.
fn every_pair(mesh: &Mesh, mtu: u32) {
    for (i, from) in mesh.hosts.iter().enumerate() {
        tunnel::await_mtu(&from.lab, &from.c, mtu);
        for to in &mesh.hosts[i + 1..] {
            let to_addr = if to.n % 2 == 0 { to.c.v4 } else { to.c.v6 };
            ping::assert_reaches(&from.c.ns, to_addr);
        }
    }
}

/// Every pair, a gibibyte, and broadcasts that arrive exactly once everywhere.
fn six_hosts(mesh: &Mesh, mtu: u32) {
    every_pair(mesh, mtu);
    let start = |from: u8, to: u8, bytes: u64| {
        let (from, to) = (mesh.host(from), mesh.host(to));
        Transfer::start(&from.c.ns, &to.c.ns, to.c.v4, bytes, None)
    };
    let pairs = [(1, 2, GIB), (3, 4, 100 * MIB), (5, 6, 100 * MIB), (2, 5, 100 * MIB)];
    let running: Vec<_> = pairs.iter().map(|&(from, to, bytes)| (start(from, to, bytes), bytes)).collect();
    running.into_iter().for_each(|(transfer, bytes)| {
        transfer.assert_whole(LONG, bytes);
    });
    everywhere_once(mesh);
    mesh.hosts.iter().for_each(|h| h.lab.assert_conserved());
}

/// Broadcasts, and frames to addresses that nobody has, of every host arrive exactly once at every other.
fn everywhere_once(mesh: &Mesh) {
    let watch = |h: &trunkline_tests::mesh::Host| Capture::start(&h.c.ns, "eth0", Direction::In, "");
    let captures: Vec<Capture> = mesh.hosts.iter().map(watch).collect();
    for host in &mesh.hosts {
        let mut raw = Raw::open(&host.c.ns, "eth0");
        for round in 0..20 {
            // From the container itself, and to an address nobody has.
            raw.send(&experiment(BROADCAST, host.c.mac, &[], &format!("all {} {round}", host.n)));
            raw.send(&experiment(mac(0x777), host.c.mac, &[], &format!("unknown {} {round}", host.n)));
        }
    }
    let seen: Vec<_> = captures.into_iter().map(|c| c.stop_when_quiet(Duration::from_millis(500))).collect();
    for (at, seen) in mesh.hosts.iter().zip(&seen) {
        for from in &mesh.hosts {
            for round in 0..20 {
                for sort in ["all", "unknown"] {
                    let text = format!("{sort} {} {round}", from.n);
                    let count = seen.with_text(&text).len();
                    assert_eq!(count, usize::from(at.n != from.n), "{text:?} at host {}", at.n);
                }
            }
        }
    }
}

#[test]
fn six_hosts_with_gre() {
    let mesh = six("six-gre", Family::V4, &["--type", "gre", "--key", "7"]);
    // 1500 less IPv4, GRE with a key, Ethernet and its tag.
    six_hosts(&mesh, 1454);
    let shown = mesh.host(1).lab.ok(&["mesh", "show", "m"]);
    for n in 2..=6 {
        assert!(shown.contains(&mesh.address(n)), "{shown}");
        let peer = mesh.peer(1, n);
        assert_eq!(peer["path-mtu"], 1500, "{peer:#}");
        assert_eq!(peer["inner-mtu"], 1454, "{peer:#}");
        assert!(peer["mtu-why"].as_str().is_some_and(|w| !w.is_empty()), "{peer:#}");
        let rtt =
            eventually(Duration::from_secs(5), || mesh.peer(1, n)["rtt-us"].as_u64().is_some_and(|r| r > 0));
        assert!(rtt && mesh.peer(1, n)["loss-permille"].is_u64(), "{:#}", mesh.peer(1, n));
    }
}

#[test]
fn six_hosts_with_vxlan() {
    six_hosts(&six("six-vxlan", Family::V4, &["--type", "vxlan", "--vni", "77"]), 1450);
}

#[test]
fn three_hosts_with_geneve_over_ipv6() {
    let args = ["--type", "geneve", "--vni", "77"];
    let mesh = Mesh::new(Underlay::switched("three-geneve"), 3, Family::V6, &args);
    mesh.await_all_up();
    for (from, to) in [(1, 2), (2, 3), (3, 1)] {
        let (from, to) = (mesh.host(from), mesh.host(to));
        ping::assert_reaches(&from.c.ns, to.c.v4);
        Transfer::start(&from.c.ns, &to.c.ns, to.c.v6, 50 * MIB, None).assert_whole(LONG, 50 * MIB);
    }
    mesh.hosts.iter().for_each(|h| h.lab.assert_conserved());
}

/// Peers go and come while others talk: nobody else loses a packet.
fn peers_come_and_go(name: &str, args: &[&str]) {
    let mesh = six(name, Family::V4, args);
    let (one, two, three, six) = (mesh.host(1), mesh.host(2), mesh.host(3), mesh.host(6));
    ping::assert_reaches(&one.c.ns, two.c.v4);
    ping::assert_reaches(&one.c.ns, six.c.v4);
    let pinger = Pinger::start(&one.c.ns, two.c.v4, 0.01);
    let load = Transfer::start(&two.c.ns, &three.c.ns, three.c.v4, 100 * MIB, Some(15_000_000));
    for round in 0..3 {
        let leaver = mesh.address(6);
        for host in &mesh.hosts[..5] {
            host.lab.ok(&["mesh", "peer", "del", "m", &leaver]);
        }
        assert_eq!(one.lab.fdb_port("br0", six.c.mac), None, "the address went with its peer");
        if round == 0 {
            ping::assert_isolated(&one.c.ns, six.c.v4);
        }
        for host in &mesh.hosts[..5] {
            host.lab.ok(&["mesh", "peer", "add", "m", &leaver]);
        }
        // The one that came back may still have its old session: it goes down once, when it hears of the new one
        // (RFC 5880 §6.8.6), and a ping with it.
        mesh.await_all_up();
        ping::assert_reaches(&one.c.ns, six.c.v4);
    }
    let pings = pinger.stop();
    assert!(pings.sent > 100 && pings.lost() == 0 && pings.duplicates == 0, "{pings:?}");
    load.assert_whole(LONG, 100 * MIB);
    // At the others, counters went with their ports.
    six.lab.assert_conserved();
    // The whole list at once, without what is not in it.
    let list = [mesh.address(2), mesh.address(3)].join(",");
    one.lab.ok(&["mesh", "set", "m", "--peers", &list]);
    let shown = one.lab.json(&["mesh", "show", "m"]);
    assert_eq!(shown["peers"].as_array().map(Vec::len), Some(2), "{shown:#}");
    ping::assert_reaches(&one.c.ns, three.c.v4);
    one.lab.ok(&["mesh", "del", "m"]);
    ping::assert_isolated(&one.c.ns, two.c.v4);
    assert_eq!(one.lab.json(&["port", "list"]).as_array().map(Vec::len), Some(1));
}

#[test]
fn peers_come_and_go_with_gre() {
    peers_come_and_go("go-gre", &["--type", "gre", "--key", "7"]);
}

#[test]
fn peers_come_and_go_with_vxlan() {
    peers_come_and_go("go-vxlan", &["--type", "vxlan", "--vni", "77"]);
}

/// How often a text is in a capture; one outer superframe may hold many inner frames.
fn texts(frames: &[Vec<u8>], text: &str) -> usize {
    frames.iter().map(|f| f.windows(text.len()).filter(|w| *w == text.as_bytes()).count()).sum()
}

/// A link of the underlay is cut where nobody notices, and mended.
fn a_link_is_cut(name: &str, args: &[&str]) {
    let mesh = six(name, Family::V4, args);
    let (one, six) = (mesh.host(1), mesh.host(6));
    for host in &mesh.hosts[..5] {
        ping::assert_reaches(&host.c.ns, six.c.v4);
    }
    let pinger = Pinger::start(&one.c.ns, mesh.host(2).c.v4, 0.02);
    mesh.underlay.set_link(6, false);
    let cut = Instant::now();
    mesh.await_liveness(1, 6, "down", NOTICED);
    eprintln!("seen after {:?}", cut.elapsed());
    for host in &mesh.hosts[..5] {
        mesh.await_liveness(host.n, 6, "down", NOTICED);
        mesh.await_liveness(6, host.n, "down", NOTICED);
        assert_eq!(host.lab.fdb_port("br0", six.c.mac), None, "known to host {} still", host.n);
    }
    let outer = Capture::start(&one.lab.ns, "u0", Direction::Both, "");
    let mut raw = Raw::open(&one.c.ns, "eth0");
    for n in 0..10 {
        raw.send(&experiment(BROADCAST, one.c.mac, &[], &format!("after the cut {n}")));
    }
    // To the four that are left, and not to the fifth.
    let outer = outer.stop_when_quiet(Duration::from_millis(500));
    assert_eq!(texts(&outer.frames, "after the cut"), 40);
    assert!(one.lab.drops(&mesh.port(6), "tunnel-peer-down") >= 10, "{:#}", one.lab.stats());
    mesh.underlay.set_link(6, true);
    for host in &mesh.hosts[..5] {
        mesh.await_liveness(host.n, 6, "up", NOTICED);
        mesh.await_liveness(6, host.n, "up", NOTICED);
        ping::assert_reaches(&host.c.ns, six.c.v4);
    }
    let pings = pinger.stop();
    assert!(pings.lost() == 0, "the others noticed: {pings:?}");
    Transfer::start(&six.c.ns, &one.c.ns, one.c.v4, 50 * MIB, None).assert_whole(LONG, 50 * MIB);
    mesh.hosts.iter().for_each(|h| h.lab.assert_conserved());
}

#[test]
fn a_link_is_cut_with_gre() {
    a_link_is_cut("cut-gre", &["--type", "gre", "--key", "7"]);
}

#[test]
fn a_link_is_cut_with_vxlan() {
    a_link_is_cut("cut-vxlan", &["--type", "vxlan", "--vni", "77"]);
}

/// Over uplinks, of the switch's own and shared with the host, no kernel's sockets take part.
#[test]
fn over_uplinks() {
    for (name, args, shared) in [
        ("mesh-own", ["--type", "vxlan", "--vni", "77", "--underlay", "up"], false),
        ("mesh-shared", ["--type", "gre", "--key", "7", "--underlay", "up"], true),
    ] {
        eprintln!("{name}");
        let host = if shared { tunnel::shared_host } else { tunnel::uplink_host };
        let mesh = Mesh::of_hosts(Underlay::switched(name), 3, Family::V4, &args, host);
        mesh.await_all_up();
        every_pair(&mesh, if shared { 1454 } else { 1450 });
        let (one, three) = (mesh.host(1), mesh.host(3));
        Transfer::start(&one.c.ns, &three.c.ns, three.c.v4, 100 * MIB, None).assert_whole(LONG, 100 * MIB);
        everywhere_once(&mesh);
        mesh.underlay.set_link(3, false);
        mesh.await_liveness(1, 3, "down", NOTICED);
        assert_eq!(one.lab.fdb_port("br0", three.c.mac), None);
        mesh.underlay.set_link(3, true);
        mesh.await_liveness(1, 3, "up", NOTICED);
        ping::assert_reaches(&one.c.ns, three.c.v4);
        // A peer less, a peer more: the way to the other stays.
        let beside = Pinger::start(&one.c.ns, mesh.host(2).c.v4, 0.02);
        one.lab.ok(&["mesh", "peer", "del", "m", &mesh.address(3)]);
        ping::assert_isolated(&one.c.ns, three.c.v4);
        one.lab.ok(&["mesh", "peer", "add", "m", &mesh.address(3)]);
        ping::assert_reaches(&one.c.ns, three.c.v4);
        let pings = beside.stop();
        assert!(pings.lost() == 0 && pings.duplicates == 0, "{pings:?}");
        let sockets = one.lab.ns.sh("ss -Hlnupw");
        assert_eq!(sockets.trim(), "", "the kernel's sockets take part");
        mesh.hosts[1].lab.assert_conserved();
    }
}

/// A daemon is killed and comes back: its mesh does, too.
#[test]
fn a_host_is_killed_and_restarted() {
    let mut mesh = Mesh::new(Underlay::switched("kill"), 3, Family::V4, &["--type", "vxlan", "--vni", "77"]);
    mesh.await_all_up();
    let c2 = mesh.host(2).c.v4;
    ping::assert_reaches(&mesh.host(1).c.ns, c2);
    let beside = Pinger::start(&mesh.host(2).c.ns, mesh.host(3).c.v4, 0.02);
    let load = {
        let (one, two) = (mesh.host(1), mesh.host(2));
        Transfer::start(&one.c.ns, &two.c.ns, two.c.v4, 60 * MIB, Some(15_000_000))
    };
    std::thread::sleep(Duration::from_secs(1));
    mesh.hosts[0].lab.daemon.kill();
    mesh.await_liveness(2, 1, "down", NOTICED);
    mesh.hosts[0].lab.start();
    mesh.await_all_up();
    ping::assert_reaches(&mesh.host(1).c.ns, c2);
    load.assert_whole(LONG, 60 * MIB);
    let pings = beside.stop();
    assert_eq!(pings.lost(), 0, "{pings:?}");
    mesh.hosts.iter().for_each(|h| h.lab.assert_conserved());
    // Nothing is left of it when it is released.
    let one = &mut mesh.hosts[0];
    one.lab.release();
    assert_eq!(one.lab.ns.interfaces(), ["u0"]);
    let sockets = one.lab.ns.sh("ss -Hlnupw");
    assert_eq!(sockets.trim(), "", "sockets left");
}

/// The way to one host of six gets narrower while data flows to it: first a router says so, then, narrower still,
/// large packets vanish; meanwhile another host goes and comes. The tunnels to the others keep what they have.
#[test]
fn the_way_to_one_host_shrinks_under_load() {
    let args = ["--type", "vxlan", "--vni", "77"];
    let mesh = Mesh::new(Underlay::routed("shrink"), 6, Family::V4, &args);
    mesh.await_all_up();
    let (one, two, four) = (mesh.host(1), mesh.host(2), mesh.host(4));
    for host in &mesh.hosts {
        // Only what a wire carries, or a superframe is not counted by its packets.
        host.lab.ns.sh("ethtool -K u0 tx off tso off gso off tx-udp-segmentation off");
    }
    ping::assert_reaches(&one.c.ns, two.c.v4);
    ping::assert_reaches(&one.c.ns, four.c.v4);
    let beside = Pinger::start(&one.c.ns, two.c.v4, 0.02);
    let load = Transfer::start(&one.c.ns, &four.c.ns, four.c.v4, 60 * MIB, Some(10_000_000));
    std::thread::sleep(Duration::from_millis(500));
    mesh.underlay.set_mtu(4, 1450);
    four.lab.ns.sh("ip link set u0 mtu 1450");
    // The least of a bridge's tunnels is what its containers are told.
    tunnel::await_mtu(&one.lab, &one.c, 1400);
    mesh.underlay.ns.sh("nft add table inet hole");
    mesh.underlay.ns.sh("nft add chain inet hole forward { type filter hook forward priority 0 ; }");
    mesh.underlay.ns.sh("nft add rule inet hole forward oifname h4 meta length > 1400 drop");
    mesh.underlay.ns.sh("nft add rule inet hole forward iifname h4 meta length > 1400 drop");
    tunnel::await_mtu_in(&one.lab, &one.c, 1280..=1350, Duration::from_secs(20));
    let leaver = mesh.address(6);
    for verb in ["del", "add"] {
        for host in &mesh.hosts[..5] {
            host.lab.ok(&["mesh", "peer", verb, "m", &leaver]);
        }
    }
    load.assert_whole(LONG, 60 * MIB);
    mesh.await_all_up();
    everywhere_once(&mesh);
    tunnel::await_mtu_in(&one.lab, &one.c, 1350..=1350, Duration::from_secs(60));
    assert_eq!(mesh.peer(1, 4)["path-mtu"], 1400);
    assert_eq!(mesh.peer(1, 2)["path-mtu"], 1500);
    let pings = beside.stop();
    assert_eq!(pings.lost(), 0, "{pings:?}");
    Transfer::start(&four.c.ns, &one.c.ns, one.c.v6, 10 * MIB, None).assert_whole(LONG, 10 * MIB);
    // At the others, counters went with their ports.
    mesh.host(6).lab.assert_conserved();
}
