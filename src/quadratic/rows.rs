//! Rows of the tables `quadratic`, `quadratic_blocks`, `quadratic_curves`, `quadratic_trials` and `dense`.

use super::config::Config;
use super::problem::Quadratic;
use super::statistics::Statistic;
use super::trial::{Descent, Trial};
use crate::output::{DenseRow, QuadraticBlockRow, QuadraticCurveRow, QuadraticRow, QuadraticTrialRow, Tables};

/// Points of a curve that are listed: all at first, then as many in each factor of e.
const POINTS_PER_E_FOLD: f64 = 60.0;

/// All rows of an experiment; `first` is the problem of its first trial.
pub fn tables(config: &Config, first: &Quadratic, trials: &[Trial], statistics: &[Statistic]) -> Tables {
    Tables {
        quadratic: statistics.iter().map(statistic).collect(),
        quadratic_blocks: blocks(config, first),
        quadratic_curves: trials.iter().flat_map(|trial| &trial.descents).flat_map(curve).collect(),
        quadratic_trials: trials.iter().flat_map(quantities).collect(),
        dense: matrices(config, first),
        ..Tables::default()
    }
}

fn statistic(found: &Statistic) -> QuadraticRow {
    QuadraticRow {
        quantity: found.quantity.clone(),
        block: found.block.clone(),
        trials: found.trials as i64,
        missing: found.missing as i64,
        lower_quartile: found.lower_quartile,
        median: found.median,
        upper_quartile: found.upper_quartile,
        mean: found.mean,
        max: found.max,
    }
}

fn blocks(config: &Config, problem: &Quadratic) -> Vec<QuadraticBlockRow> {
    let mut rows = Vec::new();
    for (block, keys) in config.blocks.iter().enumerate() {
        for (index, eigenvalue) in problem.spectra[block].iter().enumerate() {
            rows.push(QuadraticBlockRow {
                block: keys.name.clone(),
                index: index as i32,
                eigenvalue: *eigenvalue,
                start: problem.start[block][index],
                gradient: problem.gradient[block][index],
            });
        }
    }
    rows
}

fn quantities(trial: &Trial) -> impl Iterator<Item = QuadraticTrialRow> {
    trial.quantities.iter().map(|quantity| QuadraticTrialRow {
        trial: trial.number as i32,
        quantity: quantity.name.clone(),
        block: quantity.block.clone(),
        value: quantity.value,
    })
}

fn curve(descent: &Descent) -> Vec<QuadraticCurveRow> {
    let losses = &descent.path.losses;
    let bound = |ratio: Option<f64>, iteration: usize| ratio.map(|ratio| losses[0] * ratio.powf(iteration as f64));
    listed(losses.len())
        .into_iter()
        .map(|iteration| QuadraticCurveRow {
            optimizer: descent.optimizer.into(),
            beta2: descent.beta2,
            learning_rate: descent.learning_rate,
            is_best: descent.is_best,
            iteration: iteration as i64,
            loss: losses[iteration],
            bound: bound(descent.ratio, iteration),
            bound_as_printed: bound(descent.ratio_as_printed, iteration),
        })
        .collect()
}

/// Positions that are listed of `count`: the last one always.
fn listed(count: usize) -> Vec<usize> {
    let mut positions = Vec::new();
    let mut next = 0.0f64;
    while (next as usize) < count {
        positions.push(next as usize);
        next = (next + 1.0).max(next * (1.0 / POINTS_PER_E_FOLD).exp()).floor();
    }
    if positions.last().is_some_and(|last| *last + 1 < count) {
        positions.push(count - 1);
    }
    positions
}

fn matrices(config: &Config, problem: &Quadratic) -> Vec<DenseRow> {
    let mut rows = Vec::new();
    for (keys, matrix) in config.blocks.iter().zip(&problem.matrices) {
        for row in 0..matrix.dim() {
            let values = (0..matrix.dim()).map(|column| matrix.entry(row, column)).collect();
            rows.push(DenseRow { block: keys.name.clone(), row: row as i64, values });
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::listed;

    #[test]
    fn curves_are_listed_from_the_first_to_the_last_loss() {
        assert_eq!(listed(1), [0]);
        assert_eq!(listed(40), (0..40).collect::<Vec<_>>());
        let many = listed(100_001);
        assert!(many.len() < 600 && many.windows(2).all(|pair| pair[0] < pair[1]), "{}", many.len());
        assert_eq!(many.last(), Some(&100_000));
    }
}
