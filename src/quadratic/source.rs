//! Eigenvalues of the blocks: those of the configuration, or draws from a measured density.

use statrs::distribution::{ContinuousCDF, Normal};

use super::config::{BlockKeys, Config, Scale, Spectrum};
use crate::output::{DensityRow, Results};
use crate::probe::{ProbeKind, probe};
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

/// Draws from the positive part of a smoothed density. The atoms of the quadrature themselves would repeat a few values.
fn draw(spectrum: &Spectrum, seed: u64, block: &str, count: usize) -> Result<Vec<f64>> {
    let run = Results::open(&spectrum.url)?.run(spectrum.run.as_deref())?;
    let mut rows = run.read::<DensityRow>()?;
    let mut known: Vec<String> = rows.iter().map(|row| row.block.clone()).collect();
    known.dedup();
    rows.retain(|row| row.block == spectrum.block && row.eigenvalue > 0.0);
    let distribution = Cumulative::of(&rows);
    let Some(distribution) = distribution else {
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

/// The distribution function of a density at its grid points, by the trapezoid rule over the axis's coordinate.
struct Cumulative {
    eigenvalues: Vec<f64>,
    /// From 0, ascending, not normalised.
    masses: Vec<f64>,
}

impl Cumulative {
    /// `None` where there is no mass.
    fn of(rows: &[DensityRow]) -> Option<Self> {
        let mut rows: Vec<&DensityRow> = rows.iter().collect();
        rows.sort_by(|a, b| a.coordinate.total_cmp(&b.coordinate));
        let mut mass = 0.0;
        let steps = rows.windows(2).map(|pair| {
            mass += 0.5 * (pair[1].coordinate - pair[0].coordinate) * (pair[0].density + pair[1].density);
            mass
        });
        let masses: Vec<f64> = std::iter::once(0.0).chain(steps).collect();
        (mass > 0.0).then(|| Self { eigenvalues: rows.iter().map(|row| row.eigenvalue).collect(), masses })
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
        let row = |k: u32| {
            let x = f64::from(k) / 1000.0;
            DensityRow {
                block: "b".into(),
                axis: "linear".into(),
                coordinate: x,
                eigenvalue: x,
                density: 2.0 * x,
                density_per_eigenvalue: None,
                sem: None,
                axis_scale: None,
                sigma: None,
            }
        };
        let rows: Vec<DensityRow> = (0..=1000).map(row).collect();
        let distribution = Cumulative::of(&rows).unwrap();
        for share in [0.01, 0.25, 0.5, 0.9, 1.0f64] {
            assert!((distribution.quantile(share) - share.sqrt()).abs() < 1e-3, "{share}");
        }
        assert!(Cumulative::of(&rows[..1]).is_none());
    }

    #[test]
    fn scaling_keeps_order_and_reaches_both_ends() {
        let mut spectra = vec![vec![0.5, 1.5], vec![1.0, 2.5]];
        rescale(&mut spectra, [1.0, 2001.0]).unwrap();
        assert_eq!(spectra, [[1.0, 1001.0], [501.0, 2001.0]]);
        assert!(rescale(&mut [vec![3.0, 3.0]], [1.0, 2.0]).is_err());
    }
}
