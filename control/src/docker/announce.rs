//! Telling a network that an address is in another place now: gratuitous ARP (RFC 5227 §3) and unsolicited
//! neighbour advertisements (RFC 4861 §7.2.6), which also teach every switch on the way where it is.
//!
//! The container's own kernel sends them: it is told to by a change of the hardware address to what it is.

use std::time::{Duration, Instant};

use trunkline_packet::MacAddr;
use trunkline_ports::netns::Netns;

use crate::net::{Session, session};

/// Docker moves the interface, names it and gives it addresses within milliseconds of Join.
const PERIOD: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

/// Announces the addresses of the interface with this MAC address as soon as docker has set it up in the
/// container's namespace, where it is no longer called `name`.
pub(super) fn when_there(sandbox: String, mac: String, name: String) {
    let Ok(mac) = mac.parse::<MacAddr>() else { return };
    if sandbox.is_empty() {
        return;
    }
    tokio::task::spawn_blocking(move || {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            std::thread::sleep(PERIOD);
            // The namespace may come later than its name, and go at any time.
            if let Ok(netns) = Netns::open(&sandbox)
                && session(Some(&netns), |s| announce(s, mac, &name)).unwrap_or(false)
            {
                return;
            }
        }
    });
}

fn announce(s: &Session, mac: MacAddr, old_name: &str) -> crate::Result<bool> {
    let found = s.links()?.into_iter().find(|l| l.mac == Some(mac) && l.up && l.name != old_name);
    let Some(link) = found else { return Ok(false) };
    if s.addresses(&link)?.is_empty() {
        return Ok(false);
    }
    for knob in ["ipv4/conf/IF/arp_notify", "ipv6/conf/IF/ndisc_notify"] {
        // Absent in a container without IPv6.
        let _ = std::fs::write(format!("/proc/sys/net/{}", knob.replace("IF", &link.name)), "1");
    }
    s.set_mac(&link, mac)?;
    Ok(true)
}
