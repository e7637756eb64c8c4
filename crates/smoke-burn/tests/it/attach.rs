use std::path::{Path, PathBuf};

use burn::module::{Module, Param};
use burn::nn::{
    Embedding, EmbeddingConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig, LinearLayout, Relu, RmsNorm,
    RmsNormConfig,
};
use burn::tensor::{Device, Int, Tensor, TensorData};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use smoke_burn::{AttachError, DeviceKind, Stream, StreamOptions, Streamed};

#[derive(Module, Debug)]
struct Model {
    embedding: Embedding,
    blocks: Vec<Block>,
    norm: RmsNorm,
    head: Linear,
    scale: Param<Tensor<1>>,
}

#[derive(Module, Debug)]
struct Block {
    norm: LayerNorm,
    up: Linear,
    act: Relu,
    down: Option<Linear>,
}

const WIDTH: usize = 24;
const INNER: usize = 40;
const WORDS: usize = 16;
const BLOCKS: usize = 5;

impl Model {
    fn new(device: &Device) -> Self {
        let block = || Block {
            norm: LayerNormConfig::new(WIDTH).init(device),
            up: LinearConfig::new(WIDTH, INNER).init(device),
            act: Relu::new(),
            // Stored transposed by Burn itself: the adapter must not transpose it twice.
            down: Some(LinearConfig::new(INNER, WIDTH).with_layout(LinearLayout::Col).init(device)),
        };
        Self {
            embedding: EmbeddingConfig::new(WORDS, WIDTH).init(device),
            blocks: (0..BLOCKS).map(|_| block()).collect(),
            norm: RmsNormConfig::new(WIDTH).init(device),
            head: LinearConfig::new(WIDTH, WORDS).with_bias(false).init(device),
            scale: Param::from_tensor(Tensor::ones([1], device)),
        }
    }

    fn forward(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let mut x = self.embedding.forward(ids);
        for block in &self.blocks {
            let inner = block.act.forward(block.up.forward(block.norm.forward(x.clone())));
            x = x + block.down.as_ref().expect("every block has one").forward(inner);
        }
        self.head.forward(self.norm.forward(x)) * self.scale.val().unsqueeze()
    }
}

/// Tensors by PyTorch's names and shapes, with values from a small generator.
fn tensors() -> Vec<(String, Vec<usize>, Vec<f32>)> {
    let mut shapes = vec![("embedding.weight".to_owned(), vec![WORDS, WIDTH])];
    for block in 0..BLOCKS {
        let mut add = |part: &str, shape: &[usize]| shapes.push((format!("blocks.{block}.{part}"), shape.to_vec()));
        add("norm.weight", &[WIDTH]);
        add("norm.bias", &[WIDTH]);
        add("up.weight", &[INNER, WIDTH]);
        add("up.bias", &[INNER]);
        add("down.weight", &[WIDTH, INNER]);
        add("down.bias", &[WIDTH]);
    }
    shapes.push(("norm.weight".to_owned(), vec![WIDTH]));
    shapes.push(("head.weight".to_owned(), vec![WORDS, WIDTH]));
    shapes.push(("scale".to_owned(), vec![1]));
    let mut state = 1_u64;
    let mut value = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Multiples of 2⁻⁸ below 1: exact in bf16 and f16, too.
        f32::from((state >> 56) as i8) / 256.0
    };
    let with_values = |(name, shape): (String, Vec<usize>)| {
        let values = (0..shape.iter().product()).map(|_| value()).collect();
        (name, shape, values)
    };
    shapes.into_iter().map(with_values).collect()
}

fn write(path: &Path, dtype: Dtype, rename: impl Fn(&str) -> String) {
    let encode = |value: &f32| match dtype {
        Dtype::F32 => value.to_le_bytes().to_vec(),
        Dtype::BF16 => value.to_bits().to_le_bytes()[2..].to_vec(),
        other => panic!("{other:?}"),
    };
    let tensors = tensors();
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, _, values)| values.iter().flat_map(encode).collect()).collect();
    let views = tensors
        .iter()
        .zip(&bytes)
        .map(|((name, shape, _), bytes)| (rename(name), TensorView::new(dtype, shape.clone(), bytes).unwrap()));
    safetensors::serialize_to_file(views, None, path).unwrap();
}

/// The result of the model computed by hand, in f64, without Burn.
fn reference(ids: &[usize]) -> Vec<f32> {
    let tensors = tensors();
    let get = |name: &str| -> Vec<f64> {
        let found = tensors.iter().find(|(found, _, _)| found == name).unwrap();
        found.2.iter().map(|&v| f64::from(v)).collect()
    };
    let linear = |x: &[f64], name: &str, bias: bool| -> Vec<f64> {
        let weight = get(&format!("{name}.weight"));
        let sums = weight.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>());
        if bias { sums.zip(get(&format!("{name}.bias"))).map(|(y, b)| y + b).collect() } else { sums.collect() }
    };
    let layer_norm = |x: &[f64], name: &str| -> Vec<f64> {
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let (scale, bias) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        x.iter().zip(scale.iter().zip(bias)).map(|(v, (s, b))| (v - mean) / (variance + 1e-5).sqrt() * s + b).collect()
    };
    let mut out = Vec::new();
    for &id in ids {
        let mut x: Vec<f64> = get("embedding.weight")[id * WIDTH..][..WIDTH].to_vec();
        for block in 0..BLOCKS {
            let normed = layer_norm(&x, &format!("blocks.{block}.norm"));
            let inner: Vec<f64> =
                linear(&normed, &format!("blocks.{block}.up"), true).into_iter().map(|v| v.max(0.0)).collect();
            let down = linear(&inner, &format!("blocks.{block}.down"), true);
            x.iter_mut().zip(down).for_each(|(x, d)| *x += d);
        }
        let rms = (x.iter().map(|v| v * v).sum::<f64>() / WIDTH as f64 + 1e-5).sqrt();
        let normed: Vec<f64> = x.iter().zip(get("norm.weight")).map(|(v, s)| v / rms * s).collect();
        let scale = get("scale")[0];
        out.extend(linear(&normed, "head", false).into_iter().map(|v| (v * scale) as f32));
    }
    out
}

const IDS: [i64; 3] = [3, 0, 15];

fn run(model: &Streamed<Model>, device: &Device) -> Vec<f32> {
    let ids = Tensor::<2, Int>::from_data(TensorData::new(IDS.to_vec(), [1, IDS.len()]), device);
    model.run(|model| model.forward(ids)).unwrap().into_data().convert::<f32>().try_to_vec().unwrap()
}

fn check(device: &Device, dtype: Dtype, memory: &str) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, dtype, str::to_owned);
    let model = Model::new(device).stream(StreamOptions::new(&path).memory(memory.parse().unwrap())).unwrap();
    let expected = reference(&IDS.map(|id| id as usize));
    for pass in 0..3 {
        let ours = run(&model, device);
        let scale = expected.iter().fold(1.0_f32, |max, v| max.max(v.abs()));
        for (a, b) in ours.iter().zip(&expected) {
            assert!((a - b).abs() < 1e-5 * scale, "{dtype:?} with {memory}, pass {pass}: {a} and not {b}");
        }
    }
    let budget = model.weights().streamer().budget();
    assert!(budget.peak_bytes() <= budget.limit_bytes(), "{budget:?}");
    let stats = model.stats();
    assert!(stats.bytes_read > 0 && stats.accesses > 0, "{stats:?}");
}

#[test]
fn a_streamed_module_computes_what_the_weights_say() {
    let device = DeviceKind::Cpu.open().unwrap();
    for memory in ["1MB", "64KiB", "33KiB"] {
        check(&device, Dtype::F32, memory);
        check(&device, Dtype::BF16, memory);
    }
}

#[cfg(feature = "wgpu")]
#[test]
fn a_streamed_module_computes_the_same_on_wgpu() {
    let device = DeviceKind::Wgpu.open().unwrap();
    check(&device, Dtype::F32, "64KiB");
    check(&device, Dtype::BF16, "64KiB");
}

#[test]
fn weights_in_memory_are_used_in_place() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, Dtype::F32, str::to_owned);
    let device = DeviceKind::Cpu.open().unwrap();
    let model = Model::new(&device).stream(StreamOptions::new(&path).memory("1MB".parse().unwrap())).unwrap();
    let budget = model.weights().streamer().budget().clone();
    run(&model, &device);
    let resident = budget.used_bytes();
    let head = model.head.weight.val();
    assert_eq!(budget.used_bytes(), resident, "a view of the cache takes no memory of its own");
    assert_eq!(head.dims(), [WIDTH, WORDS]);
}

#[test]
fn renames_lead_to_the_modules_paths() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, Dtype::F32, |name| format!("net.{}", name.replace("blocks.", "h.")));
    let device = DeviceKind::Cpu.open().unwrap();
    let options = || StreamOptions::new(&path).memory("64KiB".parse().unwrap());
    let error = Model::new(&device).stream(options()).unwrap_err();
    assert!(matches!(&error, AttachError::NoTensor { path, .. } if path == "embedding.weight"), "{error}");
    let renamed = options().rename(r"^net\.", "").rename(r"^h\.(\d+)", "blocks.$1");
    let model = Model::new(&device).stream(renamed).unwrap();
    let expected = reference(&IDS.map(|id| id as usize));
    assert!(run(&model, &device).iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3));
}

#[test]
fn what_does_not_fit_is_a_clear_error() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, Dtype::F32, str::to_owned);
    let device = DeviceKind::Cpu.open().unwrap();
    let open = |path: &PathBuf, memory: &str| {
        Model::new(&device).stream(StreamOptions::new(path).memory(memory.parse().unwrap()))
    };
    let missing = open(&directory.path().join("absent.safetensors"), "1MB").unwrap_err().to_string();
    assert!(missing.contains("absent.safetensors"), "{missing}");
    let small = open(&path, "1KB").unwrap_err().to_string();
    assert!(small.contains("smallest"), "{small}");
    let other = LinearConfig::new(3, 3).init(&device).stream(StreamOptions::new(&path)).unwrap_err();
    assert!(matches!(other, AttachError::NoTensor { .. }), "{other}");
    let shape = LinearConfig::new(WIDTH, 7).with_bias(false).init(&device);
    let shape = shape.stream(StreamOptions::new(&path).rename("^head.", "")).unwrap_err();
    assert!(matches!(&shape, AttachError::Shape { name, .. } if name == "head.weight"), "{shape}");
}

#[test]
fn a_streamed_module_is_not_streamed_again() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, Dtype::F32, str::to_owned);
    let device = DeviceKind::Cpu.open().unwrap();
    let options = || StreamOptions::new(&path).memory("64KiB".parse().unwrap());
    let once = Model::new(&device).stream(options()).unwrap().into_inner();
    let error = once.stream(options()).unwrap_err();
    assert!(matches!(&error, AttachError::Reparameterized { path } if path == "embedding.weight"), "{error}");
}

#[test]
fn a_checkpoint_in_the_wrong_layout_is_an_error_that_names_the_option() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, Dtype::F32, str::to_owned);
    let device = DeviceKind::Cpu.open().unwrap();
    let error = Model::new(&device).stream(StreamOptions::new(&path).burn_layout()).unwrap_err();
    assert!(matches!(&error, AttachError::Shape { path, .. } if path == "blocks.0.up.weight"), "{error}");
    assert!(error.to_string().contains("burn_layout"), "{error}");
}

#[test]
fn a_file_that_shrinks_gives_an_error_and_no_numbers() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.safetensors");
    write(&path, Dtype::F32, str::to_owned);
    let device = DeviceKind::Cpu.open().unwrap();
    let model = Model::new(&device).stream(StreamOptions::new(&path).memory("64KiB".parse().unwrap())).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let ids = Tensor::<2, Int>::from_data(TensorData::new(IDS.to_vec(), [1, IDS.len()]), &device);
    let error = model.run(|model| model.forward(ids)).unwrap_err();
    let causes = std::iter::successors(Some(&error as &dyn std::error::Error), |error| error.source());
    let message = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
    for part in ["embedding.weight", "model.safetensors", "shorter"] {
        assert!(message.contains(part), "{message}");
    }
}
