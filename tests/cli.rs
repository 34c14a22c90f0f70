//! The command line without a fleet: help, exit codes, JSON, completions, pages, tables.
