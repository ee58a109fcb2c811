//! What the gateway serves besides routing, and the shape of it: `dhcp.rs` and `ra.rs` turn a request into an
//! answer, the router takes off and puts on the headers.
//!
//! The router calls them with the lock of the service held, on the slow path only. They may allocate.

use std::net::{Ipv4Addr, Ipv6Addr};

use parking_lot::Mutex;
use trunkline_packet::MacAddr;

/// A UDP datagram to port 67 that came in on a gateway: to its address or broadcast, IP and UDP headers checked
/// and taken off.
#[derive(Clone, Copy, Debug)]
pub struct Datagram<'a> {
    /// Who sent the frame.
    pub src_mac: MacAddr,
    /// Source address; unspecified for a client without one.
    pub src: Ipv4Addr,
    /// Destination: ours or broadcast.
    pub dst: Ipv4Addr,
    /// Source port.
    pub src_port: u16,
    /// The UDP payload.
    pub payload: &'a [u8],
}

/// An answer to a datagram; sent from port 67 of the gateway's own IPv4 address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Who gets the frame.
    pub dst_mac: MacAddr,
    /// Destination address.
    pub dst: Ipv4Addr,
    /// Destination port.
    pub dst_port: u16,
    /// The UDP payload, at most what the interface's MTU takes.
    pub payload: Vec<u8>,
    /// The address that it offers, and to which MAC address: before it is sent, the router looks whether anybody
    /// else has it.
    pub offer: Option<(Ipv4Addr, MacAddr)>,
}

/// An ICMPv6 message; sent from the gateway's link-local address with hop limit 255.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Icmp6 {
    /// Destination address; a group is mapped to its MAC address by the router.
    pub dst: Ipv6Addr,
    /// Who gets the frame, if not a group.
    pub dst_mac: MacAddr,
    /// From the type on; the router fills in the checksum.
    pub message: Vec<u8>,
}

/// The services of one gateway, shared by all workers, kept while its configuration is.
#[derive(Debug, Default)]
pub struct Services {
    /// DHCPv4.
    pub dhcp: Option<Mutex<crate::dhcp::Server>>,
    /// Router advertisements.
    pub ra: Option<Mutex<crate::ra::Advertiser>>,
}
