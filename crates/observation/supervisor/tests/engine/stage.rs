//! A home with shell scripts for agents, an engine over them, and a clock that the test moves.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use mirror_agents::Plist;
use mirror_agents::machine::KeepAlive;
use mirror_clock::ManualClock;
use mirror_kit::Tasks;
use mirror_paths::Home;
use mirror_supervisor::engine::{Engine, Handle, Managed, engine, lay};
use mirror_supervisor::{AgentRow, AgentState, Backend as _};
use mirror_testkit::{START_MS, wait};

pub(crate) struct Stage {
    pub(crate) home: Home,
    pub(crate) clock: ManualClock,
    pub(crate) agents: Vec<Managed>,
    pub(crate) said: Arc<Mutex<Vec<String>>>,
    tasks: Tasks,
    _temp: tempfile::TempDir,
}

impl Stage {
    pub(crate) fn new() -> Self {
        let temp = tempfile::Builder::new().prefix("m").tempdir().unwrap();
        let home = Home::at(temp.path().join("h")).unwrap();
        home.prepare().unwrap();
        let clock = ManualClock::new(START_MS);
        Self { home, clock, agents: Vec::new(), said: Arc::default(), tasks: Tasks::default(), _temp: temp }
    }

    /// Adds a service that runs a script; its list can be changed before it is rendered.
    pub(crate) fn add(&mut self, name: &str, script: &str, change: impl FnOnce(&mut Plist)) {
        let label = mirror_agents::label(name);
        let log = format!("{}/{name}.err", self.home.log().display());
        let mut plist = Plist {
            program: "/bin/sh".to_owned(),
            arguments: vec!["sh".to_owned(), "-c".to_owned(), script.to_owned()],
            run_at_load: true,
            keep_alive: KeepAlive::AfterFailure,
            throttle_secs: 10,
            exit_time_out_secs: 15,
            process_type: None,
            environment: [("HERE".to_owned(), self.home.root().display().to_string())].into(),
            umask: Some(0o077),
            working_directory: None,
            stdout: Some(log.clone()),
            stderr: Some(log),
            session_types: Vec::new(),
            files: None,
            interval_secs: None,
            calendar: Vec::new(),
            label,
        };
        change(&mut plist);
        let (job, tier) = (name.starts_with("job."), 1);
        self.agents.push(Managed { name: name.to_owned(), job, tier, text: plist.render(), own: false });
    }

    pub(crate) fn list(&self, name: &str) -> PathBuf {
        self.agents.iter().find(|a| a.name == name).unwrap().path(&self.home)
    }

    /// Changes the file of a list, as an owner with an editor does.
    pub(crate) fn edit(&self, name: &str, from: &str, to: &str) {
        let text = fs::read_to_string(self.list(name)).unwrap();
        assert!(text.contains(from), "{from:?} in {text}");
        // Another file, so that no resolution of a time stamp can hide the edit.
        fs::remove_file(self.list(name)).unwrap();
        fs::write(self.list(name), text.replace(from, to)).unwrap();
    }

    pub(crate) fn lay(&self) -> usize {
        lay(&self.home, &self.agents).unwrap()
    }

    /// Returns an engine that is not run yet.
    pub(crate) fn engine(&self) -> (Engine, Handle) {
        let said = Arc::clone(&self.said);
        let say = Box::new(move |text: &str| said.lock().unwrap().push(text.to_owned()));
        engine(self.home.clone(), Arc::new(self.clock.clone()), self.agents.clone(), say)
    }

    /// Runs an engine over the lists as they lie there.
    pub(crate) async fn run(&self) -> Up {
        let (engine, handle) = self.engine();
        let (ended, end) = tokio::sync::oneshot::channel();
        self.tasks.spawn(async move {
            engine.run().await;
            let _ = ended.send(());
        });
        handle.begin().await;
        Up { handle, end }
    }

    pub(crate) async fn up(&self) -> Up {
        self.lay();
        self.run().await
    }

    pub(crate) fn pass(&self, secs: u64) {
        self.clock.advance(Duration::from_secs(secs));
    }

    pub(crate) fn said(&self) -> String {
        self.said.lock().unwrap().join("\n")
    }

    pub(crate) fn file(&self, name: &str) -> String {
        fs::read_to_string(self.home.root().join(name)).unwrap_or_default()
    }
}

pub(crate) struct Up {
    pub(crate) handle: Handle,
    end: tokio::sync::oneshot::Receiver<()>,
}

impl Up {
    pub(crate) fn row(&self, name: &str) -> AgentRow {
        self.handle.rows().borrow().iter().find(|row| row.name == name).unwrap().clone()
    }

    pub(crate) async fn until(&self, name: &str, what: &str, holds: impl Fn(&AgentRow) -> bool) -> AgentRow {
        wait(&format!("{name}: {what}"), async || {
            let row = self.row(name);
            if holds(&row) { Ok(()) } else { Err(format!("{row:?}")) }
        })
        .await;
        self.row(name)
    }

    pub(crate) async fn running(&self, name: &str, starts: u64) -> AgentRow {
        let runs = |row: &AgentRow| row.state == AgentState::Running && row.pid != 0 && row.starts == starts;
        self.until(name, "runs", runs).await
    }

    pub(crate) async fn state(&self, name: &str, state: AgentState) -> AgentRow {
        self.until(name, &format!("is {state:?}"), |row| row.state == state).await
    }

    /// Waits until the engine has looked at the time.
    pub(crate) async fn settle(&self) {
        self.handle.refresh().await.unwrap();
    }

    /// Kills what is left, and waits for the engine.
    pub(crate) async fn end(self) {
        self.handle.kill().await;
        self.handle.finish().await;
        drop(self.handle);
        self.end.await.unwrap();
    }

    /// Gives up the only handle, and waits for the engine.
    pub(crate) async fn abandon(self) {
        drop(self.handle);
        self.end.await.unwrap();
    }
}
