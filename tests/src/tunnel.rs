//! Trunkline as one end of a tunnel.

use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use crate::underlay::Underlay;
use crate::{Container, Kind, Lab, Opts, eventually};

/// Makes a lab host `n` of an underlay; its containers are 10.7.0.(10 n + 1) and so on.
pub fn host(underlay: &Underlay, n: u8) -> Lab {
    let lab = Lab::new();
    join(&lab, underlay, n);
    lab
}

/// Makes a lab that runs already host `n`.
pub fn join(lab: &Lab, underlay: &Underlay, n: u8) {
    lab.number_from(u32::from(n) * 10 + 1);
    underlay.join(&lab.ns, n);
}

/// Makes a lab host `n` whose kernel takes no part: `u0` is the uplink `up` of the switch, with the host's
/// addresses. Its tunnels need `--underlay up`.
pub fn uplink_host(underlay: &Underlay, n: u8) -> Lab {
    let lab = Lab::new();
    lab.number_from(u32::from(n) * 10 + 1);
    underlay.plug(&lab.ns, n);
    let (v4, v6) = (format!("{}/24", underlay.v4(n)), format!("{}/64", underlay.v6(n)));
    let mut args = vec!["uplink", "add", "up", "--interface", "u0", "--address", &v4, "--address", &v6];
    let routers = underlay.routers(n);
    routers.iter().for_each(|r| args.extend(["--gateway", r]));
    lab.ok(&args);
    lab
}

/// Makes a lab host `n` whose interface `u0` is shared with the switch, as the uplink `up`.
pub fn shared_host(underlay: &Underlay, n: u8) -> Lab {
    let lab = host(underlay, n);
    lab.ok(&["uplink", "add", "up", "--type", "shared", "--interface", "u0"]);
    lab
}

/// A container whose MTU is the switch's business.
pub fn container(lab: &Lab, port: &str) -> Container {
    container_with(lab, port, &[])
}

/// The same with more arguments for `trunkline port add`.
pub fn container_with(lab: &Lab, port: &str, args: &[&str]) -> Container {
    lab.container_with(Kind::Tap, port, &Opts { mtu: 0, ..Opts::args(args) })
}

/// MTU of a container's interface.
pub fn mtu(c: &Container) -> u32 {
    let link: Value = serde_json::from_str(&c.ns.sh("ip -j link show dev eth0")).expect("ip -j");
    link[0]["mtu"].as_u64().expect("mtu") as u32
}

/// Waits for the MTU of a container's interface.
pub fn await_mtu(lab: &Lab, c: &Container, expected: u32) {
    await_mtu_in(lab, c, expected..=expected, Duration::from_secs(15));
}

/// Waits until the MTU of a container's interface is one of these.
pub fn await_mtu_in(lab: &Lab, c: &Container, expected: RangeInclusive<u32>, limit: Duration) {
    let mut last = 0;
    let set = eventually(limit, || {
        last = mtu(c);
        expected.contains(&last)
    });
    assert!(set, "MTU of {} is {last}, not {expected:?}; ports: {:#}", c.port, lab.json(&["port", "list"]));
}

/// What a tunnel to one remote with BFD takes that one for: `up`, `down` …
pub fn liveness(lab: &Lab, tunnel: &str) -> Value {
    lab.json(&["port", "show", tunnel])["peers"][0]["liveness"].clone()
}

/// Waits until a tunnel takes its remote for this.
pub fn await_liveness(lab: &Lab, tunnel: &str, expected: &str) {
    let seen = eventually(Duration::from_secs(10), || liveness(lab, tunnel) == expected);
    assert!(seen, "not {expected}: {:#}", lab.json(&["port", "show", tunnel]));
}

/// Drops for a reason, of all ports together: a packet that belongs to no tunnel belongs to no port.
pub fn drops(lab: &Lab, reason: &str) -> u64 {
    let stats = lab.stats();
    let rows = stats.as_array().expect("array").iter();
    rows.map(|row| row["drops"][reason].as_u64().unwrap_or(0)).sum()
}

/// Waits for exactly so many drops for a reason.
pub fn await_drops(lab: &Lab, reason: &str, count: u64) {
    let seen = eventually(Duration::from_secs(5), || drops(lab, reason) >= count);
    let now = drops(lab, reason);
    assert!(seen && now == count, "{now} drops for {reason}, not {count}; counters: {:#}", lab.stats());
}
