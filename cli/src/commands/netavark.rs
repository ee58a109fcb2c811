//! `trunkline netavark`: the network driver of podman, by netavark's plugin API (containers/netavark,
//! plugin-API.md): a command for each step, JSON on stdin and stdout.
//!
//! Podman's own IPAM chooses the addresses; what is asked for here is an attachment (`POST /v1/attachments`).

mod plan;
mod types;

use std::io::{self, Read as _};
use std::path::Path;

use serde_json::{Value, json};
use trunkline_control::model::attach::attachment_id;
use trunkline_control::model::{Owner, PortKind};
use trunkline_control::{Error, ErrorKind, Result};

use super::{Context, Failure, Outcome};
use crate::args::NetavarkCommand;
use types::Exec;

/// Of the plugin API.
const API_VERSION: &str = "1.0.0";
/// Podman's description of a network is far smaller.
const MAX_INPUT: u64 = 4 << 20;

pub(super) async fn run(context: &Context<'_>, command: Option<NetavarkCommand>) -> Outcome {
    let answer = match command.unwrap_or(NetavarkCommand::Info) {
        NetavarkCommand::Info => {
            Ok(Some(json!({ "version": env!("CARGO_PKG_VERSION"), "api_version": API_VERSION })))
        }
        NetavarkCommand::Create => read().and_then(plan::create).map(Some),
        NetavarkCommand::Setup { netns } => setup(context, &netns).await.map(Some),
        NetavarkCommand::Teardown { netns: _ } => teardown(context).await.map(|()| None),
    };
    match answer {
        Ok(Some(answer)) => context.out.print(&format!("{answer}\n")),
        Ok(None) => Ok(()),
        // Netavark shows its user what is in here, and nothing of stderr.
        Err(error) => {
            context.out.print(&format!("{}\n", json!({ "error": error.to_string() })))?;
            Err(Failure::Reported)
        }
    }
}

fn read<T: serde::de::DeserializeOwned>() -> Result<T> {
    let mut text = String::new();
    io::stdin()
        .take(MAX_INPUT)
        .read_to_string(&mut text)
        .map_err(|e| Error::failed(format!("cannot read the request: {e}")))?;
    serde_json::from_str(&text).map_err(|e| Error::invalid(format!("not a request of netavark's: {e}")))
}

async fn setup(context: &Context<'_>, netns: &str) -> Result<Value> {
    let exec: Exec = read()?;
    let asked = plan::attach(&exec, netns)?;
    forget(context).await?;
    let made = match context.client.attach(&asked).await {
        // Left from a run of the container whose teardown never came.
        Err(error) if error.kind == ErrorKind::Conflict => {
            context.client.detach(&asked.id()).await?;
            context.client.attach(&asked).await
        }
        made => made,
    }?;
    let mac = made.port.mac.unwrap_or_default();
    Ok(plan::status(&exec, &asked, &mac))
}

/// Podman gives every run of a container a namespace of its own name: one whose file is gone does not come back.
/// Its teardown was lost, in a crash or with the machine's last boot.
async fn forget(context: &Context<'_>) -> Result<()> {
    for old in context.client.attachments().await? {
        let PortKind::Tap(tap) = &old.port.spec.kind else { continue };
        let gone = tap.netns.as_ref().is_some_and(|netns| !Path::new(netns).exists());
        if old.attachment.owner == Owner::Podman && gone {
            context.client.detach(&old.id).await?;
        }
    }
    Ok(())
}

/// Podman may ask for it twice, and after the namespace has gone.
async fn teardown(context: &Context<'_>) -> Result<()> {
    let exec: Exec = read()?;
    let Exec { container_id, network, network_options, .. } = &exec;
    let id = attachment_id(Owner::Podman, &network.name, container_id, &network_options.interface_name);
    context.client.detach(&id).await
}
