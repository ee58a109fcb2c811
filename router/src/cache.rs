//! Lookups of one worker, remembered: most packets go where others went just before.

use std::net::IpAddr;

use crate::tables::Target;

/// Entries; each address has one place for each scope.
const SIZE: usize = 256;

/// What an address is looked up in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Scope {
    /// What a zone's hosts reach.
    Zone(u16),
    /// What is in a zone.
    Inside(u16),
    /// What is reached by an uplink.
    Uplink(u16),
}

/// A lookup and what it found.
type Entry = (Scope, IpAddr, Option<Target>);

/// Anybody can make addresses that share a place; they cost a lookup.
pub(crate) struct Cache(Box<[Option<Entry>]>);

impl Cache {
    pub(crate) fn new() -> Cache {
        Cache(vec![None; SIZE].into_boxed_slice())
    }

    /// Forgets everything, because the tables have changed.
    pub(crate) fn clear(&mut self) {
        self.0.fill(None);
    }

    /// What is remembered, or else found.
    #[inline]
    pub(crate) fn get(
        &mut self,
        scope: Scope,
        addr: IpAddr,
        find: impl FnOnce() -> Option<Target>,
    ) -> Option<Target> {
        let low = match addr {
            IpAddr::V4(a) => u64::from(a.to_bits()),
            IpAddr::V6(a) => a.to_bits() as u64 ^ (a.to_bits() >> 64) as u64,
        };
        // A packet is looked up in two scopes by one address: those must not take each other's place.
        let kind = match scope {
            Scope::Zone(_) => 0,
            Scope::Inside(_) => 1,
            Scope::Uplink(_) => 2,
        };
        let place = ((low ^ kind << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as usize;
        let slot = &mut self.0[place % SIZE];
        match slot {
            Some((s, a, target)) if *s == scope && *a == addr => *target,
            _ => {
                let target = find();
                *slot = Some((scope, addr, target));
                target
            }
        }
    }
}
