//! Registrations: the four files that know every service by name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// What stands before the services in the table of the binary.
const TABLE: &str = "services: &[";

/// Returns the workspace's manifest with the new crate.
pub(super) fn workspace(text: &str, group: &str, noun: &str) -> Result<String> {
    let line = format!("mirror-{noun} = {{ path = \"crates/{group}/{noun}\" }}");
    insert_after_last(text, |l| l.starts_with("mirror-") && l.contains("{ path = \"crates/"), &line)
}

/// Returns the table of scopes with those of the template.
pub(super) fn access(text: &str, noun: &str) -> Result<String> {
    let (before, table) = text.split_once("pub const TABLE").context("there is no TABLE")?;
    let (rows, after) = table.split_once("\n];").context("the TABLE has no end")?;
    ensure!(!rows.contains(&format!("\"{noun}.read\"")), "the scope {noun}.read is there already");
    let row = |verb: &str| format!("\n    (\"{noun}.{verb}\", &[Local, Service, Agent, Owner]),");
    Ok(format!("{before}pub const TABLE{rows}{}{}\n];{after}", row("put"), row("read")))
}

/// Returns the binary's manifest with the new dependency, in order of name.
pub(super) fn dependency(text: &str, noun: &str) -> Result<String> {
    let line = format!("mirror-{noun}.workspace = true");
    let mut lines: Vec<&str> = text.lines().collect();
    let start = lines.iter().position(|l| *l == "[dependencies]").context("there is no [dependencies]")? + 1;
    let end = lines[start..]
        .iter()
        .position(|l| l.is_empty() || l.starts_with('['))
        .map_or(lines.len(), |i| start + i);
    ensure!(!lines[start..end].contains(&line.as_str()), "the dependency is there already");
    let ours = |l: &&str| l.starts_with("mirror-");
    let place =
        lines[start..end].iter().position(|l| !ours(l) || *l > line.as_str()).map_or(end, |i| start + i);
    lines.insert(place, &line);
    Ok(lines.join("\n") + "\n")
}

/// Returns the file of the binary that holds the table of services.
pub(super) fn find_table(src: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(src).with_context(|| format!("list {}", src.display()))?;
    let mut found: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| fs::read_to_string(path).is_ok_and(|t| t.contains(TABLE) && t.contains("::SERVICE")))
        .collect();
    match (found.pop(), found.is_empty()) {
        (Some(path), true) => Ok(path),
        _ => bail!("exactly one file of {} must hold `{TABLE}`", src.display()),
    }
}

/// Returns the table of services with the new one, in order of name; rustfmt breaks the line.
pub(super) fn table(text: &str, noun: &str) -> Result<String> {
    let (before, rest) = text.split_once(TABLE).context("there is no table")?;
    let (rows, after) = rest.split_once(']').context("the table has no end")?;
    let mut rows: Vec<String> =
        rows.split(',').map(str::trim).filter(|r| !r.is_empty()).map(str::to_owned).collect();
    let row = format!("&mirror_{}::SERVICE", noun.replace('-', "_"));
    ensure!(
        rows.iter().all(|r| r.starts_with("&mirror_") && r.ends_with("::SERVICE")),
        "a row is no service: {rows:?}"
    );
    ensure!(!rows.contains(&row), "the service is there already");
    rows.push(row);
    rows.sort();
    Ok(format!("{before}{TABLE}{}]{after}", rows.join(", ")))
}

fn insert_after_last(text: &str, is_peer: impl Fn(&str) -> bool, line: &str) -> Result<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    ensure!(!lines.contains(&line), "it is there already");
    let last = lines.iter().rposition(|l| is_peer(l)).context("there is no line to stand after")?;
    lines.insert(last + 1, line);
    Ok(lines.join("\n") + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registration_is_made_once_and_in_order() {
        let text = "x: App { services: &[&mirror_a::SERVICE, &mirror_c::SERVICE] };\n";
        let now = table(text, "b-b").unwrap();
        assert_eq!(
            now,
            "x: App { services: &[&mirror_a::SERVICE, &mirror_b_b::SERVICE, &mirror_c::SERVICE] };\n"
        );
        assert!(table(&now, "b-b").is_err());
        assert!(table("services: &[&Other]", "b").is_err());

        let text = "[dependencies]\nmirror-a.workspace = true\nmirror-c.workspace = true\nb.workspace = true\n\n[x]\n";
        let now = dependency(text, "b").unwrap();
        assert!(now.contains("mirror-a.workspace = true\nmirror-b.workspace = true\nmirror-c"), "{now}");
        assert!(dependency(&now, "b").is_err());
        let now = dependency(text, "z").unwrap();
        assert!(now.contains("mirror-c.workspace = true\nmirror-z.workspace = true\nb."), "{now}");

        let text = "[workspace.dependencies]\nmirror-a = { path = \"crates/x/a\" }\n\nz = 1\n";
        let now = workspace(text, "y", "b").unwrap();
        assert!(
            now.contains("mirror-a = { path = \"crates/x/a\" }\nmirror-b = { path = \"crates/y/b\" }\n\nz"),
            "{now}"
        );
        assert!(workspace(&now, "y", "b").is_err());

        let text = "pub const TABLE: T = &[\n    (\"a.read\", &[Local]),\n];\nfn f() {}\n";
        let now = access(text, "b").unwrap();
        assert!(now.contains("(\"a.read\", &[Local]),\n    (\"b.put\", "), "{now}");
        assert!(now.ends_with("\n];\nfn f() {}\n"), "{now}");
        assert!(access(&now, "b").is_err());
    }
}
