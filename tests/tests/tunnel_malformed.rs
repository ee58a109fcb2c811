//! Packets from the underlay that a tunnel must take or refuse, each made by scapy.

use std::time::Duration;

use trunkline_tests::capture::{Capture, Direction};
use trunkline_tests::frame::mac_text;
use trunkline_tests::raw::Raw;
use trunkline_tests::underlay::{Family, Underlay};
use trunkline_tests::{Lab, Netns, scapy, tunnel};

const US: u8 = 1;
const THEM: u8 = 2;
const STRANGER: u8 = 3;

/// What carries the tunnels.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Below {
    Sockets,
    Uplink,
}
use Below::{Sockets, Uplink};

/// Sends every case of a kind from the far end, one by one; looks at counters and at what comes out.
fn cases(kind: &str, family: Family, below: Below, tunnels: impl Fn(&Lab, &[&str])) {
    let (below, options) = match below {
        Sockets => ("sockets", &[][..]),
        Uplink => ("uplink", &["--underlay", "up"][..]),
    };
    let name = format!("mal-{kind}-{family:?}-{below}");
    let under = Underlay::switched(&name);
    let lab = if options.is_empty() { tunnel::host(&under, US) } else { tunnel::uplink_host(&under, US) };
    let far = Netns::new(&format!("{name}-far"));
    under.join(&far, THEM);
    let at = |n| under.address(n, family).to_string();
    tunnels(&lab, &[&["--remote", &at(THEM)], options].concat());
    let a = tunnel::container(&lab, "a");
    let mac = |n: u8| mac_text([0x02, 0xaa, 0, 0, 0, n]);
    let ends = [mac(US), at(US), mac(THEM), at(THEM), at(STRANGER)];
    let ends = ends.each_ref().map(String::as_str);
    let list = scapy::cases("malformed.py", &[&[kind], &ends[..], &[below]].concat());
    let mut raw = Raw::open(&far, "u0");
    let capture = Capture::start(&a.ns, "eth0", Direction::In, "");
    let mut expected = std::collections::BTreeMap::new();
    for case in &list {
        case.frames.iter().for_each(|f| raw.send(f));
        if let Some(reason) = &case.reason {
            let count = expected.entry(reason.clone()).or_insert(0);
            *count += case.frames.len() as u64;
            eprintln!("{kind} {family:?}: {}", case.name);
            tunnel::await_drops(&lab, reason, *count);
        }
    }
    let seen = capture.stop_when_quiet(Duration::from_millis(500));
    for case in list.iter().filter(|c| !c.name.starts_with("ecn ")) {
        let arrived = seen.with_text(&case.name).len();
        assert_eq!(arrived, usize::from(case.reason.is_none()), "{kind} over {family:?}: {}", case.name);
    }
    ecn(&seen.frames);
    lab.assert_conserved();
}

/// RFC 6040 §4.2, figure 4: what came out, by the inner mark that went in. The address tells: 10.7.66.(2 + in).
fn ecn(frames: &[Vec<u8>]) {
    let marks = |inside: u8| {
        let to = [10, 7, 66, inside + 2];
        let mut marks: Vec<u8> = frames
            .iter()
            .filter(|f| f[12..14] == [0x08, 0x00] && f[30..34] == to)
            .map(|f| {
                let sum: u32 = f[14..34].chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
                assert_eq!(sum % 0xffff, 0, "the inner IPv4 checksum");
                f[15] & 3
            })
            .collect();
        marks.sort_unstable();
        marks
    };
    assert_eq!(marks(0), [0], "not-ECT in ECT(0); in CE it is dropped");
    assert_eq!(marks(1), [3], "ECT(1) in CE");
    assert_eq!(marks(2), [1, 2, 3], "ECT(0) in ECT(1), not-ECT and CE");
    assert_eq!(marks(3), [3], "CE in not-ECT");
}

fn vxlan(family: Family, below: Below) {
    cases("vxlan", family, below, |lab, rest| {
        lab.ok(&[&["port", "add", "br0", "vx0", "--type", "vxlan", "--vni", "77"], rest].concat());
    });
}

fn geneve(family: Family, below: Below) {
    cases("geneve", family, below, |lab, rest| {
        lab.ok(&[&["port", "add", "br0", "gnv0", "--type", "geneve", "--vni", "77"], rest].concat());
    });
}

fn gre(family: Family, below: Below) {
    cases("gre", family, below, |lab, rest| {
        let add = |port: &str, key: &str, more: &[&str]| {
            let args = ["port", "add", "br0", port, "--type", "gre", "--key", key];
            lab.ok(&[&args[..], more, rest].concat());
        };
        add("gre7", "7", &[]);
        add("gre8", "8", &["--csum"]);
        add("gre9", "9", &["--seq"]);
    });
}

#[test]
fn vxlan_over_ipv4() {
    vxlan(Family::V4, Sockets);
}

#[test]
fn vxlan_over_ipv6() {
    vxlan(Family::V6, Sockets);
}

#[test]
fn geneve_over_ipv4() {
    geneve(Family::V4, Sockets);
}

#[test]
fn geneve_over_ipv6() {
    geneve(Family::V6, Sockets);
}

#[test]
fn gre_over_ipv4() {
    gre(Family::V4, Sockets);
}

#[test]
fn gre_over_ipv6() {
    gre(Family::V6, Sockets);
}

#[test]
fn over_ipv4_by_an_uplink() {
    vxlan(Family::V4, Uplink);
    geneve(Family::V4, Uplink);
    gre(Family::V4, Uplink);
}

#[test]
fn over_ipv6_by_an_uplink() {
    vxlan(Family::V6, Uplink);
    geneve(Family::V6, Uplink);
    gre(Family::V6, Uplink);
}
