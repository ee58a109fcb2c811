//! VLAN roles of ports, with Open vSwitch's defaults (`ovs-vswitchd.conf.db(5)`, table Port, VLAN).

use trunkline_packet::{PortId, VlanId};
use trunkline_switch::{PortConfig, VlanSet};

use crate::model::{PortSpec, VlanMode};
use crate::{Error, Result};

/// The mode in force: as given; else access for `vlan` alone, native-tagged for `vlan` with `trunks`,
/// trunk otherwise.
pub fn vlan_mode(spec: &PortSpec) -> VlanMode {
    spec.vlan_mode.unwrap_or(match (spec.vlan, &spec.trunks) {
        (Some(_), None) => VlanMode::Access,
        (Some(_), Some(_)) => VlanMode::NativeTagged,
        (None, _) => VlanMode::Trunk,
    })
}

/// A list of VLANs and ranges, like "10,20-30". 0 stands for untagged frames.
///
/// # Errors
/// Says which part is wrong.
pub fn parse_trunks(text: &str) -> Result<VlanSet> {
    let mut set = VlanSet::empty();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (trunk_vlan(text, first)?, trunk_vlan(text, last)?);
        if first > last {
            return Err(bad_trunks(text, &format!("the range {first}-{last} runs backwards")));
        }
        (first..=last).filter_map(VlanId::new).for_each(|vid| set.insert(vid));
    }
    Ok(set)
}

fn trunk_vlan(text: &str, part: &str) -> Result<u16> {
    let part = part.trim();
    if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
        return Err(bad_trunks(text, &format!("'{part}' is not a VLAN")));
    }
    match part.parse() {
        Ok(vlan @ 0..=4094) => Ok(vlan),
        _ => Err(bad_trunks(text, &format!("VLAN {part} is out of range"))),
    }
}

fn bad_trunks(text: &str, why: &str) -> Error {
    Error::invalid(format!("trunks '{}': {why}", super::shorten(text)))
        .hint("write VLANs and ranges from 0 (untagged) to 4094, like 10,20-30")
}

/// Whether VLAN, trunks and mode go together.
pub(super) fn check(spec: &PortSpec) -> Result<()> {
    if let Some(vlan) = spec.vlan
        && !(1..=4094).contains(&vlan)
    {
        return Err(Error::invalid(format!("VLAN {vlan} is out of range")).hint("use 1 to 4094"));
    }
    if let Some(trunks) = &spec.trunks {
        parse_trunks(trunks)?;
    }
    match vlan_mode(spec) {
        VlanMode::Trunk if spec.vlan.is_some() => Err(Error::invalid("a trunk port has no VLAN of its own")
            .hint("leave vlan out, or use vlan-mode native-tagged or native-untagged")),
        VlanMode::Access if spec.trunks.is_some() => Err(Error::invalid("an access port has no trunks")
            .hint("leave trunks out, or use vlan-mode native-untagged")),
        VlanMode::Trunk => Ok(()),
        mode if spec.vlan.is_none() => {
            Err(Error::invalid(format!("vlan-mode {} needs a VLAN", name(mode))).hint("add vlan, 1 to 4094"))
        }
        _ => Ok(()),
    }
}

/// The mode as users write it.
fn name(mode: VlanMode) -> &'static str {
    match mode {
        VlanMode::Access => "access",
        VlanMode::Trunk => "trunk",
        VlanMode::NativeTagged => "native-tagged",
        VlanMode::NativeUntagged => "native-untagged",
        VlanMode::Dot1qTunnel => "dot1q-tunnel",
    }
}

/// A port's role for the bridge. The engine fills in the id.
///
/// # Errors
/// When VLAN, trunks and mode do not go together.
pub fn port_config(spec: &PortSpec) -> Result<PortConfig> {
    check(spec)?;
    let trunks = match (&spec.trunks, super::tunnel::carried(spec)) {
        (Some(text), _) => parse_trunks(text)?,
        (None, Some(carried)) => carried?,
        (None, None) => VlanSet::all(),
    };
    Ok(PortConfig {
        vlan_mode: match vlan_mode(spec) {
            VlanMode::Access => trunkline_switch::VlanMode::Access,
            VlanMode::Trunk => trunkline_switch::VlanMode::Trunk,
            VlanMode::NativeTagged => trunkline_switch::VlanMode::NativeTagged,
            VlanMode::NativeUntagged => trunkline_switch::VlanMode::NativeUntagged,
            VlanMode::Dot1qTunnel => trunkline_switch::VlanMode::Dot1qTunnel,
        },
        tag: spec.vlan.and_then(VlanId::new).unwrap_or(VlanId::NONE),
        trunks,
        isolated: spec.isolated,
        split_horizon_group: spec.split_horizon_group,
        learning: !spec.no_learning,
        flood: !spec.no_flood,
        max_macs: spec.max_macs.unwrap_or(0),
        flood_limit: spec.flood_limit.unwrap_or(0),
        guard: super::guard::guard(spec).map(std::sync::Arc::new),
        ..PortConfig::new(PortId::NONE)
    })
}
