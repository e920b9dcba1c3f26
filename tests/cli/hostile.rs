//! Files that were made to harm: each is refused with its name, soon and in little memory, and nothing waits for ever.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::folder::{Folder, Said};

/// What a command may take on such a file.
const MOST_SECONDS: u64 = 120;
const MOST_MEGABYTES: u64 = 3000;

/// Runs the program with a limit on its address space, and ends it when it takes too long.
#[track_caller]
fn limited(folder: &Folder, arguments: &[&str]) -> Said {
    let program = folder.command(&[]);
    let mut command = Command::new("bash");
    let script = format!("ulimit -v {}; exec \"$0\" \"$@\"", MOST_MEGABYTES * 1024);
    command.args(["-c", &script]).arg(program.get_program()).args(arguments);
    command.current_dir(folder.path("")).env("RAYON_NUM_THREADS", "2").stdout(Stdio::piped()).stderr(Stdio::piped());
    let begin = Instant::now();
    let mut child = command.spawn().unwrap();
    while child.try_wait().unwrap().is_none() {
        if begin.elapsed() > Duration::from_secs(MOST_SECONDS) {
            child.kill().unwrap();
            panic!("{arguments:?} has not ended after {MOST_SECONDS} s");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    Said { code: child.wait().unwrap().code(), stdout, stderr }
}

/// A file of torch.save with this pickle.
fn checkpoint(pickle: &[u8]) -> Vec<u8> {
    let mut archive = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let stored = SimpleFileOptions::default().compression_method(CompressionMethod::Stored);
    archive.start_file("archive/data.pkl", stored).unwrap();
    archive.write_all(pickle).unwrap();
    archive.finish().unwrap().into_inner()
}

#[test]
fn pickles_that_nest_or_repeat_are_refused() {
    let folder = Folder::new();
    // three million tuples, one in the other
    let deep = [b"\x80\x02)".as_slice(), &vec![0x85; 3_000_000], b"."].concat();
    // ten times a text, ten times that, and so on: 10^12 of them
    let repeated = |open: &[u8], close: u8| {
        let mut pickle = b"\x80\x02X\x0a\x00\x00\x00aaaaaaaaaaq\x00".to_vec();
        for level in 0..12 {
            pickle.extend([open, &[b'h', level].repeat(10), &[close, b'q', level + 1]].concat());
        }
        [pickle, b".".to_vec()].concat()
    };
    // a table that is its own value; millions of entries of one key; more instructions than anybody needs
    let own = b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.".to_vec();
    let entries = [b"\x80\x02}X\x01\x00\x00\x00kq\x000(", b"h\x00h\x00".repeat(1_000_000).as_slice(), b"u."].concat();
    let endless = [b"\x80\x02".as_slice(), &vec![b'N'; 6_000_000], b"."].concat();
    // a function of a function of a function ...
    let inner = b"h\x00Nh\x01\x87q\x01".repeat(100_000);
    let calls =
        [b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\nq\x00)q\x01", inner.as_slice(), b"h\x00h\x01R."].concat();
    for (name, pickle, part) in [
        ("deep.pt", deep, "holds no table of tensors"),
        ("tuples.pt", repeated(b"(", b't'), "holds no table of tensors"),
        ("lists.pt", repeated(b"](", b'e'), "holds no table of tensors"),
        ("own.pt", own, "holds no table of tensors"),
        ("entries.pt", entries, "holds no table of tensors"),
        ("endless.pt", endless, "more than 5000000 instructions"),
        ("calls.pt", calls, "holds no table of tensors"),
    ] {
        folder.write(name, &checkpoint(&pickle));
        let set = format!("model.gpt2.weights={name}");
        limited(&folder, &["check", "tiny.toml", "--set", &set]).failed(2, &[name, part]);
    }
}

fn compressed(text: impl Read) -> Vec<u8> {
    zstd::encode_all(text, 1).unwrap()
}

#[test]
fn lines_headers_and_words_without_end_are_refused() {
    let folder = Folder::new();
    const LEN: u64 = 3 << 30;
    let endless = compressed(std::io::repeat(b'a').take(LEN));
    assert!(endless.len() < 1 << 20, "{}", endless.len());
    let after = |start: &[u8]| [compressed(start), endless.clone()].concat(); // frames follow one another
    let header = |kind: tar::EntryType| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(LEN);
        header.set_path("x").unwrap();
        header.set_cksum();
        header.as_bytes().to_vec()
    };
    folder.write("line.jsonl.zst", &after(b"{\"text\": \""));
    folder.write("long.tar.zst", &after(&header(tar::EntryType::GNULongName)));
    folder.write("pax.tar.zst", &after(&header(tar::EntryType::XHeader)));
    folder.write("word.txt.zst", &endless);
    for (name, part) in [
        ("line.jsonl.zst", "line.jsonl.zst:1: the line has more than 256 MiB"),
        ("long.tar.zst", "more than 1 MiB"),
        ("pax.tar.zst", "more than 1 MiB"),
        ("word.txt.zst", "no white space in 16 MiB"),
    ] {
        let said = limited(&folder, &["data", "prepare", "--tokenizer", "gpt2", "--output", "out", name]);
        said.failed(2, &[name, part]);
        assert!(!folder.path("out/meta.json").exists());
    }
}

#[test]
fn what_is_no_regular_file_is_not_waited_for() {
    let folder = Folder::new();
    let pipe = |name: &str| {
        let path = std::ffi::CString::new(folder.path(name).to_str().unwrap()).unwrap();
        // SAFETY: the path ends in a zero
        assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
    };
    pipe("pipe");
    pipe("pipe.safetensors");
    for command in [
        "check pipe",
        "check tiny.toml --set data.tokens.path=pipe",
        "check tiny.toml --set model.gpt2.weights=pipe.safetensors",
        "hvp tiny.toml --vectors pipe --out hv.safetensors",
        "lanczos tiny.toml --start pipe --block full --steps 2",
        "plan tiny.toml --calibration pipe",
        "data inspect pipe",
        "data inspect /dev/zero",
        "data prepare --tokenizer byte --output out pipe",
        "data prepare --tokenizer byte --output out /dev/zero",
    ] {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        limited(&folder, &arguments).failed(2, &["expected a regular file"]);
    }
    // beside tokens, and in a run's own folder
    std::fs::create_dir_all(folder.path("tokens")).unwrap();
    std::fs::copy(folder.path("train.bin"), folder.path("tokens/train.bin")).unwrap();
    pipe("tokens/meta.json");
    let beside = ["check", "tiny.toml", "--set", "data.tokens.path=tokens/train.bin"];
    limited(&folder, &beside).failed(2, &["tokens/meta.json", "a named pipe"]);
    folder.hesspec("run tiny.toml --output out --set blocks.full=false").ok();
    std::fs::remove_file(folder.path("out/_runs/tiny/run.json")).unwrap();
    pipe("out/_runs/tiny/run.json");
    let run = ["run", "tiny.toml", "--output", "out", "--set", "blocks.full=false"];
    limited(&folder, &run).failed(5, &["run.json", "no file", "move it elsewhere"]);
}

#[test]
fn a_folder_named_lock_is_an_error_and_no_wait() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("out/_runs/tiny/LOCK")).unwrap();
    let run = ["run", "tiny.toml", "--output", "out", "--set", "blocks.full=false"];
    limited(&folder, &run).failed(5, &["_runs/tiny/LOCK", "no file", "move it elsewhere"]);
}

/// The holder's name comes out of a file that anybody may have written.
#[test]
fn a_lock_cannot_steer_the_terminal() {
    let folder = Folder::new();
    std::fs::create_dir_all(folder.path("out/_runs/tiny")).unwrap();
    let lock = serde_json::json!({
        "id": "1-1-0", "user": "me\n\u{1b}[2Jhesspec: all is well", "host": "there\u{1b}[31m\u{9b}8m", "machine": "elsewhere", "pid": 1,
        "process_start": 1, "slurm_job": "\u{7}7", "slurm_restarts": 0, "started": "\rlong ago", "refreshed": 0
    });
    folder.write("out/_runs/tiny/LOCK", lock.to_string().as_bytes());
    let said = folder.hesspec("run tiny.toml --output out --set blocks.full=false");
    let shown = said.stderr.clone();
    said.failed(5, &["another job is at work", "on there?[31m?8m", "me?[2Jhesspec: all is well"]);
    assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
}

/// Names out of stored files, in answers and in errors.
#[test]
fn stored_names_cannot_steer_the_terminal() {
    let folder = Folder::new();
    folder.hesspec("run tiny.toml --output out --set blocks.full=false").ok();
    std::fs::rename(folder.path("out/_runs/tiny"), folder.path("out/_runs/ti\u{1b}[31mny")).unwrap();
    std::fs::write(folder.path("tr\u{1b}[31m.bin"), std::fs::read(folder.path("train.bin")).unwrap()).unwrap();
    for arguments in
        [&["report", "out", "--run", "x"][..], &["data", "inspect", "tr\u{1b}[31m.bin"], &["data", "inspect", "*.bim"]]
    {
        let output = folder.command(arguments).output().unwrap();
        let shown = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(shown.contains("[31m"), "{shown}");
        assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{shown:?}");
    }
}

#[test]
fn a_glob_that_matches_nothing_says_what_is_there() {
    let folder = Folder::new();
    folder
        .hesspec("check tiny.toml --set data.tokens.path=trains_*.bin")
        .failed(2, &["trains_*.bin: no file matches this glob", "there are tiny.toml, train.bin", "HINT"]);
    folder
        .hesspec("data prepare --tokenizer byte --output out none/*.txt")
        .failed(2, &["no file matches", "train.bin"]);
}

#[test]
fn names_that_readers_take_for_something_else_are_refused() {
    let folder = Folder::new();
    for name in
        ["001", "1e5", "2024-01-31", "true", "False", "null", "NaN", "inf", "__HIVE_DEFAULT_PARTITION__", "-x", "epoch"]
    {
        let said = folder.hesspec(&format!("plan tiny.toml --no-timing --set run.name=\"{name}\""));
        said.failed(2, &["run.name", name, "expected a letter"]);
    }
    for name in ["a", "tiny-16384", "e5", "gpt2_owt.full", "nullable"] {
        folder.hesspec(&format!("plan tiny.toml --no-timing --set run.name=\"{name}\"")).ok();
    }
    // the file's name is the default
    std::fs::copy(folder.path("tiny.toml"), folder.path("2024.toml")).unwrap();
    folder.hesspec("plan 2024.toml --no-timing").failed(2, &["run.name = \"2024\" (by default)", "expected a letter"]);
    let set = "--set batch.tokens=24 --set convergence.from=12 --set convergence.to=24 --set convergence.batches=\"7\"";
    folder
        .hesspec(&format!("plan tiny.toml --no-timing {set}"))
        .failed(2, &["convergence.batches", "expected a letter"]);
}
