//! Made-up spectra: families of blocks whose eigenvalues are all known.

use hesspec::probe::{ProbeKind, probe};

/// Eigenvalues of every block.
pub const DIM: usize = 20_000;

/// Blocks that are compared with each other.
pub struct Family {
    pub name: &'static str,
    /// Eigenvalues of each block, ascending.
    pub blocks: Vec<Vec<f64>>,
}

pub fn families() -> Vec<Family> {
    let family = |name, count: usize, block: fn(usize) -> Vec<f64>| {
        let sorted = |at| {
            let mut eigenvalues = block(at);
            eigenvalues.sort_by(f64::total_cmp);
            eigenvalues
        };
        Family { name, blocks: (0..count).map(sorted).collect() }
    };
    vec![
        family("power laws", 8, |at| power_law(at, [0.4, 0.6, 0.5, 0.7, 0.45, 0.65, 0.55, 0.5][at])),
        family("steep power laws", 8, |at| power_law(at, [0.9, 1.2, 0.8, 1.0, 1.1, 1.3, 1.5, 1.1][at])),
        family("bulk and outliers", 5, bulk_and_outliers),
        family("smooth", 5, smooth),
        family("decades", 5, decades),
    ]
}

/// range k^-exponent of both signs, ranges from 0.06 to 150, the negative side smaller.
fn power_law(at: usize, exponent: f64) -> Vec<f64> {
    let range = 0.06 * 2500f64.powf(at as f64 / 7.0);
    let negative = [0.3, 0.05, 0.2, 0.1, 0.5, 0.02, 0.4, 0.15][at];
    let size = |i: usize| range * ((i / 2 + 1) as f64).powf(-exponent);
    (0..DIM).map(|i| if i % 2 == 0 { size(i) } else { -negative * size(i) }).collect()
}

/// A lopsided normal bulk and 1 to 30 outliers, 30 to 1000 times larger.
fn bulk_and_outliers(at: usize) -> Vec<f64> {
    let width = 0.02 * 10f64.powf(at as f64 / 2.0);
    let (count, size) = [(3, 1.0), (10, 3.0), (1, 10.0), (30, 0.3), (10, 1.0)][at];
    let normal = probe(ProbeKind::Gaussian, 5, "bulk", at as u32, 0..DIM);
    let bulk = normal.iter().map(|z| width * z * if *z < 0.0 { 0.5 } else { 1.0 });
    let outlier = |k: usize| 100.0 * size * width / (k as f64 + 1.0).sqrt();
    (0..count).map(outlier).chain(bulk.skip(count)).collect()
}

/// Uniform, arcsine, squares, uniform again, exponential: densities without gaps.
fn smooth(at: usize) -> Vec<f64> {
    let quantile = |u: f64| match at {
        0 => 2.0 * u - 1.0,
        1 => (std::f64::consts::PI * u).cos(),
        2 => 2.0 * u * u,
        3 => 0.2 * u - 0.1,
        _ => -u.ln(),
    };
    (0..DIM).map(|i| quantile((i as f64 + 0.5) / DIM as f64)).collect()
}

/// As many eigenvalues in each of five to seven decades, a third of them negative and smaller.
fn decades(at: usize) -> Vec<f64> {
    let (low, high) = [(-6.0, 0.0), (-4.0, 0.0), (-6.0, 1.0), (-3.0, 2.0), (-8.0, -1.0)][at];
    let size = |i: usize| 10f64.powf(low + (high - low) * (i as f64 + 0.5) / DIM as f64);
    (0..DIM).map(|i| if i % 3 == at % 3 { -0.2 * size(i) } else { size(i) }).collect()
}
