//! The catalogue of this binary.

use mirror_kit::App;

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
        &mirror_notify::SERVICE,
        &mirror_pulse::SERVICE,
        &mirror_registry::SERVICE,
        &mirror_remedy::SERVICE,
        &mirror_schedule::SERVICE,
        &mirror_witness::SERVICE,
    ],
};

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
