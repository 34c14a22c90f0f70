//! `cargo xtask`: renders, checks, and starts new services.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "this is a command of the developer's terminal"
)]

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use xtask::{catalogue, contract, files::Rendered, new_service, tidy};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Renders, checks, and starts new services.")]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes plists, units and tables from the catalogue.
    Render,
    /// Writes proto/CONTRACT.lock from the proto files, and refuses what breaks clients of the last commit.
    Contract,
    /// Prints every broken law of the tree.
    Tidy,
    /// Writes a complete service, registers it, and renders.
    NewService(new_service::Args),
}

fn main() -> ExitCode {
    match run(Args::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<ExitCode> {
    let root = xtask::root()?;
    match command {
        Command::Render => say(&xtask::rendered(&root, &catalogue::all())?.write(&root)?),
        Command::Contract => {
            let text = contract::lock::render(&contract::pool()?);
            let broken = contract::compat::breaks(&contract::committed(&root).unwrap_or_default(), &text);
            if !broken.is_empty() {
                return Ok(refuse(&broken));
            }
            let mut rendered = Rendered::default();
            rendered.file(contract::LOCK, text);
            say(&rendered.write(&root)?);
        }
        Command::Tidy => {
            let problems = tidy::problems(&root, &catalogue::all()).context("read the tree")?;
            if !problems.is_empty() {
                return Ok(refuse(&problems));
            }
        }
        Command::NewService(args) => {
            let written = new_service::run(&root, &args, &catalogue::all())?;
            say(&written);
            println!("next: cargo test -p mirror-{}", args.noun);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn say(paths: &[std::path::PathBuf]) {
    for path in paths {
        println!("wrote {}", path.display());
    }
}

fn refuse(problems: &[String]) -> ExitCode {
    for problem in problems {
        eprintln!("{problem}");
    }
    eprintln!("{} to mend", problems.len());
    ExitCode::FAILURE
}
