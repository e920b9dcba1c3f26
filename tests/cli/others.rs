//! `data`, `bench`, `completions`, and how the program behaves in a pipe.

use std::process::Stdio;

use crate::folder::Folder;

#[test]
fn prepared_text_is_read_back() {
    let folder = Folder::new();
    let text = "to be, or not to be\n";
    folder.write("input.txt", text.as_bytes());
    let meta = folder.hesspec("data prepare --tokenizer char --output tokens input.txt --json").ok().json();
    assert_eq!((&meta["num_tokens"], &meta["vocabulary_size"]), (&20.into(), &9.into()));
    let found = folder.hesspec("data inspect tokens/train.bin --json").ok().json();
    assert_eq!((&found["num_tokens"], &found["excerpt"], &found["max_token"]), (&20.into(), &text.into(), &8.into()));
    let said = folder.hesspec("data inspect tokens/train.bin").ok().stdout;
    assert!(said.contains("tokens       20") && said.contains("to be"), "{said}");
    // the batch that it makes: vocabulary and tokens fit
    let check = "check tiny.toml --set data.tokens.path=tokens/train.bin --set batch.tokens=12";
    folder.hesspec(check).ok();
    folder.write("lines.jsonl", b"{\"body\": \"abc\"}\n{\"body\": \"d\"}\n");
    let prepare = "data prepare --tokenizer byte --output bytes lines.jsonl";
    folder.hesspec(&format!("{prepare} --text-field body")).ok();
    assert_eq!(std::fs::read(folder.path("bytes/train.bin")).unwrap(), b"a\0b\0c\0\n\0d\0");
    folder.hesspec(prepare).failed(2, &["bytes: holds finished tokens", "--text-field body, now text", "--output"]);
    folder.hesspec(&prepare.replace("bytes", "none")).failed(2, &["lines.jsonl", "text"]);
    let same = "data prepare --tokenizer char --output tokens input.txt";
    assert!(folder.hesspec(same).ok().stdout.contains("tokens/train.bin: already done: 20 tokens of 1 documents"));
    assert_eq!(folder.hesspec(&format!("{same} --json")).ok().json(), meta);
    let said = folder.hesspec("data inspect tokens/train.bin").ok().stdout;
    assert!(said.contains("sha256       as in meta.json (1 of 1 files)"), "{said}");
    // equal in size
    let mut bytes = std::fs::read(folder.path("tokens/train.bin")).unwrap();
    bytes.swap(0, 2);
    folder.write("tokens/train.bin", &bytes);
    folder.hesspec("data inspect tokens/train.bin").failed(2, &["tokens/train.bin", "SHA-256", "meta.json"]);
}

#[test]
fn bench_has_every_case_of_the_contract() {
    let folder = Folder::new();
    let options = "--slots 1,2 --repeats 1 --set blocks.include=[\"*.h.1.mlp.*\"] --set run.threads=2";
    let answer = folder.hesspec(&format!("bench tiny.toml --json {options}")).ok().json();
    assert!(answer["sgemm_gflops"].as_f64().unwrap() > 0.0);
    assert_eq!(answer["machine"]["threads"], 2);
    let cases = answer["cases"].as_array().unwrap();
    let found: Vec<(&str, u64)> =
        cases.iter().map(|case| (case["what"].as_str().unwrap(), case["slots"].as_u64().unwrap())).collect();
    let (fc, proj) = ("transformer.h.1.mlp.c_fc.weight", "transformer.h.1.mlp.c_proj.weight");
    assert_eq!(
        found,
        [("forward", 1), ("gradient", 1), ("full", 1), ("full", 2), (fc, 1), (fc, 2), (proj, 1), (proj, 2)]
    );
    for case in cases {
        for key in ["seconds_per_slot", "matmul_gflop_per_slot", "gflops", "share_of_sgemm"] {
            assert!(case[key].as_f64().unwrap() > 0.0, "{key} in {case}");
        }
        assert!(case["peak_rss_mb"].as_f64().unwrap() > 1.0, "{case}");
    }
    // per token: 2 (12 x 8 x 8 - 16 x 8 of the narrower MLP, causal attention, head) multiply-adds; 30 tokens; 2 FLOP each
    let forward = 2.0 * (4.0 * 64.0 + 2.0 * 96.0 + 8.0 * 7.0) + 88.0;
    let expected = 2.0 * forward * 30.0 / 1e9;
    let flop = cases[0]["matmul_gflop_per_slot"].as_f64().unwrap();
    assert!((flop - expected).abs() < 1e-12 * expected, "{flop} {expected}");
}

#[test]
fn completions_name_every_command() {
    let folder = Folder::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = folder.hesspec(&format!("completions {shell}")).ok().stdout;
        for command in ["run", "plan", "check", "hvp", "lanczos", "bench", "report", "data", "completions"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
    assert_eq!(folder.hesspec("completions tcsh").code, Some(2));
}

/// `hesspec ... | head`: whoever reads may stop.
#[test]
fn a_closed_pipe_is_no_error() {
    let folder = Folder::new();
    let mut command = folder.command(&["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
}

#[test]
fn logs_go_to_stderr_and_can_be_turned_off() {
    let folder = Folder::new();
    let loud = folder.hesspec("run tiny.toml --output loud --set blocks.full=false --json").ok();
    assert!(loud.stderr.contains("self-test"), "{}", loud.stderr);
    loud.json();
    let mut command = folder.command(&["run", "tiny.toml", "--output", "quiet", "--set", "blocks.full=false"]);
    let output = command.env("HESSPEC_LOG", "off").output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
}
