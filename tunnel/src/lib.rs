//! GRE, VXLAN and Geneve tunnels, and what makes them usable: liveness, path MTU, meshes. Sans-IO: bytes,
//! packets and the time come in, bytes and packets go out; the engine and the ports do the rest.
//!
//! A packet's way out: [`Tunnels`] names the remotes of a port, [`encap_datagrams`] or [`encap_frame`] makes
//! what the underlay sends. Its way in: the underlay's datagram, or [`open`] for a whole outer frame, then
//! [`decap()`] or [`decap_all`], which looks the tunnel up and leaves the inner frame with its metadata.

pub mod bfd;
pub mod config;
pub mod decap;
pub mod ecn;
pub mod encap;
mod exact;
pub mod fragment;
pub mod geneve;
pub mod gre;
mod inner;
pub mod mesh;
pub mod mtu;
pub mod outer;
pub mod reassemble;
pub mod table;
pub mod types;
pub mod udp;
pub mod vxlan;

pub use config::{Encap, InnerVlan, RxSequence, Tos, Ttl, TunnelHeader, TxState};
pub use decap::{Refusals, decap, decap_all};
pub use encap::{SendInfo, encap_datagrams, encap_frame};
pub use fragment::fragment;
pub use outer::{OuterHeaders, OuterPath, open};
pub use reassemble::Reassembler;
pub use table::{Endpoint, EndpointState, Nets, TableError, Tunnel, Tunnels};
pub use trunkline_packet::{Arrival, DropCounts, DropReason, Outer};
pub use types::{GreKey, Kind, NetId, Vni};
pub use udp::{UdpRun, UdpRuns, segment_for_udp};
