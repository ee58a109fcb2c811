//! `trunkline gateway` and `trunkline dhcp`.

use serde_json::{Map, Value};
use trunkline_control::model::keys::{self, L3Object, Object};
use trunkline_control::model::l3::{GatewaySpec, GatewayStatus, LeaseRow};
use trunkline_control::{Error, validate};

use super::{Context, Outcome, topology};
use crate::args::{DhcpCommand, GatewayCommand};
use crate::output::{Look, Output, Table, duration, plural};

pub(super) async fn run(context: &Context<'_>, command: GatewayCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        GatewayCommand::Add { name, options } => {
            let name = name.name();
            let spec = spec(&name, options.patch())?;
            client.add(Some(&name), &spec).await?;
        }
        GatewayCommand::Set { name, options } => {
            let patch = options.patch();
            if patch.is_empty() {
                return Err(Error::invalid("nothing to set")
                    .hint("see: trunkline gateway set --help")
                    .into());
            }
            client.patch::<GatewaySpec>(&name.name(), &patch.into()).await?;
        }
        GatewayCommand::Del { name } => client.del::<GatewaySpec>(&name.name()).await?,
        GatewayCommand::List(json) => {
            let gateways = client.list::<GatewaySpec>().await?;
            return if json.json { out.json(&gateways) } else { out.print(&list(&gateways, out)) };
        }
        GatewayCommand::Show { name, json } => {
            let gateway = client.show::<GatewaySpec>(&name.name()).await?;
            return if json.json { out.json(&gateway) } else { out.print(&show(&gateway)) };
        }
    }
    Ok(())
}

/// The gateway that the options describe, checked as far as it can be without the daemon.
fn spec(name: &str, mut patch: Map<String, Value>) -> Result<GatewaySpec, Error> {
    patch.retain(|_, value| !value.is_null());
    patch.entry("addresses").or_insert_with(|| Value::Array(Vec::new()));
    let spec = keys::read(Object::L3(L3Object::Gateway(name)), patch.into())?;
    validate::gateway(name, &spec)?;
    Ok(spec)
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn vlan(gateway: &GatewayStatus) -> String {
    gateway.vlan.map_or_else(|| "-".to_owned(), |vlan| vlan.to_string())
}

fn list(gateways: &[GatewayStatus], out: &Output) -> String {
    let mut table = Table::new(&["GATEWAY", "BRIDGE", ">VLAN", "ADDRESSES", "STATE", "SERVES", "OWNER"]);
    for g in gateways {
        let plain = |text: String| (Look::Plain, text);
        table.row([
            plain(g.name.clone()),
            plain(g.bridge.clone()),
            plain(vlan(g)),
            plain(joined(&g.spec.addresses)),
            topology::state(g.state),
            plain(serves(&g.spec)),
            plain(g.spec.owner.name().to_owned()),
        ]);
        if !g.reason.is_empty() {
            table.note(Look::Bad, &g.reason);
        }
    }
    table.render(out)
}

fn serves(spec: &GatewaySpec) -> String {
    let words = [(spec.has_dhcp(), "dhcp"), (spec.ra, "ra")];
    words.iter().filter(|(on, _)| *on).map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
}

fn show(gateway: &GatewayStatus) -> String {
    let spec = &gateway.spec;
    let optional = |n: Option<u32>, unit: &str| n.map_or_else(String::new, |n| format!("{n}{unit}"));
    let mut lines: Vec<(&str, String)> = vec![
        ("gateway", gateway.name.clone()),
        ("bridge", gateway.bridge.clone()),
        ("vlan", gateway.vlan.map_or_else(String::new, |v| v.to_string())),
        ("state", topology::state(gateway.state).1),
        ("reason", gateway.reason.clone()),
        ("addresses", joined(&spec.addresses)),
        ("mac", spec.mac.clone().unwrap_or_default()),
        ("mtu", topology::mtu(gateway.mtu, &gateway.mtu_why)),
        ("icc", if spec.icc { String::new() } else { "false: hosts reach only the gateway".into() }),
        ("private", if spec.private { "true: not routed to other bridges".into() } else { String::new() }),
        ("dhcp", spec.dhcp_range.map_or_else(String::new, |r| r.to_string())),
        ("lease", optional(spec.dhcp_lease, " s")),
        ("leases", if spec.has_dhcp() { gateway.leases.to_string() } else { String::new() }),
    ];
    let reserved: Vec<_> = spec.reservations.iter().map(|(mac, addr)| format!("{mac}={addr}")).collect();
    lines.push(("reserved", reserved.join(" ")));
    lines.push(("ra", if spec.ra { "true".into() } else { String::new() }));
    lines.push(("dns", joined(&spec.dns)));
    lines.push(("domain", spec.domain.clone().unwrap_or_default()));
    lines.push(("owner", spec.owner.name().to_owned()));
    super::in_lines(&lines)
}

pub(super) async fn dhcp(context: &Context<'_>, command: DhcpCommand) -> Outcome {
    let Context { client, out } = context;
    let DhcpCommand::Leases(json) = command;
    let rows = client.leases().await?;
    if json.json { out.json(&rows) } else { out.print(&leases(&rows, out)) }
}

fn leases(rows: &[LeaseRow], out: &Output) -> String {
    if rows.is_empty() {
        return "no leases\n".to_owned();
    }
    let mut table = Table::new(&["GATEWAY", "ADDRESS", "MAC", "NAME", ">ENDS IN", "RESERVED"]);
    for row in rows {
        table.row([
            row.gateway.clone(),
            row.address.to_string(),
            row.mac.clone(),
            row.hostname.clone(),
            row.expires.map_or_else(|| "-".to_owned(), duration),
            if row.reserved { "yes".to_owned() } else { String::new() },
        ]);
    }
    table.render(out) + &format!("{}\n", plural(rows.len() as u64, "address", "es"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(spec: Value) -> GatewayStatus {
        let status = json!({ "name": "br0.10", "bridge": "br0", "vlan": 10, "state": "up", "mtu": 1500, "leases": 2, "spec": spec });
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn gateways_are_listed_and_shown() {
        let gateway = status(json!({
            "addresses": ["10.77.0.1/24", "fd77::1/64"], "mac": "02:00:00:00:00:02", "icc": false, "ra": true,
            "dhcp-range": "10.77.0.100-10.77.0.199", "dns": ["9.9.9.9"], "domain": "lab.example",
            "reservations": {"02:00:00:00:00:09": "10.77.0.9"}
        }));
        let expected = "\
GATEWAY  BRIDGE  VLAN  ADDRESSES                STATE  SERVES   OWNER
br0.10   br0       10  10.77.0.1/24 fd77::1/64  up     dhcp ra  cli
";
        assert_eq!(list(std::slice::from_ref(&gateway), &Output::plain()), expected);
        let expected = "\
gateway     br0.10
bridge      br0
vlan        10
state       up
addresses   10.77.0.1/24 fd77::1/64
mac         02:00:00:00:00:02
mtu         1500
icc         false: hosts reach only the gateway
dhcp        10.77.0.100-10.77.0.199
leases      2
reserved    02:00:00:00:00:09=10.77.0.9
ra          true
dns         9.9.9.9
domain      lab.example
owner       cli
";
        assert_eq!(show(&gateway), expected);
    }

    #[test]
    fn leases_are_a_table() {
        let rows: Vec<LeaseRow> = serde_json::from_value(json!([
            {"gateway": "br0", "address": "10.77.0.100", "mac": "02:00:00:00:00:09", "hostname": "web", "expires": 3599},
            {"gateway": "br0", "address": "10.77.0.9", "mac": "02:00:00:00:00:0a", "reserved": true},
        ]))
        .unwrap();
        let expected = "\
GATEWAY  ADDRESS      MAC                NAME  ENDS IN  RESERVED
br0      10.77.0.100  02:00:00:00:00:09  web    59 min
br0      10.77.0.9    02:00:00:00:00:0a              -  yes
2 addresses
";
        assert_eq!(leases(&rows, &Output::plain()), expected);
        assert_eq!(leases(&[], &Output::plain()), "no leases\n");
    }

    #[test]
    fn wrong_gateways_are_refused_without_a_daemon() {
        let error = spec("br0", Map::new()).unwrap_err().to_string();
        assert_eq!(error, "gateway br0: it has no address; give one like 10.77.0.1/24 or fd77::1/64");
    }
}
