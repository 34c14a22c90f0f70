//! The commands, one module each.

pub(crate) mod append;
pub(crate) mod blobs;
pub(crate) mod call;
pub(crate) mod changelog;
pub(crate) mod event;
pub(crate) mod get;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod log;
pub(crate) mod metrics;
pub(crate) mod services;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod stdin;
pub(crate) mod verify;

use crate::args::Command;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;

/// Runs a command that talks to services.
pub(crate) async fn online(ctx: &Ctx, out: &mut Out, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Up => Box::pin(crate::supervise::run(ctx, out)).await,
        Command::Status => Box::pin(status::run(ctx, out)).await,
        Command::Log(args) => Box::pin(log::run(ctx, out, args)).await,
        Command::Append(args) => Box::pin(append::run(ctx, out, args)).await,
        Command::Get(args) => Box::pin(get::run(ctx, out, args)).await,
        Command::Changelog(args) => Box::pin(changelog::run(ctx, out, args)).await,
        Command::Import(args) => Box::pin(import::run(ctx, out, args)).await,
        Command::Blobs { verb } => Box::pin(blobs::run(ctx, out, verb)).await,
        Command::Call(args) => Box::pin(call::run(ctx, out, args)).await,
        Command::Metrics { service } => Box::pin(metrics::run(ctx, out, service)).await,
        other => Err(Failure::bug(format!("{other:?} is no command for services"))),
    }
}
