//! A receive ring (packet(7), PACKET_RX_RING with TPACKET_V2): memory shared with the kernel, into which it puts frames
//! as they come, so that receiving them takes neither system calls nor buffers of the kernel's.
//!
//! A frame larger than a slot, as a superframe is, waits in the socket as well (PACKET_COPY_THRESH), in its turn.

use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

use libc::tpacket2_hdr;
use trunkline_packet::{VnetHdr, prefetch};

use crate::sys;

/// Bytes of all slots. As many as 4,096 frames of 1,500 bytes: 10 ms of 5 Gbit/s.
const SIZE: usize = 8 << 20;
/// What the kernel allocates at a time, bytes.
const BLOCK: usize = 64 << 10;
/// The smallest slot, bytes.
const SLOT: usize = 2048;
/// What a slot holds in front of the network header, at most: the kernel's headers, the virtio header, Ethernet, tags.
const IN_FRONT: usize = 128;

const HEADER: usize = mem::size_of::<tpacket2_hdr>();

#[derive(Debug)]
pub(super) struct Ring {
    memory: NonNull<u8>,
    /// Bytes, a power of two.
    slot: usize,
    next: usize,
}

// SAFETY: the memory belongs to this value alone; it is not tied to a thread.
unsafe impl Send for Ring {}

impl Ring {
    /// Gives a socket that receives nothing yet a ring for frames of this MTU.
    ///
    /// # Errors
    /// `InvalidInput` when the MTU is too large for a ring to pay; `OutOfMemory`.
    pub(super) fn new(socket: impl AsFd, mtu: u32) -> io::Result<Ring> {
        let slot = (mtu as usize + IN_FRONT).next_power_of_two().max(SLOT);
        if slot > BLOCK / 4 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let fd = socket.as_fd();
        let version = libc::tpacket_versions::TPACKET_V2 as libc::c_int;
        sys::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_VERSION, &version)?;
        sys::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_COPY_THRESH, &1)?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK as _,
            tp_block_nr: (SIZE / BLOCK) as _,
            tp_frame_size: slot as _,
            tp_frame_nr: (SIZE / slot) as _,
        };
        sys::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new mapping at a place the kernel chooses touches no memory that is in use.
        let memory = unsafe {
            let access = libc::PROT_READ | libc::PROT_WRITE;
            libc::mmap(ptr::null_mut(), SIZE, access, libc::MAP_SHARED, fd.as_raw_fd(), 0)
        };
        if memory == libc::MAP_FAILED {
            let error = io::Error::last_os_error();
            // Without it the socket is what it was.
            let none =
                libc::tpacket_req { tp_block_size: 0, tp_block_nr: 0, tp_frame_size: 0, tp_frame_nr: 0 };
            sys::setsockopt(fd, libc::SOL_PACKET, libc::PACKET_RX_RING, &none)?;
            return Err(error);
        }
        let memory = NonNull::new(memory.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Ring { memory, slot, next: 0 })
    }

    /// A word of the ring, whoever it belongs to: the first of a slot is its status (`tp_status`).
    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        assert!(at < SIZE && at.is_multiple_of(mem::align_of::<AtomicU32>()));
        // SAFETY: within the mapping, which lives as long as `self`, and aligned. What the kernel writes meanwhile
        // makes a valid value, and we touch such words by atomic operations alone.
        unsafe { AtomicU32::from_ptr(self.memory.as_ptr().add(at).cast()) }
    }

    /// The next frame, if the kernel has put one there.
    #[inline]
    pub(super) fn take(&mut self) -> Option<Slot<'_>> {
        let at = self.next;
        let status = self.word(at).load(Ordering::Acquire);
        if status & libc::TP_STATUS_USER == 0 {
            return None;
        }
        self.next = (at + self.slot) % SIZE;
        // Written by another CPU: what the next turn needs first is sent for now.
        prefetch(self.word(self.next));
        prefetch(self.word(self.next + 64));
        // SAFETY: the status says that the slot is ours, with a header at its start, which is aligned for it, and all
        // of that within the mapping; the kernel writes to none of it before `Slot` gives it back. The bytes are
        // those behind the header, since the status stays an atomic.
        let (header, bytes) = unsafe {
            let start = self.memory.as_ptr().add(at);
            let bytes = std::slice::from_raw_parts(start.add(HEADER), self.slot - HEADER);
            (start.cast::<tpacket2_hdr>().read(), bytes)
        };
        Some(Slot { status: self.word(at), header, bytes })
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping that `new` made, which nothing refers to any more.
        unsafe { libc::munmap(self.memory.as_ptr().cast(), SIZE) };
    }
}

/// A filled slot. It goes back to the kernel when this is dropped.
pub(super) struct Slot<'a> {
    status: &'a AtomicU32,
    pub(super) header: tpacket2_hdr,
    bytes: &'a [u8],
}

impl Slot<'_> {
    /// The virtio header and the frame. `None` when the slot was too small for it.
    #[inline]
    pub(super) fn frame(&self) -> Option<(&[u8; VnetHdr::LEN], &[u8])> {
        let h = &self.header;
        if h.tp_snaplen < h.tp_len {
            return None;
        }
        let start = usize::from(h.tp_mac).checked_sub(HEADER + VnetHdr::LEN)?;
        let bytes = self.bytes.get(start..start + VnetHdr::LEN + h.tp_snaplen as usize)?;
        bytes.split_first_chunk()
    }

    /// Whether the frame waits in the socket, whole.
    pub(super) fn in_socket(&self) -> bool {
        self.header.tp_status & libc::TP_STATUS_COPY != 0
    }
}

impl Drop for Slot<'_> {
    #[inline]
    fn drop(&mut self) {
        self.status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
    }
}
