//! Ports allocate nothing per packet once they are warm. One test, since the counter sees every thread.

mod common;

use std::net::UdpSocket;

use allocation_counter::measure;
use common::*;
use trunkline_packet::{Batch, Pool};
use trunkline_ports::afpacket::AfPacket;
use trunkline_ports::null::NullTx;
use trunkline_ports::replay::{Replay, ReplayConfig};
use trunkline_ports::tap::{Tap, TapConfig};
use trunkline_ports::underlay::{Datagrams, Family, UdpOptions, gre, udp_receivers, udp_senders};
use trunkline_ports::{RecvStats, RxQueue, SendStats, TxQueue};

/// Allocations during the second thousand rounds; the first warm up pools and kernel.
fn allocations(mut round: impl FnMut()) -> u64 {
    for _ in 0..1000 {
        round();
    }
    measure(|| (0..1000).for_each(|_| round())).count_total
}

#[test]
fn nothing_is_allocated_per_packet() {
    sandbox(Needs::Tun, || {
        let (mut pool, mut batch) = (Pool::new(512, 128), Batch::with_capacity(256));
        let (mut received, mut sent) = (RecvStats::default(), SendStats::default());

        // Memory to a TAP.
        let tap =
            Tap::open(&TapConfig { name: "tap0".into(), queues: 1, offload: true, adopt: false }).unwrap();
        address("tap0", [10, 7, 0, 1].into(), [10, 7, 0, 2].into(), "02:00:00:00:00:02");
        let (mut tap_rx, tap_tx) = tap.into_io();
        let mut replay =
            Replay::new(vec![odd_frame(1, 60), odd_frame(2, 1514)], ReplayConfig::default()).unwrap();
        let n = allocations(|| {
            let _ = replay.recv(&mut pool, &mut batch, 32, &mut received);
            tap_tx[0].send(&mut pool, &mut batch, &mut sent);
        });
        assert_eq!((n, sent.packets), (0, 64_000));

        // The stack behind a TAP to nowhere; large ones use the tail.
        ip("link set tap0 mtu 9000");
        let socket = UdpSocket::bind("10.7.0.1:0").unwrap();
        socket.connect("10.7.0.2:9").unwrap();
        let (mut sent, payload) = (SendStats::default(), [0; 8000]);
        let n = allocations(|| {
            for len in [18, 1000, 8000] {
                socket.send(&payload[..len]).unwrap();
            }
            let _ = tap_rx[0].recv(&mut pool, &mut batch, 64, &mut received);
            NullTx.send(&mut pool, &mut batch, &mut sent);
        });
        assert_eq!(n, 0);
        assert!(sent.packets >= 6000);

        // A packet socket to another, and back to its ring.
        ip("link add p0 type veth peer name p1");
        ip("link set p0 up");
        up("p1");
        up("p0");
        let ring = AfPacket::open_wire("p0", true).unwrap();
        assert!(ring.has_ring());
        let [one, two] = [ring, AfPacket::open("p1", true).unwrap()].map(AfPacket::into_io);
        let mut sent = SendStats::default();
        for (tx, mut rx) in [(&one.1, two.0), (&two.1, one.0)] {
            let mut came = 0;
            let n = allocations(|| {
                let _ = replay.recv(&mut pool, &mut batch, 48, &mut received);
                tx[0].send(&mut pool, &mut batch, &mut sent);
                let _ = rx[0].recv(&mut pool, &mut batch, 64, &mut received);
                came += batch.len();
                pool.put_all(&mut batch);
            });
            assert!(n == 0 && came >= 96_000, "{n} allocations, {came} frames");
        }
        assert_eq!(sent.packets, 2 * 96_000);

        sockets_under_tunnels(&mut pool, &mut batch);
    });
}

/// Runs and single datagrams of a dozen source ports to ourselves.
fn sockets_under_tunnels(pool: &mut Pool, batch: &mut Batch) {
    let mut replay = Replay::new(vec![odd_frame(1, 1400)], ReplayConfig::default()).unwrap();
    let (mut received, mut arrivals) = (RecvStats::default(), Vec::with_capacity(256));
    let options =
        UdpOptions { family: Family::V6, port: 4789, queues: 1, groups: Vec::new(), checksum6: false };
    let udp = (udp_receivers(&options).unwrap().0.remove(0), udp_senders(Family::V6).unwrap(), "::1", 8);
    let gre_ = gre(Family::V4).unwrap();
    for (mut rx, tx, to, count) in [udp, (gre_.0, gre_.1, "127.0.0.1", 1)] {
        let how = Datagrams {
            dst: to.parse().unwrap(),
            dst_port: 4789,
            src: None,
            interface: 0,
            tos: 1,
            ttl: 3,
            df: true,
            socket: 0,
            first: 0,
            count,
            size: 1400,
        };
        let what: Vec<_> = (0..48)
            .step_by(count)
            .enumerate()
            .map(|(i, first)| Datagrams { socket: i / 2, first, df: i % 5 != 0, ..how })
            .collect();
        let (mut sent, mut came) = (SendStats::default(), 0);
        let n = allocations(|| {
            let _ = replay.recv(pool, batch, 48, &mut received);
            tx.send(pool, batch, &what, &mut sent);
            let _ = rx.recv(pool, batch, &mut arrivals, 64, &mut received);
            came += arrivals.len();
            arrivals.clear();
            pool.put_all(batch);
        });
        assert_eq!((n, sent.packets, came), (0, 96_000, 96_000 / count));
    }
}
