//! `[data.tokens] weights`: predictions that count more or less, or not at all.

use crate::folder::{Folder, Tensors, combine, relative};

/// Tokens of the tiny folder's file.
const TOKENS: usize = 80;

/// H v of the whole network, and the loss, with these weights.
fn product(folder: &Folder, weights: Option<&[u8]>, more: &str) -> (Tensors, f64) {
    let set = match weights {
        None => String::new(),
        Some(weights) => {
            folder.write("weights.u8", weights);
            "--set data.tokens.weights=weights.u8".into()
        }
    };
    let said = folder
        .hesspec(&format!("hvp tiny.toml --vectors v.safetensors --out hv.safetensors --loss --json {set} {more}"));
    let loss = said.ok().json()["loss"].as_f64().unwrap();
    (folder.load("hv.safetensors"), loss)
}

/// The weighted mean is linear in the weights: two halves, each as heavy as its tokens, make up the whole. One half leaves
/// micro-batches without any prediction that counts.
#[test]
fn halves_of_the_predictions_make_up_the_whole() {
    let folder = Folder::new();
    folder.save("v.safetensors", &folder.vector(7), safetensors::tensor::Dtype::F64);
    // tokens 1 to 30 are predicted, in five windows of six and micro-batches of two
    let masks: [fn(usize) -> bool; 2] = [|at| at < 8, |at| at % 3 == 1];
    for more in ["", "--gauss-newton", "--set hessian.reduction=sum"] {
        for mask in masks {
            let part = |inside: bool| (0..TOKENS).map(|at| u8::from(mask(at) == inside)).collect::<Vec<u8>>();
            let count = |weights: &[u8]| weights[1..31].iter().map(|weight| f64::from(*weight)).sum::<f64>();
            let (inside, outside) = (part(true), part(false));
            let (whole, loss) = product(&folder, None, more);
            let ((a, loss_a), (b, loss_b)) =
                (product(&folder, Some(&inside), more), product(&folder, Some(&outside), more));
            let (n_a, n_b) = (count(&inside) / 30.0, count(&outside) / 30.0);
            assert!((n_a + n_b - 1.0).abs() < 1e-15 && n_a > 0.0 && n_b > 0.0);
            if more.ends_with("sum") {
                continue; // a sum of means is not linear in the weights; that it is finite was checked
            }
            assert!(relative(&combine(n_a, &a, n_b, &b), &whole) < 1e-12, "{more}");
            assert!((n_a * loss_a + n_b * loss_b - loss).abs() < 1e-13 * loss, "{more}");
        }
        // the same weight everywhere is none
        let (whole, loss) = product(&folder, None, more);
        let (tripled, same) = product(&folder, Some(&[3; TOKENS]), more);
        assert!(relative(&tripled, &whole) < 1e-13 && (loss - same).abs() < 1e-14 * loss, "{more}");
    }
}

/// A whole run, whose first micro-batches count and whose last do not, on one rank and on two.
#[test]
fn a_run_with_weights_is_done_and_knows_them_again() {
    let folder = Folder::new();
    let weights: Vec<u8> = (0..TOKENS).map(|at| u8::from(at < 8) * 2).collect();
    folder.write("weights.u8", &weights);
    let command = "run tiny.toml --set data.tokens.weights=weights.u8 --set blocks.include=[\"*.c_fc.weight\"]";
    folder.hesspec(&format!("{command} --output one")).ok();
    folder.hesspec(&format!("{command} --output two --set run.ranks=2")).ok();
    let nodes = |url: &str| {
        let run = hesspec::output::Results::open(folder.path(url).to_str().unwrap()).unwrap().run(None).unwrap();
        let rows = run.read::<hesspec::output::NodeRow>().unwrap();
        rows.iter().map(|row| row.node).collect::<Vec<f64>>()
    };
    let (one, two) = (nodes("one"), nodes("two"));
    let largest = one.iter().fold(0.0, |most: f64, node| most.max(node.abs()));
    assert!(one.len() == two.len() && one.iter().zip(&two).all(|(a, b)| (a - b).abs() < 1e-12 * largest));
}

#[test]
fn weights_that_do_not_fit_are_refused() {
    let folder = Folder::new();
    let set = |value: &str| format!("check tiny.toml --set data.tokens.weights={value}");
    folder.write("short.u8", &[1; 79]);
    folder.hesspec(&set("short.u8")).failed(2, &["short.u8", "79 weights for 80 tokens"]);
    folder.write("none.u8", &[0; TOKENS]);
    folder.hesspec(&set("none.u8")).failed(2, &["weights of all 30 tokens of the batch are 0"]);
    folder.hesspec(&set("nowhere.u8")).failed(2, &["nowhere.u8"]);
    folder.write("good.u8", &[1; TOKENS]);
    let study = "--set convergence.from=6 --set convergence.to=30";
    folder.hesspec(&format!("{} {study}", set("good.u8"))).failed(2, &["[convergence]", "weigh the same"]);
}
