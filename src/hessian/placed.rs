//! The parameters of a module as one vector in the layout's flat order: out of the module, and into it.

use burn::module::Module;
use burn::tensor::{DType, TensorData};

use super::Precision;
use crate::Result;
use crate::block::Layout;
use crate::engine::{Kernels, SecondOrder};
use crate::models::{Names, fill, read};

/// The values of all parameters.
pub(super) fn values_of<K: Kernels, T: Precision, M: Module<SecondOrder<K>>>(
    model: &M,
    names: &Names,
    layout: &Layout,
) -> Vec<T> {
    let mut flat = vec![T::default(); layout.num_params()];
    read(model, names, |name, data| {
        let Some(at) = layout.find(name) else { return };
        let parameter = &layout.parameters()[at];
        let place = &mut flat[parameter.offset..parameter.offset + parameter.num_params()];
        match data.dtype {
            DType::F64 => place.iter_mut().zip(data.iter::<f64>()).for_each(|(x, value)| *x = T::from_f64(value)),
            _ => place.iter_mut().zip(data.iter::<f32>()).for_each(|(x, value)| *x = T::from_f64(f64::from(value))),
        }
    });
    flat
}

/// The module with these values in the place of all of its parameters'.
///
/// # Errors
/// None: every parameter of the layout has its values.
pub(crate) fn with_values<K: Kernels, T: Precision, M: Module<SecondOrder<K>>>(
    model: M,
    names: &Names,
    layout: &Layout,
    flat: &[T],
) -> Result<M> {
    fill(model, names, T::DTYPE, |name, shape| {
        let parameter = layout.find(name).map(|at| &layout.parameters()[at]);
        let values = parameter.map(|parameter| &flat[parameter.offset..parameter.offset + parameter.num_params()]);
        Ok(values.map(|values| TensorData::new(values.to_vec(), shape.to_vec())))
    })
}
