//! IPv6 router advertisements (RFC 4861 §6.2). Written by `natdhcp`; the signatures are what the router calls.

use std::net::Ipv6Addr;

use trunkline_packet::MacAddr;

use crate::iface::Iface;
use crate::service::Icmp6;

/// What is advertised.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {}

/// The advertisements of one gateway.
#[derive(Debug)]
pub struct Advertiser {}

impl Advertiser {
    /// Nothing sent yet.
    pub fn new(_: Config) -> Advertiser {
        Advertiser {}
    }

    /// A valid solicitation came (RFC 4861 §6.1.1, checked by the router). The answer, or `None` when it waits
    /// for the next [`Advertiser::tick`].
    pub fn solicited(&mut self, _now: u64, _iface: &Iface, _src: Ipv6Addr, _mac: MacAddr) -> Option<Icmp6> {
        None
    }

    /// The unsolicited advertisement, when it is due.
    pub fn tick(&mut self, _now: u64, _iface: &Iface) -> Option<Icmp6> {
        None
    }

    /// When the next one is due, milliseconds; `u64::MAX` for never.
    pub fn next(&self) -> u64 {
        u64::MAX
    }
}
