//! The multi-call binary: every ordinary service, the foreground fleet, and the command line.
//!
//! Which of them a process is, its link name says first (`mirror-bus` is the bus), then its first argument.
//! It refuses to hold any rule of a service: commands only call services and show what they answered.
//! Invariant: data goes to standard output and talk to standard error, and each exit code has one meaning.

mod app;
mod args;
mod binaries;
mod client;
mod cmd;
mod ctx;
mod failure;
mod jobs;
mod out;
mod reference;
mod run;
mod supervise;
mod text;

pub use app::{APP, BUILD};
pub use args::command;
pub use failure::REASONS;
pub use reference::reference;
pub use run::{main, main_with};
