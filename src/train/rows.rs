//! The table `training`, row by row: as numbers that a stopped training keeps, and what it says at its end.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::config::Config;
use crate::doctor::MatmulError;
use crate::output::{RunRow, TrainingRow, rfc3339};
use crate::tables;

/// Numbers of a row.
pub const WIDTH: usize = 9;

/// A row as numbers; what is not there is NaN, which no held-out loss or share is that was looked at and is finite.
pub fn to_numbers(row: &TrainingRow) -> [f64; WIDTH] {
    let TrainingRow { step, samples, learning_rate, loss, gradient_norm, clipped, .. } = *row;
    let held_out = [row.held_out_loss, row.held_out_accuracy].map(|value| value.unwrap_or(f64::NAN));
    let [held_out_loss, held_out_accuracy] = held_out;
    let (step, samples, clipped) = (step as f64, samples as f64, f64::from(u8::from(clipped)));
    [step, samples, learning_rate, loss, gradient_norm, clipped, held_out_loss, held_out_accuracy, row.seconds]
}

/// The row of [`to_numbers`].
pub fn of_numbers(numbers: &[f64; WIDTH]) -> TrainingRow {
    let [step, samples, learning_rate, loss, gradient_norm, clipped, held_out_loss, held_out_accuracy, seconds] =
        *numbers;
    let there = |value: f64| (!value.is_nan()).then_some(value);
    TrainingRow {
        step: step as i64,
        samples: samples as i64,
        learning_rate,
        loss,
        gradient_norm,
        clipped: clipped != 0.0,
        held_out_loss: there(held_out_loss),
        held_out_accuracy: there(held_out_accuracy),
        seconds,
    }
}

/// Where a training has come to.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Ending {
    /// Steps that were done.
    pub steps: usize,
    /// Mean loss over the last twentieth of the steps.
    pub loss: Option<f64>,
    /// Loss over the held-out samples, as it was seen last.
    pub held_out_loss: Option<f64>,
    /// Share of them whose class was found.
    pub held_out_accuracy: Option<f64>,
    /// The step whose loss or gradient is no finite number, which ended the training.
    pub diverged: Option<usize>,
}

impl Ending {
    /// What the rows of a training say.
    pub fn of(rows: &[TrainingRow]) -> Self {
        let last = &rows[rows.len() - rows.len().div_ceil(20)..];
        let mean = last.iter().map(|row| row.loss).sum::<f64>() / last.len() as f64;
        let held_out = rows.iter().rev().find(|row| row.held_out_loss.is_some());
        let diverged = rows.last().filter(|row| !is_finite(row)).map(|row| row.step as usize);
        Self {
            steps: rows.len() - usize::from(diverged.is_some()),
            loss: mean.is_finite().then_some(mean),
            held_out_loss: held_out.and_then(|row| row.held_out_loss),
            held_out_accuracy: held_out.and_then(|row| row.held_out_accuracy),
            diverged,
        }
    }

    /// What the best of several is the smallest of: the held-out loss, or else that of the last steps. `None` for one that diverged.
    pub fn score(&self) -> Option<f64> {
        self.held_out_loss.or(self.loss).filter(|score| score.is_finite() && self.diverged.is_none())
    }
}

/// Whether a step can be gone on from.
pub fn is_finite(row: &TrainingRow) -> bool {
    row.loss.is_finite() && row.gradient_norm.is_finite()
}

/// The row of table `runs`.
///
/// # Errors
/// None for a configuration that was read.
pub fn run_row(
    config: &Config,
    used: &serde_json::Value,
    world: usize,
    matmul: MatmulError,
    started: SystemTime,
    ending: &Ending,
) -> Result<RunRow> {
    let mut written = config.resolved_json()?;
    if let Some(table) = written.as_object_mut() {
        table.insert("used".into(), used.clone());
    }
    let status = match ending.diverged {
        None => "done".into(),
        Some(step) => format!("diverged at step {step}"),
    };
    Ok(RunRow {
        config: written.to_string(),
        versions: tables::provenance(config)?.versions_json(),
        world: world as i32,
        hardware: tables::hardware(config),
        matmul_precision: matmul.to_string(),
        started: rfc3339(started),
        finished: rfc3339(SystemTime::now()),
        seconds: started.elapsed().map_or(0.0, |time| time.as_secs_f64()),
        status,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: i64, loss: f64, held_out: Option<f64>) -> TrainingRow {
        TrainingRow {
            step,
            samples: 8 * step,
            learning_rate: 0.1,
            loss,
            gradient_norm: 2.0,
            clipped: step % 2 == 0,
            held_out_loss: held_out,
            held_out_accuracy: held_out.map(|loss| loss / 10.0),
            seconds: 0.5,
        }
    }

    #[test]
    fn rows_survive_as_numbers() {
        for row in [row(1, 0.1 + 0.2, None), row(1 << 40, f64::INFINITY, Some(3.0))] {
            assert_eq!(of_numbers(&to_numbers(&row)), row);
        }
    }

    #[test]
    fn the_ending_is_the_last_twentieth_and_the_last_look() {
        let rows: Vec<TrainingRow> =
            (1..=40).map(|step| row(step, step as f64, (step % 30 == 0).then_some(5.0))).collect();
        let ending = Ending::of(&rows);
        assert_eq!((ending.loss, ending.held_out_loss, ending.diverged), (Some(39.5), Some(5.0), None));
        assert_eq!((ending.steps, ending.score()), (40, Some(5.0)));
        let diverged = Ending::of(&[row(1, 1.0, None), row(2, f64::NAN, None)]);
        assert_eq!((diverged.diverged, diverged.steps, diverged.score()), (Some(2), 1, None));
        assert_eq!(Ending::of(&[]).score(), None);
    }
}
