#!/usr/bin/env bash
# GPT2-nano on Shakespeare's characters, the paper's setting in full (configs/gpt2_nano_shakespeare.toml), on CPU nodes.
#
# Parameters  10,752,384: 6 layers, 6 heads, 384 wide, vocabulary 84
# Tokens      163,840 a product: 640 windows of 256, in 8 segments of 80 windows, which the ranks share
# Products    19 blocks x 100 steps x 10 probes = 19,000, and 100 x 10 = 1,000 with the whole network: 1.3e17 FLOP
# Hours       FLOP / (ranks x cores x rate of a core x 0.5) / 3600, half of sgemm's rate being what is usual here. With
#             75 GFLOP/s a core (AVX2 or AVX-512 in f32): 32 cores 30 h, 4 nodes of 64 cores 4 h.
# Memory      15 GB over all ranks: 100 basis vectors of 43 MB for each slot of the whole network, shared out evenly
# Needs       data/shakespeare/train.bin (launch/prepare_shakespeare.sh), cargo build --release --features mpi; site: slurm/env.sh
#
#   sbatch slurm/gpt2_nano.sh                                        from the repository's folder
#   sbatch --nodes=4 slurm/gpt2_nano.sh                              any number of nodes, nothing else changes
#   sbatch slurm/gpt2_nano.sh --set lanczos.probes=4                 options go to `hesspec run`
#   CHECKPOINTS=list.txt sbatch --array=0-7 slurm/gpt2_nano.sh       one checkpoint (safetensors) a line and array task
#
# Stopped 120 s before its time limit it saves, and comes back through the queue until its tables are complete. A stop waits
# for the end of a segment: `hesspec plan` says how long one takes and the --signal it needs, and the run warns at its start if
# these 120 s are too few. Then raise batch.segments, or sbatch --signal=B:USR1@600 with HESSPEC_NOTICE=600.
#SBATCH --job-name=gpt2_nano
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=4
#SBATCH --time=12:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
set -euo pipefail
[[ ${1:-} != -h && ${1:-} != --help ]] || { sed -n '2,/^[^#]/{/^#SBATCH/d;/^#/p}' "$0" | cut -c3-; exit; }
cd "${SLURM_SUBMIT_DIR:?start this with sbatch, from the folder of the repository}"
source slurm/env.sh
source slurm/job.sh

weights=$(array_line "${CHECKPOINTS:-/dev/null}")
checkpoint=()
if [[ -n $weights ]]; then
    name=gpt2_nano-$(basename "$weights" .safetensors)
    checkpoint=(--set "model.gpt2.weights=$weights" --set "run.name=$name")
fi
run_hesspec run configs/gpt2_nano_shakespeare.toml "${checkpoint[@]}" "$@"
