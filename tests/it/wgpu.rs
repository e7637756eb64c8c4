//! The same models on a GPU, or on a processor that plays one.

use smoke_runtime::DeviceKind;

use crate::golden_models::GOLDEN_MODELS;
use crate::tiny_models::{check_greedy_tokens, check_logits_and_hidden_states};

#[test]
fn tiny_models_equal_transformers_on_wgpu() {
    for model in GOLDEN_MODELS.iter().filter(|model| model.wgpu) {
        let runtime = model.builder().memory("2MB").device(DeviceKind::Wgpu).open().unwrap();
        let (goldens, name) = (model.goldens(), format!("{model:?} on wgpu"));
        check_logits_and_hidden_states(&runtime, &goldens, &name);
        check_greedy_tokens(&runtime, &goldens, &name);
    }
}
