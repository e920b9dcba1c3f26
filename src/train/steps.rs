//! The steps of a training, one after the other: gradient, clipping, update, a look at what is held out, and what is written.

use std::time::Instant;

use super::optimizer::{Optimizer, Rule, clip};
use super::schedule::learning_rate;
use super::state::States;
use super::{files, rows};
use crate::block::Layout;
use crate::cluster::signal;
use crate::config::{Config, Train};
use crate::datasets::Draw;
use crate::engine::Kernels;
use crate::hessian::{Descent, Precision, Slope};
use crate::lock::Lock;
use crate::networks::Instance;
use crate::output::TrainingRow;
use crate::worker::Progress;
use crate::{Error, Result};

/// A training under way.
pub struct Steps<'a, K: Kernels, T: Precision> {
    /// The run.
    pub config: &'a Config,
    /// Its `[train]`.
    pub train: &'a Train,
    /// Largest learning rate.
    pub rate: f64,
    /// Which samples a step has.
    pub draw: Draw,
    /// Losses and gradients on these.
    pub descent: &'a Descent<'a, K, T>,
    /// On the held-out samples.
    pub unseen: Option<&'a Descent<'a, K, T>>,
    /// Writes files of weights.
    pub instance: &'a dyn Instance<K, T>,
    /// The flat order of what follows.
    pub layout: &'a Layout,
    /// On rank 0.
    pub states: Option<&'a States>,
    /// On rank 0.
    pub lock: Option<&'a Lock>,
    /// Who hears of it.
    pub progress: &'a dyn Progress,
    /// As they are.
    pub parameters: Vec<T>,
    /// Updates them.
    pub optimizer: Optimizer<T>,
    /// One for each step that is done.
    pub rows: Vec<TrainingRow>,
}

impl<K: Kernels, T: Precision> Steps<'_, K, T> {
    /// All that are left, up to the first one whose loss or gradient is no finite number.
    ///
    /// # Errors
    /// Those of the data, the exchange and the storage; [`Error::Interrupted`] on all ranks after a stop signal on any.
    pub fn all(&mut self) -> Result<()> {
        let (is_root, every) = (self.descent.comm.is_root(), self.config.checkpoint.every.duration());
        let per_step = self.draw.per_step() as u64;
        self.announce(is_root);
        if self.rows.is_empty() {
            self.write_files()?;
        }
        let mut saved = Instant::now();
        let first = self.rows.len();
        for step in first..self.train.steps {
            let stop = self.step(step)?;
            let Some(row) = self.rows.last().filter(|row| rows::is_finite(row)) else { return Ok(()) };
            if is_root {
                let message = format!("step {} of {}: {}", step + 1, self.train.steps, shown(row, &self.rows));
                self.progress.advance(&message, (step as u64 + 1) * per_step);
            }
            self.write_files()?;
            if stop || saved.elapsed() >= every {
                self.save(stop)?;
                saved = Instant::now();
            }
        }
        Ok(())
    }

    fn announce(&self, is_root: bool) {
        if !is_root {
            return;
        }
        let (train, per_step, done) = (self.train, self.draw.per_step(), self.rows.len());
        let (run, unit) = (&self.config.run.name, self.config.network.unit().sample);
        let (kind, params) = (self.config.network.network_kind(), self.layout.num_params());
        let resumed = if done > 0 { format!("; resumed after step {done}") } else { String::new() };
        self.progress.log(&format!(
            "run `{run}`: {kind}, {params} parameters; {} steps of {} {unit}s in {per_step} micro-batches, learning rate {}{resumed}",
            train.steps, train.batch, self.rate
        ));
        self.progress.begin((train.steps * per_step) as u64);
        self.progress.skip((done * per_step) as u64);
    }

    /// Step `step`, from 0: its loss and gradient, the update, what the held-out samples say. Whether any rank was asked to stop.
    fn step(&mut self, step: usize) -> Result<bool> {
        let (begin, comm) = (Instant::now(), self.descent.comm);
        let vote = f64::from(u8::from(signal::requested().is_some()));
        let Slope { loss, mut gradient, votes } =
            self.descent.slope(&self.parameters, self.draw.of_step(step), vote)?;
        let (gradient_norm, clipped) = clip(&mut gradient, self.train.clip);
        let mut rate = [learning_rate(self.train, self.rate, step)];
        comm.broadcast(0, &mut rate)?; // a cosine need not be the same on every machine
        let mut row = TrainingRow {
            step: step as i64 + 1,
            samples: ((step + 1) * self.train.batch) as i64,
            learning_rate: rate[0],
            loss,
            gradient_norm,
            clipped,
            held_out_loss: None,
            held_out_accuracy: None,
            seconds: 0.0,
        };
        if rows::is_finite(&row) {
            self.optimizer.update(&mut self.parameters, &gradient, rate[0]);
            row.seconds = begin.elapsed().as_secs_f64();
            if let Some(unseen) = self.unseen.filter(|_| self.looks_after(step + 1)) {
                let (loss, accuracy) = unseen.evaluate(&self.parameters)?;
                (row.held_out_loss, row.held_out_accuracy) = (loss.is_finite().then_some(loss), accuracy);
            }
        }
        self.rows.push(row);
        Ok(votes > 0.0)
    }

    /// Whether the held-out samples are looked at after so many steps.
    fn looks_after(&self, steps: usize) -> bool {
        let every = self.train.held_out.as_ref().map_or(usize::MAX, |held_out| held_out.every);
        steps.is_multiple_of(every) || steps == self.train.steps
    }

    /// Writes weights and the optimizer's vectors, if that is due after the last step. Rank 0 does it.
    fn write_files(&self) -> Result<()> {
        let done = self.rows.len();
        if self.states.is_none() || !self.train.checkpoint_steps().contains(&done) {
            return Ok(());
        }
        self.lock.map_or(Ok(()), Lock::check)?;
        let model = self.instance.weights_with(&self.parameters)?;
        let (url, run) = (&self.config.output.url, &self.config.run.name);
        files::write(url, run, done, model, &self.optimizer, self.layout)?;
        let url = url.to_string();
        let folder = files::folder(run, done);
        self.progress.log(&format!("weights after step {done}: {}/{folder}", url.trim_end_matches('/')));
        Ok(())
    }

    /// Saves where the training stands; rank 0 does it. With `stop`, every rank ends.
    fn save(&self, stop: bool) -> Result<()> {
        if let Some(states) = self.states {
            self.lock.map_or(Ok(()), Lock::check)?;
            let (rule, vectors) = (Rule::of(self.train), self.optimizer.vectors().map(|(_, vector)| vector));
            states.save(&rule, &self.parameters, &vectors.collect::<Vec<_>>(), &self.rows)?;
        }
        if !stop {
            return Ok(());
        }
        let by = signal::requested().map_or("another rank was asked to stop".into(), |name| format!("SIG{name}"));
        Err(Error::Interrupted(format!(
            "stopped ({by}) after step {} of {}, and saved; run again to continue",
            self.rows.len(),
            self.train.steps
        )))
    }
}

/// A step in words: its loss, and the last look at the held-out samples.
fn shown(row: &TrainingRow, rows: &[TrainingRow]) -> String {
    let look = rows.iter().rev().find_map(|row| Some((row.held_out_loss?, row.held_out_accuracy)));
    let held_out = look.map_or(String::new(), |(loss, accuracy)| {
        let accuracy = accuracy.map_or(String::new(), |share| format!(" ({:.1} % right)", 100.0 * share));
        format!(", held out {loss:.4}{accuracy}")
    });
    format!("loss {:.4}{held_out}", row.loss)
}
