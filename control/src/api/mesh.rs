//! `/v1/meshes`.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde_json::Value;

use super::bridges::{Named, body};
use super::edits::{merge_patch, patch_is_object};
use super::extract::Json;
use super::{Answer, App, Created, Done};
use crate::model::keys::{self, Object};
use crate::model::{Desired, MeshSpec, MeshStatus};
use crate::{Error, ErrorKind, Result};

pub(super) async fn list(State(app): State<App>) -> axum::Json<Vec<MeshStatus>> {
    axum::Json(app.controller.meshes().await)
}

async fn status(app: &App, name: &str) -> Result<MeshStatus> {
    let meshes = app.controller.meshes().await;
    meshes.into_iter().find(|m| m.name == name).ok_or_else(|| no_mesh(name))
}

pub(super) async fn show(State(app): State<App>, Path(name): Path<String>) -> Answer<MeshStatus> {
    status(&app, &name).await.map(axum::Json)
}

pub(super) async fn add(State(app): State<App>, Json(value): Json) -> Created<MeshStatus> {
    let Named { name, spec } = body(value)?;
    let spec = read(&name, spec)?;
    let new = name.clone();
    app.controller.edit(move |d| add_mesh(d, new, spec)).await?;
    Ok((StatusCode::CREATED, axum::Json(status(&app, &name).await?)))
}

pub(super) async fn put(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(value): Json,
) -> Answer<MeshStatus> {
    let which = name.clone();
    app.controller.edit(move |d| put_mesh(d, &which, value)).await?;
    status(&app, &name).await.map(axum::Json)
}

pub(super) async fn patch(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(patch): Json,
) -> Answer<MeshStatus> {
    let which = name.clone();
    app.controller.edit(move |d| patch_mesh(d, &which, &patch)).await?;
    status(&app, &name).await.map(axum::Json)
}

/// Adds a peer: two commands at once do not undo each other, as two patches of the list would.
pub(super) async fn peer_add(
    State(app): State<App>,
    Path((name, peer)): Path<(String, String)>,
) -> Answer<MeshStatus> {
    let which = name.clone();
    app.controller.edit(move |d| add_peer(d, &which, &peer)).await?;
    status(&app, &name).await.map(axum::Json)
}

pub(super) async fn peer_del(
    State(app): State<App>,
    Path((name, peer)): Path<(String, String)>,
) -> Answer<MeshStatus> {
    let which = name.clone();
    app.controller.edit(move |d| del_peer(d, &which, &peer)).await?;
    status(&app, &name).await.map(axum::Json)
}

pub(super) async fn del(State(app): State<App>, Path(name): Path<String>) -> Done {
    app.controller.edit(move |d| del_mesh(d, &name)).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn no_mesh(name: &str) -> Error {
    Error::not_found(format!("there is no mesh {name}")).hint("see: trunkline mesh list")
}

fn read(name: &str, body: Value) -> Result<MeshSpec> {
    keys::check_mesh(name, &body)?;
    keys::read(Object::Mesh(name, ""), body)
}

fn mesh<'d>(desired: &'d mut Desired, name: &str) -> Result<&'d mut MeshSpec> {
    desired.meshes.get_mut(name).ok_or_else(|| no_mesh(name))
}

fn add_mesh(desired: &mut Desired, name: String, spec: MeshSpec) -> Result<()> {
    if let Some(other) = desired.meshes.get(&name) {
        return Err(Error::conflict(format!("mesh {name} is there already, on bridge {}", other.bridge))
            .hint(format!("change it with: trunkline mesh set {name}")));
    }
    desired.meshes.insert(name, spec);
    Ok(())
}

/// Replaces a mesh's settings; `body` without an owner leaves it its owner.
fn put_mesh(desired: &mut Desired, name: &str, body: Value) -> Result<()> {
    let owned = body.get("owner").is_some();
    let mut spec = read(name, body)?;
    let old = mesh(desired, name)?;
    if !owned {
        spec.owner = old.owner;
    }
    *old = spec;
    desired.drop_orphans();
    Ok(())
}

/// Changes the keys that `patch` names; null takes one away (RFC 7386).
fn patch_mesh(desired: &mut Desired, name: &str, patch: &Value) -> Result<()> {
    patch_is_object(patch)?;
    let old = mesh(desired, name)?;
    let mut value =
        serde_json::to_value(&*old).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    merge_patch(&mut value, patch);
    *old = read(name, value)?;
    desired.drop_orphans();
    Ok(())
}

fn add_peer(desired: &mut Desired, name: &str, peer: &str) -> Result<()> {
    let peer = keys::parse_remote(peer)?;
    let spec = mesh(desired, name)?;
    if spec.peers.contains(&peer) {
        return Err(Error::conflict(format!("mesh {name} has the peer {peer} already")));
    }
    spec.peers.push(peer);
    Ok(())
}

fn del_peer(desired: &mut Desired, name: &str, peer: &str) -> Result<()> {
    let peer = keys::parse_remote(peer)?;
    let spec = mesh(desired, name)?;
    let before = spec.peers.len();
    spec.peers.retain(|p| *p != peer);
    if spec.peers.len() == before {
        return Err(Error::not_found(format!("mesh {name} has no peer {peer}"))
            .hint(format!("see: trunkline mesh show {name}")));
    }
    desired.drop_orphans();
    Ok(())
}

fn del_mesh(desired: &mut Desired, name: &str) -> Result<()> {
    desired.meshes.remove(name).ok_or_else(|| no_mesh(name))?;
    desired.drop_orphans();
    Ok(())
}
