//! What a value must satisfy beyond its type; every error names the place of the value in the file.

use std::ops::Deref;

use super::{Blocks, Config, Convergence, Diagonal, Series, Sigma, Unit, as_toml};
use crate::document::{self, Node};
use crate::hessian::Reduction;
use crate::krylov::Reorthogonalize;
use crate::shown::redacted;
use crate::spectrum::Weights;
use crate::{Error, Result};

/// Checks a whole configuration; `tree` says where each value stands.
pub(super) fn check(config: &Config, tree: &Node) -> Result<()> {
    let check = Check(document::Check::document(tree));
    check.run_name(&config.run.name)?;
    check.at_least_one("run.threads", config.run.threads)?;
    check.that(
        config.run.threads.is_none_or(|threads| threads <= MOST_THREADS),
        "run.threads",
        config.run.threads.unwrap_or(0),
        "expected at most 1024",
    )?;
    let ranks = config.run.ranks.unwrap_or(1);
    check.that((1..=MOST_THREADS).contains(&ranks), "run.ranks", ranks, "expected 1 to 1024")?;
    check.that(
        ranks == 1 || config.hessian.backend.is_cpu(),
        "run.ranks",
        ranks,
        "ranks of one process share its cores; for GPUs start a rank for each with mpirun or srun",
    )?;
    if let Some(convergence) = &config.convergence {
        check.convergence(config, convergence)?;
    }
    if let Some(series) = &config.series {
        check.series(config, series)?;
    }
    check.batch(config)?;
    check.at_least_one("hessian.slots", config.hessian.slots)?;
    check.at_least_one("hessian.memory", config.hessian.memory.as_ref().map(|memory| memory.get() as usize))?;
    check.blocks(&config.blocks)?;
    check.lanczos(config)?;
    check.ending(config)?;
    check.density(config)?;
    super::train::check(config, &check)?;
    check.that(!config.distance.metrics.is_empty(), "distance.metrics", "[]", "name at least one metric")?;
    let repeated = config.distance.metrics.iter().enumerate().any(|(at, m)| config.distance.metrics[..at].contains(m));
    check.that(!repeated, "distance.metrics", as_toml(&config.distance.metrics), "name each metric once")?;
    check.that(
        (2..=MOST_GRID_POINTS).contains(&config.distance.grid_points),
        "distance.grid_points",
        config.distance.grid_points,
        "expected 2 to 100,000,000",
    )?;
    check.place("output.url", &config.output.url, config.output.url.refused())
}

/// A grid of more points does not fit in memory next to anything else.
const MOST_GRID_POINTS: usize = 100_000_000;
/// More threads than any machine has cores only fight each other.
const MOST_THREADS: usize = 1024;
/// The error falls as one over the root: more is a typing error.
const MOST_PROBES: usize = 10_000;

/// No recursion has so many steps.
const MOST_EIGENVECTORS: usize = 10_000;

/// Characters of a block's name.
const MOST_NAME: usize = 200;

/// More draws than errors have digits.
const MOST_DRAWS: u64 = 100_000;

/// What a run may be called.
const NAME_RULE: &str = "the name becomes a folder, and the value of a partition that readers of Parquet take for a number, a date or null \
     where it looks like one; expected a letter, then up to 127 of A-Z a-z 0-9 - _ . and none of the words true, false, null, \
     none, nil, na, nan, nat, inf, infinity, epoch, now, today";
/// Values that are read as something else than a text: by Arrow, DuckDB, pandas, Polars or Spark.
const NO_NAMES: [&str; 13] =
    ["true", "false", "null", "none", "nil", "na", "nan", "nat", "inf", "infinity", "epoch", "now", "today"];

/// Whether every reader of a hive partition takes it for a text.
fn is_run_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let begins = name.starts_with(|c: char| c.is_ascii_alphabetic());
    begins && name.len() <= 128 && name.chars().all(is_plain) && !NO_NAMES.contains(&name.to_ascii_lowercase().as_str())
}

/// Refuses what cannot be the name of a run. `what` it was given as.
///
/// # Errors
/// [`Error::Config`]
pub fn check_run_name(what: &str, name: &str) -> Result<()> {
    if is_run_name(name) { Ok(()) } else { Err(Error::Config(format!("{what} {name:?}: {NAME_RULE}"))) }
}

struct Check<'a>(document::Check<'a>);

impl<'a> Deref for Check<'a> {
    type Target = document::Check<'a>;

    fn deref(&self) -> &document::Check<'a> {
        &self.0
    }
}

impl Check<'_> {
    /// The name is a part of a path and of a hive partition, `run=<name>`.
    fn run_name(&self, name: &str) -> Result<()> {
        self.that(is_run_name(name), "run.name", format!("{name:?}"), NAME_RULE)
    }

    fn batch(&self, config: &Config) -> Result<()> {
        let (batch, unit) = (&config.batch, config.network.unit());
        self.spelling(config, unit)?;
        self.at_least_one(&unit.key(), batch.num_predictions())?;
        self.at_least_one("batch.stride", Some(batch.stride))?;
        self.at_least_one("batch.micro_batch", batch.micro_batch)?;
        self.at_least_one("batch.segments", batch.segments)?;
        let problem = "samples of a micro-batch depend on each other in this network, so that it is a part of the loss: give its size";
        let is_given = config.network.is_separable() || batch.micro_batch.is_some();
        self.that(is_given, "batch.micro_batch", "none", problem)?;
        let Some(predictions) = batch.num_predictions() else { return Ok(()) };
        self.that(predictions % unit.predictions == 0, &unit.key(), predictions, not_a_multiple(predictions, unit))?;
        let (samples, segments) = (predictions / unit.predictions, batch.segments.unwrap_or(1));
        let problem = format!("there are only {} to cut; expected {samples} or less", counted(samples, unit));
        self.that(segments <= samples, "batch.segments", segments, problem)
    }

    /// The batch is counted in what the data consists of.
    fn spelling(&self, config: &Config, unit: Unit) -> Result<()> {
        let (kind, key) = (config.network.data_kind(), unit.key());
        let problem = format!("[data.{kind}] is counted by {key}; use that instead");
        let is_tokens = unit.prediction == "token";
        self.that(config.batch.tokens.is_none() || is_tokens, "batch.tokens", "", &problem)?;
        self.that(config.batch.samples.is_none() || !is_tokens, "batch.samples", "", &problem)
    }

    /// One list of two or more members that differ.
    fn series(&self, config: &Config, series: &Series) -> Result<()> {
        let one = series.checkpoints.is_empty() != series.seeds.is_empty();
        self.that(one, "series", as_toml(series), "expected one of the keys checkpoints and seeds")?;
        let alone = config.convergence.is_none();
        self.that(
            alone,
            "series",
            as_toml(series),
            "a study is one of [series] and [convergence]; leave one of them out",
        )?;
        let seeds = &series.seeds;
        self.that(seeds.len() != 1, "series.seeds", as_toml(seeds), "expected two or more")?;
        let repeated = seeds.iter().enumerate().any(|(at, seed)| seeds[..at].contains(seed));
        self.that(!repeated, "series.seeds", as_toml(seeds), "name each seed once")
    }

    /// Sizes that are batches, and settings that bring the segment matrices from which errors are computed.
    fn convergence(&self, config: &Config, study: &Convergence) -> Result<()> {
        let unweighted =
            "[convergence] takes every prediction to weigh the same; leave the data's weights out, or [convergence]";
        self.that(!config.network.is_weighted(), "convergence.to", study.to, unweighted)?;
        let key = |name: &str| format!("convergence.{name}");
        let unit = config.network.unit();
        let is_multiple = study.from > 0 && study.from.is_multiple_of(unit.predictions);
        self.that(is_multiple, &key("from"), study.from, not_a_multiple(study.from, unit))?;
        let samples = study.from / unit.predictions;
        let problem = format!("errors need two {} or more", of_size(unit));
        self.that(samples >= 2, &key("from"), study.from, problem)?;
        self.that(study.factor >= 2, &key("factor"), study.factor, "expected 2 or more")?;
        let sizes = study.sizes();
        let largest = sizes.last().copied().unwrap_or(0);
        let more = largest.saturating_mul(study.factor);
        let two = study.from.saturating_mul(study.factor);
        let problem = match sizes.len() {
            0 | 1 => format!("with from = {} and factor = {} expected {two} or more", study.from, study.factor),
            _ => format!(
                "expected from = {} times a power of factor = {}; nearest: {largest} or {more}",
                study.from, study.factor
            ),
        };
        self.that(sizes.len() >= 2 && largest == study.to, &key("to"), study.to, problem)?;
        self.limits_and_names(config, study)?;
        self.fits_convergence(config, study, samples)
    }

    fn limits_and_names(&self, config: &Config, study: &Convergence) -> Result<()> {
        let key = |name: &str| format!("convergence.{name}");
        let stop = study.stop_below.unwrap_or(0.5);
        self.that(
            stop > 0.0 && stop < 1.0,
            &key("stop_below"),
            stop,
            "a share of the spectral range; expected a number between 0 and 1",
        )?;
        self.that((2..=MOST_DRAWS).contains(&study.draws), &key("draws"), study.draws, "expected 2 to 100,000")?;
        let name = format!("{}-{}", study.batches.as_ref().unwrap_or(&config.run.name), study.to);
        let problem = format!("the runs of the batches are named so: {NAME_RULE}");
        self.that(is_run_name(&name), &key("batches"), format!("{name:?}"), problem)
    }

    /// What other tables say must not contradict a study whose smallest batch has so many samples.
    fn fits_convergence(&self, config: &Config, study: &Convergence, samples: usize) -> Result<()> {
        let unit = config.network.unit();
        let (size, Unit { sample, prediction, .. }) = (config.batch.num_predictions().unwrap_or(study.to), unit);
        let problem =
            format!("[convergence] says how many {prediction}s: from {} to {}; leave it out", study.from, study.to);
        self.that(size == study.to, &unit.key(), size, problem)?;
        let segments = config.batch.segments.unwrap_or(2);
        let problem = format!(
            "[convergence] needs segments for its errors, at least 2, and its smallest batch has {samples} {sample}s"
        );
        self.that((2..=samples).contains(&segments), "batch.segments", segments, problem)?;
        self.that(
            config.hessian.reduction == Reduction::Mean,
            "hessian.reduction",
            "\"sum\"",
            "with [convergence] expected \"mean\": a sum grows with the batch, so batches could not be compared",
        )?;
        self.that(
            config.lanczos.reorthogonalize == Reorthogonalize::Full,
            "lanczos.reorthogonalize",
            "\"none\"",
            "with [convergence] expected \"full\": its errors come from segment matrices in an orthogonal basis",
        )
    }

    fn blocks(&self, blocks: &Blocks) -> Result<()> {
        for (key, globs) in [("blocks.include", &blocks.include), ("blocks.exclude", &blocks.exclude)] {
            let is_place = globs.iter().any(|glob| redacted(glob) != *glob || glob.contains("://"));
            self.that(!is_place, key, "", "expected globs on the names of blocks, no URLs")?;
        }
        if let Err(error) = blocks.filter() {
            let key = if error.to_string().starts_with("blocks.include") { "blocks.include" } else { "blocks.exclude" };
            return Err(Error::Config(format!("{}: {error}", self.origin(key))));
        }
        self.own_blocks(blocks)?;
        self.that(
            blocks.full || !blocks.include.is_empty() || !blocks.own.is_empty(),
            "blocks.include",
            "[]",
            "with full = false there is nothing to compute; name a block or set full = true",
        )
    }

    fn own_blocks(&self, blocks: &Blocks) -> Result<()> {
        for (at, own) in blocks.own.iter().enumerate() {
            let refused =
                |problem: String| Err(Error::Config(format!("{}: blocks.own: {problem}", self.origin("blocks.own"))));
            let name: String = redacted(&own.name).chars().take(MOST_NAME).collect();
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-/+".contains(c);
            if own.name.is_empty() || own.name.len() > MOST_NAME || !own.name.chars().all(is_plain) {
                return refused(format!("name {name:?}: expected 1 to {MOST_NAME} of A-Z a-z 0-9 . _ - / +"));
            }
            if own.name == "full" || blocks.own[..at].iter().any(|other| other.name == own.name) {
                return refused(format!("name {name:?} is that of another block; choose another"));
            }
            if own.include.is_empty() && own.ranges.is_empty() {
                return refused(format!("block {name:?} has neither include nor ranges; name what belongs to it"));
            }
            if own.include.iter().any(|glob| redacted(glob) != *glob || glob.contains("://")) {
                return refused(format!("block {name:?}: expected globs on the names of parameters, no URLs"));
            }
            if let Err(error) = own.filter() {
                return refused(format!("block {name:?}: {error}"));
            }
        }
        Ok(())
    }

    fn lanczos(&self, config: &Config) -> Result<()> {
        let lanczos = &config.lanczos;
        self.at_least_one("lanczos.steps", Some(lanczos.steps))?;
        self.at_least_one("lanczos.probes", Some(lanczos.probes))?;
        self.at_least_one("lanczos.full_probes", Some(lanczos.full_probes))?;
        for (key, probes) in [("lanczos.probes", lanczos.probes), ("lanczos.full_probes", lanczos.full_probes)] {
            self.that(probes <= MOST_PROBES, key, probes, format!("expected {MOST_PROBES} or less"))?;
        }
        for (key, value) in
            [("lanczos.short_starts", lanczos.short_starts), ("lanczos.short_steps", lanczos.short_steps)]
        {
            self.at_least_one(key, value)?;
            let used = value.is_none() || lanczos.weights == Weights::Deflated;
            self.that(used, key, value.unwrap_or(0), "is for weights = \"deflated\"; leave it out")?;
        }
        let starts = lanczos.short_starts.unwrap_or(1);
        self.that(starts <= MOST_PROBES, "lanczos.short_starts", starts, format!("expected {MOST_PROBES} or less"))?;
        let weights = if lanczos.weights == Weights::Deflated { "\"deflated\"" } else { "\"variance_reduced\"" };
        self.that(
            lanczos.weights == Weights::Raw || lanczos.reorthogonalize == Reorthogonalize::Full,
            "lanczos.weights",
            weights,
            "needs reorthogonalize = \"full\": without it one eigenvalue shows up as several nodes",
        )
    }

    /// What is formed from a basis needs one.
    fn ending(&self, config: &Config) -> Result<()> {
        if let Some(eigenvectors) = config.eigenvectors {
            self.size("eigenvectors.count", eigenvectors.count, MOST_EIGENVECTORS)?;
            self.has_basis(config, "[eigenvectors] are")?;
        }
        let Some(Diagonal { by }) = &config.diagonal else { return Ok(()) };
        self.that(!by.is_empty(), "diagonal.by", "[]", "name at least one of part, row, neuron, head")?;
        let repeated = by.iter().enumerate().any(|(at, kind)| by[..at].contains(kind));
        self.that(!repeated, "diagonal.by", as_toml(by), "name each of them once")?;
        let problem = "[diagonal] takes H v_1 from the first two vectors of a basis; expected 2 or more";
        self.that(config.lanczos.steps >= 2, "lanczos.steps", config.lanczos.steps, problem)?;
        self.has_basis(config, "[diagonal] is")
    }

    fn has_basis(&self, config: &Config, what: &str) -> Result<()> {
        let has = config.lanczos.reorthogonalize == Reorthogonalize::Full;
        let problem =
            format!("{what} formed from the Lanczos basis, of which this keeps two vectors; expected \"full\"");
        self.that(has, "lanczos.reorthogonalize", "\"none\"", problem)
    }

    fn density(&self, config: &Config) -> Result<()> {
        let (key, sigma) = match config.density.sigma {
            Sigma::Relative(value) => ("density.sigma.relative", value),
            Sigma::Absolute(value) => ("density.sigma.absolute", value),
        };
        self.that(sigma.is_finite() && sigma > 0.0, key, sigma, "expected a number above 0")?;
        let is_share = !matches!(config.density.sigma, Sigma::Relative(share) if share > 1.0);
        self.that(is_share, key, sigma, "a share of the axis; expected a number above 0 and at most 1")?;
        let scale = config.density.axis_scale.unwrap_or(1.0);
        self.that(
            scale > 0.0 && scale < 1e300,
            "density.axis_scale",
            scale,
            "expected a number above 0, and below 1e300",
        )
    }
}

fn not_a_multiple(found: usize, unit: Unit) -> String {
    let Unit { sample, prediction, predictions } = unit;
    let below = found / predictions * predictions;
    let nearest = if below == 0 { format!("{predictions}") } else { format!("{below} or {}", below + predictions) };
    format!(
        "{sample}s have {predictions} {prediction}s, so this must be a multiple of {predictions}; nearest: {nearest}"
    )
}

/// `3 windows of 256 tokens`, `3 images`.
fn counted(samples: usize, unit: Unit) -> String {
    format!("{samples} {}", of_size(unit))
}

/// `windows of 256 tokens`, `images`.
fn of_size(unit: Unit) -> String {
    let Unit { sample, prediction, predictions } = unit;
    if predictions == 1 { format!("{sample}s") } else { format!("{sample}s of {predictions} {prediction}s") }
}
