//! `smoke`: runs language models larger than memory.

mod arguments;
mod commands;
mod model;
mod report;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command, TraceCommand};

fn is_closed_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn execute(mut command: Command) -> commands::Result {
    if let Some(model) = command.model() {
        model::resolve(model)?;
    }
    match command {
        Command::Run(arguments) => commands::run(&arguments),
        Command::Embed(arguments) => commands::embed(&arguments),
        Command::Inspect(arguments) => commands::inspect(&arguments),
        Command::Plan(arguments) => commands::plan(&arguments),
        Command::Pack(arguments) => commands::pack(&arguments),
        Command::Convert(arguments) => commands::convert(&arguments),
        Command::Trace(TraceCommand::Record(arguments)) => commands::trace::record(&arguments),
        Command::Trace(TraceCommand::Show(arguments)) => commands::trace::show(&arguments),
        Command::Trace(TraceCommand::Replay(arguments)) => commands::trace::replay(&arguments),
    }
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has seen enough, as `head` has.
        Err(error) if is_closed_pipe(&*error) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&*error);
            ExitCode::FAILURE
        }
    }
}
