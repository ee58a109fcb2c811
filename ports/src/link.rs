//! What ports need to know of an interface, by ioctl, in the calling thread's namespace. Everything else is
//! rtnetlink's and the control plane's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use crate::sys;

/// The index of an interface of the calling thread's namespace.
///
/// # Errors
/// `NotFound` when there is none of that name; `InvalidInput` when it is no name.
pub fn index(name: &str) -> io::Result<u32> {
    let mut req = sys::ifreq(name)?;
    let fd = sys::ioctl_socket()?;
    sys::ioctl_ifreq(&fd, libc::SIOCGIFINDEX, &mut req)
        .map_err(|e| sys::context(format_args!("interface {name}"), e))?;
    // SAFETY: SIOCGIFINDEX has filled this member.
    Ok(unsafe { req.ifr_ifru.ifru_ifindex } as u32)
}

/// What is known of an interface at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Its name now.
    pub name: String,
    /// MTU, bytes.
    pub mtu: u32,
    /// Administratively up (IFF_UP).
    pub up: bool,
}

impl Link {
    /// Looks an interface of the calling thread's namespace up by index.
    ///
    /// # Errors
    /// `NotFound` when it is gone.
    pub fn get(index: u32) -> io::Result<Link> {
        let fd: OwnedFd = sys::ioctl_socket()?;
        Link::get_on(&fd, index)
    }

    /// The same in the namespace of a socket, whichever it is.
    pub(crate) fn get_on(socket: impl AsFd, index: u32) -> io::Result<Link> {
        let named = |e| sys::context(format_args!("interface {index}"), e);
        let name = rustix::net::netdevice::index_to_name(&socket, index).map_err(|e| named(e.into()))?;
        let mut req = sys::ifreq(&name)?;
        sys::ioctl_ifreq(&socket, libc::SIOCGIFMTU, &mut req).map_err(named)?;
        // SAFETY: SIOCGIFMTU has filled this member.
        let mtu = unsafe { req.ifr_ifru.ifru_mtu } as u32;
        sys::ioctl_ifreq(&socket, libc::SIOCGIFFLAGS, &mut req).map_err(named)?;
        // SAFETY: SIOCGIFFLAGS has filled this member.
        let flags = unsafe { req.ifr_ifru.ifru_flags };
        Ok(Link { name, mtu, up: i32::from(flags) & libc::IFF_UP != 0 })
    }
}
