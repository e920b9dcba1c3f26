//! `hvp`, `lanczos` and `check` on the tiny network.

use safetensors::tensor::Dtype;

use crate::folder::{Folder, Tensors, combine, dot, layout, norm, numbered, only, relative};

/// Rounding of the sums in f64 and f32, with room for condition.
const F64: f64 = 1e-12;
const F32: f64 = 2e-5;

/// Products of vectors, in one call.
fn products(folder: &Folder, vectors: &[&Tensors], dtype: Dtype, options: &str) -> Vec<Tensors> {
    let all: Tensors = vectors.iter().enumerate().flat_map(|(at, v)| numbered(v, at as u32)).collect();
    folder.save("v.safetensors", &all, dtype);
    folder.hesspec(&format!("hvp tiny.toml --vectors v.safetensors --out hv.safetensors {options}")).ok();
    let found = folder.load("hv.safetensors");
    (0..vectors.len()).map(|at| only(&found, at as u32)).collect()
}

#[test]
fn products_are_linear_and_symmetric_in_both_precisions() {
    let folder = Folder::new();
    let (u, v) = (folder.vector(1), folder.vector(2));
    let sum = combine(2.0, &u, -3.0, &v);
    let mut found = Vec::new();
    for (dtype, precision, tolerance) in [(Dtype::F64, "f64", F64), (Dtype::F32, "f32", F32)] {
        let hv = products(&folder, &[&u, &v, &sum], dtype, &format!("--set hessian.precision=\"{precision}\""));
        assert!(norm(&hv[0]) > 1e-3);
        assert!(relative(&combine(2.0, &hv[0], -3.0, &hv[1]), &hv[2]) < tolerance, "{precision}: not linear");
        let defect = (dot(&u, &hv[1]) - dot(&v, &hv[0])).abs();
        assert!(defect < tolerance * norm(&u) * norm(&hv[1]), "{precision}: u.Hv - v.Hu = {defect}");
        let shapes = hv[0].iter().map(|(name, (shape, _))| (name.clone(), shape.clone()));
        assert_eq!(shapes.collect::<std::collections::HashMap<_, _>>(), layout());
        found.push(hv);
    }
    for (f64, f32) in found[0].iter().zip(&found[1]) {
        let difference = relative(f32, f64);
        assert!(difference < F32, "f32 differs from f64 by {difference}");
    }
}

/// More vectors than slots, one thread or two, one micro-batch or five: the same products.
#[test]
fn products_do_not_depend_on_how_they_are_computed() {
    let folder = Folder::new();
    let vectors: Vec<Tensors> = (0..5).map(|seed| folder.vector(seed)).collect();
    let vectors: Vec<&Tensors> = vectors.iter().collect();
    let base = products(&folder, &vectors, Dtype::F64, "--set run.threads=1");
    for options in ["--set run.threads=2", "--set hessian.slots=2", "--set hessian.slots=1"] {
        assert_eq!(products(&folder, &vectors, Dtype::F64, options), base, "{options}");
    }
    for options in ["--set batch.micro_batch=1", "--set batch.micro_batch=5", "--set batch.segments=1"] {
        let other = products(&folder, &vectors, Dtype::F64, options);
        assert!(base.iter().zip(&other).all(|(a, b)| relative(b, a) < F64), "{options}");
    }
}

/// P H P v for the projection P on the block: cut before, cut after.
#[test]
fn a_block_product_is_the_cut_of_the_full_product_of_the_cut_vector() {
    let folder = Folder::new();
    let v = folder.vector(4);
    const PARAMETER: &str = "transformer.h.0.attn.c_attn.weight";
    let in_block = |index: usize| (8..16).contains(&(index % 24)); // k: the middle third of the columns
    let cut = |tensors: &Tensors| -> Tensors {
        let cut = |(name, (shape, values)): (&String, &(Vec<usize>, Vec<f64>))| {
            let keep = |(index, x): (usize, &f64)| if name == PARAMETER && in_block(index) { *x } else { 0.0 };
            (name.clone(), (shape.clone(), values.iter().enumerate().map(keep).collect()))
        };
        tensors.iter().map(cut).collect()
    };
    let expected = cut(&products(&folder, &[&cut(&v)], Dtype::F64, "")[0]);
    let found = products(&folder, &[&v], Dtype::F64, "--block transformer.h.0.attn.k.weight");
    assert_eq!(found[0].keys().collect::<Vec<_>>(), [PARAMETER], "other parameters are absent");
    let difference: f64 =
        found[0][PARAMETER].1.iter().zip(&expected[PARAMETER].1).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    assert!(difference < F64 * norm(&expected), "{difference}");
    assert!(found[0][PARAMETER].1.iter().enumerate().all(|(index, x)| in_block(index) || *x == 0.0));
}

#[test]
fn a_missing_tensor_is_zero_and_one_vector_needs_no_number() {
    let folder = Folder::new();
    const NAME: &str = "transformer.wpe.weight";
    let full = folder.vector(5);
    let mut padded = combine(0.0, &full, 0.0, &full);
    padded.insert(NAME.into(), full[NAME].clone());
    let expected = products(&folder, &[&padded], Dtype::F64, "").remove(0);
    folder.save("v.safetensors", &Tensors::from([(NAME.into(), full[NAME].clone())]), Dtype::F64);
    folder.hesspec("hvp tiny.toml --vectors v.safetensors --out hv.safetensors").ok();
    assert_eq!(folder.load("hv.safetensors"), expected);
}

/// Loss and gradient against central differences of the loss over weights files: error about h^2 + 1e-16 / h.
#[test]
fn the_gradient_is_that_of_the_loss() {
    let folder = Folder::new();
    let (weights, direction) = (folder.vector(6), folder.vector(7));
    let loss = |weights: &Tensors, options: &str| {
        folder.save("weights.safetensors", weights, Dtype::F64);
        let said = folder
            .hesspec(&format!("hvp tiny.toml --loss --json {options} --set model.gpt2.weights=weights.safetensors"));
        said.ok().json()["loss"].as_f64().unwrap()
    };
    let h = 1e-5;
    let ahead = loss(&combine(1.0, &weights, h, &direction), "");
    let behind = loss(&combine(1.0, &weights, -h, &direction), "");
    let here = loss(&weights, "--gradient g.safetensors");
    let slope = dot(&folder.load("g.safetensors"), &direction);
    assert!((here - (11f64).ln()).abs() < 1.0, "the loss of a random network is near ln 11: {here}");
    let difference = (ahead - behind) / (2.0 * h);
    assert!((slope - difference).abs() < 1e-7 * slope.abs().max(1.0), "{slope} {difference}");
    folder.save("v.safetensors", &direction, Dtype::F64);
    let plain = folder.hesspec("hvp tiny.toml --loss --set model.gpt2.weights=weights.safetensors").ok();
    assert_eq!(plain.stdout.trim().strip_prefix("loss ").unwrap().parse::<f64>().unwrap(), here);
    folder
        .hesspec("hvp tiny.toml --gradient q.safetensors --block transformer.wte.weight --set model.gpt2.weights=weights.safetensors")
        .ok();
    let block = folder.load("q.safetensors");
    assert_eq!(block.len(), 1);
    assert_eq!(block["transformer.wte.weight"], folder.load("g.safetensors")["transformer.wte.weight"]);
}

/// Positive semi-definite, and another matrix than the Hessian.
#[test]
fn gauss_newton_products_are_positive() {
    let folder = Folder::new();
    let vectors: Vec<Tensors> = (10..14).map(|seed| folder.vector(seed)).collect();
    let vectors: Vec<&Tensors> = vectors.iter().collect();
    let hessian = products(&folder, &vectors, Dtype::F64, "");
    let gauss_newton = products(&folder, &vectors, Dtype::F64, "--gauss-newton");
    for ((v, h), g) in vectors.iter().zip(&hessian).zip(&gauss_newton) {
        assert!(dot(v, g) > 0.0);
        assert!(relative(g, h) > 1e-3);
    }
    let configured = products(&folder, &vectors, Dtype::F64, "--set hessian.operator=\"gauss_newton\"");
    assert_eq!(configured, gauss_newton);
}

#[test]
fn lanczos_reproduces_the_moments_of_its_start_vectors() {
    let folder = Folder::new();
    let (u, v) = (folder.vector(8), folder.vector(9));
    let hv = products(&folder, &[&u, &v], Dtype::F64, "");
    let said = folder.hesspec("lanczos tiny.toml --start v.safetensors --block full --steps 7 --json").ok().json();
    let answers = said.as_array().unwrap();
    assert_eq!(answers.len(), 2);
    for (at, (start, product)) in [(&u, &hv[0]), (&v, &hv[1])].into_iter().enumerate() {
        let list = |key: &str| -> Vec<f64> {
            answers[at][key].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
        };
        for key in ["alpha", "beta", "nodes", "weights", "residual_bounds", "orthogonality_loss"] {
            assert_eq!(list(key).len(), 7, "{key}");
        }
        let unit = norm(start).powi(2);
        let (first, second) = (dot(start, product) / unit, dot(product, product) / unit);
        let moment =
            |power: i32| list("nodes").iter().zip(list("weights")).map(|(x, w)| w * x.powi(power)).sum::<f64>();
        assert!((moment(0) - 1.0).abs() < F64);
        assert!((moment(1) - first).abs() < F64 * second.sqrt());
        assert!((moment(2) - second).abs() < F64 * second);
        assert!((list("alpha")[0] - first).abs() < F64 * second.sqrt());
        assert!(list("orthogonality_loss").iter().all(|loss| *loss < 1e-10));
        assert_eq!(answers[at]["vector"], at);
    }
    let text = folder.hesspec("lanczos tiny.toml --start v.safetensors --block full --steps 2").ok().stdout;
    assert!(text.contains("full @0") && text.contains("residual bound"), "{text}");
}

#[test]
fn lanczos_refuses_a_start_outside_of_the_block() {
    let folder = Folder::new();
    const NAME: &str = "transformer.wpe.weight";
    folder.save("v.safetensors", &Tensors::from([(NAME.into(), folder.vector(1)[NAME].clone())]), Dtype::F64);
    let lanczos = "lanczos tiny.toml --start v.safetensors --steps 3 --block";
    folder.hesspec(&format!("{lanczos} {NAME}")).ok();
    folder.hesspec("lanczos tiny.toml --start v.safetensors --steps 0 --block full").failed(2, &["--steps 0"]);
    folder
        .hesspec(&format!("{lanczos} transformer.wte.weight"))
        .failed(2, &["zero in block", "transformer.wte.weight"]);
}

#[test]
fn check_passes_on_a_sound_network_and_shows_its_numbers() {
    let folder = Folder::new();
    let answer = folder.hesspec("check tiny.toml --json").ok().json();
    assert_eq!((&answer["passed"], &answer["block"]), (&true.into(), &"full".into()));
    let names: Vec<&str> = answer["checks"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    for name in ["repeatable", "linear", "symmetric", "central difference"] {
        assert!(names.contains(&name), "{names:?}");
    }
    let text = folder.hesspec("check tiny.toml --block transformer.h.1.mlp.c_fc.weight").ok().stdout;
    assert!(text.contains("transformer.h.1.mlp.c_fc.weight") && text.contains("passed"), "{text}");
}

/// A key's bias shifts all scores of a query alike: softmax, and with it the Hessian, does not see it.
#[test]
fn blocks_whose_hessian_is_zero_are_computed_all_the_same() {
    let folder = Folder::new();
    for (include, outcome) in [("*.k.bias", "not applicable"), ("*.{k,v}.bias", "passed")] {
        let settings = [
            &format!("blocks.include=[\"{include}\"]"),
            "blocks.exclude=[]",
            "blocks.full=false",
            "hessian.precision=f32",
        ];
        let settings = settings.map(|setting| format!("--set {setting}")).join(" ");
        let said = folder.hesspec(&format!("run tiny.toml --output {} {settings}", outcome.replace(' ', "_")));
        assert_eq!(said.code, Some(0), "{}", said.stderr);
        assert!(said.stderr.contains(&format!("central difference: {outcome}")), "{include}: {}", said.stderr);
    }
}
