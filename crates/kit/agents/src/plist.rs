//! One property list as a type: what supervises runs from, rendered and read back.
//!
//! It refuses what launchd would ignore or misread in silence, by line and key.
//! Invariant: what is rendered reads back as the same value.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::time::Duration;

use mirror_paths::Home;

use crate::LABEL_PREFIX;
use crate::agent::{BIN, HOME};
use crate::calendar::Moment;
use crate::machine::{KeepAlive, Rules};
use crate::reader::{Value, line_of, read};

mod parse;

/// Seconds between two starts where a list does not say; launchd's own floor.
const DEFAULT_THROTTLE_SECS: u32 = 10;
/// Seconds from SIGTERM to SIGKILL where a list does not say.
const DEFAULT_EXIT_TIME_OUT_SECS: u32 = 20;

/// A property list of an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plist {
    /// Label, which is also the file's name.
    pub label: String,
    /// Program, an absolute path.
    pub program: String,
    /// Arguments, the name by which the program knows itself first.
    pub arguments: Vec<String>,
    /// Whether it is started when it is loaded.
    pub run_at_load: bool,
    /// After which ends it is started again.
    pub keep_alive: KeepAlive,
    /// Shortest time between two starts, in seconds, 1 to 600; 10 where a list does not say.
    pub throttle_secs: u32,
    /// Time from SIGTERM to SIGKILL, in seconds, at most 600; 0 means never, 20 where a list does not say.
    pub exit_time_out_secs: u32,
    /// What launchd calls its kind, if it says.
    pub process_type: Option<String>,
    /// Variables of its environment.
    pub environment: BTreeMap<String, String>,
    /// Permission bits that new files do not get, if it says; it denies all to others.
    pub umask: Option<u32>,
    /// Folder that it starts in, an absolute path; launchd's is `/` where a list does not say.
    pub working_directory: Option<String>,
    /// File that gets its standard output appended, an absolute path.
    pub stdout: Option<String>,
    /// File that gets its standard error appended, an absolute path.
    pub stderr: Option<String>,
    /// Kinds of login session that it is loaded in; all where it is empty.
    pub session_types: Vec<String>,
    /// Open files that it may have, at least 64, if it says.
    pub files: Option<u32>,
    /// Seconds between two runs of an interval, if it has one.
    pub interval_secs: Option<u32>,
    /// Moments of its calendar.
    pub calendar: Vec<Moment>,
}

/// Why a property list is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlistError {
    /// Line, from 1, where one is known.
    pub line: Option<usize>,
    /// What is wrong, and what must be, without the line.
    pub why: String,
}

impl fmt::Display for PlistError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "line {line}: {}", self.why),
            None => f.write_str(&self.why),
        }
    }
}

impl std::error::Error for PlistError {}

impl Plist {
    /// Reads one filled property list against what launchd understands.
    ///
    /// # Errors
    ///
    /// Names the first key that is unknown, doubled, of the wrong type, or has a value that does not hold, by line.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, PlistError> {
        let root = read(text).map_err(|(line, why)| PlistError { line, why })?;
        let mut plist = Self {
            label: String::new(),
            program: String::new(),
            arguments: Vec::new(),
            run_at_load: false,
            keep_alive: KeepAlive::Never,
            throttle_secs: DEFAULT_THROTTLE_SECS,
            exit_time_out_secs: DEFAULT_EXIT_TIME_OUT_SECS,
            process_type: None,
            environment: BTreeMap::new(),
            umask: None,
            working_directory: None,
            stdout: None,
            stderr: None,
            session_types: Vec::new(),
            files: None,
            interval_secs: None,
            calendar: Vec::new(),
        };
        let at = |key: &str, why: String| PlistError {
            line: line_of(text, key, 0),
            why: format!("key {key}: {why}"),
        };
        for (key, value) in &root {
            plist.set(key, value).map_err(|why| at(key, why))?;
        }
        plist.check(file_name).map_err(|(key, why)| at(key, why))?;
        Ok(plist)
    }

    /// Returns the agent's name: the label without its prefix.
    pub fn agent(&self) -> &str {
        self.label.strip_prefix(LABEL_PREFIX).unwrap_or(&self.label)
    }

    /// Returns what the machine needs to know of it.
    pub fn rules(&self) -> Rules {
        let secs = |secs: u32| Duration::from_secs(secs.into());
        Rules {
            run_at_load: self.run_at_load,
            keep_alive: self.keep_alive,
            throttle: secs(self.throttle_secs),
            exit_time_out: (self.exit_time_out_secs > 0).then(|| secs(self.exit_time_out_secs)),
            interval: self.interval_secs.map(secs),
        }
    }

    /// Checks what this system promises of its agents beyond what launchd needs.
    ///
    /// # Errors
    ///
    /// Names the first promise that is not kept.
    pub fn check_promises(&self) -> Result<(), PlistError> {
        let refuse = |why: String| Err(PlistError { line: None, why });
        let agent = self.agent();
        let job = agent.strip_prefix("job.");
        let link = if job.is_some() { "mirror".to_owned() } else { format!("mirror-{agent}") };
        if !self.program.ends_with(&format!("/{link}")) {
            return refuse(format!("Program {:?} is not {link}", self.program));
        }
        let arguments = match job {
            Some(job) => vec![link, "job".to_owned(), job.to_owned()],
            None => vec![link],
        };
        if self.arguments != arguments {
            return refuse(format!(
                "ProgramArguments must be {arguments:?}, by which the binary knows what it is"
            ));
        }
        let (kept, timed) = (self.keep_alive, self.interval_secs.is_some() || !self.calendar.is_empty());
        if job.is_none() && (kept != KeepAlive::AfterFailure || timed) {
            return refuse("KeepAlive must be {SuccessfulExit: false}: an exit with 0 is final".to_owned());
        }
        if job.is_some() && (kept != KeepAlive::Never || self.run_at_load || !timed) {
            return refuse("a job has times, and neither KeepAlive nor RunAtLoad".to_owned());
        }
        if self.exit_time_out_secs == 0 {
            return refuse("ExitTimeOut is 0: a process that hangs would never be killed".to_owned());
        }
        for name in ["MIRROR_HOME", "MIRROR_SUPERVISED", "PATH"] {
            if !self.environment.contains_key(name) {
                return refuse(format!("EnvironmentVariables: {name} is missing"));
            }
        }
        if self.umask.is_none() {
            return refuse("Umask is missing: others could read what the agent writes".to_owned());
        }
        if self.stderr.is_none() {
            return refuse("StandardErrorPath is missing: a panic would leave no trace".to_owned());
        }
        Ok(())
    }

    fn check(&self, file_name: &str) -> Result<(), (&'static str, String)> {
        if self.label.is_empty() {
            return Err(("Label", "is missing".to_owned()));
        }
        if file_name != format!("{}.plist", self.label) {
            return Err(("Label", format!("{:?} is not the file's name, {file_name:?}", self.label)));
        }
        if !self.label.starts_with(LABEL_PREFIX) || self.agent().is_empty() {
            return Err(("Label", format!("must begin with {LABEL_PREFIX}")));
        }
        if self.program.is_empty() {
            return Err(("Program", "is missing".to_owned()));
        }
        if self.arguments.is_empty() {
            return Err(("ProgramArguments", "is missing".to_owned()));
        }
        if let Some(home) = self.environment.get("MIRROR_HOME") {
            let fits = Home::at(home).and_then(|home| home.socket(self.agent()).map(|_| ()));
            fits.map_err(|e| ("EnvironmentVariables", e.to_string()))?;
        }
        Ok(())
    }

    /// Returns its text, as `cargo xtask render` and an install write it.
    pub fn render(&self) -> String {
        let mut body = String::new();
        let mut entry = |key: &str, value: String| {
            let _ = writeln!(body, "  <key>{key}</key>\n{value}");
        };
        entry("Label", string(1, &self.label));
        entry("Program", string(1, &self.program));
        entry("ProgramArguments", array(&self.arguments));
        entry("RunAtLoad", flag(1, self.run_at_load));
        match self.keep_alive {
            KeepAlive::Never => {}
            KeepAlive::Always => entry("KeepAlive", flag(1, true)),
            KeepAlive::AfterFailure => entry("KeepAlive", dict(1, &[("SuccessfulExit", flag(2, false))])),
            KeepAlive::AfterSuccess => entry("KeepAlive", dict(1, &[("SuccessfulExit", flag(2, true))])),
        }
        if let Some(secs) = self.interval_secs {
            entry("StartInterval", integer(1, secs));
        }
        match &self.calendar[..] {
            [] => {}
            [one] => entry("StartCalendarInterval", moment(1, one)),
            many => {
                let items: Vec<String> = many.iter().map(|m| moment(2, m)).collect();
                entry("StartCalendarInterval", format!("  <array>\n{}\n  </array>", items.join("\n")));
            }
        }
        entry("ThrottleInterval", integer(1, self.throttle_secs));
        entry("ExitTimeOut", integer(1, self.exit_time_out_secs));
        if let Some(kind) = &self.process_type {
            entry("ProcessType", string(1, kind));
        }
        if !self.environment.is_empty() {
            let variables: Vec<_> =
                self.environment.iter().map(|(k, v)| (k.as_str(), string(2, v))).collect();
            entry("EnvironmentVariables", dict(1, &variables));
        }
        if let Some(umask) = self.umask {
            // launchd wants the decimal of 077.
            entry("Umask", integer(1, umask));
        }
        let paths = [
            ("WorkingDirectory", &self.working_directory),
            ("StandardOutPath", &self.stdout),
            ("StandardErrorPath", &self.stderr),
        ];
        for (key, path) in paths {
            if let Some(path) = path {
                entry(key, string(1, path));
            }
        }
        if !self.session_types.is_empty() {
            entry("LimitLoadToSessionType", array(&self.session_types));
        }
        if let Some(files) = self.files {
            entry("SoftResourceLimits", dict(1, &[("NumberOfFiles", integer(2, files))]));
        }
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
             \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
             <!-- Rendered from the catalogue by `cargo xtask render` and filled in by an install; \
             an edit is reported and replaced. -->\n\
             <plist version=\"1.0\">\n<dict>\n{body}</dict>\n</plist>\n"
        )
    }
}

/// Reads a filled property list of the catalogue, and checks what this system promises.
///
/// # Errors
///
/// As [`Plist::parse`] and [`Plist::check_promises`].
pub fn validate(file_name: &str, text: &str) -> Result<Plist, PlistError> {
    let plist = Plist::parse(file_name, text)?;
    plist.check_promises()?;
    Ok(plist)
}

/// Returns text as XML holds it.
pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn indent(depth: usize) -> String {
    "  ".repeat(depth)
}

fn string(depth: usize, text: &str) -> String {
    format!("{}<string>{}</string>", indent(depth), escape(text))
}

fn integer(depth: usize, value: u32) -> String {
    format!("{}<integer>{value}</integer>", indent(depth))
}

fn flag(depth: usize, value: bool) -> String {
    format!("{}<{value}/>", indent(depth))
}

fn array(items: &[String]) -> String {
    let lines: Vec<String> = items.iter().map(|item| string(2, item)).collect();
    format!("  <array>\n{}\n  </array>", lines.join("\n"))
}

fn dict(depth: usize, entries: &[(&str, String)]) -> String {
    let (outer, inner) = (indent(depth), indent(depth + 1));
    let lines: Vec<String> =
        entries.iter().map(|(key, value)| format!("{inner}<key>{}</key>\n{value}\n", escape(key))).collect();
    format!("{outer}<dict>\n{}{outer}</dict>", lines.concat())
}

fn moment(depth: usize, moment: &Moment) -> String {
    let fields = [
        ("Minute", moment.minute),
        ("Hour", moment.hour),
        ("Day", moment.day),
        ("Weekday", moment.weekday),
        ("Month", moment.month),
    ];
    let entries: Vec<_> = fields
        .into_iter()
        .filter_map(|(key, value)| Some((key, integer(depth + 1, u32::from(value?)))))
        .collect();
    dict(depth, &entries)
}

#[cfg(test)]
mod tests;
