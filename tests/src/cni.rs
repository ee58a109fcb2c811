//! A container runtime's side of CNI, as libcni does it: the protocol by exec, lists of plugins, results handed on.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::internet::Internet;
use crate::{Netns, eventually};

/// Where Debian has its plugins.
const PACKAGED: &str = "/usr/lib/cni";

/// What a plugin said.
#[derive(Clone, Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Its standard output; null when that was empty.
    pub json: Value,
}

impl Said {
    /// The result of a call that must succeed.
    pub fn ok(self) -> Value {
        assert_eq!(self.code, 0, "the plugin failed: {:#}", self.json);
        self.json
    }

    /// It must have failed with that code, and a message of one line that contains `says`.
    pub fn failed(self, code: u64, says: &str) {
        let msg = format!(
            "{}; {}",
            self.json["msg"].as_str().unwrap_or(""),
            self.json["details"].as_str().unwrap_or("")
        );
        assert!(self.code != 0 && self.json["code"] == code, "not {code}: {} {:#}", self.code, self.json);
        assert!(msg.contains(says) && !msg.contains('\n'), "{says:?} is not in {msg:?}");
        assert!(self.json["cniVersion"].is_string(), "{}", self.json);
    }
}

/// A machine with the switch, a world behind it and the plugin installed.
#[derive(Debug)]
pub struct Machine {
    /// The machine, and the world.
    pub net: Internet,
    /// Where the plugin is.
    pub bin: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Machine::new()
    }
}

impl Machine {
    /// The daemon's namespace is the machine: `up0` is its interface, with addresses and default routes.
    pub fn new() -> Machine {
        let net = Internet::machine(&[]);
        let bin = net.lab.dir().join("bin");
        net.lab.ok(&["cni", "install", "--dir", bin.to_str().expect("utf-8")]);
        Machine { net, bin }
    }

    /// A container: a namespace without interfaces.
    pub fn container(&self, name: &str) -> Netns {
        Netns::new(&self.net.lab.name(name))
    }

    /// The configuration of our plugin: `own` besides what all have.
    pub fn config(&self, version: &str, name: &str, own: Value) -> Value {
        let mut config = json!({
            "cniVersion": version, "name": name, "type": "trunkline", "runDir": self.net.lab.daemon.run_dir
        });
        for (key, value) in own.as_object().expect("object") {
            config[key] = value.clone();
        }
        config
    }

    /// host-local's configuration, with its files in the lab.
    pub fn ipam(&self, subnets: &[&str], routes: Value) -> Value {
        let ranges: Vec<Value> = subnets.iter().map(|s| json!([{ "subnet": s }])).collect();
        json!({"type": "host-local", "dataDir": self.net.lab.dir().join("ipam"), "ranges": ranges, "routes": routes})
    }

    /// Addresses that host-local has reserved in a network.
    pub fn reserved(&self, name: &str) -> Vec<String> {
        let files = std::fs::read_dir(self.net.lab.dir().join("ipam").join(name));
        let names = files.into_iter().flatten().flatten().filter_map(|f| f.file_name().into_string().ok());
        let mut all: Vec<String> = names.filter(|n| !n.starts_with("last") && n != "lock").collect();
        all.sort();
        all
    }

    /// A call for a container, in the machine's namespace.
    pub fn call(&self, command: &str, id: &str, netns: &Path, config: &Value) -> Said {
        let env =
            [("CNI_CONTAINERID", id), ("CNI_NETNS", netns.to_str().expect("utf-8")), ("CNI_IFNAME", "eth0")];
        self.exec(command, &env, &config.to_string(), Stdio::piped())
    }

    /// A call as it comes.
    pub fn exec(&self, command: &str, env: &[(&str, &str)], input: &str, stdout: Stdio) -> Said {
        let config: Value = serde_json::from_str(input).unwrap_or_default();
        let kind = config["type"].as_str().unwrap_or("trunkline");
        let own = self.bin.join(kind);
        let program = if own.exists() { own } else { Path::new(PACKAGED).join(kind) };
        let mut call = Command::new(&program);
        call.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        call.env("CNI_COMMAND", command).env("CNI_PATH", format!("{}:{PACKAGED}", self.bin.display()));
        call.envs(env.iter().copied()).stdin(Stdio::piped()).stdout(stdout).stderr(Stdio::piped());
        let mut child = self.net.lab.ns.enter(|| call.spawn()).unwrap_or_else(|e| {
            panic!("cannot run {}: {e} (is it installed? scripts/install-deps test)", program.display())
        });
        // One that refuses the environment reads nothing.
        let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
        let out = child.wait_with_output().expect("wait");
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert!(!stderr.contains("panicked"), "{stderr}");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        let json = match text.trim() {
            "" => Value::Null,
            text => serde_json::from_str(text).unwrap_or_else(|e| panic!("no JSON: {e}\n{text}")),
        };
        Said { code: out.status.code().unwrap_or(-1), json }
    }

    /// Calls every plugin of a list in turn, each with the result of the one before it; DEL in the other order, with
    /// the result of ADD. Returns the last result.
    pub fn call_list(&self, command: &str, id: &str, netns: &Path, list: &[Value], result: &Value) -> Value {
        let mut previous = result.clone();
        let mut order: Vec<&Value> = list.iter().collect();
        if command == "DEL" {
            order.reverse();
        }
        for config in order {
            let mut config = config.clone();
            if !previous.is_null() {
                config["prevResult"] = previous.clone();
            }
            let said = self.call(command, id, netns, &config).ok();
            if command == "ADD" {
                previous = said;
            }
        }
        previous
    }

    /// ADD that must succeed.
    pub fn add(&self, id: &str, ns: &Netns, config: &Value) -> Value {
        self.call("ADD", id, &ns.path(), config).ok()
    }

    /// DEL that must succeed, and say nothing.
    pub fn del(&self, id: &str, ns: &Netns, config: &Value) {
        assert_eq!(self.call("DEL", id, &ns.path(), config).ok(), Value::Null);
    }

    /// Nothing of CNI's is left in the switch: no objects, no interfaces but the machine's own.
    pub fn assert_clean(&self) {
        let lab = &self.net.lab;
        let mut left = Vec::new();
        let clean = eventually(std::time::Duration::from_secs(10), || {
            left.clear();
            for kind in ["bridge", "port", "gateway", "uplink", "nat"] {
                let all = lab.json(&[kind, "list"]);
                let of_cni = all.as_array().expect("array").iter().filter(|o| o["spec"]["owner"] == "cni");
                left.extend(of_cni.map(|o| format!("{kind} {}", o["name"])));
            }
            left.extend(lab.json(&["cni", "list"]).as_array().expect("array").iter().map(Value::to_string));
            left.extend(lab.ns.interfaces().into_iter().filter(|i| i != "up0"));
            left.is_empty()
        });
        assert!(clean, "left behind: {left:?}\n{}", lab.daemon.log());
    }
}
