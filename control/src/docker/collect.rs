//! Endpoints that docker has forgotten: it was killed between asking for one and writing that down, between
//! making a namespace and starting a container in it, or a container's namespace went without it.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Plugin, endpoints, is_here, short};
use crate::model::PortState;
use crate::model::docker::DockerEndpoint;

/// How often they are looked for.
const PERIOD: Duration = Duration::from_secs(5);
/// Docker takes an interface, and starts a process beside it, within a second of asking for it. A slow machine
/// takes longer.
const PATIENCE: Duration = Duration::from_secs(30);

impl Plugin {
    /// Serves what is desired, and looks for what was forgotten, for as long as the daemon runs.
    pub(crate) async fn run(self: Arc<Self>) {
        let mut events = self.controller.watch();
        let mut due = tokio::time::Instant::now();
        self.resume();
        loop {
            self.follow();
            let busy = self.docker().is_some_and(|d| d.enabled || !d.is_empty());
            tokio::select! {
                event = events.recv() => {
                    if matches!(event, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
                        return;
                    }
                }
                () = tokio::time::sleep_until(due), if busy => {
                    self.collect(PATIENCE).await;
                    self.resume();
                    due = tokio::time::Instant::now() + PERIOD;
                }
            }
        }
    }

    /// A docker that has just started has made nothing yet: what nobody uses was its predecessor's.
    pub(super) async fn activated(&self) {
        self.collect(Duration::ZERO).await;
    }

    async fn collect(&self, patience: Duration) {
        let Some(docker) = self.docker() else { return };
        if docker.endpoints.is_empty() {
            return;
        }
        let statuses = self.controller.ports().await;
        let lost: BTreeSet<String> = statuses
            .into_iter()
            .filter(|p| p.state == PortState::Down && p.queues == 0)
            .map(|p| p.name)
            .collect();
        let all = docker.endpoints.clone();
        let unused = move || unused(&all);
        let unused = tokio::task::spawn_blocking(unused).await.unwrap_or_default();
        let now = Instant::now();
        for id in docker.endpoints.keys() {
            let since = {
                let mut waiting = self.waiting.lock();
                match unused.contains(id) {
                    true => Some(*waiting.entry(id.clone()).or_insert(now)),
                    false => {
                        waiting.remove(id);
                        None
                    }
                }
            };
            let forgotten = since.is_some_and(|since| now.duration_since(since) >= patience);
            if forgotten || lost.contains(&endpoints::port_name(id)) {
                tracing::info!(endpoint = short(id), "collected: docker has forgotten it");
                if let Err(error) = self.remove(id).await {
                    tracing::warn!(endpoint = short(id), %error, "not collected");
                }
            }
        }
    }
}

/// Endpoints whose interface docker has not taken, or has put where no process is.
fn unused(endpoints: &BTreeMap<String, DockerEndpoint>) -> BTreeSet<String> {
    let inhabited = inhabited();
    // A file that is no namespace says nothing: the namespace may be mounted where we cannot see it.
    let nsfs = std::fs::metadata("/proc/self/ns/net").map(|m| m.dev()).ok();
    let empty = |endpoint: &DockerEndpoint| match (&endpoint.sandbox, &inhabited) {
        (Some(sandbox), Some(inhabited)) => {
            std::fs::metadata(sandbox).is_ok_and(|m| Some(m.dev()) == nsfs && !inhabited.contains(&m.ino()))
        }
        _ => false,
    };
    let unused = endpoints.iter().filter(|(id, e)| is_here(&endpoints::interface(id, e)) || empty(e));
    unused.map(|(id, _)| id.clone()).collect()
}

/// Inodes of the network namespaces that processes are in; `None` where docker cannot be seen, and so its
/// containers cannot either.
fn inhabited() -> Option<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    let mut docker = false;
    for entry in std::fs::read_dir("/proc").ok()?.flatten() {
        if !entry.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit) {
            continue;
        }
        // Either fails for a process that has ended meanwhile.
        if let Ok(ns) = std::fs::metadata(entry.path().join("ns/net")) {
            inodes.insert(ns.ino());
        }
        docker |= std::fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm == "dockerd\n");
    }
    docker.then_some(inodes)
}
