//! The fleet in the foreground, with real processes.
