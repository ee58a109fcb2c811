//! `/v1/bridges` and their forwarding databases.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use trunkline_packet::MacAddr;

use super::extract::{Json, Params};
use super::{Answer, App, Created, Done, edits};
use crate::model::{BridgeStatus, FdbRow, StaticFdb};
use crate::{Error, Result, error::no_bridge};

/// The body of a POST that makes something.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Named {
    pub(super) name: String,
    #[serde(default = "empty")]
    pub(super) spec: Value,
}

fn empty() -> Value {
    json!({})
}

/// The body, as what it should be.
pub(super) fn body<T: serde::de::DeserializeOwned>(value: Value) -> Result<T> {
    serde_json::from_value(value).map_err(|e| Error::invalid(format!("the body is wrong: {e}")))
}

pub(super) async fn list(State(app): State<App>) -> axum::Json<Vec<BridgeStatus>> {
    axum::Json(app.controller.bridges().await)
}

async fn status(app: &App, name: &str) -> Result<BridgeStatus> {
    let bridges = app.controller.bridges().await;
    bridges.into_iter().find(|b| b.name == name).ok_or_else(|| no_bridge(name))
}

pub(super) async fn add(State(app): State<App>, Json(value): Json) -> Created<BridgeStatus> {
    let Named { name, spec } = body(value)?;
    let spec = edits::read_bridge(&name, spec)?;
    let new = name.clone();
    app.controller.edit(move |d| edits::add_bridge(d, new, spec)).await?;
    Ok((StatusCode::CREATED, axum::Json(status(&app, &name).await?)))
}

pub(super) async fn show(State(app): State<App>, Path(name): Path<String>) -> Answer<BridgeStatus> {
    status(&app, &name).await.map(axum::Json)
}

pub(super) async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(value): Json,
) -> Answer<BridgeStatus> {
    let which = name.clone();
    app.controller.edit(move |d| edits::put_bridge(d, &which, value)).await?;
    status(&app, &name).await.map(axum::Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Force {
    #[serde(default)]
    force: bool,
}

pub(super) async fn del(
    State(app): State<App>,
    Path(name): Path<String>,
    Params(Force { force }): Params<Force>,
) -> Done {
    app.controller.edit(move |d| edits::del_bridge(d, &name, force)).await?;
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FdbFilter {
    vlan: Option<u16>,
    port: Option<String>,
}

pub(super) async fn fdb(
    State(app): State<App>,
    Path(name): Path<String>,
    Params(FdbFilter { vlan, port }): Params<FdbFilter>,
) -> Answer<Vec<FdbRow>> {
    let mut rows = app.controller.fdb(&name).await?;
    rows.retain(|row| vlan.is_none_or(|v| v == row.vlan) && port.as_ref().is_none_or(|p| *p == row.port));
    Ok(axum::Json(rows))
}

pub(super) async fn fdb_add(State(app): State<App>, Path(name): Path<String>, Json(value): Json) -> Done {
    let entry: StaticFdb = body(value)?;
    app.controller.edit(move |d| edits::fdb_add(d, &name, entry)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn fdb_del(
    State(app): State<App>,
    Path((name, vlan, mac)): Path<(String, String, String)>,
) -> Done {
    let vlan = vlan.parse().map_err(|_| Error::invalid(format!("'{vlan}' is not a VLAN")))?;
    let mac: MacAddr =
        mac.parse().map_err(|e: trunkline_packet::ether::BadMac| Error::invalid(e.to_string()))?;
    app.controller.edit(move |d| edits::fdb_del(d, &name, vlan, mac)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn fdb_flush(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(value): Json,
) -> Answer<Value> {
    let FdbFilter { vlan, port } = body(value)?;
    let flushed = app.controller.fdb_flush(&name, vlan, port).await?;
    Ok(axum::Json(json!({ "flushed": flushed })))
}
