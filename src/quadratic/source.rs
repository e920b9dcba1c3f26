//! Eigenvalues of the blocks: those of the configuration, or draws from a measured spectrum.

use statrs::distribution::{ContinuousCDF, Normal};

use super::config::{BlockKeys, Config, Scale, Spectrum};
use crate::output::{NodeRow, Results};
use crate::probe::{ProbeKind, probe};
use crate::spectrum::{AxisChoice, BlockSpectrum, Node, Quadrature, Sigma, View, density};
use crate::{Error, Result};

/// The eigenvalues of every block, ascending, scaled as the configuration says.
///
/// # Errors
/// [`Error::Config`] for a spectrum that is not there or has no positive part, and for eigenvalues that are all equal where they
/// are to be scaled; [`Error::Storage`].
pub fn spectra(config: &Config) -> Result<Vec<Vec<f64>>> {
    let mut spectra = config.blocks.iter().map(|block| unscaled(config, block)).collect::<Result<Vec<_>>>()?;
    match config.scale {
        None => {}
        Some(Scale::Joint) => rescale(&mut spectra, config.range)?,
        Some(Scale::Blocks) => {
            spectra.iter_mut().try_for_each(|spectrum| rescale(std::slice::from_mut(spectrum), config.range))?;
        }
    }
    Ok(spectra)
}

fn unscaled(config: &Config, block: &BlockKeys) -> Result<Vec<f64>> {
    match (&block.eigenvalues, &block.spectrum) {
        (Some(eigenvalues), _) => Ok(eigenvalues.clone()),
        (None, Some(spectrum)) => draw(spectrum, config.seed, &block.name, block.dim),
        (None, None) => Err(Error::Other(format!("block `{}` has no eigenvalues", block.name))),
    }
}

/// Shifts and scales numbers, so that the smallest and the largest of all are the ends of the range.
fn rescale(spectra: &mut [Vec<f64>], [low, high]: [f64; 2]) -> Result<()> {
    let all = || spectra.iter().flatten().copied();
    let (least, most) = (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    if most <= least {
        return Err(Error::Config(format!(
            "quadratic.scale: all eigenvalues are {least}, which cannot become a range from {low} to {high}; leave scale out"
        )));
    }
    let place = |x: f64| (low + (x - least) / (most - least) * (high - low)).clamp(low, high);
    spectra.iter_mut().flatten().for_each(|x| *x = place(*x));
    Ok(())
}

/// lambda_c of a block's own axis, as a share of its largest |node|: what some ten steps resolve, and finer than the common axis
/// of a run, on which a block of small curvature would be the kernel and nothing else.
const RESOLUTION: f64 = 0.01;

/// Draws from the positive part of a block's smoothed density. The atoms of the quadrature themselves would repeat a few values.
fn draw(spectrum: &Spectrum, seed: u64, block: &str, count: usize) -> Result<Vec<f64>> {
    let run = Results::open(&spectrum.url)?.run(spectrum.run.as_deref())?;
    let mut rows = run.read::<NodeRow>()?;
    let mut known: Vec<String> = rows.iter().map(|row| row.block.clone()).collect();
    known.dedup();
    rows.retain(|row| row.block == spectrum.block);
    let Some(distribution) = Cumulative::of(&smoothed(&rows)?) else {
        return Err(Error::Config(format!(
            "quadratic.block `{block}`: run `{}` at `{}` has no positive density of a block `{}`; its blocks are {}",
            run.record().run,
            spectrum.url,
            spectrum.block,
            known.join(", ")
        )));
    };
    let normal = Normal::standard();
    let gaussian = probe(ProbeKind::Gaussian, seed, &format!("quadratic/{block}/eigenvalues"), 0, 0..count);
    let mut eigenvalues: Vec<f64> = gaussian.iter().map(|z| distribution.quantile(normal.cdf(*z))).collect();
    eigenvalues.sort_by(f64::total_cmp);
    Ok(eigenvalues)
}

/// (coordinate, eigenvalue, density per unit of the coordinate) where the eigenvalue is above 0, on the block's own axis; nothing for a
/// block that is not there or has no curvature.
fn smoothed(rows: &[NodeRow]) -> Result<Vec<[f64; 3]>> {
    let largest = rows.iter().map(|row| row.node.abs()).fold(0.0, f64::max);
    if largest == 0.0 {
        return Ok(Vec::new());
    }
    let mut probes: Vec<(i32, Vec<Node>)> = Vec::new();
    for row in rows {
        let node = Node {
            node: row.node,
            weight: row.weight,
            weight_reduced: row.weight_reduced,
            residual_bound: row.residual_bound,
            converged: row.converged,
            below_noise_floor: row.below_noise_floor,
        };
        match probes.iter_mut().find(|(probe, _)| *probe == row.probe) {
            Some((_, nodes)) => nodes.push(node),
            None => probes.push((row.probe, vec![node])),
        }
    }
    let quadrature = |(_, nodes): (i32, Vec<Node>)| {
        let moment = |power: i32| nodes.iter().map(|node| node.weight * node.node.powi(power)).sum();
        let (first_moment, second_moment) = (moment(1), moment(2));
        Quadrature { nodes, first_moment, second_moment, exact: false, deflated: None, is_refused: false }
    };
    let spectrum = BlockSpectrum::new("block", rows.len(), probes.into_iter().map(quadrature).collect(), 0.0)?;
    let axis = AxisChoice::Asinh(Some(RESOLUTION * largest));
    let view = View::new(std::slice::from_ref(&spectrum), axis, Sigma::Relative(None))?;
    let found = density(&spectrum, &view);
    let points = found.coordinate.iter().zip(&found.eigenvalue).zip(&found.density);
    Ok(points.map(|((x, eigenvalue), value)| [*x, *eigenvalue, *value]).filter(|point| point[1] > 0.0).collect())
}

/// The distribution function of a density at its grid points, by the trapezoid rule over the axis's coordinate.
struct Cumulative {
    eigenvalues: Vec<f64>,
    /// From 0, ascending, not normalised.
    masses: Vec<f64>,
}

impl Cumulative {
    /// The distribution through points (coordinate, eigenvalue, density), ascending; `None` where there is no mass.
    fn of(points: &[[f64; 3]]) -> Option<Self> {
        let mut mass = 0.0;
        let steps = points.windows(2).map(|pair| {
            mass += 0.5 * (pair[1][0] - pair[0][0]) * (pair[0][2] + pair[1][2]);
            mass
        });
        let masses: Vec<f64> = std::iter::once(0.0).chain(steps).collect();
        (mass > 0.0).then(|| Self { eigenvalues: points.iter().map(|point| point[1]).collect(), masses })
    }

    /// The eigenvalue below which a share of the mass lies, linear between grid points.
    fn quantile(&self, share: f64) -> f64 {
        let last = self.masses.len() - 1;
        let target = share * self.masses[last];
        let right = self.masses.partition_point(|mass| *mass < target).clamp(1, last);
        let (from, to) = (self.masses[right - 1], self.masses[right]);
        let within = if to > from { (target - from) / (to - from) } else { 0.0 };
        self.eigenvalues[right - 1] + within.clamp(0.0, 1.0) * (self.eigenvalues[right] - self.eigenvalues[right - 1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A density that rises linearly from 0 at 0 to 2 at 1 has the quantiles sqrt(share); a grid of a thousand points errs by less
    /// than its step where the density is not small.
    #[test]
    fn quantiles_of_a_triangle() {
        let points: Vec<[f64; 3]> = (0..=1000).map(|k| f64::from(k) / 1000.0).map(|x| [x, x, 2.0 * x]).collect();
        let distribution = Cumulative::of(&points).unwrap();
        for share in [0.01, 0.25, 0.5, 0.9, 1.0f64] {
            assert!((distribution.quantile(share) - share.sqrt()).abs() < 1e-3, "{share}");
        }
        assert!(Cumulative::of(&points[..1]).is_none());
    }

    /// Nodes -1, 1 and 100 with the weights 0.5, 0.3 and 0.2: of the positive part three fifths lie around 1, the rest around 100.
    #[test]
    fn draws_follow_the_positive_nodes_of_any_size() {
        for size in [1e-9, 1.0, 1e9] {
            let row = |(node_index, (node, weight)): (usize, (f64, f64))| NodeRow {
                block: "b".into(),
                probe: 0,
                node_index: node_index as i32,
                node: size * node,
                weight,
                weight_reduced: None,
                residual_bound: 0.0,
                converged: true,
                below_noise_floor: false,
            };
            let nodes = [(-1.0, 0.5), (1.0, 0.3), (100.0, 0.2)];
            let rows: Vec<NodeRow> = nodes.into_iter().enumerate().map(row).collect();
            let distribution = Cumulative::of(&smoothed(&rows).unwrap()).unwrap();
            // the kernel is a sixth of the axis wide, half of three nodes' distance: only the order of things is sharp
            let (low, high) = (distribution.quantile(0.1) / size, distribution.quantile(0.9) / size);
            assert!(0.0 < low && low < 3.0 && high > 30.0, "{low} {high}");
            assert!(distribution.quantile(0.0) >= 0.0);
        }
        assert!(smoothed(&[]).unwrap().is_empty());
    }

    #[test]
    fn scaling_keeps_order_and_reaches_both_ends() {
        let mut spectra = vec![vec![0.5, 1.5], vec![1.0, 2.5]];
        rescale(&mut spectra, [1.0, 2001.0]).unwrap();
        assert_eq!(spectra, [[1.0, 1001.0], [501.0, 2001.0]]);
        assert!(rescale(&mut [vec![3.0, 3.0]], [1.0, 2.0]).is_err());
    }
}
