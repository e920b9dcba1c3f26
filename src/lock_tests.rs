use std::process::{Command, Stdio};
use std::sync::Mutex;

use super::*;

fn owner() -> Owner {
    Owner::this_process()
}

fn quiet(_: &str) {}

#[test]
fn a_second_job_is_refused_while_the_first_lives_and_let_in_afterwards() {
    let url = "memory://lock-second";
    let first = Lock::acquire(url, "r", &quiet).unwrap();
    let begin = Instant::now();
    let error = Lock::acquire(url, "r", &quiet).err().unwrap();
    assert!(begin.elapsed() >= PATIENCE);
    assert_eq!(error.exit_code(), 5);
    let text = error.to_string();
    for part in [&format!("process {}", std::process::id()), &host_name(), "memory://lock-second/_runs/r/LOCK", "sure"]
    {
        assert!(text.contains(part), "`{part}` is not in: {text}");
    }
    assert!(Lock::acquire(url, "another", &quiet).is_ok(), "another run is another lock");
    drop(first);
    assert!(Lock::acquire(url, "r", &quiet).is_ok());
    let location = Location::open(url, Access::Write).unwrap();
    assert!(location.list("_runs").unwrap().is_empty(), "nothing is left behind");
}

/// A child that has been killed and not yet waited for is a zombie, then nothing: both are gone.
#[test]
fn the_lock_of_a_process_that_is_gone_is_taken_over() {
    let url = "memory://lock-gone";
    let location = Location::open(url, Access::Write).unwrap();
    let mut child = Command::new("sleep").arg("60").stdout(Stdio::null()).spawn().unwrap();
    let held = Owner { pid: child.id(), process_start: process_start(child.id()), ..owner() };
    assert!(is_alive(&held) && held.process_start.is_some());
    assert_eq!(judge(&held, &owner(), is_alive, now()), State::Held);
    location.put("_runs/r/LOCK", held.json().unwrap()).unwrap();
    child.kill().unwrap();
    let said = Mutex::new(String::new());
    let lock = Lock::acquire(url, "r", &|line| said.lock().unwrap().push_str(line)).unwrap();
    child.wait().unwrap();
    assert!(!is_alive(&held));
    assert!(said.lock().unwrap().contains(&format!("took over the lock of process {}", child.id())));
    let names: Vec<String> = location.list("_runs").unwrap().into_keys().collect();
    assert_eq!(names, ["_runs/r/LOCK"], "the marker is gone");
    drop(lock);
}

/// The number is in use again, by a process that started at another time.
#[test]
fn a_process_number_that_is_used_again_is_another_process() {
    let mine = owner();
    let held = Owner { process_start: mine.process_start.map(|start| start - 1), ..mine.clone() };
    assert!(is_alive(&mine) && !is_alive(&held));
}

#[test]
fn a_requeued_slurm_job_takes_over_from_itself_but_not_from_a_step_beside_it() {
    let job = |restarts, machine: &str| Owner {
        slurm_job: Some("17".into()),
        slurm_restarts: restarts,
        machine: machine.into(),
        ..owner()
    };
    let alive = |_: &Owner| true;
    let at = now();
    assert!(matches!(judge(&job(0, "a"), &job(1, "b"), alive, at), State::Gone(_)));
    assert!(matches!(judge(&job(1, "a"), &job(1, "b"), alive, at), State::Elsewhere(_)));
    assert_eq!(judge(&job(1, "a"), &job(1, "a"), alive, at), State::Held);
    let other = Owner { slurm_job: Some("18".into()), ..job(0, "a") };
    assert!(matches!(judge(&other, &job(1, "b"), alive, at), State::Elsewhere(_)));
}

#[test]
fn a_lock_of_another_machine_is_refused_at_once_and_an_old_one_is_called_stale() {
    let url = "memory://lock-elsewhere";
    let location = Location::open(url, Access::Write).unwrap();
    for (age, words) in [(0, " s ago"), (STALE_SECONDS + 65, "for 11 minutes, so that the lock is probably stale")] {
        let held = Owner { host: "node7".into(), machine: "node7".into(), refreshed: now() - age, ..owner() };
        location.put("_runs/r/LOCK", held.json().unwrap()).unwrap();
        let begin = Instant::now();
        let text = Lock::acquire(url, "r", &quiet).err().unwrap().to_string();
        assert!(begin.elapsed() < PATIENCE / 2);
        assert!(text.contains(words) && text.contains("on node7") && text.contains("delete the object"), "{text}");
    }
    location.put("_runs/r/LOCK", "{}").unwrap();
    let text = Lock::acquire(url, "r", &quiet).err().unwrap().to_string();
    assert!(text.contains("no lock of this program"), "{text}");
}

/// Eight jobs find the lock of one that is gone: one gets it, and only when that one leaves the next.
#[test]
fn of_many_that_find_a_lock_left_behind_one_takes_it() {
    let url = "memory://lock-race";
    let location = Location::open(url, Access::Write).unwrap();
    let held = Owner { process_start: Some(1), ..owner() };
    let (inside, most, taken) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    location.put("_runs/r/LOCK", held.json().unwrap()).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let log = |_: &str| {
                    taken.fetch_add(1, Ordering::SeqCst);
                };
                let lock = Lock::acquire(url, "r", &log).unwrap();
                most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                sleep(Duration::from_millis(30));
                inside.fetch_sub(1, Ordering::SeqCst);
                drop(lock);
            });
        }
    });
    assert_eq!((most.into_inner(), taken.into_inner()), (1, 1));
}

#[test]
fn a_lock_is_refreshed_and_its_loss_is_noticed() {
    let url = "memory://lock-refresh";
    let location = Location::open(url, Access::Write).unwrap();
    let (path, lost) = ("_runs/r/LOCK", AtomicBool::new(false));
    let mine = Owner { refreshed: 0, ..owner() };
    location.put(path, mine.json().unwrap()).unwrap();
    let (stop, stopped) = channel();
    std::thread::scope(|scope| {
        let (owner, location, lost) = (mine.clone(), &location, &lost);
        scope.spawn(move || refresh_until(&stopped, Duration::from_millis(10), location, path, owner, lost));
        let begin = Instant::now();
        while read(location, path).unwrap().unwrap().refreshed == 0 {
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        assert!(!lost.load(Ordering::Relaxed));
        let theirs = owner_json();
        location.put(path, theirs.clone()).unwrap();
        while !lost.load(Ordering::Relaxed) {
            // a refresh under way may still have replaced it: the window is one read and one write wide
            location.put(path, theirs.clone()).unwrap();
            assert!(begin.elapsed() < Duration::from_secs(20));
        }
        drop(stop);
    });
}

fn owner_json() -> String {
    owner().json().unwrap()
}

#[test]
fn the_start_of_a_process_is_found_behind_any_name() {
    let stat = |name: &str, state: &str| {
        let numbers: Vec<String> = (4..=52).map(|field| (100 * field).to_string()).collect();
        format!("77 ({name}) {state} {}", numbers.join(" "))
    };
    assert_eq!(parse_start(&stat("hesspec", "R")), Some(2200));
    assert_eq!(parse_start(&stat("a) S 1 (b", "S")), Some(2200));
    assert_eq!(parse_start(&stat("hesspec", "Z")), None);
    assert_eq!(parse_start("77 (cut"), None);
}
