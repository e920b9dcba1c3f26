use super::*;

const GB: f64 = 1e9;

/// A made-up root folder: files by path.
fn root(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let machine = [("proc/meminfo", "MemTotal:       64000000 kB\nMemFree: 1 kB\nMemAvailable:   19000000 kB\n")];
    for (path, text) in machine.iter().chain(files) {
        let path = folder.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn limits(files: &[(&str, &str)]) -> Limits {
    Limits::under(root(files).path()).unwrap()
}

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1.0, "{found}, expected {expected}");
}

const MOUNT_1: &str = "33 24 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:14 - cgroup cgroup rw,memory\n";
const MOUNT_2: &str = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";
const HYBRID_2: &str = "31 24 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n";

#[test]
fn without_control_groups_the_machine_is_all_there_is() {
    let found = limits(&[]);
    close(found.of_rank(1, 1), 19e6 * 1024.0);
    close(found.of_rank(4, 1), 19e6 * 256.0);
    assert_eq!(found.tightest().unwrap().what, "the machine");
    assert!(Limits::under(tempfile::tempdir().unwrap().path()).is_err());
}

/// Slurm's job of 2 GB, of which other steps have half a gigabyte in use.
#[test]
fn a_job_of_version_1_counts_with_all_around_it() {
    let job = "sys/fs/cgroup/memory/slurm/uid_7/job_3";
    let files = [
        ("proc/self/mountinfo", MOUNT_1),
        (
            "proc/self/cgroup",
            "5:cpu,cpuacct:/slurm\n4:memory:/slurm/uid_7/job_3/step_0/task_0\n1:name=systemd:/x\n0::/x\n",
        ),
        (&format!("{job}/step_0/task_0/memory.limit_in_bytes"), "9223372036854771712\n"),
        (&format!("{job}/step_0/memory.limit_in_bytes"), "2000000000\n"),
        (&format!("{job}/step_0/memory.usage_in_bytes"), "100000000\n"),
        (&format!("{job}/memory.limit_in_bytes"), "2000000000\n"),
        (&format!("{job}/memory.usage_in_bytes"), "800000000\n"),
        (&format!("{job}/memory.stat"), "inactive_file 1\ntotal_inactive_file 300000000\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
    ];
    let found = limits(&files);
    close(found.of_rank(1, 1), 1.5 * GB);
    assert_eq!(found.tightest().unwrap().what, "control group /slurm/uid_7/job_3");
    assert!(found.tightest().unwrap().to_string().starts_with("1.50 GB free of 2.00 GB"), "{found:?}");
}

#[test]
fn a_parents_limit_of_version_2_holds_for_its_children() {
    let files = |high: &'static str| {
        [
            ("proc/self/mountinfo", MOUNT_2),
            ("proc/self/cgroup", "0::/system.slice/job_1/step_0/user\n"),
            ("sys/fs/cgroup/system.slice/job_1/step_0/user/memory.max", "max\n"),
            ("sys/fs/cgroup/system.slice/job_1/memory.max", "200000000\n"),
            ("sys/fs/cgroup/system.slice/job_1/memory.high", high),
            ("sys/fs/cgroup/system.slice/job_1/memory.current", "50000000\n"),
            ("sys/fs/cgroup/system.slice/job_1/memory.stat", "anon 3\ninactive_file 10000000\n"),
            ("sys/fs/cgroup/system.slice/memory.max", "max\n"),
        ]
    };
    close(limits(&files("max\n")).of_rank(1, 1), 0.16 * GB);
    close(limits(&files("max\n")).of_rank(2, 1), 0.08 * GB);
    close(limits(&files("100000000\n")).of_rank(1, 1), 0.06 * GB);
}

/// Memory under version 1, the rest under version 2.
#[test]
fn a_hybrid_machine_has_both() {
    let mounts = format!("{HYBRID_2}{MOUNT_1}");
    let files = [
        ("proc/self/mountinfo", mounts.as_str()),
        ("proc/self/cgroup", "7:memory:/job\n0::/user.slice\n"),
        ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "3000000000\n"),
        ("sys/fs/cgroup/unified/user.slice/cgroup.procs", "1\n"),
    ];
    close(limits(&files).of_rank(1, 1), 3.0 * GB);
    close(limits(&files[1..]).of_rank(1, 1), 3.0 * GB); // nobody says what is mounted where
}

/// In a container the tree begins at its own group, or its group's name is not to be seen.
#[test]
fn a_container_sees_its_own_group_at_the_top() {
    let bind = "40 1 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup ro,memory\n";
    let files = [
        ("proc/self/mountinfo", bind),
        ("proc/self/cgroup", "4:memory:/docker/abc/inner\n"),
        ("sys/fs/cgroup/memory/memory.limit_in_bytes", "500000000\n"),
        ("sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "400000000\n"),
    ];
    close(limits(&files).of_rank(1, 1), 0.4 * GB);
    for outside in ["4:memory:/docker/other\n", "4:memory:/../x\n", "4:memory:/\n"] {
        let files = [files[0], ("proc/self/cgroup", outside), files[2], files[3]];
        close(limits(&files).of_rank(1, 1), 0.5 * GB);
    }
}

/// `ulimit -v`: for each process by itself, but shared by the ranks of one.
#[test]
fn limits_of_the_process_are_its_own() {
    let files = [
        (
            "proc/self/limits",
            "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max data size             unlimited            unlimited            bytes     \n\
             Max address space         1024000000           unlimited            bytes     \n",
        ),
        ("proc/self/status", "Name:\thesspec\nVmSize:\t  24000 kB\nVmData:\t 12000 kB\n"),
    ];
    let free = 1_024_000_000.0 - 24_576_000.0;
    close(limits(&files).of_rank(1, 1), free);
    close(limits(&files).of_rank(8, 1), free);
    close(limits(&files).of_rank(4, 4), free / 4.0);
    assert_eq!(limits(&files).tightest().unwrap().what, "ulimit -v");
    let data = files[0].1.replacen("unlimited ", "50000000  ", 1);
    close(limits(&[(files[0].0, &data), files[1]]).of_rank(1, 1), 5e7 - 12_288_000.0);
}

/// Whatever this machine is.
#[test]
fn this_process_may_take_something() {
    assert!(Limits::here().unwrap().of_rank(1, 1) > 1e6);
}
