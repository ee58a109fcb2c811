//! The way of a packet through connection tracking and translation.

use trunkline_packet::headers::Fragment;
use trunkline_packet::{BATCH, Batch, Packet};

use crate::config::{Config, Filtering};
use crate::fragment::Fragments;
use crate::list::NIL;
use crate::open::Foreseen;
use crate::parse::{self, Kind, Seen};
use crate::rewrite::{self, End};
use crate::rules::{Exit, Gateway, Rule, RuleCounters, RuleError, RuleId, Rules};
use crate::table::Table;
use crate::types::{Inside, Key, Outside, Path, Side, Uplink, Zone, mapped, port_class};
use crate::wheel::Tick;
use crate::{DropReason, NatStats};

/// Where a packet goes on to.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Toward {
    /// To the world.
    Outside(Uplink),
    /// To the host inside that its destination address now names.
    Inside(Zone),
    /// An answer to somebody who appeared as the gateway: to a host inside or, on a shared uplink, to the host
    /// itself. Its destination address tells.
    Client(Uplink),
    /// To the host's own stack, which has the address too: see [`Nat::set_hosts`].
    Host(Uplink),
    /// Nowhere yet: hand it to [`Nat::process`] of this worker with this path. For a hairpinned packet
    /// (RFC 4787 REQ-9) it is [`Path::Hairpin`], for fragments the path they came with. Order must be kept.
    /// Only between workers; on one it is done already.
    Worker(u16, Path),
}

/// Where packets go that have been decided on. Implemented by the worker, and by tests.
pub trait Sink {
    /// The packet is translated and may go on.
    fn forward(&mut self, packet: Packet, toward: Toward);
    /// The packet ends here.
    fn drop(&mut self, packet: Packet, reason: DropReason);
}

/// Connections looked at per packet, for expiry and for rules that changed.
const SWEEP: usize = 4;

/// One worker's connections and translations. See the head of the crate.
pub struct Nat {
    pub(crate) config: Config,
    pub(crate) table: Table,
    pub(crate) rules: Rules,
    pub(crate) fragments: Fragments,
    /// The first time that was told, milliseconds.
    pub(crate) start: Option<u64>,
    /// When the batch in hand began, since then.
    pub(crate) now: u64,
    /// The same in ticks, and until when what is UDP lives from then on.
    pub(crate) tick: Tick,
    pub(crate) udp_until: Tick,
    /// Of the rules.
    pub(crate) version: u16,
    /// The next entry to hold against changed rules.
    purge: usize,
    pub(crate) stats: NatStats,
    /// Uplinks whose addresses the host has too.
    hosts: Vec<Uplink>,
    /// What a batch has found out before its first packet is decided on.
    ahead: Vec<Ahead>,
    /// The same of connections that will begin by the short way, by the packet's place in the batch.
    pub(crate) foreseen: Vec<Option<Foreseen>>,
    pub(crate) random: u64,
}

struct Ahead {
    seen: Result<Seen, DropReason>,
    guess: Guess,
}

/// Where a packet's entry may be.
#[derive(Clone, Copy)]
pub(crate) struct Guess {
    /// Of what it is looked up by.
    hash: u64,
    /// The entry, if something is known of that.
    at: u32,
}

impl Guess {
    /// Of what is no packet of a flow.
    const NONE: Guess = Guess { hash: 0, at: NIL };
}

impl Nat {
    /// An empty table. All memory for connections is reserved here.
    pub fn new(config: Config) -> Nat {
        let capacity = config.capacity.clamp(1, crate::config::MAX_CAPACITY);
        let shard = (config.shard.0, config.shard.1.max(1));
        Nat {
            config: Config { capacity, shard, ..config },
            table: Table::new(capacity),
            rules: Rules::new(shard),
            fragments: Fragments::new(),
            start: None,
            now: 0,
            tick: Tick::at(0),
            udp_until: Tick::at(0),
            version: 0,
            purge: usize::MAX,
            stats: NatStats::default(),
            hosts: Vec::new(),
            ahead: Vec::with_capacity(BATCH),
            foreseen: vec![None; BATCH],
            random: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// Adds a rule.
    ///
    /// # Errors
    /// [`RuleError`]; nothing has changed then.
    pub fn add_rule(&mut self, id: RuleId, rule: Rule) -> Result<(), RuleError> {
        let permissions = filters_by_address(&rule);
        self.rules.add(id, rule)?;
        if permissions {
            self.table.maps.with_permissions();
        }
        self.rules_changed();
        Ok(())
    }

    /// Removes a rule. Its entries match no packet any more from now on, and are removed over the next
    /// packets and calls of [`Nat::tick`]. False when there is no such rule.
    pub fn remove_rule(&mut self, id: RuleId) -> bool {
        let removed = self.rules.remove(id);
        if removed {
            self.rules_changed();
        }
        removed
    }

    /// Says which addresses the switch has inside. A client that a published host could not answer through us
    /// appears to it as the gateway of its network: the host itself ([`Path::Local`]), and hosts inside that
    /// no rule translates. Such clients are refused when there is no gateway.
    pub fn set_gateways(&mut self, gateways: &[Gateway]) {
        let numbered = gateways.iter().filter_map(|g| Some((*g, self.table.gateway(mapped(g.addr))?)));
        let numbered: Vec<_> = numbered.collect();
        if self.rules.gateways != numbered {
            self.rules.gateways = numbered;
            self.rules_changed();
        }
    }

    /// Says on which uplinks the host's own stack has our addresses too. What hosts inside send there from a
    /// mapping, and nobody inside is meant by, is for it; it answers by [`Path::Local`].
    pub fn set_hosts(&mut self, uplinks: &[Uplink]) {
        self.hosts = uplinks.to_vec();
    }

    fn rules_changed(&mut self) {
        self.version = self.version.wrapping_add(1);
        self.purge = 0;
    }

    /// Replaces all rules, the gateways included. Entries that the new rules would translate as they are stay,
    /// and what a rule has counted stays with its identifier; other entries go as with [`Nat::remove_rule`]. Of
    /// masquerades the first that fits counts.
    ///
    /// # Errors
    /// The rule that cannot be, and why; nothing has changed then.
    pub fn set_rules(
        &mut self,
        rules: &[(RuleId, Rule)],
        gateways: &[Gateway],
    ) -> Result<(), (RuleId, RuleError)> {
        let by_address = |(_, rule): &(RuleId, Rule)| filters_by_address(rule);
        if self.rules.set(rules)? {
            if rules.iter().any(by_address) {
                self.table.maps.with_permissions();
            }
            self.rules_changed();
        }
        self.set_gateways(gateways);
        Ok(())
    }

    /// What a rule has done.
    pub fn counters(&self, id: RuleId) -> Option<RuleCounters> {
        self.rules.counters(id)
    }

    /// How full it is, and what it had to do about it.
    pub fn stats(&self) -> NatStats {
        NatStats {
            connections: self.table.len(),
            mappings: self.table.maps.len(),
            held: self.fragments.held(),
            ..self.stats
        }
    }

    /// Changes times and switches; capacity and shard stay as they are.
    pub fn configure(&mut self, config: Config) {
        let Config { capacity, shard, .. } = self.config;
        self.config = Config { capacity, shard, ..config };
        self.rules_changed();
    }

    /// Housekeeping, to be called now and then when there are no packets: removes what has expired, spending
    /// at most `budget` entries.
    pub fn tick(&mut self, now: u64, budget: usize, sink: &mut impl Sink) {
        let now = self.since_start(now);
        self.sweep(now, budget, sink);
    }

    /// Times are counted from the first one, so that 32 bits hold them whatever clock the caller has.
    pub(crate) fn since_start(&mut self, now: u64) -> u64 {
        now.saturating_sub(*self.start.get_or_insert(now))
    }

    /// What a batch of so many packets does for expiry and rules that changed: to be called before it is carried,
    /// whichever way. What goes the short way is of this time.
    pub fn begin(&mut self, now: u64, packets: usize, sink: &mut impl Sink) {
        self.now = self.since_start(now);
        self.tick = Tick::at(self.now);
        self.udp_until = Tick::after(self.now, self.config.timeouts.udp);
        self.sweep(self.now, SWEEP * packets.min(BATCH), sink);
    }

    fn sweep(&mut self, now: u64, budget: usize, sink: &mut impl Sink) {
        self.table.expire(Tick::at(now), budget, &mut self.rules);
        let end = self.purge.saturating_add(budget).min(self.table.conns.len());
        while self.purge < end {
            let at = self.purge as u32;
            self.purge += 1;
            if !self.table.conns[at as usize].is_free() && !self.is_current(at) {
                self.table.remove(at, &mut self.rules);
            }
        }
        self.fragments.sweep(now, budget.div_ceil(16), &mut |p| sink.drop(p, DropReason::NatFragmentLost));
    }

    /// Translates one packet at `now` (milliseconds on any clock that does not go back) and hands it, and
    /// fragments that waited for it, to the sink.
    pub fn process(&mut self, now: u64, path: Path, packet: Packet, sink: &mut impl Sink) {
        let now = self.since_start(now);
        self.sweep(now, SWEEP, sink);
        self.again(now, path, packet, sink);
    }

    /// A packet of which nothing is known yet.
    fn again(&mut self, now: u64, path: Path, packet: Packet, sink: &mut impl Sink) {
        let seen = Seen::parse(&packet, path);
        let guess = seen.as_ref().map_or(Guess::NONE, |seen| self.guess(path, seen));
        self.one(now, path, seen, guess, packet, sink);
    }

    /// As [`Nat::process`] for every packet of a batch, which is left empty; [`Nat::begin`] comes first. Faster,
    /// since the table is read for all of them before the first is decided on.
    pub fn process_batch(&mut self, now: u64, path: Path, batch: &mut Batch, sink: &mut impl Sink) {
        let now = self.since_start(now);
        let mut ahead = std::mem::take(&mut self.ahead);
        let mut packets = batch.drain(..);
        loop {
            ahead.clear();
            ahead.extend(packets.as_slice().iter().take(BATCH).map(|packet| {
                let seen = Seen::parse(packet, path);
                let guess = seen.as_ref().map_or(Guess::NONE, |seen| self.guess(path, seen));
                Ahead { seen, guess }
            }));
            if ahead.is_empty() {
                break;
            }
            for a in &mut ahead {
                a.guess.at = self.table.candidate(a.guess.hash).unwrap_or(NIL);
            }
            for a in &mut ahead {
                if !a.seen.as_ref().is_ok_and(|seen| self.is(path, seen, a.guess.at)) {
                    a.guess.at = NIL;
                }
            }
            for a in &ahead {
                if let Some(packet) = packets.next() {
                    self.one(now, path, a.seen, a.guess, packet, sink);
                }
            }
        }
        self.ahead = ahead;
    }

    #[inline]
    pub(crate) fn guess(&self, path: Path, seen: &Seen) -> Guess {
        Guess { hash: self.table.hash(&key(path, seen)), at: NIL }
    }

    /// Whether the entry `at` is the packet's.
    #[inline]
    fn is(&self, path: Path, seen: &Seen, at: u32) -> bool {
        self.table
            .conns
            .get(at as usize)
            .is_some_and(|conn| self.table.key(conn, path.side()) == key(path, seen) && !conn.is_free())
    }

    fn one(
        &mut self,
        now: u64,
        path: Path,
        seen: Result<Seen, DropReason>,
        guess: Guess,
        mut packet: Packet,
        sink: &mut impl Sink,
    ) {
        let result = match seen {
            Err(reason) => Err(reason),
            Ok(seen) if matches!(seen.ip.fragment, Fragment::First | Fragment::Later) => {
                return self.fragment(now, path, seen, packet, sink);
            }
            Ok(seen) if matches!(seen.kind, Kind::Error) => self.error(now, path, &seen, &mut packet),
            Ok(seen) => self.flow(now, path, &seen, guess, &mut packet),
        };
        self.done(now, result, packet, sink);
    }

    pub(crate) fn done(
        &mut self,
        now: u64,
        result: Result<Toward, DropReason>,
        packet: Packet,
        sink: &mut impl Sink,
    ) {
        match result {
            Ok(Toward::Worker(worker, path)) if worker == self.config.shard.0 => {
                self.again(now, path, packet, sink);
            }
            Ok(toward) => sink.forward(packet, toward),
            Err(reason) => sink.drop(packet, reason),
        }
    }

    /// A packet of a flow.
    #[inline]
    pub(crate) fn flow(
        &mut self,
        now: u64,
        path: Path,
        seen: &Seen,
        guess: Guess,
        packet: &mut Packet,
    ) -> Result<Toward, DropReason> {
        let side = path.side();
        let segment = match seen.kind {
            Kind::Tcp => Some(seen.segment(packet.head())?),
            _ => None,
        };
        if segment.as_ref().is_some_and(|s| !s.flags_ok()) {
            return Err(DropReason::NatTcpFlags);
        }
        let at = match self.lookup(now, path, seen, guess) {
            Some(at) => at,
            None => match self.straight_back(path, seen) {
                Some(toward) => return Ok(toward),
                None => match (
                    self.open(now, path, seen, segment.as_ref(), (guess.hash, None)),
                    self.for_host(path, seen),
                ) {
                    (Ok(at), _) => at,
                    (Err(DropReason::NatUnsolicited), Some(toward)) => return Ok(toward),
                    (Err(reason), _) => return Err(reason),
                },
            },
        };
        let conn = &mut self.table.conns[at as usize];
        if matches!(path, Path::In(_))
            && (conn.is_hairpin() || conn.is_shown() && self.rules.is_inside(conn.remote.addr))
        {
            return Err(DropReason::NatMartian);
        }
        if let Some(segment) = &segment {
            if seen.ip.fragment == Fragment::First {
                conn.tcp.be_liberal();
            }
            conn.tcp.take(side, segment)?;
        }
        if let Kind::Query { reply } = seen.kind
            && reply == (side == conn.initiator())
        {
            // A query from outside is for whoever is pinged, not for the one who pings.
            return Err(if side == Side::Inside {
                DropReason::NatIcmpType
            } else {
                DropReason::NatUnsolicited
            });
        }
        Ok(self.translate(now, side, at, seen, packet))
    }

    /// The live entry of a packet.
    #[inline]
    pub(crate) fn lookup(&mut self, now: u64, path: Path, seen: &Seen, guess: Guess) -> Option<u32> {
        let at = match self.is(path, seen, guess.at) {
            true => guess.at,
            false => self.table.find(path.side(), &key(path, seen), guess.hash)?,
        };
        let conn = &self.table.conns[at as usize];
        let rerouted = matches!(path, Path::Out(_, uplink) if uplink != conn.uplink);
        if conn.deadline <= Tick::at(now) || rerouted || !self.is_current(at) {
            self.table.remove(at, &mut self.rules);
            return None;
        }
        Some(at)
    }

    /// Takes note of a packet of `len` bytes: how long the entry lives now, what it is worth, what its rule does.
    #[inline]
    pub(crate) fn refresh(&mut self, now: u64, side: Side, at: u32, len: usize) {
        let conn = &mut self.table.conns[at as usize];
        let (kept, was) = (conn.sent(side), conn.is_kept());
        let deadline = Tick::after(now, conn.timeout(&self.config.timeouts));
        self.rules.count(conn.rule(), len);
        if deadline < conn.deadline || kept != was {
            return self.resettle(now, at, deadline, kept);
        }
        conn.deadline = deadline;
    }

    /// Puts an entry where it belongs that expires sooner than thought, or is worth more or less.
    #[inline(never)]
    fn resettle(&mut self, now: u64, at: u32, deadline: Tick, kept: bool) {
        self.table.set_deadline(Tick::at(now), at, deadline);
        self.table.set_kept(at, kept);
    }

    /// Refreshes the entry, and rewrites the packet.
    #[inline]
    pub(crate) fn translate(
        &mut self,
        now: u64,
        side: Side,
        at: u32,
        seen: &Seen,
        packet: &mut Packet,
    ) -> Toward {
        self.refresh(now, side, at, packet.len());
        let conn = &self.table.conns[at as usize];
        let (Inside(local), Outside(external)) = (conn.local, conn.external);
        if local != external {
            let (end, to) = match side {
                Side::Inside => (End::Source, external),
                Side::Outside => (End::Destination, local),
            };
            rewrite::endpoint(packet, &seen.ip, end, to, true);
        }
        if conn.is_shown() {
            let (end, to) = match side {
                Side::Inside => (End::Destination, conn.remote),
                Side::Outside => (End::Source, self.table.remote_inside(conn)),
            };
            rewrite::endpoint(packet, &seen.ip, end, to, has_ports(conn.proto));
        }
        self.toward(side, at)
    }

    /// Where a packet from inside goes that no rule translates and that is for one of our own external
    /// addresses: in again at once, as its answer will not come this way.
    pub(crate) fn straight_back(&self, path: Path, seen: &Seen) -> Option<Toward> {
        let Path::Out(zone, uplink) = path else { return None };
        let ours = self.rules.is_external(uplink, seen.remote.addr);
        if !ours || self.rules.exit(zone, uplink, seen.near.addr, self.config.route) != Exit::Route {
            return None;
        }
        let worker = self.target(uplink, seen.ip.proto, Outside(seen.remote));
        Some(Toward::Worker(worker, Path::Hairpin(uplink)))
    }

    /// The host itself, if it may be meant by what nobody inside is meant by.
    pub(crate) fn for_host(&self, path: Path, seen: &Seen) -> Option<Toward> {
        let Path::Hairpin(uplink) = path else { return None };
        let shared = self.hosts.contains(&uplink) && self.rules.is_external(uplink, seen.remote.addr);
        shared.then_some(Toward::Host(uplink))
    }

    fn toward(&self, side: Side, at: u32) -> Toward {
        let conn = &self.table.conns[at as usize];
        match side {
            Side::Outside => Toward::Inside(conn.zone),
            Side::Inside if conn.is_shown() => Toward::Client(conn.uplink),
            Side::Inside if conn.is_hairpin() => {
                // The remote is the near end of the second pass.
                let worker = self.target(conn.uplink, conn.proto, Outside(conn.remote));
                Toward::Worker(worker, Path::Hairpin(conn.uplink))
            }
            Side::Inside => Toward::Outside(conn.uplink),
        }
    }

    /// An ICMP error: about a packet that went the other way (RFC 5508 §4).
    fn error(
        &mut self,
        now: u64,
        path: Path,
        seen: &Seen,
        packet: &mut Packet,
    ) -> Result<Toward, DropReason> {
        let side = path.side();
        let inner = parse::error_payload(packet, seen, side)?;
        let guess = self.guess(path, &inner);
        let Some(at) = self.lookup(now, path, &inner, guess) else {
            return self.straight_back(path, &inner).ok_or(DropReason::NatIcmpUnmatched);
        };
        let conn = &self.table.conns[at as usize];
        let (Inside(local), Outside(external)) = (conn.local, conn.external);
        // It must be addressed to the sender of the packet. From inside it may come from a
        // router on the way: that one leaves under the external address too (RFC 5508 REQ-5).
        let mine = match side {
            Side::Outside => seen.near.addr == external.addr,
            Side::Inside => seen.remote.addr == self.table.remote_inside(conn).addr,
        };
        if !mine {
            return Err(DropReason::NatIcmpUnmatched);
        }
        if local != external {
            let (end, to) = match side {
                Side::Inside => (End::Source, external),
                Side::Outside => (End::Destination, local),
            };
            rewrite::embedded(packet, &seen.ip, &inner.ip, end.other(), to, true);
            rewrite::endpoint(packet, &seen.ip, end, to, false);
        }
        if conn.is_shown() {
            let (end, to) = match side {
                Side::Inside => (End::Destination, conn.remote),
                Side::Outside => (End::Source, self.table.remote_inside(conn)),
            };
            rewrite::embedded(packet, &seen.ip, &inner.ip, end.other(), to, has_ports(conn.proto));
            // A router on the way to the remote keeps its address.
            if side == Side::Inside || seen.remote.addr == conn.remote.addr {
                rewrite::endpoint(packet, &seen.ip, end, to, false);
            }
        }
        Ok(self.toward(side, at))
    }
}

fn filters_by_address(rule: &Rule) -> bool {
    matches!(rule, Rule::Masquerade { filtering: Filtering::Address, .. })
}

/// Whether the remote's end has a port in the packet; a query has one identifier, which is the other end's.
fn has_ports(proto: u8) -> bool {
    matches!(port_class(proto), Some(0 | 1))
}

/// What a packet, as it is on its side, is looked up by.
#[inline]
pub(crate) fn key(path: Path, seen: &Seen) -> Key {
    match path {
        Path::Out(zone, _) | Path::Answer(zone) => {
            Key::inside(zone, seen.ip.proto, Inside(seen.near), seen.remote)
        }
        Path::In(uplink) | Path::Hairpin(uplink) | Path::Local(uplink) => {
            Key::outside(uplink, seen.ip.proto, Outside(seen.near), seen.remote)
        }
    }
}
