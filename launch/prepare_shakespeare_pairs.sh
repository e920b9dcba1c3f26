#!/usr/bin/env bash
# Pairs of lines of Shakespeare's, for BERT: data/shakespeare/pairs.jsonl.gz, with its vocabulary in pairs_vocabulary.txt.
#
# 8,192 pairs. Each begins with a line of the text, spread evenly over it; every other one goes on with the next line
# (next_sentence_label 0), the rest with the line half the text further on (1). Tokens are lower-case words and single marks, the 1,995
# commonest of the whole text; 0 to 4 are [PAD], [CLS], [SEP], [MASK] and [UNK]. No pair has more than 32. Takes seconds. What is already
# there is not made again.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/tools.sh"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
folder=data/shakespeare

launch/prepare_shakespeare.sh
if [[ -s $folder/pairs.jsonl.gz && ! $folder/input.txt -nt $folder/pairs.jsonl.gz ]]; then
    echo "$folder/pairs.jsonl.gz is ready"
    exit
fi
command -v python3 >/dev/null || fail "python3 is needed to cut $folder/input.txt into pairs"
python3 - "$folder" <<'END'
import collections
import gzip
import json
import os
import re
import sys

folder = sys.argv[1]
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]
PAIRS, VOCABULARY, CONTEXT = 8192, 2000, 32

with open(f"{folder}/input.txt", encoding="utf-8") as file:
    lines = [re.findall(r"[a-z]+|[^\sa-z]", line.lower()) for line in file]
lines = [words for words in lines if len(words) >= 4]
count = collections.Counter(word for words in lines for word in words)
words = sorted(count, key=lambda word: (-count[word], word))[: VOCABULARY - len(SPECIAL)]
ids = {word: at for at, word in enumerate(SPECIAL + words)}

def tokens(words):
    return [ids.get(word, ids["[UNK]"]) for word in words[: (CONTEXT - 3) // 2]] + [ids["[SEP]"]]

part = f"{folder}/pairs.jsonl.gz.part"
with open(part, "wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
    for pair in range(PAIRS):
        at = pair * len(lines) // PAIRS
        further = 1 if pair % 2 == 0 else len(lines) // 2
        first, second = [ids["[CLS]"]] + tokens(lines[at]), tokens(lines[(at + further) % len(lines)])
        types = [0] * len(first) + [1] * len(second)
        line = dict(input_ids=first + second, token_type_ids=types, next_sentence_label=pair % 2)
        file.write(json.dumps(line).encode() + b"\n")
with open(f"{folder}/pairs_vocabulary.txt", "w", encoding="utf-8") as file:
    file.writelines(f"{word}\n" for word in ids)
os.replace(part, f"{folder}/pairs.jsonl.gz")
print(f"{folder}/pairs.jsonl.gz: {PAIRS} pairs")
END
