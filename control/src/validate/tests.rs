use proptest::prelude::*;
use trunkline_packet::VlanId;

use super::*;
use crate::files;

fn desired(toml: &str) -> Desired {
    files::parse("test.toml", toml).unwrap()
}

/// A port on br0, which exists, with these lines.
fn check(lines: &str) -> std::result::Result<(), String> {
    let table: toml::Table = format!("bridge = \"br0\"\n{lines}").parse().unwrap();
    let spec: PortSpec = table.try_into().map_err(|e| e.to_string())?;
    let mut d = desired("[bridge.br0]");
    d.ports.insert("web".into(), spec);
    validate(&d).map_err(|e| e.to_string())
}

#[test]
fn good_ports_pass() {
    for lines in [
        "type = 'tap'",
        "type = 'tap'\nnetns = 'web'\nifname = 'eth0'\naddresses = ['10.7.0.1/24', 'fd00::1/64']\ngateways = ['10.7.0.254', 'fe80::1']",
        "type = 'tap'\naddresses = ['10.7.0.0/31', '10.8.0.1/32']\nmtu = 68",
        "type = 'tap'\naddresses = ['fd00::1/64']\nmtu = 1280",
        "type = 'tap'\nnetns = '/proc/77/ns/net'\nqueues = 256\nmac = '02-00-00-00-00-01'",
        "type = 'afpacket'\ninterface = 'br-lan+1@x'",
        "type = 'null'\nvlan = 4094",
        "type = 'null'\nvlan = 5\ntrunks = '0,4094'",
        "type = 'null'\nvlan = 5\nvlan-mode = 'dot1q-tunnel'\ntrunks = '10-20'",
    ] {
        assert_eq!(check(lines), Ok(()), "{lines}");
    }
}

#[test]
fn wrong_ports_are_refused_with_a_reason() {
    for (lines, says) in [
        ("type = 'null'\nvlan = 5000", "port web: VLAN 5000 is out of range; use 1 to 4094"),
        ("type = 'null'\nvlan = 0", "VLAN 0 is out of range"),
        ("type = 'null'\ntrunks = '10,x'", "trunks '10,x': 'x' is not a VLAN"),
        ("type = 'null'\ntrunks = '30-20'", "the range 30-20 runs backwards"),
        ("type = 'null'\ntrunks = '4095'", "VLAN 4095 is out of range"),
        ("type = 'null'\ntrunks = '1,'", "'' is not a VLAN"),
        ("type = 'null'\nvlan-mode = 'access'", "vlan-mode access needs a VLAN"),
        ("type = 'null'\nvlan-mode = 'dot1q-tunnel'", "vlan-mode dot1q-tunnel needs a VLAN"),
        ("type = 'null'\nvlan-mode = 'trunk'\nvlan = 3", "a trunk port has no VLAN of its own"),
        ("type = 'null'\nvlan-mode = 'access'\nvlan = 3\ntrunks = '4'", "an access port has no trunks"),
        ("type = 'tap'\nmac = '01:00:5e:00:00:01'", "01:00:5e:00:00:01 is a group address"),
        ("type = 'tap'\nmac = '00:00:00:00:00:00'", "is no station's address"),
        ("type = 'tap'\nmac = 'me'", "'me' is not a MAC address"),
        ("type = 'tap'\nmtu = 67", "MTU 67 is out of range"),
        ("type = 'tap'\nmtu = 65536", "MTU 65536 is out of range"),
        ("type = 'tap'\nmtu = 1279\naddresses = ['fd00::1/64']", "MTU 1279 is too small for IPv6"),
        ("type = 'tap'\nqueues = 0", "0 queues are out of range"),
        ("type = 'tap'\nqueues = 257", "257 queues are out of range"),
        ("type = 'tap'\ngateways = ['10.0.0.1']", "gateway 10.0.0.1 is outside the networks"),
        ("type = 'tap'\naddresses = ['10.0.0.2/24']\ngateways = ['10.0.1.1']", "is outside the networks"),
        (
            "type = 'tap'\naddresses = ['10.0.0.2/24']\ngateways = ['10.0.0.2']",
            "is the interface's own address",
        ),
        (
            "type = 'tap'\naddresses = ['10.0.0.2/24']\ngateways = ['10.0.0.1', '10.0.0.3']",
            "is a second one for IPv4",
        ),
        ("type = 'tap'\naddresses = ['10.0.0.0/24']", "is that of the network"),
        ("type = 'tap'\naddresses = ['10.0.0.255/24']", "broadcast"),
        ("type = 'tap'\naddresses = ['224.0.0.1/24']", "is no interface's"),
        ("type = 'tap'\naddresses = ['10.0.0.1/24', '10.0.0.1/16']", "is given twice"),
        ("type = 'tap'\nifname = 'abcdefghijklmnop'", "is not a name for an interface"),
        ("type = 'tap'\nifname = 'a/b'", "is not a name for an interface"),
        ("type = 'tap'\nadopt = true\nnetns = 'x'", "adopt and netns exclude each other"),
        ("type = 'tap'\nnetns = 'a/b'", "is not a network namespace"),
        ("type = 'tap'\nnetns = ''", "is not a network namespace"),
        ("type = 'afpacket'\ninterface = 'a b'", "'a b' is not an interface"),
        ("type = 'replay'\nfile = 'a.pcap'", "is not an absolute path"),
        ("type = 'null'\nmax-macs = 1048577", "max-macs is out of range"),
        ("type = 'null'\nlabels = { 'a b' = 'x' }", "the label 'a b' is malformed"),
    ] {
        let error = check(lines).unwrap_err();
        assert!(error.contains(says) && error.starts_with("port web: "), "{lines}\n  says: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn wrong_states_are_refused_with_a_reason() {
    let tap = "[bridge.br0]\n[port.a]\nbridge = 'br0'\ntype = 'tap'\n";
    for (toml, says) in [
        (
            "[port.a]\nbridge = 'br9'\ntype = 'null'".to_owned(),
            "port a: there is no bridge br9; make it first: trunkline bridge add br9",
        ),
        (
            format!("{tap}[port.b]\nbridge = 'br0'\ntype = 'tap'\nifname = 'a'"),
            "port b: interface a is port a's already",
        ),
        (
            format!("{tap}[port.b]\nbridge = 'br0'\ntype = 'afpacket'\ninterface = 'a'"),
            "interface a is port a's already",
        ),
        (
            format!(
                "{tap}netns='x'\nifname='eth0'\n[port.b]\nbridge = 'br0'\ntype = 'tap'\nnetns='/run/netns/x'\nifname = 'eth0'"
            ),
            "interface eth0 in namespace x is port a's already",
        ),
        (format!("{tap}[[bridge.br0.fdb]]\nmac = '02:00:00:00:00:01'\nport = 'z'"), "there is no port z"),
        (
            format!("{tap}[bridge.br1]\n[[bridge.br1.fdb]]\nmac = '02:00:00:00:00:01'\nport = 'a'"),
            "port a is on bridge br0",
        ),
    ] {
        let error = validate(&desired(&toml)).unwrap_err().to_string();
        assert!(error.contains(says), "{toml}\n  says: {error}");
    }
}

#[test]
fn wrong_bridges_are_refused_with_a_reason() {
    let spec = |ageing, max_macs| BridgeSpec { ageing, max_macs, ..BridgeSpec::default() };
    let entry = |mac: &str, vlan| StaticFdb { mac: mac.into(), vlan, port: "a".into(), remote: None };
    let with = |entries: Vec<StaticFdb>| BridgeSpec { static_fdb: entries, ..spec(300, 16) };
    let many: Vec<_> = (1..=17).map(|vlan| entry("02:00:00:00:00:01", vlan)).collect();
    for (name, spec, says) in [
        ("br0", spec(0, 16), "ageing 0 is out of range"),
        ("br0", spec(1_000_001, 16), "ageing 1000001 is out of range"),
        ("br0", spec(300, 15), "max-macs 15 is out of range"),
        ("br0", with(vec![entry("02:00:00:00:00:01", 4095)]), "VLAN 4095 is out of range"),
        ("br0", with(vec![entry("ff:ff:ff:ff:ff:ff", 1)]), "is a group address"),
        (
            "br0",
            with(vec![entry("02:00:00:00:00:01", 1), entry("02:00:00:00:00:01", 1)]),
            "is static on port a and on port a",
        ),
        ("br0", with(many), "17 static entries are too many"),
        ("", spec(300, 16), "'' is not a name for a bridge"),
        ("a/b", spec(300, 16), "'a/b' is not a name"),
        ("..", spec(300, 16), "'..' is not a name"),
        ("a\nb", spec(300, 16), "'a\\nb' is not a name"),
    ] {
        let error = bridge(name, &spec).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert_eq!(bridge("br-1_a.b", &spec(1_000_000, 1_048_576)), Ok(()));
}

#[test]
fn too_many_ports_are_refused() {
    let mut d = desired("[bridge.br0]");
    let null = desired("[bridge.br0]\n[port.p]\nbridge = 'br0'\ntype = 'null'").ports["p"].clone();
    for i in 0..MAX_PORTS {
        d.ports.insert(format!("p{i}"), null.clone());
    }
    assert_eq!(validate(&d), Ok(()));
    d.ports.insert("one-more".into(), null);
    assert!(validate(&d).unwrap_err().message.contains("4097 ports are too many"));
}

#[test]
fn modes_default_as_in_open_vswitch() {
    use crate::model::VlanMode::{Access, NativeTagged, NativeUntagged, Trunk};
    for (lines, mode) in [
        ("", Trunk),
        ("trunks = '1'", Trunk),
        ("vlan = 1", Access),
        ("vlan = 1\ntrunks = '2'", NativeTagged),
        ("vlan = 1\nvlan-mode = 'native-untagged'", NativeUntagged),
    ] {
        let table: toml::Table = format!("bridge = 'b'\ntype = 'null'\n{lines}").parse().unwrap();
        assert_eq!(vlan_mode(&table.try_into().unwrap()), mode, "{lines}");
    }
}

#[test]
fn the_bridge_gets_what_the_spec_says() {
    let toml = "bridge = 'b'\ntype = 'null'\nvlan = 7\ntrunks = '0,10-12'\nisolated = true\nsplit-horizon-group = 4\n\
                no-learning = true\nno-flood = true\nmax-macs = 9\nflood-limit = 11";
    let spec: PortSpec = toml.parse::<toml::Table>().unwrap().try_into().unwrap();
    let c = port_config(&spec).unwrap();
    assert_eq!((c.vlan_mode, c.tag.get()), (trunkline_switch::VlanMode::NativeTagged, 7));
    let carried: Vec<u16> = (0..4095).filter(|v| c.trunks.contains(VlanId::new(*v).unwrap())).collect();
    assert_eq!(carried, [0, 10, 11, 12]);
    assert_eq!((c.isolated, c.split_horizon_group, c.learning, c.flood), (true, Some(4), false, false));
    assert_eq!((c.max_macs, c.flood_limit), (9, 11));
}

proptest! {
    #[test]
    fn any_text_is_a_name_or_refused_in_one_line(text in ".{0,80}") {
        if let Err(e) = object_name("port", &text) {
            prop_assert!(!e.to_string().contains('\n'));
        } else {
            prop_assert!(text.bytes().all(is_name_byte));
        }
    }

    #[test]
    fn trunks_hold_exactly_what_was_written(ranges in prop::collection::vec((0u16..=4094, 0u16..=4094), 1..8)) {
        let ranges: Vec<_> = ranges.into_iter().map(|(a, b)| (a.min(b), a.max(b))).collect();
        let text: Vec<_> = ranges.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") }).collect();
        let set = parse_trunks(&text.join(",")).unwrap();
        for vlan in 0..4095 {
            let expected = ranges.iter().any(|(a, b)| (*a..=*b).contains(&vlan));
            prop_assert_eq!(set.contains(VlanId::new(vlan).unwrap()), expected);
        }
    }
}

#[test]
fn of_two_ports_with_one_interface_the_new_one_is_blamed() {
    let parse = |text: &str| crate::files::parse("f", text).unwrap();
    let web = "[bridge.br0]\n[port.web]\nbridge='br0'\ntype='tap'\nifname='x'\n";
    let (old, new) =
        (parse(web), parse(&format!("{web}[port.bad]\nbridge='br0'\ntype='afpacket'\ninterface='x'")));
    let blamed = |error: Error| error.message;
    assert_eq!(blamed(validate_edit(&old, &new).unwrap_err()), "port bad: interface x is port web's already");
    // Who is new is not known here.
    assert_eq!(blamed(validate(&new).unwrap_err()), "port web: interface x is port bad's already");
}
