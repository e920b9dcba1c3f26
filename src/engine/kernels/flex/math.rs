//! Elementary functions of f32 written so that the compiler vectorises loops over them.
//!
//! No fused multiply-add is used: the same bits come out whatever vector instructions the machine has.

const LOG2_E: f32 = std::f32::consts::LOG2_E;
/// ln 2 in two parts; n times the first is exact for |n| < 2^14 (Cody and Waite).
const LN_2_HIGH: f32 = 0.693_359_4;
const LN_2_LOW: f32 = -2.121_944_4e-4;
/// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits of the sum.
const ROUND: f32 = 12_582_912.0;
/// Below, exp is subnormal and becomes 0; above, it overflows to infinity.
const SMALLEST: f32 = -87.336_54;
const LARGEST: f32 = 88.722_83;

/// e^x, relative error below 2e-7; 0 where the result would be subnormal; NaN and infinities as usual.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    exp_of_sum(x, 0.0)
}

/// e^(high + low) for |low| much smaller than |high|: x = n ln 2 + r, e^x = 2^n e^r (Cephes' polynomial for e^r).
#[inline(always)]
fn exp_of_sum(high: f32, low: f32) -> f32 {
    let rounded = (high + low) * LOG2_E + ROUND;
    let n = rounded - ROUND;
    let r = (high - n * LN_2_HIGH) - n * LN_2_LOW + low;
    let tail = [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.0e-1];
    let tail = tail.iter().fold(1.987_569_1e-4, |sum, &c| sum * r + c);
    let mantissa = tail * (r * r) + r + 1.0;
    let exponent = (rounded.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = exponent >> 1;
    let value = mantissa * power_of_two(half) * power_of_two(exponent.wrapping_sub(half));
    if high < SMALLEST {
        0.0
    } else if high > LARGEST {
        f32::INFINITY
    } else {
        value
    }
}

/// 2^k for -126 <= k <= 127.
#[inline(always)]
fn power_of_two(k: i32) -> f32 {
    f32::from_bits((k.wrapping_add(127) as u32) << 23)
}

/// Chebyshev fit in q = (x - 4) / (x + 4) of (x + 4) (1 - Phi(x)) e^(x^2 / 2) on [0, 14], error below 1e-8.
const MILLS: [f32; 10] = [
    -1.181_354_4e-4,
    2.055_437_4e-4,
    1.573_495e-3,
    -3.528_608e-3,
    -7.530_432_6e-3,
    6.040_711e-2,
    -1.865_224_5e-1,
    3.871_366_7e-1,
    -6.078_966e-1,
    7.552_851_4e-1,
];

/// The standard normal (cdf, density) at x. Relative error below 5e-7 in both, also far in the lower tail.
#[inline(always)]
pub(super) fn normal(x: f32) -> (f32, f32) {
    // From 14 on the tail is 0 in f32; the bound keeps infinities out of q. NaN stays NaN.
    let a = if x.abs() > 14.0 { 14.0 } else { x.abs() };
    // x^2 = top^2 + (a - top)(a + top), the square of the leading 12 bits being exact.
    let top = f32::from_bits(a.to_bits() & 0xffff_f000);
    let gauss = exp_of_sum(-0.5 * top * top, -0.5 * (a - top) * (a + top));
    let t = 1.0 / (a + 4.0);
    let q = (a - 4.0) * t;
    let mills = MILLS.iter().fold(0.0, |sum, &c| sum * q + c) * t;
    let tail = gauss * mills;
    let cdf = if x < 0.0 { tail } else { 1.0 - tail };
    (cdf, gauss * FRAC_1_SQRT_2_PI)
}

const FRAC_1_SQRT_2_PI: f32 = 0.398_942_3;

#[cfg(test)]
mod tests {
    use super::super::element::Element;
    use super::*;

    /// Largest relative error of `f` against `truth` on a dense grid.
    fn worst(range: (f64, f64), f: impl Fn(f32) -> f32, truth: impl Fn(f64) -> f64) -> f64 {
        let points = 200_001;
        let grid = (0..points).map(|i| (range.0 + (range.1 - range.0) * i as f64 / (points - 1) as f64) as f32);
        grid.map(|x| (f(x) as f64 / truth(x as f64) - 1.0).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn exp_is_accurate_to_a_few_roundings() {
        let error = worst((-87.3, 88.7), exp, f64::exp);
        assert!(error < 2e-7, "{error:e}");
    }

    #[test]
    fn exp_has_the_usual_limits() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(f32::INFINITY), f32::INFINITY);
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(f32::NAN).is_nan());
    }

    #[test]
    fn normal_is_accurate_relatively_also_in_the_tail() {
        let cdf = worst((-12.5, 12.5), |x| normal(x).0, |x| x.normal().0);
        let density = worst((-12.5, 12.5), |x| normal(x).1, |x| x.normal().1);
        assert!(cdf < 5e-7 && density < 5e-7, "{cdf:e} {density:e}");
    }

    #[test]
    fn normal_has_the_usual_limits() {
        assert_eq!(normal(f32::INFINITY), (1.0, 0.0));
        assert_eq!(normal(f32::NEG_INFINITY), (0.0, 0.0));
        assert_eq!(normal(0.0).0, 0.5);
        assert!(normal(f32::NAN).0.is_nan());
    }
}
