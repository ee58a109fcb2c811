//! Frames to replay.

use std::net::Ipv4Addr;

use trunkline_packet::MacAddr;
use trunkline_packet::checksum::Sum;

/// The address behind which everything goes: that of the port the frames leave by.
pub const SINK: MacAddr = MacAddr([0x02, 0, 0x20, 0, 0, 0]);

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
    (0..count).map(|i| frame(i % mix.flows, i % mix.macs, mix.len)).collect()
}

/// One UDP datagram over IPv4 without a UDP checksum, which is legal (RFC 768).
fn frame(flow: u32, mac: u32, len: usize) -> Vec<u8> {
    let mut f = Vec::with_capacity(len);
    f.extend_from_slice(&SINK.0);
    f.extend_from_slice(&[0x02, 0]);
    f.extend_from_slice(&(0x1000_0000 + mac).to_be_bytes());
    f.extend_from_slice(&[0x08, 0x00]);
    let source = Ipv4Addr::from_bits(0x0a00_0001 + flow / 60_000);
    f.extend_from_slice(&[0x45, 0]);
    f.extend_from_slice(&(len as u16 - 14).to_be_bytes());
    f.extend_from_slice(&[0, 0, 0, 0, 64, 17, 0, 0]);
    f.extend_from_slice(&source.octets());
    f.extend_from_slice(&[192, 0, 2, 1]);
    let check = Sum::ZERO.bytes(&f[14..34]).finish();
    f[24..26].copy_from_slice(&check.to_be_bytes());
    f.extend_from_slice(&(1024 + (flow % 60_000) as u16).to_be_bytes());
    f.extend_from_slice(&9u16.to_be_bytes());
    f.extend_from_slice(&(len as u16 - 34).to_be_bytes());
    f.resize(len, 0);
    f
}
