//! Rooms use only rooms of a lower layer: reads the `crate::` paths of every file under `src/`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Room and layer. Within a layer rooms are listed in the order in which they may use each other (a later one an
/// earlier one), where they may at all.
const ROOMS: &[(&str, u32)] = &[
    ("shown", 0),
    ("error", 1),
    // L0: pure
    ("file", 2),
    ("block", 2),
    ("document", 3),
    ("probe", 3),
    ("krylov", 4),
    ("spectrum", 5),
    // between: where bytes lie
    ("storage", 6),
    // L1: one concern each
    ("cluster", 10),
    ("engine", 10),
    ("models", 10),
    ("data", 10),
    ("output", 10),
    // L2: composition
    ("hessian", 20),
    ("metrics", 20),
    ("checkpoint", 21),
    ("worker", 22),
    ("datasets", 23),
    ("networks", 24),
    ("config", 25),
    // L3: the run
    ("job", 30),
    ("inputs", 31),
    ("plan", 31),
    ("doctor", 32),
    ("tables", 33),
    ("announce", 33),
    ("lock", 34),
    ("derive", 35),
    ("quadratic", 35),
    ("dense", 35),
    ("coordinator", 36),
    ("train", 37),
    ("series", 37),
    ("analysis", 38),
    // L4: edges
    ("report", 40),
    ("cli", 41),
    ("program", 42),
];

/// Inside engine/: kernels < jvp < outer.
const ENGINE: &[(&str, u32)] = &[("kernels", 0), ("jvp", 1), ("outer", 2)];

fn layer(rooms: &[(&str, u32)], name: &str) -> Option<u32> {
    rooms.iter().find(|(room, _)| *room == name).map(|(_, layer)| *layer)
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names that follow `prefix` in a file's code, `use crate::{a, b::c}` included.
fn used(text: &str, prefix: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut names = Vec::new();
    for (at, _) in code.match_indices(prefix) {
        let rest = &code[at + prefix.len()..];
        let first =
            |text: &str| text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
        match rest.strip_prefix('{') {
            None => names.push(first(rest)),
            Some(list) => {
                let (mut depth, mut item) = (0, String::new());
                for c in list.chars() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names.push(first(&std::mem::take(&mut item))),
                        _ => item.push(c),
                    }
                }
                names.push(first(&item));
            }
        }
    }
    names
}

fn room_of(path: &Path, root: &Path) -> String {
    let relative = path.strip_prefix(root).unwrap();
    relative.iter().next().unwrap().to_string_lossy().trim_end_matches(".rs").to_owned()
}

#[test]
fn rooms_use_only_rooms_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut wrong = BTreeMap::new();
    let mut checked = 0;
    for file in &files {
        let room = room_of(file, &root);
        let is_test = file.file_stem().is_some_and(|stem| stem.to_string_lossy().ends_with("tests"));
        if room == "lib" || room == "main" || is_test {
            continue; // a room's tests may compare it with the rooms above
        }
        let own =
            layer(ROOMS, &room).unwrap_or_else(|| panic!("room `{room}` is not on the map of tests/architecture.rs"));
        let text = fs::read_to_string(file).unwrap();
        for other in used(&text, "crate::") {
            let Some(their) = layer(ROOMS, &other) else { continue };
            checked += 1;
            if other != room && their >= own {
                wrong.insert(file.clone(), other);
            }
        }
    }
    assert!(checked > 50, "only {checked} uses found: does this test still read the code?");
    assert!(wrong.is_empty(), "rooms that reach up or sideways: {wrong:#?}");
}

#[test]
fn the_engine_is_layered_and_knows_nothing_of_this_program() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
    let mut files = Vec::new();
    sources(&root, &mut files);
    for file in &files {
        let part = room_of(file, &root);
        let text = fs::read_to_string(file).unwrap();
        let outside: Vec<_> = used(&text, "crate::")
            .into_iter()
            .filter(|name| layer(ROOMS, name).is_some_and(|_| name != "engine"))
            .collect();
        assert!(outside.is_empty(), "{}: the engine is a crate of its own but for {outside:?}", file.display());
        let Some(own) = layer(ENGINE, &part) else { continue };
        for other in used(&text, "crate::engine::").iter().filter_map(|name| layer(ENGINE, name)) {
            assert!(other <= own, "{}: kernels < jvp < outer", file.display());
        }
    }
}

#[test]
fn burn_ends_at_the_hessian() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in ["krylov", "spectrum", "config", "storage", "output", "report", "data"] {
        let mut files = Vec::new();
        sources(&root.join(room), &mut files);
        for file in files {
            let text = fs::read_to_string(&file).unwrap();
            assert!(!text.contains("burn::") && !text.contains("burn_"), "{} uses burn", file.display());
        }
    }
}

/// Files that the pages for people point at are there.
#[test]
fn links_of_the_documentation_resolve() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = fs::read_dir(root.join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = ["README.md", "ARCHITECTURE.md", "CHANGELOG.md"].iter().map(|page| root.join(page)).chain(docs);
    let (mut links, mut missing) = (0, Vec::new());
    for page in pages.filter(|page| page.extension().is_some_and(|extension| extension == "md")) {
        let text = fs::read_to_string(&page).unwrap();
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split([')', '#']).next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            links += 1;
            if !page.parent().unwrap().join(target).exists() {
                missing.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(links > 20 && missing.is_empty(), "{links} links, missing: {missing:#?}");
}
