//! Keeps the host's stack away from an interface that a packet socket has taken over, or from the ports of
//! it that the switch has.
//!
//! Everything ([`IngressDrop::attach`]), or what is for those ports ([`IngressDrop::attach_ports`]), is
//! dropped at an ingress hook of the interface. Packet sockets get their frames before those hooks, so they
//! still see all of them; IP, ARP, bridges, VLAN interfaces and everything else of the host's see none of
//! what is dropped. Sending is untouched: see [`Reservation`] for the host's own source ports.

mod nft;
mod program;
mod reserve;
mod share;
mod tcx;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

pub use reserve::{Reservation, taken_ports};
pub use share::PortShare;

use program::{Op, Program};
use share::Whom;

/// The hook that drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A program on the tcx hook. Needs Linux 6.6, CAP_BPF and CAP_NET_ADMIN in the first user namespace.
    Tcx,
    /// A chain of nf_tables, family netdev, in a table that belongs to a netlink socket. Needs Linux 5.12
    /// with nf_tables, and CAP_NET_ADMIN over the network namespace. An interface renamed while guarded may
    /// lose the guard (Linux 6.16 and later).
    Nft,
}

/// Drops what an interface receives before the host's stack sees it, all of it or what is for some ports,
/// until the last descriptor of it is closed or the interface goes. Several on one interface do no harm: to
/// change what is dropped, attach another one and then drop the first.
#[derive(Debug)]
pub struct IngressDrop {
    method: Method,
    fd: OwnedFd,
}

impl IngressDrop {
    /// Drops everything on an interface of the calling thread's namespace, by [`Method::Tcx`] or else
    /// [`Method::Nft`].
    ///
    /// # Errors
    /// As [`IngressDrop::attach_by`]; when both fail, the kind is the second's and the text has both.
    pub fn attach(ifindex: u32) -> io::Result<IngressDrop> {
        either(|method| IngressDrop::attach_by(ifindex, method))
    }

    /// The same by one method only.
    ///
    /// # Errors
    /// `PermissionDenied` without the capabilities of the [`Method`]; `Unsupported` when the kernel cannot;
    /// `NotFound` when there is no such interface.
    pub fn attach_by(ifindex: u32, method: Method) -> io::Result<IngressDrop> {
        let fd = match method {
            Method::Tcx => {
                let mut all = Program::default();
                all.add([Op::Verdict(true)]);
                tcx::attach(ifindex, &all)
            }
            Method::Nft => nft::attach(ifindex, None),
        }?;
        Ok(IngressDrop { method, fd })
    }

    /// Drops TCP, UDP and tunnels to the ports and addresses of `share` on an interface of the calling thread's
    /// namespace, by [`Method::Tcx`] or else [`Method::Nft`], so that the host's stack does not answer with
    /// resets and "port unreachable". Everything else goes on as before.
    ///
    /// # Errors
    /// As [`IngressDrop::attach_ports_by`]; when both fail, the kind is the second's and the text has both.
    pub fn attach_ports(ifindex: u32, share: &PortShare) -> io::Result<IngressDrop> {
        either(|method| IngressDrop::attach_ports_by(ifindex, share, method))
    }

    /// The same by one method only.
    ///
    /// # Errors
    /// As [`IngressDrop::attach_by`]; `InvalidInput` when the share makes no sense.
    pub fn attach_ports_by(ifindex: u32, share: &PortShare, method: Method) -> io::Result<IngressDrop> {
        let fd = match method {
            Method::Tcx => tcx::attach(ifindex, &share.program(Whom::Stack)?),
            Method::Nft => nft::attach(ifindex, Some(&share.checked()?)),
        }?;
        Ok(IngressDrop { method, fd })
    }

    /// Goes on with a descriptor that another process held.
    ///
    /// # Errors
    /// `InvalidInput` when it is not one of [`IngressDrop::attach`]'s.
    pub fn from_fd(fd: OwnedFd) -> io::Result<IngressDrop> {
        let is_socket = rustix::net::sockopt::socket_domain(&fd).is_ok();
        let method = if is_socket { Method::Nft } else { Method::Tcx };
        let drop = IngressDrop { method, fd };
        drop.ifindex()?;
        Ok(drop)
    }

    /// What drops.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The interface it is attached to; `None` once that is gone.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn ifindex(&self) -> io::Result<Option<u32>> {
        match self.method {
            Method::Tcx => tcx::ifindex(self.fd.as_fd()),
            Method::Nft => nft::ifindex(self.fd.as_fd()),
        }
    }

    /// A second descriptor for a keeper to hold.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }
}

impl AsFd for IngressDrop {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The first method that works. That there is no such interface, or that the share makes no sense, is the
/// same by all.
fn either(attach: impl Fn(Method) -> io::Result<IngressDrop>) -> io::Result<IngressDrop> {
    attach(Method::Tcx).or_else(|tcx| match tcx.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput => Err(tcx),
        _ => attach(Method::Nft).map_err(|nft| io::Error::new(nft.kind(), format!("{tcx}; {nft}"))),
    })
}

/// The error of [`IngressDrop::from_fd`] for a descriptor of something else.
fn not_a_guard() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not the descriptor of an ingress drop")
}
