//! `smoke plan`

use std::io::Write;

use serde_json::json;
use smoke_runtime::{ByteSize, Limit};

use super::{Result, open};
use crate::arguments::PlanArguments;
use crate::report::{of_codec, spinner, weighed_json};

/// Says what stays, what streams and how fast that will be.
pub(crate) fn plan(arguments: &PlanArguments) -> Result {
    let mut out = std::io::stdout().lock();
    if let Some(threads) = arguments.threads {
        smoke_runtime::set_threads(threads.get())?;
    }
    let runtime = open(&arguments.model, &arguments.memory, |builder| builder.compressed(arguments.compressed))?;
    let plan = runtime.plan(arguments.context.get())?;
    let measuring = spinner("measuring disk and kernels");
    let probe = runtime.probe(&plan)?;
    let weighed = runtime.weigh_copies(&plan, &probe)?;
    measuring.finish_and_clear();
    let prediction = plan.predict(&probe);
    let limit = match prediction.limit {
        Limit::Disk => "disk",
        Limit::Compute => "compute",
    };
    if arguments.model.json {
        let value = json!({
            "model_bytes": plan.model_bytes,
            "budget_bytes": plan.budget_bytes,
            "minimum_bytes": plan.minimum_bytes,
            "context_tokens": plan.context_tokens,
            "kv_cache_bytes": plan.kv_cache_bytes,
            "activation_bytes": plan.activation_bytes,
            "pinned_bytes": plan.pinned_bytes,
            "streaming_bytes": plan.streaming_bytes,
            "pass_bytes": plan.pass_bytes,
            "streamed_bytes_per_token": plan.streamed_bytes,
            "units": plan.units,
            "largest_unit_bytes": plan.largest_unit_bytes,
            "disk_bytes_per_second": probe.disk_bytes_per_second,
            "compute_bytes_per_second": probe.compute_bytes_per_second,
            "disk_beside_compute_bytes_per_second": probe.disk_beside_compute_bytes_per_second,
            "compute_beside_disk_bytes_per_second": probe.compute_beside_disk_bytes_per_second,
            "tokens_per_second": prediction.tokens_per_second,
            "bound_tokens_per_second": prediction.bound_tokens_per_second,
            "limit": limit,
            "compressed": weighed.as_ref().map(weighed_json),
        });
        writeln!(out, "{value}")?;
        return Ok(());
    }
    writeln!(
        out,
        "model        {} in {} units of up to {}",
        ByteSize(plan.model_bytes),
        plan.units,
        ByteSize(plan.largest_unit_bytes)
    )?;
    writeln!(
        out,
        "budget       {} for {} tokens (smallest that works: {})",
        ByteSize(plan.budget_bytes),
        plan.context_tokens,
        ByteSize(plan.minimum_bytes)
    )?;
    writeln!(out, "  stays      {} of weights", ByteSize(plan.pinned_bytes))?;
    writeln!(out, "  streaming  {} for units on their way", ByteSize(plan.streaming_bytes))?;
    writeln!(out, "  keys/values {}, activations {}", ByteSize(plan.kv_cache_bytes), ByteSize(plan.activation_bytes))?;
    writeln!(out, "per token    {} streams from the disk", ByteSize(plan.streamed_bytes))?;
    writeln!(
        out,
        "measured     disk {}/s, kernels {}/s; together {}/s and {}/s",
        ByteSize(probe.disk_bytes_per_second as u64),
        ByteSize(probe.compute_bytes_per_second as u64),
        ByteSize(probe.disk_beside_compute_bytes_per_second as u64),
        ByteSize(probe.compute_beside_disk_bytes_per_second as u64)
    )?;
    writeln!(
        out,
        "predicted    {:.2} tok/s, limited by {limit} (bound {:.2})",
        prediction.tokens_per_second, prediction.bound_tokens_per_second
    )?;
    if let Some(weighed) = &weighed {
        let gain = weighed.offer.map_or_else(
            || "no copies".to_owned(),
            |offer| {
                format!(
                    "copies of {} in {} make that {:.2} times as fast",
                    ByteSize(offer.served_bytes),
                    ByteSize(offer.held_bytes),
                    offer.seconds_without / offer.seconds_with
                )
            },
        );
        writeln!(out, "compressed   {gain}; {}", of_codec(weighed))?;
    }
    Ok(())
}
