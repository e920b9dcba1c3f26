#!/usr/bin/env python3
"""`hesspec data prepare --tokenizer tokenizer.json` against Hugging Face's own tokenizers.

    tokenizers_check.py --dir D --hesspec PATH

Tokenizers are trained here on made-up text: byte-level BPE as GPT-2's, BPE on words behind a mark as Llama's (a document must not be cut),
WordPiece as BERT's, and one of words with more than 65,536 tokens (uint32). The tokens must be those of the tokenizer for each document,
with its separator between two. `hesspec data pairs` must make of dialogues what the tokenizer gives for two lines, cut to the context. hesspec is a build with the feature `tokenizers`. Needs tokenizers, numpy.
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

checks = failures = 0


def check(name, holds, detail=""):
    global checks, failures
    checks += 1
    failures += not holds
    print(f"{'ok   ' if holds else 'FAIL '} {name}{'' if holds else ': ' + str(detail)}", flush=True)


def documents():
    draw = random.Random(3)
    syllables = ["he", "ss", "ian", "spec", "tra", "of", "la", "y", "ers", "ü", "日本", " ", "  ", "\n", "12", ", ", ". "]
    texts = ["".join(draw.choice(syllables) for _ in range(draw.randrange(1, 4000))) for _ in range(60)]
    return texts + ["text with </s> and <|endoftext|> and [SEP] in it", " leading", "x" * 200_000]


def tokenizers(texts):
    byte_level = Tokenizer(models.BPE())
    byte_level.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    byte_level.decoder = decoders.ByteLevel()
    byte_level.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=700, special_tokens=["<|endoftext|>"]))
    marked = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    marked.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    marked.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"]))
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[CLS]", "[SEP]"]))
    words = {"<|endoftext|>": 0, "[UNK]": 1, **{f"w{n}": n + 2 for n in range(70_000)}}
    large = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    large.pre_tokenizer = pre_tokenizers.Whitespace()
    large.add_special_tokens(["<|endoftext|>"])
    return [("byte-level", byte_level, "<|endoftext|>"), ("marked", marked, "</s>"), ("pieces", pieces, "[SEP]"), ("large", large, "<|endoftext|>")]


def pairs(folder, program, texts):
    """Cornell's two files, in Latin-1, with WordPiece as BERT has it."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    pieces.normalizer, pieces.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    pieces.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=300, special_tokens=special))
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    pieces.save(str(folder / "pieces-pairs.json"))
    said = [" ".join(text.encode("latin-1", "ignore").decode("latin-1")[:300].split()) for text in texts]
    said = [text or "nothing" for text in said]
    between = " +++$+++ "
    write = lambda name, lines: (folder / name).write_bytes("".join(between.join(line) + "\n" for line in lines).encode("latin-1"))
    write("lines.txt", [(f"L{at}", "u0", "m0", "NAME", text) for at, text in enumerate(said)])
    write("talk.txt", [("u0", "u1", "m0", str([f"L{at}" for at in range(start, start + 3)])) for start in range(0, len(said) - 2, 3)])
    out = folder / "pairs.jsonl"
    arguments = ["--tokenizer", "pieces-pairs.json", "--context", "24", "--output", "pairs.jsonl", "lines.txt", "talk.txt"]
    done = subprocess.run([program, "data", "pairs", *arguments, "--force", "--json"], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        return check("pairs", False, done.stderr)
    made, lines = json.loads(done.stdout), [json.loads(line) for line in out.read_text().splitlines()]
    pieces.enable_truncation(24)
    pieces.encode_special_tokens = True

    def encoded(first, second):
        found = pieces.encode(said[first], said[second])
        return dict(input_ids=found.ids, token_type_ids=found.type_ids)

    following = [(at, at + 1) for start in range(0, len(said) - 2, 3) for at in (start, start + 1)]
    others = 0
    for (first, second), line in zip(following, lines, strict=True):
        label = line.pop("next_sentence_label")
        others += label
        candidates = range(len(said)) if label else [second]
        if line not in [encoded(first, candidate) for candidate in candidates]:
            return check(f"pairs: {first} and {second}", False, line)
    share = abs(others - len(lines) / 2) < 5 * (len(lines) / 4) ** 0.5
    check(f"pairs: {len(lines)}, {others} of which do not follow", share and made["pairs"] == len(lines))
    check("pairs: special tokens", made["mask"] == 4 and made["never"] == [0, 1, 2, 3])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", type=pathlib.Path, required=True)
    parser.add_argument("--hesspec", required=True)
    options = parser.parse_args()
    options.dir.mkdir(parents=True, exist_ok=True)
    program = str(pathlib.Path(options.hesspec).resolve())
    texts = documents()
    many = [" ".join(f"w{n * 31 % 70_000}" for n in range(3000))]
    for name, tokenizer, separator in tokenizers(texts):
        those = texts if name != "large" else many * 2
        path, out = options.dir / f"{name}.json", options.dir / name
        tokenizer.save(str(path))
        lines = options.dir / f"{name}.jsonl"
        lines.write_text("".join(json.dumps({"text": text}) + "\n" for text in those))
        done = subprocess.run([program, "data", "prepare", "--tokenizer", path, "--output", out, lines], capture_output=True, text=True)
        if done.returncode:
            check(name, False, done.stderr)
            continue
        meta = json.loads((out / "meta.json").read_text())
        tokenizer.encode_special_tokens = True
        expected = []
        for text in those:
            expected += [tokenizer.token_to_id(separator)] * bool(expected) + tokenizer.encode(text, add_special_tokens=False).ids
        width = {"uint16": "<u2", "uint32": "<u4"}[meta["dtype"]]
        found = np.fromfile(out / "train.bin", width)
        same = len(found) == len(expected) and (found == expected).all()
        check(f"{name}: {len(found)} tokens, {meta['dtype']}, separator {meta['separator']}", same and meta["separator"] == separator)
        check(f"{name}: vocabulary {meta['vocabulary_size']}", meta["vocabulary_size"] > max(expected) and (name == "large") == (width == "<u4"))
    pairs(options.dir, program, texts)
    print(f"{checks} checks, {failures} failed")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main())
