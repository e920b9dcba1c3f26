//! Names: how burn's parameter paths, a file's tensor names and block names relate. The one place where they do.
//!
//! A model family is one [`Names`] table.

use burn::module::{Module, Param};
use burn::tensor::{DType, Tensor, TensorData, backend::Backend};

use super::naming::Naming;
use super::walk::{MapFloat, Path, VisitFloat, map, visit};
use crate::block::Layout;
use crate::error::{Error, Result};

/// How one family of models calls its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Names {
    /// Renamings of a path's last element: (burn's, ours).
    pub last: &'static [(&'static str, &'static str)],
    /// Renamings of a path's other elements: (burn's, ours), for names that no field of Rust's can have.
    pub inner: &'static [(&'static str, &'static str)],
    /// Prefix which a weights file may leave out.
    pub optional_prefix: &'static str,
    /// How weights files call and lay out the parameters.
    pub namings: &'static [Naming],
    /// Endings of tensors in a weights file that are no parameters.
    pub buffers: &'static [&'static str],
    /// (copy, original): a file may repeat the original under the copy's name.
    pub copies: &'static [(&'static str, &'static str)],
    /// (ending of a name, key): the configuration's key that says how many rows the parameter has.
    pub rows: &'static [(&'static str, &'static str)],
    /// Elements of a path that its name leaves out: the variants of an enum of modules, which burn puts into the path.
    pub hidden: &'static [&'static str],
}

impl Names {
    /// burn's own paths, for a user's model.
    pub const BURN: Names = Names {
        last: &[],
        inner: &[],
        optional_prefix: "",
        namings: &[Naming::PLAIN],
        buffers: &[],
        copies: &[],
        rows: &[],
        hidden: &[],
    };

    /// The name of a parameter at a burn path.
    pub fn of_path(&self, path: &[String]) -> String {
        let renamed =
            |element| self.inner.iter().find(|(burns, _)| *burns == element).map_or(element, |(_, ours)| *ours);
        let shown = path.iter().map(String::as_str).filter(|element| !self.hidden.contains(element));
        let mut name = shown.map(renamed).collect::<Vec<_>>().join(".");
        if let Some(last) = path.last()
            && let Some((_, ours)) = self.last.iter().find(|(burns, _)| burns == last)
        {
            name.truncate(name.len() - last.len());
            name.push_str(ours);
        }
        name
    }

    /// Whether a file's tensor of this name is a buffer, not a parameter.
    pub fn is_buffer(&self, name: &str) -> bool {
        self.buffers.iter().any(|ending| name.ends_with(ending))
    }
}

/// Names and shapes of the trainable float parameters, in the order of the module's fields.
///
/// Trainable: on a backend with gradients, what requires one; on a plain backend, where nothing can say so, every
/// float parameter but BatchNorm's running statistics. Ask before any parameter is frozen for a single block.
pub fn parameters<B: Backend, M: Module<B>>(module: &M, names: &Names) -> Layout {
    let visitor = visit(module, names, Shapes { found: Vec::new() });
    let known = visitor.found.iter().any(|found| found.requires_grad);
    let trainable = visitor.found.into_iter().filter(|found| if known { found.requires_grad } else { !found.is_state });
    Layout::new(trainable.map(|found| (found.name, found.shape)))
}

/// Names and shapes of what a file of weights holds: the `parameters`, and behind them BatchNorm's running statistics, which are
/// loaded and never differentiated. Of the module nothing is made that is not there yet but these.
pub fn stored<B: Backend, M: Module<B>>(module: &M, names: &Names, parameters: &Layout) -> Layout {
    let visitor = visit(module, names, States { found: Vec::new() });
    let parameters = parameters.parameters().iter().map(|parameter| (parameter.name.clone(), parameter.shape.clone()));
    Layout::new(parameters.chain(visitor.found))
}

/// Replaces parameter values: `values(name, shape)` gives the new one in any float type, `None` keeps the old.
/// The new tensors have `dtype` and require a gradient where the old ones did. Errors: the first one of `values`.
pub fn fill<B: Backend, M: Module<B>>(
    module: M,
    names: &Names,
    dtype: DType,
    values: impl FnMut(&str, &[usize]) -> Result<Option<TensorData>>,
) -> Result<M> {
    let (module, mapper) = map(module, names, Filler { dtype, values, error: None });
    match mapper.error {
        Some(error) => Err(error),
        None => Ok(module),
    }
}

/// Reads every float parameter back to the host, in network order: `each(name, value)`.
pub fn read<B: Backend, M: Module<B>>(module: &M, names: &Names, each: impl FnMut(&str, TensorData)) {
    visit(module, names, Reader { each });
}

struct Found {
    name: String,
    shape: Vec<usize>,
    requires_grad: bool,
    is_state: bool,
}

struct Shapes {
    found: Vec<Found>,
}

impl<B: Backend> VisitFloat<B> for Shapes {
    fn visit<const D: usize>(&mut self, path: &Path, param: &Param<Tensor<B, D>>) {
        self.found.push(Found {
            name: path.name(),
            shape: param.shape().to_vec(),
            requires_grad: param.is_require_grad(),
            is_state: path.is_state(),
        });
    }
}

/// Names and shapes of running statistics.
struct States {
    found: Vec<(String, Vec<usize>)>,
}

impl<B: Backend> VisitFloat<B> for States {
    fn visit<const D: usize>(&mut self, path: &Path, param: &Param<Tensor<B, D>>) {
        if path.is_state() {
            self.found.push((path.name(), param.shape().to_vec()));
        }
    }
}

struct Filler<F> {
    dtype: DType,
    values: F,
    error: Option<Error>,
}

impl<B: Backend, F: FnMut(&str, &[usize]) -> Result<Option<TensorData>>> MapFloat<B> for Filler<F> {
    fn map<const D: usize>(&mut self, path: &Path, param: Param<Tensor<B, D>>) -> Param<Tensor<B, D>> {
        if self.error.is_some() {
            return param;
        }
        match (self.values)(&path.name(), param.shape().as_slice()) {
            Ok(None) => param,
            Ok(Some(data)) => param.map(|old| {
                let new = Tensor::from_data(data, (&old.device(), self.dtype));
                if old.is_require_grad() { new.require_grad() } else { new }
            }),
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

struct Reader<F> {
    each: F,
}

impl<B: Backend, F: FnMut(&str, TensorData)> VisitFloat<B> for Reader<F> {
    fn visit<const D: usize>(&mut self, path: &Path, param: &Param<Tensor<B, D>>) {
        (self.each)(&path.name(), param.val().into_data());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::nn::{BatchNorm, BatchNormConfig, Linear, LinearConfig};

    const RENAMED: Names = Names {
        last: &[("gamma", "weight"), ("beta", "bias")],
        buffers: &[".attn.bias", ".attn.masked_bias"],
        ..Names::BURN
    };

    type Plain = burn_ndarray::NdArray<f64>;
    type Grad = burn_autodiff::Autodiff<Plain>;

    /// A model this project has never seen.
    #[derive(Module, Debug)]
    struct Own<B: Backend> {
        gamma: Linear<B>,
        norm: BatchNorm<B>,
        stack: Vec<Linear<B>>,
    }

    fn own<B: Backend>() -> Own<B> {
        let device = Default::default();
        Own {
            gamma: LinearConfig::new(2, 3).init(&device),
            norm: BatchNormConfig::new(3).init(&device),
            stack: vec![LinearConfig::new(3, 1).with_bias(false).init(&device)],
        }
    }

    const EXPECTED: [&str; 5] = ["gamma.weight", "gamma.bias", "norm.gamma", "norm.beta", "stack.0.weight"];

    fn found<B: Backend>(module: &Own<B>) -> Vec<String> {
        parameters(module, &Names::BURN).parameters().iter().map(|p| p.name.clone()).collect()
    }

    #[test]
    fn running_statistics_are_no_parameters_on_either_kind_of_backend() {
        assert_eq!(found(&own::<Plain>()), EXPECTED);
        assert_eq!(found(&own::<Grad>()), EXPECTED);
        let all = [EXPECTED.as_slice(), &["norm.running_mean", "norm.running_var"]].concat();
        let in_files = |layout: Layout| layout.parameters().iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        let (plain, grad) = (own::<Plain>(), own::<Grad>());
        assert_eq!(in_files(stored(&plain, &Names::BURN, &parameters(&plain, &Names::BURN))), all);
        assert_eq!(in_files(stored(&grad, &Names::BURN, &parameters(&grad, &Names::BURN))), all);
    }

    #[test]
    fn only_the_last_element_is_renamed() {
        let path = |text: &str| text.split('.').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(RENAMED.of_path(&path("gamma.ln_1.gamma")), "gamma.ln_1.weight");
        assert_eq!(RENAMED.of_path(&path("ln_1.beta")), "ln_1.bias");
        assert_eq!(Names::BURN.of_path(&path("norm.gamma")), "norm.gamma");
        let inside = Names { inner: &[("norm", "LayerNorm")], ..RENAMED };
        assert_eq!(inside.of_path(&path("h.0.norm.gamma")), "h.0.LayerNorm.weight");
        let hiding = Names { hidden: &["Linear"], ..RENAMED };
        assert_eq!(hiding.of_path(&path("features.0.Linear.gamma")), "features.0.weight");
        assert!(RENAMED.is_buffer("transformer.h.3.attn.bias"));
        assert!(!RENAMED.is_buffer("transformer.h.3.attn.c_attn.bias"));
    }

    #[test]
    fn filled_tensors_keep_their_gradient_flag() {
        let fill_all = |_: &str, shape: &[usize]| Ok(Some(TensorData::full(shape.to_vec(), 2.0_f64)));
        let module = fill(own::<Grad>(), &Names::BURN, DType::F64, fill_all).unwrap();
        assert!(module.gamma.weight.is_require_grad());
        assert_eq!(found(&module), EXPECTED);
        let mut sum = 0.0;
        read(&module, &Names::BURN, |_, data| sum += data.iter::<f64>().sum::<f64>());
        assert_eq!(sum, 2.0 * (6 + 3 + 3 + 3 + 3 + 3 + 3) as f64); // with the running mean and variance
    }
}
