//! The same work by other engines, in the same run.

pub(crate) mod jetstream;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod server;
pub(crate) mod socket;
pub(crate) mod sqlite;
pub(crate) mod strace;
pub(crate) mod trace;
pub(crate) mod window;
pub(crate) mod work;
