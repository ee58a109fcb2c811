//! `trunkline fdb`.

use trunkline_control::model::{FdbRow, StaticFdb};

use super::{Context, Outcome};
use crate::args::FdbCommand;
use crate::output::{Output, Table};

pub(super) async fn run(context: &Context<'_>, command: FdbCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        FdbCommand::Show { bridge, filter, json } => {
            let rows = client.fdb(&bridge, filter.vlan, filter.port.as_deref()).await?;
            if json.json { out.json(&rows) } else { out.print(&show(&rows, out)) }
        }
        FdbCommand::Add { bridge, mac, port, vlan, remote } => {
            Ok(client.add_fdb(&bridge, &StaticFdb { mac, vlan, port, remote }).await?)
        }
        FdbCommand::Del { bridge, mac, vlan } => Ok(client.del_fdb(&bridge, vlan, &mac).await?),
        FdbCommand::Flush { bridge, filter } => {
            let flushed = client.flush_fdb(&bridge, filter.vlan, filter.port.as_deref()).await?;
            out.print(&format!("{flushed} forgotten\n"))
        }
    }
}

fn show(rows: &[FdbRow], out: &Output) -> String {
    let mut table = Table::new(&[">VLAN", "ADDRESS", "PORT", ">AGE"]);
    for row in rows {
        let vlan = if row.vlan == 0 { "-".to_owned() } else { row.vlan.to_string() };
        let age = match row.age {
            _ if row.is_static => "static".to_owned(),
            Some(age) => format!("{age} s"),
            None => String::new(),
        };
        let port = row.remote.map_or_else(|| row.port.clone(), |remote| format!("{} at {remote}", row.port));
        table.row([vlan, row.mac.clone(), port, age]);
    }
    table.render(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_a_table() {
        let row = |vlan, port: &str, age, is_static| FdbRow {
            vlan,
            mac: "02:00:00:00:00:01".into(),
            port: port.into(),
            remote: (port == "vx0").then(|| [192, 0, 2, 2].into()),
            age,
            is_static,
        };
        let expected = "\
VLAN  ADDRESS            PORT                 AGE
   -  02:00:00:00:00:01  web                299 s
4094  02:00:00:00:00:01  vx0 at 192.0.2.2  static
";
        let rows = [row(0, "web", Some(299), false), row(4094, "vx0", None, true)];
        assert_eq!(show(&rows, &Output::plain()), expected);
    }
}
