//! The numbers that the outputs of a convolution take from its input, gathered as a matrix ("im2col": Chellapilla, Puri and
//! Simard 2006), a block of output pixels at a time, and the transpose of that: numbers for each, added up where they came from.

use std::ops::Range;

use burn_backend::Shape;
use burn_backend::ops::ConvOptions;

use super::element::{Element, vectorized};
use super::lanes::update;
use super::matrix::SharedOutput;

/// The most columns of a block, if an image's row has no more: few enough for those of 3 x 3 kernels on some hundred channels to
/// stay in the second cache.
const MOST_COLUMNS: usize = 256;
/// The fewest, where there are as many: enough for a product of matrices near its full rate.
const LEAST_COLUMNS: usize = 64;

/// Sizes of a convolution in two dimensions. Pairs are (height, width).
#[derive(Debug, Clone)]
pub(super) struct Sizes {
    images: usize,
    pub(super) groups: usize,
    /// Input channels of a group.
    pub(super) inputs: usize,
    /// Output channels of a group.
    pub(super) outputs: usize,
    input: [usize; 2],
    output: [usize; 2],
    kernel: [usize; 2],
    stride: [usize; 2],
    padding: [usize; 2],
    dilation: [usize; 2],
}

/// Some rows of output pixels: of one image, or whole planes of several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) images: Range<usize>,
    rows: Range<usize>,
}

impl Sizes {
    /// Sizes of the convolution of x, (images, groups x inputs, height, width), with kernels, (groups x outputs, inputs, height, width).
    ///
    /// # Panics
    /// If these do not fit together, or the kernels reach over more than the padded input.
    pub(super) fn new(x: &Shape, weight: &Shape, options: &ConvOptions<2>) -> Self {
        let ([images, channels, height, width], [all_outputs, inputs, down, across]) = (x.dims(), weight.dims());
        let ConvOptions { stride, padding, dilation, groups } = options.clone();
        assert_eq!(inputs * groups, channels, "channels of the input and of the kernels");
        assert!(all_outputs.is_multiple_of(groups), "{all_outputs} output channels in {groups} groups");
        let (input, kernel) = ([height, width], [down, across]);
        let output = [0, 1].map(|d| {
            let padded = input[d] + 2 * padding[d];
            let reach = dilation[d] * (kernel[d] - 1) + 1;
            assert!(padded >= reach, "a kernel that reaches over {reach} on {padded} numbers");
            (padded - reach) / stride[d] + 1
        });
        Self { images, groups, inputs, outputs: all_outputs / groups, input, output, kernel, stride, padding, dilation }
    }

    /// Numbers of a kernel for one channel.
    pub(super) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Shape of the output.
    pub(super) fn shape(&self) -> Shape {
        Shape::new([self.images, self.groups * self.outputs, self.output[0], self.output[1]])
    }

    /// Input pixels of an image.
    fn input_plane(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Output pixels of an image.
    fn output_plane(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// All output pixels, in blocks that depend on the sizes alone: at least so many, if that leaves them columns enough.
    pub(super) fn blocks(&self, at_least: usize) -> Vec<Block> {
        let [height, width] = self.output;
        let columns = (self.images * self.output_plane() / at_least).clamp(LEAST_COLUMNS, MOST_COLUMNS);
        if self.output_plane() <= columns {
            let together = (columns / self.output_plane().max(1)).max(1);
            let starts = (0..self.images).step_by(together);
            return starts
                .map(|start| Block { images: start..(start + together).min(self.images), rows: 0..height })
                .collect();
        }
        let rows = (columns / width).max(1);
        let of_image = |image: usize| {
            let starts = (0..height).step_by(rows);
            starts.map(move |start| Block { images: image..image + 1, rows: start..(start + rows).min(height) })
        };
        (0..self.images).flat_map(of_image).collect()
    }

    /// Output pixels of a block.
    pub(super) fn pixels(&self, block: &Block) -> usize {
        block.images.len() * block.rows.len() * self.output[1]
    }

    /// Where a block's pixels lie in the output, for each of some channels of a group and each image in turn.
    fn each_plane(&self, group: usize, channels: Range<usize>, block: &Block, mut visit: impl FnMut(Range<usize>)) {
        for channel in channels {
            for image in block.images.clone() {
                let plane = ((image * self.groups + group) * self.outputs + channel) * self.output_plane();
                visit(plane + block.rows.start * self.output[1]..plane + block.rows.end * self.output[1]);
            }
        }
    }

    /// Fills `pixels`, (channels, pixels), with a block's pixels of all output channels of a group.
    pub(super) fn load<T: Element>(&self, pixels: &mut [T], y: &[T], group: usize, block: &Block) {
        let mut rest = pixels;
        self.each_plane(group, 0..self.outputs, block, |range| {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(range.len());
            part.copy_from_slice(&y[range]);
            rest = after;
        });
    }

    /// Writes `pixels`, (channels, pixels), to some output channels of a group.
    ///
    /// # Safety
    /// No other task may use these pixels of these channels at the same time.
    pub(super) unsafe fn store<T: Element>(
        &self,
        pixels: &[T],
        y: &SharedOutput<'_, T>,
        group: usize,
        channels: Range<usize>,
        block: &Block,
    ) {
        let mut rest = pixels;
        self.each_plane(group, channels, block, |range| {
            let (part, after) = rest.split_at(range.len());
            // SAFETY: the caller's.
            unsafe { y.slice(range) }.copy_from_slice(part);
            rest = after;
        });
    }

    /// Where the plane of an input channel begins; channels count within the group.
    fn input_at(&self, image: usize, group: usize, channel: usize) -> usize {
        ((image * self.groups + group) * self.inputs + channel) * self.input_plane()
    }

    /// For each input channel, row and column of the kernel, and image of a block: where its pixels lie in the columns, and what
    /// they take.
    #[inline(always)]
    fn each_tap(&self, group: usize, channels: Range<usize>, block: &Block, mut visit: impl FnMut(Range<usize>, Tap)) {
        let (mut at, pixels) = (0, block.rows.len() * self.output[1]);
        for channel in channels {
            for down in 0..self.kernel[0] {
                let lines = self.inside(0, down);
                let rows = lines.start.max(block.rows.start)..lines.end.min(block.rows.end);
                for across in 0..self.kernel[1] {
                    let columns = self.inside(1, across);
                    for image in block.images.clone() {
                        let plane = self.input_at(image, group, channel);
                        let taken = if rows.is_empty() || columns.is_empty() {
                            None
                        } else {
                            let (line, place) = (self.from(0, rows.start, down), self.from(1, columns.start, across));
                            let rows = rows.start - block.rows.start..rows.end - block.rows.start;
                            Some((rows, columns.clone(), plane + line * self.input[1] + place))
                        };
                        visit(at..at + pixels, taken);
                        at += pixels;
                    }
                }
            }
        }
    }

    /// The output rows (dimension 0) or columns (1) for which a kernel's row or column lies on the input, not on the padding.
    fn inside(&self, dim: usize, tap: usize) -> Range<usize> {
        let (stride, padding, offset) = (self.stride[dim], self.padding[dim], tap * self.dilation[dim]);
        let start = padding.saturating_sub(offset).div_ceil(stride);
        let end = (self.input[dim] + padding).saturating_sub(offset).div_ceil(stride).min(self.output[dim]);
        start.min(end)..end
    }

    /// The input row or column from which an output that lies inside takes its number.
    fn from(&self, dim: usize, output: usize, tap: usize) -> usize {
        output * self.stride[dim] + tap * self.dilation[dim] - self.padding[dim]
    }

    /// Whether input and output have lines of one length without gaps, so that several of them are one run of numbers.
    fn keeps_lines(&self) -> bool {
        self.stride == [1, 1] && self.output[1] == self.input[1]
    }

    /// Fills `columns`, (channels x kernel, pixels), from the input's numbers; 0 from the padding.
    pub(super) fn gather<T: Element>(
        &self,
        columns: &mut [T],
        x: &[T],
        group: usize,
        channels: Range<usize>,
        block: &Block,
    ) {
        let (width, [down, across]) = (self.output[1], self.stride);
        self.each_tap(group, channels, block, |at, taken| {
            let pixels = &mut columns[at];
            let Some((rows, inside, from)) = taken else { return pixels.fill(T::ZERO) };
            pixels[..rows.start * width].fill(T::ZERO);
            pixels[rows.end * width..].fill(T::ZERO);
            let pixels = &mut pixels[rows.start * width..rows.end * width];
            if self.keeps_lines() {
                let run = inside.start..pixels.len() - (width - inside.end);
                let count = run.len();
                pixels[run].copy_from_slice(&x[from..from + count]);
                clear_padding(pixels, width, &inside);
                return;
            }
            for (line, row) in pixels.chunks_exact_mut(width).enumerate() {
                let from = from + line * down * self.input[1];
                row[..inside.start].fill(T::ZERO);
                row[inside.end..].fill(T::ZERO);
                row[inside.clone()].iter_mut().zip(x[from..].iter().step_by(across)).for_each(|(out, x)| *out = *x);
            }
        });
    }

    /// Zeros in some input channels of a group, of a block's images.
    ///
    /// # Safety
    /// Nobody else may use these channels of these images in `x` at the same time.
    pub(super) unsafe fn clear<T: Element>(
        &self,
        x: &SharedOutput<'_, T>,
        group: usize,
        channels: Range<usize>,
        block: &Block,
    ) {
        for image in block.images.clone() {
            let [from, to] = [channels.start, channels.end].map(|channel| self.input_at(image, group, channel));
            // SAFETY: the caller's.
            unsafe { x.slice(from..to) }.fill(T::ZERO);
        }
    }

    /// The transpose of [`Sizes::gather`]: adds each number of `columns` to the one of the input that it would be taken from.
    /// `columns` is left with other numbers.
    ///
    /// # Safety
    /// Nobody else may use these channels of the block's images in `x` at the same time.
    pub(super) unsafe fn scatter<T: Element>(
        &self,
        columns: &mut [T],
        x: &SharedOutput<'_, T>,
        group: usize,
        channels: Range<usize>,
        block: &Block,
    ) {
        let (width, [down, across]) = (self.output[1], self.stride);
        self.each_tap(group, channels, block, |at, taken| {
            let Some((rows, inside, from)) = taken else { return };
            let pixels = &mut columns[at][rows.start * width..rows.end * width];
            if self.keeps_lines() {
                clear_padding(pixels, width, &inside);
                let run = &pixels[inside.start..pixels.len() - (width - inside.end)];
                // SAFETY: the caller's.
                let x = unsafe { x.slice(from..from + run.len()) };
                vectorized(
                    #[inline(always)]
                    || update(x, run, |x, added| x + added),
                );
                return;
            }
            for (line, row) in pixels.chunks_exact(width).enumerate() {
                let from = from + line * down * self.input[1];
                // SAFETY: the caller's.
                let x = unsafe { x.slice(from..from + (inside.len() - 1) * across + 1) };
                x.iter_mut().step_by(across).zip(&row[inside.clone()]).for_each(|(x, added)| *x += *added);
            }
        });
    }
}

/// What the pixels of a block take from an image for one channel and one position of the kernel: the block's rows and the output's
/// columns that take anything from the input, and the position in the input of what the first of these takes. `None`: nothing.
type Tap = Option<(Range<usize>, Range<usize>, usize)>;

/// Zeros in the columns of each row that take nothing from the input.
fn clear_padding<T: Element>(rows: &mut [T], width: usize, inside: &Range<usize>) {
    if inside.len() < width {
        for row in rows.chunks_exact_mut(width) {
            row[..inside.start].fill(T::ZERO);
            row[inside.end..].fill(T::ZERO);
        }
    }
}
