//! Checkpoints that were changed behind the program's back: refused with their name, or computed again; never other tables.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hesspec::output::{MetricsRow, NodeRow, Results, SegmentRow, TridiagonalRow};

use crate::folder::{Folder, Said};

/// One group of all that is computed, saved after every segment.
const SETTINGS: &str = "--set lanczos.steps=60 --set blocks.include=[\"*.c_fc.weight\"] --set blocks.full=false \
                        --set lanczos.probes=1 --set batch.micro_batch=1 --set checkpoint.every=0s --set hessian.slots=8";
const GROUP: &str = "out/_runs/tiny/checkpoint/b00000-p000";

fn run(folder: &Folder) -> Said {
    folder.hesspec(&format!("run tiny.toml --output out {SETTINGS}"))
}

/// Stops a run in the middle of its only group.
fn stopped(folder: &Folder) -> Said {
    stopped_with(folder, "")
}

/// [`stopped`], with further arguments.
fn stopped_with(folder: &Folder, more: &str) -> Said {
    let command = format!("run tiny.toml --output out {SETTINGS} {more}");
    let arguments: Vec<&str> = command.split_whitespace().collect();
    let mut child = folder.command(&arguments).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while !folder.path(GROUP).join("step-00003.bin").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(), "no third step");
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: a signal to a child that has not been waited for
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    Said { code: output.status.code(), stdout: String::new(), stderr }
}

/// What a run found, bit for bit.
fn findings(url: &Path) -> String {
    let run = Results::open(url.to_str().unwrap()).unwrap().run(None).unwrap();
    assert!(run.is_done());
    let mut rows = run.read::<TridiagonalRow>().unwrap();
    rows.iter_mut().for_each(|row| row.seconds = 0.0);
    format!("{rows:?}{:?}{:?}", run.read::<NodeRow>().unwrap(), run.read::<SegmentRow>().unwrap())
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target)
        } else {
            std::fs::copy(entry.path(), target).map(drop).unwrap()
        }
    }
}

fn objects(folder: &Folder) -> Vec<PathBuf> {
    let mut objects: Vec<PathBuf> =
        std::fs::read_dir(folder.path(GROUP)).unwrap().map(|entry| entry.unwrap().path()).collect();
    objects.sort();
    objects
}

/// A run that was stopped, whose checkpoint `damage` changes before it goes on.
struct Case {
    folder: Folder,
    expected: String,
}

impl Case {
    fn new() -> Self {
        let folder = Folder::new();
        run(&folder).ok();
        let expected = findings(&folder.path("out"));
        std::fs::remove_dir_all(folder.path("out")).unwrap();
        stopped(&folder);
        copy(&folder.path("out"), &folder.path("kept"));
        Self { folder, expected }
    }

    fn restore(&self) {
        let _ = std::fs::remove_dir_all(self.folder.path("out"));
        copy(&self.folder.path("kept"), &self.folder.path("out"));
    }

    /// Refused, with the group and what to do; or done as if nothing had been.
    #[track_caller]
    fn after(&self, what: &str, damage: impl FnOnce(&Folder)) -> Said {
        self.restore();
        damage(&self.folder);
        let said = run(&self.folder);
        match said.code {
            Some(0) => assert!(findings(&self.folder.path("out")) == self.expected, "{what}: other tables"),
            Some(5) => {
                for part in ["hesspec: error: ", "checkpoint/b00000-p000", "delete the folder `"] {
                    assert!(said.stderr.contains(part), "{what}: {}", said.stderr);
                }
            }
            other => panic!("{what}: {other:?}: {}", said.stderr),
        }
        said
    }
}

#[test]
fn a_changed_bit_anywhere_in_a_checkpoint_is_refused() {
    let case = Case::new();
    assert!(run(&case.folder).ok().stderr.contains("resumed after step"));
    assert!(findings(&case.folder.path("out")) == case.expected);
    case.restore();
    let all = objects(&case.folder);
    let kinds = ["group.bin", "step-00000-slot", "step-00002.bin", "step-00003-slot", "sweep-"];
    for kind in kinds {
        let named = |path: &&PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(kind);
        let Some(object) = all.iter().rfind(named) else {
            assert_eq!(kind, "sweep-", "no {kind} in {all:?}"); // it was stopped at the end of a sweep
            continue;
        };
        let length = std::fs::metadata(object).unwrap().len() as usize;
        for at in [0, length / 2, length - 1] {
            let said = case.after(&format!("{kind}, byte {at}"), |_| {
                let mut bytes = std::fs::read(object).unwrap();
                bytes[at] ^= 1;
                std::fs::write(object, bytes).unwrap();
            });
            assert_eq!(said.code, Some(5), "{kind}, byte {at}");
        }
    }
}

/// Every object whole, but not where it belongs.
#[test]
fn objects_that_were_moved_or_removed_never_give_other_tables() {
    let case = Case::new();
    let at = |name: &str| case.folder.path(GROUP).join(name);
    let refused = |what: &str, damage: &dyn Fn()| {
        assert_eq!(case.after(what, |_| damage()).code, Some(5), "{what}");
    };
    refused("a step in another's place", &|| {
        assert!(std::fs::copy(at("step-00002.bin"), at("step-00003.bin")).is_ok())
    });
    let (one, other) = ("step-00001-slot-000-0-96.bin", "step-00001-slot-001-0-96.bin");
    refused("two slots exchanged", &|| {
        let bytes = std::fs::read(at(one)).unwrap();
        std::fs::copy(at(other), at(one)).unwrap();
        std::fs::write(at(other), bytes).unwrap();
    });
    refused("a vector removed", &|| std::fs::remove_file(at(one)).unwrap());
    refused("a vector twice", &|| assert!(std::fs::copy(at(one), at("step-00001-slot-000-0-40.bin")).is_ok()));
    refused("a range without end", &|| {
        std::fs::copy(at(one), at("step-00001-slot-000-96-18446744073709551615.bin")).unwrap();
    });
    refused("a step beyond the last", &|| {
        for step in 1..=200 {
            std::fs::copy(
                case.folder.path("kept").join(GROUP.trim_start_matches("out/")).join("step-00001.bin"),
                at(&format!("step-{step:05}.bin")),
            )
            .unwrap();
        }
    });
    // a sweep that nobody can have come to
    case.restore();
    let step = (1..).take_while(|step| at(&format!("step-{step:05}.bin")).exists()).count();
    refused("a sweep beyond the last segment", &|| {
        std::fs::write(at(&format!("sweep-{step:05}-99999.bin")), b"x").unwrap()
    });
    // without what it is of, the group is computed again, and that is said
    let said = case.after("group.bin removed", |_| std::fs::remove_file(at("group.bin")).unwrap());
    assert_eq!(said.code, Some(0));
    assert!(said.stderr.contains("without its group.bin") && said.stderr.contains("computed anew"), "{}", said.stderr);
    // and as a version before wrote it
    let said = case.after("group.json", |_| {
        std::fs::remove_file(at("group.bin")).unwrap();
        std::fs::write(at("group.json"), "[[0,0],[1,0]]").unwrap();
    });
    assert!(said.code == Some(5) && said.stderr.contains("version of hesspec before"), "{}", said.stderr);
}

/// The steps before a stop are in the table of times like all others.
#[test]
fn a_resumed_group_has_the_times_of_all_its_steps() {
    let folder = Folder::new();
    stopped(&folder);
    let said = run(&folder).ok();
    let resumed: usize =
        said.stderr.split("resumed after step ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!(resumed >= 3, "{}", said.stderr);
    let results = Results::open(folder.path("out").to_str().unwrap()).unwrap().run(None).unwrap();
    let rows = results.read::<MetricsRow>().unwrap();
    let steps: Vec<i32> = rows.iter().map(|row| row.step).collect();
    assert_eq!(steps, (1..=60).collect::<Vec<i32>>());
    for row in &rows {
        assert!(
            row.slots == 2 && row.seconds > 0.0 && row.seconds_products > 0.0 && row.tokens_per_second > 0.0,
            "{row:?}"
        );
    }
    // and each slot's share of them is in its own table
    let slots = results.read::<TridiagonalRow>().unwrap();
    for row in &slots {
        let step = rows.iter().find(|step| step.step == row.step).unwrap();
        assert_eq!(row.seconds, step.seconds / 2.0, "{row:?}");
    }
}

/// What a finished group has written, and nobody reads again before the end.
#[test]
fn a_run_does_not_end_as_done_with_damaged_parts_or_manifests() {
    let folder = Folder::new();
    let settings = "--set hessian.slots=1 --set lanczos.steps=4 --set blocks.full=false";
    let command = format!("run tiny.toml --output out {settings}");
    folder.hesspec(&command).ok();
    let expected = findings(&folder.path("out"));
    let bookkeeping = folder.path("out/_runs/tiny");
    let undone = || {
        for object in ["DONE", "manifest.json", "groups/b00001-p000.json"] {
            let _ = std::fs::remove_file(bookkeeping.join(object));
        }
    };
    let flipped = |path: &Path, at: usize| {
        let bytes = std::fs::read(path).unwrap();
        let mut other = bytes.clone();
        other[at] ^= 1;
        std::fs::write(path, other).unwrap();
        bytes
    };
    for table in ["metrics", "tridiagonal", "segments"] {
        undone();
        let part = folder.path(&format!("out/{table}/run=tiny/part-b00000-p000.parquet"));
        let whole = flipped(&part, 100);
        let named = format!("{table}/run=tiny/part-b00000-p000.parquet");
        folder.hesspec(&command).failed(5, &[&named, "SHA-256", "delete `_runs/tiny/groups/b00000-p000.json`"]);
        assert!(!bookkeeping.join("DONE").exists());
        std::fs::write(&part, whole).unwrap();
    }
    for object in ["groups/b00000-p000.json", "run.json", "shape.json"] {
        let path = bookkeeping.join(object);
        let length = std::fs::metadata(&path).unwrap().len() as usize;
        for at in [length / 4, length / 2, length - 10] {
            undone();
            let whole = flipped(&path, at);
            folder.hesspec(&command).failed(5, &[object]);
            std::fs::write(&path, whole).unwrap();
        }
    }
    undone();
    folder.hesspec(&command).ok();
    assert!(findings(&folder.path("out")) == expected);
}

/// A run of the same name with another seed, whole or in part, in this one's place.
#[test]
fn what_another_run_wrote_is_refused() {
    let case = Case::new();
    let other = Folder::new();
    stopped_with(&other, "--set run.seed=7");
    let said = case.after("another run's checkpoint", |folder| {
        std::fs::remove_dir_all(folder.path(GROUP)).unwrap();
        copy(&other.path(GROUP), &folder.path(GROUP));
    });
    assert!(said.code == Some(5) && said.stderr.contains("another run wrote it"), "{}", said.stderr);
    run(&other).failed(2, &["begun with another configuration", "run.seed"]);
    other.hesspec(&format!("run tiny.toml --output out {SETTINGS} --set run.seed=7")).ok();
    case.restore();
    for part in ["_runs/tiny/groups", "tridiagonal", "segments", "metrics"] {
        copy(&other.path("out").join(part), &case.folder.path("out").join(part));
    }
    run(&case.folder).failed(5, &["groups/b00000-p000.json", "written by another run"]);
}

#[test]
fn a_run_goes_on_with_the_data_and_the_weights_that_it_was_begun_on_only() {
    let folder = Folder::new();
    let weights = "--set model.gpt2.weights=w.safetensors";
    folder.hesspec("weights export tiny.toml w.safetensors").ok();
    stopped_with(&folder, weights);
    let go_on = || folder.hesspec(&format!("run tiny.toml --output out {SETTINGS} {weights}"));
    let tokens = std::fs::read(folder.path("train.bin")).unwrap();
    folder.write(
        "train.bin",
        &tokens
            .iter()
            .rev()
            .copied()
            .collect::<Vec<u8>>()
            .chunks(2)
            .flat_map(|pair| [pair[1], pair[0]])
            .collect::<Vec<u8>>(),
    );
    go_on().failed(2, &["cannot go on", "the data of [data.tokens]", "another run.name"]);
    folder.write("train.bin", &tokens);
    let whole = std::fs::read(folder.path("w.safetensors")).unwrap();
    std::fs::remove_file(folder.path("w.safetensors")).unwrap();
    folder.hesspec("weights export tiny.toml w.safetensors --set run.seed=5").ok();
    go_on().failed(2, &["cannot go on", "the network's weights (`w.safetensors`)"]);
    folder.write("w.safetensors", &whole);
    assert!(go_on().ok().stderr.contains("resumed after step"));
}

/// What the data is found to be only while it is computed on.
#[test]
fn a_run_that_could_compute_nothing_does_not_keep_its_name() {
    let folder = Folder::new();
    let tokens = std::fs::read(folder.path("train.bin")).unwrap();
    folder.write("train.bin", &[&tokens[..60], &[200, 0], &tokens[62..]].concat());
    folder.hesspec("run tiny.toml --output out").failed(2, &["token 200 at position 30"]);
    assert!(!folder.path("out/_runs/tiny/run.json").exists());
    folder.write("train.bin", &tokens);
    folder.hesspec("run tiny.toml --output out --set lanczos.steps=3").ok();
}
