//! The plugin's HTTP: `POST /NetworkDriver.METHOD` with JSON.

use std::io;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use super::Plugin;
use super::protocol::CONTENT_TYPE;
use crate::{Error, Result};

/// Requests are a few kilobytes; a thousand published ports are less than this.
const MAX_BODY: usize = 1 << 20;

pub(super) async fn serve(plugin: Arc<Plugin>, listener: UnixListener) -> io::Result<()> {
    let router = axum::Router::new()
        .route("/{method}", post(call))
        .fallback(unknown)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(plugin);
    axum::serve(listener, router).await
}

async fn unknown() -> Response {
    (StatusCode::NOT_FOUND, "the trunkline plugin has no such method\n").into_response()
}

async fn call(State(plugin): State<Arc<Plugin>>, Path(method): Path<String>, body: Bytes) -> Response {
    let ipam = method.starts_with("IpamDriver.");
    match dispatch(plugin, &method, &body).await {
        Ok(Some(answer)) => reply(StatusCode::OK, &answer),
        Ok(None) => unknown().await,
        Err(error) => {
            tracing::info!(method, %error, "docker was refused");
            let key = if ipam { "Error" } else { "Err" };
            reply(StatusCode::OK, &json!({ key: error.to_string() }))
        }
    }
}

fn reply(status: StatusCode, answer: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], answer.to_string()).into_response()
}

fn read<T: DeserializeOwned>(method: &str, body: &Bytes) -> Result<T> {
    serde_json::from_slice(body).map_err(|e| Error::invalid(e.to_string()).within(method))
}

fn written<T: Serialize>(answer: T) -> Value {
    serde_json::to_value(answer).expect("plain data")
}

/// The answer; `None`: there is no such method.
async fn dispatch(plugin: Arc<Plugin>, method: &str, body: &Bytes) -> Result<Option<Value>> {
    tracing::debug!(method, body = %String::from_utf8_lossy(body), "docker asks");
    let nothing = json!({});
    Ok(Some(match method {
        "Plugin.Activate" => {
            plugin.activated().await;
            json!({ "Implements": ["NetworkDriver", "IpamDriver"] })
        }
        "NetworkDriver.GetCapabilities" => json!({ "Scope": "local", "ConnectivityScope": "global" }),
        "NetworkDriver.CreateNetwork" => {
            plugin.create_network(read(method, body)?).await?;
            nothing
        }
        "NetworkDriver.DeleteNetwork" => {
            plugin.delete_network(read(method, body)?).await?;
            nothing
        }
        "NetworkDriver.CreateEndpoint" => {
            json!({ "Interface": plugin.create_endpoint(read(method, body)?).await? })
        }
        "NetworkDriver.EndpointOperInfo" => json!({ "Value": plugin.info(&read(method, body)?) }),
        "NetworkDriver.DeleteEndpoint" => {
            plugin.delete_endpoint(read(method, body)?).await?;
            nothing
        }
        "NetworkDriver.Join" => written(plugin.join(read(method, body)?).await?),
        "NetworkDriver.Leave" => {
            plugin.leave(read(method, body)?).await?;
            nothing
        }
        "NetworkDriver.ProgramExternalConnectivity" => {
            plugin.publish(read(method, body)?).await?;
            nothing
        }
        "NetworkDriver.RevokeExternalConnectivity" => {
            plugin.unpublish(read(method, body)?).await?;
            nothing
        }
        "NetworkDriver.DiscoverNew" | "NetworkDriver.DiscoverDelete" => nothing,
        "IpamDriver.GetCapabilities" => json!({ "RequiresMACAddress": false }),
        "IpamDriver.GetDefaultAddressSpaces" => {
            json!({ "LocalDefaultAddressSpace": "trunkline-local", "GlobalDefaultAddressSpace": "trunkline-global" })
        }
        "IpamDriver.RequestPool" => plugin.request_pool(read(method, body)?).await?,
        "IpamDriver.ReleasePool" => {
            plugin.release_pool(read(method, body)?).await?;
            nothing
        }
        "IpamDriver.RequestAddress" => plugin.request_address(read(method, body)?).await?,
        "IpamDriver.ReleaseAddress" => {
            plugin.release_address(read(method, body)?).await?;
            nothing
        }
        _ => return Ok(None),
    }))
}
