//! Which of several remotes of a tunnel port an address is behind: told by the user, or learned from the
//! outer source of what comes in (RFC 7348 §4.1).
//!
//! Remotes are numbered: those of the configuration first, in their order, then those learned where anyone
//! may send. Addresses are kept in the same kind of table as the bridge's, with such a number in place of a
//! port, so the same rules of ageing and eviction hold.
//!
//! Who may send from invented addresses can make the list of learned remotes long: it is bounded, grows by a
//! bounded number a second, and a number that no address refers to any more is used again.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use parking_lot::Mutex;
use trunkline_packet::{MacAddr, PortId, VlanId};
use trunkline_switch::Fdb;
use trunkline_tunnel::mtu::icmp::TokenBucket;

/// Most addresses, as on a bridge by default.
const MAX_MACS: u32 = 16384;

/// Most remotes learned, besides those of the configuration.
const MAX_LEARNED: usize = 1024;

/// New remotes a second, and at once.
const LEARN_RATE: u32 = 100;

/// The table of one tunnel port.
pub(crate) struct Remotes {
    macs: Fdb,
    list: ArcSwap<List>,
    /// How many of the list are of the configuration.
    configured: usize,
    limit: Mutex<TokenBucket>,
}

/// Remotes by number, and back.
#[derive(Clone, Default)]
pub(crate) struct List {
    remotes: Vec<IpAddr>,
    numbers: HashMap<IpAddr, u16>,
}

impl List {
    /// The remote with this number.
    pub(crate) fn get(&self, number: usize) -> Option<IpAddr> {
        self.remotes.get(number).copied()
    }
}

impl Remotes {
    /// For these remotes and static entries; what was learned for remotes that stay is taken over.
    pub(super) fn new(
        remotes: &[IpAddr],
        statics: &[(VlanId, MacAddr, IpAddr)],
        before: Option<&Remotes>,
        now: u32,
        ageing: u32,
    ) -> Remotes {
        let mut list = List::default();
        for &remote in remotes.iter().chain(statics.iter().map(|(_, _, remote)| remote)) {
            list.number(remote);
        }
        let configured = list.remotes.len();
        let macs = Fdb::new(MAX_MACS);
        if let Some(before) = before {
            let old = before.list.load();
            for entry in before.macs.entries(now, ageing).iter().filter(|entry| !entry.is_static) {
                let number = old.get(entry.port.index()).and_then(|remote| list.numbers.get(&remote));
                if let Some(&number) = number {
                    macs.learn(now.saturating_sub(entry.age), entry.vid, entry.mac, PortId(number), 0);
                }
            }
        }
        for &(vlan, mac, remote) in statics {
            if let Some(&number) = list.numbers.get(&remote) {
                macs.add_static(vlan, mac, PortId(number));
            }
        }
        let limit = Mutex::new(TokenBucket::new(Instant::now(), LEARN_RATE, LEARN_RATE));
        Remotes { macs, list: ArcSwap::from_pointee(list), configured, limit }
    }

    /// The remotes, for a batch.
    #[inline]
    pub(crate) fn list(&self) -> Guard<Arc<List>> {
        self.list.load()
    }

    /// The number of the remote an address is behind.
    #[inline]
    pub(crate) fn find(&self, now: u32, ageing: u32, vlan: VlanId, mac: MacAddr) -> Option<usize> {
        self.macs.lookup(now, ageing, vlan, mac).map(PortId::index)
    }

    /// Notes that an address is behind a remote. Never waits.
    #[inline]
    pub(crate) fn learn(&self, now: u32, vlan: VlanId, mac: MacAddr, remote: IpAddr) {
        let number = self.list.load().numbers.get(&remote).copied().or_else(|| self.add(remote));
        if let Some(number) = number {
            self.macs.learn(now, vlan, mac, PortId(number), 0);
        }
    }

    #[cold]
    fn add(&self, remote: IpAddr) -> Option<u16> {
        let mut limit = self.limit.try_lock()?;
        let mut list = List::clone(&self.list.load());
        if let Some(&number) = list.numbers.get(&remote) {
            // Another worker was faster.
            return Some(number);
        }
        if !limit.take(Instant::now()) {
            return None;
        }
        if list.remotes.len() < self.configured + MAX_LEARNED {
            let number = list.number(remote);
            self.list.store(Arc::new(list));
            return number;
        }
        let unused = |number: &usize| self.macs.learned_on(PortId(*number as u16)) == 0;
        let number = (self.configured..list.remotes.len()).find(unused)?;
        let old = std::mem::replace(list.remotes.get_mut(number)?, remote);
        list.numbers.remove(&old);
        list.numbers.insert(remote, number as u16);
        self.list.store(Arc::new(list));
        Some(number as u16)
    }

    /// Forgets what was learned behind a remote, and says which addresses that were.
    pub(super) fn flush(&self, remote: IpAddr, now: u32, ageing: u32) -> Vec<(VlanId, MacAddr)> {
        let Some(&number) = self.list.load().numbers.get(&remote) else { return Vec::new() };
        let port = PortId(number);
        let entries = self.macs.entries(now, ageing);
        let gone = entries.iter().filter(|entry| entry.port == port && !entry.is_static);
        let gone = gone.map(|entry| (entry.vid, entry.mac)).collect();
        self.macs.flush(None, Some(port));
        gone
    }

    /// Removes what is too old; a part at each call.
    pub(crate) fn sweep(&self, now: u32, ageing: u32, budget: usize) {
        self.macs.sweep(now, ageing, budget);
    }
}

impl List {
    /// The number of a remote, which gets one if it has none. `None` when there are no more.
    fn number(&mut self, remote: IpAddr) -> Option<u16> {
        if let Some(&number) = self.numbers.get(&remote) {
            return Some(number);
        }
        let number = u16::try_from(self.remotes.len()).ok().filter(|&n| n != PortId::NONE.0)?;
        self.remotes.push(remote);
        self.numbers.insert(remote, number);
        Some(number)
    }
}
