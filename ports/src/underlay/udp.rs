//! UDP sockets, for VXLAN and Geneve.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, Weak};

use rustix::net::{SocketType, ipproto};

use super::recv::{Kind, Receiver};
use super::send::Sender;
use super::{DatagramRx, DatagramTx, Family, sock};
use crate::{link, sys};

/// Sending sockets of a family, for either kind: networks spread tunnels by hashes of few bits.
const SENDERS: usize = 32;

/// The dynamic ports of RFC 6335 §6, which RFC 7348 §5 and RFC 8926 §3.3 recommend as source ports.
const SOURCE_PORTS: (u16, u16) = (49152, 65535);

/// Receive buffer asked for, bytes; the kernel counts each datagram with its overhead. Enough for a worker
/// that comes late by a few milliseconds.
const RECEIVE_BUFFER: libc::c_int = 8 << 20;
/// Send buffer asked for, bytes: tens of the largest messages.
const SEND_BUFFER: libc::c_int = 4 << 20;

/// Absent from libc.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;
const UDP_NO_CHECK6_RX: libc::c_int = 102;
const IPV6_MULTICAST_ALL: libc::c_int = 29;

/// Which port to receive on and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UdpOptions {
    /// IPv4 or IPv6.
    pub family: Family,
    /// UDP port; 0 lets the system choose.
    pub port: u16,
    /// Receivers, one for each worker, at least one. The kernel keeps the datagrams of one sender's port
    /// with one of them.
    pub queues: usize,
    /// Groups to join at once: see [`Groups::set`].
    pub groups: Vec<(IpAddr, Option<String>)>,
    /// Over IPv6, take datagrams without a checksum (RFC 6935; RFC 6936 §4 says when one may). Over IPv4
    /// that is always allowed.
    pub checksum6: bool,
}

/// Receivers on a UDP port of all local addresses, and the groups they are in.
///
/// The port is held against everybody else when the first socket is bound; the others share with that one
/// (a process of the same user that binds it with SO_REUSEPORT *later* could too). It is free again when the
/// last receiver is dropped.
///
/// # Errors
/// `AddrInUse` when somebody has the port (another daemon, the kernel's own vxlan or geneve device);
/// `PermissionDenied` for a port below 1024 without CAP_NET_BIND_SERVICE; `Unsupported` when the system has
/// no IPv6; and as [`Groups::set`].
pub fn udp_receivers(options: &UdpOptions) -> io::Result<(Vec<Box<dyn DatagramRx>>, Groups)> {
    let family = options.family;
    let first = receiver(options)?;
    sock::bind(&first, family.any(), options.port).map_err(|e| explain(e, options.port))?;
    let port = sock::local(&first)?.1;
    let share = |fd: &OwnedFd| sock::set(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1);
    let mut all = vec![first];
    for _ in 1..options.queues {
        let next = receiver(options)?;
        // Only from here on, or the first one would have shared with a stranger.
        share(&all[0])?;
        share(&next)?;
        sock::bind(&next, family.any(), port).map_err(|e| explain(e, port))?;
        all.push(next);
    }
    let all: Vec<_> = all.into_iter().map(Arc::new).collect();
    let groups = Groups { family, socket: Arc::downgrade(&all[0]), joined: Mutex::new(Vec::new()) };
    groups.set(&options.groups)?;
    let rx = all.into_iter().map(|fd| Box::new(Receiver::new(fd, Kind::Udp(port))) as Box<dyn DatagramRx>);
    Ok((rx.collect(), groups))
}

fn explain(e: io::Error, port: u16) -> io::Error {
    match e.kind() {
        io::ErrorKind::AddrInUse => io::Error::new(e.kind(), format!("UDP port {port} is taken")),
        _ => sys::context(format_args!("UDP port {port}"), e),
    }
}

fn open(family: Family) -> io::Result<OwnedFd> {
    sock::open(family, SocketType::DGRAM, ipproto::UDP).map_err(|e| match e.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => {
            io::Error::new(io::ErrorKind::Unsupported, "this system has no IPv6 sockets")
        }
        _ => sys::context("UDP socket", e),
    })
}

fn receiver(options: &UdpOptions) -> io::Result<OwnedFd> {
    let family = options.family;
    let fd = open(family)?;
    sock::receive_options(&fd, family)?;
    sock::buffer(&fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
    // Only what the socket itself has joined, or every receiver would get a copy of every group's datagrams.
    sock::set_ip(&fd, family, libc::IP_MULTICAST_ALL, IPV6_MULTICAST_ALL, 0)?;
    if family == Family::V6 {
        sock::set(&fd, libc::SOL_UDP, UDP_NO_CHECK6_RX, options.checksum6.into())?;
    }
    // Linux 5.0; without it datagrams come singly.
    let _ = sock::set(&fd, libc::SOL_UDP, libc::UDP_GRO, 1);
    Ok(fd)
}

/// The multicast groups of the receivers of one port.
#[derive(Debug)]
pub struct Groups {
    family: Family,
    /// The first receiver: one is enough, and with more each datagram would come several times.
    socket: Weak<OwnedFd>,
    joined: Mutex<Vec<(IpAddr, u32)>>,
}

impl Groups {
    /// Joins these groups and leaves all others, each on an interface of the calling thread's namespace
    /// (`None`: where the route to it leads). All or nothing. Call it again when an interface may have been
    /// made anew: memberships go with it.
    ///
    /// # Errors
    /// `InvalidInput` when an address is no group or of the other family; `NotFound` when there is no such
    /// interface, no route to the group, or the receivers are gone; `QuotaExceeded` when it is more groups
    /// than the system allows for.
    pub fn set(&self, groups: &[(IpAddr, Option<String>)]) -> io::Result<()> {
        let mut wanted = Vec::with_capacity(groups.len());
        for (group, interface) in groups {
            if !group.is_multicast() || Family::of(*group) != self.family {
                let text = format!("{group} is not a multicast address of {:?}", self.family);
                return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
            }
            let index = interface.as_deref().map_or(Ok(0), link::index)?;
            if !wanted.contains(&(*group, index)) {
                wanted.push((*group, index));
            }
        }
        let mut joined = self.joined.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if wanted.is_empty() && joined.is_empty() {
            return Ok(());
        }
        let socket = self.socket.upgrade().ok_or(io::ErrorKind::NotFound)?;
        let new: Vec<_> = wanted.iter().copied().filter(|g| !joined.contains(g)).collect();
        for (i, group) in new.iter().enumerate() {
            if let Err(e) = membership(&socket, *group, true) {
                for group in &new[..i] {
                    let _ = membership(&socket, *group, false);
                }
                return Err(e);
            }
        }
        for group in joined.iter().filter(|g| !wanted.contains(g)) {
            // Fails only if the interface took the membership with it.
            let _ = membership(&socket, *group, false);
        }
        *joined = wanted;
        Ok(())
    }
}

fn membership(socket: &OwnedFd, (group, index): (IpAddr, u32), join: bool) -> io::Result<()> {
    let result = match group {
        IpAddr::V4(a) => {
            let request = libc::ip_mreqn {
                imr_multiaddr: libc::in_addr { s_addr: u32::from_ne_bytes(a.octets()) },
                imr_address: libc::in_addr { s_addr: 0 },
                imr_ifindex: index as libc::c_int,
            };
            let option = if join { libc::IP_ADD_MEMBERSHIP } else { libc::IP_DROP_MEMBERSHIP };
            sys::setsockopt(socket.as_fd(), libc::SOL_IP, option, &request)
        }
        IpAddr::V6(a) => {
            let request = libc::ipv6_mreq {
                ipv6mr_multiaddr: libc::in6_addr { s6_addr: a.octets() },
                ipv6mr_interface: index,
            };
            let option = if join { libc::IPV6_ADD_MEMBERSHIP } else { libc::IPV6_DROP_MEMBERSHIP };
            sys::setsockopt(socket.as_fd(), libc::SOL_IPV6, option, &request)
        }
    };
    match result {
        // An earlier membership of ours outlived the interface it was on, or was made twice.
        Err(e) if join && e.raw_os_error() == Some(libc::EADDRINUSE) => Ok(()),
        Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => Err(io::Error::new(
            io::ErrorKind::QuotaExceeded,
            "more groups than net.ipv4.igmp_max_memberships allows",
        )),
        result => result.map_err(|e| sys::context(format_args!("joining {group}"), e)),
    }
}

/// The sending sockets of a family: a pool of source ports, for any number of tunnels and destination ports.
/// Outer checksums are always complete.
///
/// # Errors
/// `Unsupported` when the system has no IPv6; when there are not enough descriptors or ports left.
pub fn udp_senders(family: Family) -> io::Result<Arc<dyn DatagramTx>> {
    Ok(Arc::new(udp_senders_of(family)?))
}

pub(super) fn udp_senders_of(family: Family) -> io::Result<Sender> {
    let pool = |df| (0..SENDERS).map(|_| sender(family, df).map(Arc::new)).collect::<io::Result<Vec<_>>>();
    Ok(Sender::new(pool(true)?, pool(false)?, true))
}

fn sender(family: Family, df: bool) -> io::Result<OwnedFd> {
    let fd = open(family)?;
    sock::deaf(&fd)?;
    sock::set_df(&fd, family, df)?;
    sock::buffer(&fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)?;
    // What we send to a group is not for ourselves.
    sock::set_ip(&fd, family, libc::IP_MULTICAST_LOOP, libc::IPV6_MULTICAST_LOOP, 0)?;
    let (low, high) = SOURCE_PORTS;
    // Linux 6.3, for both families; before, and beyond the system's own range, that range holds.
    let range = i32::from(high) << 16 | i32::from(low);
    let _ = sock::set(&fd, libc::SOL_IP, IP_LOCAL_PORT_RANGE, range);
    sock::bind(&fd, family.any(), 0).map_err(|e| sys::context("UDP source port", e))?;
    Ok(fd)
}
