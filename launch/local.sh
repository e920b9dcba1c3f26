#!/usr/bin/env bash
# hesspec on all of this machine: mpirun with one rank for each GPU, or for each share of the cores.
#
#   launch/local.sh run configs/quickstart.toml [OPTIONS...]      any command of hesspec; its exit code is passed on
#
# Ranks    with hessian.backend = "cuda": the GPUs that CUDA_VISIBLE_DEVICES lists, or nvidia-smi counts; each rank sees
#          its own only. Otherwise one a NUMA node: threads should not reach across. HESSPEC_RANKS overrides.
# Threads  cores / ranks; RAYON_NUM_THREADS overrides.
# Program  HESSPEC, else target/release/hesspec, which is built with the features that are needed if it is missing.
# Stop     INT (Ctrl-C), TERM, USR1 or USR2: the ranks save and leave with 75, and the same command goes on. A second one
#          leaves at once. (mpirun by itself answers INT with a kill after one second, too short to save.)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/launch/tools.sh"

[[ $# -gt 0 ]] || { usage; exit 2; }

# The arguments or a configuration among them ask for CUDA.
wants_cuda() {
    local argument
    for argument in "$@"; do
        [[ $argument =~ hessian\.backend=\"?cuda ]] && return 0
        [[ $argument == *.toml && -f $argument ]] && grep -Eq '^[[:space:]]*backend[[:space:]]*=[[:space:]]*"cuda"' "$argument" && return 0
    done
    return 1
}

# The GPUs' numbers or names, one a line.
gpus() {
    if [[ -n ${CUDA_VISIBLE_DEVICES:-} ]]; then
        tr ',' '\n' <<<"$CUDA_VISIBLE_DEVICES"
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi -L | sed -n 's/^GPU \([0-9]*\):.*/\1/p'
    fi
}

numa_nodes() { lscpu -p=NODE 2>/dev/null | grep -v '^#' | sort -u | grep -c . || echo 1; }

build() {
    local features=$1
    need_rust
    say "building with the features $features"
    (cd "$root" && cargo build --release --locked --features "$features")
}

cores=$(nproc) devices=() features=mpi
if wants_cuda "$@"; then
    mapfile -t devices < <(gpus)
    [[ ${#devices[@]} -gt 0 ]] || fail "hessian.backend is \"cuda\", but CUDA_VISIBLE_DEVICES and nvidia-smi name no GPU"
    features=mpi,cuda,nccl
    ranks=${HESSPEC_RANKS:-${#devices[@]}}
    [[ $ranks -le ${#devices[@]} ]] || fail "HESSPEC_RANKS=$ranks, but there are ${#devices[@]} GPUs: at most one rank each"
else
    ranks=${HESSPEC_RANKS:-$(numa_nodes)}
fi
[[ $ranks =~ ^[1-9][0-9]*$ ]] || fail "HESSPEC_RANKS=$ranks: expected a number from 1"
threads=$((cores / ranks))
export RAYON_NUM_THREADS=${RAYON_NUM_THREADS:-$((threads > 0 ? threads : 1))}

hesspec=${HESSPEC:-$root/target/release/hesspec}
if [[ ! -x $hesspec ]]; then
    [[ -z ${HESSPEC:-} ]] || fail "HESSPEC=$HESSPEC is no program"
    build "$features"
fi

command=("$hesspec" "$@")
if [[ $ranks -gt 1 ]]; then
    command -v mpirun >/dev/null || fail "mpirun is missing; install openmpi-bin (Debian), or set HESSPEC_RANKS=1"
    launcher=(mpirun --bind-to none --oversubscribe --mca mpi_yield_when_idle 1 -np "$ranks")
    [[ $(id -u) -ne 0 ]] || launcher+=(--allow-run-as-root)
    if [[ ${#devices[@]} -gt 0 ]]; then
        # each rank sees the GPU of its number
        export HESSPEC_DEVICES="${devices[*]}"
        command=(bash -c 'list=($HESSPEC_DEVICES); export CUDA_VISIBLE_DEVICES=${list[$OMPI_COMM_WORLD_LOCAL_RANK]}; exec "$@"' rank "${command[@]}")
    fi
    command=("${launcher[@]}" "${command[@]}")
elif [[ ${#devices[@]} -gt 0 ]]; then
    export CUDA_VISIBLE_DEVICES=${devices[0]}
fi

run_and_pass_on "${command[@]}"
