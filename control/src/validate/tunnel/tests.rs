use proptest::prelude::*;

use super::*;
use crate::files;
use crate::validate::{validate, validate_edit};

fn desired(toml: &str) -> Result<Desired> {
    files::parse("test.toml", toml)
}

/// What is said of a tunnel of that type with these lines, to 192.0.2.2 unless they name a remote.
fn check(kind: &str, lines: &str) -> String {
    let remote =
        if lines.contains("remotes") || lines.contains("group =") { "" } else { "remotes = ['192.0.2.2']" };
    let file = format!("[bridge.b]\n[port.t]\nbridge = 'b'\ntype = '{kind}'\n{remote}\n{lines}");
    match desired(&file).and_then(|d| validate(&d)) {
        Ok(()) => String::new(),
        Err(error) => error.to_string().replace("test.toml line 2: ", ""),
    }
}

fn port(kind: &str, lines: &str) -> PortSpec {
    let file = format!("bridge = 'b'\ntype = '{kind}'\nremotes = ['192.0.2.2']\n{lines}");
    file.parse::<toml::Table>().unwrap().try_into().unwrap()
}

#[test]
fn good_tunnels_pass() {
    for (kind, lines) in [
        ("gre", ""),
        ("gre", "key = 4294967295\ncsum = true\nseq = true\nlocal = '192.0.2.1'"),
        ("gre", "remotes = ['192.0.2.2', '192.0.2.3']\ntos = 'inherit'\nttl = 'inherit'\ndf = false"),
        ("gre", "remotes = ['2001:db8::2']\nlocal = '2001:db8::1'\ntos = 184\nttl = 255"),
        ("gre", "vlan = 10"),
        ("gre", "vlan = 10\ntrunks = '20-30'"),
        ("nvgre", "vni = 77"),
        ("nvgre", "vlan-map = '10=5000,0=5001'"),
        ("vxlan", "vni = 0"),
        ("vxlan", "vni = 16777215\ndst-port = 8472\nudp-csum = true\nbfd = true\nbfd-interval = 50"),
        ("vxlan", "vni = 7\ntrunks = '10,20'"),
        ("vxlan", "vni = 7\ninner-vlan = 'keep'"),
        ("vxlan", "vlan-map = '10=1010, 20-29=2020-2029, 0=1'"),
        ("vxlan", "vni = 7\ngroup = '239.1.1.1'\ngroup-interface = 'eth0'"),
        ("vxlan", "vni = 7\ngroup = '239.1.1.1'\ngroup-interface = 'eth0'\nremotes = ['192.0.2.9']"),
        ("vxlan", "vni = 7\nremotes = ['2001:db8::2']\nzero-csum6 = true\nmtu = 1280"),
        ("geneve", "vni = 7\nvlan-mode = 'native-untagged'\nvlan = 3\nmss-clamp = false\nmtu = 9000"),
    ] {
        assert_eq!(check(kind, lines), "", "{kind} {lines}");
    }
}

#[test]
fn wrong_tunnels_are_refused_with_a_reason() {
    for (kind, lines, says) in [
        ("gre", "remotes = []", "port t: a tunnel needs a remote; give the other host's address"),
        ("gre", "remotes = ['239.1.1.1']", "remote 239.1.1.1 is a multicast address; that is a group"),
        ("gre", "remotes = ['0.0.0.0']", "remote 0.0.0.0 is no host's address"),
        ("gre", "remotes = ['255.255.255.255']", "is no host's address"),
        ("gre", "remotes = ['127.0.0.1']", "remote 127.0.0.1 never leaves this host"),
        ("gre", "remotes = ['fe80::1']", "remote fe80::1 is link-local"),
        ("gre", "remotes = ['192.0.2.2', '192.0.2.2']", "remote 192.0.2.2 is given twice"),
        ("gre", "remotes = ['192.0.2.2', '::ffff:192.0.2.2']", "remote 192.0.2.2 is given twice"),
        (
            "gre",
            "remotes = ['192.0.2.2', '2001:db8::2']",
            "192.0.2.2 and 2001:db8::2 are of two address families",
        ),
        ("gre", "local = '2001:db8::1'", "192.0.2.2 and 2001:db8::1 are of two address families"),
        ("gre", "local = '192.0.2.2'", "remote 192.0.2.2 is the local address too"),
        ("gre", "local = '224.0.0.1'", "local 224.0.0.1 is a multicast address"),
        (
            "gre",
            "seq = true\nremotes = ['192.0.2.2', '192.0.2.3']",
            "sequence numbers need exactly one remote",
        ),
        ("gre", "seq = true\nvlan-map = '1=2'", "sequence numbers and a vlan-map exclude each other"),
        ("gre", "key = 7\nvlan-map = '1=2'", "vlan-map and key exclude each other"),
        ("gre", "ttl = 0", "ttl 0 reaches nobody"),
        ("gre", "tos = 1", "tos 1 sets the two ECN bits"),
        ("gre", "mtu = 1279", "MTU 1279 is out of range; use 1280 (what IPv6 needs) to 65400"),
        ("gre", "mtu = 65401", "MTU 65401 is out of range"),
        ("gre", "offload = 'off'", "a tunnel has no interface whose offloads could be off"),
        ("gre", "bfd-interval = 100", "bfd-interval and bfd-multiplier mean nothing without BFD"),
        ("gre", "bfd = true\nbfd-interval = 9", "bfd-interval is out of range"),
        ("gre", "bfd = true\nbfd-multiplier = 0", "bfd-multiplier 0 is out of range"),
        ("gre", "split-horizon-group = 2147483648", "split-horizon-group 2147483648 is out of range"),
        ("vxlan", "", "port t: missing vni; give the virtual network's number"),
        ("geneve", "", "missing vni"),
        ("nvgre", "", "missing vni"),
        ("vxlan", "vni = 16777216", "vni 16777216 is out of range; use 0 to 16777215"),
        ("vxlan", "vni = 7\ndst-port = 0", "dst-port 0 is no port"),
        ("vxlan", "vni = 7\nvlan-map = '1=2'", "vlan-map and vni exclude each other"),
        ("vxlan", "vni = 7\ngroup = '239.1.1.1'", "group needs group-interface"),
        ("vxlan", "vni = 7\ngroup-interface = 'eth0'", "group-interface needs group"),
        (
            "vxlan",
            "vni = 7\ngroup = '192.0.2.9'\ngroup-interface = 'eth0'",
            "group 192.0.2.9 is not a multicast address",
        ),
        ("vxlan", "vni = 7\ngroup = '239.1.1.1'\ngroup-interface = 'eth0'\nbfd = true", "BFD needs a remote"),
        ("vxlan", "vni = 7\nzero-csum6 = true", "zero-csum6 means nothing over IPv4"),
        (
            "vxlan",
            "vni = 7\ntrunks = '10'\ninner-vlan = 'strip'",
            "a tunnel that strips tags would mix its VLANs",
        ),
        ("vxlan", "vlan-map = '1=2'\nvlan = 3", "vlan-map excludes vlan, trunks and vlan-mode"),
        ("vxlan", "vlan-map = '1=2'\ninner-vlan = 'keep'", "vlan-map excludes inner-vlan keep"),
        ("nvgre", "vni = 7\ninner-vlan = 'keep'", "NVGRE carries no inner tags"),
        (
            "nvgre",
            "vni = 7\ntrunks = '10'",
            "a tunnel that strips tags would mix its VLANs; use vlan for one of them, or vlan-map",
        ),
        ("vxlan", "vlan-map = '1'", "vlan-map '1': '1' has no ="),
        ("vxlan", "vlan-map = '1=x'", "'x' is not a number"),
        ("vxlan", "vlan-map = '4095=1'", "VLAN 4095 is out of range"),
        ("vxlan", "vlan-map = '1=16777216'", "16777216 is more than 16777215"),
        ("vxlan", "vlan-map = '5-3=1-3'", "the range 5-3 runs backwards"),
        ("vxlan", "vlan-map = '1-3=1-2'", "1-3 and 1-2 are not of one length"),
        ("vxlan", "vlan-map = '1=2,1=3'", "VLAN 1 is in it twice"),
        ("vxlan", "vlan-map = '1=2,3=2'", "2 is given to VLAN 1 and to VLAN 3"),
        ("vxlan", "vlan-map = ''", "vlan-map '': '' has no ="),
    ] {
        let said = check(kind, lines);
        assert!(said.contains(says), "{kind} {lines}: {said}");
        assert!(!said.contains('\n'), "{said}");
    }
}

#[test]
fn vlans_do_not_come_out_mixed() {
    let carried = |kind, lines| {
        let config = port_config(&port(kind, lines)).unwrap();
        let all: Vec<u16> =
            (0..=4094).filter(|&v| VlanId::new(v).is_some_and(|v| config.trunks.contains(v))).collect();
        (config.vlan_mode, if all.len() == 4095 { vec![] } else { all })
    };
    use trunkline_switch::VlanMode::{Access, Trunk};
    for (kind, lines, mode, vlans) in [
        ("vxlan", "vni = 7", Trunk, vec![0]),
        ("nvgre", "vni = 7", Trunk, vec![0]),
        ("vxlan", "vni = 7\nvlan = 10", Access, vec![]),
        ("vxlan", "vni = 7\ninner-vlan = 'keep'", Trunk, vec![]),
        ("vxlan", "vni = 7\ntrunks = '10,20'", Trunk, vec![10, 20]),
        ("vxlan", "vlan-map = '10-11=1-2,0=9'", Trunk, vec![0, 10, 11]),
        ("gre", "", Trunk, vec![]),
        ("geneve", "vni = 7\ninner-vlan = 'strip'", Trunk, vec![0]),
    ] {
        assert_eq!(carried(kind, lines), (mode, vlans), "{kind} {lines}");
    }
    let inner = |kind, lines| {
        let spec = port(kind, lines);
        let (kind, t) = spec.kind.tunnel().unwrap();
        inner_vlan(kind, t, &spec)
    };
    assert_eq!(inner("vxlan", "vni = 7\ntrunks = '10'"), InnerVlan::Keep);
    assert_eq!(inner("vxlan", "vni = 7\nvlan = 10"), InnerVlan::Strip);
    assert_eq!(inner("gre", "vlan-map = '10=1'"), InnerVlan::Strip);
}

const TWO: &str = "[bridge.b]\n[port.one]\nbridge='b'\ntype='vxlan'\nvni=7\nremotes=['192.0.2.2']\n";

/// A shared uplink keeps from the kernel's sockets what its tunnels take.
#[test]
fn a_shared_uplink_and_the_sockets_do_not_share_a_udp_port_or_gre() {
    let port =
        |name: &str, lines: &str| format!("[port.{name}]\nbridge='b'\nremotes=['192.0.2.2']\n{lines}\n");
    let check = |ports: &[String]| {
        let ups = "[bridge.b]\n[uplink.up]\ntype='shared'\n[uplink.own]\ntype='own'\ninterface='eth1'\n\
                   addresses=['198.51.100.1/24']\n";
        let text = desired(&(ups.to_owned() + &ports.concat())).and_then(|d| validate(&d));
        text.map_or_else(|e| e.to_string(), |()| String::new())
    };
    let over = "type='vxlan'\nvni=1\nunderlay='up'";
    assert_eq!(check(&[port("a", over), port("b", "type='vxlan'\nvni=2\nunderlay='up'")]), "");
    assert_eq!(check(&[port("a", over), port("b", "type='vxlan'\nvni=2\ndst-port=4790")]), "");
    assert_eq!(check(&[port("a", over), port("b", "type='vxlan'\nvni=2\nunderlay='own'")]), "");
    assert_eq!(check(&[port("a", over), port("b", "type='gre'\nkey=2")]), "");
    let says = check(&[port("a", over), port("b", "type='vxlan'\nvni=2")]);
    let expected = "port b: UDP port 4789 is taken for port b by the kernel's sockets and for port a by an uplink \
                    shared with the host; give both the same underlay, or leave it out of both";
    assert_eq!(says, expected);
    let says = check(&[port("a", "type='gre'\nkey=1"), port("b", "type='nvgre'\nvni=2\nunderlay='up'")]);
    assert!(
        says.starts_with("port b: GRE is taken for port a by the kernel's sockets and for port b"),
        "{says}"
    );
}

#[test]
fn tunnels_that_would_take_the_same_packets_are_refused() {
    let old = desired(TWO).unwrap();
    for (more, says) in [
        ("[port.also]\nbridge='b'\ntype='vxlan'\nvni=8\nremotes=['192.0.2.2']", None),
        ("[port.also]\nbridge='b'\ntype='vxlan'\nvni=7\nremotes=['192.0.2.3']", None),
        (
            "[port.also]\nbridge='b'\ntype='vxlan'\nvni=7\nremotes=['192.0.2.3','192.0.2.2']",
            Some(
                "port also: port one has the same type, addresses and VNI or key; give one of the two another VNI, key or remote",
            ),
        ),
        (
            "[port.also]\nbridge='b'\ntype='geneve'\nvni=7\ndst-port=4789\nremotes=['192.0.2.3']",
            Some(
                "port also: UDP port 4789 is that of port one, which is of another type; give one of the two another dst-port",
            ),
        ),
        (
            "[port.also]\nbridge='b'\ntype='gre'\nremotes=['192.0.2.3']\nunderlay='up'",
            Some("port also: there is no uplink up; see: trunkline uplink list"),
        ),
        (
            "[mesh.m]\nbridge='b'\ntype='vxlan'\nvni=7\npeers=['192.0.2.1','192.0.2.2']",
            Some("mesh m, peer 192.0.2.2: port one has the same type"),
        ),
    ] {
        let new = desired(&format!("{TWO}{more}")).unwrap();
        match (validate_edit(&old, &new), says) {
            (Ok(()), None) => {}
            (Err(error), Some(says)) => assert!(error.to_string().starts_with(says), "{error}"),
            (other, _) => panic!("{more}: {other:?}"),
        }
    }
}

#[test]
fn meshes_that_make_no_sense_are_refused() {
    let mesh = "[mesh.m]\nbridge='b'\ntype='gre'\n";
    let lab =
        |text: &str| match desired(&format!("[bridge.b]\n[bridge.c]\n{text}")).and_then(|d| validate(&d)) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        };
    for (lines, says) in [
        ("peers=['192.0.2.1','192.0.2.2']", ""),
        ("peers=['192.0.2.1']\nlocal='192.0.2.1'", ""),
        (
            "peers=['192.0.2.1','192.0.2.2']\nlocal='192.0.2.1'\nvlan=5\nkey=9\ncsum=true\nseq=true\nbfd=false",
            "",
        ),
        ("peers=[]", "mesh m: it has no peers"),
        ("peers=['192.0.2.1','192.0.2.1']", "peer 192.0.2.1 is given twice"),
        ("peers=['192.0.2.1','2001:db8::1']", "of two address families"),
        ("peers=['224.0.0.1']", "mesh m: peer 224.0.0.1 is a multicast address"),
        ("peers=['192.0.2.1']\nlocal='2001:db8::1'", "of two address families"),
        ("peers=['192.0.2.1']\nmtu=1200", "mesh m: MTU 1200 is out of range"),
        ("peers=['192.0.2.1']\nbfd=false\nbfd-interval=100", "mean nothing without BFD"),
        ("peers=['192.0.2.1']\nremotes=['192.0.2.2']", "unknown key 'remotes' in mesh m"),
        (
            "peers=['192.0.2.1']\nvni=3",
            "a mesh of type gre has no key 'vni'; it belongs to type vxlan or geneve",
        ),
    ] {
        let said = lab(&format!("{mesh}{lines}"));
        assert!(said.contains(says) && said.is_empty() == says.is_empty(), "{lines}: {said}");
    }
    assert!(
        lab("[mesh.'a/b']\nbridge='b'\ntype='gre'\npeers=['192.0.2.1']").contains("is not a name for a mesh")
    );
    assert!(
        lab("[mesh.m]\nbridge='x'\ntype='gre'\npeers=['192.0.2.1']").contains("mesh m: there is no bridge x")
    );
}

#[test]
fn two_meshes_are_no_loop() {
    let two = |bridge: &str, one: &str, other: &str| {
        let hosts = "peers=['192.0.2.1','192.0.2.2','192.0.2.3']";
        let text = format!(
            "[bridge.b]\n[bridge.c]\n[mesh.m]\nbridge='b'\ntype='gre'\n{hosts}\n{one}\n\
             [mesh.n]\nbridge='{bridge}'\ntype='vxlan'\nvni=5\n{other}"
        );
        validate(&desired(&text).unwrap()).map_err(|e| e.to_string())
    };
    let says = "meshes m and n both connect bridge b with 192.0.2.1 and 192.0.2.3: frames would go round; \
                use one mesh, two bridges, or VLANs that are not the same";
    let same = "peers=['192.0.2.3','192.0.2.1','192.0.2.4']";
    assert_eq!(two("b", "", same), Err(says.to_owned()));
    assert_eq!(two("c", "", same), Ok(()));
    assert_eq!(two("b", "vlan=10", &format!("vlan=20\n{same}")), Ok(()));
    assert_eq!(two("b", "vlan=10", &format!("trunks='9-10'\n{same}")), Err(says.to_owned()));
    // One host of both, as between two sites.
    assert_eq!(two("b", "", "peers=['192.0.2.1','192.0.2.4']"), Ok(()));
}

#[test]
fn static_entries_name_remotes_that_are_there() {
    let lab = |entry: &str| {
        let text = format!(
            "[bridge.b]\n[[bridge.b.fdb]]\nmac='02:00:00:00:00:09'\n{entry}\n\
             [port.vx]\nbridge='b'\ntype='vxlan'\nvni=1\nremotes=['192.0.2.2','192.0.2.3']\n\
             [port.mc]\nbridge='b'\ntype='vxlan'\nvni=2\ngroup='239.1.1.1'\ngroup-interface='eth0'\n\
             [port.sink]\nbridge='b'\ntype='null'\n\
             [mesh.m]\nbridge='b'\ntype='gre'\npeers=['192.0.2.2']"
        );
        desired(&text).and_then(|d| validate(&d)).map_err(|e| e.to_string())
    };
    for good in [
        "port='vx'",
        "port='vx'\nremote='192.0.2.3'",
        "port='mc'\nremote='192.0.2.77'",
        "port='m/192.0.2.2'",
        "port='m/192.0.2.2'\nremote='192.0.2.2'",
    ] {
        assert_eq!(lab(good), Ok(()), "{good}");
    }
    for (entry, says) in [
        (
            "port='vx'\nremote='192.0.2.4'",
            "192.0.2.4 is no remote of port vx; what it sends would be refused",
        ),
        ("port='mc'\nremote='2001:db8::1'", "2001:db8::1 is no remote of port mc"),
        ("port='sink'\nremote='192.0.2.2'", "port sink is no tunnel and has no remote 192.0.2.2"),
        ("port='m/192.0.2.9'", "there is no port m/192.0.2.9"),
        ("port='vx'\nremote='far'", "'far' is not an address"),
    ] {
        let said = lab(entry).unwrap_err();
        assert!(said.contains(says), "{entry}: {said}");
    }
}

#[test]
fn all_that_is_asked_for_reaches_the_packet_path() {
    let lines =
        "local='192.0.2.1'\nvlan-map='10=7'\ndst-port=8472\ntos='inherit'\nttl=3\ndf=false\nudp-csum=false";
    let spec = port("vxlan", lines);
    let (kind, t) = spec.kind.tunnel().unwrap();
    let e = endpoint(PortId(4), kind, t, &spec).unwrap();
    assert_eq!((e.port, e.kind, e.local), (PortId(4), Kind::Vxlan, t.local));
    assert_eq!(e.nets, Nets::Map(vec![(VlanId::new(10).unwrap(), NetId::Vni(Vni::new(7).unwrap()))]));
    assert_eq!(
        (e.dst_port, e.tos, e.ttl, e.df, e.udp_checksum),
        (8472, Tos::Inherit, Ttl::Fixed(3), false, Some(false))
    );
    let spec = port("gre", "key=9\ncsum=true\nseq=true");
    let (kind, t) = spec.kind.tunnel().unwrap();
    let e = endpoint(PortId(4), kind, t, &spec).unwrap();
    assert_eq!((e.nets, e.gre_checksum, e.gre_sequence), (Nets::One(NetId::Key(GreKey(9))), true, true));
    assert_eq!((e.dst_port, e.tos, e.ttl, e.df), (0, Tos::Fixed(0), Ttl::Fixed(64), true));
}

proptest! {
    #[test]
    fn a_vlan_map_is_read_or_refused(text in "[0-9=,x -]{0,24}") {
        if let Ok(map) = parse_vlan_map(&text, 100) {
            prop_assert!(!map.is_empty());
            prop_assert!(map.iter().all(|&(vid, net)| vid.get() <= 4094 && net <= 100));
            prop_assert!(map.is_sorted_by_key(|&(vid, _)| vid));
        }
    }
}
