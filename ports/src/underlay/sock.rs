//! Opening sockets with the options all of them need.

use std::ffi::c_int;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use super::Family;
use super::cmsg::Name;
use crate::sys;

impl Family {
    pub(super) const fn any(self) -> IpAddr {
        match self {
            Family::V4 => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// Level of the IP options, and one of two options.
    const fn pick(self, v4: c_int, v6: c_int) -> (c_int, c_int) {
        match self {
            Family::V4 => (libc::SOL_IP, v4),
            Family::V6 => (libc::SOL_IPV6, v6),
        }
    }
}

/// What sockets send with unless a message says otherwise. Control messages cost: past 36 bytes of them, the kernel
/// takes memory for each message.
pub(super) const TTL: u8 = 64;

/// A socket that neither blocks nor is inherited, of IPv6 alone if of IPv6; unicast leaves it with [`TTL`].
pub(super) fn open(family: Family, kind: SocketType, protocol: Protocol) -> io::Result<OwnedFd> {
    let domain = match family {
        Family::V4 => AddressFamily::INET,
        Family::V6 => AddressFamily::INET6,
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(domain, kind, flags, Some(protocol))?;
    // A raw socket is of one family anyway.
    if family == Family::V6 && kind == SocketType::DGRAM {
        set(&fd, libc::SOL_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    set_ip(&fd, family, libc::IP_TTL, libc::IPV6_UNICAST_HOPS, TTL.into())?;
    Ok(fd)
}

pub(super) fn set(fd: &OwnedFd, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
    sys::setsockopt(fd.as_fd(), level, option, &value)
}

/// An option of the IP level that has a number for each family.
pub(super) fn set_ip(fd: &OwnedFd, family: Family, v4: c_int, v6: c_int, value: c_int) -> io::Result<()> {
    let (level, option) = family.pick(v4, v6);
    set(fd, level, option, value)
}

/// The value of such an option.
pub(super) fn get_ip(fd: &OwnedFd, family: Family, v4: c_int, v6: c_int) -> io::Result<c_int> {
    let (level, option) = family.pick(v4, v6);
    sys::getsockopt(fd.as_fd(), level, option)
}

/// Sets buffers to `bytes`, or to the system's limit where we may not pass it.
pub(super) fn buffer(fd: &OwnedFd, force: c_int, plain: c_int, bytes: c_int) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, force, bytes).or_else(|_| set(fd, libc::SOL_SOCKET, plain, bytes))
}

/// Asks for everything an [`super::Arrival`] needs.
pub(super) fn receive_options(fd: &OwnedFd, family: Family) -> io::Result<()> {
    set_ip(fd, family, libc::IP_PKTINFO, libc::IPV6_RECVPKTINFO, 1)?;
    set_ip(fd, family, libc::IP_RECVTOS, libc::IPV6_RECVTCLASS, 1)?;
    set_ip(fd, family, libc::IP_RECVTTL, libc::IPV6_RECVHOPLIMIT, 1)
}

/// Whether the socket sends with "don't fragment" and refuses what is larger than the path MTU.
pub(super) fn set_df(fd: &OwnedFd, family: Family, df: bool) -> io::Result<()> {
    let (v4, v6) = (libc::IP_MTU_DISCOVER, libc::IPV6_MTU_DISCOVER);
    let value = match (family, df) {
        (Family::V4, true) => libc::IP_PMTUDISC_DO,
        (Family::V4, false) => libc::IP_PMTUDISC_DONT,
        (Family::V6, true) => libc::IPV6_PMTUDISC_DO,
        (Family::V6, false) => libc::IPV6_PMTUDISC_DONT,
    };
    set_ip(fd, family, v4, v6, value)
}

pub(super) fn bind(fd: &OwnedFd, address: IpAddr, port: u16) -> io::Result<()> {
    let name = Name::new(address, port, 0);
    // SAFETY: the address has the length given.
    sys::check(unsafe { libc::bind(fd.as_raw_fd(), name.as_ptr(), name.len()) })?;
    Ok(())
}

pub(super) fn connect(fd: &OwnedFd, address: IpAddr, port: u16) -> io::Result<()> {
    let name = Name::new(address, port, 0);
    // SAFETY: the address has the length given.
    sys::check(unsafe { libc::connect(fd.as_raw_fd(), name.as_ptr(), name.len()) })?;
    Ok(())
}

/// The socket's own address and port.
pub(super) fn local(fd: &OwnedFd) -> io::Result<(IpAddr, u16)> {
    let mut name = Name::EMPTY;
    let mut len = Name::ROOM as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into the address, which has that size.
    sys::check(unsafe { libc::getsockname(fd.as_raw_fd(), name.as_mut_ptr(), &mut len) })?;
    name.get().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Lets nothing be received: a classic BPF program that cuts every datagram to nothing.
pub(super) fn deaf(fd: &OwnedFd) -> io::Result<()> {
    let drop_all = libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: 0 };
    sys::attach_filter(fd, &[drop_all])
}
