//! The keys of bridges and ports as files and API bodies write them, and what is said of a wrong one.
//!
//! serde cannot refuse unknown keys of a flattened struct, so ports are read through the flat
//! `PortKeys`, after [`check`] has looked at the names.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer, de};
use trunkline_packet::MacAddr;

use super::guard::Allow;
use super::l3keys;
pub use super::l3keys::{L3Object, check_spec};
use super::tunnel::Inherit;
use super::{
    AfpacketSpec, Follow, HostSpec, InnerVlan, LinkRoute, LinkSpec, MeshSpec, MeshType, OffloadMode, Owner,
    PortKind, PortSpec, ReplaySpec, StaticFdb, TapSpec, TunnelSpec, VlanMode,
};
use crate::{Error, Result};

/// What a table or JSON object describes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Object<'a> {
    /// All that is desired.
    Desired,
    /// A gateway, uplink, route, NAT rule, or the settings of connection tracking.
    L3(L3Object<'a>),
    /// The bridge of that name.
    Bridge(&'a str),
    /// The port of that name and type (empty: not known).
    Port(&'a str, &'a str),
    /// A static FDB entry of the bridge of that name.
    Fdb(&'a str),
    /// The mesh of that name and type (empty: not known).
    Mesh(&'a str, &'a str),
}

const COMMON: &[&str] = &[
    "owner",
    "bridge",
    "type",
    "vlan",
    "trunks",
    "vlan-mode",
    "isolated",
    "split-horizon-group",
    "no-learning",
    "no-flood",
    "max-macs",
    "flood-limit",
    "anti-spoof",
    "offload",
    "labels",
];
const TAP: &[&str] = &[
    "netns",
    "netns-id",
    "follow",
    "ifname",
    "adopt",
    "handed-over",
    "queues",
    "addresses",
    "gateways",
    "routes",
    "mac",
    "mtu",
];
const HOST: &[&str] = &["ifname", "queues", "addresses", "gateways", "routes", "mac", "mtu"];
const AFPACKET: &[&str] = &["interface", "force"];
const REPLAY: &[&str] = &["file", "rate", "count"];
/// Tunnels of every type, of meshes too.
const TUNNEL: &[&str] = &[
    "local",
    "vlan-map",
    "inner-vlan",
    "tos",
    "ttl",
    "df",
    "mtu",
    "mss-clamp",
    "bfd",
    "bfd-interval",
    "bfd-multiplier",
    "underlay",
];
const TUNNEL_PORT: &[&str] = &["remotes", "learn-remotes"];
const GROUP: &[&str] = &["group", "group-interface"];
const GRE: &[&str] = &["key", "csum", "seq"];
const UDP: &[&str] = &["vni", "dst-port", "udp-csum", "zero-csum6"];
const MESH: &[&str] = &["owner", "bridge", "type", "peers", "vlan", "trunks"];

/// The types of ports, with the keys that only they have.
const TYPES: &[(&str, &[&[&str]])] = &[
    ("tap", &[TAP]),
    ("host", &[HOST]),
    ("afpacket", &[AFPACKET]),
    ("replay", &[REPLAY]),
    ("null", &[]),
    ("gre", &[TUNNEL, TUNNEL_PORT, GRE]),
    ("nvgre", &[TUNNEL, TUNNEL_PORT, &["vni"]]),
    ("vxlan", &[TUNNEL, TUNNEL_PORT, UDP, GROUP]),
    ("geneve", &[TUNNEL, TUNNEL_PORT, UDP]),
];

/// The types of meshes, with the keys that only they have.
const MESH_TYPES: &[(&str, &[&[&str]])] = &[("gre", &[GRE]), ("vxlan", &[UDP]), ("geneve", &[UDP])];

fn has(lists: &[&[&str]], key: &str) -> bool {
    lists.iter().any(|keys| keys.contains(&key))
}

impl fmt::Display for Object<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Object::Desired => f.write_str("the top level"),
            Object::L3(object) => object.fmt(f),
            Object::Bridge(name) => write!(f, "bridge {name}"),
            Object::Port(name, _) => write!(f, "port {name}"),
            Object::Fdb(bridge) => write!(f, "an fdb entry of bridge {bridge}"),
            Object::Mesh(name, _) => write!(f, "mesh {name}"),
        }
    }
}

impl Object<'_> {
    fn keys(&self) -> Vec<&'static str> {
        match self {
            Object::Desired => {
                vec![
                    "bridge",
                    "port",
                    "mesh",
                    "gateway",
                    "uplink",
                    "route",
                    "nat",
                    "ct",
                    "docker",
                    "network",
                    "attachment",
                ]
            }
            Object::L3(object) => object.keys(),
            Object::Bridge(_) => vec!["owner", "ageing", "max-macs", "fdb"],
            Object::Fdb(_) => vec!["mac", "vlan", "port", "remote"],
            Object::Port(_, kind) => typed(&[COMMON], TYPES, kind),
            Object::Mesh(_, kind) => typed(&[MESH, TUNNEL], MESH_TYPES, kind),
        }
    }
}

/// Keys of an object of that type; of every type when it is missing or wrong: that is reported by itself.
fn typed(common: &[&[&'static str]], types: &[(&str, &[&[&'static str]])], kind: &str) -> Vec<&'static str> {
    let known = types.iter().any(|(t, _)| *t == kind);
    let own = types.iter().filter(|(t, _)| *t == kind || !known).flat_map(|(_, lists)| lists.iter());
    common.iter().chain(own).flat_map(|keys| keys.iter().copied()).collect()
}

/// Refuses a key that the object does not have.
///
/// # Errors
/// Says the object, the key, and the key that was probably meant.
pub fn check(object: Object<'_>, key: &str) -> Result<()> {
    let keys = object.keys();
    if keys.contains(&key) {
        return Ok(());
    }
    if let Object::L3(object) = object {
        object.check_type(key)?;
    }
    let types = match object {
        Object::Port(name, kind) => Some((name, kind, "port", TYPES)),
        Object::Mesh(name, kind) => Some((name, kind, "mesh", MESH_TYPES)),
        _ => None,
    };
    if let Some((name, kind, what, types)) = types
        && types.iter().any(|(_, lists)| has(lists, key))
    {
        let types: Vec<_> = types.iter().filter(|(_, lists)| has(lists, key)).map(|(t, _)| *t).collect();
        return Err(Error::invalid(format!("{what} {name}: a {what} of type {kind} has no key '{key}'"))
            .hint(format!("it belongs to type {}", types.join(" or "))));
    }
    let error = Error::invalid(format!("unknown key '{key}' in {object}"));
    Err(match nearest(key, &keys) {
        Some(meant) => error.hint(format!("did you mean '{meant}'?")),
        None => error.hint(format!("known keys: {}", keys.join(", "))),
    })
}

/// The candidate that differs least from `word`, if it is close enough to have been meant.
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_lowercase().replace('_', "-");
    let (distance, best) = candidates.iter().map(|c| (edit_distance(&word, c), *c)).min()?;
    (distance <= 1 + best.len() / 4).then_some(best)
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// Looks at the keys of a whole desired state in JSON.
///
/// # Errors
/// As [`check`].
pub fn check_desired(value: &serde_json::Value) -> Result<()> {
    let Some(map) = value.as_object() else { return Ok(()) };
    map.keys().try_for_each(|k| check(Object::Desired, k))?;
    l3keys::check_desired(map)?;
    let objects = |key: &str| map.get(key).and_then(|v| v.as_object()).into_iter().flatten();
    objects("bridge").try_for_each(|(name, spec)| check_bridge(name, spec))?;
    objects("port").try_for_each(|(name, spec)| check_port(name, spec))?;
    objects("mesh").try_for_each(|(name, spec)| check_mesh(name, spec))
}

/// Looks at the keys of a bridge in JSON.
///
/// # Errors
/// As [`check`].
pub fn check_bridge(name: &str, spec: &serde_json::Value) -> Result<()> {
    let Some(map) = spec.as_object() else { return Ok(()) };
    map.keys().try_for_each(|k| check(Object::Bridge(name), k))?;
    let entries = map.get("fdb").and_then(|v| v.as_array()).into_iter().flatten();
    let mut keys = entries.filter_map(|e| e.as_object()).flat_map(|e| e.keys());
    keys.try_for_each(|k| check(Object::Fdb(name), k))
}

/// Looks at the keys of a port in JSON.
///
/// # Errors
/// As [`check`].
pub fn check_port(name: &str, spec: &serde_json::Value) -> Result<()> {
    let Some(map) = spec.as_object() else { return Ok(()) };
    let kind = map.get("type").and_then(|t| t.as_str()).unwrap_or("");
    map.keys().try_for_each(|k| check(Object::Port(name, kind), k))
}

/// Looks at the keys of a mesh in JSON.
///
/// # Errors
/// As [`check`].
pub fn check_mesh(name: &str, spec: &serde_json::Value) -> Result<()> {
    let Some(map) = spec.as_object() else { return Ok(()) };
    let kind = map.get("type").and_then(|t| t.as_str()).unwrap_or("");
    map.keys().try_for_each(|k| check(Object::Mesh(name, kind), k))
}

/// Reads an object whose keys were checked; errors say which key is wrong.
///
/// # Errors
/// When a value is of the wrong type, or a key is missing.
pub fn read<T: de::DeserializeOwned>(object: Object<'_>, value: serde_json::Value) -> Result<T> {
    serde_path_to_error::deserialize(value).map_err(|e| {
        let path = e.path().to_string();
        let key = path.split(['.', '[']).next().unwrap_or_default();
        let place = if key.is_empty() { object.to_string() } else { format!("{key} in {object}") };
        Error::invalid(e.inner().to_string()).within(place)
    })
}

/// Defines a struct that has the keys of tunnels besides its own: a flattened struct would lose the lines of
/// what is wrong in a file.
macro_rules! with_tunnel_keys {
    ($(#[$meta:meta])* struct $name:ident { $($own:tt)* }) => {
        $(#[$meta])*
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        pub(super) struct $name {
            $($own)*
            #[serde(default, deserialize_with = "some_remote")]
            local: Option<IpAddr>,
            vni: Option<u32>,
            key: Option<u32>,
            vlan_map: Option<String>,
            inner_vlan: Option<InnerVlan>,
            dst_port: Option<u16>,
            csum: Option<bool>,
            seq: Option<bool>,
            udp_csum: Option<bool>,
            zero_csum6: Option<bool>,
            tos: Option<Inherit>,
            ttl: Option<Inherit>,
            df: Option<bool>,
            mtu: Option<u32>,
            mss_clamp: Option<bool>,
            bfd: Option<bool>,
            bfd_interval: Option<u32>,
            bfd_multiplier: Option<u8>,
            underlay: Option<String>,
        }

        impl $name {
            fn tunnel(&mut self) -> TunnelSpec {
                TunnelSpec {
                    local: self.local,
                    vni: self.vni,
                    key: self.key,
                    vlan_map: self.vlan_map.take(),
                    inner_vlan: self.inner_vlan,
                    dst_port: self.dst_port,
                    csum: self.csum.unwrap_or_default(),
                    seq: self.seq.unwrap_or_default(),
                    udp_csum: self.udp_csum,
                    zero_csum6: self.zero_csum6.unwrap_or_default(),
                    tos: self.tos,
                    ttl: self.ttl,
                    df: self.df.unwrap_or(true),
                    mtu: self.mtu,
                    mss_clamp: self.mss_clamp.unwrap_or(true),
                    bfd: self.bfd,
                    bfd_interval: self.bfd_interval,
                    bfd_multiplier: self.bfd_multiplier,
                    underlay: self.underlay.take(),
                    ..TunnelSpec::default()
                }
            }
        }
    };
}

with_tunnel_keys! {
/// A port as it is written: every key of every type.
struct PortKeys {
    #[serde(default)]
    owner: Owner,
    bridge: String,
    #[serde(rename = "type")]
    kind: Kind,
    #[serde(default, deserialize_with = "some_vlan")]
    vlan: Option<u16>,
    trunks: Option<String>,
    vlan_mode: Option<VlanMode>,
    #[serde(default)]
    isolated: bool,
    split_horizon_group: Option<u32>,
    #[serde(default)]
    no_learning: bool,
    #[serde(default)]
    no_flood: bool,
    max_macs: Option<u32>,
    flood_limit: Option<u32>,
    #[serde(default)]
    anti_spoof: Vec<Allow>,
    #[serde(default)]
    offload: OffloadMode,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    // TAP and host ports.
    netns: Option<String>,
    netns_id: Option<String>,
    follow: Option<Follow>,
    ifname: Option<String>,
    adopt: Option<bool>,
    handed_over: Option<bool>,
    queues: Option<u16>,
    addresses: Option<Vec<Address>>,
    gateways: Option<Vec<Gateway>>,
    routes: Option<Vec<LinkRoute>>,
    mac: Option<String>,
    // AF_PACKET ports.
    interface: Option<String>,
    force: Option<bool>,
    // Replay ports.
    file: Option<String>,
    rate: Option<u64>,
    count: Option<u64>,
    // Tunnel ports, besides what meshes have too.
    remotes: Option<Vec<Remote>>,
    #[serde(default, deserialize_with = "some_remote")]
    group: Option<IpAddr>,
    group_interface: Option<String>,
    learn_remotes: Option<bool>,
}
}

with_tunnel_keys! {
/// A mesh as it is written: every key of every type.
struct MeshKeys {
    #[serde(default)]
    owner: Owner,
    bridge: String,
    #[serde(rename = "type")]
    kind: MeshType,
    peers: Vec<Remote>,
    #[serde(default, deserialize_with = "some_vlan")]
    vlan: Option<u16>,
    trunks: Option<String>,
}
}

impl From<MeshKeys> for MeshSpec {
    fn from(mut k: MeshKeys) -> MeshSpec {
        MeshSpec {
            tunnel: k.tunnel(),
            owner: k.owner,
            bridge: k.bridge,
            kind: k.kind,
            peers: k.peers.into_iter().map(|p| p.0).collect(),
            vlan: k.vlan,
            trunks: k.trunks,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Tap,
    Afpacket,
    Host,
    Replay,
    Null,
    Gre,
    Nvgre,
    Vxlan,
    Geneve,
}

impl TryFrom<PortKeys> for PortSpec {
    type Error = String;

    fn try_from(mut k: PortKeys) -> std::result::Result<PortSpec, String> {
        let tunnel = TunnelSpec {
            remotes: k.remotes.take().unwrap_or_default().into_iter().map(|r| r.0).collect(),
            group: k.group,
            group_interface: k.group_interface.take(),
            learn_remotes: k.learn_remotes.unwrap_or(true),
            ..k.tunnel()
        };
        let link = LinkSpec {
            addresses: k.addresses.unwrap_or_default().into_iter().map(|a| a.0).collect(),
            gateways: k.gateways.unwrap_or_default().into_iter().map(|g| g.0).collect(),
            routes: k.routes.unwrap_or_default(),
            mac: k.mac.map(|mac| canonical_mac(&mac)),
            mtu: k.mtu,
        };
        let needed = |key: &str| format!("missing key '{key}'");
        let kind = match k.kind {
            Kind::Tap => PortKind::Tap(TapSpec {
                netns: k.netns,
                netns_id: k.netns_id,
                follow: k.follow,
                ifname: k.ifname,
                adopt: k.adopt.unwrap_or_default(),
                handed_over: k.handed_over.unwrap_or_default(),
                queues: k.queues,
                link,
            }),
            Kind::Host => PortKind::Host(HostSpec { ifname: k.ifname, queues: k.queues, link }),
            Kind::Afpacket => PortKind::Afpacket(AfpacketSpec {
                interface: k.interface.ok_or_else(|| needed("interface"))?,
                force: k.force.unwrap_or_default(),
            }),
            Kind::Replay => PortKind::Replay(ReplaySpec {
                file: k.file.ok_or_else(|| needed("file"))?,
                rate: k.rate,
                count: k.count,
            }),
            Kind::Null => PortKind::Null {},
            Kind::Gre => PortKind::Gre(tunnel),
            Kind::Nvgre => PortKind::Nvgre(tunnel),
            Kind::Vxlan => PortKind::Vxlan(tunnel),
            Kind::Geneve => PortKind::Geneve(tunnel),
        };
        Ok(PortSpec {
            owner: k.owner,
            bridge: k.bridge,
            kind,
            vlan: k.vlan,
            trunks: k.trunks,
            vlan_mode: k.vlan_mode,
            isolated: k.isolated,
            split_horizon_group: k.split_horizon_group,
            no_learning: k.no_learning,
            no_flood: k.no_flood,
            max_macs: k.max_macs,
            flood_limit: k.flood_limit,
            anti_spoof: k.anti_spoof,
            offload: k.offload,
            labels: k.labels,
        })
    }
}

/// A static FDB entry as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct FdbKeys {
    mac: String,
    #[serde(default, deserialize_with = "some_vlan")]
    vlan: Option<u16>,
    port: String,
    #[serde(default, deserialize_with = "some_remote")]
    remote: Option<IpAddr>,
}

impl From<FdbKeys> for StaticFdb {
    fn from(k: FdbKeys) -> StaticFdb {
        StaticFdb { mac: canonical_mac(&k.mac), vlan: k.vlan.unwrap_or(0), port: k.port, remote: k.remote }
    }
}

/// One spelling for each address, so that equal ones compare equal. What is none is left for validation.
pub(super) fn canonical_mac(text: &str) -> String {
    text.parse().map_or_else(|_| text.to_owned(), |mac: MacAddr| mac.to_string())
}

/// A VLAN of any size, so that 70000 is refused in the same words as 5000.
fn some_vlan<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<Option<u16>, D::Error> {
    let Some(number) = Option::<i64>::deserialize(input)? else { return Ok(None) };
    match u16::try_from(number) {
        Ok(vlan) => Ok(Some(vlan)),
        Err(_) => Err(de::Error::custom(format!("VLAN {number} is out of range; use 1 to 4094"))),
    }
}

struct Address(IpNet);

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(input: D) -> std::result::Result<Self, D::Error> {
        parse_address(&String::deserialize(input)?).map(Address).map_err(de::Error::custom)
    }
}

struct Gateway(IpAddr);

impl<'de> Deserialize<'de> for Gateway {
    fn deserialize<D: Deserializer<'de>>(input: D) -> std::result::Result<Self, D::Error> {
        parse_gateway(&String::deserialize(input)?).map(Gateway).map_err(de::Error::custom)
    }
}

struct Remote(IpAddr);

impl<'de> Deserialize<'de> for Remote {
    fn deserialize<D: Deserializer<'de>>(input: D) -> std::result::Result<Self, D::Error> {
        parse_remote(&String::deserialize(input)?).map(Remote).map_err(de::Error::custom)
    }
}

fn some_remote<'de, D: Deserializer<'de>>(input: D) -> std::result::Result<Option<IpAddr>, D::Error> {
    Ok(Option::<Remote>::deserialize(input)?.map(|r| r.0))
}

/// An address of a tunnel's end. One of IPv4 in IPv6's clothes is taken as what it is.
///
/// # Errors
/// Says how it is written.
pub fn parse_remote(text: &str) -> Result<IpAddr> {
    text.parse().map(|a: IpAddr| a.to_canonical()).map_err(|_| {
        Error::invalid(format!("'{}' is not an address", text.escape_debug()))
            .hint("write a tunnel's end like 192.0.2.2 or 2001:db8::2")
    })
}

/// An interface's address.
///
/// # Errors
/// Says how it is written.
pub fn parse_address(text: &str) -> Result<IpNet> {
    text.parse().map_err(|_| {
        Error::invalid(format!("'{text}' is not an address with a prefix length"))
            .hint("write it like 10.7.0.1/24 or fd00::1/64")
    })
}

/// A gateway's address.
///
/// # Errors
/// Says how it is written.
pub fn parse_gateway(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| {
        Error::invalid(format!("'{text}' is not an address"))
            .hint("write a gateway without prefix length, like 10.7.0.254")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::BridgeSpec;

    fn port(json: &str) -> std::result::Result<PortSpec, String> {
        let value: serde_json::Value = serde_json::from_str(json).unwrap();
        check_port("web", &value).map_err(|e| e.to_string())?;
        serde_json::from_value(value).map_err(|e| e.to_string())
    }

    #[test]
    fn ports_of_every_type_survive_the_flat_form() {
        for json in [
            r#"{"bridge":"br0","type":"tap","netns":"web","netns-id":"4:1","follow":"docker:web","ifname":"eth0","adopt":true,"queues":2,
                "addresses":["10.7.0.1/24","fd00::1/64"],"gateways":["10.7.0.254"],"mac":"02:00:00:00:00:01","mtu":1400,
                "vlan":10,"trunks":"0,20-30","vlan-mode":"native-untagged","isolated":true,"split-horizon-group":3,
                "no-learning":true,"no-flood":true,"max-macs":5,"flood-limit":9,"offload":"off","labels":{"a":"b"}}"#,
            r#"{"bridge":"br0","type":"host","ifname":"br0i","queues":1,"addresses":["10.7.0.2/24"],"mtu":9000}"#,
            r#"{"bridge":"br0","type":"afpacket","interface":"eth1","force":true}"#,
            r#"{"bridge":"br0","type":"replay","file":"/tmp/a.pcap","rate":10,"count":2}"#,
            r#"{"bridge":"br0","type":"null","owner":"docker"}"#,
            r#"{"bridge":"br0","type":"gre","remotes":["192.0.2.2","192.0.2.3"],"local":"192.0.2.1","key":7,"csum":true,
                "seq":true,"tos":"inherit","ttl":9,"df":false,"mtu":1400,"mss-clamp":false,"bfd":true,"bfd-interval":100,
                "bfd-multiplier":5,"underlay":"up","vlan-map":"10=7","inner-vlan":"keep","learn-remotes":false}"#,
            r#"{"bridge":"br0","type":"vxlan","remotes":["2001:db8::2"],"vni":77,"dst-port":8472,"group":"ff05::9",
                "group-interface":"eth0","udp-csum":false,"zero-csum6":true,"tos":184,"ttl":"inherit"}"#,
            r#"{"bridge":"br0","type":"geneve","remotes":["192.0.2.2"],"vni":1}"#,
            r#"{"bridge":"br0","type":"nvgre","remotes":["192.0.2.2"],"vni":1}"#,
        ] {
            let spec = port(json).unwrap();
            let mut written = serde_json::to_value(&spec).unwrap();
            assert_eq!(serde_json::from_value::<PortSpec>(written.clone()).unwrap(), spec);
            let given: serde_json::Value = serde_json::from_str(json).unwrap();
            if given.get("owner").is_none() {
                written.as_object_mut().unwrap().remove("owner");
            }
            assert_eq!(written, given, "every key of the input is kept");
        }
    }

    #[test]
    fn wrong_keys_are_named() {
        for (json, text) in [
            (
                r#"{"bridge":"b","type":"tap","vlans":1}"#,
                "unknown key 'vlans' in port web; did you mean 'vlan'?",
            ),
            (
                r#"{"bridge":"b","type":"tap","vlan_mode":"access"}"#,
                "unknown key 'vlan_mode' in port web; did you mean 'vlan-mode'?",
            ),
            (
                r#"{"bridge":"b","type":"null","netns":"x"}"#,
                "port web: a port of type null has no key 'netns'; it belongs to type tap",
            ),
            (
                r#"{"bridge":"b","type":"vxlan","key":7}"#,
                "port web: a port of type vxlan has no key 'key'; it belongs to type gre",
            ),
            (
                r#"{"bridge":"b","type":"gre","remotes":["far"]}"#,
                "'far' is not an address; write a tunnel's end like 192.0.2.2 or 2001:db8::2",
            ),
            (
                r#"{"bridge":"b","type":"gre","tos":300}"#,
                "invalid value: integer `300`, expected \"inherit\" or a number from 0 to 255",
            ),
            (r#"{"bridge":"b","type":"afpacket"}"#, "missing key 'interface'"),
            (r#"{"bridge":"b","type":"tap","vlan":70000}"#, "VLAN 70000 is out of range; use 1 to 4094"),
            (
                r#"{"bridge":"b","type":"tap","addresses":["10.0.0.1"]}"#,
                "'10.0.0.1' is not an address with a prefix length; write it like 10.7.0.1/24 or fd00::1/64",
            ),
        ] {
            assert_eq!(port(json).unwrap_err(), text);
        }
        let far = port(r#"{"bridge":"b","type":"null","colour":1}"#).unwrap_err();
        assert!(
            far.starts_with("unknown key 'colour' in port web; known keys: owner, bridge, type"),
            "{far}"
        );
        assert!(port(r#"{"bridge":"b","type":"tun"}"#).unwrap_err().contains("expected one of `tap`"));
    }

    #[test]
    fn every_key_that_is_written_is_known() {
        // PortKeys and the lists above must not drift apart: serde names the fields it knows.
        let error = serde_json::from_str::<PortSpec>(r#"{"":1}"#).unwrap_err().to_string();
        let serde_keys: Vec<&str> = error.split('`').skip(1).step_by(2).filter(|k| !k.is_empty()).collect();
        let mut ours = Object::Port("p", "").keys();
        ours.sort_unstable();
        ours.dedup();
        let mut theirs = serde_keys;
        theirs.sort_unstable();
        assert_eq!(ours, theirs);
        let error = serde_json::from_str::<BridgeSpec>(r#"{"":1}"#).unwrap_err().to_string();
        let mut theirs: Vec<&str> = error.split('`').skip(1).step_by(2).filter(|k| !k.is_empty()).collect();
        theirs.sort_unstable();
        let mut ours = Object::Bridge("b").keys();
        ours.sort_unstable();
        assert_eq!(ours, theirs);
        let error = serde_json::from_str::<MeshSpec>(r#"{"":1}"#).unwrap_err().to_string();
        let mut theirs: Vec<&str> = error.split('`').skip(1).step_by(2).filter(|k| !k.is_empty()).collect();
        theirs.sort_unstable();
        let mut ours = Object::Mesh("m", "").keys();
        ours.sort_unstable();
        ours.dedup();
        assert_eq!(ours, theirs);
    }

    #[test]
    fn near_words_are_found_and_far_ones_are_not() {
        assert_eq!(nearest("adresses", &["addresses", "gateways"]), Some("addresses"));
        assert_eq!(nearest("Max_Macs", &["max-macs", "mac"]), Some("max-macs"));
        assert_eq!(nearest("zzz", &["vlan", "mac"]), None);
    }
}
