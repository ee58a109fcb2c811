//! How gateways, uplinks, routes and NAT rules are written: their keys, and values with a syntax of their
//! own. The same spelling comes out that goes in, so that equal objects compare equal.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Owner;
use super::keys::{Object, canonical_mac, check, parse_address, parse_gateway};
use super::l3::{
    Filtering, HostUplink, Masquerade, NatKind, NatSpec, OwnUplink, Proto, Publish, SharedUplink, StaticNat,
    UplinkKind, UplinkSpec,
};
use crate::{Error, Result};

/// A gateway, uplink, route, NAT rule, or the settings of connection tracking.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum L3Object<'a> {
    /// The gateway of that name.
    Gateway(&'a str),
    /// The uplink of that name and type (empty: not known).
    Uplink(&'a str, &'a str),
    /// The route of that name.
    Route(&'a str),
    /// The NAT rule of that name and type (empty: not known).
    Nat(&'a str, &'a str),
    /// The settings of connection tracking.
    Ct,
}

const GATEWAY: &[&str] = &[
    "owner",
    "addresses",
    "mac",
    "mtu",
    "dhcp-range",
    "dhcp-lease",
    "reservations",
    "ra",
    "dns",
    "domain",
    "icc",
    "private",
];
const ROUTE: &[&str] = &["owner", "prefix", "via", "gateway", "uplink", "metric"];
const CT: &[&str] = &[
    "owner",
    "limit",
    "source-limit",
    "source-ports",
    "udp-timeout",
    "tcp-timeout",
    "tcp-transitory-timeout",
    "icmp-timeout",
    "other-timeout",
    "fragment-timeout",
    "liberal",
    "pickup",
    "strict-eim",
    "filtering",
];

/// Types of objects, with the keys that only they have.
type Types = &'static [(&'static str, &'static [&'static str])];

const UPLINK: &[&str] = &["owner", "type", "nd-proxy"];
const UPLINK_TYPES: Types = &[
    ("own", &["interface", "addresses", "gateways", "mac", "mtu", "force"]),
    ("host", &["interface", "addresses", "gateways", "mac", "mtu", "link-only"]),
    ("shared", &["interface", "ports"]),
];

const NAT: &[&str] = &["owner", "type", "uplink", "bridge"];
const NAT_TYPES: Types = &[
    ("masquerade", &["from", "pool", "ports", "filtering", "nat66"]),
    ("publish", &["proto", "port", "to", "external"]),
    ("static", &["inside", "external"]),
];

impl fmt::Display for L3Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.kind()),
            None => f.write_str(self.kind()),
        }
    }
}

impl<'a> L3Object<'a> {
    /// As files call the kind of object.
    pub fn kind(&self) -> &'static str {
        match self {
            L3Object::Gateway(_) => "gateway",
            L3Object::Uplink(..) => "uplink",
            L3Object::Route(_) => "route",
            L3Object::Nat(..) => "nat",
            L3Object::Ct => "ct",
        }
    }

    /// The object of that kind, name and type; `None` for other kinds.
    pub fn of(kind: &str, name: &'a str, type_name: &'a str) -> Option<L3Object<'a>> {
        Some(match kind {
            "gateway" => L3Object::Gateway(name),
            "uplink" => L3Object::Uplink(name, type_name),
            "route" => L3Object::Route(name),
            "nat" => L3Object::Nat(name, type_name),
            _ => return None,
        })
    }

    fn name(&self) -> Option<&'a str> {
        match self {
            L3Object::Gateway(name)
            | L3Object::Uplink(name, _)
            | L3Object::Route(name)
            | L3Object::Nat(name, _) => Some(name),
            L3Object::Ct => None,
        }
    }

    /// The types that the object can have, and the one it has.
    fn types(&self) -> (Types, &'a str) {
        match self {
            L3Object::Uplink(_, kind) => (UPLINK_TYPES, kind),
            L3Object::Nat(_, kind) => (NAT_TYPES, kind),
            _ => (&[], ""),
        }
    }

    pub(super) fn keys(&self) -> Vec<&'static str> {
        let common = match self {
            L3Object::Gateway(_) => GATEWAY,
            L3Object::Uplink(..) => UPLINK,
            L3Object::Route(_) => ROUTE,
            L3Object::Nat(..) => NAT,
            L3Object::Ct => CT,
        };
        // Keys of every type when the type is missing or wrong: that is reported by itself.
        let (types, kind) = self.types();
        let known = types.iter().any(|(t, _)| *t == kind);
        let own = types.iter().filter(|(t, _)| *t == kind || !known);
        common.iter().chain(own.flat_map(|(_, keys)| keys.iter())).copied().collect()
    }

    /// Refuses a key that belongs to another type.
    pub(super) fn check_type(&self, key: &str) -> Result<()> {
        let (types, kind) = self.types();
        let having: Vec<_> = types.iter().filter(|(_, keys)| keys.contains(&key)).map(|(t, _)| *t).collect();
        if having.is_empty() {
            return Ok(());
        }
        Err(Error::invalid(format!("{self}: type {kind} has no key '{key}'"))
            .hint(format!("it belongs to type {}", having.join(" or "))))
    }
}

/// The kinds of objects that have names.
const KINDS: &[&str] = &["gateway", "uplink", "route", "nat"];

/// Looks at the keys of every object here of a whole desired state in JSON.
pub(super) fn check_desired(map: &serde_json::Map<String, serde_json::Value>) -> Result<()> {
    for kind in KINDS {
        for (name, spec) in map.get(*kind).and_then(|v| v.as_object()).into_iter().flatten() {
            check_spec(kind, name, spec)?;
        }
    }
    match map.get("ct").and_then(|v| v.as_object()) {
        Some(ct) => ct.keys().try_for_each(|k| check(Object::L3(L3Object::Ct), k)),
        None => Ok(()),
    }
}

/// Looks at the keys of an object in JSON.
///
/// # Errors
/// As [`check`].
pub fn check_spec(kind: &str, name: &str, spec: &serde_json::Value) -> Result<()> {
    let Some(map) = spec.as_object() else { return Ok(()) };
    let type_name = map.get("type").and_then(|t| t.as_str()).unwrap_or("");
    let Some(object) = L3Object::of(kind, name, type_name) else { return Ok(()) };
    map.keys().try_for_each(|k| check(Object::L3(object), k))
}

/// Ports from one to another, both included. Written `8080` or `8080-8090`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

impl PortRange {
    /// How many ports less one.
    pub fn span(self) -> u16 {
        self.last - self.first
    }

    /// Whether the two have a port in common.
    pub fn overlaps(self, other: PortRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }

    /// Whether every port of the other is in this one.
    pub fn covers(self, other: PortRange) -> bool {
        self.first <= other.first && other.last <= self.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for PortRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<PortRange> {
        let bad = |why: &str| {
            Err(Error::invalid(format!("'{}' {why}", shorten(text)))
                .hint("write a port like 8080 or a range like 8080-8090, from 1 to 65535"))
        };
        let port = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<u16>().ok().filter(|&p| p > 0)).flatten()
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (port(first.trim()), port(last.trim())) {
            (Some(first), Some(last)) if first <= last => Ok(PortRange { first, last }),
            (Some(_), Some(_)) => bad("is a range that runs backwards"),
            _ => bad("is not a port or a range of ports"),
        }
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
        match self.first == self.last {
            true => out.serialize_u16(self.first),
            false => out.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(input: D) -> std::result::Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = PortRange;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a port or a range like \"8080-8090\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> std::result::Result<PortRange, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, port: i64) -> std::result::Result<PortRange, E> {
                self.visit_str(&port.to_string())
            }
            fn visit_u64<E: de::Error>(self, port: u64) -> std::result::Result<PortRange, E> {
                self.visit_str(&port.to_string())
            }
        }
        input.deserialize_any(Visitor)
    }
}

/// Addresses of one family from one to another, both included. Written `192.0.2.10` or
/// `192.0.2.10-192.0.2.20`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct AddrRange {
    /// The lowest.
    pub first: IpAddr,
    /// The highest.
    pub last: IpAddr,
}

impl AddrRange {
    /// How many; `None` when a u64 is too small for it.
    pub fn count(&self) -> Option<u64> {
        let n = u64::try_from(number(self.last) - number(self.first)).ok()?;
        n.checked_add(1)
    }

    /// Every address of it, in order.
    pub fn iter(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.first.is_ipv4();
        (number(self.first)..=number(self.last)).map(move |n| match v4 {
            true => IpAddr::from((n as u32).to_be_bytes()),
            false => IpAddr::from(n.to_be_bytes()),
        })
    }

    /// Whether it has that address.
    pub fn contains(&self, addr: IpAddr) -> bool {
        addr.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&addr)
    }
}

fn number(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V4(a) => u32::from(a).into(),
        IpAddr::V6(a) => a.into(),
    }
}

impl fmt::Display for AddrRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.first == self.last {
            true => write!(f, "{}", self.first),
            false => write!(f, "{}-{}", self.first, self.last),
        }
    }
}

impl FromStr for AddrRange {
    type Err = Error;

    fn from_str(text: &str) -> Result<AddrRange> {
        let bad = |why: &str| {
            Err(Error::invalid(format!("'{}' {why}", shorten(text)))
                .hint("write an address, or a range like 10.77.0.100-10.77.0.199"))
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        match (first.trim().parse::<IpAddr>(), last.trim().parse::<IpAddr>()) {
            (Ok(first), Ok(last)) if first.is_ipv4() != last.is_ipv4() => bad("mixes IPv4 and IPv6"),
            (Ok(first), Ok(last)) if first <= last => Ok(AddrRange { first, last }),
            (Ok(_), Ok(_)) => bad("is a range that runs backwards"),
            _ => bad("is not a range of addresses"),
        }
    }
}

/// A host inside, and its ports where they are not those outside. Written `10.77.0.2`, `10.77.0.2:80`,
/// `10.77.0.2:80-90` or `[fd77::2]:80`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Target {
    /// Its address.
    pub addr: IpAddr,
    /// Its ports.
    pub ports: Option<PortRange>,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.addr, self.ports) {
            (addr, None) => write!(f, "{addr}"),
            (IpAddr::V4(addr), Some(ports)) => write!(f, "{addr}:{ports}"),
            (IpAddr::V6(addr), Some(ports)) => write!(f, "[{addr}]:{ports}"),
        }
    }
}

impl FromStr for Target {
    type Err = Error;

    fn from_str(text: &str) -> Result<Target> {
        let bad = || {
            Error::invalid(format!("'{}' is not a host's address with ports", shorten(text)))
                .hint("write it like 10.77.0.2:80, 10.77.0.2:80-90 or [fd77::2]:80")
        };
        if let Ok(addr) = text.trim_start_matches('[').trim_end_matches(']').parse() {
            return Ok(Target { addr, ports: None });
        }
        let (host, ports) = text.rsplit_once(':').ok_or_else(bad)?;
        let ports: PortRange = ports.parse()?;
        let socket: SocketAddr = format!("{host}:{}", ports.first).parse().map_err(|_| bad())?;
        Ok(Target { addr: socket.ip(), ports: Some(ports) })
    }
}

/// What is written as text.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, out: S) -> std::result::Result<S::Ok, S::Error> {
                out.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(input: D) -> std::result::Result<Self, D::Error> {
                String::deserialize(input)?.parse().map_err(de::Error::custom)
            }
        }
    )*};
}
as_text!(AddrRange, Target);

/// A network: no bit of the host is set.
///
/// # Errors
/// Says how it is written.
pub fn parse_net(text: &str) -> Result<IpNet> {
    let net: IpNet = text.parse().map_err(|_| {
        Error::invalid(format!("'{}' is not a network", shorten(text)))
            .hint("write it like 10.77.0.0/24 or fd77::/64")
    })?;
    if net != net.trunc() {
        return Err(Error::invalid(format!("{net} is an address in a network, not the network"))
            .hint(format!("write {}", net.trunc())));
    }
    Ok(net)
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect::<String>().escape_debug().to_string()
}

/// serde of one network.
pub(super) mod net {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(net: &IpNet, out: S) -> std::result::Result<S::Ok, S::Error> {
        out.collect_str(net)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<IpNet, D::Error> {
        parse_net(&String::deserialize(input)?).map_err(de::Error::custom)
    }
}

/// serde of addresses with prefix lengths.
pub(super) mod nets {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(nets: &[IpNet], out: S) -> std::result::Result<S::Ok, S::Error> {
        out.collect_seq(nets)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> std::result::Result<Vec<IpNet>, D::Error> {
        let texts = Vec::<String>::deserialize(input)?;
        texts.iter().map(|t| parse_address(t).map_err(de::Error::custom)).collect()
    }
}

/// serde of addresses.
pub(super) mod addrs {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(addrs: &[IpAddr], out: S) -> std::result::Result<S::Ok, S::Error> {
        out.collect_seq(addrs)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> std::result::Result<Vec<IpAddr>, D::Error> {
        let texts = Vec::<String>::deserialize(input)?;
        texts.iter().map(|t| parse_gateway(t).map_err(de::Error::custom)).collect()
    }
}

/// serde of an address that may be absent.
pub(super) mod some_addr {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        addr: &Option<IpAddr>,
        out: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        addr.serialize(out)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> std::result::Result<Option<IpAddr>, D::Error> {
        let text = Option::<String>::deserialize(input)?;
        text.map(|t| parse_gateway(&t).map_err(de::Error::custom)).transpose()
    }
}

/// serde of reserved addresses by MAC address.
pub(super) mod reservations {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(
        map: &BTreeMap<String, IpAddr>,
        out: S,
    ) -> std::result::Result<S::Ok, S::Error> {
        out.collect_map(map)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        input: D,
    ) -> std::result::Result<BTreeMap<String, IpAddr>, D::Error> {
        let texts = BTreeMap::<String, String>::deserialize(input)?;
        let entry = |(mac, addr): (String, String)| {
            Ok((canonical_mac(&mac), parse_gateway(&addr).map_err(de::Error::custom)?))
        };
        texts.into_iter().map(entry).collect()
    }
}

/// A MAC address in its one spelling.
pub(super) fn some_mac<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<Option<String>, D::Error> {
    Ok(Option::<String>::deserialize(input)?.map(|mac| canonical_mac(&mac)))
}

fn needed(key: &str) -> String {
    format!("missing key '{key}'")
}

/// An uplink as it is written: every key of every type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct UplinkKeys {
    #[serde(default)]
    owner: Owner,
    #[serde(rename = "type")]
    kind: UplinkType,
    #[serde(default, with = "nets")]
    nd_proxy: Vec<IpNet>,
    interface: Option<String>,
    #[serde(default, with = "nets")]
    addresses: Vec<IpNet>,
    #[serde(default, with = "addrs")]
    gateways: Vec<IpAddr>,
    #[serde(default, deserialize_with = "some_mac")]
    mac: Option<String>,
    mtu: Option<u32>,
    force: Option<bool>,
    link_only: Option<bool>,
    ports: Option<PortRange>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum UplinkType {
    Own,
    Host,
    Shared,
}

impl TryFrom<UplinkKeys> for UplinkSpec {
    type Error = String;

    fn try_from(k: UplinkKeys) -> std::result::Result<UplinkSpec, String> {
        let kind = match k.kind {
            UplinkType::Own => UplinkKind::Own(OwnUplink {
                interface: k.interface.ok_or_else(|| needed("interface"))?,
                addresses: k.addresses,
                gateways: k.gateways,
                mac: k.mac,
                mtu: k.mtu,
                force: k.force.unwrap_or_default(),
            }),
            UplinkType::Host => UplinkKind::Host(HostUplink {
                interface: k.interface,
                addresses: k.addresses,
                gateways: k.gateways,
                mac: k.mac,
                mtu: k.mtu,
                link_only: k.link_only.unwrap_or_default(),
            }),
            UplinkType::Shared => UplinkKind::Shared(SharedUplink { interface: k.interface, ports: k.ports }),
        };
        Ok(UplinkSpec { owner: k.owner, kind, nd_proxy: k.nd_proxy })
    }
}

/// A NAT rule as it is written: every key of every type.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct NatKeys {
    #[serde(default)]
    owner: Owner,
    #[serde(rename = "type")]
    kind: NatType,
    uplink: String,
    bridge: Option<String>,
    #[serde(default, deserialize_with = "some_net")]
    from: Option<IpNet>,
    pool: Option<AddrRange>,
    ports: Option<PortRange>,
    filtering: Option<Filtering>,
    nat66: Option<bool>,
    proto: Option<Proto>,
    port: Option<PortRange>,
    to: Option<Target>,
    #[serde(default, with = "some_addr")]
    external: Option<IpAddr>,
    #[serde(default, with = "some_addr")]
    inside: Option<IpAddr>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum NatType {
    Masquerade,
    Publish,
    Static,
}

fn some_net<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<Option<IpNet>, D::Error> {
    let text = Option::<String>::deserialize(input)?;
    text.map(|t| parse_net(&t).map_err(de::Error::custom)).transpose()
}

impl TryFrom<NatKeys> for NatSpec {
    type Error = String;

    fn try_from(k: NatKeys) -> std::result::Result<NatSpec, String> {
        let kind = match k.kind {
            NatType::Masquerade => NatKind::Masquerade(Masquerade {
                from: k.from.ok_or_else(|| needed("from"))?,
                pool: k.pool,
                ports: k.ports,
                filtering: k.filtering,
                nat66: k.nat66.unwrap_or_default(),
            }),
            NatType::Publish => NatKind::Publish(Publish {
                proto: k.proto.ok_or_else(|| needed("proto"))?,
                port: k.port.ok_or_else(|| needed("port"))?,
                to: k.to.ok_or_else(|| needed("to"))?,
                external: k.external,
            }),
            NatType::Static => NatKind::Static(StaticNat {
                inside: k.inside.ok_or_else(|| needed("inside"))?,
                external: k.external.ok_or_else(|| needed("external"))?,
            }),
        };
        Ok(NatSpec { owner: k.owner, uplink: k.uplink, bridge: k.bridge, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::l3::{CtSpec, GatewaySpec, RouteSpec};

    #[test]
    fn ranges_and_targets_come_out_as_they_go_in() {
        for text in ["8080", "8080-8090", "1-65535"] {
            assert_eq!(text.parse::<PortRange>().unwrap().to_string(), text);
        }
        for text in ["0", "65536", "80-79", "", "-", "8080-", "x", "+80", "80-90-100"] {
            let error = text.parse::<PortRange>().unwrap_err().to_string();
            assert!(error.contains(&format!("'{text}'")) && error.contains("8080-8090"), "{error}");
        }
        for text in ["10.0.0.1", "10.0.0.1-10.0.0.9", "fd00::1-fd00::ff"] {
            assert_eq!(text.parse::<AddrRange>().unwrap().to_string(), text);
        }
        for text in ["10.0.0.9-10.0.0.1", "10.0.0.1-fd00::1", "10.0.0", "10.0.0.0/24", ""] {
            text.parse::<AddrRange>().unwrap_err();
        }
        for text in ["10.77.0.2", "10.77.0.2:80", "10.77.0.2:80-90", "[fd77::2]:80", "fd77::2"] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        }
        for text in ["web:80", "10.77.0.2:", "10.77.0.2:0", "[fd77::2", "", ":80", "10.77.0.2:80:90"] {
            let parsed = text.parse::<Target>();
            assert!(parsed.is_err() || text == "[fd77::2", "{text}: {parsed:?}");
        }
        let range: AddrRange = "10.0.0.254-10.0.1.1".parse().unwrap();
        let all: Vec<_> = range.iter().map(|a| a.to_string()).collect();
        assert_eq!(
            (range.count(), all.join(" ")),
            (Some(4), "10.0.0.254 10.0.0.255 10.0.1.0 10.0.1.1".into())
        );
        assert_eq!("::-ffff::".parse::<AddrRange>().unwrap().count(), None);
    }

    #[test]
    fn networks_have_no_host_bits() {
        assert_eq!(parse_net("10.0.0.0/8").unwrap().to_string(), "10.0.0.0/8");
        let error = parse_net("10.0.0.1/8").unwrap_err().to_string();
        assert_eq!(error, "10.0.0.1/8 is an address in a network, not the network; write 10.0.0.0/8");
        parse_net("10.0.0.0").unwrap_err();
    }

    #[test]
    fn every_key_that_is_written_is_known() {
        fn serde_keys<T: de::DeserializeOwned + fmt::Debug>() -> Vec<String> {
            let error = serde_json::from_str::<T>(r#"{"":1}"#).unwrap_err().to_string();
            let mut keys: Vec<String> =
                error.split('`').skip(1).step_by(2).filter(|k| !k.is_empty()).map(str::to_owned).collect();
            keys.sort_unstable();
            keys
        }
        fn ours(object: L3Object<'_>) -> Vec<&'static str> {
            let mut keys = object.keys();
            keys.sort_unstable();
            keys.dedup();
            keys
        }
        assert_eq!(serde_keys::<GatewaySpec>(), ours(L3Object::Gateway("")));
        assert_eq!(serde_keys::<RouteSpec>(), ours(L3Object::Route("")));
        assert_eq!(serde_keys::<CtSpec>(), ours(L3Object::Ct));
        assert_eq!(serde_keys::<UplinkSpec>(), ours(L3Object::Uplink("", "")));
        assert_eq!(serde_keys::<NatSpec>(), ours(L3Object::Nat("", "")));
    }

    #[test]
    fn objects_of_every_type_survive_the_flat_form() {
        fn same<T: de::DeserializeOwned + Serialize + PartialEq + fmt::Debug>(json: &str) {
            let given: serde_json::Value = serde_json::from_str(json).unwrap();
            let object: T = serde_json::from_value(given.clone()).unwrap();
            let mut written = serde_json::to_value(&object).unwrap();
            assert_eq!(serde_json::from_value::<T>(written.clone()).unwrap(), object);
            written.as_object_mut().unwrap().remove("owner");
            assert_eq!(written, given, "every key of the input is kept");
        }
        same::<GatewaySpec>(
            r#"{"addresses":["10.77.0.1/24","fd77::1/64"],"mac":"02:00:00:00:00:01","mtu":9000,
                "dhcp-range":"10.77.0.100-10.77.0.200","dhcp-lease":600,"reservations":{"02:00:00:00:00:09":"10.77.0.9"},
                "ra":true,"dns":["10.77.0.1","fd77::53"],"domain":"lab.test","icc":false,"private":true}"#,
        );
        for json in [
            r#"{"type":"own","interface":"eth1","addresses":["192.0.2.10/24"],"gateways":["192.0.2.1"],
                "mac":"02:00:00:00:00:01","mtu":1400,"force":true,"nd-proxy":["fd77::/64"]}"#,
            r#"{"type":"host","interface":"tl0","addresses":["192.0.2.2/30"],"gateways":["192.0.2.1"],"mtu":9000}"#,
            r#"{"type":"shared","interface":"eth0","ports":"50000-50999"}"#,
            r#"{"type":"shared"}"#,
        ] {
            same::<UplinkSpec>(json);
        }
        same::<RouteSpec>(r#"{"prefix":"10.9.0.0/16","via":"10.77.0.2","gateway":"br0","metric":5}"#);
        for json in [
            r#"{"type":"masquerade","uplink":"up0","bridge":"br0","from":"10.77.0.0/24","pool":"192.0.2.10-192.0.2.12",
                "ports":"1024-65535","filtering":"endpoint-independent","nat66":true}"#,
            r#"{"type":"publish","uplink":"up0","proto":"tcp","port":8080,"to":"10.77.0.2:80","external":"192.0.2.10"}"#,
            r#"{"type":"publish","uplink":"up0","proto":"udp","port":"8080-8090","to":"[fd77::2]:80-90"}"#,
            r#"{"type":"static","uplink":"up0","inside":"10.77.0.2","external":"192.0.2.11"}"#,
        ] {
            same::<NatSpec>(json);
        }
        same::<CtSpec>(
            r#"{"limit":1000,"udp-timeout":300,"liberal":true,"strict-eim":true,"filtering":"address"}"#,
        );
    }
}
