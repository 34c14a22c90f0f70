//! One log, many subscribers: how late they are, and that they miss and repeat nothing.

mod kills;
#[cfg(feature = "peers")]
mod latency;

pub(crate) use kills::{Load, run as kills};
#[cfg(feature = "peers")]
pub(crate) use latency::{Shape, run as latency};
