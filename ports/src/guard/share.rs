//! Ports that the switch has on the host's own addresses: which frames belong to them.
//!
//! The interface's ingress hook ([`super::IngressDrop::attach_ports`]) keeps from the host's stack what that
//! would answer wrongly: TCP and UDP to these ports. The packet socket's filter
//! ([`crate::afpacket::AfPacket::open_shared`]) lets in those and what else may belong to them: answers to
//! ICMP queries with an identifier of ours, ICMP errors about packets from these ports, and fragments,
//! which do not tell. The stack ignores all of these by itself, since it knows no such query, connection or
//! first fragment.
//!
//! Tunnels are sent *to* the same port at both ends, from any port: of them, what is for the port is the
//! switch's, and errors about what was sent to it. GRE has no ports: all of it is the switch's, or none.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;

use super::program::Cond::{Bits, Eq, Ge, Gt};
use super::program::Op::{
    Add, AddX, And, FromX, Goto, Here, If, Load, LoadX, Restore, Save, Shl, Tagged, ToX, Verdict,
};
use super::program::{Label, Op, Program};
use crate::sys;

/// Ports that the switch has on addresses which are otherwise the host's. Ranges include both ends, and may
/// overlap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct PortShare {
    /// TCP ports.
    pub tcp: Vec<(u16, u16)>,
    /// UDP ports.
    pub udp: Vec<(u16, u16)>,
    /// Identifiers of ICMP and ICMPv6 queries.
    pub icmp: Vec<(u16, u16)>,
    /// UDP ports that tunnels are received on and sent to.
    pub tunnels: Vec<(u16, u16)>,
    /// GRE.
    pub gre: bool,
    /// The addresses, at most [`PortShare::MAX_ADDRESSES`].
    pub addresses: Vec<IpAddr>,
}

/// For whom a program decides.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// "Yes": it must not reach the host's stack.
    Stack,
    /// "Yes": the packet socket takes it.
    Socket,
}

/// Bytes of the Ethernet header.
const ETH: u32 = 14;
const ETH_P_IP: u32 = libc::ETH_P_IP as u32;
const ETH_P_IPV6: u32 = libc::ETH_P_IPV6 as u32;
const TCP: u32 = libc::IPPROTO_TCP as u32;
const UDP: u32 = libc::IPPROTO_UDP as u32;
const ICMP: u32 = libc::IPPROTO_ICMP as u32;
const ICMPV6: u32 = libc::IPPROTO_ICMPV6 as u32;
const GRE: u32 = libc::IPPROTO_GRE as u32;
const FRAGMENT: u32 = libc::IPPROTO_FRAGMENT as u32;
/// Extension headers that count their length in eight bytes behind the first eight.
const OPTIONS: [u32; 3] =
    [libc::IPPROTO_HOPOPTS as u32, libc::IPPROTO_ROUTING as u32, libc::IPPROTO_DSTOPTS as u32];
/// IPv6 extension headers that are looked behind; a packet with more is not for us.
const MAX_EXTENSIONS: usize = 4;

/// ICMP messages whose identifier is where the ports of TCP are not: replies to queries, and errors.
const REPLIES: [u32; 4] = [0, 14, 16, 18];
const ERRORS: [u32; 3] = [3, 11, 12];
const REPLIES_V6: [u32; 1] = [129];
const ERRORS_V6: [u32; 4] = [1, 2, 3, 4];
/// Where an identifier is in an ICMP message.
const IDENTIFIER: u32 = 4;
/// Where the packet that an error is about begins.
const EMBEDDED: u32 = 8;

impl PortShare {
    /// The most addresses. With the most ranges too, the filter fits `net.core.optmem_max` of every kernel.
    pub const MAX_ADDRESSES: usize = 32;

    /// The most ranges of a kind, after those that touch have been joined.
    pub const MAX_RANGES: usize = 64;

    /// The same range of TCP, UDP and ICMP, and no tunnels.
    pub fn new(ports: (u16, u16), addresses: Vec<IpAddr>) -> PortShare {
        let [tcp, udp, icmp] = [(); 3].map(|()| vec![ports]);
        PortShare { tcp, udp, icmp, addresses, ..PortShare::default() }
    }

    /// The same with its ranges in order and apart; those of tunnels are among UDP's, too.
    ///
    /// # Errors
    /// `InvalidInput` when it makes no sense.
    pub(super) fn checked(&self) -> io::Result<PortShare> {
        let text = if self.addresses.is_empty() {
            "shared ports need an address".to_string()
        } else if self.addresses.len() > PortShare::MAX_ADDRESSES {
            format!("ports are shared on at most {} addresses", PortShare::MAX_ADDRESSES)
        } else {
            return Ok(PortShare {
                tcp: ranges(&self.tcp)?,
                udp: ranges(&[&self.udp[..], &self.tunnels].concat())?,
                icmp: ranges(&self.icmp)?,
                tunnels: ranges(&self.tunnels)?,
                gre: self.gre,
                addresses: self.addresses.clone(),
            });
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, text))
    }

    /// Makes a packet socket take only what may belong to these ports, in place of what it took before.
    pub(crate) fn filter(&self, socket: impl AsFd) -> io::Result<()> {
        sys::attach_filter(socket, &self.program(Whom::Socket)?.classic())
    }

    /// In the program, X is where the current header begins, M its protocol.
    pub(super) fn program(&self, whom: Whom) -> io::Result<Program> {
        let share = self.checked()?;
        let mut p = Program::default();
        let [yes, no, v4, v6, fragment, transport] = [(); 6].map(|()| p.label());
        // What has a tag is for a VLAN interface of the host's.
        p.add([Tagged, If(Bits, 1, no), Load(2, 12), If(Eq, ETH_P_IP, v4), If(Eq, ETH_P_IPV6, v6), Goto(no)]);
        p.add([Here(v4)]);
        share.v4(&mut p, yes, no, fragment);
        p.add([Goto(transport), Here(v6)]);
        share.v6(&mut p, [yes, no], fragment, transport);
        p.add([Here(transport)]);
        share.transport(&mut p, whom, yes, no);
        // Only the first fragment has ports. The stack makes nothing of the others without it.
        p.add([
            Here(fragment),
            Verdict(whom == Whom::Socket),
            Here(yes),
            Verdict(true),
            Here(no),
            Verdict(false),
        ]);
        Ok(p)
    }

    /// GRE's fragments say that they are GRE.
    fn gre(&self, yes: Label) -> Option<Op> {
        self.gre.then_some(If(Eq, GRE, yes))
    }

    fn v4(&self, p: &mut Program, yes: Label, no: Label, fragment: Label) {
        let ours = p.label();
        p.add([Load(4, ETH + 16)]);
        for address in &self.addresses {
            if let IpAddr::V4(a) = address {
                p.add([If(Eq, u32::from(*a), ours)]);
            }
        }
        p.add([Goto(no), Here(ours)]);
        p.add([Load(1, ETH + 9), Save]);
        p.add(self.gre(yes));
        p.add([Load(1, ETH), And(0xf), Shl(2), Add(ETH), ToX]);
        p.add([Load(2, ETH + 6), If(Bits, 0x1fff, fragment)]);
    }

    fn v6(&self, p: &mut Program, [yes, no]: [Label; 2], fragment: Label, transport: Label) {
        let ours = p.label();
        for address in &self.addresses {
            let IpAddr::V6(a) = address else { continue };
            let other = p.label();
            for (at, word) in (ETH + 24..).step_by(4).zip(a.octets().as_chunks::<4>().0) {
                let same = p.label();
                p.add([Load(4, at), If(Eq, u32::from_be_bytes(*word), same), Goto(other), Here(same)]);
            }
            p.add([Goto(ours), Here(other)]);
        }
        p.add([Goto(no), Here(ours), Load(1, ETH + 6), Save, And(0), Add(ETH + 40), ToX]);
        for _ in 0..MAX_EXTENSIONS {
            let [options, fragments, next] = [(); 3].map(|()| p.label());
            p.add([Restore, If(Eq, FRAGMENT, fragments)]);
            p.add(OPTIONS.map(|option| If(Eq, option, options)));
            p.add([Goto(transport), Here(options)]);
            p.add([LoadX(1, 0), Save, LoadX(1, 1), Add(1), Shl(3), AddX, ToX, Goto(next)]);
            // A first fragment has offset 0.
            p.add([Here(fragments), LoadX(1, 0), Save]);
            p.add(self.gre(yes));
            p.add([LoadX(2, 2), If(Bits, 0xfff8, fragment)]);
            p.add([FromX, Add(8), ToX, Here(next)]);
        }
    }

    fn transport(&self, p: &mut Program, whom: Whom, yes: Label, no: Label) {
        // Each looks for what is in A among its ranges.
        let [tcp, udp, icmp] = [(); 3].map(|()| p.label());
        let [to_tcp, to_udp] = [(); 2].map(|()| p.label());
        p.add([Restore, If(Eq, TCP, to_tcp), If(Eq, UDP, to_udp)]);
        p.add(self.gre(yes));
        if whom == Whom::Socket {
            self.icmp(p, [tcp, udp, icmp], [yes, no]);
        }
        p.add([Goto(no), Here(to_tcp), LoadX(2, 2), Goto(tcp), Here(to_udp), LoadX(2, 2), Goto(udp)]);
        for (label, ranges) in [(tcp, &self.tcp), (udp, &self.udp), (icmp, &self.icmp)] {
            p.add([Here(label)]);
            for &(low, high) in ranges {
                let above = p.label();
                p.add([If(Gt, high.into(), above), If(Ge, low.into(), yes), Goto(no), Here(above)]);
            }
            p.add([Goto(no)]);
        }
    }

    /// For a protocol other than TCP and UDP.
    fn icmp(&self, p: &mut Program, [tcp, udp, icmp]: [Label; 3], [yes, no]: [Label; 2]) {
        let [v4, v6, reply, error, error6] = [(); 5].map(|()| p.label());
        p.add([If(Eq, ICMP, v4), If(Eq, ICMPV6, v6), Goto(no)]);
        p.add([Here(v4), LoadX(1, 0)]);
        p.add(REPLIES.map(|t| If(Eq, t, reply)));
        p.add(ERRORS.map(|t| If(Eq, t, error)));
        p.add([Goto(no), Here(v6), LoadX(1, 0)]);
        p.add(REPLIES_V6.map(|t| If(Eq, t, reply)));
        p.add(ERRORS_V6.map(|t| If(Eq, t, error6)));
        p.add([Goto(no)]);
        // The packet that an error is about is one that we have sent.
        let [embedded, fragment, from_tcp, from_udp] = [(); 4].map(|()| p.label());
        p.add([Here(error), LoadX(1, EMBEDDED + 9), Save]);
        p.add([LoadX(1, EMBEDDED), And(0xf), Shl(2), Add(EMBEDDED), AddX, ToX, Goto(embedded)]);
        p.add([Here(error6), LoadX(1, EMBEDDED + 6), Save, FromX, Add(EMBEDDED + 40), ToX]);
        p.add([Restore, If(Eq, FRAGMENT, fragment), Goto(embedded)]);
        p.add([Here(fragment), LoadX(1, 0), Save, FromX, Add(8), ToX]);
        p.add([Here(embedded), Restore, If(Eq, TCP, from_tcp), If(Eq, UDP, from_udp)]);
        p.add([If(Eq, ICMP, reply), If(Eq, ICMPV6, reply)]);
        p.add(self.gre(yes));
        p.add([Goto(no), Here(from_tcp), LoadX(2, 0), Goto(tcp), Here(from_udp), LoadX(2, 2)]);
        for &(low, high) in &self.tunnels {
            let above = p.label();
            p.add([If(Gt, high.into(), above), If(Ge, low.into(), yes), Here(above)]);
        }
        p.add([LoadX(2, 0), Goto(udp)]);
        p.add([Here(reply), LoadX(2, IDENTIFIER), Goto(icmp)]);
    }
}

/// Ranges of ports in order, those that overlap or touch joined.
///
/// # Errors
/// `InvalidInput` when one is no range, or there are too many.
pub(super) fn ranges(given: &[(u16, u16)]) -> io::Result<Vec<(u16, u16)>> {
    let invalid = |text| Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    let mut sorted = given.to_vec();
    sorted.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::new();
    for (low, high) in sorted {
        if low == 0 || low > high {
            return invalid(format!("{low}-{high} is not a range of ports"));
        }
        match joined.last_mut() {
            Some(last) if last.1 >= low - 1 => last.1 = last.1.max(high),
            _ => joined.push((low, high)),
        }
    }
    if joined.len() > PortShare::MAX_RANGES {
        return invalid(format!("at most {} ranges of ports can be shared", PortShare::MAX_RANGES));
    }
    Ok(joined)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    const RANGE: (u16, u16) = (40000, 40999);

    fn share() -> PortShare {
        let addresses = ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2"];
        PortShare::new(RANGE, addresses.map(|a| a.parse().unwrap()).into())
    }

    /// A filter of the kernel's that can be asked: a local socket with it stands in for the packet socket.
    struct Filter(UnixDatagram, UnixDatagram);

    impl Filter {
        fn new(share: &PortShare, whom: Whom) -> Filter {
            let (here, there) = UnixDatagram::pair().unwrap();
            sys::attach_filter(&here, &share.program(whom).unwrap().classic()).unwrap();
            here.set_nonblocking(true).unwrap();
            Filter(here, there)
        }

        fn takes(&self, frame: &[u8]) -> bool {
            // A frame that the filter drops may be an error of the sender's.
            let _ = self.1.send(frame);
            self.0.recv(&mut [0; 2000]).is_ok_and(|n| n == frame.len())
        }
    }

    fn v4(to: &str, protocol: u8, options: usize, offset: u16, body: &[u8]) -> Vec<u8> {
        let mut f = vec![0; 12];
        f.extend([8, 0, 0x45 + (options / 4) as u8, 0, 0, 0, 0, 0]);
        f.extend(offset.to_be_bytes());
        f.extend([64, protocol, 0, 0, 203, 0, 113, 9]);
        f.extend(to.parse::<std::net::Ipv4Addr>().unwrap().octets());
        f.extend(vec![1; options]);
        f.extend(body);
        f
    }

    fn v6(to: &str, next: u8, body: &[u8]) -> Vec<u8> {
        let mut f = vec![0; 12];
        f.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 0, next, 64]);
        f.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]);
        f.extend(to.parse::<std::net::Ipv6Addr>().unwrap().octets());
        f.extend(body);
        f
    }

    /// The beginning of a TCP or UDP header.
    fn ports(from: u16, to: u16) -> Vec<u8> {
        [from.to_be_bytes(), to.to_be_bytes(), [0; 2], [0; 2]].concat()
    }

    fn query(kind: u8, identifier: u16) -> Vec<u8> {
        [[kind, 0], [0; 2], identifier.to_be_bytes(), [0, 1]].concat()
    }

    /// An ICMP error about the packet in this frame.
    fn error(kind: u8, about: &[u8]) -> Vec<u8> {
        [&[kind, 0, 0, 0, 0, 0, 0, 0], &about[14..]].concat()
    }

    #[test]
    fn ports_of_the_range_are_the_switchs_and_no_others() {
        let share = share();
        let (stack, socket) = (Filter::new(&share, Whom::Stack), Filter::new(&share, Whom::Socket));
        let both = |frame: &[u8], expected: bool| {
            assert_eq!((stack.takes(frame), socket.takes(frame)), (expected, expected), "{frame:x?}");
        };
        for (port, expected) in [
            (39999, false),
            (40000, true),
            (40500, true),
            (40999, true),
            (41000, false),
            (0, false),
            (65535, false),
        ] {
            for protocol in [6, 17] {
                let body = ports(40500, port);
                for to in ["192.0.2.1", "192.0.2.2"] {
                    for options in [0, 4, 40] {
                        both(&v4(to, protocol, options, 0, &body), expected);
                        both(&v4(to, protocol, options, 0x4000, &body), expected);
                        // A first fragment.
                        both(&v4(to, protocol, options, 0x2000, &body), expected);
                    }
                }
                both(&v4("192.0.2.3", protocol, 0, 0, &body), false);
                for to in ["2001:db8::1", "2001:db8::2"] {
                    both(&v6(to, protocol, &body), expected);
                    for option in [0, 43, 60] {
                        let long = [&[protocol, 1][..], &[0; 14], &body].concat();
                        both(&v6(to, option, &long), expected);
                        let two = [&[60, 0][..], &[0; 6], &long].concat();
                        both(&v6(to, option, &two), expected);
                        let fragment =
                            [&[44, 0][..], &[0; 6], &[protocol, 0, 0, 1, 0, 0, 0, 0], &body].concat();
                        both(&v6(to, option, &fragment), expected);
                    }
                    // More headers than are looked behind.
                    let many =
                        [&[60, 0, 0, 0, 0, 0, 0, 0].repeat(4)[..], &[protocol, 0], &[0; 6], &body].concat();
                    both(&v6(to, 60, &many), false);
                }
                both(&v6("2001:db8::3", protocol, &body), false);
                both(&v6("2001:db8:1::1", protocol, &body), false);
            }
            // Not TCP or UDP; not IP.
            both(&v4("192.0.2.1", 132, 0, 0, &ports(1, port)), false);
            let mut arp = v4("192.0.2.1", 6, 0, 0, &ports(1, port));
            arp[13] = 6;
            both(&arp, false);
        }
    }

    #[test]
    fn what_the_stack_ignores_by_itself_is_let_in_if_it_may_be_ours() {
        let share = share();
        let (stack, socket) = (Filter::new(&share, Whom::Stack), Filter::new(&share, Whom::Socket));
        let let_in = |frame: &[u8], expected: bool| {
            assert!(!stack.takes(frame), "{frame:x?}");
            assert_eq!(socket.takes(frame), expected, "{frame:x?}");
        };
        let (a4, a6) = ("192.0.2.1", "2001:db8::1");
        for (port, ours) in [(39999, false), (40000, true), (40999, true), (41000, false)] {
            for kind in [0, 14, 16, 18] {
                let_in(&v4(a4, 1, 0, 0, &query(kind, port)), ours);
                let_in(&v4("192.0.2.3", 1, 0, 0, &query(kind, port)), false);
            }
            let_in(&v6(a6, 58, &query(129, port)), ours);
            // Questions are for the host; its neighbours too.
            for kind in [8, 13, 5] {
                let_in(&v4(a4, 1, 0, 0, &query(kind, port)), false);
            }
            for kind in [128, 133, 134, 135, 136, 0, 5] {
                let_in(&v6(a6, 58, &query(kind, port)), false);
            }
            for protocol in [6, 17] {
                for options in [0, 8] {
                    let about = v4("203.0.113.9", protocol, options, 0, &ports(port, 53));
                    for kind in [3, 11, 12] {
                        let_in(&v4(a4, 1, 4, 0, &error(kind, &about)), ours);
                    }
                }
                let about = v6("2001:db8::9", protocol, &ports(port, 53));
                let fragment = [&[protocol, 0, 0, 1, 0, 0, 0, 0][..], &ports(port, 53)].concat();
                let about_fragment = v6("2001:db8::9", 44, &fragment);
                for kind in 1..=4 {
                    let_in(&v6(a6, 58, &error(kind, &about)), ours);
                    let_in(&v6(a6, 58, &error(kind, &about_fragment)), ours);
                }
                // About what others sent to such a port.
                let about = v4("203.0.113.9", protocol, 0, 0, &ports(1234, port));
                let_in(&v4(a4, 1, 0, 0, &error(3, &about)), false);
            }
            let_in(&v4(a4, 1, 0, 0, &error(3, &v4("203.0.113.9", 1, 0, 0, &query(8, port)))), ours);
            let_in(&v6(a6, 58, &error(1, &v6("2001:db8::9", 58, &query(128, port)))), ours);
            let_in(&v4(a4, 1, 0, 0, &error(3, &v4("203.0.113.9", 132, 0, 0, &ports(port, 1)))), false);
        }
        // Fragments that do not tell, for our address.
        for protocol in [1, 6, 17] {
            let_in(&v4(a4, protocol, 0, 1, &ports(1, 40000)), true);
            let_in(&v4(a4, protocol, 0, 0x3fff, &ports(1, 1)), true);
            let_in(&v4("192.0.2.3", protocol, 0, 1, &ports(1, 40000)), false);
            let_in(&v6(a6, 44, &[&[protocol, 0, 0, 8, 0, 0, 0, 0][..], &ports(1, 1)].concat()), true);
        }
    }

    #[test]
    fn frames_cut_anywhere_are_no_harm() {
        let share = share();
        let (stack, socket) = (Filter::new(&share, Whom::Stack), Filter::new(&share, Whom::Socket));
        let about = v6("2001:db8::9", 6, &ports(40000, 53));
        let frames = [
            v4("192.0.2.1", 6, 8, 0, &ports(1, 40000)),
            v6("2001:db8::1", 60, &[&[17, 0][..], &[0; 6], &ports(1, 40000)].concat()),
            v6("2001:db8::1", 58, &error(1, &about)),
        ];
        for frame in frames {
            for len in 0..frame.len() - 8 {
                assert!(!stack.takes(&frame[..len]) && !socket.takes(&frame[..len]), "{len}");
            }
        }
    }

    #[test]
    fn every_protocol_has_its_ranges() {
        let tcp = vec![(8080, 8080), (443, 443), (40000, 40999), (8081, 8090), (40500, 41000)];
        let share = PortShare { tcp, udp: vec![(53, 53)], icmp: vec![], ..share() };
        let ours =
            |port: u16| port == 443 || (8080..=8090).contains(&port) || (40000..=41000).contains(&port);
        for whom in [Whom::Stack, Whom::Socket] {
            let filter = Filter::new(&share, whom);
            for port in
                [1, 52, 53, 54, 442, 443, 444, 8079, 8080, 8085, 8090, 8091, 39999, 40000, 41000, 41001]
            {
                assert_eq!(filter.takes(&v4("192.0.2.1", 6, 0, 0, &ports(1, port))), ours(port), "{port}");
                assert_eq!(filter.takes(&v6("2001:db8::2", 17, &ports(1, port))), port == 53, "{port}");
                let about = v4("203.0.113.9", 6, 0, 0, &ports(port, 1));
                let expected = ours(port) && whom == Whom::Socket;
                assert_eq!(filter.takes(&v4("192.0.2.1", 1, 0, 0, &error(3, &about))), expected, "{port}");
                assert!(!filter.takes(&v4("192.0.2.1", 1, 0, 0, &query(0, port))));
            }
        }
        let most: Vec<_> = (1..=64).map(|i| (100 * i, 100 * i + 9)).collect();
        let share = PortShare { tcp: most.clone(), udp: most.clone(), icmp: most, ..share };
        let filter = Filter::new(&share, Whom::Socket);
        assert!(filter.takes(&v4("192.0.2.1", 17, 0, 0, &ports(1, 6409))));
        assert!(!filter.takes(&v4("192.0.2.1", 17, 0, 0, &ports(1, 6410))));
    }

    #[test]
    fn tunnels_are_ours_whatever_port_they_come_from() {
        let share = PortShare { tunnels: vec![(4789, 4789), (6081, 6081)], gre: true, ..share() };
        let (stack, socket) = (Filter::new(&share, Whom::Stack), Filter::new(&share, Whom::Socket));
        let (a4, a6) = ("192.0.2.1", "2001:db8::1");
        let both = |frame: &[u8], expected: bool| {
            assert_eq!((stack.takes(frame), socket.takes(frame)), (expected, expected), "{frame:x?}");
        };
        let errors = |about4: &[u8], about6: &[u8], expected: bool| {
            let frames = [v4(a4, 1, 0, 0, &error(3, about4)), v6(a6, 58, &error(2, about6))];
            for frame in frames {
                assert!(!stack.takes(&frame), "{frame:x?}");
                assert_eq!(socket.takes(&frame), expected, "{frame:x?}");
            }
        };
        for (port, ours) in [(4788, false), (4789, true), (4790, false), (6081, true), (40500, true)] {
            both(&v4(a4, 17, 0, 0, &ports(50000, port)), ours);
            both(&v6(a6, 17, &ports(50000, port)), ours);
            both(&v4("192.0.2.3", 17, 0, 0, &ports(50000, port)), false);
            // Errors: about what was sent to the port of a tunnel.
            let sent = ports(50000, port);
            let about = (v4("203.0.113.9", 17, 0, 0, &sent), v6("2001:db8::9", 17, &sent));
            errors(&about.0, &about.1, ours && port != 40500);
        }
        // Not TCP.
        both(&v4(a4, 6, 0, 0, &ports(50000, 4789)), false);
        // GRE: all of it, later fragments too.
        for (offset, next) in [(0, 0u8), (100, 1), (0x2000, 0)] {
            both(&v4(a4, 47, 0, offset, &[0; 8]), true);
            both(&v6(a6, 44, &[&[47, 0, next, 0, 0, 0, 0, 0][..], &[0; 8]].concat()), true);
        }
        both(&v6(a6, 47, &[0; 8]), true);
        both(&v6("2001:db8:1::1", 47, &[0; 8]), false);
        errors(&v4("203.0.113.9", 47, 0, 0, &[0; 8]), &v6("2001:db8::9", 47, &[0; 8]), true);
        // Without GRE none of it.
        let share = PortShare { gre: false, ..share };
        let (stack, socket) = (Filter::new(&share, Whom::Stack), Filter::new(&share, Whom::Socket));
        let gre = v4(a4, 47, 0, 0, &[0; 8]);
        let about = v4(a4, 1, 0, 0, &error(3, &v4("203.0.113.9", 47, 0, 0, &[0; 8])));
        assert!(![&stack, &socket].iter().any(|f| f.takes(&gre) || f.takes(&about)));
    }

    #[test]
    fn many_addresses_fit_and_more_are_refused() {
        let make = |n: usize| {
            let addresses = (0..n).map(|i| std::net::Ipv6Addr::from(i as u128 + 1).into());
            PortShare::new((1, 65535), addresses.collect())
        };
        let most = make(PortShare::MAX_ADDRESSES);
        let filter = Filter::new(&most, Whom::Socket);
        assert!(filter.takes(&v6("::20", 6, &ports(1, 1))) && !filter.takes(&v6("::21", 6, &ports(1, 1))));
        let all = share();
        for bad in [
            make(PortShare::MAX_ADDRESSES + 1),
            make(0),
            PortShare { tcp: vec![(1, 2), (0, 9)], ..all.clone() },
            PortShare { udp: vec![(9, 8)], ..all.clone() },
            PortShare { icmp: (1..=65).map(|i| (2 * i, 2 * i)).collect(), ..all.clone() },
        ] {
            assert_eq!(bad.program(Whom::Stack).err().unwrap().kind(), io::ErrorKind::InvalidInput);
        }
    }
}
