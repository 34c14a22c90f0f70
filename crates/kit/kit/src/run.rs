//! Running a service: the same steps in the same order for all.

use std::any::Any;
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt as _};
use mirror_client::{Dial, SocketDial};
use mirror_clock::{Clock, SystemClock};
use mirror_contract::mirror::kit::v1 as pb;
use mirror_errors::Chain;
use mirror_paths::Home;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic_health::ServingStatus;

use crate::DRAIN_LIMIT;
use crate::api::{Dispatch, KitApi, merge};
use crate::context::{Context, Shutdown, StartError};
use crate::decl::{Decl, JobDecl, Service};
use crate::desired::{self, Wish};
use crate::guard::{GuardLayer, Shared};
use crate::halt::Halt;
use crate::home;
use crate::job::Job;
use crate::lease::{Lease, LeaseInfo};
use crate::listener::{Bound, Conn, Incoming};
use crate::logs::{self, RollingFile};
use crate::peer::await_fleet_row;
use crate::starts;
use crate::state::{State, StateCell};
use crate::tasks::Tasks;

/// Full name of the kit's own gRPC service.
pub(crate) const KIT_SERVICE: &str = "mirror.kit.v1.KitService";

/// Exit code after a drain that nobody wanted to be final: the supervisor starts the service again.
const EXIT_RESTART: u8 = 75;
/// Exit code when another process serves already.
const EXIT_TAKEN: u8 = 73;
/// Exit code after a failure to start, or a fatal condition.
pub(crate) const EXIT_FAILED: u8 = 74;

/// How long no call must have been in progress for a drain to end: a client that does not read or hang up, or that
/// never began, must not hold up a restart.
const QUIET: Duration = Duration::from_secs(1);

/// What all services of a process have in common.
#[derive(Debug, Clone)]
pub struct Env {
    /// The home.
    pub home: Home,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// How peers are reached.
    pub dial: Arc<dyn Dial>,
    /// Every declared service.
    pub catalogue: Arc<[&'static Decl]>,
    /// Every declared job.
    pub jobs: Arc<[&'static JobDecl]>,
    /// What the process gives a service that is not alone in it; see [`Context::given`].
    pub given: Option<Arc<dyn Any + Send + Sync>>,
    /// Build id.
    pub build: &'static str,
}

/// A binary: its build id and its services.
#[derive(Debug, Clone, Copy)]
pub struct App {
    /// Build id: version and source revision.
    pub build: &'static str,
    /// The services, in order of name.
    pub services: &'static [&'static Service],
    /// The jobs, in order of name.
    pub jobs: &'static [&'static Job],
}

impl App {
    /// Returns a service by name.
    pub fn service(&self, name: &str) -> Option<&'static Service> {
        self.services.iter().find(|s| s.decl.name == name).copied()
    }

    /// Returns a job by name.
    pub fn job(&self, name: &str) -> Option<&'static Job> {
        self.jobs.iter().find(|j| j.decl.name == name).copied()
    }

    /// Returns all declarations.
    pub fn catalogue(&self) -> Vec<&'static Decl> {
        self.services.iter().map(|s| s.decl).collect()
    }

    /// Returns the declarations of all jobs.
    pub fn job_catalogue(&self) -> Vec<&'static JobDecl> {
        self.jobs.iter().map(|j| j.decl).collect()
    }

    /// Returns what the services of a process with the machine's clocks and sockets have in common.
    pub fn env(&self, home: Home) -> Env {
        Env {
            clock: Arc::new(SystemClock),
            dial: Arc::new(SocketDial::new(home.clone())),
            catalogue: self.catalogue().into(),
            jobs: self.job_catalogue().into(),
            given: None,
            build: self.build,
            home,
        }
    }
}

/// How a service ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exit {
    /// It was asked to stop, and drained.
    Drained,
    /// It gave up, and says why.
    Fatal(String),
    /// It could not be built.
    Failed(String),
}

/// Runs one service as the whole process.
pub fn main(app: &'static App, service: &'static Service) -> ExitCode {
    let name = service.decl.name;
    match prepare(app, service) {
        Ok(Some((env, lease))) => {
            let runtime = if service.decl.threads > 1 {
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(service.decl.threads)
                    .enable_all()
                    .build()
            } else {
                tokio::runtime::Builder::new_current_thread().enable_all().build()
            };
            match runtime {
                Ok(runtime) => {
                    let code = runtime.block_on(run_process(env, service, lease));
                    runtime.shutdown_timeout(Duration::from_millis(200));
                    ExitCode::from(code)
                }
                Err(e) => complain(name, &format!("cannot start the executor: {e}"), EXIT_FAILED),
            }
        }
        Ok(None) => ExitCode::SUCCESS,
        Err((code, why)) => complain(name, &why, code),
    }
}

#[expect(clippy::print_stderr, reason = "there is no log yet, or nobody would look there")]
fn complain(service: &str, why: &str, code: u8) -> ExitCode {
    tracing::error!(service, why, "cannot start");
    eprintln!("mirror-{service}: {why}");
    ExitCode::from(code)
}

fn prepare(app: &'static App, service: &Service) -> Result<Option<(Env, Lease)>, (u8, String)> {
    let name = service.decl.name;
    let failed = |e: &dyn std::error::Error| (EXIT_FAILED, Chain(e).to_string());
    #[cfg(target_os = "linux")]
    nix::sys::prctl::set_dumpable(false).map_err(|e| failed(&e))?;
    let home = Home::from_env().map_err(|e| failed(&e))?;
    home::init(&home).map_err(|e| failed(&e))?;
    if is_stopped(&home, name) {
        return Ok(None);
    }
    raise_file_limit();
    let log = RollingFile::open(home.log().join(format!("{name}.log"))).map_err(|e| failed(&e))?;
    logs::install(log);
    let lease = Lease::take(&home, name).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => (EXIT_TAKEN, "another process serves this home already".to_owned()),
        _ => failed(&e),
    })?;
    if supervised() && !starts::begin(&home, name, SystemClock.boot()) {
        return Ok(None);
    }
    Ok(Some((app.env(home), lease)))
}

/// Asks for as many open files as the connections and a store may need; macOS starts with 256.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let wanted = hard.min(4096);
        if soft < wanted {
            // With fewer files the service works and accepts less.
            let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted, hard);
        }
    }
}

/// Returns whether the owner, or the supervisor for its failures, wants the service down.
pub(crate) fn is_stopped(home: &Home, name: &str) -> bool {
    desired::read(home, name).0 != Wish::Running
}

/// Returns whether a supervisor started this process and will start it again.
pub(crate) fn supervised() -> bool {
    std::env::var_os("MIRROR_SUPERVISED").is_some()
}

async fn run_process(env: Env, service: &'static Service, lease: Lease) -> u8 {
    let name = service.decl.name;
    await_fleet_row(&env.home, name).await;
    let bound = match Bound::bind(&env.home, name) {
        Ok(bound) => bound,
        Err(e) => {
            tracing::error!(error = %Chain(&e), "cannot bind");
            starts::failed(&env.home, name, &format!("cannot bind: {}", Chain(&e)));
            return EXIT_FAILED;
        }
    };
    let (stop, shutdown) = Shutdown::pair();
    let signals = async move {
        let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            return std::future::pending().await;
        };
        tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
        let _ = stop.send(true);
        // The sender must outlive the drain.
        std::future::pending::<()>().await;
    };
    let (home, clock) = (env.home.clone(), Arc::clone(&env.clock));
    let lease = Arc::new(lease);
    let incoming = Incoming::new(bound, home.clone(), name, Arc::clone(&lease));
    let settling = async {
        clock.sleep(starts::SETTLED).await;
        starts::settled(&home, name);
        std::future::pending::<()>().await;
    };
    let exit = tokio::select! {
        exit = serve_leased(env, service, incoming, shutdown, Some(lease)) => exit,
        () = signals => Exit::Drained,
        () = settling => Exit::Drained,
    };
    match exit {
        Exit::Drained => {
            starts::settled(&home, name);
            if is_stopped(&home, name) { 0 } else { EXIT_RESTART }
        }
        Exit::Fatal(why) => {
            tracing::error!(why, "gave up");
            starts::failed(&home, name, &why);
            EXIT_FAILED
        }
        Exit::Failed(why) => {
            tracing::error!(why, "cannot start");
            starts::failed(&home, name, &why);
            EXIT_FAILED
        }
    }
}

/// Serves a service on given connections until it is told to stop.
///
/// Health, state and reflection answer from the first moment; the service's own methods once it is built.
pub async fn serve<I>(env: Env, service: &'static Service, incoming: I, shutdown: Shutdown) -> Exit
where
    I: Stream<Item = io::Result<Conn>> + Send + 'static,
{
    serve_leased(env, service, incoming, shutdown, None).await
}

pub(crate) async fn serve_leased<I>(
    env: Env,
    service: &'static Service,
    incoming: I,
    shutdown: Shutdown,
    lease: Option<Arc<Lease>>,
) -> Exit
where
    I: Stream<Item = io::Result<Conn>> + Send + 'static,
{
    let decl = service.decl;
    let node = match home::node(&env.home) {
        Ok(node) => node,
        Err(e) => return Exit::Failed(Chain(&e).to_string()),
    };
    let state = StateCell::new();
    let (refusals, refused) = mpsc::channel(64);
    let (fatal, mut fatal_seen) = watch::channel(None);
    let halt = Halt::new(&env.home, Some(node.key), Arc::clone(&env.clock));
    let shared = Arc::new(Shared::new(decl, state.clone(), halt, Arc::clone(&env.clock), refusals));
    let tasks = Tasks::default();
    let context = Context {
        decl,
        env: env.clone(),
        node,
        state: state.clone(),
        tasks: tasks.clone(),
        shutdown: shutdown.clone(),
        fatal,
        refusals: Arc::new(Mutex::new(Some(refused))),
        warnings: Arc::default(),
    };

    let (reporter, health) = tonic_health::server::health_reporter();
    let info = LeaseInfo {
        pid: std::process::id(),
        started_ms: env.clock.wall_ms(),
        build: env.build.to_owned(),
        state: State::Starting.name().to_owned(),
        detail: String::new(),
    };
    publish(&state, &reporter, decl, lease.as_deref(), &info).await;
    let mut changes = state.watch();
    let publishing = {
        let (state, reporter, lease, info) = (state.clone(), reporter.clone(), lease.clone(), info.clone());
        async move {
            while changes.changed().await.is_ok() {
                publish(&state, &reporter, decl, lease.as_deref(), &info).await;
            }
        }
    };

    let kit =
        KitApi { shared: Arc::clone(&shared), info: info.clone(), warnings: Arc::clone(&context.warnings) };
    let base = Routes::new(health).add_service(pb::kit_service_server::KitServiceServer::new(kit));
    let full = Arc::new(OnceLock::new());
    let dispatch = Dispatch { decl, base: base.clone(), reflection: Arc::default(), full: Arc::clone(&full) };
    let watched = Arc::clone(&shared);
    let deaf = context.clone();
    let incoming = incoming
        .filter_map(move |conn| {
            let conn = conn.map(|c| c.watched(Arc::clone(&watched)));
            if let Err(e) = &conn {
                deaf.fatal(format!("cannot accept connections: {e}"));
            }
            futures::future::ready(conn.transpose())
        })
        // The server ends with its last connection, without a word; only the shutdown is to end it.
        .chain(futures::stream::pending());

    let drain = {
        let (shutdown, state) = (shutdown.clone(), state.clone());
        let mut fatal_seen = fatal_seen.clone();
        async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = given_up(&mut fatal_seen) => {}
            }
            state.set(State::Draining, "finishing calls");
        }
    };
    let server = Server::builder()
        .max_concurrent_streams(1024)
        .initial_stream_window_size(4 << 20)
        .initial_connection_window_size(8 << 20)
        .layer(GuardLayer(Arc::clone(&shared)))
        .serve_with_incoming_shutdown(dispatch, incoming, drain);

    let on_drain = Arc::new(Mutex::new(None));
    let building = {
        let (full, state, on_drain) = (Arc::clone(&full), state.clone(), Arc::clone(&on_drain));
        async move {
            match (service.build)(context.clone()).await {
                Ok(built) => {
                    let (routes, names, run) = built.finish();
                    if names != decl.serves {
                        let why = format!("serves {names:?} but declares {:?}", decl.serves);
                        return Some(Exit::Failed(why));
                    }
                    *on_drain.lock().unwrap_or_else(PoisonError::into_inner) = run;
                    let _ = full.set(merge(base, routes));
                    // A service may have found itself degraded while it was built.
                    if state.get().0 == State::Starting {
                        state.set(State::Serving, "");
                    }
                    tracing::info!(service = decl.name, build = info.build, "serving");
                    None
                }
                Err(StartError::Failed { what, source }) => {
                    Some(Exit::Failed(format!("{what}: {}", Chain(source.as_ref()))))
                }
                Err(e) => {
                    tracing::warn!(why = %e, "not serving");
                    state.set(State::NotServing, e.to_string());
                    None
                }
            }
        }
    };

    let running = async {
        tokio::pin!(server);
        tokio::select! {
            exit = building => if let Some(exit) = exit {
                return exit;
            },
            result = &mut server => return ended(result),
        }
        let result = tokio::select! {
            result = &mut server => result,
            why = after_drain(&shared, &shutdown, &mut fatal_seen) => {
                tracing::info!(why, "the rest of the connections is cut off");
                Ok(())
            }
        };
        ended(result)
    };
    let exit = tokio::select! {
        exit = running => exit,
        () = publishing => Exit::Drained,
    };
    if tokio::time::timeout(Duration::from_secs(1), tasks.join()).await.is_err() {
        tasks.abort();
    }
    let last = on_drain.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(run) = last {
        run();
    }
    let why = fatal_seen.borrow().clone();
    match why {
        Some(why) => Exit::Fatal(why),
        None => exit,
    }
}

fn ended(result: Result<(), tonic::transport::Error>) -> Exit {
    match result {
        Ok(()) => Exit::Drained,
        Err(e) => Exit::Fatal(Chain(&e).to_string()),
    }
}

/// Waits until an orderly end has taken too long, or until only clients are left that do not hang up.
async fn after_drain(
    shared: &Shared,
    shutdown: &Shutdown,
    fatal: &mut watch::Receiver<Option<String>>,
) -> &'static str {
    let limit = tokio::select! {
        () = shutdown.requested() => DRAIN_LIMIT,
        () = given_up(fatal) => Duration::from_millis(200),
    };
    let quiet = async {
        let mut since = tokio::time::Instant::now();
        while since.elapsed() < QUIET {
            tokio::time::sleep(QUIET / 20).await;
            if !shared.is_idle() {
                since = tokio::time::Instant::now();
            }
        }
    };
    tokio::select! {
        () = tokio::time::sleep(limit) => "the drain took too long",
        () = quiet => "no call is in progress",
    }
}

async fn given_up(fatal: &mut watch::Receiver<Option<String>>) {
    if fatal.wait_for(Option::is_some).await.is_err() {
        // Nobody is left who could give up.
        std::future::pending::<()>().await;
    }
}

async fn publish(
    state: &StateCell,
    reporter: &tonic_health::server::HealthReporter,
    decl: &Decl,
    lease: Option<&Lease>,
    info: &LeaseInfo,
) {
    let (state, detail) = state.get();
    let status = match state {
        State::Serving | State::Degraded => ServingStatus::Serving,
        State::Starting | State::NotServing | State::Draining => ServingStatus::NotServing,
    };
    reporter.set_service_status("", status).await;
    for name in decl.serves {
        reporter.set_service_status(*name, status).await;
    }
    if let Some(lease) = lease {
        let info = LeaseInfo { state: state.name().to_owned(), detail, ..info.clone() };
        if let Err(e) = lease.write(&info) {
            tracing::warn!(error = %e, "cannot write the lease");
        }
    }
}
