#!/usr/bin/env bash
# GPT-2 (124M) on OpenWebText, one rank a GPU: the paper's setting (configs/gpt2_paper.toml), or any other configuration.
#
# The arithmetic below is of the paper's setting; for any other, and other GPUs and numbers of them:
#   hesspec plan CONFIG --world 64 --device h100
#
# Parameters  124,373,760: 12 layers, 12 heads, 768 wide, vocabulary 50,257, no biases
# Tokens      245,760 a product: 240 windows of 1,024, in 8 segments of 30 windows, which the ranks share (so that 10, 15
#             or 30 ranks divide them evenly, and more than 30 leave ranks idle; batch.tokens and batch.segments change it)
# Products    25 blocks x 100 steps x 10 probes = 25,000, and 100 x 10 = 1,000 with the whole network: 3.4e18 FLOP
# Hours       FLOP / (GPUs x rate x 0.5) / 3600. A100 in f32 without tensor cores, 19.5 TFLOP/s: 96 h on one, 12 h on eight;
#             H100 (67 TFLOP/s): 27 h and 3.3 h. Estimates: an H100 reached 0.53 of its peak. The paper: 7 days on
#             one A100.
# Memory      57 GB over all ranks for one slot of the whole network (100 basis vectors of 0.5 GB), shared out evenly
# Needs       data/openwebtext/train_*.bin (launch/prepare_openwebtext.sh), cargo build --release --features mpi,cuda,nccl;
#             site: slurm/env.sh
#
#   sbatch slurm/gpt2_spectrum.sh                                    from the repository's folder
#   sbatch --nodes=8 slurm/gpt2_spectrum.sh configs/gpt2_owt_full.toml
#   sbatch --nodes=4 slurm/gpt2_spectrum.sh                          any number of nodes, nothing else changes
#   sbatch slurm/gpt2_spectrum.sh --set batch.tokens=491520          options go to `hesspec run`
#   CHECKPOINTS=list.txt sbatch --array=0-7 slurm/gpt2_spectrum.sh   one checkpoint (safetensors) a line and array task
#
# On CPU nodes: HESSPEC_BACKEND=flex sbatch --gpus-per-task=0 --cpus-per-task=16 slurm/gpt2_spectrum.sh
#
# Stopped 300 s before its time limit it saves, and comes back through the queue until its tables are complete. A stop waits
# for the end of a segment: `hesspec plan` says how long one takes and the --signal it needs, and the run warns at its start if
# these 300 s are too few. Then raise batch.segments, or sbatch --signal=B:USR1@600 with HESSPEC_NOTICE=600.
#SBATCH --job-name=gpt2_spectrum
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@300
#SBATCH --requeue
#SBATCH --output=%x-%j.out
#SBATCH --open-mode=append
set -euo pipefail
[[ ${1:-} != -h && ${1:-} != --help ]] || { sed -n '2,/^[^#]/{/^#SBATCH/d;/^#/p}' "$0" | cut -c3-; exit; }
cd "${SLURM_SUBMIT_DIR:?start this with sbatch, from the folder of the repository}"
source slurm/env.sh
source slurm/job.sh

config=configs/gpt2_paper.toml
if [[ ${1:-} == *.toml ]]; then
    config=$1
    shift
fi
[[ -f $config ]] || { say "there is no configuration $config under $PWD" >&2; exit 2; }

weights=$(array_line "${CHECKPOINTS:-/dev/null}")
checkpoint=()
if [[ -n $weights ]]; then
    name=$(basename "$config" .toml)-$(basename "$weights" .safetensors)
    checkpoint=(--set "model.gpt2.weights=$weights" --set "run.name=$name")
fi
run_hesspec run "$config" --set "hessian.backend=${HESSPEC_BACKEND:-cuda}" "${checkpoint[@]}" "$@"
