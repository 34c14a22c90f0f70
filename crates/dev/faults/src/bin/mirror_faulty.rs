//! `mirror` with the library of faults preloaded where the home asks for it.
//!
//! A supervisor gives its children an environment of its own, so the process puts the library there and starts itself
//! again. The home's file `faults.preload` names the library; the plan is `faults.plan` beside it.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    if let (Some(home), None) = (std::env::var_os("MIRROR_HOME"), std::env::var_os("LD_PRELOAD")) {
        let home = PathBuf::from(home);
        if let Ok(library) = std::fs::read_to_string(home.join("faults.preload"))
            && let Ok(binary) = std::env::current_exe()
        {
            let mut args = std::env::args_os();
            let mut command = Command::new(binary);
            if let Some(name) = args.next() {
                command.arg0(name);
            }
            command
                .args(args)
                .env("LD_PRELOAD", library.trim())
                .env("MIRROR_FAULTS", home.join("faults.plan"));
            // Returns only when it cannot be started.
            let _ = command.exec();
            return ExitCode::FAILURE;
        }
    }
    mirror_cli::main()
}
