//! A folder with a tiny network, its tokens, and the program to run on them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use tempfile::TempDir;

/// Tokens are below this.
pub const VOCABULARY: u16 = 11;

const CONFIG: &str = r#"
[model.gpt2]
layers = 2
heads = 2
embedding = 8
mlp = 12
context = 6
vocabulary = 11
bias = true

[data.tokens]
path = "train.bin"

[batch]
tokens = 30                     # five windows
micro_batch = 2                 # does not divide them

[hessian]
precision = "f64"

[blocks]
exclude = ["*.bias", "*.ln_*"]

[lanczos]
steps = 6
probes = 2
full_probes = 1

[distance]
grid_points = 2000
"#;

/// Tensors by name: shape and values.
pub type Tensors = HashMap<String, (Vec<usize>, Vec<f64>)>;

/// See the module.
pub struct Folder(TempDir);

/// What the program said.
pub struct Said {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Folder {
    pub fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("tiny.toml", CONFIG.as_bytes());
        let tokens = (0..80u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 16) as u16 % VOCABULARY);
        folder.write("train.bin", &tokens.flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
        folder
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    /// Adds lines to the configuration.
    pub fn configure(&self, lines: &str) {
        self.write("tiny.toml", format!("{CONFIG}\n{lines}\n").as_bytes());
    }

    /// The program in this folder, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hesspec"));
        command.args(arguments).current_dir(self.0.path()).env_remove("HESSPEC_LOG").env_remove("RUST_LOG");
        command
    }

    /// Runs `hesspec ARGUMENTS` here; arguments are split at spaces.
    pub fn hesspec(&self, arguments: &str) -> Said {
        let Output { status, stdout, stderr } =
            self.command(&arguments.split_whitespace().collect::<Vec<_>>()).output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) }
    }

    /// Saves tensors in f64, or rounded to f32.
    pub fn save(&self, name: &str, tensors: &Tensors, dtype: Dtype) {
        let bytes: Vec<(&String, &Vec<usize>, Vec<u8>)> = tensors
            .iter()
            .map(|(key, (shape, values))| {
                let bytes = values.iter().flat_map(|x| match dtype {
                    Dtype::F64 => x.to_le_bytes().to_vec(),
                    _ => (*x as f32).to_le_bytes().to_vec(),
                });
                (key, shape, bytes.collect())
            })
            .collect();
        let views = bytes
            .iter()
            .map(|(key, shape, bytes)| (key.as_str(), TensorView::new(dtype, shape.to_vec(), bytes).unwrap()));
        safetensors::serialize_to_file(views, None, &self.path(name)).unwrap();
    }

    pub fn load(&self, name: &str) -> Tensors {
        load(&self.path(name))
    }

    /// Shapes of all parameters, filled with numbers that depend on `seed` only.
    pub fn vector(&self, seed: u64) -> Tensors {
        let mut state = seed;
        let mut shapes: Vec<_> = layout().into_iter().collect();
        shapes.sort();
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            f64::from((state >> 40) as f32 / (1 << 24) as f32 - 0.5) // exact in f32
        };
        shapes
            .into_iter()
            .map(|(name, shape)| {
                let values = (0..shape.iter().product::<usize>()).map(|_| next()).collect();
                (name, (shape, values))
            })
            .collect()
    }
}

/// Names and shapes of the tiny network's parameters, written down rather than asked for.
pub fn layout() -> HashMap<String, Vec<usize>> {
    let mut shapes = HashMap::from([
        ("transformer.wte.weight".to_string(), vec![11, 8]),
        ("transformer.wpe.weight".into(), vec![6, 8]),
        ("transformer.ln_f.weight".into(), vec![8]),
        ("transformer.ln_f.bias".into(), vec![8]),
    ]);
    for layer in 0..2 {
        for (name, rows, columns) in
            [("attn.c_attn", 8, 24), ("attn.c_proj", 8, 8), ("mlp.c_fc", 8, 12), ("mlp.c_proj", 12, 8)]
        {
            shapes.insert(format!("transformer.h.{layer}.{name}.weight"), vec![rows, columns]);
            shapes.insert(format!("transformer.h.{layer}.{name}.bias"), vec![columns]);
        }
        for norm in ["ln_1", "ln_2"] {
            shapes.insert(format!("transformer.h.{layer}.{norm}.weight"), vec![8]);
            shapes.insert(format!("transformer.h.{layer}.{norm}.bias"), vec![8]);
        }
    }
    shapes
}

fn load(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let values = |view: &TensorView<'_>| match view.dtype() {
        Dtype::F64 => view.data().chunks(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect(),
        Dtype::F32 => view.data().chunks(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect(),
        other => panic!("{other:?} in {}", path.display()),
    };
    file.iter().map(|(name, view)| (name.to_string(), (view.shape().to_vec(), values(&view)))).collect()
}

/// The tensors `name@number` as `name`, or the other way round.
pub fn numbered(tensors: &Tensors, number: u32) -> Tensors {
    tensors.iter().map(|(name, value)| (format!("{name}@{number}"), value.clone())).collect()
}

pub fn only(tensors: &Tensors, number: u32) -> Tensors {
    let ending = format!("@{number}");
    let of =
        |(name, value): (&String, &(Vec<usize>, Vec<f64>))| Some((name.strip_suffix(&ending)?.into(), value.clone()));
    tensors.iter().filter_map(of).collect()
}

/// a x + b y, tensor by tensor.
pub fn combine(a: f64, x: &Tensors, b: f64, y: &Tensors) -> Tensors {
    let sum = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f64>))| {
        let other = &y[name].1;
        (name.clone(), (shape.clone(), values.iter().zip(other).map(|(x, y)| a * x + b * y).collect()))
    };
    x.iter().map(sum).collect()
}

pub fn dot(x: &Tensors, y: &Tensors) -> f64 {
    x.iter().map(|(name, (_, values))| values.iter().zip(&y[name].1).map(|(x, y)| x * y).sum::<f64>()).sum()
}

pub fn norm(x: &Tensors) -> f64 {
    dot(x, x).sqrt()
}

/// |x - y| / |y|
pub fn relative(x: &Tensors, y: &Tensors) -> f64 {
    assert_eq!(x.len(), y.len());
    norm(&combine(1.0, x, -1.0, y)) / norm(y)
}

impl Said {
    /// It went well.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.stdout, self.stderr);
        self
    }

    /// It failed with this code, and the message has all these parts.
    #[track_caller]
    pub fn failed(self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, Some(code), "{}{}", self.stdout, self.stderr);
        assert!(self.stderr.contains("hesspec: error: "), "{}", self.stderr);
        for part in parts {
            assert!(self.stderr.contains(part), "`{part}` is not in: {}", self.stderr);
        }
    }

    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error} in: {}", self.stdout))
    }
}
