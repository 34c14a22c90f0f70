//! The binary `mirror-keeper`: the service keeper and nothing else, so that a right given to it is given to nobody else.

use std::process::ExitCode;

use mirror_kit::App;

static APP: App = App { build: env!("MIRROR_BUILD"), services: &[&mirror_keeper::SERVICE], jobs: &[] };

#[expect(clippy::print_stdout, reason = "its version is what was asked for")]
fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|arg| arg == "--version") {
        println!("mirror-keeper {}", APP.build);
        return ExitCode::SUCCESS;
    }
    mirror_kit::main(&APP, &mirror_keeper::SERVICE)
}
