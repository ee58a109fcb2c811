//! The router of one worker, and what it asks of its caller.

use std::net::IpAddr;
use std::sync::Arc;

use trunkline_packet::{Batch, DropReason, Headers, Packet, Pool};

use crate::cache::{Cache, Scope};
use crate::errors;
use crate::held::Held;
use crate::iface::{Iface, IfaceId, Zone};
use crate::legs::Legs;
use crate::limit::Bucket;
use crate::neighbour::Neighbours;
use crate::receive::destination;
use crate::service::Answer;
use crate::tables::{Hop, Tables, Target};

/// Errors sent per second and interface, and at once (RFC 1812 §4.3.2.8, RFC 4443 §2.4(f)).
const ERRORS: (u64, u64) = (200, 50);
/// Our own address is defended once in so many milliseconds (RFC 5227 §1.1, DEFEND_INTERVAL).
const DEFEND: (u64, u64) = (1, 1);

/// Where frames and numbers go. Implemented by the worker, and by tests.
pub trait Sink {
    /// A frame to put on the link of the interface. `made`: the router's own, rather than forwarded.
    fn send(&mut self, iface: IfaceId, packet: Packet, made: bool);
    /// An error of the router's own about a packet that was to leave by the interface: to be routed, and
    /// translated, as if it had come in there. See [`Router::reroute`].
    fn inject(&mut self, iface: IfaceId, packet: Packet);
    /// A packet of so many bytes for the router itself ended here.
    fn consumed(&mut self, iface: IfaceId, bytes: usize);
    /// A packet ended here for a reason.
    fn dropped(&mut self, iface: IfaceId, reason: DropReason);
    /// Neighbours were learned or given up: other workers with packets that wait want [`Router::tick`].
    fn resolved(&mut self);
}

/// What became of a frame.
#[derive(Debug)]
pub enum Received {
    /// Answered, held, forwarded or dropped; the sink knows.
    Done,
    /// To an address of ours that needs no translation: give it to [`Router::local`].
    Local(Packet),
    /// From inside to a gateway's own address, of a protocol that may be the answer to somebody who appears as
    /// the gateway: translate it as that. If nobody does, give it to [`Router::local`].
    Answer(Packet),
    /// From a gateway, with its route. By an uplink: translate it first, as from inside. Else, and then, give
    /// it to [`Router::transmit`].
    Forward(Packet, Hop),
    /// From an uplink: translate it as from outside, then [`Router::inside`] knows where to. If nobody
    /// inside wants it, give it to [`Router::unsolicited`].
    Inbound(Packet),
}

/// Where a translated packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Hop(Hop),
    Ours(IfaceId),
    Broadcast,
    Nowhere,
}

impl Exit {
    #[inline]
    pub(crate) fn of(target: Option<Target>, addr: IpAddr) -> Exit {
        match target {
            Some(Target::Link(iface)) => Exit::Hop(Hop { iface, next: addr }),
            Some(Target::Via(iface, next)) => Exit::Hop(Hop { iface, next }),
            Some(Target::Ours(iface)) => Exit::Ours(iface),
            Some(Target::Broadcast(_)) => Exit::Broadcast,
            None => Exit::Nowhere,
        }
    }
}

/// What an interface's limits are at.
pub(crate) struct Limited {
    pub(crate) iface: IfaceId,
    pub(crate) errors: Bucket,
    pub(crate) defend: Bucket,
    /// Announcements of our addresses still to send, and when (RFC 5227 §2.3).
    pub(crate) announce: (u8, u64),
}

/// An answer of DHCP that waits until it is clear that nobody has the address.
pub(crate) struct Offer {
    pub(crate) iface: IfaceId,
    /// When ARP has asked for it, and when it is clear, milliseconds.
    pub(crate) asked: u64,
    pub(crate) due: u64,
    pub(crate) answer: Answer,
}

/// Everything that changes.
pub(crate) struct State {
    pub(crate) neighbours: Arc<Neighbours>,
    pub(crate) held: Held,
    pub(crate) limits: Vec<Limited>,
    /// Of the neighbours, when held packets were last looked at.
    generation: u64,
    /// When they are to be looked at anyway.
    pub(crate) oldest: u64,
    pub(crate) parts: Batch,
    /// Addresses that DHCP is about to offer.
    pub(crate) offers: Vec<Offer>,
    /// Gateways that stop advertising themselves.
    farewells: Vec<Iface>,
    cache: Cache,
    pub(crate) legs: Legs,
    /// Whether it announces addresses and advertises: one worker does.
    leader: bool,
}

/// One worker's router. See the head of the crate.
pub struct Router {
    tables: Arc<Tables>,
    state: State,
}

/// The router at work on one packet.
pub(crate) struct Run<'a, S> {
    pub(crate) tables: &'a Tables,
    pub(crate) state: &'a mut State,
    pub(crate) now: u64,
    pub(crate) pool: &'a mut Pool,
    pub(crate) sink: &'a mut S,
}

impl Router {
    /// A router without interfaces. `leader`: announces addresses and sends advertisements; one of all workers
    /// does.
    pub fn new(neighbours: Arc<Neighbours>, leader: bool) -> Router {
        let state = State {
            neighbours,
            held: Held::new(),
            limits: Vec::new(),
            generation: 0,
            oldest: u64::MAX,
            parts: Batch::with_capacity(64),
            offers: Vec::new(),
            farewells: Vec::new(),
            cache: Cache::new(),
            legs: Legs::new(),
            leader,
        };
        Router { tables: Arc::default(), state }
    }

    /// Takes up new tables. Packets that wait are looked at again at the next [`Router::tick`].
    pub fn set_tables(&mut self, now: u64, tables: Arc<Tables>) {
        let old = &self.tables;
        let limits = tables.ifaces().iter().map(|iface| {
            let same = old.iface(iface.id).is_some_and(|o| {
                (o.mac, &o.addresses, &o.proxies) == (iface.mac, &iface.addresses, &iface.proxies)
            });
            let mut limited = match self.state.limits.iter().position(|l| l.iface == iface.id) {
                Some(at) => self.state.limits.swap_remove(at),
                None => Limited {
                    iface: iface.id,
                    errors: Bucket::new(ERRORS.0, ERRORS.1),
                    defend: Bucket::new(DEFEND.0, DEFEND.1),
                    announce: (0, u64::MAX),
                },
            };
            if !same && self.state.leader && !iface.is_shared() {
                limited.announce = (2, now);
            }
            limited
        });
        let limits: Vec<Limited> = limits.collect();
        self.state.limits = limits;
        if self.state.leader {
            let ceases = |i: &&Iface| {
                let there = tables.iface(i.id).is_some_and(|n| n.services.ra.is_none());
                i.services.ra.is_some() && there
            };
            self.state.farewells.extend(old.ifaces().iter().filter(ceases).cloned());
        }
        self.state.cache.clear();
        self.state.legs.clear();
        self.state.generation = self.state.neighbours.generation().wrapping_sub(1);
        self.tables = tables;
    }

    /// The tables in force.
    pub fn tables(&self) -> &Arc<Tables> {
        &self.tables
    }

    /// Whether a gateway that advertises itself no more has still to say so: at the next [`Router::tick`].
    pub fn is_ceasing(&self) -> bool {
        !self.state.farewells.is_empty()
    }

    /// Packets that wait for a neighbour; the router's own, which count only once they are sent, left out.
    pub fn held(&self) -> usize {
        self.state.held.forwarded()
    }

    #[inline]
    pub(crate) fn neighbours(&self) -> &Neighbours {
        &self.state.neighbours
    }

    #[inline]
    pub(crate) fn legs(&self) -> &Legs {
        &self.state.legs
    }

    /// What legs are looked up in, and those that are remembered.
    #[inline]
    pub(crate) fn parts(&mut self) -> (&Tables, &mut Legs) {
        (&self.tables, &mut self.state.legs)
    }

    #[inline]
    pub(crate) fn run<'a, S: Sink>(
        &'a mut self,
        now: u64,
        pool: &'a mut Pool,
        sink: &'a mut S,
    ) -> Run<'a, S> {
        Run { tables: &self.tables, state: &mut self.state, now, pool, sink }
    }

    /// A frame came in by an interface; its outermost VLAN tag, if any, is in the metadata.
    #[inline]
    pub fn receive<S: Sink>(
        &mut self,
        now: u64,
        iface: IfaceId,
        packet: Packet,
        pool: &mut Pool,
        sink: &mut S,
    ) -> Received {
        self.run(now, pool, sink).receive(iface, packet)
    }

    /// What to do with a packet of our own that [`Sink::inject`] handed over.
    pub fn reroute<S: Sink>(
        &mut self,
        now: u64,
        iface: IfaceId,
        packet: Packet,
        pool: &mut Pool,
        sink: &mut S,
    ) -> Received {
        self.run(now, pool, sink).reroute(iface, packet)
    }

    /// A checked packet to one of our addresses.
    pub fn local<S: Sink>(
        &mut self,
        now: u64,
        iface: IfaceId,
        packet: Packet,
        pool: &mut Pool,
        sink: &mut S,
    ) {
        self.run(now, pool, sink).local(iface, packet);
    }

    /// A packet from an uplink that the translation does not know, as it came in. `reason`: why.
    pub fn unsolicited<S: Sink>(
        &mut self,
        now: u64,
        iface: IfaceId,
        packet: Packet,
        reason: DropReason,
        pool: &mut Pool,
        sink: &mut S,
    ) {
        self.run(now, pool, sink).unsolicited(iface, packet, reason);
    }

    /// Sends a translated packet to the host of the zone that it is addressed to.
    #[inline]
    pub fn inside<S: Sink>(&mut self, now: u64, zone: Zone, packet: Packet, pool: &mut Pool, sink: &mut S) {
        self.run(now, pool, sink).inside(zone, packet);
    }

    /// Sends a translated packet by an uplink.
    #[inline]
    pub fn outside<S: Sink>(
        &mut self,
        now: u64,
        uplink: IfaceId,
        packet: Packet,
        pool: &mut Pool,
        sink: &mut S,
    ) {
        self.run(now, pool, sink).outside(uplink, packet);
    }

    /// Makes an error of our own, on its way into a zone, come from the gateway that its receiver knows
    /// (RFC 1812 §4.3.2.4): it may have been made about a packet that was to leave elsewhere.
    pub fn sign(&self, zone: Zone, packet: &mut Packet) {
        let Some(ip) = Headers::parse(packet) else { return };
        let dst = destination(packet.head(), &ip);
        if let Exit::Hop(hop) = Exit::of(self.tables.reached(zone, dst), dst)
            && let Some(iface) = self.tables.iface(hop.iface).filter(|i| i.zone().is_some())
        {
            errors::set_source(packet.head_mut(), &ip, iface);
        }
    }

    /// Sends a translated answer to the client that appeared as the gateway, wherever that is.
    pub fn client<S: Sink>(
        &mut self,
        now: u64,
        uplink: IfaceId,
        packet: Packet,
        pool: &mut Pool,
        sink: &mut S,
    ) {
        self.run(now, pool, sink).client(uplink, packet);
    }

    /// Forwards a packet to the next hop: TTL, MTU, neighbour, link header.
    #[inline]
    pub fn transmit<S: Sink>(&mut self, now: u64, hop: Hop, packet: Packet, pool: &mut Pool, sink: &mut S) {
        self.run(now, pool, sink).transmit(hop, packet, false);
    }

    /// Sends a packet of our own, with a link header of any content, by an uplink: routed, not translated. For
    /// tunnels.
    pub fn send_own<S: Sink>(
        &mut self,
        now: u64,
        uplink: IfaceId,
        packet: Packet,
        pool: &mut Pool,
        sink: &mut S,
    ) {
        self.run(now, pool, sink).send_own(uplink, packet);
    }

    /// Housekeeping: what is due. To be called at [`Router::next_due`], and after [`Sink::resolved`] of another
    /// worker.
    pub fn tick<S: Sink>(&mut self, now: u64, pool: &mut Pool, sink: &mut S) {
        let leader = self.state.leader;
        let generation = self.state.neighbours.generation();
        let look = generation != self.state.generation || self.state.oldest <= now;
        let mut run = self.run(now, pool, sink);
        run.ask_again();
        run.offer();
        if leader {
            run.announce();
            run.advertise();
            while let Some(iface) = run.state.farewells.pop() {
                run.cease(&iface);
            }
        }
        // Asking may have given up neighbours.
        if look || run.state.neighbours.generation() != generation {
            let generation = run.state.neighbours.generation();
            run.release();
            self.state.generation = generation;
        }
    }

    /// When [`Router::tick`] has something to do, milliseconds; `u64::MAX` for never.
    pub fn next_due(&self) -> u64 {
        let state = &self.state;
        let mut next = state.neighbours.next_due().min(state.oldest);
        next = state.offers.iter().map(|o| o.due).fold(next, u64::min);
        if !state.farewells.is_empty() {
            next = 0;
        }
        if state.held.len() > 0 && state.neighbours.generation() != state.generation {
            next = 0;
        }
        if state.leader {
            let announce = state.limits.iter().map(|l| l.announce.1);
            let ra = self.tables.ifaces().iter().filter_map(|i| i.services.ra.as_ref());
            let ra = ra.filter_map(|ra| ra.try_lock().map(|ra| ra.next()));
            next = announce.chain(ra).fold(next, u64::min);
        }
        next
    }
}

impl<S: Sink> Run<'_, S> {
    /// See [`Tables::reached`].
    #[inline]
    pub(crate) fn reached(&mut self, zone: Zone, addr: IpAddr) -> Option<Target> {
        let tables = self.tables;
        self.state.cache.get(Scope::Zone(zone.0), addr, || tables.reached(zone, addr))
    }

    /// See [`Tables::inside`].
    #[inline]
    pub(crate) fn within(&mut self, zone: Zone, addr: IpAddr) -> Option<Target> {
        let tables = self.tables;
        self.state.cache.get(Scope::Inside(zone.0), addr, || tables.inside(zone, addr))
    }

    /// See [`Tables::outside`].
    #[inline]
    pub(crate) fn beyond(&mut self, uplink: IfaceId, addr: IpAddr) -> Option<Target> {
        let tables = self.tables;
        self.state.cache.get(Scope::Uplink(uplink.0), addr, || tables.outside(uplink, addr))
    }

    #[inline]
    pub(crate) fn lose(&mut self, iface: IfaceId, packet: Packet, reason: DropReason) {
        self.sink.dropped(iface, reason);
        self.pool.put(packet);
    }

    #[inline]
    pub(crate) fn consume(&mut self, iface: IfaceId, packet: Packet) {
        self.sink.consumed(iface, packet.len());
        self.pool.put(packet);
    }

    /// Sends a frame of the router's own, if it could be made.
    pub(crate) fn send_made(&mut self, iface: IfaceId, made: Result<Packet, DropReason>) {
        // It fails only for what is too large to be made, of which nothing was counted yet.
        if let Ok(packet) = made {
            self.sink.send(iface, packet, true);
        }
    }

    pub(crate) fn limits(&mut self, iface: IfaceId) -> Option<&mut Limited> {
        self.state.limits.iter_mut().find(|l| l.iface == iface)
    }
}
