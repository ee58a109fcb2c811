//! Kernel sockets under tunnels: UDP for VXLAN and Geneve, raw IP for GRE.
//!
//! They work on any host without owning its NIC: routes, neighbours, fragments, path MTU and outer checksums
//! are the kernel's. A run of equal datagrams is one `sendmsg` with UDP_SEGMENT, and comes out of UDP_GRO as
//! one packet again; everything else goes in batches by sendmmsg and recvmmsg.
//!
//! A socket has one source port, which is the entropy that networks spread tunnels by (RFC 7348 §5): so
//! there is a pool of sending sockets. Whether the kernel may fragment is also a property of the socket: so
//! there are two such pools. Errors that come back by ICMP change the kernel's path MTU ([`path`] reads it)
//! and are otherwise not heard of: sockets are not connected (but for some that receive nothing at all) and do not ask
//! for them.
//!
//! All sockets are opened in the calling thread's namespace.

mod cmsg;
mod gre;
mod near;
mod path;
mod recv;
mod send;
mod sock;
mod udp;

use std::net::IpAddr;
use std::os::fd::RawFd;

pub use trunkline_packet::{Arrival, Outer};
use trunkline_packet::{Batch, Pool};

use crate::{RecvEnd, RecvStats, SendStats};

pub use gre::gre;
pub use path::{Path, path};
pub use udp::{Groups, UdpOptions, udp_receivers, udp_senders};

/// Most datagrams of one [`Datagrams`] that go as one message with UDP_SEGMENT: what every kernel takes
/// (UDP_MAX_SEGMENTS was 64 before Linux 6.9). Longer runs are sent singly.
pub const MAX_SEGMENTS: usize = 64;

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, without IPv4-mapped addresses.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }
}

/// The receiving side of one socket. Owned by one worker.
pub trait DatagramRx: Send {
    /// The descriptor that becomes readable when datagrams are waiting.
    fn poll_fd(&self) -> RawFd;

    /// Appends up to `budget` packets to `out`, and an [`Arrival`] for each to `arrivals`. A packet begins at
    /// the UDP payload or the GRE header, has its full headroom, may be empty, and may be larger than any
    /// MTU. Never blocks.
    fn recv(
        &mut self,
        pool: &mut Pool,
        out: &mut Batch,
        arrivals: &mut Vec<Arrival>,
        budget: usize,
        stats: &mut RecvStats,
    ) -> RecvEnd;
}

/// Consecutive packets of a batch that are sent alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagrams {
    /// Where to, of the sockets' family.
    pub dst: IpAddr,
    /// UDP destination port; of no meaning for GRE.
    pub dst_port: u16,
    /// Source address, which must be one of the host's; `None` lets the route choose.
    pub src: Option<IpAddr>,
    /// Index of the interface to send by, for groups and link-local destinations; 0 lets the route choose.
    pub interface: u32,
    /// Outer traffic class, ECN included.
    pub tos: u8,
    /// Outer TTL or hop limit; 0 lets the system choose.
    pub ttl: u8,
    /// Set "don't fragment" and refuse what is larger than the path MTU; else the kernel may fragment.
    pub df: bool,
    /// Which sending socket, taken modulo [`DatagramTx::sockets`].
    pub socket: usize,
    /// The first packet in the batch.
    pub first: usize,
    /// How many packets, one for GRE. Several are sent as one message with UDP_SEGMENT.
    pub count: usize,
    /// Length of each packet but the last, which may be shorter, bytes. Of no meaning when `count` is 1.
    pub size: usize,
}

#[cfg(test)]
impl Datagrams {
    /// One packet, the first of a batch, with nothing special about it.
    fn one_to(dst: IpAddr, dst_port: u16) -> Datagrams {
        Datagrams {
            dst,
            dst_port,
            src: None,
            interface: 0,
            tos: 0,
            ttl: 0,
            df: true,
            socket: 0,
            first: 0,
            count: 1,
            size: 0,
        }
    }
}

/// The sending side. Any worker may send at any time; the kernel serialises.
pub trait DatagramTx: Send + Sync {
    /// How many source ports there are to choose from; 1 for GRE.
    fn sockets(&self) -> usize;

    /// Sends the packets of the batch as `what` says, which names each packet once, or counts why not.
    /// Packets of one socket keep their order. Leaves the batch empty, its packets back in the pool. Never
    /// blocks.
    ///
    /// Drops count a superframe that was cut into several packets once, with the first of them (the one whose
    /// [`trunkline_packet::buf::Meta::frames`] is not 0).
    ///
    /// Reasons: `mtu` when the packet is larger than the path MTU and may not be fragmented, `egress-full`,
    /// `underlay-unreachable`, `egress-error`.
    fn send(&self, pool: &mut Pool, batch: &mut Batch, what: &[Datagrams], stats: &mut SendStats);
}
