//! Standard errors from few samples.

/// Jackknife standard error of `estimator`, which is called with each leave-one-out sample's index:
/// sqrt((n-1)/n sum_i (t_i - mean t)^2). `None` for fewer than two samples.
pub fn jackknife(num_samples: usize, estimator: impl FnMut(usize) -> f64) -> Option<f64> {
    if num_samples < 2 {
        return None;
    }
    let left_out: Vec<f64> = (0..num_samples).map(estimator).collect();
    Some(jackknife_error(&left_out))
}

/// The jackknife standard error from the n leave-one-out values; at least two.
pub fn jackknife_error(left_out: &[f64]) -> f64 {
    let n = left_out.len() as f64;
    ((n - 1.0) / n).sqrt() * spread(left_out)
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

/// Standard error of the mean; `None` for fewer than two values.
pub fn standard_error(values: &[f64]) -> Option<f64> {
    Some(standard_deviation(values)? / (values.len() as f64).sqrt())
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
}
