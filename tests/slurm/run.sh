#!/usr/bin/env bash
# A real Slurm of two virtual nodes on this machine (slurm_local.sh): worlds agree, and a job that is stopped by its time
# limit comes back through the queue until it is done.
#
#   tests/slurm/run.sh [CONFIG [OPTIONS...]]      default: tests/kills/small.toml on tokens of its own
#
#   1. one process, three ranks of one process, mpirun -np 2, mpirun -np 4, srun on two nodes, two
#      micro-batch sizes: the same spectra
#   2. sbatch slurm/gpt2_nano.sh with a toy model: USR1 ahead of the time limit, requeue, DONE; the tables are those of an
#      uninterrupted srun, bit for bit
#   3. the same from scancel --signal, and a job that is cancelled does not come back
#   4. a second job on the same output is refused while the first lives
#
# WORLDS_ONLY=1 ends after the first; OTHER_MICRO_BATCH is the second size there.
#
# Needs root (installs Slurm if it is missing), a hesspec with MPI (HESSPEC), Python with numpy and pyarrow (PYTHON).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export HESSPEC=${HESSPEC:-$PWD/target/debug/hesspec}
python=${PYTHON:-python3}
export SLURM_LOCAL_DIR=${SLURM_LOCAL_DIR:-/tmp/hesspec_slurm} SLURM_LOCAL_NODES=2 SLURM_LOCAL_CPUS=2 SLURM_LOCAL_GPUS=0
LIMIT=${LIMIT:-600} # seconds after which anything counts as hanging

if [[ ! -x $HESSPEC ]]; then echo "HESSPEC=$HESSPEC is no program; cargo build --features mpi" >&2; exit 1; fi
if ! command -v slurmctld >/dev/null || ! command -v srun >/dev/null; then
    [[ $(id -u) -eq 0 ]] || { echo "Slurm is not installed, and only root can install it" >&2; exit 1; }
    tests/slurm/slurm_local.sh install
fi
folder=$(mktemp -d)
finish() { tests/slurm/slurm_local.sh stop || true; rm -rf "$folder"; }
trap finish EXIT
tests/slurm/slurm_local.sh start
eval "$(tests/slurm/slurm_local.sh env)"

"$python" tests/kills/tokens.py "$folder/train.bin"
tolerance=1e-12
if [[ $# -gt 0 ]]; then arguments=("$@") tolerance=5e-6; else arguments=(tests/kills/small.toml --set "data.tokens.path=$folder/train.bin" --set lanczos.steps=10); fi
export RAYON_NUM_THREADS=1 HESSPEC_SRUN="--mpi=pmix"
# Both virtual nodes are this machine: Open MPI names its shared memory after the host and the rank's number on the node, so
# that ranks of different nodes would share one segment (and crash). And the cores are fewer than the ranks.
export OMPI_MCA_btl=self,tcp OMPI_MCA_mpi_yield_when_idle=1
checks=0 failures=0
ok() { checks=$((checks + 1)); echo "ok    $*"; }
wrong() { checks=$((checks + 1)) failures=$((failures + 1)); echo "FAIL  $1"; shift; for log in "$@"; do sed 's/^/      /' "$log" | tail -n 30; done; }

# agrees NAME URL TOLERANCE: with the one process. Another micro-batch changes f32 products in their last bits, another
# world does not (but for a rare rounding in vectors that are larger than the toy's).
agrees() {
    local said
    if said=$("$python" tests/kills/compare_tables.py "$folder/one" "$2" --steps "$3" --w1 1e-7); then ok "$1: $said"; else wrong "$1: $said"; fi
}
# world NAME TOLERANCE COMMAND...
world() {
    local name=$1 tolerance=$2
    shift 2
    if timeout $LIMIT "$@" --output "$folder/$name" >"$folder/$name.log" 2>&1; then
        [[ $name == one ]] || agrees "$name" "$folder/$name" "$tolerance"
    else
        wrong "$name: code $?" "$folder/$name.log"
    fi
}

mpi=(mpirun --bind-to none --oversubscribe --mca mpi_yield_when_idle 1)
[[ $(id -u) -ne 0 ]] || mpi+=(--allow-run-as-root)
world one 0 "$HESSPEC" run "${arguments[@]}"
world run.ranks-3 $tolerance "$HESSPEC" run "${arguments[@]}" --set run.ranks=3
world mpirun-2 $tolerance "${mpi[@]}" -np 2 "$HESSPEC" run "${arguments[@]}"
world mpirun-4 $tolerance "${mpi[@]}" -np 4 "$HESSPEC" run "${arguments[@]}"
world srun-2-nodes $tolerance srun --mpi=pmix --kill-on-bad-exit=1 -N 2 -n 4 "$HESSPEC" run "${arguments[@]}"
other=${OTHER_MICRO_BATCH:-1}
world "micro-batch-$other" 5e-6 srun --mpi=pmix --kill-on-bad-exit=1 -N 2 -n 4 "$HESSPEC" run "${arguments[@]}" --set "batch.micro_batch=$other"
[[ $(grep -c '' "$folder/srun-2-nodes.log") -gt 0 ]] && ok "two nodes: $(timeout 60 srun -N 2 -n 4 bash -c 'echo $SLURMD_NODENAME' | sort | uniq -c | tr -s ' \n' ' ')"

summary() { echo "$checks checks, $failures failed"; [[ $failures -eq 0 ]]; }
if [[ ${WORLDS_ONLY:-0} == 1 ]]; then summary; exit; fi

# slurm/gpt2_nano.sh with the toy model in place of GPT2-nano
toy=(--set model.gpt2.layers=2 --set model.gpt2.heads=2 --set model.gpt2.embedding=32 --set model.gpt2.mlp=128
    --set model.gpt2.context=32 --set "data.tokens.path=$folder/train.bin" --set batch.tokens=3072 --set batch.segments=4
    --set batch.micro_batch=4 --set hessian.slots=2 --set lanczos.steps=${SLURM_TEST_STEPS:-100} --set lanczos.probes=2
    --set lanczos.full_probes=2 --set distance.grid_points=5000)
nano=(--nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --output="$folder/%x-%j.out" slurm/gpt2_nano.sh "${toy[@]}")
state() { squeue --noheader --jobs "$1" --format %T 2>/dev/null || true; }
# ended ID: Slurm has forgotten it or it is over
ended() {
    local i
    for ((i = 0; i < LIMIT * 2; i++)); do
        case $(state "$1") in "" | COMPLETED | FAILED | CANCELLED | TIMEOUT | NODE_FAIL) return 0 ;; esac
        sleep 0.5
    done
    return 1
}
# computing LOG COUNT: the log tells of so many finished groups
computing() { local i; for ((i = 0; i < LIMIT * 10; i++)); do [[ $(grep -c ' group .* is done' "$1" 2>/dev/null || true) -ge $2 ]] && return 0; sleep 0.1; done; return 1; }
restarts() { grep -c 'back into the queue' "$1" || true; }

# stopped LOG OUTPUT COUNT: the ranks of a job stand still once so many groups are done, so that it cannot be done before
# what is meant to hit it, however fast this machine is just now
ranks=
stopped() {
    computing "$1" "$3" || return 0
    ranks=$(pgrep -f "^$HESSPEC run .*--output $2\$" || true)
    [[ -z $ranks ]] || kill -STOP $ranks
}
# released [LOG COUNT]: they go on, when the job's script has had so many signals
released() {
    local i
    for ((i = 0; $# > 0 && i < 900; i++)); do [[ $(grep -c 'signal, passed on' "$1" || true) -lt $2 ]] || break; sleep 0.1; done
    [[ -z $ranks ]] || kill -CONT $ranks 2>/dev/null || true
}

timeout $LIMIT srun --mpi=pmix --kill-on-bad-exit=1 -N 2 --ntasks-per-node=1 "$HESSPEC" run configs/gpt2_nano_shakespeare.toml "${toy[@]}" --output "$folder/whole" >"$folder/whole.log" 2>&1 || wrong "the uninterrupted run" "$folder/whole.log"

# a. the time limit: one minute is Slurm's shortest; the signal comes up to 30 s before it is asked for
id=$(sbatch --parsable --time=1 --signal="B:USR1@20" "${nano[@]}" --output "$folder/limit")
log=$folder/gpt2_nano-$id.out
stopped "$log" "$folder/limit" 1
released "$log" 1
if ended "$id" && [[ -e $folder/limit/_runs/gpt2_nano_shakespeare/DONE ]] && [[ $(restarts "$log") -gt 0 ]]; then
    ok "time limit: DONE after $(restarts "$log") requeues, $(grep -c 'resumed after step' "$log" || true) groups resumed"
else
    wrong "time limit: state $(state "$id"), $(restarts "$log") requeues" "$log"
fi
if said=$("$python" tests/kills/compare_tables.py "$folder/whole" "$folder/limit"); then ok "time limit: the tables are those of the uninterrupted run"; else wrong "time limit: $said"; fi

# b. scancel --signal to the script, twice; c. meanwhile a second job is refused
id=$(sbatch --parsable "${nano[@]}" --output "$folder/signal")
log=$folder/gpt2_nano-$id.out
stopped "$log" "$folder/signal" 1
code=0
timeout $LIMIT "$HESSPEC" run configs/gpt2_nano_shakespeare.toml "${toy[@]}" --output "$folder/signal" >"$folder/second.log" 2>&1 || code=$?
if [[ $code -eq 5 ]] && grep -q "another job is at work on this run: .*Slurm job $id" "$folder/second.log"; then ok "a second job is refused with 5"; else wrong "a second job: code $code" "$folder/second.log"; fi
scancel --batch --signal=USR1 "$id"
released "$log" 1
for ((i = 0; i < 200; i++)); do [[ $(restarts "$log") -lt 1 ]] || break; sleep 0.1; done
seen=$(grep -c ' group .* is done' "$log")
stopped "$log" "$folder/signal" $((seen + 1))
scancel --batch --signal=USR1 "$id"
released "$log" 2
if ended "$id" && [[ -e $folder/signal/_runs/gpt2_nano_shakespeare/DONE ]]; then
    ok "signals: DONE after $(restarts "$log") requeues, $(grep -c 'resumed after step' "$log" || true) groups resumed"
else
    wrong "signals: state $(state "$id")" "$log"
fi
if said=$("$python" tests/kills/compare_tables.py "$folder/whole" "$folder/signal"); then ok "signals: the tables are those of the uninterrupted run"; else wrong "signals: $said"; fi

# d. a cancelled job stays away
id=$(sbatch --parsable "${nano[@]}" --output "$folder/cancelled")
log=$folder/gpt2_nano-$id.out
stopped "$log" "$folder/cancelled" 1
scancel "$id"
released
ended "$id" || true
sleep 8 # longer than a requeued job waits
if [[ $(state "$id") =~ ^(CANCELLED)?$ && $(restarts "$log") -eq 0 ]]; then ok "cancelled: it does not come back"; else wrong "cancelled: state $(state "$id")" "$log"; fi

summary
