//! What one trial measures: condition numbers before and after Adam's preconditioner, the constants of the theorems, and, where
//! the optimizers run, their iterations and the ratios of their losses.

use super::config::Config;
use super::optimizer::{Method, Path, descend};
use super::problem::Quadratic;
use super::theory::{self, Theory};
use crate::Result;
use crate::krylov::Dense;
use crate::spectrum::eigen;

/// Rounding of a ratio of two losses, a few hundred terms each.
const ROUNDING: f64 = 1e-10;
/// The paper's bound of r.
const MOST_R: f64 = 100.0;

/// A number of a trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Quantity {
    /// What it is.
    pub name: String,
    /// Its block; `None`: of the whole problem.
    pub block: Option<String>,
    /// `None`: the accuracy was not reached.
    pub value: Option<f64>,
}

/// An optimizer that ran.
#[derive(Debug, Clone, PartialEq)]
pub struct Descent {
    /// `gd`, `blockwise_gd`, `adam` or `adam_theory`.
    pub optimizer: &'static str,
    /// Adam's beta2.
    pub beta2: Option<f64>,
    /// The learning rate, where it is one for all blocks.
    pub learning_rate: Option<f64>,
    /// Whether it is the best of a grid.
    pub is_best: bool,
    /// What came of it.
    pub path: Path,
    /// Bound of the ratio of two losses, as corrected.
    pub ratio: Option<f64>,
    /// What the bound as it is printed in the paper says.
    pub ratio_as_printed: Option<f64>,
}

/// One trial.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Number from 0.
    pub number: usize,
    /// What was measured.
    pub quantities: Vec<Quantity>,
    /// All paths, in the first trial; none in the others, which keep the quantities that follow from them.
    pub descents: Vec<Descent>,
}

impl Trial {
    /// Measures a problem.
    ///
    /// # Errors
    /// [`Error::Numerics`](crate::Error::Numerics) for eigenvalues that cannot be computed.
    pub fn of(config: &Config, problem: &Quadratic, number: usize) -> Result<Self> {
        let theory = Theory::of(problem);
        let mut quantities = constants(config, &theory);
        quantities.extend(preconditioned(config, problem, &theory)?);
        let mut descents = Vec::new();
        if number < config.paths {
            descents = all_descents(config, problem, &theory, number == 0)?;
            quantities.extend(of_paths(config, &theory, &descents));
        }
        if number > 0 {
            descents.clear();
        }
        Ok(Self { number, quantities, descents })
    }
}

fn whole(name: impl Into<String>, value: impl Into<Option<f64>>) -> Quantity {
    Quantity { name: name.into(), block: None, value: value.into() }
}

fn of_block(name: &str, config: &Config, block: usize, value: f64) -> Quantity {
    Quantity { name: name.into(), block: Some(config.blocks[block].name.clone()), value: Some(value) }
}

fn truth(holds: bool) -> f64 {
    f64::from(u8::from(holds))
}

/// r of each block and of all, whether these are at most 100, and r'.
fn constants(config: &Config, theory: &Theory) -> Vec<Quantity> {
    let mut found = Vec::new();
    for (block, r) in theory.r_of_blocks.iter().enumerate() {
        found.push(of_block("r", config, block, *r));
        found.push(of_block("r_at_most_100", config, block, truth(*r <= MOST_R)));
    }
    found.push(whole("r", theory.r));
    found.push(whole("r_at_most_100", truth(theory.r <= MOST_R)));
    found.push(whole("r_prime", theory.r_prime));
    found
}

/// Condition numbers of D_l^-1 H_l and of D^-1 H, D = diag(|g(w0)|), and how they compare with those of H_l and H.
fn preconditioned(config: &Config, problem: &Quadratic, theory: &Theory) -> Result<Vec<Quantity>> {
    let mut found = Vec::new();
    let (mut least, mut most) = (f64::INFINITY, 0.0f64);
    for block in 0..problem.num_blocks() {
        let (low, high) = preconditioned_ends(&problem.matrices[block], &problem.gradient[block])?;
        found.push(of_block("kappa_adam", config, block, high / low));
        found.push(of_block("kappa_adam_over_kappa", config, block, high / low / theory.kappas[block]));
        (least, most) = (least.min(low), most.max(high));
    }
    found.push(whole("kappa_adam", most / least));
    found.push(whole("kappa_adam_over_kappa", most / least / theory.kappa));
    Ok(found)
}

/// Smallest and largest eigenvalue of D^-1 H: those of the symmetric matrix D^-1/2 H D^-1/2, D = diag(|g|).
///
/// # Errors
/// [`Error::Numerics`](crate::Error::Numerics) for a gradient that is 0 somewhere.
pub fn preconditioned_ends(matrix: &Dense, gradient: &[f64]) -> Result<(f64, f64)> {
    let factors: Vec<f64> = gradient.iter().map(|g| 1.0 / g.abs().sqrt()).collect();
    let entry = |i: usize, j: usize| matrix.entry(i, j) * factors[i] * factors[j];
    let dim = matrix.dim();
    let lower: Vec<f64> = (0..dim).flat_map(|i| (0..=i).map(move |j| (i, j))).map(|(i, j)| entry(i, j)).collect();
    let values = eigen::packed_symmetric(dim, &lower)?.values;
    Ok((values[0], values[dim - 1]))
}

/// Every optimizer from the problem's start. Where beta2 < 1, reaching the accuracy is not staying there: paths that are `kept` go on.
fn all_descents(config: &Config, problem: &Quadratic, theory: &Theory, kept: bool) -> Result<Vec<Descent>> {
    let run = |optimizer: &'static str, method: Method, ratio: Option<f64>, ratio_as_printed: Option<f64>| {
        let (beta2, learning_rate) = match &method {
            Method::Adam { beta2, rate } => (Some(*beta2), Some(*rate)),
            Method::Descent { rates } => (None, Some(rates[0]).filter(|_| rates.len() == 1)),
        };
        let stops = !kept || beta2.is_none_or(|beta2| beta2 == 1.0);
        let path = descend(problem, &method, config.accuracy, config.iterations, stops)?;
        Ok(Descent { optimizer, beta2, learning_rate, is_best: false, path, ratio, ratio_as_printed })
    };
    let theory_method = Method::Adam { beta2: 1.0, rate: theory.adam_rate };
    let (gd, blockwise) = (theory::gd(problem), theory::blockwise_gd(problem));
    let mut all = vec![
        run("gd", gd, Some(theory.gd_ratio()), Some(theory.gd_ratio_as_printed()))?,
        run("blockwise_gd", blockwise, Some(theory.blockwise_gd_ratio()), None)?,
        run("adam_theory", theory_method, Some(theory.adam_ratio()), Some(theory.adam_ratio_as_printed()))?,
    ];
    for beta2 in &config.beta2 {
        let adam = |rate: &f64| run("adam", Method::Adam { beta2: *beta2, rate: *rate }, None, None);
        let mut of_grid = config.learning_rates.iter().map(adam).collect::<Result<Vec<_>>>()?;
        if let Some(best) = of_grid.iter_mut().min_by(|a, b| merit(&a.path).total_cmp(&merit(&b.path))) {
            best.is_best = true;
        }
        all.extend(of_grid);
    }
    Ok(all)
}

/// Lower is better: the iterations that the accuracy took, or, above all of those, the last loss.
fn merit(path: &Path) -> f64 {
    const NOT_REACHED: f64 = 1e100;
    match (path.reached, path.losses.last()) {
        (Some(iterations), _) => iterations as f64,
        (None, Some(loss)) if loss.is_finite() => NOT_REACHED * (1.0 + loss),
        _ => f64::INFINITY,
    }
}

/// Iterations beside their bounds, and whether the theorems' ratios hold in every step.
fn of_paths(config: &Config, theory: &Theory, descents: &[Descent]) -> Vec<Quantity> {
    let mut found = Vec::new();
    let bound = |ratio: f64| theory::iterations(ratio, config.accuracy);
    for descent in descents {
        let name = match (descent.optimizer, descent.beta2) {
            ("adam", Some(beta2)) if descent.is_best => format!("adam_beta2_{beta2}"),
            ("adam", _) => continue,
            (name, _) => name.to_owned(),
        };
        found.push(whole(format!("iterations_{name}"), descent.path.reached.map(|count| count as f64)));
        if descent.optimizer == "adam" {
            found.push(whole(format!("learning_rate_{name}"), descent.learning_rate));
        }
        if let Some(ratio) = descent.ratio {
            found.push(whole(format!("iterations_bound_{name}"), bound(ratio)));
        }
        if descent.optimizer == "gd" {
            found.push(whole("last_ratio_gd", descent.path.last_ratio()));
            found.push(whole("last_ratio_gd_bound", theory.gd_ratio()));
            found.push(whole("last_ratio_gd_as_printed", theory.gd_ratio_as_printed()));
        }
        if descent.optimizer == "adam_theory" {
            let largest = descent.path.largest_ratio().unwrap_or(0.0);
            let holds = |ratio: f64| truth(largest <= ratio + ROUNDING);
            found.push(whole("iterations_bound_adam_theory_as_printed", bound(theory.adam_ratio_as_printed())));
            found.push(whole("iterations_bound_adam_theory_sharp", bound(theory.adam_ratio_sharp())));
            found.push(whole("largest_ratio_adam_theory", largest));
            found.push(whole("theorem_2_holds_as_printed", holds(theory.adam_ratio_as_printed())));
            found.push(whole("theorem_2_holds_with_r_prime", holds(theory.adam_ratio())));
            found.push(whole("theorem_2_holds_sharp", holds(theory.adam_ratio_sharp())));
        }
    }
    found
}
