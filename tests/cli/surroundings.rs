//! What may happen around a run: memory that is limited, an output that is removed, blocks without curvature.

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use hesspec::output::{Results, SummaryRow};

use crate::folder::Folder;

/// The program in a shell with a limit of address space, KiB.
fn limited(folder: &Folder, kib: u64, arguments: &str) -> Output {
    let script = format!("ulimit -v {kib}; exec {} {arguments}", env!("CARGO_BIN_EXE_hesspec"));
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(folder.path(".")).env("RAYON_NUM_THREADS", "2").output().unwrap()
}

/// `ulimit -v` below what the plan needs: said before the name is claimed, by plan and run alike.
#[test]
fn a_process_whose_address_space_is_limited_is_refused_before_it_claims_a_name() {
    let folder = Folder::new();
    // the basis alone is 3,000 vectors of 100,000 entries
    let large =
        "--set model.gpt2.embedding=64 --set model.gpt2.mlp=256 --set lanczos.steps=3000 --set lanczos.full_probes=1";
    for command in ["plan tiny.toml --no-timing", "run tiny.toml --output out"] {
        let output = limited(&folder, 1_500_000, &format!("{command} {large}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{command}: {said}");
        assert!(said.contains("may be used") && said.contains("block `full`"), "{command}: {said}");
    }
    assert!(!folder.path("out/_runs").exists(), "a name is claimed");
    let output = limited(&folder, 1_500_000, "doctor --json");
    let doctor: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let memory = doctor["findings"].as_array().unwrap().iter().find(|finding| finding["what"] == "memory").unwrap();
    assert!(memory["found"].as_str().unwrap().contains("ulimit -v"), "{memory}");
    // and a run that fits goes on
    let output = limited(&folder, 4_000_000, "run tiny.toml --output out");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Slurm's --mem on a machine of either version of control groups, in a name space where the files say so.
#[test]
fn a_job_in_a_control_group_is_refused_before_it_claims_a_name() {
    let folder = Folder::new();
    let fake = |name: &str, text: &str| folder.write(name, text.as_bytes());
    fake("cgroup", "4:memory:/slurm/job_1/step_0\n0::/\n");
    fake("mountinfo", "33 24 0:30 / /tree rw - cgroup cgroup rw,memory\n");
    std::fs::create_dir_all(folder.path("tree/slurm/job_1/step_0")).unwrap();
    fake("tree/slurm/job_1/memory.limit_in_bytes", "200000000\n");
    fake("tree/slurm/job_1/memory.usage_in_bytes", "150000000\n");
    // /proc/self is another folder for each process, so that the mounts must be made in the one that becomes hesspec
    let script = |arguments: &str| {
        format!(
            "mount --bind cgroup /proc/$$/cgroup && mount --bind mountinfo /proc/$$/mountinfo && mkdir -p /tree && \
             mount --bind tree /tree || exit 99; exec {} {arguments}",
            env!("CARGO_BIN_EXE_hesspec")
        )
    };
    let run = |arguments: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "bash", "-c", &script(arguments)]).current_dir(folder.path("."));
        command.output().ok().filter(|output| !matches!(output.status.code(), Some(1 | 99)))
    };
    let Some(output) = run("run tiny.toml --output out") else { return }; // only root may mount; plan::limits tests the files
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("may be used"), "{said}");
    assert!(!folder.path("out/_runs").exists(), "a name is claimed");
    let doctor = run("doctor").map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    assert!(doctor.contains("control group /slurm/job_1"), "{doctor}");
}

/// Removed while the run goes on: an error of storage, and never DONE in a folder that has no run.json.
#[test]
fn a_run_whose_output_is_removed_does_not_end_as_done() {
    let folder = Folder::new();
    let command = "run tiny.toml --output out --set hessian.slots=1 --set lanczos.steps=40 --set blocks.full=false";
    let arguments: Vec<&str> = command.split_whitespace().collect();
    let child = folder.command(&arguments).stderr(Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while !folder.path("out/_runs/tiny/groups/b00001-p000.json").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no second group");
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: signals to a child that has not been waited for
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGSTOP) }, 0);
    std::fs::remove_dir_all(folder.path("out")).unwrap();
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGCONT) }, 0);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(!folder.path("out/_runs/tiny/DONE").exists());
}

/// The Hessian of keys' biases is zero: softmax does not see what is added to all scores of a query. That is a result.
#[test]
fn blocks_without_curvature_are_a_result() {
    let folder = Folder::new();
    for (precision, include) in [("f32", "*.h.0.attn.k.bias"), ("f32", "*.k.bias"), ("f64", "*.k.bias")] {
        let url = format!("{precision}-{}", include.len());
        let settings = format!(
            "--set hessian.precision={precision} --set blocks.include=[\"{include}\"] --set blocks.exclude=[] --set blocks.full=false"
        );
        let said = folder.hesspec(&format!("run tiny.toml --output {url} {settings}")).ok();
        assert!(said.stderr.contains("self-test central difference: not applicable"), "{}", said.stderr);
        let run = Results::open(folder.path(&url).to_str().unwrap()).unwrap().run(None).unwrap();
        let summary = run.read::<SummaryRow>().unwrap();
        assert!(!summary.is_empty() && summary.iter().all(|row| row.status.starts_with("zero_block")), "{summary:?}");
        folder.hesspec(&format!("check tiny.toml {settings}")).ok();
        folder.hesspec(&format!("report {url}")).ok();
    }
}

/// Several processes of a launcher would each do all of it, and write the same files.
#[test]
fn commands_of_one_process_refuse_to_be_one_of_several() {
    let folder = Folder::new();
    folder.save("v.safetensors", &folder.vector(1), safetensors::tensor::Dtype::F64);
    for command in
        ["check tiny.toml", "hvp tiny.toml --vectors v.safetensors --out hv.safetensors", "data inspect train.bin"]
    {
        let mut process = folder.command(&command.split(' ').collect::<Vec<_>>());
        let output = process.env("OMPI_COMM_WORLD_RANK", "1").env("OMPI_COMM_WORLD_SIZE", "2").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && said.contains("works in one process"), "{command}: {said}");
        assert!(!folder.path("hv.safetensors").exists());
    }
}
