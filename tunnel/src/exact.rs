//! Endpoints by what a packet says, exactly: addresses, kind, UDP port, network. Built once and never changed, so
//! lookups need no more than a line of the cache each, whatever the number of endpoints.

use std::net::IpAddr;

use trunkline_packet::VlanId;

use crate::{Kind, NetId};

/// Two ends and a kind of tunnel; an address that is missing stands for any.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Pair {
    pub(crate) kind: Kind,
    /// UDP port; 0 for GRE.
    pub(crate) port: u16,
    pub(crate) local: Option<IpAddr>,
    pub(crate) remote: Option<IpAddr>,
}

/// A pair and a network in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Key {
    local: u128,
    remote: u128,
    rest: u64,
}

/// Where in a key's last word the families of its addresses are, 0 for any.
const LOCAL: u32 = 60;
const REMOTE: u32 = 56;

impl Key {
    #[inline]
    pub(crate) fn new(pair: &Pair, net: NetId) -> Key {
        // No endpoint's address is all zeros. One family's addresses do not pass for the other's: the mapped form
        // of IPv4 may be on the wire in IPv6.
        let word = |addr: Option<IpAddr>| match addr {
            None => (0, 0),
            Some(IpAddr::V4(v4)) => (u128::from(v4.to_bits()), 4),
            Some(IpAddr::V6(v6)) => (v6.to_bits(), 6),
        };
        let ((local, a), (remote, b)) = (word(pair.local), word(pair.remote));
        let (tag, net) = match net {
            NetId::None => (0, 0),
            NetId::Key(key) => (1, key.0),
            NetId::Vni(vni) => (2, vni.get()),
        };
        let front = a << LOCAL | b << REMOTE | (pair.kind as u64) << 52 | tag << 48;
        Key { local, remote, rest: front | u64::from(pair.port) << 32 | u64::from(net) }
    }

    /// The same with fewer addresses named.
    #[inline]
    pub(crate) fn naming(self, local: bool, remote: bool) -> Key {
        let keep = |named: bool, at: u32| if named { 0 } else { 15 << at };
        Key {
            local: if local { self.local } else { 0 },
            remote: if remote { self.remote } else { 0 },
            rest: self.rest & !(keep(local, LOCAL) | keep(remote, REMOTE)),
        }
    }

    /// Whoever sends packets chooses what is looked up, but not what is in the table: no lookup is longer than the
    /// longest way to an entry or an empty slot behind it.
    #[inline]
    fn hash(&self) -> usize {
        let [a, b] = [self.local, self.remote].map(|addr| addr as u64 ^ (addr >> 64) as u64);
        let product = u128::from(a ^ self.rest ^ 0x1656_67b1_9e37_79f9)
            * u128::from(b ^ self.rest.rotate_left(32) ^ 0x9e37_79b9_7f4a_7c15);
        ((product >> 64) as u64 ^ product as u64) as usize
    }
}

/// What is found: the endpoint's number, and the VLAN that its map gives the network.
pub(crate) type Found = (usize, Option<VlanId>);

/// In a line of the cache of its own.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Slot {
    key: Key,
    found: Option<(u32, Option<VlanId>)>,
}

/// The table: open addressing, half empty at least.
#[derive(Debug, Default)]
pub(crate) struct Exact {
    slots: Box<[Slot]>,
    count: usize,
}

impl Exact {
    /// Adds an entry; returns who has had the place, which stays his.
    pub(crate) fn insert(&mut self, pair: &Pair, net: NetId, (index, vlan): Found) -> Option<usize> {
        if 2 * (self.count + 1) > self.slots.len() {
            self.grow();
        }
        let key = Key::new(pair, net);
        let at = self.place(&key);
        match self.slots[at].found {
            Some((other, _)) => Some(other as usize),
            None => {
                self.slots[at] = Slot { key, found: Some((index as u32, vlan)) };
                self.count += 1;
                None
            }
        }
    }

    fn grow(&mut self) {
        const EMPTY: Slot = Slot { key: Key { local: 0, remote: 0, rest: 0 }, found: None };
        let more = vec![EMPTY; (2 * self.slots.len()).max(8)].into_boxed_slice();
        for slot in std::mem::replace(&mut self.slots, more).iter().filter(|slot| slot.found.is_some()) {
            let at = self.place(&slot.key);
            self.slots[at] = *slot;
        }
    }

    /// The slot of a key, or the empty one where it belongs. The table is neither empty nor full.
    #[inline]
    fn place(&self, key: &Key) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = key.hash() & mask;
        while self.slots[at].found.is_some() && self.slots[at].key != *key {
            at = (at + 1) & mask;
        }
        at
    }

    /// What is there.
    #[inline]
    pub(crate) fn get(&self, key: &Key) -> Option<Found> {
        if self.slots.is_empty() {
            return None;
        }
        let (index, vlan) = self.slots[self.place(key)].found?;
        Some((index as usize, vlan))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{GreKey, Vni};
    use std::collections::HashMap;
    use std::net::Ipv4Addr;

    #[test]
    fn finds_what_a_map_finds() {
        let address = |n: u8| match n {
            0 => None,
            1..=4 => Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, n))),
            5..=6 => Some(IpAddr::V6(Ipv4Addr::new(192, 0, 2, n - 4).to_ipv6_mapped())),
            // The same bits as the IPv4 address.
            _ => Some(IpAddr::V6(std::net::Ipv6Addr::from_bits(0xc000_0201))),
        };
        let nets = [NetId::None, NetId::Key(GreKey(0)), NetId::Key(GreKey(1)), NetId::Vni(Vni::MAX)];
        let mut all = Vec::new();
        for kind in [Kind::Gre, Kind::Nvgre, Kind::Vxlan, Kind::Geneve] {
            for (local, remote) in (0..64).map(|n| (address(n / 8), address(n % 8))) {
                for (port, net) in [0, 4789].into_iter().flat_map(|port| nets.map(|net| (port, net))) {
                    all.push((Pair { kind, port, local, remote }, net));
                }
            }
        }
        let (mut table, mut map) = (Exact::default(), HashMap::new());
        assert_eq!(table.get(&Key::new(&all[0].0, all[0].1)), None);
        for (i, &(pair, net)) in all.iter().enumerate().filter(|(i, _)| i % 3 != 0) {
            assert_eq!(table.insert(&pair, net, (i, VlanId::new(i as u16 % 4095))), None);
            assert_eq!(table.insert(&pair, net, (i + 1, None)), Some(i));
            map.insert((pair, net), (i, VlanId::new(i as u16 % 4095)));
        }
        for (pair, net) in &all {
            let key = Key::new(pair, *net);
            assert_eq!(table.get(&key), map.get(&(*pair, *net)).copied());
            let any = Pair { local: None, ..*pair };
            assert_eq!(key.naming(false, true), Key::new(&any, *net));
            let any = Pair { remote: None, ..*pair };
            assert_eq!(key.naming(true, false), Key::new(&any, *net));
        }
    }

    #[test]
    fn a_slot_is_a_cache_line() {
        assert_eq!(size_of::<Slot>(), 64);
    }
}
