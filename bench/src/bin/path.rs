//! Sends packets one way through the engine: `path SCENARIO ROUNDS`, or no arguments for the list.
//!
//! Under `valgrind --tool=callgrind`, the difference between two numbers of rounds is the exact instruction
//! count of a packet, whatever else the machine does (`bench/instructions`).

use std::num::NonZeroU64;
use std::process::ExitCode;

use trunkline_bench::paths::{self, SCENARIOS};

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (name, rounds) = (args.next(), args.next().and_then(|n| n.parse::<NonZeroU64>().ok()));
    let scenario = SCENARIOS.iter().find(|s| Some(s.name) == name.as_deref());
    let (Some(scenario), Some(rounds)) = (scenario, rounds) else {
        for s in SCENARIOS {
            println!("{:16} {}", s.name, s.help);
        }
        return if name.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    };
    match paths::play(*scenario, rounds) {
        Ok((packets, took)) => {
            println!("{packets} packets, {:.2} Mpps", packets as f64 / took.as_secs_f64() / 1e6);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("path: {}: {error}", scenario.name);
            ExitCode::FAILURE
        }
    }
}
