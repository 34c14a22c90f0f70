//! One service kept running: started, watched, started again, stopped.
//!
//! Invariant: between two starts of a service lie at least [`FLOOR`], which is what launchd does.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use mirror_kit::Decl;
use mirror_paths::Home;
use nix::sys::signal::Signal;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::takeover::send;
use super::{EXIT_TIME_OUT, rows};
use crate::out::say;
use mirror_kit::desired::{self, Wish};

/// Shortest time between two starts of one service.
pub(crate) const FLOOR: Duration = Duration::from_secs(10);

/// Size from which the output of earlier processes is put aside.
const OUTPUT_LIMIT: u64 = 1 << 20;

/// What a keeper is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Order {
    Run,
    Stop,
    Kill,
}

/// How the service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// No process, but one will be started.
    Waiting,
    /// A process, started at this boot time.
    Up { pid: u32, since: Duration },
    /// No process, and none will be started.
    Down(&'static str),
}

/// Keeps one service.
#[derive(Debug)]
pub(crate) struct Keeper {
    pub(crate) decl: &'static Decl,
    pub(crate) home: Home,
    pub(crate) order: watch::Receiver<Order>,
    pub(crate) phase: watch::Sender<Phase>,
}

enum Ended {
    ByItself(ExitStatus),
    ByOrder,
    Unstarted(io::Error),
}

impl Keeper {
    /// Keeps the service until it is told to stop, or the service is to stay down.
    pub(crate) async fn keep(mut self) {
        let why = self.keep_up().await;
        self.phase.send_replace(Phase::Down(why));
    }

    async fn keep_up(&mut self) -> &'static str {
        let clock = SystemClock;
        let name = self.decl.name;
        loop {
            match desired::read(&self.home, name).0 {
                Wish::Running => {}
                other => return other.name(),
            }
            if *self.order.borrow() > Order::Run {
                return "stopped";
            }
            let since = clock.boot();
            let ended = match self.spawn() {
                Ok(child) => self.attend(child, since).await,
                Err(e) => Ended::Unstarted(e),
            };
            let ran = clock.boot().saturating_sub(since);
            let how = match ended {
                Ended::ByOrder => return "stopped",
                Ended::ByItself(status) if status.success() => {
                    say(&format!("{name} ended by itself and stays down"));
                    return "stopped";
                }
                Ended::ByItself(status) => format!("ended with {} after {}", in_words(status), seconds(ran)),
                Ended::Unstarted(e) => format!("cannot be started ({e})"),
            };
            let rest = FLOOR.saturating_sub(ran);
            let when = if rest.is_zero() { "now".to_owned() } else { format!("in {}", seconds(rest)) };
            say(&format!("{name} {how}; it starts again {when}"));
            self.phase.send_replace(Phase::Waiting);
            tokio::select! {
                () = clock.sleep(rest) => {}
                () = ordered(&mut self.order, Order::Stop) => return "stopped",
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let link = self.decl.link();
        let output = self.output()?;
        let mut command = Command::new(self.home.bin().join(&link));
        command
            .arg0(link)
            .current_dir(self.home.root())
            .env("MIRROR_HOME", self.home.root())
            .env("MIRROR_SUPERVISED", "1")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C reaches the whole group of a terminal; the order of the drain is decided here.
            .process_group(0);
        let child = command.spawn()?;
        if let Some(pid) = child.id()
            && let Err(e) = rows::write(&self.home, self.decl.name, pid)
        {
            say(&format!(
                "{}: its fleet row cannot be written ({e}); peers take it for a local caller",
                self.decl.name
            ));
        }
        Ok(child)
    }

    /// Opens the file for what a process says outside of its log, such as why it could not open that.
    fn output(&self) -> io::Result<fs::File> {
        let path = self.home.log().join(format!("{}.err", self.decl.name));
        if fs::metadata(&path).is_ok_and(|m| m.len() > OUTPUT_LIMIT) {
            fs::rename(&path, path.with_extension("err.1"))?;
        }
        OpenOptions::new().append(true).create(true).mode(0o600).open(path)
    }

    async fn attend(&mut self, mut child: Child, since: Duration) -> Ended {
        let pid = child.id().unwrap_or_default();
        self.phase.send_replace(Phase::Up { pid, since });
        let ended = tokio::select! {
            status = child.wait() => status.map_or_else(Ended::Unstarted, Ended::ByItself),
            () = ordered(&mut self.order, Order::Stop) => {
                self.stop(&mut child, pid).await;
                Ended::ByOrder
            }
        };
        rows::remove(&self.home, self.decl.name, pid);
        ended
    }

    async fn stop(&mut self, child: &mut Child, pid: u32) {
        send(pid, Signal::SIGTERM);
        tokio::select! {
            _ = child.wait() => return,
            () = ordered(&mut self.order, Order::Kill) => {}
            () = SystemClock.sleep(EXIT_TIME_OUT) => {
                say(&format!("{} did not end within {} s; it is killed", self.decl.name, EXIT_TIME_OUT.as_secs()));
            }
        }
        // An error means that it has ended by now.
        let _ = child.kill().await;
    }
}

/// Waits until an order at least as strong as `order` is given.
async fn ordered(orders: &mut watch::Receiver<Order>, order: Order) {
    // An error means that whoever gives orders is gone, and the fleet with it.
    let _ = orders.wait_for(|now| *now >= order).await;
}

fn in_words(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => {
            Signal::try_from(signal).map_or_else(|_| format!("signal {signal}"), |s| s.as_str().to_owned())
        }
        (None, None) => "an unknown status".to_owned(),
    }
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exit_is_told_in_words() {
        assert_eq!(in_words(ExitStatus::from_raw(9)), "SIGKILL");
        assert_eq!(in_words(ExitStatus::from_raw(75 << 8)), "exit code 75");
        assert_eq!(seconds(Duration::from_millis(9_450)), "9.4 s");
    }

    #[tokio::test]
    async fn a_service_that_should_be_stopped_is_not_started() {
        let temp = tempfile::tempdir().unwrap();
        let home = Home::at(temp.path().join("m")).unwrap();
        home.prepare().unwrap();
        static DECL: Decl = Decl { name: "sample", summary: "Is a sample.", ..Decl::DEFAULT };
        std::fs::write(home.desired().join("sample"), "stopped\n").unwrap();
        let (_orders, order) = watch::channel(Order::Run);
        let (phase, phases) = watch::channel(Phase::Waiting);
        Keeper { decl: &DECL, home, order, phase }.keep().await;
        assert_eq!(*phases.borrow(), Phase::Down("stopped"));
    }
}
