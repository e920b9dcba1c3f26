//! Quantities over all trials: quartiles first, since some of them have no mean to speak of.

use super::trial::Trial;

/// One quantity over the trials that have it.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Statistic {
    /// What it is.
    pub quantity: String,
    /// Its block; `None`: of the whole problem.
    pub block: Option<String>,
    /// Trials that have it.
    pub trials: usize,
    /// Those without a value, which count as infinite.
    pub missing: usize,
    /// `None` where infinite, as all that follow.
    pub lower_quartile: Option<f64>,
    /// Median.
    pub median: Option<f64>,
    /// Upper quartile.
    pub upper_quartile: Option<f64>,
    /// Mean.
    pub mean: Option<f64>,
    /// Largest.
    pub max: Option<f64>,
}

/// All quantities, in the order in which trials have them.
pub fn statistics(trials: &[Trial]) -> Vec<Statistic> {
    type Named<'a> = (&'a str, Option<&'a str>);
    let mut values: Vec<(Named<'_>, Vec<f64>)> = Vec::new();
    for quantity in trials.iter().flat_map(|trial| &trial.quantities) {
        let name = (quantity.name.as_str(), quantity.block.as_deref());
        let value = quantity.value.unwrap_or(f64::INFINITY);
        match values.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => values.push((name, vec![value])),
        }
    }
    values.into_iter().map(|((quantity, block), values)| of(quantity, block, values)).collect()
}

fn of(quantity: &str, block: Option<&str>, mut values: Vec<f64>) -> Statistic {
    values.sort_by(f64::total_cmp);
    let finite = |value: f64| Some(value).filter(|value| value.is_finite());
    Statistic {
        quantity: quantity.into(),
        block: block.map(str::to_owned),
        trials: values.len(),
        missing: values.iter().filter(|value| !value.is_finite()).count(),
        lower_quartile: finite(quantile(&values, 0.25)),
        median: finite(quantile(&values, 0.5)),
        upper_quartile: finite(quantile(&values, 0.75)),
        mean: finite(values.iter().sum::<f64>() / values.len() as f64),
        max: finite(values[values.len() - 1]),
    }
}

/// A quantile of sorted values, one or more, by linear interpolation, as NumPy does it; infinite where an infinite value takes part.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let place = share * (sorted.len() - 1) as f64;
    let (below, within) = (place.floor() as usize, place.fract());
    if within == 0.0 { sorted[below] } else { sorted[below] + within * (sorted[below + 1] - sorted[below]) }
}

#[cfg(test)]
mod tests {
    use super::super::trial::Quantity;
    use super::*;

    #[test]
    fn what_is_missing_counts_as_infinite() {
        let trial = |number: usize, value: Option<f64>| Trial {
            number,
            quantities: vec![Quantity { name: "iterations".into(), block: None, value }],
            descents: Vec::new(),
        };
        let trials: Vec<Trial> = [Some(4.0), None, Some(1.0), Some(2.0), Some(3.0)]
            .into_iter()
            .enumerate()
            .map(|(n, v)| trial(n, v))
            .collect();
        let found = &statistics(&trials)[0];
        assert_eq!((found.trials, found.missing), (5, 1));
        assert_eq!((found.lower_quartile, found.median, found.upper_quartile), (Some(2.0), Some(3.0), Some(4.0)));
        assert_eq!((found.mean, found.max), (None, None));
        let found = &statistics(&trials[2..])[0];
        assert_eq!((found.lower_quartile, found.mean, found.max), (Some(1.5), Some(2.0), Some(3.0)));
    }
}
