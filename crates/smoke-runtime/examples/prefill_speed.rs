//! How fast a prompt goes through a model whose weights are in memory: tokens per second of several prompts in turn.
//!
//! `cargo run --release -p smoke-runtime --example prefill_speed -- MODEL [TOKENS] [THREADS]`. The first prompt reads the
//! weights, and is not counted.

use smoke_runtime::{GenerateOptions, Prompt, Runtime};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let model = arguments.next().ok_or("name a model")?;
    let tokens: u32 = arguments.next().map_or(Ok(64), |tokens| tokens.parse())?;
    let threads = arguments.next().map_or(Ok(2), |threads| threads.parse())?;
    smoke_runtime::set_threads(threads)?;
    let runtime = Runtime::builder(model).open()?;
    let options = GenerateOptions { max_tokens: 1, ..GenerateOptions::default() };
    for _ in 0..4 {
        let mut generation = runtime.generate(Prompt::Tokens((10..10 + tokens).collect()), options.clone())?;
        generation.by_ref().collect::<std::result::Result<Vec<_>, _>>()?;
        let statistics = generation.statistics();
        let rate = f64::from(tokens) / statistics.prefill.as_secs_f64();
        println!("{rate:.1} tokens/s, {} MB read", statistics.bytes_read / 1_000_000);
    }
    Ok(())
}
