//! Environments as the launchers make them, and the ways to get them wrong.

use super::*;

/// "A=1 B=2" as a map.
fn map(text: &str) -> Environment {
    text.split_whitespace().map(|pair| pair.split_once('=').unwrap()).map(|(k, v)| (k.into(), v.into())).collect()
}

fn found(environment: &str) -> World {
    discover(&Flags::default(), &map(environment)).unwrap()
}

fn place(world: &World) -> (usize, usize, usize, Launcher) {
    (world.rank, world.size, world.local_rank, world.launcher)
}

fn refused(flags: Flags, environment: &str, words: &[&str]) {
    let error = discover(&flags, &map(environment)).unwrap_err();
    assert_eq!(error.exit_code(), 3);
    for word in words {
        assert!(error.to_string().contains(word), "`{word}` is not in: {error}");
    }
}

const SRUN: &str = "SLURM_JOB_ID=7 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=5 SLURM_LOCALID=1";
const MPIRUN: &str = "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=0";
const TORCHRUN: &str = "RANK=3 WORLD_SIZE=4 LOCAL_RANK=1 MASTER_ADDR=node0 MASTER_PORT=1234";

#[test]
fn every_launcher_is_understood() {
    assert_eq!(place(&found("PATH=/bin")), (0, 1, 0, Launcher::Solo));
    assert_eq!(place(&found(SRUN)), (5, 8, 1, Launcher::Slurm));
    assert_eq!(place(&found(MPIRUN)), (2, 4, 0, Launcher::OpenMpi));
    assert_eq!(place(&found("PMI_RANK=1 PMI_SIZE=2 MPI_LOCALRANKID=1")), (1, 2, 1, Launcher::Pmi));
    assert_eq!(place(&found("PMI_RANK=1 PMI_SIZE=2")), (1, 2, 1, Launcher::Pmi));
    assert_eq!(place(&found(TORCHRUN)), (3, 4, 1, Launcher::Variables));
    assert_eq!(place(&found("RANK=0 WORLD_SIZE=1")), (0, 1, 0, Launcher::Variables));
}

#[test]
fn flags_stand_alone_or_confirm() {
    let flags = |rank, size| Flags { rank, size };
    let world = |flags, text: &str| discover(&flags, &map(text)).map(|world| place(&world)).unwrap();
    assert_eq!(world(flags(Some(1), Some(2)), ""), (1, 2, 1, Launcher::Flags));
    assert_eq!(world(flags(None, Some(1)), ""), (0, 1, 0, Launcher::Solo));
    assert_eq!(world(flags(None, Some(4)), MPIRUN), (2, 4, 0, Launcher::OpenMpi));
    assert_eq!(world(flags(Some(2), None), MPIRUN), (2, 4, 0, Launcher::OpenMpi));
    refused(flags(None, Some(2)), MPIRUN, &["--world-size", "rank 2 of 2", "mpirun", "rank 2 of 4"]);
    refused(flags(Some(0), None), MPIRUN, &["rank 0 of 4", "rank 2 of 4"]);
    refused(flags(Some(1), None), "", &["--rank is set", "--world-size is not"]);
    refused(flags(None, Some(2)), "", &["--world-size is set", "--rank is not"]);
    refused(flags(Some(2), Some(2)), "", &["rank 2 of 2", "expected 0 to 1"]);
    refused(flags(Some(0), Some(0)), "", &["rank 0 of 0"]);
}

#[test]
fn a_launcher_inside_a_slurm_step_is_right() {
    // the batch script itself, mpirun on its node: no step
    let batch = "SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0 ";
    assert_eq!(place(&found(&format!("{batch}{MPIRUN}"))), (2, 4, 0, Launcher::OpenMpi));
    // mpirun on two nodes: ranks inherit the step of the daemon on the second node
    let daemon = "SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NTASKS=4 ";
    assert_eq!(place(&found(&format!("{daemon}{MPIRUN}"))), (2, 4, 0, Launcher::OpenMpi));
    assert_eq!(place(&found(&format!("{daemon}{TORCHRUN}"))), (3, 4, 1, Launcher::Variables));
    // the same as a real two-node job had it: the fourth rank, on the second of two daemons
    let fourth = "OMPI_COMM_WORLD_RANK=3 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_RANK=0 SLURM_STEP_NUM_TASKS=2 \
                  SLURM_PROCID=1 SLURM_LOCALID=0 SLURM_NTASKS=2 SLURM_JOB_ID=4 PMIX_RANK=3";
    assert_eq!(place(&found(fourth)), (3, 4, 0, Launcher::OpenMpi));
    // srun --mpi=pmi2 says the same twice
    assert_eq!(place(&found(&format!("{SRUN} PMI_RANK=5 PMI_SIZE=8"))), (5, 8, 1, Launcher::Slurm));
    // srun -n 8 mpirun -np 4: eight jobs at once
    refused(Flags::default(), &format!("{SRUN} {MPIRUN}"), &["srun", "rank 5 of 8", "mpirun", "rank 2 of 4"]);
    refused(Flags::default(), &format!("{SRUN} {TORCHRUN}"), &["srun", "RANK and WORLD_SIZE", "unset"]);
}

#[test]
fn contradictions_and_halves_are_refused() {
    let none = Flags::default();
    refused(none, &format!("{MPIRUN} PMI_RANK=1 PMI_SIZE=4"), &["mpirun", "PMI", "rank 1 of 4"]);
    refused(none, &format!("{MPIRUN} {TORCHRUN}"), &["rank 2 of 4", "rank 3 of 4"]);
    refused(none, "RANK=1", &["RANK is set", "WORLD_SIZE is not", "unset RANK"]);
    refused(none, "WORLD_SIZE=2", &["WORLD_SIZE is set", "RANK is not"]);
    refused(none, "RANK=1 WORLD_SIZE=2", &["MASTER_ADDR"]);
    refused(none, "OMPI_COMM_WORLD_RANK=1", &["OMPI_COMM_WORLD_SIZE is not"]);
    refused(none, "PMI_RANK=4 PMI_SIZE=4", &["rank 4 of 4", "expected 0 to 3"]);
    refused(none, "PMI_RANK=one PMI_SIZE=4", &["PMI_RANK=one", "whole number"]);
    refused(none, "PMI_RANK=-1 PMI_SIZE=4", &["PMI_RANK=-1"]);
}

#[test]
fn a_batch_script_without_srun_gets_advice() {
    let world = found("SLURM_JOB_ID=7 SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_LOCALID=0");
    assert_eq!(place(&world), (0, 1, 0, Launcher::Solo));
    assert!(world.advice.unwrap().contains("srun --mpi=pmix"));
    assert_eq!(found(SRUN).advice, None);
    assert_eq!(found("SLURM_JOB_ID=7 SLURM_NTASKS=1").advice, None);
    assert_eq!(found("").advice, None);
}

#[test]
fn devices_follow_the_local_rank_among_the_visible() {
    let world = |local_rank| World { rank: 9, size: 16, local_rank, launcher: Launcher::Slurm, advice: None };
    let device = |local, text: &str, present| world(local).device(&map(text), present);
    assert_eq!(device(3, "", Some(8)).unwrap(), 3);
    assert_eq!(device(3, "", None).unwrap(), 3);
    assert_eq!(device(1, "CUDA_VISIBLE_DEVICES=6,7", Some(2)).unwrap(), 1);
    assert_eq!(device(1, "CUDA_VISIBLE_DEVICES=GPU-5ab,GPU-77c", None).unwrap(), 1);
    // --gpus-per-task=1 with binding: every rank sees its own device as 0
    assert_eq!(device(3, "CUDA_VISIBLE_DEVICES=5", Some(1)).unwrap(), 0);
    for (local, text, present, word) in [
        (2, "CUDA_VISIBLE_DEVICES=6,7", Some(2), "only 2 visible"),
        (1, "", Some(1), "only 1 visible"),
        (2, "CUDA_VISIBLE_DEVICES=0,1,-1,3", None, "only 2 visible"),
        (0, "CUDA_VISIBLE_DEVICES=", Some(0), "no CUDA device"),
        (0, "CUDA_VISIBLE_DEVICES=-1", None, "no CUDA device"),
        (0, "", Some(0), "no CUDA device"),
    ] {
        let error = device(local, text, present).unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains(word), "{error}");
    }
}
