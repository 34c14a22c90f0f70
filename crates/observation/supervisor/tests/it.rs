//! The service as its callers see it, over the engine and over shell scripts for agents.

#![expect(clippy::unwrap_used, reason = "a test reports by panicking")]

use std::sync::Arc;

use mirror_agents::Plist;
use mirror_agents::machine::KeepAlive;
use mirror_clock::SystemClock;
use mirror_contract::mirror::supervisor::v1 as pb;
use mirror_contract::mirror::supervisor::v1::supervisor_service_client::SupervisorServiceClient;
use mirror_contract::mirror::supervisor::v1::{AgentDesired, AgentState};
use mirror_errors::Remote;
use mirror_kit::desired::{self, Wish};
use mirror_kit::{Channel, Principal, Tasks};
use mirror_paths::Home;
use mirror_supervisor::engine::{Handle, Managed, engine, lay};
use mirror_supervisor::{Foreground, SERVICE};
use mirror_testkit::{Node, Sandbox, wait};
use tonic::Streaming;

fn agent(home: &Home, name: &str, script: &str) -> Managed {
    let plist = Plist {
        label: mirror_agents::label(name),
        program: "/bin/sh".to_owned(),
        arguments: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
        run_at_load: false,
        keep_alive: if name.starts_with("job.") { KeepAlive::Never } else { KeepAlive::AfterFailure },
        throttle_secs: 1,
        exit_time_out_secs: 5,
        process_type: None,
        environment: [("HERE".to_owned(), home.root().display().to_string())].into(),
        umask: Some(0o077),
        working_directory: None,
        stdout: None,
        stderr: None,
        session_types: Vec::new(),
        files: None,
        interval_secs: None,
        calendar: Vec::new(),
    };
    Managed {
        name: name.to_owned(),
        job: name.starts_with("job."),
        tier: 1,
        text: plist.render(),
        own: false,
    }
}

struct Place {
    node: Node,
    handle: Handle,
    _tasks: Tasks,
    _temp: tempfile::TempDir,
}

impl Place {
    async fn new() -> Self {
        let temp = tempfile::Builder::new().prefix("m").tempdir().unwrap();
        let home = Home::at(temp.path().join("h")).unwrap();
        home.prepare().unwrap();
        let agents = vec![
            agent(&home, "steady", "exec sleep 1000"),
            agent(&home, "other", "exec sleep 1000"),
            agent(&home, "job.once", "echo x >> $HERE/runs"),
        ];
        lay(&home, &agents).unwrap();
        let (engine, handle) = engine(home.clone(), Arc::new(SystemClock), agents, Box::new(|_| {}));
        let tasks = Tasks::default();
        tasks.spawn(engine.run());
        handle.begin().await;
        let given = Arc::new(Foreground(Arc::new(handle.clone())));
        let node = Sandbox::with(&[&SERVICE]).at(home.root()).given(given).start().await;
        Self { node, handle, _tasks: tasks, _temp: temp }
    }

    fn client(&self) -> SupervisorServiceClient<Channel> {
        SupervisorServiceClient::new(self.node.channel("supervisor"))
    }

    async fn list(&self) -> Vec<pb::Agent> {
        self.client().list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner().agents
    }

    async fn finish(self) {
        self.handle.kill().await;
        self.handle.finish().await;
        self.node.finish().await;
    }
}

#[track_caller]
fn reason<T: std::fmt::Debug>(answer: Result<T, tonic::Status>) -> String {
    Remote::from_status(&answer.unwrap_err()).reason
}

fn named(name: &str) -> (String, String, bool) {
    (name.to_owned(), String::new(), false)
}

fn stop((name, reason, quarantine): (String, String, bool)) -> pb::StopAgentRequest {
    pb::StopAgentRequest { name, reason, quarantine }
}

#[tokio::test]
async fn agents_are_listed_by_name_with_who_supervises() {
    let place = Place::new().await;
    let answer = place.client().list_agents(pb::ListAgentsRequest {}).await.unwrap().into_inner();
    assert_eq!((answer.backend.as_str(), answer.build.as_str()), ("up", "test"));
    let names: Vec<&str> = answer.agents.iter().map(|a| a.name.as_str()).collect();
    assert_eq!(names, ["job.once", "other", "steady"]);
    assert!(answer.agents[0].job && !answer.agents[1].job);
    let steady = &answer.agents[2];
    assert_eq!((steady.state(), steady.desired()), (AgentState::Running, AgentDesired::Running));
    assert!(steady.pid != 0 && steady.started.is_some() && steady.starts == 1, "{steady:?}");
    assert_eq!((steady.label.as_str(), steady.problem.as_str()), ("dev.mirrordna.steady", ""));
    place.finish().await;
}

#[tokio::test]
async fn a_stopped_agent_is_down_when_the_call_returns_and_a_start_brings_it_back() {
    let place = Place::new().await;
    let mut client = place.client();
    let refused = client.restart_agent(pb::RestartAgentRequest { name: "steady".into(), kill: false });
    let first = refused.await.unwrap().into_inner().agent.unwrap();
    assert_ne!(first.state(), AgentState::Draining);

    let request = stop(("steady".into(), "fails too often".into(), true));
    let down = client.stop_agent(request).await.unwrap().into_inner().agent.unwrap();
    assert_eq!((down.pid, down.state(), down.desired()), (0, AgentState::Idle, AgentDesired::Quarantined));
    assert_eq!(down.reason, "fails too often");
    assert_eq!(desired::read(place.node.home(), "steady"), (Wish::Quarantined, "fails too often".into()));
    let kick = pb::RestartAgentRequest { name: "steady".into(), kill: true };
    assert_eq!(reason(client.restart_agent(kick).await), "SUPERVISOR_AGENT_STOPPED");

    let start = pb::StartAgentRequest { name: "steady".into() };
    let up = client.start_agent(start.clone()).await.unwrap().into_inner().agent.unwrap();
    assert_eq!((up.desired(), up.reason.as_str()), (AgentDesired::Running, ""));
    client.start_agent(start).await.unwrap();
    wait("it runs", async || match place.list().await.remove(2) {
        agent if agent.state() == AgentState::Running => Ok(()),
        agent => Err(format!("{agent:?}")),
    })
    .await;
    place.finish().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_by_reason_and_changes_nothing() {
    let place = Place::new().await;
    let mut client = place.client();
    for name in ["", "nobody", "../steady", "Steady", &"x".repeat(5_000)] {
        let start = pb::StartAgentRequest { name: name.into() };
        assert_eq!(reason(client.start_agent(start).await), "SUPERVISOR_AGENT_UNKNOWN", "{name}");
        assert_eq!(reason(client.stop_agent(stop(named(name))).await), "SUPERVISOR_AGENT_UNKNOWN");
        let render = pb::RenderAgentRequest { name: name.into() };
        assert_eq!(reason(client.render_agent(render).await), "SUPERVISOR_AGENT_UNKNOWN");
        let kick = pb::RestartAgentRequest { name: name.into(), kill: true };
        assert_eq!(reason(client.restart_agent(kick).await), "SUPERVISOR_AGENT_UNKNOWN");
    }
    for (text, quarantine) in [("", true), ("two\nlines", false), (&*"x".repeat(301), false)] {
        let request = stop(("steady".into(), text.into(), quarantine));
        assert_eq!(reason(client.stop_agent(request).await), "SUPERVISOR_REASON_INVALID", "{text:?}");
    }
    assert_eq!(std::fs::read_dir(place.node.home().desired()).unwrap().count(), 0);
    assert_eq!(place.list().await[2].state(), AgentState::Running);
    place.finish().await;
}

#[tokio::test]
async fn a_job_runs_once_for_each_start() {
    let place = Place::new().await;
    let runs = place.node.home().root().join("runs");
    for n in 1..=2_usize {
        let start = pb::StartAgentRequest { name: "job.once".into() };
        place.client().start_agent(start).await.unwrap();
        wait("it ran", async || {
            let text = std::fs::read_to_string(&runs).unwrap_or_default();
            let agent = place.list().await.remove(0);
            let done = text.lines().count() == n && agent.state() == AgentState::Idle;
            if done { Ok(()) } else { Err(format!("{text:?} {agent:?}")) }
        })
        .await;
    }
    place.finish().await;
}

async fn next(watch: &mut Streaming<pb::WatchAgentsResponse>) -> pb::Agent {
    watch.message().await.unwrap().unwrap().agent.unwrap()
}

#[tokio::test]
async fn a_watcher_gets_all_agents_and_then_the_changed_ones() {
    let place = Place::new().await;
    let service = place.node.channel_as(Principal::Service("pulse".into()), "supervisor");
    let mut pulse = SupervisorServiceClient::new(service);
    let mut watch = pulse.watch_agents(pb::WatchAgentsRequest {}).await.unwrap().into_inner();
    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(next(&mut watch).await.name);
    }
    assert_eq!(names, ["job.once", "other", "steady"]);
    pulse.stop_agent(stop(("other".into(), "a drill".into(), false))).await.unwrap();
    let mut last = next(&mut watch).await;
    while last.pid != 0 {
        last = next(&mut watch).await;
    }
    assert_eq!((last.name.as_str(), last.desired()), ("other", AgentDesired::Stopped));
    place.finish().await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_ends_with_the_newest_state() {
    let place = Place::new().await;
    let mut client = place.client();
    let mut watch = client.watch_agents(pb::WatchAgentsRequest {}).await.unwrap().into_inner();
    for n in 0..20 {
        client.stop_agent(stop(("other".into(), format!("stop {n}"), false))).await.unwrap();
    }
    let mut last = String::new();
    wait("the newest is told", async || {
        last = next(&mut watch).await.reason;
        if last == "stop 19" { Ok(()) } else { Err(last.clone()) }
    })
    .await;
    place.finish().await;
}

#[tokio::test]
async fn an_edited_list_is_a_problem_until_it_is_rendered() {
    let place = Place::new().await;
    let path = place.node.home().agents().join("dev.mirrordna.steady.plist");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, text.replace("<key>Program</key>", "<key>Programme</key>")).unwrap();
    let agent = place.list().await.remove(2);
    assert!(agent.problem.contains("key Programme: is unknown"), "{agent:?}");
    let pid = agent.pid;
    let render = pb::RenderAgentRequest { name: "steady".into() };
    let answer = place.client().render_agent(render.clone()).await.unwrap().into_inner();
    let agent = answer.agent.unwrap();
    assert!(answer.changed && agent.problem.is_empty() && agent.pid == pid, "{agent:?}");
    assert!(!place.client().render_agent(render).await.unwrap().into_inner().changed);
    place.finish().await;
}
