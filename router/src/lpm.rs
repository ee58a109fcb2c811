//! Longest prefix match: a sorted list of networks for each prefix length in use, searched from the longest.
//! Tables have a handful of lengths and mostly one network in each, so a lookup is a few comparisons.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::BitAnd;

use ipnet::IpNet;

/// Networks of one length.
#[derive(Clone, Debug)]
struct Level<K> {
    mask: K,
    networks: Vec<(K, u32)>,
}

/// One address family, longest first.
#[derive(Clone, Debug)]
struct Levels<K>(Vec<Level<K>>);

impl<K: Copy + Ord + BitAnd<Output = K>> Levels<K> {
    fn insert(&mut self, mask: K, network: K, value: u32) {
        // A longer mask is the larger number.
        let at = self.0.partition_point(|l| l.mask > mask);
        if self.0.get(at).is_none_or(|l| l.mask != mask) {
            self.0.insert(at, Level { mask, networks: Vec::new() });
        }
        let networks = &mut self.0[at].networks;
        if let Err(i) = networks.binary_search_by_key(&network, |n| n.0) {
            networks.insert(i, (network, value));
        }
    }

    #[inline]
    fn find(&self, addr: K) -> Option<u32> {
        self.0.iter().find_map(|level| {
            let network = addr & level.mask;
            match level.networks.as_slice() {
                [(only, value)] => (*only == network).then_some(*value),
                many => many.binary_search_by_key(&network, |n| n.0).ok().map(|i| many[i].1),
            }
        })
    }
}

/// Prefixes of both families, each with a number.
#[derive(Clone, Debug)]
pub(crate) struct Lpm {
    v4: Levels<u32>,
    v6: Levels<u128>,
}

impl Lpm {
    pub(crate) fn new() -> Lpm {
        Lpm { v4: Levels(Vec::new()), v6: Levels(Vec::new()) }
    }

    /// Adds a prefix; the first value for it stays.
    pub(crate) fn insert(&mut self, prefix: IpNet, value: u32) {
        match prefix {
            IpNet::V4(p) => self.v4.insert(p.netmask().to_bits(), p.network().to_bits(), value),
            IpNet::V6(p) => self.v6.insert(p.netmask().to_bits(), p.network().to_bits(), value),
        }
    }

    #[inline]
    pub(crate) fn v4(&self, addr: Ipv4Addr) -> Option<u32> {
        self.v4.find(addr.to_bits())
    }

    #[inline]
    pub(crate) fn v6(&self, addr: Ipv6Addr) -> Option<u32> {
        self.v6.find(addr.to_bits())
    }

    #[inline]
    pub(crate) fn find(&self, addr: IpAddr) -> Option<u32> {
        match addr {
            IpAddr::V4(a) => self.v4(a),
            IpAddr::V6(a) => self.v6(a),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn equals_a_search_of_all(
            v4 in prop::collection::vec((any::<u32>(), 0u8..=32), 0..40),
            v6 in prop::collection::vec((any::<u128>(), 0u8..=128), 0..40),
            bit in 0u32..128,
        ) {
            let nets: Vec<IpNet> = v4.iter().map(|&(a, l)| IpNet::new(IpAddr::V4(a.into()), l).unwrap())
                .chain(v6.iter().map(|&(a, l)| IpNet::new(IpAddr::V6(a.into()), l).unwrap()))
                .collect();
            let mut lpm = Lpm::new();
            for (i, net) in nets.iter().enumerate() {
                lpm.insert(*net, i as u32);
            }
            // The networks themselves, and neighbours that differ in one bit.
            let probes = nets.iter().flat_map(|n| match n.addr() {
                IpAddr::V4(a) => [a.to_bits(), a.to_bits() ^ 1 << (bit % 32)].map(|a| IpAddr::V4(a.into())),
                IpAddr::V6(a) => [a.to_bits(), a.to_bits() ^ 1 << bit].map(|a| IpAddr::V6(a.into())),
            });
            for probe in probes {
                let longest = nets.iter().filter(|n| n.contains(&probe)).map(IpNet::prefix_len).max();
                let want = longest.and_then(|len| {
                    nets.iter().position(|n| n.contains(&probe) && n.prefix_len() == len)
                });
                prop_assert_eq!(lpm.find(probe), want.map(|i| i as u32));
            }
        }
    }
}
