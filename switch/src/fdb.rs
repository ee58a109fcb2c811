//! The forwarding database.

use trunkline_packet::{MacAddr, PortId, VlanId};

/// What the table knows of one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FdbEntry {
    /// The VLAN it is known in.
    pub vid: VlanId,
    /// The address.
    pub mac: MacAddr,
    /// Behind which port.
    pub port: PortId,
    /// Seconds since it was last seen; 0 for static ones.
    pub age: u32,
    /// Made by a user; never moves, never ages.
    pub is_static: bool,
}

/// Placeholder while the table is written.
pub struct Fdb {}

impl Fdb {
    /// A table for `max_macs` addresses (learned and static).
    pub fn new(max_macs: u32) -> Fdb {
        let _ = max_macs;
        Fdb {}
    }
    /// Adds or replaces a static entry. False when the table is full of static entries.
    pub fn add_static(&self, vid: VlanId, mac: MacAddr, port: PortId) -> bool {
        let _ = (vid, mac, port);
        true
    }
    /// Removes an entry of either kind; false when there is none.
    pub fn remove(&self, vid: VlanId, mac: MacAddr) -> bool {
        let _ = (vid, mac);
        false
    }
    /// Forgets learned entries, of one VLAN and/or one port if given; returns how many.
    pub fn flush(&self, vid: Option<VlanId>, port: Option<PortId>) -> usize {
        let _ = (vid, port);
        0
    }
    /// Removes every entry of a port, static ones too, because the port is deleted.
    pub fn forget_port(&self, port: PortId) {
        let _ = port;
    }
    /// All entries that are valid at `now` (seconds on the engine's clock), in no order.
    pub fn entries(&self, now: u32, ageing: u32) -> Vec<FdbEntry> {
        let _ = (now, ageing);
        Vec::new()
    }
    /// Entries now, learned and static.
    pub fn len(&self) -> usize {
        0
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Learned addresses behind a port.
    pub fn learned_on(&self, port: PortId) -> u32 {
        let _ = port;
        0
    }
    /// Removes aged entries, looking at no more than `budget` buckets per call and going on where the last
    /// call stopped.
    pub fn sweep(&self, now: u32, ageing: u32, budget: usize) {
        let _ = (now, ageing, budget);
    }
}
