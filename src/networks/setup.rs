//! A network with its data as an object: what a configuration names, opened on any backend.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::Arc;

use burn_backend::tensor::Device;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::drawing::{aside, own_values};
use super::{Network, Profile};
use crate::block::Layout;
use crate::data::{Cut, MicroBatches as Cuts};
use crate::datasets::{Batches, Choice, Dataset, Draw, Drawn, Place, RunData, Samples, Selection, Unit};
use crate::engine::{Kernels, SecondOrder};
use crate::hessian::{OnData, Passes, Precision, with_values};
use crate::models::weights::{self, Naming};
use crate::models::{Initial, Names, Structure, fill, initialise, read};
use crate::shown::Url;
use crate::{Error, Result};

/// A network and its data, as configured.
pub trait Setup: OnBackends + Debug + Send + Sync {
    /// `gpt2` of `[model.gpt2]`.
    fn network_kind(&self) -> &'static str;
    /// `tokens` of `[data.tokens]`.
    fn data_kind(&self) -> &'static str;
    /// Every key of `[model.KIND]` with its value.
    ///
    /// # Errors
    /// None for types that serde can write.
    fn network_json(&self) -> Result<Value>;
    /// Every key of `[data.KIND]` with its value.
    ///
    /// # Errors
    /// None for types that serde can write.
    fn data_json(&self) -> Result<Value>;
    /// Every key of `[data.KIND]` with its value, as it is for samples that training does not see.
    ///
    /// # Errors
    /// None for types that serde can write.
    fn held_out_json(&self) -> Result<Value>;
    /// Names and shapes of the parameters.
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that make no network.
    fn layout(&self) -> Result<Layout>;
    /// [`Network::stored`]
    ///
    /// # Errors
    /// [`Error::Config`] for sizes that make no network.
    fn stored(&self) -> Result<Layout>;
    /// [`Network::structure`]
    fn structure(&self) -> Structure;
    /// [`Network::names`]
    fn names(&self) -> &'static Names;
    /// [`Network::profile`]
    fn profile(&self) -> Option<Profile>;
    /// [`Network::weights`]
    fn weights(&self) -> Option<&Url>;
    /// The network with the weights of another place.
    ///
    /// # Errors
    /// [`Error::Config`] for a network that has no key `weights`.
    fn with_weights(&self, weights: &Url) -> Result<Arc<dyn Setup>>;
    /// [`Network::is_separable`]
    fn is_separable(&self) -> bool;
    /// [`Dataset::is_weighted`]
    fn is_weighted(&self) -> bool;
    /// What samples and predictions are called.
    fn unit(&self) -> Unit;
    /// Opens the data: the number of samples that a batch has there.
    ///
    /// # Errors
    /// Those of [`Dataset::open`]; [`Error::Config`] if the data has too few.
    fn num_samples(&self, choice: &Choice) -> Result<usize>;
}

/// Opens on a backend in a precision.
pub trait Opens<K: Kernels, T: Precision> {
    /// The network with its weights on the batch, on a device.
    ///
    /// # Errors
    /// Those of the data and of the weights.
    fn open(&self, opening: &Opening, device: &Device<K>) -> Result<Box<dyn Instance<K, T>>>;

    /// Writes the weights to a file, and gives their number.
    ///
    /// # Errors
    /// Those of the weights; [`Error::Storage`].
    fn export(&self, seed: u64, device: &Device<K>, target: &Url, naming: &Naming) -> Result<usize>;
}

/// What is opened.
#[derive(Debug, Clone)]
pub struct Opening {
    /// Seed of the initialisation.
    pub seed: u64,
    /// Which samples.
    pub samples: Source,
    /// Samples of a micro-batch, at most.
    pub micro_batch: usize,
    /// Number of segments; `None`: the default.
    pub segments: Option<usize>,
    /// What stays whole when the batch is cut.
    pub cut: Cut,
}

/// Where the samples of a batch come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The data.
    Data(Choice),
    /// The data that training does not see.
    HeldOut(Choice),
    /// So many made-up samples, and an initialised network: speed and memory depend on neither.
    Synthetic(usize),
}

/// A network with its weights on its batch, on backend `K` in precision `T`.
pub trait Instance<K: Kernels, T: Precision> {
    /// Products, gradients and losses.
    fn passes(&self) -> Rc<dyn Passes<K, T> + '_>;
    /// The batch.
    fn data(&self) -> &dyn RunData;
    /// Losses and gradients on the batch's samples as a training draws them, a segment a step.
    fn drawn(&self, draw: Draw) -> Rc<dyn Passes<K, T> + '_>;
    /// A file of weights, safetensors under the network's own names, with these values of the parameters, in the layout's flat order.
    ///
    /// # Errors
    /// [`Error::Storage`]
    fn weights_with(&self, parameters: &[T]) -> Result<Vec<u8>>;
    /// SHA-256 of the parameters' names and values in network order, in the precision that they are held in.
    fn weights_sha256(&self) -> String;
}

/// A network and the data that it reads.
#[derive(Debug, Clone)]
pub struct Pair<N: Network> {
    /// `[model.KIND]`.
    pub network: N,
    /// `[data.KIND]`.
    pub data: N::Data,
    /// `[data.KIND]` with the keys that `[train.held_out] data` gives instead: where the samples are that training does not see. `None`
    /// where it gives none.
    pub held_out: Option<N::Data>,
}

impl<N: Network> Setup for Pair<N> {
    fn network_kind(&self) -> &'static str {
        N::KIND
    }

    fn data_kind(&self) -> &'static str {
        <N::Data as Dataset>::KIND
    }

    fn network_json(&self) -> Result<Value> {
        json(&self.network)
    }

    fn data_json(&self) -> Result<Value> {
        json(&self.data)
    }

    fn held_out_json(&self) -> Result<Value> {
        json(self.held_out.as_ref().unwrap_or(&self.data))
    }

    fn layout(&self) -> Result<Layout> {
        self.network.layout()
    }

    fn stored(&self) -> Result<Layout> {
        self.network.stored()
    }

    fn structure(&self) -> Structure {
        self.network.structure()
    }

    fn names(&self) -> &'static Names {
        self.network.names()
    }

    fn profile(&self) -> Option<Profile> {
        self.network.profile()
    }

    fn weights(&self) -> Option<&Url> {
        self.network.weights()
    }

    fn with_weights(&self, weights: &Url) -> Result<Arc<dyn Setup>> {
        let mut keys = self.network_json()?;
        keys["weights"] = Value::from(weights.exposed());
        let network: N = serde_json::from_value(keys).map_err(|error| {
            Error::Config(format!("[model.{}] takes no weights from `{weights}`: {error}", N::KIND))
        })?;
        Ok(Arc::new(Self { network, ..self.clone() }))
    }

    fn is_separable(&self) -> bool {
        self.network.is_separable()
    }

    fn is_weighted(&self) -> bool {
        self.data.is_weighted()
    }

    fn unit(&self) -> Unit {
        N::Data::unit(&self.network.shape())
    }

    fn num_samples(&self, choice: &Choice) -> Result<usize> {
        let samples = self.data.open(&self.network.shape())?;
        Ok(Selection::new(choice, samples.num_positions(), self.unit(), &samples.size())?.num_samples())
    }
}

fn json(value: &impl serde::Serialize) -> Result<Value> {
    serde_json::to_value(value)
        .map_err(|error| Error::Other(format!("the configuration cannot be written as JSON: {error}")))
}

impl<N: Network, K: Kernels, T: Precision> Opens<K, T> for Pair<N> {
    fn open(&self, opening: &Opening, device: &Device<K>) -> Result<Box<dyn Instance<K, T>>> {
        let (network, shape, unit) = (&self.network, self.network.shape(), self.unit());
        let (samples, selection) = match &opening.samples {
            Source::Data(choice) | Source::HeldOut(choice) => {
                let other = self.held_out.as_ref().filter(|_| matches!(opening.samples, Source::HeldOut(_)));
                let samples = other.unwrap_or(&self.data).open(&shape)?;
                let selection = Selection::new(choice, samples.num_positions(), unit, &samples.size())?;
                (samples, selection)
            }
            Source::Synthetic(count) => (self.data.synthetic(&shape)?, Selection::first(*count)),
        };
        let is_made_up = matches!(opening.samples, Source::Synthetic(_));
        let weights = network.weights().filter(|_| !is_made_up);
        let module = with_weights::<N, K, T>(network, weights, opening.seed, device)?;
        let cuts = Cuts::new(selection.num_samples(), opening.micro_batch, opening.segments, opening.cut)?;
        let batches = Batches::new(samples, selection, cuts, unit, Place::new(device.clone(), T::DTYPE))?;
        let (network, layout) = (network.clone(), network.layout()?);
        Ok(Box::new(Opened::<N, K, T> { network, module, layout, batches, precision: PhantomData }))
    }

    fn export(&self, seed: u64, device: &Device<K>, target: &Url, naming: &Naming) -> Result<usize> {
        let module = with_weights::<N, K, T>(&self.network, self.network.weights(), seed, device)?;
        weights::save(&module, self.network.names(), target, naming)?;
        Ok(self.network.layout()?.num_params())
    }
}

/// The network with the weights of a file, or initialised.
fn with_weights<N: Network, K: Kernels, T: Precision>(
    network: &N,
    weights: Option<&Url>,
    seed: u64,
    device: &Device<K>,
) -> Result<N::Module<SecondOrder<K>>> {
    let (names, layout) = (network.names(), network.layout()?);
    let module = || network.module::<SecondOrder<K>>(device);
    if let Some(source) = weights {
        return aside(|| weights::load(module()?, names, source, T::DTYPE));
    }
    let initial = |name: &str| layout.find(name).map(|at| network.initial(&layout.parameters()[at]));
    let has_own = layout.parameters().iter().any(|parameter| network.initial(parameter) == Initial::Own);
    let own = has_own.then(|| own_values(network, seed)).transpose()?;
    aside(|| {
        let module = match own {
            Some(own) => fill(module()?, names, T::DTYPE, |name, _| Ok(own.get(name).cloned()))?,
            None => module()?,
        };
        initialise(module, names, seed, T::DTYPE, initial)
    })
}

struct Opened<N: Network, K: Kernels, T> {
    network: N,
    module: N::Module<SecondOrder<K>>,
    layout: Layout,
    batches: Batches<<N::Data as Dataset>::Samples, K>,
    precision: PhantomData<T>,
}

impl<N: Network, K: Kernels, T: Precision> Instance<K, T> for Opened<N, K, T> {
    fn passes(&self) -> Rc<dyn Passes<K, T> + '_> {
        Rc::new(OnData::new(&self.network, &self.module, &self.layout, &self.batches))
    }

    fn data(&self) -> &dyn RunData {
        &self.batches
    }

    fn drawn(&self, draw: Draw) -> Rc<dyn Passes<K, T> + '_> {
        let drawn = Drawn::new(&self.batches, draw);
        Rc::new(OnData::new(&self.network, &self.module, &self.layout, drawn))
    }

    fn weights_with(&self, parameters: &[T]) -> Result<Vec<u8>> {
        let names = self.network.names();
        let module = with_values::<K, T, _>(self.module.clone(), names, &self.layout, parameters)?;
        weights::encoded(&module, names, names.namings.first().unwrap_or(&Naming::PLAIN), weights::Format::Safetensors)
    }

    fn weights_sha256(&self) -> String {
        let mut hasher = Sha256::new();
        read(&self.module, self.network.names(), |name, value| {
            hasher.update(name);
            hasher.update(value.as_bytes());
        });
        format!("{:x}", hasher.finalize())
    }
}

/// On every backend and in every precision that this build has.
pub trait OnBackends: Opens<burn_flex::Flex, f32> + Opens<burn_flex::Flex, f64> + OnNdarray + OnCuda + OnWgpu {}

impl<S> OnBackends for S where S: Opens<burn_flex::Flex, f32> + Opens<burn_flex::Flex, f64> + OnNdarray + OnCuda + OnWgpu
{}

/// Declares the trait of a backend that a build may lack, for all that can be opened on its types.
macro_rules! optional_backend {
    ($feature:literal, $name:ident, $($backend:ty, $precision:ty);+) => {
        #[doc = concat!("On the backend of the feature `", $feature, "`, where this build has it.")]
        #[cfg(feature = $feature)]
        pub trait $name: $(Opens<$backend, $precision> +)+ {}
        #[cfg(feature = $feature)]
        impl<S> $name for S where S: $(Opens<$backend, $precision> +)+ {}
        #[doc = concat!("On the backend of the feature `", $feature, "`, which this build does not have.")]
        #[cfg(not(feature = $feature))]
        pub trait $name {}
        #[cfg(not(feature = $feature))]
        impl<S> $name for S {}
    };
}

optional_backend!("ndarray", OnNdarray, burn_ndarray::NdArray<f32>, f32; burn_ndarray::NdArray<f64>, f64);
optional_backend!("cuda", OnCuda, burn_cuda::Cuda, f32; crate::engine::kernels::CudaUnfused, f32);
optional_backend!("wgpu", OnWgpu, burn_wgpu::Wgpu, f32; crate::engine::kernels::WgpuUnfused, f32);

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::thread;

    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::backend::Backend;
    use burn::tensor::{Tensor, TensorData};
    use burn_flex::Flex;
    use serde::Deserialize;

    use super::*;
    use crate::datasets::{ImageBatch, ImageFiles, ImageShape, ImageSize};

    /// A network that leaves its initial values to burn.
    #[derive(Debug, Clone, serde::Serialize, Deserialize)]
    struct Drawn;

    impl Network for Drawn {
        const KIND: &'static str = "drawn";
        type Data = ImageFiles;
        type Module<B: Backend> = Vec<Linear<B>>;

        fn shape(&self) -> ImageShape {
            ImageShape { size: ImageSize::Values(16), classes: 16 }
        }

        fn module<B: Backend>(&self, device: &B::Device) -> Result<Self::Module<B>> {
            Ok((0..30).map(|_| LinearConfig::new(16, 16).init(device)).collect())
        }

        fn outputs<B: Backend>(&self, _: &Self::Module<B>, _: &ImageBatch<B>) -> Tensor<B, 2> {
            unreachable!("only its weights are looked at")
        }

        fn loss<B: Backend>(&self, _: Tensor<B, 2>, _: &ImageBatch<B>) -> Tensor<B, 1> {
            unreachable!("only its weights are looked at")
        }

        fn weight<B: Backend>(&self, _: &ImageBatch<B>) -> f64 {
            1.0
        }
    }

    fn values(seed: u64) -> Vec<TensorData> {
        let module = with_weights::<Drawn, Flex, f32>(&Drawn, None, seed, &Default::default()).unwrap();
        let mut values = Vec::new();
        read(&module, &Names::BURN, |_, value| values.push(value));
        values
    }

    #[test]
    #[ignore = "started by the test below"]
    fn child() {
        let alone = values(7);
        assert_ne!(alone, values(8));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| (0..40).for_each(|_| assert!(values(7) == alone, "values of another thread's draws")));
            }
        });
    }

    /// The generator is the process's, and other tests draw from it: a process of its own.
    #[test]
    fn ranks_that_are_threads_draw_the_same_values() {
        let test = std::env::current_exe().unwrap();
        let arguments = ["--exact", "networks::setup::tests::child", "--ignored", "--nocapture"];
        let output = Command::new(test).args(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && text.contains("1 passed"),
            "{text}{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
}
