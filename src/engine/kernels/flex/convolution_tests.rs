//! Convolutions and their adjoints against plain loops.

use super::convolution::{conv2d, weight_adjoint, x_adjoint};
use super::element::Element;
use super::testing::{Case, DIFFERENCE, dense, dual, duals_close, numbers, truth};
use crate::engine::kernels::Dual;
use burn_backend::Shape;
use burn_backend::ops::ConvOptions;
use burn_flex::{Flex, FlexTensor};

type Options = ConvOptions<2>;

/// Shapes of x and of the kernels, with options: one image in many blocks, many images in one, strides, paddings, dilations,
/// groups, kernels of one number, and kernels that reach over all of the padded image.
fn situations() -> Vec<([usize; 4], [usize; 4], Options)> {
    vec![
        ([2, 3, 5, 6], [4, 3, 3, 3], Options::new([1, 1], [1, 1], [1, 1], 1)),
        ([1, 2, 24, 23], [3, 2, 3, 2], Options::new([1, 1], [1, 0], [1, 1], 1)),
        ([3, 4, 7, 6], [6, 2, 3, 3], Options::new([2, 2], [1, 1], [1, 1], 2)),
        ([2, 4, 8, 9], [4, 1, 3, 2], Options::new([2, 3], [0, 2], [2, 1], 4)),
        ([2, 5, 6, 6], [3, 5, 1, 1], Options::new([2, 2], [0, 0], [1, 1], 1)),
        ([2, 2, 3, 4], [2, 2, 5, 6], Options::new([1, 1], [1, 1], [1, 1], 1)),
        ([1, 2, 40, 17], [2, 2, 7, 7], Options::new([2, 2], [3, 3], [1, 1], 1)),
        ([70, 1, 3, 2], [2, 1, 2, 2], Options::new([1, 1], [1, 1], [1, 1], 1)),
    ]
}

/// Calls `f` with positions in x, in the kernels and in y, for every product of numbers that a convolution sums up.
fn each_product(x: [usize; 4], w: [usize; 4], options: &Options, mut f: impl FnMut(usize, usize, usize)) -> [usize; 4] {
    let output = [0, 1].map(|d| {
        (x[2 + d] + 2 * options.padding[d] - options.dilation[d] * (w[2 + d] - 1) - 1) / options.stride[d] + 1
    });
    let y = [x[0], w[0], output[0], output[1]];
    let at = |sizes: [usize; 4], [a, b, c, d]: [usize; 4]| ((a * sizes[1] + b) * sizes[2] + c) * sizes[3] + d;
    let from = |d: usize, pixel: usize, tap: usize| {
        let padded = pixel * options.stride[d] + tap * options.dilation[d];
        padded.checked_sub(options.padding[d]).filter(|from| *from < x[2 + d])
    };
    let indices = |sizes: [usize; 4]| {
        (0..sizes.iter().product()).map(move |i: usize| {
            [
                i / (sizes[1] * sizes[2] * sizes[3]),
                i / (sizes[2] * sizes[3]) % sizes[1],
                i / sizes[3] % sizes[2],
                i % sizes[3],
            ]
        })
    };
    for [image, out, row, column] in indices(y) {
        let group = out / (w[0] / options.groups);
        for [_, channel, down, across] in indices([1, w[1], w[2], w[3]]) {
            if let (Some(line), Some(place)) = (from(0, row, down), from(1, column, across)) {
                f(
                    at(x, [image, group * w[1] + channel, line, place]),
                    at(w, [out, channel, down, across]),
                    at(y, [image, out, row, column]),
                );
            }
        }
    }
    y
}

/// Sum of the products of a and b at two of the three positions, at the third; by plain loops in f64.
fn plain(
    x: [usize; 4],
    w: [usize; 4],
    options: &Options,
    [a, b]: [&FlexTensor; 2],
    order: impl Fn([usize; 3]) -> [usize; 3],
    shape: [usize; 4],
) -> FlexTensor {
    let (a, b) = (numbers(a), numbers(b));
    let mut sums = vec![0.0; shape.iter().product()];
    each_product(x, w, options, |x, w, y| {
        let [from_a, from_b, to] = order([x, w, y]);
        sums[to] += a[from_a] * b[from_b];
    });
    dense::<f64>(&sums, &shape)
}

const SLOTS: [[bool; 4]; 2] = [[true, false, true, false], [true, true, false, false]];

fn inputs<T: Element>(a: [usize; 4], b: [usize; 4], case: Case) -> [Dual<Flex>; 2] {
    [dual::<T>(&a, 1, &SLOTS[0], case), dual::<T>(&b, 2, &SLOTS[1], Case::Dense)]
}

#[test]
fn forward_equals_plain_loops() {
    for (x, w, options) in situations() {
        let y = each_product(x, w, &options, |_, _, _| ());
        for case in Case::ALL {
            let duals = inputs::<f64>(x, w, case);
            let expected = truth(&duals, |p| plain(x, w, &options, [&p[0], &p[1]], |[x, w, y]| [x, w, y], y));
            duals_close(&conv2d::<f64>(&duals[0], &duals[1], &options), &expected, DIFFERENCE);
            let duals = inputs::<f32>(x, w, case);
            duals_close(&conv2d::<f32>(&duals[0], &duals[1], &options), &expected, 1e-6);
        }
    }
}

#[test]
fn adjoints_equal_plain_loops() {
    let keep = vec![true, true, false, false];
    for (x, w, options) in situations() {
        let y = each_product(x, w, &options, |_, _, _| ());
        let (shape_x, shape_w) = (Shape::from(x), Shape::from(w));
        for case in Case::ALL {
            let duals = inputs::<f64>(w, y, case);
            let expected = truth(&duals, |p| plain(x, w, &options, [&p[0], &p[1]], |[x, w, y]| [w, y, x], x));
            let found = x_adjoint::<f64>(&duals[0], &duals[1], &shape_x, &options, &keep, true);
            duals_close(&found, &expected.only(&keep), DIFFERENCE);
            let duals = inputs::<f64>(x, y, case);
            let expected = truth(&duals, |p| plain(x, w, &options, [&p[0], &p[1]], |[x, w, y]| [x, y, w], w));
            let found = weight_adjoint::<f64>(&duals[0], &duals[1], &shape_w, &options, &keep, true);
            duals_close(&found, &expected.only(&keep), DIFFERENCE);
        }
    }
}

#[test]
fn an_adjoint_that_nobody_asked_for_is_nan_and_absent_slots_stay_absent() {
    let (x, w, options) = situations().swap_remove(0);
    let y = each_product(x, w, &options, |_, _, _| ());
    let [x_dual, grad] = inputs::<f64>(x, y, Case::Dense);
    let adjoint = weight_adjoint::<f64>(&x_dual, &grad, &Shape::from(w), &options, &vec![false, true], false);
    assert!(numbers(&adjoint.primal).iter().all(|x| x.is_nan()));
    assert_eq!(adjoint.mask(), [false, true, false, false]);
    assert!(numbers(adjoint.tangent(1).unwrap()).iter().all(|x| x.is_finite()));
}

#[test]
fn without_images_the_kernels_have_an_adjoint_of_zeros() {
    let options = Options::new([1, 1], [1, 1], [1, 1], 1);
    let [x, grad] = inputs::<f64>([0, 2, 4, 4], [0, 3, 4, 4], Case::Dense);
    let adjoint = weight_adjoint::<f64>(&x, &grad, &Shape::from([3, 2, 3, 3]), &options, &vec![true, true], true);
    assert_eq!(adjoint.mask(), [true, true, false, false]);
    assert_eq!(numbers(&adjoint.primal), [0.0; 54]);
    assert_eq!(numbers(adjoint.tangent(0).unwrap()), [0.0; 54]);
}

#[test]
fn one_thread_and_three_give_the_same_bits() {
    let bits = |threads: usize, (x, w, options): &([usize; 4], [usize; 4], Options)| {
        let y = each_product(*x, *w, options, |_, _, _| ());
        let keep = vec![true; 4];
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let [a, b] = inputs::<f32>(*x, *w, Case::Dense);
            let [c, g] = inputs::<f32>(*x, y, Case::Dense);
            let results = [
                conv2d::<f32>(&a, &b, options),
                x_adjoint::<f32>(&b, &g, &Shape::from(*x), options, &keep, true),
                weight_adjoint::<f32>(&c, &g, &Shape::from(*w), options, &keep, true),
            ];
            let components = results.into_iter().flat_map(|d| std::iter::once(Some(d.primal)).chain(d.tangents));
            components.map(|t| t.as_ref().map(numbers)).collect::<Vec<_>>()
        })
    };
    let large = ([3, 20, 30, 31], [40, 20, 3, 3], Options::new([1, 1], [1, 1], [1, 1], 1));
    for situation in situations().iter().chain([&large]) {
        let alone = bits(1, situation);
        assert!(bits(3, situation) == alone && bits(16, situation) == alone, "{situation:?}");
    }
}
