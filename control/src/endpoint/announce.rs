//! Telling a network that an address is in another place now: gratuitous ARP (RFC 5227 §3) and unsolicited
//! neighbour advertisements (RFC 4861 §7.2.6), which also teach every switch on the way where it is.
//!
//! They are sent by a packet socket inside the container: the kernel's own (`arp_notify`) would have to be asked
//! for before docker has set the interface up, and asking later takes packets that wait for an answer away.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use trunkline_packet::checksum::Sum;
use trunkline_packet::{Batch, MacAddr, Pool};
use trunkline_ports::SendStats;
use trunkline_ports::afpacket::AfPacket;
use trunkline_ports::netns::Netns;

use crate::net::session;

/// Docker moves the interface, names it and gives it addresses within milliseconds of Join.
const PERIOD: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);
/// RFC 4443 §2.1, RFC 4861 §4.4.
const ICMPV6: u8 = 58;

/// Announces the addresses of the interface with this MAC address as soon as docker has set it up in the
/// container's namespace, where it is no longer called `name`.
pub(crate) fn when_there(sandbox: String, mac: String, name: String) {
    let Ok(mac) = mac.parse::<MacAddr>() else { return };
    if sandbox.is_empty() {
        return;
    }
    tokio::task::spawn_blocking(move || {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            std::thread::sleep(PERIOD);
            // The namespace may come later than its name, and go at any time.
            let Ok(netns) = Netns::open(&sandbox) else { continue };
            if let Some((link, addresses)) = found(&netns, mac, &name) {
                // A container that has ended needs none.
                let _ = netns.run(|| send(&link, mac, &addresses));
                return;
            }
        }
    });
}

/// Announces the addresses of an interface that is set up.
pub(crate) fn now(netns: &str, interface: &str, mac: MacAddr, addresses: &[IpAddr]) {
    // A container that has ended needs none.
    let _ = Netns::open(netns).and_then(|netns| netns.run(|| send(interface, mac, addresses))?);
}

/// The interface with its addresses, once it is set up.
fn found(netns: &Netns, mac: MacAddr, old_name: &str) -> Option<(String, Vec<IpAddr>)> {
    let look = session(Some(netns), |s| {
        let found = s.links()?.into_iter().find(|l| l.mac == Some(mac) && l.up && l.name != old_name);
        let Some(link) = found else { return Ok(None) };
        let addresses: Vec<IpAddr> = s.addresses(&link)?.iter().map(ipnet::IpNet::addr).collect();
        Ok((!addresses.is_empty()).then_some((link.name, addresses)))
    });
    look.ok().flatten()
}

fn send(interface: &str, mac: MacAddr, addresses: &[IpAddr]) -> std::io::Result<()> {
    let (_, senders) = AfPacket::open(interface, false)?.into_io();
    let mut pool = Pool::new(addresses.len(), 0);
    let mut batch = Batch::new();
    for address in addresses {
        let mut packet = pool.get();
        let frame = match address {
            IpAddr::V4(address) => arp(mac, *address),
            IpAddr::V6(address) => advertisement(mac, *address),
        };
        match packet.set_bytes(&frame, &mut pool) {
            Ok(()) => batch.push(packet),
            Err(_) => pool.put(packet),
        }
    }
    if let Some(sender) = senders.first() {
        sender.send(&mut pool, &mut batch, &mut SendStats::default());
    }
    Ok(())
}

/// A request for one's own address (RFC 826).
fn arp(mac: MacAddr, address: Ipv4Addr) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend(mac.0);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(mac.0);
    frame.extend(address.octets());
    frame.extend([0; 6]);
    frame.extend(address.octets());
    frame
}

/// To all nodes, with the override flag and the address of the link (RFC 4861 §4.4, §4.6.1).
fn advertisement(mac: MacAddr, address: Ipv6Addr) -> Vec<u8> {
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut message = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    message.extend(address.octets());
    message.extend([2, 1]);
    message.extend(mac.0);
    let length = message.len() as u8;
    let sum = Sum::ZERO.pseudo_v6(address, all_nodes, ICMPV6, length.into()).bytes(&message).finish();
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac.0);
    // No hop may have touched it (RFC 4861 §7.1.2).
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, length, ICMPV6, 255]);
    frame.extend(address.octets());
    frame.extend(all_nodes.octets());
    frame.extend(message);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn announcements_say_who_has_the_address() {
        let mac = MacAddr([2, 0x42, 10, 77, 0, 2]);
        let frame = arp(mac, Ipv4Addr::new(10, 77, 0, 2));
        assert_eq!((frame.len(), &frame[..6], &frame[6..12]), (42, &[0xff; 6][..], &mac.0[..]));
        assert_eq!((&frame[28..32], &frame[38..42]), (&[10, 77, 0, 2][..], &[10, 77, 0, 2][..]));
        let address: Ipv6Addr = "fd77::2".parse().unwrap();
        let frame = advertisement(mac, address);
        assert_eq!((frame.len(), frame[21], frame[54]), (86, 255, 136));
        // A receiver's check: with the checksum in it the sum is that of nothing missing.
        let all_nodes: Ipv6Addr = "ff02::1".parse().unwrap();
        let sum = Sum::ZERO.pseudo_v6(address, all_nodes, ICMPV6, 32).bytes(&frame[54..]);
        assert_eq!(sum.finish(), 0);
    }
}
