//! The objects of the API, of the state file and of `trunkline apply` files: one set of types for all three.
//!
//! Desired state is what somebody asked for; observed state is what is. Both are plain data. [`keys`] says
//! which keys each object has, so that a misspelt one is refused by name.

pub mod attach;
pub mod docker;
pub mod follow;
pub mod guard;
pub mod keys;
pub mod l3;
mod l3keys;
pub(crate) mod objects;
pub mod tunnel;

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use follow::Follow;
pub use tunnel::{InnerVlan, MeshPeer, MeshSpec, MeshStatus, MeshType, PeerStatus, TunnelSpec};

/// Who made an object. Only the same owner's `apply` removes it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// A command.
    #[default]
    Cli,
    /// A file given to `trunkline apply` or `daemon --config`.
    Config,
    /// The docker plugin.
    Docker,
    /// The CNI plugin.
    Cni,
    /// Podman's network plugin.
    Podman,
}

impl Owner {
    /// As files and messages write it.
    pub fn name(self) -> &'static str {
        match self {
            Owner::Cli => "cli",
            Owner::Config => "config",
            Owner::Docker => "docker",
            Owner::Cni => "cni",
            Owner::Podman => "podman",
        }
    }

    /// Whether that is a program which makes its objects again by itself, and removes them.
    pub fn is_plugin(self) -> bool {
        matches!(self, Owner::Docker | Owner::Cni | Owner::Podman)
    }
}

/// All that is desired. The format of the state file and of `trunkline apply`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Desired {
    /// Bridges by name.
    #[serde(default, rename = "bridge", skip_serializing_if = "BTreeMap::is_empty")]
    pub bridges: BTreeMap<String, BridgeSpec>,
    /// Gateways by the name of their bridge, or BRIDGE.VLAN.
    #[serde(default, rename = "gateway", skip_serializing_if = "BTreeMap::is_empty")]
    pub gateways: BTreeMap<String, l3::GatewaySpec>,
    /// Uplinks by name.
    #[serde(default, rename = "uplink", skip_serializing_if = "BTreeMap::is_empty")]
    pub uplinks: BTreeMap<String, l3::UplinkSpec>,
    /// Routes by name.
    #[serde(default, rename = "route", skip_serializing_if = "BTreeMap::is_empty")]
    pub routes: BTreeMap<String, l3::RouteSpec>,
    /// NAT rules by name.
    #[serde(default, rename = "nat", skip_serializing_if = "BTreeMap::is_empty")]
    pub nat: BTreeMap<String, l3::NatSpec>,
    /// Settings of connection tracking; absent: the defaults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ct: Option<l3::CtSpec>,
    /// Ports by name; names are unique in the daemon, not only in the bridge.
    #[serde(default, rename = "port", skip_serializing_if = "BTreeMap::is_empty")]
    pub ports: BTreeMap<String, PortSpec>,
    /// Meshes by name. Their ports are derived: see [`Desired::expanded`].
    #[serde(default, rename = "mesh", skip_serializing_if = "BTreeMap::is_empty")]
    pub meshes: BTreeMap<String, MeshSpec>,
    /// The docker plugin, with what docker made; absent: it was never enabled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub docker: Option<docker::DockerSpec>,
    /// Networks that attachments are of, as `OWNER:NAME`.
    #[serde(default, rename = "network", skip_serializing_if = "BTreeMap::is_empty")]
    pub networks: BTreeMap<String, attach::Network>,
    /// What CNI and podman attached, by [`attach::attachment_id`].
    #[serde(default, rename = "attachment", skip_serializing_if = "BTreeMap::is_empty")]
    pub attachments: BTreeMap<String, attach::Attachment>,
}

/// A desired bridge.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct BridgeSpec {
    /// Who made it. Not part of files given to `apply`.
    #[serde(default)]
    pub owner: Owner,
    /// Seconds until an address not seen is forgotten, 1 to 1,000,000.
    #[serde(default = "default_ageing")]
    pub ageing: u32,
    /// Most learned addresses, 16 to 1,048,576.
    #[serde(default = "default_max_macs")]
    pub max_macs: u32,
    /// Static FDB entries.
    #[serde(default, rename = "fdb", skip_serializing_if = "Vec::is_empty")]
    pub static_fdb: Vec<StaticFdb>,
}

fn default_ageing() -> u32 {
    300
}

fn default_max_macs() -> u32 {
    16384
}

impl Default for BridgeSpec {
    fn default() -> Self {
        BridgeSpec {
            owner: Owner::Cli,
            ageing: default_ageing(),
            max_macs: default_max_macs(),
            static_fdb: Vec::new(),
        }
    }
}

/// A static FDB entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(from = "keys::FdbKeys", rename_all = "kebab-case")]
pub struct StaticFdb {
    /// The address, six hex bytes.
    pub mac: String,
    /// 0 to 4094.
    pub vlan: u16,
    /// Name of a port of the bridge.
    pub port: String,
    /// Of a tunnel port: which of its remotes. Absent: the one it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
}

/// Whether the port takes superframes and partial checksums.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OffloadMode {
    /// All that the kernel offers.
    #[default]
    Auto,
    /// None: software segmentation and full checksums at the egress.
    Off,
}

/// Open vSwitch's VLAN modes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VlanMode {
    /// One VLAN, untagged.
    Access,
    /// Several VLANs, tagged.
    Trunk,
    /// Trunk, with a native VLAN that leaves tagged.
    NativeTagged,
    /// Trunk, with a native VLAN that leaves untagged.
    NativeUntagged,
    /// 802.1ad provider port.
    Dot1qTunnel,
}

/// A desired port. Written flat: what only one sort of port has stands beside the rest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(try_from = "keys::PortKeys", rename_all = "kebab-case")]
pub struct PortSpec {
    /// Who made it. Not part of files given to `apply`.
    #[serde(default)]
    pub owner: Owner,
    /// Name of its bridge.
    pub bridge: String,
    /// What it is made of.
    #[serde(flatten)]
    pub kind: PortKind,
    /// VLAN 1 to 4094 of an access, native or tunnel port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// VLANs of a trunk or native port: "10,20-30"; absent: all. 0 stands for untagged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trunks: Option<String>,
    /// Absent: as Open vSwitch decides, see [`crate::validate::vlan_mode`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan_mode: Option<VlanMode>,
    /// Exchanges frames only with ports that are not isolated.
    #[serde(default, skip_serializing_if = "is_false")]
    pub isolated: bool,
    /// Ports of one group exchange no frames.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split_horizon_group: Option<u32>,
    /// Do not learn addresses here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_learning: bool,
    /// Do not flood to here.
    #[serde(default, skip_serializing_if = "is_false")]
    pub no_flood: bool,
    /// Most addresses learned here; absent or 0: the bridge's limit alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_macs: Option<u32>,
    /// Most flooded frames taken from here per second; absent or 0: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flood_limit: Option<u32>,
    /// What the host behind it may use, and nothing else: addresses, and no DHCP server or router. None:
    /// anything.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anti_spoof: Vec<guard::Allow>,
    /// Superframes and partial checksums.
    #[serde(default, skip_serializing_if = "is_default_offload")]
    pub offload: OffloadMode,
    /// Free words about the port, e.g. `container=web`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl PortSpec {
    /// An untagged port with nothing restricted.
    pub fn new(owner: Owner, bridge: impl Into<String>, kind: PortKind) -> PortSpec {
        PortSpec {
            owner,
            bridge: bridge.into(),
            kind,
            vlan: None,
            trunks: None,
            vlan_mode: None,
            isolated: false,
            split_horizon_group: None,
            no_learning: false,
            no_flood: false,
            max_macs: None,
            flood_limit: None,
            anti_spoof: Vec::new(),
            offload: OffloadMode::Auto,
            labels: BTreeMap::new(),
        }
    }
}

fn is_false(b: &bool) -> bool {
    !*b
}

fn is_default_offload(o: &OffloadMode) -> bool {
    *o == OffloadMode::Auto
}

/// The sort of port, with what only that sort has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum PortKind {
    /// A TAP interface, usually a container's eth0.
    Tap(TapSpec),
    /// An existing interface (veth, NIC) taken over through AF_PACKET.
    Afpacket(AfpacketSpec),
    /// The bridge's own interface in the daemon's namespace: a TAP named like the port.
    Host(HostSpec),
    /// Frames from a pcap file, looped from memory; what is sent to it vanishes.
    Replay(ReplaySpec),
    /// Takes every frame and delivers none.
    Null {},
    /// A tunnel: Ethernet in GRE (RFC 2784, RFC 2890).
    Gre(TunnelSpec),
    /// A tunnel: RFC 7637.
    Nvgre(TunnelSpec),
    /// A tunnel: RFC 7348.
    Vxlan(TunnelSpec),
    /// A tunnel: RFC 8926.
    Geneve(TunnelSpec),
}

/// A TAP port.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TapSpec {
    /// A name (as in `ip netns`), an absolute path, or a pid; absent: the daemon's own namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Identity of the namespace a pid or path meant when the port was added, as `dev:ino`; set by the
    /// daemon. A namespace with another identity is not the same container.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns_id: Option<String>,
    /// Whose namespace it is in. The daemon finds out where that is and sets `netns` and `netns_id`, again
    /// whenever it is another one; while there is none, the port is down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follow: Option<Follow>,
    /// Name of the interface, at most 15 bytes; absent: the port's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Take over an existing persistent TAP of that name in the daemon's namespace instead of making one.
    #[serde(skip_serializing_if = "is_false")]
    pub adopt: bool,
    /// The interface is made in the daemon's namespace for somebody who moves it, names it and gives it
    /// addresses: docker. Once it is gone it is not made again.
    #[serde(skip_serializing_if = "is_false")]
    pub handed_over: bool,
    /// Queues, 1 to 256; absent: 1. Fixed when the interface is made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Layer 3 settings of the interface.
    #[serde(flatten)]
    pub link: LinkSpec,
}

/// The bridge's own interface.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostSpec {
    /// Name of the interface, at most 15 bytes; absent: the port's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// Queues, 1 to 256; absent: 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queues: Option<u16>,
    /// Layer 3 settings of the interface.
    #[serde(flatten)]
    pub link: LinkSpec,
}

/// What the interface is set to when it is made.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LinkSpec {
    /// Addresses with prefix length, v4 and v6.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// Default gateways, at most one of each family.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<IpAddr>,
    /// Other routes by this interface.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<LinkRoute>,
    /// The interface's address; absent: drawn once and kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// 68 to 65535; absent: 1500. Below 1280 is refused with an IPv6 address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// A route of an interface, written like `10.8.0.0/16 via 10.7.0.254`, or `10.8.0.0/16` for what is on the link.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct LinkRoute {
    /// Where to; not everything: that is what gateways are for.
    pub to: IpNet,
    /// By which router.
    pub via: Option<IpAddr>,
}

impl std::fmt::Display for LinkRoute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.to)?;
        self.via.map_or(Ok(()), |via| write!(f, " via {via}"))
    }
}

impl std::str::FromStr for LinkRoute {
    type Err = String;

    fn from_str(text: &str) -> Result<LinkRoute, String> {
        let wrong = || format!("'{text}' is not a route; write it like '10.8.0.0/16 via 10.7.0.254'");
        let (to, via) = match text.split_once(" via ") {
            Some((to, via)) => (to, Some(via.trim().parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let to: IpNet = to.trim().parse().map_err(|_| wrong())?;
        Ok(LinkRoute { to, via })
    }
}

impl Serialize for LinkRoute {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for LinkRoute {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<LinkRoute, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An interface taken over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AfpacketSpec {
    /// Its name in the daemon's namespace.
    pub interface: String,
    /// Take it even though it carries addresses.
    #[serde(skip_serializing_if = "is_false")]
    pub force: bool,
}

/// A replay port.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ReplaySpec {
    /// A pcap file, read once into memory.
    pub file: String,
    /// Frames per second; absent or 0: as fast as the worker takes them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// How often the file is played; absent or 0: without end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<u64>,
}

/// Whether a port works.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    /// Frames pass.
    Up,
    /// They do not; `reason` says why.
    Down,
}

/// What is, beside what is desired.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PortStatus {
    /// Its name.
    pub name: String,
    /// Desired.
    pub spec: PortSpec,
    /// Observed.
    pub state: PortState,
    /// Why it is down; empty when up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Name of the interface, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// MAC address in force on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// MTU in force, bytes. Of a tunnel: the longest inner IP packet.
    pub mtu: u32,
    /// Why it is that, where it is neither the default nor the interface's own.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mtu_why: String,
    /// The far ends of a tunnel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerStatus>,
    /// Offloads in force: "csum", "tso4", "tso6", "uso".
    pub offloads: Vec<String>,
    /// Queues in force.
    pub queues: u16,
    /// Addresses learned here now.
    pub macs: u64,
    /// The VLAN mode in force.
    pub vlan_mode: VlanMode,
    /// Addresses that DHCP gave to the host, where anti-spoof goes by them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub leased: Vec<std::net::Ipv4Addr>,
}

/// A bridge with its ports.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BridgeStatus {
    /// Its name.
    pub name: String,
    /// Desired.
    pub spec: BridgeSpec,
    /// Names of its ports.
    pub ports: Vec<String>,
    /// Addresses in the FDB, learned and static.
    pub macs: u64,
    /// What its FDB has done.
    #[serde(default)]
    pub fdb: FdbCounters,
}

/// What the FDB of a bridge has done since the daemon started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FdbCounters {
    /// Addresses learned anew.
    pub learned: u64,
    /// Addresses that changed their port.
    pub moved: u64,
    /// Entries that had to make room.
    pub evicted: u64,
    /// Frames whose source was not learned because nothing may be evicted for it.
    pub refused: u64,
    /// Entries removed because they were not seen for the ageing time.
    pub aged: u64,
}

/// One FDB entry.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FdbRow {
    /// 0: untagged.
    pub vlan: u16,
    /// The address.
    pub mac: String,
    /// Where it is.
    pub port: String,
    /// Which remote of a tunnel it is behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<IpAddr>,
    /// Seconds since last seen; absent for static ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub age: Option<u32>,
    /// Made by a user.
    #[serde(rename = "static")]
    pub is_static: bool,
}

/// Counters of one port. Packets are internal ones: a superframe counts once.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PortStats {
    /// The port.
    pub name: String,
    /// Its bridge.
    pub bridge: String,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Packets sent, before segmentation.
    pub tx_packets: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Frames handed to the kernel, after segmentation and coalescing.
    pub tx_frames: u64,
    /// Packets the switch made itself: errors about packets that are too big, liveness.
    #[serde(default)]
    pub generated: u64,
    /// Copies made of packets received here, for flooding.
    pub replicated: u64,
    /// Packets coalesced into another one on the way out here.
    pub absorbed: u64,
    /// Drops by reason; only those that happened.
    pub drops: BTreeMap<String, u64>,
    /// What the interface's own queue dropped before the switch saw it (TAP ring overflow).
    pub ring_drops: u64,
}

/// One counter of `trunkline drops`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DropRow {
    /// The port.
    pub port: String,
    /// The reason's name.
    pub reason: String,
    /// How many.
    pub count: u64,
    /// What it means and what to look at.
    pub help: String,
}

/// The daemon itself.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DaemonStatus {
    /// Version of the binary.
    pub version: String,
    /// Process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime: u64,
    /// Worker threads.
    pub workers: u16,
    /// Grows with every accepted edit of the desired state.
    pub revision: u64,
}

/// One line of a watch stream (newline-delimited JSON).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// The first line: where the stream starts.
    Hello {
        /// Revision of the desired state.
        revision: u64,
    },
    /// The desired state was edited.
    Revision {
        /// The new revision.
        revision: u64,
    },
    /// A bridge appeared or changed.
    Bridge(Box<BridgeStatus>),
    /// A bridge is gone.
    BridgeGone {
        /// Its name.
        name: String,
    },
    /// A port appeared, changed, went up or down.
    Port(Box<PortStatus>),
    /// A port is gone.
    PortGone {
        /// Its name.
        name: String,
    },
    /// A mesh appeared or changed. Its ports have events of their own.
    Mesh(Box<MeshStatus>),
    /// A mesh is gone.
    MeshGone {
        /// Its name.
        name: String,
    },
    /// A gateway appeared or changed.
    Gateway(Box<l3::GatewayStatus>),
    /// A gateway is gone.
    GatewayGone {
        /// Its name.
        name: String,
    },
    /// An uplink appeared, changed, went up or down.
    Uplink(Box<l3::UplinkStatus>),
    /// An uplink is gone.
    UplinkGone {
        /// Its name.
        name: String,
    },
    /// The reader was too slow and missed events: read everything again.
    Lagged {
        /// How many.
        missed: u64,
    },
}
