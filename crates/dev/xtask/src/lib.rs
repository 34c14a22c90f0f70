//! The repository's own tools: what is rendered from the catalogue and the contract, and the laws that hold the tree.
//!
//! It refuses a second source of truth: plists, units, tables and the contract's lock are rendered or refused.
//! Invariant: each rule here also runs under `cargo test`, so that the gate needs no tool of its own.

pub mod catalogue;
pub mod contract;
pub mod files;
pub mod new_service;
pub mod tables;
pub mod tidy;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use mirror_kit::Decl;

use crate::files::Rendered;

/// Returns the root of the repository.
///
/// # Errors
///
/// When the folder that this crate was built in has moved and cargo did not say where to.
pub fn root() -> Result<PathBuf> {
    let here = std::env::var_os("CARGO_MANIFEST_DIR")
        .map(PathBuf::from)
        .filter(|dir| dir.ends_with("crates/dev/xtask"))
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")));
    here.join("../../..")
        .canonicalize()
        .with_context(|| format!("find the repository above {}", here.display()))
}

/// Returns every file that is rendered from the catalogue.
///
/// # Errors
///
/// When a service cannot be rendered, or a file that holds a rendered part lacks its markers.
pub fn rendered(root: &Path, catalogue: &[&'static Decl]) -> Result<Rendered> {
    let mut rendered = Rendered::default();
    let agents = mirror_agents::agents(catalogue, &catalogue::jobs())?;
    let plists = agents.iter().map(|agent| (agent.file_name(), agent.template())).collect();
    rendered.folder("launchagents", "plist", plists);
    let units = agents.iter().flat_map(mirror_agents::units::units);
    let (timers, services): (Vec<_>, Vec<_>) = units.partition(|(name, _)| name.ends_with(".timer"));
    rendered.folder("deploy/systemd", "service", services);
    rendered.folder("deploy/systemd", "timer", timers);
    rendered.file("docs/ACCESS.md", tables::access());
    rendered.file("docs/errors/README.md", tables::errors(&catalogue::reasons(catalogue)));
    let architecture =
        std::fs::read_to_string(root.join("ARCHITECTURE.md")).context("read ARCHITECTURE.md")?;
    let text = files::replace_between(&architecture, "services", &tables::services(catalogue))
        .context("render into ARCHITECTURE.md")?;
    rendered.file("ARCHITECTURE.md", text);
    Ok(rendered)
}
