//! Pages that must exist: one for each reason, a README for each group, decision records in order.

use std::collections::{BTreeMap, BTreeSet};

use mirror_errors::Kind;

use super::Source;
use super::names::crates;
use crate::catalogue::Reasons;

/// Longest README of a group, in lines.
const GROUP_LINES: usize = 8;

/// What a page about a reason answers.
const PAGE_SECTIONS: &[&str] = &["What happened", "Why", "What to do"];

/// What a decision record answers.
const RECORD_SECTIONS: &[&str] = &["Context", "Decision", "Consequences", "What would change our mind"];

/// Returns the problems of pages.
pub fn problems(sources: &[Source], known: &Reasons) -> Vec<String> {
    let mut problems = reasons(sources, known);
    problems.extend(groups(sources));
    problems.extend(records(sources));
    problems
}

/// Returns the pages of a folder by name without `.md`, without its README.
fn pages<'a>(sources: &'a [Source], folder: &str) -> BTreeMap<&'a str, &'a str> {
    sources
        .iter()
        .filter_map(|s| Some((s.path.strip_prefix(folder)?.strip_suffix(".md")?, s.text.as_deref()?)))
        .filter(|(name, _)| *name != "README" && !name.contains('/'))
        .collect()
}

fn reasons(sources: &[Source], known: &Reasons) -> Vec<String> {
    let mut problems = Vec::new();
    let owners: BTreeMap<&str, &str> =
        known.iter().flat_map(|(owner, list)| list.iter().map(|reason| (*reason, *owner))).collect();
    let pages = pages(sources, "docs/errors/");
    for (reason, owner) in &owners {
        let path = format!("docs/errors/{reason}.md");
        let Some(text) = pages.get(reason) else {
            problems.push(format!("{path}: the page of a reason of {owner} is missing"));
            continue;
        };
        let mut lines = text.lines().filter(|l| !l.is_empty());
        if lines.next() != Some(format!("# {reason}").as_str()) {
            problems.push(format!("{path}:1: must be \"# {reason}\""));
        }
        let kind =
            lines.next().and_then(|l| l.strip_prefix("Kind: ")).and_then(|l| l.split_once(" · service: "));
        if kind.is_none_or(|(kind, service)| service != *owner || !begins_with_kind(kind)) {
            problems.push(format!("{path}: below the title stands \"Kind: <a kind> · service: {owner}\""));
        }
        problems.extend(sections(&path, text, PAGE_SECTIONS));
    }
    for stray in pages.keys().filter(|page| !owners.contains_key(*page)) {
        problems.push(format!("docs/errors/{stray}.md: no service answers with this reason"));
    }
    problems
}

fn begins_with_kind(text: &str) -> bool {
    let first = text.split([' ', ',']).next();
    Kind::ALL.iter().any(|kind| first == Some(format!("{kind:?}").as_str()))
}

fn sections(path: &str, text: &str, expected: &[&str]) -> Vec<String> {
    let mut lines = text.lines();
    let mut problems = Vec::new();
    for section in expected {
        let heading = format!("## {section}");
        if !lines.by_ref().any(|l| l == heading) {
            problems.push(format!("{path}: the section {heading:?} is missing, or not in its place"));
            break;
        }
        if !lines.clone().take_while(|l| !l.starts_with("## ")).any(|l| !l.is_empty()) {
            problems.push(format!("{path}: the section {heading:?} is empty"));
        }
    }
    problems
}

fn groups(sources: &[Source]) -> Vec<String> {
    let groups: BTreeSet<&str> = crates(sources).iter().filter_map(|c| c.split('/').nth(1)).collect();
    let mut problems = Vec::new();
    for group in groups {
        let path = format!("crates/{group}/README.md");
        let text = sources.iter().find(|s| s.path == path).and_then(|s| s.text.as_deref());
        match text {
            None => {
                problems.push(format!("{path}: is missing: what the group is for, and what it must never do"))
            }
            Some(text) if text.lines().count() > GROUP_LINES => {
                problems.push(format!("{path}: has more than {GROUP_LINES} lines"));
            }
            Some(text) if !text.starts_with(&format!("# {group}\n")) => {
                problems.push(format!("{path}:1: must be \"# {group}\""));
            }
            Some(_) => {}
        }
    }
    problems
}

fn records(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    let readme = "docs/adr/README.md";
    let index = sources.iter().find(|s| s.path == readme).and_then(|s| s.text.as_deref()).unwrap_or_default();
    for (i, (name, text)) in pages(sources, "docs/adr/").into_iter().enumerate() {
        let path = format!("docs/adr/{name}.md");
        let number = format!("{:04}", i + 1);
        if !name.starts_with(&format!("{number}-")) {
            problems.push(format!("{path}: the next record has the number {number}"));
        }
        if !text.starts_with(&format!("# {number}: ")) {
            problems.push(format!("{path}:1: must begin with \"# {number}: \""));
        }
        if !index.contains(&format!("({name}.md)")) {
            problems.push(format!("{readme}: does not link {name}.md"));
        }
        problems.extend(sections(&path, text, RECORD_SECTIONS));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source;

    const PAGE: &str = "# SHELF_FULL\n\nKind: Exhausted · service: shelf\n\n## What happened\n\na\n\n## Why\n\nb\n\n## What to do\n\nc\n";
    const RECORD: &str = "# 0001: a\n\n## Context\n\na\n\n## Decision\n\na\n\n## Consequences\n\na\n\n## What would change our mind\n\na\n";

    #[track_caller]
    fn check(extra: &[(&str, &str)], parts: &[&str]) {
        let sources: Vec<Source> = extra.iter().map(|(path, text)| source(path, text)).collect();
        let problems = problems(&sources, &Reasons::from([("shelf", vec!["SHELF_FULL"])]));
        assert_eq!(problems.len(), parts.len(), "{problems:?}");
        for (problem, part) in problems.iter().zip(parts) {
            assert!(problem.contains(part), "{part:?} in {problem:?}");
        }
    }

    #[test]
    fn each_reason_has_a_page_and_each_page_a_reason() {
        let path = "docs/errors/SHELF_FULL.md";
        check(&[(path, PAGE), ("docs/errors/README.md", "")], &[]);
        check(&[], &["SHELF_FULL.md: the page of a reason of shelf is missing"]);
        check(&[(path, PAGE), ("docs/errors/OLD.md", PAGE)], &["OLD.md: no service"]);
        check(&[(path, &PAGE.replace("# SHELF_FULL", "# SHELF"))], &["must be \"# SHELF_FULL\""]);
        check(&[(path, &PAGE.replace("service: shelf", "service: bus"))], &["service: shelf"]);
        check(&[(path, &PAGE.replace("Kind: Exhausted", "Kind: Full"))], &["a kind"]);
        check(&[(path, &PAGE.replace("## Why", "## Cause"))], &["\"## Why\" is missing"]);
        check(&[(path, &PAGE.replace("\nb\n", ""))], &["\"## Why\" is empty"]);
    }

    #[test]
    fn a_group_says_what_it_is_for() {
        let page = ("docs/errors/SHELF_FULL.md", PAGE);
        let member = ("crates/memory/bus/Cargo.toml", "");
        check(&[page, member, ("crates/memory/README.md", "# memory\n\nThe log.\n")], &[]);
        check(&[page, member], &["crates/memory/README.md: is missing"]);
        check(&[page, member, ("crates/memory/README.md", "# mind\n")], &["must be \"# memory\""]);
        let long = format!("# memory\n{}", "x\n".repeat(8));
        check(&[page, member, ("crates/memory/README.md", &long)], &["more than 8 lines"]);
    }

    #[test]
    fn records_are_numbered_and_in_the_index() {
        let page = ("docs/errors/SHELF_FULL.md", PAGE);
        let index = ("docs/adr/README.md", "[a](0001-a.md)\n");
        check(&[page, index, ("docs/adr/0001-a.md", RECORD)], &[]);
        check(&[page, ("docs/adr/0001-a.md", RECORD)], &["does not link 0001-a.md"]);
        check(&[page, index, ("docs/adr/0001-a.md", &RECORD.replace("0001: a", "0002: a"))], &["0001: "]);
        let parts = ["the next record has the number 0001", "must begin with", "does not link"];
        check(&[page, index, ("docs/adr/0002-a.md", &RECORD.replace("# 0001", "# 0002"))], &parts);
    }
}
