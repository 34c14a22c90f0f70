//! The binary `mirror-keeper`: the service keeper and nothing else, so that a right given to it is given to nobody else.

use std::process::ExitCode;

use mirror_kit::App;

static APP: App = App { build: env!("MIRROR_BUILD"), services: &[&mirror_keeper::SERVICE], jobs: &[] };

fn main() -> ExitCode {
    mirror_kit::main(&APP, &mirror_keeper::SERVICE)
}
