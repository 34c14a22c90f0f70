//! Where a command works: the home, and the words to repeat it with.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use mirror_kit::{Holder, holder};
use mirror_paths::Home;

use crate::failure::Failure;
use crate::text::shell_word;

/// What all commands have in common.
#[derive(Debug)]
pub(crate) struct Ctx {
    home: Option<PathBuf>,
}

impl Ctx {
    /// Returns a context; `home` wins over the environment.
    pub(crate) fn new(home: Option<PathBuf>) -> Self {
        Self { home }
    }

    /// Returns the home.
    pub(crate) fn home(&self) -> Result<Home, Failure> {
        let home = match &self.home {
            // Only an argument is relative to where the person stands; the environment must say it whole.
            Some(dir) => Home::at(std::path::absolute(dir).map_err(|e| Failure::file("find", dir, &e))?),
            None => Home::from_env(),
        };
        home.map_err(|e| Failure::home(&e))
    }

    /// Returns the path of this executable.
    pub(crate) fn exe(&self) -> Result<PathBuf, Failure> {
        std::env::current_exe().map_err(|e| Failure::bug(format!("this executable has no path: {e}")))
    }

    /// Returns a command as a person can paste it: with its full path, and with the home where it is not the default.
    pub(crate) fn command(&self, home: &Home, exe: &Path, rest: &str) -> String {
        let exe = shell_word(&exe.to_string_lossy());
        let user = std::env::var_os("HOME").map(|dir| PathBuf::from(dir).join(".mirror"));
        if user.as_deref() == Some(home.root()) {
            return format!("{exe} {rest}");
        }
        format!("{exe} {rest} --home {}", shell_word(&home.root().to_string_lossy()))
    }

    /// Returns the failure of a service that cannot be reached, with what to do.
    pub(crate) fn away(&self, service: &str) -> Failure {
        let home = match self.home() {
            Ok(home) => home,
            Err(failure) => return failure,
        };
        let exe = self.exe().unwrap_or_else(|_| "mirror".into());
        let held = matches!(holder(&home, service), Ok(Holder::Process(_) | Holder::Unknown));
        if !held && !up_is_running(&home) {
            return Failure::new(
                mirror_errors::Kind::Unavailable,
                "CLI_FLEET_AWAY",
                "the fleet is not running",
            )
            .hint(format!("start it with: {}", self.command(&home, &exe, "up")));
        }
        let message = if held {
            format!("the service {service} runs but its socket does not answer")
        } else {
            format!("the service {service} is not running")
        };
        Failure::new(mirror_errors::Kind::Unavailable, "CLI_SERVICE_AWAY", message)
            .hint(format!("its log is {}", home.log().join(format!("{service}.log")).display()))
            .hint(format!("see what runs with: {}", self.command(&home, &exe, "status")))
    }
}

/// Returns the lock that a running `up` holds.
pub(crate) fn up_lock(home: &Home) -> PathBuf {
    home.run().join("up.lock")
}

/// Returns whether a fleet runs in the foreground of some terminal.
pub(crate) fn up_is_running(home: &Home) -> bool {
    File::open(up_lock(home)).is_ok_and(|f| matches!(f.try_lock_shared(), Err(TryLockError::WouldBlock)))
}
