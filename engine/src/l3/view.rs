//! The network layer as workers see it.

use std::sync::Arc;

use trunkline_nat::{Rule, RuleId};
use trunkline_packet::PortId;
use trunkline_router::{IfaceId, Tables};

/// What a port is to the network layer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Nothing.
    None,
    /// A gateway.
    Gateway(trunkline_nat::Zone),
    /// An uplink.
    Uplink(trunkline_nat::Uplink),
    /// The host's loopback, for an uplink that it shares.
    Loopback(trunkline_nat::Uplink),
}

/// One version of the configuration.
#[derive(Debug)]
pub(crate) struct L3View {
    /// Grows with each.
    pub(crate) version: u64,
    pub(crate) tables: Arc<Tables>,
    /// By [`PortId::index`].
    pub(crate) roles: Vec<Role>,
    pub(crate) uplinks: Vec<(trunkline_nat::Uplink, IfaceId)>,
    pub(crate) loopbacks: Vec<(PortId, trunkline_nat::Uplink)>,
    pub(crate) rules: Vec<(RuleId, Rule)>,
    pub(crate) gateways: Vec<trunkline_nat::Gateway>,
    /// Of one worker.
    pub(crate) ct: trunkline_nat::Config,
}

impl L3View {
    /// Without interfaces.
    pub(crate) fn empty() -> L3View {
        L3View {
            version: 0,
            tables: Arc::default(),
            roles: Vec::new(),
            uplinks: Vec::new(),
            loopbacks: Vec::new(),
            rules: Vec::new(),
            gateways: Vec::new(),
            ct: trunkline_nat::Config::default(),
        }
    }

    #[inline]
    pub(crate) fn role(&self, port: PortId) -> Role {
        self.roles.get(port.index()).copied().unwrap_or(Role::None)
    }

    #[inline]
    pub(crate) fn is_gateway(&self, port: PortId) -> bool {
        matches!(self.role(port), Role::Gateway(_))
    }

    /// The loopback of a shared uplink.
    pub(crate) fn loopback(&self, uplink: trunkline_nat::Uplink) -> Option<PortId> {
        self.loopbacks.iter().find(|l| l.1 == uplink).map(|l| l.0)
    }

    /// The interface of an uplink.
    #[inline]
    pub(crate) fn uplink(&self, uplink: trunkline_nat::Uplink) -> Option<IfaceId> {
        self.uplinks.iter().find(|u| u.0 == uplink).map(|u| u.1)
    }
}
