//! What the engine is measured with: which frames come in, what has to be done to them, and what must come out.

use std::io::{self, Write};
use std::net::Ipv4Addr;

use trunkline_packet::MacAddr;
use trunkline_packet::checksum::Sum;

use crate::frames::{self, INDEX_AT};

/// What is done to a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Work {
    /// Learned and forwarded as it is.
    Forward,
    /// From an access port to a trunk.
    VlanPush,
    /// From a trunk to an access port.
    VlanPop,
    /// Into a tunnel whose underlay is an uplink of the engine.
    Encap(Tunnel),
    /// Out of such a tunnel.
    Decap(Tunnel),
    /// Masqueraded; the connection is known.
    NatEstablished,
    /// Masqueraded; each packet is the first of its connection.
    NatNew,
}

/// An encapsulation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Tunnel {
    /// RFC 7348.
    Vxlan,
    /// RFC 2784 and 2890, Ethernet inside.
    Gre,
}

/// Sizes of frames.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sizes {
    /// 64 bytes with the frame check sequence, which is not there.
    Small,
    /// Seven of 64, four of 570, one of 1,514 bytes.
    Mixed,
}

/// One measurement.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// For the command line and tables.
    pub name: &'static str,
    /// What happens.
    pub help: &'static str,
    /// What is done.
    pub work: Work,
    /// Different UDP flows.
    pub flows: u32,
    /// Different source addresses in Ethernet.
    pub macs: u32,
    /// Sizes.
    pub sizes: Sizes,
    /// Ports or tunnels that the packets leave by in turn (or come out of).
    pub ways: u32,
    /// Rules of translation besides the one that applies.
    pub rules: u32,
    /// Workers, each with a replay of its own.
    pub workers: u16,
}

const fn scenario(name: &'static str, help: &'static str, work: Work, flows: u32, macs: u32) -> Scenario {
    Scenario { name, help, work, flows, macs, sizes: Sizes::Small, ways: 1, rules: 0, workers: 1 }
}

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    scenario("l2-1-flow", "forwarded, 1 flow", Work::Forward, 1, 1),
    Scenario {
        sizes: Sizes::Mixed,
        ..scenario("l2-1-flow-mixed", "forwarded, 1 flow, mixed sizes", Work::Forward, 1, 1)
    },
    scenario("l2-1k-flows", "forwarded, 1,000 flows of one address", Work::Forward, 1000, 1),
    scenario("l2-10k-flows", "learned, 10,000 flows of 1,000 addresses", Work::Forward, 10_000, 1000),
    Scenario {
        sizes: Sizes::Mixed,
        ..scenario(
            "l2-10k-flows-mixed",
            "learned, 10,000 flows of 1,000 addresses, mixed sizes",
            Work::Forward,
            10_000,
            1000,
        )
    },
    scenario("l2-100k-macs", "learned, 100,000 addresses", Work::Forward, 100_000, 100_000),
    scenario("l2-1m-flows", "learned, 1,000,000 flows of 1,000 addresses", Work::Forward, 1_000_000, 1000),
    scenario("vlan-push", "access port to trunk, 10,000 flows", Work::VlanPush, 10_000, 1000),
    scenario("vlan-pop", "trunk to access port, 10,000 flows", Work::VlanPop, 10_000, 1000),
    scenario("vxlan-encap", "into VXLAN, 10,000 flows", Work::Encap(Tunnel::Vxlan), 10_000, 1),
    scenario("vxlan-decap", "out of VXLAN, 10,000 flows", Work::Decap(Tunnel::Vxlan), 10_000, 1),
    scenario("gre-encap", "into GRE, 10,000 flows", Work::Encap(Tunnel::Gre), 10_000, 1),
    scenario("gre-decap", "out of GRE, 10,000 flows", Work::Decap(Tunnel::Gre), 10_000, 1),
    scenario("nat-established", "masqueraded, 10,000 known connections", Work::NatEstablished, 10_000, 1),
    scenario("nat-new", "masqueraded, 50,000 connections, one packet each", Work::NatNew, 50_000, 1),
    Scenario { workers: 2, ..scenario("l2-1-flow-2-workers", "forwarded, 2 workers", Work::Forward, 1, 1) },
    Scenario {
        workers: 2,
        ..scenario("l2-10k-flows-2-workers", "learned, 2 workers", Work::Forward, 10_000, 1000)
    },
];

/// The VLAN of access ports.
pub const VID: u16 = 10;
/// VXLAN's network.
pub const VNI: u32 = 77;
/// GRE's key.
pub const KEY: u32 = 7;
/// Our address on the uplink under tunnels.
pub const UNDERLAY: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// Our MAC address there.
pub const UNDERLAY_MAC: MacAddr = MacAddr([2, 0, 0x30, 0, 0, 0]);
/// Our address to the world, and the one under which everything is masqueraded.
pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// The host in the world, where the frames go.
pub const WORLD: (Ipv4Addr, MacAddr) = (Ipv4Addr::new(192, 0, 2, 1), MacAddr([2, 0, 0x30, 1, 0, 0]));

/// The far end of tunnel number `way`, and its MAC address on the link.
pub fn remote(way: u32) -> (Ipv4Addr, MacAddr) {
    (Ipv4Addr::from_bits(UNDERLAY.to_bits() + 1 + way), frames::nth(WORLD.1, way))
}

impl Tunnel {
    /// Bytes in front of the inner frame, from the outer Ethernet header on.
    pub const fn overhead(self) -> usize {
        14 + 20
            + match self {
                Tunnel::Vxlan => 16,
                Tunnel::Gre => 8,
            }
    }

    /// The outer headers from the far end `way` to us, around a frame of `len` bytes of this flow.
    fn outer(self, way: u32, flow: u32, len: usize) -> Vec<u8> {
        let (address, mac) = remote(way);
        let mut f = [UNDERLAY_MAC.0, mac.0].concat();
        f.extend_from_slice(&[0x08, 0x00]);
        match self {
            Tunnel::Vxlan => {
                frames::ipv4(&mut f, address, UNDERLAY, 17, len + 16);
                f.extend_from_slice(&(49152 + (flow % 16384) as u16).to_be_bytes());
                f.extend_from_slice(&4789u16.to_be_bytes());
                f.extend_from_slice(&(len as u16 + 16).to_be_bytes());
                f.extend_from_slice(&[0, 0, 0x08, 0, 0, 0]);
                f.extend_from_slice(&(VNI << 8).to_be_bytes());
            }
            Tunnel::Gre => {
                frames::ipv4(&mut f, address, UNDERLAY, 47, len + 8);
                // A key, transparent Ethernet bridging.
                f.extend_from_slice(&[0x20, 0, 0x65, 0x58]);
                f.extend_from_slice(&KEY.to_be_bytes());
            }
        }
        f
    }

    /// Whether these are outer headers from us to the far end `way`, around a frame of `len` bytes.
    fn is_outer(self, outer: &[u8], way: u32, len: usize) -> bool {
        let (address, mac) = remote(way);
        let ip_len = (outer.len() - 14 + len) as u16;
        let common = outer[..6] == mac.0
            && outer[6..12] == UNDERLAY_MAC.0
            && outer[12..15] == [0x08, 0x00, 0x45]
            && outer[16..18] == ip_len.to_be_bytes()
            && outer[26..30] == UNDERLAY.octets()
            && outer[30..34] == address.octets()
            && Sum::ZERO.bytes(&outer[14..34]).finish() == 0;
        common
            && match self {
                Tunnel::Vxlan => {
                    outer[23] == 17
                        && outer[36..38] == 4789u16.to_be_bytes()
                        && outer[38..40] == (ip_len - 20).to_be_bytes()
                        && outer[42] == 0x08
                        && outer[46..50] == (VNI << 8).to_be_bytes()
                }
                Tunnel::Gre => {
                    outer[23] == 47
                        && outer[34..38] == [0x20, 0, 0x65, 0x58]
                        && outer[38..42] == KEY.to_be_bytes()
                }
            }
    }
}

impl Sizes {
    fn of(self, index: u32) -> usize {
        // In an order that spreads the large ones.
        const MIXED: [usize; 12] = [60, 566, 60, 60, 566, 60, 1510, 60, 566, 60, 566, 60];
        match self {
            Sizes::Small => 60,
            Sizes::Mixed => MIXED[index as usize % MIXED.len()],
        }
    }
}

impl Scenario {
    /// By name.
    pub fn find(name: &str) -> Option<&'static Scenario> {
        SCENARIOS.iter().find(|s| s.name == name)
    }

    /// How many frames each worker's replay has.
    pub fn frames_per_worker(&self) -> u32 {
        // A multiple of the sizes' period in small replays.
        self.flows.max(self.macs).max(self.ways).max(if self.sizes == Sizes::Mixed { 96 } else { 64 })
    }

    /// The frame with this number, as it is without a tag or a tunnel.
    fn plain(&self, index: u32) -> Vec<u8> {
        let each = self.frames_per_worker();
        let (lane, i) = (index / each, index % each);
        let flow = lane * self.flows + i % self.flows;
        // Behind each tunnel is a station of its own, or it would move with every packet.
        let macs = if matches!(self.work, Work::Decap(_)) { self.macs.max(self.ways) } else { self.macs };
        let mac = lane * macs + i % macs;
        frames::frame(index, flow, mac, self.way(index), self.sizes.of(index))
    }

    /// By which port or tunnel a frame leaves, or comes in.
    fn way(&self, index: u32) -> u32 {
        index % self.frames_per_worker() % self.ways
    }

    /// What is played to a worker.
    pub fn frames(&self, worker: u16) -> Vec<Vec<u8>> {
        let each = self.frames_per_worker();
        (0..each).map(|i| self.input(u32::from(worker) * each + i)).collect()
    }

    fn input(&self, index: u32) -> Vec<u8> {
        let mut frame = self.plain(index);
        match self.work {
            Work::Decap(tunnel) => {
                // Behind the tunnels is the one port that they all lead to.
                frame[..6].copy_from_slice(&frames::SINK.0);
                let mut f = tunnel.outer(self.way(index), index, frame.len());
                f.append(&mut frame);
                f
            }
            Work::VlanPop => {
                frame.splice(12..12, tag());
                frame
            }
            _ => frame,
        }
    }

    /// Whether this is what a frame of the replay must have become, every byte of it.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, out: &[u8]) -> Result<(), &'static str> {
        let front = match self.work {
            Work::Encap(tunnel) => tunnel.overhead(),
            Work::VlanPush => 4,
            _ => 0,
        };
        let index = out.get(front + INDEX_AT..front + INDEX_AT + 4).ok_or("a frame is too short")?;
        let index = u32::from_be_bytes([index[0], index[1], index[2], index[3]]);
        if index >= self.frames_per_worker() * u32::from(self.workers) {
            return Err("a frame has a number that none had");
        }
        let mut want = self.plain(index);
        match self.work {
            Work::Encap(tunnel) => {
                let (outer, inner) = out.split_at(front);
                if !tunnel.is_outer(outer, self.way(index), inner.len()) {
                    return Err("outer headers are not the tunnel's");
                }
                return if inner == want { Ok(()) } else { Err("an inner frame has changed") };
            }
            Work::VlanPush => {
                want.splice(12..12, tag());
            }
            Work::Decap(_) => want[..6].copy_from_slice(&frames::SINK.0),
            Work::NatEstablished | Work::NatNew => {
                want[..6].copy_from_slice(&WORLD.1.0);
                want[6..12].copy_from_slice(&UNDERLAY_MAC.0);
                want[22] -= 1;
                want[26..30].copy_from_slice(&EXTERNAL.octets());
                // The port is the translator's choice, and with it the header's checksum has its new value.
                want[34..36].copy_from_slice(&out[34..36]);
                if u16::from_be_bytes([out[34], out[35]]) < 1024 {
                    return Err("a port outside the rule's range");
                }
                want[24..26].fill(0);
                let check = Sum::ZERO.bytes(&want[14..34]).finish();
                want[24..26].copy_from_slice(&check.to_be_bytes());
            }
            Work::Forward | Work::VlanPop => {}
        }
        if out == want { Ok(()) } else { Err("a frame has changed on the way") }
    }

    /// Writes the frames of a worker's replay as a pcap file, for other switches.
    ///
    /// # Errors
    /// What writing says.
    pub fn write_pcap(&self, worker: u16, out: &mut impl Write) -> io::Result<()> {
        // Magic, version 2.4, no time zone, snapshot length, Ethernet.
        for word in [0xa1b2_c3d4_u32, 4 << 16 | 2, 0, 0, 65535, 1] {
            out.write_all(&word.to_le_bytes())?;
        }
        for frame in self.frames(worker) {
            let len = frame.len() as u32;
            for word in [0, 0, len, len] {
                out.write_all(&word.to_le_bytes())?;
            }
            out.write_all(&frame)?;
        }
        out.flush()
    }
}

fn tag() -> [u8; 4] {
    let [high, low] = VID.to_be_bytes();
    [0x81, 0x00, high, low]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        for (i, s) in SCENARIOS.iter().enumerate() {
            assert!(SCENARIOS[..i].iter().all(|other| other.name != s.name), "{}", s.name);
        }
    }

    #[test]
    fn checks_notice_any_changed_byte() {
        for s in SCENARIOS.iter().filter(|s| matches!(s.work, Work::Forward | Work::VlanPush)) {
            let mut frame = s.plain(s.frames_per_worker() - 1);
            if s.work == Work::VlanPush {
                frame.splice(12..12, tag());
            }
            assert_eq!(s.check(&frame), Ok(()), "{}", s.name);
            // Another number would be another frame of the replay.
            let index = INDEX_AT + if s.work == Work::VlanPush { 4 } else { 0 };
            for at in (0..frame.len()).filter(|at| !(index..index + 4).contains(at)) {
                frame[at] ^= 0x40;
                assert!(s.check(&frame).is_err(), "{} byte {at}", s.name);
                frame[at] ^= 0x40;
            }
            for cut in [0, 20, 45, frame.len() - 1] {
                assert!(s.check(&frame[..cut]).is_err(), "{} cut to {cut}", s.name);
            }
        }
    }

    #[test]
    fn pcap_files_can_be_replayed() {
        for name in ["l2-1-flow-mixed", "vxlan-decap"] {
            let s = Scenario::find(name).unwrap();
            let mut file = Vec::new();
            s.write_pcap(0, &mut file).unwrap();
            assert_eq!(trunkline_ports::replay::parse(&file).unwrap(), s.frames(0));
        }
    }

    #[test]
    fn workers_play_different_flows_and_addresses() {
        let s = Scenario::find("l2-10k-flows-2-workers").unwrap();
        let key = |f: &Vec<u8>| (f[6..12].to_vec(), f[26..36].to_vec());
        let first: std::collections::HashSet<_> = s.frames(0).iter().map(key).collect();
        assert_eq!(first.len(), 10_000);
        assert!(s.frames(1).iter().map(key).all(|k| !first.contains(&k)));
    }
}
