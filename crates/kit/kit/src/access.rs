//! Who may call what: one table, default deny.

use crate::peer::Principal;

/// The kind of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PrincipalKind {
    /// A process of the owner's user without further proof.
    Local,
    /// A process that the supervisor started.
    Service,
    /// A session with a permit.
    Agent,
    /// The owner, proven for this act.
    Owner,
    /// A peer device.
    Device,
}

impl PrincipalKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Local, Self::Service, Self::Agent, Self::Owner, Self::Device];

    /// Returns the name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Service => "service",
            Self::Agent => "agent",
            Self::Owner => "owner",
            Self::Device => "device",
        }
    }
}

use PrincipalKind::{Agent, Local, Owner, Service};

/// Scopes and who holds them. A scope that is not here belongs to nobody.
pub const TABLE: &[(&str, &[PrincipalKind])] = &[
    // Health and reflection have no options of their own; they are read under this scope.
    ("kit.read", &[Local, Service, Agent, Owner]),
    // Appending is further bound to the caller's own subject prefixes, which the bus enforces.
    ("bus.append", &[Local, Service, Agent, Owner]),
    ("bus.read", &[Local, Service, Agent, Owner]),
    // Consuming is further bound to the caller's own consumers, which the bus enforces.
    ("bus.consume", &[Local, Service, Agent, Owner]),
    // The right is the signature in the request.
    ("bus.redact", &[Local, Service, Agent, Owner]),
    // It cannot be taken back, so nothing seals by itself.
    ("bus.seal", &[Local, Owner]),
    ("bus.compress", &[Local, Service, Agent, Owner]),
    ("bus.rebuild", &[Local, Service, Agent, Owner]),
    // It reads any folder, so an agent must not ask for it.
    ("bus.repair", &[Local, Owner]),
    ("blobs.put", &[Local, Service, Agent, Owner]),
    ("blobs.read", &[Local, Service, Agent, Owner]),
    ("fold.read", &[Local, Service, Agent, Owner]),
    ("changelog.read", &[Local, Service, Agent, Owner]),
    // An import reads any file of the owner's, so an agent must not start one.
    ("import.run", &[Local, Owner]),
    ("registry.read", &[Local, Service, Agent, Owner]),
    ("supervisor.read", &[Local, Service, Agent, Owner]),
    ("supervisor.control", &[Local, Service, Owner]),
    // Who may have which type signed is a second table, the keeper's own.
    ("keeper.sign", &[Service]),
    ("keeper.read", &[Local, Service, Agent, Owner]),
    // The proof is in the request.
    ("keeper.rotate", &[Local, Owner]),
    ("witness.read", &[Local, Service, Agent, Owner]),
    ("witness.run", &[Local, Service, Owner]),
    ("schedule.read", &[Local, Service, Agent, Owner]),
    ("schedule.put", &[Local, Service, Owner]),
    ("schedule.work", &[Local, Service, Owner]),
    ("halt.read", &[Local, Service, Agent, Owner]),
    // Anybody may stop everything.
    ("halt.engage", &[Local, Service, Agent, Owner]),
    // The proof is in the request.
    ("halt.release", &[Local, Owner]),
    ("notify.read", &[Local, Service, Agent, Owner]),
    ("notify.put", &[Local, Service, Owner]),
    ("remedy.read", &[Local, Service, Agent, Owner]),
    ("remedy.run", &[Local, Service, Owner]),
    ("pulse.read", &[Local, Service, Agent, Owner]),
    ("pulse.run", &[Local, Service, Owner]),
    ("pulse.maintain", &[Local, Owner]),
];

/// Returns whether a principal holds a scope.
pub fn allowed(scope: &str, principal: &Principal) -> bool {
    TABLE.iter().any(|(name, holders)| *name == scope && holders.contains(&principal.kind()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use mirror_contract::METHODS;

    #[test]
    fn every_method_declares_its_options_and_a_scope_of_the_table() {
        for method in METHODS {
            let path = method.path;
            let scope = TABLE.iter().find(|(name, _)| *name == method.scope);
            assert!(
                scope.is_some_and(|(_, holders)| !holders.is_empty()),
                "{path}: scope {:?}",
                method.scope
            );
            assert!(!["", "RISK_UNSPECIFIED"].contains(&method.risk), "{path} declares no risk");
            assert!(["ALLOW", "REFUSE"].contains(&method.when_halted), "{path} declares no when_halted");
            assert_eq!(method.risk == "BY_ACTION", !method.action_field.is_empty(), "{path}: action_field");
            let streams = method.client_streaming || method.server_streaming;
            assert!(streams || method.deadline_ms > 0, "{path} declares no deadline");
        }
        for service in mirror_contract::SERVICES {
            assert_ne!(service.when_away, "WHEN_AWAY_UNSPECIFIED", "{} declares no rule", service.name);
        }
    }

    #[test]
    fn the_default_is_deny_for_all_principals() {
        let principals = [Principal::Local, Principal::Service("bus".into()), Principal::Stranger { uid: 1 }];
        for principal in &principals {
            assert!(!allowed("", principal));
            assert!(!allowed("nobody.knows", principal));
        }
        for method in METHODS {
            assert!(!allowed(method.scope, &principals[2]), "{} takes a stranger", method.path);
            for principal in &principals[..2] {
                let listed = TABLE
                    .iter()
                    .any(|(name, holders)| *name == method.scope && holders.contains(&principal.kind()));
                assert_eq!(allowed(method.scope, principal), listed, "{} {principal:?}", method.path);
            }
        }
    }
}
