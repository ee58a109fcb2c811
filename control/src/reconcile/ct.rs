//! Connections in the words of users.

use ipnet::IpNet;
use trunkline_engine::L3Stats;
use trunkline_nat::{ConnFilter, ConnInfo, ConnState, Prefix};
use trunkline_packet::headers::proto;

use super::kernel_l3::L3State;
use super::l3::no_such;
use super::l3config::{DEFAULT_LIMIT, number};
use crate::model::l3::{CtCount, CtFilter, CtRow};
use crate::{Error, Result};

const PROTOCOLS: &[(&str, u8)] =
    &[("tcp", proto::TCP), ("udp", proto::UDP), ("icmp", proto::ICMP), ("icmpv6", proto::ICMPV6)];

const STATES: &[(&str, ConnState)] = &[
    ("opening", ConnState::Opening),
    ("established", ConnState::Established),
    ("closing", ConnState::Closing),
    ("time-wait", ConnState::TimeWait),
    ("reset", ConnState::Reset),
];

/// The filter in the engine's words: what any of them leaves. `None`: nothing can match.
///
/// # Errors
/// When it makes no sense or names what is not there.
pub(super) fn filter(state: &L3State, filter: &CtFilter) -> Result<Option<Vec<ConnFilter>>> {
    let proto = filter.proto.as_deref().map(protocol).transpose()?;
    let prefix = |text: &Option<String>| text.as_deref().map(prefix).transpose();
    let mut one = ConnFilter {
        proto,
        local: prefix(&filter.inside)?,
        remote: prefix(&filter.remote)?,
        address: prefix(&filter.address)?,
        port: filter.port,
        src: prefix(&filter.src)?,
        dst: prefix(&filter.dst)?,
        sport: filter.sport,
        dport: filter.dport,
        state: filter.state.as_deref().map(conn_state).transpose()?,
        ..ConnFilter::default()
    };
    if let Some(bridge) = &filter.bridge {
        if !state.desired.bridges.contains_key(bridge) {
            return Err(no_such("bridge", bridge));
        }
        let Some(zone) = state.numbers.zone_of(bridge) else { return Ok(None) };
        one.zone = Some(zone);
    }
    if let Some(name) = &filter.uplink {
        if !state.desired.uplinks.contains_key(name) {
            return Err(no_such("uplink", name));
        }
        let Some(uplink) = state.uplinks.get(name) else { return Ok(None) };
        one.uplink = Some(number(uplink));
    }
    let Some(rule) = &filter.nat else { return Ok(Some(vec![one])) };
    if !state.desired.nat.contains_key(rule) {
        return Err(no_such("nat", rule));
    }
    // A rule of several bridges is several of the engine's.
    let ids = state.numbers.rule_ids(rule);
    Ok(Some(ids.into_iter().map(|id| ConnFilter { rule: Some(id), ..one }).collect()))
}

fn protocol(text: &str) -> Result<u8> {
    let known = PROTOCOLS.iter().find(|(name, _)| *name == text).map(|(_, n)| *n);
    known.or_else(|| text.parse().ok()).ok_or_else(|| {
        Error::invalid(format!("'{}' is not a protocol", text.escape_debug()))
            .hint("use tcp, udp, icmp, icmpv6 or a number from 0 to 255")
    })
}

fn conn_state(text: &str) -> Result<ConnState> {
    STATES.iter().find(|(name, _)| *name == text).map(|(_, s)| *s).ok_or_else(|| {
        let names: Vec<_> = STATES.iter().map(|(name, _)| *name).collect();
        Error::invalid(format!("'{}' is not a state of a connection", text.escape_debug()))
            .hint(format!("use {}", names.join(", ")))
    })
}

fn prefix(text: &str) -> Result<Prefix> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    net.and_then(|net| Prefix::new(net.addr(), net.prefix_len())).ok_or_else(|| {
        Error::invalid(format!("'{}' is not an address or prefix", text.escape_debug()))
            .hint("write it like 10.77.0.2 or 10.77.0.0/24")
    })
}

/// A connection as users see it.
pub(super) fn row(state: &L3State, c: &ConnInfo) -> CtRow {
    let protocol = PROTOCOLS.iter().find(|(_, n)| *n == c.proto);
    let uplink = state.uplinks.iter().find(|(_, u)| number(u) == c.uplink);
    CtRow {
        proto: protocol.map_or_else(|| c.proto.to_string(), |(name, _)| (*name).to_owned()),
        bridge: state.numbers.bridge(c.zone).unwrap_or_default().to_owned(),
        uplink: uplink.map(|(name, _)| name.clone()).unwrap_or_default(),
        inside: (c.local.0.ip(), c.local.0.port),
        external: (c.external.0.ip(), c.external.0.port),
        remote: (c.remote.ip(), c.remote.port),
        from_outside: c.from_outside,
        state: STATES.iter().find(|(_, s)| *s == c.state).map_or("", |(name, _)| name).to_owned(),
        expires: c.expires_in.div_ceil(1000),
        nat: c.rule.and_then(|id| state.numbers.rule_name(id)).map(str::to_owned),
    }
}

/// How full the table is; `matching` of `u64::MAX` is all.
pub(super) fn count(stats: &L3Stats, matching: u64, limit: Option<u32>) -> CtCount {
    let connections = stats.nat.connections as u64;
    CtCount {
        connections,
        matching: if matching == u64::MAX { connections } else { matching },
        limit: limit.unwrap_or(DEFAULT_LIMIT).into(),
        mappings: stats.nat.mappings as u64,
        held: stats.nat.held as u64,
        early_drops: stats.nat.early_drops,
        shared_ports: stats.nat.shared_ports,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_understood_or_refused() {
        let state = L3State::default();
        let parse = |json: &str| filter(&state, &serde_json::from_str(json).unwrap());
        let one = parse(
            r#"{"proto":"tcp","inside":"10.77.0.2","remote":"192.0.2.0/24","port":80,"state":"time-wait"}"#,
        );
        let one = one.unwrap().unwrap()[0];
        assert_eq!((one.proto, one.port, one.state), (Some(6), Some(80), Some(ConnState::TimeWait)));
        assert_eq!(one.local, Prefix::new("10.77.0.2".parse().unwrap(), 32));
        assert_eq!(one.remote, Prefix::new("192.0.2.0".parse().unwrap(), 24));
        let first = parse(r#"{"src":"10.77.0.0/24","dst":"192.0.2.1","sport":7,"dport":443}"#);
        let first = first.unwrap().unwrap()[0];
        assert_eq!(first.src, Prefix::new("10.77.0.0".parse().unwrap(), 24));
        assert_eq!(
            (first.dst, first.sport, first.dport),
            (Prefix::new("192.0.2.1".parse().unwrap(), 32), Some(7), Some(443))
        );
        assert_eq!(parse(r#"{"proto":"47"}"#).unwrap().unwrap()[0].proto, Some(47));
        for (json, says) in [
            (r#"{"proto":"sctpp"}"#, "'sctpp' is not a protocol"),
            (r#"{"inside":"web"}"#, "'web' is not an address or prefix"),
            (r#"{"state":"new"}"#, "'new' is not a state of a connection"),
            (r#"{"bridge":"br9"}"#, "there is no bridge br9"),
            (r#"{"uplink":"u9"}"#, "there is no uplink u9"),
            (r#"{"nat":"n9"}"#, "there is no nat n9"),
        ] {
            assert_eq!(parse(json).unwrap_err().message, says);
        }
    }
}
