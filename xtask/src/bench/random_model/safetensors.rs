//! The model as Transformers has it: `config.json` and `model.safetensors`.

use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::weights::Encoding;
use super::{ALIGNMENT, RandomModel, finish, output};

impl RandomModel {
    /// Makes the directory with both files.
    pub(super) fn write_safetensors(&self, directory: &Path) -> Result<()> {
        let dtype = match self.encoding {
            Encoding::F32 => "F32",
            Encoding::F16 => "F16",
            Encoding::Bf16 => "BF16",
            Encoding::Q8_0 | Encoding::Q4_0 => bail!("safetensors files hold no {:?}", self.encoding),
        };
        let (mut header, mut end) = (Map::new(), 0);
        for tensor in self.tensors() {
            let start = end;
            end += self.tensor_bytes(&tensor);
            header.insert(tensor.hf, json!({ "dtype": dtype, "shape": tensor.shape, "data_offsets": [start, end] }));
        }
        let mut header = serde_json::to_vec(&header)?;
        header.resize((header.len() + 8).next_multiple_of(ALIGNMENT as usize) - 8, b' ');
        fs::create_dir(directory)?;
        fs::write(directory.join("config.json"), format!("{:#}\n", self.config_json()))?;
        let mut out = output(&directory.join("model.safetensors"))?;
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(&header)?;
        for tensor in self.tensors() {
            self.write_tensor(&tensor, &mut out)?;
        }
        finish(out)
    }

    fn config_json(&self) -> Value {
        let is_moe = self.experts > 0;
        let mut config = json!({
            "architectures": [if is_moe { "Qwen3MoeForCausalLM" } else { "LlamaForCausalLM" }],
            "model_type": if is_moe { "qwen3_moe" } else { "llama" },
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.hidden / self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 2048,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-5,
            "rope_theta": self.rope_theta(),
            "tie_word_embeddings": false,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "torch_dtype": match self.encoding { Encoding::F32 => "float32", Encoding::F16 => "float16", _ => "bfloat16" },
        });
        if let (true, Value::Object(config)) = (is_moe, &mut config) {
            config.insert("num_experts".to_owned(), self.experts.into());
            config.insert("num_experts_per_tok".to_owned(), self.experts_used.into());
            config.insert("moe_intermediate_size".to_owned(), self.intermediate.into());
            config.insert("norm_topk_prob".to_owned(), true.into());
        }
        config
    }
}
