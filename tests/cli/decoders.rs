//! `[model.decoder]`: its keys from what stands beside weights, heads of its own, and a run.

use hesspec::output::{BlockRow, Results};

use crate::folder::Folder;

const TINY: &str = r#"
layers = 2
heads = 4
kv_heads = 2
head = 2
embedding = 6
mlp = 5
context = 4
vocabulary = 11
tied = true
norm_epsilon = 1e-6
"#;

/// What Hugging Face writes beside a Qwen 3 of these sizes.
const QWEN: &str = r#"{"model_type": "qwen3", "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 2,
    "hidden_size": 6, "intermediate_size": 5, "vocab_size": 11, "max_position_embeddings": 40, "rms_norm_eps": 1e-06,
    "tie_word_embeddings": true, "hidden_act": "silu", "rope_parameters": {"rope_theta": 1000000.0, "rope_type": "default"},
    "use_sliding_window": false, "sliding_window": 2}"#;

fn configure(folder: &Folder, name: &str, keys: &str) {
    let tiny = std::fs::read_to_string(folder.path("tiny.toml")).unwrap();
    let (_, rest) = tiny.split_once("[data.tokens]").unwrap();
    let (_, rest) = rest.split_once('\n').unwrap();
    let rest = format!("[data.tokens]\n{}", rest.replace("tokens = 30", "tokens = 24"));
    folder.write(name, format!("[model.decoder]\n{keys}\n{rest}").as_bytes());
}

#[test]
fn a_folder_of_hugging_face_says_what_decoder_it_is() {
    let folder = Folder::new();
    configure(&folder, "given.toml", &format!("{TINY}qk_norm = \"head\"\nrope = {{ theta = 1e6 }}"));
    std::fs::create_dir(folder.path("hub")).unwrap();
    folder.hesspec("weights export given.toml hub/model.safetensors").ok();
    folder.write("hub/config.json", QWEN.as_bytes());
    let loss = |config: &str| {
        let said = folder.hesspec(&format!("hvp {config} --loss --json"));
        said.ok().json()["loss"].as_f64().unwrap()
    };
    configure(&folder, "bare.toml", "weights = \"hub\"\ncontext = 4");
    assert_eq!(loss("bare.toml"), loss("given.toml --set model.decoder.weights=hub/model.safetensors"));
    for (key, parts) in [
        ("heads = 2", ["model.decoder.heads = 2", "heads = 4"]),
        ("qk_norm = \"none\"", ["qk_norm = \"none\"", "qk_norm = \"head\""]),
        ("tied = false", ["tied = false", "tied = true"]),
        ("rope = { theta = 10.0 }", ["rope.theta = 10", "rope.theta = 1000000"]),
    ] {
        configure(&folder, "wrong.toml", &format!("weights = \"hub\"\ncontext = 4\n{key}"));
        folder.hesspec("plan wrong.toml --no-timing").failed(2, &parts);
    }
    configure(&folder, "long.toml", "weights = \"hub\"\ncontext = 41");
    folder.hesspec("plan long.toml --no-timing").failed(2, &["context = 41", "40 positions"]);
    for (found, part) in [
        (QWEN.replace("qwen3", "gpt2"), "[model.gpt2] has it"),
        (QWEN.replace("qwen3", "gemma2"), "llama, mistral, olmo2, qwen2, qwen3"),
        (QWEN.replace("silu", "relu"), "hidden_act = `relu`"),
        (QWEN.replace("\"default\"", "\"yarn\""), "rope_type = `yarn`"),
        (QWEN.replace("\"default\"", "\"llama3\""), "factor"),
        (QWEN.replace("use_sliding_window\": false", "use_sliding_window\": true"), "sliding window"),
        (QWEN.replace("\"hidden_size\": 6", "\"hidden_size\": -6"), "hidden_size = -6"),
    ] {
        folder.write("hub/config.json", found.as_bytes());
        folder.hesspec("plan bare.toml --no-timing").failed(2, &["hub/config.json", part]);
    }
    configure(&folder, "gpt2.toml", "");
    folder.write("hub/config.json", QWEN.as_bytes());
    folder
        .hesspec("plan tiny.toml --no-timing --set model.gpt2.weights=hub")
        .failed(2, &["`qwen3`", "[model.decoder] has it"]);
}

#[test]
fn a_run_by_head_has_fewer_heads_of_keys_than_of_queries() {
    let folder = Folder::new();
    configure(&folder, "own.toml", TINY);
    let by_head = "--set blocks.partition=\"head\" --set blocks.include=[\"*.1.self_attn.*\"]";
    folder.hesspec(&format!("run own.toml --output out {by_head}")).ok();
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let blocks = run.read::<BlockRow>().unwrap();
    let count = |part: &str| blocks.iter().filter(|row| row.block.contains(part)).count();
    assert_eq!([count("q_proj"), count("k_proj"), count("v_proj"), count("o_proj")], [4, 2, 2, 4]);
    configure(&folder, "bare.toml", &TINY.replace("head = 2\n", "").replace("kv_heads = 2\n", ""));
    folder.hesspec("check own.toml").ok();
    for wrong in
        ["heads=5", "kv_heads=3", "rope.share=0.1", "norm_epsilon=0", "rope.scaling={factor=2,low=3,high=2,original=8}"]
    {
        let key = wrong.split('=').next().unwrap();
        let without = if key == "heads" { "plan bare.toml" } else { "plan own.toml" };
        folder.hesspec(&format!("{without} --no-timing --set model.decoder.{wrong}")).failed(2, &[key]);
    }
}
