use super::*;

fn matrix(steps: usize) -> Tridiagonal {
    let number = |i: usize| 0.1 + i as f64 / 3.0;
    Tridiagonal {
        alpha: (0..steps).map(number).collect(),
        beta: (0..steps).map(|i| number(i + 7)).collect(),
        orthogonality_loss: vec![1e-16; steps],
        segments: vec![
            (0..packed(steps, 0)).map(number).collect(),
            (0..packed(steps, 0)).map(|i| -number(i)).collect(),
        ],
        ..Tridiagonal::default()
    }
}

const PAIRS: [Pair; 2] = [(0, 1), (4, 0)];

/// Two slots of 11 entries in sweeps of two segments.
fn contents(pairs: &[Pair]) -> Contents {
    let slot = |pair: &Pair| SlotContents { pair: *pair, block: format!("block {}", pair.0), dim: 11, steps: 5 };
    Contents::new(8, 2, pairs.iter().map(slot).collect())
}

fn name((block, probe): Pair) -> String {
    format!("g{block}-{probe}")
}

fn begun(checkpoint: &Checkpoint) -> Result<Vec<(String, Vec<Pair>)>> {
    checkpoint.begun(&|pairs| Some(contents(pairs)), &name)
}

fn times_of(step: usize, slots: usize) -> StepMetrics {
    let split = crate::metrics::Split { products: 0.1, reduction: 0.2, reorthogonalization: 0.3, io: 0.4 };
    StepMetrics { step, slots, tokens: 7.0, share: 0.5, seconds: step as f64 / 3.0, split }
}

/// Saves step `step` of these matrices.
fn save_step(checkpoint: &Checkpoint, group: &str, step: usize, slots: &[Option<&Tridiagonal>]) {
    checkpoint.save_step(group, step, slots, &times_of(step, slots.iter().flatten().count())).unwrap();
}

#[test]
fn steps_are_read_back_bit_for_bit_and_a_slot_may_end_early() {
    let checkpoint = Checkpoint::open("memory://checkpoint-steps", "r", "identity").unwrap();
    let (long, short) = (matrix(5), matrix(3));
    checkpoint.begin("g0-1", &contents(&PAIRS)).unwrap();
    for step in 1..=5 {
        save_step(&checkpoint, "g0-1", step, &[Some(&long), (step <= 3).then_some(&short)]);
    }
    assert_eq!(checkpoint.position("g0-1").unwrap(), Position { step: 5, segments: 0 });
    let (matrices, timed) = checkpoint.load_steps("g0-1", 5, &contents(&PAIRS)).unwrap();
    assert_eq!(matrices, [long, short]);
    assert_eq!((timed[2].clone(), timed[3].clone()), ((times_of(3, 2), vec![0, 1]), (times_of(4, 1), vec![0])));
    assert_eq!(begun(&checkpoint).unwrap(), [("g0-1".to_owned(), PAIRS.to_vec())]);
    checkpoint.delete("g0-1").unwrap();
    assert!(begun(&checkpoint).unwrap().is_empty());
}

/// A slot with short recursions after its long one has steps without rows of segments, beside one that has not.
#[test]
fn steps_without_segments_are_read_back() {
    let checkpoint = Checkpoint::open("memory://checkpoint-short", "r", "identity").unwrap();
    let (long, mut flat) = (matrix(5), matrix(3));
    flat.alpha.extend([2.0, 3.0]);
    flat.beta.extend([0.5, 0.25]);
    flat.orthogonality_loss.extend([0.0, 0.0]);
    for step in 1..=5 {
        save_step(&checkpoint, "g", step, &[Some(&flat), Some(&long)]);
    }
    assert_eq!(checkpoint.load_steps("g", 5, &contents(&PAIRS)).unwrap().0, [flat, long]);
}

#[test]
fn any_number_of_ranks_reads_what_any_other_wrote() {
    let checkpoint = Checkpoint::open("memory://checkpoint-ranks", "r", "identity").unwrap();
    let vector: Vec<f32> = (0..11).map(|i| i as f32 / 7.0).collect();
    for rank in 0..3 {
        let shard = Shard::new(rank, 3, 11);
        checkpoint.save_vector("g", 2, 0, shard, &vector[shard.range()]).unwrap();
    }
    for size in 1..6 {
        for rank in 0..size {
            let shard = Shard::new(rank, size, 11);
            assert_eq!(checkpoint.load_vector::<f32>("g", 2, 0, shard).unwrap(), vector[shard.range()]);
        }
    }
    for (step, len) in [(3, 11), (2, 10), (2, 12)] {
        assert_eq!(checkpoint.load_vector::<f32>("g", step, 0, Shard::new(0, 1, len)).unwrap_err().exit_code(), 5);
    }
    // numbers of another size, the same entries twice
    assert!(checkpoint.load_vector::<f64>("g", 2, 0, Shard::new(0, 1, 11)).is_err());
    checkpoint.save_vector("g", 2, 0, Shard::new(1, 11, 11), &vector[1..2]).unwrap();
    assert!(checkpoint.load_vector::<f32>("g", 2, 0, Shard::new(0, 1, 11)).is_err());
}

#[test]
fn a_sweep_replaces_the_one_before_and_a_flipped_bit_is_seen() {
    let checkpoint = Checkpoint::open("memory://checkpoint-sweep", "r", "identity").unwrap();
    let shard = Shard::new(0, 1, 2);
    for segments in 1..=3 {
        let at = Position { step: 0, segments };
        checkpoint.save_sum("g", at, 0, shard, &[segments as f64, 0.5]).unwrap();
        checkpoint.save_sweep("g", at, &vec![vec![vec![1.0 / 3.0]; segments]]).unwrap();
    }
    let at = checkpoint.position("g").unwrap();
    assert_eq!(at, Position { step: 0, segments: 3 });
    assert_eq!(checkpoint.load_sweep("g", at, 1).unwrap(), vec![vec![vec![1.0 / 3.0]; 3]]);
    assert_eq!(checkpoint.load_sum("g", at, 0, shard).unwrap(), [3.0, 0.5]);
    assert!(checkpoint.load_sum("g", Position { step: 0, segments: 2 }, 0, shard).is_err());
    let path = checkpoint.path("g", "sweep-00000-00002.bin");
    let mut bytes = checkpoint.objects.get(&path).unwrap().unwrap().to_vec();
    bytes[5] ^= 1;
    checkpoint.objects.put(&path, bytes).unwrap();
    assert!(checkpoint.load_sweep("g", at, 1).unwrap_err().to_string().contains("hash"));
}

/// Two ranks are killed while they save step 3 and its sweep; three go on from step 2 and save the same.
#[test]
fn what_was_half_saved_is_forgotten_before_other_ranks_save_it() {
    let checkpoint = Checkpoint::open("memory://checkpoint-half", "r", "identity").unwrap();
    let vector: Vec<f64> = (0..11).map(f64::from).collect();
    let save = |ranks: usize, step: usize, half: bool| {
        for rank in 0..ranks {
            let shard = Shard::new(rank, ranks, 11);
            checkpoint.save_vector("g", step, 0, shard, &vector[shard.range()]).unwrap();
            let at = Position { step, segments: 1 };
            checkpoint.save_sum("g", at, 0, shard, &vector[shard.range()]).unwrap();
        }
        if !half {
            (1..=step).for_each(|step| save_step(&checkpoint, "g", step, &[Some(&matrix(step))]));
            checkpoint.save_sweep("g", Position { step, segments: 1 }, &vec![vec![vec![0.5; step + 1]]]).unwrap();
        }
    };
    save(2, 0, true);
    assert_eq!(checkpoint.recover("g", &contents(&[(0, 0)])).unwrap(), Position::default());
    assert!(checkpoint.objects.list("_runs").unwrap().is_empty());
    save(2, 2, false);
    save(2, 3, true);
    assert_eq!(checkpoint.recover("g", &contents(&[(0, 0)])).unwrap(), Position { step: 2, segments: 1 });
    assert_eq!(checkpoint.load_sum("g", Position { step: 2, segments: 1 }, 0, Shard::new(0, 1, 11)).unwrap(), vector);
    save(3, 3, false);
    let at = checkpoint.recover("g", &contents(&[(0, 0)])).unwrap();
    assert_eq!(at, Position { step: 3, segments: 1 });
    for step in [2, 3] {
        assert_eq!(checkpoint.load_vector::<f64>("g", step, 0, Shard::new(0, 1, 11)).unwrap(), vector);
    }
    assert_eq!(checkpoint.load_sum("g", at, 0, Shard::new(1, 2, 11)).unwrap(), vector[6..]);
}

#[test]
fn groups_that_are_not_kept_leave_nothing() {
    let checkpoint = Checkpoint::open("memory://checkpoint-keep", "r", "identity").unwrap();
    for group in ["a", "ab", "b"] {
        checkpoint.begin(group, &contents(&[(0, 0)])).unwrap();
        save_step(&checkpoint, group, 1, &[Some(&matrix(1))]);
    }
    checkpoint.objects.delete(&checkpoint.path("b", CONTENTS)).unwrap();
    assert_eq!(checkpoint.keep_only(&["ab"]).unwrap(), ["b"], "nobody knows what it was of");
    let left = checkpoint.objects.list("_runs").unwrap();
    assert!(left.len() == 2 && left.iter().all(|path| path.contains("/ab/")), "{left:?}");
}

/// What a group is of must be what the plan has for it, and come from this program.
#[test]
fn a_group_that_is_not_of_the_plan_is_refused() {
    let refused = |number: usize, group: &str, held: &Contents, planned: Option<Contents>, why: &str| {
        let checkpoint = Checkpoint::open(format!("memory://checkpoint-plan-{number}"), "r", "identity").unwrap();
        checkpoint.begin(group, held).unwrap();
        let error = checkpoint.begun(&|_| planned.clone(), &name).unwrap_err();
        let text = error.to_string();
        assert!(error.exit_code() == 5 && text.contains(why), "{why}: {text}");
        assert!(text.contains(&format!("delete the folder `_runs/r/checkpoint/{group}`")), "{text}");
    };
    let held = contents(&PAIRS);
    refused(0, "g0-1", &held, None, "a block or a probe that the run has not");
    refused(1, "g4-0", &held, Some(held.clone()), "belong into another group");
    refused(2, "g0-1", &held, Some(contents(&[(0, 1), (3, 0)])), "block 4");
    let twice = contents(&[(0, 1), (0, 1)]);
    refused(3, "g0-1", &twice, Some(twice.clone()), "2 slots of 1 pairs");
    let slots = |pairs: &[Pair]| {
        pairs
            .iter()
            .map(|pair| SlotContents { pair: *pair, block: format!("block {}", pair.0), dim: 11, steps: 5 })
            .collect()
    };
    refused(4, "g0-1", &held, Some(Contents::new(8, 3, slots(&PAIRS))), "2 segments, the run has 8 and 3");
    refused(5, "g0-1", &held, Some(Contents::new(4, 2, slots(&PAIRS))), "entries of 8 bytes");
    let checkpoint = Checkpoint::open("memory://checkpoint-twice", "r", "identity").unwrap();
    checkpoint.begin("g0-1", &held).unwrap();
    checkpoint.begin("g4-0", &contents(&[(4, 0)])).unwrap();
    assert!(begun(&checkpoint).unwrap_err().to_string().contains("belong into another group"));
    // a version before wrote the pairs alone
    let checkpoint = Checkpoint::open("memory://checkpoint-before", "r", "identity").unwrap();
    checkpoint.objects.put(&checkpoint.path("g0-1", "group.json"), "[[0,1],[4,0]]".into()).unwrap();
    assert!(begun(&checkpoint).unwrap_err().to_string().contains("Go on with that version"));
}

/// The hash is that of an object in its place.
#[test]
fn every_flipped_bit_and_every_object_in_another_place_is_seen() {
    let checkpoint = Checkpoint::open("memory://checkpoint-bits", "r", "identity").unwrap();
    checkpoint.begin("g0-1", &contents(&PAIRS)).unwrap();
    save_step(&checkpoint, "g0-1", 1, &[Some(&matrix(1)), Some(&matrix(1))]);
    let change =
        |object: &str, bytes: &[u8]| checkpoint.objects.put(&checkpoint.path("g0-1", object), bytes.to_vec()).unwrap();
    for object in [CONTENTS, "step-00001.bin"] {
        let whole = checkpoint.objects.get(&checkpoint.path("g0-1", object)).unwrap().unwrap();
        for bit in (0..8 * whole.len()).step_by(5) {
            let mut bytes = whole.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            change(object, &bytes);
            let read = begun(&checkpoint).and_then(|_| checkpoint.load_steps("g0-1", 1, &contents(&PAIRS)));
            assert!(read.unwrap_err().to_string().contains("its hash is wrong"), "{object}, bit {bit}");
        }
        change(object, &whole);
    }
    let another = Checkpoint::open("memory://checkpoint-bits", "r", "another run").unwrap();
    assert!(begun(&another).unwrap_err().to_string().contains("another run wrote it"));
    let first = checkpoint.objects.get(&checkpoint.path("g0-1", "step-00001.bin")).unwrap().unwrap();
    change("step-00002.bin", &first);
    assert!(checkpoint.load_steps("g0-1", 2, &contents(&PAIRS)).unwrap_err().to_string().contains("step-00002.bin"));
    // of another plan, though whole: one slot more, other segments
    assert!(checkpoint.load_steps("g0-1", 1, &contents(&[(0, 1), (4, 0), (5, 0)])).is_err());
    assert!(checkpoint.load_steps("g0-1", 1, &contents(&[(0, 1)])).is_err());
    // steps that the plan never comes to
    (2..=6).for_each(|step| save_step(&checkpoint, "g0-1", step, &[Some(&matrix(step)), Some(&matrix(step))]));
    assert!(checkpoint.recover("g0-1", &contents(&PAIRS)).unwrap_err().to_string().contains("6 steps"));
}
