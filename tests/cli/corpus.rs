//! `data prepare` in shards, killed, and tokens that do not fit.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::folder::Folder;

/// English enough for GPT-2's tokeniser, no two documents alike.
fn lines(bytes: usize) -> String {
    let words =
        ["the", "spectrum", "of", "a", "Hessian,", "which", "isn't", "flat;", "12 of", "its", "eigenvalues", "are\n"];
    let (mut state, mut out) = (1u64, String::new());
    let mut next = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    while out.len() < bytes {
        let text: Vec<&str> = (0..200 + next(1500)).map(|_| words[next(words.len())]).collect();
        out += &format!("{}\n", serde_json::json!({ "text": text.join(" ") }));
    }
    out
}

fn meta(folder: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join("meta.json")).unwrap()).unwrap()
}

#[test]
fn a_killed_preparation_goes_on_with_the_same_bytes() {
    let folder = Folder::new();
    folder.write("lines.jsonl", lines(24_000_000).as_bytes());
    let prepare = ["data", "prepare", "--tokenizer", "gpt2", "--shard-tokens", "100000", "lines.jsonl", "--output"];
    let command = |out: &str| folder.command(&[&prepare[..], &[out]].concat());
    assert!(command("whole").output().unwrap().status.success());
    let mut child = command("killed").stdout(std::process::Stdio::null()).spawn().unwrap();
    let begin = Instant::now();
    while !folder.path("killed/train_000004.bin").exists() {
        assert!(
            begin.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(),
            "no shards to kill at"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    let second = command("killed").output().unwrap();
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(second.status.code() == Some(5) && said.contains("killed: another process is preparing tokens"), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.path("killed/meta.json").exists(), "it was killed before its end");
    let kept = std::fs::metadata(folder.path("killed/train_000002.bin")).unwrap().modified().unwrap();
    let unfinished = "check tiny.toml --set data.tokens.path=\"killed/train_*.bin\"";
    folder.hesspec(unfinished).failed(2, &["killed/progress.json", "unfinished preparation", "data prepare"]);
    // a stop signal is heeded after the next piece of text; the first new shard shows that the child listens
    let shard = |index: usize| folder.path(&format!("killed/train_{index:06}.bin"));
    let next = (0..).map(shard).find(|path| !path.exists()).unwrap();
    let child = command("killed").stderr(std::process::Stdio::piped()).spawn().unwrap();
    let begin = Instant::now();
    while !next.exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no shards to stop at");
        std::thread::sleep(Duration::from_millis(1));
    }
    // SAFETY: a signal to a child that has not been waited for
    assert_eq!(unsafe { libc::kill(child.id() as i32, libc::SIGTERM) }, 0);
    let stopped = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&stopped.stderr);
    assert_eq!(stopped.status.code(), Some(75), "{said}");
    assert!(said.contains("stopped by SIGTERM; finished shards are kept"), "{said}");
    assert!(!folder.path("killed/meta.json").exists() && folder.path("killed/progress.json").exists());
    let resumed = command("killed").output().unwrap();
    let said = String::from_utf8_lossy(&resumed.stdout);
    assert!(resumed.status.success() && said.contains("made now: ") && said.contains("kept from before: "), "{said}");
    let again = std::fs::metadata(folder.path("killed/train_000002.bin")).unwrap().modified().unwrap();
    assert_eq!(kept, again, "what was there was not made again");

    let (whole, killed) = (meta(&folder.path("whole")), meta(&folder.path("killed")));
    assert_eq!(whole, killed);
    let shards = whole["shards"].as_array().unwrap();
    assert!(shards.len() > 20, "{}", shards.len());
    for shard in shards {
        let file = shard["file"].as_str().unwrap();
        let [a, b] = ["whole", "killed"].map(|out| std::fs::read(folder.path(out).join(file)).unwrap());
        assert!(a == b, "{file}");
    }
    let left = std::fs::read_dir(folder.path("killed")).unwrap().count();
    assert_eq!(left, shards.len() + 1);

    let command = prepare.join(" ") + " killed";
    assert!(folder.hesspec(&command).ok().stdout.contains("killed/train_*.bin: already done"));
    let other = folder.hesspec(&command.replace("100000", "90000"));
    other.failed(2, &["killed: holds finished tokens", "--shard-tokens 100000, now 90000", "choose another --output"]);
    let away = |from: &str, to: &str| std::fs::rename(folder.path(from), folder.path(to)).unwrap();
    away("killed/train_000001.bin", "away");
    folder.hesspec(unfinished).failed(2, &["killed/meta.json", "files are missing: train_000001.bin"]);
    away("away", "killed/train_000001.bin");

    let check = "check tiny.toml --set data.tokens.path=\"killed/train_*.bin\" --set model.gpt2.vocabulary=";
    folder.hesspec(&format!("{check}50257")).ok();
    folder
        .hesspec(&format!("{check}300"))
        .failed(2, &["train_000000.bin: token", "below the model's vocabulary of 300"]);
    let cut = folder.path("killed/train_000003.bin");
    let bytes = std::fs::read(&cut).unwrap();
    std::fs::write(&cut, &bytes[..1000]).unwrap();
    folder.hesspec(&format!("{check}50257")).failed(2, &["train_000003.bin", "has 500 tokens", "says 100000"]);
}

#[test]
fn what_cannot_be_prepared_is_said() {
    let folder = Folder::new();
    folder.write("a.txt", b"some text");
    let prepare = "data prepare --tokenizer gpt2 --output out";
    if cfg!(not(feature = "s3")) {
        folder.hesspec(&format!("{prepare} s3://bucket/a.txt")).failed(3, &["--features s3"]);
        let url = folder.hesspec("check tiny.toml --set data.tokens.path=\"s3://bucket/*.bin\"");
        url.failed(3, &["--features s3"]);
    }
    if cfg!(not(feature = "http")) {
        folder.hesspec(&format!("{prepare} https://localhost/a.txt")).failed(3, &["--features http"]);
    }
    folder.hesspec(&format!("{prepare} none/*.txt")).failed(2, &["no file matches"]);
    folder.hesspec(&format!("{prepare} --shard-tokens 0 a.txt")).failed(2, &["--shard-tokens 0"]);
    folder.hesspec(&format!("{prepare} a.txt.zst")).failed(2, &["a.txt.zst"]);
    assert!(!folder.path("out").exists());
    let said = folder.hesspec(&format!("{prepare} a.txt")).ok().stdout;
    assert!(said.contains("out/train.bin: 2 tokens of 1 documents") && said.contains("tokens/s"), "{said}");
}
