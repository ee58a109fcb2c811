//! Results: what ADD answers and what comes back as `prevResult`, in the formats of each version.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::config::Version;
use super::{Code, Failure, Result};

/// A result, without what differs between versions.
#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub(super) struct Outcome {
    #[serde(deserialize_with = "or_default")]
    pub(super) interfaces: Vec<Interface>,
    #[serde(deserialize_with = "or_default")]
    pub(super) ips: Vec<Ip>,
    #[serde(deserialize_with = "or_default")]
    pub(super) routes: Vec<Route>,
    pub(super) dns: Dns,
}

#[derive(Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) mac: String,
    /// Since 1.1.0; 0: not said.
    pub(super) mtu: u32,
    pub(super) sandbox: String,
    /// Other plugins', since 1.1.0.
    #[serde(rename = "socketPath")]
    pub(super) socket_path: String,
    #[serde(rename = "pciID")]
    pub(super) pci_id: String,
}

#[derive(Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Ip {
    pub(super) address: IpNet,
    #[serde(default)]
    pub(super) gateway: Option<IpAddr>,
    /// Index of `interfaces`.
    #[serde(default)]
    pub(super) interface: Option<usize>,
}

#[derive(Deserialize, Clone, Debug, PartialEq)]
pub(super) struct Route {
    pub(super) dst: IpNet,
    #[serde(default)]
    pub(super) gw: Option<IpAddr>,
    /// What 1.1.0 added: mtu, advmss, priority, table, scope.
    #[serde(flatten)]
    pub(super) more: Map<String, Value>,
}

#[derive(Deserialize, Serialize, Clone, Debug, Default, PartialEq)]
#[serde(default)]
pub(super) struct Dns {
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    nameservers: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    domain: String,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    search: Vec<String>,
    #[serde(deserialize_with = "or_default", skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
}

impl Dns {
    pub(super) fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

/// Go writes an empty list as null.
fn or_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

impl Outcome {
    /// Reads one of any version that is spoken here; `whose` is for the error.
    pub(super) fn read(json: &Value, whose: &str) -> Result<Outcome> {
        serde_path_to_error::deserialize(json).map_err(|e| {
            Failure::new(Code::Decode, format!("{whose} is malformed at '{}': {}", e.path(), e.inner()))
        })
    }

    /// As a version writes it.
    pub(super) fn write(&self, version: Version) -> Value {
        let ip = |ip: &Ip| {
            let mut json = json!({ "address": ip.address.to_string() });
            if version < Version::V1_0_0 {
                json["version"] = if ip.address.addr().is_ipv4() { "4" } else { "6" }.into();
            }
            if let Some(gateway) = ip.gateway {
                json["gateway"] = gateway.to_string().into();
            }
            if let Some(interface) = ip.interface {
                json["interface"] = interface.into();
            }
            json
        };
        let interface = |i: &Interface| {
            let mut json = json!({ "name": i.name });
            let since = |v: Version, text: &String| (version >= v && !text.is_empty()).then(|| text.clone());
            let oldest = Version::V0_3_0;
            for (key, text) in [
                ("mac", since(oldest, &i.mac)),
                ("sandbox", since(oldest, &i.sandbox)),
                ("socketPath", since(Version::V1_1_0, &i.socket_path)),
                ("pciID", since(Version::V1_1_0, &i.pci_id)),
            ] {
                if let Some(text) = text {
                    json[key] = text.into();
                }
            }
            if version >= Version::V1_1_0 && i.mtu > 0 {
                json["mtu"] = i.mtu.into();
            }
            json
        };
        let route = |route: &Route| {
            let mut json = json!({ "dst": route.dst.to_string() });
            if let Some(gw) = route.gw {
                json["gw"] = gw.to_string().into();
            }
            if version >= Version::V1_1_0 {
                route.more.iter().for_each(|(key, value)| json[key] = value.clone());
            }
            json
        };
        let mut json = json!({ "cniVersion": version.to_string() });
        // Absent where empty, as others write it.
        if !self.interfaces.is_empty() {
            json["interfaces"] = self.interfaces.iter().map(interface).collect();
        }
        if !self.ips.is_empty() {
            json["ips"] = self.ips.iter().map(ip).collect();
        }
        if !self.routes.is_empty() {
            json["routes"] = self.routes.iter().map(route).collect();
        }
        json["dns"] = serde_json::to_value(&self.dns).unwrap_or_default();
        json
    }
}
