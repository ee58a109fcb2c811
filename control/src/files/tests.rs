use super::*;
use crate::model::{Owner, PortSpec, VlanMode};

const WEB: &str = r#"
[bridge.br0]
ageing = 60

[[bridge.br0.fdb]]
mac = "02:00:00:00:00:09"
vlan = 10
port = "web"

[port.uplink]
bridge = "br0"
type = "afpacket"
interface = "eth1"
trunks = "10,20-30"

[port.web]
bridge = "br0"
type = "tap"
netns = "web"
ifname = "eth0"
addresses = ["10.7.0.1/24"]
gateways = ["10.7.0.254"]
vlan = 10
labels = { container = "web" }
"#;

#[test]
fn a_file_says_what_is_desired() {
    let d = parse("web.toml", WEB).unwrap();
    assert_eq!((d.bridges["br0"].ageing, d.bridges["br0"].max_macs), (60, 16384));
    assert_eq!(d.bridges["br0"].static_fdb[0].vlan, 10);
    let web = &d.ports["web"];
    assert_eq!((web.vlan, validate::vlan_mode(web)), (Some(10), VlanMode::Access));
    assert_eq!(web.labels["container"], "web");
    let PortKind::Tap(tap) = &web.kind else { panic!("{web:?}") };
    assert_eq!(tap.link.addresses[0].to_string(), "10.7.0.1/24");
    assert_eq!(parse("empty", "").unwrap(), Desired::default());
}

#[test]
fn errors_name_the_line_and_the_object() {
    for (text, says) in [
        (
            "[port.web]\nbridge = 'b'\ntype = 'tap'\nvlans = 5",
            "f.toml line 4: unknown key 'vlans' in port web; did you mean 'vlan'?",
        ),
        ("[bridges.br0]", "f.toml line 1: unknown key 'bridges' in the top level; did you mean 'bridge'?"),
        (
            "\n[bridge.br0]\nageing = 0",
            "f.toml line 2: bridge br0: ageing 0 is out of range; use 1 to 1000000 seconds",
        ),
        (
            "[bridge.br0]\nageing = 'x'",
            "f.toml line 2: ageing in bridge br0: invalid type: string \"x\", expected u32",
        ),
        (
            "[bridge.br0]\nowner = 'cli'",
            "f.toml line 2: key 'owner' in bridge br0 is the daemon's own; leave it out",
        ),
        (
            "[bridge.br0]\n[[bridge.br0.fdb]]\nmacs = ''",
            "f.toml line 3: unknown key 'macs' in an fdb entry of bridge br0; did you mean 'mac'?",
        ),
        ("[port.web]\nbridge = 'b'", "f.toml line 1: port web: missing field `type`"),
        ("[port.web]\nbridge = 'b'\ntype = 'afpacket'", "f.toml line 1: port web: missing key 'interface'"),
        (
            "[port.web]\ntype = 'tap'\nbridge = 'b'\nvlan = 5000",
            "f.toml line 1: port web: VLAN 5000 is out of range; use 1 to 4094",
        ),
        (
            "[port.web]\ntype = 'tap'\nbridge = 'b'\nvlan = 70000",
            "f.toml line 4: vlan in port web: VLAN 70000 is out of range; use 1 to 4094",
        ),
        (
            "[port.web]\ntype = 'tap'\nbridge = 'b'\naddresses = [\n '10.0.0.1/24',\n '10.0.0.2',\n]",
            "f.toml line 4: addresses in port web: '10.0.0.2' is not an address with a prefix length; write it like 10.7.0.1/24 or fd00::1/64",
        ),
        ("bridge = 3", "f.toml line 1: the file: invalid type: integer `3`, expected a map"),
    ] {
        assert_eq!(parse("f.toml", text).unwrap_err().to_string(), says);
    }
    for (text, start) in [
        ("[bridge.br0]\nageing = = 3", "f.toml line 2: "),
        ("[bridge.br0]\nageing = 3\nageing = 4", "f.toml line 3: "),
        ("[bridge.br0", "f.toml line 1: "),
    ] {
        let error = parse("f.toml", text).unwrap_err().to_string();
        assert!(error.starts_with(start) && !error.contains('\n'), "{error}");
    }
}

#[test]
fn an_export_reads_back_as_the_same() {
    let mut d = parse("web.toml", WEB).unwrap();
    d.bridges.get_mut("br0").unwrap().owner = Owner::Config;
    let web = d.ports.get_mut("web").unwrap();
    web.owner = Owner::Config;
    let PortKind::Tap(tap) = &mut web.kind else { panic!("{web:?}") };
    tap.netns_id = Some("4:4026531840".into());
    let text = export(&d);
    assert!(!text.contains("owner") && !text.contains("netns-id"), "{text}");
    assert_eq!(parse("out", &text).unwrap(), parse("web.toml", WEB).unwrap());
    assert_eq!(parse_json(export_json(&d)).unwrap(), parse("web.toml", WEB).unwrap());
    // The order is that of the format's description, not of the alphabet.
    let at = |key: &str| text.find(key).unwrap_or_else(|| panic!("{key} in {text}"));
    assert!(at("[port.web]") < at("type = \"tap\"") && at("type = \"tap\"") < at("netns = "));
    assert_eq!(export(&Desired::default()), "");
    // What docker made is docker's to make again; that it is served is not.
    let mut d = parse("f", "[docker]\nsocket='/run/x.sock'\n[bridge.br0]").unwrap();
    d.bridges.get_mut("br0").unwrap().owner = Owner::Docker;
    assert_eq!(export(&d), "[docker]\nsocket = \"/run/x.sock\"\n");
    for (key, says) in
        [("network={}", "key 'network' in docker is the daemon's own"), ("socket='x'", "absolute")]
    {
        let error = parse("f", &format!("[docker]\n{key}")).unwrap_err().to_string();
        assert!(error.starts_with("f line ") && error.contains(says), "{error}");
    }
}

#[test]
fn json_may_not_say_what_is_the_daemons() {
    for (json, says) in [
        (
            r#"{"bridge":{"br0":{"owner":"cli"}}}"#,
            "key 'owner' in bridge br0 is the daemon's own; leave it out",
        ),
        (r#"{"ports":{}}"#, "unknown key 'ports' in the top level; did you mean 'port'?"),
        (
            r#"{"bridge":{"br0":{"age":1}}}"#,
            "unknown key 'age' in bridge br0; known keys: owner, ageing, max-macs, fdb",
        ),
    ] {
        assert_eq!(parse_json(serde_json::from_str(json).unwrap()).unwrap_err().to_string(), says);
    }
}

/// The state after these files were applied, and the last one's changes.
fn apply(mut state: Desired, files: &[&str]) -> Result<(Desired, Vec<String>)> {
    let mut changes = Vec::new();
    for text in files {
        (state, changes) = merge_apply(&state, parse("f", text)?)?;
    }
    Ok((state, changes))
}

fn owned(text: &str, owner: Owner) -> Desired {
    let mut d = parse("f", text).unwrap();
    d.bridges.values_mut().for_each(|b| b.owner = owner);
    d.ports.values_mut().for_each(|p| p.owner = owner);
    d
}

#[test]
fn applying_twice_changes_nothing() {
    let (once, changes) = apply(Desired::default(), &[WEB]).unwrap();
    assert_eq!(changes, ["added bridge br0", "added port uplink", "added port web"]);
    assert!(once.ports.values().all(|p| p.owner == Owner::Config));
    let (twice, changes) = apply(once.clone(), &[WEB, &export(&once)]).unwrap();
    assert_eq!((twice, changes.len()), (once, 0));
}

#[test]
fn what_the_daemon_filled_in_is_kept() {
    let (mut d, _) = apply(Desired::default(), &[WEB]).unwrap();
    let PortKind::Tap(tap) = &mut d.ports.get_mut("web").unwrap().kind else { panic!() };
    tap.netns_id = Some("4:77".into());
    tap.link.mac = Some("02:aa:00:00:00:01".into());
    assert_eq!(apply(d.clone(), &[WEB]).unwrap(), (d, vec![]));
}

#[test]
fn a_file_changes_and_removes_only_what_files_made() {
    let (mut d, _) = apply(Desired::default(), &[WEB]).unwrap();
    d.ports.insert(
        "mine".into(),
        owned("[port.mine]\nbridge='br0'\ntype='null'", Owner::Cli).ports["mine"].clone(),
    );
    let (d, changes) = apply(d, &["[bridge.br0]\n[port.uplink]\nbridge='br0'\ntype='null'"]).unwrap();
    assert_eq!(
        changes,
        [
            "removed port web",
            "changed bridge br0 (ageing, fdb)",
            "changed port uplink (interface, trunks, type)"
        ]
    );
    assert_eq!(d.ports.keys().collect::<Vec<_>>(), ["mine", "uplink"]);
    let error = apply(d, &[""]).unwrap_err().to_string();
    assert!(error.contains("bridge br0 is not in the file, but port mine (owner: cli) is on it"), "{error}");
}

#[test]
fn static_entries_go_with_their_port() {
    let d = owned(WEB, Owner::Cli);
    let mut d = apply(d, &[]).unwrap().0;
    d.ports.get_mut("web").unwrap().owner = Owner::Config;
    let (d, changes) = apply(d, &[""]).unwrap();
    assert_eq!(changes, ["removed port web"]);
    assert!(d.bridges["br0"].static_fdb.is_empty());
    validate::validate(&d).unwrap();
}

#[test]
fn owners_are_respected() {
    // The command line's objects are taken over without a change.
    let (d, changes) = apply(owned(WEB, Owner::Cli), &[WEB]).unwrap();
    assert_eq!((changes.len(), d.ports["web"].owner), (0, Owner::Config));
    // Docker's stay docker's when they are the same, and are not changed.
    let (d, changes) = apply(owned(WEB, Owner::Docker), &[WEB]).unwrap();
    assert_eq!((changes.len(), d.ports["web"].owner), (0, Owner::Docker));
    let error = apply(d, &[&WEB.replace("vlan = 10\nlabels", "vlan = 11\nlabels")]).unwrap_err().to_string();
    assert!(error.starts_with("port web belongs to docker and differs from the file in vlan;"), "{error}");
}

#[test]
fn the_state_file_has_owners_and_a_version() {
    let text = "version = 1\n[bridge.br0]\nowner = 'docker'\n";
    assert_eq!(parse_state("s", text, 1).unwrap().bridges["br0"].owner, Owner::Docker);
    for (text, says) in [
        ("[bridge.br0]", "s line 1: key 'version' is missing"),
        (
            "version = 2",
            "s line 1: version is 2, this trunkline reads version 1; use the trunkline that wrote it",
        ),
        (
            "version = '1'",
            "s line 1: version is of another type, this trunkline reads version 1; use the trunkline that wrote it",
        ),
        (
            "version = 1\n[bridge.br0]\nagein = 3",
            "s line 3: unknown key 'agein' in bridge br0; did you mean 'ageing'?",
        ),
        (
            "version = 1\n[port.p]\ntype='null'\nbridge='x'",
            "s: port p: there is no bridge x; make it first: trunkline bridge add x",
        ),
    ] {
        assert_eq!(parse_state("s", text, 1).unwrap_err().to_string(), says);
    }
}

#[test]
fn a_port_written_flat_is_pleasant() {
    let toml = "[port.web]\nbridge = \"br0\"\ntype = \"tap\"\nnetns = \"web\"\nifname = \"eth0\"\n\
                addresses = [\"10.7.0.1/24\"]\nvlan = 10\n";
    let d = parse("f", toml).unwrap();
    assert_eq!(export(&d), toml);
    let again: PortSpec = toml::from_str(&toml::to_string(&d.ports["web"]).unwrap()).unwrap();
    assert_eq!(again, d.ports["web"]);
}

const L3: &str = r#"
[bridge.br0]

[gateway."br0.10"]
addresses = ["10.77.0.1/24", "fd77::1/64"]
dhcp-range = "10.77.0.100-10.77.0.199"
ra = true

[gateway."br0.10".reservations]
"02:00:00:00:00:09" = "10.77.0.9"

[uplink.up0]
type = "own"
interface = "eth1"
addresses = ["192.0.2.10/24"]
gateways = ["192.0.2.1"]

[route.lab]
prefix = "10.9.0.0/16"
via = "10.77.0.2"

[nat.web]
uplink = "up0"
type = "publish"
proto = "tcp"
port = 8080
to = "10.77.0.2:80"

[ct]
limit = 100000
"#;

#[test]
fn layer_3_survives_files_and_the_state() {
    let mut d = parse("l3.toml", L3).unwrap();
    validate::validate(&d).unwrap();
    let (applied, changes) = apply(Desired::default(), &[L3]).unwrap();
    assert_eq!(
        changes,
        [
            "added bridge br0",
            "added gateway br0.10",
            "added uplink up0",
            "added route lab",
            "added nat web",
            "added ct settings"
        ]
    );
    let text = export(&applied);
    assert!(!text.contains("owner"), "{text}");
    assert_eq!(parse("out", &text).unwrap(), d);
    assert_eq!(parse_json(export_json(&applied)).unwrap(), d);
    assert_eq!(apply(applied.clone(), &[&text]).unwrap(), (applied.clone(), vec![]));
    // What the daemon drew is kept, by the state file too.
    d = applied;
    d.gateways.get_mut("br0.10").unwrap().mac = Some("02:aa:00:00:00:01".into());
    assert_eq!(apply(d.clone(), &[L3]).unwrap(), (d.clone(), vec![]));
    let state = format!("version = 1\n{}", toml::to_string(&d).unwrap());
    assert_eq!(parse_state("s", &state, 1).unwrap(), d);
    // A file without them takes them away, in an order that works.
    let (gone, changes) = apply(d, &["[bridge.br0]"]).unwrap();
    assert_eq!(
        changes,
        [
            "removed nat web",
            "removed route lab",
            "removed gateway br0.10",
            "removed uplink up0",
            "removed ct settings"
        ]
    );
    validate::validate(&gone).unwrap();
}

#[test]
fn errors_of_layer_3_name_the_line_and_the_object() {
    for (text, says) in [
        (
            "[gateway.br0]\naddresses = ['10.0.0.1/24']\nadress = 1",
            "f line 3: unknown key 'adress' in gateway br0; did you mean 'addresses'?",
        ),
        ("[gateway.br0]\nmtu = 9000", "f line 1: gateway br0: missing field `addresses`"),
        (
            "[gateway.br0]\naddresses = ['10.0.0.1']",
            "f line 2: addresses in gateway br0: '10.0.0.1' is not an address with a prefix length; write it like 10.7.0.1/24 or fd00::1/64",
        ),
        (
            "[uplink.u]\ntype = 'own'\nports = '1-2'",
            "f line 3: uplink u: type own has no key 'ports'; it belongs to type shared",
        ),
        ("[uplink.u]\ntype = 'own'", "f line 1: uplink u: missing key 'interface'"),
        (
            "[nat.n]\ntype = 'publish'\nuplink = 'u'\nproto = 'tcp'\nport = 0\nto = '10.0.0.2'",
            "f line 5: port in nat n: '0' is not a port or a range of ports; write a port like 8080 or a range like 8080-8090, from 1 to 65535",
        ),
        (
            "[nat.n]\ntype = 'publish'\nuplink = 'u'\nproto = 'tcp'\nport = '80-81'\nto = '10.0.0.2:80'",
            "f line 1: nat n: 80-81 is 2 ports and 80 is 1 port; give as many ports inside as outside, or none for the same ones",
        ),
        (
            "[route.r]\nprefix = '10.0.0.0/8'",
            "f line 1: route r: it leads nowhere; give the next router with --via, or a gateway or uplink whose network it is",
        ),
        ("\n[ct]\nlimit = 3", "f line 2: ct: limit 3 is out of range; use 16 to 16777216"),
        ("[ct]\nlimits = 3", "f line 2: unknown key 'limits' in ct; did you mean 'limit'?"),
        ("[ct]\nlimit = 'x'", "f line 2: limit in ct: invalid type: string \"x\", expected u32"),
        ("[ct]\nowner = 'cli'", "f line 2: key 'owner' in ct is the daemon's own; leave it out"),
    ] {
        assert_eq!(parse("f", text).unwrap_err().to_string(), says);
    }
    let json = serde_json::json!({"ct": {"owner": "cli"}});
    assert_eq!(
        parse_json(json).unwrap_err().to_string(),
        "key 'owner' in ct is the daemon's own; leave it out"
    );
}
