//! Which worker owns a connection.
//!
//! Every worker has a whole [`crate::Nat`] of its own, with the same rules. A connection belongs to the worker
//! that owns the port (or query identifier) of its inside endpoint, so all connections of one endpoint share
//! one mapping (RFC 4787 REQ-1). A worker gives out only external ports that it owns itself. Hence a preserved
//! port is always in the slice of the right worker, and the external port of a reply names the owner; a
//! packet to a published port is owned by the port it is published for. [`crate::Nat::owner`] tells which.
//!
//! Ports go to workers by a multiplicative hash, a bijection of the 16-bit numbers, so slices are equal and
//! the even ports that Linux prefers for `connect` are spread. Protocols without ports have port 0.
//!
//! A hairpinned packet passes twice: out on the worker of the sender, then in on the worker of the receiver
//! ([`crate::Toward::Worker`]).
//!
//! Only the first fragment of a packet tells whose it is. So all of them meet at one worker, which follows from
//! their addresses, protocol and identification: [`crate::Nat::owner`] names it. There the ones that came
//! early wait for the first. If that shows another owner, all go on to it, the first one first, by
//! [`crate::Toward::Worker`] again. A worker that gets fragments from where they meet has them in order and
//! need not be told: it knows that it is not the place itself.

use std::net::Ipv6Addr;

use trunkline_packet::Packet;
use trunkline_packet::headers::Fragment;

use crate::nat::Nat;
use crate::parse::{self, Kind, Seen};
use crate::pieces::packet_id;
use crate::types::{Endpoint, Outside, Path, Uplink};

/// The worker, of `count`, that owns a port.
#[inline]
pub fn shard_of(port: u16, count: u16) -> u16 {
    ((u32::from(port.wrapping_mul(40_503)) * u32::from(count)) >> 16) as u16
}

/// The worker, of `count`, at which the fragments of a packet meet.
pub(crate) fn meeting_of(src: Ipv6Addr, dst: Ipv6Addr, proto: u8, id: u32, count: u16) -> u16 {
    let mixed = (u128::from(src) ^ u128::from(dst).rotate_left(64))
        .wrapping_add(u128::from(id) << 8 | u128::from(proto))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    shard_of((mixed >> 112) as u16, count)
}

impl Nat {
    /// The worker that a packet must be given to, from any worker's tables. `None` when every worker would
    /// drop it. Of fragments it is the worker where they meet, which may send them on.
    pub fn owner(&self, path: Path, packet: &Packet) -> Option<u16> {
        let side = path.side();
        let mut seen = Seen::parse(packet, path).ok()?;
        if matches!(seen.ip.fragment, Fragment::First | Fragment::Later) {
            let piece = parse::piece(packet.head(), &seen.ip)?;
            return Some(self.meeting(packet_id(path, &seen, piece.id)));
        }
        if matches!(seen.kind, Kind::Error) {
            seen = Seen::embedded(packet.head(), usize::from(seen.ip.l4) + 8, side)?;
        }
        Some(self.owner_of(path, &seen))
    }

    pub(crate) fn owner_of(&self, path: Path, seen: &Seen) -> u16 {
        let port = match path {
            Path::Out(..) | Path::Answer(_) => seen.near.port,
            Path::In(uplink) | Path::Hairpin(uplink) | Path::Local(uplink) => {
                return self.target(uplink, seen.ip.proto, Outside(seen.near));
            }
        };
        shard_of(port, self.config.shard.1)
    }

    /// The owner of a packet to an external endpoint.
    pub(crate) fn target(&self, uplink: Uplink, proto: u8, external: Outside<Endpoint>) -> u16 {
        let published = self.rules.entrance(uplink, proto, external);
        let port = published.map_or(external.0.port, |(_, _, local)| local.0.port);
        shard_of(port, self.config.shard.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_are_equal_and_spread() {
        for count in [1u16, 2, 3, 4, 7, 16] {
            let mut all = vec![0u32; usize::from(count)];
            let mut even = all.clone();
            for port in 0..=u16::MAX {
                all[usize::from(shard_of(port, count))] += 1;
                even[usize::from(shard_of(port, count))] += u32::from(port % 2 == 0);
            }
            let fair = 65536 / u32::from(count);
            assert!(all.iter().all(|n| n.abs_diff(fair) <= 1), "{count}: {all:?}");
            assert!(even.iter().all(|n| n.abs_diff(fair / 2) <= fair / 8), "{count}: {even:?}");
        }
    }
}
