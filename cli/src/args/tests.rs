use clap::{CommandFactory as _, Parser as _};
use serde_json::json;

use super::*;

/// Every command below this one, with its path.
fn commands(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    for sub in command.get_subcommands() {
        let path = format!("{path} {}", sub.get_name());
        found.push((path.clone(), sub.clone()));
        commands(sub, &path, found);
    }
}

fn examples(help: &str) -> Vec<&str> {
    help.lines()
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| line.starts_with("trunkline"))
        .collect()
}

#[test]
fn the_definition_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_has_examples_that_parse() {
    let mut found = vec![("trunkline".to_owned(), Cli::command())];
    commands(&Cli::command(), "trunkline", &mut found);
    assert!(found.len() > 30, "{}", found.len());
    for (path, command) in found {
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let examples = examples(&help);
        assert!(!examples.is_empty(), "{path} --help has no example");
        let words: Vec<_> = path.split(' ').skip(1).collect();
        for example in examples {
            if let Err(e) = Cli::try_parse_from(example.split_whitespace()) {
                panic!("{example}\n{e}");
            }
            assert!(words.iter().all(|w| example.split(' ').any(|e| e == *w)), "{path}: {example}");
        }
    }
}

#[test]
fn readme_examples_parse() {
    let readme = include_str!("../../../README.md");
    for line in readme.lines().map(str::trim) {
        let line = line.strip_prefix("sudo ").or_else(|| line.strip_prefix("$ ")).unwrap_or(line);
        let line = line.split(" #").next().unwrap_or(line).trim();
        let plain =
            line.starts_with("trunkline ") && !line.contains(['|', '<', '>', '…', '&', '$', '\\', '[']);
        if plain && let Err(e) = Cli::try_parse_from(line.split_whitespace()) {
            panic!("README: {line}\n{e}");
        }
    }
}

#[test]
fn every_reading_command_speaks_json() {
    for line in [
        "bridge list",
        "bridge show br0",
        "port list",
        "port show p",
        "fdb show br0",
        "show",
        "stats",
        "stats p",
        "drops",
        "container list",
        "mesh list",
        "gateway list",
        "gateway show br0",
        "uplink list",
        "uplink show u",
        "route list",
        "nat list",
        "ct list",
        "ct count",
        "ct settings",
        "neighbour list",
        "dhcp leases",
        "mesh show",
        "mesh show m",
        "export",
        "watch",
        "apply f --dry-run",
    ] {
        Cli::try_parse_from(format!("trunkline {line} --json").split(' ')).unwrap();
    }
}

fn patch(options: &str) -> serde_json::Value {
    let line = format!("trunkline port set web {options}");
    let cli = Cli::try_parse_from(line.split_whitespace()).unwrap();
    let Command::Port(PortCommand::Set { options, tunnel, .. }) = cli.command else { panic!("{line}") };
    options.patch().into_iter().chain(tunnel.patch()).collect()
}

#[test]
fn options_become_a_patch() {
    for (options, expected) in [
        ("", json!({})),
        (
            "--vlan 10 --trunks 20,30-40 --vlan-mode native-untagged",
            json!({"vlan": 10, "trunks": "20,30-40", "vlan-mode": "native-untagged"}),
        ),
        (
            "--vlan none --trunks none --vlan-mode none",
            json!({"vlan": null, "trunks": null, "vlan-mode": null}),
        ),
        (
            "--isolated --no-flood=false --no-learning=true",
            json!({"isolated": true, "no-flood": false, "no-learning": true}),
        ),
        ("--address 10.7.0.1/24 --address fd00::1/64", json!({"addresses": ["10.7.0.1/24", "fd00::1/64"]})),
        ("--address none --gateway none", json!({"addresses": [], "gateways": []})),
        ("--gateway 10.7.0.254 --gateway fe80::1", json!({"gateways": ["10.7.0.254", "fe80::1"]})),
        ("--label a=b --label c=", json!({"labels": {"a": "b", "c": null}})),
        (
            "--offload off --max-macs 7 --flood-limit none",
            json!({"offload": "off", "max-macs": 7, "flood-limit": null}),
        ),
        (
            "--netns 4711 --ifname eth0 --mac none --mtu 9000 --queues 2",
            json!({"netns": "4711", "ifname": "eth0", "mac": null, "mtu": 9000, "queues": 2}),
        ),
        ("--netns /run/netns/x --adopt", json!({"netns": "/run/netns/x", "adopt": true})),
        ("--interface eth1 --force", json!({"interface": "eth1", "force": true})),
        (
            "--file /a.pcap --rate 5 --count 6 --split-horizon-group 3",
            json!({"file": "/a.pcap", "rate": 5, "count": 6, "split-horizon-group": 3}),
        ),
        (
            "--remote 192.0.2.2 --remote 2001:db8:0::2 --local none --key 7 --vni none --mtu 1400",
            json!({"remotes": ["192.0.2.2", "2001:db8::2"], "local": null, "key": 7, "vni": null, "mtu": 1400}),
        ),
        (
            "--csum --seq=false --tos inherit --ttl 9 --no-df --no-mss-clamp=false --bfd --no-learning-remotes",
            json!({"csum": true, "seq": false, "tos": "inherit", "ttl": 9, "df": false, "mss-clamp": true,
                   "bfd": true, "learn-remotes": false}),
        ),
        (
            "--group 239.1.1.1 --group-interface eth0 --udp-csum --zero-csum6 --dst-port 8472 --bfd-interval 50",
            json!({"group": "239.1.1.1", "group-interface": "eth0", "udp-csum": true, "zero-csum6": true,
                   "dst-port": 8472, "bfd-interval": 50}),
        ),
        (
            "--vlan-map 1=2 --inner-vlan keep --bfd-multiplier none --underlay up",
            json!({"vlan-map": "1=2", "inner-vlan": "keep", "bfd-multiplier": null, "underlay": "up"}),
        ),
        ("--inner-vlan none --tos none", json!({"inner-vlan": null, "tos": null})),
    ] {
        assert_eq!(patch(options), expected, "{options}");
    }
    // The daemon runs elsewhere: paths are made absolute.
    let file = patch("--file a.pcap")["file"].as_str().unwrap().to_owned();
    assert!(file.starts_with('/') && file.ends_with("/a.pcap"), "{file}");
}

#[test]
fn directories_are_global() {
    let cli =
        Cli::try_parse_from(["trunkline", "bridge", "list", "--run-dir", "/a", "--state-dir", "/b"]).unwrap();
    assert_eq!((cli.run_dir.as_path(), cli.state_dir.as_path()), ("/a".as_ref(), "/b".as_ref()));
}

#[test]
fn workers_are_pinned_only_if_asked_for() {
    for (options, pinned) in [("", false), ("--pin", true)] {
        let line = format!("trunkline daemon {options}");
        let Command::Daemon(args) = Cli::try_parse_from(line.split_whitespace()).unwrap().command else {
            panic!()
        };
        assert_eq!(args.pin, pinned, "{options}");
    }
}

#[test]
fn options_of_layer_3_become_specs_and_patches() {
    let parse =
        |line: &str| Cli::try_parse_from(format!("trunkline {line}").split_whitespace()).unwrap().command;
    let gateway = |line: &str| match parse(line) {
        Command::Gateway(GatewayCommand::Set { name, options }) => (name.name(), json!(options.patch())),
        other => panic!("{other:?}"),
    };
    let (name, patch) = gateway(
        "gateway set br0 --vlan 10 --address 10.77.0.1/24 --dhcp-range 10.77.0.9-10.77.0.20 --dns none --icc=false \
         --reserve 02-AA-00-00-00-09=10.77.0.9 --reserve 02:aa:00:00:00:0a= --mac none --ra --mtu 1400",
    );
    assert_eq!(name, "br0.10");
    let expected = json!({
        "addresses": ["10.77.0.1/24"], "dhcp-range": "10.77.0.9-10.77.0.20", "dns": [], "icc": false, "mac": null,
        "reservations": {"02:aa:00:00:00:09": "10.77.0.9", "02:aa:00:00:00:0a": null}, "ra": true, "mtu": 1400
    });
    assert_eq!(patch, expected);
    let uplink = |line: &str| match parse(line) {
        Command::Uplink(UplinkCommand::Add { kind, options, .. }) => (kind, json!(options.patch())),
        other => panic!("{other:?}"),
    };
    assert_eq!(uplink("uplink add u --interface eth1").0, UplinkType::Own);
    let (kind, patch) = uplink("uplink add u --type shared --ports 50000-50999 --nd-proxy 2001:db8::/64");
    assert_eq!(
        (kind, patch),
        (UplinkType::Shared, json!({"ports": "50000-50999", "nd-proxy": ["2001:db8::/64"]}))
    );
    let rule = |line: &str| match parse(line) {
        Command::Nat(NatCommand::Masquerade(MasqueradeCommand::Add(options))) => options.spec(),
        Command::Nat(NatCommand::Publish(PublishCommand::Add(options))) => options.spec(),
        Command::Nat(NatCommand::Static(StaticCommand::Add(options))) => options.spec(),
        other => panic!("{other:?}"),
    };
    for (line, expected) in [
        (
            "nat masquerade add --from fd77::/64 --uplink u --nat66 --pool fd00::1-fd00::2 --ports 2000 --filtering address --bridge br0",
            json!({"type": "masquerade", "uplink": "u", "bridge": "br0", "from": "fd77::/64", "nat66": true,
                   "pool": "fd00::1-fd00::2", "ports": 2000, "filtering": "address"}),
        ),
        (
            "nat publish add --uplink u --proto udp --port 5000-5009 --to [fd77::2]:80-89 --external fd00::1",
            json!({"type": "publish", "uplink": "u", "proto": "udp", "port": "5000-5009", "to": "[fd77::2]:80-89",
                   "external": "fd00::1"}),
        ),
        (
            "nat static add --uplink u --inside 10.77.0.2 --external 192.0.2.9 --name web",
            json!({"type": "static", "uplink": "u", "inside": "10.77.0.2", "external": "192.0.2.9"}),
        ),
    ] {
        assert_eq!(rule(line), expected, "{line}");
    }
    let Command::Ct(CtCommand::Settings { settings, .. }) =
        parse("ct settings --limit 500 --liberal --udp-timeout none")
    else {
        panic!()
    };
    assert_eq!(json!(settings.patch()), json!({"limit": 500, "liberal": true, "udp-timeout": null}));
    for bad in [
        "gateway add br0 --vlan 0 --address 10.0.0.1/24",
        "nat publish add --uplink u --proto tcp --port 0 --to 10.0.0.1",
        "nat publish add --uplink u --proto tcp --port 80 --to web",
        "uplink add u --type both",
        "route add 10.0.0.0/8 --gateway br0 --uplink u",
    ] {
        assert!(Cli::try_parse_from(format!("trunkline {bad}").split(' ')).is_err(), "{bad}");
    }
}
