//! ResNet and VGG: names and sizes, initial values, files, and dense Hessians of tiny ones.

use std::collections::BTreeMap;

use burn::tensor::{DType, Tensor, TensorData};
use safetensors::serialize;
use safetensors::tensor::{Dtype, TensorView};

use super::Network;
use super::convolution::{BatchNorm, Statistics};
use super::resnet::{ResNetConfig, Stem};
use super::testing::{self, gaussian, random};
use super::vgg::{Normalisation, VggConfig};
use crate::block::Layout;
use crate::datasets::{ImageBatch, ImageFiles};
use crate::engine::SecondOrder;
use crate::models::{initialise, parameters, read, stored, weights};

type Plain = burn_flex::Flex;
type B = SecondOrder<Plain>;

fn resnet(text: &str) -> ResNetConfig {
    read_config("resnet", text)
}

fn vgg(text: &str) -> VggConfig {
    read_config("vgg", text)
}

/// A network from its keys.
fn read_config<N: Network>(kind: &str, text: &str) -> N {
    let document = crate::document::parse(&format!("[model.{kind}]\n{text}"), "a.toml").unwrap();
    crate::document::read_table(&document, &["model", kind]).unwrap()
}

fn tiny_resnet(more: &str) -> ResNetConfig {
    resnet(&format!("blocks = [1, 1]\nwidths = [3, 4]\nchannels = 2\nclasses = 3\nstem = \"cifar\"\n{more}"))
}

fn tiny_vgg(more: &str) -> VggConfig {
    vgg(&format!("convolutions = [1, 2]\nwidths = [3, 4]\nchannels = 2\nclasses = 3\n{more}"))
}

fn names(layout: &Layout) -> Vec<String> {
    layout.parameters().iter().map(|parameter| parameter.name.clone()).collect()
}

#[test]
fn sizes_are_those_of_torchvision() {
    let resnets = [("18", 11_689_512), ("34", 21_797_672)];
    for (preset, expected) in resnets {
        let config = resnet(&format!("preset = \"{preset}\"\nclasses = 1000"));
        assert_eq!(config.layout().unwrap().num_params(), expected, "ResNet-{preset}");
    }
    let vggs = [
        ("11", "none", 132_863_336),
        ("13", "none", 133_047_848),
        ("16", "none", 138_357_544),
        ("16", "eval", 138_365_992),
        ("19", "train", 143_678_248),
    ];
    for (preset, batch_norm, expected) in vggs {
        let config = vgg(&format!("preset = \"{preset}\"\nbatch_norm = \"{batch_norm}\"\nclasses = 1000"));
        assert_eq!(config.layout().unwrap().num_params(), expected, "VGG-{preset}, {batch_norm}");
    }
}

#[test]
fn presets_are_numbers_or_texts() {
    assert_eq!(resnet("preset = 34"), resnet("preset = \"34\""));
    assert_eq!(resnet("preset = 34").blocks, [3, 4, 6, 3]);
    assert_eq!((resnet(""), vgg("preset = 16")), (ResNetConfig::default(), VggConfig::default()));
}

#[test]
fn names_are_those_of_torchvision() {
    let config = resnet("widths = [4, 4, 6, 8]\nstem_width = 4");
    let layout = config.layout().unwrap();
    let found = names(&layout);
    let start = ["conv1.weight", "bn1.weight", "bn1.bias", "layer1.0.conv1.weight", "layer1.0.bn1.weight"];
    assert_eq!(found[..5], start);
    assert_eq!(found[found.len() - 2..], ["fc.weight", "fc.bias"]);
    let projected: Vec<&String> = found.iter().filter(|name| name.contains("downsample")).collect();
    let of = |stage: usize| ["0.weight", "1.weight", "1.bias"].map(|end| format!("layer{stage}.0.downsample.{end}"));
    assert_eq!(projected, [of(2), of(3), of(4)].iter().flatten().collect::<Vec<_>>());
    let shape = |name: &str| layout.parameters()[layout.find(name).unwrap()].shape.clone();
    assert_eq!(shape("conv1.weight"), [4, 3, 7, 7]);
    assert_eq!(shape("layer3.0.downsample.0.weight"), [6, 4, 1, 1]);
    let in_files = names(&config.stored().unwrap());
    assert_eq!(in_files.len(), found.len() + 2 * 20, "mean and variance of 20 BatchNorms");
    assert_eq!(in_files[..found.len()], found, "parameters first");
    let end = ["mean", "var"].map(|what| format!("layer4.1.bn2.running_{what}"));
    assert_eq!(in_files[in_files.len() - 2..], end);

    let plain = names(&vgg("preset = \"11\"\nhidden = 8").layout().unwrap());
    let convolutions = [0, 3, 6, 8, 11, 13, 16, 18].map(|at| format!("features.{at}"));
    let layers = convolutions.into_iter().chain([0, 3, 6].map(|at| format!("classifier.{at}")));
    let expected: Vec<String> = layers.flat_map(|layer| [format!("{layer}.weight"), format!("{layer}.bias")]).collect();
    assert_eq!(plain, expected);
    let normed = vgg("preset = \"11\"\nhidden = 0\nbatch_norm = \"eval\"");
    let (found, in_files) = (names(&normed.layout().unwrap()), names(&normed.stored().unwrap()));
    let start = ["0.weight", "0.bias", "1.weight", "1.bias", "4.weight"].map(|end| format!("features.{end}"));
    assert_eq!(found[..5], start);
    assert_eq!(found[found.len() - 2..], ["classifier.0.weight", "classifier.0.bias"]);
    assert_eq!(in_files[found.len()..][..2], ["features.1.running_mean", "features.1.running_var"]);
}

#[test]
fn running_statistics_are_no_parameters_on_either_kind_of_backend() {
    fn check<N: Network>(network: &N) {
        let plain = network.module::<Plain>(&Default::default()).unwrap();
        let trained = network.module::<B>(&Default::default()).unwrap();
        assert_eq!(parameters(&plain, network.names()), parameters(&trained, network.names()));
        assert_eq!(parameters(&trained, network.names()), network.layout().unwrap());
        let layout = network.layout().unwrap();
        assert_eq!(stored(&plain, network.names(), &layout), stored(&trained, network.names(), &layout));
        assert_eq!(stored(&trained, network.names(), &layout), network.stored().unwrap());
        assert!(names(&network.layout().unwrap()).iter().all(|name| !name.contains("running")));
    }
    check(&tiny_resnet(""));
    check(&tiny_vgg("hidden = 5\nbatch_norm = \"train\""));
}

/// Sample standard deviation within five standard errors, sigma / sqrt(2 n), and mean within five, sigma / sqrt(n).
fn assert_normal(values: &[f64], sigma: f64) {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt();
    assert!(mean.abs() < 5.0 * sigma / n.sqrt(), "mean {mean}");
    assert!((deviation - sigma).abs() < 5.0 * sigma / (2.0 * n).sqrt(), "deviation {deviation}, expected {sigma}");
}

fn initialised<N: Network>(network: &N) -> BTreeMap<String, Vec<f64>> {
    let layout = network.layout().unwrap();
    let initial = |name: &str| layout.find(name).map(|at| network.initial(&layout.parameters()[at]));
    let module = network.module::<Plain>(&Default::default()).unwrap();
    let module = initialise(module, network.names(), 3, DType::F64, initial).unwrap();
    let mut values = BTreeMap::new();
    read(&module, network.names(), |name, data| drop(values.insert(name.to_owned(), data.iter::<f64>().collect())));
    values
}

#[test]
fn initial_values_are_those_of_torchvision() {
    let values = initialised(&resnet("blocks = [1, 1]\nwidths = [32, 48]\nchannels = 3\nclasses = 100"));
    assert_normal(&values["conv1.weight"], (2.0f64 / (32.0 * 49.0)).sqrt()); // by the fan out
    assert_normal(&values["layer2.0.conv1.weight"], (2.0f64 / (48.0 * 9.0)).sqrt());
    assert_normal(&values["layer2.0.downsample.0.weight"], (2.0f64 / 48.0).sqrt());
    let all = |name: &str, expected: f64| assert!(values[name].iter().all(|value| *value == expected), "{name}");
    all("layer1.0.bn2.weight", 1.0);
    all("layer1.0.bn2.bias", 0.0);
    all("layer2.0.downsample.1.running_mean", 0.0);
    all("layer2.0.downsample.1.running_var", 1.0);
    let bound = 1.0 / 48f64.sqrt();
    for name in ["fc.weight", "fc.bias"] {
        let largest = values[name].iter().fold(0f64, |largest, value| largest.max(value.abs()));
        assert!(largest < bound && largest > 0.9 * bound, "{name}: {largest}, bound {bound}");
    }
    let values = initialised(&vgg("convolutions = [1]\nwidths = [32]\nhidden = 40\npool = 2"));
    assert_normal(&values["features.0.weight"], (2.0f64 / (32.0 * 9.0)).sqrt());
    assert_normal(&values["classifier.3.weight"], 0.01);
    assert!(values["features.0.bias"].iter().chain(&values["classifier.3.bias"]).all(|value| *value == 0.0));
}

fn batch(name: &str, count: usize, [channels, height, width]: [usize; 3]) -> ImageBatch<B> {
    let device = Default::default();
    let values = gaussian(name, count * channels * height * width);
    let images = TensorData::new(values, [count, channels, height, width]);
    let labels = TensorData::new((0..count).map(|at| (at * 2 % 3) as i32).collect::<Vec<_>>(), [count]);
    ImageBatch { images: Tensor::from_data(images, (&device, DType::F64)), labels: Tensor::from_data(labels, &device) }
}

#[test]
fn batch_norm_is_its_formula() {
    let device = Default::default();
    let x = batch("x", 3, [2, 4, 5]).images;
    let mut norm = BatchNorm::<B>::new(2, &device);
    let set =
        |values: [f64; 2]| Tensor::<B, 1>::from_data(TensorData::new(values.to_vec(), [2]), (&device, DType::F64));
    let (weight, bias, running_mean, running_var) = ([1.5, -0.5], [0.25, 2.0], [0.3, -0.7], [0.5, 4.0]);
    norm.weight = norm.weight.map(|_| set(weight));
    norm.bias = norm.bias.map(|_| set(bias));
    norm.running_mean = norm.running_mean.map(|_| set(running_mean));
    norm.running_var = norm.running_var.map(|_| set(running_var));
    let of = |tensor: &Tensor<B, 4>| tensor.to_data().iter::<f64>().collect::<Vec<f64>>();
    let values = of(&x);
    let channel = |at: usize| at / 20 % 2;
    let mean_of = |channel_wanted: usize, f: &dyn Fn(f64) -> f64| {
        let chosen = values.iter().enumerate().filter(|(at, _)| channel(*at) == channel_wanted);
        chosen.map(|(_, value)| f(*value)).sum::<f64>() / 60.0
    };
    let mean = [0, 1].map(|c| mean_of(c, &|value| value));
    let variance = [0, 1].map(|c| mean_of(c, &|value| (value - mean[c]).powi(2)));
    for (statistics, mean, variance) in
        [(Statistics::Train, mean, variance), (Statistics::Eval, running_mean, running_var)]
    {
        for (at, found) in of(&norm.forward(x.clone(), statistics)).into_iter().enumerate() {
            let c = channel(at);
            let expected = (values[at] - mean[c]) / (variance[c] + 1e-5).sqrt() * weight[c] + bias[c];
            assert!((found - expected).abs() < 1e-14, "{statistics:?}, {at}: {found}, expected {expected}");
        }
    }
}

/// Checks both micro-batches of images of this side.
fn check_dense<N: Network<Data = ImageFiles>>(name: &str, network: &N, side: usize) {
    let batches = vec![batch("first", 3, [2, side, side]), batch("second", 4, [2, side, side])];
    testing::check_dense(name, network, &random(network), batches);
}

#[test]
fn dense_hessians_of_residual_networks() {
    let train = tiny_resnet("batch_norm = \"train\"");
    assert!(!Network::is_separable(&train) && Network::is_separable(&tiny_resnet("")));
    check_dense("train", &train, 5);
    check_dense("eval", &tiny_resnet(""), 5);
    let imagenet = ResNetConfig { stem: Stem::Imagenet, stem_width: 2, ..train };
    check_dense("imagenet's stem", &imagenet, 9);
}

#[test]
fn dense_hessians_of_vgg() {
    assert!(!Network::is_separable(&tiny_vgg("batch_norm = \"train\"")));
    for more in
        ["hidden = 0\npool = 1", "hidden = 3\npool = 2\nbatch_norm = \"train\"", "hidden = 0\nbatch_norm = \"eval\""]
    {
        let network = tiny_vgg(more);
        assert_eq!(network.batch_norm == Normalisation::None, !more.contains("batch_norm"));
        check_dense(more, &network, 8);
    }
}

/// A file has running statistics, which come back; without them it is refused.
#[test]
fn files_hold_running_statistics() {
    let folder = tempfile::tempdir().unwrap();
    let network = tiny_resnet("");
    let (names, model) = (network.names(), random(&network));
    let values = |model: &<ResNetConfig as Network>::Module<B>| {
        let mut values = BTreeMap::new();
        read(model, names, |name, data| drop(values.insert(name.to_owned(), data.iter::<f64>().collect::<Vec<_>>())));
        values
    };
    for file in ["a.safetensors", "a.pth"] {
        let path = folder.path().join(file).display().to_string();
        weights::save(&model, names, path.as_str(), &names.namings[0]).unwrap();
        weights::check(&network.stored().unwrap(), names, path.as_str()).unwrap();
        let empty = network.module::<B>(&Default::default()).unwrap();
        let again = weights::load(empty, names, path.as_str(), DType::F64).unwrap();
        assert_eq!(values(&again), values(&model), "{file}");
        assert_eq!(parameters(&again, names), network.layout().unwrap());
    }
    let layout = network.stored().unwrap();
    let mut tensors = BTreeMap::new();
    for (name, values) in values(&model) {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        let shape = layout.parameters()[layout.find(&name).unwrap()].shape.clone();
        tensors.insert(name, (Dtype::F64, shape, bytes));
    }
    let tracked = "layer1.0.bn1.num_batches_tracked";
    tensors.insert(tracked.to_owned(), (Dtype::I64, Vec::new(), 7i64.to_le_bytes().to_vec()));
    let load = |tensors: &BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>| {
        let view = |(dtype, shape, bytes)| TensorView::new(dtype, shape, bytes).unwrap();
        let views = tensors.iter().map(|(name, (dtype, shape, bytes))| (name, view((*dtype, shape.clone(), bytes))));
        let file = serialize(views, None).unwrap();
        weights::load_bytes(network.module::<B>(&Default::default()).unwrap(), names, &file, "b", DType::F64)
    };
    assert_eq!(values(&load(&tensors).unwrap()), values(&model));
    tensors.remove("layer1.0.bn1.running_var");
    let error = load(&tensors).unwrap_err().to_string();
    assert!(error.contains("1 missing: layer1.0.bn1.running_var [3]"), "{error}");
}

fn check_stages<N: Network<Data = ImageFiles>>(network: &N, side: usize) {
    testing::check_stages(network, &random(network), &batch("stages", 3, [2, side, side]));
}

#[test]
fn networks_are_entered_at_every_stage() {
    assert!(tiny_resnet("").stages::<Plain>().is_none(), "the size of its images is not known");
    let train = "batch_norm = \"train\"\nimage = [7, 7]";
    check_stages(&tiny_resnet(train), 7);
    check_stages(&resnet(&format!("blocks = [1, 2, 1]\nwidths = [3, 4, 3]\nchannels = 2\nclasses = 3\n{train}")), 7);
    check_stages(&tiny_vgg("hidden = 0\nimage = [9, 9]\nbatch_norm = \"eval\""), 9);
    check_stages(&tiny_vgg("hidden = 3\npool = 2\nimage = [9, 9]"), 9);
}

/// Multiply-adds that torchvision's documentation states for images of 224 x 224 (`_ops` of its weights, in 10^9).
#[test]
fn work_is_that_of_torchvision() {
    let forward = |profile: Option<crate::networks::Profile>| {
        profile.unwrap().products.iter().map(|product| product.multiply_adds).sum::<f64>() / 1e9
    };
    let sizes = "classes = 1000\nimage = [224, 224]";
    for (preset, expected) in [("18", 1.814), ("34", 3.664)] {
        let found = forward(resnet(&format!("preset = \"{preset}\"\n{sizes}")).profile());
        assert!((found - expected).abs() < 6e-4, "ResNet-{preset}: {found}");
    }
    for (preset, expected) in [("11", 7.609), ("13", 11.308), ("16", 15.47), ("19", 19.632)] {
        let found = forward(vgg(&format!("preset = \"{preset}\"\n{sizes}")).profile());
        assert!((found - expected).abs() < 6e-4, "VGG-{preset}: {found}");
    }
}

/// Every parameter that is no vector has one product, named as it is.
#[test]
fn every_kernel_has_a_product() {
    fn check<N: Network>(network: &N) {
        let layout = network.layout().unwrap();
        let kernels = layout.parameters().iter().filter(|parameter| parameter.shape.len() > 1);
        let kernels: Vec<Option<String>> = kernels.map(|parameter| Some(parameter.name.clone())).collect();
        let profile = network.profile().unwrap();
        let products: Vec<Option<String>> = profile.products.iter().map(|product| product.parameter.clone()).collect();
        assert_eq!(products, kernels);
        assert!(profile.products.windows(2).all(|pair| pair[0].branch <= pair[1].branch));
    }
    check(&resnet("image = [64, 64]"));
    check(&tiny_resnet("image = [9, 9]"));
    check(&vgg("image = [32, 32]\nbatch_norm = \"train\""));
    check(&tiny_vgg("hidden = 0\nimage = [8, 8]"));
}
