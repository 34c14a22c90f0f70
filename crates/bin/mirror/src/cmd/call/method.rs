//! Which method a person means.

use mirror_kit::Decl;
use prost_reflect::{DescriptorPool, MethodDescriptor, ServiceDescriptor};

use crate::app::app;
use crate::failure::Failure;

/// Services that every socket serves besides its own.
const COMMON: [&str; 2] = ["mirror.kit.v1.KitService", "grpc.health.v1.Health"];

/// A process and the gRPC services that it answers.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) decl: &'static Decl,
    pub(crate) services: Vec<ServiceDescriptor>,
}

/// Returns the descriptors of everything that a socket serves.
pub(crate) fn pool() -> Result<DescriptorPool, Failure> {
    let bug = |e: prost_reflect::DescriptorError| Failure::bug(format!("the contract cannot be read: {e}"));
    let mut pool = DescriptorPool::decode(mirror_contract::DESCRIPTOR).map_err(bug)?;
    pool.decode_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET).map_err(bug)?;
    Ok(pool)
}

/// Returns the declaration of a service by its name.
pub(crate) fn known_service(name: &str) -> Result<&'static Decl, Failure> {
    let names: Vec<&str> = app().services.iter().map(|s| s.decl.name).collect();
    match app().service(name) {
        Some(service) => Ok(service.decl),
        None => Err(meant(name, &names, Failure::service_unknown(name, &names.join(", ")))),
    }
}

/// Returns the target of a call: a service by its name, or by a full gRPC name that only one service has.
pub(crate) fn target(pool: &DescriptorPool, name: &str) -> Result<Target, Failure> {
    let full = |names: &[&str]| names.iter().filter_map(|n| pool.get_service_by_name(n)).collect::<Vec<_>>();
    if COMMON.contains(&name) {
        let text = format!("every service answers {name}; name one, as in: mirror call bus GetState");
        return Err(Failure::input(text));
    }
    let by_full_name = app().services.iter().find(|s| s.decl.serves.contains(&name));
    if let Some(service) = by_full_name {
        return Ok(Target { decl: service.decl, services: full(&[name]) });
    }
    let decl = known_service(name)?;
    let served: Vec<&str> = decl.serves.iter().copied().chain(COMMON).collect();
    Ok(Target { decl, services: full(&served) })
}

impl Target {
    /// Returns every method with its service.
    pub(crate) fn methods(&self) -> impl Iterator<Item = MethodDescriptor> + '_ {
        self.services.iter().flat_map(|service| service.methods().collect::<Vec<_>>())
    }

    /// Returns a method by its name, or by `Service/Method`; the service's own come before the common ones.
    pub(crate) fn method(&self, name: &str) -> Result<MethodDescriptor, Failure> {
        let (service, method) = match name.trim_start_matches('/').rsplit_once('/') {
            Some((service, method)) => (Some(service), method),
            None => (None, name),
        };
        let fits = |m: &MethodDescriptor| {
            let parent = m.parent_service();
            m.name() == method && service.is_none_or(|s| parent.full_name() == s || parent.name() == s)
        };
        if let Some(found) = self.methods().find(fits) {
            return Ok(found);
        }
        let names: Vec<String> = self.methods().map(|m| m.name().to_owned()).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let text = format!("{} has no method {name:?}", self.decl.name);
        let failure = Failure::new(mirror_errors::Kind::NotFound, "CLI_METHOD_UNKNOWN", text);
        Err(meant(method, &names, failure.hint(format!("methods: {}", names.join(", ")))))
    }
}

/// Adds what may have been meant.
fn meant(name: &str, known: &[&str], failure: Failure) -> Failure {
    let lower = name.to_lowercase();
    let near = known
        .iter()
        .map(|k| (strsim::damerau_levenshtein(&lower, &k.to_lowercase()), *k))
        .filter(|(distance, k)| *distance <= 1 + k.len() / 4)
        .min();
    match near {
        Some((_, near)) => failure.hint_first(format!("did you mean {near}?")),
        None => failure,
    }
}
