//! The declaration of a service: one typed row of the catalogue.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;

use crate::context::{Built, Context, StartError};

/// One row of the catalogue. Plists, units, tables, call graph and supervisor are rendered from it and only from it.
#[derive(Debug, Clone, Copy)]
pub struct Decl {
    /// Name: of the folder, the package, the socket, the state, the label.
    pub name: &'static str,
    /// What it does, one sentence.
    pub summary: &'static str,
    /// Primitive it belongs to.
    pub primitive: Primitive,
    /// Tier, 0 (bus) to 5 (edge); a service calls only lower tiers.
    pub tier: u8,
    /// Services it may call, each with the rule for when it is away.
    pub needs: &'static [Need],
    /// Full gRPC names it serves, besides health, reflection and the kit's.
    pub serves: &'static [&'static str],
    /// First tokens of the subjects that only it may append under.
    pub subjects: &'static [&'static str],
    /// Reasons it answers with; each has a page in `docs/errors/`.
    pub reasons: &'static [&'static str],
    /// How it is kept running.
    pub keep: Keep,
    /// What its absence means for the owner.
    pub criticality: Criticality,
    /// Proportional memory at idle that it may use, in MiB.
    pub memory_mb: u32,
    /// Calls in progress that it takes at once; as many again may wait.
    pub max_in_flight: usize,
    /// Executor threads.
    pub threads: usize,
    /// Code identity it ships in.
    pub binary: Binary,
    /// Whether it may ask every service of any tier how it is; it may call nothing else of theirs.
    pub observes: bool,
    /// Longest time from its start to its first state other than starting, in seconds.
    pub startup_secs: u32,
}

impl Decl {
    /// What most services are.
    pub const DEFAULT: Self = Self {
        name: "",
        summary: "",
        primitive: Primitive::Memory,
        tier: 1,
        needs: &[],
        serves: &[],
        subjects: &[],
        reasons: &[],
        keep: Keep::Always,
        criticality: Criticality::Useful,
        memory_mb: 4,
        max_in_flight: 256,
        threads: 1,
        binary: Binary::Mirror,
        observes: false,
        startup_secs: 60,
    };

    /// Returns the launchd label and systemd unit name.
    pub fn label(&self) -> String {
        format!("dev.mirrordna.{}", self.name)
    }

    /// Returns the name of its link in the binaries' folder.
    pub fn link(&self) -> String {
        format!("mirror-{}", self.name)
    }
}

/// A peer that a service may call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Name of the peer.
    pub service: &'static str,
    /// What the service does while the peer is away.
    pub away: Away,
}

/// What a service does while a peer is away; the wire names are those of the contract's service option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// Refuses the act that needed the peer.
    Deny,
    /// Holds the act and retries within its deadline, then refuses it.
    Hold,
    /// Goes on without, and says so.
    Degrade,
}

impl Away {
    /// Returns the name in the contract.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deny => "DENY",
            Self::Hold => "HOLD",
            Self::Degrade => "DEGRADE",
        }
    }
}

/// The six primitives, the mesh and the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Primitive {
    /// The log and its folds.
    Memory,
    /// Decisions and signatures.
    Governance,
    /// Sessions and continuity.
    Identity,
    /// The vault.
    Knowledge,
    /// Models.
    Execution,
    /// Hooks, health and numbers.
    Observation,
    /// Other devices.
    Mesh,
    /// Clients.
    Edge,
}

impl Primitive {
    /// Returns the name, which is also the folder under `crates/`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Governance => "governance",
            Self::Identity => "identity",
            Self::Knowledge => "knowledge",
            Self::Execution => "execution",
            Self::Observation => "observation",
            Self::Mesh => "mesh",
            Self::Edge => "edge",
        }
    }
}

/// How a service is kept running.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// Started at login and again after each failure.
    Always,
    /// Started when somebody connects.
    OnDemand,
    /// Started at times of the day.
    Calendar,
}

impl Keep {
    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Always => "always",
            Self::OnDemand => "on demand",
            Self::Calendar => "calendar",
        }
    }
}

/// What the absence of a service means for the owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Criticality {
    /// Nothing works without it.
    Vital,
    /// A primitive is missing.
    Important,
    /// A convenience is missing.
    Useful,
}

impl Criticality {
    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vital => "vital",
            Self::Important => "important",
            Self::Useful => "useful",
        }
    }
}

/// A code identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Binary {
    /// The multi-call binary of all ordinary services.
    Mirror,
    /// The only holder of private keys.
    Keeper,
    /// In-process inference.
    Models,
}

impl Binary {
    /// Returns the name of the executable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::Keeper => "mirror-keeper",
            Self::Models => "mirror-models",
        }
    }
}

/// The declaration of a job: a process that runs at its times and ends by itself.
#[derive(Debug, Clone, Copy)]
pub struct JobDecl {
    /// Name; the label is `dev.mirrordna.job.<name>`.
    pub name: &'static str,
    /// What it does, one sentence.
    pub summary: &'static str,
    /// When it runs.
    pub when: When,
    /// Longest run, in seconds.
    pub limit_secs: u32,
}

impl JobDecl {
    /// Returns its name among the agents: `job.<name>`.
    pub fn agent(&self) -> String {
        format!("job.{}", self.name)
    }

    /// Returns the launchd label.
    pub fn label(&self) -> String {
        format!("dev.mirrordna.{}", self.agent())
    }
}

/// When a job runs, in the machine's time zone; launchd runs one that was slept through once after waking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Every so many seconds while the machine is awake.
    Every {
        /// Seconds.
        secs: u32,
    },
    /// Once a day.
    Daily {
        /// Hour, 0 to 23.
        hour: u8,
        /// Minute, 0 to 59.
        minute: u8,
    },
    /// Once a week.
    Weekly {
        /// Day, 0 (Sunday) to 6.
        weekday: u8,
        /// Hour, 0 to 23.
        hour: u8,
        /// Minute, 0 to 59.
        minute: u8,
    },
    /// Once a month.
    Monthly {
        /// Day, 1 to 28.
        day: u8,
        /// Hour, 0 to 23.
        hour: u8,
        /// Minute, 0 to 59.
        minute: u8,
    },
}

/// What a build function returns.
pub type Building = Pin<Box<dyn Future<Output = Result<Built, StartError>> + Send>>;

/// A service: its declaration and how it is built.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// The declaration.
    pub decl: &'static Decl,
    /// Builds it.
    pub build: fn(Context) -> Building,
}

/// Returns what is wrong with a catalogue; nothing when every rule holds.
pub fn check_catalogue(catalogue: &[&'static Decl]) -> Vec<String> {
    let mut problems = Vec::new();
    let tiers: HashMap<&str, u8> = catalogue.iter().map(|d| (d.name, d.tier)).collect();
    let mut names = HashMap::new();
    let mut served = HashMap::new();
    let mut subjects = HashMap::from([("bus", "bus"), ("dead", "bus"), ("local", "local callers")]);
    for decl in catalogue {
        let name = decl.name;
        if names.insert(name, ()).is_some() {
            problems.push(format!("{name}: the name is used twice"));
        }
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-') {
            problems.push(format!("{name:?}: a name is lower-case words joined by hyphens"));
        }
        if !decl.summary.ends_with('.') || decl.summary.len() > 120 {
            problems.push(format!("{name}: the summary is one sentence of at most 120 bytes"));
        }
        if decl.tier > 5 {
            problems.push(format!("{name}: tier {} is above 5", decl.tier));
        }
        for need in decl.needs {
            match tiers.get(need.service) {
                None => problems.push(format!("{name}: needs {}, which does not exist", need.service)),
                Some(tier) if *tier >= decl.tier => problems.push(format!(
                    "{name} (tier {}) needs {} (tier {tier}); a service calls only strictly lower tiers",
                    decl.tier, need.service
                )),
                Some(_) => {}
            }
        }
        for full in decl.serves {
            if let Some(other) = served.insert(*full, name).filter(|_| *full != crate::fold::FOLD_SERVICE) {
                problems.push(format!("{name}: {full} is served by {other} too"));
            }
        }
        for subject in decl.subjects {
            if let Some(other) = subjects.insert(subject, name).filter(|other| *other != name) {
                problems.push(format!("{name}: subjects under {subject:?} belong to {other}"));
            }
        }
        let prefix = format!("{}_", name.replace('-', "_").to_ascii_uppercase());
        for reason in decl.reasons.iter().filter(|r| !r.starts_with(&prefix)) {
            problems.push(format!("{name}: reason {reason} must begin with {prefix}"));
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOW: Decl = Decl { name: "low", summary: "Is low.", tier: 1, ..Decl::DEFAULT };

    #[test]
    fn a_need_must_point_down() {
        const PEER: Decl = Decl {
            name: "peer",
            summary: "Is a peer.",
            tier: 1,
            needs: &[Need { service: "low", away: Away::Deny }],
            ..Decl::DEFAULT
        };
        let problems = check_catalogue(&[&LOW, &PEER]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].contains("strictly lower tiers"));
    }

    #[test]
    fn a_name_and_a_prefix_have_one_owner() {
        const THIEF: Decl = Decl {
            name: "thief",
            summary: "Takes.",
            subjects: &["bus"],
            reasons: &["LOW_X"],
            needs: &[Need { service: "nobody", away: Away::Deny }],
            ..Decl::DEFAULT
        };
        let problems = check_catalogue(&[&LOW, &LOW, &THIEF]).join("\n");
        for part in ["used twice", "belong to bus", "must begin with THIEF_", "does not exist"] {
            assert!(problems.contains(part), "{part} in {problems}");
        }
    }
}
