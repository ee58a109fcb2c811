//! Tunnels over a port of the switch: outer addresses, ARP, routes and fragments in userspace, no kernel below.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use trunkline_tests::capture::{Capture, Direction};
use trunkline_tests::internet::{Echo, tcp_seen_as, udp_seen_as};
use trunkline_tests::ovs::Ovs;
use trunkline_tests::transfer::{Transfer, assert_tcp, assert_udp_echo};
use trunkline_tests::underlay::{Family, Underlay};
use trunkline_tests::vxlan::VxlanHost;
use trunkline_tests::{Container, Lab, ping, tunnel};

const MIB: u64 = 1 << 20;

/// Adds a tunnel `tun` over the uplink, or over sockets.
fn add(lab: &Lab, over_uplink: bool, line: &str, far: &str) {
    let mut args = vec!["port", "add", "br0", "tun", "--remote", far];
    args.extend(line.split_whitespace());
    if over_uplink {
        args.extend(["--underlay", "up"]);
    }
    lab.ok(&args);
}

/// What carries a host's tunnels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    Sockets,
    Own,
    Shared,
}

impl By {
    fn host(self, under: &Underlay, n: u8) -> Lab {
        match self {
            By::Sockets => tunnel::host(under, n),
            By::Own => tunnel::uplink_host(under, n),
            By::Shared => tunnel::shared_host(under, n),
        }
    }
}

/// A tunnel between two hosts.
fn between_two(name: &str, family: Family, line: &str, by: [By; 2]) {
    eprintln!("{name}: {line}");
    let under = Underlay::switched(&format!("up-{name}"));
    let (one, two) = (by[0].host(&under, 1), by[1].host(&under, 2));
    add(&one, by[0] != By::Sockets, line, &under.address(2, family).to_string());
    add(&two, by[1] != By::Sockets, line, &under.address(1, family).to_string());
    // That a host's own stack complains is what nobody may see.
    let complaints = Capture::start(&under.ns, "hub", Direction::Both, COMPLAINT);
    let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
    ping::assert_reaches(&a.ns, b.v4);
    ping::assert_reaches(&b.ns, a.v6);
    assert_tcp(&a.ns, &b.ns, b.v4, 50 * MIB);
    assert_tcp(&b.ns, &a.ns, a.v6, 50 * MIB);
    assert_udp_echo(&a.ns, &b.ns, b.v4, [1, 64, 1000, 1400, 8000, 60_000].into_iter());
    one.assert_conserved();
    two.assert_conserved();
    let seen = complaints.stop_when_quiet(Duration::from_millis(200));
    assert_eq!(seen.frames.len(), 0, "a host's own stack answered: {:x?}", seen.frames);
}

/// "Destination unreachable", but for "fragmentation needed"; the same of IPv6, and its "unknown next header".
const COMPLAINT: &str = "(icmp[0] = 3 and icmp[1] != 4) or icmp6[0] = 1 or icmp6[0] = 4";

#[test]
fn two_uplinks() {
    let by = [By::Own, By::Own];
    between_two("uu-vx4", Family::V4, "--type vxlan --vni 77", by);
    between_two("uu-gre4", Family::V4, "--type gre --key 7 --csum --seq", by);
    between_two("uu-gnv6", Family::V6, "--type geneve --vni 77", by);
}

#[test]
fn an_uplink_and_sockets() {
    let by = [By::Own, By::Sockets];
    between_two("us-vx6", Family::V6, "--type vxlan --vni 77", by);
    between_two("us-gre4", Family::V4, "--type gre --key 7 --csum", by);
    between_two("us-gnv4", Family::V4, "--type geneve --vni 77 --udp-csum", by);
    between_two("us-bfd", Family::V4, "--type vxlan --vni 77 --bfd", by);
}

/// The host's address and routes, its kernel's sockets not.
#[test]
fn shared_uplinks() {
    between_two("ss-vx4", Family::V4, "--type vxlan --vni 77 --bfd", [By::Shared, By::Shared]);
    between_two("ss-gre6", Family::V6, "--type gre --key 7", [By::Shared, By::Sockets]);
    between_two("ss-gre4", Family::V4, "--type gre --key 7 --csum --mtu 1500", [By::Shared, By::Own]);
    between_two("ss-gnv6", Family::V6, "--type geneve --vni 77", [By::Shared, By::Sockets]);
}

/// What a tunnel over a shared uplink takes from the host, it takes alone and gives back.
#[test]
fn a_shared_uplink_and_the_host() {
    let under = Underlay::routed("up-share");
    let (one, two) = (tunnel::shared_host(&under, 1), tunnel::host(&under, 2));
    let line = "--type vxlan --vni 77 --bfd";
    let (near, far) = (under.address(1, Family::V4), under.address(2, Family::V4));
    // A socket of the host's has the port.
    let taken = one.ns.enter(|| UdpSocket::bind("0.0.0.0:4789")).expect("bind");
    let args =
        ["port", "add", "br0", "tun", "--type", "vxlan", "--vni", "77", "--underlay", "up", "--remote"];
    let remote = far.to_string();
    let args = [&args[..], &[&remote]].concat();
    one.fails(&args, &["uplink up", "a process of this host uses port 4789"]);
    drop(taken);
    add(&one, true, line, &far.to_string());
    add(&two, false, line, &near.to_string());
    let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
    ping::assert_reaches(&a.ns, b.v4);
    // The host itself goes on: by the same address, also on other UDP ports.
    let _service = Echo::start(&one.ns, 22);
    ping::assert_reaches(&two.ns, near);
    tcp_seen_as(&two.ns, SocketAddr::new(near, 22));
    assert_eq!(udp_seen_as(&two.ns, SocketAddr::new(near, 22)).ip(), far);
    // Sockets for the same port would hear nothing.
    one.ok(&["bridge", "add", "br1"]);
    let also = ["port", "add", "br1", "also", "--type", "vxlan", "--vni", "78", "--remote", "198.18.9.2"];
    one.fails(&also, &["UDP port 4789", "shared with the host"]);
    // A path that shrinks, as on any uplink.
    shrinks_under_load(&under, (&one, &a), (&two, &b));
    // To the sockets and back, while it runs.
    one.ok(&["port", "set", "tun", "--underlay", "none"]);
    ping::assert_reaches(&a.ns, b.v4);
    one.ok(&["port", "set", "tun", "--underlay", "up"]);
    ping::assert_reaches(&a.ns, b.v4);
    one.assert_conserved();
    // Given back.
    one.ok(&["port", "del", "tun"]);
    one.ok(&also);
    one.ok(&["port", "del", "also"]);
    // Or its BFD might be heard first.
    two.ok(&["port", "del", "tun"]);
    let host = one.ns.enter(|| UdpSocket::bind("0.0.0.0:4789")).expect("bind");
    host.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
    let client = two.ns.enter(|| UdpSocket::bind("0.0.0.0:0")).expect("bind");
    client.send_to(b"hello", (near, 4789)).expect("send");
    assert_eq!(host.recv(&mut [0; 9]).expect("the port is the host's again"), 5);
}

#[test]
fn an_uplink_and_the_kernels_vxlan() {
    for (name, family, device, ours) in [
        ("c4", Family::V4, "udpcsum", "--udp-csum"),
        ("n4", Family::V4, "noudpcsum", ""),
        ("c6", Family::V6, "", ""),
    ] {
        let under = Underlay::switched(&format!("up-k{name}"));
        let lab = tunnel::uplink_host(&under, 1);
        let far = under.address(2, family).to_string();
        add(&lab, true, &format!("--type vxlan --vni 77 {ours}"), &far);
        let a = tunnel::container(&lab, "a");
        let device = format!("id 77 dstport 4789 {device}");
        let b = VxlanHost::new(&format!("up-k{name}-b"), &under, 2, 1, family, &device);
        ping::assert_reaches(&a.ns, b.v4);
        ping::assert_reaches(&b.ns, a.v6);
        assert_tcp(&a.ns, &b.ns, b.v4, 50 * MIB);
        assert_tcp(&b.ns, &a.ns, a.v4, 50 * MIB);
        lab.assert_conserved();
    }
}

#[test]
fn an_uplink_and_open_vswitch() {
    let under = Underlay::switched("up-ovs");
    let lab = tunnel::uplink_host(&under, 1);
    let ovs = Ovs::new("up-ovs-b");
    ovs.join(&under, 2);
    let c = ovs.container("up-ovs-c", "c", &["10.7.9.1/16"], "");
    c.sh("ip link set eth0 mtu 1400");
    let a = tunnel::container(&lab, "a");
    add(&lab, true, "--type gre --key 7 --csum", &under.v4(2));
    ovs.tunnel("tun", "gre", &format!("remote_ip={} key=7 csum=true", under.v4(1)));
    let to = "10.7.9.1".parse().unwrap();
    ping::assert_reaches(&a.ns, to);
    assert_tcp(&a.ns, &c, to, 20 * MIB);
    assert_tcp(&c, &a.ns, a.v4, 20 * MIB);
    lab.assert_conserved();
}

/// The outer packets come in fragments, as the inner MTU is given and the path takes less.
#[test]
fn outer_fragments_are_put_together() {
    for family in [Family::V4, Family::V6] {
        let under = Underlay::switched(&format!("up-frag-{family:?}"));
        let (one, two) = (tunnel::uplink_host(&under, 1), tunnel::host(&under, 2));
        let line = "--type vxlan --vni 77 --mtu 1500";
        add(&one, true, line, &under.address(2, family).to_string());
        add(&two, false, line, &under.address(1, family).to_string());
        let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
        tunnel::await_mtu(&one, &a, 1500);
        tunnel::await_mtu(&two, &b, 1500);
        ping::assert_reaches(&a.ns, b.v4);
        let whole = ping::ping(&a.ns, b.v4, 5, 0.1, &["-M", "do", "-s", "1472"]);
        assert_eq!(whole.lost(), 0, "{whole:?}");
        assert_tcp(&a.ns, &b.ns, b.v4, 10 * MIB);
        assert_tcp(&b.ns, &a.ns, a.v4, 10 * MIB);
        one.assert_conserved();
        two.assert_conserved();
    }
}

/// The second host's link takes 100 bytes less while a stream runs: it arrives whole, and the first host's container
/// gets the smaller MTU.
fn shrinks_under_load(under: &Underlay, (one, a): (&Lab, &Container), (two, b): (&Lab, &Container)) {
    let before = tunnel::mtu(a);
    let load = Transfer::start(&a.ns, &b.ns, b.v4, 40 * MIB, Some(15_000_000));
    std::thread::sleep(Duration::from_millis(500));
    under.set_mtu(2, 1400);
    two.ns.sh("ip link set u0 mtu 1400");
    load.assert_whole(Duration::from_secs(120), 40 * MIB);
    tunnel::await_mtu(one, a, before - 100);
}

/// Routes and path MTU are the switch's own business.
#[test]
fn a_router_says_that_the_path_shrank() {
    for (family, line) in [(Family::V4, "--type gre --key 7"), (Family::V6, "--type vxlan --vni 77")] {
        let under = Underlay::routed(&format!("up-icmp-{family:?}"));
        let (one, two) = (tunnel::uplink_host(&under, 1), tunnel::host(&under, 2));
        add(&one, true, line, &under.address(2, family).to_string());
        add(&two, false, line, &under.address(1, family).to_string());
        let (a, b) = (tunnel::container(&one, "a"), tunnel::container(&two, "b"));
        ping::assert_reaches(&a.ns, b.v4);
        shrinks_under_load(&under, (&one, &a), (&two, &b));
        assert_tcp(&b.ns, &a.ns, a.v4, 10 * MIB);
        one.assert_conserved();
    }
}
