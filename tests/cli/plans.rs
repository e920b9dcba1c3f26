//! `plan` for other machines: hours, memory, budgets; every configuration of the repository.

use std::path::PathBuf;

use crate::folder::Folder;

const NOTHING: &str = "--set data.tokens.path=none.bin --set model.gpt2.weights=none --set output.url=/proc/none";

fn close(found: f64, expected: f64, tolerance: f64) {
    assert!((found / expected - 1.0).abs() < tolerance, "{found}, expected {expected}");
}

/// What the columns mean can be asked for without the source.
#[test]
fn tables_are_described() {
    let folder = Folder::new();
    let all = folder.hesspec("tables").ok().stdout;
    assert!(
        all.contains("divergence") && all.contains("wasserstein1_energy") && all.lines().all(|line| line.len() <= 130)
    );
    let one = folder.hesspec("tables summary --json").ok().json();
    assert_eq!(one[0]["columns"][1]["column"], "trace");
    folder.hesspec("tables sumary").failed(2, &["\"sumary\"", "did you mean `summary`?", "there are blocks"]);
}

#[test]
fn a_plan_for_64_accelerators_needs_none() {
    let folder = Folder::new();
    let settings = format!("--set hessian.precision=f32 --set hessian.backend=cuda --set batch.tokens=3072 {NOTHING}");
    let ask = |more: &str| folder.hesspec(&format!("plan tiny.toml --json {settings} {more}")).ok().json();
    let plan = ask("--world 64 --device h100");
    let number = |path: &str| plan.pointer(path).unwrap().as_f64().unwrap_or_else(|| panic!("{path}: {plan}"));
    assert_eq!(number("/target/gflops"), 33_500.0, "half of the 67 TFLOP/s of an H100 in f32");
    // 512 windows in 8 segments of 64, in micro-batches of 2: 32 of them, so that half of the ranks have nothing to do
    assert_eq!(number("/busy"), 0.5);
    close(number("/hours"), number("/plan/flop") / (64.0 * 0.5 * 33.5e12) / 3600.0, 1e-12);
    close(number("/gpu_days"), number("/hours") * 64.0 / 24.0, 1e-12);
    let memory = plan["memory"].as_object().unwrap();
    let parts: f64 =
        ["activations_bytes", "vectors_bytes", "basis_bytes"].map(|key| memory[key].as_f64().unwrap()).iter().sum();
    close(parts, number("/memory/total_bytes"), 1e-12);
    assert_eq!(number("/memory/usable_bytes"), 0.9 * 80e9);
    assert!(number("/exchange_bytes") > 0.0 && number("/storage/checkpoint_peak_bytes") > 0.0);
    assert_eq!(
        number("/storage/tokens_read_bytes"),
        2.0 * 3072.0 * plan["plan"]["groups"].as_array().unwrap().len() as f64 * 6.0
    );
    let paper = plan["beside"].as_array().unwrap();
    assert_eq!((paper[1]["gpu_days"].as_f64(), paper[3]["gpu_days"].as_f64()), (Some(7.0), Some(9.0)));
    assert_eq!((&paper[1]["tokens"], &paper[1]["products"]), (&245_760.0.into(), &26_000.0.into()));
    let one = ask("--device h100");
    close(one["hours"].as_f64().unwrap(), 0.5 * 64.0 * number("/hours"), 1e-12);
    assert_eq!(one["exchange_bytes"], 0.0);
    let fast = ask("--world 64 --device h100 --set hessian.math=tf32 --efficiency 0.25");
    assert_eq!(fast["target"]["gflops"], 494_700.0 * 0.25);
    let text = folder.hesspec(&format!("plan tiny.toml --world 64 --device h100 {settings}")).ok().stdout;
    for part in ["64 x h100", "GPU-days", "basis shards", "assumed, not measured", "the paper's run, one A100"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn a_backend_that_this_build_lacks_costs_the_duration_only() {
    let folder = Folder::new();
    let said = folder
        .hesspec(&format!("plan tiny.toml --json --set hessian.backend=wgpu --set hessian.precision=f32 {NOTHING}"))
        .ok();
    assert!(said.stderr.contains("no rate and no duration"), "{}", said.stderr);
    assert!(said.json()["seconds"].is_null());
}

#[test]
fn wrong_questions_are_refused() {
    let folder = Folder::new();
    let ask = |more: &str| folder.hesspec(&format!("plan tiny.toml --set hessian.precision=f32 {more}"));
    ask("--device abacus").failed(2, &["--device abacus", "h100", "--calibration"]);
    ask("--device v100 --set hessian.math=tf32").failed(2, &["hessian.math = \"tf32\"", "V100"]);
    ask("--device h100 --set hessian.precision=f64").failed(2, &["f64"]);
    ask("--device h100 --budget 1 --set hessian.precision=f64").failed(2, &["f64"]);
    for share in ["1.5", "inf", "0", "1e-300", "NaN"] {
        ask(&format!("--device h100 --efficiency {share}")).failed(2, &["--efficiency ", "from 0.001 to 1"]);
    }
    for hours in ["inf", "0", "-3", "1e300", "NaN"] {
        ask(&format!("--device h100 --budget={hours}")).failed(2, &["--budget ", "above 0 and at most 1e7"]);
    }
    ask("--no-timing --set hessian.memory=1MB").failed(3, &["MB, 1.00 MB may be used"]);
    let metrics = "--set distance.metrics=[\"js\",\"wasserstein1\",\"js\"]";
    ask(metrics).failed(2, &["[\"js\",\"wasserstein1\",\"js\"]"]);
    ask("--world 0").failed(2, &["--world 0"]);
    ask("--world 4 --no-timing").failed(2, &["--device"]);
    ask("--budget 10").failed(2, &["--device"]);
    ask("--device h100 --calibration none.json").failed(2, &["none.json"]);
    folder.hesspec("run tiny.toml --output out --set blocks.full=false --set lanczos.steps=2").ok();
    ask("--device h100 --budget 1 --convergence out").failed(2, &["[convergence]", "found 0"]);
    let text = std::fs::read_to_string(folder.path("tiny.toml")).unwrap().replace("tokens = 30", "");
    folder.write("tiny.toml", text.as_bytes());
    ask("--device h100").failed(2, &["batch.tokens", "--set batch.tokens="]);
}

#[test]
fn a_calibration_is_measured_here_and_planned_with_elsewhere() {
    let folder = Folder::new();
    let settings = "--set blocks.include=[\"*.h.1.mlp.*\"] --set hessian.precision=f32";
    let bench = format!("bench tiny.toml --json {settings} --slots 1,2 --repeats 1 --calibration here.json");
    let cases = folder.hesspec(&bench).ok().json()["cases"].clone();
    let of = |key: &str| -> f64 {
        let products = cases.as_array().unwrap().iter().filter(|case| case["slots"] == 2);
        products.map(|case| case[key].as_f64().unwrap()).sum()
    };
    let plan =
        folder.hesspec(&format!("plan tiny.toml --json --calibration here.json --world 3 {settings}")).ok().json();
    close(plan["target"]["gflops"].as_f64().unwrap(), of("matmul_gflop_per_slot") / of("seconds_per_slot"), 1e-9);
    assert_eq!(plan["target"]["ranks"], 3);
    let wrong = "plan tiny.toml --calibration here.json --set hessian.precision=f64";
    folder.hesspec(wrong).failed(2, &["precision = \"f32\"", "precision = \"f64\"", "measure again"]);
    for more in ["", "--budget 1"] {
        let other = format!("plan tiny.toml --calibration here.json --device h100 {settings} {more}");
        folder.hesspec(&other).failed(2, &["--device h100", "on a processor", "hessian.backend = \"flex\""]);
    }
    let budget =
        folder.hesspec(&format!("plan tiny.toml --json --calibration here.json --budget 0.01 {settings}")).ok().json();
    assert!(budget["fits"].as_array().unwrap().iter().all(|fit| fit["math"] == "f32"));
}

#[test]
fn a_budget_buys_the_largest_batch_that_fits() {
    let folder = Folder::new();
    let settings = format!("--set hessian.precision=f32 {NOTHING}");
    let ask = |hours: f64| {
        folder.hesspec(&format!("plan tiny.toml --json --device h100 --budget {hours} {settings}")).ok().json()
    };
    let plan = ask(1.0);
    let fits = plan["fits"].as_array().unwrap();
    let first = |math: &str| fits.iter().find(|fit| fit["math"] == math).unwrap();
    let tokens = |fit: &serde_json::Value| fit["tokens"].as_u64().unwrap();
    // the same plan with that batch takes the budget, and one window more would not fit
    let fit = first("f32");
    let back = format!(
        "plan tiny.toml --json --device h100 --set batch.tokens={} {settings} --set batch.micro_batch=2",
        tokens(fit)
    );
    let hours = folder.hesspec(&back).ok().json()["hours"].as_f64().unwrap();
    assert!(hours <= 1.0 + 1e-9 && hours > 0.999, "{hours}");
    assert!(tokens(first("bf16")) > tokens(first("tf32")) && tokens(first("tf32")) > tokens(first("3xtf32")));
    // rates of 0.5 x 67 and 0.3 x 494.7 / 3 TFLOP/s
    close(tokens(first("3xtf32")) as f64 / tokens(fit) as f64, 0.3 * 494.7 / 3.0 / 33.5, 1e-3);
    close(tokens(&ask(4.0)["fits"][0]) as f64 / tokens(fit) as f64, 4.0, 1e-3);
    let error = |fit: &serde_json::Value| fit["w1_error"].as_f64().unwrap() * (tokens(fit) as f64).sqrt();
    close(error(fit), plan["expectation"]["w1"].as_f64().unwrap(), 1e-12);
    let kinds: Vec<&str> =
        fits.iter().filter(|fit| fit["math"] == "f32").map(|fit| fit["what"].as_str().unwrap()).collect();
    assert!(
        kinds.iter().any(|what| what.ends_with("steps")) && kinds.iter().any(|what| what.ends_with("probes")),
        "{kinds:?}"
    );
    let text = folder.hesspec(&format!("plan tiny.toml --device h100 --budget 1 {settings}")).ok().stdout;
    assert!(text.contains("results/convergence_small.md") && text.contains("/ sqrt(tokens)"), "{text}");
}

fn configurations() -> Vec<PathBuf> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.retain(|file| file.extension() == Some("toml".as_ref()));
    files.sort();
    files
}

/// All of them parse, plan for 64 H100 and say in their heads how to launch them.
#[test]
fn every_configuration_parses_and_plans() {
    let folder = Folder::new();
    let files = configurations();
    assert!(files.len() >= 10, "{files:?}");
    for file in files {
        let (path, text) = (file.to_str().unwrap(), std::fs::read_to_string(&file).unwrap());
        let plan = folder.hesspec(&format!("plan {path} --world 64 --device h100 --json")).ok().json();
        assert!(plan["hours"].as_f64().unwrap() > 0.0, "{path}");
        let head: String = text.lines().take_while(|line| line.starts_with('#')).collect();
        for word in ["Shows", "Work", "Time", "Launch"] {
            assert!(head.contains(word), "{path}: its head has no `{word}`");
        }
    }
}

/// The first line of the largest configurations states its cost; it is the plan's.
#[test]
fn the_first_line_of_a_large_configuration_is_what_plan_counts() {
    let folder = Folder::new();
    for (name, world) in [("gpt2_owt_large", 8), ("gpt2_owt_full", 64)] {
        let path = format!("{}/configs/{name}.toml", env!("CARGO_MANIFEST_DIR"));
        let text = std::fs::read_to_string(&path).unwrap();
        let stated: f64 = text.split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!(text.lines().next().unwrap().contains("GPU-days (H100, f32)"), "{name}");
        let plan = folder.hesspec(&format!("plan {path} --world {world} --device h100 --json")).ok().json();
        close(stated, plan["gpu_days"].as_f64().unwrap(), 0.02);
    }
}

/// The jobs ask for a stop early enough for the segments of the configurations that they run, and name their data.
#[test]
fn the_slurm_jobs_follow_the_configurations() {
    let folder = Folder::new();
    let repository = env!("CARGO_MANIFEST_DIR");
    let read = |path: &str| std::fs::read_to_string(format!("{repository}/{path}")).unwrap();
    let signal = |job: &str| -> u64 {
        let text = read(job);
        let line = text.lines().find_map(|line| line.strip_prefix("#SBATCH --signal=B:USR1@"));
        line.unwrap().parse().unwrap()
    };
    let given = signal("slurm/gpt2_spectrum.sh");
    for (name, world) in [("gpt2_paper", 1), ("gpt2_owt_large", 8), ("gpt2_owt_full", 64)] {
        for device in ["h100", "a100"] {
            let plan = format!("plan {repository}/configs/{name}.toml --world {world} --device {device}");
            let pace = folder.hesspec(&format!("{plan} --json")).ok().json()["plan"]["pace"].clone();
            let (seconds, needed) =
                (pace["seconds_per_segment"].as_f64().unwrap(), pace["signal_seconds"].as_u64().unwrap());
            assert!(seconds > 0.1 && needed as f64 > seconds && needed <= given, "{name} on {device}: {pace}");
            let text = folder.hesspec(&plan).ok().stdout;
            assert!(
                text.contains("a segment        ") && text.contains(&format!("--signal=B:USR1@{needed}")),
                "{text}"
            );
        }
    }
    for (job, config) in [
        ("slurm/gpt2_spectrum.sh", "gpt2_paper"),
        ("slurm/gpt2_spectrum.sh", "gpt2_owt_full"),
        ("slurm/gpt2_nano.sh", "gpt2_nano_shakespeare"),
    ] {
        let config = read(&format!("configs/{config}.toml"));
        let path = config.lines().find_map(|line| line.strip_prefix("path = \"")?.strip_suffix('"')).unwrap();
        let job = read(job);
        let needs = job.lines().find(|line| line.starts_with("# Needs")).unwrap();
        assert!(needs.contains(&format!(" {path} ")), "{needs} does not name {path}");
    }
    // here, too, where a product is timed
    let settings = "--set hessian.precision=f32";
    assert!(folder.hesspec(&format!("plan tiny.toml --json {settings}")).ok().json()["pace"]["signal_seconds"] == 30);
}

/// slurm/gpt2_spectrum.sh with an srun that only says what it was given.
#[test]
fn the_slurm_job_takes_any_configuration() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    let srun = folder.path("srun");
    std::fs::write(&srun, "#!/bin/sh\necho \"srun: $*\"; echo \"notice: $HESSPEC_NOTICE\"\n").unwrap();
    std::fs::set_permissions(&srun, std::fs::Permissions::from_mode(0o755)).unwrap();
    let repository = env!("CARGO_MANIFEST_DIR");
    let job = |arguments: &[&str]| {
        let path = format!("{}:{}", srun.parent().unwrap().display(), std::env::var("PATH").unwrap());
        let output = std::process::Command::new("bash")
            .arg(format!("{repository}/slurm/gpt2_spectrum.sh"))
            .args(arguments)
            .env("PATH", path)
            .env("SLURM_SUBMIT_DIR", repository)
            .envs([
                ("SLURM_JOB_ID", "7"),
                ("SLURM_NTASKS", "8"),
                ("SLURM_JOB_NUM_NODES", "1"),
                ("SLURM_JOB_NODELIST", "n"),
                ("SLURM_CPUS_PER_TASK", "8"),
            ])
            .env("HESSPEC", "hesspec")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let full = job(&["configs/gpt2_owt_full.toml", "--set", "batch.segments=8"]);
    assert_eq!(full.0, Some(0), "{full:?}");
    let given = "hesspec run configs/gpt2_owt_full.toml --set hessian.backend=cuda --set batch.segments=8";
    assert!(full.1.contains(given), "{full:?}");
    assert!(full.1.contains("srun: --mpi=pmix --cpus-per-task=8 --kill-on-bad-exit=1"), "{full:?}");
    assert!(full.1.contains("notice: 300"), "what the script asks for: {full:?}");
    assert!(job(&["--set", "batch.tokens=491520"]).1.contains("hesspec run configs/gpt2_paper.toml --set"));
    assert_eq!(job(&["configs/none.toml"]).0, Some(2));
}

/// A budget that buys far more probes than anybody takes is told at once.
#[test]
fn a_large_budget_is_planned_in_seconds() {
    let folder = Folder::new();
    let quickstart = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/quickstart.toml");
    let begin = std::time::Instant::now();
    let plan = folder.hesspec(&format!("plan {quickstart} --device a100 --budget 10 --json")).ok().json();
    let seconds = begin.elapsed().as_secs_f64();
    let fits = plan["fits"].as_array().unwrap();
    let largest = fits.iter().filter(|fit| fit["what"] == "configured tokens and steps: probes");
    assert!(largest.clone().count() > 0 && largest.clone().all(|fit| fit["probes"] == 10_000), "{fits:#?}");
    assert!(seconds < 8.0, "{seconds} s");
}
