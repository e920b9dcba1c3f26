//! Densities, distances and moments of a run again with other settings, from its tables alone: no product, neither data nor
//! weights. What is derived is a run of its own, with its own name, and equals what a run with those settings writes, to the last bit.

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

use crate::block::Block;
use crate::config::{self, Axis, Config, Metric, Sigma};
use crate::krylov::Tridiagonal;
use crate::lock::Lock;
use crate::networks::Registry;
use crate::output::{
    ComplementRow, Results, RunResults, RunRow, RunStore, SegmentRow, SummaryRow, Tables, TridiagonalRow, rfc3339,
};
use crate::shown::Url;
use crate::spectrum::Weights;
use crate::tables::{self, NOISE_FLOORS};
use crate::{Error, Result, job};

/// What is to be different; `None` stays as it was.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// `density.axis`
    pub axis: Option<Axis>,
    /// `density.sigma`
    pub sigma: Option<Sigma>,
    /// `density.axis_scale`; inside `None`: as the run resolves it.
    pub axis_scale: Option<Option<f64>>,
    /// `distance.metrics`
    pub metrics: Option<Vec<Metric>>,
    /// `lanczos.weights`
    pub weights: Option<Weights>,
}

/// What was derived.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Derived {
    /// Its name.
    pub run: String,
    /// Where its tables are.
    pub url: Url,
    /// Blocks in them.
    pub blocks: usize,
    /// Of a run that is not done: blocks that it has not, or not with all probes.
    pub incomplete: Vec<String>,
    /// Whether it was there already.
    pub was_done: bool,
    /// Seconds of this call.
    pub seconds: f64,
}

/// Derives the run `name` from a run (the only one under the URL, or the named one).
///
/// # Errors
/// [`Error::Config`] for a run that is not there or has no Jacobi matrices, for changes that contradict each other or need what
/// the run has not, and for a name that another run has; [`Error::Storage`].
pub fn derive(
    url: &Url,
    run: Option<&str>,
    changes: &Changes,
    name: &str,
    networks: &Registry,
    log: &dyn Fn(&str),
) -> Result<Derived> {
    let (begin, started) = (Instant::now(), SystemTime::now());
    config::check_run_name("--name", name)?;
    let source = Source::read(url, run, networks)?;
    let config = changed(&source.config, changes, url, name)?;
    let mut provenance = tables::provenance(&config)?;
    provenance.config = with_origin(&provenance.config, &source)?;
    let row = source.run_row(&provenance.config, &rfc3339(started))?; // a name is not claimed for what cannot be read
    let mut store = RunStore::open(url, name, &provenance, tables::differing)?;
    let mut derived = Derived {
        run: name.into(),
        url: url.clone(),
        blocks: source.blocks.len(),
        incomplete: source.incomplete.clone(),
        was_done: store.is_done(),
        seconds: 0.0,
    };
    if !store.is_done() {
        let _lock = Lock::acquire(url, name, log)?;
        store.begin()?;
        let layout = config.network.layout()?;
        let Source { blocks, matrices, floors, shares, .. } = &source;
        let rows = tables::spectral_tables(&config, &layout, blocks, matrices, floors, shares)?;
        let (finished, seconds) = (rfc3339(SystemTime::now()), begin.elapsed().as_secs_f64());
        store.finish(&Tables { runs: vec![RunRow { finished, seconds, ..row }], ..rows })?;
    }
    derived.seconds = begin.elapsed().as_secs_f64();
    Ok(derived)
}

/// What is read of a run.
struct Source {
    run: RunResults,
    config: Config,
    /// Those with one probe or more.
    blocks: Vec<Block>,
    matrices: Vec<Vec<Tridiagonal>>,
    floors: Vec<f64>,
    shares: Vec<f64>,
    incomplete: Vec<String>,
}

impl Source {
    fn read(url: &Url, run: Option<&str>, networks: &Registry) -> Result<Self> {
        let run = Results::open(url)?.run(run)?;
        let name = run.record().run.clone();
        let record: serde_json::Value = serde_json::from_str(&run.record().config).unwrap_or_default();
        if let Some(origin) = record.get("derived").and_then(|derived| derived.get("run")?.as_str()) {
            return Err(Error::Config(format!(
                "run `{name}` at `{url}` is derived itself, from run `{origin}`; derive from that (--run {origin})"
            )));
        }
        let rows = run.read::<TridiagonalRow>()?;
        if rows.is_empty() {
            return Err(Error::Config(format!(
                "run `{name}` at `{url}` has no Jacobi matrices: no group of it is finished, or it is a study. \
                 Expected a run of `hesspec run`, or a batch of a study"
            )));
        }
        let config = config::from_json(&run.record().config, &format!("the record of run `{name}`"), &name, networks)?;
        let layout = config.network.layout()?;
        let mut blocks = job::blocks(&config, &layout)?;
        let probes = num_probes(&rows);
        let wanted = |block: &Block| if block.is_full() { config.lanczos.full_probes } else { config.lanczos.probes };
        let found = |block: &Block| probes.get(block.name.as_str()).copied().unwrap_or(0);
        let missing = blocks.iter().filter(|block| found(block) < wanted(block));
        let incomplete = missing.map(|block| block.name.clone()).collect();
        blocks.retain(|block| found(block) > 0);
        let floors = floors(&run, &blocks)?;
        let names: Vec<&str> = blocks.iter().map(|block| block.name.as_str()).collect();
        let matrices = tables::tridiagonals(&names, rows, &run.read::<SegmentRow>()?, &run.read::<ComplementRow>()?)?;
        let shares = shares(&config, &matrices)?;
        Ok(Self { run, config, blocks, matrices, floors, shares, incomplete })
    }

    /// The source's row, or what can be said of one that is not done, at the start of the derivation.
    fn run_row(&self, config: &str, started: &str) -> Result<RunRow> {
        let record = self.run.record();
        let (config, started, finished, seconds) = (config.to_owned(), started.to_owned(), started.to_owned(), 0.0);
        let status = format!("derived from run `{}`", record.run);
        if let Some(row) = self.run.read::<RunRow>()?.pop() {
            return Ok(RunRow { config, started, finished, seconds, status, ..row });
        }
        Ok(RunRow {
            config,
            versions: record.versions.clone(),
            world: 1,
            hardware: tables::hardware(&self.config),
            matmul_precision: "not recorded by a run that is not done".into(),
            started,
            finished,
            seconds,
            status: format!("{status}, which was not done: blocks without all probes: {}", self.incomplete.len()),
        })
    }
}

fn num_probes(rows: &[TridiagonalRow]) -> BTreeMap<&str, usize> {
    let mut probes = BTreeMap::new();
    rows.iter().filter(|row| row.step == 1).for_each(|row| *probes.entry(row.block.as_str()).or_default() += 1);
    probes
}

/// Noise floors of blocks: from the summary of a run that is done, else as it noted them at its start.
fn floors(run: &RunResults, blocks: &[Block]) -> Result<Vec<f64>> {
    let known: BTreeMap<String, f64> = if run.is_done() {
        run.read::<SummaryRow>()?.into_iter().map(|row| (row.block, row.noise_floor)).collect()
    } else {
        let noted: BTreeMap<String, String> = run.recall(NOISE_FLOORS)?.unwrap_or_default();
        noted.into_iter().filter_map(|(block, floor)| Some((block, floor.parse().ok()?))).collect()
    };
    let name = &run.record().run;
    let of_block = |block: &Block| {
        known.get(&block.name).copied().ok_or_else(|| {
            Error::Config(format!("run `{name}` holds no noise floor of block `{}`: let it finish first", block.name))
        })
    };
    blocks.iter().map(of_block).collect()
}

/// Shares of the segments, where matrices of them were kept.
fn shares(config: &Config, matrices: &[Vec<Tridiagonal>]) -> Result<Vec<f64>> {
    if matrices.iter().flatten().all(|t| t.segments.is_empty()) {
        return Ok(Vec::new());
    }
    let samples = config.num_samples().map_or_else(|| config.network.num_samples(&config.choice()), Ok)?;
    tables::segment_shares(config, samples)
}

fn changed(source: &Config, changes: &Changes, url: &Url, name: &str) -> Result<Config> {
    let mut config = source.clone();
    config.run.name = name.into();
    config.output.url = url.clone();
    (config.eigenvectors, config.diagonal) = (None, None); // these are not made again
    config.density.axis = changes.axis.unwrap_or(config.density.axis);
    config.density.sigma = changes.sigma.unwrap_or(config.density.sigma);
    config.density.axis_scale = changes.axis_scale.unwrap_or(config.density.axis_scale);
    if changes.axis == Some(Axis::Linear) {
        if let Some(Some(scale)) = changes.axis_scale {
            return Err(Error::Config(format!("--axis-scale {scale:?}: a linear axis has none; leave it out")));
        }
        config.density.axis_scale = None;
    }
    if let Some(metrics) = &changes.metrics {
        if let Some(twice) = metrics.iter().enumerate().find(|(at, metric)| metrics[..*at].contains(metric)) {
            return Err(Error::Config(format!("--metrics: {} is there twice; name each once", twice.1.name)));
        }
        config.distance.metrics = metrics.clone();
    }
    if let Some(weights) = changes.weights {
        if weights == Weights::Deflated && source.lanczos.weights != Weights::Deflated {
            return Err(Error::Config(
                "--weights deflated: they need short recursions, which this run has not; expected raw or variance_reduced, \
                 or a run with lanczos.weights = \"deflated\""
                    .into(),
            ));
        }
        config.lanczos.weights = weights;
    }
    Ok(config)
}

/// A record's configuration with what it was derived from: another state of the source is another configuration.
fn with_origin(config: &str, source: &Source) -> Result<String> {
    let failed = |error: serde_json::Error| Error::Other(format!("a record's configuration: {error}"));
    let mut value: serde_json::Value = serde_json::from_str(config).map_err(failed)?;
    let probes = source.matrices.iter().map(Vec::len).sum::<usize>();
    if let Some(table) = value.as_object_mut() {
        table.insert("derived".into(), serde_json::json!({ "run": source.run.record().run, "recursions": probes }));
    }
    Ok(value.to_string())
}
