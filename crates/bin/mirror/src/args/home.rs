//! Arguments of the commands that make a home or bring one back.

use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// Write the recovery kit to this new file, readable by you alone, and not to standard output
    #[arg(long, value_name = "FILE", conflicts_with = "no_recovery")]
    pub(crate) kit_file: Option<PathBuf>,
    /// Make no recovery kit
    #[arg(long)]
    pub(crate) no_recovery: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecoverArgs {
    /// File that holds the block of the recovery kit, whatever stands around it
    #[arg(long, value_name = "FILE")]
    pub(crate) kit: PathBuf,
}
