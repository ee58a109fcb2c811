//! AF_PACKET: an existing interface (a veth end, a NIC) taken over by a packet socket.
//!
//! Superframes and partial checksums come and go whole by PACKET_VNET_HDR. The kernel strips the outermost
//! VLAN tag; it is restored from PACKET_AUXDATA into the metadata. Frames sent here are not received again.
//! The interface's own stack still sees every frame too: see [`crate::guard`].

mod recv;
mod ring;
mod send;

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Weak};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use self::ring::Ring;
use crate::guard::PortShare;
use crate::link::{self, Link};
use crate::{Queues, TxCaps, sys};

/// Messages per system call.
const CHUNK: usize = 32;
/// The same when few are there or expected: clearing space for 32 takes 5 to 10 % of a single frame's time.
const FEW: usize = 4;

/// Socket buffers asked for, bytes; the kernel counts each frame with its overhead. Enough for a few
/// milliseconds of superframes.
const BUFFER: libc::c_int = 4 << 20;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct AfPacket {
    socket: Arc<Socket>,
    ring: Option<Ring>,
}

#[derive(Debug)]
struct Socket {
    fd: OwnedFd,
    /// For sending alone. Nobody waits for it, so that the kernel has none to wake for every frame that has left.
    tx: OwnedFd,
    ifindex: u32,
    caps: TxCaps,
    mtu: AtomicU32,
    ring_drops: AtomicU64,
}

impl AfPacket {
    /// Opens a socket on an Ethernet interface of the calling thread's namespace, up or down, and makes the
    /// interface promiscuous while the socket lives.
    ///
    /// Without `offload`, only ordinary frames with complete checksums are sent ([`TxCaps::NONE`]). Received
    /// ones still carry offload metadata: a veth peer leaves checksums and segmentation open whether we ask
    /// for it or not, and without the metadata such frames would be taken for damaged ones.
    ///
    /// # Errors
    /// `NotFound` when there is no such interface; `InvalidInput` when it is not an Ethernet one;
    /// `PermissionDenied` without CAP_NET_RAW.
    pub fn open(interface: &str, offload: bool) -> io::Result<AfPacket> {
        AfPacket::open_for(interface, offload, false, None)
    }

    /// The same for an interface whose frames mostly come one by one, as from a wire, and not as superframes, as from
    /// a container: they are received by a ring (8 MiB of the kernel's memory) where the kernel has room for one.
    ///
    /// # Errors
    /// As [`AfPacket::open`].
    pub fn open_wire(interface: &str, offload: bool) -> io::Result<AfPacket> {
        AfPacket::open_for(interface, offload, true, None)
    }

    /// As [`AfPacket::open_wire`] for an interface that stays the host's, the loopback too: receives only what may belong
    /// to the ports of `share`, and does not make it promiscuous. Filtered in the kernel, so that the rest costs little.
    ///
    /// # Errors
    /// As [`AfPacket::open`]; `InvalidInput` when the share makes no sense.
    pub fn open_shared(interface: &str, offload: bool, share: &PortShare) -> io::Result<AfPacket> {
        AfPacket::open_for(interface, offload, true, Some(share))
    }

    fn open_for(
        interface: &str,
        offload: bool,
        wire: bool,
        share: Option<&PortShare>,
    ) -> io::Result<AfPacket> {
        let ifindex = link::index(interface)?;
        AfPacket::set_up(ifindex, offload, wire, share)
            .map_err(|e| sys::context(format_args!("interface {interface}"), e))
    }

    fn set_up(ifindex: u32, offload: bool, wire: bool, share: Option<&PortShare>) -> io::Result<AfPacket> {
        // Protocol 0: nothing is received before everything is set, and nothing ever by the one for sending.
        let (fd, tx) = (open_bound(ifindex)?, open_bound(ifindex)?);
        let (_, hatype) = bound(&fd)?;
        // The loopback's frames look like Ethernet's.
        let loopback = share.is_some() && hatype == libc::ARPHRD_LOOPBACK;
        if hatype != libc::ARPHRD_ETHER && !loopback {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an Ethernet interface"));
        }
        for option in [libc::PACKET_VNET_HDR, libc::PACKET_AUXDATA, libc::PACKET_IGNORE_OUTGOING] {
            sys::setsockopt(fd.as_fd(), libc::SOL_PACKET, option, &1)?;
        }
        sys::setsockopt(tx.as_fd(), libc::SOL_PACKET, libc::PACKET_VNET_HDR, &1)?;
        let buffers =
            [(&fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (&tx, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)];
        for (fd, force, plain) in buffers {
            // Beyond the system's limit if we may, else up to it.
            if sys::setsockopt(fd.as_fd(), libc::SOL_SOCKET, force, &BUFFER).is_err() {
                sys::setsockopt(fd.as_fd(), libc::SOL_SOCKET, plain, &BUFFER)?;
            }
        }
        match share {
            Some(share) => share.filter(&fd)?,
            None => promiscuous(&fd, ifindex)?,
        }
        let link = Link::get_on(&fd, ifindex)?;
        // Without one it works as well, only slower.
        let ring = if wire { Ring::new(&fd, link.mtu).ok() } else { None };
        bind(&fd, ifindex, libc::ETH_P_ALL as u16)?;
        let caps = if offload {
            TxCaps { csum: true, tso: true, uso: kernel_has_uso(), tunnel_gso: false }
        } else {
            TxCaps::NONE
        };
        let socket =
            Socket { fd, tx, ifindex, caps, mtu: AtomicU32::new(link.mtu), ring_drops: AtomicU64::new(0) };
        Ok(AfPacket { socket: Arc::new(socket), ring })
    }

    /// Index of the interface.
    pub fn ifindex(&self) -> u32 {
        self.socket.ifindex
    }

    /// MTU of the interface, as of the last [`Monitor::refresh`].
    pub fn mtu(&self) -> u32 {
        self.socket.mtu.load(Relaxed)
    }

    /// What the socket takes without help.
    pub fn caps(&self) -> TxCaps {
        self.socket.caps
    }

    /// Whether it receives by a ring.
    pub fn has_ring(&self) -> bool {
        self.ring.is_some()
    }

    /// A handle to watch the interface with after [`AfPacket::into_io`].
    pub fn monitor(&self) -> Monitor {
        Monitor(Arc::downgrade(&self.socket))
    }

    /// The receiving and the sending side.
    pub fn into_io(self) -> Queues {
        let rx = recv::AfPacketRx::new(self.socket.clone(), self.ring);
        (vec![Box::new(rx)], vec![Arc::new(send::AfPacketTx(self.socket))])
    }
}

/// Watches the interface behind a packet socket for the control plane. Does not keep the socket open.
#[derive(Clone, Debug)]
pub struct Monitor(Weak<Socket>);

impl Monitor {
    /// Looks at the interface and takes over its MTU for [`crate::TxQueue::mtu`].
    ///
    /// The receiving side reports an interface that goes down, but a socket hears nothing of one that is
    /// deleted while it is down: call this about once a second, or on link events.
    ///
    /// # Errors
    /// `NotFound` when the interface has been deleted or has left for another namespace (open a new socket
    /// there), or the socket is closed.
    pub fn refresh(&self) -> io::Result<Link> {
        let socket = self.0.upgrade().ok_or_else(gone)?;
        if socket.is_gone() {
            return Err(gone());
        }
        let link = Link::get_on(&socket.fd, socket.ifindex)?;
        socket.mtu.store(link.mtu, Relaxed);
        Ok(link)
    }

    /// Changes the share of a socket of [`AfPacket::open_shared`] while it runs.
    ///
    /// # Errors
    /// `InvalidInput` when the share makes no sense; `NotFound` when the socket is closed.
    pub fn set_share(&self, share: &PortShare) -> io::Result<()> {
        let socket = self.0.upgrade().ok_or_else(gone)?;
        share.filter(&socket.fd)
    }

    /// Frames the kernel dropped because the socket's buffer was full, since it was opened; 0 once it is
    /// closed.
    pub fn ring_drops(&self) -> u64 {
        let Some(socket) = self.0.upgrade() else { return 0 };
        // Reading resets the kernel's counter.
        let stats = sys::getsockopt::<libc::tpacket_stats>(
            socket.fd.as_fd(),
            libc::SOL_PACKET,
            libc::PACKET_STATISTICS,
        );
        let new = stats.map_or(0, |s| u64::from(s.tp_drops));
        socket.ring_drops.fetch_add(new, Relaxed) + new
    }
}

impl Socket {
    /// Whether the interface was deleted or moved away: the kernel then unbinds the socket for good.
    fn is_gone(&self) -> bool {
        !matches!(bound(&self.fd), Ok((index, _)) if index == self.ifindex as i32)
    }
}

/// Takes frames for all addresses, while the socket lives.
fn promiscuous(fd: &OwnedFd, ifindex: u32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: ifindex as libc::c_int,
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    sys::setsockopt(fd.as_fd(), libc::SOL_PACKET, libc::PACKET_ADD_MEMBERSHIP, &request)
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, "the interface is gone")
}

/// A packet socket that belongs to an interface and receives nothing yet.
fn open_bound(ifindex: u32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?;
    bind(&fd, ifindex, 0)?;
    Ok(fd)
}

fn bind(fd: &OwnedFd, ifindex: u32, protocol: u16) -> io::Result<()> {
    // SAFETY: `sockaddr_ll` is plain C data, for which all zeros is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as libc::c_ushort;
    address.sll_protocol = protocol.to_be();
    address.sll_ifindex = ifindex as libc::c_int;
    let len = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a `sockaddr_ll` of the length given.
    sys::check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), len) })?;
    Ok(())
}

/// The interface index (-1 once it is gone) and hardware type the socket is bound to.
fn bound(fd: &OwnedFd) -> io::Result<(i32, u16)> {
    // SAFETY: `sockaddr_ll` is plain C data, for which all zeros is a valid value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    let mut len = mem::size_of_val(&address) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes into the address, which has that size.
    sys::check(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut address).cast(), &mut len) })?;
    Ok((address.sll_ifindex, address.sll_hatype))
}

/// UDP superframes by virtio header: Linux 6.2.
fn kernel_has_uso() -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 2)
}
