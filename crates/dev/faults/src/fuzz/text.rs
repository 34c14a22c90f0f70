//! Texts from outside: notes, envelopes, property lists, configuration, records, names, transcripts.

use std::fs;

use mirror_import::{Limits, Transcript, Want};
use mirror_seal::{Envelope, NodeKey, open_note, sign_note};
use mirror_types::{Cause, EventId, Hlc, Label, Model, Origin, Subject, SubjectFilter};

use super::log::place;
use super::{Body, Run, repair};

/// The tables of a parser's regular work: names of keys that it knows, and buffers of files.
const PARSER_ROOM: usize = 512 << 10;

pub(super) const BODIES: [Body; 8] = [
    Body { name: "names", run: Run::Plain(names), seeds: name_seeds, ..Body::PLAIN },
    Body { name: "note", run: Run::Plain(note), seeds: notes, ..Body::PLAIN },
    Body { name: "envelope", run: Run::Plain(envelope), seeds: envelopes, ..Body::PLAIN },
    Body {
        name: "keeper-log",
        run: Run::Plain(mirror_keeper::fuzz_log),
        seeds: records,
        repair: repair::keeper,
        ..Body::PLAIN
    },
    Body {
        name: "checkpoint",
        run: Run::Plain(mirror_witness::fuzz_wire),
        seeds: notes,
        // The text is tried as an event too.
        factor: 1024,
        ..Body::PLAIN
    },
    // An empty value of a list takes a few bytes of XML and a whole value in memory.
    Body {
        name: "property-list",
        run: Run::Plain(property_list),
        seeds: property_lists,
        room: PARSER_ROOM,
        factor: 128,
        ..Body::PLAIN
    },
    // A key of one letter takes a few bytes of text and an entry of a map.
    Body {
        name: "configuration",
        run: Run::Plain(configuration),
        seeds: configurations,
        room: PARSER_ROOM,
        factor: 512,
        ..Body::PLAIN
    },
    Body {
        name: "transcript",
        run: Run::Plain(transcript),
        seeds: transcripts,
        room: 2 << 20,
        factor: 64,
        ..Body::PLAIN
    },
];

fn texts(all: &[&str]) -> Vec<Vec<u8>> {
    all.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn names(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = (Subject::parse(&text), EventId::parse(&text), Label::parse(&text), Model::parse(&text));
    let _ = (Origin::parse(&text), Cause::parse(&text), Hlc::parse(&text));
    if let Ok(filter) = SubjectFilter::parse(&text) {
        let _ = filter.matches("local.note.a.b");
    }
}

fn name_seeds(_: &str) -> Vec<Vec<u8>> {
    texts(&[
        "local.note",
        "local.>",
        "a.*.b",
        "id-1",
        "bus:7",
        "0123456789abcdef.1",
        "0123456789abcdef.1/3",
        "0199c0ffee00-0001",
        "a-b.c",
        "vendor/model@1",
        "a.b.c.d.e.f.g.h",
    ])
}

fn key() -> NodeKey {
    NodeKey::from_seed(&[7; 32])
}

fn note(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(said) = open_note(&text, "mirrordna/0123456789abcdef", key().public()) {
        assert!(text.starts_with(said), "what a note says stands at its beginning");
    }
}

fn notes(_: &str) -> Vec<Vec<u8>> {
    let text = format!("mirrordna/0123456789abcdef.1\n7\n{}\n", mirror_seal::base64(&[9; 32]));
    let other = sign_note(&NodeKey::from_seed(&[8; 32]), "other", &text).unwrap_or_default();
    let own = sign_note(&key(), "mirrordna/0123456789abcdef", &text).unwrap_or_default();
    let line = other.rsplit_once("\n\n").map(|(_, line)| line.to_owned()).unwrap_or_default();
    vec![format!("{own}{line}").into_bytes(), own.into_bytes(), other.into_bytes(), text.into_bytes()]
}

fn envelope(bytes: &[u8]) {
    let Ok(envelope) = Envelope::from_json(bytes) else { return };
    let _ = (envelope.peek(), envelope.open(key().public(), "application/x"));
    let again = Envelope::from_json(envelope.to_json().as_bytes());
    assert_eq!(again.ok().as_ref(), Some(&envelope), "an envelope is read back as it was written");
}

fn envelopes(_: &str) -> Vec<Vec<u8>> {
    [b"{\"epoch\":1}".as_slice(), b"", &[0; 300]]
        .iter()
        .map(|payload| Envelope::sign(&key(), "application/x", payload).to_json().into_bytes())
        .collect()
}

fn property_list(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = mirror_agents::validate("org.mirrordna.bus.plist", &text);
}

fn property_lists(_: &str) -> Vec<Vec<u8>> {
    let head = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" \
                \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n<plist version=\"1.0\">\n<dict>\n";
    let whole = "<key>Label</key>\n<string>org.mirrordna.bus</string>\n<key>ProgramArguments</key>\n<array>\n\
                 <string>/usr/bin/true</string>\n<string>a&amp;b</string>\n</array>\n<key>RunAtLoad</key>\n<true/>\n\
                 <key>KeepAlive</key>\n<dict>\n<key>SuccessfulExit</key>\n<false/>\n</dict>\n\
                 <key>ThrottleInterval</key>\n<integer>10</integer>\n<key>EnvironmentVariables</key>\n<dict>\n\
                 <key>A</key>\n<string>b</string>\n</dict>\n<key>StartCalendarInterval</key>\n<array>\n<dict>\n\
                 <key>Hour</key>\n<integer>3</integer>\n</dict>\n</array>\n";
    texts(&[&format!("{head}{whole}</dict>\n</plist>\n"), &format!("{head}</dict>\n</plist>\n")])
}

fn configuration(bytes: &[u8]) {
    let path = place().join("mirror.toml");
    let _ = fs::write(&path, bytes);
    let _ = mirror_kit::load_config::<mirror_bus::Config>(&path, "bus");
}

fn configurations(_: &str) -> Vec<Vec<u8>> {
    texts(&[
        "",
        "[bus]\nsegment_first_kib = 64\nsegment_max_kib = 1024\ndisk_reserve_mib = 0 # none\n",
        "# a\n[bus]\nindex_lag_limit = 1_000\n\n[notify]\nquiet = [\"22:00\", \"07:00\"]\na.b.c = { x = 1.5, y = 2026-01-01T00:00:00Z }\n",
        "[[x]]\na = '''\nb'''\n[[x]]\na = \"\\u00e9\"\n",
    ])
}

fn records(_: &str) -> Vec<Vec<u8>> {
    let mut log = String::new();
    let mut prev = "0".repeat(64);
    let rest = [
        "\"act\":\"make\",\"caller\":\"local\",\"type\":\"checkpoint\",\"key\":\"0123456789abcdef\"",
        "\"act\":\"refuse\",\"caller\":\"svc:witness\",\"type\":\"checkpoint\",\"reason\":\"it is shorter\"",
        "\"act\":\"sign\",\"caller\":\"svc:witness\",\"type\":\"checkpoint\",\"size\":4,\"root\":\"00\"",
    ];
    for (i, rest) in rest.iter().enumerate() {
        let content =
            format!("{{\"v\":1,\"number\":{},\"prev\":\"{prev}\",\"at_ms\":1767225600000,{rest}", i + 1);
        prev = mirror_seal::hex(&mirror_seal::sha256(content.as_bytes()));
        log.push_str(&format!("{content},\"hash\":\"{prev}\"}}\n"));
    }
    texts(&[&log, &log[..log.len() - 20]])
}

fn transcript(bytes: &[u8]) {
    let path = place().join("transcript.jsonl");
    let _ = fs::write(&path, bytes);
    let limits = Limits { row: 16 << 10, ..Limits::default() };
    if let Ok(Some(mut transcript)) = Transcript::open(&path, Want::Any, limits) {
        while let Some(Ok(_)) = transcript.next() {}
    }
}

/// Returns the beginnings of the samples: a few rows of each vendor.
fn transcripts(_: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    let mut dirs = vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../tests/samples")];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                dirs.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                let rows = bytes.split_inclusive(|b| *b == b'\n').take(6);
                found.push((path, rows.flatten().copied().take(8_000).collect()));
            }
        }
    }
    // The order of a folder is not the same everywhere.
    found.sort();
    found.into_iter().map(|(_, bytes)| bytes).collect()
}
