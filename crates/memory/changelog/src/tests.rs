//! The fold as a whole.

use mirror_contract::mirror::bus::v1::{Event, PayloadState};
use proptest::prelude::*;

use crate::fold::{CLOSED_DAYS, DAYS, ENTRIES, Fold, MARKS, Query};
use crate::moment::Moment;
use crate::page::DAY_ENTRIES;
use crate::store::Store;
use crate::testing::{erasure, event, import_row, row_of};

const ALL: usize = usize::MAX;

fn fold(events: &[Event]) -> Fold {
    let mut fold = Fold::default();
    for event in events {
        fold.apply(event);
    }
    fold
}

/// Returns the pages as text: a line for each day, and one for each entry.
fn show(fold: &Fold) -> String {
    let mut out = String::new();
    for page in fold.pages(&Query { days: ALL, ..Query::default() }) {
        out.push_str(&format!("{}\n", page.day));
        for e in page.entries {
            let (seqs, times) = ((e.first_seq, e.last_seq), format!("{}-{}", e.start, e.end));
            out.push_str(&format!("{times} {} [{}] {} {seqs:?} {}\n", e.writer, e.session, e.events, e.text));
        }
    }
    out
}

#[track_caller]
fn check(events: &[Event], expected: &str) {
    let expected: Vec<&str> = expected.trim().lines().map(str::trim).collect();
    assert_eq!(show(&fold(events)).trim(), expected.join("\n"));
}

fn tool(name: &str, file: &str) -> String {
    format!(r#"{{"type":"tool_use","name":"{name}","input":{{"file_path":"{file}"}}}}"#)
}

fn turn(id: &str, blocks: &[String]) -> String {
    format!(r#"{{"cwd":"/srv/app","message":{{"id":"{id}","content":[{}]}}}}"#, blocks.join(","))
}

#[test]
fn a_session_is_one_entry_a_day() {
    let prompt = |text: &str| format!(r#"{{"cwd":"/home/x/spotter-dov","message":{{"content":"{text}"}}}}"#);
    let mut agent = row_of(
        7,
        "claude",
        "turn",
        r#""session":"s","agent":"a1","at":"2026-02-11T13:00:00Z""#,
        &turn("m3", &[tool("Read", "/c")]),
    );
    agent.labels.push("sidechain".into());
    let mut asked = import_row(6, "claude", "prompt", &prompt("Explore"));
    asked.labels.push("sidechain".into());
    let mut summary = import_row(9, "claude", "compaction", r#"{"isCompactSummary":true}"#);
    summary.labels.push("summary".into());
    check(
        &[
            import_row(1, "claude", "prompt", &prompt("Work on \\\"bead\\\"\\n spotter-dov")),
            import_row(2, "claude", "turn", &turn("m1", &[r#"{"type":"text","text":"I go."}"#.into()])),
            import_row(3, "claude", "turn", &turn("m1", &[tool("Edit", "/a")])),
            import_row(4, "claude", "turn", &turn("m2", &[tool("Edit", "/b"), tool("Bash", "")])),
            import_row(5, "claude", "turn", &turn("m4", &[tool("Edit", "/a")])),
            asked,
            agent,
            import_row(8, "claude", "compaction", r#"{"type":"system"}"#),
            summary,
            import_row(10, "claude", "prompt", &prompt("Go on")),
            row_of(
                11,
                "claude",
                "prompt",
                r#""session":"s","at":"2026-02-12T00:00:01Z""#,
                &prompt("Still there?"),
            ),
        ],
        r#"
        2026-02-12
        00:00:01-00:00:01 claude-code [s] 1 (11, 11) spotter-dov: "Still there?" — 1 prompt
        2026-02-11
        12:00:00-13:00:00 claude-code [s] 10 (1, 10) spotter-dov: "Work on 'bead' spotter-dov" — 2 prompts, 4 turns, 5 tool calls (Edit 3, Bash 1, Read 1), 1 sub-agent, 1 compaction, 2 files changed
        "#,
    );
}

#[test]
fn a_sub_agent_with_a_session_of_its_own_is_a_session() {
    let row = r#"{"payload":{"type":"message","content":[{"type":"input_text","text":"Look around"}]}}"#;
    let members = r#""session":"c2","agent":"c2","at":"2026-02-11T12:00:00Z""#;
    let mut asked = row_of(1, "codex", "prompt", members, row);
    asked.labels.push("sidechain".into());
    check(
        &[asked, row_of(2, "codex", "turn", members, row)],
        "2026-02-11\n12:00:00-12:00:00 codex [c2] 2 (1, 2) \"Look around\" — 1 prompt, 1 turn",
    );
}

#[test]
fn a_bare_command_gives_way_to_what_a_person_wrote() {
    let prompt = |text: &str| format!(r#"{{"message":{{"content":"{text}"}}}}"#);
    let command = "<command-name>/clear</command-name>";
    check(
        &[
            import_row(1, "claude", "prompt", &prompt(command)),
            import_row(2, "claude", "prompt", &prompt("Mend the roof")),
            import_row(3, "claude", "prompt", &prompt("And the door")),
        ],
        "2026-02-11\n12:00:00-12:00:00 claude-code [s] 3 (1, 3) \"Mend the roof\" — 3 prompts",
    );
}

#[test]
fn an_answer_that_is_written_again_counts_once() {
    let row = |calls: &str| format!(r#"{{"id":"g1","type":"gemini","toolCalls":[{calls}]}}"#);
    let (ls, replace) = (r#"{"name":"ls"}"#, r#"{"name":"replace","args":{"file_path":"/a"}}"#);
    check(
        &[
            import_row(1, "gemini", "turn", &row("")),
            import_row(2, "gemini", "turn", &row(ls)),
            import_row(3, "gemini", "turn", &row(&format!("{ls},{replace}"))),
            import_row(4, "gemini", "turn", &row(&format!("{ls},{replace}"))),
        ],
        "2026-02-11\n12:00:00-12:00:00 gemini [s] 4 (1, 4) \
         1 turn, 2 tool calls (ls 1, replace 1), 1 file changed",
    );
}

#[test]
fn other_events_are_grouped_by_writer_and_subject() {
    let mut recovered = event(4, "bus.recovered", "{}");
    recovered.actor = "svc:bus".into();
    let mut erased = event(6, "local.note", r#"{"text":"secret"}"#);
    erased.payload_state = PayloadState::Redacted.into();
    check(
        &[
            event(1, "local.note", r#"{"text":"one \u001b[31m\u202e \"two\""}"#),
            event(2, "local.note", r#"{"summary":"three"}"#),
            event(3, "local.build", "{}"),
            recovered,
            event(5, "local.note", &format!(r#"{{"message":"{}"}}"#, "long ".repeat(99))),
            erased,
            event(7, "local.note", r#"{"text":"a fourth text"}"#),
        ],
        &format!(
            r#"
            2026-02-12
            10:00:01-10:00:07 local [] 5 (1, 7) local.note ×5 (1 erased): "one 'two'", "three", "{}long…"
            10:00:03-10:00:03 local [] 1 (3, 3) local.build ×1
            10:00:04-10:00:04 svc:bus [] 1 (4, 4) bus.recovered ×1
            "#,
            "long ".repeat(11)
        ),
    );
}

#[test]
fn rows_without_payload_count_for_their_writer() {
    let mut erased = import_row(1, "claude", "prompt", "{}");
    erased.payload_state = PayloadState::Withheld.into();
    erased.payload.clear();
    check(
        &[erased, import_row(2, "claude", "snapshot", "{}")],
        r#"
        2026-02-12
        10:00:01-10:00:01 claude-code [] 1 (1, 1) import.claude.prompt ×1
        2026-02-11
        12:00:00-12:00:00 claude-code [s] 1 (2, 2) 1 row without work
        "#,
    );
}

#[test]
fn an_event_that_is_there_already_is_left_out() {
    let events = [event(1, "local.note", "{}"), event(2, "local.note", "{}")];
    let mut twice = fold(&events);
    twice.apply(&events[0]);
    twice.apply(&events[1]);
    assert_eq!(twice, fold(&events));
}

#[test]
fn a_query_chooses_days_and_writers() {
    let on = |seq: u64, day: u32, session: &str| {
        row_of(
            seq,
            if seq.is_multiple_of(2) { "codex" } else { "claude" },
            "turn",
            &format!(r#""session":"{session}","at":"2026-01-{day:02}T00:00:00Z""#),
            "{}",
        )
    };
    let fold = fold(&(1..=9).map(|n| on(n, u32::try_from(n).unwrap(), "s")).collect::<Vec<_>>());
    let day = |text: &str| crate::moment::parse_day(text);
    let days =
        |query: Query| fold.pages(&query).into_iter().map(|p| p.day[8..].to_owned()).collect::<Vec<_>>();
    let query = |from: &str, to: &str, writer: Option<&str>, days| Query {
        from: day(from),
        to: day(to),
        writer: writer.map(str::to_owned),
        days,
    };
    assert_eq!(days(query("", "", None, 2)), ["09", "08"]);
    assert_eq!(days(query("2026-01-03", "2026-01-04", None, 30)), ["04", "03"]);
    assert_eq!(days(query("", "", Some("codex"), 3)), ["08", "06", "04"]);
    assert!(days(query("2026-01-04", "2026-01-03", None, 30)).is_empty());
    assert!(days(query("", "", Some("nobody"), 30)).is_empty());
}

#[test]
fn a_full_day_counts_what_it_no_longer_tells_apart() {
    let row = |seq: u64| {
        row_of(seq, "claude", "turn", &format!(r#""session":"s{seq}","at":"2026-02-11T00:00:00Z""#), "{}")
    };
    let count = DAY_ENTRIES as u64 + 5;
    let fold = fold(&(1..=count).map(row).collect::<Vec<_>>());
    let page = fold.pages(&Query { days: 1, ..Query::default() }).remove(0);
    assert_eq!(page.entries.len(), DAY_ENTRIES + 1);
    assert_eq!(page.entries.iter().map(|e| e.events).sum::<u64>(), count);
    assert!(page.entries.iter().any(|e| e.text == "5 events more"));
}

#[test]
fn old_days_become_lines_and_very_old_ones_one() {
    let mut all = Fold::default();
    let mut seq = 0;
    let days = DAYS + CLOSED_DAYS + 7;
    for day in 0..days {
        for session in 0..2 {
            seq += 1;
            let at = crate::moment::day_text(11_000 + i32::try_from(day).unwrap());
            let members = format!(r#""session":"s{session}","at":"{at}T00:00:00Z""#);
            all.apply(&row_of(seq, "claude", "turn", &members, "{}"));
        }
    }
    let pages = all.pages(&Query { days: ALL, ..Query::default() });
    assert_eq!(pages.len(), DAYS + CLOSED_DAYS);
    assert_eq!(pages.iter().flat_map(|p| &p.entries).map(|e| e.events).sum::<u64>(), seq);
    assert_eq!(pages[DAYS - 1].entries.len(), 2);
    assert_eq!(pages[DAYS].entries[0].text, "2 sessions, 2 events");
    assert_eq!(pages.last().unwrap().entries[0].text, "16 sessions, 16 events");

    // A late row of a day long gone, and of one that is closed.
    let members = r#""session":"s","at":"2000-02-01T00:00:00Z""#;
    all.apply(&row_of(seq + 1, "claude", "turn", members, "{}"));
    let oldest = all.pages(&Query { days: ALL, ..Query::default() }).pop().unwrap();
    assert_eq!(oldest.entries[0].text, "16 sessions, 17 events");
}

#[test]
fn the_state_stays_bounded_however_many_sessions_and_files_there_are() {
    let mut all = Fold::default();
    let mut seq = 0;
    for day in 10..28 {
        for session in 0..300 {
            seq += 1;
            let files: Vec<_> = (0..40).map(|n| tool("Edit", &format!("/{session}/{n}"))).collect();
            let members = format!(r#""session":"s{session}","at":"2026-01-{day}T00:00:00Z""#);
            all.apply(&row_of(seq, "claude", "turn", &members, &turn("m", &files)));
        }
    }
    let (entries, marks) = all.days().fold((0, 0), |(entries, marks), day| {
        let size = day.size();
        (entries + size.entries, marks + size.marks)
    });
    assert!(entries <= ENTRIES && marks <= MARKS, "{entries} {marks}");
    let pages = all.pages(&Query { days: ALL, ..Query::default() });
    assert_eq!(pages.iter().flat_map(|p| &p.entries).map(|e| e.events).sum::<u64>(), seq);
    assert!(pages[0].entries.len() == 300 && pages.last().unwrap().entries.len() == 1);
}

#[test]
fn more_files_than_can_be_told_apart_are_said_to_be_more() {
    let rows = (1..=600).map(|n| {
        import_row(n, "claude", "turn", &turn(&format!("m{n}"), &[tool("Write", &format!("/{n}"))]))
    });
    let fold = fold(&rows.collect::<Vec<_>>());
    assert!(show(&fold).contains("more than 512 files changed"), "{}", show(&fold));
}

#[test]
fn an_erasure_asks_for_a_new_fold_when_the_payload_was_read() {
    let (note, erasure) = (event(1, "local.note", r#"{"text":"secret"}"#), erasure(2, &[1]));
    let mut fold = Fold::default();
    assert!(fold.apply(&note));
    assert!(!fold.apply(&erasure));
    let mut later = Fold::new(fold.erased().clone());
    assert!(later.apply(&note) && later.apply(&erasure));
    assert!(show(&later).contains("local.note ×1 (1 erased)\n"), "{}", show(&later));
}

#[test]
fn the_day_of_a_far_future_row_is_the_day_it_was_written_down() {
    let row = row_of(1, "claude", "turn", r#""session":"s","at":"9000-01-01T00:00:00Z""#, "{}");
    assert!(show(&fold(&[row])).starts_with("2026-02-12\n"));
    assert_eq!(Moment::told(Some("2026-02-11T12:00:00Z"), crate::testing::WALL).second, 43_200);
}

/// Any events: rows of few sessions and days, other events, odd payloads.
fn events() -> impl Strategy<Value = Vec<Event>> {
    let kind = prop::sample::select(vec!["prompt", "turn", "compaction", "progress", "tool-result"]);
    let vendor = prop::sample::select(vec!["claude", "codex", "gemini", "other"]);
    let row = (vendor, kind, 0..4_u8, 1..29_u8, any::<String>(), 0..3_u8).prop_map(
        |(vendor, kind, session, day, text, id)| {
            let text = serde_json::Value::from(text).to_string();
            let members = format!(r#""session":"s{session}","at":"2026-01-{day:02}T01:02:03Z""#);
            let content = format!(r#"[{{"type":"text","text":{text}}},{}]"#, tool("Edit", "/a"));
            let row =
                format!(r#"{{"id":"{id}","message":{{"id":"{id}","content":{content}}},"content":{text}}}"#);
            row_of(0, vendor, kind, &members, &row)
        },
    );
    let plain = ("[a-c]{1}\\.[a-b]{1}", any::<Vec<u8>>(), 0..6_i32, 0..5_i32).prop_map(
        |(subject, payload, kind, state)| {
            let mut event = event(0, &subject, "");
            (event.payload, event.r#type, event.payload_state) = (payload.into(), kind, state);
            event
        },
    );
    prop::collection::vec(prop_oneof![3 => row, 1 => plain], 0..60).prop_map(|mut events| {
        for (at, event) in events.iter_mut().enumerate() {
            event.seq = at as u64 + 1;
            event.leaf = format!("{at:064x}");
        }
        events
    })
}

proptest! {
    #[test]
    fn a_snapshot_and_the_rest_are_the_whole(events in events(), at in any::<prop::sample::Index>()) {
        let whole = fold(&events);
        let at = at.index(events.len() + 1);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path(), "0123456789abcdef.1");
        store.save(&fold(&events[..at]));
        let mut rest = store.load();
        for event in &events[at..] {
            rest.apply(event);
        }
        prop_assert_eq!(show(&rest), show(&whole));
        prop_assert_eq!(rest, whole);
    }

    #[test]
    fn every_event_is_counted_once_and_every_text_is_clean(events in events()) {
        let fold = fold(&events);
        let pages = fold.pages(&Query { days: ALL, ..Query::default() });
        let entries: Vec<_> = pages.iter().flat_map(|p| &p.entries).collect();
        prop_assert_eq!(entries.iter().map(|e| e.events).sum::<u64>(), events.len() as u64);
        prop_assert!(entries.iter().all(|e| !e.text.chars().any(char::is_control)));
        prop_assert!(entries.iter().all(|e| e.text.chars().count() < 700 && e.first_seq <= e.last_seq));
        prop_assert!(pages.is_sorted_by(|a, b| a.day > b.day));
    }
}
