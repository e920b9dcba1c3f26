//! Secrets in every place where a user may put one, by right or by mistake; then a search through all that was said and stored.

use std::path::Path;
use std::process::Output;

use crate::folder::{Folder, Said};

/// What is planted, and must be nowhere afterwards.
const SECRET: &str = "hunter2SECRETsecret0123";

/// Runs the program with arguments as they are, and looks through what it says.
#[track_caller]
fn told(folder: &Folder, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = folder.command(arguments);
    command.envs(variables.iter().copied()).env("HESSPEC_LOG", "trace");
    let Output { status, stdout, stderr } = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let said = Said { code: status.code(), stdout: text(stdout), stderr: text(stderr) };
    assert!(
        !said.stdout.contains(SECRET) && !said.stderr.contains(SECRET),
        "{arguments:?}: {}{}",
        said.stdout,
        said.stderr
    );
    said
}

/// No file below the folder has the secret in its name or its content, but for those in `planted`.
fn search(folder: &Path, planted: &[&str]) -> usize {
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(!name.contains(SECRET), "{}", path.display());
        if path.is_dir() {
            seen += search(&path, planted);
        } else if !planted.contains(&name) {
            let bytes = std::fs::read(&path).unwrap();
            let is_there = bytes.windows(SECRET.len()).any(|window| window == SECRET.as_bytes());
            assert!(!is_there, "{}", path.display());
            seen += 1;
        }
    }
    seen
}

/// The secret in each part of a URL, and in URLs that are none.
fn urls() -> Vec<String> {
    let s = SECRET;
    vec![
        format!("s3://id:{s}@bucket/x.pt"),
        format!("s3://{s}@bucket/x.pt"),
        format!("s3://id:{s}/with/slashes@bucket/x.pt"),
        format!("s3://id:{s}/x.pt"),
        format!("s3:/id:{s}@bucket/x.pt"),
        format!("s3:id:{s}@bucket/x.pt"),
        format!("s3//id:{s}@bucket/x.pt"),
        format!("S3://id:{s}@bucket/x.pt"),
        format!("nosuch://id:{s}@bucket/x.pt"),
        format!("id:{s}@s3://bucket/x.pt"),
        format!("s3://bucket/x.pt?X-Amz-Signature={s}"),
        format!("s3://bucket/train_*.bin?token={s}"),
        format!("file:///tmp/x.pt?sig={s}"),
        format!("https://user:{s}@localhost/x.pt"),
        format!("https:/localhost/x.pt?sig={s}"),
        format!("http://192.0.2.1/x.pt?X-Amz-Credential=id&X-Amz-Signature={s}"),
        format!("abfss://container:{s}@account/x.pt"),
    ]
}

#[test]
fn no_url_in_a_configuration_is_repeated_with_its_secret() {
    let folder = Folder::new();
    let plain = std::fs::read_to_string(folder.path("tiny.toml")).unwrap();
    for url in urls() {
        for (table, key) in
            [("model.gpt2", "weights"), ("data.tokens", "path"), ("output", "url"), ("model.gpt2", "weigths")]
        {
            // by option ...
            let set = format!("{table}.{key}={url}");
            for command in
                [&["run", "tiny.toml", "--log-dir", "logs", "--set", &set][..], &["check", "tiny.toml", "--set", &set]]
            {
                let said = told(&folder, command, &[]);
                assert!(matches!(said.code, Some(2 | 3)), "{set}: {:?} {}", said.code, said.stderr);
            }
            // ... and in the file
            let text = match plain.contains(&format!("[{table}]")) {
                true if key == "path" => plain.replace("path = \"train.bin\"", &format!("path = \"{url}\"")),
                true => plain.replace(&format!("[{table}]\n"), &format!("[{table}]\n{key} = \"{url}\"\n")),
                false => format!("{plain}\n[{table}]\n{key} = \"{url}\"\n"),
            };
            folder.write("planted.toml", text.as_bytes());
            let said = told(&folder, &["run", "planted.toml", "--log-dir", "logs"], &[]);
            assert!(matches!(said.code, Some(2 | 3)), "{text}: {}", said.stderr);
        }
    }
    assert!(search(&folder.path(""), &["planted.toml"]) > 2);
}

#[test]
fn no_url_among_the_arguments_is_repeated_with_its_secret() {
    let folder = Folder::new();
    folder.write("a.txt", b"some text");
    for url in urls() {
        let prepare = ["data", "prepare", "--tokenizer", "byte", "--output"];
        let commands: Vec<Vec<&str>> = vec![
            vec!["run", "tiny.toml", "--output", &url],
            vec!["run", "tiny.toml", "--output", "out", "--log-dir", &url],
            vec!["run", &url],
            vec!["plan", &url, "--set", &url],
            vec!["plan", "tiny.toml", "--device", "a100", "--budget", "10", "--convergence", &url],
            vec!["plan", "tiny.toml", "--calibration", &url],
            vec!["report", &url],
            vec!["report", "none", "--out", &url],
            vec!["report", "none", &url],
            vec!["weights", "export", "tiny.toml", &url],
            vec!["data", "inspect", &url],
            [&prepare[..], &["out", "a.txt", &url]].concat(),
            [&prepare[..], &[&url, "a.txt"]].concat(),
            vec!["hvp", "tiny.toml", "--vectors", &url, "--out", "x.safetensors"],
            vec!["hvp", "tiny.toml", "--loss", "--gradient", &url],
            vec!["lanczos", "tiny.toml", "--block", "full", "--steps", "2", "--start", &url],
        ];
        for command in commands {
            let said = told(&folder, &command, &[]);
            // a build that has the storage asks it, and is refused
            let is_refused = matches!(said.code, Some(2 | 3)) || cfg!(feature = "s3") && said.code == Some(5);
            assert!(is_refused, "{command:?}: {:?} {}", said.code, said.stderr);
        }
    }
    let said = told(&folder, &["doctor", "--output", &urls()[0]], &[]);
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert!(search(&folder.path(""), &[]) > 2);
}

/// What the environment says of credentials and endpoints reaches no answer, log, record or table of a run.
#[test]
fn no_secret_of_the_environment_is_recorded() {
    let folder = Folder::new();
    let endpoint = format!("http://id:{SECRET}@127.0.0.1:1/x?token={SECRET}");
    let variables = [
        ("AWS_ACCESS_KEY_ID", SECRET),
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("AWS_SESSION_TOKEN", SECRET),
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AZURE_STORAGE_ACCOUNT_KEY", SECRET),
        ("HTTPS_PROXY", endpoint.as_str()),
    ];
    let run = ["run", "tiny.toml", "--output", "out", "--log-dir", "logs", "--set", "blocks.full=false", "--json"];
    assert_eq!(told(&folder, &run, &variables).code, Some(0));
    assert_eq!(told(&folder, &["report", "out"], &variables).code, Some(0));
    let said = told(&folder, &["check", "tiny.toml", "--set", "model.gpt2.weights=s3://bucket/x.pt"], &variables);
    assert_eq!(said.code, Some(if cfg!(feature = "s3") { 2 } else { 3 }), "{}", said.stderr);
    assert!(search(&folder.path(""), &[]) > 20);
}

/// A text that was redacted says what it is: the key is named, and what is wrong.
#[test]
fn a_refusal_says_where_and_why() {
    let folder = Folder::new();
    let set = format!("model.gpt2.weights=s3://id:{SECRET}@bucket/x.pt");
    let said = told(&folder, &["check", "tiny.toml", "--set", &set], &[]);
    said.failed(
        2,
        &["model.gpt2.weights = \"s3://***@bucket/x.pt\"", "carries a user or a password", "AWS_SECRET_ACCESS_KEY"],
    );
    let said = told(&folder, &["data", "inspect", &format!("s3://bucket/x.bin?sig={SECRET}")], &[]);
    said.failed(2, &["`s3://bucket/x.bin?sig=***`", "begin a query"]);
    if cfg!(not(feature = "http")) {
        let signed = format!("https://localhost/x.bin?X-Amz-Signature={SECRET}");
        told(&folder, &["data", "inspect", &signed], &[]).failed(3, &["X-Amz-Signature=***", "--features http"]);
    }
    told(&folder, &["run", "tiny.toml", "--output", "https://localhost/x"], &[]).failed(2, &["never written"]);
}
