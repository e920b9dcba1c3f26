#!/usr/bin/env bash
# From a bare machine to the spectra of a transformer on Shakespeare: tools, build, tokens, run, report.
#
# Network   GPT2-nano at initialisation: 6 layers, 384 wide, 10.8 million parameters; 512 tokens.
# Work      576 products with blocks of the first and last layer, 48 with the whole network (configs/quickstart.toml).
# Time      about 15 minutes on 2 cores, nearly all of it the first build; the run itself takes 3. What is done is not done again.
# Needs     rustup's cargo; the rest (C compiler, Python with pip) is installed here on Debian and Ubuntu.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

config=configs/quickstart.toml
results=results/quickstart
export HESSPEC=$PWD/target/debug/hesspec

need cc build-essential
need python3 python3
python3 -m pip --version >/dev/null 2>&1 || install_packages python3-pip
need_rust

say "building (the first time takes minutes; tests share it)"
cargo build

say "Shakespeare as character tokens"
launch/prepare_shakespeare.sh

say "what the run is going to do"
"$HESSPEC" plan "$config" | sed '/^$/,$d'

say "the run; interrupt it when you like, the same command continues"
"$HESSPEC" run "$config"

say "figures"
"$HESSPEC" report "$results"

cat <<END

Done in $((SECONDS / 60)) min $((SECONDS % 60)) s. Look at
    $results/report/index.html      all figures on one page: densities by block, the whole network, distances
    $results/report/figures/        the same as SVG and PNG
    $results/*/run=quickstart/      the tables, as Parquet (docs/tables.md shows how to read them)
Next: configs/gpt2_nano_shakespeare.toml is the paper's setting in full; examples/own_model.rs is for a model of your own.
END
