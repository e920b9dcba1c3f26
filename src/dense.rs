//! Dense Hessians of small blocks, row by row from products with unit vectors: what spectra are computed of, to be looked at as a whole.
//!
//! Owns the products, the check of symmetry and the life of the tables `dense` and `dense_shares`; `shares` owns how much of
//! a matrix lies between which of its parts. The rows are written a group at a time, so that an interrupted call goes on where
//! it stopped.

mod condition;
mod shares;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::{Instant, SystemTime};

pub use condition::{Condition, condition};
pub use shares::{Part, Share, parts, shares};

use crate::block::Block;
use crate::cluster::solo;
use crate::config::Config;
use crate::engine::Kernels;
use crate::hessian::{BlockOperator, Precision};
use crate::job::{self, Job, On, Task};
use crate::krylov::Real;
use crate::lock::Lock;
use crate::output::{DenseBlockRow, DenseRow, DenseShareRow, RunRow, RunStore, Tables, rfc3339};
use crate::shown::Url;
use crate::{Error, Result, plan, tables};

/// Rows and columns of the largest matrix: 3.2 GB in f64.
const MOST_ROWS: usize = 20_000;
/// Entries that are written at a time: 32 MiB.
const ENTRIES_PER_GROUP: usize = 1 << 22;
/// Unit vectors that share a pass where `hessian.slots` does not say.
const DEFAULT_SLOTS: usize = 16;
/// What is added to the name of a run, so that its spectra can lie beside its matrices.
const SUFFIX: &str = "-dense";

/// What was computed.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Findings {
    /// The name of its tables.
    pub run: String,
    /// Where they are.
    pub url: Url,
    /// One for each block.
    pub blocks: Vec<Finding>,
    /// Whether they were there already.
    pub was_done: bool,
    /// Seconds of this call.
    pub seconds: f64,
}

/// The Hessian of a block in numbers.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Finding {
    /// Its name.
    pub block: String,
    /// Rows, and columns.
    pub num_params: usize,
    /// |H|_F.
    pub frobenius: f64,
    /// |H - H'|_F / |H|_F: rounding, since H is symmetric. `None` for a zero block.
    pub asymmetry: Option<f64>,
    /// Parts that it is cut into.
    pub num_parts: usize,
    /// Share of the squared entries that lie between different parts; `None` for a zero block.
    pub off_diagonal: Option<f64>,
    /// Share of the entries that lie there.
    pub off_diagonal_entries: f64,
    /// Condition numbers; `None` for more than 1,500 parameters, and without curvature.
    pub condition: Option<Condition>,
    /// `ok`, or what happened and what to do.
    pub status: String,
}

/// Computes the Hessians of all blocks of a configuration, or goes on with them. `progress` hears of (rows done, rows in all).
///
/// # Errors
/// [`Error::Config`] for a block with more than 20,000 parameters, and for a name that another configuration has; those of the data
/// and of the weights; [`Error::Storage`].
pub fn dense(config: &Config, progress: &dyn Fn(usize, usize), log: &dyn Fn(&str)) -> Result<Findings> {
    job::dispatch(config, Matrices { progress, log })
}

struct Matrices<'a> {
    progress: &'a dyn Fn(usize, usize),
    log: &'a dyn Fn(&str),
}

impl Task for Matrices<'_> {
    type Output = Findings;

    fn run<K: Kernels, T: Precision>(self, config: &Config, on: On<'_, K, T>) -> Result<Findings> {
        let (begin, started) = (Instant::now(), SystemTime::now());
        let job = Job::open(config, &on, plan::micro_batch(config)?)?;
        let all_parts = job::partitioned(config, &job.layout)?;
        let sizes: Vec<usize> = job.blocks.iter().map(|block| block.num_params(&job.layout)).collect();
        check_sizes(&job.blocks, &sizes)?;
        let all_parts: Vec<Vec<Part>> =
            job.blocks.iter().map(|block| parts(&job.layout, block, &all_parts)).collect::<Result<_>>()?;
        let (url, run) = (&config.output.url, format!("{}{SUFFIX}", config.run.name));
        let mut provenance = tables::provenance(config)?;
        provenance.config = marked(&provenance.config)?;
        let mut store = RunStore::open(url, &run, &provenance, tables::differing)?;
        let was_done = store.is_done();
        let _lock = if was_done { None } else { Some(Lock::acquire(url, &run, self.log)?) };
        if !was_done {
            store.begin()?;
        }
        let comm = solo::comm();
        let mut rows = known_rows(&store)?;
        let total = sizes.iter().sum();
        let mut done = rows.values().map(Vec::len).sum();
        (self.progress)(done, total);
        let (mut blocks, mut share_rows) = (Vec::new(), Vec::new());
        for (index, (block, num_params)) in job.blocks.iter().zip(&sizes).enumerate() {
            let mut matrix = rows.remove(&block.name).unwrap_or_default();
            let mut operator = job.operator(&comm);
            let slots = config.hessian.slots.unwrap_or(DEFAULT_SLOTS);
            while matrix.len() < *num_params {
                let first = matrix.len();
                let count = (ENTRIES_PER_GROUP / num_params).clamp(1, num_params - first);
                let group =
                    unit_products(&mut operator, block, first..first + count, *num_params, slots, &mut |more| {
                        done += more;
                        (self.progress)(done, total);
                    })?;
                store.write_group(&format!("b{index:05}-r{first:05}"), &rows_of(&block.name, first, &group))?;
                matrix.extend(group);
            }
            let shares = shares(&all_parts[index], &matrix);
            let gradient = operator.gradient(block)?.values;
            let condition = condition(&matrix, &gradient, T::UNIT_ROUNDOFF)?;
            let found = finding(block, &matrix, &all_parts[index], &shares, T::UNIT_ROUNDOFF);
            blocks.push(Finding { condition, ..found });
            share_rows.extend(shares.iter().map(|share| share_row(&block.name, &all_parts[index], share)));
        }
        if !was_done {
            let status: Vec<String> = blocks
                .iter()
                .filter(|block| block.status != "ok")
                .map(|block| format!("{}: {}", block.block, block.status))
                .collect();
            let row = RunRow {
                config: provenance.config.clone(),
                versions: provenance.versions_json(),
                world: 1,
                hardware: tables::hardware(config),
                matmul_precision: "not measured".into(),
                started: rfc3339(started),
                finished: rfc3339(SystemTime::now()),
                seconds: begin.elapsed().as_secs_f64(),
                status: if status.is_empty() { "done".into() } else { status.join("; ") },
            };
            let dense_blocks = blocks.iter().map(block_row).collect();
            let tables = Tables { runs: vec![row], dense_blocks, dense_shares: share_rows, ..Tables::default() };
            store.finish_apart(&tables)?;
        }
        Ok(Findings { run, url: url.clone(), blocks, was_done, seconds: begin.elapsed().as_secs_f64() })
    }
}

fn check_sizes(blocks: &[Block], sizes: &[usize]) -> Result<()> {
    match blocks.iter().zip(sizes).find(|(_, size)| **size > MOST_ROWS) {
        None => Ok(()),
        Some((block, size)) => Err(Error::Config(format!(
            "block `{}` has {size} parameters; expected at most {MOST_ROWS} for a dense Hessian. Choose smaller blocks with \
             blocks.include, blocks.full = false or [[blocks.own]], or a smaller network",
            block.name
        ))),
    }
}

/// A record's configuration that no run of spectra has.
fn marked(config: &str) -> Result<String> {
    let failed = |error: serde_json::Error| Error::Other(format!("a record's configuration: {error}"));
    let mut value: serde_json::Value = serde_json::from_str(config).map_err(failed)?;
    if let Some(table) = value.as_object_mut() {
        table.insert("command".into(), "dense".into());
    }
    Ok(value.to_string())
}

/// Rows of finished groups by block; groups of a block are written in the order of its rows.
fn known_rows(store: &RunStore) -> Result<BTreeMap<String, Vec<Vec<f64>>>> {
    let mut rows = store.read::<DenseRow>()?;
    rows.sort_by_key(|row| row.row);
    let mut known: BTreeMap<String, Vec<Vec<f64>>> = BTreeMap::new();
    rows.into_iter().for_each(|row| known.entry(row.block).or_default().push(row.values));
    Ok(known)
}

/// H e_i for a range of i: columns of H, and rows, since it is symmetric.
fn unit_products<'a, K: Kernels, T: Precision>(
    operator: &mut BlockOperator<'a, K, T>,
    block: &'a Block,
    range: std::ops::Range<usize>,
    num_params: usize,
    slots: usize,
    advance: &mut dyn FnMut(usize),
) -> Result<Vec<Vec<f64>>> {
    let unit = |at: usize| {
        let mut vector = vec![<T as Real>::from_f64(0.0); num_params];
        vector[at] = <T as Real>::from_f64(1.0);
        vector
    };
    let mut rows = Vec::with_capacity(range.len());
    let all: Vec<usize> = range.collect();
    for group in all.chunks(slots.max(1)) {
        operator.slots = vec![block; group.len()];
        let products = operator.products(&group.iter().map(|at| unit(*at)).collect::<Vec<_>>())?;
        rows.extend(products.iter().map(|product| product.iter().map(|x| x.to_f64()).collect()));
        advance(group.len());
    }
    Ok(rows)
}

fn rows_of(block: &str, first: usize, rows: &[Vec<f64>]) -> Tables {
    let row = |(at, values): (usize, &Vec<f64>)| DenseRow {
        block: block.into(),
        row: (first + at) as i64,
        values: values.clone(),
    };
    Tables { dense: rows.iter().enumerate().map(row).collect(), ..Tables::default() }
}

fn block_row(found: &Finding) -> DenseBlockRow {
    DenseBlockRow {
        block: found.block.clone(),
        num_params: found.num_params as i64,
        frobenius: found.frobenius,
        asymmetry: found.asymmetry,
        parts: found.num_parts as i32,
        off_diagonal: found.off_diagonal,
        rank: found.condition.map(|condition| condition.rank as i64),
        kappa: found.condition.map(|condition| condition.kappa),
        kappa_adam: found.condition.map(|condition| condition.kappa_adam),
        status: found.status.clone(),
    }
}

fn share_row(block: &str, parts: &[Part], share: &Share) -> DenseShareRow {
    let (a, b) = (&parts[share.part_a], &parts[share.part_b]);
    DenseShareRow {
        block: block.into(),
        part_a: a.name.clone(),
        part_b: b.name.clone(),
        first_a: a.first() as i64,
        first_b: b.first() as i64,
        num_entries: share.num_entries as i64,
        frobenius_squared: share.frobenius_squared,
        share: share.share,
    }
}

fn finding(block: &Block, matrix: &[Vec<f64>], parts: &[Part], shares: &[Share], unit_roundoff: f64) -> Finding {
    let squared: f64 = matrix.iter().flatten().map(|x| x * x).sum();
    let defect: f64 = (0..matrix.len())
        .flat_map(|i| (0..i).map(move |j| (i, j)))
        .map(|(i, j)| 2.0 * (matrix[i][j] - matrix[j][i]).powi(2))
        .sum();
    let asymmetry = (squared > 0.0).then(|| (defect / squared).sqrt());
    let between = || shares.iter().filter(|share| share.part_a != share.part_b);
    let entries: usize = between().map(|share| share.num_entries).sum();
    Finding {
        block: block.name.clone(),
        num_params: matrix.len(),
        frobenius: squared.sqrt(),
        asymmetry,
        num_parts: parts.len(),
        off_diagonal: (squared > 0.0).then(|| between().filter_map(|share| share.share).fold(0.0, |sum, x| sum + x)), // not -0
        off_diagonal_entries: entries as f64 / (matrix.len() * matrix.len()) as f64,
        condition: None,
        status: status(asymmetry, unit_roundoff),
    }
}

/// Roundings, of sums over samples and layers, that a symmetric product may have.
const ROUNDINGS: f64 = 1e4;

fn status(asymmetry: Option<f64>, unit_roundoff: f64) -> String {
    match asymmetry {
        None => "zero_block: every entry is 0".into(),
        Some(asymmetry) if asymmetry > ROUNDINGS * unit_roundoff => format!(
            "not_symmetric: |H - H'| is {asymmetry:.1e} of |H|, more than rounding of a block of ordinary curvature; compute it \
             with hessian.precision = \"f64\""
        ),
        Some(_) => "ok".into(),
    }
}
