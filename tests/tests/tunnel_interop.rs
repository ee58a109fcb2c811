//! Tunnels to Open vSwitch with its userspace datapath.

use trunkline_tests::check::Sums;
use trunkline_tests::ovs::Ovs;
use trunkline_tests::transfer::{assert_tcp, assert_udp_echo};
use trunkline_tests::underlay::{Family, Underlay};
use trunkline_tests::{Lab, Netns, ping, tunnel};

const MIB: u64 = 1 << 20;

/// A lab and an Open vSwitch, hosts 1 and 2.
struct Bench {
    under: Underlay,
    lab: Lab,
    ovs: Ovs,
    name: String,
}

impl Bench {
    fn new(name: &str) -> Bench {
        let under = Underlay::switched(&format!("{name}-under"));
        let lab = tunnel::host(&under, 1);
        let ovs = Ovs::new(&format!("{name}-ovs"));
        ovs.join(&under, 2);
        Bench { under, lab, ovs, name: name.into() }
    }

    /// A container of Open vSwitch: 10.7.9.N, with an MTU that suits every tunnel.
    fn far(&self, n: u8, column: &str) -> Netns {
        let addresses = [format!("10.7.9.{n}/16"), format!("fd07::9{n:02}/64")];
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        let c = self.ovs.container(&format!("{}-c{n}", self.name), &format!("c{n}"), &addresses, column);
        c.sh("ip link set eth0 mtu 1400");
        c
    }

    fn connect(&self, family: Family, kind: &str, ours: &str, theirs: &str) {
        let (us, them) = (self.under.address(1, family), self.under.address(2, family));
        let them = them.to_string();
        let mut args = vec!["port", "add", "br0", "tun", "--type", kind, "--remote", &them];
        args.extend(ours.split_whitespace());
        self.lab.ok(&args);
        // To it, NVGRE is GRE with a key: the VSID and, in the low byte, a flow identifier (RFC 7637 §3.2).
        let kind = if kind == "nvgre" { "gre" } else { kind };
        self.ovs.tunnel("tun", kind, &format!("remote_ip={us} {theirs}"));
    }

    /// Takes the tunnel away, once nothing that came through it is missing since `before`.
    fn disconnect(&self, before: &Sums) {
        self.lab.assert_conserved_since(before);
        self.lab.ok(&["port", "del", "tun"]);
        self.ovs.vsctl("del-port tun");
    }
}

/// Every sort of tunnel with its options, one after the other between the same two hosts.
fn untagged(family: Family, sorts: &[(&str, &str, &str)]) {
    let bench = Bench::new(&format!("ovs-{family:?}"));
    let a = tunnel::container(&bench.lab, "a");
    let c = bench.far(1, "");
    let (v4, v6) = ("10.7.9.1".parse().unwrap(), "fd07::901".parse().unwrap());
    for (kind, ours, theirs) in sorts {
        eprintln!("{family:?}: {kind} {ours}");
        let before = bench.lab.sums();
        bench.connect(family, kind, ours, theirs);
        ping::assert_reaches(&a.ns, v4);
        ping::assert_reaches(&a.ns, v6);
        ping::assert_reaches(&c, a.v4);
        assert_tcp(&a.ns, &c, v4, 20 * MIB);
        assert_tcp(&c, &a.ns, a.v4, 20 * MIB);
        assert_udp_echo(&a.ns, &c, v4, [1, 64, 1000, 1372].into_iter());
        bench.disconnect(&before);
    }
}

#[test]
fn over_ipv4() {
    let sorts = [
        ("gre", "", ""),
        ("gre", "--key 7", "key=7"),
        ("gre", "--key 7 --csum", "key=7 csum=true"),
        ("gre", "--key 7 --seq", "key=7 seq=true"),
        ("nvgre", "--vni 4096", "in_key=flow out_key=1048576"),
        ("vxlan", "--vni 77", "key=77"),
        ("vxlan", "--vni 77 --udp-csum --dst-port 8472", "key=77 csum=true dst_port=8472"),
        ("geneve", "--vni 77", "key=77"),
        ("geneve", "--vni 77 --udp-csum", "key=77 csum=true"),
    ];
    untagged(Family::V4, &sorts);
}

#[test]
fn over_ipv6() {
    let sorts = [
        ("gre", "--key 7 --csum", "key=7 csum=true"),
        ("vxlan", "--vni 77", "key=77 csum=true"),
        ("geneve", "--vni 77", "key=77 csum=true"),
    ];
    untagged(Family::V6, &sorts);
}

/// Several VLANs in one tunnel that carries the tags.
#[test]
fn tagged_frames() {
    let bench = Bench::new("ovs-tag");
    let ten = tunnel::container_with(&bench.lab, "ten", &["--vlan", "10"]);
    let twenty = tunnel::container_with(&bench.lab, "twenty", &["--vlan", "20"]);
    let (c10, c20) = (bench.far(1, "tag=10"), bench.far(2, "tag=20"));
    let at = |n: u8| format!("10.7.9.{n}").parse().unwrap();
    for (kind, ours, theirs) in [("gre", "--key 7", "key=7"), ("geneve", "--vni 77", "key=77")] {
        let before = bench.lab.sums();
        bench.connect(Family::V4, kind, ours, theirs);
        ping::assert_reaches(&ten.ns, at(1));
        ping::assert_reaches(&c20, twenty.v4);
        assert_tcp(&ten.ns, &c10, at(1), 5 * MIB);
        assert_tcp(&c20, &twenty.ns, twenty.v4, 5 * MIB);
        ping::assert_isolated(&ten.ns, at(2));
        ping::assert_isolated(&c20, ten.v4);
        bench.disconnect(&before);
    }
    // RFC 7348 §6.1: "the inner VLAN tag SHOULD NOT be included"; a frame with one is discarded unless
    // configured otherwise.
    let before = bench.lab.sums();
    bench.connect(Family::V4, "vxlan", "--vni 77", "key=77");
    ping::assert_isolated(&c10, ten.v4);
    assert!(tunnel::drops(&bench.lab, "inner-tag") > 0);
    bench.disconnect(&before);
}

/// A port for many keys or VNIs, each a VLAN here and a tunnel port with a tag there.
#[test]
fn vlan_map() {
    let bench = Bench::new("ovs-map");
    let ten = tunnel::container_with(&bench.lab, "ten", &["--vlan", "10"]);
    let twenty = tunnel::container_with(&bench.lab, "twenty", &["--vlan", "20"]);
    let thirty = tunnel::container_with(&bench.lab, "thirty", &["--vlan", "30"]);
    let (c10, c20) = (bench.far(1, "tag=10"), bench.far(2, "tag=20"));
    let at = |n: u8| format!("10.7.9.{n}").parse().unwrap();
    let (us, them) = (bench.under.v4(1), bench.under.v4(2));
    for kind in ["vxlan", "geneve", "gre"] {
        let before = bench.lab.sums();
        let map = ["--vlan-map", "10=1010,20=2020", "--remote", &them];
        bench.lab.ok(&[&["port", "add", "br0", "tun", "--type", kind][..], &map].concat());
        for vlan in [10, 20] {
            bench.ovs.tunnel(&format!("t{vlan}"), kind, &format!("remote_ip={us} key={vlan}{vlan}"));
            bench.ovs.vsctl(&format!("set port t{vlan} tag={vlan}"));
        }
        ping::assert_reaches(&ten.ns, at(1));
        ping::assert_reaches(&c20, twenty.v4);
        assert_tcp(&ten.ns, &c10, at(1), 5 * MIB);
        assert_tcp(&c10, &ten.ns, ten.v4, 5 * MIB);
        assert_tcp(&c20, &twenty.ns, twenty.v4, 5 * MIB);
        ping::assert_isolated(&ten.ns, at(2));
        ping::assert_isolated(&thirty.ns, at(1));
        bench.lab.assert_conserved_since(&before);
        bench.lab.ok(&["port", "del", "tun"]);
        for vlan in [10, 20] {
            bench.ovs.vsctl(&format!("del-port t{vlan}"));
        }
    }
}
