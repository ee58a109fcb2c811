//! Ways through the engine, each from a replay port to a null port on one worker: what instruction counts and
//! cycles per packet are taken of.

use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use trunkline_engine::{BridgeId, Engine, EngineConfig, Gateway, L3Config, PortIo, Spin, Uplink};
use trunkline_nat::{Filtering, Prefix, Rule, RuleId, Zone};
use trunkline_packet::{MacAddr, PortId, VlanId};
use trunkline_ports::null::{NullRx, NullTx};
use trunkline_ports::replay::{Replay, ReplayConfig};
use trunkline_switch::{BridgeConfig, PortConfig, VlanMode};

use crate::frames::{self, Mix, SINK};
use crate::{measure, scenario};

/// A way with a name.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// For the command line and the table of limits.
    pub name: &'static str,
    /// What it measures.
    pub help: &'static str,
    mix: Mix,
    vlan: bool,
    layer: Layer,
}

/// How far up a packet goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Layer {
    Switched,
    Routed,
    Translated,
    /// Each packet begins a connection: the table is full of others.
    Opened,
    /// Into a tunnel or out of one, over an uplink: as in the scenario of that name.
    Tunnelled,
}

const ONE: Mix = Mix { flows: 1, macs: 1, len: 60 };

/// All of them.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "l2-1-flow",
        help: "forwarded, one flow",
        mix: ONE,
        vlan: false,
        layer: Layer::Switched,
    },
    Scenario {
        name: "l2-1k-flows",
        help: "forwarded, 1,000 flows of one address",
        mix: Mix { flows: 1000, ..ONE },
        vlan: false,
        layer: Layer::Switched,
    },
    Scenario {
        name: "l2-10k-flows",
        help: "learned and forwarded, 10,000 flows of 1,000 addresses",
        mix: Mix { flows: 10_000, macs: 1000, ..ONE },
        vlan: false,
        layer: Layer::Switched,
    },
    Scenario {
        name: "l2-100k-macs",
        help: "learned and forwarded, 100,000 addresses",
        mix: Mix { flows: 100_000, macs: 100_000, ..ONE },
        vlan: false,
        layer: Layer::Switched,
    },
    Scenario {
        name: "vlan-push",
        help: "from an access port to a trunk",
        mix: ONE,
        vlan: true,
        layer: Layer::Switched,
    },
    Scenario {
        name: "l3-10k-flows",
        help: "routed from a bridge to an uplink, tracked, 10,000 flows",
        mix: Mix { flows: 10_000, ..ONE },
        vlan: false,
        layer: Layer::Routed,
    },
    Scenario {
        name: "nat-10k-flows",
        help: "masqueraded from a bridge to an uplink, 10,000 flows",
        mix: Mix { flows: 10_000, ..ONE },
        vlan: false,
        layer: Layer::Translated,
    },
    Scenario {
        name: "nat-new-flows",
        help: "masqueraded, each packet a new flow, for which another gives way",
        mix: Mix { flows: 60_000, ..ONE },
        vlan: false,
        layer: Layer::Opened,
    },
    tunnelled("vxlan-encap", "into VXLAN over an uplink, 10,000 flows"),
    tunnelled("vxlan-decap", "out of VXLAN over an uplink, 10,000 flows"),
    tunnelled("gre-encap", "into GRE over an uplink, 10,000 flows"),
    tunnelled("gre-decap", "out of GRE over an uplink, 10,000 flows"),
];

const fn tunnelled(name: &'static str, help: &'static str) -> Scenario {
    Scenario { name, help, mix: ONE, vlan: false, layer: Layer::Tunnelled }
}

/// Plays all frames of a scenario `rounds` times and waits until the last one has left. Returns how many there were
/// and how long it took.
///
/// # Errors
/// When the engine cannot start, or when not all of them leave: what was counted did not arrive.
pub fn play(scenario: Scenario, rounds: NonZeroU64) -> io::Result<(u64, Duration)> {
    if scenario.layer == Layer::Tunnelled {
        let measured = scenario::Scenario::find(scenario.name);
        return measure::play(measured.ok_or_else(|| io::Error::other("no such scenario"))?, rounds);
    }
    Path::new(scenario)?.play(rounds)
}

/// Connections that there is room for when each packet is to begin one: fewer than there are flows.
const ROOM: usize = 16_384;

/// An engine with one worker, a bridge and a null port behind which [`SINK`] is.
struct Path {
    engine: Engine,
    bridge: BridgeId,
    out: PortId,
    scenario: Scenario,
}

impl Path {
    /// Sets everything up but the source.
    fn new(scenario: Scenario) -> io::Result<Path> {
        let engine = Engine::start(EngineConfig { workers: 1, pin: false, spin: Spin::Micros(0) })?;
        let bridge = engine.add_bridge(BridgeConfig { max_macs: 1 << 20, ..BridgeConfig::default() });
        if scenario.layer != Layer::Switched {
            let out = route(&engine, bridge, scenario.layer)?;
            return Ok(Path { engine, bridge, out, scenario });
        }
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

    fn play(&self, rounds: NonZeroU64) -> io::Result<(u64, Duration)> {
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

/// Makes [`SINK`] the gateway of the bridge, and an uplink with a null port where the frames are addressed to.
/// Returns that port.
fn route(engine: &Engine, bridge: BridgeId, layer: Layer) -> io::Result<PortId> {
    let out = engine.add_l3_port(65535).ok_or_else(|| io::Error::other("no slot for a port"))?;
    let io = PortIo { rx: vec![Box::new(NullRx::new()?)], tx: vec![Arc::new(NullTx)] };
    engine.attach_port(out, io, false)?;
    let (zone, uplink, own) = (Zone(0), trunkline_nat::Uplink(0), Ipv4Addr::new(192, 0, 2, 10));
    let net = |addr: Ipv4Addr, len| IpNet::new(addr.into(), len).map_err(io::Error::other);
    let gateway = Gateway {
        port: add_port(engine, bridge, PortConfig::new(PortId::NONE))?,
        mac: SINK,
        addresses: vec![net(Ipv4Addr::new(10, 0, 255, 254), 16)?],
        mtu: 1500,
        zone,
        isolated: false,
        open: false,
        dhcp: None,
        ra: None,
    };
    let up = Uplink {
        port: out,
        uplink,
        mac: MacAddr([2, 0, 0x30, 0, 0, 0]),
        addresses: vec![net(own, 24)?],
        mtu: 1500,
        shared: false,
        nd_proxy: Vec::new(),
    };
    let from = Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0).ok_or_else(|| io::Error::other("no prefix"))?;
    let (pool, ports, filtering) = (vec![own.into()], (1024, 65535), Filtering::default());
    let rule = Rule::Masquerade { zone, from, uplink, pool, ports, filtering };
    let config = L3Config {
        gateways: vec![gateway],
        uplinks: vec![up],
        nat: if layer == Layer::Routed { Vec::new() } else { vec![(RuleId(0), rule)] },
        ct: match layer {
            // One source may have all of it.
            Layer::Opened => trunkline_nat::Config {
                source_limit: u32::MAX,
                source_ports: u32::MAX,
                ..trunkline_nat::Config::for_capacity(ROOM)
            },
            _ => trunkline_nat::Config::default(),
        },
        ..L3Config::default()
    };
    engine.set_l3(config).map_err(io::Error::other)?;
    engine.set_neighbours(out, &[(Ipv4Addr::new(192, 0, 2, 1).into(), MacAddr([2, 0, 0x30, 0, 0, 1]))]);
    Ok(out)
}

const VLAN: VlanId = match VlanId::new(10) {
    Some(vid) => vid,
    None => VlanId::NONE,
};

fn add_port(engine: &Engine, bridge: BridgeId, config: PortConfig) -> io::Result<PortId> {
    engine.add_port(bridge, config, 65535).ok_or_else(|| io::Error::other("no slot for a port"))
}
