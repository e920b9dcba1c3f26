//! `dense`: matrices against a closed form, their parts, and how an interrupted call goes on.

use hesspec::output::{DenseBlockRow, DenseRow, DenseShareRow, Results};

use crate::folder::Folder;
use crate::networks::{idx, perceptron_folder};

fn rows(folder: &Folder, url: &str, run: &str, block: &str) -> Vec<Vec<f64>> {
    let run = Results::open(folder.path(url).to_str().unwrap()).unwrap().run(Some(run)).unwrap();
    assert!(run.is_done());
    let mut rows: Vec<DenseRow> =
        run.read::<DenseRow>().unwrap().into_iter().filter(|row| row.block == block).collect();
    rows.sort_by_key(|row| row.row);
    assert!(rows.iter().enumerate().all(|(at, row)| row.row == at as i64));
    rows.into_iter().map(|row| row.values).collect()
}

const REGRESSION: &str = r#"
[model.mlp]
sizes = [6, 3]

[data.images]
path = "images.idx"
labels = "labels.idx"
mean = 0.5
std = 0.25

[batch]
samples = 7
micro_batch = 2

[hessian]
precision = "f64"
"#;

/// Of one layer and cross-entropy, H = mean over samples of (diag(p) - p p') (x, 1) (x, 1)', p the class probabilities: entry by entry.
#[test]
fn the_hessian_of_softmax_regression_is_its_closed_form() {
    let folder = Folder::new();
    folder.write("regression.toml", REGRESSION.as_bytes());
    let byte = |at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8;
    let pixels: Vec<u8> = (0..54).map(byte).collect();
    folder.write("images.idx", &idx(&[9, 2, 3], pixels.iter().copied()));
    folder.write("labels.idx", &idx(&[9], (100..109).map(|at| byte(at) % 3)));
    folder.hesspec("weights export regression.toml w.safetensors").ok();
    let weights = folder.load("w.safetensors");
    let (weight, bias) = (&weights["layers.0.weight"].1, &weights["layers.0.bias"].1);
    let mut expected = vec![vec![0.0; 21]; 21];
    for sample in 0..7 {
        let x: Vec<f64> =
            (0..6).map(|at| (f64::from(pixels[6 * sample + at]) / 255.0 - 0.5) / 0.25).chain([1.0]).collect();
        let logit = |class: usize| bias[class] + (0..6).map(|at| weight[6 * class + at] * x[at]).sum::<f64>();
        let total: f64 = (0..3).map(|class| logit(class).exp()).sum();
        let p: Vec<f64> = (0..3).map(|class| logit(class).exp() / total).collect();
        // flat order: the weight, row by row, then the bias
        let place = |class: usize, at: usize| if at < 6 { 6 * class + at } else { 18 + class };
        for (a, b, i, j) in (0..3)
            .flat_map(|a| (0..3).map(move |b| (a, b)))
            .flat_map(|(a, b)| (0..7).flat_map(move |i| (0..7).map(move |j| (a, b, i, j))))
        {
            let curvature = if a == b { p[a] } else { 0.0 } - p[a] * p[b];
            expected[place(a, i)][place(b, j)] += curvature * x[i] * x[j] / 7.0;
        }
    }
    let found = folder.hesspec("dense regression.toml --output out --json").ok().json();
    let matrix = rows(&folder, "out", "regression-dense", "full");
    let largest = expected.iter().flatten().fold(0.0f64, |most, x| most.max(x.abs()));
    for (found, expected) in matrix.iter().flatten().zip(expected.iter().flatten()) {
        assert!((found - expected).abs() < 1e-13 * largest, "{found} instead of {expected}");
    }
    // of seven samples in three classes the rank is at most 14, and kappa that of the matrix
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let numbers = run.read::<DenseBlockRow>().unwrap().pop().unwrap();
    assert!((1..=14).contains(&numbers.rank.unwrap()) && numbers.kappa.unwrap() >= 1.0, "{numbers:?}");
    assert_eq!((numbers.block.as_str(), numbers.parts, numbers.num_params), ("full", 2, 21));
    // between the weight and the bias
    let squared = |x: &[Vec<f64>]| x.iter().flatten().map(|x| x * x).sum::<f64>();
    let between: f64 = 2.0 * expected[..18].iter().flat_map(|row| &row[18..]).map(|x| x * x).sum::<f64>();
    let full = found["blocks"].as_array().unwrap().last().unwrap();
    assert_eq!((&full["block"], &full["num_parts"], &full["status"]), (&"full".into(), &2.into(), &"ok".into()));
    let share = full["off_diagonal"].as_f64().unwrap();
    assert!((share - between / squared(&expected)).abs() < 1e-12, "{share}");
    assert!(full["asymmetry"].as_f64().unwrap() < 1e-14);
}

#[test]
fn what_is_written_is_kept_and_the_rest_computed() {
    let folder = perceptron_folder();
    folder.hesspec("run mlp.toml --output out --set lanczos.steps=2").ok(); // its tables may lie beside the matrices
    let first = folder.hesspec("dense mlp.toml --output out --json").ok().json();
    assert_eq!((&first["run"], &first["was_done"]), (&"mlp-dense".into(), &false.into()));
    let matrix = rows(&folder, "out", "mlp-dense", "full");
    let again = folder.hesspec("dense mlp.toml --output out --json").ok().json();
    assert_eq!((&again["blocks"], &again["was_done"]), (&first["blocks"], &true.into()));
    // as a call leaves it that was killed in the last block
    let root = folder.path("out");
    for path in ["_runs/mlp-dense/DONE", "_runs/mlp-dense/manifest.json", "_runs/mlp-dense/groups/b00004-r00000.json"] {
        std::fs::remove_file(root.join(path)).unwrap();
    }
    let resumed = folder.hesspec("dense mlp.toml --output out --json").ok().json();
    assert_eq!((&resumed["blocks"], &resumed["was_done"]), (&first["blocks"], &false.into()));
    assert!(rows(&folder, "out", "mlp-dense", "full") == matrix);
    // blocks are what they are of the whole
    let weight = rows(&folder, "out", "mlp-dense", "layers.0.weight");
    assert!(
        weight.iter().flatten().zip(matrix[..30].iter().flat_map(|row| &row[..30])).all(|(a, b)| (a - b).abs() < 1e-14)
    );
    let run = Results::open(root.to_str().unwrap()).unwrap().run(Some("mlp-dense")).unwrap();
    let shares = run.read::<DenseShareRow>().unwrap();
    let of_full: Vec<&DenseShareRow> = shares.iter().filter(|row| row.block == "full").collect();
    assert_eq!((of_full.len(), of_full[9].first_a), (10, 50)); // four parameters; the last of them is a bias
    assert!((of_full.iter().filter_map(|row| row.share).sum::<f64>() - 1.0).abs() < 1e-12);
    let page = folder.hesspec("report out --run mlp-dense --json").ok().json();
    assert_eq!((page["figures"].as_array().unwrap().len(), &page["notes"]), (10, &serde_json::json!([])));
}

#[test]
fn parts_are_those_of_the_partition_and_large_blocks_are_refused() {
    let folder = perceptron_folder();
    let by_neuron = "--set blocks.partition=\"neuron\" --set blocks.include=[\"layers.1.*\"] --set run.name=neurons";
    let found = folder.hesspec(&format!("dense mlp.toml --output out {by_neuron} --json")).ok().json();
    let full = found["blocks"].as_array().unwrap().last().unwrap();
    assert_eq!((&full["block"], &full["num_parts"]), (&"full".into(), &10.into())); // 5 + 3 neurons, two biases
    let large = "--set model.mlp.sizes=[6,3000,3] --set run.name=large";
    folder
        .hesspec(&format!("dense mlp.toml --output out {large}"))
        .failed(2, &["block `full` has 30003 parameters", "20000", "blocks.full = false"]);
    assert!(!folder.path("out/_runs/large-dense").exists());
}
