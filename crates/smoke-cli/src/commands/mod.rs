//! The subcommands, one file each.

mod convert;
mod embed;
mod inspect;
mod pack;
mod plan;
mod run;
pub(crate) mod trace;

use std::error::Error;

use smoke_runtime::{Runtime, RuntimeBuilder, RuntimeError};

pub(crate) use convert::convert;
pub(crate) use embed::embed;
pub(crate) use inspect::inspect;
pub(crate) use pack::pack;
pub(crate) use plan::plan;
pub(crate) use run::run;

use crate::arguments::{MemoryArguments, ModelArguments};
use crate::report::spinner;

/// What a subcommand returns.
pub(crate) type Result = std::result::Result<(), Box<dyn Error>>;

/// Opens the model under a budget; `choose` sets what else is to be set.
fn open(
    model: &ModelArguments,
    memory: &MemoryArguments,
    choose: impl FnOnce(RuntimeBuilder) -> RuntimeBuilder,
) -> std::result::Result<Runtime, RuntimeError> {
    let opening = spinner(format!("opening {}", model.model.display()));
    let builder = choose(Runtime::builder(&model.model).device(model.device));
    let builder = builder.memory_bytes(memory.memory.bytes()).kv_encoding(memory.kv_cache);
    let builder = memory.place.iter().cloned().fold(builder, |builder, rule| builder.place(rule));
    let builder = builder.device_memory_bytes(memory.device_memory.bytes());
    let runtime = builder.dtypes(memory.dtype.iter().cloned().collect()).open();
    opening.finish_and_clear();
    runtime
}

/// Opens the model with room for all of it, to look at it.
fn open_everything(model: &ModelArguments) -> std::result::Result<Runtime, RuntimeError> {
    Runtime::builder(&model.model).device(model.device).open()
}
