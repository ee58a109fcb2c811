//! How packets get to the worker that owns their connection: a bounded ring per worker, into which all others
//! put. Whoever takes a packet out gives an empty one back, so that the workers' pools stay balanced.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use mio::Waker;
use trunkline_nat::Path;
use trunkline_packet::buf::HEAD_ROOM;
use trunkline_packet::{Packet, Pool};
use trunkline_router::IfaceId;

/// Packets on their way to one worker. Superframes hold 64 KiB each.
const RING: usize = 512;
/// Packets taken out at once.
const BUDGET: usize = 256;

/// A packet on its way.
pub(crate) struct Crossing {
    pub(crate) packet: Packet,
    pub(crate) path: Path,
    /// Where it came in.
    pub(crate) at: IfaceId,
    from: u16,
}

struct Inbox {
    ring: ArrayQueue<Crossing>,
    /// Empty packets that this worker gets back.
    empties: ArrayQueue<Packet>,
    /// Whether the worker has been woken and has not looked since.
    signaled: AtomicBool,
    waker: Arc<Waker>,
}

/// One worker's end of the rings.
#[derive(Clone)]
pub(crate) struct Links {
    inboxes: Arc<[CachePadded<Inbox>]>,
    own: usize,
    /// Workers to wake, a bit each.
    wake: u64,
}

impl Links {
    /// Ends for all workers, of which there are at most 64.
    pub(crate) fn new(wakers: &[Arc<Waker>]) -> Vec<Links> {
        let rooms = if wakers.len() > 1 { RING } else { 1 };
        let mut pool = Pool::new(0, 0);
        let inbox = |waker: &Arc<Waker>| {
            // As many as may be under way: then no worker need make one in the midst of traffic.
            let empties = ArrayQueue::new(rooms);
            while empties.push(pool.get()).is_ok() {}
            CachePadded::new(Inbox {
                ring: ArrayQueue::new(rooms),
                empties,
                signaled: AtomicBool::new(false),
                waker: Arc::clone(waker),
            })
        };
        let inboxes: Arc<[_]> = wakers.iter().map(inbox).collect();
        (0..wakers.len()).map(|own| Links { inboxes: Arc::clone(&inboxes), own, wake: 0 }).collect()
    }

    /// Gives a packet to a worker.
    ///
    /// # Errors
    /// The packet, when too many wait for it.
    pub(crate) fn send(&mut self, to: u16, packet: Packet, path: Path, at: IfaceId) -> Result<(), Packet> {
        let Some(inbox) = self.inboxes.get(usize::from(to)) else { return Err(packet) };
        let crossing = Crossing { packet, path, at, from: self.own as u16 };
        inbox.ring.push(crossing).map_err(|c| c.packet)?;
        self.wake |= 1 << (to & 63);
        Ok(())
    }

    /// Wakes the workers that were given something.
    #[inline]
    pub(crate) fn signal(&mut self) {
        while self.wake != 0 {
            let to = self.wake.trailing_zeros() as usize;
            self.wake &= self.wake - 1;
            self.wake_up(to);
        }
    }

    /// Wakes all others.
    pub(crate) fn signal_all(&self) {
        (0..self.inboxes.len()).filter(|&to| to != self.own).for_each(|to| self.wake_up(to));
    }

    fn wake_up(&self, to: usize) {
        if let Some(inbox) = self.inboxes.get(to)
            && !inbox.signaled.swap(true, Ordering::AcqRel)
        {
            // It fails only when the worker's event queue is gone, and the worker with it.
            let _ = inbox.waker.wake();
        }
    }

    /// Whether there is something to take.
    #[inline]
    pub(crate) fn has_mail(&self) -> bool {
        !self.inboxes[self.own].ring.is_empty()
    }

    /// To be called before looking: what comes later wakes the worker again.
    #[inline]
    pub(crate) fn listen(&self) {
        self.inboxes[self.own].signaled.store(false, Ordering::Release);
    }

    /// Takes out what has come, up to a limit.
    pub(crate) fn take(&self, pool: &mut Pool) -> impl Iterator<Item = Crossing> {
        let inbox = &self.inboxes[self.own];
        std::iter::from_fn(move || {
            let crossing = inbox.ring.pop()?;
            self.give_back(&crossing, pool);
            Some(crossing)
        })
        .take(BUDGET)
    }

    /// An empty packet for the worker that gave one away, with room for as much.
    fn give_back(&self, crossing: &Crossing, pool: &mut Pool) {
        let Some(inbox) = self.inboxes.get(usize::from(crossing.from)) else { return };
        let mut empty = pool.get();
        if !crossing.packet.tail().is_empty() {
            let mut tail = Some(pool.take_tail());
            // A frame one byte longer than the head takes the tail with it.
            let _ = empty.set_received(HEAD_ROOM + 1, &mut tail);
        }
        if let Err(empty) = inbox.empties.push(empty) {
            pool.put(empty);
        }
    }

    /// Takes home what has been given back.
    #[inline]
    pub(crate) fn reclaim(&self, pool: &mut Pool) {
        let inbox = &self.inboxes[self.own];
        while let Some(empty) = inbox.empties.pop() {
            pool.put(empty);
        }
    }
}
