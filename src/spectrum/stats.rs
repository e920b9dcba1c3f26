//! Standard errors from few samples.

/// Jackknife standard error of `estimator`, which is called with each leave-one-out sample's index:
/// sqrt((n-1)/n sum_i (t_i - mean t)^2). `None` for fewer than two samples.
pub fn jackknife(num_samples: usize, estimator: impl FnMut(usize) -> f64) -> Option<f64> {
    if num_samples < 2 {
        return None;
    }
    let left_out: Vec<f64> = (0..num_samples).map(estimator).collect();
    Some(jackknife_variance(&left_out).sqrt())
}

/// The jackknife variance from the n leave-one-out values; at least two.
pub fn jackknife_variance(left_out: &[f64]) -> f64 {
    let n = left_out.len() as f64;
    let center = mean(left_out);
    (n - 1.0) / n * left_out.iter().map(|t| (t - center).powi(2)).sum::<f64>()
}

/// Arithmetic mean; 0 for no values.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
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
    let center = mean(values);
    let squares: f64 = values.iter().map(|x| (x - center).powi(2)).sum();
    Some((squares / (values.len() - 1) as f64).sqrt())
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
