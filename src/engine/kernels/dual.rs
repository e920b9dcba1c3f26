//! A primal value and its tangents in k slots.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, DType, Shape, TensorMetadata};

use super::Kernels;

/// Which slots are present: `mask[s]` is true if slot s has a tangent. Missing entries are absent slots.
pub type Mask = Vec<bool>;

/// The float primitive of [`Jvp`](crate::engine::Jvp): a primal plus k tangent slots of the same shape and dtype.
///
/// A slot without a tangent (`None`, or beyond the list's end) is a structural zero and costs nothing.
#[derive(Debug, Clone)]
pub struct Dual<B: Backend> {
    /// The value.
    pub primal: FloatTensor<B>,
    /// The tangents, one per slot.
    pub tangents: Vec<Option<FloatTensor<B>>>,
    /// Set on a leaf whose gradient nobody reads: the reverse pass forms its adjoint only in the leaf's own
    /// slots and leaves the adjoint's primal NaN. Results of operations never carry it.
    pub tangents_only: bool,
}

impl<B: Backend> Dual<B> {
    /// A value that depends on nothing.
    pub fn constant(primal: FloatTensor<B>) -> Self {
        Self::new(primal, Vec::new())
    }

    /// A value with its tangents.
    pub fn new(primal: FloatTensor<B>, tangents: Vec<Option<FloatTensor<B>>>) -> Self {
        Self { primal, tangents, tangents_only: false }
    }

    /// Number of slots listed.
    pub fn num_slots(&self) -> usize {
        self.tangents.len()
    }

    /// The tangent of slot s, if it has one.
    pub fn tangent(&self, slot: usize) -> Option<&FloatTensor<B>> {
        self.tangents.get(slot).and_then(Option::as_ref)
    }

    /// Whether any slot has a tangent.
    pub fn is_active(&self) -> bool {
        self.tangents.iter().any(Option::is_some)
    }

    /// The slots that have a tangent.
    pub fn mask(&self) -> Mask {
        self.tangents.iter().map(Option::is_some).collect()
    }

    /// Applies a linear map to the primal and to each tangent.
    pub fn map(self, linear: impl Fn(FloatTensor<B>) -> FloatTensor<B>) -> Self {
        let tangents = self.tangents.into_iter().map(|t| t.map(&linear)).collect();
        Self::new(linear(self.primal), tangents)
    }

    /// [`Dual::map`] for a map that takes a pass over memory: components may go to different threads.
    pub fn map_apart(self, linear: impl Fn(FloatTensor<B>) -> FloatTensor<B> + Sync) -> Self
    where
        B: Kernels,
    {
        let mask = self.mask();
        let components = std::iter::once(self.primal).chain(self.tangents.into_iter().flatten()).collect();
        let mut results = B::each(components, &linear).into_iter();
        let primal = results.next().expect("as many results as components");
        Self::new(primal, mask.into_iter().map(|present| if present { results.next() } else { None }).collect())
    }

    /// Keeps the value and the tangents of the slots in `keep`.
    pub fn only(mut self, keep: &Mask) -> Self {
        for (slot, tangent) in self.tangents.iter_mut().enumerate() {
            if !keep.get(slot).copied().unwrap_or(false) {
                *tangent = None;
            }
        }
        self
    }
}

impl<B: Backend> TensorMetadata for Dual<B> {
    fn dtype(&self) -> DType {
        self.primal.dtype()
    }

    fn shape(&self) -> Shape {
        self.primal.shape()
    }
}
