//! Weights under other names and in PyTorch's files.

use crate::folder::Folder;

#[test]
fn exported_weights_are_the_same_network() {
    let folder = Folder::new();
    let loss = |weights: &str| {
        let set = if weights.is_empty() { String::new() } else { format!("--set model.gpt2.weights={weights}") };
        folder.hesspec(&format!("hvp tiny.toml --loss --json {set}")).ok().json()["loss"].as_f64().unwrap()
    };
    let initial = loss("");
    for (out, naming) in
        [("a.safetensors", ""), ("b.pt", ""), ("c.pt", "--naming paper"), ("d.safetensors", "--naming nanogpt")]
    {
        let answer = folder.hesspec(&format!("weights export tiny.toml {out} {naming} --json")).ok().json();
        assert_eq!(answer["num_params"], 1216, "{out}");
        assert_eq!(loss(out), initial, "{out}");
    }
    // nothing is replaced without a word
    let before = std::fs::read(folder.path("a.safetensors")).unwrap();
    let again = "weights export tiny.toml a.safetensors --set run.seed=2";
    folder.hesspec(again).failed(2, &["a.safetensors", "already there", "--force"]);
    assert_eq!(std::fs::read(folder.path("a.safetensors")).unwrap(), before);
    folder.hesspec(&format!("{again} --force")).ok();
    assert_ne!(std::fs::read(folder.path("a.safetensors")).unwrap(), before);
    let other =
        folder.hesspec("weights export tiny.toml e.safetensors --set run.seed=2 --set model.gpt2.bias=false").ok();
    assert!(other.stdout.contains("naming huggingface"), "{}", other.stdout);
    folder
        .hesspec("check tiny.toml --set model.gpt2.weights=e.safetensors")
        .failed(2, &["missing", "transformer.h.0.attn.c_attn.bias [24]", "and 5 more"]);
    folder.hesspec("weights export tiny.toml x.bin").failed(2, &["x.bin", ".safetensors"]);
    folder.hesspec("weights export tiny.toml x.pt --naming other").failed(2, &["huggingface, nanogpt, paper"]);
    folder.hesspec("weights export tiny.toml none/x.pt").failed(5, &["none/x.pt"]);
    if cfg!(not(feature = "s3")) {
        folder.hesspec("check tiny.toml --set model.gpt2.weights=s3://bucket/x.pt").failed(3, &["--features s3"]);
    }
}

/// What Hugging Face writes beside a GPT-2 of the tiny network's sizes.
const HUGGING_FACE: &str = r#"{"model_type": "gpt2", "n_layer": 2, "n_head": 2, "n_embd": 8, "n_inner": 12, "n_positions": 6,
    "vocab_size": 11, "activation_function": "gelu_new", "layer_norm_epsilon": 1e-05, "tie_word_embeddings": true}"#;

/// The tiny configuration with nothing but its weights under `[model.gpt2]`.
fn with_weights(folder: &Folder, weights: &str, keys: &str) {
    let tiny = std::fs::read_to_string(folder.path("tiny.toml")).unwrap();
    let (_, rest) = tiny.split_once("[data.tokens]").unwrap();
    folder.write("own.toml", format!("[model.gpt2]\nweights = \"{weights}\"\n{keys}\n[data.tokens]{rest}").as_bytes());
}

/// A folder as `save_pretrained` makes it, whole and in shards: sizes and variants come from its config.json.
#[test]
fn a_folder_of_hugging_face_says_what_network_it_is() {
    let folder = Folder::new();
    folder.hesspec("weights export tiny.toml w.safetensors").ok();
    let loss =
        |config: &str| folder.hesspec(&format!("hvp {config} --loss --json")).ok().json()["loss"].as_f64().unwrap();
    let expected = loss("tiny.toml --set model.gpt2.gelu=tanh --set model.gpt2.weights=w.safetensors");
    std::fs::create_dir(folder.path("hub")).unwrap();
    std::fs::copy(folder.path("w.safetensors"), folder.path("hub/model.safetensors")).unwrap();
    folder.write("hub/config.json", HUGGING_FACE.as_bytes());
    for place in ["hub", "hub/", "hub/model.safetensors"] {
        with_weights(&folder, place, "");
        assert_eq!(loss("own.toml"), expected, "{place}");
    }
    with_weights(&folder, "hub", "heads = 4");
    folder.hesspec("plan own.toml").failed(2, &["own.toml:3", "model.gpt2.heads = 4", "heads = 2", "hub/config.json"]);
    with_weights(&folder, "hub", "gelu = \"erf\"");
    folder.hesspec("check own.toml").failed(2, &["model.gpt2.gelu = \"erf\"", "gelu = \"tanh\""]);
    // windows may be shorter than the positions reach
    with_weights(&folder, "hub", "context = 3");
    let short = folder.hesspec("hvp own.toml --loss --json --set batch.stride=6").ok().json()["loss"].as_f64().unwrap();
    assert!((short / expected - 1.0).abs() < 0.1 && short != expected, "{short} {expected}");
    with_weights(&folder, "hub", "context = 7");
    folder.hesspec("plan own.toml").failed(2, &["model.gpt2.context = 7", "6 positions"]);
    with_weights(&folder, "hub", "positions = 7");
    folder.hesspec("plan own.toml").failed(2, &["model.gpt2.positions = 7", "positions = 6"]);
    with_weights(&folder, "hub", "");
    for (found, part) in [
        (HUGGING_FACE.replace("\"gpt2\"", "\"llama\""), "`llama`"),
        (HUGGING_FACE.replace("gelu_new", "relu"), "activation_function = `relu`"),
        (HUGGING_FACE.replace("1e-05", "1e-06"), "layer_norm_epsilon = 1e-6"),
        (HUGGING_FACE.replace("true}", "true, \"scale_attn_weights\": false}"), "scale_attn_weights"),
        ("{".into(), "no JSON"),
    ] {
        folder.write("hub/config.json", found.as_bytes());
        folder.hesspec("check own.toml").failed(2, &["hub/config.json", part]);
    }
    // in shards
    let all = folder.load("w.safetensors");
    std::fs::remove_file(folder.path("hub/model.safetensors")).unwrap();
    folder.write("hub/config.json", HUGGING_FACE.as_bytes());
    folder.hesspec("check own.toml").failed(2, &["hub: the folder has no weights", "model.safetensors.index.json"]);
    let mut map = serde_json::Map::new();
    for (number, is_here) in [(1, true), (2, false)] {
        let part = all.iter().filter(|(name, _)| name.contains(".h.") == is_here);
        let part: crate::folder::Tensors = part.map(|(name, value)| (name.clone(), value.clone())).collect();
        let file = format!("model-{number:05}-of-00002.safetensors");
        map.extend(part.keys().map(|name| (name.clone(), file.clone().into())));
        folder.save(&format!("hub/{file}"), &part, safetensors::tensor::Dtype::F64);
    }
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    folder.write("hub/model.safetensors.index.json", index.as_bytes());
    assert_eq!(loss("own.toml"), expected);
    std::fs::remove_file(folder.path("hub/model-00002-of-00002.safetensors")).unwrap();
    folder.hesspec("check own.toml").failed(2, &["model.safetensors.index.json", "a shard is missing", "model-00002"]);
}

/// `save_model` of safetensors writes one of two tied tensors, which may be the head.
#[test]
fn the_head_stands_in_for_the_tied_table() {
    let folder = Folder::new();
    folder.hesspec("weights export tiny.toml w.safetensors").ok();
    let mut all = folder.load("w.safetensors");
    let table = all.remove("transformer.wte.weight").unwrap();
    all.insert("lm_head.weight".into(), table);
    folder.save("tied.safetensors", &all, safetensors::tensor::Dtype::F64);
    let hash = |weights: &str| {
        let said = folder.hesspec(&format!("hvp tiny.toml --loss --json --set model.gpt2.weights={weights}"));
        said.ok().json()["loss"].as_f64().unwrap()
    };
    assert_eq!(hash("tied.safetensors"), hash("w.safetensors"));
    folder
        .hesspec("check tiny.toml --set model.gpt2.weights=tied.safetensors --set model.gpt2.tied=false")
        .failed(2, &["missing", "transformer.wte.weight"]);
}

#[test]
fn what_is_no_file_of_weights_is_named_for_what_it_is() {
    let folder = Folder::new();
    for (name, content, what) in [
        (
            "lfs",
            &b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\n"[..],
            "Git LFS",
        ),
        ("page", b"<!DOCTYPE html>\n<html><head><title>Not found</title></head></html>\n", "web page"),
        ("model.gguf", b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0", "GGUF"),
        ("llmc.bin", &[&20_240_326i32.to_le_bytes()[..], &[0; 1020]].concat(), "llm.c"),
        ("record.mpk", b"\x82\xa8metadata\x85\xaafloat_type\xa3f32\xa8int_type\xa3i32\xa6format", "record of burn"),
        ("w.safetensors.gz", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x4b\x4c\x04\x02\0\0", "gzip"),
    ] {
        folder.write(name, content);
        let said = folder.hesspec(&format!("check tiny.toml --set model.gpt2.weights={name}"));
        said.failed(2, &[name, what, "expected safetensors"]);
    }
}
