use std::time::Duration;

/// What a generation did and what it cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Statistics {
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Tokens generated.
    pub generated_tokens: usize,
    /// Time from the start to the first token.
    pub prefill: Duration,
    /// Time from the first token to the last.
    pub decode: Duration,
    /// Bytes of all weights as stored.
    pub model_bytes: u64,
    /// The limit on memory.
    pub budget_bytes: u64,
    /// The most memory that was held at any time since the model was opened.
    pub peak_bytes: u64,
    /// Bytes read, those of the prompt's passes included.
    pub bytes_read: u64,
    /// Bytes read per token after the first.
    pub bytes_read_per_token: u64,
    /// The least that any policy can read per token in the memory left for weights, decoding without end.
    pub min_bytes_read_per_token: u64,
    /// The share of the bytes used that were in memory since their last use.
    pub byte_hit_rate: f64,
    /// The most that any policy could have reached, knowing the future (Belady's MIN, on bytes).
    pub min_byte_hit_rate: f64,
    /// The share of uses that found their unit in memory, whether kept or read ahead.
    pub on_time_rate: f64,
    /// Time that the computation waited for weights.
    pub stall: Duration,
}

impl Statistics {
    /// Tokens per second after the first, or zero where there is no second.
    pub fn tokens_per_second(&self) -> f64 {
        if self.decode.is_zero() { 0.0 } else { (self.generated_tokens.max(1) - 1) as f64 / self.decode.as_secs_f64() }
    }
}
