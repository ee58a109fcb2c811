//! Packets to our own addresses: pings, DHCP; nothing else is served.

use std::net::IpAddr;

use trunkline_packet::checksum;
use trunkline_packet::headers::{Fragment, Headers, IpVersion, UDP_HLEN, proto, read16, write16};
use trunkline_packet::icmp::{self, Problem};
use trunkline_packet::{DropReason, Packet};

use crate::build::{self, TTL};
use crate::iface::{Iface, IfaceId};
use crate::neighbour::{Lookup, Request};
use crate::receive::{DHCP_SERVER, destination, mac_at, source};
use crate::router::{Offer, Run, Sink};
use crate::service::{Answer, Datagram};

/// How long an answer to ARP is waited for before an address is offered, milliseconds.
const LOOK: u64 = 300;
/// Offers of a worker that wait at a time.
const MOST_OFFERS: usize = 64;

impl<S: Sink> Run<'_, S> {
    /// See [`crate::Router::local`].
    pub(crate) fn local(&mut self, at: IfaceId, packet: Packet) {
        let Some((iface, ip)) = self.tables.iface(at).zip(Headers::parse(&packet)) else {
            return self.lose(at, packet, DropReason::RouterNoRoute);
        };
        let src = source(packet.head(), &ip);
        // Nobody else sends from our addresses.
        if self
            .tables
            .ifaces()
            .iter()
            .any(|i| i.owns(src) && (i.zone() == iface.zone() || i.zone().is_none()))
        {
            return self.lose(at, packet, DropReason::RouterMartian);
        }
        let later = ip.fragment == Fragment::Later && matches!(ip.proto, proto::ICMP | proto::ICMPV6);
        if later || icmp::is_type(packet.head(), &ip, 8, 128) {
            return self.echo(iface, packet, &ip, later);
        }
        let port = read16(packet.head(), usize::from(ip.l4) + 2);
        match ip.proto {
            proto::UDP if port == Some(DHCP_SERVER) && iface.services.dhcp.is_some() => {
                self.dhcp(iface, packet, &ip);
            }
            proto::ICMP | proto::ICMPV6 => self.consume(at, packet),
            _ if is_broadcast(iface, destination(packet.head(), &ip)) => self.consume(at, packet),
            // Hosts inside are told that nobody listens, the world is not (RFC 1122 §3.2.2.1 leaves it open).
            proto::UDP | proto::TCP if iface.zone().is_some() && ip.fragment == Fragment::None => {
                self.answer(iface, &packet, &ip, Problem::Port);
                self.lose(at, packet, DropReason::RouterClosed);
            }
            _ => self.lose(at, packet, DropReason::RouterClosed),
        }
    }

    /// See [`crate::Router::unsolicited`].
    pub(crate) fn unsolicited(&mut self, at: IfaceId, packet: Packet, reason: DropReason) {
        let Some((iface, ip)) = self.tables.iface(at).zip(Headers::parse(&packet)) else {
            return self.lose(at, packet, reason);
        };
        if iface.is_shared() {
            // The host's own: its stack has a copy.
            return self.lose(at, packet, DropReason::RouterNotOurs);
        }
        if iface.owns(destination(packet.head(), &ip)) && reason == DropReason::NatUnsolicited {
            return self.local(at, packet);
        }
        self.lose(at, packet, reason);
    }

    /// Turns an echo request into its reply, which goes back to the station that sent the frame. Each fragment
    /// by itself: the checksum changes by the type alone, which is in the first.
    fn echo(&mut self, iface: &Iface, mut packet: Packet, ip: &Headers, later: bool) {
        let full = packet.meta().offload.csum.is_full();
        let bytes = packet.len();
        let head = packet.head_mut();
        let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4));
        let to = mac_at(head, 6);
        if to.is_group() || is_broadcast(iface, destination(head, ip)) {
            return self.consume(iface.id, packet);
        }
        build::link(head, to, iface.mac);
        match ip.version {
            IpVersion::V4 => {
                swap::<4>(head, l3 + 12);
                let old = read16(head, l3 + 8).unwrap_or_default();
                let new = u16::from(TTL) << 8 | old & 0xff;
                let check = read16(head, l3 + 10).unwrap_or_default();
                write16(head, l3 + 8, new);
                write16(head, l3 + 10, checksum::update(check, old, new));
            }
            IpVersion::V6 => {
                swap::<16>(head, l3 + 8);
                head[l3 + 7] = TTL;
            }
        }
        if !later {
            let old = read16(head, l4).unwrap_or_default();
            let reply = if ip.version == IpVersion::V4 { 0 } else { 129 };
            let new = reply << 8 | old & 0xff;
            write16(head, l4, new);
            // A partial checksum holds the pseudo-header's sum, which stays.
            if full && let Some(check) = read16(head, l4 + 2) {
                write16(head, l4 + 2, checksum::update(check, old, new));
            }
        }
        self.sink.consumed(iface.id, bytes);
        self.sink.send(iface.id, packet, true);
    }

    fn dhcp(&mut self, iface: &Iface, packet: Packet, ip: &Headers) {
        match self.ask_dhcp(iface, &packet, ip) {
            Some(answer) if answer.offer.is_some() => self.look_before(iface, answer),
            Some(answer) => self.send_dhcp(iface, &answer),
            None => {}
        }
        self.consume(iface.id, packet);
    }

    fn send_dhcp(&mut self, iface: &Iface, answer: &Answer) {
        if let Some(us) = iface.v4() {
            let (macs, to) = ((iface.mac, answer.dst_mac), (answer.dst, answer.dst_port));
            let made = build::udp4(macs, (us, DHCP_SERVER), to, &answer.payload, self.pool);
            self.send_made(iface.id, made);
        }
    }

    /// Asks for the address of an offer before it is made (RFC 2131 §2.2). When there is no room to wait for an
    /// answer, it is made at once.
    fn look_before(&mut self, iface: &Iface, answer: Answer) {
        let Some((addr, _)) = answer.offer else { return };
        let waiting = |o: &&mut Offer| o.iface == iface.id && o.answer.offer == answer.offer;
        if let Some(same) = self.state.offers.iter_mut().find(waiting) {
            // The client asks again.
            same.answer = answer;
            return;
        }
        let known = self.state.neighbours.resolve(self.now, iface.id, addr.into());
        if known == Lookup::Full || self.state.offers.len() >= MOST_OFFERS {
            return self.send_dhcp(iface, &answer);
        }
        self.request(Request { iface: iface.id, addr: addr.into(), mac: None });
        let (asked, due) = (self.now, self.now + LOOK);
        self.state.offers.push(Offer { iface: iface.id, asked, due, answer });
    }

    /// Makes the offers that are due, of addresses that nobody but the client itself has.
    pub(crate) fn offer(&mut self) {
        while let Some(at) = self.state.offers.iter().position(|o| o.due <= self.now) {
            let Offer { iface, asked, answer, .. } = self.state.offers.swap_remove(at);
            let Some((iface, (addr, client))) = self.tables.iface(iface).zip(answer.offer) else { continue };
            let owner = self.state.neighbours.answered(asked, iface.id, addr.into());
            match (owner, &iface.services.dhcp) {
                (Some(owner), Some(dhcp)) if owner != client => {
                    // The client asks again, and is offered another.
                    if let Some(mut dhcp) = dhcp.try_lock() {
                        dhcp.taken(self.now, addr);
                    }
                }
                _ => self.send_dhcp(iface, &answer),
            }
        }
    }

    fn ask_dhcp(&mut self, iface: &Iface, packet: &Packet, ip: &Headers) -> Option<Answer> {
        let (head, l4) = (packet.head(), usize::from(ip.l4));
        let (IpAddr::V4(src), IpAddr::V4(dst)) = (source(head, ip), destination(head, ip)) else {
            return None;
        };
        if ip.fragment != Fragment::None || ip.end as usize > head.len() {
            return None;
        }
        let len = usize::from(read16(head, l4 + 4)?);
        let payload = head.get(l4 + UDP_HLEN..(l4 + len).min(ip.end as usize))?;
        let has_sum = packet.meta().offload.csum.is_full() && read16(head, l4 + 6) != Some(0);
        if has_sum && !checksum::transport_ok(packet, ip) {
            return None;
        }
        let src_mac = mac_at(head, 6);
        let request = Datagram { src_mac, src, dst, src_port: read16(head, l4)?, payload };
        // Another worker at it: the client asks again.
        iface.services.dhcp.as_ref()?.try_lock()?.handle(self.now, iface, &request)
    }
}

/// Swaps two addresses of N bytes, one behind the other.
fn swap<const N: usize>(head: &mut [u8], at: usize) {
    if let Some(both) = head.get_mut(at..at + 2 * N) {
        let (a, b) = both.split_at_mut(N);
        a.swap_with_slice(b);
    }
}

/// Limited or subnet broadcast.
fn is_broadcast(iface: &Iface, addr: IpAddr) -> bool {
    let IpAddr::V4(addr) = addr else { return false };
    addr.is_broadcast()
        || iface.addresses.iter().any(|net| match net {
            ipnet::IpNet::V4(net) if net.prefix_len() < 31 => {
                net.broadcast() == addr || net.network() == addr
            }
            _ => false,
        })
}
