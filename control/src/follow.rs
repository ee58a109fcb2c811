//! Ports that follow a container or namespace: told when something may have changed, looks where it is now,
//! and edits the port's place.
//!
//! ```text
//! docker: a stream of /events ────┐
//! podman: `podman events` ────────┼─▶ wake ─▶ where is it now? ─▶ edit of the port, or why it is down
//! namespaces: the mount table ────┘
//! ```
//!
//! Nothing is polled while what tells of changes works. The place is desired state: a daemon that was restarted
//! meanwhile compares it with where the container is then.

mod engine;
mod mounts;
mod podman;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinHandle;

use crate::controller::Controller;
use crate::model::follow::ENGINE_SOCKET;
use crate::model::{Desired, Event, Follow, PortKind, PortState};
use crate::reconcile::{Notice, namespace_id};
use crate::{Error, ErrorKind, Result};

/// How long after an attempt that may succeed later it is made again.
const RETRY: Duration = Duration::from_secs(1);

/// A port that follows something.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Follower {
    follow: Follow,
    netns: Option<String>,
    netns_id: Option<String>,
}

/// What tells of changes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Source {
    /// A docker engine, by its socket.
    Engine(String),
    Podman,
    Mounts,
}

impl Source {
    fn of(follow: &Follow) -> Source {
        match follow {
            Follow::Docker { socket, .. } => Source::Engine(socket_of(socket).to_owned()),
            Follow::Podman(_) => Source::Podman,
            Follow::Netns(_) => Source::Mounts,
        }
    }

    /// Wakes `told` whenever something may have changed, for ever.
    async fn watch(self, told: Arc<Notify>) {
        match self {
            Source::Engine(socket) => engine::watch(&socket, &told).await,
            Source::Podman => podman::watch(&told).await,
            Source::Mounts => mounts::watch(&told).await,
        }
    }
}

fn socket_of(socket: &Option<String>) -> &str {
    socket.as_deref().unwrap_or(ENGINE_SOCKET)
}

/// Ends with its handle.
struct Watching(JoinHandle<()>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Follows for as long as the daemon runs.
pub(crate) async fn run(controller: Controller) {
    let mut events = controller.watch();
    let told = Arc::new(Notify::new());
    let mut sources: BTreeMap<Source, Watching> = BTreeMap::new();
    loop {
        let followers = followers(&controller.desired());
        let wanted: BTreeSet<Source> = followers.values().map(|f| Source::of(&f.follow)).collect();
        sources.retain(|source, watching| wanted.contains(source) && !watching.0.is_finished());
        for source in wanted {
            sources.entry(source.clone()).or_insert_with(|| {
                let told = told.clone();
                Watching(tokio::spawn(async move { source.watch(told).await }))
            });
        }
        let mut again = false;
        for (port, follower) in &followers {
            again |= look(&controller, port, follower).await;
        }
        loop {
            tokio::select! {
                event = events.recv() => match event {
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(_)) => break,
                    Ok(Event::Revision { .. }) if self::followers(&controller.desired()) != followers => break,
                    // Its end may be known here before the runtime tells.
                    Ok(Event::Port(p)) if p.state == PortState::Down && followers.contains_key(&p.name) => break,
                    Ok(_) => {}
                },
                () = told.notified() => break,
                () = tokio::time::sleep(RETRY), if again => break,
            }
        }
    }
}

fn followers(desired: &Desired) -> BTreeMap<String, Follower> {
    let follower = |(name, spec): (&String, &crate::model::PortSpec)| match &spec.kind {
        PortKind::Tap(tap) => {
            let follow = tap.follow.clone()?;
            Some((
                name.clone(),
                Follower { follow, netns: tap.netns.clone(), netns_id: tap.netns_id.clone() },
            ))
        }
        _ => None,
    };
    desired.ports.iter().filter_map(follower).collect()
}

/// Looks where something is, and has the port go there; true when that is to be tried again soon.
async fn look(controller: &Controller, port: &str, follower: &Follower) -> bool {
    let found = match locate(&follower.follow).await {
        Ok((netns, id))
            if follower.netns.as_ref() == Some(&netns) && follower.netns_id.as_ref() == Some(&id) =>
        {
            Ok(())
        }
        Ok(place) => move_to(controller, port, follower.follow.clone(), place).await,
        Err(error) => Err(error),
    };
    // Containers that are stopped are told of when they start; all else may just get better.
    let again = found.as_ref().is_err_and(|e| e.kind != ErrorKind::NotFound);
    let away = found.err();
    controller.notice(Notice::Followed { port: port.to_owned(), away });
    again
}

async fn move_to(
    controller: &Controller,
    port: &str,
    follow: Follow,
    (netns, id): (String, String),
) -> Result<()> {
    let name = port.to_owned();
    let change = move |desired: &mut Desired| {
        // It may have been edited meanwhile.
        if let Some(PortKind::Tap(tap)) = desired.ports.get_mut(&name).map(|spec| &mut spec.kind)
            && tap.follow.as_ref() == Some(&follow)
        {
            (tap.netns, tap.netns_id) = (Some(netns), Some(id));
        }
        Ok(())
    };
    let done = controller.edit(change).await;
    match &done {
        Ok(()) => tracing::info!(port, "attached where what it follows is now"),
        Err(error) => tracing::warn!(port, %error, "not attached to what it follows"),
    }
    done
}

/// Where something is: how to find its namespace, and the namespace's identity.
///
/// # Errors
/// `NotFound` when it is not there, or stopped.
async fn locate(follow: &Follow) -> Result<(String, String)> {
    let netns = match follow {
        Follow::Docker { container, socket } => engine::pid(socket_of(socket), container).await?.to_string(),
        Follow::Podman(container) => podman::pid(container).await?.to_string(),
        Follow::Netns(netns) => netns.clone(),
    };
    let of = netns.clone();
    let found = tokio::task::spawn_blocking(move || namespace_id(&of)).await;
    let id = found.map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    match (id, follow) {
        (Ok(id), _) => Ok((netns, id)),
        // It was being made, or has just ended.
        (Err(e), Follow::Netns(_)) if e.kind != ErrorKind::NotFound => Err(e),
        (Err(_), _) => Err(Error::not_found(format!("{} is not there", follow.what()))),
    }
}

/// What a runtime says of a container that has no process.
fn stopped(container: &str, state: &str) -> Error {
    let state = if state.is_empty() { "stopped" } else { state };
    Error::not_found(format!("container {container} is not running ({state})"))
}
