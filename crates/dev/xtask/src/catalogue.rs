//! The catalogue: every service of the binary `mirror`, and who answers with which reason.

use std::collections::BTreeMap;

use mirror_kit::{Decl, JobDecl};

/// Reasons of libraries that the command line calls without a service, each with whose name it carries.
const LIBRARIES: &[(&str, &[&str])] = &[("bus", &["BUS_VERIFY_NOT_A_LOG", "BUS_VERIFY_UNREADABLE"])];

/// Reasons by who answers with them: `kit` for any service, `cli` for the command line, else a service.
pub type Reasons = BTreeMap<&'static str, Vec<&'static str>>;

/// Returns the declarations of all services, in order of name.
pub fn all() -> Vec<&'static Decl> {
    let mut all = mirror_cli::APP.catalogue();
    all.sort_by_key(|decl| decl.name);
    all
}

/// Returns the declarations of all jobs, in order of name.
pub fn jobs() -> Vec<&'static JobDecl> {
    let mut all = mirror_cli::APP.job_catalogue();
    all.sort_by_key(|decl| decl.name);
    all
}

/// Returns every reason, in order.
pub fn reasons(catalogue: &[&'static Decl]) -> Reasons {
    let mut reasons = Reasons::new();
    let known = [("kit", mirror_kit::REASONS), ("cli", mirror_cli::REASONS)];
    let services = catalogue.iter().map(|d| (d.name, d.reasons));
    for (owner, list) in known.into_iter().chain(LIBRARIES.iter().copied()).chain(services) {
        reasons.entry(owner).or_default().extend(list);
    }
    for list in reasons.values_mut() {
        list.sort_unstable();
    }
    reasons.retain(|_, list| !list.is_empty());
    reasons
}
