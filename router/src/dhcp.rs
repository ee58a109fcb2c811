//! DHCPv4 for the hosts of a gateway (RFC 2131, RFC 2132). Sans-IO.
//!
//! Semantics. The only server on its bridge, and authoritative: a client that asks for an address which cannot be
//! its is refused at once. A client is known by its identifier, or by its MAC address when it sends none, and
//! keeps its address: the binding is kept after it ends, until somebody else needs the address. A client
//! whose binding was lost (a restart without [`Server::import`]) may go on with its address if it is free.
//!
//! Before an address is offered, the router asks for it by ARP (RFC 2131 §2.2) and waits for a moment; an address that
//! another MAC address answers for is not given out ([`Server::taken`]).
//!
//! Attack model. Any host on the bridge may send anything. The table has at most as many entries as addresses
//! to give. Who only asks and never takes holds an address for 30 seconds and gives way to anybody. A
//! host can take no other's address away: release and decline count only from its holder.
//!
//! Not served: relays (RFC 2131 §4.1, `giaddr`), since a gateway is on the link of its hosts; BOOTP.

mod config;
mod leases;
mod message;
#[cfg(test)]
mod tests;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use trunkline_packet::MacAddr;

pub use config::{Config, ConfigError, Reservation};
use leases::Leases;
pub use leases::{Lease, LeaseState};
use message::{Kind, Reply, Request};

use crate::iface::Iface;
use crate::service::{Answer, Datagram};

/// How long an offered address waits for its request, milliseconds.
const OFFER: u64 = 30_000;
/// How long an address that a client found taken is not given out, milliseconds.
const DECLINED: u64 = 600_000;
/// The shortest lease, seconds: a client may ask for less than it would get.
const SHORTEST: u32 = 60;
const CLIENT_PORT: u16 = 68;

/// The server of one gateway.
#[derive(Debug)]
pub struct Server {
    config: Config,
    leases: Leases,
}

/// What a request asks for (RFC 2131 §4.3.2, table 4).
enum Asks {
    /// An address after an offer of the server named.
    Selecting(Ipv4Addr),
    /// The address it had before it was restarted.
    Rebooting(Ipv4Addr),
    /// To keep the address it has.
    Extending(Ipv4Addr),
}

impl Server {
    /// No leases yet.
    pub fn new(config: Config) -> Server {
        let leases = Leases::new(&config);
        Server { config, leases }
    }

    /// What is served.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Every address that is or was somebody's, in order of address.
    pub fn leases(&self, now: u64) -> Vec<Lease> {
        self.leases.list(now)
    }

    /// Takes over what [`Server::leases`] gave, here or before a restart. What the configuration does not allow is
    /// left out.
    pub fn import(&mut self, now: u64, leases: &[Lease]) {
        leases.iter().for_each(|lease| self.leases.import(now, lease));
    }

    /// Changes whenever a binding does: for whoever writes them down.
    pub fn version(&self) -> u64 {
        self.leases.version()
    }

    /// The answer to a datagram to port 67, if it deserves one. `now`: milliseconds on a clock that does not go
    /// back.
    pub fn handle(&mut self, now: u64, iface: &Iface, request: &Datagram<'_>) -> Option<Answer> {
        let message = Request::parse(request.payload)?;
        let link = Link::of(iface, &self.config)?;
        // Behind a relay is another link than ours.
        if !message.giaddr.is_unspecified() || message.mac.is_group() || message.mac.is_zero() {
            return None;
        }
        let reply = match message.kind {
            Kind::Discover => self.discover(now, &link, &message),
            Kind::Request => self.request(now, &link, &message),
            Kind::Inform => Some(Reply::new(Kind::Ack)),
            Kind::Decline => {
                let addr = message.requested.filter(|_| message.server == Some(link.own));
                self.leases.decline(now, &message.client, addr?);
                None
            }
            Kind::Release => {
                self.leases.release(now, &message.client, message.ciaddr);
                None
            }
            Kind::Offer | Kind::Ack | Kind::Nak => None,
        }?;
        let payload = reply.write(&message, &link, &self.config);
        let (dst, dst_mac) = address(&message, &reply, request);
        let offer = (reply.kind == Kind::Offer).then_some((reply.addr, message.mac));
        Some(Answer { dst_mac, dst, dst_port: CLIENT_PORT, payload, offer })
    }

    /// Somebody else has the address that was to be offered: it is not given out for ten minutes, as if its client
    /// had declined it.
    pub fn taken(&mut self, now: u64, addr: Ipv4Addr) {
        self.leases.taken(now, addr);
    }

    /// RFC 2131 §4.3.1.
    fn discover(&mut self, now: u64, link: &Link, m: &Request<'_>) -> Option<Reply> {
        let addr = self.leases.choose(now, link, m)?;
        self.leases.offer(now, m, addr, OFFER);
        Some(Reply { addr, lease: self.lease_time(m), ..Reply::new(Kind::Offer) })
    }

    /// RFC 2131 §4.3.2.
    fn request(&mut self, now: u64, link: &Link, m: &Request<'_>) -> Option<Reply> {
        let asks = match (m.server, m.requested) {
            (Some(server), _) if server != link.own => {
                // It took another's offer.
                self.leases.forget_offer(now, &m.client);
                return None;
            }
            (Some(_), Some(addr)) => Asks::Selecting(addr),
            (None, Some(addr)) if m.ciaddr.is_unspecified() => Asks::Rebooting(addr),
            (_, _) if !m.ciaddr.is_unspecified() => Asks::Extending(m.ciaddr),
            _ => return None,
        };
        let (Asks::Selecting(addr) | Asks::Rebooting(addr) | Asks::Extending(addr)) = asks;
        let known = self.leases.of(&m.client);
        let fine = self.leases.may_have(now, link, m, addr);
        match asks {
            // Not known here: another server's client perhaps, if the address is of our link.
            Asks::Rebooting(_) if known.is_none() && link.net.contains(&addr) => return None,
            Asks::Rebooting(_) if known != Some(addr) => return Some(Reply::new(Kind::Nak)),
            _ if !fine => return Some(Reply::new(Kind::Nak)),
            _ => {}
        }
        let lease = self.lease_time(m);
        self.leases.bind(now, m, addr, lease);
        Some(Reply { addr, lease, ..Reply::new(Kind::Ack) })
    }

    /// RFC 2131 §4.3.1: a client may ask for a shorter lease.
    fn lease_time(&self, m: &Request<'_>) -> u32 {
        let most = self.config.lease_time.max(SHORTEST);
        m.lease.map_or(most, |wanted| wanted.clamp(SHORTEST, most))
    }
}

/// The link that is served.
struct Link {
    /// Our own address there.
    own: Ipv4Addr,
    net: Ipv4Net,
    mtu: u16,
}

impl Link {
    /// `None` when the interface has no address in the network of the range.
    fn of(iface: &Iface, config: &Config) -> Option<Link> {
        let nets = iface.addresses.iter().filter_map(|a| match a {
            ipnet::IpNet::V4(net) => Some(*net),
            ipnet::IpNet::V6(_) => None,
        });
        let net = nets.into_iter().find(|net| net.contains(&config.range.0))?;
        Some(Link { own: net.addr(), net, mtu: iface.mtu })
    }

    /// Whether a host may have the address at all.
    fn allows(&self, addr: Ipv4Addr) -> bool {
        let ends = [self.net.network(), self.net.broadcast()];
        self.net.contains(&addr) && addr != self.own && (self.net.prefix_len() > 30 || !ends.contains(&addr))
    }
}

/// To whom an answer goes (RFC 2131 §4.1).
fn address(m: &Request<'_>, reply: &Reply, datagram: &Datagram<'_>) -> (Ipv4Addr, MacAddr) {
    let everybody = (Ipv4Addr::BROADCAST, MacAddr::BROADCAST);
    match reply.kind {
        Kind::Nak => everybody,
        _ if !m.ciaddr.is_unspecified() => (m.ciaddr, datagram.src_mac),
        _ if m.broadcast || reply.addr.is_unspecified() => everybody,
        _ => (reply.addr, m.mac),
    }
}
