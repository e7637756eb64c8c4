use std::fmt;
use std::str::FromStr;

/// A number of bytes as people write it: `4GB` (10⁹), `3.5GiB` (2³⁰), `800M`, `512`.
///
/// Decimal suffixes `K M G T` (with or without `B`) are powers of 1000, binary ones `KiB MiB GiB TiB` powers of 1024;
/// case does not matter. Printed with the largest decimal suffix that keeps at least one whole digit.
///
/// ```
/// use smoke_core::ByteSize;
/// assert_eq!("3.5GiB".parse::<ByteSize>()?.bytes(), 3_758_096_384);
/// assert_eq!("800M".parse::<ByteSize>()?.bytes(), 800_000_000);
/// assert_eq!(ByteSize(98_362_432).to_string(), "98.4 MB");
/// # Ok::<(), smoke_core::ParseByteSizeError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The number of bytes.
    pub fn bytes(self) -> u64 {
        self.0
    }
}

impl From<u64> for ByteSize {
    fn from(bytes: u64) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scales = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")];
        let bytes = self.0 as f64;
        match scales.iter().find(|(scale, _)| bytes >= *scale) {
            Some((scale, suffix)) => write!(f, "{:.prec$} {suffix}", bytes / scale, prec = f.precision().unwrap_or(1)),
            None => write!(f, "{} B", self.0),
        }
    }
}

/// Why a text is not a [`ByteSize`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseByteSizeError {
    text: String,
}

impl fmt::Display for ParseByteSizeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not a size: write a number and a suffix, as in 4GB, 3.5GiB or 800M", self.text)
    }
}

impl std::error::Error for ParseByteSizeError {}

impl FromStr for ByteSize {
    type Err = ParseByteSizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseByteSizeError { text: text.to_owned() };
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, suffix) = trimmed.split_at(digits);
        let scale: u64 = match suffix.trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1,
            "k" | "kb" => 1_000,
            "m" | "mb" => 1_000_000,
            "g" | "gb" => 1_000_000_000,
            "t" | "tb" => 1_000_000_000_000,
            "kib" => 1 << 10,
            "mib" => 1 << 20,
            "gib" => 1 << 30,
            "tib" => 1 << 40,
            _ => return Err(error()),
        };
        if let Ok(whole) = number.parse::<u64>() {
            return whole.checked_mul(scale).map(Self).ok_or_else(error);
        }
        let bytes = number.parse::<f64>().map_err(|_| error())? * scale as f64;
        if bytes.is_finite() && bytes < u64::MAX as f64 { Ok(Self(bytes as u64)) } else { Err(error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("1k", 1000),
            ("1 KiB", 1024),
            ("4GB", 4_000_000_000),
            ("4gib", 4 << 30),
            ("1.5M", 1_500_000),
            (".5k", 500),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize(bytes)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_size() {
        for text in ["", "GB", "-1", "4XB", "1.2.3k", "nan", "99999999999999999999", "18446744073709551615k", "1e3"] {
            assert!(text.parse::<ByteSize>().is_err(), "{text}");
        }
    }

    #[test]
    fn prints_short() {
        for (bytes, text) in [(0, "0 B"), (999, "999 B"), (1_000, "1.0 kB"), (2_870_000_000, "2.9 GB")] {
            assert_eq!(ByteSize(bytes).to_string(), text);
        }
        assert_eq!(format!("{:.2}", ByteSize(2_870_000_000)), "2.87 GB");
    }
}
