use crate::sample::Sample;

/// What a pass over the weights costs, before there are any copies.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pass {
    /// Bytes that are read for each pass, because memory has no room for them.
    pub streamed_bytes: u64,
    /// Bytes of memory that copies may take at most. What they take held weights, which have to stream instead.
    pub room_bytes: u64,
    /// What the disk gives, in bytes per second.
    pub disk_bytes_per_second: f64,
    /// What a pass takes if it never waits for weights.
    pub compute_seconds: f64,
    /// Threads that read, and decode what they need not read.
    pub readers: usize,
    /// Processor cores, which computing and decoding share.
    pub cores: usize,
}

/// Copies that would make passes faster.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Offer {
    /// The memory they take, in bytes.
    pub held_bytes: u64,
    /// What is served from them in each pass, in raw bytes.
    pub served_bytes: u64,
    /// What a pass takes without them.
    pub seconds_without: f64,
    /// What a pass takes with them.
    pub seconds_with: f64,
    /// What making them costs once, in seconds, if nothing else goes on meanwhile.
    pub seconds_to_make: f64,
}

impl Offer {
    /// Whether they save more in so many passes than making them costs.
    pub fn pays_within(&self, passes: usize) -> bool {
        (self.seconds_without - self.seconds_with) * passes as f64 > self.seconds_to_make
    }
}

/// Copies that are longer than this share of the original save too little to be worth the trouble.
pub const MAX_RATIO: f64 = 0.95;

/// A gain that is smaller than this share of the time is not told from noise.
const LEAST_GAIN: f64 = 0.05;

impl Pass {
    /// Whether the disk is waited for: else no copies can help.
    pub fn waits(&self) -> bool {
        self.streamed_bytes as f64 > self.disk_bytes_per_second * self.compute_seconds
    }

    /// The copies that make a pass the shortest. `None` if decoding is not faster than the disk, or the pass would not
    /// become a twentieth shorter.
    ///
    /// Of *S* bytes that stream, *x* bytes of memory for copies that are compressed to the share *r* serve *x/r*, but what lay
    /// in that memory streams, too: `S - x (1/r - 1)` are read. A thread that decodes does not read meanwhile, and takes
    /// processor time from the products. With *D* for the disk, *d* for one thread that decodes and *C* for the products, a
    /// pass takes the longer of
    ///
    /// - `(S - x (1/r - 1)) / D + x / (r d readers)` to have the weights,
    /// - `C + x / (r d cores)` to multiply by them.
    ///
    /// The first is too long where the disk goes on beside threads that decode: copies are offered too seldom rather than
    /// too often.
    pub fn offer(&self, sample: &Sample) -> Option<Offer> {
        let Costs { less, more } = self.costs(sample);
        if self.decoders(self.readers) * sample.decode_bytes_per_second <= self.disk_bytes_per_second || less <= 0.0 {
            return None;
        }
        // Where having the weights takes as long as multiplying by them.
        let balance = (self.streamed_bytes as f64 / self.disk_bytes_per_second - self.compute_seconds) / (less + more);
        self.copies(sample, balance).filter(|offer| offer.seconds_with <= offer.seconds_without * (1.0 - LEAST_GAIN))
    }

    /// As many copies as there is use and room for, whatever they cost. `None` if they would not be shorter.
    pub fn most(&self, sample: &Sample) -> Option<Offer> {
        self.copies(sample, f64::INFINITY)
    }

    /// At most so many bytes of copies.
    fn copies(&self, sample: &Sample, most_bytes: f64) -> Option<Offer> {
        if sample.ratio >= MAX_RATIO {
            return None;
        }
        let Costs { less, more } = self.costs(sample);
        // With more there would be copies of more than what streams.
        let everything = self.streamed_bytes as f64 * sample.ratio / (1.0 - sample.ratio);
        let held = most_bytes.min(everything).min(self.room_bytes as f64);
        let served = held / sample.ratio;
        let read_seconds = self.streamed_bytes as f64 / self.disk_bytes_per_second;
        (held >= 1.0).then(|| Offer {
            held_bytes: held as u64,
            served_bytes: served as u64,
            seconds_without: read_seconds.max(self.compute_seconds),
            seconds_with: (read_seconds - held * less).max(self.compute_seconds + held * more),
            // What is copied is read once more, and so may be what changes places with it.
            seconds_to_make: (served + held) / self.disk_bytes_per_second + served / sample.compress_bytes_per_second,
        })
    }

    fn costs(&self, sample: &Sample) -> Costs {
        let decoding = |threads| 1.0 / (sample.ratio * sample.decode_bytes_per_second * self.decoders(threads));
        Costs {
            less: (1.0 / sample.ratio - 1.0) / self.disk_bytes_per_second - decoding(self.readers),
            more: decoding(self.cores),
        }
    }

    /// How many of so many threads decode at once.
    fn decoders(&self, threads: usize) -> f64 {
        threads.min(self.cores).max(1) as f64
    }
}

/// What a byte of copies changes, in seconds.
struct Costs {
    /// What it takes off the time to have the weights.
    less: f64,
    /// What it adds to the time to multiply by them.
    more: f64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SAMPLE: Sample = Sample { ratio: 0.68, compress_bytes_per_second: 0.4e9, decode_bytes_per_second: 2.0e9 };
    const PASS: Pass = Pass {
        streamed_bytes: 500_000_000,
        room_bytes: 450_000_000,
        disk_bytes_per_second: 0.3e9,
        compute_seconds: 0.1,
        readers: 2,
        cores: 2,
    };

    #[test]
    fn a_slow_disk_makes_copies_worth_it_and_a_fast_one_does_not() {
        let offer = PASS.offer(&SAMPLE).unwrap();
        // All the room is taken. 662 MB are served; 950 MB would stream, 288 MB of which are read, in 0.96 s.
        assert_eq!((offer.held_bytes, offer.served_bytes), (450_000_000, 661_764_705));
        assert!((offer.seconds_without - 5.0 / 3.0).abs() < 1e-9, "{offer:?}");
        assert!((offer.seconds_with - (0.288_235_3 / 0.3 + 0.661_764_7 / 4.0)).abs() < 1e-6, "{offer:?}");
        // 1.1 GB at the disk's rate and 0.66 GB at the compressor's, where 0.54 s are saved each time.
        assert!(offer.pays_within(10) && !offer.pays_within(9), "{offer:?}");
        for pass in [
            Pass { disk_bytes_per_second: 2.8e9, ..PASS },
            Pass { disk_bytes_per_second: 4.1e9, ..PASS },
            // The products are what is waited for.
            Pass { compute_seconds: 1.7, ..PASS },
            Pass { compute_seconds: 1.6, ..PASS },
            Pass { streamed_bytes: 0, ..PASS },
            Pass { room_bytes: 10_000_000, ..PASS },
        ] {
            assert_eq!(pass.offer(&SAMPLE), None, "{pass:?}");
        }
        assert_eq!(PASS.offer(&Sample { ratio: 0.95, ..SAMPLE }), None);
        assert_eq!(PASS.most(&Sample { ratio: 0.95, ..SAMPLE }), None);
        // All that streams may be in copies, and no more.
        let most = Pass { room_bytes: u64::MAX, compute_seconds: 9.0, ..PASS }.most(&SAMPLE).unwrap();
        assert!(most.served_bytes.abs_diff(PASS.streamed_bytes + most.held_bytes) <= 2, "{most:?}");
        assert_eq!(PASS.offer(&Sample { decode_bytes_per_second: 0.14e9, ..SAMPLE }), None);
    }

    /// What a pass with so many bytes of copies takes, as the rule says.
    fn seconds(pass: &Pass, sample: &Sample, held: f64) -> f64 {
        let served = held / sample.ratio;
        let read = pass.streamed_bytes as f64 + held - served;
        let decoding = |threads: usize| served / (sample.decode_bytes_per_second * threads as f64);
        (read / pass.disk_bytes_per_second + decoding(pass.readers.min(pass.cores)))
            .max(pass.compute_seconds + decoding(pass.cores))
    }

    proptest! {
        #[test]
        fn no_other_share_is_better(
            streamed in 1..2_000_u64,
            room in 1..2_000_u64,
            disk in 1..3_000_u32,
            compute in 0.0..3.0_f64,
            readers in 1..4_usize,
            cores in 1..8_usize,
            ratio in 0.2..1.1_f64,
            decode in 50..3_000_u32,
        ) {
            let pass = Pass {
                streamed_bytes: streamed * 1_000_000,
                room_bytes: room * 1_000_000,
                disk_bytes_per_second: f64::from(disk) * 1e6,
                compute_seconds: compute,
                readers,
                cores,
            };
            let sample = Sample { ratio, compress_bytes_per_second: 1e9, decode_bytes_per_second: f64::from(decode) * 1e6 };
            let (without, offer) = (seconds(&pass, &sample, 0.0), pass.offer(&sample));
            if let Some(offer) = offer {
                prop_assert!(offer.held_bytes <= pass.room_bytes);
                prop_assert!(offer.served_bytes <= pass.streamed_bytes + offer.held_bytes + 1);
                prop_assert!((offer.seconds_without - without).abs() < 1e-6);
                prop_assert!((offer.seconds_with - seconds(&pass, &sample, offer.held_bytes as f64)).abs() < 1e-6);
            }
            let least = offer.map_or(without * (1.0 - LEAST_GAIN), |offer| offer.seconds_with);
            let everything = pass.streamed_bytes as f64 * ratio / (1.0 - ratio).max(1e-9);
            if ratio < MAX_RATIO {
                for step in 1..=50 {
                    let held = everything.min(pass.room_bytes as f64) * f64::from(step) / 50.0;
                    prop_assert!(seconds(&pass, &sample, held) > least - 1e-6, "{held} bytes: {offer:?}");
                }
            }
        }
    }
}
