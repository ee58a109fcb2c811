//! What the control plane may ask of the network layer. Workers answer at their next wake; nothing that they
//! use on the packet path is locked or shared for it.

use std::net::Ipv4Addr;
use std::ops::Range;
use std::time::Duration;

use crossbeam::channel;
use trunkline_nat::{ConnFilter, ConnInfo, NatStats, RuleCounters, RuleId};
use trunkline_packet::{MacAddr, PortId};
use trunkline_router::{IfaceId, Neighbour, dhcp};

use super::L3;
use crate::Engine;
use crate::worker::Command;

/// Something that a worker does between two batches.
pub(crate) type Question = Box<dyn FnOnce(Option<&mut L3>) + Send>;

/// How long an answer may take: a worker is busy for a batch at most, or ends.
const PATIENCE: Duration = Duration::from_secs(5);

/// Connections looked at between two batches: some hundred microseconds.
const SLICE: usize = 4096;

/// The network layer at one moment, all workers together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct L3Stats {
    /// Connection tracking.
    pub nat: NatStats,
    /// Packets that wait for their neighbour's MAC address. Together with `nat.held` the packets that have come
    /// in and not ended.
    pub waiting: usize,
}

impl L3Stats {
    /// Packets that have come in and not ended.
    pub fn held(&self) -> usize {
        self.waiting + self.nat.held
    }
}

impl Engine {
    /// Asks every worker and waits for the answers of those that run and have a network layer.
    fn ask<T: Send + 'static>(&self, question: impl Fn(&mut L3) -> T + Send + Clone + 'static) -> Vec<T> {
        let (sender, answers) = channel::unbounded();
        for worker in &self.workers {
            let (sender, question) = (sender.clone(), question.clone());
            let handle = worker.lock();
            let ask: Question = Box::new(move |l3| {
                if let Some(l3) = l3 {
                    let _ = sender.send(question(l3));
                }
            });
            // Both fail only for a worker that has ended.
            let _ = handle.commands.send(Command::L3(ask));
            let _ = handle.waker.wake();
        }
        drop(sender);
        let mut all = Vec::new();
        while let Ok(answer) = answers.recv_timeout(PATIENCE) {
            all.push(answer);
        }
        all
    }

    /// Asks about all connections, some slots of each worker's table at a time, so that packets go on in between.
    fn ask_in_slices<T: Send + 'static>(
        &self,
        question: impl Fn(&mut L3, Range<usize>) -> Option<T> + Send + Clone + 'static,
    ) -> impl Iterator<Item = T> {
        let slices = (0..).step_by(SLICE).map_while(move |from| {
            let question = question.clone();
            let answers = self.ask(move |l3| question(l3, from..from + SLICE));
            let answers: Vec<T> = answers.into_iter().flatten().collect();
            (!answers.is_empty()).then_some(answers)
        });
        slices.flatten()
    }

    /// Waits for a moment until hosts have been told of gateways that advertise themselves no more.
    pub(crate) fn let_cease(&self) {
        for _ in 0..20 {
            if !self.ask(|l3| l3.is_ceasing()).contains(&true) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The connections that fit, in no order. Those that come and go meanwhile may be missing.
    pub fn connections(&self, filter: ConnFilter) -> Vec<ConnInfo> {
        self.ask_in_slices(move |l3, slots| l3.connections(&filter, slots)).flatten().collect()
    }

    /// Forgets the connections that fit, and says how many they were.
    pub fn flush_connections(&self, filter: ConnFilter) -> usize {
        self.ask_in_slices(move |l3, slots| l3.flush(&filter, slots)).sum()
    }

    /// What the rules have done, in the order they were given.
    pub fn nat_counters(&self) -> Vec<(RuleId, RuleCounters)> {
        let mut sum: Vec<(RuleId, RuleCounters)> = Vec::new();
        for (id, part) in self.ask(|l3| l3.counters()).into_iter().flatten() {
            match sum.iter_mut().find(|s| s.0 == id) {
                Some((_, total)) => {
                    total.flows += part.flows;
                    total.packets += part.packets;
                    total.bytes += part.bytes;
                }
                None => sum.push((id, part)),
            }
        }
        sum
    }

    /// How full connection tracking is, and what waits.
    pub fn l3_stats(&self) -> L3Stats {
        let mut sum = L3Stats::default();
        for part in self.ask(|l3| l3.stats()) {
            sum.waiting += part.waiting;
            sum.nat.connections += part.nat.connections;
            sum.nat.mappings += part.nat.mappings;
            sum.nat.held += part.nat.held;
            sum.nat.early_drops += part.nat.early_drops;
            sum.nat.shared_ports += part.nat.shared_ports;
        }
        sum
    }

    /// All neighbours, in no order. Their `iface` is the number of the port.
    pub fn neighbours(&self) -> Vec<Neighbour> {
        let now = self.millis();
        self.state.lock().l3.neighbours().map_or_else(Vec::new, |n| n.list(now))
    }

    /// Makes these the neighbours of an interface that need not be asked for, in place of those before. For
    /// shared uplinks: what the host's stack knows.
    pub fn set_neighbours(&self, port: PortId, neighbours: &[(std::net::IpAddr, MacAddr)]) {
        let now = self.millis();
        if let Some(table) = self.state.lock().l3.neighbours() {
            table.set_static(now, IfaceId(port.0), neighbours);
        }
        for worker in &self.workers {
            // Packets may have waited for these.
            let _ = worker.lock().waker.wake();
        }
    }

    /// The DHCP leases of all gateways, by port.
    pub fn leases(&self) -> Vec<(PortId, Vec<dhcp::Lease>)> {
        let now = self.millis();
        let state = self.state.lock();
        state.l3.dhcp().map(|(port, server)| (port, server.lock().leases(now))).collect()
    }

    /// Changes whenever a DHCP lease does.
    pub fn lease_version(&self) -> u64 {
        let state = self.state.lock();
        state.l3.dhcp().fold(0, |sum, (_, server)| sum.wrapping_add(server.lock().version()))
    }

    /// Tells the ports of a gateway's bridge that are held to what DHCP gives them what it has given.
    pub fn bind_leases(&self, gateway: PortId, leases: &[dhcp::Lease]) {
        let state = self.state.lock();
        let Some(port) = state.ports.get(gateway.index()).and_then(Option::as_ref) else { return };
        let vid = port.config.tag;
        let members = state.ports.iter().flatten().filter(|p| p.bridge == port.bridge);
        let bound = || leases.iter().filter(|l| l.state == dhcp::LeaseState::Bound);
        for config in members.map(|p| &p.config) {
            bound().for_each(|l| {
                let seconds = u32::try_from(l.expires_in / 1000).unwrap_or(u32::MAX);
                config.lease(self.now(), vid, l.mac, l.address, seconds);
            });
        }
    }

    /// The IPv4 addresses that DHCP gave to the host of a port that is held to them.
    pub fn guard_leases(&self, port: PortId) -> Vec<Ipv4Addr> {
        let state = self.state.lock();
        let guard =
            state.ports.get(port.index()).and_then(Option::as_ref).and_then(|p| p.config.guard.as_ref());
        guard.map_or_else(Vec::new, |guard| guard.leases(self.now()))
    }

    /// Takes over leases that were given before a restart.
    pub fn import_leases(&self, port: PortId, leases: &[dhcp::Lease]) {
        let now = self.millis();
        let state = self.state.lock();
        for (_, server) in state.l3.dhcp().filter(|d| d.0 == port) {
            server.lock().import(now, leases);
        }
    }
}
