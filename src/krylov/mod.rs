//! Lanczos tridiagonalisation of symmetric operators, all slots in lock-step.
//!
//! Owns the recursion, its breakdown and its orthogonality. Sees an [`Operator`] and a vector [`Space`], and
//! nothing of networks, ranks or files; turning T into nodes and weights is the room `spectrum`.
//!
//! ```
//! use hesspec::krylov::{Dense, Local, MatrixOperator, Reorthogonalize, Settings, lanczos};
//!
//! let matrix = Dense::from_fn(3, |i, j| if i == j { 1.0 + i as f64 } else { 0.0 });
//! let settings =
//!     Settings { label: "demo".into(), steps: 3, reorthogonalize: Reorthogonalize::Full, eta: 0.0, segments: 0 };
//! let mut operator = MatrixOperator::<f64>::shared(matrix, 1);
//! let t = lanczos(Local::new(), &mut operator, vec![vec![1.0; 3]], &[settings]).unwrap();
//! assert!((t[0].alpha[0] - 2.0).abs() < 1e-15);
//! ```

mod chain;
#[cfg(test)]
mod chain_tests;
mod lanczos;
mod local;
mod operator;
mod orthogonality;
mod real;
mod schedule;
mod space;
#[cfg(test)]
mod tests;
mod tridiagonal;

pub use chain::{Chain, Complement, Locked, SharedComplement};
pub use lanczos::{Lanczos, Reorthogonalize, Settings, Step};
pub use local::{Local, LocalBasis, dot};
pub use operator::{Dense, MatrixOperator, OnSegment, Operator};
pub use real::Real;
pub use schedule::{Needed, Schedule, Short};
pub use space::{Basis, Space};
pub use tridiagonal::{Tridiagonal, packed};

use crate::{Error, Result};

/// Tridiagonalises every slot of an operator, from one start vector and one settings value per slot.
pub fn lanczos<S, O>(
    space: S,
    operator: &mut O,
    starts: Vec<S::Vector>,
    settings: &[Settings],
) -> Result<Vec<Tridiagonal>>
where
    S: Space,
    O: Operator<Vector = S::Vector>,
{
    let chain = |(start, settings): (S::Vector, &Settings)| Chain::new(space.clone(), start, settings.clone(), None);
    check_dims(&space, operator, &starts, settings)?;
    run(operator, starts.into_iter().zip(settings).map(chain).collect::<Result<Vec<_>>>()?)
}

/// Runs all slots of an operator to their ends.
pub fn run<S, O>(operator: &mut O, mut slots: Vec<Chain<'_, S>>) -> Result<Vec<Tridiagonal>>
where
    S: Space,
    O: Operator<Vector = S::Vector>,
{
    while step(operator, &mut slots)? > 0 {}
    Ok(slots.into_iter().map(Chain::into_tridiagonal).collect())
}

/// One lock-step of all slots that are not done: a single application of the operator. Returns how many continue.
pub fn step<S, O>(operator: &mut O, slots: &mut [Chain<'_, S>]) -> Result<usize>
where
    S: Space,
    O: Operator<Vector = S::Vector>,
{
    let mut rows: Vec<Vec<Vec<f64>>> = vec![Vec::new(); slots.len()];
    let active: Vec<(usize, &S::Vector)> =
        slots.iter().enumerate().filter_map(|(slot, state)| Some((slot, state.vector()?))).collect();
    if active.is_empty() {
        return Ok(0);
    }
    let ids: Vec<usize> = active.iter().map(|(slot, _)| *slot).collect();
    let products = operator.apply(&active, &mut |segment, slot, partial| {
        if slots[slot].wants_segments() {
            put_row(&mut rows[slot], segment, slots[slot].segment_row(partial)?)?;
        }
        Ok(())
    })?;
    for (slot, product) in ids.into_iter().zip(products) {
        slots[slot].advance(product, std::mem::take(&mut rows[slot]))?;
    }
    Ok(slots.iter().filter(|slot| slot.vector().is_some()).count())
}

/// Segments come in order, each once.
fn put_row(rows: &mut Vec<Vec<f64>>, segment: usize, row: Vec<f64>) -> Result<()> {
    if segment != rows.len() {
        return Err(Error::Other(format!("operator: segment {segment} came when segment {} was due", rows.len())));
    }
    rows.push(row);
    Ok(())
}

fn check_dims<S, O>(space: &S, operator: &O, starts: &[S::Vector], settings: &[Settings]) -> Result<()>
where
    S: Space,
    O: Operator<Vector = S::Vector>,
{
    let found: Vec<usize> = starts.iter().map(|start| space.dim(start)).collect();
    let expected = operator.dims();
    if found != expected || settings.len() != expected.len() {
        let num_settings = settings.len();
        return Err(Error::Other(format!(
            "Lanczos: start vectors of dimensions {found:?} and {num_settings} settings for an operator of dimensions {expected:?}"
        )));
    }
    Ok(())
}
