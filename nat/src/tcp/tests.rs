//! The tracker by clause. `I` is the initiator inside, `O` the peer outside.

use super::*;
use Side::{Inside as I, Outside as O};

fn seg(flags: u8, seq: u32, ack: u32) -> Segment {
    Segment { seq, ack, flags, window: 1000, len: 0, scale: None }
}

fn data(seq: u32, ack: u32, len: u32) -> Segment {
    Segment { len, ..seg(ACK, seq, ack) }
}

/// Sequence numbers that wrap on the way.
const A: u32 = u32::MAX - 100;
const B: u32 = 7_000;

fn open() -> Tcp {
    let mut t = Tcp::new(false);
    t.take(I, &seg(SYN, A, 0)).unwrap();
    assert_eq!(t.phase(), Phase::Opening);
    t.take(O, &seg(SYN | ACK, B, A.wrapping_add(1))).unwrap();
    assert_eq!(t.phase(), Phase::Opening);
    t.take(I, &seg(ACK, A.wrapping_add(1), B + 1)).unwrap();
    assert_eq!(t.phase(), Phase::Established);
    t
}

const A1: u32 = A.wrapping_add(1);
const B1: u32 = B + 1;

#[test]
fn it_is_36_bytes() {
    assert_eq!(size_of::<Tcp>(), 36);
}

#[test]
fn rfc9293_3_5_three_way_handshake_and_close() {
    let mut t = open();
    t.take(I, &data(A1, B1, 500)).unwrap();
    t.take(O, &seg(ACK, B1, A1.wrapping_add(500))).unwrap();
    t.take(I, &seg(FIN | ACK, A1.wrapping_add(500), B1)).unwrap();
    assert_eq!(t.phase(), Phase::Closing);
    t.take(O, &seg(ACK, B1, A1.wrapping_add(501))).unwrap();
    // Half-closed: the other side goes on.
    t.take(O, &data(B1, A1.wrapping_add(501), 700)).unwrap();
    t.take(O, &seg(FIN | ACK, B1 + 700, A1.wrapping_add(501))).unwrap();
    assert_eq!(t.phase(), Phase::Closing);
    t.take(I, &seg(ACK, A1.wrapping_add(501), B1 + 701)).unwrap();
    assert_eq!(t.phase(), Phase::TimeWait);
}

#[test]
fn rfc9293_3_5_simultaneous_open_rfc5382_req2() {
    let mut t = Tcp::new(false);
    t.take(I, &seg(SYN, A, 0)).unwrap();
    t.take(O, &seg(SYN, B, 0)).unwrap();
    assert_eq!(t.phase(), Phase::Opening);
    t.take(I, &seg(SYN | ACK, A, B1)).unwrap();
    t.take(O, &seg(SYN | ACK, B, A1)).unwrap();
    assert_eq!(t.phase(), Phase::Established);
    t.take(I, &data(A1, B1, 10)).unwrap();
}

#[test]
fn rfc9293_3_6_simultaneous_close() {
    let mut t = open();
    t.take(I, &seg(FIN | ACK, A1, B1)).unwrap();
    t.take(O, &seg(FIN | ACK, B1, A1)).unwrap();
    t.take(I, &seg(ACK, A1.wrapping_add(1), B1 + 1)).unwrap();
    t.take(O, &seg(ACK, B1 + 1, A1.wrapping_add(1))).unwrap();
    assert_eq!(t.phase(), Phase::TimeWait);
}

#[test]
fn van_rooij_bounds_one_by_one() {
    // The window of 1000 that O offered: the number of a segment may touch its end, not pass it.
    assert!(open().take(I, &data(A1.wrapping_add(1000), B1, 1)).is_ok());
    assert_eq!(open().take(I, &data(A1.wrapping_add(1001), B1, 1)), Err(DropReason::NatTcpWindow));
    // Not older than a window.
    let mut t = open();
    for i in 0..5u32 {
        t.take(I, &data(A1.wrapping_add(1000 * i), B1, 1000)).unwrap();
        t.take(O, &seg(ACK, B1, A1.wrapping_add(1000 * (i + 1)))).unwrap();
    }
    assert!(t.take(I, &data(A1.wrapping_add(3990), B1, 10)).is_ok());
    assert_eq!(t.take(I, &data(A1.wrapping_add(3900), B1, 10)), Err(DropReason::NatTcpWindow));
    // Nothing is acknowledged that was not sent, and nothing long ago.
    assert_eq!(t.take(I, &seg(ACK, A1.wrapping_add(5000), B1 + 1)), Err(DropReason::NatTcpWindow));
    assert!(t.take(O, &seg(ACK, B1, A1)).is_ok());
    assert_eq!(t.take(O, &seg(ACK, B1, A1.wrapping_sub(70_000))), Err(DropReason::NatTcpWindow));
}

#[test]
fn liberal_passes_what_is_outside_the_window() {
    let mut t = Tcp::new(true);
    t.take(I, &seg(SYN, A, 0)).unwrap();
    t.take(O, &seg(SYN | ACK, B, A1)).unwrap();
    t.take(I, &seg(ACK, A1, B1)).unwrap();
    t.take(I, &data(A1.wrapping_add(1 << 20), B1, 1)).unwrap();
    t.take(O, &seg(RST, B.wrapping_sub(1 << 20), 0)).unwrap();
    assert_eq!(t.phase(), Phase::Established, "but it closes for no wrong reset");
}

#[test]
fn rfc7323_scale_holds_only_when_both_offer_it() {
    for (other, limit) in [(Some(2), 32_000u32), (None, 1000)] {
        let mut t = Tcp::new(false);
        t.take(I, &Segment { scale: Some(5), ..seg(SYN, 0, 0) }).unwrap();
        t.take(O, &Segment { scale: other, ..seg(SYN | ACK, B, 1) }).unwrap();
        t.take(I, &seg(ACK, 1, B1)).unwrap();
        let ok = t.take(O, &data(B1 + limit, 1, 1));
        // Windows are kept without the scale, rounded up.
        let bad = t.take(O, &data(B1 + limit + 32, 1, 1));
        assert_eq!((ok, bad), (Ok(()), Err(DropReason::NatTcpWindow)), "{other:?}");
    }
    assert_eq!(scale_option(&[1, 1, 3, 3, 200]), Some(14), "RFC 7323 §2.3");
    assert_eq!(scale_option(&[2, 4, 5, 180, 3, 3, 7, 0]), Some(7));
    for bad in [&[][..], &[0, 3, 3, 7], &[2, 0, 3, 3, 7], &[2, 90], &[3, 3], &[2]] {
        assert_eq!(scale_option(bad), None);
    }
}

#[test]
fn rfc5961_3_2_only_the_exact_reset_closes() {
    let mut t = open();
    t.take(O, &data(B1, A1, 500)).unwrap();
    t.take(I, &seg(ACK, A1, B1 + 500)).unwrap();
    assert!(t.take(O, &seg(RST, B1 + 501, 0)).is_ok(), "in the window: the receiver challenges it");
    assert_eq!(t.phase(), Phase::Established);
    assert_eq!(t.take(O, &seg(RST, B1 + 499, 0)), Err(DropReason::NatTcpReset));
    assert_eq!(t.take(O, &seg(RST, B1 + 100_000, 0)), Err(DropReason::NatTcpReset));
    t.take(O, &seg(RST, B1 + 500, 0)).unwrap();
    assert_eq!(t.phase(), Phase::Reset);
}

#[test]
fn rfc9293_3_10_7_3_a_reset_in_syn_sent_must_acknowledge_the_syn() {
    let mut t = Tcp::new(false);
    t.take(I, &seg(SYN, A, 0)).unwrap();
    assert_eq!(t.take(O, &seg(RST, 0, 0)), Err(DropReason::NatTcpReset));
    assert_eq!(t.take(O, &seg(RST | ACK, 0, A)), Err(DropReason::NatTcpReset));
    t.take(O, &seg(RST | ACK, 0, A1)).unwrap();
    assert_eq!(t.phase(), Phase::Reset);
}

#[test]
fn rfc5961_4_2_a_syn_in_an_open_connection_changes_nothing() {
    let mut t = open();
    t.take(I, &seg(SYN, 55_555, 0)).unwrap();
    t.take(O, &seg(SYN, 66_666, 0)).unwrap();
    assert_eq!(t.phase(), Phase::Established);
    // The challenge is answered by a reset with exactly its acknowledgement.
    t.take(O, &seg(ACK, B1, A1)).unwrap();
    t.take(I, &data(A1, B1, 10)).unwrap();
}

#[test]
fn a_peer_that_forgot_the_connection_is_believed() {
    // It answers the late SYN as a new one.
    let mut t = open();
    t.take(I, &seg(SYN, 55_555, 0)).unwrap();
    t.take(O, &seg(SYN | ACK, 90_000, 55_556)).unwrap();
    assert_eq!(t.phase(), Phase::Opening);
    t.take(I, &seg(ACK, 55_556, 90_001)).unwrap();
    assert_eq!(t.phase(), Phase::Established);
    t.take(O, &data(90_001, 55_556, 100)).unwrap();
    // Or refuses it.
    let mut t = open();
    t.take(I, &seg(SYN, 55_555, 0)).unwrap();
    assert_eq!(t.take(O, &seg(RST | ACK, 0, 44_444)), Err(DropReason::NatTcpReset));
    t.take(O, &seg(RST | ACK, 0, 55_556)).unwrap();
    assert_eq!(t.phase(), Phase::Reset);
}

#[test]
fn a_half_open_connection_is_resolved_by_the_challenge() {
    // O holds an old connection; I begins a new one.
    let mut t = Tcp::new(false);
    t.take(I, &seg(SYN, A, 0)).unwrap();
    t.take(O, &seg(ACK, 123_456, 999)).unwrap();
    assert_eq!(t.phase(), Phase::Opening);
}

#[test]
fn rfc5382_req2_a_syn_reopens_time_wait_and_reset() {
    let mut closed = open();
    closed.take(I, &seg(FIN | ACK, A1, B1)).unwrap();
    closed.take(O, &seg(FIN | ACK, B1, A1.wrapping_add(1))).unwrap();
    closed.take(I, &seg(ACK, A1.wrapping_add(1), B1 + 1)).unwrap();
    assert_eq!(closed.phase(), Phase::TimeWait);
    let mut reset = open();
    reset.take(I, &seg(RST, A1, 0)).unwrap();
    assert_eq!(reset.phase(), Phase::Reset);
    for mut t in [closed, reset] {
        t.take(I, &seg(SYN, 1_000_000, 0)).unwrap();
        assert_eq!(t.phase(), Phase::Opening);
        t.take(O, &seg(SYN | ACK, 5, 1_000_001)).unwrap();
        t.take(I, &seg(ACK, 1_000_001, 6)).unwrap();
        assert_eq!(t.phase(), Phase::Established);
    }
}

#[test]
fn retransmissions_and_a_new_try_in_syn_sent() {
    let mut t = Tcp::new(false);
    t.take(I, &seg(SYN, 5, 0)).unwrap();
    t.take(I, &seg(SYN, 5, 0)).unwrap();
    t.take(I, &seg(SYN, 900_000, 0)).unwrap();
    assert_eq!(t.take(O, &seg(SYN | ACK, B, 6)), Err(DropReason::NatTcpWindow));
    t.take(O, &seg(SYN | ACK, B, 900_001)).unwrap();
    t.take(I, &seg(SYN, 900_000, 0)).unwrap();
    t.take(O, &seg(SYN | ACK, B, 900_001)).unwrap();
    t.take(I, &seg(ACK, 900_001, B1)).unwrap();
    assert_eq!(t.phase(), Phase::Established);
}

#[test]
fn pickup_opens_once_both_sides_were_seen() {
    assert!(Tcp::may_open(&seg(ACK, 1, 1), true) && !Tcp::may_open(&seg(ACK, 1, 1), false));
    for bad in [RST, RST | ACK, FIN | ACK, SYN | ACK] {
        assert!(!Tcp::may_open(&seg(bad, 1, 1), true));
    }
    let mut t = Tcp::new(false);
    t.take(I, &data(A, B, 100)).unwrap();
    assert_eq!(t.phase(), Phase::Opening);
    t.take(O, &data(B, A.wrapping_add(100), 50)).unwrap();
    assert_eq!(t.phase(), Phase::Established);
    t.take(I, &seg(FIN | ACK, A.wrapping_add(100), B + 50)).unwrap();
    t.take(O, &seg(FIN | ACK, B + 50, A.wrapping_add(101))).unwrap();
    t.take(I, &seg(ACK, A.wrapping_add(101), B + 51)).unwrap();
    assert_eq!(t.phase(), Phase::TimeWait);
}

#[test]
fn combinations_of_flags() {
    let good = [SYN, SYN | ACK, RST, RST | ACK, FIN | ACK, ACK, ACK | 8, SYN | 0xc0, ACK | URG];
    assert!(good.iter().all(|&f| seg(f, 0, 0).flags_ok()));
    let bad = [0, FIN, SYN | FIN, SYN | RST, FIN | RST, 0x3f, URG, 8];
    assert!(bad.iter().all(|&f| !seg(f, 0, 0).flags_ok()));
}
