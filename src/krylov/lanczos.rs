//! The Lanczos recursion of one slot as a small state machine: `vector` is to be multiplied, `advance` takes
//! the product.

use serde::{Deserialize, Serialize};

use super::{Basis, Space, Tridiagonal, orthogonality};
use crate::{Error, Result};

/// How the basis is kept orthogonal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reorthogonalize {
    /// Classical Gram-Schmidt twice against the whole basis ("twice is enough": Giraud et al. 2005).
    #[default]
    Full,
    /// The three-term recurrence alone (Zhang et al. 2024, Alg. 4): two vectors in memory, and ghosts.
    None,
}

/// What one slot is asked to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Who it is, for messages: ``block `wte`, probe 2``.
    pub label: String,
    /// Number of steps m; the space's dimension caps it.
    pub steps: usize,
    /// How the basis is kept orthogonal.
    pub reorthogonalize: Reorthogonalize,
    /// Absolute error of a product, |fl(H v) - H v| for |v| = 1.
    pub eta: f64,
    /// Number of segments whose matrices V^T H_s V are recorded; 0 for none. Needs `Full`: without
    /// an orthogonal basis their sum is not T.
    pub segments: usize,
}

/// What comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Multiply the next vector.
    Continue,
    /// The Krylov space is exhausted: the quadrature is exact, with fewer steps than asked for.
    Breakdown,
    /// All steps are done.
    Done,
}

/// The recursion of one slot.
///
/// Invariant: while `step()` is `Continue`, the basis ends in the vector to be multiplied.
pub struct Lanczos<S: Space> {
    space: S,
    settings: Settings,
    /// `settings.steps`, capped by the dimension.
    steps: usize,
    basis: S::Basis,
    tridiagonal: Tridiagonal,
    step: Step,
}

impl<S: Space> Lanczos<S> {
    /// Starts from any vector but zero; it is normalised.
    pub fn new(space: S, mut start: S::Vector, settings: Settings) -> Result<Self> {
        let norm = space.norm(&start)?;
        if !(norm.is_finite() && norm > 0.0) {
            let label = &settings.label;
            return Err(Error::Numerics(format!("{label}: start vector of norm {norm}, expected finite and not zero")));
        }
        space.scale(&mut start, 1.0 / norm);
        Self::resume(space, Tridiagonal::default(), vec![start], settings)
    }

    /// Continues from a checkpoint: T so far, and the basis up to the next vector (v_1 ... v_{j+1} with
    /// full reorthogonalisation, else the last two).
    pub fn resume(space: S, tridiagonal: Tridiagonal, vectors: Vec<S::Vector>, settings: Settings) -> Result<Self> {
        check(&settings, &tridiagonal, vectors.len())?;
        let dim = vectors.last().map_or(0, |vector| space.dim(vector));
        let steps = settings.steps.min(dim);
        let columns = if settings.reorthogonalize == Reorthogonalize::Full { steps } else { 0 }; // else a few, dropped again
        let mut basis = space.new_basis(dim, columns)?;
        for vector in vectors {
            basis.push(vector)?;
        }
        let mut tridiagonal = tridiagonal;
        if settings.reorthogonalize == Reorthogonalize::Full {
            tridiagonal.segments.resize(settings.segments, Vec::new());
        }
        let mut lanczos = Self { space, settings, steps, basis, tridiagonal, step: Step::Continue };
        lanczos.step = lanczos.next_step();
        Ok(lanczos)
    }

    /// The vector v_j to be multiplied; `None` when there is nothing left to do.
    pub fn vector(&self) -> Option<&S::Vector> {
        if self.step == Step::Continue { self.basis.last() } else { None }
    }

    /// What comes next.
    pub fn step(&self) -> Step {
        self.step
    }

    /// The basis, for checkpoints.
    pub fn basis(&self) -> &S::Basis {
        &self.basis
    }

    /// T so far.
    pub fn tridiagonal(&self) -> &Tridiagonal {
        &self.tridiagonal
    }

    /// V s, the vector with these coordinates in the whole basis: summed in f64, rounded once.
    pub fn combined(&self, coordinates: &[f64]) -> Result<S::Vector> {
        let mut vector = self.basis.get(0)?;
        self.space.scale(&mut vector, 0.0);
        let negative: Vec<f64> = coordinates.iter().map(|s| -s).collect();
        self.basis.subtract(&negative, &mut vector);
        Ok(vector)
    }

    /// T, giving up the basis.
    pub fn into_tridiagonal(self) -> Tridiagonal {
        self.tridiagonal
    }

    /// Whether the rows of [`Lanczos::segment_row`] are wanted.
    pub fn wants_segments(&self) -> bool {
        !self.tridiagonal.segments.is_empty()
    }

    /// Row j of V^T H_s V from `partial` = H_s v_j: the dots with v_1 ... v_j.
    pub fn segment_row(&self, partial: &S::Vector) -> Result<Vec<f64>> {
        self.basis.dots(partial)
    }

    /// Takes `w` = H v_j, and one row per segment where segments are wanted; makes v_{j+1}.
    pub fn advance(&mut self, mut w: S::Vector, rows: Vec<Vec<f64>>) -> Result<Step> {
        self.record_segments(rows)?;
        let (alpha, correction) = match self.settings.reorthogonalize {
            Reorthogonalize::Full => self.project_twice(&mut w)?,
            Reorthogonalize::None => (self.three_terms(&mut w)?, vec![]),
        };
        let beta = self.space.norm(&w)?;
        self.check_finite(alpha, beta)?;
        self.tridiagonal.alpha.push(alpha);
        let breakdown = beta <= self.breakdown_threshold();
        self.tridiagonal.beta.push(if breakdown { 0.0 } else { beta });
        let loss = if breakdown { 0.0 } else { self.orthogonality_loss(&correction) };
        self.tridiagonal.orthogonality_loss.push(loss);
        self.step = self.next_step();
        if self.step == Step::Continue {
            self.space.scale(&mut w, 1.0 / beta);
            self.push(w)?;
        }
        Ok(self.step)
    }

    /// alpha = the coefficient on v_j of both passes; also the second pass's coefficients.
    fn project_twice(&self, w: &mut S::Vector) -> Result<(f64, Vec<f64>)> {
        let first = self.basis.project(w)?;
        let second = self.basis.project(w)?;
        let on_current = |coefficients: &[f64]| coefficients.last().copied().unwrap_or(0.0);
        Ok((on_current(&first) + on_current(&second), second))
    }

    /// Alg. 4: w - alpha v_j - beta_j v_{j-1}; the basis holds just these two.
    fn three_terms(&self, w: &mut S::Vector) -> Result<f64> {
        let mut coefficients = self.basis.dots(w)?;
        if let [previous, _] = &mut coefficients[..] {
            *previous = self.tridiagonal.residual_norm();
        }
        self.basis.subtract(&coefficients, w);
        Ok(coefficients.last().copied().unwrap_or(0.0))
    }

    fn push(&mut self, vector: S::Vector) -> Result<()> {
        self.basis.push(vector)?;
        if self.settings.reorthogonalize == Reorthogonalize::None {
            self.basis.keep_last(2);
        }
        Ok(())
    }

    fn next_step(&self) -> Step {
        if self.tridiagonal.breakdown() {
            Step::Breakdown
        } else if self.tridiagonal.steps() >= self.steps {
            Step::Done
        } else {
            Step::Continue
        }
    }

    /// Ten times what the product's own error leaves behind. The smallest normal number keeps 1 / beta finite.
    fn breakdown_threshold(&self) -> f64 {
        (10.0 * self.settings.eta).max(1e-14 * self.tridiagonal.norm()).max(f64::MIN_POSITIVE)
    }

    fn orthogonality_loss(&self, correction: &[f64]) -> f64 {
        let unit_roundoff = self.space.unit_roundoff();
        let Tridiagonal { alpha, beta, orthogonality_loss, .. } = &self.tridiagonal;
        match self.settings.reorthogonalize {
            Reorthogonalize::Full => {
                let worst = orthogonality_loss.iter().copied().fold(unit_roundoff, f64::max);
                orthogonality::after_second_pass(correction, self.tridiagonal.residual_norm(), worst, unit_roundoff)
            }
            Reorthogonalize::None => orthogonality::without_passes(alpha, beta, unit_roundoff),
        }
    }

    fn record_segments(&mut self, rows: Vec<Vec<f64>>) -> Result<()> {
        let (label, expected) = (&self.settings.label, self.tridiagonal.segments.len());
        let entries = self.tridiagonal.steps() + 1;
        if rows.len() != expected || rows.iter().any(|row| row.len() != entries) {
            let found: Vec<usize> = rows.iter().map(Vec::len).collect();
            let wanted = format!("expected {expected} of {entries} entries");
            return Err(Error::Other(format!("{label}, step {entries}: segment rows of {found:?} entries, {wanted}")));
        }
        if let Some(segment) = rows.iter().position(|row| row.iter().any(|x| !x.is_finite())) {
            return Err(self.not_finite(&format!("segment {segment} of H v")));
        }
        self.tridiagonal.segments.iter_mut().zip(rows).for_each(|(segment, row)| segment.extend(row));
        Ok(())
    }

    fn check_finite(&self, alpha: f64, beta: f64) -> Result<()> {
        if alpha.is_finite() && beta.is_finite() {
            return Ok(());
        }
        Err(self.not_finite(&format!("H v (alpha = {alpha}, beta = {beta})")))
    }

    fn not_finite(&self, what: &str) -> Error {
        let (label, step) = (&self.settings.label, self.tridiagonal.steps() + 1);
        Error::Numerics(format!(
            "{label}, Lanczos step {step}: {what} is not finite; check weights and data for NaN and overflow, or run with precision = \"f64\""
        ))
    }
}

/// Whether a state of `num_vectors` vectors belongs to `tridiagonal`.
fn check(settings: &Settings, tridiagonal: &Tridiagonal, num_vectors: usize) -> Result<()> {
    let Settings { label, steps, reorthogonalize, eta, segments } = settings;
    let done = tridiagonal.steps();
    if *steps == 0 {
        return Err(Error::Config(format!("{label}: lanczos.steps = 0, expected at least 1")));
    }
    if !(eta.is_finite() && *eta >= 0.0) {
        return Err(Error::Numerics(format!("{label}: error of H v is {eta}, expected finite and not negative")));
    }
    if *segments > 0 && *reorthogonalize == Reorthogonalize::None {
        return Err(Error::Config(format!(
            "{label}: segment matrices need lanczos.reorthogonalize = \"full\", found \"none\""
        )));
    }
    let finished = tridiagonal.breakdown() || done >= *steps;
    let needed = if *reorthogonalize == Reorthogonalize::Full { done + 1 } else { (done + 1).min(2) };
    if !finished && num_vectors != needed {
        return Err(Error::Storage(format!(
            "{label}: checkpoint after step {done} has {num_vectors} basis vectors, expected {needed}; remove it to start again"
        )));
    }
    let rows = tridiagonal.segments.iter().all(|segment| segment.len() == done * (done + 1) / 2);
    let lengths = tridiagonal.beta.len() == done && tridiagonal.orthogonality_loss.len() == done;
    if !lengths || (done > 0 && tridiagonal.segments.len() != *segments) || !rows {
        return Err(Error::Storage(format!(
            "{label}: checkpoint after step {done} has {} betas, {} losses and {} segments (expected {segments}) of another size; remove it to start again",
            tridiagonal.beta.len(),
            tridiagonal.orthogonality_loss.len(),
            tridiagonal.segments.len()
        )));
    }
    Ok(())
}
