//! What the runs come to: a table, a picture, or JSON.

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use smoke_replay::chart::{Chart, Scale, Series, Style};

use super::super::smoke::{number, shown, spread};
use super::{Case, Engine, Session, limit_name};

/// The runs of a whole benchmark.
pub(super) struct Report<'a> {
    pub(super) session: &'a Session<'a>,
    pub(super) engines: &'a [Engine],
    pub(super) cases: &'a [Case],
}

impl Case {
    /// What the engine's runs printed; those that ran out of memory printed nothing.
    fn reports(&self, engine: Engine) -> impl Iterator<Item = &Value> {
        self.runs.iter().filter(move |(of, _)| *of == engine).filter_map(|(_, outcome)| outcome.report.as_ref())
    }

    /// Smallest, median and largest of a figure of an engine's runs; none if all ran out of memory.
    fn spread(&self, engine: Engine, key: &str) -> Result<Option<[f64; 3]>> {
        let values = self.reports(engine).map(|run| number(run, key)).collect::<Result<Vec<_>>>()?;
        Ok((!values.is_empty()).then(|| spread(values)))
    }

    /// The median of that.
    fn median(&self, engine: Engine, key: &str) -> Result<Option<f64>> {
        Ok(self.spread(engine, key)?.map(|[_, median, _]| median))
    }

    fn peak_bytes(&self, engine: Engine) -> Option<u64> {
        self.runs.iter().filter(|(of, _)| *of == engine).filter_map(|(_, outcome)| outcome.peak_bytes).max()
    }
}

impl Report<'_> {
    /// Greedy tokens must not depend on memory.
    pub(super) fn check_tokens(&self) -> Result<()> {
        for &engine in self.engines {
            let mut tokens = self.cases.iter().flat_map(|case| case.reports(engine)).map(|run| &run["tokens"]);
            let first = tokens.next();
            ensure!(tokens.all(|other| Some(other) == first), "the tokens of {engine} depend on the memory limit");
        }
        Ok(())
    }

    /// Prints a row for each limit.
    pub(super) fn print_table(&self) -> Result<()> {
        let Session { arguments, model, model_bytes, accelerate, .. } = self.session;
        print!(
            "{}: {:.2} GB; {} prompt tokens, {} generated, {} threads, {} round(s), cold.",
            model.file_name().unwrap_or_default().to_string_lossy(),
            *model_bytes as f64 / 1e9,
            arguments.prompt,
            arguments.tokens,
            arguments.threads,
            arguments.rounds,
        );
        if let Some((_, model)) = accelerate {
            let name = model.file_name().unwrap_or_default().to_string_lossy();
            print!(" Accelerate: {name}, {} generated.", arguments.accelerate_tokens);
        }
        println!("\n");
        for (at, case) in self.cases.iter().enumerate() {
            let (titles, cells): (Vec<_>, Vec<_>) = self.row(case)?.into_iter().unzip();
            if at == 0 {
                println!("| {} |\n|{}", titles.join(" | "), "---|".repeat(titles.len()));
            }
            println!("| {} |", cells.join(" | "));
        }
        Ok(())
    }

    /// The columns' titles and what stands in them.
    fn row(&self, case: &Case) -> Result<Vec<(String, String)>> {
        let mut row = vec![("memory limit".to_owned(), limit_name(case.limit_bytes))];
        let mut add = |title: &str, cell: String| row.push((title.to_owned(), cell));
        for &engine in self.engines {
            let rate = match case.spread(engine, "tokens_per_second")? {
                Some([slowest, median, fastest]) if slowest < fastest => {
                    format!("{median:.2} ({slowest:.2}–{fastest:.2})")
                }
                Some([_, median, _]) => format!("{median:.2}"),
                None => "out of memory".to_owned(),
            };
            add(&format!("{engine}, tok/s"), rate);
        }
        let bound = spread(case.bounds.clone())[1];
        let smoke = case.median(Engine::Smoke, "tokens_per_second")?;
        if self.engines.contains(&Engine::Smoke) {
            for &other in self.engines.iter().filter(|engine| **engine != Engine::Smoke) {
                let rate = case.median(other, "tokens_per_second")?;
                add(&format!("smoke / {other}"), shown(smoke.zip(rate).map(|(smoke, rate)| smoke / rate), 2));
            }
        }
        add("bound, tok/s", shown(Some(bound), 2));
        if self.engines.contains(&Engine::Smoke) {
            add("of the bound", shown(smoke.map(|smoke| smoke / bound), 2));
            // Of what the disk and the processor allow, as fast as they were during the run.
            add("by the run's own rates", shown(case.median(Engine::Smoke, "share_of_bound")?, 2));
        }
        add("predicted", shown(Some(spread(case.predictions.clone())[1]), 2));
        let names = self.engines.iter().map(Engine::to_string).collect::<Vec<_>>().join(", ");
        let of_each = |figure: &dyn Fn(Engine) -> Result<String>| {
            self.engines.iter().map(|&engine| figure(engine)).collect::<Result<Vec<_>>>().map(|cells| cells.join(", "))
        };
        let first_token = of_each(&|engine| {
            // Some begin to read when the model is loaded, others with the prompt.
            let load = case.median(engine, "load_seconds")?;
            let seconds = load.zip(case.median(engine, "prefill_seconds")?).map(|(load, prefill)| load + prefill);
            Ok(shown(seconds, 1))
        })?;
        add(&format!("s to the first token: {names}"), first_token);
        if self.engines.contains(&Engine::Smoke) {
            let read = case.median(Engine::Smoke, "bytes_read_per_token")?;
            add("GB read per token", shown(read.map(|bytes| bytes / 1e9), 3));
        }
        let peaks = of_each(&|engine| Ok(shown(case.peak_bytes(engine).map(|bytes| (bytes / 1_000_000) as f64), 0)))?;
        add(&format!("peak MB: {names}"), peaks);
        Ok(row)
    }

    /// Tokens per second over the limit, as SVG.
    pub(super) fn picture(&self) -> Result<String> {
        let model_bytes = self.session.model_bytes as f64;
        let at = |case: &Case| if case.limit_bytes == 0 { model_bytes * 1.25 } else { case.limit_bytes as f64 };
        let bound = self.cases.iter().map(|case| (at(case), spread(case.bounds.clone())[1])).collect();
        let series = |name: &str, colour, style, points| Series { name: name.to_owned(), colour, style, points };
        let mut all = vec![series("physical bound", "#888", Style::Dashed, bound)];
        for &engine in self.engines {
            let (name, colour) = match engine {
                Engine::Smoke => ("Smoke Runtime", "#d9480f"),
                Engine::LlamaCpp => ("llama.cpp (mmap)", "#1c7ed6"),
                Engine::Accelerate => ("Accelerate (disk offload)", "#2b8a3e"),
            };
            let rates = self.cases.iter().map(|case| Ok((at(case), case.median(engine, "tokens_per_second")?)));
            let rates = rates.collect::<Result<Vec<_>>>()?;
            let points = rates.into_iter().filter_map(|(at, rate)| Some((at, rate?))).collect();
            all.push(series(name, colour, Style::Marked, points));
        }
        let chart = Chart {
            title: &self.session.model.file_name().unwrap_or_default().to_string_lossy(),
            x_label: &format!("memory limit, GB (the model: {:.2})", model_bytes / 1e9),
            x_unit: 1e9,
            y_label: "tokens per second",
            y_scale: Scale::Logarithmic,
            mark: Some(model_bytes),
            series: &all,
        };
        Ok(chart.svg())
    }

    /// Prints one JSON array: an object for each limit, with every run.
    pub(super) fn print_json(&self) -> Result<()> {
        let cases = self.cases.iter().map(|case| {
            let runs = case.runs.iter().map(|(engine, outcome)| {
                json!({ "engine": engine.to_string(), "report": outcome.report, "peak_bytes": outcome.peak_bytes })
            });
            json!({
                "limit_bytes": case.limit_bytes,
                "bound_tokens_per_second": case.bounds,
                "predicted_tokens_per_second": case.predictions,
                "runs": runs.collect::<Vec<_>>(),
            })
        });
        println!("{}", Value::Array(cases.collect()));
        Ok(())
    }
}
