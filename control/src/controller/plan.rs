//! The difference between two desired states, as steps in an order that works.

use std::collections::BTreeSet;

use crate::model::{Desired, PortSpec};
use crate::reconcile::{in_the_way, needs_new_interface, same_l3, takes_other_packets};

/// What an edit takes. Steps are carried out in the order of the fields.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// Bridges to make.
    pub(super) add_bridges: Vec<String>,
    /// Bridges whose settings change.
    pub(super) update_bridges: Vec<String>,
    /// Ports to remove, and those to make anew: their interfaces must be out of the way first.
    pub(super) park_ports: Vec<String>,
    /// Ports that change while they run.
    pub(super) update_ports: Vec<String>,
    /// Ports to make, those made anew included.
    pub(super) add_ports: Vec<String>,
    /// Bridges whose static entries must be written.
    pub(super) static_fdb: Vec<String>,
    /// Whether gateways, uplinks, routes, NAT rules or connection tracking differ.
    pub(super) l3: bool,
    /// Bridges to remove, when nothing can fail any more.
    pub(super) remove_bridges: Vec<String>,
}

impl Plan {
    pub(super) fn new(old: &Desired, new: &Desired) -> Plan {
        let mut plan = Plan::default();
        // Bridges on which a port appears or gets another identity in the engine.
        let mut touched = BTreeSet::new();
        let moved: Vec<(&String, &PortSpec)> = old
            .ports
            .iter()
            .filter(|(name, before)| new.ports.get(*name).is_some_and(|s| takes_other_packets(before, s)))
            .collect();
        let blocked = |name: &String, spec: &PortSpec| {
            moved.iter().any(|(n, _)| *n == name)
                && moved.iter().any(|(n, before)| *n != name && in_the_way(spec, before))
        };
        for (name, spec) in &new.ports {
            match old.ports.get(name) {
                None => plan.add_ports.push(name.clone()),
                Some(before) if before == spec => continue,
                Some(before) if needs_new_interface(name, before, spec) || blocked(name, spec) => {
                    plan.park_ports.push(name.clone());
                    plan.add_ports.push(name.clone());
                }
                Some(before) => {
                    plan.update_ports.push(name.clone());
                    if before.bridge == spec.bridge {
                        continue;
                    }
                }
            }
            touched.insert(spec.bridge.as_str());
        }
        plan.park_ports.extend(old.ports.keys().filter(|n| !new.ports.contains_key(*n)).cloned());
        for (name, spec) in &new.bridges {
            let statics_differ = match old.bridges.get(name) {
                None => {
                    plan.add_bridges.push(name.clone());
                    !spec.static_fdb.is_empty()
                }
                Some(before) => {
                    if (before.ageing, before.max_macs) != (spec.ageing, spec.max_macs) {
                        plan.update_bridges.push(name.clone());
                    }
                    // A table of another size may have no room where an entry has to be: then it is refused.
                    let resized = before.max_macs != spec.max_macs && !spec.static_fdb.is_empty();
                    resized || before.static_fdb != spec.static_fdb
                }
            };
            if statics_differ || (touched.contains(name.as_str()) && !spec.static_fdb.is_empty()) {
                plan.static_fdb.push(name.clone());
            }
        }
        plan.l3 = !same_l3(old, new);
        plan.remove_bridges = old.bridges.keys().filter(|n| !new.bridges.contains_key(*n)).cloned().collect();
        plan
    }
}
