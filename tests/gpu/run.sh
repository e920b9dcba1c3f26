#!/usr/bin/env bash
# A backend for GPUs, fused and unfused, on this machine's device:
#
#   tests/gpu/run.sh cuda     an NVIDIA device (driver of CUDA 12.5 or newer, the toolkit's headers, NVRTC and cuBLAS), and NCCL
#   tests/gpu/run.sh wgpu     a Vulkan device; Mesa's software one is installed where there is none (root on Debian)
#
#   doctor       H v of a small GPT on the device against plain f64, fused and unfused
#   lanczos      a run of configs/smoke.toml's blocks: alpha and beta against flex within 2e-4 of max |alpha| over 4 steps
#   engine       every operation that the device has, forward mode and second order, and each kernel of src/engine/kernels/cube
#                by itself, against f64 (tests/engine_cuda.rs, tests/engine_wgpu.rs)
#   nccl         with cuda: the collectives' conformance suite, a rank for each device (needs libnccl.so; skipped without)
#
# Its own target folder (GPU_TARGET, default target/BACKEND), which is kept: the first build takes 20 minutes on two cores.
# BUILT=FOLDER takes hesspec, engine_cuda (or engine_wgpu) and lib, the library's tests, from there and builds nothing.
# PYTHON: an interpreter that has pyarrow, instead of a virtual environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/tools.sh

backend=${1:-}
case $backend in
cuda) features=cuda,nccl ;;
wgpu) features=wgpu ;;
*) usage; exit 2 ;;
esac
target=${GPU_TARGET:-target/$backend}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

if [[ $backend == wgpu ]]; then
    ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json >/dev/null 2>&1 || install_packages mesa-vulkan-drivers libvulkan1
fi
if [[ -n ${BUILT:-} ]]; then
    hesspec=$BUILT/hesspec
else
    say "building with $features"
    cargo build --locked --features "$features" --target-dir "$target"
    hesspec=$target/debug/hesspec
fi
tests() { # the test program `engine_BACKEND` or `lib`, ARGUMENTS...
    local program=$1
    shift
    if [[ -n ${BUILT:-} ]]; then
        "$BUILT/$program" "$@"
    elif [[ $program == lib ]]; then
        cargo test --locked --features "$features" --target-dir "$target" --lib -- "$@"
    else
        cargo test --locked --features "$features" --target-dir "$target" --test "$program" -- "$@"
    fi
}

python3 - "$scratch/train.bin" <<'END'
import random, sys
draw = random.Random(1)
open(sys.argv[1], "wb").write(b"".join(draw.randrange(84).to_bytes(2, "little") for _ in range(4096)))
END
run() { # NAME BACKEND FUSION
    "$hesspec" run configs/smoke.toml --output "$scratch/$1" --set data.tokens.path="$scratch/train.bin" \
        --set hessian.backend="$2" --set hessian.fusion="$3" --set lanczos.steps=4 --set lanczos.probes=1 \
        --set lanczos.full_probes=1 --set 'distance.metrics=["wasserstein1"]'
}

for fusion in true false; do
    say "doctor, fusion = $fusion"
    "$hesspec" doctor configs/smoke.toml --set data.tokens.path="$scratch/train.bin" --set hessian.backend="$backend" \
        --set hessian.fusion=$fusion
done

say "runs"
run flex flex true
run fused "$backend" true
run unfused "$backend" false
if [[ -n ${PYTHON:-} ]]; then python=$PYTHON; else need_venv pyarrow; fi
"$python" - "$scratch" <<'END'
import sys
import pyarrow.dataset as dataset

def rows(name):
    table = dataset.dataset(f"{sys.argv[1]}/{name}/tridiagonal", format="parquet").to_table().to_pylist()
    return {(row["block"], row["probe"], row["step"]): (row["alpha"], row["beta"]) for row in table}

flex = rows("flex")
scale = {}
for (block, _, _), (alpha, _) in flex.items():
    scale[block] = max(scale.get(block, 0), abs(alpha))
for name in ("fused", "unfused"):
    found = rows(name)
    assert set(found) == set(flex), f"{name}: other rows"
    worst = max(max(abs(a - b) for a, b in zip(found[key], flex[key])) / scale[key[0]] for key in flex)
    print(f"{name}: alpha and beta within {worst:.1e} of flex")
    assert worst <= 2e-4, name
END

say "the engine's operations"
tests "engine_$backend"

if [[ $backend == cuda ]]; then
    say "NCCL"
    tests lib --nocapture nccl
fi
