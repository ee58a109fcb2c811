//! In steady state nothing is allocated: forwarding, pings, errors, ARP.

mod kit;

use allocation_counter::measure;
use kit::*;
use trunkline_packet::{DropReason, MacAddr, Packet, Pool};
use trunkline_router::{IfaceId, Received, Router, Sink};

#[derive(Default)]
struct Back(Vec<Packet>, u64);

impl Sink for Back {
    fn send(&mut self, _: IfaceId, packet: Packet, _: bool) {
        self.0.push(packet);
        self.1 += 1;
    }
    fn inject(&mut self, _: IfaceId, packet: Packet) {
        self.0.push(packet);
    }
    fn consumed(&mut self, _: IfaceId, _: usize) {}
    fn dropped(&mut self, _: IfaceId, _: DropReason) {}
    fn resolved(&mut self) {}
}

#[test]
fn nothing_is_allocated_per_packet() {
    let mut rig = Rig::new();
    rig.know(B, "10.78.0.5", PEER);
    rig.know(UP, "192.0.2.1", PEER);
    let frames = [
        udp(A, "10.77.0.9", "10.78.0.5", 64, b"forward"),
        udp(A, "10.77.0.9", "198.51.100.1", 64, &[0; 1400]),
        udp(A, "10.77.0.9", "198.51.100.1", 64, &[0; 3000]),
        udp(A, "10.77.0.9", "198.51.100.1", 1, b"late"),
        udp(A, "10.77.0.9", "10.78.0.77", 64, b"nobody there"),
        udp(A, "fd77::9", "fd78::77", 64, b"nobody there"),
        ping(A, "fd77::9", "fd77::1", b"ping"),
        arp(ARP_REQUEST, MacAddr::BROADCAST, (HOST, "10.77.0.9"), (MacAddr([0; 6]), "10.77.0.1")),
    ];
    let mut pool = Pool::new(1024, 64);
    let mut sink = Back(Vec::with_capacity(4096), 0);
    let run = |router: &mut Router, start: u64, sink: &mut Back, pool: &mut Pool| {
        for now in (start..start + 60_000).step_by(10) {
            for frame in &frames {
                let mut packet = pool.get();
                packet.set_bytes(frame, pool).unwrap();
                match router.receive(now, A, packet, pool, sink) {
                    Received::Forward(packet, hop) => router.transmit(now, hop, packet, pool, sink),
                    Received::Local(packet) => router.local(now, A, packet, pool, sink),
                    Received::Done => {}
                    other => panic!("{other:?}"),
                }
            }
            router.tick(now, pool, sink);
            sink.0.drain(..).for_each(|p| pool.put(p));
        }
        sink.1
    };
    let router = &mut rig.router;
    let warm = run(router, 100_000, &mut sink, &mut pool);
    let mut sent = 0;
    let allocated = measure(|| sent = run(router, 200_000, &mut sink, &mut pool) - warm);
    assert_eq!(allocated.count_total, 0);
    assert!(sent > 30_000, "{sent}");
}
