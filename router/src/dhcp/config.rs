//! What is served.

use std::fmt;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use trunkline_packet::MacAddr;

/// Most addresses in a range.
pub(super) const MAX_RANGE: u32 = 65_536;
/// Most name servers in an answer.
const MAX_DNS: usize = 8;

/// What the hosts of a gateway are told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    /// Addresses that are given out, both included; the gateway's own is left out.
    pub range: (Ipv4Addr, Ipv4Addr),
    /// Addresses that belong to certain clients, in the range or outside.
    pub reservations: Vec<Reservation>,
    /// How long an address is given, seconds; `u32::MAX` for ever.
    pub lease_time: u32,
    /// The default router; the gateway itself when none is given.
    pub router: Option<Ipv4Addr>,
    /// Name servers.
    pub dns: Vec<Ipv4Addr>,
    /// Name of the domain.
    pub domain: Option<String>,
}

impl Config {
    /// A range, given for a day; nothing else.
    pub fn new(range: (Ipv4Addr, Ipv4Addr)) -> Config {
        Config {
            range,
            reservations: Vec::new(),
            lease_time: 86_400,
            router: None,
            dns: Vec::new(),
            domain: None,
        }
    }
}

/// An address for one client.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// Its MAC address.
    pub mac: MacAddr,
    /// The address.
    pub address: Ipv4Addr,
}

/// Why a configuration cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConfigError {
    /// The range ends before it begins.
    Backwards,
    /// More than 65,536 addresses.
    TooLong,
    /// The address is not in the gateway's network.
    Outside(Ipv4Addr),
    /// The address is reserved twice.
    Address(Ipv4Addr),
    /// The client has two reservations.
    Client(MacAddr),
    /// The reserved address is the gateway's own, or no host's.
    Taken(Ipv4Addr),
    /// More than 8 name servers.
    Dns,
    /// The domain is empty, longer than 253 bytes or has other characters than letters, digits, `-`, `_` and
    /// `.`.
    Domain,
    /// Less than a minute.
    LeaseTime,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Backwards => f.write_str("the DHCP range ends before it begins"),
            ConfigError::TooLong => f.write_str("the DHCP range has more than 65536 addresses"),
            ConfigError::Outside(a) => write!(f, "{a} is not in the network of the gateway's address"),
            ConfigError::Address(a) => write!(f, "{a} is reserved twice"),
            ConfigError::Client(mac) => write!(f, "{mac} has two reservations"),
            ConfigError::Taken(a) => write!(f, "{a} is the gateway's own address, or no host's"),
            ConfigError::Dns => f.write_str("more than 8 name servers"),
            ConfigError::Domain => f.write_str("the domain is no domain name"),
            ConfigError::LeaseTime => f.write_str("a lease lasts at least 60 seconds"),
        }
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Whether it makes sense for a gateway with this address.
    ///
    /// # Errors
    /// The first thing that does not.
    pub fn check(&self, gateway: Ipv4Net) -> Result<(), ConfigError> {
        let (from, to) = self.range;
        if from > to {
            return Err(ConfigError::Backwards);
        }
        if to.to_bits() - from.to_bits() >= MAX_RANGE {
            return Err(ConfigError::TooLong);
        }
        let reserved = self.reservations.iter().map(|r| r.address);
        if let Some(outside) = [from, to].into_iter().chain(reserved).find(|a| !gateway.contains(a)) {
            return Err(ConfigError::Outside(outside));
        }
        for (i, r) in self.reservations.iter().enumerate() {
            let before = &self.reservations[..i];
            if before.iter().any(|b| b.address == r.address) {
                return Err(ConfigError::Address(r.address));
            }
            if before.iter().any(|b| b.mac == r.mac) {
                return Err(ConfigError::Client(r.mac));
            }
            if [gateway.addr(), gateway.network(), gateway.broadcast()].contains(&r.address) {
                return Err(ConfigError::Taken(r.address));
            }
        }
        if self.dns.len() > MAX_DNS {
            return Err(ConfigError::Dns);
        }
        let good = |d: &String| {
            (1..=253).contains(&d.len())
                && d.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if !self.domain.iter().all(good) {
            return Err(ConfigError::Domain);
        }
        if self.lease_time < super::SHORTEST { Err(ConfigError::LeaseTime) } else { Ok(()) }
    }
}
