//! What leaves: TTL, MTU, the neighbour, the link header.

use std::net::IpAddr;

use trunkline_packet::checksum;
use trunkline_packet::headers::{Headers, IpVersion, read16, write16};
use trunkline_packet::icmp::Problem;
use trunkline_packet::{DropReason, MacAddr, Packet, fragment_v4};

use crate::build;
use crate::held::{PATIENCE, Waiting};
use crate::iface::{Iface, IfaceId, Zone};
use crate::neighbour::{Lookup, Request};
use crate::receive::{destination, exceeds, is_too_big, source, ttl};
use crate::router::{Exit, Run, Sink};
use crate::tables::Hop;

impl<'a, S: Sink> Run<'a, S> {
    /// See [`crate::Router::inside`].
    #[inline]
    pub(crate) fn inside(&mut self, zone: Zone, packet: Packet) {
        let any = || {
            let gateway = self.tables.ifaces().iter().find(|i| i.zone() == Some(zone));
            gateway.map_or(IfaceId(u16::MAX), |i| i.id)
        };
        let Some(ip) = Headers::parse(&packet) else {
            return self.lose(any(), packet, DropReason::RouterNoRoute);
        };
        let dst = destination(packet.head(), &ip);
        match Exit::of(self.within(zone, dst), dst) {
            Exit::Hop(hop) => self.forward(hop, packet, &ip, false),
            Exit::Ours(iface) => self.local(iface, packet),
            Exit::Broadcast => self.lose(any(), packet, DropReason::RouterBroadcast),
            Exit::Nowhere => self.lose(any(), packet, DropReason::RouterNoRoute),
        }
    }

    /// See [`crate::Router::client`].
    pub(crate) fn client(&mut self, uplink: IfaceId, packet: Packet) {
        let Some(ip) = Headers::parse(&packet) else {
            return self.lose(uplink, packet, DropReason::RouterNoRoute);
        };
        let dst = destination(packet.head(), &ip);
        let zones = self.tables.ifaces().iter().filter_map(Iface::zone);
        let inside = zones.map(|zone| Exit::of(self.tables.inside(zone, dst), dst));
        let hop = inside.filter_map(|exit| if let Exit::Hop(hop) = exit { Some(hop) } else { None }).next();
        match hop {
            Some(hop) => self.transmit(hop, packet, false),
            None => self.outside(uplink, packet),
        }
    }

    /// See [`crate::Router::outside`].
    #[inline]
    pub(crate) fn outside(&mut self, uplink: IfaceId, packet: Packet) {
        let Some((iface, ip)) = self.tables.iface(uplink).zip(Headers::parse(&packet)) else {
            return self.lose(uplink, packet, DropReason::RouterNoRoute);
        };
        let dst = destination(packet.head(), &ip);
        let mut exit = Exit::of(self.beyond(uplink, dst), dst);
        // The host's network knows the host's addresses only; IPv6 may be routed to us (see `nd_proxy`).
        if iface.is_shared() && dst.is_ipv4() && !iface.owns(source(packet.head(), &ip)) {
            exit = Exit::Nowhere;
        }
        match exit {
            Exit::Hop(hop) => self.forward(hop, packet, &ip, false),
            // To our own address there, where nobody is published.
            Exit::Ours(_) => self.lose(uplink, packet, DropReason::RouterClosed),
            Exit::Broadcast => self.lose(uplink, packet, DropReason::RouterBroadcast),
            Exit::Nowhere => self.lose(uplink, packet, DropReason::RouterNoRoute),
        }
    }

    /// See [`crate::Router::send_own`].
    pub(crate) fn send_own(&mut self, uplink: IfaceId, packet: Packet) {
        let dst = Headers::parse(&packet).map(|ip| destination(packet.head(), &ip));
        match dst.map(|dst| Exit::of(self.tables.outside(uplink, dst), dst)) {
            Some(Exit::Hop(hop)) => self.transmit(hop, packet, true),
            _ => self.lose(uplink, packet, DropReason::RouterNoRoute),
        }
    }

    /// `own`: the router's own packet, whose TTL is as it should be.
    #[inline]
    pub(crate) fn transmit(&mut self, hop: Hop, packet: Packet, own: bool) {
        match Headers::parse(&packet) {
            Some(ip) => self.forward(hop, packet, &ip, own),
            None => self.lose(hop.iface, packet, DropReason::RouterNoRoute),
        }
    }

    #[inline]
    fn forward(&mut self, hop: Hop, mut packet: Packet, ip: &Headers, own: bool) {
        let Some(iface) = self.tables.iface(hop.iface) else {
            return self.lose(hop.iface, packet, DropReason::RouterNoRoute);
        };
        if !own {
            if ttl(packet.head(), ip) <= 1 {
                return self.refuse(iface, packet, ip, Problem::HopLimit, DropReason::RouterTtl);
            }
            decrement(packet.head_mut(), ip);
        }
        if exceeds(&packet, iface.mtu) {
            return self.too_big(iface, hop, packet, ip, own);
        }
        self.hand_over(iface, hop, packet, own);
    }

    #[cold]
    fn refuse(
        &mut self,
        iface: &'a Iface,
        packet: Packet,
        ip: &Headers,
        problem: Problem,
        reason: DropReason,
    ) {
        self.complain(iface, &packet, ip, problem);
        self.lose(iface.id, packet, reason);
    }

    #[cold]
    fn too_big(&mut self, iface: &'a Iface, hop: Hop, packet: Packet, ip: &Headers, own: bool) {
        if is_too_big(&packet, ip, iface.mtu) {
            return self.refuse(iface, packet, ip, Problem::TooBig(iface.mtu), DropReason::RouterTooBig);
        }
        let mut parts = std::mem::take(&mut self.state.parts);
        match fragment_v4(packet, usize::from(iface.mtu), self.pool, &mut parts) {
            // The first stands for the packet that came; the others are made here.
            Ok(_) => {
                let parts = parts.drain(..).enumerate();
                parts.for_each(|(i, part)| self.hand_over(iface, hop, part, own || i > 0));
            }
            Err(reason) => self.sink.dropped(iface.id, reason),
        }
        self.state.parts = parts;
    }

    #[inline]
    pub(crate) fn hand_over(&mut self, iface: &'a Iface, hop: Hop, mut packet: Packet, made: bool) {
        match self.state.neighbours.resolve(self.now, hop.iface, hop.next) {
            Lookup::Mac(mac) => {
                build::link(packet.head_mut(), mac, iface.mac);
                self.sink.send(hop.iface, packet, made);
            }
            other => self.wait(iface, Waiting { hop, packet, since: self.now, made }, other),
        }
    }

    #[cold]
    fn wait(&mut self, iface: &'a Iface, waiting: Waiting, lookup: Lookup) {
        match lookup {
            Lookup::Unreachable => return self.unreachable(iface, waiting),
            Lookup::Full => return self.give_up(waiting, DropReason::RouterNeighbourLimit),
            Lookup::Ask => self.request(Request { iface: iface.id, addr: waiting.hop.next, mac: None }),
            Lookup::Wait | Lookup::Mac(_) => {}
        }
        self.state.oldest = self.state.oldest.min(waiting.since + PATIENCE);
        if let Some(old) = self.state.held.push(waiting) {
            self.give_up(old, DropReason::RouterUnresolved);
        }
    }

    fn give_up(&mut self, waiting: Waiting, reason: DropReason) {
        // What the router made counts as generated once it is sent.
        if waiting.made {
            self.pool.put(waiting.packet);
        } else {
            self.lose(waiting.hop.iface, waiting.packet, reason);
        }
    }

    fn unreachable(&mut self, iface: &'a Iface, waiting: Waiting) {
        if !waiting.made
            && let Some(ip) = Headers::parse(&waiting.packet)
        {
            self.complain(iface, &waiting.packet, &ip, Problem::Host);
        }
        self.give_up(waiting, DropReason::RouterUnreachable);
    }

    /// Looks at all packets that wait.
    pub(crate) fn release(&mut self) {
        self.state.oldest = u64::MAX;
        for _ in 0..self.state.held.len() {
            let Some(mut waiting) = self.state.held.pop() else { break };
            let Some(iface) = self.tables.iface(waiting.hop.iface) else {
                self.give_up(waiting, DropReason::RouterUnresolved);
                continue;
            };
            let found = self.state.neighbours.resolve(self.now, waiting.hop.iface, waiting.hop.next);
            match found {
                Lookup::Mac(mac) => {
                    build::link(waiting.packet.head_mut(), mac, iface.mac);
                    self.sink.send(waiting.hop.iface, waiting.packet, waiting.made);
                }
                Lookup::Unreachable => self.unreachable(iface, waiting),
                Lookup::Full => self.give_up(waiting, DropReason::RouterNeighbourLimit),
                Lookup::Wait | Lookup::Ask => {
                    if found == Lookup::Ask {
                        self.request(Request { iface: iface.id, addr: waiting.hop.next, mac: None });
                    }
                    if self.now >= waiting.since + PATIENCE {
                        self.unreachable(iface, waiting);
                    } else {
                        self.state.oldest = self.state.oldest.min(waiting.since + PATIENCE);
                        self.state.held.keep(waiting);
                    }
                }
            }
        }
    }

    /// Asks again for those that have not answered.
    pub(crate) fn ask_again(&mut self) {
        let neighbours = std::sync::Arc::clone(&self.state.neighbours);
        neighbours.tick(self.now, |request| self.request(request));
    }

    /// Sends an ARP request or a neighbour solicitation.
    pub(crate) fn request(&mut self, request: Request) {
        let Some(iface) = self.tables.iface(request.iface) else { return };
        let dst = request.mac;
        let made = match request.addr {
            IpAddr::V4(addr) => {
                // The address in whose subnet the neighbour is (RFC 1122 §2.3.2.1 leaves the choice).
                let near = iface.addresses.iter().find_map(|net| match net {
                    ipnet::IpNet::V4(net) if net.contains(&addr) => Some(net.addr()),
                    _ => None,
                });
                let Some(from) = near.or_else(|| iface.v4()) else { return };
                let nobody = (MacAddr::default(), addr);
                let dst = dst.unwrap_or(MacAddr::BROADCAST);
                build::arp(build::ARP_REQUEST, dst, (iface.mac, from), nobody, self.pool)
            }
            IpAddr::V6(addr) => self.solicitation(iface, addr, dst),
        };
        self.send_made(iface.id, made);
    }
}

/// Takes one off the TTL or hop limit (RFC 1812 §5.3.1), with the header checksum (RFC 1624).
#[inline]
fn decrement(head: &mut [u8], ip: &Headers) {
    let l3 = usize::from(ip.l3);
    match ip.version {
        IpVersion::V4 => {
            let (Some(old), Some(check)) = (read16(head, l3 + 8), read16(head, l3 + 10)) else { return };
            let new = old.wrapping_sub(0x100);
            write16(head, l3 + 8, new);
            write16(head, l3 + 10, checksum::update(check, old, new));
        }
        IpVersion::V6 => {
            if let Some(limit) = head.get_mut(l3 + 7) {
                *limit = limit.wrapping_sub(1);
            }
        }
    }
}
