//! Desired state as TOML text: files given to `trunkline apply`, and the state file.
//!
//! Errors name the file, the line and the object. A file given to `apply` says nothing of owners and of
//! what the daemon finds out by itself; the state file does.

mod merge;

use std::ops::Range;

use serde::Deserialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::model::docker::DockerSpec;
use crate::model::keys::{self, L3Object, Object};
use crate::model::l3::{GatewaySpec, NatSpec, RouteSpec, UplinkSpec};
use crate::model::objects::Named;
use crate::model::{Desired, PortKind};
use crate::{Error, Result, validate};

pub use merge::merge_apply;

/// The tables of objects by name.
const KINDS: [&str; 7] = ["bridge", "port", "mesh", "gateway", "uplink", "route", "nat"];

/// Keys that only the daemon writes.
const DAEMON_KEYS: &[&str] = &["owner", "netns-id", "handed-over", "network", "attachment"];
/// Those of `docker`.
const DOCKER_KEYS: &[&str] = &["owner", "network", "endpoint", "pool"];

/// Reads a file given to `trunkline apply`; `name` is what errors call it. Every object is checked by
/// itself; whether they fit together is seen when they are applied.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub fn parse(name: &str, text: &str) -> Result<Desired> {
    let document = Document { name, text };
    let table = document.syntax()?;
    document.each_key(table.get_ref(), &|object, key| {
        keys::check(object, key)?;
        if DAEMON_KEYS.contains(&key) {
            return Err(
                Error::invalid(format!("key '{key}' in {object} is the daemon's own")).hint("leave it out")
            );
        }
        Ok(())
    })?;
    if let Some(docker) = table.get_ref().get("docker").and_then(|v| v.get_ref().as_table())
        && let Some(key) = docker.keys().find(|k| DOCKER_KEYS.contains(&&**k.get_ref()))
    {
        return Err(document.at(key.span().start, docker_key(key.get_ref())));
    }
    let desired = document.values(table.clone())?;
    document.objects(table.get_ref(), &desired)?;
    Ok(desired)
}

fn docker_key(key: &str) -> Error {
    Error::invalid(format!("key '{key}' in docker is the daemon's own")).hint("leave it out")
}

/// Reads the state file, whose `version` must be the given one.
///
/// # Errors
/// The first thing that is wrong, with its line.
pub(crate) fn parse_state(name: &str, text: &str, version: i64) -> Result<Desired> {
    let document = Document { name, text };
    let mut table = document.syntax()?;
    let Some(found) = table.get_mut().remove("version") else {
        return Err(document.at(0, Error::invalid("key 'version' is missing")));
    };
    let number = found.get_ref().as_integer().and_then(|n| i64::from_str_radix(n.as_str(), n.radix()).ok());
    if number != Some(version) {
        let shown = number.map_or("of another type".to_owned(), |n| n.to_string());
        let error = Error::invalid(format!("version is {shown}, this trunkline reads version {version}"));
        return Err(document.at(found.span().start, error.hint("use the trunkline that wrote it")));
    }
    document.each_key(table.get_ref(), &|object, key| keys::check(object, key))?;
    let desired = document.values(table.clone())?;
    document.objects(table.get_ref(), &desired)?;
    validate::validate(&desired).map_err(|e| e.within(name))?;
    Ok(desired)
}

/// The state as a file for `trunkline apply`, in a stable order.
pub fn export(desired: &Desired) -> String {
    let mut table = toml::Table::try_from(portable(desired)).expect("desired state is plain data");
    for kind in KINDS {
        let Some(objects) = table.get_mut(kind).and_then(|v| v.as_table_mut()) else { continue };
        for (_, object) in objects.iter_mut() {
            if let Some(object) = object.as_table_mut() {
                object.retain(|key, _| key != "owner");
            }
        }
    }
    for kind in ["ct", "docker"] {
        if let Some(object) = table.get_mut(kind).and_then(|v| v.as_table_mut()) {
            object.retain(|key, _| key != "owner");
        }
    }
    toml::to_string(&table).expect("a table is written as it is")
}

/// The state as `GET /v1/export` gives it and `POST /v1/apply` takes it.
pub fn export_json(desired: &Desired) -> serde_json::Value {
    let mut value = serde_json::to_value(portable(desired)).expect("desired state is plain data");
    for kind in KINDS {
        let Some(objects) = value.get_mut(kind).and_then(|v| v.as_object_mut()) else { continue };
        for object in objects.values_mut().filter_map(|o| o.as_object_mut()) {
            object.remove("owner");
        }
    }
    for kind in ["ct", "docker"] {
        if let Some(object) = value.get_mut(kind).and_then(|v| v.as_object_mut()) {
            object.remove("owner");
        }
    }
    value
}

/// Without what means something to this daemon only. The owner goes when it is written. What plugins made is
/// theirs to make again.
fn portable(desired: &Desired) -> Desired {
    let mut desired = desired.clone();
    if let Some(docker) = &mut desired.docker {
        *docker = DockerSpec { enabled: docker.enabled, socket: docker.socket.take(), ..Default::default() };
    }
    desired.networks.clear();
    desired.attachments.clear();
    desired.bridges.retain(|_, spec| !spec.owner.is_plugin());
    desired.ports.retain(|_, spec| !spec.owner.is_plugin());
    desired.gateways.retain(|_, spec| !spec.owner.is_plugin());
    desired.uplinks.retain(|_, spec| !spec.owner.is_plugin());
    desired.nat.retain(|_, spec| !spec.owner.is_plugin());
    for port in desired.ports.values_mut() {
        if let PortKind::Tap(tap) = &mut port.kind {
            tap.netns_id = None;
            if tap.follow.is_some() {
                tap.netns = None;
            }
        }
    }
    desired
}

/// Reads the body of `POST /v1/apply`.
///
/// # Errors
/// The first thing that is wrong, with the object.
pub fn parse_json(value: serde_json::Value) -> Result<Desired> {
    keys::check_desired(&value)?;
    if value.get("ct").is_some_and(|ct| ct.get("owner").is_some()) {
        return Err(Error::invalid("key 'owner' in ct is the daemon's own").hint("leave it out"));
    }
    if let Some(key) =
        DOCKER_KEYS.iter().find(|k| value.get("docker").is_some_and(|docker| docker.get(**k).is_some()))
    {
        return Err(docker_key(key));
    }
    if let Some(key) = DAEMON_KEYS.iter().find(|k| value.get(**k).is_some()) {
        return Err(
            Error::invalid(format!("key '{key}' in the top level is the daemon's own")).hint("leave it out")
        );
    }
    for kind in KINDS {
        let objects = value.get(kind).and_then(|v| v.as_object()).into_iter().flatten();
        for (name, object) in objects {
            if let Some(key) = DAEMON_KEYS.iter().find(|k| object.get(**k).is_some()) {
                return Err(Error::invalid(format!("key '{key}' in {kind} {name} is the daemon's own"))
                    .hint("leave it out"));
            }
        }
    }
    serde_path_to_error::deserialize(value)
        .map_err(|e| Error::invalid(e.inner().to_string()).within(e.path()))
}

struct Document<'a> {
    name: &'a str,
    text: &'a str,
}

type KeyCheck<'a> = dyn Fn(Object<'_>, &str) -> Result<()> + 'a;

impl<'a> Document<'a> {
    fn at(&self, offset: usize, error: Error) -> Error {
        let before = &self.text.as_bytes()[..offset.min(self.text.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        error.within(format_args!("{} line {line}", self.name))
    }

    fn syntax(&self) -> Result<Spanned<DeTable<'a>>> {
        DeTable::parse(self.text).map_err(|e| {
            let offset = e.span().map_or(self.text.len(), |s| s.start);
            self.at(offset, Error::invalid(one_line(e.message())).hint("this is not TOML"))
        })
    }

    /// Shows every key of every object to `check`.
    fn each_key(&self, root: &DeTable<'_>, check: &KeyCheck<'_>) -> Result<()> {
        let table = |object: Object<'_>, table: &DeTable<'_>| {
            table.keys().try_for_each(|k| check(object, k.get_ref()).map_err(|e| self.at(k.span().start, e)))
        };
        table(Object::Desired, root)?;
        for (name, bridge) in objects(root, "bridge") {
            let Some(keys) = bridge.get_ref().as_table() else { continue };
            table(Object::Bridge(name.get_ref()), keys)?;
            let entries =
                keys.get("fdb").and_then(|v| v.get_ref().as_array()).into_iter().flat_map(|a| a.iter());
            for entry in entries.filter_map(|e| e.get_ref().as_table()) {
                table(Object::Fdb(name.get_ref()), entry)?;
            }
        }
        for (name, port) in objects(root, "port") {
            let Some(keys) = port.get_ref().as_table() else { continue };
            let kind = keys.get("type").and_then(|t| t.get_ref().as_str()).unwrap_or("");
            table(Object::Port(name.get_ref(), kind), keys)?;
        }
        for (name, mesh) in objects(root, "mesh") {
            let Some(keys) = mesh.get_ref().as_table() else { continue };
            let kind = keys.get("type").and_then(|t| t.get_ref().as_str()).unwrap_or("");
            table(Object::Mesh(name.get_ref(), kind), keys)?;
        }
        for kind in KINDS {
            for (name, spec) in objects(root, kind) {
                let Some(keys) = spec.get_ref().as_table() else { continue };
                let type_name = keys.get("type").and_then(|t| t.get_ref().as_str()).unwrap_or("");
                if let Some(object) = L3Object::of(kind, name.get_ref(), type_name) {
                    table(Object::L3(object), keys)?;
                }
            }
        }
        if let Some(ct) = root.get("ct").and_then(|v| v.get_ref().as_table()) {
            table(Object::L3(L3Object::Ct), ct)?;
        }
        Ok(())
    }

    fn values(&self, root: Spanned<DeTable<'_>>) -> Result<Desired> {
        let keys = root.get_ref().clone();
        Desired::deserialize(toml::de::Deserializer::from(root)).map_err(|e| {
            let error = Error::invalid(one_line(e.message()));
            match e.span() {
                Some(span) => self.at(span.start, error.within(place(&keys, &span))),
                None => error.within(self.name),
            }
        })
    }

    /// Checks every bridge and port by itself.
    fn objects(&self, root: &DeTable<'_>, desired: &Desired) -> Result<()> {
        for (name, _) in objects(root, "bridge") {
            if let Some(spec) = desired.bridges.get(&**name.get_ref()) {
                validate::bridge(name.get_ref(), spec).map_err(|e| self.at(name.span().start, e))?;
            }
        }
        for (name, _) in objects(root, "port") {
            if let Some(spec) = desired.ports.get(&**name.get_ref()) {
                validate::port(name.get_ref(), spec).map_err(|e| self.at(name.span().start, e))?;
            }
        }
        for (name, _) in objects(root, "mesh") {
            if let Some(spec) = desired.meshes.get(&**name.get_ref()) {
                validate::mesh(name.get_ref(), spec).map_err(|e| self.at(name.span().start, e))?;
            }
        }
        self.named::<GatewaySpec>(root, desired)?;
        self.named::<UplinkSpec>(root, desired)?;
        self.named::<RouteSpec>(root, desired)?;
        self.named::<NatSpec>(root, desired)?;
        match (root.get("ct"), &desired.ct) {
            (Some(at), Some(ct)) => validate::ct(ct).map_err(|e| self.at(at.span().start, e)),
            _ => Ok(()),
        }?;
        match (root.get("docker"), &desired.docker) {
            (Some(at), Some(docker)) => validate::docker(docker).map_err(|e| self.at(at.span().start, e)),
            _ => Ok(()),
        }
    }

    /// Checks every object of a kind by itself.
    fn named<T: Named>(&self, root: &DeTable<'_>, desired: &Desired) -> Result<()> {
        for (name, _) in objects(root, T::KIND) {
            if let Some(spec) = T::all(desired).get(&**name.get_ref()) {
                T::check(name.get_ref(), spec).map_err(|e| self.at(name.span().start, e))?;
            }
        }
        Ok(())
    }
}

type Entry<'t, 'i> = (&'t Spanned<toml::de::DeString<'i>>, &'t Spanned<DeValue<'i>>);

fn objects<'t, 'i>(root: &'t DeTable<'i>, kind: &str) -> impl Iterator<Item = Entry<'t, 'i>> {
    root.get(kind).and_then(|v| v.get_ref().as_table()).into_iter().flat_map(|t| t.iter())
}

/// What the text at `span` belongs to: "vlan in port web".
fn place(root: &DeTable<'_>, span: &Range<usize>) -> String {
    let within = |outer: Range<usize>| outer.start <= span.start && span.end <= outer.end;
    for kind in KINDS {
        for (name, object) in objects(root, kind) {
            let keys = object.get_ref().as_table().into_iter().flat_map(|t| t.iter());
            for (key, value) in keys {
                if within(value.span()) || within(key.span()) {
                    return format!("{} in {kind} {}", key.get_ref(), name.get_ref());
                }
            }
            if within(object.span()) || within(name.span()) {
                return format!("{kind} {}", name.get_ref());
            }
        }
    }
    let ct = root.get("ct").and_then(|v| v.get_ref().as_table());
    let mut keys = ct.into_iter().flat_map(|t| t.iter());
    if let Some((key, _)) = keys.find(|(key, value)| within(value.span()) || within(key.span())) {
        return format!("{} in ct", key.get_ref());
    }
    "the file".to_owned()
}

fn one_line(text: &str) -> String {
    text.lines().map(str::trim).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
