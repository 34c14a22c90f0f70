//! `mirror job`: runs one job as this process, as its definition has it.

use std::os::unix::process::CommandExt as _;
use std::process::ExitCode;

use mirror_errors::Kind;

use crate::app::app;
use crate::ctx::Ctx;
use crate::failure::{EXIT_DAMAGE, Failure};

pub(crate) fn run(ctx: &Ctx, name: &str) -> Result<(), Failure> {
    let Some(job) = app().job(name) else {
        let known: Vec<&str> = app().jobs.iter().map(|j| j.decl.name).collect();
        return Err(Failure::new(Kind::NotFound, "CLI_JOB_UNKNOWN", format!("there is no job {name:?}"))
            .hint(format!("jobs: {}", known.join(", "))));
    };
    let home = ctx.home()?;
    // A job reads the environment, as every service does; the argument has to become that.
    if std::env::var_os("MIRROR_HOME").as_deref() != Some(home.root().as_os_str()) {
        let mut command = std::process::Command::new(ctx.exe()?);
        let error = command.arg0("mirror").args(["job", name]).env("MIRROR_HOME", home.root()).exec();
        return Err(Failure::bug(format!("the job {name} cannot be started: {error}")));
    }
    if mirror_kit::run_job(app(), job) == ExitCode::SUCCESS {
        Ok(())
    } else {
        Err(Failure::Said(EXIT_DAMAGE))
    }
}
