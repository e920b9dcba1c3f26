//! The flat order of a network's parameters, and the blocks cut out of it.
//!
//! A *layout* lists the parameter tensors in network order with their offsets. A *block* is a list of
//! pieces, each a whole parameter or a range along one of its axes. The flat order of a block's vector:
//! pieces in layout order, each row-major in the stored layout.

use std::collections::BTreeSet;
use std::ops::Range;

/// One parameter tensor of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parameter {
    /// Hugging Face's name, or burn's path for a user's own model.
    pub name: String,
    /// Shape as stored.
    pub shape: Vec<usize>,
    /// First index of this parameter in the network's flat order.
    pub offset: usize,
}

impl Parameter {
    /// Number of entries.
    pub fn num_params(&self) -> usize {
        self.shape.iter().product()
    }
}

/// All parameters of a network, in network order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layout {
    parameters: Vec<Parameter>,
}

impl Layout {
    /// A layout from names and shapes in network order; offsets follow.
    pub fn new(parameters: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut offset = 0;
        let parameters = parameters
            .into_iter()
            .map(|(name, shape)| {
                let parameter = Parameter { name, shape, offset };
                offset += parameter.num_params();
                parameter
            })
            .collect();
        Self { parameters }
    }

    /// The parameters, in network order.
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// Number of parameters of the whole network.
    pub fn num_params(&self) -> usize {
        self.parameters.iter().map(Parameter::num_params).sum()
    }

    /// Position of a parameter by name.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.parameters.iter().position(|p| p.name == name)
    }

    /// The block of the whole network, named `full`.
    pub fn full(&self) -> Block {
        Block {
            name: FULL.into(),
            kind: FULL.into(),
            layer: None,
            pieces: (0..self.parameters.len()).map(Piece::whole).collect(),
        }
    }
}

/// A parameter, or a range along one of its axes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Index into [`Layout::parameters`].
    pub parameter: usize,
    /// `Some((axis, range))`: only these indices along this axis.
    pub cut: Option<(usize, Range<usize>)>,
}

impl Piece {
    /// The whole of a parameter.
    pub fn whole(parameter: usize) -> Self {
        Self { parameter, cut: None }
    }

    /// A range along one axis of a parameter.
    pub fn cut(parameter: usize, axis: usize, range: Range<usize>) -> Self {
        Self { parameter, cut: Some((axis, range)) }
    }

    /// Shape of the piece.
    pub fn shape(&self, layout: &Layout) -> Vec<usize> {
        let mut shape = layout.parameters[self.parameter].shape.clone();
        if let Some((axis, range)) = &self.cut {
            shape[*axis] = range.len();
        }
        shape
    }

    /// Number of entries.
    pub fn num_params(&self, layout: &Layout) -> usize {
        self.shape(layout).iter().product()
    }

    /// Calls `visit(start in the parameter, length)` for each contiguous run, in row-major order.
    pub fn runs(&self, layout: &Layout, mut visit: impl FnMut(usize, usize)) {
        let shape = &layout.parameters[self.parameter].shape;
        match &self.cut {
            None => visit(0, shape.iter().product()),
            Some((axis, range)) => {
                let inner: usize = shape[axis + 1..].iter().product();
                let outer: usize = shape[..*axis].iter().product();
                for index in 0..outer {
                    visit((index * shape[*axis] + range.start) * inner, range.len() * inner);
                }
            }
        }
    }
}

/// Name and kind of the block that is the whole network.
pub const FULL: &str = "full";

/// A principal sub-matrix of the Hessian: the parameters it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Unique name, the same in TOML, Parquet and reports.
    pub name: String,
    /// What it is: `full`, `layer`, `module`, or the parameter's role (`q.weight`, `c_fc.weight`, ...).
    pub kind: String,
    /// Layer number from 0, where it belongs to one.
    pub layer: Option<usize>,
    /// The pieces, in layout order.
    pub pieces: Vec<Piece>,
}

impl Block {
    /// Whether it is the whole network.
    pub fn is_full(&self) -> bool {
        self.kind == FULL
    }

    /// The parameters that it has pieces of, each once.
    pub fn parameters(&self) -> BTreeSet<usize> {
        self.pieces.iter().map(|piece| piece.parameter).collect()
    }

    /// Dimension of the block's Hessian.
    pub fn num_params(&self, layout: &Layout) -> usize {
        self.pieces.iter().map(|piece| piece.num_params(layout)).sum()
    }

    /// Offset of the block's first entry in the network's flat order.
    pub fn offset(&self, layout: &Layout) -> usize {
        self.pieces.first().map_or(0, |piece| {
            let mut first = None;
            piece.runs(layout, |start, _| first = first.or(Some(start)));
            layout.parameters[piece.parameter].offset + first.unwrap_or(0)
        })
    }

    /// The block's vector cut out of the parameters' values (each row-major, in layout order).
    pub fn gather<T: Copy>(&self, layout: &Layout, parameter: impl Fn(usize) -> Option<Vec<T>>, zero: T) -> Vec<T> {
        let mut flat = Vec::with_capacity(self.num_params(layout));
        for piece in &self.pieces {
            match parameter(piece.parameter) {
                Some(values) => piece.runs(layout, |start, len| flat.extend_from_slice(&values[start..start + len])),
                None => flat.resize(flat.len() + piece.num_params(layout), zero),
            }
        }
        flat
    }

    /// The inverse of [`Block::gather`]: dense parameter values, zero outside the block, for each parameter the block touches.
    pub fn scatter<T: Copy>(&self, layout: &Layout, flat: &[T], zero: T) -> Vec<(usize, Vec<T>)> {
        let mut out: Vec<(usize, Vec<T>)> = Vec::new();
        let mut at = 0;
        for piece in &self.pieces {
            let is_new = out.last().is_none_or(|(parameter, _)| *parameter != piece.parameter);
            if is_new && piece.cut.is_none() {
                let len = piece.num_params(layout);
                out.push((piece.parameter, flat[at..at + len].to_vec()));
                at += len;
                continue;
            }
            if is_new {
                out.push((piece.parameter, vec![zero; layout.parameters[piece.parameter].num_params()]));
            }
            if let Some((_, values)) = out.last_mut() {
                piece.runs(layout, |start, len| {
                    values[start..start + len].copy_from_slice(&flat[at..at + len]);
                    at += len;
                });
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new([("a".into(), vec![2, 6]), ("b".into(), vec![3])])
    }

    #[test]
    fn a_column_range_is_cut_row_by_row() {
        let layout = layout();
        let block = Block { name: "q".into(), kind: "q".into(), layer: None, pieces: vec![Piece::cut(0, 1, 2..4)] };
        let values: Vec<f64> = (0..12).map(f64::from).collect();
        let flat = block.gather(&layout, |_| Some(values.clone()), 0.0);
        assert_eq!(flat, [2.0, 3.0, 8.0, 9.0]);
        assert_eq!(block.offset(&layout), 2);
        let back = block.scatter(&layout, &flat, 0.0);
        assert_eq!(back[0].1.iter().filter(|x| **x != 0.0).count(), 4);
        assert_eq!(back[0].1[8], 8.0);
    }

    #[test]
    fn full_covers_everything_once() {
        let layout = layout();
        assert_eq!(layout.full().num_params(&layout), 15);
        assert_eq!(layout.parameters()[1].offset, 12);
    }
}
