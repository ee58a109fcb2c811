//! The far ends of the tunnel tests against each other: what they cannot do among themselves says nothing
//! about Trunkline.

use trunkline_tests::guest::Guest;
use trunkline_tests::ovs::Ovs;
use trunkline_tests::ping;
use trunkline_tests::transfer::{assert_tcp, assert_udp_echo};
use trunkline_tests::underlay::{Family, Underlay};
use trunkline_tests::vxlan::VxlanHost;

#[test]
fn kernel_vxlan_to_kernel_vxlan() {
    let under = Underlay::switched("kk-under");
    for (family, csum) in [(Family::V4, "udpcsum"), (Family::V4, "noudpcsum"), (Family::V6, "")] {
        let args = format!("id 77 dstport 4789 {csum}");
        let a = VxlanHost::new("kk-a", &under, 1, 2, family, &args);
        let b = VxlanHost::new("kk-b", &under, 2, 1, family, &args);
        ping::assert_reaches(&a.ns, b.v4);
        ping::assert_reaches(&b.ns, a.v6);
        assert_tcp(&a.ns, &b.ns, b.v4, 20_000_000);
        assert_udp_echo(&a.ns, &b.ns, b.v6, [1, 1000, 1400].into_iter());
    }
}

#[test]
fn ovs_to_ovs() {
    let under = Underlay::switched("oo-under");
    let (a, b) = (Ovs::new("oo-a"), Ovs::new("oo-b"));
    a.join(&under, 1);
    b.join(&under, 2);
    let ca = a.container("oo-ca", "c", &["10.7.0.1/16", "fd07::1/64"], "");
    let cb = b.container("oo-cb", "c", &["10.7.0.2/16", "fd07::2/64"], "");
    for c in [&ca, &cb] {
        c.sh("ip link set eth0 mtu 1400");
    }
    for (kind, options) in [("gre", "key=7 csum=true"), ("vxlan", "key=77"), ("geneve", "key=77")] {
        a.tunnel("tun", kind, &format!("remote_ip={} {options}", under.v4(2)));
        b.tunnel("tun", kind, &format!("remote_ip={} {options}", under.v4(1)));
        ping::assert_reaches(&ca, "10.7.0.2".parse().unwrap());
        assert_tcp(&ca, &cb, "10.7.0.2".parse().unwrap(), 5_000_000);
        a.vsctl("del-port tun");
        b.vsctl("del-port tun");
    }
}

#[test]
fn guest_to_kernel_vxlan() {
    let mut guest = Guest::take();
    let host = VxlanHost::new("gk", &guest.underlay, 1, Guest::N, Family::V4, "id 77 dstport 4789");
    let local = guest.v4();
    let remote = guest.underlay.v4(1);
    guest.device("vx0", &format!("type vxlan id 77 dstport 4789 local {local} remote {remote}"));
    guest.assert_reaches(host.v4);
    guest.assert_reaches(host.v6);
    guest.assert_sends(&host.ns, host.v4, 10_000_000);
    guest.assert_receives(&host.ns, 10_000_000);
    assert_ne!(guest.run("false").code, 0);
}

#[test]
fn guest_to_ovs() {
    let mut guest = Guest::take();
    let ovs = Ovs::new("go");
    ovs.join(&guest.underlay, 3);
    let c = ovs.container("go-c", "c", &["10.7.0.1/16", "fd07::1/64"], "");
    c.sh("ip link set eth0 mtu 1400");
    let (local, remote) = (guest.v4(), guest.underlay.v4(3));
    let ends = format!("local {local} remote {remote}");
    for (kind, options, device) in [
        ("gre", "key=7 csum=true", format!("type gretap {ends} key 7 csum")),
        ("gre", "key=7 seq=true", format!("type gretap {ends} key 7 seq")),
        ("gre", "", format!("type gretap {ends}")),
        ("geneve", "key=77", format!("type geneve id 77 remote {remote}")),
        ("vxlan", "key=77", format!("type vxlan id 77 dstport 4789 {ends}")),
    ] {
        ovs.tunnel("tun", kind, &format!("remote_ip={local} {options}"));
        guest.device("tun0", &device);
        guest.ip("link set tun0 mtu 1400");
        guest.assert_reaches("10.7.0.1".parse().unwrap());
        guest.assert_sends(&c, "10.7.0.1".parse().unwrap(), 2_000_000);
        ovs.vsctl("del-port tun");
        guest.ip("link del tun0");
    }
}
