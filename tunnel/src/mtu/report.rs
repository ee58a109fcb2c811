//! Too-big errors about our own tunnel packets, as a port of the underlay receives them: ICMP "fragmentation
//! needed" (RFC 792, RFC 1191 §4) and ICMPv6 "packet too big" (RFC 4443 §3.2). Kernel sockets do this
//! themselves.
//!
//! Anybody can send such an error, so it counts only when the packet it quotes is one that we may have sent:
//! from the address the error came to, to a remote of ours, as one of our tunnels makes them (RFC 8201 §4,
//! RFC 5927). A forged one that passes costs speed for [`super::path::AGE`] at most, and never goes below what
//! [`super::path::PathMtu`] allows.

use std::net::IpAddr;

use trunkline_packet::checksum::ipv4_header_ok;
use trunkline_packet::headers::{Fragment, Headers, IpVersion, proto, read16, read32};
use trunkline_packet::{Packet, icmp};

use crate::gre::GreHeader;
use crate::{Outer, Tunnels};

/// What an error says, for [`super::path::PathMtu::too_big`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Our address, from which the packet was sent.
    pub local: IpAddr,
    /// Where the packet was meant for.
    pub remote: IpAddr,
    /// What the router takes, bytes of outer IP; 0 where it does not say.
    pub mtu: u32,
    /// How long the packet was.
    pub sent: u16,
}

const ICMP_HLEN: usize = 8;

/// Reads a frame that came to one of our addresses; `None` when it is no believable error about a packet of a
/// tunnel.
pub fn parse(packet: &Packet, tunnels: &Tunnels) -> Option<Report> {
    let head = packet.head();
    let ip = Headers::of_frame(head)?;
    let whole = ip.fragment == Fragment::None && ip.is_whole(packet.len());
    let l4 = usize::from(ip.l4);
    if !whole || !icmp::is_type(head, &ip, 3, 2) || !ipv4_header_ok(head, &ip) {
        return None;
    }
    let mtu = match (ip.version, *head.get(l4 + 1)?) {
        // Code 4: fragmentation needed; the MTU in the low half of the word.
        (IpVersion::V4, 4) => u32::from(read16(head, l4 + 6)?),
        // "Set to 0 by the originator and ignored by the receiver."
        (IpVersion::V6, _) => read32(head, l4 + 4)?,
        _ => return None,
    };
    // The quote ends where the error does, whatever is behind it in the frame.
    let quoted_frame = head.get(..head.len().min(ip.end as usize))?;
    let quote = Headers::ip(quoted_frame, l4 + ICMP_HLEN).filter(|quote| quote.version == ip.version)?;
    let flow = quote.flow(quoted_frame)?;
    let address = |addr: std::net::Ipv6Addr| match ip.version {
        IpVersion::V4 => addr.to_canonical(),
        IpVersion::V6 => IpAddr::V6(addr),
    };
    let (local, remote) = (address(flow.src), address(flow.dst));
    let sent = quote.end - u32::from(quote.l3);
    let to_us = address(ip.flow(head)?.dst) == local;
    let ours = to_us && quote.has_transport() && is_ours(quoted_frame, &quote, (local, remote), tunnels);
    // One that takes as much as was sent had no reason to complain.
    let sane = mtu < sent && icmp::checksum_ok(packet, &ip);
    (ours && sane).then_some(Report { local, remote, mtu, sent: u16::try_from(sent).unwrap_or(u16::MAX) })
}

/// Whether a tunnel of ours makes such packets, seen as the answers it takes.
fn is_ours(quoted: &[u8], quote: &Headers, (local, remote): (IpAddr, IpAddr), tunnels: &Tunnels) -> bool {
    let at = usize::from(quote.l4);
    match quote.proto {
        proto::UDP => {
            // Our source ports are dynamic ones; the VNI need not be quoted.
            let ours = read16(quoted, at).is_some_and(|port| port >= crate::encap::FIRST_SOURCE_PORT);
            let dst_port = read16(quoted, at + 2).unwrap_or_default();
            ours && tunnels.may_carry(remote, local, quote.proto) && tunnels.kind_of_port(dst_port).is_some()
        }
        proto::GRE => {
            let Some(Ok((header, _))) = quoted.get(at..).map(GreHeader::parse) else {
                // Eight bytes are all that must be quoted (RFC 792).
                return quoted.len() >= at + 8 && tunnels.may_carry(remote, local, quote.proto);
            };
            let outer =
                Outer { src: remote, dst: local, src_port: 0, dst_port: 0, tos: 0, ttl: 0, proto: 47 };
            tunnels.gre(&outer, header.key).is_ok()
        }
        _ => false,
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
