#!/usr/bin/env bash
# `hesspec data prepare` on a made corpus of MB megabytes (default 1000): memory, tokens/s, tiktoken's tokens, kills.
#   HESSPEC  the program (default: target/debug/hesspec)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source launch/tools.sh
need python3 python3
need_venv numpy pyarrow tiktoken
export HESSPEC=${HESSPEC:-$PWD/target/debug/hesspec}
mb=${MB:-1000}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

launch/prepare_shakespeare.sh >/dev/null
text=data/shakespeare/input.txt
"$python" tests/corpus/make.py --text "$text" --dir "$scratch/large" --mb "$mb"
"$python" tests/corpus/make.py --text "$text" --dir "$scratch/small" --mb $((mb / 8)) --seed 2
# GPT-2's vocabulary comes with the crate; tiktoken itself would download it
manifest=$(cargo metadata --locked --format-version 1 | "$python" -c '
import json, sys
print(next(p["manifest_path"] for p in json.load(sys.stdin)["packages"] if p["name"] == "tiktoken-rs"))')
"$python" tests/corpus/check.py --corpus "$scratch/large" --small "$scratch/small" --hesspec "$HESSPEC" \
    --vocabulary "$(dirname "$manifest")/assets/r50k_base.tiktoken"
