//! The CNI plugin: `trunkline` as a runtime calls it from `/opt/cni/bin`, with `CNI_COMMAND` and its companions in
//! the environment and the network's configuration on standard input. `docs/cni.md` describes it.
//!
//! ```text
//! runtime ──env, stdin──▶ request ──▶ operations ──┬──▶ ipam: the plugin named by ipam.type, in CNI_PATH
//!         ◀─stdout, code─ result, failure ◀────────┴──▶ the daemon's attachments (control/src/attach.rs)
//! ```
//!
//! The specification: containernetworking/cni, SPEC.md of version 1.1.0.

mod config;
mod failure;
mod install;
mod ipam;
mod operations;
mod result;
#[cfg(test)]
mod tests;

use std::io::{IsTerminal as _, Read as _, Write as _};

use serde_json::{Value, json};

pub(crate) use install::install;

use config::Version;
use failure::{Code, Failure};

type Result<T> = std::result::Result<T, Failure>;

/// What the runtime asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Command {
    Add,
    Del,
    Check,
    Gc,
    Status,
}

impl Command {
    fn name(self) -> &'static str {
        match self {
            Command::Add => "ADD",
            Command::Del => "DEL",
            Command::Check => "CHECK",
            Command::Gc => "GC",
            Command::Status => "STATUS",
        }
    }

    /// The version of the specification that brought it.
    fn since(self) -> Version {
        match self {
            Command::Add | Command::Del => Version::V0_3_0,
            Command::Check => Version::V0_4_0,
            Command::Gc | Command::Status => Version::V1_1_0,
        }
    }
}

/// The environment of a call. What a command does not need is empty if it is not given.
#[derive(Clone, Debug, Default)]
struct Env {
    container: String,
    netns: String,
    ifname: String,
    args: Vec<(String, String)>,
    path: String,
}

impl Env {
    /// What `of` says, checked as `command` needs it.
    fn read(command: Command, of: &dyn Fn(&str) -> Option<String>) -> Result<Env> {
        let get = |key: &str| of(key).unwrap_or_default();
        let env = Env {
            container: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            args: Vec::new(),
            path: get("CNI_PATH"),
        };
        let of_container = matches!(command, Command::Add | Command::Del | Command::Check);
        let needed = [
            ("CNI_CONTAINERID", &env.container, of_container),
            ("CNI_NETNS", &env.netns, of_container && command != Command::Del),
            ("CNI_IFNAME", &env.ifname, of_container),
        ];
        let missing: Vec<_> =
            needed.iter().filter(|(_, v, need)| *need && v.is_empty()).map(|n| n.0).collect();
        if !missing.is_empty() {
            let what = format!("{} needs {}, which is not set", command.name(), missing.join(", "));
            return Err(Failure::new(Code::Environment, what));
        }
        if !of_container {
            return Ok(env);
        }
        if !is_id(&env.container) {
            return Err(Failure::new(
                Code::Environment,
                format!("CNI_CONTAINERID '{}' is not the id of a container", env.container.escape_debug()),
            )
            .details("it begins with a letter or digit, and has letters, digits, '_', '.' and '-'"));
        }
        let odd = |c: char| matches!(c, '/' | ':') || c.is_whitespace() || c.is_control();
        if env.ifname.len() > 15 || matches!(env.ifname.as_str(), "." | "..") || env.ifname.contains(odd) {
            return Err(Failure::new(
                Code::Environment,
                format!("CNI_IFNAME '{}' is not the name of an interface", env.ifname.escape_debug()),
            ));
        }
        if !env.netns.is_empty() && !env.netns.starts_with('/') {
            return Err(Failure::new(
                Code::Environment,
                format!("CNI_NETNS '{}' is not an absolute path", env.netns.escape_debug()),
            ));
        }
        Ok(Env { args: arguments(&get("CNI_ARGS"))?, ..env })
    }
}

/// `CNI_ARGS`: `KEY=VALUE;KEY=VALUE`.
fn arguments(text: &str) -> Result<Vec<(String, String)>> {
    let pairs = text.split(';').filter(|pair| !pair.is_empty());
    let read = |pair: &str| match pair.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => {
            let what = format!("CNI_ARGS has '{}', which is not KEY=VALUE", pair.escape_debug());
            Err(Failure::new(Code::Environment, what))
        }
    };
    pairs.map(read).collect()
}

/// Whether it names a container or network (SPEC.md, "Parameters" and "Network configuration").
fn is_id(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Whether this process was started as a plugin.
pub(crate) fn is_called() -> bool {
    std::env::args_os().len() <= 1 && std::env::var_os("CNI_COMMAND").is_some()
}

/// Does what the environment and standard input say; results and errors are JSON on standard output. False when it
/// failed.
pub(crate) fn run() -> bool {
    let var = |key: &str| std::env::var_os(key).map(|v| v.to_string_lossy().into_owned());
    let mut input = Vec::new();
    let mut version = Version::LATEST;
    let done = read_input(&mut input).and_then(|()| answer(&var, &input, &mut version));
    let (text, undo, done) = match done {
        Ok(Answer { json, undo }) => (json, undo, true),
        Err(failure) => (Some(failure.json(version)), None, false),
    };
    let Some(json) = text else { return done };
    let mut out = std::io::stdout().lock();
    let text = serde_json::to_string_pretty(&json).unwrap_or_default();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        eprintln!("trunkline: cannot write the result: {error}");
        // The runtime does not know of it: nobody would remove it.
        if let Some(undo) = undo {
            undo();
        }
        return false;
    }
    done
}

fn read_input(input: &mut Vec<u8>) -> Result<()> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        return Ok(());
    }
    let read = stdin.lock().read_to_end(input);
    read.map(drop)
        .map_err(|e| Failure::new(Code::Io, format!("cannot read the configuration from stdin: {e}")))
}

/// What is written to standard output, if anything, and what to do when it cannot be.
#[derive(Default)]
struct Answer {
    json: Option<Value>,
    undo: Option<Box<dyn FnOnce()>>,
}

/// `version` is set as soon as it is known: errors are written in it too.
fn answer(var: &dyn Fn(&str) -> Option<String>, input: &[u8], version: &mut Version) -> Result<Answer> {
    let command = match var("CNI_COMMAND").as_deref() {
        Some("ADD") => Command::Add,
        Some("DEL") => Command::Del,
        Some("CHECK") => Command::Check,
        Some("GC") => Command::Gc,
        Some("STATUS") => Command::Status,
        Some("VERSION") => return Ok(Answer { json: Some(versions(input)), undo: None }),
        Some(other) => {
            let what = format!("CNI_COMMAND '{}' is not known", other.escape_debug());
            return Err(Failure::new(Code::Environment, what)
                .details("there are ADD, DEL, CHECK, GC, STATUS and VERSION"));
        }
        None => {
            return Err(Failure::new(Code::Environment, "CNI_COMMAND is not set")
                .details("container runtimes call this; see docs/cni.md"));
        }
    };
    let env = Env::read(command, var)?;
    let json: Value = serde_json::from_slice(input)
        .map_err(|e| Failure::new(Code::Decode, format!("the network configuration is not JSON: {e}")))?;
    *version = config::version(&json)?;
    if *version < command.since() {
        return Err(Failure::new(
            Code::Version,
            format!("{} came with CNI {}, and cniVersion is {version}", command.name(), command.since()),
        ));
    }
    operations::run(command, &env, json, *version, var)
}

/// The answer to VERSION, in the version that was asked in, if that is known.
fn versions(input: &[u8]) -> Value {
    let json = serde_json::from_slice(input).unwrap_or(Value::Null);
    let version = config::version(&json).unwrap_or(Version::LATEST);
    let all: Vec<String> = Version::ALL.iter().map(ToString::to_string).collect();
    json!({ "cniVersion": version.to_string(), "supportedVersions": all })
}
