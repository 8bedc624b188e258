//! The command line: `llm-batch run` and `llm-batch simulate`.

mod args;
mod backup;
mod compose;
mod console;
mod destination;
mod dry_run;
mod ending;
mod events;
mod exit;
mod input;
mod learned;
mod lock;
mod model;
mod output;
mod pauses;
mod prices;
mod resume;
mod run;
mod schema;
mod signals;
mod simulate;
mod source;
mod stdout;
mod stopping;
mod tally;
mod template;
mod times;
mod writer;

use std::process::ExitCode;

use clap::Parser as _;
use tokio::runtime::Runtime;
use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::console::Console;
use crate::exit::{USAGE, UsageError};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = Console::default();
    let quiet = matches!(&cli.command, Command::Run(args) if args.reporting.quiet);
    log_to(&console, quiet);
    let result = match &cli.command {
        Command::Run(args) => run::main(args, &console),
        Command::Simulate(args) => simulate::main(args),
    };
    match result {
        Ok(exit) => exit.into(),
        Err(error) => {
            console.line(format_args!("error: {error}"));
            ExitCode::from(USAGE)
        }
    }
}

/// Log records go to standard error: warnings, or what `RUST_LOG` says.
fn log_to(console: &Console, quiet: bool) {
    // A gate that pauses is at its ordinary work; the bar shows it, and the summary counts it.
    let default = if quiet {
        "error"
    } else {
        "warn,llm_batch::rate_limiter=error"
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(console.clone())
        .without_time()
        .with_target(false)
        .init();
}

/// The runtime for either command.
fn runtime() -> Result<Runtime, UsageError> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| UsageError::new(format!("the runtime cannot start: {error}")))
}
