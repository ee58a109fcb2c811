//! ARP (RFC 826), with conflict detection and defence of our own addresses (RFC 5227 §2.4).

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use trunkline_packet::ether::ETH_HLEN;
use trunkline_packet::{DropReason, MacAddr, Packet};

use crate::build::{self, ARP_LEN, ARP_REPLY, ARP_REQUEST};
use crate::iface::Iface;
use crate::neighbour::Word;
use crate::router::{Run, Sink};

/// Milliseconds between two announcements (RFC 5227 §1.1, ANNOUNCE_INTERVAL).
const ANNOUNCE_INTERVAL: u64 = 2_000;

struct Message {
    operation: u16,
    sender: (MacAddr, Ipv4Addr),
    target: Ipv4Addr,
}

impl Message {
    /// `None` for what is malformed or not about Ethernet and IPv4.
    fn parse(head: &[u8]) -> Option<Message> {
        let m: &[u8; ARP_LEN] = head.get(ETH_HLEN..)?.first_chunk()?;
        let sender = (MacAddr(*m[8..].first_chunk()?), Ipv4Addr::from(*m[14..].first_chunk::<4>()?));
        let operation = u16::from_be_bytes([m[6], m[7]]);
        let fine = m[..6] == [0, 1, 8, 0, 6, 4]
            && (ARP_REQUEST..=ARP_REPLY).contains(&operation)
            && !sender.0.is_group()
            && !sender.0.is_zero();
        fine.then_some(Message { operation, sender, target: Ipv4Addr::from(*m[24..].first_chunk::<4>()?) })
    }
}

impl<S: Sink> Run<'_, S> {
    #[cold]
    pub(crate) fn arp(&mut self, iface: &Iface, packet: Packet) {
        let Some(m) = Message::parse(packet.head()) else {
            return self.lose(iface.id, packet, DropReason::RouterMalformed);
        };
        let (mac, sender) = m.sender;
        let for_us = iface.answers_for(m.target.into());
        // On a shared uplink the host answers and defends, and both hear the answers to our questions.
        let is_own =
            if iface.is_shared() { iface.owns(sender.into()) } else { iface.answers_for(sender.into()) };
        if is_own {
            if mac != iface.mac && !iface.is_shared() {
                self.defend(iface, sender);
            }
        } else if !sender.is_unspecified() {
            let word = if m.operation == ARP_REPLY {
                let solicited = iface.owns(m.target.into());
                Word::Answer { solicited, replaces: true }
            } else {
                Word::Question
            };
            if self.state.neighbours.learn(self.now, iface.id, sender.into(), mac, word) {
                self.sink.resolved();
                self.release();
            }
        }
        if m.operation == ARP_REQUEST && for_us && !is_own {
            // To a probe (RFC 5227 §2.1.1) as to any other question: the address is taken.
            let (us, them) = ((iface.mac, m.target), (mac, sender));
            let made = build::arp(ARP_REPLY, mac, us, them, self.pool);
            self.send_made(iface.id, made);
        }
        self.consume(iface.id, packet);
    }

    /// Another station says that it has our address.
    fn defend(&mut self, iface: &Iface, addr: Ipv4Addr) {
        let now = self.now;
        if self.limits(iface.id).is_some_and(|l| l.defend.take(now)) {
            self.announce_v4(iface, addr);
        }
    }

    /// Tells everybody that the address is ours (RFC 5227 §2.3).
    fn announce_v4(&mut self, iface: &Iface, addr: Ipv4Addr) {
        let made = build::arp(
            ARP_REQUEST,
            MacAddr::BROADCAST,
            (iface.mac, addr),
            (MacAddr::default(), addr),
            self.pool,
        );
        self.send_made(iface.id, made);
    }

    /// Announces the addresses of interfaces that are new or have changed, when that is due.
    pub(crate) fn announce(&mut self) {
        let tables = self.tables;
        for at in 0..self.state.limits.len() {
            let limited = &mut self.state.limits[at];
            let (left, due) = limited.announce;
            if due > self.now {
                continue;
            }
            limited.announce = match left {
                0 | 1 => (0, u64::MAX),
                _ => (left - 1, self.now + ANNOUNCE_INTERVAL),
            };
            let Some(iface) = tables.iface(limited.iface).filter(|_| left > 0) else { continue };
            let own = iface.addresses.iter().map(IpNet::addr);
            for addr in own.chain(iface.proxies.iter().copied()) {
                match addr {
                    IpAddr::V4(addr) => self.announce_v4(iface, addr),
                    IpAddr::V6(addr) => self.announce_v6(iface, addr),
                }
            }
        }
    }
}
