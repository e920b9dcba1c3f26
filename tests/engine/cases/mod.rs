//! One table of cases for every generic check: each differentiable float operation with its inputs.
//!
//! The table is generic over the backend, so that the same row runs on the plain backend, in forward mode, in burn's
//! reverse mode and in second order.

mod attention;
mod convolution;
mod elementwise;
mod module;
mod products;
mod reduction;
mod shape;

use burn_backend::tensor::{BoolTensor, FloatTensor, IntTensor};
use burn_backend::{Backend, Shape, TensorData, get_device_settings};

use crate::values::Values;

pub type F<B> = FloatTensor<B>;

type Four<B> = fn(F<B>, F<B>, F<B>, F<B>) -> F<B>;

/// An operation on one to four float tensors.
pub enum Op<B: Backend> {
    One(fn(F<B>) -> F<B>),
    Two(fn(F<B>, F<B>) -> F<B>),
    Three(fn(F<B>, F<B>, F<B>) -> F<B>),
    Four(Four<B>),
}

/// Whose gradient is differenced to check H v.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reference {
    /// That of burn's own `Autodiff`.
    Autodiff,
    /// `SecondOrder`'s own, itself checked against differences of the value: burn's is wrong, imprecise or missing.
    Own(&'static str),
    /// As `Own`, and the plain backend's value is wrong or rounded too: forward mode's own value is differenced.
    PlainIsWrong(&'static str),
    /// There is no reverse rule: forward mode only.
    ForwardOnly(&'static str),
}

pub struct Case<B: Backend> {
    pub name: &'static str,
    pub inputs: Vec<Values>,
    pub op: Op<B>,
    pub reference: Reference,
    /// Start of the name of a backend that lacks the operation.
    pub missing_on: Option<&'static str>,
}

impl<B: Backend> Case<B> {
    pub fn apply(&self, inputs: Vec<F<B>>) -> F<B> {
        let mut inputs = inputs.into_iter();
        let mut next = || inputs.next().expect("as many inputs as the operation takes");
        match self.op {
            Op::One(f) => f(next()),
            Op::Two(f) => f(next(), next()),
            Op::Three(f) => f(next(), next(), next()),
            Op::Four(f) => f(next(), next(), next(), next()),
        }
    }
}

pub struct Table<B: Backend>(Vec<Case<B>>);

impl<B: Backend> Table<B> {
    fn push(&mut self, name: &'static str, inputs: Vec<Values>, op: Op<B>) {
        self.0.push(Case { name, inputs, op, reference: Reference::Autodiff, missing_on: None });
    }

    pub fn one(&mut self, name: &'static str, x: Values, op: fn(F<B>) -> F<B>) {
        self.push(name, vec![x], Op::One(op));
    }

    pub fn two(&mut self, name: &'static str, inputs: [Values; 2], op: fn(F<B>, F<B>) -> F<B>) {
        self.push(name, inputs.into(), Op::Two(op));
    }

    pub fn three(&mut self, name: &'static str, inputs: [Values; 3], op: fn(F<B>, F<B>, F<B>) -> F<B>) {
        self.push(name, inputs.into(), Op::Three(op));
    }

    pub fn four(&mut self, name: &'static str, inputs: [Values; 4], op: Four<B>) {
        self.push(name, inputs.into(), Op::Four(op));
    }

    fn last(&mut self) -> &mut Case<B> {
        self.0.last_mut().expect("a case was added")
    }

    /// burn's own `Autodiff` cannot be the reference for the case just added.
    pub fn own(&mut self, why: &'static str) {
        self.last().reference = Reference::Own(why);
    }

    pub fn plain_is_wrong(&mut self, why: &'static str) {
        self.last().reference = Reference::PlainIsWrong(why);
    }

    /// The backend whose name starts so stops at the case just added.
    pub fn missing_on(&mut self, backend: &'static str) {
        self.last().missing_on = Some(backend);
    }

    pub fn forward_only(&mut self, why: &'static str) {
        self.last().reference = Reference::ForwardOnly(why);
    }
}

/// All cases.
pub fn all<B: Backend>() -> Vec<Case<B>> {
    let mut table = Table(Vec::new());
    elementwise::cases(&mut table);
    reduction::cases(&mut table);
    shape::cases(&mut table);
    products::cases(&mut table);
    convolution::cases(&mut table);
    module::cases(&mut table);
    attention::cases(&mut table);
    table.0
}

pub fn ints<B: Backend, const D: usize>(shape: [usize; D], data: &[i64]) -> IntTensor<B> {
    let device = B::Device::default();
    let dtype = get_device_settings::<B>(&device).int_dtype;
    B::int_from_data(TensorData::new(data.to_vec(), shape).convert_dtype(dtype.into()), &device)
}

/// True where the number is not 0.
pub fn bools<B: Backend, const D: usize>(shape: [usize; D], data: &[i64]) -> BoolTensor<B> {
    let dtype = get_device_settings::<B>(&B::Device::default()).bool_dtype;
    B::int_greater_elem(ints::<B, D>(shape, data), 0.into(), dtype)
}

pub fn shape<const D: usize>(dims: [usize; D]) -> Shape {
    Shape::new(dims)
}
