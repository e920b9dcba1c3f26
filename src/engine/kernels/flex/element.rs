//! The two number types that the kernels are written for, and the choice of vector instructions.

use std::fmt::Debug;
use std::ops::{Add, AddAssign, Div, Mul, MulAssign, Neg, Sub, SubAssign};

use super::math;

unsafe extern "C" {
    /// The C library's complementary error function, good to one rounding (statrs' has errors of 1e-10).
    safe fn erfc(x: f64) -> f64;
}

/// f32 or f64.
pub(super) trait Element:
    burn_backend::Element
    + bytemuck::Pod
    + Debug
    + PartialOrd
    + Add<Output = Self>
    + Sub<Output = Self>
    + Mul<Output = Self>
    + Div<Output = Self>
    + Neg<Output = Self>
    + AddAssign
    + SubAssign
    + MulAssign
{
    const ZERO: Self;
    const ONE: Self;
    const NEG_INFINITY: Self;
    /// The most negative finite number.
    const MIN: Self;
    /// The smallest positive normal number.
    const MIN_POSITIVE: Self;

    /// The nearest number.
    fn of(value: f64) -> Self;
    /// Exact.
    fn wide(self) -> f64;
    /// e^self.
    fn exp(self) -> Self;
    /// Square root.
    fn sqrt(self) -> Self;
    /// The standard normal (cdf, density).
    fn normal(self) -> (Self, Self);

    /// The larger one; NaN on the right is ignored.
    #[inline(always)]
    fn larger(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
}

impl Element for f32 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f32::NEG_INFINITY;
    const MIN: Self = f32::MIN;
    const MIN_POSITIVE: Self = f32::MIN_POSITIVE;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self as f64
    }

    #[inline(always)]
    fn exp(self) -> Self {
        math::exp(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f32::sqrt(self)
    }

    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        math::normal(self)
    }
}

impl Element for f64 {
    const ZERO: Self = 0.0;
    const ONE: Self = 1.0;
    const NEG_INFINITY: Self = f64::NEG_INFINITY;
    const MIN: Self = f64::MIN;
    const MIN_POSITIVE: Self = f64::MIN_POSITIVE;

    #[inline(always)]
    fn of(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }

    #[inline(always)]
    fn exp(self) -> Self {
        f64::exp(self)
    }

    #[inline(always)]
    fn sqrt(self) -> Self {
        f64::sqrt(self)
    }

    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        let density = f64::exp(-0.5 * self * self) / (2.0 * std::f64::consts::PI).sqrt();
        (0.5 * erfc(-self * std::f64::consts::FRAC_1_SQRT_2), density)
    }
}

/// Runs `body` compiled for the widest vectors of this machine. Mark the closure `#[inline(always)]`, or it stays
/// compiled for the baseline. Rust contracts no multiply-add, so the bits of the result do not depend on the choice.
#[inline]
pub(super) fn vectorized<R>(body: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
            // SAFETY: the features were just found.
            return unsafe { with_avx512(body) };
        }
        if is_x86_feature_detected!("avx2") {
            // SAFETY: the feature was just found.
            return unsafe { with_avx2(body) };
        }
    }
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512dq")]
fn with_avx512<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn with_avx2<R>(body: impl FnOnce() -> R) -> R {
    body()
}

#[cfg(test)]
mod tests {
    use super::Element;

    #[test]
    fn normal_in_f64_is_exact_to_rounding() {
        // From mpmath with 30 digits.
        let known = [
            (0.0, 0.5, CENTRE),
            (1.0, 0.841_344_746_068_542_9, 0.241_970_724_519_143_37),
            (-2.5, 0.006_209_665_325_776_135, 0.017_528_300_493_568_54),
            (-6.0, 9.865_876_450_376_982e-10, 6.075_882_849_823_286e-9),
        ];
        for (x, cdf, density) in known {
            let found: (f64, f64) = x.normal();
            // Rounding the argument of e^(-x^2/2) costs x^2 roundings of the result.
            let tolerance = (2.0 + x * x) * f64::EPSILON;
            let errors = [found.0 / cdf - 1.0, found.1 / density - 1.0];
            assert!(errors.iter().all(|e| e.abs() <= tolerance), "{x}: {found:?}");
        }
    }

    const CENTRE: f64 = 0.398_942_280_401_432_7;
}
