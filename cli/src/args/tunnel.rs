//! The options of tunnels: of `port add`, `port set` and `mesh` alike.

use std::net::IpAddr;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value};
use trunkline_control::model::keys::parse_remote;

use super::Json;
use super::port::{Setting, list, number, setting, text, value_name};

pub(super) fn remote(s: &str) -> Result<IpAddr, String> {
    parse_remote(s).map_err(|e| e.to_string())
}

fn address(s: &str) -> Result<Setting, String> {
    match s {
        "none" => Ok(Setting::None),
        _ => remote(s).map(|a| Setting::To(a.to_string().into())),
    }
}

fn inherit(s: &str) -> Result<Setting, String> {
    match s {
        "inherit" => Ok(Setting::To("inherit".into())),
        _ => number(s).map_err(|_| "it is neither 'inherit' nor a number".to_owned()),
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum InnerVlan {
    /// Tags do not travel: the tunnel carries one VLAN, or those of its map
    Strip,
    /// Tags travel inside, as with Open vSwitch
    Keep,
    /// As the type has it
    None,
}

/// What tunnels of ports and of meshes have in common.
#[derive(Args, Debug, Default)]
pub(crate) struct TunnelOptions {
    /// Our address [default: as the route to the remote says]
    #[arg(long, value_name = "ADDRESS", value_parser = address, help_heading = "Tunnels")]
    local: Option<Setting>,
    /// Number of the virtual network, 0 to 16777215: VNI of vxlan and geneve, VSID of nvgre
    #[arg(long, value_name = "VNI", value_parser = number, help_heading = "Tunnels")]
    vni: Option<Setting>,
    /// Key of gre [default: none]
    #[arg(long, value_name = "KEY", value_parser = number, help_heading = "Tunnels")]
    key: Option<Setting>,
    /// VLANs and the VNIs or keys they travel in, like 10=1010,20-29=2020-2029; 0 is untagged
    #[arg(long, value_name = "MAP", value_parser = text, help_heading = "Tunnels")]
    vlan_map: Option<Setting>,
    /// Whether VLAN tags travel inside [default: keep for gre, geneve and vxlan with --trunks, else strip]
    #[arg(long, value_name = "MODE", help_heading = "Tunnels")]
    inner_vlan: Option<InnerVlan>,
    /// UDP port of vxlan [default: 4789] and geneve [default: 6081]
    #[arg(long, value_name = "PORT", value_parser = number, help_heading = "Tunnels")]
    dst_port: Option<Setting>,
    /// gre: send checksums and demand them
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Tunnels")]
    csum: Option<bool>,
    /// gre: send sequence numbers and demand them; late packets are dropped
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Tunnels")]
    seq: Option<bool>,
    /// vxlan, geneve: outer UDP checksum [default: over IPv6 only]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Tunnels")]
    udp_csum: Option<bool>,
    /// vxlan, geneve: take packets over IPv6 without UDP checksum
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Tunnels")]
    zero_csum6: Option<bool>,
    /// Outer TOS or traffic class, without the ECN bits: a multiple of 4, or inherit [default: 0]
    #[arg(long, value_name = "TOS", value_parser = inherit, help_heading = "Tunnels")]
    tos: Option<Setting>,
    /// Outer TTL, 1 to 255 or inherit [default: 64]
    #[arg(long, value_name = "TTL", value_parser = inherit, help_heading = "Tunnels")]
    ttl: Option<Setting>,
    /// Let routers fragment outer packets
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Tunnels")]
    no_df: Option<bool>,
    /// Leave the segment size that TCP connections announce as it is
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Tunnels")]
    no_mss_clamp: Option<bool>,
    /// Milliseconds between two BFD packets, 10 to 60000 [default: 300]
    #[arg(long, value_name = "MS", value_parser = number, help_heading = "Tunnels")]
    bfd_interval: Option<Setting>,
    /// BFD packets in a row that may be lost [default: 3]
    #[arg(long, value_name = "N", value_parser = number, help_heading = "Tunnels")]
    bfd_multiplier: Option<Setting>,
    /// Send by this uplink of the switch, in place of the kernel's sockets
    #[arg(long, value_name = "UPLINK", value_parser = text, help_heading = "Tunnels")]
    underlay: Option<Setting>,
}

fn collect<const N: usize>(all: [(&str, Option<Value>); N]) -> Map<String, Value> {
    all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

fn flag(on: Option<bool>) -> Option<Value> {
    on.map(Value::Bool)
}

/// The opposite of an option that takes something away.
fn not(off: Option<bool>) -> Option<Value> {
    off.map(|off| Value::Bool(!off))
}

impl TunnelOptions {
    fn patch(&self) -> Map<String, Value> {
        let inner_vlan = |mode| match mode {
            InnerVlan::None => Value::Null,
            mode => value_name(mode),
        };
        collect([
            ("local", setting(&self.local)),
            ("vni", setting(&self.vni)),
            ("key", setting(&self.key)),
            ("vlan-map", setting(&self.vlan_map)),
            ("inner-vlan", self.inner_vlan.map(inner_vlan)),
            ("dst-port", setting(&self.dst_port)),
            ("csum", flag(self.csum)),
            ("seq", flag(self.seq)),
            ("udp-csum", flag(self.udp_csum)),
            ("zero-csum6", flag(self.zero_csum6)),
            ("tos", setting(&self.tos)),
            ("ttl", setting(&self.ttl)),
            ("df", not(self.no_df)),
            ("mss-clamp", not(self.no_mss_clamp)),
            ("bfd-interval", setting(&self.bfd_interval)),
            ("bfd-multiplier", setting(&self.bfd_multiplier)),
            ("underlay", setting(&self.underlay)),
        ])
    }
}

/// What a tunnel port has besides.
#[derive(Args, Debug, Default)]
pub(crate) struct TunnelPortOptions {
    /// The other host, repeatable: a flooded frame goes to each
    #[arg(long = "remote", value_name = "ADDRESS", value_parser = address, help_heading = "Tunnels")]
    remotes: Vec<Setting>,
    /// vxlan: a multicast group that flooded frames are sent to
    #[arg(long, value_name = "ADDRESS", value_parser = address, help_heading = "Tunnels")]
    group: Option<Setting>,
    /// vxlan: the interface by which the group is reached
    #[arg(long, value_name = "IF", value_parser = text, help_heading = "Tunnels")]
    group_interface: Option<Setting>,
    /// Do not learn which remote an address is behind: send to every remote, static entries apart
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Tunnels")]
    no_learning_remotes: Option<bool>,
    /// Watch the remotes by BFD: one that does not answer gets no frames
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Tunnels")]
    bfd: Option<bool>,
    #[command(flatten)]
    tunnel: TunnelOptions,
}

impl TunnelPortOptions {
    /// The options as a JSON merge patch of a port's spec: null for what is taken away.
    pub(crate) fn patch(&self) -> Map<String, Value> {
        let mut patch = collect([
            ("remotes", list(&self.remotes)),
            ("group", setting(&self.group)),
            ("group-interface", setting(&self.group_interface)),
            ("learn-remotes", not(self.no_learning_remotes)),
            ("bfd", flag(self.bfd)),
        ]);
        patch.extend(self.tunnel.patch());
        patch
    }
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum MeshType {
    /// Ethernet in GRE
    Gre,
    /// VXLAN (RFC 7348)
    Vxlan,
    /// Geneve (RFC 8926)
    Geneve,
}

/// Everything that can be said of a mesh besides its name, bridge, type and peers.
#[derive(Args, Debug, Default)]
pub(crate) struct MeshOptions {
    /// VLAN of the bridge that it carries, untagged inside
    #[arg(long, value_name = "VLAN", value_parser = number, help_heading = "VLAN")]
    vlan: Option<Setting>,
    /// VLANs that it carries, tagged inside, like 10,20-30
    #[arg(long, value_name = "VLANS", value_parser = text, help_heading = "VLAN")]
    trunks: Option<Setting>,
    /// Longest inner packet, bytes [default: what the path takes]
    #[arg(long, value_name = "BYTES", value_parser = number, help_heading = "Tunnels")]
    mtu: Option<Setting>,
    /// Do not watch the peers by BFD: for far ends that are not Trunkline and have none
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Tunnels")]
    no_bfd: Option<bool>,
    #[command(flatten)]
    tunnel: TunnelOptions,
}

impl MeshOptions {
    /// The options as a JSON merge patch of a mesh's spec: null for what is taken away.
    pub(crate) fn patch(&self) -> Map<String, Value> {
        let mut patch = collect([
            ("vlan", setting(&self.vlan)),
            ("trunks", setting(&self.trunks)),
            ("mtu", setting(&self.mtu)),
            ("bfd", not(self.no_bfd)),
        ]);
        patch.extend(self.tunnel.patch());
        patch
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum MeshCommand {
    /// Connect a bridge with those of other hosts
    #[command(after_help = "Examples:
  trunkline mesh add br0 m1 --type vxlan --vni 77 --peers 192.0.2.1,192.0.2.2,192.0.2.3
  trunkline mesh add br0 m1 --type gre --key 7 --peers 192.0.2.1,192.0.2.2 --local 192.0.2.1
  trunkline mesh add br0 m1 --type geneve --vni 5 --peers 2001:db8::1,2001:db8::2 --no-bfd

Every host is given the same list; its own address in it is skipped.")]
    Add {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        bridge: String,
        /// Name of the mesh
        #[arg(value_name = "MESH")]
        name: String,
        /// Of its tunnels
        #[arg(long = "type", value_name = "TYPE")]
        kind: MeshType,
        /// Addresses of all hosts, this one's own among them or not
        #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', value_parser = remote, required = true)]
        peers: Vec<IpAddr>,
        #[command(flatten)]
        options: Box<MeshOptions>,
    },
    /// Remove a mesh with its tunnels
    #[command(after_help = "Example:
  trunkline mesh del m1")]
    Del {
        /// Name of the mesh
        #[arg(value_name = "MESH")]
        name: String,
    },
    /// Change a mesh's settings
    #[command(after_help = "Examples:
  trunkline mesh set m1 --peers 192.0.2.1,192.0.2.2,192.0.2.4
  trunkline mesh set m1 --mtu 1400 --bfd-interval 100

'none' takes a setting away. Peers that stay do not notice what comes and goes.")]
    Set {
        /// Name of the mesh
        #[arg(value_name = "MESH")]
        name: String,
        /// Move it to another bridge
        #[arg(long, value_name = "BRIDGE")]
        bridge: Option<String>,
        /// Addresses of all hosts, in place of those it has
        #[arg(long, value_name = "ADDRESSES", value_delimiter = ',', value_parser = remote)]
        peers: Vec<IpAddr>,
        #[command(flatten)]
        options: Box<MeshOptions>,
    },
    /// Add and remove single peers
    #[command(subcommand)]
    #[command(after_help = "Example:
  trunkline mesh peer add m1 192.0.2.4")]
    Peer(PeerCommand),
    /// List the meshes
    #[command(after_help = "Example:
  trunkline mesh list")]
    List(Json),
    /// Show the peers of a mesh, or of all: state, loss, round trip, path MTU, inner MTU
    #[command(after_help = "Examples:
  trunkline mesh show
  trunkline mesh show m1 --json")]
    Show {
        /// Name of the mesh; absent: all
        #[arg(value_name = "MESH")]
        name: Option<String>,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum PeerCommand {
    /// Add a peer; the others do not notice
    #[command(after_help = "Example:
  trunkline mesh peer add m1 192.0.2.4")]
    Add {
        /// Name of the mesh
        #[arg(value_name = "MESH")]
        mesh: String,
        /// Address of the host
        #[arg(value_name = "ADDRESS", value_parser = remote)]
        address: IpAddr,
    },
    /// Remove a peer; the others do not notice
    #[command(after_help = "Example:
  trunkline mesh peer del m1 192.0.2.4")]
    Del {
        /// Name of the mesh
        #[arg(value_name = "MESH")]
        mesh: String,
        /// Address of the host
        #[arg(value_name = "ADDRESS", value_parser = remote)]
        address: IpAddr,
    },
}
