//! `smoke`: runs language models larger than memory.

mod arguments;
mod commands;
mod report;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => commands::run(&arguments),
        Command::Embed(arguments) => commands::embed(&arguments),
        Command::Inspect(arguments) => commands::inspect(&arguments),
        Command::Plan(arguments) => commands::plan(&arguments),
        Command::Pack(arguments) => commands::pack(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, as `head` has.
        Err(error) if is_closed_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&*error);
            ExitCode::FAILURE
        }
    }
}
