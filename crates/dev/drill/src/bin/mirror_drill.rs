//! `mirror` with test agents beside the real services.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror_cli::main_with(mirror_drill::app())
}
