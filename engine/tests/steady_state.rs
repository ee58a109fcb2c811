//! In steady state a worker allocates nothing.

mod memory;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use memory::{Sink, Source, Wire, frame};
use rustix::event::{EventfdFlags, eventfd};
use trunkline_engine::{Engine, EngineConfig, PortIo};
use trunkline_packet::PortId;
use trunkline_ports::TxCaps;
use trunkline_switch::{BridgeConfig, PortConfig};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: every call is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is the one System asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(p, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Unicast, floods, superframe-sized frames and drops, through learning, for a few hundred thousand packets.
#[test]
fn forwarding_allocates_nothing() {
    let e = Engine::start(EngineConfig { workers: 1, pin: false, spin_us: 0 }).unwrap();
    let br = e.add_bridge(BridgeConfig::default());
    let config = || PortConfig::new(PortId::NONE);
    let sinks: Vec<Arc<Sink>> = (0..3).map(|_| Arc::default()).collect();
    let answer = Wire::new(TxCaps::ALL);
    for sink in &sinks {
        let port = e.add_port(br, config(), 65535).unwrap();
        let rx = answer.io().rx;
        e.attach_port(port, PortIo { rx, tx: vec![Arc::clone(sink) as _] }, false).unwrap();
    }
    // Station 2 is behind one of the sinks.
    answer.inject(frame(255, 2));
    let mut frames: Vec<_> = (10..200).map(|src| frame(2, src)).collect();
    frames.push(frame(255, 10));
    frames.push(frame(77, 10));
    frames.push(frame(10, 10));
    frames.push([&frame(2, 10)[..], &[0; 9000][..]].concat());
    frames.push([&frame(255, 10)[..], &[0; 60000][..]].concat());
    let ready = eventfd(1, EventfdFlags::NONBLOCK).unwrap();
    let go = Arc::new(AtomicBool::new(true));
    let source = e.add_port(br, config(), 65535).unwrap();
    let rx = Source { frames, next: 0, go: Arc::clone(&go), ready };
    e.attach_port(source, PortIo { rx: vec![Box::new(rx)], tx: vec![Arc::new(Sink::default())] }, false)
        .unwrap();

    std::thread::sleep(Duration::from_millis(500));
    let (packets, allocations) = (e.counters(source).rx_packets, ALLOCATIONS.load(Ordering::Relaxed));
    std::thread::sleep(Duration::from_millis(1000));
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - allocations;
    let packets = e.counters(source).rx_packets - packets;
    go.store(false, Ordering::Relaxed);
    assert!(packets > 50_000, "only {packets} packets");
    assert_eq!(allocations, 0, "over {packets} packets");
}
