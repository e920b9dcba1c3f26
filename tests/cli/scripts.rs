//! The scripts that start hesspec.

use std::path::Path;
use std::process::Command;

use crate::folder::Folder;

/// `--help` prints a script's head, from any folder, and does nothing else.
#[test]
fn every_script_answers_help() {
    let elsewhere = Folder::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = 0;
    for folder in ["launch", "slurm"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let text = std::fs::read_to_string(&path).unwrap();
            if !text.starts_with("#!") {
                continue; // is sourced
            }
            found += 1;
            let head: Vec<&str> = text.lines().skip(1).map_while(|line| line.strip_prefix('#')).collect();
            for flag in ["--help", "-h"] {
                let mut command = Command::new("bash");
                command.arg(&path).arg(flag).current_dir(elsewhere.path("")).env_remove("SLURM_SUBMIT_DIR");
                command.env("PATH", "/usr/bin:/bin").env("CARGO_HOME", elsewhere.path("none"));
                let output = command.output().unwrap();
                let said = String::from_utf8(output.stdout).unwrap();
                assert!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
                assert_eq!(said.lines().next().unwrap(), head[0].trim(), "{}", path.display());
                let wanted = head.iter().filter(|line| !line.starts_with("SBATCH")).count();
                assert_eq!(said.lines().count(), wanted, "{}: {said}", path.display());
            }
        }
    }
    assert!(found >= 11, "{found} scripts");
    assert!(!root.join("launch/target").exists());
}
