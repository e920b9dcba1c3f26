#!/usr/bin/env bash
# The communicator under a real mpirun: conformance on 1 to 4 ranks, and that no failure leaves a job hanging.
# Needs Open MPI (Debian: libopenmpi-dev openmpi-bin clang libclang-dev). Builds with --features mpi.
#   CARGO    how to build (default: cargo)
#   EXAMPLE  a ready binary instead of building
#   HESSPEC  the program, built with --features mpi: without it, nothing of a run is tried
set -u
cd "$(dirname "$0")/../.."

EXAMPLE=${EXAMPLE:-}
if [ -z "$EXAMPLE" ]; then
    ${CARGO:-cargo} build --features mpi --example cluster_conformance || exit 1
    EXAMPLE=${CARGO_TARGET_DIR:-target}/debug/examples/cluster_conformance
fi
LOG=$(mktemp)
trap 'rm -f "$LOG"' EXIT
MPIRUN=(mpirun --oversubscribe)
[ "$(id -u)" = 0 ] && MPIRUN+=(--allow-run-as-root)
LIMIT=120 # seconds after which a job counts as hanging (timeout's code: 124)

failures=0
checks=0

# verdict NAME EXPECTED_CODE CODE SECONDS MAX_SECONDS: compares, prints, counts
verdict() {
    checks=$((checks + 1))
    local ok=1
    case $2 in nonzero) [ "$3" -ne 0 ] && [ "$3" -ne 124 ] || ok=0 ;; *) [ "$3" -eq "$2" ] || ok=0 ;; esac
    [ "$4" -le "$5" ] || ok=0
    if [ $ok = 1 ]; then
        echo "ok    $1: code $3, $4 s"
    else
        failures=$((failures + 1))
        echo "FAIL  $1: code $3 (expected $2), $4 s (at most $5)"
        sed 's/^/      /' "$LOG"
    fi
}

# job NAME RANKS MODE EXPECTED_CODE MAX_SECONDS
job() {
    local start=$SECONDS code=0
    timeout $LIMIT "${MPIRUN[@]}" -np "$2" "$EXAMPLE" "$3" >"$LOG" 2>&1 || code=$?
    verdict "$1" "$4" "$code" $((SECONDS - start)) "$5"
}

# said NAME PATTERN COUNT: the last job printed PATTERN in COUNT lines
said() {
    checks=$((checks + 1))
    local found
    found=$(grep -cE "$2" "$LOG")
    if [ "$found" -eq "$3" ]; then
        echo "ok    $1: $found lines"
    else
        failures=$((failures + 1))
        echo "FAIL  $1: '$2' in $found lines (expected $3)"
        sed 's/^/      /' "$LOG"
    fi
}

# disturbed NAME MODE SIGNAL VICTIM EXPECTED_CODE: signals rank VICTIM, or mpirun itself, two seconds after all are up
disturbed() {
    timeout $LIMIT "${MPIRUN[@]}" -np 3 "$EXAMPLE" "$2" >"$LOG" 2>&1 &
    local job=$! code=0 start victim
    for _ in $(seq 200); do
        [ "$(grep -c ' pid ' "$LOG")" -eq 3 ] && break
        sleep 0.1
    done
    sleep 1
    # `timeout` has one child: mpirun (a loaded machine may not list it at once)
    for _ in $(seq 50); do
        if [ "$4" = mpirun ]; then victim=$(pgrep -P $job); else victim=$(sed -n "s/^rank $4 pid //p" "$LOG"); fi
        [ -n "$victim" ] && break
        sleep 0.2
    done
    start=$SECONDS
    kill "-$3" "$victim"
    wait $job || code=$?
    verdict "$1" "$5" $code $((SECONDS - start)) 10
}

for ranks in 1 2 3 4; do
    job "conformance on $ranks" $ranks conformance 0 $LIMIT
    said "checks on all $ranks" '^rank [0-9]+ of [0-9]+: [0-9]+ checks$' $ranks
done
job "an error carries its exit code" 3 error 5 10
said "its message has rank and cause" 'rank 2 of 3 on .*: the disk is full' 1
job "a panic ends the job" 3 panic 1 10
said "its message has the rank" 'rank 2 of 3 on .* panicked' 1
job "a panic of another thread ends the job" 3 thread-panic nonzero 10
disturbed "SIGKILL of a rank" wait KILL 1 nonzero
disturbed "SIGKILL of the coordinator" wait KILL 0 nonzero
disturbed "USR1 to one rank: all leave with 75" interrupt USR1 2 75
said "all leave after the same step" 'leaves after step' 3
same=$(sed -n 's/.*leaves after step //p' "$LOG" | sort -u | wc -l)
checks=$((checks + 1))
if [ "$same" -eq 1 ]; then echo "ok    one step for all"; else failures=$((failures + 1)); echo "FAIL  $same different steps"; fi
disturbed "USR1 to mpirun: passed on, 75" interrupt USR1 mpirun 75
disturbed "TERM to one rank: all leave with 75" interrupt TERM 0 75

# the launcher announces another world than MPI has
start=$SECONDS code=0
env RANK=0 WORLD_SIZE=2 MASTER_ADDR=localhost timeout $LIMIT "$EXAMPLE" conformance >"$LOG" 2>&1 || code=$?
verdict "WORLD_SIZE without an MPI launcher" 3 $code $((SECONDS - start)) 10
said "says what MPI sees" 'MPI says rank 0 of 1' 1
start=$SECONDS code=0
env RANK=0 WORLD_SIZE=3 MASTER_ADDR=localhost timeout $LIMIT "${MPIRUN[@]}" -np 2 "$EXAMPLE" conformance >"$LOG" 2>&1 || code=$?
verdict "mpirun against WORLD_SIZE" 3 $code $((SECONDS - start)) 10

# one path, another file on each machine
if [ -n "${HESSPEC:-}" ]; then
    place=$(mktemp -d)
    trap 'rm -rf "$LOG" "$place"' EXIT
    mkdir "$place/a" "$place/b"
    printf 'abcdefgh%.0s' $(seq 64) >"$place/a/train.bin"
    printf 'abcdefgz%.0s' $(seq 64) >"$place/b/train.bin"
    cat >"$place/own.toml" <<'END'
[model.gpt2]
layers = 1
heads = 1
embedding = 4
mlp = 8
context = 8
vocabulary = 65536
[data.tokens]
path = "train.bin"
dtype = "uint16"
[lanczos]
steps = 2
probes = 1
END
    run=("$HESSPEC" run "$place/own.toml" --output "$place/results")
    start=$SECONDS code=0
    timeout $LIMIT "${MPIRUN[@]}" -np 1 -wdir "$place/a" "${run[@]}" : -np 1 -wdir "$place/b" "${run[@]}" >"$LOG" 2>&1 || code=$?
    verdict "ranks that read other files" 2 $code $((SECONDS - start)) $LIMIT
    said "says which rank" 'data of .data.tokens.: rank 1 on .* has others than rank 0' 1

    # a training that two processes share comes to the loss of one
    cat >>"$place/own.toml" <<'END'
[batch]
micro_batch = 2
[train]
steps = 20
batch = 8
optimizer = "adamw"
learning_rate = 0.01
END
    cd "$place/a" || exit 1
    loss() { sed -n 's/^ *"loss": \(.......\).*/\1/p' "$1"; }
    train=("$HESSPEC" train "$place/own.toml" --json --output)
    "${train[@]}" "$place/one" >"$place/one.json" 2>/dev/null
    start=$SECONDS code=0
    timeout $LIMIT "${MPIRUN[@]}" -np 2 "${train[@]}" "$place/two" >"$place/two.json" 2>"$LOG" || code=$?
    verdict "a training on two ranks" 0 $code $((SECONDS - start)) $LIMIT
    checks=$((checks + 1))
    if [ -n "$(loss "$place/one.json")" ] && [ "$(loss "$place/one.json")" = "$(loss "$place/two.json")" ]; then
        echo "ok    its loss is that of one rank"
    else
        failures=$((failures + 1))
        echo "FAIL  loss $(loss "$place/two.json"), of one rank $(loss "$place/one.json")"
    fi
fi

echo "$checks checks, $failures failed"
[ $failures = 0 ]
