//! What each command does.

mod attachments;
mod bench;
mod bridge;
mod container;
mod counters;
mod ct;
mod daemon;
mod docker;
mod fdb;
mod files;
mod gateway;
mod mesh;
mod meta;
mod nat;
mod netavark;
mod port;
mod topology;
mod tunnel;
mod uplink;

use std::io;

use trunkline_control::client::Client;
use trunkline_control::{Error, ErrorKind};

use crate::args::{Cli, CniCommand, Command};
use crate::output::Output;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Something to tell the user.
    Said(Error),
    /// Something that was told on stdout, as the caller wants it.
    Reported,
    /// Nobody reads our output any more.
    PipeClosed,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Said(error)
    }
}

impl Failure {
    pub(crate) fn from_write(error: io::Error) -> Failure {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::PipeClosed,
            _ => Failure::Said(Error::failed(format!("cannot write the output: {error}"))),
        }
    }
}

type Outcome = Result<(), Failure>;

/// What commands that talk to the daemon have.
struct Context<'a> {
    client: Client,
    out: &'a Output,
}

/// Carries out the command line.
pub(crate) fn run(cli: Cli, out: &Output) -> Outcome {
    let context = Context { client: Client::new(&cli.run_dir), out };
    match cli.command {
        Command::Daemon(args) => daemon::run(cli.run_dir, cli.state_dir, args),
        Command::Keeper => daemon::keeper(&cli.run_dir),
        Command::Bench(args) => bench::run(&cli.run_dir, args, out),
        Command::Cni { command: None } => crate::cni::run().then_some(()).ok_or(Failure::Reported),
        Command::Cni { command: Some(CniCommand::Install { dir, copy }) } => {
            Ok(crate::cni::install(&dir, copy)?)
        }
        Command::Completions { shell } => meta::completions(shell, out),
        Command::Man { dir } => meta::man(&dir),
        command => wait(talk(&context, command)),
    }
}

async fn talk(context: &Context<'_>, command: Command) -> Outcome {
    match command {
        Command::Bridge(command) => bridge::run(context, command).await,
        Command::Port(command) => port::run(context, command).await,
        Command::Mesh(command) => mesh::run(context, command).await,
        Command::Gateway(command) => gateway::run(context, command).await,
        Command::Uplink(command) => uplink::run(context, command).await,
        Command::Route(command) => uplink::route(context, command).await,
        Command::Nat(command) => nat::run(context, command).await,
        Command::Ct(command) => ct::run(context, command).await,
        Command::Neighbour(command) => uplink::neighbour(context, command).await,
        Command::Dhcp(command) => gateway::dhcp(context, command).await,
        Command::Fdb(command) => fdb::run(context, command).await,
        Command::Show(json) => topology::show(context, json).await,
        Command::Stats(args) => counters::stats(context, args).await,
        Command::Drops(args) => counters::drops(context, args).await,
        Command::Container(command) => container::run(context, command).await,
        Command::Docker(command) => docker::run(context, command).await,
        Command::Netavark { command } => netavark::run(context, command).await,
        Command::Cni { command: Some(CniCommand::List(json)) } => attachments::list(context, json).await,
        Command::Apply(args) => files::apply(context, args).await,
        Command::Export(json) => files::export(context, json).await,
        Command::Watch(json) => topology::watch(context, json).await,
        Command::Stop { release } => Ok(context.client.stop(release).await?),
        Command::Bench(_)
        | Command::Daemon(_)
        | Command::Keeper
        | Command::Cni { .. }
        | Command::Completions { .. }
        | Command::Man { .. } => {
            unreachable!("these talk to no daemon")
        }
    }
}

/// Pairs of words and values, one a line; those without a value are left out.
fn in_lines(lines: &[(&str, String)]) -> String {
    let width = 12;
    lines.iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| format!("{k:width$}{v}\n")).collect()
}

/// Runs a future on this thread.
fn wait(future: impl Future<Output = Outcome>) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Error::new(ErrorKind::Failed, format!("cannot start: {e}")))?;
    runtime.block_on(future)
}
