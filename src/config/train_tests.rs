use super::*;
use crate::config::tests::{assert_refused, with};
use crate::config::{differences, from_json, parse};
use crate::networks::Registry;

const LEAST: &str = "[train]\nsteps = 100\nbatch = 8\noptimizer = \"adamw\"\nlearning_rate = 1e-3\n";

#[test]
fn the_table_is_read_with_pytorchs_defaults() {
    assert_eq!(with("", &[]).unwrap().train, None);
    assert!(with("", &[]).unwrap().resolved_json().unwrap().get("train").is_none());
    let config = with(LEAST, &["train.held_out.data.path=\"val.bin\""]).unwrap();
    let train = config.train.clone().unwrap();
    assert_eq!((train.beta1, train.beta2, train.epsilon), (Some(0.9), Some(0.999), Some(1e-8)));
    assert_eq!((train.bias_correction, train.weight_decay, train.momentum), (Some(true), 0.01, None));
    assert_eq!((train.schedule, train.decay_to, train.seed), (Schedule::Constant, None, 1337));
    assert_eq!(train.checkpoint_steps(), [0, 100]);
    let held_out = train.held_out.unwrap();
    assert_eq!((held_out.samples, held_out.start, held_out.every), (None, 0, 5));
    assert_eq!(held_out.data, serde_json::json!({ "path": "val.bin" }));
    let sgd = with(LEAST, &["train.optimizer=\"sgd\"", "train.checkpoints=[0.5, 0.501, 0.0]"]).unwrap().train.unwrap();
    assert_eq!((sgd.momentum, sgd.nesterov, sgd.weight_decay, sgd.beta1), (Some(0.0), Some(false), 0.0, None));
    assert_eq!(sgd.checkpoint_steps(), [0, 50]);
}

#[test]
fn what_is_resolved_is_read_back() {
    let more = ["train.held_out.data.path=\"val.bin\"", "train.schedule=\"cosine\"", "train.clip=1.0"];
    let config = with(LEAST, &more).unwrap();
    let registry = Registry::built_in();
    assert_eq!(parse(&config.resolved_toml().unwrap(), "again.toml", "again", &[], &registry).unwrap(), config);
    let json = config.resolved_json().unwrap();
    assert_eq!(from_json(&json.to_string(), "a record", "again", &registry).unwrap(), config);
    let other = with(LEAST, &more[..2]).unwrap().resolved_json().unwrap();
    assert_eq!(differences(&json, &other).len(), 1, "it is another run");
}

#[test]
fn contradictions_are_refused_by_line_with_what_to_do() {
    for (overrides, parts) in [
        (&["train.step=1"][..], &["train.step", "did you mean `steps`?"][..]),
        (&["train.steps=0"], &["train.steps = 0", "1 or more"]),
        (&["train.batch=0"], &["train.batch = 0", "1 or more"]),
        (&["train.batch=8", "batch.tokens=1024"], &["train.batch = 8", "only 4 samples"]),
        (&["train.learning_rate=0.0"], &["train.learning_rate = 0.0", "above 0"]),
        (&["train.learning_rate=[]"], &["train.learning_rate = []", "above 0"]),
        (&["train.learning_rate=[0.1, 0.1]"], &["train.learning_rate", "once"]),
        (&["train.optimizer=\"adamx\""], &["train.optimizer", "did you mean `adam`?", "sgd"]),
        (&["train.momentum=0.9"], &["train.momentum = 0.9", "is for \"sgd\"", "\"adamw\""]),
        (&["train.optimizer=\"sgd\"", "train.beta2=0.9"], &["train.beta2 = 0.9", "is for \"adam\" and \"adamw\""]),
        (&["train.optimizer=\"sgd\"", "train.nesterov=true"], &["train.nesterov = true", "train.momentum above 0"]),
        (&["train.beta1=1.0"], &["train.beta1 = 1.0", "below 1"]),
        (&["train.moments=\"gradient\""], &["train.bias_correction = true", "expected false"]),
        (&["train.weight_decay=-1.0"], &["train.weight_decay = -1.0", "0 or larger"]),
        (&["train.clip=0.0"], &["train.clip = 0.0", "above 0"]),
        (&["train.warmup=100"], &["train.warmup = 100", "less than train.steps"]),
        (&["train.decay_to=0.1"], &["train.decay_to = 0.1", "\"cosine\""]),
        (&["train.checkpoints=[0.0, 2.0]"], &["train.checkpoints = [0.0, 2.0]", "from 0 to 1"]),
        (&["train.held_out.every=0"], &["train.held_out.every = 0"]),
        (&["train.held_out.samples=9"], &["train.held_out.start", "trained on as well", "train.held_out.data"]),
        (&["train.held_out.data.pth=\"x\""], &["data.tokens.pth", "did you mean `path`?"]),
        (&["hessian.reduction=\"sum\""], &["hessian.reduction", "\"mean\""]),
        (&["convergence.from=1024", "convergence.to=2048"], &["[train] and [convergence]"]),
    ] {
        assert_refused(LEAST, overrides, parts);
    }
    assert_refused("[train]\nsteps = 10\nbatch = 1\noptimizer = \"sgd\"\n", &[], &["`learning_rate` is missing"]);
    let apart = ["batch.tokens=2048", "train.held_out.start=2048", "train.held_out.samples=4"];
    assert!(with(LEAST, &apart).is_ok());
    assert_refused(LEAST, &["batch.tokens=2048", "train.held_out.start=2047"], &["train.held_out.start = 2047"]);
}
