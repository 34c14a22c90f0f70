//! `mirror up`: the fleet in the foreground, with launchd's rules.
//!
//! It refuses a second fleet in one home, and leaves no process behind when it is asked to end.
//! Invariant: every process that it started has a fleet row while it lives.

mod health;
mod keeper;
mod links;
mod rows;
mod takeover;

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use mirror_clock::{Clock as _, SystemClock};
use mirror_errors::Kind;
use mirror_kit::{Decl, Keep};
use mirror_paths::Home;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use self::health::Settled;
use self::keeper::{Keeper, Order, Phase};
use crate::app::{BUILD, app};
use crate::ctx::{Ctx, up_lock};
use crate::failure::Failure;
use crate::out::{BAD, DIM, GOOD, HEAD, ODD, Out, say};

/// How long a process may take to end after SIGTERM; `ExitTimeOut` of the plists.
pub(crate) const EXIT_TIME_OUT: Duration = Duration::from_secs(15);

/// What `up` holds of one service.
struct Hand {
    decl: &'static Decl,
    order: watch::Sender<Order>,
    phase: watch::Receiver<Phase>,
}

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

    let mut hands = Vec::new();
    let mut keepers = Vec::new();
    let mut kept: Vec<&'static Decl> =
        app().catalogue().into_iter().filter(|d| d.keep == Keep::Always).collect();
    kept.sort_by_key(|d| (d.tier, d.name));
    for decl in kept {
        let (order, orders) = watch::channel(Order::Run);
        let (phase, phases) = watch::channel(Phase::Waiting);
        keepers.push(Keeper { decl, home: home.clone(), order: orders, phase }.keep());
        hands.push(Hand { decl, order, phase: phases });
    }
    let directing = async {
        let mut show = Show { ctx, out, home: &home, main: &main, hands: &hands };
        tokio::select! {
            () = show.announce(begun) => stops.next().await,
            () = stops.next() => {}
        }
        drain(&hands, &mut stops).await;
    };
    futures::future::join(futures::future::join_all(keepers), directing).await;
    if out.json_wanted() {
        let _ = out.json(&json!({"event": "drained"}));
    } else {
        let _ = out.line("drained");
    }
    // The fleet must not depend on somebody reading what it prints.
    let _ = out.flush();
    Ok(())
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

/// Stops all services, upper tiers first, so that none loses a peer before it has ended.
async fn drain(hands: &[Hand], stops: &mut Stops) {
    say("draining; a second Ctrl-C ends what is left at once");
    let tiers: BTreeSet<u8> = hands.iter().map(|hand| hand.decl.tier).collect();
    let draining = async {
        for tier in tiers.into_iter().rev() {
            let of_tier: Vec<&Hand> = hands.iter().filter(|hand| hand.decl.tier == tier).collect();
            for hand in &of_tier {
                hand.order.send_if_modified(|order| {
                    let first = *order < Order::Stop;
                    *order = (*order).max(Order::Stop);
                    first
                });
            }
            futures::future::join_all(of_tier.iter().map(|hand| down(hand))).await;
        }
    };
    tokio::pin!(draining);
    loop {
        tokio::select! {
            () = &mut draining => return,
            () = stops.next() => {
                for hand in hands {
                    hand.order.send_replace(Order::Kill);
                }
            }
        }
    }
}

async fn down(hand: &Hand) {
    let mut phase = hand.phase.clone();
    // An error means that the keeper has ended.
    let _ = phase.wait_for(|now| matches!(now, Phase::Down(_))).await;
}

/// What `up` prints.
struct Show<'a> {
    ctx: &'a Ctx,
    out: &'a mut Out,
    home: &'a Home,
    main: &'a Path,
    hands: &'a [Hand],
}

impl Show<'_> {
    /// Prints a line for each service as it settles, then what to do next.
    async fn announce(&mut self, begun: Duration) {
        let mut waiting: FuturesUnordered<_> = self
            .hands
            .iter()
            .map(|hand| async {
                (hand.decl.name, health::settled(self.home, hand.decl.name, hand.phase.clone()).await)
            })
            .collect();
        let mut fine = true;
        while let Some((name, settled)) = waiting.next().await {
            fine &= settled.fine;
            self.line(name, &settled);
        }
        drop(waiting);
        let after = SystemClock.boot().saturating_sub(begun);
        self.ready(after, fine);
    }

    fn line(&mut self, name: &str, settled: &Settled) {
        let socket = self.home.socket(name).unwrap_or_default();
        let ms = u64::try_from(settled.after.as_millis()).unwrap_or(u64::MAX);
        if self.out.json_wanted() {
            let _ = self.out.json(&json!({
                "event": "service",
                "service": name,
                "state": settled.state,
                "detail": settled.detail,
                "pid": (settled.pid != 0).then_some(settled.pid),
                "healthy_ms": ms,
                "socket": socket,
            }));
        } else {
            let width = self.hands.iter().map(|hand| hand.decl.name.len()).max().unwrap_or(0);
            let style = match settled.state {
                "serving" => GOOD,
                "not serving" | "not healthy" => BAD,
                _ => ODD,
            };
            let mut line =
                format!("{name:<width$}  {}", self.out.paint(style, &format!("{:<11}", settled.state)));
            if settled.pid != 0 {
                let socket = self.out.paint(DIM, &socket.display().to_string());
                line.push_str(&format!("  pid {:<7}  {ms:>5} ms  {socket}", settled.pid));
            }
            if !settled.detail.is_empty() {
                line.push_str(&format!("  {}", crate::text::block(&settled.detail)));
            }
            let _ = self.out.line(line.trim_end());
        }
        let _ = self.out.flush();
    }

    fn ready(&mut self, after: Duration, fine: bool) {
        let (ms, commands) = (after.as_millis(), self.commands());
        if self.out.json_wanted() {
            let lines: Vec<&str> = commands.iter().map(|(_, line)| line.as_str()).collect();
            let value = json!({"event": "ready", "fine": fine, "ms": ms, "build": BUILD, "next": lines});
            let _ = self.out.json(&value);
        } else {
            let what = if fine { "the fleet is up" } else { "the fleet is up in part" };
            let _ = self.out.line(&format!("\n{} after {ms} ms, build {BUILD}", self.out.paint(HEAD, what)));
            let _ = self.out.line("next, in another terminal:\n");
            for (what, line) in &commands {
                let _ =
                    self.out.line(&format!("  {}\n  {line}\n", self.out.paint(DIM, &format!("# {what}"))));
            }
            let _ = self.out.line("Ctrl-C here drains the fleet.");
        }
        let _ = self.out.flush();
    }

    fn commands(&self) -> Vec<(&'static str, String)> {
        let command = |rest: &str| self.ctx.command(self.home, self.main, rest);
        let socket = self.home.socket("bus").unwrap_or_default();
        let socket = crate::text::shell_word(&socket.to_string_lossy());
        vec![
            ("bring in what your coding agents wrote down", command(&format!("import {}", transcripts()))),
            ("see events as they come", command("log -f")),
            ("see what happened, by day", command("changelog")),
            ("check every byte of the log", command("bus verify")),
            ("see what runs", command("status")),
            (
                "look with any gRPC client",
                format!("grpcurl -plaintext -authority localhost unix://{socket} list"),
            ),
        ]
    }
}

/// Returns transcripts to begin with: the user's own, else the samples where the source tree is.
fn transcripts() -> String {
    let own = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".claude/projects"));
    let samples = std::env::current_dir().map(|dir| dir.join("tests/samples"));
    match (own.filter(|dir| dir.is_dir()), samples.ok().filter(|dir| dir.is_dir())) {
        (None, Some(samples)) => crate::text::shell_word(&samples.to_string_lossy()),
        _ => "~/.claude/projects".to_owned(),
    }
}
