//! What CNI and podman have attached.

use trunkline_control::model::attach::AttachmentStatus;

use super::docker::{published, short};
use super::{Context, Outcome, topology};
use crate::args::Json;
use crate::output::{Look, Output, Table};

pub(super) async fn list(context: &Context<'_>, json: Json) -> Outcome {
    let all = context.client.attachments().await?;
    if json.json { context.out.json(&all) } else { context.out.print(&table(&all, context.out)) }
}

fn table(all: &[AttachmentStatus], out: &Output) -> String {
    let mut table = Table::new(&[
        "CONTAINER",
        "INTERFACE",
        "NETWORK",
        "BRIDGE",
        "PORT",
        ">VLAN",
        "STATE",
        "ADDRESSES",
        "PUBLISHED",
    ]);
    for status in all {
        let plain = |text: String| (Look::Plain, text);
        let (attachment, port) = (&status.attachment, &status.port);
        let id = &attachment.container;
        table.row([
            // As long ones are shown elsewhere; others may be told apart by their ends only.
            plain(if id.len() == 64 { short(id) } else { id.clone() }),
            plain(port.ifname.clone().unwrap_or_default()),
            plain(attachment.network.clone()),
            plain(status.network.bridge.clone()),
            plain(port.name.clone()),
            plain(topology::vlan(&port.spec)),
            topology::state(port.state),
            plain(topology::addresses(&port.spec)),
            plain(published(&attachment.published)),
        ]);
        if !port.reason.is_empty() {
            table.note(Look::Bad, &port.reason);
        }
    }
    table.render(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::commands::topology::samples;

    #[test]
    fn attachments_are_shown_with_their_ports() {
        let port = samples::ports().remove(0);
        let status: AttachmentStatus = serde_json::from_value(json!({
            "id": "cni:net1:c:eth0", "port": port, "network": {"bridge": "br0"},
            "attachment": {"owner": "cni", "network": "cni:net1", "container": "c".repeat(64), "port": "web",
                "publish": [{"proto": "tcp", "port": 8080, "to": 80, "link": 8080}]}
        }))
        .unwrap();
        let text = table(&[status], &Output::new());
        for says in ["cccccccccccc ", "cni:net1", "br0", "0.0.0.0:8080->80/tcp"] {
            assert!(text.contains(says), "{says} in {text}");
        }
    }
}
