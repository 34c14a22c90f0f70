//! The rows of coding agents' transcripts, as far as the changelog reads them.
//!
//! The formats are undocumented and change often, so the rules ask for little, and what they do not find is absent.

use crate::fact::{Kind, PROMPT_CHARS, Seen, Vendor, digest};
use crate::json::{list, members, string};
use crate::text::clean;

/// Most characters of a tool's name.
const TOOL_CHARS: usize = 40;
/// Most characters of a project's name.
const PROJECT_CHARS: usize = 40;
/// Most tool calls that one row is believed to hold.
const CALLS_LIMIT: usize = 256;
/// Claude Code's tools that write a file, and the member that names it.
const CLAUDE_WRITES: [(&str, &str); 4] = [
    ("Edit", "file_path"),
    ("MultiEdit", "file_path"),
    ("Write", "file_path"),
    ("NotebookEdit", "notebook_path"),
];
/// Beginnings of lines in a patch of Codex that name a file.
const CODEX_WRITES: [&str; 3] = ["*** Update File: ", "*** Add File: ", "*** Delete File: "];
/// Gemini's tools that write a file.
const GEMINI_WRITES: [&str; 3] = ["write_file", "replace", "edit"];

/// Returns what a row says.
pub(crate) fn look(vendor: Vendor, kind: Kind, row: &str) -> Seen {
    let mut seen = Seen::default();
    match vendor {
        Vendor::Claude => claude(kind, row, &mut seen),
        Vendor::Codex => codex(kind, row, &mut seen),
        Vendor::Gemini => gemini(kind, row, &mut seen),
    }
    seen
}

/// Returns what the excerpt of a row says that was too large for the log.
pub(crate) fn excerpt(kind: Kind, text: &str) -> Seen {
    let prompt = if kind == Kind::Prompt { prompt(text) } else { String::new() };
    Seen { prompt, turn: kind == Kind::Turn, ..Seen::default() }
}

/// Returns whether an agent is the program's own: its compactions and suggestions are no work that was asked for.
pub(crate) fn is_internal_agent(id: &str) -> bool {
    id.starts_with("acompact-") || id.starts_with("aprompt_suggestion-")
}

fn claude(kind: Kind, row: &str, seen: &mut Seen) {
    let [cwd, message] = members(row, ["cwd", "message"]);
    seen.project = project(cwd);
    let [id, content] = message.map_or([None; 2], |message| members(message, ["id", "content"]));
    match kind {
        Kind::Prompt => seen.prompt = prompt(&opening(content)),
        Kind::Turn => {
            seen.turn = true;
            seen.answer = id.and_then(string).map(|id| digest(id.as_bytes()));
            for block in content.map(list).unwrap_or_default().into_iter().take(CALLS_LIMIT) {
                let [kind, name, input] = members(block, ["type", "name", "input"]);
                let kind = kind.and_then(string).unwrap_or_default();
                if !matches!(kind.as_str(), "tool_use" | "server_tool_use" | "mcp_tool_use") {
                    continue;
                }
                let Some(name) = name.and_then(string) else { continue };
                if let Some((_, member)) = CLAUDE_WRITES.iter().find(|(tool, _)| *tool == name) {
                    let path = input.and_then(|input| members(input, [*member])[0]).and_then(string);
                    seen.files.extend(path.map(|path| digest(path.as_bytes())));
                }
                seen.tools.push(clean(&name, TOOL_CHARS));
            }
        }
        Kind::Compaction | Kind::Other => {}
    }
}

fn codex(kind: Kind, row: &str, seen: &mut Seen) {
    let [payload] = members(row, ["payload"]);
    let [what, cwd, name, content, input] =
        members(payload.unwrap_or(row), ["type", "cwd", "name", "content", "input"]);
    seen.project = project(cwd);
    match kind {
        Kind::Prompt => seen.prompt = prompt(&opening(content)),
        Kind::Turn => {
            let what = what.and_then(string).unwrap_or_default();
            let name = match what.as_str() {
                "function_call" | "custom_tool_call" | "tool_search_call" => name.and_then(string),
                "local_shell_call" => Some("shell".to_owned()),
                "web_search_call" => Some("web_search".to_owned()),
                _ => None,
            };
            // Reasoning and calls are rows of their own; the message is what there is one of in each answer.
            seen.turn = what == "message";
            if name.as_deref() == Some("apply_patch") {
                let patch = input.and_then(string).unwrap_or_default();
                let paths = patch.lines().filter_map(|line| {
                    CODEX_WRITES.iter().find_map(|start| line.strip_prefix(start)).map(str::trim)
                });
                seen.files.extend(paths.take(CALLS_LIMIT).map(|path| digest(path.as_bytes())));
            }
            seen.tools.extend(name.map(|name| clean(&name, TOOL_CHARS)));
        }
        Kind::Compaction | Kind::Other => {}
    }
}

fn gemini(kind: Kind, row: &str, seen: &mut Seen) {
    let [id, content, calls, set] = members(row, ["id", "content", "toolCalls", "$set"]);
    let directories = set.and_then(|set| members(set, ["directories"])[0]);
    seen.project = project(directories.map(list).unwrap_or_default().first().copied());
    match kind {
        Kind::Prompt => seen.prompt = prompt(&opening(content)),
        Kind::Turn => {
            seen.turn = true;
            seen.repeats_tools = true;
            seen.answer = id.and_then(string).map(|id| digest(id.as_bytes()));
            for call in calls.map(list).unwrap_or_default().into_iter().take(CALLS_LIMIT) {
                let [name, args] = members(call, ["name", "args"]);
                let Some(name) = name.and_then(string) else { continue };
                if GEMINI_WRITES.contains(&name.as_str()) {
                    let path = args.and_then(|args| members(args, ["file_path"])[0]).and_then(string);
                    seen.files.extend(path.map(|path| digest(path.as_bytes())));
                }
                seen.tools.push(clean(&name, TOOL_CHARS));
            }
        }
        Kind::Compaction | Kind::Other => {}
    }
}

fn project(cwd: Option<&str>) -> String {
    let cwd = cwd.and_then(string).unwrap_or_default();
    let last = cwd.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or_default();
    clean(last, PROJECT_CHARS)
}

/// Returns the first text of content that is a string, or an array of strings and of blocks with a `text`.
fn opening(content: Option<&str>) -> String {
    let Some(content) = content else { return String::new() };
    string(content)
        .or_else(|| {
            list(content)
                .into_iter()
                .find_map(|block| string(block).or_else(|| members(block, ["text"])[0].and_then(string)))
        })
        .unwrap_or_default()
}

/// Returns the beginning of what was asked; a command as it was typed.
fn prompt(text: &str) -> String {
    let text = text.trim_start();
    if text.starts_with("<command-")
        && let Some(name) = between(text, "<command-name>", "</command-name>")
    {
        let args = between(text, "<command-args>", "</command-args>").unwrap_or_default();
        return clean(&format!("{name} {args}"), PROMPT_CHARS);
    }
    clean(text, PROMPT_CHARS)
}

fn between<'a>(text: &'a str, start: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(start)?;
    rest.split_once(end).map(|(inner, _)| inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(vendor: Vendor, kind: Kind, row: &str, expected: &str) {
        let seen = look(vendor, kind, row);
        let turn = if seen.turn { " turn" } else { "" };
        let found =
            format!("{}|{}|{}|{}{turn}", seen.project, seen.prompt, seen.tools.join(","), seen.files.len());
        assert_eq!(found, expected, "{row}");
    }

    #[test]
    fn claude_rows() {
        use Vendor::Claude;
        check(
            Claude,
            Kind::Prompt,
            r#"{"cwd":"/srv/app/","message":{"content":"Fix\nit"}}"#,
            "app|Fix it||0",
        );
        check(
            Claude,
            Kind::Prompt,
            r#"{"cwd":"C:\\work\\app","message":{"content":[{"type":"image"},{"type":"text","text":"see"}]}}"#,
            "app|see||0",
        );
        check(
            Claude,
            Kind::Prompt,
            r#"{"message":{"content":"<command-message>x</command-message>\n<command-name>/plan</command-name>\n<command-args>the day</command-args>"}}"#,
            "|/plan the day||0",
        );
        check(
            Claude,
            Kind::Turn,
            r#"{"message":{"id":"m","content":[{"type":"text","text":"I go."},
                {"type":"tool_use","name":"Edit","input":{"file_path":"/a"}},
                {"type":"tool_use","name":"NotebookEdit","input":{"notebook_path":"/b"}},
                {"type":"tool_use","name":"Read","input":{"file_path":"/c"}},
                {"type":"tool_use","input":{}}, 7]}}"#,
            "||Edit,NotebookEdit,Read|2 turn",
        );
        check(Claude, Kind::Turn, r#"{"message":"odd"}"#, "|||0 turn");
        check(Claude, Kind::Other, r#"{"cwd":"/srv/app","message":{"content":"no"}}"#, "app|||0");
    }

    #[test]
    fn codex_rows() {
        use Vendor::Codex;
        let wrap = |payload: &str| format!(r#"{{"type":"response_item","payload":{payload}}}"#);
        let message = r#"{"type":"message","role":"user","content":[{"type":"input_text","text":"fix it"}]}"#;
        check(Codex, Kind::Prompt, &wrap(message), "|fix it||0");
        check(Codex, Kind::Prompt, message, "|fix it||0");
        check(Codex, Kind::Turn, &wrap(r#"{"type":"message","content":[]}"#), "|||0 turn");
        check(Codex, Kind::Turn, &wrap(r#"{"type":"function_call","name":"shell"}"#), "||shell|0");
        check(Codex, Kind::Turn, &wrap(r#"{"type":"local_shell_call"}"#), "||shell|0");
        let patch = r#"{"type":"custom_tool_call","name":"apply_patch","input":"*** Begin Patch\n*** Update File: a.rs\n*** Add File: b.rs\n"}"#;
        check(Codex, Kind::Turn, &wrap(patch), "||apply_patch|2");
        check(Codex, Kind::Other, &wrap(r#"{"cwd":"/srv/app"}"#), "app|||0");
    }

    #[test]
    fn gemini_rows() {
        use Vendor::Gemini;
        check(Gemini, Kind::Prompt, r#"{"id":"1","content":"hello"}"#, "|hello||0");
        check(Gemini, Kind::Prompt, r#"{"id":"1","content":[{"text":"hello"}]}"#, "|hello||0");
        check(
            Gemini,
            Kind::Turn,
            r#"{"id":"2","toolCalls":[{"name":"replace","args":{"file_path":"/a"}},{"name":"ls"}]}"#,
            "||replace,ls|1 turn",
        );
        check(Gemini, Kind::Other, r#"{"$set":{"directories":["/srv/app"]}}"#, "app|||0");
    }

    #[test]
    fn an_excerpt_stands_in_for_a_large_row() {
        assert_eq!(excerpt(Kind::Prompt, "a long\nstory").prompt, "a long story");
        assert!(excerpt(Kind::Turn, "I go.").turn);
    }
}
