//! The decision for each packet.

use std::sync::Arc;

use trunkline_packet::{Batch, DropReason, Packet, Pool, PortId};

use crate::fdb::{Key, Learned, Place};
use crate::guard;
use crate::vlan::{self, Frame, Leave, Link};
use crate::{BridgeConfig, Fdb, PortConfig, VlanMode};

/// Where decided packets go. Implemented by the worker, and by tests.
pub trait Sink {
    /// Queue the packet for the port. Its `meta.vlan` is the tag it leaves with.
    fn send(&mut self, port: PortId, packet: Packet);
    /// Count the drop on the ingress port and recycle the packet.
    fn drop(&mut self, packet: Packet, reason: DropReason);
    /// `n` copies more than the one received are about to be sent.
    fn replicated(&mut self, n: u64);
}

/// Packets classified before the first of them is decided on, so that the table's cache lines are under way.
const AHEAD: usize = 16;

/// No port of the bridge.
const ABSENT: u16 = u16::MAX;

/// One bridge's configuration with its table: immutable, replaced as a whole when the configuration
/// changes; the FDB is shared by all versions.
pub struct Bridge {
    config: BridgeConfig,
    fdb: Arc<Fdb>,
    ports: Vec<PortConfig>,
    /// Index into `ports` by [`PortId::index`].
    slots: Box<[u16]>,
    /// Indices into `ports` of those that take floods.
    flooded: Box<[u16]>,
    /// Some port is held to the addresses that DHCP gives it.
    snoops: bool,
}

/// What the first pass found out about a packet.
#[derive(Clone, Copy)]
enum Class {
    /// The same addresses, type and tag as the packet before it, which is what all decisions rest on.
    Same,
    /// Anything else.
    New,
    /// To be dropped.
    Bad(DropReason),
}

/// A packet between classification and decision.
#[derive(Clone, Copy)]
struct Seen {
    frame: Frame,
    source: (Key, Place),
    /// `None`: a group address.
    destination: Option<(Key, Place)>,
}

impl Seen {
    const NONE: Seen = Seen { frame: Frame::NONE, source: (Key::NONE, Place::NONE), destination: None };
}

/// What a batch carries from one packet to the next.
struct Run<'a, S> {
    bridge: &'a Bridge,
    now: u32,
    from: &'a PortConfig,
    pool: &'a mut Pool,
    sink: &'a mut S,
    /// The address learned last: nothing new can be learned from it within a batch.
    learned: Option<Key>,
    /// The answer to the last lookup.
    found: Option<(Key, Option<PortId>)>,
    /// Where the last packet went, if to one port.
    unicast: Option<(PortId, Leave)>,
}

impl Bridge {
    /// A bridge with these ports.
    pub fn new(config: BridgeConfig, fdb: Arc<Fdb>, ports: Vec<PortConfig>) -> Bridge {
        let mut slots = vec![ABSENT; ports.iter().map(|p| p.id.index() + 1).max().unwrap_or(0)];
        for (i, port) in ports.iter().enumerate() {
            slots[port.id.index()] = i as u16;
            fdb.expect_port(port.id);
        }
        let flooded = (0..ports.len() as u16).filter(|&i| ports[usize::from(i)].flood).collect();
        let snoops = ports.iter().any(|p| p.guard.as_ref().is_some_and(|g| g.learns()));
        Bridge { config, fdb, ports, slots: slots.into_boxed_slice(), flooded, snoops }
    }

    /// The table.
    pub fn fdb(&self) -> &Arc<Fdb> {
        &self.fdb
    }

    /// Its settings.
    pub fn config(&self) -> &BridgeConfig {
        &self.config
    }

    /// Its ports.
    pub fn ports(&self) -> &[PortConfig] {
        &self.ports
    }

    #[inline]
    fn port(&self, id: PortId) -> Option<&PortConfig> {
        // ABSENT is beyond the last port.
        self.ports.get(usize::from(*self.slots.get(id.index())?))
    }

    /// Decides on every packet of `batch`, all of which came in by `in_port`, at `now` seconds of the
    /// engine's clock, and hands each to the sink. Leaves the batch empty.
    ///
    /// Packets have their outermost tag in the metadata.
    pub fn forward(
        &self,
        now: u32,
        in_port: PortId,
        batch: &mut Batch,
        pool: &mut Pool,
        sink: &mut impl Sink,
    ) {
        let Some(from) = self.port(in_port) else {
            batch.drain(..).for_each(|packet| sink.drop(packet, DropReason::NoBridge));
            return;
        };
        match &from.guard {
            Some(guard) => guard.filter(now, batch, |packet, reason| sink.drop(packet, reason)),
            None if self.snoops => batch.iter_mut().for_each(|packet| self.snoop(now, from, packet)),
            None => {}
        }
        let mut run = Run { bridge: self, now, from, pool, sink, learned: None, found: None, unicast: None };
        let mut link = None;
        let mut classes = [Class::Same; AHEAD];
        // The first one is what the last packet of the chunk before was.
        let mut seen = [Seen::NONE; AHEAD + 1];
        while !batch.is_empty() {
            let n = batch.len().min(AHEAD);
            for ((packet, class), seen) in batch.iter_mut().zip(&mut classes).zip(&mut seen[1..]) {
                *class = self.classify(from, packet, &mut link, seen);
            }
            let mut last = 0;
            for (i, packet) in batch.drain(..n).enumerate() {
                match classes[i] {
                    Class::Same => run.repeat(packet, &seen[last]),
                    Class::New => {
                        last = i + 1;
                        run.decide(packet, &seen[last]);
                    }
                    Class::Bad(reason) => run.sink.drop(packet, reason),
                }
            }
            seen[0] = seen[last];
        }
    }

    /// Looks for an address that a DHCP server gives to a host.
    fn snoop(&self, now: u32, from: &PortConfig, packet: &mut Packet) {
        if let Some((mac, address, seconds)) = guard::given(packet)
            && let Some(link) = Link::of(packet)
            && let Ok(frame) = vlan::ingress(from, packet, &link)
        {
            self.ports.iter().for_each(|port| port.lease(now, frame.vid, mac, address, seconds));
        }
    }

    /// Makes a packet that answers one from `to`, made as if it had come in by `from`, fit to leave by `to`.
    /// Nothing is learned from it. False when no such packet may go there.
    pub fn answer(&self, from: PortId, to: PortId, packet: &mut Packet, pool: &mut Pool) -> bool {
        let (Some(from), Some(to)) = (self.port(from), self.port(to)) else { return false };
        let Some(link) = Link::of(packet) else { return false };
        let Ok(frame) = vlan::ingress(from, packet, &link) else { return false };
        vlan::egress(to, &frame).is_some_and(|leave| vlan::apply(packet, &frame, leave, pool).is_ok())
    }

    /// First pass: the VLAN, and where in the table the addresses are. `link` is that of the packet before, if
    /// what was found out about that one holds for others with the same.
    #[inline]
    fn classify(
        &self,
        from: &PortConfig,
        packet: &mut Packet,
        link: &mut Option<Link>,
        seen: &mut Seen,
    ) -> Class {
        let Some(own) = Link::of(packet) else { return Class::Bad(DropReason::Truncated) };
        if *link == Some(own) {
            return Class::Same;
        }
        // What is behind a further tag counts, too, and a tunnel port changes each frame.
        let whole = !own.has_inner_tag() && from.vlan_mode != VlanMode::Dot1qTunnel;
        *link = Some(own).filter(|_| whole);
        seen.frame = match vlan::ingress(from, packet, &own) {
            Ok(frame) => frame,
            Err(reason) => {
                *link = None;
                return Class::Bad(reason);
            }
        };
        let place = |mac| {
            let key = Key::new(seen.frame.vid, mac);
            let place = self.fdb.place(key);
            self.fdb.touch(place);
            (key, place)
        };
        seen.source = place(own.source());
        seen.destination = (!own.destination().is_group()).then(|| place(own.destination()));
        Class::New
    }

    /// Why two ports exchange no frames, if they do not.
    #[inline]
    fn barred(from: &PortConfig, to: &PortConfig) -> Option<DropReason> {
        if from.isolated && to.isolated {
            return Some(DropReason::Isolated);
        }
        if from.split_horizon_group.is_some() && from.split_horizon_group == to.split_horizon_group {
            return Some(DropReason::SplitHorizon);
        }
        None
    }
}

impl<'a, S: Sink> Run<'a, S> {
    /// The same as for the packet before.
    #[inline]
    fn repeat(&mut self, packet: Packet, seen: &Seen) {
        match self.unicast {
            Some((to, leave)) => self.send(packet, &seen.frame, to, leave),
            None => self.decide(packet, seen),
        }
    }

    /// Second pass: learn, look up, send.
    #[inline]
    fn decide(&mut self, packet: Packet, seen: &Seen) {
        self.unicast = None;
        if self.from.learning {
            self.learn(seen.source);
        }
        match seen.destination.and_then(|d| self.lookup(d)) {
            Some(to) => self.unicast(packet, &seen.frame, to),
            None => self.flood(packet, &seen.frame),
        }
    }

    #[inline]
    fn learn(&mut self, (key, place): (Key, Place)) {
        if self.learned == Some(key) {
            return;
        }
        let learned = self.bridge.fdb.learn_at(self.now, key, place, self.from.id, self.from.max_macs);
        self.learned = if learned == Learned::Skipped { None } else { Some(key) };
        if learned == Learned::Changed {
            self.found = None;
        }
    }

    /// The port behind which the destination is, if that is known and the port is still there.
    #[inline]
    fn lookup(&mut self, (key, place): (Key, Place)) -> Option<&'a PortConfig> {
        let id = match self.found {
            Some((last, id)) if last == key => id,
            _ => self.bridge.fdb.lookup_at(self.now, self.bridge.config.ageing, key, place),
        };
        self.found = Some((key, id));
        self.bridge.port(id?)
    }

    #[inline]
    fn unicast(&mut self, packet: Packet, frame: &Frame, to: &PortConfig) {
        if to.id == self.from.id {
            return self.sink.drop(packet, DropReason::SamePort);
        }
        let Some(leave) = vlan::egress(to, frame) else {
            return self.sink.drop(packet, DropReason::VlanEgress);
        };
        match Bridge::barred(self.from, to) {
            None => {
                self.unicast = Some((to.id, leave));
                self.send(packet, frame, to.id, leave);
            }
            Some(reason) => self.sink.drop(packet, reason),
        }
    }

    /// Sends to every port that takes floods, is in the VLAN and may hear the ingress port. The last of them
    /// gets the packet itself.
    fn flood(&mut self, packet: Packet, frame: &Frame) {
        let (bridge, from) = (self.bridge, self.from);
        let ports = bridge.flooded.iter().map(|&i| &bridge.ports[usize::from(i)]);
        let heard = ports.filter(|to| to.id != from.id && Bridge::barred(from, to).is_none());
        let mut targets = heard.filter_map(|to| Some((to.id, vlan::egress(to, frame)?)));
        let Some(mut target) = targets.next() else {
            return self.sink.drop(packet, DropReason::NoDestination);
        };
        if from.flood_limit > 0 && !bridge.fdb.admit_flood(from.id, self.now, from.flood_limit) {
            return self.sink.drop(packet, DropReason::FloodLimit);
        }
        for next in targets {
            self.sink.replicated(1);
            let copy = self.pool.duplicate(&packet);
            self.send(copy, frame, target.0, target.1);
            target = next;
        }
        self.send(packet, frame, target.0, target.1);
    }

    #[inline]
    fn send(&mut self, mut packet: Packet, frame: &Frame, to: PortId, leave: Leave) {
        match vlan::apply(&mut packet, frame, leave, self.pool) {
            Ok(()) => self.sink.send(to, packet),
            Err(reason) => self.sink.drop(packet, reason),
        }
    }
}
