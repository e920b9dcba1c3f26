//! A module whose parameters carry tangents, and the adjoints read back from it.

use std::collections::BTreeMap;
use std::ops::Range;

use burn::module::{Module, Param};
use burn::tensor::{DType, Shape, Tensor, TensorData, TensorPrimitive};
use burn_backend::AutodiffBackend;
use burn_backend::ops::FloatTensorOps;
use burn_backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::Precision;
use crate::block::{Block, Layout};
use crate::engine::{Dual, Gradients, Jvp, Kernels, SecondOrder, adjoint, leaf};
use crate::models::names::Names;
use crate::models::walk::{MapFloat, Path, VisitFloat, map, visit};

/// Which parameters get tangents in which slots.
pub struct Seeds<'a, T> {
    /// Per slot: its block and the vector in the block's flat order.
    pub slots: &'a [(&'a Block, &'a [T])],
    /// Every parameter of these blocks requires a gradient, tangents or not; where there are none, no gradient is read.
    pub gradient: &'a [&'a Block],
}

impl<'a, T> Seeds<'a, T> {
    /// Tangents alone.
    pub fn tangents(slots: &'a [(&'a Block, &'a [T])]) -> Self {
        Self { slots, gradient: &[] }
    }

    /// The gradient of these blocks alone.
    pub fn gradient(blocks: &'a [&'a Block]) -> Self {
        Self { slots: &[], gradient: blocks }
    }
}

/// The module with leaves where a slot's block has parameters, and constants elsewhere: below the lowest active
/// parameter nothing is propagated.
pub(super) fn seed<K: Kernels, T: Precision, M: Module<SecondOrder<K>>>(
    model: M,
    names: &Names,
    layout: &Layout,
    seeds: &Seeds<'_, T>,
) -> M {
    let parts = seeds.slots.par_iter().map(|(block, vector)| block.scatter(layout, vector, T::default())).collect();
    let wanted = seeds.gradient.iter().flat_map(|block| block.pieces.iter().map(|piece| piece.parameter));
    let mapper = Seeder { layout, parts, gradient: !seeds.gradient.is_empty(), wanted: wanted.collect() };
    map(model, names, mapper).0
}

struct Seeder<'a, T> {
    layout: &'a Layout,
    /// Per slot: (parameter, dense tangent values), of the parameters that are still to come.
    parts: Vec<Vec<(usize, Vec<T>)>>,
    gradient: bool,
    wanted: Vec<usize>,
}

impl<K: Kernels, T: Precision> MapFloat<SecondOrder<K>> for Seeder<'_, T> {
    fn map<const D: usize>(
        &mut self,
        path: &Path,
        param: Param<Tensor<SecondOrder<K>, D>>,
    ) -> Param<Tensor<SecondOrder<K>, D>> {
        let Some(parameter) = self.layout.find(&path.name()) else { return param };
        param.map(|tensor| {
            let (shape, device) = (tensor.shape(), tensor.device());
            let constant = Tensor::from_inner(tensor.inner());
            let tangent =
                |values: Vec<T>| Tensor::<K, D>::from_data(TensorData::new(values, shape.clone()), (&device, T::DTYPE));
            let of_slot = |slot: &mut Vec<(usize, Vec<T>)>| {
                let at = slot.iter().position(|(index, _)| *index == parameter)?;
                Some(tangent(slot.swap_remove(at).1))
            };
            let tangents: Vec<_> = self.parts.iter_mut().map(of_slot).collect();
            let active = tangents.iter().any(Option::is_some) || self.wanted.contains(&parameter);
            if active { leaf(constant, tangents, !self.gradient) } else { constant }
        })
    }
}

/// A seeded module without its leaves: the same values and tangents, and no graph.
pub(super) fn untracked<K: Kernels, M: Module<SecondOrder<K>>>(model: M) -> M {
    map(model, &Names::BURN, Untrack).0
}

struct Untrack;

impl<K: Kernels> MapFloat<SecondOrder<K>> for Untrack {
    fn map<const D: usize>(
        &mut self,
        _: &Path,
        param: Param<Tensor<SecondOrder<K>, D>>,
    ) -> Param<Tensor<SecondOrder<K>, D>> {
        param.map(|tensor| {
            let dual = SecondOrder::<K>::inner(tensor.into_primitive().tensor());
            Tensor::from_primitive(TensorPrimitive::Float(SecondOrder::<K>::from_inner(dual)))
        })
    }
}

/// What a backward pass left on the parameters.
pub struct Adjoints<K: Kernels> {
    /// By parameter of the layout; `None` where the loss does not depend on it or nobody asked.
    by_parameter: Vec<Option<Dual<K>>>,
}

impl<K: Kernels> Adjoints<K> {
    /// Adjoints of no parameter.
    pub fn none(layout: &Layout) -> Self {
        Self { by_parameter: layout.parameters().iter().map(|_| None).collect() }
    }

    /// Adds what another part of the network left on the parameters.
    pub fn add(&mut self, other: Self) {
        for (sum, part) in self.by_parameter.iter_mut().zip(other.by_parameter) {
            *sum = match (sum.take(), part) {
                (Some(a), Some(b)) => Some(Jvp::<K>::float_add(a, b)),
                (a, b) => a.or(b),
            };
        }
    }

    /// The adjoints that a backward pass left.
    pub fn read<M: Module<SecondOrder<K>>>(model: &M, names: &Names, layout: &Layout, grads: &Gradients<K>) -> Self {
        let Self { by_parameter } = Self::none(layout);
        Self { by_parameter: visit(model, names, Collector { layout, grads, by_parameter }).by_parameter }
    }

    /// The product of a slot, in its block's flat order.
    pub fn product<T: Precision>(&self, layout: &Layout, block: &Block, slot: usize) -> Vec<T> {
        let tangent = |parameter: usize| self.tangent(parameter, slot).map(values::<K, T>);
        block.gather(layout, tangent, T::default())
    }

    /// What a slot left on a parameter.
    fn tangent(&self, parameter: usize, slot: usize) -> Option<&FloatTensor<K>> {
        self.by_parameter[parameter].as_ref()?.tangent(slot)
    }

    /// The gradient, in the block's flat order.
    pub fn gradient<T: Precision>(&self, layout: &Layout, block: &Block) -> Vec<T> {
        let primal = |parameter: usize| self.by_parameter[parameter].as_ref().map(|dual| values::<K, T>(&dual.primal));
        block.gather(layout, primal, T::default())
    }
}

/// Sums over micro-batches of the products of all slots, in f64: where a backend can, on its device, so that only the sums
/// travel; else on the host.
pub(super) struct Sums<'a, K: Kernels> {
    layout: &'a Layout,
    blocks: &'a [&'a Block],
    /// By slot, in its block's flat order; empty until something is added there.
    on_host: Vec<Vec<f64>>,
    /// By slot and parameter, as [`Kernels::add_to_sum`] keeps them.
    on_device: Vec<BTreeMap<usize, FloatTensor<K>>>,
}

impl<'a, K: Kernels> Sums<'a, K> {
    /// Sums over no micro-batch yet, for the block of each slot.
    pub fn new(layout: &'a Layout, blocks: &'a [&'a Block]) -> Self {
        let (on_host, on_device) = (vec![Vec::new(); blocks.len()], blocks.iter().map(|_| BTreeMap::new()).collect());
        Self { layout, blocks, on_host, on_device }
    }

    /// `sum += factor * product`, slot by slot.
    pub fn add<T: Precision>(&mut self, adjoints: &Adjoints<K>, factor: f64) {
        for (slot, (block, sums)) in self.blocks.iter().zip(&mut self.on_device).enumerate() {
            for parameter in block.parameters() {
                let Some(tangent) = adjoints.tangent(parameter, slot) else { continue };
                match K::add_to_sum(sums.remove(&parameter), tangent, factor) {
                    Some(sum) => sums.insert(parameter, sum),
                    None => continue,
                };
            }
        }
        let (layout, on_device) = (self.layout, &self.on_device);
        self.on_host.par_iter_mut().zip(self.blocks.par_iter()).enumerate().for_each(|(slot, (sum, block))| {
            let is_here = |parameter: &usize| !on_device[slot].contains_key(parameter);
            if !block.parameters().iter().any(is_here) {
                return;
            }
            sum.resize(block.num_params(layout), 0.0);
            let tangent = |parameter| adjoints.tangent(parameter, slot).filter(|_| is_here(&parameter));
            let read = |parameter| tangent(parameter).map(values::<K, T>);
            add_pieces(layout, block, sum, read, |sum, values, range| add(sum, &values[range], factor));
        });
    }

    /// The sums, each in its block's flat order.
    pub fn finish(mut self) -> Vec<Vec<f64>> {
        for ((sum, block), on_device) in self.on_host.iter_mut().zip(self.blocks).zip(&self.on_device) {
            sum.resize(block.num_params(self.layout), 0.0);
            let read = |parameter| on_device.get(&parameter).map(values::<K, f32>);
            add_pieces(self.layout, block, sum, read, |sum, halves, range| {
                add_halves(sum, &halves[2 * range.start..2 * range.end])
            });
        }
        self.on_host
    }
}

/// Adds to a sum in its block's flat order: `read` gives the values of a parameter, if there are any, and `add` adds a range of
/// them.
fn add_pieces<V>(
    layout: &Layout,
    block: &Block,
    sum: &mut [f64],
    read: impl Fn(usize) -> Option<V>,
    add: impl Fn(&mut [f64], &V, Range<usize>),
) {
    let (mut at, mut last) = (0, None);
    for piece in &block.pieces {
        let (_, values) = match last.take().filter(|(parameter, _)| *parameter == piece.parameter) {
            Some(same) => last.insert(same),
            None => last.insert((piece.parameter, read(piece.parameter))),
        };
        piece.runs(layout, |start, len| {
            if let Some(values) = &*values {
                add(&mut sum[at..at + len], values, start..start + len);
            }
            at += len;
        });
    }
}

/// Numbers of a sum that a thread adds to at a time.
const PIECE: usize = 1 << 16;

/// `sum += factor * values`, large runs on all threads.
fn add<T: Precision>(sum: &mut [f64], values: &[T], factor: f64) {
    sum.par_chunks_mut(PIECE).zip(values.par_chunks(PIECE)).for_each(|(sum, values)| {
        sum.iter_mut().zip(values).for_each(|(sum, x)| *sum += factor * x.to_f64());
    });
}

/// `sum += values`, of each of which there are the two halves of its bits.
fn add_halves(sum: &mut [f64], halves: &[f32]) {
    let whole = |low: f32, high: f32| f64::from_bits(u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32);
    sum.par_chunks_mut(PIECE).zip(halves.par_chunks(2 * PIECE)).for_each(|(sum, halves)| {
        sum.iter_mut().zip(halves.chunks_exact(2)).for_each(|(sum, halves)| *sum += whole(halves[0], halves[1]));
    });
}

struct Collector<'a, K: Kernels> {
    layout: &'a Layout,
    grads: &'a Gradients<K>,
    by_parameter: Vec<Option<Dual<K>>>,
}

impl<K: Kernels> VisitFloat<SecondOrder<K>> for Collector<'_, K> {
    fn visit<const D: usize>(&mut self, path: &Path, param: &Param<Tensor<SecondOrder<K>, D>>) {
        if let Some(parameter) = self.layout.find(&path.name())
            && param.is_require_grad()
        {
            self.by_parameter[parameter] = adjoint(&param.val(), self.grads);
        }
    }
}

/// The first parameter of a layout that is not in this type.
pub(crate) fn parameter_of_other_type<K: Kernels, M: Module<SecondOrder<K>>>(
    model: &M,
    names: &Names,
    layout: &Layout,
    dtype: DType,
) -> Option<(String, DType)> {
    visit(model, names, Types { layout, dtype, other: None }).other
}

struct Types<'a> {
    layout: &'a Layout,
    dtype: DType,
    other: Option<(String, DType)>,
}

impl<K: Kernels> VisitFloat<SecondOrder<K>> for Types<'_> {
    fn visit<const D: usize>(&mut self, path: &Path, param: &Param<Tensor<SecondOrder<K>, D>>) {
        let (name, found) = (path.name(), param.val().dtype());
        if self.other.is_none() && found != self.dtype && self.layout.find(&name).is_some() {
            self.other = Some((name, found));
        }
    }
}

/// A tensor's values on the host, row-major.
pub(super) fn values<K: Kernels, T: Precision>(tensor: &FloatTensor<K>) -> Vec<T> {
    use burn_backend::TensorMetadata;
    let flat = Shape::from(vec![tensor.shape().num_elements()]);
    let tensor = Tensor::<K, 1>::from_primitive(TensorPrimitive::Float(K::float_reshape(tensor.clone(), flat)));
    let data = tensor.into_data();
    if data.dtype == T::DTYPE {
        data.into_vec().expect("the tensor has the precision's dtype")
    } else {
        data.iter::<f64>().map(T::from_f64).collect()
    }
}

/// The module with `scale` times a block's vector added to its parameters.
pub(super) fn shifted<K: Kernels, T: Precision, M: Module<SecondOrder<K>>>(
    model: M,
    names: &Names,
    layout: &Layout,
    block: &Block,
    vector: &[T],
    scale: f64,
) -> M {
    let step: Vec<T> = vector.iter().map(|x| T::from_f64(scale * x.to_f64())).collect();
    let parts = block.scatter(layout, &step, T::default());
    drop(step);
    map(model, names, Shifter { layout, parts }).0
}

struct Shifter<'a, T> {
    layout: &'a Layout,
    parts: Vec<(usize, Vec<T>)>,
}

impl<K: Kernels, T: Precision> MapFloat<SecondOrder<K>> for Shifter<'_, T> {
    fn map<const D: usize>(
        &mut self,
        path: &Path,
        param: Param<Tensor<SecondOrder<K>, D>>,
    ) -> Param<Tensor<SecondOrder<K>, D>> {
        let parameter = self.layout.find(&path.name());
        let Some(at) = self.parts.iter().position(|(index, _)| Some(*index) == parameter) else { return param };
        let (_, values) = self.parts.swap_remove(at); // a module has each parameter once
        param.map(|tensor| {
            let data = TensorData::new(values, tensor.shape());
            let step = Tensor::from_data(data, (&tensor.device(), T::DTYPE));
            Tensor::from_inner(tensor.inner()) + step
        })
    }
}

/// The module with every float parameter in another precision, frozen ones and BatchNorm's running statistics too. Those are shared by
/// all clones of a module: the clones' change as well.
pub fn cast<K: Kernels, M: Module<SecondOrder<K>>>(model: M, dtype: DType) -> M {
    map(model, &Names::BURN, Cast { dtype, with_state: true }).0
}

/// The module with every parameter in another precision; BatchNorm's running statistics stay as they are.
pub(super) fn cast_parameters<K: Kernels, M: Module<SecondOrder<K>>>(model: M, dtype: DType) -> M {
    map(model, &Names::BURN, Cast { dtype, with_state: false }).0
}

struct Cast {
    dtype: DType,
    with_state: bool,
}

impl<K: Kernels> MapFloat<SecondOrder<K>> for Cast {
    fn map<const D: usize>(
        &mut self,
        path: &Path,
        param: Param<Tensor<SecondOrder<K>, D>>,
    ) -> Param<Tensor<SecondOrder<K>, D>> {
        if path.is_state() && !self.with_state {
            return param;
        }
        param.map(|tensor| {
            let is_parameter = tensor.is_require_grad(); // a frozen one stays frozen
            let cast = Tensor::from_inner(tensor.inner().cast(self.dtype));
            if is_parameter { cast.require_grad() } else { cast }
        })
    }
}
