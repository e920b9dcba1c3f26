use super::*;
use crate::output::{Provenance, RunStore};

/// Names of a small GPT: `layers` times q, k, v, o, c_fc, c_proj, and the embedding.
fn names(layers: usize) -> Vec<String> {
    let parts = ["attn.q", "attn.k", "attn.v", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"];
    let of_layers = (0..layers).flat_map(|l| parts.map(|part| format!("transformer.h.{l}.{part}.weight")));
    std::iter::once("transformer.wte.weight".to_string()).chain(of_layers).collect()
}

/// Two bumps and a few outliers whose scale depends on the block, on an asinh axis with lambda_c = 1e-3.
fn density(block: &str, index: usize) -> Vec<DensityRow> {
    let scale = 10f64.powf(-2.0 + 3.0 * (index as f64 * 0.7).sin());
    let sigma = 0.06;
    let nodes = [(0.0, 0.9), (0.3 * scale, 0.08), (-0.05 * scale, 0.02), (3.0 * scale, 2e-5), (8.0 * scale, 4e-6)];
    (0..4000)
        .map(|point| {
            let coordinate = -5.0 + 16.0 * f64::from(point) / 3999.0;
            let bump = |(node, weight): (f64, f64)| {
                let z: f64 = (coordinate - (node / 1e-3f64).asinh()) / (if weight > 0.01 { 6.0 } else { 1.0 } * sigma);
                weight * (-0.5 * z * z).exp() / sigma
            };
            let density: f64 = nodes.map(bump).iter().sum();
            DensityRow {
                block: block.into(),
                axis: "asinh".into(),
                coordinate,
                eigenvalue: 1e-3 * coordinate.sinh(),
                density,
                density_per_eigenvalue: None,
                sem: Some(0.3 * density * (1.0 + coordinate.sin())),
                axis_scale: Some(1e-3),
                sigma: Some(sigma),
            }
        })
        .collect()
}

fn summary(block: &str, index: usize) -> SummaryRow {
    let scale = 10f64.powf(-2.0 + 3.0 * (index as f64 * 0.7).sin());
    SummaryRow {
        block: block.into(),
        trace: scale * 120.0,
        trace_sem: (index != 3).then_some(scale * 20.0),
        frobenius: 10.0 * scale,
        lambda_min: -0.05 * scale,
        lambda_min_residual_bound: 0.01 * scale,
        lambda_max: 8.0 * scale,
        lambda_max_residual_bound: 1e-9,
        negative_mass: 0.31,
        negative_energy: (index != 2).then_some(0.1),
        noise_floor: 1e-7,
        steps_done: 100,
        status: if index == 2 {
            "zero_block: all nodes below the noise floor; use hessian.precision = \"f64\""
        } else {
            "ok"
        }
        .into(),
    }
}

fn divergences(blocks: &[String]) -> Vec<DivergenceRow> {
    let mut rows = Vec::new();
    for (factor, metric) in [(1.0, "js"), (40.0, "wasserstein1"), (300.0, "symkl_paper"), (1.0, "js_shape")] {
        for (i, a) in blocks.iter().enumerate() {
            for (j, b) in blocks.iter().enumerate().skip(i) {
                let apart = ((i as f64 * 0.7).sin() - (j as f64 * 0.7).sin()).abs() / 2.0;
                let is_zero = metric == "js_shape" && (i == 2 || j == 2);
                rows.push(DivergenceRow {
                    metric: metric.into(),
                    block_a: a.clone(),
                    block_b: b.clone(),
                    value: (!is_zero).then_some(if factor > 1.0 { factor * apart.powi(3) } else { apart }),
                    sem: Some(0.01),
                    error: Some(0.02),
                    noise_floor: None,
                    axis_scale: None,
                    sigma: None,
                    status: if is_zero { "zero_block: no scale" } else { "ok" }.into(),
                });
            }
        }
    }
    rows
}

fn made_up(layers: usize) -> Tables {
    let names = names(layers);
    let mut tables = Tables { divergence: divergences(&names), ..Tables::default() };
    for (index, name) in names.iter().chain([&"full".to_string()]).enumerate() {
        let is_full = name == "full";
        tables.blocks.push(BlockRow {
            block: name.clone(),
            kind: if is_full { "full" } else { "weight" }.into(),
            layer: None,
            shape: "[384, 384]".into(),
            num_params: if is_full { 10_000_000 } else { 147_456 },
            offset: 147_456 * index as i64,
        });
        tables.density.extend(density(name, index));
        tables.summary.push(summary(name, index));
    }
    tables.runs.push(RunRow {
        config: "{}".into(),
        versions: "{}".into(),
        world: 1,
        hardware: "2 cores <8 GiB>".into(),
        matmul_precision: "f32".into(),
        started: "2026-01-01T00:00:00Z".into(),
        finished: "2026-01-01T01:00:00Z".into(),
        seconds: 3600.0,
        status: "ok".into(),
    });
    tables
}

fn write(url: &str, tables: &Tables) {
    let provenance = Provenance { config: "[lanczos]\nsteps = 100".into(), ..Provenance::default() };
    let mut store = RunStore::open(url, "gpt2-nano", &provenance, |_, _| vec![]).unwrap();
    store.finish(tables).unwrap();
}

/// The folder named by the variable keeps the drawings for a look; else a folder that goes away.
fn out_folder(temporary: &tempfile::TempDir, name: &str) -> PathBuf {
    std::env::var_os("HESSPEC_REPORT_OUT").map_or(temporary.path().into(), PathBuf::from).join(name)
}

#[test]
fn every_figure_is_drawn_twice_and_the_page_stands_alone() {
    let temporary = tempfile::tempdir().unwrap();
    for (url, layers) in [("memory://report-31", 5), ("memory://report-7", 1)] {
        write(url, &made_up(layers));
        let report = report(url, None, &out_folder(&temporary, &layers.to_string())).unwrap();
        assert_eq!(report.notes, Vec::<String>::new());
        // summary, all blocks, full, one per block, four metrics; SVG and PNG
        assert_eq!(report.figures.len(), 2 * (3 + 6 * layers + 1 + 4));
        for figure in &report.figures {
            let bytes = std::fs::read(figure).unwrap();
            match figure.extension().and_then(|extension| extension.to_str()) {
                Some("png") => assert_eq!(&bytes[..8], b"\x89PNG\r\n\x1a\n"),
                _ => assert!(String::from_utf8(bytes).unwrap().ends_with("</svg>")),
            }
        }
        let page = std::fs::read_to_string(&report.page).unwrap();
        for outside in ["src=", "<link", "@import", "url(", "<script"] {
            assert!(!page.contains(outside), "{outside}");
        }
        assert!(page.contains("transformer.h.0.attn.q.weight") && page.contains("2 cores &lt;8 GiB&gt;"));
        assert!(page.contains("zero_block: all nodes below the noise floor"));
        assert!(!page.contains("NaN"), "a coordinate or number is not finite");
    }
}

#[test]
fn what_cannot_be_drawn_is_said() {
    let temporary = tempfile::tempdir().unwrap();
    write("memory://report-empty", &Tables::default());
    let report = report("memory://report-empty", None, temporary.path()).unwrap();
    assert_eq!(report.figures, Vec::<PathBuf>::new());
    assert_eq!(report.notes.len(), 3, "{:?}", report.notes);
    let page = std::fs::read_to_string(report.page).unwrap();
    assert!(report.notes.iter().all(|note| page.contains(note.as_str())));
}

#[test]
fn degenerate_numbers_draw_without_nan() {
    let temporary = tempfile::tempdir().unwrap();
    let mut tables = made_up(1);
    tables.density.iter_mut().for_each(|row| {
        row.sem = None;
        if row.block.ends_with("attn.q.weight") {
            row.density = 0.0;
        }
    });
    tables.divergence.iter_mut().for_each(|row| row.value = row.value.map(|_| 0.0));
    tables.summary.iter_mut().for_each(|row| (row.lambda_max, row.trace, row.noise_floor) = (0.0, 0.0, 0.0));
    write("memory://report-zero", &tables);
    let report = report("memory://report-zero", Some("gpt2-nano"), temporary.path()).unwrap();
    assert_eq!(report.notes.len(), 1, "{:?}", report.notes);
    let page = std::fs::read_to_string(report.page).unwrap();
    assert!(!page.contains("NaN") && !page.contains("inf\""));
}

#[test]
fn a_report_that_cannot_be_written_is_a_storage_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    write("memory://report-unwritable", &Tables::default());
    let error = report("memory://report-unwritable", None, file.path()).unwrap_err();
    assert_eq!(error.exit_code(), 5);
}

/// Two blocks in four batches, one of them without any curvature, and their distance.
fn study() -> Tables {
    let mut tables = made_up(1);
    for (at, tokens) in [1024, 2048, 4096, 8192].into_iter().enumerate() {
        for (block, size) in [("transformer.wte.weight", 1.0), ("transformer.h.0.attn.k.bias", 0.0)] {
            let error = size / (tokens as f64).sqrt();
            let other = |is_there: bool| is_there.then_some(1.5 * error);
            tables.convergence.push(ConvergenceRow {
                block: block.into(),
                tokens,
                batch: format!("gpt2-nano-{tokens}"),
                segments: 8,
                w1_previous: other(at > 0),
                w1_largest: other(at < 3),
                w1_error: error,
                js_previous: other(at > 0),
                js_largest: other(at < 3),
                js_error: error,
                trace: 100.0 * size + at as f64 * error,
                trace_error: error,
                frobenius: size,
                frobenius_error: error,
                noise_share: other(at > 0),
                lambda_min: -size,
                lambda_min_error: error,
                lambda_max: size,
                lambda_max_error: error,
                status: if size == 0.0 { "zero_block; nothing above the noise" } else { "ok" }.into(),
            });
        }
        tables.convergence_pairs.push(ConvergencePairRow {
            block_a: "transformer.wte.weight".into(),
            block_b: "transformer.h.0.attn.k.bias".into(),
            tokens,
            js: 0.4,
            js_error: 0.1,
            wasserstein1: 0.4,
            wasserstein1_error: 0.1,
        });
    }
    tables
}

#[test]
fn a_study_has_a_section_of_its_own() {
    let temporary = tempfile::tempdir().unwrap();
    write("memory://report-study", &study());
    let report = report("memory://report-study", None, &out_folder(&temporary, "study")).unwrap();
    let names: Vec<_> = report.figures.iter().filter_map(|figure| figure.file_stem()?.to_str()).collect();
    for name in [
        "convergence",
        "convergence-000-transformer.wte.weight",
        "convergence-001-transformer.h.0.attn.k.bias",
        "convergence-pairs",
    ] {
        assert_eq!(names.iter().filter(|found| **found == name).count(), 2, "{name} as SVG and PNG: {names:?}");
    }
    let page = std::fs::read_to_string(&report.page).unwrap();
    assert!(page.contains("How many tokens are enough") && page.contains("zero_block; nothing above the noise"));
    assert!(!page.contains("NaN") && !page.contains("inf\""), "a coordinate or number is not finite");
    // the zero block does not count; differences of 3, 2, 1 errors of the largest batch
    assert!(page.contains("<td>trace</td><td>3</td>"), "coverage of three smaller batches of one block");
}
