//! `mirror logs`: what an agent wrote, across the files that were put aside.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use mirror_clock::{Clock as _, SystemClock};
use serde_json::Value;

use crate::args::LogsArgs;
use crate::ctx::Ctx;
use crate::failure::Failure;
use crate::out::{BAD, DIM, ODD, Out};
use crate::text;

/// How often a followed file is looked at.
const STEP: Duration = Duration::from_millis(250);

/// How many files are put aside at most, `.1` the newest.
const ASIDE: u32 = 3;

/// How much is read at once.
const CHUNK: u64 = 64 << 10;

/// Longest line that is kept in one piece.
const LINE_LIMIT: usize = 1 << 20;

pub(crate) async fn run(ctx: &Ctx, out: &mut Out, args: &LogsArgs) -> Result<(), Failure> {
    let home = ctx.home()?;
    super::agents::known(&args.name)?;
    let log = home.log().join(format!("{}.log", args.name));
    let output = home.log().join(format!("{}.err", args.name));
    // Opened before the past is read, so that nothing falls between the two.
    let (mut logs, mut outputs) = (Tail::at_end(&log), Tail::at_end(&output));
    if !args.follow && logs.file.is_none() && outputs.file.is_none() {
        let missing = io::Error::from(io::ErrorKind::NotFound);
        return Err(Failure::file("read", &log, &missing).hint("it was never started in this home"));
    }
    for line in last(&output, outputs.at, args.lines)? {
        show(out, &line, true)?;
    }
    for line in last(&log, logs.at, args.lines)? {
        show(out, &line, false)?;
    }
    if !args.follow {
        return Ok(());
    }
    loop {
        out.flush()?;
        for line in outputs.next() {
            show(out, &line, true)?;
        }
        for line in logs.next() {
            show(out, &line, false)?;
        }
        out.flush()?;
        SystemClock.sleep(STEP).await;
    }
}

/// Returns the last lines of a log and of what was put aside of it, oldest first.
fn last(path: &Path, end: u64, wanted: usize) -> Result<Vec<String>, Failure> {
    let mut lines: Vec<String> = Vec::new();
    let aside = (1..=ASIDE).map(|n| (aside(path, n), u64::MAX));
    for (path, end) in std::iter::once((path.to_owned(), end)).chain(aside) {
        if lines.len() >= wanted {
            break;
        }
        let mut earlier = match File::open(&path) {
            Ok(file) => {
                tail_of(file, end, wanted - lines.len()).map_err(|e| Failure::file("read", &path, &e))?
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            Err(e) => return Err(Failure::file("read", &path, &e)),
        };
        earlier.append(&mut lines);
        lines = earlier;
    }
    Ok(lines)
}

fn aside(path: &Path, n: u32) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(format!(".{n}"));
    name.into()
}

/// Returns the last `wanted` lines before `end`, reading no more of the file than they need.
fn tail_of(mut file: File, end: u64, wanted: usize) -> io::Result<Vec<String>> {
    let mut at = end.min(file.metadata()?.len());
    let mut bytes: Vec<u8> = Vec::new();
    // One more line break than lines: what stands before the first may be half a line.
    while at > 0 && bytes.iter().filter(|b| **b == b'\n').count() <= wanted {
        let from = at.saturating_sub(CHUNK);
        file.seek(SeekFrom::Start(from))?;
        let mut chunk = Vec::new();
        file.by_ref().take(at - from).read_to_end(&mut chunk)?;
        chunk.append(&mut bytes);
        bytes = chunk;
        at = from;
    }
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    Ok(lines[lines.len().saturating_sub(wanted)..].iter().map(|line| (*line).to_owned()).collect())
}

/// A file that grows, and whose name may pass to another.
struct Tail {
    path: PathBuf,
    file: Option<File>,
    at: u64,
    rest: Vec<u8>,
}

impl Tail {
    fn at_end(path: &Path) -> Self {
        let file = File::open(path).ok();
        let at = file.as_ref().and_then(|f| f.metadata().ok()).map_or(0, |m| m.len());
        Self { path: path.to_owned(), file, at, rest: Vec::new() }
    }

    /// Returns what was written since the last call, in whole lines; first what the old file still got.
    fn next(&mut self) -> Vec<String> {
        let mut lines = self.read();
        let is_same = match (&self.file, std::fs::metadata(&self.path)) {
            (Some(file), Ok(named)) => file
                .metadata()
                .is_ok_and(|m| (m.dev(), m.ino()) == (named.dev(), named.ino()) && m.len() >= self.at),
            // Between the two renames of a rotation there is no file of that name.
            (_, Err(_)) => true,
            (None, Ok(_)) => false,
        };
        if !is_same {
            // What was written between the reading and the renaming.
            lines.extend(self.read());
            self.file = File::open(&self.path).ok();
            self.at = 0;
            lines.extend(self.read());
        }
        lines
    }

    fn read(&mut self) -> Vec<String> {
        let Some(file) = &mut self.file else { return Vec::new() };
        let mut bytes = Vec::new();
        let read = file.seek(SeekFrom::Start(self.at)).and_then(|_| file.read_to_end(&mut bytes));
        // A file that cannot be read now is tried again at the next look.
        self.at += read.map_or(0, |n| n as u64);
        self.rest.extend(bytes);
        let whole = self.rest.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let whole = if whole == 0 && self.rest.len() > LINE_LIMIT { self.rest.len() } else { whole };
        let text: Vec<u8> = self.rest.drain(..whole).collect();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}

fn show(out: &mut Out, line: &str, is_output: bool) -> Result<(), Failure> {
    if out.json_wanted() {
        let value = serde_json::from_str::<Value>(line).ok().filter(Value::is_object);
        return out.json(&value.unwrap_or_else(|| serde_json::json!({"output": line})));
    }
    if is_output {
        let line = format!("{} {}", out.paint(DIM, "output"), text::block(line));
        return out.line(&line);
    }
    let (level, line) = in_words(line);
    let style = match level.as_str() {
        "ERROR" => Some(BAD),
        "WARN" => Some(ODD),
        _ => None,
    };
    let line = style.map_or_else(|| line.clone(), |style| out.paint(style, &line));
    out.line(&line)
}

/// Returns the level of a log line, and the line as a person reads it.
fn in_words(line: &str) -> (String, String) {
    let Ok(Value::Object(mut fields)) = serde_json::from_str::<Value>(line) else {
        return (String::new(), text::block(line));
    };
    let mut take = |key: &str| match fields.remove(key) {
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
        None => String::new(),
    };
    let (at, level, message, target) = (take("timestamp"), take("level"), take("message"), take("target"));
    let at = at.parse::<jiff::Timestamp>().map_or(at, |at| text::local_time(at.as_millisecond()));
    let mut text = format!("{at} {level:<5} {target}: {message}");
    for (key, value) in fields {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text.push_str(&format!(" {key}={value}"));
    }
    (level, crate::text::block(&text).replace('\n', " "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn write(path: &Path, text: &str) {
        File::options().append(true).create(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
    }

    #[test]
    fn the_last_lines_reach_back_over_what_was_put_aside() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bus.log");
        write(&aside(&path, 2), "a\nb\n");
        write(&aside(&path, 1), "c\n");
        write(&path, "d\ne\n");
        let check = |n: usize, expected: &str| {
            assert_eq!(last(&path, u64::MAX, n).unwrap().join(""), expected, "{n}");
        };
        check(0, "");
        check(1, "e");
        check(2, "de");
        check(3, "cde");
        check(99, "abcde");
        assert_eq!(last(&path, 2, 2).unwrap().join(""), "cd", "what follows later is not shown twice");
        let long = "x".repeat(100_000);
        write(&path, &format!("{long}\nz\n"));
        assert_eq!(last(&path, u64::MAX, 2).unwrap(), [long, "z".to_owned()]);
    }

    #[test]
    fn following_survives_rotation_and_half_lines() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("bus.log");
        let mut tail = Tail::at_end(&path);
        assert!(tail.next().is_empty());
        write(&path, "one\ntw");
        assert_eq!(tail.next(), ["one"]);
        write(&path, "o\n");
        std::fs::rename(&path, aside(&path, 1)).unwrap();
        write(&aside(&path, 1), "three\n");
        assert_eq!(tail.next(), ["two", "three"]);
        write(&aside(&path, 1), "four\n");
        write(&path, "five\n");
        assert_eq!(tail.next(), ["four", "five"]);
        File::create(&path).unwrap();
        write(&path, "s\n");
        assert_eq!(tail.next(), ["s"], "a file that was cut begins anew");
    }

    #[test]
    fn a_line_is_put_in_words() {
        let (level, line) = in_words(
            r#"{"timestamp":"2026-01-01T00:00:00Z","level":"WARN","message":"slow","ms":12,"target":"mirror_bus"}"#,
        );
        assert_eq!(level, "WARN");
        assert!(line.ends_with(" WARN  mirror_bus: slow ms=12"), "{line}");
        assert_eq!(in_words("plain \u{1b}[31m").1, "plain [31m");
    }
}
