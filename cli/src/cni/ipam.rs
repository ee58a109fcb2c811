//! Addresses are another plugin's business: the one that `ipam.type` names, in `CNI_PATH`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command as Process, Stdio};

use serde_json::{Value, json};

use super::config::Version;
use super::result::Outcome;
use super::{Code, Command, Env, Failure, Result};

/// An IPAM plugin that was found, and what it is told.
pub(super) struct Ipam {
    name: String,
    program: PathBuf,
    /// The newest version that it and this plugin speak, at most that of the configuration.
    version: Version,
    /// The configuration in that version.
    config: Value,
}

impl Ipam {
    /// Finds it and asks what it speaks: Debian's host-local 1.1.1 knows no version after 1.0.0.
    pub(super) fn find(name: &str, env: &Env, config: &Value, version: Version) -> Result<Ipam> {
        let dirs = env.path.split(':').filter(|dir| !dir.is_empty());
        let program =
            dirs.map(|dir| Path::new(dir).join(name)).find(|path| path.is_file()).ok_or_else(|| {
                Failure::new(
                    Code::Config,
                    format!("there is no IPAM plugin '{name}' (ipam.type) in CNI_PATH '{}'", env.path),
                )
                .details("install it there: Debian has it in containernetworking-plugins, /usr/lib/cni")
            })?;
        let mut ipam = Ipam {
            name: name.to_owned(),
            program,
            version,
            config: json!({"cniVersion": version.to_string()}),
        };
        let answer = ipam.call("VERSION", env)?;
        let spoken = answer.get("supportedVersions").and_then(Value::as_array).into_iter().flatten();
        let spoken = spoken.filter_map(|v| Version::parse(v.as_str()?)).filter(|v| *v <= version);
        ipam.version = spoken.max().ok_or_else(|| {
            let what =
                format!("IPAM plugin {name} speaks no version of CNI up to {version} that is spoken here");
            Failure::new(Code::Version, what)
        })?;
        ipam.config = config.clone();
        if ipam.version != version {
            ipam.config["cniVersion"] = ipam.version.to_string().into();
            if let Some(previous) = config.get("prevResult").filter(|p| !p.is_null()) {
                ipam.config["prevResult"] = Outcome::read(previous, "prevResult")?.write(ipam.version);
            }
        }
        Ok(ipam)
    }

    pub(super) fn add(&self, env: &Env) -> Result<Outcome> {
        let answer = self.call("ADD", env)?;
        Outcome::read(&answer, &format!("the result of IPAM plugin {}", self.name))
    }

    /// Any command whose answer says nothing; one that the plugin is too old for is left out.
    pub(super) fn tell(&self, command: Command, env: &Env) -> Result<()> {
        if self.version < command.since() {
            return Ok(());
        }
        self.call(command.name(), env).map(drop)
    }

    fn call(&self, command: &str, env: &Env) -> Result<Value> {
        let failed = |what: &str, e: std::io::Error| {
            Failure::new(Code::Io, format!("cannot {what} IPAM plugin {}: {e}", self.program.display()))
        };
        let mut process = Process::new(&self.program);
        process.env("CNI_COMMAND", command).env("CNI_CONTAINERID", &env.container);
        process.env("CNI_NETNS", &env.netns).env("CNI_IFNAME", &env.ifname).env("CNI_PATH", &env.path);
        process.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = process.spawn().map_err(|e| failed("start", e))?;
        // A few kilobytes: less than a pipe takes, and none of them answers before it has read all.
        let text = self.config.to_string();
        let written = child.stdin.take().map_or(Ok(()), |mut stdin| stdin.write_all(text.as_bytes()));
        let output = child.wait_with_output().map_err(|e| failed("read the answer of", e))?;
        if output.status.success() {
            // One that knows its answer (VERSION) need not read.
            if let Err(error) = written
                && error.kind() != std::io::ErrorKind::BrokenPipe
            {
                return Err(failed("write to", error));
            }
            let blank = output.stdout.iter().all(u8::is_ascii_whitespace);
            let json: &[u8] = if blank { b"{}" } else { &output.stdout };
            return serde_json::from_slice(json).map_err(|e| {
                Failure::new(
                    Code::Decode,
                    format!("the answer of IPAM plugin {} is not JSON: {e}", self.name),
                )
            });
        }
        let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let text = |key: &str| said.get(key).and_then(Value::as_str).unwrap_or_default().trim().to_owned();
        let msg = match text("msg") {
            msg if msg.is_empty() => format!("{command} failed: {}", output.status),
            msg => msg,
        };
        let code = said.get("code").and_then(Value::as_u64).map_or(Code::Refused, Code::Other);
        Err(Failure::new(code, format!("IPAM plugin {}: {msg}", self.name)).details(text("details")))
    }
}
