//! The options of gateways, uplinks, routes, NAT rules and connection tracking.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use trunkline_control::model::l3::{AddrRange, CtFilter, PortRange, Target};

use super::Json;
use super::port::{Setting, address, gateway, list, number, setting, text, value_name};

fn port_range(s: &str) -> Result<Setting, String> {
    match s {
        "none" => Ok(Setting::None),
        _ => s.parse::<PortRange>().map(|r| Setting::To(json!(r))).map_err(|e| e.to_string()),
    }
}

fn addr_range(s: &str) -> Result<Setting, String> {
    match s {
        "none" => Ok(Setting::None),
        _ => s.parse::<AddrRange>().map(|r| Setting::To(json!(r))).map_err(|e| e.to_string()),
    }
}

fn target(s: &str) -> Result<Target, String> {
    s.parse().map_err(|e: trunkline_control::Error| e.to_string())
}

fn ports(s: &str) -> Result<PortRange, String> {
    s.parse().map_err(|e: trunkline_control::Error| e.to_string())
}

/// `MAC=ADDRESS`, or `MAC=` to take a reservation away.
fn reservation(s: &str) -> Result<(String, Setting), String> {
    let (mac, addr) = s.split_once('=').ok_or("write it as MAC=ADDRESS, or MAC= to take it away")?;
    let addr = if addr.is_empty() { Setting::None } else { gateway(addr)? };
    Ok((mac.to_lowercase().replace('-', ":"), addr))
}

fn flag(value: Option<bool>) -> Option<Value> {
    value.map(Value::Bool)
}

fn named(value: Option<impl ValueEnum>) -> Option<Value> {
    value.map(value_name)
}

/// What is given, as a JSON merge patch: null for what is taken away.
fn patch<const N: usize>(all: [(&str, Option<Value>); N]) -> Map<String, Value> {
    all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
}

/// Everything that can be said of a gateway besides its name.
#[derive(Args, Debug, Default)]
pub(crate) struct GatewayOptions {
    /// Address with the prefix length of the network, v4 or v6, repeatable
    #[arg(long = "address", value_name = "ADDRESS", value_parser = address)]
    pub(crate) addresses: Vec<Setting>,
    /// MAC address [default: drawn once and kept]
    #[arg(long, value_name = "MAC", value_parser = text)]
    pub(crate) mac: Option<Setting>,
    /// Largest packet sent into the bridge [default: 1500]
    #[arg(long, value_name = "BYTES", value_parser = number)]
    pub(crate) mtu: Option<Setting>,
    /// Let the hosts of this network exchange frames with each other, not only with the gateway [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) icc: Option<bool>,
    /// Route only to uplinks, not to and from the networks of other bridges [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub(crate) private: Option<bool>,
    /// IPv4 addresses to give out by DHCP, like 10.77.0.100-10.77.0.199
    #[arg(long, value_name = "FROM-TO", value_parser = addr_range, help_heading = "Telling the hosts")]
    pub(crate) dhcp_range: Option<Setting>,
    /// How long a lease lasts [default: 3600]
    #[arg(long, value_name = "SECONDS", value_parser = number, help_heading = "Telling the hosts")]
    pub(crate) dhcp_lease: Option<Setting>,
    /// An address that one host always gets, repeatable; MAC= takes it away
    #[arg(long = "reserve", value_name = "MAC=ADDRESS", value_parser = reservation, help_heading = "Telling the hosts")]
    pub(crate) reservations: Vec<(String, Setting)>,
    /// Announce the IPv6 prefixes by router advertisements
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Telling the hosts")]
    pub(crate) ra: Option<bool>,
    /// Name server to tell of, v4 by DHCP and v6 by router advertisements, repeatable
    #[arg(long = "dns", value_name = "ADDRESS", value_parser = gateway, help_heading = "Telling the hosts")]
    pub(crate) dns: Vec<Setting>,
    /// Domain to tell of by DHCP
    #[arg(long, value_name = "DOMAIN", value_parser = text, help_heading = "Telling the hosts")]
    pub(crate) domain: Option<Setting>,
}

impl GatewayOptions {
    /// The options as a JSON merge patch.
    pub(crate) fn patch(&self) -> Map<String, Value> {
        let reservations: Map<String, Value> = self
            .reservations
            .iter()
            .map(|(mac, addr)| (mac.clone(), setting(&Some(addr.clone())).unwrap_or(Value::Null)))
            .collect();
        patch([
            ("addresses", list(&self.addresses)),
            ("mac", setting(&self.mac)),
            ("mtu", setting(&self.mtu)),
            ("icc", flag(self.icc)),
            ("private", flag(self.private)),
            ("dhcp-range", setting(&self.dhcp_range)),
            ("dhcp-lease", setting(&self.dhcp_lease)),
            ("reservations", (!reservations.is_empty()).then(|| json!(reservations))),
            ("ra", flag(self.ra)),
            ("dns", list(&self.dns)),
            ("domain", setting(&self.domain)),
        ])
    }
}

/// Which gateway: a bridge, or one VLAN of it.
#[derive(Args, Debug)]
pub(crate) struct GatewayName {
    /// Name of the bridge, or BRIDGE.VLAN
    #[arg(value_name = "BRIDGE")]
    pub(crate) bridge: String,
    /// Of this VLAN [default: of untagged frames]
    #[arg(long, value_name = "VLAN", value_parser = clap::value_parser!(u16).range(1..=4094))]
    pub(crate) vlan: Option<u16>,
}

impl GatewayName {
    /// The gateway's name.
    pub(crate) fn name(&self) -> String {
        self.vlan.map_or_else(|| self.bridge.clone(), |vlan| format!("{}.{vlan}", self.bridge))
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum GatewayCommand {
    /// Give the switch addresses of its own in a bridge, or in one VLAN of it
    #[command(after_help = "Examples:
  trunkline gateway add br0 --address 10.77.0.1/24 --address fd77::1/64
  trunkline gateway add br0 --vlan 10 --address 10.78.0.1/24 --icc=false
  trunkline gateway add br0 --address 10.77.0.1/24 --dhcp-range 10.77.0.100-10.77.0.199 --dns 9.9.9.9
  trunkline gateway add br0 --address fd77::1/64 --ra --dns fd77::1

The switch answers ARP, neighbour discovery and ping for them, and routes for the hosts there. The gateway's
name is that of its bridge, or BRIDGE.VLAN.")]
    Add {
        #[command(flatten)]
        name: GatewayName,
        #[command(flatten)]
        options: Box<GatewayOptions>,
    },
    /// Change a gateway
    #[command(after_help = "Examples:
  trunkline gateway set br0 --mtu 1400
  trunkline gateway set br0 --vlan 10 --icc
  trunkline gateway set br0 --reserve 02:00:00:00:00:09=10.77.0.9 --domain lab.example
  trunkline gateway set br0 --dhcp-range none --dns none --domain none

'none' takes a setting away. What is not named stays as it is; --address and --dns replace all of theirs.")]
    Set {
        #[command(flatten)]
        name: GatewayName,
        #[command(flatten)]
        options: Box<GatewayOptions>,
    },
    /// Remove a gateway
    #[command(after_help = "Example:
  trunkline gateway del br0")]
    Del {
        #[command(flatten)]
        name: GatewayName,
    },
    /// List the gateways
    #[command(after_help = "Example:
  trunkline gateway list")]
    List(Json),
    /// Show a gateway in full
    #[command(after_help = "Examples:
  trunkline gateway show br0
  trunkline gateway show br0 --vlan 10 --json")]
    Show {
        #[command(flatten)]
        name: GatewayName,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum UplinkType {
    /// An interface taken over, with addresses of the switch's own
    Own,
    /// An interface of the host's that routes onward
    Host,
    /// An interface that stays the host's, whose address is shared
    Shared,
}

/// Everything that can be said of an uplink besides its name and type.
#[derive(Args, Debug, Default)]
pub(crate) struct UplinkOptions {
    /// own, shared: the interface [default of shared: the one with the default route]; host: name of the
    /// interface that is made [default: the uplink's name]
    #[arg(long, value_name = "IF", value_parser = text)]
    pub(crate) interface: Option<Setting>,
    /// The switch's address there, with prefix length, repeatable
    #[arg(long = "address", value_name = "ADDRESS", value_parser = address, help_heading = "own and host")]
    pub(crate) addresses: Vec<Setting>,
    /// own: the next router, one of each family; host: the host's address [default: the network's first free one]
    #[arg(long = "gateway", value_name = "ADDRESS", value_parser = gateway, help_heading = "own and host")]
    pub(crate) gateways: Vec<Setting>,
    /// The switch's MAC address there [default of own: the interface's; of host: drawn once and kept]
    #[arg(long, value_name = "MAC", value_parser = text, help_heading = "own and host")]
    pub(crate) mac: Option<Setting>,
    /// Largest packet sent [default of own: the interface's MTU; of host: 1500]
    #[arg(long, value_name = "BYTES", value_parser = number, help_heading = "own and host")]
    pub(crate) mtu: Option<Setting>,
    /// Take the interface even though it carries addresses
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "own")]
    pub(crate) force: Option<bool>,
    /// Ports of the host's address that are the switch's [default: 61000-64999]
    #[arg(long, value_name = "FROM-TO", value_parser = port_range, help_heading = "shared")]
    pub(crate) ports: Option<Setting>,
    /// IPv6 prefix inside that routers outside take for on-link: answer their neighbour discovery, repeatable
    #[arg(long = "nd-proxy", value_name = "PREFIX", value_parser = address)]
    pub(crate) nd_proxy: Vec<Setting>,
}

impl UplinkOptions {
    /// The options as a JSON merge patch.
    pub(crate) fn patch(&self) -> Map<String, Value> {
        patch([
            ("interface", setting(&self.interface)),
            ("addresses", list(&self.addresses)),
            ("gateways", list(&self.gateways)),
            ("mac", setting(&self.mac)),
            ("mtu", setting(&self.mtu)),
            ("force", flag(self.force)),
            ("ports", setting(&self.ports)),
            ("nd-proxy", list(&self.nd_proxy)),
        ])
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum UplinkCommand {
    /// Make a way to the world outside
    #[command(after_help = "Examples:
  trunkline uplink add up0 --interface eth1 --address 192.0.2.10/24 --gateway 192.0.2.1
  trunkline uplink add world --type shared
  trunkline uplink add world --type shared --interface eth0 --ports 50000-59999
  trunkline uplink add host0 --type host --address 192.168.77.2/30

own needs --interface and --address. host makes an interface for the host's stack, which routes onward. shared
leaves the interface to the host and takes a range of ports of its address.")]
    Add {
        /// Name of the uplink
        #[arg(value_name = "UPLINK")]
        name: String,
        /// How it reaches the world [default: own]
        #[arg(long = "type", value_name = "TYPE", default_value = "own", hide_default_value = true)]
        kind: UplinkType,
        #[command(flatten)]
        options: Box<UplinkOptions>,
    },
    /// Change an uplink
    #[command(after_help = "Examples:
  trunkline uplink set up0 --gateway 192.0.2.254
  trunkline uplink set world --ports 50000-59999

'none' takes a setting away. What is not named stays as it is; --address, --gateway and --nd-proxy replace
all of theirs.")]
    Set {
        /// Name of the uplink
        #[arg(value_name = "UPLINK")]
        name: String,
        #[command(flatten)]
        options: Box<UplinkOptions>,
    },
    /// Remove an uplink
    #[command(after_help = "Example:
  trunkline uplink del up0")]
    Del {
        /// Name of the uplink
        #[arg(value_name = "UPLINK")]
        name: String,
    },
    /// List the uplinks
    #[command(after_help = "Example:
  trunkline uplink list")]
    List(Json),
    /// Show an uplink in full
    #[command(after_help = "Examples:
  trunkline uplink show up0
  trunkline uplink show up0 --json")]
    Show {
        /// Name of the uplink
        #[arg(value_name = "UPLINK")]
        name: String,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum RouteCommand {
    /// Make a route
    #[command(after_help = "Examples:
  trunkline route add 10.9.0.0/16 --via 10.77.0.2
  trunkline route add fd09::/48 --via fe80::1 --uplink up0
  trunkline route add 10.10.0.0/24 --gateway br0 --metric 5

The networks of gateways and uplinks and the default routes of uplinks are implied.")]
    Add {
        /// Destinations
        #[arg(value_name = "PREFIX")]
        prefix: String,
        /// The next router [default: the destinations are on the network itself]
        #[arg(long, value_name = "ADDRESS")]
        via: Option<String>,
        /// Into the network of this gateway
        #[arg(long, value_name = "GATEWAY", conflicts_with = "uplink")]
        gateway: Option<String>,
        /// Out by this uplink [default: where the next router is a neighbour]
        #[arg(long, value_name = "UPLINK")]
        uplink: Option<String>,
        /// Of two routes to one prefix the lower metric counts [default: 0]
        #[arg(long, value_name = "N")]
        metric: Option<u32>,
        /// Name of the route [default: made of the prefix]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
    /// Remove a route
    #[command(after_help = "Examples:
  trunkline route del 10.9.0.0/16
  trunkline route del 10.9.0.0-16")]
    Del {
        /// Its name, or its prefix if there is one route to it
        #[arg(value_name = "ROUTE")]
        route: String,
    },
    /// List the routes, those that gateways and uplinks imply included
    #[command(after_help = "Examples:
  trunkline route list
  trunkline route list --json")]
    List(Json),
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Filtering {
    /// Anybody
    EndpointIndependent,
    /// Addresses that the host has sent to
    Address,
    /// Addresses and ports that the host has sent to
    AddressAndPort,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Proto {
    Tcp,
    Udp,
}

/// What rules of every type have.
#[derive(Args, Debug)]
pub(crate) struct NatCommon {
    /// The uplink whose traffic is translated
    #[arg(long, value_name = "UPLINK")]
    pub(crate) uplink: String,
    /// The bridge of the hosts inside [default: the one whose gateway has them in its network]
    #[arg(long, value_name = "BRIDGE")]
    pub(crate) bridge: Option<String>,
    /// Name of the rule [default: made of what it does]
    #[arg(long, value_name = "NAME")]
    pub(crate) name: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct MasqueradeOptions {
    /// Hosts inside
    #[arg(long, value_name = "PREFIX")]
    pub(crate) from: String,
    #[command(flatten)]
    pub(crate) common: NatCommon,
    /// External addresses, like 192.0.2.10-192.0.2.12 [default: the uplink's first of the family]
    #[arg(long, value_name = "FROM-TO", value_parser = addr_range)]
    pub(crate) pool: Option<Setting>,
    /// External ports [default: 1024-65535, of a shared uplink its ports]
    #[arg(long, value_name = "FROM-TO", value_parser = port_range)]
    pub(crate) ports: Option<Setting>,
    /// Who outside may answer [default: as ct settings say]
    #[arg(long, value_name = "WHO")]
    pub(crate) filtering: Option<Filtering>,
    /// Translate IPv6, which is routed otherwise
    #[arg(long)]
    pub(crate) nat66: bool,
}

#[derive(Args, Debug)]
pub(crate) struct PublishOptions {
    #[command(flatten)]
    pub(crate) common: NatCommon,
    /// Of which protocol
    #[arg(long, value_name = "PROTO")]
    pub(crate) proto: Proto,
    /// External port or range of ports
    #[arg(long, value_name = "PORT[-PORT]", value_parser = ports)]
    pub(crate) port: PortRange,
    /// The host inside and its port; without: the same port
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = target)]
    pub(crate) to: Target,
    /// The external address [default: the uplink's first of the family]
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) external: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct StaticOptions {
    #[command(flatten)]
    pub(crate) common: NatCommon,
    /// The host inside
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) inside: String,
    /// Its address outside
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) external: String,
}

impl NatCommon {
    fn spec<const N: usize>(&self, kind: &str, own: [(&str, Option<Value>); N]) -> Value {
        let mut spec = patch([
            ("type", Some(kind.into())),
            ("uplink", Some(self.uplink.as_str().into())),
            ("bridge", self.bridge.as_deref().map(Value::from)),
        ]);
        spec.extend(patch(own));
        spec.retain(|_, value| !value.is_null());
        spec.into()
    }
}

impl MasqueradeOptions {
    /// The rule as the API takes it.
    pub(crate) fn spec(&self) -> Value {
        self.common.spec(
            "masquerade",
            [
                ("from", Some(self.from.as_str().into())),
                ("pool", setting(&self.pool)),
                ("ports", setting(&self.ports)),
                ("filtering", named(self.filtering)),
                ("nat66", self.nat66.then_some(Value::Bool(true))),
            ],
        )
    }
}

impl PublishOptions {
    /// The rule as the API takes it.
    pub(crate) fn spec(&self) -> Value {
        self.common.spec(
            "publish",
            [
                ("proto", named(Some(self.proto))),
                ("port", Some(json!(self.port))),
                ("to", Some(json!(self.to))),
                ("external", self.external.as_deref().map(Value::from)),
            ],
        )
    }
}

impl StaticOptions {
    /// The rule as the API takes it.
    pub(crate) fn spec(&self) -> Value {
        self.common.spec(
            "static",
            [
                ("inside", Some(self.inside.as_str().into())),
                ("external", Some(self.external.as_str().into())),
            ],
        )
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum MasqueradeCommand {
    /// Let hosts inside reach the world under an address of an uplink
    #[command(after_help = "Examples:
  trunkline nat masquerade add --from 10.77.0.0/24 --uplink up0
  trunkline nat masquerade add --from 10.77.0.0/24 --uplink up0 --pool 192.0.2.20-192.0.2.23 --ports 1024-65535
  trunkline nat masquerade add --from 10.77.0.0/24 --uplink up0 --filtering endpoint-independent
  trunkline nat masquerade add --from fd77::/64 --uplink up0 --nat66")]
    Add(Box<MasqueradeOptions>),
    /// Remove a masquerade by what it says
    #[command(after_help = "Example:
  trunkline nat masquerade del --from 10.77.0.0/24 --uplink up0")]
    Del {
        /// Hosts inside
        #[arg(long, value_name = "PREFIX")]
        from: String,
        /// The uplink
        #[arg(long, value_name = "UPLINK")]
        uplink: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum PublishCommand {
    /// Lead a port of an external address to a host inside
    #[command(after_help = "Examples:
  trunkline nat publish add --uplink up0 --proto tcp --port 8080 --to 10.77.0.2:80
  trunkline nat publish add --uplink up0 --proto udp --port 5000-5009 --to 10.77.0.2
  trunkline nat publish add --uplink up0 --proto tcp --port 443 --to [fd77::2]:443")]
    Add(Box<PublishOptions>),
    /// Remove a published port by what it says
    #[command(after_help = "Example:
  trunkline nat publish del --proto tcp --port 8080")]
    Del {
        /// Of which protocol
        #[arg(long, value_name = "PROTO")]
        proto: Proto,
        /// External port or range of ports
        #[arg(long, value_name = "PORT[-PORT]", value_parser = ports)]
        port: PortRange,
        /// The uplink
        #[arg(long, value_name = "UPLINK")]
        uplink: Option<String>,
        /// The external address
        #[arg(long, value_name = "ADDRESS")]
        external: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum StaticCommand {
    /// Give a host inside an external address of its own
    #[command(after_help = "Example:
  trunkline nat static add --uplink up0 --inside 10.77.0.2 --external 192.0.2.12")]
    Add(StaticOptions),
    /// Remove a static translation by its external address
    #[command(after_help = "Example:
  trunkline nat static del --external 192.0.2.12")]
    Del {
        /// Its address outside
        #[arg(long, value_name = "ADDRESS")]
        external: String,
        /// The uplink
        #[arg(long, value_name = "UPLINK")]
        uplink: Option<String>,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum NatCommand {
    /// Masquerades: many hosts behind few addresses
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline nat masquerade add --from 10.77.0.0/24 --uplink up0
  trunkline nat masquerade del --from 10.77.0.0/24")]
    Masquerade(MasqueradeCommand),
    /// Published ports
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline nat publish add --uplink up0 --proto tcp --port 8080 --to 10.77.0.2:80
  trunkline nat publish del --proto tcp --port 8080")]
    Publish(PublishCommand),
    /// 1:1 translations
    #[command(subcommand)]
    #[command(after_help = "Examples:
  trunkline nat static add --uplink up0 --inside 10.77.0.2 --external 192.0.2.12
  trunkline nat static del --external 192.0.2.12")]
    Static(StaticCommand),
    /// Remove a rule by its name; its connections end
    #[command(after_help = "Example:
  trunkline nat del publish-tcp-8080")]
    Del {
        /// Name of the rule
        #[arg(value_name = "NAME")]
        name: String,
    },
    /// List the rules with what they have done
    #[command(after_help = "Examples:
  trunkline nat list
  trunkline nat list --json")]
    List(Json),
}

/// Which connections.
#[derive(Args, Debug, Default)]
pub(crate) struct CtOptions {
    /// tcp, udp, icmp, icmpv6 or a protocol number
    #[arg(short = 'p', long, value_name = "PROTO")]
    pub(crate) proto: Option<String>,
    /// Source of its first packet, before translation: an address or prefix
    #[arg(short = 's', long, visible_alias = "orig-src", value_name = "PREFIX")]
    pub(crate) src: Option<String>,
    /// Destination of its first packet, before translation: an address or prefix
    #[arg(short = 'd', long, visible_alias = "orig-dst", value_name = "PREFIX")]
    pub(crate) dst: Option<String>,
    /// Source port of its first packet
    #[arg(long, visible_alias = "orig-port-src", value_name = "PORT")]
    pub(crate) sport: Option<u16>,
    /// Destination port of its first packet
    #[arg(long, visible_alias = "orig-port-dst", value_name = "PORT")]
    pub(crate) dport: Option<u16>,
    /// The bridge of the host inside: its zone
    #[arg(long, visible_alias = "zone", value_name = "BRIDGE")]
    pub(crate) bridge: Option<String>,
    /// The uplink
    #[arg(long, value_name = "UPLINK")]
    pub(crate) uplink: Option<String>,
    /// The host inside: an address or prefix
    #[arg(long, value_name = "PREFIX")]
    pub(crate) inside: Option<String>,
    /// The other end: an address or prefix
    #[arg(long, value_name = "PREFIX")]
    pub(crate) remote: Option<String>,
    /// Any of its addresses: an address or prefix
    #[arg(long, value_name = "PREFIX")]
    pub(crate) address: Option<String>,
    /// Any of its ports
    #[arg(long, value_name = "PORT")]
    pub(crate) port: Option<u16>,
    /// The NAT rule
    #[arg(long, visible_alias = "nat-rule", value_name = "NAME")]
    pub(crate) nat: Option<String>,
    /// opening, established, closing, time-wait or reset
    #[arg(long, value_name = "STATE")]
    pub(crate) state: Option<String>,
}

impl CtOptions {
    /// As the API takes it.
    pub(crate) fn filter(self) -> CtFilter {
        let CtOptions {
            proto,
            src,
            dst,
            sport,
            dport,
            bridge,
            uplink,
            inside,
            remote,
            address,
            port,
            nat,
            state,
        } = self;
        CtFilter { proto, src, dst, sport, dport, bridge, uplink, inside, remote, address, port, nat, state }
    }
}

/// Settings of connection tracking.
#[derive(Args, Debug, Default)]
pub(crate) struct CtSettings {
    /// Most connections over all workers [default: 262144]
    #[arg(long, value_name = "N", value_parser = number, help_heading = "Limits")]
    pub(crate) limit: Option<Setting>,
    /// Most connections of one host inside [default: a quarter of the limit]
    #[arg(long, value_name = "N", value_parser = number, help_heading = "Limits")]
    pub(crate) source_limit: Option<Setting>,
    /// Most external ports of one host inside [default: a quarter of the limit]
    #[arg(long, value_name = "N", value_parser = number, help_heading = "Limits")]
    pub(crate) source_ports: Option<Setting>,
    /// Without packets until UDP is forgotten [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = number, help_heading = "Timeouts")]
    pub(crate) udp_timeout: Option<Setting>,
    /// Until established TCP is forgotten [default: 7440]
    #[arg(long, value_name = "SECONDS", value_parser = number, help_heading = "Timeouts")]
    pub(crate) tcp_timeout: Option<Setting>,
    /// Until TCP is forgotten that opens, closes or was reset [default: 240]
    #[arg(long, value_name = "SECONDS", value_parser = number, help_heading = "Timeouts")]
    pub(crate) tcp_transitory_timeout: Option<Setting>,
    /// Until ICMP queries are forgotten [default: 60]
    #[arg(long, value_name = "SECONDS", value_parser = number, help_heading = "Timeouts")]
    pub(crate) icmp_timeout: Option<Setting>,
    /// Until protocols without ports are forgotten [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = number, help_heading = "Timeouts")]
    pub(crate) other_timeout: Option<Setting>,
    /// From the first piece of a fragmented packet to its last [default: 30]
    #[arg(long, value_name = "SECONDS", value_parser = number, help_heading = "Timeouts")]
    pub(crate) fragment_timeout: Option<Setting>,
    /// Pass TCP segments outside the window [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Behaviour")]
    pub(crate) liberal: Option<bool>,
    /// Take up TCP connections in the middle, as after a restart [default: true]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Behaviour")]
    pub(crate) pickup: Option<bool>,
    /// Rather refuse a flow than share an external port [default: false]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Behaviour")]
    pub(crate) strict_eim: Option<bool>,
    /// Who outside may answer, of masquerades that do not say [default: address-and-port]
    #[arg(long, value_name = "WHO", help_heading = "Behaviour")]
    pub(crate) filtering: Option<Filtering>,
}

impl CtSettings {
    /// The settings as a JSON merge patch.
    pub(crate) fn patch(&self) -> Map<String, Value> {
        patch([
            ("limit", setting(&self.limit)),
            ("source-limit", setting(&self.source_limit)),
            ("source-ports", setting(&self.source_ports)),
            ("udp-timeout", setting(&self.udp_timeout)),
            ("tcp-timeout", setting(&self.tcp_timeout)),
            ("tcp-transitory-timeout", setting(&self.tcp_transitory_timeout)),
            ("icmp-timeout", setting(&self.icmp_timeout)),
            ("other-timeout", setting(&self.other_timeout)),
            ("fragment-timeout", setting(&self.fragment_timeout)),
            ("liberal", flag(self.liberal)),
            ("pickup", flag(self.pickup)),
            ("strict-eim", flag(self.strict_eim)),
            ("filtering", named(self.filtering)),
        ])
    }
}

#[derive(Subcommand, Debug)]
pub(crate) enum CtCommand {
    /// List the connections
    #[command(after_help = "Examples:
  trunkline ct list
  trunkline ct list --proto tcp --inside 10.77.0.2 --state established
  trunkline ct list --nat publish-tcp-8080 --json")]
    List {
        #[command(flatten)]
        filter: CtOptions,
        #[command(flatten)]
        json: Json,
    },
    /// Show how many connections there are, and how many there may be
    #[command(after_help = "Examples:
  trunkline ct count
  trunkline ct count --inside 10.77.0.0/24 --json")]
    Count {
        #[command(flatten)]
        filter: CtOptions,
        #[command(flatten)]
        json: Json,
    },
    /// Forget connections, all of them without a filter
    #[command(after_help = "Examples:
  trunkline ct flush --inside 10.77.0.2
  trunkline ct flush")]
    Flush {
        #[command(flatten)]
        filter: CtOptions,
    },
    /// Show or change limits, timeouts and behaviour
    #[command(after_help = "Examples:
  trunkline ct settings
  trunkline ct settings --limit 500000 --udp-timeout 600
  trunkline ct settings --strict-eim --filtering endpoint-independent
  trunkline ct settings --limit none

'none' goes back to the default.")]
    Settings {
        #[command(flatten)]
        settings: Box<CtSettings>,
        #[command(flatten)]
        json: Json,
    },
}

#[derive(Subcommand, Debug)]
pub(crate) enum NeighbourCommand {
    /// List the neighbours of the switch: which MAC address an address has
    #[command(after_help = "Examples:
  trunkline neighbour list
  trunkline neighbour list --json")]
    List(Json),
}

#[derive(Subcommand, Debug)]
pub(crate) enum DhcpCommand {
    /// List the leases, and what is reserved
    #[command(after_help = "Examples:
  trunkline dhcp leases
  trunkline dhcp leases --json")]
    Leases(Json),
}
