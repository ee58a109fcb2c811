//! The sending side: sendmmsg straight from the packets' memory.
//!
//! Any number of workers may send at once: all scratch space is on the stack.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::{mem, ptr};

use trunkline_packet::{Batch, DropReason, Packet, Pool};

use super::cmsg::{Control, How, Name};
use super::near::Near;
use super::{DatagramTx, Datagrams, MAX_SEGMENTS};
use crate::SendStats;

/// Entries of a list that are put in order at once.
const CHUNK: usize = 64;
/// Messages per system call, and the same when few are to be sent: clearing space costs.
const MANY: usize = 32;
const FEW: usize = 4;
/// Parts of all messages of a call. Any one message fits, with a head and a tail for each segment.
const MANY_PARTS: usize = 256;
const FEW_PARTS: usize = 2 * MAX_SEGMENTS;

/// After the system has refused UDP_SEGMENT (a driver, an IPsec route), as many runs are sent singly before
/// it is asked again.
const PAUSE: u32 = 4096;

pub(super) struct Sender {
    /// With "don't fragment".
    df: Vec<Arc<OwnedFd>>,
    /// Without. As many.
    fragmenting: Vec<Arc<OwnedFd>>,
    /// UDP, which has ports and segments.
    udp: bool,
    /// Runs to be sent singly before UDP_SEGMENT is tried again.
    pause: AtomicU32,
    /// Sockets that are connected.
    near: Option<Near>,
    /// Only held open.
    _kept: Option<OwnedFd>,
}

impl Sender {
    pub(super) fn new(df: Vec<Arc<OwnedFd>>, fragmenting: Vec<Arc<OwnedFd>>, udp: bool) -> Sender {
        debug_assert!(!df.is_empty() && df.len() == fragmenting.len());
        Sender { df, fragmenting, udp, pause: AtomicU32::new(0), near: None, _kept: None }
    }

    /// Connects sockets that this opens to the remotes most is sent to.
    pub(super) fn connect_with(&mut self, open: fn() -> io::Result<OwnedFd>) {
        self.near = Some(Near::new(open));
    }

    /// Holds a socket open for as long as this lives.
    pub(super) fn keep(&mut self, fd: OwnedFd) {
        self._kept = Some(fd);
    }
}

impl DatagramTx for Sender {
    fn sockets(&self) -> usize {
        self.df.len()
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, what: &[Datagrams], stats: &mut SendStats) {
        for chunk in what.chunks(CHUNK) {
            let mut order = [0u8; CHUNK];
            let order = &mut order[..chunk.len()];
            for (i, slot) in order.iter_mut().enumerate() {
                *slot = i as u8;
            }
            // Together what goes by one socket, in the order it came.
            let socket = |i: u8| {
                let d = &chunk[usize::from(i)];
                (d.socket % self.df.len(), d.df)
            };
            order.sort_unstable_by_key(|&i| (socket(i), i));
            let remote = |i: u8| {
                let d = &chunk[usize::from(i)];
                self.near.is_some().then_some((d.dst, d.src))
            };
            for group in order.chunk_by(|&a, &b| socket(a) == socket(b) && remote(a) == remote(b)) {
                let (index, df) = socket(group[0]);
                let near = self.near.as_ref().and_then(|near| near.find(&chunk[usize::from(group[0])]));
                let fd = match &near {
                    Some(fd) => By { fd, connected: true },
                    None => By {
                        fd: if df { &self.df[index] } else { &self.fragmenting[index] },
                        connected: false,
                    },
                };
                let list = group.iter().map(|&i| &chunk[usize::from(i)]);
                if group.len() <= FEW {
                    self.send_group::<FEW, FEW_PARTS>(fd, batch, list, stats);
                } else {
                    self.send_group::<MANY, MANY_PARTS>(fd, batch, list, stats);
                }
            }
        }
        pool.put_all(batch);
    }
}

/// The socket that something is sent by.
#[derive(Clone, Copy)]
struct By<'a> {
    fd: &'a OwnedFd,
    /// It knows destination and source.
    connected: bool,
}

/// What one message carries.
#[derive(Clone, Copy)]
struct Unit<'a> {
    of: &'a Datagrams,
    packets: &'a [Packet],
}

impl Sender {
    /// Sends what goes by one socket.
    fn send_group<'a, const N: usize, const P: usize>(
        &self,
        fd: By<'_>,
        batch: &'a [Packet],
        list: impl Iterator<Item = &'a Datagrams>,
        stats: &mut SendStats,
    ) {
        let mut messages = Messages::<N, P>::new(fd.connected);
        for of in list {
            let packets = batch.get(of.first..).unwrap_or_default();
            let packets = &packets[..of.count.min(packets.len())];
            let whole = packets.len() == 1 || packets.len() <= MAX_SEGMENTS && self.segments();
            for packets in packets.chunks(if whole { MAX_SEGMENTS } else { 1 }) {
                let unit = Unit { of, packets };
                if !messages.push(unit, self.udp) {
                    self.flush(fd, &mut messages, stats);
                    messages.push(unit, self.udp);
                }
            }
        }
        self.flush(fd, &mut messages, stats);
    }

    /// Whether UDP_SEGMENT may be used for the next run.
    fn segments(&self) -> bool {
        let pause = self.pause.load(Relaxed);
        if pause > 0 {
            // Of two workers that do this at once, one is not counted: no harm.
            self.pause.store(pause - 1, Relaxed);
        }
        self.udp && pause == 0
    }

    /// Sends what has been prepared: one sendmmsg, or several if some are refused.
    fn flush<const N: usize, const P: usize>(
        &self,
        fd: By<'_>,
        messages: &mut Messages<'_, N, P>,
        stats: &mut SendStats,
    ) {
        while let Some(sent) = messages.send(fd.fd) {
            let error = match sent {
                Ok(count) => {
                    for unit in (0..count).map_while(|_| messages.pop()) {
                        stats.packets += unit.packets.len() as u64;
                        stats.bytes += unit.packets.iter().map(|p| p.len() as u64).sum::<u64>();
                    }
                    continue;
                }
                Err(error) => error.raw_os_error().unwrap_or(0),
            };
            if fd.connected && !matches!(error, libc::EINTR | libc::EAGAIN | libc::ENOBUFS | libc::EMSGSIZE) {
                // Its source may not be the host's any more, say: the next ones find out for themselves.
                self.near.iter().for_each(Near::forget);
            }
            let several = messages.first().is_some_and(|unit| unit.packets.len() > 1);
            let (reason, all) = match error {
                libc::EINTR => continue,
                // Refused as a run. A segment over the MTU is refused even where fragments are allowed, and
                // was EINVAL before it was EMSGSIZE.
                libc::EINVAL | libc::EIO | libc::EMSGSIZE if several => {
                    self.send_singly(fd, messages, error, stats);
                    continue;
                }
                libc::EMSGSIZE => (DropReason::Mtu, false),
                libc::ENOBUFS => (DropReason::EgressFull, false),
                // The send buffer is full: the next ones fare no better.
                libc::EAGAIN => (DropReason::EgressFull, true),
                libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EADDRNOTAVAIL | libc::ENETDOWN => {
                    (DropReason::UnderlayUnreachable, false)
                }
                // How IPv6 says that the source address is not the host's.
                libc::EINVAL if messages.first().is_some_and(|unit| unit.of.src.is_some()) => {
                    (DropReason::UnderlayUnreachable, false)
                }
                _ => (DropReason::EgressError, false),
            };
            while let Some(unit) = messages.pop() {
                // Segments of a superframe behind the first have no frames: it counts once.
                let lost = unit.packets.iter().filter(|p| p.meta().frames > 0).count();
                stats.drops[reason.index()] += lost as u32;
                if !all {
                    break;
                }
            }
        }
    }

    /// Sends the packets of the first message one by one, since the system would not take them as a run.
    #[cold]
    fn send_singly<const N: usize, const P: usize>(
        &self,
        fd: By<'_>,
        messages: &mut Messages<'_, N, P>,
        error: i32,
        stats: &mut SendStats,
    ) {
        let Some(Unit { of, packets }) = messages.pop() else { return };
        let before = stats.packets;
        let mut singles = Messages::<FEW, FEW_PARTS>::new(fd.connected);
        for packet in packets.chunks(1) {
            let unit = Unit { of, packets: packet };
            if !singles.push(unit, self.udp) {
                self.flush(fd, &mut singles, stats);
                singles.push(unit, self.udp);
            }
        }
        self.flush(fd, &mut singles, stats);
        // If all could be sent so, it was the segmentation that was refused and not a packet's length.
        let sent = stats.packets - before == packets.len() as u64;
        if sent && error != libc::EMSGSIZE {
            self.pause.store(PAUSE, Relaxed);
        }
    }
}

/// Messages in the making, at most `N` of at most `P` parts together.
struct Messages<'a, const N: usize, const P: usize> {
    names: [Name; N],
    controls: [Control; N],
    /// Length of the control messages of each.
    control_lens: [usize; N],
    parts: [libc::iovec; P],
    /// End of each message's parts; they begin where the last message's end.
    part_ends: [usize; N],
    units: [Option<Unit<'a>>; N],
    /// They go to where the socket is connected to.
    connected: bool,
    /// Messages there are, and those of them that are done with.
    len: usize,
    done: usize,
}

impl<'a, const N: usize, const P: usize> Messages<'a, N, P> {
    fn new(connected: bool) -> Messages<'a, N, P> {
        Messages {
            names: [Name::EMPTY; N],
            controls: [Control::EMPTY; N],
            control_lens: [0; N],
            parts: [libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; P],
            part_ends: [0; N],
            units: [None; N],
            connected,
            len: 0,
            done: 0,
        }
    }

    /// Adds a message; false when there is no room, which an empty list always has for one of up to
    /// [`MAX_SEGMENTS`].
    #[inline]
    fn push(&mut self, unit: Unit<'a>, udp: bool) -> bool {
        if self.done == self.len {
            (self.len, self.done) = (0, 0);
        }
        let i = self.len;
        let start = i.checked_sub(1).map_or(0, |last| self.part_ends[last]);
        if i == N || start + 2 * unit.packets.len() > P {
            return false;
        }
        let mut at = start;
        for packet in unit.packets {
            // The kernel only reads through these, though iovec has no const.
            let part = |bytes: &[u8]| libc::iovec {
                iov_base: bytes.as_ptr().cast_mut().cast(),
                iov_len: bytes.len(),
            };
            self.parts[at] = part(packet.head());
            at += 1;
            if !packet.tail().is_empty() {
                self.parts[at] = part(packet.tail());
                at += 1;
            }
        }
        let of = unit.of;
        let several = unit.packets.len() > 1;
        let how = How {
            to: of.dst,
            from: of.src.filter(|_| !self.connected),
            interface: of.interface,
            tos: of.tos,
            ttl: of.ttl,
            segment: several.then_some(of.size as u16),
        };
        self.control_lens[i] = self.controls[i].fill(&how);
        if !self.connected {
            // A raw socket takes a port for its protocol (raw(7)), so that has to be 0.
            self.names[i] = Name::new(of.dst, if udp { of.dst_port } else { 0 }, of.interface);
        }
        self.part_ends[i] = at;
        self.units[i] = Some(unit);
        self.len += 1;
        true
    }

    /// The first message that is not done with.
    fn first(&self) -> Option<Unit<'a>> {
        if self.done < self.len { self.units[self.done] } else { None }
    }

    /// The same, done with now.
    fn pop(&mut self) -> Option<Unit<'a>> {
        let unit = self.first();
        self.done += usize::from(unit.is_some());
        unit
    }

    /// One sendmmsg of all that are not done with: how many it took, or the error of the first. `None` when
    /// there are none left.
    fn send(&mut self, fd: &OwnedFd) -> Option<io::Result<usize>> {
        let (done, len) = (self.done, self.len);
        if done == len {
            return None;
        }
        // SAFETY: `mmsghdr` is plain C data, for which all zeros is a valid value.
        let mut messages: [libc::mmsghdr; N] = unsafe { mem::zeroed() };
        let mut start = done.checked_sub(1).map_or(0, |last| self.part_ends[last]);
        for (i, message) in messages.iter_mut().enumerate().take(len).skip(done) {
            let m = &mut message.msg_hdr;
            if !self.connected {
                m.msg_name = self.names[i].as_mut_ptr().cast();
                m.msg_namelen = self.names[i].len();
            }
            m.msg_iov = self.parts[start..].as_mut_ptr();
            m.msg_iovlen = (self.part_ends[i] - start) as _;
            start = self.part_ends[i];
            if self.control_lens[i] > 0 {
                m.msg_control = self.controls[i].as_mut_ptr();
                m.msg_controllen = self.control_lens[i] as _;
            }
        }
        let rest = &mut messages[done..len];
        // SAFETY: these messages point to `names`, `controls` and `parts` and, through `parts`, to the bytes
        // of packets borrowed for 'a; all of it outlives the call, and sendmmsg writes only to `messages`.
        let sent = unsafe {
            libc::sendmmsg(fd.as_raw_fd(), rest.as_mut_ptr(), rest.len() as _, libc::MSG_DONTWAIT as _)
        };
        Some(if sent > 0 { Ok(sent as usize) } else { Err(io::Error::last_os_error()) })
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::underlay::{Family, sock, udp::udp_senders_of};

    /// A system that refuses UDP_SEGMENT: the kernel does so for sockets without checksums (EINVAL).
    #[test]
    fn where_segmentation_is_refused_runs_go_singly_and_it_is_remembered() {
        let sender = udp_senders_of(Family::V4).unwrap();
        for fd in sender.df.iter().chain(&sender.fragmenting) {
            sock::set(fd, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        }
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        let to = receiver.local_addr().unwrap();
        let mut pool = Pool::new(16, 16);
        let mut send = |lens: &[usize]| {
            let mut batch = Batch::new();
            for (i, &len) in lens.iter().enumerate() {
                let mut p = pool.get();
                p.set_bytes(&vec![i as u8; len], &mut pool).unwrap();
                batch.push(p);
            }
            let what =
                Datagrams { count: lens.len(), size: lens[0], ..Datagrams::one_to(to.ip(), to.port()) };
            let mut stats = SendStats::default();
            sender.send(&mut pool, &mut batch, &[what], &mut stats);
            let mut buffer = [0; 4000];
            // What is dropped is in front.
            for (i, &len) in lens.iter().enumerate().skip(lens.len() - stats.packets as usize) {
                let n = receiver.recv(&mut buffer).unwrap();
                assert_eq!((n, buffer[0]), (len, i as u8));
            }
            (stats.packets, stats.drops[DropReason::Mtu.index()], sender.pause.load(Relaxed))
        };
        assert_eq!(send(&[900, 900, 900, 900, 900, 900, 2500]), (7, 0, PAUSE), "refused, then singly");
        assert_eq!(send(&[900, 900]), (2, 0, PAUSE - 1), "not tried again for a while");
        // One that is too big for any message is no sign that segmentation is refused.
        sender.pause.store(0, Relaxed);
        assert_eq!(send(&[66_000, 900]), (1, 1, 0));
    }
}
