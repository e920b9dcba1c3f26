//! The linear cross-entropy head against f64, differences, and itself in parts.

use super::cross_entropy::{LOGITS, MIN_ROWS, linear_cross_entropy};
use super::element::Element;
use super::testing::{Case, DIFFERENCE, close, dense, dual, duals_close, numbers, truth};
use crate::engine::kernels::{Dual, LinearCrossEntropy};
use burn_backend::ops::FloatTensorOps;
use burn_backend::{TensorData, TensorMetadata};
use burn_flex::{Flex, FlexTensor};

fn target_classes(rows: usize, classes: usize) -> Vec<usize> {
    (0..rows).map(|i| (i * 7 + 3) % classes).collect()
}

fn targets(rows: usize, classes: usize) -> FlexTensor {
    let indices: Vec<i32> = target_classes(rows, classes).iter().map(|&t| t as i32).collect();
    FlexTensor::from_data(TensorData::new(indices, [rows]))
}

/// (rows, classes): -log p of each row, and (P - onehot) / rows.
fn rows(x: &[FlexTensor]) -> (Vec<f64>, Vec<f64>) {
    let logits = Flex::float_matmul(x[0].clone(), Flex::float_swap_dims(x[1].clone(), 0, 1));
    let [rows, classes] = [logits.shape()[0], logits.shape()[1]];
    let (mut losses, mut adjoint) = (Vec::new(), Vec::new());
    for (z, target) in numbers(&logits).chunks(classes).zip(target_classes(rows, classes)) {
        let total: f64 = z.iter().map(|z| z.exp()).sum();
        losses.push(total.ln() - z[target]);
        let entry = |(c, z): (usize, &f64)| (z.exp() / total - (c == target) as u8 as f64) / rows as f64;
        adjoint.extend(z.iter().enumerate().map(entry));
    }
    (losses, adjoint)
}

fn plain(x: &[FlexTensor], which: usize) -> FlexTensor {
    let (losses, adjoint) = rows(x);
    let count = losses.len();
    let adjoint = dense::<f64>(&adjoint, &[count, x[1].shape()[0]]);
    match which {
        0 => dense::<f64>(&[losses.iter().sum::<f64>() / count as f64], &[1]),
        1 => Flex::float_matmul(adjoint, x[1].clone()),
        _ => Flex::float_matmul(Flex::float_swap_dims(adjoint, 0, 1), x[0].clone()),
    }
}

fn inputs<T: Element>([rows, classes, width]: [usize; 3], case: Case) -> [Dual<Flex>; 2] {
    [
        dual::<T>(&[rows, width], 1, &[true, false, true, false], case),
        dual::<T>(&[classes, width], 2, &[true, true, false], case),
    ]
}

fn kernel<T: Element>(x: &[Dual<Flex>; 2], needed: [bool; 2]) -> LinearCrossEntropy<Flex> {
    let targets = targets(x[0].primal.shape()[0], x[1].primal.shape()[0]);
    linear_cross_entropy::<T>(&x[0], &x[1], &targets, needed[0], needed[1]).unwrap()
}

#[test]
fn loss_and_adjoints_match_differences() {
    for shape in [[5, 3, 4], [40, 17, 6]] {
        for case in Case::ALL {
            let (wide, narrow) = (inputs::<f64>(shape, case), inputs::<f32>(shape, case));
            let (wide_result, narrow) = (kernel::<f64>(&wide, [true; 2]), kernel::<f32>(&narrow, [true; 2]));
            let found = [wide_result.loss, wide_result.hidden.unwrap(), wide_result.weight.unwrap()];
            let narrow = [narrow.loss, narrow.hidden.unwrap(), narrow.weight.unwrap()];
            for which in 0..3 {
                let truth = truth(&wide, |x| plain(x, which));
                duals_close(&found[which], &truth, DIFFERENCE);
                duals_close(&narrow[which], &truth, 2e-6);
            }
        }
    }
}

#[test]
fn chunks_of_rows_add_up() {
    // As many classes as give two chunks, of 256 rows and of 44.
    let classes = LOGITS / MIN_ROWS + 5;
    let [hidden, weight] = inputs::<f32>([300, classes, 2], Case::Dense);
    let part = |x: &FlexTensor, start: usize, len: usize| x.clone().with_layout(x.layout().narrow(0, start, len));
    let call = |start: usize, len: usize| {
        let tangents = hidden.tangents.iter().map(|t| t.as_ref().map(|t| part(t, start, len))).collect();
        let rows = Dual::new(part(&hidden.primal, start, len), tangents);
        let targets = part(&targets(300, classes), start, len);
        linear_cross_entropy::<f32>(&rows, &weight, &targets, false, true).unwrap()
    };
    let [whole, first, second] = [call(0, 300), call(0, 256), call(256, 44)];
    let sum = |a: &FlexTensor, b: &FlexTensor| {
        let terms = [(a, 256.0 / 300.0), (b, 44.0 / 300.0)];
        terms.map(|(x, share)| Flex::float_mul_scalar(x.clone(), f64::into(share))).into_iter().reduce(Flex::float_add)
    };
    let [whole, first, second] = [whole, first, second].map(|r| [r.loss, r.weight.unwrap()]);
    for which in 0..2 {
        let (whole, first, second) = (&whole[which], &first[which], &second[which]);
        close(&whole.primal, &sum(&first.primal, &second.primal).unwrap(), 1e-6);
        for slot in 0..3 {
            let parts = sum(first.tangent(slot).unwrap(), second.tangent(slot).unwrap());
            close(whole.tangent(slot).unwrap(), &parts.unwrap(), 1e-6);
        }
    }
}

#[test]
fn only_what_is_asked_for_is_formed() {
    let mut x = inputs::<f64>([6, 5, 4], Case::Dense);
    let full = kernel::<f64>(&x, [true; 2]).weight.unwrap();
    x[1].tangents_only = true;
    let result = kernel::<f64>(&x, [false, true]);
    let weight = result.weight.unwrap();
    assert!(result.hidden.is_none());
    assert_eq!(weight.mask(), [true, true, false]);
    assert!(numbers(&weight.primal).iter().all(|x| x.is_nan()));
    close(weight.tangent(1).unwrap(), full.tangent(1).unwrap(), 0.0);
    assert!(kernel::<f64>(&x, [true, false]).weight.is_none());
}

#[test]
#[should_panic(expected = "there are 5 classes")]
fn a_target_that_is_no_class_is_named() {
    let x = inputs::<f64>([2, 5, 4], Case::Dense);
    let targets = FlexTensor::from_data(TensorData::new(vec![1i64, 5], [2]));
    linear_cross_entropy::<f64>(&x[0], &x[1], &targets, true, true);
}
