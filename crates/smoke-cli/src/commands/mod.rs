//! The subcommands, one file each.

mod inspect;
mod pack;
mod plan;
mod run;
pub(crate) mod trace;

use std::error::Error;

use smoke_runtime::{ByteSize, Runtime, RuntimeError};

pub(crate) use inspect::inspect;
pub(crate) use pack::pack;
pub(crate) use plan::plan;
pub(crate) use run::run;

use crate::arguments::ModelArguments;
use crate::report::spinner;

/// What a subcommand returns.
pub(crate) type Result = std::result::Result<(), Box<dyn Error>>;

/// Opens the model under a budget.
fn open(model: &ModelArguments, memory: ByteSize, policy: &str) -> std::result::Result<Runtime, RuntimeError> {
    let opening = spinner(format!("opening {}", model.model.display()));
    let builder = Runtime::builder(&model.model).memory_bytes(memory.bytes()).device(model.device);
    let runtime = builder.policy_name(policy).open();
    opening.finish_and_clear();
    runtime
}

/// Opens the model with room for all of it, to look at it.
fn open_everything(model: &ModelArguments) -> std::result::Result<Runtime, RuntimeError> {
    Runtime::builder(&model.model).device(model.device).open()
}
