# Sourced by the scripts beside it, before they change the folder: answers --help with the script's head, finds what they need, and
# installs what Debian or Ubuntu packages can give.

say() { printf '\n== %s\n' "$*"; }
usage() { sed -n '2,/^[^#]/{/^#/p}' "$0" | cut -c3-; } # the script's own head
fail() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# A sourced file sees the arguments of the script.
case ${1:-} in -h | --help) usage; exit ;; esac

# The program, as an absolute path: HESSPEC, one on the PATH, or one that was built here.
find_hesspec() {
    local candidate
    if [[ -n ${HESSPEC:-} ]]; then
        [[ -x $HESSPEC ]] || fail "HESSPEC=$HESSPEC is no program"
        realpath "$HESSPEC"
        return
    fi
    for candidate in "$(command -v hesspec || true)" target/debug/hesspec target/release/hesspec; do
        if [[ -n $candidate && -x $candidate ]]; then realpath "$candidate"; return; fi
    done
    fail "there is no hesspec program; run cargo build first, or set HESSPEC=/path/to/hesspec"
}

# need PROGRAM PACKAGE...: the program is there, or comes with these packages.
need() {
    local program=$1
    shift
    command -v "$program" >/dev/null && return
    install_packages "$@"
    command -v "$program" >/dev/null || fail "$program is missing; install $*"
}

install_packages() {
    local root=()
    [[ $(id -u) -eq 0 ]] || root=(sudo)
    command -v apt-get >/dev/null || fail "install $* with your system's package manager and run this again"
    say "installing $*"
    "${root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${root[@]}" apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# An MPI to build and run with, installed here where that is allowed (Debian, root). Fails, quietly, where there is none.
need_mpi() {
    local libclang=(/usr/lib/llvm-*/lib/libclang*.so* /usr/lib/*/libclang*.so*)
    [[ -e ${libclang[0]} || -e ${libclang[1]:-} ]] && command -v mpirun >/dev/null && command -v mpicc >/dev/null && return
    [[ $(id -u) -eq 0 ]] && command -v apt-get >/dev/null || return 1
    install_packages openmpi-bin libopenmpi-dev clang libclang-dev
}

# Rust, at least as new as Cargo.toml says. Distributions are usually behind, so that this is not left to them.
need_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
    [[ -d $HOME/.cargo/bin ]] && PATH=$HOME/.cargo/bin:$PATH
    found=$(cargo --version 2>/dev/null | awk '{print $2}') || found=none
    if [[ $(printf '%s\n%s\n' "$wanted" "$found" | sort -V | head -n 1) == "$wanted" && $found != none ]]; then return; fi
    if command -v rustup >/dev/null; then
        say "cargo is ${found:-missing}, $wanted is needed: rustup update stable"
        rustup update stable --no-self-update
        rustup default stable
    else
        fail "cargo $wanted or newer is needed, found ${found:-none}. Install rustup (from the home page of Rust, or as the package rustup of a recent distribution) and run this again"
    fi
}

# A virtual environment outside of the tree with these Python packages: sets $python.
need_venv() {
    local folder=${HESSPEC_VENV:-${TMPDIR:-/tmp}/hesspec-venv-$(id -u)}
    python3 -c 'import ensurepip, venv' 2>/dev/null || install_packages python3-venv
    [[ -x $folder/bin/python ]] || python3 -m venv "$folder"
    python=$folder/bin/python
    "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

# run_and_pass_on COMMAND...: in a process group of its own, so that Ctrl-C reaches this script alone; returns the exit
# code. INT, TERM, HUP, USR1 and USR2 become USR1, hesspec's request to save and leave (mpirun and srun pass it on to the
# ranks); the second one is a TERM. Sets $stopped to yes or no.
run_and_pass_on() {
    local code=0
    stopped=no
    set -m
    "$@" </dev/null &
    child=$!
    set +m
    trap 'if [[ $stopped == no ]]; then stopped=yes; kill -USR1 "$child" 2>/dev/null; else kill -TERM "$child" 2>/dev/null; fi || true' INT TERM HUP USR1 USR2
    while true; do
        code=0
        wait "$child" || code=$?
        kill -0 "$child" 2>/dev/null || break # `wait` also returns for a signal to this script
    done
    # the child's own code, which the last `wait` may have missed
    wait "$child" 2>/dev/null && code=0 || { local last=$?; [[ $last -eq 127 ]] || code=$last; }
    trap - INT TERM HUP USR1 USR2
    return "$code"
}
