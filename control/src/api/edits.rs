//! What each writing request does to the desired state. Plain functions: validation and the kernel come
//! after, in the controller.

use serde_json::Value;
use trunkline_packet::MacAddr;

use crate::model::keys::{self, Object};
use crate::model::tunnel::member_of;
use crate::model::{BridgeSpec, Desired, PortSpec, StaticFdb};
use crate::{Error, Result, error::no_bridge};

/// The body of a PUT, or the `spec` of a POST, for a bridge.
pub(super) fn read_bridge(name: &str, body: Value) -> Result<BridgeSpec> {
    keys::check_bridge(name, &body)?;
    keys::read(Object::Bridge(name), body)
}

/// The same for a port.
pub(super) fn read_port(name: &str, body: Value) -> Result<PortSpec> {
    keys::check_port(name, &body)?;
    keys::read(Object::Port(name, ""), body)
}

pub(super) fn no_port(name: &str) -> Error {
    Error::not_found(format!("there is no port {name}")).hint("see: trunkline port list")
}

/// What is said of a port that cannot be edited: there is none, or it is a mesh's.
fn no_own_port(desired: &Desired, name: &str) -> Error {
    match member_of(name).filter(|_| desired.port(name).is_some()) {
        Some((mesh, _)) => Error::conflict(format!("port {name} belongs to mesh {mesh}"))
            .hint(format!("see: trunkline mesh set {mesh} --help, trunkline mesh peer --help")),
        None => no_port(name),
    }
}

pub(super) fn bridge<'d>(desired: &'d mut Desired, name: &str) -> Result<&'d mut BridgeSpec> {
    desired.bridges.get_mut(name).ok_or_else(|| no_bridge(name))
}

pub(super) fn add_bridge(desired: &mut Desired, name: String, spec: BridgeSpec) -> Result<()> {
    if desired.bridges.contains_key(&name) {
        return Err(Error::conflict(format!("bridge {name} is there already"))
            .hint(format!("change it with: trunkline bridge set {name}")));
    }
    desired.bridges.insert(name, spec);
    Ok(())
}

/// Replaces a bridge's settings; `body` without an owner leaves it its owner.
pub(super) fn put_bridge(desired: &mut Desired, name: &str, body: Value) -> Result<()> {
    let owned = body.get("owner").is_some();
    let mut spec = read_bridge(name, body)?;
    let old = bridge(desired, name)?;
    if !owned {
        spec.owner = old.owner;
    }
    *old = spec;
    Ok(())
}

pub(super) fn del_bridge(desired: &mut Desired, name: &str, force: bool) -> Result<()> {
    bridge(desired, name)?;
    let ports: Vec<String> =
        desired.ports.iter().filter(|(_, p)| p.bridge == name).map(|(name, _)| name.clone()).collect();
    let refuse = |what: &str, names: &[&String]| {
        let few = names.iter().take(3).map(|n| n.as_str()).collect::<Vec<_>>().join(", ");
        let more = if names.len() > 3 { ", …" } else { "" };
        Err(Error::conflict(format!("bridge {name} has {what}: {few}{more}"))
            .hint("delete them first, or all together with --force"))
    };
    if !ports.is_empty() && !force {
        return refuse("ports", &ports.iter().collect::<Vec<_>>());
    }
    let meshes: Vec<_> = desired.meshes.iter().filter(|(_, m)| m.bridge == name).map(|(n, _)| n).collect();
    if !meshes.is_empty() && !force {
        return refuse("meshes", &meshes);
    }
    let mut gateways: Vec<String> = desired.gateways.keys().cloned().collect();
    gateways.retain(|g| crate::validate::gateway_place(desired, g).0 == name);
    if !gateways.is_empty() && !force {
        return refuse("gateways", &gateways.iter().collect::<Vec<_>>());
    }
    gateways.iter().for_each(|gateway| drop(desired.gateways.remove(gateway)));
    desired.meshes.retain(|_, mesh| mesh.bridge != name);
    ports.iter().for_each(|port| {
        desired.remove_port(port);
    });
    desired.bridges.remove(name);
    Ok(())
}

pub(super) fn add_port(desired: &mut Desired, name: String, spec: PortSpec) -> Result<()> {
    if let Some(other) = desired.ports.get(&name) {
        return Err(Error::conflict(format!("port {name} is there already, on bridge {}", other.bridge))
            .hint(format!(
                "port names are unique in the daemon; change it with: trunkline port set {name}"
            )));
    }
    desired.ports.insert(name, spec);
    Ok(())
}

/// Replaces a port's settings; `body` without an owner leaves it its owner.
pub(super) fn put_port(desired: &mut Desired, name: &str, body: Value) -> Result<()> {
    let owned = body.get("owner").is_some();
    let mut spec = read_port(name, body)?;
    let missing = no_own_port(desired, name);
    let old = desired.ports.get_mut(name).ok_or(missing)?;
    if !owned {
        spec.owner = old.owner;
    }
    *old = spec;
    Ok(())
}

/// Changes the keys that `patch` names; null takes one away (RFC 7386).
pub(super) fn patch_port(desired: &mut Desired, name: &str, patch: &Value) -> Result<()> {
    patch_is_object(patch)?;
    let missing = no_own_port(desired, name);
    let old = desired.ports.get_mut(name).ok_or(missing)?;
    let mut value =
        serde_json::to_value(&*old).map_err(|e| Error::new(crate::ErrorKind::Internal, e.to_string()))?;
    merge_patch(&mut value, patch);
    *old = read_port(name, value)?;
    Ok(())
}

/// Refuses a merge patch that is no object.
pub(super) fn patch_is_object(patch: &Value) -> Result<()> {
    match patch.is_object() {
        true => Ok(()),
        false => Err(Error::invalid("a merge patch is a JSON object").hint("for example {\"vlan\": 20}")),
    }
}

/// RFC 7386 §2, MergePatch.
pub(super) fn merge_patch(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = Value::Object(serde_json::Map::new());
    }
    if let Value::Object(target) = target {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge_patch(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

pub(super) fn del_port(desired: &mut Desired, name: &str) -> Result<()> {
    if desired.remove_port(name) { Ok(()) } else { Err(no_own_port(desired, name)) }
}

/// Adds a static entry, in place of one of the same address and VLAN.
pub(super) fn fdb_add(desired: &mut Desired, name: &str, entry: StaticFdb) -> Result<()> {
    let entries = &mut bridge(desired, name)?.static_fdb;
    match entries.iter_mut().find(|e| (e.vlan, &e.mac) == (entry.vlan, &entry.mac)) {
        Some(old) => *old = entry,
        None => entries.push(entry),
    }
    Ok(())
}

pub(super) fn fdb_del(desired: &mut Desired, name: &str, vlan: u16, mac: MacAddr) -> Result<()> {
    let entries = &mut bridge(desired, name)?.static_fdb;
    let before = entries.len();
    entries.retain(|e| (e.vlan, e.mac.parse()) != (vlan, Ok(mac)));
    if entries.len() == before {
        return Err(Error::not_found(format!("bridge {name} has no static entry for {mac} in VLAN {vlan}"))
            .hint(format!("learned ones go with: trunkline fdb flush {name}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merge_patch_is_that_of_the_rfc() {
        // RFC 7386, appendix A.
        for (target, patch, result) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!(["a", "b"]), json!(["c", "d"]), json!(["c", "d"])),
            (json!({"a":"b"}), json!(["c"]), json!(["c"])),
            (json!({"a":"foo"}), json!(null), json!(null)),
            (json!({"a":"foo"}), json!("bar"), json!("bar")),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!([1, 2]), json!({"a":"b","c":null}), json!({"a":"b"})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            let mut value = target.clone();
            merge_patch(&mut value, &patch);
            assert_eq!(value, result, "{target} + {patch}");
        }
    }
}
