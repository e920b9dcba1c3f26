//! A linear classifier, whose cross-entropy and gradient are two lines of f64.

use burn::module::{Module, Param};
use burn::tensor::activation::log_softmax;
use burn::tensor::backend::Backend;
use burn::tensor::{DType, Int, Tensor, TensorData};

use super::*;
use crate::cluster::{solo, threads};
use crate::engine::SecondOrder;
use crate::hessian::{Listed, OnData, Problem};
use crate::models::{Names, parameters};
use crate::probe::{ProbeKind, probe};

type B = SecondOrder<burn_flex::Flex>;

const INPUTS: usize = 4;
const CLASSES: usize = 3;
/// Samples of each micro-batch.
const SIZES: [usize; 4] = [3, 2, 5, 1];

#[derive(Module, Debug)]
struct Linear<B: Backend> {
    weight: Param<Tensor<B, 2>>,
}

struct Classifier;

impl Problem<B> for Classifier {
    type Model = Linear<B>;
    type Batch = (Tensor<B, 2>, Tensor<B, 1, Int>);

    fn outputs(&self, model: &Linear<B>, (x, _): &Self::Batch) -> Tensor<B, 2> {
        x.clone().matmul(model.weight.val())
    }

    fn loss(&self, outputs: Tensor<B, 2>, (_, classes): &Self::Batch) -> Tensor<B, 1> {
        let [rows, _] = outputs.dims();
        log_softmax(outputs, 1).gather(1, classes.clone().reshape([rows, 1])).mean().neg()
    }

    fn weight(&self, (x, _): &Self::Batch) -> f64 {
        x.dims()[0] as f64
    }

    fn classes(&self, (_, classes): &Self::Batch) -> Option<Tensor<B, 1, Int>> {
        Some(classes.clone())
    }
}

fn numbers(name: &str, count: usize) -> Vec<f64> {
    probe(ProbeKind::Gaussian, 1, name, 0, 0..count)
}

fn class_of(sample: usize) -> usize {
    (sample * 7 + 1) % CLASSES
}

/// Sums of losses and gradients and the number of right predictions over these samples.
fn expected(weights: &[f64], samples: Range<usize>) -> (f64, Vec<f64>, usize) {
    let all = numbers("x", SIZES.iter().sum::<usize>() * INPUTS);
    let (mut loss, mut gradient, mut right) = (0.0, vec![0.0; weights.len()], 0);
    for sample in samples {
        let x = &all[sample * INPUTS..(sample + 1) * INPUTS];
        let score = |class: usize| x.iter().enumerate().map(|(i, x)| x * weights[i * CLASSES + class]).sum::<f64>();
        let scores: Vec<f64> = (0..CLASSES).map(score).collect();
        let sum = scores.iter().map(|score| score.exp()).sum::<f64>();
        let class = class_of(sample);
        loss += sum.ln() - scores[class];
        right += usize::from(scores.iter().all(|score| *score <= scores[class]));
        for (i, x) in x.iter().enumerate() {
            for (c, score) in scores.iter().enumerate() {
                gradient[i * CLASSES + c] += x * (score.exp() / sum - f64::from(u8::from(c == class)));
            }
        }
    }
    (loss, gradient, right)
}

/// Calls `body` with the classifier on its data; its own weights are zeros.
fn with_descent<R>(comm: &Comm, body: impl Fn(&Descent<'_, burn_flex::Flex, f64>) -> R) -> R {
    let device = Default::default();
    let model = Linear { weight: Param::from_tensor(Tensor::zeros([INPUTS, CLASSES], (&device, DType::F64))) };
    let layout = parameters(&model, &Names::BURN);
    let all = numbers("x", SIZES.iter().sum::<usize>() * INPUTS);
    let mut begin = 0;
    let batch = |size: &usize| {
        let samples = begin..begin + size;
        begin = samples.end;
        let values = all[samples.start * INPUTS..samples.end * INPUTS].to_vec();
        let classes: Vec<i64> = samples.map(|sample| class_of(sample) as i64).collect();
        let x = Tensor::<B, 2>::from_data(TensorData::new(values, [*size, INPUTS]), (&device, DType::F64));
        (x, Tensor::<B, 1, Int>::from_data(TensorData::new(classes, [*size]), &device))
    };
    let data = Listed::new(SIZES.iter().map(batch).collect(), |batch| Problem::weight(&Classifier, batch));
    let passes = Rc::new(OnData::new(&Classifier, &model, &layout, &data));
    body(&Descent { passes, comm, recompute: false })
}

#[track_caller]
fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-13 * expected.abs().max(1.0), "{found}, expected {expected}");
}

#[test]
fn the_gradient_is_the_one_at_the_given_parameters_over_the_given_micro_batches() {
    let weights = numbers("w", INPUTS * CLASSES);
    with_descent(&solo::comm(), |descent| {
        assert_eq!(descent.passes.parameters(), [0.0; INPUTS * CLASSES]);
        for (micro_batches, samples) in [(0..4, 0..11), (1..3, 3..10), (3..4, 10..11)] {
            let found = descent.slope(&weights, micro_batches, 0.0).unwrap();
            let count = samples.len() as f64;
            let (loss, gradient, _) = expected(&weights, samples);
            assert_close(found.loss, loss / count);
            found.gradient.iter().zip(gradient).for_each(|(found, sum)| assert_close(*found, sum / count));
        }
    });
}

#[test]
fn losses_and_right_predictions_are_counted_over_all_samples() {
    let weights = numbers("w", INPUTS * CLASSES);
    let (loss, _, right) = expected(&weights, 0..11);
    assert!((1..11).contains(&right), "{right}");
    with_descent(&solo::comm(), |descent| {
        let (found, share) = descent.evaluate(&weights).unwrap();
        assert_close(found, loss / 11.0);
        assert_eq!(share, Some(right as f64 / 11.0));
        assert_eq!(descent.evaluate(&vec![f64::NAN; weights.len()]).unwrap().1, Some(0.0), "nothing is right");
    });
}

/// More ranks than micro-batches: some have nothing to do, and all get the same bits.
#[test]
fn ranks_share_the_micro_batches_and_agree() {
    let weights = numbers("w", INPUTS * CLASSES);
    let alone = with_descent(&solo::comm(), |descent| descent.slope(&weights, 0..4, 1.0).unwrap());
    for ranks in [2, 3, 6] {
        let found = threads::run(ranks, |comm| {
            let vote = f64::from(u8::from(comm.rank() == 1));
            with_descent(&comm, |descent| Ok((descent.slope(&weights, 0..4, vote)?, descent.evaluate(&weights)?)))
        });
        let found = found.unwrap();
        assert!(found.iter().all(|other| *other == found[0]), "{ranks} ranks");
        let (slope, (loss, share)) = &found[0];
        assert_eq!(slope.votes, 1.0);
        assert_close(slope.loss, alone.loss);
        assert_close(*loss, alone.loss);
        assert!(share.is_some());
        slope.gradient.iter().zip(&alone.gradient).for_each(|(a, b)| assert_close(*a, *b));
    }
}
