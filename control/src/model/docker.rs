//! What the docker plugin was asked for. Docker tells a driver once only, so all of it is desired state.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::attach::{Network, Published};
use super::l3::{is_true, yes};
use super::{Owner, l3keys};

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
    pub networks: BTreeMap<String, Network>,
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
    pub published: Vec<Published>,
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
    pub networks: BTreeMap<String, Network>,
    /// Docker's endpoints by their ids.
    pub endpoints: BTreeMap<String, DockerEndpoint>,
}
