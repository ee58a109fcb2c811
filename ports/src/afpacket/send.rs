//! The sending side: sendmmsg straight from the packets' memory.
//!
//! Any number of workers may send at once: all scratch space is on the stack.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::{mem, ptr};

use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::{Batch, DropReason, Packet, Pool, VnetHdr};

use super::{CHUNK, FEW, Socket};
use crate::{SendStats, TxCaps, TxQueue, frame};

/// Parts of a message: virtio header and head, tail.
const PARTS: usize = 2;

pub(super) struct AfPacketTx(pub(super) Arc<Socket>);

impl TxQueue for AfPacketTx {
    fn caps(&self) -> TxCaps {
        self.0.caps
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, stats: &mut SendStats) {
        for chunk in batch.chunks_mut(CHUNK) {
            if chunk.len() <= FEW {
                self.send_chunk::<FEW>(chunk, stats);
            } else {
                self.send_chunk::<CHUNK>(chunk, stats);
            }
        }
        pool.put_all(batch);
    }

    fn mtu(&self) -> Option<u32> {
        Some(self.0.mtu.load(Relaxed))
    }
}

impl AfPacketTx {
    /// One sendmmsg, or several if some are refused, of at most `N` packets.
    fn send_chunk<const N: usize>(&self, chunk: &mut [Packet], stats: &mut SendStats) {
        let mut parts = [[libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 }; PARTS]; N];
        // SAFETY: `mmsghdr` is plain C data, for which all zeros is a valid value.
        let mut messages: [libc::mmsghdr; N] = unsafe { mem::zeroed() };
        let mut count = 0;
        for packet in chunk {
            if packet.len() < ETH_HLEN {
                stats.drops[DropReason::Truncated.index()] += 1;
                continue;
            }
            let bytes = match frame::with_vnet_header(packet) {
                Ok(bytes) => bytes,
                Err(reason) => {
                    stats.drops[reason.index()] += 1;
                    continue;
                }
            };
            // The kernel only reads through these, though iovec has no const.
            parts[count] =
                bytes.map(|b| libc::iovec { iov_base: b.as_ptr().cast_mut().cast(), iov_len: b.len() });
            messages[count].msg_hdr.msg_iov = parts[count].as_mut_ptr();
            messages[count].msg_hdr.msg_iovlen = if parts[count][1].iov_len == 0 { 1 } else { PARTS as _ };
            count += 1;
        }

        let mut done = 0;
        while done < count {
            let rest = &mut messages[done..count];
            // SAFETY: these messages point to `parts` and, through them, to the packets of `chunk`; all of it
            // outlives the call, and sendmmsg does not write to any of it but `messages`.
            let sent = unsafe {
                libc::sendmmsg(
                    self.0.tx.as_raw_fd(),
                    rest.as_mut_ptr(),
                    rest.len() as _,
                    libc::MSG_DONTWAIT as _,
                )
            };
            if sent > 0 {
                let sent = (sent as usize).min(rest.len());
                stats.packets += sent as u64;
                // The kernel's count includes the virtio header.
                let bytes =
                    rest[..sent].iter().map(|m| u64::from(m.msg_len).saturating_sub(VnetHdr::LEN as u64));
                stats.bytes += bytes.sum::<u64>();
                done += sent;
                continue;
            }
            let (reason, all) = match io::Error::last_os_error().raw_os_error() {
                Some(libc::EINTR) => continue,
                Some(libc::EMSGSIZE) => (DropReason::Mtu, false),
                Some(libc::ENOBUFS) => (DropReason::EgressFull, false),
                // The send buffer is full: the next frames fare no better.
                Some(libc::EAGAIN) => (DropReason::EgressFull, true),
                Some(libc::ENETDOWN | libc::ENXIO | libc::ENODEV) => (DropReason::EgressDown, true),
                _ => (DropReason::EgressError, false),
            };
            let lost = if all { count - done } else { 1 };
            stats.drops[reason.index()] += lost as u32;
            done += lost;
        }
    }
}
