//! Dependencies: each named once in the workspace, under a licence that this project can ship.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::Source;

/// Licences that may be shipped in a binary under MIT or Apache-2.0.
const LICENCES: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Tables of a manifest that hold dependencies.
const TABLES: &[&str] = &["dependencies", "dev-dependencies", "build-dependencies"];

/// Returns the problems of all manifests.
pub fn manifests(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources.iter().filter(|s| s.path.starts_with("crates/") && s.path.ends_with("/Cargo.toml"))
    {
        let path = &source.path;
        let Ok(manifest) = source.text.as_deref().unwrap_or_default().parse::<toml::Table>() else {
            problems.push(format!("{path}: is not TOML"));
            continue;
        };
        let mut tables = vec![&manifest];
        let targets = manifest.get("target").and_then(|t| t.as_table());
        tables.extend(targets.into_iter().flatten().filter_map(|(_, t)| t.as_table()));
        for (name, value) in
            tables.iter().flat_map(|t| TABLES.iter().filter_map(|n| t.get(*n)?.as_table())).flatten()
        {
            let inherits = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
            if !inherits {
                problems
                    .push(format!("{path}: {name} must say `workspace = true`; versions stand in one table"));
            } else if value.get("features").is_some() {
                problems
                    .push(format!("{path}: {name} sets features; they stand in the workspace's table too"));
            }
        }
        let lints = manifest.get("lints").and_then(|l| l.get("workspace")).and_then(toml::Value::as_bool);
        if lints != Some(true) {
            problems.push(format!("{path}: [lints] must say `workspace = true`"));
        }
        problems.extend(examples(sources, path, &manifest));
    }
    if let Some(root) = sources.iter().find(|s| s.path == "Cargo.toml") {
        problems.extend(order(root.text.as_deref().unwrap_or_default()));
    }
    problems
}

/// The examples of a library are tested, and one without any is not built for them: that takes seconds for each crate.
fn examples(sources: &[Source], path: &str, manifest: &toml::Table) -> Option<String> {
    let src = path.replace("Cargo.toml", "src/");
    let library = manifest.contains_key("lib") || sources.iter().any(|s| s.path == format!("{src}lib.rs"));
    let own = sources.iter().filter(|s| s.path.starts_with(&src));
    let mut lines = own.flat_map(|s| s.text.as_deref().unwrap_or_default().lines().map(str::trim_start));
    let has = lines.any(|l| l.starts_with("/// ```") || l.starts_with("//! ```"));
    let asked = manifest.get("lib").and_then(|l| l.get("doctest")).and_then(toml::Value::as_bool);
    (library && has == (asked == Some(false))).then(|| {
        if has {
            format!("{path}: has examples, which [lib] must not leave out with `doctest = false`")
        } else {
            format!("{path}: has no examples: [lib] must say `doctest = false`")
        }
    })
}

/// The foreign crates stand in order of name, so that two branches seldom touch the same line.
fn order(manifest: &str) -> Vec<String> {
    let lines = manifest.lines().skip_while(|l| *l != "[workspace.dependencies]").skip(1);
    let names: Vec<&str> = lines
        .take_while(|l| !l.starts_with('['))
        .filter_map(|l| l.split_once(" = ").map(|(name, _)| name))
        .filter(|name| !name.starts_with("mirror") && !name.starts_with('#'))
        .collect();
    names
        .windows(2)
        .filter(|pair| pair[0] >= pair[1])
        .map(|pair| format!("Cargo.toml: {} must stand before {}", pair[1], pair[0]))
        .collect()
}

/// Returns the dependencies whose licence is not on the list.
///
/// # Errors
///
/// When cargo cannot describe the workspace.
pub fn licences(root: &Path) -> Result<Vec<String>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Offline and for this platform: what is built here is here. The lock holds the rest, and deny.toml its licences.
    let host = host(root)?;
    let args = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", &host];
    let out = Command::new(cargo).args(args).current_dir(root).output().context("run cargo metadata")?;
    if !out.status.success() {
        bail!("cargo metadata failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let metadata: Value = serde_json::from_slice(&out.stdout).context("parse cargo metadata")?;
    let packages =
        metadata.get("packages").and_then(Value::as_array).context("cargo metadata has no packages")?;
    let mut problems = Vec::new();
    for package in packages {
        let text = |key: &str| package.get(key).and_then(Value::as_str).unwrap_or_default();
        let licence = text("license");
        if !is_allowed(licence) {
            problems.push(format!(
                "{} {}: the licence {licence:?} is not allowed",
                text("name"),
                text("version")
            ));
        }
    }
    Ok(problems)
}

fn host(root: &Path) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let out = Command::new(rustc).arg("-vV").current_dir(root).output().context("run rustc -vV")?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let host = text.lines().find_map(|l| l.strip_prefix("host: "));
    host.map(str::to_owned).context("rustc -vV names no host")
}

/// Returns whether an SPDX expression lets us ship: OR needs one side, AND both; `/` is an old way to write OR.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let tokens: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = tokens.as_slice();
    either(&mut rest) == Some(true) && rest.is_empty()
}

fn either(rest: &mut &[&str]) -> Option<bool> {
    let mut value = both(rest)?;
    while let Some(("OR", after)) = rest.split_first().map(|(first, after)| (*first, after)) {
        *rest = after;
        value |= both(rest)?;
    }
    Some(value)
}

fn both(rest: &mut &[&str]) -> Option<bool> {
    let mut value = single(rest)?;
    while let Some(("AND", after)) = rest.split_first().map(|(first, after)| (*first, after)) {
        *rest = after;
        value &= single(rest)?;
    }
    Some(value)
}

fn single(rest: &mut &[&str]) -> Option<bool> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    if *first == "(" {
        let value = either(rest)?;
        let (close, after) = rest.split_first()?;
        *rest = after;
        return (*close == ")").then_some(value);
    }
    let mut licence = (*first).to_owned();
    if let ["WITH", exception, after @ ..] = *rest {
        licence = format!("{licence} WITH {exception}");
        *rest = after;
    }
    Some(LICENCES.contains(&licence.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source;

    #[test]
    fn an_expression_is_allowed_when_a_way_through_it_is() {
        for good in [
            "MIT",
            "MIT OR Apache-2.0",
            "MIT/Apache-2.0",
            "GPL-3.0 OR MIT",
            "(MIT OR GPL-3.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(is_allowed(good), "{good}");
        }
        for bad in ["", "GPL-3.0", "MIT AND GPL-3.0", "(MIT", "MIT OR", "MIT MIT", "Apache-2.0 WITH other"] {
            assert!(!is_allowed(bad), "{bad}");
        }
    }

    #[test]
    fn versions_and_features_stand_in_one_table() {
        let manifest = "[lints]\nworkspace = true\n[dependencies]\na.workspace = true\nb = \"1\"\n\
                        [target.'cfg(unix)'.dev-dependencies]\nc = { workspace = true, features = [\"x\"] }\n";
        let problems =
            manifests(&[source("crates/a/b/Cargo.toml", manifest), source("crates/a/c/Cargo.toml", "")]);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("b must say"), "{problems:?}");
        assert!(problems[1].contains("c sets features"), "{problems:?}");
        assert!(problems[2].contains("c/Cargo.toml: [lints]"), "{problems:?}");
    }

    #[test]
    fn examples_are_tested_where_there_are_any() {
        let lints = "[lints]\nworkspace = true\n";
        let off = format!("{lints}[lib]\ndoctest = false\n");
        let with = "/// ```\n/// x();\n/// ```\n";
        for (manifest, code, problem) in [
            (lints, with, None),
            (&off, "", None),
            (lints, "", Some("has no examples")),
            (&off, with, Some("must not leave out")),
        ] {
            let crate_of = [source("crates/a/b/Cargo.toml", manifest), source("crates/a/b/src/lib.rs", code)];
            let found = manifests(&crate_of);
            assert_eq!(found.len(), usize::from(problem.is_some()), "{found:?}");
            assert!(found.iter().all(|f| problem.is_some_and(|p| f.contains(p))), "{found:?}");
        }
    }

    #[test]
    fn the_table_is_in_order() {
        let manifest = "[workspace.dependencies]\nmirror-z = 1\nmirror-a = 1\n\nb = 1\n# d = 1\nc = 1\na = 1\n[x]\na = 1\n";
        assert_eq!(order(manifest), ["Cargo.toml: a must stand before c"]);
    }
}
