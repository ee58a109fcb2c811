//! The daemon: puts the parts together, and takes them apart again when a signal or `stop` says so.

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};

use rustix::net::SocketType;
use sd_notify::NotifyState;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
pub use trunkline_engine::Spin;
use trunkline_engine::{Engine, EngineConfig};
use trunkline_ports::inherited::inherited;

use crate::attach::Attachments;
use crate::controller::{Controller, Running};
use crate::docker::Plugin;
use crate::files;
use crate::follow;
use crate::keeper::{self, Launch};
use crate::reconcile::{KernelWorld, Notice};
use crate::rundir::{DAEMON_LOCK, Lock, api_socket, is_short_enough, listen_privately};
use crate::store::Store;
use crate::{Error, ErrorKind, Result, api};

/// How a daemon runs.
#[derive(Clone, Debug)]
pub struct DaemonConfig {
    /// Where its sockets and locks are.
    pub run_dir: PathBuf,
    /// Where the desired state is kept.
    pub state_dir: PathBuf,
    /// Applied at the start and on SIGHUP, as `trunkline apply` would.
    pub config: Option<PathBuf>,
    /// Worker threads; 0: chosen from the number of CPUs.
    pub workers: u16,
    /// Pin workers to CPUs.
    pub pin: bool,
    /// Serve docker, at this path or where docker looks.
    pub docker: Option<Option<String>>,
    /// Whether workers wait awake.
    pub spin: Spin,
}

/// Runs a daemon until SIGTERM, SIGINT or `POST /v1/stop`. Interfaces stay with the keeper unless that
/// releases them. Logs by `tracing`.
///
/// # Errors
/// When it cannot start: a directory or the state file cannot be used, another daemon is there, the
/// configuration file is wrong or cannot be applied. When the control thread panics.
pub fn run(config: DaemonConfig) -> Result<()> {
    // Before anything enters another namespace: the first runtime of a process makes a pair of sockets for
    // signals that is never closed, and would keep alive the namespace it is made in.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failed("cannot start", &e))?;
    let launch: Launch = Box::new(|dir| keeper::launch(dir).map(Some));
    let daemon = Daemon::start(&config, launch)?;
    runtime.block_on(daemon.serve(config.config, config.docker))
}

/// A daemon that is set up.
struct Daemon {
    _locks: [Lock; 2],
    socket: PathBuf,
    listener: std::os::unix::net::UnixListener,
    controller: Controller,
    actor: Running,
}

impl Daemon {
    fn start(config: &DaemonConfig, launch: Launch) -> Result<Daemon> {
        let run_dir = directory(&config.run_dir, 0o755, "--run-dir")?;
        if !is_short_enough(&run_dir) {
            let what = format!("the path of the run directory {} is too long", run_dir.display());
            return Err(
                Error::invalid(what).hint("choose a shorter one with --run-dir: sockets are made in it")
            );
        }
        let state_dir = directory(&config.state_dir, 0o700, "--state-dir")?;
        // Two files, as the two may be one directory.
        let locks = [
            lock(&run_dir, DAEMON_LOCK, "run directory", "--run-dir")?,
            lock(&state_dir, "state.lock", "state directory", "--state-dir")?,
        ];
        let (store, desired) = Store::open(&state_dir)?;
        keeper::raise_descriptor_limit();

        let engine = EngineConfig { workers: config.workers, pin: config.pin, spin: config.spin };
        let engine = Arc::new(Engine::start(engine).map_err(|e| failed("cannot start the data path", &e))?);
        let (notices, noticed) = mpsc::channel();
        let mut world = KernelWorld::new(engine.clone(), run_dir.clone(), launch, notices.clone())?;
        world.keep_leases_in(state_dir.clone());
        let persist = Box::new(move |desired: &_| store.save(desired));
        let (controller, actor) = Controller::start(Box::new(world), desired, persist)?;

        let events = engine.events().clone();
        thread("tl-events", move || {
            for event in events {
                if notices.send(Notice::Engine(event)).is_err() {
                    return;
                }
            }
        })?;
        let told = controller.clone();
        thread("tl-notices", move || {
            for notice in noticed {
                if !told.notice(notice) {
                    return;
                }
            }
        })?;

        let socket = api_socket(&run_dir);
        let listener = listen_privately(&socket, SocketType::STREAM)
            .map_err(|e| failed(&format!("cannot listen on {}", socket.display()), &e))?;
        Ok(Daemon { _locks: locks, socket, listener: listener.into(), controller, actor })
    }

    async fn serve(self, config: Option<PathBuf>, docker: Option<Option<String>>) -> Result<()> {
        let given = inherited().into_iter().next().map(Into::into);
        let plugin = Plugin::new(self.controller.clone(), given);
        let attachments = Attachments::new(self.controller.clone());
        let served = self.serve_until_stopped(config, docker, &plugin, &attachments).await;
        plugin.stop();
        attachments.stop();
        // However it ended, the workers are stopped and the interfaces left with the keeper.
        self.controller.stop(false).await;
        let _ = fs::remove_file(&self.socket);
        let Daemon { controller, actor, _locks, .. } = self;
        drop(controller);
        let ended = tokio::task::spawn_blocking(|| actor.join()).await;
        served.and(ended.map_err(|e| failed("the control thread failed", &io::Error::other(e)))?)
    }

    async fn serve_until_stopped(
        &self,
        config: Option<PathBuf>,
        docker: Option<Option<String>>,
        plugin: &Arc<Plugin>,
        attachments: &Arc<Attachments>,
    ) -> Result<()> {
        let no_signals = |e| failed("cannot wait for signals", &e);
        // Before anything takes long: a signal that comes now is not lost.
        let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(no_signals)?;
        if let Some(path) = &config {
            apply(&self.controller, path).await?;
        }
        let listener = self.listener.try_clone().and_then(|l| {
            l.set_nonblocking(true)?;
            UnixListener::from_std(l)
        });
        let listener = listener.map_err(|e| failed("cannot serve the API", &e))?;
        let controller = self.controller.clone();
        let shutdown = async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    () = controller.stopped() => break,
                    _ = hangup.recv() => reload(&controller, config.as_deref()).await,
                }
            }
            notify(&[NotifyState::Stopping]);
            tracing::info!("stopping");
        };
        // Answered when everything is restored.
        self.controller.status().await;
        // A socket of the service manager's is there to be answered.
        if let Some(socket) = docker.or_else(|| plugin.inherited().map(Some)) {
            plugin.enable(socket).await?;
        }
        tokio::spawn(plugin.clone().run());
        tokio::spawn(follow::run(self.controller.clone()));
        tokio::spawn(attachments.clone().run());
        tracing::info!(socket = %self.socket.display(), "ready");
        notify(&[NotifyState::Ready]);
        api::serve(self.controller.clone(), plugin.clone(), attachments.clone(), listener, shutdown)
            .await
            .map_err(|e| failed("the API failed", &e))
    }
}

/// Makes the world as the configuration file says.
async fn apply(controller: &Controller, path: &Path) -> Result<()> {
    let shown = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|e| failed(&format!("cannot read {shown}"), &e))?;
    let file = files::parse(&shown, &text)?;
    let changes = controller
        .edit(move |desired| {
            let (merged, changes) = files::merge_apply(desired, file)?;
            *desired = merged;
            Ok(changes)
        })
        .await
        .map_err(|e| e.within(&shown))?;
    tracing::info!(file = shown, changes = changes.len(), "configuration applied");
    Ok(())
}

/// On SIGHUP: a file that is wrong changes nothing.
async fn reload(controller: &Controller, config: Option<&Path>) {
    let Some(path) = config else {
        tracing::warn!("SIGHUP, but the daemon was started without --config");
        return;
    };
    let reloading = NotifyState::monotonic_usec_now().map(|now| [NotifyState::Reloading, now]);
    match reloading {
        Ok(states) => notify(&states),
        Err(_) => notify(&[NotifyState::Reloading]),
    }
    if let Err(error) = apply(controller, path).await {
        tracing::error!(%error, "configuration not applied; everything is as before");
    }
    notify(&[NotifyState::Ready]);
}

/// Tells the service manager, if there is one.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// Makes a directory if need be; an existing one keeps its mode.
fn directory(path: &Path, mode: u32, option: &str) -> Result<PathBuf> {
    let unusable = |e: io::Error| {
        failed(&format!("cannot use {}", path.display()), &e)
            .hint(format!("choose another place with {option}, or run as root"))
    };
    let path = std::path::absolute(path).map_err(unusable)?;
    if !path.is_dir() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&path).map_err(unusable)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).map_err(unusable)?;
    }
    Ok(path)
}

fn lock(dir: &Path, file: &str, what: &str, option: &str) -> Result<Lock> {
    let path = dir.join(file);
    let lock = Lock::take(&path).map_err(|e| failed(&format!("cannot lock {}", path.display()), &e))?;
    lock.map_err(|pid| {
        Error::conflict(format!("a daemon with the {what} {} runs already, process {pid}", dir.display()))
            .hint(format!("stop it, or choose another {option}"))
    })
}

fn thread(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let spawned = std::thread::Builder::new().name(name.into()).spawn(body);
    spawned.map(|_| ()).map_err(|e| failed("cannot start a thread", &e))
}

fn failed(what: &str, error: &io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::PermissionDenied => ErrorKind::Permission,
        _ => ErrorKind::Failed,
    };
    Error::new(kind, format!("{what}: {error}"))
}
