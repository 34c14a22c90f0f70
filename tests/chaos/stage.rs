//! A fleet to break, what is asked of it, and the row that each fault leaves in the table.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_contract::mirror::pulse::v1::pulse_service_client::PulseServiceClient;
use mirror_contract::mirror::pulse::v1::{
    GetPulseRequest, Health, Incident, ListIncidentsRequest, Pulse, Target,
};
use mirror_contract::mirror::remedy::v1::remedy_service_client::RemedyServiceClient;
use mirror_contract::mirror::remedy::v1::{Action, ListActionsRequest, Outcome};
use mirror_contract::mirror::supervisor::v1::supervisor_service_client::SupervisorServiceClient;
use mirror_contract::mirror::supervisor::v1::{Agent, ListAgentsRequest};
use mirror_drill::plant;
use mirror_kit::Channel;
use mirror_testkit::fleet::Fleet;
use mirror_testkit::wait_for;
use serde_json::json;
use tokio::time::Instant;

/// How often a stage looks; a part of every measured time.
pub(crate) const LOOK: Duration = Duration::from_millis(100);

pub(crate) struct Stage {
    pub(crate) fleet: Fleet,
}

/// What a fault is expected to come to.
pub(crate) struct Expected {
    /// Causes of which one must be named; none where no incident may be opened.
    pub(crate) causes: &'static [&'static str],
    /// Remedy that must have been carried out; empty where none may be.
    pub(crate) remedy: &'static str,
    /// Whose process may differ afterwards.
    pub(crate) touched: &'static [&'static str],
    /// Longest time from the fault to the target's being whole again.
    pub(crate) within: Duration,
}

impl Stage {
    /// Starts a fleet with so many leaves and waits until pulse calls it well.
    pub(crate) async fn new(leaves: usize) -> Self {
        Self::with(Fleet::new(env!("CARGO_BIN_EXE_mirror-drill")), leaves).await
    }

    pub(crate) async fn with(mut fleet: Fleet, leaves: usize) -> Self {
        plant(fleet.home(), leaves).unwrap();
        fleet.up().await;
        let stage = Self { fleet };
        stage.well(Duration::from_secs(60)).await;
        stage
    }

    /// Waits until pulse says that all is well and no process is younger than launchd's floor.
    ///
    /// What has just started would be held back by the floor, and that is not what a fault is to measure.
    pub(crate) async fn seasoned(&self) {
        wait_for(Duration::from_secs(40), "every process has outlived the floor", async || {
            let young: Vec<String> = self
                .agents()
                .await?
                .into_iter()
                .filter(|a| a.pid != 0 && !a.job)
                .filter(|a| age_ms(a) < 11_000)
                .map(|a| a.name)
                .collect();
            tokio::time::sleep(LOOK).await;
            if young.is_empty() { Ok(()) } else { Err(young.join(", ")) }
        })
        .await;
    }

    pub(crate) async fn well(&self, limit: Duration) {
        wait_for(limit, "pulse says that all is well", async || {
            let pulse = self.pulse().await?;
            tokio::time::sleep(LOOK).await;
            if pulse.verdict() == Health::Ok && pulse.incidents.is_empty() {
                Ok(())
            } else {
                Err(format!("{}: {:?}", pulse.summary, bad(&pulse)))
            }
        })
        .await;
    }

    fn channel(&self, service: &str) -> Channel {
        self.fleet.channel(service)
    }

    pub(crate) fn supervisor(&self) -> SupervisorServiceClient<Channel> {
        SupervisorServiceClient::new(self.channel("supervisor"))
    }

    pub(crate) async fn agents(&self) -> Result<Vec<Agent>, String> {
        let list = self.supervisor().list_agents(ListAgentsRequest {}).await.map_err(|e| e.to_string())?;
        Ok(list.into_inner().agents)
    }

    pub(crate) async fn agent(&self, name: &str) -> Agent {
        let agents = self.agents().await.unwrap();
        agents.into_iter().find(|a| a.name == name).unwrap_or_else(|| panic!("{name} is an agent"))
    }

    /// Returns the process of each service.
    pub(crate) async fn pids(&self) -> BTreeMap<String, u32> {
        let mut agents = Err(String::new());
        for _ in 0..50 {
            agents = self.agents().await;
            if agents.is_ok() {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        agents.unwrap().into_iter().filter(|a| !a.job).map(|a| (a.name, a.pid)).collect()
    }

    pub(crate) async fn pulse(&self) -> Result<Pulse, String> {
        let asked = PulseServiceClient::new(self.channel("pulse")).get_pulse(GetPulseRequest {}).await;
        Ok(asked.map_err(|e| e.to_string())?.into_inner().pulse.unwrap_or_default())
    }

    /// Returns the incidents of a root, open ones first.
    pub(crate) async fn incidents(&self, root: &str) -> Vec<Incident> {
        let open = self.pulse().await.map(|p| p.incidents).unwrap_or_default();
        let request = ListIncidentsRequest { limit: 256 };
        let over = PulseServiceClient::new(self.channel("pulse")).list_incidents(request).await;
        let over = over.map(|o| o.into_inner().incidents).unwrap_or_default();
        open.into_iter().chain(over).filter(|i| root.is_empty() || i.root == root).collect()
    }

    /// Returns the remedies that were carried out, oldest first.
    pub(crate) async fn actions(&self) -> Vec<Action> {
        let request = ListActionsRequest { limit: 256, target: String::new() };
        let mut list = Vec::new();
        for _ in 0..50 {
            match RemedyServiceClient::new(self.channel("remedy")).list_actions(request.clone()).await {
                Ok(actions) => {
                    list = actions.into_inner().actions;
                    break;
                }
                Err(_) => tokio::time::sleep(LOOK).await,
            }
        }
        list.retain(|a| !matches!(a.outcome(), Outcome::HeldBack | Outcome::NotNeeded));
        list.reverse();
        list
    }

    /// Returns the state of a service by its own words, and its process.
    pub(crate) async fn state(&self, service: &str) -> Result<(State, u32), String> {
        let mut kit = KitServiceClient::new(self.channel(service));
        match tokio::time::timeout(Duration::from_secs(1), kit.get_state(GetStateRequest {})).await {
            Ok(Ok(answer)) => Ok((answer.get_ref().state(), answer.get_ref().pid)),
            Ok(Err(status)) => Err(status.to_string()),
            Err(_) => Err("no answer within a second".to_owned()),
        }
    }

    /// Breaks `target` and follows it until it is whole again; checks what came of it and writes the row.
    pub(crate) async fn drill(
        &self,
        name: &str,
        target: &str,
        expected: &Expected,
        inject: impl AsyncFnOnce(),
    ) {
        self.seasoned().await;
        self.well(Duration::from_secs(60)).await;
        let (before, acted, known) =
            (self.pids().await, self.actions().await.len(), self.incidents("").await);
        let began = Instant::now();
        inject().await;
        let (mut detected, mut verdict) = (None, String::new());
        let mut broken = false;
        let mut last = String::new();
        let recovered = loop {
            assert!(
                began.elapsed() < expected.within,
                "{name}: not whole after {:?}; {last}",
                expected.within
            );
            tokio::time::sleep(LOOK).await;
            let state = self.state(target).await;
            let serves = matches!(&state, Ok((State::Serving | State::Degraded, _)));
            let Ok(pulse) = self.pulse().await else {
                last = "pulse does not answer".to_owned();
                broken = true;
                continue;
            };
            let seen = pulse.targets.iter().find(|t| t.name == target).cloned().unwrap_or_default();
            let ill = seen.health() != Health::Ok;
            let told = ill || pulse.incidents.iter().any(|i| is_about(i, target));
            if told && detected.is_none() {
                detected = Some(began.elapsed());
                verdict = words(&seen);
            }
            broken |= told || !serves;
            let changed = self.pids().await.get(target) != before.get(target);
            last = format!("{state:?}, {}, {:?}", words(&seen), pulse.incidents);
            if serves && !ill && (broken || changed) {
                break began.elapsed();
            }
        };
        // What is over in a moment is told a moment later, and stays open for a while in case that it comes back.
        let mut incidents = Vec::new();
        let told =
            wait_until(Duration::from_secs(if expected.causes.is_empty() { 3 } else { 30 }), async || {
                incidents = self.incidents("").await;
                incidents.retain(|i| !known.iter().any(|k| k.id == i.id) && is_about(i, target));
                !incidents.is_empty()
            });
        told.await;
        self.well(Duration::from_secs(120)).await;
        incidents = self.incidents("").await;
        incidents.retain(|i| !known.iter().any(|k| k.id == i.id) && is_about(i, target));
        let causes: Vec<String> = incidents.iter().map(|i| i.cause.clone()).collect();
        let remedies: Vec<String> =
            self.actions().await.iter().skip(acted).map(|a| format!("{} {}", a.remedy, a.target)).collect();
        let after = self.pids().await;
        let collateral: Vec<&String> = before
            .iter()
            .filter(|(n, pid)| !expected.touched.contains(&n.as_str()) && after.get(*n) != Some(pid))
            .map(|(n, _)| n)
            .collect();
        row(&json!({
            "fault": name, "target": target, "verdict": verdict, "causes": causes, "remedies": remedies,
            "detect_ms": detected.map(|d| d.as_millis()), "recover_ms": recovered.as_millis(),
            "collateral": collateral.len(),
        }));
        assert!(collateral.is_empty(), "{name}: neighbours were restarted: {collateral:?}");
        if expected.causes.is_empty() {
            assert!(causes.is_empty(), "{name}: {incidents:?}");
        } else {
            assert!(
                causes.iter().any(|c| expected.causes.contains(&c.as_str())),
                "{name}: {causes:?} {incidents:?}"
            );
        }
        match expected.remedy {
            "" => assert!(remedies.is_empty(), "{name}: {remedies:?}"),
            remedy => assert_eq!(remedies, [format!("{remedy} {target}")], "{name}"),
        }
    }

    /// Ends the fleet in order.
    pub(crate) async fn end(mut self) {
        self.fleet.down().await;
    }
}

/// Looks until a condition holds or the time is over.
async fn wait_until(limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !condition().await && began.elapsed() < limit {
        tokio::time::sleep(LOOK).await;
    }
}

fn is_about(incident: &Incident, target: &str) -> bool {
    incident.root == target || incident.shadowed.iter().any(|s| s == target)
}

fn age_ms(agent: &Agent) -> u64 {
    use mirror_clock::Clock as _;
    let started = agent.started.as_ref().and_then(mirror_contract::millis).unwrap_or(0);
    mirror_clock::SystemClock.wall_ms().saturating_sub(started)
}

pub(crate) fn bad(pulse: &Pulse) -> Vec<String> {
    pulse
        .targets
        .iter()
        .filter(|t| t.health() != Health::Ok)
        .map(|t| format!("{} {}", t.name, words(t)))
        .collect()
}

fn words(target: &Target) -> String {
    let health = target.health().as_str_name().trim_start_matches("HEALTH_").to_lowercase();
    if target.detail.is_empty() { health } else { format!("{health}: {}", target.detail) }
}

/// Keeps what a fault came to, for the table in docs/CHAOS.md.
pub(crate) fn row(value: &serde_json::Value) {
    let dir = PathBuf::from(
        std::env::var_os("MIRROR_CHAOS_ROWS").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into()),
    );
    let dir = dir.join("chaos");
    fs::create_dir_all(&dir).unwrap();
    let name = value["fault"].as_str().unwrap().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
    fs::write(dir.join(format!("{name}.json")), value.to_string() + "\n").unwrap();
    println!("{value}");
}
