//! The docker plugin: whether and where it is served, and what docker made.

use axum::extract::State;
use axum::http::StatusCode;
use serde::Deserialize;

use super::bridges::body;
use super::extract::Json;
use super::{Answer, App};
use crate::Result;
use crate::model::Desired;
use crate::model::docker::{DockerSpec, DockerStatus};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Enable {
    socket: Option<String>,
}

pub(super) async fn show(State(app): State<App>) -> axum::Json<DockerStatus> {
    axum::Json(app.docker.status())
}

pub(super) async fn enable(State(app): State<App>, Json(value): Json) -> Answer<DockerStatus> {
    let Enable { socket } = body(value)?;
    app.docker.enable(socket).await?;
    Ok(axum::Json(app.docker.status()))
}

pub(super) async fn disable(State(app): State<App>) -> Result<StatusCode> {
    let change = |docker: Option<DockerSpec>| {
        let docker = DockerSpec { enabled: false, ..docker? };
        // What docker made is still docker's, and goes on working.
        (!docker.is_empty()).then_some(docker)
    };
    let edit = move |desired: &mut Desired| {
        desired.docker = change(desired.docker.take());
        Ok(())
    };
    app.controller.edit(edit).await?;
    app.docker.follow();
    Ok(StatusCode::NO_CONTENT)
}
