//! `derive`: what it writes equals what a run with those settings writes, to the last bit; it needs neither data nor products.

use hesspec::output::{BlockRow, DensityRow, DivergenceRow, NodeRow, Results, RunRow, SummaryRow};

use crate::folder::Folder;

/// Every table that is derived, as text with all digits.
fn findings(folder: &Folder, run: &str) -> [String; 5] {
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(Some(run)).unwrap();
    assert!(run.is_done());
    [
        format!("{:?}", run.read::<BlockRow>().unwrap()),
        format!("{:?}", run.read::<NodeRow>().unwrap()),
        format!("{:?}", run.read::<DensityRow>().unwrap()),
        format!("{:?}", run.read::<DivergenceRow>().unwrap()),
        format!("{:?}", run.read::<SummaryRow>().unwrap()),
    ]
}

#[test]
fn derived_tables_are_those_of_a_run_with_these_settings() {
    let folder = Folder::new();
    let deflated = "--set lanczos.weights=\"deflated\" --set lanczos.short_starts=2 --set lanczos.short_steps=2";
    folder.hesspec(&format!("run tiny.toml --output out {deflated} --set run.name=first")).ok();
    let changes = [
        ("as-it-was", "", ""),
        ("linear", "--axis linear --sigma absolute=0.003", "density.axis=\"linear\" density.sigma={absolute=0.003}"),
        (
            "fine",
            "--axis-scale 1e-5 --metrics js,wasserstein1",
            "density.axis_scale=1e-5 distance.metrics=[\"js\",\"wasserstein1\"]",
        ),
        ("raw", "--weights raw --sigma relative=0.02", "lanczos.weights=\"raw\" density.sigma={relative=0.02}"),
    ];
    for (name, _, settings) in changes {
        let settings: Vec<String> = settings.split_whitespace().map(|key| format!("--set {key}")).collect();
        let weights = if name == "raw" { "" } else { deflated };
        folder
            .hesspec(&format!("run tiny.toml --output out {weights} {} --set run.name=own-{name}", settings.join(" ")))
            .ok();
    }
    std::fs::remove_file(folder.path("train.bin")).unwrap(); // the tables are enough
    for (name, options, _) in changes {
        let derived = folder.hesspec(&format!("derive out --run first --name {name} {options} --json")).ok().json();
        assert_eq!((&derived["was_done"], &derived["incomplete"]), (&false.into(), &serde_json::json!([])));
        let (found, expected) = (findings(&folder, name), findings(&folder, &format!("own-{name}")));
        for (found, expected) in found.iter().zip(&expected) {
            assert!(found == expected, "{name}: {} ... instead of {} ...", &found[..400], &expected[..400]);
        }
    }
    let again = folder.hesspec("derive out --run first --name raw --weights raw --sigma relative=0.02").ok();
    assert!(again.stdout.contains("already derived"), "{}", again.stdout);
    folder.hesspec("derive out --run first --name raw").failed(2, &["lanczos.weights", "density.sigma"]);
    folder.hesspec("report out --run linear").ok();
    let run = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(Some("linear")).unwrap();
    assert!(run.read::<RunRow>().unwrap()[0].status.contains("derived from run `first`"));
}

#[test]
fn what_cannot_be_derived_is_refused_with_what_to_do() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output out --set blocks.full=false").ok();
    let derive = |options: &str| folder.hesspec(&format!("derive out --name new {options}"));
    derive("--weights deflated").failed(2, &["deflated", "raw or variance_reduced"]);
    derive("--axis linear --axis-scale 1").failed(2, &["--axis-scale 1.0", "leave it out"]);
    derive("--metrics js,js").failed(2, &["js is there twice"]);
    let usage = [
        ("--metrics jsd", "wasserstein1_energy, js"),
        ("--sigma wide=1", "relative=SHARE"),
        ("--sigma relative=-1", "above 0"),
    ];
    for (options, expected) in usage {
        let said = derive(options);
        assert!(said.code == Some(2) && said.stderr.contains(expected), "{}", said.stderr);
    }
    derive("--run nobody").failed(2, &["nobody", "tiny"]);
    folder.hesspec("derive out --name tiny").failed(2, &["derived"]);
    derive("--axis linear").ok();
    folder.hesspec("derive out --run new --name newer").failed(2, &["derived itself, from run `tiny`"]);
    folder.hesspec("derive out --run tiny --name null").failed(2, &["--name \"null\""]);
}

/// The finished groups of a run that is not done are enough, and it says which blocks are missing.
#[test]
fn unfinished_runs_give_what_they_have() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output out --set hessian.slots=1").ok();
    let records = folder.path("out/_runs/tiny");
    for name in ["DONE", "manifest.json"] {
        std::fs::remove_file(records.join(name)).unwrap();
    }
    let mut groups: Vec<_> = records.join("groups").read_dir().unwrap().map(|group| group.unwrap().path()).collect();
    groups.sort();
    std::fs::remove_file(&groups[1]).unwrap(); // the first block's second probe
    let derived = folder.hesspec("derive out --run tiny --name part --json").ok().json();
    assert_eq!(derived["incomplete"].as_array().unwrap().len(), 1, "{derived}");
    let run = |name: &str| Results::open(folder.path("out").to_str().unwrap()).unwrap().run(Some(name)).unwrap();
    let summary = run("part").read::<SummaryRow>().unwrap();
    assert!(summary.iter().all(|row| row.noise_floor > 0.0) && summary.len() > 3);
    std::fs::remove_file(records.join("noise_floors.json")).unwrap();
    folder.hesspec("derive out --run tiny --name more").failed(2, &["noise floor", "let it finish"]);
}

/// Tables are enough: the weights may be gone, with another network's description in their place.
#[test]
fn weights_need_not_be_there_any_more() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("hub")).unwrap();
    folder.hesspec("weights export tiny.toml hub/model.safetensors").ok();
    folder.hesspec("run tiny.toml --output out --set model.gpt2.weights=hub/model.safetensors").ok();
    std::fs::remove_file(folder.path("hub/model.safetensors")).unwrap();
    folder.write("hub/model.safetensors", b"something else");
    folder.write("hub/config.json", br#"{"model_type": "gpt2", "n_layer": 9, "n_head": 2, "n_embd": 8}"#);
    folder.hesspec("derive out --name again").ok();
    assert_eq!(findings(&folder, "again"), findings(&folder, "tiny"));
}

/// What cannot be read is found before the new name is claimed.
#[test]
fn a_damaged_run_leaves_no_trace_of_what_was_to_be_derived() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output out").ok();
    let part = folder.path("out/runs/run=tiny").read_dir().unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    folder.hesspec("derive out --name again").failed(5, &["runs/run=tiny"]);
    assert!(!folder.path("out/_runs/again").exists());
}
