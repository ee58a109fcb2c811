//! `/v1/ports`, their counters and drops.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::Deserialize;
use trunkline_packet::DropReason;

use super::bridges::{Named, body};
use super::extract::{Json, Params};
use super::{Answer, App, Created, Done, edits};
use crate::Result;
use crate::error::no_bridge;
use crate::model::{DropRow, PortStats, PortStatus};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OnBridge {
    bridge: Option<String>,
}

pub(super) async fn list(
    State(app): State<App>,
    Params(OnBridge { bridge }): Params<OnBridge>,
) -> Answer<Vec<PortStatus>> {
    let mut ports = app.controller.ports().await;
    if let Some(bridge) = bridge {
        if !app.controller.desired().bridges.contains_key(&bridge) {
            return Err(no_bridge(&bridge));
        }
        ports.retain(|p| p.spec.bridge == bridge);
    }
    Ok(axum::Json(ports))
}

async fn status(app: &App, name: &str) -> Result<PortStatus> {
    let ports = app.controller.ports().await;
    ports.into_iter().find(|p| p.name == name).ok_or_else(|| edits::no_port(name))
}

pub(super) async fn add(State(app): State<App>, Json(value): Json) -> Created<PortStatus> {
    let Named { name, spec } = body(value)?;
    let spec = edits::read_port(&name, spec)?;
    let new = name.clone();
    app.controller.edit(move |d| edits::add_port(d, new, spec)).await?;
    Ok((StatusCode::CREATED, axum::Json(status(&app, &name).await?)))
}

pub(super) async fn show(State(app): State<App>, Path(name): Path<String>) -> Answer<PortStatus> {
    status(&app, &name).await.map(axum::Json)
}

pub(super) async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(value): Json,
) -> Answer<PortStatus> {
    let which = name.clone();
    app.controller.edit(move |d| edits::put_port(d, &which, value)).await?;
    status(&app, &name).await.map(axum::Json)
}

pub(super) async fn patch(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(patch): Json,
) -> Answer<PortStatus> {
    let which = name.clone();
    app.controller.edit(move |d| edits::patch_port(d, &which, &patch)).await?;
    status(&app, &name).await.map(axum::Json)
}

pub(super) async fn del(State(app): State<App>, Path(name): Path<String>) -> Done {
    app.controller.edit(move |d| edits::del_port(d, &name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

pub(super) async fn stats(State(app): State<App>) -> axum::Json<Vec<PortStats>> {
    axum::Json(app.controller.stats().await)
}

pub(super) async fn port_stats(State(app): State<App>, Path(port): Path<String>) -> Answer<PortStats> {
    app.controller.port_stats(&port).await.map(axum::Json).ok_or_else(|| edits::no_port(&port))
}

pub(super) async fn drops(State(app): State<App>) -> axum::Json<Vec<DropRow>> {
    axum::Json(drop_rows(&app.controller.stats().await))
}

/// What the ports dropped, with what each reason means.
fn drop_rows(stats: &[PortStats]) -> Vec<DropRow> {
    let mut rows = Vec::new();
    for port in stats {
        let row = |reason: &str, count, help: &str| DropRow {
            port: port.name.clone(),
            reason: reason.to_owned(),
            count,
            help: help.to_owned(),
        };
        for (reason, count) in port.drops.iter().filter(|(_, count)| **count > 0) {
            let known = DropReason::ALL.iter().find(|r| r.name() == reason);
            rows.push(row(reason, *count, known.map_or("", |r| r.help().trim())));
        }
        if port.ring_drops > 0 {
            let help = "The interface's own queue overflowed before the switch read it: the sender is faster \
                        than the worker. The container sees it as TX dropped.";
            rows.push(row("ring", port.ring_drops, help));
        }
    }
    rows
}
