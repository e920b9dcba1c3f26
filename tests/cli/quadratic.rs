//! `quadratic`: configurations that are shipped, tables, refusals, and spectra out of a run.

use std::path::{Path, PathBuf};

use hesspec::output::{DenseRow, QuadraticBlockRow, QuadraticCurveRow, QuadraticRow, QuadraticTrialRow, Results};

use crate::folder::Folder;

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/quadratic").join(name)
}

#[test]
fn every_shipped_configuration_says_what_it_is_and_is_read() {
    let mut count = 0;
    for file in std::fs::read_dir(shipped("")).unwrap() {
        let path = file.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        let head: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        for word in ["Shows", "Work", "Time", "Launch"] {
            assert!(head.contains(word), "{}: its head has no `{word}`", path.display());
        }
        count += usize::from(text.contains("[quadratic]") && hesspec::quadratic::load(&path, &[]).is_ok());
        assert!(text.contains("[quadratic]") || text.contains("[model."), "{}", path.display());
    }
    assert_eq!(count, 8);
}

#[test]
fn what_is_computed_is_written_and_said_again() {
    let folder = Folder::new();
    let config = shipped("case3.toml").to_str().unwrap().to_owned();
    let few = "--set quadratic.trials=20 --set quadratic.paths=2 --set quadratic.iterations=400";
    let call = format!("quadratic {config} --output out {few}");
    let first = folder.hesspec(&format!("{call} --json")).ok().json();
    let second = folder.hesspec(&format!("{call} --json")).ok().json();
    assert_eq!(first["statistics"], second["statistics"]);
    assert_eq!((&first["was_done"], &second["was_done"]), (&false.into(), &true.into()));
    assert_eq!(first["kappa"], 2000.0);
    let text = folder.hesspec(&call).ok().stdout;
    assert!(text.contains("kappa_adam_over_kappa") && text.contains("already") && text.contains("1.020"), "{text}");
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(Some("case3")).unwrap();
    assert!(run.is_done());
    let blocks = run.read::<QuadraticBlockRow>().unwrap();
    let matrices = run.read::<DenseRow>().unwrap();
    assert_eq!((blocks.len(), matrices.len()), (9, 9));
    // the gradient is H w0
    for (row, block) in matrices.iter().zip(&blocks) {
        let of_block = blocks.iter().filter(|other| other.block == row.block);
        let product: f64 = row.values.iter().zip(of_block).map(|(h, other)| h * other.start).sum();
        assert!((product - block.gradient).abs() <= 1e-12 * block.eigenvalue.abs().max(1.0) * 10.0, "{product}");
    }
    let trials = run.read::<QuadraticTrialRow>().unwrap();
    let ratios = trials.iter().filter(|row| row.quantity == "r" && row.block.is_none()).count();
    assert_eq!(ratios, 20);
    assert!(run.read::<QuadraticRow>().unwrap().iter().any(|row| row.quantity == "iterations_gd" && row.trials == 2));
    let curves = run.read::<QuadraticCurveRow>().unwrap();
    assert_eq!(curves.iter().filter(|row| row.optimizer == "gd" && row.iteration == 400).count(), 1);
    assert_eq!(curves.iter().filter(|row| row.is_best && row.iteration == 0).count(), 2); // one for each beta2
    let page = folder.hesspec("report out --run case3 --json").ok().json();
    assert_eq!((page["figures"].as_array().unwrap().len(), &page["notes"]), (4, &serde_json::json!([])));
    folder.hesspec(&format!("{call} --set quadratic.seed=3")).failed(2, &["case3", "seed", "there 1337, here 3"]);
}

#[test]
fn spectra_come_from_a_run() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output spectra").ok();
    let config = |block: &str, more: &str| {
        format!(
            "[quadratic]\ntrials = 3\npaths = 1\niterations = 50\nscale = \"joint\"\n{more}\n[[quadratic.block]]\nname = \"q\"\n\
             spectrum = {{ url = \"spectra\", run = \"tiny\", block = \"{block}\" }}\ndim = 20\n\
             [[quadratic.block]]\neigenvalues = [1e-9, 1e9]\n[output]\nurl = \"out\"\n"
        )
    };
    folder.write("measured.toml", config("transformer.h.0.attn.q.weight", "").as_bytes());
    let found = folder.hesspec("quadratic measured.toml --json").ok().json();
    let blocks = found["blocks"].as_array().unwrap();
    assert_eq!(
        (&blocks[0]["dim"], &blocks[1]["lambda_min"], &blocks[1]["lambda_max"]),
        (&20.into(), &1.0.into(), &2000.0.into())
    );
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(Some("measured")).unwrap();
    let eigenvalues: Vec<f64> = run
        .read::<QuadraticBlockRow>()
        .unwrap()
        .into_iter()
        .filter(|row| row.block == "q")
        .map(|row| row.eigenvalue)
        .collect();
    assert!(eigenvalues.windows(2).all(|pair| pair[0] <= pair[1]) && eigenvalues[0] >= 1.0, "{eigenvalues:?}");
    folder.write("wrong.toml", config("transformer.h.7.attn.q.weight", "").as_bytes());
    folder
        .hesspec("quadratic wrong.toml")
        .failed(2, &["no positive density", "transformer.h.7.attn.q.weight", "transformer.h.1.attn.k.weight"]);
    folder.write("wrong.toml", config("q", "accuracy = 7").as_bytes());
    folder.hesspec("quadratic wrong.toml").failed(2, &["wrong.toml:6:12", "accuracy = 7", "between 0 and 1"]);
    folder.hesspec("quadratic none.toml").failed(2, &["none.toml", "cannot read"]);
}
