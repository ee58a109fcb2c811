//! The options of ports: of `port add`, `port set` and `container attach` alike.

use clap::{Args, ValueEnum};
use serde_json::{Map, Value, json};
use trunkline_control::model::guard::Allow;
use trunkline_control::model::keys::{parse_address, parse_gateway};

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PortType {
    /// A TAP interface, usually a container's eth0
    Tap,
    /// The bridge's own interface in the daemon's namespace
    Host,
    /// An existing interface (veth, NIC) taken over
    Afpacket,
    /// Frames from a pcap file
    Replay,
    /// Takes every frame and delivers none
    Null,
    /// A tunnel: Ethernet in GRE
    Gre,
    /// A tunnel: VXLAN (RFC 7348)
    Vxlan,
    /// A tunnel: Geneve (RFC 8926)
    Geneve,
    /// A tunnel: NVGRE (RFC 7637)
    Nvgre,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum VlanMode {
    /// One VLAN, untagged
    Access,
    /// Several VLANs, tagged
    Trunk,
    /// A trunk with a native VLAN that leaves tagged
    NativeTagged,
    /// A trunk with a native VLAN that leaves untagged
    NativeUntagged,
    /// 802.1ad provider port
    Dot1qTunnel,
    /// As --vlan and --trunks say
    None,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub(crate) enum Offload {
    /// All that the kernel offers
    Auto,
    /// Software segmentation and full checksums towards the port
    Off,
}

/// A value, or 'none' to take the setting away.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Setting {
    None,
    To(Value),
}

pub(super) fn text(s: &str) -> Result<Setting, String> {
    Ok(if s == "none" { Setting::None } else { Setting::To(s.into()) })
}

pub(super) fn number(s: &str) -> Result<Setting, String> {
    match s {
        "none" => Ok(Setting::None),
        _ => s.parse::<u64>().map(|n| Setting::To(n.into())).map_err(|_| "it is not a number".to_owned()),
    }
}

pub(super) fn address(s: &str) -> Result<Setting, String> {
    match s {
        "none" => Ok(Setting::None),
        _ => parse_address(s).map(|a| Setting::To(a.to_string().into())).map_err(|e| e.to_string()),
    }
}

pub(super) fn gateway(s: &str) -> Result<Setting, String> {
    match s {
        "none" => Ok(Setting::None),
        _ => parse_gateway(s).map(|a| Setting::To(a.to_string().into())).map_err(|e| e.to_string()),
    }
}

fn allow(s: &str) -> Result<Setting, String> {
    match s {
        "none" => Ok(Setting::None),
        _ => s.parse::<Allow>().map(|a| Setting::To(a.to_string().into())),
    }
}

/// A path that the daemon understands too, which runs in another directory.
fn path(s: &str) -> Result<Setting, String> {
    let path = std::path::absolute(s).map_err(|e| e.to_string())?;
    let text = path.to_str().ok_or("it is not UTF-8")?;
    Ok(Setting::To(text.into()))
}

fn namespace(s: &str) -> Result<Setting, String> {
    if s.contains('/') { path(s) } else { text(s) }
}

fn label(s: &str) -> Result<(String, Setting), String> {
    let (key, value) = s.split_once('=').ok_or("write it as KEY=VALUE, or KEY= to take it away")?;
    let value = if value.is_empty() { Setting::None } else { Setting::To(value.into()) };
    Ok((key.to_owned(), value))
}

/// Everything that can be said of a port besides its name, bridge and type.
#[derive(Args, Debug, Default)]
pub(crate) struct PortOptions {
    /// VLAN of an access, native or tunnel port, 1 to 4094
    #[arg(long, value_name = "VLAN", value_parser = number, help_heading = "VLAN")]
    pub(crate) vlan: Option<Setting>,
    /// VLANs of a trunk or native port, like 10,20-30 [default: all]
    #[arg(long, value_name = "VLANS", value_parser = text, help_heading = "VLAN")]
    pub(crate) trunks: Option<Setting>,
    /// How tags are treated [default: access with --vlan alone, native-tagged with --vlan and --trunks, else trunk]
    #[arg(long, value_name = "MODE", help_heading = "VLAN")]
    pub(crate) vlan_mode: Option<VlanMode>,

    /// Exchange frames only with ports that are not isolated
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Bridging")]
    pub(crate) isolated: Option<bool>,
    /// Exchange no frames with ports of the same group
    #[arg(long, value_name = "N", value_parser = number, help_heading = "Bridging")]
    pub(crate) split_horizon_group: Option<Setting>,
    /// Do not learn addresses here
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Bridging")]
    pub(crate) no_learning: Option<bool>,
    /// Do not flood to here
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "Bridging")]
    pub(crate) no_flood: Option<bool>,
    /// Most addresses learned here; 0: the bridge's limit alone
    #[arg(long, value_name = "N", value_parser = number, help_heading = "Bridging")]
    pub(crate) max_macs: Option<Setting>,
    /// Most flooded frames taken from here per second; 0: no limit
    #[arg(long, value_name = "N", value_parser = number, help_heading = "Bridging")]
    pub(crate) flood_limit: Option<Setting>,
    /// Hold it to what the host behind it may use, repeatable: 'own' (the MAC address and addresses given here), a
    /// MAC address, an address or prefix, 'dhcp' (what DHCP gives it); 'none': anything
    #[arg(long, value_name = "WHAT", value_parser = allow, help_heading = "Bridging")]
    pub(crate) anti_spoof: Vec<Setting>,
    /// Whether superframes and partial checksums are passed to it
    #[arg(long, value_name = "MODE", help_heading = "Bridging")]
    pub(crate) offload: Option<Offload>,
    /// A free word about the port, repeatable
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = label, help_heading = "Bridging")]
    pub(crate) labels: Vec<(String, Setting)>,

    /// Namespace of the interface: a name as in 'ip netns', a path, or a pid [default: the daemon's]
    #[arg(long, value_name = "NETNS", value_parser = namespace, help_heading = "tap")]
    pub(crate) netns: Option<Setting>,
    /// Take over an existing persistent TAP in the daemon's namespace
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "tap")]
    pub(crate) adopt: Option<bool>,

    /// Name of the interface [default: the port's name]
    #[arg(long, value_name = "IFNAME", value_parser = text, help_heading = "tap and host")]
    pub(crate) ifname: Option<Setting>,
    /// Address with prefix length, v4 or v6, repeatable
    #[arg(long = "address", value_name = "ADDRESS", value_parser = address, help_heading = "tap and host")]
    pub(crate) addresses: Vec<Setting>,
    /// Default gateway, one of each family
    #[arg(long = "gateway", value_name = "ADDRESS", value_parser = gateway, help_heading = "tap and host")]
    pub(crate) gateways: Vec<Setting>,
    /// MAC address of the interface [default: drawn once and kept]
    #[arg(long, value_name = "MAC", value_parser = text, help_heading = "tap and host")]
    pub(crate) mac: Option<Setting>,
    /// MTU of the interface [default: 1500, or what the bridge's tunnels take]; of a tunnel, its longest inner
    /// packet [default: what the path takes]
    #[arg(long, value_name = "BYTES", value_parser = number, help_heading = "tap and host")]
    pub(crate) mtu: Option<Setting>,
    /// Queues of the interface, 1 to 256 [default: 1]
    #[arg(long, value_name = "N", value_parser = number, help_heading = "tap and host")]
    pub(crate) queues: Option<Setting>,

    /// The interface to take over [default: named like the port]
    #[arg(long, value_name = "IF", value_parser = text, help_heading = "afpacket")]
    pub(crate) interface: Option<Setting>,
    /// Take the interface even though it carries addresses
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", help_heading = "afpacket")]
    pub(crate) force: Option<bool>,

    /// The pcap file
    #[arg(long, value_name = "FILE", value_parser = path, help_heading = "replay")]
    pub(crate) file: Option<Setting>,
    /// Frames per second; 0: as fast as possible
    #[arg(long, value_name = "N", value_parser = number, help_heading = "replay")]
    pub(crate) rate: Option<Setting>,
    /// How often to play the file; 0: without end
    #[arg(long, value_name = "N", value_parser = number, help_heading = "replay")]
    pub(crate) count: Option<Setting>,
}

pub(super) fn value_name(value: impl ValueEnum) -> Value {
    value.to_possible_value().map_or(Value::Null, |v| v.get_name().into())
}

fn vlan_mode(mode: VlanMode) -> Value {
    if matches!(mode, VlanMode::None) { Value::Null } else { value_name(mode) }
}

/// What an option makes of its key: null to take it away.
pub(super) fn setting(s: &Option<Setting>) -> Option<Value> {
    s.clone().map(|s| match s {
        Setting::None => Value::Null,
        Setting::To(value) => value,
    })
}

/// What `--address` and the like, given any number of times, make of the list.
pub(super) fn list(settings: &[Setting]) -> Option<Value> {
    if settings.is_empty() {
        return None;
    }
    let values = settings.iter().filter_map(|s| match s {
        Setting::None => None,
        Setting::To(value) => Some(value.clone()),
    });
    Some(values.collect())
}

impl PortOptions {
    /// The options as a JSON merge patch of a port's spec: null for what is taken away.
    pub(crate) fn patch(&self) -> Map<String, Value> {
        let flag = |f: Option<bool>| f.map(Value::Bool);
        let labels: Map<String, Value> = self
            .labels
            .iter()
            .map(|(key, value)| (key.clone(), setting(&Some(value.clone())).unwrap_or(Value::Null)))
            .collect();
        let all = [
            ("vlan", setting(&self.vlan)),
            ("trunks", setting(&self.trunks)),
            ("vlan-mode", self.vlan_mode.map(vlan_mode)),
            ("isolated", flag(self.isolated)),
            ("split-horizon-group", setting(&self.split_horizon_group)),
            ("no-learning", flag(self.no_learning)),
            ("no-flood", flag(self.no_flood)),
            ("max-macs", setting(&self.max_macs)),
            ("flood-limit", setting(&self.flood_limit)),
            ("anti-spoof", list(&self.anti_spoof)),
            ("offload", self.offload.map(value_name)),
            ("labels", (!labels.is_empty()).then(|| json!(labels))),
            ("netns", setting(&self.netns)),
            ("adopt", flag(self.adopt)),
            ("ifname", setting(&self.ifname)),
            ("addresses", list(&self.addresses)),
            ("gateways", list(&self.gateways)),
            ("mac", setting(&self.mac)),
            ("mtu", setting(&self.mtu)),
            ("queues", setting(&self.queues)),
            ("interface", setting(&self.interface)),
            ("force", flag(self.force)),
            ("file", setting(&self.file)),
            ("rate", setting(&self.rate)),
            ("count", setting(&self.count)),
        ];
        all.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?))).collect()
    }
}
