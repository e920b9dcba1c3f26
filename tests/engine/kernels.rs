//! The fused passes of a backend, each called by itself, in f32 against the same composed in f64 on NdArray, for any length
//! of row and any slots. A backend without one of them fails here.

use burn_backend::ops::{ActivationOps, FloatTensorOps};
use burn_backend::tensor::{FloatTensor, IntTensor};
use burn_backend::{Scalar, Shape, Slice, TensorMetadata};
use burn_ndarray::NdArray;
use hesspec::engine::{Dual, Jvp, Kernels};

use super::cases::ints;
use super::values::{Random, Values, get, put};

type Nd = NdArray<f64>;
type Forward = Jvp<Nd>;

/// Rows that fill a cube of threads partly, exactly, and many times; more rows than one sum over rows takes.
const SHAPES: [&[usize]; 7] = [&[3, 1], &[2, 3, 7], &[1, 1, 37, 65], &[2, 256], &[5, 1000], &[130, 3], &[2, 50304]];
/// Which slots a dual has tangents in.
type Slots = &'static [bool];
/// None, one, and three with every combination of two or three duals that have one.
const SLOTS: [[Slots; 3]; 4] = [
    [&[], &[], &[]],
    [&[true], &[true], &[true]],
    [&[true, false, false], &[false, true], &[false, false, true]],
    [&[true, true, false, false], &[true, false, true, false], &[false, true, true, false]],
];
/// Roundings of sums over rows in f32, and the shader's exp; relative to the largest number, or to 1.
const ACCEPT: f64 = 1e-5;
const EPSILON: f64 = 1e-2;

/// A dual on the host, rounded to f32.
#[derive(Clone)]
struct Sample {
    primal: Values,
    tangents: Vec<Option<Values>>,
}

impl Sample {
    fn new(shape: &[usize], seed: u64, slots: &[bool], scale: f64) -> Self {
        let mut random = Random::new(seed);
        let mut values = |scale: f64| {
            let values = random.values(shape);
            Values { data: values.data.iter().map(|x| f64::from((scale * x) as f32)).collect(), ..values }
        };
        Self { primal: values(scale), tangents: slots.iter().map(|&on| on.then(|| values(1.0))).collect() }
    }

    fn on<B: Kernels>(&self) -> Dual<B> {
        self.laid_out(put::<B>)
    }

    /// With the last two dimensions swapped in memory.
    fn swapped<B: Kernels>(&self) -> Dual<B> {
        let rank = self.primal.shape.len();
        if rank < 2 {
            return self.on();
        }
        self.laid_out(|values| {
            let contiguous = get::<B>(B::float_swap_dims(put::<B>(values), rank - 2, rank - 1));
            B::float_swap_dims(put::<B>(&contiguous), rank - 2, rank - 1)
        })
    }

    fn laid_out<B: Kernels>(&self, put: impl Fn(&Values) -> FloatTensor<B>) -> Dual<B> {
        Dual::new(put(&self.primal), self.tangents.iter().map(|t| t.as_ref().map(&put)).collect())
    }
}

/// Asserts that primal and tangents agree, and are there in the same slots.
fn close<B: Kernels>(what: &str, found: &Dual<B>, expected: &Dual<Nd>) {
    let agree = |what: String, found: &FloatTensor<B>, expected: &FloatTensor<Nd>| {
        let (found, expected) = (get::<B>(found.clone()), get::<Nd>(expected.clone()));
        let error = found.distance(&expected) / expected.largest().max(1.0);
        assert!(error <= ACCEPT, "{what} off by {error:.1e}");
    };
    agree(format!("{what}, primal"), &found.primal, &expected.primal);
    for slot in 0..found.num_slots().max(expected.num_slots()) {
        match (found.tangent(slot), expected.tangent(slot)) {
            (Some(found), Some(expected)) => agree(format!("{what}, slot {slot}"), found, expected),
            (found, expected) => assert_eq!(found.is_some(), expected.is_some(), "{what}, slot {slot}"),
        }
    }
}

/// Runs a check on every shape and choice of slots.
fn every(check: impl Fn(&str, &[usize], [Slots; 3])) {
    for shape in SHAPES {
        for slots in SLOTS {
            check(&format!("{shape:?}, slots {slots:?}"), shape, slots);
        }
    }
}

/// Rows, inner dimension, columns.
const PRODUCTS: [[usize; 3]; 6] = [[1, 1, 1], [1, 5, 1], [3, 1, 7], [4, 6, 1], [37, 65, 41], [130, 64, 256]];
/// Batches of either side: none, equal ones, one for all.
const BATCHES: [[&[usize]; 2]; 5] =
    [[&[], &[]], [&[3], &[3]], [&[2, 3], &[2, 3]], [&[1, 1], &[2, 3]], [&[2, 3], &[1, 1]]];

/// Operands row by row, column by column, padded, and as heads that lie inside of a token.
pub fn products_of_any_layout<B: Kernels>() {
    assert!(B::sums_of_products(Vec::new()).is_empty());
    for [rows, inner, columns] in PRODUCTS {
        for [left, right] in BATCHES {
            let [lhs_shape, rhs_shape] = [[left, &[rows, inner]].concat(), [right, &[inner, columns]].concat()];
            let sample = |shape: &[usize], seed| Sample::new(shape, seed, &[], 1.0).primal;
            let (first, second) =
                ([sample(&lhs_shape, 1), sample(&rhs_shape, 2)], [sample(&lhs_shape, 3), sample(&rhs_shape, 4)]);
            let product = |[lhs, rhs]: &[Values; 2]| Nd::float_matmul(put::<Nd>(lhs), put::<Nd>(rhs));
            let expected = [product(&first), Nd::float_add(product(&first), product(&second))].map(get::<Nd>);
            for (name, lay) in LAYOUTS {
                let pair = |[lhs, rhs]: &[Values; 2]| (laid::<B>(lhs, lay), laid::<B>(rhs, lay));
                let found = B::sums_of_products(vec![vec![pair(&first)], vec![pair(&first), pair(&second)]]);
                for (found, expected) in found.into_iter().map(get::<B>).zip(&expected) {
                    assert_eq!(found.shape, expected.shape, "{name}, {lhs_shape:?} {rhs_shape:?}");
                    let error = found.distance(expected) / expected.largest().max(1.0);
                    assert!(error <= ACCEPT, "{name}, {lhs_shape:?} {rhs_shape:?} off by {error:.1e}");
                }
            }
        }
    }
}

/// How an operand lies in memory.
#[derive(Clone, Copy)]
enum Layout {
    Rows,
    Columns,
    Padded,
    Heads,
}

const LAYOUTS: [(&str, Layout); 4] =
    [("rows", Layout::Rows), ("columns", Layout::Columns), ("padded", Layout::Padded), ("heads", Layout::Heads)];

fn laid<B: Kernels>(values: &Values, layout: Layout) -> FloatTensor<B> {
    let rank = values.shape.len();
    // as if the dimensions had been swapped in memory, whatever lies there
    let swapped = |first: usize, second: usize| {
        let contiguous = get::<B>(B::float_swap_dims(put::<B>(values), first, second));
        B::float_swap_dims(put::<B>(&contiguous), first, second)
    };
    match layout {
        Layout::Rows => put::<B>(values),
        Layout::Columns => swapped(rank - 2, rank - 1),
        Layout::Padded => {
            let columns = values.shape[rank - 1];
            let wide = B::float_cat(vec![put::<B>(values), put::<B>(values)], rank - 1);
            let mut slices: Vec<Slice> = values.shape.iter().map(|&length| Slice::from(0..length)).collect();
            slices[rank - 1] = Slice::from(columns..2 * columns);
            B::float_slice(wide, &slices)
        }
        Layout::Heads if rank > 2 => swapped(rank - 3, rank - 2),
        Layout::Heads => put::<B>(values),
    }
}

pub fn softmax<B: Kernels>() {
    every(|what, shape, [slots, ..]| {
        let x = Sample::new(shape, 1, slots, 5.0);
        let expected = Forward::softmax(x.on(), shape.len() - 1);
        for x in [x.on(), x.swapped()] {
            close::<B>(what, &<B as Kernels>::softmax(&x).expect("a kernel"), &expected);
        }
    });
}

/// Scores beyond exp's range, and rows of which nothing is left.
pub fn softmax_of_masked_rows<B: Kernels>() {
    let masked = f64::NEG_INFINITY;
    let data = vec![1e4, masked, 1e4, -1e4, masked, masked, masked, masked];
    let x = put::<B>(&Values { shape: vec![2, 4], data });
    let y = <B as Kernels>::softmax(&Dual::constant(x)).expect("a kernel");
    assert_eq!(get::<B>(y.primal).data, [0.5, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0]);
}

pub fn softmax_backward<B: Kernels>() {
    every(|what, shape, [y_slots, g_slots, _]| {
        let (y, g) = (Sample::new(shape, 1, y_slots, 1.0), Sample::new(shape, 2, g_slots, 1.0));
        let products = Forward::float_mul(y.on(), g.on());
        let centred = Forward::float_sub(g.on(), Forward::float_sum_dim(products, shape.len() - 1));
        let expected = Forward::float_mul(y.on(), centred);
        for y in [y.on(), y.swapped()] {
            close::<B>(what, &B::softmax_backward(&y, &g.on()).expect("a kernel"), &expected);
        }
    });
}

/// (x - mean) / sqrt(var + epsilon), and 1 / sqrt(var + epsilon).
fn normalised(x: Dual<Nd>) -> (Dual<Nd>, Dual<Nd>) {
    let last = x.rank() - 1;
    let centred = Forward::float_sub(x.clone(), Forward::float_mean_dim(x, last));
    let variance = Forward::float_mean_dim(Forward::float_mul(centred.clone(), centred.clone()), last);
    let scale = Forward::float_recip(Forward::float_sqrt(Forward::float_add_scalar(variance, EPSILON.into())));
    (Forward::float_mul(centred, scale.clone()), scale)
}

/// A vector as rows of a tensor of the given rank.
fn row(x: Dual<Nd>, rank: usize) -> Dual<Nd> {
    let mut shape = vec![1; rank];
    shape[rank - 1] = x.shape()[0];
    Forward::float_reshape(x, Shape::from(shape))
}

pub fn layer_norm<B: Kernels>() {
    every(|what, shape, slots| {
        let (rank, width) = (shape.len(), &shape[shape.len() - 1..]);
        let x = Sample::new(shape, 1, slots[0], 1.0);
        let [gamma, beta] = [1, 2].map(|i| Sample::new(width, 1 + i as u64, slots[i], 1.0));
        let scaled = Forward::float_mul(normalised(x.on()).0, row(gamma.on(), rank));
        let shifted = Forward::float_add(scaled.clone(), row(beta.on(), rank));
        for x in [x.on(), x.swapped()] {
            let y = <B as Kernels>::layer_norm(&x, &gamma.on(), None, EPSILON).expect("a kernel");
            close::<B>(&format!("{what}, no beta"), &y, &scaled);
            let y = <B as Kernels>::layer_norm(&x, &gamma.on(), Some(&beta.on()), EPSILON).expect("a kernel");
            close::<B>(what, &y, &shifted);
        }
    });
}

/// Adjoints of x and gamma.
fn layer_norm_adjoints(x: Dual<Nd>, gamma: Dual<Nd>, grad: Dual<Nd>) -> (Dual<Nd>, Dual<Nd>) {
    let (rank, last, width) = (x.rank(), x.rank() - 1, gamma.shape()[0]);
    let (n, scale) = normalised(x);
    let products = Forward::float_mul(grad.clone(), n.clone());
    let rows = Shape::from(vec![products.shape().num_elements() / width, width]);
    let of_gamma = Forward::float_sum_dim(Forward::float_reshape(products, rows), 0);
    let u = Forward::float_mul(grad, row(gamma, rank));
    let a = Forward::float_mean_dim(u.clone(), last);
    let b = Forward::float_mean_dim(Forward::float_mul(u.clone(), n.clone()), last);
    let centred = Forward::float_sub(Forward::float_sub(u, a), Forward::float_mul(n, b));
    (Forward::float_mul(centred, scale), Forward::float_reshape(of_gamma, Shape::from(vec![width])))
}

pub fn layer_norm_backward<B: Kernels>() {
    let all = vec![true; 4];
    every(|what, shape, slots| {
        let x = Sample::new(shape, 1, slots[0], 1.0);
        let gamma = Sample::new(&shape[shape.len() - 1..], 2, slots[1], 1.0);
        let grad = Sample::new(shape, 3, slots[2], 1.0);
        let (x_expected, gamma_expected) = layer_norm_adjoints(x.on(), gamma.on(), grad.on());
        for x in [x.on(), x.swapped()] {
            let (x_adjoint, gamma_adjoint) =
                B::layer_norm_backward(&x, &gamma.on(), &grad.on(), EPSILON, &all, true).expect("a kernel");
            close::<B>(&format!("{what}, x"), &x_adjoint, &x_expected);
            close::<B>(&format!("{what}, gamma"), &gamma_adjoint.expect("asked for"), &gamma_expected);
        }
    });
}

/// Only the slots of `keep`, and of a `tangents_only` gamma its own slots and no primal.
pub fn layer_norm_backward_forms_no_more_than_is_read<B: Kernels>() {
    let slots = [true, true, false];
    let (x, grad) = (Sample::new(&[5, 7], 1, &slots, 1.0), Sample::new(&[5, 7], 2, &[], 1.0));
    let mut gamma = Sample::new(&[7], 3, &[false, true, false], 1.0).on::<B>();
    gamma.tangents_only = true;
    let keep = vec![false, true, true];
    let call = |needed| B::layer_norm_backward(&x.on(), &gamma, &grad.on(), EPSILON, &keep, needed).expect("a kernel");
    let (x_adjoint, gamma_adjoint) = call(true);
    let gamma_adjoint = gamma_adjoint.expect("asked for");
    assert_eq!(x_adjoint.mask(), [false, true, false]);
    assert_eq!(gamma_adjoint.mask(), [false, true, false]);
    assert!(get::<B>(gamma_adjoint.primal).data.iter().all(|x| x.is_nan()));
    assert!(call(false).1.is_none());
}

fn targets<B: Kernels>(rows: usize, classes: usize) -> IntTensor<B> {
    ints::<B, 1>([rows], &(0..rows).map(|i| ((i * 7 + 3) % classes) as i64).collect::<Vec<_>>())
}

/// Loss, and adjoints of hidden and weight.
fn cross_entropy(hidden: Dual<Nd>, weight: Dual<Nd>) -> [Dual<Nd>; 3] {
    let [rows, classes] = [hidden.shape()[0], weight.shape()[0]];
    let transposed = |x: Dual<Nd>| Forward::float_swap_dims(x, 0, 1);
    let log_p = Forward::log_softmax(Forward::float_matmul(hidden.clone(), transposed(weight.clone())), 1);
    let mut onehot = Values { shape: vec![rows, classes], data: vec![0.0; rows * classes] };
    (0..rows).for_each(|row| onehot.data[row * classes + (row * 7 + 3) % classes] = 1.0);
    let onehot = || Dual::constant(put::<Nd>(&onehot));
    let mean = |x: Dual<Nd>, sign: f64| Forward::float_mul_scalar(x, Scalar::Float(sign / rows as f64));
    let loss = mean(Forward::float_sum(Forward::float_mul(log_p.clone(), onehot())), -1.0);
    let adjoint = mean(Forward::float_sub(Forward::float_exp(log_p), onehot()), 1.0);
    [loss, Forward::float_matmul(adjoint.clone(), weight), Forward::float_matmul(transposed(adjoint), hidden)]
}

pub fn linear_cross_entropy<B: Kernels>() {
    for [rows, classes, width] in [[5, 1, 4], [40, 65, 6], [7, 256, 33], [3, 1000, 8], [2, 50304, 3]] {
        for slots in SLOTS {
            let what = format!("{rows} rows, {classes} classes, slots {slots:?}");
            let hidden = Sample::new(&[rows, width], 1, slots[0], 2.0);
            let weight = Sample::new(&[classes, width], 2, slots[1], 1.0);
            let [loss, of_hidden, of_weight] = cross_entropy(hidden.on(), weight.on());
            for (hidden, weight) in [(hidden.on(), weight.on()), (hidden.swapped(), weight.swapped())] {
                let found = B::linear_cross_entropy(&hidden, &weight, &targets::<B>(rows, classes), true, true);
                let found = found.expect("a kernel");
                close::<B>(&format!("{what}, loss"), &found.loss, &loss);
                close::<B>(&format!("{what}, hidden"), &found.hidden.expect("asked for"), &of_hidden);
                close::<B>(&format!("{what}, weight"), &found.weight.expect("asked for"), &of_weight);
            }
        }
    }
}

/// 100 rows of so many classes that a chunk has 96 of them.
pub fn linear_cross_entropy_in_chunks<B: Kernels>() {
    let [rows, classes, width] = [100, (1 << 25) / 96, 2];
    let hidden = Sample::new(&[rows, width], 1, &[true], 2.0);
    let weight = Sample::new(&[classes, width], 2, &[true], 1.0);
    let part = |from: usize, to: usize| {
        let cut =
            |x: &Values| Values { shape: vec![to - from, width], data: x.data[from * width..to * width].to_vec() };
        let hidden = Sample {
            primal: cut(&hidden.primal),
            tangents: hidden.tangents.iter().map(|t| t.as_ref().map(cut)).collect(),
        };
        let indices: Vec<_> = (from..to).map(|row| ((row * 7 + 3) % classes) as i64).collect();
        let targets = match to - from {
            100 => ints::<B, 1>([100], &indices),
            50 => ints::<B, 1>([50], &indices),
            _ => unreachable!("the whole or a half"),
        };
        let found = B::linear_cross_entropy(&hidden.on(), &weight.on(), &targets, true, true).expect("a kernel");
        let read = |dual: Dual<B>| (get::<B>(dual.primal), get::<B>(dual.tangents[0].clone().expect("active")));
        [found.loss, found.hidden.expect("asked for"), found.weight.expect("asked for")].map(read)
    };
    let [whole, first, second] = [part(0, rows), part(0, rows / 2), part(rows / 2, rows)];
    for (at, what) in ["loss", "hidden", "weight"].iter().enumerate() {
        let joined = |first: &Values, second: &Values| match at {
            1 => Values { shape: vec![rows, width], data: [&first.data[..], &second.data].concat() }.times(0.5),
            _ => first.plus(1.0, second).times(0.5),
        };
        let (primal, tangent) = (joined(&first[at].0, &second[at].0), joined(&first[at].1, &second[at].1));
        for (found, expected) in [(&whole[at].0, primal), (&whole[at].1, tangent)] {
            let error = found.distance(&expected) / expected.largest();
            assert!(error <= ACCEPT, "{what} off by {error:.1e}");
        }
    }
}

pub fn linear_cross_entropy_forms_no_more_than_is_read<B: Kernels>() {
    let hidden = Sample::new(&[6, 4], 1, &[true, true], 1.0).on::<B>();
    let mut weight = Sample::new(&[5, 4], 2, &[false, true], 1.0).on::<B>();
    weight.tangents_only = true;
    let call = |hidden_needed, weight_needed| {
        let targets = targets::<B>(6, 5);
        B::linear_cross_entropy(&hidden, &weight, &targets, hidden_needed, weight_needed).expect("a kernel")
    };
    let found = call(false, true);
    assert!(found.hidden.is_none() && call(true, false).weight.is_none());
    let adjoint = found.weight.expect("asked for");
    assert_eq!(adjoint.mask(), [false, true]);
    assert!(get::<B>(adjoint.primal).data.iter().all(|x| x.is_nan()));
}

/// A device cannot stop at a target that is no class: everything is NaN, not a wrong number.
pub fn a_target_that_is_no_class_is_not_overlooked<B: Kernels>() {
    let hidden = Sample::new(&[2, 4], 1, &[true], 1.0).on::<B>();
    let weight = Sample::new(&[5, 4], 2, &[true], 1.0).on::<B>();
    for wrong in [5, -1] {
        let targets = ints::<B, 1>([2], &[1, wrong]);
        let found = B::linear_cross_entropy(&hidden, &weight, &targets, true, true).expect("a kernel");
        let adjoint = found.weight.expect("asked for");
        for tensor in [&found.loss.primal, found.loss.tangent(0).expect("active"), adjoint.tangent(0).expect("active")]
        {
            assert!(get::<B>(tensor.clone()).data.iter().all(|x| x.is_nan()));
        }
    }
}
