//! Beginning a connection: whether it may, under which external endpoint, and what gives way for it.

use std::net::Ipv6Addr;

use crate::DropReason;
use crate::config::Filtering;
use crate::conn::{Conn, Origin};
use crate::list::NIL;
use crate::mapping::{self, Mapping};
use crate::nat::Nat;
use crate::parse::{Kind, Seen};
use crate::rules::{Exit, NO_RULE, Rule};
use crate::tcp::{Phase, Segment, Tcp};
use crate::types::{Endpoint, Inside, Key, Outside, Path, Side, Uplink, Zone, port_class};
use crate::wheel::Tick;

/// Mappings looked at for one that can be given up, and ports for one that can be shared.
const TRIES: u32 = 64;

/// How a new connection is translated.
struct Plan {
    zone: Zone,
    uplink: Uplink,
    local: Inside<Endpoint>,
    external: Outside<Endpoint>,
    rule: u16,
    origin: Origin,
    mapping: u32,
    filtering: Filtering,
    /// Whom it counts for; asked for once, since a record without connections is nobody's.
    source: u16,
    /// As which gateway and port the remote appears.
    shown: Option<(u16, u16)>,
    /// The hash of what it is found by on the side that it does not come from.
    hash: u64,
}

/// The masquerade that a new connection falls under.
struct Masquerade {
    rule: u16,
    address: u16,
    ports: (u16, u16),
    filtering: Filtering,
    source: u16,
}

/// What can be said, before its turn, of a connection that a packet from inside will begin: how it leaves, and under
/// which external endpoint if that is free. Only rules decide it, which do not change within a batch, so that the
/// memory that it will need can be brought near while others have their turn.
#[derive(Clone, Copy)]
pub(crate) struct Foreseen {
    exit: Exit,
    /// The number of the external address, of a masquerade.
    address: u16,
    external: Outside<Endpoint>,
    /// Of the mapping by its inside endpoint.
    local: u64,
    /// Of the mapping by that external endpoint.
    mapped: u64,
    /// Of the connection from outside.
    outside: u64,
}

impl Nat {
    /// See [`Foreseen`]. Has what it speaks of brought near. `None` when nothing can be said.
    #[inline]
    pub(crate) fn foresee_leaving(&self, zone: Zone, uplink: Uplink, seen: &Seen) -> Option<Foreseen> {
        let (proto, local) = (seen.ip.proto, Inside(seen.near));
        let exit = self.rules.exit(zone, uplink, local.0.addr, self.config.route);
        let (address, external) = match exit {
            Exit::Masquerade(rule) => {
                let address = self.address(rule, local.0.addr)?;
                (address, Endpoint { addr: self.rules.externals.get(address).addr, ..local.0 })
            }
            Exit::Static(_, addr) => (0, Endpoint { addr, ..local.0 }),
            Exit::Route | Exit::Nowhere => (0, local.0),
        };
        let external = Outside(external);
        let outside = self.table.hash(&Key::outside(uplink, proto, external, seen.remote));
        self.table.touch(outside);
        let (mut local_hash, mut mapped) = (0, 0);
        if let Exit::Masquerade(_) = exit {
            local_hash = self.table.maps.local_hash(zone, uplink, proto, local);
            mapped = self.table.maps.external_hash(uplink, proto, external);
            self.table.maps.touch(local_hash);
            self.table.maps.touch(mapped);
        }
        Some(Foreseen { exit, address, external, local: local_hash, mapped, outside })
    }

    /// Makes an entry for a packet that has none. With the hash of what the packet is looked up by, and what was
    /// foreseen of it.
    pub(crate) fn open(
        &mut self,
        now: u64,
        path: Path,
        seen: &Seen,
        segment: Option<&Segment>,
        (hash, foreseen): (u64, Option<&Foreseen>),
    ) -> Result<u32, DropReason> {
        let proto = seen.ip.proto;
        let plan = match path {
            Path::Out(zone, uplink) => {
                self.may_open(seen, segment)?;
                self.leave(now, zone, uplink, seen, foreseen)?
            }
            // Our own addresses send from outside only by way of us.
            Path::In(uplink) if self.rules.is_external(uplink, seen.remote.addr) => {
                return Err(DropReason::NatMartian);
            }
            Path::In(uplink) | Path::Hairpin(uplink) | Path::Local(uplink) => {
                self.enter(now, uplink, path, seen, segment)?
            }
            Path::Answer(_) => return Err(DropReason::NatUnsolicited),
        };
        let side = path.side();
        let mut conn = Conn::new(
            plan.zone,
            plan.uplink,
            proto,
            plan.local,
            plan.external,
            seen.remote,
            side,
            plan.origin,
        );
        conn.set_rule(plan.rule);
        conn.version = self.version;
        conn.set_mapping(plan.mapping);
        if let Some((gateway, port)) = plan.shown {
            conn.set_shown(gateway, port);
        }
        conn.source = plan.source;
        conn.set_hairpin(self.rules.is_external(plan.uplink, seen.remote.addr));
        if proto == trunkline_packet::headers::proto::TCP {
            conn.tcp = Tcp::new(self.config.liberal);
        }
        conn.deadline = Tick::after(now, conn.timeout(&self.config.timeouts));
        let wants_permission = plan.filtering == Filtering::Address && plan.mapping != mapping::NONE;
        if wants_permission && side == Side::Inside {
            conn.set_permits(self.table.maps.permit(plan.mapping, seen.remote.addr));
        }
        let permits = conn.permits();
        let hashes = if side == Side::Inside { [hash, plan.hash] } else { [plan.hash, hash] };
        let added = self.table.add(Tick::at(now), &conn, hashes);
        if added.is_err() && plan.mapping != mapping::NONE {
            if permits {
                self.table.maps.withdraw(plan.mapping, seen.remote.addr);
            }
            self.table.release(plan.mapping, &mut self.rules);
        }
        if added.is_ok() {
            self.rules.count_flow(plan.rule);
        }
        added
    }

    fn may_open(&self, seen: &Seen, segment: Option<&Segment>) -> Result<(), DropReason> {
        match (seen.kind, segment) {
            (Kind::Tcp, Some(segment)) if !Tcp::may_open(segment, self.config.pickup) => {
                Err(DropReason::NatTcpNoState)
            }
            (Kind::Query { reply: true }, _) => Err(DropReason::NatIcmpType),
            _ => Ok(()),
        }
    }

    /// From inside.
    fn leave(
        &mut self,
        now: u64,
        zone: Zone,
        uplink: Uplink,
        seen: &Seen,
        foreseen: Option<&Foreseen>,
    ) -> Result<Plan, DropReason> {
        let local = Inside(seen.near);
        let exit = match foreseen {
            Some(foreseen) => foreseen.exit,
            None => self.rules.exit(zone, uplink, local.0.addr, self.config.route),
        };
        if exit == Exit::Nowhere {
            return Err(DropReason::NatNoRule);
        }
        // Nobody inside has our addresses outside.
        if exit == Exit::Route && self.rules.is_external(uplink, local.0.addr) {
            return Err(DropReason::NatMartian);
        }
        let source = self.make_room(zone, local.0.addr)?;
        let plan = |external, rule, origin| Plan {
            zone,
            uplink,
            local,
            external: Outside(external),
            rule,
            origin,
            mapping: mapping::NONE,
            filtering: Filtering::default(),
            source,
            shown: None,
            hash: 0,
        };
        let fixed = match exit {
            Exit::Masquerade(rule) => {
                let address = match foreseen {
                    Some(foreseen) => Some(foreseen.address),
                    None => self.address(rule, local.0.addr),
                };
                let masquerade = self.masquerade(rule, address, source)?;
                let (external, mapping, hash) = self.map(now, zone, uplink, seen, &masquerade, foreseen)?;
                let filtering = masquerade.filtering;
                return Ok(Plan { mapping, filtering, hash, ..plan(external.0, rule, Origin::Masquerade) });
            }
            Exit::Static(rule, addr) => plan(Endpoint { addr, ..local.0 }, rule, Origin::Static),
            Exit::Route | Exit::Nowhere => plan(local.0, NO_RULE, Origin::Routed),
        };
        let hash = self.free_outside(now, uplink, seen, fixed.external, foreseen);
        Ok(Plan { hash: hash.ok_or(DropReason::NatConflict)?, ..fixed })
    }

    /// From outside.
    fn enter(
        &mut self,
        now: u64,
        uplink: Uplink,
        path: Path,
        seen: &Seen,
        segment: Option<&Segment>,
    ) -> Result<Plan, DropReason> {
        let (proto, external) = (seen.ip.proto, Outside(seen.near));
        // Those whom the target could not answer through us.
        let near = match path {
            Path::Local(_) => true,
            Path::Hairpin(_) => !self.rules.is_external(uplink, seen.remote.addr),
            _ => false,
        };
        let mut plan = match self.rules.entrance(uplink, proto, external) {
            Some((rule, zone, local)) => {
                let published = matches!(self.rules.slot(rule).map(|s| &s.rule), Some(Rule::Publish { .. }));
                Plan {
                    zone,
                    uplink,
                    local,
                    external,
                    rule,
                    origin: if published { Origin::Publish } else { Origin::Static },
                    mapping: mapping::NONE,
                    filtering: Filtering::default(),
                    source: 0,
                    shown: None,
                    hash: 0,
                }
            }
            None if near => return Err(DropReason::NatUnsolicited),
            None => {
                let at =
                    self.table.maps.of_external(uplink, proto, external).ok_or(DropReason::NatUnsolicited)?;
                let rule = self.mapping_rule(at).ok_or(DropReason::NatUnsolicited)?;
                let m = *self.table.maps.get(at);
                let address = self.address(rule, m.local.0.addr);
                let masquerade = self.masquerade(rule, address, m.source)?;
                let allowed = match masquerade.filtering {
                    Filtering::EndpointIndependent => true,
                    Filtering::Address => self.table.maps.may_answer(at, seen.remote.addr),
                    Filtering::AddressAndPort => false,
                };
                if !allowed {
                    return Err(DropReason::NatFiltered);
                }
                Plan {
                    zone: m.zone,
                    uplink,
                    local: m.local,
                    external,
                    rule,
                    origin: Origin::Masquerade,
                    mapping: at,
                    filtering: masquerade.filtering,
                    source: m.source,
                    shown: None,
                    hash: 0,
                }
            }
        };
        self.may_open(seen, segment)?;
        plan.source = self.make_room(plan.zone, plan.local.0.addr)?;
        // What gave way may have been the last connection of the mapping.
        if plan.mapping != mapping::NONE
            && self.table.maps.of_external(uplink, proto, external) != Some(plan.mapping)
        {
            return Err(DropReason::NatUnsolicited);
        }
        if near {
            let (shown, hash) = self.appear(now, plan.zone, proto, plan.local, seen.remote)?;
            return Ok(Plan { shown: Some(shown), hash, ..plan });
        }
        let inside = Key::inside(plan.zone, proto, plan.local, seen.remote);
        plan.hash = self.table.hash(&inside);
        if !self.is_key_free(now, Side::Inside, &inside, plan.hash) {
            // It talks to the same host by another external port, or so does somebody of the same address on another
            // uplink. A mapping has no room for it; the client appears as the gateway, if there is one.
            if plan.mapping != mapping::NONE || !matches!(port_class(proto), Some(0 | 1)) {
                return Err(DropReason::NatConflict);
            }
            let shown = self.appear(now, plan.zone, proto, plan.local, seen.remote);
            let (shown, hash) = shown.map_err(|_| DropReason::NatConflict)?;
            (plan.shown, plan.hash) = (Some(shown), hash);
        }
        Ok(plan)
    }

    /// As which gateway and port a remote appears to a host inside, and the hash of what it is found by there.
    fn appear(
        &mut self,
        now: u64,
        zone: Zone,
        proto: u8,
        local: Inside<Endpoint>,
        remote: Endpoint,
    ) -> Result<((u16, u16), u64), DropReason> {
        let gateway = self.rules.gateway(zone, local.0.addr).ok_or(DropReason::NatNoRule)?;
        let start = self.random_port();
        // A query has only the identifier of the host's end.
        let others = matches!(port_class(proto), Some(0 | 1)).then(|| ports_from((1024, u16::MAX), start));
        for port in std::iter::once(remote.port).chain(others.into_iter().flatten()) {
            let shown = self.table.shown((gateway, port));
            let key = Key::inside(zone, proto, local, shown);
            let hash = self.table.hash(&key);
            if self.is_key_free(now, Side::Inside, &key, hash) {
                return Ok(((gateway, port), hash));
            }
        }
        Err(DropReason::NatNoPort)
    }

    /// Makes sure that the source may have one more, and that there is room for one.
    fn make_room(&mut self, zone: Zone, addr: Ipv6Addr) -> Result<u16, DropReason> {
        let at = self.table.sources.of(zone, addr);
        let source = self.table.sources.get(at);
        if source.conns >= self.config.source_limit {
            let own = source.list.first;
            if own == NIL {
                return Err(DropReason::NatSourceLimit);
            }
            self.give_up(own);
        }
        if self.table.is_full() {
            let victim = self.table.sources.victim().ok_or(DropReason::NatTableFull)?;
            self.give_up(victim);
        }
        Ok(at)
    }

    fn give_up(&mut self, conn: u32) {
        self.stats.early_drops += 1;
        self.table.remove(conn, &mut self.rules);
    }

    /// Under which address of the rule's pool an inside address leaves: its number.
    #[inline]
    fn address(&self, rule: u16, addr: Ipv6Addr) -> Option<u16> {
        let pool = &self.rules.slot(rule)?.pool;
        // Paired: the same for every port of the host, on every worker (RFC 4787 REQ-2). Hosts whose addresses follow
        // each other, as those of containers do, get each one the next.
        let pick = if pool.len() > 1 { u128::from(addr) as u64 % pool.len() as u64 } else { 0 };
        pool.get(pick as usize).copied()
    }

    /// What the masquerade rule says.
    fn masquerade(&self, rule: u16, address: Option<u16>, source: u16) -> Result<Masquerade, DropReason> {
        let (slot, address) = self.rules.slot(rule).zip(address).ok_or(DropReason::NatNoRule)?;
        let Rule::Masquerade { ports, filtering, .. } = slot.rule else { return Err(DropReason::NatNoRule) };
        Ok(Masquerade { rule, address, ports, filtering, source })
    }

    /// The external endpoint for an inside endpoint: the one it has, or a new one. With its mapping, and the hash of
    /// what the connection is found by outside.
    fn map(
        &mut self,
        now: u64,
        zone: Zone,
        uplink: Uplink,
        seen: &Seen,
        m: &Masquerade,
        foreseen: Option<&Foreseen>,
    ) -> Result<(Outside<Endpoint>, u32, u64), DropReason> {
        let (proto, local) = (seen.ip.proto, Inside(seen.near));
        let addr = self.rules.externals.get(m.address).addr;
        let Some(class) = port_class(proto) else {
            let external = Outside(Endpoint { addr, port: 0 });
            let hash = self.free_outside(now, uplink, seen, external, None);
            return Ok((external, mapping::NONE, hash.ok_or(DropReason::NatNoPort)?));
        };
        let local_hash = match foreseen {
            Some(foreseen) => foreseen.local,
            None => self.table.maps.local_hash(zone, uplink, proto, local),
        };
        if let Some(at) = self.table.maps.of_local(zone, uplink, proto, local, local_hash) {
            if self.mapping_rule(at) == Some(m.rule) {
                let external = self.table.maps.get(at).external;
                return match self.free_outside(now, uplink, seen, external, foreseen) {
                    Some(hash) => Ok((external, at, hash)),
                    // Another endpoint shares the port towards this destination.
                    None => self.share(now, uplink, seen, m),
                };
            }
            self.table.maps.retire(at);
        }
        let source = m.source;
        if self.table.sources.get(source).ports >= self.config.source_ports {
            let own = self.table.sources.get(source).list.first;
            if own == NIL || !self.is_only(own) {
                return Err(DropReason::NatSourcePorts);
            }
            self.give_up(own);
        }
        let start = self.random_port();
        let take = |nat: &mut Nat, at| nat.rules.externals.take(at, class, m.ports, local.0.port, start);
        let mut address = m.address;
        let mut port = take(self, address);
        if port.is_none()
            && let Some((other, free)) = self.elsewhere(m.rule, |nat, at| take(nat, at))
        {
            (address, port) = (other, Some(free));
        }
        if port.is_none()
            && let Some(victim) = self.transitory_mapping(uplink, proto, m, start)
        {
            self.give_up(victim);
            port = take(self, address);
        }
        let Some(port) = port else { return self.share(now, uplink, seen, m) };
        let addr = self.rules.externals.get(address).addr;
        let external = Outside(Endpoint { addr, port });
        // A shared port may have been used towards this destination and become free as a whole since.
        let Some(hash) = self.free_outside(now, uplink, seen, external, foreseen) else {
            self.rules.externals.give(address, class, port);
            return Err(DropReason::NatConflict);
        };
        let mapped = match foreseen {
            Some(foreseen) if foreseen.external == external => foreseen.mapped,
            _ => self.table.maps.external_hash(uplink, proto, external),
        };
        let mapping = Mapping {
            local,
            external,
            zone,
            uplink,
            proto,
            class: class as u8,
            slot: address,
            source,
            conns: 0,
            kept: 0,
            only: 0,
            retired: false,
        };
        let Some(at) = self.table.maps.add(mapping, [local_hash, mapped]) else {
            self.rules.externals.give(address, class, port);
            return Err(DropReason::NatTableFull);
        };
        self.table.sources.get_mut(source).ports += 1;
        Ok((external, at, hash))
    }

    /// A port of any address of the rule's pool, when that of the host has none left. Its mappings stay as they are:
    /// each inside endpoint has one external one (REQ-1), only the host has two addresses now.
    #[cold]
    fn elsewhere(
        &mut self,
        rule: u16,
        mut take: impl FnMut(&mut Nat, u16) -> Option<u16>,
    ) -> Option<(u16, u16)> {
        let count = self.rules.slot(rule)?.pool.len();
        (0..count).find_map(|i| {
            let at = *self.rules.slot(rule)?.pool.get(i)?;
            Some((at, take(self, at)?))
        })
    }

    /// Whether a connection is the only one of its mapping, so that removing it frees a port.
    fn is_only(&self, conn: u32) -> bool {
        let mapping = self.table.conns[conn as usize].mapping();
        mapping != mapping::NONE && self.table.maps.get(mapping).conns == 1
    }

    /// The only connection, transitory, of a mapping of this address: of those looked at, one of the source
    /// with the most ports, and then the one that would expire first.
    fn transitory_mapping(&self, uplink: Uplink, proto: u8, m: &Masquerade, start: u16) -> Option<u32> {
        let addr = self.rules.externals.get(m.address).addr;
        let candidates = ports_from(m.ports, start).filter_map(|port| {
            let at = self.table.maps.of_external(uplink, proto, Outside(Endpoint { addr, port }))?;
            let found = self.table.maps.get(at);
            (found.conns == 1 && found.kept == 0).then_some((found.source, found.only))
        });
        candidates
            .max_by_key(|&(source, conn)| {
                let deadline = self.table.conns[conn as usize].deadline;
                (self.table.sources.get(source).ports, std::cmp::Reverse(deadline))
            })
            .map(|(_, conn)| conn)
    }

    /// A port that others have too, but not towards this destination.
    fn share(
        &mut self,
        now: u64,
        uplink: Uplink,
        seen: &Seen,
        m: &Masquerade,
    ) -> Result<(Outside<Endpoint>, u32, u64), DropReason> {
        let class = port_class(seen.ip.proto).ok_or(DropReason::NatNoPort)?;
        if self.config.strict_eim {
            return Err(DropReason::NatNoPort);
        }
        let addr = self.rules.externals.get(m.address).addr;
        let wish = Some(seen.near.port).filter(|port| (m.ports.0..=m.ports.1).contains(port));
        let start = self.random_port();
        for port in wish.into_iter().chain(ports_from(m.ports, start)) {
            let external = Outside(Endpoint { addr, port });
            if self.rules.externals.get(m.address).may_use(class, port)
                && let Some(hash) = self.free_outside(now, uplink, seen, external, None)
            {
                self.stats.shared_ports += 1;
                return Ok((external, mapping::NONE, hash));
            }
        }
        Err(DropReason::NatNoPort)
    }

    /// The hash of the key that a connection of the packet has outside, if no live connection has it.
    fn free_outside(
        &mut self,
        now: u64,
        uplink: Uplink,
        seen: &Seen,
        external: Outside<Endpoint>,
        foreseen: Option<&Foreseen>,
    ) -> Option<u64> {
        let key = Key::outside(uplink, seen.ip.proto, external, seen.remote);
        let hash = match foreseen {
            Some(foreseen) if foreseen.external == external => foreseen.outside,
            _ => self.table.hash(&key),
        };
        self.is_key_free(now, Side::Outside, &key, hash).then_some(hash)
    }

    /// Removes what has the key if it is over.
    fn is_key_free(&mut self, now: u64, side: Side, key: &Key, hash: u64) -> bool {
        let Some(at) = self.table.find(side, key, hash) else { return true };
        let conn = &self.table.conns[at as usize];
        let over = conn.proto == trunkline_packet::headers::proto::TCP
            && matches!(conn.tcp.phase(), Phase::TimeWait | Phase::Reset);
        if over || conn.deadline <= Tick::at(now) || !self.is_current(at) {
            self.table.remove(at, &mut self.rules);
            return true;
        }
        false
    }

    fn random_port(&mut self) -> u16 {
        // xorshift64*: only spreads; what must not be guessed is the endpoint's own port, which is kept.
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 48) as u16
    }
}

/// Some ports of a range, from a place in it on.
fn ports_from((from, to): (u16, u16), start: u16) -> impl Iterator<Item = u16> {
    let span = u32::from(to - from) + 1;
    (0..span.min(TRIES)).map(move |i| from + ((u32::from(start) + i) % span) as u16)
}
