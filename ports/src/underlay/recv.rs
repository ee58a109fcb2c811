//! The receiving side: recvmmsg into packets and spare tails.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::{mem, ptr};

use trunkline_packet::buf::{HEAD_ROOM, TAIL_ROOM, Tail};
use trunkline_packet::headers::{IPV4_HLEN, proto};
use trunkline_packet::{Arrival, Batch, DropReason, Outer, Packet, Pool};

use super::DatagramRx;
use super::cmsg::{Control, Name};
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
        let mut bytes = 0;
        while left > 0 {
            if bytes >= crate::ENOUGH_BYTES {
                // Trains: few are many bytes.
                self.window = FEW;
                break;
            }
            let before = out.len();
            let want = left.min(self.window);
            let receive = if want <= FEW { receive::<FEW> } else { receive::<CHUNK> };
            match receive(fd, kind, pool, out, arrivals, want, stats) {
                Ok(n) => {
                    left -= n.min(left);
                    bytes += out[before..].iter().map(Packet::len).sum::<usize>();
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
    let outer = Outer { src, dst, src_port, dst_port, tos: came.tos, ttl: came.ttl, proto };
    Ok(Arrival { outer, gro })
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
    let outer = Outer {
        src: address(12),
        dst: address(16),
        src_port: 0,
        dst_port: 0,
        tos: ip[1],
        ttl: ip[8],
        proto: proto::GRE,
    };
    if packet.pull_front(len) { Ok(Arrival { outer, gro: None }) } else { Err(DropReason::Truncated) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn packet(bytes: &[u8]) -> Packet {
        let mut pool = Pool::new(1, 1);
        let mut p = pool.get();
        p.set_bytes(bytes, &mut pool).unwrap();
        p
    }

    #[test]
    fn ipv4_headers_come_off_with_their_options() {
        let mut header = vec![0x45, 0x2e, 0, 0, 0, 0, 0, 0, 9, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        for options in [0, 4, 40] {
            header[0] = 0x45 + (options / 4) as u8;
            let mut p = packet(&[&header[..], &vec![1; options], b"gre"].concat());
            let arrival = strip_ipv4(&mut p).unwrap();
            assert_eq!((p.to_vec(), arrival.outer.tos, arrival.outer.ttl), (b"gre".to_vec(), 0x2e, 9));
            assert_eq!(
                (arrival.outer.src.to_string(), arrival.outer.dst.to_string()),
                ("192.0.2.1".into(), "192.0.2.2".into())
            );
        }
        // Shorter than its header says, and no header at all.
        header[0] = 0x46;
        assert_eq!(strip_ipv4(&mut packet(&header)), Err(DropReason::Truncated));
        for first in [0x44, 0x40, 0x65, 0x00] {
            header[0] = first;
            assert_eq!(strip_ipv4(&mut packet(&header)), Err(DropReason::Truncated), "{first:x}");
        }
        for len in 0..20 {
            assert_eq!(strip_ipv4(&mut packet(&header[..len])), Err(DropReason::Truncated), "{len}");
        }
    }

    /// Datagrams of a local socket stand in for what no UDP socket brings: without addresses, and too long.
    #[test]
    fn what_makes_no_sense_is_counted_within_the_budget() {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let mut rx = Receiver::new(Arc::new(ours.into()), Kind::Udp(4789));
        let (mut pool, mut out, mut arrivals) = (Pool::new(64, 64), Batch::new(), Vec::new());
        let mut stats = RecvStats::default();
        for len in [0, 100, 3000, HEAD_ROOM + TAIL_ROOM, HEAD_ROOM + TAIL_ROOM + 1, 70_000] {
            theirs.send(&vec![0; len]).unwrap();
        }
        let end = rx.recv(&mut pool, &mut out, &mut arrivals, 5, &mut stats);
        assert!(matches!(end, RecvEnd::More));
        let end = rx.recv(&mut pool, &mut out, &mut arrivals, 5, &mut stats);
        assert!(matches!(end, RecvEnd::Drained));
        assert_eq!((out.len(), arrivals.len(), stats.truncated, stats.oversize), (0, 0, 4, 2));
        drop(theirs);
    }

    #[test]
    fn a_descriptor_that_is_no_socket_is_fatal() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let mut rx = Receiver::new(Arc::new(file.into()), Kind::GreV6);
        let (mut pool, mut stats) = (Pool::new(8, 8), RecvStats::default());
        let end = rx.recv(&mut pool, &mut Batch::new(), &mut Vec::new(), 8, &mut stats);
        assert!(matches!(end, RecvEnd::Failed { fatal: true, .. }));
    }
}
