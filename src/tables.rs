//! Between results and rows: what a run writes, and what it reads back to go on.

mod diagonal;

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::block::{Block, Layout};
use crate::config::{self, Config};
use crate::doctor::MatmulError;
use crate::hessian::{ProductError, block_spectrum};
use crate::krylov::{Tridiagonal, packed};
use crate::metrics::StepMetrics;
use crate::output::{
    BlockRow, ComplementRow, DensityRow, DivergenceRow, MetricsRow, NodeRow, Provenance, RunRow, RunStore, SegmentRow,
    SummaryRow, Tables, TridiagonalRow, rfc3339,
};
use crate::plan::shape::Shape;
use crate::spectrum::{
    AxisChoice, BlockSpectrum, DistanceSettings, Metric, Node, Sigma, View, Weights, density, divergences, moments,
};
use crate::{Error, Result, job};

pub use diagonal::diagonal;

/// What is recorded of a run beside its numbers.
#[derive(Debug, Clone)]
pub struct RunFacts {
    /// When this call began (RFC 3339, UTC).
    pub started: String,
    /// Its duration so far.
    pub seconds: f64,
    /// Number of ranks.
    pub world: usize,
    /// Hash of the batch's tokens.
    pub batch_sha256: Option<String>,
    /// How its sweeps were cut.
    pub shape: Shape,
    /// Error of a product, block by block.
    pub errors: Vec<ProductError>,
    /// Error of the device's matrix products.
    pub matmul: MatmulError,
}

/// Resolved configuration and versions.
pub fn provenance(config: &Config) -> Result<Provenance> {
    let versions = BTreeMap::from([
        ("hesspec".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("burn".to_owned(), burn_version()?),
    ]);
    Ok(Provenance { config: config.resolved_json()?.to_string(), versions })
}

/// burn's version, which the manifest pins to one.
fn burn_version() -> Result<String> {
    let manifest: toml::Table = include_str!("../Cargo.toml")
        .parse()
        .map_err(|error| Error::Other(format!("the manifest that was built in: {error}")))?;
    let version = manifest.get("dependencies").and_then(|all| all.get("burn")?.get("version")?.as_str());
    let pinned = version.and_then(|version| version.strip_prefix('='));
    pinned
        .map(str::to_owned)
        .ok_or_else(|| Error::Other("the manifest that was built in pins no version of burn".into()))
}

/// The keys that two resolved configurations differ in, as lines for a message.
pub fn differing(stored: &str, ours: &str) -> Vec<String> {
    let parse = |text: &str| serde_json::from_str(text).unwrap_or(serde_json::Value::Null);
    let line = |(key, old, new): config::Difference| format!("{key}: there {old}, here {new}");
    config::differences(&parse(stored), &parse(ours)).into_iter().map(line).collect()
}

/// Appends the rows of one (block, probe) pair.
pub fn push_tridiagonal(rows: &mut Tables, block: &str, probe: u32, t: &Tridiagonal, seconds: &[f64]) {
    let (probe, mut seconds) = (probe as i32, seconds.iter().copied());
    for step in 0..t.steps() {
        rows.tridiagonal.push(TridiagonalRow {
            block: block.into(),
            probe,
            step: step as i32 + 1,
            alpha: t.alpha[step],
            beta: t.beta[step],
            orthogonality_loss: t.orthogonality_loss[step],
            seconds: seconds.next().unwrap_or(0.0),
        });
    }
    for (start, t) in t.complement.iter().enumerate() {
        for step in 0..t.steps() {
            rows.complement.push(ComplementRow {
                block: block.into(),
                probe,
                start: start as i32,
                step: step as i32 + 1,
                alpha: t.alpha[step],
                beta: t.beta[step],
                orthogonality_loss: t.orthogonality_loss[step],
                seconds: seconds.next().unwrap_or(0.0),
            });
        }
    }
    for (segment, matrix) in t.segments.iter().enumerate() {
        for i in 0..t.steps() {
            for j in 0..=i {
                let value = matrix[packed(i, j)];
                rows.segments.push(SegmentRow {
                    block: block.into(),
                    probe,
                    segment: segment as i32,
                    i: i as i32 + 1,
                    j: j as i32 + 1,
                    value,
                });
            }
        }
    }
}

/// The times of one step of a group.
pub fn metrics_row(group: &str, metrics: &StepMetrics) -> MetricsRow {
    let split = &metrics.split;
    MetricsRow {
        group: group.into(),
        step: metrics.step as i32,
        slots: metrics.slots as i32,
        seconds: metrics.seconds,
        seconds_products: split.products,
        seconds_reduction: split.reduction,
        seconds_reorthogonalization: split.reorthogonalization,
        seconds_io: split.io,
        tokens_per_second: metrics.tokens_per_second(),
        products_per_second: metrics.products_per_second(),
    }
}

/// The Jacobi matrices of finished groups, by block and probe.
pub fn read_groups(store: &RunStore, blocks: &[Block]) -> Result<Vec<Vec<Tridiagonal>>> {
    let names: Vec<&str> = blocks.iter().map(|block| block.name.as_str()).collect();
    let mut found = tridiagonals(&names, store.read::<TridiagonalRow>()?, &store.read::<SegmentRow>()?)?;
    let mut rows = store.read::<ComplementRow>()?;
    rows.sort_by_key(|row| (row.start, row.step));
    for (name, probes) in names.iter().zip(&mut found) {
        let of_block = rows.iter().filter(|row| row.block == *name);
        of_block.for_each(|row| place_complement(probes, row));
    }
    Ok(found)
}

/// The Jacobi matrices of these blocks, by block and probe, from the rows of a run.
pub fn tridiagonals(
    blocks: &[&str],
    mut rows: Vec<TridiagonalRow>,
    segments: &[SegmentRow],
) -> Result<Vec<Vec<Tridiagonal>>> {
    rows.sort_by_key(|row| (row.probe, row.step));
    let of_block = |block: &&str| {
        let mut probes: BTreeMap<i32, Tridiagonal> = BTreeMap::new();
        for row in rows.iter().filter(|row| row.block == *block) {
            let t = probes.entry(row.probe).or_default();
            t.alpha.push(row.alpha);
            t.beta.push(row.beta);
            t.orthogonality_loss.push(row.orthogonality_loss);
        }
        for row in segments.iter().filter(|row| row.block == *block) {
            if let Some(t) = probes.get_mut(&row.probe) {
                place_segment(t, row);
            }
        }
        if probes.is_empty() {
            return Err(Error::Other(format!("block `{block}`: no finished group holds it")));
        }
        Ok(probes.into_values().collect())
    };
    blocks.iter().map(of_block).collect()
}

/// Rows come by start and step.
fn place_complement(probes: &mut [Tridiagonal], row: &ComplementRow) {
    let Some(t) = probes.get_mut(row.probe as usize) else { return };
    t.complement.resize_with(t.complement.len().max(row.start as usize + 1), Tridiagonal::default);
    let short = &mut t.complement[row.start as usize];
    short.alpha.push(row.alpha);
    short.beta.push(row.beta);
    short.orthogonality_loss.push(row.orthogonality_loss);
}

fn place_segment(t: &mut Tridiagonal, row: &SegmentRow) {
    let (segment, steps) = (row.segment as usize, t.steps());
    if t.segments.len() <= segment {
        t.segments.resize(segment + 1, vec![0.0; packed(steps, 0)]);
    }
    let at = packed(row.i as usize - 1, row.j as usize - 1);
    if let Some(value) = t.segments[segment].get_mut(at) {
        *value = row.value;
    }
}

/// Everything that follows from the Jacobi matrices at no further product.
pub fn final_tables(
    config: &Config,
    layout: &Layout,
    blocks: &[Block],
    found: Vec<Vec<Tridiagonal>>,
    facts: &RunFacts,
) -> Result<Tables> {
    let weights = weights(config);
    let spectra = blocks
        .iter()
        .zip(&found)
        .zip(&facts.errors)
        .map(|((block, t), error)| block_spectrum(block, block.num_params(layout), t, error.eta, weights))
        .collect::<Result<Vec<_>>>()?;
    let (axis, sigma) = axis_and_sigma(config);
    let view = View::new(&spectra, axis, sigma)?;
    let mut rows = Tables::default();
    for ((block, spectrum), t) in blocks.iter().zip(&spectra).zip(&found) {
        rows.blocks.push(block_row(layout, block));
        push_nodes(&mut rows, spectrum);
        let status = push_density(&mut rows, spectrum, &view);
        rows.summary.push(summary_row(spectrum, t, status));
    }
    let parts: Vec<BlockSpectrum> =
        blocks.iter().zip(spectra).filter(|(block, _)| block.kind != "full").map(|(_, spectrum)| spectrum).collect();
    rows.divergence = distances(config, &parts)?;
    rows.runs.push(run_row(config, facts)?);
    Ok(rows)
}

/// Which weights are asked for.
pub fn weights(config: &Config) -> Weights {
    match config.lanczos.weights {
        config::WeightKind::Raw => Weights::Raw,
        config::WeightKind::VarianceReduced => Weights::VarianceReduced,
        config::WeightKind::Deflated => Weights::Deflated,
    }
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
            sem: density.sem.as_ref().map(|sem| sem[at]),
        });
    }
    density.status
}

fn summary_row(spectrum: &BlockSpectrum, tridiagonals: &[Tridiagonal], density_status: String) -> SummaryRow {
    let found = moments(spectrum);
    let status = if spectrum.is_zero() {
        "zero_block; every |node| is below the noise floor: this block's Hessian is zero to the accuracy of the products".into()
    } else {
        with_unresolved_sign(spectrum, density_status)
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
        noise_floor: found.noise_floor,
        steps_done: tridiagonals.iter().map(Tridiagonal::steps).min().unwrap_or(0) as i32,
        status,
    }
}

/// Largest share of a spectrum whose sign may be open without a word about it.
const UNRESOLVED_MASS: f64 = 0.01;

/// Adds to a status how much of the mass lies at nodes whose residual bound exceeds their distance from zero: whether
/// it counts as negative is chance.
fn with_unresolved_sign(spectrum: &BlockSpectrum, status: String) -> String {
    let of_probe = |q: &crate::spectrum::Quadrature| -> f64 {
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

fn distances(config: &Config, blocks: &[BlockSpectrum]) -> Result<Vec<DivergenceRow>> {
    if blocks.is_empty() {
        return Ok(Vec::new());
    }
    let (axis, sigma) = axis_and_sigma(config);
    let metric = |metric: &config::Metric| match metric {
        config::Metric::Js => Metric::Js,
        config::Metric::Wasserstein1 => Metric::Wasserstein1,
        config::Metric::SymklPaper => Metric::SymKlPaper,
    };
    let metrics = config.distance.metrics.iter().map(metric).collect();
    let settings = DistanceSettings { metrics, axis, sigma, grid_points: config.distance.grid_points };
    let rows = divergences(blocks, &settings)?;
    let row = |d: crate::spectrum::Divergence| DivergenceRow {
        metric: d.metric.into(),
        block_a: d.block_a,
        block_b: d.block_b,
        value: d.value,
        sem: d.sem,
        noise_floor: d.noise_floor,
        status: d.status,
    };
    Ok(rows.into_iter().map(row).collect())
}

fn run_row(config: &Config, facts: &RunFacts) -> Result<RunRow> {
    let hash = facts.batch_sha256.as_deref().unwrap_or("none");
    let reference = facts.errors.first().map_or("none", |error| error.reference);
    let largest = facts.errors.iter().map(|error| error.eta).fold(0.0, f64::max);
    let mut config_value = config.resolved_json()?;
    if let Some(table) = config_value.as_object_mut() {
        let Shape { micro_batch, slots } = facts.shape;
        let used = serde_json::json!({ "micro_batch": micro_batch, "slots": slots, "batch_sha256": hash });
        table.insert("used".into(), used);
    }
    Ok(RunRow {
        config: config_value.to_string(),
        versions: provenance(config)?.versions_json(),
        world: facts.world as i32,
        hardware: hardware(config),
        matmul_precision: format!(
            "{}; largest error of a Hessian-vector product {largest:.2e} against {reference}",
            facts.matmul
        ),
        started: facts.started.clone(),
        finished: rfc3339(SystemTime::now()),
        seconds: facts.seconds,
        status: "done".into(),
    })
}

/// Names of the accelerator, if there is one, and of the processor, and number of threads.
pub fn hardware(config: &Config) -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let accelerator = job::accelerator(config).map_or(String::new(), |name| format!("{name}, "));
    let model = model.unwrap_or_else(|| "unknown processor".into());
    format!("{accelerator}{model}, {} threads", rayon::current_num_threads())
}
