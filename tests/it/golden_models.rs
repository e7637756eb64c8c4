//! The models whose outputs are known: every test that compares with Transformers goes through this table, and
//! `docs/models.md` is made from it.

use std::path::PathBuf;

use smoke_runtime::{DeviceKind, Runtime, RuntimeBuilder};
use smoke_tests::{Goldens, asset};

use crate::gguf_twins::gguf_twin;

/// One model in one format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GoldenModel {
    /// As its authors write it.
    pub(crate) architecture: &'static str,
    /// What its weights are stored as.
    pub(crate) format: Format,
    /// The directory in `tests/assets/tiny`.
    pub(crate) name: &'static str,
    /// The tests on a GPU take it, too.
    pub(crate) wgpu: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Format {
    Safetensors,
    ShardedSafetensors,
    PyTorch,
    /// As PyTorch wrote before 1.6.
    LegacyPyTorch,
    ShardedPyTorch,
    /// The safetensors file of the directory, written anew as llama.cpp would have it.
    Gguf,
}

const fn on_flex(architecture: &'static str, format: Format, name: &'static str) -> GoldenModel {
    GoldenModel { architecture, format, name, wgpu: false }
}

const fn on_flex_and_wgpu(architecture: &'static str, format: Format, name: &'static str) -> GoldenModel {
    GoldenModel { wgpu: true, ..on_flex(architecture, format, name) }
}

pub(crate) const GOLDEN_MODELS: &[GoldenModel] = &[
    on_flex_and_wgpu("GPT-2", Format::Safetensors, "gpt2"),
    on_flex("GPT-2", Format::Gguf, "gpt2"),
    on_flex("GPT-2", Format::ShardedSafetensors, "gpt2-sharded"),
    on_flex("GPT-2", Format::PyTorch, "gpt2-bin"),
    on_flex("GPT-2", Format::LegacyPyTorch, "gpt2-bin-legacy"),
    on_flex("GPT-2", Format::ShardedPyTorch, "gpt2-bin-sharded"),
    on_flex_and_wgpu("GPT-J", Format::Safetensors, "gptj"),
    on_flex_and_wgpu("GPT-NeoX", Format::Safetensors, "gpt_neox"),
    on_flex("GPT-NeoX", Format::Gguf, "gpt_neox"),
    on_flex("GPT-NeoX", Format::Safetensors, "gpt_neox-serial"),
    on_flex("GPT-NeoX", Format::Gguf, "gpt_neox-serial"),
    on_flex_and_wgpu("LLaMA", Format::Safetensors, "llama"),
    on_flex_and_wgpu("LLaMA", Format::Safetensors, "llama-tied"),
    on_flex_and_wgpu("LLaMA", Format::Safetensors, "llama3-rope"),
    on_flex("LLaMA", Format::ShardedSafetensors, "llama-sharded"),
    on_flex("LLaMA", Format::PyTorch, "llama-bin"),
    on_flex("LLaMA", Format::LegacyPyTorch, "llama-bin-legacy"),
    on_flex("LLaMA", Format::ShardedPyTorch, "llama-bin-sharded"),
    on_flex("LLaMA", Format::Gguf, "llama"),
    on_flex_and_wgpu("Mistral", Format::Safetensors, "mistral"),
    on_flex_and_wgpu("Mixtral", Format::Safetensors, "mixtral"),
    on_flex("Mixtral", Format::Gguf, "mixtral"),
    on_flex_and_wgpu("Qwen2", Format::Safetensors, "qwen2"),
    on_flex("Qwen2", Format::Gguf, "qwen2"),
    on_flex_and_wgpu("Qwen3", Format::Safetensors, "qwen3"),
    on_flex("Qwen3", Format::Gguf, "qwen3"),
    on_flex_and_wgpu("Qwen3-MoE", Format::Safetensors, "qwen3_moe"),
    on_flex("Qwen3-MoE", Format::Gguf, "qwen3_moe"),
    on_flex_and_wgpu("Phi-3", Format::Safetensors, "phi3"),
    on_flex("Phi-3", Format::Gguf, "phi3"),
    on_flex_and_wgpu("Gemma 2", Format::Safetensors, "gemma2"),
    on_flex("Gemma 2", Format::Gguf, "gemma2"),
    on_flex_and_wgpu("Gemma 3", Format::Safetensors, "gemma3"),
    on_flex("Gemma 3", Format::Gguf, "gemma3"),
];

impl Format {
    pub(crate) const ALL: [Self; 6] = [
        Self::Safetensors,
        Self::ShardedSafetensors,
        Self::Gguf,
        Self::PyTorch,
        Self::LegacyPyTorch,
        Self::ShardedPyTorch,
    ];

    /// The head of its column in `docs/models.md`.
    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Safetensors => "safetensors",
            Self::ShardedSafetensors => "sharded safetensors",
            Self::Gguf => "GGUF",
            Self::PyTorch => "PyTorch",
            Self::LegacyPyTorch => "legacy PyTorch",
            Self::ShardedPyTorch => "sharded PyTorch",
        }
    }
}

impl GoldenModel {
    pub(crate) fn path(&self) -> PathBuf {
        match (self.format, self.name) {
            // Written by llama.cpp's own library.
            (Format::Gguf, "llama") => asset("quant/llama-f32.gguf"),
            (Format::Gguf, name) => gguf_twin(name),
            (_, name) => asset(&format!("tiny/{name}")),
        }
    }

    /// PyTorch's files have the outputs of their twin in safetensors.
    pub(crate) fn goldens(&self) -> Goldens {
        let twin = self.name.split("-bin").next().unwrap_or(self.name);
        Goldens::read(&format!("tiny/{twin}/goldens.safetensors"))
    }

    /// The model on the processor, with `percent` of its bytes as budget.
    pub(crate) fn open(&self, percent: u64) -> Runtime {
        self.builder().memory_bytes(self.bytes() * percent / 100).device(DeviceKind::Cpu).open().unwrap()
    }

    pub(crate) fn builder(&self) -> RuntimeBuilder {
        Runtime::builder(self.path())
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.builder().open().unwrap().plan(1).unwrap().model_bytes
    }
}
