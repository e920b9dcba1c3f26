//! Trainings with several learning rates, each a run of its own, and which of them is best.

use serde::Serialize;

use super::{Outcome, train};
use crate::cluster::Comm;
use crate::config::{self, Config};
use crate::document::Each;
use crate::worker::Progress;
use crate::{Error, Result};

/// Characters of a learning rate in a name.
const MOST_DIGITS: usize = 12;

/// How all trainings of a configuration ended.
#[derive(Debug, Clone, Serialize)]
pub struct Trained {
    /// One for each learning rate, in the order of the configuration.
    pub runs: Vec<Outcome>,
    /// Name of the one with the smallest held-out loss or, where nothing is held out, the smallest loss of the last steps.
    pub best: String,
}

/// Trains what the configuration asks for and is not there yet, learning rate after learning rate. Every rank of `comm` calls it.
///
/// # Errors
/// Those of a single training: [`Error::Config`] if the place holds a run of its name with another configuration,
/// [`Error::Environment`] if it does not fit in memory, [`Error::Storage`], [`Error::Interrupted`]; and [`Error::Numerics`] if every
/// one of them diverged.
pub fn run(config: &Config, comm: &Comm, progress: &dyn Progress) -> Result<Trained> {
    let members = members(config)?;
    let mut runs = Vec::with_capacity(members.len());
    for (config, rate) in &members {
        let outcome = train(config, *rate, comm, progress)?;
        if let Some(step) = outcome.ending.diverged.filter(|_| comm.is_root()) {
            let run = &outcome.run;
            progress.log(&format!("run `{run}` diverged: the loss or gradient of step {step} is no finite number"));
        }
        runs.push(outcome);
    }
    let scored = runs.iter().filter_map(|outcome| Some((outcome.ending.score()?, &outcome.run)));
    let best = scored.min_by(|(a, _), (b, _)| a.total_cmp(b)).map(|(_, run)| run.clone());
    let best = best.ok_or_else(|| diverged(&runs))?;
    Ok(Trained { runs, best })
}

/// The configuration of each training, with its learning rate. One that is given alone keeps the run's name.
fn members(config: &Config) -> Result<Vec<(Config, f64)>> {
    let train = config.training()?;
    let Each::List(rates) = &train.learning_rate else {
        return Ok(train.learning_rate.numbers().iter().map(|rate| (config.clone(), *rate)).collect());
    };
    let member = |rate: &f64| {
        let mut member = config.clone();
        member.run.name = format!("{}-lr{}", config.run.name, written(*rate));
        config::check_run_name("train.learning_rate: the run", &member.run.name)?;
        if let Some(train) = &mut member.train {
            train.learning_rate = Each::Same(*rate);
        }
        Ok((member, *rate))
    };
    rates.iter().map(member).collect()
}

/// `0.001`; only numbers with many zeros are `1e-20`.
fn written(rate: f64) -> String {
    let plain = rate.to_string();
    if plain.len() <= MOST_DIGITS { plain } else { format!("{rate:e}") }
}

fn diverged(runs: &[Outcome]) -> Error {
    let shown = |outcome: &Outcome| {
        let step = outcome.ending.diverged.unwrap_or(outcome.ending.steps);
        format!("run `{}` at step {step}", outcome.run)
    };
    let shown: Vec<String> = runs.iter().map(shown).collect();
    Error::Numerics(format!(
        "the loss or the gradient is no finite number: {}. Take a smaller train.learning_rate or a train.clip, under another run.name",
        shown.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::networks::Registry;

    fn names(rates: &str) -> Vec<(String, f64)> {
        let text = format!(
            "[run]\nname = \"r\"\n[model.gpt2]\n[data.tokens]\npath = \"x\"\n[train]\nsteps = 8\nbatch = 1\noptimizer = \"sgd\"\n\
             learning_rate = {rates}\n"
        );
        let config = config::parse(&text, "test", "test", &[], &Registry::built_in()).unwrap();
        let members = members(&config).unwrap();
        assert!(members.iter().all(|(config, rate)| config.training().unwrap().learning_rate == Each::Same(*rate)));
        members.into_iter().map(|(config, rate)| (config.run.name, rate)).collect()
    }

    #[test]
    fn each_of_several_has_a_name_of_its_own() {
        assert_eq!(names("1e-3"), [("r".into(), 1e-3)]);
        assert_eq!(names("[1e-3, 0.25]"), [("r-lr0.001".into(), 1e-3), ("r-lr0.25".into(), 0.25)]);
        assert_eq!(names("[3e-6]"), [("r-lr0.000003".into(), 3e-6)]);
        assert_eq!(names("[1e200, 1e-20]"), [("r-lr1e200".into(), 1e200), ("r-lr1e-20".into(), 1e-20)]);
    }
}
