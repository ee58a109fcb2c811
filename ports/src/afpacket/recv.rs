//! The receiving side: recvmmsg into packets and spare tails, or out of a ring.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::{mem, ptr};

use trunkline_packet::buf::{TAIL_ROOM, Tail};
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::{Batch, DropReason, Packet, Pool, Tpid, VlanTag, VnetHdr};

use super::ring::{Ring, Slot};
use super::{CHUNK, FEW, Socket, gone};
use crate::{RecvEnd, RecvStats, RxQueue};

/// Parts of a message: virtio header and head, tail.
const PARTS: usize = 2;

/// Room for one `tpacket_auxdata` and its header.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control([u8; 64]);

pub(super) struct AfPacketRx {
    socket: Arc<Socket>,
    ring: Option<Ring>,
    /// Messages to prepare for: preparing costs, so it follows what comes.
    window: usize,
    down: Down,
}

/// What the kernel said of the interface going down. It says so once, in front of the frames still queued.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Down {
    No,
    /// To be reported when the queue is drained.
    Heard,
    Reported,
}

impl AfPacketRx {
    pub(super) fn new(socket: Arc<Socket>, ring: Option<Ring>) -> AfPacketRx {
        AfPacketRx { socket, ring, window: FEW, down: Down::No }
    }
}

impl RxQueue for AfPacketRx {
    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.socket.fd.as_raw_fd())
    }

    fn recv(&mut self, pool: &mut Pool, out: &mut Batch, budget: usize, stats: &mut RecvStats) -> RecvEnd {
        let mut left = budget;
        if let Some(ring) = &mut self.ring {
            let came = receive_ring(ring, self.socket.fd.as_raw_fd(), pool, out, budget, stats);
            if came > 0 {
                self.heard();
                return if came == budget { RecvEnd::More } else { RecvEnd::Drained };
            }
            // Errors are the socket's.
            left = left.min(1);
        }
        while left > 0 {
            let want = left.min(self.window);
            let receive = if want <= FEW { receive::<FEW> } else { receive::<CHUNK> };
            match receive(self.socket.fd.as_raw_fd(), pool, out, want, stats) {
                Ok(n) => {
                    self.heard();
                    left = left.saturating_sub(n);
                    // A short count may hide an error behind the last frame, so ask once more.
                    self.window = if n == want { (self.window * 2).min(CHUNK) } else { FEW };
                }
                Err(e) => match e.raw_os_error() {
                    Some(libc::EAGAIN) => return self.drained(),
                    Some(libc::EINTR) => {}
                    // A frame whose offload virtio cannot express (SCTP); the kernel has dropped it.
                    Some(libc::EINVAL) => {
                        stats.bad_offload += 1;
                        left -= 1;
                    }
                    Some(libc::ENETDOWN) => self.down = Down::Heard,
                    Some(libc::ENODEV | libc::ENXIO | libc::EBADF) => {
                        return RecvEnd::Failed { error: gone(), fatal: true };
                    }
                    _ => return RecvEnd::Failed { error: e, fatal: false },
                },
            }
        }
        RecvEnd::More
    }
}

impl AfPacketRx {
    /// Frames have come: the interface is up.
    #[inline]
    fn heard(&mut self) {
        if self.down == Down::Reported {
            self.down = Down::No;
        }
    }

    fn drained(&mut self) -> RecvEnd {
        if self.down != Down::No && self.socket.is_gone() {
            return RecvEnd::Failed { error: gone(), fatal: true };
        }
        if self.down == Down::Heard {
            self.down = Down::Reported;
            let error = io::Error::new(io::ErrorKind::NetworkDown, "the interface is down");
            return RecvEnd::Failed { error, fatal: false };
        }
        RecvEnd::Drained
    }
}

/// Up to `budget` frames out of a ring, appended to `out`. How many came, bad ones included.
fn receive_ring(
    ring: &mut Ring,
    fd: RawFd,
    pool: &mut Pool,
    out: &mut Batch,
    budget: usize,
    stats: &mut RecvStats,
) -> usize {
    for came in 0..budget {
        let Some(slot) = ring.take() else { return came };
        if slot.in_socket() {
            drop(slot);
            if let Err(e) = receive::<FEW>(fd, pool, out, 1, stats) {
                // EINVAL as in `recv`. Else something has emptied the socket behind our back.
                let offload = e.raw_os_error() == Some(libc::EINVAL);
                stats.count(if offload { DropReason::BadOffload } else { DropReason::Truncated });
            }
            continue;
        }
        let mut packet = pool.get();
        match accept_slot(&mut packet, &slot, pool) {
            Ok(()) => out.push(packet),
            Err(reason) => {
                stats.count(reason);
                pool.put(packet);
            }
        }
    }
    budget
}

/// Makes `packet` what is in a slot.
#[inline]
fn accept_slot(packet: &mut Packet, slot: &Slot<'_>, pool: &mut Pool) -> Result<(), DropReason> {
    let (header, frame) = slot.frame().ok_or(DropReason::Truncated)?;
    if frame.len() < ETH_HLEN {
        return Err(DropReason::Truncated);
    }
    let offload = VnetHdr::from_bytes(header).to_offload(frame.len())?;
    packet.set_bytes(frame, pool)?;
    packet.meta_mut().offload = offload;
    let h = &slot.header;
    packet.meta_mut().vlan = vlan(h.tp_status, h.tp_vlan_tpid, h.tp_vlan_tci)?;
    Ok(())
}

/// The tag that the kernel has taken out of a frame.
#[inline]
fn vlan(status: u32, tpid: u16, tci: u16) -> Result<Option<VlanTag>, DropReason> {
    if status & libc::TP_STATUS_VLAN_VALID == 0 {
        return Ok(None);
    }
    let tpid = Tpid::from_ethertype(tpid).ok_or(DropReason::BadOffload)?;
    Ok(Some(VlanTag { tpid, tci }))
}

/// One recvmmsg of up to `want` frames, at most `N`, appended to `out`. How many came, bad ones included.
fn receive<const N: usize>(
    fd: RawFd,
    pool: &mut Pool,
    out: &mut Batch,
    want: usize,
    stats: &mut RecvStats,
) -> io::Result<usize> {
    let want = want.min(N);
    let mut packets: [Option<Packet>; N] = [const { None }; N];
    let mut tails: [Option<Tail>; N] = [const { None }; N];
    let mut controls = [Control([0; 64]); N];
    let mut parts = [[libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PARTS]; N];
    // SAFETY: `mmsghdr` is plain C data, for which all zeros is a valid value.
    let mut messages: [libc::mmsghdr; N] = unsafe { mem::zeroed() };

    for i in 0..want {
        let head = packets[i].insert(pool.get()).rx_area_after::<{ VnetHdr::LEN }>();
        let tail = tails[i].insert(pool.take_tail()).as_mut();
        parts[i] = [
            libc::iovec { iov_base: head.as_mut_ptr().cast(), iov_len: head.len() },
            libc::iovec { iov_base: tail.as_mut_ptr().cast(), iov_len: TAIL_ROOM },
        ];
        let m = &mut messages[i].msg_hdr;
        m.msg_iov = parts[i].as_mut_ptr();
        m.msg_iovlen = PARTS as _;
        m.msg_control = controls[i].0.as_mut_ptr().cast();
        m.msg_controllen = controls[i].0.len() as _;
    }
    // SAFETY: the first `want` messages point to `parts`, `controls` and, through `parts`, to the memory of
    // packets and tails, which sits on the heap and is owned by `packets` and `tails`; all of it outlives the
    // call, nothing else refers to it, and the lengths are those of the areas.
    let result = unsafe {
        libc::recvmmsg(fd, messages.as_mut_ptr(), want as _, libc::MSG_DONTWAIT as _, ptr::null_mut())
    };
    // Taken before giving buffers back, which might change errno.
    let result = if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as usize) };
    let came = *result.as_ref().unwrap_or(&0);

    for i in 0..want {
        let Some(mut packet) = packets[i].take() else { continue };
        let verdict = match messages.get(i) {
            Some(m) if i < came => accept(&mut packet, m, &mut tails[i]).map_err(Some),
            _ => Err(None),
        };
        match verdict {
            Ok(()) => out.push(packet),
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

/// Makes `packet` what one message brought.
#[inline]
fn accept(packet: &mut Packet, message: &libc::mmsghdr, tail: &mut Option<Tail>) -> Result<(), DropReason> {
    if message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(DropReason::Oversize);
    }
    let len = (message.msg_len as usize).saturating_sub(VnetHdr::LEN);
    if len < ETH_HLEN {
        return Err(DropReason::Truncated);
    }
    // Without it a tag might be lost, and with it the VLAN: rather lose the frame.
    let aux = auxdata(&message.msg_hdr).ok_or(DropReason::Truncated)?;
    if aux.tp_snaplen < aux.tp_len {
        return Err(DropReason::Truncated);
    }
    let header = packet.before().map(VnetHdr::from_bytes).ok_or(DropReason::NoBuffer)?;
    packet.set_received(len, tail)?;
    let meta = packet.meta_mut();
    meta.offload = header.to_offload(len)?;
    meta.vlan = vlan(aux.tp_status, aux.tp_vlan_tpid, aux.tp_vlan_tci)?;
    Ok(())
}

fn auxdata(message: &libc::msghdr) -> Option<libc::tpacket_auxdata> {
    // SAFETY: the kernel has filled the control buffer, which is aligned for `cmsghdr`, and set its length;
    // the CMSG functions stay within that length.
    unsafe {
        let mut c = libc::CMSG_FIRSTHDR(message);
        while !c.is_null() {
            let size = mem::size_of::<libc::tpacket_auxdata>() as u32;
            let fits = (*c).cmsg_len as usize >= libc::CMSG_LEN(size) as usize;
            if (*c).cmsg_level == libc::SOL_PACKET && (*c).cmsg_type == libc::PACKET_AUXDATA && fits {
                return Some(ptr::read_unaligned(libc::CMSG_DATA(c).cast()));
            }
            c = libc::CMSG_NXTHDR(message, c);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use trunkline_packet::buf::HEAD_ROOM;

    use super::*;

    /// A datagram socket stands in for a packet socket that misbehaves.
    fn receive_one(datagram: &[u8]) -> (Batch, RecvStats) {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        theirs.send(datagram).unwrap();
        let (mut pool, mut out, mut stats) = (Pool::new(8, 8), Batch::new(), RecvStats::default());
        assert_eq!(receive::<FEW>(ours.as_raw_fd(), &mut pool, &mut out, 4, &mut stats).unwrap(), 1);
        let again = receive::<FEW>(ours.as_raw_fd(), &mut pool, &mut out, 4, &mut stats);
        assert_eq!(again.unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(pool.free(), (4, 4), "every buffer came back");
        (out, stats)
    }

    #[test]
    fn cut_frames_are_never_handed_over() {
        let (out, stats) = receive_one(&vec![0; VnetHdr::LEN + HEAD_ROOM + TAIL_ROOM + 1]);
        assert!(out.is_empty());
        assert_eq!((stats.oversize, stats.truncated), (1, 0));
    }

    #[test]
    fn short_frames_and_frames_without_auxdata_are_counted() {
        for len in [0, 1, 9, 10, 23, 24, 100, 5000] {
            let (out, stats) = receive_one(&vec![0; len]);
            assert!(out.is_empty());
            assert_eq!((stats.oversize, stats.truncated), (0, 1), "{len}");
        }
    }

    fn with_auxdata(header: VnetHdr, aux: libc::tpacket_auxdata, len: u32) -> Result<Packet, DropReason> {
        let mut control = Control([0; 64]);
        // SAFETY: all zeros is a valid value.
        let mut m: libc::mmsghdr = unsafe { mem::zeroed() };
        m.msg_len = len;
        m.msg_hdr.msg_control = control.0.as_mut_ptr().cast();
        m.msg_hdr.msg_controllen = control.0.len();
        let size = mem::size_of_val(&aux) as u32;
        // SAFETY: the control buffer has room for the header and the data.
        unsafe {
            let c = libc::CMSG_FIRSTHDR(&m.msg_hdr);
            (*c).cmsg_level = libc::SOL_PACKET;
            (*c).cmsg_type = libc::PACKET_AUXDATA;
            (*c).cmsg_len = libc::CMSG_LEN(size) as usize;
            libc::CMSG_DATA(c).cast::<libc::tpacket_auxdata>().write_unaligned(aux);
        }
        let mut pool = Pool::new(1, 1);
        let mut packet = pool.get();
        assert!(packet.set_before(&header.to_bytes()));
        accept(&mut packet, &m, &mut Some(pool.take_tail())).map(|()| packet)
    }
    #[test]
    fn auxdata_and_virtio_header_are_believed_only_when_they_make_sense() {
        let vlan = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_VLAN_TPID_VALID;
        let aux = libc::tpacket_auxdata {
            tp_status: vlan,
            tp_len: 60,
            tp_snaplen: 60,
            tp_mac: 0,
            tp_net: 14,
            tp_vlan_tci: 0xe005,
            tp_vlan_tpid: 0x88a8,
        };
        let ok = with_auxdata(VnetHdr::default(), aux, 70).unwrap();
        assert_eq!(ok.meta().vlan, Some(VlanTag { tpid: Tpid::Service, tci: 0xe005 }));
        let untagged = libc::tpacket_auxdata { tp_status: 0, ..aux };
        assert_eq!(with_auxdata(VnetHdr::default(), untagged, 70).unwrap().meta().vlan, None);

        let cut = libc::tpacket_auxdata { tp_len: 61, ..aux };
        assert_eq!(with_auxdata(VnetHdr::default(), cut, 70).err(), Some(DropReason::Truncated));
        let odd = libc::tpacket_auxdata { tp_vlan_tpid: 0x9100, ..aux };
        assert_eq!(with_auxdata(VnetHdr::default(), odd, 70).err(), Some(DropReason::BadOffload));
        let outside = VnetHdr { flags: 1, csum_start: 59, csum_offset: 6, ..VnetHdr::default() };
        assert_eq!(with_auxdata(outside, aux, 70).err(), Some(DropReason::BadOffload));
    }
}
