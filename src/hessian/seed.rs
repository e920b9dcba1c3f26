//! A module whose parameters carry tangents, and the adjoints read back from it.

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Shape, Tensor, TensorData, TensorPrimitive};
use burn_backend::AutodiffBackend;
use burn_backend::ops::FloatTensorOps;
use burn_backend::tensor::FloatTensor;
use rayon::prelude::*;

use super::Precision;
use crate::block::{Block, Layout};
use crate::engine::{Dual, Gradients, Jvp, Kernels, SecondOrder, adjoint, leaf};
use crate::models::names::{Names, Path};

/// Which parameters get tangents in which slots.
pub(super) struct Seeds<'a, T> {
    pub layout: &'a Layout,
    /// Per slot: its block and the vector in the block's flat order.
    pub slots: &'a [(&'a Block, &'a [T])],
    /// Whether the gradient is read too.
    pub gradient: bool,
    /// With `gradient`: every parameter of these blocks requires one, tangents or not.
    pub gradient_blocks: &'a [&'a Block],
}

/// The module with leaves where a slot's block has parameters, and constants elsewhere: below the lowest active
/// parameter nothing is propagated.
pub(super) fn seed<K: Kernels, T: Precision, M: Module<SecondOrder<K>>>(
    model: M,
    names: &Names,
    seeds: &Seeds<'_, T>,
) -> M {
    let parts =
        seeds.slots.par_iter().map(|(block, vector)| block.scatter(seeds.layout, vector, T::default())).collect();
    let wanted = seeds.gradient_blocks.iter().flat_map(|block| block.pieces.iter().map(|piece| piece.parameter));
    let mut mapper = Seeder {
        path: Path::new(names),
        layout: seeds.layout,
        parts,
        gradient: seeds.gradient,
        wanted: wanted.collect(),
    };
    model.map(&mut mapper)
}

struct Seeder<'a, T> {
    path: Path,
    layout: &'a Layout,
    /// Per slot: (parameter, dense tangent values).
    parts: Vec<Vec<(usize, Vec<T>)>>,
    gradient: bool,
    wanted: Vec<usize>,
}

impl<K: Kernels, T: Precision> ModuleMapper<SecondOrder<K>> for Seeder<'_, T> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(
        &mut self,
        param: Param<Tensor<SecondOrder<K>, D>>,
    ) -> Param<Tensor<SecondOrder<K>, D>> {
        let Some(parameter) = self.layout.find(&self.path.name()) else { return param };
        param.map(|tensor| {
            let (shape, device) = (tensor.shape(), tensor.device());
            let constant = Tensor::from_inner(tensor.inner());
            let tangent = |values: &Vec<T>| {
                Tensor::<K, D>::from_data(TensorData::new(values.clone(), shape.clone()), (&device, T::DTYPE))
            };
            let of_slot = |slot: &Vec<(usize, Vec<T>)>| {
                slot.iter().find(|(index, _)| *index == parameter).map(|(_, values)| tangent(values))
            };
            let tangents: Vec<_> = self.parts.iter().map(of_slot).collect();
            let active = tangents.iter().any(Option::is_some) || self.wanted.contains(&parameter);
            if active { leaf(constant, tangents, !self.gradient) } else { constant }
        })
    }
}

/// A seeded module without its leaves: the same values and tangents, and no graph.
pub(super) fn untracked<K: Kernels, M: Module<SecondOrder<K>>>(model: M) -> M {
    model.map(&mut Untrack)
}

struct Untrack;

impl<K: Kernels> ModuleMapper<SecondOrder<K>> for Untrack {
    fn map_float<const D: usize>(
        &mut self,
        param: Param<Tensor<SecondOrder<K>, D>>,
    ) -> Param<Tensor<SecondOrder<K>, D>> {
        param.map(|tensor| {
            let dual = SecondOrder::<K>::inner(tensor.into_primitive().tensor());
            Tensor::from_primitive(TensorPrimitive::Float(SecondOrder::<K>::from_inner(dual)))
        })
    }
}

/// What a backward pass left on the parameters.
pub(super) struct Adjoints<K: Kernels> {
    /// By parameter of the layout; `None` where the loss does not depend on it or nobody asked.
    by_parameter: Vec<Option<Dual<K>>>,
}

impl<K: Kernels> Adjoints<K> {
    /// Of no parameter.
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
        let mut visitor = Collector { path: Path::new(names), layout, grads, by_parameter };
        model.visit(&mut visitor);
        Self { by_parameter: visitor.by_parameter }
    }

    /// The product of a slot, in its block's flat order.
    pub fn product<T: Precision>(&self, layout: &Layout, block: &Block, slot: usize) -> Vec<T> {
        let tangent = |parameter: usize| self.by_parameter[parameter].as_ref()?.tangent(slot).map(values::<K, T>);
        block.gather(layout, tangent, T::default())
    }

    /// `sum += factor * product`, slot by slot: `sums[slot]` is in the flat order of the slot's block.
    pub fn accumulate<T: Precision>(&self, layout: &Layout, blocks: &[&Block], factor: f64, sums: &mut [Vec<f64>]) {
        sums.par_iter_mut().zip(blocks.par_iter()).enumerate().for_each(|(slot, (sum, block))| {
            let mut at = 0;
            for piece in &block.pieces {
                let Some(tangent) = self.by_parameter[piece.parameter].as_ref().and_then(|dual| dual.tangent(slot))
                else {
                    at += piece.num_params(layout);
                    continue;
                };
                let values: Vec<T> = values::<K, T>(tangent);
                piece.runs(layout, |start, len| {
                    add(&mut sum[at..at + len], &values[start..start + len], factor);
                    at += len;
                });
            }
        });
    }

    /// The gradient, in the block's flat order.
    pub fn gradient<T: Precision>(&self, layout: &Layout, block: &Block) -> Vec<T> {
        let primal = |parameter: usize| self.by_parameter[parameter].as_ref().map(|dual| values::<K, T>(&dual.primal));
        block.gather(layout, primal, T::default())
    }
}

/// `sum += factor * values`, large runs on all threads.
fn add<T: Precision>(sum: &mut [f64], values: &[T], factor: f64) {
    const PIECE: usize = 1 << 16;
    sum.par_chunks_mut(PIECE).zip(values.par_chunks(PIECE)).for_each(|(sum, values)| {
        sum.iter_mut().zip(values).for_each(|(sum, x)| *sum += factor * x.to_f64());
    });
}

struct Collector<'a, K: Kernels> {
    path: Path,
    layout: &'a Layout,
    grads: &'a Gradients<K>,
    by_parameter: Vec<Option<Dual<K>>>,
}

impl<K: Kernels> ModuleVisitor<SecondOrder<K>> for Collector<'_, K> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<SecondOrder<K>, D>>) {
        if let Some(parameter) = self.layout.find(&self.path.name())
            && param.is_require_grad()
        {
            self.by_parameter[parameter] = adjoint(&param.val(), self.grads);
        }
    }
}

/// The first parameter of a layout that is not in this type.
pub(super) fn parameter_of_other_type<K: Kernels, M: Module<SecondOrder<K>>>(
    model: &M,
    names: &Names,
    layout: &Layout,
    dtype: DType,
) -> Option<(String, DType)> {
    let mut visitor = Types { path: Path::new(names), layout, dtype, other: None };
    model.visit(&mut visitor);
    visitor.other
}

struct Types<'a> {
    path: Path,
    layout: &'a Layout,
    dtype: DType,
    other: Option<(String, DType)>,
}

impl<K: Kernels> ModuleVisitor<SecondOrder<K>> for Types<'_> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<SecondOrder<K>, D>>) {
        let (name, found) = (self.path.name(), param.val().dtype());
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
    model.map(&mut Shifter { path: Path::new(names), layout, parts })
}

struct Shifter<'a, T> {
    path: Path,
    layout: &'a Layout,
    parts: Vec<(usize, Vec<T>)>,
}

impl<K: Kernels, T: Precision> ModuleMapper<SecondOrder<K>> for Shifter<'_, T> {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(
        &mut self,
        param: Param<Tensor<SecondOrder<K>, D>>,
    ) -> Param<Tensor<SecondOrder<K>, D>> {
        let parameter = self.layout.find(&self.path.name());
        let Some(at) = self.parts.iter().position(|(index, _)| Some(*index) == parameter) else { return param };
        let (_, values) = self.parts.swap_remove(at); // a module has each parameter once
        param.map(|tensor| {
            let data = TensorData::new(values, tensor.shape());
            let step = Tensor::from_data(data, (&tensor.device(), T::DTYPE));
            Tensor::from_inner(tensor.inner()) + step
        })
    }
}

/// The module with every float parameter in another precision, BatchNorm's running statistics too. Those are shared by
/// all clones of a module: the clones' change as well.
pub fn cast<K: Kernels, M: Module<SecondOrder<K>>>(model: M, dtype: DType) -> M {
    model.map(&mut Cast { path: Path::new(&Names::BURN), dtype, with_state: true })
}

/// The same, and the running statistics stay as they are.
pub(super) fn cast_parameters<K: Kernels, M: Module<SecondOrder<K>>>(model: M, dtype: DType) -> M {
    model.map(&mut Cast { path: Path::new(&Names::BURN), dtype, with_state: false })
}

struct Cast {
    path: Path,
    dtype: DType,
    with_state: bool,
}

impl<K: Kernels> ModuleMapper<SecondOrder<K>> for Cast {
    fn enter_module(&mut self, name: &str, container: &str) {
        self.path.enter(name, container);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(
        &mut self,
        param: Param<Tensor<SecondOrder<K>, D>>,
    ) -> Param<Tensor<SecondOrder<K>, D>> {
        if self.path.is_state() && !self.with_state {
            return param;
        }
        param.map(|tensor| Tensor::from_inner(tensor.inner().cast(self.dtype)))
    }
}
