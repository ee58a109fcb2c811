//! Runs a scenario: replays on one side of an engine, probes on the other.

use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::{IpNet, Ipv4Net};
use trunkline_engine::{
    BridgeId, Engine, EngineConfig, Gateway, L3Config, PortIo, Spin, TunnelConfig, Underlay, Uplink,
};
use trunkline_nat::{Filtering, Prefix, Rule, RuleId, Zone};
use trunkline_packet::{DropReason, MacAddr, PortId, VlanId};
use trunkline_ports::null::{NullRx, NullTx};
use trunkline_ports::replay::{Replay, ReplayConfig};
use trunkline_ports::{Queues, RxQueue};
use trunkline_switch::{BridgeConfig, PortConfig, VlanMode};
use trunkline_tunnel::{Endpoint, GreKey, Kind, NetId, Vni};

use crate::frames::{self, SINK};
use crate::machine;
use crate::probe::Probe;
use crate::scenario::{self, Scenario, Tunnel, Work};

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Packets that left.
    pub packets: u64,
    /// In this time.
    pub took: Duration,
    /// CPU time of the workers in it.
    pub cpu: Duration,
    /// Packets of which every byte was compared with what it should be; none was wrong.
    pub checked: u64,
    /// Packets dropped, by reason.
    pub drops: Vec<(&'static str, u64)>,
}

impl Measured {
    /// Packets per second of one worker's CPU time: on a machine that does nothing else, what arrives per second
    /// and worker.
    pub fn per_cpu_second(&self) -> f64 {
        self.packets as f64 / self.cpu.as_secs_f64()
    }
}

/// Measures for about that long after all frames have passed once; [`Work::NatNew`] as long as it takes. `pin`:
/// workers to CPUs, from the last one downwards.
///
/// # Errors
/// When the engine cannot be set up so, when packets do not arrive, or when one arrives that is not what it
/// should be.
pub fn measure(scenario: &Scenario, span: Duration, pin: bool) -> io::Result<Measured> {
    let nat = matches!(scenario.work, Work::NatEstablished | Work::NatNew);
    if nat && scenario.flows * u32::from(scenario.workers) > 60_000 {
        return Err(invalid("one external address has ports for 60,000 connections"));
    }
    if scenario.flows == 0 || scenario.macs == 0 || scenario.ways == 0 || scenario.workers == 0 {
        return Err(invalid("flows, addresses, ways and workers are at least 1"));
    }
    let mut lab = Lab::new(scenario, pin)?;
    let frames = u64::from(scenario.frames_per_worker()) * u64::from(scenario.workers);
    let once = scenario.work == Work::NatNew;
    let clock = (Instant::now(), machine::workers_cpu()?);
    lab.play(once.then_some(NonZeroU64::MIN))?;
    lab.wait_for(frames, Duration::from_millis(1))?;
    if once {
        // A thread that has gone to sleep has been charged for all it did.
        std::thread::sleep(Duration::from_millis(20));
        return lab.result(0, clock.0, clock.1);
    }
    // Past what is special about beginnings.
    std::thread::sleep((span / 5).min(Duration::from_millis(200)));
    let (before, start, cpu) = (lab.packets(), Instant::now(), machine::workers_cpu()?);
    std::thread::sleep(span);
    loop {
        let measured = lab.result(before, start, cpu)?;
        // On a busy machine the workers may not have had a turn yet, or not been charged for it.
        if measured.packets > 0 && !measured.cpu.is_zero() {
            return Ok(measured);
        }
        if start.elapsed() > span + Duration::from_secs(5) {
            return Err(io::Error::other("the workers got no CPU time; measure on a quieter machine"));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Plays all frames `rounds` times. Returns how many packets that were, and how long it took.
///
/// # Errors
/// As [`measure`].
pub fn play(scenario: &Scenario, rounds: NonZeroU64) -> io::Result<(u64, Duration)> {
    let mut lab = Lab::new(scenario, false)?;
    let packets = u64::from(scenario.frames_per_worker()) * u64::from(scenario.workers) * rounds.get();
    let (start, cpu) = (Instant::now(), machine::workers_cpu()?);
    lab.play(Some(rounds))?;
    // Seldom, since looking is counted, too, where instructions are.
    lab.wait_for(packets, Duration::from_millis(20))?;
    lab.result(0, start, cpu).map(|measured| (packets, measured.took))
}

/// An engine between replays and probes.
struct Lab {
    scenario: Arc<Scenario>,
    engine: Engine,
    bridge: BridgeId,
    probes: Vec<Arc<Probe>>,
    /// For their counters of drops.
    ports: Vec<PortId>,
    /// The uplink that frames come in by, if they come from outside.
    uplink: Option<PortId>,
}

impl Lab {
    fn new(scenario: &Scenario, pin: bool) -> io::Result<Lab> {
        let engine = Engine::start(EngineConfig { workers: scenario.workers, pin, spin: Spin::Micros(0) })?;
        let bridge = engine.add_bridge(BridgeConfig { max_macs: 1 << 20, ..BridgeConfig::default() });
        let scenario = Arc::new(scenario.clone());
        let mut lab = Lab { scenario, engine, bridge, probes: Vec::new(), ports: Vec::new(), uplink: None };
        match lab.scenario.work {
            Work::Forward | Work::VlanPush | Work::VlanPop => lab.ways_out()?,
            Work::Encap(tunnel) | Work::Decap(tunnel) => lab.tunnels(tunnel)?,
            Work::NatEstablished | Work::NatNew => lab.masquerade()?,
        }
        Ok(lab)
    }

    /// Something to send by for each worker; its receiving side tells the engine that it is the worker's.
    fn probe_io(&mut self) -> io::Result<PortIo> {
        let (mut rx, mut tx): Queues = Default::default();
        for _ in 0..self.scenario.workers {
            let probe = Arc::new(Probe::new(&self.scenario));
            self.probes.push(Arc::clone(&probe));
            rx.push(Box::new(NullRx::new()?));
            tx.push(probe);
        }
        Ok(PortIo { rx, tx })
    }

    fn port(&mut self, config: PortConfig) -> io::Result<PortId> {
        let port = self.engine.add_port(self.bridge, config, 65535).ok_or_else(no_slot)?;
        self.ports.push(port);
        Ok(port)
    }

    fn l3_port(&mut self, io: PortIo) -> io::Result<PortId> {
        let port = self.engine.add_l3_port(65535).ok_or_else(no_slot)?;
        self.ports.push(port);
        self.engine.attach_port(port, io, false)?;
        Ok(port)
    }

    fn behind(&self, vid: VlanId, sink: u32, port: PortId) -> io::Result<()> {
        let fdb = self.engine.fdb(self.bridge).ok_or_else(|| io::Error::other("the bridge has no table"))?;
        if fdb.add_static(vid, frames::nth(SINK, sink), port) {
            return Ok(());
        }
        Err(io::Error::other("no room for a static address"))
    }

    fn ways_out(&mut self) -> io::Result<()> {
        for way in 0..self.scenario.ways {
            let access = self.scenario.work == Work::VlanPop;
            let port = self.port(if access { access_port() } else { PortConfig::new(PortId::NONE) })?;
            let io = self.probe_io()?;
            self.engine.attach_port(port, io, false)?;
            let vid = if self.scenario.work == Work::Forward { VlanId::NONE } else { vlan() };
            self.behind(vid, way, port)?;
        }
        Ok(())
    }

    /// An uplink with an address on a link where the far ends of the tunnels are, and these.
    fn tunnels(&mut self, tunnel: Tunnel) -> io::Result<()> {
        let decap = matches!(self.scenario.work, Work::Decap(_));
        let io = if decap { null_io()? } else { self.probe_io()? };
        let port = self.l3_port(io)?;
        self.uplink = Some(port);
        let address = net(scenario::UNDERLAY, 16)?;
        let uplinks = vec![uplink(port, address, 2000)];
        self.engine.set_l3(L3Config { uplinks, ..L3Config::default() }).map_err(io::Error::other)?;
        let known: Vec<_> =
            (0..self.scenario.ways).map(scenario::remote).map(|(a, m)| (a.into(), m)).collect();
        self.engine.set_neighbours(port, &known);
        let (kind, id) = match tunnel {
            Tunnel::Vxlan => {
                let vni = Vni::new(scenario::VNI).ok_or_else(|| invalid("no such network"))?;
                (Kind::Vxlan, NetId::Vni(vni))
            }
            Tunnel::Gre => (Kind::Gre, NetId::Key(GreKey(scenario::KEY))),
        };
        for way in 0..self.scenario.ways {
            let port = self.port(PortConfig::new(PortId::NONE))?;
            let mut endpoint = Endpoint::new(port, kind, id);
            endpoint.local = Some(scenario::UNDERLAY.into());
            endpoint.remotes = vec![scenario::remote(way).0.into()];
            endpoint.inner_mtu = 1500;
            let config = TunnelConfig {
                underlay: Underlay::Uplink(self.uplink.unwrap_or(PortId::NONE)),
                ..TunnelConfig::new(endpoint)
            };
            self.engine.set_tunnel(port, config).map_err(io::Error::other)?;
            if !decap {
                self.behind(VlanId::NONE, way, port)?;
            }
        }
        if decap {
            let out = self.port(PortConfig::new(PortId::NONE))?;
            let io = self.probe_io()?;
            self.engine.attach_port(out, io, false)?;
            self.behind(VlanId::NONE, 0, out)?;
        }
        Ok(())
    }

    /// A gateway with [`SINK`]'s address, and an uplink to the world that masquerades everything.
    fn masquerade(&mut self) -> io::Result<()> {
        let io = self.probe_io()?;
        let out = self.l3_port(io)?;
        let (zone, way) = (Zone(0), trunkline_nat::Uplink(0));
        let inside = Ipv4Addr::new(10, 0, 255, 254);
        let gateway = Gateway {
            port: self.port(PortConfig::new(PortId::NONE))?,
            mac: SINK,
            addresses: vec![net(inside, 16)?],
            mtu: 1500,
            zone,
            isolated: false,
            open: false,
            dhcp: None,
            ra: None,
        };
        let from = Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0).ok_or_else(|| invalid("no prefix"))?;
        // Published ports of other addresses: none of them applies.
        let publish = |n: u32| {
            let (port, address) = (1 + (n % 60_000) as u16, 1 + n / 60_000);
            Rule::Publish {
                uplink: way,
                proto: 6,
                external: Ipv4Addr::from_bits(scenario::EXTERNAL.to_bits() + address).into(),
                ports: (port, port),
                zone,
                to: Ipv4Addr::new(10, 0, 1, (n % 256) as u8).into(),
                to_ports: (80, 80),
            }
        };
        let mut nat: Vec<_> = (0..self.scenario.rules).map(|n| (RuleId(n + 1), publish(n))).collect();
        nat.push((
            RuleId(0),
            Rule::Masquerade {
                zone,
                from,
                uplink: way,
                pool: vec![scenario::EXTERNAL.into()],
                ports: (1024, 65535),
                filtering: Filtering::default(),
            },
        ));
        let uplinks = vec![uplink(out, net(scenario::EXTERNAL, 24)?, 1500)];
        let config = L3Config { gateways: vec![gateway], uplinks, nat, ..L3Config::default() };
        self.engine.set_l3(config).map_err(io::Error::other)?;
        self.engine.set_neighbours(out, &[(scenario::WORLD.0.into(), scenario::WORLD.1)]);
        Ok(())
    }

    /// Begins to play, so often or for ever.
    fn play(&mut self, count: Option<NonZeroU64>) -> io::Result<()> {
        let replays: io::Result<Vec<_>> = (0..self.scenario.workers)
            .map(|w| Replay::new(self.scenario.frames(w), ReplayConfig { count, rate: None }))
            .collect();
        let io =
            |replay| PortIo { rx: vec![Box::new(replay) as Box<dyn RxQueue>], tx: vec![Arc::new(NullTx)] };
        if let (Work::Decap(_), Some(uplink)) = (self.scenario.work, self.uplink) {
            let rx = replays?.into_iter().map(|r| Box::new(r) as Box<dyn RxQueue>).collect();
            return self.engine.attach_port(uplink, PortIo { rx, tx: vec![Arc::new(NullTx)] }, false);
        }
        for replay in replays? {
            let access = self.scenario.work == Work::VlanPush;
            let port = self.port(if access { access_port() } else { PortConfig::new(PortId::NONE) })?;
            self.engine.attach_port(port, io(replay), false)?;
        }
        Ok(())
    }

    fn packets(&self) -> u64 {
        self.probes.iter().map(|p| p.packets()).sum()
    }

    fn drops(&self) -> Vec<(&'static str, u64)> {
        let counters: Vec<_> = self.ports.iter().map(|&p| self.engine.counters(p)).collect();
        let under = self.engine.underlay_counters();
        let sum = |r: &DropReason| counters.iter().chain([&under]).map(|c| c.drops[r.index()]).sum::<u64>();
        DropReason::ALL.iter().map(|r| (r.name(), sum(r))).filter(|&(_, n)| n > 0).collect()
    }

    /// Until so many packets have left, looking so often.
    fn wait_for(&self, packets: u64, every: Duration) -> io::Result<()> {
        let (mut seen, mut since) = (0, Instant::now());
        while seen < packets {
            std::thread::sleep(every);
            let now = self.packets();
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > Duration::from_secs(5) {
                let drops: Vec<_> = self.drops().iter().map(|(reason, n)| format!("{n} {reason}")).collect();
                let drops = if drops.is_empty() { "nothing".to_owned() } else { drops.join(", ") };
                return Err(io::Error::other(format!(
                    "only {seen} of {packets} packets arrived; dropped: {drops}"
                )));
            }
        }
        Ok(())
    }

    fn result(&self, before: u64, start: Instant, cpu: Duration) -> io::Result<Measured> {
        let (packets, took) = (self.packets() - before, start.elapsed());
        let cpu = machine::workers_cpu()?.saturating_sub(cpu);
        if let Some(wrong) = self.probes.iter().find_map(|p| p.wrong()) {
            return Err(io::Error::other(wrong.to_owned()));
        }
        let checked = self.probes.iter().map(|p| p.checked()).sum();
        Ok(Measured { packets, took, cpu, checked, drops: self.drops() })
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.engine.stop();
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn no_slot() -> io::Error {
    io::Error::other("the engine has no room for another port")
}

fn null_io() -> io::Result<PortIo> {
    Ok(PortIo { rx: vec![Box::new(NullRx::new()?)], tx: vec![Arc::new(NullTx)] })
}

fn vlan() -> VlanId {
    VlanId::new(scenario::VID).unwrap_or(VlanId::NONE)
}

fn access_port() -> PortConfig {
    PortConfig { vlan_mode: VlanMode::Access, tag: vlan(), ..PortConfig::new(PortId::NONE) }
}

fn net(address: Ipv4Addr, len: u8) -> io::Result<IpNet> {
    Ipv4Net::new(address, len).map(IpNet::V4).map_err(io::Error::other)
}

fn uplink(port: PortId, address: IpNet, mtu: u16) -> Uplink {
    let mac: MacAddr = scenario::UNDERLAY_MAC;
    let addresses = vec![address];
    Uplink {
        port,
        uplink: trunkline_nat::Uplink(0),
        mac,
        addresses,
        mtu,
        shared: false,
        nd_proxy: Vec::new(),
    }
}
