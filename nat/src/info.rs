//! What users may see of the table.

use trunkline_packet::headers::proto;

use crate::conn::Conn;
use crate::nat::Nat;
use crate::tcp::Phase;
use crate::types::{Endpoint, Inside, Outside, Side, Uplink, Zone};

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
    /// Whether the remote began it.
    pub from_outside: bool,
    /// How far it is.
    pub state: ConnState,
    /// How long it lives without packets, milliseconds.
    pub expires_in: u64,
}

impl Nat {
    /// All live connections, in no order. Looks at the whole table: not for the packet path.
    pub fn connections(&self, now: u64) -> impl Iterator<Item = ConnInfo> {
        let now = now.saturating_sub(self.start.unwrap_or(now));
        self.table
            .conns
            .iter()
            .filter(|c| !c.is_free())
            .map(move |c| info(c, now))
            .filter(|i| i.expires_in > 0)
    }

    /// Removes the connections for which `which` holds and returns how many. Looks at the whole table: not for
    /// the packet path.
    pub fn flush(&mut self, now: u64, mut which: impl FnMut(&ConnInfo) -> bool) -> usize {
        let (now, mut removed) = (self.since_start(now), 0);
        for at in 0..self.table.conns.len() {
            let conn = &self.table.conns[at];
            if !conn.is_free() && which(&info(conn, now)) {
                self.table.remove(at as u32, &mut self.rules);
                removed += 1;
            }
        }
        removed
    }
}

fn info(c: &Conn, now: u64) -> ConnInfo {
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
        from_outside: c.initiator() == Side::Outside,
        state,
        expires_in: c.deadline.remaining(now),
    }
}
