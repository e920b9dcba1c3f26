# Site settings of the Slurm jobs in this folder: the one file to change on a new cluster. The jobs source it on the first
# node; what it exports reaches every rank. Values that are set already, as by `HESSPEC=... sbatch`, are kept.

# Modules, if the site has them; the MPI must be the one that hesspec was built with:
#   module load openmpi/4.1 cuda/12
#   source ~/.cargo/env

# The program. Build it once on a login node: cargo build --release --features mpi (GPUs: mpi,cuda,nccl).
export HESSPEC=${HESSPEC:-$PWD/target/release/hesspec}

# How srun starts MPI ranks here (srun --mpi=list names what there is). Open MPI: pmix; MPICH and Intel MPI: pmi2.
HESSPEC_SRUN=${HESSPEC_SRUN:---mpi=pmix}

# A job that was stopped by its time limit is put back into the queue at most so many times.
HESSPEC_RESTARTS=${HESSPEC_RESTARTS:-100}

# Seconds between the signal and the time limit, if `sbatch --signal=B:USR1@SECONDS` overrides what a job's script says: the ranks
# warn where a segment takes longer.
#   export HESSPEC_NOTICE=600

# Threads of a rank: the cores Slurm gave it.
export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-${SLURM_CPUS_PER_TASK:-1}}

# Sites that route MPI over a certain network:
#   export OMPI_MCA_btl_tcp_if_include=ib0 NCCL_SOCKET_IFNAME=ib0
