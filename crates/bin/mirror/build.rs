//! Makes the build id: the version, and the source revision where git knows it.

use std::path::Path;
use std::process::Command;

fn main() {
    let version = std::env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "source".to_owned());
    println!("cargo:rustc-env=MIRROR_BUILD={version}+{revision}");
    println!("cargo:rerun-if-changed=build.rs");
    // The reflog grows with each commit and each checkout, wherever HEAD points.
    for file in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", file]).filter(|p| Path::new(p).is_file()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}

fn git(args: &[&str]) -> Option<String> {
    let out = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(out.stdout).ok()?.trim().to_owned();
    (out.status.success() && !text.is_empty()).then_some(text)
}
