use std::collections::{BTreeMap, HashMap};

use smoke_core::{UnitId, UnitInfo};

use super::ranking::Ranking;
use crate::eviction::{EvictionPolicy, EvictionRequest};

/// Gives each layer a share of the bytes, and evicts within a layer what was used least recently or least often.
///
/// A layer's share is what its units are of all units. The victim comes from the layer that is furthest above its share
/// once the unit that needs room has come in: from its own layer as soon as each has filled its share. So the layers of a
/// pass do not drive out one another, and below the bytes of one token, where [`Lru`](super::Lru) hits nothing, what
/// consecutive tokens have in common still hits. Units of no layer are a group of their own. Where several units have to
/// go at once, the layers are compared as they were before the first went.
///
/// O(log n) for a use, O(layers · log n) for a victim.
#[derive(Debug)]
pub struct PerLayer {
    within: Within,
    clock: u64,
    /// By unit number: the place in `layers`. Units that are not listed are of the first.
    layer_of: Vec<usize>,
    layers: Vec<Layer>,
    unit_bytes: HashMap<UnitId, u64>,
}

/// What [`PerLayer`] evicts within a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Within {
    /// What was not used for longest.
    Recency,
    /// What was used least since it was loaded; of equals, what was not used for longest.
    Frequency,
}

#[derive(Debug, Default)]
struct Layer {
    /// The bytes of all units of the layer, loaded or not.
    all_bytes: u64,
    loaded_bytes: u64,
    /// How often each unit was used, if that counts, and when it was last.
    uses: Ranking<(u64, u64)>,
}

impl PerLayer {
    /// Divides the bytes between the layers of `units`, which are listed by number.
    pub fn new(units: &[UnitInfo], within: Within) -> Self {
        let mut places = BTreeMap::from([(None, 0)]);
        let mut layers = vec![Layer::default()];
        let mut layer_of = Vec::with_capacity(units.len());
        for unit in units {
            let place = *places.entry(unit.layer).or_insert_with(|| {
                layers.push(Layer::default());
                layers.len() - 1
            });
            layers[place].all_bytes = layers[place].all_bytes.saturating_add(unit.bytes);
            layer_of.push(place);
        }
        Self { within, clock: 0, layer_of, layers, unit_bytes: HashMap::new() }
    }

    fn place(&self, unit: UnitId) -> usize {
        self.layer_of.get(unit.index()).copied().unwrap_or(0)
    }

    fn touch(&mut self, unit: UnitId, uses: u64) {
        self.clock += 1;
        let place = self.place(unit);
        let ranking = &mut self.layers[place].uses;
        let before = ranking.key(unit).map_or(0, |(count, _)| count);
        let count = if self.within == Within::Frequency { before + uses } else { 0 };
        ranking.set(unit, (count, self.clock));
    }
}

impl EvictionPolicy for PerLayer {
    fn on_insert(&mut self, unit: UnitId, bytes: u64) {
        self.touch(unit, 0);
        let place = self.place(unit);
        self.layers[place].loaded_bytes += bytes;
        self.unit_bytes.insert(unit, bytes);
    }

    fn on_access(&mut self, unit: UnitId) {
        self.touch(unit, 1);
    }

    fn on_remove(&mut self, unit: UnitId) {
        let place = self.place(unit);
        self.layers[place].uses.remove(unit);
        self.layers[place].loaded_bytes -= self.unit_bytes.remove(&unit).unwrap_or(0);
    }

    fn victim(&mut self, request: &EvictionRequest<'_>) -> Option<UnitId> {
        let incoming = request.incoming.map(|incoming| (self.place(incoming.unit), incoming.bytes as f64));
        let incoming_bytes = incoming.map_or(0.0, |(_, bytes)| bytes);
        let loaded_bytes: f64 = self.layers.iter().map(|layer| layer.loaded_bytes as f64).sum();
        let all_bytes: f64 = self.layers.iter().map(|layer| layer.all_bytes as f64).sum();
        let room_bytes = loaded_bytes + incoming_bytes - request.shortfall_bytes as f64;
        let above_share = |place: usize, layer: &Layer| {
            let share_bytes = room_bytes * layer.all_bytes as f64 / all_bytes.max(1.0);
            let coming_bytes = incoming.map_or(0.0, |(into, bytes)| if into == place { bytes } else { 0.0 });
            layer.loaded_bytes as f64 + coming_bytes - share_bytes
        };
        let layers = self.layers.iter().enumerate();
        let choices = layers.filter_map(|(place, layer)| Some((above_share(place, layer), layer.uses.first(request)?)));
        // Of equals the first layer.
        let furthest = choices.reduce(|best, choice| if choice.0 > best.0 { choice } else { best });
        furthest.map(|(_, unit)| unit)
    }
}
