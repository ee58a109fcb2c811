//! Nothing is allocated per packet in steady state.

mod common;

use allocation_counter::measure;
use common::*;
use trunkline_packet::{Batch, Pool};
use trunkline_tunnel::{
    Arrival, DropCounts, UdpRuns, decap_all, encap_datagrams, encap_frame, open, segment_for_udp,
};

#[test]
fn steady_state_allocates_nothing() {
    let (a, b) = (tunnels(true, |_| ()), tunnels(false, |_| ()));
    let mut pool = Pool::new(256, 16);
    let (mut wire, mut inside) = (Batch::with_capacity(256), Batch::with_capacity(256));
    let (mut runs, mut drops) = (UdpRuns::new(16), DropCounts::new());
    let frames = [
        Frame::SMALL,
        Frame { payload: 60_000, offload: 1400, ..Frame::SMALL },
        Frame { payload: 9000, offload: 1000, v6: true, tcp: false, ..Frame::SMALL },
    ];
    let templates: Vec<_> = frames.iter().map(|f| f.build(&mut pool)).collect();
    let mut round = |pool: &mut Pool| {
        for index in 0..ENDPOINTS {
            for v6 in [false, true] {
                let from = a.of_port(port(index, v6)).unwrap();
                let (to, state) = (from.encaps(UNTAGGED).unwrap()[0], &from.endpoint().state.tx);
                for template in &templates {
                    let p = pool.duplicate(template);
                    encap_frame(p, &to, &path(v6), state, pool, &mut wire).unwrap();
                    for mut p in wire.drain(..) {
                        let opened = open(&mut p, false).unwrap();
                        decap_all(p, &opened, &b, pool, &mut inside, &mut drops);
                    }
                    pool.put_all(&mut inside);
                    let p = pool.duplicate(template);
                    runs.clear();
                    if index > 4 {
                        segment_for_udp(p, &to, state, pool, &mut wire, &mut runs).unwrap();
                    } else {
                        encap_datagrams(p, &to, state, pool, &mut wire).unwrap();
                    }
                    pool.put_all(&mut wire);
                }
            }
        }
    };
    round(&mut pool);
    let allocated = measure(|| (0..20).for_each(|_| round(&mut pool)));
    assert_eq!(allocated.count_total, 0);
    assert_eq!(drops.total(), 0);
}

/// A merged receive buffer is taken apart without allocating.
#[test]
fn gro_buffers_allocate_nothing() {
    let b = tunnels(false, |_| ());
    let mut pool = Pool::new(256, 16);
    let mut one = vec![8, 0, 0, 0, 0, 0, 77, 0];
    one.extend(Frame::SMALL.build(&mut pool).to_vec());
    let merged = one.repeat(64);
    let (src, dst) = hosts(false);
    let outer =
        trunkline_tunnel::Outer { src, dst, src_port: 50000, dst_port: 4789, tos: 0, ttl: 64, proto: 17 };
    let opened = Arrival { outer, gro: Some(one.len() as u16) };
    let (mut inside, mut drops) = (Batch::with_capacity(256), DropCounts::new());
    let mut round = |pool: &mut Pool| {
        let p = packet(&merged, pool);
        decap_all(p, &opened, &b, pool, &mut inside, &mut drops);
        assert_eq!(inside.len(), 64);
        pool.put_all(&mut inside);
    };
    round(&mut pool);
    let allocated = measure(|| (0..20).for_each(|_| round(&mut pool)));
    assert_eq!(allocated.count_total, 0);
}
