//! Host-side tensors in f64, seeded inputs, and the way to and from a backend.

use burn_backend::tensor::FloatTensor;
use burn_backend::{Backend, TensorData, TensorMetadata, get_device_settings, try_read_sync};

/// A tensor on the host, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct Values {
    pub shape: Vec<usize>,
    pub data: Vec<f64>,
}

/// SplitMix64: a small seeded generator, the same on every platform.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in [low, high).
    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in [-1, 1), of the given shape.
    pub fn values(&mut self, shape: &[usize]) -> Values {
        let count = shape.iter().product();
        Values { shape: shape.to_vec(), data: (0..count).map(|_| self.uniform(-1.0, 1.0)).collect() }
    }
}

/// Values in (low, high) whose mutual distance is at least 0.4 (high - low) / n: a shuffled, jittered grid.
/// Central differences with steps well below that never change an order (maximum, sort) or cross a kink that lies
/// on the grid's borders (0, for an even number of cells around it).
pub fn spread(shape: &[usize], low: f64, high: f64) -> Values {
    let count: usize = shape.iter().product();
    let mut random = Random::new(shape.iter().fold(count as u64, |seed, &n| seed * 31 + n as u64));
    let cell = (high - low) / (count + count % 2) as f64;
    let mut data: Vec<f64> = (0..count).map(|i| low + cell * (i as f64 + random.uniform(0.3, 0.7))).collect();
    for i in (1..count).rev() {
        data.swap(i, random.below(i + 1));
    }
    Values { shape: shape.to_vec(), data }
}

pub fn real<const D: usize>(shape: [usize; D]) -> Values {
    spread(&shape, -2.0, 2.0)
}

pub fn positive<const D: usize>(shape: [usize; D]) -> Values {
    spread(&shape, 0.4, 2.4)
}

/// In (-1, 1), away from its ends.
pub fn unit<const D: usize>(shape: [usize; D]) -> Values {
    spread(&shape, -0.8, 0.8)
}

pub fn given<const D: usize>(shape: [usize; D], data: &[f64]) -> Values {
    Values { shape: shape.to_vec(), data: data.to_vec() }
}

impl Values {
    pub fn plus(&self, scale: f64, other: &Values) -> Values {
        let data = self.data.iter().zip(&other.data).map(|(x, y)| x + scale * y).collect();
        Values { shape: self.shape.clone(), data }
    }

    pub fn times(&self, scale: f64) -> Values {
        Values { shape: self.shape.clone(), data: self.data.iter().map(|x| scale * x).collect() }
    }

    pub fn dot(&self, other: &Values) -> f64 {
        self.data.iter().zip(&other.data).map(|(x, y)| x * y).sum()
    }

    pub fn largest(&self) -> f64 {
        self.data.iter().fold(0.0, |top, x| top.max(x.abs()))
    }

    pub fn distance(&self, other: &Values) -> f64 {
        assert_eq!(self.shape, other.shape, "shapes differ");
        self.data.iter().zip(&other.data).fold(0.0, |top: f64, (x, y)| match (x - y).abs() {
            d if d.is_nan() => f64::INFINITY,
            d => top.max(d),
        })
    }

    /// Equal bit for bit.
    pub fn same_bits(&self, other: &Values) -> bool {
        self.shape == other.shape && self.data.iter().zip(&other.data).all(|(x, y)| x.to_bits() == y.to_bits())
    }
}

/// On the backend, in the device's default dtype.
pub fn put<B: Backend>(values: &Values) -> FloatTensor<B> {
    let device = B::Device::default();
    let dtype = get_device_settings::<B>(&device).float_dtype;
    let data = TensorData::new(values.data.clone(), values.shape.clone()).convert_dtype(dtype.into());
    B::float_from_data(data, &device)
}

/// Back on the host. The dtype must still be the device's default: an operation that leaves it loses digits.
pub fn get<B: Backend>(tensor: FloatTensor<B>) -> Values {
    let expected = get_device_settings::<B>(&B::Device::default()).float_dtype;
    assert_eq!(tensor.dtype(), expected.into(), "the operation left the default dtype");
    let shape = tensor.shape().to_vec();
    let data = try_read_sync(B::float_into_data(tensor)).expect("synchronous backend").expect("readable");
    Values { shape, data: data.iter::<f64>().collect() }
}
