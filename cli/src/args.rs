//! The command line.

mod bench;
mod l3;
mod port;
#[cfg(test)]
mod tests;
mod tunnel;

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use trunkline_control::daemon::Spin;

pub(crate) use bench::{BenchArgs, BenchOptions, BenchPart, EngineArgs, PortsArgs};
pub(crate) use l3::{
    CtCommand, DhcpCommand, GatewayCommand, MasqueradeCommand, NatCommand, NeighbourCommand, PublishCommand,
    RouteCommand, StaticCommand, UplinkCommand, UplinkType,
};
pub(crate) use port::{PortOptions, PortType, Setting};
pub(crate) use tunnel::{MeshCommand, MeshOptions, MeshType, PeerCommand, TunnelPortOptions};

/// Trunkline: an Ethernet switch for containers.
#[derive(Parser, Debug)]
#[command(
    name = "trunkline",
    version,
    arg_required_else_help = true,
    after_help = "Examples:
  trunkline bridge add br0
  trunkline port add br0 web --type tap --netns web --ifname eth0 --address 10.7.0.1/24
  trunkline show"
)]
pub(crate) struct Cli {
    /// Where the daemon's sockets are; one daemon for each directory
    #[arg(long, global = true, value_name = "DIR", env = "TRUNKLINE_RUN_DIR", hide_env_values = true)]
    #[arg(default_value = "/run/trunkline", help_heading = "Which daemon")]
    pub(crate) run_dir: PathBuf,
    /// Where the daemon keeps its state
    #[arg(long, global = true, value_name = "DIR", env = "TRUNKLINE_STATE_DIR", hide_env_values = true)]
    #[arg(default_value = "/var/lib/trunkline", help_heading = "Which daemon")]
    pub(crate) state_dir: PathBuf,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the switch in the foreground
    #[command(after_help = "Examples:
  trunkline daemon
  trunkline daemon --config /etc/trunkline.toml --workers 2
  trunkline --run-dir /tmp/run --state-dir /tmp/state daemon --workers 2 --pin")]
    Daemon(DaemonArgs),
    /// Bridges: learning switches with VLANs
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline bridge add br0
  trunkline bridge list")]
    Bridge(BridgeCommand),
    /// Ports: what is plugged into bridges
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline port add br0 web --type tap --netns web --ifname eth0 --address 10.7.0.1/24
  trunkline port set web --vlan 10")]
    Port(PortCommand),
    /// Meshes: one network over several hosts, without loops
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline mesh add br0 m1 --type vxlan --vni 77 --peers 192.0.2.1,192.0.2.2,192.0.2.3
  trunkline mesh show m1")]
    Mesh(MeshCommand),
    /// Gateways: addresses of the switch itself in its bridges
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline gateway add br0 --address 10.77.0.1/24
  trunkline gateway list")]
    Gateway(GatewayCommand),
    /// Uplinks: ways to the world outside
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline uplink add world --type shared
  trunkline uplink list")]
    Uplink(UplinkCommand),
    /// Routes between gateways and uplinks
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline route add 10.9.0.0/16 --via 10.77.0.2
  trunkline route list")]
    Route(RouteCommand),
    /// Address translation: masquerades, published ports, 1:1
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline nat masquerade add --from 10.77.0.0/24 --uplink world
  trunkline nat publish add --uplink world --proto tcp --port 8080 --to 10.77.0.2:80
  trunkline nat list")]
    Nat(NatCommand),
    /// Connections that pass the gateways
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline ct list
  trunkline ct settings")]
    Ct(CtCommand),
    /// Neighbours of the switch
    #[command(subcommand)]
    #[command(after_help = "Example:
  trunkline neighbour list")]
    Neighbour(NeighbourCommand),
    /// What the DHCP servers of gateways have given out
    #[command(subcommand)]
    #[command(after_help = "Example:
  trunkline dhcp leases")]
    Dhcp(DhcpCommand),
    /// Forwarding databases: which address is behind which port
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline fdb show br0
  trunkline fdb flush br0")]
    Fdb(FdbCommand),
    /// Show the whole topology
    #[command(after_help = "Examples:
  trunkline show
  trunkline show --json")]
    Show(Json),
    /// Show counters, of one port in full
    #[command(after_help = "Examples:
  trunkline stats
  trunkline stats web
  trunkline stats --watch")]
    Stats(StatsArgs),
    /// Show what was dropped and why
    #[command(after_help = "Examples:
  trunkline drops
  trunkline drops --watch")]
    Drops(DropsArgs),
    /// Give docker and podman containers, pids and namespaces an interface on a bridge
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline container attach web br0 --address 10.7.0.1/24
  trunkline container list")]
    Container(ContainerCommand),
    /// The network driver for docker: docker network create -d trunkline
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline docker enable
  docker network create -d trunkline --subnet 10.77.0.0/24 net1
  trunkline docker status")]
    Docker(DockerCommand),
    /// The network driver of podman, as netavark calls it
    #[command(after_help = "Install it where netavark looks, under the name of the driver:
  ln -s /usr/bin/trunkline /usr/libexec/netavark/trunkline
  podman network create -d trunkline --subnet 10.77.0.0/24 net1

Examples:
  trunkline netavark info")]
    Netavark {
        #[command(subcommand)]
        command: Option<NetavarkCommand>,
    },
    /// The CNI plugin: what container runtimes call, with CNI_COMMAND in the environment
    #[command(after_help = "Examples:
  trunkline cni install
  trunkline cni list
  trunkline cni

Without a subcommand it does what CNI_COMMAND says, with the configuration on standard input.")]
    Cni {
        #[command(subcommand)]
        command: Option<CniCommand>,
    },
    /// Make bridges and ports as a file says, all or nothing
    #[command(after_help = "Examples:
  trunkline apply network.toml
  trunkline apply network.toml --dry-run
  trunkline apply -

What the file names belongs to it from then on; what an earlier file made and this one does not name is
removed; what was made by command and is not named stays.")]
    Apply(ApplyArgs),
    /// Print all bridges and ports in the format that apply takes
    #[command(after_help = "Examples:
  trunkline export
  trunkline export --json")]
    Export(Json),
    /// Print what changes, as it changes
    #[command(after_help = "Examples:
  trunkline watch
  trunkline watch --json")]
    Watch(Json),
    /// Measure this machine's switch: the engine alone, and two containers on a bridge
    #[command(after_help = "Examples:
  trunkline bench
  trunkline bench engine l2-1-flow nat-established
  trunkline bench ports --running

Side by side with other switches: make bench in the source tree, docs/benchmarks.md.")]
    Bench(BenchArgs),
    /// Stop the daemon
    #[command(after_help = "Examples:
  trunkline stop
  trunkline stop --release

Interfaces of containers stay for the next daemon, without passing frames, unless --release is given.
That also lets go of those a daemon left that is gone.")]
    Stop {
        /// Let go of all interfaces too: those of TAP ports vanish
        #[arg(long)]
        release: bool,
    },
    /// Print a completion script for a shell
    #[command(after_help = "Example:
  trunkline completions bash")]
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual pages
    #[command(after_help = "Example:
  trunkline man /usr/local/share/man/man1")]
    Man {
        /// Directory to write them to; made if need be
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Hold interfaces while the daemon restarts (started by the daemon)
    #[command(
        hide = true,
        after_help = "Example:
  trunkline keeper"
    )]
    Keeper,
}

/// For verbs that read.
#[derive(Args, Debug, Clone, Copy)]
pub(crate) struct Json {
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct DaemonArgs {
    /// Apply this file at the start and again on SIGHUP
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Worker threads; 0: one for every two CPUs, at most 4
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) workers: u16,
    /// Pin each worker to a CPU, from the last one downwards, instead of letting the kernel place it
    #[arg(long)]
    pub(crate) pin: bool,
    /// Serve docker: at this path, or where docker looks for plugins; stays so
    #[arg(long, value_name = "SOCKET", num_args = 0..=1, require_equals = true, default_missing_value = "")]
    pub(crate) docker: Option<String>,
    /// Microseconds that a worker waits awake for more work: lower latency for more CPU time. `auto`: while work
    /// keeps coming within 50 µs, and not otherwise
    #[arg(long, value_name = "N|auto", default_value = "0", value_parser = spin)]
    pub(crate) spin_us: Spin,
}

fn spin(s: &str) -> Result<Spin, String> {
    match s {
        "auto" => Ok(Spin::Adaptive),
        n => n.parse().map(Spin::Micros).map_err(|_| "want a number of microseconds, or auto".to_owned()),
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum DockerCommand {
    /// Serve docker from now on, also after a restart
    #[command(after_help = "Examples:
  trunkline docker enable
  trunkline docker enable --socket /run/docker/plugins/lab.sock

The name of the driver is that of the socket.")]
    Enable {
        /// Where to serve it [default: /run/docker/plugins/trunkline.sock]
        #[arg(long, value_name = "PATH")]
        socket: Option<String>,
    },
    /// Serve docker no more; what it made goes on working
    #[command(after_help = "Example:
  trunkline docker disable")]
    Disable,
    /// Show whether docker is served, its networks and containers
    #[command(after_help = "Examples:
  trunkline docker status
  trunkline docker status --json")]
    Status(Json),
}

#[derive(Subcommand, Debug)]
pub(crate) enum CniCommand {
    /// Put the plugin where container runtimes look for it
    #[command(after_help = "Examples:
  trunkline cni install
  trunkline cni install --dir /usr/libexec/cni --copy")]
    Install {
        /// Directory of plugins; made if need be
        #[arg(long, value_name = "DIR", default_value = "/opt/cni/bin")]
        dir: PathBuf,
        /// Copy this program instead of making a symbolic link to it
        #[arg(long)]
        copy: bool,
    },
    /// List what CNI and podman have attached
    #[command(after_help = "Examples:
  trunkline cni list
  trunkline cni list --json")]
    List(Json),
}

#[derive(Args, Debug, Default)]
pub(crate) struct BridgeOptions {
    /// Seconds until an address not seen is forgotten [default: 300]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ageing: Option<u32>,
    /// Most learned addresses [default: 16384]
    #[arg(long, value_name = "N")]
    pub(crate) max_macs: Option<u32>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum BridgeCommand {
    /// Make a bridge
    #[command(after_help = "Examples:
  trunkline bridge add br0
  trunkline bridge add br0 --ageing 60 --max-macs 1000")]
    Add {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        name: String,
        #[command(flatten)]
        options: BridgeOptions,
    },
    /// Remove a bridge
    #[command(after_help = "Examples:
  trunkline bridge del br0
  trunkline bridge del br0 --force")]
    Del {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        name: String,
        /// Remove its ports too
        #[arg(long)]
        force: bool,
    },
    /// Change a bridge's settings
    #[command(after_help = "Example:
  trunkline bridge set br0 --ageing 60")]
    Set {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        name: String,
        #[command(flatten)]
        options: BridgeOptions,
    },
    /// List the bridges
    #[command(after_help = "Example:
  trunkline bridge list")]
    List(Json),
    /// Show a bridge with its ports
    #[command(after_help = "Examples:
  trunkline bridge show br0
  trunkline bridge show br0 --json")]
    Show {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        name: String,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum PortCommand {
    /// Plug a port into a bridge
    #[command(after_help = "Examples:
  trunkline port add br0 web --type tap --netns web --ifname eth0 --address 10.7.0.1/24 --gateway 10.7.0.254
  trunkline port add br0 db --type tap --netns 4711 --ifname eth0 --address fd00::2/64 --vlan 10
  trunkline port add br0 vm1 --type tap --adopt --trunks 10,20-30
  trunkline port add br0 uplink --type afpacket --interface eth1
  trunkline port add br0 br0 --type host --address 10.7.0.254/24
  trunkline port add br0 gen --type replay --file traffic.pcap --rate 1000
  trunkline port add br0 sink --type null --no-learning
  trunkline port add br0 gre0 --type gre --remote 192.0.2.2 --key 7 --csum
  trunkline port add br0 vx0 --type vxlan --vni 77 --remote 192.0.2.2 --remote 192.0.2.3 --vlan 10
  trunkline port add br0 vx1 --type vxlan --remote 2001:db8::2 --vlan-map 10=1010,20-29=2020-2029 --bfd
  trunkline port add br0 vx2 --type vxlan --vni 9 --group 239.1.1.1 --group-interface eth0
  trunkline port add br0 gnv0 --type geneve --vni 77 --remote 192.0.2.2 --tos inherit --ttl 32")]
    Add {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        bridge: String,
        /// Name of the port
        #[arg(value_name = "PORT")]
        name: String,
        /// What it is made of
        #[arg(long = "type", value_name = "TYPE")]
        kind: PortType,
        #[command(flatten)]
        options: Box<PortOptions>,
        #[command(flatten)]
        tunnel: Box<TunnelPortOptions>,
    },
    /// Remove a port, with the interface that was made for it
    #[command(after_help = "Example:
  trunkline port del web")]
    Del {
        /// Name of the port
        #[arg(value_name = "PORT")]
        name: String,
    },
    /// Change a port's settings
    #[command(after_help = "Examples:
  trunkline port set web --vlan 20
  trunkline port set web --vlan none --trunks 10,20-30
  trunkline port set web --isolated=false --offload off
  trunkline port set web --address 10.7.0.1/24 --address fd00::1/64
  trunkline port set web --bridge br1
  trunkline port set gre0 --remote 192.0.2.3 --ttl inherit --no-df=false

'none' takes a setting away. What is not named stays as it is; --address, --gateway, --remote replace all of
theirs.")]
    Set {
        /// Name of the port
        #[arg(value_name = "PORT")]
        name: String,
        /// Move it to another bridge
        #[arg(long, value_name = "BRIDGE")]
        bridge: Option<String>,
        #[command(flatten)]
        options: Box<PortOptions>,
        #[command(flatten)]
        tunnel: Box<TunnelPortOptions>,
    },
    /// List the ports
    #[command(after_help = "Examples:
  trunkline port list
  trunkline port list --bridge br0 --json")]
    List {
        /// Of this bridge only
        #[arg(long, value_name = "BRIDGE")]
        bridge: Option<String>,
        #[command(flatten)]
        json: Json,
    },
    /// Show a port in full
    #[command(after_help = "Examples:
  trunkline port show web
  trunkline port show web --json")]
    Show {
        /// Name of the port
        #[arg(value_name = "PORT")]
        name: String,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Args, Debug)]
pub(crate) struct FdbFilter {
    /// In this VLAN only (0: untagged)
    #[arg(long, value_name = "VLAN")]
    pub(crate) vlan: Option<u16>,
    /// Behind this port only
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<String>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum FdbCommand {
    /// Show the addresses a bridge knows
    #[command(after_help = "Examples:
  trunkline fdb show br0
  trunkline fdb show br0 --vlan 10 --port web --json")]
    Show {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        bridge: String,
        #[command(flatten)]
        filter: FdbFilter,
        #[command(flatten)]
        json: Json,
    },
    /// Add a static entry, which never moves and never ages
    #[command(after_help = "Examples:
  trunkline fdb add br0 02:00:00:00:00:09 web
  trunkline fdb add br0 02:00:00:00:00:09 web --vlan 10
  trunkline fdb add br0 02:00:00:00:00:09 vx0 --remote 192.0.2.2")]
    Add {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        bridge: String,
        /// The address, like 02:00:00:00:00:09
        #[arg(value_name = "MAC")]
        mac: String,
        /// Name of the port it is behind
        #[arg(value_name = "PORT")]
        port: String,
        /// Its VLAN (0: untagged)
        #[arg(long, value_name = "VLAN", default_value_t = 0)]
        vlan: u16,
        /// Of a tunnel: the remote it is behind
        #[arg(long, value_name = "ADDRESS", value_parser = tunnel::remote)]
        remote: Option<IpAddr>,
    },
    /// Remove a static entry
    #[command(after_help = "Example:
  trunkline fdb del br0 02:00:00:00:00:09 --vlan 10")]
    Del {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        bridge: String,
        /// The address, like 02:00:00:00:00:09
        #[arg(value_name = "MAC")]
        mac: String,
        /// Its VLAN (0: untagged)
        #[arg(long, value_name = "VLAN", default_value_t = 0)]
        vlan: u16,
    },
    /// Forget learned addresses
    #[command(after_help = "Examples:
  trunkline fdb flush br0
  trunkline fdb flush br0 --port web")]
    Flush {
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        bridge: String,
        #[command(flatten)]
        filter: FdbFilter,
    },
}

#[derive(Args, Debug)]
pub(crate) struct StatsArgs {
    /// One port in full; absent: all in a table
    #[arg(value_name = "PORT")]
    pub(crate) port: Option<String>,
    #[command(flatten)]
    pub(crate) watch: WatchOptions,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Args, Debug)]
pub(crate) struct DropsArgs {
    #[command(flatten)]
    pub(crate) watch: WatchOptions,
    #[command(flatten)]
    pub(crate) json: Json,
}

#[derive(Args, Debug)]
pub(crate) struct WatchOptions {
    /// Show it again and again, with rates
    #[arg(long)]
    pub(crate) watch: bool,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600), requires = "watch")]
    pub(crate) interval: u64,
}

#[derive(Subcommand, Debug)]
pub(crate) enum NetavarkCommand {
    /// Check a network that podman makes, and complete it (JSON on stdin and stdout)
    #[command(after_help = "Example:
  trunkline netavark create")]
    Create,
    /// Give a container its interface (JSON on stdin and stdout)
    #[command(after_help = "Example:
  trunkline netavark setup /run/netns/web")]
    Setup {
        /// Path of the container's network namespace
        #[arg(value_name = "NETNS")]
        netns: String,
    },
    /// Take a container's interface away (JSON on stdin)
    #[command(after_help = "Example:
  trunkline netavark teardown /run/netns/web")]
    Teardown {
        /// Path of the container's network namespace, which may be gone
        #[arg(value_name = "NETNS")]
        netns: String,
    },
    /// Print the versions of the plugin and of its API
    #[command(after_help = "Example:
  trunkline netavark info")]
    Info,
}

#[derive(Subcommand, Debug)]
pub(crate) enum ContainerCommand {
    /// Give a container an interface on a bridge
    #[command(after_help = "Examples:
  trunkline container attach web br0 --address 10.7.0.1/24
  trunkline container attach web br0 --ifname eth2 --vlan 10 --address 10.8.0.1/24 --gateway 10.8.0.254
  trunkline container attach pid:4711 br0
  trunkline container attach netns:blue br0 --ifname eth0
  trunkline container attach web br0 --address 10.7.0.1/24 --follow

With --follow the interface comes back whenever the container is started again, with the same addresses and MAC
address, until 'container detach'. The container may be stopped now.")]
    Attach {
        /// A docker or podman container, pid:N, netns:NAME, or a namespace's path
        #[arg(value_name = "CONTAINER")]
        container: String,
        /// Name of the bridge
        #[arg(value_name = "BRIDGE")]
        bridge: String,
        /// Attach it again after every restart of the container, or when the namespace is made anew
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        options: Box<PortOptions>,
    },
    /// Take a container's interfaces away
    #[command(after_help = "Examples:
  trunkline container detach web
  trunkline container detach web --ifname eth2")]
    Detach {
        /// As it was given to attach
        #[arg(value_name = "CONTAINER")]
        container: String,
        /// This interface only
        #[arg(long, value_name = "IFNAME")]
        ifname: Option<String>,
    },
    /// List the interfaces given to containers
    #[command(after_help = "Example:
  trunkline container list")]
    List(Json),
}

#[derive(Args, Debug)]
pub(crate) struct ApplyArgs {
    /// The file; - for standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// Only say what would change
    #[arg(long)]
    pub(crate) dry_run: bool,
    #[command(flatten)]
    pub(crate) json: Json,
}
