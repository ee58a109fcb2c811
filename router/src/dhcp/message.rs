//! The messages (RFC 2131 §2) and their options (RFC 2132).

use std::net::Ipv4Addr;

use trunkline_packet::MacAddr;
use trunkline_packet::headers::{read16, read32};

use super::{Config, Link};

/// Bytes before the options, with the magic cookie.
const FIXED: usize = 240;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Where the two fields are that may hold options too (RFC 2132 §9.3).
const SNAME: std::ops::Range<usize> = 44..108;
const FILE: std::ops::Range<usize> = 108..236;
/// The shortest answer: a BOOTP message, which some clients insist on (RFC 951).
const SHORTEST: usize = 300;
/// What every client takes (RFC 2131 §2): an IP packet of 576 bytes.
const LONGEST: usize = 576 - 28;

mod option {
    pub(super) const PAD: u8 = 0;
    pub(super) const NETMASK: u8 = 1;
    pub(super) const ROUTER: u8 = 3;
    pub(super) const DNS: u8 = 6;
    pub(super) const HOST_NAME: u8 = 12;
    pub(super) const DOMAIN: u8 = 15;
    pub(super) const MTU: u8 = 26;
    pub(super) const BROADCAST: u8 = 28;
    pub(super) const REQUESTED: u8 = 50;
    pub(super) const LEASE: u8 = 51;
    pub(super) const OVERLOAD: u8 = 52;
    pub(super) const KIND: u8 = 53;
    pub(super) const SERVER: u8 = 54;
    pub(super) const RENEWAL: u8 = 58;
    pub(super) const REBINDING: u8 = 59;
    pub(super) const CLIENT: u8 = 61;
    pub(super) const END: u8 = 255;
}

/// RFC 2132 §9.6.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
    Inform = 8,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        use Kind::{Ack, Decline, Discover, Inform, Nak, Offer, Release, Request};
        [Discover, Offer, Request, Decline, Ack, Nak, Release, Inform].into_iter().find(|k| *k as u8 == byte)
    }
}

/// Who the client is: the bytes of its identifier, or its hardware type and address.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Client(pub(super) Box<[u8]>);

impl Client {
    pub(super) fn of_mac(mac: MacAddr) -> Client {
        Client([&[1], &mac.0[..]].concat().into())
    }
}

/// What a client says.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) kind: Kind,
    xid: [u8; 4],
    flags: u16,
    /// It cannot hear what is sent to an address it does not have yet.
    pub(super) broadcast: bool,
    pub(super) ciaddr: Ipv4Addr,
    pub(super) giaddr: Ipv4Addr,
    pub(super) mac: MacAddr,
    pub(super) client: Client,
    /// The identifier as it was sent, which the answer repeats (RFC 6842).
    identifier: Option<&'a [u8]>,
    pub(super) requested: Option<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) lease: Option<u32>,
    pub(super) host_name: Option<&'a str>,
}

fn addr(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    read32(bytes, at).map(Ipv4Addr::from_bits)
}

impl<'a> Request<'a> {
    /// `None` for what is malformed, not from a client, or not on Ethernet.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Request<'a>> {
        let fixed: &[u8; FIXED] = bytes.first_chunk()?;
        // A request, Ethernet, with addresses of six bytes.
        if fixed[..3] != [1, 1, 6] || fixed[236..] != COOKIE {
            return None;
        }
        let mac = MacAddr(*fixed[28..].first_chunk()?);
        let mut m = Request {
            kind: Kind::Nak,
            xid: *fixed[4..].first_chunk()?,
            flags: read16(fixed, 10)?,
            broadcast: fixed[10] & 0x80 != 0,
            ciaddr: addr(fixed, 12)?,
            giaddr: addr(fixed, 24)?,
            mac,
            client: Client::of_mac(mac),
            identifier: None,
            requested: None,
            server: None,
            lease: None,
            host_name: None,
        };
        let (mut kind, mut overload) = (None, 0);
        m.options(&bytes[FIXED..], &mut kind, &mut overload)?;
        if overload & 1 != 0 {
            m.options(&bytes[FILE], &mut kind, &mut 0)?;
        }
        if overload & 2 != 0 {
            m.options(&bytes[SNAME], &mut kind, &mut 0)?;
        }
        m.kind = kind?;
        if let Some(id) = m.identifier {
            m.client = Client(id.into());
        }
        Some(m)
    }

    /// Reads options; of one that comes twice the first counts.
    fn options(&mut self, mut rest: &'a [u8], kind: &mut Option<Kind>, overload: &mut u8) -> Option<()> {
        loop {
            let (code, len) = match *rest {
                // Some clients leave the end away.
                [] | [option::END, ..] => return Some(()),
                [option::PAD, ref more @ ..] => {
                    rest = more;
                    continue;
                }
                [code, len, ..] => (code, usize::from(len)),
                [_] => return None,
            };
            let value = rest.get(2..2 + len)?;
            rest = &rest[2 + len..];
            let four = || if len == 4 { read32(value, 0) } else { None };
            match code {
                option::KIND if kind.is_none() && len == 1 => *kind = Some(Kind::from_byte(value[0])?),
                option::REQUESTED if self.requested.is_none() => {
                    self.requested = Some(Ipv4Addr::from_bits(four()?));
                }
                option::SERVER if self.server.is_none() => self.server = Some(Ipv4Addr::from_bits(four()?)),
                option::LEASE if self.lease.is_none() => self.lease = Some(four()?),
                // RFC 2132 §9.14: at least two bytes.
                option::CLIENT if self.identifier.is_none() && len >= 2 => self.identifier = Some(value),
                option::OVERLOAD if len == 1 => *overload = value[0],
                option::HOST_NAME if self.host_name.is_none() => self.host_name = host_name(value),
                _ => {}
            }
        }
    }
}

/// A name as hosts have them (RFC 1123 §2.1, and underscores); anything else is not shown to anybody.
fn host_name(bytes: &[u8]) -> Option<&str> {
    let name = std::str::from_utf8(bytes).ok()?.trim_end_matches('\0');
    let good = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    ((1..=63).contains(&name.len()) && name.bytes().all(good)).then_some(name)
}

/// What the server says.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    /// The client's address; unspecified when it gets none.
    pub(super) addr: Ipv4Addr,
    /// Seconds.
    pub(super) lease: u32,
}

impl Reply {
    pub(super) fn new(kind: Kind) -> Reply {
        Reply { kind, addr: Ipv4Addr::UNSPECIFIED, lease: 0 }
    }

    /// The message, as an answer to a request.
    pub(super) fn write(&self, m: &Request<'_>, link: &Link, config: &Config) -> Vec<u8> {
        let mut out = vec![0; FIXED];
        out[..3].copy_from_slice(&[2, 1, 6]);
        out[4..8].copy_from_slice(&m.xid);
        out[10..12].copy_from_slice(&m.flags.to_be_bytes());
        if self.kind != Kind::Nak {
            // RFC 2131 §4.3.1, table 3.
            let ciaddr = if self.kind == Kind::Ack { m.ciaddr } else { Ipv4Addr::UNSPECIFIED };
            out[12..16].copy_from_slice(&ciaddr.octets());
            out[16..20].copy_from_slice(&self.addr.octets());
        }
        out[28..34].copy_from_slice(&m.mac.0);
        out[236..].copy_from_slice(&COOKIE);
        let mut put = |code: u8, value: &[u8]| {
            // What does not fit, the end included, is left out; the important ones come first.
            if let Ok(len) = u8::try_from(value.len())
                && len > 0
                && out.len() + 2 + value.len() < LONGEST
            {
                out.extend([code, len]);
                out.extend(value);
            }
        };
        put(option::KIND, &[self.kind as u8]);
        put(option::SERVER, &link.own.octets());
        if let Some(id) = m.identifier {
            put(option::CLIENT, id);
        }
        if self.kind != Kind::Nak {
            if self.lease > 0 {
                let part =
                    |of: u32, by: u32| if self.lease == u32::MAX { u32::MAX } else { self.lease / by * of };
                put(option::LEASE, &self.lease.to_be_bytes());
                put(option::RENEWAL, &part(1, 2).to_be_bytes());
                put(option::REBINDING, &part(7, 8).to_be_bytes());
            }
            put(option::NETMASK, &link.net.netmask().octets());
            put(option::ROUTER, &config.router.unwrap_or(link.own).octets());
            put(option::BROADCAST, &link.net.broadcast().octets());
            put(option::MTU, &link.mtu.to_be_bytes());
            let dns: Vec<u8> = config.dns.iter().flat_map(|d| d.octets()).collect();
            put(option::DNS, &dns);
            put(option::DOMAIN, config.domain.as_deref().unwrap_or_default().as_bytes());
        }
        out.push(option::END);
        out.resize(out.len().max(SHORTEST), 0);
        out
    }
}
