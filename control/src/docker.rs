//! The docker plugin: a network driver and an IPAM driver of libnetwork's remote sort.
//!
//! ```text
//! dockerd ──HTTP──▶ server ──▶ Plugin ──one edit each──▶ controller        (bridges, gateways, NAT rules, ports)
//!                                │
//!                                └──▶ listen: sockets on the host's published ports
//! ```
//!
//! What docker asks for becomes objects of the desired state that belong to docker, and a note of them in
//! [`DockerSpec`]: docker does not say it again after a restart. `docs/docker.md` tells how it fits together.

mod collect;
mod endpoints;
mod ipam;
mod networks;
mod options;
mod protocol;
mod server;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rustix::net::SocketType;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::controller::Controller;
use crate::endpoint::listen::{self, Sockets};
use crate::endpoint::ports::Held;
use crate::endpoint::{Carriers, announce, forget, has_default_route, mac_of, outside, short};
use crate::model::Desired;
use crate::model::docker::{DockerSpec, DockerStatus};
use crate::model::l3::Proto;
use crate::net::session;
use crate::rundir::listen_privately;
use crate::{Error, Result};
pub use options::network_wish;
use protocol::{CreateEndpoint, CreateNetwork, EndpointRef, Interface, Joined, NetworkRef, PORT_MAP};

/// Until tasks that were told to end have ended.
const TASKS_END: Duration = Duration::from_millis(20);

/// The plugin; what it serves is what is desired.
pub struct Plugin {
    controller: Controller,
    served: Mutex<Served>,
    /// What carries to the published ports of an endpoint, by its id.
    carriers: Carriers,
    /// Endpoints whose interface nobody uses, and since when that is known.
    waiting: Mutex<BTreeMap<String, Instant>>,
    /// Held while ports are being published.
    publishing: tokio::sync::Mutex<()>,
}

/// Where the plugin is served now.
#[derive(Default)]
struct Served {
    socket: PathBuf,
    task: Option<JoinHandle<()>>,
    /// Why it is not.
    trouble: Option<Error>,
    /// Given by the service manager, which listens before anybody else does.
    inherited: Option<StdListener>,
}

impl Served {
    /// The path of the socket that the service manager gave us.
    fn given(&self) -> Option<PathBuf> {
        Some(self.inherited.as_ref()?.local_addr().ok()?.as_pathname()?.to_owned())
    }

    /// Removes the socket, unless others listen on it too.
    fn remove(&self) {
        if self.given().as_deref() != Some(&self.socket) {
            let _ = std::fs::remove_file(&self.socket);
        }
    }
}

impl Plugin {
    pub(crate) fn new(controller: Controller, inherited: Option<StdListener>) -> Arc<Plugin> {
        let served = Mutex::new(Served { inherited, ..Served::default() });
        let (carriers, waiting) = (Carriers::default(), Mutex::default());
        let publishing = tokio::sync::Mutex::default();
        Arc::new(Plugin { controller, served, carriers, waiting, publishing })
    }

    fn docker(&self) -> Option<DockerSpec> {
        self.controller.desired().docker.clone()
    }

    /// Serves the plugin as is desired, or not at all.
    pub(crate) fn follow(self: &Arc<Self>) {
        let wanted = self.docker().filter(|d| d.enabled).map(|d| PathBuf::from(d.socket()));
        let mut served = self.served.lock();
        let running = served.task.as_ref().is_some_and(|t| !t.is_finished());
        match &wanted {
            Some(socket) if running && served.socket == *socket => return,
            None if served.task.is_none() => return,
            _ => {}
        }
        if let Some(task) = served.task.take() {
            task.abort();
            served.remove();
        }
        let Some(socket) = wanted else {
            served.trouble = None;
            tracing::info!("the docker plugin is not served any more");
            return;
        };
        let given = served.inherited.as_ref().filter(|_| served.given().as_deref() == Some(&socket));
        match listener(&socket, given) {
            Ok(listener) => {
                let plugin = self.clone();
                served.task = Some(tokio::spawn(async move {
                    if let Err(error) = server::serve(plugin, listener).await {
                        tracing::error!(%error, "the docker plugin failed");
                    }
                }));
                served.trouble = None;
                tracing::info!(socket = %socket.display(), "serving docker");
            }
            Err(error) => {
                if served.trouble.as_ref() != Some(&error) {
                    tracing::error!(%error, "docker is not served");
                }
                served.trouble = Some(error);
            }
        }
        served.socket = socket;
    }

    /// The path of the socket that the service manager gave us.
    pub(crate) fn inherited(&self) -> Option<String> {
        Some(self.served.lock().given()?.to_str()?.to_owned())
    }

    /// Serves docker from now on, or leaves everything as it was.
    pub(crate) async fn enable(self: &Arc<Self>, socket: Option<String>) -> Result<()> {
        let before = self.docker();
        let change = move |desired: &mut Desired| {
            let docker = desired.docker.get_or_insert_default();
            (docker.enabled, docker.socket) = (true, socket);
            Ok(())
        };
        self.controller.edit(change).await?;
        self.follow();
        let trouble = self.served.lock().trouble.clone();
        if let Some(error) = trouble {
            let back = move |desired: &mut Desired| {
                match (&mut desired.docker, before) {
                    (Some(now), Some(before)) => {
                        (now.enabled, now.socket) = (before.enabled, before.socket);
                    }
                    (docker, _) => *docker = None,
                }
                Ok(())
            };
            self.controller.edit(back).await?;
            self.follow();
            return Err(error);
        }
        Ok(())
    }

    pub(crate) fn status(&self) -> DockerStatus {
        let docker = self.docker();
        let served = self.served.lock();
        let enabled = docker.as_ref().is_some_and(|d| d.enabled);
        let DockerSpec { socket, networks, endpoints, .. } = docker.unwrap_or_default();
        DockerStatus {
            enabled,
            socket: socket.unwrap_or_else(|| crate::model::docker::DOCKER_SOCKET.to_owned()),
            serving: served.task.as_ref().is_some_and(|t| !t.is_finished()),
            reason: served.trouble.as_ref().map(ToString::to_string).unwrap_or_default(),
            networks,
            endpoints,
        }
    }

    /// Takes the host's ports again that were published when the last daemon ended.
    pub(crate) fn resume(&self) {
        // What is being published has its sockets already.
        let (Some(docker), Ok(_guard)) = (self.docker(), self.publishing.try_lock()) else { return };
        for (id, endpoint) in &docker.endpoints {
            if let Err(error) = self.carriers.resume(id, &endpoint.published, &endpoint.addresses) {
                tracing::error!(endpoint = short(id), %error, "a published port is lost");
            }
        }
    }

    /// Ends serving; the socket is removed.
    pub(crate) fn stop(&self) {
        let mut served = self.served.lock();
        if let Some(task) = served.task.take() {
            task.abort();
            served.remove();
        }
        self.carriers.clear();
    }

    async fn create_network(&self, asked: CreateNetwork) -> Result<()> {
        let has_default = has_default_route().await;
        self.controller.edit(move |d| networks::create(d, &asked, has_default)).await
    }

    async fn delete_network(&self, asked: NetworkRef) -> Result<()> {
        self.controller.edit(move |d| networks::delete(d, &asked.network_id)).await
    }

    async fn create_endpoint(&self, asked: CreateEndpoint) -> Result<Interface> {
        self.controller.edit(move |d| endpoints::create(d, &asked)).await
    }

    async fn delete_endpoint(&self, asked: EndpointRef) -> Result<()> {
        self.remove(&asked.endpoint_id).await
    }

    /// Removes an endpoint and all that is remembered of its addresses.
    async fn remove(&self, id: &str) -> Result<()> {
        self.waiting.lock().remove(id);
        let of = id.to_owned();
        let gone = move |desired: &mut Desired| {
            let found = endpoints::find(desired, &of).ok().map(|(n, e)| (n.clone(), e.clone()));
            endpoints::delete(desired, &of);
            Ok(found)
        };
        let gone = self.controller.edit(gone).await?;
        self.carriers.drop(id);
        if let Some((network, endpoint)) = gone {
            forget(&self.controller, &network.bridge, &endpoint.addresses).await;
        }
        Ok(())
    }

    fn info(&self, asked: &EndpointRef) -> Value {
        match endpoints::find(&self.controller.desired(), &asked.endpoint_id) {
            Ok((network, _)) => {
                json!({ "port": endpoints::port_name(&asked.endpoint_id), "bridge": network.bridge })
            }
            Err(_) => json!({}),
        }
    }

    async fn join(&self, asked: EndpointRef) -> Result<Joined> {
        let EndpointRef { endpoint_id: id, sandbox_key: sandbox, .. } = asked;
        let (_, endpoint) =
            endpoints::find(&self.controller.desired(), &id).map(|(n, e)| (n.clone(), e.clone()))?;
        let name = endpoints::interface(&id, &endpoint);
        // Docker may let a container leave and join again, and puts the interface back for that, unless it
        // went with the container's namespace.
        let anew = !tokio::task::spawn_blocking(move || is_here(&name)).await.unwrap_or(true);
        let (of, at) = (id.clone(), sandbox.clone());
        let joined = self.controller.edit(move |d| endpoints::join(d, &of, &at, anew)).await?;
        self.waiting.lock().remove(&id);
        announce::when_there(sandbox, endpoint.mac, joined.interface_name.src_name.clone());
        Ok(joined)
    }

    async fn leave(&self, asked: EndpointRef) -> Result<()> {
        let EndpointRef { endpoint_id: id, .. } = asked;
        let of = id.clone();
        self.edit(move |d| endpoints::leave(d, &of)).await?;
        self.carriers.drop(&id);
        Ok(())
    }

    async fn publish(&self, asked: EndpointRef) -> Result<()> {
        let EndpointRef { endpoint_id: id, options, .. } = asked;
        let bindings: Vec<protocol::PortBinding> = match options.get(PORT_MAP) {
            None | Some(Value::Null) => Vec::new(),
            Some(list) => serde_json::from_value(list.clone())
                .map_err(|e| Error::invalid(e.to_string()).within(PORT_MAP))?,
        };
        if bindings.is_empty() {
            return Ok(());
        }
        let _guard = self.publishing.lock().await;
        if self.carriers.drop(&id) {
            // Asked twice: the sockets are closed when their tasks have ended.
            tokio::time::sleep(TASKS_END).await;
        }
        let desired = self.controller.desired();
        let (network, endpoint) = endpoints::find(&desired, &id).map(|(n, e)| (n.clone(), e.clone()))?;
        let taken: Vec<Sockets> = bindings.iter().map(take).collect::<Result<_>>()?;
        let outside = outside(&self.controller, &network).await;
        let held: Vec<Held> = taken.iter().map(|t| t.held).collect();
        let of = id.clone();
        let published = self.controller.edit(move |d| endpoints::publish(d, &of, &held, &outside)).await?;
        let carried = self.carriers.carry(&id, taken, &published, &endpoint.addresses);
        if carried.is_err() {
            self.edit(move |d| endpoints::unpublish(d, &id)).await?;
        }
        carried
    }

    async fn unpublish(&self, asked: EndpointRef) -> Result<()> {
        let EndpointRef { endpoint_id: id, .. } = asked;
        let of = id.clone();
        self.edit(move |d| endpoints::unpublish(d, &of)).await?;
        self.carriers.drop(&id);
        Ok(())
    }

    /// An edit that nothing can be said against.
    async fn edit(&self, f: impl FnOnce(&mut Desired) + Send + 'static) -> Result<()> {
        let edit = move |desired: &mut Desired| {
            f(desired);
            Ok(())
        };
        self.controller.edit(edit).await
    }
}

/// Takes the host's port that docker asks for.
fn take(binding: &protocol::PortBinding) -> Result<Sockets> {
    let proto = match binding.proto {
        6 => Proto::Tcp,
        17 => Proto::Udp,
        n => {
            return Err(Error::invalid(format!("protocol {n} has no ports that trunkline can publish"))
                .hint("publish TCP or UDP"));
        }
    };
    let host = match binding.host_ip.parse::<IpAddr>() {
        Ok(addr) if addr.is_unspecified() => None,
        Ok(addr) => Some(addr),
        Err(_) if binding.host_ip.is_empty() => None,
        Err(_) => return Err(Error::invalid(format!("'{}' is not an address of the host", binding.host_ip))),
    };
    listen::take(Held { proto, host, port: binding.host_port, to: binding.port }, binding.host_port_end)
}

fn listener(socket: &Path, inherited: Option<&StdListener>) -> Result<UnixListener> {
    let failed = |e: std::io::Error| {
        Error::failed(format!("cannot serve docker on {}: {e}", socket.display()))
            .hint("run the daemon as root, or choose another place: trunkline docker enable --socket PATH")
    };
    let listener = match inherited {
        Some(listener) => listener.try_clone().map_err(failed)?,
        None => {
            if let Some(dir) = socket.parent() {
                std::fs::create_dir_all(dir).map_err(failed)?;
            }
            listen_privately(socket, SocketType::STREAM).map_err(failed)?.into()
        }
    };
    listener.set_nonblocking(true).and_then(|()| UnixListener::from_std(listener)).map_err(failed)
}

/// Whether an interface is in the daemon's own namespace.
fn is_here(name: &str) -> bool {
    session(None, |s| s.link(name)).is_ok_and(|link| link.is_some())
}
