use burn::tensor::{DType, Tensor};

use super::*;
use crate::data::Order;
use crate::datasets::Choice;

type Plain = burn_flex::Flex;

const SHAPE: PairShape = PairShape { context: 6, vocabulary: 20, types: 2, next: true };

fn opened(text: &str, mask: Option<Masking>, shape: PairShape) -> Result<Pairs> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.jsonl");
    std::fs::write(&path, text).unwrap();
    PairFiles { path: path.display().to_string().as_str().into(), mask }.open(&shape)
}

fn masking() -> Option<Masking> {
    Some(Masking { token: 19, never: vec![0, 1], share: 0.15, seed: 0 })
}

fn selected(samples: &mut Pairs, num_samples: usize, start: usize) {
    let unit = PairFiles::unit(&SHAPE);
    let choice =
        Choice { key: unit.key(), num_samples: Some(num_samples), start, stride: 1, order: Order::Sequential, seed: 0 };
    let selection = Selection::new(&choice, samples.num_positions(), unit, &samples.size()).unwrap();
    samples.select(&selection);
}

fn batch(samples: &Pairs, positions: &[usize]) -> PairBatch<Plain> {
    samples.batch(positions, &Place::new(Default::default(), DType::F32)).unwrap()
}

fn integers<const D: usize>(tensor: Tensor<Plain, D, Int>) -> Vec<i64> {
    tensor.into_data().iter::<i64>().collect()
}

const LABELLED: &str = r#"{"input_ids": [0, 5, 19, 1], "token_type_ids": [0, 0, 1, 1], "labels": [-100, -100, 7, -100], "next_sentence_label": 1}
{"input_ids": [0, 19, 1], "token_type_ids": [0, 1, 1], "labels": [-100, 8, 9], "next_sentence_label": 0}
{"input_ids": [3], "labels": [4], "next_sentence_label": 1}
"#;

#[test]
fn pairs_are_as_long_as_the_longest_of_a_micro_batch() {
    let mut samples = opened(LABELLED, None, SHAPE).unwrap();
    selected(&mut samples, 2, 0);
    let found = batch(&samples, &[1, 0]);
    assert_eq!(integers(found.inputs), [0, 19, 1, 0, 0, 5, 19, 1]);
    assert_eq!(integers(found.types), [0, 1, 1, 0, 0, 0, 1, 1]);
    let padding: Vec<bool> = found.padding.unwrap().into_data().iter().collect();
    assert_eq!(padding.iter().enumerate().filter(|(_, hidden)| **hidden).map(|(at, _)| at).collect::<Vec<_>>(), [3]);
    assert_eq!((integers(found.predicted), integers(found.targets)), (vec![1, 2, 6], vec![8, 9, 7]));
    assert_eq!((integers(found.next.unwrap()), found.mean_predicted), (vec![0, 1], 1.5));
    let one = batch(&samples, &[1]);
    assert!(one.padding.is_none() && one.inputs.dims() == [1, 3]);
    selected(&mut samples, 2, 1);
    assert_eq!(batch(&samples, &[1]).mean_predicted, 1.5, "of the second and the third pair");
    selected(&mut samples, 1, 2);
    assert_eq!(batch(&samples, &[2]).mean_predicted, 1.0);
    let without = opened(LABELLED, None, PairShape { next: false, ..SHAPE }).unwrap();
    assert!(batch(&without, &[0]).next.is_none());
}

#[test]
fn the_content_is_what_the_network_sees() {
    let content = |samples: &Pairs, positions: &[usize]| samples.content(positions).unwrap().unwrap();
    let samples = opened(LABELLED, None, SHAPE).unwrap();
    let expected = [3u32, 2, 0, 0, 19, 1, 1, 1, 1, 8, 2, 9, 0];
    assert_eq!(content(&samples, &[1]), expected.iter().flat_map(|n| n.to_le_bytes()).collect::<Vec<u8>>());
    let text = r#"{"input_ids": [0, 5, 6, 7, 8, 1], "next_sentence_label": 1}"#;
    let seeded = |seed| content(&opened(text, masking().map(|mask| Masking { seed, ..mask }), SHAPE).unwrap(), &[0]);
    assert_eq!(seeded(0), seeded(0));
    assert!((1..9).any(|seed| seeded(seed) != seeded(0)), "another choice of tokens is another batch");
}

#[test]
fn made_up_pairs_are_as_long_as_the_network_takes() {
    let files = PairFiles { path: "nowhere".into(), mask: masking() };
    let shape = PairShape { context: 40, ..SHAPE };
    let mut samples = files.synthetic(&shape).unwrap();
    samples.select(&Selection::first(100));
    let found = batch(&samples, &[0, 1]);
    assert_eq!((found.inputs.dims(), found.targets.dims(), found.mean_predicted), ([2, 40], [12], 6.0));
    assert!(found.padding.is_none() && integers(found.inputs).iter().all(|token| *token < 20));
    assert_eq!(integers(found.types)[18..22], [0, 0, 1, 1]);
}

#[test]
fn what_does_not_fit_is_named_with_its_line() {
    let refused = |line: &str, mask: Option<Masking>, part: &str| {
        let error = opened(&format!("{line}\n"), mask, SHAPE).err().unwrap();
        let text = error.to_string();
        assert!(error.exit_code() == 2 && text.contains(part), "{line}: {text}");
        assert!(text.contains("pairs.jsonl:1: ") || text.starts_with("data.pairs.mask"), "{text}");
    };
    let ids = |ids: &str| format!("{{\"input_ids\": {ids}, \"next_sentence_label\": 0}}");
    refused(&ids("[20]"), masking(), "token 20; the network's vocabulary has 20");
    refused(&ids("[2, 3, 4, 5, 6, 7, 8]"), masking(), "7 tokens; the network's context is 6");
    refused(&ids("[0, 1]"), masking(), "no token can be hidden");
    refused(r#"{"input_ids": [5]}"#, masking(), "no `next_sentence_label`");
    refused(
        r#"{"input_ids": [5], "token_type_ids": [2], "next_sentence_label": 0}"#,
        masking(),
        "token_type_ids has 2; the network has 2 types",
    );
    refused(&ids("[5]"), None, "set data.pairs.mask");
    let labelled = r#"{"input_ids": [5], "labels": [20], "next_sentence_label": 0}"#;
    refused(labelled, None, "token 20; the network's vocabulary");
    refused(&labelled.replace("20", "2"), masking(), "leave one of them out");
    refused(
        &ids("[5]"),
        masking().map(|mask| Masking { token: 20, ..mask }),
        "data.pairs.mask.token has the token 20; the network has 20",
    );
    refused(
        &ids("[5]"),
        masking().map(|mask| Masking { never: vec![3, 21], ..mask }),
        "data.pairs.mask.never has the token 21",
    );
}
