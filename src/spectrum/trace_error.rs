//! How far a trace that was estimated with random start vectors may be off: known from the spectrum, also for one probe.
//!
//! For a normalised Gaussian v in d dimensions d v'Hv has the mean tr H and the variance 2 d/(d + 2) (|H|_F^2 - (tr H)^2/d);
//! for Rademacher entries it is 2 (|H|_F^2 - sum_i H_ii^2). 2 (|H|_F^2 - (tr H)^2/d) bounds both, and is what is used. Probes
//! are independent, so their mean has 1/n of it. |H|_F^2 comes from the same probes, as d |H v|^2 does: where a few
//! eigenvalues carry it, a probe that hardly meets them knows too little of it. But Lanczos finds such eigenvalues all the same,
//! so that each converged one counts at least once.
//!
//! With deflated weights the converged eigenvalues in the trace are exact, and what is left of the Hessian is seen by the probe
//! and by all short recursions.

use super::reduce::converged;
use super::{BlockSpectrum, Quadrature, stats};

/// The standard deviation of d mean(alpha_1) over probes, or a bound of it; and, added in squares, what the noise floor means
/// for a trace: an error of eta in H v, in no special direction, is one of sqrt(d) eta in d v'Hv.
pub fn trace_error(block: &BlockSpectrum) -> f64 {
    let dim = block.dim as f64;
    let parts: Vec<Part> = block.probes.iter().map(|probe| Part::new(probe, dim, block.noise_floor)).collect();
    let mean = |of: fn(&Part) -> f64| stats::mean(&parts.iter().map(of).collect::<Vec<_>>());
    let missed = (mean(|part| part.certain) - mean(|part| part.seen)).max(0.0);
    let squares = mean(|part| part.spread) + missed;
    let starts: f64 = parts.iter().map(|part| part.starts).sum();
    (2.0 * squares / starts).sqrt().hypot(dim.sqrt() * block.noise_floor)
}

/// What one probe says of the sum of squared eigenvalues, but for those that are exact in its trace.
struct Part {
    /// |H|_F^2 - (tr H)^2 / d of what is not exact; not negative.
    spread: f64,
    /// The share of converged eigenvalues in that sum, as the probe's weights have it.
    seen: f64,
    /// Their squares, each once.
    certain: f64,
    /// Start vectors that the trace is a mean over.
    starts: f64,
}

impl Part {
    fn new(probe: &Quadrature, dim: f64, noise_floor: f64) -> Self {
        let (known, starts) = probe.deflated.as_ref().map_or((&[][..], 1), |d| (d.known.as_slice(), d.start_vectors));
        let square_of_known: f64 = known.iter().map(|x| x * x).sum();
        let left = dim - known.len() as f64;
        let square = (dim * probe.second_moment - square_of_known).max(0.0);
        let trace = dim * probe.first_moment - known.iter().sum::<f64>();
        let spread = if left > 0.0 { (square - trace * trace / left).max(0.0) } else { 0.0 };
        let found = probe.nodes.iter().zip(converged(probe, noise_floor)).filter(|(_, converged)| *converged);
        let open: Vec<_> = found.map(|(node, _)| node).filter(|node| !known.contains(&node.node)).collect();
        Self {
            spread,
            seen: open.iter().map(|n| dim * n.weight * n.node * n.node).sum(),
            certain: open.iter().map(|n| n.node * n.node).sum(),
            starts: starts as f64,
        }
    }
}
