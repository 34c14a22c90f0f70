//! `mirror up`: the fleet in the foreground, with launchd's rules.
//!
//! It lays the links and the property lists, runs the supervisor with its engine in this process, and drains.
//! It refuses a second fleet in one home, and leaves no process behind when it is asked to end.
//! Invariant: every process that it started has a fleet row while it lives.

mod health;
mod links;
mod show;
mod takeover;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use mirror_agents::Agent;
use mirror_clock::{Clock as _, SystemClock};
use mirror_errors::Kind;
use mirror_kit::{Decl, Env, Exit, Keep, Shutdown, serve_here};
use mirror_paths::Home;
use mirror_supervisor::engine::{Handle, Managed, engine, lay};
use mirror_supervisor::{Backend as _, Foreground, rows};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

pub(crate) use self::links::link;
use self::show::Show;
use crate::app::app;
use crate::ctx::{Ctx, up_lock};
use crate::failure::Failure;
use crate::out::{Out, say};

/// How long a process may take to end after SIGTERM; `ExitTimeOut` of the plists.
pub(crate) const EXIT_TIME_OUT: Duration = Duration::from_secs(15);

/// The service that this process is itself.
pub(crate) const OWN: &str = mirror_supervisor::DECL.name;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let begun = SystemClock.boot();
    let home = ctx.home()?;
    let (node, fresh) = mirror_kit::init(&home).map_err(|e| Failure::home(&e))?;
    for service in app().services {
        home.socket(service.decl.name).map_err(|e| Failure::home(&e))?;
    }
    // Held until the process ends, however it ends.
    let _lock = lock(&home)?;
    let mut stops = Stops::new()?;
    let main = links::lay(&home, &ctx.exe()?)?;
    if fresh {
        say(&format!("made {} for log {}", home.root().display(), node.origin));
    }
    tokio::select! {
        result = takeover::run(&home) => result?,
        () = stops.next() => return Ok(()),
    }
    let mut services: Vec<&'static Decl> =
        app().catalogue().into_iter().filter(|d| d.keep == Keep::Always).collect();
    services.sort_by_key(|d| (d.tier, d.name));
    let agents = managed(&home, &services)?;
    lay(&home, &agents).map_err(|e| Failure::file("write property lists in", &home.agents(), &e))?;
    let tiers: BTreeSet<u8> = agents.iter().map(|agent| agent.tier).collect();
    let pid = std::process::id();
    rows::write(&home, OWN, pid).map_err(|e| Failure::file("write a row in", &home.fleet(), &e))?;

    let (engine, handle) = engine(home.clone(), Arc::new(SystemClock), agents, Box::new(say));
    let (stop, shutdown) = Shutdown::pair();
    let serving = Box::pin(serve(&home, &handle, shutdown));
    let directing = async {
        handle.begin().await;
        let rows = handle.rows();
        let mut show = Show { ctx, out, home: &home, main: &main, services: &services, rows };
        tokio::select! {
            () = show.announce(begun) => stops.next().await,
            () = stops.next() => {}
        }
        drain(&handle, &tiers, &mut stops).await;
        handle.finish().await;
        let _ = stop.send(true);
    };
    futures::future::join3(Box::pin(engine.run()), serving, Box::pin(directing)).await;
    rows::remove(&home, OWN, pid);
    if out.json_wanted() {
        let _ = out.json(&json!({"event": "drained"}));
    } else {
        let _ = out.line("drained");
    }
    // The fleet must not depend on somebody reading what it prints.
    let _ = out.flush();
    Ok(())
}

/// Returns the agents to keep: the services and all jobs.
fn managed(home: &Home, services: &[&'static Decl]) -> Result<Vec<Managed>, Failure> {
    let agents = mirror_agents::agents(services, &app().job_catalogue());
    let agents = agents.map_err(|e| Failure::bug(e.to_string()))?;
    let bin = home.bin();
    let managed = |agent: &Agent| Managed { own: agent.name == OWN, ..Managed::of(agent, &bin, home) };
    Ok(agents.iter().map(managed).collect())
}

/// Answers on the supervisor's socket until the fleet has ended.
async fn serve(home: &Home, handle: &Handle, shutdown: Shutdown) {
    let Some(service) = app().service(OWN) else { return };
    let given = Arc::new(Foreground(Arc::new(handle.clone())));
    let env = Env { given: Some(given), ..app().env(home.clone()) };
    let exit = tokio::select! {
        exit = serve_here(env, service, shutdown) => exit,
        never = keep_rows(home, handle) => match never {},
    };
    if let Exit::Fatal(why) | Exit::Failed(why) = exit {
        say(&format!("{OWN} does not serve ({why}); the fleet is kept, but nothing can steer it"));
    }
}

/// Writes again what a removed folder of sockets held and only `up` can give: its lock, and the rows of what runs.
///
/// The services bind their sockets again by themselves.
async fn keep_rows(home: &Home, handle: &Handle) -> std::convert::Infallible {
    let mut relocked = None;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        if home.fleet().join(OWN).exists() {
            continue;
        }
        say("the folder of sockets was removed; it is made again");
        if let Err(e) = home.prepare() {
            say(&format!("the home cannot be prepared: {e}"));
        }
        if !up_lock(home).exists() {
            relocked = lock(home).ok().or(relocked);
        }
        let own = rows::write(home, OWN, std::process::id());
        if let Err(e) = own.and_then(|()| rows::restore(home, &handle.rows().borrow())) {
            say(&format!("fleet rows cannot be written again ({e}); services are taken for local callers"));
        }
    }
}

/// Takes the lock of the one `up` of a home.
fn lock(home: &Home) -> Result<File, Failure> {
    let path = up_lock(home);
    let failed = |e: std::io::Error| Failure::file("lock", &path, &e);
    let open = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = open.map_err(failed)?;
    // A command that asks whether a fleet runs holds the lock for an instant.
    for _ in 0..20 {
        match file.try_lock() {
            Ok(()) => {
                let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                return written.map(|()| file).map_err(failed);
            }
            Err(TryLockError::WouldBlock) => std::thread::park_timeout(Duration::from_millis(5)),
            Err(TryLockError::Error(e)) => return Err(failed(e)),
        }
    }
    let pid = std::fs::read_to_string(&path).unwrap_or_default();
    let message = format!("the fleet of {} runs already (pid {})", home.root().display(), pid.trim());
    Err(Failure::new(Kind::Precondition, "CLI_UP_RUNNING", message)
        .hint("end it with Ctrl-C in its terminal, or use another home with --home"))
}

/// The signals that end the fleet.
struct Stops {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Stops {
    fn new() -> Result<Self, Failure> {
        let listen =
            |kind| signal(kind).map_err(|e| Failure::bug(format!("signals cannot be received: {e}")));
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.term.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// Stops all agents, upper tiers first, so that none loses a peer before it has ended.
async fn drain(handle: &Handle, tiers: &BTreeSet<u8>, stops: &mut Stops) {
    say("draining; a second Ctrl-C ends what is left at once");
    let draining = async {
        for tier in tiers.iter().rev() {
            handle.drain(*tier).await;
        }
    };
    tokio::pin!(draining);
    loop {
        tokio::select! {
            () = &mut draining => return,
            () = stops.next() => handle.kill().await,
        }
    }
}
