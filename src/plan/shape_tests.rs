use super::*;
use crate::config;
use crate::networks::Registry;
use crate::plan::Rate;

/// 26 blocks of 40 sweeps over 1,024 windows of 16 tokens, micro-batches of at most 256 windows.
fn config(overrides: &[&str]) -> Config {
    let text = "[model.gpt2]\nlayers = 4\nheads = 2\nembedding = 16\nmlp = 64\ncontext = 16\nvocabulary = 64\n\
                [data.tokens]\npath = \"none.bin\"\n[batch]\ntokens = 16384\nsegments = 4\n[blocks]\nfull = false\n\
                [lanczos]\nsteps = 40\nprobes = 10\n";
    let overrides: Vec<String> = overrides.iter().map(|text| (*text).to_owned()).collect();
    config::parse(text, "test", "test", &overrides, &Registry::built_in()).unwrap()
}

const PLENTY: Resources = Resources { ranks: 1, budget: 1e12, device: None };

/// The choice on a device whose rate is a function of the shape.
fn chosen(overrides: &[&str], resources: Resources, rate: impl Fn(f64, f64) -> f64) -> Choice {
    chosen_on(overrides, resources, &|_| (), |shape| (rate(shape.micro_batch as f64, shape.slots as f64), 1.0))
}

/// The choice by rates and spreads.
fn chosen_on(
    overrides: &[&str],
    resources: Resources,
    log: &dyn Fn(&str),
    found: impl Fn(Shape) -> (f64, f64),
) -> Choice {
    let measure = |_: &Config, plan: &Plan, most: usize| {
        let (gflops, spread) = found(Shape::of(plan));
        assert!(most >= 2, "{most} passes cannot agree");
        Ok(Repeated { rate: Rate { gflops, seconds: 1.0 }, passes: 2, spread })
    };
    choose_by(&config(overrides), resources, &|| false, log, measure).unwrap()
}

#[test]
fn climbs_to_the_fastest_shape_in_either_direction() {
    let start = chosen(&[], PLENTY, |_, _| 1.0);
    assert_eq!(start.shape.micro_batch, 64, "no gain, no change: 1,024 tokens");
    // a device that wants at least 256 windows, and one whose cache ends at 16
    let wide = chosen(&[], PLENTY, |windows, _| windows.min(256.0));
    assert_eq!(wide.shape.micro_batch, 256);
    let narrow = chosen(&[], PLENTY, |windows, _| 1.0 / windows.max(16.0));
    assert_eq!(narrow.shape.micro_batch, 16);
    let few_slots = chosen(&[], PLENTY, |_, slots| 1.0 / slots.powi(2));
    assert_eq!(few_slots.shape.slots, 1);
    assert!(wide.to_string().contains("batch.micro_batch = 256"), "{wide}");
}

#[test]
fn a_fifth_of_noise_does_not_move_it_but_what_is_given_stays() {
    assert_eq!(chosen(&[], PLENTY, |windows, _| 1.0 + windows * 1e-4).shape.micro_batch, 64);
    let given = chosen(&["batch.micro_batch=8"], PLENTY, |windows, slots| windows * slots);
    assert_eq!(given.shape.micro_batch, 8);
    assert!(given.shape.slots > 8, "only the slots were left to choose");
    let both = chosen(&["batch.micro_batch=8", "hessian.slots=2"], PLENTY, |_, _| 1.0);
    assert_eq!((both.shape, both.trials.len()), (Shape { micro_batch: 8, slots: 2 }, 0));
    assert!(chosen(&["hessian.autotune=false"], PLENTY, |windows, _| windows).trials.is_empty());
}

#[test]
fn short_runs_are_not_tried_and_trials_stay_within_their_share() {
    assert!(chosen(&["lanczos.steps=1", "lanczos.probes=1"], PLENTY, |windows, _| windows).trials.is_empty());
    let found = chosen(&["lanczos.steps=20"], PLENTY, |windows, slots| windows * slots);
    let passes = num_passes(&Plan::new(&config(&["lanczos.steps=20"]), &[], PLENTY).unwrap(), PLENTY);
    let spent: f64 = found.trials.iter().map(|trial| PASSES * trial.shape.times(found.trials[0].shape)).sum();
    assert!(found.trials.len() > 1 && spent <= SHARE * passes.unwrap(), "{spent} of {passes:?}");
}

#[test]
fn no_shape_that_does_not_fit_or_leaves_ranks_idle() {
    let plan = Plan::new(&config(&[]), &[], PLENTY).unwrap();
    let tight = Resources { budget: 1.2 * plan.memory_bytes, ..PLENTY };
    let found = chosen(&[], tight, |windows, slots| windows * slots);
    let fixed = Plan::new(&found.shape.fixed(&config(&[])), &[], tight).unwrap();
    assert!(fixed.memory_bytes <= tight.budget);
    // a segment's 256 windows on 16 ranks: micro-batches above 16 windows would leave some without
    let shared = chosen(&["lanczos.steps=1000"], Resources { ranks: 16, ..PLENTY }, |_, _| 1.0);
    assert_eq!(shared.shape.micro_batch, 16);
}

/// A busy machine: whoever looks fast once is not believed, and where the start itself is not to be told nothing is chosen.
#[test]
fn a_trial_whose_passes_differ_decides_nothing() {
    let said = std::cell::RefCell::new(Vec::new());
    let log = |line: &str| said.borrow_mut().push(line.to_owned());
    let noisy = |shape: Shape| (shape.micro_batch as f64, if shape.micro_batch == 64 { 1.01 } else { 1.4 });
    let found = chosen_on(&[], PLENTY, &log, noisy);
    assert_eq!((found.shape.micro_batch, found.trials.iter().all(|trial| trial.shape.micro_batch == 64)), (64, true));
    let lines = said.take();
    assert!(
        lines[0].contains("trying micro-batches of 64 samples x 8 slots") && lines[0].contains("at most 0.5 %"),
        "{lines:?}"
    );
    assert!(lines[2].contains("trying micro-batches of 128 samples") && lines[2].contains("about 6.0 s"), "{lines:?}");
    assert!(lines[3].contains("not trusted") && lines[3].contains("1.40"), "{lines:?}");
    let none = chosen_on(&[], PLENTY, &log, |_| (1.0, 1.4));
    assert_eq!((none.shape, none.trials.len()), (Shape { micro_batch: 64, slots: 8 }, 0));
}
