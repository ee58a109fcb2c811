//! The header parser on arbitrary bytes.

use trunkline_packet::headers::{self, Headers};
use trunkline_packet::{Pool, checksum};

/// The input is a frame.
pub fn target(data: &[u8]) {
    let mut pool = Pool::new(1, 1);
    let mut packet = pool.get();
    if packet.set_bytes(data, &mut pool).is_err() {
        return;
    }
    let head = packet.head();
    let Some(ip) = Headers::parse(&packet) else { return };
    let (link, _) = headers::link(head).expect("an IP header is behind a link header");
    assert_eq!(link, usize::from(ip.l3));
    assert!(ip.l3 < ip.l4 && usize::from(ip.l4) <= head.len());
    assert_eq!(Headers::ip(head, link), Some(ip));
    if let Some(len) = ip.transport_len(head) {
        assert!(ip.has_transport() && usize::from(ip.l4) + len <= head.len());
        assert!(ip.flow(head).is_some());
    }
    let _ = checksum::ipv4_header_ok(head, &ip);
    if checksum::transport_ok(&packet, &ip) {
        assert!(ip.is_whole(packet.len()));
    }
}
