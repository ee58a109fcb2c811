//! `trunkline nat`.

use serde_json::Value;
use trunkline_control::model::keys::{self, L3Object, Object};
use trunkline_control::model::l3::{NatKind, NatSpec, NatStatus};
use trunkline_control::{Error, validate};

use super::{Context, Outcome, topology};
use crate::args::{MasqueradeCommand, NatCommand, PublishCommand, StaticCommand};
use crate::output::{Look, Output, Table, bytes, count};

pub(super) async fn run(context: &Context<'_>, command: NatCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        NatCommand::Masquerade(MasqueradeCommand::Add(options)) => {
            add(context, options.common.name.as_deref(), options.spec()).await
        }
        NatCommand::Publish(PublishCommand::Add(options)) => {
            add(context, options.common.name.as_deref(), options.spec()).await
        }
        NatCommand::Static(StaticCommand::Add(options)) => {
            add(context, options.common.name.as_deref(), options.spec()).await
        }
        NatCommand::Masquerade(MasqueradeCommand::Del { from, uplink }) => {
            let like =
                |spec: &NatSpec| matches!(&spec.kind, NatKind::Masquerade(m) if m.from.to_string() == from);
            del(context, uplink.as_deref(), &format!("masquerade from {from}"), &like).await
        }
        NatCommand::Publish(PublishCommand::Del { proto, port, uplink, external }) => {
            let proto = format!("{proto:?}").to_lowercase();
            let like = |spec: &NatSpec| match &spec.kind {
                NatKind::Publish(p) => {
                    let here = |e: &String| p.external.is_some_and(|a| a.to_string() == *e);
                    p.proto.name() == proto && p.port == port && external.as_ref().is_none_or(here)
                }
                _ => false,
            };
            del(context, uplink.as_deref(), &format!("published {proto} port {port}"), &like).await
        }
        NatCommand::Static(StaticCommand::Del { external, uplink }) => {
            let like = |spec: &NatSpec| matches!(&spec.kind, NatKind::Static(s) if s.external.to_string() == external);
            del(context, uplink.as_deref(), &format!("static translation of {external}"), &like).await
        }
        NatCommand::Del { name } => Ok(client.del::<NatSpec>(&name).await?),
        NatCommand::List(json) => {
            let rules = client.list::<NatSpec>().await?;
            if json.json { out.json(&rules) } else { out.print(&list(&rules, out)) }
        }
    }
}

async fn add(context: &Context<'_>, name: Option<&str>, spec: Value) -> Outcome {
    let shown = name.unwrap_or("new");
    let spec: NatSpec = keys::read(Object::L3(L3Object::Nat(shown, "")), spec)?;
    validate::nat(shown, &spec)?;
    context.client.add(name, &spec).await?;
    Ok(())
}

/// Removes the one rule that is like that.
async fn del(
    context: &Context<'_>,
    uplink: Option<&str>,
    what: &str,
    like: &(dyn Fn(&NatSpec) -> bool + Sync),
) -> Outcome {
    let name = the_one(&context.client.list::<NatSpec>().await?, uplink, what, like)?;
    Ok(context.client.del::<NatSpec>(&name).await?)
}

fn the_one(
    rules: &[NatStatus],
    uplink: Option<&str>,
    what: &str,
    like: &(dyn Fn(&NatSpec) -> bool + Sync),
) -> Result<String, Error> {
    let fits = |r: &&NatStatus| like(&r.spec) && uplink.is_none_or(|u| u == r.spec.uplink);
    let names: Vec<_> = rules.iter().filter(fits).map(|r| r.name.clone()).collect();
    match &names[..] {
        [name] => Ok(name.clone()),
        [] => Err(Error::not_found(format!("there is no {what}")).hint("see: trunkline nat list")),
        many => Err(Error::invalid(format!("there are {} rules like that: {}", many.len(), many.join(", ")))
            .hint("remove the one by its name: trunkline nat del NAME")),
    }
}

/// What a rule does, in short.
fn what(spec: &NatSpec) -> String {
    match &spec.kind {
        NatKind::Masquerade(m) => {
            let ports = m.ports.map_or_else(String::new, |p| format!(" ports {p}"));
            format!("from {}{ports}", m.from)
        }
        NatKind::Publish(p) => format!("{} {} to {}", p.proto.name(), p.port, p.to),
        NatKind::Static(s) => format!("{} is {}", s.external, s.inside),
    }
}

fn kind(spec: &NatSpec) -> &'static str {
    match spec.kind {
        NatKind::Masquerade(_) => "masquerade",
        NatKind::Publish(_) => "publish",
        NatKind::Static(_) => "static",
    }
}

fn list(rules: &[NatStatus], out: &Output) -> String {
    if rules.is_empty() {
        return "no rules; make one with: trunkline nat masquerade add --from 10.77.0.0/24 --uplink up0\n"
            .to_owned();
    }
    let heads = [
        "NAME", "TYPE", "UPLINK", "WHAT", "EXTERNAL", "BRIDGE", "STATE", ">FLOWS", ">PACKETS", ">BYTES",
        "OWNER",
    ];
    let mut table = Table::new(&heads);
    for r in rules {
        let external = match &r.external[..] {
            [] => String::new(),
            [one] => one.to_string(),
            [first, .., last] => format!("{first}-{last}"),
        };
        let plain = |text: String| (Look::Plain, text);
        table.row([
            plain(r.name.clone()),
            plain(kind(&r.spec).to_owned()),
            plain(r.spec.uplink.clone()),
            plain(what(&r.spec)),
            plain(external),
            plain(r.bridges.join(" ")),
            topology::state(r.state),
            plain(count(r.flows)),
            plain(count(r.packets)),
            plain(bytes(r.bytes)),
            plain(r.spec.owner.name().to_owned()),
        ]);
        if !r.reason.is_empty() {
            table.note(Look::Bad, &r.reason);
        }
    }
    table.render(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rules() -> Vec<NatStatus> {
        let rule = |name: &str, state: &str, spec: Value, external: &[&str]| {
            json!({ "name": name, "spec": spec, "state": state, "bridges": ["br0"], "external": external,
                    "flows": 12, "packets": 3400, "bytes": 5_000_000,
                    "reason": if state == "down" { "uplink up0 is down" } else { "" } })
        };
        let masquerade = json!({"type": "masquerade", "uplink": "up0", "from": "10.77.0.0/24"});
        let publish =
            json!({"type": "publish", "uplink": "up0", "proto": "tcp", "port": 8080, "to": "10.77.0.2:80"});
        serde_json::from_value(json!([
            rule("masquerade-10.77.0.0-24", "up", masquerade, &["192.0.2.10", "192.0.2.11"]),
            rule("publish-tcp-8080", "down", publish, &[]),
        ]))
        .unwrap()
    }

    #[test]
    fn rules_are_a_table() {
        let expected = "\
NAME                     TYPE        UPLINK  WHAT                      EXTERNAL               BRIDGE  STATE  FLOWS  PACKETS   BYTES  OWNER
masquerade-10.77.0.0-24  masquerade  up0     from 10.77.0.0/24         192.0.2.10-192.0.2.11  br0     up        12     3.4k  5.0 MB  cli
publish-tcp-8080         publish     up0     tcp 8080 to 10.77.0.2:80                         br0     down      12     3.4k  5.0 MB  cli
  uplink up0 is down
";
        assert_eq!(list(&rules(), &Output::plain()), expected);
    }

    #[test]
    fn a_rule_is_found_by_what_it_says() {
        let masquerade = |spec: &NatSpec| matches!(spec.kind, NatKind::Masquerade(_));
        let find = |uplink, like: &(dyn Fn(&NatSpec) -> bool + Sync)| the_one(&rules(), uplink, "rule", like);
        assert_eq!(find(None, &masquerade).unwrap(), "masquerade-10.77.0.0-24");
        assert_eq!(find(Some("up9"), &masquerade).unwrap_err().message, "there is no rule");
        assert!(find(None, &|_| true).unwrap_err().message.starts_with("there are 2 rules like that: "));
    }
}
