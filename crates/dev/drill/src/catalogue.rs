//! The catalogue of a drill: the real services and jobs, one hub, ten agents that need it, and leaves.

use std::io;
use std::sync::OnceLock;

use mirror_kit::{App, Away, Criticality, Decl, Need, Primitive, Service};
use mirror_paths::{Home, private_dir};

use crate::agent;

/// The agent that others need.
pub const HUB: &str = "drill-hub";

/// Agents that need the hub.
pub const DEPENDENTS: &[&str] = &[
    "drill-dep-a",
    "drill-dep-b",
    "drill-dep-c",
    "drill-dep-d",
    "drill-dep-e",
    "drill-dep-f",
    "drill-dep-g",
    "drill-dep-h",
    "drill-dep-i",
    "drill-dep-j",
];

/// Agents that need nobody.
pub const LEAVES: &[&str] = &[
    "drill-leaf-a",
    "drill-leaf-b",
    "drill-leaf-c",
    "drill-leaf-d",
    "drill-leaf-e",
    "drill-leaf-f",
    "drill-leaf-g",
    "drill-leaf-h",
    "drill-leaf-i",
    "drill-leaf-j",
    "drill-leaf-k",
    "drill-leaf-l",
    "drill-leaf-m",
    "drill-leaf-n",
    "drill-leaf-o",
    "drill-leaf-p",
    "drill-leaf-q",
    "drill-leaf-r",
    "drill-leaf-s",
    "drill-leaf-t",
    "drill-leaf-u",
    "drill-leaf-v",
    "drill-leaf-w",
    "drill-leaf-x",
    "drill-leaf-y",
    "drill-leaf-z",
    "drill-pine-a",
    "drill-pine-b",
    "drill-pine-c",
    "drill-pine-d",
];

const NEEDS: &[Need] = &[Need { service: HUB, away: Away::Degrade }];

fn service(name: &'static str, tier: u8, needs: &'static [Need]) -> &'static Service {
    let decl = Decl {
        name,
        summary: "Takes orders from a drill.",
        primitive: Primitive::Observation,
        tier,
        needs,
        criticality: Criticality::Useful,
        memory_mb: 4,
        ..Decl::DEFAULT
    };
    // As long-lived as the process, like the declarations of real services.
    Box::leak(Box::new(Service { decl: Box::leak(Box::new(decl)), build: |cx| Box::pin(agent::build(cx)) }))
}

/// Says how many leaves the fleet of a home has; written before its first start.
pub fn plant(home: &Home, leaves: usize) -> io::Result<()> {
    let dir = home.root().join("drill");
    private_dir(&dir).map_err(io::Error::other)?;
    std::fs::write(dir.join("leaves"), leaves.to_string())
}

/// Returns how many leaves the fleet of the environment's home has: all, where nothing says so.
///
/// `MIRROR_DRILL_LEAVES` says it for one command, before there is a home.
fn planted() -> Option<usize> {
    if let Some(leaves) = std::env::var("MIRROR_DRILL_LEAVES").ok().and_then(|n| n.parse().ok()) {
        return Some(leaves);
    }
    // A file, because the supervisor passes nothing on but what the property lists say.
    let home = Home::from_env().ok()?;
    std::fs::read_to_string(home.root().join("drill/leaves")).ok()?.parse().ok()
}

/// Returns the catalogue with as many leaves as were planted.
pub fn app() -> &'static App {
    static APP: OnceLock<App> = OnceLock::new();
    APP.get_or_init(|| {
        let leaves = &LEAVES[..planted().unwrap_or(LEAVES.len()).min(LEAVES.len())];
        let mut services = mirror_cli::APP.services.to_vec();
        services.push(service(HUB, 1, &[]));
        services.extend(DEPENDENTS.iter().map(|name| service(name, 2, NEEDS)));
        services.extend(leaves.iter().map(|name| service(name, 1, &[])));
        services.sort_by_key(|s| s.decl.name);
        App { build: mirror_cli::APP.build, services: services.leak(), jobs: mirror_cli::APP.jobs }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_of_a_drill_keeps_the_rules_and_has_forty_agents() {
        let problems = mirror_kit::check_catalogue(&app().catalogue());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        assert!(1 + DEPENDENTS.len() + LEAVES.len() >= 40);
    }
}
