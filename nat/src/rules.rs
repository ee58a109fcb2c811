//! What the user asked for: who may leave under which address, and what is published.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use crate::config::Filtering;
use crate::ports::Externals;
use crate::types::{Endpoint, Inside, Outside, Prefix, Uplink, Zone, is_unicast, mapped, port_class};

/// The name of a rule; the caller's choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleId(pub u32);

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Rule {
    /// Many behind few (NAPT). An inside address keeps to one address of the pool (RFC 4787 REQ-2).
    Masquerade {
        /// Where the hosts are.
        zone: Zone,
        /// Which of them.
        from: Prefix,
        /// Where they leave.
        uplink: Uplink,
        /// Under which addresses; at least one, of the family of `from`.
        pool: Vec<IpAddr>,
        /// Under which ports and query identifiers, both included.
        ports: (u16, u16),
        /// Who may answer.
        filtering: Filtering,
    },
    /// Ports of an external address that lead to a host inside. If the addresses are the same, the host may be
    /// reached there untranslated.
    Publish {
        /// Where the address is.
        uplink: Uplink,
        /// TCP or UDP.
        proto: u8,
        /// The address.
        external: IpAddr,
        /// Its ports, both included.
        ports: (u16, u16),
        /// Where the host is.
        zone: Zone,
        /// Its address.
        to: IpAddr,
        /// Its ports, as many.
        to_ports: (u16, u16),
    },
    /// One external address for one host, all protocols and ports, both ways. If the addresses are the same, the
    /// host is not translated, and may be reached by all.
    Static {
        /// Where the host is.
        zone: Zone,
        /// Its address.
        inside: IpAddr,
        /// Where the address is.
        uplink: Uplink,
        /// The address.
        external: IpAddr,
    },
}

/// Why a rule was refused. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RuleError {
    /// The identifier is taken.
    Exists(RuleId),
    /// A port range is empty or begins at 0.
    BadRange,
    /// The two port ranges have different lengths.
    RangeLength,
    /// Published ports are of TCP or UDP.
    BadProto,
    /// The pool is empty.
    EmptyPool,
    /// Addresses of different families.
    Family,
    /// An address that no packet may have.
    BadAddress,
    /// The same ports or address as this rule.
    Conflict(RuleId),
    /// More rules, or addresses in a pool, than there may be.
    TooMany,
}

impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RuleError::Exists(id) => write!(f, "rule {} exists already", id.0),
            RuleError::BadRange => f.write_str("a port range goes from a lower to a higher port, from 1 on"),
            RuleError::RangeLength => f.write_str("the published range and its target differ in length"),
            RuleError::BadProto => f.write_str("only TCP and UDP ports can be published"),
            RuleError::EmptyPool => f.write_str("the pool has no address"),
            RuleError::Family => f.write_str("IPv4 and IPv6 addresses in one rule"),
            RuleError::BadAddress => f.write_str("an address that packets cannot have"),
            RuleError::Conflict(id) => write!(f, "the same external ports or address as rule {}", id.0),
            RuleError::TooMany => f.write_str("too many rules, or more than 1024 addresses in a pool"),
        }
    }
}

impl std::error::Error for RuleError {}

/// An address of the switch inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// Where.
    pub zone: Zone,
    /// The address.
    pub addr: IpAddr,
    /// Its network.
    pub network: Prefix,
}

/// What a rule has done, on one shard.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RuleCounters {
    /// Connections begun.
    pub flows: u64,
    /// Packets translated.
    pub packets: u64,
    /// Bytes of those, with link headers.
    pub bytes: u64,
}

/// How a packet from inside may leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    Masquerade(u16),
    Static(u16, Ipv6Addr),
    Route,
    Nowhere,
}

pub(crate) struct Slot {
    id: RuleId,
    pub(crate) rule: Rule,
    pub(crate) counters: RuleCounters,
    /// Of a masquerade: its addresses.
    pub(crate) pool: Vec<u16>,
}

/// Most addresses in a pool. Each takes 48 KiB.
const MAX_POOL: usize = 1024;

/// No rule. Entries have 14 bits for the slot.
pub(crate) const NO_RULE: u16 = (1 << 14) - 1;

type InsideAddr = (Zone, Uplink, Ipv6Addr);
type OutsideAddr = (Uplink, Ipv6Addr);

pub(crate) struct Rules {
    slots: Vec<Option<Slot>>,
    /// Masquerades, in the order in which they were added: the first that fits counts.
    masquerades: Vec<u16>,
    publishes: Vec<Published>,
    /// By inside address, and by external address.
    statics_in: Vec<(InsideAddr, (u16, Ipv6Addr))>,
    statics_out: Vec<(OutsideAddr, (u16, Zone, Ipv6Addr))>,
    /// Every external address.
    addresses: Vec<OutsideAddr>,
    pub(crate) externals: Externals,
    /// With the number of the address.
    pub(crate) gateways: Vec<(Gateway, u16)>,
}

/// A published range, in the order of its search.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Published {
    key: (Uplink, u8, Ipv6Addr),
    to: u16,
    from: u16,
    slot: u16,
    zone: Zone,
    local: Endpoint,
}

impl Rules {
    pub(crate) fn new(shard: (u16, u16)) -> Rules {
        Rules {
            slots: Vec::new(),
            masquerades: Vec::new(),
            publishes: Vec::new(),
            statics_in: Vec::new(),
            statics_out: Vec::new(),
            addresses: Vec::new(),
            externals: Externals::new(shard),
            gateways: Vec::new(),
        }
    }

    /// The rule of a slot.
    pub(crate) fn id(&self, at: u16) -> Option<RuleId> {
        self.slot(at).map(|s| s.id)
    }

    pub(crate) fn slot(&self, at: u16) -> Option<&Slot> {
        self.slots.get(usize::from(at))?.as_ref()
    }

    #[inline]
    pub(crate) fn count(&mut self, at: u16, bytes: usize) {
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(at)) {
            slot.counters.packets += 1;
            slot.counters.bytes += bytes as u64;
        }
    }

    /// A connection began.
    pub(crate) fn count_flow(&mut self, at: u16) {
        if let Some(Some(slot)) = self.slots.get_mut(usize::from(at)) {
            slot.counters.flows += 1;
        }
    }

    pub(crate) fn counters(&self, id: RuleId) -> Option<RuleCounters> {
        self.slots.iter().flatten().find(|s| s.id == id).map(|s| s.counters)
    }

    pub(crate) fn add(&mut self, id: RuleId, rule: Rule) -> Result<(), RuleError> {
        check(&rule)?;
        let mut others = self.slots.iter().flatten();
        if let Some(error) = others.find_map(|s| clash((s.id, &s.rule), (id, &rule))) {
            return Err(error);
        }
        self.room(self.slots.iter().flatten().count() + 1, pool_len(&rule))?;
        self.put(id, rule, RuleCounters::default());
        self.rebuild();
        Ok(())
    }

    /// False when there is none.
    pub(crate) fn remove(&mut self, id: RuleId) -> bool {
        let Some(at) = self.slots.iter().position(|s| s.as_ref().is_some_and(|s| s.id == id)) else {
            return false;
        };
        self.take(at);
        self.rebuild();
        true
    }

    /// Replaces all rules. Counters go on under the same identifier. Returns whether anything changed.
    pub(crate) fn set(&mut self, rules: &[(RuleId, Rule)]) -> Result<bool, (RuleId, RuleError)> {
        for (i, (id, rule)) in rules.iter().enumerate() {
            let clashes = || rules[..i].iter().find_map(|(other, o)| clash((*other, o), (*id, rule)));
            if let Some(error) = check(rule).err().or_else(clashes) {
                return Err((*id, error));
            }
        }
        let addresses = rules.iter().map(|(_, rule)| pool_len(rule)).sum();
        if let (Err(error), Some((id, _))) = (self.room(rules.len(), addresses), rules.last()) {
            return Err((*id, error));
        }
        let wanted: HashMap<RuleId, &Rule> = rules.iter().map(|(id, rule)| (*id, rule)).collect();
        let mut old = HashMap::new();
        for at in 0..self.slots.len() {
            let Some(slot) = &self.slots[at] else { continue };
            if wanted.get(&slot.id) != Some(&&slot.rule)
                && let Some(slot) = self.take(at)
            {
                old.insert(slot.id, slot.counters);
            }
        }
        let mut changed = !old.is_empty();
        let present: HashMap<RuleId, u16> =
            self.slots.iter().enumerate().filter_map(|(at, s)| Some((s.as_ref()?.id, at as u16))).collect();
        let order = std::mem::take(&mut self.masquerades);
        for (id, rule) in rules {
            match present.get(id) {
                Some(&at) if matches!(rule, Rule::Masquerade { .. }) => self.masquerades.push(at),
                Some(_) => {}
                None => {
                    self.put(*id, rule.clone(), old.get(id).copied().unwrap_or_default());
                    changed = true;
                }
            }
        }
        changed |= order != self.masquerades;
        if changed {
            self.rebuild();
        }
        Ok(changed)
    }

    /// Whether there is room for so many rules in all, and this many more addresses.
    fn room(&self, rules: usize, addresses: usize) -> Result<(), RuleError> {
        let fits = rules < usize::from(NO_RULE) && self.externals.has_room(addresses);
        if fits { Ok(()) } else { Err(RuleError::TooMany) }
    }

    /// Puts a rule that was found good into a free slot; the search tables are to be made anew.
    fn put(&mut self, id: RuleId, rule: Rule, counters: RuleCounters) {
        let pool = match &rule {
            Rule::Masquerade { uplink, pool, .. } => {
                pool.iter().map(|a| self.externals.acquire(*uplink, mapped(*a))).collect()
            }
            _ => Vec::new(),
        };
        let free = self.slots.iter().position(Option::is_none).unwrap_or(self.slots.len());
        if let Rule::Masquerade { .. } = rule {
            self.masquerades.push(free as u16);
        }
        let slot = Slot { id, rule, counters, pool };
        if free == self.slots.len() {
            self.slots.push(Some(slot));
        } else {
            self.slots[free] = Some(slot);
        }
    }

    /// Takes a rule out of its slot; the search tables are to be made anew.
    fn take(&mut self, at: usize) -> Option<Slot> {
        let slot = self.slots[at].take()?;
        slot.pool.iter().for_each(|external| self.externals.forget(*external));
        self.masquerades.retain(|&m| usize::from(m) != at);
        Some(slot)
    }

    /// Makes the search tables anew.
    fn rebuild(&mut self) {
        self.publishes.clear();
        self.statics_in.clear();
        self.statics_out.clear();
        self.addresses.clear();
        let mut reserved = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            let at = at as u16;
            match slot.as_ref().map(|s| &s.rule) {
                None => {}
                Some(Rule::Masquerade { uplink, pool, .. }) => {
                    self.addresses.extend(pool.iter().map(|a| (*uplink, mapped(*a))));
                }
                Some(&Rule::Publish { uplink, proto, external, ports, zone, to, to_ports }) => {
                    let addr = mapped(external);
                    self.publishes.push(Published {
                        key: (uplink, proto, addr),
                        to: ports.1,
                        from: ports.0,
                        slot: at,
                        zone,
                        local: Endpoint { addr: mapped(to), port: to_ports.0 },
                    });
                    if external != to {
                        self.addresses.push((uplink, addr));
                    }
                    reserved.extend(port_class(proto).map(|class| (uplink, addr, class, ports.0, ports.1)));
                }
                Some(&Rule::Static { zone, inside, uplink, external }) => {
                    let (inside, external) = (mapped(inside), mapped(external));
                    self.statics_in.push(((zone, uplink, inside), (at, external)));
                    self.statics_out.push(((uplink, external), (at, zone, inside)));
                    if inside != external {
                        self.addresses.push((uplink, external));
                    }
                }
            }
        }
        self.publishes.sort_unstable();
        self.statics_in.sort_unstable();
        self.statics_out.sort_unstable();
        self.addresses.sort_unstable();
        self.addresses.dedup();
        self.externals.reserve(&reserved);
    }

    /// How a host inside may leave by an uplink.
    pub(crate) fn exit(&self, zone: Zone, uplink: Uplink, addr: Ipv6Addr, route: bool) -> Exit {
        if let Ok(i) = self.statics_in.binary_search_by_key(&(zone, uplink, addr), |s| s.0) {
            let (slot, external) = self.statics_in[i].1;
            return Exit::Static(slot, external);
        }
        let fits = |&&at: &&u16| {
            self.slot(at).is_some_and(|s| {
                matches!(&s.rule, Rule::Masquerade { zone: z, from, uplink: u, .. }
                    if *z == zone && *u == uplink && from.contains(addr))
            })
        };
        match self.masquerades.iter().find(fits) {
            Some(&at) => Exit::Masquerade(at),
            None if route => Exit::Route,
            None => Exit::Nowhere,
        }
    }

    /// Whom a packet from outside is for by a rule: its slot, the zone, the endpoint inside.
    #[inline]
    pub(crate) fn entrance(
        &self,
        uplink: Uplink,
        proto: u8,
        external: Outside<Endpoint>,
    ) -> Option<(u16, Zone, Inside<Endpoint>)> {
        let Endpoint { addr, port } = external.0;
        let key = ((uplink, proto, addr), port);
        let i = self.publishes.partition_point(|p| (p.key, p.to) < key);
        if let Some(p) = self.publishes.get(i).filter(|p| p.key == key.0 && p.from <= port) {
            let local = Endpoint { addr: p.local.addr, port: p.local.port + (port - p.from) };
            return Some((p.slot, p.zone, Inside(local)));
        }
        let i = self.statics_out.binary_search_by_key(&(uplink, addr), |s| s.0).ok()?;
        let (slot, zone, inside) = self.statics_out[i].1;
        Some((slot, zone, Inside(Endpoint { addr: inside, port })))
    }

    /// The gateway of a host inside, by the number of its address.
    pub(crate) fn gateway(&self, zone: Zone, host: Ipv6Addr) -> Option<u16> {
        let is = |g: &Gateway| g.zone == zone && g.network.contains(host);
        self.gateways.iter().find(|(g, _)| is(g)).map(|g| g.1)
    }

    /// Whether the address is of a network of ours inside, of whatever zone.
    pub(crate) fn is_inside(&self, addr: Ipv6Addr) -> bool {
        self.gateways.iter().any(|(g, _)| g.network.contains(addr))
    }

    /// Whether the address is one of ours outside.
    pub(crate) fn is_external(&self, uplink: Uplink, addr: Ipv6Addr) -> bool {
        self.addresses.binary_search(&(uplink, addr)).is_ok()
    }
}

/// Addresses of the rule's pool.
fn pool_len(rule: &Rule) -> usize {
    if let Rule::Masquerade { pool, .. } = rule { pool.len() } else { 0 }
}

/// Whether a rule makes sense by itself.
fn check(rule: &Rule) -> Result<(), RuleError> {
    let range =
        |(from, to): (u16, u16)| if from == 0 || from > to { Err(RuleError::BadRange) } else { Ok(()) };
    let addresses: &[IpAddr] = match rule {
        Rule::Masquerade { pool, ports, from, .. } => {
            range(*ports)?;
            let first = pool.first().ok_or(RuleError::EmptyPool)?;
            if pool.len() > MAX_POOL {
                return Err(RuleError::TooMany);
            }
            if from.is_v4() != first.is_ipv4() {
                return Err(RuleError::Family);
            }
            pool
        }
        Rule::Publish { proto, external, ports, to, to_ports, .. } => {
            range(*ports)?;
            range(*to_ports)?;
            if ports.1 - ports.0 != to_ports.1 - to_ports.0 {
                return Err(RuleError::RangeLength);
            }
            if !matches!(port_class(*proto), Some(0 | 1)) {
                return Err(RuleError::BadProto);
            }
            &[*external, *to]
        }
        Rule::Static { inside, external, .. } => &[*inside, *external],
    };
    if addresses.iter().any(|a| a.is_ipv4() != addresses[0].is_ipv4()) {
        return Err(RuleError::Family);
    }
    if addresses.iter().any(|a| !is_unicast(mapped(*a))) {
        return Err(RuleError::BadAddress);
    }
    Ok(())
}

/// Why a rule cannot be beside one that is there.
fn clash((there, a): (RuleId, &Rule), (id, b): (RuleId, &Rule)) -> Option<RuleError> {
    if there == id {
        Some(RuleError::Exists(id))
    } else {
        conflict(a, b).then_some(RuleError::Conflict(there))
    }
}

/// Whether two rules cannot both be.
fn conflict(a: &Rule, b: &Rule) -> bool {
    use Rule::{Masquerade, Publish, Static};
    match (a, b) {
        (
            Publish { uplink, proto, external, ports, .. },
            Publish { uplink: u, proto: p, external: e, ports: q, .. },
        ) => (uplink, proto, external) == (u, p, e) && ports.0 <= q.1 && q.0 <= ports.1,
        (
            Static { zone, inside, uplink, external },
            Static { zone: z, inside: i, uplink: u, external: e },
        ) => uplink == u && (external == e || (zone, inside) == (z, i)),
        (Static { uplink, external, .. }, Masquerade { uplink: u, pool, .. })
        | (Masquerade { uplink: u, pool, .. }, Static { uplink, external, .. }) => {
            uplink == u && pool.contains(external)
        }
        // A published port of a static address wins over it.
        _ => false,
    }
}
