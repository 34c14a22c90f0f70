//! `mirror install` and `mirror uninstall`: the agents of this machine, by launchd or systemd.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use mirror_clock::SystemClock;
use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_errors::Kind;
use mirror_kit::desired::Wish;
use mirror_paths::Home;
use mirror_supervisor::install::{Failed, Health, Installed, Installer, Site};
use mirror_supervisor::manager::Put;
use mirror_supervisor::system::System;
use serde_json::json;

use crate::app::app;
use crate::args::InstallArgs;
use crate::binaries::Binaries;
use crate::ctx::{Ctx, up_is_running};
use crate::failure::Failure;
use crate::out::{GOOD, ODD, Out, say};

/// Longest wait for one answer of a service.
const PATIENCE: Duration = Duration::from_secs(1);

/// The binaries of a home, and its services' own word.
struct Place {
    home: Home,
    binaries: Binaries,
}

#[tonic::async_trait]
impl Site for Place {
    fn lay(&self) -> Result<bool, String> {
        self.binaries.lay().map_err(|e| format!("the binaries cannot be put in place: {e}"))
    }

    fn put_back(&self) -> Result<(), String> {
        self.binaries.put_back().map_err(|e| format!("the binaries from before cannot be put back: {e}"))
    }

    async fn health(&self, service: &str) -> Option<Health> {
        let channel = crate::client::channel(&self.home, service);
        let mut kit = mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient::new(channel);
        let asked = tokio::time::timeout(PATIENCE, kit.get_state(GetStateRequest {})).await;
        let answer = asked.ok()?.ok()?.into_inner();
        let state = answer.state();
        Some(Health {
            pid: answer.pid,
            settled: matches!(state, State::Serving | State::Degraded | State::NotServing),
            serves: matches!(state, State::Serving | State::Degraded),
            build: answer.build,
        })
    }
}

/// Returns the service manager of this machine and its plan.
pub(crate) fn system(home: &Home) -> Result<System, Failure> {
    let app = app();
    System::of(home, Arc::new(SystemClock), &app.catalogue(), &app.job_catalogue()).map_err(|e| {
        Failure::new(Kind::Unsupported, "CLI_INSTALL_UNSUPPORTED", mirror_errors::Chain(&e).to_string())
    })
}

/// Returns whether a service manager has a definition of any agent.
pub(crate) fn is_installed(home: &Home) -> bool {
    let Ok(system) = system(home) else { return false };
    let folder = system.manager.folder();
    system.plan.iter().flat_map(|p| &p.definition.files).any(|(name, _)| folder.join(name).exists())
}

pub(crate) async fn install(ctx: &Ctx, out: &mut Out, args: &InstallArgs) -> Result<(), Failure> {
    let home = ctx.home()?;
    let system = system(&home)?;
    for service in app().services {
        home.socket(service.decl.name).map_err(|e| Failure::home(&e))?;
    }
    let binaries = Binaries::beside(&home, &ctx.exe()?);
    if args.dry_run {
        return preview(out, &home, &system, &binaries);
    }
    refuse_beside_up(&home)?;
    mirror_kit::init(&home).map_err(|e| Failure::home(&e))?;
    let site = Place { home: home.clone(), binaries };
    let installer =
        Installer { manager: system.manager.as_ref(), site: &site, home: &home, clock: &SystemClock };
    let build = app().build;
    say(&format!("installing build {build} with {}", system.manager.name()));
    let done = installer.install(&system.plan, build).await.map_err(|failed| failure(&home, &failed))?;
    show(ctx, out, &home, &system, &done)
}

/// Two fleets in one home would stand in each other's way at every lease.
fn refuse_beside_up(home: &Home) -> Result<(), Failure> {
    if !up_is_running(home) {
        return Ok(());
    }
    let message = format!("the fleet of {} runs in the foreground of a terminal", home.root().display());
    Err(Failure::new(Kind::Precondition, "CLI_UP_RUNNING", message)
        .hint("end it with Ctrl-C in its terminal first"))
}

fn failure(home: &Home, failed: &Failed) -> Failure {
    let message = format!("not installed: {failed}");
    let mut failure = Failure::new(Kind::Precondition, "CLI_INSTALL_FAILED", message);
    if failed.left.is_empty() {
        failure = failure.hint("the definitions and binaries from before are back in place");
    }
    for left in &failed.left {
        failure = failure.hint(format!("not put back: {left}"));
    }
    match &failed.agent {
        Some(agent) => {
            failure.hint(format!("its logs are {0}/{agent}.log and {0}/{agent}.err", home.log().display()))
        }
        None => failure,
    }
}

fn preview(out: &mut Out, home: &Home, system: &System, binaries: &Binaries) -> Result<(), Failure> {
    let folder = system.manager.folder();
    let differ = binaries.differ().map_err(|e| Failure::file("compare", &home.bin(), &e))?;
    let mut files = Vec::new();
    for planned in &system.plan {
        for (name, text) in &planned.definition.files {
            files.push((planned.name.clone(), folder.join(name), change(&folder.join(name), text)));
        }
    }
    if out.json_wanted() {
        let files: Vec<_> = files
            .iter()
            .map(|(agent, path, what)| json!({"agent": agent, "file": path, "change": what}))
            .collect();
        return out.json(&json!({
            "manager": system.manager.name(), "home": home.root(), "build": app().build,
            "binaries_differ": differ, "files": files,
        }));
    }
    let what = if differ { "are copied to" } else { "are already in" };
    out.line(&format!("binaries of build {} {what} {}", app().build, home.bin().display()))?;
    for (_, path, what) in &files {
        out.line(&format!("{what:<9}  {}", path.display()))?;
    }
    out.line("nothing was changed")
}

fn change(path: &Path, text: &str) -> &'static str {
    match std::fs::read_to_string(path) {
        Ok(found) if found == text => "unchanged",
        Ok(_) => "changed",
        Err(_) => "new",
    }
}

fn show(ctx: &Ctx, out: &mut Out, home: &Home, system: &System, done: &[Installed]) -> Result<(), Failure> {
    if out.json_wanted() {
        let agents: Vec<_> = done.iter().map(row_json).collect();
        return out.json(&json!({
            "manager": system.manager.name(), "home": home.root(), "build": app().build, "agents": agents,
        }));
    }
    for agent in done {
        let (what, style) = match (&agent.health, agent.wish) {
            (Some(health), _) if health.serves => ("serves", GOOD),
            (Some(_), _) => ("does not serve", ODD),
            (None, Wish::Running) => ("at its times", GOOD),
            (None, wish) => (wish.name(), ODD),
        };
        let process =
            agent.health.as_ref().map_or(String::new(), |h| format!("pid {:<7}  build {}", h.pid, h.build));
        let line = format!(
            "{:<20}  {}  {:<9}  {process}",
            agent.name,
            out.paint(style, &format!("{what:<14}")),
            effect(agent)
        );
        out.line(line.trim_end())?;
    }
    out.line("")?;
    out.line(&format!(
        "{} keeps the fleet; definitions are in {}",
        system.manager.name(),
        system.manager.folder().display()
    ))?;
    out.line(&format!("next    {}", ctx.command(home, &home.bin().join("mirror"), "doctor")))
}

fn effect(agent: &Installed) -> &'static str {
    match agent.put {
        Put::Loaded => "loaded",
        Put::Reloaded | Put::Reread => "reloaded",
        Put::Unchanged if agent.kicked => "restarted",
        Put::Unchanged => "unchanged",
    }
}

fn row_json(agent: &Installed) -> serde_json::Value {
    json!({
        "name": agent.name,
        "desired": agent.wish.name(),
        "effect": effect(agent),
        "pid": agent.health.as_ref().map(|h| h.pid),
        "build": agent.health.as_ref().map(|h| h.build.as_str()),
        "serves": agent.health.as_ref().map(|h| h.serves),
    })
}

pub(crate) async fn uninstall(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let home = ctx.home()?;
    let system = system(&home)?;
    let site = Place { home: home.clone(), binaries: Binaries::beside(&home, &ctx.exe()?) };
    let installer =
        Installer { manager: system.manager.as_ref(), site: &site, home: &home, clock: &SystemClock };
    let gone = installer.uninstall(&system.plan).await.map_err(|left| {
        let message = format!("not uninstalled: {}", left.join("; "));
        Failure::new(Kind::Precondition, "CLI_INSTALL_FAILED", message).hint("it is safe to repeat")
    })?;
    Binaries::remove(&home).map_err(|e| Failure::file("remove the binaries in", &home.bin(), &e))?;
    for planned in &system.plan {
        // A row that stays names a process that is gone, and so nobody.
        let _ = std::fs::remove_file(home.fleet().join(&planned.name));
    }
    if out.json_wanted() {
        return out.json(&json!({"manager": system.manager.name(), "unloaded": gone, "home": home.root()}));
    }
    for name in &gone {
        out.line(&format!("{name:<20}  unloaded"))?;
    }
    out.line(&format!(
        "the definitions, binaries and links are removed; your data stays in {}",
        home.root().display()
    ))
}
