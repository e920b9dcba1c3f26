//! Random small networks that chain many operations: symmetry of H, and H v against burn's gradient.

use burn_autodiff::Autodiff;
use burn_backend::ops::{AttentionModuleOptions, ConvOptions, InterpolateMode, InterpolateOptions};
use burn_backend::{Backend, Scalar, Slice};
use hesspec::engine::{Kernels, SecondOrder};

use crate::cases::{F, bools, ints, shape};
use crate::check::{against_differences, gradient};
use crate::run::{Slot, coefficients, joined, second_order};
use crate::values::{Random, Values};

const ROWS: usize = 4;
const WIDTH: usize = 6;
const DEPTH: usize = 7;
const NETWORKS: u64 = 24;

/// A layer: state (4, 6) and weight (6, 6) to the next state.
type Layer<B> = fn(F<B>, F<B>) -> F<B>;

fn linear<B: Backend>(x: F<B>, w: F<B>) -> F<B> {
    B::linear(x, w, None)
}

/// A row of the weight as a vector, moved to around 1.
fn scale<B: Backend>(w: F<B>, row: usize) -> F<B> {
    let slice = B::float_slice(w, &[Slice::from(row..row + 1), Slice::from(0..WIDTH)]);
    B::float_add_scalar(B::float_reshape(slice, shape([WIDTH])), Scalar::Float(1.0))
}

fn smooth<B: Backend>() -> Vec<Layer<B>> {
    vec![
        |x, w| B::gelu(linear::<B>(x, w)),
        |x, w| B::float_add(x.clone(), B::float_tanh(linear::<B>(x, w))),
        |x, w| B::layer_norm(x, scale::<B>(w, 0), None, 1e-3),
        |x, w| {
            let beta = B::float_reshape(scale::<B>(w.clone(), 3), shape([WIDTH]));
            B::layer_norm(linear::<B>(x, w.clone()), scale::<B>(w, 0), Some(beta), 1e-3)
        },
        |x, w| B::float_mul(B::softmax(linear::<B>(x.clone(), w), 1), x),
        |x, w| {
            let heads = |x: F<B>| B::float_swap_dims(B::float_reshape(x, shape([1, ROWS, 2, WIDTH / 2])), 1, 2);
            let (q, k) = (heads(linear::<B>(x.clone(), w)), heads(x.clone()));
            let options = AttentionModuleOptions { is_causal: true, ..Default::default() };
            let y = B::attention(q.clone(), k, q, None, None, options);
            B::float_add(x, B::float_reshape(B::float_swap_dims(y, 1, 2), shape([ROWS, WIDTH])))
        },
        |x, w| {
            let w = B::float_slice(w, &[Slice::from(0..4), Slice::from(0..WIDTH)]);
            let w = B::float_reshape(w, shape([4, 2, 3]));
            let x = B::float_reshape(x, shape([1, ROWS, WIDTH]));
            let y = B::conv1d(x, w, None, ConvOptions::new([1], [1], [1], 2));
            B::float_reshape(y, shape([ROWS, WIDTH]))
        },
        |x, w| B::float_mul_scalar(B::float_cumsum(B::float_sin(linear::<B>(x, w)), 1), Scalar::Float(0.5)),
        |x, w| B::float_sub(x.clone(), B::log_sigmoid(linear::<B>(x, w))),
        |x, w| {
            let y = linear::<B>(x, w);
            let left = B::float_slice(y.clone(), &[Slice::from(0..ROWS), Slice::from(0..2)]);
            let right = B::float_slice(y, &[Slice::from(0..ROWS), Slice::from(2..WIDTH)]);
            B::float_cat(vec![B::float_flip(right, &[0]), left], 1)
        },
        |x, w| {
            let gram = B::float_matmul(B::float_transpose(x.clone()), B::float_tanh(x.clone()));
            B::float_mul_scalar(B::float_matmul(x, B::float_add(gram, w)), Scalar::Float(0.3))
        },
        |x, w| {
            let square = B::float_mul(x.clone(), x.clone());
            B::float_div(linear::<B>(x, w), B::float_add_scalar(square, Scalar::Float(1.0)))
        },
        |x, w| B::float_gather(1, linear::<B>(x, w), ints::<B, 2>([ROWS, WIDTH], &GATHER)),
        |x, w| B::float_cumprod(B::float_tanh(B::float_add_scalar(linear::<B>(x, w), Scalar::Float(0.8))), 0),
        |x, w| B::float_exp(B::log_softmax(linear::<B>(x.clone(), w), 0)),
        |x, w| B::float_powi_scalar(B::sigmoid(linear::<B>(x, w)), Scalar::Int(3)),
        |x, w| {
            let mask = bools::<B, 2>([ROWS, WIDTH], &GATHER);
            B::float_mask_where(x.clone(), mask, linear::<B>(x, w))
        },
        |x, w| {
            let centred = B::float_sub(x.clone(), B::float_mean_dim(x, 0));
            B::float_mul(centred, B::float_reshape(scale::<B>(w, 1), shape([1, WIDTH])))
        },
        |x, w| {
            let image = B::float_reshape(linear::<B>(x, w), shape([1, 1, ROWS, WIDTH]));
            let small = B::avg_pool2d(image, [2, 2], [2, 2], [0, 0], true, false);
            let options = InterpolateOptions::new(InterpolateMode::Nearest);
            B::float_reshape(B::interpolate(small, [ROWS, WIDTH], options), shape([ROWS, WIDTH]))
        },
        |x, w| {
            let picked = B::float_select(w, 0, ints::<B, 1>([ROWS], &[5, 0, 5, 2]));
            B::float_add(B::float_erf(x), picked)
        },
        |x, w| {
            B::float_mul(
                x,
                B::float_expand(B::float_prod_dim(B::float_cos(linear::<B>(w.clone(), w)), 0), shape([1, WIDTH])),
            )
        },
        |x, w| {
            let y = linear::<B>(x.clone(), w);
            let squares = B::float_add(B::float_mul(y.clone(), y), B::float_mul(x.clone(), x));
            B::float_sqrt(B::float_add_scalar(squares, Scalar::Float(1.0)))
        },
    ]
}

/// With kinks: fine for symmetry, which holds within each piece.
fn kinked<B: Backend>() -> Vec<Layer<B>> {
    vec![
        |x, w| B::relu(linear::<B>(x, w)),
        |x, w| B::float_sort(linear::<B>(x, w), 1, false),
        |x, w| {
            let image = B::float_reshape(linear::<B>(x, w), shape([1, 1, ROWS, WIDTH]));
            let y = B::max_pool2d(image, [3, 3], [1, 1], [1, 1], [1, 1], false);
            B::float_reshape(y, shape([ROWS, WIDTH]))
        },
        |x, w| B::float_cummax(linear::<B>(x, w), 1),
        |x, w| {
            B::leaky_relu(
                B::float_clamp(linear::<B>(x, w), Scalar::Float(-0.9), Scalar::Float(0.9)),
                Scalar::Float(0.2),
            )
        },
        |x, w| B::float_sub(x.clone(), B::float_max_dim(B::float_abs(linear::<B>(x, w)), 1)),
    ]
}

const GATHER: [i64; ROWS * WIDTH] = [0, 2, 2, 5, 1, 0, 3, 3, 1, 0, 4, 4, 5, 1, 0, 2, 0, 3, 1, 1, 5, 0, 2, 4];

/// State, then one weight per layer, of a size that keeps the state's.
fn inputs(seed: u64) -> Vec<Values> {
    let mut random = Random::new(seed);
    let mut inputs = vec![random.values(&[ROWS, WIDTH])];
    inputs.extend((0..DEPTH).map(|_| random.values(&[WIDTH, WIDTH]).times(0.6)));
    inputs
}

/// The network that the seed names.
fn run<B: Backend>(seed: u64, with_kinks: bool, inputs: Vec<F<B>>) -> F<B> {
    let mut layers = smooth::<B>();
    if with_kinks {
        layers.extend(kinked::<B>());
    }
    let mut random = Random::new(seed ^ 0xABCD);
    let mut inputs = inputs.into_iter();
    let start = inputs.next().expect("the state");
    inputs.fold(start, |x, w| layers[random.below(layers.len())](x, w))
}

fn directions(inputs: &[Values], seed: u64, num_slots: u64) -> Vec<Slot> {
    let slot = |s: u64| {
        let mut random = Random::new(1000 * seed + s);
        inputs.iter().map(|x| Some(random.values(&x.shape))).collect()
    };
    (0..num_slots).map(slot).collect()
}

fn flat(slot: &Slot, inputs: &[Values]) -> Values {
    let zero = |x: &Values| Values { shape: x.shape.clone(), data: vec![0.0; x.data.len()] };
    let parts: Vec<Values> = slot.iter().zip(inputs).map(|(part, x)| part.clone().unwrap_or_else(|| zero(x))).collect();
    joined(&parts)
}

/// u . H v = v . H u for three directions. Each side is a sum of products that lost a few roundings per operation
/// (about 40 in depth): 1e-12 of |u| |H v| is some four thousand units of 2^-52.
pub fn symmetric<B: Kernels>() {
    let c = coefficients(&[ROWS, WIDTH]);
    let mut worst: f64 = 0.0;
    for seed in 0..NETWORKS {
        let inputs = inputs(seed);
        let slots = directions(&inputs, seed, 3);
        let f = |x| run::<SecondOrder<B>>(seed, true, x);
        let adjoints = second_order::<B>(&f, &inputs, &slots, &c, false);
        let product = |s: usize| flat(&adjoints.iter().map(|(_, hv)| hv[s].clone()).collect(), &inputs);
        for (a, b) in [(0, 1), (0, 2), (1, 2)] {
            let (u, v) = (flat(&slots[a], &inputs), flat(&slots[b], &inputs));
            let (hu, hv) = (product(a), product(b));
            let size = (u.dot(&u) * hv.dot(&hv)).sqrt().max((v.dot(&v) * hu.dot(&hu)).sqrt());
            assert!(size.is_finite() && size > 0.0, "network {seed}: H is {size}");
            let defect = (u.dot(&hv) - v.dot(&hu)).abs() / size;
            worst = worst.max(defect);
            assert!(defect <= 1e-12, "network {seed}, slots {a} and {b}: u.Hv and v.Hu differ by {defect:.1e}");
        }
    }
    assert!(worst > 0.0, "a symmetry defect of exactly 0 everywhere: nothing was computed");
}

/// H v against central differences of `Autodiff<B>`'s gradient, over smooth operations.
pub fn agree_with_differences<B: Kernels>() {
    let c = coefficients(&[ROWS, WIDTH]);
    for seed in 0..NETWORKS {
        let inputs = inputs(seed);
        let slots = directions(&inputs, seed, 1);
        let own = |x| run::<SecondOrder<B>>(seed, false, x);
        let burn = |x: &[Values]| joined(&gradient::<Autodiff<B>>(&|x| run::<Autodiff<B>>(seed, false, x), x, &c));
        let adjoints = second_order::<B>(&own, &inputs, &slots, &c, false);
        let hv = flat(&adjoints.iter().map(|(_, hv)| hv[0].clone()).collect(), &inputs);
        let error = against_differences(&burn, &inputs, &slots[0], &hv);
        assert!(error <= 1.0, "network {seed}: H v off by {error:.1e} tolerances");
    }
}
