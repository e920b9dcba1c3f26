//! Vectors of a block as one safetensors object: tensors by parameter name, in the parameter's shape, `name@i` of vector i, zero
//! outside of the block. Room for all of it is taken at once, and vectors come one by one.

use safetensors::SafeTensors;
use serde_json::{Map, Value, json};

use crate::block::{Block, Layout};
use crate::krylov::Real;
use crate::{Error, Result};

/// An object that is under way.
pub struct VectorObject<'a> {
    layout: &'a Layout,
    block: &'a Block,
    bytes: Vec<u8>,
}

/// The header's length is a multiple of this.
const ALIGNMENT: usize = 8;

impl<'a> VectorObject<'a> {
    /// An object of `num_vectors` vectors of a block, none of which is there yet.
    pub fn new<T: Real>(layout: &'a Layout, block: &'a Block, num_vectors: usize) -> Self {
        let mut header = Map::from_iter([("__metadata__".to_owned(), json!({ "block": block.name }))]);
        let mut end = 0;
        for vector in 0..num_vectors {
            for parameter in block.parameters() {
                let (parameter, begin) = (&layout.parameters()[parameter], end);
                end += parameter.num_params() * size_of::<T>();
                let tensor = json!({ "dtype": dtype::<T>(), "shape": parameter.shape, "data_offsets": [begin, end] });
                header.insert(format!("{}@{vector}", parameter.name), tensor);
            }
        }
        let mut text = Value::Object(header).to_string();
        let length = text.len().next_multiple_of(ALIGNMENT);
        text.extend(std::iter::repeat_n(' ', length - text.len()));
        let mut bytes = Vec::with_capacity(size_of::<u64>() + length + end);
        bytes.extend((length as u64).to_le_bytes());
        bytes.extend(text.as_bytes());
        Self { layout, block, bytes }
    }

    /// Adds the next vector, in the block's flat order.
    pub fn push<T: Real>(&mut self, flat: &[T]) {
        for (_, values) in self.block.scatter(self.layout, flat, T::from_f64(0.0)) {
            match size_of::<T>() {
                4 => self.bytes.extend(values.iter().flat_map(|x| (x.to_f64() as f32).to_le_bytes())),
                _ => self.bytes.extend(values.iter().flat_map(|x| x.to_f64().to_le_bytes())),
            }
        }
    }

    /// The vectors of a finished object of precision `T`, in the block's flat order.
    ///
    /// # Errors
    /// [`Error::Other`] for bytes that are no such object of this block.
    pub fn read<T: Real>(bytes: &[u8], layout: &Layout, block: &Block) -> Result<Vec<Vec<f64>>> {
        let refused = |why: &dyn std::fmt::Display| Error::Other(format!("vectors of block `{}`: {why}", block.name));
        let file = SafeTensors::deserialize(bytes).map_err(|error| refused(&error))?;
        let per_vector = block.parameters().len();
        if per_vector == 0 || !file.len().is_multiple_of(per_vector) {
            return Err(refused(&format!("{} tensors for {per_vector} parameters", file.len())));
        }
        let values = |parameter: usize, vector: usize| {
            let tensor = file.tensor(&format!("{}@{vector}", layout.parameters()[parameter].name)).ok()?;
            Some(tensor.data().chunks_exact(size_of::<T>()).map(number).collect())
        };
        let vector = |vector| block.gather(layout, |parameter| values(parameter, vector), 0.0);
        Ok((0..file.len() / per_vector).map(vector).collect())
    }

    /// The object.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// A number of four or eight bytes.
fn number(bytes: &[u8]) -> f64 {
    match *bytes {
        [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
        [a, b, c, d, e, f, g, h] => f64::from_le_bytes([a, b, c, d, e, f, g, h]),
        _ => f64::NAN,
    }
}

/// safetensors' name of a precision.
fn dtype<T>() -> &'static str {
    if size_of::<T>() == 4 { "F32" } else { "F64" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Piece;

    #[test]
    fn vectors_of_a_cut_block_are_read_back_by_parameter() {
        let layout = Layout::new([("a".into(), vec![2, 3]), ("b \"c\"".into(), vec![2])]);
        let pieces = vec![Piece::cut(0, 1, 1..2), Piece::whole(1)];
        let block = Block { name: "q".into(), kind: "q".into(), layer: None, pieces };
        let mut object = VectorObject::new::<f32>(&layout, &block, 2);
        let room = object.bytes.capacity();
        object.push::<f32>(&[1.0, 2.0, 3.0, 4.0]);
        object.push::<f32>(&[-1.0, -2.0, -3.0, 0.1]);
        let bytes = object.into_bytes();
        assert_eq!(bytes.len(), room);
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let values = |name: &str| -> Vec<f32> {
            let tensor = file.tensor(name).unwrap();
            tensor.data().chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
        };
        assert_eq!(file.len(), 4);
        assert_eq!(file.tensor("a@1").unwrap().shape(), [2, 3]);
        assert_eq!(values("a@0"), [0.0, 1.0, 0.0, 0.0, 2.0, 0.0]);
        assert_eq!(values("a@1"), [0.0, -1.0, 0.0, 0.0, -2.0, 0.0]);
        let flat = vec![vec![1.0, 2.0, 3.0, 4.0], vec![-1.0, -2.0, -3.0, f64::from(0.1_f32)]];
        assert_eq!(VectorObject::read::<f32>(&bytes, &layout, &block).unwrap(), flat);
        assert_eq!((values("b \"c\"@0"), values("b \"c\"@1")), (vec![3.0, 4.0], vec![-3.0, 0.1]));
    }
}
