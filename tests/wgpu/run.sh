#!/usr/bin/env bash
# The wgpu backend, fused and unfused, on whatever Vulkan device there is; Mesa's software one is installed where there is none
# (root on Debian). Its own target folder (WGPU_TARGET, default target/wgpu), which is kept: the first build takes 20 minutes.
#
#   doctor       H v of a small GPT on the device against plain f64, fused and unfused
#   engine       every operation that the device has, forward mode and second order, and each kernel of src/engine/kernels/cube
#                by itself, against f64 (tests/engine_wgpu.rs)
#   lanczos      a run of configs/smoke.toml's blocks: alpha and beta against flex within 2e-4 of max |alpha| over 4 steps
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/tools.sh

ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json >/dev/null 2>&1 || install_packages mesa-vulkan-drivers libvulkan1
target=${WGPU_TARGET:-target/wgpu}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

say "building with wgpu"
cargo build --locked --features wgpu --target-dir "$target"
hesspec=$target/debug/hesspec

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
    "$hesspec" doctor configs/smoke.toml --set data.tokens.path="$scratch/train.bin" --set hessian.backend=wgpu \
        --set hessian.fusion=$fusion
done

say "runs"
run flex flex true
run fused wgpu true
run unfused wgpu false
need_venv pyarrow
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
cargo test --locked --features wgpu --target-dir "$target" --test engine_wgpu
