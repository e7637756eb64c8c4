//! Between safetensors and GGUF, against files that other programs made.

use safetensors::SafeTensors;
use smoke_convert::{Conversion, ConvertOptions, Existing};
use smoke_core::Encoding;
use smoke_storage::{GgufValue, WeightSource};

use crate::files::{asset, convert, dtypes, json, names, open, tensors};

#[test]
fn safetensors_become_the_gguf_that_another_program_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let ours = directory.path().join("m.gguf");
    for source in ["tiny/llama", "tiny/llama-sharded", "tiny/llama-bin", "tiny/llama-bin-sharded"] {
        let _ = std::fs::remove_file(&ours);
        assert_eq!(convert(&asset(source), &ours, &dtypes(&[])).unwrap(), [""; 0]);
        let theirs = asset("quant/llama-f32.gguf");
        assert!(tensors(&ours) == tensors(&theirs), "{source}");
        let (ours, theirs) = (open(&ours), open(&theirs));
        let keys = ours.metadata().gguf.as_ref().unwrap();
        for (key, value) in theirs.metadata().gguf.as_ref().unwrap().iter() {
            match key {
                "general.name" | "general.alignment" => assert!(keys.get(key).is_some(), "{key}"),
                _ => assert_eq!(keys.get(key), Some(value), "{key}"),
            }
        }
        assert_eq!(keys.get("llama.attention.key_length"), Some(&GgufValue::Unsigned(16)));
        assert!(ours.index().iter().all(|tensor| tensor.extent.offset.is_multiple_of(4096)));
    }
}

#[test]
fn there_and_back_gives_the_same_model() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["llama", "llama-tied", "llama3-rope"] {
        let source = asset(&format!("tiny/{name}"));
        let gguf = directory.path().join(format!("{name}.gguf"));
        let back = directory.path().join(name);
        assert_eq!(convert(&source, &gguf, &dtypes(&[])).unwrap(), [""; 0]);
        assert_eq!(convert(&gguf, &back, &dtypes(&[])).unwrap(), [""; 0]);
        assert!(tensors(&source) == tensors(&back), "{name}");

        let (before, after) = (json(source.join("config.json")), json(back.join("config.json")));
        for (key, value) in after.as_object().unwrap() {
            assert_eq!(&before[key], value, "{name}: {key}");
        }
        for key in ["hidden_size", "rope_scaling", "tie_word_embeddings", "attention_bias", "torch_dtype", "vocab_size"]
        {
            assert!(after.get(key).is_some(), "{name}: {key}");
        }
        let (before, after) = (json(source.join("tokenizer.json")), json(back.join("tokenizer.json")));
        assert_eq!(before, after, "{name}");
        let before = json(source.join("tokenizer_config.json"));
        for key in ["bos_token", "eos_token", "pad_token"] {
            assert_eq!(json(back.join("tokenizer_config.json"))[key], before[key]);
        }
    }
}

#[test]
fn quantised_tensors_become_what_they_stand_for() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["q8_0", "q4_0", "mixed"] {
        let target = directory.path().join(name);
        convert(&asset(&format!("quant/llama-{name}.gguf")), &target, &dtypes(&["f32"])).unwrap();
        let goldens = std::fs::read(asset(&format!("quant/llama-{name}.goldens.safetensors"))).unwrap();
        let goldens = SafeTensors::deserialize(&goldens).unwrap();
        let tensors = tensors(&target);
        let mut checked = 0;
        for golden in goldens.names().into_iter().filter(|name| name.starts_with("dequant.")) {
            let (encoding, _, bytes) = &tensors[golden.strip_prefix("dequant.").unwrap()];
            assert_eq!(*encoding, Encoding::F32);
            assert!(bytes == goldens.tensor(golden).unwrap().data(), "{name}: {golden}");
            checked += 1;
        }
        assert_eq!(checked, 9);
    }
}

#[test]
fn without_a_rule_plain_tensors_stay_and_quantised_ones_become_floats() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("m");
    convert(&asset("quant/llama-q8_0.gguf"), &target, &dtypes(&[])).unwrap();
    let tensors = tensors(&target);
    assert_eq!(tensors["model.layers.0.mlp.up_proj.weight"].0, Encoding::F32);
    assert_eq!(tensors["model.layers.0.mlp.down_proj.weight"].0, Encoding::F16);
    assert_eq!(json(target.join("config.json"))["torch_dtype"], "float32");
}

#[test]
fn gguf_is_quantised_where_rows_are_whole_blocks_and_vectors_stay_floats() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("m.gguf");
    let rules = ["lm_head.*=keep", "*.v_proj.*=q4_1", "q8_0"];
    let notes = convert(&asset("tiny/llama"), &target, &dtypes(&rules)).unwrap();
    let [note] = &notes[..] else { panic!("{notes:?}") };
    assert!(note.contains("3 tensors") && note.contains("down_proj") && note.contains("112"), "{note}");
    let tensors = tensors(&target);
    for (name, expected) in [
        ("output.weight", Encoding::F32),
        ("blk.0.attn_v.weight", Encoding::Q4_1),
        ("blk.0.attn_q.weight", Encoding::Q8_0),
        ("blk.2.ffn_down.weight", Encoding::F32),
        ("blk.2.ffn_norm.weight", Encoding::F32),
        ("token_embd.weight", Encoding::Q8_0),
    ] {
        assert_eq!(tensors[name].0, expected, "{name}");
    }
    // Rows are put in order as blocks: the same as those of the file in floats.
    let mut expected = Vec::new();
    let floats: Vec<f32> = crate::files::tensors(asset("quant/llama-f32.gguf"))["blk.0.attn_q.weight"]
        .2
        .as_chunks()
        .0
        .iter()
        .map(|bytes| f32::from_le_bytes(*bytes))
        .collect();
    smoke_quant::encode(Encoding::Q8_0, &floats, &mut expected).unwrap();
    assert!(tensors["blk.0.attn_q.weight"].2 == expected);

    let halves = directory.path().join("halves.gguf");
    convert(&target, &halves, &dtypes(&["f16"])).unwrap();
    let tensors = crate::files::tensors(&halves);
    assert_eq!((tensors["output.weight"].0, tensors["output_norm.weight"].0), (Encoding::F16, Encoding::F32));
    let keys = |path| open(path).metadata().gguf.clone().unwrap();
    assert_eq!(keys(&halves).strings("tokenizer.ggml.tokens"), keys(&target).strings("tokenizer.ggml.tokens"));
}

#[test]
fn other_dtypes_in_the_same_format_are_for_every_architecture() {
    let directory = tempfile::tempdir().unwrap();
    for name in ["gpt2", "gpt2-sharded"] {
        let (source, target) = (asset(&format!("tiny/{name}")), directory.path().join(name));
        convert(&source, &target, &dtypes(&["*.ln_*=keep", "bf16"])).unwrap();
        let (before, after) = (tensors(&source), tensors(&target));
        assert_eq!(before.len(), after.len());
        for (name, (encoding, shape, bytes)) in &after {
            let (_, before_shape, before) = &before[name];
            assert_eq!(shape, before_shape);
            if name.contains(".ln_") {
                assert!(*encoding == Encoding::F32 && bytes == before, "{name}");
                continue;
            }
            let floats = before.as_chunks().0.iter().map(|bytes| half::bf16::from_f32(f32::from_le_bytes(*bytes)));
            let expected: Vec<u8> = floats.flat_map(half::bf16::to_le_bytes).collect();
            assert!(*encoding == Encoding::BF16 && *bytes == expected, "{name}");
        }
        assert_eq!(json(target.join("config.json"))["torch_dtype"], "bfloat16");
        assert_eq!(json(target.join("tokenizer.json")), json(source.join("tokenizer.json")));
        assert!(names(&target).contains(&"model.safetensors".to_owned()), "{:?}", names(&target));
    }
}

#[test]
fn shards_are_no_larger_than_asked_and_have_their_index() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (asset("quant/llama-f32.gguf"), directory.path().join("shards"));
    let options = smoke_convert::ConvertOptions { shard_bytes: Some(150_000), ..Default::default() };
    convert(&source, &target, &options).unwrap();
    assert!(tensors(asset("tiny/llama")) == tensors(&target));
    let checkpoint = open(&target);
    let shards = checkpoint.index().files().len();
    let total = checkpoint.index().total_bytes();
    assert!(shards >= 4 && shards as u64 <= 1 + total / 75_000, "{shards}");
    for (file, info) in checkpoint.index().files().iter().enumerate() {
        let in_it = checkpoint.index().iter().filter(|tensor| tensor.extent.file as usize == file);
        assert!(in_it.map(|tensor| tensor.extent.len).sum::<u64>() <= 150_000);
        let bytes = std::fs::read(&info.path).unwrap();
        SafeTensors::deserialize(&bytes).unwrap();
    }
    let index = json(target.join("model.safetensors.index.json"));
    assert_eq!(index["metadata"]["total_size"], total);
    assert_eq!(index["weight_map"].as_object().unwrap().len(), checkpoint.index().len());
    // And into one file again, of weights alone.
    let one = directory.path().join("one.safetensors");
    let notes = convert(&target, &one, &dtypes(&[])).unwrap();
    assert!(notes[0].contains("config.json"), "{notes:?}");
    assert!(tensors(&one) == tensors(&target));
}

#[test]
fn the_modules_of_sentence_transformers_come_along() {
    let directory = tempfile::tempdir().unwrap();
    let (source, target) = (directory.path().join("source"), directory.path().join("target"));
    std::fs::create_dir_all(source.join("1_Pooling")).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json"] {
        std::fs::copy(asset("tiny/bert").join(name), source.join(name)).unwrap();
    }
    let modules =
        r#"[{"path": ""}, {"path": "1_Pooling"}, {"path": "../outside"}, {"path": "/tmp"}, {"path": "2_Gone"}]"#;
    std::fs::write(source.join("modules.json"), modules).unwrap();
    std::fs::write(source.join("1_Pooling/config.json"), "{\"word_embedding_dimension\": 64}").unwrap();
    std::fs::create_dir(directory.path().join("outside")).unwrap();
    std::fs::write(directory.path().join("outside/config.json"), "{}").unwrap();
    Conversion::plan(&open(&source), &target, &dtypes(&["f16"])).unwrap().write(&mut |_| {}).unwrap();
    let pooling = std::fs::read_to_string(target.join("1_Pooling/config.json")).unwrap();
    assert_eq!(pooling, "{\"word_embedding_dimension\": 64}");
    let mut written: Vec<_> =
        std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    written.sort();
    assert_eq!(written, ["1_Pooling", "config.json", "model.safetensors", "modules.json", "tokenizer.json"]);
    // Such a directory is a model's, and may be replaced by one.
    let checkpoint = open(&source);
    let options = ConvertOptions { existing: Existing::Replace, ..ConvertOptions::default() };
    Conversion::plan(&checkpoint, &target, &options).unwrap().write(&mut |_| {}).unwrap();
    assert!(tensors(&source) == tensors(&target));
}
