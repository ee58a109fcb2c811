//! Raw sockets, for GRE.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::net::{SocketType, ipproto};

use super::recv::{Kind, Receiver};
use super::send::Sender;
use super::{DatagramRx, DatagramTx, Family, sock};
use crate::sys;

/// Receive buffer asked for, bytes. When it overflows the kernel answers with ICMP "protocol unreachable",
/// so it is larger than UDP's; a datagram of 1,500 bytes counts as 2,304.
const RECEIVE_BUFFER: libc::c_int = 16 << 20;
const SEND_BUFFER: libc::c_int = 4 << 20;

/// The sockets for GRE (IP protocol 47) of a family: one receiver, since every raw socket gets a copy of
/// every packet, and the sending side. One of each is enough for a daemon.
///
/// # Errors
/// `PermissionDenied` without CAP_NET_RAW; `Unsupported` when the system has no IPv6.
pub fn gre(family: Family) -> io::Result<(Box<dyn DatagramRx>, Arc<dyn DatagramTx>)> {
    let main = open(family)?;
    // Over IPv4 a packet comes with its header, which says it all (raw(7)).
    if family == Family::V6 {
        sock::receive_options(&main, family)?;
    }
    sock::buffer(&main, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER)?;
    sock::set_df(&main, family, true)?;

    let (whole, fragmenting) = (sender(family, true)?, sender(family, false)?);
    let kind = match family {
        Family::V4 => Kind::GreV4,
        Family::V6 => Kind::GreV6,
    };
    let mut tx = Sender::new(vec![Arc::new(whole)], vec![Arc::new(fragmenting)], false);
    match family {
        Family::V4 => tx.connect_with(|| sender(Family::V4, true)),
        Family::V6 => tx.keep(ear()?),
    }
    Ok((Box::new(Receiver::new(Arc::new(main), kind)), Arc::new(tx)))
}

/// A socket for sending alone: nobody waits for it, so that the kernel has none to wake for every packet that has left.
fn sender(family: Family, df: bool) -> io::Result<OwnedFd> {
    let fd = open(family)?;
    sock::buffer(&fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER)?;
    sock::set_df(&fd, family, df)?;
    // Bound to a group address, it receives nothing, while its source address is left to the route. What the
    // kernel learns of the path, it learns by the receiver.
    let nowhere: IpAddr = match family {
        Family::V4 => [224, 0, 0, 0].into(),
        Family::V6 => [0xff0e, 0, 0, 0, 0, 0, 0, 0].into(),
    };
    sock::bind(&fd, nowhere, 0)?;
    Ok(fd)
}

/// A socket for whose sake the kernel learns path MTUs over IPv6. It takes "packet too big" about a raw
/// socket's packets into account only if that socket is connected or asks for errors (rawv6_err), and the
/// others must not ask: errors would come out of their sends. Nobody reads this one.
fn ear() -> io::Result<OwnedFd> {
    let fd = open(Family::V6)?;
    sock::deaf(&fd)?;
    // Errors that are not read take little room.
    sock::set(&fd, libc::SOL_SOCKET, libc::SO_RCVBUF, 0)?;
    sock::set(&fd, libc::SOL_IPV6, libc::IPV6_RECVERR, 1)?;
    Ok(fd)
}

fn open(family: Family) -> io::Result<OwnedFd> {
    sock::open(family, SocketType::RAW, ipproto::GRE).map_err(|e| match e.raw_os_error() {
        Some(libc::EAFNOSUPPORT) => {
            io::Error::new(io::ErrorKind::Unsupported, "this system has no IPv6 sockets")
        }
        Some(libc::EPERM | libc::EACCES) => {
            io::Error::new(io::ErrorKind::PermissionDenied, "raw socket for GRE: needs CAP_NET_RAW")
        }
        _ => sys::context("raw socket for GRE", e),
    })
}
