//! What the docker plugin was asked for. Docker tells a driver once only, so all of it is desired state.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::l3::{Proto, is_true, yes};
use super::{Owner, is_false, l3keys};

/// The docker plugin, with the networks and endpoints that docker made.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerSpec {
    /// Who enabled it. Not part of files given to `apply`.
    #[serde(default)]
    pub owner: Owner,
    /// Whether it is served; absent: true.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub enabled: bool,
    /// Where; absent: [`DOCKER_SOCKET`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// Docker's networks by their ids. Not part of files given to `apply`, as all the rest here.
    #[serde(default, rename = "network", skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, DockerNetwork>,
    /// Docker's endpoints by their ids.
    #[serde(default, rename = "endpoint", skip_serializing_if = "BTreeMap::is_empty")]
    pub endpoints: BTreeMap<String, DockerEndpoint>,
    /// Address pools that the IPAM driver gave to docker, by its pool ids.
    #[serde(default, rename = "pool", skip_serializing_if = "BTreeMap::is_empty")]
    pub pools: BTreeMap<String, DockerPool>,
}

/// Where docker looks for plugins.
pub const DOCKER_SOCKET: &str = "/run/docker/plugins/trunkline.sock";

impl Default for DockerSpec {
    fn default() -> Self {
        DockerSpec {
            owner: Owner::Cli,
            enabled: true,
            socket: None,
            networks: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            pools: BTreeMap::new(),
        }
    }
}

impl DockerSpec {
    /// Where it is served.
    pub fn socket(&self) -> &str {
        self.socket.as_deref().unwrap_or(DOCKER_SOCKET)
    }

    /// Whether docker has made anything.
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.endpoints.is_empty() && self.pools.is_empty()
    }
}

/// A network of docker's: a bridge or one VLAN of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerNetwork {
    /// Its bridge.
    pub bridge: String,
    /// The bridge was made for it and goes with it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub own_bridge: bool,
    /// The VLAN of its containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Its subnets.
    #[serde(default, with = "l3keys::nets", skip_serializing_if = "Vec::is_empty")]
    pub subnets: Vec<IpNet>,
    /// The gateway's addresses, of which containers get their default routes.
    #[serde(default, with = "l3keys::addrs", skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// The gateway was made for it and goes with it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub own_gateway: bool,
    /// Nothing leads out of it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub internal: bool,
    /// Its containers may talk to each other.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub icc: bool,
    /// MTU of its interfaces, bytes; absent: 1500, or what a mesh carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Its way out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// Published ports go through the daemon, not through the uplink's NAT.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proxy: bool,
    /// NAT rules that were made for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nat: Vec<String>,
}

/// A container's place in a network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerEndpoint {
    /// The network's id.
    pub network: String,
    /// The container's addresses.
    #[serde(default, with = "l3keys::nets", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Its MAC address.
    pub mac: String,
    /// How often its interface was made: it gets another name each time.
    #[serde(default)]
    pub generation: u32,
    /// The container's namespace, once docker has told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sandbox: Option<String>,
    /// Its published ports.
    #[serde(default, rename = "publish", skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<DockerPort>,
}

/// A published port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerPort {
    /// Of which protocol.
    pub proto: Proto,
    /// The host's address; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// The host's port.
    pub port: u16,
    /// The container's port.
    pub to: u16,
    /// The port of the link between the host and the switch that leads to it.
    pub link: u16,
    /// NAT rules that were made for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nat: Vec<String>,
}

/// An address pool of the IPAM driver.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DockerPool {
    /// The subnet.
    #[serde(with = "l3keys::net")]
    pub subnet: IpNet,
    /// The part of it that this host gives addresses of.
    #[serde(with = "l3keys::net")]
    pub range: IpNet,
    /// Addresses given out.
    #[serde(default, with = "l3keys::addrs", skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<IpAddr>,
}

/// The plugin, as `trunkline docker status` shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DockerStatus {
    /// Whether it is asked for.
    pub enabled: bool,
    /// Where it is served.
    pub socket: String,
    /// Whether it is served.
    pub serving: bool,
    /// Why it is not; empty when it is, or is not asked for.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Docker's networks by their ids.
    pub networks: BTreeMap<String, DockerNetwork>,
    /// Docker's endpoints by their ids.
    pub endpoints: BTreeMap<String, DockerEndpoint>,
}
