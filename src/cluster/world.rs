//! Who takes part: rank and size from flags and the launcher's variables, as pure functions of an environment map.
//!
//! Order: explicit flags, Slurm's step (srun), Open MPI (mpirun), PMI (MPICH's mpiexec, srun --mpi=pmi2), RANK and
//! WORLD_SIZE (torchrun's convention, with MASTER_ADDR), else alone. Whoever disagrees is refused: a rank that believes
//! in another world either waits for ever or does the whole job again. The one lawful disagreement is a launcher inside
//! another's step: mpirun in a Slurm job starts its daemons with srun, one a node, so the ranks also inherit the step
//! variables of a daemon; the inner launcher is then right.

use std::collections::BTreeMap;
use std::fmt;

use crate::{Error, Result};

/// Environment variables by name.
pub type Environment = BTreeMap<String, String>;

/// This process's environment (entries that are not UTF-8 are none of ours).
pub fn environment() -> Environment {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect()
}

/// `--rank` and `--world-size` of the command line.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flags {
    /// This process's number, from 0.
    pub rank: Option<usize>,
    /// Number of processes.
    pub size: Option<usize>,
}

/// Who started this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// Nobody: one process.
    Solo,
    /// The command line's flags.
    Flags,
    /// srun.
    Slurm,
    /// Open MPI's mpirun.
    OpenMpi,
    /// A PMI launcher.
    Pmi,
    /// RANK and WORLD_SIZE.
    Variables,
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Launcher::Solo => "one process",
            Launcher::Flags => "--rank and --world-size",
            Launcher::Slurm => "srun (SLURM_PROCID, SLURM_STEP_NUM_TASKS)",
            Launcher::OpenMpi => "mpirun (OMPI_COMM_WORLD_RANK, OMPI_COMM_WORLD_SIZE)",
            Launcher::Pmi => "a PMI launcher (PMI_RANK, PMI_SIZE)",
            Launcher::Variables => "RANK and WORLD_SIZE",
        })
    }
}

/// This process's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct World {
    /// This process's number, from 0.
    pub rank: usize,
    /// Number of processes.
    pub size: usize,
    /// Number among the processes of this machine, from 0; `rank` where the launcher does not say (one machine).
    pub local_rank: usize,
    /// Whose word this is.
    pub launcher: Launcher,
    /// What looks like a mistake but may be meant.
    pub advice: Option<String>,
}

/// Launcher, variables of rank, size, local rank.
const LAUNCHERS: [(Launcher, &str, &str, &str); 4] = [
    (Launcher::Slurm, "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
    (Launcher::OpenMpi, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    (Launcher::Pmi, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    (Launcher::Variables, "RANK", "WORLD_SIZE", "LOCAL_RANK"),
];

/// What one launcher says.
#[derive(Debug, Clone, Copy)]
struct Claim {
    launcher: Launcher,
    rank: usize,
    size: usize,
    local_rank: Option<usize>,
}

/// Finds out who takes part.
///
/// # Errors
/// [`Error::Environment`] for values that are no numbers, half a claim, a rank outside the world, claims that contradict
/// each other, or RANK and WORLD_SIZE without MASTER_ADDR.
pub fn discover(flags: &Flags, environment: &Environment) -> Result<World> {
    let claims: Vec<Claim> =
        LAUNCHERS.iter().filter_map(|launcher| claim(*launcher, environment).transpose()).collect::<Result<_>>()?;
    let claims = without_outer_step(claims);
    if let Some(other) = claims.iter().find(|other| !agree(other, &claims[0])) {
        return Err(contradiction(&claims[0], other));
    }
    let claim = with_flags(flags, claims.first().copied())?;
    if claim.rank >= claim.size {
        return Err(environment_error(format!(
            "{}: rank {} of {} ranks; expected 0 to {}",
            claim.launcher,
            claim.rank,
            claim.size,
            claim.size.saturating_sub(1)
        )));
    }
    Ok(World {
        rank: claim.rank,
        size: claim.size,
        local_rank: claim.local_rank.unwrap_or(claim.rank),
        launcher: claim.launcher,
        advice: advice(&claim, environment),
    })
}

/// Refuses to be one of several processes that a launcher has started: each would do all of `what`.
///
/// # Errors
/// [`Error::Environment`]; those of [`discover`].
pub fn alone(what: &str, environment: &Environment) -> Result<()> {
    let world = discover(&Flags::default(), environment)?;
    if world.size == 1 {
        return Ok(());
    }
    Err(environment_error(format!(
        "{what} works in one process, with all of its threads, but {} started {}: each would do the whole job; start one \
         process, or unset the launcher's variables where the others do something else",
        world.launcher, world.size
    )))
}

fn claim(
    (launcher, rank_key, size_key, local_key): (Launcher, &str, &str, &str),
    environment: &Environment,
) -> Result<Option<Claim>> {
    let (rank, size) = (number(rank_key, environment)?, number(size_key, environment)?);
    let (rank, size) = match (rank, size) {
        (Some(rank), Some(size)) => (rank, size),
        (None, None) => return Ok(None),
        // a batch script has a SLURM_PROCID too (0), but no step: it was not started by srun
        _ if launcher == Launcher::Slurm => return Ok(None),
        (Some(_), None) => return Err(half(rank_key, size_key)),
        (None, Some(_)) => return Err(half(size_key, rank_key)),
    };
    if launcher == Launcher::Variables && size > 1 && !environment.contains_key("MASTER_ADDR") {
        return Err(half("WORLD_SIZE", "MASTER_ADDR"));
    }
    Ok(Some(Claim { launcher, rank, size, local_rank: number(local_key, environment)? }))
}

fn number(key: &str, environment: &Environment) -> Result<Option<usize>> {
    let Some(text) = environment.get(key) else { return Ok(None) };
    let number = text.trim().parse();
    number.map(Some).map_err(|_| environment_error(format!("{key}={text}: expected a whole number; set or unset it")))
}

fn half(found: &str, missing: &str) -> Error {
    environment_error(format!(
        "{found} is set but {missing} is not: start with srun or mpirun, set both, or `unset {found}` to run alone"
    ))
}

/// Drops Slurm's claim where another launcher runs inside the step: mpirun's daemons are at most as many as its ranks,
/// and a step of one task (an interactive shell) holds any launcher.
fn without_outer_step(claims: Vec<Claim>) -> Vec<Claim> {
    let outer = |step: &Claim| {
        let holds = |inner: &Claim| match inner.launcher {
            Launcher::OpenMpi | Launcher::Pmi => step.size <= inner.size,
            _ => step.size == 1,
        };
        step.launcher == Launcher::Slurm
            && claims.len() > 1
            && claims[1..].iter().all(|inner| holds(inner) && !agree(step, inner))
    };
    if claims.first().is_some_and(outer) { claims[1..].to_vec() } else { claims }
}

fn agree(a: &Claim, b: &Claim) -> bool {
    (a.rank, a.size) == (b.rank, b.size)
}

fn contradiction(a: &Claim, b: &Claim) -> Error {
    environment_error(format!(
        "{} says rank {} of {}, but {} says rank {} of {}: start with one launcher only, and unset the variables of the \
         other",
        a.launcher, a.rank, a.size, b.launcher, b.rank, b.size
    ))
}

/// Flags stand alone or confirm the launcher.
fn with_flags(flags: &Flags, claim: Option<Claim>) -> Result<Claim> {
    match (claim, flags.rank, flags.size) {
        (None, None, None | Some(1)) => Ok(Claim { launcher: Launcher::Solo, rank: 0, size: 1, local_rank: None }),
        (None, Some(rank), Some(size)) => Ok(Claim { launcher: Launcher::Flags, rank, size, local_rank: None }),
        (None, Some(_), None) => Err(half("--rank", "--world-size")),
        (None, None, Some(_)) => Err(half("--world-size", "--rank")),
        (Some(claim), rank, size) => {
            let said = Claim {
                launcher: Launcher::Flags,
                rank: rank.unwrap_or(claim.rank),
                size: size.unwrap_or(claim.size),
                local_rank: None,
            };
            if agree(&said, &claim) { Ok(claim) } else { Err(contradiction(&said, &claim)) }
        }
    }
}

fn advice(claim: &Claim, environment: &Environment) -> Option<String> {
    let tasks: usize = environment.get("SLURM_NTASKS")?.parse().ok()?;
    (claim.launcher == Launcher::Solo && tasks > 1).then(|| {
        format!(
            "the Slurm job has {tasks} tasks, but this process was not started by srun and runs alone; \
             for all of them: srun --mpi=pmix hesspec ..."
        )
    })
}

impl World {
    /// The CUDA device of this rank, an ordinal among the *visible* devices: the one of the local rank, or the only one
    /// where the launcher shows each rank its own. `present`: how many the driver counts, if it was asked.
    ///
    /// # Errors
    /// [`Error::Environment`] if there is none, or fewer than ranks on this machine.
    pub fn device(&self, environment: &Environment, present: Option<usize>) -> Result<usize> {
        let variable = environment.get("CUDA_VISIBLE_DEVICES").map(String::as_str);
        let listed = variable.map(num_listed);
        let visible = match (listed, present) {
            (Some(listed), Some(present)) => listed.min(present),
            (Some(count), None) | (None, Some(count)) => count,
            (None, None) => self.local_rank + 1,
        };
        let shown = variable.map_or("CUDA_VISIBLE_DEVICES is not set".into(), |v| format!("CUDA_VISIBLE_DEVICES={v}"));
        match visible {
            0 => Err(environment_error(format!(
                "no CUDA device is visible to rank {} ({shown}); ask for one",
                self.rank
            ))),
            1 if listed == Some(1) => Ok(0),
            count if self.local_rank < count => Ok(self.local_rank),
            count => Err(environment_error(format!(
                "local rank {} (rank {} of {}), but only {count} visible CUDA devices ({shown}): start one rank per device",
                self.local_rank, self.rank, self.size
            ))),
        }
    }
}

/// Devices in a CUDA_VISIBLE_DEVICES list; as in CUDA, the first invalid entry (-1, empty) ends it.
fn num_listed(list: &str) -> usize {
    list.split(',').map(str::trim).take_while(|entry| !entry.is_empty() && !entry.starts_with('-')).count()
}

fn environment_error(message: String) -> Error {
    Error::Environment(message)
}

#[cfg(test)]
#[path = "world_tests.rs"]
mod tests;
