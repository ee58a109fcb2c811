//! Gateways, uplinks, routes and NAT rules: each by itself, and together.

use ipnet::IpNet;

use super::{gateway, nat, route, uplink};
use crate::model::Desired;
use crate::model::l3::CtSpec;
use crate::{Error, Result};

/// Most gateways of a daemon.
pub(super) const MAX_GATEWAYS: usize = 1024;
/// Most uplinks of a daemon.
pub(super) const MAX_UPLINKS: usize = 64;
/// Most routes of a daemon, without those that gateways and uplinks imply.
pub(super) const MAX_ROUTES: usize = 4096;
/// Most NAT rules of a daemon.
pub(super) const MAX_NAT: usize = 4096;

/// Checks what an edit has made of `old`. Of two objects that cannot be together, the one that is as it was
/// is not to blame.
pub(super) fn check(old: &Desired, desired: &Desired) -> Result<()> {
    let counts = [
        (desired.gateways.len(), MAX_GATEWAYS, "gateways"),
        (desired.uplinks.len(), MAX_UPLINKS, "uplinks"),
        (desired.routes.len(), MAX_ROUTES, "routes"),
        (desired.nat.len(), MAX_NAT, "NAT rules"),
    ];
    for (count, most, what) in counts {
        if count > most {
            return Err(Error::invalid(format!("{count} {what} are too many"))
                .hint(format!("a daemon takes {most}; start another one with its own --run-dir")));
        }
    }
    gateway::check_all(old, desired)?;
    uplink::check_all(old, desired)?;
    route::check_all(old, desired)?;
    nat::check_all(old, desired)?;
    desired.ct.as_ref().map_or(Ok(()), ct)
}

/// Checks the settings of connection tracking.
///
/// # Errors
/// The first thing that is out of range.
pub fn ct(spec: &CtSpec) -> Result<()> {
    let range = |key: &str, value: Option<u32>, least: u32, most: u32, unit: &str| match value {
        Some(n) if !(least..=most).contains(&n) => {
            Err(Error::invalid(format!("ct: {key} {n} is out of range"))
                .hint(format!("use {least} to {most}{unit}")))
        }
        _ => Ok(()),
    };
    range("limit", spec.limit, 16, 16_777_216, "")?;
    range("source-limit", spec.source_limit, 1, 16_777_216, "")?;
    range("source-ports", spec.source_ports, 1, 16_777_216, "")?;
    let times = [
        ("udp-timeout", spec.udp_timeout),
        ("tcp-timeout", spec.tcp_timeout),
        ("tcp-transitory-timeout", spec.tcp_transitory_timeout),
        ("icmp-timeout", spec.icmp_timeout),
        ("other-timeout", spec.other_timeout),
    ];
    times.into_iter().try_for_each(|(key, value)| range(key, value, 1, 864_000, " seconds"))?;
    range("fragment-timeout", spec.fragment_timeout, 1, 120, " seconds")
}

/// Whether two networks have an address in common.
pub(super) fn overlap(a: &IpNet, b: &IpNet) -> bool {
    a.contains(&b.network()) || b.contains(&a.network())
}

/// The two of a pair in the order of blame: the one the edit touched comes first.
pub(super) fn blame<T>(first: T, second: T, first_is_new: bool) -> (T, T) {
    if first_is_new { (first, second) } else { (second, first) }
}
