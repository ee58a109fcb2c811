//! Tunnels to Linux: the vxlan device of this machine's kernel, and every tunnel device of a guest's.

use trunkline_tests::guest::Guest;
use trunkline_tests::transfer::{assert_tcp, assert_udp_echo};
use trunkline_tests::underlay::{Family, Underlay};
use trunkline_tests::vxlan::VxlanHost;
use trunkline_tests::{Netns, ping, tunnel};

const MIB: u64 = 1 << 20;

/// The kernel hands over whole superframes with unfinished inner checksums; nothing is switched off.
fn kernel_vxlan(name: &str, family: Family, device: &str, ours: &[&str]) {
    let under = Underlay::switched(&format!("kv-{name}"));
    let lab = tunnel::host(&under, 1);
    let far = under.address(2, family).to_string();
    lab.ok(
        &[&["port", "add", "br0", "vx0", "--type", "vxlan", "--vni", "77", "--remote", &far], ours].concat()
    );
    let a = tunnel::container(&lab, "a");
    let b = VxlanHost::new(
        &format!("kv-{name}-b"),
        &under,
        2,
        1,
        family,
        &format!("id 77 dstport 4789 {device}"),
    );
    tunnel::await_mtu(&lab, &a, if family == Family::V4 { 1450 } else { 1430 });
    ping::assert_reaches(&a.ns, b.v4);
    ping::assert_reaches(&a.ns, b.v6);
    ping::assert_reaches(&b.ns, a.v4);
    ping::assert_reaches(&b.ns, a.v6);
    assert_tcp(&a.ns, &b.ns, b.v4, 100 * MIB);
    assert_tcp(&b.ns, &a.ns, a.v4, 100 * MIB);
    assert_tcp(&a.ns, &b.ns, b.v6, 20 * MIB);
    assert_tcp(&b.ns, &a.ns, a.v6, 20 * MIB);
    assert_udp_echo(&a.ns, &b.ns, b.v4, [1, 64, 1000, 1400, 1422, 1423, 8000, 60_000].into_iter());
    assert_udp_echo(&b.ns, &a.ns, a.v6, [1, 64, 1000, 1380, 8000, 60_000].into_iter());
    lab.assert_conserved();
}

#[test]
fn kernel_vxlan_with_udp_checksums() {
    kernel_vxlan("csum", Family::V4, "udpcsum", &["--udp-csum"]);
}

#[test]
fn kernel_vxlan_without_udp_checksums() {
    kernel_vxlan("nocsum", Family::V4, "noudpcsum", &[]);
}

#[test]
fn kernel_vxlan_over_ipv6() {
    kernel_vxlan("v6", Family::V6, "", &[]);
}

#[test]
fn kernel_vxlan_over_ipv6_without_udp_checksums() {
    kernel_vxlan("v6zero", Family::V6, "udp6zerocsumtx udp6zerocsumrx", &["--zero-csum6"]);
}

/// Superframes of a container behind a bridge of the other kernel.
#[test]
fn kernel_vxlan_and_bridge() {
    let under = Underlay::switched("kvb");
    let lab = tunnel::host(&under, 1);
    lab.ok(&["port", "add", "br0", "vx0", "--type", "vxlan", "--vni", "77", "--remote", &under.v4(2)]);
    let a = tunnel::container(&lab, "a");
    let b = VxlanHost::new("kvb-b", &under, 2, 1, Family::V4, "id 77 dstport 4789");
    let c = Netns::new("kvb-c");
    b.ns.sh("ip address flush dev vx0");
    b.ns.sh("ip link add name bridge0 type bridge");
    b.ns.sh("ip link set bridge0 up");
    b.ns.sh("ip link set vx0 master bridge0");
    b.ns.sh("ip link add name c type veth peer name eth0 mtu 1450 netns kvb-c");
    b.ns.sh("ip link set c mtu 1450 master bridge0 up");
    c.sh("ip address add 10.7.8.8/16 dev eth0");
    c.sh("ip link set eth0 up");
    ping::assert_reaches(&c, a.v4);
    assert_tcp(&a.ns, &c, "10.7.8.8".parse().unwrap(), 100 * MIB);
    assert_tcp(&c, &a.ns, a.v4, 100 * MIB);
    lab.assert_conserved();
}

/// Two tunnels of a guest: for each, the `ip link` arguments and ours. `LOCAL`, `REMOTE` are the guest's words.
fn guest(family: Family, mtu: u32, tunnels: &[(&str, &str)]) {
    let mut guest = Guest::take();
    let lab = tunnel::host(&guest.underlay, 1);
    let local = guest.underlay.address(Guest::N, family).to_string();
    let remote = guest.underlay.address(1, family).to_string();
    let a = tunnel::container(&lab, "a");
    for (device, ours) in tunnels {
        eprintln!("guest: {device}; ours: {ours}");
        guest.device("tun0", &device.replace("LOCAL", &local).replace("REMOTE", &remote));
        // What fits in all of them; the guest's own idea of it differs from device to device.
        guest.ip(&format!("link set tun0 mtu {mtu}"));
        let before = lab.sums();
        let mut args = vec!["port", "add", "br0", "tun", "--remote", &local, "--type"];
        args.extend(ours.split_whitespace());
        lab.ok(&args);
        ping::assert_reaches(&a.ns, Guest::INNER.parse().unwrap());
        ping::assert_reaches(&a.ns, Guest::INNER6.parse().unwrap());
        guest.assert_reaches(a.v4);
        guest.assert_sends(&a.ns, a.v4, 3_000_000);
        guest.assert_receives(&a.ns, 3_000_000);
        lab.assert_conserved_since(&before);
        lab.ok(&["port", "del", "tun"]);
        guest.ip("link del tun0");
    }
}

#[test]
fn guest_gretap() {
    guest(
        Family::V4,
        1400,
        &[
            ("type gretap local LOCAL remote REMOTE", "gre"),
            ("type gretap local LOCAL remote REMOTE key 7", "gre --key 7"),
            ("type gretap local LOCAL remote REMOTE key 7 csum", "gre --key 7 --csum"),
            ("type gretap local LOCAL remote REMOTE csum", "gre --csum"),
            ("type gretap local LOCAL remote REMOTE key 7 seq", "gre --key 7 --seq"),
            (
                "type gretap local LOCAL remote REMOTE key 4294967295 csum seq",
                "gre --key 4294967295 --csum --seq",
            ),
        ],
    );
}

#[test]
fn guest_ip6gretap() {
    guest(
        Family::V6,
        1400,
        &[
            ("type ip6gretap local LOCAL remote REMOTE encaplimit none", "gre"),
            ("type ip6gretap local LOCAL remote REMOTE encaplimit none key 7", "gre --key 7"),
            (
                "type ip6gretap local LOCAL remote REMOTE encaplimit none key 7 csum seq",
                "gre --key 7 --csum --seq",
            ),
            // With the option of RFC 2473 in front of the GRE header.
            ("type ip6gretap local LOCAL remote REMOTE key 7", "gre --key 7"),
        ],
    );
}

#[test]
fn guest_geneve_and_vxlan() {
    let tunnels = [
        ("type geneve id 77 remote REMOTE udpcsum", "geneve --vni 77"),
        ("type geneve id 16777215 remote REMOTE dstport 6082", "geneve --vni 16777215 --dst-port 6082"),
        ("type vxlan id 77 dstport 4789 local LOCAL remote REMOTE udpcsum", "vxlan --vni 77"),
        ("type vxlan id 77 dstport 8472 local LOCAL remote REMOTE", "vxlan --vni 77 --dst-port 8472"),
    ];
    guest(Family::V4, 1400, &tunnels[..]);
}

#[test]
fn guest_geneve_and_vxlan_over_ipv6() {
    let tunnels = [
        ("type geneve id 77 remote REMOTE", "geneve --vni 77"),
        ("type geneve id 77 remote REMOTE udp6zerocsumtx udp6zerocsumrx", "geneve --vni 77 --zero-csum6"),
        ("type vxlan id 77 dstport 4789 local LOCAL remote REMOTE", "vxlan --vni 77"),
    ];
    guest(Family::V6, 1380, &tunnels[..]);
}
