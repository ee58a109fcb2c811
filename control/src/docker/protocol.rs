//! What docker and a network driver say to each other: moby's `libnetwork/drivers/remote/api` and
//! `libnetwork/ipams/remote/api`, as far as it is used here.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Of every request and answer.
pub(super) const CONTENT_TYPE: &str = "application/vnd.docker.plugins.v1.2+json";

/// Key of what `-o` says.
pub(super) const GENERIC: &str = "com.docker.network.generic";
/// Key of `--internal`.
pub(super) const INTERNAL: &str = "com.docker.network.internal";
/// Key of published ports.
pub(super) const PORT_MAP: &str = "com.docker.network.portmap";

/// Options by key, of any shape.
pub(super) type Options = BTreeMap<String, Value>;

/// Go writes what is empty as null, or leaves it out.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(d: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateNetwork {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: Options,
    #[serde(default, rename = "IPv4Data", deserialize_with = "or_default")]
    pub(super) ipv4: Vec<IpamData>,
    #[serde(default, rename = "IPv6Data", deserialize_with = "or_default")]
    pub(super) ipv6: Vec<IpamData>,
}

#[derive(Deserialize, Debug, Default)]
#[serde(rename_all = "PascalCase")]
pub(super) struct IpamData {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) pool: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) gateway: String,
}

/// DeleteNetwork, and others that name nothing else.
#[derive(Deserialize, Debug)]
pub(super) struct NetworkRef {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
pub(super) struct CreateEndpoint {
    #[serde(rename = "NetworkID")]
    pub(super) network_id: String,
    #[serde(rename = "EndpointID")]
    pub(super) endpoint_id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) interface: Interface,
}

#[derive(Deserialize, Serialize, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Interface {
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) address: String,
    #[serde(
        default,
        rename = "AddressIPv6",
        deserialize_with = "or_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub(super) address_ipv6: String,
    #[serde(default, deserialize_with = "or_default", skip_serializing_if = "String::is_empty")]
    pub(super) mac_address: String,
}

/// Leave, DeleteEndpoint, EndpointOperInfo, RevokeExternalConnectivity; Join and ProgramExternalConnectivity
/// say more.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
pub(super) struct EndpointRef {
    #[serde(rename = "EndpointID")]
    pub(super) endpoint_id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) sandbox_key: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: Options,
}

#[derive(Serialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Joined {
    pub(super) interface_name: InterfaceName,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gateway: Option<IpAddr>,
    #[serde(rename = "GatewayIPv6", skip_serializing_if = "Option::is_none")]
    pub(super) gateway_ipv6: Option<IpAddr>,
    /// Docker is not to give the container another way out.
    pub(super) disable_gateway_service: bool,
}

#[derive(Serialize, Debug, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InterfaceName {
    pub(super) src_name: String,
    pub(super) dst_prefix: String,
}

/// One of [`PORT_MAP`].
#[derive(Deserialize, Debug, Clone, PartialEq, Eq)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PortBinding {
    /// Number of the protocol.
    pub(super) proto: u8,
    /// The container's.
    pub(super) port: u16,
    #[serde(default, rename = "HostIP", deserialize_with = "or_default")]
    pub(super) host_ip: String,
    /// 0: any that is free.
    #[serde(default)]
    pub(super) host_port: u16,
    /// One of those from `host_port` to here.
    #[serde(default)]
    pub(super) host_port_end: u16,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
pub(super) struct RequestPool {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) pool: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) sub_pool: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: Options,
    #[serde(default, rename = "V6")]
    pub(super) v6: bool,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PoolRef {
    #[serde(rename = "PoolID")]
    pub(super) pool_id: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) address: String,
    #[serde(default, deserialize_with = "or_default")]
    pub(super) options: Options,
}
