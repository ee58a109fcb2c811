//! The IPv4 addresses that DHCP gave to the hosts of one port.

use std::net::Ipv4Addr;

use crate::sync::{AtomicU64, Ordering};

/// Addresses of one port at a time. One more displaces that which ends first.
pub(super) const SLOTS: usize = 16;

/// A small table that is read without a lock: one word for each address, with the second in which it ends. All
/// words are independent, so every access may be relaxed; of two workers that write at once, one may have to
/// wait for the client's next message.
#[derive(Debug)]
pub(super) struct Bindings([AtomicU64; SLOTS]);

/// No lease ends then.
const EVER: u32 = u32::MAX;

fn pack(address: Ipv4Addr, until: u32) -> u64 {
    u64::from(address.to_bits()) << 32 | u64::from(until)
}

/// 0.0.0.0 for a free slot.
fn unpack(word: u64) -> (Ipv4Addr, u32) {
    (Ipv4Addr::from_bits((word >> 32) as u32), word as u32)
}

impl Default for Bindings {
    fn default() -> Bindings {
        Bindings(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl Bindings {
    #[inline]
    pub(super) fn contains(&self, now: u32, address: Ipv4Addr) -> bool {
        self.0.iter().any(|slot| {
            let (bound, until) = unpack(slot.load(Ordering::Relaxed));
            bound == address && until > now
        })
    }

    pub(super) fn insert(&self, now: u32, address: Ipv4Addr, seconds: u32) {
        if address.is_unspecified() {
            return;
        }
        let until = if seconds == EVER { EVER } else { now.saturating_add(seconds) };
        // What is free or over has the value of the past.
        let worth = |slot: &&AtomicU64| match unpack(slot.load(Ordering::Relaxed)) {
            (bound, _) if bound == address => (0, 0),
            (_, end) if end <= now => (1, 0),
            (_, end) => (2, end),
        };
        if let Some(slot) = self.0.iter().min_by_key(worth) {
            slot.store(pack(address, until), Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, address: Ipv4Addr) {
        for slot in &self.0 {
            let word = slot.load(Ordering::Relaxed);
            if unpack(word).0 == address {
                // Not what another worker has just written.
                let _ = slot.compare_exchange(word, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    pub(super) fn list(&self, now: u32) -> Vec<Ipv4Addr> {
        let all = self.0.iter().map(|slot| unpack(slot.load(Ordering::Relaxed)));
        let mut good: Vec<_> = all.filter(|(_, until)| *until > now).map(|(address, _)| address).collect();
        good.sort_unstable();
        good
    }
}
