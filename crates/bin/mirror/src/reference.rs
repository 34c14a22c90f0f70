//! `docs/CLI.md`, written from the definition of the command line.

use std::fmt::Write as _;

use clap::{Arg, Command};

use crate::args::command;
use crate::failure::EXIT_CODES;

const INTRO: &str = "# The command line

This page is written by `cargo test -p mirror --test cli` from the definition of the commands; change that, not this.

`mirror` is one binary. Started under the name of a link in `<home>/bin`, such as `mirror-bus`, it is that service; under
its own name it is the commands below. Data goes to standard output, talk to standard error; when the reader of the output
goes away, a command ends quietly with 0. With `--json` each command prints one JSON object, or one a line where there are
many, and an error is one JSON object on standard error.

An error names its reason and the page that explains it:

```
error: the fleet is not running
reason: CLI_FLEET_AWAY
see: docs/errors/CLI_FLEET_AWAY.md
hint: start it with: /home/you/.mirror/bin/mirror up
```

## Environment

| name | what it does |
|---|---|
| `MIRROR_HOME` | home folder, an absolute path; `~/.mirror` without it. `--home` wins over it |
| `MIRROR_LOG` | level of the services' logs, such as `debug` or `mirror_bus=debug`; `info` without it |
| `NO_COLOR` | no colours, unless `--color always` |
| `MIRROR_SUPERVISED` | set by `mirror up` for the services that it starts |

## Exit codes

| code | meaning |
|---|---|
";

/// Returns the page.
pub fn reference() -> String {
    let mut page = INTRO.to_owned();
    for (code, meaning) in EXIT_CODES {
        let _ = writeln!(page, "| {code} | {meaning} |");
    }
    page.push_str("\n## Options of every command\n\n| option | what it does |\n|---|---|\n");
    let mut root = command();
    root.build();
    for arg in root.get_arguments().filter(|arg| arg.is_global_set()) {
        row(&mut page, arg);
    }
    page.push_str("\n## Commands\n");
    section(&mut page, &root, "mirror");
    page
}

fn section(page: &mut String, parent: &Command, path: &str) {
    for sub in parent.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        let path = format!("{path} {}", sub.get_name());
        if sub.has_subcommands() && sub.is_subcommand_required_set() {
            section(page, sub, &path);
            continue;
        }
        let usage = sub.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage: ").trim();
        let _ = write!(page, "\n### {path}\n\n```\n{usage}\n```\n\n");
        let about =
            sub.get_long_about().or_else(|| sub.get_about()).map(ToString::to_string).unwrap_or_default();
        let paragraphs: Vec<String> = about.split("\n\n").map(sentence).collect();
        let _ = writeln!(page, "{}", paragraphs.join("\n\n"));
        let own: Vec<&Arg> =
            sub.get_arguments().filter(|arg| !arg.is_global_set() && !is_built_in(arg)).collect();
        if !own.is_empty() {
            page.push_str("\n| argument | what it does |\n|---|---|\n");
            own.iter().for_each(|arg| row(page, arg));
        }
        section(page, sub, &path);
    }
}

fn is_built_in(arg: &Arg) -> bool {
    matches!(arg.get_id().as_str(), "help" | "version")
}

/// Ends a paragraph with a full stop.
fn sentence(text: &str) -> String {
    let text = text.trim().replace('\n', " ");
    if text.ends_with(['.', '?']) { text } else { format!("{text}.") }
}

fn row(page: &mut String, arg: &Arg) {
    let mut names = Vec::new();
    names.extend(arg.get_short().map(|c| format!("-{c}")));
    names.extend(arg.get_long().map(|name| format!("--{name}")));
    let value = arg.get_value_names().unwrap_or_default().join(" ");
    let takes = arg.get_action().takes_values();
    let name = match (names.is_empty(), takes) {
        (true, _) => value,
        (false, true) => format!("{} <{value}>", names.join(", ")),
        (false, false) => names.join(", "),
    };
    let mut help = arg.get_help().map(ToString::to_string).unwrap_or_default().replace('\n', " ");
    let values: Vec<String> = arg
        .get_possible_values()
        .iter()
        .filter(|_| takes)
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() {
        let _ = write!(help, ": {}", values.join(", "));
    }
    if takes && let Some(default) = arg.get_default_values().first() {
        let _ = write!(help, " [default: {}]", default.to_string_lossy());
    }
    let _ = writeln!(page, "| `{}` | {} |", name.replace('|', "\\|"), help.replace('|', "\\|"));
}
