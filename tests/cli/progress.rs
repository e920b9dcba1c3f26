//! What a run says: at its start, of its groups, of shapes that are tried, and when it is asked to stop.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use crate::folder::Folder;

/// Sends a signal to a child that has not been waited for.
fn signal(child: &Child, number: i32) {
    // SAFETY: kill has no preconditions.
    assert_eq!(unsafe { libc::kill(child.id() as i32, number) }, 0);
}

/// Starts a run and reads what it says until a line has `part`; then `act` may end it. All that it said, and its code.
fn until(folder: &Folder, command: &str, part: &str, act: impl FnOnce(&mut Child)) -> (String, Option<i32>) {
    let arguments: Vec<&str> = command.split_whitespace().collect();
    let mut child = folder.command(&arguments).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let (mut said, mut act) = (String::new(), Some(act));
    for line in lines {
        said.push_str(&line);
        said.push('\n');
        if line.contains(part)
            && let Some(act) = act.take()
        {
            act(&mut child);
        }
    }
    assert!(act.is_none(), "`{part}` is not in: {said}");
    (said, child.wait().unwrap().code())
}

/// The parts are in the text, one after the other.
#[track_caller]
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        rest = rest.split_once(part).unwrap_or_else(|| panic!("`{part}` is not where it belongs in: {text}")).1;
    }
}

#[test]
fn a_run_begins_with_what_it_is_going_to_do() {
    let folder = Folder::new();
    let said = folder.hesspec("run tiny.toml --output out --log-dir logs").ok().stderr;
    let parts = [
        "logs of each rank: logs/rank-NNN.jsonl",
        "run `tiny`: gpt2, 1",
        "15 blocks, 174 products H v in ",
        " sweeps of 30 tokens, ",
        "tables: out/TABLE/run=tiny; checkpoints and records: out/_runs/tiny",
        "group 1 of ",
        "transformer.wte.weight#0",
        "the first segment took ",
        "what is to be computed takes about ",
        "group 1 of ",
        " is done, in ",
        "group 2 of ",
    ];
    in_order(&said, &parts);
    assert_eq!(said.matches("the first segment took").count(), 1, "{said}");
}

/// The answer comes at once, a stop that saved is no error, and a second request leaves at once.
#[test]
fn a_stop_is_answered_at_once_and_is_no_error() {
    let folder = Folder::new();
    let long = "--set lanczos.steps=500 --set blocks.include=[\"*.c_fc.weight\"]";
    for (segments, url) in [(5, "five"), (1, "one")] {
        let command = format!("run tiny.toml --output {url} {long} --set batch.segments={segments}");
        let (said, code) = until(&folder, &command, "the first segment took", |child| signal(child, libc::SIGINT));
        assert_eq!(code, Some(75), "{said}");
        let parts = [
            "hesspec: heard; the run stops at the end of the segment",
            "hesspec: stopped by SIGINT",
            "everything is saved",
        ];
        in_order(&said, &parts);
        assert!(!said.contains("hesspec: error"), "{said}");
        let said = folder.hesspec(&format!("{command} --set lanczos.probes=3")).stderr;
        assert!(said.contains("lanczos.probes"), "{said}");
    }
    let command = format!("run tiny.toml --output out {long}");
    let (said, code) = until(&folder, &command, "group 1 of", |child| {
        signal(child, libc::SIGSTOP); // so that both arrive before the end of a segment
        signal(child, libc::SIGINT);
        signal(child, libc::SIGCONT);
        std::thread::sleep(std::time::Duration::from_millis(1));
        signal(child, libc::SIGINT);
    });
    assert!(matches!(code, Some(130 | 75)), "{code:?}: {said}");
}

/// With one segment a sweep, too, a run is saved, and goes on to the same numbers.
#[test]
fn a_run_of_one_segment_is_saved_and_goes_on() {
    let folder = Folder::new();
    let command = "run tiny.toml --output out --set lanczos.steps=60 --set batch.segments=1 --set blocks.full=false";
    let (said, code) = until(&folder, command, "the first segment took", |child| signal(child, libc::SIGTERM));
    assert_eq!(code, Some(75), "{said}");
    let said = folder.hesspec(command).ok().stderr;
    assert!(said.contains("resumed after step ") && said.contains(" and 0 segments"), "{said}");
}

/// A long run tries shapes: each is said before it takes its time, and what it came to.
#[test]
fn shapes_are_said_when_they_are_tried() {
    let folder = Folder::new();
    let text = std::fs::read_to_string(folder.path("tiny.toml")).unwrap();
    folder.write("tiny.toml", text.replace("micro_batch = 2", "").as_bytes());
    let command = "run tiny.toml --output out --set lanczos.steps=60 --set lanczos.probes=20";
    let (said, _) = until(&folder, command, "shape: micro-batches of", |child| child.kill().unwrap());
    in_order(
        &said,
        &[
            "shape: trying micro-batches of 1 samples x 8 slots",
            "at most 0.5 % of the run",
            "GFLOP/s",
            "shape: micro-batches of",
        ],
    );
    // it goes on in the shape that was chosen
    let shape = std::fs::read(folder.path("out/_runs/tiny/shape.json")).unwrap();
    let (said, _) = until(&folder, command, "group 1 of", |child| child.kill().unwrap());
    assert!(!said.contains("trying"), "{said}");
    assert_eq!(std::fs::read(folder.path("out/_runs/tiny/shape.json")).unwrap(), shape);
}

/// The job says how long before its end it asks for a stop (slurm/job.sh): a run whose segments are longer warns.
#[test]
fn a_run_warns_where_it_would_be_asked_to_stop_too_late() {
    let folder = Folder::new();
    let run = |notice: &str, url: &str| {
        let arguments = ["run", "tiny.toml", "--output", url, "--set", "blocks.full=false"];
        let output = folder.command(&arguments).env("HESSPEC_NOTICE", notice).output().unwrap();
        assert!(output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(!run("120", "a").contains("WARNING"));
    let said = run("5", "b");
    assert!(said.contains("WARNING: a segment takes") && said.contains("--signal=B:USR1@30"), "{said}");
}
