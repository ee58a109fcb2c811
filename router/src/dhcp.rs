//! DHCPv4 for the hosts of a gateway (RFC 2131). Written by `natdhcp`; the signatures are what the router calls.

use crate::iface::Iface;
use crate::service::{Answer, Datagram};

/// What is served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {}

/// The leases of one gateway.
#[derive(Debug)]
pub struct Server {}

impl Server {
    /// No leases yet.
    pub fn new(_: Config) -> Server {
        Server {}
    }

    /// The answer to a datagram to port 67, if it deserves one. `now`: milliseconds on a clock that does not go
    /// back.
    pub fn handle(&mut self, _now: u64, _iface: &Iface, _request: &Datagram<'_>) -> Option<Answer> {
        None
    }
}
