//! `smoke inspect`

use std::io::Write;

use serde_json::json;
use smoke_runtime::ByteSize;
use smoke_runtime::storage::{Checkpoint, ReaderKind, WeightSource};

use super::{Result, open_everything};
use crate::arguments::InspectArguments;

/// Lists tensors and units.
pub(crate) fn inspect(arguments: &InspectArguments) -> Result {
    let mut out = std::io::stdout().lock();
    let runtime = open_everything(&arguments.model);
    let checkpoint = Checkpoint::open_with(&arguments.model.model, ReaderKind::Pread)?;
    let (index, format) = (checkpoint.index(), checkpoint.metadata().format);
    // A checkpoint whose architecture is unknown has tensors, but no units.
    let units = runtime.as_ref().map(|runtime| runtime.weights().streamer().units());
    if arguments.model.json {
        let tensors = index.iter().map(|tensor| {
            json!({
                "name": tensor.name,
                "encoding": tensor.encoding.to_string(),
                "shape": tensor.shape,
                "bytes": tensor.extent.len,
                "file": index.files()[tensor.extent.file as usize].path,
                "offset": tensor.extent.offset,
            })
        });
        let units = units.as_ref().ok().map(|units| {
            units.units().map(|unit| {
                json!({ "unit": unit.0, "bytes": units.payload_bytes(unit), "reads": units.runs(unit).len() })
            }).collect::<Vec<_>>()
        });
        let tensors: Vec<_> = tensors.collect();
        writeln!(
            out,
            "{}",
            json!({ "format": format.to_string(), "model_bytes": index.total_bytes(), "tensors": tensors, "units": units })
        )?;
        return Ok(());
    }
    for tensor in index.iter() {
        let shape = tensor.shape.iter().map(u64::to_string).collect::<Vec<_>>().join(" × ");
        writeln!(
            out,
            "{:<48} {:>6} {:>20} {:>10}",
            tensor.name,
            tensor.encoding.to_string(),
            shape,
            ByteSize(tensor.extent.len).to_string()
        )?;
    }
    writeln!(
        out,
        "{format}: {} tensors, {} in {} file(s)",
        index.len(),
        ByteSize(index.total_bytes()),
        index.files().len()
    )?;
    match units {
        Ok(units) => {
            let largest = units.units().map(|unit| units.payload_bytes(unit)).max().unwrap_or(0);
            let reads: usize = units.units().map(|unit| units.runs(unit).len()).sum();
            writeln!(out, "{} units of up to {}, {reads} reads", units.len(), ByteSize(largest))?;
        }
        Err(error) => eprintln!("no units: {error}"),
    }
    Ok(())
}
