use std::collections::HashMap;

use smoke_core::{UnitId, UnitKind};
use smoke_predict::RoutedUnit;

use crate::trace::Trace;

/// What a trace tells of the order of its shared units and of its experts.
#[derive(Debug)]
pub(super) struct Routing {
    /// The shared units of the first pass.
    pub(super) schedule: Vec<UnitId>,
    /// The experts, of those layers that the first pass uses.
    pub(super) experts: Vec<RoutedUnit>,
}

impl Routing {
    /// A layer's experts are used after the shared unit that precedes them in the first pass. A token uses as many of them as
    /// the pass that uses the fewest: a prompt's tokens share a pass, and use more.
    pub(super) fn of(trace: &Trace) -> Self {
        let is_expert = Self::is_expert(trace);
        let layer = |unit: UnitId| is_expert[unit.index()].then(|| trace.units()[unit.index()].layer).flatten();
        let first = trace.passes().find(|pass| !pass.is_empty()).unwrap_or(trace.accesses());
        let (mut schedule, mut places) = (Vec::new(), HashMap::new());
        for &unit in first {
            match layer(unit) {
                Some(layer) => {
                    places.entry(layer).or_insert(schedule.len().saturating_sub(1));
                }
                None if is_expert[unit.index()] => {}
                None => schedule.push(unit),
            }
        }
        let used = trace.passes().flat_map(|pass| {
            let mut uses: HashMap<u32, usize> = HashMap::new();
            pass.iter().filter_map(|&unit| layer(unit)).for_each(|layer| *uses.entry(layer).or_default() += 1);
            uses.into_values()
        });
        let used = used.min().unwrap_or(1);
        let mut counts: HashMap<u32, usize> = HashMap::new();
        let all = || (0..trace.units().len() as u32).map(UnitId).filter_map(|unit| Some((unit, layer(unit)?)));
        all().for_each(|(_, layer)| *counts.entry(layer).or_default() += 1);
        let routed = |(unit, layer)| {
            let share = used as f32 / counts[&layer] as f32;
            Some(RoutedUnit { unit, place: *places.get(&layer)?, share: share.min(1.0) })
        };
        Self { schedule, experts: all().filter_map(routed).collect() }
    }

    /// By unit number.
    pub(super) fn is_expert(trace: &Trace) -> Vec<bool> {
        trace.units().iter().map(|unit| unit.kind == UnitKind::Expert).collect()
    }
}

#[cfg(test)]
mod tests {
    use smoke_core::UnitInfo;

    use super::*;

    #[test]
    fn places_and_shares_are_read_off_the_passes() {
        let unit = |layer, kind| UnitInfo { bytes: 10, layer, kind };
        let mut units = vec![unit(None, UnitKind::Shared); 3];
        units.extend([0, 0, 0, 0, 1, 1].map(|layer| unit(Some(layer), UnitKind::Expert)));
        units.push(unit(Some(2), UnitKind::Expert));
        let mut trace = Trace::new("made up", units);
        let mut pass = |steps: &[&[u32]], tokens| {
            steps.iter().for_each(|step| trace.push_step(&step.iter().copied().map(UnitId).collect::<Vec<_>>()));
            trace.end_pass(tokens);
        };
        pass(&[&[0], &[1], &[3, 4, 6], &[2], &[7, 8]], 3);
        pass(&[&[0], &[1], &[5], &[2], &[8]], 1);
        let Routing { schedule, experts } = Routing::of(&trace);
        assert_eq!(schedule, [0, 1, 2].map(UnitId));
        let expected = [(3, 1, 0.25), (4, 1, 0.25), (5, 1, 0.25), (6, 1, 0.25), (7, 2, 0.5), (8, 2, 0.5)];
        let expected = expected.map(|(unit, place, share)| RoutedUnit { unit: UnitId(unit), place, share });
        assert_eq!(experts, expected, "the experts of the layer that is never used have no place");
    }
}
