//! The `trunkline` command: a daemon that switches Ethernet between containers, and everything to drive it.
//!
//! Exit codes: 0 done, 1 failed, 2 the command line makes no sense. Errors are one line on stderr.

mod args;
mod cni;
mod commands;
mod output;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use args::Cli;
use output::Output;

fn main() -> ExitCode {
    if cni::is_called() {
        return if cni::run() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let cli = match Cli::try_parse_from(arguments(std::env::args_os().collect())) {
        Ok(cli) => cli,
        Err(e) => return usage(&e),
    };
    match commands::run(cli, &Output::new()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(commands::Failure::Said(error)) => {
            eprintln!("trunkline: {error}");
            ExitCode::FAILURE
        }
        Err(commands::Failure::Reported) => ExitCode::FAILURE,
        // Whoever read our output has had enough.
        Err(commands::Failure::PipeClosed) => ExitCode::SUCCESS,
    }
}

/// In a directory of netavark's plugins, the program is one of these, whatever its name.
fn arguments(mut given: Vec<OsString>) -> Vec<OsString> {
    let dir = given.first().and_then(|program| Path::new(program).parent()?.file_name());
    if dir.is_some_and(|dir| dir == "netavark") {
        given.insert(1, "netavark".into());
    }
    given
}

/// Prints help where it was asked for; otherwise says in one line what is wrong.
fn usage(error: &clap::Error) -> ExitCode {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            // Nothing is left to do when stdout is closed.
            let _ = error.print();
        }
        _ => eprintln!("trunkline: {}", one_line(&error.to_string())),
    }
    u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from)
}

/// clap's message of several lines as `what is wrong; advice`.
fn one_line(text: &str) -> String {
    let (message, rest) = text.split_once("\n\n").unwrap_or((text, ""));
    let message: Vec<_> = message.trim_start_matches("error:").split_whitespace().collect();
    let line = |start: &str| rest.lines().find_map(|l| l.trim().strip_prefix(start).map(str::trim));
    let advice = match (line("tip:"), line("Usage:")) {
        (Some(tip), _) => tip.to_owned(),
        (None, Some(usage)) => format!("usage: {usage}"),
        (None, None) => "see --help".to_owned(),
    };
    format!("{}; {advice}", message.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netavark_calls_its_plugins_by_their_path() {
        let seen = |line: &str| arguments(line.split(' ').map(Into::into).collect()).len();
        assert_eq!(seen("/usr/libexec/netavark/trunkline setup /run/netns/x"), 4);
        assert_eq!(seen("/usr/bin/trunkline show"), 2);
        assert_eq!(seen("netavark show"), 2);
    }

    #[test]
    fn usage_errors_are_one_line() {
        for (line, says) in [
            (
                "bridge add",
                "the following required arguments were not provided: <BRIDGE>; usage: trunkline bridge add <BRIDGE>",
            ),
            ("bridg list", "unrecognized subcommand 'bridg'; a similar subcommand exists: 'bridge'"),
            (
                "port add br0 p --type tap --trunk 3",
                "unexpected argument '--trunk' found; a similar argument exists: '--trunks'",
            ),
            (
                "port add br0 p --type tap --address 10.0.0.1",
                "invalid value '10.0.0.1' for '--address <ADDRESS>': '10.0.0.1' is not an address with a prefix length; \
                 write it like 10.7.0.1/24 or fd00::1/64; see --help",
            ),
            (
                "port add br0 p --type tapp",
                "invalid value 'tapp' for '--type <TYPE>' [possible values: tap, host, afpacket, replay, null, gre, vxlan, geneve, nvgre]; a similar value exists: 'tap'",
            ),
        ] {
            let error = Cli::try_parse_from(format!("trunkline {line}").split(' ')).unwrap_err();
            assert_eq!(one_line(&error.to_string()), says);
            assert_eq!(error.exit_code(), 2);
        }
    }
}
