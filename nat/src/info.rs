//! What users may see of the table.

use std::ops::Range;

use trunkline_packet::headers::proto;

use crate::conn::Conn;
use crate::nat::Nat;
use crate::rules::RuleId;
use crate::tcp::Phase;
use crate::types::{Endpoint, Inside, Outside, Prefix, Side, Uplink, Zone};

/// How full a shard is, and what it had to do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NatStats {
    /// Connections now.
    pub connections: usize,
    /// Mappings now.
    pub mappings: usize,
    /// Fragments held now.
    pub held: usize,
    /// Entries that gave way to others, since the start.
    pub early_drops: u64,
    /// Connections that were given a port which another inside endpoint has, since the start.
    pub shared_ports: u64,
}

/// How far a connection is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnState {
    /// Only its initiator has sent, or TCP is not open yet.
    Opening,
    /// Both sides have sent; TCP is open.
    Established,
    /// TCP: one side has finished.
    Closing,
    /// TCP: both sides have finished.
    TimeWait,
    /// TCP: reset.
    Reset,
}

/// One connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnInfo {
    /// Protocol number.
    pub proto: u8,
    /// Network inside.
    pub zone: Zone,
    /// Network outside.
    pub uplink: Uplink,
    /// The endpoint inside.
    pub local: Inside<Endpoint>,
    /// What the world sees of it.
    pub external: Outside<Endpoint>,
    /// The other end; its port is the query type for ICMP.
    pub remote: Endpoint,
    /// As whom the inside sees the other end: the gateway, if the host could not answer it otherwise.
    pub shown: Endpoint,
    /// The rule that translates it.
    pub rule: Option<RuleId>,
    /// Whether the remote began it.
    pub from_outside: bool,
    /// How far it is.
    pub state: ConnState,
    /// How long it lives without packets, milliseconds.
    pub expires_in: u64,
}

/// Which connections: those that have everything that is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ConnFilter {
    /// Protocol number.
    pub proto: Option<u8>,
    /// Network inside.
    pub zone: Option<Zone>,
    /// Network outside.
    pub uplink: Option<Uplink>,
    /// Any of its addresses is in here.
    pub address: Option<Prefix>,
    /// The host inside is in here.
    pub local: Option<Prefix>,
    /// The other end is in here.
    pub remote: Option<Prefix>,
    /// Any of its ports or query identifiers.
    pub port: Option<u16>,
    /// The source of its first packet, as that was, is in here.
    pub src: Option<Prefix>,
    /// The destination of its first packet, as that was, is in here.
    pub dst: Option<Prefix>,
    /// The source port of its first packet.
    pub sport: Option<u16>,
    /// The destination port of its first packet.
    pub dport: Option<u16>,
    /// How far it is.
    pub state: Option<ConnState>,
    /// Translated by this rule.
    pub rule: Option<RuleId>,
}

impl ConnFilter {
    /// Whether it is one of them.
    pub fn matches(&self, c: &ConnInfo) -> bool {
        let ends = [c.local.0, c.external.0, c.remote];
        // What is called the remote's port of a query is its type.
        let ports = if matches!(c.proto, proto::ICMP | proto::ICMPV6) { &ends[..2] } else { &ends[..] };
        self.proto.is_none_or(|p| p == c.proto)
            && self.zone.is_none_or(|z| z == c.zone)
            && self.uplink.is_none_or(|u| u == c.uplink)
            && self.address.is_none_or(|a| ends.iter().any(|e| a.contains(e.addr)))
            && self.local.is_none_or(|a| a.contains(c.local.0.addr))
            && self.remote.is_none_or(|a| a.contains(c.remote.addr))
            && self.port.is_none_or(|p| ports.iter().any(|e| e.port == p))
            && self.state.is_none_or(|s| s == c.state)
            && self.rule.is_none_or(|r| Some(r) == c.rule)
            && self.matches_first(c)
    }

    /// The same for the first packet.
    fn matches_first(&self, c: &ConnInfo) -> bool {
        let (src, dst) = c.first();
        // Queries have no ports.
        let port = |e: Endpoint| (!matches!(c.proto, proto::ICMP | proto::ICMPV6)).then_some(e.port);
        self.src.is_none_or(|a| a.contains(src.addr))
            && self.dst.is_none_or(|a| a.contains(dst.addr))
            && self.sport.is_none_or(|p| port(src) == Some(p))
            && self.dport.is_none_or(|p| port(dst) == Some(p))
    }
}

impl ConnInfo {
    /// Source and destination of its first packet, before translation.
    pub fn first(&self) -> (Endpoint, Endpoint) {
        match self.from_outside {
            true => (self.remote, self.external.0),
            false => (self.local.0, self.shown),
        }
    }
}

impl Nat {
    /// How many slots [`Nat::connections_in`] and [`Nat::flush_in`] can be asked for.
    pub fn slots(&self) -> usize {
        self.table.conns.len()
    }

    /// All live connections, in no order. Looks at the whole table: not for the packet path.
    pub fn connections(&self, now: u64) -> impl Iterator<Item = ConnInfo> {
        self.connections_in(now, 0..self.slots())
    }

    /// Those of some slots. A connection stays in its slot.
    pub fn connections_in(&self, now: u64, slots: Range<usize>) -> impl Iterator<Item = ConnInfo> {
        let now = now.saturating_sub(self.start.unwrap_or(now));
        let slots = slots.start.min(self.slots())..slots.end.min(self.slots());
        self.table.conns[slots]
            .iter()
            .filter(|c| !c.is_free())
            .map(move |c| self.info(c, now))
            .filter(|i| i.expires_in > 0)
    }

    /// Removes the connections for which `which` holds and returns how many. Looks at the whole table: not for
    /// the packet path.
    pub fn flush(&mut self, now: u64, which: impl FnMut(&ConnInfo) -> bool) -> usize {
        self.flush_in(now, 0..self.slots(), which)
    }

    /// The same for those of some slots.
    pub fn flush_in(
        &mut self,
        now: u64,
        slots: Range<usize>,
        mut which: impl FnMut(&ConnInfo) -> bool,
    ) -> usize {
        let (now, mut removed) = (self.since_start(now), 0);
        for at in slots.start..slots.end.min(self.slots()) {
            let conn = &self.table.conns[at];
            if !conn.is_free() && which(&self.info(conn, now)) {
                self.table.remove(at as u32, &mut self.rules);
                removed += 1;
            }
        }
        removed
    }

    fn info(&self, c: &Conn, now: u64) -> ConnInfo {
        let state = match c.tcp.phase() {
            _ if c.proto != proto::TCP && c.answered() => ConnState::Established,
            _ if c.proto != proto::TCP => ConnState::Opening,
            Phase::Opening => ConnState::Opening,
            Phase::Established => ConnState::Established,
            Phase::Closing => ConnState::Closing,
            Phase::TimeWait => ConnState::TimeWait,
            Phase::Reset => ConnState::Reset,
        };
        ConnInfo {
            proto: c.proto,
            zone: c.zone,
            uplink: c.uplink,
            local: c.local,
            external: c.external,
            remote: c.remote,
            shown: self.table.remote_inside(c),
            // The slot of a rule that is gone may be another's.
            rule: self.rules.id(c.rule()).filter(|_| c.version == self.version),
            from_outside: c.initiator() == Side::Outside,
            state,
            expires_in: c.deadline.remaining(now),
        }
    }
}
