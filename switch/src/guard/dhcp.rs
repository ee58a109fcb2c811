//! DHCP through a guard: what a client may send, and what a server gives (RFC 2131, RFC 2132, RFC 8415).

use std::net::Ipv4Addr;

use trunkline_packet::headers::{Fragment, IpVersion, UDP_HLEN, proto, read16, read32};
use trunkline_packet::{DropReason, Headers, MacAddr, Packet};

use super::Check;

pub(super) const SERVER: u16 = 67;
pub(super) const CLIENT: u16 = 68;
pub(super) const CLIENT_V6: u16 = 546;
pub(super) const SERVER_V6: u16 = 547;

/// Where the fields of a message are, RFC 2131 figure 1.
const CIADDR: usize = 12;
const YIADDR: usize = 16;
const GIADDR: usize = 24;
const CHADDR: usize = 28;
const COOKIE: usize = 236;
const OPTIONS: usize = 240;
const MAGIC: u32 = 0x6382_5363;

/// Message types (RFC 2132 §9.6).
const DECLINE: u8 = 4;
const ACK: u8 = 5;
const RELEASE: u8 = 7;

const OPTION_LEASE: u8 = 51;
const OPTION_TYPE: u8 = 53;

impl Check<'_> {
    /// To a server: of a client with the frame's own MAC address. Fragments are hiding something: no client makes
    /// any.
    pub(super) fn dhcp_request(&self, ip: &Headers) -> Result<(), DropReason> {
        let refused = Err(DropReason::GuardDhcp);
        let Some(m) = self.head.get(usize::from(ip.l4) + UDP_HLEN..) else { return refused };
        let request = m.starts_with(&[1, 1, 6])
            && read32(m, GIADDR) == Some(0)
            && m.get(CHADDR..CHADDR + 6) == Some(&self.mac.0);
        if !request || ip.fragment != Fragment::None {
            return refused;
        }
        if let Some(bindings) = &self.guard.bindings
            && let Some([DECLINE | RELEASE]) = option(m, OPTION_TYPE)
            && let Some(address) = read32(m, CIADDR)
        {
            bindings.remove(Ipv4Addr::from_bits(address));
        }
        Ok(())
    }

    /// To a DHCPv6 server: no message of a server or relay (RFC 8415 §7.3).
    pub(super) fn dhcpv6_request(&self, ip: &Headers) -> Result<(), DropReason> {
        const SERVERS: [u8; 5] = [2, 7, 10, 12, 13];
        let kind = self.head.get(usize::from(ip.l4) + UDP_HLEN);
        let whole = matches!(ip.fragment, Fragment::None | Fragment::Atomic);
        match kind {
            Some(kind) if whole && !SERVERS.contains(kind) => Ok(()),
            _ => Err(DropReason::GuardDhcp),
        }
    }
}

/// An address that a server gives to a client: the client's MAC address, the address, and for how many seconds.
pub(crate) fn given(packet: &Packet) -> Option<(MacAddr, Ipv4Addr, u32)> {
    let head = packet.head();
    let ip = Headers::of_frame(head)?;
    let l4 = usize::from(ip.l4);
    if ip.version != IpVersion::V4
        || ip.proto != proto::UDP
        || ip.fragment != Fragment::None
        || read16(head, l4) != Some(SERVER)
        || read16(head, l4 + 2) != Some(CLIENT)
    {
        return None;
    }
    let m = head.get(l4 + UDP_HLEN..head.len().min(ip.end as usize))?;
    if !m.starts_with(&[2, 1, 6]) || option(m, OPTION_TYPE)? != [ACK] {
        return None;
    }
    let address = Ipv4Addr::from_bits(read32(m, YIADDR)?);
    // The answer to INFORM gives nothing.
    let seconds = read32(option(m, OPTION_LEASE)?, 0)?;
    let mac = MacAddr(*m.get(CHADDR..)?.first_chunk()?);
    (!address.is_unspecified()).then_some((mac, address, seconds))
}

/// The value of an option, the first of its number.
fn option(m: &[u8], wanted: u8) -> Option<&[u8]> {
    if read32(m, COOKIE)? != MAGIC {
        return None;
    }
    let mut options = m.get(OPTIONS..)?;
    loop {
        match *options {
            [0, ref rest @ ..] => options = rest,
            [255, ..] | [] | [_] => return None,
            [code, len, ref rest @ ..] => {
                let value = rest.get(..usize::from(len))?;
                if code == wanted {
                    return Some(value);
                }
                options = &rest[value.len()..];
            }
        }
    }
}
