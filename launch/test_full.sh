#!/usr/bin/env bash
# The long checks, before an issue is called resolved: launch/test.sh, then what takes too long for every change.
#
#   JAX                         dense Hessians of all networks of tests/python/reference_jax.py
#   quadratic                   optimizers' paths and the statistics of Cases 3 and 4 (tests/python/reference_quadratic.py)
#   the reference backend       cargo test with the feature ndarray
#   many kills                  a run killed sixty times ends with the same bits
#   many kills of ranks         twenty kills of a run under mpirun, of all kinds (tests/kills/run.sh)
#   Slurm                       a real one of two nodes on this machine: worlds agree, time limit and requeue (root)
#   the quickstart's spectrum   by one process, mpirun -np 2 and -np 4, and srun on two nodes (HESSPEC_FULL_WORLDS=0
#                               leaves it out)
#   memory                      the plan's memory model against real runs
#   wgpu                        the engine on software Vulkan, fused and unfused, its own target folder; about 20 minutes to build
#                               (HESSPEC_FULL_WGPU=0 leaves it out)
#   object storage              a real S3 server on loopback, also through a proxy that fails and hangs
#   weights                     real checkpoints of transformers, torchvision and PyTorch: loss, and H v of GPT-2 with 124 M parameters.
#                               Installs torch (6 GB) in an environment of its own, HESSPEC_TORCH_VENV
#   training                    100 steps of every optimizer, after each of which the parameters are PyTorch's
#   corpus                      1 GB of text to GPT-2 tokens: memory, tokens/s, tiktoken's tokens, kills
#   tokenizers                  a tokenizer.json: tokens of byte-level BPE, marked BPE, WordPiece and 70,000 words (feature tokenizers)
#   quickstart                  from a fresh clone of this tree's HEAD, timed, with its own target folder
#
# HESSPEC_FULL_QUICKSTART=0 leaves the last one out. About 90 minutes on 2 cores.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

HESSPEC_CHECK_CUDA=1 launch/test.sh

say "products and Lanczos against JAX, all networks"
need_venv numpy safetensors jax pyarrow
cargo build --locked
(
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$python" tests/python/reference_jax.py all --dir "$scratch" --hesspec target/debug/hesspec
)

say "optimizers on quadratic problems against NumPy"
(
    need_venv numpy pyarrow
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$python" tests/python/reference_quadratic.py --dir "$scratch" --hesspec target/debug/hesspec
)

say "the reference backend"
cargo test --locked --features ndarray

say "many kills"
cargo test --locked --test cli -- --ignored

if need_mpi; then
    say "twenty kills under mpirun"
    need_venv numpy pyarrow
    cargo build --locked --features mpi
    export PYTHON=$python HESSPEC=$PWD/target/debug/hesspec
    tests/kills/run.sh 20 1
    say "Slurm"
    tests/slurm/run.sh
    if [[ ${HESSPEC_FULL_WORLDS:-1} == 1 ]]; then
        say "the quickstart's spectrum in all worlds"
        launch/prepare_shakespeare.sh
        # one segment of two micro-batches, so that two ranks have something to share
        WORLDS_ONLY=1 LIMIT=1800 OTHER_MICRO_BATCH=2 tests/slurm/run.sh configs/quickstart.toml \
            --set batch.segments=1 --set batch.micro_batch=1
    fi
    unset PYTHON HESSPEC
fi
say "memory"
cargo build --locked
tests/memory/check.py --hesspec target/debug/hesspec
if [[ ${HESSPEC_FULL_WGPU:-1} == 1 ]]; then
    say "wgpu on software Vulkan"
    tests/gpu/run.sh wgpu
fi
say "object storage"
cargo check --locked --features s3,gs,az,http
need_venv duckdb polars pandas pyarrow 'moto[server]'
tests/storage/run.sh

say "a corpus of a gigabyte"
cargo build --locked --bin hesspec
tests/corpus/run.sh

say "Hugging Face's tokenizers"
(
    need_venv numpy tokenizers
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    cargo test --locked --features tokenizers --lib data::prepare
    cargo build --locked --features tokenizers --bin hesspec
    "$python" tests/python/tokenizers_check.py --dir "$scratch" --hesspec target/debug/hesspec
)

say "weights against transformers and PyTorch"
(
    HESSPEC_VENV=${HESSPEC_TORCH_VENV:-${TMPDIR:-/tmp}/hesspec-torch-venv-$(id -u)}
    need_venv torch torchvision timm transformers safetensors numpy
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    "$python" tests/python/reference_torch.py --dir "$scratch" --hesspec target/debug/hesspec --large
    "$python" tests/python/reference_torch_training.py --dir "$scratch/training" --hesspec target/debug/hesspec
    "$python" tests/python/reference_torch_bert.py --dir "$scratch/bert" --hesspec target/debug/hesspec
    "$python" tests/python/reference_torch_images.py --dir "$scratch/images" --hesspec target/debug/hesspec --large
)

if [[ ${HESSPEC_FULL_QUICKSTART:-1} == 1 ]]; then
    say "quickstart from a fresh clone"
    need git git
    clone=$(mktemp -d)
    trap 'rm -rf "$clone"' EXIT
    git clone --quiet . "$clone/hesspec"
    (cd "$clone/hesspec" && env -u CARGO_TARGET_DIR launch/quickstart.sh)
    [[ -s $clone/hesspec/results/quickstart/report/index.html ]] || fail "the quickstart left no report"
fi

say "all long checks passed in $((SECONDS / 60)) min $((SECONDS % 60)) s"
