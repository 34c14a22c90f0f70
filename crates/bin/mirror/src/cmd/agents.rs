//! `mirror start`, `stop` and `restart`: asked of the supervisor, and verified by the agents themselves.

use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::supervisor::v1::{
    Agent, AgentDesired, AgentState, ListAgentsRequest, RestartAgentRequest, StartAgentRequest,
    StopAgentRequest,
};
use mirror_errors::Kind;
use mirror_kit::{LastRun, last_run};
use mirror_paths::Home;
use serde_json::json;

use crate::app::app;
use crate::args::{NamesArgs, RestartArgs, StopArgs};
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{GOOD, Out};
use crate::text;

/// Longest wait for an agent to answer: launchd's floor between two starts, the drain before it, and a slow start.
const LIMIT: Duration = Duration::from_secs(75);
const STEP: Duration = Duration::from_millis(50);

/// Longest wait for one answer.
const PATIENCE: Duration = Duration::from_secs(1);

/// The agent that is not stopped with the others: somebody has to start them again.
const SUPERVISOR: &str = "supervisor";

/// Refuses a name that is no agent of the catalogue.
pub(crate) fn known(name: &str) -> Result<(), Failure> {
    let jobs = app().jobs.iter().map(|j| j.decl.agent());
    let names: Vec<String> = app().services.iter().map(|s| s.decl.name.to_owned()).chain(jobs).collect();
    if names.iter().any(|n| n == name) {
        return Ok(());
    }
    Err(Failure::service_unknown(name, &names.join(", ")))
}

/// Returns the agents that are meant, lower tiers first.
fn chosen(names: &[String], all: bool) -> Result<Vec<String>, Failure> {
    for name in names {
        known(name)?;
    }
    let mut services: Vec<(u8, &str)> = app()
        .services
        .iter()
        .map(|s| (s.decl.tier, s.decl.name))
        .filter(|(_, name)| if all { *name != SUPERVISOR } else { names.iter().any(|n| n == name) })
        .collect();
    services.sort_unstable();
    let services = services.into_iter().map(|(_, name)| name.to_owned());
    // Jobs are started by name only: all of them at once is never what is meant.
    let jobs = names.iter().filter(|n| n.starts_with("job.")).cloned();
    Ok(services.chain(jobs).collect())
}

/// What a command saw of an agent before and after.
struct Seen {
    name: String,
    what: String,
    pid: u32,
    build: String,
}

pub(crate) async fn start(ctx: &Ctx, out: &mut Out, args: &NamesArgs) -> Result<(), Failure> {
    let mut client = ctx.supervisor()?;
    let home = ctx.home()?;
    let build = expected_build(&home).await;
    for name in chosen(&args.names, args.all)? {
        let before = last_run(&home, name.trim_start_matches("job."));
        let request = StartAgentRequest { name: name.clone() };
        client.start_agent(request).await.map_err(|s| ctx.refused(SUPERVISOR, &s))?;
        let seen = if name.starts_with("job.") {
            job_ran(&home, &name, before.as_ref()).await?
        } else {
            healthy(ctx, &name, &build, None).await?
        };
        show(out, &seen)?;
    }
    Ok(())
}

pub(crate) async fn stop(ctx: &Ctx, out: &mut Out, args: &StopArgs) -> Result<(), Failure> {
    let mut client = ctx.supervisor()?;
    let mut names = chosen(&args.which.names, args.which.all)?;
    // Upper tiers first, so that none loses a peer before it has ended.
    names.reverse();
    for name in names {
        let reason = args.reason.clone().unwrap_or_default();
        let request = StopAgentRequest { name: name.clone(), reason, quarantine: false };
        let answer = client.stop_agent(request).await.map_err(|s| ctx.refused(SUPERVISOR, &s))?;
        let agent = answer.into_inner().agent.unwrap_or_default();
        if agent.pid != 0 || agent.desired() != AgentDesired::Stopped {
            let message = format!("{name} was told to stop, and still has process {}", agent.pid);
            return Err(unhealthy(ctx, &name, message));
        }
        show(out, &Seen { name, what: "stopped".to_owned(), pid: 0, build: String::new() })?;
    }
    Ok(())
}

pub(crate) async fn restart(ctx: &Ctx, out: &mut Out, args: &RestartArgs) -> Result<(), Failure> {
    let mut client = ctx.supervisor()?;
    let build = expected_build(&ctx.home()?).await;
    for name in chosen(&args.which.names, args.which.all)? {
        let before = list(ctx).await?.into_iter().find(|a| a.name == name);
        if args.which.all && before.as_ref().is_some_and(|a| a.desired() != AgentDesired::Running) {
            continue;
        }
        let request = RestartAgentRequest { name: name.clone(), kill: args.kill };
        client.restart_agent(request).await.map_err(|s| ctx.refused(SUPERVISOR, &s))?;
        let gone = before.map(|a| a.pid).filter(|pid| *pid != 0);
        show(out, &healthy(ctx, &name, &build, gone).await?)?;
    }
    Ok(())
}

/// Returns all agents as the supervisor has them.
pub(crate) async fn list(ctx: &Ctx) -> Result<Vec<Agent>, Failure> {
    let answer = ctx.supervisor()?.list_agents(ListAgentsRequest {}).await;
    Ok(answer.map_err(|s| ctx.refused(SUPERVISOR, &s))?.into_inner().agents)
}

/// Returns the build of the binaries that are started; that of this process where they cannot be asked.
pub(crate) async fn expected_build(home: &Home) -> String {
    let mut command = tokio::process::Command::new(home.bin().join("mirror"));
    command.arg("--version").kill_on_drop(true);
    let said = tokio::time::timeout(Duration::from_secs(5), command.output()).await;
    let said = said.ok().and_then(Result::ok).map(|o| String::from_utf8_lossy(&o.stdout).into_owned());
    let build = said.and_then(|line| line.split_whitespace().nth(1).map(str::to_owned));
    build.unwrap_or_else(|| app().build.to_owned())
}

/// Waits until a service answers with the expected build, from another process than `gone`.
async fn healthy(ctx: &Ctx, name: &str, build: &str, gone: Option<u32>) -> Result<Seen, Failure> {
    let clock = SystemClock;
    let begun = clock.boot();
    let mut kit = ctx.kit(name)?;
    let mut last = "it does not answer".to_owned();
    loop {
        let asked = tokio::time::timeout(PATIENCE, kit.get_state(GetStateRequest {})).await;
        if let Ok(Ok(answer)) = asked {
            let answer = answer.into_inner();
            let state = answer.state();
            let is_other = gone != Some(answer.pid);
            match state {
                State::Serving | State::Degraded if is_other && answer.build == build => {
                    let what = if state == State::Serving { "serves" } else { "serves in part" };
                    let (pid, build) = (answer.pid, answer.build);
                    return Ok(Seen { name: name.to_owned(), what: what.to_owned(), pid, build });
                }
                State::NotServing if is_other => {
                    return Err(unhealthy(
                        ctx,
                        name,
                        format!("{name} runs and does not serve: {}", answer.detail),
                    ));
                }
                _ if is_other && answer.build != build => {
                    last = format!("process {} answers with build {}, not {build}", answer.pid, answer.build);
                }
                _ => last = format!("process {} answers and is not ready", answer.pid),
            }
        }
        if let Some(why) = given_up(ctx, name) {
            return Err(unhealthy(ctx, name, format!("{name} was quarantined: {why}")));
        }
        if clock.boot().saturating_sub(begun) > LIMIT {
            return Err(unhealthy(
                ctx,
                name,
                format!("{name} did not come up within {} s: {last}", LIMIT.as_secs()),
            ));
        }
        clock.sleep(STEP).await;
    }
}

/// Returns why an agent will not be started any more.
fn given_up(ctx: &Ctx, name: &str) -> Option<String> {
    let home = ctx.home().ok()?;
    let (wish, reason) = mirror_kit::desired::read(&home, name);
    (wish == mirror_kit::desired::Wish::Quarantined).then_some(reason)
}

/// Waits until a job has run to its end once more.
async fn job_ran(home: &Home, name: &str, before: Option<&LastRun>) -> Result<Seen, Failure> {
    let job = name.trim_start_matches("job.");
    let limit = app().job(job).map_or(LIMIT, |j| Duration::from_secs(u64::from(j.decl.limit_secs)) + LIMIT);
    let clock = SystemClock;
    let begun = clock.boot();
    loop {
        match last_run(home, job) {
            Some(last) if Some(&last) != before => {
                if last.ok {
                    let what = format!("ran: {}", last.detail);
                    return Ok(Seen { name: name.to_owned(), what, pid: 0, build: String::new() });
                }
                let message = format!("{name} ran and failed: {}", last.detail);
                return Err(Failure::new(Kind::Unavailable, "CLI_AGENT_UNHEALTHY", message));
            }
            _ if clock.boot().saturating_sub(begun) > limit => {
                let message = format!("{name} did not run to its end within {} s", limit.as_secs());
                return Err(Failure::new(Kind::Unavailable, "CLI_AGENT_UNHEALTHY", message)
                    .hint(format!("its log is {}", home.log().join(format!("{name}.log")).display())));
            }
            _ => clock.sleep(STEP).await,
        }
    }
}

fn unhealthy(ctx: &Ctx, name: &str, message: String) -> Failure {
    let failure = Failure::new(Kind::Unavailable, "CLI_AGENT_UNHEALTHY", message);
    let Ok(home) = ctx.home() else { return failure };
    let socket = home.socket(name).unwrap_or_default();
    failure
        .hint(format!("its socket is {}", socket.display()))
        .hint(format!("its logs are {0}/{name}.log and {0}/{name}.err", home.log().display()))
}

fn show(out: &mut Out, seen: &Seen) -> Result<(), Failure> {
    if out.json_wanted() {
        let pid = (seen.pid != 0).then_some(seen.pid);
        return out.json(&json!({"agent": seen.name, "state": seen.what, "pid": pid, "build": seen.build}));
    }
    let mut line = format!("{:<20}  {}", seen.name, out.paint(GOOD, &text::block(&seen.what)));
    if seen.pid != 0 {
        line.push_str(&format!("  pid {}  build {}", seen.pid, seen.build));
    }
    out.line(&line)?;
    out.flush()
}

/// Returns how an agent's process is, in words.
pub(crate) fn state_name(agent: &Agent) -> &'static str {
    match agent.state() {
        AgentState::NotLoaded | AgentState::Unspecified => "not loaded",
        AgentState::Idle => "without a process",
        AgentState::Throttled => "waiting for its next start",
        AgentState::Running => "running",
        AgentState::Draining => "ending",
    }
}
