//! A port made of memory, to drive the engine without a kernel interface.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod inner;
pub(crate) mod net;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam::queue::SegQueue;
use rustix::event::{EventfdFlags, eventfd};
use trunkline_engine::{Engine, PortIo};
use trunkline_packet::{Batch, DropReason, Offload, Pool, PortId};
use trunkline_ports::{RecvEnd, RecvStats, RxQueue, SendStats, TxCaps, TxQueue};

/// Both ends of the port: what a test puts in and takes out.
pub(crate) struct Wire {
    rx: SegQueue<(Vec<u8>, Offload)>,
    pub(crate) tx: SegQueue<Vec<u8>>,
    /// The metadata of each of those.
    pub(crate) offloads: SegQueue<Offload>,
    ready: OwnedFd,
    pub(crate) broken: AtomicBool,
    /// Sending here is a bug.
    pub(crate) buggy: AtomicBool,
    caps: TxCaps,
}

impl Wire {
    pub(crate) fn new(caps: TxCaps) -> Arc<Wire> {
        let ready = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).unwrap();
        Arc::new(Wire {
            rx: SegQueue::new(),
            tx: SegQueue::new(),
            offloads: SegQueue::new(),
            ready,
            broken: AtomicBool::new(false),
            buggy: AtomicBool::new(false),
            caps,
        })
    }

    /// A frame arrives from outside.
    pub(crate) fn inject(&self, frame: Vec<u8>) {
        self.inject_with(frame, Offload::NONE);
    }

    /// The same with what its sender left undone.
    pub(crate) fn inject_with(&self, frame: Vec<u8>, offload: Offload) {
        self.rx.push((frame, offload));
        self.kick();
    }

    pub(crate) fn kick(&self) {
        rustix::io::write(&self.ready, &1u64.to_ne_bytes()).unwrap();
    }

    /// The next frame the switch sent here, within a second.
    pub(crate) fn take(&self) -> Option<Vec<u8>> {
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end {
            if let Some(frame) = self.tx.pop() {
                return Some(frame);
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        None
    }

    pub(crate) fn io(self: &Arc<Wire>) -> PortIo {
        PortIo { rx: vec![Box::new(WireRx(Arc::clone(self)))], tx: vec![Arc::new(WireTx(Arc::clone(self)))] }
    }
}

/// Both ends of a cable between two ports, which take superframes as a packet socket does.
pub(crate) fn cable() -> (PortIo, PortIo) {
    let caps = TxCaps { tunnel_gso: false, ..TxCaps::ALL };
    let (a, b) = (Wire::new(caps), Wire::new(caps));
    let end = |near: &Arc<Wire>, far: &Arc<Wire>| PortIo {
        rx: vec![Box::new(WireRx(Arc::clone(near)))],
        tx: vec![Arc::new(CableTx(Arc::clone(far)))],
    };
    (end(&a, &b), end(&b, &a))
}

/// What is sent here arrives at the far end.
struct CableTx(Arc<Wire>);

impl TxQueue for CableTx {
    fn caps(&self) -> TxCaps {
        self.0.caps
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, stats: &mut SendStats) {
        for packet in batch.drain(..) {
            stats.packets += 1;
            stats.bytes += packet.len() as u64;
            if !self.0.broken.load(Ordering::Relaxed) {
                self.0.rx.push((packet.to_vec(), packet.meta().offload));
            }
            pool.put(packet);
        }
        self.0.kick();
    }
}

/// A port with a queue for each of these wires.
pub(crate) fn queues(wires: &[Arc<Wire>]) -> PortIo {
    let (rx, tx) = wires.iter().map(Wire::io).map(|mut io| (io.rx.remove(0), io.tx.remove(0))).unzip();
    PortIo { rx, tx }
}

struct WireRx(Arc<Wire>);

impl RxQueue for WireRx {
    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.0.ready.as_raw_fd())
    }

    fn recv(&mut self, pool: &mut Pool, out: &mut Batch, budget: usize, _: &mut RecvStats) -> RecvEnd {
        let _ = rustix::io::read(&self.0.ready, &mut [0u8; 8]);
        if self.0.broken.load(Ordering::Relaxed) {
            return RecvEnd::Failed { error: io::Error::other("cable cut"), fatal: true };
        }
        for _ in 0..budget {
            let Some((frame, offload)) = self.0.rx.pop() else { return RecvEnd::Drained };
            let mut packet = pool.get();
            packet.set_bytes(&frame, pool).unwrap();
            packet.meta_mut().offload = offload;
            out.push(packet);
        }
        RecvEnd::More
    }
}

struct WireTx(Arc<Wire>);

impl TxQueue for WireTx {
    fn caps(&self) -> TxCaps {
        self.0.caps
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, stats: &mut SendStats) {
        assert!(!self.0.buggy.load(Ordering::Relaxed), "a test's bug");
        for packet in batch.drain(..) {
            stats.packets += 1;
            stats.bytes += packet.len() as u64;
            self.0.offloads.push(packet.meta().offload);
            self.0.tx.push(packet.to_vec());
            pool.put(packet);
        }
    }
}

/// Brings the same frames for ever, as fast as they are taken, and takes everything.
pub(crate) struct Source {
    pub(crate) frames: Vec<Vec<u8>>,
    pub(crate) next: usize,
    pub(crate) go: Arc<AtomicBool>,
    pub(crate) ready: OwnedFd,
}

impl RxQueue for Source {
    fn poll_fd(&self) -> Option<RawFd> {
        Some(self.ready.as_raw_fd())
    }

    fn recv(&mut self, pool: &mut Pool, out: &mut Batch, budget: usize, _: &mut RecvStats) -> RecvEnd {
        if !self.go.load(Ordering::Relaxed) {
            let _ = rustix::io::read(&self.ready, &mut [0u8; 8]);
            return RecvEnd::Drained;
        }
        for _ in 0..budget {
            let mut packet = pool.get();
            packet.set_bytes(&self.frames[self.next], pool).unwrap();
            self.next = (self.next + 1) % self.frames.len();
            out.push(packet);
        }
        RecvEnd::More
    }
}

/// Counts and forgets.
#[derive(Default)]
pub(crate) struct Sink(pub(crate) AtomicU64);

impl TxQueue for Sink {
    fn caps(&self) -> TxCaps {
        TxCaps::ALL
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, stats: &mut SendStats) {
        stats.packets += batch.len() as u64;
        stats.bytes += batch.iter().map(|p| p.len() as u64).sum::<u64>();
        self.0.fetch_add(batch.len() as u64, Ordering::Relaxed);
        pool.put_all(batch);
    }
}

/// An Ethernet frame of 64 bytes with an experimental EtherType.
pub(crate) fn frame(dst: u8, src: u8) -> Vec<u8> {
    let mut f = vec![0u8; 64];
    f[..6].copy_from_slice(&if dst == 255 { [255; 6] } else { [2, 0, 0, 0, 0, dst] });
    f[6..12].copy_from_slice(&[2, 0, 0, 0, 0, src]);
    f[12..14].copy_from_slice(&[0x88, 0xb5]);
    f
}

/// `rx + generated + replicated = tx + absorbed + drops` over these ports and the underlay, once they are
/// quiet.
pub(crate) fn assert_conserved(engine: &Engine, ports: &[PortId]) {
    let (mut came, mut went) = (0, 0);
    for c in ports.iter().map(|&port| engine.counters(port)).chain([engine.underlay_counters()]) {
        came += c.rx_packets + c.generated + c.replicated;
        went += c.tx_packets + c.absorbed + c.drops.iter().sum::<u64>();
    }
    assert_eq!(came, went);
}

pub(crate) fn drops(engine: &Engine, port: PortId, reason: DropReason) -> u64 {
    engine.counters(port).drops[reason.index()]
}
