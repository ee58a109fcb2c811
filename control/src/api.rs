//! The HTTP API over the Unix socket; `docs/api.md` describes it route by route.
//!
//! Handlers only translate: reading asks the controller, writing is an edit of the desired state
//! (`edits`), and the controller makes it so or says why not.

mod attach;
mod bridges;
mod daemon;
mod docker;
mod edits;
mod extract;
mod l3;
mod mesh;
mod objects;
mod ports;
#[cfg(test)]
mod tests;
mod watch;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use tokio::net::UnixListener;

use crate::attach::Attachments;
use crate::controller::Controller;
use crate::docker::Plugin;
use crate::{Error, ErrorKind, Result};

/// Most bytes of a request's body: a file of as many ports as a daemon takes fits, with room.
pub const MAX_BODY: usize = 8 << 20;

/// How long a body may take to arrive, and how long requests may take to end once the daemon stops.
const PATIENCE: Duration = Duration::from_secs(10);

/// What handlers have.
#[derive(Clone)]
struct App {
    controller: Controller,
    docker: Arc<Plugin>,
    attachments: Arc<Attachments>,
    /// True when the daemon stops: streams end.
    stopping: tokio::sync::watch::Receiver<bool>,
}

/// Serves the API on `listener` until `shutdown` is ready; requests under way are answered, watch streams
/// ended.
///
/// # Errors
/// When the listener breaks.
pub async fn serve(
    controller: Controller,
    docker: Arc<Plugin>,
    attachments: Arc<Attachments>,
    listener: UnixListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<()> {
    let (stop, stopping) = tokio::sync::watch::channel(false);
    let signal = async move {
        shutdown.await;
        // Fails only when nobody serves any more.
        let _ = stop.send(true);
    };
    let mut stopped = stopping.clone();
    let app = router(App { controller, docker, attachments, stopping });
    let served = axum::serve(listener, app).with_graceful_shutdown(signal);
    tokio::select! {
        result = served => result,
        () = async {
            // An error means that `signal` is gone, and with it `served`.
            let _ = stopped.wait_for(|stop| *stop).await;
            tokio::time::sleep(PATIENCE).await;
        } => Ok(()),
    }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/v1/status", get(daemon::status))
        .route("/v1/bridges", get(bridges::list).post(bridges::add))
        .route("/v1/bridges/{name}", get(bridges::show).put(bridges::put).delete(bridges::del))
        .route("/v1/bridges/{name}/fdb", get(bridges::fdb).post(bridges::fdb_add))
        .route("/v1/bridges/{name}/fdb/flush", post(bridges::fdb_flush))
        .route("/v1/bridges/{name}/fdb/{vlan}/{mac}", delete(bridges::fdb_del))
        .route("/v1/ports", get(ports::list).post(ports::add))
        .route("/v1/ports/{name}", get(ports::show).put(ports::put).patch(ports::patch).delete(ports::del))
        .route("/v1/meshes", get(mesh::list).post(mesh::add))
        .route("/v1/meshes/{name}", get(mesh::show).put(mesh::put).patch(mesh::patch).delete(mesh::del))
        .route("/v1/meshes/{name}/peers/{peer}", put(mesh::peer_add).delete(mesh::peer_del))
        .route("/v1/docker", get(docker::show).put(docker::enable).delete(docker::disable))
        .route("/v1/attachments", get(attach::list).post(attach::add))
        .route("/v1/attachments/{id}", get(attach::show).delete(attach::del))
        .route("/v1/stats", get(ports::stats))
        .route("/v1/stats/{port}", get(ports::port_stats))
        .route("/v1/drops", get(ports::drops))
        .route("/v1/apply", post(daemon::apply))
        .route("/v1/export", get(daemon::export))
        .route("/v1/watch", get(watch::watch))
        .route("/v1/stop", post(daemon::stop))
        .merge(l3::routes())
        .fallback(unknown_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

async fn unknown_route(uri: Uri) -> Error {
    Error::not_found(format!("there is no {}", uri.path()))
        .hint("routes begin with /v1/ and are listed in docs/api.md")
}

async fn wrong_method(method: Method, uri: Uri) -> Response {
    let error = Error::invalid(format!("{method} does not work on {}", uri.path()))
        .hint("docs/api.md lists what each route takes");
    (StatusCode::METHOD_NOT_ALLOWED, axum::Json(error)).into_response()
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = match self.kind {
            ErrorKind::Invalid => StatusCode::BAD_REQUEST,
            ErrorKind::Permission => StatusCode::FORBIDDEN,
            ErrorKind::NotFound => StatusCode::NOT_FOUND,
            ErrorKind::Conflict => StatusCode::CONFLICT,
            ErrorKind::Failed => StatusCode::UNPROCESSABLE_ENTITY,
            ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, axum::Json(self)).into_response()
    }
}

/// The answer of a handler that has something to say.
type Answer<T> = Result<axum::Json<T>>;

/// A new object, 201.
type Created<T> = Result<(StatusCode, axum::Json<T>)>;

/// Done, with nothing to say: 204.
type Done = Result<StatusCode>;
