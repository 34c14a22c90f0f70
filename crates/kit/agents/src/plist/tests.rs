//! Tests of the reader: what launchd ignores is refused, and what is rendered reads back.

use std::path::Path;

use super::*;
use crate::agent::Agent;
use mirror_kit::Decl;
use proptest::prelude::*;

const FILE: &str = "dev.mirrordna.sample.plist";

fn sample() -> String {
    let agent = Agent::service(&Decl { name: "sample", ..Decl::DEFAULT }).unwrap();
    agent.filled(Path::new("/opt/m&m/bin"), Path::new("/opt/mirror"))
}

#[track_caller]
fn check(text: &str, part: &str) -> Option<usize> {
    let error = validate(FILE, text).unwrap_err();
    assert!(error.to_string().contains(part), "{part:?} in {error}");
    error.line
}

#[test]
fn what_launchd_would_ignore_is_refused_by_line() {
    let text = sample();
    validate(FILE, &text).unwrap();
    let line_with = |text: &str, part: &str| text.lines().position(|l| l.contains(part)).map(|n| n + 1);
    let twice = text.replace("<key>Umask</key>", "<key>Label</key>\n<string>x</string>\n<key>Umask</key>");
    let line = check(&twice, "given twice");
    assert_eq!(line, line_with(&twice, "<string>x</string>").map(|n| n - 1));
    let unknown = text.replace("RunAtLoad", "RunAtload");
    assert_eq!(check(&unknown, "key RunAtload: is unknown"), line_with(&unknown, "RunAtload"));
    let line = check(
        &text.replace("<integer>63</integer>", "<string>077</string>"),
        "a string is not what it takes",
    );
    assert_eq!(line, line_with(&text, "Umask"));
    check(&text.replace("<integer>63</integer>", "<integer>77</integer>"), "the decimal of 077");
    check(&text.replace("<integer>63</integer>", "<real>63</real>"), "no property list");
    check(
        &text.replace("<string>Background</string>\n  <key>Env", "<string>Fast</string>\n  <key>Env"),
        "Fast",
    );
    check(&text.replace("<string>Aqua</string>", "<string>Water</string>"), "Water");
    check(&text.replace("    <false/>", "    <true/>"), "an exit with 0 is final");
    check(&text.replace("SuccessfulExit", "Crashed"), "only rule");
    check(&text.replace("<integer>10</integer>", "<integer>0</integer>"), "0 s is not within 1 to 600");
    check(&text.replace("<integer>15</integer>", "<integer>0</integer>"), "never be killed");
    check(&text.replace("NumberOfFiles", "Core"), "the limit Core is unknown");
    check(&text.replace("<integer>4096</integer>", "<integer>8</integer>"), "open files");
    check(&text.replace("/opt/mirror/log", "~/log"), "is not absolute");
    check("<plist><array/></plist>", "must be a dictionary");
    check(&text[..text.len() / 2], "no property list");
    check("", "no property list");
}

#[test]
fn names_paths_and_places_must_fit() {
    let text = sample();
    let error = validate("dev.mirrordna.other.plist", &text).unwrap_err().to_string();
    assert!(error.contains("not the file's name"), "{error}");
    check(&text.replace("m&amp;m/bin/mirror-sample", "bin/mirror-bus"), "not mirror-sample");
    check(&text.replace("<string>mirror-sample</string>", "<string>mirror</string>"), "must be");
    check(&text.replace("/opt/m&amp;m/bin", BIN), "was not filled in");
    let long = format!("/opt/{}", "m".repeat(90));
    check(&text.replace("/opt/mirror", &long), "the limit is 103");
    check(
        &text.replace("<key>MIRROR_SUPERVISED</key>\n    <string>1</string>\n", ""),
        "MIRROR_SUPERVISED is missing",
    );
    let foreign = text.replace("dev.mirrordna.sample", "com.example.sample");
    let error = validate("com.example.sample.plist", &foreign).unwrap_err().to_string();
    assert!(error.contains("must begin with dev.mirrordna."), "{error}");
}

#[test]
fn a_calendar_is_one_moment_or_several_with_known_fields_in_range() {
    let base = sample();
    let with = |value: &str| {
        base.replace("<key>Umask</key>", &format!("<key>StartCalendarInterval</key>{value}<key>Umask</key>"))
    };
    let read = |value: &str| Plist::parse(FILE, &with(value)).map(|p| p.calendar);
    let field = |name: &str, n: i32| format!("<dict><key>{name}</key><integer>{n}</integer></dict>");
    assert_eq!(read("<dict/>").unwrap(), [Moment::default()]);
    let one = Moment { weekday: Some(7), ..Moment::default() };
    assert_eq!(read(&field("Weekday", 7)).unwrap(), [one]);
    assert_eq!(read(&format!("<array>{}<dict/></array>", field("Weekday", 7))).unwrap().len(), 2);
    for (name, n) in
        [("Weekday", 8), ("Minute", 60), ("Hour", 24), ("Day", 0), ("Month", 13), ("Second", 1), ("Day", -1)]
    {
        assert!(read(&field(name, n)).is_err(), "{name} {n}");
    }
    for bad in ["<array/>", "<true/>", "<array><string>x</string></array>"] {
        assert!(read(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_rules_of_the_machine_are_those_of_the_list() {
    let plist = Plist::parse(FILE, &sample()).unwrap();
    assert_eq!((plist.rules(), plist.agent()), (Rules::SERVICE, "sample"));
    let never = Plist { exit_time_out_secs: 0, interval_secs: Some(60), ..plist };
    assert_eq!((never.rules().exit_time_out, never.rules().interval), (None, Some(Duration::from_secs(60))));
}

fn text() -> impl Strategy<Value = String> {
    "[!-~äß€][ -~äß€]{0,12}[!-~äß€]".prop_filter("a place", |t| !t.contains(BIN) && !t.contains(HOME))
}

fn absolute() -> impl Strategy<Value = String> {
    text().prop_map(|text| format!("/{text}"))
}

prop_compose! {
    fn moments()(
        minute in proptest::option::of(0..60_u8),
        hour in proptest::option::of(0..24_u8),
        day in proptest::option::of(1..32_u8),
        weekday in proptest::option::of(0..8_u8),
        month in proptest::option::of(1..13_u8),
    ) -> Moment {
        Moment { minute, hour, day, weekday, month }
    }
}

prop_compose! {
    fn plists()(
        (name, program, arguments) in ("[a-z][a-z.-]{0,20}", absolute(), proptest::collection::vec(text(), 1..4)),
        (run_at_load, throttle_secs, exit_time_out_secs) in (any::<bool>(), 1..=600_u32, 0..=600_u32),
        keep_alive in prop_oneof![
            Just(KeepAlive::Never), Just(KeepAlive::Always), Just(KeepAlive::AfterFailure), Just(KeepAlive::AfterSuccess)
        ],
        environment in proptest::collection::btree_map("[A-Z][A-Z_]{0,8}", text(), 0..4),
        umask in proptest::option::of((0..8_u32).prop_map(|owner| owner << 6 | 0o077)),
        (working_directory, stdout, stderr) in (
            proptest::option::of(absolute()), proptest::option::of(absolute()), proptest::option::of(absolute()),
        ),
        session_types in proptest::sample::subsequence(vec!["Aqua".to_owned(), "Background".to_owned()], 0..=2),
        process_type in proptest::option::of(Just("Adaptive".to_owned())),
        files in proptest::option::of(64..=4096_u32),
        interval_secs in proptest::option::of(1..100_000_u32),
        calendar in proptest::collection::vec(moments(), 0..4),
    ) -> Plist {
        Plist {
            label: format!("{LABEL_PREFIX}{name}"),
            program, arguments, run_at_load, keep_alive, throttle_secs, exit_time_out_secs, process_type, environment,
            umask, working_directory, stdout, stderr, session_types, files, interval_secs, calendar,
        }
    }
}

proptest! {
    #[test]
    fn what_is_rendered_reads_back_as_the_same(plist in plists()) {
        let read = Plist::parse(&format!("{}.plist", plist.label), &plist.render());
        prop_assert_eq!(read.map_err(|e| e.to_string()), Ok(plist));
    }

    #[test]
    fn no_text_makes_the_reader_panic(cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut bytes = sample().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        bytes.truncate(cut.index(bytes.len() * 4).max(at));
        let _ = validate(FILE, &String::from_utf8_lossy(&bytes));
    }
}
