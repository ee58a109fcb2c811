//! What comes in by an interface: whether it may be, and what it is (RFC 1812 §5.2, RFC 8200, RFC 4291 §2.5).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use trunkline_packet::checksum::ipv4_header_ok;
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::headers::{Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, proto, read16, read32};
use trunkline_packet::icmp::{self, Problem};
use trunkline_packet::{DropReason, EtherType, MacAddr, Packet, segment};

use crate::iface::{Iface, IfaceId, Kind};
use crate::router::{Exit, Received, Run, Sink};
use crate::tables::{Hop, Target, is_host};

const DF: u16 = 0x4000;
pub(crate) const DHCP_SERVER: u16 = 67;

/// What a packet is.
#[derive(Clone, Copy, Debug)]
enum Verdict {
    Drop(DropReason),
    /// To a group or to everybody, and nothing for us.
    Ignore,
    Discovery,
    Local,
    Answer,
    Forward(Hop),
    Inbound,
    NoRoute,
    /// Between hosts that are not to talk to each other.
    Isolated,
}

/// The source address of an IP packet.
#[inline]
pub(crate) fn source(head: &[u8], ip: &Headers) -> IpAddr {
    address(head, ip, 12, 8)
}

/// Where an IP packet goes to; `None` when it is none.
pub fn destination_of(packet: &Packet) -> Option<IpAddr> {
    Headers::parse(packet).map(|ip| destination(packet.head(), &ip))
}

/// The destination address of an IP packet.
#[inline]
pub(crate) fn destination(head: &[u8], ip: &Headers) -> IpAddr {
    address(head, ip, 16, 24)
}

#[inline]
fn address(head: &[u8], ip: &Headers, v4: usize, v6: usize) -> IpAddr {
    let l3 = usize::from(ip.l3);
    // Headers that were parsed are whole.
    match ip.version {
        IpVersion::V4 => IpAddr::V4(Ipv4Addr::from_bits(read32(head, l3 + v4).unwrap_or_default())),
        IpVersion::V6 => {
            let bytes = head.get(l3 + v6..).and_then(<[u8]>::first_chunk::<16>);
            IpAddr::V6(Ipv6Addr::from(bytes.copied().unwrap_or_default()))
        }
    }
}

#[inline]
pub(crate) fn mac_at(head: &[u8], at: usize) -> MacAddr {
    MacAddr(head.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default())
}

/// TTL or hop limit.
#[inline]
pub(crate) fn ttl(head: &[u8], ip: &Headers) -> u8 {
    let at = usize::from(ip.l3) + if ip.version == IpVersion::V4 { 8 } else { 7 };
    head.get(at).copied().unwrap_or_default()
}

/// Whether an untagged frame, or a segment of it, is larger than an MTU.
#[inline]
pub(crate) fn exceeds(packet: &Packet, mtu: u16) -> bool {
    segment::exceeds(packet, usize::from(mtu))
}

/// Whether a packet is larger than an MTU and must not be fragmented.
#[inline]
pub(crate) fn is_too_big(packet: &Packet, ip: &Headers, mtu: u16) -> bool {
    exceeds(packet, mtu)
        && (ip.version == IpVersion::V6
            || read16(packet.head(), usize::from(ip.l3) + 6).unwrap_or(DF) & DF != 0)
}

impl<'a, S: Sink> Run<'a, S> {
    #[inline]
    pub(crate) fn receive(&mut self, at: IfaceId, mut packet: Packet) -> Received {
        let Some(iface) = self.tables.iface(at) else {
            self.lose(at, packet, DropReason::RouterNoRoute);
            return Received::Done;
        };
        let head = packet.head();
        let dst = mac_at(head, 0);
        let kind = EtherType(read16(head, 12).unwrap_or_default());
        let group = dst.is_group();
        if (dst != iface.mac && !group) || packet.meta().vlan.is_some() || head.len() < ETH_HLEN {
            self.lose(at, packet, DropReason::RouterNotOurs);
            return Received::Done;
        }
        let ip = match kind {
            EtherType::IPV4 | EtherType::IPV6 => Headers::of_frame(head),
            EtherType::ARP => {
                self.arp(iface, packet);
                return Received::Done;
            }
            _ if group => {
                self.consume(at, packet);
                return Received::Done;
            }
            _ => {
                self.lose(at, packet, DropReason::RouterNotIp);
                return Received::Done;
            }
        };
        let Some(ip) = ip.filter(|ip| ip.is_whole(packet.len())) else {
            self.lose(at, packet, DropReason::RouterMalformed);
            return Received::Done;
        };
        // What lies behind is padding of the link.
        packet.truncate(ip.end as usize);
        let verdict = match ip.version {
            IpVersion::V4 => self.judge_v4(iface, packet.head(), &ip, group),
            IpVersion::V6 => self.judge_v6(iface, packet.head(), &ip, group),
        };
        match verdict {
            Verdict::Forward(hop) => self.may_forward(iface, packet, &ip, hop),
            Verdict::Inbound => Received::Inbound(packet),
            Verdict::Local => Received::Local(packet),
            Verdict::Answer => Received::Answer(packet),
            other => self.end(iface, packet, &ip, other),
        }
    }

    #[cold]
    fn end(&mut self, iface: &'a Iface, packet: Packet, ip: &Headers, verdict: Verdict) -> Received {
        match verdict {
            Verdict::Discovery => self.discovery(iface, packet, ip),
            Verdict::Ignore => self.consume(iface.id, packet),
            Verdict::Drop(reason) => self.lose(iface.id, packet, reason),
            Verdict::Isolated => {
                self.answer(iface, &packet, ip, Problem::Prohibited);
                self.lose(iface.id, packet, DropReason::RouterIsolated);
            }
            _ => {
                self.answer(iface, &packet, ip, Problem::NoRoute);
                self.lose(iface.id, packet, DropReason::RouterNoRoute);
            }
        }
        Received::Done
    }

    /// What can be said before translation about a packet that goes on: the sender is told in its own words.
    #[inline]
    fn may_forward(&mut self, iface: &'a Iface, packet: Packet, ip: &Headers, hop: Hop) -> Received {
        let (problem, reason) = if ttl(packet.head(), ip) <= 1 {
            (Problem::HopLimit, DropReason::RouterTtl)
        } else {
            let mtu = self.tables.iface(hop.iface).map_or(u16::MAX, |i| i.mtu);
            if !is_too_big(&packet, ip, mtu) {
                return Received::Forward(packet, hop);
            }
            (Problem::TooBig(mtu), DropReason::RouterTooBig)
        };
        self.answer(iface, &packet, ip, problem);
        self.lose(iface.id, packet, reason);
        Received::Done
    }

    #[inline]
    fn judge_v4(&mut self, iface: &Iface, head: &[u8], ip: &Headers, group: bool) -> Verdict {
        if !ipv4_header_ok(head, ip) {
            return Verdict::Drop(DropReason::RouterChecksum);
        }
        if ip.extended
            && let Err(reason) = options(head, ip)
        {
            return Verdict::Drop(reason);
        }
        let (src, dst) = (source(head, ip), destination(head, ip));
        let IpAddr::V4(to) = dst else { return Verdict::Drop(DropReason::RouterMalformed) };
        if to.is_broadcast() || to.is_multicast() {
            // DHCP is all that is done for everybody.
            let local = to.is_broadcast() && iface.services.dhcp.is_some();
            return if local { Verdict::Local } else { Verdict::Ignore };
        }
        if src == dst || !is_host(src) || !is_host(dst) || is_ours(iface, src) {
            return Verdict::Drop(DropReason::RouterMartian);
        }
        self.judge(iface, head, ip, dst, group)
    }

    #[inline]
    fn judge_v6(&mut self, iface: &Iface, head: &[u8], ip: &Headers, group: bool) -> Verdict {
        let (src, dst) = (source(head, ip), destination(head, ip));
        let (IpAddr::V6(from), IpAddr::V6(to)) = (src, dst) else {
            return Verdict::Drop(DropReason::RouterMalformed);
        };
        if ip.extended
            && let Err(reason) = options(head, ip)
        {
            return Verdict::Drop(reason);
        }
        if ip.proto == proto::ICMPV6 && ip.has_transport() {
            // RFC 4861: solicitations, advertisements, redirects; never fragmented (RFC 6980 §5).
            let kind = head.get(usize::from(ip.l4)).copied().unwrap_or_default();
            if (133..=137).contains(&kind) {
                let whole = ip.fragment == trunkline_packet::headers::Fragment::None;
                return if whole { Verdict::Discovery } else { Verdict::Drop(DropReason::RouterMalformed) };
            }
        }
        if to.is_multicast() {
            return Verdict::Ignore;
        }
        if is_ours(iface, src) {
            return Verdict::Drop(DropReason::RouterMartian);
        }
        let scoped = |a: Ipv6Addr| a.is_unicast_link_local();
        if scoped(to) {
            let ours = iface.owns(dst) && !group && src != dst && !iface.is_shared();
            let there = if ours { Verdict::Local } else { Verdict::Drop(DropReason::RouterScope) };
            return if is_host(src) || scoped(from) {
                there
            } else {
                Verdict::Drop(DropReason::RouterMartian)
            };
        }
        if src == dst || !is_host(dst) || (!is_host(src) && !scoped(from)) {
            return Verdict::Drop(DropReason::RouterMartian);
        }
        match self.judge(iface, head, ip, dst, group) {
            // RFC 4291 §2.5.6.
            Verdict::Forward(_) | Verdict::Inbound | Verdict::NoRoute | Verdict::Isolated if scoped(from) => {
                Verdict::Drop(DropReason::RouterScope)
            }
            verdict => verdict,
        }
    }

    /// To one host.
    #[inline]
    fn judge(&mut self, iface: &Iface, head: &[u8], ip: &Headers, dst: IpAddr, group: bool) -> Verdict {
        let zone = match iface.kind {
            Kind::Gateway { zone, .. } => zone,
            Kind::Uplink { shared } => {
                let target = self.beyond(iface.id, dst);
                return match target {
                    Some(Target::Broadcast(_)) => Verdict::Ignore,
                    _ if group => Verdict::Drop(DropReason::RouterBroadcast),
                    Some(Target::Ours(_)) if !shared && is_own_echo(iface, head, ip, dst) => Verdict::Local,
                    _ => Verdict::Inbound,
                };
            }
        };
        let target = self.reached(zone, dst);
        if let Some(Target::Broadcast(at)) = target {
            let ours = at == iface.id && iface.services.dhcp.is_some();
            return match ours {
                true => Verdict::Local,
                false if at == iface.id => Verdict::Ignore,
                false => Verdict::Drop(DropReason::RouterBroadcast),
            };
        }
        if group {
            return Verdict::Drop(DropReason::RouterBroadcast);
        }
        match Exit::of(target, dst) {
            // By a router of that network they may: somebody has made that route.
            Exit::Hop(hop) if iface.isolated && hop == (Hop { iface: iface.id, next: dst }) => {
                Verdict::Isolated
            }
            Exit::Hop(hop) => Verdict::Forward(hop),
            Exit::Ours(at) => match self.tables.iface(at) {
                Some(there) if there.zone().is_none() && !is_own_echo(there, head, ip, dst) => {
                    Verdict::Forward(Hop { iface: at, next: dst })
                }
                Some(there) if there.zone() == Some(zone) && may_be_answer(there, head, ip) => {
                    Verdict::Answer
                }
                _ => Verdict::Local,
            },
            Exit::Broadcast | Exit::Nowhere => Verdict::NoRoute,
        }
    }

    /// See [`crate::Router::reroute`].
    pub(crate) fn reroute(&mut self, at: IfaceId, packet: Packet) -> Received {
        let Some((iface, ip)) = self.tables.iface(at).zip(Headers::parse(&packet)) else {
            self.lose(at, packet, DropReason::RouterNoRoute);
            return Received::Done;
        };
        let dst = destination(packet.head(), &ip);
        let Some(zone) = iface.zone() else { return Received::Inbound(packet) };
        match Exit::of(self.tables.reached(zone, dst), dst) {
            Exit::Hop(hop) => Received::Forward(packet, hop),
            Exit::Ours(iface) if self.tables.iface(iface).is_some_and(|i| i.zone().is_none()) => {
                Received::Forward(packet, Hop { iface, next: dst })
            }
            _ => {
                self.lose(at, packet, DropReason::RouterNoRoute);
                Received::Done
            }
        }
    }
}

/// Whether a packet that came in claims to be from us. What the host sends that shares its address with us does not
/// come in here.
#[inline]
fn is_ours(iface: &Iface, src: IpAddr) -> bool {
    !iface.is_shared() && iface.owns(src)
}

/// A ping of an interface's own address, which it answers itself, translation or not; one that is translated
/// as a whole (static) is not its own.
#[inline]
fn is_own_echo(iface: &Iface, head: &[u8], ip: &Headers, dst: IpAddr) -> bool {
    icmp::is_type(head, ip, 8, 128) && iface.owns(dst) && !iface.proxies.contains(&dst)
}

/// What a service of the gateway's does not want: TCP, UDP, ICMP errors.
fn may_be_answer(iface: &Iface, head: &[u8], ip: &Headers) -> bool {
    let at = usize::from(ip.l4);
    match ip.proto {
        proto::TCP => true,
        proto::UDP => {
            let dhcp = ip.has_transport() && read16(head, at + 2) == Some(DHCP_SERVER);
            !(dhcp && iface.services.dhcp.is_some())
        }
        proto::ICMP => ip.has_transport() && matches!(head.get(at), Some(3 | 11 | 12)),
        proto::ICMPV6 => ip.has_transport() && matches!(head.get(at), Some(1..=4)),
        _ => false,
    }
}

/// Refuses source routes and malformed options: RFC 7126 §4.3 and §4.4; RFC 5095 and, with which addresses
/// would be others than the header's, any routing header with something left.
fn options(head: &[u8], ip: &Headers) -> Result<(), DropReason> {
    let (l3, l4) = (usize::from(ip.l3), usize::from(ip.l4));
    match ip.version {
        IpVersion::V4 => {
            let mut options = head.get(l3 + IPV4_HLEN..l4).unwrap_or_default();
            loop {
                match *options {
                    [] | [0, ..] => return Ok(()),
                    [1, ref rest @ ..] => options = rest,
                    [131 | 137, ..] => return Err(DropReason::RouterSourceRoute),
                    [_, len, ..] if len >= 2 && usize::from(len) <= options.len() => {
                        options = &options[usize::from(len)..];
                    }
                    _ => return Err(DropReason::RouterMalformed),
                }
            }
        }
        IpVersion::V6 => {
            const ROUTING: u8 = 43;
            const FRAGMENT: u8 = 44;
            const AUTHENTICATION: u8 = 51;
            let (mut next, mut at) = (head.get(l3 + 6).copied().unwrap_or_default(), l3 + IPV6_HLEN);
            while at < l4 {
                let here = head.get(at..at + 4).ok_or(DropReason::RouterMalformed)?;
                if next == ROUTING && here[3] != 0 {
                    return Err(DropReason::RouterSourceRoute);
                }
                let len = usize::from(here[1]);
                at += match next {
                    FRAGMENT => 8,
                    AUTHENTICATION => 8 + 4 * len,
                    _ => 8 + 8 * len,
                };
                next = here[0];
            }
            Ok(())
        }
    }
}
