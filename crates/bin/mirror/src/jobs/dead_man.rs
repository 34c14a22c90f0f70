//! `dead-man`: restarts the watchers whose heart has stopped; nobody else would notice that.

use std::time::{Duration, SystemTime};

use mirror_contract::mirror::supervisor::v1::RestartAgentRequest;
use mirror_contract::mirror::supervisor::v1::supervisor_service_client::SupervisorServiceClient;
use mirror_kit::desired::{self, Wish};
use mirror_kit::{Job, JobContext, JobDecl, When, last_run};
use mirror_paths::Home;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time between two runs, in seconds.
const EVERY_SECS: u32 = 300;

/// Who writes `run/<name>.beat`.
const WATCHERS: [&str; 2] = ["pulse", "remedy"];

/// Age of a beat from which on the heart has stopped: two and a half periods.
const STALE_MS: u64 = 750_000;

/// Age of this job's own last run that only a sleeping machine explains.
const SLEPT_MS: u64 = 2 * 1_000 * EVERY_SECS as u64;

/// Longest wait for the supervisor.
const PATIENCE: Duration = Duration::from_secs(60);

/// The job.
pub(crate) static DEAD_MAN: Job = Job {
    decl: &JobDecl {
        name: "dead-man",
        summary: "Restarts the watchers whose heart has stopped.",
        when: When::Every { secs: EVERY_SECS },
        limit_secs: 180,
    },
    run: |cx| Box::pin(run(cx)),
};

async fn run(cx: JobContext) -> Result<String, String> {
    let (home, now) = (cx.home(), cx.env().clock.wall_ms());
    let before = last_run(home, DEAD_MAN.decl.name).map(|last| last.ended_ms);
    if before.is_some_and(|at| now.saturating_sub(at) > SLEPT_MS) {
        return Ok("the machine slept; the watchers have until the next run".to_owned());
    }
    let (mut done, mut failed) = (Vec::new(), Vec::new());
    for name in WATCHERS {
        if !cx.env().catalogue.iter().any(|d| d.name == name) {
            continue;
        }
        let Some(why) = stopped(home, name, now) else { continue };
        tracing::warn!(agent = name, why, "its heart has stopped; it is restarted");
        match restart(&cx, name).await {
            Ok(how) => done.push(format!("restarted {name} {how}: {why}")),
            Err(e) => failed.push(format!("{name} cannot be restarted ({e}): {why}")),
        }
    }
    match (failed.is_empty(), done.is_empty()) {
        (false, _) => Err(failed.into_iter().chain(done).collect::<Vec<_>>().join("; ")),
        (true, false) => Ok(done.join("; ")),
        (true, true) => Ok("every heart beats".to_owned()),
    }
}

/// Returns why a watcher's heart counts as stopped; nothing when it beats or is not to.
fn stopped(home: &Home, name: &str, now_ms: u64) -> Option<String> {
    if desired::read(home, name).0 != Wish::Running {
        return None;
    }
    let beat = std::fs::metadata(home.run().join(format!("{name}.beat"))).and_then(|m| m.modified());
    let Ok(beat) = beat else { return Some("it has never beaten".to_owned()) };
    let at =
        beat.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(0));
    let age = now_ms.saturating_sub(at);
    (age > STALE_MS).then(|| format!("its last beat was {} s ago", age / 1_000))
}

async fn restart(cx: &JobContext, name: &str) -> Result<&'static str, String> {
    let mut supervisor = SupervisorServiceClient::new(cx.channel("supervisor"));
    let request = RestartAgentRequest { name: name.to_owned(), kill: true };
    let asked = tokio::time::timeout(PATIENCE, supervisor.restart_agent(request)).await;
    let error = match asked {
        Ok(Ok(_)) => return Ok("through the supervisor"),
        Ok(Err(status)) => status.message().to_owned(),
        Err(_) => "the supervisor does not answer".to_owned(),
    };
    // Whoever keeps the process starts it again when it is gone.
    let pid = mirror_supervisor::rows::living(cx.home(), name)
        .and_then(|pid| i32::try_from(pid).ok())
        .ok_or_else(|| format!("{error}; and it has no process"))?;
    kill(Pid::from_raw(pid), Signal::SIGKILL)
        .map_err(|e| format!("{error}; and it cannot be killed: {e}"))?;
    Ok("by a signal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn only_an_old_beat_of_a_watcher_that_should_run_counts() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        let at = 1_800_000_000_000;
        assert_eq!(stopped(&home, "pulse", at).as_deref(), Some("it has never beaten"));
        let file = File::create(home.run().join("pulse.beat")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_millis(at)).unwrap();
        assert_eq!(stopped(&home, "pulse", at + 750_000), None);
        assert_eq!(stopped(&home, "pulse", at - 5_000), None, "the clock was set back");
        let why = stopped(&home, "pulse", at + 751_000).unwrap();
        assert_eq!(why, "its last beat was 751 s ago");
        desired::write(&home, "pulse", Wish::Stopped, "").unwrap();
        assert_eq!(stopped(&home, "pulse", at + 751_000), None);
    }
}
