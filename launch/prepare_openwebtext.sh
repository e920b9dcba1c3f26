#!/usr/bin/env bash
# OpenWebText as GPT-2 tokens in shards: data/openwebtext/{train_000000.bin,...,meta.json}; 9.0e9 tokens, 18 GB.
#
#   launch/prepare_openwebtext.sh 'FOLDER/*.parquet'      files that are here: Parquet, .jsonl, .jsonl.zst, .tar, ...
#   launch/prepare_openwebtext.sh BASE_URL/ [NUMBER]      files train-00000-of-000NN.parquet, ... below a URL, NN = NUMBER (80)
#   launch/prepare_openwebtext.sh 's3://bucket/owt/*.parquet'
#
# Source   any copy of OpenWebText as Parquet with a column `text`, a document a row: 8,013,769 documents, 38 GB of text. The
#          public one on the Hugging Face hub is the data set Skylion007/openwebtext, folder plain_text, 80 files; its
#          BASE_URL is that of the folder under `resolve/main/`. https:// wants a build with --features http, s3:// with s3.
# Time     about 1 to 3 hours on 8 cores; memory a few hundred MB. Killed and started again, it goes on after the last
#          whole shard of 1e8 tokens. On disk: 18 GB here; over a URL nothing else.
# Use      [data.tokens] path = "data/openwebtext/train_*.bin"
#
# OUT      another folder (default data/openwebtext)
# HESSPEC  the program (default: hesspec on the PATH, else target/debug or target/release of this repository)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/launch/tools.sh"
[[ $# -gt 0 ]] || { usage; exit 2; }
out=${OUT:-$root/data/openwebtext}

inputs=("$@")
if [[ $1 == *://*/ ]]; then
    number=${2:-80}
    [[ $# -le 2 && $number =~ ^[1-9][0-9]*$ ]] || fail "expected BASE_URL/ and a number of files, found: $*"
    inputs=()
    for ((file = 0; file < number; file++)); do
        inputs+=("$(printf '%strain-%05d-of-%05d.parquet' "$1" "$file" "$number")")
    done
fi
HESSPEC=$(cd "$root" && find_hesspec)
exec "$HESSPEC" data prepare --tokenizer gpt2 --shard-tokens 100000000 --output "$out" "${inputs[@]}"
