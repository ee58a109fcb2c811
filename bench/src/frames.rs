//! Frames to replay.

use std::net::Ipv4Addr;

use trunkline_packet::MacAddr;
use trunkline_packet::checksum::Sum;

/// The address behind which everything goes: that of the port the frames leave by.
pub const SINK: MacAddr = MacAddr([0x02, 0, 0x20, 0, 0, 0]);

/// Source ports of one source address; the flows after these come from the next address.
const FLOWS_PER_ADDRESS: u32 = 60_000;

/// Where a frame's own number is: the first four bytes of its UDP payload.
pub const INDEX_AT: usize = 42;

/// What a replay is made of.
#[derive(Clone, Copy, Debug)]
pub struct Mix {
    /// Different UDP flows.
    pub flows: u32,
    /// Different source addresses.
    pub macs: u32,
    /// Length of a frame without its checksum, bytes.
    pub len: usize,
}

/// The frames of a mix, one of each flow or address, whichever are more, and at least 64.
pub fn udp(mix: Mix) -> Vec<Vec<u8>> {
    let count = mix.flows.max(mix.macs).max(64);
    (0..count).map(|i| frame(i, i % mix.flows, i % mix.macs, 0, mix.len)).collect()
}

/// One UDP datagram over IPv4 without a UDP checksum, which is legal (RFC 768): number `index`, of this flow, from
/// the source address number `mac`, to [`SINK`] plus `sink`, of `len` bytes, at least 46.
pub fn frame(index: u32, flow: u32, mac: u32, sink: u32, len: usize) -> Vec<u8> {
    let mut f = Vec::with_capacity(len);
    f.extend_from_slice(&nth(SINK, sink).0);
    f.extend_from_slice(&nth(MacAddr([0x02, 0, 0x10, 0, 0, 0]), mac).0);
    f.extend_from_slice(&[0x08, 0x00]);
    let source = Ipv4Addr::from_bits(0x0a00_0001 + flow / FLOWS_PER_ADDRESS);
    ipv4(&mut f, source, Ipv4Addr::new(192, 0, 2, 1), 17, len - 34);
    f.extend_from_slice(&(1024 + (flow % FLOWS_PER_ADDRESS) as u16).to_be_bytes());
    f.extend_from_slice(&9u16.to_be_bytes());
    f.extend_from_slice(&(len as u16 - 34).to_be_bytes());
    f.extend_from_slice(&[0, 0]);
    f.extend_from_slice(&index.to_be_bytes());
    f.resize(len, 0);
    f
}

/// The address that many after this one.
pub fn nth(first: MacAddr, n: u32) -> MacAddr {
    let [a, b, c, d, e, f] = first.0;
    let [c, d, e, f] = (u32::from_be_bytes([c, d, e, f]) + n).to_be_bytes();
    MacAddr([a, b, c, d, e, f])
}

/// Appends an IPv4 header with TTL 64 for a payload of that many bytes.
pub fn ipv4(f: &mut Vec<u8>, from: Ipv4Addr, to: Ipv4Addr, proto: u8, payload: usize) {
    let start = f.len();
    f.extend_from_slice(&[0x45, 0]);
    f.extend_from_slice(&(payload as u16 + 20).to_be_bytes());
    f.extend_from_slice(&[0, 0, 0, 0, 64, proto, 0, 0]);
    f.extend_from_slice(&from.octets());
    f.extend_from_slice(&to.octets());
    let check = Sum::ZERO.bytes(&f[start..]).finish();
    f[start + 10..start + 12].copy_from_slice(&check.to_be_bytes());
}
