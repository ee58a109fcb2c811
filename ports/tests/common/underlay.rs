//! Two namespaces with a veth between them, and hands for sockets under tunnels.
#![allow(dead_code, unreachable_pub)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use trunkline_packet::{Batch, DropReason, Offload, Pool};
use trunkline_ports::netns::Netns;
use trunkline_ports::underlay::{
    Arrival, DatagramRx, DatagramTx, Datagrams, Family, Groups, UdpOptions, udp_receivers,
};
use trunkline_ports::{RecvEnd, RecvStats, SendStats};

use crate::common::*;

pub const FAMILIES: [Family; 2] = [Family::V4, Family::V6];
pub const PORT: u16 = 4789;

/// Addresses of this end and of the other.
pub fn here(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 0, 1).into(),
        Family::V6 => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 1).into(),
    }
}

pub fn there(family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 9, 0, 2).into(),
        Family::V6 => Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, 2).into(),
    }
}

/// A veth from u0 here to u1 in a namespace of its own, with two addresses of each family.
pub fn wire() -> Netns {
    let ns = new_netns();
    ip("link add u0 type veth peer name u1");
    ip(&format!("link set u1 netns {}", path_of(&ns)));
    let set_up = |dev: &str, last: u32| {
        ip(&format!("addr add 10.9.0.{last}/24 dev {dev}"));
        ip(&format!("addr add 10.9.0.{}/24 dev {dev}", last + 10));
        ip(&format!("addr add fd09::{last}/64 dev {dev} nodad"));
        // Deprecated: not chosen by itself.
        ip(&format!("addr add fd09::{}/64 dev {dev} nodad preferred_lft 0", last + 10));
    };
    set_up("u0", 1);
    ip("link set u0 up");
    inside(&ns, || {
        set_up("u1", 2);
        up("u1");
    });
    up("u0");
    ns
}

pub fn options(family: Family) -> UdpOptions {
    UdpOptions { family, port: PORT, queues: 1, groups: Vec::new(), checksum6: false }
}

/// Receivers on a port that has just been given up: free as soon as no child of another test holds it.
pub fn reopened(options: &UdpOptions) -> (Vec<Box<dyn DatagramRx>>, Groups) {
    let mut opened = None;
    assert!(eventually(|| udp_receivers(options).map(|new| opened = Some(new)).is_ok()), "never free");
    opened.unwrap()
}

/// A receiver with its pool and everything it met.
pub struct End {
    pub rx: Box<dyn DatagramRx>,
    pub pool: Pool,
    pub stats: RecvStats,
}

impl End {
    pub fn new(rx: Box<dyn DatagramRx>) -> End {
        End { rx, pool: Pool::new(256, 64), stats: RecvStats::default() }
    }

    pub fn udp(family: Family) -> End {
        End::new(udp_receivers(&options(family)).unwrap().0.remove(0))
    }

    /// What arrives until `bytes` have, or within a second.
    pub fn take(&mut self, bytes: usize) -> Vec<(Arrival, Vec<u8>)> {
        let mut got = Vec::new();
        let end = Instant::now() + Duration::from_secs(1);
        while Instant::now() < end && got.iter().map(|(_, b): &(_, Vec<u8>)| b.len()).sum::<usize>() < bytes {
            readable(self.rx.poll_fd(), Duration::from_millis(20));
            self.recv(&mut got);
        }
        // One more, for what should not have come.
        self.recv(&mut got);
        got
    }

    pub fn recv(&mut self, got: &mut Vec<(Arrival, Vec<u8>)>) {
        let (mut out, mut arrivals) = (Batch::new(), Vec::new());
        let end = self.rx.recv(&mut self.pool, &mut out, &mut arrivals, 64, &mut self.stats);
        assert!(matches!(end, RecvEnd::Drained | RecvEnd::More), "{end:?}");
        assert_eq!(out.len(), arrivals.len());
        for (packet, arrival) in out.drain(..).zip(arrivals) {
            assert!(packet.headroom() >= trunkline_packet::buf::HEADROOM);
            got.push((arrival, packet.to_vec()));
            self.pool.put(packet);
        }
    }
}

pub fn to(dst: IpAddr) -> Datagrams {
    Datagrams {
        dst,
        dst_port: PORT,
        src: None,
        interface: 0,
        tos: 0,
        ttl: 64,
        df: true,
        socket: 0,
        first: 0,
        count: 1,
        size: 0,
    }
}

/// `count` payloads of `size` bytes and a last one of `last`.
pub fn payloads(count: usize, size: usize, last: usize) -> Vec<Vec<u8>> {
    let bytes = |i: usize, len: usize| (0..len).map(|at| (at * 31 + i * 7 + (at >> 8)) as u8).collect();
    (0..count).map(|i| bytes(i, size)).chain([bytes(count, last)]).collect()
}

pub fn transmit(tx: &dyn DatagramTx, payloads: &[Vec<u8>], what: &[Datagrams]) -> SendStats {
    let mut pool = Pool::new(256, 256);
    let mut batch: Batch = payloads.iter().map(|b| packet(b, Offload::NONE)).collect();
    let mut stats = SendStats::default();
    tx.send(&mut pool, &mut batch, what, &mut stats);
    assert!(batch.is_empty());
    let dropped: u32 = stats.drops.iter().sum();
    assert_eq!(stats.packets as usize + dropped as usize, payloads.len(), "each ends in one place");
    stats
}

/// All payloads in one run.
pub fn run(tx: &dyn DatagramTx, payloads: &[Vec<u8>], how: Datagrams) -> SendStats {
    transmit(tx, payloads, &[Datagrams { first: 0, count: payloads.len(), size: payloads[0].len(), ..how }])
}

pub fn drops(stats: &SendStats, reason: DropReason) -> u32 {
    stats.drops[reason.index()]
}
