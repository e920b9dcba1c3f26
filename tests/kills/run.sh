#!/usr/bin/env bash
# Kills of a distributed run: each time the job ends within 10 s, and the tables afterwards are those of an uninterrupted
# run, bit for bit, with nothing left behind.
#
#   tests/kills/run.sh COUNT SEED [KIND...]       (default: all kinds in turn, at moments drawn from SEED)
#
#   rank          SIGKILL of a rank other than 0                    mpirun   SIGKILL of mpirun
#   coordinator   SIGKILL of rank 0                                 stop     SIGTERM to launch/local.sh: saved, code 75
#   term          SIGTERM to one rank: saved, all leave with 75     full     the output's file system has no room left
#   refuse        the storage refuses: a file where a folder was    until    launch/until_done.sh bears two kills by itself
#
# Needs a hesspec with MPI (HESSPEC) and Python with numpy and pyarrow (PYTHON). `full` mounts a tmpfs (root); elsewhere
# it limits the size of files. RANKS: 2.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[[ $# -ge 2 ]] || { sed -n '2,13p' "${BASH_SOURCE[0]}" | cut -c3-; exit 2; }
count=$1 seed=$2
shift 2
kinds=("$@")
[[ ${#kinds[@]} -gt 0 ]] || kinds=(rank coordinator stop full mpirun refuse term until)

export HESSPEC=${HESSPEC:-$PWD/target/debug/hesspec} HESSPEC_RANKS=${RANKS:-2}
python=${PYTHON:-python3}
LIMIT=120 # seconds after which anything counts as hanging
RANDOM=$seed
folder=$(mktemp -d)
mounted=()
finish() {
    local place
    for place in "${mounted[@]}"; do umount -l "$place" || true; done
    rm -rf "$folder"
}
trap finish EXIT

"$python" tests/kills/tokens.py "$folder/train.bin"
run=(run tests/kills/small.toml --set "data.tokens.path=$folder/train.bin" --output)
now() { date +%s%N; }
milliseconds() { echo $((($(now) - $1) / 1000000)); }

reference=$folder/reference
start=$(now)
timeout $LIMIT launch/local.sh "${run[@]}" "$reference" >"$folder/log" 2>&1 || { cat "$folder/log"; exit 1; }
length=$(milliseconds "$start")
echo "uninterrupted: $HESSPEC_RANKS ranks, $length ms"

# What all ranks find out is said by one of them.
code=0
timeout $LIMIT launch/local.sh "${run[@]}" "$folder/none" --set lanczos.stepss=3 >"$folder/log" 2>&1 || code=$?
if [[ $code -ne 2 || $(grep -c 'unknown key' "$folder/log") -ne 1 ]]; then
    echo "FAIL  a configuration that no rank has: code $code"
    cat "$folder/log"
    exit 1
fi

# The processes of a job: mpirun is the child of local.sh, the ranks those of mpirun.
mpirun_of() { pgrep -P "$1" -x mpirun || true; }
rank_of() { # MPIRUN RANK
    local pid
    for pid in $(pgrep -P "$1" || true); do
        if tr '\0' '\n' 2>/dev/null <"/proc/$pid/environ" | grep -qx "OMPI_COMM_WORLD_RANK=$2"; then echo "$pid"; return; fi
    done
}
alive() { [[ -r /proc/$1/stat && $(sed 's/.*) //; s/ .*//' "/proc/$1/stat" 2>/dev/null) != Z ]]; }

# wait_for SECONDS CONDITION...
wait_for() {
    local limit=$(($1 * 20)) i
    shift
    for ((i = 0; i < limit; i++)); do
        "$@" && return 0
        sleep 0.05
    done
    return 1
}
is_up() { # LOCAL: all ranks have started to compute
    launcher=$(mpirun_of "$1")
    [[ -n $launcher ]] && [[ $(pgrep -c -P "$launcher" || true) -eq $HESSPEC_RANKS ]] && grep -q 'error of a product' "$log"
}
all_gone() { local pid; for pid in "$@"; do ! alive "$pid" || return 1; done; }

# Room for half of what the reference took, and its opposite.
small_disk() {
    local kib=$(($(du -sk "$reference" | cut -f1) / 2))
    mkdir -p "$1"
    if mount -t tmpfs -o "size=${kib}k" none "$1" 2>/dev/null; then mounted+=("$1"); else ulimit -S -f 8; fi
}
larger_disk() { mount -o remount,size=1g "$1" 2>/dev/null || ulimit -S -f unlimited; }

# A file where the checkpoints and the next group's tables go.
refuse_storage() {
    mv "$1/_runs/small/checkpoint" "$1/moved" 2>/dev/null || true
    : >"$1/_runs/small/checkpoint"
    mv "$1/tridiagonal" "$1/moved-tridiagonal" 2>/dev/null || true
    : >"$1/tridiagonal"
}
accept_storage() {
    rm -rf "$1/_runs/small/checkpoint" "$1/tridiagonal"
    [[ ! -e $1/moved ]] || mv "$1/moved" "$1/_runs/small/checkpoint"
    [[ ! -e $1/moved-tridiagonal ]] || mv "$1/moved-tridiagonal" "$1/tridiagonal"
}

# Which processes, how, and the code that local.sh has to end with.
disturb() { # KIND URL LOCAL
    local victim
    case $1 in
    rank) expected=nonzero victim=$(rank_of "$launcher" $((1 + RANDOM % (HESSPEC_RANKS - 1)))) ;;
    coordinator | until) expected=nonzero victim=$(rank_of "$launcher" 0) ;;
    mpirun) expected=137 victim=$launcher ;;
    stop) expected=75 victim=$3 ;;
    term) expected=75 victim=$(rank_of "$launcher" $((RANDOM % HESSPEC_RANKS))) ;;
    full) expected=5 victim= ;;
    refuse) expected=5 victim= && refuse_storage "$2" ;;
    esac
    [[ -z $victim ]] && return
    case $1 in stop | term) kill -TERM "$victim" ;; *) kill -KILL "$victim" ;; esac 2>/dev/null || true
}

kills=0 late=0 failures=0 sweeps=0 slowest=0 resumed=0
declare -A counts
wrong() { failures=$((failures + 1)); echo "FAIL  $*"; sed 's/^/      /' "$log" | tail -n 40; }

one() { # KIND
    local kind=$1 url=$folder/run-$kills-$late code=0 begun took ranks delay
    log=$folder/log-$kills-$late
    delay=$((length * (5 + RANDOM % 90) / 100))
    [[ $kind == full ]] && small_disk "$url"
    timeout $LIMIT launch/local.sh "${run[@]}" "$url" >"$log" 2>&1 &
    local outer=$!
    [[ $kind == full ]] && [[ ${#mounted[@]} -eq 0 ]] && ulimit -S -f unlimited
    wait_for 30 pgrep -P "$outer" >/dev/null || true
    local inner
    inner=$(pgrep -P "$outer" || true) # `timeout` has one child: local.sh
    begun=$(now)
    if [[ $kind == full ]]; then
        wait_for $LIMIT grep -q 'No space left\|File too large' "$log" || true
        begun=$(now)
        ranks=$inner
        expected=5
    else
        wait_for 60 is_up "$inner" || true
        sleep "$((delay / 1000)).$(printf %03d $((delay % 1000)))"
        ranks=$(pgrep -P "${launcher:-0}" || true)
        begun=$(now)
        disturb "$kind" "$url" "$inner"
    fi
    wait "$outer" || code=$?
    wait_for 15 all_gone $ranks || true
    took=$(milliseconds "$begun")
    if [[ $code -eq 0 && $kind != full ]]; then
        late=$((late + 1)) # it was over before
        [[ $kind != refuse ]] || { rm -rf "$url"; return 1; }
        return 1
    fi
    [[ $took -le 10000 ]] || wrong "$kind: the job took $took ms to end"
    [[ $took -le $slowest ]] || slowest=$took
    case $expected in nonzero) [[ $code -ne 124 ]] || wrong "$kind: hangs" ;; *) [[ $code -eq $expected ]] || wrong "$kind: code $code, not $expected" ;; esac
    [[ $kind == full ]] && larger_disk "$url"
    [[ $kind == refuse ]] && accept_storage "$url"
    again "$kind" "$url"
    kills=$((kills + 1)) counts[$kind]=$((${counts[$kind]:-0} + 1))
    echo "ok    $kind after $delay ms: code $code in $took ms; $(grep -c 'resumed after step' "$log" || true) groups resumed"
    if grep -q 'resumed after step' "$log"; then resumed=$((resumed + 1)); fi
    if grep 'resumed after step' "$log" | grep -qv ' and 0 segments'; then sweeps=$((sweeps + 1)); fi
}

# To the end, and compared.
again() { # KIND URL
    local code=0
    timeout $LIMIT launch/until_done.sh launch/local.sh "${run[@]}" "$2" >>"$log" 2>&1 || code=$?
    [[ $code -eq 0 ]] || wrong "$1: until_done.sh ended with $code"
    "$python" tests/kills/compare_tables.py "$reference" "$2" >>"$log" 2>&1 || wrong "$1: other tables than the uninterrupted run's"
}

# until_done.sh is told nothing: a rank is killed, then one is told to stop, and it goes on by itself.
until_done() {
    local url=$folder/run-$kills-$late code=0 outer inner kind
    log=$folder/log-$kills-$late
    timeout $((2 * LIMIT)) launch/until_done.sh launch/local.sh "${run[@]}" "$url" >"$log" 2>&1 &
    outer=$!
    wait_for 30 pgrep -P "$outer" >/dev/null || true
    for kind in rank term; do
        wait_for 60 is_next "$outer" || true
        sleep "0.$((RANDOM % 9))"
        disturb $kind "$url" 0
        wait_for 15 all_gone "$launcher" || true
    done
    wait "$outer" || code=$?
    [[ $code -eq 0 ]] || wrong "until: code $code"
    grep -q 'until_done: run 1 was killed' "$log" && grep -q 'until_done: run 2 was interrupted' "$log" || { late=$((late + 1)); return 1; }
    "$python" tests/kills/compare_tables.py "$reference" "$url" >>"$log" 2>&1 || wrong "until: other tables than the uninterrupted run's"
    kills=$((kills + 1)) counts[until]=$((${counts[until]:-0} + 1))
    echo "ok    until: a killed and a stopped run, then code 0"
}
is_next() { # OUTER: timeout > until_done.sh > local.sh > mpirun
    local script
    script=$(pgrep -P "$(pgrep -P "$1" | head -n 1)" -f local.sh | head -n 1 || true)
    [[ -n $script ]] && is_up "$script" && [[ $launcher != "${last:-}" ]] && last=$launcher
}

while [[ $kills -lt $count ]]; do
    kind=${kinds[$((kills % ${#kinds[@]}))]}
    if [[ $kind == until ]]; then until_done || true; else one "$kind" || true; fi
    [[ $late -le $((count + 10)) ]] || { echo "too many runs were over before they were killed"; exit 1; }
done
summary=""
for kind in "${!counts[@]}"; do summary+=" $kind ${counts[$kind]},"; done
echo "$kills kills (${summary# }) seed $seed: $failures failures; slowest end $slowest ms; $resumed continued from a checkpoint, $sweeps of them inside a sweep; $late came too late and do not count"
[[ $failures -eq 0 ]]
