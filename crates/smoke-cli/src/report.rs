//! What people read: everything here goes to standard error, or to standard output when it is what was asked for.

use std::error::Error;
use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use smoke_hub::Progress;
use smoke_runtime::{ByteSize, Weighed};

/// Prints an error with its causes.
pub(crate) fn error(error: &(dyn Error + 'static)) {
    print("error", error);
}

/// Prints the same of what is no failure.
pub(crate) fn note(error: &(dyn Error + 'static)) {
    print("note", error);
}

fn print(what: &str, error: &(dyn Error + 'static)) {
    eprintln!("{what}: {error}");
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Errors that quote their cause have said it already.
        if !said.contains(&text) {
            eprintln!("  because: {text}");
        }
        said = text;
        cause = error.source();
    }
}

/// Shows that something is going on, on a terminal; silent elsewhere.
pub(crate) fn spinner(message: impl Into<String>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner().with_message(message.into());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Shows how far something is, in bytes.
pub(crate) fn bytes_bar(total_bytes: u64, message: impl Into<String>) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::new(total_bytes).with_message(message.into());
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Shows files that are fetched, one bar after the other on a terminal, one line each elsewhere.
#[derive(Debug, Default)]
pub(crate) struct FetchBars {
    current: Option<(String, ProgressBar)>,
}

impl FetchBars {
    pub(crate) fn show(&mut self, progress: &Progress<'_>) {
        let (file, bytes) = (progress.file, progress.total_bytes);
        match &self.current {
            Some((current, bar)) if current == file => bar.set_position(progress.done_bytes),
            _ => {
                self.finish();
                if !std::io::stderr().is_terminal() {
                    eprintln!("fetching {file}, {}", ByteSize(bytes));
                }
                // What an earlier run fetched says nothing about the speed of this one.
                let bar = bytes_bar(bytes, file).with_position(progress.done_bytes);
                bar.reset_eta();
                self.current = Some((file.to_owned(), bar));
            }
        }
    }

    /// Leaves the bar of the last file as it is.
    pub(crate) fn finish(&mut self) {
        if let Some((_, bar)) = self.current.take() {
            bar.abandon();
        }
    }
}

/// A share as a percentage.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// What a codec makes of the weights.
pub(crate) fn of_codec(Weighed { codec, sample, .. }: &Weighed) -> String {
    let rate = ByteSize(sample.decode_bytes_per_second as u64);
    format!("{codec} makes {} of them, and decodes {rate}/s in each thread", percent(sample.ratio))
}

pub(crate) fn weighed_json(Weighed { codec, sample, offer, .. }: &Weighed) -> serde_json::Value {
    json!({
        "codec": codec,
        "ratio": sample.ratio,
        "compress_bytes_per_second": sample.compress_bytes_per_second,
        "decode_bytes_per_second": sample.decode_bytes_per_second,
        "offered_bytes": offer.map_or(0, |offer| offer.served_bytes),
        "seconds_without": offer.map(|offer| offer.seconds_without),
        "seconds_with": offer.map(|offer| offer.seconds_with),
    })
}
