//! Whatever comes in, nothing panics, every packet ends in exactly one place, and what leaves is well formed.

mod kit;

use kit::*;
use proptest::prelude::*;
use trunkline_packet::{Checksum, MacAddr, Offload, Packet};
use trunkline_router::{IfaceId, Received};

/// Good frames of every kind that the router looks into.
fn seeds() -> Vec<Vec<u8>> {
    let group = MacAddr([0x33, 0x33, 0xff, 0, 0, 1]);
    let nobody = MacAddr([0; 6]);
    vec![
        udp(A, "10.77.0.9", "10.78.0.5", 64, b"forward"),
        udp(A, "10.77.0.9", "198.51.100.1", 1, b"late"),
        udp(A, "fd77::9", "fd78::5", 64, b"forward"),
        udp(A, "10.77.0.9", "10.77.0.1", 64, b"closed"),
        udp(A, "0.0.0.0", "255.255.255.255", 64, b"broadcast"),
        udp(A, "10.77.0.9", "198.51.100.1", 64, &[0; 1600]),
        ping(A, "10.77.0.9", "10.77.0.1", b"ping"),
        ping(A, "fd77::9", "fd77::1", b"ping"),
        arp(ARP_REQUEST, MacAddr::BROADCAST, (HOST, "10.77.0.9"), (nobody, "10.77.0.1")),
        arp(ARP_REPLY, MACS[0], (HOST, "10.77.0.9"), (MACS[0], "10.77.0.1")),
        nd((HOST, group), "fd77::9", "ff02::1:ff00:1", 255, &nd_body(135, 0, "fd77::1", Some(HOST))),
        nd((HOST, MACS[0]), "fd77::9", "fd77::1", 255, &nd_body(136, 0x60, "fd77::9", Some(HOST))),
        nd((HOST, group), "fe80::9", "ff02::2", 255, &[133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 9]),
    ]
}

/// Carries one frame through everything; returns how many packets came in and how many ended.
fn carry(rig: &mut Rig, at: IfaceId, packet: Packet, way: u8) -> (usize, usize) {
    let (mut came, mut queue) = (1, vec![(at, packet, false)]);
    while let Some((at, packet, ours)) = queue.pop() {
        let Rig { router, pool, out, now, .. } = rig;
        let received = match ours {
            false => router.receive(*now, at, packet, pool, out),
            true => router.reroute(*now, at, packet, pool, out),
        };
        match received {
            Received::Done => {}
            Received::Local(p) => router.local(*now, at, p, pool, out),
            Received::Answer(p) => match way % 2 {
                0 => router.local(*now, at, p, pool, out),
                _ => router.client(*now, UP, p, pool, out),
            },
            Received::Forward(p, hop) => match way % 3 {
                0 => router.outside(*now, UP, p, pool, out),
                _ => router.transmit(*now, hop, p, pool, out),
            },
            Received::Inbound(p) => match way % 3 {
                0 => router.inside(*now, trunkline_router::Zone(1), p, pool, out),
                _ => router.unsolicited(*now, at, p, trunkline_packet::DropReason::NatUnsolicited, pool, out),
            },
        }
        for (at, packet) in out.injected.drain(..) {
            came += 1;
            queue.push((at, packet, true));
        }
    }
    let out = &rig.out;
    let forwarded = out.sent.iter().filter(|s| !s.2).count();
    (came, forwarded + out.dropped.len() + out.consumed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_ends_once(
        steps in prop::collection::vec(
            (0usize..13, 0u16..3, prop::collection::vec((any::<u16>(), any::<u8>()), 0..4), any::<u8>(),
             prop::option::of((any::<u16>(), any::<u16>())), 0u64..3000),
            1..30,
        ),
    ) {
        let mut rig = Rig::new();
        let seeds = seeds();
        let (mut came, mut went) = (0, 0);
        for (seed, at, changes, way, partial, wait) in steps {
            let mut frame = seeds[seed].clone();
            // To the interface it comes in by.
            if frame[0] & 1 == 0 {
                frame[..6].copy_from_slice(&MACS[usize::from(at)].0);
            }
            for (place, value) in &changes {
                let place = usize::from(*place) % frame.len();
                frame[place] = *value;
            }
            if way & 0x40 != 0 && frame.len() > 34 && frame[12] == 8 && frame[13] == 0 && frame[14] == 0x45 {
                fix_v4(&mut frame);
            }
            if way & 0x80 != 0 {
                frame.truncate(usize::from(way) % frame.len().max(1));
            }
            let mut packet = rig.packet(&frame);
            if let Some((start, offset)) = partial {
                let csum = Checksum::Partial { start: start % 80, offset: offset % 20 };
                let offload = Offload { csum, ..Offload::NONE };
                if offload.check(frame.len()).is_ok() {
                    packet.meta_mut().offload = offload;
                }
            }
            let (c, w) = carry(&mut rig, IfaceId(at), packet, way);
            (came, went) = (came + c, went + w);
            for (_, sent, made) in &rig.take().sent {
                prop_assert!(sent.len() >= 14);
                prop_assert!(sent[6] & 1 == 0, "from one station");
                if *made && sent[12..14] != [8, 6] && partial.is_none() && changes.is_empty() {
                    assert_valid(sent);
                }
            }
            rig.now += wait;
            rig.tick();
            let out = rig.take();
            came += out.injected.len();
            went += out.sent.iter().filter(|s| !s.2).count() + out.dropped.len() + out.consumed + out.injected.len();
        }
        prop_assert_eq!(came, went + rig.router.held());
        // In the end nothing waits.
        rig.now += 60_000;
        for _ in 0..10 {
            rig.tick();
            rig.now += 2000;
        }
        prop_assert_eq!(rig.router.held(), 0);
    }
}
