//! What memory held at the end of a run, and how often experts were used: a list of numbers, no weights.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smoke_core::UnitId;
use smoke_predict::{RoutedUnit, Schedule};
use smoke_prefetch::Streamer;

const VERSION: u32 = 1;
/// Passes that are remembered: what was counted in more counts as in so many.
const MOST_PASSES: f64 = 1000.0;
/// How many passes an even share is worth beside what was counted.
const PRIOR: f64 = 16.0;

/// The list of one run, which the next one begins with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Held {
    version: u32,
    /// The model's fingerprint.
    model: u64,
    /// The fingerprint of its division into units.
    division: u64,
    /// Units that were in memory, those first that are worth most.
    units: Vec<u32>,
    /// Passes through the model in which experts were counted.
    passes: f64,
    /// In how many of them each expert was used, by its unit.
    uses: BTreeMap<u32, f64>,
}

impl Held {
    /// What `streamer` holds, and what it has counted since its statistics were reset, beside what was counted `before`.
    pub(crate) fn now(
        model: u64,
        streamer: &Streamer,
        schedule: &Schedule,
        routed: &[RoutedUnit],
        before: Option<&Self>,
    ) -> Self {
        let (mut passes, mut uses) = (0.0, BTreeMap::new());
        if let Some(before) = before.filter(|before| before.passes > 0.0) {
            let kept = (MOST_PASSES / before.passes).min(1.0);
            passes = before.passes * kept;
            uses.extend(before.uses.iter().map(|(&unit, &count)| (unit, count * kept)));
        }
        // A pass comes by the first router once for each of its places in the schedule.
        let router = routed.first().and_then(|first| schedule.cycle.get(first.place)).copied();
        let places = schedule.cycle.iter().filter(|&&unit| Some(unit) == router).count().max(1);
        let mut is_expert = vec![false; streamer.units().len()];
        routed.iter().for_each(|expert| is_expert[expert.unit.index()] = true);
        for unit in streamer.trace() {
            if is_expert[unit.index()] {
                *uses.entry(unit.0).or_default() += 1.0;
            } else if Some(unit) == router {
                passes += 1.0 / places as f64;
            }
        }
        let mut held =
            Self { version: VERSION, model, division: streamer.units().fingerprint(), units: Vec::new(), passes, uses };
        let mut experts: Vec<(UnitId, f32)> = held.rates(routed);
        experts.sort_by(|a, b| b.1.total_cmp(&a.1));
        let in_order = schedule.cycle.iter().copied().chain(experts.into_iter().map(|(unit, _)| unit));
        let mut is_listed = vec![false; is_expert.len()];
        let residency = streamer.cache().residency();
        held.units = in_order
            .filter(|&unit| residency.contains(unit) && !std::mem::replace(&mut is_listed[unit.index()], true))
            .map(|unit| unit.0)
            .collect();
        held
    }

    /// Reads what [`to_bytes`](Self::to_bytes) wrote, of the same model in the same `division` into so many units.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn from_bytes(bytes: &[u8], model: u64, division: u64, units: usize) -> Result<Self, String> {
        let held: Self = serde_json::from_slice(bytes).map_err(|error| format!("it cannot be read: {error}"))?;
        if held.version != VERSION {
            return Err(format!("it is of version {}, and this program reads version {VERSION}", held.version));
        }
        if held.model != model {
            return Err("it is of another model".to_owned());
        }
        if held.division != division {
            return Err("its units have other sizes or places".to_owned());
        }
        let is_count = |count: f64| count.is_finite() && count >= 0.0;
        let mut numbers = held.units.iter().chain(held.uses.keys());
        if numbers.any(|&unit| unit as usize >= units)
            || !is_count(held.passes)
            || !held.uses.values().copied().all(is_count)
        {
            return Err("it names units or counts that cannot be".to_owned());
        }
        Ok(held)
    }

    /// As JSON.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The units that were in memory, those first that are worth most.
    pub(crate) fn units(&self) -> impl Iterator<Item = UnitId> {
        self.units.iter().copied().map(UnitId)
    }

    /// The share of passes that used each expert, leaning to even shares where little was counted.
    pub(crate) fn rates(&self, routed: &[RoutedUnit]) -> Vec<(UnitId, f32)> {
        let rate = |&RoutedUnit { unit, share, .. }: &RoutedUnit| {
            let uses = self.uses.get(&unit.0).copied().unwrap_or(0.0);
            (unit, ((uses + PRIOR * f64::from(share)) / (self.passes + PRIOR)) as f32)
        };
        routed.iter().map(rate).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> Held {
        let uses = BTreeMap::from([(2, 48.0), (3, 0.5)]);
        Held { version: VERSION, model: u64::MAX, division: 7, units: vec![0, 2], passes: 48.0, uses }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let bytes = held().to_bytes();
        let read = |bytes: &[u8]| Held::from_bytes(bytes, u64::MAX, 7, 4);
        assert_eq!(read(&bytes).unwrap(), held());
        assert!(Held::from_bytes(&bytes, 1, 7, 4).unwrap_err().contains("another model"));
        assert!(Held::from_bytes(&bytes, u64::MAX, 8, 4).unwrap_err().contains("sizes"));
        assert!(Held::from_bytes(&bytes, u64::MAX, 7, 3).unwrap_err().contains("cannot be"));
        let text = String::from_utf8(bytes.clone()).unwrap();
        for (from, to, says) in [
            ("\"version\":1", "\"version\":2", "version 2"),
            ("\"passes\":48.0", "\"passes\":-1.0", "cannot be"),
            ("\"3\":0.5", "\"3\":-0.5", "cannot be"),
            ("[0,2]", "[0,9]", "cannot be"),
            ("[0,2]", "[0,-2]", "cannot be read"),
        ] {
            assert!(text.contains(from), "{text}");
            let error = read(text.replacen(from, to, 1).as_bytes()).unwrap_err();
            assert!(error.contains(says), "{from} to {to}: {error}");
        }
        assert!((0..bytes.len()).all(|cut| read(&bytes[..cut]).is_err()));
    }

    #[test]
    fn rates_lean_to_even_shares_where_little_was_counted() {
        let routed = [2, 3].map(|unit| RoutedUnit { unit: UnitId(unit), place: 0, share: 0.5 });
        assert_eq!(held().rates(&routed), [(UnitId(2), 56.0 / 64.0), (UnitId(3), 8.5 / 64.0)]);
        assert_eq!(Held::default().rates(&routed), [(UnitId(2), 0.5), (UnitId(3), 0.5)]);
    }
}
