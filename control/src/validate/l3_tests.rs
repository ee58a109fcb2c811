//! What is refused of gateways, uplinks, routes, NAT rules and connection tracking, and in what words.

use crate::files;
use crate::model::Desired;
use crate::validate::{validate, validate_edit};

const BASE: &str = "[bridge.br0]\n[bridge.br1]\n\
    [gateway.br0]\naddresses = ['10.77.0.1/24', 'fd77::1/64']\n\
    [uplink.up0]\ntype = 'own'\ninterface = 'eth1'\naddresses = ['192.0.2.10/24', '2001:db8::10/64']\ngateways = ['192.0.2.1']\n\
    [uplink.world]\ntype = 'shared'\ninterface = 'eth0'\n";

/// The base with these lines besides; errors of files lose their place.
fn with(lines: &str) -> Result<Desired, String> {
    let text = format!("{BASE}{lines}");
    let desired = files::parse("f", &text).map_err(|e| {
        let text = e.to_string();
        text.split_once(": ").map_or(text.clone(), |(_, rest)| rest.to_owned())
    })?;
    validate(&desired).map_err(|e| e.to_string())?;
    Ok(desired)
}

fn refused(cases: &[(&str, &str)]) {
    for (lines, says) in cases {
        let error = with(lines).expect_err(lines);
        assert!(error.contains(says), "{lines}\n  says: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn what_makes_sense_passes() {
    for lines in [
        "",
        "[gateway.'br0.10']\naddresses = ['10.78.0.1/24']\nmtu = 9000\nicc = false\nprivate = true",
        // A part of a network outside, for which neighbour discovery is answered there.
        "[gateway.br1]\naddresses = ['2001:db8:9:0:7::1/80']\n[uplink.u]\ntype = 'own'\ninterface = 'eth2'\naddresses = ['2001:db8:9::10/64']\nnd-proxy = ['2001:db8:9:0:7::/80']",
        // Networks of two bridges may overlap: they are zones of their own.
        "[gateway.br1]\naddresses = ['10.77.0.1/24']",
        "[gateway.br1]\naddresses = ['10.78.0.1/24', 'fd78::1/64']\ndhcp-range = '10.78.0.100-10.78.0.200'\ndhcp-lease = 60\n\
         ra = true\ndns = ['9.9.9.9', 'fd78::53']\ndomain = 'lab.example'\nreservations = { '02:00:00:00:00:09' = '10.78.0.9' }",
        "[gateway.br1]\naddresses = ['fd78::1/64']\nra = true\ndomain = 'lab.example'",
        "[uplink.h]\ntype = 'host'\naddresses = ['192.168.77.2/30', 'fd00:77::2/64']",
        "[uplink.h]\ntype = 'host'\ninterface = 'tl0'\naddresses = ['192.168.77.1/31']\ngateways = ['192.168.77.0']",
        "[uplink.s]\ntype = 'shared'\nports = '50000-50999'\nnd-proxy = ['2001:db8:1::/64']",
        "[route.r]\nprefix = '10.9.0.0/16'\nvia = '10.77.0.2'",
        "[route.r]\nprefix = '10.9.0.0/16'\nvia = 'fe80::1'\nuplink = 'up0'"
            .replace("10.9.0.0/16", "fd09::/48")
            .as_str(),
        "[route.r]\nprefix = '10.9.0.0/16'\ngateway = 'br0'",
        "[route.a]\nprefix = '10.9.0.0/16'\nvia = '10.77.0.2'\n[route.b]\nprefix = '10.9.0.0/16'\nvia = '192.0.2.7'\nmetric = 5",
        "[nat.m]\ntype = 'masquerade'\nuplink = 'up0'\nfrom = '10.77.0.0/24'\npool = '192.0.2.20-192.0.2.23'\nports = '2000-3000'",
        "[nat.m]\ntype = 'masquerade'\nuplink = 'world'\nfrom = '10.0.0.0/8'",
        "[nat.m]\ntype = 'masquerade'\nuplink = 'up0'\nfrom = 'fd77::/64'\nnat66 = true",
        "[nat.m]\ntype = 'masquerade'\nuplink = 'up0'\nfrom = '10.99.0.0/24'\nbridge = 'br0'",
        "[nat.p]\ntype = 'publish'\nuplink = 'world'\nproto = 'tcp'\nport = 8080\nto = '10.77.0.2:80'",
        "[nat.p]\ntype = 'publish'\nuplink = 'up0'\nproto = 'udp'\nport = '5000-5009'\nto = '[fd77::2]:80-89'",
        // Reached under its own address, without translation.
        "[nat.p]\ntype = 'publish'\nuplink = 'up0'\nproto = 'tcp'\nport = 443\nto = 'fd77::2'\nexternal = 'fd77::2'",
        "[nat.p]\ntype = 'publish'\nuplink = 'up0'\nproto = 'tcp'\nport = 80\nto = '10.77.0.2'\n\
         [nat.q]\ntype = 'publish'\nuplink = 'up0'\nproto = 'udp'\nport = 80\nto = '10.77.0.2'\n\
         [nat.r]\ntype = 'publish'\nuplink = 'up0'\nproto = 'tcp'\nport = 80\nto = '10.77.0.3'\nexternal = '192.0.2.11'\n\
         [nat.s]\ntype = 'publish'\nuplink = 'world'\nproto = 'tcp'\nport = 80\nto = '10.77.0.3'",
        "[nat.s]\ntype = 'static'\nuplink = 'up0'\ninside = '10.77.0.2'\nexternal = '192.0.2.12'",
        "[ct]\nlimit = 16777216\nudp-timeout = 1\nfragment-timeout = 120",
    ] {
        assert!(with(lines).is_ok(), "{lines}\n  says: {:?}", with(lines));
    }
}

#[test]
fn wrong_gateways_are_refused_with_a_reason() {
    let gateway = |lines: &str| format!("[gateway.br1]\n{lines}");
    for (lines, says) in [
        ("addresses = []", "gateway br1: it has no address"),
        ("addresses = ['10.78.0.0/24']", "address 10.78.0.0/24 is that of the network"),
        ("addresses = ['127.0.0.1/8']", "is a loopback address"),
        ("addresses = ['fe80::1/64']", "is link-local"),
        ("addresses = ['10.78.0.1/32']", "leaves no room for hosts"),
        ("addresses = ['10.78.0.1/24', '10.78.0.1/16']", "is given twice"),
        ("addresses = ['10.78.0.1/24']\nmac = '01:00:5e:00:00:01'", "is a group address"),
        ("addresses = ['10.78.0.1/24']\nmtu = 500", "MTU 500 is out of range; use 576 to 65535"),
        ("addresses = ['fd78::1/64']\nmtu = 1000", "MTU 1000 is out of range with IPv6"),
        (
            "addresses = ['10.78.0.1/24']\ndhcp-range = '10.79.0.1-10.79.0.9'",
            "dhcp-range 10.79.0.1-10.79.0.9 is outside",
        ),
        ("addresses = ['10.78.0.1/24']\ndhcp-range = '10.78.0.9-10.79.0.9'", "reaches beyond 10.78.0.0/24"),
        (
            "addresses = ['10.78.0.1/24']\ndhcp-range = '10.78.0.9-10.78.0.255'",
            "has the network or broadcast address",
        ),
        (
            "addresses = ['10.78.0.1/24']\ndhcp-range = '10.78.0.1-10.78.0.9'",
            "has the gateway's own address 10.78.0.1",
        ),
        (
            "addresses = ['10.78.0.1/24']\ndhcp-range = '10.78.0.9-10.78.0.2'",
            "is a range that runs backwards",
        ),
        ("addresses = ['10.0.0.1/8']\ndhcp-range = '10.1.0.0-10.9.0.0'", "is too large"),
        ("addresses = ['fd78::1/64']\ndhcp-range = 'fd78::2-fd78::9'", "is of IPv6"),
        ("addresses = ['10.78.0.1/24']\ndhcp-lease = 600", "dhcp-lease without DHCP"),
        ("addresses = ['10.78.0.1/24']\ndomain = 'a.b'", "domain without DHCP"),
        (
            "addresses = ['10.78.0.1/24']\ndhcp-range = '10.78.0.2-10.78.0.9'\ndhcp-lease = 5",
            "dhcp-lease 5 is out of range",
        ),
        (
            "addresses = ['10.78.0.1/24']\ndhcp-range = '10.78.0.2-10.78.0.9'\ndomain = 'a_b!'",
            "is not a domain name",
        ),
        (
            "addresses = ['10.78.0.1/24']\ndns = ['9.9.9.9']",
            "nobody would tell the hosts of name server 9.9.9.9",
        ),
        (
            "addresses = ['10.78.0.1/24']\ndns = ['fd00::1']",
            "nobody would tell the hosts of name server fd00::1",
        ),
        ("addresses = ['10.78.0.1/24']\nra = true", "router advertisements need an IPv6 address"),
        ("addresses = ['fd78::1/80']\nra = true", "with a prefix of 64 bits"),
        ("addresses = ['10.78.0.1/24']\nreservations = { '02:00:00:00:00:09' = '10.79.0.9' }", "is outside"),
        (
            "addresses = ['10.78.0.1/24']\nreservations = { '02:00:00:00:00:09' = '10.78.0.1' }",
            "is the gateway's own address",
        ),
        (
            "addresses = ['10.78.0.1/24']\nreservations = { '02:00:00:00:00:09' = '10.78.0.9', '02:00:00:00:00:0a' = '10.78.0.9' }",
            "the reservation of 10.78.0.9 for 02:00:00:00:00:0a is that of 02:00:00:00:00:09 too",
        ),
        ("addresses = ['192.0.2.77/28']", "the network of 192.0.2.10/24 overlaps that of 192.0.2.77/28"),
    ] {
        refused(&[(&gateway(lines), says)]);
    }
    refused(&[
        ("[gateway.br9]\naddresses = ['10.78.0.1/24']", "gateway br9: there is no bridge br9; make it first"),
        ("[gateway.'br1.4095']\naddresses = ['10.78.0.1/24']", "there is no bridge br1.4095"),
        (
            "[gateway.'br0.10']\naddresses = ['10.77.0.129/25']",
            "gateway br0.10: the network of 10.77.0.129/25 overlaps that of 10.77.0.1/24, gateway br0's",
        ),
        (
            "[bridge.'br1.10']\n[gateway.'br1.10']\naddresses = ['10.78.0.1/24']",
            "gateway br1.10 may be that of bridge br1.10 or that of a VLAN of bridge br1",
        ),
    ]);
}

#[test]
fn wrong_uplinks_are_refused_with_a_reason() {
    refused(&[
        ("[uplink.u]\ntype = 'own'\ninterface = 'eth2'", "uplink u: it has no address of the switch's own"),
        (
            "[uplink.u]\ntype = 'own'\ninterface = 'a b'\naddresses = ['198.51.100.2/24']",
            "'a b' is not an interface",
        ),
        (
            "[uplink.u]\ntype = 'own'\ninterface = 'eth2'\naddresses = ['198.51.100.2/24']\ngateways = ['203.0.113.1']",
            "gateway 203.0.113.1 is outside the networks of the addresses",
        ),
        (
            "[uplink.u]\ntype = 'own'\ninterface = 'eth2'\naddresses = ['198.51.100.2/24']\ngateways = ['198.51.100.2']",
            "is the interface's own address",
        ),
        (
            "[uplink.u]\ntype = 'own'\ninterface = 'eth2'\naddresses = ['198.51.100.2/24']\nmtu = 20",
            "MTU 20 is out of range",
        ),
        (
            "[uplink.u]\ntype = 'own'\ninterface = 'eth2'\naddresses = ['192.0.2.99/24']",
            "the network of 192.0.2.10/24 overlaps that of 192.0.2.99/24",
        ),
        (
            "[uplink.u]\ntype = 'own'\ninterface = 'eth1'\naddresses = ['198.51.100.2/24']",
            "interface eth1 is uplink",
        ),
        (
            "[port.p]\nbridge = 'br0'\ntype = 'afpacket'\ninterface = 'eth1'",
            "interface eth1 is port p's already; an interface is a port of a bridge or an uplink, not both",
        ),
        (
            "[port.p]\nbridge = 'br0'\ntype = 'afpacket'\ninterface = 'eth0'",
            "uplink world: interface eth0 is port p's already",
        ),
        ("[uplink.h]\ntype = 'host'\naddresses = ['192.168.77.2/32']", "leaves no room for the host's"),
        (
            "[uplink.a-very-long-name]\ntype = 'host'\naddresses = ['192.168.77.2/30']",
            "its name is too long for an interface",
        ),
        (
            "[uplink.s]\ntype = 'shared'\ninterface = 'x'\nports = '1-5000'",
            "ports 1-5000 are not fit to be shared",
        ),
        ("[uplink.s]\ntype = 'shared'\ninterface = 'x'\nports = '2000-2010'", "ports 2000-2010 are not fit"),
        (
            "[uplink.s]\ntype = 'shared'\n[uplink.t]\ntype = 'shared'",
            "would share the interface with the default route",
        ),
        (
            "[gateway.br1]\naddresses = ['2001:db8:9:0:7::1/80']\n[uplink.u]\ntype = 'own'\ninterface = 'eth2'\naddresses = ['2001:db8:9::10/64']\nnd-proxy = ['2001:db8:9:0:8::/80']",
            "overlaps that of",
        ),
        ("[uplink.s]\ntype = 'shared'\nnd-proxy = ['10.0.0.0/8']", "nd-proxy 10.0.0.0/8 is of IPv4"),
        (
            "[uplink.s]\ntype = 'shared'\nnd-proxy = ['2001:db8::1/64']",
            "is an address, not a prefix; write 2001:db8::/64",
        ),
        ("[uplink.s]\ntype = 'shared'\nnd-proxy = ['2000::/3']", "is too wide"),
    ]);
}

#[test]
fn wrong_routes_are_refused_with_a_reason() {
    refused(&[
        (
            "[route.r]\nprefix = '10.9.0.1/16'\nvia = '10.77.0.2'",
            "is an address in a network, not the network; write 10.9.0.0/16",
        ),
        ("[route.r]\nprefix = '224.0.0.0/4'\nvia = '10.77.0.2'", "224.0.0.0/4 cannot be routed to"),
        ("[route.r]\nprefix = '10.9.0.0/16'", "route r: it leads nowhere"),
        ("[route.r]\nprefix = '10.9.0.0/16'\nvia = 'fd77::2'", "10.9.0.0/16 is IPv4 and fd77::2 is IPv6"),
        (
            "[route.r]\nprefix = '10.9.0.0/16'\nvia = '10.88.0.1'",
            "10.88.0.1 is in no network of a gateway or uplink",
        ),
        ("[route.r]\nprefix = '10.9.0.0/16'\nvia = '10.77.0.1'", "10.77.0.1 is the switch's own address"),
        (
            "[route.r]\nprefix = '10.9.0.0/16'\nvia = '10.77.0.2'\nuplink = 'up0'",
            "is outside the networks of uplink up0",
        ),
        ("[route.r]\nprefix = '10.9.0.0/16'\nvia = '10.77.0.2'\nuplink = 'up9'", "there is no uplink up9"),
        ("[route.r]\nprefix = '10.9.0.0/16'\ngateway = 'br9'", "there is no gateway br9"),
        (
            "[route.r]\nprefix = '10.9.0.0/16'\ngateway = 'br0'\nuplink = 'up0'",
            "gateway and uplink exclude each other",
        ),
        (
            "[route.r]\nprefix = 'fd09::/48'\nvia = 'fe80::1'",
            "fe80::1 is on every network; name the gateway or uplink",
        ),
        (
            "[route.r]\nprefix = '10.77.0.0/24'\nvia = '10.77.0.2'",
            "10.77.0.0/24 is directly reached by gateway br0",
        ),
        (
            "[route.a]\nprefix = '10.9.0.0/16'\nvia = '10.77.0.2'\n[route.b]\nprefix = '10.9.0.0/16'\nvia = '10.77.0.3'",
            "10.9.0.0/16 is routed by route",
        ),
        (
            "[gateway.br1]\naddresses = ['10.77.0.1/24']\n[route.r]\nprefix = '10.9.0.0/16'\nvia = '10.77.0.2'",
            "10.77.0.2 may be behind gateway br0 or gateway br1; name the one",
        ),
    ]);
}

#[test]
fn wrong_nat_is_refused_with_a_reason() {
    let nat = |lines: &str| format!("[nat.n]\nuplink = 'up0'\n{lines}");
    let masquerade = "type = 'masquerade'\nfrom = '10.77.0.0/24'";
    let publish = "type = 'publish'\nproto = 'tcp'";
    for (lines, says) in [
        (
            format!("{masquerade}\npool = '198.51.100.1'"),
            "198.51.100.1 is outside the networks of uplink up0",
        ),
        (
            format!("{masquerade}\npool = '192.0.2.250-192.0.2.255'"),
            "192.0.2.255 is the broadcast address of 192.0.2.0/24",
        ),
        (format!("{masquerade}\npool = '192.0.2.1-192.0.2.9'"), "192.0.2.1 is the router of uplink up0"),
        (format!("{masquerade}\npool = '2001:db8::20'"), "are not of one family"),
        (format!("{masquerade}\nnat66 = true"), "nat66 is for IPv6"),
        (
            "type = 'masquerade'\nfrom = 'fd77::/64'".into(),
            "fd77::/64 is IPv6, which is routed without translation",
        ),
        ("type = 'masquerade'\nfrom = '10.99.0.0/24'".into(), "10.99.0.0/24 is in no gateway's network"),
        (format!("{masquerade}\nbridge = 'br9'"), "there is no bridge br9"),
        (format!("{masquerade}\nbridge = 'br1'"), "bridge br1 has no gateway"),
        (
            format!("{publish}\nport = '8080-8090'\nto = '10.77.0.2:80'"),
            "8080-8090 is 11 ports and 80 is 1 port",
        ),
        (
            format!("{publish}\nport = '80-89'\nto = '10.77.0.2:80-90'"),
            "80-89 is 10 ports and 80-90 is 11 ports",
        ),
        (format!("{publish}\nport = 0\nto = '10.77.0.2'"), "'0' is not a port"),
        (format!("{publish}\nport = 80\nto = '10.99.0.2'"), "10.99.0.2 is in no gateway's network"),
        (format!("{publish}\nport = 80\nto = '224.0.0.1'"), "224.0.0.1 is no address to translate"),
        (
            format!("{publish}\nport = 80\nto = '10.77.0.2'\nexternal = '2001:db8::10'"),
            "are not of one family",
        ),
        (
            format!("{publish}\nport = 80\nto = '10.77.0.2'\nexternal = '203.0.113.1'"),
            "is outside the networks of uplink up0",
        ),
        ("type = 'publish'\nproto = 'icmp'\nport = 80\nto = '10.77.0.2'".into(), "unknown variant `icmp`"),
        (
            "type = 'static'\ninside = '10.77.0.2'\nexternal = '203.0.113.1'".into(),
            "is outside the networks of uplink up0",
        ),
        ("type = 'static'\ninside = '10.77.0.2'\nexternal = 'fd00::1'".into(), "are not of one family"),
    ] {
        refused(&[(&nat(&lines), says)]);
    }
    let shared = |lines: &str| format!("[nat.n]\nuplink = 'world'\n{lines}");
    refused(&[
        (
            &shared(&format!("{masquerade}\nports = '1024-65535'")),
            "ports 1024-65535 are not all uplink world's, which shares 61000-64999 with the host",
        ),
        (
            &shared("type = 'static'\ninside = '10.77.0.2'\nexternal = '192.0.2.12'"),
            "uplink world shares the host's own address",
        ),
        (
            "[nat.n]\nuplink = 'up9'\ntype = 'masquerade'\nfrom = '10.77.0.0/24'",
            "nat n: there is no uplink up9",
        ),
        (
            "[uplink.v4]\ntype = 'own'\ninterface = 'eth3'\naddresses = ['198.51.100.2/24']\n\
             [nat.n]\nuplink = 'v4'\ntype = 'masquerade'\nfrom = 'fd77::/64'\nnat66 = true",
            "uplink v4 has no IPv6 address",
        ),
        (
            "[gateway.br1]\naddresses = ['10.77.0.1/24']\n[nat.n]\nuplink = 'up0'\ntype = 'publish'\nproto = 'tcp'\nport = 80\nto = '10.77.0.2'",
            "10.77.0.2 may be a host of bridge br0 or of br1; name the one with --bridge",
        ),
    ]);
}

#[test]
fn rules_that_exclude_each_other_are_refused() {
    let publish = |name: &str, port: &str, more: &str| {
        format!(
            "[nat.{name}]\nuplink='up0'\ntype='publish'\nproto='tcp'\nport='{port}'\nto='10.77.0.2'\n{more}\n"
        )
    };
    let fixed = |name: &str, inside: &str, external: &str| {
        format!("[nat.{name}]\nuplink='up0'\ntype='static'\ninside='{inside}'\nexternal='{external}'\n")
    };
    for (old, new, says) in [
        (
            publish("a", "80-90", ""),
            publish("b", "85", ""),
            "nat b: tcp port 85 is published by nat a already",
        ),
        (
            publish("a", "80", "external='192.0.2.10'"),
            publish("b", "80", ""),
            "nat b: tcp port 80 is published by nat a already",
        ),
        (
            fixed("a", "10.77.0.2", "192.0.2.11"),
            publish("b", "80", "external='192.0.2.11'"),
            "192.0.2.11 is used by nat a",
        ),
        (
            fixed("a", "10.77.0.2", "192.0.2.11"),
            fixed("b", "10.77.0.3", "192.0.2.11"),
            "192.0.2.11 is translated by nat a",
        ),
        (
            fixed("a", "10.77.0.2", "192.0.2.11"),
            fixed("b", "10.77.0.2", "192.0.2.12"),
            "10.77.0.2 is translated by nat a",
        ),
        (
            "[nat.a]\nuplink='up0'\ntype='masquerade'\nfrom='10.77.0.0/24'\npool='192.0.2.11-192.0.2.13'\n"
                .into(),
            fixed("b", "10.77.0.2", "192.0.2.12"),
            "192.0.2.12 is used by nat a",
        ),
        (
            "[nat.a]\nuplink='up0'\ntype='masquerade'\nfrom='10.77.0.0/24'\n".into(),
            "[nat.b]\nuplink='up0'\ntype='masquerade'\nfrom='10.77.0.0/24'\nports='2000-3000'\n".into(),
            "10.77.0.0/24 is masqueraded by nat a",
        ),
    ] {
        let old_state = with(&old).unwrap();
        let both = files::parse("f", &format!("{BASE}{old}{new}")).unwrap();
        let error = validate_edit(&old_state, &both).unwrap_err().to_string();
        assert!(
            error.contains(says) && error.contains("remove that one first: trunkline nat del a"),
            "{error}"
        );
    }
}

#[test]
fn settings_of_connection_tracking_have_limits() {
    refused(&[
        ("[ct]\nlimit = 1", "limit 1 is out of range; use 16 to 16777216"),
        ("[ct]\nudp-timeout = 0", "udp-timeout 0 is out of range; use 1 to 864000 seconds"),
        ("[ct]\nfragment-timeout = 121", "fragment-timeout 121 is out of range"),
        ("[ct]\nfiltering = 'none'", "unknown variant `none`"),
    ]);
}
