//! ADD, DEL, CHECK, GC, STATUS.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::Deserialize;
use serde_json::Value;
use trunkline_control::client::Client;
use trunkline_control::model::attach::{
    Attach, AttachmentStatus, InterfaceStatus, NetworkWish, attachment_id,
};
use trunkline_control::model::l3::UplinkSpec;
use trunkline_control::model::{LinkRoute, Owner, PortState};
use trunkline_control::{Error, ErrorKind};

use super::config::{Common, Config, Publishing, Version};
use super::ipam::Ipam;
use super::result::{Interface, Ip, Outcome, Route};
use super::{Answer, Code, Command, Env, Failure, Result};

/// Ports are down for a moment after the daemon was started again.
const CONVERGENCE: Duration = Duration::from_secs(2);
const PERIOD: Duration = Duration::from_millis(100);

/// One call.
struct Call<'a> {
    env: &'a Env,
    json: Value,
    version: Version,
    common: Common,
    client: Client,
    runtime: tokio::runtime::Runtime,
}

pub(super) fn run(
    command: Command,
    env: &Env,
    json: Value,
    version: Version,
    var: &dyn Fn(&str) -> Option<String>,
) -> Result<Answer> {
    let common = Common::read(&json, var)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(Code::Io, format!("cannot start: {e}")))?;
    let client = Client::new(&common.run_dir);
    let call = Call { env, json, version, common, client, runtime };
    match command {
        Command::Add => call.add(),
        Command::Del => call.del().map(|()| Answer::default()),
        Command::Check => call.check().map(|()| Answer::default()),
        Command::Gc => call.gc().map(|()| Answer::default()),
        Command::Status => call.status().map(|()| Answer::default()),
    }
}

impl Call<'_> {
    fn id(&self) -> String {
        attachment_id(Owner::Cni, &self.common.name, &self.env.container, &self.env.ifname)
    }

    fn ipam(&self) -> Result<Option<Ipam>> {
        let find = |name: &String| Ipam::find(name, self.env, &self.json, self.version);
        self.common.ipam.as_ref().map(find).transpose()
    }

    /// Asks the daemon.
    fn ask<T>(&self, future: impl Future<Output = std::result::Result<T, Error>>) -> Result<T> {
        self.runtime.block_on(future).map_err(|e| self.failure(&e))
    }

    fn failure(&self, error: &Error) -> Failure {
        let failure = Failure::of_daemon(error);
        match UnixStream::connect(socket(&self.common.run_dir)) {
            Err(e) if e.kind() != std::io::ErrorKind::PermissionDenied => {
                Failure { code: Code::Later, ..failure }
            }
            _ => failure,
        }
    }

    /// The attachment, if there is one.
    fn attachment(&self) -> Result<Option<AttachmentStatus>> {
        match self.runtime.block_on(self.client.attachment(&self.id())) {
            Ok(status) => Ok(Some(status)),
            Err(e) if e.kind == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.failure(&e)),
        }
    }

    fn add(self) -> Result<Answer> {
        let config = Config::read(&self.json)?;
        let previous = match self.json.get("prevResult") {
            None | Some(Value::Null) => Outcome::default(),
            Some(previous) => Outcome::read(previous, "prevResult")?,
        };
        let publish = config.published()?;
        let env = self.env;
        if let Some(there) =
            previous.interfaces.iter().find(|i| i.name == env.ifname && !i.sandbox.is_empty())
        {
            let what = format!("a plugin before this one has made the interface {}", there.name);
            return Err(Failure::new(Code::Config, what).details(
                "make trunkline the first plugin of the list: it makes the container's interface itself",
            ));
        }
        if std::fs::metadata(&env.netns).is_err() {
            return Err(Failure::new(Code::Environment, format!("CNI_NETNS '{}' does not exist", env.netns)));
        }
        // Before anything is reserved: a second ADD must not take the addresses of the first away again.
        if self.attachment()?.is_some() {
            let what = format!(
                "container {} has {} in network {} already",
                env.container, env.ifname, self.common.name
            );
            return Err(Failure::new(Code::Taken, what).details("DEL comes before another ADD"));
        }
        let ipam = self.ipam()?;
        let addresses = match &ipam {
            Some(ipam) => ipam.add(env)?,
            None => given(&config),
        };
        let made = self.asked(&config, publish, &addresses).and_then(|(asked, addresses)| {
            let status = self.ask(self.client.attach(&asked))?;
            Ok((addresses, status))
        });
        let (addresses, status) = match made {
            Ok(made) => made,
            Err(failure) => {
                release(ipam.as_ref(), env);
                return Err(failure);
            }
        };
        let outcome = self.outcome(&config, previous, addresses, &status);
        let json = Some(outcome.write(self.version));
        let env = env.clone();
        let undo = move || {
            if let Err(error) = self.runtime.block_on(self.client.detach(&status.id)) {
                eprintln!("trunkline: {error}");
            }
            release(ipam.as_ref(), &env);
        };
        Ok(Answer { json, undo: None }.with(undo))
    }

    /// What the daemon is asked for, and the addresses with the routes that come of the configuration.
    fn asked(
        &self,
        config: &Config,
        publish: Vec<trunkline_control::model::attach::PublishWish>,
        found: &Outcome,
    ) -> Result<(Attach, Outcome)> {
        let mut addresses = found.clone();
        let nets = || addresses.ips.iter().map(|ip| ip.address.trunc());
        if let Some(stray) = config.gateway.0.iter().find(|g| !nets().any(|net| net.contains(*g))) {
            let what = format!("'gateway' {stray} is in no network of the container's addresses");
            return Err(Failure::new(Code::Config, what).details("give one of the subnet that IPAM has"));
        }
        if config.routes() {
            addresses.ips.iter_mut().try_for_each(|ip| choose_gateway(ip, config))?;
        }
        if !publish.is_empty() && !config.routes() {
            return Err(Failure::new(Code::Config, "'runtimeConfig.portMappings' needs a gateway")
                .details("set \"isGateway\": true, or leave portMappings out of the capabilities"));
        }
        let gateway = |v4: bool| {
            addresses.ips.iter().filter(|ip| ip.address.addr().is_ipv4() == v4).find_map(|ip| ip.gateway)
        };
        let mut routes = addresses.routes.clone();
        if config.is_default_gateway {
            for (v4, net) in [(true, "0.0.0.0/0"), (false, "::/0")] {
                let dst: IpNet = net.parse().expect("a constant");
                let there = routes.iter().any(|r| r.dst == dst);
                if let Some(gw) = gateway(v4).filter(|_| !there) {
                    routes.push(Route { dst, gw: Some(gw), more: Default::default() });
                }
            }
        }
        let (mut default_routes, mut link_routes) = (Vec::new(), Vec::new());
        for route in &routes {
            if let Some((key, value)) = route.more.iter().next() {
                let what = format!("route {}: '{key}' is not supported: {value}", route.dst);
                return Err(Failure::new(Code::Field, what).details("leave it out of the IPAM configuration"));
            }
            let via = route.gw.or_else(|| gateway(route.dst.addr().is_ipv4()));
            match (route.dst.prefix_len(), via) {
                (0, Some(via)) => default_routes.push(via),
                (0, None) => {
                    let what = format!("route {}: there is no gateway for it", route.dst);
                    return Err(
                        Failure::new(Code::Config, what).details("give it a 'gw', or the subnet a 'gateway'")
                    );
                }
                (_, via) => link_routes.push(LinkRoute { to: route.dst.trunc(), via }),
            }
        }
        addresses.routes = routes;
        let gateways = addresses.ips.iter().filter_map(|ip| {
            let gateway = ip.gateway.filter(|_| config.routes())?;
            IpNet::new(gateway, ip.address.prefix_len()).ok()
        });
        let mut gateways: Vec<IpNet> = gateways.collect();
        gateways.sort_unstable();
        gateways.dedup();
        let network = NetworkWish {
            name: self.common.name.clone(),
            bridge: config.bridge.clone(),
            mesh: config.mesh.clone(),
            vlan: Some(config.vlan).filter(|vlan| *vlan > 0),
            mtu: config.mtu.filter(|mtu| *mtu > 0),
            icc: config.icc.unwrap_or(true),
            anti_spoof: config.anti_spoof,
            gateways,
            masquerade: config.ip_masq,
            uplink: config.uplink.clone(),
            proxy: config.publish == Publishing::Proxy,
        };
        let asked = Attach {
            owner: Owner::Cni,
            network,
            container: self.env.container.clone(),
            netns: self.env.netns.clone(),
            ifname: self.env.ifname.clone(),
            addresses: addresses.ips.iter().map(|ip| ip.address).collect(),
            default_routes,
            routes: link_routes,
            mac: config.mac(&self.env.args),
            publish,
            labels: labels(&self.env.args),
        };
        Ok((asked, addresses))
    }

    fn outcome(
        &self,
        config: &Config,
        previous: Outcome,
        made: Outcome,
        status: &AttachmentStatus,
    ) -> Outcome {
        let mut outcome = previous;
        let at = outcome.interfaces.len();
        outcome.interfaces.push(Interface {
            name: self.env.ifname.clone(),
            mac: status.port.mac.clone().unwrap_or_default(),
            mtu: status.port.mtu,
            sandbox: self.env.netns.clone(),
            ..Interface::default()
        });
        outcome.ips.extend(made.ips.into_iter().map(|ip| Ip { interface: Some(at), ..ip }));
        outcome.routes.extend(made.routes);
        if !config.dns.is_empty() {
            outcome.dns = config.dns.clone();
        } else if !made.dns.is_empty() {
            outcome.dns = made.dns;
        }
        outcome
    }

    /// Whatever of it is there goes; nothing of it need be.
    fn del(&self) -> Result<()> {
        self.ask(self.client.detach(&self.id()))?;
        match self.ipam()? {
            Some(ipam) => ipam.tell(Command::Del, self.env),
            None => Ok(()),
        }
    }

    fn check(&self) -> Result<()> {
        let config = Config::read(&self.json)?;
        let previous = self.json.get("prevResult").filter(|p| !p.is_null());
        let previous = previous.ok_or_else(|| Failure::new(Code::Config, "CHECK needs 'prevResult'"))?;
        let previous = Outcome::read(previous, "prevResult")?;
        if let Some(ipam) = self.ipam()? {
            ipam.tell(Command::Check, self.env)?;
        }
        let end = std::time::Instant::now() + CONVERGENCE;
        let status = loop {
            let status =
                self.attachment()?.ok_or_else(|| changed("the container is not attached to the switch"))?;
            if status.port.state == PortState::Up || std::time::Instant::now() > end {
                break status;
            }
            std::thread::sleep(PERIOD);
        };
        self.compare(&config, &previous, &status)
    }

    /// What ADD made, beside what is.
    fn compare(&self, config: &Config, previous: &Outcome, status: &AttachmentStatus) -> Result<()> {
        let (port, network) = (&status.port, &status.network);
        if port.state != PortState::Up {
            return Err(changed(format!("port {} of the switch is down: {}", port.name, port.reason)));
        }
        if (port.spec.bridge.as_str(), port.spec.vlan) != (network.bridge.as_str(), network.vlan) {
            let vlan = port.spec.vlan.map_or_else(String::new, |vlan| format!(", VLAN {vlan}"));
            return Err(changed(format!("port {} is on bridge {}{vlan}", port.name, port.spec.bridge)));
        }
        for wish in config.published()? {
            let published = &status.attachment.published;
            if !published
                .iter()
                .any(|p| (p.proto, p.host, p.port, p.to) == (wish.proto, wish.host, wish.port, wish.to))
            {
                let what = format!("port {} ({}) of the host is not published", wish.port, wish.proto.name());
                return Err(changed(what));
            }
        }
        let ifname = &self.env.ifname;
        let ours = |i: &&Interface| i.name == *ifname && !i.sandbox.is_empty();
        let at = previous.interfaces.iter().position(|i| ours(&i));
        let at =
            at.ok_or_else(|| Failure::new(Code::Config, format!("'prevResult' has no interface {ifname}")))?;
        let there = status.interface.as_ref();
        let there =
            there.ok_or_else(|| changed(format!("there is no interface {ifname} in {}", self.env.netns)))?;
        let wanted = &previous.interfaces[at];
        if !wanted.mac.is_empty() && !wanted.mac.eq_ignore_ascii_case(&there.mac) {
            return Err(changed(format!("{ifname} has the MAC address {}, not {}", there.mac, wanted.mac)));
        }
        if !there.up {
            return Err(changed(format!("{ifname} is not up")));
        }
        let ips = previous.ips.iter().filter(|ip| ip.interface.is_none_or(|i| i == at));
        for ip in ips {
            if !there.addresses.contains(&ip.address) {
                return Err(changed(format!("{ifname} has not the address {}", ip.address)));
            }
        }
        previous.routes.iter().try_for_each(|route| check_route(ifname, there, route))
    }

    fn gc(&self) -> Result<()> {
        let valid = self
            .json
            .get("cni.dev/valid-attachments")
            .ok_or_else(|| Failure::new(Code::Config, "GC needs 'cni.dev/valid-attachments'"))?;
        let valid: Vec<Valid> = serde_path_to_error::deserialize(valid).map_err(|e| {
            Failure::new(Code::Config, format!("'cni.dev/valid-attachments{}': {}", e.path(), e.inner()))
        })?;
        let id = |v: &Valid| attachment_id(Owner::Cni, &self.common.name, &v.container, &v.ifname);
        let valid: BTreeSet<String> = valid.iter().map(id).collect();
        let prefix = attachment_id(Owner::Cni, &self.common.name, "", "");
        let prefix = prefix.trim_end_matches(':');
        let all = self.ask(self.client.attachments())?;
        let ipam = self.ipam()?;
        let mut failures = Vec::new();
        for stale in all.iter().filter(|a| a.attachment.network == prefix && !valid.contains(&a.id)) {
            let (_, ifname) = stale.id.rsplit_once(':').unwrap_or_default();
            let env = Env {
                container: stale.attachment.container.clone(),
                ifname: ifname.to_owned(),
                netns: String::new(),
                ..self.env.clone()
            };
            let gone = self.ask(self.client.detach(&stale.id));
            let gone = gone.and_then(|()| ipam.as_ref().map_or(Ok(()), |ipam| ipam.tell(Command::Del, &env)));
            failures.extend(gone.err());
        }
        if let Some(ipam) = &ipam {
            failures.extend(ipam.tell(Command::Gc, self.env).err());
        }
        // All is tried; the first is told.
        match failures.into_iter().next() {
            Some(failure) => Err(failure),
            None => Ok(()),
        }
    }

    fn status(&self) -> Result<()> {
        let config = Config::read(&self.json)?;
        let unavailable = |what: String| Failure::new(Code::Unavailable, what);
        let asked = self.runtime.block_on(self.client.status());
        asked.map_err(|e| unavailable(e.message.clone()).details(e.hint))?;
        if let Some(mesh) = &config.mesh
            && let Err(error) = self.runtime.block_on(self.client.mesh(mesh))
        {
            return Err(unavailable(error.message.clone()).details(error.hint));
        }
        if let Some(name) = &config.uplink {
            let uplinks = self.ask(self.client.list::<UplinkSpec>())?;
            let uplink = uplinks.into_iter().find(|u| u.name == *name);
            let uplink = uplink.ok_or_else(|| unavailable(format!("there is no uplink {name}")))?;
            if uplink.state != PortState::Up {
                return Err(Failure::new(Code::Limited, format!("uplink {name} is down: {}", uplink.reason)));
            }
        }
        match self.ipam()? {
            Some(ipam) => ipam.tell(Command::Status, self.env),
            None => Ok(()),
        }
    }
}

/// One of `cni.dev/valid-attachments`.
#[derive(Deserialize)]
struct Valid {
    #[serde(rename = "containerID")]
    container: String,
    ifname: String,
}

impl Answer {
    fn with(self, undo: impl FnOnce() + 'static) -> Answer {
        Answer { undo: Some(Box::new(undo)), ..self }
    }
}

fn socket(run_dir: &std::path::Path) -> PathBuf {
    run_dir.join("trunkline.sock")
}

fn changed(what: impl Into<String>) -> Failure {
    Failure::new(Code::Changed, what)
}

/// Gives addresses back that nobody will use; what goes wrong with that is told beside what went wrong before.
fn release(ipam: Option<&Ipam>, env: &Env) {
    if let Some(Err(failure)) = ipam.map(|ipam| ipam.tell(Command::Del, env)) {
        eprintln!("trunkline: the addresses are not given back: {}", failure.msg);
    }
}

/// Without an IPAM plugin: the addresses that the runtime gives.
fn given(config: &Config) -> Outcome {
    let ip = |address: &IpNet| Ip { address: *address, gateway: None, interface: None };
    Outcome { ips: config.runtime_config.ips.iter().map(ip).collect(), ..Outcome::default() }
}

/// The switch's address in the network of an address: that of our own configuration, else that which IPAM says, else
/// the first.
fn choose_gateway(ip: &mut Ip, config: &Config) -> Result<()> {
    let net = ip.address.trunc();
    let own = config.gateway.0.iter().find(|g| net.contains(*g)).copied();
    let first = || {
        net.hosts().next().filter(|a| *a != ip.address.addr() && net.prefix_len() < net.max_prefix_len() - 1)
    };
    ip.gateway = own.or(ip.gateway).or_else(first);
    match ip.gateway {
        Some(gateway) if net.contains(&gateway) => Ok(()),
        Some(gateway) => {
            Err(Failure::new(Code::Config, format!("gateway {gateway} is not in the network {net}"))
                .details("the switch can be the router of containers only in their own network"))
        }
        None => Err(Failure::new(Code::Config, format!("there is no gateway for {}", ip.address))
            .details("give the subnet a 'gateway', or leave isGateway, isDefaultGateway and ipMasq out")),
    }
}

/// What Kubernetes says of the pod.
fn labels(args: &[(String, String)]) -> BTreeMap<String, String> {
    let get = |key: &str| args.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let pod = get("K8S_POD_NAMESPACE").zip(get("K8S_POD_NAME")).map(|(ns, name)| format!("{ns}/{name}"));
    pod.into_iter()
        .map(|pod| ("pod".to_owned(), pod.chars().filter(|c| !c.is_control()).take(60).collect()))
        .collect()
}

fn check_route(ifname: &str, there: &InterfaceStatus, route: &Route) -> Result<()> {
    let same = |via: Option<IpAddr>| route.gw.is_none() || route.gw == via;
    let found = match route.dst.prefix_len() {
        0 => there.default_routes.iter().any(|g| g.is_ipv4() == route.dst.addr().is_ipv4() && same(Some(*g))),
        _ => there.routes.iter().any(|r| r.to == route.dst.trunc() && same(r.via)),
    };
    let via = route.gw.map_or_else(String::new, |gw| format!(" by {gw}"));
    if found { Ok(()) } else { Err(changed(format!("there is no route to {}{via} on {ifname}", route.dst))) }
}
