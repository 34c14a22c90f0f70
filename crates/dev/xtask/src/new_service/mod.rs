//! `cargo xtask new-service`: one command from a noun to a service that compiles, is tested and is in the catalogue.
//!
//! The template is a whole service: a fold over its own events with a Get and a Put.
//! It refuses what would break a law of the tree, before it writes anything.
//! Invariant: either every file is written and every registration made, or none.

mod edit;
mod template;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use mirror_kit::Decl;

/// Groups that hold services; each is a primitive.
const GROUPS: &[&str] =
    &["memory", "governance", "identity", "knowledge", "execution", "observation", "mesh", "edge"];

/// Nouns that the template's own modules or the language have taken.
const TAKEN: &[&str] = &[
    "api", "config", "error", "follow", "store", "wire", "kit", "options", "contract", "types", "errors",
    "seal", "paths", "clock", "client", "testkit", "mirror", "local", "dead", "as", "async", "await", "box",
    "break", "const", "continue", "core", "crate", "dyn", "else", "enum", "extern", "false", "fn", "for",
    "if", "impl", "in", "let", "loop", "match", "mod", "move", "mut", "pub", "ref", "return", "self",
    "static", "std", "struct", "super", "trait", "true", "type", "unsafe", "use", "where", "while", "yield",
    "macro", "final", "try", "gen",
];

/// What a new service is to be.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// The primitive it belongs to, which is also the folder under crates/.
    pub group: String,
    /// Its one name: lower-case words joined by hyphens.
    pub noun: String,
    /// Its tier, 1 to 5; it calls only lower ones.
    #[arg(long)]
    pub tier: u8,
    /// Services it may call. The bus is one of them: what is written folds its log.
    #[arg(long, value_delimiter = ',', default_value = "bus")]
    pub needs: Vec<String>,
    /// What it does: one sentence with a full stop, at most 120 bytes.
    #[arg(long)]
    pub summary: String,
}

/// Writes a service, formats it and renders what follows from it; returns the files it wrote.
///
/// # Errors
///
/// When the service would break a law, a file is in the way, or cargo fails.
pub fn run(root: &Path, args: &Args, catalogue: &[&'static Decl]) -> Result<Vec<PathBuf>> {
    let files = plan(root, args, catalogue)?;
    for (path, text) in &files {
        let full = root.join(path);
        if let Some(parent) = full.parent() {
            fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
        }
        fs::write(&full, text).with_context(|| format!("write {}", path.display()))?;
    }
    // The catalogue that this program was built with lacks the service: what renders is built anew.
    let package = format!("mirror-{}", args.noun);
    for arguments in [
        &["fmt", "-p", &package, "-p", "mirror", "-p", "mirror-kit"][..],
        &["run", "-q", "-p", "xtask", "--", "contract"],
        &["run", "-q", "-p", "xtask", "--", "render"],
    ] {
        cargo(root, arguments)?;
    }
    Ok(files.into_keys().collect())
}

fn cargo(root: &Path, arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo).args(arguments).current_dir(root).status().context("run cargo")?;
    ensure!(
        status.success(),
        "cargo {} failed; the files are written, mend and run it again",
        arguments.join(" ")
    );
    Ok(())
}

/// Returns every file of a new service and every file it is registered in, as they are to be.
///
/// # Errors
///
/// When the service would break a law, or a file is in the way.
pub fn plan(root: &Path, args: &Args, catalogue: &[&'static Decl]) -> Result<BTreeMap<PathBuf, String>> {
    check(args, catalogue)?;
    let mut files = BTreeMap::new();
    for (path, text) in template::fill(args, &closure(&args.needs, catalogue)) {
        ensure!(!root.join(&path).exists(), "{} exists; choose another noun", path.display());
        files.insert(path, text);
    }
    let readme = PathBuf::from(format!("crates/{}/README.md", args.group));
    if !root.join(&readme).exists() {
        files.insert(readme, template::group(&args.group));
    }
    let noun = args.noun.as_str();
    let mut edit = |path: &str, edit: &dyn Fn(&str) -> Result<String>| -> Result<()> {
        let text = fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))?;
        files.insert(path.into(), edit(&text).with_context(|| format!("register {noun} in {path}"))?);
        Ok(())
    };
    edit("Cargo.toml", &|text| edit::workspace(text, &args.group, noun))?;
    edit("crates/kit/kit/src/access.rs", &|text| edit::access(text, noun))?;
    edit("crates/bin/mirror/Cargo.toml", &|text| edit::dependency(text, noun))?;
    let table = edit::find_table(&root.join("crates/bin/mirror/src"))?;
    let table = table.strip_prefix(root).unwrap_or(&table).to_string_lossy().into_owned();
    edit(&table, &|text| edit::table(text, noun))?;
    Ok(files)
}

fn check(args: &Args, catalogue: &[&'static Decl]) -> Result<()> {
    let Args { group, noun, tier, needs, summary } = args;
    ensure!(GROUPS.contains(&group.as_str()), "group {group:?} is none of {GROUPS:?}");
    let words = noun.split('-').all(|w| !w.is_empty() && w.bytes().all(|b| b.is_ascii_lowercase()));
    ensure!(
        words && noun.len() <= 20,
        "noun {noun:?} must be lower-case words joined by hyphens, at most 20 bytes"
    );
    ensure!(
        !TAKEN.contains(&noun.as_str()),
        "noun {noun:?} is taken by the language, the kit or the template"
    );
    ensure!(catalogue.iter().all(|d| d.name != noun), "noun {noun:?} is in the catalogue");
    ensure!((1..=5).contains(tier), "tier {tier} is not within 1 to 5; tier 0 calls nobody");
    let sentence =
        summary.ends_with('.') && summary.len() <= 120 && !summary.contains(['"', '\\', '\n', '@']);
    ensure!(
        sentence,
        "the summary must be one sentence with a full stop, at most 120 bytes, without quotes or @"
    );
    ensure!(
        needs.iter().any(|n| n == "bus"),
        "needs must name bus, because what is written folds its log; for a service that follows something else, \
         generate it with bus, then let follow.rs follow that and take the need out"
    );
    for (i, need) in needs.iter().enumerate() {
        ensure!(!needs[..i].contains(need), "need {need:?} is given twice");
        match catalogue.iter().find(|d| d.name == need) {
            None => bail!("need {need:?} is not in the catalogue"),
            Some(peer) => ensure!(
                peer.tier < *tier,
                "need {need:?} has tier {}; a service of tier {tier} calls only lower tiers",
                peer.tier
            ),
        }
    }
    Ok(())
}

/// Returns the needs and what they need in turn, lower tiers first.
fn closure(needs: &[String], catalogue: &[&'static Decl]) -> Vec<&'static str> {
    let mut todo: Vec<&str> = needs.iter().map(String::as_str).collect();
    let mut found: Vec<&'static Decl> = Vec::new();
    while let Some(name) = todo.pop() {
        let decl = catalogue.iter().find(|d| d.name == name).copied();
        if let Some(decl) = decl.filter(|d| !found.iter().any(|f| f.name == d.name)) {
            found.push(decl);
            todo.extend(decl.needs.iter().map(|n| n.service));
        }
    }
    found.sort_by_key(|d| (d.tier, d.name));
    found.into_iter().map(|d| d.name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalogue::Reasons;
    use mirror_kit::{Away, Need};

    const BUS: Decl = Decl { name: "bus", tier: 0, ..Decl::DEFAULT };
    const BLOBS: Decl =
        Decl { name: "blobs", tier: 1, needs: &[Need { service: "bus", away: Away::Hold }], ..Decl::DEFAULT };
    const CATALOGUE: &[&Decl] = &[&BLOBS, &BUS];

    fn args() -> Args {
        Args {
            group: "knowledge".to_owned(),
            noun: "deep-shelf".to_owned(),
            tier: 2,
            needs: vec!["bus".to_owned(), "blobs".to_owned()],
            summary: "Keeps short texts.".to_owned(),
        }
    }

    /// A folder with only what a registration edits.
    fn repository() -> tempfile::TempDir {
        let temp = tempfile::tempdir().unwrap();
        let root = crate::root().unwrap();
        let copy = |path: &str| {
            let to = temp.path().join(path);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(root.join(path), to).unwrap();
        };
        copy("Cargo.toml");
        copy("crates/kit/kit/src/access.rs");
        copy("crates/bin/mirror/Cargo.toml");
        let table = edit::find_table(&root.join("crates/bin/mirror/src")).unwrap();
        copy(&table.strip_prefix(&root).unwrap().to_string_lossy());
        temp
    }

    #[test]
    fn every_place_is_filled_and_every_registration_made() {
        let temp = repository();
        let files = plan(temp.path(), &args(), CATALOGUE).unwrap();
        for (path, text) in &files {
            let left = text.split('@').skip(1).find(|part| ["noun", "snake", "Noun", "NOUN"].contains(part));
            assert_eq!(left, None, "{}", path.display());
            assert!(!path.to_string_lossy().contains('@'), "{}", path.display());
        }
        let has = |path: &str, part: &str| {
            let text = files.get(Path::new(path)).unwrap_or_else(|| panic!("{path} in {:?}", files.keys()));
            assert!(text.contains(part), "{part:?} in {path}:\n{text}");
        };
        has("Cargo.toml", "mirror-deep-shelf = { path = \"crates/knowledge/deep-shelf\" }\n");
        has("crates/bin/mirror/Cargo.toml", "mirror-deep-shelf.workspace = true\n");
        has("crates/kit/kit/src/access.rs", "(\"deep-shelf.put\", &[Local, Service, Agent, Owner]),");
        has("crates/knowledge/README.md", "# knowledge\n");
        has("crates/knowledge/deep-shelf/src/deep_shelf.rs", "impl Entries");
        has("crates/knowledge/deep-shelf/src/lib.rs", "Need { service: \"blobs\", away: Away::Hold }");
        has(
            "crates/knowledge/deep-shelf/tests/it.rs",
            "&[&mirror_bus::SERVICE, &mirror_blobs::SERVICE, &SERVICE]",
        );
        has(
            "crates/knowledge/deep-shelf/Cargo.toml",
            "mirror-blobs.workspace = true\nmirror-bus.workspace = true\n",
        );
        has("proto/mirror/deep_shelf/v1/deep_shelf.proto", "service DeepShelfService {");
        has("docs/errors/DEEP_SHELF_FULL.md", "# DEEP_SHELF_FULL\n");
        assert!(files.values().any(|text| text.contains("&mirror_deep_shelf::SERVICE")));
    }

    #[test]
    fn the_pages_and_modules_of_a_new_service_keep_the_laws() {
        let files = plan(repository().path(), &args(), CATALOGUE).unwrap();
        let sources: Vec<crate::tidy::Source> = files
            .iter()
            .filter(|(path, _)| path.to_string_lossy().contains("eep"))
            .chain(files.iter().filter(|(path, _)| path.to_string_lossy().contains("DEEP")))
            .map(|(path, text)| crate::tidy::source(&path.to_string_lossy(), text))
            .collect();
        const DECL: Decl = Decl {
            name: "deep-shelf",
            primitive: mirror_kit::Primitive::Knowledge,
            serves: &["mirror.deep_shelf.v1.DeepShelfService"],
            reasons: &[
                "DEEP_SHELF_ENTRY_INVALID",
                "DEEP_SHELF_ENTRY_MISSING",
                "DEEP_SHELF_FULL",
                "DEEP_SHELF_NOT_RECORDED",
            ],
            ..Decl::DEFAULT
        };
        assert_eq!(crate::tidy::text::problems(&sources), Vec::<String>::new());
        assert_eq!(crate::tidy::names::problems(&sources, &[&DECL]), Vec::<String>::new());
        assert_eq!(crate::tidy::deps::manifests(&sources), Vec::<String>::new());
        let pages =
            crate::tidy::docs::problems(&sources, &Reasons::from([("deep-shelf", DECL.reasons.to_vec())]));
        let ours: Vec<&String> = pages.iter().filter(|p| p.contains("DEEP")).collect();
        assert!(ours.is_empty(), "{ours:?}");
    }

    #[test]
    fn a_shipped_service_has_the_shape_that_is_written() {
        let made = Args { group: "observation".to_owned(), noun: "registry".to_owned(), tier: 1, ..args() };
        let root = crate::root().unwrap();
        let files = template::fill(&made, &[]);
        for (path, text) in files.iter().filter(|(path, _)| path.starts_with("crates")) {
            let shipped =
                fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            for module in text.lines().filter(|line| line.starts_with("mod ")) {
                assert!(shipped.lines().any(|line| line == module), "{module} in {}", path.display());
            }
        }
    }

    #[test]
    fn a_service_that_would_break_a_law_is_refused() {
        let refused = |change: &dyn Fn(&mut Args), part: &str| {
            let mut args = args();
            change(&mut args);
            let error = check(&args, CATALOGUE).unwrap_err().to_string();
            assert!(error.contains(part), "{part:?} in {error:?}");
        };
        refused(&|a| a.group = "kit".to_owned(), "is none of");
        refused(&|a| a.noun = "Shelf".to_owned(), "lower-case words");
        refused(&|a| a.noun = "a--b".to_owned(), "lower-case words");
        refused(&|a| a.noun = "move".to_owned(), "is taken");
        refused(&|a| a.noun = "blobs".to_owned(), "is in the catalogue");
        refused(&|a| a.tier = 0, "tier 0 calls nobody");
        refused(&|a| a.tier = 1, "calls only lower tiers");
        refused(&|a| a.needs = vec!["blobs".to_owned()], "must name bus");
        refused(&|a| a.needs = vec![String::new()], "take the need out");
        refused(&|a| a.needs.push("bus".to_owned()), "given twice");
        refused(&|a| a.needs.push("nobody".to_owned()), "not in the catalogue");
        refused(&|a| a.summary = "No stop".to_owned(), "one sentence");
    }

    #[test]
    fn a_file_in_the_way_stops_it_before_anything_is_written() {
        let temp = repository();
        let path = temp.path().join("docs/errors/DEEP_SHELF_FULL.md");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "mine").unwrap();
        let error = plan(temp.path(), &args(), CATALOGUE).unwrap_err().to_string();
        assert!(error.contains("DEEP_SHELF_FULL.md exists"), "{error}");
    }
}
