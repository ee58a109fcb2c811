//! IPv6 router advertisements (RFC 4861 §6.2, RFC 8106). Sans-IO.
//!
//! A gateway advertises the networks of its own addresses: on-link, and for addresses of the hosts' own making
//! (RFC 4862) where the prefix has 64 bits. Asked by a host that has an address it answers that host alone, at
//! once (§6.2.6 leaves it open). Else all nodes are told, never more often than every three seconds.

use std::net::Ipv6Addr;

use ipnet::{IpNet, Ipv6Net};
use trunkline_packet::MacAddr;

use crate::iface::Iface;
use crate::limit::Bucket;
use crate::service::Icmp6;

const ADVERTISEMENT: u8 = 134;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
/// Options: the MAC address of the sender, prefix information, MTU (RFC 4861 §4.6), name servers, search list
/// (RFC 8106 §5).
const SOURCE: u8 = 1;
const PREFIX: u8 = 3;
const MTU: u8 = 5;
const RDNSS: u8 = 25;
const DNSSL: u8 = 31;
/// Flags of prefix information.
const ON_LINK: u8 = 0x80;
const AUTONOMOUS: u8 = 0x40;
/// AdvValidLifetime and AdvPreferredLifetime (§6.2.1), seconds.
const VALID: u32 = 2_592_000;
const PREFERRED: u32 = 604_800;
/// Hop limit that hosts are told to use.
const HOPS: u8 = 64;
/// MIN_DELAY_BETWEEN_RAS (§10), milliseconds.
const APART: u64 = 3_000;
/// MAX_INITIAL_RTR_ADVERT_INTERVAL and MAX_INITIAL_RTR_ADVERTISEMENTS (§10).
const INITIAL: u64 = 16_000;
const INITIALS: u8 = 3;
/// Answers to single hosts per second, and at once.
const ANSWERS: (u64, u64) = (50, 20);

/// What is advertised besides the gateway's networks and MTU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// How long hosts use the gateway as default router without hearing from it, seconds; 0 for not at all.
    pub lifetime: u16,
    /// The longest time between two advertisements, seconds, 4 to 1800 (MaxRtrAdvInterval); the shortest is a
    /// third of it.
    pub interval: u16,
    /// Hosts make addresses of their own from the prefixes.
    pub autonomous: bool,
    /// Name servers; at most 8.
    pub dns: Vec<Ipv6Addr>,
    /// Domains that names without one are looked for in; at most 8.
    pub search: Vec<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config { lifetime: 1800, interval: 600, autonomous: true, dns: Vec::new(), search: Vec::new() }
    }
}

/// The advertisements of one gateway.
#[derive(Debug)]
pub struct Advertiser {
    config: Config,
    /// When all nodes are told next, and were told last, milliseconds.
    next: u64,
    last: Option<u64>,
    /// Of those sent in quick succession at first.
    initial: u8,
    answers: Bucket,
    random: u64,
}

impl Advertiser {
    /// Nothing sent yet.
    pub fn new(config: Config) -> Advertiser {
        let interval = config.interval.clamp(4, 1800);
        Advertiser {
            config: Config { interval, ..config },
            next: 0,
            last: None,
            initial: 0,
            answers: Bucket::new(ANSWERS.0, ANSWERS.1),
            random: 0,
        }
    }

    /// What is advertised.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A valid solicitation came (RFC 4861 §6.1.1, checked by the router). The answer, or `None` when it waits
    /// for the next [`Advertiser::tick`].
    pub fn solicited(&mut self, now: u64, iface: &Iface, src: Ipv6Addr, mac: MacAddr) -> Option<Icmp6> {
        networks(iface).next()?;
        if !src.is_unspecified() {
            let message = self.message(iface);
            return self.answers.take(now).then_some(Icmp6 { dst: src, dst_mac: mac, message });
        }
        let due = self.last.map_or(now, |last| last.saturating_add(APART));
        self.next = self.next.min(due);
        self.tick(now, iface)
    }

    /// The unsolicited advertisement, when it is due.
    pub fn tick(&mut self, now: u64, iface: &Iface) -> Option<Icmp6> {
        if now < self.next {
            return None;
        }
        let (most, least) =
            (u64::from(self.config.interval) * 1000, u64::from(self.config.interval) * 1000 / 3);
        let mut wait = least.max(APART) + self.random(now, iface) % (most - least.max(APART) + 1);
        if self.initial < INITIALS {
            self.initial += 1;
            wait = wait.min(INITIAL);
        }
        self.next = now.saturating_add(wait);
        networks(iface).next()?;
        self.last = Some(now);
        Some(Icmp6 { dst: ALL_NODES, dst_mac: MacAddr::default(), message: self.message(iface) })
    }

    /// What is said at the end: a lifetime of zero (RFC 4861 §6.2.5). Prefixes and addresses stay as they are.
    pub fn last(&self, iface: &Iface) -> Option<Icmp6> {
        self.last?;
        let mut message = self.message(iface);
        message.get_mut(6..8)?.fill(0);
        Some(Icmp6 { dst: ALL_NODES, dst_mac: MacAddr::default(), message })
    }

    /// When the next one is due, milliseconds; `u64::MAX` for never.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Spreads the times, so that routers of one link do not fall into step.
    fn random(&mut self, now: u64, iface: &Iface) -> u64 {
        self.random =
            (self.random ^ now ^ iface.mac.to_u64()).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        self.random >> 16
    }

    /// RFC 4861 §4.2.
    fn message(&self, iface: &Iface) -> Vec<u8> {
        let mut m = vec![ADVERTISEMENT, 0, 0, 0, HOPS, 0];
        m.extend(self.config.lifetime.to_be_bytes());
        // Reachable time and retransmission timer: the hosts' own.
        m.extend([0; 8]);
        m.extend([SOURCE, 1]);
        m.extend(iface.mac.0);
        // RFC 8200 §5: no less is an IPv6 MTU.
        if iface.mtu >= 1280 {
            m.extend([MTU, 1, 0, 0]);
            m.extend(u32::from(iface.mtu).to_be_bytes());
        }
        for net in networks(iface) {
            let autonomous = self.config.autonomous && net.prefix_len() == 64;
            m.extend([PREFIX, 4, net.prefix_len(), ON_LINK | if autonomous { AUTONOMOUS } else { 0 }]);
            m.extend(VALID.to_be_bytes());
            m.extend(PREFERRED.to_be_bytes());
            m.extend([0; 4]);
            m.extend(net.network().octets());
        }
        // RFC 8106 §5.1: as long as three intervals.
        let lifetime = (u32::from(self.config.interval) * 3).to_be_bytes();
        let dns: Vec<u8> = self.config.dns.iter().take(8).flat_map(|a| a.octets()).collect();
        option(&mut m, RDNSS, lifetime, &dns);
        let search: Vec<u8> = self.config.search.iter().take(8).flat_map(|d| name(d)).collect();
        option(&mut m, DNSSL, lifetime, &search);
        m
    }
}

/// Adds one of the two options of RFC 8106, padded to eight bytes, if it says anything.
fn option(m: &mut Vec<u8>, kind: u8, lifetime: [u8; 4], value: &[u8]) {
    let Ok(units) = u8::try_from(1 + value.len().div_ceil(8)) else { return };
    if !value.is_empty() {
        m.extend([kind, units, 0, 0]);
        m.extend(lifetime);
        m.extend(value);
        m.resize(m.len().next_multiple_of(8), 0);
    }
}

/// A domain as DNS writes it (RFC 1035 §3.1); nothing if it is none.
fn name(domain: &str) -> Vec<u8> {
    let labels: Vec<&str> = domain.trim_end_matches('.').split('.').collect();
    if domain.len() > 253 || labels.iter().any(|l| l.is_empty() || l.len() > 63) {
        return Vec::new();
    }
    let bytes = labels.iter().flat_map(|l| std::iter::once(l.len() as u8).chain(l.bytes()));
    bytes.chain([0]).collect()
}

/// The networks of the interface's addresses, each once.
fn networks(iface: &Iface) -> impl Iterator<Item = Ipv6Net> {
    let net = |a: &IpNet| match a {
        IpNet::V6(a) if !a.addr().is_unicast_link_local() => Some(a.trunc()),
        _ => None,
    };
    let nets = iface.addresses.iter().filter_map(net);
    let first = move |(i, found): &(usize, Ipv6Net)| {
        !iface.addresses.iter().filter_map(net).take(*i).any(|before| before == *found)
    };
    nets.enumerate().filter(first).map(|(_, net)| net)
}

#[cfg(test)]
mod tests;
