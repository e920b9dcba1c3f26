//! JS0 and its kin: the mean distance over block pairs of every metric.

use super::heatmap::metrics;
use crate::output::DivergenceRow;

/// A metric's mean over pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Mean {
    pub metric: String,
    /// None: no pair counts.
    pub value: Option<f64>,
    pub num_pairs: usize,
    /// Pairs left out because a block has no curvature above the noise floor.
    pub num_zero_block: usize,
    /// Pairs left out because they have no value.
    pub num_undefined: usize,
}

/// Mean of each metric over the pairs of different blocks; `symkl_paper` includes the diagonal, as the paper's code
/// does. The whole network is no block of its own here; zero blocks are left out and counted.
pub fn means(rows: &[DivergenceRow]) -> Vec<Mean> {
    metrics(rows).into_iter().map(|metric| mean(metric, rows)).collect()
}

fn mean(metric: &str, rows: &[DivergenceRow]) -> Mean {
    let with_diagonal = metric == "symkl_paper";
    let pairs = rows.iter().filter(|row| {
        row.metric == metric
            && (with_diagonal || row.block_a != row.block_b)
            && row.block_a != "full"
            && row.block_b != "full"
    });
    let mut mean = Mean { metric: metric.into(), value: None, num_pairs: 0, num_zero_block: 0, num_undefined: 0 };
    let mut sum = 0.0;
    for row in pairs {
        match row.value {
            _ if row.status.contains("zero_block") => mean.num_zero_block += 1,
            Some(value) => {
                sum += value;
                mean.num_pairs += 1;
            }
            None => mean.num_undefined += 1,
        }
    }
    mean.value = (mean.num_pairs > 0).then(|| sum / mean.num_pairs as f64);
    mean
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(metric: &str, block_a: &str, block_b: &str, value: Option<f64>, status: &str) -> DivergenceRow {
        DivergenceRow {
            metric: metric.into(),
            block_a: block_a.into(),
            block_b: block_b.into(),
            value,
            sem: None,
            error: None,
            noise_floor: None,
            axis_scale: None,
            sigma: None,
            status: status.into(),
        }
    }

    #[test]
    fn the_diagonal_counts_only_where_the_paper_counts_it() {
        let rows: Vec<_> = ["js", "symkl_paper"]
            .iter()
            .flat_map(|metric| {
                [
                    row(metric, "a", "a", Some(0.0), "ok"),
                    row(metric, "a", "b", Some(0.6), "ok"),
                    row(metric, "b", "b", Some(0.0), "ok"),
                    row(metric, "a", "full", Some(9.0), "ok"),
                    row(metric, "a", "z", Some(9.0), "zero_block: z"),
                    row(metric, "b", "c", None, "undefined"),
                ]
            })
            .collect();
        let [js, paper] = &means(&rows)[..] else { panic!("two metrics") };
        assert_eq!((js.value, js.num_pairs, js.num_zero_block, js.num_undefined), (Some(0.6), 1, 1, 1));
        assert_eq!((paper.value, paper.num_pairs), (Some(0.6 / 3.0), 3));
        assert!(means(&[row("js", "a", "a", Some(0.0), "ok")])[0].value.is_none());
    }
}
