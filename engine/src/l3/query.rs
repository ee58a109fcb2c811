//! What the control plane may ask of the network layer. Workers answer at their next wake; nothing that they
//! use on the packet path is locked or shared for it.

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

    /// The connections that fit, in no order.
    pub fn connections(&self, filter: ConnFilter) -> Vec<ConnInfo> {
        let all = self.ask(move |l3| l3.connections(&filter));
        all.into_iter().flatten().collect()
    }

    /// Forgets the connections that fit, and says how many they were.
    pub fn flush_connections(&self, filter: ConnFilter) -> usize {
        self.ask(move |l3| l3.flush(&filter)).into_iter().sum()
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

    /// Takes over leases that were given before a restart.
    pub fn import_leases(&self, port: PortId, leases: &[dhcp::Lease]) {
        let now = self.millis();
        let state = self.state.lock();
        for (_, server) in state.l3.dhcp().filter(|d| d.0 == port) {
            server.lock().import(now, leases);
        }
    }
}
