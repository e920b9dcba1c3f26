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
