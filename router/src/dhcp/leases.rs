//! Who has which address.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use trunkline_packet::MacAddr;

use super::config::MAX_RANGE;
use super::message::{Client, Request};
use super::{Config, DECLINED, Link};

/// How far a lease is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseState {
    /// Offered, not taken yet.
    Offered,
    /// Somebody's.
    Bound,
    /// Given back or run out; kept for the client in case it comes again.
    Free,
    /// A client found that another host uses the address.
    Declined,
}

/// An address and its client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lease {
    /// The address.
    pub address: Ipv4Addr,
    /// The client's identifier, or its hardware type and address; empty when the address is declined.
    pub client: Vec<u8>,
    /// Its MAC address.
    pub mac: MacAddr,
    /// What it calls itself.
    pub host_name: Option<String>,
    /// How far it is.
    pub state: LeaseState,
    /// How long it lasts, milliseconds; `u64::MAX` for ever.
    pub expires_in: u64,
}

#[derive(Clone, Debug)]
struct Entry {
    client: Client,
    mac: MacAddr,
    host_name: Option<Box<str>>,
    state: LeaseState,
    /// Milliseconds.
    until: u64,
}

impl Entry {
    fn is_over(&self, now: u64) -> bool {
        self.until <= now
    }
}

#[derive(Debug)]
pub(super) struct Leases {
    range: (Ipv4Addr, Ipv4Addr),
    by_addr: HashMap<Ipv4Addr, Entry>,
    by_client: HashMap<Client, Ipv4Addr>,
    /// All entries by their end, and those that are offers.
    by_end: BTreeSet<(u64, Ipv4Addr)>,
    offers: BTreeSet<(u64, Ipv4Addr)>,
    reserved: HashMap<Ipv4Addr, MacAddr>,
    reservations: HashMap<MacAddr, Ipv4Addr>,
    /// Every address of the range has an entry.
    no_unused: bool,
    version: u64,
}

impl Leases {
    pub(super) fn new(config: &Config) -> Leases {
        let (from, to) = config.range;
        let last = from.to_bits().saturating_add(MAX_RANGE - 1).min(to.to_bits());
        Leases {
            range: (from, Ipv4Addr::from_bits(last)),
            by_addr: HashMap::new(),
            by_client: HashMap::new(),
            by_end: BTreeSet::new(),
            offers: BTreeSet::new(),
            reserved: config.reservations.iter().map(|r| (r.address, r.mac)).collect(),
            reservations: config.reservations.iter().map(|r| (r.mac, r.address)).collect(),
            no_unused: false,
            version: 0,
        }
    }

    pub(super) fn version(&self) -> u64 {
        self.version
    }

    pub(super) fn list(&self, now: u64) -> Vec<Lease> {
        let mut all: Vec<Lease> = self
            .by_addr
            .iter()
            .map(|(address, e)| Lease {
                address: *address,
                client: e.client.0.to_vec(),
                mac: e.mac,
                host_name: e.host_name.as_deref().map(str::to_owned),
                state: if e.is_over(now) { LeaseState::Free } else { e.state },
                expires_in: if e.until == u64::MAX { u64::MAX } else { e.until.saturating_sub(now) },
            })
            .collect();
        all.sort_by_key(|l| l.address);
        all
    }

    pub(super) fn import(&mut self, now: u64, lease: &Lease) {
        let client = Client(lease.client.as_slice().into());
        let known = self.by_addr.contains_key(&lease.address) || self.by_client.contains_key(&client);
        let sound = match lease.state {
            LeaseState::Offered => false,
            LeaseState::Declined => lease.client.is_empty(),
            LeaseState::Bound | LeaseState::Free => (2..=255).contains(&lease.client.len()),
        };
        if known || !sound || !self.is_for(lease.address, lease.mac) {
            return;
        }
        let entry = Entry {
            client,
            mac: lease.mac,
            host_name: lease.host_name.as_deref().map(Into::into),
            state: lease.state,
            until: now.saturating_add(lease.expires_in),
        };
        match lease.state {
            LeaseState::Declined => self.insert(lease.address, entry),
            _ => self.put(lease.address, entry),
        }
    }

    /// The client's address, present or past.
    pub(super) fn of(&self, client: &Client) -> Option<Ipv4Addr> {
        self.by_client.get(client).copied()
    }

    /// Whether an address is given to this MAC address at all.
    fn is_for(&self, addr: Ipv4Addr, mac: MacAddr) -> bool {
        match (self.reserved.get(&addr), self.reservations.get(&mac)) {
            (Some(owner), _) => *owner == mac,
            // Who has a reservation gets nothing else.
            (None, Some(_)) => false,
            (None, None) => (self.range.0..=self.range.1).contains(&addr),
        }
    }

    /// Whether the client may have the address now.
    pub(super) fn may_have(&self, now: u64, link: &Link, m: &Request<'_>, addr: Ipv4Addr) -> bool {
        let free = self
            .by_addr
            .get(&addr)
            .is_none_or(|e| e.is_over(now) || (e.state != LeaseState::Declined && e.client == m.client));
        free && link.allows(addr) && self.is_for(addr, m.mac)
    }

    /// RFC 2131 §4.3.1: the address reserved for the client, its present or previous one, the one it asks for, or
    /// any.
    pub(super) fn choose(&mut self, now: u64, link: &Link, m: &Request<'_>) -> Option<Ipv4Addr> {
        let reserved = self.reservations.get(&m.mac).copied();
        let wishes = [reserved, self.of(&m.client), m.requested];
        let wish = wishes.into_iter().flatten().find(|addr| self.may_have(now, link, m, *addr));
        if wish.is_some() || reserved.is_some() {
            return wish;
        }
        self.unused(link, m).or_else(|| {
            // Nobody's any more, for the longest time; else what was offered longest ago and not taken, so that
            // nobody can lock others out by asking.
            let over = self.by_end.range(..=(now, Ipv4Addr::BROADCAST));
            over.chain(&self.offers)
                .map(|(_, addr)| *addr)
                .find(|addr| link.allows(*addr) && self.is_for(*addr, m.mac))
        })
    }

    /// An address that nobody had yet.
    fn unused(&mut self, link: &Link, m: &Request<'_>) -> Option<Ipv4Addr> {
        if self.no_unused {
            return None;
        }
        let (from, to) = (self.range.0.to_bits(), self.range.1.to_bits());
        let count = u64::from(to.checked_sub(from)?) + 1;
        // From a place of its own, so that it gets the same one again although nobody remembers it.
        let start = m
            .client
            .0
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
        let mut all = (0..count).map(|i| Ipv4Addr::from_bits(from + (start.wrapping_add(i) % count) as u32));
        let found = all.find(|addr| {
            link.allows(*addr) && !self.reserved.contains_key(addr) && !self.by_addr.contains_key(addr)
        });
        self.no_unused = found.is_none();
        found
    }

    pub(super) fn offer(&mut self, now: u64, m: &Request<'_>, addr: Ipv4Addr, wait: u64) {
        // Asking anew takes no binding away.
        if let Some(e) = self.by_addr.get(&addr)
            && e.client == m.client
            && e.state == LeaseState::Bound
            && !e.is_over(now)
        {
            return;
        }
        self.put(addr, entry(m, LeaseState::Offered, now.saturating_add(wait)));
    }

    /// `lease` in seconds.
    pub(super) fn bind(&mut self, now: u64, m: &Request<'_>, addr: Ipv4Addr, lease: u32) {
        let until = if lease == u32::MAX { u64::MAX } else { now.saturating_add(u64::from(lease) * 1000) };
        self.put(addr, entry(m, LeaseState::Bound, until));
    }

    /// Puts an entry in, and takes out whatever the address and the client had before.
    fn put(&mut self, addr: Ipv4Addr, entry: Entry) {
        self.version += u64::from(entry.state != LeaseState::Offered);
        let client = entry.client.clone();
        if let Some(before) = self.remove(addr)
            && self.of(&before.client) == Some(addr)
        {
            self.by_client.remove(&before.client);
        }
        self.insert(addr, entry);
        if let Some(before) = self.by_client.insert(client, addr) {
            self.remove(before);
            self.no_unused = false;
        }
    }

    fn insert(&mut self, addr: Ipv4Addr, entry: Entry) {
        self.by_end.insert((entry.until, addr));
        if entry.state == LeaseState::Offered {
            self.offers.insert((entry.until, addr));
        }
        self.by_addr.insert(addr, entry);
    }

    fn remove(&mut self, addr: Ipv4Addr) -> Option<Entry> {
        let entry = self.by_addr.remove(&addr)?;
        self.by_end.remove(&(entry.until, addr));
        self.offers.remove(&(entry.until, addr));
        Some(entry)
    }

    /// Ends the client's lease of an address, if it has it.
    fn end(&mut self, client: &Client, addr: Ipv4Addr, state: LeaseState, until: u64) {
        if self.of(client) == Some(addr)
            && let Some(e) = self.remove(addr)
        {
            self.version += u64::from(e.state != LeaseState::Offered);
            self.insert(addr, Entry { state, until, ..e });
        }
    }

    pub(super) fn release(&mut self, now: u64, client: &Client, addr: Ipv4Addr) {
        self.end(client, addr, LeaseState::Free, now);
    }

    pub(super) fn decline(&mut self, now: u64, client: &Client, addr: Ipv4Addr) {
        if self.of(client) == Some(addr)
            && let Some(e) = self.remove(addr)
        {
            // It is nobody's, and the client gets another.
            self.by_client.remove(client);
            let (state, until) = (LeaseState::Declined, now.saturating_add(DECLINED));
            self.insert(addr, Entry { client: Client(Box::default()), state, until, ..e });
            self.version += 1;
        }
    }

    pub(super) fn taken(&mut self, now: u64, addr: Ipv4Addr) {
        if let Some(client) = self.by_addr.get(&addr).map(|e| e.client.clone()) {
            self.decline(now, &client, addr);
        }
    }

    pub(super) fn forget_offer(&mut self, now: u64, client: &Client) {
        if let Some(addr) = self.of(client)
            && self.by_addr.get(&addr).is_some_and(|e| e.state == LeaseState::Offered)
        {
            self.end(client, addr, LeaseState::Free, now);
        }
    }
}

fn entry(m: &Request<'_>, state: LeaseState, until: u64) -> Entry {
    Entry { client: m.client.clone(), mac: m.mac, host_name: m.host_name.map(Into::into), state, until }
}
