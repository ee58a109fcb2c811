//! Layer 3 of the real world.

use super::l3::{L3World, plain_gateways, plain_nat, plain_routes, plain_uplinks, same_l3};
use super::world::{KernelWorld, draw_mac};
use crate::model::Desired;
use crate::model::l3::{
    CtCount, CtFilter, CtRow, GatewayStatus, LeaseRow, NatStatus, NeighbourRow, RouteStatus, UplinkKind,
    UplinkStatus,
};
use crate::{Error, Result};

impl L3World for KernelWorld {
    fn complete_l3(&self, desired: &mut Desired) -> Result<()> {
        for gateway in desired.gateways.values_mut().filter(|g| g.mac.is_none()) {
            gateway.mac = Some(draw_mac()?);
        }
        for uplink in desired.uplinks.values_mut() {
            if let UplinkKind::Host(host) = &mut uplink.kind
                && host.mac.is_none()
            {
                host.mac = Some(draw_mac()?);
            }
        }
        Ok(())
    }

    fn set_l3(&mut self, desired: &Desired) -> Result<()> {
        match same_l3(desired, &Desired::default()) {
            true => Ok(()),
            false => Err(Error::failed("the data path has no layer 3 in this build")),
        }
    }

    fn restore_l3(&mut self, _desired: &Desired) {}

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

    fn connections(&self, _filter: &CtFilter) -> Result<Vec<CtRow>> {
        Ok(Vec::new())
    }

    fn count_connections(&self, _filter: &CtFilter) -> Result<CtCount> {
        Ok(CtCount::default())
    }

    fn flush_connections(&mut self, _filter: &CtFilter) -> Result<u64> {
        Ok(0)
    }

    fn neighbours(&self) -> Vec<NeighbourRow> {
        Vec::new()
    }

    fn leases(&self) -> Vec<LeaseRow> {
        Vec::new()
    }
}
