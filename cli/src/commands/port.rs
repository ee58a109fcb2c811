//! `trunkline port`.

use clap::ValueEnum as _;
use serde_json::{Map, Value};
use trunkline_control::model::keys::{self, Object};
use trunkline_control::model::{Follow, PortKind, PortSpec, PortStats, PortStatus, TapSpec};
use trunkline_control::{Error, validate};

use super::{Context, Outcome, counters, topology, tunnel};
use crate::args::{PortCommand, PortType};
use crate::output::{Look, Output, Table, plural};

pub(super) async fn run(context: &Context<'_>, command: PortCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        PortCommand::Add { bridge, name, kind, options, tunnel } => {
            let patch = options.patch().into_iter().chain(tunnel.patch()).collect();
            let spec = spec(&name, &bridge, kind, patch, Map::new())?;
            client.add_port(&name, &spec).await?;
        }
        PortCommand::Del { name } => client.del_port(&name).await?,
        PortCommand::Set { name, bridge, options, tunnel } => {
            let mut patch = options.patch();
            patch.extend(tunnel.patch());
            patch.extend(bridge.map(|b| ("bridge".to_owned(), b.into())));
            if patch.is_empty() {
                return Err(Error::invalid("nothing to set").hint("see: trunkline port set --help").into());
            }
            client.patch_port(&name, &patch.into()).await?;
        }
        PortCommand::List { bridge, json } => {
            let ports = client.ports(bridge.as_deref()).await?;
            return if json.json { out.json(&ports) } else { out.print(&list(&ports, out)) };
        }
        PortCommand::Show { name, json } => {
            let port = client.port(&name).await?;
            if json.json {
                return out.json(&port);
            }
            let stats = client.port_stats(&name).await?;
            return out.print(&show(&port, &stats));
        }
    }
    Ok(())
}

/// The port that the options describe, checked as far as it can be without the daemon.
pub(super) fn spec(
    name: &str,
    bridge: &str,
    kind: PortType,
    options: Map<String, Value>,
    labels: Map<String, Value>,
) -> Result<PortSpec, Error> {
    let mut map: Map<String, Value> = options.into_iter().filter(|(_, v)| !v.is_null()).collect();
    let type_name = kind.to_possible_value().map(|v| v.get_name().to_owned());
    map.insert("bridge".into(), bridge.into());
    map.insert("type".into(), type_name.into());
    if kind == PortType::Afpacket {
        map.entry("interface").or_insert_with(|| name.into());
    }
    if let Value::Object(all) = map.entry("labels").or_insert_with(|| Value::Object(Map::new())) {
        all.retain(|_, v| !v.is_null());
        all.extend(labels);
    }
    let value = Value::Object(map);
    keys::check_port(name, &value)?;
    let spec = keys::read(Object::Port(name, ""), value)?;
    validate::port(name, &spec)?;
    Ok(spec)
}

fn list(ports: &[PortStatus], out: &Output) -> String {
    let heads = ["PORT", "BRIDGE", "TYPE", "INTERFACE", "VLAN", "STATE", "MAC", ">MTU", ">LEARNED", "OWNER"];
    let mut table = Table::new(&heads);
    for p in ports {
        let plain = |text: String| (Look::Plain, text);
        table.row([
            plain(p.name.clone()),
            plain(p.spec.bridge.clone()),
            plain(topology::kind(&p.spec).to_owned()),
            plain(topology::interface(&p.name, &p.spec)),
            plain(topology::vlan(&p.spec)),
            topology::state(p.state),
            plain(p.mac.clone().unwrap_or_default()),
            plain(if p.mtu == 0 { String::new() } else { p.mtu.to_string() }),
            plain(p.macs.to_string()),
            plain(p.spec.owner.name().to_owned()),
        ]);
        if !p.reason.is_empty() {
            table.note(Look::Bad, &p.reason);
        }
    }
    table.render(out)
}

fn show(port: &PortStatus, stats: &PortStats) -> String {
    let spec = &port.spec;
    let mut lines: Vec<(&str, String)> = vec![
        ("port", port.name.clone()),
        ("bridge", spec.bridge.clone()),
        ("type", topology::kind(spec).to_owned()),
        ("interface", topology::interface(&port.name, spec)),
        ("state", topology::state(port.state).1),
        ("reason", port.reason.clone()),
        ("follows", follows(spec)),
        ("vlan", topology::vlan(spec)),
        ("mac", port.mac.clone().unwrap_or_default()),
        ("mtu", topology::mtu(port.mtu, &port.mtu_why)),
        ("addresses", topology::addresses(spec)),
    ];
    if let PortKind::Tap(TapSpec { link, .. })
    | PortKind::Host(trunkline_control::model::HostSpec { link, .. }) = &spec.kind
    {
        let gateways: Vec<_> = link.gateways.iter().map(ToString::to_string).collect();
        lines.push(("gateways", gateways.join(" ")));
    }
    lines.extend(tunnel::lines(port));
    lines.push(("offloads", port.offloads.join(" ")));
    lines.push(("queues", if port.queues == 0 { String::new() } else { port.queues.to_string() }));
    lines.push(("learned", plural(port.macs, "address", "es")));
    lines.push(("options", options(spec)));
    lines.push(("anti-spoof", anti_spoof(port)));
    let labels: Vec<_> = spec.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
    lines.push(("labels", labels.join(" ")));
    lines.push(("owner", spec.owner.name().to_owned()));
    let width = 12;
    let text: String =
        lines.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k:width$}{v}\n")).collect();
    text + &counters::in_full(stats, width)
}

/// What it follows, and where that is.
fn follows(spec: &PortSpec) -> String {
    match &spec.kind {
        PortKind::Tap(TapSpec { follow: Some(follow @ Follow::Netns(_)), .. }) => follow.to_string(),
        PortKind::Tap(TapSpec { follow: Some(follow), netns: Some(pid), .. }) => {
            format!("{follow}, pid {pid}")
        }
        PortKind::Tap(TapSpec { follow: Some(follow), .. }) => follow.to_string(),
        _ => String::new(),
    }
}

/// What the port is held to.
fn anti_spoof(port: &PortStatus) -> String {
    let words: Vec<_> = port.spec.anti_spoof.iter().map(ToString::to_string).collect();
    let leased: Vec<_> = port.leased.iter().map(ToString::to_string).collect();
    match leased.is_empty() {
        true => words.join(" "),
        false => format!("{} (leased: {})", words.join(" "), leased.join(" ")),
    }
}

/// What is not as it is by default.
fn options(spec: &PortSpec) -> String {
    let mut words = Vec::new();
    let flags = [(spec.isolated, "isolated"), (spec.no_learning, "no-learning"), (spec.no_flood, "no-flood")];
    words.extend(flags.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()));
    let numbers = [
        ("split-horizon-group", spec.split_horizon_group),
        ("max-macs", spec.max_macs),
        ("flood-limit", spec.flood_limit),
    ];
    words.extend(numbers.iter().filter_map(|(name, n)| n.map(|n| format!("{name}={n}"))));
    if spec.offload == trunkline_control::model::OffloadMode::Off {
        words.push("offload=off".into());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::topology::samples;

    #[test]
    fn a_list_is_a_table() {
        let expected = "\
PORT    BRIDGE  TYPE      INTERFACE    VLAN         STATE  MAC                 MTU  LEARNED  OWNER
br0     br0     host      br0          trunk        up     02:00:00:00:00:01  1500        3  cli
uplink  br0     afpacket  eth1         trunk 10,20  down                                  3  cli
  eth1 does not exist
web     br0     tap       eth0 in web  10           up     02:00:00:00:00:01  1500        3  cli
";
        assert_eq!(list(&samples::ports(), &Output::plain()), expected);
    }

    #[test]
    fn a_port_is_shown_in_full() {
        let expected = "\
port        web
bridge      br0
type        tap
interface   eth0 in web
state       up
vlan        10
mac         02:00:00:00:00:01
mtu         1500
addresses   10.7.0.1/24
gateways    10.7.0.254
offloads    csum tso4
queues      1
learned     3 addresses
options     isolated max-macs=9 offload=off
labels      container=web
owner       cli
received    1200 packets, 9000 bytes
sent        7 packets, 800 bytes, 9 frames
copied      4 packets for floods
dropped     2 vlan-filtered
";
        assert_eq!(show(&samples::ports()[2], &samples::stats("web")), expected);
    }

    #[test]
    fn wrong_options_are_refused_without_a_daemon() {
        use crate::args::{Cli, Command};
        use clap::Parser as _;
        for (options, says) in [
            ("--type tap --vlan 5000", "port web: VLAN 5000 is out of range; use 1 to 4094"),
            ("--type tap --vlan 70000", "vlan in port web: VLAN 70000 is out of range; use 1 to 4094"),
            (
                "--type null --netns x",
                "port web: a port of type null has no key 'netns'; it belongs to type tap",
            ),
            ("--type replay", "port web: missing key 'file'"),
            (
                "--type gre",
                "port web: a tunnel needs a remote; give the other host's address, or for vxlan a multicast group",
            ),
            (
                "--type tap --remote 192.0.2.2",
                "port web: a port of type tap has no key 'remotes'; it belongs to type gre or nvgre or vxlan or geneve",
            ),
        ] {
            let line = format!("trunkline port add br0 web {options}");
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            let Command::Port(PortCommand::Add { bridge, name, kind, options, tunnel }) = cli.command else {
                panic!()
            };
            let patch = options.patch().into_iter().chain(tunnel.patch()).collect();
            assert_eq!(spec(&name, &bridge, kind, patch, Map::new()).unwrap_err().to_string(), says);
        }
    }
}
