//! Products of f32 matrices from operands of fewer bits, as tensor cores take them, with sums in f32.
//!
//! An operand is cut to p bits by Veltkamp's splitting: with c = (2^(24 - p) + 1) x, hi = c - (c - x) is x rounded to p bits,
//! and x - hi is exact. TF32 has p = 11, bf16 p = 8. Three products of parts in TF32, hi hi + hi lo + lo hi, leave out lo lo
//! alone, 2^-22 of the result: near f32 at a third of TF32's rate. A unit that rounds its operands to TF32 itself changes none
//! of these, one that does not gives the same up to the order of its sums.

use std::cell::Cell;

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, DType, Scalar, TensorMetadata};
use serde::{Deserialize, Serialize};

/// How f32 matrices are multiplied, but on flex.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Arithmetic {
    /// IEEE single precision, as the backend does it.
    #[default]
    F32,
    /// Operands of 11 bits.
    Tf32,
    /// Operands in two parts of 11 bits, three products.
    #[serde(rename = "3xtf32")]
    Tf32x3,
    /// Operands of 8 bits.
    Bf16,
}

thread_local! {
    static ARITHMETIC: Cell<Arithmetic> = const { Cell::new(Arithmetic::F32) };
}

impl Arithmetic {
    /// Runs `f` with products in this arithmetic on the calling thread.
    pub fn scope<T>(self, f: impl FnOnce() -> T) -> T {
        struct Restore(Arithmetic);
        impl Drop for Restore {
            fn drop(&mut self) {
                ARITHMETIC.set(self.0);
            }
        }
        let _restore = Restore(ARITHMETIC.replace(self));
        f()
    }

    /// That of the calling thread.
    pub fn current() -> Self {
        ARITHMETIC.get()
    }

    /// Relative rounding error of an operand.
    pub fn unit_roundoff(self) -> f64 {
        let bits = match self {
            Self::F32 => 24,
            Self::Tf32x3 => 22,
            Self::Tf32 => 11,
            Self::Bf16 => 8,
        };
        0.5_f64.powi(bits)
    }
}

/// The products that stand for lhs @ rhs, small ones first.
pub(super) fn factors<B: Backend>(lhs: FloatTensor<B>, rhs: FloatTensor<B>) -> Vec<(FloatTensor<B>, FloatTensor<B>)> {
    if lhs.dtype() != DType::F32 {
        return vec![(lhs, rhs)];
    }
    match Arithmetic::current() {
        Arithmetic::F32 => vec![(lhs, rhs)],
        Arithmetic::Tf32 => vec![(rounded::<B>(lhs, 11), rounded::<B>(rhs, 11))],
        Arithmetic::Bf16 => vec![(rounded::<B>(lhs, 8), rounded::<B>(rhs, 8))],
        Arithmetic::Tf32x3 => {
            let (lhs, lhs_rest) = parts::<B>(lhs);
            let (rhs, rhs_rest) = parts::<B>(rhs);
            vec![(lhs_rest, rhs.clone()), (lhs.clone(), rhs_rest), (lhs, rhs)]
        }
    }
}

/// The sum of products of pairs by the backend's own operations.
pub(super) fn composed<B: Backend>(terms: Vec<(FloatTensor<B>, FloatTensor<B>)>) -> FloatTensor<B> {
    let factors = terms.into_iter().flat_map(|(lhs, rhs)| factors::<B>(lhs, rhs));
    let products = factors.map(|(lhs, rhs)| B::float_matmul(lhs, rhs));
    products.reduce(B::float_add).expect("a sum of products has at least one term")
}

/// x to `bits` bits.
fn rounded<B: Backend>(x: FloatTensor<B>, bits: i32) -> FloatTensor<B> {
    let scaled = B::float_mul_scalar(x.clone(), Scalar::Float(2f64.powi(24 - bits) + 1.0));
    B::float_sub(scaled.clone(), B::float_sub(scaled, x))
}

/// x in TF32, and what is left of it, in TF32.
fn parts<B: Backend>(x: FloatTensor<B>) -> (FloatTensor<B>, FloatTensor<B>) {
    let high = rounded::<B>(x.clone(), 11);
    let rest = rounded::<B>(B::float_sub(x, high.clone()), 11);
    (high, rest)
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Tensor, TensorData, TensorPrimitive};
    use burn_ndarray::NdArray;

    use super::*;
    use crate::engine::kernels::Kernels;

    type B = NdArray<f32>;
    const SIZE: usize = 96;

    /// Pseudo-random numbers in [-1, 1).
    fn values(seed: u64) -> Vec<f32> {
        let mixed = |i: usize| (i as u64 + (seed << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        (0..SIZE * SIZE)
            .map(|i| (mixed(i) ^ (mixed(i) >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9) >> 32)
            .map(|bits| (bits as f64 / 2f64.powi(31) - 1.0) as f32)
            .collect()
    }

    fn tensor(values: &[f32]) -> FloatTensor<B> {
        let data = TensorData::new(values.to_vec(), [SIZE, SIZE]);
        let device = Default::default();
        Tensor::<B, 2>::from_data(data, (&device, DType::F32)).into_primitive().tensor()
    }

    fn read(x: FloatTensor<B>) -> Vec<f32> {
        Tensor::<B, 2>::from_primitive(TensorPrimitive::Float(x)).into_data().to_vec().unwrap()
    }

    /// Rounded by the bits of the number.
    fn by_bits(x: f32) -> f32 {
        let lower = x.to_bits() & 0x1FFF;
        let even = (x.to_bits() >> 13) & 1;
        let up = u32::from(lower > 0x1000 || (lower == 0x1000 && even == 1));
        f32::from_bits(((x.to_bits() >> 13) + up) << 13)
    }

    #[test]
    fn splitting_rounds_to_tf32_and_loses_nothing() {
        let x = values(1);
        let rounded = read(rounded::<B>(tensor(&x), 11));
        assert!(x.iter().zip(&rounded).all(|(x, hi)| by_bits(*x) == *hi));
        let (high, rest) = parts::<B>(tensor(&x));
        for ((x, high), rest) in x.iter().zip(read(high)).zip(read(rest)) {
            let left = (f64::from(*x) - f64::from(high) - f64::from(rest)).abs();
            assert!(left <= 0.5_f64.powi(22) * f64::from(x.abs()), "{x}: {high} + {rest}");
        }
    }

    #[test]
    fn errors_of_products_are_those_of_the_operands() {
        let (a, b) = (values(2), values(3));
        let exact = |i: usize, j: usize| -> f64 {
            (0..SIZE).map(|k| f64::from(a[i * SIZE + k]) * f64::from(b[k * SIZE + j])).sum()
        };
        let error = |arithmetic: Arithmetic| {
            let product = arithmetic.scope(|| B::sum_of_products(vec![(tensor(&a), tensor(&b))]));
            let (mut difference, mut norm) = (0.0, 0.0);
            for (at, x) in read(product).iter().enumerate() {
                let exact = exact(at / SIZE, at % SIZE);
                difference += (f64::from(*x) - exact).powi(2);
                norm += exact * exact;
            }
            (difference / norm).sqrt()
        };
        assert!(error(Arithmetic::F32) < 1e-6);
        assert!(error(Arithmetic::Tf32x3) < 1e-6, "{:e}", error(Arithmetic::Tf32x3));
        // two operands, each off by a uniform error of at most 2^-p of numbers between 1 and 2
        for (arithmetic, range) in [(Arithmetic::Tf32, 1e-4..5e-4), (Arithmetic::Bf16, 1e-3..4e-3)] {
            assert!(range.contains(&error(arithmetic)), "{arithmetic:?}: {:e}", error(arithmetic));
        }
        assert_eq!(Arithmetic::current(), Arithmetic::F32);
    }
}
