//! What the kernel knows of the path to a remote.

use std::io;
use std::net::IpAddr;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, ipproto, recv, send, socket_with,
};

use super::{Family, sock};
use crate::netlink::{Requests, attribute, message};
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

/// Any port does: nothing is sent.
const DISCARD: u16 = 9;

/// Asks the kernel for its path to `remote`, from `local` if given, in the calling thread's namespace. Sends
/// nothing.
///
/// # Errors
/// `NetworkUnreachable` when there is no route, or one that forbids; `AddrNotAvailable` when `local` is not
/// the host's; `InvalidInput` when the two are not of one family, or the remote cannot be a tunnel's end.
pub fn path(remote: IpAddr, local: Option<IpAddr>) -> io::Result<Path> {
    let family = Family::of(remote);
    let invalid = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    if remote.is_unspecified() {
        return invalid(format!("{remote} is not an address to send to"));
    }
    if matches!(remote, IpAddr::V6(a) if a.is_unicast_link_local()) {
        return invalid(format!("{remote} is link-local, which does not say by which interface"));
    }
    let fd =
        sock::open(family, SocketType::DGRAM, ipproto::UDP).map_err(|e| sys::context("UDP socket", e))?;
    if let Some(local) = local {
        if Family::of(local) != family {
            return invalid(format!("{local} and {remote} are not of one family"));
        }
        sock::bind(&fd, local, 0).map_err(|e| match e.raw_os_error() {
            Some(libc::EADDRNOTAVAIL | libc::EINVAL) => io::Error::new(
                io::ErrorKind::AddrNotAvailable,
                format!("{local} is not an address of this host"),
            ),
            _ => sys::context(local, e),
        })?;
    }
    sock::connect(&fd, remote, DISCARD).map_err(|e| no_route(remote, e))?;
    let source = sock::local(&fd)?.0;
    let mtu = sock::get_ip(&fd, family, libc::IP_MTU, libc::IPV6_MTU)? as u32;
    let interface = interface(remote, source).map_err(|e| no_route(remote, e))?;
    Ok(Path { mtu, source, interface })
}

fn no_route(remote: IpAddr, e: io::Error) -> io::Error {
    match e.raw_os_error() {
        // Unreachable, blackhole and prohibit routes too.
        Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EINVAL | libc::EACCES | libc::EADDRNOTAVAIL) => {
            io::Error::new(io::ErrorKind::NetworkUnreachable, format!("no route to {remote}"))
        }
        _ => sys::context(format_args!("route to {remote}"), e),
    }
}

// linux/rtnetlink.h; libc has them only in part.
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
/// Bytes of `rtmsg`.
const RTMSG: usize = 12;

/// The interface of the route, by RTM_GETROUTE: a connected socket does not tell.
fn interface(remote: IpAddr, source: IpAddr) -> io::Result<u32> {
    let octets = |address: IpAddr| match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    };
    let (dst, src) = (octets(remote), octets(source));
    let family = if remote.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let bits = (dst.len() * 8) as u8;
    let mut header = [0; RTMSG];
    header[..3].copy_from_slice(&[family as u8, bits, bits]);
    let mut request = Requests::default();
    request.push(libc::RTM_GETROUTE, 0, &header, |m| {
        m.attribute(RTA_DST, &dst);
        m.attribute(RTA_SRC, &src);
    });
    // No protocol is NETLINK_ROUTE.
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    send(&socket, request.bytes(), SendFlags::empty())?;
    let mut buffer = [0; 4096];
    let (len, _) = recv(&socket, &mut buffer[..], RecvFlags::DONTWAIT)?;
    match message(&buffer[..len]) {
        Some((libc::RTM_NEWROUTE, body, _)) => body
            .get(RTMSG..)
            .and_then(|attributes| attribute(attributes, RTA_OIF)?.first_chunk())
            .map(|&index| u32::from_ne_bytes(index))
            .ok_or_else(|| io::Error::from_raw_os_error(libc::ENETUNREACH)),
        Some((_, body, _)) => {
            let code = body.first_chunk().map_or(0, |&c| i32::from_ne_bytes(c));
            Err(io::Error::from_raw_os_error(code.saturating_neg()))
        }
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}
