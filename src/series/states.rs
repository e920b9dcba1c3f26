//! Several states of one network: checkpoints of a training run, or seeds.
//!
//! The tables `series`, `series_distances` and `series_pairs` say what each member's blocks are in numbers, how far each block is from itself in
//! the next member and in the last, and how far the blocks of a member are from one another. The study's own run has the spectra of the
//! last member.

use super::finished::{Ending, Finished, add_spectra, done};
use super::{Member, Series};
use crate::cluster::Comm;
use crate::config::{self, Config};
use crate::coordinator::Outcome;
use crate::output::{DivergenceRow, SeriesDistanceRow, SeriesPairRow, SeriesRow, SummaryRow, Tables};
use crate::shown::Url;
use crate::spectrum::{BlockSpectrum, DistanceSettings, Divergence, View, divergences_in};
use crate::storage::expand;
use crate::tables::axis_and_sigma;
use crate::worker::Progress;
use crate::{Error, Result};

/// Computes what is not there yet of all members, then the tables that compare them. Every rank calls it.
///
/// # Errors
/// Those of [`super::run`]; [`Error::Config`](crate::Error::Config) for checkpoints that are not there.
pub fn run(config: &Config, series: &config::Series, comm: &Comm, progress: &dyn Progress) -> Result<Outcome> {
    let states = States { config, states: states(config, series)?, finished: Vec::new() };
    super::run(config, states, comm, progress)
}

/// A member, and the number that orders it: a step or a seed.
#[derive(Clone)]
struct State {
    number: i64,
    label: String,
    config: Config,
}

struct States<'a> {
    config: &'a Config,
    states: Vec<State>,
    /// Those that are done, in order.
    finished: Vec<Finished>,
}

/// The members that a series names.
///
/// # Errors
/// [`Error::Config`](crate::Error::Config) for globs that match nothing, fewer than two members, and a network that has no weights.
pub fn members(config: &Config, series: &config::Series) -> Result<Vec<Config>> {
    Ok(states(config, series)?.into_iter().map(|state| state.config).collect())
}

fn states(config: &Config, series: &config::Series) -> Result<Vec<State>> {
    let member = |suffix: &str| {
        let mut member = config.clone();
        member.run.name = format!("{}-{suffix}", config.run.name);
        member.series = None;
        member
    };
    if !series.seeds.is_empty() {
        let state = |&seed: &u64| {
            let mut config = member(&format!("seed{seed}"));
            config.run.seed = seed;
            State { number: seed as i64, label: format!("seed {seed}"), config }
        };
        return Ok(series.seeds.iter().map(state).collect());
    }
    let mut places = Vec::new();
    for place in &series.checkpoints {
        let named = |error: Error| match error {
            Error::Config(text) => Error::Config(format!("series.checkpoints: {text}")),
            other => other,
        };
        places.extend(expand(place).map_err(named)?);
    }
    let mut numbered: Vec<(i64, Url)> = places.into_iter().map(|place| (number(&place), place)).collect();
    numbered.sort_by_key(|(number, _)| *number); // stable: those without a number stay in their order
    let alike = numbered.windows(2).find(|pair| pair[0].0 == pair[1].0);
    if let Some([(number, a), (_, b)]) = alike {
        return Err(Error::Config(format!(
            "series.checkpoints: `{a}` and `{b}` have the same number, {number}; expected a step in the name of each, in its file or folder"
        )));
    }
    if numbered.len() < 2 {
        let found = numbered.len();
        return Err(Error::Config(format!("series.checkpoints: found {found}; expected two or more")));
    }
    let state = |(number, place): (i64, Url)| {
        let mut config = member(&number.to_string());
        config.network = config.network.with_weights(&place)?;
        Ok(State { number, label: format!("step {number}"), config })
    };
    numbered.into_iter().map(state).collect()
}

/// The last number in the name of a file, or else of its folder: `ckpt-400.pt`, `step_400/model.safetensors`; 0 where there is none.
fn number(place: &Url) -> i64 {
    let text = place.to_string();
    let mut names = text.trim_end_matches('/').rsplit('/').take(2);
    let last = |name: &str| {
        let stem = name.split_once('.').map_or(name, |(stem, _)| stem);
        stem.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).next_back()
    };
    names.find_map(last).unwrap_or(0)
}

impl Series for States<'_> {
    fn noun(&self) -> &'static str {
        "member"
    }

    fn members(&self) -> Vec<Member> {
        self.states.iter().map(|state| Member { label: state.label.clone(), config: state.config.clone() }).collect()
    }

    fn naming(&self) -> &'static str {
        "members are named after run.name and their step or seed"
    }

    fn check(&self) -> Result<()> {
        self.states.iter().try_for_each(|state| crate::job::preflight(&state.config).map(drop))
    }

    fn judge(&mut self, member: &Member, _progress: &dyn Progress) -> Result<Option<String>> {
        self.finished.push(Finished::read(&member.config, member.config.lanczos.weights)?.without_segments());
        Ok(None)
    }

    fn tables(self, started: &str, stopped: Option<&str>, progress: &dyn Progress) -> Result<Tables> {
        progress.log(&format!("comparing {} members", self.finished.len()));
        let mut tables = Tables::default();
        for state in &self.states {
            self.push_member(&mut tables, state)?;
        }
        self.push_distances(&mut tables)?;
        let members: Vec<Config> = self.states.iter().map(|state| state.config.clone()).collect();
        if let Some(last) = members.last() {
            let ending = Ending { config: self.config, started, status: stopped.unwrap_or("done") };
            add_spectra(&mut tables, &ending, last, &members)?;
        }
        Ok(tables)
    }
}

impl States<'_> {
    /// A member's blocks in numbers, and the mean distances between them.
    fn push_member(&self, tables: &mut Tables, state: &State) -> Result<()> {
        let results = done(&state.config)?;
        tables.series.extend(results.read::<SummaryRow>()?.into_iter().map(|row| SeriesRow {
            label: state.label.clone(),
            number: state.number,
            member: state.config.run.name.clone(),
            block: row.block,
            trace: row.trace,
            trace_error: row.trace_sem,
            frobenius: row.frobenius,
            lambda_min: row.lambda_min,
            lambda_min_error: row.lambda_min_residual_bound,
            lambda_max: row.lambda_max,
            lambda_max_error: row.lambda_max_residual_bound,
            negative_mass: row.negative_mass,
            negative_energy: row.negative_energy,
            status: row.status,
        }));
        let pairs = results.read::<DivergenceRow>()?;
        let mut metrics: Vec<&str> = Vec::new();
        for row in &pairs {
            if !metrics.contains(&row.metric.as_str()) {
                metrics.push(&row.metric);
            }
        }
        for metric in metrics {
            let rows: Vec<_> = pairs.iter().filter(|row| row.metric == metric && row.block_a != row.block_b).collect();
            let values: Vec<f64> = rows.iter().filter_map(|row| row.value).collect();
            let errors: Vec<f64> = rows.iter().filter_map(|row| row.error).collect();
            let mean = |values: &[f64]| (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64);
            tables.series_pairs.push(SeriesPairRow {
                label: state.label.clone(),
                number: state.number,
                metric: metric.into(),
                mean: mean(&values),
                mean_error: mean(&errors),
                largest: values.iter().copied().reduce(f64::max),
                num_pairs: values.len() as i32,
            });
        }
        Ok(())
    }

    /// Each block beside itself in the next member and in the last, on one axis for all blocks of all members.
    fn push_distances(&self, tables: &mut Tables) -> Result<()> {
        let all: Vec<BlockSpectrum> = self.finished.iter().flat_map(|member| member.spectra.iter().cloned()).collect();
        let (axis, sigma) = axis_and_sigma(self.config);
        let view = View::new(&all, axis, sigma)?;
        let distance = &self.config.distance;
        let (metrics, grid_points) = (distance.metrics.clone(), distance.grid_points);
        let settings = DistanceSettings { metrics, axis, sigma, grid_points };
        let last = self.finished.len().saturating_sub(1);
        for at in 0..last {
            let others = if at + 1 == last { vec![last] } else { vec![at + 1, last] };
            for other in others {
                for (a, b) in self.finished[at].spectra.iter().zip(&self.finished[other].spectra) {
                    let pair = [named(a, "a"), named(b, "b")];
                    let rows = divergences_in(&view, &pair, &settings)?;
                    let apart = rows.into_iter().filter(|row| row.block_a != row.block_b);
                    tables.series_distances.extend(apart.map(|found| self.distance_row(&a.name, at, other, found)));
                }
            }
        }
        Ok(())
    }

    fn distance_row(&self, block: &str, at: usize, other: usize, found: Divergence) -> SeriesDistanceRow {
        let (a, b) = (&self.states[at], &self.states[other]);
        SeriesDistanceRow {
            block: block.into(),
            metric: found.metric.into(),
            label_a: a.label.clone(),
            label_b: b.label.clone(),
            number_a: a.number,
            number_b: b.number,
            value: found.value,
            error: found.error,
            noise_floor: found.noise_floor,
            axis_scale: found.axis_scale,
            sigma: found.sigma,
            status: found.status,
        }
    }
}

fn named(spectrum: &BlockSpectrum, name: &str) -> BlockSpectrum {
    let mut named = spectrum.clone();
    named.name = name.into();
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_read_from_names() {
        for (place, expected) in [
            ("out/ckpt-400.pt", 400),
            ("out/step_1200/model.safetensors", 1200),
            ("s3://bucket/run2/checkpoint-0030/", 30),
            ("model.safetensors", 0),
            ("gpt2-124m-5000.safetensors", 5000),
        ] {
            assert_eq!(number(&Url::from(place)), expected, "{place}");
        }
    }
}
