//! The controller: one actor that owns the desired state and the world.
//!
//! It is a thread, not a task, because realising an edit enters namespaces and waits for workers; callers
//! await its answer. Between edits it sleeps: the retry timer runs only while a port is down, the slow
//! check only while an interface is adopted or there is a tunnel.

mod actor;
mod l3;
mod plan;
#[cfg(test)]
mod tests;

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use parking_lot::RwLock;
use tokio::sync::{broadcast, oneshot, watch};

use crate::model::{BridgeStatus, DaemonStatus, Desired, Event, FdbRow, MeshStatus, PortStats, PortStatus};
use crate::reconcile::{Notice, World};
use crate::{Error, ErrorKind, Result};
use actor::Actor;

/// Events a slow reader of a watch stream may be behind before it is told that it missed some.
const EVENT_BACKLOG: usize = 1024;

type Command = Box<dyn FnOnce(&mut Actor) + Send>;

/// Writes the desired state where the next daemon finds it.
pub type Persist = Box<dyn FnMut(&Desired) -> Result<()> + Send>;

/// Handle of the controller; clones mean the same one.
#[derive(Clone)]
pub struct Controller {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    /// Closed when the actor has ended.
    ended: watch::Receiver<()>,
}

/// What can be read without asking the actor.
struct Shared {
    current: RwLock<(u64, Arc<Desired>)>,
    events: broadcast::Sender<Event>,
}

impl Shared {
    fn emit(&self, event: Event) {
        // No receiver is no error: nobody watches.
        let _ = self.events.send(event);
    }
}

/// The actor's thread. It ends after [`Controller::stop`], or when every [`Controller`] is dropped.
pub struct Running(JoinHandle<()>);

impl Running {
    /// Waits for the end of the actor.
    ///
    /// # Errors
    /// When it panicked.
    pub fn join(self) -> Result<()> {
        self.0.join().map_err(|_| gone())
    }
}

impl Controller {
    /// Starts the actor on a world without bridges and ports, and makes it as `desired` says. What cannot be
    /// realised is down with a reason, and retried: it had been accepted before.
    ///
    /// # Errors
    /// When the thread cannot be started.
    pub fn start(world: Box<dyn World>, desired: Desired, persist: Persist) -> Result<(Controller, Running)> {
        let (commands, inbox) = mpsc::channel::<Command>();
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let current = RwLock::new((1, Arc::new(desired)));
        let shared = Arc::new(Shared { current, events });
        let mut actor = Actor::new(world, persist, shared.clone());
        let (end, ended) = watch::channel(());
        let thread = std::thread::Builder::new()
            .name("tl-control".into())
            .spawn(move || {
                // Dropped last, whether the actor returns or panics.
                let _end = end;
                actor.load();
                actor.run(&inbox);
            })
            .map_err(|e| Error::new(ErrorKind::Internal, format!("cannot start the control thread: {e}")))?;
        Ok((Controller { commands, shared, ended }, Running(thread)))
    }

    /// Changes the desired state: `f` edits a copy, which is validated, realised, written to the state file
    /// and published. When any part fails, everything is put back and the error returned. The answer comes
    /// when the world is as desired.
    ///
    /// # Errors
    /// Those of `f`, of validation, of the kernel, of the state file.
    pub async fn edit<T: Send + 'static>(
        &self,
        f: impl FnOnce(&mut Desired) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.call(move |actor| actor.edit(f)).await?
    }

    /// The desired state as last accepted.
    pub fn desired(&self) -> Arc<Desired> {
        self.shared.current.read().1.clone()
    }

    /// Grows with every accepted edit; starts at 1 with the daemon.
    pub fn revision(&self) -> u64 {
        self.shared.current.read().0
    }

    /// Every bridge, by name; none when the controller has stopped.
    pub async fn bridges(&self) -> Vec<BridgeStatus> {
        self.call(|actor| actor.bridges()).await.unwrap_or_default()
    }

    /// Every port, by name; none when the controller has stopped.
    pub async fn ports(&self) -> Vec<PortStatus> {
        self.call(|actor| actor.ports()).await.unwrap_or_default()
    }

    /// Every mesh, by name; none when the controller has stopped.
    pub async fn meshes(&self) -> Vec<MeshStatus> {
        self.call(|actor| actor.meshes()).await.unwrap_or_default()
    }

    /// A bridge's table, by VLAN and address.
    ///
    /// # Errors
    /// When there is no such bridge.
    pub async fn fdb(&self, bridge: &str) -> Result<Vec<FdbRow>> {
        let name = bridge.to_owned();
        self.call(move |actor| actor.fdb(&name)).await?
    }

    /// Forgets learned addresses, of one VLAN and/or one port if given; returns how many.
    ///
    /// # Errors
    /// When there is no such bridge, or no such port on it.
    pub async fn fdb_flush(&self, bridge: &str, vlan: Option<u16>, port: Option<String>) -> Result<u64> {
        let name = bridge.to_owned();
        self.call(move |actor| actor.fdb_flush(&name, vlan, port.as_deref())).await?
    }

    /// Counters of every port, by name.
    pub async fn stats(&self) -> Vec<PortStats> {
        self.call(|actor| actor.stats()).await.unwrap_or_default()
    }

    /// Counters of one port, if there is such a port: those of all take long when there are many.
    pub async fn port_stats(&self, name: &str) -> Option<PortStats> {
        let name = name.to_owned();
        self.call(move |actor| actor.port_stats(&name)).await.ok()?
    }

    /// The daemon itself.
    pub async fn status(&self) -> DaemonStatus {
        self.call(|actor| actor.status()).await.unwrap_or(DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime: 0,
            workers: 0,
            revision: self.revision(),
        })
    }

    /// Events from now on.
    pub fn watch(&self) -> broadcast::Receiver<Event> {
        self.shared.events.subscribe()
    }

    /// Stops the data path. Interfaces stay with the keeper for the next daemon unless `release` is set.
    /// Edits fail from then on.
    pub async fn stop(&self, release: bool) {
        // An error means that it has stopped already.
        let _ = self.call(move |actor| actor.stop(release)).await;
    }

    /// Waits until the actor has ended.
    pub async fn stopped(&self) {
        let mut ended = self.ended.clone();
        while ended.changed().await.is_ok() {}
    }

    /// Tells the actor what happened outside; false when it has stopped.
    pub(crate) fn notice(&self, notice: Notice) -> bool {
        self.commands.send(Box::new(move |actor| actor.notice(notice))).is_ok()
    }

    /// Has the actor run `f` and waits for its answer.
    async fn call<T: Send + 'static>(&self, f: impl FnOnce(&mut Actor) -> T + Send + 'static) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        let command: Command = Box::new(move |actor| {
            // The caller may have gone away; what was asked is done nevertheless.
            let _ = reply.send(f(actor));
        });
        self.commands.send(command).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Internal, "the daemon is stopping").hint("start it again: trunkline daemon")
}
