//! `trunkline bridge`.

use trunkline_control::model::{BridgeSpec, BridgeStatus, FdbCounters};
use trunkline_control::{Error, validate};

use super::{Context, Outcome, topology};
use crate::args::{BridgeCommand, BridgeOptions};
use crate::output::{Output, Table};

pub(super) async fn run(context: &Context<'_>, command: BridgeCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        BridgeCommand::Add { name, options } => {
            let mut spec = BridgeSpec::default();
            options.change(&mut spec);
            validate::bridge(&name, &spec)?;
            client.add_bridge(&name, &spec).await?;
        }
        BridgeCommand::Del { name, force } => client.del_bridge(&name, force).await?,
        BridgeCommand::Set { name, options } => {
            if options.ageing.is_none() && options.max_macs.is_none() {
                return Err(Error::invalid("nothing to set").hint("see: trunkline bridge set --help").into());
            }
            let mut spec = client.bridge(&name).await?.spec;
            options.change(&mut spec);
            client.put_bridge(&name, &spec).await?;
        }
        BridgeCommand::List(json) => {
            let bridges = client.bridges().await?;
            return if json.json { out.json(&bridges) } else { out.print(&list(&bridges, out)) };
        }
        BridgeCommand::Show { name, json } => {
            let bridge = client.bridge(&name).await?;
            if json.json {
                return out.json(&bridge);
            }
            let ports = client.ports(Some(&name)).await?;
            let stats = client.stats().await?;
            let statics = bridge.spec.static_fdb.iter();
            let statics: String = statics
                .map(|e| format!("  static {} in VLAN {} behind {}\n", e.mac, e.vlan, e.port))
                .collect();
            let counters = counters(&bridge.fdb);
            return out.print(&(topology::bridge(&bridge, &ports, &stats, out) + &counters + &statics));
        }
    }
    Ok(())
}

impl BridgeOptions {
    fn change(&self, spec: &mut BridgeSpec) {
        spec.ageing = self.ageing.unwrap_or(spec.ageing);
        spec.max_macs = self.max_macs.unwrap_or(spec.max_macs);
    }
}

/// What the bridge's FDB has done since the daemon started.
fn counters(fdb: &FdbCounters) -> String {
    let FdbCounters { learned, moved, evicted, refused, aged } = fdb;
    format!("  fdb: {learned} learned, {moved} moved, {evicted} evicted, {refused} refused, {aged} aged\n")
}

fn list(bridges: &[BridgeStatus], out: &Output) -> String {
    let mut table = Table::new(&["BRIDGE", ">PORTS", ">ADDRESSES", ">AGEING", "OWNER"]);
    for b in bridges {
        table.row([
            b.name.clone(),
            b.ports.len().to_string(),
            format!("{} of {}", b.macs, b.spec.max_macs),
            format!("{} s", b.spec.ageing),
            b.spec.owner.name().to_owned(),
        ]);
    }
    table.render(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fdb_says_what_it_did() {
        let fdb = FdbCounters { learned: 5, moved: 4, evicted: 3, refused: 2, aged: 1 };
        assert_eq!(counters(&fdb), "  fdb: 5 learned, 4 moved, 3 evicted, 2 refused, 1 aged\n");
    }

    #[test]
    fn a_list_is_a_table() {
        let bridge = |name: &str, ports: &[&str], macs| BridgeStatus {
            name: name.into(),
            spec: BridgeSpec::default(),
            ports: ports.iter().map(|p| (*p).to_owned()).collect(),
            macs,
            fdb: Default::default(),
        };
        let text = list(&[bridge("br0", &["a", "b"], 12), bridge("backbone", &[], 0)], &Output::plain());
        let expected = "\
BRIDGE    PORTS    ADDRESSES  AGEING  OWNER
br0           2  12 of 16384   300 s  cli
backbone      0   0 of 16384   300 s  cli
";
        assert_eq!(text, expected);
    }
}
