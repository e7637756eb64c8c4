//! `smoke`: runs language models larger than memory.

mod arguments;
mod commands;
mod report;

use std::process::ExitCode;

use clap::Parser;

use crate::arguments::{Arguments, Command};

fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Run(arguments) => commands::run(&arguments),
        Command::Inspect(arguments) => commands::inspect(&arguments),
        Command::Plan(arguments) => commands::plan(&arguments),
        Command::Pack(arguments) => commands::pack(&arguments),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::error(&*error);
            ExitCode::FAILURE
        }
    }
}
