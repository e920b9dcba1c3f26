//! `doctor`, `--log-dir`, and what a run says of its time and its device.

use hesspec::output::{MetricsRow, Results, RunRow, TridiagonalRow};
use serde_json::Value;

use crate::folder::Folder;

#[test]
fn the_doctor_tries_this_machine_and_a_folder() {
    let folder = Folder::new();
    let answer = folder.hesspec("doctor tiny.toml --output place --json").ok().json();
    assert_eq!((&answer["passed"], &answer["ranks"]), (&true.into(), &1.into()));
    let findings = answer["findings"].as_array().unwrap();
    let of = |what: &str| {
        let found = findings.iter().find(|finding| finding["what"].as_str().unwrap().starts_with(what));
        found.unwrap_or_else(|| panic!("no finding on {what}"))
    };
    for what in ["build", "threads", "memory", "clock", "device", "fused kernels", "disk", "storage: speed"] {
        assert_ne!(of(what)["verdict"], "fail", "{what}");
    }
    // tiny.toml asks for f64
    assert!(of("products")["found"].as_str().unwrap().contains("in f64"));
    assert!(of("storage: an object is created once")["found"].as_str().unwrap().contains("refused"));
    let text = folder.hesspec("doctor").ok().stdout;
    assert!(text.contains("in f32") && !text.contains("storage"), "{text}");
}

#[test]
fn the_doctor_fails_where_a_run_would() {
    let folder = Folder::new();
    folder.write("file", b"in the way");
    folder.hesspec("doctor --output file/below").failed(3, &["not fit", "storage"]);
    folder.hesspec("doctor --set hessian.backend=cuda").failed(3, &["products"]);
    folder.hesspec("doctor --set hessian.nonsense=1").failed(2, &["nonsense"]);
}

#[test]
fn every_step_is_in_the_log_and_in_the_metrics() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output out --log-dir logs").ok();
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let metrics = run.read::<MetricsRow>().unwrap();
    let taken: i32 = metrics.iter().map(|row| row.slots).sum();
    assert_eq!(taken as usize, run.read::<TridiagonalRow>().unwrap().len(), "each slot's each step, once");
    for row in &metrics {
        let parts = row.seconds_products + row.seconds_reduction + row.seconds_reorthogonalization + row.seconds_io;
        assert!(parts > 0.5 * row.seconds && parts <= row.seconds, "{row:?}");
        assert!(row.seconds_products > row.seconds_reorthogonalization, "{row:?}");
        // 30 predicted tokens
        assert!((row.tokens_per_second * row.seconds - 30.0).abs() < 1e-9, "{row:?}");
        assert!((row.products_per_second * row.seconds - f64::from(row.slots)).abs() < 1e-9, "{row:?}");
    }
    let log = std::fs::read_to_string(folder.path("logs/rank-000.jsonl")).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let steps: Vec<&Value> = lines.iter().filter(|line| line["message"] == "step").collect();
    assert_eq!(steps.len(), metrics.len());
    for (line, row) in steps.iter().zip(&metrics) {
        assert_eq!((&line["span"]["rank"], &line["span"]["run"]), (&0.into(), &"tiny".into()));
        assert!(line["span"]["host"].is_string() && line["timestamp"].is_string() && line["group"].is_string());
        assert!(line["step"].as_i64() > Some(0) && line["seconds"].as_f64() > Some(0.0), "{line}");
        assert!(line["seconds_products"].as_f64().is_some() && row.seconds > 0.0);
    }
    // a second call goes on in the same file, and does not repeat steps
    folder.hesspec("run tiny.toml --output out --log-dir logs").ok();
    let longer = std::fs::read_to_string(folder.path("logs/rank-000.jsonl")).unwrap();
    assert!(longer.starts_with(&log) && longer.len() > log.len());
    assert!(!longer[log.len()..].contains("\"step\""));
    folder.write("blocked", b"a file");
    folder.hesspec("run tiny.toml --output out --log-dir blocked").failed(5, &["--log-dir"]);
}

#[test]
fn the_precision_of_products_is_measured_by_check_and_run() {
    let folder = Folder::new();
    let answer = folder.hesspec("check tiny.toml --json").ok().json();
    assert_eq!((&answer["matmul"]["precision"], &answer["matmul"]["inner"]), (&"f64".into(), &512.into()));
    assert!(answer["matmul"]["relative"].as_f64().unwrap() < 1e-14);
    assert!(folder.hesspec("check tiny.toml").ok().stdout.contains("matrix products in f64: relative error"));
    folder.hesspec("run tiny.toml --output out --set hessian.precision=f32 --set blocks.full=false").ok();
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let said = run.read::<RunRow>().unwrap().swap_remove(0).matmul_precision;
    assert!(said.starts_with("matrix products in f32: relative error") && said.contains("e-7"), "{said}");
}
