//! Saving and stopping: at the end of a segment all ranks agree on both.

use std::time::Instant;

use super::{Asked, Group, Partial};
use crate::checkpoint::{Checkpoint, Position};
use crate::engine::Kernels;
use crate::hessian::Precision;
use crate::krylov::{Chain, Tridiagonal};
use crate::{Error, Result};

impl<K: Kernels, T: Precision> Group<'_, K, T> {
    /// At the end of a segment: all ranks agree whether to save and whether to stop.
    pub(super) fn asked(&self) -> Result<Asked> {
        let comm = self.comm();
        self.context.observer.check()?;
        let due = comm.is_root() && self.last_save.elapsed() >= self.context.every;
        let mut flags = [f64::from(u8::from(self.context.observer.stop().is_some())), f64::from(u8::from(due))];
        comm.all_reduce_sum(&mut flags)?;
        Ok(Asked { stop: flags[0] > 0.0, save: flags[1] > 0.0 })
    }

    /// Does what all ranks agreed on; `partial` is what is under way.
    pub(super) fn save_or_stop(&mut self, asked: Asked, active: &[usize], partial: &Partial) -> Result<()> {
        let Some(checkpoint) = self.context.checkpoint else {
            return if asked.stop {
                Err(self.interrupted("nothing of it is saved, and it starts anew"))
            } else {
                Ok(())
            };
        };
        if !(asked.stop || asked.save) {
            return Ok(());
        }
        self.save(checkpoint, active, partial)?;
        self.last_save = Instant::now();
        if asked.stop {
            Err(self.interrupted("everything is saved. Run the same command again to go on"))
        } else {
            Ok(())
        }
    }

    fn interrupted(&self, what: &str) -> Error {
        let reason = self.context.observer.stop().unwrap_or_else(|| "a stop request on another rank".into());
        Error::Interrupted(format!("stopped by {reason} in group {}; {what}", self.name))
    }

    /// Appends the steps since the last save, and the sweep under way if it has begun.
    fn save(&mut self, checkpoint: &Checkpoint, active: &[usize], partial: &Partial) -> Result<()> {
        let comm = self.comm();
        if self.saved.is_none() && comm.is_root() {
            checkpoint.begin(self.name, &self.contents)?;
        }
        let first = self.saved.map_or(0, |saved| saved + 1);
        for step in first..=self.step {
            self.save_vectors(checkpoint, step)?;
        }
        let at = Position { step: self.step, segments: partial.segments };
        for (&slot, total) in active.iter().zip(&partial.totals) {
            checkpoint.save_sum(self.name, at, slot, comm.shard(total.len), &total.values)?;
        }
        comm.barrier()?; // every slice is there before the objects that make them count
        if comm.is_root() {
            let matrices: Vec<Tridiagonal> = self.slots.iter().map(Chain::flat).collect();
            for step in first.max(1)..=self.step {
                let slots: Vec<Option<&Tridiagonal>> =
                    matrices.iter().map(|t| Some(t).filter(|t| t.steps() >= step)).collect();
                checkpoint.save_step(self.name, step, &slots, &self.metrics[step - 1])?;
            }
            if partial.segments > 0 {
                checkpoint.save_sweep(self.name, at, &partial.rows)?;
            }
        }
        self.saved = Some(self.step);
        Ok(())
    }

    /// v_{step + 1} of every slot that still has it.
    fn save_vectors(&self, checkpoint: &Checkpoint, step: usize) -> Result<()> {
        for (slot, chain) in self.slots.iter().enumerate() {
            if let Some(v) = chain.vector_of(step)? {
                checkpoint.save_vector(self.name, step, slot, self.comm().shard(v.len), &v.values)?;
            }
        }
        Ok(())
    }
}
