//! The files that people and installers write: `mirror.toml`, property lists, units.

use std::fs;
use std::io;

use super::{Finding, Look};
use crate::app::app;

pub(super) fn findings(look: &Look<'_>) -> Vec<Finding> {
    let mut findings = configuration(look);
    findings.extend(definitions(look));
    findings
}

/// Checks what can be checked without the services: the grammar, and the names of the tables.
fn configuration(look: &Look<'_>) -> Vec<Finding> {
    let path = look.home.config();
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return vec![Finding::fine("config", "there is no mirror.toml, so every default holds")];
        }
        Err(e) => return vec![Finding::problem("config", format!("it cannot be read: {e}")).file(path)],
    };
    let table = match text.parse::<toml::Table>() {
        Ok(table) => table,
        Err(e) => {
            let line = e.span().map(|span| line_at(&text, span.start));
            let why = e.message().replace('\n', " ");
            return vec![
                Finding::problem("config", why)
                    .file(path)
                    .line(line)
                    .mend(format!("mend the line, then: {}", look.command("restart --all"))),
            ];
        }
    };
    let names: Vec<&str> = app().services.iter().map(|s| s.decl.name).collect();
    let mut findings: Vec<Finding> = table
        .keys()
        .filter(|key| !names.contains(&key.as_str()))
        .map(|key| {
            let near = names.iter().map(|n| (strsim::damerau_levenshtein(key, n), n)).min();
            let near = near.filter(|(distance, name)| *distance <= 1 + name.len() / 4);
            let hint = near.map_or("it is ignored".to_owned(), |(_, name)| format!("did you mean {name}?"));
            Finding::warning("config", format!("no service is called {key:?}; {hint}"))
                .file(&path)
                .line(line_of(&text, key, None))
        })
        .collect();
    if findings.is_empty() {
        findings.push(Finding::fine("config", "its grammar and its tables are right").file(path));
    }
    findings
}

fn line_at(text: &str, offset: usize) -> usize {
    text.as_bytes()[..offset.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1
}

/// Returns the line of a table, or of a key in a table.
pub(super) fn line_of(text: &str, table: &str, key: Option<&str>) -> Option<usize> {
    let mut within = false;
    for (i, line) in text.lines().enumerate() {
        let line = line.trim();
        if let Some(rest) = line.strip_prefix('[') {
            let name = rest.trim_start_matches('[').split([']', '.']).next().unwrap_or_default();
            within = name.trim().trim_matches('"') == table;
            if within && key.is_none() {
                return Some(i + 1);
            }
            continue;
        }
        let name = line.split('=').next().unwrap_or_default().trim().trim_matches('"');
        let is_it = match key {
            Some(key) => within && name == key || name == format!("{table}.{key}"),
            None => name == table || name.starts_with(&format!("{table}.")),
        };
        if is_it {
            return Some(i + 1);
        }
    }
    None
}

/// Compares what is installed with the catalogue.
fn definitions(look: &Look<'_>) -> Vec<Finding> {
    let Ok(system) = crate::cmd::install::system(look.home) else { return Vec::new() };
    let folder = system.manager.folder();
    let mut findings = Vec::new();
    let mut found = 0;
    for (name, text) in system.plan.iter().flat_map(|p| &p.definition.files) {
        let path = folder.join(name);
        match fs::read_to_string(&path) {
            Ok(same) if same == *text => found += 1,
            Ok(_) => {
                found += 1;
                findings.push(
                    Finding::problem("install", "it is not as the catalogue of this build says")
                        .file(path)
                        .mend(look.command("install")),
                );
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => findings
                .push(Finding::problem("install", "it is missing").file(path).mend(look.command("install"))),
            Err(e) => {
                findings.push(Finding::problem("install", format!("it cannot be read: {e}")).file(path))
            }
        }
    }
    if found == 0 {
        let text = format!("{} does not keep the fleet: it was not installed", system.manager.name());
        return vec![Finding::note("install", text)];
    }
    if findings.is_empty() {
        let text = format!("every definition of {} is as the catalogue says", system.manager.name());
        findings.push(Finding::fine("install", text).file(folder));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_found_in_its_table() {
        let text =
            "# bus\nbus.reserve = 1\n\n[pulse]\nsweep = 2\n[ \"halt\" ]\nsweep = 3\n[[notify.channel]]\n";
        assert_eq!(line_of(text, "bus", None), Some(2));
        assert_eq!(line_of(text, "bus", Some("reserve")), Some(2));
        assert_eq!(line_of(text, "pulse", None), Some(4));
        assert_eq!(line_of(text, "pulse", Some("sweep")), Some(5));
        assert_eq!(line_of(text, "notify", None), Some(8));
        assert_eq!(line_of(text, "notify", Some("sweep")), None);
    }
}
