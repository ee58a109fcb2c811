//! The ports of external addresses: which are given out, which may not be.

use std::net::Ipv6Addr;

use crate::shard::shard_of;
use crate::types::Uplink;

const WORDS: usize = 1024;

/// A bit per port.
#[derive(Clone)]
struct Bits(Box<[u64; WORDS]>);

impl Bits {
    fn new() -> Bits {
        Bits(Box::new([0; WORDS]))
    }

    #[inline]
    fn get(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] >> (port % 64) & 1 != 0
    }

    fn set(&mut self, port: u16, to: bool) {
        let (word, bit) = (&mut self.0[usize::from(port / 64)], 1 << (port % 64));
        *word = if to { *word | bit } else { *word & !bit };
    }
}

/// One address, with the ports of its three kinds: TCP, UDP, ICMP identifiers.
pub(crate) struct External {
    pub(crate) uplink: Uplink,
    pub(crate) addr: Ipv6Addr,
    used: [Bits; 3],
    /// Published, or another worker's.
    reserved: [Bits; 3],
    in_use: u32,
    rules: u32,
}

impl External {
    /// Whether the port may be a mapping's under the present rules.
    pub(crate) fn may_use(&self, class: usize, port: u16) -> bool {
        port != 0 && !self.reserved[class].get(port)
    }

    /// The first free port of `from..=to`.
    fn scan(&self, class: usize, from: u16, to: u16) -> Option<u16> {
        let (first, last) = (usize::from(from / 64), usize::from(to / 64));
        for word in first..=last {
            let mut free = !(self.used[class].0[word] | self.reserved[class].0[word]);
            if word == first {
                free &= u64::MAX << (from % 64);
            }
            if word == last {
                free &= u64::MAX >> (63 - to % 64);
            }
            if free != 0 {
                return Some((word * 64) as u16 + free.trailing_zeros() as u16);
            }
        }
        None
    }
}

/// All external addresses that pools name.
pub(crate) struct Externals {
    list: Vec<External>,
    shard: (u16, u16),
}

impl Externals {
    pub(crate) fn new(shard: (u16, u16)) -> Externals {
        Externals { list: Vec::new(), shard }
    }

    pub(crate) fn get(&self, at: u16) -> &External {
        &self.list[usize::from(at)]
    }

    /// Whether so many more addresses can be numbered.
    pub(crate) fn has_room(&self, more: usize) -> bool {
        self.list.len() + more <= usize::from(u16::MAX)
    }

    pub(crate) fn find(&self, uplink: Uplink, addr: Ipv6Addr) -> Option<u16> {
        let is = |e: &External| e.uplink == uplink && e.addr == addr && (e.rules > 0 || e.in_use > 0);
        self.list.iter().position(is).map(|i| i as u16)
    }

    /// A rule names the address. The ports in `published` may not be given out.
    pub(crate) fn acquire(&mut self, uplink: Uplink, addr: Ipv6Addr) -> u16 {
        let at = self.find(uplink, addr).unwrap_or_else(|| {
            let new = External {
                uplink,
                addr,
                used: std::array::from_fn(|_| Bits::new()),
                reserved: std::array::from_fn(|_| self.foreign()),
                in_use: 0,
                rules: 0,
            };
            match self.list.iter().position(|e| e.rules == 0 && e.in_use == 0) {
                Some(i) => {
                    self.list[i] = new;
                    i as u16
                }
                None => {
                    self.list.push(new);
                    (self.list.len() - 1) as u16
                }
            }
        });
        self.list[usize::from(at)].rules += 1;
        at
    }

    /// A rule that named the address is gone. Ports in use stay until their mappings go.
    pub(crate) fn forget(&mut self, at: u16) {
        self.list[usize::from(at)].rules -= 1;
    }

    fn foreign(&self) -> Bits {
        let mut bits = Bits::new();
        let (own, count) = self.shard;
        (0..=u16::MAX).filter(|&p| p == 0 || shard_of(p, count) != own).for_each(|p| bits.set(p, true));
        bits
    }

    /// Sets anew which ports are published; called after every change of rules.
    pub(crate) fn reserve(&mut self, published: &[(Uplink, Ipv6Addr, usize, u16, u16)]) {
        let foreign = self.foreign();
        for external in &mut self.list {
            external.reserved.fill(foreign.clone());
            for &(uplink, addr, class, from, to) in published {
                if external.uplink == uplink && external.addr == addr {
                    (from..=to).for_each(|port| external.reserved[class].set(port, true));
                }
            }
        }
    }

    /// Takes a free port of `range`: `wish` if possible, else the next one from `start` on.
    pub(crate) fn take(
        &mut self,
        at: u16,
        class: usize,
        range: (u16, u16),
        wish: u16,
        start: u16,
    ) -> Option<u16> {
        let (from, to) = range;
        let external = &mut self.list[usize::from(at)];
        let wanted =
            (from..=to).contains(&wish) && external.may_use(class, wish) && !external.used[class].get(wish);
        let port = if wanted {
            wish
        } else {
            let start = from + (u32::from(start) % (u32::from(to - from) + 1)) as u16;
            external.scan(class, start, to).or_else(|| external.scan(class, from, start))?
        };
        external.used[class].set(port, true);
        external.in_use += 1;
        Some(port)
    }

    /// Gives a port back.
    pub(crate) fn give(&mut self, at: u16, class: usize, port: u16) {
        let external = &mut self.list[usize::from(at)];
        external.used[class].set(port, false);
        external.in_use -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_of_the_range_once_and_no_other() {
        for (own, count, from, to) in
            [(0, 1, 1000, 1130), (1, 3, 1024, 2048), (0, 1, 65535, 65535), (0, 1, 1, 1)]
        {
            let mut e = Externals::new((own, count));
            let at = e.acquire(Uplink(0), Ipv6Addr::LOCALHOST);
            e.reserve(&[(Uplink(0), Ipv6Addr::LOCALHOST, 0, 1100, 1101)]);
            let mut got: Vec<u16> = std::iter::from_fn(|| e.take(at, 0, (from, to), 7, 55555)).collect();
            got.sort_unstable();
            let want: Vec<u16> =
                (from..=to).filter(|&p| shard_of(p, count) == own && !(1100..=1101).contains(&p)).collect();
            assert_eq!(got, want);
            e.give(at, 0, want[0]);
            assert_eq!(e.take(at, 0, (from, to), want[0], 0), Some(want[0]));
            assert!(e.take(at, 1, (from, to), want[0], 0).is_some(), "kinds are apart");
        }
    }

    #[test]
    fn a_slot_is_used_again_only_when_no_port_of_it_is() {
        let mut e = Externals::new((0, 1));
        let (a, b) = (Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED);
        let at = e.acquire(Uplink(0), a);
        let port = e.take(at, 0, (1, 9), 1, 0).unwrap();
        e.forget(at);
        assert_ne!(e.acquire(Uplink(0), b), at);
        e.give(at, 0, port);
        assert_eq!(e.acquire(Uplink(1), a), at);
    }
}
