//! The table in `docs/models.md` says what the golden models show, and nothing else.

use std::path::Path;

use crate::golden_models::{Format, GOLDEN_MODELS};
use crate::{encoders, seq2seq};

/// Set to write the table instead of comparing it.
const REWRITE: &str = "SMOKE_REWRITE_DOCS";

const BEGIN: &str = "<!-- made by `tests/it/models_table.rs` from the models that the tests ran -->\n";
const END: &str = "<!-- end -->\n";

fn table() -> String {
    let titles = Format::ALL.map(Format::title);
    let mut table = format!("| architecture | {} |\n|---|{}\n", titles.join(" | "), "---|".repeat(titles.len()));
    let mut architectures: Vec<&str> = GOLDEN_MODELS.iter().map(|model| model.architecture).collect();
    architectures.dedup();
    for architecture in architectures {
        let cells = Format::ALL.map(|format| {
            let shown =
                || GOLDEN_MODELS.iter().filter(|model| (model.architecture, model.format) == (architecture, format));
            match (shown().next().is_some(), shown().any(|model| model.wgpu)) {
                (true, true) => "flex, wgpu",
                (true, false) => "flex",
                (false, _) => "",
            }
        });
        table += &format!("| {architecture} | {} |\n", cells.join(" | "));
    }
    // Their tests, on both backends, go through the same lists.
    for name in encoders::MODELS.into_iter().chain(seq2seq::MODELS) {
        let cells = Format::ALL.map(|format| if format == Format::Safetensors { "flex, wgpu" } else { "" });
        table += &format!("| {} | {} |\n", name.to_uppercase(), cells.join(" | "));
    }
    table
}

#[test]
fn the_table_of_models_is_what_the_tests_ran() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/models.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).expect("the page marks where the table begins");
    let (written, after) = rest.split_once(END).expect("the page marks where the table ends");
    if std::env::var_os(REWRITE).is_some() {
        std::fs::write(&path, [before, BEGIN, &table(), END, after].concat()).unwrap();
    } else {
        assert_eq!(written, table(), "docs/models.md is out of date: run this test with {REWRITE}=1");
    }
}
