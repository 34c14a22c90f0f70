//! The recovery passphrase: asked for without an echo, or read from a pipe; never an argument.

use std::io::{self, IsTerminal as _, Read};
use std::os::fd::AsFd as _;
use std::path::Path;

use mirror_errors::Kind;
use mirror_keeper::recovery::{Passphrase, RecoveryError};
use nix::sys::termios::{LocalFlags, SetArg, SpecialCharacterIndices, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use crate::failure::Failure;
use crate::out::say;

/// Longest line that is read, in bytes: a passphrase in any spelling is far shorter.
const LINE_LIMIT: usize = 512;

/// Asks for the recovery passphrase.
pub(crate) fn ask() -> Result<Passphrase, Failure> {
    let stdin = io::stdin();
    let line = if stdin.is_terminal() {
        say("recovery passphrase (it is not shown):");
        let _quiet = Quiet::begin(&stdin).map_err(|e| lost(&e))?;
        line_of(stdin.lock())?
    } else {
        line_of(stdin.lock())?
    };
    Passphrase::parse(&line).map_err(|e| refused(&e))
}

/// Returns the failure that a recovery error stands for.
pub(crate) fn refused(error: &RecoveryError) -> Failure {
    let message = mirror_errors::Chain(error).to_string();
    match error {
        RecoveryError::Symbol { .. } | RecoveryError::Length { .. } | RecoveryError::Typo { .. } => {
            Failure::input(message)
        }
        RecoveryError::Wrong => Failure::new(Kind::Denied, "CLI_PASSPHRASE_WRONG", message),
        RecoveryError::Derivation(_) | RecoveryError::Random(_) => Failure::bug(message),
        _ => Failure::home(error),
    }
}

fn lost(error: &io::Error) -> Failure {
    Failure::file("read", Path::new("the passphrase"), error)
}

/// Reads one line as a person edits it: Backspace, Ctrl-U, and Ctrl-C to give up.
fn line_of(mut from: impl Read) -> Result<Zeroizing<String>, Failure> {
    // With room for all, so that no copy is left behind by a move.
    let mut line = Zeroizing::new(Vec::with_capacity(LINE_LIMIT));
    let mut byte = [0];
    loop {
        match from.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(lost(&e)),
        }
        match byte[0] {
            b'\n' | b'\r' if line.is_empty() => {}
            b'\n' | b'\r' | 0x04 => break,
            0x03 => return Err(Failure::input("no passphrase was given")),
            0x7f | 0x08 => drop(line.pop()),
            0x15 => line.clear(),
            _ if line.len() == LINE_LIMIT => {
                return Err(Failure::input(format!("a passphrase has at most {LINE_LIMIT} bytes")));
            }
            other => line.push(other),
        }
    }
    let text = std::str::from_utf8(&line).map_err(|_| Failure::input("the passphrase is not text"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

/// A terminal that shows nothing, until this is dropped.
struct Quiet {
    before: Termios,
}

impl Quiet {
    fn begin(stdin: &io::Stdin) -> io::Result<Self> {
        let before = tcgetattr(stdin.as_fd())?;
        let mut quiet = before.clone();
        // Ctrl-C comes as a character, so that the terminal is never left without its echo.
        quiet.local_flags.remove(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG);
        quiet.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
        quiet.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
        tcsetattr(stdin.as_fd(), SetArg::TCSAFLUSH, &quiet)?;
        Ok(Self { before })
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // A terminal that went away needs no echo.
        let _ = tcsetattr(io::stdin().as_fd(), SetArg::TCSANOW, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(keys: &[u8]) -> Result<String, u8> {
        match line_of(keys) {
            Ok(line) => Ok(line.to_string()),
            Err(Failure::Error(report)) => Err(report.kind.exit_code()),
            Err(_) => Err(0),
        }
    }

    #[test]
    fn a_line_is_read_as_it_was_edited() {
        assert_eq!(read(b"abc\nmore"), Ok("abc".into()));
        assert_eq!(read(b"\r\nabc"), Ok("abc".into()));
        assert_eq!(read(b"abx\x7fc\r"), Ok("abc".into()));
        assert_eq!(read(b"\x7fwrong\x15right\n"), Ok("right".into()));
        assert_eq!(read(b""), Ok(String::new()));
        assert_eq!(read(b"ab\x03"), Err(65));
        assert_eq!(read(&[b'x'; LINE_LIMIT + 1]), Err(65));
        assert_eq!(read(&[0xff, b'\n']), Err(65));
    }

    #[test]
    fn a_passphrase_is_in_no_error() {
        let text = "ZZZZZ-ZZZZZ-ZZZZZ-ZZZZZ-ZZZZZ-ZZZZZ-ZZZZZ";
        let Err(error) = Passphrase::parse(text) else { panic!("it has no check symbols") };
        let Failure::Error(report) = refused(&error) else { panic!("an error") };
        assert!(!report.message.contains("ZZZZ"), "{}", report.message);
        let Failure::Error(report) = refused(&RecoveryError::Wrong) else { panic!("an error") };
        assert_eq!((report.kind.exit_code(), report.reason.as_str()), (77, "CLI_PASSPHRASE_WRONG"));
    }
}
