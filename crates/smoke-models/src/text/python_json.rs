use std::fmt::Write as _;
use std::io;

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;
use serde_json::ser::{Formatter, PrettyFormatter, Serializer};

/// The `tojson` filter as Transformers defines it for chat templates: Python's `json.dumps` without HTML escapes, where
/// Jinja's own would write `<` as `\u003c`.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let indent: Option<usize> = options.get("indent")?;
    let ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    options.assert_all_used()?;
    let text = match indent {
        Some(width) => write(value, PrettyFormatter::with_indent(" ".repeat(width).as_bytes()))?,
        None => write(value, Spaced)?,
    };
    Ok(if ensure_ascii == Some(true) { escape_non_ascii(&text) } else { text })
}

fn write(value: &Value, formatter: impl Formatter) -> Result<String, Error> {
    let mut bytes = Vec::new();
    value
        .serialize(&mut Serializer::with_formatter(&mut bytes, formatter))
        .map_err(|cause| Error::new(ErrorKind::BadSerialization, "no JSON for this value").with_source(cause))?;
    Ok(String::from_utf8(bytes).expect("serde_json writes UTF-8"))
}

/// Python puts a space after commas and colons.
struct Spaced;

impl Formatter for Spaced {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }
}

/// Outside of strings JSON is ASCII, so whatever is not may be replaced wherever it stands.
fn escape_non_ascii(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_ascii() {
            escaped.push(character);
        } else {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(escaped, "\\u{unit:04x}").expect("a String takes any text");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_that_of_python() {
        let mut environment = minijinja::Environment::new();
        environment.add_filter("tojson", |value: &Value, options: Kwargs| tojson(value, options));
        // Each made by Python's json.dumps(value, ensure_ascii=False, ...).
        for (template, expected) in [
            ("{{ [1, 2.5, none, true, 'a<b>&\"é'] | tojson }}", "[1, 2.5, null, true, \"a<b>&\\\"é\"]"),
            ("{{ {'a': [], 'b': {}} | tojson }}", "{\"a\": [], \"b\": {}}"),
            ("{{ {'a': [1, 2]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    2\n  ]\n}"),
            ("{{ 'é😀' | tojson(ensure_ascii=true) }}", "\"\\u00e9\\ud83d\\ude00\""),
        ] {
            assert_eq!(environment.render_str(template, ()).unwrap(), expected, "{template}");
        }
        assert!(environment.render_str("{{ 1 | tojson(colour=2) }}", ()).is_err());
    }
}
