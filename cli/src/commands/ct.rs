//! `trunkline ct`.

use std::net::IpAddr;

use trunkline_control::model::l3::{CtCount, CtRow, CtSpec};

use super::{Context, Outcome};
use crate::args::CtCommand;
use crate::output::{Output, Table, duration};

pub(super) async fn run(context: &Context<'_>, command: CtCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        CtCommand::List { filter, json } => {
            let rows = client.connections(&filter.filter()).await?;
            if json.json { out.json(&rows) } else { out.print(&list(&rows, out)) }
        }
        CtCommand::Count { filter, json } => {
            let count = client.count_connections(&filter.filter()).await?;
            if json.json { out.json(&count) } else { out.print(&counted(&count)) }
        }
        CtCommand::Flush { filter } => {
            let flushed = client.flush_connections(&filter.filter()).await?;
            out.print(&format!("{flushed} forgotten\n"))
        }
        CtCommand::Settings { settings, json } => {
            let patch = settings.patch();
            let spec = match patch.is_empty() {
                true => client.ct_settings().await?,
                false => client.patch_ct_settings(&patch.into()).await?,
            };
            if json.json { out.json(&spec) } else { out.print(&show(&spec)) }
        }
    }
}

fn endpoint(proto: &str, (addr, port): (IpAddr, u16)) -> String {
    let ports = matches!(proto, "tcp" | "udp");
    match addr {
        _ if !ports => addr.to_string(),
        IpAddr::V4(addr) => format!("{addr}:{port}"),
        IpAddr::V6(addr) => format!("[{addr}]:{port}"),
    }
}

fn list(rows: &[CtRow], out: &Output) -> String {
    if rows.is_empty() {
        return "no connections\n".to_owned();
    }
    let heads = ["PROTO", "INSIDE", "", "EXTERNAL", "REMOTE", "STATE", ">ENDS IN", "BRIDGE", "UPLINK", "NAT"];
    let mut table = Table::new(&heads);
    for row in rows {
        table.row([
            row.proto.clone(),
            endpoint(&row.proto, row.inside),
            if row.from_outside { "<-" } else { "->" }.to_owned(),
            endpoint(&row.proto, row.external),
            endpoint(&row.proto, row.remote),
            row.state.clone(),
            duration(row.expires),
            row.bridge.clone(),
            row.uplink.clone(),
            row.nat.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table.render(out)
}

fn counted(c: &CtCount) -> String {
    let lines = [
        ("connections", format!("{} of {}", c.connections, c.limit)),
        ("matching", if c.matching == c.connections { String::new() } else { c.matching.to_string() }),
        ("mappings", c.mappings.to_string()),
        ("fragments", format!("{} held", c.held)),
        ("made room", format!("{} times", c.early_drops)),
        ("port shared", format!("{} times", c.shared_ports)),
    ];
    super::in_lines(&lines)
}

fn show(spec: &CtSpec) -> String {
    let number = |n: Option<u32>, default: &str, unit: &str| {
        n.map_or_else(|| format!("{default}{unit} (default)"), |n| format!("{n}{unit}"))
    };
    let flag =
        |f: Option<bool>, default: bool| f.map_or_else(|| format!("{default} (default)"), |f| f.to_string());
    let filtering = spec.filtering.and_then(|f| serde_json::to_value(f).ok());
    let filtering = filtering.and_then(|f| f.as_str().map(str::to_owned));
    let lines = [
        ("limit", number(spec.limit, "262144", "")),
        ("source-limit", number(spec.source_limit, "a quarter of it", "")),
        ("source-ports", number(spec.source_ports, "a quarter of it", "")),
        ("udp-timeout", number(spec.udp_timeout, "300", " s")),
        ("tcp-timeout", number(spec.tcp_timeout, "7440", " s")),
        ("tcp-transitory-timeout", number(spec.tcp_transitory_timeout, "240", " s")),
        ("icmp-timeout", number(spec.icmp_timeout, "60", " s")),
        ("other-timeout", number(spec.other_timeout, "300", " s")),
        ("fragment-timeout", number(spec.fragment_timeout, "30", " s")),
        ("liberal", flag(spec.liberal, false)),
        ("pickup", flag(spec.pickup, true)),
        ("strict-eim", flag(spec.strict_eim, false)),
        ("filtering", filtering.unwrap_or_else(|| "address-and-port (default)".to_owned())),
    ];
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or(0) + 2;
    lines.iter().map(|(key, value)| format!("{key:width$}{value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn connections_are_a_table() {
        let rows: Vec<CtRow> = serde_json::from_value(json!([
            {"proto": "tcp", "bridge": "br0", "uplink": "up0", "inside": ["10.77.0.2", 40000],
             "external": ["192.0.2.10", 40000], "remote": ["198.51.100.1", 443], "from-outside": false,
             "state": "established", "expires": 7440, "nat": "masquerade-10.77.0.0-24"},
            {"proto": "icmpv6", "bridge": "br0", "uplink": "up0", "inside": ["fd77::2", 7],
             "external": ["fd77::2", 7], "remote": ["2001:db8::1", 0], "from-outside": true,
             "state": "opening", "expires": 59},
        ]))
        .unwrap();
        let expected = "\
PROTO   INSIDE               EXTERNAL          REMOTE            STATE        ENDS IN  BRIDGE  UPLINK  NAT
tcp     10.77.0.2:40000  ->  192.0.2.10:40000  198.51.100.1:443  established  2 h 4 min  br0     up0     masquerade-10.77.0.0-24
";
        let text = list(&rows, &Output::plain());
        assert_eq!(
            text.lines().nth(1).map(|l| l.split_whitespace().collect::<Vec<_>>()),
            expected.lines().nth(1).map(|l| l.split_whitespace().collect::<Vec<_>>())
        );
        assert!(
            text.lines().nth(2).is_some_and(|l| l.contains("<-  fd77::2 ") && l.trim_end().ends_with('-')),
            "{text}"
        );
        assert_eq!(list(&[], &Output::plain()), "no connections\n");
    }

    #[test]
    fn counts_and_settings_are_shown() {
        let count = CtCount { connections: 12, matching: 3, limit: 262_144, ..CtCount::default() };
        let text = counted(&count);
        assert!(text.starts_with("connections 12 of 262144\nmatching    3\n"), "{text}");
        let spec = CtSpec { limit: Some(1000), liberal: Some(true), ..CtSpec::default() };
        let text = show(&spec);
        assert!(text.starts_with("limit                   1000\n"), "{text}");
        assert!(text.contains("\nudp-timeout             300 s (default)\n"), "{text}");
        assert!(text.contains("\nliberal                 true\n"), "{text}");
    }
}
