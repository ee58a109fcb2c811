//! Packets about which there is nothing to say: TCP or UDP, whole, no fragment, without options or extension headers,
//! between two hosts, in an untagged frame. Nearly all packets are; what they need is found in one pass, and headers
//! are where they always are.

use std::net::Ipv6Addr;

use crate::checksum::Sum;
use crate::ether::ETH_HLEN;
use crate::headers::{Fragment, Headers, IPV4_HLEN, IPV6_HLEN, IpVersion, UDP_HLEN, proto};
use crate::{EtherType, MacAddr, Packet};

/// Where the IP header starts.
pub const L3: usize = ETH_HLEN;
/// Where the transport header starts, over IPv4.
pub const L4_V4: usize = L3 + IPV4_HLEN;
/// The same over IPv6.
pub const L4_V6: usize = L3 + IPV6_HLEN;
/// As much of a plain IPv4 frame as there is at least.
pub const LEAST_V4: usize = L4_V4 + UDP_HLEN;
/// The same of IPv6.
pub const LEAST_V6: usize = L4_V6 + UDP_HLEN;

/// What there is to know about a plain packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plain {
    /// Source address, IPv4 in mapped form (RFC 4291 §2.5.5.2).
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
    /// Source port in the high half, destination port in the low one.
    pub ports: u32,
    /// Where the IP packet ends; what is behind is padding.
    pub end: u32,
    /// IPv4 rather than IPv6.
    pub v4: bool,
    /// TCP or UDP.
    pub proto: u8,
}

impl Plain {
    /// Reads a frame to a MAC address. `None` when it is to another, or there is anything to say: a TTL that ends
    /// here, a wrong IPv4 header checksum, an address that no host has (RFC 6890, RFC 4291 §2.5), the same one
    /// twice. IPv6 link-local addresses are no host's either: they do not leave their link.
    #[inline]
    pub fn read(to: MacAddr, packet: &Packet) -> Option<Plain> {
        let head = packet.head();
        let h: &[u8; LEAST_V4] = head.first_chunk()?;
        if h[..6] != to.0 || packet.meta().vlan.is_some() {
            return None;
        }
        let plain = match EtherType(u16::from_be_bytes([h[12], h[13]])) {
            EtherType::IPV4 => v4(h)?,
            EtherType::IPV6 => v6(head.first_chunk()?)?,
            _ => return None,
        };
        (plain.end as usize <= packet.len()).then_some(plain)
    }

    /// Its headers as others find them.
    #[inline]
    pub fn headers(&self) -> Headers {
        Headers {
            version: if self.v4 { IpVersion::V4 } else { IpVersion::V6 },
            proto: self.proto,
            fragment: Fragment::None,
            extended: false,
            l3: L3 as u16,
            l4: self.l4() as u16,
            end: self.end,
        }
    }

    /// Where the transport header starts.
    #[inline]
    pub fn l4(&self) -> usize {
        if self.v4 { L4_V4 } else { L4_V6 }
    }

    /// TCP rather than UDP.
    #[inline]
    pub fn is_tcp(&self) -> bool {
        self.proto == proto::TCP
    }
}

/// An IPv4 address in its mapped form (RFC 4291 §2.5.5.2), less the address.
pub const MAPPED: u128 = 0xffff_0000_0000;

#[inline]
fn v4(h: &[u8; LEAST_V4]) -> Option<Plain> {
    // Words in the machine's own order: a sum that is right is so in any (RFC 1071 §2(B)).
    let word = |at: usize| u32::from_ne_bytes([h[at], h[at + 1], h[at + 2], h[at + 3]]);
    let sum = [14, 18, 22, 26, 30].iter().fold(Sum::ZERO, |sum, at| sum.add(word(*at)));
    let total = u32::from(u16::from_be_bytes([h[16], h[17]]));
    let proto = h[23];
    // Zero and loopback networks, groups and what is reserved are nobody's.
    let host = |first: u8| first.wrapping_sub(1) < 223 && first != 127;
    // Neither options nor fragments, though DF may be set; a TTL of two and more.
    let simple = h[14] == 0x45 && (h[20] & 0xbf) | h[21] == 0 && h[22] > 1;
    let known = proto == proto::TCP || proto == proto::UDP;
    let good = simple
        && known
        && total >= (IPV4_HLEN + UDP_HLEN) as u32
        && sum.fold() == 0xffff
        && word(26) != word(30)
        && host(h[26])
        && host(h[30]);
    good.then(|| Plain {
        src: mapped(word(26)),
        dst: mapped(word(30)),
        ports: u32::from_be(word(34)),
        end: L3 as u32 + total,
        v4: true,
        proto,
    })
}

/// An IPv4 address, as it stands in memory, in its mapped form.
#[inline]
fn mapped(addr: u32) -> Ipv6Addr {
    const LAST: u32 = if cfg!(target_endian = "little") { 96 } else { 0 };
    Ipv6Addr::from((MAPPED.to_be() | u128::from(addr) << LAST).to_ne_bytes())
}

#[inline]
fn v6(h: &[u8; LEAST_V6]) -> Option<Plain> {
    let src = Ipv6Addr::from(*h[22..].first_chunk::<16>()?);
    let dst = Ipv6Addr::from(*h[38..].first_chunk::<16>()?);
    let payload = u32::from(u16::from_be_bytes([h[18], h[19]]));
    // Unspecified, loopback, mapped (::ffff:0:0/96), link-local (fe80::/10), groups (ff00::/8).
    let host = |addr: u128| addr > 1 && addr >> 32 != 0xffff && addr >> 118 != 0x3fa && addr >> 120 != 0xff;
    let known = h[20] == proto::TCP || h[20] == proto::UDP;
    let good = h[14] >> 4 == 6
        && h[21] > 1
        && known
        && payload >= UDP_HLEN as u32
        && src != dst
        && host(src.to_bits())
        && host(dst.to_bits());
    good.then(|| Plain {
        src,
        dst,
        ports: u32::from_be_bytes([h[54], h[55], h[56], h[57]]),
        end: L4_V6 as u32 + payload,
        v4: false,
        proto: h[20],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;
    use crate::checksum::ipv4_header_ok;

    const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);

    fn frame(v4: bool, protocol: u8, payload: usize) -> Vec<u8> {
        let mut f = [&MAC.0[..], &[2, 0, 0, 0, 0, 2]].concat();
        if v4 {
            f.extend([8, 0, 0x45, 0]);
            f.extend((20 + payload as u16).to_be_bytes());
            f.extend([0, 9, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 192, 0, 2, 1]);
        } else {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend((payload as u16).to_be_bytes());
            f.extend([protocol, 64, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
            f.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        }
        f.extend([0, 7, 0, 9]);
        f.resize(if v4 { 34 } else { 54 } + payload, 3);
        sign(f)
    }

    /// With the right header checksum.
    fn sign(mut f: Vec<u8>) -> Vec<u8> {
        if f[12..14] == [8, 0] {
            f[24..26].fill(0);
            let sum = Sum::ZERO.bytes(&f[14..34]).finish();
            f[24..26].copy_from_slice(&sum.to_be_bytes());
        }
        f
    }

    fn read(frame: &[u8]) -> Option<Plain> {
        let mut pool = Pool::new(1, 1);
        let mut packet = pool.get();
        packet.set_bytes(frame, &mut pool).unwrap();
        let plain = Plain::read(MAC, &packet);
        // Whatever it says, others say too.
        if let Some(plain) = plain {
            let ip = Headers::parse(&packet).unwrap();
            assert_eq!(plain.headers(), ip);
            assert!(ipv4_header_ok(packet.head(), &ip) && ip.is_whole(packet.len()));
            let flow = ip.flow(packet.head()).unwrap();
            assert_eq!((flow.src, flow.dst), (plain.src, plain.dst));
            assert_eq!(plain.ports, u32::from(flow.src_port) << 16 | u32::from(flow.dst_port));
        }
        plain
    }

    #[test]
    fn plain_packets_with_and_without_padding() {
        for v4 in [true, false] {
            for protocol in [proto::TCP, proto::UDP] {
                let mut f = frame(v4, protocol, 30);
                let plain = read(&f).unwrap();
                assert_eq!((plain.v4, plain.proto, plain.end as usize), (v4, protocol, f.len()));
                f.extend([0; 9]);
                assert_eq!(read(&f), Some(plain));
                f.truncate(plain.end as usize - 1);
                assert_eq!(read(&f), None);
            }
        }
    }

    #[test]
    fn anything_else_is_not() {
        let change = |v4: bool, at: usize, bytes: &[u8]| {
            let mut f = frame(v4, proto::UDP, 30);
            f[at..at + bytes.len()].copy_from_slice(bytes);
            read(&sign(f))
        };
        for v4 in [true, false] {
            assert!(change(v4, 60, &[1]).is_some());
            // Another MAC address, EtherType, version, protocol.
            for (at, bytes) in [(5, &[9][..]), (12, &[8, 6]), (12, &[0x81, 0]), (14, &[0x55])] {
                assert_eq!(change(v4, at, bytes), None, "{at}");
            }
            let (ttl, protocol) = if v4 { (22, 23) } else { (21, 20) };
            for left in [0, 1] {
                assert_eq!(change(v4, ttl, &[left]), None);
            }
            assert!(change(v4, ttl, &[2]).is_some());
            for other in [0, 1, 44, 58, 50] {
                assert_eq!(change(v4, protocol, &[other]), None);
            }
        }
        // Options, fragments, too short for ports, a wrong checksum.
        assert_eq!(change(true, 14, &[0x46]), None);
        for fragment in [[0x20, 0], [0, 1], [0x80, 0]] {
            assert_eq!(change(true, 20, &fragment), None);
        }
        assert_eq!(change(true, 16, &[0, 27]), None);
        assert_eq!(change(false, 18, &[0, 7]), None);
        let mut wrong = frame(true, proto::UDP, 30);
        wrong[24] ^= 1;
        assert_eq!(read(&wrong), None);
        // Addresses of nobody, and the same twice.
        for first in [0, 127, 224, 240, 255] {
            assert_eq!((change(true, 26, &[first]), change(true, 30, &[first])), (None, None));
        }
        assert_eq!(change(true, 30, &[10, 0, 0, 1]), None);
        let mapped: [u8; 16] = std::net::Ipv4Addr::new(10, 0, 0, 7).to_ipv6_mapped().octets();
        let bad = ["::", "::1", "fe80::1", "febf::1", "ff02::1", "fd00::1"]
            .map(|a| a.parse::<std::net::Ipv6Addr>().unwrap().octets());
        for addr in [mapped].iter().chain(&bad) {
            assert_eq!(change(false, 38, addr), None, "{addr:x?}");
        }
        assert!(change(false, 38, &[0xfc; 16]).is_some());
    }
}
