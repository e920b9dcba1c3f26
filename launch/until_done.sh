#!/usr/bin/env bash
# Runs a command again for as long as it ends with 75 (interrupted, saved), and a few times after a crash.
#
#   launch/until_done.sh configs/quickstart.toml [OPTIONS...]     the same as: launch/local.sh run CONFIG OPTIONS...
#   launch/until_done.sh COMMAND [ARGUMENTS...]                   any other command
#
# 0 is done; any other code ends it too, and is its own: a wrong configuration or a full disk does not get better by
# itself. A crash is a death by a signal (128 and above): HESSPEC_CRASHES (default 3) of them in a row are borne.
# INT, TERM, USR1 and USR2 stop the command and this script.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/launch/tools.sh"

[[ $# -gt 0 ]] || { usage; exit 2; }
[[ $1 != *.toml ]] || set -- "$root/launch/local.sh" run "$@"

most=${HESSPEC_CRASHES:-3} crashes=0 runs=0
while true; do
    runs=$((runs + 1)) code=0
    run_and_pass_on "$@" || code=$?
    [[ $stopped == no ]] || exit "$code"
    if [[ $code -eq 75 ]]; then
        crashes=0
        echo "until_done: run $runs was interrupted and has saved; going on" >&2
    elif [[ $code -ge 128 && $crashes -lt $most ]]; then
        crashes=$((crashes + 1))
        echo "until_done: run $runs was killed (code $code), crash $crashes of at most $most in a row; going on in 2 s" >&2
        sleep 2
    else
        [[ $code -eq 0 ]] || echo "until_done: run $runs ended with code $code; not again" >&2
        exit "$code"
    fi
done
