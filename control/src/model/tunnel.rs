//! Tunnel ports and meshes of them: what is asked for, and what is.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use trunkline_tunnel::Kind;

use super::{Desired, Owner, PortKind, PortSpec, PortState, PortStatus, is_false, keys};

/// Everything that can be said of a tunnel; which keys go with which type, [`keys`] knows.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TunnelSpec {
    /// The far ends. A flooded frame goes to each; packets from others are refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<IpAddr>,
    /// Our address; absent: whichever the route to the remote gives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// A multicast group flooded frames are sent to and packets come in on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<IpAddr>,
    /// The interface the group is joined on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_interface: Option<String>,
    /// VXLAN, Geneve: the VNI; NVGRE: the VSID. 24 bits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vni: Option<u32>,
    /// GRE's key; absent: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<u32>,
    /// VLANs of the bridge and the VNIs or keys they travel in: "10=1010,20-29=2020-2029"; 0 stands for
    /// untagged. In place of `vni` or `key`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan_map: Option<String>,
    /// Whether VLAN tags travel inside; absent: see [`TunnelSpec::inner_vlan`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub inner_vlan: Option<InnerVlan>,
    /// UDP port, ours and theirs; absent: 4789 for VXLAN, 6081 for Geneve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<u16>,
    /// GRE: checksums are sent and demanded.
    #[serde(skip_serializing_if = "is_false")]
    pub csum: bool,
    /// GRE: sequence numbers are sent and demanded.
    #[serde(skip_serializing_if = "is_false")]
    pub seq: bool,
    /// Outer UDP checksum; absent: only over IPv6.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub udp_csum: Option<bool>,
    /// Take packets over IPv6 without a UDP checksum (RFC 6936).
    #[serde(skip_serializing_if = "is_false")]
    pub zero_csum6: bool,
    /// Outer traffic class; absent: 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tos: Option<Inherit>,
    /// Outer TTL; absent: 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ttl: Option<Inherit>,
    /// Outer "don't fragment".
    #[serde(skip_serializing_if = "is_true")]
    pub df: bool,
    /// Longest inner IP packet, bytes; absent: what the path takes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// TCP connections are told a segment size that fits.
    #[serde(skip_serializing_if = "is_true")]
    pub mss_clamp: bool,
    /// Liveness by BFD (RFC 5880); absent: in meshes only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd: Option<bool>,
    /// Milliseconds between two BFD packets; absent: 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd_interval: Option<u32>,
    /// BFD packets in a row that may be lost; absent: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bfd_multiplier: Option<u8>,
    /// Learn which remote an address is behind, so that known ones are sent to one remote only.
    #[serde(skip_serializing_if = "is_true")]
    pub learn_remotes: bool,
    /// An uplink of this switch to send by, in place of the kernel's sockets.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub underlay: Option<String>,
}

impl Default for TunnelSpec {
    fn default() -> TunnelSpec {
        TunnelSpec {
            remotes: Vec::new(),
            local: None,
            group: None,
            group_interface: None,
            vni: None,
            key: None,
            vlan_map: None,
            inner_vlan: None,
            dst_port: None,
            csum: false,
            seq: false,
            udp_csum: None,
            zero_csum6: false,
            tos: None,
            ttl: None,
            df: true,
            mtu: None,
            mss_clamp: true,
            bfd: None,
            bfd_interval: None,
            bfd_multiplier: None,
            learn_remotes: true,
            underlay: None,
        }
    }
}

fn is_true(b: &bool) -> bool {
    *b
}

/// Whether VLAN tags travel inside a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InnerVlan {
    /// They do not: the tunnel carries one VLAN of the bridge, or those of its map.
    Strip,
    /// They do, as with Open vSwitch and the kernel's bridge.
    Keep,
}

/// A byte of the outer header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Inherit {
    /// That of the inner packet.
    Inner,
    /// This one.
    Fixed(u8),
}

impl Serialize for Inherit {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self {
            Inherit::Inner => out.serialize_str("inherit"),
            Inherit::Fixed(n) => out.serialize_u8(*n),
        }
    }
}

impl<'de> Deserialize<'de> for Inherit {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Inherit, D::Error> {
        struct Value;
        impl Visitor<'_> for Value {
            type Value = Inherit;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"inherit\" or a number from 0 to 255")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Inherit, E> {
                match text {
                    "inherit" => Ok(Inherit::Inner),
                    _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
                }
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Inherit, E> {
                let unexpected = de::Unexpected::Signed(n);
                u8::try_from(n).map(Inherit::Fixed).map_err(|_| E::invalid_value(unexpected, &self))
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Inherit, E> {
                let unexpected = de::Unexpected::Unsigned(n);
                u8::try_from(n).map(Inherit::Fixed).map_err(|_| E::invalid_value(unexpected, &self))
            }
        }
        input.deserialize_any(Value)
    }
}

impl PortKind {
    /// The tunnel of a tunnel port.
    pub fn tunnel(&self) -> Option<(Kind, &TunnelSpec)> {
        match self {
            PortKind::Gre(t) => Some((Kind::Gre, t)),
            PortKind::Nvgre(t) => Some((Kind::Nvgre, t)),
            PortKind::Vxlan(t) => Some((Kind::Vxlan, t)),
            PortKind::Geneve(t) => Some((Kind::Geneve, t)),
            PortKind::Tap(_)
            | PortKind::Afpacket(_)
            | PortKind::Host(_)
            | PortKind::Replay(_)
            | PortKind::Null {} => None,
        }
    }
}

/// The type of a mesh's tunnels.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MeshType {
    /// Ethernet in GRE.
    Gre,
    /// RFC 7348.
    Vxlan,
    /// RFC 8926.
    Geneve,
}

/// A desired mesh: a tunnel to each peer, none of which passes frames on to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(from = "keys::MeshKeys", rename_all = "kebab-case")]
pub struct MeshSpec {
    /// Who made it. Not part of files given to `apply`.
    pub owner: Owner,
    /// Name of its bridge.
    pub bridge: String,
    /// The type of its tunnels.
    #[serde(rename = "type")]
    pub kind: MeshType,
    /// All hosts of the mesh. This one's own address may be among them and is skipped.
    pub peers: Vec<IpAddr>,
    /// VLAN of the bridge that it carries, untagged inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// VLANs that it carries, tagged inside; absent: all that the type carries.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trunks: Option<String>,
    /// What its tunnels have in common; no remotes, no group.
    #[serde(flatten)]
    pub tunnel: TunnelSpec,
}

/// Groups of meshes begin here; a port's own `split-horizon-group` is below.
pub const FIRST_MESH_GROUP: u32 = 1 << 31;

/// What stands between a mesh's name and a peer's address in the name of a port.
const MEMBER: char = '/';

impl MeshSpec {
    /// The port that is the tunnel to `peer`. `own` are this host's addresses in the list.
    pub fn member(&self, mesh: &str, peer: IpAddr, own: &[IpAddr]) -> PortSpec {
        let tunnel = TunnelSpec {
            remotes: vec![peer],
            local: self.tunnel.local.or_else(|| own.iter().copied().find(|a| a.is_ipv4() == peer.is_ipv4())),
            bfd: Some(self.tunnel.bfd.unwrap_or(true)),
            ..self.tunnel.clone()
        };
        let kind = match self.kind {
            MeshType::Gre => PortKind::Gre(tunnel),
            MeshType::Vxlan => PortKind::Vxlan(tunnel),
            MeshType::Geneve => PortKind::Geneve(tunnel),
        };
        PortSpec {
            vlan: self.vlan,
            trunks: self.trunks.clone(),
            split_horizon_group: Some(mesh_group(mesh)),
            ..PortSpec::new(self.owner, &self.bridge, kind)
        }
    }
}

/// Name of the port that is a mesh's tunnel to a peer.
pub fn member_name(mesh: &str, peer: IpAddr) -> String {
    format!("{mesh}{MEMBER}{peer}")
}

/// The mesh and the peer of such a name; `None` for ports that users named.
pub fn member_of(port: &str) -> Option<(&str, IpAddr)> {
    let (mesh, peer) = port.split_once(MEMBER)?;
    Some((mesh, peer.parse().ok()?))
}

/// The split-horizon group of a mesh: of its name alone, so that no other mesh changes it (FNV-1a).
pub fn mesh_group(mesh: &str) -> u32 {
    let hash = mesh.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    hash | FIRST_MESH_GROUP
}

impl Desired {
    /// The same with the ports of its meshes, and without the meshes: what is to be realised. `own` says which
    /// addresses are this host's; no tunnel goes there.
    pub fn expanded(&self, own: impl Fn(IpAddr) -> bool) -> Desired {
        let mut all = self.clone();
        for (name, mesh) in std::mem::take(&mut all.meshes) {
            let (ours, others): (Vec<IpAddr>, Vec<IpAddr>) =
                mesh.peers.iter().partition(|p| mesh.tunnel.local == Some(**p) || own(**p));
            let ports = others.into_iter().map(|p| (member_name(&name, p), mesh.member(&name, p, &ours)));
            all.ports.extend(ports);
        }
        all
    }

    /// A port by name, those of meshes included.
    pub fn port(&self, name: &str) -> Option<Cow<'_, PortSpec>> {
        if let Some(port) = self.ports.get(name) {
            return Some(Cow::Borrowed(port));
        }
        let (mesh, peer) = member_of(name)?;
        let spec = self.meshes.get(mesh)?;
        spec.peers.contains(&peer).then(|| Cow::Owned(spec.member(mesh, peer, &[])))
    }

    /// Drops the static entries of ports that are gone.
    pub(crate) fn drop_orphans(&mut self) {
        let this = self.clone();
        for (name, bridge) in &mut self.bridges {
            bridge.static_fdb.retain(|e| this.port(&e.port).is_some_and(|port| port.bridge == *name));
        }
    }
}

/// What BFD says of a peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Liveness {
    /// BFD is off: nobody knows.
    Unknown,
    /// It has not answered yet, or not any more.
    Down,
    /// It was heard, and does not hear us yet.
    Init,
    /// It answers.
    Up,
    /// Its administrator took the session down.
    AdminDown,
}

/// One far end of a tunnel as it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct PeerStatus {
    /// Its address.
    pub remote: IpAddr,
    /// What BFD says.
    pub liveness: Liveness,
    /// Why it is down, in BFD's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub diag: String,
    /// Round trip, microseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u32>,
    /// BFD packets lost of the last thousand, as far as there were so many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_permille: Option<u16>,
    /// Largest outer IP packet that arrives, bytes; absent: there is no route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path_mtu: Option<u32>,
    /// Our address towards it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<IpAddr>,
    /// Seconds since the liveness last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<u64>,
}

/// A mesh with its members.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MeshStatus {
    /// Its name.
    pub name: String,
    /// Desired.
    pub spec: MeshSpec,
    /// This host's own addresses in the list of peers.
    pub own: Vec<IpAddr>,
    /// The other hosts, in the order of their addresses.
    pub peers: Vec<MeshPeer>,
}

/// One other host of a mesh.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MeshPeer {
    /// Name of the port that is the tunnel to it.
    pub port: String,
    /// Whether frames pass.
    pub state: PortState,
    /// Why not; empty when up.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Longest inner IP packet, bytes; 0: not known.
    pub inner_mtu: u32,
    /// Why it is that.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub mtu_why: String,
    /// The far end.
    #[serde(flatten)]
    pub peer: PeerStatus,
}

/// A member of a mesh as the status of its port has it.
pub(crate) fn mesh_peer(address: IpAddr, port: PortStatus) -> MeshPeer {
    let nothing_known = || PeerStatus {
        remote: address,
        liveness: Liveness::Unknown,
        diag: String::new(),
        rtt_us: None,
        loss_permille: None,
        path_mtu: None,
        local: None,
        since: None,
    };
    let peer = port.peers.into_iter().find(|p| p.remote == address).unwrap_or_else(nothing_known);
    MeshPeer {
        port: port.name,
        state: port.state,
        reason: port.reason,
        inner_mtu: port.mtu,
        mtu_why: port.mtu_why,
        peer,
    }
}
