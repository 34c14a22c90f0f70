//! The commands, one module each.

pub(crate) mod agents;
pub(crate) mod append;
pub(crate) mod blobs;
pub(crate) mod bus;
pub(crate) mod call;
pub(crate) mod changelog;
pub(crate) mod doctor;
pub(crate) mod event;
pub(crate) mod get;
pub(crate) mod halt;
pub(crate) mod import;
pub(crate) mod init;
pub(crate) mod install;
pub(crate) mod job;
pub(crate) mod keys;
pub(crate) mod log;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod notify;
pub(crate) mod passphrase;
pub(crate) mod pulse;
pub(crate) mod recover;
pub(crate) mod remedies;
pub(crate) mod schedule;
pub(crate) mod services;
pub(crate) mod shell;
pub(crate) mod status;
pub(crate) mod stdin;
pub(crate) mod witness;

use crate::args::Command;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::Out;

/// Runs a command that talks to services.
pub(crate) async fn online(ctx: &Ctx, out: &mut Out, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Up => Box::pin(crate::supervise::run(ctx, out)).await,
        Command::Install(args) => Box::pin(install::install(ctx, out, args)).await,
        Command::Uninstall => Box::pin(install::uninstall(ctx, out)).await,
        Command::Start(args) => Box::pin(agents::start(ctx, out, args)).await,
        Command::Stop(args) => Box::pin(agents::stop(ctx, out, args)).await,
        Command::Restart(args) => Box::pin(agents::restart(ctx, out, args)).await,
        Command::Logs(args) => Box::pin(logs::run(ctx, out, args)).await,
        Command::Doctor => Box::pin(doctor::run(ctx, out)).await,
        Command::Status => Box::pin(status::run(ctx, out)).await,
        Command::Log(args) => Box::pin(log::run(ctx, out, args)).await,
        Command::Append(args) => Box::pin(append::run(ctx, out, args)).await,
        Command::Get(args) => Box::pin(get::run(ctx, out, args)).await,
        Command::Changelog(args) => Box::pin(changelog::run(ctx, out, args)).await,
        Command::Import(args) => Box::pin(import::run(ctx, out, args)).await,
        Command::Blobs { verb } => Box::pin(blobs::run(ctx, out, verb)).await,
        Command::Call(args) => Box::pin(call::run(ctx, out, args)).await,
        Command::Pulse(args) => Box::pin(pulse::run(ctx, out, args)).await,
        Command::Halt(args) => Box::pin(halt::run(ctx, out, args)).await,
        Command::Keys(args) => Box::pin(keys::run(ctx, out, args)).await,
        Command::Checkpoint(args) => Box::pin(witness::checkpoint(ctx, out, args)).await,
        Command::Witness(args) => Box::pin(witness::witness(ctx, out, args)).await,
        Command::Schedule(args) => Box::pin(schedule::run(ctx, out, args)).await,
        Command::Notify(args) => Box::pin(notify::run(ctx, out, args)).await,
        Command::Remedies(args) => Box::pin(remedies::run(ctx, out, args)).await,
        Command::Metrics { service } => Box::pin(metrics::run(ctx, out, service)).await,
        other => Err(Failure::bug(format!("{other:?} is no command for services"))),
    }
}
