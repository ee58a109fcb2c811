//! Ways through the engine, each from a replay port to a null port on one worker: what instruction counts and
//! cycles per packet are taken of.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use trunkline_engine::{BridgeId, Engine, EngineConfig, PortIo};
use trunkline_packet::{PortId, VlanId};
use trunkline_ports::null::{NullRx, NullTx};
use trunkline_ports::replay::{Replay, ReplayConfig};
use trunkline_switch::{BridgeConfig, PortConfig, VlanMode};

use crate::frames::{self, Mix, SINK};

/// A way with a name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// For the command line and the table of limits.
    pub name: &'static str,
    /// What it measures.
    pub help: &'static str,
    mix: Mix,
    vlan: bool,
}

const ONE: Mix = Mix { flows: 1, macs: 1, len: 60 };

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "l2-1-flow", help: "forwarded, one flow", mix: ONE, vlan: false },
    Scenario {
        name: "l2-1k-flows",
        help: "forwarded, 1,000 flows of one address",
        mix: Mix { flows: 1000, ..ONE },
        vlan: false,
    },
    Scenario {
        name: "l2-10k-flows",
        help: "learned and forwarded, 10,000 flows of 1,000 addresses",
        mix: Mix { flows: 10_000, macs: 1000, ..ONE },
        vlan: false,
    },
    Scenario {
        name: "l2-100k-macs",
        help: "learned and forwarded, 100,000 addresses",
        mix: Mix { flows: 100_000, macs: 100_000, ..ONE },
        vlan: false,
    },
    Scenario { name: "vlan-push", help: "from an access port to a trunk", mix: ONE, vlan: true },
];

/// An engine with one worker, a bridge and a null port behind which [`SINK`] is.
pub struct Path {
    engine: Engine,
    bridge: BridgeId,
    out: PortId,
    scenario: Scenario,
}

impl Path {
    /// Sets everything up but the source.
    ///
    /// # Errors
    /// When the engine cannot start.
    pub fn new(scenario: Scenario) -> io::Result<Path> {
        let engine = Engine::start(EngineConfig { workers: 1, pin: false, spin_us: 0 })?;
        let bridge = engine.add_bridge(BridgeConfig { max_macs: 1 << 20, ..BridgeConfig::default() });
        let out = add_port(&engine, bridge, PortConfig::new(PortId::NONE))?;
        let io = PortIo { rx: vec![Box::new(NullRx::new()?)], tx: vec![Arc::new(NullTx)] };
        engine.attach_port(out, io, false)?;
        let vid = if scenario.vlan { VLAN } else { VlanId::NONE };
        let fdb = engine.fdb(bridge).ok_or_else(|| io::Error::other("no table"))?;
        if !fdb.add_static(vid, SINK, out) {
            return Err(io::Error::other("no room for a static entry"));
        }
        Ok(Path { engine, bridge, out, scenario })
    }

    /// Plays all frames `rounds` times and waits until the last one has left. Returns how many there were and
    /// how long it took.
    ///
    /// # Errors
    /// When they do not all leave within two minutes: what was counted did not arrive.
    pub fn play(&self, rounds: NonZeroU64) -> io::Result<(u64, Duration)> {
        let frames = frames::udp(self.scenario.mix);
        let expected = frames.len() as u64 * rounds.get();
        let replay = Replay::new(frames, ReplayConfig { count: Some(rounds), rate: None })?;
        let mut config = PortConfig::new(PortId::NONE);
        if self.scenario.vlan {
            (config.vlan_mode, config.tag) = (VlanMode::Access, VLAN);
        }
        let input = add_port(&self.engine, self.bridge, config)?;
        let before = self.engine.counters(self.out).tx_packets;
        let start = Instant::now();
        let io = PortIo { rx: vec![Box::new(replay)], tx: vec![Arc::new(NullTx)] };
        self.engine.attach_port(input, io, false)?;
        let deadline = start + Duration::from_secs(120);
        while self.engine.counters(self.out).tx_packets - before < expected {
            if Instant::now() > deadline {
                return Err(io::Error::other("not every packet arrived"));
            }
            // Seldom, since this counts, too.
            std::thread::sleep(Duration::from_millis(20));
        }
        let took = start.elapsed();
        self.engine.remove_port(input);
        Ok((expected, took))
    }
}

const VLAN: VlanId = match VlanId::new(10) {
    Some(vid) => vid,
    None => VlanId::NONE,
};

fn add_port(engine: &Engine, bridge: BridgeId, config: PortConfig) -> io::Result<PortId> {
    engine.add_port(bridge, config, 65535).ok_or_else(|| io::Error::other("no slot for a port"))
}
