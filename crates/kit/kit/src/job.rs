//! Running a job: a process that does one thing at its time, says how it went, and ends.

use std::future::Future;
use std::pin::Pin;
use std::process::ExitCode;
use std::time::Duration;

use mirror_client::{Channel, channel};
use mirror_errors::Chain;
use mirror_paths::Home;
use serde::{Deserialize, Serialize};

use crate::decl::JobDecl;
use crate::home;
use crate::logs::{self, RollingFile};
use crate::run::{App, EXIT_FAILED, Env, is_stopped, supervised};

/// What a job returns: what it did, or why it failed, one sentence.
pub type Working = Pin<Box<dyn Future<Output = Result<String, String>> + Send>>;

/// A job: its declaration and what it does.
#[derive(Debug, Clone, Copy)]
pub struct Job {
    /// The declaration.
    pub decl: &'static JobDecl,
    /// Does it.
    pub run: fn(JobContext) -> Working,
}

/// What a job works with.
#[derive(Debug, Clone)]
pub struct JobContext {
    env: Env,
}

impl JobContext {
    /// Returns the home.
    pub fn home(&self) -> &Home {
        &self.env.home
    }

    /// Returns what the job has in common with the services.
    pub fn env(&self) -> &Env {
        &self.env
    }

    /// Returns a channel to a service, as a local caller.
    pub fn channel(&self, service: &str) -> Channel {
        channel(std::sync::Arc::clone(&self.env.dial), service)
    }
}

/// How a job went the last time; `run/job.<name>.last`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// When it began, in milliseconds since 1970.
    pub began_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended_ms: u64,
    /// Whether it succeeded.
    pub ok: bool,
    /// What it did, or why it failed.
    pub detail: String,
}

/// Returns how a job went the last time, if it ever ran to its end.
pub fn last_run(home: &Home, job: &str) -> Option<LastRun> {
    serde_json::from_str(&std::fs::read_to_string(path(home, job)).ok()?).ok()
}

fn path(home: &Home, job: &str) -> std::path::PathBuf {
    home.run().join(format!("job.{job}.last"))
}

/// Runs one job as the whole process. It exits with 0 when the job succeeded.
///
/// One that the owner stopped does nothing at its times; whoever runs it by hand wants it now.
pub fn run_job(app: &'static App, job: &'static Job) -> ExitCode {
    let prepared = prepare(app, job.decl);
    if let Ok(env) = &prepared
        && supervised()
        && is_stopped(&env.home, &job.decl.agent())
    {
        return ExitCode::SUCCESS;
    }
    match prepared.and_then(|env| work(env, job)) {
        Ok(detail) => {
            tracing::info!(job = job.decl.name, detail, "done");
            ExitCode::SUCCESS
        }
        Err(why) => complain(job.decl.name, &why),
    }
}

#[expect(clippy::print_stderr, reason = "there may be no log yet, and a person may have started it")]
fn complain(job: &str, why: &str) -> ExitCode {
    tracing::error!(job, why, "failed");
    eprintln!("mirror job {job}: {why}");
    ExitCode::from(EXIT_FAILED)
}

fn prepare(app: &'static App, decl: &JobDecl) -> Result<Env, String> {
    let failed = |e: &dyn std::error::Error| Chain(e).to_string();
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false).map_err(|e| failed(&e))?;
    let home = Home::from_env().map_err(|e| failed(&e))?;
    home::init(&home).map_err(|e| failed(&e))?;
    let log = RollingFile::open(home.log().join(format!("{}.log", decl.agent()))).map_err(|e| failed(&e))?;
    logs::install(log);
    Ok(app.env(home))
}

fn work(env: Env, job: &Job) -> Result<String, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| format!("cannot start the executor: {e}"))?;
    let limit = Duration::from_secs(u64::from(job.decl.limit_secs));
    let began_ms = env.clock.wall_ms();
    let working = (job.run)(JobContext { env: env.clone() });
    let result = runtime
        .block_on(async { tokio::time::timeout(limit, working).await })
        .unwrap_or_else(|_| Err(format!("it took longer than {} s", limit.as_secs())));
    runtime.shutdown_background();
    let (ok, detail) = match &result {
        Ok(detail) => (true, detail.clone()),
        Err(why) => (false, why.clone()),
    };
    let last = LastRun { began_ms, ended_ms: env.clock.wall_ms(), ok, detail };
    let text = serde_json::to_string(&last).unwrap_or_default();
    if let Err(e) = mirror_paths::write_atomic(&path(&env.home, job.decl.name), text.as_bytes()) {
        tracing::warn!(error = %e, "how the job went cannot be written down");
    }
    result
}
