//! Blocks of a user's own, neurons and tokens, and how many blocks are compared.

use hesspec::output::{BlockRow, DiagonalRow, DivergenceRow, Results, SummaryRow};

use crate::folder::{Folder, norm};

const OWN: &str = r#"
[[blocks.own]]
name = "heads-and-tokens"
include = ["*.h.0.attn.v.weight"]
ranges = [
    { parameter = "transformer.wte.weight", start = 2, end = 5 },
    { parameter = "transformer.h.0.attn.c_attn.weight", axis = 1, start = 0, end = 4 },
]

[[blocks.own]]
name = "mlp/0"
include = ["*.h.0.mlp.*"]

[diagonal]
"#;

#[test]
fn blocks_of_ones_own_stand_beside_the_partition() {
    let folder = Folder::new();
    folder.configure(OWN);
    let settings = "--set blocks.include=[\"*.wpe.*\"] --set blocks.full=false";
    folder.hesspec(&format!("run tiny.toml --output out {settings}")).ok();
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let blocks = run.read::<BlockRow>().unwrap();
    let found: Vec<(&str, &str, i64)> =
        blocks.iter().map(|row| (row.block.as_str(), row.kind.as_str(), row.num_params)).collect();
    let mlp = 8 * 12 + 12 + 12 * 8 + 8;
    assert_eq!(found[1..], [("heads-and-tokens", "own", 3 * 8 + 8 * 4 + 8 * 8), ("mlp/0", "own", mlp)]);
    let divergence = run.read::<DivergenceRow>().unwrap();
    assert!(divergence.iter().any(|row| row.block_a == "heads-and-tokens" && row.block_b == "mlp/0"));
    // parts of one parameter are told apart, and together they are the block
    let summary = run.read::<SummaryRow>().unwrap();
    let own = summary.iter().find(|row| row.block == "heads-and-tokens").unwrap();
    let diagonal = run.read::<DiagonalRow>().unwrap();
    let of_own = diagonal.iter().filter(|row| row.block == own.block && row.kind == "part");
    let parts: Vec<(&str, i64)> = of_own.clone().map(|row| (row.part.as_str(), row.num_entries)).collect();
    let attention = "transformer.h.0.attn";
    let expected = [
        ("transformer.wte.weight", 24),
        (&format!("{attention}.q.weight"), 32),
        (&format!("{attention}.v.weight"), 64),
    ];
    assert_eq!(parts, expected);
    let sum: f64 = of_own.map(|row| row.value).sum();
    assert!((sum - own.trace).abs() < 1e-10 * own.frobenius.max(own.trace.abs()), "{sum} and {}", own.trace);
    let vector = folder.vector(3);
    folder.save("v.safetensors", &vector, safetensors::tensor::Dtype::F64);
    folder.hesspec("hvp tiny.toml --vectors v.safetensors --out hv.safetensors --block heads-and-tokens").ok();
    let product = folder.load("hv.safetensors");
    let inside = |name: &str| product[name].1.iter().filter(|x| **x != 0.0).count();
    assert_eq!((product.len(), inside("transformer.wte.weight")), (2, 24));
    assert_eq!(inside("transformer.h.0.attn.c_attn.weight"), 32 + 64);
    // its products are those of the whole network with zeros outside of it
    let is_inside = |name: &String, at: usize| product.get(name).is_some_and(|(_, values)| values[at] != 0.0);
    let mut masked = vector;
    for (name, (_, values)) in &mut masked {
        values.iter_mut().enumerate().filter(|(at, _)| !is_inside(name, *at)).for_each(|(_, x)| *x = 0.0);
    }
    folder.save("masked.safetensors", &masked, safetensors::tensor::Dtype::F64);
    folder.hesspec("hvp tiny.toml --vectors masked.safetensors --out whole.safetensors").ok();
    let (whole, scale) = (folder.load("whole.safetensors"), norm(&product));
    for (name, (_, values)) in &product {
        for (at, x) in values.iter().enumerate().filter(|(at, _)| is_inside(name, *at)) {
            assert!((x - whole[name].1[at]).abs() <= 1e-12 * scale, "{name}, {at}");
        }
    }
}

#[test]
fn what_cannot_be_a_block_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let refused = |rest: &str, parts: &[&str]| {
        folder.configure(&format!("[[blocks.own]]\nname = \"mine\"\n{rest}"));
        folder.hesspec("run tiny.toml --output out").failed(2, parts);
        folder.hesspec("plan tiny.toml --no-timing").failed(2, parts);
    };
    refused("include = [\"*.wet.*\"]", &["blocks.own.include", "matches no block"]);
    refused(
        "include = [\"*.wte.*\", \"*\"]\nranges = [{ parameter = \"transformer.wte.weight\", start = 0, end = 1 }]",
        &["twice"],
    );
    refused(
        "ranges = [{ parameter = \"transformer.wte\", start = 0, end = 1 }]",
        &["did you mean `transformer.wte.weight`?"],
    );
    refused(
        "ranges = [{ parameter = \"transformer.wte.weight\", start = 0, end = 12 }]",
        &["0 to 11", "found 0 to 12"],
    );
    refused(
        "ranges = [{ parameter = \"transformer.wte.weight\", axis = 2, start = 0, end = 1 }]",
        &["[11, 8]", "no axis 2"],
    );
    folder.configure("[[blocks.own]]\nname = \"transformer.wte.weight\"\ninclude = [\"*.wte.*\"]");
    folder.hesspec("plan tiny.toml --no-timing").failed(2, &["the partition has a block `transformer.wte.weight`"]);
    assert!(!folder.path("out/_runs").exists(), "nothing was claimed");
}

#[test]
fn neurons_and_tokens_are_blocks_up_to_500_of_them() {
    let folder = Folder::new();
    let plan =
        |more: &str| folder.hesspec(&format!("plan tiny.toml --no-timing --json --set blocks.full=false {more}"));
    let neurons = plan("--set blocks.partition=neuron --set blocks.include=[\"*.h.1.mlp.c_fc.weight/*\"]").ok().json();
    let blocks = neurons["blocks"].as_array().unwrap();
    assert_eq!((blocks.len(), &blocks[11]["num_params"]), (12, &8.into()));
    assert_eq!(blocks[11]["name"], "transformer.h.1.mlp.c_fc.weight/neuron.11");
    let tokens = plan("--set blocks.partition=token --set blocks.include=[\"*/token.1?\"]").ok().json();
    assert_eq!(tokens["blocks"].as_array().unwrap().len(), 1);
    let many = "--set blocks.partition=token --set model.gpt2.vocabulary=600 --set blocks.include=[\"*.wte.*\"]";
    plan(many).failed(2, &["600 blocks", "500 or fewer", "blocks.include"]);
    folder.hesspec(&format!("run tiny.toml --output out {many}")).failed(2, &["600 blocks"]);
    assert!(!folder.path("out/_runs").exists(), "nothing was claimed");
    let run = "run tiny.toml --output out --set blocks.partition=token --set blocks.include=[\"*/token.1*\"] --set blocks.full=false";
    folder.hesspec(run).ok();
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let summary = run.read::<SummaryRow>().unwrap();
    assert_eq!(summary.iter().map(|row| row.block.rsplit('.').next().unwrap()).collect::<Vec<_>>(), ["1", "10"]);
}
