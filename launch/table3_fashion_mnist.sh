#!/usr/bin/env bash
# Rows of the paper's Table 3 on Fashion-MNIST: how far the blocks of a perceptron lie apart when every layer's output is multiplied
# by c. JS0 is the mean over all pairs of weight matrices at initialisation, in each metric; for symkl_paper over pairs i <= j.
#
#   launch/table3_fashion_mnist.sh [C...]      default: 1 2 4 8
#
# Work   for each c 4 blocks x 4 probes x 30 steps over 1,024 images (configs/mlp_fashion_mnist.toml); half a minute on 2 cores.
# Ends in a table on stdout (results/table3_fashion_mnist.md is one) and the runs in results/table3_fashion_mnist.
#
# HESSPEC names the program (default: hesspec on the PATH, else target/debug or target/release of this repository).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

HESSPEC=$(find_hesspec)
url=results/table3_fashion_mnist
launch/prepare_fashion_mnist.sh >&2
[[ $# -gt 0 ]] || set -- 1 2 4 8
for c in "$@"; do
    "$HESSPEC" run configs/mlp_fashion_mnist.toml --output "$url" --set run.name="c-$c" --set model.mlp.scale="$c" \
        --set 'blocks.include=["*.weight"]' --set blocks.full=false >&2
done
need_venv duckdb
"$python" - "$url" "$@" <<'END'
import sys
import duckdb
url, scales = sys.argv[1], sys.argv[2:]
ask = lambda text: duckdb.sql(text).fetchall()[0][0]
print("| c | js | wasserstein1 | symkl_paper | largest / smallest lambda_max of two blocks |")
print("|---|---|---|---|---|")
for c in scales:
    pairs = f"read_parquet('{url}/divergence/run=c-{c}/*.parquet')"
    mean = lambda metric, pairs_of: ask(f"SELECT avg(value) FROM {pairs} WHERE metric = '{metric}' AND {pairs_of}")
    ratio = ask(f"SELECT max(lambda_max) / min(lambda_max) FROM read_parquet('{url}/summary/run=c-{c}/*.parquet')")
    js, w1 = (mean(metric, "block_a <> block_b") for metric in ("js", "wasserstein1"))
    print(f"| {c} | {js:.3f} | {w1:.3g} | {mean('symkl_paper', 'true'):.3g} | {ratio:.3g} |")
END
