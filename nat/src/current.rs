//! Holding mappings and connections against the present rules.

use crate::conn::Origin;
use crate::nat::Nat;
use crate::rules::{Exit, NO_RULE, Rule};
use crate::types::{Endpoint, Outside, Uplink, port_class};

impl Nat {
    /// The rule that a mapping is under now; `None` when the rules do not allow it any more.
    pub(crate) fn mapping_rule(&self, at: u32) -> Option<u16> {
        let m = self.table.maps.get(at);
        match self.rules.exit(m.zone, m.uplink, m.local.0.addr, self.config.route) {
            Exit::Masquerade(rule) if self.allows(rule, m.uplink, m.proto, m.external) => Some(rule),
            _ => None,
        }
    }

    /// Whether a masquerade may use the external endpoint.
    fn allows(&self, rule: u16, uplink: Uplink, proto: u8, external: Outside<Endpoint>) -> bool {
        let Some(slot) = self.rules.slot(rule) else { return false };
        let Rule::Masquerade { ports, .. } = slot.rule else { return false };
        let Some(at) = self.rules.externals.find(uplink, external.0.addr) else { return false };
        let port = external.0.port;
        let port_ok = port_class(proto).is_none_or(|class| {
            (ports.0..=ports.1).contains(&port) && self.rules.externals.get(at).may_use(class, port)
        });
        slot.pool.contains(&at) && port_ok
    }

    /// Whether the present rules still translate the connection as it is. Looked at once per change.
    #[inline]
    pub(crate) fn is_current(&mut self, at: u32) -> bool {
        self.table.conns[at as usize].version == self.version || self.renew(at)
    }

    fn renew(&mut self, at: u32) -> bool {
        let c = &self.table.conns[at as usize];
        let exit = self.rules.exit(c.zone, c.uplink, c.local.0.addr, self.config.route);
        let rule = match (c.origin(), exit) {
            (Origin::Routed, Exit::Route) => Some(NO_RULE),
            (Origin::Static, Exit::Static(rule, addr)) if addr == c.external.0.addr => Some(rule),
            (Origin::Masquerade, Exit::Masquerade(rule))
                if self.allows(rule, c.uplink, c.proto, c.external) =>
            {
                Some(rule)
            }
            (Origin::Publish, _) => self
                .rules
                .entrance(c.uplink, c.proto, c.external)
                .filter(|&(_, zone, local)| (zone, local) == (c.zone, c.local))
                .map(|(rule, ..)| rule),
            _ => None,
        };
        let Some(rule) = rule else { return false };
        if c.is_shown() && self.rules.gateway(c.zone, c.local.0.addr) != Some(c.shown().0) {
            return false;
        }
        let hairpin = self.rules.is_external(c.uplink, c.remote.addr);
        let conn = &mut self.table.conns[at as usize];
        conn.set_rule(rule);
        conn.version = self.version;
        conn.set_hairpin(hairpin);
        true
    }
}
