//! `mirror doctor`: everything that is wrong, where, and the command that mends it.
//!
//! It changes nothing. Each check says what it found, also when that is nothing wrong.

mod files;
mod fleet;
mod home;

use std::path::PathBuf;

use mirror_paths::Home;
use serde::Serialize;

use crate::ctx::Ctx;
use crate::failure::{EXIT_AWAY, Failure};
use crate::out::{BAD, DIM, GOOD, ODD, Out};
use crate::text;

/// How much something matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// It is as it should be.
    Fine,
    /// Worth knowing; nothing is to be done.
    Note,
    /// It will become a problem, or is one that nothing depends on.
    Warning,
    /// It must be mended.
    Problem,
}

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    check: &'static str,
    text: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mend: Option<String>,
}

impl Finding {
    fn new(level: Level, check: &'static str, text: impl Into<String>) -> Self {
        Self { level, check, text: text.into(), file: None, line: None, mend: None }
    }

    fn fine(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Fine, check, text)
    }

    fn note(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Note, check, text)
    }

    fn warning(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Warning, check, text)
    }

    fn problem(check: &'static str, text: impl Into<String>) -> Self {
        Self::new(Level::Problem, check, text)
    }

    fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    fn line(mut self, line: Option<usize>) -> Self {
        self.line = line;
        self
    }

    fn mend(mut self, command: impl Into<String>) -> Self {
        self.mend = Some(command.into());
        self
    }
}

/// What every check may need.
struct Look<'a> {
    ctx: &'a Ctx,
    home: &'a Home,
}

impl Look<'_> {
    /// Returns a command of this binary as a person can paste it.
    fn command(&self, rest: &str) -> String {
        let installed = self.home.bin().join("mirror");
        let exe =
            if installed.is_file() { installed } else { self.ctx.exe().unwrap_or_else(|_| "mirror".into()) };
        self.ctx.command(self.home, &exe, rest)
    }
}

pub(crate) async fn run(ctx: &Ctx, out: &mut Out) -> Result<(), Failure> {
    let home = ctx.home()?;
    let look = Look { ctx, home: &home };
    let mut findings = Vec::new();
    if home.root().is_dir() {
        findings.extend(home::findings(&look));
        findings.extend(files::findings(&look));
        findings.extend(fleet::findings(&look).await);
    } else {
        findings.push(
            Finding::problem("home", "there is no home yet").file(home.root()).mend(look.command("init")),
        );
    }
    findings.extend(isolation());
    show(out, &home, &findings)?;
    let broken = findings.iter().any(|f| f.level == Level::Problem);
    if broken { Err(Failure::Said(EXIT_AWAY)) } else { Ok(()) }
}

/// Says what the boundary between agents and the owner is worth here.
fn isolation() -> Vec<Finding> {
    let uid = nix::unistd::geteuid();
    let text = format!(
        "watched: everything runs as one user (uid {uid}), so a breach by an agent of that user becomes visible and is \
         not prevented; the levels boxed and split are not available yet"
    );
    let mut findings = vec![Finding::note("isolation", text)];
    if cfg!(target_os = "macos") {
        findings.push(Finding::note(
            "macos",
            "launchd agents appear under System Settings, General, Login Items; one that is switched off there does \
             not start",
        ));
        findings.push(Finding::note(
            "macos",
            "agents may not read Documents, Desktop, Downloads or iCloud unless this binary is granted it under \
             Privacy & Security; a new build of an unsigned binary loses the grant",
        ));
    }
    findings
}

fn show(out: &mut Out, home: &Home, findings: &[Finding]) -> Result<(), Failure> {
    let count = |level: Level| findings.iter().filter(|f| f.level == level).count();
    let (problems, warnings) = (count(Level::Problem), count(Level::Warning));
    if out.json_wanted() {
        return out.json(&serde_json::json!({
            "home": home.root(), "fine": problems == 0, "problems": problems, "warnings": warnings,
            "findings": findings,
        }));
    }
    for finding in findings {
        let (word, style) = match finding.level {
            Level::Fine => ("fine", GOOD),
            Level::Note => ("note", DIM),
            Level::Warning => ("warning", ODD),
            Level::Problem => ("problem", BAD),
        };
        let head = format!("{}  {:<10}", out.paint(style, &format!("{word:<7}")), finding.check);
        out.line(&format!("{head}  {}", text::block(&finding.text)))?;
        if let Some(file) = &finding.file {
            let line = finding.line.map_or(String::new(), |line| format!(":{line}"));
            out.line(&format!("                     {}{line}", file.display()))?;
        }
        if let Some(mend) = &finding.mend {
            out.line(&format!("                     mend it with: {mend}"))?;
        }
    }
    let verdict = match (problems, warnings) {
        (0, 0) => out.paint(GOOD, "all is well"),
        (0, n) => out.paint(ODD, &text::some(n as u64, "warning")),
        (n, _) => out.paint(BAD, &format!("{} to mend", text::some(n as u64, "problem"))),
    };
    out.line("")?;
    out.line(&verdict)
}
