//! `smoke embed`

use std::io::{BufRead, Write};
use std::time::Instant;

use serde_json::json;
use smoke_runtime::{ByteSize, EmbedOptions, Embedder, Length, TooLong};

use super::{Result, open};
use crate::arguments::EmbedArguments;

/// Lines of standard input that go through the model together.
const LINES: usize = 256;

/// Turns texts into vectors.
pub(crate) fn embed(arguments: &EmbedArguments) -> Result {
    if let Some(threads) = arguments.threads {
        smoke_runtime::set_threads(threads.get())?;
    }
    let runtime = open(&arguments.model, &arguments.memory, |builder| builder)?;
    let embedder = runtime.embedder(EmbedOptions {
        too_long: if arguments.truncate { TooLong::Cut } else { TooLong::Refuse },
        length: arguments.normalize.then_some(Length::One),
        ..Default::default()
    })?;
    let start = Instant::now();
    let mut done = 0;
    if arguments.texts.is_empty() {
        let mut lines = std::io::stdin().lock().lines();
        loop {
            let texts = lines.by_ref().take(LINES).collect::<std::io::Result<Vec<_>>>()?;
            if texts.is_empty() {
                break;
            }
            write(&embedder, &texts, arguments.model.json)?;
            done += texts.len();
        }
    } else {
        write(&embedder, &arguments.texts, arguments.model.json)?;
        done = arguments.texts.len();
    }
    let streamer = runtime.weights().streamer();
    eprintln!(
        "{done} texts in {:.2} s, memory peak {} of {}, {} read",
        start.elapsed().as_secs_f64(),
        ByteSize(streamer.budget().peak_bytes()),
        ByteSize(streamer.budget().limit_bytes()),
        ByteSize(streamer.stats().bytes_read)
    );
    Ok(())
}

/// A line for each text.
fn write(embedder: &Embedder<'_>, texts: &[String], as_json: bool) -> Result {
    let vectors = embedder.embed(texts)?;
    let mut out = std::io::stdout().lock();
    for (text, vector) in texts.iter().zip(vectors) {
        if as_json {
            writeln!(out, "{}", json!({ "text": text, "embedding": vector }))?;
        } else {
            let numbers: Vec<String> = vector.iter().map(f32::to_string).collect();
            writeln!(out, "{}", numbers.join(" "))?;
        }
    }
    out.flush()?;
    Ok(())
}
