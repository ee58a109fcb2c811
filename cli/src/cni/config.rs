//! The network's configuration, as it comes on standard input.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::{Map, Value};
use trunkline_control::model::attach::PublishWish;
use trunkline_control::model::keys::nearest;
use trunkline_control::model::l3::Proto;

use super::result::Dns;
use super::{Code, Failure, Result, is_id};

/// The versions of the specification that are spoken here, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Version {
    V0_3_0,
    V0_3_1,
    V0_4_0,
    V1_0_0,
    V1_1_0,
}

impl Version {
    pub(super) const ALL: [Version; 5] =
        [Version::V0_3_0, Version::V0_3_1, Version::V0_4_0, Version::V1_0_0, Version::V1_1_0];
    pub(super) const LATEST: Version = Version::V1_1_0;

    pub(super) fn parse(text: &str) -> Option<Version> {
        Version::ALL.into_iter().find(|v| v.to_string() == text)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Version::V0_3_0 => "0.3.0",
            Version::V0_3_1 => "0.3.1",
            Version::V0_4_0 => "0.4.0",
            Version::V1_0_0 => "1.0.0",
            Version::V1_1_0 => "1.1.0",
        })
    }
}

/// The version of a configuration. One without is of version 0.1.0, which had no such key.
pub(super) fn version(json: &Value) -> Result<Version> {
    let text = match json.get("cniVersion") {
        None => "0.1.0",
        Some(Value::String(text)) => text,
        Some(other) => {
            return Err(Failure::new(Code::Decode, format!("cniVersion {other} is no string")));
        }
    };
    Version::parse(text).ok_or_else(|| {
        let all: Vec<String> = Version::ALL.iter().map(ToString::to_string).collect();
        Failure::new(Code::Version, format!("cniVersion {} is not supported", text.escape_debug()))
            .details(format!("use one of {}", all.join(", ")))
    })
}

/// What every command needs, also of a configuration that is wrong otherwise: what was made with it before must be
/// possible to remove.
#[derive(Clone, Debug)]
pub(super) struct Common {
    /// The network's name.
    pub(super) name: String,
    /// The executable of the IPAM plugin; absent: no addresses, or those the runtime gives.
    pub(super) ipam: Option<String>,
    /// The daemon's run directory.
    pub(super) run_dir: PathBuf,
}

impl Common {
    pub(super) fn read(json: &Value, var: &dyn Fn(&str) -> Option<String>) -> Result<Common> {
        let Some(map) = json.as_object() else {
            return Err(Failure::new(Code::Decode, "the network configuration is no JSON object"));
        };
        let text = |map: &Map<String, Value>, key: &str| match map.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone()).filter(|t| !t.is_empty())),
            Some(other) => Err(Failure::new(Code::Config, format!("'{key}' is {other}, not a string"))),
        };
        let name = text(map, "name")?.ok_or_else(|| Failure::new(Code::Config, "'name' is missing"))?;
        if !is_id(&name) {
            return Err(Failure::new(
                Code::Config,
                format!("'name' is '{}', which names no network", name.escape_debug()),
            )
            .details("it begins with a letter or digit, and has letters, digits, '_', '.' and '-'"));
        }
        let ipam = match map.get("ipam") {
            None | Some(Value::Null) => None,
            Some(Value::Object(ipam)) => text(ipam, "type")?,
            Some(other) => {
                return Err(Failure::new(Code::Config, format!("'ipam' is {other}, not an object")));
            }
        };
        if let Some(kind) = ipam.as_ref().filter(|k| k.contains('/') || matches!(k.as_str(), "." | "..")) {
            return Err(Failure::new(
                Code::Config,
                format!("'ipam.type' is '{kind}', not the name of a plugin"),
            ));
        }
        let given = text(map, "runDir")?.or_else(|| var("TRUNKLINE_RUN_DIR"));
        Ok(Common { name, ipam, run_dir: given.unwrap_or_else(|| "/run/trunkline".to_owned()).into() })
    }
}

/// Keys of the configuration that the specification and its conventions define, without what is read here.
const KNOWN: [&str; 12] = [
    "cniVersion",
    "cniVersions",
    "name",
    "type",
    "args",
    "capabilities",
    "ipam",
    "prevResult",
    "runtimeConfig",
    "runDir",
    "disableCheck",
    "disableGC",
];
/// Our own, and those of the specification that say something about the network.
const OWN: [&str; 13] = [
    "bridge",
    "vlan",
    "mtu",
    "mesh",
    "uplink",
    "gateway",
    "isGateway",
    "isDefaultGateway",
    "ipMasq",
    "icc",
    "antiSpoof",
    "publish",
    "dns",
];
/// What runtimes may give for one container, if the configuration says so in `capabilities`.
const CAPABILITIES: [&str; 3] = ["portMappings", "mac", "ips"];

/// The plugin's own part.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Config {
    /// Of the switch; made if it is not there. Absent: that of the mesh, or one of the network's own.
    pub(super) bridge: Option<String>,
    /// 1 to 4094; 0 is none.
    pub(super) vlan: u16,
    pub(super) mtu: Option<u32>,
    pub(super) mesh: Option<String>,
    pub(super) uplink: Option<String>,
    /// The switch's addresses in the network, in place of those that IPAM says; implies `isGateway`.
    pub(super) gateway: Gateways,
    /// The switch is the containers' router.
    pub(super) is_gateway: bool,
    /// And the router of their default routes.
    pub(super) is_default_gateway: bool,
    /// What leaves the network has the uplink's address; implies `isGateway`.
    pub(super) ip_masq: bool,
    /// Absent: true.
    pub(super) icc: Option<bool>,
    /// Containers send from their own addresses only.
    pub(super) anti_spoof: bool,
    /// How published ports reach the container.
    pub(super) publish: Publishing,
    pub(super) dns: Dns,
    pub(super) args: Args,
    pub(super) runtime_config: RuntimeConfig,
}

#[derive(Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub(super) enum Publishing {
    #[default]
    Nat,
    Proxy,
}

/// One address or several.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(from = "OneOrMore")]
pub(super) struct Gateways(pub(super) Vec<IpAddr>);

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(IpAddr),
    More(Vec<IpAddr>),
}

impl From<OneOrMore> for Gateways {
    fn from(given: OneOrMore) -> Gateways {
        match given {
            OneOrMore::One(one) => Gateways(vec![one]),
            OneOrMore::More(more) => Gateways(more),
        }
    }
}

/// CONVENTIONS.md: `args.cni`.
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
pub(super) struct Args {
    cni: CniArgs,
}

#[derive(Deserialize, Clone, Debug, Default)]
#[serde(default)]
struct CniArgs {
    mac: Option<String>,
}

/// CONVENTIONS.md, "Dynamic plugin specific fields".
#[derive(Deserialize, Clone, Debug, Default)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct RuntimeConfig {
    #[serde(deserialize_with = "or_default")]
    port_mappings: Vec<PortMapping>,
    mac: Option<String>,
    /// IPAM plugins read these too.
    #[serde(deserialize_with = "or_default")]
    pub(super) ips: Vec<IpNet>,
}

#[derive(Deserialize, Clone, Debug)]
#[serde(rename_all = "camelCase")]
struct PortMapping {
    host_port: i64,
    container_port: i64,
    #[serde(default)]
    protocol: String,
    #[serde(default, rename = "hostIP")]
    host_ip: String,
}

/// Go writes an empty list as null.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl Config {
    /// Reads and checks all of it.
    pub(super) fn read(json: &Value) -> Result<Config> {
        let map = json.as_object().into_iter().flatten();
        for (key, value) in map.filter(|(key, _)| !key.starts_with("cni.dev/")) {
            if !KNOWN.contains(&key.as_str()) && !OWN.contains(&key.as_str()) {
                return Err(unknown(key, value));
            }
        }
        for (key, value) in json.get("runtimeConfig").and_then(Value::as_object).into_iter().flatten() {
            if !CAPABILITIES.contains(&key.as_str()) {
                return Err(Failure::new(
                    Code::Field,
                    format!("'runtimeConfig.{key}' is not supported: {value}"),
                )
                .details(format!(
                    "leave '{key}' out of this plugin's capabilities: it has {}",
                    CAPABILITIES.join(", ")
                )));
            }
        }
        let config: Config = serde_path_to_error::deserialize(json)
            .map_err(|e| Failure::new(Code::Config, format!("'{}': {}", e.path(), e.inner())))?;
        if config.vlan > 4094 {
            return Err(
                Failure::new(Code::Config, format!("'vlan' is {}", config.vlan)).details("use 1 to 4094")
            );
        }
        if config.mtu.is_some_and(|mtu| mtu != 0 && !(576..=65535).contains(&mtu)) {
            return Err(Failure::new(Code::Config, format!("'mtu' is {}", config.mtu.unwrap_or_default()))
                .details("use 576 to 65535, with IPv6 at least 1280"));
        }
        Ok(config)
    }

    /// The switch routes for the containers.
    pub(super) fn routes(&self) -> bool {
        self.is_gateway || self.is_default_gateway || self.ip_masq || !self.gateway.0.is_empty()
    }

    /// The MAC address that somebody asks for: the runtime, or as `args` say.
    pub(super) fn mac(&self, args: &[(String, String)]) -> Option<String> {
        let of_args = args.iter().find(|(key, _)| key == "MAC").map(|(_, value)| value.clone());
        let given = [self.runtime_config.mac.clone(), self.args.cni.mac.clone(), of_args];
        given.into_iter().flatten().find(|mac| !mac.is_empty())
    }

    /// The ports to publish.
    pub(super) fn published(&self) -> Result<Vec<PublishWish>> {
        let all = self.runtime_config.port_mappings.iter().enumerate();
        all.map(|(n, mapping)| mapping.read(n)).collect()
    }
}

impl PortMapping {
    fn read(&self, n: usize) -> Result<PublishWish> {
        let field = |key: &str| format!("'runtimeConfig.portMappings[{n}].{key}'");
        let port = |key: &str, port: i64| match u16::try_from(port) {
            Ok(port @ 1..) => Ok(port),
            _ => {
                Err(Failure::new(Code::Config, format!("{} is {port}", field(key))).details("use 1 to 65535"))
            }
        };
        let proto = match self.protocol.to_lowercase().as_str() {
            "" | "tcp" => Proto::Tcp,
            "udp" => Proto::Udp,
            other => {
                let what =
                    format!("{} is {}, which has no ports here", field("protocol"), other.escape_debug());
                return Err(Failure::new(Code::Field, what).details("publish tcp or udp"));
            }
        };
        let host = match self.host_ip.parse::<IpAddr>() {
            Ok(addr) => Some(addr).filter(|a| !a.is_unspecified()),
            Err(_) if self.host_ip.is_empty() => None,
            Err(_) => {
                let what =
                    format!("{} is '{}', not an address", field("hostIP"), self.host_ip.escape_debug());
                return Err(Failure::new(Code::Config, what));
            }
        };
        let (port, to) = (port("hostPort", self.host_port)?, port("containerPort", self.container_port)?);
        Ok(PublishWish { proto, host, port, to })
    }
}

fn unknown(key: &str, value: &Value) -> Failure {
    let failure = Failure::new(Code::Field, format!("unknown key '{key}': {value}"));
    let own = &OWN;
    match nearest(key, own) {
        Some(meant) => failure.details(format!("did you mean '{meant}'?")),
        None => failure.details(format!("this plugin has {}", own.join(", "))),
    }
}
