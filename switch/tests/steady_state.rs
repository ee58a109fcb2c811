//! The packet path allocates nothing once it is warm, and an empty bridge is small.

use std::sync::Arc;

use allocation_counter::measure;
use trunkline_packet::{BATCH, Batch, DropReason, MacAddr, Packet, Pool, PortId};
use trunkline_switch::{Bridge, BridgeConfig, Fdb, PortConfig, Sink};

/// Takes every packet back, as the worker does.
struct Recycle {
    done: Batch,
    sent: u64,
    dropped: u64,
}

impl Sink for Recycle {
    fn send(&mut self, _: PortId, packet: Packet) {
        self.sent += 1;
        self.done.push(packet);
    }
    fn drop(&mut self, packet: Packet, _: DropReason) {
        self.dropped += 1;
        self.done.push(packet);
    }
    fn replicated(&mut self, _: u64) {}
}

struct Bench {
    bridge: Bridge,
    pool: Pool,
    batch: Batch,
    sink: Recycle,
}

impl Bench {
    /// One batch from port 0: sources and destinations by number, destination 0 for broadcast.
    fn round(&mut self, now: u32, pairs: impl Fn(u64) -> (u64, u64)) {
        for i in 0..BATCH as u64 {
            let (to, from) = pairs(i);
            let mac =
                |n: u64| if n == 0 { MacAddr::BROADCAST } else { MacAddr::from_u64(0x0200_0000_0000 | n) };
            let mut frame = [0; 60];
            frame[..6].copy_from_slice(&mac(to).0);
            frame[6..12].copy_from_slice(&mac(from).0);
            let mut packet = self.pool.get();
            packet.set_bytes(&frame, &mut self.pool).unwrap();
            self.batch.push(packet);
        }
        self.bridge.forward(now, PortId(0), &mut self.batch, &mut self.pool, &mut self.sink);
        self.pool.put_all(&mut self.sink.done);
    }
}

#[test]
fn nothing_is_allocated_per_packet() {
    let config = BridgeConfig { max_macs: 1024, ..BridgeConfig::default() };
    let ports = (0..5).map(|i| PortConfig { flood_limit: 100, ..PortConfig::new(PortId(i)) }).collect();
    let bridge = Bridge::new(config, Arc::new(Fdb::new(1024)), ports);
    bridge.fdb().learn(0, Default::default(), MacAddr::from_u64(0x0200_0000_0001), PortId(1), 0);
    let sink = Recycle { done: Batch::with_capacity(8 * BATCH), sent: 0, dropped: 0 };
    let mut b = Bench { bridge, pool: Pool::new(8 * BATCH, 0), batch: Batch::with_capacity(BATCH), sink };
    // Known unicast, floods with copies, more floods than the limit, addresses learned, moved and evicted.
    let mut run = |from: u32, rounds: u32| {
        for r in from..from + rounds {
            b.round(r / 2, |i| (1, 2 + i));
            b.round(r / 2, |i| (0, 2 + i % 4));
            b.round(r / 2, |i| (1, 100_000 + u64::from(r) * 64 + i));
            b.bridge.fdb().sweep(r / 2, 300, 64);
        }
    };
    run(0, 4);
    assert_eq!(measure(|| run(4, 200)).count_total, 0);
    assert!(b.sink.sent > 50_000 && b.sink.dropped > 1000, "{} {}", b.sink.sent, b.sink.dropped);
    assert!(b.bridge.fdb().counters().evicted > 1000);
}

#[test]
fn an_empty_bridge_is_at_most_a_mebibyte() {
    let mut bridge = None;
    let allocated = measure(|| {
        let config = BridgeConfig::default();
        let fdb = Arc::new(Fdb::new(config.max_macs));
        bridge = Some(Bridge::new(config, fdb, vec![PortConfig::new(PortId(0))]));
    });
    assert!(allocated.bytes_current <= 1 << 20, "{allocated:?}");
    assert!(bridge.unwrap().fdb().is_empty());
}
