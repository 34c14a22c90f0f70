//! What every text file must be: short, clean, documented, and free of what belongs to one machine.

use super::Source;

/// Longest Rust file, in lines.
const RUST_LINES: usize = 500;

/// Folders of scripts.
const SCRIPTS: &[&str] = &["scripts/", "deploy/", ".ci/"];

/// Longest script, in lines: logic belongs where a Rust test can hold it.
const SCRIPT_LINES: usize = 60;

/// Rust files that may be longer, each with the reason.
const LONG: &[(&str, &str)] = &[];

/// Paths under which text is taken as it came, each with the reason.
const VERBATIM: &[(&str, &str)] = &[
    ("tests/samples/", "transcripts as the clients wrote them, of an invented person"),
    ("crates/memory/verify/tests/golden/", "segments: their newlines are the format"),
    ("tests/golden/part1/home/", "a home as its release wrote it, byte for byte"),
    ("LICENSE-", "the official texts"),
    ("Cargo.lock", "written by cargo"),
];

/// Files that may name a home folder, each with the reason.
const MACHINE_PATHS: &[(&str, &str)] = &[
    ("tests/samples/", "invented homes in transcripts"),
    ("crates/dev/xtask/src/tidy/text.rs", "holds the rule and its tests"),
];

/// Homes that nobody has, for examples and tests.
const INVENTED_HOMES: &[&str] =
    &["run", "x", "a", "b", "me", "you", "user", "dev", "sam", "ada", "alice", "someone"];

/// Folders whose crates may listen on TCP; the fake plays a server of the outside world in the tests of notify.
const MAY_LISTEN: &[&str] =
    &["crates/edge/web/", "crates/mesh/mesh/", "crates/observation/notify/tests/fake/"];

/// Returns the problems of all files.
pub fn problems(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for source in sources {
        let path = source.path.as_str();
        let Some(text) = source.text.as_deref() else { continue };
        if !under(VERBATIM, path) {
            problems.extend(clean(path, text));
        }
        if !under(MACHINE_PATHS, path) {
            problems.extend(machine_paths(path, text));
        }
        if path.ends_with(".rs") || path.ends_with(".rs.tmpl") {
            problems.extend(rust(path, text));
        }
        let is_script = SCRIPTS.iter().any(|folder| path.starts_with(folder)) && text.starts_with("#!");
        if is_script && text.lines().count() > SCRIPT_LINES {
            problems
                .push(format!("{path}: a script has at most {SCRIPT_LINES} lines; move logic into xtask"));
        }
    }
    for (path, _) in LONG {
        if !sources.iter().any(|s| s.path == *path) {
            problems.push(format!("{path}: is excepted from the length rule and does not exist"));
        }
    }
    problems
}

fn under(list: &[(&str, &str)], path: &str) -> bool {
    list.iter().any(|(prefix, _)| path.starts_with(prefix))
}

fn clean(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (i, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", i + 1);
        if line.ends_with([' ', '\t', '\r']) {
            problems.push(format!("{at}: ends with white space"));
        }
        if line.contains('\t') {
            problems.push(format!("{at}: has a tab"));
        }
    }
    if !text.is_empty() && !text.ends_with('\n') {
        problems.push(format!("{path}: does not end with a newline"));
    }
    if text.ends_with("\n\n") {
        problems.push(format!("{path}: ends with an empty line"));
    }
    problems
}

fn rust(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let lines = text.lines().count();
    if lines > RUST_LINES && !under(LONG, path) {
        problems.push(format!(
            "{path}: has {lines} lines; at most {RUST_LINES}, or an exception with its reason"
        ));
    }
    if !text.starts_with("//! ") {
        problems.push(format!(
            "{path}:1: a module opens with `//!`: what it does, what it refuses, its invariant"
        ));
    }
    // In two parts, so that this file does not break its own rule.
    let refused = [
        (concat!("to", "do!("), "finish it, or leave it out"),
        (concat!("unimple", "mented!("), "finish it, or leave it out"),
        (concat!("db", "g!("), "log through tracing"),
        (concat!("#[ig", "nore"), "a test that does not run is no test"),
        (concat!("#[should_", "panic"), "assert on the error"),
    ];
    let may_listen = MAY_LISTEN.iter().any(|p| path.starts_with(p));
    let listener = concat!("Tcp", "Listener");
    for (i, line) in text.lines().enumerate() {
        let at = format!("{path}:{}", i + 1);
        for (token, remedy) in refused {
            if line.contains(token) {
                problems.push(format!("{at}: {token} is refused: {remedy}"));
            }
        }
        if line.contains(listener) && !may_listen {
            problems.push(format!("{at}: {listener} is refused: only web and mesh may listen on TCP"));
        }
    }
    problems
}

fn machine_paths(path: &str, text: &str) -> Vec<String> {
    let mut problems = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if let Some(found) = machine_path(line) {
            problems.push(format!("{path}:{}: {found:?} belongs to one machine", i + 1));
        }
    }
    problems
}

/// Returns the first path or host name in a line that only one machine has.
fn machine_path(line: &str) -> Option<&str> {
    for (prefix, named) in [("/root/", false), ("/work/", false), ("/home/", true), ("/Users/", true)] {
        for (at, _) in line.match_indices(prefix) {
            let starts =
                line[..at].chars().next_back().is_none_or(|c| !(c.is_alphanumeric() || "._-~".contains(c)));
            let rest = &line[at + prefix.len()..];
            let name = &rest
                [..rest.find(|c: char| !(c.is_alphanumeric() || "._-".contains(c))).unwrap_or(rest.len())];
            let invented = named && (name.is_empty() || INVENTED_HOMES.contains(&name));
            if starts && !invented {
                return Some(&line[at..at + prefix.len() + name.len()]);
            }
        }
    }
    let host = line.find(".ts.net").map(|at| {
        let start =
            line[..at].rfind(|c: char| !(c.is_alphanumeric() || "-.".contains(c))).map_or(0, |i| i + 1);
        &line[start..at]
    });
    host.filter(|name| !name.is_empty() && !name.contains("example"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source;

    #[track_caller]
    fn check(path: &str, text: &str, parts: &[&str]) {
        let problems = problems(&[source(path, text)]);
        assert_eq!(problems.len(), parts.len(), "{problems:?}");
        for (problem, part) in problems.iter().zip(parts) {
            assert!(problem.contains(part), "{part:?} in {problem:?}");
        }
    }

    #[test]
    fn clean_text_ends_once_and_has_no_stray_white_space() {
        check("a.md", "one\ntwo\n", &[]);
        check("a.md", "", &[]);
        check("a.md", "one \n\ttwo\nthree", &["a.md:1: ends with", "a.md:2: has a tab", "does not end"]);
        check("a.md", "one\n\n", &["ends with an empty line"]);
        check("tests/samples/a.jsonl", "one \t", &[]);
    }

    #[test]
    fn a_module_is_documented_short_and_finished() {
        check("a.rs", "//! Does.\nfn a() {}\n", &[]);
        check("a.rs", "fn a() {}\n", &["a.rs:1: a module opens"]);
        check("a.rs", &format!("//! Does.\n{}", "\n".repeat(499) + "x\n"), &["has 501 lines"]);
        check("a.rs", concat!("//! Does.\nto", "do!()\n"), &["finish it"]);
        check("a.rs", concat!("//! Does.\n#[ig", "nore = \"slow\"]\n"), &["no test"]);
        check("a.rs", concat!("//! Does.\nuse std::net::Tcp", "Listener;\n"), &["only web and mesh"]);
        check("crates/edge/web/src/a.rs", concat!("//! Does.\nuse std::net::Tcp", "Listener;\n"), &[]);
    }

    #[test]
    fn a_script_is_short() {
        check("scripts/a", &format!("#!/bin/sh\n{}", "true\n".repeat(60)), &["at most 60 lines"]);
        check("scripts/a", &format!("#!/bin/sh\n{}", "true\n".repeat(59)), &[]);
    }

    #[test]
    fn what_belongs_to_one_machine_is_found() {
        for bad in [
            "cd /root/x",
            "see /work/main",
            "\"/home/jsmith/notes\"",
            "/Users/jsmith",
            "ssh mini.tail1234.ts.net",
        ] {
            assert!(machine_path(bad).is_some(), "{bad}");
        }
        for good in [
            "/home/x/.mirror",
            "~/work/main",
            "a/home/jsmith",
            "the /home/ folder",
            "box.example.ts.net",
            "homework/",
        ] {
            assert_eq!(machine_path(good), None, "{good}");
        }
    }
}
