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
}

/// The masquerade that a new connection falls under.
struct Masquerade {
    rule: u16,
    address: u16,
    ports: (u16, u16),
    filtering: Filtering,
    source: u16,
}

impl Nat {
    /// Makes an entry for a packet that has none.
    pub(crate) fn open(
        &mut self,
        now: u64,
        path: Path,
        seen: &Seen,
        segment: Option<&Segment>,
    ) -> Result<u32, DropReason> {
        let proto = seen.ip.proto;
        let plan = match path {
            Path::Out(zone, uplink) => {
                self.may_open(seen, segment)?;
                self.leave(now, zone, uplink, proto, Inside(seen.near), seen.remote)?
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
        let added = self.table.add(Tick::at(now), conn);
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
        proto: u8,
        local: Inside<Endpoint>,
        remote: Endpoint,
    ) -> Result<Plan, DropReason> {
        let exit = self.rules.exit(zone, uplink, local.0.addr, self.config.route);
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
        };
        let fixed = match exit {
            Exit::Masquerade(rule) => {
                let masquerade = self.masquerade(rule, zone, local.0.addr, source)?;
                let (external, mapping) = self.map(now, zone, uplink, proto, local, remote, &masquerade)?;
                let filtering = masquerade.filtering;
                return Ok(Plan { mapping, filtering, ..plan(external.0, rule, Origin::Masquerade) });
            }
            Exit::Static(rule, addr) => plan(Endpoint { addr, ..local.0 }, rule, Origin::Static),
            Exit::Route | Exit::Nowhere => plan(local.0, NO_RULE, Origin::Routed),
        };
        if self.is_free(now, uplink, proto, fixed.external, remote) {
            Ok(fixed)
        } else {
            Err(DropReason::NatConflict)
        }
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
                }
            }
            None if near => return Err(DropReason::NatUnsolicited),
            None => {
                let at =
                    self.table.maps.of_external(uplink, proto, external).ok_or(DropReason::NatUnsolicited)?;
                let rule = self.mapping_rule(at).ok_or(DropReason::NatUnsolicited)?;
                let m = *self.table.maps.get(at);
                let masquerade = self.masquerade(rule, m.zone, m.local.0.addr, m.source)?;
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
            plan.shown = Some(self.appear(now, plan.zone, proto, plan.local, seen.remote)?);
            return Ok(plan);
        }
        let inside = Key::inside(plan.zone, proto, plan.local, seen.remote);
        if !self.is_key_free(now, Side::Inside, &inside) {
            // It talks to the same host by another external port, or so does somebody of the same address on another
            // uplink. A mapping has no room for it; the client appears as the gateway, if there is one.
            if plan.mapping != mapping::NONE || !matches!(port_class(proto), Some(0 | 1)) {
                return Err(DropReason::NatConflict);
            }
            let shown = self.appear(now, plan.zone, proto, plan.local, seen.remote);
            plan.shown = Some(shown.map_err(|_| DropReason::NatConflict)?);
        }
        Ok(plan)
    }

    /// As which gateway and port a remote appears to a host inside.
    fn appear(
        &mut self,
        now: u64,
        zone: Zone,
        proto: u8,
        local: Inside<Endpoint>,
        remote: Endpoint,
    ) -> Result<(u16, u16), DropReason> {
        let gateway = self.rules.gateway(zone, local.0.addr).ok_or(DropReason::NatNoRule)?;
        let start = self.random_port();
        // A query has only the identifier of the host's end.
        let others = matches!(port_class(proto), Some(0 | 1)).then(|| ports_from((1024, u16::MAX), start));
        for port in std::iter::once(remote.port).chain(others.into_iter().flatten()) {
            let shown = self.table.shown((gateway, port));
            if self.is_key_free(now, Side::Inside, &Key::inside(zone, proto, local, shown)) {
                return Ok((gateway, port));
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

    /// What the masquerade rule says for an inside address.
    fn masquerade(
        &self,
        rule: u16,
        zone: Zone,
        addr: Ipv6Addr,
        source: u16,
    ) -> Result<Masquerade, DropReason> {
        let slot = self.rules.slot(rule).ok_or(DropReason::NatNoRule)?;
        let Rule::Masquerade { ports, filtering, .. } = slot.rule else { return Err(DropReason::NatNoRule) };
        // Paired: the same for every port of the host, on every worker (RFC 4787 REQ-2).
        let mixed = (u128::from(addr) ^ u128::from(zone.0) << 64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let pick = (mixed >> 64) as u64 % slot.pool.len().max(1) as u64;
        let address = *slot.pool.get(pick as usize).ok_or(DropReason::NatNoRule)?;
        Ok(Masquerade { rule, address, ports, filtering, source })
    }

    /// The external endpoint for an inside endpoint: the one it has, or a new one.
    #[allow(clippy::too_many_arguments, reason = "both endpoints with their scopes, each of its own type")]
    fn map(
        &mut self,
        now: u64,
        zone: Zone,
        uplink: Uplink,
        proto: u8,
        local: Inside<Endpoint>,
        remote: Endpoint,
        m: &Masquerade,
    ) -> Result<(Outside<Endpoint>, u32), DropReason> {
        let addr = self.rules.externals.get(m.address).addr;
        let Some(class) = port_class(proto) else {
            let external = Outside(Endpoint { addr, port: 0 });
            let free = self.is_free(now, uplink, proto, external, remote);
            return if free { Ok((external, mapping::NONE)) } else { Err(DropReason::NatNoPort) };
        };
        if let Some(at) = self.table.maps.of_local(zone, uplink, proto, local) {
            if self.mapping_rule(at) == Some(m.rule) {
                let external = self.table.maps.get(at).external;
                return if self.is_free(now, uplink, proto, external, remote) {
                    Ok((external, at))
                } else {
                    // Another endpoint shares the port towards this destination.
                    self.share(now, uplink, proto, local, remote, m)
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
        let take = |nat: &mut Nat| nat.rules.externals.take(m.address, class, m.ports, local.0.port, start);
        let mut port = take(self);
        if port.is_none()
            && let Some(victim) = self.transitory_mapping(uplink, proto, m, start)
        {
            self.give_up(victim);
            port = take(self);
        }
        let Some(port) = port else { return self.share(now, uplink, proto, local, remote, m) };
        let external = Outside(Endpoint { addr, port });
        // A shared port may have been used towards this destination and become free as a whole since.
        let free = self.is_free(now, uplink, proto, external, remote);
        let added = self.table.maps.add(Mapping {
            local,
            external,
            zone,
            uplink,
            proto,
            class: class as u8,
            slot: m.address,
            source,
            conns: 0,
            kept: 0,
            only: 0,
            retired: false,
        });
        match added {
            Some(at) if free => {
                self.table.sources.get_mut(source).ports += 1;
                Ok((external, at))
            }
            added => {
                if let Some(at) = added {
                    self.table.maps.remove(at);
                }
                self.rules.externals.give(m.address, class, port);
                Err(if free { DropReason::NatTableFull } else { DropReason::NatConflict })
            }
        }
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
        proto: u8,
        local: Inside<Endpoint>,
        remote: Endpoint,
        m: &Masquerade,
    ) -> Result<(Outside<Endpoint>, u32), DropReason> {
        let class = port_class(proto).ok_or(DropReason::NatNoPort)?;
        if self.config.strict_eim {
            return Err(DropReason::NatNoPort);
        }
        let addr = self.rules.externals.get(m.address).addr;
        let wish = Some(local.0.port).filter(|port| (m.ports.0..=m.ports.1).contains(port));
        let start = self.random_port();
        for port in wish.into_iter().chain(ports_from(m.ports, start)) {
            let external = Outside(Endpoint { addr, port });
            if self.rules.externals.get(m.address).may_use(class, port)
                && self.is_free(now, uplink, proto, external, remote)
            {
                self.stats.shared_ports += 1;
                return Ok((external, mapping::NONE));
            }
        }
        Err(DropReason::NatNoPort)
    }

    /// Whether no live connection has this external endpoint and remote.
    fn is_free(
        &mut self,
        now: u64,
        uplink: Uplink,
        proto: u8,
        external: Outside<Endpoint>,
        remote: Endpoint,
    ) -> bool {
        self.is_key_free(now, Side::Outside, &Key::outside(uplink, proto, external, remote))
    }

    /// Removes what has the key if it is over.
    fn is_key_free(&mut self, now: u64, side: Side, key: &Key) -> bool {
        let Some(at) = self.table.find(side, key, self.table.hash(key)) else { return true };
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
