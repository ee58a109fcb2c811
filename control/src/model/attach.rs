//! Networks of containers that other programs ask for (docker, CNI, podman), and the attachments that CNI and
//! podman make: desired state, as the programs say it once only.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::guard::Allow;
use super::l3::{Proto, is_true, yes};
use super::{LinkRoute, Owner, PortKind, PortSpec, PortStatus, TapSpec, is_false, l3keys};

/// A network of containers that docker, CNI or podman asked for: a bridge or one VLAN of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Network {
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
    /// Its containers are held to their MAC and IP addresses.
    #[serde(default, skip_serializing_if = "is_false")]
    pub anti_spoof: bool,
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

impl Network {
    /// The port of a container with these addresses, held to what the network allows.
    pub fn port(&self, owner: Owner, tap: TapSpec, addresses: &[IpNet]) -> PortSpec {
        PortSpec {
            vlan: self.vlan,
            // Without a VLAN of its own, untagged frames and no others: the bridge may have networks in VLANs
            // beside it.
            trunks: self.vlan.is_none().then(|| "0".to_owned()),
            isolated: !self.icc,
            anti_spoof: match self.anti_spoof {
                // The MAC address is that of the interface.
                true => addresses.iter().map(|net| Allow::Net(net.addr().into())).collect(),
                false => Vec::new(),
            },
            ..PortSpec::new(owner, &self.bridge, PortKind::Tap(tap))
        }
    }
}

/// A published port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Published {
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

/// A container's interface that CNI or podman asked for. What the interface is like is said by its port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Attachment {
    /// CNI or podman.
    pub owner: Owner,
    /// The network, by its key in the desired state.
    pub network: String,
    /// The container's id, as its owner says it.
    pub container: String,
    /// The port that was made for it.
    pub port: String,
    /// Published ports.
    #[serde(default, rename = "publish", skip_serializing_if = "Vec::is_empty")]
    pub published: Vec<Published>,
}

/// Asks for an attachment: the body of `POST /v1/attachments`. What it names and is not there is made, and goes
/// with the last attachment of the network.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Attach {
    /// CNI or podman.
    pub owner: Owner,
    /// The network.
    pub network: NetworkWish,
    /// The container's id.
    pub container: String,
    /// Its network namespace: an absolute path.
    pub netns: String,
    /// Name of the interface in there; nobody else may have it yet.
    pub ifname: String,
    /// Addresses of the interface.
    #[serde(default, with = "l3keys::nets", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Gateways of its default routes, at most one of each family.
    #[serde(default, with = "l3keys::addrs", skip_serializing_if = "Vec::is_empty")]
    pub default_routes: Vec<IpAddr>,
    /// Its other routes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<LinkRoute>,
    /// Its MAC address; absent: made of its first IP address, or drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Ports of the host that lead to it. This needs a gateway.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PublishWish>,
    /// Labels of its port, e.g. the name of the pod.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What is asked of a network. All attachments of one must say the same of its bridge, VLAN and uplink.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct NetworkWish {
    /// Its name, unique for its owner.
    pub name: String,
    /// The bridge; absent: that of the mesh, or one of the network's own, which goes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// A mesh that is there already, whose bridge it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
    /// The VLAN of its containers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// MTU of its interfaces, bytes; absent: 1500, or what a mesh carries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Its containers may talk to each other.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub icc: bool,
    /// Its containers are held to their MAC and IP addresses.
    #[serde(default, skip_serializing_if = "is_false")]
    pub anti_spoof: bool,
    /// Addresses of the switch in it, with the subnets' prefix lengths: containers are routed, and ports can be
    /// published. None: nothing leads out.
    #[serde(default, with = "l3keys::nets", skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpNet>,
    /// What leaves it has the uplink's address.
    #[serde(default, skip_serializing_if = "is_false")]
    pub masquerade: bool,
    /// The way out; absent: the only uplink there is, else the host's own address, shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// Published ports go through the daemon, not through the uplink's NAT.
    #[serde(default, skip_serializing_if = "is_false")]
    pub proxy: bool,
}

/// A port to publish.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PublishWish {
    /// Of which protocol.
    pub proto: Proto,
    /// The host's address; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<IpAddr>,
    /// The host's port; 0: any that is free.
    pub port: u16,
    /// The container's port.
    pub to: u16,
}

/// An attachment, as the API shows it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AttachmentStatus {
    /// `OWNER:NETWORK:CONTAINER:IFNAME`.
    pub id: String,
    /// Desired.
    pub attachment: Attachment,
    /// Its network.
    pub network: Network,
    /// Its port, with what is desired of the interface.
    pub port: PortStatus,
    /// The interface as it is in the container's namespace now; only where one attachment is asked for, and
    /// absent when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<InterfaceStatus>,
}

/// An interface, observed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InterfaceStatus {
    /// Its name.
    pub name: String,
    /// Its MAC address.
    pub mac: String,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// It is set up.
    pub up: bool,
    /// Addresses, without IPv6 link-local ones.
    #[serde(with = "l3keys::nets")]
    pub addresses: Vec<IpNet>,
    /// Gateways of default routes by it.
    #[serde(with = "l3keys::addrs")]
    pub default_routes: Vec<IpAddr>,
    /// Other routes by it, without those of its addresses.
    pub routes: Vec<LinkRoute>,
}

impl Attach {
    /// What names the attachment: `OWNER:NETWORK:CONTAINER:IFNAME`.
    pub fn id(&self) -> String {
        attachment_id(self.owner, &self.network.name, &self.container, &self.ifname)
    }
}

/// What names an attachment in the API.
pub fn attachment_id(owner: Owner, network: &str, container: &str, ifname: &str) -> String {
    format!("{}:{network}:{container}:{ifname}", owner.name())
}
