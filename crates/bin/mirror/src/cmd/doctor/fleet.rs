//! The fleet: what is wanted of each agent, what it does, and which build it is.

use std::time::Duration;

use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::kit::v1::{GetStateRequest, GetStateResponse};
use mirror_contract::mirror::supervisor::v1::{Agent, AgentDesired, AgentState};
use mirror_kit::desired::{self, Wish};
use mirror_kit::last_run;

use super::files::line_of;
use super::{Finding, Look};
use crate::app::app;
use crate::cmd::agents::{expected_build, list, state_name};
use crate::text::one_line;

/// Longest wait for one answer; a service that hangs must not hang this.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn findings(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let asked = tokio::time::timeout(Duration::from_secs(15), list(look.ctx)).await;
    match asked {
        Ok(Ok(agents)) => {
            findings.push(Finding::fine("fleet", "the supervisor answers"));
            findings.extend(agents.iter().filter_map(|agent| of_agent(look, agent)));
        }
        _ => {
            let start = if crate::cmd::install::is_installed(look.home) { "install" } else { "up" };
            let socket = look.home.socket("supervisor").unwrap_or_default();
            findings.push(
                Finding::problem("fleet", "the supervisor does not answer")
                    .file(socket)
                    .mend(look.command(start)),
            );
            findings.extend(wishes(look));
        }
    }
    let build = expected_build(look.home).await;
    let config = std::fs::read_to_string(look.home.config()).unwrap_or_default();
    let asked = app().services.iter().map(|service| async {
        let name = service.decl.name;
        let mut kit = look.ctx.kit(name).ok()?;
        let answer = tokio::time::timeout(PATIENCE, kit.get_state(GetStateRequest {})).await;
        Some((name, answer.ok()?.ok()?.into_inner()))
    });
    let answers: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
    for (name, answer) in &answers {
        findings.extend(of_answer(look, name, answer, &build, &config));
    }
    findings.extend(app().jobs.iter().filter_map(|job| {
        let last = last_run(look.home, job.decl.name).filter(|last| !last.ok)?;
        let text = format!("{} failed at its last run: {}", job.decl.agent(), one_line(&last.detail, 200));
        let log = look.home.log().join(format!("{}.log", job.decl.agent()));
        Some(
            Finding::problem("jobs", text)
                .file(log)
                .mend(look.command(&format!("start {}", job.decl.agent()))),
        )
    }));
    if !answers.is_empty() && answers.iter().all(|(_, answer)| answer.build == build) {
        findings.push(Finding::fine("builds", format!("every service that runs has build {build}")));
    }
    findings
}

/// Without a supervisor, what is wanted is still known.
fn wishes(look: &Look<'_>) -> Vec<Finding> {
    let of = |name: &str| {
        let (wish, reason) = desired::read(look.home, name);
        (wish == Wish::Quarantined).then(|| quarantined(look, name, &reason))
    };
    app().services.iter().filter_map(|s| of(s.decl.name)).collect()
}

fn quarantined(look: &Look<'_>, name: &str, reason: &str) -> Finding {
    let text = format!("{name} is quarantined: {}", one_line(reason, 300));
    let log = look.home.log().join(format!("{name}.log"));
    Finding::problem("fleet", text).file(log).mend(look.command(&format!("start {name}")))
}

/// Compares what is wanted of an agent with what it does.
fn of_agent(look: &Look<'_>, agent: &Agent) -> Option<Finding> {
    let name = &agent.name;
    let log = look.home.log().join(format!("{name}.log"));
    match (agent.desired(), agent.state()) {
        (AgentDesired::Quarantined, _) => Some(quarantined(look, name, &agent.reason)),
        (AgentDesired::Stopped, AgentState::Running) => {
            let text = format!("{name} should be stopped, and runs");
            Some(Finding::problem("fleet", text).mend(look.command(&format!("stop {name}"))))
        }
        (AgentDesired::Stopped, _) => {
            let why = if agent.reason.is_empty() { String::new() } else { format!(": {}", agent.reason) };
            let text = format!("{name} is stopped, as it is wanted{why}");
            Some(Finding::note("fleet", text).mend(look.command(&format!("start {name}"))))
        }
        (_, AgentState::NotLoaded) => {
            let text = format!("{name} is not loaded: nothing will start it");
            Some(Finding::problem("fleet", text).mend(look.command("install")))
        }
        (_, AgentState::Running | AgentState::Draining) => None,
        (_, _) if agent.job => None,
        (_, _) => {
            let last = if agent.last_exit.is_empty() {
                String::new()
            } else {
                format!("; it ended with {}", agent.last_exit)
            };
            let text = format!("{name} should run, and is {}{last}", state_name(agent));
            Some(Finding::problem("fleet", text).file(log).mend(look.command(&format!("start {name}"))))
        }
    }
}

/// Looks at what a service says of itself.
fn of_answer(
    look: &Look<'_>,
    name: &str,
    answer: &GetStateResponse,
    build: &str,
    config: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    let detail = one_line(&answer.detail, 400);
    let log = look.home.log().join(format!("{name}.log"));
    match answer.state() {
        State::NotServing => {
            let finding = Finding::problem("fleet", format!("{name} does not serve: {detail}"));
            findings.push(match config_line(&answer.detail) {
                Some(line) => finding
                    .file(look.home.config())
                    .line(Some(line))
                    .mend(format!("mend the line, then: {}", look.command(&format!("restart {name}")))),
                None => finding.file(log).mend(look.command(&format!("restart {name}"))),
            });
        }
        State::Degraded => {
            findings.push(Finding::warning("fleet", format!("{name} serves in part: {detail}")).file(log));
        }
        _ => {}
    }
    if answer.build != build {
        let text = format!("{name} runs build {}, and {build} is installed", answer.build);
        findings.push(Finding::problem("builds", text).mend(look.command(&format!("restart {name}"))));
    }
    for warning in &answer.config_warnings {
        // "mirror.toml: unknown key bus.colour; ..."
        let key = warning.split("unknown key ").nth(1).and_then(|rest| rest.split(';').next());
        let line = key.and_then(|key| key.split_once('.')).and_then(|(t, k)| line_of(config, t, Some(k)));
        findings.push(Finding::warning("config", warning.clone()).file(look.home.config()).line(line));
    }
    findings
}

/// Finds the line in "the configuration is wrong at line 3: ...".
fn config_line(detail: &str) -> Option<usize> {
    let rest = detail.split("the configuration is wrong at line ").nth(1)?;
    rest.split(':').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_of_a_wrong_value_is_found() {
        let text =
            "the configuration is wrong at line 12: invalid type; mend mirror.toml and restart the service";
        assert_eq!(config_line(text), Some(12));
        assert_eq!(config_line("the disk is full"), None);
    }
}
