//! One test for each trap that was found in burn 0.21 (numbered as in the engine's design notes).

use burn::module::{Module, ModuleMapper, Param};
use burn::nn::{BatchNorm, BatchNormConfig, Dropout, DropoutConfig};
use burn::tensor::{Tensor, TensorPrimitive, linalg};
use burn_backend::ops::*;
use burn_backend::{AutodiffBackend, Backend, DType, Scalar, TensorMetadata};
use burn_flex::Flex;
use hesspec::engine::{Dual, Jvp, Kernels, SecondOrder, adjoint, leaf, tangents_of, training};

use crate::Nd;
use crate::cases::F;
use crate::counting::{Counting, count, largest_product};
use crate::values::{Random, Values, get, given, put, real, unit};

type S<B> = SecondOrder<B>;

fn tensor<B: Backend, const D: usize>(values: &Values) -> Tensor<B, D> {
    Tensor::from_primitive(TensorPrimitive::Float(put::<B>(values)))
}

fn host<B: Backend, const D: usize>(x: Tensor<B, D>) -> Values {
    get::<B>(x.into_primitive().tensor())
}

fn tracked<B: Kernels>(x: &Values, v: &Values) -> F<S<B>> {
    let dual = Dual::<B>::new(put::<B>(x), vec![Some(put::<B>(v))]);
    S::<B>::float_set_require_grad(S::<B>::from_inner(dual), true)
}

/// Trap 1: `Autodiff` composes attention from small operations. As one node it costs its two products forward and
/// four backward, and per slot two products for each, but for the two with the tangent of the adjoint of a plain sum,
/// which is constant.
#[test]
fn trap_1_attention_is_one_node() {
    crate::in_f64();
    let make = |seed| Random::new(seed).values(&[1, 2, 4, 3]);
    let inputs = [make(1), make(2), make(3)];
    let product = 2 * 4 * 4 * 3;
    let spent = count(|| {
        let [q, k, v] = inputs.each_ref().map(|x| tracked::<Counting>(x, &make(9)));
        let options = AttentionModuleOptions::default();
        let y = S::<Counting>::attention(q, k, v, None, None, options);
        S::<Counting>::backward(S::<Counting>::float_sum(y));
    });
    let (forward, backward) = (2 + 4, 4 + 8 - 2);
    assert_eq!(spent, (product * (forward + backward)) as u64);
}

/// Trap 2: the adjoint of x / c is g / c in f64, not g times a rounded f32 of 1 / c.
#[test]
fn trap_2_division_by_a_number_is_exact() {
    fn check<B: Kernels>() {
        let x = tracked::<B>(&given([1], &[1.0]), &given([1], &[1.0]));
        let y = S::<B>::float_div_scalar(x.clone(), Scalar::Float(3.0));
        let grads = S::<B>::backward(S::<B>::float_sum(y));
        let gradient = S::<B>::grad(&x, &grads).expect("tracked").primal;
        assert_eq!(get::<B>(gradient).data, [1.0 / 3.0]);
    }
    crate::in_f64();
    check::<Nd>();
    check::<Flex>();
}

/// Trap 3: a stop-gradient clears tangents and adjoints. d/dx of x detach(x) is x, its second derivative 0.
#[test]
fn trap_3_a_stop_gradient_clears_both() {
    crate::in_f64();
    let x = leaf(tensor::<S<Nd>, 1>(&given([2], &[3.0, -2.0])), vec![Some(tensor(&given([2], &[1.0, 1.0])))], false);
    let stopped = x.clone().detach();
    assert!(tangents_of(&stopped).iter().all(Option::is_none), "tangents survive detach");
    let grads = (x.clone() * stopped).sum().backward();
    let adjoint = adjoint(&x, &grads).expect("the loss depends on x");
    assert_eq!(get::<Nd>(adjoint.primal.clone()).data, [3.0, -2.0]);
    let hv = adjoint.tangent(0).map_or(0.0, |hv| get::<Nd>(hv.clone()).largest());
    assert_eq!(hv, 0.0);
}

fn batch_norm(x: &Values) -> (BatchNorm<S<Nd>>, Tensor<S<Nd>, 2>) {
    let norm = BatchNormConfig::new(3).init::<S<Nd>>(&Default::default());
    let v = Random::new(5).values(&x.shape);
    (norm, leaf(tensor::<S<Nd>, 2>(x), vec![Some(tensor(&v))], false))
}

#[test]
fn trap_3_running_statistics_carry_no_tangents() {
    crate::in_f64();
    let (norm, x) = batch_norm(&real([4, 3]));
    training(|| norm.forward(x));
    let mean = norm.running_mean.value_sync();
    assert!(tangents_of(&mean).iter().all(Option::is_none), "a tangent rides along on the running mean");
    assert!(tangents_of(&norm.running_var.value_sync()).iter().all(Option::is_none));
    assert!(host(mean).largest() > 0.0, "the statistics were updated");
}

/// Trap 4: gelu'(1) = Phi(1) + phi(1), not the tanh form's 1.0829640838457826.
#[test]
fn trap_4_gelu_has_its_exact_derivative() {
    fn check<B: Kernels>() {
        let x = tracked::<B>(&given([1], &[1.0]), &given([1], &[1.0]));
        let grads = S::<B>::backward(S::<B>::float_sum(S::<B>::gelu(x.clone())));
        let adjoint = S::<B>::grad(&x, &grads).expect("tracked");
        let slope = get::<B>(adjoint.primal.clone()).data[0];
        // Phi(1) + phi(1), and gelu'' = (2 - x^2) phi(x)
        assert!((slope - (0.841_344_746_068_542_9 + 0.241_970_724_519_143_37)).abs() < 1e-15, "{slope}");
        let curvature = get::<B>(adjoint.tangents[0].clone().expect("present")).data[0];
        assert!((curvature - 0.241_970_724_519_143_37).abs() < 1e-15, "{curvature}");
    }
    crate::in_f64();
    check::<Nd>();
    check::<Flex>();
}

/// Trap 5: sigmoid and hard_sigmoid in f64; products of zeros and negatives.
#[test]
fn trap_5_sigmoid_and_products_are_exact() {
    fn check<B: Kernels>() {
        let constant = |values: &[f64; 3]| S::<B>::from_inner(Dual::constant(put::<B>(&given([3], values))));
        let read = |x: F<S<B>>| get::<B>(S::<B>::inner(x).primal).data;
        let y = read(S::<B>::sigmoid(constant(&[1.0, -40.0, 800.0])));
        assert!((y[0] - 0.731_058_578_630_004_9).abs() < 1e-16, "{}", y[0]);
        assert!((y[1] / 4.248_354_255_291_589e-18 - 1.0).abs() < 1e-14, "{}", y[1]);
        assert_eq!(y[2], 1.0);
        let y = read(S::<B>::hard_sigmoid(constant(&[0.1, 9.0, -9.0]), Scalar::Float(0.2), Scalar::Float(0.5)));
        assert_eq!(y, [0.1 * 0.2 + 0.5, 1.0, 0.0]);
        assert_eq!(read(S::<B>::float_prod(constant(&[-2.0, 3.0, -0.5]))), [3.0]);
        assert_eq!(read(S::<B>::float_prod(constant(&[-2.0, 0.0, -0.5]))), [0.0]);
    }
    crate::in_f64();
    check::<Nd>();
    check::<Flex>();
}

/// Trap 6: eval mode is the default and affine, y = x / sqrt(1 + epsilon); in train mode the batch is standardised,
/// so the sum over it has no gradient. Dropout is off in eval mode.
#[test]
fn trap_6_train_and_eval_mode_are_explicit() {
    crate::in_f64();
    let values = real([4, 3]);
    let gradient = |train: bool| {
        let (norm, x) = batch_norm(&values);
        let y = if train { training(|| norm.forward(x.clone())) } else { norm.forward(x.clone()) };
        let grads = y.sum().backward();
        get::<Nd>(adjoint(&x, &grads).expect("tracked").primal)
    };
    let slope = 1.0 / (1.0f64 + 1e-5).sqrt();
    assert!(gradient(false).data.iter().all(|g| (g - slope).abs() < 1e-12));
    assert!(gradient(true).largest() < 1e-12);
    let dropout: Dropout = DropoutConfig::new(0.5).init();
    let (_, x) = batch_norm(&values);
    assert!(host(dropout.forward(x.clone())).same_bits(&values), "dropout in eval mode");
    assert!(!host(training(|| dropout.forward(x))).same_bits(&values), "no dropout in train mode");
}

#[test]
fn trap_6_the_mode_ends_with_its_scope_and_nests() {
    let enabled = || S::<Nd>::ad_enabled(&Default::default());
    assert!(!enabled());
    training(|| {
        training(|| assert!(enabled()));
        assert!(enabled());
    });
    assert!(!enabled());
    let caught = std::panic::catch_unwind(|| training(|| panic!("inside")));
    assert!(caught.is_err() && !enabled(), "a panic leaves train mode on");
}

/// Trap 7: mappers see running statistics as parameters; `is_require_grad` tells them apart.
#[test]
fn trap_7_mappers_see_running_statistics() {
    struct Counter(usize, usize);
    impl ModuleMapper<S<Nd>> for Counter {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<S<Nd>, D>>) -> Param<Tensor<S<Nd>, D>> {
            self.0 += 1;
            self.1 += usize::from(param.is_require_grad());
            param
        }
    }
    crate::in_f64();
    let mut counter = Counter(0, 0);
    BatchNormConfig::new(3).init::<S<Nd>>(&Default::default()).map(&mut counter);
    assert_eq!((counter.0, counter.1), (4, 2), "gamma, beta, running mean and variance; the first two are parameters");
}

/// Trap 8: constants that burn itself creates are f64 on flex.
#[test]
fn trap_8_flex_runs_in_f64() {
    crate::in_f64();
    let device = Default::default();
    assert_eq!(Tensor::<S<Flex>, 2>::zeros([2, 2], &device).dtype(), DType::F64);
    assert_eq!(Tensor::<S<Flex>, 1>::from_floats([0.1], &device).dtype(), DType::F64);
    let fine = tensor::<S<Flex>, 1>(&given([1], &[1.0 + 1e-12]));
    assert!(host(fine - 1.0).data[0] > 0.0, "digits beyond f32 are lost");
}

/// Trap 9: `Step` is private and custom operations have a fixed number of parents, so that a dual travels by public
/// means only; a leaf's flag and tangents must survive them.
#[test]
fn trap_9_duals_travel_by_public_means() {
    crate::in_f64();
    let x = leaf(tensor::<S<Nd>, 1>(&real([3])), vec![None, Some(tensor(&unit([3])))], true);
    assert!(x.is_require_grad());
    let tangents = tangents_of(&x);
    assert!(tangents[0].is_none());
    assert!(host(tangents[1].clone().expect("present")).same_bits(&unit([3])));
    assert!(S::<Nd>::inner(x.into_primitive().tensor()).tangents_only);
}

/// Trap 10: the adjoint of a weight under a batched input is one product, not one per batch: no product is larger
/// than the output.
#[test]
fn trap_10_a_batched_linear_makes_one_weight_adjoint() {
    crate::in_f64();
    let (batch, time, from, to) = (8, 2, 3, 40);
    let mut random = Random::new(1);
    let mut make = |shape: &[usize]| tracked::<Counting>(&random.values(shape), &Random::new(2).values(shape));
    let (x, w) = (make(&[batch, time, from]), make(&[from, to]));
    let largest = largest_product(|| {
        let y = S::<Counting>::linear(x.clone(), w.clone(), None);
        let grads = S::<Counting>::backward(S::<Counting>::float_sum(S::<Counting>::float_mul(y.clone(), y)));
        assert_eq!(S::<Counting>::grad(&w, &grads).expect("tracked").shape().to_vec(), [from, to]);
    });
    assert_eq!(largest, batch * time * to);
}

/// Found by the table: burn's adjoint of repeat sums neighbours instead of copies.
#[test]
fn repeat_gives_each_entry_the_sum_over_its_copies() {
    crate::in_f64();
    let x = tracked::<Nd>(&given([2], &[1.0, 2.0]), &given([2], &[1.0, 1.0]));
    let y = S::<Nd>::float_repeat_dim(x.clone(), 0, 2);
    let weights = S::<Nd>::from_inner(Dual::constant(put::<Nd>(&given([4], &[1.0, 10.0, 100.0, 1000.0]))));
    let grads = S::<Nd>::backward(S::<Nd>::float_sum(S::<Nd>::float_mul(y, weights)));
    assert_eq!(get::<Nd>(S::<Nd>::grad(&x, &grads).expect("tracked").primal).data, [101.0, 1010.0]);
}

/// What nobody asked for is NaN, not zero; what was asked for is there.
#[test]
fn tangents_only_leaves_have_no_gradient() {
    crate::in_f64();
    let x = leaf(tensor::<S<Nd>, 2>(&real([2, 3])), vec![Some(tensor(&unit([2, 3])))], false);
    let w = leaf(tensor::<S<Nd>, 2>(&real([3, 4])), vec![Some(tensor(&unit([3, 4])))], true);
    let y = burn::tensor::module::linear(x.clone(), w.clone(), None);
    let grads = (y.clone() * y).sum().backward();
    let of_w = adjoint(&w, &grads).expect("tracked");
    assert!(get::<Nd>(of_w.primal.clone()).data.iter().all(|g| g.is_nan()));
    assert!(get::<Nd>(of_w.tangents[0].clone().expect("present")).data.iter().all(|hv| hv.is_finite()));
    let of_x = adjoint(&x, &grads).expect("tracked");
    assert!(get::<Nd>(of_x.primal).data.iter().all(|g| g.is_finite()));
}

/// A row that is masked altogether attends to nothing: value, gradient and H v are zero there, not NaN.
#[test]
fn a_row_that_is_masked_altogether_gives_zeros() {
    crate::in_f64();
    let shape = [1, 1, 2, 3];
    let make = |seed| Random::new(seed).values(&shape);
    let [q, k, v] = [1, 2, 3].map(|seed| tracked::<Nd>(&make(seed), &make(seed + 10)));
    let mask = crate::cases::bools::<S<Nd>, 4>([1, 1, 2, 2], &[1, 1, 0, 0]);
    let y = S::<Nd>::attention(q.clone(), k, v, Some(mask), None, AttentionModuleOptions::default());
    assert_eq!(get::<Nd>(S::<Nd>::inner(y.clone()).primal).data[..3], [0.0; 3]);
    let grads = S::<Nd>::backward(S::<Nd>::float_sum(S::<Nd>::float_mul(y.clone(), y)));
    let of_q = S::<Nd>::grad(&q, &grads).expect("tracked");
    let hv = get::<Nd>(of_q.tangents[0].clone().expect("present"));
    assert!(hv.data.iter().all(|x| x.is_finite()) && hv.data[..3] == [0.0; 3]);
}

/// Jvp alone: an operation on constants costs no tangent, and slots keep their places.
#[test]
fn slots_keep_their_places() {
    crate::in_f64();
    let x = put::<Nd>(&real([2]));
    let t = || Some(put::<Nd>(&unit([2])));
    let a = Dual::<Nd>::new(x.clone(), vec![None, t()]);
    let b = Dual::<Nd>::new(x, vec![None, None, None, t()]);
    let y = Jvp::<Nd>::float_mul(a, b);
    assert_eq!(y.mask(), [false, true, false, true]);
}

type OfMatrix<B> = fn(Tensor<S<B>, 2>) -> Tensor<S<B>, 1>;

/// Gradient and product of a loss of a matrix x with a direction v.
fn of_matrix<B: Kernels>(loss: OfMatrix<B>, x: &Values, v: &Values) -> (Values, Option<Values>) {
    let x = leaf(tensor::<S<B>, 2>(x), vec![Some(tensor(v))], false);
    let grads = loss(x.clone()).backward();
    let adjoint = adjoint(&x, &grads).expect("the loss depends on x");
    let product = adjoint.tangent(0).map(|t| get::<B>(t.clone()));
    (get::<B>(adjoint.primal), product)
}

/// burn's LU decomposition and determinant are chains of operations that have rules, and keep their derivatives.
#[test]
fn determinants_and_factors_keep_their_derivatives() {
    fn check<B: Kernels>() {
        let losses: [(&str, OfMatrix<B>); 3] = [
            ("det", |x| linalg::det::<S<B>, 3, 2, 1>(x.unsqueeze()).sum()),
            ("L", |x| linalg::lu::<S<B>, 2, 1>(x).1.sin().sum()),
            ("U", |x| linalg::lu::<S<B>, 2, 1>(x).2.sin().sum()),
        ];
        for size in [2, 4, 5] {
            let (x, v) = (Random::new(8).values(&[size, size]), Random::new(6).values(&[size, size]));
            for (name, loss) in losses {
                let step = 1e-5;
                let moved = |sign: f64| {
                    let data = x.data.iter().zip(&v.data).map(|(x, v)| x + sign * step * v).collect();
                    of_matrix::<B>(loss, &Values { shape: x.shape.clone(), data }, &v).0.data
                };
                let quotient = moved(1.0).iter().zip(moved(-1.0)).map(|(a, b)| (a - b) / (2.0 * step)).collect();
                let expected = Values { shape: x.shape.clone(), data: quotient };
                let product = of_matrix::<B>(loss, &x, &v).1.expect("a product");
                assert!(expected.largest() > 1e-3, "{name} of {size}");
                let error = product.distance(&expected) / expected.largest();
                assert!(error < 1e-5, "{name} of {size}: {error:e}");
            }
        }
    }
    crate::in_f64();
    check::<Nd>();
    check::<Flex>();
}
