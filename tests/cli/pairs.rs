//! `[model.bert]` on `[data.pairs]`: a network whose predictions differ in number, on the whole machine, and what is refused.

use hesspec::output::{BlockRow, Results};

use crate::folder::Folder;
use crate::images::difference;
use crate::networks::tridiagonals;

const CONFIG: &str = r#"
[model.bert]
layers = 2
heads = 2
embedding = 6
mlp = 5
context = 8
vocabulary = 13
loss = "mlm+nsp"

[data.pairs]
path = "pairs.jsonl"
mask = { token = 12, never = [0, 1], share = 0.4 }

[batch]
samples = 7
micro_batch = 2                 # does not divide them

[hessian]
precision = "f64"

[blocks]
include = ["*.1.*query.weight", "*.1.*dense.weight", "*word*", "cls.predictions.bias"]

[lanczos]
steps = 6
probes = 1
full_probes = 2

[distance]
grid_points = 2000
"#;

/// Nine pairs of 3 to 8 tokens.
fn folder() -> Folder {
    let folder = Folder::new();
    folder.write("bert.toml", CONFIG.as_bytes());
    folder.write("pairs.jsonl", lines().as_bytes());
    folder
}

fn lines() -> String {
    let line = |pair: usize| {
        let length = 3 + pair * 5 % 6;
        let tokens: Vec<usize> = (0..length).map(|at| if at == 0 { 0 } else { 2 + (7 * at + 3 * pair) % 10 }).collect();
        let types: Vec<usize> = (0..length).map(|at| 2 * at / length).collect();
        let next = pair % 2;
        format!("{{\"input_ids\": {tokens:?}, \"token_type_ids\": {types:?}, \"next_sentence_label\": {next}}}\n")
    };
    (0..9).map(line).collect()
}

#[test]
fn bert_has_every_command() {
    let folder = folder();
    let plan = folder.hesspec("plan bert.toml --no-timing").ok().stdout;
    assert!(plan.contains("samples          7 in micro-batches of 1 pairs"), "{plan}"); // seven segments of one pair
    assert!(!plan.contains("guessed from the parameters"), "{plan}");
    let check = folder.hesspec("check bert.toml --json").ok().json();
    assert_eq!((&check["passed"], &check["tokens"]), (&true.into(), &7.into()));
    folder.hesspec("run bert.toml --output out").ok();
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let blocks: Vec<BlockRow> = run.read().unwrap();
    assert!(blocks.iter().any(|row| row.block == "bert.encoder.layer.1.attention.self.query.weight"));
    folder.hesspec("report out").ok();
    let one = tridiagonals(&folder, "out");
    for (name, set) in [("ranks", "run.ranks=2"), ("cut", "batch.segments=2"), ("again", "hessian.prefix_cache=off")] {
        let more = if name == "cut" { "--set batch.micro_batch=3" } else { "" };
        folder.hesspec(&format!("run bert.toml --output {name} --set {set} {more}")).ok();
        let other = difference(&one, &tridiagonals(&folder, name));
        assert!(other <= 1e-12, "{name}: {other:e}");
    }
    folder.hesspec("run bert.toml --output recomputed --set hessian.recompute=true").ok();
    assert_eq!(one, tridiagonals(&folder, "recomputed"), "computing stages again changes no bit");
    folder.hesspec("weights export bert.toml own.safetensors").ok();
    folder.hesspec("run bert.toml --output from --set model.bert.weights=own.safetensors").ok();
    assert_eq!(one, tridiagonals(&folder, "from"), "the same weights out of a file");
}

#[test]
fn other_hidden_tokens_and_another_loss_are_other_runs() {
    let folder = folder();
    let loss = |set: &str| {
        let said = folder.hesspec(&format!("hvp bert.toml --loss --json {set}"));
        said.ok().json()["loss"].as_f64().unwrap()
    };
    let seeds = [0, 1].map(|seed| loss(&format!("--set data.pairs.mask.seed={seed}")));
    assert_ne!(seeds[0], seeds[1]);
    assert_eq!(seeds[0], loss(""));
    for micro_batch in [1, 3, 7] {
        let cut = loss(&format!("--set batch.segments=1 --set batch.micro_batch={micro_batch}"));
        assert!((cut - seeds[0]).abs() < 1e-13 * seeds[0], "{micro_batch}: {cut}, {}", seeds[0]);
    }
    let tokens = loss("--set model.bert.loss=mlm");
    let next = seeds[0] - tokens; // at initialisation both sentences are equally likely
    assert!((next - 2f64.ln()).abs() < 0.05, "{next}");
    folder.hesspec("run bert.toml --output out --set lanczos.steps=2").ok();
    let again = "run bert.toml --output out --set lanczos.steps=2";
    folder.hesspec(&format!("{again} --set data.pairs.mask.seed=1")).failed(2, &["data.pairs.mask"]);
}

#[test]
fn what_the_network_cannot_read_is_named() {
    let folder = folder();
    let refused = |text: &str, parts: &[&str]| {
        folder.write("wrong.jsonl", text.as_bytes());
        folder.hesspec("run bert.toml --output wrong --set data.pairs.path=wrong.jsonl").failed(2, parts);
    };
    let after = |line: &str| format!("{}{line}\n", lines());
    refused(
        &after("{\"input_ids\": [0, 13], \"next_sentence_label\": 0}"),
        &["wrong.jsonl:10: token 13", "vocabulary has 13"],
    );
    refused(
        &after("{\"input_ids\": [2, 2, 2, 2, 2, 2, 2, 2, 2], \"next_sentence_label\": 0}"),
        &["wrong.jsonl:10: 9 tokens", "context is 8"],
    );
    refused(&after("{\"input_ids\": [0, 1], \"next_sentence_label\": 0}"), &["wrong.jsonl:10: no token can be hidden"]);
    refused(
        &after("{\"input_ids\": [2, 3], \"token_type_ids\": [0], \"next_sentence_label\": 0}"),
        &["wrong.jsonl:10: token_type_ids has 1"],
    );
    refused(
        &after("{\"input_ids\": [2, 3], \"token_type_ids\": [0, 2], \"next_sentence_label\": 0}"),
        &["wrong.jsonl:10: token_type_ids has 2"],
    );
    refused(
        &after("{\"input_ids\": [2, 3], \"next_sentence_label\": 3}"),
        &["wrong.jsonl:10: next_sentence_label = 3"],
    );
    refused(&after("{\"input_ids\": [2, 3]}"), &["wrong.jsonl:10: there is no `next_sentence_label`"]);
    refused(&after("{\"input_ids\": [2, 3]"), &["wrong.jsonl:10: EOF", "HINT: expected JSON like"]);
    refused("", &["0 pairs"]);
    let set = |key: &str, parts: &[&str]| {
        folder.hesspec(&format!("run bert.toml --output wrong --set {key}")).failed(2, parts);
    };
    set("data.pairs.mask.share=0", &["data.pairs.mask.share = 0", "above 0"]);
    set("data.pairs.mask.token=13", &["data.pairs.mask.token has the token 13"]);
    set("data.pairs.path=nowhere.jsonl", &["nowhere.jsonl"]);
    set("batch.tokens=16", &["batch.samples"]);
    set("batch.samples=10", &["batch.samples = 10", "9 pairs"]);
    set("model.bert.heads=4", &["model.bert.heads = 4", "divide"]);
    set("model.bert.positions=7", &["model.bert.positions = 7", "context = 8"]);
    set("model.bert.loss=nsp", &["model.bert.loss", "mlm, mlm+nsp"]);
    folder.write("bare.toml", CONFIG.replace("mask = {", "# mask = {").as_bytes());
    folder
        .hesspec("run bare.toml --output wrong")
        .failed(2, &["pairs.jsonl:1: there are no `labels`", "set data.pairs.mask"]);
    folder.write("tokens.toml", CONFIG.replace("[data.pairs]", "[data.tokens]").as_bytes());
    folder.hesspec("plan tokens.toml --no-timing").failed(2, &["[model.bert] reads [data.pairs]"]);
}

const HUGGING_FACE: &str = r#"{"model_type": "bert", "num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 6, "intermediate_size": 5,
    "vocab_size": 13, "max_position_embeddings": 8, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12}"#;

#[test]
fn a_folder_of_hugging_face_says_what_bert_it_is() {
    let folder = folder();
    std::fs::create_dir(folder.path("hub")).unwrap();
    folder.hesspec("weights export bert.toml hub/model.safetensors").ok();
    folder.write("hub/config.json", HUGGING_FACE.as_bytes());
    let (_, rest) = CONFIG.split_once("vocabulary = 13\n").unwrap();
    folder.write("bare.toml", format!("[model.bert]\nweights = \"hub\"\n{rest}").as_bytes());
    let loss = |config: &str| {
        let said = folder.hesspec(&format!("hvp {config} --loss --json"));
        said.ok().json()["loss"].as_f64().unwrap()
    };
    assert_eq!(loss("bare.toml"), loss("bert.toml"));
    assert_eq!(loss("bare.toml --set model.bert.loss=mlm"), loss("bert.toml --set model.bert.loss=mlm"));
    folder.hesspec("plan bare.toml --no-timing --set model.bert.context=9").failed(2, &["context = 9", "8 positions"]);
    for (from, to, part) in [
        ("\"bert\"", "\"llama\"", "[model.decoder] has it"),
        ("\"gelu\"", "\"relu\"", "hidden_act = `relu`"),
        ("\"type_vocab_size\"", "\"is_decoder\": true, \"type_vocab_size\"", "is_decoder = true"),
        ("\"type_vocab_size\"", "\"position_embedding_type\": \"relative_key\", \"type_vocab_size\"", "`relative_key`"),
    ] {
        folder.write("hub/config.json", HUGGING_FACE.replace(from, to).as_bytes());
        folder.hesspec("plan bare.toml --no-timing").failed(2, &["hub/config.json", part]);
    }
}
