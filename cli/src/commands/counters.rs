//! `trunkline stats` and `trunkline drops`.

use std::collections::BTreeMap;
use std::time::Duration;

use trunkline_control::model::{DropRow, PortStats};

use super::{Context, Outcome};
use crate::args::{DropsArgs, StatsArgs, WatchOptions};
use crate::output::{Look, Output, Table, bytes, count, plural};

pub(super) async fn stats(context: &Context<'_>, args: StatsArgs) -> Outcome {
    let Context { client, out } = context;
    let mut before: Option<Vec<PortStats>> = None;
    loop {
        let now = match &args.port {
            Some(port) => vec![client.port_stats(port).await?],
            None => client.stats().await?,
        };
        if args.json.json {
            let one = args.port.is_some().then(|| now.first()).flatten();
            match (one, args.watch.watch) {
                (Some(one), false) => out.json(one)?,
                (Some(one), true) => out.json_line(one)?,
                (None, false) => out.json(&now)?,
                (None, true) => out.json_line(&now)?,
            }
        } else if args.watch.watch {
            let table = rates(before.as_deref().unwrap_or(&now), &now, args.watch.interval, out);
            out.print(&format!("{}{table}", out.top_of_screen()))?;
        } else if args.port.is_some() {
            let text: String = now.iter().map(|s| in_full(s, 12)).collect();
            out.print(&text)?;
        } else {
            out.print(&totals(&now, out))?;
        }
        if !next_look(&args.watch).await {
            return Ok(());
        }
        before = Some(now);
    }
}

/// Waits for the next look; false when there is none.
async fn next_look(watch: &WatchOptions) -> bool {
    if watch.watch {
        tokio::time::sleep(Duration::from_secs(watch.interval)).await;
    }
    watch.watch
}

fn dropped(stats: &PortStats) -> u64 {
    stats.drops.values().sum::<u64>() + stats.ring_drops
}

fn totals(stats: &[PortStats], out: &Output) -> String {
    let heads = [
        "PORT",
        "BRIDGE",
        ">RX PACKETS",
        ">RX BYTES",
        ">TX PACKETS",
        ">TX BYTES",
        ">TX FRAMES",
        ">COPIED",
        ">DROPPED",
    ];
    let mut table = Table::new(&heads);
    for s in stats {
        let numbers =
            [s.rx_packets, s.rx_bytes, s.tx_packets, s.tx_bytes, s.tx_frames, s.replicated, dropped(s)];
        let mut row = vec![s.name.clone(), s.bridge.clone()];
        row.extend(numbers.iter().map(u64::to_string));
        table.row(row);
    }
    table.render(out)
}

fn rates(before: &[PortStats], now: &[PortStats], seconds: u64, out: &Output) -> String {
    let heads =
        ["PORT", "BRIDGE", ">RX PACKETS/s", ">RX BYTES/s", ">TX PACKETS/s", ">TX BYTES/s", ">DROPPED/s"];
    let mut table = Table::new(&heads);
    for s in now {
        // A port that appeared in between starts with what it has.
        let old = before.iter().find(|o| o.name == s.name).unwrap_or(s);
        let per_second = |new: u64, old: u64| new.saturating_sub(old) / seconds.max(1);
        table.row([
            s.name.clone(),
            s.bridge.clone(),
            count(per_second(s.rx_packets, old.rx_packets)),
            bytes(per_second(s.rx_bytes, old.rx_bytes)),
            count(per_second(s.tx_packets, old.tx_packets)),
            bytes(per_second(s.tx_bytes, old.tx_bytes)),
            count(per_second(dropped(s), dropped(old))),
        ]);
    }
    table.render(out)
}

/// One port's counters, those that count something.
pub(super) fn in_full(s: &PortStats, width: usize) -> String {
    let (rx, tx) = (plural(s.rx_packets, "packet", "s"), plural(s.tx_packets, "packet", "s"));
    let frames = plural(s.tx_frames, "frame", "s");
    let mut text = format!("{:width$}{rx}, {} bytes\n", "received", s.rx_bytes);
    text += &format!("{:width$}{tx}, {} bytes, {frames}\n", "sent", s.tx_bytes);
    let more =
        [("made", s.generated, ""), ("copied", s.replicated, " for floods"), ("merged", s.absorbed, "")];
    for (name, n, what) in more {
        if n > 0 {
            text += &format!("{name:width$}{}{what}\n", plural(n, "packet", "s"));
        }
    }
    for (reason, n) in s.drops.iter().filter(|(_, n)| **n > 0) {
        text += &format!("{:width$}{n} {reason}\n", "dropped");
    }
    if s.ring_drops > 0 {
        text += &format!("{:width$}{} ring\n", "dropped", s.ring_drops);
    }
    text
}

pub(super) async fn drops(context: &Context<'_>, args: DropsArgs) -> Outcome {
    let Context { client, out } = context;
    let mut before: BTreeMap<(String, String), u64> = BTreeMap::new();
    let mut first = true;
    loop {
        let now = client.drops().await?;
        if args.json.json {
            if args.watch.watch { out.json_line(&now)? } else { out.json(&now)? }
        } else if args.watch.watch {
            let since = |row: &DropRow| {
                let old = before.get(&(row.port.clone(), row.reason.clone())).copied();
                row.count.saturating_sub(old.unwrap_or(if first { row.count } else { 0 }))
            };
            let seconds = args.watch.interval.max(1);
            let table = drop_table(&now, Some(&|row| since(row) / seconds), out);
            out.print(&format!("{}{table}", out.top_of_screen()))?;
        } else {
            out.print(&drop_table(&now, None, out))?;
        }
        if !next_look(&args.watch).await {
            return Ok(());
        }
        before = now.into_iter().map(|row| ((row.port, row.reason), row.count)).collect();
        first = false;
    }
}

fn drop_table(rows: &[DropRow], rate: Option<&dyn Fn(&DropRow) -> u64>, out: &Output) -> String {
    let rows: Vec<_> = rows.iter().filter(|row| row.count > 0).collect();
    if rows.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    let mut heads = vec!["PORT", "REASON", ">PACKETS"];
    heads.extend(rate.map(|_| ">PER SECOND"));
    heads.push("MEANING");
    let mut table = Table::new(&heads);
    for row in rows {
        let plain = |text: String| (Look::Plain, text);
        let mut cells =
            vec![plain(row.port.clone()), plain(row.reason.clone()), plain(row.count.to_string())];
        cells.extend(rate.map(|rate| plain(rate(row).to_string())));
        cells.push((Look::Dim, row.help.clone()));
        table.row(cells);
    }
    table.render(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::topology::samples;

    #[test]
    fn totals_are_a_table() {
        let expected = "\
PORT  BRIDGE  RX PACKETS  RX BYTES  TX PACKETS  TX BYTES  TX FRAMES  COPIED  DROPPED
web   br0           1200      9000           7       800          9       4        2
";
        assert_eq!(totals(&[samples::stats("web")], &Output::plain()), expected);
    }

    #[test]
    fn rates_are_differences_over_time() {
        let before = samples::stats("web");
        let now = PortStats { rx_packets: 5200, rx_bytes: 4_009_000, ..before.clone() };
        let new = samples::stats("db");
        let expected = "\
PORT  BRIDGE  RX PACKETS/s  RX BYTES/s  TX PACKETS/s  TX BYTES/s  DROPPED/s
web   br0             2.0k      2.0 MB             0         0 B          0
db    br0                0         0 B             0         0 B          0
";
        assert_eq!(rates(&[before], &[now, new], 2, &Output::plain()), expected);
    }

    #[test]
    fn drops_show_what_happened_and_what_it_means() {
        let row = |reason: &str, count| DropRow {
            port: "web".into(),
            reason: reason.into(),
            count,
            help: format!("About {reason}."),
        };
        let rows = [row("mtu", 12), row("bad-vlan", 0)];
        let expected = "PORT  REASON  PACKETS  MEANING\nweb   mtu          12  About mtu.\n";
        assert_eq!(drop_table(&rows, None, &Output::plain()), expected);
        let expected =
            "PORT  REASON  PACKETS  PER SECOND  MEANING\nweb   mtu          12           3  About mtu.\n";
        assert_eq!(drop_table(&rows, Some(&|_| 3), &Output::plain()), expected);
        assert_eq!(drop_table(&rows[1..], None, &Output::plain()), "nothing was dropped\n");
    }
}
