//! `run`, `plan` and `report`: finished once, continued after a kill, refused where they would mix.

use std::time::{Duration, Instant};

use hesspec::output::{
    ComplementRow, DivergenceRow, MetricsRow, NodeRow, Results, RunRow, SegmentRow, SummaryRow, TridiagonalRow,
};

use crate::folder::Folder;

/// Everything that a run found, without what the clock said.
fn findings(folder: &Folder, url: &str) -> (Vec<TridiagonalRow>, Vec<NodeRow>, Vec<SegmentRow>, Vec<String>) {
    let run = Results::open(folder.path(url).to_str().unwrap()).unwrap().run(None).unwrap();
    assert!(run.is_done());
    let mut tridiagonal = run.read::<TridiagonalRow>().unwrap();
    tridiagonal.iter_mut().for_each(|row| row.seconds = 0.0);
    tridiagonal.sort_by(|a, b| (&a.block, a.probe, a.step).cmp(&(&b.block, b.probe, b.step)));
    let mut nodes = run.read::<NodeRow>().unwrap();
    nodes.sort_by(|a, b| (&a.block, a.probe, a.node_index).cmp(&(&b.block, b.probe, b.node_index)));
    let mut segments = run.read::<SegmentRow>().unwrap();
    segments.sort_by(|a, b| (&a.block, a.probe, a.segment, a.i, a.j).cmp(&(&b.block, b.probe, b.segment, b.i, b.j)));
    let mut others: Vec<String> = run.read::<SummaryRow>().unwrap().iter().map(|row| format!("{row:?}")).collect();
    let mut complement = run.read::<ComplementRow>().unwrap();
    complement.sort_by(|a, b| (&a.block, a.probe, a.start, a.step).cmp(&(&b.block, b.probe, b.start, b.step)));
    let bits = |row: &ComplementRow| format!("{} {:x} {:x}", row.block, row.alpha.to_bits(), row.beta.to_bits());
    others.extend(complement.iter().map(bits));
    others.extend(run.read::<DivergenceRow>().unwrap().iter().map(|row| format!("{row:?}")));
    (tridiagonal, nodes, segments, others)
}

#[test]
fn a_run_is_done_once_and_then_says_so() {
    let folder = Folder::new();
    let first = folder.hesspec("run tiny.toml --output out --json").ok().json();
    assert_eq!((&first["run"], &first["url"], &first["groups_found"]), (&"tiny".into(), &"out".into(), &0.into()));
    assert!(first["groups_computed"].as_u64().unwrap() > 1);
    let again = folder.hesspec("run tiny.toml --output out --json").ok();
    assert!(again.stderr.contains("already done"), "{}", again.stderr);
    let again = again.json();
    assert_eq!((&again["groups_found"], &again["groups_computed"]), (&first["groups_computed"], &0.into()));
    assert!(folder.hesspec("run tiny.toml --output out").ok().stdout.contains("already done"));
    findings(&folder, "out");
}

#[test]
fn another_configuration_in_the_same_place_is_refused_with_what_differs() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output out --set blocks.full=false").ok();
    let other = "run tiny.toml --output out --set blocks.full=false --set run.seed=7 --set lanczos.steps=5";
    folder.hesspec(other).failed(2, &["run.seed", "1337", "7", "lanczos.steps"]);
    folder.hesspec(&format!("{other} --set run.name=other")).ok();
    folder.hesspec("report out").failed(2, &["tiny", "other"]);
    folder.hesspec("report out --run other").ok();
}

#[test]
fn an_output_that_cannot_be_written_is_a_storage_error() {
    let folder = Folder::new();
    folder.write("file", b"not a folder");
    folder.hesspec("run tiny.toml --output file/results").failed(5, &["file/results"]);
    folder.hesspec("hvp tiny.toml --loss --gradient file/g.safetensors").failed(5, &["file/g.safetensors"]);
    folder.hesspec("run tiny.toml --output nosuch://bucket/x").failed(2, &["nosuch"]);
}

/// Killed as soon as some groups are there, again and again: in the end the same bits as without.
#[test]
fn a_killed_run_continues_and_ends_with_the_same_bits() {
    let folder = Folder::new();
    let settings = ["--set", "hessian.slots=1", "--set", "lanczos.steps=12"]; // many groups
    let arguments = |url| [&["run", "tiny.toml", "--output", url][..], &settings].concat();
    assert!(folder.command(&arguments("whole")).output().unwrap().status.success());
    // a manifest that was being written when the process was killed has another ending
    let groups = |url: &str| {
        let files = folder.path(&format!("{url}/_runs/tiny/groups")).read_dir();
        let is_whole =
            |file: std::io::Result<std::fs::DirEntry>| file.unwrap().path().extension() == Some("json".as_ref());
        files.map_or(0, |files| files.map(is_whole).filter(|whole| *whole).count())
    };
    let total = groups("whole");
    assert!(total > 10, "{total} groups");
    let mut kills = 0;
    for wanted in [1, total / 3, 2 * total / 3] {
        let mut child = folder.command(&arguments("killed")).stderr(std::process::Stdio::null()).spawn().unwrap();
        let begin = Instant::now();
        while groups("killed") < wanted && child.try_wait().unwrap().is_none() {
            assert!(begin.elapsed() < Duration::from_secs(120), "no group after two minutes");
            std::thread::sleep(Duration::from_millis(2));
        }
        child.kill().unwrap();
        kills += usize::from(!child.wait().unwrap().success());
    }
    assert!(kills > 0, "every run was done before it could be killed");
    let before = groups("killed");
    let mut last = arguments("killed").to_vec();
    last.push("--json");
    let answer: serde_json::Value = serde_json::from_slice(&folder.command(&last).output().unwrap().stdout).unwrap();
    if before < total {
        assert_eq!(answer["groups_found"], before, "finished groups are not computed again");
        assert_eq!(answer["groups_computed"], total - before);
    }
    assert!(findings(&folder, "killed") == findings(&folder, "whole"));
}

/// How the data is cut follows from the free memory when a run begins, and from the run's record when it goes on.
#[test]
fn a_run_that_goes_on_with_less_memory_cuts_its_data_as_before() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(folder.path("tiny.toml")).unwrap();
    folder.write("tiny.toml", text.replace("micro_batch = 2", "").as_bytes());
    let shape = || -> serde_json::Value {
        let text = std::fs::read(folder.path("out/_runs/tiny/shape.json")).unwrap();
        serde_json::from_slice::<serde_json::Value>(&text).unwrap()["shape"].clone()
    };
    folder.hesspec("run tiny.toml --output out").ok();
    let (before, tables) = (shape(), findings(&folder, "out"));
    assert_eq!(before["micro_batch"], 1, "a segment has one window");
    // as a killed run leaves it: without its end, and with a cut that nobody would choose now
    for object in ["DONE", "manifest.json", "groups"] {
        let path = folder.path(&format!("out/_runs/tiny/{object}"));
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    let other = serde_json::json!({ "shape": { "micro_batch": 1, "slots": 3 }, "trials": [] });
    folder.write("out/_runs/tiny/shape.json", other.to_string().as_bytes());
    folder.hesspec("run tiny.toml --output out").ok();
    assert_eq!(shape(), other["shape"]);
    assert!(findings(&folder, "out") == tables, "slots change no bit");
    // damaged: said, not ignored
    std::fs::remove_file(folder.path("out/_runs/tiny/DONE")).unwrap();
    for text in ["{", "null", r#"{"shape": {"micro_batch": 0, "slots": 1}, "trials": []}"#] {
        folder.write("out/_runs/tiny/shape.json", text.as_bytes());
        folder.hesspec("run tiny.toml --output out").failed(5, &["shape.json", "damaged", "Delete it"]);
    }
    std::fs::remove_file(folder.path("out/_runs/tiny/shape.json")).unwrap();
    folder.hesspec("run tiny.toml --output out").ok();
    assert!(findings(&folder, "out") == tables);
}

/// Ranks of one process: the numbers of one rank within rounding, and the same exit codes.
#[test]
fn ranks_of_one_process_agree_with_one_rank() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output one").ok();
    folder.hesspec("run tiny.toml --output three --set run.ranks=3 --log-dir logs").ok();
    let results = |url: &str| Results::open(folder.path(url).display().to_string()).unwrap().run(None).unwrap();
    assert_eq!(results("three").read::<RunRow>().unwrap()[0].world, 3);
    let steps = |url: &str| {
        let mut rows = results(url).read::<TridiagonalRow>().unwrap();
        rows.sort_by(|a, b| (&a.block, a.probe, a.step).cmp(&(&b.block, b.probe, b.step)));
        rows
    };
    let (one, three) = (steps("one"), steps("three"));
    let scale = one.iter().map(|row| row.alpha.abs()).fold(0.0, f64::max);
    assert_eq!(one.len(), three.len());
    for (a, b) in one.iter().zip(&three) {
        assert!(
            (a.alpha - b.alpha).abs().max((a.beta - b.beta).abs()) <= 1e-12 * scale,
            "{}, step {}",
            a.block,
            a.step
        );
    }
    // burn's version is that of the lock file
    let lock = include_str!("../../Cargo.lock");
    let locked = lock.split("name = \"burn\"\nversion = \"").nth(1).unwrap().split('"').next().unwrap();
    let versions: serde_json::Value =
        serde_json::from_str(&results("three").read::<RunRow>().unwrap()[0].versions).unwrap();
    assert_eq!(versions["burn"], locked);
    let num_steps = results("three").read::<MetricsRow>().unwrap().len();
    for rank in 0..3 {
        let log = std::fs::read_to_string(folder.path(&format!("logs/rank-{rank:03}.jsonl"))).unwrap();
        let lines: Vec<serde_json::Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().filter(|line| line["message"] == "step").count() == num_steps, "rank {rank}: {log}");
        let others = lines.iter().filter(|line| line["span"]["name"] == "rank" && line["span"]["rank"] != rank);
        // what the process does before its ranks are there is rank 0's
        assert_eq!(others.count(), 0, "rank {rank}: {log}");
    }
    folder.hesspec("run tiny.toml --output bad --set run.ranks=0").failed(2, &["run.ranks"]);
    let cuda = "run tiny.toml --output bad --set run.ranks=2 --set hessian.backend=cuda";
    folder.hesspec(cuda).failed(2, &["run.ranks", "GPU"]);
    folder.hesspec("run tiny.toml --output bad --set run.ranks=2 --set hessian.memory=1MB").failed(3, &["memory"]);
}

/// A mistyped path must not leave a run that refuses the right one.
#[test]
fn what_cannot_be_computed_claims_no_name() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output out --set data.tokens.path=\"none.bin\"").failed(2, &["none.bin"]);
    folder.hesspec("run tiny.toml --output out --set batch.tokens=6000").failed(2, &["batch.tokens"]);
    folder.hesspec("run tiny.toml --output out --set hessian.backend=cuda").failed(3, &["cuda"]);
    let with =
        |weights: &str| folder.hesspec(&format!("run tiny.toml --output out --set model.gpt2.weights={weights}"));
    with("none.safetensors").failed(2, &["none.safetensors", "cannot read the weights"]);
    with("train.bin").failed(2, &["train.bin", "not a complete safetensors file"]);
    for name in ["other.safetensors", "other.pt"] {
        folder.hesspec(&format!("weights export tiny.toml {name} --set model.gpt2.vocabulary=13")).ok();
        with(name).failed(2, &[name, "the weights", "set model.gpt2.vocabulary = 13"]);
    }
    assert!(!folder.path("out/_runs").exists(), "no name is claimed");
    folder.hesspec("run tiny.toml --output out").ok();
}

/// The errors of products are measured in f64, which takes twice the memory of f32.
#[test]
fn memory_that_is_too_little_for_f64_is_refused_before_anything_is_computed() {
    let folder = Folder::new();
    let sizes = "--set model.gpt2.embedding=64 --set model.gpt2.mlp=256 --set model.gpt2.context=16 --set batch.tokens=64 \
                 --set hessian.slots=1 --set hessian.precision=f32 --set batch.micro_batch=4 --set batch.segments=1 --set lanczos.steps=2 \
                 --set blocks.full=false";
    let plan = folder.hesspec(&format!("plan tiny.toml --no-timing --json {sizes}")).ok().json();
    let largest = |plan: &serde_json::Value| {
        plan["groups"].as_array().unwrap().iter().map(|g| g["memory_bytes"].as_f64().unwrap()).fold(0.0, f64::max)
    };
    let on_cpu = largest(&plan);
    let all = plan["memory_bytes"].as_f64().unwrap();
    assert!(all > on_cpu, "{all} against {on_cpu}");
    let gpu =
        folder.hesspec(&format!("plan tiny.toml --no-timing --json {sizes} --set hessian.backend=cuda")).ok().json();
    assert_eq!(gpu["memory_bytes"].as_f64().unwrap(), largest(&gpu), "GPU backends have no f64 to measure against");
    assert!(largest(&gpu) > on_cpu, "they form the scores of attention");
    let between = ((all + on_cpu) / 2.0) as u64;
    for command in ["plan", "run"] {
        let output = if command == "run" { "--output out" } else { "--no-timing" };
        folder
            .hesspec(&format!("{command} tiny.toml {output} {sizes} --set hessian.memory={between}B"))
            .failed(3, &["f64", "hessian.memory"]);
    }
}

/// SIGTERM: saved, exit 75; the same command goes on to the same bits. Half of the steps are those of short recursions.
#[test]
fn a_stop_signal_saves_and_the_run_continues() {
    let folder = Folder::new();
    let settings = "--set lanczos.steps=20 --set lanczos.weights=deflated --set lanczos.short_starts=5 --set lanczos.short_steps=4 \
                    --set blocks.include=[\"*.c_fc.weight\"] --set batch.micro_batch=1";
    folder.hesspec(&format!("run tiny.toml --output whole {settings}")).ok();
    let command = format!("run tiny.toml --output stopped {settings}");
    let arguments: Vec<&str> = command.split_whitespace().collect();
    let mut stops = 0;
    for delay in [15, 25, 40, 60, 90] {
        let child = folder.command(&arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        // SAFETY: a signal to a child that has not been waited for
        assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
        let output = child.wait_with_output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        match output.status.code() {
            Some(75) => stops += 1,
            Some(0) => break,
            // before the handler is there, a signal ends the program as it always does: nothing is lost
            None => assert!(message.is_empty(), "{message}"),
            other => panic!("exit {other:?}: {message}"),
        }
    }
    assert!(stops > 0, "every run was over, or not begun, when its signal came");
    folder.hesspec(&command).ok();
    assert!(findings(&folder, "stopped") == findings(&folder, "whole"));
    assert!(!folder.path("stopped/_runs/tiny/checkpoint").exists(), "nothing is left of what was saved on the way");
}

/// Held for as long as the process exists, and even then only until it is clear that it is gone.
#[test]
fn a_second_job_is_refused_while_the_first_lives_and_takes_over_when_it_was_killed() {
    let folder = Folder::new();
    let command = "run tiny.toml --output out --set lanczos.steps=40 --set batch.micro_batch=1";
    let arguments: Vec<&str> = command.split_whitespace().collect();
    let mut first = folder.command(&arguments).stderr(std::process::Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !folder.path("out/_runs/tiny/LOCK").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60) && first.try_wait().unwrap().is_none());
    }
    // SAFETY: a signal to a child that has not been waited for; it stands still, and lives
    assert_eq!(unsafe { libc::kill(first.id() as i32, libc::SIGSTOP) }, 0);
    let process = format!("process {} of ", first.id());
    folder.hesspec(command).failed(5, &["another job is at work on this run", &process, "out/_runs/tiny/LOCK"]);
    first.kill().unwrap();
    first.wait().unwrap();
    let said = folder.hesspec(command).ok();
    assert!(said.stderr.contains(&format!("took over the lock of {process}")), "{}", said.stderr);
    assert!(!folder.path("out/_runs/tiny/LOCK").exists());
}

/// Sixty kills at moments spread over a run's length: for launch/test_full.sh.
#[test]
#[ignore = "takes a minute; launch/test_full.sh runs it"]
fn many_kills_change_nothing() {
    let folder = Folder::new();
    let run = |url: &str| folder.command(&["run", "tiny.toml", "--output", url, "--set", "hessian.slots=1"]);
    let begin = Instant::now();
    assert!(run("whole").output().unwrap().status.success());
    let length = begin.elapsed();
    let expected = findings(&folder, "whole");
    let (mut kills, mut at) = (0, 0);
    while kills < 60 {
        let url = format!("killed{at}");
        let mut child = run(&url).stderr(std::process::Stdio::null()).spawn().unwrap();
        std::thread::sleep(length.mul_f64(f64::from(kills % 20 + 1) / 15.0));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            assert!(findings(&folder, &url) == expected, "after {kills} kills");
            at += 1;
        }
        kills += 1;
    }
    let url = format!("killed{at}");
    assert!(run(&url).output().unwrap().status.success());
    assert!(at > 0 && findings(&folder, &url) == expected);
}

#[test]
fn a_plan_needs_neither_data_nor_weights_nor_output() {
    let folder = Folder::new();
    let missing = "--set data.tokens.path=none.bin --set model.gpt2.weights=none --set output.url=/proc/none";
    let plan = folder.hesspec(&format!("plan tiny.toml --json {missing}")).ok().json();
    let blocks = plan["blocks"].as_array().unwrap();
    assert_eq!(blocks.len(), 15, "wte, wpe, six in each of two layers, full");
    // 14 blocks x 2 probes and full x 1, 6 steps each
    assert_eq!(plan["num_products"], (14 * 2 + 1) * 6);
    let deflated = "--set lanczos.weights=deflated --set lanczos.short_starts=3 --set lanczos.short_steps=2";
    let plan_deflated = folder.hesspec(&format!("plan tiny.toml --json {missing} {deflated}")).ok().json();
    assert_eq!(plan_deflated["num_products"], (14 * 2 + 1) * (6 + 3 * 2));
    assert_eq!(plan["tokens"], 30);
    for key in ["flop", "memory_bytes", "seconds"] {
        assert!(plan[key].as_f64().unwrap() > 0.0, "{key}");
    }
    let text = folder.hesspec(&format!("plan tiny.toml --no-timing {missing}")).ok().stdout;
    assert!(text.contains("transformer.h.0.attn.q.weight") && text.contains("memory"), "{text}");
}

#[test]
fn a_report_is_drawn_beside_the_tables_or_where_it_is_told() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output out").ok();
    let said = folder.hesspec("report out").ok();
    assert!(said.stdout.contains("out/report/index.html"), "{}", said.stdout);
    assert!(folder.path("out/report/index.html").exists());
    let part = folder.path("out/density/run=tiny/part-final.parquet");
    let whole = std::fs::read(&part).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    std::fs::write(&part, flipped).unwrap();
    folder.hesspec("report out").failed(5, &["density/run=tiny/part-final.parquet", "SHA-256"]);
    std::fs::write(&part, whole).unwrap();
    let answer = folder.hesspec("report out --out elsewhere --json").ok().json();
    assert_eq!(answer["page"], "elsewhere/index.html");
    assert!(answer["figures"].as_array().unwrap().iter().all(|f| folder.path(f.as_str().unwrap()).exists()));
}
