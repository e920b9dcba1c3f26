//! Which steps a slot has: those of its recursion, then those of short ones, one after the other.

use std::ops::Range;

use super::{Reorthogonalize, Tridiagonal};

/// Short recursions in the complement of a long one's eigenvectors: how many, of how many steps each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Short {
    /// Start vectors.
    pub starts: usize,
    /// Steps from each.
    pub steps: usize,
}

/// The steps of one slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Schedule {
    dim: usize,
    steps: usize,
    short: Short,
}

/// Steps whose vectors a chain needs to go on, counted through all of its recursions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Needed {
    /// Steps of the long recursion.
    pub main: Range<usize>,
    /// Steps of the short recursion under way.
    pub short: Range<usize>,
}

impl Schedule {
    /// `steps` from one start vector, and then `short`, in a space of dimension `dim`, which caps all of them.
    pub fn new(dim: usize, steps: usize, short: Option<Short>) -> Self {
        let short = short.unwrap_or(Short { starts: 0, steps: 0 });
        Self { dim, steps: steps.min(dim), short: Short { steps: short.steps.min(dim), ..short } }
    }

    /// Products H v, if no recursion breaks down.
    pub fn products(&self) -> usize {
        self.steps + if self.steps < self.dim { self.short.starts * self.short.steps } else { 0 }
    }

    /// The short recursions after the long one ended with `t`: a basis of the whole space has no complement.
    pub(super) fn short_after(&self, t: &Tridiagonal) -> Option<Short> {
        (t.steps() < self.dim && self.short.starts > 0).then_some(self.short)
    }

    /// The long recursion's T and those of the short ones, of which the last may be under way, from all steps in one.
    pub(super) fn split(&self, flat: Tridiagonal) -> (Tridiagonal, Vec<Tridiagonal>) {
        let mut lengths = Vec::new();
        let mut begin = 0;
        while begin < flat.steps() {
            let steps = if begin == 0 { self.steps } else { self.short.steps };
            let breakdown = flat.beta[begin..].iter().take(steps).position(|beta| *beta == 0.0);
            let end = begin + breakdown.map_or(steps, |at| at + 1).min(flat.steps() - begin);
            lengths.push(begin..end);
            begin = end;
        }
        let part = |range: &Range<usize>| Tridiagonal {
            alpha: flat.alpha[range.clone()].to_vec(),
            beta: flat.beta[range.clone()].to_vec(),
            orthogonality_loss: flat.orthogonality_loss[range.clone()].to_vec(),
            ..Tridiagonal::default()
        };
        let mut parts = lengths.iter().map(part);
        let main = Tridiagonal { segments: flat.segments.clone(), ..parts.next().unwrap_or_default() };
        (main, parts.collect())
    }

    pub(super) fn main_is_done(&self, t: &Tridiagonal) -> bool {
        t.breakdown() || t.steps() >= self.steps
    }

    pub(super) fn short_is_done(&self, t: &Tridiagonal) -> bool {
        t.breakdown() || t.steps() >= self.short.steps
    }

    /// What a chain needs that has done the steps of `flat`. If it has done all: nothing, or with `keep` the long recursion's basis.
    pub fn needed(&self, flat: &Tridiagonal, reorthogonalize: Reorthogonalize, keep: bool) -> Needed {
        let (main, short) = self.split(flat.clone());
        let steps = main.steps();
        if !self.main_is_done(&main) {
            let first = if reorthogonalize == Reorthogonalize::Full { 0 } else { steps.saturating_sub(1) };
            return Needed { main: first..steps + 1, short: 0..0 };
        }
        let done = short.iter().filter(|t| self.short_is_done(t)).count();
        match self.short_after(&main) {
            Some(Short { starts, .. }) if done < starts => {
                let begin = steps + short[..done].iter().map(Tridiagonal::steps).sum::<usize>();
                Needed { main: 0..steps, short: begin..flat.steps() + 1 }
            }
            _ => Needed { main: 0..if keep { steps } else { 0 }, short: 0..0 },
        }
    }
}
