//! Attention and its adjoint against burn's own composition, central differences, and each other.

use burn_backend::ops::{AttentionModuleOptions, FloatTensorOps, attention::attention_fallback};
use burn_backend::{Shape, TensorData};
use burn_flex::{Flex, FlexTensor};

use super::attention::attention;
use super::attention_backward::attention_backward;
use super::element::Element;
use super::testing::{Case, DIFFERENCE, close, dual, duals_close, laid_out, numbers, random, truth};
use crate::engine::kernels::{Dual, transposed};

/// Sizes, masks and slots of one case.
#[derive(Clone, Copy)]
struct Setup {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
    causal: bool,
    masked: bool,
    scale: Option<f64>,
    case: Case,
}

const WIDTH: usize = 5;
const VALUE_WIDTH: usize = 7;

const BASE: Setup =
    Setup { batch: 2, heads: 3, queries: 9, keys: 9, causal: true, masked: false, scale: None, case: Case::Dense };

fn setups() -> Vec<Setup> {
    vec![
        BASE,
        Setup { causal: false, ..BASE },
        Setup { causal: false, masked: true, queries: 4, scale: Some(0.7), ..BASE },
        Setup { masked: true, case: Case::Swapped, ..BASE },
        Setup { queries: 6, keys: 11, case: Case::Sliced, ..BASE },
        Setup { queries: 11, keys: 6, case: Case::Offset, ..BASE },
        Setup { batch: 1, heads: 2, queries: 150, keys: 150, ..BASE },
        Setup { batch: 1, heads: 1, queries: 70, keys: 133, causal: false, masked: true, ..BASE },
    ]
}

impl Setup {
    fn options(&self) -> AttentionModuleOptions {
        AttentionModuleOptions { scale: self.scale, softcap: None, is_causal: self.causal }
    }

    /// A mask of (batch, 1, queries, keys) expanded over heads: a third of the places, and one whole row.
    fn mask(&self) -> Option<FlexTensor> {
        use burn_backend::ops::BoolTensorOps;
        let [batch, queries, keys] = [self.batch, self.queries, self.keys];
        let hidden = random(batch * queries * keys, 99);
        let hidden: Vec<bool> = hidden.iter().enumerate().map(|(i, x)| *x < -0.6 || i / keys == 1).collect();
        let mask = FlexTensor::from_data(TensorData::new(hidden, [batch, 1, queries, keys]));
        self.masked.then(|| Flex::bool_expand(mask, Shape::from(vec![batch, self.heads, queries, keys])))
    }

    /// q, k, v and g, with slots in all, in pairs, in single ones, and nowhere.
    fn inputs<T: Element>(&self) -> [Dual<Flex>; 4] {
        let shape = |time, width| [self.batch, self.heads, time, width];
        let slots = [
            [true, false, false, true, false, false],
            [true, false, true, false, false, false],
            [true, true, false, true, false, false],
            [true, false, false, false, true, false],
        ];
        [
            dual::<T>(&shape(self.queries, WIDTH), 1, &slots[0], self.case),
            dual::<T>(&shape(self.keys, WIDTH), 2, &slots[1], self.case),
            dual::<T>(&shape(self.keys, VALUE_WIDTH), 3, &slots[2], self.case),
            dual::<T>(&shape(self.queries, VALUE_WIDTH), 4, &slots[3], Case::Dense),
        ]
    }

    fn plain(&self, x: &[FlexTensor]) -> FlexTensor {
        let [q, k, v] = [0, 1, 2].map(|i: usize| x[i].clone());
        attention_fallback::<Flex>(q, k, v, self.mask(), None, self.options())
    }

    /// Adjoints by tensor operations, from the probabilities (the attention of an identity).
    fn plain_adjoint(&self, x: &[FlexTensor], which: usize) -> FlexTensor {
        let [q, k, v, g] = [0, 1, 2, 3].map(|i: usize| x[i].clone());
        let identity: Vec<f64> = (0..self.keys * self.keys).map(|i| (i % (self.keys + 1) == 0) as u8 as f64).collect();
        let identity = laid_out::<f64>(&identity, &[1, 1, self.keys, self.keys], Case::Dense);
        let p = attention_fallback::<Flex>(q.clone(), k.clone(), identity, self.mask(), None, self.options());
        let dp = Flex::float_matmul(g.clone(), transposed::<Flex>(v));
        let sum = Flex::float_sum_dim(Flex::float_mul(dp.clone(), p.clone()), 3);
        let ds = Flex::float_mul(p.clone(), Flex::float_sub(dp, sum));
        let scale = self.scale.unwrap_or(1.0 / (WIDTH as f64).sqrt());
        let ds = Flex::float_mul_scalar(ds, scale.into());
        match which {
            0 => Flex::float_matmul(ds, k),
            1 => Flex::float_matmul(transposed::<Flex>(ds), q),
            _ => Flex::float_matmul(transposed::<Flex>(p), g),
        }
    }
}

fn forward<T: Element>(setup: &Setup, x: &[Dual<Flex>; 4]) -> Dual<Flex> {
    attention::<T>(&x[0], &x[1], &x[2], setup.mask().as_ref(), &setup.options()).unwrap()
}

fn backward<T: Element>(setup: &Setup, x: &[Dual<Flex>; 4]) -> [Dual<Flex>; 3] {
    let mask = setup.mask();
    let (q, k, v) = attention_backward::<T>(&x[0], &x[1], &x[2], mask.as_ref(), &setup.options(), &x[3]).unwrap();
    [q, k, v]
}

#[test]
fn forward_matches_burn_and_differences() {
    for setup in setups() {
        let truth = truth(&setup.inputs::<f64>()[..3], |x| setup.plain(x));
        duals_close(&forward::<f64>(&setup, &setup.inputs::<f64>()), &truth, DIFFERENCE);
        duals_close(&forward::<f32>(&setup, &setup.inputs::<f32>()), &truth, 3e-6);
    }
}

/// The dual without some slots.
fn without(mut dual: Dual<Flex>, slots: &[usize]) -> Dual<Flex> {
    slots.iter().for_each(|&slot| dual.tangents[slot] = None);
    dual
}

#[test]
fn backward_matches_composition_and_differences() {
    for setup in setups() {
        let (wide, narrow) = (setup.inputs::<f64>(), setup.inputs::<f32>());
        let (adjoints, narrow) = (backward::<f64>(&setup, &wide), backward::<f32>(&setup, &narrow));
        for which in 0..3 {
            let truth = truth(&wide, |x| setup.plain_adjoint(x, which));
            // In slot 1 only v moves, on which its own adjoint does not depend.
            let truth = if which == 2 { without(truth, &[1]) } else { truth };
            duals_close(&adjoints[which], &truth, DIFFERENCE);
            duals_close(&narrow[which], &truth, 5e-6);
        }
    }
}

#[test]
fn adjoint_is_the_transpose_of_the_tangent() {
    let inner = |a: &FlexTensor, b: &FlexTensor| -> f64 { numbers(a).iter().zip(numbers(b)).map(|(a, b)| a * b).sum() };
    for setup in setups() {
        let x = setup.inputs::<f64>();
        let output = forward::<f64>(&setup, &x);
        let adjoints = backward::<f64>(&setup, &x);
        // Slot 0 moves q, k and v.
        let left = inner(&x[3].primal, output.tangent(0).unwrap());
        let right: f64 = (0..3).map(|i| inner(&adjoints[i].primal, x[i].tangent(0).unwrap())).sum();
        assert!((left - right).abs() < 1e-11 * (1.0 + left.abs()), "{left} {right}");
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let setup = Setup { queries: 150, keys: 150, ..BASE };
    let x = setup.inputs::<f32>();
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| backward::<f32>(&setup, &x))
    };
    for (one, three) in with(1).iter().zip(&with(3)) {
        duals_close(one, three, 0.0);
    }
}

#[test]
fn output_lies_as_time_heads_head() {
    let output = forward::<f64>(&BASE, &BASE.inputs::<f64>());
    assert!(Flex::float_swap_dims(output.primal.clone(), 1, 2).is_contiguous());
    close(&output.primal, &output.primal.to_contiguous(), 0.0);
}

#[test]
fn what_is_not_offered_is_refused() {
    let x = BASE.inputs::<f64>();
    let capped = AttentionModuleOptions { softcap: Some(30.0), ..BASE.options() };
    assert!(attention::<f64>(&x[0], &x[1], &x[2], None, &capped).is_none());
}
