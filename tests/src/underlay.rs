//! What lies between the hosts of a tunnel: one Ethernet segment, or a router with a segment to each.

use std::net::IpAddr;

use crate::{Netns, cmd};

/// A namespace that joins hosts. Host `n` has the interface `u0`; its other end, in the underlay's
/// namespace, is `h{n}`.
#[derive(Debug)]
pub struct Underlay {
    /// The namespace in the middle.
    pub ns: Netns,
    routed: bool,
}

/// Which address family outside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Underlay {
    /// One segment: a kernel bridge.
    pub fn switched(name: &str) -> Underlay {
        let ns = Netns::new(name);
        ns.sh("ip link add name hub type bridge mcast_snooping 0");
        ns.sh("ip link set hub addrgenmode none up");
        Underlay { ns, routed: false }
    }

    /// A router, with each host in a subnet of its own.
    pub fn routed(name: &str) -> Underlay {
        let ns = Netns::new(name);
        ns.enter(|| {
            for file in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "1").expect("sysctl");
            }
        });
        Underlay { ns, routed: true }
    }

    /// The address of host `n`, from 1 to 250.
    pub fn address(&self, n: u8, family: Family) -> IpAddr {
        let text = match (self.routed, family) {
            (false, Family::V4) => format!("192.0.2.{n}"),
            (false, Family::V6) => format!("fd02::{n}"),
            (true, Family::V4) => format!("198.18.{n}.2"),
            (true, Family::V6) => format!("fd18:{n}::2"),
        };
        text.parse().expect("an address")
    }

    /// Its IPv4 address as text.
    pub fn v4(&self, n: u8) -> String {
        self.address(n, Family::V4).to_string()
    }

    /// Its IPv6 address as text.
    pub fn v6(&self, n: u8) -> String {
        self.address(n, Family::V6).to_string()
    }

    /// Gives a namespace `u0`, with the addresses of host `n` and, where there is a router, a default route.
    pub fn join(&self, ns: &Netns, n: u8) {
        self.plug(ns, n);
        self.add_addresses(ns, n, "u0");
    }

    /// The same without addresses.
    pub fn plug(&self, ns: &Netns, n: u8) {
        // A namespace deleted a moment ago may not be gone yet.
        self.ns.run("ip", &["link", "del", &format!("h{n}")]);
        let (mac, host) = (format!("02:aa:00:00:00:{n:02x}"), ns.name());
        self.ns.sh(&format!("ip link add name h{n} type veth peer name u0 address {mac} netns {host}"));
        if self.routed {
            self.ns.sh(&format!("ip address add 198.18.{n}.1/24 dev h{n}"));
            self.ns.sh(&format!("ip address add fd18:{n}::1/64 dev h{n} nodad"));
        } else {
            self.ns.sh(&format!("ip link set h{n} master hub addrgenmode none"));
        }
        self.ns.sh(&format!("ip link set h{n} up"));
        ns.sh("ip link set u0 up");
    }

    /// The addresses of host `n`'s router, if there is one.
    pub fn routers(&self, n: u8) -> Vec<String> {
        if self.routed { vec![format!("198.18.{n}.1"), format!("fd18:{n}::1")] } else { Vec::new() }
    }

    /// Gives an interface the addresses of host `n`.
    pub fn add_addresses(&self, ns: &Netns, n: u8, ifname: &str) {
        ns.sh(&format!("ip address add {}/24 dev {ifname}", self.v4(n)));
        ns.sh(&format!("ip address add {}/64 dev {ifname} nodad", self.v6(n)));
        for router in self.routers(n) {
            let family = if router.contains(':') { "-6" } else { "-4" };
            ns.sh(&format!("ip {family} route replace default via {router} dev {ifname}"));
        }
    }

    /// Sends to host `n` only what a wire can carry: segmented, with finished checksums.
    pub fn like_a_wire(&self, n: u8) {
        let h = format!("h{n}");
        let off = "tx off tso off gso off tx-udp-segmentation off";
        let mut args = vec!["-K", h.as_str()];
        args.extend(off.split(' '));
        self.ns.enter(|| cmd::ok("ethtool", &args));
    }

    /// Cuts the link of host `n` in the middle, where the host does not see it, or mends it.
    pub fn set_link(&self, n: u8, up: bool) {
        if self.routed {
            // A host route of type blackhole in both directions would leave addresses in place.
            let verb = if up { "del" } else { "add" };
            for iif in ["iif", "to"] {
                let what = if iif == "iif" { format!("iif h{n}") } else { format!("to 198.18.{n}.0/24") };
                self.ns.sh(&format!("ip rule {verb} {what} blackhole priority 10"));
            }
        } else {
            // Leaving the bridge keeps the carrier up.
            let master = if up { "master hub" } else { "nomaster" };
            self.ns.sh(&format!("ip link set h{n} {master}"));
        }
    }

    /// Sets the MTU of the way to host `n`; a router then says "fragmentation needed".
    pub fn set_mtu(&self, n: u8, mtu: u32) {
        self.ns.sh(&format!("ip link set h{n} mtu {mtu}"));
    }
}
