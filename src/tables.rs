//! Between results and rows: what a run writes, and what it reads back to go on.

mod diagonal;
mod spectral;
mod vectors;

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::block::{Block, Layout};
use crate::config::{self, Config};
use crate::data::MicroBatches;
use crate::doctor::MatmulError;
use crate::hessian::ProductError;
use crate::krylov::{Tridiagonal, packed};
use crate::metrics::StepMetrics;
use crate::output::{
    ComplementRow, MetricsRow, Provenance, RunRow, RunStore, SegmentRow, Tables, TridiagonalRow, rfc3339,
};
use crate::plan::shape::Shape;
use crate::spectrum::noise_floor;
use crate::{Error, Result, job};

pub use diagonal::{diagonal, diagonal_probes};
pub use spectral::{axis_and_sigma, spectral_tables, tables_of_spectra};
pub use vectors::push_eigenvectors;

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
    /// Samples of the batch.
    pub num_samples: usize,
    /// How its sweeps were cut.
    pub shape: Shape,
    /// Error of a product, block by block.
    pub errors: Vec<ProductError>,
    /// Error of the device's matrix products.
    pub matmul: MatmulError,
}

/// Resolved configuration and versions.
pub fn provenance(config: &Config) -> Result<Provenance> {
    provenance_of(config.resolved_json()?.to_string())
}

/// A configuration of a command of its own, and versions.
pub fn provenance_of(config: String) -> Result<Provenance> {
    let versions = BTreeMap::from([
        ("hesspec".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
        ("burn".to_owned(), burn_version()?),
    ]);
    Ok(Provenance { config, versions })
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
    tridiagonals(&names, store.read()?, &store.read()?, &store.read()?)
}

/// The Jacobi matrices of these blocks, by block and probe, from the rows of a run.
///
/// # Errors
/// [`Error::Other`] for a block without rows.
pub fn tridiagonals(
    blocks: &[&str],
    mut rows: Vec<TridiagonalRow>,
    segments: &[SegmentRow],
    complement: &[ComplementRow],
) -> Result<Vec<Vec<Tridiagonal>>> {
    rows.sort_by_key(|row| (row.probe, row.step));
    let mut found: BTreeMap<&str, BTreeMap<i32, Tridiagonal>> = BTreeMap::new();
    for row in &rows {
        let t = found.entry(&row.block).or_default().entry(row.probe).or_default();
        t.alpha.push(row.alpha);
        t.beta.push(row.beta);
        t.orthogonality_loss.push(row.orthogonality_loss);
    }
    for row in segments {
        if let Some(t) = found.get_mut(row.block.as_str()).and_then(|probes| probes.get_mut(&row.probe)) {
            place_segment(t, row);
        }
    }
    let mut complement: Vec<&ComplementRow> = complement.iter().collect();
    complement.sort_by_key(|row| (row.start, row.step));
    for row in complement {
        if let Some(t) = found.get_mut(row.block.as_str()).and_then(|probes| probes.get_mut(&row.probe)) {
            place_complement(t, row);
        }
    }
    let of_block = |block: &&str| {
        let probes = found.remove(*block);
        let probes = probes.ok_or_else(|| Error::Other(format!("block `{block}`: no finished group holds it")))?;
        Ok(probes.into_values().collect())
    };
    blocks.iter().map(of_block).collect()
}

/// Rows come by start and step.
fn place_complement(t: &mut Tridiagonal, row: &ComplementRow) {
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

/// What the noise floors of a run's blocks are noted as while it is not done.
pub const NOISE_FLOORS: &str = "noise_floors";

/// The noise floors as a note; as text, which keeps all bits.
pub fn noted_floors(blocks: &[Block], errors: &[ProductError]) -> BTreeMap<String, String> {
    let floor = |(block, error): (&Block, &ProductError)| (block.name.clone(), noise_floor(error.eta).to_string());
    blocks.iter().zip(errors).map(floor).collect()
}

/// The tables of the end of a run: everything that follows from the Jacobi matrices at no further product, and the run's row.
///
/// # Errors
/// Those of [`spectral_tables`].
pub fn final_tables(
    config: &Config,
    layout: &Layout,
    blocks: &[Block],
    found: &[Vec<Tridiagonal>],
    facts: &RunFacts,
) -> Result<Tables> {
    let floors: Vec<f64> = facts.errors.iter().map(|error| noise_floor(error.eta)).collect();
    let rows = spectral_tables(config, layout, blocks, found, &floors, &segment_shares(config, facts.num_samples)?)?;
    Ok(Tables { runs: vec![run_row(config, facts)?], ..rows })
}

/// Share of each segment in a batch of so many samples; none where predictions have weights of their own, of which the configuration
/// does not tell the sums: there are no errors of the data then.
///
/// # Errors
/// [`Error::Config`] where a segment would be empty.
pub fn segment_shares(config: &Config, num_samples: usize) -> Result<Vec<f64>> {
    if config.network.is_weighted() {
        return Ok(Vec::new());
    }
    // where micro-batches are not cut first, the boundaries of segments do not depend on their size
    let micro_batch = config.batch.micro_batch.unwrap_or(num_samples);
    Ok(MicroBatches::new(num_samples, micro_batch, config.batch.segments, config.cut())?.shares())
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
    let accelerator = job::accelerator(config).map_or(String::new(), |name| format!("{name}, "));
    format!("{accelerator}{}", processor())
}

/// Processor and threads.
pub fn processor() -> String {
    let model = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let model = model.unwrap_or_else(|| "unknown processor".into());
    format!("{model}, {} threads", rayon::current_num_threads())
}
