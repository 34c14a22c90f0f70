//! Headers and payloads that break one rule each, with right CRCs and digests: nothing but the grammar can show them.

use super::{check, draft, log_of, one};
use crate::FindingKind::{BadHeader, BadLine, NewerVersion, PayloadForm};
use crate::testlog::{Draft, Log, data_line, line};
use crate::{FindingKind, Severity};

/// Puts one event with an altered header between good ones.
fn with_header(edit: &dyn Fn(&str) -> String) -> Log {
    let mut log = log_of(6);
    let draft = draft(7);
    let header = edit(&log.header(7, &draft));
    log.push(&header, &draft.payload);
    log.write(&[super::draft(8)]);
    log
}

#[track_caller]
fn bad(from: &str, to: &str) {
    let log = with_header(&|header| {
        assert!(header.contains(from), "{header} has no {from}");
        header.replace(from, to)
    });
    check(&one(&log.bytes), &[(BadHeader, 7, 7)]);
}

#[test]
fn a_header_has_one_form() {
    // Order, spaces, unknown and doubled keys.
    bad("\"s\":7,\"b\":7", "\"b\":7,\"s\":7");
    bad("\"s\":7", "\"s\": 7");
    bad("\"actor\":\"local\"", "\"actor\":\"local\",\"zz\":1");
    bad("\"s\":7,", "\"s\":7,\"s\":7,");
    bad("{\"v\"", " {\"v\"");
    bad("]}", "]} ");
    bad("\"v\":1,", "");
    // Numbers.
    bad("\"v\":1", "\"v\":0");
    bad("\"s\":7", "\"s\":07");
    bad("\"s\":7", "\"s\":7.0");
    bad("\"s\":7", "\"s\":99999999999999999999");
    bad("\"b\":7", "\"b\":0");
    bad("\"w\":1", "\"w\":-1");
    bad("\"dl\":", "\"dl\":999");
    // Hex, clock, base64, names.
    bad("-0000\"", "-000A\"");
    bad("-0000\"", "_0000\"");
    bad("\"t\":\"0", "\"t\":\"");
    bad("\"dh\":\"", "\"dh\":\"A");
    bad("=\",\"actor\"", "\",\"actor\"");
    bad("\"k\":\"file.added\"", "\"k\":\"file..added\"");
    bad("\"k\":\"file.added\"", "\"k\":\"File.added\"");
    bad("\"k\":\"file.added\"", "\"k\":\"a.b.c.d.e.f.g.h.i\"");
    bad("\"k\":\"file.added\"", "\"k\":\"\"");
    bad("\"id\":\"ev-7\"", "\"id\":\"ev 7\"");
    bad("\"id\":\"ev-7\"", "\"id\":\"\"");
    bad("\"id\":\"ev-7\"", "\"id\":\"ev\\u002d7\"");
    bad("\"ty\":\"blob\"", "\"ty\":\"yaml\"");
    bad("\"actor\":\"local\"", "\"actor\":\"svc:\"");
    bad("\"actor\":\"local\"", "\"actor\":\"root\"");
    bad(".1\",\"s\"", ".0\",\"s\"");
    // Lists: sorted, distinct, not empty, no more than 16.
    bad("[\"a\",\"b.c\"]", "[\"b.c\",\"a\"]");
    bad("[\"a\",\"b.c\"]", "[\"a\",\"a\"]");
    bad("[\"a\",\"b.c\"]", "[]");
    bad("[\"a\",\"b.c\"]", "[\"a\",]");
    bad("[\"a\",\"b.c\"]", "[\"a\" ,\"b\"]");
    bad("[\"a\",\"b.c\"]", "[\"a\",\"b..c\"]");
    bad("\"0123456789abcdef.2/7\"", "\"0123456789abcdef.2/07\"");
    bad("\"0123456789abcdef.2/7\"", "\"0123456789abcdef/7\"");
    let seventeen = vec!["\"0123456789abcdef.2/7\""; 17].join(",");
    bad("\"0123456789abcdef.2/7\"", &seventeen);
    bad("\"model\":\"a/b@1\"", "\"model\":\"a b\"");
    bad(",\"model\":\"a/b@1\"", ",\"model\":\"\"");
}

#[test]
fn base64_is_canonical() {
    // The last digit before the padding carries two unused bits.
    let log = with_header(&|header| {
        let at = header.find("=\",\"actor\"").unwrap() - 1;
        let twisted = match header.as_bytes()[at] {
            b'A'..=b'Y' | b'a'..=b'y' | b'0'..=b'8' => char::from(header.as_bytes()[at] + 1),
            _ => 'B',
        };
        format!("{}{twisted}{}", &header[..at], &header[at + 1..])
    });
    check(&one(&log.bytes), &[(BadHeader, 7, 7)]);
    let log = log_of(6);
    let span = log.spans[3];
    let text = String::from_utf8(data_line(&[0; 16], b"true")).unwrap();
    let body = text[11..].trim_end().replace(" AAAAAAAAAAAAAAAAAAAAAA ", " AAAAAAAAAAAAAAAAAAAAAB ");
    let bytes = [&log.bytes[..span.body], &line('D', body.as_bytes()), &log.bytes[span.end..]].concat();
    check(&one(&bytes), &[(BadLine, 4, 4)]);
}

#[track_caller]
fn payload(ty: &'static str, payload: &[u8], expected: Option<FindingKind>) {
    let mut log = log_of(2);
    log.write(&[Draft::new("a.b", ty, payload)]);
    log.write(&[draft(4)]);
    let expected: Vec<_> = expected.into_iter().map(|kind| (kind, 3, 3)).collect();
    check(&one(&log.bytes), &expected);
}

#[test]
fn a_payload_is_of_its_type() {
    let bad = Some(PayloadForm);
    for good in ["null", " {\"a\" : [1, 2.5e-7, \"\\u00e9\u{e9}\"]} ", "[[[]]]", "\"x\"", "-0"] {
        payload("json", good.as_bytes(), None);
    }
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    payload("json", deep.as_bytes(), None);
    for wrong in ["", "nul", "{\"a\":1,}", "1 2", "{'a':1}", "01", "NaN", "\"\\x\""] {
        payload("json", wrong.as_bytes(), bad);
    }
    payload("json", b"\"\xff\"", bad);
    payload("json", b"[1,\t2]", Some(BadLine));
    payload("text", b"\"a \\\"b\\\" \\u00e9\"", None);
    for wrong in ["abc", "1", "null", " \"a\"", "\"a\" ", "\"a\",\"b\"", "\"", "\"\\ud800\""] {
        payload("text", wrong.as_bytes(), bad);
    }
    payload("b64", b"", None);
    payload("b64", b"AAECAwQ=", None);
    for wrong in ["AAECAwQ", "AAECAwR=", "AA-_", "AAEC AwQ=", "=", "AAECAwQ=="] {
        payload("b64", wrong.as_bytes(), bad);
    }
    let hash = "ab".repeat(32);
    let blob = format!("{{\"blake3\":\"{hash}\",\"bytes\":0,\"type\":\"text\"}}");
    payload("blob", blob.as_bytes(), None);
    for (from, to) in
        [("ab", "AB"), ("text", "yaml"), ("0,", "00,"), (",\"b", ", \"b"), ("}", "} "), ("abab", "ab")]
    {
        payload("blob", blob.replacen(from, to, 1).as_bytes(), bad);
    }
}

#[test]
fn the_largest_lines_are_read() {
    let text = format!("\"{}\"", "x".repeat(65_534));
    payload("text", text.as_bytes(), None);
}

#[test]
fn a_newer_version_is_a_notice_and_is_chained() {
    let log = with_header(&|header| {
        let header = header.replace("\"v\":1", "\"v\":2").replace("\"ty\":\"blob\"", "\"ty\":\"cbor\"");
        format!("{},\"sig\":{{\"a\":[1]}}}}", header.strip_suffix('}').unwrap())
    });
    let report = one(&log.bytes);
    assert_eq!(super::found(&report), [(NewerVersion, 7, 7)]);
    assert_eq!((report.severity(), report.events), (Severity::Notice, 8));
    assert!(report.root_hex.is_some());
    let broken = with_header(&|header| header.replace("\"v\":1", "\"v\":2").replace("]}", "],\"sig\":}"));
    check(&one(&broken.bytes), &[(BadHeader, 7, 7)]);
}
