//! Which weights stay where, as the user wants it.

use std::str::FromStr;

use smoke_burn::Residence;
use smoke_convert::matches_pattern;

/// Tensors whose names match a pattern, and where they stay: `PATTERN=PLACE`, or a place alone for all of them.
///
/// In a pattern `*` is any text and `?` any character. Places are `auto` (where the planner finds room), `ram` (in memory),
/// `stream` (on the disk, read for each use unless memory is left over) and `device` (on the GPU, read once).
///
/// ```
/// use smoke_runtime::PlaceRule;
///
/// let rule: PlaceRule = "model.layers.0.*=ram".parse()?;
/// # Ok::<(), smoke_runtime::ParsePlaceError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlaceRule {
    pattern: String,
    residence: Residence,
}

/// Why a text is not a [`PlaceRule`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{place}` is no place: write auto, ram, stream or device, alone or after a pattern, as in '*.mlp.*=stream'")]
pub struct ParsePlaceError {
    place: String,
}

impl FromStr for PlaceRule {
    type Err = ParsePlaceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, place) = text.rsplit_once('=').unwrap_or(("*", text));
        let residence = match place {
            "auto" => Residence::Planned,
            "ram" => Residence::Memory,
            "stream" => Residence::Stream,
            "device" => Residence::Device,
            _ => return Err(ParsePlaceError { place: place.to_owned() }),
        };
        Ok(Self { pattern: pattern.to_owned(), residence })
    }
}

/// The device map: rules in their order, of which the first that matches counts, and how much of the device's memory is
/// filled with weights that no rule names.
#[derive(Clone, Debug, Default)]
pub(crate) struct DeviceMap {
    pub(crate) rules: Vec<PlaceRule>,
    /// Bytes of decoded weights.
    pub(crate) device_bytes: u64,
}

impl DeviceMap {
    /// Whether a rule puts weights on the device.
    pub(crate) fn names_device(&self) -> bool {
        self.rules.iter().any(|rule| rule.residence == Residence::Device)
    }

    /// Answers for one tensor after the other, in the order of use.
    pub(crate) fn reside(&self) -> impl FnMut(&str, u64) -> Residence + '_ {
        let mut left_bytes = self.device_bytes;
        move |name, elements| {
            let rule = self.rules.iter().find(|rule| matches_pattern(&rule.pattern, name));
            match rule.map_or(Residence::Planned, |rule| rule.residence) {
                Residence::Planned => {
                    let bytes = elements.saturating_mul(size_of::<f32>() as u64);
                    let Some(left) = left_bytes.checked_sub(bytes) else { return Residence::Planned };
                    left_bytes = left;
                    Residence::Device
                }
                residence => residence,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_matches_counts_and_the_rest_of_the_device_is_filled_in_order() {
        let rules = ["a.*=ram", "*.x=stream", "b.y=device"].map(|rule| rule.parse().unwrap()).to_vec();
        let map = DeviceMap { rules, device_bytes: 100 };
        let mut reside = map.reside();
        assert_eq!(reside("a.x", 10), Residence::Memory);
        assert_eq!(reside("b.x", 10), Residence::Stream);
        assert_eq!(reside("b.y", 1000), Residence::Device);
        assert_eq!(reside("c", 20), Residence::Device);
        assert_eq!(reside("d", 6), Residence::Planned);
        assert_eq!(reside("e", 5), Residence::Device);
        assert_eq!(reside("f", 1), Residence::Planned);
        assert!(map.names_device());
        let error = "x=gpu".parse::<PlaceRule>().unwrap_err().to_string();
        assert!(error.contains("`gpu`") && error.contains("device"), "{error}");
    }
}
