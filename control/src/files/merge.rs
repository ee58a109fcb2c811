//! `trunkline apply`: what a file makes of the present state.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::model::docker::DockerSpec;
use crate::model::l3::{CtSpec, GatewaySpec, NatSpec, RouteSpec, UplinkSpec};
use crate::model::objects::Named;
use crate::model::{Desired, Owner};
use crate::reconcile::inherit;
use crate::{Error, Result};

/// The state after `file` is applied to `current`, and what changes, in words.
///
/// Objects of the file belong to it from then on: those of the command line are taken over, those of
/// another owner must be as the file says and stay that owner's. What earlier files made and this one does
/// not name is removed.
///
/// # Errors
/// When the file would change an object of docker or CNI, or takes away a bridge that ports of another
/// owner are on.
pub fn merge_apply(current: &Desired, file: Desired) -> Result<(Desired, Vec<String>)> {
    let mut merged = current.clone();
    let mut changes = Vec::new();
    remove_missing(&mut merged, &file, &mut changes);
    for (name, mut spec) in file.bridges {
        spec.owner = Owner::Config;
        let old = current.bridges.get(&name);
        if let Some(owner) = merge_one("bridge", &name, old, |b| b.owner, &spec, &mut changes)? {
            spec.owner = owner;
        }
        merged.bridges.insert(name, spec);
    }
    for (name, mut spec) in file.ports {
        spec.owner = Owner::Config;
        let old = current.ports.get(&name);
        if let Some(old) = old {
            inherit(old, &mut spec);
        }
        if let Some(owner) = merge_one("port", &name, old, |p| p.owner, &spec, &mut changes)? {
            spec.owner = owner;
        }
        merged.ports.insert(name, spec);
    }
    for (name, mut spec) in file.meshes {
        spec.owner = Owner::Config;
        let old = current.meshes.get(&name);
        if let Some(owner) = merge_one("mesh", &name, old, |m| m.owner, &spec, &mut changes)? {
            spec.owner = owner;
        }
        merged.meshes.insert(name, spec);
    }
    merge_named(current, file.gateways, &mut merged, &mut changes)?;
    merge_named(current, file.uplinks, &mut merged, &mut changes)?;
    merge_named(current, file.routes, &mut merged, &mut changes)?;
    merge_named(current, file.nat, &mut merged, &mut changes)?;
    merge_ct(current, file.ct, &mut merged, &mut changes)?;
    merge_docker(current, file.docker, &mut merged, &mut changes);
    for (name, port) in &merged.ports {
        if current.bridges.contains_key(&port.bridge) && !merged.bridges.contains_key(&port.bridge) {
            let owner = port.owner.name();
            let error = Error::conflict(format!(
                "bridge {} is not in the file, but port {name} (owner: {owner}) is on it",
                port.bridge
            ));
            let keep = format!("add [bridge.{}] to the file", port.bridge);
            return Err(match port.owner {
                Owner::Config => error.hint(keep),
                _ => error.hint(format!("{keep}, or remove the port: trunkline port del {name}")),
            });
        }
    }
    for (name, mesh) in &merged.meshes {
        if current.bridges.contains_key(&mesh.bridge) && !merged.bridges.contains_key(&mesh.bridge) {
            return Err(Error::conflict(format!(
                "bridge {} is not in the file, but mesh {name} (owner: {}) is on it",
                mesh.bridge,
                mesh.owner.name()
            ))
            .hint(format!(
                "add [bridge.{}] to the file, or remove the mesh: trunkline mesh del {name}",
                mesh.bridge
            )));
        }
    }
    Ok((merged, changes))
}

/// Takes away what earlier files made and this one does not name.
fn remove_missing(merged: &mut Desired, file: &Desired, changes: &mut Vec<String>) {
    let gone = |owner: Owner, kept: bool| owner == Owner::Config && !kept;
    let ports: BTreeSet<String> = merged
        .ports
        .iter()
        .filter(|(name, port)| gone(port.owner, file.ports.contains_key(*name)))
        .map(|(name, _)| name.clone())
        .collect();
    for name in &ports {
        merged.remove_port(name);
        changes.push(format!("removed port {name}"));
    }
    // What refers to others goes before them.
    remove_named::<NatSpec>(merged, file, changes);
    remove_named::<RouteSpec>(merged, file, changes);
    remove_named::<GatewaySpec>(merged, file, changes);
    remove_named::<UplinkSpec>(merged, file, changes);
    merged.meshes.retain(|name, mesh| {
        let gone = gone(mesh.owner, file.meshes.contains_key(name));
        if gone {
            changes.push(format!("removed mesh {name}"));
        }
        !gone
    });
    merged.drop_orphans();
    merged.bridges.retain(|name, bridge| {
        let gone = gone(bridge.owner, file.bridges.contains_key(name));
        if gone {
            changes.push(format!("removed bridge {name}"));
        }
        !gone
    });
}

fn remove_named<T: Named>(merged: &mut Desired, file: &Desired, changes: &mut Vec<String>) {
    T::all_mut(merged).retain(|name, spec| {
        let gone = spec.owner() == Owner::Config && !T::all(file).contains_key(name);
        if gone {
            changes.push(format!("removed {} {name}", T::KIND));
        }
        !gone
    });
}

fn merge_named<T: Named>(
    current: &Desired,
    of_file: BTreeMap<String, T>,
    merged: &mut Desired,
    changes: &mut Vec<String>,
) -> Result<()> {
    for (name, mut spec) in of_file {
        spec.set_owner(Owner::Config);
        let old = T::all(current).get(&name);
        if let Some(old) = old {
            spec.inherit(old);
        }
        if let Some(owner) = merge_one(T::KIND, &name, old, T::owner, &spec, changes)? {
            spec.set_owner(owner);
        }
        T::all_mut(merged).insert(name, spec);
    }
    Ok(())
}

/// The settings of connection tracking are one object, without a name.
fn merge_ct(
    current: &Desired,
    of_file: Option<CtSpec>,
    merged: &mut Desired,
    changes: &mut Vec<String>,
) -> Result<()> {
    let old = current.ct.as_ref();
    let Some(mut spec) = of_file else {
        if old.is_some_and(|ct| ct.owner == Owner::Config) {
            merged.ct = None;
            changes.push("removed ct settings".to_owned());
        }
        return Ok(());
    };
    spec.owner = Owner::Config;
    if let Some(owner) = merge_one("ct", "settings", old, |ct| ct.owner, &spec, changes)? {
        spec.owner = owner;
    }
    merged.ct = Some(spec);
    Ok(())
}

/// Of the docker plugin a file says whether and where it is served; what docker made stays.
fn merge_docker(
    current: &Desired,
    of_file: Option<DockerSpec>,
    merged: &mut Desired,
    changes: &mut Vec<String>,
) {
    let old = current.docker.clone().unwrap_or(DockerSpec { enabled: false, ..Default::default() });
    let new = match of_file {
        Some(file) => {
            let DockerSpec { enabled, socket, .. } = file;
            DockerSpec { owner: Owner::Config, enabled, socket, ..old.clone() }
        }
        None if old.owner == Owner::Config => DockerSpec { enabled: false, ..old.clone() },
        None => return,
    };
    if (new.enabled, new.socket()) != (old.enabled, old.socket()) {
        changes.push(format!("changed docker ({})", if new.enabled { new.socket() } else { "disabled" }));
    }
    merged.docker = (new.enabled || !new.is_empty()).then_some(new);
}

/// Notes what changes; returns the owner to keep, if another one's object is as the file says.
fn merge_one<T: Serialize + PartialEq>(
    kind: &str,
    name: &str,
    old: Option<&T>,
    owner: impl Fn(&T) -> Owner,
    new: &T,
    changes: &mut Vec<String>,
) -> Result<Option<Owner>> {
    let Some(old) = old else {
        changes.push(format!("added {kind} {name}"));
        return Ok(None);
    };
    let keys = differing_keys(old, new);
    let foreign = Some(owner(old)).filter(|o| o.is_plugin());
    if keys.is_empty() {
        return Ok(foreign);
    }
    if let Some(owner) = foreign {
        return Err(Error::conflict(format!(
            "{kind} {name} belongs to {} and differs from the file in {}",
            owner.name(),
            keys.join(", ")
        ))
        .hint(format!("leave it out of the file, or remove it where it was made ({})", owner.name())));
    }
    changes.push(format!("changed {kind} {name} ({})", keys.join(", ")));
    Ok(None)
}

/// The keys, apart from the owner, whose values are not the same.
fn differing_keys<T: Serialize>(old: &T, new: &T) -> Vec<String> {
    let map = |object: &T| match serde_json::to_value(object) {
        Ok(serde_json::Value::Object(map)) => map,
        _ => unreachable!("bridges and ports are written as maps"),
    };
    let (old, new) = (map(old), map(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).filter(|k| *k != "owner").collect();
    keys.into_iter().filter(|k| old.get(*k) != new.get(*k)).cloned().collect()
}

impl Desired {
    /// Removes a port and the static entries that point to it. False when there is none.
    pub fn remove_port(&mut self, name: &str) -> bool {
        let port = self.ports.remove(name);
        for bridge in self.bridges.values_mut() {
            bridge.static_fdb.retain(|entry| entry.port != name);
        }
        port.is_some()
    }
}
