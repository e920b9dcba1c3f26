#!/usr/bin/env bash
# Real text as GPT-2 tokens without a download of gigabytes: data/openwebtext_sample/{train.bin,meta.json}.
#
# Shakespeare (launch/prepare_shakespeare.sh fetches it), 5.1 million characters, about 1.7 million tokens below 50257, for
# configs/gpt2_owt_smoke.toml. Takes seconds. What is already there is not made again.
#
# HESSPEC names the program (default: hesspec on the PATH, else target/debug or target/release of this repository).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=data/openwebtext_sample text=data/shakespeare/input.txt

HESSPEC=$(find_hesspec)
export HESSPEC
launch/prepare_shakespeare.sh
if [[ -s $folder/train.bin && -s $folder/meta.json && ! $text -nt $folder/train.bin ]]; then
    echo "$folder is ready"
else
    rm -f "$folder"/{train.bin,meta.json,progress.json} # of an older text
    "$HESSPEC" data prepare --tokenizer gpt2 --output "$folder" "$text"
fi
