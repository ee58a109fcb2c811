//! Layer 3 of the fake world.

use super::fake::FakeWorld;
use super::l3::{L3World, no_such, plain_gateways, plain_nat, plain_routes, plain_uplinks};
use crate::Result;
use crate::model::Desired;
use crate::model::l3::{
    CtCount, CtFilter, CtRow, GatewayStatus, LeaseRow, NatStatus, NeighbourRow, RouteStatus, UplinkKind,
    UplinkStatus,
};

impl L3World for FakeWorld {
    fn complete_l3(&self, desired: &mut Desired) -> Result<()> {
        for gateway in desired.gateways.values_mut() {
            gateway.mac.get_or_insert_with(|| "02:00:00:00:00:02".to_owned());
        }
        for uplink in desired.uplinks.values_mut() {
            if let UplinkKind::Host(host) = &mut uplink.kind {
                host.mac.get_or_insert_with(|| "02:00:00:00:00:03".to_owned());
            }
        }
        Ok(())
    }

    fn set_l3(&mut self, desired: &Desired) -> Result<()> {
        let before = self.state.lock().l3.clone();
        for name in desired.uplinks.keys().filter(|n| before.uplinks.get(*n) != desired.uplinks.get(*n)) {
            self.attempt("uplink", name)?;
        }
        let bridges: Vec<String> = self.state.lock().bridges.keys().cloned().collect();
        for name in desired.gateways.keys() {
            let bridge = crate::validate::gateway_place(desired, name).0;
            assert!(bridges.iter().any(|b| b == bridge), "no bridge for gateway {name}");
        }
        self.restore_l3(desired);
        Ok(())
    }

    fn restore_l3(&mut self, desired: &Desired) {
        let Desired { gateways, uplinks, routes, nat, ct, .. } = desired.clone();
        self.state.lock().l3 = Desired { gateways, uplinks, routes, nat, ct, ..Desired::default() };
    }

    fn has_down_l3(&self) -> bool {
        false
    }

    fn retry_l3(&mut self) -> Vec<String> {
        Vec::new()
    }

    fn gateways(&self, desired: &Desired) -> Vec<GatewayStatus> {
        plain_gateways(desired)
    }

    fn uplinks(&self, desired: &Desired) -> Vec<UplinkStatus> {
        plain_uplinks(desired)
    }

    fn routes(&self, desired: &Desired) -> Vec<RouteStatus> {
        plain_routes(desired)
    }

    fn nat_rules(&self, desired: &Desired) -> Vec<NatStatus> {
        plain_nat(desired)
    }

    fn connections(&self, filter: &CtFilter) -> Result<Vec<CtRow>> {
        match &filter.bridge {
            Some(bridge) if !self.state.lock().bridges.contains_key(bridge) => Err(no_such("bridge", bridge)),
            _ => Ok(Vec::new()),
        }
    }

    fn count_connections(&self, _filter: &CtFilter) -> Result<CtCount> {
        Ok(CtCount { limit: 262_144, ..CtCount::default() })
    }

    fn flush_connections(&mut self, filter: &CtFilter) -> Result<u64> {
        self.connections(filter).map(|rows| rows.len() as u64)
    }

    fn neighbours(&self) -> Vec<NeighbourRow> {
        Vec::new()
    }

    fn leases(&self) -> Vec<LeaseRow> {
        Vec::new()
    }
}
