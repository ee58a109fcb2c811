//! Several workers: every packet reaches the one that owns its connection, fragments too.

mod kit;

use std::collections::HashSet;

use kit::*;
use proptest::prelude::*;
use trunkline_nat::{Config, Filtering, Gateway, Path, Prefix, Rule, Toward};

struct Team {
    workers: Vec<World>,
    /// Packets that a worker handed to another.
    crossed: usize,
}

impl Team {
    fn new(count: u16, rules: &[Rule]) -> Team {
        let gateway =
            Gateway { zone: ZONE, addr: ip("10.77.0.1"), network: Prefix::new(ip("10.77.0.0"), 16).unwrap() };
        let workers = (0..count).map(|i| {
            let mut w = World::new(Config { shard: (i, count), ..Config::for_capacity(4096) }, rules);
            w.nat.set_gateways(&[gateway]);
            w
        });
        Team { workers: workers.collect(), crossed: 0 }
    }

    /// Gives a packet to its owner, and to whom that names, until it goes on. Nothing is dropped.
    fn send(&mut self, path: Path, frame: &[u8]) -> Vec<(Vec<u8>, Toward)> {
        let packet = self.workers[0].packet(frame);
        let owners: HashSet<_> = self.workers.iter().map(|w| w.nat.owner(path, &packet)).collect();
        assert_eq!(owners.len(), 1, "all name the same owner");
        let owner = owners.into_iter().next().flatten().expect("somebody owns it");
        let mut queue = std::collections::VecDeque::from([(owner, path, frame.to_vec())]);
        let mut out = Vec::new();
        while let Some((worker, path, frame)) = queue.pop_front() {
            let sunk = self.workers[usize::from(worker)].all(path, &frame);
            assert!(sunk.dropped.is_empty(), "{:?}", sunk.dropped);
            for (packet, toward) in sunk.sent {
                match toward {
                    Toward::Worker(to, path) => {
                        assert_ne!(to, worker);
                        self.crossed += 1;
                        queue.push_back((to, path, packet.to_vec()));
                    }
                    toward => out.push((packet.to_vec(), toward)),
                }
            }
        }
        out.iter().for_each(|(p, _)| verify(p));
        out
    }

    fn one(&mut self, path: Path, frame: &[u8]) -> Vec<u8> {
        let mut out = self.send(path, frame);
        assert_eq!(out.len(), 1);
        out.remove(0).0
    }
}

fn rules() -> [Rule; 2] {
    [
        masquerade(&["192.0.2.10"], (1024, 65535), Filtering::EndpointIndependent),
        publish(17, "192.0.2.10:8080", "10.77.0.2:53"),
    ]
}

#[test]
fn the_owner_of_a_reply_is_the_worker_that_sent_the_packet() {
    let mut team = Team::new(3, &rules());
    let mut seen = HashSet::new();
    for n in 1..200u32 {
        // One inside port for many hosts: all but the first need another external port of the same slice.
        let (a, r) = (format!("10.77.1.{n}:{}", 5000 + n % 3), "198.51.100.1:53");
        let ext = src(&team.one(OUT, &udp(&a, r, b"")));
        assert!(seen.insert(ext));
        assert_eq!(dst(&team.one(IN, &udp(r, &ext.to_string(), b""))), addr(&a));
        // Hairpin to a published port and back.
        let there = team.one(OUT, &udp(&a, "192.0.2.10:8080", b""));
        assert_eq!(ends(&there), (ext, addr("10.77.0.2:53")));
        let back = team.one(OUT, &udp("10.77.0.2:53", &ext.to_string(), b""));
        assert_eq!(ends(&back), (addr("192.0.2.10:8080"), addr(&a)));
        // The host itself, and the answer to the gateway.
        let own = format!("192.0.2.10:{}", 40_000 + n);
        let there = team.one(Path::Local(UP), &udp(&own, "192.0.2.10:8080", b""));
        let shown = format!("10.77.0.1:{}", 40_000 + n);
        assert_eq!(ends(&there), (addr(&shown), addr("10.77.0.2:53")));
        let back = team.one(Path::Answer(ZONE), &udp("10.77.0.2:53", &shown, b""));
        assert_eq!(ends(&back), (addr("192.0.2.10:8080"), addr(&own)));
    }
    assert!(team.crossed > 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Pieces of two packets, mixed in any order, each in its own direction of one connection.
    #[test]
    fn fragments_meet_their_connection_on_any_number_of_workers(
        count in 1u16..6,
        port in 1024u16..65_000,
        len in 100usize..4000,
        order in prop::collection::vec(any::<u32>(), 40),
        to in 0usize..3,
    ) {
        let mut team = Team::new(count, &rules());
        let to = ["198.51.100.1:53", "192.0.2.10:8080", "198.51.100.2:9"][to];
        let a = format!("10.77.0.9:{port}");
        let whole = udp(&a, to, &vec![0x5a; len]);
        let sorted = fragments(&whole, len.div_ceil(20).next_multiple_of(8));
        let mut pieces: Vec<_> = sorted.iter().zip(&order).collect();
        pieces.sort_by_key(|(_, order)| **order);
        let mut out = Vec::new();
        for (piece, _) in pieces {
            out.extend(team.send(OUT, piece).into_iter().map(|(p, _)| p));
        }
        prop_assert_eq!(out.len(), sorted.len());
        let got = reassemble(&out);
        verify(&got);
        let external = src(&got);
        prop_assert_eq!(external, addr(&format!("192.0.2.10:{port}")));
        // A whole packet has the same mapping as its fragments, and the answer comes back in pieces.
        prop_assert_eq!(src(&team.one(OUT, &udp(&a, to, b""))), external);
        if !to.starts_with("192") {
            let mut pieces = fragments(&udp(to, &external.to_string(), &vec![0xa5; len]), 1000);
            pieces.reverse();
            let out: Vec<_> = pieces.iter().flat_map(|p| team.send(IN, p)).map(|(p, _)| p).collect();
            prop_assert_eq!(dst(&reassemble(&out)), addr(&a));
        }
        prop_assert_eq!(team.workers.iter().map(|w| w.nat.stats().held).sum::<usize>(), 0);
    }
}
