//! Docker, by the API of its engine: which container has which process, and when that changes.

use std::io;
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::sync::Notify;

use crate::client::segment;
use crate::{Error, Result};

/// How long an answer may take: dockerd inspects within milliseconds, but not while it is being restarted.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often an engine that is away is looked for.
const PERIOD: Duration = Duration::from_secs(1);
/// Longest answer about a container, bytes.
const MAX_ANSWER: usize = 4 << 20;
/// What may give a container another namespace or name.
const EVENTS: &str = r#"{"type":["container"],"event":["start","die","destroy","rename"]}"#;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    state: State,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    status: String,
}

/// The container's first process.
///
/// # Errors
/// `NotFound` when there is no such container or it is stopped.
pub(super) async fn pid(socket: &str, container: &str) -> Result<u32> {
    let silent = |_| Error::failed(format!("docker at {socket} does not answer"));
    tokio::time::timeout(PATIENCE, inspect(socket, container)).await.map_err(silent)?
}

async fn inspect(socket: &str, container: &str) -> Result<u32> {
    let strange = |e: &dyn std::fmt::Display| {
        Error::failed(format!("docker at {socket} gave no proper answer about container {container}: {e}"))
    };
    let answer = get(socket, &format!("/containers/{}/json", segment(container))).await?;
    match answer.status() {
        StatusCode::OK => {}
        StatusCode::NOT_FOUND => {
            return Err(Error::not_found(format!("docker knows no container {container}")));
        }
        status => return Err(strange(&status)),
    }
    let body = Limited::new(answer.into_body(), MAX_ANSWER).collect().await.map_err(|e| strange(&e))?;
    let container_: Container = serde_json::from_slice(&body.to_bytes()).map_err(|e| strange(&e))?;
    match container_.state {
        State { pid: 0, status } => Err(super::stopped(container, &status)),
        State { pid, .. } => Ok(pid),
    }
}

/// Wakes `told` at every event, and whenever the engine comes or goes.
pub(super) async fn watch(socket: &str, told: &Notify) {
    let path = format!("/events?filters={}", segment(EVENTS));
    loop {
        if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, get(socket, &path)).await
            && answer.status() == StatusCode::OK
        {
            // What happened before is not told.
            told.notify_one();
            let mut body = answer.into_body();
            // What happened is asked for, so that nothing hangs on how events are written.
            while let Some(Ok(_)) = body.frame().await {
                told.notify_one();
            }
            told.notify_one();
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn get(socket: &str, path: &str) -> Result<Response<Incoming>> {
    let failed = |e: &dyn std::fmt::Display| Error::failed(format!("cannot ask docker at {socket}: {e}"));
    let stream = UnixStream::connect(socket).await.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            Error::failed(format!("docker does not answer at {socket}"))
        }
        _ => failed(&e),
    })?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| failed(&e))?;
    // It ends with the answer's body, or when the engine goes.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header(header::HOST, "docker")
        .body(Empty::<Bytes>::new())
        .map_err(|e| Error::invalid(e.to_string()))?;
    sender.send_request(request).await.map_err(|e| failed(&e))
}
