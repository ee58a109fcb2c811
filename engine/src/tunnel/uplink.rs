//! Tunnels over an uplink, with the outer addresses, neighbours and routes in userspace: which of the frames
//! that come in are theirs.
//!
//! Theirs are UDP to a tunnel's port and GRE, to an address of the uplink's own, fragments of such, and errors
//! that routers on the path send about them. Everything else goes on to the router.

use std::net::IpAddr;
use std::time::Instant;

use trunkline_packet::headers::{Fragment, proto};
use trunkline_packet::{Batch, DropCounts, DropReason, Packet, Pool, PortId};
use trunkline_router::{Iface, IfaceId};
use trunkline_tunnel::mtu::report::{self, Report};
use trunkline_tunnel::reassemble::{Limits, Reassembler};
use trunkline_tunnel::{OuterHeaders, Tunnels, decap_all};

use super::ingress::{Counted, Decap};
use super::liveness::Message;
use crate::counters::Shard;
use crate::snapshot::Snapshot;

/// Where frames came in.
pub(crate) struct Underneath<'a> {
    pub(crate) uplink: &'a Iface,
    pub(crate) tunnels: &'a Tunnels,
    /// The uplink's counters.
    pub(crate) shard: &'a Shard,
    pub(crate) worker: usize,
    /// Seconds on the engine's clock.
    pub(crate) now: u32,
}

/// What a frame is to the tunnels.
enum Mine {
    No,
    Packet(OuterHeaders),
    Fragment,
    Error(Report),
}

/// Fragments that came in by uplinks, on one worker.
#[derive(Default)]
pub(super) struct Parts(Vec<(IfaceId, Reassembler)>);

impl Parts {
    fn of(&mut self, uplink: IfaceId) -> &mut Reassembler {
        let at = self.0.iter().position(|(id, _)| *id == uplink).unwrap_or_else(|| {
            self.0.push((uplink, Reassembler::new(Limits::default())));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }
}

impl Decap {
    /// Takes the frames for tunnels out of `batch`, and moves all others to `rest`.
    pub(crate) fn open_frames(
        &mut self,
        snapshot: &Snapshot,
        from: &Underneath<'_>,
        batch: &mut Batch,
        rest: &mut Batch,
        pool: &mut Pool,
    ) {
        // The address of the uplink's to which the last packet was.
        let mut own = None;
        for packet in batch.drain(..) {
            match classify(&packet, from, &mut own) {
                Mine::No => rest.push(packet),
                Mine::Packet(headers) => self.open_frame(snapshot, from, &headers, packet, pool),
                Mine::Fragment => self.add_fragment(snapshot, from, packet, pool),
                Mine::Error(report) => {
                    from.shard.absorbed.add(1);
                    let uplink = PortId(from.uplink.id.0);
                    // There will be another one, should the thread be busy.
                    let _ = self.heard.try_send(Message::TooBig { uplink, report });
                    pool.put(packet);
                }
            }
        }
    }

    #[inline]
    fn open_frame(
        &mut self,
        snapshot: &Snapshot,
        from: &Underneath<'_>,
        headers: &OuterHeaders,
        mut packet: Packet,
        pool: &mut Pool,
    ) {
        let opened = match headers.open(&mut packet, from.tunnels.zero_checksum_v6()) {
            Ok(opened) => opened,
            Err(reason) => {
                from.shard.drop(reason, 1);
                return pool.put(packet);
            }
        };
        // What is in it counts on the tunnel.
        from.shard.absorbed.add(1);
        let before = self.frames.len();
        let mut refusals = Counted { snapshot, underlay: &self.underlay, worker: from.worker };
        decap_all(packet, &opened, from.tunnels, pool, &mut self.frames, &mut refusals);
        self.admit(before, opened.outer.src, snapshot, from.worker, from.now, pool);
    }

    /// Gives up fragments whose time is over. To be called once a second or so.
    pub(crate) fn expire(&mut self, snapshot: &Snapshot, worker: usize, pool: &mut Pool) {
        for (uplink, parts) in &mut self.parts.0 {
            let mut drops = DropCounts::new();
            parts.expire(Instant::now(), pool, &mut drops);
            // Of an uplink that is gone, nothing counts any more.
            if let Some(view) = snapshot.port(PortId(uplink.0)) {
                count(&drops, view.shards.of(worker));
            }
        }
    }

    #[cold]
    fn add_fragment(&mut self, snapshot: &Snapshot, from: &Underneath<'_>, packet: Packet, pool: &mut Pool) {
        let mut drops = DropCounts::new();
        let whole = self.parts.of(from.uplink.id).push(Instant::now(), packet, pool, &mut drops);
        count(&drops, from.shard);
        if let Some(mut whole) = whole {
            // The whole counts like any frame, the other fragments here.
            from.shard.absorbed.add(u64::from(whole.meta().frames).saturating_sub(1));
            whole.meta_mut().frames = 1;
            match OuterHeaders::read(whole.head()) {
                Ok(headers) => self.open_frame(snapshot, from, &headers, whole, pool),
                Err(reason) => {
                    from.shard.drop(reason, 1);
                    pool.put(whole);
                }
            }
        }
    }
}

fn count(drops: &DropCounts, shard: &Shard) {
    for &reason in DropReason::ALL.iter().filter(|reason| drops.get(**reason) > 0) {
        shard.drop(reason, drops.get(reason).into());
    }
}

#[inline]
fn classify(packet: &Packet, from: &Underneath<'_>, own: &mut Option<IpAddr>) -> Mine {
    let head = packet.head();
    if head.first_chunk() != Some(&from.uplink.mac.0) || packet.meta().vlan.is_some() {
        return Mine::No;
    }
    let Ok(headers) = OuterHeaders::read(head) else { return Mine::No };
    let OuterHeaders { outer, ip } = &headers;
    if !matches!(ip.proto, proto::UDP | proto::GRE | proto::ICMP | proto::ICMPV6) {
        return Mine::No;
    }
    if *own != Some(outer.dst) {
        if !from.uplink.owns(outer.dst) {
            return Mine::No;
        }
        *own = Some(outer.dst);
    }
    match ip.proto {
        proto::UDP | proto::GRE if !matches!(ip.fragment, Fragment::None | Fragment::Atomic) => {
            if from.tunnels.may_carry(outer.src, outer.dst, ip.proto) { Mine::Fragment } else { Mine::No }
        }
        proto::UDP if from.tunnels.kind_of_port(outer.dst_port).is_none() => Mine::No,
        proto::GRE if !from.tunnels.has_gre() => Mine::No,
        proto::UDP | proto::GRE => Mine::Packet(headers),
        _ => report::parse(packet, from.tunnels).map_or(Mine::No, Mine::Error),
    }
}
