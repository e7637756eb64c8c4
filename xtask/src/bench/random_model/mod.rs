//! A LLaMA, or a Qwen3-MoE, with random weights: the shape and the bytes of a real model, for measurements only.
//!
//! Deterministic: every weight is a whole number of 4096ths between -128 and 127 that follows from its tensor's name
//! and its place (of 64ths in routers, and in the embeddings of models with experts, so that each token has experts of
//! its own: layers add to a hidden state what tokens of one context have in common), so that the encodings that can hold it (`q8_0`, `f16`, `bf16`, `f32`) hold the same model.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;

mod gguf;
mod safetensors;
mod tensors;
mod weights;

pub(crate) use weights::Encoding;

/// Which model.
#[derive(Debug, Clone, Args)]
pub(crate) struct RandomModel {
    /// Where it goes: a file that ends in `.gguf`, or a directory for `config.json` and `model.safetensors`. Unless
    /// given, a name that tells the shape, in models/.
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// How weights are stored.
    #[arg(long, default_value = "q8-0")]
    pub(crate) encoding: Encoding,
    /// The number of layers.
    #[arg(long, default_value_t = 32)]
    pub(crate) layers: u64,
    /// Features of a token.
    #[arg(long, default_value_t = 2560)]
    pub(crate) hidden: u64,
    /// Features inside the MLP.
    #[arg(long, default_value_t = 6912)]
    pub(crate) intermediate: u64,
    /// Attention heads.
    #[arg(long, default_value_t = 32)]
    pub(crate) heads: u64,
    /// Heads of keys and values.
    #[arg(long, default_value_t = 32)]
    pub(crate) kv_heads: u64,
    /// Tokens in the vocabulary, at least 259.
    #[arg(long, default_value_t = 32_000)]
    pub(crate) vocabulary: u64,
    /// Experts of a layer; with any, the model is a Qwen3-MoE and `--intermediate` is the size of an expert.
    #[arg(long, default_value_t = 0)]
    pub(crate) experts: u64,
    /// Experts of a token.
    #[arg(long, default_value_t = 4)]
    pub(crate) experts_used: u64,
    /// Write safetensors instead of GGUF.
    #[arg(long)]
    pub(crate) safetensors: bool,
}

const ALIGNMENT: u64 = 4096;

/// Writes the model unless it is there, and says where it is. A file that was cut short is not taken for a model: the
/// last step is a rename.
pub(crate) fn make(model: &RandomModel) -> Result<PathBuf> {
    ensure!(model.vocabulary >= 259, "a vocabulary holds 256 bytes and three more tokens at least");
    ensure!(
        model.hidden.is_multiple_of(model.heads * 2) && model.hidden.is_multiple_of(32),
        "{} heads do not share {} features",
        model.heads,
        model.hidden
    );
    let path = model.out.clone().unwrap_or_else(|| crate::root().join("models").join(model.name()));
    if path.exists() {
        return Ok(path);
    }
    let directory = path.parent().context("the path has no parent")?;
    fs::create_dir_all(directory)?;
    let scratch = tempfile::Builder::new().prefix(".random-").tempdir_in(directory)?;
    let unfinished = scratch.path().join("model");
    eprintln!("writing {}: {:.2} GB", path.display(), model.bytes() as f64 / 1e9);
    if model.safetensors {
        model.write_safetensors(&unfinished)?;
    } else {
        model.write_gguf(&unfinished)?;
    }
    fs::rename(&unfinished, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

impl RandomModel {
    /// A Qwen3-MoE of 4 GB in Q8_0.
    pub(crate) fn mixture_of_experts() -> Self {
        Self {
            out: None,
            encoding: Encoding::Q8_0,
            layers: 24,
            hidden: 1024,
            intermediate: 768,
            heads: 16,
            kv_heads: 4,
            vocabulary: 32_000,
            experts: 64,
            experts_used: 4,
            safetensors: false,
        }
    }

    /// What stands beside it as safetensors: the same weights, or, where safetensors files cannot hold their encoding,
    /// bf16 in as many layers as come to about the same bytes.
    pub(crate) fn in_safetensors(&self) -> Self {
        let mut twin = Self { safetensors: true, ..self.clone() };
        if matches!(self.encoding, Encoding::Q8_0 | Encoding::Q4_0) {
            twin.encoding = Encoding::Bf16;
            let distance = |layers: &u64| Self { layers: *layers, ..twin.clone() }.bytes().abs_diff(self.bytes());
            twin.layers = (1..=self.layers).min_by_key(distance).unwrap_or(self.layers);
        }
        twin.out = self.out.as_ref().map(|out| out.with_file_name(twin.name()));
        twin
    }

    fn name(&self) -> String {
        let encoding = format!("{:?}", self.encoding).to_lowercase();
        let suffix = if self.safetensors { "" } else { ".gguf" };
        let experts = if self.experts > 0 { format!("x{}", self.experts) } else { String::new() };
        format!("random-{}x{}{experts}-{encoding}{suffix}", self.layers, self.hidden)
    }

    fn rope_theta(&self) -> f32 {
        if self.experts > 0 { 1e6 } else { 1e4 }
    }
}

fn output(path: &Path) -> Result<BufWriter<File>> {
    let file = File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(BufWriter::with_capacity(4 << 20, file))
}

fn finish(out: BufWriter<File>) -> Result<()> {
    Ok(out.into_inner().map_err(|error| error.into_error())?.sync_all()?)
}

#[cfg(test)]
mod tests {
    use smoke_runtime::{AtEnd, GenerateOptions, Prompt, Runtime, Sampling};

    use super::*;

    const SMALL: RandomModel = RandomModel {
        out: None,
        encoding: Encoding::F32,
        layers: 3,
        hidden: 64,
        intermediate: 96,
        heads: 4,
        kv_heads: 2,
        vocabulary: 320,
        experts: 0,
        experts_used: 3,
        safetensors: false,
    };

    /// Drawn, since greedy text of random weights runs in circles.
    fn tokens(model: &RandomModel) -> Vec<u32> {
        let directory = tempfile::tempdir().unwrap();
        let path = make(&RandomModel { out: Some(directory.path().join("model.gguf")), ..model.clone() }).unwrap();
        let runtime = Runtime::builder(&path).memory("4MB").open().unwrap();
        let options = GenerateOptions {
            max_tokens: 24,
            sampling: Sampling { temperature: 1.0, seed: 7, ..Sampling::default() },
            at_end: AtEnd::Ignore,
        };
        let generation = runtime.generate(Prompt::Tokens(vec![10, 11, 12]), options).unwrap();
        generation.map(|token| token.unwrap().id).collect()
    }

    #[test]
    fn every_form_and_encoding_holds_the_same_model() {
        for experts in [0, 8] {
            let model = RandomModel { experts, ..SMALL };
            let expected = tokens(&model);
            let mut distinct = expected.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert!(distinct.len() > 8, "{expected:?} could be chance");
            for encoding in [Encoding::F32, Encoding::F16, Encoding::Bf16] {
                for safetensors in [false, true] {
                    let found = tokens(&RandomModel { encoding, safetensors, ..model.clone() });
                    assert_eq!(found, expected, "{experts} experts, {encoding:?}, safetensors: {safetensors}");
                }
            }
            assert_eq!(tokens(&RandomModel { encoding: Encoding::Q8_0, ..model }), expected, "{experts} experts, q8_0");
        }
    }

    #[test]
    fn beside_blocks_stands_bf16_of_about_the_same_bytes() {
        let model = RandomModel { encoding: Encoding::Q8_0, layers: 32, ..SMALL };
        let twin = model.in_safetensors();
        assert_eq!((twin.encoding, twin.safetensors), (Encoding::Bf16, true));
        assert!(twin.layers < model.layers);
        let layer_bytes =
            RandomModel { layers: 2, ..twin.clone() }.bytes() - RandomModel { layers: 1, ..twin.clone() }.bytes();
        assert!(twin.bytes().abs_diff(model.bytes()) <= layer_bytes / 2);
        let halves = RandomModel { encoding: Encoding::F16, ..SMALL }.in_safetensors();
        assert_eq!((halves.encoding, halves.layers), (Encoding::F16, SMALL.layers));
    }
}
