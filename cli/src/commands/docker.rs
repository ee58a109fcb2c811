//! `trunkline docker`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use trunkline_control::model::attach::{Network, Published};
use trunkline_control::model::docker::DockerStatus;

use super::{Context, Outcome, in_lines};
use crate::args::DockerCommand;
use crate::output::{Output, Table};

pub(super) async fn run(context: &Context<'_>, command: DockerCommand) -> Outcome {
    let Context { client, out } = context;
    match command {
        DockerCommand::Enable { socket } => {
            client.enable_docker(socket.as_deref()).await?;
        }
        DockerCommand::Disable => client.disable_docker().await?,
        DockerCommand::Status(json) => {
            let status = client.docker().await?;
            return if json.json { out.json(&status) } else { out.print(&show(&status, out)) };
        }
    }
    Ok(())
}

pub(super) fn short(id: &str) -> String {
    id.get(..12).unwrap_or(id).to_owned()
}

pub(super) fn joined<T: ToString>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

fn show(status: &DockerStatus, out: &Output) -> String {
    let served = match (status.serving, status.enabled) {
        (true, _) => "yes",
        (false, true) => "no",
        (false, false) => "no: trunkline docker enable",
    };
    let mut text = in_lines(&[
        ("served", served.to_owned()),
        ("reason", status.reason.clone()),
        ("socket", if status.enabled { status.socket.clone() } else { String::new() }),
    ]);
    if !status.networks.is_empty() {
        let mut table = Table::new(&["NETWORK", "BRIDGE", ">VLAN", "SUBNETS", "GATEWAY", "UPLINK", "NOTES"]);
        for (id, network) in &status.networks {
            table.row([
                short(id),
                network.bridge.clone(),
                network.vlan.map_or_else(|| "-".to_owned(), |vlan| vlan.to_string()),
                joined(&network.subnets),
                if network.internal { "-".to_owned() } else { joined(&network.gateways) },
                network.uplink.clone().unwrap_or_else(|| "-".to_owned()),
                notes(network),
            ]);
        }
        text += &format!("\n{}", table.render(out));
    }
    if !status.endpoints.is_empty() {
        let mut table = Table::new(&["ENDPOINT", "NETWORK", "PORT", "ADDRESSES", "MAC", "PUBLISHED"]);
        for (id, endpoint) in &status.endpoints {
            table.row([
                short(id),
                short(&endpoint.network),
                format!("docker-{}", short(id)),
                joined(&endpoint.addresses),
                endpoint.mac.clone(),
                published(&endpoint.published),
            ]);
        }
        text += &format!("\n{}", table.render(out));
    }
    text
}

fn notes(network: &Network) -> String {
    let mut notes = Vec::new();
    if network.internal {
        notes.push("internal".to_owned());
    }
    if !network.icc {
        notes.push("icc=false".to_owned());
    }
    if network.proxy {
        notes.push("publish=proxy".to_owned());
    }
    notes.extend(network.mtu.map(|mtu| format!("mtu={mtu}")));
    notes.join(" ")
}

/// As `docker ps` would show them.
pub(super) fn published(ports: &[Published]) -> String {
    let one = |p: &Published| {
        let host = SocketAddr::new(p.host.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), p.port);
        format!("{host}->{}/{}", p.to, p.proto.name())
    };
    ports.iter().map(one).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn networks_and_published_ports_are_shown() {
        let status = json!({
            "enabled": true, "serving": true, "socket": "/run/docker/plugins/trunkline.sock",
            "networks": {"0123456789abcdef": {"bridge": "br0", "vlan": 10, "subnets": ["10.77.0.0/24"],
                "gateways": ["10.77.0.1"], "icc": false, "uplink": "docker"}},
            "endpoints": {"fedcba9876543210": {"network": "0123456789abcdef", "addresses": ["10.77.0.2/24"],
                "mac": "02:42:0a:4d:00:02", "publish": [{"proto": "tcp", "port": 8080, "to": 80, "link": 8080}]}}
        });
        let status: DockerStatus = serde_json::from_value(status).unwrap();
        let text = show(&status, &Output::new());
        for says in ["served", "0123456789ab", "icc=false", "0.0.0.0:8080->80/tcp", "docker-fedcba987654"] {
            assert!(text.contains(says), "{says} in {text}");
        }
        let off: DockerStatus = serde_json::from_value(
            json!({"enabled": false, "serving": false, "socket": "/x", "networks": {}, "endpoints": {}}),
        )
        .unwrap();
        assert!(show(&off, &Output::new()).contains("trunkline docker enable"));
    }
}
