//! `launchctl` of the model, with real processes: a client, and behind its state file a process that is launchd.
//!
//! `FAKE_LAUNCHCTL_STATE` names the state file, which shows calls and agents as JSON; everything ends when it is
//! removed. Besides the verbs of `launchctl` it knows `fault VERB CODE [works]`, `session on|off`, `reboot DIR`, `end`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use mirror_drill::server;
use serde_json::{Value, json};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(state) = std::env::var_os("FAKE_LAUNCHCTL_STATE").map(PathBuf::from) else {
        return complain("FAKE_LAUNCHCTL_STATE names no state file");
    };
    let result = match args.first().map(String::as_str) {
        Some("serve") => server::run(&state).map(|()| ExitCode::SUCCESS),
        _ => ask(&state, &args),
    };
    result.unwrap_or_else(|e| complain(&e.to_string()))
}

#[expect(clippy::print_stderr, reason = "it is a command")]
fn complain(why: &str) -> ExitCode {
    eprintln!("fake-launchctl: {why}");
    ExitCode::from(70)
}

/// Hands a call to the server, which is started for the first.
fn ask(state: &Path, args: &[String]) -> io::Result<ExitCode> {
    let mut stream = connect(state)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    writeln!(stream, "{}", json!({"args": args}))?;
    let mut line = String::new();
    BufReader::new(&stream).take(1 << 20).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line).map_err(io::Error::other)?;
    let text = |key: &str| answer[key].as_str().unwrap_or_default().to_owned();
    io::stdout().write_all(text("out").as_bytes())?;
    io::stderr().write_all(text("err").as_bytes())?;
    Ok(ExitCode::from(answer["code"].as_u64().and_then(|c| u8::try_from(c).ok()).unwrap_or(70)))
}

fn connect(state: &Path) -> io::Result<UnixStream> {
    let socket = server::socket(state);
    if let Ok(stream) = UnixStream::connect(&socket) {
        return Ok(stream);
    }
    Command::new(std::env::current_exe()?)
        .arg("serve")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    for _ in 0..200 {
        if let Ok(stream) = UnixStream::connect(&socket) {
            return Ok(stream);
        }
        std::thread::park_timeout(Duration::from_millis(25));
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the server does not come up"))
}
