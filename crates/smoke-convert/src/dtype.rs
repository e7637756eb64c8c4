//! Which encoding a tensor is to have.

use std::fmt;
use std::str::FromStr;

use smoke_core::Encoding;
use smoke_storage::{TensorIndex, TensorInfo};

use crate::error::ConvertError;

/// What tensors can be converted to, by the names that [`DtypeRule`] takes.
pub const DTYPES: &[(&str, Encoding)] = &[
    ("f32", Encoding::F32),
    ("f16", Encoding::F16),
    ("bf16", Encoding::BF16),
    ("q8_0", Encoding::Q8_0),
    ("i8_1", Encoding::I8_1),
    ("q4_0", Encoding::Q4_0),
    ("q4_1", Encoding::Q4_1),
];

/// The name that stands for "as it is stored".
const KEEP: &str = "keep";

/// One rule: tensors whose names match a pattern get an encoding, or keep theirs.
///
/// Written `DTYPE` for all tensors or `PATTERN=DTYPE`, with a dtype of [`DTYPES`] or `keep`. In a pattern `*` stands for any
/// text and `?` for any one character; it must match the whole name.
///
/// ```
/// use smoke_convert::DtypeRule;
/// let rule: DtypeRule = "model.layers.*.mlp.*=q8_0".parse()?;
/// assert!(rule.matches("model.layers.7.mlp.up_proj.weight"));
/// assert!(!rule.matches("model.norm.weight"));
/// # Ok::<(), smoke_convert::ParseDtypeError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DtypeRule {
    pattern: String,
    to: Option<Encoding>,
}

/// Why a text is not a [`DtypeRule`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseDtypeError {
    dtype: String,
}

impl fmt::Display for ParseDtypeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known: Vec<&str> = DTYPES.iter().map(|(name, _)| *name).collect();
        let known = known.join(", ");
        write!(
            f,
            "`{}` is not a dtype: write {known} or {KEEP}, alone or after a pattern, as in '*norm*=f32'",
            self.dtype
        )
    }
}

impl std::error::Error for ParseDtypeError {}

impl FromStr for DtypeRule {
    type Err = ParseDtypeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (pattern, dtype) = text.rsplit_once('=').unwrap_or(("*", text));
        let known = DTYPES.iter().find(|(name, _)| name.eq_ignore_ascii_case(dtype)).map(|&(_, encoding)| encoding);
        if known.is_none() && !dtype.eq_ignore_ascii_case(KEEP) {
            return Err(ParseDtypeError { dtype: dtype.to_owned() });
        }
        Ok(Self { pattern: pattern.to_owned(), to: known })
    }
}

impl DtypeRule {
    /// Whether a tensor of this name is meant.
    pub fn matches(&self, name: &str) -> bool {
        matches_pattern(&self.pattern, name)
    }
}

/// Rules in their order: the first that matches a tensor counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DtypeRules(Vec<DtypeRule>);

impl DtypeRules {
    /// No rule yet: every tensor stays as it is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a rule behind the others.
    pub fn push(&mut self, rule: DtypeRule) {
        self.0.push(rule);
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The encoding that the first rule for a tensor gives it, or `None` where no rule is for it.
    ///
    /// Integers are no weights and stay as they are. Block encodings are for matrices with rows of whole blocks; all else
    /// stays as it is under a rule that names one.
    pub fn encoding_of(&self, tensor: &TensorInfo) -> Option<Encoding> {
        let rule = self.0.iter().find(|rule| rule.matches(&tensor.name))?;
        Some(rule.to.filter(|&to| tensor.encoding.is_real() && fits(tensor, to)).unwrap_or(tensor.encoding))
    }

    /// Whether a rule names a block encoding for a matrix whose rows are no whole blocks.
    pub(crate) fn asks_in_vain(&self, tensor: &TensorInfo) -> bool {
        let rule = self.0.iter().find(|rule| rule.matches(&tensor.name));
        let wanted = rule.and_then(|rule| rule.to);
        tensor.shape.len() >= 2 && tensor.encoding.is_real() && wanted.is_some_and(|wanted| !fits(tensor, wanted))
    }

    /// Looks whether every rule has a tensor that it could be for: a pattern for none is most likely a mistake.
    pub(crate) fn check(&self, index: &TensorIndex) -> Result<(), ConvertError> {
        match self.0.iter().find(|rule| !index.iter().any(|tensor| rule.matches(&tensor.name))) {
            Some(rule) => Err(ConvertError::NoSuchTensor { pattern: rule.pattern.clone() }),
            None => Ok(()),
        }
    }
}

impl FromIterator<DtypeRule> for DtypeRules {
    fn from_iter<I: IntoIterator<Item = DtypeRule>>(rules: I) -> Self {
        Self(rules.into_iter().collect())
    }
}

fn fits(tensor: &TensorInfo, encoding: Encoding) -> bool {
    let is_matrix = tensor.shape.len() >= 2;
    let columns = tensor.shape.last().copied().unwrap_or(1);
    encoding.block_elements() == 1 || is_matrix && columns.is_multiple_of(encoding.block_elements())
}

/// Matches with one place to come back to: after a `*`, the longest text that it may stand for is tried last.
/// Whether a name of a tensor is what a pattern means, in which `*` is any text and `?` any character.
pub fn matches_pattern(pattern: &str, name: &str) -> bool {
    matches(pattern.as_bytes(), name.as_bytes())
}

fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut name_at) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while name_at < name.len() {
        match (pattern.get(at), star) {
            (Some(b'*'), _) => {
                star = Some((at, name_at));
                at += 1;
            }
            (Some(&wanted), _) if wanted == b'?' || wanted == name[name_at] => {
                at += 1;
                name_at += 1;
            }
            (_, Some((star_at, taken))) => {
                star = Some((star_at, taken + 1));
                at = star_at + 1;
                name_at = taken + 1;
            }
            (_, None) => return false,
        }
    }
    pattern[at..].iter().all(|&rest| rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use smoke_storage::Extent;

    fn rule(text: &str) -> DtypeRule {
        text.parse().unwrap()
    }

    fn rules(texts: &[&str]) -> DtypeRules {
        texts.iter().map(|text| rule(text)).collect()
    }

    fn tensor(name: &str, encoding: Encoding, shape: &[u64]) -> TensorInfo {
        TensorInfo {
            name: name.to_owned(),
            encoding,
            shape: shape.to_vec(),
            extent: Extent { file: 0, offset: 0, len: 0 },
        }
    }

    /// The definition, without a thought for speed.
    fn matches_slowly(pattern: &[u8], name: &[u8]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, _) => name.is_empty(),
            (Some((b'*', rest)), _) => (0..=name.len()).any(|taken| matches_slowly(rest, &name[taken..])),
            (Some((&wanted, pattern)), Some((&there, name))) => {
                (wanted == b'?' || wanted == there) && matches_slowly(pattern, name)
            }
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn patterns_match_as_they_are_defined(pattern in "[ab*?]{0,8}", name in "[ab]{0,10}") {
            prop_assert_eq!(
                matches(pattern.as_bytes(), name.as_bytes()),
                matches_slowly(pattern.as_bytes(), name.as_bytes())
            );
        }
    }

    #[test]
    fn the_first_rule_that_matches_counts() {
        let rules = rules(&["*norm*=F32", "lm_head.*=keep", "q8_0"]);
        for (name, shape, expected) in [
            ("model.norm.weight", vec![64], Encoding::F32),
            ("lm_head.weight", vec![8, 64], Encoding::BF16),
            ("mlp.weight", vec![8, 64], Encoding::Q8_0),
            // No matrix of whole blocks.
            ("mlp.bias", vec![64], Encoding::BF16),
            ("odd.weight", vec![64, 33], Encoding::BF16),
        ] {
            assert_eq!(rules.encoding_of(&tensor(name, Encoding::BF16, &shape)), Some(expected), "{name}");
        }
        assert_eq!(rules.encoding_of(&tensor("mlp.ids", Encoding::I64, &[8, 64])), Some(Encoding::I64));
        assert_eq!(DtypeRules::new().encoding_of(&tensor("x", Encoding::F16, &[1])), None);
    }

    #[test]
    fn what_is_no_dtype_is_refused_with_those_that_are() {
        for text in ["float", "", "*=", "a=b=q9", "f32=*"] {
            let message = text.parse::<DtypeRule>().unwrap_err().to_string();
            assert!(message.contains("bf16") && message.contains("keep"), "{message}");
        }
    }
}
