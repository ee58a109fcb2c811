//! Ingress drops: the host's stack hears nothing, packet sockets hear everything, both can send.

mod common;

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::process::Command;
use std::sync::Arc;

use common::*;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use trunkline_packet::checksum::Sum;
use trunkline_packet::{Offload, Packet};
use trunkline_ports::TxQueue;
use trunkline_ports::afpacket::AfPacket;
use trunkline_ports::guard::{IngressDrop, Method};
use trunkline_ports::link;
use trunkline_ports::netns::Netns;

const HERE: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);
const HERE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const THERE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Packet sockets on both ends of a veth: p0, on which the host has an address, and p1 in another namespace.
struct Wire {
    ifindex: u32,
    here: (Rx, Arc<dyn TxQueue>),
    there: (Rx, Arc<dyn TxQueue>),
    ns: Netns,
}

impl Wire {
    fn new() -> Wire {
        let ns = new_netns();
        ip("link add p0 address 02:00:00:00:00:01 type veth peer name p1 address 02:00:00:00:00:02");
        ip(&format!("link set p1 netns {}", path_of(&ns)));
        inside(&ns, || {
            std::fs::write("/proc/sys/net/ipv6/conf/p1/disable_ipv6", "1").unwrap();
            ip("link set p1 up");
        });
        address("p0", HERE, THERE, "02:00:00:00:00:02");
        up("p0");
        inside(&ns, || up("p1"));
        let open = |name| {
            let (mut rx, mut tx) = AfPacket::open(name, true).unwrap().into_io();
            (Rx::new(rx.remove(0)), tx.remove(0))
        };
        Wire { ifindex: link::index("p0").unwrap(), here: open("p0"), there: inside(&ns, || open("p1")), ns }
    }

    /// Asks p0 by ARP and by ping. Whether the socket saw both requests, and how many the stack answered.
    fn ask(&mut self) -> (bool, usize) {
        let seen = [arp_request(), echo_request()].map(|request| {
            assert_eq!(send(&*self.there.1, [packet(&request, Offload::NONE)]).packets, 1);
            self.here.0.find(|p| p.to_vec() == request).is_some()
        });
        let answer = |p: &Packet| match p.to_vec()[12..14] {
            [8, 6] => p.head()[21] == 2,
            [8, 0] => p.head()[23] == 1 && p.head()[34] == 0,
            _ => false,
        };
        (seen == [true, true], self.there.0.count(answer))
    }

    /// Whether what the socket and what the host's stack send arrives.
    fn sends(&mut self) -> bool {
        assert_eq!(send(&*self.here.1, [packet(&odd_frame(5, 60), Offload::NONE)]).packets, 1);
        let ours = self.there.0.find(is_odd).is_some();
        UdpSocket::bind((HERE, 0)).unwrap().send_to(b"hello", (THERE, 7000)).unwrap();
        ours && self.there.0.find(|p| is_ipv4(p, 17)).is_some()
    }
}

const ANSWERING: (bool, usize) = (true, 2);
const SILENT: (bool, usize) = (true, 0);

fn arp_request() -> Vec<u8> {
    let (us, them) = (THERE.octets(), HERE.octets());
    let parts: [&[u8]; 8] =
        [&[0xff; 6], &THERE_MAC, &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &THERE_MAC, &us, &[0; 6], &them, &[0; 18]];
    parts.concat()
}

fn echo_request() -> Vec<u8> {
    let mut ip = [&[0x45, 0, 0, 46, 0, 1, 0, 0, 64, 1, 0, 0][..], &THERE.octets(), &HERE.octets()].concat();
    let sum = Sum::default().bytes(&ip).finish();
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut echo = [8, 0, 0, 0, 0, 7, 0, 1].to_vec();
    echo.resize(26, 0x55);
    let sum = Sum::default().bytes(&echo).finish();
    echo[2..4].copy_from_slice(&sum.to_be_bytes());
    [&HERE_MAC[..], &THERE_MAC, &[8, 0], &ip, &echo].concat()
}

/// Whether this kernel and our rights allow the method; says so if not.
fn possible(test: &str, ifindex: u32, method: Method) -> bool {
    match IngressDrop::attach_by(ifindex, method) {
        Err(e) if matches!(e.kind(), ErrorKind::PermissionDenied | ErrorKind::Unsupported) => {
            skipped(test, &e.to_string());
            false
        }
        result => result.map(drop).map_or_else(|e| panic!("{e}"), |()| true),
    }
}

fn keeps_the_stack_out(method: Method) {
    let test = test_name();
    sandbox(Needs::Net, || {
        let mut wire = Wire::new();
        let ifindex = wire.ifindex;
        if !possible(&test, ifindex, method) {
            return;
        }
        assert!(eventually(|| wire.ask() == ANSWERING), "without it both hear");

        let guard = IngressDrop::attach_by(ifindex, method).unwrap();
        assert_eq!((guard.method(), guard.ifindex().unwrap()), (method, Some(ifindex)));
        assert_eq!(wire.ask(), SILENT, "with it only the socket does");
        assert!(wire.sends());

        // A keeper's duplicate goes on dropping, and can be taken up again.
        let held = guard.try_clone().unwrap();
        drop(guard);
        assert_eq!(wire.ask(), SILENT);
        let again = IngressDrop::from_fd(held).unwrap();
        assert_eq!((again.method(), again.ifindex().unwrap()), (method, Some(ifindex)));
        // A second one does no harm, nor does its end.
        let second = IngressDrop::attach_by(ifindex, method).unwrap();
        assert_eq!(second.ifindex().unwrap(), Some(ifindex));
        drop(second);
        assert_eq!(wire.ask(), SILENT);
        drop(again);
        assert!(eventually(|| wire.ask() == ANSWERING), "the last descriptor takes it away");

        let last = IngressDrop::attach_by(ifindex, method).unwrap();
        ip("link del p0");
        assert_eq!(last.ifindex().unwrap(), None);
        let held = last.try_clone().unwrap();
        assert_eq!(IngressDrop::from_fd(held).unwrap().ifindex().unwrap(), None);
        let gone = IngressDrop::attach_by(ifindex, method).unwrap_err();
        assert_eq!(gone.kind(), ErrorKind::NotFound, "{gone}");
    });
}

#[test]
fn tcx_keeps_the_stack_out_but_not_us() {
    keeps_the_stack_out(Method::Tcx);
}

#[test]
fn nft_keeps_the_stack_out_but_not_us() {
    keeps_the_stack_out(Method::Nft);
}

#[test]
fn nft_tables_stay_when_others_flush_and_follow_or_lose_a_renamed_interface() {
    let test = test_name();
    sandbox(Needs::Net, || {
        let mut wire = Wire::new();
        if !possible(&test, wire.ifindex, Method::Nft) {
            return;
        }
        let guard = IngressDrop::attach_by(wire.ifindex, Method::Nft).unwrap();
        match Command::new("nft").args(["flush", "ruleset"]).status() {
            Ok(status) => assert!(status.success()),
            Err(e) => skipped(&test, &format!("nft: {e}")),
        }
        assert_eq!(guard.ifindex().unwrap(), Some(wire.ifindex));
        assert_eq!(wire.ask(), SILENT);

        // Kernels differ in whether it still drops, and `ifindex` tells.
        ip("link set p0 down");
        ip("link set p0 name other");
        address("other", HERE, THERE, "02:00:00:00:00:02");
        up("other");
        inside(&wire.ns, || up("p1"));
        let expected = if guard.ifindex().unwrap().is_some() { SILENT } else { ANSWERING };
        assert_eq!(wire.ask(), expected);
    });
}

#[test]
fn what_the_rights_do_not_allow_is_done_otherwise_or_refused() {
    let test = test_name();
    sandbox(Needs::Net, || {
        let mut wire = Wire::new();
        if !possible(&test, wire.ifindex, Method::Nft) {
            return;
        }
        without(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN);
        let guard = IngressDrop::attach(wire.ifindex).unwrap();
        assert_eq!(guard.method(), Method::Nft);
        assert_eq!(wire.ask(), SILENT);

        without(CapabilitySet::NET_ADMIN);
        let error = IngressDrop::attach(wire.ifindex).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::PermissionDenied);
        assert_eq!(
            error.to_string(),
            "dropping at ingress (tcx): Operation not permitted; \
             dropping at ingress (nf_tables): Operation not permitted"
        );
    });
}

/// Takes capabilities from the calling thread.
fn without(lost: CapabilitySet) {
    let mut sets = capabilities(None).unwrap();
    sets.effective -= lost;
    set_capabilities(None, sets).unwrap();
}

#[test]
fn other_descriptors_are_refused() {
    sandbox(Needs::Net, || {
        use rustix::net::{AddressFamily, SocketType, netlink, socket};
        let refused = |fd| IngressDrop::from_fd(fd).unwrap_err().kind() == ErrorKind::InvalidInput;
        assert!(refused(std::fs::File::open("/dev/null").unwrap().into()));
        assert!(refused(UdpSocket::bind("127.0.0.1:0").unwrap().into()));
        for protocol in [None, Some(netlink::NETFILTER)] {
            assert!(refused(socket(AddressFamily::NETLINK, SocketType::RAW, protocol).unwrap()));
        }
    });
}
