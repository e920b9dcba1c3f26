#!/usr/bin/env bash
# A network of one's own as a program: examples/own_network, a crate of its own, on the whole machine.
#
#   one process, two ranks of a process, mpirun -np 2     the spectra agree
#   killed with SIGKILL and run again                     the bits of a run that was not
#   errors by line, exit codes, every command             as hesspec has them
#   tables                                                read by DuckDB
#
# PROGRAM  a ready binary instead of building it (with --features mpi where there is an mpirun)
# PYTHON   a Python with duckdb, numpy and pyarrow (default: a virtual environment, as tests/kills)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../launch/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
root=$PWD
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

has_mpi=no
if command -v mpirun >/dev/null && command -v mpicc >/dev/null; then has_mpi=yes; fi
if [[ -z ${PROGRAM:-} ]]; then
    features=()
    [[ $has_mpi == no ]] || features=(--features mpi)
    # in the target folder of this repository, where the dependencies are built already
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$root/target}
    cargo build --locked --manifest-path examples/own_network/Cargo.toml "${features[@]}"
    PROGRAM=$CARGO_TARGET_DIR/debug/own_network
fi
if [[ -n ${PYTHON:-} ]]; then python=$PYTHON; else need_venv duckdb numpy pyarrow; fi
config=$root/examples/own_network/own.toml
cd "$scratch"

failures=0
check() { # check NAME COMMAND...: it succeeds
    local name=$1
    shift
    if "$@" >"$scratch/log" 2>&1; then echo "ok    $name"; else
        failures=$((failures + 1))
        echo "FAIL  $name"
        sed 's/^/      /' "$scratch/log"
    fi
}
refused() { # refused NAME CODE TEXT COMMAND...: it fails with this code and says this
    local name=$1 expected=$2 text=$3 code=0
    shift 3
    "$@" >"$scratch/log" 2>&1 || code=$?
    if [[ $code == "$expected" ]] && grep -qF -- "$text" "$scratch/log"; then echo "ok    $name"; else
        failures=$((failures + 1))
        echo "FAIL  $name: code $code, expected $expected and: $text"
        sed 's/^/      /' "$scratch/log"
    fi
}
own() { "$PROGRAM" "$@"; }
same() { "$python" "$root/tests/kills/compare_tables.py" "$@"; }

check "plan" own plan "$config"
check "check" own check "$config"
check "one process" own run "$config" --output one
check "two ranks of a process" own run "$config" --output two --set run.ranks=2
check "  the same spectrum" same one two --steps 5e-6 --w1 1e-7
if [[ $has_mpi == yes ]]; then
    as_root=()
    [[ $(id -u) != 0 ]] || as_root=(--allow-run-as-root)
    check "mpirun -np 2" mpirun "${as_root[@]}" --oversubscribe -np 2 "$PROGRAM" run "$config" --output mpi
    check "  the same spectrum" same one mpi --steps 5e-6 --w1 1e-7
else
    echo "left out: mpirun -np 2, there is no MPI here"
fi

# as long a run as it takes to be killed inside
long=(--set lanczos.steps=60 --set lanczos.probes=6 --set 'data.sequences.number=512' --set 'checkpoint.every="1s"' --set batch.micro_batch=64 --set hessian.slots=4)
check "a longer run" own run "$config" --output whole "${long[@]}"
"$PROGRAM" run "$config" --output killed "${long[@]}" >"$scratch/log" 2>&1 &
victim=$!
for _ in $(seq 100); do
    sleep 0.1
    [[ ! -d killed/_runs/own/checkpoint ]] || break
done
sleep 0.5
if kill -KILL "$victim" 2>/dev/null; then echo "ok    killed in mid-run"; else
    failures=$((failures + 1))
    echo "FAIL  it ended before it could be killed"
fi
wait "$victim" 2>/dev/null || true
check "the same command goes on" own run "$config" --output killed "${long[@]}"
check "  with the bits of a run that was not killed" same whole killed

training='train = { steps = 30, batch = 16, optimizer = "adamw", learning_rate = 0.01, checkpoints = [1.0] }'
check "training" own train "$config" --output trained --set "$training"
check "  two ranks of a process" own train "$config" --output trained --set run.name=two --set run.ranks=2 --set "$training"
check "bench" own bench "$config" --slots 1 --repeats 1
check "weights export" own weights export "$config" own.safetensors
check "hvp" own hvp "$config" --vectors own.safetensors --out hv.safetensors --loss
check "report" own report one
check "doctor" own doctor
sed 's/^state = 12/stat = 12/' "$config" >wrong.toml
refused "an unknown key, by line" 2 "wrong.toml:10:1: model.recall.stat = 12: unknown key; did you mean \`state\`?" \
    own plan wrong.toml --no-timing
refused "a value that cannot be" 2 "data.sequences.delay = 16: expected less than length = 16" \
    own run "$config" --set data.sequences.delay=16
refused "data that the network does not read" 2 "[model.recall] reads [data.sequences]" \
    own plan "$config" --set 'data={ tokens = { path = "x" } }'
refused "too many sequences" 2 "batch.samples = 300" own run "$config" --output one --set batch.samples=300 --set run.name=other
check "tables in DuckDB" "$python" - one <<'END'
import sys
import duckdb
rows = duckdb.sql(f"""
    SELECT block, trace, lambda_max, status FROM read_parquet('{sys.argv[1]}/summary/*/*.parquet', hive_partitioning = true)
    WHERE run = 'own' ORDER BY block""").fetchall()
assert [row[0] for row in rows] == ["decay", "full", "input.weight", "output.bias", "output.weight"], rows
assert all(row[2] > 0 for row in rows), rows
END

echo "$failures failures"
[[ $failures == 0 ]]
