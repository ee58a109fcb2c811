//! IPv6 neighbour discovery (RFC 4861 §6, §7).

use std::net::{IpAddr, Ipv6Addr};

use trunkline_packet::headers::Headers;
use trunkline_packet::{DropReason, MacAddr, Packet, icmp};

use crate::build::{self, group_mac, solicited_node};
use crate::iface::Iface;
use crate::neighbour::Word;
use crate::receive::{destination, mac_at, source, ttl};
use crate::router::{Run, Sink};

const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Option types: the MAC address of the sender, and of the target.
const SOURCE: u8 = 1;
const TARGET: u8 = 2;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Flags of an advertisement: router, solicited, override.
const ROUTER: u8 = 0x80;
const SOLICITED: u8 = 0x40;
const OVERRIDE: u8 = 0x20;

/// A valid solicitation or advertisement (RFC 4861 §7.1, §6.1.1).
struct Message {
    kind: u8,
    src: Ipv6Addr,
    flags: u8,
    target: Ipv6Addr,
    /// The MAC address in the option that belongs to it.
    mac: Option<MacAddr>,
}

impl Message {
    fn parse(packet: &Packet, ip: &Headers) -> Result<Message, DropReason> {
        use DropReason::{RouterChecksum, RouterMalformed};
        let head = packet.head();
        let body = head.get(usize::from(ip.l4)..ip.end as usize).ok_or(RouterMalformed)?;
        let (IpAddr::V6(src), IpAddr::V6(dst)) = (source(head, ip), destination(head, ip)) else {
            return Err(RouterMalformed);
        };
        let kind = *body.first().ok_or(RouterMalformed)?;
        let fixed = if kind == ROUTER_SOLICITATION { 8 } else { 24 };
        // Hop limit 255 shows that no router has forwarded it.
        if ttl(head, ip) != 255 || body.len() < fixed || body[1] != 0 || src.is_multicast() {
            return Err(RouterMalformed);
        }
        if !icmp::checksum_ok(packet, ip) {
            return Err(RouterChecksum);
        }
        let (wanted, target) = match kind {
            ROUTER_SOLICITATION => (SOURCE, Ipv6Addr::UNSPECIFIED),
            _ => {
                let target = Ipv6Addr::from(*body[8..].first_chunk::<16>().ok_or(RouterMalformed)?);
                (if kind == SOLICITATION { SOURCE } else { TARGET }, target)
            }
        };
        let mac = option(&body[fixed..], wanted)?;
        let flags = body[4];
        let fine = match kind {
            SOLICITATION => {
                let probe = src.is_unspecified();
                !target.is_multicast() && !(probe && (mac.is_some() || dst != solicited_node(target)))
            }
            ADVERTISEMENT => {
                let unasked = flags & SOLICITED == 0;
                !target.is_multicast() && !src.is_unspecified() && (unasked || !dst.is_multicast())
            }
            _ => !(src.is_unspecified() && mac.is_some()),
        };
        if fine { Ok(Message { kind, src, flags, target, mac }) } else { Err(RouterMalformed) }
    }
}

/// The address in an option, if it is there. All options must have a length (RFC 4861 §4.6).
fn option(mut options: &[u8], wanted: u8) -> Result<Option<MacAddr>, DropReason> {
    let mut found = None;
    while let [kind, len, ..] = *options {
        let len = usize::from(len) * 8;
        if len == 0 || len > options.len() {
            return Err(DropReason::RouterMalformed);
        }
        if kind == wanted && len == 8 {
            found = Some(mac_at(options, 2));
        }
        options = &options[len..];
    }
    if options.is_empty() { Ok(found) } else { Err(DropReason::RouterMalformed) }
}

impl<S: Sink> Run<'_, S> {
    /// A solicitation, advertisement or redirect.
    pub(crate) fn discovery(&mut self, iface: &Iface, packet: Packet, ip: &Headers) {
        let kind = packet.head().get(usize::from(ip.l4)).copied();
        if !matches!(kind, Some(ROUTER_SOLICITATION | SOLICITATION | ADVERTISEMENT)) {
            // We are no host: no router's advertisement or redirect concerns us.
            return self.consume(iface.id, packet);
        }
        let m = match Message::parse(&packet, ip) {
            Ok(m) => m,
            Err(reason) => return self.lose(iface.id, packet, reason),
        };
        match m.kind {
            ROUTER_SOLICITATION => self.router_solicited(iface, &packet, &m),
            SOLICITATION => self.solicited(iface, &packet, &m),
            _ => self.advertised(iface, &m),
        }
        self.consume(iface.id, packet);
    }

    fn solicited(&mut self, iface: &Iface, packet: &Packet, m: &Message) {
        let probe = m.src.is_unspecified();
        if let Some(mac) = m.mac {
            self.heard(iface, m.src, mac, Word::Question);
        }
        if !iface.answers_for(m.target.into()) {
            return;
        }
        let to = m.mac.unwrap_or_else(|| mac_at(packet.head(), 6));
        let (dst, mac) = if probe { (ALL_NODES, group_mac(ALL_NODES)) } else { (m.src, to) };
        let mut flags = if probe { 0 } else { SOLICITED };
        // RFC 4861 §7.2.4: not for what is answered for others.
        if iface.owns(m.target.into()) || iface.proxies.contains(&m.target.into()) {
            flags |= OVERRIDE;
        }
        self.advertise_address(iface, m.target, (dst, mac), flags);
    }

    fn advertised(&mut self, iface: &Iface, m: &Message) {
        if iface.owns(m.target.into()) {
            // Somebody else has it: say again whose it is (RFC 4862 §5.4.4 leaves it open; as RFC 5227 §2.4).
            let now = self.now;
            if m.mac.is_some_and(|mac| mac != iface.mac)
                && !iface.is_shared()
                && self.limits(iface.id).is_some_and(|l| l.defend.take(now))
            {
                self.announce_v6(iface, m.target);
            }
            return;
        }
        if let Some(mac) = m.mac {
            let word =
                Word::Answer { solicited: m.flags & SOLICITED != 0, replaces: m.flags & OVERRIDE != 0 };
            self.heard(iface, m.target, mac, word);
        }
    }

    fn heard(&mut self, iface: &Iface, addr: Ipv6Addr, mac: MacAddr, word: Word) {
        if self.state.neighbours.learn(self.now, iface.id, addr.into(), mac, word) {
            self.sink.resolved();
            self.release();
        }
    }

    fn advertise_address(&mut self, iface: &Iface, target: Ipv6Addr, to: (Ipv6Addr, MacAddr), flags: u8) {
        let mut m = [0u8; 32];
        m[0] = ADVERTISEMENT;
        m[4] = flags | if iface.zone().is_some() { ROUTER } else { 0 };
        m[8..24].copy_from_slice(&target.octets());
        (m[24], m[25]) = (TARGET, 1);
        m[26..32].copy_from_slice(&iface.mac.0);
        // From the address itself: it need not be the target's, but is at least one of ours.
        let src = if iface.owns(target.into()) { target } else { iface.v6() };
        let made = build::icmpv6((iface.mac, to.1), src, to.0, &mut m, self.pool);
        self.send_made(iface.id, made);
    }

    /// Tells all nodes that the address is ours (RFC 4861 §7.2.6).
    pub(crate) fn announce_v6(&mut self, iface: &Iface, addr: Ipv6Addr) {
        self.advertise_address(iface, addr, (ALL_NODES, group_mac(ALL_NODES)), OVERRIDE);
    }

    /// A question for an address: to its group, or to whom it is thought to be.
    pub(crate) fn solicitation(
        &mut self,
        iface: &Iface,
        addr: Ipv6Addr,
        to: Option<MacAddr>,
    ) -> Result<Packet, DropReason> {
        let (dst, mac) = match to {
            Some(mac) => (addr, mac),
            None => (solicited_node(addr), group_mac(solicited_node(addr))),
        };
        let mut m = [0u8; 32];
        m[0] = SOLICITATION;
        m[8..24].copy_from_slice(&addr.octets());
        (m[24], m[25]) = (SOURCE, 1);
        m[26..32].copy_from_slice(&iface.mac.0);
        let src = if addr.is_unicast_link_local() { iface.link_local() } else { iface.v6() };
        build::icmpv6((iface.mac, mac), src, dst, &mut m, self.pool)
    }

    fn router_solicited(&mut self, iface: &Iface, packet: &Packet, m: &Message) {
        let Some(ra) = &iface.services.ra else { return };
        let mac = m.mac.unwrap_or_else(|| mac_at(packet.head(), 6));
        // Another worker at it: the client asks again.
        let answer = ra.try_lock().and_then(|mut ra| ra.solicited(self.now, iface, m.src, mac));
        if let Some(answer) = answer {
            self.send_icmp6(iface, answer);
        }
    }

    /// Sends router advertisements that are due.
    pub(crate) fn advertise(&mut self) {
        let tables = self.tables;
        for iface in tables.ifaces() {
            let due = iface.services.ra.as_ref().and_then(|ra| ra.try_lock()?.tick(self.now, iface));
            if let Some(answer) = due {
                self.send_icmp6(iface, answer);
            }
        }
    }

    /// Tells all nodes that a gateway is their router no more (RFC 4861 §6.2.5).
    pub(crate) fn cease(&mut self, iface: &Iface) {
        let last = iface.services.ra.as_ref().and_then(|ra| ra.try_lock()?.last(iface));
        if let Some(last) = last {
            self.send_icmp6(iface, last);
        }
    }

    fn send_icmp6(&mut self, iface: &Iface, answer: crate::service::Icmp6) {
        let mut message = answer.message;
        if message.len() < 8 {
            return;
        }
        let mac = if answer.dst.is_multicast() { group_mac(answer.dst) } else { answer.dst_mac };
        let macs = (iface.mac, mac);
        let made = build::icmpv6(macs, iface.link_local(), answer.dst, &mut message, self.pool);
        self.send_made(iface.id, made);
    }
}
