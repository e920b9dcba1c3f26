//! Convolutions in two dimensions and their adjoints as products of matrices over blocks of [columns](super::columns).
//!
//! With W the kernels as a matrix (out, in x kernel) and C(x) the columns of x: y = W C(x), dx = C'(W' dy), dW = dy C(x)'. The
//! columns of a primal serve the primal and all slots. Units of work depend on the sizes alone, so that results do not depend on
//! the number of threads.

use std::ops::Range;

use burn_backend::ops::ConvOptions;
use burn_backend::{Shape, TensorMetadata};
use burn_flex::{Flex, FlexTensor};
use rayon::prelude::*;

use super::columns::{Block, Sizes};
use super::dual_slices::{Operand, active_slots, tensor, to_be_filled};
use super::element::Element;
use super::matrix::{Matrix, MatrixMut, SharedOutput, Threads, Write, product};
use crate::engine::kernels::{Dual, Mask, not_computed};

/// The convolution of x, (images, groups x in, height, width), with kernels, (groups x out, in, height, width), without a bias.
pub(super) fn conv2d<T: Element>(x: &Dual<Flex>, weight: &Dual<Flex>, options: &ConvOptions<2>) -> Dual<Flex> {
    let sizes = Sizes::new(&x.shape(), &weight.shape(), options);
    let mut outputs = Outputs::<T>::new(sizes.shape(), true, &active_slots(&[x, weight]));
    let like = &x.primal;
    let (x, weight) = (Operand::<T>::new(x), Operand::<T>::new(weight));
    let blocks = sizes.blocks(UNITS);
    let units = units(&blocks, sizes.groups, sizes.outputs, sizes.outputs);
    let components = outputs.components();
    units.into_par_iter().for_each_init(Scratch::default, |scratch, Unit { of: block, group, channels }| {
        let Scratch { primal, tangent, result } = scratch;
        let inputs = 0..sizes.inputs;
        let kernels = |numbers| kernels(&sizes, numbers, group, channels.clone(), inputs.clone());
        let columns = gathered(&sizes, primal, x.primal(), group, inputs.clone(), block);
        let pixels = sizes.pixels(block);
        for (slot, output) in &components {
            let result = resized(result, channels.len() * pixels);
            let mut sum = Sum::new(result, channels.len(), pixels);
            match *slot {
                None => sum.add(kernels(weight.primal()), columns),
                Some(slot) => {
                    if let Some(dx) = x.tangent(slot) {
                        let columns = gathered(&sizes, tangent, dx, group, inputs.clone(), block);
                        sum.add(kernels(weight.primal()), columns);
                    }
                    if let Some(dw) = weight.tangent(slot) {
                        sum.add(kernels(dw), columns);
                    }
                }
            }
            // SAFETY: no other unit has these pixels of these channels.
            unsafe { sizes.store(result, output, group, channels.clone(), block) };
        }
    });
    outputs.finish(like)
}

/// The adjoint of x, of the given shape, under [`conv2d`]: tangents in the slots of `keep`, the primal if asked for.
pub(super) fn x_adjoint<T: Element>(
    weight: &Dual<Flex>,
    grad: &Dual<Flex>,
    shape: &Shape,
    options: &ConvOptions<2>,
    keep: &Mask,
    with_primal: bool,
) -> Dual<Flex> {
    let sizes = Sizes::new(shape, &weight.shape(), options);
    let mut outputs = Outputs::<T>::new(shape.clone(), with_primal, &kept(&[weight, grad], keep));
    let like = &weight.primal;
    let (weight, grad) = (Operand::<T>::new(weight), Operand::<T>::new(grad));
    let blocks = sizes.blocks(1);
    let runs: Vec<&[Block]> = blocks.chunk_by(|a, b| a.images == b.images).collect();
    let units = units(&runs, sizes.groups, sizes.inputs, width(sizes.inputs, runs.len() * sizes.groups));
    let components = outputs.components();
    units.into_par_iter().for_each_init(Scratch::default, |scratch, Unit { of: run, group, channels }| {
        let Scratch { primal, tangent, result } = scratch;
        let kernels = |numbers| kernels(&sizes, numbers, group, 0..sizes.outputs, channels.clone()).transposed();
        let rows = channels.len() * sizes.taps();
        for (_, output) in &components {
            // SAFETY: no other unit has these channels of these images.
            unsafe { sizes.clear(output, group, channels.clone(), &run[0]) };
        }
        for block in *run {
            let upstream = loaded(&sizes, primal, grad.primal(), group, block);
            let pixels = sizes.pixels(block);
            for (slot, output) in &components {
                let result = resized(result, rows * pixels);
                let mut sum = Sum::new(result, rows, pixels);
                match *slot {
                    None => sum.add(kernels(weight.primal()), upstream),
                    Some(slot) => {
                        if let Some(dg) = grad.tangent(slot) {
                            sum.add(kernels(weight.primal()), loaded(&sizes, tangent, dg, group, block));
                        }
                        if let Some(dw) = weight.tangent(slot) {
                            sum.add(kernels(dw), upstream);
                        }
                    }
                }
                // SAFETY: no other unit has these channels of these images.
                unsafe { sizes.scatter(result, output, group, channels.clone(), block) };
            }
        }
    });
    outputs.finish(like)
}

/// The adjoint of the kernels, of the given shape, under [`conv2d`]: tangents in the slots of `keep`, the primal if asked for.
pub(super) fn weight_adjoint<T: Element>(
    x: &Dual<Flex>,
    grad: &Dual<Flex>,
    shape: &Shape,
    options: &ConvOptions<2>,
    keep: &Mask,
    with_primal: bool,
) -> Dual<Flex> {
    let sizes = Sizes::new(&x.shape(), shape, options);
    let mut outputs = Outputs::<T>::new(shape.clone(), with_primal, &kept(&[x, grad], keep));
    let like = &x.primal;
    let (x, grad) = (Operand::<T>::new(x), Operand::<T>::new(grad));
    let blocks = sizes.blocks(1);
    if blocks.is_empty() {
        outputs.clear(); // no images
    }
    let units = units(&[()], sizes.groups, sizes.inputs, width(sizes.inputs, sizes.groups));
    let components = outputs.components();
    units.into_par_iter().for_each_init(Scratch::default, |scratch, Unit { group, channels, .. }| {
        let Scratch { primal, tangent, result } = scratch;
        for (index, block) in blocks.iter().enumerate() {
            let columns = gathered(&sizes, primal, x.primal(), group, channels.clone(), block);
            let upstream = loaded(&sizes, result, grad.primal(), group, block);
            for (slot, output) in &components {
                // SAFETY: no other unit has these channels.
                let out = unsafe { kernels_in(&sizes, output, group, &channels) };
                let mut sum = Sum { out, write: if index == 0 { Write::Replace } else { Write::Add } };
                match *slot {
                    None => sum.add(upstream, columns.transposed()),
                    Some(slot) => {
                        if let Some(dg) = grad.tangent(slot) {
                            sum.add(loaded(&sizes, tangent, dg, group, block), columns.transposed());
                        }
                        if let Some(dx) = x.tangent(slot) {
                            let columns = gathered(&sizes, tangent, dx, group, channels.clone(), block);
                            sum.add(upstream, columns.transposed());
                        }
                    }
                }
            }
        }
    });
    outputs.finish(like)
}

/// Units into which an operation is divided, if that leaves them work enough.
const UNITS: usize = 8;

/// What one task computes: some channels of one group, for one part of the pixels (a block, a run of blocks, or all of them).
struct Unit<'a, W> {
    of: &'a W,
    group: usize,
    channels: Range<usize>,
}

/// All channels of all groups of all of `work`, `width` channels a unit.
fn units<W>(work: &[W], groups: usize, channels: usize, width: usize) -> Vec<Unit<'_, W>> {
    let parts = || (0..channels).step_by(width).map(move |start| start..(start + width).min(channels));
    let of_group = |of, group| parts().map(move |channels| Unit { of, group, channels });
    work.iter().flat_map(|of| (0..groups).flat_map(move |group| of_group(of, group))).collect()
}

/// Channels of a unit where there would be `undivided` units of all channels: at least sixteen.
fn width(channels: usize, undivided: usize) -> usize {
    channels.div_ceil(UNITS.div_ceil(undivided.max(1))).max(16)
}

/// Buffers of a thread.
struct Scratch<T> {
    primal: Vec<T>,
    tangent: Vec<T>,
    result: Vec<T>,
}

impl<T> Default for Scratch<T> {
    fn default() -> Self {
        Self { primal: Vec::new(), tangent: Vec::new(), result: Vec::new() }
    }
}

/// A buffer's first `len` numbers, whatever they are.
fn resized<T: Element>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        *buffer = to_be_filled(len);
    }
    &mut buffer[..len]
}

/// A sum of products of matrices.
struct Sum<'a, T> {
    out: MatrixMut<'a, T>,
    write: Write,
}

impl<'a, T: Element> Sum<'a, T> {
    /// Nothing yet, in numbers that the first product replaces.
    fn new(out: &'a mut [T], rows: usize, cols: usize) -> Self {
        Self { out: MatrixMut::dense(out, rows, cols), write: Write::Replace }
    }

    fn add(&mut self, lhs: Matrix<'_, T>, rhs: Matrix<'_, T>) {
        product(&mut self.out, self.write.then_add(), T::ONE, lhs, rhs, Threads::This);
    }
}

/// The columns of some channels, (channels x kernel, pixels).
fn gathered<'a, T: Element>(
    sizes: &Sizes,
    buffer: &'a mut Vec<T>,
    x: &[T],
    group: usize,
    channels: Range<usize>,
    block: &Block,
) -> Matrix<'a, T> {
    let (rows, pixels) = (channels.len() * sizes.taps(), sizes.pixels(block));
    let columns = resized(buffer, rows * pixels);
    sizes.gather(columns, x, group, channels, block);
    Matrix::dense(columns, rows, pixels)
}

/// A block's pixels of all output channels of a group, (channels, pixels).
fn loaded<'a, T: Element>(
    sizes: &Sizes,
    buffer: &'a mut Vec<T>,
    y: &[T],
    group: usize,
    block: &Block,
) -> Matrix<'a, T> {
    let pixels = sizes.pixels(block);
    let numbers = resized(buffer, sizes.outputs * pixels);
    sizes.load(numbers, y, group, block);
    Matrix::dense(numbers, sizes.outputs, pixels)
}

/// A group's kernels for some output and input channels, (out, in x kernel).
fn kernels<'a, T: Element>(
    sizes: &Sizes,
    weight: &'a [T],
    group: usize,
    outputs: Range<usize>,
    inputs: Range<usize>,
) -> Matrix<'a, T> {
    let (depth, taps) = (sizes.inputs * sizes.taps(), sizes.taps());
    let offset = (group * sizes.outputs + outputs.start) * depth + inputs.start * taps;
    Matrix::new(weight, offset, [outputs.len(), inputs.len() * taps], [depth as isize, 1])
}

/// A group's kernels for some input channels and all outputs, (out, in x kernel), to be written to.
///
/// # Safety
/// No other task may use these channels at the same time.
unsafe fn kernels_in<'a, T: Element>(
    sizes: &Sizes,
    weight: &'a SharedOutput<'_, T>,
    group: usize,
    inputs: &Range<usize>,
) -> MatrixMut<'a, T> {
    let (depth, taps) = (sizes.inputs * sizes.taps(), sizes.taps());
    let offset = group * sizes.outputs * depth + inputs.start * taps;
    // SAFETY: the caller's.
    unsafe { weight.matrix(offset, [sizes.outputs, inputs.len() * taps], [depth as isize, 1]) }
}

/// The slots of `keep` in which any of the duals has a tangent.
fn kept(duals: &[&Dual<Flex>], keep: &Mask) -> Mask {
    let active = active_slots(duals);
    active.iter().enumerate().map(|(slot, &active)| active && keep.get(slot).copied().unwrap_or(false)).collect()
}

/// A dual under construction, to which tasks write.
struct Outputs<T> {
    shape: Shape,
    primal: Option<Vec<T>>,
    tangents: Vec<Option<Vec<T>>>,
}

impl<T: Element> Outputs<T> {
    /// Buffers of which every number must be written before [`Outputs::finish`].
    fn new(shape: Shape, with_primal: bool, active: &Mask) -> Self {
        let numbers = |wanted: bool| wanted.then(|| to_be_filled(shape.num_elements()));
        Self { primal: numbers(with_primal), tangents: active.iter().copied().map(numbers).collect(), shape }
    }

    /// Zeros everywhere.
    fn clear(&mut self) {
        self.primal.iter_mut().chain(self.tangents.iter_mut().flatten()).for_each(|numbers| numbers.fill(T::ZERO));
    }

    /// The numbers of the primal (`None`) and of each active slot.
    fn components(&mut self) -> Vec<(Option<usize>, SharedOutput<'_, T>)> {
        let primal = self.primal.iter_mut().map(|numbers| (None, SharedOutput::new(numbers)));
        let tangents = self.tangents.iter_mut().enumerate();
        let tangents = tangents.filter_map(|(slot, numbers)| Some((Some(slot), SharedOutput::new(numbers.as_mut()?))));
        primal.chain(tangents).collect()
    }

    /// The dual; a primal that nobody asked for is NaN, of the type of `like`.
    fn finish(self, like: &FlexTensor) -> Dual<Flex> {
        let Self { shape, primal, tangents } = self;
        let whole = |numbers| tensor(numbers, shape.clone());
        let primal = primal.map_or_else(|| not_computed::<Flex>(like, shape.clone()), whole);
        Dual::new(primal, tangents.into_iter().map(|t| t.map(whole)).collect())
    }
}
