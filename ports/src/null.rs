//! Ports for measuring: one that takes everything, one that never has anything.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};
use trunkline_packet::{Batch, Pool};

use crate::{RecvEnd, RecvStats, RxQueue, SendStats, TxCaps, TxQueue};

/// Takes every packet as it is and counts it.
#[derive(Debug, Default, Clone, Copy)]
pub struct NullTx;

impl TxQueue for NullTx {
    fn caps(&self) -> TxCaps {
        TxCaps::ALL
    }

    fn likes_superframes(&self) -> bool {
        false
    }

    fn has_receiver(&self) -> bool {
        false
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, stats: &mut SendStats) {
        stats.packets += batch.len() as u64;
        stats.bytes += batch.iter().map(|p| p.len() as u64).sum::<u64>();
        pool.put_all(batch);
    }
}

/// Never has a frame; its descriptor never becomes readable.
#[derive(Debug)]
pub struct NullRx(OwnedFd);

impl NullRx {
    /// Makes one.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn new() -> io::Result<NullRx> {
        Ok(NullRx(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }
}

impl RxQueue for NullRx {
    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.0.as_raw_fd())
    }

    fn recv(&mut self, _: &mut Pool, _: &mut Batch, _: usize, _: &mut RecvStats) -> RecvEnd {
        RecvEnd::Drained
    }
}
