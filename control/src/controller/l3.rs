//! What is asked about layer 3.

use super::Controller;
use crate::Result;
use crate::model::Desired;
use crate::model::l3::{
    CtCount, CtFilter, CtRow, GatewaySpec, GatewayStatus, LeaseRow, NatStatus, NeighbourRow, RouteStatus,
    UplinkSpec, UplinkStatus,
};
use crate::model::objects::Named;

impl Controller {
    /// Every gateway, by name; none when the controller has stopped, as of all these.
    pub async fn gateways(&self) -> Vec<GatewayStatus> {
        self.call(|actor| actor.world.gateways(&actor.desired())).await.unwrap_or_default()
    }

    /// Every uplink, by name.
    pub async fn uplinks(&self) -> Vec<UplinkStatus> {
        self.call(|actor| actor.world.uplinks(&actor.desired())).await.unwrap_or_default()
    }

    /// Every route, those that gateways and uplinks imply included.
    pub async fn routes(&self) -> Vec<RouteStatus> {
        self.call(|actor| actor.world.routes(&actor.desired())).await.unwrap_or_default()
    }

    /// Every NAT rule, by name.
    pub async fn nat_rules(&self) -> Vec<NatStatus> {
        self.call(|actor| actor.world.nat_rules(&actor.desired())).await.unwrap_or_default()
    }

    /// The connections that the filter leaves.
    ///
    /// # Errors
    /// When the filter makes no sense.
    pub async fn connections(&self, filter: CtFilter) -> Result<Vec<CtRow>> {
        self.call(move |actor| actor.world.connections(&filter)).await?
    }

    /// How many connections there are.
    ///
    /// # Errors
    /// When the filter makes no sense.
    pub async fn count_connections(&self, filter: CtFilter) -> Result<CtCount> {
        self.call(move |actor| actor.world.count_connections(&filter)).await?
    }

    /// Forgets connections; returns how many.
    ///
    /// # Errors
    /// When the filter makes no sense.
    pub async fn flush_connections(&self, filter: CtFilter) -> Result<u64> {
        self.call(move |actor| actor.world.flush_connections(&filter)).await?
    }

    /// Neighbours of the switch.
    pub async fn neighbours(&self) -> Vec<NeighbourRow> {
        self.call(|actor| actor.world.neighbours()).await.unwrap_or_default()
    }

    /// DHCP leases, and reservations.
    pub async fn leases(&self) -> Vec<LeaseRow> {
        self.call(|actor| actor.world.leases()).await.unwrap_or_default()
    }
}

/// Takes over what the daemon had filled in before an edit, where the edit does not say.
pub(super) fn inherit_l3(old: &Desired, new: &mut Desired) {
    inherit_all::<GatewaySpec>(old, new);
    inherit_all::<UplinkSpec>(old, new);
}

fn inherit_all<T: Named>(old: &Desired, new: &mut Desired) {
    for (name, spec) in T::all_mut(new) {
        if let Some(before) = T::all(old).get(name) {
            spec.inherit(before);
        }
    }
}
