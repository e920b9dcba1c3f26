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

#[test]
fn steps_are_read_back_bit_for_bit_and_a_slot_may_end_early() {
    let checkpoint = Checkpoint::open("memory://checkpoint-steps", "r").unwrap();
    let (long, short) = (matrix(5), matrix(3));
    checkpoint.begin("g", &[(0, 1), (4, 0)]).unwrap();
    for step in 1..=5 {
        checkpoint.save_step("g", step, &[Some(&long), (step <= 3).then_some(&short)]).unwrap();
    }
    assert_eq!(checkpoint.position("g").unwrap(), Position { step: 5, segments: 0 });
    assert_eq!(checkpoint.load_steps("g", 5, 2).unwrap(), [long, short]);
    assert_eq!(checkpoint.begun().unwrap(), [("g".to_owned(), vec![(0, 1), (4, 0)])]);
    checkpoint.delete("g").unwrap();
    assert!(checkpoint.begun().unwrap().is_empty());
}

/// A slot with short recursions after its long one has steps without rows of segments, beside one that has not.
#[test]
fn steps_without_segments_are_read_back() {
    let checkpoint = Checkpoint::open("memory://checkpoint-short", "r").unwrap();
    let (long, mut flat) = (matrix(5), matrix(3));
    flat.alpha.extend([2.0, 3.0]);
    flat.beta.extend([0.5, 0.25]);
    flat.orthogonality_loss.extend([0.0, 0.0]);
    checkpoint.begin("g", &[(0, 1), (4, 0)]).unwrap();
    for step in 1..=5 {
        checkpoint.save_step("g", step, &[Some(&flat), Some(&long)]).unwrap();
    }
    assert_eq!(checkpoint.load_steps("g", 5, 2).unwrap(), [flat, long]);
}

#[test]
fn any_number_of_ranks_reads_what_any_other_wrote() {
    let checkpoint = Checkpoint::open("memory://checkpoint-ranks", "r").unwrap();
    let vector: Vec<f32> = (0..11).map(|i| i as f32 / 7.0).collect();
    for rank in 0..3 {
        let shard = Shard::new(rank, 3, 11);
        checkpoint.save_vector("g", 2, 0, shard, &vector[shard.range()]).unwrap();
    }
    for size in 1..6 {
        for rank in 0..size {
            let range = Shard::new(rank, size, 11).range();
            assert_eq!(checkpoint.load_vector::<f32>("g", 2, 0, range.clone()).unwrap(), vector[range]);
        }
    }
    let error = checkpoint.load_vector::<f32>("g", 3, 0, 0..11).unwrap_err();
    assert_eq!(error.exit_code(), 5);
}

#[test]
fn a_sweep_replaces_the_one_before_and_a_flipped_bit_is_seen() {
    let checkpoint = Checkpoint::open("memory://checkpoint-sweep", "r").unwrap();
    let shard = Shard::new(0, 1, 2);
    for segments in 1..=3 {
        let at = Position { step: 0, segments };
        checkpoint.save_sum("g", at, 0, shard, &[segments as f64, 0.5]).unwrap();
        checkpoint.save_sweep("g", at, &vec![vec![vec![1.0 / 3.0]; segments]]).unwrap();
    }
    let at = checkpoint.position("g").unwrap();
    assert_eq!(at, Position { step: 0, segments: 3 });
    assert_eq!(checkpoint.load_sweep("g", at, 1).unwrap(), vec![vec![vec![1.0 / 3.0]; 3]]);
    assert_eq!(checkpoint.load_sum("g", at, 0, 0..2).unwrap(), [3.0, 0.5]);
    assert!(checkpoint.load_sum("g", Position { step: 0, segments: 2 }, 0, 0..2).is_err());
    let path = checkpoint.path("g", "sweep-00000-00002.bin");
    let mut bytes = checkpoint.location.get(&path).unwrap().unwrap().to_vec();
    bytes[5] ^= 1;
    checkpoint.location.put(&path, bytes).unwrap();
    assert!(checkpoint.load_sweep("g", at, 1).unwrap_err().to_string().contains("hash"));
}

/// Two ranks are killed while they save step 3 and its sweep; three go on from step 2 and save the same.
#[test]
fn what_was_half_saved_is_forgotten_before_other_ranks_save_it() {
    let checkpoint = Checkpoint::open("memory://checkpoint-half", "r").unwrap();
    let vector: Vec<f64> = (0..11).map(f64::from).collect();
    let save = |ranks: usize, step: usize, half: bool| {
        for rank in 0..ranks {
            let shard = Shard::new(rank, ranks, 11);
            checkpoint.save_vector("g", step, 0, shard, &vector[shard.range()]).unwrap();
            let at = Position { step, segments: 1 };
            checkpoint.save_sum("g", at, 0, shard, &vector[shard.range()]).unwrap();
        }
        if !half {
            (1..=step).for_each(|step| checkpoint.save_step("g", step, &[Some(&matrix(step))]).unwrap());
            checkpoint.save_sweep("g", Position { step, segments: 1 }, &vec![vec![vec![0.5]]]).unwrap();
        }
    };
    save(2, 0, true);
    assert_eq!(checkpoint.recover("g").unwrap(), Position::default());
    assert!(checkpoint.location.list("_runs").unwrap().is_empty());
    save(2, 2, false);
    save(2, 3, true);
    assert_eq!(checkpoint.recover("g").unwrap(), Position { step: 2, segments: 1 });
    assert_eq!(checkpoint.load_sum("g", Position { step: 2, segments: 1 }, 0, 0..11).unwrap(), vector);
    save(3, 3, false);
    let at = checkpoint.recover("g").unwrap();
    assert_eq!(at, Position { step: 3, segments: 1 });
    for step in [2, 3] {
        assert_eq!(checkpoint.load_vector::<f64>("g", step, 0, 0..11).unwrap(), vector);
    }
    assert_eq!(checkpoint.load_sum("g", at, 0, 2..9).unwrap(), vector[2..9]);
}

#[test]
fn groups_that_are_not_kept_leave_nothing() {
    let checkpoint = Checkpoint::open("memory://checkpoint-keep", "r").unwrap();
    for group in ["a", "ab", "b"] {
        checkpoint.begin(group, &[(0, 0)]).unwrap();
        checkpoint.save_step(group, 1, &[Some(&matrix(1))]).unwrap();
    }
    checkpoint.location.delete(&checkpoint.path("b", "group.json")).unwrap();
    checkpoint.keep_only(&["ab"]).unwrap();
    let left = checkpoint.location.list("_runs").unwrap();
    assert!(left.len() == 2 && left.keys().all(|path| path.contains("/ab/")), "{left:?}");
}
