//! Errors that tell senders what is wrong with their packets.

use std::net::IpAddr;

use trunkline_packet::Packet;
use trunkline_packet::checksum::Sum;
use trunkline_packet::headers::{Headers, IpVersion, read16, write16};
use trunkline_packet::icmp::{self, Problem};

use crate::iface::Iface;
use crate::receive::destination;
use crate::router::{Run, Sink};
use crate::tables::Target;

impl<S: Sink> Run<'_, S> {
    /// Tells whoever sent a frame, at its MAC address, what is wrong with it.
    pub(crate) fn answer(&mut self, iface: &Iface, about: &Packet, ip: &Headers, problem: Problem) {
        if let Some(error) = self.error(iface, about, ip, problem) {
            let mut error = error;
            crate::build::link(error.head_mut(), crate::receive::mac_at(about.head(), 6), iface.mac);
            self.sink.send(iface.id, error, true);
        }
    }

    /// Tells the sender of a packet that was to leave by an interface, and may have been translated.
    pub(crate) fn complain(&mut self, iface: &Iface, about: &Packet, ip: &Headers, problem: Problem) {
        if let Some(error) = self.error(iface, about, ip, problem) {
            self.sink.inject(iface.id, error);
        }
    }

    /// An error from the interface's address, if there may be one.
    #[cold]
    fn error(&mut self, iface: &Iface, about: &Packet, ip: &Headers, problem: Problem) -> Option<Packet> {
        let head = about.head();
        if !icmp::may_answer(head, ip) || self.is_broadcast(iface, destination(head, ip)) {
            return None;
        }
        let source = match ip.version {
            IpVersion::V4 => IpAddr::V4(iface.v4()?),
            IpVersion::V6 => IpAddr::V6(iface.v6()),
        };
        let now = self.now;
        if !self.limits(iface.id)?.errors.take(now) {
            return None;
        }
        icmp::error(about, ip, problem, source, self.pool).ok()
    }

    fn is_broadcast(&self, iface: &Iface, addr: IpAddr) -> bool {
        let target = match iface.zone() {
            Some(zone) => self.tables.reached(zone, addr),
            None => self.tables.outside(iface.id, addr),
        };
        matches!(target, Some(Target::Broadcast(_)))
    }
}

/// Makes an ICMP error come from an interface, with its checksums.
pub(crate) fn set_source(head: &mut [u8], ip: &Headers, iface: &Iface) {
    let l3 = usize::from(ip.l3);
    let (at, check, new) = match ip.version {
        IpVersion::V4 => {
            let Some(addr) = iface.v4() else { return };
            (l3 + 12, l3 + 10, addr.to_ipv6_mapped().octets())
        }
        IpVersion::V6 => (l3 + 8, usize::from(ip.l4) + 2, iface.v6().octets()),
    };
    let new = if ip.version == IpVersion::V4 { &new[12..] } else { &new[..] };
    let (Some(sum), Some(old)) = (read16(head, check), head.get_mut(at..at + new.len())) else { return };
    let words = |bytes: &[u8]| Sum::ZERO.bytes(bytes).fold();
    let sum = Sum::ZERO.add(u32::from(!sum)).sub(u32::from(words(old))).add(u32::from(words(new)));
    old.copy_from_slice(new);
    write16(head, check, sum.finish());
}
