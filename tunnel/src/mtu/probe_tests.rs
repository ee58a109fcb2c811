use proptest::prelude::*;

use super::*;
use crate::bfd::{Config, ControlPacket};
use crate::{TunnelHeader, Vni};

/// What VXLAN over IPv4 adds.
const OVER: u16 = 50;
const BASE: u16 = 1280 + OVER;

/// What the far end does with polls.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Far {
    /// As the RFCs say.
    Answers,
    /// It takes padded packets for none.
    DropsPadded,
    /// It takes them, but leaves padded polls without an answer.
    AnswersOnlySmall,
}

/// Two hosts, the near one probing, and a path that drops what is too long, and some of the rest.
struct World {
    now: Instant,
    start: Instant,
    near: Session,
    far: Session,
    prober: Prober,
    path: u16,
    far_kind: Far,
    delay: Duration,
    /// Of a thousand.
    loss: u32,
    /// Its owner wants round trips measured each second, whether the prober is there or not.
    measure: Option<Instant>,
    rng: u64,
    to_far: Vec<(Instant, Vec<u8>)>,
    to_near: Vec<(Instant, Vec<u8>)>,
    /// Estimates and when they were made.
    log: Vec<(u64, Option<u16>)>,
    probes: u64,
}

impl World {
    fn new(link: u16, path: u16) -> World {
        let now = Instant::now();
        let to = Encap::new(TunnelHeader::vxlan(Vni::MAX), "192.0.2.2".parse().unwrap());
        World {
            now,
            start: now,
            near: Session::new(Config::new(1), now, 1),
            far: Session::new(Config::new(2), now, 2),
            prober: Prober::new(&to, link, now),
            path,
            far_kind: Far::Answers,
            delay: Duration::from_millis(5),
            loss: 0,
            measure: Some(now),
            rng: 7,
            to_far: Vec::new(),
            to_near: Vec::new(),
            log: Vec::new(),
            probes: 0,
        }
    }

    fn survives(&mut self) -> bool {
        self.rng = self.rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.rng >> 33) as u32 % 1000 >= self.loss
    }

    fn arrival(&mut self) -> Instant {
        let jitter = Duration::from_millis(self.rng >> 60);
        self.now + self.delay + jitter
    }

    fn seconds(&self) -> u64 {
        (self.now - self.start).as_secs()
    }

    fn step(&mut self) {
        let now = self.now;
        let due = |line: &mut Vec<(Instant, Vec<u8>)>| -> Vec<Vec<u8>> {
            let (due, later) = line.drain(..).partition(|(at, _)| *at <= now);
            *line = later;
            let due: Vec<(Instant, Vec<u8>)> = due;
            due.into_iter().map(|(_, bytes)| bytes).collect()
        };
        for bytes in due(&mut self.to_far) {
            let padded = bytes.len() > bfd::wire::LEN;
            let mut p = ControlPacket::parse(&bytes).unwrap();
            p.poll &= !(padded && self.far_kind == Far::AnswersOnlySmall);
            if !(padded && self.far_kind == Far::DropsPadded) {
                let bytes = [&p.to_bytes()[..], &bytes[bfd::wire::LEN..]].concat();
                self.far.on_packet(now, 255, &bytes).unwrap();
            }
        }
        for bytes in due(&mut self.to_near) {
            self.near.on_packet(now, 255, &bytes).unwrap();
        }
        self.near.expire(now);
        self.far.expire(now);
        while let Some(bytes) = self.far.poll(now) {
            if self.survives() {
                let at = self.arrival();
                self.to_near.push((at, bytes.to_vec()));
            }
        }
        if self.measure.is_some_and(|at| at <= now) {
            self.near.measure();
            self.measure = Some(now + Duration::from_secs(1));
        }
        while let Some(bytes) = self.near.poll(now) {
            if self.survives() {
                let at = self.arrival();
                self.to_far.push((at, bytes.to_vec()));
            }
        }
        while let Some(probe) = self.prober.poll(now, &mut self.near) {
            self.probes += 1;
            assert!(probe.size <= self.prober.link && probe.size >= self.prober.least);
            if self.survives() && probe.size <= self.path {
                let at = self.arrival();
                let mut bytes = probe.control.to_vec();
                bytes.resize(usize::from(probe.size), 0);
                self.to_far.push((at, bytes));
            }
        }
        let mtu = self.prober.mtu();
        if self.log.last().is_none_or(|&(_, last)| last != mtu) {
            self.log.push((self.seconds(), mtu));
        }
        // A caller sleeps until then.
        let wakes =
            [self.near.next_deadline(), self.prober.next_deadline(&self.near), self.far.next_deadline()];
        let flying = self.to_far.iter().chain(&self.to_near).map(|(at, _)| *at).min();
        let next = wakes.into_iter().flatten().chain(flying).chain(self.measure).min().unwrap();
        assert!(next > now || self.near.state() != State::Up || self.seconds() == 0, "no busy loop");
        self.now = next.max(now + Duration::from_micros(1));
    }

    fn run(&mut self, seconds: u64) -> Option<u16> {
        let end = self.now + Duration::from_secs(seconds);
        while self.now < end {
            self.step();
        }
        self.prober.mtu()
    }
}

#[test]
fn a_path_as_good_as_the_link_is_confirmed_at_once_and_costs_little() {
    let mut world = World::new(1500, 1500);
    assert_eq!(world.run(5), Some(1500));
    assert!(world.prober.is_confirmed());
    assert_eq!(world.log.iter().map(|l| l.1).collect::<Vec<_>>(), [None, Some(1500)]);
    let before = world.probes;
    world.run(100);
    assert!((48..=52).contains(&(world.probes - before)), "{}", world.probes - before);
    assert!(world.near.round_trip().unwrap() >= Duration::from_millis(10));
}

#[test]
fn a_path_that_shrinks_is_noticed_within_seconds_and_its_length_found() {
    for path in [1499, 1400, BASE, BASE - 1, 1280, 900, 300] {
        let mut world = World::new(1500, 1500);
        world.run(10);
        world.path = path;
        let at = world.seconds();
        world.run(60);
        let noticed = world.log.iter().find(|(_, mtu)| mtu.is_some_and(|mtu| mtu <= path)).unwrap();
        // Below the base, the base must be found wanting too.
        let limit = if path >= BASE { 6 } else { 9 };
        let interim = path >= IPV4_MIN;
        assert!(!interim || noticed.0 - at <= limit, "{path}: {:?}", world.log);
        assert_eq!(world.prober.mtu(), Some(path), "{:?}", world.log);
        assert_eq!(world.near.state(), State::Up);
        assert!(!interim || world.log.len() <= 5, "few changes: {:?}", world.log);
    }
}

#[test]
fn a_path_that_grows_is_found_again() {
    for (small, large) in [(1400, 1500), (1400, 1401), (1000, 1450), (1280, 1500)] {
        let mut world = World::new(1500, small);
        assert_eq!(world.run(60), Some(small));
        world.path = large;
        assert_eq!(world.run(45), Some(large), "{:?}", world.log);
        assert!(
            world.log.iter().rev().take(2).map(|l| l.1).eq([Some(large), Some(small)]),
            "{:?}",
            world.log
        );
    }
}

#[test]
fn a_far_end_that_answers_no_padded_polls_leaves_the_mtu_alone() {
    for kind in [Far::DropsPadded, Far::AnswersOnlySmall] {
        let mut world = World::new(1500, 1500);
        world.far_kind = kind;
        assert_eq!(world.run(200), None);
        // Round trips are measured all the same.
        world.delay *= 20;
        assert_eq!(world.run(100), None);
        assert!(world.near.round_trip().unwrap() > Duration::from_millis(150));
        world.delay /= 20;
        assert_eq!(world.near.state(), State::Up);
        assert!(world.probes <= 3 * 11, "asked again, but seldom: {}", world.probes);
        // It may learn to.
        world.far_kind = Far::Answers;
        assert_eq!(world.run(40), Some(1500));
    }
}

#[test]
fn a_far_end_that_stops_answering_is_no_black_hole() {
    let mut world = World::new(1500, 1400);
    assert_eq!(world.run(60), Some(1400));
    let before = world.log.clone();
    world.far_kind = Far::AnswersOnlySmall;
    assert_eq!(world.run(120), Some(1400));
    assert_eq!(world.log, before);
    world.far_kind = Far::Answers;
    assert_eq!(world.run(60), Some(1400));
}

#[test]
fn losses_by_chance_are_no_black_hole() {
    for (loss, seconds) in [(10, 3600), (100, 3600)] {
        let mut world = World::new(1500, 1500);
        world.loss = loss;
        world.run(60);
        let falls = |world: &World| world.log.iter().filter(|(_, m)| m.is_some_and(|m| m < 1500)).count();
        let before = falls(&world);
        world.run(seconds);
        assert_eq!(falls(&world), before, "{loss}: {:?}", world.log);
        let lost = world.near.loss().unwrap();
        assert!(lost.expected == 128 && (lost.ratio() - loss as f32 / 1000.0).abs() < 0.1, "{lost:?}");
    }
}

#[test]
fn slow_answers_are_waited_for_and_never_prove_too_much() {
    // Longer than the time between packets, and than the first timeout, so that every answer is late at first.
    for (delay, interval) in [(130, 300_000), (200, 300_000), (300, 300_000), (700, 1_000_000)] {
        let mut world = World::new(1500, 1400);
        world.delay = Duration::from_millis(delay);
        world.near.set_intervals(interval, interval);
        world.run(240);
        assert_eq!(world.prober.mtu(), Some(1400), "{delay}: {:?}", world.log);
        assert!(
            world.log.iter().all(|(_, mtu)| mtu.is_none_or(|mtu| mtu <= 1400)),
            "{delay}: {:?}",
            world.log
        );
        let rtt = world.near.round_trip().unwrap().as_millis() as u64;
        assert!((2 * delay..2 * delay + 40).contains(&rtt), "{delay}: {rtt}");
    }
}

#[test]
fn the_links_mtu_is_a_ceiling_and_a_larger_one_is_tried() {
    let mut world = World::new(1500, 9000);
    assert_eq!(world.run(5), Some(1500));
    world.prober.set_link(1400);
    assert_eq!(world.prober.mtu(), Some(1400));
    assert_eq!(world.run(5), Some(1400));
    world.prober.set_link(9000);
    assert_eq!(world.prober.mtu(), Some(1400), "not before it is known");
    assert_eq!(world.run(5), Some(9000));
    // Told while nothing is known yet.
    let mut world = World::new(1500, 9000);
    world.run(1);
    world.prober.set_link(u16::MAX);
    assert_eq!(world.run(60), Some(9000));
}

#[test]
fn what_cannot_be_sent_does_not_wait_for_an_answer() {
    let mut world = World::new(1500, 1500);
    world.run(10);
    let (now, near) = (world.now, &mut world.near);
    let at = world.prober.next_deadline(near).unwrap();
    assert_eq!(world.prober.poll(at, near).unwrap().size, 1500);
    world.prober.unsendable(now, near);
    assert_eq!(world.prober.poll(at, near).map(|p| p.size), Some(BASE));
}

#[test]
fn the_estimate_outlives_the_session_and_is_found_anew() {
    let mut world = World::new(1500, 1400);
    world.run(60);
    world.loss = 1000;
    assert_eq!(world.run(10), Some(1400));
    assert_eq!(world.near.state(), State::Down);
    assert_eq!(world.near.loss().map(|l| l.lost >= 3), Some(true));
    (world.loss, world.path) = (0, 1500);
    assert_eq!(world.run(10), Some(1500));
}

#[test]
fn the_frame_of_a_probe_makes_an_outer_packet_of_its_size() {
    use crate::bfd::frame::{Addresses, build_padded, parse};
    use crate::{OuterPath, encap_frame};
    use trunkline_packet::{Batch, MacAddr, Pool};
    let mut pool = Pool::new(8, 8);
    let remote = "192.0.2.2".parse().unwrap();
    for header in [TunnelHeader::vxlan(Vni::MAX), TunnelHeader::gre(None, true, true)] {
        let to = Encap::new(header, remote);
        for size in [200, 1499, 1500, 9000, 65000] {
            let addresses = Addresses::ovs(MacAddr([2, 0, 0, 0, 0, 1]));
            let control = [&[0x20, 0xe0, 3, 24][..], &[1; 20]].concat().try_into().unwrap();
            let p = build_padded(&control, &addresses, 1, inner_len(&to, size), &mut pool).unwrap();
            let (ttl, bytes) = parse(&p, addresses.dst_mac).unwrap();
            assert_eq!((ttl, ControlPacket::parse(bytes).map(|p| p.poll)), (255, Ok(true)));
            let path = OuterPath {
                src_mac: MacAddr([2; 6]),
                dst_mac: MacAddr([4; 6]),
                vlan: None,
                src: "192.0.2.1".parse().unwrap(),
            };
            let mut out = Batch::new();
            encap_frame(p, &to, &path, &Default::default(), &mut pool, &mut out).unwrap();
            assert_eq!(out[0].len() - 14, usize::from(size));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever the path does, an estimate is never larger than something that arrived, and once the path
    /// stays as it is, the estimate is right.
    #[test]
    fn any_history(
        changes in prop::collection::vec((250u16..2000, 0u64..30), 1..6),
        seed: u64, loss in 0u32..80, delay in 1u64..600, measure: bool, last in 250u16..2000,
    ) {
        let mut world = World::new(1500, 1500);
        (world.loss, world.rng, world.delay) = (loss, seed, Duration::from_millis(delay));
        world.measure = world.measure.filter(|_| measure);
        let mut largest = 1500;
        for (path, seconds) in changes {
            world.path = path;
            largest = largest.max(path.min(1500));
            world.run(seconds);
            prop_assert!(world.prober.mtu().is_none_or(|mtu| mtu <= largest));
        }
        world.path = last;
        world.loss = 0;
        prop_assert_eq!(world.run(300), Some(last.min(1500)), "{:?}", world.log);
    }
}
