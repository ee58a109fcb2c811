//! `trunkline bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    pub(crate) part: Option<BenchPart>,
    #[command(flatten)]
    pub(crate) options: BenchOptions,
}

#[derive(Subcommand, Debug)]
pub(crate) enum BenchPart {
    /// The engine alone, from memory to nowhere: no interface, no privileges
    #[command(after_help = "Examples:
  trunkline bench engine
  trunkline bench engine l2-1-flow vxlan-encap --seconds 3
  trunkline bench engine l2-10k-flows --flows 200000 --macs 50000 --workers 2 --json
  trunkline bench engine --list
  trunkline bench engine l2-10k-flows --save-frames /tmp/frames")]
    Engine(EngineArgs),
    /// Two containers on a bridge: TCP, UDP and round trips
    #[command(after_help = "Examples:
  trunkline bench ports
  trunkline bench ports --running
  trunkline bench ports --seconds 5 --json

Without --running a daemon of its own is started for it, in a namespace of its own. With it, the daemon of
--run-dir gets a bridge with two ports, which are removed afterwards.")]
    Ports(PortsArgs),
}

#[derive(Args, Debug, Clone)]
pub(crate) struct BenchOptions {
    /// Length of one measurement
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds)]
    pub(crate) seconds: f64,
    /// How often to measure; the median is shown, with the lowest and the highest
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) rounds: u16,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct EngineArgs {
    /// Which; all that this machine has enough CPUs for when none is given
    #[arg(value_name = "SCENARIO")]
    pub(crate) scenarios: Vec<String>,
    #[command(flatten)]
    pub(crate) options: BenchOptions,
    /// List the scenarios
    #[arg(long)]
    pub(crate) list: bool,
    /// Other than the scenario's number of flows
    #[arg(long, value_name = "N")]
    pub(crate) flows: Option<u32>,
    /// Other than the scenario's number of source addresses
    #[arg(long, value_name = "N")]
    pub(crate) macs: Option<u32>,
    /// Ports or tunnels that frames go out by in turn
    #[arg(long, value_name = "N")]
    pub(crate) ways: Option<u32>,
    /// Rules of translation beside the one that applies
    #[arg(long, value_name = "N")]
    pub(crate) rules: Option<u32>,
    /// Other than the scenario's number of workers
    #[arg(long, value_name = "N")]
    pub(crate) workers: Option<u16>,
    /// Let the kernel place the workers, rather than pin them from the last CPU downwards
    #[arg(long)]
    pub(crate) no_pin: bool,
    /// Measure nothing, write the frames as SCENARIO.pcap to this directory, for other switches
    #[arg(long, value_name = "DIR")]
    pub(crate) save_frames: Option<PathBuf>,
}

#[derive(Args, Debug)]
pub(crate) struct PortsArgs {
    #[command(flatten)]
    pub(crate) options: BenchOptions,
    /// Through the running daemon
    #[arg(long)]
    pub(crate) running: bool,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(s) if (0.05..=600.0).contains(&s) => Ok(s),
        _ => Err("a length is between 0.05 and 600 seconds".to_owned()),
    }
}
