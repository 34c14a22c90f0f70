//! Makes the build id: the version, and the source revision where git knows it.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let revision = git(&["rev-parse", "--short=12", "HEAD"]);
    println!("cargo:rustc-env=MIRROR_BUILD={version}+{}", revision.as_deref().unwrap_or("source"));
    println!("cargo:rerun-if-changed=build.rs");
    if revision.is_none() {
        // Perhaps git was only not to be found; where it is, it is asked again.
        println!("cargo:rerun-if-env-changed=PATH");
    }
    // The reflog grows with each commit and each checkout, wherever HEAD points.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = repository().map(|dir| dir.join(file)).filter(|path| path.is_file()) {
            println!("cargo:rerun-if-changed={}", path.display());
        }
    }
}

/// Returns the repository's folder, also where git itself cannot be run.
fn repository() -> Option<PathBuf> {
    if let Some(dir) = git(&["rev-parse", "--absolute-git-dir"]) {
        return Some(dir.into());
    }
    let package = std::env::var_os("CARGO_MANIFEST_DIR")?;
    Path::new(&package).ancestors().map(|dir| dir.join(".git")).find(|dir| dir.is_dir())
}

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?.trim().to_owned();
    (out.status.success() && !text.is_empty()).then_some(text)
}
