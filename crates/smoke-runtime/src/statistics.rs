use std::time::Duration;

use smoke_prefetch::SpeculationStats;

use crate::compressed::Weighed;
use crate::experts::ExpertScore;
use crate::probe::Limit;

/// What a generation did and what it cost.
#[derive(Clone, Debug, Default, PartialEq)]
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
    /// Bytes read from the disk, those of the prompt's passes included.
    pub bytes_read: u64,
    /// Bytes read per token after the first.
    pub bytes_read_per_token: u64,
    /// The least that any policy can read per token in the memory left for weights, decoding without end.
    pub min_bytes_read_per_token: u64,
    /// The share of the bytes used that were in memory since their last use. What is decoded from a compressed copy was not.
    pub byte_hit_rate: f64,
    /// The most that any policy could have reached, knowing the future (Belady's MIN, on bytes), in all the memory that weights
    /// had before there were compressed copies.
    pub min_byte_hit_rate: f64,
    /// The share of uses that found their unit in memory, whether kept or read ahead.
    pub on_time_rate: f64,
    /// Time that the computation waited for weights.
    pub stall: Duration,
    /// What of it fell to the tokens after the first.
    pub decode_stall: Duration,
    /// Time, after the first token, in which the disk was reading.
    pub decode_reading: Duration,
    /// Bytes read after the first token.
    pub decode_bytes_read: u64,
    /// What was measured of compressed copies and what was made of it; `None` where there are none to be, or where that
    /// was not asked yet.
    pub copies: Option<Weighed>,
    /// Bytes of memory that compressed copies take.
    pub compressed_bytes: u64,
    /// Bytes of weights that they hold.
    pub copied_bytes: u64,
    /// Bytes that were decoded from them and not read.
    pub decompressed_bytes: u64,
    /// What of the time after the first token decoding them takes if all cores do nothing else, by the rate that was measured.
    pub decode_decompressing: Duration,
    /// What became of reads whose use was not certain.
    pub speculation: SpeculationStats,
    /// How well the experts of the next layers were predicted, one and two layers ahead: by the predictor in use, then by
    /// those that it is compared with. Empty where nothing was to be predicted: without experts, or without a predictor.
    /// Nothing is counted while all weights are in memory.
    pub experts: Vec<ExpertScore>,
}

/// How near decoding came to what the disk and the processor, as fast as they were meanwhile, allow.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Achieved {
    /// Tokens per second if nothing were read but what the memory has no room for, the disk were never idle, and reading
    /// and computing overlapped wholly. Compressed copies are as they are: decoding them is part of computing.
    pub bound_tokens_per_second: f64,
    /// The share of it that was reached, in [0, 1]; too high where copies were decoded, since the time of the products has
    /// some of the decoding in it already.
    pub share: f64,
    /// What limits the bound.
    pub limit: Limit,
    /// Bytes per second while the disk was reading; `None` if it never was.
    pub disk_bytes_per_second: Option<f64>,
    /// The share of the time that went to reads beyond the least possible. Counts where the disk is the limit.
    pub excess_reads: f64,
    /// The share of the time in which nothing was being read. Counts where the disk is the limit.
    pub disk_idle: f64,
    /// The share of the time in which the computation waited for weights. Counts where the computation is the limit.
    pub waiting: f64,
}

impl Statistics {
    /// Tokens per second after the first, or zero where there is no second.
    pub fn tokens_per_second(&self) -> f64 {
        if self.decode.is_zero() { 0.0 } else { (self.generated_tokens.max(1) - 1) as f64 / self.decode.as_secs_f64() }
    }

    /// How near to the bound that was, and where the rest went; `None` where there is no second token.
    pub fn achieved(&self) -> Option<Achieved> {
        let tokens = self.generated_tokens.checked_sub(1).filter(|&tokens| tokens > 0)? as f64;
        let times = [self.decode, self.decode_stall, self.decode_reading, self.decode_decompressing];
        let [time, stall, reading, decompressing] = times.map(|time| time.as_secs_f64());
        if time <= 0.0 {
            return None;
        }
        let rate = (reading > 0.0).then(|| self.decode_bytes_read as f64 / reading);
        let seconds_for = |bytes: f64| rate.map_or(0.0, |rate| bytes / rate);
        let least = (self.min_bytes_read_per_token as f64 * tokens).min(self.decode_bytes_read as f64);
        let (disk, compute) = (seconds_for(least), ((time - stall).max(0.0) + decompressing).min(time));
        let bound = disk.max(compute);
        Some(Achieved {
            bound_tokens_per_second: tokens / bound,
            share: bound / time,
            limit: if disk > compute { Limit::Disk } else { Limit::Compute },
            disk_bytes_per_second: rate,
            excess_reads: seconds_for(self.decode_bytes_read as f64 - least) / time,
            disk_idle: (1.0 - reading / time).max(0.0),
            waiting: stall / time,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(decode: u64, stall: u64, reading: u64, bytes: u64, least: u64) -> Statistics {
        Statistics {
            generated_tokens: 11,
            decode: Duration::from_secs(decode),
            decode_stall: Duration::from_secs(stall),
            decode_reading: Duration::from_secs(reading),
            decode_bytes_read: bytes,
            min_bytes_read_per_token: least,
            ..Statistics::default()
        }
    }

    #[test]
    fn a_disk_that_idles_and_reads_too_much_is_named() {
        // 80 bytes in 8 of 10 seconds: 10 bytes per second; the 60 that are needed would take 6 seconds.
        let achieved = statistics(10, 7, 8, 80, 6).achieved().unwrap();
        assert_eq!(achieved.limit, Limit::Disk);
        assert!((achieved.share - 0.6).abs() < 1e-9 && (achieved.bound_tokens_per_second - 10.0 / 6.0).abs() < 1e-9);
        assert!((achieved.excess_reads - 0.2).abs() < 1e-9 && (achieved.disk_idle - 0.2).abs() < 1e-9);
    }

    #[test]
    fn where_everything_fits_only_waiting_is_lost() {
        let achieved = statistics(10, 1, 0, 0, 0).achieved().unwrap();
        assert_eq!((achieved.limit, achieved.disk_bytes_per_second), (Limit::Compute, None));
        assert!((achieved.share - 0.9).abs() < 1e-9 && (achieved.waiting - 0.1).abs() < 1e-9);
    }

    #[test]
    fn decoding_copies_is_work() {
        let decoding =
            |seconds| Statistics { decode_decompressing: Duration::from_secs(seconds), ..statistics(10, 7, 8, 80, 1) };
        // 3 seconds of products and 4 of decoding, where the disk would need 1.
        let achieved = decoding(4).achieved().unwrap();
        assert_eq!(achieved.limit, Limit::Compute);
        assert!((achieved.share - 0.7).abs() < 1e-9, "{achieved:?}");
        assert!((decoding(40).achieved().unwrap().share - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_token_has_no_rate() {
        assert_eq!(Statistics { generated_tokens: 1, ..Statistics::default() }.achieved(), None);
    }
}
