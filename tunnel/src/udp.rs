//! Which datagrams of a batch go into one `sendmsg` with `UDP_SEGMENT`.
//!
//! The kernel cuts the message at every `size` bytes, so all datagrams of a run have that length but a
//! shorter last one, and share everything else: socket, destination, traffic class, TTL. Each datagram stays
//! a packet of its own, one element of the gather list (two when it has a tail), with its own tunnel header.

use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::{Batch, Packet, Pool};

use crate::DropReason;
use crate::config::{Encap, TxState};
use crate::encap::{SendInfo, encap_datagrams};

/// Most datagrams of a run. Kernels before 6.9 take 64, later ones 128.
pub const MAX_SEGMENTS: usize = 64;

/// Most bytes of a run: an IPv4 packet less its header and UDP's.
pub const MAX_BYTES: usize = 65_507;

/// Most full segments of a superframe that are one run, where the inner MTU is this.
pub fn most_segments(inner_mtu: u16) -> usize {
    // The header of VXLAN, and of Geneve without options.
    const TUNNEL: usize = 8;
    (MAX_BYTES / (TUNNEL + ETH_HLEN + usize::from(inner_mtu))).clamp(1, MAX_SEGMENTS)
}

/// Datagrams for one `sendmsg`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpRun {
    /// The first one in the batch.
    pub first: usize,
    /// How many, 1 to [`MAX_SEGMENTS`]. `UDP_SEGMENT` is not needed for one.
    pub count: usize,
    /// Length of each but the last, bytes: the value of `UDP_SEGMENT`.
    pub size: usize,
    /// Length of all together, bytes.
    pub bytes: usize,
    /// Which of the sending sockets.
    pub socket: usize,
    /// How to send; of the first datagram.
    pub info: SendInfo,
}

impl UdpRun {
    /// Adds a datagram of `len` bytes behind the run, if it may.
    #[inline]
    fn add(&mut self, len: usize, socket: usize, info: &SendInfo) -> bool {
        let closed = self.bytes != self.size * self.count;
        let same = self.socket == socket
            && (self.info.tos, self.info.ttl, self.info.df) == (info.tos, info.ttl, info.df);
        let fits = len <= self.size && self.count < MAX_SEGMENTS && self.bytes + len <= MAX_BYTES;
        if closed || !same || !fits {
            return false;
        }
        self.count += 1;
        self.bytes += len;
        true
    }
}

/// The runs of one batch of datagrams to one remote.
#[derive(Debug)]
pub struct UdpRuns {
    runs: Vec<UdpRun>,
    sockets: usize,
    /// Datagrams counted so far.
    next: usize,
}

impl UdpRuns {
    /// For a pool of `sockets` sending sockets (at least one), chosen by the inner flow, since one socket has
    /// one source port.
    pub fn new(sockets: usize) -> UdpRuns {
        UdpRuns { runs: Vec::with_capacity(trunkline_packet::BATCH), sockets: sockets.max(1), next: 0 }
    }

    /// The runs, in order; together they are the whole batch.
    pub fn runs(&self) -> &[UdpRun] {
        &self.runs
    }

    /// Starts over, for an empty batch and a pool of this many sockets.
    pub fn start(&mut self, sockets: usize) {
        self.sockets = sockets.max(1);
        self.clear();
    }

    /// Starts over, for an empty batch.
    pub fn clear(&mut self) {
        self.runs.clear();
        self.next = 0;
    }

    /// Counts the packets of the batch that are new since the last call; `info` is theirs. Segments of one superframe
    /// begin a run, so that the other side finds whole ones in a train.
    #[inline]
    pub fn extend(&mut self, batch: &[Packet], info: &SendInfo) {
        let socket = info.hash as usize % self.sockets;
        let mut begin = batch.len() > self.next + 1;
        for packet in batch.iter().skip(self.next) {
            let len = packet.len();
            if std::mem::take(&mut begin)
                || !self.runs.last_mut().is_some_and(|run| run.add(len, socket, info))
            {
                let (first, count, size, bytes) = (self.next, 1, len, len);
                self.runs.push(UdpRun { first, count, size, bytes, socket, info: *info });
            }
            self.next += 1;
        }
    }
}

/// Encapsulates a frame or superframe for a UDP socket: appends its datagrams to `out` and their layout to
/// `runs`, which must have been cleared together with `out`.
///
/// # Errors
/// As [`encap_datagrams`]; both lists are as before then.
pub fn segment_for_udp(
    packet: Packet,
    to: &Encap,
    state: &TxState,
    pool: &mut Pool,
    out: &mut Batch,
    runs: &mut UdpRuns,
) -> Result<(), DropReason> {
    let info = encap_datagrams(packet, to, state, pool, out)?;
    runs.extend(out, &info);
    Ok(())
}
