//! `[eigenvectors]`: tables and files, as a user has them.

use std::collections::BTreeSet;

use hesspec::output::{EigenvectorMassRow, EigenvectorRow, NodeRow, Results, RunResults, SummaryRow};

use crate::folder::{Folder, combine, norm, numbered, only};

/// Every block is exact but the largest: 96 entries.
const SETTINGS: &str = "--set lanczos.steps=64 --set blocks.include=[\"*.attn.q.weight\",\"*.h.1.mlp.c_fc.weight\"] --set blocks.full=false \
                        --set eigenvectors.count=4 --set hessian.slots=2";

fn results(folder: &Folder, url: &str) -> RunResults {
    let run = Results::open(folder.path(url).to_str().unwrap()).unwrap().run(None).unwrap();
    assert!(run.is_done());
    run
}

/// A file of vectors goes into `hesspec hvp` as it is, and comes out times its eigenvalues.
#[test]
fn a_file_of_eigenvectors_is_multiplied_by_its_eigenvalues() {
    let folder = Folder::new();
    let said = folder.hesspec(&format!("run tiny.toml --output out {SETTINGS}")).ok();
    assert!(
        said.stderr.contains("eigenvectors that have converged, of 4 asked for: 4 of `transformer.h.0.attn.q.weight`"),
        "{}",
        said.stderr
    );
    let run = results(&folder, "out");
    let (rows, nodes) = (run.read::<EigenvectorRow>().unwrap(), run.read::<NodeRow>().unwrap());
    let files: BTreeSet<(&str, &str)> = rows.iter().map(|row| (row.block.as_str(), row.file.as_str())).collect();
    let blocks = ["transformer.h.0.attn.q.weight", "transformer.h.1.attn.q.weight", "transformer.h.1.mlp.c_fc.weight"];
    let names: Vec<String> = (0..3).map(|at| format!("eigenvectors/run=tiny/_b{at:05}-p000.safetensors")).collect();
    assert_eq!(files, blocks.into_iter().zip(names.iter().map(String::as_str)).collect());
    for (block, file) in files {
        folder.hesspec(&format!("hvp tiny.toml --vectors out/{file} --block {block} --out products.safetensors")).ok();
        let (vectors, products) = (folder.load(&format!("out/{file}")), folder.load("products.safetensors"));
        let rows: Vec<&EigenvectorRow> = rows.iter().filter(|row| row.block == block).collect();
        assert_eq!(vectors.len(), rows.len());
        for row in &rows {
            let u = only(&vectors, row.index as u32);
            let residual = norm(&combine(1.0, &only(&products, row.index as u32), -row.eigenvalue, &u));
            let scale = rows[0].eigenvalue.abs();
            assert!(residual <= row.residual_bound + 1e-12 * scale, "{residual:e}: {row:?}");
            assert!(row.residual_bound <= 1e-6 * 2.0 * scale && row.angle <= 1.0, "{row:?}");
            let node = nodes.iter().find(|node| node.block == block && node.probe == 0 && node.node == row.eigenvalue);
            assert!(node.unwrap().converged && !node.unwrap().below_noise_floor, "{row:?}");
        }
        let falling = rows.windows(2).all(|pair| pair[0].eigenvalue.abs() >= pair[1].eigenvalue.abs());
        assert!(falling, "{rows:?}");
        assert_eq!(numbered(&only(&vectors, 0), 0).len(), 1, "one parameter");
    }
    let mass = run.read::<EigenvectorMassRow>().unwrap();
    assert_eq!(mass.len(), rows.len());
    assert!(mass.iter().all(|row| (row.mass - 1.0).abs() < 1e-12), "{mass:?}");
    assert!(mass[0].parameter == "transformer.h.0.attn.c_attn.weight" && mass[0].block == blocks[0]);
}

/// In f32 the products' error comes on top of the bound: the noise floor is three times that of one with a unit vector.
#[test]
fn in_f32_vectors_are_f32_and_as_good_as_products() {
    let folder = Folder::new();
    let f32 = "--set hessian.precision=f32";
    folder.hesspec(&format!("run tiny.toml --output out {SETTINGS} {f32}")).ok();
    let run = results(&folder, "out");
    let (rows, summary) = (run.read::<EigenvectorRow>().unwrap(), run.read::<SummaryRow>().unwrap());
    assert!(rows.len() >= 6, "{rows:?}");
    for row in &rows {
        let (block, file) = (&row.block, &row.file);
        folder.hesspec(&format!("hvp tiny.toml --vectors out/{file} --block {block} --out hv.safetensors {f32}")).ok();
        let number = row.index as u32;
        let u = only(&folder.load(&format!("out/{file}")), number);
        let residual = norm(&combine(1.0, &only(&folder.load("hv.safetensors"), number), -row.eigenvalue, &u));
        let floor = summary.iter().find(|summary| summary.block == *block).unwrap().noise_floor;
        let rounding = 64.0 * f64::from(f32::EPSILON) * row.eigenvalue.abs(); // of 64 vectors' entries
        assert!(residual <= row.residual_bound + floor + rounding, "{residual:e}, floor {floor:e}: {row:?}");
        assert!((norm(&u) - 1.0).abs() <= 64.0 * f64::from(f32::EPSILON), "{row:?}");
    }
}

/// The gradient is that of `hesspec hvp`.
#[test]
fn the_overlap_is_with_the_gradient_of_the_batch() {
    let folder = Folder::new();
    folder.hesspec(&format!("run tiny.toml --output out {SETTINGS} --set run.ranks=2")).ok();
    let block = "transformer.h.1.attn.q.weight";
    folder.hesspec(&format!("hvp tiny.toml --gradient gradient.safetensors --block {block}")).ok();
    let gradient = folder.load("gradient.safetensors");
    let rows = results(&folder, "out").read::<EigenvectorRow>().unwrap();
    for row in rows.iter().filter(|row| row.block == block) {
        let u = only(&folder.load(&format!("out/{}", row.file)), row.index as u32);
        let overlap = crate::folder::dot(&u, &gradient).abs() / norm(&gradient);
        assert!((row.gradient_overlap.unwrap() - overlap).abs() < 1e-10, "{overlap}: {row:?}");
    }
}

#[test]
fn a_run_that_was_killed_has_the_same_files_and_without_the_table_there_are_none() {
    let folder = Folder::new();
    let settings = format!("{SETTINGS} --set checkpoint.every=0s");
    folder.hesspec(&format!("run tiny.toml --output whole {settings}")).ok();
    let command = format!("run tiny.toml --output killed {settings}");
    let arguments: Vec<&str> = command.split_whitespace().collect();
    let group = |number: usize| folder.path(&format!("killed/_runs/tiny/groups/b{number:05}-p000.json"));
    let mut kills = 0;
    for number in 0..3 {
        let mut child = folder.command(&arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
        while !group(number).exists() && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
    }
    assert!(kills > 0, "every run was done before it could be killed");
    folder.hesspec(&command).ok();
    let (whole, killed) = (results(&folder, "whole"), results(&folder, "killed"));
    let rows = |run: &RunResults| {
        format!("{:?}{:?}", run.read::<EigenvectorRow>().unwrap(), run.read::<EigenvectorMassRow>().unwrap())
    };
    assert_eq!(rows(&whole), rows(&killed));
    for row in whole.read::<EigenvectorRow>().unwrap() {
        let bytes = |url: &str| std::fs::read(folder.path(url).join(&row.file)).unwrap();
        assert!(bytes("whole") == bytes("killed"), "{}", row.file);
    }
    // what is not asked for is not there, and asking afterwards is another configuration
    let without = SETTINGS.replace("--set eigenvectors.count=4", "--set lanczos.steps=2");
    folder.hesspec(&format!("run tiny.toml --output plain {without}")).ok();
    assert_eq!(results(&folder, "plain").read::<EigenvectorRow>().unwrap(), []);
    let files = std::fs::read_dir(folder.path("plain/eigenvectors/run=tiny")).unwrap().count();
    assert_eq!(files, 1, "an empty part");
    let later = format!("run tiny.toml --output plain {without} --set eigenvectors.count=4");
    folder.hesspec(&later).failed(2, &["eigenvectors.count: there (absent), here 4"]);
}

#[test]
fn eigenvectors_without_a_basis_or_memory_are_refused() {
    let folder = Folder::new();
    let none = "run tiny.toml --output out --set eigenvectors.count=4 --set lanczos.reorthogonalize=none";
    folder.hesspec(none).failed(2, &["lanczos.reorthogonalize", "[eigenvectors]", "\"full\""]);
    let plan = |more: &str| {
        let sizes = "--set model.gpt2.vocabulary=20000 --set lanczos.steps=10 --set blocks.include=[] --set lanczos.full_probes=1";
        let said = folder.hesspec(&format!("plan tiny.toml --no-timing --json {sizes} {more}")).ok().json();
        said["memory_bytes"].as_f64().unwrap()
    };
    let (without, with) = (plan(""), plan("--set eigenvectors.count=100"));
    // 160,000 entries of the embedding, 8 bytes each
    assert!(with - without > 60.0 * 160_000.0 * 8.0, "{without} and {with}");
    let few = format!("--set eigenvectors.count=100 --set hessian.memory={}B", without as u64);
    let sizes =
        "--set model.gpt2.vocabulary=20000 --set lanczos.steps=10 --set blocks.include=[] --set lanczos.full_probes=1";
    folder.hesspec(&format!("plan tiny.toml --no-timing {sizes} {few}")).failed(3, &["eigenvectors.count"]);
}
