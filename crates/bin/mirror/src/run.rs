//! What this process is: a service by its link name, or one command.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::ExitCode;

use clap::FromArgMatches as _;
use clap::error::ErrorKind;
use mirror_kit::App;

use crate::app::{app, choose};
use crate::args::{Cli, Command, ServeWhat};
use crate::cmd;
use crate::ctx::Ctx;
use crate::failure::{EXIT_USAGE, Failure};
use crate::out::{Out, say};

/// Runs the process: the service that its link name says, else the command that its arguments say.
pub fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    match link_name(&args) {
        Some(name) => serve_link(&name, args.len() > 1),
        None => command_line(&args),
    }
}

/// Runs the process as [`main`] does, with another catalogue: how a test runs a fleet of its own.
pub fn main_with(catalogue: &'static App) -> ExitCode {
    choose(catalogue);
    main()
}

/// Returns the part after `mirror-` of the name that the process was started by.
fn link_name(args: &[OsString]) -> Option<String> {
    let name = Path::new(args.first()?).file_name().and_then(OsStr::to_str)?;
    name.strip_prefix("mirror-").map(str::to_owned)
}

fn serve_link(name: &str, has_arguments: bool) -> ExitCode {
    let Some(service) = app().service(name) else {
        say(&format!("mirror-{name}: this binary holds no service of that name; it holds {}", names()));
        return ExitCode::from(EXIT_USAGE);
    };
    if has_arguments {
        say(&format!("mirror-{name}: takes no arguments; it reads MIRROR_HOME and its table of mirror.toml"));
        return ExitCode::from(EXIT_USAGE);
    }
    mirror_kit::main(app(), service)
}

fn command_line(args: &[OsString]) -> ExitCode {
    let color = color_before_parsing(args);
    let matches = match crate::args::command().color(color).try_get_matches_from(args) {
        Ok(matches) => matches,
        Err(error) => return usage(&error),
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return usage(&error),
    };
    cli.common.color.choice().write_global();
    let ctx = Ctx::new(cli.common.home.clone());
    let mut out = Out::new(cli.common.json);
    let result = run(&ctx, &mut out, &cli.command).and_then(|()| out.flush());
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // What was printed before the failure is still data.
            let _ = out.flush();
            ExitCode::from(failure.show(cli.common.json))
        }
    }
}

/// Shows what clap has to say: help and version are data, everything else is a usage error.
fn usage(error: &clap::Error) -> ExitCode {
    // Whoever closed the stream does not want to read it.
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_USAGE),
    }
}

/// Finds `--color` by itself, because an error of the parser has to be coloured too.
fn color_before_parsing(args: &[OsString]) -> clap::ColorChoice {
    let texts: Vec<&str> = args.iter().filter_map(|a| a.to_str()).collect();
    let value = texts.iter().enumerate().find_map(|(i, text)| match text.strip_prefix("--color") {
        Some("") => texts.get(i + 1).copied(),
        Some(rest) => rest.strip_prefix('='),
        None => None,
    });
    match value {
        Some("always") => clap::ColorChoice::Always,
        Some("never") => clap::ColorChoice::Never,
        _ => clap::ColorChoice::Auto,
    }
}

fn run(ctx: &Ctx, out: &mut Out, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Init(args) => cmd::init::run(ctx, out, args),
        Command::Recover(args) => cmd::recover::run(ctx, out, args),
        Command::Services => cmd::services::run(out),
        Command::Completions { shell } => cmd::shell::completions(out, *shell),
        Command::Man { dir } => cmd::shell::man(out, dir.as_deref()),
        Command::Serve(what) => serve(ctx, what),
        Command::Job(what) => cmd::job::run(ctx, &what.job),
        Command::Bus { verb } => block_on(cmd::bus::run(ctx, out, verb)),
        other => block_on(cmd::online(ctx, out, other)),
    }
}

fn block_on(future: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::bug(format!("the executor cannot be started: {e}")))?;
    let result = runtime.block_on(future);
    // A thread that reads standard input may never end.
    runtime.shutdown_background();
    result
}

/// Becomes a service, by way of a link name, so that it looks the same in a process list however it was started.
fn serve(ctx: &Ctx, what: &ServeWhat) -> Result<(), Failure> {
    let name = &what.service;
    if app().service(name).is_none() {
        return Err(Failure::service_unknown(name, &names()));
    }
    let home = ctx.home()?;
    let error = std::process::Command::new(ctx.exe()?)
        .arg0(format!("mirror-{name}"))
        .env("MIRROR_HOME", home.root())
        .exec();
    Err(Failure::bug(format!("{name} cannot be started: {error}")))
}

fn names() -> String {
    app().services.iter().map(|s| s.decl.name).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(args: &[&str], link: Option<&str>) {
        let args: Vec<OsString> = args.iter().map(OsString::from).collect();
        assert_eq!(link_name(&args).as_deref(), link, "{args:?}");
    }

    #[test]
    fn the_link_name_says_which_service_a_process_is() {
        check(&["/home/x/.mirror/bin/mirror-bus"], Some("bus"));
        check(&["mirror-vault-indexer"], Some("vault-indexer"));
        check(&["/home/x/.mirror/bin/mirror", "bus"], None);
        check(&["target/debug/mirror"], None);
        check(&[], None);
    }

    #[test]
    fn the_colour_of_a_usage_error_is_found_before_it_is_one() {
        let find = |args: &[&str]| color_before_parsing(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(find(&["mirror", "--color=never", "x"]), clap::ColorChoice::Never);
        assert_eq!(find(&["mirror", "x", "--color", "always"]), clap::ColorChoice::Always);
        assert_eq!(find(&["mirror", "--colorful"]), clap::ColorChoice::Auto);
        assert_eq!(find(&["mirror", "--color"]), clap::ColorChoice::Auto);
    }
}
