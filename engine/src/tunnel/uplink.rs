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
    Packet,
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
        // Frames from here on have one sender and are not yet admitted.
        let (mut fresh, mut sender) = (self.frames.len(), None);
        for packet in batch.drain(..) {
            let Some(headers) = received(&packet, from, &mut own) else {
                rest.push(packet);
                continue;
            };
            match classify(&packet, &headers, from) {
                Mine::No => rest.push(packet),
                Mine::Packet => {
                    let src = headers.outer.src;
                    if let Some(before) = sender.filter(|before| *before != src) {
                        self.admit(fresh, before, snapshot, from.worker, from.now, pool);
                        fresh = self.frames.len();
                    }
                    sender = Some(src);
                    self.open_frame(snapshot, from, &headers, packet, pool);
                }
                Mine::Fragment => {
                    if let Some(before) = sender.take() {
                        self.admit(fresh, before, snapshot, from.worker, from.now, pool);
                    }
                    self.add_fragment(snapshot, from, packet, pool);
                    fresh = self.frames.len();
                }
                Mine::Error(report) => {
                    from.shard.absorbed.add(1);
                    let uplink = PortId(from.uplink.id.0);
                    // There will be another one, should the thread be busy.
                    let _ = self.heard.try_send(Message::TooBig { uplink, report });
                    pool.put(packet);
                }
            }
        }
        if let Some(before) = sender {
            self.admit(fresh, before, snapshot, from.worker, from.now, pool);
        }
    }

    /// Takes a frame to what is in it, which is still to be admitted.
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
        let mut refusals = Counted { snapshot, underlay: &self.underlay, worker: from.worker };
        decap_all(packet, &opened, from.tunnels, pool, &mut self.frames, &mut refusals);
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
                Ok(headers) => {
                    let before = self.frames.len();
                    self.open_frame(snapshot, from, &headers, whole, pool);
                    self.admit(before, headers.outer.src, snapshot, from.worker, from.now, pool);
                }
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

/// The headers of an IP packet to an address of the uplink's; `own` is the one that the packet before was to.
#[inline]
fn received(packet: &Packet, from: &Underneath<'_>, own: &mut Option<IpAddr>) -> Option<OuterHeaders> {
    let head = packet.head();
    if head.first_chunk() != Some(&from.uplink.mac.0) || packet.meta().vlan.is_some() {
        return None;
    }
    let headers = OuterHeaders::read(head).ok()?;
    let dst = headers.outer.dst;
    if *own != Some(dst) {
        *own = Some(dst).filter(|dst| from.uplink.owns(*dst));
    }
    own.is_some().then_some(headers)
}

#[inline]
fn classify(packet: &Packet, headers: &OuterHeaders, from: &Underneath<'_>) -> Mine {
    let OuterHeaders { outer, ip } = headers;
    match ip.proto {
        proto::UDP | proto::GRE if !matches!(ip.fragment, Fragment::None | Fragment::Atomic) => {
            if from.tunnels.may_carry(outer.src, outer.dst, ip.proto) { Mine::Fragment } else { Mine::No }
        }
        proto::UDP if from.tunnels.kind_of_port(outer.dst_port).is_none() => Mine::No,
        proto::GRE if !from.tunnels.has_gre() => Mine::No,
        proto::UDP | proto::GRE => Mine::Packet,
        proto::ICMP | proto::ICMPV6 => report::parse(packet, from.tunnels).map_or(Mine::No, Mine::Error),
        _ => Mine::No,
    }
}
