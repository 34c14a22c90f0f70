//! The binary `mirror`; what it does is in the library beside it.

use std::process::ExitCode;

fn main() -> ExitCode {
    mirror_cli::main()
}
