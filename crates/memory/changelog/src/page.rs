//! One day of the changelog: sessions, groups of like events, and lines that stand for what is no longer told apart.
//!
//! Invariant: every event of the day is counted in exactly one entry, and no list grows past its bound.

use serde::{Deserialize, Serialize};

use crate::fact::{Fact, Kind, Plain, Row, Vendor, What};
use crate::moment::second_text;

/// Most sessions and groups of one day that are told apart.
pub(crate) const DAY_ENTRIES: usize = 384;
/// Most writers of a day that have lines of their own.
const LINES_LIMIT: usize = 16;
/// Most tools of a session that are told apart.
const TOOLS_LIMIT: usize = 24;
/// Tools that a session's text names.
const TOOLS_NAMED: usize = 3;
/// Most files, and most sub-agents, of a session that are told apart.
const MARKS_LIMIT: usize = 512;
/// Texts that a group quotes.
const QUOTES: usize = 3;
/// Stands for the writers beyond the bound.
const OTHERS: &str = "others";

/// Which events an entry stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Extent {
    pub(crate) events: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// First and last second of the day.
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Extent {
    /// Stands for nothing.
    const NONE: Self = Self { events: 0, first_seq: u64::MAX, last_seq: 0, start: u32::MAX, end: 0 };

    fn of(fact: &Fact) -> Self {
        let (seq, second) = (fact.seq, fact.when.second);
        Self { events: 1, first_seq: seq, last_seq: seq, start: second, end: second }
    }

    fn add(&mut self, other: Self) {
        self.events = self.events.saturating_add(other.events);
        self.first_seq = self.first_seq.min(other.first_seq);
        self.last_seq = self.last_seq.max(other.last_seq);
        self.start = self.start.min(other.start);
        self.end = self.end.max(other.end);
    }
}

/// Digests that are told apart, up to a bound.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Marks {
    known: Vec<u64>,
    /// Whether there were more than could be told apart.
    more: bool,
}

impl Marks {
    /// Notes a digest, and returns whether it was new and is kept.
    fn note(&mut self, mark: u64) -> bool {
        let Err(at) = self.known.binary_search(&mark) else { return false };
        if self.known.len() >= MARKS_LIMIT {
            self.more = true;
            return false;
        }
        self.known.insert(at, mark);
        true
    }
}

/// Answers of the model, of which several rows may belong to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Answer {
    id: Option<u64>,
    tools: usize,
}

/// One session on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Session {
    vendor: Vendor,
    id: String,
    extent: Extent,
    project: String,
    prompt: String,
    prompts: u64,
    turns: u64,
    calls: u64,
    /// The same compaction leaves a mark, a summary, or both.
    marks: u64,
    summaries: u64,
    tools: Vec<(String, u64)>,
    agents: Marks,
    files: Marks,
    /// Latest answer in the session itself, and in its sub-agents.
    answers: [Answer; 2],
}

impl Session {
    fn new(row: &Row) -> Self {
        Self {
            vendor: row.vendor,
            id: row.session.clone(),
            extent: Extent::NONE,
            project: String::new(),
            prompt: String::new(),
            prompts: 0,
            turns: 0,
            calls: 0,
            marks: 0,
            summaries: 0,
            tools: Vec::new(),
            agents: Marks::default(),
            files: Marks::default(),
            answers: [Answer::default(); 2],
        }
    }

    fn key(&self) -> (Vendor, &str) {
        (self.vendor, &self.id)
    }

    /// Adds a row, and returns how many digests it made the session keep.
    fn add(&mut self, extent: Extent, row: Row) -> usize {
        self.extent.add(extent);
        let seen = row.seen;
        if self.project.is_empty() {
            self.project = seen.project;
        }
        match row.kind {
            Kind::Prompt if !row.side => {
                self.prompts += 1;
                // A bare command says less of what a session was about than the first words of a person.
                let better = self.prompt.starts_with('/') && !seen.prompt.starts_with('/');
                if !seen.prompt.is_empty() && (self.prompt.is_empty() || better) {
                    self.prompt = seen.prompt;
                }
            }
            Kind::Compaction if row.summary => self.summaries += 1,
            Kind::Compaction => self.marks += 1,
            Kind::Turn | Kind::Prompt | Kind::Other => {}
        }
        if row.kind == Kind::Turn {
            let last = &mut self.answers[usize::from(row.side)];
            let same = seen.answer.is_some() && seen.answer == last.id;
            let known = if same && seen.repeats_tools { last.tools } else { 0 };
            if seen.turn && !same {
                self.turns += 1;
            }
            if seen.turn {
                *last = Answer { id: seen.answer, tools: seen.tools.len().max(known) };
            }
            for tool in seen.tools.into_iter().skip(known) {
                self.calls += 1;
                count(&mut self.tools, tool);
            }
        }
        let agents = row.agent.is_some_and(|agent| self.agents.note(agent));
        let files = seen.files.into_iter().filter(|file| self.files.note(*file)).count();
        usize::from(agents) + files
    }

    fn kept_marks(&self) -> usize {
        self.agents.known.len() + self.files.known.len()
    }

    fn text(&self) -> String {
        let mut about = self.project.clone();
        if !self.prompt.is_empty() {
            let colon = if about.is_empty() { "" } else { ": " };
            about = format!("{about}{colon}\"{}\"", self.prompt.replace('"', "'"));
        }
        let mut parts = Vec::new();
        let mut part = |n: u64, one: &str, many: &str| {
            if n > 0 {
                parts.push(format!("{n} {}", if n == 1 { one } else { many }));
            }
        };
        part(self.prompts, "prompt", "prompts");
        part(self.turns, "turn", "turns");
        part(self.calls, "tool call", "tool calls");
        if let Some(calls) = parts.last_mut().filter(|_| self.calls > 0) {
            let mut tools: Vec<_> = self.tools.iter().collect();
            tools.sort_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
            let named: Vec<_> =
                tools.iter().take(TOOLS_NAMED).map(|(name, n)| format!("{name} {n}")).collect();
            *calls = format!("{calls} ({})", named.join(", "));
        }
        let compactions = self.marks.max(self.summaries);
        parts.extend(marked(&self.agents, "sub-agent", "sub-agents"));
        if compactions > 0 {
            parts.push(format!(
                "{compactions} {}",
                if compactions == 1 { "compaction" } else { "compactions" }
            ));
        }
        parts.extend(marked(&self.files, "file changed", "files changed"));
        if parts.is_empty() {
            let rows = self.extent.events;
            parts
                .push(format!("{rows} {}", if rows == 1 { "row without work" } else { "rows without work" }));
        }
        let parts = parts.join(", ");
        if about.is_empty() { parts } else { format!("{about} — {parts}") }
    }
}

fn marked(marks: &Marks, one: &str, many: &str) -> Option<String> {
    match (marks.known.len(), marks.more) {
        (0, _) => None,
        (1, false) => Some(format!("1 {one}")),
        (n, false) => Some(format!("{n} {many}")),
        (n, true) => Some(format!("more than {n} {many}")),
    }
}

fn count(tools: &mut Vec<(String, u64)>, name: String) {
    if let Some((_, n)) = tools.iter_mut().find(|(known, _)| *known == name) {
        *n += 1;
    } else if tools.len() < TOOLS_LIMIT {
        tools.push((name, 1));
    }
}

/// Events of one writer and subject on one day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Group {
    writer: String,
    subject: String,
    extent: Extent,
    quotes: Vec<String>,
    /// How many of its events have a payload that was erased.
    erased: u64,
}

impl Group {
    fn key(&self) -> (&str, &str) {
        (&self.writer, &self.subject)
    }

    fn text(&self) -> String {
        let mut head = format!("{} ×{}", self.subject, self.extent.events);
        if self.erased > 0 {
            head = format!("{head} ({} erased)", self.erased);
        }
        if self.quotes.is_empty() {
            return head;
        }
        let quotes: Vec<_> =
            self.quotes.iter().map(|text| format!("\"{}\"", text.replace('"', "'"))).collect();
        format!("{head}: {}", quotes.join(", "))
    }
}

/// Events of one writer that are not told apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Line {
    writer: String,
    sessions: u64,
    extent: Extent,
}

/// An entry of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Who did it.
    pub writer: String,
    /// What was done.
    pub text: String,
    /// First moment, "HH:MM:SS".
    pub start: String,
    /// Last moment, "HH:MM:SS".
    pub end: String,
    /// How many events it stands for.
    pub events: u64,
    /// First position in the log.
    pub first_seq: u64,
    /// Last position in the log.
    pub last_seq: u64,
    /// Session; empty when it stands for none.
    pub session: String,
}

impl Entry {
    fn new(writer: &str, text: String, extent: Extent, session: &str) -> Self {
        Self {
            writer: writer.to_owned(),
            text,
            start: second_text(extent.start),
            end: second_text(extent.end),
            events: extent.events,
            first_seq: extent.first_seq,
            last_seq: extent.last_seq,
            session: session.to_owned(),
        }
    }
}

/// How an addition changed the size of a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Grown {
    pub(crate) entries: usize,
    pub(crate) marks: usize,
}

/// One day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Day {
    /// Days since 1970-01-01.
    pub(crate) day: i32,
    /// Position of the event that changed it last.
    pub(crate) touched: u64,
    /// Whether it is only lines by now.
    pub(crate) closed: bool,
    sessions: Vec<Session>,
    groups: Vec<Group>,
    lines: Vec<Line>,
}

impl Day {
    pub(crate) fn new(day: i32, closed: bool) -> Self {
        let (sessions, groups, lines) = (Vec::new(), Vec::new(), Vec::new());
        Self { day, touched: 0, closed, sessions, groups, lines }
    }

    /// Returns how many entries and digests are kept apart.
    pub(crate) fn size(&self) -> Grown {
        Grown {
            entries: self.sessions.len() + self.groups.len(),
            marks: self.sessions.iter().map(Session::kept_marks).sum(),
        }
    }

    /// Adds an event.
    pub(crate) fn add(&mut self, fact: Fact) -> Grown {
        self.touched = fact.seq;
        let extent = Extent::of(&fact);
        match fact.what {
            What::Row(row) => self.add_row(extent, *row),
            What::Plain(plain) => self.add_plain(extent, plain),
        }
    }

    fn has_room(&self) -> bool {
        !self.closed && self.sessions.len() + self.groups.len() < DAY_ENTRIES
    }

    fn add_row(&mut self, extent: Extent, row: Row) -> Grown {
        let found = self.sessions.binary_search_by(|s| s.key().cmp(&(row.vendor, &row.session)));
        match found {
            Ok(at) => Grown { entries: 0, marks: self.sessions[at].add(extent, row) },
            Err(at) if self.has_room() => {
                let mut session = Session::new(&row);
                let marks = session.add(extent, row);
                self.sessions.insert(at, session);
                Grown { entries: 1, marks }
            }
            Err(_) => self.add_line(row.vendor.writer(), 0, extent),
        }
    }

    fn add_plain(&mut self, extent: Extent, plain: Plain) -> Grown {
        let found = self.groups.binary_search_by(|g| g.key().cmp(&(&plain.writer, &plain.subject)));
        let (at, entries) = match found {
            Ok(at) => (at, 0),
            Err(at) if self.has_room() => {
                let Plain { writer, subject, .. } = plain.clone();
                let (extent, quotes) = (Extent::NONE, Vec::new());
                self.groups.insert(at, Group { writer, subject, extent, quotes, erased: 0 });
                (at, 1)
            }
            Err(_) => return self.add_line(&plain.writer, 0, extent),
        };
        let group = &mut self.groups[at];
        group.extent.add(extent);
        group.erased += u64::from(plain.erased);
        if !plain.text.is_empty() && group.quotes.len() < QUOTES {
            group.quotes.push(plain.text);
        }
        Grown { entries, marks: 0 }
    }

    fn add_line(&mut self, writer: &str, sessions: u64, extent: Extent) -> Grown {
        let known = self.lines.iter().any(|line| line.writer == writer);
        let writer = if known || self.lines.len() < LINES_LIMIT { writer } else { OTHERS };
        let at = match self.lines.binary_search_by(|line| line.writer.as_str().cmp(writer)) {
            Ok(at) => at,
            Err(at) => {
                self.lines.insert(at, Line { writer: writer.to_owned(), sessions: 0, extent: Extent::NONE });
                at
            }
        };
        self.lines[at].sessions += sessions;
        self.lines[at].extent.add(extent);
        Grown::default()
    }

    /// Puts one line for each writer in place of all entries.
    pub(crate) fn close(&mut self, touched: u64) {
        for session in std::mem::take(&mut self.sessions) {
            self.add_line(session.vendor.writer(), 1, session.extent);
        }
        for group in std::mem::take(&mut self.groups) {
            self.add_line(&group.writer, 0, group.extent);
        }
        self.closed = true;
        self.touched = touched;
    }

    /// Takes over the lines of an older day that is given up.
    pub(crate) fn absorb(&mut self, older: Self, touched: u64) {
        for line in older.lines {
            self.add_line(&line.writer, line.sessions, line.extent);
        }
        self.touched = touched;
    }

    /// Returns whether what a writer, or anybody, did on this day is shown differently since a position.
    pub(crate) fn changed_after(&self, since: u64, writer: Option<&str>) -> bool {
        self.touched > since
            && (writer.is_none() || self.closed || self.entries(writer).iter().any(|e| e.last_seq > since))
    }

    /// Returns whether the page has an entry of a writer.
    pub(crate) fn has(&self, writer: &str) -> bool {
        self.sessions.iter().any(|s| s.vendor.writer() == writer)
            || self.groups.iter().any(|g| g.writer == writer)
            || self.lines.iter().any(|l| l.writer == writer)
    }

    /// Returns the entries in order of writer, then of start.
    pub(crate) fn entries(&self, writer: Option<&str>) -> Vec<Entry> {
        let wanted = |name: &str| writer.is_none_or(|writer| writer == name);
        let mut entries = Vec::new();
        for session in self.sessions.iter().filter(|s| wanted(s.vendor.writer())) {
            entries.push(Entry::new(session.vendor.writer(), session.text(), session.extent, &session.id));
        }
        for group in self.groups.iter().filter(|g| wanted(&g.writer)) {
            entries.push(Entry::new(&group.writer, group.text(), group.extent, ""));
        }
        for line in self.lines.iter().filter(|l| wanted(&l.writer)) {
            let n = line.extent.events;
            let events = if n == 1 { "1 event".to_owned() } else { format!("{n} events") };
            let text = match line.sessions {
                0 if self.closed => events,
                0 => format!("{events} more"),
                1 => format!("1 session, {events}"),
                sessions => format!("{sessions} sessions, {events}"),
            };
            entries.push(Entry::new(&line.writer, text, line.extent, ""));
        }
        entries.sort_by(|a, b| (&a.writer, &a.start, a.first_seq).cmp(&(&b.writer, &b.start, b.first_seq)));
        entries
    }
}
