#!/usr/bin/env bash
# Every check that a change has to pass, about 50 minutes on 2 cores from nothing; .ci/run calls it.
#
#   format, lints, cargo test                            Rust alone
#   tests/python/reference_jax.py                        products and Lanczos against dense Hessians in JAX, f64 and f32
#   tests/python/read_tables.py                          a real run's tables in DuckDB, Polars and pandas
#   tests/own_network/run.sh                             a crate of one's own around the library, with every command
#   tests/mpi/run.sh, tests/kills/run.sh                 under a real mpirun: collectives, and three kills of a run.
#                                                        Installs Open MPI (root on Debian); left out where it cannot
#   cargo clippy --features cuda,nccl,mpi                type check and lints only: nothing of it runs here. With CI=true
#                                                        or HESSPEC_CHECK_CUDA=1; about 6 minutes the first time
#
# Python packages go into a virtual environment outside of the tree (HESSPEC_VENV).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

need cc build-essential
need python3 python3
need_rust
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say "format"
cargo fmt --check

say "cargo test"
cargo test --locked

say "lints"
cargo clippy --locked --all-targets -- -D warnings
cargo clippy --locked --no-default-features --features flex -- -D warnings # the library without a program

say "Python packages"
need_venv numpy safetensors jax duckdb polars pandas pyarrow
hesspec=$PWD/target/debug/hesspec

say "products and Lanczos against JAX"
cases=(c2_2 full_erf_tied full_tanh_untied_no_bias llama qwen3 olmo2 vit mlp_3) # launch/test_full.sh has all
"$python" tests/python/reference_jax.py all --dir "$scratch/jax" --hesspec "$hesspec" --cases "${cases[@]}"

say "tables in DuckDB, Polars and pandas"
"$python" - "$scratch/train.bin" <<'END'
import sys
import numpy
numpy.random.default_rng(1).integers(0, 84, 4096).astype("<u2").tofile(sys.argv[1])
END
"$hesspec" run configs/smoke.toml --output "$scratch/results" --set data.tokens.path="$scratch/train.bin"
"$python" tests/python/read_tables.py "$scratch/results"

gpu=cuda,nccl
if need_mpi; then
    gpu+=,mpi,tokenizers
    say "ranks under mpirun"
    cargo build --locked --features mpi --example cluster_conformance --bin hesspec
    EXAMPLE=$PWD/target/debug/examples/cluster_conformance HESSPEC=$hesspec tests/mpi/run.sh
    say "three kills"
    PYTHON=$python HESSPEC=$hesspec tests/kills/run.sh 3 20240217 coordinator term full
else
    say "ranks under mpirun: left out, there is no MPI here and it cannot be installed"
fi

say "a network of one's own"
PYTHON=$python tests/own_network/run.sh

if [[ ${HESSPEC_CHECK_CUDA:-${CI:+1}} == 1 ]]; then
    say "type check of the GPU build (nothing of it is executed)"
    cargo clippy --locked --features "$gpu" -- -D warnings
else
    say "type check of the GPU build: left out (HESSPEC_CHECK_CUDA=1 does it)"
fi

say "all checks passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
