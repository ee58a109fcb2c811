//! The receiving side: recvmmsg into packets and spare tails.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::{mem, ptr};

use trunkline_packet::buf::{HEAD_ROOM, TAIL_ROOM, Tail};
use trunkline_packet::headers::{IPV4_HLEN, proto};
use trunkline_packet::{Batch, DropReason, Packet, Pool};

use super::cmsg::{Control, Name};
use super::{Arrival, DatagramRx};
use crate::{RecvEnd, RecvStats};

/// Messages per system call.
const CHUNK: usize = 32;
/// The same when few are there or expected, so that a lone datagram borrows few tails.
const FEW: usize = 4;

/// Parts of a message: head, tail.
const PARTS: usize = 2;

/// What a socket hands over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// UDP payloads, sent to this port.
    Udp(u16),
    /// IPv4 packets with their headers (raw(7)).
    GreV4,
    /// What follows the IPv6 headers.
    GreV6,
}

pub(super) struct Receiver {
    fd: Arc<OwnedFd>,
    kind: Kind,
    /// Messages to prepare for: preparing costs, so it follows what comes.
    window: usize,
}

impl Receiver {
    pub(super) fn new(fd: Arc<OwnedFd>, kind: Kind) -> Receiver {
        Receiver { fd, kind, window: FEW }
    }
}

impl DatagramRx for Receiver {
    fn poll_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    fn recv(
        &mut self,
        pool: &mut Pool,
        out: &mut Batch,
        arrivals: &mut Vec<Arrival>,
        budget: usize,
        stats: &mut RecvStats,
    ) -> RecvEnd {
        let (fd, kind) = (self.fd.as_raw_fd(), self.kind);
        let mut left = budget;
        while left > 0 {
            let want = left.min(self.window);
            let receive = if want <= FEW { receive::<FEW> } else { receive::<CHUNK> };
            match receive(fd, kind, pool, out, arrivals, want, stats) {
                Ok(n) => {
                    left -= n.min(left);
                    if n < want {
                        self.window = FEW;
                        // An error behind the last datagram, if any, is reported by the next call.
                        return RecvEnd::Drained;
                    }
                    self.window = (self.window * 2).min(CHUNK);
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => {
                        self.window = FEW;
                        return RecvEnd::Drained;
                    }
                    Some(libc::EINTR) => left -= 1,
                    Some(libc::EBADF | libc::ENOTSOCK) => return RecvEnd::Failed { error: e, fatal: true },
                    _ => return RecvEnd::Failed { error: e, fatal: false },
                },
            }
        }
        RecvEnd::More
    }
}

/// One recvmmsg of up to `want` datagrams, at most `N`, appended to `out`. How many came, bad ones included.
fn receive<const N: usize>(
    fd: RawFd,
    kind: Kind,
    pool: &mut Pool,
    out: &mut Batch,
    arrivals: &mut Vec<Arrival>,
    want: usize,
    stats: &mut RecvStats,
) -> io::Result<usize> {
    let want = want.min(N);
    let mut packets: [Option<Packet>; N] = [const { None }; N];
    let mut tails: [Option<Tail>; N] = [const { None }; N];
    let mut names = [Name::EMPTY; N];
    let mut controls = [Control::EMPTY; N];
    let mut parts = [[libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PARTS]; N];
    // SAFETY: `mmsghdr` is plain C data, for which all zeros is a valid value.
    let mut messages: [libc::mmsghdr; N] = unsafe { mem::zeroed() };

    for i in 0..want {
        let head = packets[i].insert(pool.get()).rx_area();
        let tail = tails[i].insert(pool.take_tail()).as_mut();
        parts[i] = [
            libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: HEAD_ROOM },
            libc::iovec { iov_base: tail.as_mut_ptr().cast(), iov_len: TAIL_ROOM },
        ];
        let m = &mut messages[i].msg_hdr;
        m.msg_name = names[i].as_mut_ptr().cast();
        m.msg_namelen = Name::ROOM as _;
        m.msg_iov = parts[i].as_mut_ptr();
        m.msg_iovlen = PARTS as _;
        m.msg_control = controls[i].as_mut_ptr();
        m.msg_controllen = Control::ROOM as _;
    }
    // SAFETY: the first `want` messages point to `names`, `controls`, `parts` and, through `parts`, to the
    // memory of packets and tails, which sits on the heap and is owned by `packets` and `tails`; all of it
    // outlives the call, nothing else refers to it, and the lengths are those of the areas.
    let result = unsafe {
        libc::recvmmsg(fd, messages.as_mut_ptr(), want as _, libc::MSG_DONTWAIT as _, ptr::null_mut())
    };
    // Taken before giving buffers back, which might change errno.
    let result = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) };
    let came = *result.as_ref().unwrap_or(&0);

    for i in 0..want {
        let Some(mut packet) = packets[i].take() else { continue };
        let verdict = if i < came {
            let message = Message { name: &names[i], control: &controls[i], header: &messages[i] };
            accept(kind, &mut packet, &message, &mut tails[i]).map_err(Some)
        } else {
            Err(None)
        };
        match verdict {
            Ok(arrival) => {
                out.push(packet);
                arrivals.push(arrival);
            }
            Err(reason) => {
                if let Some(reason) = reason {
                    stats.count(reason);
                }
                pool.put(packet);
            }
        }
        if let Some(tail) = tails[i].take() {
            pool.put_tail(tail);
        }
    }
    result
}

struct Message<'a> {
    name: &'a Name,
    control: &'a Control,
    header: &'a libc::mmsghdr,
}

/// Makes `packet` what one message brought.
#[inline]
fn accept(
    kind: Kind,
    packet: &mut Packet,
    message: &Message<'_>,
    tail: &mut Option<Tail>,
) -> Result<Arrival, DropReason> {
    let header = &message.header.msg_hdr;
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(DropReason::Oversize);
    }
    packet.set_received(message.header.msg_len as usize, tail)?;
    let (src, src_port) = message.name.get().ok_or(DropReason::Truncated)?;
    if kind == Kind::GreV4 {
        return strip_ipv4(packet);
    }
    let came = message.control.read(header.msg_controllen as _);
    // Without a destination nobody knows whose tunnel it is; the kernel leaves it out only if memory fails it.
    let dst = came.dst.ok_or(DropReason::Truncated)?;
    let (src_port, dst_port, proto) = match kind {
        Kind::Udp(port) => (src_port, port, proto::UDP),
        Kind::GreV4 | Kind::GreV6 => (0, 0, proto::GRE),
    };
    // A mark on a single datagram says nothing.
    let gro = came.gro.filter(|&size| size != 0 && usize::from(size) < packet.len());
    Ok(Arrival { src, dst, src_port, dst_port, tos: came.tos, ttl: came.ttl, proto, gro })
}

/// Takes the IPv4 header off, which the kernel has checked.
#[inline]
fn strip_ipv4(packet: &mut Packet) -> Result<Arrival, DropReason> {
    let h = packet.head();
    let ip: &[u8; IPV4_HLEN] = h.first_chunk().ok_or(DropReason::Truncated)?;
    let len = usize::from(ip[0] & 0xf) * 4;
    if ip[0] >> 4 != 4 || len < IPV4_HLEN {
        return Err(DropReason::Truncated);
    }
    let address = |at: usize| std::net::Ipv4Addr::new(ip[at], ip[at + 1], ip[at + 2], ip[at + 3]).into();
    let arrival = Arrival {
        src: address(12),
        dst: address(16),
        src_port: 0,
        dst_port: 0,
        tos: ip[1],
        ttl: ip[8],
        proto: proto::GRE,
        gro: None,
    };
    if packet.pull_front(len) { Ok(arrival) } else { Err(DropReason::Truncated) }
}
