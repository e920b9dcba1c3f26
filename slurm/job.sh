# Sourced by the jobs beside it: runs hesspec on all ranks of the allocation, and puts the job back into the queue when it
# was stopped. Nothing here depends on the number of nodes or on the site (that is env.sh).

say() { printf '%s job %s, start %s: %s\n' "$(date -u +%FT%TZ)" "$SLURM_JOB_ID" "${SLURM_RESTART_COUNT:-0}" "$*"; }

# run_hesspec ARGUMENTS...: ends the script with hesspec's exit code, or requeues the job if hesspec was interrupted.
#
# Slurm sends USR1 to this script (--signal=B:USR1@SECONDS) ahead of the time limit; srun passes it on to all ranks, which
# save at the end of their segment and leave with 75. `wait` returns for the signal as well, hence the loop.
run_hesspec() {
    local code=0 stopped=no
    export HESSPEC_NOTICE=${HESSPEC_NOTICE:-$(notice "$0")}
    # Slurm 22.05 and later do not hand a job's --cpus-per-task on to its steps
    local cpus=${SLURM_CPUS_PER_TASK:+--cpus-per-task=$SLURM_CPUS_PER_TASK}
    say "$SLURM_NTASKS ranks of $RAYON_NUM_THREADS threads on $SLURM_JOB_NUM_NODES nodes ($SLURM_JOB_NODELIST): hesspec $*"
    local step=
    trap 'stopped=yes; say "signal, passed on to the ranks"; [[ -z $step ]] || kill -USR1 "$step" 2>/dev/null || true' USR1 TERM
    # shellcheck disable=SC2086  # several options, or none
    srun $HESSPEC_SRUN $cpus --kill-on-bad-exit=1 "$HESSPEC" "$@" &
    step=$!
    [[ $stopped == no ]] || kill -USR1 "$step" # it came in between
    while true; do
        code=0
        wait "$step" || code=$?
        kill -0 "$step" 2>/dev/null || break
    done
    local last=0
    wait "$step" 2>/dev/null || last=$?
    [[ $last -eq 127 ]] || code=$last
    say "hesspec ended with code $code"
    # the first rank that leaves may cost a slower one its own 75 (--kill-on-bad-exit): it has saved all the same
    [[ $code -eq 75 || ($stopped == yes && $code -ge 128) ]] || exit "$code"
    requeue "$code"
}

# notice SCRIPT: seconds between the signal and the time limit, as the script asks for them. The ranks warn where a segment takes
# longer. `sbatch --signal=B:USR1@600` overrides what the script says, so say HESSPEC_NOTICE=600 as well.
notice() { sed -n 's/^#SBATCH --signal=.*@\([0-9]*\).*/\1/p' "$1" | tail -n 1; }

# Not a job that is being cancelled, and not for ever.
requeue() {
    local state
    state=$(squeue --noheader --jobs "$SLURM_JOB_ID" --format %T)
    if [[ $state != RUNNING ]]; then
        say "interrupted while $state: not requeued; submit it again to go on"
    elif [[ ${SLURM_RESTART_COUNT:-0} -ge $HESSPEC_RESTARTS ]]; then
        say "interrupted after $HESSPEC_RESTARTS restarts: not requeued; submit it again to go on"
    else
        say "interrupted and saved: back into the queue"
        scontrol requeue "$SLURM_JOB_ID" && sleep 60 # Slurm ends this script meanwhile
    fi
    exit "$1"
}

# The array task's line of a file, one checkpoint a line; nothing outside of an array.
array_line() {
    [[ -n ${SLURM_ARRAY_TASK_ID:-} ]] || return 0
    local line
    line=$(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" "$1")
    [[ -n $line ]] || { say "array task $SLURM_ARRAY_TASK_ID, but $1 has $(grep -c '' "$1") lines; the first task is 0" >&2; exit 2; }
    echo "$line"
}
