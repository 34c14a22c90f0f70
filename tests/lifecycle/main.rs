//! Every order of install, start, stop, restart, update, uninstall, crash, reboot, restart of the supervisor and
//! quarantine, driven through the real installer and the real launchd backend, against launchd as a model.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test reports by panicking")]

mod world;

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use mirror_kit::desired::Wish;
use mirror_supervisor::Backend as _;
use mirror_supervisor::managed::ManagerBackend;

use world::{BAD, Inner, World};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Command {
    Install,
    Start,
    Stop,
    Restart,
    Update,
    Uninstall,
    Crash,
    Reboot,
    SupervisorRestart,
    Quarantine,
}

const ALL: [Command; 10] = [
    Command::Install,
    Command::Start,
    Command::Stop,
    Command::Restart,
    Command::Update,
    Command::Uninstall,
    Command::Crash,
    Command::Reboot,
    Command::SupervisorRestart,
    Command::Quarantine,
];

const AGENT: &str = "bus";

/// How many commands a history has at most; every one of these lengths is tried whole.
const LENGTH: usize = 6;

/// A world and what the owner was told about it.
struct Play {
    world: World,
    backend: ManagerBackend,
    installed: bool,
}

impl Play {
    fn new(world: World, installed: bool) -> Self {
        let backend = world.backend(0);
        Self { world, backend, installed }
    }

    async fn run(&mut self, command: Command) -> Result<(), String> {
        let world = &self.world;
        let from = world.calls();
        let built = world.lock().laid.0.max(1);
        let was = world.wish("dev.mirrordna.bus");
        // Without an install there is no supervisor that could be asked.
        if !self.installed
            && matches!(command, Command::Start | Command::Stop | Command::Restart | Command::Quarantine)
        {
            return Ok(());
        }
        let home = tree(&world.home.root().to_owned());
        let result = match command {
            Command::Install => world.install(built, 0).await,
            Command::Update => world.install(built + 1, 0).await,
            Command::Uninstall => world.uninstall().await,
            Command::Start => self.backend.start(AGENT).await.map(|_| ()).map_err(|e| e.to_string()),
            Command::Stop => {
                self.backend.stop(AGENT, Wish::Stopped, "").await.map(|_| ()).map_err(|e| e.to_string())
            }
            Command::Quarantine => {
                let stopped = self.backend.stop(AGENT, Wish::Quarantined, "it failed").await;
                stopped.map(|_| ()).map_err(|e| e.to_string())
            }
            Command::Restart => match self.backend.restart(AGENT, false).await {
                Err(mirror_supervisor::Error::Stopped { .. }) if was != Wish::Running => Ok(()),
                other => other.map(|_| ()).map_err(|e| e.to_string()),
            },
            Command::Crash => {
                world.crash();
                Ok(())
            }
            Command::Reboot => {
                world.reboot();
                self.backend = world.backend(0);
                Ok(())
            }
            Command::SupervisorRestart => {
                self.backend = world.backend(0);
                if self.installed { self.backend.begin().await.map_err(|e| e.to_string()) } else { Ok(()) }
            }
        };
        match command {
            Command::Install | Command::Update if result.is_ok() => self.installed = true,
            Command::Uninstall if result.is_ok() => {
                self.installed = false;
                assert_eq!(tree(&world.home.root().to_owned()), home, "an uninstall touched the home");
                assert!(!world.folder.join("dev.mirrordna.bus.plist").exists());
            }
            Command::Install | Command::Update | Command::Uninstall => {}
            _ => assert!(!world.called(from, "bootout"), "{command:?} unloaded an agent"),
        }
        result
    }

    /// What must hold at once when a command has said that it is done.
    fn check_claim(&self, command: Command) {
        let (running, wish) = (self.world.running(AGENT), self.world.wish("dev.mirrordna.bus"));
        let laid = self.world.lock().laid.0;
        match command {
            Command::Install | Command::Update if wish == Wish::Running => assert_eq!(running, [laid]),
            Command::Stop | Command::Quarantine if self.installed => assert!(running.is_empty()),
            Command::Uninstall => assert!(running.is_empty() && !self.world.loaded(AGENT)),
            _ => {}
        }
    }

    /// Lets everything come to rest, and checks that it is as it is wanted.
    async fn settle_and_check(&self) {
        for _ in 0..6 {
            self.world.pass(Duration::from_secs(10));
            if self.installed {
                self.backend.sweep().await.unwrap();
            }
        }
        let (running, wish) = (self.world.running(AGENT), self.world.wish("dev.mirrordna.bus"));
        assert_eq!(self.world.loaded(AGENT), self.installed, "loaded");
        if self.installed && wish == Wish::Running {
            assert_eq!(running, [self.world.lock().laid.0], "it should run, from the build in place");
            let rows = self.backend.rows().borrow().clone();
            let row = fs::read_to_string(self.world.home.fleet().join(AGENT));
            assert!(rows[0].pid != 0 && row.is_err(), "the model's processes are not real ones: {row:?}");
        } else {
            assert!(running.is_empty(), "{wish:?}, and it runs");
        }
        assert_eq!(self.world.lock().broken, [""; 0]);
    }
}

/// Returns the files of a home, but for those that live only as long as processes.
fn tree(folder: &PathBuf) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if !path.ends_with("run") {
                files.extend(tree(&path));
            }
        } else {
            files.push((path.clone(), fs::read_to_string(&path).unwrap()));
        }
    }
    files.sort();
    files
}

/// A state of a world that a history can go on from.
struct Point {
    inner: Inner,
    wish: Option<String>,
    plist: Option<String>,
    installed: bool,
}

struct Search {
    world: World,
    /// The longest rest of a history that was tried from each state.
    tried: HashMap<String, usize>,
    runs: usize,
    path: Vec<Command>,
}

impl Search {
    fn files(&self) -> [PathBuf; 2] {
        [self.world.home.desired().join(AGENT), self.world.folder.join("dev.mirrordna.bus.plist")]
    }

    fn point(&self, installed: bool) -> Point {
        let [wish, plist] = self.files().map(|path| fs::read_to_string(path).ok());
        Point { inner: self.world.lock().clone(), wish, plist, installed }
    }

    fn back_to(&self, point: &Point) {
        self.world.restore(&point.inner);
        for (path, text) in self.files().iter().zip([&point.wish, &point.plist]) {
            match text {
                Some(text) => fs::write(path, text).unwrap(),
                None => drop(fs::remove_file(path)),
            }
        }
    }

    async fn from(&mut self, point: &Point, left: usize) {
        let key =
            format!("{} {:?} {:?} {}", self.world.key(), point.wish, point.plist.is_some(), point.installed);
        if self.tried.get(&key).is_some_and(|tried| *tried >= left) {
            return;
        }
        let first = self.tried.insert(key, left).is_none();
        if first {
            Play::new(self.world.clone(), point.installed).settle_and_check().await;
            self.back_to(point);
        }
        if left == 0 {
            return;
        }
        for command in ALL {
            self.path.push(command);
            self.runs += 1;
            let mut play = Play::new(self.world.clone(), point.installed);
            let result = play.run(command).await;
            assert_eq!(result, Ok(()), "{command:?}");
            play.check_claim(command);
            let installed = play.installed;
            let next = self.point(installed);
            Box::pin(self.from(&next, left - 1)).await;
            self.back_to(point);
            self.path.pop();
        }
    }
}

/// Says which history failed.
struct Said<'a>(&'a std::cell::RefCell<Vec<Command>>);

impl Drop for Said<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("the history: {:?}", self.0.borrow());
        }
    }
}

#[tokio::test]
async fn every_order_of_commands_ends_as_it_is_wanted() {
    let world = World::new(&[AGENT]);
    fs::create_dir_all(&world.folder).unwrap();
    let mut search = Search { world, tried: HashMap::new(), runs: 0, path: Vec::new() };
    let start = search.point(false);
    search.from(&start, LENGTH).await;
    println!("{} commands from {} states", search.runs, search.tried.len());
    assert!(search.tried.len() > 30, "{} states are too few to be all", search.tried.len());
}

/// A generator that a seed repeats: splitmix64.
struct Dice(u64);

impl Dice {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap()
    }
}

#[tokio::test]
async fn long_histories_of_one_supervisor_end_as_they_are_wanted() {
    for seed in 0..60 {
        let mut dice = Dice(seed);
        let mut play = Play::new(World::new(&[AGENT]), false);
        let history = std::cell::RefCell::new(Vec::new());
        let _said = Said(&history);
        for _ in 0..60 {
            let command = ALL[dice.next(ALL.len())];
            history.borrow_mut().push(command);
            assert_eq!(play.run(command).await, Ok(()), "seed {seed}: {command:?}");
            play.check_claim(command);
            match dice.next(4) {
                0 => play.world.pass(Duration::from_millis(dice.next(12_000) as u64)),
                1 => play.settle_and_check().await,
                _ => {}
            }
        }
        play.settle_and_check().await;
    }
}

#[tokio::test]
async fn a_launchd_that_fails_now_and_then_is_never_called_a_success() {
    let faults: [(&str, &[i32]); 7] = [
        ("print", &[5, 36, 37, 112, 125]),
        ("bootstrap", &[5, 17, 36, 37, 119, 125]),
        ("bootout", &[3, 5, 36, 37, 113, 125]),
        ("enable", &[5, 36, 113, 125]),
        ("kickstart", &[3, 5, 36, 37, 113, 119, 125]),
        ("kill", &[5, 36, 37, 119, 125]),
        ("list", &[1, 5, 125]),
    ];
    let mut refused = 0;
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut play = Play::new(World::new(&[AGENT]), false);
        let history = std::cell::RefCell::new(Vec::new());
        let _said = Said(&history);
        for _ in 0..12 {
            let command = ALL[dice.next(ALL.len())];
            history.borrow_mut().push(command);
            for _ in 0..dice.next(4) {
                let (verb, codes) = faults[dice.next(faults.len())];
                play.world.fault(verb, codes[dice.next(codes.len())], dice.next(3) == 0);
            }
            if play.run(command).await.is_ok() {
                play.check_claim(command);
            } else {
                refused += 1;
            }
            play.world.lock().model.faults.clear();
            assert_eq!(play.world.lock().broken, [""; 0], "seed {seed}");
        }
        // Whatever is left, one install on a sound launchd mends it.
        let built = play.world.lock().laid.0.max(1);
        assert_eq!(play.world.install(built, 0).await, Ok(()), "seed {seed}");
        play.installed = true;
        play.settle_and_check().await;
    }
    assert!(refused > 100, "only {refused} commands met their fault");
}

#[tokio::test]
async fn a_bad_build_is_put_back_and_the_old_one_serves() {
    let world = World::new(&["supervisor", "bus", "halt"]);
    world.install(1, 0).await.unwrap();
    world.pass(Duration::from_secs(60));
    let why = world.install(BAD, 0).await.unwrap_err();
    assert!(why.starts_with("supervisor: it did not come up with build 1000 within 35 s"), "{why}");
    for agent in &world.agents {
        assert_eq!(world.running(agent), [1], "{agent}");
        assert_eq!(world.wish(&format!("dev.mirrordna.{agent}")), Wish::Running);
    }
    world.pass(Duration::from_secs(600));
    assert_eq!(world.lock().broken, [""; 0]);
}

#[tokio::test]
async fn an_update_kicks_one_after_the_other_and_leaves_what_is_stopped() {
    let world = World::new(&["supervisor", "bus", "halt"]);
    world.install(1, 0).await.unwrap();
    world.backend(0).stop("halt", Wish::Stopped, "").await.unwrap();
    let from = world.calls();
    world.install(2, 0).await.unwrap();
    assert!(!world.called(from, "bootout"), "the definitions are the same");
    assert_eq!(
        (world.running("supervisor"), world.running("bus"), world.running("halt")),
        (vec![2], vec![2], vec![])
    );
    let from = world.calls();
    world.install(2, 1).await.unwrap();
    assert!(world.called(from, "bootout"), "the definitions have changed");
    // What is loaded is started once, and ends by itself where it is not to run.
    world.pass(Duration::from_secs(1));
    assert_eq!(
        (world.running("supervisor"), world.running("bus"), world.running("halt")),
        (vec![2], vec![2], vec![])
    );
    let from = world.calls();
    world.install(2, 1).await.unwrap();
    assert!(!world.called(from, "kickstart"), "an install of what is there disturbs nobody");
}

#[tokio::test]
async fn a_hung_process_is_killed_by_a_stop_and_by_a_restart() {
    let world = World::new(&[AGENT]);
    world.install(1, 0).await.unwrap();
    let backend = world.backend(0);
    backend.begin().await.unwrap();
    let first = backend.rows().borrow()[0].pid;
    world.hang();
    let begun = world.lock().now;
    backend.restart(AGENT, true).await.unwrap();
    world.pass(Duration::from_secs(10));
    backend.sweep().await.unwrap();
    assert_ne!(backend.rows().borrow()[0].pid, first);
    assert_eq!(world.running(AGENT), [1]);
    assert!(world.lock().now - begun < Duration::from_secs(12));
    world.hang();
    backend.stop(AGENT, Wish::Stopped, "for a test").await.unwrap();
    assert!(world.running(AGENT).is_empty());
    let row = backend.rows().borrow()[0].clone();
    assert_eq!((row.wish, row.reason.as_str(), row.pid), (Wish::Stopped, "for a test", 0));
}

#[tokio::test]
async fn without_a_desktop_session_the_other_domain_is_used_and_a_session_that_ends_is_an_error() {
    let world = World::new(&[AGENT]);
    world.lock().model.session = false;
    world.install(1, 0).await.unwrap();
    assert_eq!(world.running(AGENT), [1]);

    let world = World::new(&[AGENT]);
    let backend = world.backend(0);
    world.install(1, 0).await.unwrap();
    backend.begin().await.unwrap();
    world.lock().model.session = false;
    let error = backend.start(AGENT).await.unwrap_err().to_string();
    assert!(error.contains("exit code 125"), "{error}");
    assert_eq!(world.running(AGENT), [1], "a second copy was started");
}

#[tokio::test]
async fn an_edited_property_list_is_seen_and_rendered_again() {
    let world = World::new(&[AGENT]);
    world.install(1, 0).await.unwrap();
    let backend = world.backend(0);
    backend.refresh().await.unwrap();
    assert_eq!(backend.rows().borrow()[0].problem, "");
    fs::write(world.folder.join("dev.mirrordna.bus.plist"), "edited").unwrap();
    backend.refresh().await.unwrap();
    assert!(backend.rows().borrow()[0].problem.contains("mirror install"));
    let (changed, row) = backend.render(AGENT).await.unwrap();
    assert!(changed && row.problem.is_empty(), "{row:?}");
    assert!(!backend.render(AGENT).await.unwrap().0);
    world.pass(Duration::from_secs(1));
    assert_eq!(world.running(AGENT), [1]);
}

#[tokio::test]
async fn what_differs_from_what_is_wanted_is_brought_to_it() {
    let world = World::new(&[AGENT]);
    world.install(1, 0).await.unwrap();
    let backend = world.backend(0);
    backend.begin().await.unwrap();
    world.quit();
    world.pass(Duration::from_secs(60));
    assert!(world.running(AGENT).is_empty(), "launchd takes an exit with 0 for final");
    backend.sweep().await.unwrap();
    assert_eq!(world.running(AGENT), [1]);

    mirror_kit::desired::write(&world.home, AGENT, Wish::Stopped, "").unwrap();
    backend.sweep().await.unwrap();
    world.pass(Duration::from_secs(60));
    assert!(world.running(AGENT).is_empty(), "a wish that was written by hand is followed");
}
