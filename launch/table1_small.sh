#!/usr/bin/env bash
# The paper's comparison of networks (arXiv 2402.16788, Table 1) on small ones at initialisation: how far the spectra of the blocks
# of each network lie apart, in every metric, with errors.
#
#   launch/table1_small.sh [NETWORK...]      default: mlp vgg resnet vit gpt2 decoder bert
#
# Work   configs/table1: every matrix of each network but the norms', 2 probes of 40 steps; some minutes a network on 2 cores
# Data   Fashion-MNIST for those that see images, pairs of Shakespeare's lines for BERT, his characters for the others
# Ends in a table on stdout (results/table1_small.md is one) and the runs in results/table1_small.
#
# HESSPEC names the program (default: hesspec on the PATH, else target/debug or target/release of this repository).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

HESSPEC=$(find_hesspec)
url=results/table1_small
{ launch/prepare_fashion_mnist.sh && launch/prepare_shakespeare_pairs.sh; } >&2
[[ $# -gt 0 ]] || set -- mlp vgg resnet vit gpt2 decoder bert
for network in "$@"; do
    "$HESSPEC" run "configs/table1/table1_$network.toml" --output "$url" >&2
done
need_venv duckdb
"$python" - "$url" "$@" <<'END'
import sys
import duckdb
url, networks = sys.argv[1], sys.argv[2:]
print("| network | blocks | wasserstein1_energy, decades | its shape alone | js | symkl_paper | pairs told apart by energy | largest / smallest lambda_max |")
print("|---|---|---|---|---|---|---|---|")
for network in networks:
    run = f"run=table1_{network}"
    pairs = f"read_parquet('{url}/divergence/{run}/*.parquet')"
    summary = f"read_parquet('{url}/summary/{run}/*.parquet')"

    def mean(metric, which="block_a <> block_b"):
        value, error = duckdb.sql(
            f"SELECT avg(value), avg(error) FROM {pairs} WHERE metric = '{metric}' AND {which} AND value IS NOT NULL"
        ).fetchall()[0]
        return f"{value:.3g}" + (f" ± {error:.2g}" if error is not None else "")

    apart, all_pairs = duckdb.sql(f"""
        SELECT count(*) FILTER (status = 'ok'), count(*) FROM {pairs}
        WHERE metric = 'wasserstein1_energy' AND block_a <> block_b""").fetchall()[0]
    blocks, ratio = duckdb.sql(
        f"SELECT count(*), max(lambda_max) / min(lambda_max) FILTER (lambda_max > 0) FROM {summary}"
    ).fetchall()[0]
    columns = [mean("wasserstein1_energy"), mean("wasserstein1_energy_shape"), mean("js"), mean("symkl_paper", "true")]
    print(f"| {network} | {blocks} | {' | '.join(columns)} | {apart} of {all_pairs} | {ratio:.3g} |")
END
