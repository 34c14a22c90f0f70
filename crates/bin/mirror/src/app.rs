//! The catalogue of this binary.

use std::sync::OnceLock;

use mirror_kit::App;

use crate::jobs;

/// Version and source revision.
pub const BUILD: &str = env!("MIRROR_BUILD");

/// All services of the binary, in order of name.
pub static APP: App = App {
    build: BUILD,
    services: &[
        &mirror_blobs::SERVICE,
        &mirror_bus::SERVICE,
        &mirror_changelog::SERVICE,
        &mirror_halt::SERVICE,
        &mirror_import::SERVICE,
        &mirror_keeper::SERVICE,
        &mirror_notify::SERVICE,
        &mirror_pulse::SERVICE,
        &mirror_registry::SERVICE,
        &mirror_remedy::SERVICE,
        &mirror_schedule::SERVICE,
        &mirror_supervisor::SERVICE,
        &mirror_witness::SERVICE,
    ],
    jobs: &[&jobs::DEAD_MAN, &jobs::DISK_FORECAST, &jobs::VERIFY_LOG],
};

static CHOSEN: OnceLock<&'static App> = OnceLock::new();

/// Makes this process run another catalogue than [`APP`]; the first choice stands.
pub(crate) fn choose(app: &'static App) {
    let _ = CHOSEN.set(app);
}

/// Returns the catalogue that this process runs.
pub(crate) fn app() -> &'static App {
    CHOSEN.get().copied().unwrap_or(&APP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_keeps_its_rules_and_is_sorted() {
        let problems = mirror_kit::check_catalogue(&APP.catalogue());
        assert!(problems.is_empty(), "{}", problems.join("\n"));
        assert!(APP.catalogue().is_sorted_by_key(|d| d.name));
    }

    #[test]
    fn the_build_id_begins_with_the_version() {
        assert!(BUILD.starts_with(&format!("{}+", env!("CARGO_PKG_VERSION"))), "{BUILD}");
    }
}
