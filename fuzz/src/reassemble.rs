//! Putting outer fragments together.

use std::time::{Duration, Instant};

use trunkline_packet::headers::{Fragment, Headers};
use trunkline_packet::{DropCounts, Pool};
use trunkline_tunnel::Reassembler;
use trunkline_tunnel::reassemble::Limits;

use crate::input::{Input, fix_ipv4_checksum};

const LIMITS: Limits = Limits {
    fragments: 12,
    bytes: 12 * 2048,
    source_fragments: 6,
    source_bytes: 6 * 2048,
    timeout: Duration::from_millis(100),
};

/// The input is a list of time passed, and a frame with its virtio header.
pub fn target(data: &[u8]) {
    let mut input = Input(data);
    let (mut table, mut pool, mut drops) = (Reassembler::new(LIMITS), Pool::new(32, 4), DropCounts::new());
    let mut now = Instant::now();
    let (mut given, mut taken) = (0, 0);
    while !input.is_empty() {
        now += Duration::from_millis(input.u8().into());
        let Some(mut packet) = input.frame(&mut pool) else { continue };
        fix_ipv4_checksum(&mut packet);
        given += 1;
        if let Some(whole) = table.push(now, packet, &mut pool, &mut drops) {
            taken += u64::from(whole.meta().frames);
            // `None` when the extension headers behind the fragment header are malformed.
            if let Some(ip) = Headers::parse(&whole) {
                assert_eq!((ip.fragment, ip.end as usize), (Fragment::None, whole.len()));
                assert!(trunkline_packet::checksum::ipv4_header_ok(whole.head(), &ip));
            }
            pool.put(whole);
        }
        let held = table.held();
        assert!(held <= LIMITS.fragments);
        assert_eq!(given, taken + drops.total() + held as u64, "every fragment ends in one place");
        assert!(table.next_deadline().is_none_or(|at| at > now));
    }
    table.expire(now + LIMITS.timeout, &mut pool, &mut drops);
    assert_eq!((table.held(), table.next_deadline()), (0, None));
    assert_eq!(given, taken + drops.total());
}
