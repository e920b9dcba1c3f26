//! A slot's recursion, and after it short ones in the complement of the eigenvectors that it has found.
//!
//! Explicit deflation (Bhattacharjee et al. 2024): eigenvectors in which the long recursion has converged are projected out of
//! further start vectors and of every product, so that what is left is measured without the scatter of the largest
//! eigenvalues' weights. With U = V S the projected-out vectors (V the long basis, S columns of coordinates), w - U U' w takes
//! two products with V, and U is never formed: the basis stays as it is, and so do checkpoints.

use std::ops::Range;
use std::rc::Rc;

use super::schedule::{Schedule, Short};
use super::{Basis, Lanczos, Settings, Space, Tridiagonal};
use crate::Result;

/// Coordinates, in the long recursion's basis, of the eigenvectors to project out: lists of m numbers, orthonormal.
pub type Locked = Vec<Vec<f64>>;

/// What the short recursions of a slot begin with.
pub trait Complement<V> {
    /// Start vector number i: any but zero.
    fn start(&self, index: usize) -> V;
    /// What to project out, given the long recursion's T.
    fn locked(&self, t: &Tridiagonal) -> Result<Locked>;
}

/// A slot's [`Complement`].
pub type SharedComplement<'a, V> = Rc<dyn Complement<V> + 'a>;

/// The recursions of one slot, one after the other; steps are counted through all of them.
pub struct Chain<'a, S: Space> {
    space: S,
    settings: Settings,
    schedule: Schedule,
    complement: Option<SharedComplement<'a, S::Vector>>,
    main: Lanczos<S>,
    locked: Locked,
    /// T of the short recursions that are done.
    done: Vec<Tridiagonal>,
    /// The short one under way.
    current: Option<Lanczos<S>>,
}

impl<'a, S: Space> Chain<'a, S> {
    /// Starts the long recursion from any vector but zero; without short ones it is all there is.
    pub fn new(
        space: S,
        start: S::Vector,
        settings: Settings,
        short: Option<(Short, SharedComplement<'a, S::Vector>)>,
    ) -> Result<Self> {
        let (short, complement) = short.unzip();
        let schedule = Schedule::new(space.dim(&start), settings.steps, short);
        let main = Lanczos::new(space.clone(), start, settings.clone())?;
        let (locked, done, current) = (Locked::new(), Vec::new(), None);
        Ok(Self { space, settings, schedule, complement, main, locked, done, current })
    }

    /// Continues from a checkpoint: what [`Chain::flat`] gave, and the vectors of both ranges of [`Schedule::needed`].
    pub fn resume(
        space: S,
        flat: Tridiagonal,
        [main_vectors, short_vectors]: [Vec<S::Vector>; 2],
        settings: Settings,
        schedule: Schedule,
        complement: Option<SharedComplement<'a, S::Vector>>,
    ) -> Result<Self> {
        let (main, mut done) = schedule.split(flat);
        let main = Lanczos::resume(space.clone(), main, main_vectors, settings.clone())?;
        let under_way = done.pop_if(|last| !schedule.short_is_done(last)).unwrap_or_default();
        let (locked, current) = (Locked::new(), None);
        let mut chain = Self { space, settings, schedule, complement, main, locked, done, current };
        if let Some(short) = chain.next_short() {
            chain.lock()?;
            let settings = chain.short_settings(short);
            chain.current = Some(Lanczos::resume(chain.space.clone(), under_way, short_vectors, settings)?);
        }
        Ok(chain)
    }

    /// The long recursion.
    pub fn long(&self) -> &Lanczos<S> {
        &self.main
    }

    /// The vector to be multiplied; `None` when there is nothing left to do.
    pub fn vector(&self) -> Option<&S::Vector> {
        self.current.as_ref().unwrap_or(&self.main).vector()
    }

    /// The vector that is multiplied in step `step + 1`, if it is still held.
    pub fn vector_of(&self, step: usize) -> Result<Option<S::Vector>> {
        let main = held(&self.main);
        if main.contains(&step) {
            return self.main.basis().get(step - main.start).map(Some);
        }
        let before = self.main.tridiagonal().steps() + self.done.iter().map(Tridiagonal::steps).sum::<usize>();
        let of = |current: &Lanczos<S>| {
            let at = step.checked_sub(before).filter(|at| held(current).contains(at))?;
            Some(current.basis().get(at))
        };
        self.current.as_ref().and_then(of).transpose()
    }

    /// Whether the rows of [`Chain::segment_row`] are wanted.
    pub fn wants_segments(&self) -> bool {
        self.current.is_none() && self.main.wants_segments()
    }

    /// The next row of V' H_s V from `partial` = H_s v.
    pub fn segment_row(&self, partial: &S::Vector) -> Result<Vec<f64>> {
        self.main.segment_row(partial)
    }

    /// Takes `w` = H v, and one row per segment where segments are wanted.
    pub fn advance(&mut self, mut w: S::Vector, rows: Vec<Vec<f64>>) -> Result<()> {
        match self.current.take() {
            None => {
                self.main.advance(w, rows)?;
                if self.next_short().is_some() {
                    self.lock()?;
                }
            }
            Some(mut current) => {
                self.project_out(&mut w)?;
                current.advance(w, rows)?;
                if current.vector().is_some() {
                    self.current = Some(current);
                    return Ok(());
                }
                self.done.push(current.into_tridiagonal());
            }
        }
        self.begin_short()
    }

    /// T of all recursions in one: their steps one after the other, the segments of the long one. For checkpoints.
    pub fn flat(&self) -> Tridiagonal {
        let mut flat = self.main.tridiagonal().clone();
        for t in self.done.iter().chain(self.current.as_ref().map(Lanczos::tridiagonal)) {
            flat.alpha.extend(&t.alpha);
            flat.beta.extend(&t.beta);
            flat.orthogonality_loss.extend(&t.orthogonality_loss);
        }
        flat
    }

    /// T, giving up the vectors.
    pub fn into_tridiagonal(self) -> Tridiagonal {
        Tridiagonal { complement: self.done, ..self.main.into_tridiagonal() }
    }

    /// The next short recursion, if the long one is done and not all short ones are.
    fn next_short(&self) -> Option<Short> {
        let t = self.main.tridiagonal();
        let short = self.schedule.short_after(t).filter(|_| self.schedule.main_is_done(t))?;
        (self.done.len() < short.starts).then_some(short)
    }

    fn lock(&mut self) -> Result<()> {
        if let Some(complement) = &self.complement {
            self.locked = complement.locked(self.main.tridiagonal())?;
        }
        Ok(())
    }

    fn begin_short(&mut self) -> Result<()> {
        let Some((short, complement)) = self.next_short().zip(self.complement.as_ref()) else { return Ok(()) };
        let mut start = complement.start(self.done.len());
        self.project_out(&mut start)?; // twice is enough
        self.project_out(&mut start)?;
        self.current = Some(Lanczos::new(self.space.clone(), start, self.short_settings(short))?);
        Ok(())
    }

    fn short_settings(&self, short: Short) -> Settings {
        let label = format!("{}, start {} in the complement", self.settings.label, self.done.len());
        Settings { label, steps: short.steps, segments: 0, ..self.settings.clone() }
    }

    /// `w -= V S S' V' w`; also with nothing to project out, as no rank branches on a number of its own.
    fn project_out(&self, w: &mut S::Vector) -> Result<()> {
        let dots = self.main.basis().dots(w)?;
        let mut coefficients = vec![0.0; dots.len()];
        for coordinates in &self.locked {
            let along: f64 = coordinates.iter().zip(&dots).map(|(s, x)| s * x).sum();
            coefficients.iter_mut().zip(coordinates).for_each(|(c, s)| *c += along * s);
        }
        self.main.basis().subtract(&coefficients, w);
        Ok(())
    }
}

/// The steps whose vectors a recursion holds.
fn held<S: Space>(lanczos: &Lanczos<S>) -> Range<usize> {
    let all = lanczos.tridiagonal().steps() + usize::from(lanczos.vector().is_some());
    all.saturating_sub(lanczos.basis().len())..all
}
