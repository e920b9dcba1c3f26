use super::*;
use crate::models::names::read;
use crate::models::{Initial, initialise};
use crate::networks::gpt2::{Gpt2, Gpt2Config, NAMES};
use crate::storage::{Access, Location};
use burn::tensor::{bf16, f16};
use safetensors::serialize;
use safetensors::tensor::{Dtype, TensorView};

type Double = burn_ndarray::NdArray<f64>;
type Flex = burn_flex::Flex;

fn small() -> Gpt2Config {
    Gpt2Config {
        layers: 1,
        heads: 2,
        embedding: 4,
        mlp: 6,
        context: 3,
        vocabulary: 5,
        bias: true,
        ..Gpt2Config::nano()
    }
}

fn empty<B: Backend>(config: &Gpt2Config) -> Gpt2<B> {
    config.init(&Default::default()).unwrap()
}

/// A file's tensors: name to (type, shape, bytes).
type File = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

/// Tensors for every parameter, entry i of the network being f(i).
fn file<const N: usize>(config: &Gpt2Config, dtype: Dtype, f: impl Fn(usize) -> [u8; N]) -> File {
    let layout = config.layout();
    let tensor = |p: &crate::block::Parameter| {
        let bytes = (0..p.num_params()).flat_map(|i| f(p.offset + i)).collect();
        (p.name.clone(), (dtype, p.shape.clone(), bytes))
    };
    layout.parameters().iter().map(tensor).collect()
}

fn singles(config: &Gpt2Config) -> File {
    file(config, Dtype::F32, |i| (i as f32 / 8.0).to_le_bytes())
}

fn bytes(file: &File) -> Vec<u8> {
    let views =
        file.iter().map(|(name, (dtype, shape, data))| (name, TensorView::new(*dtype, shape.clone(), data).unwrap()));
    serialize(views, None).unwrap()
}

fn flat<B: Backend>(model: &Gpt2<B>) -> Vec<f64> {
    let mut values = Vec::new();
    read(model, &NAMES, |_, data| values.extend(data.iter::<f64>()));
    values
}

fn loaded(config: &Gpt2Config, file: &File) -> Result<Vec<f64>> {
    Ok(flat(&load_bytes(empty::<Double>(config), &NAMES, &bytes(file), "model.safetensors", DType::F64)?))
}

fn refused(config: &Gpt2Config, file: &File) -> String {
    let error = loaded(config, file).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let text = error.to_string();
    assert!(text.starts_with("model.safetensors: "), "{text}");
    text
}

fn eighths(config: &Gpt2Config) -> Vec<f64> {
    (0..config.layout().num_params()).map(|i| i as f64 / 8.0).collect()
}

#[test]
fn an_empty_file_is_said_to_be_empty() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["ckpt.pt", "model.safetensors"] {
        let path = folder.path().join(name).display().to_string();
        std::fs::write(&path, "").unwrap();
        let error = load(empty::<Flex>(&small()), &NAMES, &path, DType::F32).err().unwrap();
        assert!(error.exit_code() == 2 && error.to_string().contains(&format!("{path}: the file is empty")), "{error}");
    }
}

/// By what it says of its tensors, on a disk and on an object store.
#[test]
fn what_does_not_fit_is_found_without_its_numbers() {
    let config = small();
    let other = Gpt2Config { vocabulary: 6, ..config.clone() };
    let whole = bytes(&singles(&config));
    let folder = tempfile::tempdir().unwrap();
    for place in ["memory://weights/check", folder.path().to_str().unwrap()] {
        let location = Location::open(place, Access::Write).unwrap();
        let checked = |name: &str| check(&config.layout(), &NAMES, format!("{place}/{name}"));
        location.put("fits", whole.clone()).unwrap();
        checked("fits").unwrap();
        for (name, content, part) in [
            ("other", bytes(&singles(&other)), "set model.gpt2.vocabulary = 6"),
            ("no_numbers", whole[..whole.len() - 4].to_vec(), "not a complete safetensors file"),
            ("no_header", whole[..20].to_vec(), "not a complete safetensors file"),
            ("text", b"{}".to_vec(), "not a complete safetensors file"),
            ("empty", Vec::new(), "the file is empty"),
        ] {
            location.put(name, content).unwrap();
            let error = checked(name).unwrap_err();
            let text = error.to_string();
            assert!(
                error.exit_code() == 2 && text.contains(&format!("{place}/{name}: ")) && text.contains(part),
                "{text}"
            );
        }
        let none = checked("none").unwrap_err();
        assert!(none.exit_code() == 2 && none.to_string().contains("cannot read the weights"), "{none}");
    }
}

#[test]
fn every_type_of_number_lands_where_its_name_says() {
    let config = small();
    assert_eq!(loaded(&config, &singles(&config)).unwrap(), eighths(&config));
    let doubles = file(&config, Dtype::F64, |i| (i as f64 * 0.1).to_le_bytes());
    assert_eq!(loaded(&config, &doubles).unwrap()[37], 37.0 * 0.1);
    let halves = file(&config, Dtype::F16, |i| f16::from_f64(i as f64 / 8.0).to_le_bytes());
    assert_eq!(loaded(&config, &halves).unwrap(), eighths(&config)); // 8 bits: exact in f16's 11
    let brains = file(&config, Dtype::BF16, |i| bf16::from_f64(i as f64).to_le_bytes());
    assert_eq!(loaded(&config, &brains).unwrap()[193], 193.0); // 8 bits: exact in bf16's 8
}

#[test]
fn the_prefix_may_be_left_out_and_buffers_and_the_tied_copy_are_left_aside() {
    let config = small();
    let mut bare: File = singles(&config)
        .into_iter()
        .map(|(name, tensor)| (name.trim_start_matches("transformer.").to_owned(), tensor))
        .collect();
    bare.insert("h.0.attn.bias".into(), (Dtype::U8, vec![1, 1, 3, 3], vec![1; 9]));
    bare.insert("h.0.attn.masked_bias".into(), (Dtype::F32, vec![], vec![0; 4]));
    bare.insert("lm_head.weight".into(), bare["wte.weight"].clone());
    assert_eq!(loaded(&config, &bare).unwrap(), eighths(&config));

    let mut other = singles(&config);
    let mut head = other["transformer.wte.weight"].clone();
    head.2[0] ^= 1;
    other.insert("lm_head.weight".into(), head);
    assert!(refused(&config, &other).contains("set tied = false"));
    let untied = Gpt2Config { tied: false, ..config };
    loaded(&untied, &other).unwrap();

    let mut twice = singles(&untied);
    twice.insert("wte.weight".into(), twice["transformer.wte.weight"].clone());
    assert!(refused(&untied, &twice).contains("transformer.wte.weight is there twice"));
}

#[test]
fn what_does_not_fit_is_listed_by_name() {
    let config = small();
    let mut bad = singles(&config);
    bad.remove("transformer.h.0.attn.c_attn.bias");
    bad.insert("transformer.h.1.ln_1.weight".into(), (Dtype::F32, vec![4], vec![0; 16]));
    let table = bad.get_mut("transformer.wte.weight").unwrap();
    table.1 = vec![4, 5];
    let text = refused(&config, &bad);
    assert!(text.contains("1 missing: transformer.h.0.attn.c_attn.bias [12]"), "{text}");
    assert!(text.contains("1 wrong shape: transformer.wte.weight is [4, 5], expected [5, 4]"), "{text}");
    assert!(text.contains("1 not in the model: transformer.h.1.ln_1.weight [4]"), "{text}");
    let text = refused(&Gpt2Config { layers: 9, ..config }, &singles(&small()));
    assert!(text.contains("96 missing") && text.contains("and 88 more"), "{text}");
}

#[test]
fn numbers_that_are_none_are_refused_by_name() {
    let config = small();
    for bad in [f32::NAN, f32::INFINITY] {
        let mut file = singles(&config);
        file.get_mut("transformer.h.0.mlp.c_fc.bias").unwrap().2[8..12].copy_from_slice(&bad.to_le_bytes());
        assert!(refused(&config, &file).contains("transformer.h.0.mlp.c_fc.bias is not finite at index 2"));
    }
    let mut file = file(&config, Dtype::F64, |i| (i as f64).to_le_bytes());
    file.get_mut("transformer.ln_f.bias").unwrap().2[0..8].copy_from_slice(&f64::NEG_INFINITY.to_le_bytes());
    assert!(refused(&config, &file).contains("transformer.ln_f.bias is not finite at index 0"));
    file.get_mut("transformer.ln_f.bias").unwrap().0 = Dtype::I64;
    assert!(refused(&config, &file).contains("transformer.ln_f.bias has type I64"));
}

#[test]
fn a_truncated_or_absent_file_is_named() {
    let config = small();
    let mut short = bytes(&singles(&config));
    short.truncate(short.len() - 1);
    let error = load_bytes(empty::<Flex>(&config), &NAMES, &short, "short", DType::F32).unwrap_err();
    assert!(error.to_string().starts_with("short: not a complete safetensors file"), "{error}");
    let error = load(empty::<Flex>(&config), &NAMES, "no/such.safetensors", DType::F32).unwrap_err();
    assert!(error.to_string().starts_with("no/such.safetensors: cannot read the weights"), "{error}");
}

fn random<B: Backend>(module: Gpt2<B>, dtype: DType) -> Gpt2<B> {
    initialise(module, &NAMES, 3, dtype, |_| Some(Initial::Normal(0.02))).unwrap()
}

fn round_trip<B: Backend>(config: &Gpt2Config, dtype: DType) {
    let folder = tempfile::tempdir().unwrap();
    let model = random(empty::<B>(config), dtype);
    for naming in NAMES.namings {
        for place in ["memory://weights/round/model", folder.path().join("model").to_str().unwrap()] {
            for ending in ["safetensors", "pt"] {
                let path = format!("{place}.{ending}");
                save(&model, &NAMES, &path, naming).unwrap();
                let again = load(empty::<B>(config), &NAMES, &path, dtype).unwrap();
                assert_eq!(flat(&model), flat(&again), "{path} {}", naming.name);
            }
        }
    }
    let to = |name: &str| save(&model, &NAMES, folder.path().join(name).to_str().unwrap(), &Naming::PAPER).unwrap_err();
    assert_eq!(to("no/such/folder.pt").exit_code(), 5);
    assert_eq!(to("model.bin").exit_code(), 2);
}

#[test]
fn what_is_saved_is_loaded_to_the_last_bit() {
    round_trip::<Double>(&small(), DType::F64);
    round_trip::<Flex>(&small(), DType::F64);
    round_trip::<Flex>(&Gpt2Config { tied: false, bias: false, ..small() }, DType::F32);
}

/// What nanoGPT's train.py saves, written by the real torch.save: tests/data/make_nanogpt_pt.py.
const CHECKPOINT: &[u8] = include_bytes!("../../../tests/data/nanogpt.pt");

fn from_checkpoint(bytes: &[u8], config: &Gpt2Config) -> Result<Vec<f64>> {
    Ok(flat(&load_bytes(empty::<Double>(config), &NAMES, bytes, "ckpt.pt", DType::F64)?))
}

#[test]
fn a_checkpoint_of_nanogpt_is_read_with_its_strides_wrappers_and_buffers() {
    assert_eq!(from_checkpoint(CHECKPOINT, &small()).unwrap(), eighths(&small()));
}

/// The format of before PyTorch 1.6, with an optimizer's storages between the model's.
#[test]
fn the_legacy_format_holds_the_same_numbers() {
    const LEGACY: &[u8] = include_bytes!("../../../tests/data/nanogpt_legacy.pt");
    assert_eq!(from_checkpoint(LEGACY, &small()).unwrap(), eighths(&small()));
    let args = legacy::model_args(LEGACY, "ckpt.pt").unwrap();
    assert_eq!((args["n_layer"].as_u64(), args["bias"].as_bool()), (Some(1), Some(true)));
    assert_eq!(args, pytorch::model_args(CHECKPOINT, "ckpt.pt").unwrap());
    for cut in [100, 2000, LEGACY.len() - 5] {
        let error = from_checkpoint(&LEGACY[..cut], &small()).unwrap_err().to_string();
        assert!(error.starts_with("ckpt.pt: "), "{error}");
    }
    let mut damaged = LEGACY.to_vec();
    for at in (0..3000).step_by(11) {
        damaged[at] ^= 0x11;
        let _ = from_checkpoint(&damaged, &small()); // an error or harmless, never a panic
        damaged[at] ^= 0x11;
    }
}

#[test]
fn a_checkpoint_that_does_not_fit_is_explained() {
    let refused = |bytes: &[u8], config: Gpt2Config| {
        let error = from_checkpoint(bytes, &config).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        error.to_string()
    };
    let text = refused(CHECKPOINT, Gpt2Config { vocabulary: 8, ..small() });
    assert!(text.contains("(nanogpt)") && text.contains("wte.weight is [5, 4], expected [8, 4]"), "{text}");
    assert!(text.contains("set model.gpt2.vocabulary = 5"), "{text}");
    assert!(refused(CHECKPOINT, Gpt2Config { context: 4, ..small() }).contains("set model.gpt2.positions = 3"));
    let text = refused(CHECKPOINT, Gpt2Config { bias: false, ..small() });
    assert!(text.contains("7 not in the model: _orig_mod.transformer.h.0.attn.c_attn.bias [12]"), "{text}");
    let text = refused(CHECKPOINT, Gpt2Config { layers: 2, ..small() });
    assert!(text.contains("12 missing: transformer.h.1.ln_1.weight [4]"), "{text}");
    assert!(refused(&CHECKPOINT[..CHECKPOINT.len() - 100], small()).contains("not a complete PyTorch file"));
    assert!(refused(&[], small()).contains("safetensors"));
}

/// A byte of the pickle that is another one must never end in a panic; where it is read at all, nothing but names, types,
/// places and shapes can have changed.
#[test]
fn a_damaged_pickle_is_an_error_or_harmless() {
    let start = CHECKPOINT.windows(4).position(|bytes| bytes == b"\x80\x02}q").unwrap();
    let mut errors = 0;
    for at in (start..start + 2549).step_by(7) {
        for flip in [0x01, 0x10, 0xff] {
            let mut bytes = CHECKPOINT.to_vec();
            bytes[at] ^= flip;
            errors += usize::from(from_checkpoint(&bytes, &small()).is_err());
        }
    }
    assert!(errors > 300, "{errors}");
}

#[test]
fn storages_and_tensors_must_be_whole() {
    // the storage of the first bias, ln_1.bias: its shape in the pickle becomes larger than what is stored
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.pt");
    let model = random(empty::<Double>(&small()), DType::F64);
    save(&model, &NAMES, path.to_str().unwrap(), &Naming::NANO_GPT).unwrap();
    let mut bytes = std::fs::read(&path).unwrap();
    assert_eq!(from_checkpoint(&bytes, &small()).unwrap(), flat(&model));
    let name = b"transformer.ln_f.bias";
    let at = bytes.windows(name.len()).position(|found| found == name).unwrap();
    let shape = bytes[at..].windows(10).position(|found| found == b"\x8a\x08\x00\0\0\0\0\0\0\0").unwrap(); // the offset
    bytes[at + shape + 2] = 1;
    let text = from_checkpoint(&bytes, &small()).unwrap_err().to_string();
    assert!(text.contains("ln_f.bias: its storage 15 has 32 bytes, too few for its shape [4]"), "{text}");
}
