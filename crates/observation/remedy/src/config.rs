//! The table `remedy` of the configuration.

use serde::{Deserialize, Serialize};

/// What the owner may set.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    /// Whether nothing is ever done, and each remedy is held back; false unless set.
    pub(crate) observe_only: bool,
}
