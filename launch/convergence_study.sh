#!/usr/bin/env bash
# The study behind results/convergence_small.md: how many tokens are enough, and whether the bootstrap over segments says so.
#
# Work   configs/gpt2_convergence_small.toml, then its four smallest batches again for 8 other permutations of the windows, as
#        independent samples. Interrupted, the same command goes on.
# Time   below half an hour on 2 cores.
# Ends in results/convergence_small/report/index.html, and the tables of results/convergence_small.md on stdout.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/gpt2_convergence_small.toml url=results/convergence_small
export HESSPEC=${HESSPEC:-$PWD/target/debug/hesspec}
[[ -x $HESSPEC ]] || fail "there is no $HESSPEC; run cargo build first, or set HESSPEC"

launch/prepare_shakespeare.sh >&2
"$HESSPEC" run "$config" >&2
for seed in {1..8}; do
    "$HESSPEC" run "$config" --set run.name="seed-$seed" --set batch.seed="$seed" --set convergence.to=2048 >&2
done
"$HESSPEC" report "$url" --run gpt2_convergence_small >&2
need_venv numpy pyarrow
"$python" benches/convergence.py "$url" gpt2_convergence_small
