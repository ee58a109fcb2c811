//! What a full table takes.

mod kit;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};

use kit::*;
use trunkline_nat::{Config, Filtering, Nat, RuleId, Sink, Toward};
use trunkline_packet::checksum::Sum;
use trunkline_packet::{Packet, Pool};

struct Counting;

static BYTES: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is the one System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

struct Count(Pool, usize);

impl Sink for Count {
    fn forward(&mut self, packet: Packet, _: Toward) {
        self.0.put(packet);
        self.1 += 1;
    }
    fn drop(&mut self, packet: Packet, reason: trunkline_nat::DropReason) {
        self.0.put(packet);
        panic!("dropped: {reason:?}");
    }
}

#[test]
fn a_million_entries_take_256_mib() {
    const MILLION: usize = 1_000_000;
    let before = BYTES.load(Ordering::Relaxed);
    // Every one with a mapping of its own, under 32 addresses.
    let mut nat = Nat::new(Config::for_capacity(MILLION));
    let pool: Vec<String> = (1..=32).map(|i| format!("192.0.2.{i}")).collect();
    let pool: Vec<&str> = pool.iter().map(String::as_str).collect();
    nat.add_rule(RuleId(0), masquerade(&pool, (1024, 65535), Filtering::default())).unwrap();
    let mut sink = Count(Pool::new(16, 4), 0);
    let far = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), 53);
    let mut frame = udp_to(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)), 1), far, b"");
    // No checksum, which need not be right then.
    frame[40..42].fill(0);
    for i in 0..MILLION as u32 {
        frame[28..30].copy_from_slice(&((i % 2000 + 1) as u16).to_be_bytes());
        frame[34..36].copy_from_slice(&((i / 2000 + 2000) as u16).to_be_bytes());
        frame[24..26].fill(0);
        let sum = Sum::ZERO.bytes(&frame[14..34]).finish();
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
        let mut packet = sink.0.get();
        packet.set_bytes(&frame, &mut sink.0).unwrap();
        nat.process(1000, OUT, packet, &mut sink);
    }
    let stats = nat.stats();
    assert_eq!(
        (sink.1, stats.connections, stats.mappings, stats.early_drops),
        (MILLION, MILLION, MILLION, 0)
    );
    drop(sink);
    let used = BYTES.load(Ordering::Relaxed) - before;
    assert!(used <= 256 << 20, "{used} bytes");
}
