//! What the control plane asks for.

use std::fmt;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};
use trunkline_nat::{Rule, RuleError, RuleId, Zone};
use trunkline_packet::{MacAddr, PortId};
use trunkline_router::{Limits, TableError, dhcp, ra};

/// Everything of the network layer, replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct L3Config {
    /// Addresses in bridges.
    pub gateways: Vec<Gateway>,
    /// Ways to the world.
    pub uplinks: Vec<Uplink>,
    /// Of shared uplinks: a port on the host's loopback ([`crate::Engine::add_l3_port`]), by which its own stack and
    /// the hosts inside talk under the shared addresses. Without, they cannot.
    pub loopbacks: Vec<(PortId, trunkline_nat::Uplink)>,
    /// Routes besides those of the interfaces' own networks.
    pub routes: Vec<Route>,
    /// Rules of translation; of masquerades the first that fits counts.
    pub nat: Vec<(RuleId, Rule)>,
    /// Limits and times of connection tracking, of all workers together; `shard` is set by the engine. Another
    /// `capacity` than before begins with an empty table.
    pub ct: trunkline_nat::Config,
    /// Limits of the neighbour table; taken when the first interface is made.
    pub neighbours: Limits,
}

/// The router of a bridge, or of one VLAN of it.
#[derive(Clone, Debug)]
pub struct Gateway {
    /// A port of the bridge without descriptors; untagged there. Its MAC address becomes a static entry of
    /// the bridge's table.
    pub port: PortId,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses with the networks that are on the bridge.
    pub addresses: Vec<IpNet>,
    /// Longest IP packet, bytes.
    pub mtu: u16,
    /// The bridge.
    pub zone: Zone,
    /// Its hosts are not to talk to each other: not routed back into the network that a packet came from.
    pub isolated: bool,
    /// Routed to and from gateways of other bridges that are open too; those of one bridge always are.
    pub open: bool,
    /// DHCPv4.
    pub dhcp: Option<dhcp::Config>,
    /// Router advertisements.
    pub ra: Option<ra::Config>,
}

/// A way to the world.
#[derive(Clone, Debug)]
pub struct Uplink {
    /// A port of [`crate::Engine::add_l3_port`].
    pub port: PortId,
    /// How rules name it.
    pub uplink: trunkline_nat::Uplink,
    /// Its MAC address.
    pub mac: MacAddr,
    /// Its addresses with the networks that are on the link.
    pub addresses: Vec<IpNet>,
    /// Longest IP packet, bytes.
    pub mtu: u16,
    /// Address and MAC are the host's, whose stack answers ARP, ND and pings. What no connection or rule of ours
    /// names is the host's business.
    pub shared: bool,
    /// Prefixes inside that neighbours on the link take for on-link (RFC 4389).
    pub nd_proxy: Vec<Ipv6Net>,
}

/// A route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// For which destinations.
    pub prefix: IpNet,
    /// The next router; none: on the link itself.
    pub via: Option<IpAddr>,
    /// By which interface.
    pub port: PortId,
    /// The lowest of those for one prefix counts.
    pub metric: u32,
}

/// Why a configuration was refused. Nothing has changed then.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum L3Error {
    /// Interfaces or routes.
    Table(TableError),
    /// A rule of translation.
    Rule(RuleId, RuleError),
    /// DHCP on a gateway.
    Dhcp(PortId, dhcp::ConfigError),
    /// A gateway's port is in no bridge, or has descriptors or a tunnel.
    NotGateway(PortId),
    /// An uplink's or loopback's port was not made by [`crate::Engine::add_l3_port`].
    NotUplink(PortId),
    /// Two uplinks of one number.
    UplinkTwice(trunkline_nat::Uplink),
    /// A gateway with DHCP and without an IPv4 address.
    DhcpAddress(PortId),
    /// The table of a bridge has no room for the gateway's MAC address.
    BridgeFull(PortId),
}

impl fmt::Display for L3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            L3Error::Table(e) => e.fmt(f),
            L3Error::Rule(_, e) => e.fmt(f),
            L3Error::Dhcp(_, e) => e.fmt(f),
            L3Error::NotGateway(_) => {
                f.write_str("a gateway needs a port of a bridge with nothing behind it")
            }
            L3Error::NotUplink(_) => f.write_str("an uplink needs a port that is in no bridge"),
            L3Error::UplinkTwice(u) => write!(f, "two uplinks have the number {}", u.0),
            L3Error::DhcpAddress(_) => f.write_str("a gateway without an IPv4 address cannot serve DHCP"),
            L3Error::BridgeFull(_) => f.write_str("the bridge's table is full of static addresses"),
        }
    }
}

impl std::error::Error for L3Error {}
