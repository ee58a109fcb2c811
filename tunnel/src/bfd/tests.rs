use std::time::{Duration, Instant};

use proptest::prelude::*;
use trunkline_packet::{MacAddr, Pool};

use super::*;

const US: Duration = Duration::from_micros(1);

fn config(discriminator: u32) -> Config {
    Config { min_tx: 100_000, min_rx: 100_000, ..Config::new(discriminator) }
}

/// A packet the peer (discriminator 2) might send to session 1.
fn from_peer(state: State) -> ControlPacket {
    ControlPacket {
        diag: Diag::NONE,
        state,
        poll: false,
        fin: false,
        control_plane_independent: false,
        demand: false,
        detect_mult: 3,
        my_discr: 2,
        your_discr: 1,
        desired_min_tx: 100_000,
        required_min_rx: 50_000,
        required_min_echo_rx: 0,
    }
}

fn session() -> (Session, Instant) {
    let now = Instant::now();
    (Session::new(config(1), now, 7), now)
}

fn up() -> (Session, Instant) {
    let (mut s, now) = session();
    s.on_packet(now, 255, &from_peer(State::Down).to_bytes()).unwrap();
    s.on_packet(now, 255, &ControlPacket { fin: true, ..from_peer(State::Up) }.to_bytes()).unwrap();
    assert_eq!(s.state(), State::Up);
    s.poll(now).unwrap();
    s.on_packet(now, 255, &ControlPacket { fin: true, ..from_peer(State::Up) }.to_bytes()).unwrap();
    (s, now)
}

fn sent(bytes: Option<[u8; wire::LEN]>) -> ControlPacket {
    ControlPacket::parse(&bytes.expect("a packet is due")).unwrap()
}

fn discarded(change: impl FnOnce(&mut [u8; wire::LEN])) -> Option<Discard> {
    let (mut s, now) = session();
    let mut bytes = from_peer(State::Down).to_bytes();
    change(&mut bytes);
    let result = s.on_packet(now, 255, &bytes).err();
    assert!(result.is_none() || s.state() == State::Down && s.remote_discr_is_unknown());
    result
}

impl Session {
    fn remote_discr_is_unknown(&mut self) -> bool {
        let at = self.next_deadline().unwrap();
        sent(self.poll(at)).your_discr == 0
    }
}

#[test]
fn rfc5880_4_1_layout() {
    let p = ControlPacket { poll: true, diag: Diag(3), ..from_peer(State::Up) };
    let bytes = p.to_bytes();
    assert_eq!(bytes[..4], [0x23, 0xe0, 3, 24]);
    assert_eq!(bytes[4..12], [0, 0, 0, 2, 0, 0, 0, 1]);
    assert_eq!(ControlPacket::parse(&bytes), Ok(p));
}

#[test]
fn rfc5880_6_8_6_version_must_be_1() {
    assert_eq!(discarded(|b| b[0] = 0x40), Some(Discard::Version));
    assert_eq!(discarded(|b| b[0] = 0), Some(Discard::Version));
}

#[test]
fn rfc5880_6_8_6_length_must_be_at_least_24_or_26_with_authentication() {
    assert_eq!(discarded(|b| b[3] = 23), Some(Discard::Length));
    assert_eq!(discarded(|b| b[1] |= 4), Some(Discard::Length));
}

#[test]
fn rfc5880_6_8_6_length_must_not_exceed_the_payload() {
    assert_eq!(discarded(|b| b[3] = 25), Some(Discard::Length));
    for len in 0..wire::LEN {
        let bytes = from_peer(State::Down).to_bytes();
        assert_eq!(ControlPacket::parse(&bytes[..len]), Err(Discard::Length));
    }
}

#[test]
fn rfc5880_6_8_6_detect_mult_must_not_be_zero() {
    assert_eq!(discarded(|b| b[2] = 0), Some(Discard::DetectMult));
}

#[test]
fn rfc5880_6_8_6_multipoint_must_be_zero() {
    assert_eq!(discarded(|b| b[1] |= 1), Some(Discard::Multipoint));
}

#[test]
fn rfc5880_6_8_6_my_discriminator_must_not_be_zero() {
    assert_eq!(discarded(|b| b[4..8].fill(0)), Some(Discard::MyDiscriminator));
}

#[test]
fn rfc5880_6_8_6_your_discriminator_must_be_of_a_session() {
    assert_eq!(discarded(|b| b[11] = 9), Some(Discard::YourDiscriminator));
}

#[test]
fn rfc5880_6_8_6_your_discriminator_zero_only_while_down() {
    assert_eq!(discarded(|b| b[8..12].fill(0)), None);
    for (state, wanted) in
        [(State::Init, Some(Discard::State)), (State::Up, Some(Discard::State)), (State::AdminDown, None)]
    {
        assert_eq!(
            discarded(|b| *b = ControlPacket { your_discr: 0, ..from_peer(state) }.to_bytes()),
            wanted
        );
    }
}

#[test]
fn rfc5880_6_8_6_authentication_not_in_use_discards_the_a_bit() {
    let (mut s, now) = session();
    let mut bytes = from_peer(State::Down).to_bytes().to_vec();
    bytes[1] |= 4;
    bytes[3] = 28;
    bytes.extend([1, 4, 0, 0]);
    assert_eq!(s.on_packet(now, 255, &bytes), Err(Discard::Authentication));
}

#[test]
fn rfc5881_5_ttl_must_be_255() {
    let (mut s, now) = session();
    assert_eq!(s.on_packet(now, 254, &from_peer(State::Down).to_bytes()), Err(Discard::Ttl));
}

#[test]
fn rfc5880_6_8_6_admin_down_discards_everything() {
    let (mut s, now) = session();
    s.set_admin_down(now, true);
    assert_eq!(s.on_packet(now, 255, &from_peer(State::Down).to_bytes()), Err(Discard::AdminDown));
    assert_eq!((sent(s.poll(now)).state, s.diag()), (State::AdminDown, Diag::ADMIN_DOWN));
    s.set_admin_down(now, false);
    assert_eq!(s.state(), State::Down);
}

#[test]
fn rfc5880_6_2_state_machine() {
    use State::{AdminDown, Down, Init, Up};
    // Rows: our state; columns: what the peer says (AdminDown, Down, Init, Up).
    let table = [(Down, [Down, Init, Up, Down]), (Init, [Down, Init, Up, Up]), (Up, [Down, Down, Up, Up])];
    for (state, row) in table {
        for (said, next) in [AdminDown, Down, Init, Up].into_iter().zip(row) {
            let (mut s, now) = match state {
                Up => up(),
                _ => session(),
            };
            if state == Init {
                s.on_packet(now, 255, &from_peer(Down).to_bytes()).unwrap();
            }
            let event = s.on_packet(now, 255, &from_peer(said).to_bytes()).unwrap();
            assert_eq!(s.state(), next, "{said:?} in {state:?}");
            assert_eq!(event.map(|e| (e.from, e.to)), (state != next).then_some((state, next)));
            if next == Down && state != Down {
                assert_eq!(s.diag(), Diag::NEIGHBOR_DOWN);
            }
        }
    }
}

#[test]
fn rfc5880_6_8_3_while_not_up_at_most_one_packet_a_second() {
    let (mut s, now) = session();
    let first = s.next_deadline().unwrap();
    assert!(first <= now + Duration::from_secs(1));
    assert_eq!(sent(s.poll(first)).desired_min_tx, 1_000_000);
    let gap = s.next_deadline().unwrap() - first;
    assert!((Duration::from_millis(750)..=Duration::from_secs(1)).contains(&gap), "{gap:?}");
}

#[test]
fn rfc5880_6_8_3_coming_up_starts_a_poll_sequence() {
    let (mut s, now) = session();
    s.on_packet(now, 255, &from_peer(State::Init).to_bytes()).unwrap();
    let p = sent(s.poll(now));
    assert!(p.poll && !p.fin);
    assert_eq!((p.state, p.your_discr, p.desired_min_tx), (State::Up, 2, 100_000));
    // Repeated until answered.
    let again = s.next_deadline().unwrap();
    assert!(sent(s.poll(again)).poll);
    s.on_packet(again, 255, &ControlPacket { fin: true, ..from_peer(State::Up) }.to_bytes()).unwrap();
    let next = s.next_deadline().unwrap();
    assert!(!sent(s.poll(next)).poll);
}

#[test]
fn rfc5880_6_8_7_jitter_shortens_by_up_to_a_quarter() {
    for (mult, least, most) in [(3, 75, 100), (1, 75, 90)] {
        let now = Instant::now();
        let mut s = Session::new(Config { detect_mult: mult, ..config(1) }, now, 3);
        let mut at = s.next_deadline().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..500 {
            s.poll(at).unwrap();
            let next = s.next_deadline().unwrap();
            seen.insert((next - at).as_millis() / 10);
            at = next;
        }
        assert_eq!((seen.first(), seen.last()), (Some(&least), Some(&most)));
    }
}

#[test]
fn rfc5880_6_8_7_remote_min_rx_zero_stops_periodic_packets() {
    let (mut s, now) = up();
    let mute = ControlPacket { required_min_rx: 0, ..from_peer(State::Up) };
    s.on_packet(now, 255, &mute.to_bytes()).unwrap();
    assert_eq!(s.poll(now + Duration::from_secs(9)), None);
    s.on_packet(now, 255, &ControlPacket { poll: true, ..mute }.to_bytes()).unwrap();
    assert!(sent(s.poll(now)).fin, "an answer is still given");
}

#[test]
fn rfc5880_6_8_7_the_slower_of_both_sets_the_pace() {
    let (mut s, now) = up();
    let slow = ControlPacket { required_min_rx: 400_000, ..from_peer(State::Up) };
    s.on_packet(now, 255, &slow.to_bytes()).unwrap();
    let at = s.next_deadline().unwrap();
    s.on_packet(at, 255, &slow.to_bytes()).unwrap();
    s.poll(at).unwrap();
    assert_eq!(s.poll(at + Duration::from_millis(299)), None);
    assert!(s.poll(at + Duration::from_millis(400)).is_some());
}

#[test]
fn rfc5880_6_8_7_passive_sessions_wait_to_be_spoken_to() {
    let now = Instant::now();
    let mut s = Session::new(Config { passive: true, ..config(1) }, now, 1);
    assert_eq!((s.next_deadline(), s.poll(now + Duration::from_secs(9))), (None, None));
    s.on_packet(now, 255, &from_peer(State::Down).to_bytes()).unwrap();
    assert!(s.poll(now).is_some());
}

#[test]
fn rfc5880_6_8_7_remote_demand_mode_stops_periodic_packets() {
    let (mut s, now) = up();
    s.on_packet(now, 255, &ControlPacket { demand: true, ..from_peer(State::Up) }.to_bytes()).unwrap();
    assert_eq!(s.poll(now + Duration::from_millis(200)), None);
    s.measure();
    assert!(s.poll(now + Duration::from_millis(200)).is_some(), "but not a Poll Sequence");
}

#[test]
fn rfc5880_6_5_a_poll_is_answered_at_once_and_never_with_poll_and_final() {
    let (mut s, now) = session();
    s.on_packet(now, 255, &ControlPacket { poll: true, ..from_peer(State::Init) }.to_bytes()).unwrap();
    let answer = sent(s.poll(now));
    assert!(answer.fin && !answer.poll);
    let periodic = sent(s.poll(now));
    assert!(periodic.poll && !periodic.fin);
    assert_eq!(s.poll(now), None);
}

#[test]
fn rfc5880_6_8_4_detection_time_is_the_peers_multiplier_times_the_slower_interval() {
    for (peer_tx, mult, micros) in [(100_000, 3, 300_000), (50_000, 3, 300_000), (200_000, 5, 1_000_000)] {
        let (mut s, now) = up();
        let p = ControlPacket { desired_min_tx: peer_tx, detect_mult: mult, ..from_peer(State::Up) };
        s.on_packet(now, 255, &p.to_bytes()).unwrap();
        assert_eq!(s.expire(now + US * (micros - 1)), None);
        let event = s.expire(now + US * micros).unwrap();
        assert_eq!(event, Event { from: State::Up, to: State::Down, diag: Diag::EXPIRED });
        let p = sent(s.poll(now + US * micros));
        assert_eq!((p.state, p.your_discr, p.diag), (State::Down, 0, Diag::EXPIRED));
    }
}

#[test]
fn rfc5880_6_8_1_silence_forgets_the_remote_discriminator_while_down_too() {
    let (mut s, now) = session();
    s.on_packet(now, 255, &from_peer(State::Up).to_bytes()).unwrap();
    assert_eq!((s.state(), s.expire(now + Duration::from_secs(1))), (State::Down, None));
    assert!(s.remote_discr_is_unknown());
}

#[test]
fn rfc5880_6_8_3_a_longer_sending_interval_waits_for_the_poll_sequence() {
    let (mut s, now) = up();
    s.set_intervals(800_000, 100_000);
    let at = s.next_deadline().unwrap().min(now + Duration::from_millis(100));
    let p = sent(s.poll(at));
    assert!(p.poll);
    assert_eq!(p.desired_min_tx, 800_000);
    assert!(s.tx_within(at, 100));
    s.on_packet(at, 255, &ControlPacket { fin: true, ..from_peer(State::Up) }.to_bytes()).unwrap();
    let at = s.next_deadline().unwrap();
    s.poll(at).unwrap();
    assert!(!s.tx_within(at, 599));
    assert!(s.tx_within(at, 800));
}

#[test]
fn rfc5880_6_8_3_a_shorter_receiving_interval_waits_for_the_poll_sequence() {
    let (mut s, now) = up();
    let quick = ControlPacket { desired_min_tx: 10_000, ..from_peer(State::Up) };
    s.on_packet(now, 255, &quick.to_bytes()).unwrap();
    s.set_intervals(100_000, 10_000);
    assert_eq!(s.expire(now + Duration::from_millis(299)), None, "the old detection time holds");
    s.on_packet(now, 255, &ControlPacket { fin: true, ..quick }.to_bytes()).unwrap();
    assert_eq!(s.expire(now + Duration::from_millis(30)), None, "an answer to nothing ends no Poll Sequence");
    let at = s.next_deadline().unwrap();
    assert!(sent(s.poll(at)).poll);
    s.on_packet(now, 255, &ControlPacket { fin: true, ..quick }.to_bytes()).unwrap();
    assert!(s.expire(now + Duration::from_millis(30)).is_some());
}

/// Intervals want a Poll Sequence, the multiplier does not: it counts from the next packet on.
#[test]
fn rfc5880_6_8_4_a_multiplier_is_told_by_the_next_packet() {
    let (mut s, _) = up();
    s.set_multiplier(7);
    assert_eq!(s.state(), State::Up);
    let at = s.next_deadline().unwrap();
    let p = sent(s.poll(at));
    assert_eq!((p.detect_mult, p.poll, p.desired_min_tx), (7, false, 100_000));
    s.set_multiplier(0);
    let at = s.next_deadline().unwrap();
    assert_eq!(sent(s.poll(at)).detect_mult, 1, "0 is no multiplier (section 4.1)");
}

impl Session {
    fn tx_within(&mut self, from: Instant, millis: u64) -> bool {
        self.poll(from + Duration::from_millis(millis)).is_some()
    }
}

#[test]
fn the_round_trip_of_an_unrepeated_poll_is_measured() {
    let (mut s, now) = up();
    s.measure();
    let at = now + Duration::from_millis(100);
    assert!(sent(s.poll(at)).poll);
    let answer = ControlPacket { fin: true, ..from_peer(State::Up) }.to_bytes();
    s.on_packet(at + US * 1234, 255, &answer).unwrap();
    // The answer on the way up came at once.
    assert_eq!(s.round_trip(), Some(US * 1234 / 8));
}

#[test]
fn frames_carry_packets_and_damage_is_refused() {
    let mut pool = Pool::new(4, 1);
    let to = frame::Addresses::ovs(MacAddr([2, 0, 0, 0, 0, 1]));
    let control = from_peer(State::Up).to_bytes();
    let p = frame::build(&control, &to, 77, &mut pool).unwrap();
    assert_eq!(frame::parse(&p, to.dst_mac), Some((255, &control[..])));
    assert_eq!(frame::parse(&p, to.src_mac), None);
    let bytes = p.to_vec();
    for at in (0..6).chain(12..bytes.len()) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        let mut p = pool.get();
        p.set_bytes(&damaged, &mut pool).unwrap();
        let parsed = frame::parse(&p, to.dst_mac);
        assert_eq!(parsed, None, "byte {at}");
        pool.put(p);
    }
    for len in 0..bytes.len() {
        let mut p = pool.get();
        p.set_bytes(&bytes[..len], &mut pool).unwrap();
        assert_eq!(frame::parse(&p, to.dst_mac), None);
        pool.put(p);
    }
}

proptest! {
    #[test]
    fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        let (mut s, now) = session();
        let _ = s.on_packet(now, 255, &bytes);
    }

    /// Two sessions over a link that loses and delays come up, stay up while it is good enough, and both
    /// notice when it is cut.
    #[test]
    fn two_sessions(seed: u64, delay in 1u64..40, lossy: bool) {
        let start = Instant::now();
        let mut ends = [Session::new(config(1), start, seed), Session::new(config(2), start, !seed)];
        let mut flying: Vec<(Instant, usize, [u8; wire::LEN])> = Vec::new();
        let mut counter = 0u32;
        for ms in 0..8000 {
            let now = start + Duration::from_millis(ms);
            let cut = ms >= 6000;
            for (at, end) in ends.iter_mut().enumerate() {
                end.expire(now);
                while let Some(p) = end.poll(now) {
                    counter += 1;
                    let lost = cut || lossy && counter.is_multiple_of(5);
                    if !lost {
                        flying.push((now + Duration::from_millis(delay), 1 - at, p));
                    }
                }
            }
            let (due, later) = flying.into_iter().partition(|f| f.0 <= now);
            flying = later;
            let due: Vec<(Instant, usize, [u8; wire::LEN])> = due;
            for (_, to, p) in due {
                prop_assert!(ends[to].on_packet(now, 255, &p).is_ok());
            }
            if ms == 5999 && !lossy {
                prop_assert!(ends.iter().all(|s| s.state() == State::Up));
            }
            if ms >= 6400 {
                prop_assert!(ends.iter().all(|s| s.state() != State::Up));
            }
        }
    }
}
