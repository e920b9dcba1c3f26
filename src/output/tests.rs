use super::*;
use crate::Error;

pub(super) fn provenance(config: &str) -> Provenance {
    Provenance { config: config.into(), versions: [("hesspec".into(), "0.1.0".into())].into() }
}

pub(super) fn differing(stored: &str, ours: &str) -> Vec<String> {
    if stored == ours { vec![] } else { vec![format!("{stored} -> {ours}")] }
}

pub(super) fn open(url: &str) -> RunStore {
    let mut store = RunStore::open(url, "r", &provenance("steps = 3"), differing).unwrap();
    store.begin().unwrap();
    store
}

fn node(block: &str, probe: i32, node_index: i32) -> NodeRow {
    NodeRow {
        block: block.into(),
        probe,
        node_index,
        node: 0.1 * f64::from(node_index) - 0.3,
        weight: 0.25,
        weight_reduced: (probe == 1).then_some(1e-7),
        residual_bound: f64::MIN_POSITIVE,
        converged: node_index == 0,
        below_noise_floor: false,
    }
}

pub(super) fn group(block: &str) -> Tables {
    Tables { nodes: (0..8).map(|n| node(block, n / 4, n % 4)).collect(), ..Tables::default() }
}

fn parquet_files(folder: &std::path::Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .map(|files| files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect())
        .unwrap_or_default();
    names.sort();
    names
}

fn convergence(change: Option<f64>) -> ConvergenceRow {
    ConvergenceRow {
        block: "b".into(),
        tokens: 1 << 40,
        batch: "r-1099511627776".into(),
        segments: 8,
        w1_previous: change,
        w1_largest: change,
        w1_error: 0.1,
        js_previous: change,
        js_largest: change,
        js_error: 0.2,
        trace: -1.0,
        trace_error: 0.3,
        frobenius: 2.0,
        frobenius_error: 0.4,
        noise_share: change,
        lambda_min: -3.0,
        lambda_min_error: 0.5,
        lambda_max: 4.0,
        lambda_max_error: 0.6,
        status: "ok".into(),
    }
}

/// Every table, with a null in every nullable column and a value beside it.
pub(super) fn one_of_each() -> Tables {
    let block = "transformer.h.0.attn.q.weight".to_string();
    let shape = "[384, 384]".to_string();
    let blocks = [Some(0), None].map(|layer| BlockRow {
        block: block.clone(),
        kind: "q.weight".into(),
        layer,
        shape: shape.clone(),
        num_params: 1 << 40,
        offset: 7,
    });
    let density = [Some(0.5), None].map(|sem| DensityRow {
        block: block.clone(),
        axis: "asinh".into(),
        coordinate: -1.5,
        eigenvalue: -0.02,
        density: 1e-300,
        density_per_eigenvalue: sem,
        sem,
        axis_scale: sem,
        sigma: sem,
    });
    let divergence = [Some(0.5), None].map(|value| DivergenceRow {
        metric: "js".into(),
        block_a: block.clone(),
        block_b: block.clone(),
        value,
        sem: value,
        error: value,
        noise_floor: value,
        axis_scale: value,
        sigma: value,
        status: "zero_block: \"quoted\", ünïcode".into(),
    });
    let summary = [Some(2.0), None].map(|trace_sem| SummaryRow {
        block: block.clone(),
        trace: -1.0,
        trace_sem,
        frobenius: 2.0,
        lambda_min: -3.0,
        lambda_min_residual_bound: 1e-9,
        lambda_max: 4.0,
        lambda_max_residual_bound: 2e-9,
        negative_mass: 0.5,
        negative_energy: trace_sem,
        noise_floor: 1e-8,
        steps_done: 100,
        status: "ok".into(),
    });
    Tables {
        blocks: blocks.into(),
        tridiagonal: vec![TridiagonalRow {
            block: block.clone(),
            probe: 0,
            step: 1,
            alpha: f64::MAX,
            beta: 0.0,
            orthogonality_loss: 1e-16,
            seconds: 0.1,
        }],
        complement: vec![ComplementRow {
            block: block.clone(),
            probe: 0,
            start: 2,
            step: 1,
            alpha: 0.5,
            beta: 0.25,
            orthogonality_loss: 1e-16,
            seconds: 0.1,
        }],
        nodes: group(&block).nodes,
        density: density.into(),
        divergence: divergence.into(),
        summary: summary.into(),
        segments: vec![SegmentRow { block, probe: 0, segment: 7, i: 1, j: 2, value: -0.0 }],
        runs: vec![RunRow {
            config: "[run]\nname = \"r\"".into(),
            versions: "{}".into(),
            world: 1,
            hardware: "2 cores".into(),
            matmul_precision: "f32".into(),
            started: "2026-01-01T00:00:00Z".into(),
            finished: "2026-01-01T00:01:00Z".into(),
            seconds: 60.0,
            status: "ok".into(),
        }],
        metrics: vec![MetricsRow {
            group: "g".into(),
            step: 1,
            slots: 8,
            seconds: 2.0,
            seconds_products: 1.0,
            seconds_reduction: 0.5,
            seconds_reorthogonalization: 0.25,
            seconds_io: 0.0,
            tokens_per_second: 1e6,
            products_per_second: 4.0,
        }],
        convergence: [None, Some(0.5)].map(convergence).into(),
        convergence_pairs: vec![ConvergencePairRow {
            block_a: "a".into(),
            block_b: "b".into(),
            tokens: 1 << 40,
            js: 0.5,
            js_error: 1e-3,
            wasserstein1: 2.0,
            wasserstein1_error: 1e-2,
        }],
        eigenvectors: [Some(0.5), None]
            .map(|gradient_overlap| EigenvectorRow {
                block: "b".into(),
                index: 3,
                eigenvalue: -2.5,
                residual_bound: 1e-9,
                angle: 1e-6,
                gradient_overlap,
                file: "eigenvectors/run=r/_b00000-p000.safetensors".into(),
            })
            .into(),
        eigenvector_mass: vec![EigenvectorMassRow { block: "b".into(), index: 3, parameter: "p".into(), mass: 1.0 }],
        diagonal: [Some(0.5), None]
            .map(|error| DiagonalRow {
                block: "b".into(),
                part: "p".into(),
                kind: "row".into(),
                index: 3,
                num_entries: 1 << 40,
                value: -2.5,
                error,
            })
            .into(),
        series: [Some(0.5), None]
            .map(|number| SeriesRow {
                label: "step 7".into(),
                number: 7,
                member: "r-7".into(),
                block: "b".into(),
                trace: 1.0,
                trace_error: number,
                frobenius: 2.0,
                lambda_min: -1.0,
                lambda_min_error: 0.1,
                lambda_max: 3.0,
                lambda_max_error: 0.2,
                negative_mass: 0.25,
                negative_energy: number,
                status: "ok".into(),
            })
            .into(),
        series_distances: [Some(0.5), None]
            .map(|number| SeriesDistanceRow {
                block: "b".into(),
                metric: "js".into(),
                label_a: "step 7".into(),
                label_b: "step 9".into(),
                number_a: 7,
                number_b: 9,
                value: number,
                error: number,
                noise_floor: number,
                axis_scale: number,
                sigma: number,
                status: "ok".into(),
            })
            .into(),
        series_pairs: [Some(0.5), None]
            .map(|number| SeriesPairRow {
                label: "step 7".into(),
                number: 7,
                metric: "js".into(),
                mean: number,
                mean_error: number,
                largest: number,
                num_pairs: 3,
            })
            .into(),
        diagonal_probes: vec![DiagonalProbeRow {
            block: "b".into(),
            probe: 1,
            part: "p".into(),
            kind: "head".into(),
            index: 3,
            num_entries: 7,
            value: -2.5,
        }],
        training: [Some(0.5), None]
            .map(|held_out| TrainingRow {
                step: 1 << 40,
                samples: 1 << 41,
                learning_rate: 1e-3,
                loss: f64::INFINITY,
                gradient_norm: 2.0,
                clipped: true,
                held_out_loss: held_out,
                held_out_accuracy: held_out,
                seconds: 0.1,
            })
            .into(),
        quadratic: [Some(0.5), None]
            .map(|value| QuadraticRow {
                quantity: "r".into(),
                block: value.map(|_| "b".into()),
                trials: 3,
                missing: 1,
                lower_quartile: value,
                median: value,
                upper_quartile: value,
                mean: value,
                max: value,
            })
            .into(),
        quadratic_blocks: vec![QuadraticBlockRow {
            block: "b".into(),
            index: 3,
            eigenvalue: 2.0,
            start: -1.0,
            gradient: -2.0,
        }],
        quadratic_curves: [Some(0.5), None]
            .map(|value| QuadraticCurveRow {
                optimizer: "adam".into(),
                beta2: value,
                learning_rate: value,
                is_best: true,
                iteration: 1 << 40,
                loss: 0.25,
                bound: value,
                bound_as_printed: value,
            })
            .into(),
        quadratic_trials: [Some(0.5), None]
            .map(|value| QuadraticTrialRow { trial: 7, quantity: "r".into(), block: value.map(|_| "b".into()), value })
            .into(),
        dense: vec![
            DenseRow { block: "b".into(), row: 0, values: vec![1.0, -0.0, f64::MAX] },
            DenseRow { block: "b".into(), row: 1, values: Vec::new() },
        ],
        dense_blocks: [Some(0.5), None]
            .map(|value| DenseBlockRow {
                block: "b".into(),
                num_params: 3,
                frobenius: 2.0,
                asymmetry: value,
                parts: 2,
                off_diagonal: value,
                rank: value.map(|_| 2),
                kappa: value,
                kappa_adam: value,
                status: "ok".into(),
            })
            .into(),
        dense_shares: [Some(0.5), None]
            .map(|share| DenseShareRow {
                block: "b".into(),
                part_a: "p".into(),
                part_b: "q".into(),
                first_a: 0,
                first_b: 7,
                num_entries: 1 << 40,
                frobenius_squared: 2.0,
                share,
            })
            .into(),
    }
}

#[test]
fn every_table_comes_back_as_it_was() {
    let url = "memory://round-trip/below";
    let tables = one_of_each();
    let mut store = open(url);
    store.finish(&tables).unwrap();
    let run = Results::open(url).unwrap().run(None).unwrap();
    assert!(run.is_done());
    assert_eq!(run.record().config, "steps = 3");
    let read = Tables {
        blocks: run.read().unwrap(),
        tridiagonal: run.read().unwrap(),
        complement: run.read().unwrap(),
        nodes: run.read().unwrap(),
        density: run.read().unwrap(),
        divergence: run.read().unwrap(),
        summary: run.read().unwrap(),
        segments: run.read().unwrap(),
        runs: run.read().unwrap(),
        metrics: run.read().unwrap(),
        convergence: run.read().unwrap(),
        convergence_pairs: run.read().unwrap(),
        eigenvectors: run.read().unwrap(),
        eigenvector_mass: run.read().unwrap(),
        diagonal: run.read().unwrap(),
        diagonal_probes: run.read().unwrap(),
        series: run.read().unwrap(),
        series_distances: run.read().unwrap(),
        series_pairs: run.read().unwrap(),
        training: run.read().unwrap(),
        quadratic: run.read().unwrap(),
        quadratic_blocks: run.read().unwrap(),
        quadratic_curves: run.read().unwrap(),
        quadratic_trials: run.read().unwrap(),
        dense: run.read().unwrap(),
        dense_blocks: run.read().unwrap(),
        dense_shares: run.read().unwrap(),
    };
    assert_eq!(read, tables);
}

/// `tests/python/read_tables.py` reads what this writes when the variable names an empty folder.
#[test]
fn tables_for_other_readers() {
    let folder = tempfile::tempdir().unwrap();
    let url = std::env::var("HESSPEC_TABLES_OUT").unwrap_or_else(|_| folder.path().to_str().unwrap().to_string());
    let mut store = open(&url);
    store.write_group("a", &one_of_each()).unwrap();
    store.write_group("b", &group("b")).unwrap();
    store.finish(&Tables::default()).unwrap();
    RunStore::open(&url, "2024", &provenance(""), differing).unwrap().write_group("a", &one_of_each()).unwrap();
    assert_eq!(Results::open(&url).unwrap().runs().unwrap(), ["2024", "r"]);
}

#[test]
fn more_rows_than_a_batch_stay_in_order() {
    let url = "memory://many-rows";
    let segments =
        (0..200_000).map(|i| SegmentRow { block: "b".into(), probe: 0, segment: 0, i, j: 0, value: f64::from(i) });
    let tables = Tables { segments: segments.collect(), ..Tables::default() };
    let mut store = open(url);
    store.write_group("g", &tables).unwrap();
    assert_eq!(store.read::<SegmentRow>().unwrap(), tables.segments);
}

#[test]
fn every_table_and_column_says_what_it_is() {
    let tables = descriptions();
    assert_eq!(tables.iter().map(|table| table.table).collect::<Vec<_>>(), TABLES);
    for table in tables {
        assert!(table.row.ends_with('.') && !table.columns.is_empty(), "{table:?}");
        for column in &table.columns {
            assert!(column.meaning.ends_with('.'), "{}.{}: {}", table.table, column.column, column.meaning);
        }
    }
}

#[test]
fn an_unused_table_is_empty_and_not_missing() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    open(url).finish(&Tables::default()).unwrap();
    for table in TABLES.iter().filter(|table| !APART.contains(table)) {
        assert_eq!(parquet_files(&folder.path().join(format!("{table}/run=r"))), ["part-final.parquet"], "{table}");
    }
}

#[test]
fn provenance_is_in_the_footer_and_in_the_schema() {
    let folder = tempfile::tempdir().unwrap();
    open(folder.path().to_str().unwrap()).finish(&one_of_each()).unwrap();
    let file = std::fs::File::open(folder.path().join("nodes/run=r/part-final.parquet")).unwrap();
    let builder = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
    let footer = builder.metadata().file_metadata().key_value_metadata().unwrap();
    for (key, value) in [("hesspec.config", "steps = 3"), ("hesspec.run", "r"), ("hesspec.table", "nodes")] {
        assert!(footer.iter().any(|pair| pair.key == key && pair.value.as_deref() == Some(value)), "{key}");
        assert_eq!(builder.schema().metadata()[key], value);
    }
    // every column says what it means, in the file too
    let meaning = |name: &str| builder.schema().field_with_name(name).unwrap().metadata()["description"].clone();
    assert_eq!(meaning("probe"), "Probe number from 0.");
    // the Arrow schema itself, not only the footer that readers merge into it
    assert!(footer.iter().any(|pair| pair.key == "ARROW:schema"));
}

#[test]
fn another_config_is_refused_with_what_differs_and_the_same_continues() {
    let url = "memory://refused";
    open(url).write_group("a", &group("a")).unwrap();
    let error = RunStore::open(url, "r", &provenance("steps = 4"), differing).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("steps = 3 -> steps = 4"), "{error}");
    assert!(RunStore::open(url, "other", &provenance("steps = 4"), differing).is_ok());
    let mut store = open(url);
    assert_eq!(store.finished_groups(), ["a"].into());
    assert!(store.write_group("a", &group("a")).is_err());
    store.finish(&Tables::default()).unwrap();
    let mut store = open(url);
    assert!(store.is_done() && store.write_group("b", &group("b")).is_err());
}

#[test]
fn a_kill_between_parts_leaves_the_group_unfinished_and_no_row_twice() {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().to_str().unwrap());
    let mut store = open(&url);
    store.write_group("a", &group("a")).unwrap();
    store.write_group("b", &one_of_each()).unwrap();
    // what a kill leaves: parts of b, and of a group that the next plan does not know, but no manifests
    std::fs::remove_file(folder.path().join("_runs/r/groups/b.json")).unwrap();
    let nodes = folder.path().join("nodes/run=r");
    std::fs::copy(nodes.join("part-b.parquet"), nodes.join("part-old.parquet")).unwrap();
    std::fs::write(nodes.join("part-b.parquet#1"), "half").unwrap();
    let runs = folder.path().join("_runs/r");
    std::fs::create_dir_all(runs.join("checkpoint/b")).unwrap();
    for staged in ["checkpoint/b/step-00001.bin#12", "groups/b.json#1", "manifest.json#1"] {
        std::fs::write(runs.join(staged), "half").unwrap();
    }
    std::fs::write(runs.join("LOCK#1"), "another job's, in the making").unwrap();

    let mut store = open(&url);
    assert_eq!(store.finished_groups(), ["a"].into());
    assert_eq!(parquet_files(&nodes), ["part-a.parquet"]);
    assert_eq!(parquet_files(&runs), ["LOCK#1", "checkpoint", "groups", "run.json"]);
    assert_eq!(parquet_files(&runs.join("groups")), ["a.json"]);
    assert_eq!(parquet_files(&runs.join("checkpoint/b")), Vec::<String>::new());
    assert_eq!(parquet_files(&folder.path().join("segments/run=r")), Vec::<String>::new());
    store.write_group("b", &group("b")).unwrap();
    assert_eq!(parquet_files(&nodes), ["part-a.parquet", "part-b.parquet"]);
    assert_eq!(open(&url).read::<NodeRow>().unwrap(), [group("a").nodes, group("b").nodes].concat());
}

#[test]
fn a_kill_before_done_writes_the_last_tables_again() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    let mut store = open(url);
    store.write_group("a", &group("a")).unwrap();
    store.finish(&Tables { runs: one_of_each().runs, ..Tables::default() }).unwrap();
    std::fs::remove_file(folder.path().join("_runs/r/DONE")).unwrap();
    let mut store = open(url);
    assert!(!store.is_done());
    assert_eq!(parquet_files(&folder.path().join("runs/run=r")), Vec::<String>::new());
    store.finish(&Tables { runs: one_of_each().runs, ..Tables::default() }).unwrap();
    assert_eq!(Results::open(url).unwrap().run(Some("r")).unwrap().read::<RunRow>().unwrap().len(), 1);
}

#[test]
fn a_name_can_be_looked_at_without_a_claim() {
    let url = "memory://looked-at";
    let check = |config: &str| RunStore::check(url, "r", &provenance(config), differing);
    check("steps = 3").unwrap();
    assert!(Results::open(url).is_err(), "nothing was claimed");
    open(url);
    check("steps = 3").unwrap();
    let error = check("steps = 4").unwrap_err();
    assert!(error.exit_code() == 2 && error.to_string().contains("steps = 3 -> steps = 4"), "{error}");
}

#[test]
fn parts_of_an_unknown_run_are_never_touched() {
    let folder = tempfile::tempdir().unwrap();
    let nodes = folder.path().join("nodes/run=r");
    std::fs::create_dir_all(&nodes).unwrap();
    std::fs::write(nodes.join("part-0.parquet"), "mine").unwrap();
    let url = folder.path().to_str().unwrap();
    assert!(matches!(RunStore::open(url, "r", &provenance(""), differing), Err(Error::Config(_))));
    assert!(nodes.join("part-0.parquet").exists());
}

#[test]
fn an_output_that_cannot_be_written_is_a_storage_error_at_open() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    for below in ["", "/below"] {
        let url = format!("{}{below}", file.to_str().unwrap());
        let error = RunStore::open(&url, "r", &provenance(""), differing).err().unwrap();
        assert_eq!(error.exit_code(), 5, "{error}");
        assert!(error.to_string().contains(&url), "{error}");
    }
    // the folder opens, but nothing can be put into it
    std::fs::write(folder.path().join("_runs"), "in the way").unwrap();
    let error = RunStore::open(folder.path().to_str().unwrap(), "r", &provenance(""), differing).err().unwrap();
    assert_eq!(error.exit_code(), 5, "{error}");
}

#[test]
fn names_that_are_no_folders_and_results_that_are_none_are_config_errors() {
    for name in ["", "a/b", "..", "a b", "a=b"] {
        let error = RunStore::open("memory://names", name, &provenance(""), differing).err().unwrap();
        assert_eq!(error.exit_code(), 2, "{name}");
    }
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(Results::open(folder.path().to_str().unwrap()).err().unwrap().exit_code(), 2);
    assert_eq!(Results::open(folder.path().join("none").to_str().unwrap()).err().unwrap().exit_code(), 2);
    open("memory://two-runs");
    RunStore::open("memory://two-runs", "s", &provenance(""), differing).unwrap();
    let results = Results::open("memory://two-runs").unwrap();
    assert_eq!(results.runs().unwrap(), ["r", "s"]);
    assert_eq!(results.run(None).err().unwrap().exit_code(), 2);
    assert!(!results.run(Some("s")).unwrap().is_done());
}
