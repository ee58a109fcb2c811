//! Socket addresses and control messages as bytes, so that building and reading them needs no `unsafe`.

use std::ffi::c_int;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::sock::TTL;

/// A `sockaddr_in` or `sockaddr_in6`.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Name([u8; Name::ROOM]);

impl Name {
    /// Bytes of it, enough for either family.
    pub(super) const ROOM: usize = mem::size_of::<libc::sockaddr_in6>();
    pub(super) const EMPTY: Name = Name([0; Name::ROOM]);

    /// `interface` is the scope of a link-local address, else 0.
    pub(super) fn new(address: IpAddr, port: u16, interface: u32) -> Name {
        let mut name = Name::EMPTY;
        let b = &mut name.0;
        b[2..4].copy_from_slice(&port.to_be_bytes());
        match address {
            IpAddr::V4(a) => {
                b[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                b[4..8].copy_from_slice(&a.octets());
            }
            IpAddr::V6(a) => {
                b[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                b[8..24].copy_from_slice(&a.octets());
                // The kernel takes a scope only where it means something.
                let scope = if a.is_unicast_link_local() || a.is_multicast() { interface } else { 0 };
                b[24..28].copy_from_slice(&scope.to_ne_bytes());
            }
        }
        name
    }

    /// Length the kernel expects.
    pub(super) fn len(&self) -> libc::socklen_t {
        let size = match self.family() {
            libc::AF_INET => mem::size_of::<libc::sockaddr_in>(),
            _ => Name::ROOM,
        };
        size as libc::socklen_t
    }

    pub(super) fn as_ptr(&self) -> *const libc::sockaddr {
        self.0.as_ptr().cast()
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::sockaddr {
        self.0.as_mut_ptr().cast()
    }

    fn family(&self) -> c_int {
        c_int::from(u16::from_ne_bytes([self.0[0], self.0[1]]))
    }

    /// Address and port; `None` for another family.
    pub(super) fn get(&self) -> Option<(IpAddr, u16)> {
        let b = &self.0;
        let address = match self.family() {
            libc::AF_INET => v4(b.get(4..8)?)?,
            libc::AF_INET6 => v6(b.get(8..24)?)?,
            _ => return None,
        };
        Some((address, u16::from_be_bytes([b[2], b[3]])))
    }
}

fn v4(b: &[u8]) -> Option<IpAddr> {
    Some(Ipv4Addr::from(*b.first_chunk::<4>()?).into())
}

fn v6(b: &[u8]) -> Option<IpAddr> {
    Some(Ipv6Addr::from(*b.first_chunk::<16>()?).into())
}

/// Where level and type stand in a `cmsghdr`, and where the data begins.
const LEVEL_AT: usize = mem::offset_of!(libc::cmsghdr, cmsg_level);
const TYPE_AT: usize = mem::offset_of!(libc::cmsghdr, cmsg_type);
const HEADER: usize = mem::size_of::<libc::cmsghdr>();
const ALIGN: usize = mem::size_of::<usize>();

/// A control buffer: room for every message used here in either direction (112 bytes for IPv6).
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub(super) struct Control {
    bytes: [u8; Control::ROOM],
}

impl Control {
    pub(super) const ROOM: usize = 128;
    pub(super) const EMPTY: Control = Control { bytes: [0; Control::ROOM] };

    pub(super) fn as_mut_ptr(&mut self) -> *mut libc::c_void {
        self.bytes.as_mut_ptr().cast()
    }

    /// Puts a message at `at`, which must be the end of the last one. The end of this one.
    #[inline]
    fn put(&mut self, at: usize, level: c_int, kind: c_int, data: &[u8]) -> usize {
        let b = &mut self.bytes[at..];
        b[..ALIGN].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        b[LEVEL_AT..LEVEL_AT + 4].copy_from_slice(&level.to_ne_bytes());
        b[TYPE_AT..TYPE_AT + 4].copy_from_slice(&kind.to_ne_bytes());
        b[HEADER..HEADER + data.len()].copy_from_slice(data);
        at + (HEADER + data.len()).next_multiple_of(ALIGN)
    }

    /// What goes with a message to send; how many bytes of the buffer that takes.
    #[inline]
    pub(super) fn fill(&mut self, how: &How) -> usize {
        let mut at = 0;
        let v6 = how.to.is_ipv6();
        if let Some(size) = how.segment {
            at = self.put(at, libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        // Sockets are made with traffic class 0.
        if how.tos != 0 {
            let (level, kind) =
                if v6 { (libc::SOL_IPV6, libc::IPV6_TCLASS) } else { (libc::SOL_IP, libc::IP_TOS) };
            at = self.put(at, level, kind, &c_int::from(how.tos).to_ne_bytes());
        }
        if how.ttl != 0 && (how.ttl != TTL || how.to.is_multicast()) {
            let (level, kind) =
                if v6 { (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) } else { (libc::SOL_IP, libc::IP_TTL) };
            at = self.put(at, level, kind, &c_int::from(how.ttl).to_ne_bytes());
        }
        if how.from.is_none() && how.interface == 0 {
            return at;
        }
        // Zeros let the route choose.
        let (mut info, interface) = ([0; 20], how.interface.to_ne_bytes());
        let from = how.from.filter(|from| from.is_ipv6() == v6);
        if v6 {
            // `in6_pktinfo`: source, interface.
            if let Some(IpAddr::V6(a)) = from {
                info[..16].copy_from_slice(&a.octets());
            }
            info[16..].copy_from_slice(&interface);
            at = self.put(at, libc::SOL_IPV6, libc::IPV6_PKTINFO, &info);
        } else {
            // `in_pktinfo`: interface, source, and the destination, which is of no use here.
            info[..4].copy_from_slice(&interface);
            if let Some(IpAddr::V4(a)) = from {
                info[4..8].copy_from_slice(&a.octets());
            }
            at = self.put(at, libc::SOL_IP, libc::IP_PKTINFO, &info[..12]);
        }
        at
    }

    /// What came with a received message, of which the kernel says that it takes `len` bytes.
    #[inline]
    pub(super) fn read(&self, len: usize) -> Came {
        let mut came = Came::default();
        let mut rest = &self.bytes[..len.min(Control::ROOM)];
        while let Some((level, kind, data, next)) = message(rest) {
            match (level, kind) {
                // Destination address as in the header.
                (libc::SOL_IP, libc::IP_PKTINFO) => came.dst = data.get(8..).and_then(v4),
                (libc::SOL_IPV6, libc::IPV6_PKTINFO) => came.dst = v6(data),
                // One byte in IPv4, an int in IPv6.
                (libc::SOL_IP, libc::IP_TOS) => came.tos = data.first().copied().unwrap_or(0),
                (libc::SOL_IPV6, libc::IPV6_TCLASS) => came.tos = int(data) as u8,
                (libc::SOL_IP, libc::IP_TTL) | (libc::SOL_IPV6, libc::IPV6_HOPLIMIT) => {
                    came.ttl = int(data) as u8;
                }
                (libc::SOL_UDP, libc::UDP_GRO) => came.gro = u16::try_from(int(data)).ok(),
                _ => {}
            }
            rest = next;
        }
        came
    }
}

/// How to send a message, besides its destination's port.
pub(super) struct How {
    pub(super) to: IpAddr,
    pub(super) from: Option<IpAddr>,
    pub(super) interface: u32,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    /// UDP_SEGMENT.
    pub(super) segment: Option<u16>,
}

/// What the kernel says of a received message.
#[derive(Default, Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Came {
    pub(super) dst: Option<IpAddr>,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) gro: Option<u16>,
}

fn int(data: &[u8]) -> c_int {
    data.first_chunk().map_or(0, |&b| c_int::from_ne_bytes(b))
}

/// Level, type and data of the first message, and what follows it.
#[inline]
fn message(bytes: &[u8]) -> Option<(c_int, c_int, &[u8], &[u8])> {
    let len = usize::from_ne_bytes(*bytes.first_chunk()?);
    let data = bytes.get(HEADER..len)?;
    let next = bytes.get(len.next_multiple_of(ALIGN)..).unwrap_or_default();
    Some((int(&bytes[LEVEL_AT..]), int(&bytes[TYPE_AT..]), data, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for text in ["192.0.2.1", "2001:db8::7", "fe80::1"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(Name::new(address, 4789, 3).get(), Some((address, 4789)));
        }
        assert_eq!(Name::EMPTY.get(), None);
        // A scope only where it means something.
        assert_eq!(Name::new("fe80::1".parse().unwrap(), 1, 3).0[24..28], 3u32.to_ne_bytes());
        assert_eq!(Name::new("2001:db8::1".parse().unwrap(), 1, 3).0[24..28], [0; 4]);
    }

    #[test]
    fn the_fullest_control_buffers_fit() {
        for to in ["192.0.2.1", "2001:db8::7"] {
            let to: IpAddr = to.parse().unwrap();
            let how = How { to, from: Some(to), interface: 1, tos: 0xb8, ttl: 7, segment: Some(1400) };
            let mut control = Control::EMPTY;
            let len = control.fill(&how);
            assert!(len <= Control::ROOM);
            let came = control.read(len);
            // IPv4's information for sending has the source where received one has the local address.
            assert_eq!((came.tos, came.ttl), (0xb8, 7));
            assert_eq!(came.dst, Some(if to.is_ipv6() { to } else { "0.0.0.0".parse().unwrap() }));
        }
    }

    #[test]
    fn what_the_socket_does_anyway_needs_no_message() {
        let fill = |to: &str, ttl| {
            let to = to.parse().unwrap();
            let mut control = Control::EMPTY;
            control.fill(&How { to, from: None, interface: 0, tos: 0, ttl, segment: None })
        };
        assert_eq!((fill("192.0.2.1", TTL), fill("2001:db8::7", TTL), fill("192.0.2.1", 0)), (0, 0, 0));
        // Which has a TTL of its own, 1.
        assert_eq!((fill("239.1.1.1", TTL), fill("ff0e::1", TTL)), (24, 24));
        assert_eq!(fill("192.0.2.1", 63), 24);
    }

    #[test]
    fn garbage_in_a_control_buffer_is_no_harm() {
        let mut random = 1u32;
        for len in 0..=Control::ROOM {
            for _ in 0..200 {
                let mut control = Control::EMPTY;
                for b in &mut control.bytes {
                    random = random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    // Small numbers make plausible lengths.
                    *b = if random & 0x300 == 0 { (random >> 24) as u8 & 0x3f } else { 0 };
                }
                let came = control.read(len);
                assert!(len > HEADER || came == Came::default());
            }
        }
    }
}
