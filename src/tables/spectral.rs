//! The tables that follow from Jacobi matrices: blocks, nodes, densities, distances, moments.

use crate::Result;
use crate::block::{Block, Layout};
use crate::config::{self, Config};
use crate::krylov::Tridiagonal;
use crate::output::{BlockRow, DensityRow, DivergenceRow, NodeRow, SummaryRow, Tables};
use crate::spectrum::{
    AxisChoice, BlockSpectrum, DistanceSettings, Divergence, Node, Quadrature, Sigma, View, density, divergences_in,
    moments, negative_energy,
};

/// What the Jacobi matrices `found` of `blocks` say under a configuration: one axis for all. `floors` are the blocks' noise
/// floors, `shares` those of the segments in the batch.
///
/// # Errors
/// [`Error::Numerics`](crate::Error::Numerics) for matrices that are not finite or that lack what deflated weights need; [`Error::Config`](crate::Error::Config) for an axis or
/// sigma that is not above 0.
pub fn spectral_tables(
    config: &Config,
    layout: &Layout,
    blocks: &[Block],
    found: &[Vec<Tridiagonal>],
    floors: &[f64],
    shares: &[f64],
) -> Result<Tables> {
    let spectrum = |((block, t), floor): ((&Block, &Vec<Tridiagonal>), &f64)| {
        BlockSpectrum::of(&block.name, block.num_params(layout), t, *floor, config.lanczos.weights, shares)
    };
    let spectra = blocks.iter().zip(found).zip(floors).map(spectrum).collect::<Result<Vec<_>>>()?;
    let ((axis, sigma), config::Distance { metrics, grid_points }) = (axis_and_sigma(config), config.distance.clone());
    tables_of_spectra(layout, blocks, spectra, found, &DistanceSettings { metrics, axis, sigma, grid_points })
}

/// The tables of spectra that are there: one axis for all.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for an axis or sigma that is not above 0.
pub fn tables_of_spectra(
    layout: &Layout,
    blocks: &[Block],
    spectra: Vec<BlockSpectrum>,
    found: &[Vec<Tridiagonal>],
    settings: &DistanceSettings,
) -> Result<Tables> {
    let view = View::new(&spectra, settings.axis, settings.sigma)?;
    let mut rows = Tables::default();
    for ((block, spectrum), t) in blocks.iter().zip(&spectra).zip(found) {
        rows.blocks.push(block_row(layout, block));
        push_nodes(&mut rows, spectrum);
        let status = push_density(&mut rows, spectrum, &view);
        rows.summary.push(summary_row(spectrum, t, status));
    }
    let parts: Vec<BlockSpectrum> =
        blocks.iter().zip(spectra).filter(|(block, _)| !block.is_full()).map(|(_, spectrum)| spectrum).collect();
    if !parts.is_empty() {
        rows.divergence = divergences_in(&view, &parts, settings)?.into_iter().map(divergence_row).collect();
    }
    Ok(rows)
}

/// How densities are to be drawn.
pub fn axis_and_sigma(config: &Config) -> (AxisChoice, Sigma) {
    let axis = match config.density.axis {
        config::Axis::Asinh => AxisChoice::Asinh(config.density.axis_scale),
        config::Axis::Linear => AxisChoice::Linear,
    };
    let sigma = match config.density.sigma {
        config::Sigma::Relative(share) => Sigma::Relative(Some(share)),
        config::Sigma::Absolute(sigma) => Sigma::Absolute(sigma),
    };
    (axis, sigma)
}

fn block_row(layout: &Layout, block: &Block) -> BlockRow {
    let shapes: Vec<Vec<usize>> = block.pieces.iter().map(|piece| piece.shape(layout)).collect();
    let shape = match shapes.as_slice() {
        [shape] => format!("{shape:?}"),
        _ => format!("{} tensors", shapes.len()),
    };
    BlockRow {
        block: block.name.clone(),
        kind: block.kind.clone(),
        layer: block.layer.map(|layer| layer as i32),
        shape,
        num_params: block.num_params(layout) as i64,
        offset: block.offset(layout) as i64,
    }
}

fn push_nodes(rows: &mut Tables, spectrum: &BlockSpectrum) {
    for (probe, quadrature) in spectrum.probes.iter().enumerate() {
        for (index, node) in quadrature.nodes.iter().enumerate() {
            rows.nodes.push(NodeRow {
                block: spectrum.name.clone(),
                probe: probe as i32,
                node_index: index as i32,
                node: node.node,
                weight: node.weight,
                weight_reduced: node.weight_reduced,
                residual_bound: node.residual_bound,
                converged: node.converged,
                below_noise_floor: node.below_noise_floor,
            });
        }
    }
}

/// Returns the density's status.
fn push_density(rows: &mut Tables, spectrum: &BlockSpectrum, view: &View) -> String {
    let density = density(spectrum, view);
    for at in 0..density.coordinate.len() {
        rows.density.push(DensityRow {
            block: density.block.clone(),
            axis: density.axis.into(),
            coordinate: density.coordinate[at],
            eigenvalue: density.eigenvalue[at],
            density: density.density[at],
            density_per_eigenvalue: Some(density.per_eigenvalue[at]),
            sem: density.sem.as_ref().map(|sem| sem[at]),
            axis_scale: view.axis.scale(),
            sigma: Some(view.sigma),
        });
    }
    density.status
}

fn summary_row(spectrum: &BlockSpectrum, tridiagonals: &[Tridiagonal], density_status: String) -> SummaryRow {
    let found = moments(spectrum);
    let status = if spectrum.is_zero() {
        "zero_block; every |node| is below the noise floor: this block's Hessian is zero to the accuracy of the products".into()
    } else {
        with_refused_weights(spectrum, with_unresolved_sign(spectrum, density_status))
    };
    SummaryRow {
        block: spectrum.name.clone(),
        trace: found.trace,
        trace_sem: Some(found.trace_sem),
        frobenius: found.frobenius,
        lambda_min: found.lambda_min,
        lambda_min_residual_bound: found.lambda_min_residual,
        lambda_max: found.lambda_max,
        lambda_max_residual_bound: found.lambda_max_residual,
        negative_mass: found.negative_mass,
        negative_energy: negative_energy(spectrum),
        noise_floor: found.noise_floor,
        steps_done: tridiagonals.iter().map(Tridiagonal::steps).min().unwrap_or(0) as i32,
        status,
    }
}

/// Adds to a status which probes have no deflated weights.
fn with_refused_weights(spectrum: &BlockSpectrum, status: String) -> String {
    let refused: Vec<String> =
        (0..spectrum.probes.len()).filter(|at| spectrum.probes[*at].is_refused).map(|at| at.to_string()).collect();
    if refused.is_empty() {
        return status;
    }
    let why = format!(
        "deflated_weights_refused; those of probe {} would contradict the moments that were measured, so its nodes have raw weights; \
         take more lanczos.steps or lanczos.short_starts",
        refused.join(", ")
    );
    if status == "ok" { why } else { format!("{status}; {why}") }
}

/// Largest share of a spectrum whose sign may be open without a word about it.
const UNRESOLVED_MASS: f64 = 0.01;

/// Adds to a status how much of the mass lies at nodes whose residual bound exceeds their distance from zero: whether
/// it counts as negative is chance.
fn with_unresolved_sign(spectrum: &BlockSpectrum, status: String) -> String {
    let of_probe = |q: &Quadrature| -> f64 {
        q.nodes.iter().filter(|n| n.node.abs() < n.residual_bound).map(Node::effective_weight).sum()
    };
    let mass = spectrum.probes.iter().map(of_probe).sum::<f64>() / spectrum.probes.len() as f64;
    if mass <= UNRESOLVED_MASS {
        return status;
    }
    let open = format!(
        "sign_unresolved; {mass:.4} of the mass lies nearer to zero than its residual bound, so negative_mass is known to \
         that only; take more lanczos.steps"
    );
    if status == "ok" { open } else { format!("{status}; {open}") }
}

fn divergence_row(found: Divergence) -> DivergenceRow {
    DivergenceRow {
        metric: found.metric.into(),
        block_a: found.block_a,
        block_b: found.block_b,
        value: found.value,
        sem: found.sem,
        error: found.error,
        noise_floor: found.noise_floor,
        axis_scale: found.axis_scale,
        sigma: found.sigma,
        status: found.status,
    }
}
