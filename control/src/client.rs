//! The API's client, for the CLI and for tests: one connection over the Unix socket for each request.

mod l3;

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::model::{
    BridgeSpec, BridgeStatus, DaemonStatus, Desired, DropRow, Event, FdbRow, MeshSpec, MeshStatus, PortSpec,
    PortStats, PortStatus, StaticFdb,
};
use crate::rundir::api_socket;
use crate::{Error, ErrorKind, Result, files, keeper};

pub use l3::Collection;

/// How long an answer may take. An edit of thousands of ports takes seconds.
const PATIENCE: Duration = Duration::from_secs(120);

/// Talks to the daemon of one run directory.
#[derive(Clone, Debug)]
pub struct Client {
    run_dir: PathBuf,
    socket: PathBuf,
}

impl Client {
    /// For the daemon of `run_dir`; nothing is sent yet.
    pub fn new(run_dir: &Path) -> Client {
        Client { run_dir: run_dir.to_owned(), socket: api_socket(run_dir) }
    }

    /// `GET /v1/status`
    ///
    /// # Errors
    /// As every method here: no daemon, no permission, or what the daemon says.
    pub async fn status(&self) -> Result<DaemonStatus> {
        self.get("/v1/status").await
    }

    /// `GET /v1/bridges`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn bridges(&self) -> Result<Vec<BridgeStatus>> {
        self.get("/v1/bridges").await
    }

    /// `GET /v1/bridges/{name}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn bridge(&self, name: &str) -> Result<BridgeStatus> {
        self.get(&format!("/v1/bridges/{}", segment(name))).await
    }

    /// `POST /v1/bridges`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn add_bridge(&self, name: &str, spec: &BridgeSpec) -> Result<BridgeStatus> {
        self.send(Method::POST, "/v1/bridges", &json!({ "name": name, "spec": spec })).await
    }

    /// `PUT /v1/bridges/{name}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn put_bridge(&self, name: &str, spec: &BridgeSpec) -> Result<BridgeStatus> {
        self.send(Method::PUT, &format!("/v1/bridges/{}", segment(name)), spec).await
    }

    /// `DELETE /v1/bridges/{name}`, with its ports if `force` is set.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn del_bridge(&self, name: &str, force: bool) -> Result<()> {
        self.delete(&format!("/v1/bridges/{}?force={force}", segment(name))).await
    }

    /// `GET /v1/ports`, of one bridge if given.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn ports(&self, bridge: Option<&str>) -> Result<Vec<PortStatus>> {
        match bridge {
            Some(bridge) => self.get(&format!("/v1/ports?bridge={}", segment(bridge))).await,
            None => self.get("/v1/ports").await,
        }
    }

    /// `GET /v1/ports/{name}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn port(&self, name: &str) -> Result<PortStatus> {
        self.get(&format!("/v1/ports/{}", segment(name))).await
    }

    /// `POST /v1/ports`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn add_port(&self, name: &str, spec: &PortSpec) -> Result<PortStatus> {
        self.send(Method::POST, "/v1/ports", &json!({ "name": name, "spec": spec })).await
    }

    /// `PATCH /v1/ports/{name}`: changes the keys that the merge patch names, null takes one away.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn patch_port(&self, name: &str, patch: &Value) -> Result<PortStatus> {
        self.send(Method::PATCH, &format!("/v1/ports/{}", segment(name)), patch).await
    }

    /// `DELETE /v1/ports/{name}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn del_port(&self, name: &str) -> Result<()> {
        self.delete(&format!("/v1/ports/{}", segment(name))).await
    }

    /// `GET /v1/bridges/{bridge}/fdb`, of one VLAN and/or port if given.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn fdb(&self, bridge: &str, vlan: Option<u16>, port: Option<&str>) -> Result<Vec<FdbRow>> {
        let vlan = vlan.map(|v| format!("vlan={v}"));
        let port = port.map(|p| format!("port={}", segment(p)));
        let query: Vec<_> = vlan.into_iter().chain(port).collect();
        self.get(&format!("/v1/bridges/{}/fdb?{}", segment(bridge), query.join("&"))).await
    }

    /// `POST /v1/bridges/{bridge}/fdb`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn add_fdb(&self, bridge: &str, entry: &StaticFdb) -> Result<()> {
        self.send(Method::POST, &format!("/v1/bridges/{}/fdb", segment(bridge)), entry).await
    }

    /// `DELETE /v1/bridges/{bridge}/fdb/{vlan}/{mac}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn del_fdb(&self, bridge: &str, vlan: u16, mac: &str) -> Result<()> {
        self.delete(&format!("/v1/bridges/{}/fdb/{vlan}/{}", segment(bridge), segment(mac))).await
    }

    /// `POST /v1/bridges/{bridge}/fdb/flush`: how many addresses were forgotten.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn flush_fdb(&self, bridge: &str, vlan: Option<u16>, port: Option<&str>) -> Result<u64> {
        let path = format!("/v1/bridges/{}/fdb/flush", segment(bridge));
        let answer: Value = self.send(Method::POST, &path, &json!({ "vlan": vlan, "port": port })).await?;
        answer["flushed"].as_u64().ok_or_else(|| self.strange(&"'flushed' is missing"))
    }

    /// `GET /v1/meshes`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn meshes(&self) -> Result<Vec<MeshStatus>> {
        self.get("/v1/meshes").await
    }

    /// `GET /v1/meshes/{name}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn mesh(&self, name: &str) -> Result<MeshStatus> {
        self.get(&format!("/v1/meshes/{}", segment(name))).await
    }

    /// `POST /v1/meshes`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn add_mesh(&self, name: &str, spec: &MeshSpec) -> Result<MeshStatus> {
        self.send(Method::POST, "/v1/meshes", &json!({ "name": name, "spec": spec })).await
    }

    /// `PATCH /v1/meshes/{name}`: changes the keys that the merge patch names, null takes one away.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn patch_mesh(&self, name: &str, patch: &Value) -> Result<MeshStatus> {
        self.send(Method::PATCH, &format!("/v1/meshes/{}", segment(name)), patch).await
    }

    /// `DELETE /v1/meshes/{name}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn del_mesh(&self, name: &str) -> Result<()> {
        self.delete(&format!("/v1/meshes/{}", segment(name))).await
    }

    /// `PUT /v1/meshes/{name}/peers/{peer}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn add_mesh_peer(&self, name: &str, peer: IpAddr) -> Result<MeshStatus> {
        let path = format!("/v1/meshes/{}/peers/{}", segment(name), segment(&peer.to_string()));
        self.request(Method::PUT, &path, Bytes::new()).await
    }

    /// `DELETE /v1/meshes/{name}/peers/{peer}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn del_mesh_peer(&self, name: &str, peer: IpAddr) -> Result<MeshStatus> {
        let path = format!("/v1/meshes/{}/peers/{}", segment(name), segment(&peer.to_string()));
        self.request(Method::DELETE, &path, Bytes::new()).await
    }

    /// `GET /v1/stats`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn stats(&self) -> Result<Vec<PortStats>> {
        self.get("/v1/stats").await
    }

    /// `GET /v1/stats/{port}`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn port_stats(&self, port: &str) -> Result<PortStats> {
        self.get(&format!("/v1/stats/{}", segment(port))).await
    }

    /// `GET /v1/drops`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn drops(&self) -> Result<Vec<DropRow>> {
        self.get("/v1/drops").await
    }

    /// `POST /v1/apply`: what changed, in words.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn apply(&self, file: &Desired, dry_run: bool) -> Result<Vec<String>> {
        #[derive(serde::Deserialize)]
        struct Applied {
            changes: Vec<String>,
        }
        let path = format!("/v1/apply?dry-run={dry_run}");
        let applied: Applied = self.send(Method::POST, &path, &files::export_json(file)).await?;
        Ok(applied.changes)
    }

    /// `GET /v1/export`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn export(&self) -> Result<Desired> {
        self.get("/v1/export").await
    }

    /// `POST /v1/stop`, and waits for the end of the daemon's process: another one can be started then. With
    /// `release` and no daemon, what the keeper still holds for the next one is let go of.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn stop(&self, release: bool) -> Result<()> {
        let stream = match UnixStream::connect(&self.socket).await {
            Ok(stream) => stream,
            Err(e) if release && nobody_listens(&e) => return self.release_kept(&e).await,
            Err(e) => return Err(self.unreachable(&e)),
        };
        let process = process(&stream);
        drop(stream);
        let () = self.send(Method::POST, "/v1/stop", &json!({ "release": release })).await?;
        let Some(process) = process else { return Ok(()) };
        let ended = tokio::task::spawn_blocking(move || has_ended(&process)).await;
        match ended.map_err(io::Error::from).flatten() {
            Ok(true) => Ok(()),
            Ok(false) => Err(Error::failed("the daemon is still stopping").hint("look at its log")),
            Err(e) => Err(Error::failed(format!("cannot wait for the end of the daemon: {e}"))),
        }
    }

    /// Has the keeper of a daemon that is gone end; `error` says why there is no daemon.
    async fn release_kept(&self, error: &io::Error) -> Result<()> {
        let run_dir = self.run_dir.clone();
        match tokio::task::spawn_blocking(move || keeper::release(&run_dir)).await {
            Ok(Ok(true)) => Ok(()),
            Ok(Ok(false)) => Err(self.unreachable(error)),
            Ok(Err(e)) => Err(e),
            Err(e) => Err(Error::new(ErrorKind::Internal, e.to_string())),
        }
    }

    /// `GET /v1/watch`
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn watch(&self) -> Result<Watch> {
        let response = self.exchange(Method::GET, "/v1/watch", Bytes::new()).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refusal(response).await);
        }
        Ok(Watch { client: self.clone(), body: response.into_body(), buffer: Vec::new() })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        self.request(Method::GET, path, Bytes::new()).await
    }

    async fn delete(&self, path: &str) -> Result<()> {
        self.request(Method::DELETE, path, Bytes::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
    ) -> Result<T> {
        let body = serde_json::to_vec(body).map_err(|e| Error::invalid(e.to_string()))?;
        self.request(method, path, body.into()).await
    }

    async fn request<T: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes) -> Result<T> {
        let answer = async {
            let response = self.exchange(method, path, body).await?;
            if !response.status().is_success() {
                return Err(self.refusal(response).await);
            }
            let bytes = response.into_body().collect().await.map_err(|e| self.strange(&e))?.to_bytes();
            let json: &[u8] = if bytes.is_empty() { b"null" } else { &bytes };
            serde_json::from_slice(json).map_err(|e| self.strange(&e))
        };
        tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(|_| {
            Err(Error::failed(format!("the daemon at {} does not answer", self.socket.display()))
                .hint("look at its log"))
        })
    }

    /// The error that a response says.
    async fn refusal(&self, response: Response<Incoming>) -> Error {
        let status = response.status();
        let body = match response.into_body().collect().await {
            Ok(body) => body.to_bytes(),
            Err(e) => return self.strange(&e),
        };
        serde_json::from_slice(&body).unwrap_or_else(|_| self.strange(&status))
    }

    async fn exchange(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| self.unreachable(&e))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|e| self.strange(&e))?;
        // Ends with the response's body. What goes wrong on it, the sender reports too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "trunkline")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|e| Error::invalid(e.to_string()))?;
        sender.send_request(request).await.map_err(|e| self.strange(&e))
    }

    fn unreachable(&self, error: &io::Error) -> Error {
        let socket = self.socket.display();
        match error.kind() {
            _ if nobody_listens(error) => Error::failed(format!("no trunkline daemon answers at {socket}"))
                .hint("start one with 'trunkline daemon'"),
            io::ErrorKind::PermissionDenied => {
                Error::new(ErrorKind::Permission, format!("no permission to use {socket}"))
                    .hint("run it as root, for example with sudo")
            }
            _ => Error::failed(format!("cannot connect to {socket}: {error}")).hint("check --run-dir"),
        }
    }

    fn strange(&self, what: &dyn std::fmt::Display) -> Error {
        Error::failed(format!("the daemon at {} gave no proper answer: {what}", self.socket.display()))
            .hint("look at its log; is it of another version?")
    }
}

fn nobody_listens(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

/// A descriptor of the process at the other end; `None` when it cannot be seen from here, or is this one.
fn process(stream: &UnixStream) -> Option<OwnedFd> {
    let pid = stream.peer_cred().ok().and_then(|cred| cred.pid());
    let pid = pid.filter(|&pid| pid.cast_unsigned() != std::process::id()).and_then(Pid::from_raw);
    pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok())
}

/// Waits for the end of a process: its descriptor becomes readable then (pidfd_open(2)).
fn has_ended(process: &OwnedFd) -> io::Result<bool> {
    let patience = Timespec { tv_sec: PATIENCE.as_secs().cast_signed(), tv_nsec: 0 };
    Ok(poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&patience))? > 0)
}

/// A watch stream.
pub struct Watch {
    client: Client,
    body: Incoming,
    buffer: Vec<u8>,
}

impl Watch {
    /// The next event; `None` when the daemon stops.
    ///
    /// # Errors
    /// When the stream breaks or is not understood.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|e| self.client.strange(&e));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map_or(&[], |d| &d[..])),
                Some(Err(e)) => return Err(self.client.strange(&e)),
            }
        }
    }
}

/// One part of a path or query, percent-encoded (RFC 3986 §2.3).
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for b in text.bytes() {
        match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(b)),
            _ => out.push_str(&format!("%{b:02X}")),
        }
    }
    out
}
