//! The way in: datagrams of an underlay become frames of tunnel ports.

use std::net::IpAddr;

use trunkline_packet::segment::hdr_len;
use trunkline_packet::{BATCH, Batch, DropReason, MacAddr, Packet, Pool, PortId};
use trunkline_ports::RecvStats;
use trunkline_tunnel::bfd::frame::{self, Addresses};
use trunkline_tunnel::{Arrival, Refusals, decap_all};

use super::liveness::{Heard, HeardSender};
use super::uplink::Parts;
use super::view::TunnelView;
use crate::counters::Shards;
use crate::snapshot::{PortView, Snapshot};

/// Frames after which those in hand go on before more are taken out of datagrams: enough for the egress to
/// merge them again, and not so many that they fall out of the cache.
const ENOUGH: usize = 128;

/// Most datagrams taken from an underlay at once; each may hold 64 KiB, and 45 or so make up a superframe.
pub(crate) const BUDGET: usize = BATCH;

/// Datagrams received and the frames that were in them.
pub(crate) struct Decap {
    /// What an underlay received: UDP payloads or GRE packets.
    pub(crate) datagrams: Batch,
    /// Where each came from.
    pub(crate) arrivals: Vec<Arrival>,
    /// Frames, in order; `in_port` is their tunnel's.
    pub(super) frames: Batch,
    /// What belongs to no tunnel is counted here.
    pub(super) underlay: Shards,
    pub(super) heard: HeardSender,
    /// Fragments of outer packets.
    pub(super) parts: Parts,
}

impl Decap {
    pub(crate) fn new(underlay: Shards, heard: HeardSender) -> Decap {
        Decap {
            datagrams: Batch::with_capacity(BATCH),
            arrivals: Vec::with_capacity(BATCH),
            frames: Batch::with_capacity(2 * ENOUGH),
            underlay,
            heard,
            parts: Parts::default(),
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.datagrams.clear();
        self.arrivals.clear();
        self.frames.clear();
    }

    /// Counts what the underlay met but could not hand over, and makes ready for [`Decap::open_some`].
    pub(crate) fn begin(&mut self, worker: usize, stats: &RecvStats) {
        self.underlay.of(worker).count_unusable(stats);
        // They are taken from the end.
        self.datagrams.reverse();
        self.arrivals.reverse();
    }

    /// Takes frames out of the next datagrams. False: there are no more.
    pub(crate) fn open_some(
        &mut self,
        snapshot: &Snapshot,
        worker: usize,
        now: u32,
        pool: &mut Pool,
    ) -> bool {
        while self.frames.len() < ENOUGH
            && let (Some(datagram), Some(arrival)) = (self.datagrams.pop(), self.arrivals.pop())
        {
            let before = self.frames.len();
            let mut refusals = Counted { snapshot, underlay: &self.underlay, worker };
            decap_all(datagram, &arrival, &snapshot.tunnels, pool, &mut self.frames, &mut refusals);
            self.admit(before, arrival.outer.src, snapshot, worker, now, pool);
        }
        !self.frames.is_empty()
    }

    /// The port of the next frame.
    pub(crate) fn next_port(&self) -> Option<PortId> {
        self.frames.first().map(|packet| packet.meta().in_port)
    }

    /// Moves the next frames of one port, `most` at most, to `batch`, which is empty.
    pub(crate) fn take(&mut self, most: usize, batch: &mut Batch) {
        let port = self.next_port();
        let same = |packet: &&Packet| Some(packet.meta().in_port) == port;
        let n = self.frames.iter().take(most).take_while(same).count();
        if n == self.frames.len() {
            std::mem::swap(&mut self.frames, batch);
        } else {
            batch.extend(self.frames.drain(..n));
        }
    }

    /// Counts the frames of one datagram, notes who sent them, and takes out what is for the tunnel itself.
    pub(super) fn admit(
        &mut self,
        from: usize,
        src: IpAddr,
        snapshot: &Snapshot,
        worker: usize,
        now: u32,
        pool: &mut Pool,
    ) {
        let mut at = from;
        let mut last = None;
        while let Some(packet) = self.frames.get_mut(at) {
            let port = packet.meta().in_port;
            if last.is_none_or(|(before, _)| before != port) {
                last = snapshot.port(port).and_then(with_tunnel).map(|found| (port, found));
            }
            let Some((_, (view, tunnel))) = last else {
                // Tunnels and ports are of one snapshot, so this does not happen.
                self.underlay.of(worker).received_and_dropped(DropReason::NoBridge);
                pool.put(self.frames.remove(at));
                continue;
            };
            let shard = view.shards.of(worker);
            let frames = u64::from(packet.meta().frames).max(1);
            shard.rx_packets.add(frames);
            shard.rx_bytes.add(packet.len() as u64);
            if frames > 1 {
                // A merged train counts as what it was.
                shard.absorbed.add(frames - 1);
                shard.rx_bytes.add((frames - 1) * u64::from(hdr_len(packet)));
            }
            if tunnel.bfd
                && is_to(packet, Addresses::OVS_MAC)
                && let Some((ttl, control)) = frame::parse(packet, Addresses::OVS_MAC)
            {
                match self.heard.try_send(Heard::message(port, src, ttl, control)) {
                    Ok(()) => shard.absorbed.add(1),
                    // Somebody sends more of them than anybody needs.
                    Err(_) => shard.drop(DropReason::FloodLimit, 1),
                }
                pool.put(self.frames.remove(at));
                continue;
            }
            if let Some(remotes) = &tunnel.remotes {
                learn(tunnel, remotes, packet, src, now);
            }
            at += 1;
        }
    }
}

fn learn(tunnel: &TunnelView, remotes: &super::remotes::Remotes, packet: &Packet, src: IpAddr, now: u32) {
    let Some(mac) = packet.head().get(6..).and_then(<[u8]>::first_chunk).copied().map(MacAddr) else {
        return;
    };
    if tunnel.learns && !mac.is_group() && !mac.is_zero() {
        remotes.learn(now, tunnel.vlan(packet), mac, src);
    }
}

/// Whether a frame has this destination.
#[inline]
pub(super) fn is_to(packet: &Packet, mac: MacAddr) -> bool {
    packet.head().starts_with(&mac.0)
}

fn with_tunnel(view: &PortView) -> Option<(&PortView, &TunnelView)> {
    Some((view, view.tunnel()?))
}

/// Counts refused packets on the port of their tunnel, if it is known, else on the underlay.
pub(super) struct Counted<'a> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) underlay: &'a Shards,
    pub(super) worker: usize,
}

impl Refusals for Counted<'_> {
    fn refuse(&mut self, port: PortId, reason: DropReason) {
        let shards = self.snapshot.port(port).map_or(self.underlay, |view| &view.shards);
        shards.of(self.worker).received_and_dropped(reason);
    }
}
