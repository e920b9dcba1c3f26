//! Operations without derivative give constants; operations without a rule stop with their name.

use burn_backend::ops::*;
use burn_backend::quantization::{QuantScheme, QuantizationParametersPrimitive};
use burn_backend::tensor::IndexingUpdateOp;
use burn_backend::{AutodiffBackend, Scalar, get_device_settings};
use hesspec::engine::{Dual, Jvp, SecondOrder};

use crate::Nd;
use crate::cases::{F, ints};
use crate::values::{Random, Values, get, put, real};

type J = Jvp<Nd>;
type S = SecondOrder<Nd>;
type Function<B> = fn(F<B>) -> F<B>;

fn active<const D: usize>(shape: [usize; D]) -> Dual<Nd> {
    crate::in_f64();
    let x = real(shape);
    let tangent = Random::new(1).values(&x.shape);
    Dual::new(put::<Nd>(&x), vec![Some(put::<Nd>(&tangent))])
}

fn tracked<const D: usize>(shape: [usize; D]) -> F<S> {
    S::float_set_require_grad(S::from_inner(active(shape)), true)
}

#[test]
fn piecewise_constant_functions_have_no_tangents() {
    let functions: [(&str, Function<J>); 5] = [
        ("round", J::float_round),
        ("floor", J::float_floor),
        ("ceil", J::float_ceil),
        ("trunc", J::float_trunc),
        ("sign", J::float_sign),
    ];
    for (name, f) in functions {
        let x = active([2, 3]);
        let y = f(x.clone());
        assert!(!y.is_active(), "{name} has a tangent");
        assert!(get::<Nd>(y.primal).distance(&get::<Nd>(f(Dual::constant(x.primal)).primal)) == 0.0);
    }
}

#[test]
fn piecewise_constant_functions_have_zero_adjoints() {
    let functions: [Function<S>; 5] = [S::float_round, S::float_floor, S::float_ceil, S::float_trunc, S::float_sign];
    for f in functions {
        let x = tracked([2, 3]);
        // x f(x): the gradient is f(x), and the Hessian vanishes
        let grads = S::backward(S::float_sum(S::float_mul(x.clone(), f(x.clone()))));
        let adjoint = S::grad(&x, &grads).expect("the loss depends on x");
        let expected = get::<Nd>(f(x.clone()).primitive.primal);
        assert!(get::<Nd>(adjoint.primal.clone()).distance(&expected) == 0.0);
        if let Some(hv) = adjoint.tangent(0) {
            assert_eq!(get::<Nd>(hv.clone()).largest(), 0.0);
        }
    }
}

#[test]
fn comparisons_and_searches_read_the_primal() {
    let (x, y) = (active([2, 3]), active([2, 3]).map(|t| Nd::float_flip(t, &[1])));
    let settings = get_device_settings::<Nd>(&Default::default());
    let (int, bool) = (settings.int_dtype, settings.bool_dtype);
    let (p, q) = (x.primal.clone(), y.primal.clone());
    let ints_equal = |a, b| {
        let same = Nd::bool_all(Nd::int_equal(a, b, bool));
        get::<Nd>(Nd::bool_into_float(same, settings.float_dtype)).data == [1.0]
    };
    assert!(ints_equal(J::float_argmax(x.clone(), 1, int), Nd::float_argmax(p.clone(), 1, int)));
    assert!(ints_equal(J::float_argmin(x.clone(), 1, int), Nd::float_argmin(p.clone(), 1, int)));
    assert!(ints_equal(J::float_argsort(x.clone(), 1, true, int), Nd::float_argsort(p.clone(), 1, true, int)));
    let as_int = |b| Nd::bool_into_int(b, int);
    assert!(ints_equal(
        as_int(J::float_greater(x.clone(), y.clone(), bool)),
        as_int(Nd::float_greater(p.clone(), q.clone(), bool))
    ));
    assert!(ints_equal(
        as_int(J::float_lower_elem(x.clone(), Scalar::Float(0.1), bool)),
        as_int(Nd::float_lower_elem(p.clone(), Scalar::Float(0.1), bool))
    ));
    assert!(ints_equal(as_int(J::float_equal(x.clone(), x, bool)), as_int(Nd::float_equal(p.clone(), p, bool))));
    assert!(ints_equal(J::float_into_int(y, int), Nd::float_into_int(q, int)));
}

/// Maximum and minimum of ties: value and tangent come from the same entry.
#[test]
fn of_equal_values_one_is_chosen_consistently() {
    crate::in_f64();
    let x = Values { shape: vec![1, 4], data: vec![1.0, 2.0, 2.0, 2.0] };
    let t = Values { shape: vec![1, 4], data: vec![10.0, 20.0, 30.0, 40.0] };
    let dual = || Dual::<Nd>::new(put::<Nd>(&x), vec![Some(put::<Nd>(&t))]);
    let tangent = |y: Dual<Nd>| get::<Nd>(y.tangents[0].clone().expect("present")).data;
    assert_eq!(tangent(J::float_max_dim(dual(), 1)), [20.0]);
    assert_eq!(tangent(J::float_cummax(dual(), 1)), [10.0, 20.0, 20.0, 20.0]);
    assert_eq!(tangent(J::float_cummin(dual(), 1)), [10.0; 4]);
}

fn deform(x: F<J>) -> F<J> {
    let constant = |shape: &[usize]| Dual::constant(put::<Nd>(&Random::new(2).values(shape)));
    let options = DeformConvOptions::new([1, 1], [0, 0], [1, 1], 1, 1);
    J::deform_conv2d(x, constant(&[1, 8, 2, 2]), constant(&[1, 1, 2, 2]), None, None, options)
}

#[test]
#[should_panic(expected = "deform_conv2d: no second-order rule")]
fn a_deformable_convolution_stops_at_a_tangent() {
    deform(active([1, 1, 3, 3]));
}

#[test]
fn a_deformable_convolution_of_constants_passes() {
    let y = deform(Dual::constant(active([1, 1, 3, 3]).primal));
    assert_eq!(get::<Nd>(y.primal).shape, [1, 1, 2, 2]);
}

#[test]
#[should_panic(expected = "quantize: no second-order rule")]
fn quantisation_stops_at_a_tangent() {
    let scales = Dual::constant(active([1]).primal);
    J::quantize(active([4, 8]), &QuantScheme::default(), QuantizationParametersPrimitive { scales });
}

#[test]
#[should_panic(expected = "quantize: no second-order rule")]
fn quantisation_stops_in_second_order() {
    let scales = S::from_inner(Dual::constant(active([1]).primal));
    S::quantize(tracked([4, 8]), &QuantScheme::default(), QuantizationParametersPrimitive { scales });
}

#[test]
#[should_panic(expected = "float_scatter_nd: no second-order rule")]
fn a_multiplying_scatter_stops_at_a_tangent() {
    let values = Dual::constant(active([2]).primal);
    J::float_scatter_nd(active([3, 2]), ints::<J, 2>([2, 2], &[2, 0, 1, 1]), values, IndexingUpdateOp::Mul);
}

#[test]
#[should_panic(expected = "rfft")]
fn a_fourier_transform_stops_in_second_order() {
    S::rfft(tracked([2, 4]), 1, None);
}

#[test]
#[should_panic(expected = "irfft")]
fn an_inverse_fourier_transform_stops_in_second_order() {
    S::irfft(tracked([2, 3]), tracked([2, 3]), 1, None);
}

/// flex's irfft works in f32 even for f64 tensors: it is linear, so its tangent is its value at the direction.
#[test]
fn an_inverse_fourier_transform_has_tangents_in_forward_mode() {
    type Flex = burn_flex::Flex;
    crate::in_f64();
    let mut random = Random::new(3);
    let mut pair = || (random.values(&[2, 3]), random.values(&[2, 3]));
    let ((re, im), (d_re, d_im)) = (pair(), pair());
    let dual = |x: &Values, t: &Values| Dual::<Flex>::new(put::<Flex>(x), vec![Some(put::<Flex>(t)), None]);
    let y = Jvp::<Flex>::irfft(dual(&re, &d_re), dual(&im, &d_im), 1, None);
    let expected = Flex::irfft(put::<Flex>(&d_re), put::<Flex>(&d_im), 1, None);
    assert!(get::<Flex>(y.tangents[0].clone().expect("present")).same_bits(&get::<Flex>(expected)));
    assert!(y.tangents[1].is_none());
}

#[test]
fn top_k_is_the_head_of_the_sort() {
    let x = active([2, 5]);
    let dtype = get_device_settings::<Nd>(&Default::default()).int_dtype;
    let (sorted, _) = J::float_sort_with_indices(x.clone(), 1, true, dtype);
    let head = J::float_slice(sorted, &[burn_backend::Slice::from(0..2), burn_backend::Slice::from(0..2)]);
    let top = J::float_topk(x, 1, 2);
    assert!(get::<Nd>(top.primal).same_bits(&get::<Nd>(head.primal)));
    let tangent = |y: Option<F<Nd>>| get::<Nd>(y.expect("present"));
    assert!(tangent(top.tangents[0].clone()).same_bits(&tangent(head.tangents[0].clone())));
}

/// Reverse mode of top-k: x -> sum(top_2(x)^3) / 6 has H v = top x where x is among the two largest.
#[test]
fn top_k_in_second_order() {
    let x = tracked([1, 5]);
    let top = S::float_topk(x.clone(), 1, 2);
    let cube = S::float_mul(S::float_mul(top.clone(), top.clone()), top);
    let grads = S::backward(S::float_mul_scalar(S::float_sum(cube), Scalar::Float(1.0 / 6.0)));
    let adjoint = S::grad(&x, &grads).expect("the loss depends on x");
    let (values, v) = (real([1, 5]), Random::new(1).values(&[1, 5]));
    let mut order = values.data.clone();
    order.sort_by(|a, b| b.total_cmp(a));
    let kept = |x: f64, then: f64| if x >= order[1] { then } else { 0.0 };
    let expected = values.data.iter().zip(&v.data).map(|(&x, v)| kept(x, x * v)).collect();
    let hv = get::<Nd>(adjoint.tangents[0].clone().expect("present"));
    assert!(hv.distance(&Values { shape: vec![1, 5], data: expected }) < 1e-14);
}
