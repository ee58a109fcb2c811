//! `trunkline uplink`, `trunkline route` and `trunkline neighbour`.

use clap::ValueEnum as _;
use serde_json::{Map, Value, json};
use trunkline_control::model::keys::{self, L3Object, Object};
use trunkline_control::model::l3::{
    NeighbourRow, RouteOrigin, RouteSpec, RouteStatus, UplinkKind, UplinkSpec, UplinkStatus,
};
use trunkline_control::{Error, validate};

use super::{Context, Outcome, topology};
use crate::args::{NeighbourCommand, RouteCommand, UplinkCommand, UplinkType};
use crate::output::{Look, Output, Table};

pub(super) async fn run(context: &Context<'_>, command: UplinkCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        UplinkCommand::Add { name, kind, options } => {
            let spec = spec(&name, kind, options.patch())?;
            client.add(Some(&name), &spec).await?;
        }
        UplinkCommand::Set { name, options } => {
            let patch = options.patch();
            if patch.is_empty() {
                return Err(Error::invalid("nothing to set").hint("see: trunkline uplink set --help").into());
            }
            client.patch::<UplinkSpec>(&name, &patch.into()).await?;
        }
        UplinkCommand::Del { name } => client.del::<UplinkSpec>(&name).await?,
        UplinkCommand::List(json) => {
            let uplinks = client.list::<UplinkSpec>().await?;
            return if json.json { out.json(&uplinks) } else { out.print(&list(&uplinks, out)) };
        }
        UplinkCommand::Show { name, json } => {
            let uplink = client.show::<UplinkSpec>(&name).await?;
            return if json.json { out.json(&uplink) } else { out.print(&show(&uplink)) };
        }
    }
    Ok(())
}

/// The uplink that the options describe, checked as far as it can be without the daemon.
fn spec(name: &str, kind: UplinkType, mut options: Map<String, Value>) -> Result<UplinkSpec, Error> {
    options.retain(|_, value| !value.is_null());
    let type_name = kind.to_possible_value().map(|v| v.get_name().to_owned());
    options.insert("type".into(), type_name.into());
    let value = Value::Object(options);
    keys::check_spec("uplink", name, &value)?;
    let spec = keys::read(Object::L3(L3Object::Uplink(name, "")), value)?;
    validate::uplink(name, &spec)?;
    Ok(spec)
}

/// As users write the type.
pub(super) fn kind(spec: &UplinkSpec) -> &'static str {
    match spec.kind {
        UplinkKind::Own(_) => "own",
        UplinkKind::Host(_) => "host",
        UplinkKind::Shared(_) => "shared",
    }
}

fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn list(uplinks: &[UplinkStatus], out: &Output) -> String {
    let mut table =
        Table::new(&["UPLINK", "TYPE", "INTERFACE", "ADDRESSES", "GATEWAYS", "PORTS", "STATE", "OWNER"]);
    for u in uplinks {
        let plain = |text: String| (Look::Plain, text);
        table.row([
            plain(u.name.clone()),
            plain(kind(&u.spec).to_owned()),
            plain(u.interface.clone().unwrap_or_default()),
            plain(joined(&u.addresses)),
            plain(joined(&u.gateways)),
            plain(joined(&u.ports)),
            topology::state(u.state),
            plain(u.spec.owner.name().to_owned()),
        ]);
        for (look, text) in [(Look::Bad, &u.reason), (Look::Dim, &u.warning)] {
            if !text.is_empty() {
                table.note(look, text);
            }
        }
    }
    table.render(out)
}

fn show(uplink: &UplinkStatus) -> String {
    let lines = [
        ("uplink", uplink.name.clone()),
        ("type", kind(&uplink.spec).to_owned()),
        ("interface", uplink.interface.clone().unwrap_or_default()),
        ("state", topology::state(uplink.state).1),
        ("reason", uplink.reason.clone()),
        ("warning", uplink.warning.clone()),
        ("addresses", joined(&uplink.addresses)),
        ("gateways", joined(&uplink.gateways)),
        ("ports", joined(&uplink.ports)),
        ("mac", uplink.mac.clone().unwrap_or_default()),
        ("mtu", if uplink.mtu == 0 { String::new() } else { uplink.mtu.to_string() }),
        ("nd-proxy", joined(&uplink.spec.nd_proxy)),
        ("owner", uplink.spec.owner.name().to_owned()),
    ];
    super::in_lines(&lines)
}

pub(super) async fn route(context: &Context<'_>, command: RouteCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        RouteCommand::Add { prefix, via, gateway, uplink, metric, name } => {
            let shown = name.as_deref().unwrap_or("new");
            let mut value = json!({ "prefix": prefix, "via": via, "gateway": gateway, "uplink": uplink, "metric": metric });
            if let Some(map) = value.as_object_mut() {
                map.retain(|_, v| !v.is_null());
            }
            let spec: RouteSpec = keys::read(Object::L3(L3Object::Route(shown)), value)?;
            validate::route(shown, &spec)?;
            client.add(name.as_deref(), &spec).await?;
            Ok(())
        }
        RouteCommand::Del { route } => {
            let name = if route.contains('/') {
                by_prefix(&client.list::<RouteSpec>().await?, &route)?
            } else {
                route
            };
            Ok(client.del::<RouteSpec>(&name).await?)
        }
        RouteCommand::List(json) => {
            let routes = client.list::<RouteSpec>().await?;
            if json.json { out.json(&routes) } else { out.print(&routes_table(&routes, out)) }
        }
    }
}

/// The name of the one route that was made to a prefix.
fn by_prefix(routes: &[RouteStatus], prefix: &str) -> Result<String, Error> {
    let same = |r: &&RouteStatus| r.prefix.to_string() == prefix;
    let named: Vec<_> = routes.iter().filter(same).filter_map(|r| r.name.clone()).collect();
    match &named[..] {
        [name] => Ok(name.clone()),
        [] if routes.iter().any(|r| same(&r)) => {
            Err(Error::invalid(format!("the route to {prefix} is implied"))
                .hint("it goes with the gateway or uplink that implies it"))
        }
        [] => {
            Err(Error::not_found(format!("there is no route to {prefix}")).hint("see: trunkline route list"))
        }
        many => Err(Error::invalid(format!("there are {} routes to {prefix}", many.len()))
            .hint(format!("name the one: {}", many.join(", ")))),
    }
}

fn routes_table(routes: &[RouteStatus], out: &Output) -> String {
    if routes.is_empty() {
        return "no routes; they come with gateways and uplinks: trunkline gateway add --help\n".to_owned();
    }
    let mut table = Table::new(&["PREFIX", "VIA", "INTO", ">METRIC", "ORIGIN", "STATE", "NAME", "OWNER"]);
    for r in routes {
        let into = match (&r.gateway, &r.uplink) {
            (Some(gateway), _) => format!("gateway {gateway}"),
            (None, Some(uplink)) => format!("uplink {uplink}"),
            (None, None) => String::new(),
        };
        let origin = match r.origin {
            RouteOrigin::Static => "static",
            RouteOrigin::Connected => "connected",
            RouteOrigin::Default => "default",
            RouteOrigin::Host => "host",
        };
        let plain = |text: String| (Look::Plain, text);
        table.row([
            plain(r.prefix.to_string()),
            plain(r.via.map_or_else(|| "-".to_owned(), |via| via.to_string())),
            plain(into),
            plain(r.metric.to_string()),
            plain(origin.to_owned()),
            topology::state(r.state),
            plain(r.name.clone().unwrap_or_default()),
            plain(r.owner.map_or_else(String::new, |o| o.name().to_owned())),
        ]);
        if !r.reason.is_empty() {
            table.note(Look::Bad, &r.reason);
        }
    }
    table.render(out)
}

pub(super) async fn neighbour(context: &Context<'_>, command: NeighbourCommand) -> Outcome {
    let Context { client, out } = context;
    let NeighbourCommand::List(json) = command;
    let rows = client.neighbours().await?;
    if json.json { out.json(&rows) } else { out.print(&neighbours(&rows, out)) }
}

fn neighbours(rows: &[NeighbourRow], out: &Output) -> String {
    if rows.is_empty() {
        return "no neighbours\n".to_owned();
    }
    let mut table = Table::new(&["ADDRESS", "MAC", "OF", "STATE"]);
    for row in rows {
        let of = match (&row.gateway, &row.uplink) {
            (Some(gateway), _) => format!("gateway {gateway}"),
            (None, Some(uplink)) => format!("uplink {uplink}"),
            (None, None) => String::new(),
        };
        let mac = row.mac.clone().unwrap_or_else(|| "-".to_owned());
        table.row([row.address.to_string(), mac, of, row.state.clone()]);
    }
    table.render(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Vec<RouteStatus> {
        serde_json::from_value(json!([
            {"prefix": "10.77.0.0/24", "gateway": "br0", "metric": 0, "origin": "connected", "state": "up"},
            {"prefix": "0.0.0.0/0", "via": "192.0.2.1", "uplink": "up0", "metric": 0, "origin": "default", "state": "down",
             "reason": "uplink up0 is down"},
            {"name": "lab", "owner": "cli", "prefix": "10.9.0.0/16", "via": "10.77.0.2", "gateway": "br0", "metric": 5,
             "origin": "static", "state": "up"},
        ]))
        .unwrap()
    }

    #[test]
    fn routes_are_a_table() {
        let expected = "\
PREFIX        VIA        INTO         METRIC  ORIGIN     STATE  NAME  OWNER
10.77.0.0/24  -          gateway br0       0  connected  up
0.0.0.0/0     192.0.2.1  uplink up0        0  default    down
  uplink up0 is down
10.9.0.0/16   10.77.0.2  gateway br0       5  static     up     lab   cli
";
        assert_eq!(routes_table(&routes(), &Output::plain()), expected);
    }

    #[test]
    fn a_route_is_found_by_its_prefix() {
        assert_eq!(by_prefix(&routes(), "10.9.0.0/16").unwrap(), "lab");
        let error = |prefix: &str| by_prefix(&routes(), prefix).unwrap_err().to_string();
        assert!(error("10.77.0.0/24").starts_with("the route to 10.77.0.0/24 is implied; "));
        assert!(error("10.8.0.0/16").starts_with("there is no route to 10.8.0.0/16; "));
    }

    #[test]
    fn uplinks_are_listed_and_shown() {
        let uplink: UplinkStatus = serde_json::from_value(json!({
            "name": "world", "spec": {"type": "shared", "nd-proxy": ["2001:db8:1::/64"]}, "state": "up", "interface": "eth0",
            "mac": "02:00:00:00:00:05", "mtu": 1500, "addresses": ["192.0.2.10/24"], "gateways": ["192.0.2.1"],
            "ports": ["61000-64999", 8080], "warning": "the host listens on port 61000"
        }))
        .unwrap();
        let expected = "\
UPLINK  TYPE    INTERFACE  ADDRESSES      GATEWAYS   PORTS             STATE  OWNER
world   shared  eth0       192.0.2.10/24  192.0.2.1  61000-64999 8080  up     cli
  the host listens on port 61000
";
        assert_eq!(list(std::slice::from_ref(&uplink), &Output::plain()), expected);
        let expected = "\
uplink      world
type        shared
interface   eth0
state       up
warning     the host listens on port 61000
addresses   192.0.2.10/24
gateways    192.0.2.1
ports       61000-64999 8080
mac         02:00:00:00:00:05
mtu         1500
nd-proxy    2001:db8:1::/64
owner       cli
";
        assert_eq!(show(&uplink), expected);
    }

    #[test]
    fn wrong_uplinks_are_refused_without_a_daemon() {
        let error = |kind, options: Value| {
            let Value::Object(options) = options else { panic!() };
            spec("up0", kind, options).unwrap_err().to_string()
        };
        assert_eq!(error(UplinkType::Own, json!({})), "uplink up0: missing key 'interface'");
        assert_eq!(
            error(UplinkType::Own, json!({"interface": "eth1"})),
            "uplink up0: it has no address of the switch's own; give one like 192.0.2.10/24, or share the host's with --type shared"
        );
        assert_eq!(
            error(UplinkType::Shared, json!({"addresses": ["192.0.2.1/24"]})),
            "uplink up0: type shared has no key 'addresses'; it belongs to type own or host"
        );
    }
}
