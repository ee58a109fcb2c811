//! `trunkline bench`: what needs no other switch to be compared with.

mod ports;

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Write as _};
use std::time::Duration;

use serde_json::{Value, json};
use trunkline_bench::machine::Machine;
use trunkline_bench::measure::{Measured, measure};
use trunkline_bench::scenario::{SCENARIOS, Scenario};
use trunkline_control::Error;

use super::{Failure, Outcome};
use crate::args::{BenchArgs, BenchOptions, BenchPart, EngineArgs, PortsArgs};
use crate::output::{Output, Table, count};

pub(super) fn run(run_dir: &std::path::Path, args: BenchArgs, out: &Output) -> Outcome {
    match args.part {
        Some(BenchPart::Engine(args)) => engine(args, out),
        Some(BenchPart::Ports(args)) => ports::run(run_dir, &args, out),
        None => {
            let options = args.options;
            let machine = Machine::this();
            let scenarios = selected(&[], machine.cpus)?;
            let engine = measure_all(&scenarios, &options, true, &machine)?;
            let ports = ports::measure(run_dir, &PortsArgs { options: options.clone(), running: false })?;
            if options.json {
                let engine: Vec<_> = engine.iter().map(|r| r.json(&machine)).collect();
                return out.json(&json!({
                    "machine": described(&machine), "engine": engine, "ports": ports::to_json(&ports),
                }));
            }
            out.print(&format!(
                "{}\nThe engine alone, 64-byte frames where nothing else is said:\n\n{}\n{}\n\n{}",
                about(&machine),
                table(&engine, &machine, out),
                ports::TITLE,
                ports::table(&ports, out)
            ))
        }
    }
}

fn engine(args: EngineArgs, out: &Output) -> Outcome {
    if args.list {
        return list(args.options.json, out);
    }
    let machine = Machine::this();
    let mut scenarios = selected(&args.scenarios, machine.cpus)?;
    for s in &mut scenarios {
        s.flows = args.flows.unwrap_or(s.flows);
        s.macs = args.macs.unwrap_or(s.macs);
        s.ways = args.ways.unwrap_or(s.ways);
        s.rules = args.rules.unwrap_or(s.rules);
        s.workers = args.workers.unwrap_or(s.workers);
        if usize::from(s.workers) > machine.cpus {
            let (name, wants, has) = (s.name, s.workers, machine.cpus);
            let message = format!("{name} with {wants} workers needs as many CPUs; there are {has}");
            return Err(Error::invalid(message).hint(format!("--workers {has}")).into());
        }
    }
    if let Some(dir) = &args.save_frames {
        for s in &scenarios {
            let path = dir.join(format!("{}.pcap", s.name));
            let written = File::create(&path).and_then(|f| s.write_pcap(0, &mut BufWriter::new(f)));
            written.map_err(|e| Error::failed(format!("cannot write {}: {e}", path.display())))?;
        }
        return Ok(());
    }
    let results = measure_all(&scenarios, &args.options, !args.no_pin, &machine)?;
    if args.options.json {
        let engine: Vec<_> = results.iter().map(|r| r.json(&machine)).collect();
        return out.json(&json!({ "machine": described(&machine), "engine": engine }));
    }
    out.print(&format!("{}\n{}", about(&machine), table(&results, &machine, out)))
}

fn list(as_json: bool, out: &Output) -> Outcome {
    if as_json {
        let all: Vec<_> = SCENARIOS
            .iter()
            .map(|s| {
                json!({
                    "scenario": s.name, "help": s.help, "flows": s.flows, "macs": s.macs, "workers": s.workers,
                })
            })
            .collect();
        return out.json(&all);
    }
    let mut table = Table::new(&["SCENARIO", ">FLOWS", ">ADDRESSES", ">WORKERS", "WHAT"]);
    for s in SCENARIOS {
        table.row([
            s.name.to_owned(),
            s.flows.to_string(),
            s.macs.to_string(),
            s.workers.to_string(),
            s.help.into(),
        ]);
    }
    out.print(&table.render(out))
}

/// Those named; all that there are CPUs for when none is.
fn selected(names: &[String], cpus: usize) -> Result<Vec<Scenario>, Error> {
    if names.is_empty() {
        return Ok(SCENARIOS.iter().filter(|s| usize::from(s.workers) <= cpus).cloned().collect());
    }
    let find = |name: &String| {
        Scenario::find(name).cloned().ok_or_else(|| {
            Error::not_found(format!("there is no scenario {name}"))
                .hint("see: trunkline bench engine --list")
        })
    };
    names.iter().map(find).collect()
}

/// A scenario's rounds.
struct Scored {
    scenario: Scenario,
    rounds: Vec<Measured>,
}

fn measure_all(
    scenarios: &[Scenario],
    options: &BenchOptions,
    pin: bool,
    machine: &Machine,
) -> Result<Vec<Scored>, Failure> {
    let span = Duration::from_secs_f64(options.seconds);
    let mut results: Vec<_> =
        scenarios.iter().map(|s| Scored { scenario: s.clone(), rounds: Vec::new() }).collect();
    // Round by round, so that what else the machine does meets all of them alike.
    for round in 1..=options.rounds {
        for result in &mut results {
            let name = result.scenario.name;
            progress(&format!("round {round} of {}: {name}", options.rounds));
            let measured = measure(&result.scenario, span, pin && machine.cpus > 1)
                .map_err(|e| Error::failed(format!("{name}: {e}")))?;
            result.rounds.push(measured);
        }
    }
    progress("");
    Ok(results)
}

/// Shows what is being done, on a terminal.
fn progress(text: &str) {
    let mut stderr = io::stderr();
    if stderr.is_terminal() {
        // Only for the eye.
        let _ = write!(stderr, "\r\x1b[K{text}").and_then(|()| stderr.flush());
    }
}

impl Scored {
    /// Millions of packets per second and worker: median, lowest, highest.
    fn mpps(&self) -> [f64; 3] {
        spread(self.rounds.iter().map(|m| m.per_cpu_second() / 1e6))
    }

    fn total(&self) -> [f64; 3] {
        spread(self.rounds.iter().map(|m| m.packets as f64 / m.took.as_secs_f64() / 1e6))
    }

    fn cycles(&self, machine: &Machine) -> Option<f64> {
        machine.tsc_hz.map(|hz| hz / (self.mpps()[0] * 1e6))
    }

    fn checked(&self) -> u64 {
        self.rounds.iter().map(|m| m.checked).sum()
    }

    fn dropped(&self) -> u64 {
        self.rounds.iter().flat_map(|m| &m.drops).map(|(_, n)| n).sum()
    }

    fn json(&self, machine: &Machine) -> Value {
        let s = &self.scenario;
        let rounds: Vec<_> = self.rounds.iter().map(|m| json!({
            "packets": m.packets, "seconds": m.took.as_secs_f64(), "cpu-seconds": m.cpu.as_secs_f64(),
            "checked": m.checked,
            "drops": m.drops.iter().map(|(r, n)| ((*r).to_owned(), json!(n))).collect::<serde_json::Map<_, _>>(),
        })).collect();
        json!({
            "scenario": s.name, "workers": s.workers, "flows": s.flows, "macs": s.macs, "ways": s.ways,
            "rules": s.rules, "mpps": self.total()[0], "mpps-per-cpu-second": self.mpps()[0],
            "cycles": self.cycles(machine), "rounds": rounds,
        })
    }
}

/// Median, lowest, highest.
fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut v: Vec<_> = values.collect();
    v.sort_by(f64::total_cmp);
    match v[..] {
        [] => [f64::NAN; 3],
        [low, .., high] => [(v[(v.len() - 1) / 2] + v[v.len() / 2]) / 2.0, low, high],
        [one] => [one; 3],
    }
}

fn spread_text([median, low, high]: [f64; 3], digits: usize) -> String {
    format!("{median:.digits$} ({low:.digits$}–{high:.digits$})")
}

fn table(results: &[Scored], machine: &Machine, out: &Output) -> String {
    let heads = ["SCENARIO", ">Mpps PER CPU-SECOND", ">Mpps", ">CYCLES", ">CHECKED", ">DROPPED", "WHAT"];
    let mut table = Table::new(&heads);
    for r in results {
        table.row([
            r.scenario.name.to_owned(),
            spread_text(r.mpps(), 2),
            format!("{:.2}", r.total()[0]),
            r.cycles(machine).map_or_else(|| "?".to_owned(), |c| format!("{c:.0}")),
            count(r.checked()),
            count(r.dropped()),
            r.scenario.help.to_owned(),
        ]);
    }
    table.render(out)
}

fn about(m: &Machine) -> String {
    let tsc = m.tsc_hz.map_or_else(String::new, |hz| format!(", TSC {:.2} GHz", hz / 1e9));
    let memory = m.memory_mib as f64 / 1024.0;
    let busy = if m.load >= 0.5 { "\nThe machine is busy: take the figures with care.\n" } else { "\n" };
    format!(
        "{} CPUs, {}{tsc}, {memory:.0} GiB, Linux {}, load {:.2}, trunkline {}{busy}",
        m.cpus,
        m.cpu,
        m.kernel,
        m.load,
        env!("CARGO_PKG_VERSION")
    )
}

fn described(m: &Machine) -> Value {
    json!({
        "cpu": m.cpu, "cpus": m.cpus, "kernel": m.kernel, "memory-mib": m.memory_mib, "tsc-hz": m.tsc_hz,
        "load": m.load, "trunkline": env!("CARGO_PKG_VERSION"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians() {
        assert_eq!(spread([3.0, 1.0, 2.0].into_iter()), [2.0, 1.0, 3.0]);
        assert_eq!(spread([4.0, 1.0].into_iter()), [2.5, 1.0, 4.0]);
        assert_eq!(spread([4.0].into_iter()), [4.0, 4.0, 4.0]);
        assert_eq!(spread_text([2.0, 1.0, 3.0], 1), "2.0 (1.0–3.0)");
    }

    #[test]
    fn scenarios_are_chosen_by_name_and_by_cpus() {
        assert!(selected(&[], 1).unwrap().iter().all(|s| s.workers == 1));
        assert!(selected(&[], 2).unwrap().iter().any(|s| s.workers == 2));
        assert_eq!(
            selected(&["nosuch".to_owned()], 2).unwrap_err().to_string(),
            "there is no scenario nosuch; see: trunkline bench engine --list"
        );
    }
}
