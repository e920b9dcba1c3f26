use burn::tensor::{DType, Tensor, TensorData};

use super::*;
use crate::data::{Cut, Masking, MicroBatches as Cuts, Order};
use crate::datasets::{Batches, Choice, Dataset, Samples, Selection};
use crate::hessian::MicroBatches;
use crate::models::walk;
use crate::models::{Partition, parameters, partition, weights};
use crate::networks::gpt2::Gelu;
use crate::networks::testing::{check_dense, check_stages, random};

type Plain = burn_flex::Flex;
type Second = SecondOrder<Plain>;
type Autodiff = burn_autodiff::Autodiff<burn_ndarray::NdArray<f64>>;

const MASK: u32 = 10;

fn read_config(text: &str) -> BertConfig {
    let document = crate::document::parse(&format!("[model.bert]\n{text}"), "a.toml").unwrap();
    crate::document::read_table(&document, &["model", "bert"]).unwrap()
}

fn small(loss: Losses) -> BertConfig {
    let text = "layers = 2\nheads = 2\nembedding = 4\nmlp = 5\ncontext = 7\npositions = 8\nvocabulary = 11";
    BertConfig { loss, ..read_config(text) }
}

/// Six pairs of different lengths, tokens below 10; the second half of each is the second sentence.
fn lines() -> String {
    let line = |(pair, length): (usize, usize)| {
        let tokens: Vec<usize> = (0..length).map(|at| (7 * at + 3 * pair) % 10).collect();
        let types: Vec<usize> = (0..length).map(|at| 2 * at / length).collect();
        format!("{{\"input_ids\": {tokens:?}, \"token_type_ids\": {types:?}, \"next_sentence_label\": {}}}\n", pair % 2)
    };
    [5, 7, 3, 6, 7, 4].into_iter().enumerate().map(line).collect()
}

/// All pairs, in micro-batches of so many.
fn batches(config: &BertConfig, micro_batch: usize) -> Batches<crate::datasets::Pairs, Plain> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("pairs.jsonl");
    std::fs::write(&path, lines()).unwrap();
    let mask = Masking { token: MASK, never: vec![0], share: 0.4, seed: 1 };
    let files = PairFiles { path: path.display().to_string().as_str().into(), mask: Some(mask) };
    let samples = files.open(&config.shape()).unwrap();
    let unit = PairFiles::unit(&config.shape());
    let choice = Choice { key: unit.key(), num_samples: None, start: 0, stride: 1, order: Order::Sequential, seed: 0 };
    let selection = Selection::new(&choice, samples.num_positions(), unit, &samples.size()).unwrap();
    let cuts = Cuts::new(6, micro_batch, Some(1), Cut::Samples).unwrap();
    Batches::new(samples, selection, cuts, unit, crate::datasets::Place::new(Default::default(), DType::F64)).unwrap()
}

fn all(config: &BertConfig, micro_batch: usize) -> Vec<PairBatch<Second>> {
    let batches = batches(config, micro_batch);
    (0..batches.len()).map(|index| batches.get(index).unwrap()).collect()
}

fn number<B: Backend>(loss: Tensor<B, 1>) -> f64 {
    loss.into_data().iter::<f64>().next().unwrap()
}

#[test]
fn the_layout_is_what_the_module_holds() {
    for loss in [Losses::Tokens, Losses::TokensAndNext] {
        let module = small(loss).module::<Plain>(&Default::default()).unwrap();
        assert_eq!(parameters(&module, &NAMES), Network::layout(&small(loss)).unwrap());
    }
    let layout = Network::layout(&small(Losses::TokensAndNext)).unwrap();
    for name in [
        "bert.encoder.layer.1.attention.self.query.weight",
        "bert.encoder.layer.1.attention.output.LayerNorm.bias",
        "bert.pooler.dense.weight",
        "cls.predictions.transform.LayerNorm.weight",
        "cls.predictions.bias",
        "cls.seq_relationship.bias",
    ] {
        assert!(layout.find(name).is_some(), "{name}");
    }
}

/// Numbers of parameters, as transformers counts them for BertForPreTraining and BertForMaskedLM.
#[test]
fn sizes_of_the_presets_are_the_published_ones() {
    let count = |text: &str| Network::layout(&read_config(text)).unwrap().num_params();
    assert_eq!(count("loss = \"mlm+nsp\""), 110_106_428);
    assert_eq!(count(""), 109_514_298);
    assert_eq!(count("preset = \"40m\"\nloss = \"mlm+nsp\""), 110_106_428 - 10 * 7_087_872);
    assert_eq!(count("preset = \"tiny\"\nloss = \"mlm+nsp\""), 4_433_468);
}

#[test]
fn queries_keys_and_values_are_cut_by_head() {
    let (config, layout) = (small(Losses::TokensAndNext), Network::layout(&small(Losses::TokensAndNext)).unwrap());
    let blocks = partition(&layout, &config.structure(), Partition::Head).unwrap();
    let count = |ending: &str| blocks.iter().filter(|block| block.name.contains(ending)).count();
    for part in ["self.query.weight", "self.key.bias", "self.value.weight", "attention.output.dense.weight"] {
        assert_eq!(count(&format!(".1.{}{part}/head.", if part.starts_with("self") { "attention." } else { "" })), 2);
    }
    assert_eq!(count(".1.output.dense.weight/head."), 0);
    assert_eq!(blocks.iter().map(|block| block.num_params(&layout)).sum::<usize>(), layout.num_params());
    let blocks = partition(&layout, &config.structure(), Partition::Neuron).unwrap();
    let neurons = blocks.iter().filter(|block| block.name.starts_with("cls.seq_relationship.weight/")).count();
    assert_eq!(neurons, 2);
}

/// Also blocks, pair by pair of micro-batches of unequal size, some of them with padding.
#[test]
fn dense_hessians() {
    let tanh = BertConfig { gelu: Gelu::Tanh, ..small(Losses::Tokens) };
    for config in [small(Losses::TokensAndNext), tanh] {
        assert!(Network::layout(&config).unwrap().num_params() < 5000);
        check_dense(&format!("{:?}", config.loss), &config, &random(&config), all(&config, 4));
    }
}

#[test]
fn it_is_entered_at_every_stage() {
    let config = small(Losses::TokensAndNext);
    check_stages(&config, &random(&config), &all(&config, 6)[0]);
    let model = random(&config);
    let batch = &all(&config, 6)[0];
    let stages: &StagesOf<BertConfig, Plain> = Network::stages(&config).unwrap();
    let whole = number(Network::total_loss(&config, &model, batch));
    for stage in 1..=stages.num_stages(&model) {
        let entry = stages.entry(&model, batch, stage);
        assert_eq!(number(stages.total_loss_from(&model, stage, entry, batch)), whole, "{stage}");
    }
    let of = |name: &str| stages.stage_of(&model, name);
    let layer = |part: &str| of(&format!("bert.encoder.layer.1.{part}"));
    assert_eq!([layer("attention.output.dense.bias"), layer("output.LayerNorm.weight")], [3, 4]);
    assert_eq!([of("bert.embeddings.LayerNorm.bias"), of("cls.predictions.bias")], [0, 5]);
    assert_eq!([of("bert.embeddings.word_embeddings.weight"), of("bert.pooler.dense.bias")], [0, 5]);
}

/// Outputs and their loss, of which Gauss-Newton products are made, are the loss.
#[test]
fn the_loss_is_that_of_the_outputs() {
    for loss in [Losses::Tokens, Losses::TokensAndNext] {
        let (config, model) = (small(loss), random(&small(loss)));
        for batch in all(&config, 4) {
            let (whole, outputs) =
                (Network::total_loss(&config, &model, &batch), Network::outputs(&config, &model, &batch));
            let of_outputs = number(Network::loss(&config, outputs, &batch));
            let whole = number(whole);
            assert!((whole - of_outputs).abs() < 1e-14 * whole, "{whole} {of_outputs}");
        }
    }
}

/// Its terms over all pairs at once: the mean over all hidden tokens, and that over all pairs.
#[test]
fn micro_batches_add_up_to_the_definition() {
    let config = small(Losses::TokensAndNext);
    let model = random(&config);
    let predictions = |batch: &PairBatch<Second>| batch.targets.dims()[0];
    let logarithms = |logits: Tensor<Second, 2>| burn::tensor::activation::log_softmax(logits, 1);
    let [mut of_tokens, mut of_next, mut tokens] = [0.0; 3];
    for batch in all(&config, 1) {
        assert!(batch.padding.is_none(), "a pair by itself has none");
        let x = config.through(&model, &batch);
        let (hidden, next) = logits(&model, x, &batch);
        let rows = predictions(&batch);
        let right = logarithms(hidden).gather(1, batch.targets.clone().reshape([rows, 1]));
        of_tokens -= number(right.sum());
        of_next -= number(logarithms(next.unwrap()).gather(1, batch.next.clone().unwrap().reshape([1, 1])).sum());
        tokens += rows as f64;
    }
    let expected = of_tokens / tokens + of_next / 6.0;
    for micro_batch in 1..=6 {
        let batches = all(&config, micro_batch);
        if micro_batch == 2 {
            assert_ne!(predictions(&batches[0]), predictions(&batches[1]), "unequal numbers of hidden tokens");
        }
        let weighted = |batch: &PairBatch<Second>| {
            Network::weight(&config, batch) * number(Network::total_loss(&config, &model, batch))
        };
        let loss = batches.iter().map(weighted).sum::<f64>()
            / batches.iter().map(|b| Network::weight(&config, b)).sum::<f64>();
        assert!((loss - expected).abs() < 1e-14 * expected, "{micro_batch}: {loss}, expected {expected}");
    }
}

/// Whatever stands in the padding, and however much there is of it.
#[test]
fn padding_changes_nothing() {
    let config = small(Losses::TokensAndNext);
    let model = random(&config);
    let batch = &all(&config, 6)[0];
    assert!(batch.padding.is_some());
    let behind = batch.padding.clone().unwrap();
    let other = PairBatch {
        inputs: batch.inputs.clone().mask_fill(behind.clone(), 9),
        types: batch.types.clone().mask_fill(behind, 1),
        ..batch.clone()
    };
    let outputs = |batch: &PairBatch<Second>| {
        Network::outputs(&config, &model, batch).into_data().iter::<f64>().collect::<Vec<f64>>()
    };
    assert_eq!(outputs(batch), outputs(&other));
    let seen = PairBatch { padding: None, ..other };
    assert_ne!(outputs(batch), outputs(&seen), "padding that is seen");
}

/// The gradient by burn's own differentiation, on another backend, at nearby parameters. With tanh: burn's gradient of the exact GELU
/// is that of the approximation, with constants of six digits.
#[test]
fn products_are_differences_of_burns_own_gradients() {
    let config = BertConfig { gelu: Gelu::Tanh, ..small(Losses::TokensAndNext) };
    let layout = Network::layout(&config).unwrap();
    let v = crate::networks::testing::gaussian("v", layout.num_params());
    let (model, batch) = (random(&config), &all(&config, 6)[0]);
    let comm = crate::cluster::solo::comm();
    let data = crate::hessian::Listed::new(vec![batch.clone()], |_: &PairBatch<Second>| 6.0);
    let full = layout.full();
    let mut operator = crate::hessian::BlockOperator::<Plain, f64>::new(&config, &model, &layout, &data, &comm);
    operator.slots = vec![&full];
    let found = operator.products(std::slice::from_ref(&v)).unwrap().remove(0);

    let values: std::collections::BTreeMap<String, Vec<f64>> = {
        let mut values = std::collections::BTreeMap::new();
        crate::models::read(&model, &NAMES, |name, data| drop(values.insert(name.into(), data.iter().collect())));
        values
    };
    let gradient = |step: f64| {
        let at = |name: &str, shape: &[usize]| {
            let parameter = &layout.parameters()[layout.find(name).unwrap()];
            let direction = &v[parameter.offset..parameter.offset + parameter.num_params()];
            let moved = values[name].iter().zip(direction).map(|(x, v)| x + step * v).collect::<Vec<f64>>();
            Ok(Some(TensorData::new(moved, shape.to_vec())))
        };
        let module =
            crate::models::fill(config.module::<Autodiff>(&Default::default()).unwrap(), &NAMES, DType::F64, at);
        gradient_of(&config, &module.unwrap(), &copied(batch), &layout)
    };
    // fourth order: the error is about h^4 of a fifth derivative, and 1e-16 / h
    let h = 1e-4;
    let [far_down, down, up, far_up] = [-2.0, -1.0, 1.0, 2.0].map(|steps| gradient(steps * h));
    let scale = found.iter().fold(0f64, |most, x| most.max(x.abs()));
    for (at, found) in found.iter().enumerate() {
        let expected = (8.0 * (up[at] - down[at]) - (far_up[at] - far_down[at])) / (12.0 * h);
        assert!((found - expected).abs() < 1e-7 * scale, "entry {at}: {found}, expected {expected} of {scale}");
    }
}

/// A batch on burn's own differentiation.
fn copied(batch: &PairBatch<Second>) -> PairBatch<Autodiff> {
    let device = Default::default();
    PairBatch {
        inputs: Tensor::from_data(batch.inputs.to_data(), &device),
        types: Tensor::from_data(batch.types.to_data(), &device),
        padding: batch.padding.as_ref().map(|padding| Tensor::from_data(padding.to_data(), &device)),
        predicted: Tensor::from_data(batch.predicted.to_data(), &device),
        targets: Tensor::from_data(batch.targets.to_data(), &device),
        next: batch.next.as_ref().map(|next| Tensor::from_data(next.to_data(), &device)),
        mean_predicted: batch.mean_predicted,
    }
}

/// The gradient in the flat order of the parameters.
fn gradient_of(config: &BertConfig, model: &Bert<Autodiff>, batch: &PairBatch<Autodiff>, layout: &Layout) -> Vec<f64> {
    struct Gradients<'a> {
        gradients: &'a <Autodiff as burn::tensor::backend::AutodiffBackend>::Gradients,
        layout: &'a Layout,
        flat: Vec<f64>,
    }
    impl walk::VisitFloat<Autodiff> for Gradients<'_> {
        fn visit<const D: usize>(&mut self, path: &walk::Path, parameter: &burn::module::Param<Tensor<Autodiff, D>>) {
            let offset = self.layout.parameters()[self.layout.find(&path.name()).unwrap()].offset;
            let gradient = parameter.val().grad(self.gradients).unwrap().into_data();
            gradient.iter::<f64>().enumerate().for_each(|(at, x)| self.flat[offset + at] = x);
        }
    }
    let loss = Network::loss(config, Network::outputs(config, model, batch), batch);
    let gradients = loss.backward();
    let flat = vec![0.0; layout.num_params()];
    walk::visit(model, &NAMES, Gradients { gradients: &gradients, layout, flat }).flat
}

#[test]
fn initial_values_are_those_of_transformers() {
    let config = small(Losses::TokensAndNext);
    let layout = Network::layout(&config).unwrap();
    let initial = |name: &str| config.initial(&layout.parameters()[layout.find(name).unwrap()]);
    assert_eq!(initial("bert.embeddings.token_type_embeddings.weight"), Initial::Normal(0.02));
    assert_eq!(initial("bert.encoder.layer.0.attention.self.key.bias"), Initial::Constant(0.0));
    assert_eq!(initial("bert.embeddings.LayerNorm.weight"), Initial::Constant(1.0));
    assert_eq!(initial("cls.predictions.bias"), Initial::Constant(0.0));
}

/// Checkpoints of both heads serve the loss of tokens alone; names of before 2019 and without the trunk's prefix are read.
#[test]
fn files_of_other_names_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.safetensors").display().to_string();
    let (both, one) = (small(Losses::TokensAndNext), small(Losses::Tokens));
    let model = random(&both);
    let loss = |model: &Bert<Second>| number(Network::total_loss(&one, model, &all(&one, 6)[0]));
    let expected = loss(&model);
    let load = |config: &BertConfig, path: &str| {
        weights::load(config.module::<Second>(&Default::default()).unwrap(), &NAMES, path, DType::F64)
    };
    weights::save(&model, &NAMES, path.as_str(), &Naming::HUGGING_FACE).unwrap();
    assert_eq!(loss(&load(&one, &path).unwrap()), expected);
    let old = folder.path().join("b.safetensors").display().to_string();
    weights::save(&model, &NAMES, old.as_str(), &Naming::GAMMA_BETA).unwrap();
    assert_eq!(loss(&load(&both, &old).unwrap()), expected);
    let text = String::from_utf8_lossy(&std::fs::read(&old).unwrap()).into_owned();
    assert!(text.contains("LayerNorm.gamma") && !text.contains("LayerNorm.weight"));

    let bytes = std::fs::read(&path).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let bare = file.tensors().into_iter().map(|(name, view)| (name.replace("bert.", ""), view));
    let bare = safetensors::serialize(bare, None).unwrap();
    let module = both.module::<Second>(&Default::default()).unwrap();
    assert_eq!(loss(&weights::load_bytes(module, &NAMES, &bare, "bare", DType::F64).unwrap()), expected);
    weights::save(&random(&one), &NAMES, path.as_str(), &Naming::HUGGING_FACE).unwrap();
    let error = load(&both, &path).unwrap_err().to_string();
    assert!(error.contains("4 missing: bert.pooler.dense.weight [4, 4]"), "{error}");
}

/// Every matrix has its product; embeddings have none but the head's.
#[test]
fn the_profile_has_every_matrix() {
    let config = small(Losses::TokensAndNext);
    let layout = Network::layout(&config).unwrap();
    let matrices = layout.parameters().iter().filter(|parameter| parameter.shape.len() > 1);
    let mut expected: Vec<&str> =
        matrices.map(|parameter| parameter.name.as_str()).filter(|name| !name.contains("embeddings")).collect();
    expected.push("bert.embeddings.word_embeddings.weight");
    let profile = config.profile().unwrap();
    let found: Vec<&str> = profile.products.iter().filter_map(|product| product.parameter.as_deref()).collect();
    assert_eq!(found, expected);
    assert!(profile.products.windows(2).all(|pair| pair[0].branch <= pair[1].branch));
    assert!(profile.bottom.iter().all(|name| layout.find(name).is_some()));
}
