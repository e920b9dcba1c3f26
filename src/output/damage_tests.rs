//! What was cut short, taken away or changed behind the program's back.

use sha2::{Digest, Sha256};

use super::tests::{differing, group, one_of_each, open, provenance};
use super::*;
use crate::Result;

#[test]
fn a_damaged_part_is_an_error_that_says_which() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    open(url).write_group("a", &group("a")).unwrap();
    let part = folder.path().join("nodes/run=r/part-a.parquet");
    std::fs::write(&part, "short").unwrap();
    let error = RunStore::open(url, "r", &provenance("steps = 3"), differing).err().unwrap();
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("part-a.parquet") && error.to_string().contains("5 bytes"), "{error}");
}

#[test]
fn a_finished_run_that_was_damaged_is_neither_read_nor_taken_for_done() {
    let damage = |what: &str| {
        let folder = tempfile::tempdir().unwrap();
        let url = folder.path().to_str().unwrap();
        let mut store = open(url);
        store.write_group("a", &group("a")).unwrap();
        store.finish(&Tables::default()).unwrap();
        let path = folder.path().join(what);
        if what.ends_with(".json") {
            std::fs::remove_file(&path).unwrap()
        } else {
            std::fs::write(&path, "short").unwrap()
        }
        let opened = RunStore::open(url, "r", &provenance("steps = 3"), differing).err().unwrap();
        (opened, Results::open(url).and_then(|results| results.run(Some("r"))).err())
    };
    let (opened, read) = damage("density/run=r/part-final.parquet");
    for error in [opened, read.unwrap()] {
        assert_eq!(error.exit_code(), 5, "{error}");
        assert!(
            error.to_string().contains("density/run=r/part-final.parquet") && error.to_string().contains("5 bytes")
        );
    }
    let (opened, read) = damage("_runs/r/manifest.json");
    for error in [opened, read.unwrap()] {
        assert!(error.exit_code() == 5 && error.to_string().contains("manifest.json"), "{error}");
    }
}

/// As long as before: only the hash can tell. Wherever the byte is, in data, padding or footer.
#[test]
fn a_flipped_byte_is_found_when_its_part_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    let mut store = open(url);
    store.write_group("a", &group("a")).unwrap();
    let part = folder.path().join("nodes/run=r/part-a.parquet");
    let bytes = std::fs::read(&part).unwrap();
    for at in (0..bytes.len()).step_by(7) {
        let mut flipped = bytes.clone();
        flipped[at] ^= 1;
        std::fs::write(&part, &flipped).unwrap();
        let errors = [open(url).read::<NodeRow>(), Results::open(url).unwrap().run(None).unwrap().read::<NodeRow>()];
        for error in errors.map(Result::unwrap_err) {
            let text = error.to_string();
            assert!(error.exit_code() == 5 && text.contains("nodes/run=r/part-a.parquet"), "byte {at}: {text}");
            assert!(text.contains("delete `_runs/r/groups/a.json` to compute group `a` again"), "{text}");
        }
    }
    // manifests of earlier versions have no hashes
    let manifest = folder.path().join("_runs/r/groups/a.json");
    let mut old: serde_json::Value = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    let hash = old["parts"][0].as_object_mut().unwrap().remove("sha256").unwrap();
    old.as_object_mut().unwrap().remove("sha256").unwrap();
    assert_eq!(hash, format!("{:x}", Sha256::digest(&bytes)));
    std::fs::write(&part, &bytes).unwrap();
    std::fs::write(&manifest, old.to_string()).unwrap();
    assert_eq!(open(url).read::<NodeRow>().unwrap(), group("a").nodes);
    // a finished run cannot compute one group again
    open(url).finish(&one_of_each()).unwrap();
    let part = folder.path().join("summary/run=r/part-final.parquet");
    let mut flipped = std::fs::read(&part).unwrap();
    flipped[4] ^= 1;
    std::fs::write(&part, flipped).unwrap();
    let read = Results::open(url).unwrap().run(None).unwrap().read::<SummaryRow>();
    let text = read.unwrap_err().to_string();
    assert!(text.contains("summary/run=r/part-final.parquet") && text.contains("use a new run.name"), "{text}");
}

/// A part that a run reads no more before its end is held against its hash all the same.
#[test]
fn a_run_is_not_done_with_a_part_that_changed_unread() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    let mut store = open(url);
    store.write_group("a", &group("a")).unwrap();
    let part = folder.path().join("nodes/run=r/part-a.parquet");
    let bytes = std::fs::read(&part).unwrap();
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 4;
    std::fs::write(&part, flipped).unwrap();
    let text = store.finish(&Tables::default()).unwrap_err().to_string();
    assert!(text.contains("nodes/run=r/part-a.parquet") && text.contains("delete `_runs/r/groups/a.json`"), "{text}");
    assert!(!folder.path().join("_runs/r/DONE").exists());
    std::fs::write(&part, bytes).unwrap();
    store.finish(&Tables::default()).unwrap();
}

/// Removed while it goes on: nothing is added to what is left, and it is not done.
#[test]
fn a_run_whose_output_was_removed_is_not_done() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    let mut store = open(url);
    store.write_group("a", &group("a")).unwrap();
    let manifest = folder.path().join("_runs/r/groups/a.json");
    let text = std::fs::read(&manifest).unwrap();
    std::fs::remove_file(&manifest).unwrap();
    let error = store.finish(&Tables::default()).unwrap_err();
    assert!(error.exit_code() == 5 && error.to_string().contains("a.json` under"), "{error}");
    std::fs::write(&manifest, text).unwrap();
    std::fs::remove_file(folder.path().join("_runs/r/run.json")).unwrap();
    for error in [store.write_group("b", &group("b")), store.finish(&Tables::default())].map(Result::unwrap_err) {
        assert!(error.exit_code() == 5 && error.to_string().contains("_runs/r/run.json` under"), "{error}");
    }
    assert!(!folder.path().join("nodes/run=r/part-b.parquet").exists());
    assert!(!folder.path().join("_runs/r/DONE").exists());
}

/// With or without a hash of its own: what a manifest says must be what a run writes.
#[test]
fn a_manifest_that_names_what_no_run_writes_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    open(url).write_group("a", &group("a")).unwrap();
    let path = folder.path().join("_runs/r/groups/a.json");
    let text = std::fs::read_to_string(&path).unwrap();
    let reopened = || RunStore::open(url, "r", &provenance("steps = 3"), differing);
    let refused = |text: &str, why: &str| {
        std::fs::write(&path, text).unwrap();
        let error = reopened().err().unwrap();
        assert!(error.exit_code() == 5 && error.to_string().contains(why), "{why}: {error}");
        assert!(error.to_string().contains("delete `_runs/r/groups/a.json` to compute group `a` again"), "{error}");
    };
    refused(&text.replacen("\"nodes\"", "\"nodet\"", 1), "SHA-256");
    let mut plain: serde_json::Value = serde_json::from_str(&text).unwrap();
    plain.as_object_mut().unwrap().remove("sha256").unwrap();
    let plain = plain.to_string();
    refused(&plain.replacen("\"nodes\"", "\"nodet\"", 1), "there is no table `nodet`");
    refused(&plain.replacen("\"nodes\"", "\"metrics\"", 1), "is no place of a part of table `metrics`");
    refused(&plain.replacen("\"a\"", "\"b\"", 1), "it is of `b`, not of `a`");
    refused(&plain.replacen("num_rows", "num_rowt", 1), "num_rowt");
    std::fs::write(&path, plain.replacen("\"num_rows\":8", "\"num_rows\":7", 1)).unwrap();
    let text = reopened().unwrap().read::<NodeRow>().unwrap_err().to_string();
    assert!(text.contains("8 rows where 7 were written"), "{text}");
    std::fs::write(&path, plain).unwrap();
    assert_eq!(reopened().unwrap().read::<NodeRow>().unwrap(), group("a").nodes);
}

/// A file of vectors is a part like any other: held against its size and hash, and gone with a group that was not finished.
#[test]
fn files_of_vectors_belong_to_their_group() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    let mut store = open(url);
    let write = |store: &mut RunStore, name: &str| {
        let path = store.write_vectors(&format!("{name}-p000"), 2, name.repeat(8).into_bytes()).unwrap();
        store.write_group(name, &group(name)).unwrap();
        folder.path().join(path)
    };
    let (a, b) = (write(&mut store, "a"), write(&mut store, "b"));
    assert_eq!(a, folder.path().join("eigenvectors/run=r/_a-p000.safetensors"));
    std::fs::remove_file(folder.path().join("_runs/r/groups/b.json")).unwrap();
    let mut store = open(url);
    assert!(a.exists() && !b.exists(), "b's group is unfinished");
    let whole = std::fs::read(&a).unwrap();
    std::fs::write(&a, "b".repeat(8)).unwrap();
    let error = store.finish(&Tables::default()).unwrap_err();
    let parts = ["_a-p000.safetensors", "SHA-256", "delete `_runs/r/groups/a.json`"];
    assert!(error.exit_code() == 5 && parts.iter().all(|part| error.to_string().contains(part)), "{error}");
    std::fs::write(&a, "short").unwrap();
    let error = RunStore::open(url, "r", &provenance("steps = 3"), differing).err().unwrap();
    assert!(error.to_string().contains("5 bytes where 8 bytes were written"), "{error}");
    std::fs::write(&a, whole).unwrap();
    store.finish(&Tables::default()).unwrap();
    let run = Results::open(url).unwrap().run(None).unwrap();
    assert_eq!(run.read::<EigenvectorRow>().unwrap(), Vec::new());
}
