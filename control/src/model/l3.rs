//! Gateways, uplinks, routes, NAT rules and the settings of connection tracking; and what is observed of
//! them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use super::l3keys::{AddrRange, PortRange, Target, parse_net};
use super::{Owner, PortState, is_false, l3keys};

pub(super) fn yes() -> bool {
    true
}

pub(super) fn is_true(b: &bool) -> bool {
    *b
}

/// An address of the switch's own in a bridge, or in one VLAN of it: the router of the hosts there. Its name
/// is the bridge's, or BRIDGE.VLAN.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct GatewaySpec {
    /// Who made it. Not part of files given to `apply`.
    #[serde(default)]
    pub owner: Owner,
    /// Its addresses with prefix length, v4 and v6; at least one.
    #[serde(with = "l3keys::nets")]
    pub addresses: Vec<IpNet>,
    /// Its MAC address; absent: drawn once and kept.
    #[serde(default, deserialize_with = "l3keys::some_mac", skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Largest packet sent into the bridge, bytes; absent: 1500.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// IPv4 addresses that the DHCP server gives out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_range: Option<AddrRange>,
    /// How long a lease lasts, seconds; absent: 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dhcp_lease: Option<u32>,
    /// IPv4 addresses that are always given to the same MAC address, by MAC address.
    #[serde(default, with = "l3keys::reservations", skip_serializing_if = "BTreeMap::is_empty")]
    pub reservations: BTreeMap<String, IpAddr>,
    /// Announce the IPv6 prefixes by router advertisements.
    #[serde(default, skip_serializing_if = "is_false")]
    pub ra: bool,
    /// Name servers that DHCP (v4 ones) and router advertisements (v6 ones) tell of.
    #[serde(default, with = "l3keys::addrs", skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    /// Domain that DHCP tells of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
    /// The hosts of this network may exchange frames with each other, not only with the gateway.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub icc: bool,
    /// Not routed to and from the networks of other bridges; only to uplinks.
    #[serde(default, skip_serializing_if = "is_false")]
    pub private: bool,
}

impl GatewaySpec {
    /// Whether it serves DHCP.
    pub fn has_dhcp(&self) -> bool {
        self.dhcp_range.is_some() || !self.reservations.is_empty()
    }
}

/// A way to the world outside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "l3keys::UplinkKeys", rename_all = "kebab-case")]
pub struct UplinkSpec {
    /// Who made it. Not part of files given to `apply`.
    #[serde(default)]
    pub owner: Owner,
    /// How it reaches the world.
    #[serde(flatten)]
    pub kind: UplinkKind,
    /// IPv6 prefixes inside that are answered for by neighbour discovery outside.
    #[serde(default, with = "l3keys::nets", skip_serializing_if = "Vec::is_empty")]
    pub nd_proxy: Vec<IpNet>,
}

/// The sort of uplink, with what only that sort has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum UplinkKind {
    /// An interface taken over, with addresses of the switch's own.
    Own(OwnUplink),
    /// A TAP between the switch and the host's stack, which routes onward.
    Host(HostUplink),
    /// An interface that stays the host's: its address is shared, each side has ports of its own.
    Shared(SharedUplink),
}

/// An uplink of type own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct OwnUplink {
    /// Name of the interface in the daemon's namespace.
    pub interface: String,
    /// The switch's addresses there, with prefix length; at least one.
    pub addresses: Vec<IpNet>,
    /// Routers, at most one of each family: the default routes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// The switch's MAC address there; absent: the interface's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Largest packet sent, bytes; absent: the interface's MTU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Take the interface even though it carries addresses.
    #[serde(skip_serializing_if = "is_false")]
    pub force: bool,
}

/// An uplink of type host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostUplink {
    /// Name of the host's interface, at most 15 bytes; absent: the uplink's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The switch's addresses, with prefix length; at least one.
    pub addresses: Vec<IpNet>,
    /// The host's addresses in the same networks, at most one of each family: the default routes of the
    /// switch; absent: the first address of each network that is not the switch's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// The switch's MAC address; absent: drawn once and kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Of the interface, bytes; absent: 1500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// Leads to the host only: no default routes.
    #[serde(skip_serializing_if = "is_false")]
    pub link_only: bool,
}

/// An uplink of type shared.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SharedUplink {
    /// Name of the interface in the daemon's namespace; absent: the one with the default route.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// Ports of the host's address that are the switch's; absent: 61000-64999.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
}

/// The ports of a shared uplink whose spec names none.
pub const SHARED_PORTS: PortRange = PortRange { first: 61000, last: 64999 };

impl SharedUplink {
    /// The ports in force.
    pub fn ports(&self) -> PortRange {
        self.ports.unwrap_or(SHARED_PORTS)
    }
}

/// A route that connected networks and uplinks do not imply.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct RouteSpec {
    /// Who made it. Not part of files given to `apply`.
    #[serde(default)]
    pub owner: Owner,
    /// Destinations.
    #[serde(with = "l3keys::net")]
    pub prefix: IpNet,
    /// The next router; absent: the destinations are on the network itself.
    #[serde(default, with = "l3keys::some_addr", skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The gateway whose network it leads into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The uplink it leads out by. Neither: where `via` is a neighbour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// Of two routes to the same prefix the one with the lower metric counts; absent: 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
}

/// A rule of address translation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "l3keys::NatKeys", rename_all = "kebab-case")]
pub struct NatSpec {
    /// Who made it. Not part of files given to `apply`.
    #[serde(default)]
    pub owner: Owner,
    /// The uplink whose traffic it translates.
    pub uplink: String,
    /// The bridge of the hosts inside; absent: the one whose gateway has them in its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// What it does.
    #[serde(flatten)]
    pub kind: NatKind,
}

/// The sort of rule, with what only that sort has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum NatKind {
    /// Many hosts behind few addresses.
    Masquerade(Masquerade),
    /// Ports of an external address that lead to a host inside.
    Publish(Publish),
    /// One external address for one host, both ways.
    Static(StaticNat),
}

/// A masquerade.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Masquerade {
    /// Hosts inside.
    pub from: IpNet,
    /// External addresses; absent: the uplink's first one of the family.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<AddrRange>,
    /// External ports; absent: 1024-65535, of a shared uplink its ports.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<PortRange>,
    /// Who outside may answer; absent: as the settings of connection tracking say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filtering: Option<Filtering>,
    /// Translate IPv6 too, which is routed otherwise.
    #[serde(skip_serializing_if = "is_false")]
    pub nat66: bool,
}

/// A published port or range of ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Publish {
    /// Of which protocol.
    pub proto: Proto,
    /// External ports.
    pub port: PortRange,
    /// The host inside and its ports; without ports: the same ones.
    pub to: Target,
    /// The external address; absent: the uplink's first one of the family of `to`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub external: Option<IpAddr>,
}

impl Publish {
    /// The ports inside.
    pub fn to_ports(&self) -> PortRange {
        self.to.ports.unwrap_or(self.port)
    }
}

/// A 1:1 translation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct StaticNat {
    /// The host inside.
    pub inside: IpAddr,
    /// Its address outside.
    pub external: IpAddr,
}

/// Protocols whose ports can be published.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Proto {
    /// As users write it.
    pub fn name(self) -> &'static str {
        match self {
            Proto::Tcp => "tcp",
            Proto::Udp => "udp",
        }
    }
}

/// Which senders outside may use the external port of a host inside (RFC 4787 §5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Filtering {
    /// Anybody.
    EndpointIndependent,
    /// Addresses that the host has sent to.
    Address,
    /// Addresses and ports that the host has sent to.
    #[default]
    AddressAndPort,
}

/// Settings of connection tracking. What is absent is as the defaults say.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CtSpec {
    /// Who made it. Not part of files given to `apply`.
    #[serde(default)]
    pub owner: Owner,
    /// Most connections, over all workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Most connections of one address inside; absent: a quarter of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_limit: Option<u32>,
    /// Most external ports of one address inside; absent: a quarter of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_ports: Option<u32>,
    /// Seconds without packets until UDP is forgotten; absent: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_timeout: Option<u32>,
    /// The same for established TCP; absent: 7440.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_timeout: Option<u32>,
    /// For TCP that opens, closes or was reset; absent: 240.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_transitory_timeout: Option<u32>,
    /// For ICMP queries; absent: 60.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_timeout: Option<u32>,
    /// For protocols without ports; absent: 300.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_timeout: Option<u32>,
    /// For a fragmented packet, from its first piece to its last; absent: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fragment_timeout: Option<u32>,
    /// Pass TCP segments outside the window; absent: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liberal: Option<bool>,
    /// Let a TCP segment without SYN begin an entry, so that connections survive a restart; absent: true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pickup: Option<bool>,
    /// Refuse a flow rather than share an external port; absent: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict_eim: Option<bool>,
    /// Of masquerades that say nothing; absent: address-and-port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filtering: Option<Filtering>,
}

/// A gateway, desired and observed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct GatewayStatus {
    /// Its name.
    pub name: String,
    /// Desired.
    pub spec: GatewaySpec,
    /// Its bridge.
    pub bridge: String,
    /// Its VLAN, if it is not of the untagged frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// Observed.
    pub state: PortState,
    /// Why it is down; empty when up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Longest packet into the bridge, bytes.
    #[serde(default)]
    pub mtu: u32,
    /// Why it is that, where it is not as given.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mtu_why: String,
    /// DHCP leases that hold.
    #[serde(default)]
    pub leases: u64,
}

/// An uplink, desired and observed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct UplinkStatus {
    /// Its name.
    pub name: String,
    /// Desired.
    pub spec: UplinkSpec,
    /// Observed.
    pub state: PortState,
    /// Why it is down; empty when up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The interface in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
    /// The MAC address in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The MTU in force, bytes; 0 while it is down.
    pub mtu: u32,
    /// Addresses in force: of a shared uplink those of the host.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Default routers in force.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Of a shared uplink: the ports of the host's addresses that are the switch's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// What works but should be known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub warning: String,
}

/// Where a route comes from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RouteOrigin {
    /// Somebody made it.
    Static,
    /// An address of a gateway or uplink implies it.
    Connected,
    /// A router of an uplink implies it.
    Default,
    /// The host has it, and a shared uplink takes part.
    Host,
}

/// One route of the switch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct RouteStatus {
    /// Its name, when somebody made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Who made it, when somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<Owner>,
    /// Destinations.
    pub prefix: IpNet,
    /// The next router.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub via: Option<IpAddr>,
    /// The gateway whose network it leads into.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The uplink it leads out by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// The lower one counts.
    pub metric: u32,
    /// Where it comes from.
    pub origin: RouteOrigin,
    /// Whether it is in force.
    pub state: PortState,
    /// Why it is down; empty when up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// A NAT rule, desired and observed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NatStatus {
    /// Its name.
    pub name: String,
    /// Desired.
    pub spec: NatSpec,
    /// Whether it is in force.
    pub state: PortState,
    /// Why it is down; empty when up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Bridges whose hosts it is for.
    pub bridges: Vec<String>,
    /// External addresses in force.
    pub external: Vec<IpAddr>,
    /// Connections begun.
    pub flows: u64,
    /// Packets translated: superframes count once.
    pub packets: u64,
    /// Bytes of those, with link headers.
    pub bytes: u64,
}

/// One tracked connection.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CtRow {
    /// Name of the protocol, or its number.
    pub proto: String,
    /// The bridge of the host inside.
    pub bridge: String,
    /// The uplink.
    pub uplink: String,
    /// The host inside: its address, and its port (ICMP: the query's identifier).
    pub inside: (IpAddr, u16),
    /// What the world sees of it.
    pub external: (IpAddr, u16),
    /// The other end.
    pub remote: (IpAddr, u16),
    /// The other end began it.
    pub from_outside: bool,
    /// opening, established, closing, time-wait or reset.
    pub state: String,
    /// Seconds until it is forgotten if no packet comes.
    pub expires: u64,
    /// The NAT rule it was made by; absent: it is routed without translation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<String>,
}

/// Which connections are meant: those that have everything that is given.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct CtFilter {
    /// tcp, udp, icmp, icmpv6 or a protocol number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proto: Option<String>,
    /// The bridge of the host inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// The uplink.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// The host inside: an address or prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inside: Option<String>,
    /// The other end: an address or prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// Any of its addresses: an address or prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Any of its ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Source of its first packet, before translation: an address or prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<String>,
    /// Destination of its first packet, before translation: an address or prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<String>,
    /// Source port of its first packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sport: Option<u16>,
    /// Destination port of its first packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dport: Option<u16>,
    /// The NAT rule.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat: Option<String>,
    /// opening, established, closing, time-wait or reset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
}

/// How full the table of connections is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CtCount {
    /// Connections now.
    pub connections: u64,
    /// Those that the filter leaves; the same without one.
    pub matching: u64,
    /// Most there may be.
    pub limit: u64,
    /// Mappings of inside endpoints to external ones now.
    pub mappings: u64,
    /// Fragments held now.
    pub held: u64,
    /// Entries that gave way to others since the start.
    pub early_drops: u64,
    /// Connections that were given a port which another inside endpoint has, since the start.
    pub shared_ports: u64,
}

/// A neighbour of the switch.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NeighbourRow {
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// The gateway whose network it is in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// The uplink it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// How well it is known, as the router says.
    pub state: String,
}

/// A DHCP lease.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LeaseRow {
    /// The gateway that gave it.
    pub gateway: String,
    /// The address.
    pub address: IpAddr,
    /// Whom it was given to.
    pub mac: String,
    /// What the client calls itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Seconds until it ends; absent: a reservation that nobody has asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<u64>,
    /// It is reserved for this MAC address.
    #[serde(default, skip_serializing_if = "is_false")]
    pub reserved: bool,
}
