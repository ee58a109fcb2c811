//! Anti-spoof: what passes a guard, as a host that receives it would read it, is nobody else's.

use trunkline_packet::{MacAddr, Pool, pop_tag};
use trunkline_switch::{Allowed, Guard};

use crate::input::Input;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const V4: [u8; 4] = [10, 7, 0, 1];
const V6: [u8; 16] = [0xfd, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
const LINK_LOCAL: [u8; 16] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xfe, 0, 0, 1];

/// The input is frames, each with its length before it.
pub fn target(data: &[u8]) {
    let own = ["10.7.0.1/32", "fd07::1/128"].map(|net| net.parse().ok());
    let nets = own.into_iter().flatten().collect();
    let guard = Guard::new(&Allowed { macs: vec![MacAddr(MAC)], nets: Some(nets), dhcp: true });
    let mut pool = Pool::new(2, 2);
    let mut input = Input(data);
    let mut now = 0;
    while !input.is_empty() {
        let len = usize::from(input.u16());
        let frame = input.bytes(len);
        let mut packet = pool.get();
        if packet.set_bytes(frame, &mut pool).is_err() || pop_tag(&mut packet).is_err() {
            continue;
        }
        now += 1;
        if guard.check(now, &packet).is_ok() && frame.len() >= 14 {
            assert_eq!(frame[6..12], MAC);
            receive(frame);
        }
        assert!(guard.leases(now).is_empty(), "nobody has given anything");
        pool.put(packet);
    }
}

/// Takes off any number of tags, as a kernel with VLAN interfaces does.
fn receive(frame: &[u8]) {
    let mut at = 12;
    while matches!(frame.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8])) {
        at += 4;
    }
    let Some(payload) = frame.get(at + 2..) else { return };
    match frame.get(at..at + 2) {
        Some([8, 0]) => ipv4(payload),
        Some([8, 6]) if payload.len() >= 28 => {
            assert_eq!(payload[8..14], MAC);
            assert!(payload[14..18] == V4 || payload[14..18] == [0; 4]);
        }
        Some([0x86, 0xdd]) => ipv6(payload),
        _ => {}
    }
}

fn ipv4(p: &[u8]) {
    let Some(&version) = p.first() else { return };
    let header = usize::from(version & 15) * 4;
    if p.len() < 20 || version >> 4 != 4 || header < 20 {
        return;
    }
    assert!(p[12..16] == V4 || p[12..16] == [0; 4]);
    let first = p[6] & 0x1f == 0 && p[7] == 0;
    if p[9] == 17 && first && p.get(header + 2..header + 4) == Some(&[0, 68]) {
        panic!("a DHCP server");
    }
}

fn ipv6(p: &[u8]) {
    if p.len() < 40 || p[0] >> 4 != 6 {
        return;
    }
    let src = &p[8..24];
    assert!(src == V6 || src == LINK_LOCAL || src == [0; 16]);
    let (mut next, mut at) = (p[6], 40);
    // RFC 8200 §4: as far as it is there.
    while let Some(header) = p.get(at..at + 8) {
        let len = match next {
            0 | 43 | 60 | 135 | 139 | 140 => 8 + 8 * usize::from(header[1]),
            51 => 8 + 4 * usize::from(header[1]),
            44 if header[2] == 0 && header[3] & 0xf8 == 0 => 8,
            _ => break,
        };
        next = header[0];
        at += len;
    }
    let end = (40 + usize::from(u16::from_be_bytes([p[4], p[5]]))).min(p.len());
    match (next, p.get(at..end)) {
        (58, Some([134 | 137 | 138, ..])) => panic!("a router"),
        (58, Some([136, rest @ ..])) if rest.len() >= 23 => {
            assert!(rest[7..23] == V6 || rest[7..23] == LINK_LOCAL, "an advertisement of another's address");
        }
        (17, Some([_, _, 2, 0x22, ..])) => panic!("a DHCPv6 server"),
        _ => {}
    }
}
