//! `trunkline container`: what `ovs-docker` does, for docker, podman, pids and namespaces.
//!
//! A container's interface is a TAP port with the labels `container` and `ifname`, by which it is found
//! again.

use std::io;
use std::process::Command;

use serde_json::{Map, Value};
use trunkline_control::Error;
use trunkline_control::model::follow::ENGINE_SOCKET;
use trunkline_control::model::{Follow, PortState, PortStatus};
use trunkline_control::validate::MAX_NAME;

use super::{Context, Outcome, port, topology};
use crate::args::{ContainerCommand, PortOptions, PortType, Setting};
use crate::output::{Look, Output, Table};

const LABEL: &str = "container";
const IFNAME_LABEL: &str = "ifname";

/// The programs that are asked for a container's pid, in this order.
const RUNTIMES: [&str; 2] = [DOCKER, "podman"];
const DOCKER: &str = "docker";

pub(super) async fn run(context: &Context<'_>, command: ContainerCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        ContainerCommand::Attach { container, bridge, follow, options } => {
            attach(context, &container, &bridge, follow, *options).await
        }
        ContainerCommand::Detach { container, ifname } => {
            let ports = client.ports(None).await?;
            let found: Vec<_> = ports.iter().filter(|p| is_of(p, &container, ifname.as_deref())).collect();
            if found.is_empty() {
                let which = ifname.map_or_else(String::new, |i| format!(" named {i}"));
                return Err(Error::not_found(format!("container {container} has no interface{which} here"))
                    .hint("see: trunkline container list")
                    .into());
            }
            for port in found {
                client.del_port(&port.name).await?;
            }
            Ok(())
        }
        ContainerCommand::List(json) => {
            let mut ports = client.ports(None).await?;
            ports.retain(|p| p.spec.labels.contains_key(LABEL));
            if json.json { out.json(&ports) } else { out.print(&list(&ports, out)) }
        }
    }
}

async fn attach(
    context: &Context<'_>,
    container: &str,
    bridge: &str,
    follow: bool,
    mut options: PortOptions,
) -> Outcome {
    if options.netns.is_some() {
        return Err(Error::invalid("--netns does not go with a container")
            .hint(format!("the container says where: trunkline container attach netns:NAME {bridge}"))
            .into());
    }
    let ifname = match &options.ifname {
        Some(Setting::To(Value::String(name))) => name.clone(),
        _ => "eth1".to_owned(),
    };
    let name = port_name(container, &ifname);
    options.ifname = Some(Setting::To(ifname.clone().into()));
    let mut patch = options.patch();
    let place = namespace(container)?;
    if follow {
        patch.insert("follow".into(), follow_of(container, &place)?.to_string().into());
    }
    match place {
        Place::Namespace(netns) => _ = patch.insert("netns".into(), netns.into()),
        Place::Container(_, Some(pid)) => _ = patch.insert("netns".into(), pid.to_string().into()),
        Place::Container(_, None) if follow => {}
        Place::Container(runtime, None) => return Err(stopped(runtime, container).into()),
    }
    let mut labels = Map::new();
    labels.insert(LABEL.into(), container.into());
    labels.insert(IFNAME_LABEL.into(), ifname.into());
    let spec = port::spec(&name, bridge, PortType::Tap, patch, labels)?;
    let made = context.client.add_port(&name, &spec).await?;
    if made.state == PortState::Down {
        eprintln!("trunkline: it is attached when it is there: {}", made.reason);
    }
    context.out.print(&format!("{}\n", made.name))
}

fn is_of(port: &PortStatus, container: &str, ifname: Option<&str>) -> bool {
    let label = |key| port.spec.labels.get(key).map(String::as_str);
    label(LABEL) == Some(container) && (ifname.is_none() || label(IFNAME_LABEL) == ifname)
}

/// `CONTAINER-IFNAME`, as far as it makes a name.
fn port_name(container: &str, ifname: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let container: String = container.chars().map(|c| if fits(c) { c } else { '-' }).collect();
    let room = MAX_NAME.saturating_sub(ifname.len() + 1);
    let container = container.trim_matches('-');
    format!("{}-{ifname}", &container[..container.len().min(room)])
}

/// Where a container is.
#[derive(Debug, PartialEq)]
enum Place {
    /// What to tell the daemon.
    Namespace(String),
    /// The runtime that has it, and its first process if it runs.
    Container(&'static str, Option<u32>),
}

fn stopped(runtime: &str, container: &str) -> Error {
    Error::conflict(format!("container {container} is not running"))
        .hint(format!("start it first: {runtime} start {container}; or give --follow"))
}

/// What the daemon is to follow.
fn follow_of(container: &str, place: &Place) -> Result<Follow, Error> {
    match place {
        Place::Namespace(netns) if !container.starts_with("pid:") => format!("netns:{netns}").parse(),
        Place::Namespace(_) => Err(Error::invalid("a process that has ended does not come back")
            .hint("to follow it, give the container's name, netns:NAME or a path")),
        Place::Container(DOCKER, _) => {
            let host = std::env::var("DOCKER_HOST").unwrap_or_default();
            follow_docker(container, &host)
        }
        Place::Container(runtime, _) => format!("{runtime}:{container}").parse(),
    }
}

/// The engine that `docker` talks to is the one to follow.
fn follow_docker(container: &str, host: &str) -> Result<Follow, Error> {
    let socket = match (host, host.strip_prefix("unix://")) {
        ("", _) => None,
        (_, Some(socket)) => Some(socket),
        (_, None) => {
            return Err(Error::invalid(format!("containers of {host} cannot be followed"))
                .hint("DOCKER_HOST must be a socket of this machine: unix:///run/docker.sock"));
        }
    };
    // As docker itself spells the default.
    let socket = socket.filter(|s| ![ENGINE_SOCKET, "/var/run/docker.sock"].contains(s));
    let at = socket.map_or_else(String::new, |socket| format!("@{socket}"));
    format!("{DOCKER}:{container}{at}").parse()
}

fn namespace(container: &str) -> Result<Place, Error> {
    let empty = || {
        Error::invalid(format!("'{container}' names no container"))
            .hint("give a name, pid:N, netns:NAME or a path")
    };
    if let Some(pid) = container.strip_prefix("pid:") {
        return match pid.parse::<u32>() {
            Ok(pid) if pid > 0 => Ok(Place::Namespace(pid.to_string())),
            _ => Err(Error::invalid(format!("'{pid}' is not a pid")).hint("write it like pid:4711")),
        };
    }
    if let Some(name) = container.strip_prefix("netns:") {
        return if name.is_empty() { Err(empty()) } else { Ok(Place::Namespace(name.to_owned())) };
    }
    if container.starts_with('/') {
        return Ok(Place::Namespace(container.to_owned()));
    }
    if container.is_empty() {
        return Err(empty());
    }
    let (mut asked, mut silent) = (Vec::new(), None);
    for runtime in RUNTIMES {
        match pid(runtime, container) {
            Ok(Answer::Pid(pid)) => return Ok(Place::Container(runtime, Some(pid))),
            Ok(Answer::Stopped) => return Ok(Place::Container(runtime, None)),
            Ok(Answer::Unknown) => asked.push(runtime),
            Ok(Answer::NotInstalled) => {}
            // The engine may not run because the other one is used.
            Err(error) => silent = silent.or(Some(error)),
        }
    }
    if let Some(error) = silent {
        return Err(error);
    }
    let error = match asked.as_slice() {
        [] => Error::failed(format!(
            "cannot look for container {container}: neither docker nor podman is installed"
        )),
        asked => Error::not_found(format!("{} knows no container {container}", asked.join(" and "))),
    };
    Err(error.hint("for other namespaces give pid:N, netns:NAME or a path"))
}

enum Answer {
    Pid(u32),
    Stopped,
    Unknown,
    NotInstalled,
}

/// Asks a container runtime for the pid of a container's first process.
fn pid(runtime: &str, container: &str) -> Result<Answer, Error> {
    let mut command = Command::new(runtime);
    command.args(["inspect", "--type", "container", "--format", "{{.State.Pid}}", "--", container]);
    let output = match command.output() {
        Ok(output) => output,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Answer::NotInstalled),
        Err(e) => return Err(Error::failed(format!("cannot run {runtime}: {e}"))),
    };
    read_pid(runtime, container, output.status.success(), &output.stdout, &output.stderr)
}

fn read_pid(runtime: &str, container: &str, ok: bool, stdout: &[u8], stderr: &[u8]) -> Result<Answer, Error> {
    if !ok {
        let said = String::from_utf8_lossy(stderr).trim().replace('\n', " ");
        if said.to_lowercase().contains("no such") {
            return Ok(Answer::Unknown);
        }
        return Err(Error::failed(format!("{runtime} does not say where container {container} is: {said}"))
            .hint("for other namespaces give pid:N, netns:NAME or a path"));
    }
    match String::from_utf8_lossy(stdout).trim().parse() {
        Ok(0) => Ok(Answer::Stopped),
        Ok(pid) => Ok(Answer::Pid(pid)),
        Err(_) => Err(Error::failed(format!("{runtime} gave no pid for container {container}"))),
    }
}

fn list(ports: &[PortStatus], out: &Output) -> String {
    let mut table = Table::new(&["CONTAINER", "INTERFACE", "BRIDGE", "PORT", "VLAN", "STATE", "ADDRESSES"]);
    for p in ports {
        let plain = |text: String| (Look::Plain, text);
        let label = |key| p.spec.labels.get(key).cloned().unwrap_or_default();
        table.row([
            plain(label(LABEL)),
            plain(label(IFNAME_LABEL)),
            plain(p.spec.bridge.clone()),
            plain(p.name.clone()),
            plain(topology::vlan(&p.spec)),
            topology::state(p.state),
            plain(topology::addresses(&p.spec)),
        ]);
        if !p.reason.is_empty() {
            table.note(Look::Bad, &p.reason);
        }
    }
    table.render(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::topology::samples;

    #[test]
    fn ports_are_named_after_their_container() {
        for (container, ifname, name) in [
            ("web", "eth1", "web-eth1"),
            ("pid:4711", "eth0", "pid-4711-eth0"),
            ("/run/netns/blue", "eth0", "run-netns-blue-eth0"),
            ("größe", "e", "gr--e-e"),
        ] {
            assert_eq!(port_name(container, ifname), name);
        }
        let long = port_name(&"x".repeat(100), "eth1");
        assert_eq!((long.len(), &long[58..]), (MAX_NAME, "-eth1"));
    }

    #[test]
    fn places_are_understood() {
        for (container, netns) in
            [("pid:4711", "4711"), ("netns:blue", "blue"), ("/proc/1/ns/net", "/proc/1/ns/net")]
        {
            assert_eq!(namespace(container).unwrap(), Place::Namespace(netns.to_owned()));
        }
        for (container, says) in [
            ("pid:x", "'x' is not a pid; write it like pid:4711"),
            ("pid:0", "'0' is not a pid"),
            ("netns:", "'netns:' names no container"),
            ("", "'' names no container"),
        ] {
            assert!(namespace(container).unwrap_err().to_string().starts_with(says));
        }
    }

    #[test]
    fn what_is_followed_is_told() {
        let of = |container: &str, place: Place| follow_of(container, &place).map(|f| f.to_string());
        assert_eq!(of("netns:blue", Place::Namespace("blue".into())).unwrap(), "netns:blue");
        assert_eq!(of("/run/x", Place::Namespace("/run/x".into())).unwrap(), "netns:/run/x");
        assert_eq!(of("db", Place::Container("podman", None)).unwrap(), "podman:db");
        let said = of("pid:4711", Place::Namespace("4711".into())).unwrap_err().to_string();
        assert!(said.contains("does not come back"), "{said}");
        for (host, follow) in [
            ("", "docker:web"),
            ("unix:///var/run/docker.sock", "docker:web"),
            ("unix:///tmp/d.sock", "docker:web@/tmp/d.sock"),
        ] {
            assert_eq!(follow_docker("web", host).unwrap().to_string(), follow);
        }
        let said = follow_docker("web", "tcp://192.0.2.1:2375").unwrap_err().to_string();
        assert!(said.contains("containers of tcp://192.0.2.1:2375 cannot be followed"), "{said}");
    }

    #[test]
    fn what_a_runtime_says_is_understood() {
        let read = |ok, stdout: &str, stderr: &str| {
            read_pid("docker", "web", ok, stdout.as_bytes(), stderr.as_bytes())
        };
        assert!(matches!(read(true, "4711\n", ""), Ok(Answer::Pid(4711))));
        assert!(matches!(read(false, "", "Error: No such container: web\n"), Ok(Answer::Unknown)));
        let error = |r: Result<Answer, Error>| r.err().unwrap().to_string();
        assert!(matches!(read(true, "0\n", ""), Ok(Answer::Stopped)));
        assert_eq!(
            stopped("docker", "web").to_string(),
            "container web is not running; start it first: docker start web; or give --follow"
        );
        assert!(
            error(read(false, "", "Cannot connect to the Docker daemon\nIs it up?"))
                .contains("daemon Is it up?")
        );
        assert!(error(read(true, "?", "")).contains("gave no pid"));
    }

    #[test]
    fn interfaces_are_found_by_their_labels() {
        let mut port = samples::ports().swap_remove(2);
        port.spec.labels.insert(IFNAME_LABEL.into(), "eth0".into());
        assert!(is_of(&port, "web", None) && is_of(&port, "web", Some("eth0")));
        assert!(!is_of(&port, "web", Some("eth1")) && !is_of(&port, "we", None));
        let expected = "\
CONTAINER  INTERFACE  BRIDGE  PORT  VLAN  STATE  ADDRESSES
web        eth0       br0     web   10    up     10.7.0.1/24
";
        assert_eq!(list(&[port], &Output::plain()), expected);
    }
}
