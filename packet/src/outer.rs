//! What is known of the headers around a tunnel's packet once they are off: the vocabulary that whoever takes
//! them off (the kernel's sockets, [`crate::Packet`]s of an uplink) shares with the tunnels.

use std::net::IpAddr;

/// What the outer headers said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outer {
    /// The sender.
    pub src: IpAddr,
    /// To whom: one of our addresses, or a group.
    pub dst: IpAddr,
    /// UDP source port; 0 for GRE.
    pub src_port: u16,
    /// UDP destination port, which is the receiver's; 0 for GRE.
    pub dst_port: u16,
    /// Traffic class, ECN included.
    pub tos: u8,
    /// TTL or hop limit as it arrived.
    pub ttl: u8,
    /// IP protocol: 17 (UDP) or 47 (GRE).
    pub proto: u8,
}

/// How a packet arrived whose outer headers are off: it begins with the tunnel header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// The outer headers.
    pub outer: Outer,
    /// The packet is several datagrams of this many bytes, the last of which may be shorter, merged by the
    /// sender or the kernel, as from a UDP_GRO socket. They share the outer headers.
    pub gro: Option<u16>,
}
