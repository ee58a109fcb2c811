//! Attachments of CNI and podman.

use axum::extract::{Path, State};
use axum::http::StatusCode;

use super::bridges::body;
use super::extract::Json;
use super::{Answer, App, Created, Done};
use crate::model::attach::{Attach, AttachmentStatus};
use crate::{Error, ErrorKind, Result};

pub(super) async fn list(State(app): State<App>) -> axum::Json<Vec<AttachmentStatus>> {
    axum::Json(app.attachments.list().await)
}

pub(super) async fn add(State(app): State<App>, Json(value): Json) -> Created<AttachmentStatus> {
    let asked: Attach = body(value)?;
    let attachments = app.attachments.clone();
    let made = to_its_end(async move { attachments.attach(asked).await }).await?;
    Ok((StatusCode::CREATED, axum::Json(made)))
}

pub(super) async fn show(State(app): State<App>, Path(id): Path<String>) -> Answer<AttachmentStatus> {
    app.attachments.status(&id).await.map(axum::Json)
}

pub(super) async fn del(State(app): State<App>, Path(id): Path<String>) -> Done {
    let attachments = app.attachments.clone();
    to_its_end(async move { attachments.detach(&id).await }).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// What was begun is finished, also when who asked was killed meanwhile: it takes several edits.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
    tokio::spawn(work).await.map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?
}
