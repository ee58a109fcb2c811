//! What a port is held to.

use std::net::IpAddr;

use ipnet::IpNet;
use trunkline_packet::MacAddr;
use trunkline_switch::{Allowed, Guard};

use super::station_mac;
use crate::model::guard::Allow;
use crate::model::{LinkSpec, PortKind, PortSpec};
use crate::{Error, Result};

/// Each packet is compared with all of them.
const MOST: usize = 64;

/// What is configured of a port's own interface, if it has one that the daemon makes.
fn own(spec: &PortSpec) -> Option<&LinkSpec> {
    match &spec.kind {
        PortKind::Tap(tap) => Some(&tap.link),
        PortKind::Host(host) => Some(&host.link),
        _ => None,
    }
}

/// Checks what anti-spoof allows.
pub(super) fn check(spec: &PortSpec) -> Result<()> {
    let all = &spec.anti_spoof;
    if all.len() > MOST {
        return Err(Error::invalid(format!("anti-spoof: {} entries are too many", all.len()))
            .hint(format!("use {MOST}")));
    }
    for (i, allow) in all.iter().enumerate() {
        if all[..i].contains(allow) {
            return Err(Error::invalid(format!("anti-spoof: {allow} is given twice")));
        }
        match allow {
            Allow::Mac(mac) => drop(station_mac(&mac.to_string())?),
            Allow::Net(net) if net.addr().is_multicast() || net.addr() == IpAddr::from([255; 4]) => {
                return Err(Error::invalid(format!("anti-spoof: {allow} is no host's address"))
                    .hint("give the addresses that the host behind the port has"));
            }
            _ => {}
        }
    }
    let has = |wanted: fn(&Allow) -> bool| all.iter().any(wanted);
    let (mac, net) = (has(|a| matches!(a, Allow::Mac(_))), has(|a| matches!(a, Allow::Net(_))));
    let (dhcp, is_own) = (all.contains(&Allow::Dhcp), all.contains(&Allow::Own));
    let adopted = matches!(&spec.kind, PortKind::Tap(tap) if tap.adopt && tap.link.mac.is_none());
    match own(spec) {
        _ if adopted && !mac && !all.is_empty() => {
            Err(Error::invalid("anti-spoof needs the MAC address of an adopted interface's host")
                .hint("add its MAC address"))
        }
        None if is_own => {
            Err(Error::invalid("anti-spoof: the daemon does not configure this port's interface")
                .hint("give its MAC address and addresses instead of own"))
        }
        Some(link) if is_own && !net && !dhcp && link.addresses.is_empty() => {
            Err(Error::invalid("anti-spoof: the port has no addresses of its own")
                .hint("give it some with addresses, or name what it may use: addresses, prefixes or dhcp"))
        }
        // Which of all requests would be its own?
        None if dhcp && !mac => {
            Err(Error::invalid("anti-spoof: dhcp needs the MAC address of the host")
                .hint("add its MAC address"))
        }
        _ => Ok(()),
    }
}

/// The guard of a port, if it is held to anything.
pub(super) fn guard(spec: &PortSpec) -> Option<Guard> {
    if spec.anti_spoof.is_empty() {
        return None;
    }
    let all = || spec.anti_spoof.iter();
    let is_own = spec.anti_spoof.contains(&Allow::Own);
    let mut macs: Vec<MacAddr> =
        all().filter_map(|a| if let Allow::Mac(mac) = a { Some(*mac) } else { None }).collect();
    let mut nets: Vec<IpNet> =
        all().filter_map(|a| if let Allow::Net(net) = a { Some(*net) } else { None }).collect();
    if let Some(link) = own(spec) {
        if is_own || macs.is_empty() {
            macs.extend(link.mac.as_deref().and_then(|mac| mac.parse::<MacAddr>().ok()));
        }
        if is_own {
            nets.extend(link.addresses.iter().map(|net| IpNet::from(net.addr())));
        }
    }
    let nets = (!nets.is_empty() || is_own).then_some(nets);
    Some(Guard::new(&Allowed { macs, nets, dhcp: spec.anti_spoof.contains(&Allow::Dhcp) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(toml: &str) -> PortSpec {
        toml::from_str(&format!("bridge = 'br0'\n{toml}")).unwrap()
    }

    #[test]
    fn what_cannot_be_held_to_is_refused() {
        for (toml, says) in [
            ("type = 'tap'\nanti-spoof = ['own']", "anti-spoof: the port has no addresses of its own"),
            (
                "type = 'tap'\nadopt = true\nanti-spoof = ['::/0']",
                "anti-spoof needs the MAC address of an adopted interface's host",
            ),
            (
                "type = 'null'\nanti-spoof = ['own']",
                "anti-spoof: the daemon does not configure this port's interface",
            ),
            ("type = 'null'\nanti-spoof = ['dhcp']", "anti-spoof: dhcp needs the MAC address of the host"),
            (
                "type = 'null'\nanti-spoof = ['10.0.0.1', '10.0.0.1/32']",
                "anti-spoof: 10.0.0.1 is given twice",
            ),
            ("type = 'null'\nanti-spoof = ['224.0.0.1']", "anti-spoof: 224.0.0.1 is no host's address"),
            ("type = 'null'\nanti-spoof = ['01:00:00:00:00:01']", "01:00:00:00:00:01 is a group address"),
        ] {
            assert_eq!(check(&port(toml)).unwrap_err().message, says, "{toml}");
        }
        let many: Vec<String> = (0..65).map(|i| format!("'10.0.0.{i}'")).collect();
        let many = port(&format!("type = 'null'\nanti-spoof = [{}]", many.join(",")));
        assert_eq!(check(&many).unwrap_err().message, "anti-spoof: 65 entries are too many");
        for fine in [
            "type = 'tap'\nanti-spoof = ['own']\naddresses = ['10.0.0.2/24']",
            "type = 'tap'\nanti-spoof = ['own', 'dhcp']",
            "type = 'null'\nanti-spoof = ['dhcp', '02:00:00:00:00:01']",
            "type = 'null'\nanti-spoof = ['02:00:00:00:00:01', '0.0.0.0/0', '::/0']",
            "type = 'null'",
        ] {
            assert_eq!(check(&port(fine)), Ok(()), "{fine}");
        }
    }

    #[test]
    fn a_guard_is_made_of_what_is_configured() {
        let mac = "mac = '02:00:00:00:00:01'";
        let of = |toml: &str| guard(&port(toml)).map(|g| format!("{g:?}"));
        let same = |allowed: Allowed| Some(format!("{:?}", Guard::new(&allowed)));
        let one: MacAddr = "02:00:00:00:00:01".parse().unwrap();
        let net = |text: &str| text.parse::<IpNet>().unwrap();
        assert_eq!(of("type = 'null'"), None);
        assert_eq!(
            of(&format!("type = 'tap'\n{mac}\naddresses = ['10.0.0.2/24']\nanti-spoof = ['own']")),
            same(Allowed { macs: vec![one], nets: Some(vec![net("10.0.0.2/32")]), dhcp: false })
        );
        assert_eq!(
            of(&format!("type = 'tap'\n{mac}\nanti-spoof = ['fd77::/64']")),
            same(Allowed { macs: vec![one], nets: Some(vec![net("fd77::/64")]), dhcp: false })
        );
        assert_eq!(
            of(&format!("type = 'tap'\n{mac}\nanti-spoof = ['02:00:00:00:00:07']")),
            same(Allowed { macs: vec!["02:00:00:00:00:07".parse().unwrap()], nets: None, dhcp: false })
        );
        assert_eq!(
            of(&format!("type = 'tap'\n{mac}\nanti-spoof = ['dhcp']")),
            same(Allowed { macs: vec![one], nets: None, dhcp: true })
        );
    }
}
