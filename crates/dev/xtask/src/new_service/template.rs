//! The files of the template, with the places filled in.

use std::path::PathBuf;

use super::Args;
use crate::contract::law::pascal;

macro_rules! template {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/template/", $path, ".tmpl"))
    };
}

/// The crate's files, by path in the crate.
const CRATE: &[(&str, &str)] = &[
    ("Cargo.toml", template!("Cargo.toml")),
    ("src/lib.rs", template!("src/lib.rs")),
    ("src/@snake@.rs", template!("src/domain.rs")),
    ("src/api.rs", template!("src/api.rs")),
    ("src/config.rs", template!("src/config.rs")),
    ("src/error.rs", template!("src/error.rs")),
    ("src/follow.rs", template!("src/follow.rs")),
    ("src/store.rs", template!("src/store.rs")),
    ("src/wire.rs", template!("src/wire.rs")),
    ("tests/it.rs", template!("tests/it.rs")),
];

/// Files elsewhere, by path from the root.
const ELSEWHERE: &[(&str, &str)] = &[
    ("proto/mirror/@snake@/v1/@snake@.proto", template!("service.proto")),
    ("docs/errors/@NOUN@_ENTRY_INVALID.md", template!("errors/ENTRY_INVALID.md")),
    ("docs/errors/@NOUN@_ENTRY_MISSING.md", template!("errors/ENTRY_MISSING.md")),
    ("docs/errors/@NOUN@_FULL.md", template!("errors/FULL.md")),
    ("docs/errors/@NOUN@_NOT_RECORDED.md", template!("errors/NOT_RECORDED.md")),
];

/// Returns the files of a service by path from the root; `peers` are the services that its tests start.
pub(super) fn fill(args: &Args, peers: &[&str]) -> Vec<(PathBuf, String)> {
    let folder = format!("crates/{}/{}", args.group, args.noun);
    let files = CRATE.iter().map(|(path, text)| (format!("{folder}/{path}"), *text));
    let files = files.chain(ELSEWHERE.iter().map(|(path, text)| ((*path).to_owned(), *text)));
    let places = places(args, peers);
    let fill =
        |text: &str| places.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
    files.map(|(path, text)| (fill(&path).into(), fill(text))).collect()
}

/// Returns the README of a group.
pub(super) fn group(group: &str) -> String {
    template!("group.md").replace("@group@", group)
}

fn places(args: &Args, peers: &[&str]) -> Vec<(&'static str, String)> {
    let snake = args.noun.replace('-', "_");
    let needs: Vec<String> =
        args.needs.iter().map(|n| format!("Need {{ service: \"{n}\", away: Away::Hold }}")).collect();
    let mut sorted = peers.to_vec();
    sorted.sort_unstable();
    vec![
        ("@peer_dependencies@", sorted.iter().map(|p| format!("mirror-{p}.workspace = true\n")).collect()),
        ("@peers@", peers.iter().map(|p| format!("&mirror_{}::SERVICE, ", p.replace('-', "_"))).collect()),
        ("@needs@", needs.join(", ")),
        ("@Primitive@", pascal(&args.group)),
        ("@tier@", args.tier.to_string()),
        ("@noun@", args.noun.clone()),
        ("@Noun@", pascal(&snake)),
        ("@NOUN@", snake.to_ascii_uppercase()),
        ("@snake@", snake),
        // Last, so that a summary is never taken for a place.
        ("@summary@", args.summary.clone()),
    ]
}
