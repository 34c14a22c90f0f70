//! One noun, one name: folder, package, proto file, gRPC service, subjects and reasons follow from it.

use std::collections::BTreeSet;

use mirror_kit::Decl;

use super::Source;
use crate::contract::law::pascal;

/// Crates whose package is not `mirror-<folder>`, each with its name and the reason.
const NAMED_OTHERWISE: &[(&str, &str, &str)] = &[
    ("crates/dev/xtask", "xtask", "never shipped; cargo's custom is this name"),
    ("crates/bin/mirror", "mirror", "the binary is what the owner types"),
];

/// Packages of the contract that no service of the catalogue serves, each with the reason.
const SERVED_BY_ALL: &[(&str, &str)] = &[
    ("options", "only options"),
    ("kit", "the kit answers it on every socket"),
    ("fold", "every fold that holds payloads answers it"),
];

/// Returns the problems of names.
pub fn problems(sources: &[Source], catalogue: &[&'static Decl]) -> Vec<String> {
    let mut problems = packages(sources);
    for decl in catalogue {
        problems.extend(service(sources, decl));
    }
    problems.extend(contract(sources, catalogue));
    problems.extend(declared(sources, catalogue));
    problems
}

fn text<'a>(sources: &'a [Source], path: &str) -> Option<&'a str> {
    sources.iter().find(|s| s.path == path).and_then(|s| s.text.as_deref())
}

/// Returns the folders of crates, `crates/<group>/<noun>`.
pub(super) fn crates(sources: &[Source]) -> BTreeSet<&str> {
    let folder = |s: &'_ Source| s.path.starts_with("crates/") && s.path.ends_with("/Cargo.toml");
    sources
        .iter()
        .filter(|s| folder(s))
        .filter_map(|s| s.path.strip_suffix("/Cargo.toml"))
        .filter(|p| p.split('/').count() == 3)
        .collect()
}

fn packages(sources: &[Source]) -> Vec<String> {
    let mut problems = Vec::new();
    for folder in crates(sources) {
        let noun = folder.rsplit('/').next().unwrap_or_default();
        let expected = NAMED_OTHERWISE
            .iter()
            .find(|(path, _, _)| *path == folder)
            .map_or_else(|| format!("mirror-{noun}"), |(_, name, _)| (*name).to_owned());
        let manifest = text(sources, &format!("{folder}/Cargo.toml")).unwrap_or_default();
        let name = manifest
            .parse::<toml::Table>()
            .ok()
            .and_then(|t| Some(t.get("package")?.get("name")?.as_str()?.to_owned()));
        if name.as_deref() != Some(&expected) {
            problems.push(format!("{folder}/Cargo.toml: the package is {name:?} and must be {expected:?}"));
        }
        if !["src/lib.rs", "src/main.rs"].iter().any(|f| text(sources, &format!("{folder}/{f}")).is_some()) {
            problems.push(format!("{folder}: has neither src/lib.rs nor src/main.rs"));
        }
    }
    problems
}

fn service(sources: &[Source], decl: &Decl) -> Vec<String> {
    let mut problems = Vec::new();
    let (name, snake) = (decl.name, decl.name.replace('-', "_"));
    let mut require = |path: String, part: &str| match text(sources, &path) {
        None => problems.push(format!("{name}: {path} is missing")),
        Some(text) if !text.contains(part) => problems.push(format!("{path}: must contain {part:?}")),
        Some(_) => {}
    };
    let folder = format!("crates/{}/{name}", decl.primitive.name());
    let proto = format!("proto/mirror/{snake}/v1/{snake}.proto");
    let service = format!("{}Service", pascal(&snake));
    require(format!("{folder}/src/lib.rs"), "pub const DECL: Decl");
    require(format!("{folder}/src/lib.rs"), "pub static SERVICE: Service");
    require(proto.clone(), &format!("package mirror.{snake}.v1;"));
    require(proto, &format!("service {service} {{"));
    let full = format!("mirror.{snake}.v1.{service}");
    if !decl.serves.contains(&full.as_str()) {
        problems.push(format!("{name}: must serve {full}"));
    }
    let shared = |s: &str| SERVED_BY_ALL.iter().any(|(noun, _)| s.starts_with(&format!("mirror.{noun}.")));
    let own = |s: &str| s.starts_with(&format!("mirror.{snake}."));
    for other in decl.serves.iter().filter(|s| !own(s) && !shared(s)) {
        problems.push(format!("{name}: serves {other}, which is not of its package"));
    }
    problems
}

fn contract(sources: &[Source], catalogue: &[&'static Decl]) -> Vec<String> {
    let protos = sources.iter().filter_map(|s| s.path.strip_prefix("proto/mirror/"));
    let nouns: BTreeSet<&str> = protos.filter_map(|p| p.split('/').next()).collect();
    nouns
        .into_iter()
        .filter(|noun| !SERVED_BY_ALL.iter().any(|(n, _)| n == noun))
        .filter(|noun| !catalogue.iter().any(|d| d.name.replace('-', "_") == **noun))
        .map(|noun| format!("proto/mirror/{noun}: no service of the catalogue has this name"))
        .collect()
}

/// A service that is written and not in the catalogue would never be started.
fn declared(sources: &[Source], catalogue: &[&'static Decl]) -> Vec<String> {
    let declares =
        |s: &Source| s.text.as_deref().is_some_and(|t| t.contains("\npub static SERVICE: Service"));
    sources
        .iter()
        .filter(|s| declares(s))
        .filter_map(|s| s.path.strip_suffix("/src/lib.rs"))
        .filter(|folder| {
            !catalogue.iter().any(|d| **folder == format!("crates/{}/{}", d.primitive.name(), d.name))
        })
        .map(|folder| {
            format!("{folder}: declares a service that is not in the catalogue of crates/bin/mirror")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::source;
    use mirror_kit::Primitive;

    const DECL: Decl = Decl {
        name: "deep-shelf",
        summary: "Is deep.",
        primitive: Primitive::Knowledge,
        serves: &["mirror.deep_shelf.v1.DeepShelfService"],
        ..Decl::DEFAULT
    };

    fn good() -> Vec<Source> {
        let lib = "//! Is.\npub const DECL: Decl = x;\npub static SERVICE: Service = y;\n";
        vec![
            source("crates/knowledge/deep-shelf/Cargo.toml", "[package]\nname = \"mirror-deep-shelf\"\n"),
            source("crates/knowledge/deep-shelf/src/lib.rs", lib),
            source(
                "proto/mirror/deep_shelf/v1/deep_shelf.proto",
                "package mirror.deep_shelf.v1;\nservice DeepShelfService {\n",
            ),
            source("proto/mirror/kit/v1/kit.proto", ""),
        ]
    }

    #[test]
    fn a_service_named_by_the_law_passes() {
        assert_eq!(problems(&good(), &[&DECL]), Vec::<String>::new());
    }

    #[test]
    fn each_broken_name_is_found() {
        let mut sources = good();
        sources[0] = source("crates/knowledge/deep-shelf/Cargo.toml", "[package]\nname = \"shelf\"\n");
        sources.remove(2);
        sources.push(source("proto/mirror/stray/v1/stray.proto", ""));
        sources.push(source("crates/memory/lost/src/lib.rs", "\npub static SERVICE: Service = y;\n"));
        const OTHER: Decl = Decl { serves: &["mirror.other.v1.OtherService"], ..DECL };
        let text = problems(&sources, &[&OTHER]).join("\n");
        for part in [
            "must be \"mirror-deep-shelf\"",
            "proto/mirror/deep_shelf/v1/deep_shelf.proto is missing",
            "must serve mirror.deep_shelf.v1.DeepShelfService",
            "serves mirror.other.v1.OtherService, which is not of its package",
            "proto/mirror/stray: no service",
            "crates/memory/lost: declares a service",
        ] {
            assert!(text.contains(part), "{part} in:\n{text}");
        }
    }
}
