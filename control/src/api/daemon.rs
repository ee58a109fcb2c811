//! The daemon as a whole: status, apply, export, stop.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::bridges::body;
use super::extract::{Json, Params};
use super::{Answer, App};
use crate::files::{export_json, merge_apply, parse_json};
use crate::model::DaemonStatus;
use crate::validate::validate_edit;

pub(super) async fn status(State(app): State<App>) -> axum::Json<DaemonStatus> {
    axum::Json(app.controller.status().await)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct DryRun {
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn apply(
    State(app): State<App>,
    Params(DryRun { dry_run }): Params<DryRun>,
    Json(value): Json,
) -> Answer<Value> {
    let file = parse_json(value)?;
    let changes = if dry_run {
        let current = app.controller.desired();
        let (merged, changes) = merge_apply(&current, file)?;
        validate_edit(&current, &merged)?;
        changes
    } else {
        let edit = app.controller.edit(move |desired| {
            let (merged, changes) = merge_apply(desired, file)?;
            *desired = merged;
            Ok(changes)
        });
        edit.await?
    };
    Ok(axum::Json(json!({ "changes": changes })))
}

pub(super) async fn export(State(app): State<App>) -> axum::Json<Value> {
    axum::Json(export_json(&app.controller.desired()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stop {
    #[serde(default)]
    release: bool,
}

pub(super) async fn stop(State(app): State<App>, Json(value): Json) -> crate::Result<StatusCode> {
    let Stop { release } = body(value)?;
    app.controller.stop(release).await;
    Ok(StatusCode::NO_CONTENT)
}
