//! Forty agents and two hundred random faults: launchd's floor is never broken, and in the end every agent either
//! serves or is quarantined with the reason.
//!
//! `MIRROR_DRILL_SEED` repeats a storm; the seed is printed. Real processes and real time: remedy begins five acts within five
//! minutes, so that what hangs or has left waits its turn for up to half an hour.

#![expect(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test reports by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mirror_contract::millis;
use mirror_contract::mirror::kit::v1::GetStateRequest;
use mirror_contract::mirror::kit::v1::get_state_response::State;
use mirror_contract::mirror::kit::v1::kit_service_client::KitServiceClient;
use mirror_contract::mirror::supervisor::v1::supervisor_service_client::SupervisorServiceClient;
use mirror_contract::mirror::supervisor::v1::{
    Agent, AgentDesired, AgentState, ListAgentsRequest, StopAgentRequest, WatchAgentsRequest,
};
use mirror_drill::{DEPENDENTS, HUB, LEAVES, Order, clear, give, plant};
use mirror_testkit::fleet::Fleet;
use mirror_testkit::wait_for;
use nix::sys::signal::Signal;

/// launchd's floor between two starts of an agent, less the resolution of what is recorded.
const FLOOR_MS: u64 = 9_950;
const FAULTS: usize = 200;

/// Starts of each agent, as the supervisor told them.
type Starts = Arc<Mutex<BTreeMap<String, BTreeSet<u64>>>>;

fn agents() -> Vec<&'static str> {
    [HUB].into_iter().chain(DEPENDENTS.iter().copied()).chain(LEAVES.iter().copied()).collect()
}

/// A generator that a seed repeats: splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % u64::try_from(below).unwrap()).unwrap()
    }
}

fn strike(fleet: &Fleet, agent: &str, dice: &mut Dice) -> &'static str {
    let signal = |signal| {
        if fleet.pid(agent).is_some() {
            fleet.strike(agent, signal);
        }
    };
    let order = |order: Order| give(fleet.home(), agent, &order).unwrap();
    match dice.next(10) {
        0 | 1 => {
            signal(Signal::SIGKILL);
            "SIGKILL"
        }
        2 => {
            signal(Signal::SIGSEGV);
            "SIGSEGV"
        }
        3 => {
            signal(Signal::SIGSTOP);
            "SIGSTOP"
        }
        4 => {
            order(Order::Exit(0));
            "exit 0"
        }
        5 => {
            order(Order::Exit(74));
            "exit 74"
        }
        6 => {
            order(Order::Abort);
            "abort"
        }
        7 => {
            order(Order::Hang);
            "hang"
        }
        8 => {
            order(Order::ExitAtStart(3));
            signal(Signal::SIGKILL);
            "exit at each start"
        }
        _ => {
            signal(Signal::SIGTERM);
            "SIGTERM"
        }
    }
}

async fn record(mut supervisor: SupervisorServiceClient<mirror_kit::Channel>, starts: Starts) {
    let mut stream = supervisor.watch_agents(WatchAgentsRequest {}).await.unwrap().into_inner();
    while let Ok(Some(change)) = stream.message().await {
        let agent = change.agent.unwrap();
        if let Some(started) = agent.started.as_ref().and_then(millis) {
            starts.lock().unwrap().entry(agent.name).or_default().insert(started);
        }
    }
}

/// Returns what is wrong with an agent; nothing when it serves or was taken out with a reason.
async fn fault(fleet: &Fleet, agent: &Agent) -> Option<String> {
    match (agent.desired(), agent.state()) {
        (AgentDesired::Quarantined, AgentState::Idle) if !agent.reason.is_empty() => None,
        (AgentDesired::Running, AgentState::Running) => {
            let mut kit = KitServiceClient::new(fleet.channel(&agent.name));
            let asked = tokio::time::timeout(Duration::from_secs(1), kit.get_state(GetStateRequest {})).await;
            match asked {
                Ok(Ok(answer)) if matches!(answer.get_ref().state(), State::Serving | State::Degraded) => {
                    None
                }
                Ok(Ok(answer)) => Some(format!("{}: {:?}", agent.name, answer.get_ref().state())),
                other => Some(format!("{}: {other:?}", agent.name)),
            }
        }
        (desired, state) => {
            Some(format!("{}: wanted {desired:?}, is {state:?}, {}", agent.name, agent.last_exit))
        }
    }
}

#[tokio::test]
async fn a_storm_of_two_hundred_faults_passes() {
    let seed = std::env::var("MIRROR_DRILL_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(20_261_123);
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let mut fleet = Fleet::new(env!("CARGO_BIN_EXE_mirror-drill"));
    fleet.up().await;
    let mut supervisor = SupervisorServiceClient::new(fleet.channel("supervisor"));
    let starts = Starts::default();
    let recording = tokio::spawn(record(supervisor.clone(), Arc::clone(&starts)));

    let agents = agents();
    let mut kinds: BTreeMap<&str, u32> = BTreeMap::new();
    let began = tokio::time::Instant::now();
    for n in 0..FAULTS {
        // An order at each start is taken back after a while: not every fault lasts.
        let agent = agents[dice.next(agents.len())];
        *kinds.entry(strike(&fleet, agent, &mut dice)).or_default() += 1;
        if n % 3 == 0 {
            clear(fleet.home(), agents[dice.next(agents.len())]);
        }
        tokio::time::sleep(Duration::from_millis(100 + u64::try_from(dice.next(800)).unwrap())).await;
    }
    println!(
        "{FAULTS} faults on {} agents within {:.0} s: {kinds:?}",
        agents.len(),
        began.elapsed().as_secs_f64()
    );
    for agent in &agents {
        clear(fleet.home(), agent);
    }

    let calm = tokio::time::Instant::now();
    wait_for(
        Duration::from_secs(2_700),
        "every agent serves or is quarantined with the reason",
        async || {
            let list =
                supervisor.list_agents(ListAgentsRequest {}).await.map_err(|e| e.to_string())?.into_inner();
            let mut wrong = Vec::new();
            for agent in list.agents.iter().filter(|a| a.name.starts_with("drill-")) {
                wrong.extend(fault(&fleet, agent).await);
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
        },
    )
    .await;
    let list = supervisor.list_agents(ListAgentsRequest {}).await.unwrap().into_inner().agents;
    let quarantined: Vec<String> = list
        .iter()
        .filter(|a| a.desired() == AgentDesired::Quarantined)
        .map(|a| format!("{} ({})", a.name, a.reason))
        .collect();
    println!("calm after {:.0} s; quarantined: {quarantined:#?}", calm.elapsed().as_secs_f64());

    recording.abort();
    let starts = starts.lock().unwrap().clone();
    let mut total = 0;
    for (agent, times) in &starts {
        total += times.len();
        let times: Vec<u64> = times.iter().copied().collect();
        for pair in times.windows(2) {
            let gap = pair[1] - pair[0];
            assert!(gap >= FLOOR_MS, "{agent} was started again after {gap} ms");
        }
    }
    assert!(
        total > agents.len() + FAULTS / 4,
        "only {total} starts were seen: the storm did not reach the agents"
    );
    println!("{total} starts, none within {FLOOR_MS} ms of the one before");
    fleet.down().await;
}

#[tokio::test]
async fn a_wrong_configuration_is_no_crash_loop_and_a_stop_outlives_the_supervisor() {
    let mut fleet = Fleet::new(env!("CARGO_BIN_EXE_mirror-drill"));
    plant(fleet.home(), 3).unwrap();
    fleet.up().await;
    let mut supervisor = SupervisorServiceClient::new(fleet.channel("supervisor"));
    let mut find = async |name: &str| -> Agent {
        let list = supervisor.list_agents(ListAgentsRequest {}).await.unwrap().into_inner().agents;
        list.into_iter().find(|a| a.name == name).unwrap()
    };

    let (bad, stopped) = (LEAVES[0], LEAVES[1]);
    give(fleet.home(), bad, &Order::BadConfig).unwrap();
    fleet.strike(bad, Signal::SIGKILL);
    wait_for(Duration::from_secs(30), "the agent says what is wrong", async || {
        let mut kit = KitServiceClient::new(fleet.channel(bad));
        let state = kit.get_state(GetStateRequest {}).await.map_err(|e| e.to_string())?.into_inner();
        if state.state() == State::NotServing && state.detail.contains("line 1") {
            Ok(())
        } else {
            Err(state.detail)
        }
    })
    .await;
    let starts = find(bad).await.starts;
    // Longer than three of launchd's floors, and two sweeps of the fast lane: whoever would loop has done so.
    tokio::time::sleep(Duration::from_secs(35)).await;
    assert_eq!(find(bad).await.starts, starts, "a wrong value is told, not tried again and again");

    let mut client = SupervisorServiceClient::new(fleet.channel("supervisor"));
    let request =
        StopAgentRequest { name: stopped.to_owned(), reason: "by the drill".to_owned(), quarantine: false };
    client.stop_agent(request).await.unwrap();
    fleet.kill().await;
    fleet.up().await;
    let mut client = SupervisorServiceClient::new(fleet.channel("supervisor"));
    for _ in 0..2 {
        let list = client.list_agents(ListAgentsRequest {}).await.unwrap().into_inner().agents;
        let agent = list.into_iter().find(|a| a.name == stopped).unwrap();
        assert_eq!((agent.desired(), agent.pid), (AgentDesired::Stopped, 0), "{agent:?}");
        tokio::time::sleep(Duration::from_secs(12)).await;
    }
    fleet.down().await;
}
