use super::*;
use crate::networks::gpt2::{Gelu, Gpt2Config, Initialisation};

fn parse(text: &str, source: &str, default_name: &str, overrides: &[String]) -> Result<Config> {
    super::parse(text, source, default_name, overrides, &Registry::built_in())
}

fn load(path: impl AsRef<Path>, overrides: &[String]) -> Result<Config> {
    super::load(path, overrides, &Registry::built_in())
}

fn gpt2(config: &Config) -> Gpt2Config {
    serde_json::from_value(config.network.network_json().unwrap()).unwrap()
}

const LEAST: &str = "[model.gpt2]\n[data.tokens]\npath = \"train.bin\"\n";

pub(super) fn with(text: &str, overrides: &[&str]) -> Result<Config> {
    let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
    parse(&format!("{LEAST}{text}"), "a.toml", "a", &overrides)
}

/// The error's text; its exit code is 2.
fn refusal(text: &str, overrides: &[&str]) -> String {
    let error = with(text, overrides).expect_err(text);
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

pub(super) fn assert_refused(text: &str, overrides: &[&str], parts: &[&str]) {
    let message = refusal(text, overrides);
    for part in parts {
        assert!(message.contains(part), "`{part}` is not in: {message}");
    }
}

#[test]
fn the_defaults_are_the_contracts() {
    let config = with("", &[]).unwrap();
    let gpt2 = gpt2(&config);
    let sizes = [gpt2.layers, gpt2.heads, gpt2.embedding, gpt2.mlp, gpt2.context, gpt2.vocabulary];
    assert_eq!(sizes, [6, 6, 384, 1536, 256, 65]);
    assert!(!gpt2.bias && gpt2.tied && gpt2.layer_norm && gpt2.weights.is_none());
    assert_eq!((gpt2.gelu, gpt2.init), (Gelu::Erf, Initialisation::NanoGpt));
    assert_eq!((config.run.name.as_str(), config.run.seed, config.run.threads), ("a", 1337, None));
    let batch = &config.batch;
    assert_eq!((batch.tokens, batch.start, batch.stride, batch.order), (None, 0, 256, Order::Sequential));
    assert_eq!((batch.seed, batch.micro_batch, batch.segments), (1337, None, None));
    assert_eq!(config.hessian, Hessian::default());
    assert_eq!(config.hessian.precision, Precision::F32);
    assert_eq!(config.blocks.include, ["*"]);
    assert!(config.blocks.full && config.blocks.exclude.is_empty());
    assert_eq!((config.lanczos.steps, config.lanczos.probes, config.lanczos.full_probes), (100, 4, 2));
    assert_eq!(config.lanczos.reorthogonalize, crate::krylov::Reorthogonalize::Full);
    let Sigma::Relative(sigma) = config.density.sigma else { panic!("relative by default") };
    assert!((sigma - 0.003407).abs() < 1e-6, "1/99/sqrt(8 ln 3) = {sigma}");
    let metrics: Vec<&str> = config.distance.metrics.iter().map(|metric| metric.name).collect();
    assert_eq!(metrics, ["wasserstein1_energy", "js", "wasserstein1", "symkl_paper"]);
    assert_eq!(config.distance.grid_points, 500_000);
    assert_eq!(config.checkpoint.every.duration().as_secs(), 600);
    assert_eq!(config.output.url.exposed(), "results");
}

#[test]
fn every_key_of_the_contract_is_read() {
    let text = r#"
        [run]
        name = "gpt2-nano"
        seed = 7
        threads = 2
        [model.gpt2]
        preset = "124m"
        layers = 2
        heads = 4
        embedding = 64
        mlp = 128
        context = 32
        vocabulary = 100
        bias = true
        tied = false
        layer_norm = false
        gelu = "tanh"
        init = "paper"
        weights = "model.safetensors"
        [data.tokens]
        path = "shards/*.bin"
        [batch]
        tokens = 320
        start = 3
        stride = 16
        order = "permuted"
        seed = 9
        micro_batch = 2
        segments = 5
        [hessian]
        operator = "gauss_newton"
        reduction = "sum"
        precision = "f64"
        math = "3xtf32"
        backend = "ndarray"
        slots = 4
        memory = "8GB"
        [blocks]
        partition = "head"
        include = ["transformer.h.{0,3}.attn.*"]
        exclude = ["*.ln_*"]
        full = false
        [lanczos]
        steps = 10
        probes = 3
        full_probes = 1
        probe = "rademacher"
        reorthogonalize = "full"
        weights = "variance_reduced"
        [density]
        sigma = { absolute = 0.00316 }
        axis = "linear"
        axis_scale = 0.01
        [distance]
        metrics = ["js"]
        grid_points = 1000
        [checkpoint]
        every = "90s"
        basis = "none"
        [output]
        url = "memory://x"
    "#;
    let config = parse(text, "b.toml", "b", &[]).unwrap();
    let written = config.resolved_toml().unwrap();
    // Every key of the file is in the resolved text with the same value, `preset` excepted: it is resolved away.
    let keys = |text: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("preset"));
        lines.map(|line| line.replace([' ', '[', ']', '{', '}'], "")).collect()
    };
    let resolved = keys(&written).join("\n");
    for key in keys(text) {
        let found =
            if key.starts_with("sigma=") { resolved.contains("absolute=0.00316") } else { resolved.contains(&key) };
        assert!(found, "{key} is not in\n{written}");
    }
    assert_eq!(parse(&written, "c.toml", "c", &[]).unwrap(), config);
}

#[test]
fn presets_are_overridden_key_by_key() {
    let config = with("", &["model.gpt2.preset=124m", "model.gpt2.layers=2"]).unwrap();
    let gpt2 = gpt2(&config);
    let sizes = [gpt2.layers, gpt2.heads, gpt2.embedding, gpt2.mlp, gpt2.context, gpt2.vocabulary];
    assert_eq!(sizes, [2, 12, 768, 3072, 1024, 50304]);
    assert_eq!(config.batch.stride, 1024);
}

#[test]
fn the_resolved_text_is_the_same_configuration_and_deterministic() {
    for overrides in [&[][..], &["hessian.reduction=sum", "lanczos.steps=1", "density.axis_scale=1"]] {
        let config = with("", overrides).unwrap();
        let text = config.resolved_toml().unwrap();
        assert_eq!(parse(&text, "again.toml", "other", &[]).unwrap(), config, "{text}");
        assert_eq!(text, with("", overrides).unwrap().resolved_toml().unwrap());
        assert_eq!(config.resolved_json().unwrap(), with("", overrides).unwrap().resolved_json().unwrap());
    }
}

#[test]
fn unknown_keys_have_a_place_and_a_suggestion() {
    assert_refused(
        "[lanczos]\nstep = 3\n",
        &[],
        &["a.toml:5:1: lanczos.step = 3: unknown key", "did you mean `steps`?", "full_probes"],
    );
    assert_refused(
        "[lanczos]\n\n  zzz = 3\n",
        &[],
        &["a.toml:6:3: lanczos.zzz = 3: unknown key; allowed: steps, probes"],
    );
    assert_refused(
        "[lanczoss]\nsteps = 3\n",
        &[],
        &["a.toml:4:2: lanczoss = {steps}: unknown key", "did you mean `lanczos`?"],
    );
    assert_refused(
        "[density]\nsigma = { relativ = 1.0 }\n",
        &[],
        &["a.toml:5:11: density.sigma.relativ", "did you mean `relative`?"],
    );
    let error = parse("[model.gpt2]\nlayer = 1\n[data.tokens]\npath = \"x\"\n", "a.toml", "a", &[]).unwrap_err();
    assert!(
        error.to_string().starts_with("a.toml:2:1: model.gpt2.layer = 1: unknown key; did you mean `layers`?"),
        "{error}"
    );
}

#[test]
fn wrong_types_and_values_name_key_value_and_what_is_allowed() {
    assert_refused(
        "[lanczos]\nsteps = \"ten\"\n",
        &[],
        &["a.toml:5:9: lanczos.steps = \"ten\": expected a whole number"],
    );
    assert_refused("[lanczos]\nsteps = -1\n", &[], &["lanczos.steps = -1: expected a whole number, 0 or larger"]);
    assert_refused("[lanczos]\nsteps = 1e2\n", &[], &["lanczos.steps = 100.0: expected a whole number"]);
    assert_refused("[blocks]\nfull = 1\n", &[], &["blocks.full = 1: expected true or false"]);
    assert_refused("[blocks]\ninclude = \"*\"\n", &[], &["blocks.include = \"*\": expected a list"]);
    assert_refused("[blocks]\ninclude = [\"*\", 3]\n", &[], &["a.toml:5:17: blocks.include[1] = 3: expected a text"]);
    assert_refused("", &["run=3"], &["--set run=3: run = 3: expected a table"]);
    assert_refused("[hessian]\nprecision = \"f16\"\n", &[], &["a.toml:5:13: hessian.precision = \"f16\"", "f32, f64"]);
    assert_refused("[lanczos]\nprobe = \"gausian\"\n", &[], &["did you mean `gaussian`?"]);
    assert_refused("[distance]\nmetrics = [\"jsd\"]\n", &[], &["distance.metrics[0]", "did you mean `js`?"]);
    assert_refused("[density]\nsigma = 0.1\n", &[], &["density.sigma = 0.1: expected one of relative, absolute"]);
    assert_refused("[density]\nsigma = {}\n", &[], &["exactly one of relative, absolute"]);
    assert_refused(
        "[checkpoint]\nevery = \"soon\"\n",
        &[],
        &["a.toml:5:9: checkpoint.every = \"soon\"", "like \"90s\""],
    );
    assert_refused("[hessian]\nmemory = \"8\"\n", &[], &["hessian.memory = \"8\": expected a size"]);
    assert_refused("[run]\nseed = 99999999999999999999\n", &[], &["a.toml:5:8", "out of range"]);
}

#[test]
fn missing_tables_and_unknown_models_are_said_so() {
    let read = |text: &str| parse(text, "a.toml", "a", &[]).unwrap_err().to_string();
    assert!(read("[data.tokens]\npath = \"x\"").contains("add [model.gpt2]"));
    assert!(read("[model.gpt2]").contains("add [data.tokens]"));
    assert!(read("[model.gpt2]\n[data.tokens]").contains("data.tokens = {}: the key `path` is missing"));
    assert!(
        read("[model.gpt3]\n[data.tokens]\npath = \"x\"")
            .contains("a.toml:1:8: model.gpt3 = {}: not an allowed value; did you mean `gpt2`?")
    );
    assert!(read("[model]\n[data.tokens]\npath = \"x\"").contains("exactly one of gpt2"));
}

#[test]
fn broken_toml_has_a_place() {
    let error = parse("[run]\nname = \"a\nseed = 1", "a.toml", "a", &[]).unwrap_err().to_string();
    assert!(error.starts_with("a.toml:2:") && error.contains("not valid TOML"), "{error}");
    let error = parse("[run]\nseed = 1\nseed = 2", "a.toml", "a", &[]).unwrap_err().to_string();
    assert!(error.starts_with("a.toml:3:1"), "{error}");
}

#[test]
fn overrides_win_and_are_named_in_errors() {
    let text = "[lanczos]\nsteps = 3\n";
    let overrides = [
        "lanczos.steps=50",
        "hessian.precision=f64",
        "run.name=\"x\"",
        "density.sigma={ absolute = 0.5 }",
        "blocks.include=[\"*.q.*\", \"*.k.*\"]",
        "lanczos.probes = 7",
        "output.url=s3://bucket/a=b",
    ];
    let config = with(text, &overrides).unwrap();
    assert_eq!((config.lanczos.steps, config.lanczos.probes), (50, 7));
    assert_eq!(config.hessian.precision, Precision::F64);
    assert_eq!((config.run.name.as_str(), config.output.url.exposed()), ("x", "s3://bucket/a=b"));
    assert_eq!(config.density.sigma, Sigma::Absolute(0.5));
    assert_eq!(config.blocks.include, ["*.q.*", "*.k.*"]);
    assert_eq!(with("", &["lanczos.steps=1", "lanczos.steps=2"]).unwrap().lanczos.steps, 2);

    assert_refused(text, &["lanczos.steps=0"], &["--set lanczos.steps=0: lanczos.steps = 0: expected 1 or more"]);
    assert_refused(
        text,
        &["lanczos.stebs=9"],
        &["--set lanczos.stebs=9: lanczos.stebs = 9: unknown key", "did you mean `steps`?"],
    );
    assert_refused(text, &["lanczos.steps="], &["--set lanczos.steps=: lanczos.steps = \"\": expected a whole number"]);
    assert_refused(text, &["lanczos.steps"], &["--set lanczos.steps: there is no `=`"]);
    assert_refused(text, &["lanczos..steps=1"], &["not a dotted TOML key"]);
    assert_refused(
        text,
        &["lanczos.steps.x=1"],
        &["--set lanczos.steps.x=1: lanczos.steps = {x}: expected a whole number"],
    );
    assert_refused(text, &["run.seed=1\nrun.name=2"], &["run.seed = \"1\\nrun.name=2\": expected a whole number"]);
}

#[test]
fn values_must_make_sense_together() {
    assert_refused("[batch]\ntokens = 1000\n", &[], &["a.toml:5:10: batch.tokens = 1000", "nearest: 768 or 1024"]);
    assert_refused("[batch]\ntokens = 10\n", &[], &["nearest: 256"]);
    assert_refused("[batch]\ntokens = 512\nsegments = 3\n", &[], &["batch.segments = 3", "only 2 windows"]);
    assert_refused("", &["model.gpt2.heads=5"], &["model.gpt2.heads = 5", "embedding = 384"]);
    assert_refused(
        "",
        &["model.gpt2.embedding=100"],
        &["a.toml: model.gpt2.heads = 6 (by default)", "embedding = 100"],
    );
    assert_refused(
        "[lanczos]\nreorthogonalize = \"none\"\nweights = \"variance_reduced\"\n",
        &[],
        &["a.toml:6:11", "needs reorthogonalize"],
    );
    assert_refused(
        "[lanczos]\nreorthogonalize = \"none\"\nweights = \"deflated\"\n",
        &[],
        &["a.toml:6:11: lanczos.weights = \"deflated\"", "needs reorthogonalize"],
    );
    assert_refused("[lanczos]\nshort_steps = 4\n", &[], &["a.toml:5:15: lanczos.short_steps = 4", "\"deflated\""]);
    assert_refused("[lanczos]\nweights = \"deflated\"\nshort_starts = 0\n", &[], &["lanczos.short_starts = 0"]);
    assert_refused("[blocks]\ninclude = [\"a{b\"]\n", &[], &["a.toml:5:11: blocks.include: \"a{b\" is not a glob"]);
    assert_refused("[blocks]\ninclude = []\nfull = false\n", &[], &["a.toml:5:11", "nothing to compute"]);
    for bad in [
        "lanczos.probes=0",
        "lanczos.full_probes=0",
        "batch.segments=0",
        "batch.micro_batch=0",
        "batch.stride=0",
        "batch.tokens=0",
        "run.threads=0",
        "run.threads=100000",
        "hessian.slots=0",
        "model.gpt2.layers=0",
        "density.sigma={ relative = 0.0 }",
        "density.sigma={ relative = nan }",
        "density.sigma={ absolute = -1 }",
        "density.sigma={ relative = 1.5 }",
        "density.axis_scale=inf",
        "distance.metrics=[]",
        "distance.grid_points=1",
        "output.url=",
        "run.name=a/b",
        "run.name=..",
        "run.name=a=b",
        "run.name=\"\"",
    ] {
        let key = bad.split('=').next().unwrap();
        assert_refused("", &[bad], &[&format!("--set {bad}: {key}")]);
    }
    let error = parse(LEAST, "my run.toml", "my run", &[]).unwrap_err().to_string();
    assert!(error.contains("run.name = \"my run\" (by default)"), "{error}");
}

#[test]
fn the_sum_of_micro_batch_means_has_a_fixed_micro_batch() {
    assert_eq!(with("", &["hessian.reduction=sum"]).unwrap().batch.micro_batch, Some(8));
    assert_eq!(with("", &["hessian.reduction=sum", "batch.micro_batch=2"]).unwrap().batch.micro_batch, Some(2));
}

#[test]
fn differences_are_the_keys_that_change_results() {
    let json = |overrides: &[&str]| with("", overrides).unwrap().resolved_json().unwrap();
    let base = json(&[]);
    assert_eq!(differences(&base, &base), []);
    let speed = [
        "output.url=x",
        "run.threads=2",
        "hessian.slots=3",
        "hessian.memory=2GB",
        "batch.micro_batch=4",
        "checkpoint.every=1m",
    ];
    assert_eq!(differences(&base, &json(&speed)), []);
    let changed = differences(&base, &json(&["lanczos.probes=9", "batch.tokens=512", "model.gpt2.gelu=tanh"]));
    let expected =
        [("model.gpt2.gelu", "\"erf\"", "\"tanh\""), ("batch.tokens", "(absent)", "512"), ("lanczos.probes", "4", "9")];
    assert_eq!(changed, expected.map(|(key, old, new)| (key.to_string(), old.to_string(), new.to_string())));
    assert_eq!(differences(&json(&["batch.tokens=512"]), &base)[0].2, "(absent)");
    let sum = json(&["hessian.reduction=sum"]);
    let other = differences(&sum, &json(&["hessian.reduction=sum", "batch.micro_batch=4"]));
    assert_eq!(other, [("batch.micro_batch".to_string(), "8".to_string(), "4".to_string())]);
}

#[test]
fn a_stored_configuration_read_back_as_text_does_not_differ() {
    for steps in 1..300 {
        let current = with("", &[&format!("lanczos.steps={steps}")]).unwrap().resolved_json().unwrap();
        let stored = serde_json::from_str(&current.to_string()).unwrap();
        assert_eq!(differences(&stored, &current), [], "{steps} steps");
    }
    let sigma =
        |value: &str| with("", &[&format!("density.sigma={{ absolute = {value} }}")]).unwrap().resolved_json().unwrap();
    assert_eq!(differences(&sigma("0.1"), &sigma("0.1000000001")).len(), 1);
}

#[test]
fn a_missing_file_says_what_was_tried() {
    let error = load("no/such/file.toml", &[]).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let tried = absolute(Path::new("no/such/file.toml"));
    assert!(Path::new(&tried).is_absolute() && error.to_string().contains(&tried), "{error}");
}

#[test]
fn the_configs_of_this_repository_load() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let files =
        |folder: &Path| std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    let paths = [files(&root), files(&root.join("table1"))].concat();
    let paths: Vec<_> = paths.iter().filter(|path| !path.is_dir()).collect();
    assert!(paths.len() >= 21, "{paths:?}");
    for path in paths {
        let config = load(path, &[]).unwrap();
        assert_eq!(config.run.name, path.file_stem().unwrap().to_str().unwrap());
    }
}

/// Every example of docs/networks.md is a configuration, once it has what it leaves to others.
#[test]
fn the_examples_of_the_docs_are_configurations() {
    let text = include_str!("../../docs/networks.md");
    let mut count = 0;
    for example in text.split("\n\n").filter(|paragraph| paragraph.starts_with("    [")) {
        let has = |tables: &[&str]| tables.iter().any(|table| example.contains(table));
        let data = match () {
            () if has(&["[data."]) => "",
            () if has(&["[model.gpt2]", "[model.decoder]"]) => "[data.tokens]\npath = \"x\"\n",
            () if has(&["[model.bert]"]) => "[data.pairs]\npath = \"x\"\n",
            () => "[data.images]\npath = \"x\"\nlabels = \"y\"\n",
        };
        let network = match () {
            () if has(&["[model."]) => "",
            () if has(&["[data.pairs]"]) => "[model.bert]\n",
            () => "[model.mlp]\n",
        };
        let text = format!("{example}\n{network}{data}[output]\nurl = \"z\"\n");
        parse(&text, "docs", "docs", &[]).unwrap_or_else(|error| panic!("{example}\n{error}"));
        count += 1;
    }
    assert!(count >= 9, "{count}");
}

/// Block names of the parameter partition of a GPT-2 without biases, as the contract spells them.
fn block_names(layers: usize) -> Vec<String> {
    let in_layer = ["ln_1", "attn.q", "attn.k", "attn.v", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"];
    let layer = |index: usize| in_layer.map(|name| format!("transformer.h.{index}.{name}.weight"));
    let ends = |name: &str| vec![format!("transformer.{name}.weight")];
    [ends("wte"), ends("wpe"), (0..layers).flat_map(layer).collect(), ends("ln_f")].concat()
}

#[test]
fn the_configs_select_the_blocks_their_headers_name() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let counts = [
        [("quickstart", 6, 12), ("smoke", 2, 14), ("gpt2_nano_shakespeare", 6, 19), ("gpt2_paper", 12, 25)],
        [
            ("gpt2_convergence_small", 4, 3),
            ("gpt2_owt_smoke", 12, 4),
            ("gpt2_owt_large", 12, 25),
            ("gpt2_owt_full", 12, 5),
        ],
    ];
    for (name, layers, expected) in counts.into_iter().flatten() {
        let config = load(folder.join(format!("{name}.toml")), &[]).unwrap();
        let selected = config.blocks.filter().unwrap().select(&block_names(layers)).unwrap();
        assert_eq!(selected.len(), expected, "{name}");
    }
    for (name, expected) in
        [("mlp_fashion_mnist", 8), ("resnet18_fashion_mnist", 6), ("vgg16_fashion_mnist", 6), ("bert_shakespeare", 8)]
    {
        let config = load(folder.join(format!("{name}.toml")), &[]).unwrap();
        let layout = config.network.layout().unwrap();
        let names: Vec<String> = layout.parameters().iter().map(|parameter| parameter.name.clone()).collect();
        assert_eq!(config.blocks.filter().unwrap().select(&names).unwrap().len(), expected, "{name}");
    }
    // The paper's rule for nano: without LayerNorm, every second block in parameter order.
    let names: Vec<String> = block_names(6).into_iter().filter(|name| !name.contains("ln_")).collect();
    let config = load(folder.join("gpt2_nano_shakespeare.toml"), &[]).unwrap();
    let even: Vec<usize> = (0..names.len()).step_by(2).collect();
    assert_eq!(config.blocks.filter().unwrap().select(&names).unwrap(), even);
}
