//! The way of fragments; what is known of them is in `fragment.rs`.

use trunkline_packet::Packet;

use crate::DropReason;
use crate::fragment::{Fate, PacketId, Way};
use crate::nat::{Nat, Sink, Toward};
use crate::parse::{self, Kind, Seen};
use crate::shard::meeting_of;
use crate::types::{Path, Side};

impl Nat {
    pub(crate) fn fragment(
        &mut self,
        now: u64,
        path: Path,
        mut seen: Seen,
        mut packet: Packet,
        sink: &mut impl Sink,
    ) {
        let Some(piece) = parse::piece(packet.head(), &seen.ip) else {
            return sink.drop(packet, DropReason::NatMalformed);
        };
        let id = packet_id(path, &seen, piece.id);
        let own = self.config.shard.0;
        let meets_here = self.config.shard.1 > 1 && self.meeting(id) == own;
        let timeout = self.config.timeouts.fragment;
        let fate =
            self.fragments.take(now, timeout, id, piece, &mut |p| sink.drop(p, DropReason::NatFragmentLost));
        match fate {
            Fate::First(at) => {
                let owner = if meets_here { self.owner_of(path, &seen) } else { own };
                let (way, result) = if matches!(seen.kind, Kind::Error) {
                    // RFC 1122 §3.2.2, RFC 4443 §2.4(c): errors are short.
                    (None, Err(DropReason::NatIcmpUnmatched))
                } else if owner != own {
                    (Some(Way::Worker(owner)), Ok(Toward::Worker(owner, path)))
                } else {
                    let guess = self.guess(path, &seen);
                    let result = self.flow(now, path, &seen, guess, &mut packet);
                    let ports = Way::Ports(seen.near.port, seen.remote.port);
                    (result.is_ok().then_some(ports), result)
                };
                self.fragments.first(at, way);
                self.done(now, result, packet, sink);
                while let Some(held) = self.fragments.release(at) {
                    match (Seen::parse(&held, path), way) {
                        (Ok(seen), Some(way)) => self.later(now, path, seen, way, held, sink),
                        _ => sink.drop(held, DropReason::NatFragmentLost),
                    }
                }
            }
            Fate::Follow(way) => {
                seen.kind = Kind::Later;
                self.later(now, path, seen, way, packet, sink);
            }
            Fate::Hold(at) => self.fragments.hold(at, packet),
            Fate::Lost => sink.drop(packet, DropReason::NatFragmentLost),
            Fate::Condemned(at) | Fate::Full(at) => {
                let full = matches!(fate, Fate::Full(_));
                let reason = if full { DropReason::NatFragmentLimit } else { DropReason::NatFragmentOverlap };
                sink.drop(packet, reason);
                while let Some(held) = self.fragments.release(at) {
                    sink.drop(held, DropReason::NatFragmentLost);
                }
            }
        }
    }

    /// A fragment behind the first, of which it is known what becomes of it.
    fn later(
        &mut self,
        now: u64,
        path: Path,
        mut seen: Seen,
        way: Way,
        mut packet: Packet,
        sink: &mut impl Sink,
    ) {
        let result = match way {
            Way::Worker(worker) => Ok(Toward::Worker(worker, path)),
            Way::Ports(near, remote) => {
                (seen.near.port, seen.remote.port) = (near, remote);
                let guess = self.guess(path, &seen);
                match self.lookup(now, path, &seen, guess) {
                    Some(at) => Ok(self.translate(now, path.side(), at, &seen, &mut packet)),
                    None => self
                        .straight_back(path, &seen)
                        .or_else(|| self.for_host(path, &seen))
                        .ok_or(DropReason::NatFragmentLost),
                }
            }
        };
        self.done(now, result, packet, sink);
    }

    /// The worker where the fragments of a packet meet.
    pub(crate) fn meeting(&self, id: PacketId) -> u16 {
        meeting_of(id.src, id.dst, id.proto, id.id, self.config.shard.1)
    }
}

/// Which packet a fragment is of.
pub(crate) fn packet_id(path: Path, seen: &Seen, id: u32) -> PacketId {
    let (near, remote) = (seen.near.addr, seen.remote.addr);
    let (src, dst) = if path.side() == Side::Inside { (near, remote) } else { (remote, near) };
    PacketId { path, src, dst, proto: seen.ip.proto, id }
}
