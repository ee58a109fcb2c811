//! `/v1/ct`, `/v1/neighbours` and `/v1/leases`; and the routes of everything of layer 3.

use axum::Router;
use axum::extract::State;
use axum::routing::{get, post};
use serde_json::{Value, json};

use super::bridges::body;
use super::edits::merge_patch;
use super::extract::{Json, Params};
use super::{Answer, App, objects};
use crate::model::keys::{self, L3Object, Object};
use crate::model::l3::{
    CtCount, CtFilter, CtRow, CtSpec, GatewaySpec, LeaseRow, NatSpec, NeighbourRow, RouteSpec, UplinkSpec,
};
use crate::{Error, ErrorKind, Result};

/// The routes of everything of layer 3.
pub(super) fn routes() -> Router<App> {
    let kinds = Router::new()
        .merge(kind::<GatewaySpec>("/v1/gateways"))
        .merge(kind::<UplinkSpec>("/v1/uplinks"))
        .merge(kind::<RouteSpec>("/v1/routes"))
        .merge(kind::<NatSpec>("/v1/nat"));
    kinds
        .route("/v1/ct", get(connections))
        .route("/v1/ct/count", get(count))
        .route("/v1/ct/flush", post(flush))
        .route("/v1/ct/settings", get(settings).put(put_settings).patch(patch_settings))
        .route("/v1/neighbours", get(neighbours))
        .route("/v1/leases", get(leases))
}

/// The routes of one kind of object.
fn kind<T: objects::Observed>(path: &str) -> Router<App> {
    Router::new().route(path, get(objects::list::<T>).post(objects::add::<T>)).route(
        &format!("{path}/{{name}}"),
        get(objects::show::<T>).put(objects::put::<T>).patch(objects::patch::<T>).delete(objects::del::<T>),
    )
}

async fn connections(State(app): State<App>, Params(filter): Params<CtFilter>) -> Answer<Vec<CtRow>> {
    app.controller.connections(filter).await.map(axum::Json)
}

async fn count(State(app): State<App>, Params(filter): Params<CtFilter>) -> Answer<CtCount> {
    app.controller.count_connections(filter).await.map(axum::Json)
}

async fn flush(State(app): State<App>, Json(value): Json) -> Answer<Value> {
    let filter: CtFilter = body(value)?;
    let flushed = app.controller.flush_connections(filter).await?;
    Ok(axum::Json(json!({ "flushed": flushed })))
}

async fn neighbours(State(app): State<App>) -> axum::Json<Vec<NeighbourRow>> {
    axum::Json(app.controller.neighbours().await)
}

async fn leases(State(app): State<App>) -> axum::Json<Vec<LeaseRow>> {
    axum::Json(app.controller.leases().await)
}

async fn settings(State(app): State<App>) -> axum::Json<CtSpec> {
    axum::Json(app.controller.desired().ct.clone().unwrap_or_default())
}

fn read(value: Value) -> Result<CtSpec> {
    let object = Object::L3(L3Object::Ct);
    let keys = value.as_object().into_iter().flat_map(|map| map.keys());
    keys.into_iter().try_for_each(|key| keys::check(object, key))?;
    keys::read(object, value)
}

async fn put_settings(State(app): State<App>, Json(value): Json) -> Answer<CtSpec> {
    let owned = value.get("owner").is_some();
    let mut spec = read(value)?;
    let edit = app.controller.edit(move |d| {
        if !owned {
            spec.owner = d.ct.as_ref().map(|old| old.owner).unwrap_or_default();
        }
        d.ct = (spec != CtSpec::default()).then_some(spec.clone());
        Ok(spec)
    });
    edit.await.map(axum::Json)
}

async fn patch_settings(State(app): State<App>, Json(patch): Json) -> Answer<CtSpec> {
    let edit = app.controller.edit(move |d| {
        if !patch.is_object() {
            return Err(
                Error::invalid("a merge patch is a JSON object").hint("for example {\"limit\": 100000}")
            );
        }
        let old = d.ct.clone().unwrap_or_default();
        let mut value =
            serde_json::to_value(old).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
        merge_patch(&mut value, &patch);
        let spec = read(value)?;
        d.ct = (spec != CtSpec::default()).then_some(spec.clone());
        Ok(spec)
    });
    edit.await.map(axum::Json)
}
