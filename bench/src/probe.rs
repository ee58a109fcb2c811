//! A port that takes everything, and looks at some of it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use trunkline_packet::{Batch, Packet, Pool};
use trunkline_ports::null::NullTx;
use trunkline_ports::{SendStats, TxCaps, TxQueue};

use crate::scenario::Scenario;

/// Packets between two that are looked at. A prime, so that every frame of a replay has its turn.
const STRIDE: u64 = 4099;

/// Counts packets like [`NullTx`] and compares samples with what they should be.
#[derive(Debug)]
pub struct Probe {
    scenario: Arc<Scenario>,
    packets: AtomicU64,
    next: AtomicU64,
    checked: AtomicU64,
    wrong: OnceLock<String>,
}

impl Probe {
    /// For what comes out of this scenario.
    pub fn new(scenario: &Arc<Scenario>) -> Probe {
        Probe {
            scenario: Arc::clone(scenario),
            packets: AtomicU64::new(0),
            next: AtomicU64::new(0),
            checked: AtomicU64::new(0),
            wrong: OnceLock::new(),
        }
    }

    /// Packets so far.
    pub fn packets(&self) -> u64 {
        self.packets.load(Relaxed)
    }

    /// How many were compared, all bytes of them.
    pub fn checked(&self) -> u64 {
        self.checked.load(Relaxed)
    }

    /// What was wrong with the first bad one.
    pub fn wrong(&self) -> Option<&str> {
        self.wrong.get().map(String::as_str)
    }

    #[cold]
    fn look_at(&self, packet: &Packet) {
        let mut bytes = vec![0; packet.len()];
        // An uplink announces itself once (RFC 5227); no replay has such a frame.
        const ARP: &[u8] = &[0x08, 0x06];
        if packet.copy_out(0, &mut bytes) && bytes.get(12..14) == Some(ARP) {
            return;
        }
        let result = if packet.copy_out(0, &mut bytes) {
            self.scenario.check(&bytes)
        } else {
            Err("a packet is shorter than it says")
        };
        self.checked.fetch_add(1, Relaxed);
        if let Err(what) = result {
            let shown: Vec<_> = bytes.iter().take(96).map(|b| format!("{b:02x}")).collect();
            // Only the first one is told.
            let _ = self.wrong.set(format!("{what}: {}", shown.concat()));
        }
    }
}

impl TxQueue for Probe {
    fn caps(&self) -> TxCaps {
        NullTx.caps()
    }

    fn likes_superframes(&self) -> bool {
        NullTx.likes_superframes()
    }

    fn has_receiver(&self) -> bool {
        NullTx.has_receiver()
    }

    fn send(&self, pool: &mut Pool, batch: &mut Batch, stats: &mut SendStats) {
        let before = self.packets.fetch_add(batch.len() as u64, Relaxed);
        let next = self.next.load(Relaxed);
        if before + batch.len() as u64 > next {
            self.next.store(next + STRIDE, Relaxed);
            if let Some(packet) = batch.get(next.saturating_sub(before) as usize) {
                self.look_at(packet);
            }
        }
        NullTx.send(pool, batch, stats);
    }
}
