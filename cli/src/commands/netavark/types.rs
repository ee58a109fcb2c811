//! What netavark writes: `src/network/types.rs` of containers/netavark, as far as it is used here. Keys that are
//! not known are left alone: newer versions have more.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Deserializer};

/// Of setup and teardown.
#[derive(Deserialize, Debug)]
pub(super) struct Exec {
    pub(super) container_id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) container_name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) port_mappings: Vec<PortMapping>,
    pub(super) network: Network,
    pub(super) network_options: NetworkOptions,
}

#[derive(Deserialize, Debug)]
pub(super) struct Network {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) internal: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ipv6_enabled: bool,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) ipam_options: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) subnets: Vec<Subnet>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) routes: Vec<Route>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) network_dns_servers: Vec<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) network_interface: String,
}

#[derive(Deserialize, Debug)]
pub(super) struct Subnet {
    pub(super) subnet: IpNet,
    pub(super) gateway: Option<IpAddr>,
}

#[derive(Deserialize, Debug)]
pub(super) struct Route {
    pub(super) destination: IpNet,
    pub(super) gateway: Option<IpAddr>,
    pub(super) metric: Option<u32>,
    pub(super) route_type: Option<String>,
}

/// What is asked of one container's interface.
#[derive(Deserialize, Debug)]
pub(super) struct NetworkOptions {
    pub(super) interface_name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) static_ips: Vec<IpAddr>,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) static_mac: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: BTreeMap<String, String>,
}

#[derive(Deserialize, Debug)]
pub(super) struct PortMapping {
    pub(super) container_port: u16,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) host_ip: String,
    /// 0: as the container's.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) host_port: u16,
    /// Names separated by commas; empty: TCP.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) protocol: String,
    /// 0 and 1: one port.
    #[serde(default, deserialize_with = "or_default")]
    pub(super) range: u16,
}

/// Go and Rust write what is empty as null, or leave it out.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}
