//! Gateways, uplinks, routes and NAT rules: the same routes for each, by name.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::bridges::body;
use super::edits::merge_patch;
use super::extract::Json;
use super::{Answer, App, Created, Done};
use crate::controller::Controller;
use crate::model::Desired;
use crate::model::keys::{self, L3Object, Object};
use crate::model::l3::{
    GatewaySpec, GatewayStatus, NatSpec, NatStatus, RouteSpec, RouteStatus, UplinkSpec, UplinkStatus,
};
use crate::model::objects::{Named, free_name};
use crate::{Error, ErrorKind, Result};

/// A kind of object with what is observed of it.
pub(super) trait Observed: Named {
    type Status: Serialize + Send;

    fn statuses(controller: &Controller) -> impl Future<Output = Vec<Self::Status>> + Send;
    fn name(status: &Self::Status) -> Option<&str>;
}

macro_rules! observed {
    ($($spec:ty, $status:ty, $method:ident, |$s:ident| $name:expr;)*) => {$(
        impl Observed for $spec {
            type Status = $status;

            async fn statuses(controller: &Controller) -> Vec<$status> {
                controller.$method().await
            }

            fn name($s: &$status) -> Option<&str> {
                $name
            }
        }
    )*};
}
observed! {
    GatewaySpec, GatewayStatus, gateways, |s| Some(&s.name);
    UplinkSpec, UplinkStatus, uplinks, |s| Some(&s.name);
    RouteSpec, RouteStatus, routes, |s| s.name.as_deref();
    NatSpec, NatStatus, nat_rules, |s| Some(&s.name);
}

/// The body of a POST. Routes and NAT rules get a name if they have none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct New {
    name: Option<String>,
    #[serde(default = "empty")]
    spec: Value,
}

fn empty() -> Value {
    json!({})
}

/// Reads the spec of an object, refusing unknown keys by name.
fn read<T: Named>(name: &str, spec: Value) -> Result<T> {
    keys::check_spec(T::KIND, name, &spec)?;
    let object = L3Object::of(T::KIND, name, "").ok_or_else(|| T::missing(name))?;
    keys::read(Object::L3(object), spec)
}

/// Makes an object; returns its name.
fn add_object<T: Named>(desired: &mut Desired, name: Option<String>, spec: T) -> Result<String> {
    let name = name.or_else(|| free_name(desired, &spec)).ok_or_else(|| {
        Error::invalid(format!("the {} has no name", T::KIND)).hint("give it one with 'name'")
    })?;
    if T::all(desired).contains_key(&name) {
        return Err(Error::conflict(format!("{} {name} is there already", T::KIND)).hint(format!(
            "see: trunkline {} list; it can be removed with: trunkline {} del {name}",
            T::KIND,
            T::KIND
        )));
    }
    T::all_mut(desired).insert(name.clone(), spec);
    Ok(name)
}

fn object<'d, T: Named>(desired: &'d mut Desired, name: &str) -> Result<&'d mut T> {
    T::all_mut(desired).get_mut(name).ok_or_else(|| T::missing(name))
}

/// Replaces an object's settings; `body` without an owner leaves it its owner.
fn put_object<T: Named>(desired: &mut Desired, name: &str, body: Value) -> Result<()> {
    let owned = body.get("owner").is_some();
    let mut spec: T = read(name, body)?;
    let old = object::<T>(desired, name)?;
    if !owned {
        spec.set_owner(old.owner());
    }
    *old = spec;
    Ok(())
}

/// Changes the keys that `patch` names; null takes one away (RFC 7386).
fn patch_object<T: Named>(desired: &mut Desired, name: &str, patch: &Value) -> Result<()> {
    if !patch.is_object() {
        return Err(Error::invalid("a merge patch is a JSON object").hint("for example {\"mtu\": 1400}"));
    }
    let old = object::<T>(desired, name)?;
    let mut value =
        serde_json::to_value(&*old).map_err(|e| Error::new(ErrorKind::Internal, e.to_string()))?;
    merge_patch(&mut value, patch);
    *old = read(name, value)?;
    Ok(())
}

/// Removes an object that no rule and no route names.
fn del_object<T: Named>(desired: &mut Desired, name: &str) -> Result<()> {
    object::<T>(desired, name)?;
    let named = |by: Option<&String>| by.is_some_and(|by| by == name);
    let user = match T::KIND {
        "uplink" => {
            let rule = desired.nat.iter().find(|(_, n)| n.uplink == name).map(|(n, _)| ("nat", n));
            rule.or(desired.routes.iter().find(|(_, r)| named(r.uplink.as_ref())).map(|(n, _)| ("route", n)))
        }
        "gateway" => {
            desired.routes.iter().find(|(_, r)| named(r.gateway.as_ref())).map(|(n, _)| ("route", n))
        }
        _ => None,
    };
    if let Some((kind, user)) = user {
        return Err(Error::conflict(format!("{} {name} is used by {kind} {user}", T::KIND))
            .hint(format!("delete that first: trunkline {kind} del {user}")));
    }
    T::all_mut(desired).remove(name);
    Ok(())
}

async fn status<T: Observed>(app: &App, name: &str) -> Result<T::Status> {
    let all = T::statuses(&app.controller).await;
    all.into_iter().find(|s| T::name(s) == Some(name)).ok_or_else(|| T::missing(name))
}

pub(super) async fn list<T: Observed>(State(app): State<App>) -> axum::Json<Vec<T::Status>> {
    axum::Json(T::statuses(&app.controller).await)
}

pub(super) async fn add<T: Observed>(State(app): State<App>, Json(value): Json) -> Created<T::Status> {
    let New { name, spec } = body(value)?;
    let spec: T = read(name.as_deref().unwrap_or("new"), spec)?;
    let name = app.controller.edit(move |d| add_object(d, name, spec)).await?;
    Ok((StatusCode::CREATED, axum::Json(status::<T>(&app, &name).await?)))
}

pub(super) async fn show<T: Observed>(State(app): State<App>, Path(name): Path<String>) -> Answer<T::Status> {
    status::<T>(&app, &name).await.map(axum::Json)
}

pub(super) async fn put<T: Observed>(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(value): Json,
) -> Answer<T::Status> {
    let which = name.clone();
    app.controller.edit(move |d| put_object::<T>(d, &which, value)).await?;
    status::<T>(&app, &name).await.map(axum::Json)
}

pub(super) async fn patch<T: Observed>(
    State(app): State<App>,
    Path(name): Path<String>,
    Json(patch): Json,
) -> Answer<T::Status> {
    let which = name.clone();
    app.controller.edit(move |d| patch_object::<T>(d, &which, &patch)).await?;
    status::<T>(&app, &name).await.map(axum::Json)
}

pub(super) async fn del<T: Observed>(State(app): State<App>, Path(name): Path<String>) -> Done {
    app.controller.edit(move |d| del_object::<T>(d, &name)).await?;
    Ok(StatusCode::NO_CONTENT)
}
