//! Standard errors from few samples.
//!
//! A spread that was itself estimated from n numbers is uncertain, for n = 2 by more than half: the errors here are what
//! n numbers show, times Student's t for n - 1 degrees of freedom, so that one error holds 68 % for any n.

use statrs::distribution::{ContinuousCDF, StudentsT};

/// The share of a normal distribution below one standard deviation above its mean.
const ONE_SIGMA: f64 = 0.841_344_746_068_542_9;

/// Student's t at one standard deviation, for n samples: 1.84 for two, 1.20 for four, 1 for very many.
fn student(num_samples: usize) -> f64 {
    let degrees = num_samples.saturating_sub(1).max(1) as f64;
    let distribution = StudentsT::new(0.0, 1.0, degrees).expect("one degree of freedom or more");
    distribution.inverse_cdf(ONE_SIGMA)
}

/// Jackknife standard error of `estimator`, which is called with each leave-one-out sample's index:
/// sqrt((n-1)/n sum_i (t_i - mean t)^2), times Student's t. `None` for fewer than two samples.
pub fn jackknife(num_samples: usize, estimator: impl FnMut(usize) -> f64) -> Option<f64> {
    if num_samples < 2 {
        return None;
    }
    let left_out: Vec<f64> = (0..num_samples).map(estimator).collect();
    Some(jackknife_error(&left_out))
}

/// Standard error by jackknife from the n leave-one-out values; at least two.
pub fn jackknife_error(left_out: &[f64]) -> f64 {
    let n = left_out.len() as f64;
    student(left_out.len()) * ((n - 1.0) / n).sqrt() * spread(left_out)
}

/// Arithmetic mean; 0 for no values. Divides before adding, so that it does not overflow.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().map(|x| x / values.len() as f64).sum()
}

/// sqrt(sum_i (x_i - mean)^2), by hypotenuses, so that squares do not overflow.
fn spread(values: &[f64]) -> f64 {
    let center = mean(values);
    values.iter().fold(0.0, |sum: f64, x| sum.hypot(x - center))
}

/// Standard error of the mean, times Student's t; `None` for fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    Some(student(values.len()) * standard_deviation(values)? / (values.len() as f64).sqrt())
}

/// Sample standard deviation (n - 1); `None` for fewer than two values.
pub fn standard_deviation(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    Some(spread(values) / ((values.len() - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// For a mean the jackknife is the usual standard error, exactly.
    #[test]
    fn jackknife_of_a_mean() {
        let x = [1.0, 4.0, 2.0, 8.5];
        let without = |i: usize| (x.iter().sum::<f64>() - x[i]) / 3.0;
        assert!((jackknife(4, without).unwrap() - standard_error(&x).unwrap()).abs() < 1e-14);
        assert_eq!(jackknife(1, |_| 1.0), None);
        assert_eq!(standard_error(&[1.0]), None);
    }

    /// Of two normal numbers the mean is within half their distance times 1.84 in 68 % of cases; without Student's t in half.
    #[test]
    fn one_error_holds_68_percent() {
        for (n, factor) in [(2, 1.837), (3, 1.321), (4, 1.197), (1000, 1.0005)] {
            assert!((student(n) - factor).abs() < 1e-3, "{n}: {}", student(n));
        }
        for n in [2, 4] {
            let z = crate::probe::probe(crate::probe::ProbeKind::Gaussian, 1, "student", 0, 0..4000 * n);
            let holds = |x: &&[f64]| mean(x).abs() <= standard_error(x).unwrap();
            let share = z.chunks(n).filter(holds).count() as f64 / 4000.0;
            assert!((share - 0.683).abs() < 0.03, "{n}: {share}");
        }
    }
}
